"""What a call brings along from one process to the next: its age, and when it is due; and odd files."""

from __future__ import annotations

import math
import signal
import sqlite3
import time
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from deliveries import deliver, named, note
from processes import die, executor_in, files_in, finish_all, places_in, run

from conftest import TIMEOUT
from observe import eventually
from retrying_executor import Journal, JournalError, NotNow, RetryingExecutor, RetryPolicy
from retrying_executor._journal import directory as files

HOUR = 3_600.0
MAX_AGE = 100 * HOUR
POLICY = RetryPolicy(delays=(HOUR,), jitter=False, max_elapsed=None, max_age=MAX_AGE)


def fail(ledger: str, call: str, after: float | None = None) -> None:
    """Fail, and say when to come again."""
    note(ledger, "begin", call)
    note(ledger, "fail", call)
    raise ConnectionError if after is None else NotNow(after=after)


def leave_in_backoff(directory: Path, ledger: Path, after: float | None, policy: RetryPolicy) -> None:
    """Die when a call is in backoff."""
    with executor_in(directory, retry=policy) as executor:
        executor.submit(fail, str(ledger), "a", after)
        assert eventually(lambda: executor.stats().in_backoff)
        die()


def step_clocks(wall: float, *, boot: str | None = None, monotonic: float = 0.0) -> None:
    """From now on the wall clock is so far off; and if the machine was started anew, the other too."""
    plain_time, plain_monotonic = time.time, time.monotonic
    time.time = lambda: plain_time() + wall
    if boot is not None:
        time.monotonic = lambda: plain_monotonic() + monotonic
        files.boot_id = lambda: boot


def times_in(directory: Path, wall: float, **more: Any) -> tuple[float, float, float]:
    """Go on with the call in a process with clocks that are stepped like that, which dies.

    Returns:
        In how many seconds it is due; in how many it is too old; for how many it has been tried.
    """
    report = directory.with_name("report")

    def look() -> None:
        step_clocks(wall, **more)
        with executor_in(directory, retry=POLICY, initializer=Event().wait) as executor:  # no attempt begins
            (call,) = executor.adopted
            now = time.monotonic()
            times = (call._due_at - now, call._expires_at - now, now - call._began_at)
            report.write_text(" ".join(map(str, times)), "ascii")
            die()

    assert -signal.SIGKILL == run(look)
    due_in, expires_in, elapsed = map(float, report.read_text("ascii").split())
    return due_in, expires_in, elapsed


@pytest.mark.parametrize("after", [None, HOUR])
@pytest.mark.parametrize("wall", [-10 * HOUR, 0.0, 10 * HOUR])
def test_due_time_does_not_depend_on_the_wall_clock(tmp_path: Path, after: float | None, wall: float) -> None:
    """While the machine runs, a wall clock that is set, forth or back, makes no call due earlier or later."""
    directory, ledger, _ = places_in(tmp_path)
    assert -signal.SIGKILL == run(leave_in_backoff, directory, ledger, after, POLICY)
    for _ in range(2):  # and from that process to the next
        due_in, expires_in, elapsed = times_in(directory, wall)
        assert HOUR - TIMEOUT < due_in <= 1.25 * HOUR
        assert MAX_AGE - TIMEOUT < expires_in <= MAX_AGE
        assert 0 <= elapsed < TIMEOUT


@pytest.mark.parametrize("monotonic", [-50_000_000.0, 50_000_000.0])
@pytest.mark.parametrize("off", [-HOUR, 0.0, HOUR / 2, 9 * HOUR])
def test_due_time_after_the_machine_was_started_anew(tmp_path: Path, off: float, monotonic: float) -> None:
    """Then the wall clock says for how long it was off; if that went back, for no time.

    In that time, calls get older and their backoff goes on, but no attempts are made.
    """
    directory, ledger, _ = places_in(tmp_path)
    assert -signal.SIGKILL == run(leave_in_backoff, directory, ledger, HOUR, POLICY)
    due_in, expires_in, elapsed = times_in(directory, off, boot="next", monotonic=monotonic)
    off = max(0.0, off)
    assert HOUR - TIMEOUT < due_in + off <= 1.25 * HOUR
    assert -TIMEOUT < expires_in - (MAX_AGE - off) <= 0
    assert 0 <= elapsed < TIMEOUT


def run_until_killed(directory: Path, ledger: Path, calls: int) -> None:
    """Die when so many calls run."""
    with executor_in(directory, calls) as executor:
        for number in range(calls):
            executor.submit(hang, str(ledger), str(number))
        assert eventually(lambda: calls == len(named("begin", ledger)))
        die()


def hang(ledger: str, call: str) -> None:
    """Run until the process dies."""
    note(ledger, "begin", call)
    Event().wait()


def look_and_die(directory: Path, **clocks: Any) -> None:
    """Take over what there is, and die."""
    step_clocks(0.0, **clocks)
    with executor_in(directory, 1):
        die()


