"""Coroutine functions in virtual time: awaited in an event loop whose clock is that of the executor."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import inspect
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import TIMEOUT, both
from forks import in_child
from observe import eventually, needs_gil
from retrying_executor import (
    Event,
    NotNow,
    PendingLimitError,
    RetryingExecutor,
    RetryPolicy,
    Upstream,
    current_call,
    report_weight,
)
from retrying_executor.testing import VirtualTimeExecutor

EACH_MINUTE = RetryPolicy(delays=[60] * 1000, max_elapsed=None)


class Calls:
    """Coroutine functions of many kinds that note what they do, and when.

    Args:
        clock: Tells the time.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.log: list[tuple[float, str]] = []

    def note(self, what: str) -> None:
        """Note that something happens now."""
        self.log.append((self.clock(), what))

    async def sleep(self, duration: float, name: str = "") -> str:
        """Take so long."""
        self.note(f"{name} begins")
        try:
            await asyncio.sleep(duration)
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)
            self.note(f"{name} is cancelled")
            raise
        self.note(f"{name} ends")
        return name

    async def fail_until(self, time: float) -> str:
        """Take a second, and fail until a certain time."""
        self.note("begins")
        await asyncio.sleep(1)
        if self.clock() < time:
            raise ConnectionError("down")
        return "delivered"


@pytest.fixture
def virtual() -> Iterator[VirtualTimeExecutor]:
    """An executor in virtual time that tries again each minute."""
    executor = VirtualTimeExecutor(retry=EACH_MINUTE)
    yield executor
    executor.shutdown(cancel_futures=True, timeout=0)


@pytest.fixture
def calls(virtual: VirtualTimeExecutor) -> Calls:
    """Calls that go by its clock."""
    return Calls(virtual.monotonic)


async def never() -> None:
    """Wait for what nobody does."""
    await asyncio.Event().wait()


# -- with threads and in virtual time --------------------------------------------------------------


