"""What an executor is doing, in numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import wait
from threading import Barrier, Event, Thread
from typing import Any, NoReturn

import pytest

from conftest import TIMEOUT, both
from retrying_executor import RetryingExecutor, RetryingFuture, RetryPolicy, Stats
from retrying_executor._calls.ledger import Ledger
from retrying_executor._calls.schedule import Schedule
from retrying_executor._calls.terms import Terms
from retrying_executor._threads.threads import Threads


def fail() -> NoReturn:
    """Raise a ValueError."""
    raise ValueError("no")


def total(stats: Stats) -> int:
    """Return the sum of what became of all calls."""
    return stats.running + stats.ready + stats.in_backoff + stats.succeeded + stats.failed + stats.cancelled


@pytest.fixture
def lone() -> Iterator[RetryingExecutor]:
    """An executor with a single worker, whose retries are an hour away."""
    policy = RetryPolicy(initial_delay=3600, max_delay=3600, max_elapsed=None, jitter=False)
    executor = RetryingExecutor(1, retry=policy)
    yield executor
    executor.shutdown(cancel_futures=True)


@both
def test_an_executor_starts_with_nothing(executor: RetryingExecutor) -> None:
    """Before the first call there is no thread, and nothing to count (C1, G4)."""
    assert executor.stats() == Stats(
        threads=0,
        running=0,
        ready=0,
        in_backoff=0,
        submitted=0,
        succeeded=0,
        failed=0,
        cancelled=0,
        retried=0,
        next_due_at=None,
    )


def test_each_call_counts_where_it_stands(lone: RetryingExecutor) -> None:
    """Running, ready, in backoff, succeeded, failed, cancelled: each call in one of these (G4)."""
    started, release = Event(), Event()
    before = time.monotonic()
    backoff = lone.submit(fail)
    failing = lone.with_options(retry=None).submit(fail)
    assert isinstance(failing.exception(TIMEOUT), ValueError)
    assert 0 == lone.submit(int).result(TIMEOUT)
    running = lone.submit(lambda: (started.set(), release.wait(TIMEOUT)))
    assert started.wait(TIMEOUT)
    ready = [lone.submit(int) for _ in range(3)]
    assert ready[1].cancel()

    stats = lone.stats()
    assert stats.next_due_at is not None
    assert before + 3600 <= stats.next_due_at == backoff.due_at
    assert stats == Stats(
        threads=1,
        running=1,
        ready=2,
        in_backoff=1,
        submitted=7,
        succeeded=1,
        failed=1,
        cancelled=1,
        retried=1,
        next_due_at=backoff.due_at,
    )

    release.set()
    wait([running, ready[0], ready[2]], TIMEOUT)
    assert backoff.cancel()
    lone.shutdown()
    assert lone.stats() == Stats(
        threads=0,
        running=0,
        ready=0,
        in_backoff=0,
        submitted=7,
        succeeded=4,
        failed=1,
        cancelled=2,
        retried=1,
        next_due_at=None,
    )


def test_a_due_retry_is_ready(lone: RetryingExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call whose delay is over is no longer in backoff, though no worker is free for it (D2, G4)."""
    started, release = Event(), Event()
    future = lone.submit(fail)
    lone.submit(lambda: (started.set(), release.wait(TIMEOUT)))
    assert started.wait(TIMEOUT)
    assert (0, 1) == (lone.stats().ready, lone.stats().in_backoff)
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + 3600)
    assert (1, 0) == (lone.stats().ready, lone.stats().in_backoff)
    assert future.due_at == lone.stats().next_due_at
    assert future.cancel()
    release.set()


@both
def test_views_count_with_their_executor(executor: RetryingExecutor) -> None:
    """Views have the same queue and threads, hence the same numbers (B9, G4)."""
    view = executor.with_options(max_attempts=2)
    with pytest.raises(ValueError, match="no"):
        view.submit(fail).result(TIMEOUT)
    stats = executor.stats()
    assert (1, 1, 1) == (stats.submitted, stats.failed, stats.retried)


