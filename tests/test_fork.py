"""Forks: the child starts empty, what it inherited fails at once, and the parent is undisturbed.

Whatever is checked in a child is checked by `in_child`, which tells the parent what failed there,
and where a child hangs.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, as_completed, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from conftest import TIMEOUT
from observe import eventually
from retrying_executor import ForkedFutureError, RetryingExecutor, RetryingFuture, RetryPolicy

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows knows no fork")


def in_child(check: Callable[[], object], patience: float = TIMEOUT) -> None:
    """Fork, and assert that in the child *check* returns within *patience* seconds and raises nothing."""
    reader, writer = os.pipe()
    # Dumps the stacks of a child that hangs, in the hooks of the fork too, and then ends it.
    faulthandler.register(signal.SIGUSR1, writer, chain=True)
    child = os.fork()
    if child == 0:
        try:
            check()
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
        finally:
            os._exit(0)
    faulthandler.unregister(signal.SIGUSR1)
    os.close(writer)
    if not select.select([reader], [], [], patience)[0]:
        os.kill(child, signal.SIGUSR1)
    with open(reader, encoding="utf-8") as pipe:
        report = pipe.read()
    os.waitpid(child, 0)
    assert "" == report


@dataclass
class Flaky:
    """A call that fails *failures* times and then returns how often that was."""

    failures: int
    attempts: int = 0

    def __call__(self) -> int:
        """Make an attempt."""
        self.attempts += 1
        if self.attempts <= self.failures:
            raise ConnectionError("not yet")
        return self.failures


def hang() -> None:
    """Wait for what never happens."""
    threading.Event().wait()


def check_executor_works(executor: RetryingExecutor) -> None:
    """In a child: it is empty, and calls get through, retries included."""
    assert 0 == executor.stats().submitted
    futures = [executor.submit(Flaky(failures)) for failures in (0, 2, 1)]
    assert [0, 2, 1] == [future.result(TIMEOUT) for future in futures]
    assert 1 == executor.with_options(max_elapsed=60).submit(Flaky(1)).result(TIMEOUT)
    assert executor.drain(TIMEOUT)
    assert (4, 4, 4) == (executor.stats().submitted, executor.stats().succeeded, executor.stats().retried)


def check_orphaned(*futures: RetryingFuture[Any]) -> None:
    """In a child: the futures have failed, whoever asks and however."""
    for future in futures:
        assert future.done()
        assert not future.cancel()
        assert isinstance(future.exception(0), ForkedFutureError)
        with pytest.raises(ForkedFutureError, match="belongs to the process"):
            future.result(0)
    assert set(futures) == wait(futures, 0).done
    assert set(futures) == set(as_completed(futures, 0))


@contextmanager
def held(executor: RetryingExecutor) -> Iterator[RetryingFuture[bool]]:
    """Keep one worker busy with a call; it must get through once it is let go."""
    started, release = threading.Event(), threading.Event()

    def call() -> bool:
        started.set()
        return release.wait(TIMEOUT)

    future = executor.submit(call)
    assert started.wait(TIMEOUT)
    try:
        yield future
    finally:
        release.set()
    assert future.result(TIMEOUT)


@pytest.mark.parametrize(
    ("check", "patience", "report"), [(lambda: 1 / 0, TIMEOUT, "ZeroDivisionError"), (hang, 0.2, "in hang")]
)
def test_child_that_fails_or_hangs_is_reported(
    check: Callable[[], object], patience: float, report: str
) -> None:
    """What the tests below rely on: nothing that goes wrong in a child goes unnoticed (F6)."""
    with pytest.raises(AssertionError, match=report):
        in_child(check, patience)


def test_inherited_futures_fail_at_once(policy: RetryPolicy) -> None:
    """Running, ready or in backoff, observed or not: in the child the futures have failed (F6).

    Those that were done keep their outcome, and done callbacks are left to the parent.
    """
    told: list[object] = []
    with RetryingExecutor(2, retry=policy) as executor:
        succeeded, failed = executor.submit(Flaky(0)), executor.submit(Flaky(9))
        assert not wait([failed, succeeded], TIMEOUT).not_done
        with held(executor) as running, held(executor) as observed:
            observed.add_done_callback(told.append)
            ready = executor.submit(Flaky(1))
            cancelled = executor.submit(Flaky(2))
            assert cancelled.cancel()

            def check() -> None:
                check_orphaned(running, observed, ready)
                assert not told
                assert not wait([succeeded, failed, cancelled], 0).not_done
                assert 3 == len(list(as_completed([succeeded, failed, cancelled], 0)))
                assert 0 == succeeded.result(0)
                assert isinstance(failed.exception(0), ConnectionError)
                assert cancelled.cancelled()
                check_executor_works(executor)

            in_child(check)
        assert 1 == ready.result(TIMEOUT)
    assert [observed] == told


def test_call_in_backoff_stays_with_the_parent() -> None:
    """A call that waits for its next attempt fails in the child, which makes no attempt of it (F6)."""
    flaky = Flaky(1)
    with RetryingExecutor(1, retry=RetryPolicy(delays=(3600,), max_elapsed=None)) as executor:
        future = executor.submit(flaky)
        assert eventually(lambda: future.due_at is not None)

        def check() -> None:
            check_orphaned(future)
            assert future.due_at is None
            assert 0 == executor.stats().in_backoff
            executor.shutdown()
            assert 1 == flaky.attempts

        in_child(check)
        assert 1 == executor.stats().in_backoff
        assert future.cancel()


def from_call(executor: RetryingExecutor, fork: Callable[[], None]) -> None:
    """Fork in a call."""
    executor.submit(fork).result(TIMEOUT)


def from_done_callback(executor: RetryingExecutor, fork: Callable[[], None]) -> None:
    """Fork in a done callback, which a worker runs."""
    told = threading.Event()

    def callback(_: object) -> None:
        fork()
        told.set()

    with held(executor) as future:
        future.add_done_callback(callback)
    assert told.wait(TIMEOUT)


def from_policy(executor: RetryingExecutor, fork: Callable[[], None]) -> None:
    """Fork in a retry policy."""
    with pytest.raises(ConnectionError):
        executor.with_options(retry=lambda attempt: fork()).submit(Flaky(1)).result(TIMEOUT)


def from_child(_: RetryingExecutor, fork: Callable[[], None]) -> None:
    """Fork in a child."""
    in_child(fork)


@pytest.mark.parametrize("place", [from_call, from_done_callback, from_policy, from_child])
def test_fork_in_any_place(
    place: Callable[[RetryingExecutor, Callable[[], None]], None], executor: RetryingExecutor
) -> None:
    """Wherever somebody forks, the child's executor works, and the parent goes on (F6, F7)."""

    def fork() -> None:
        in_child(lambda: (check_orphaned(running), check_executor_works(executor), executor.shutdown()))

    with held(executor) as running:
        place(executor, fork)
    assert 2 == executor.submit(Flaky(2)).result(TIMEOUT)


