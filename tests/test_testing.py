"""The executor in virtual time, and the fixture that makes one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, as_completed
from concurrent.futures.thread import BrokenThreadPool
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pages
from calls import Flaky
from conftest import IS_INSTALLED, TIMEOUT
from observe import needs_gil
from retrying_executor import (
    Attempt,
    CurrentCall,
    Event,
    NotNow,
    PendingLimitError,
    RetryingExecutor,
    RetryPolicy,
    Upstream,
    View,
    current_call,
)
from retrying_executor._common import exits, log
from retrying_executor._observe import monitor
from retrying_executor._threads.threads import Threads
from retrying_executor.testing import VirtualTimeExecutor

ROOT = Path(__file__).parents[1]
PAGE = pages.HOW_TO / "testing.md"

pytest_plugins = ["pytester"]

ENDLESS = RetryPolicy(max_attempts=None, max_elapsed=None)
EACH_MINUTE = ENDLESS.replace(initial_delay=60, multiplier=1, jitter=False)


class DownUntil:
    """A call that fails until a time, and notes at which times it was made."""

    def __init__(self, executor: VirtualTimeExecutor, until: float = math.inf) -> None:
        self.clock = executor.monotonic
        self.until = until
        self.times: list[float] = []

    def __call__(self) -> str:
        self.times.append(self.clock())
        if self.times[-1] < self.until:
            raise ConnectionError("down")
        return "delivered"


@pytest.fixture
def executor() -> Iterator[VirtualTimeExecutor]:
    """An executor in virtual time that tries again each minute."""
    executor = VirtualTimeExecutor(retry=EACH_MINUTE)
    yield executor
    executor.shutdown(cancel_futures=True)


# -- time ------------------------------------------------------------------------------------------


def test_an_hour_of_backoff_is_waited_out_at_once(executor: VirtualTimeExecutor) -> None:
    """Who waits for an outcome has it when the clock has jumped to it (B6)."""
    call = DownUntil(executor, 3600)
    assert "delivered" == executor.submit(call).result()
    assert [60.0 * minute for minute in range(61)] == call.times
    assert 3600 == executor.monotonic()


def test_nothing_runs_until_somebody_waits(executor: VirtualTimeExecutor) -> None:
    """To submit, and to look, makes no attempt."""
    future = executor.submit(Flaky(0))
    assert (0, False, None) == (future.attempts, future.done(), future.due_at)
    assert (1, 0, 0) == (executor.stats().ready, executor.stats().running, executor.stats().threads)
    assert future.result() == 0


def test_no_thread_is_started(executor: VirtualTimeExecutor) -> None:
    """Calls run in the thread that waits for them."""
    before = threading.active_count()
    threads = {executor.submit(threading.get_ident).result() for _ in range(3)}
    assert {threading.get_ident()} == threads
    assert before == threading.active_count()


def test_advance_runs_what_becomes_due(executor: VirtualTimeExecutor) -> None:
    """So many seconds pass, the last instant included, and no more."""
    call = DownUntil(executor, 150)
    future = executor.submit(call)
    assert [] == call.times
    executor.advance(0)
    assert ([0], 60) == (call.times, future.due_at)
    executor.advance(timedelta(seconds=59))
    assert ([0], 59) == (call.times, executor.monotonic())
    executor.advance(1)
    assert ([0, 60], 60) == (call.times, executor.monotonic())
    executor.advance(1000)
    assert ([0, 60, 120, 180], 1060) == (call.times, executor.monotonic())
    assert future.done()


@pytest.mark.parametrize("wait", ["result", "exception"])
def test_timeouts_are_in_virtual_time(executor: VirtualTimeExecutor, wait: str) -> None:
    """A wait ends at its deadline, the attempts that are due then included."""
    call = DownUntil(executor, 60)
    future = executor.submit(call)
    with pytest.raises(concurrent.futures.TimeoutError):
        getattr(future, wait)(59)
    assert (59, [0]) == (executor.monotonic(), call.times)
    with pytest.raises(concurrent.futures.TimeoutError):
        getattr(future, wait)(0)
    getattr(future, wait)(1)
    assert [0, 60] == call.times


def test_sleeping_in_a_call_is_how_long_it_takes(executor: VirtualTimeExecutor) -> None:
    """Attempts run one after the other, so what they take adds up; who waits for too long is told."""
    first, second = (executor.submit(executor.sleep, 60) for _ in range(2))
    with pytest.raises(concurrent.futures.TimeoutError):
        first.result(59)
    assert (60, True, False) == (executor.monotonic(), first.done(), second.done())
    second.result(60)
    assert 120 == executor.monotonic()


def test_sleeping_elsewhere_lets_the_calls_go_on(executor: VirtualTimeExecutor) -> None:
    """Code that sleeps between two looks at a future finds it done."""
    future = executor.submit(DownUntil(executor, 600))
    while not future.done():
        executor.sleep(7)
    assert 602 == executor.monotonic()


def test_advancing_is_for_who_waits(executor: VirtualTimeExecutor) -> None:
    """In a call, time passes by sleep() only."""
    with pytest.raises(RuntimeError, match="use sleep"):
        executor.with_options(retry=None).submit(executor.advance, 1).result()


@pytest.mark.parametrize("method", ["advance", "sleep"])
@pytest.mark.parametrize(
    ("duration", "error"),
    [(-1, ValueError), (math.inf, ValueError), (math.nan, ValueError), ("1", TypeError)],
)
def test_durations_are_checked(
    executor: VirtualTimeExecutor, method: str, duration: Any, error: type[Exception]
) -> None:
    """What is no duration is told at once, by name."""
    with pytest.raises(error, match="duration must be"):
        getattr(executor, method)(duration)


# -- in place of the real one ----------------------------------------------------------------------


def test_it_passes_for_the_real_one(executor: VirtualTimeExecutor) -> None:
    """Code that asks for a type is satisfied (A5)."""
    assert all(isinstance(executor, kind) for kind in (Executor, ThreadPoolExecutor, RetryingExecutor))
    assert isinstance(executor.with_options(), View)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"max_workers": 0}, ValueError, "max_workers"),
        ({"initializer": 1}, TypeError, "initializer"),
        ({"retry": 3}, TypeError, "retry"),
        ({"upstream": "glue"}, TypeError, "upstream"),
        ({"idle_timeout": -1}, ValueError, "idle_timeout"),
        ({"max_pending": 0}, ValueError, "max_pending"),
        ({"when_full": "drop"}, ValueError, "when_full"),
        ({"on_event": 1}, TypeError, "on_event"),
        ({"warn_after": 0}, ValueError, "warn_after"),
        ({"seed": "1"}, TypeError, "seed must be an integer, not '1'"),
        ({"seed": True}, TypeError, "seed must be an integer, not True"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], error: type[Exception], match: str) -> None:
    """As the real one does."""
    with pytest.raises(error, match=match):
        VirtualTimeExecutor(**options)


def test_wait_makes_attempts(executor: VirtualTimeExecutor) -> None:
    """`concurrent.futures.wait` knows nothing of virtual time, and yet it is what passes."""
    slow, fast = (executor.submit(DownUntil(executor, until)) for until in (600, 120))
    done, not_done = concurrent.futures.wait([slow, fast], timeout=119)
    assert (set(), {slow, fast}, 119) == (done, not_done, executor.monotonic())
    done, not_done = concurrent.futures.wait([slow, fast], return_when=FIRST_COMPLETED)
    assert ({fast}, {slow}, 120) == (done, not_done, executor.monotonic())
    assert {slow, fast} == concurrent.futures.wait([slow, fast]).done
    assert 600 == executor.monotonic()


def test_as_completed_makes_attempts(executor: VirtualTimeExecutor) -> None:
    """Futures come when they are done; the timeout counts from the beginning, exactly."""
    futures = [executor.submit(DownUntil(executor, until)) for until in (600, 120, 300)]
    first, second, third = futures
    assert [(second, 120), (third, 300), (first, 600)] == [
        (future, executor.monotonic()) for future in as_completed(futures)
    ]
    futures = [executor.submit(DownUntil(executor, 600 + after)) for after in (60, 120)]
    done = as_completed(futures, timeout=100)
    assert futures[0] is next(done)
    with pytest.raises(concurrent.futures.TimeoutError, match="1 futures unfinished"):
        next(done)
    assert 700 == executor.monotonic()


def test_as_completed_sees_what_is_cancelled(executor: VirtualTimeExecutor) -> None:
    """A call that another one cancels comes too."""
    victim = executor.submit(DownUntil(executor))
    killer = executor.submit(victim.cancel)
    assert [killer] == list(as_completed([killer]))
    assert victim in concurrent.futures.wait([victim]).done
    waiting = executor.submit(DownUntil(executor))
    executor.submit(executor.submit, waiting.cancel)
    assert {waiting} == concurrent.futures.wait([waiting]).done
    assert waiting.cancelled()


def test_waits_for_other_executors_too(
    executor: VirtualTimeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its own futures are done, a wait goes on for those of others as it always does."""
    other: Future[int] = Future()
    mine = executor.submit(DownUntil(executor, 60))

    def wait(event: threading.Event, timeout: float | None = None) -> bool:
        assert (True, TIMEOUT) == (mine.done(), timeout)
        other.set_result(1)
        return event.is_set()

    with monkeypatch.context() as patch:
        patch.setattr(threading.Event, "wait", wait)
        done = concurrent.futures.wait([mine, other], TIMEOUT).done
    assert {mine, other} == done


