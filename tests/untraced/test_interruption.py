"""Code that interrupts the library between any two of its bytecode instructions.

The tests trace the library instruction by instruction, and there can be only one tracer at a time.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from calls import Flaky
from conftest import TIMEOUT
from observe import eventually, threads_named
from retrying_executor import (
    RetryingExecutor,
    RetryingFuture,
    RetryPolicy,
    _executor,
)
from retrying_executor._calls import call, flight, ledger, schedule
from retrying_executor._core import core, entrance, settling, turns
from retrying_executor._threads import flights, loop, roster, shortcut, threads

MODULES = (_executor, call, core, entrance, ledger, roster, schedule, settling, shortcut, threads, turns)
OF_COROUTINES = (flight, flights, loop)
FILES = {module.__file__ for module in (*MODULES, *OF_COROUTINES)}


class Interruption:
    """Has *action* run before the *k*-th instruction of the library, as a destructor might be."""

    def __init__(self, k: int, action: Callable[[], object]) -> None:
        self.k = k
        self.action = action
        self.count = itertools.count().__next__
        self.met: set[object] = set()
        self.at: str | None = None
        self.error: BaseException | None = None

    def __repr__(self) -> str:
        return f"interrupted at {self.at}, instruction {self.k}"

    def is_new(self, frame: FrameType) -> bool:
        """Return whether the instruction is met for the first time."""
        place = frame.f_code, frame.f_lasti
        return place not in self.met and not self.met.add(place)

    def enter(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in FILES or self.at is not None:
            return None
        frame.f_trace_opcodes = True
        return self.step

    def step(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode" and self.is_new(frame) and self.count() == self.k:
            self.at = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
            try:
                self.action()
            except BaseException as error:
                self.error = error
        return self.step if self.at is None else None

    @contextmanager
    def of_this_thread(self) -> Iterator[None]:
        """Interrupt this thread."""
        sys._getframe().f_trace_opcodes = True  # or else 3.12 takes no notice of the others
        before = sys.gettrace()
        sys.settrace(self.enter)
        try:
            yield
        finally:
            sys.settrace(before)

    @contextmanager
    def of_workers(self) -> Iterator[None]:
        """Interrupt the threads that are started."""
        sys._getframe().f_trace_opcodes = True
        before = threading.gettrace()
        threading.settrace(self.enter)
        try:
            yield
        finally:
            threading.settrace(before)  # type: ignore[arg-type]  # None is fine


class FlakyCoroutine(Flaky):
    """A coroutine function that fails at first."""

    async def __call__(self) -> int:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().__call__()


class Scenario:
    """One call that stays in backoff, one that fails once and one that does not; calls may be added."""

    def __init__(self, max_workers: int, name: str, make: Callable[[], Flaky] = Flaky) -> None:
        self.name = name
        self.make = make
        self.box = [RetryingExecutor(max_workers, name, retry=RetryPolicy(delays=(0, 0)), idle_timeout=0)]
        self.parked: list[RetryingFuture[Any]] = []
        self.accepted: list[RetryingFuture[Any]] = []
        self.refused: list[Flaky] = []

    def calls(self) -> None:
        """Make the calls; outside a shutdown, all are accepted."""
        executor = self.box[0]
        self.submit(executor.with_options(retry=lambda _: 3600), self.parked)
        for _ in range(2):
            self.submit(executor, self.accepted)
        executor.stats()

    def submit(self, executor: Executor, accepted: list[RetryingFuture[Any]]) -> None:
        """Make one call."""
        call = self.make()
        try:
            accepted.append(executor.submit(call))
        except RuntimeError:
            self.refused.append(call)

    def check(self, at: object, *, cancelled: bool) -> None:
        """See that nothing was lost and nobody stays; cancelled calls may have had one attempt."""
        for future in self.accepted:
            assert eventually(future.done), at
            assert 2 == future.attempts or (cancelled and future.attempts < 2), at
            assert future.cancelled() or future.exception() is None or cancelled, at
        for parked in self.parked:
            assert eventually(lambda parked=parked: parked.due_at or parked.done()), at
            parked.cancel()
            assert parked.cancelled() or isinstance(parked.exception(TIMEOUT), ConnectionError), at
        assert eventually(lambda: not threads_named(self.name)), at
        assert not [call for call in self.refused if call.attempts], at
        for executor in self.box:
            stats = executor.stats()
            assert (0, 0, 0, 0) == (stats.threads, stats.running, stats.ready, stats.in_backoff), at
            calls = len(self.accepted) + len(self.parked)
            # An addition that is interrupted by another may cost one count.
            assert stats.submitted in (calls, calls - 1), at
            assert stats.succeeded + stats.failed + stats.cancelled in (calls, calls - 1), at


def submit(scenario: Scenario) -> None:
    """Submit one more."""
    for executor in scenario.box:
        scenario.submit(executor, scenario.accepted)


def cancel_parked(scenario: Scenario) -> None:
    """Cancel what waits for its retry."""
    for future in scenario.parked:
        assert future.cancel() == future.cancelled()


def cancel_latest(scenario: Scenario) -> None:
    """Cancel what may be waiting for its first attempt."""
    for future in scenario.accepted[-1:]:
        future.cancel()


not_on_312 = pytest.mark.skipif(
    sys.version_info[:2] == (3, 12), reason="tracing the opcodes of new threads crashes Python 3.12.1"
)
ANYWHERE = [
    pytest.param(1, "of_workers", submit, marks=not_on_312),
    pytest.param(1, "of_workers", cancel_parked, marks=not_on_312),
    (2, "of_this_thread", submit),
    (2, "of_this_thread", cancel_latest),
]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("max_workers", "where", "action"), ANYWHERE)
def test_the_library_may_be_interrupted_anywhere(
    max_workers: int, where: str, action: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A destructor or a signal handler may use the executor wherever it interrupts it (C5, F7, G1)."""
    monkeypatch.setattr(threads, "_ARRIVAL_TIMEOUT", 0.001)  # none arrives while the lock is held
    cancelled = "cancel" in action.__name__
    for k in itertools.count():
        scenario = Scenario(max_workers, f"scenario-{k}-")
        interruption = Interruption(k, lambda scenario=scenario: action(scenario))
        with getattr(interruption, where)():
            scenario.calls()
            if where == "of_workers":  # also of those that are started meanwhile
                scenario.check(interruption, cancelled=cancelled)
        scenario.check(interruption, cancelled=cancelled)
        assert interruption.error is None, interruption
        if interruption.at is None:
            break
    assert k > 100  # it did not end because nothing can be interrupted


@not_on_312
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("action", [submit, cancel_latest])
def test_what_coroutines_go_through_may_be_interrupted(
    action: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same while they are launched, run in the event loop, land, and are taken up (C5, F7, G1, K1).

    At every tenth place: all of them take too long but once.
    """
    monkeypatch.setattr(threads, "_ARRIVAL_TIMEOUT", 0.001)
    cancelled = "cancel" in action.__name__
    met: set[str] = set()
    for k in itertools.count(0, 10):
        scenario = Scenario(1, f"scenario-{k}-", FlakyCoroutine)
        interruption = Interruption(k, lambda scenario=scenario: action(scenario))
        with interruption.of_workers():
            scenario.calls()
            scenario.check(interruption, cancelled=cancelled)
        assert interruption.error is None, interruption
        for executor in scenario.box:
            executor.shutdown()
        if interruption.at is None:
            break
        met.add(interruption.at.partition(":")[0])
    assert {"flight.py", "flights.py", "loop.py"} <= met
