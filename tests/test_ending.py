"""Shutting down, draining, and dropping: every order, from everywhere, with calls in every state."""

from __future__ import annotations

import gc
import itertools
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Barrier, Event, Thread
from typing import Any

import pytest

from calls import Flaky
from conftest import TIMEOUT, both
from observe import eventually, resting, threads_named
from retrying_executor import RetryingExecutor, RetryingFuture, RetryPolicy
from retrying_executor._core.core import Core
from retrying_executor._core.ending import Ending
from retrying_executor.testing import VirtualTimeExecutor

NEVER_DUE = 3600.0


@dataclass
class Load:
    """An executor with one worker, and calls in every state: running, ready, in backoff for *delay*."""

    delay: float
    idle_timeout: float | None = None
    release: Event = field(default_factory=Event)
    ran: list[str] = field(default_factory=list)
    executor: RetryingExecutor = field(init=False)

    def __post_init__(self) -> None:
        self.executor = RetryingExecutor(
            1, "load", retry=lambda _: self.delay, idle_timeout=self.idle_timeout
        )
        running = Event()

        def run() -> str:
            running.set()
            assert self.release.wait(TIMEOUT)
            return "ran"

        self.flaky = Flaky()
        self.in_backoff = self.executor.submit(self.flaky)
        assert eventually(lambda: wait([self.in_backoff], 0).done or self.in_backoff.due_at)
        self.running = self.executor.submit(run)
        assert RetryingExecutor is VirtualTimeExecutor or running.wait(TIMEOUT)  # there, it is ready
        self.ready = self.executor.submit(self.ran.append, "ready")
        self.futures: list[RetryingFuture[Any]] = [self.in_backoff, self.running, self.ready]

    def is_cancelled(self) -> bool:
        """Return whether what did not run is cancelled and never ran again, and what ran stands."""
        return (
            self.in_backoff.cancelled()
            and self.ready.cancelled()
            and "ran" == self.running.result(TIMEOUT)
            and [] == self.ran
            and 1 == self.flaky.attempts
        )

    def is_complete(self) -> bool:
        """Return whether everything had its outcome, retries included."""
        return (
            1 == self.in_backoff.result(TIMEOUT)
            and self.ready.result(TIMEOUT) is None
            and "ran" == self.running.result(TIMEOUT)
            and ["ready"] == self.ran
        )


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the library logs as a warning or worse."""
    with caplog.at_level(logging.WARNING, "retrying_executor"):
        yield caplog


# -- shutdown (F1, F2) -----------------------------------------------------------------------------


@both
def test_shutdown_waits_for_every_outcome_and_every_thread() -> None:
    """When shutdown() returns, calls that were running, ready and in backoff are done, threads ended (F1)."""
    load = Load(delay=0.05)
    load.release.set()
    load.executor.shutdown()
    assert all(future.done() for future in load.futures)
    assert [] == threads_named("load")
    assert load.is_complete()
    assert 0 == load.executor.stats().threads


def test_shutdown_without_waiting_returns_at_once_and_the_calls_go_on() -> None:
    """With wait=False nothing is waited for and nothing is cancelled, retries included (F1)."""
    load = Load(delay=0.05)
    load.executor.shutdown(wait=False)
    assert not load.running.done()
    load.release.set()
    assert load.is_complete()
    assert eventually(lambda: not threads_named("load"))


@pytest.mark.parametrize("idle_timeout", [0, None])
@pytest.mark.parametrize("waits", [True, False])
def test_shutdown_may_cancel_what_is_not_running(waits: bool, idle_timeout: float | None) -> None:
    """cancel_futures cancels ready calls and those in backoff at once; the running one finishes (F2)."""
    load = Load(delay=NEVER_DUE, idle_timeout=idle_timeout)
    load.in_backoff.add_done_callback(lambda _: load.release.set())  # called although nothing runs it
    load.executor.shutdown(wait=waits, cancel_futures=True)
    assert load.in_backoff.cancelled()
    assert load.is_cancelled()
    assert eventually(lambda: not threads_named("load"))


def test_a_running_attempt_that_fails_after_cancel_futures_is_the_last() -> None:
    """Its own error is the outcome; no retry follows, and shutdown() does not wait for one (F2)."""
    running, release = Event(), Event()

    def run() -> None:
        running.set()
        assert release.wait(TIMEOUT)
        raise KeyError

    executor = RetryingExecutor(1, retry=lambda _: NEVER_DUE)
    future = executor.submit(run)
    assert running.wait(TIMEOUT)
    executor.shutdown(wait=False, cancel_futures=True)
    release.set()
    assert isinstance(future.exception(TIMEOUT), KeyError)
    assert 1 == future.attempts
    executor.shutdown()


def test_shutdown_cancels_in_time(log: pytest.LogCaptureFixture) -> None:
    """Past the timeout what is not running is cancelled, and what runs is reported by name (F3)."""
    load = Load(delay=NEVER_DUE)
    began_at = time.monotonic()
    load.executor.shutdown(timeout=0.05)
    assert time.monotonic() - began_at >= 0.05
    assert load.in_backoff.cancelled()
    assert load.ready.cancelled()
    assert not load.running.done()
    (record,) = log.records
    assert logging.WARNING == record.levelno
    assert "Load.__post_init__.<locals>.run" in record.getMessage()
    load.release.set()
    assert load.is_cancelled()
    assert eventually(lambda: not threads_named("load"))


@both
def test_shutdown_in_time_waits_no_longer_than_needed(log: pytest.LogCaptureFixture) -> None:
    """If everything is done before, nothing is cancelled and nothing reported (F3)."""
    load = Load(delay=0.02)
    load.release.set()
    load.executor.shutdown(timeout=TIMEOUT)
    assert load.is_complete()
    assert [] == threads_named("load")
    assert [] == log.records


def test_no_time_at_all_cancels_at_once(log: pytest.LogCaptureFixture) -> None:
    """timeout=0 is a shutdown that waits for nothing and cancels what does not run (F3)."""
    load = Load(delay=NEVER_DUE)
    load.executor.shutdown(timeout=0)
    load.release.set()
    assert load.is_cancelled()
    assert 1 == len(log.records)


WAYS: dict[str, dict[str, Any]] = {
    "wait": {},
    "no wait": {"wait": False},
    "cancel": {"cancel_futures": True},
    "cancel, no wait": {"wait": False, "cancel_futures": True},
    "in time": {"timeout": TIMEOUT},
    "at once": {"timeout": 0},
}


@pytest.mark.parametrize(("first", "second"), [*itertools.product(WAYS, repeat=2)])
def test_shutdown_may_be_repeated_in_any_way(first: str, second: str, log: pytest.LogCaptureFixture) -> None:
    """Any way after any other: every call gets done, waiting ways wait, nothing hangs (F1, F2, F3, G1)."""
    load = Load(delay=0.01)
    load.release.set()
    load.executor.shutdown(**WAYS[first])
    load.executor.shutdown(**WAYS[second])
    load.executor.shutdown()
    assert [] == threads_named("load")
    assert all(future.done() for future in load.futures)
    assert "ran" == load.running.result(0)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        load.executor.submit(int)


def test_shutdown_may_come_from_several_threads_at_once() -> None:
    """One waits, one cancels, one has no time: all return, and everything is done (F1, F2, F3)."""
    load = Load(delay=NEVER_DUE)
    together = Barrier(len(WAYS) + 1)

    def shut_down(way: dict[str, Any]) -> None:
        together.wait(TIMEOUT)
        load.executor.shutdown(**way)

    threads = [Thread(target=shut_down, args=(way,)) for way in WAYS.values()]
    for thread in threads:
        thread.start()
    together.wait(TIMEOUT)
    load.release.set()
    for thread in threads:
        thread.join(TIMEOUT)
    assert not any(thread.is_alive() for thread in threads)
    assert all(future.done() for future in load.futures)
    assert load.in_backoff.cancelled()
    assert [] == threads_named("load")


@both
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("where", ["call", "callback", "policy"])
def test_shutdown_may_come_from_inside(where: str, way: str) -> None:
    """In a worker thread shutdown() never waits; the calls end as they would otherwise (F1, F2, F7)."""
    executor = RetryingExecutor(1, "inside", idle_timeout=None)
    submitted = Event()
    returned: list[bool] = []

    def shut_down(*_: object) -> int:
        assert submitted.wait(TIMEOUT)
        executor.shutdown(**WAYS[way])
        returned.append(True)
        return 0

    flaky = Flaky()
    parked = executor.with_options(retry=lambda _: 0.02).submit(Flaky())
    if where == "call":
        future = executor.submit(shut_down)
    elif where == "callback":
        future = executor.submit(submitted.wait, TIMEOUT)
        future.add_done_callback(shut_down)
    else:
        future = executor.with_options(retry=shut_down).submit(flaky)
    ready = executor.submit(int)
    submitted.set()
    assert not wait([future, parked, ready], TIMEOUT).not_done
    assert eventually(lambda: not threads_named("inside"))
    assert [True] == returned
    assert ("cancel" in way) == ready.cancelled()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(int)


@both
def test_a_timeout_needs_a_wait() -> None:
    """wait=False with a timeout is a contradiction, and a negative timeout makes no sense (F3)."""
    executor = RetryingExecutor()
    for arguments in ({"wait": False, "timeout": 1}, {"timeout": -1}, {"timeout": float("nan")}):
        with pytest.raises(ValueError, match="timeout must be"):
            executor.shutdown(**arguments)
    assert 0 == executor.submit(int).result(TIMEOUT)
    executor.shutdown()


def test_a_call_that_is_queued_while_the_executor_closes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever queues a call and sees only then that the executor refuses them takes it back (F4, G1)."""
    executor = RetryingExecutor(1)
    pool = executor._core
    see_to = pool.crew.see_to
    monkeypatch.setattr(pool.crew, "see_to", lambda core, call: pool.close("too late") or see_to(core, call))
    with pytest.raises(RuntimeError, match="too late"):
        executor.submit(int)
    assert 0 == executor.stats().submitted