def test_asyncio(executor: VirtualTimeExecutor) -> None:
    """What a task awaits is not asked of the executor; what it calls is (A3, A5)."""

    async def main() -> str:
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(executor, DownUntil(executor, 3600))
        executor.drain()
        return await future

    assert "delivered" == asyncio.run(main())


def test_map(executor: VirtualTimeExecutor) -> None:
    """Results come in order, and the timeout is in virtual time and counts from the call (A2)."""
    view = executor.with_options()
    for submitter in (executor, view):
        assert [1, 4, 9] == list(submitter.map(lambda n: n * n, [1, 2, 3], buffersize=2))
    began_at = executor.monotonic()
    results = view.map(executor.sleep, [10, 10, 10], timeout=20)
    assert [None, None] == [next(results), next(results)]
    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)
    assert began_at + 30 == executor.monotonic()


def test_a_call_may_wait_for_another(executor: VirtualTimeExecutor) -> None:
    """It runs in the middle of it, before those that were not tried yet."""
    ran: list[str] = []

    def outer(name: str) -> None:
        inner = [executor.submit(ran.append, f"{name}{number}") for number in range(2)]
        inner[0].cancel()
        inner[1].result()
        assert executor.stats().threads == 1
        ran.append(name)

    for name in "abc":
        executor.submit(outer, name)
    executor.drain()
    assert ["a1", "a", "b1", "b", "c1", "c"] == ran


def test_very_many_calls_may_wait_for_others(executor: VirtualTimeExecutor) -> None:
    """They do not pile up on the stack."""
    futures = [executor.submit(lambda: executor.submit(int).result()) for _ in range(2000)]
    assert [0] * 2000 == [future.result() for future in futures]


def test_a_call_that_waits_for_itself_is_told(executor: VirtualTimeExecutor) -> None:
    """A wait that would never end raises instead."""
    future = executor.with_options(retry=None).submit(lambda: future.result())
    with pytest.raises(
        RuntimeError, match=r"would never end: test_testing.*<lambda> is running, and waits for itself"
    ):
        future.result()
    drain = executor.with_options(retry=None).submit(executor.drain)
    with pytest.raises(RuntimeError, match="would wait for itself"):
        drain.result()


def test_other_threads_take_turns(executor: VirtualTimeExecutor) -> None:
    """Who waits in another thread runs attempts there."""
    future = executor.submit(threading.get_ident)
    thread = threading.Thread(target=future.result)
    thread.start()
    thread.join(TIMEOUT)
    assert future.result() == thread.ident


