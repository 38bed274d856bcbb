"""Who looks on: listeners, the running call itself, and attempts that run for long."""

from __future__ import annotations

import gc
import logging
import math
import os
import threading
import time
import weakref
from collections import defaultdict
from datetime import timedelta
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, NoReturn
from uuid import UUID

import pytest

from calls import Flaky
from conftest import TIMEOUT, both
from forks import in_child
from observe import eventually, needs_gil, threads_named
from retrying_executor import (
    CurrentCall,
    Event,
    NotNow,
    RetryingExecutor,
    RetryingFuture,
    RetryPolicy,
    Upstream,
    current_call,
)
from retrying_executor._calls.terms import Terms
from retrying_executor._common import exits
from retrying_executor._observe import monitor
from retrying_executor._observe.watchdog import Run
from test_exit import run

AT_ONCE = RetryPolicy(delays=(0,) * 4)


class Listener:
    """Collects events; the next one it is told of after `stop` waits for `go_on`."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.threads: set[threading.Thread] = set()
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(self, event: Event) -> None:
        assert self.may_go_on.wait(TIMEOUT)
        self.threads.add(threading.current_thread())
        self.events.append(event)

    def told(self) -> dict[str, list[Event]]:
        """Return the events of each call, by its key."""
        told = defaultdict(list)
        for event in self.events:
            told[event.key].append(event)
        return told

    @property
    def kinds(self) -> list[str]:
        """What it was told of."""
        return [event.kind for event in self.events]


@pytest.fixture
def listener() -> Listener:
    """A listener."""
    return Listener()


def assert_in_time(event: threading.Event) -> None:
    """Wait for an event."""
    assert event.wait(TIMEOUT)


def fail(exception: BaseException | None = None) -> NoReturn:
    """Raise *exception*, by default a ValueError."""
    raise ValueError("no") if exception is None else exception


async def listen_for_nothing(event: Event) -> None:
    """Nobody would await this."""


# -- events --------------------------------------------------------------------------------------


def test_a_listener_is_told_all_that_happens_to_a_call(listener: Listener) -> None:
    """In order, with its name, its attempt, the times and the reason; and by when shutdown() returns."""
    with RetryingExecutor(1, retry=RetryPolicy(delays=(0.25,), jitter=False), on_event=listener) as executor:
        began_at = time.time()
        future = executor.submit(Flaky(1))
        future.result(TIMEOUT)
    ended_at = time.time()
    assert ["accepted", "attempt_started", "retry_scheduled", "attempt_started", "done"] == listener.kinds
    accepted, first, retry, second, done = listener.events
    assert began_at <= accepted.time <= first.time <= retry.time <= second.time <= done.time <= ended_at
    assert 0.25 == retry.delay
    assert "RefusedError" in retry.reason or retry.reason
    assert isinstance(retry.exception, Exception)
    assert retry.duration is not None
    assert 0.0 <= retry.duration < second.time - first.time
    assert [0, 1, 1, 2, 2] == [event.attempt for event in listener.events]
    assert ("succeeded", None) == (done.outcome, done.exception)
    assert [None, None] == [first.duration, second.duration]
    assert {"calls.Flaky"} == {event.call for event in listener.events}
    assert {future.key} == {event.key for event in listener.events}
    assert UUID(future.key)
    assert retry.time - first.time <= done.duration <= ended_at - began_at


@both
def test_giving_up_is_an_event(listener: Listener) -> None:
    """With what it gave up for; and so is being done, with the outcome."""
    error = ValueError("no")
    with RetryingExecutor(1, retry=RetryPolicy(delays=(0,)), on_event=listener) as executor:
        assert error is executor.submit(fail, error).exception()
    gave_up, done = listener.events[-2:]
    assert ("gave_up", 2, error, "ValueError: no (all 2 attempts are used)") == (
        gave_up.kind, gave_up.attempt, gave_up.exception, gave_up.reason,
    )  # fmt: skip
    assert ("done", "failed", error, "ValueError: no") == (
        done.kind,
        done.outcome,
        done.exception,
        done.reason,
    )


@pytest.mark.parametrize("option", ["cancel_futures", "timeout"])
def test_an_attempt_that_fails_when_all_is_over_is_the_last(
    option: str, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    """Listener and log say so alike, although the policy would have allowed another (F2, F3)."""
    caplog.set_level(logging.INFO, "retrying_executor")
    started, may_fail = threading.Event(), threading.Event()

    def attempt() -> NoReturn:
        started.set()
        assert may_fail.wait(TIMEOUT)
        raise ConnectionError

    executor = RetryingExecutor(1, retry=RetryPolicy(delays=(60,)), on_event=listener)
    future = executor.submit(attempt)
    assert started.wait(TIMEOUT)
    if option == "timeout":
        executor.shutdown(timeout=0)
    else:
        executor.shutdown(wait=False, cancel_futures=True)
    may_fail.set()
    assert isinstance(future.exception(TIMEOUT), ConnectionError)
    executor.shutdown()
    assert eventually(lambda: "done" in listener.kinds)
    assert ["accepted", "attempt_started", "gave_up", "done"] == listener.kinds
    assert None is listener.events[-2].delay
    assert "gave up after attempt 1 (ConnectionError: ) (cancelled or shut down while it ran)" in caplog.text
    assert "ConnectionError:  (cancelled or shut down while it ran)" == listener.events[-2].reason
    assert "the next one" not in caplog.text


@both
def test_a_call_that_is_cancelled_while_its_retry_is_announced_gives_up(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    """The listener is told both (E1)."""
    caplog.set_level(logging.INFO, "retrying_executor")
    executor = RetryingExecutor(1, retry=RetryPolicy(delays=(60,)), on_event=listener)
    started = threading.Event()

    class Cancelling(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert started.wait(TIMEOUT)
            future.cancel()

    handler = Cancelling()
    logging.getLogger("retrying_executor").addHandler(handler)
    try:
        future = executor.submit(Flaky())
        started.set()
        assert isinstance(future.exception(TIMEOUT), ConnectionError)
    finally:
        logging.getLogger("retrying_executor").removeHandler(handler)
    executor.shutdown()
    assert ["accepted", "attempt_started", "retry_scheduled", "gave_up", "done"] == listener.kinds
    assert "cancelled or shut down while it ran" in listener.events[-2].reason


@both
def test_who_never_retries_does_not_give_up(listener: Listener) -> None:
    """With ``retry=None`` a failure is just that."""
    with RetryingExecutor(1, retry=None, on_event=listener) as executor:
        executor.submit(fail).exception()
    assert ["accepted", "attempt_started", "done"] == listener.kinds


@both
def test_no_retry_is_told_of_a_call_whose_outcome_is_set_meanwhile() -> None:
    """After "done" nothing follows, whoever makes the call done while an attempt fails (A3, G3)."""
    events: list[str] = []
    may_fail = threading.Event()

    def fail_in_time() -> NoReturn:
        assert may_fail.wait(TIMEOUT)
        raise OSError

    def retry(_: object) -> float:
        future.set_result("another")
        return 0.0

    with RetryingExecutor(1, retry=retry, on_event=lambda event: events.append(event.kind)) as executor:
        future: Any = executor.submit(fail_in_time)
        may_fail.set()
    assert "another" == future.result(TIMEOUT)
    assert ["accepted", "attempt_started", "done"] == events


@both
@pytest.mark.parametrize("kind", ["retry_scheduled", "gave_up"])
def test_done_is_the_last_event_although_the_outcome_is_set_while_another_is_on_its_way(
    listener: Listener, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Even at the very last moment: when what follows the attempt has just been logged (G3)."""
    caplog.set_level(logging.INFO, "retrying_executor")
    may_fail = threading.Event()

    class Meddling(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            future.set_result("another")

    def fail_in_time() -> NoReturn:
        assert may_fail.wait(TIMEOUT)
        raise OSError

    handler = Meddling()
    logging.getLogger("retrying_executor").addHandler(handler)
    try:
        attempts = 1 if kind == "gave_up" else 2
        with RetryingExecutor(1, retry=RetryPolicy(max_attempts=attempts), on_event=listener) as executor:
            future: Any = executor.submit(fail_in_time)
            may_fail.set()
    finally:
        logging.getLogger("retrying_executor").removeHandler(handler)
    assert [kind] == [record.kind for record in caplog.records]  # type: ignore[attr-defined]
    assert ["accepted", "attempt_started", "done"] == listener.kinds


@both
def test_not_now_is_an_event_of_its_own(listener: Listener) -> None:
    """It uses up no attempt."""
    outcomes = iter([NotNow(after=0)])

    def busy() -> None:
        for outcome in outcomes:
            raise outcome

    with RetryingExecutor(1, on_event=listener) as executor:
        executor.submit(busy).result(TIMEOUT)
    assert ["accepted", "attempt_started", "not_now", "attempt_started", "done"] == listener.kinds


@pytest.mark.parametrize("failures", [0, 1], ids=["fresh", "in backoff"])
def test_a_cancelled_call_is_done(listener: Listener, failures: int) -> None:
    """Whether or not it had an attempt."""
    started, may_end = threading.Event(), threading.Event()
    with RetryingExecutor(1, retry=RetryPolicy(delays=(60,)), on_event=listener) as executor:
        if failures:
            future = executor.submit(fail)
            assert eventually(lambda: future.due_at)
        else:
            blocker = executor.submit(lambda: started.set() or may_end.wait(TIMEOUT))
            assert started.wait(TIMEOUT)
            future = executor.submit(int)
        assert future.cancel()
        may_end.set()
        if not failures:
            blocker.result()
    (done,) = [event for event in listener.events if event.outcome == "cancelled"]
    assert ("done", failures) == (done.kind, done.attempt)
    assert listener.told()[done.key][0].kind == "accepted"


@both
def test_an_upstream_that_is_held_and_back_is_an_event(listener: Listener) -> None:
    """For each executor whose calls go to it, and no other; its name is with its calls too."""
    service, others = Upstream("service", hold_after=1, initial_hold=0.01), Listener()
    with RetryingExecutor(1, retry=AT_ONCE, on_event=listener) as executor, RetryingExecutor(on_event=others):
        executor.with_options(upstream=service).submit(Flaky(1)).result(TIMEOUT)
        service.pause(0)
        service.pause()
        service.resume()
    changes = [event for event in listener.events if event.kind.startswith("upstream")]
    assert ["upstream_held", "upstream_back", "upstream_held", "upstream_held"] == [
        event.kind for event in changes
    ]
    failed = "an attempt failed (ConnectionError: not yet)"
    assert [failed, "", "paused", "paused"] == [event.reason for event in changes]
    first, back, *by_hand = changes
    assert first.delay is not None
    assert 0.0 < first.delay <= 0.01
    assert back.delay is None
    assert [0.0, math.inf] == [event.delay for event in by_hand]
    assert {"service"} == {event.upstream for event in listener.events}
    assert [] == others.events


def test_a_call_that_is_refused_is_no_event(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither right away nor after it was queued: it was never accepted (G1)."""
    executor = RetryingExecutor(1, on_event=listener)
    with monkeypatch.context() as starved:
        starved.setattr(threading.Thread, "start", lambda _: fail(RuntimeError("can't start new thread")))
        with pytest.raises(RuntimeError, match="can't start"):
            executor.submit(int)
    executor.shutdown()
    with pytest.raises(RuntimeError):
        executor.submit(int)
    assert [] == listener.events


def test_a_call_that_is_cancelled_before_it_was_announced_is_accepted_first(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When somebody shuts down while ``submit()`` is about to return."""
    executor = RetryingExecutor(1, on_event=listener)
    submit, started = executor._core.submit, threading.Event()
    may_end = threading.Event()
    executor.submit(lambda: started.set() or may_end.wait(TIMEOUT))
    assert started.wait(TIMEOUT)

    def submit_late(call: Any) -> None:
        submit(call)
        executor.shutdown(wait=False, cancel_futures=True)

    monkeypatch.setattr(executor._core, "submit", submit_late)
    future = executor.submit(int)
    assert future.cancelled()
    may_end.set()
    executor.shutdown()
    (key,) = [event.key for event in listener.events if event.outcome == "cancelled"]
    assert ["accepted", "done"] == [event.kind for event in listener.told()[key]]


def test_the_story_of_each_call_is_told_in_order(listener: Listener) -> None:
    """However many threads submit and work: accepted first, done last, and each attempt once."""
    with RetryingExecutor(4, retry=AT_ONCE, on_event=listener) as executor:
        submitters = [
            threading.Thread(target=lambda: [executor.submit(Flaky(number % 3)) for number in range(50)])
            for _ in range(4)
        ]
        for submitter in submitters:
            submitter.start()
        for submitter in submitters:
            submitter.join(TIMEOUT)
    told = listener.told().values()
    assert 200 == len(told)
    for story in told:
        kinds = [event.kind for event in story]
        attempts = ["attempt_started", "retry_scheduled"] * (story[-1].attempt - 1) + ["attempt_started"]
        assert ["accepted", *attempts, "done"] == kinds


def test_a_slow_listener_holds_up_no_call(listener: Listener) -> None:
    """Calls are done while it is still busy with the first event."""
    listener.may_go_on.clear()
    with RetryingExecutor(2, on_event=listener) as executor:
        assert list(range(100)) == list(executor.map(int, range(100)))
        assert [] == listener.events
        listener.may_go_on.set()
    assert 300 == len(listener.events)


def test_a_listener_that_falls_behind_misses_events(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """So that memory is bounded; it is logged, now and then."""
    monkeypatch.setattr(monitor, "_MOST_WAITING", 10)
    listener.may_go_on.clear()
    with RetryingExecutor(1, on_event=listener) as executor:
        for _ in range(100):
            executor.submit(int).result(TIMEOUT)
        listener.may_go_on.set()
    assert 10 <= len(listener.events) <= 20
    dropped = [record.count for record in caplog.records if record.kind == "events_dropped"]  # type: ignore[attr-defined]
    assert 2 <= len(dropped) <= 5
    assert all(later >= 10 * sooner for sooner, later in pairwise(dropped))


@both
def test_a_listener_that_raises_hurts_no_call(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, with the traceback, and told of the rest; but not for each event (B8)."""
    told = []

    def raising(event: Event) -> NoReturn:
        told.append(event)
        raise SystemExit if event.kind == "done" else ValueError("no")

    with caplog.at_level(logging.WARNING), RetryingExecutor(1, on_event=raising) as executor:
        assert list(range(20)) == list(executor.map(int, range(20)))
    assert 60 == len(told)
    messages = [record.getMessage() for record in caplog.records]
    assert "on_event raised an exception when it was told of accepted" == messages[0]
    assert 1 == sum("(10 times)" in message for message in messages if "done" not in message)
    assert len(messages) < 12
    assert all(record.exc_info for record in caplog.records)


def test_a_listener_that_never_returns_does_not_hold_up_a_shutdown_for_ever(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """That is logged."""
    monkeypatch.setattr(monitor, "LISTENER_TIMEOUT", 0.01)
    listener.may_go_on.clear()
    with RetryingExecutor(1, on_event=listener) as executor:
        executor.submit(int)
    assert "on_event has not been told everything: stopped waiting after 0.01 s" in caplog.messages
    listener.may_go_on.set()


def test_a_listener_that_never_returns_is_waited_for_once(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The end of the interpreter does not begin anew, nor log it again (F4)."""
    monkeypatch.setattr(monitor, "LISTENER_TIMEOUT", 0.05)
    executor = RetryingExecutor(1, on_event=listener)
    listener.may_go_on.clear()
    executor.submit(int)
    executor.shutdown()
    looks_on = executor._core.monitor
    assert looks_on is not None
    assert 0.0 >= looks_on._waits_for
    looks_on.finish(TIMEOUT)
    assert ["on_event has not been told everything: stopped waiting after 0.05 s"] == caplog.messages
    listener.may_go_on.set()


def test_all_who_look_on_have_one_timeout(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for the watchdog is not waited for the listener once more (F3)."""
    now, patience = [0.0], list[float]()
    monkeypatch.setattr(monitor, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    looks_on: Any = RetryingExecutor(1, on_event=listener, warn_after=60)._core.monitor
    monkeypatch.setattr(looks_on._watchdog, "finish", lambda timeout: now.insert(0, timeout - 1.0))
    monkeypatch.setattr(looks_on._core, "retire", lambda timeout: patience.append(timeout) or True)
    looks_on.finish(3.0)
    assert [1.0] == patience


def test_a_shutdown_with_a_timeout_does_not_wait_for_a_listener_longer_than_that(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    """What it was not told by then is told later, or never (F3)."""
    listener.may_go_on.clear()
    executor = RetryingExecutor(1, on_event=listener)
    executor.submit(int).result(TIMEOUT)
    began_at = time.monotonic()
    executor.shutdown(timeout=0.01)
    assert time.monotonic() - began_at < exits.LISTENER_TIMEOUT
    assert [
        message for message in caplog.messages if message.startswith("on_event has not been told everything")
    ]
    listener.may_go_on.set()


def test_after_shutdown_a_listener_is_told_nothing(listener: Listener) -> None:
    """Whatever others make of an upstream that it has heard of."""
    service = Upstream("service")
    with RetryingExecutor(1, on_event=listener, upstream=service) as executor:
        executor.submit(int).result(TIMEOUT)
    service.pause(0)
    assert ["accepted", "attempt_started", "done"] == listener.kinds


@needs_gil
@pytest.mark.parametrize("option", ["on_event", "initializer"])
def test_an_executor_that_knows_its_owner_goes_away_with_it(option: str) -> None:
    """Though its listener, or its initializer, is a method of the owner (A4)."""

    class Owner:
        def __init__(self) -> None:
            self.executor = RetryingExecutor(1, **{option: self.look}, idle_timeout=0)  # type: ignore[arg-type]

        def look(self, *_: object) -> None:
            assert self.executor is not None

    owner = Owner()
    owner.executor.submit(int).result(TIMEOUT)
    owner.executor.shutdown()
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None


def test_a_listener_may_use_the_executor(listener: Listener) -> None:
    """It may submit, wait for the outcome, and shut down; it is in no call (F7)."""
    seen: list[object] = []

    def on_event(event: Event) -> None:
        if event.kind == "done" and not seen:
            seen.append(current_call())
            seen.append(executor.submit(int).result(TIMEOUT))
            executor.shutdown()

    executor = RetryingExecutor(1, on_event=on_event)
    executor.submit(int)
    assert eventually(lambda: not threads_named(executor._core.name))
    assert [None, 0] == seen


def test_the_threads_of_a_monitor_leave(listener: Listener) -> None:
    """Some time after the last event; and by when shutdown() returns (C2, F1)."""
    executor = RetryingExecutor(1, "looked on", idle_timeout=0, on_event=listener, warn_after=3600)
    executor.submit(int).result(TIMEOUT)
    assert eventually(lambda: not threads_named("looked on"))
    executor.submit(int).result(TIMEOUT)
    executor.shutdown()
    assert [] == threads_named("looked on")
    assert 1 <= len(listener.threads) <= 2


def test_an_executor_without_a_thread_to_be_had_for_its_listener_works(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls matter more than who looks on, who is told when there is a thread again (C7)."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if "events" in thread.name or "watchdog" in thread.name:
            raise RuntimeError("can't start new thread")
        start(thread)

    executor = RetryingExecutor(1, on_event=listener, warn_after=3600)
    with monkeypatch.context() as starved:
        starved.setattr(threading.Thread, "start", refuse)
        assert 0 == executor.submit(int).result(TIMEOUT)
        assert [] == listener.events
    executor.shutdown()
    assert ["accepted", "attempt_started", "done"] == listener.kinds


def test_a_listener_is_told_everything_before_the_interpreter_ends() -> None:
    """That of calls which end after the main thread too (F4)."""
    code, lines, errors = run(
        """
        import time
        from retrying_executor import RetryingExecutor

        told = []
        executor = RetryingExecutor(1, on_event=lambda event: print(len(told), event.kind, told.append(0)))
        executor.submit(time.sleep, 0.05)
        """
    )
    assert (0, "") == (code, errors)
    assert ["0 accepted None", "1 attempt_started None", "2 done None"] == lines


def test_the_end_of_the_interpreter_does_not_wait_for_a_listener_longer_than_it_may() -> None:
    """That of an executor which has to end in time, even less than others (F4)."""
    code, _, errors = run(
        """
        import threading
        from retrying_executor import RetryingExecutor

        never = threading.Event()
        executor = RetryingExecutor(1, exit_timeout=0.1, on_event=lambda event: never.wait())
        executor.submit(int)
        """
    )
    assert 0 == code
    [line] = errors.splitlines()
    assert line.startswith("on_event has not been told everything: stopped waiting after 0")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows knows no fork")
def test_a_forked_child_is_looked_on_too(listener: Listener) -> None:
    """It is told of its own calls, and of none of the parent's (F6)."""
    with RetryingExecutor(1, on_event=listener, warn_after=3600) as executor:
        executor.submit(int).result(TIMEOUT)
        assert eventually(lambda: len(listener.events) == 3)

        def child() -> None:
            listener.events.clear()
            executor.submit(int).result(TIMEOUT)
            executor.shutdown()
            assert ["accepted", "attempt_started", "done"] == listener.kinds

        in_child(child)
    assert 3 == len(listener.events)


# -- the running call ----------------------------------------------------------------------------


@both
def test_a_running_call_knows_itself() -> None:
    """Its name, its attempt, and a key that stays the same over all attempts."""
    seen: list[CurrentCall | None] = []

    def call(number: int) -> None:
        seen.append(current_call())
        if len(seen) < 3:
            raise ValueError(number)

    with RetryingExecutor(2, retry=AT_ONCE) as executor:
        future = executor.submit(partial(call, 1))
        future.result(TIMEOUT)
        other = executor.submit(current_call).result(TIMEOUT)
    name = f"{__name__}.test_a_running_call_knows_itself.<locals>.call"
    assert [future.key] * 3 == [one.key for one in seen if one]
    assert [(name, 1), (name, 2), (name, 3)] == [(one.name, one.attempt) for one in seen if one]
    keys = {UUID(one.key) for one in seen if one}
    assert 1 == len(keys)
    assert other is not None
    assert UUID(other.key) not in keys


@both
@pytest.mark.parametrize(
    ("max_elapsed", "least", "most"), [(100, 90.0, 100.0), (0, 0.0, 0.0), (None, None, None)]
)
def test_a_running_call_knows_how_much_time_is_left(
    max_elapsed: float | None, least: float | None, most: float | None
) -> None:
    """For further attempts, by the policy."""
    with RetryingExecutor(1, retry=RetryPolicy(max_elapsed=max_elapsed)) as executor:
        call = executor.submit(current_call).result(TIMEOUT)
    assert call is not None
    assert call.time_left is None if least is None else call.time_left is not None
    assert most is None or (call.time_left is not None and least is not None)
    if call.time_left is not None and least is not None and most is not None:
        assert least <= call.time_left <= most


@both
def test_outside_of_an_attempt_there_is_no_current_call() -> None:
    """Neither in other threads, nor in callbacks and initializers of the executor's own."""
    seen: list[CurrentCall | None] = [current_call()]

    def initializer() -> None:
        seen.append(current_call())

    with RetryingExecutor(1, initializer=initializer) as executor:
        future = executor.submit(time.sleep, 0.01)
        future.add_done_callback(lambda _: seen.append(current_call()))
    assert [None, None, None] == seen


def test_a_call_that_was_settled_meanwhile_is_no_current_call() -> None:
    """Its attempt still runs, but for nothing."""
    started, may_end = threading.Event(), threading.Event()

    def call() -> None:
        started.set()
        assert may_end.wait(TIMEOUT)
        seen.append(current_call())

    seen: list[CurrentCall | None] = []
    with RetryingExecutor(1) as executor:
        future = executor.submit(call)
        assert started.wait(TIMEOUT)
        future.set_result(None)
        may_end.set()
    assert [None] == seen


@both
def test_a_policy_may_ask_for_the_current_call() -> None:
    """It decides in the thread, and about the call, that ran."""
    seen: list[int] = []

    def policy(_: object) -> None:
        call = current_call()
        assert call is not None
        seen.append(call.attempt)

    with RetryingExecutor(1, retry=policy) as executor:
        executor.submit(fail).exception()
    assert [1] == seen


# -- attempts that run for long ------------------------------------------------------------------


def test_an_attempt_that_runs_for_long_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With the stack of its thread, from the call on; after that time, twice that, and so on."""
    may_end = threading.Event()

    def hang() -> None:
        assert may_end.wait(TIMEOUT)

    def warnings() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.key == "hanging"]  # type: ignore[attr-defined]

    with RetryingExecutor(2, "worker", warn_after=timedelta(milliseconds=5)) as executor:
        executor.submit(int).result(TIMEOUT)  # on a busy machine it takes long, too
        executor.with_options(key="hanging").submit(hang)
        assert eventually(lambda: len(warnings()) >= 3)
        may_end.set()
    first, second, third, *_ = warnings()
    lines = first.getMessage().splitlines()
    assert lines[0].startswith(f"{__name__}.{hang.__qualname__} [hanging]: attempt 1 has been running for ")
    assert "in thread worker_" in lines[0]
    assert f'File "{__file__}", line' in lines[1]
    assert "hang" in lines[1]
    durations = [record.duration for record in (first, second, third)]  # type: ignore[attr-defined]
    assert durations[0] >= 0.005
    assert all(later >= 2 * sooner for sooner, later in pairwise(durations))
    assert ("runs_for_long", 1) == (first.kind, first.attempt)  # type: ignore[attr-defined]


def test_an_attempt_that_ends_in_time_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """However many there are, and whoever starts them in a moment in which none runs."""
    with RetryingExecutor(2, warn_after=3600, retry=AT_ONCE) as executor:
        for number in range(100):
            executor.submit(Flaky(number % 2)).result(TIMEOUT)
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_watchdog_wakes_for_an_attempt_after_a_pause(caplog: pytest.LogCaptureFixture) -> None:
    """It does not sleep until it would have left."""
    may_end = threading.Event()
    with RetryingExecutor(1, warn_after=0.001) as executor:
        executor.submit(int).result(TIMEOUT)
        watchdog = executor._core.monitor._watchdog  # type: ignore[union-attr]
        assert eventually(lambda: watchdog._is_idle)
        executor.submit(may_end.wait)
        assert eventually(lambda: caplog.records)
        may_end.set()


def test_a_watchdog_sees_the_longest_of_several_attempts(caplog: pytest.LogCaptureFixture) -> None:
    """Whichever of them end meanwhile; and an upstream of theirs needs no listener."""
    may_end, service = threading.Event(), Upstream("service")
    with RetryingExecutor(3, warn_after=0.001, upstream=service) as executor:
        executor.submit(may_end.wait)
        assert eventually(lambda: caplog.records)
        for _ in range(100):
            executor.submit(int).result(TIMEOUT)
        service.pause(0)
        may_end.set()
    assert {"threading.Event.wait"} == {record.call for record in caplog.records}  # type: ignore[attr-defined]


def test_a_watchdog_sees_an_attempt_that_begins_after_one_that_hangs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However late the next warning about that one is due."""
    may_end = threading.Event()
    with RetryingExecutor(2, warn_after=0.05) as executor:
        executor.submit(may_end.wait)
        assert eventually(lambda: caplog.records)
        watchdog = executor._core.monitor._watchdog  # type: ignore[union-attr]
        (hung,) = watchdog._running.values()
        hung.warns_at = math.inf
        watchdog._wake.set()
        assert eventually(lambda: not watchdog._wake.is_set())
        executor.submit(partial(assert_in_time, may_end))
        assert eventually(lambda: "assert_in_time" in caplog.text)
        may_end.set()


def test_a_watchdog_holds_on_to_no_call() -> None:
    """Once it is done, nothing of it is kept (G2)."""
    with RetryingExecutor(1, warn_after=0.001) as executor:
        executor.submit(time.sleep, 0.01).result(TIMEOUT)
        watchdog = executor._core.monitor._watchdog  # type: ignore[union-attr]
        assert {} == watchdog._running


@needs_gil  # without it, references are counted later
def test_a_watchdog_holds_on_to_nothing_that_threads_have_in_hands(caplog: pytest.LogCaptureFixture) -> None:
    """What it sees of other threads goes when they let go of it, without help from the collector (G2)."""

    class Local:
        """What a function that waits for its call has in its hands, besides."""

    def handle() -> weakref.ref[Local]:
        local, may_end = Local(), threading.Event()
        future = executor.submit(partial(assert_in_time, may_end))
        assert eventually(lambda: "assert_in_time" in caplog.text)
        may_end.set()
        future.result(TIMEOUT)
        return weakref.ref(local)

    gc.collect()
    gc.disable()
    try:
        with RetryingExecutor(1, warn_after=0.001) as executor:
            gone = [handle() for _ in range(3)]
            assert eventually(lambda: not any(ref() for ref in gone))
    finally:
        gc.enable()


def test_a_log_handler_may_shut_down_in_the_watchdogs_thread() -> None:
    """It does not wait for itself (F7)."""
    may_end = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            may_end.set()
            executor.shutdown()

    logger, handler = logging.getLogger("retrying_executor"), Handler()
    logger.addHandler(handler)
    try:
        executor = RetryingExecutor(1, warn_after=0.001)
        executor.submit(may_end.wait).result(TIMEOUT)
        executor.shutdown()
    finally:
        logger.removeHandler(handler)


# -- bad arguments -------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"on_event": 1}, TypeError, "on_event must be callable or None, not 1"),
        (
            {"on_event": listen_for_nothing},
            TypeError,
            "on_event must not be a coroutine function",
        ),
        ({"warn_after": "1"}, TypeError, "warn_after must be a number of seconds or a timedelta, not '1'"),
        ({"warn_after": 0}, ValueError, "warn_after must be more than 0 seconds, not 0"),
        ({"warn_after": -1}, ValueError, "warn_after must be a finite number"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    """At once, by name."""
    with pytest.raises(error, match=message):
        RetryingExecutor(**options)


def test_what_is_not_there_is_not_there() -> None:
    """The package imports what few programs need when somebody asks for it, and nothing else."""
    import retrying_executor

    assert monitor.Event is retrying_executor.Event
    with pytest.raises(AttributeError, match="has no attribute 'event'"):
        _ = retrying_executor.event


def test_an_attempt_whose_thread_is_gone_has_no_stack() -> None:
    """An asynchronous exception may end a thread between an attempt and the note that it is over (G3)."""
    work: Any = (int, (), {}, None)
    owner: Any = None
    assert [] == Run(RetryingFuture(owner, work, Terms(None)), work, 5.0).stack({})