def test_submit_racing_with_shutdown_is_accepted_or_refused_and_never_both() -> None:
    """What submit() refuses never runs; what it accepts gets its outcome (F4, G1)."""
    for round_ in range(50):
        executor = RetryingExecutor(2, retry=RetryPolicy(delays=(0,)), idle_timeout=0)
        together = Barrier(4)
        ran: list[tuple[int, int]] = []
        accepted: list[tuple[int, int]] = []
        futures: list[RetryingFuture[Any]] = []

        def submit(
            who: int,
            executor: RetryingExecutor = executor,
            together: Barrier = together,
            ran: list[tuple[int, int]] = ran,
            accepted: list[tuple[int, int]] = accepted,
            futures: list[RetryingFuture[Any]] = futures,
        ) -> None:
            together.wait(TIMEOUT)
            with suppress(RuntimeError):  # what refuses the last one
                for number in itertools.count():  # pragma: no branch  # until it is refused
                    futures.append(executor.submit(ran.append, (who, number)))
                    accepted.append((who, number))

        threads = [Thread(target=submit, args=(who,)) for who in range(3)]
        for thread in threads:
            thread.start()
        together.wait(TIMEOUT)
        assert eventually(lambda accepted=accepted: accepted)
        executor.shutdown(wait=bool(round_ % 2))
        for thread in threads:
            thread.join(TIMEOUT)
        executor.shutdown()
        assert all(future.done() for future in futures)
        assert sorted(accepted) == sorted(ran)


