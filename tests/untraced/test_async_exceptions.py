"""Exceptions that one thread raises in another.

While such an exception is pending, a traced Python 3.11 can spin for ever.
"""

from __future__ import annotations

import ctypes
import threading
import time
from threading import Event, Thread

import pytest

from calls import Flaky
from conftest import TIMEOUT
from observe import eventually, resting
from retrying_executor import RetryingExecutor, RetryPolicy

pytestmark = pytest.mark.usefixtures("quiet")


class Interrupt(BaseException):
    """What another thread raises in a worker."""


def raise_in(thread: Thread) -> None:
    """Have `Interrupt` raised in a thread, at its next bytecode instruction."""
    assert thread.ident is not None
    ident = ctypes.c_ulong(thread.ident)
    assert 1 == ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(Interrupt))


@pytest.mark.parametrize("in_backoff", [True, False])
def test_an_exception_raised_in_a_thread_at_rest_loses_no_call(in_backoff: bool) -> None:
    """The thread takes note of it when it is woken, and goes on (G1)."""
    with RetryingExecutor(1, retry=lambda _: 3600, idle_timeout=None) as executor:
        thread = executor.submit(threading.current_thread).result(TIMEOUT)
        parked = [executor.submit(Flaky()) for _ in range(in_backoff)]
        assert eventually(lambda: executor.stats().in_backoff == in_backoff and resting(executor))
        raise_in(thread)
        assert [1] * 5 == [executor.submit(int, 1).result(TIMEOUT) for _ in range(5)]
        assert all(future.cancel() for future in parked)
        assert 1 == executor.stats().threads


def test_an_exception_raised_in_a_running_call_is_its_outcome() -> None:
    """It is not an Exception, so it is not retried; the calls after it run (B4, G1)."""
    running = Event()
    never = False

    def run() -> None:
        running.set()
        while not never:
            time.sleep(0)

    with RetryingExecutor(1, retry=RetryPolicy(delays=(0,))) as executor:
        future = executor.submit(run)
        others = [executor.submit(int, n) for n in range(3)]
        assert running.wait(TIMEOUT)
        (thread,) = executor._core.crew.roster.threads()
        raise_in(thread)
        assert isinstance(future.exception(TIMEOUT), Interrupt)
        assert [0, 1, 2] == [other.result(TIMEOUT) for other in others]
