"""Forks at any moment: a process that is traced may hang in one, when other threads are busy."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, as_completed, wait
from contextlib import contextmanager, suppress

import pytest

from calls import Flaky
from conftest import TIMEOUT
from forks import check_executor_works, check_orphaned, held, in_child
from retrying_executor import ForkedFutureError, RetryingExecutor, RetryingFuture, RetryPolicy

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows knows no fork")

needs_gil_to_fork = pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)() and sys.version_info < (3, 14),
    reason="without the GIL, Python 3.13 may leave any object locked in a child",
)

FORKS = 100

RECENT = 100
"""How many futures each child looks at."""


@contextmanager
def load(
    executor: RetryingExecutor, futures: list[RetryingFuture[int]], meddled: set[RetryingFuture[int]]
) -> Iterator[None]:
    """Keep an executor under load from several threads.

    Args:
        executor: What to submit to.
        futures: Where to put the futures, at the end; but for the latest ones they may be taken away.
        meddled: Where to put those that somebody tries to cancel, before: that may cost them their retries.
    """
    stop = threading.Event()
    failures: list[BaseException] = []

    def submit() -> None:
        futures.append(executor.submit(Flaky(len(futures) % 3)))

    def cancel() -> None:
        future = executor.submit(Flaky(len(futures) % 3))
        meddled.add(future)
        futures.append(future)
        future.cancel()

    def wait_for_one() -> None:
        assert wait(futures[-8:], TIMEOUT, return_when="FIRST_COMPLETED").done

    def wait_for_all() -> None:
        submit()
        assert list(as_completed(futures[-8:], TIMEOUT))

    def take_result() -> None:
        latest = futures[-1:]  # without the GIL, futures[-1] fails if the list gets shorter meanwhile
        with suppress(CancelledError, ConnectionError):
            latest[0].result(TIMEOUT)

    def repeat(step: Callable[[], None]) -> None:
        try:
            while not stop.is_set():
                step()
        except BaseException as exception:
            failures.append(exception)

    submit()
    steps = [submit, cancel, wait_for_one, wait_for_all, take_result]
    threads = [threading.Thread(target=repeat, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(TIMEOUT)
    assert [] == failures


@needs_gil_to_fork
def test_fork_at_any_moment(policy: RetryPolicy) -> None:
    """Many forks under load: the child works, nothing inherited hangs, the parent loses nothing (F6).

    Meanwhile other threads submit, cancel and wait in every way, so that a fork finds every lock held
    by somebody sooner or later.
    """
    futures: list[RetryingFuture[int]] = []
    meddled: set[RetryingFuture[int]] = set()
    results: set[int] = set()
    ends = Counter[str]()

    def check() -> None:
        check_orphaned(running)
        assert not wait(recent, TIMEOUT).not_done
        assert len(recent) == len(list(as_completed(recent, TIMEOUT)))
        for future in recent:
            with suppress(CancelledError, ConnectionError, ForkedFutureError):
                assert future.result(0) in (0, 1, 2)
        check_executor_works(executor)

    def settle(keep: int) -> None:
        """Look at all futures but the latest, and let go of them: each child sees to all that there are."""
        old = futures[: max(len(futures) - keep, 0)]
        del futures[: len(old)]
        for future in old:
            if future not in meddled:
                results.add(future.result(TIMEOUT))
            assert not wait([future], TIMEOUT).not_done
            ends["cancelled" if future.cancelled() else "failed" if future.exception(0) else "succeeded"] += 1
        meddled.difference_update(old)

    with RetryingExecutor(3, retry=policy, idle_timeout=0, max_pending=30, when_full="wait") as executor:
        with load(executor, futures, meddled):
            for _ in range(FORKS):
                with held(executor) as running:
                    # Not in the child, where without the GIL a list that others use may stay locked.
                    recent = futures[-RECENT:]
                    in_child(check)
                settle(RECENT)
        settle(0)
        assert executor.drain(TIMEOUT)
        stats = executor.stats()
    assert {0, 1, 2} == results
    ends["succeeded"] += FORKS
    assert ends == Counter(succeeded=stats.succeeded, failed=stats.failed, cancelled=stats.cancelled)
    assert ends.total() == stats.submitted
