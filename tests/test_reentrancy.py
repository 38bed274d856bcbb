"""Users' code that uses the executor it runs in, and code that interrupts the library anywhere."""

from __future__ import annotations

import itertools
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, wait
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

import pytest

from conftest import TIMEOUT
from observe import eventually, threads_named
from retrying_executor import (
    RetryingExecutor,
    RetryingFuture,
    RetryPolicy,
    _crew,
    _executor,
    _future,
    _pool,
    _schedule,
)

FILES = {module.__file__ for module in (_crew, _executor, _future, _pool, _schedule)}
LOGGER = logging.getLogger("retrying_executor")

Box = list[RetryingExecutor]
"""The only reference to an executor, so that emptying the box drops it."""


class FailOnce:
    """A call whose first attempt fails."""

    def __init__(self) -> None:
        self.attempts = 0

    def __call__(self) -> int:
        self.attempts += 1
        if self.attempts == 1:
            raise ValueError
        return self.attempts


@contextmanager
def handling(emit: Callable[[logging.LogRecord], object]) -> Iterator[None]:
    """Have *emit* called for each record of the library's logger."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            emit(record)

    handler, level, propagate = Handler(), LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    try:
        yield
    finally:
        LOGGER.propagate = propagate
        LOGGER.setLevel(level)
        LOGGER.removeHandler(handler)


# -- each kind of users' code, and what it may do in there ------------------------------------------


class Thing:
    """An argument whose going away can be seen."""

    def __init__(self, on_end: Callable[[], object]) -> None:
        self.on_end = on_end

    def __del__(self) -> None:
        self.on_end()


def in_a_call(box: Box, act: Callable[[], object]) -> RetryingFuture[Any]:
    return box[0].submit(act)


def in_a_done_callback(box: Box, act: Callable[[], object]) -> RetryingFuture[Any]:
    added = Event()
    future = box[0].submit(added.wait, TIMEOUT)
    future.add_done_callback(lambda _: act())
    added.set()
    return future


def in_a_policy(box: Box, act: Callable[[], object]) -> RetryingFuture[Any]:
    return box[0].with_options(retry=lambda _: act() or 0).submit(FailOnce())


def in_retry_on(box: Box, act: Callable[[], object]) -> RetryingFuture[Any]:
    policy = RetryPolicy(delays=(0,), retry_on=lambda _: act() or True)
    return box[0].with_options(retry=policy).submit(FailOnce())


def in_retry_result(box: Box, act: Callable[[], object]) -> RetryingFuture[Any]:
    policy = RetryPolicy(delays=(0,), retry_result=lambda _: act())
    return box[0].with_options(retry=policy).submit(int)


def in_a_destructor(box: Box, act: Callable[[], object]) -> RetryingFuture[Any]:
    submitted = Event()
    future = box[0].submit(lambda _: submitted.wait(TIMEOUT), Thing(act))
    submitted.set()  # from here on nobody else refers to it
    return future


def in_a_finalizer(box: Box, act: Callable[[], object]) -> RetryingFuture[Any]:
    submitted = Event()
    thing = Thing(int)
    weakref.finalize(thing, act)
    future = box[0].submit(lambda _: submitted.wait(TIMEOUT), thing)
    del thing
    submitted.set()  # from here on nobody else refers to it
    return future


def in_a_logging_handler(box: Box, act: Callable[[], object]) -> RetryingFuture[Any]:
    with handling(lambda _: act()):
        future = box[0].submit(FailOnce())
        assert wait([future], TIMEOUT).done
    return future


PLACES = [
    in_a_call,
    in_a_done_callback,
    in_a_policy,
    in_retry_on,
    in_retry_result,
    in_a_destructor,
    in_a_finalizer,
    in_a_logging_handler,
]


def drain(executor: RetryingExecutor) -> None:
    with pytest.raises(RuntimeError, match="would wait for itself"):
        executor.drain(TIMEOUT)


OPERATIONS: dict[str, Callable[[Box, RetryingFuture[Any]], object]] = {
    "submit": lambda box, _: box[0].submit(int),
    "cancel": lambda _, other: other.cancel(),
    "stats": lambda box, _: box[0].stats(),
    "drain": lambda box, _: drain(box[0]),
    "drop": lambda box, _: box.clear(),
    "shutdown": lambda box, _: box[0].shutdown(),
    "shutdown in time": lambda box, _: box[0].shutdown(timeout=0),
    "shutdown without waiting": lambda box, _: box[0].shutdown(wait=False),
    "shutdown and cancel": lambda box, _: box[0].shutdown(cancel_futures=True),
    "shutdown and cancel without waiting": lambda box, _: box[0].shutdown(wait=False, cancel_futures=True),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("place", PLACES)
def test_users_code_may_use_the_executor_that_runs_it(
    place: Callable[[Box, Callable[[], object]], RetryingFuture[Any]], operation: str
) -> None:
    """Wherever users' code runs, it may submit, cancel, drop or shut down, without deadlock (F7)."""
    errors: list[BaseException] = []
    acted = Event()

    def act() -> None:
        if not acted.is_set():
            try:
                OPERATIONS[operation](box, other)
            except BaseException as error:
                errors.append(error)
            acted.set()

    box = [RetryingExecutor(1, operation, retry=RetryPolicy(delays=(0, 0)), idle_timeout=0)]
    other = box[0].with_options(retry=lambda _: 3600).submit(FailOnce())
    assert eventually(lambda: other.due_at)
    future = place(box, act)
    assert acted.wait(TIMEOUT)
    assert [] == errors
    assert future.exception(TIMEOUT) is None or "cancel" in operation
    assert other.cancel()
    box.clear()
    assert eventually(lambda: not threads_named(operation))


