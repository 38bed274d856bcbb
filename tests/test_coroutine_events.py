"""Coroutine functions, as seen by those who look on: verdicts, events, numbers, and the watchdog."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import time
import types
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from itertools import pairwise
from typing import Any, NoReturn

import pytest

from conftest import TIMEOUT
from observe import eventually
from retrying_executor import (
    NotNow,
    RetryingExecutor,
    RetryingFuture,
    RetryPolicy,
    current_call,
)
from retrying_executor._calls.flight import Flight
from retrying_executor._calls.terms import Terms
from retrying_executor._observe import coroutines
from retrying_executor._observe.monitor import Monitor
from retrying_executor._observe.watchdog import Run, Watchdog
from test_monitor import Listener

AT_ONCE = RetryPolicy(delays=(0,) * 4)


class Loop:
    """Coroutines that wait until they may end, and one that blocks the loop until then."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.running = 0
        self.is_blocked = threading.Event()

    async def inner(self) -> None:
        while not self.may_end.is_set():
            await asyncio.sleep(0.001)

    async def wait(self) -> None:
        self.running += 1
        await self.inner()

    def block(self) -> None:
        self.is_blocked.set()
        assert self.may_end.wait(TIMEOUT)

    async def block_here(self) -> None:
        await asyncio.sleep(0)
        self.block()

    async def block_in_task(self) -> None:
        await asyncio.gather(asyncio.create_task(self.block_here()))

    async def block_in_callback(self) -> None:
        asyncio.get_running_loop().call_soon(self.block)
        await self.inner()

    async def leave_a_task_that_blocks(self) -> None:
        self.left = asyncio.create_task(self.block_here())


@pytest.fixture
def loop() -> Iterator[Loop]:
    """What coroutines do that run for long; in the end they may end."""
    loop = Loop()
    yield loop
    loop.may_end.set()


# -- verdicts ------------------------------------------------------------------------------------


async def fail(exception: BaseException) -> NoReturn:
    """Raise *exception*, with no other frame below this one."""
    raise exception


@pytest.mark.parametrize(("arguments", "attempts"), [([TypeError("no")], 5), ([], 1)])
def test_a_coroutine_that_raises_a_type_error_is_retried(arguments: list[TypeError], attempts: int) -> None:
    """As a function that does: only arguments that do not fit would never do (B4)."""
    with RetryingExecutor(1, retry=AT_ONCE) as executor:
        future = executor.submit(fail, *arguments)
        assert isinstance(future.exception(TIMEOUT), TypeError)
    assert attempts == future.attempts


# -- events --------------------------------------------------------------------------------------


@pytest.fixture
def listener() -> Listener:
    """A listener."""
    return Listener()


def test_a_listener_is_told_all_that_happens_to_a_coroutine(listener: Listener) -> None:
    """In order, with the attempt and the times, as of any other call (G3, K1)."""
    outcomes: list[Exception] = [ConnectionError("not yet"), NotNow("busy", after=0)]

    async def call() -> None:
        await asyncio.sleep(0.001)
        if outcomes:
            raise outcomes.pop(0)

    with RetryingExecutor(1, retry=AT_ONCE, on_event=listener) as executor:
        future = executor.submit(call)
        future.result(TIMEOUT)
    attempt = "attempt_started"
    assert ["accepted", attempt, "retry_scheduled", attempt, "not_now", attempt, "done"] == listener.kinds
    assert [0, 1, 1, 2, 2, 3, 3] == [event.attempt for event in listener.events]
    assert {future.key} == {event.key for event in listener.events}
    assert {f"{__name__}.{call.__qualname__}"} == {event.call for event in listener.events}
    _, first, retry, second, not_now, _, done = listener.events
    assert retry.duration is not None
    assert not_now.duration is not None
    assert 0.001 <= retry.duration <= second.time - first.time + 0.01  # on two clocks
    assert 0.001 <= not_now.duration
    assert done.duration is not None
    assert retry.duration + not_now.duration <= done.duration
    assert ("succeeded", None, None) == (done.outcome, done.exception, done.delay)