@pytest.mark.parametrize("wait", ["drain", "shutdown"])
def test_other_threads_wait_for_an_attempt_that_runs(executor: VirtualTimeExecutor, wait: str) -> None:
    """They do not run in the call, so they would not wait for themselves (F1, F3)."""
    started, release = threading.Event(), threading.Event()

    def attempt() -> None:
        started.set()
        assert release.wait(TIMEOUT)

    future = executor.submit(attempt)
    with ThreadPoolExecutor(2) as threads:
        result = threads.submit(future.result)
        assert started.wait(TIMEOUT)
        done = threads.submit(lambda: (getattr(executor, wait)(), future.done()))
        assert not done.done()
        release.set()
        assert done.result(TIMEOUT)[1]
        assert None is result.result(TIMEOUT)


def test_a_wait_ends_though_the_thread_that_cancels_is_late(executor: VirtualTimeExecutor) -> None:
    """Between cancelling a call and telling so, the clock does not jump to the end of the wait (E1)."""
    future = executor.submit(int)
    late = executor._virtual.make_latch(executor._core, future)
    assert future.cancel()
    assert late.acquire(timeout=60)
    assert 0 == executor.monotonic()
    assert executor._virtual.wait(executor._core, bool, None, ())  # for room


# -- the same decisions ----------------------------------------------------------------------------


class Script:
    """A call whose attempts are answered one after the other: by a delay, or at last by ``None``."""

    def __init__(self, name: int, delays: list[float], log: list[tuple[float, int]], clock: Any) -> None:
        self.name = name
        self.delays = list(delays)
        self.log = log
        self.clock = clock

    def __call__(self) -> int:
        self.log.append((self.clock(), self.name))
        if self.delays:
            raise ConnectionError(self.name)
        return self.name

    def delay(self, attempt: Attempt) -> float:
        return self.delays.pop(0)


PROGRAMS = st.lists(
    st.tuples(st.integers(0, 5), st.lists(st.integers(0, 5).map(float), max_size=4)), max_size=6
)


def expected_order(program: list[tuple[int, list[float]]]) -> list[tuple[float, int]]:
    """Return which attempts are made at which times: a model that looks at everything each time (D1, D2)."""
    fresh: list[tuple[int, list[float]]] = []
    waiting: list[tuple[float, int, int, list[float]]] = []  # due at, ticket, name, delays
    log: list[tuple[float, int]] = []
    now, ticket = 0.0, 0

    def run_until(end: float) -> None:
        nonlocal now, ticket
        while True:
            due = sorted(entry for entry in waiting if entry[0] <= now)
            if due:
                waiting.remove(due[0])
                _, _, name, delays = due[0]
            elif fresh:
                name, delays = fresh.pop(0)
            else:
                later = [entry[0] for entry in waiting if entry[0] <= end]
                now = min(later, default=end)
                if not later:
                    return
                continue
            log.append((now, name))
            if delays:
                ticket += 1
                waiting.append((now + delays[0], ticket, name, delays[1:]))

    for name, (pause, delays) in enumerate(program):
        run_until(now + pause)
        fresh.append((name, delays))
    run_until(1000.0)
    return log


@settings(deadline=None)
@given(PROGRAMS)
def test_order_is_that_of_the_contract(program: list[tuple[int, list[float]]]) -> None:
    """First attempts in order of submission; due retries before them, in order of due times (D1, D2)."""
    log: list[tuple[float, int]] = []
    with VirtualTimeExecutor() as executor:
        for name, (pause, delays) in enumerate(program):
            executor.advance(pause)
            script = Script(name, delays, log, executor.monotonic)
            executor.with_options(retry=script.delay).submit(script)
        executor.advance(1000)
        assert len(program) == executor.stats().succeeded
    assert expected_order(program) == log


@settings(deadline=None)
@given(PROGRAMS)
def test_order_is_that_of_the_real_one(program: list[tuple[int, list[float]]]) -> None:
    """Where time plays no part, one worker makes the same attempts in the same order (D1, D2)."""

    def order(executor: RetryingExecutor) -> list[int]:
        log: list[tuple[float, int]] = []
        begin = threading.Event()
        with executor:
            executor.submit(begin.wait, TIMEOUT if type(executor) is RetryingExecutor else 0)
            for name, (_, delays) in enumerate(program):
                script = Script(name, [0.0] * len(delays), log, time.monotonic)
                executor.with_options(retry=script.delay).submit(script)
            begin.set()
        return [name for _, name in log]

    assert order(RetryingExecutor(1)) == order(VirtualTimeExecutor())


def run_of(seed: int, program: list[tuple[int, list[float]]]) -> object:
    """Return all that can be seen of a run with jitter, limits and holds."""
    log: list[tuple[float, int]] = []
    policy = RetryPolicy(max_attempts=4)
    with VirtualTimeExecutor(seed=seed, retry=policy) as executor:
        service = Upstream("service", max_concurrency=1, hold_after=2, rate=(2, 1.0))
        view = executor.with_options(upstream=service)
        futures = []
        for name, (pause, delays) in enumerate(program):
            executor.sleep(pause)
            script = Script(name, delays * 2, log, executor.monotonic)
            script.delays = [*delays, *delays]
            futures.append((view if len(delays) % 2 else executor).submit(_pop(script)))
        concurrent.futures.wait(futures)
        outcomes = [(future.attempts, type(future.exception())) for future in futures]
        return log, outcomes, executor.stats(), service.state, executor.monotonic()


def _pop(script: Script) -> Callable[[], int]:
    def call() -> int:
        try:
            return script()
        finally:
            del script.delays[:1]

    return call


@settings(deadline=None)
@given(st.integers(), PROGRAMS)
def test_runs_of_one_seed_are_the_same(seed: int, program: list[tuple[int, list[float]]]) -> None:
    """Order, times and outcomes are a function of the seed and of the program."""
    assert run_of(seed, program) == run_of(seed, program)