def test_a_callback_of_the_failed_initializer_may_shut_down() -> None:
    """A done callback runs in a thread that is about to leave: shutdown() and drain() know it (C6, F7)."""
    errors: list[BaseException] = []
    submitted = Event()

    def initializer() -> None:
        assert submitted.wait(TIMEOUT)
        raise ValueError

    def callback(_: object) -> None:
        for method in (executor.shutdown, lambda: executor.drain(TIMEOUT)):
            try:
                method()
            except BaseException as error:
                errors.append(error)

    executor = RetryingExecutor(1, initializer=initializer)
    with handling(lambda _: None):
        executor.submit(int).add_done_callback(callback)
        last = executor.submit(int)
        submitted.set()
        assert last.exception(TIMEOUT) is not None
        executor.shutdown()
    assert ["drain() in one of the executor's own threads would wait for itself"] == [str(e) for e in errors]


# -- between any two bytecode instructions ----------------------------------------------------------


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

    def is_new(self, frame: FrameType) -> bool:  # pragma: no cover  # runs while tracing is off
        """Return whether the instruction is met for the first time."""
        place = frame.f_code, frame.f_lasti
        return place not in self.met and not self.met.add(place)

    # What follows runs while tracing is off, so it cannot be measured.

    def enter(self, frame: FrameType, event: str, arg: object) -> Any:  # pragma: no cover  # as said
        if frame.f_code.co_filename not in FILES or self.at is not None:
            return None
        frame.f_trace_opcodes = True
        return self.step

    def step(self, frame: FrameType, event: str, arg: object) -> Any:  # pragma: no cover  # as said
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


WHAT_BECAME_OF_CALLS = ("running", "ready", "in_backoff", "succeeded", "failed", "cancelled", "submitted")


class Scenario:
    """One call that stays in backoff, one that fails once and one that does not; calls may be added."""

    def __init__(self, max_workers: int, name: str) -> None:
        self.name = name
        self.box = [RetryingExecutor(max_workers, name, retry=RetryPolicy(delays=(0, 0)), idle_timeout=0)]
        self.parked: list[RetryingFuture[Any]] = []
        self.accepted: list[RetryingFuture[Any]] = []
        self.refused: list[FailOnce] = []

    def calls(self) -> None:
        """Make the calls; outside a shutdown, all are accepted."""
        executor = self.box[0]
        self.submit(executor.with_options(retry=lambda _: 3600), self.parked)
        for _ in range(2):
            self.submit(executor, self.accepted)
        self.seen = executor.stats()

    def submit(self, executor: Executor, accepted: list[RetryingFuture[Any]]) -> None:
        """Make one call."""
        call = FailOnce()
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
            assert parked.cancelled() or isinstance(parked.exception(TIMEOUT), ValueError), at
        assert eventually(lambda: not threads_named(self.name)), at
        assert not [call for call in self.refused if call.attempts], at
        *parts, submitted = [getattr(self.seen, name) for name in WHAT_BECAME_OF_CALLS]
        assert min(parts) >= 0, at
        assert submitted == sum(parts), at
        for executor in self.box:
            stats = executor.stats()
            assert (0, 0, 0, 0) == (stats.threads, stats.running, stats.ready, stats.in_backoff), at
            assert stats.submitted == stats.succeeded + stats.failed + stats.cancelled, at
            assert len(self.accepted) + len(self.parked) == stats.submitted, at


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


ANYWHERE = [
    *itertools.product([1], ["of_workers"], [submit, cancel_parked]),
    *itertools.product([2], ["of_this_thread"], [submit, cancel_latest]),
]


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12), reason="tracing opcodes crashes the interpreter in 3.12.1"
)
@pytest.mark.parametrize(
    ("max_workers", "where", "action"),
    ANYWHERE,
    ids=[f"{n}-{where}-{a.__name__}" for n, where, a in ANYWHERE],
)
def test_the_library_may_be_interrupted_anywhere(
    max_workers: int, where: str, action: Callable[[Scenario], None]
) -> None:
    """A destructor or a signal handler may use the executor wherever it interrupts it (C5, F7, G1)."""
    cancelled = "cancel" in action.__name__
    for k in itertools.count():  # pragma: no branch  # it ends
        scenario = Scenario(max_workers, f"scenario-{k}-")
        interruption = Interruption(k, lambda scenario=scenario: action(scenario))
        with handling(lambda _: None):
            with getattr(interruption, where)():
                scenario.calls()
                if where == "of_workers":  # also of those that are started meanwhile
                    scenario.check(interruption, cancelled=cancelled)
            scenario.check(interruption, cancelled=cancelled)
        assert interruption.error is None, interruption
        if interruption.at is None:
            break
    assert k > 100  # it did not end because nothing can be interrupted
    action(scenario)  # where it can be measured
    submit(scenario)
    scenario.check(repr(interruption), cancelled=cancelled)
