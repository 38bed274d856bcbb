"""The disk is full at any moment: submitting fails, accepted calls go on, and later all is well again."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from deliveries import deliver, named
from processes import IS_NIGHTLY, die, executor_in, files_in, finish_all, places_in, run

from conftest import TIMEOUT
from retrying_executor import JournalError, RetryingExecutor, RetryingFuture

resource = pytest.importorskip("resource", reason="Windows limits no files")

CALLS = 40
SIZES = range(0, 80_000, 1_000 if IS_NIGHTLY else 7_000)
"""At how many bytes a file has no more room."""

pytestmark = pytest.mark.usefixtures("quiet")


def limit_files(size: int) -> None:
    """Have every write fail that would make a file longer than that; -1: none."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size if size >= 0 else most, most))


ended: list[str] = []  # in this process: a ledger would need room on the disk
failed: set[str] = set()


def fulfil(call: str, padding: str) -> str:
    """End, and need no file for that."""
    ended.append(call)
    return call


def fulfil_late(call: str, padding: str) -> str:
    """Fail the first time."""
    if call not in failed:
        failed.add(call)
        raise ConnectionError
    return fulfil(call, padding)


def submit_some(executor: RetryingExecutor, prefix: str) -> tuple[dict[str, RetryingFuture[str]], set[str]]:
    """Submit calls from two threads; return those that are accepted, and those that are not."""
    accepted: dict[str, RetryingFuture[str]] = {}
    refused: set[str] = set()

    def submit(submitter: int) -> None:
        for number in range(CALLS):
            name = f"{prefix}-{submitter}-{number}"
            try:
                accepted[name] = executor.submit(fulfil if number % 3 else fulfil_late, name, "x" * 1_000)
            except JournalError:
                refused.add(name)

    threads = [threading.Thread(target=submit, args=(submitter,)) for submitter in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return accepted, refused


def submit_on_full_disk(directory: Path, size: int) -> None:
    """Submit calls when files cannot grow beyond that size, and again when they can."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with executor_in(directory, 2, durability="full") as executor:
        limit_files(size)
        accepted, refused = submit_some(executor, "full")
        limit_files(-1)
        assert refused
        more, refused_later = submit_some(executor, "not full")
        assert set() == refused_later
        for name, future in {**accepted, **more}.items():
            assert name == future.result(TIMEOUT)
        assert {*accepted, *more} == set(ended)
    assert [] == files_in(directory)


@pytest.mark.parametrize("size", SIZES)
def test_full_disk(tmp_path: Path, size: int) -> None:
    """submit() raises `JournalError`; every accepted call ends well; afterwards submitting works again."""
    assert 0 == run(submit_on_full_disk, tmp_path / "journal", size)


def die_on_full_disk(directory: Path, ledger: Path, acknowledgements: int, refusals: int, size: int) -> None:
    """Submit calls when files cannot grow beyond that size, and die."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with executor_in(directory, 1, durability="full") as executor:
        executor.submit(time.sleep, 0.2)
        limit_files(size)
        for number in range(CALLS):
            try:
                executor.submit(deliver, str(ledger), str(number), 0.0, "x" * 1_000)
            except JournalError:
                os.write(refusals, f"{number}\n".encode())
            else:
                os.write(acknowledgements, f"{number}\n".encode())
        die()


@pytest.mark.parametrize("size", SIZES)
def test_killed_on_full_disk(tmp_path: Path, size: int) -> None:
    """What was accepted before the process died on the full disk is made by the next; the rest is not."""
    (accepted, accepts), (refused, refuses) = os.pipe(), os.pipe()  # which need no room
    directory, ledger, _ = places_in(tmp_path)
    assert -signal.SIGKILL == run(die_on_full_disk, directory, ledger, accepts, refuses, size)
    os.close(accepts)
    os.close(refuses)
    finish_all(directory)
    with open(accepted, encoding="ascii") as names:
        assert set() == set(names.read().split()) - set(named("end", ledger))
    with open(refused, encoding="ascii") as names:
        assert set() == set(names.read().split()) & set(named("begin", ledger))
