"""Forks at any moment: a process that is traced may hang in one, when other threads are busy."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, as_completed, wait
from contextlib import contextmanager, suppress

import pytest

from calls import Flaky
from conftest import TIMEOUT
from forks import check_executor_works, check_orphaned, held, in_child
from retrying_executor import ForkedFutureError, RetryingExecutor, RetryingFuture, RetryPolicy

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows knows no fork")

FORKS = 100


@contextmanager
def load(
    executor: RetryingExecutor, futures: list[RetryingFuture[int]], meddled: list[RetryingFuture[int]]
) -> Iterator[None]:
    """Keep an executor under load from several threads.

    Args:
        executor: What to submit to.
        futures: Where to put the futures.
        meddled: Where to put those that somebody tries to cancel: that may cost them their retries.
    """
    stop = threading.Event()
    failures: list[BaseException] = []

    def submit() -> None:
        futures.append(executor.submit(Flaky(len(futures) % 3)))

    def cancel() -> None:
        submit()
        meddled.append(futures[-1])
        meddled[-1].cancel()

    def wait_for_one() -> None:
        assert wait(futures[-8:], TIMEOUT, return_when="FIRST_COMPLETED").done

    def wait_for_all() -> None:
        submit()
        assert list(as_completed(futures[-8:], TIMEOUT))

    def take_result() -> None:
        with suppress(CancelledError, ConnectionError):
            futures[-1].result(TIMEOUT)

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


def test_fork_at_any_moment(policy: RetryPolicy) -> None:
    """Many forks under load: the child works, nothing inherited hangs, the parent loses nothing (F6).

    Meanwhile other threads submit, cancel and wait in every way, so that a fork finds every lock held
    by somebody sooner or later.
    """
    futures: list[RetryingFuture[int]] = []
    meddled: list[RetryingFuture[int]] = []

    def check() -> None:
        check_orphaned(running)
        recent = futures[-100:]
        assert not wait(recent, TIMEOUT).not_done
        assert len(recent) == len(list(as_completed(recent, TIMEOUT)))
        for future in recent:
            with suppress(CancelledError, ConnectionError, ForkedFutureError):
                assert future.result(0) in (0, 1, 2)
        check_executor_works(executor)

    with RetryingExecutor(3, retry=policy, idle_timeout=0, max_pending=30, when_full="wait") as executor:
        with load(executor, futures, meddled):
            for _ in range(FORKS):
                with held(executor) as running:
                    in_child(check)
        assert executor.drain(TIMEOUT)
        stats = executor.stats()
    assert len(futures) + FORKS == stats.submitted == stats.succeeded + stats.failed + stats.cancelled
    assert {0, 1, 2} == {future.result(0) for future in {*futures} - {*meddled}}
    failed = [future for future in futures if not future.cancelled() and future.exception(0)]
    assert len(failed) == stats.failed