class Flaky:
    """A coroutine function that fails at first."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.attempts: list[int] = []

    async def __call__(self) -> int:
        call = current_call()
        assert call is not None
        self.attempts.append(call.attempt)
        await asyncio.sleep(0)
        assert call.key == getattr(current_call(), "key", None)
        if len(self.attempts) <= self.failures:
            raise ConnectionError("not yet")
        return self.failures


@both
def test_a_coroutine_function_is_awaited_and_retried(executor: RetryingExecutor) -> None:
    """Each attempt is a coroutine of its own (K1, K4)."""
    calls = [Flaky(failures) for failures in (0, 1, 4)]
    futures = [executor.submit(call) for call in calls]
    assert [0, 1, 4] == [future.result(TIMEOUT) for future in futures]
    assert [[1], [1, 2], [1, 2, 3, 4, 5]] == [call.attempts for call in calls]
    failing = executor.submit(Flaky(5))
    assert isinstance(failing.exception(TIMEOUT), ConnectionError)
    assert 5 == failing.attempts


@both
def test_whatever_waits_has_coroutines_run(executor: RetryingExecutor) -> None:
    """As for plain functions, which may come in between (K1, K4, A3)."""

    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    assert [0, 2, 4] == list(executor.map(double, range(3), timeout=TIMEOUT))
    assert [0, 2] == list(executor.map(double, range(2), buffersize=1))
    futures = [executor.submit(double, 1), executor.submit(int)]
    assert {2, 0} == {future.result() for future in as_completed(futures, TIMEOUT)}
    assert set(futures) == concurrent.futures.wait(futures, TIMEOUT).done
    last = executor.submit(double, 2)
    assert executor.drain(TIMEOUT)
    assert last.done()


@both
def test_a_coroutine_may_await_calls_of_its_executor(executor: RetryingExecutor) -> None:
    """Plain ones, and those of coroutine functions (K1, K4)."""

    async def outer() -> list[int]:
        futures = [executor.submit(int, "1"), executor.submit(inner)]
        loop = asyncio.get_running_loop()
        own = [asyncio.wrap_future(future) for future in futures]
        return [*await asyncio.gather(*own), await loop.run_in_executor(executor.with_options(), int, "3")]

    async def inner() -> int:
        await asyncio.sleep(0)
        return 2

    assert [1, 2, 3] == executor.submit(outer).result(TIMEOUT)


@both
def test_a_plain_call_may_wait_for_a_coroutine(executor: RetryingExecutor) -> None:
    """In which it is not the plain call that runs (K1, K4)."""

    async def inner() -> Any:
        await asyncio.sleep(0)
        return current_call()

    def outer() -> Any:
        call = current_call()
        return executor.submit(inner).result(TIMEOUT), call, current_call()

    inside, before, after = executor.submit(outer).result(TIMEOUT)
    assert "inner" in inside.name
    assert "outer" in before.name
    assert before.key == after.key != inside.key


@both
def test_what_ends_a_thread_is_an_outcome(executor: RetryingExecutor) -> None:
    """Whoever raises it in a coroutine does not end the loop (B4, K4)."""

    async def leave(error: BaseException) -> NoReturn:
        await asyncio.sleep(0)
        raise error

    errors = [SystemExit(3), KeyboardInterrupt("no")]
    futures = [executor.submit(leave, error) for error in errors]
    assert errors == [future.exception(TIMEOUT) for future in futures]
    cancelled = executor.submit(leave, asyncio.CancelledError())
    assert isinstance(cancelled.exception(TIMEOUT), asyncio.CancelledError)
    assert [1, 1, 1] == [future.attempts for future in [*futures, cancelled]]
    assert not cancelled.cancelled()
    assert 0 == executor.submit(Flaky(0)).result(TIMEOUT)


@both
def test_functions_in_threads_of_asyncio_know_their_call(executor: RetryingExecutor) -> None:
    """They have a copy of its context (K1, K4)."""

    async def call() -> Any:
        return await asyncio.to_thread(current_call), current_call()

    there, here = executor.submit(call).result(TIMEOUT)
    assert there.key == here.key
    assert 1 == there.attempt


# -- time ------------------------------------------------------------------------------------------


def test_an_hour_of_sleep_takes_no_time_and_many_sleep_at_once(
    virtual: VirtualTimeExecutor, calls: Calls
) -> None:
    """The clock jumps from one timer to the next (K4)."""
    futures = [virtual.submit(calls.sleep, 3600 - number, str(number)) for number in range(100)]
    assert "0" == futures[0].result()
    assert 3600 == virtual.monotonic()
    ends = [(time, what) for time, what in calls.log if "ends" in what]
    assert [(3600.0 - number, f"{number} ends") for number in reversed(range(100))] == ends


def test_attempts_and_delays_add_up(virtual: VirtualTimeExecutor, calls: Calls) -> None:
    """The delay lies between the end of a coroutine and the beginning of the next (B6, K4)."""
    assert "delivered" == virtual.submit(calls.fail_until, 150).result()
    assert [0.0, 61.0, 122.0, 183.0] == [time for time, _ in calls.log]
    assert 184 == virtual.monotonic()


def test_timeouts_in_a_coroutine_are_in_virtual_time(virtual: VirtualTimeExecutor, calls: Calls) -> None:
    """Those of asyncio, which then cancels what has taken too long (K4)."""

    async def hurry() -> str:
        limit = 30 if virtual.monotonic() == 0 else 50
        return await asyncio.wait_for(calls.sleep(40, "work"), limit)

    assert "work" == virtual.submit(hurry).result()
    assert [
        (0.0, "work begins"),
        (30.5, "work is cancelled"),
        (90.5, "work begins"),
        (130.5, "work ends"),
    ] == calls.log


def test_a_wait_may_be_shorter_than_a_coroutine(virtual: VirtualTimeExecutor, calls: Calls) -> None:
    """And `advance` runs what becomes due meanwhile, the last instant included (K4)."""
    future = virtual.submit(calls.sleep, 10, "it")
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(4)
    assert (4, True) == (virtual.monotonic(), future.running())
    assert (1, 0) == (virtual.stats().running, virtual.stats().ready)
    virtual.advance(5)
    assert not future.done()
    virtual.sleep(1)
    assert (10, True) == (virtual.monotonic(), future.done())
    assert not virtual.drain(0) or virtual.monotonic() == 10


def test_to_sleep_without_await_keeps_the_others_waiting(virtual: VirtualTimeExecutor, calls: Calls) -> None:
    """As `time.sleep` does in a real event loop (K4)."""

    async def block() -> None:
        virtual.sleep(10)

    futures = [virtual.submit(calls.sleep, 1, "it"), virtual.submit(block)]
    concurrent.futures.wait(futures)
    assert [(0.0, "it begins"), (10.0, "it ends")] == calls.log


def test_the_clock_may_be_far_ahead(virtual: VirtualTimeExecutor, calls: Calls) -> None:
    """In ten thousand years, a float still tells milliseconds apart (K4)."""
    virtual.advance(3e11)
    future = virtual.submit(calls.sleep, 0.001)
    future.result()
    assert 3e11 < virtual.monotonic() < 3e11 + 0.002


def test_timers_that_are_cancelled_take_no_time(virtual: VirtualTimeExecutor) -> None:
    """Only what is due moves the clock (K4)."""

    async def call() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(60, pytest.fail).cancel()
        loop.call_later(5, seen.append, 5)
        loop.call_at(-1, seen.append, -1)
        await asyncio.sleep(10)

    seen: list[int] = []
    virtual.submit(call).result()
    assert ([-1, 5], 10) == (seen, virtual.monotonic())


def test_no_thread_is_started(virtual: VirtualTimeExecutor) -> None:
    """Coroutines run in the thread that waits for them, whichever that is (K4)."""

    async def call() -> int:
        await asyncio.sleep(1)
        return threading.get_ident()

    before = threading.active_count()
    assert threading.get_ident() == virtual.submit(call).result()
    assert before == threading.active_count()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: (threading.get_ident(), virtual.submit(call).result())).result(TIMEOUT)
    assert other[0] == other[1] != threading.get_ident()


def test_asyncio_is_imported_with_the_first_coroutine() -> None:
    """It is slow to import, and most calls are plain."""
    program = (
        "import sys\n"
        "from retrying_executor.testing import VirtualTimeExecutor\n"
        "with VirtualTimeExecutor() as executor:\n"
        "    executor.submit(int).result()\n"
        "    assert 'asyncio' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=TIMEOUT)


# -- reproducible ----------------------------------------------------------------------------------

PROGRAMS = st.lists(st.tuples(st.booleans(), st.lists(st.floats(0, 100), min_size=1, max_size=3)), max_size=6)


def trace_of(seed: int, program: list[tuple[bool, list[float]]]) -> list[tuple[Any, ...]]:
    """Run a program of calls: each is a coroutine or not, and fails until it has slept all its times."""
    trace: list[tuple[Any, ...]] = []
    upstream = Upstream("service", max_concurrency=2, rate=(3, 10))
    policy = RetryPolicy(delays=None, max_attempts=4)

    def call(number: int, times: list[float]) -> bool:
        running = current_call()
        assert running is not None
        trace.append((number, running.attempt, running.key, executor.monotonic()))
        return running.attempt < len(times)

    async def wait(number: int, times: list[float]) -> None:
        has_more = call(number, times)
        await asyncio.sleep(times[-1])
        trace.append((number, executor.monotonic()))
        if has_more:
            raise ConnectionError("not yet")

    def sleep(number: int, times: list[float]) -> None:
        has_more = call(number, times)
        executor.sleep(times[-1])
        if has_more:
            raise ConnectionError("not yet")

    with VirtualTimeExecutor(seed=seed, retry=policy, upstream=upstream, max_coroutines=2) as executor:
        for number, (is_async, times) in enumerate(program):
            executor.submit(wait if is_async else sleep, number, times)
    trace.append((executor.monotonic(), executor.stats()))
    return trace


@settings(max_examples=30)
@given(st.integers(), PROGRAMS)
def test_runs_of_one_seed_are_the_same(seed: int, program: list[tuple[bool, list[float]]]) -> None:
    """Keys, times and order, whatever meets whatever (K4)."""
    assert trace_of(seed, program) == trace_of(seed, program)


# -- upstreams -------------------------------------------------------------------------------------


def test_limits_of_an_upstream_hold_for_coroutines() -> None:
    """A permit lasts as long as its coroutine (U4, K4)."""
    upstream = Upstream("service", max_concurrency=2, rate=(3, 60))
    with VirtualTimeExecutor(upstream=upstream) as executor:
        calls = Calls(executor.monotonic)
        for number in range(5):
            executor.submit(calls.sleep, 10, str(number))
    begins = [time for time, what in calls.log if "begins" in what]
    assert [0.0, 0.0, 10.0, 60.0, 60.0] == begins


def test_a_weight_can_be_reported_in_a_coroutine() -> None:
    """What an estimate was too high is free for others at once (U4, K4)."""
    began_at: list[float] = []

    async def call() -> None:
        began_at.append(executor.monotonic())
        await asyncio.sleep(5)
        report_weight(10)

    upstream = Upstream("service", budget=(100, 60))
    with VirtualTimeExecutor(upstream=upstream) as executor:
        view = executor.with_options(weight=90)
        for _ in range(2):
            view.submit(call)
    assert [0.0, 5.0] == began_at


@pytest.mark.parametrize(
    "answers",
    [
        [NotNow(after=100)],
        [ConnectionError("down")] * 3,
        [NotNow(), NotNow(after=5, only_this_call=True), ConnectionError("down")],
    ],
)
def test_an_upstream_is_held_by_what_coroutines_raise(answers: list[Exception]) -> None:
    """When to come back, "not now", holds and probes are as for plain calls (U2, U3, U5, K4)."""

    def trace_of(*, is_async: bool) -> list[tuple[float, int, str]]:
        left, trace = answers.copy(), []
        upstream = Upstream("service", max_concurrency=1, hold_after=2)

        def call(name: str) -> str:
            running = current_call()
            assert running is not None
            trace.append((executor.monotonic(), running.attempt, name))
            if left:
                raise left.pop(0)
            return name

        async def wait(name: str) -> str:
            await asyncio.sleep(0)
            return call(name)

        with VirtualTimeExecutor(retry=RetryPolicy(delays=[1] * 9), upstream=upstream) as executor:
            futures = [executor.submit(wait if is_async else call, name) for name in "abc"]
            assert ["a", "b", "c"] == [future.result() for future in futures]
        return trace

    trace = trace_of(is_async=True)
    assert trace_of(is_async=False) == trace
    assert len(answers) + 3 == len(trace)
    assert trace[-1][0] > 0


# -- how many at a time ----------------------------------------------------------------------------


def test_max_coroutines_holds() -> None:
    """The others wait for a place, in order (K1, K4)."""
    with VirtualTimeExecutor(max_coroutines=2) as executor:
        calls = Calls(executor.monotonic)
        futures = [executor.submit(calls.sleep, 10, str(number)) for number in range(5)]
        executor.advance(1)
        assert [True] * 5 == [future.running() for future in futures]  # with threads, each keeps a worker
        assert futures[3].cancel()
    begins = [(time, what[0]) for time, what in calls.log if "begins" in what]
    assert [(0.0, "0"), (0.0, "1"), (10.0, "2"), (10.0, "4")] == begins
    assert (4, 1) == (executor.stats().succeeded, executor.stats().cancelled)


def test_as_many_wait_for_a_place_as_there_may_be_workers() -> None:
    """Then no call is taken, whatever it is, as with threads (K1, K4)."""
    with VirtualTimeExecutor(1, max_coroutines=1, retry=EACH_MINUTE) as executor:
        calls = Calls(executor.monotonic)
        failing = executor.submit(calls.fail_until, 1.5)
        for name in "ab":
            executor.submit(calls.sleep, 100, name)
        plain = executor.submit(calls.note, "plain")
        executor.advance(99)
        assert (1, False) == (failing.attempts, plain.done())
    assert [
        (0.0, "begins"),
        (1.0, "a begins"),
        (101.0, "a ends"),
        (101.0, "b begins"),
        (201.0, "b ends"),
        (201.0, "begins"),
        (201.0, "plain"),
    ] == calls.log


def test_max_pending_counts_coroutines() -> None:
    """A submitter that waits for room has them run (G5, K4)."""
    with VirtualTimeExecutor(max_pending=2, when_full="wait") as executor:
        calls = Calls(executor.monotonic)
        for number in range(4):
            executor.submit(calls.sleep, 10, str(number))
        assert 10 == executor.monotonic()

        async def submit() -> None:
            executor.submit(int)

        full = executor.submit(submit), executor.submit(calls.sleep, 10)
        assert isinstance(full[0].exception(), PendingLimitError)


# -- waits that would never end --------------------------------------------------------------------


def test_a_coroutine_that_nothing_wakes_is_named(virtual: VirtualTimeExecutor, calls: Calls) -> None:
    """The wait is an error, after all timers (K4)."""
    virtual.submit(calls.sleep, 10)
    stuck = virtual.submit(never)
    message = r"never end: .*\.never waits in a coroutine, and nothing is left that would wake it"
    for wait in (
        stuck.result,
        virtual.drain,
        lambda: concurrent.futures.wait([stuck]),
        lambda: next(as_completed([stuck])),
        virtual.shutdown,
    ):
        with pytest.raises(RuntimeError, match=message):
            wait()
    assert 10 == virtual.monotonic()
    with pytest.raises(concurrent.futures.TimeoutError):
        stuck.result(5)
    assert stuck.cancel()
    assert virtual.drain()


def test_a_coroutine_that_finds_no_place_is_named() -> None:
    """Since those that have one never end (K4)."""
    executor = VirtualTimeExecutor(max_coroutines=1)
    first, second = (executor.submit(never) for _ in range(2))
    with pytest.raises(RuntimeError, match=r"\.never waits for one of 1 coroutines to end \(and 1 more\)"):
        second.result()
    assert first.cancel()
    executor.advance(0)
    with pytest.raises(RuntimeError, match="nothing is left"):
        second.result()
    second.cancel()
    executor.shutdown()


@pytest.mark.parametrize(
    "wait",
    [
        lambda executor, future: future.result(),
        lambda executor, future: future.exception(60),
        lambda executor, future: concurrent.futures.wait([future]),
        lambda executor, future: list(as_completed([future])),
        lambda executor, future: list(executor.map(int, "1")),
    ],
)
@pytest.mark.parametrize("is_in_thread", [False, True])
def test_a_coroutine_must_not_wait_for_calls(
    virtual: VirtualTimeExecutor, calls: Calls, wait: Callable[..., object], *, is_in_thread: bool
) -> None:
    """Nor a thread that it waits for: no other coroutine could go on, so that might never end (K4)."""
    future = virtual.submit(calls.sleep, 1)

    async def call() -> None:
        await (asyncio.to_thread(wait, virtual, future) if is_in_thread else asyncio.sleep(0))
        wait(virtual, future)

    with pytest.raises(RuntimeError, match=r"must not wait .*: await asyncio.wrap_future\(future\)"):
        virtual.submit(call).result()
    assert 1 == virtual.submit(int, "1").result()


@pytest.mark.parametrize("is_in_thread", [False, True])
def test_what_a_coroutine_may_ask_without_waiting(
    virtual: VirtualTimeExecutor, calls: Calls, *, is_in_thread: bool
) -> None:
    """Whether a call is done, and that it ends; the rest is refused, and hangs nobody (F7, K4)."""
    future, done = virtual.submit(calls.sleep, 60), virtual.submit(int)
    done.result()

    def look() -> None:
        assert not done.result()
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(0)
        with pytest.raises(RuntimeError, match="would wait for itself"):
            virtual.drain()
        with pytest.raises(RuntimeError, match=r"in a coroutine asyncio.sleep\(\)"):
            virtual.advance(1)
        virtual.sleep(5)
        virtual.shutdown(cancel_futures=True)

    async def call() -> float:
        await (asyncio.to_thread(look) if is_in_thread else asyncio.sleep(0))
        if not is_in_thread:
            look()
        return virtual.monotonic()

    assert 5 == virtual.submit(call).result()
    future.result()
    assert 60 == virtual.monotonic()


# -- cancelling, and the end -----------------------------------------------------------------------


def test_a_running_coroutine_is_cancelled(virtual: VirtualTimeExecutor, calls: Calls) -> None:
    """The future at once, the coroutine when the loop runs next, with its ``finally`` (K3, K4)."""
    future = virtual.submit(calls.sleep, 3600, "it")
    virtual.advance(10)
    assert future.cancel()
    assert future.cancelled()
    assert [(0.0, "it begins")] == calls.log
    assert (0, 1) == (virtual.stats().running, virtual.stats().cancelled)
    virtual.advance(60)
    assert (10.5, "it is cancelled") == calls.log[-1]
    assert 1 == virtual.stats().submitted


def test_a_call_may_cancel_another_and_itself(virtual: VirtualTimeExecutor, calls: Calls) -> None:
    """In the loop, in a thread of it, and in a plain call (K3, K4)."""
    futures = [virtual.submit(calls.sleep, 3600, name) for name in "abc"]

    async def cancel() -> None:
        assert futures[1].cancel()
        assert await asyncio.to_thread(futures[2].cancel)
        own.cancel()
        await asyncio.sleep(60)

    own = virtual.submit(cancel)
    virtual.submit(lambda: futures[0].cancel()).result()
    virtual.advance(60)
    assert all(future.cancelled() for future in [*futures, own])
    assert [(0.0, f"{name} begins") for name in "abc"] == calls.log[:3]
    assert [(0.5, f"{name} is cancelled") for name in "abc"] == calls.log[3:]


def test_an_outcome_that_is_set_cancels_the_coroutine(virtual: VirtualTimeExecutor, calls: Calls) -> None:
    """It stands, whatever the coroutine does (K3, K4)."""
    future = virtual.submit(calls.sleep, 3600, "it")
    virtual.advance(10)
    future.set_result("set")
    virtual.drain()
    virtual.advance(1)
    assert ("set", (10.5, "it is cancelled")) == (future.result(), calls.log[-1])


def test_a_call_that_is_cancelled_as_its_coroutine_is_made_runs_nothing(
    virtual: VirtualTimeExecutor, calls: Calls
) -> None:
    """And keeps nothing from ending (K3, K4)."""

    class Cancelling:
        """A coroutine function, as a mark says, that is cancelled when it is called."""

        def __init__(self) -> None:
            self._is_coroutine = object()

        def __call__(self) -> Any:
            assert future.cancel()
            return calls.sleep(1)

    future: Any = virtual.submit(Cancelling())
    virtual.advance(0)
    assert future.cancelled()
    assert ([], 0) == (calls.log, virtual.stats().running)
    assert virtual.drain()


def test_a_call_that_is_cancelled_as_its_coroutine_ends(virtual: VirtualTimeExecutor, calls: Calls) -> None:
    """It is cancelled, and nothing is left of it (K3, K4)."""

    async def cancel() -> bool:
        await asyncio.sleep(60)
        return future.cancel()

    future = virtual.submit(calls.sleep, 60, "it")
    assert virtual.submit(cancel).result()
    virtual.advance(1)
    assert (True, (60.0, "it ends")) == (future.cancelled(), calls.log[-1])
    assert (1, 1) == (virtual.stats().succeeded, virtual.stats().cancelled)


def test_a_shutdown_that_runs_out_of_time_cancels_coroutines(caplog: pytest.LogCaptureFixture) -> None:
    """They get a second for their ``finally``; one that takes longer is named (F3, K3, K4)."""

    async def stubborn() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(7)

    executor = VirtualTimeExecutor()
    calls = Calls(executor.monotonic)
    kind, waiting = executor.submit(calls.sleep, 3600, "it"), executor.submit(never)
    executor.shutdown(timeout=10)
    assert kind.cancelled()
    assert waiting.cancelled()
    assert (10.5, "it is cancelled") == calls.log[-1]
    assert 10.5 == executor.monotonic()
    assert "2 waiting calls cancelled, none still running" in caplog.text

    other = VirtualTimeExecutor()
    assert other.submit(stubborn) is not None
    other.advance(1)
    other.shutdown(timeout=0)
    assert "still running: " in caplog.text
    assert "stubborn" in caplog.text
    assert 2 == other.monotonic()
    other.shutdown()
    assert 8 == other.monotonic()


def test_a_block_that_is_left_by_an_exception_cancels_coroutines() -> None:
    """When its time is over, as with threads (F8, K3, K4)."""
    with (  # noqa: PT012  # that is what is tested
        pytest.raises(ZeroDivisionError),
        VirtualTimeExecutor(exit_timeout=30) as executor,
    ):
        calls = Calls(executor.monotonic)
        future = executor.submit(calls.sleep, 3600, "it")
        raise ZeroDivisionError
    assert future.cancelled()
    assert (30.5, "it is cancelled") == calls.log[-1]


def test_what_calls_leave_behind_ends_with_the_executor() -> None:
    """Tasks and asynchronous generators: they get a second, too (K2, K4)."""
    left: list[object] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            calls.note("the generator ends")

    async def call() -> None:
        iterator = numbers()
        await iterator.__anext__()
        left.extend([iterator, asyncio.create_task(calls.sleep(3600, "task"))])
        await asyncio.sleep(0)

    with VirtualTimeExecutor() as executor:
        calls = Calls(executor.monotonic)
        executor.submit(call).result()
        loop: Any = executor._virtual.flights._loop
        assert not loop.is_closed()
    assert [(0.0, "task begins"), (0.5, "task is cancelled"), (0.5, "the generator ends")] == calls.log
    assert loop.is_closed()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.call_later(1, print)


def test_a_task_that_exits_as_it_ends_keeps_no_loop_open() -> None:
    """The others end as well; then the thread that waits is told (K2, K4)."""

    async def leave() -> None:
        try:
            await never()
        finally:
            raise SystemExit(3)

    async def call() -> asyncio.AbstractEventLoop:
        left.extend(map(asyncio.create_task, [leave(), calls.sleep(60, "other")]))
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    left: list[asyncio.Task[Any]] = []
    upstream = Upstream("service")
    executor = VirtualTimeExecutor(upstream=upstream)
    calls = Calls(executor.monotonic)
    loop = executor.submit(call).result()
    with pytest.raises(SystemExit):
        executor.shutdown()
    assert loop.is_closed()
    assert isinstance(left[0].exception(), SystemExit)
    assert (0.5, "other is cancelled") == calls.log[-1]
    with RetryingExecutor(1, upstream=upstream) as real:
        assert 0 == real.submit(int).result(TIMEOUT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_was_closed_is_made_anew() -> None:
    """What has run there never ends (K4)."""
    virtual = VirtualTimeExecutor()
    stuck = virtual.submit(never)
    virtual.advance(1)
    loop: Any = virtual._virtual.flights._loop
    loop.close()
    assert 0 == virtual.submit(Flaky(0)).result()
    with pytest.raises(RuntimeError, match="nothing is left that would wake it"):
        stuck.result()
    assert stuck.cancel()
    del virtual, stuck, loop
    gc.collect()  # here, since asyncio and Python warn of what is left


def test_an_executor_that_is_dropped_closes_its_loop(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing warns of it (K2, K4)."""

    async def call() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    gc.collect()  # what other tests have left behind
    caplog.clear()
    loop = VirtualTimeExecutor().submit(call).result()
    assert loop.is_closed()
    assert [] == caplog.records


