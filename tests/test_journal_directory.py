"""Which files of a journal belong to nobody any more, and what is in the way (J2, J6)."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

import journals
from conftest import TIMEOUT
from forks import in_child
from journals import attempt_of, blocked, die, down, files, keeper_of, killed, made, note, refuse, rows
from observe import eventually
from retrying_executor import ForkedFutureError, Journal, JournalError, RetryingExecutor, RetryPolicy
from retrying_executor._common.stdlib import is_held
from retrying_executor._journal import database, directory, keeper, locks, marks
from retrying_executor._journal.database import Database
from retrying_executor._threads.threads import Threads
from retrying_executor.testing import VirtualTimeExecutor

journal = journals.journal

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")


def leave(journal: Path, *values: Any) -> Path:
    """Have a process die with calls that wait; return its database."""
    before = VirtualTimeExecutor(journal=Journal(journal, adopts=False))
    keeper_of(before)._looks_at = float("inf")
    for value in values:
        before.submit(note, value)
    path = keeper_of(before)._own_store().path
    killed(before)
    return path


def damaged(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)


def without_tables(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE owner")
    connection.close()


@pytest.mark.parametrize("damage", [damaged, without_tables])
def test_a_damaged_file_is_put_out_of_the_way(
    journal: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The rest goes on (J6)."""
    path = leave(journal, "lost")
    damage(path)
    leave(journal, 1)
    with VirtualTimeExecutor(journal=journal) as after:
        assert [1] == [future.result() for future in after.adopted]
    assert [f"{path.name}.corrupt"] == [left.name for left in journal.iterdir()]
    (record,) = caplog.records
    assert "journal_damaged" == record.kind  # type: ignore[attr-defined]
    assert f"journal file {path} is damaged: " in record.getMessage()
    assert f"It was renamed to {path.name}.corrupt, and calls still in it are not made" in record.getMessage()


def test_a_file_that_turns_out_to_be_damaged_later_is_put_out_of_the_way(
    journal: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was read of it goes on, without being kept; and `drain` ends (J6)."""
    monkeypatch.setattr(keeper, "_AT_ONCE", 2)
    path = leave(journal, 0, 1, 2, 3)
    after = VirtualTimeExecutor(journal=journal)

    def fail(*_: object) -> NoReturn:
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(Database, "waiting_after", fail)
    assert after.drain()
    assert [0, 1] == made
    after.shutdown()
    assert [f"{path.name}.corrupt"] == [left.name for left in journal.iterdir()]
    assert ["journal_damaged"] == [record.kind for record in caplog.records]  # type: ignore[attr-defined]
    assert f"It was renamed to {path.name}.corrupt, and calls still in it" in caplog.text


def test_a_disk_that_fails_for_a_while_is_asked_again(
    journal: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the next look, not with each call; and `drain` does not wait for it (J6)."""
    monkeypatch.setattr(keeper, "_AT_ONCE", 2)
    leave(journal, 0, 1, 2, 3)
    after = VirtualTimeExecutor(journal=journal)

    def fail(*_: object) -> NoReturn:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "waiting_after", fail)
        assert after.drain()
    assert [0, 1] == made
    (record,) = caplog.records
    assert "journal_damaged" == record.kind  # type: ignore[attr-defined]
    assert "cannot be read or written: OperationalError: disk I/O error. It is tried" in record.getMessage()
    assert "corrupt" not in record.getMessage()
    after.adopt()
    assert after.drain()
    assert [0, 1, 2, 3] == made
    after.shutdown()