def test_runs_of_other_seeds_have_other_jitter() -> None:
    """The seed is what jitter is drawn from, and it leaves that of a policy of one's own alone."""

    def due_at(seed: int, policy: RetryPolicy) -> float | None:
        executor = VirtualTimeExecutor(seed=seed, retry=policy)
        future = executor.submit(Flaky(5))
        executor.advance(0)
        return future.due_at

    assert due_at(1, ENDLESS) == due_at(1, ENDLESS) != due_at(2, ENDLESS)
    assert {0.25} == {due_at(seed, ENDLESS.replace(random=lambda: 0.5)) for seed in (1, 2)}
    assert ENDLESS == EACH_MINUTE.replace(
        initial_delay=0.5, multiplier=2.0, jitter=True
    )  # nothing was changed


def test_running_call_knows_itself(executor: VirtualTimeExecutor) -> None:
    """Its key is a function of the seed, and the time left is virtual."""

    def call() -> tuple[CurrentCall | None, CurrentCall | None]:
        executor.sleep(10)
        inner = executor.submit(current_call).result()
        return current_call(), inner

    assert current_call() is None
    view = executor.with_options(max_elapsed=60)
    outer, inner = view.submit(call).result()
    assert outer is not None
    assert inner is not None
    assert (1, 50, None) == (outer.attempt, outer.time_left, inner.time_left)
    assert outer.key != inner.key
    first = VirtualTimeExecutor().submit(current_call).result()
    assert first is not None
    assert outer.key == first.key
    assert current_call() is None


def test_listener_is_told_at_once_in_virtual_time() -> None:
    """In the order in which things happen, even if it submits itself."""
    told: list[tuple[float, str, float | None]] = []

    def listen(event: Event) -> None:
        assert current_call() is None
        told.append((event.time, event.kind, event.duration))
        if event.kind == "gave_up":
            executor.with_options(upstream=None).submit(int)

    def call() -> NoReturn:
        executor.sleep(1)
        assert current_call() is not None
        raise ConnectionError("down")

    service = Upstream("service", hold_after=2)
    policy = RetryPolicy(delays=[60])
    with VirtualTimeExecutor(retry=policy, upstream=service, on_event=listen, warn_after=1) as executor:
        assert isinstance(executor.submit(call).exception(), ConnectionError)
        executor.with_options().submit(int).cancel()
    assert [
        (0.0, "accepted", None),
        (0.0, "attempt_started", None),
        (1.0, "retry_scheduled", 1.0),
        (61.0, "attempt_started", None),
        (62.0, "upstream_held", None),
        (62.0, "gave_up", 1.0),
        (62.0, "accepted", None),
        (62.0, "done", 62.0),
        (62.0, "accepted", None),
        (62.0, "done", 0.0),
        (62.0, "attempt_started", None),
        (62.0, "done", 0.0),
    ] == told


def test_last_exception_says_how_long_it_took(executor: VirtualTimeExecutor) -> None:
    """The note is in virtual time (B3)."""
    with pytest.raises(ConnectionError) as caught:
        executor.with_options(max_attempts=3).submit(DownUntil(executor)).result()
    note = "retrying_executor: gave up after 3 attempts in 120 s: all 3 attempts are used"
    assert [note] == caught.value.__notes__  # type: ignore[attr-defined]


def test_max_elapsed_is_in_virtual_time(executor: VirtualTimeExecutor) -> None:
    """No attempt starts after it, not even one that could not start sooner (B6)."""
    call = DownUntil(executor)
    view = executor.with_options(max_elapsed=150)
    assert isinstance(view.submit(call).exception(), ConnectionError)
    assert [0, 60, 120] == call.times
    late = view.submit(call)
    executor.submit(executor.sleep, 200)
    assert isinstance(late.exception(), ConnectionError)
    assert 1 == late.attempts


def test_not_now_uses_up_no_attempt(executor: VirtualTimeExecutor) -> None:
    """It waits as long as it says (U3)."""
    answers = [NotNow(after=600), NotNow(after=600)]

    def call() -> float:
        if answers:
            raise answers.pop()
        return executor.monotonic()

    assert 1200 == executor.with_options(max_attempts=1).submit(call).result()


# -- upstreams -------------------------------------------------------------------------------------


def test_an_upstream_is_held_in_virtual_time() -> None:
    """Failures in a row hold it; then a probe goes out, and the others follow (U5)."""
    service = Upstream("service", hold_after=2, initial_hold=60)
    with VirtualTimeExecutor(retry=EACH_MINUTE, upstream=service) as executor:
        calls = [DownUntil(executor, 100) for _ in range(4)]
        futures = [executor.submit(call) for call in calls]
        executor.advance(0)
        assert ("held", 2) == (service.state, executor.stats().held)
        held_until = service.held_until
        assert held_until is not None
        assert 30 <= held_until <= 60
        assert [[0], [0], [], []] == [call.times for call in calls]
        assert ["delivered"] * 4 == [future.result() for future in futures]
        assert 100 <= executor.monotonic() < 300
        assert "ramping" == service.state


def test_limits_hold_in_virtual_time() -> None:
    """Never more starts than the rate allows in any window (U4)."""
    with VirtualTimeExecutor(upstream=Upstream("service", rate=(2, 10.0))) as executor:
        futures = [executor.submit(executor.monotonic) for _ in range(5)]
        futures[2].cancel()
        assert [0, 0, 10, 10] == [future.result() for future in futures if not future.cancelled()]


def test_a_pause_that_does_not_end_by_itself(executor: VirtualTimeExecutor) -> None:
    """Who waits without a timeout is told; with one, that much time passes (U5)."""
    service = Upstream("service")
    view = executor.with_options(upstream=service)
    service.pause()
    future = view.submit(int)
    with pytest.raises(RuntimeError, match=r"builtins\.int waits for <Upstream 'service' state=held>"):
        future.result()
    other = view.submit(int)
    with pytest.raises(RuntimeError, match=r"would never end: .* \(and 1 more\)"):
        executor.drain()
    other.cancel()
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(60)
    assert not executor.drain(60)
    assert 120 == executor.monotonic()
    service.resume()
    assert 0 == future.result()
    service.pause(30)
    later, other = view.submit(executor.monotonic), executor.submit(executor.monotonic)
    assert (150, 120) == (later.result(), other.result())