def test_a_coroutine_that_has_found_no_place_goes_with_its_executor() -> None:
    """Python need not warn that nobody has awaited it (G1, K4)."""
    executor = VirtualTimeExecutor(max_coroutines=1)
    first, _ = (executor.submit(never) for _ in range(2))
    executor.advance(1)
    first.cancel()
    flights = executor._virtual.flights
    (parked,) = flights._parked
    coroutine = parked.coroutine
    flights.close()
    assert inspect.CORO_CLOSED == inspect.getcoroutinestate(coroutine)  # type: ignore[arg-type]  # it is one


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_goes_on_with_its_coroutines(virtual: VirtualTimeExecutor, calls: Calls) -> None:
    """As with its other calls, and so does the parent: they share no clock and no loop (F6, K4)."""
    future = virtual.submit(calls.sleep, 60, "it")
    virtual.advance(10)

    def check() -> None:
        assert ("it", 60) == (future.result(), virtual.monotonic())
        virtual.shutdown()

    in_child(check)
    assert ("it", 60) == (future.result(), virtual.monotonic())


def test_the_loop_lasts_from_one_call_to_the_next(virtual: VirtualTimeExecutor) -> None:
    """So do clients that were made in it (K2, K4)."""

    async def call() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    loops = {virtual.submit(call).result() for _ in range(3)}
    assert 1 == len(loops)