def test_a_file_that_another_thread_closes_meanwhile_is_no_damage(
    journal: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The executor ends while calls are read (F1, J6)."""
    monkeypatch.setattr(keeper, "_AT_ONCE", 1)
    leave(journal, 0, 1)
    after = VirtualTimeExecutor(journal=journal)
    waiting_after = Database.waiting_after

    def close_then(self: Database, *args: Any) -> Any:
        keeper_of(after).finish()
        return waiting_after(self, *args)

    monkeypatch.setattr(Database, "waiting_after", close_then)
    after.drain()
    assert [] == caplog.records
    down(after)


def test_a_file_that_cannot_be_looked_into_stops_nothing(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no table that it should have, or the disk fails; the executor is made all the same (J6)."""
    leave(journal, 1)
    leave(journal, 2)
    suspects = Database.suspects
    errors = [sqlite3.OperationalError("disk I/O error")]

    def fail(self: Database) -> Any:
        if errors:
            raise errors.pop()
        return suspects(self)

    monkeypatch.setattr(Database, "suspects", fail)
    with VirtualTimeExecutor(journal=journal) as after:
        assert 1 == len(after.adopted)
        assert 1 == after.adopt()
        assert after.drain()
    assert [1, 2] == sorted(made)


def test_a_file_of_a_newer_version_is_left_alone(journal: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Newer processes go on with it. The log says so once (J6)."""
    path = leave(journal, 1)
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {database.SCHEMA + 1}")
    connection.close()
    with VirtualTimeExecutor(journal=journal) as after:
        assert (0, []) == (after.adopt(), after.adopted)
    (record,) = caplog.records
    assert "journal_left_alone" == record.kind  # type: ignore[attr-defined]
    assert "is left alone: it has schema 2, and this version knows 1" in record.getMessage()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {database.SCHEMA}")
    connection.close()
    with VirtualTimeExecutor(journal=journal) as newer:
        assert [1] == [future.result() for future in newer.adopted]


@pytest.mark.parametrize(
    ("owner", "name"), [(locks, "take"), (marks.Marks, "start"), (Database, "take_over")]
)
def test_a_file_that_cannot_be_opened_now_is_tried_again(
    journal: Path, owner: Any, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There may be no room, or too many open files, for a while (J6)."""
    leave(journal, 1)

    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        after = VirtualTimeExecutor(journal=journal)
        assert (0, []) == (after.adopt(), after.adopted)
    assert ["journal_left_alone"] == [record.kind for record in caplog.records]  # type: ignore[attr-defined]
    assert 1 == after.adopt()
    after.shutdown()
    assert ([1], set()) == (made, files(journal))


def test_what_a_process_that_has_just_begun_left_behind_is_tidied_up(journal: Path) -> None:
    """A lock without a database, and a database without anything in it (J6)."""
    Journal(journal)
    (journal / "one.lock").touch()
    (journal / "two.lock").touch()
    (journal / "two.db").touch()
    (journal / "three.db").touch()
    (journal / "README").touch()
    with VirtualTimeExecutor(journal=journal) as after:
        assert [] == after.adopted
    assert ["README"] == [left.name for left in journal.iterdir()]


def test_a_lock_file_that_somebody_has_deleted_is_made_anew(journal: Path) -> None:
    """What the rows say is all that is known then (J6)."""
    path = leave(journal, 1)
    path.with_suffix(".lock").unlink()
    with VirtualTimeExecutor(journal=journal) as after:
        assert [1] == [future.result() for future in after.adopted]
    assert set() == files(journal)


def test_a_directory_that_somebody_has_deleted_fails_submit_only(journal: Path) -> None:
    """The next look finds nothing, and that is said (J6)."""
    with VirtualTimeExecutor(journal=journal) as executor:
        shutil.rmtree(journal)
        assert 0 == executor.adopt()
        with pytest.raises(JournalError, match="the journal cannot be written: "):
            executor.submit(note, 1)
        journal.mkdir(0o700)
        assert 1 == executor.submit(note, 1).result()


def test_a_file_that_goes_while_the_directory_is_read_is_passed_over(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another executor has made the last of its calls (J2)."""
    leave(journal, 1)
    with VirtualTimeExecutor(journal=journal) as after:
        (journal / "gone.db").symlink_to(journal / "nowhere")
        assert {"gone"}.isdisjoint(stem.name for stem in after._core.keeper._directory.stems())  # type: ignore[union-attr]
        (journal / "gone.db").unlink()


def test_a_file_with_failed_calls_only_is_looked_into_once(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless somebody has changed it, to have them tried again, for example (J5)."""
    before = VirtualTimeExecutor(retry=None, journal=journal)
    before.submit(refuse, 1).exception()
    killed(before)
    looks: list[Path] = []
    take = locks.take
    monkeypatch.setattr(locks, "take", lambda path: looks.append(path) or take(path))
    with VirtualTimeExecutor(journal=journal) as after:
        assert 0 == after.adopt()
        assert 1 == len(looks)
        (path,) = journal.glob("*.db")
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE calls SET status = 'waiting'")
        connection.close()
        os.utime(path, ns=(1, 1))
        assert 1 == after.adopt()
        assert after.adopted[0].exception()


def test_a_lock_on_a_file_that_was_deleted_meanwhile_says_nothing(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner deletes it between the two steps of another process (J2)."""
    path = journal / "one.lock"
    Journal(journal)
    opened = os.open
    todo = [path.unlink, lambda: (path.unlink(), path.touch())]

    def open_then(*args: Any, **kwargs: Any) -> int:
        descriptor = opened(*args, **kwargs)
        if todo:
            todo.pop()()
        return descriptor

    monkeypatch.setattr(os, "open", open_then)
    descriptor = locks.take(path)
    assert descriptor is not None
    assert os.path.samestat(path.stat(), os.fstat(descriptor))
    assert locks.take(path) is None
    locks.delete(path, descriptor)
    assert set() == files(journal)


def test_a_lock_that_is_interrupted_is_given_back(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or no process would go on with the file (F9, J2)."""
    path = leave(journal, 1).with_suffix(".lock")

    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(locks, "_is_at", interrupted)
        with pytest.raises(KeyboardInterrupt):
            locks.take(path)
    descriptor = locks.take(path)
    assert descriptor is not None
    os.close(descriptor)


# -- clocks ----------------------------------------------------------------------------------------

NOW = 1_000_000.0


class Clocks:
    """The clocks of a machine, which the test sets."""

    def __init__(self) -> None:
        self.boot = "first"
        self.now = 5_000.0
        self.wall = NOW

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds

    def start_anew(self, after: float) -> None:
        """The machine is off for so many seconds."""
        self.boot, self.now, self.wall = "second", 10.0, self.wall + after


def written(path: Path, clocks: Clocks, due_in: float) -> None:
    """Have the row of a call say that it waits for its second attempt, by these clocks."""
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE calls SET attempts = 1, submitted = :now - 100, began = :now - 50, due = :now + :due_in,"
            " noted = :now",
            {"now": clocks.now, "due_in": due_in},
        )
        connection.execute(
            "UPDATE owner SET boot = ?, monotonic = ?, wall = ?", (clocks.boot, clocks.now, clocks.wall)
        )
    connection.close()


@pytest.mark.parametrize(
    ("elapses", "age", "due_in"),
    [
        (lambda clocks: clocks.pass_by(30), 130, 170),
        (lambda clocks: (clocks.pass_by(30), setattr(clocks, "wall", 0.0)), 130, 170),
        (lambda clocks: clocks.pass_by(300), 400, -100),
        (lambda clocks: clocks.start_anew(30), 130, 170),
        (lambda clocks: clocks.start_anew(-3600), 100, 200),
        (lambda clocks: clocks.start_anew(86400), 86500, -86200),
    ],
    ids=["same", "wall clock set", "overdue", "new start", "new start, wall clock back", "a day later"],
)
def test_waits_and_ages_go_on_while_no_process_has_a_call(
    journal: Path, elapses: Callable[[Clocks], object], age: float, due_in: float
) -> None:
    """By the monotonic clock, or the wall clock if the machine was started anew; never backwards.

    The time in which its attempts are made stands still meanwhile: ``max_elapsed`` is about attempts (J1).
    """
    path = leave(journal, 1)
    clocks = Clocks()
    written(path, clocks, due_in=200)
    elapses(clocks)
    found = Database(path)
    found.take_over(
        [],
        database.Moment(clocks.boot, clocks.now, clocks.wall),
        owner=found.owner(),
        is_orderly=True,
        max_crashes=3,
    )
    (row,) = found.all()
    found.close()
    assert row.due is not None
    assert row.began is not None
    assert (age, due_in, 50) == (
        clocks.now - row.submitted,
        row.due - clocks.now,
        clocks.now - row.began,
    )


def test_marks_of_an_earlier_owner_are_void(journal: Path) -> None:
    """Also those for which the file was made longer: the next owner writes over the first ones only (J1)."""
    before = VirtualTimeExecutor(retry=RetryPolicy(delays=[1] * 9, jitter=False), journal=journal)
    for value in range(150):
        before.submit(refuse, value)
    before.advance(0)
    killed(before)
    (path,) = journal.glob("*.lock")
    assert 150 == sum(mark.state == marks.WAITS for mark in _marks(path))
    middle = VirtualTimeExecutor(retry=None, journal=journal)
    assert 150 == len(middle.adopted)
    assert [] == _marks(path)
    killed(middle)


def _marks(path: Path) -> list[marks.Mark]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return marks.read(descriptor)[2]
    finally:
        os.close(descriptor)


def test_a_lock_file_of_another_kind_has_no_marks(tmp_path: Path) -> None:
    """The rows count then (J6)."""
    path = tmp_path / "one.lock"
    for content in (b"", b"retry", b"something else, which is long enough for a header"):
        path.write_bytes(content)
        descriptor = os.open(path, os.O_RDONLY)
        assert (None, False, []) == marks.read(descriptor)
        os.close(descriptor)


# -- forks -----------------------------------------------------------------------------------------


@needs_fork
def test_a_forked_child_starts_with_no_file(journal: Path) -> None:
    """Those of the parent stay the parent's, and the child's end changes nothing about that (F6, J2)."""
    with RetryingExecutor(1, journal=journal) as executor:
        release, future = blocked(executor)
        waiting = executor.submit(note, "parent")

        def check() -> None:
            for orphan in (future, waiting):
                assert isinstance(orphan.exception(0), ForkedFutureError)
            assert [] == executor.adopted
            assert (future.key, waiting.key) == keys
            assert 0 == executor.adopt()
            assert "child" == executor.submit(note, "child").result(TIMEOUT)
            executor.shutdown()
            assert 2 == len(rows(journal))

        keys = (future.key, waiting.key)
        in_child(check)
        other = VirtualTimeExecutor(journal=journal)
        assert 0 == other.adopt()
        release.set()
        assert "parent" == waiting.result(TIMEOUT)
        other.shutdown()
    assert set() == files(journal)


@needs_fork
def test_a_child_that_is_gone_leaves_its_calls_to_others(journal: Path) -> None:
    """It is a process as any other (F6, J2)."""
    with RetryingExecutor(1, retry=RetryPolicy(delays=(1000,)), journal=journal) as executor:
        assert 1 == executor.submit(note, 1).result(TIMEOUT)

        def check() -> None:
            executor.submit(refuse, "child")
            assert eventually(lambda: executor.stats().in_backoff)

        in_child(check)
        assert 1 == executor.adopt()
        (adopted,) = executor.adopted
        assert eventually(lambda: adopted.attempts == 1)
        assert adopted.cancel()
    assert set() == files(journal)


@needs_fork
def test_a_fork_waits_until_no_thread_is_in_the_database(journal: Path) -> None:
    """Its locks would be locked in the child for ever; after a while the fork goes on without (F6)."""
    with RetryingExecutor(1, journal=journal) as executor:
        release, _ = blocked(executor)
        one = keeper_of(executor)
        store = one._own_store()
        assert one.lock_for_fork(TIMEOUT)
        assert store.turn in one._locked
        one.unlock_after_fork()
        one.unlock_after_fork()
        assert [] == one._locked

        class Busy:
            def acquire(self, timeout: float) -> bool:
                return False

        lock, one._lock = one._lock, Busy()  # type: ignore[assignment]  # as a thread that makes a file
        assert not one.lock_for_fork(0)
        one._lock = lock
        turn, store.turn = store.turn, Busy()  # type: ignore[assignment]
        assert not one.lock_for_fork(0)
        assert not executor._core.lock_for_fork(0)
        store.turn = turn
        assert executor._core.lock_for_fork(TIMEOUT)
        executor._core.unlock_after_fork()
        release.set()


@needs_fork
def test_a_fork_that_cannot_stop_the_workers_undoes_what_it_has_done(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal was not locked yet (F6)."""
    with RetryingExecutor(1, journal=journal) as executor:
        assert 1 == executor.submit(note, 1).result(TIMEOUT)
        with monkeypatch.context() as patch:
            patch.setattr(Threads, "stop_for_fork", lambda *_: False)
            assert not executor._core.lock_for_fork(0)
        assert 2 == executor.submit(note, 2).result(TIMEOUT)


@needs_fork
def test_a_child_of_a_process_that_has_died_meanwhile_adopts_its_calls(journal: Path) -> None:
    """It has given back its copy of the lock (F6, J2)."""
    before = VirtualTimeExecutor(journal=journal)
    before.submit(note, 1)

    def check() -> None:
        keeper_of(before).restart_in_child()
        with VirtualTimeExecutor(journal=journal) as child:
            assert [] == child.adopted

    in_child(check)
    die(before)
    with VirtualTimeExecutor(journal=journal) as after:
        assert [1] == [future.result() for future in after.adopted]
    down(before)


def test_two_executors_of_a_process_share_a_journal(journal: Path) -> None:
    """Each has files of its own (J2)."""
    with (
        VirtualTimeExecutor(journal=journal) as one,
        VirtualTimeExecutor(journal=directory_of(journal)) as other,
    ):
        one.submit(note, 1)
        other.submit(note, 2)
        assert 2 == len(list(journal.glob("*.db")))
        assert 0 == one.adopt()
    assert ([2, 1], set()) == (made, files(journal))


def directory_of(path: Path) -> Journal:
    """Return a journal whose calls survive the end of the process, but not a power cut."""
    return Journal(path, durability="process")


def test_what_a_call_is_named_in_the_log_is_what_was_submitted(journal: Path) -> None:
    """As everywhere else (G3)."""
    before = VirtualTimeExecutor(journal=journal)
    before.submit(*attempt_of("calls", bool))
    assert ["journals.act"] == [row.function for row in rows(journal)]
    assert directory.this_process() == str(os.getpid())
    down(before)


def test_nothing_is_logged_while_a_file_is_taken(journal: Path) -> None:
    """A log handler may do anything, and others wait for the lock (F7)."""
    executor = VirtualTimeExecutor(journal=Journal(journal, adopts=False))
    (journal / "damaged.db").write_bytes(b"no database at all")
    busy, are_held = keeper_of(executor)._directory.busy, []

    def look(record: logging.LogRecord) -> bool:
        are_held.append(is_held(busy))
        return False

    logger = logging.getLogger("retrying_executor")
    logger.addFilter(look)
    try:
        assert 0 == executor.adopt()
    finally:
        logger.removeFilter(look)
    assert [False] == are_held