def test_a_retry_waits_for_its_upstream_no_longer_than_it_may(executor: VirtualTimeExecutor) -> None:
    """When its time is up the call gives up, however long the upstream is held (B6, U5)."""
    service = Upstream("service")
    call = DownUntil(executor)
    future = executor.with_options(upstream=service, max_elapsed=300).submit(call)
    executor.advance(0)
    service.pause()
    assert isinstance(future.exception(), ConnectionError)
    assert ([0], 300) == (call.times, pytest.approx(executor.monotonic()))


def test_an_upstream_starts_afresh_after_each_virtual_time() -> None:
    """What one test did to it, the next does not see; two at once are refused."""
    service = Upstream("service")
    with VirtualTimeExecutor(upstream=service) as first:
        first.advance(60)
        service.pause()
        with pytest.raises(ValueError, match="another executor in virtual time"):
            VirtualTimeExecutor(upstream=service)
    assert "open" == service.state
    with RetryingExecutor(1, upstream=service) as real:
        assert 0 == real.submit(int).result(TIMEOUT)
    with VirtualTimeExecutor(upstream=service) as second:
        assert 0.0 == second.submit(second.monotonic).result()
        held = second.submit(service.pause), second.submit(int)
        second.shutdown(wait=False)
        second.advance(60)
        assert [True, False] == [future.done() for future in held]
        with VirtualTimeExecutor(upstream=service) as third:
            assert 0.0 == third.submit(third.monotonic).result()
        held[1].cancel()


@needs_gil
def test_a_dropped_executor_gives_its_upstream_back() -> None:
    """A test may make one and forget it, as the code does that it tests (F5)."""
    service = Upstream("service")
    for _ in range(2):
        executor = VirtualTimeExecutor(upstream=service)
        future = executor.submit(executor.monotonic)
        executor.advance(60)
        service.pause()
        del executor
        assert 0.0 == future.result()


def shut_down_without_waiting(executor: VirtualTimeExecutor) -> None:
    future = executor.submit(int)
    executor.shutdown(wait=False)
    assert 0 == future.result()


def shut_down_and_look_at_nothing(executor: VirtualTimeExecutor) -> None:
    executor.submit(int)
    executor.shutdown(wait=False, cancel_futures=True)


def shut_down_in_a_call(executor: VirtualTimeExecutor) -> None:
    executor.submit(executor.shutdown).result()


def make_a_view_after_shutdown(executor: VirtualTimeExecutor) -> None:
    upstreams = executor._terms.upstreams
    executor.shutdown()
    executor.with_options(upstream=upstreams)


@pytest.mark.parametrize(
    "end",
    [
        shut_down_without_waiting,
        shut_down_and_look_at_nothing,
        shut_down_in_a_call,
        make_a_view_after_shutdown,
    ],
)
def test_a_real_executor_may_use_an_upstream_afterwards(end: Callable[[VirtualTimeExecutor], None]) -> None:
    """However the one in virtual time has ended, it goes by the real clock then."""
    upstream = Upstream("service", rate=(1, 0.001))
    end(VirtualTimeExecutor(upstream=upstream))
    with RetryingExecutor(2, upstream=upstream) as executor:
        assert [0, 0, 0] == [executor.submit(int).result(TIMEOUT) for _ in range(3)]


def test_a_real_executor_refuses_an_upstream_in_virtual_time(executor: VirtualTimeExecutor) -> None:
    """At once, rather than go by a clock that stands still."""
    upstream = Upstream("service")
    executor.with_options(upstream=upstream)
    with pytest.raises(ValueError, match="upstream must not be used by an executor in virtual time"):
        RetryingExecutor(1, upstream=upstream)
    with RetryingExecutor(1) as real, pytest.raises(ValueError, match="shut that down first"):
        real.with_options(upstream=upstream)


def test_an_upstream_that_is_held_in_real_time_is_refused() -> None:
    """What that means in virtual time nobody knows."""
    service = Upstream("service")
    service.pause()
    with pytest.raises(
        ValueError, match="upstream must be open, not <Upstream 'service' state=held>: first give"
    ):
        VirtualTimeExecutor(upstream=service)


def test_an_upstream_for_which_nobody_waits_any_more(executor: VirtualTimeExecutor) -> None:
    """A call that is cancelled while it is held is forgotten; later ones come when they may."""
    service = Upstream("service")
    view = executor.with_options(upstream=service)
    service.pause()
    future = view.submit(int)
    executor.advance(0)
    assert 1 == executor.stats().held
    assert future.cancel()
    service.resume()
    assert 0 == view.submit(int).result()


