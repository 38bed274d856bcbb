"""Calls that are read from the journal while the executor is asked about them, or ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Timer

import pytest
from deliveries import deliver, named, note
from processes import die, executor_in, files_in, finish_all, places_in, run

from conftest import TIMEOUT
from observe import eventually
from retrying_executor import RetryingExecutor

is_reading, may_go_on = Event(), Event()


class ReadSlowly:
    """An argument which is read only when the test lets it."""

    def __reduce__(self) -> object:
        return read_slowly, ()


def read_slowly() -> str:
    is_reading.set()
    assert may_go_on.wait(TIMEOUT)
    return "read"


def hang_once(ledger: str, call: str, *_: object) -> None:
    """Never end the first time, and at once the second time."""
    is_first = call not in named("begin", Path(ledger))
    note(ledger, "begin", call)
    if is_first:
        Event().wait()
    note(ledger, "end", call)


def leave_two(directory: Path, ledger: Path) -> None:
    """Die with two calls that run; the second cannot be read at once."""
    with executor_in(directory) as executor:
        executor.submit(hang_once, str(ledger), "first")
        assert eventually(lambda: ["first"] == named("begin", ledger))
        executor.submit(hang_once, str(ledger), "second", ReadSlowly())
        assert eventually(lambda: ["first", "second"] == named("begin", ledger))
        die()


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[RetryingExecutor]:
    """An executor one of whose workers is reading the second call of two that were left."""
    is_reading.clear()
    may_go_on.clear()
    assert -signal.SIGKILL == run(leave_two, tmp_path / "journal", tmp_path / "ledger")
    with executor_in(tmp_path / "journal") as executor:
        assert is_reading.wait(TIMEOUT)
        yield executor
        may_go_on.set()
    assert [] == files_in(tmp_path / "journal")


def test_drain_waits_for_calls_that_are_being_read(reading: RetryingExecutor, tmp_path: Path) -> None:
    """A call that another thread is just reading is not done yet."""
    timer = Timer(0.1, may_go_on.set)
    timer.start()
    assert reading.drain(TIMEOUT)
    assert ["first", "second"] == named("end", tmp_path / "ledger")
    assert timer.finished.is_set()
    timer.join()


def test_shutdown_waits_for_calls_that_are_being_read(reading: RetryingExecutor, tmp_path: Path) -> None:
    """Shutting down, too, makes all that was adopted."""
    timer = Timer(0.1, may_go_on.set)
    timer.start()
    reading.shutdown()
    assert ["first", "second"] == named("end", tmp_path / "ledger")
    timer.join()


def leave_three(directory: Path, ledger: Path) -> None:
    """Die as `leave_two` does, with a third call that waits."""
    with executor_in(directory, 2) as executor:
        executor.submit(hang_once, str(ledger), "first")
        assert eventually(lambda: ["first"] == named("begin", ledger))
        executor.submit(hang_once, str(ledger), "second", ReadSlowly())
        assert eventually(lambda: ["first", "second"] == named("begin", ledger))
        executor.submit(deliver, str(ledger), "third")
        die()


def run_out_of_time(directory: Path) -> None:
    """Shut down without waiting while the only worker has the third call and reads the second first."""
    with executor_in(directory, 1) as executor:
        assert is_reading.wait(TIMEOUT)
        executor.shutdown(timeout=0)
        may_go_on.set()


def test_a_call_in_a_hand_keeps_its_file(tmp_path: Path) -> None:
    """If time is up when a worker has a call whose attempt has not begun, nobody else makes that call."""
    directory, ledger, _ = places_in(tmp_path)
    is_reading.clear()
    may_go_on.clear()
    assert -signal.SIGKILL == run(leave_three, directory, ledger)
    assert 0 == run(run_out_of_time, directory)
    assert ["first", "third"] == named("end", ledger)
    assert files_in(directory)
    may_go_on.set()
    finish_all(directory)
    assert ["first", "third", "second"] == named("end", ledger)