# -- drain (F3) ------------------------------------------------------------------------------------


@both
def test_drain_waits_for_everything_submitted_so_far() -> None:
    """It returns True once every call is done, retries included, and the executor goes on (F3)."""
    load = Load(delay=0.02)
    load.release.set()
    assert load.executor.drain()
    assert all(future.done() for future in load.futures)
    assert 0 == load.executor.submit(int).result(TIMEOUT)
    load.executor.shutdown()
    assert load.is_complete()


def test_drain_gives_up_in_time_and_cancels_nothing() -> None:
    """Past the timeout it returns False, and the calls go on as if nothing had been (F3)."""
    load = Load(delay=0.02)
    began_at = time.monotonic()
    assert not load.executor.drain(0.05)
    assert time.monotonic() - began_at >= 0.05
    assert not load.executor.drain(0)
    load.release.set()
    assert load.executor.drain(TIMEOUT)
    load.executor.shutdown()
    assert load.is_complete()


def test_drain_does_not_wait_for_calls_submitted_later() -> None:
    """A call that is submitted while drain() waits is none of its business (F3)."""
    running, release, later_running, hold = Event(), Event(), Event(), Event()
    drained: list[bool] = []

    def run() -> None:
        running.set()
        assert release.wait(TIMEOUT)

    def run_later() -> None:
        later_running.set()
        assert hold.wait(TIMEOUT)

    with RetryingExecutor(1) as executor:
        first = executor.submit(run)
        assert running.wait(TIMEOUT)
        thread = Thread(target=lambda: drained.append(executor.drain(TIMEOUT)))
        thread.start()
        assert eventually(lambda: first._awaited)  # drain() has begun to wait
        later = executor.submit(run_later)
        release.set()
        thread.join(TIMEOUT)
        assert [True] == drained
        assert not later.done()
        hold.set()