def test_giving_up_a_coroutine_is_an_event(listener: Listener) -> None:
    """With what it gave up for; and so is being done, with the outcome (G3, K1)."""
    error = ConnectionError("no")
    with RetryingExecutor(1, retry=RetryPolicy(delays=(0,)), on_event=listener) as executor:
        assert error is executor.submit(fail, error).exception(TIMEOUT)
    gave_up, done = listener.events[-2:]
    assert ("gave_up", 2, error) == (gave_up.kind, gave_up.attempt, gave_up.exception)
    assert ("done", "failed", error) == (done.kind, done.outcome, done.exception)


@pytest.mark.parametrize("how", ["cancel", "set_result", "cancel_futures", "timeout"])
def test_a_coroutine_that_is_cancelled_while_it_runs_is_done_and_nothing_else(
    listener: Listener, loop: Loop, how: str
) -> None:
    """No retry is told of, nor that it gave up; ``duration`` is the time since it was accepted (E1, K3)."""
    executor = RetryingExecutor(1, retry=AT_ONCE, on_event=listener)
    future = executor.submit(loop.wait)
    assert eventually(lambda: loop.running)
    assert eventually(lambda: len(listener.events) == 2)
    if how == "cancel":
        assert future.cancel()
    elif how == "set_result":
        future.set_result(None)
    if how == "timeout":
        executor.shutdown(timeout=0)
    else:
        executor.shutdown(wait=False, cancel_futures=how == "cancel_futures")
        if how == "cancel_futures":  # that lets finish what runs
            loop.may_end.set()
        executor.shutdown()
    assert eventually(lambda: len(listener.events) == 3)
    assert ["accepted", "attempt_started", "done"] == listener.kinds
    done = listener.events[-1]
    assert ("cancelled" if how in ("cancel", "timeout") else "succeeded", 1, None) == (
        done.outcome,
        done.attempt,
        done.exception,
    )
    assert done.duration is not None
    assert 0.0 <= done.duration <= time.time() - listener.events[0].time + 0.01


def test_what_a_coroutine_waits_for_its_place_is_not_its_duration(listener: Listener) -> None:
    """That of an event is how long it took to run (G3, K1)."""
    first = Loop()

    async def fail_at_once() -> NoReturn:
        ended_at.append(time.monotonic())
        raise ConnectionError

    ended_at: list[float] = []
    with RetryingExecutor(
        1, retry=RetryPolicy(delays=[0]), on_event=listener, max_coroutines=1, warn_after=3600
    ) as executor:
        executor.submit(first.wait)
        future = executor.submit(fail_at_once)
        assert eventually(lambda: listener.kinds.count("attempt_started") == 2)
        waited_since = time.monotonic()
        assert eventually(lambda: time.monotonic() - waited_since > 0.05)
        released_at = time.monotonic()
        first.may_end.set()
        assert isinstance(future.exception(TIMEOUT), ConnectionError)
        judged_at = time.monotonic()
    (retry,) = [event for event in listener.events if event.kind == "retry_scheduled"]
    assert retry.duration is not None
    assert retry.duration <= judged_at - released_at


def test_the_story_of_each_of_many_coroutines_is_told_in_order(listener: Listener) -> None:
    """However many run at a time: accepted first, done last, and each attempt once (G3, K1)."""

    async def call(number: int) -> int:
        await asyncio.sleep(0)
        call_ = current_call()
        assert call_ is not None
        if call_.attempt <= number % 3:
            raise ConnectionError
        return number

    with RetryingExecutor(4, retry=AT_ONCE, on_event=listener) as executor:
        futures = [executor.submit(call, number) for number in range(300)]
        assert list(range(300)) == [future.result(TIMEOUT) for future in futures]
    told = listener.told()
    for number, future in enumerate(futures):
        kinds = [event.kind for event in told[future.key]]
        attempts = ["attempt_started", "retry_scheduled"] * (number % 3) + ["attempt_started"]
        assert ["accepted", *attempts, "done"] == kinds