def test_marks_count_once(tmp_path: Path) -> None:
    """What ran when a process died is accused of that once, however often others take over the file."""
    directory, ledger, _ = places_in(tmp_path)
    assert -signal.SIGKILL == run(run_until_killed, directory, ledger, 100)  # more than are cleared at once
    for number in range(3):
        later = number + 1
        started_anew = {"boot": f"boot {number}", "monotonic": -10_000_000.0 * later}
        assert -signal.SIGKILL == run(partial(look_and_die, directory, **started_anew))
    (path,) = directory.glob("*.db")
    connection = sqlite3.connect(path)
    (crashes,) = connection.execute("SELECT sum(crashes) FROM calls").fetchone()
    connection.close()
    assert 100 <= crashes <= 100 + 2 * 3  # one of them may have run in each of these, and another been read


# -- other files ---------------------------------------------------------------------------------


def leave(directory: Path, ledger: Path) -> None:
    """Die with calls that wait."""
    with executor_in(directory, 1) as executor:
        executor.submit(deliver, str(ledger), "first", 0.1)
        for number in range(3):
            executor.submit(deliver, str(ledger), str(number))
        die()


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A journal with a file that a process has left."""
    assert -signal.SIGKILL == run(leave, tmp_path / "journal", tmp_path / "ledger")
    return tmp_path / "journal"


def test_database_without_a_lock_file(left: Path, tmp_path: Path) -> None:
    """Somebody has deleted the lock file of a process that is gone: its calls are made."""
    (lock,) = left.glob("*.lock")
    lock.unlink()
    finish_all(left)
    assert {"first", "0", "1", "2"} == set(named("end", tmp_path / "ledger"))


@pytest.mark.parametrize("ending", [".lock", ".db-wal", ".db-shm", ".db-journal"])
def test_files_without_a_database(tmp_path: Path, ending: str) -> None:
    """What belongs to no database is deleted."""
    (tmp_path / f"rest{ending}").write_bytes(b"" if ending == ".lock" else b"of something")
    assert 0 == finish_all(tmp_path)


@pytest.mark.parametrize("has_lock", [False, True])
def test_empty_database(tmp_path: Path, has_lock: bool) -> None:
    """A process has died before there was anything in its file: that is deleted."""
    (tmp_path / "empty.db").touch()
    if has_lock:
        (tmp_path / "empty.lock").touch()
    assert 0 == finish_all(tmp_path)


def test_newer_schema(left: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file of a newer version is left as it is, which the log says once; newer processes go on with it."""
    (path,) = left.glob("*.db")
    connection = sqlite3.connect(path)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with executor_in(left) as executor:
        assert 0 == executor.adopt()
        assert "x" == executor.submit(deliver, str(tmp_path / "ledger"), "x").result(TIMEOUT)
    assert 1 == len([record for record in caplog.records if "left alone" in record.message])
    assert [path.name, path.with_suffix(".lock").name] == files_in(left)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    finish_all(left)
    assert {"first", "0", "1", "2", "x"} == set(named("end", tmp_path / "ledger"))


def test_file_that_cannot_be_opened_for_a_while(
    left: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that cannot be opened now, since too many are open perhaps, is tried again at the next look."""
    (lock,) = left.glob("*.lock")
    lock.rename(lock.with_suffix(".away"))
    lock.mkdir()
    with executor_in(left) as executor:
        assert 0 == executor.adopt()
        lock.rmdir()
        lock.with_suffix(".away").rename(lock)
        assert 0 < executor.adopt()
    assert 1 == len([record for record in caplog.records if "left alone" in record.message])
    assert {"first", "0", "1", "2"} == set(named("end", tmp_path / "ledger"))


def test_executor_that_does_not_adopt_at_once(left: Path, tmp_path: Path) -> None:
    """With ``adopts=False`` an executor goes on with what is left from the first submit() on."""
    journal = Journal(left, durability="process", adopts=False)
    with RetryingExecutor(1, journal=journal) as executor:
        assert [] == executor.adopted
        executor.submit(deliver, str(tmp_path / "ledger"), "x")
        assert executor.adopted
    assert {"first", "0", "1", "2", "x"} == set(named("end", tmp_path / "ledger"))


def test_directory_that_is_gone(tmp_path: Path, quiet: None) -> None:
    """If somebody deletes the whole directory, submit() raises `JournalError`, and nothing else."""
    with executor_in(tmp_path / "journal") as executor:
        (tmp_path / "journal").rmdir()
        with pytest.raises(JournalError):
            executor.submit(deliver, str(tmp_path / "ledger"), "x")
        executor._core.keeper._looks_at = -math.inf  # it is time for a look
        with pytest.raises(JournalError):
            executor.submit(deliver, str(tmp_path / "ledger"), "x")
    assert [] == named("begin", tmp_path / "ledger")