def test_drain_counts_cancelled_calls_as_done() -> None:
    """A call that is cancelled while drain() waits does not hold it up (E1, F3)."""
    with RetryingExecutor(1, retry=lambda _: NEVER_DUE) as executor:
        future = executor.submit(Flaky())
        assert eventually(lambda: future.due_at)
        canceller = Thread(target=lambda: eventually(lambda: future._awaited) and future.cancel())
        canceller.start()
        assert executor.drain(TIMEOUT)
        canceller.join(TIMEOUT)
        assert future.cancelled()


@both
def test_drain_works_after_shutdown() -> None:
    """After shutdown(wait=False) it waits for what is left (F3)."""
    load = Load(delay=0.02)
    load.executor.shutdown(wait=False)
    load.release.set()
    assert load.executor.drain(TIMEOUT)
    assert load.is_complete()


# -- dropped without shutdown (F5) -----------------------------------------------------------------


@both
@pytest.mark.parametrize("idle_timeout", [0, None, NEVER_DUE])
def test_a_dropped_executor_finishes_its_calls_and_then_its_threads_go(idle_timeout: float | None) -> None:
    """Calls running, ready and in backoff get their outcome, and no thread stays on after that (F5)."""
    load = Load(delay=0.02, idle_timeout=idle_timeout)
    del load.executor
    gc.collect()
    load.release.set()
    assert load.is_complete()
    assert eventually(lambda: not threads_named("load"))


@pytest.mark.parametrize("in_backoff", [True, False])
def test_threads_at_rest_go_at_once_when_the_executor_is_dropped(in_backoff: bool) -> None:
    """With idle_timeout=None too, and the one that waits for a retry goes after that (F5, C2)."""
    executor = RetryingExecutor(3, "resting", retry=lambda _: 0.05, idle_timeout=None)
    together = Barrier(3)
    assert not wait([executor.submit(together.wait, TIMEOUT) for _ in range(3)], TIMEOUT).not_done
    futures = [executor.submit(Flaky()) for _ in range(in_backoff)]
    assert eventually(lambda: resting(executor) == 3)  # noqa: F821  # not deleted yet
    del executor
    gc.collect()
    assert [1] * in_backoff == [future.result(TIMEOUT) for future in futures]
    assert eventually(lambda: not threads_named("resting"))


def test_a_dropped_executor_whose_last_call_is_cancelled_is_gone() -> None:
    """Nobody waits for an hour for nothing (E1, F5)."""
    executor = RetryingExecutor(1, "dropped", retry=lambda _: NEVER_DUE, idle_timeout=None)
    future = executor.submit(Flaky())
    assert eventually(lambda: future.due_at)
    del executor
    gc.collect()
    assert threads_named("dropped")
    assert future.cancel()
    assert eventually(lambda: not threads_named("dropped"))


def test_a_view_keeps_its_executor_alive() -> None:
    """As long as there is a view, calls can be submitted and threads stay (B9, F5)."""
    executor = RetryingExecutor(1, "viewed", idle_timeout=None)
    view = executor.with_options(max_attempts=1).with_options(max_attempts=2)
    thread = view.submit(threading.current_thread).result(TIMEOUT)
    del executor
    gc.collect()
    assert thread is view.submit(threading.current_thread).result(TIMEOUT)
    del view
    gc.collect()
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def test_a_running_call_may_hold_the_last_reference_to_its_executor() -> None:
    """The executor goes away in its own worker thread, which notices (F5, F7)."""
    box: list[RetryingExecutor] = [RetryingExecutor(1, "last", idle_timeout=None)]
    dropped = Event()

    def call(executor: RetryingExecutor) -> str:
        assert dropped.wait(TIMEOUT)
        return "done"

    future = box[0].submit(call, box[0])
    box.clear()
    dropped.set()
    assert "done" == future.result(TIMEOUT)
    assert eventually(lambda: not threads_named("last"))


def test_results_of_a_dropped_executor_can_still_be_cancelled_and_waited_for() -> None:
    """A future needs no executor: wait(), cancel() and result() go on working (E1, F5)."""
    load = Load(delay=NEVER_DUE)
    del load.executor
    gc.collect()
    assert load.in_backoff.cancel()
    assert load.ready.cancel()
    load.release.set()
    assert load.is_cancelled()
    with pytest.raises(CancelledError):
        load.ready.result(TIMEOUT)
    assert eventually(lambda: not threads_named("load"))