class Observed:
    """How often observers were told that an attempt began, and that it ended, by call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: Counter[Any] = Counter()
        self.ended: Counter[Any] = Counter()
        for name in ("started", "ended"):
            monkeypatch.setattr(Monitor, name, self._counting(getattr(Monitor, name), name))

    def _counting(self, tell: Callable[..., None], name: str) -> Callable[..., None]:
        def count(monitor: Monitor, call: Any, *more: Any) -> None:
            tell(monitor, call, *more)
            getattr(self, name)[call.key] += 1

        return count

    def of(self, future: RetryingFuture[Any]) -> tuple[int, int]:
        """Return how many attempts of a call began and ended."""
        return self.started[future.key], self.ended[future.key]


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> Observed:
    """What observers are told."""
    return Observed(monkeypatch)


@pytest.mark.parametrize("how", ["cancel", "set_result", "timeout", "cancel_futures", "ends"])
@pytest.mark.parametrize("place", ["has a place", "waits for a place"])
def test_each_attempt_of_a_coroutine_that_begins_ends_once(
    observed: Observed, loop: Loop, place: str, how: str
) -> None:
    """To observers, whatever becomes of its call meanwhile (G3, K3)."""
    other, most = Loop(), 1 if place == "waits for a place" else 2
    executor = RetryingExecutor(2, max_coroutines=most, warn_after=3600)
    blocker = executor.submit(other.wait)
    assert eventually(lambda: other.running)
    future = executor.submit(loop.wait)
    assert eventually(lambda: observed.of(future) == (1, 0))
    if place == "has a place":
        assert eventually(lambda: loop.running)
    if how == "cancel":
        assert future.cancel()
    elif how == "set_result":
        future.set_result(None)
    elif how == "timeout":
        executor.shutdown(timeout=0)
        assert future.cancelled()
    elif how == "cancel_futures":
        executor.shutdown(wait=False, cancel_futures=True)
    if how != "timeout":
        loop.may_end.set()
        other.may_end.set()
    executor.shutdown()
    assert [(1, 1), (1, 1)] == [observed.of(future), observed.of(blocker)]
    assert not executor._core.monitor._watchdog._running  # type: ignore[union-attr]


def refuse(*_: object, **__: object) -> NoReturn:
    """Raise."""
    raise RuntimeError("no")


def loop_that_makes_no_tasks() -> asyncio.AbstractEventLoop:
    """Return a loop whose task factory raises."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(refuse)
    return loop


@pytest.mark.parametrize("loop_factory", [refuse, loop_that_makes_no_tasks])
def test_an_attempt_that_cannot_even_start_in_a_loop_ends(
    observed: Observed, listener: Listener, loop_factory: Callable[[], Any]
) -> None:
    """To observers, once for each attempt (G3, K1)."""
    with RetryingExecutor(
        1, retry=AT_ONCE, on_event=listener, loop_factory=loop_factory, warn_after=3600
    ) as executor:
        future = executor.submit(asyncio.sleep, 0)
        assert isinstance(future.exception(TIMEOUT), RuntimeError)
    assert (future.attempts, future.attempts) == observed.of(future)
    assert future.attempts == listener.kinds.count("attempt_started")
    assert ("done", "failed") == (listener.events[-1].kind, listener.events[-1].outcome)


# -- numbers -------------------------------------------------------------------------------------


def test_coroutines_that_are_awaited_count_as_running(loop: Loop) -> None:
    """However many more than threads; and each as what became of it, once it is done (G4, K1)."""
    with RetryingExecutor(2, retry=None) as executor:
        waiting = [executor.submit(loop.wait) for _ in range(300)]
        assert eventually(lambda: loop.running == 300)
        stats = executor.stats()
        assert (300, 300, 0) == (stats.submitted, stats.running, stats.ready)
        assert 1 <= stats.threads <= 2
        assert all(future.cancel() for future in waiting[:100])
        stats = executor.stats()
        assert (100, 300) == (stats.cancelled, stats.cancelled + stats.running)
        failed = executor.submit(fail, ValueError("no"))
        assert isinstance(failed.exception(TIMEOUT), ValueError)
        loop.may_end.set()
    stats = executor.stats()
    assert (301, 200, 1, 100) == (stats.submitted, stats.succeeded, stats.failed, stats.cancelled)
    assert (0, 0) == (stats.running, stats.threads)