def test_a_place_that_is_asked_for_from_another_thread(
    executor: VirtualTimeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody else has the upstream's lock there is no answer: it is asked again."""
    service = Upstream("service")
    answers = [None]
    ask = service._places.ask
    monkeypatch.setattr(service._places, "ask", lambda *args: answers.pop() if answers else ask(*args))
    assert 0 == executor.with_options(upstream=service).submit(int).result()
    assert [] == answers


# -- calls become done -----------------------------------------------------------------------------


def test_cancelling_in_backoff(executor: VirtualTimeExecutor) -> None:
    """The call is cancelled at once, and told about (E1)."""
    future = executor.submit(DownUntil(executor))
    told: list[object] = []
    future.add_done_callback(told.append)
    executor.advance(90)
    assert 120 == future.due_at
    assert future.cancel()
    assert [future] == told
    assert (1, 0) == (executor.stats().cancelled, executor.stats().in_backoff)
    assert executor.drain()
    assert 90 == executor.monotonic()


def test_cancelling_a_running_call_makes_the_attempt_its_last(executor: VirtualTimeExecutor) -> None:
    """Its outcome stands (E2)."""

    def call() -> NoReturn:
        assert future.running()
        assert not future.cancel()
        raise ConnectionError("down")

    future = executor.submit(call)
    assert isinstance(future.exception(), ConnectionError)
    assert 1 == future.attempts


def test_cancelling_very_many(executor: VirtualTimeExecutor) -> None:
    """What is cancelled goes, and the others run in order."""
    futures = [executor.submit(int, number) for number in range(100)]
    for future in futures[::3] + futures[1::3]:
        future.cancel()
    assert [*range(2, 100, 3)] == [future.result() for future in futures if not future.cancelled()]


def test_an_outcome_that_is_set(executor: VirtualTimeExecutor) -> None:
    """For unit tests, an outcome can be set: before an attempt, and in the middle of one."""
    future = executor.submit(DownUntil(executor))
    future.set_exception(ValueError())
    assert isinstance(future.exception(), ValueError)

    def call() -> NoReturn:
        running.set_result(7)
        raise ConnectionError("down")

    running = executor.submit(call)
    assert 7 == running.result()
    assert 0 == executor.stats().in_backoff


def test_a_policy_may_cancel(executor: VirtualTimeExecutor) -> None:
    """Then the attempt that it judges is the last, whatever it says (E2, F7)."""
    future = executor.with_options(retry=lambda _: float(future.cancel())).submit(DownUntil(executor))
    assert isinstance(future.exception(), ConnectionError)
    assert 1 == future.attempts


def test_an_interruption_leaves_no_call_pending(
    executor: VirtualTimeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a signal handler raises gets out, and is the outcome of the call that ran (G1)."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    future = executor.submit(DownUntil(executor))
    monkeypatch.setattr(log, "tells_of_retries", interrupt)
    with pytest.raises(KeyboardInterrupt):
        executor.advance(0)
    assert isinstance(future.exception(), KeyboardInterrupt)
    assert (0, 1) == (executor.stats().running, executor.stats().failed)


class InterruptedList(list[object]):
    """Ctrl-C comes right after something has been appended."""

    def append(self, item: object) -> NoReturn:
        super().append(item)
        raise KeyboardInterrupt


def interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("at", "by"),
    [("_hands", InterruptedList()), ("_attempt", interrupt)],
    ids=["before the attempt", "as it begins"],
)
def test_an_interruption_before_an_attempt_leaves_nothing_behind(
    executor: VirtualTimeExecutor, monkeypatch: pytest.MonkeyPatch, at: str, by: object
) -> None:
    """A call that was taken fails with it, and keeps no place of its upstream; later calls run (F9, U4)."""
    service = Upstream("service", max_concurrency=1)
    view = executor.with_options(upstream=service)
    future = view.submit(int)
    with monkeypatch.context() as patch:
        patch.setattr(executor._virtual, at, by)
        with pytest.raises(KeyboardInterrupt):
            future.result()
    assert (at == "_attempt") == isinstance(future.exception(), KeyboardInterrupt)
    assert (0, 0) == (service.in_flight, executor.stats().running)
    assert 0 == view.submit(int).result()
    assert executor.drain()


def test_a_place_is_given_back_after_an_interruption(
    executor: VirtualTimeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upstream does not count an attempt that was interrupted as in flight (U4)."""
    service = Upstream("service", max_concurrency=1)
    view = executor.with_options(upstream=service)
    with monkeypatch.context() as patch:
        patch.setattr("retrying_executor._calls.attempt.evidence", interrupt)
        with pytest.raises(KeyboardInterrupt):
            view.submit(int).result()
    assert 0 == service.in_flight
    assert 0 == view.submit(int).result()


# -- bounds, initializer, end ----------------------------------------------------------------------


def test_max_pending(executor: VirtualTimeExecutor) -> None:
    """One more than may be pending is refused, or runs attempts until there is room (G5)."""
    with VirtualTimeExecutor(max_pending=2) as strict:
        futures = [strict.submit(int) for _ in range(2)]
        with pytest.raises(PendingLimitError, match="2 calls are pending, as many as max_pending allows"):
            strict.submit(int)
        assert not any(future.done() for future in futures)
    with VirtualTimeExecutor(max_pending=2, when_full="wait", retry=EACH_MINUTE) as patient:
        futures = [patient.submit(DownUntil(patient, until)) for until in (60, 180)]
        patient.submit(int)
        assert ([True, False], 60) == ([future.done() for future in futures], patient.monotonic())
        full = patient.with_options(retry=None).submit(lambda: [patient.submit(int) for _ in range(2)])
        with pytest.raises(PendingLimitError, match="own threads cannot wait"):
            full.result()


def test_initializer_runs_once() -> None:
    """Before the first attempt, in the same thread."""
    ran: list[str] = []
    with VirtualTimeExecutor(initializer=ran.append, initargs=("initializer",)) as executor:
        executor.submit(ran.append, "call")
        assert [] == ran
        executor.submit(ran.append, "call")
    assert ["initializer", "call", "call"] == ran


def test_initializer_may_set_an_outcome() -> None:
    """Then there is no attempt."""
    ran: list[str] = []
    with VirtualTimeExecutor(initializer=lambda: future.set_result(None)) as executor:
        future = executor.submit(ran.append, "call")
    assert ([], 0) == (ran, future.attempts)


def test_initializer_that_sets_an_outcome_keeps_no_place() -> None:
    """The attempt that is not made is not in flight, before the upstream starts afresh or after (U4)."""
    upstream = Upstream("service", max_concurrency=1)
    executor = VirtualTimeExecutor(initializer=lambda: future.set_result(7), upstream=upstream)
    future = executor.submit(int)
    assert (7, 0) == (future.result(), upstream.in_flight)
    with VirtualTimeExecutor(
        initializer=lambda: other.set_result(7), upstream=Upstream("other", max_concurrency=1)
    ) as executor:
        other = executor.submit(int)
    [upstream] = executor._terms.upstreams
    assert (7, 0) == (other.result(), upstream.in_flight)


@pytest.mark.usefixtures("quiet")
def test_failing_initializer_breaks_it(caplog: pytest.LogCaptureFixture) -> None:
    """Every pending and later call fails (C6)."""
    with VirtualTimeExecutor(initializer=int, initargs=("no number",)) as executor:
        futures = [executor.submit(int) for _ in range(2)]
        assert [BrokenThreadPool] * 2 == [type(future.exception()) for future in futures]
        with pytest.raises(BrokenThreadPool):
            executor.submit(int)
    assert ["Exception in initializer:"] == [record.getMessage() for record in caplog.records]


def test_leaving_the_block_waits_for_all() -> None:
    """Retries included; then nothing is accepted any more (F1)."""
    with VirtualTimeExecutor(retry=EACH_MINUTE) as executor:
        future = executor.submit(DownUntil(executor, 3600))
    assert "delivered" == future.result()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(int)


def test_shutdown_in_time(caplog: pytest.LogCaptureFixture) -> None:
    """Past the timeout, what waits is cancelled and that is logged (F2, F3)."""
    executor = VirtualTimeExecutor(retry=EACH_MINUTE)
    future = executor.submit(DownUntil(executor))
    executor.shutdown(wait=False)
    assert not future.done()
    executor.shutdown(timeout=600)
    assert (True, 600) == (future.cancelled(), executor.monotonic())
    assert "1 waiting call cancelled, none still running" in caplog.text


def test_shutdown_in_a_call_does_not_wait(executor: VirtualTimeExecutor) -> None:
    """It might wait for itself (F7)."""
    future = executor.submit(executor.shutdown)
    waiting = executor.submit(int)
    assert None is future.result()
    assert 0 == waiting.result()


@pytest.mark.parametrize("wait_for", [lambda futures: concurrent.futures.wait(futures).done, as_completed])
def test_waiting_for_the_calls_of_several_executors(wait_for: Callable[[list[Any]], Iterator[Any]]) -> None:
    """Each runs in its own time (A3)."""
    executors = [VirtualTimeExecutor(retry=RetryPolicy(delays=[delay], jitter=False)) for delay in (60, 3600)]
    futures = [executor.submit(Flaky()) for executor in executors]
    assert set(futures) == set(wait_for(futures))
    assert [60, 3600] == [executor.monotonic() for executor in executors]


def test_waiting_for_one_that_never_ends_and_for_the_first_of_several(executor: VirtualTimeExecutor) -> None:
    """Another executor's call ends it; without that, the wait would be for ever."""
    upstream = Upstream("service")
    view = executor.with_options(upstream=upstream)
    upstream.pause()
    held = view.submit(int)
    other = VirtualTimeExecutor().submit(int)
    assert {other} == concurrent.futures.wait([held, other], return_when=FIRST_COMPLETED).done
    with pytest.raises(RuntimeError, match="this wait would never end"):
        concurrent.futures.wait([held, VirtualTimeExecutor().submit(int)])
    upstream.resume()


def test_statistics_from_another_thread_while_an_attempt_waits_for_that(
    executor: VirtualTimeExecutor,
) -> None:
    """It does not wait for the attempt, as in ``watch()`` (G1)."""

    def attempt() -> int:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(executor.stats).result(TIMEOUT).running

    assert 1 == executor.submit(attempt).result()


def test_a_listener_that_falls_behind_misses_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the real one: the calls that it submits are accepted all the same (G1)."""
    monkeypatch.setattr(monitor, "_MOST_WAITING", 3)
    futures: list[Future[int]] = []

    def on_event(event: Event) -> None:
        if event.kind == "done" and not futures:
            futures.extend(executor.submit(int) for _ in range(10))

    executor = VirtualTimeExecutor(on_event=on_event)
    executor.submit(int)
    executor.drain()
    executor.drain()
    assert [0] * 10 == [future.result() for future in futures]


def test_a_done_callback_that_exits_ends_no_wait(
    executor: VirtualTimeExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, as in a worker thread (G3)."""

    def exit_now(_: Future[int]) -> NoReturn:
        raise SystemExit(3)

    future = executor.submit(int)
    future.add_done_callback(exit_now)
    assert 0 == future.result()
    assert "raised in a worker thread" in caplog.text


def test_a_listener_may_cancel_what_it_is_told_of() -> None:
    """A call is in backoff when its retry is announced (E1)."""

    def on_event(event: Event) -> None:
        if event.kind == "retry_scheduled":
            assert future.cancel()

    executor = VirtualTimeExecutor(on_event=on_event, retry=EACH_MINUTE)
    future = executor.submit(Flaky())
    executor.drain()
    assert future.cancelled()
    assert 0.0 == executor.monotonic()


def test_a_broken_initializer_keeps_no_place() -> None:
    """Neither in virtual time nor afterwards (U4)."""
    upstream = Upstream("service", max_concurrency=1)
    executor = VirtualTimeExecutor(initializer=int, initargs=("no",), upstream=upstream)
    assert isinstance(executor.submit(int).exception(), BrokenThreadPool)
    assert 0 == upstream.in_flight


def test_retries_are_logged(executor: VirtualTimeExecutor, caplog: pytest.LogCaptureFixture) -> None:
    """As the real one does (G3)."""
    with caplog.at_level(logging.INFO, "retrying_executor"):
        executor.submit(DownUntil(executor, 60)).result()
    assert "attempt 1 failed (ConnectionError: down); the next one in 60 s" in caplog.text


# -- the fixture and the page ----------------------------------------------------------------------


def run_pytest(pytester: pytest.Pytester, source: str) -> pytest.RunResult:
    """Run tests in a process of their own, as users do; the package need not be installed."""
    pytester.makepyfile(source)
    plugin = () if IS_INSTALLED else ("-p", "pytest_retrying_executor")
    return pytester.runpytest_subprocess(
        *plugin, "--strict-markers", "-p", "no:cacheprovider", timeout=TIMEOUT
    )


def test_page_is_a_passing_test_module(pytester: pytest.Pytester) -> None:
    """What the page shows, pytest runs: with the fixture, which needs no import."""
    tests = "\n".join(pages.python_on(PAGE))
    run_pytest(pytester, tests).assert_outcomes(passed=tests.count("def test_"))


def test_page_runs_without_pytest_too() -> None:
    """The same classes, in a program of one's own."""
    pages.run(PAGE)


def test_entry_point_is_declared() -> None:
    """So pytest finds the plugin."""
    entry_point = 'pytest11]\nretrying_executor = "pytest_retrying_executor"'
    assert entry_point in (ROOT / "pyproject.toml").read_text("utf-8")


def test_fixture_takes_options(pytester: pytest.Pytester) -> None:
    """They stand in the marker, or there are none; each test has an executor of its own."""
    run_pytest(
        pytester,
        """
        import pytest

        DUE_AT = []

        def look(executor):
            future = executor.submit(lambda: 1 / 0)
            executor.advance(0)
            DUE_AT.append(future.due_at)
            assert future.cancel()

        def test_default(virtual_executor):
            look(virtual_executor)

        @pytest.mark.virtual_executor(seed=0)
        def test_default_seed(virtual_executor):
            look(virtual_executor)

        @pytest.mark.virtual_executor(2, seed=1)
        def test_other_seed(virtual_executor):
            look(virtual_executor)
            assert DUE_AT[0] == DUE_AT[1] != DUE_AT[2]
        """,
    ).assert_outcomes(passed=3)


def test_fixture_reports_calls_that_are_left(pytester: pytest.Pytester) -> None:
    """If the test passed; what failed has said so already."""
    result = run_pytest(
        pytester,
        """
        import pytest

        def deliver():
            raise AssertionError("is never made")

        def test_that_forgets_to_wait(virtual_executor):
            virtual_executor.submit(deliver)

        def test_that_fails_before(virtual_executor):
            virtual_executor.submit(deliver)
            assert not "a surprise"

        def test_that_is_skipped(virtual_executor):
            virtual_executor.submit(deliver)
            pytest.skip("not today")
        """,
    )
    result.assert_outcomes(passed=1, failed=1, skipped=1, errors=1)
    result.stdout.fnmatch_lines(["*calls are pending at the end of the test: *.deliver. Wait for them*"])


def test_plugin_is_light(pytester: pytest.Pytester) -> None:
    """Runs of pytest that do not use the fixture do not import the package."""
    run_pytest(
        pytester,
        """
        import sys

        def test_imports(request):
            assert request.config.pluginmanager.has_plugin("pytest_retrying_executor") or (
                request.config.pluginmanager.has_plugin("retrying_executor")
            )
            assert "retrying_executor" not in sys.modules
        """,
    ).assert_outcomes(passed=1)


def test_public_class_has_documented_parameters() -> None:
    """Each parameter is in the docstring."""
    documentation = inspect.getdoc(VirtualTimeExecutor) or ""
    names = inspect.signature(VirtualTimeExecutor).parameters
    assert [] == [name for name in names if f"    {name}: " not in documentation]
    real = inspect.signature(RetryingExecutor).parameters
    assert {"seed"} == names.keys() ^ real.keys()


def test_options_are_those_of_the_real_one() -> None:
    """In the same order, with the same defaults: all that it has besides is the seed."""
    signature = inspect.signature(VirtualTimeExecutor)
    assert 0 == signature.parameters["seed"].default
    others = [parameter for name, parameter in signature.parameters.items() if name != "seed"]
    assert [*inspect.signature(RetryingExecutor).parameters.values()] == others


def test_it_makes_nothing_that_could_start_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for calls nor for a listener, nor for what looks for slow attempts."""
    monkeypatch.delattr(Threads, "__init__")
    before = {*exits.cores()}
    with VirtualTimeExecutor(on_event=lambda _: None, warn_after=1) as executor:
        assert 42 == executor.submit(lambda: 42).result()
        assert set() == {*exits.cores()} - before


def test_it_is_said_when_a_probe_that_failed_is_made_again(caplog: pytest.LogCaptureFixture) -> None:
    """It waits for the end of the hold, as log and future say, and leaves the next probe to others (B10)."""
    caplog.set_level(logging.INFO)
    told: list[float | None] = []
    service = Upstream("service", hold_after=1, initial_hold=10)
    policy = RetryPolicy(delays=(0.125,), max_elapsed=3600)
    with VirtualTimeExecutor(
        upstream=service, retry=policy, on_event=lambda event: told.append(event.delay)
    ) as executor:
        future = executor.submit(Flaky(2))
        executor.advance(0)
        assert service.held_until is not None
        assert 0.125 == future.due_at
        executor.advance(service.held_until)
        failed_at = executor.monotonic()
        assert service.held_until is not None
        assert service.held_until == future.due_at
        assert service.held_until - failed_at in told
        assert f"the next one in {log.in_words(service.held_until - failed_at)}" in caplog.text
        executor.advance(service.held_until - failed_at - 0.001)
        assert 2 == future.attempts
        assert 2 == future.result()


def test_a_call_that_waits_for_its_upstream_is_due_at_no_time() -> None:
    """Its backoff is over, and when it goes on is up to the upstream (B10)."""
    service = Upstream("service", hold_after=1, initial_hold=10)
    with VirtualTimeExecutor(upstream=service, retry=RetryPolicy(delays=(0.125,))) as executor:
        future = executor.submit(Flaky(1))
        executor.advance(1)
        assert (1, 0) == (executor.stats().held, executor.stats().in_backoff)
        assert future.due_at is None


def test_no_time_passes_from_one_executor_to_the_next(tmp_path: Path) -> None:
    """What is left of a delay is what was left when the executor before let go of the call (J1)."""
    policy = RetryPolicy(delays=(60, 60), max_elapsed=None)
    with VirtualTimeExecutor(journal=tmp_path, retry=policy) as executor:
        future = executor.submit(int, "no number")
        executor.advance(20)
        executor.shutdown(cancel_futures=True)
    with VirtualTimeExecutor(journal=tmp_path, retry=policy) as executor:
        (adopted,) = executor.adopted
        assert (future.key, 1, 40) == (adopted.key, adopted.attempts, adopted.due_at)
        assert isinstance(adopted.exception(), ValueError)
        assert 100 == executor.monotonic()