def test_no_outcome_is_lost_to_a_callback_of_another_call() -> None:
    """What a call returned stands, although its worker runs a callback that exits (B3, C6, G1).

    The first thread finishes its call while the second one, whose initializer failed, is still
    telling those who wait.
    """
    threads = itertools.count(1)
    started, fail, release = Event(), Event(), Event()

    def initializer() -> None:
        if next(threads) == 2:
            assert fail.wait(TIMEOUT)
            raise ValueError("no")

    def run() -> str:
        started.set()
        assert release.wait(TIMEOUT)
        return "outcome"

    def tell(_: object) -> None:
        release.set()
        wait([running], TIMEOUT)

    def leave(_: object) -> None:
        raise SystemExit

    executor = RetryingExecutor(2, retry=None, initializer=initializer)
    running = executor.submit(run)
    assert started.wait(TIMEOUT)
    for callback in (tell, leave):
        executor.submit(int).add_done_callback(callback)
    fail.set()
    assert "outcome" == running.result(TIMEOUT)
    executor.shutdown()


def test_a_worker_leaves_no_call_behind_that_another_thread_is_about_to_cancel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever shuts down may be late; the worker sees to the calls then, before it goes (F2)."""
    clear, late = Ending.clear, [1, 1]

    def clear_late(ending: Ending, asker: Any) -> None:
        if late:
            late.pop()
        else:
            clear(ending, asker)

    monkeypatch.setattr(Ending, "clear", clear_late)
    going = threading.Event()
    executor = RetryingExecutor(1)
    running, waiting = executor.submit(going.wait, TIMEOUT), executor.submit(int)
    executor.shutdown(wait=False, cancel_futures=True)
    assert not waiting.done()
    going.set()
    executor.shutdown()
    assert running.result(0)
    assert waiting.cancelled()


@both
@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_block_left_by_an_exception_waits_for_exit_timeout_at_most(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """What waits past exit_timeout is cancelled, although it would be retried for long (F8)."""
    with pytest.raises(error), RetryingExecutor(1, retry=lambda _: NEVER_DUE, exit_timeout=0.05) as executor:  # noqa: PT012
        future = executor.submit(Flaky())
        raise error
    assert future.cancelled()
    expected = ["shutdown timed out after 0.05 s: 1 waiting call cancelled, none still running"]
    assert expected == [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("exit_timeout", [None, TIMEOUT])
def test_a_block_left_by_an_interrupt_cancels_what_waits(
    exit_timeout: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    """After Ctrl-C no attempt starts; the one that runs finishes, and its outcome counts (F8)."""
    began, release = Event(), Event()

    def run() -> str:
        began.set()
        assert release.wait(TIMEOUT)
        return "ran"

    with pytest.raises(KeyboardInterrupt), RetryingExecutor(1, exit_timeout=exit_timeout) as executor:  # noqa: PT012
        running, waiting = executor.submit(run), executor.submit(list)
        assert began.wait(TIMEOUT)
        waiting.add_done_callback(lambda _: release.set())
        raise KeyboardInterrupt
    assert waiting.cancelled()
    assert "ran" == running.result(0)
    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith("interrupted: 1 waiting call cancelled, still running: ")


@both
@pytest.mark.parametrize("first", [None, KeyboardInterrupt])
def test_an_interrupt_at_the_end_of_a_block_gets_out(
    first: type[BaseException] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the end of a block waits raises at once; what waits is cancelled then (F8)."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    executor = RetryingExecutor(1, retry=lambda _: NEVER_DUE)
    future = executor.submit(Flaky())
    while future.due_at is None:  # it waits when its first attempt has failed
        wait([future], 0.001)
    with monkeypatch.context() as patch:
        patch.setattr(Core, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            executor.__exit__(first, None, None)
    executor.shutdown()
    assert future.cancelled()


def test_virtual_blocks_end_alike(caplog: pytest.LogCaptureFixture) -> None:
    """In virtual time, a block that is left by an exception or Ctrl-C ends as the real one does (F8)."""
    options: dict[str, Any] = {"retry": lambda _: NEVER_DUE, "exit_timeout": 4}
    with pytest.raises(ValueError, match="a bug"), VirtualTimeExecutor(1, **options) as executor:  # noqa: PT012
        late = executor.submit(Flaky())
        raise ValueError("a bug")
    assert late.cancelled()
    assert 4 == executor.monotonic()
    with pytest.raises(KeyboardInterrupt), VirtualTimeExecutor(1, **options) as executor:  # noqa: PT012
        waiting = executor.submit(Flaky())
        raise KeyboardInterrupt
    assert waiting.cancelled()
    assert 0 == executor.monotonic()
    executor.__exit__(KeyboardInterrupt, None, None)  # nothing left to cancel, nor to say
    expected = [
        "shutdown timed out after 4 s: 1 waiting call cancelled, none still running",
        "interrupted: 1 waiting call cancelled, none still running",
    ]
    assert expected == [record.getMessage() for record in caplog.records]