# -- coroutines that run for long ----------------------------------------------------------------


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop counts as blocked soon. In tests where it is not, it does not: machines may be slow."""
    monkeypatch.setattr(coroutines, "_PATIENCE", 0.01)


def first_lines(caplog: pytest.LogCaptureFixture, beginning: str) -> list[str]:
    """Return the first lines of messages that begin with that, without how long it took."""
    lines = [message.splitlines()[0] for message in caplog.messages]
    return [line.partition(" for ")[2].partition(", ")[2] for line in lines if line.startswith(beginning)]


def test_a_coroutine_that_waits_for_long_is_logged_with_where(
    caplog: pytest.LogCaptureFixture, loop: Loop
) -> None:
    """From its function down to what it waits for; after that time, twice that, and so on (G3, K1)."""
    with RetryingExecutor(1, "worker", warn_after=0.005) as executor:
        executor.with_options(key="hanging").submit(loop.wait)
        where = "and waits here:"
        name = f"{__name__}.{Loop.wait.__qualname__}"
        assert eventually(lambda: 3 <= first_lines(caplog, name).count(where))
        loop.may_end.set()
    first, second, third, *_ = [record for record in caplog.records if where in record.getMessage()]
    head, *stack = first.getMessage().splitlines()
    assert head.startswith(f"{name} [hanging]: attempt 1 has been running for ")
    assert ["wait", "inner", "sleep"] == [line.split()[-1] for line in stack if " line " in line]
    assert "await self.inner()" in [line.strip() for line in stack]
    assert ("runs_for_long", 1) == (first.kind, first.attempt)  # type: ignore[attr-defined]
    durations = [record.duration for record in (first, second, third)]  # type: ignore[attr-defined]
    assert 0.005 <= durations[0]
    assert all(later >= 2 * sooner for sooner, later in pairwise(durations))


def test_coroutines_that_wait_at_the_same_place_are_logged_together(
    caplog: pytest.LogCaptureFixture, loop: Loop
) -> None:
    """When a service hangs, these may be thousands (G3, K1)."""
    with RetryingExecutor(2, warn_after=3600) as executor:
        for _ in range(200):
            executor.submit(loop.wait)
        assert eventually(lambda: loop.running == 200)
        watchdog = executor._core.monitor._watchdog  # type: ignore[union-attr]
        with watchdog._lock:  # as if an hour had passed
            for run in watchdog._running.values():
                run.warns_at = run.began_at
            watchdog._wake.set()
        assert eventually(lambda: caplog.records)
        assert watchdog._asks_at > time.monotonic()
        loop.may_end.set()
    assert ["and waits here, with 199 more:"] == first_lines(caplog, __name__)


def test_coroutines_that_began_together_are_logged_together(
    caplog: pytest.LogCaptureFixture, loop: Loop
) -> None:
    """Though each is due at a moment of its own: the loop is not asked for each (G3, K1)."""
    with RetryingExecutor(1, warn_after=3600) as executor:
        for _ in range(3):
            executor.submit(loop.wait)
        assert eventually(lambda: loop.running == 3)
        watchdog = executor._core.monitor._watchdog  # type: ignore[union-attr]
        later = time.monotonic() + 3600
        with watchdog._lock:
            watchdog._asks_at = later  # as if it had just been asked
            for run in watchdog._running.values():
                run.warns_at = run.began_at
            watchdog._wake.set()
        assert eventually(lambda: {later} == {run.warns_at for run in watchdog._running.values()})
        loop.may_end.set()
    assert [] == caplog.records


@types.coroutine
def wait_as_of_old(loop: Loop) -> Generator[Any, Any, None]:
    """A coroutine function that is written as a generator."""
    yield from loop.inner()


def test_where_a_generator_waits_is_seen_too(caplog: pytest.LogCaptureFixture, loop: Loop) -> None:
    """It may be a coroutine (G3, K1)."""
    with RetryingExecutor(1, warn_after=0.005) as executor:
        executor.submit(wait_as_of_old, loop)
        assert eventually(lambda: "and waits here:" in first_lines(caplog, __name__))
        loop.may_end.set()
    assert "in wait_as_of_old\n" in caplog.text
    assert "in inner\n" in caplog.text


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(
    "blocks",
    [
        Loop.block_here,
        pytest.param(
            Loop.block_in_task,
            marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="a task does not tell its context"),
        ),
    ],
)
def test_a_coroutine_that_blocks_the_loop_is_named(
    caplog: pytest.LogCaptureFixture, loop: Loop, blocks: Callable[[Loop], Any]
) -> None:
    """With the stack of the thread; others that only wait because of it are not to blame (G3, K1)."""
    with RetryingExecutor(1, "worker", warn_after=0.01) as executor:
        for _ in range(5):
            executor.submit(loop.wait)
        executor.submit(blocks, loop)
        for _ in range(5):
            executor.submit(loop.wait)
        assert loop.is_blocked.wait(TIMEOUT)
        name = f"{__name__}.{blocks.__qualname__} "
        where = "and blocks the event loop, in thread worker_loop:"
        assert eventually(lambda: 3 <= first_lines(caplog, name).count(where))
        records = caplog.records.copy()
        loop.may_end.set()
    kinds = [record.kind for record in records]  # type: ignore[attr-defined]
    first = kinds.index("blocks_loop")
    assert {"blocks_loop"} == set(kinds[first:])
    stack = records[first].getMessage().splitlines()
    assert "in block_here" in stack[1]
    assert "assert self.may_end.wait(TIMEOUT)" in [line.strip() for line in stack]


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("blocks", [Loop.block_in_callback, Loop.leave_a_task_that_blocks])
def test_what_blocks_the_loop_may_be_no_call(
    caplog: pytest.LogCaptureFixture, loop: Loop, blocks: Callable[[Loop], Any]
) -> None:
    """Then its stack is logged with the call that has been waiting for longest (G3, K1)."""
    where = "while something else blocks the event loop, in thread worker_loop:"
    with RetryingExecutor(1, "worker", warn_after=0.01) as executor:
        executor.submit(loop.wait)
        executor.submit(blocks, loop)
        assert eventually(lambda: where in first_lines(caplog, f"{__name__}.Loop.wait "))
        loop.may_end.set()
    (message, *_) = [message for message in caplog.messages if "something else" in message]
    assert "in block\n" in message


@pytest.mark.usefixtures("patience")
def test_a_coroutine_that_blocks_the_loop_is_not_named_before_its_time(
    caplog: pytest.LogCaptureFixture, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is any other instead, and these get as much time once more (G3, K1)."""
    ask, found = coroutines.ask, list[object]()
    monkeypatch.setattr(coroutines, "ask", lambda flights: found.append(ask(flights)) or found[-1])
    with RetryingExecutor(1, warn_after=3600) as executor:
        executor.submit(loop.wait)
        executor.submit(loop.block_here)
        assert loop.is_blocked.wait(TIMEOUT)
        watchdog = executor._core.monitor._watchdog  # type: ignore[union-attr]
        with watchdog._lock:
            run, _ = watchdog._running.values()
            run.warns_at = began_at = run.began_at  # as if it had been running for an hour
            watchdog._wake.set()
        assert eventually(lambda: began_at + 3600 < run.warns_at)
        loop.may_end.set()
    assert [coroutines.Blockage] == [type(one) for one in found]
    assert [] == caplog.records