def test_child_has_children_of_its_own(executor: RetryingExecutor) -> None:
    """What a child submitted is to its own child what the parent's calls are to it (F6)."""

    def check() -> None:
        with held(executor) as running:
            in_child(lambda: (check_orphaned(inherited, running), check_executor_works(executor)))

    with held(executor) as inherited:
        in_child(check)


def test_executor_that_was_shut_down_stays_so(policy: RetryPolicy) -> None:
    """In a child too, after shutdown submit() is refused, and there is nothing to wait for (F4, F6)."""
    executor = RetryingExecutor(1, retry=policy)

    def check() -> None:
        check_orphaned(running, ready)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.submit(int)
        executor.shutdown()

    with held(executor) as running:
        ready = executor.submit(Flaky(1))
        executor.shutdown(wait=False)
        in_child(check)
    assert 1 == ready.result(TIMEOUT)
    in_child(executor.shutdown)


def test_calls_of_a_multiprocessing_child_are_finished(executor: RetryingExecutor) -> None:
    """A child that multiprocessing forks ends when its calls have their outcome, with retries (F4, F6)."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    flaky = Flaky(2)

    def child() -> None:
        check_orphaned(running)
        executor.submit(lambda: writer.send(flaky()))

    with reader, held(executor) as running:
        process = context.Process(target=child)
        process.start()
        writer.close()
        assert reader.poll(TIMEOUT)
        assert 2 == reader.recv()
        process.join(TIMEOUT)
        assert 0 == process.exitcode
        process.close()
    assert 0 == flaky.attempts


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


@pytest.mark.skipif(
    sys.gettrace() is not None and sys.version_info < (3, 12),
    reason="on Python 3.10, seen with coverage, a traced child can hang inside os.fork() itself",
)
def test_fork_at_any_moment(policy: RetryPolicy) -> None:
    """A hundred forks under load: the child works, nothing inherited hangs, the parent loses nothing (F6).

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
            for _ in range(100):
                with held(executor) as running:
                    in_child(check)
        assert executor.drain(TIMEOUT)
        stats = executor.stats()
    assert len(futures) + 100 == stats.submitted == stats.succeeded + stats.failed + stats.cancelled
    assert {0, 1, 2} == {future.result(0) for future in {*futures} - {*meddled}}
    failed = [future for future in futures if not future.cancelled() and future.exception(0)]
    assert len(failed) == stats.failed
