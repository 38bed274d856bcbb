"""Programs of plain and coroutine calls, made up at random, on real threads."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import TIMEOUT
from observe import eventually
from retrying_executor import NotNow, RetryingExecutor, RetryingFuture, RetryPolicy, Upstream

PROGRAMS = int(os.environ.get("COROUTINE_PROGRAMS", "40"))

WAYS = (
    "returns",
    "fails once",
    "fails",
    "not now",
    "interrupts",
    "hangs",
    "cancels another",
    "submits",
    "stops",
)

calls = st.tuples(st.booleans(), st.sampled_from(WAYS), st.integers(0, 20), st.booleans())
"""Whether it is a coroutine function, how it ends, another call, whether it has upstreams."""

options = st.fixed_dictionaries(
    {
        "max_workers": st.integers(1, 3),
        "idle_timeout": st.sampled_from([0, 0.001, None]),
        "max_coroutines": st.sampled_from([1, 2, 1000]),
    }
)


class Error(Exception):
    """How a call fails."""


class Monitor:
    """Notes the attempts that begin and end."""

    def __init__(self) -> None:
        self.started_calls: list[int] = []
        self.ended_calls: list[int] = []

    def started(self, call: RetryingFuture[Any], work: object) -> None:
        self.started_calls.append(id(call))

    def ended(self, call: RetryingFuture[Any]) -> None:
        self.ended_calls.append(id(call))

    def followed_up(self, call: RetryingFuture[Any], news: object) -> None: ...


class Program:
    """Calls as they were made up, and what became of them."""

    def __init__(self, executor: RetryingExecutor, upstream: Upstream) -> None:
        self.executor = executor
        self.views = executor, executor.with_options(upstream=upstream)
        self.futures: list[RetryingFuture[Any]] = []
        self.extra: list[RetryingFuture[Any]] = []
        self.ways: list[str] = []
        self.begun: list[int] = []
        self.ended: list[int] = []

    def submit(self, is_async: bool, way: str, other: int, has_upstream: bool) -> None:
        """Submit a call."""
        number = len(self.futures)
        if not is_async and way in ("hangs", "stops"):
            way = "returns"
        self.ways.append(way)
        fn: Callable[..., Any] = self.coroutine if is_async else self.plain
        self.futures.append(self.views[has_upstream].submit(fn, number, other, way))

    async def coroutine(self, number: int, other: int, way: str) -> int:
        try:
            await asyncio.sleep(0)
            if way == "hangs":
                self.begun.append(number)
                await asyncio.Event().wait()
            if way == "stops":
                asyncio.get_running_loop().stop()
            await asyncio.sleep(0)
            return self.plain(number, other, way)
        finally:
            self.ended.append(number)

    def plain(self, number: int, other: int, way: str) -> int:
        self.begun.append(number)
        is_first = self.begun.count(number) == 1
        if way == "fails" or (way == "fails once" and is_first):
            raise Error(number)
        if way == "not now" and is_first:
            raise NotNow(after=0)
        if way == "interrupts":
            raise KeyboardInterrupt
        if way == "cancels another" and other < len(self.futures) and other != number:
            self.futures[other].cancel()
        if way == "submits" and len(self.extra) < 5:
            with suppress(RuntimeError):  # it was shut down
                self.extra.append(self.executor.submit(int))
        return number

    def has_its_outcome(self, number: int) -> bool:
        """Return whether the outcome of a call is one that it can have."""
        future, way = self.futures[number], self.ways[number]
        if future.cancelled():
            return True
        error = future.exception()
        if way == "fails":
            return isinstance(error, Error) and error.args == (number,)
        if way == "interrupts":
            return isinstance(error, KeyboardInterrupt)
        if way in ("fails once", "not now") and isinstance(error, (Error, NotNow)):
            return number in self.cut_short
        return error is None and future.result() == number and way != "hangs"

    cut_short: frozenset[int] = frozenset()


@settings(max_examples=PROGRAMS, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    program=st.lists(calls, max_size=12),
    options=options,
    cancelled=st.sets(st.integers(0, 12), max_size=4),
    end=st.sampled_from(["shutdown", "cancel_futures", "timeout"]),
)
@pytest.mark.usefixtures("quiet")
def test_every_call_of_a_program_has_its_own_outcome(
    program: list[Any], options: dict[str, Any], cancelled: set[int], end: str
) -> None:
    """Once, permits come back, and the numbers add up, whatever calls do to each other (G1, G4, U4, K3)."""
    upstream = Upstream("x", max_concurrency=2, hold_after=None)
    before = set(threading.enumerate())
    executor = RetryingExecutor(retry=RetryPolicy(delays=(0,) * 2), **options)
    run = Program(executor, upstream)
    monitor = Monitor()
    executor._core.settling._observer = monitor
    told: list[RetryingFuture[Any]] = []
    for call in program:
        run.submit(*call)
        run.futures[-1].add_done_callback(told.append)
    late = [number for number in cancelled if number < len(run.futures)]
    for number in late:
        run.futures[number].cancel()
    if end == "shutdown":
        for number, way in enumerate(run.ways):
            if way == "hangs":
                run.futures[number].cancel()
        executor.shutdown()
    elif end == "cancel_futures":
        run.cut_short = frozenset(range(len(run.futures)))
        executor.shutdown(wait=False, cancel_futures=True)
        for number, way in enumerate(run.ways):
            if way == "hangs":
                run.futures[number].cancel()
        executor.shutdown()
    else:
        run.cut_short = frozenset(range(len(run.futures)))
        executor.shutdown(timeout=0)
    if end != "shutdown":
        executor.shutdown()
    run.cut_short |= set(late)
    run.cut_short |= {other for _, way, other, _ in program if way == "cancels another"}
    everything = run.futures + run.extra
    assert len(everything) == len(wait(everything, TIMEOUT).done)
    assert [] == [number for number in range(len(run.futures)) if not run.has_its_outcome(number)]
    assert sorted(map(id, told)) == sorted(map(id, run.futures))
    assert eventually(lambda: before.issuperset(threading.enumerate()))
    stats = executor.stats()
    assert (0, 0, 0, 0) == (stats.running, stats.ready, stats.in_backoff, stats.held)
    assert len(everything) == stats.submitted == stats.succeeded + stats.failed + stats.cancelled
    assert stats.cancelled == sum(future.cancelled() for future in everything)
    assert 0 == upstream.in_flight
    assert sorted(monitor.started_calls) == sorted(monitor.ended_calls)