def test_a_coroutine_that_waits_for_its_place_is_not_blamed(caplog: pytest.LogCaptureFixture) -> None:
    """Nor is that time counted when it runs at last (G3, K1)."""
    first, second = Loop(), Loop()
    with RetryingExecutor(1, warn_after=0.005, max_coroutines=1) as executor:
        executor.with_options(label="first").submit(first.wait)
        executor.with_options(label="second").submit(second.wait)
        assert eventually(lambda: 3 <= len(caplog.records))
        assert {"first"} == {record.label for record in caplog.records}  # type: ignore[attr-defined]
        released_at = time.monotonic()
        first.may_end.set()
        assert eventually(lambda: caplog.records[-1].label == "second")  # type: ignore[attr-defined]
        (run,) = executor._core.monitor._watchdog._running.values()  # type: ignore[union-attr]
        assert released_at <= run.began_at
        second.may_end.set()


def test_a_plain_call_that_hangs_is_logged_beside_coroutines(
    caplog: pytest.LogCaptureFixture, loop: Loop
) -> None:
    """With the stack of its thread, as ever (G3)."""
    with RetryingExecutor(2, "worker", warn_after=0.005) as executor:
        executor.submit(loop.wait)
        executor.submit(loop.block)
        assert eventually(lambda: first_lines(caplog, f"{__name__}.Loop.wait "))
        assert eventually(lambda: first_lines(caplog, f"{__name__}.Loop.block "))
        loop.may_end.set()
    assert "in thread worker_" in first_lines(caplog, f"{__name__}.Loop.block ")[0]