def test_the_loop_of_ones_own_is_not_used() -> None:
    """It would go by another clock (K4)."""
    with VirtualTimeExecutor(loop_factory=lambda: pytest.fail("not here")) as executor:
        assert 0 == executor.submit(Flaky(0)).result()
    with pytest.raises(TypeError, match="loop_factory must be a function"):
        VirtualTimeExecutor(loop_factory=3)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("returns", [True, False])
def test_a_task_factory_that_fails_fails_the_attempt(virtual: VirtualTimeExecutor, *, returns: bool) -> None:
    """Whether it raises or returns nonsense; the attempt is tried again (K4)."""

    def fail(loop: asyncio.AbstractEventLoop, *_: object, **__: object) -> Any:
        loop.set_task_factory(None)
        if not returns:
            raise ConnectionError("no")

    async def prepare() -> None:
        asyncio.get_running_loop().set_task_factory(fail)

    virtual.submit(prepare).result()
    call = Flaky(0)
    future = virtual.submit(call)
    assert 0 == future.result()
    assert (2, [2], 60) == (future.attempts, call.attempts, virtual.monotonic())


@needs_gil
def test_of_a_coroutine_that_has_ended_nothing_is_kept(virtual: VirtualTimeExecutor) -> None:
    """Nor of what it raised, once the future is gone (G2, K4)."""

    class Argument:
        """Something that a call refers to."""

    async def call(argument: Argument, kind: type[BaseException] | None) -> None:
        await asyncio.sleep(1)
        if kind is not None:
            raise kind

    view = virtual.with_options(retry=None)
    gc.disable()
    try:
        for kind in (None, ValueError, asyncio.CancelledError):
            argument = Argument()
            gone = weakref.ref(argument)
            futures = [view.submit(call, argument, kind) for _ in range(2)]
            virtual.advance(0.5)
            futures.pop().cancel()
            virtual.advance(1)
            assert kind is None or isinstance(futures[0].exception(), kind)
            assert futures.pop().done()
            del argument
            assert gone() is None, kind
    finally:
        gc.enable()