def test_a_snapshot_is_consistent_at_every_moment() -> None:
    """While calls come, fail, are retried, cancelled and done, the sum rule holds (G4)."""
    rounds, submitters = 300, 2
    with RetryingExecutor(3, retry=RetryPolicy(delays=(0, 0.001))) as executor:
        barrier, stop = Barrier(submitters + 2), Event()
        snapshots: list[Stats] = []

        def submit() -> None:
            barrier.wait(TIMEOUT)
            for number in range(rounds):
                executor.submit(fail if number % 2 else int).add_done_callback(
                    lambda done: done.cancelled() or done.exception()
                )
                executor.submit(int).cancel()

        def watch() -> None:
            barrier.wait(TIMEOUT)
            while not stop.is_set():
                snapshots.append(executor.stats())

        threads = [Thread(target=submit) for _ in range(submitters)]
        watcher = Thread(target=watch)
        for thread in (*threads, watcher):
            thread.start()
        barrier.wait(TIMEOUT)
        for thread in threads:
            thread.join(TIMEOUT)
        assert executor.drain(TIMEOUT)
        stop.set()
        watcher.join(TIMEOUT)
        snapshots.append(executor.stats())

    assert all(total(stats) == stats.submitted for stats in snapshots)
    assert all(stats.running <= 3 and stats.threads <= 3 for stats in snapshots)
    assert all((stats.next_due_at is None) <= (not stats.in_backoff) for stats in snapshots)
    for name in ("submitted", "succeeded", "failed", "cancelled", "retried"):
        counts = [getattr(stats, name) for stats in snapshots]
        assert sorted(counts) == counts  # they never go back
    last = snapshots[-1]
    assert 2 * rounds * submitters == last.submitted == last.succeeded + last.failed + last.cancelled
    assert rounds * submitters // 2 == last.failed
    assert rounds * submitters == last.retried


@both
def test_every_reader_sees_its_own_call(executor: RetryingExecutor) -> None:
    """A call is counted from the moment submit() returns, and as done once its outcome is there (G4)."""
    for number in range(1, 100):
        future = executor.submit(int)
        assert number == executor.stats().submitted
        assert 0 == future.result(TIMEOUT)
        assert number == executor.stats().succeeded


def test_who_submits_meanwhile_is_counted_once(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others submit while the snapshot is taken, without a lock: it is consistent all the same (G4)."""
    gate = Event()
    blocked = [executor.submit(gate.wait, TIMEOUT) for _ in range(4)]
    count_others = Schedule.count_others
    monkeypatch.setattr(
        Schedule, "count_others", lambda schedule: bool(executor.submit(int)) and count_others(schedule)
    )
    stats = executor.stats()
    assert 0 == stats.in_backoff
    assert stats.submitted == total(stats)
    gate.set()
    assert all(future.result(TIMEOUT) for future in blocked)


def test_an_interrupt_in_the_middle_holds_up_nobody(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the workers stand still for a snapshot lets them go on (F7, G4)."""
    stop = Threads._stop

    def interrupted(threads: Threads, *args: Any) -> NoReturn:
        stop(threads, *args)
        raise KeyboardInterrupt

    assert 0 == executor.submit(int).result(TIMEOUT)
    with monkeypatch.context() as patch:
        patch.setattr(Threads, "_stop", interrupted)
        with pytest.raises(KeyboardInterrupt):
            executor.stats()
    assert 0 == executor.submit(int).result(TIMEOUT)


def test_a_call_that_leaves_its_hand_meanwhile_is_counted_or_not() -> None:
    """A worker lets go of a call without a lock: what is in its hand is looked at once (G4)."""
    call: Any = RetryingFuture(None, (int, (), {}, None), Terms(None))  # type: ignore[arg-type]

    in_hand = [call]

    class Fleeting:
        succeeded = failed = 0
        is_thread = True

        @property
        def call(self) -> RetryingFuture[int] | None:
            return in_hand.pop() if in_hand else None

    hand: Any = Fleeting()
    assert 1 == Ledger().stats(0.0, [hand]).running
