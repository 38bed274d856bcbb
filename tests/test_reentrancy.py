"""Users' code that uses the executor it runs in, wherever that is."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from threading import Event
from typing import Any

import pytest

from calls import Flaky
from conftest import TIMEOUT
from observe import eventually, needs_gil, threads_named
from retrying_executor import RetryingExecutor, RetryingFuture, RetryPolicy

LOGGER = logging.getLogger("retrying_executor")

Box = list[RetryingExecutor]
"""The only reference to an executor, so that emptying the box drops it."""


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
    return box[0].with_options(retry=lambda _: act() or 0).submit(Flaky())


def in_retry_on(box: Box, act: Callable[[], object]) -> RetryingFuture[Any]:
    policy = RetryPolicy(delays=(0,), retry_on=lambda _: act() or True)
    return box[0].with_options(retry=policy).submit(Flaky())


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
        future = box[0].submit(Flaky())
        assert wait([future], TIMEOUT).done
    return future


PLACES = [
    in_a_call,
    in_a_done_callback,
    in_a_policy,
    in_retry_on,
    in_retry_result,
    pytest.param(in_a_destructor, marks=needs_gil),
    pytest.param(in_a_finalizer, marks=needs_gil),
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
    todo = iter([OPERATIONS[operation]])  # once, however often it is called
    succeeded: list[object] = []
    acted = Event()

    def act() -> None:
        for operate in todo:
            try:
                operate(box, other)
                succeeded.append(operate)
            finally:
                acted.set()

    box = [RetryingExecutor(1, operation, retry=RetryPolicy(delays=(0, 0)), idle_timeout=0)]
    other = box[0].with_options(retry=lambda _: 3600).submit(Flaky())
    assert eventually(lambda: other.due_at)
    future = place(box, act)
    assert acted.wait(TIMEOUT)
    assert [OPERATIONS[operation]] == succeeded
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
