"""Attempts in subinterpreters: a pool of the standard library, from Python 3.14 on."""

from __future__ import annotations

import concurrent.futures
import os
import sys
from concurrent.futures import Executor

import errands
from conftest import TIMEOUT
from retrying_executor import RetryingExecutor, RetryPolicy
from retrying_executor.engines import Shared


def test_attempts_run_in_interpreters(policy: RetryPolicy) -> None:
    """Where Python has a pool of interpreters, it is an engine: all stay in this process (L2, L3)."""
    pool_of_interpreters = getattr(concurrent.futures, "InterpreterPoolExecutor", None)
    assert (sys.version_info >= (3, 14)) is (pool_of_interpreters is not None)
    if pool_of_interpreters is not None:  # pragma: no cover  # Pythons before 3.14 have none

        def pool() -> Executor:  # an interpreter does not know what was added to the path here
            return pool_of_interpreters(
                2, initializer=exec, initargs=(f"import sys; sys.path[:] = {sys.path}",)
            )

        with RetryingExecutor(4, retry=policy, engine=Shared(pool)) as executor:
            squares = list(executor.map(errands.square, range(100), timeout=TIMEOUT))
            process = executor.submit(errands.pid)
            told = executor.submit(errands.told)
            left = executor.submit(errands.leave)
            failed = executor.submit(errands.fail)
            call = told.result(TIMEOUT)
            assert isinstance(left.exception(TIMEOUT), SystemExit)
            assert isinstance(error := failed.exception(TIMEOUT), errands.TwoArgumentsError)
        assert [number**2 for number in range(100)] == squares
        assert os.getpid() == process.result(TIMEOUT)
        assert call is not None
        assert 1 == call.attempt
        assert (1, 5) == (left.attempts, failed.attempts)
        assert 503 == error.status
