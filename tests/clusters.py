"""What tests do with engines of somebody else's: calls that fail, and one whose worker is killed."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import errands
import retrying_executor
from conftest import TIMEOUT
from observe import eventually
from retrying_executor import Attempt, AttemptLostError, RetryingExecutor, RetryingFuture

SOURCE = Path(retrying_executor.__file__).parent.parent
PATHS = os.pathsep.join([str(SOURCE), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
"""The path on which other processes find this package, and the functions that they are to run."""

CALLS = 100


class Tally:
    """The policy that has failed attempts made again at once; counts them by what they raised."""

    def __init__(self) -> None:
        self.raised: Counter[type[BaseException]] = Counter()

    def __call__(self, attempt: Attempt) -> float:
        self.raised[type(attempt.exception)] += 1
        return 0.0

    def check(self, futures: list[RetryingFuture[Any]]) -> None:
        """Every call has succeeded in its last attempt, and each one before that has failed or was lost."""
        assert {None} == {future.exception(TIMEOUT) for future in futures}
        assert {ConnectionError, AttemptLostError} >= set(self.raised)
        assert sum(future.attempts for future in futures) == len(futures) + self.raised.total()


def twice(attempt: Attempt) -> float | None:
    """Have a call tried again once, unless it is one of those that end programs."""
    return 0.0 if attempt.number == 1 else None


def submit_all(executor: RetryingExecutor, started: Path) -> list[RetryingFuture[Any]]:
    """Submit a call that hangs in its first attempt, and many others, one in five of which fails once."""
    hanging = executor.submit(errands.hang_first, str(started))
    others = [
        executor.submit(errands.fail_until, str(started.with_name(str(number))), int(number % 5 == 0))
        for number in range(CALLS)
    ]
    return [hanging, *others]


def kill_worker(started: Path) -> None:
    """Kill the process in which the call hangs."""
    assert eventually(lambda: started.exists() and started.read_text("utf-8"))
    os.kill(int(started.read_text("utf-8")), signal.SIGKILL)


def check_what_calls_raise(executor: RetryingExecutor) -> None:
    """Exceptions that would end a worker, or cannot be unpickled, come back as what they are."""
    left, failed = executor.submit(errands.leave), executor.submit(errands.fail)
    squares = executor.map(errands.square, range(20), timeout=TIMEOUT)
    assert [number**2 for number in range(20)] == list(squares)
    assert isinstance(left.exception(TIMEOUT), SystemExit)
    assert isinstance(error := failed.exception(TIMEOUT), errands.TwoArgumentsError)
    assert 503 == error.status
    assert (1, 2) == (left.attempts, failed.attempts)


class Factory:
    """Makes executors for an engine, and counts them."""

    def __init__(self, make: Callable[[], Executor]) -> None:
        self._make = make
        self.made = 0

    def __call__(self) -> Executor:
        self.made += 1
        return self._make()