# -- other loops, real threads, real sockets -------------------------------------------------------


@pytest.mark.parametrize("is_in_task", [True, False])
def test_the_thread_that_waits_may_run_another_loop(
    virtual: VirtualTimeExecutor, calls: Calls, *, is_in_task: bool
) -> None:
    """That stands still meanwhile, and is what it was afterwards (K4)."""
    seen: list[object] = []

    def look() -> None:
        seen.extend([asyncio.get_running_loop(), asyncio.current_task()])
        seen.append(virtual.submit(calls.sleep, 60, "it").result())
        seen.extend([asyncio.get_running_loop(), asyncio.current_task()])

    async def main() -> list[object]:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if is_in_task:
            look()
            return [loop, task, "it", loop, task]
        loop.call_soon(look)
        await asyncio.sleep(0)
        return [loop, None, "it", loop, None]

    expected = asyncio.run(main())
    assert expected == seen
    assert 60 == virtual.monotonic()


def test_a_plain_call_finds_no_running_loop(virtual: VirtualTimeExecutor) -> None:
    """As in a thread of its own: it may run a loop itself, whatever loop runs where the test waits (K4)."""

    async def number() -> int:
        return 42

    def call() -> int:
        return asyncio.run(number())

    async def main() -> int:
        return virtual.submit(call).result()

    assert 42 == asyncio.run(main())


