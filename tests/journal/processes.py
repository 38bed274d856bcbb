"""Processes that have a journal, are killed, and leave files to others."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, Literal

from conftest import TIMEOUT
from retrying_executor import Journal, RetryingExecutor, RetryPolicy

IS_NIGHTLY = os.environ.get("KILLS") == "nightly"
"""Whether to search for an hour rather than for half a minute."""

_forks = multiprocessing.get_context("fork")  # none of them has an executor before
AT_ONCE = RetryPolicy(delays=(0.001,) * 4)


def start(act: Callable[..., object], *args: Any) -> ForkProcess:
    """Have a new process do that, and end as programs do."""
    process = _forks.Process(target=act, args=args)
    process.start()
    return process


def wait_for(process: ForkProcess) -> int:
    """Return how a process ended: its status, or the negative number of the signal that killed it."""
    process.join(TIMEOUT)
    if process.exitcode is None:
        os.kill(process.pid or 0, signal.SIGKILL)
        raise AssertionError("it hangs")
    return process.exitcode


def kill(process: ForkProcess) -> None:
    """Kill a process, which cannot do anything about it."""
    process.kill()
    assert -signal.SIGKILL == wait_for(process)


def run(act: Callable[..., object], *args: Any) -> int:
    """Have a new process do that; return how it ended."""
    return wait_for(start(act, *args))


@contextmanager
def executor_in(
    directory: Path,
    workers: int = 4,
    *,
    durability: Literal["full", "process"] = "process",
    max_crashes: int = 1_000_000,
    **options: Any,
) -> Iterator[RetryingExecutor]:
    """Yield an executor with a journal, whose calls are tried again at once, and end it in order.

    What is killed and not cut off from power needs no syncs. No call is set aside only since it was running
    whenever we killed its process.
    """
    journal = Journal(directory, durability=durability, max_crashes=max_crashes)
    with RetryingExecutor(workers, **{"retry": AT_ONCE, "journal": journal, **options}) as executor:
        yield executor


def finish_all(directory: Path) -> int:
    """Go on with the calls of processes that are gone, to their end; return how many there were.

    No file may be left then.
    """
    with executor_in(directory) as executor:
        found = len(executor.adopted)
        assert executor.drain(TIMEOUT)
    assert [] == files_in(directory), (files_in(directory), found)
    return found


def places_in(directory: Path) -> tuple[Path, Path, Path]:
    """Return where there the journal is, the ledger, and what was acknowledged."""
    return directory / "journal", directory / "ledger", directory / "acknowledgements"


def files_in(directory: Path) -> list[str]:
    """Return the names of the files in a directory, in order; none if it is not there."""
    return sorted(os.listdir(directory)) if directory.exists() else []


def die() -> None:
    """End this process as the system would."""
    os.kill(os.getpid(), signal.SIGKILL)