class FakeTask:
    """A task, as far as it is asked for where it waits."""

    def __init__(self, loop: FakeLoop, *, has_ended: bool) -> None:
        self.loop = loop
        self.has_ended = has_ended

    def get_loop(self) -> FakeLoop:
        return self.loop

    def get_coro(self) -> None:
        """Nothing that can be looked into."""

    def done(self) -> bool:
        return self.has_ended


class FakeLoop:
    """A loop that answers when it is told to."""

    def call_soon_threadsafe(self, answer: Callable[[], None], *, context: contextvars.Context) -> None:
        self.answer = answer


def flight_of(task: Any) -> Flight:
    """Return the flight of a call that has this task."""
    work: Any = (int, (), {}, contextvars.Context())
    owner: Any = None
    coroutine: Any = None
    flight = Flight(RetryingFuture(owner, work, Terms(None)), work, None, coroutine, 0, threading.RLock())
    flight.task, flight.thread = task, threading.current_thread()
    return flight


def test_a_loop_that_goes_on_is_not_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer is on its way, and may come at the last moment; those that have ended wait nowhere."""
    loop, tasks = FakeLoop(), iter(["one", "another", "a third", "a third"])
    running, ended, landed = FakeTask(loop, has_ended=False), FakeTask(loop, has_ended=True), None
    monkeypatch.setattr(coroutines, "_PATIENCE", 0.0)
    monkeypatch.setattr(asyncio, "current_task", lambda loop: next(tasks))
    monkeypatch.setattr(coroutines, "Blockage", lambda task, thread: loop.answer())
    flights = [flight_of(task) for task in (running, ended, landed)]
    assert {flights[0]: ()} == coroutines.ask(flights)
    assert [] == list(tasks)


def test_a_loop_that_stops_after_its_last_coroutine_is_not_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not answer any more (C2)."""
    flight = flight_of(FakeTask(FakeLoop(), has_ended=False))

    def land(_: object) -> None:
        flight.task = None

    monkeypatch.setattr(coroutines, "_PATIENCE", 0.0)
    monkeypatch.setattr(asyncio, "current_task", land)
    assert {} == coroutines.ask([flight])


def test_coroutines_that_have_ended_are_not_asked_for() -> None:
    """They may end at any moment, and their loop may be closed then."""
    assert {} == coroutines.ask([flight_of(None)])
    loop: Any = asyncio.new_event_loop()
    loop.close()
    assert {} == coroutines.ask([flight_of(FakeTask(loop, has_ended=False))])


def test_nothing_is_blamed_for_a_blockage_that_is_over(caplog: pytest.LogCaptureFixture) -> None:
    """Nor anybody else: the loop goes on (G3, K1)."""
    flight = flight_of(None)
    task: Any = FakeTask(FakeLoop(), has_ended=True)
    call: Any = flight.call
    run = Run(call, (int, (), {}, contextvars.Context()), 5.0)
    due = {flight: (call, run)}
    Watchdog(5.0, "worker")._warn_of(coroutines.Blockage(task, threading.Thread()), due, run.began_at)
    assert run.began_at + 5.0 == run.warns_at
    assert [] == caplog.records


def test_a_thread_that_is_gone_has_no_stack() -> None:
    """A loop may end as soon as it was looked at (G3)."""
    assert [] == coroutines.Blockage(None, threading.Thread()).stack