def test_a_coroutine_may_wait_for_another_executor(virtual: VirtualTimeExecutor, calls: Calls) -> None:
    """Each has its own loop and its own clock (K4)."""

    async def call() -> str:
        with VirtualTimeExecutor() as other:
            assert isinstance(other.submit(never_from, other).exception(), RuntimeError)
            return other.submit(calls.sleep, 10, "it").result()

    async def never_from(other: VirtualTimeExecutor) -> None:
        virtual.submit(int).result()

    assert "it" == virtual.submit(call).result()


def test_time_stands_still_while_a_function_runs_in_a_thread(
    virtual: VirtualTimeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So no timeout comes first, however long it really takes; it may take virtual time itself (K4)."""
    release, flights = threading.Event(), virtual._virtual.flights
    await_io = flights.await_io

    def let_go_and_wait() -> None:
        release.set()
        await_io()

    def work() -> str:
        assert release.wait(TIMEOUT)
        virtual.sleep(5)
        return "done"

    async def call() -> str:
        return await asyncio.wait_for(asyncio.to_thread(work), 30)

    monkeypatch.setattr(flights, "await_io", let_go_and_wait)
    future = virtual.submit(call)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(3)
    assert ("done", 5) == (future.result(), virtual.monotonic())


def test_time_passes_while_a_call_of_the_executor_itself_is_awaited(virtual: VirtualTimeExecutor) -> None:
    """It has no threads, so nothing is waited for in real time (K4)."""

    def call() -> str:
        if virtual.monotonic() < 3600:
            raise ConnectionError("down")
        return "delivered"

    async def wait() -> str:
        return await asyncio.get_running_loop().run_in_executor(virtual, call)

    assert "delivered" == virtual.submit(wait).result()
    assert 3600 == virtual.monotonic()


@pytest.fixture
def echo() -> Iterator[int]:
    """Yield the port of a real server, in a thread, that answers a line when it has got one."""

    def serve() -> None:
        for _ in range(2):
            connection, _ = server.accept()
            with connection, connection.makefile("rwb") as stream:
                stream.write(stream.readline())

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        with socket.create_connection(server.getsockname()):
            pass
        thread.join(TIMEOUT)
    assert not thread.is_alive()


def test_a_real_socket_is_waited_for_when_nothing_else_is_to_come(
    virtual: VirtualTimeExecutor, calls: Calls, echo: int
) -> None:
    """A timeout comes first, since nobody knows for how long (K4)."""

    async def ask(limit: float | None) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", echo)
        try:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(reader.readline(), 5)
            assert 5 == virtual.monotonic()
            writer.write(b"hello\n")
            return await asyncio.wait_for(reader.readline(), limit)
        finally:
            writer.close()

    assert b"hello\n" == virtual.submit(ask, None).result()
    assert 5 == virtual.monotonic()


def test_a_socket_of_no_call_keeps_no_wait_from_ending(virtual: VirtualTimeExecutor) -> None:
    """A connection that is kept open wakes no plain call (K4)."""

    async def listen() -> asyncio.AbstractServer:
        return await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)

    async def close(server: asyncio.AbstractServer) -> None:
        server.close()

    server = virtual.submit(listen).result()
    upstream = Upstream("service")
    view = virtual.with_options(upstream=upstream, retry=None)
    upstream.pause()
    with pytest.raises(RuntimeError, match="would never end") as caught:
        view.submit(int).result()
    assert "waits for" in str(caught.value)
    virtual.submit(close, server).result()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers that send signals")
def test_an_interruption_ends_the_wait_and_no_coroutine(virtual: VirtualTimeExecutor) -> None:
    """Ctrl-C while the loop waits for a thread is no outcome of a call (F9, K4)."""
    release, this = threading.Event(), threading.get_ident()

    def wait() -> bool:
        assert eventually(lambda: not virtual._virtual.flights.is_turning)
        signal.pthread_kill(this, signal.SIGUSR1)
        return release.wait(TIMEOUT)

    async def call() -> bool:
        return await asyncio.to_thread(wait)

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        future = virtual.submit(call)
        with pytest.raises(KeyboardInterrupt):
            future.result()
    finally:
        signal.signal(signal.SIGUSR1, before)
    release.set()
    assert future.result()


def test_an_interruption_in_the_loop_ends_the_wait(virtual: VirtualTimeExecutor, calls: Calls) -> None:
    """What is no outcome of a coroutine is raised where the thread waits (F9, K4)."""
    future = virtual.submit(calls.sleep, 60, "it")
    virtual.advance(10)
    loop: Any = virtual._virtual.flights._loop

    def interrupt() -> NoReturn:
        raise KeyboardInterrupt

    loop.call_soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        future.result()
    assert "it" == future.result()


def test_the_answer_of_a_failed_attempt_is_closed_in_the_loop(virtual: VirtualTimeExecutor) -> None:
    """Before the next one (B5, K4)."""
    trace: list[object] = []

    class Unavailable(Exception):  # noqa: N818  # an answer
        """An answer of a client, which is to be closed where it came from."""

        status_code = 503
        headers = ()
        close = print  # which is not called

        async def aclose(self) -> None:
            """Close it."""
            await asyncio.sleep(1)
            trace.append((virtual.monotonic(), asyncio.get_running_loop()))

    async def call() -> object:
        if not trace:
            raise Unavailable
        return asyncio.get_running_loop()

    loop = virtual.submit(call).result()
    assert ([(1.0, loop)], 60) == (trace, virtual.monotonic())


# -- what is told of them --------------------------------------------------------------------------


def test_events_of_coroutines_are_told_in_virtual_time() -> None:
    """To a listener for which no call is running, whoever causes them (K1, K4)."""
    told: list[tuple[float, str, int, float | None]] = []

    def listen(event: Event) -> None:
        assert current_call() is None
        told.append((event.time, event.kind, event.attempt, event.duration))

    async def call() -> None:
        await asyncio.sleep(5)
        if executor.monotonic() < 60:
            executor.submit(int).cancel()
            raise ConnectionError("down")

    with VirtualTimeExecutor(retry=EACH_MINUTE, on_event=listen) as executor:
        executor.submit(call).result()
    assert [
        (0.0, "accepted", 0, None),
        (0.0, "attempt_started", 1, None),
        (5.0, "accepted", 0, None),
        (5.0, "done", 0, 0.0),
        (5.0, "retry_scheduled", 1, 5.0),
        (65.0, "attempt_started", 2, None),
        (70.0, "done", 2, 70.0),
    ] == told


async def deliver(path: str) -> str:
    """Write down that an attempt is made; take an hour."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(".")
    await asyncio.sleep(3600)
    return "delivered"


def test_a_journal_has_coroutines_go_on(tmp_path: Path) -> None:
    """One that runs at the end of a process is made again in the next (J4, K4)."""
    made = tmp_path / "made"
    executor = VirtualTimeExecutor(journal=tmp_path / "calls")
    future = executor.submit(deliver, str(made))
    executor.shutdown(timeout=10)
    assert future.cancelled()
    with VirtualTimeExecutor(journal=tmp_path / "calls") as executor:
        (adopted,) = executor.adopted
        assert ("delivered", future.key) == (adopted.result(), adopted.key)
    assert ".." == made.read_text("utf-8")


def test_retries_of_coroutines_are_logged(
    virtual: VirtualTimeExecutor, calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    """With the times of the virtual clock (G3, K4)."""
    caplog.set_level(logging.INFO, "retrying_executor")
    virtual.submit(calls.fail_until, 10).result()
    (record,) = caplog.records
    assert "fail_until" in record.getMessage()
    assert "60 s" in record.getMessage()
