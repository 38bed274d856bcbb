"""Who writes what when, to the file of an executor (J1, J6)."""

from __future__ import annotations

import errno
import gc
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

import journals
from conftest import TIMEOUT
from journals import attempt_of, blocked, die, down, files, keeper_of, killed, made, note, refuse, rows
from observe import eventually
from retrying_executor import Journal, JournalError, RetryingExecutor, RetryPolicy, Upstream
from retrying_executor._journal import locks, marks, store
from retrying_executor._journal.database import Addition, Database
from retrying_executor._journal.store import Store
from retrying_executor.testing import VirtualTimeExecutor

journal = journals.journal
write = Database.write


def full(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


@contextmanager
def writing(monkeypatch: pytest.MonkeyPatch, act: Callable[[list[Addition]], object]) -> Iterator[None]:
    """Call *act* with the calls that are about to be written, whenever something is."""

    def act_then(self: Database, additions: list[Addition], *args: Any, **kwargs: Any) -> None:
        act(additions)
        write(self, additions, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Database, "write", act_then)
        yield


def test_threads_that_submit_at_the_same_time_share_a_transaction(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them writes for all that have come meanwhile (J1)."""
    sizes: list[int] = []
    started, go = threading.Event(), threading.Event()

    def wait(additions: list[Addition]) -> None:
        sizes.append(len(additions))
        started.set()
        assert go.wait(TIMEOUT)

    executor = VirtualTimeExecutor(journal=journal)
    additions = keeper_of(executor)._own_store()._additions
    with writing(monkeypatch, wait), ThreadPoolExecutor(4) as threads:
        first = threads.submit(executor.submit, note, 0)
        assert started.wait(TIMEOUT)
        others = [threads.submit(executor.submit, note, number) for number in (1, 2, 3)]
        assert eventually(lambda: len(additions) == 4)
        go.set()
        for each in [first, *others]:
            each.result(TIMEOUT)
    assert [1, 3] == sizes
    assert executor.drain()
    assert [0, 1, 2, 3] == sorted(made)
    executor.shutdown()


def test_a_call_that_cannot_be_written_fails_alone(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that share its transaction are written without it (J6)."""
    started, go = threading.Event(), threading.Event()

    def fail(additions: list[Addition]) -> None:
        started.set()
        assert go.wait(TIMEOUT)
        if any(b"poison" in addition.payload for addition in additions):
            raise OverflowError("too large")

    executor = VirtualTimeExecutor(journal=journal)
    additions = keeper_of(executor)._own_store()._additions
    with writing(monkeypatch, fail), ThreadPoolExecutor(4) as threads:
        first = threads.submit(executor.submit, note, 0)
        assert started.wait(TIMEOUT)
        others = [threads.submit(executor.submit, note, value) for value in (1, "poison", 2)]
        assert eventually(lambda: len(additions) == 4)
        go.set()
        assert first.result(TIMEOUT)
        refused = [error for each in others if (error := each.exception(TIMEOUT)) is not None]
    assert [JournalError] == [type(error) for error in refused]
    assert "the call cannot be written to the journal: too large" == str(refused[0])
    assert 3 == len(rows(journal))
    executor.shutdown()
    assert [0, 1, 2] == sorted(made)


def test_a_submitter_that_is_interrupted_takes_its_call_back(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is written, and after (F9, J1)."""

    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    executor = VirtualTimeExecutor(journal=journal)
    with writing(monkeypatch, interrupted), pytest.raises(KeyboardInterrupt):
        executor.submit(note, 1)
    finished = Store._write

    def write_then(self: Store) -> None:
        finished(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_write", write_then)
        with pytest.raises(KeyboardInterrupt):
            executor.submit(note, 2)
    assert 3 == executor.submit(note, 3).result()
    executor.shutdown()
    assert ([3], set()) == (made, files(journal))


def test_a_submitter_that_is_interrupted_as_it_waits_for_its_turn_takes_its_call_back(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may be writing it at that very moment (F9, J1)."""
    executor = VirtualTimeExecutor(journal=journal)
    own = keeper_of(executor)._own_store()

    class Turn:
        def __enter__(self) -> NoReturn:
            with turn:
                own._write()  # as the other thread does
            raise KeyboardInterrupt

        def __exit__(self, *_: object) -> None: ...

    turn, own.turn = own.turn, Turn()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        executor.submit(note, 1)
    own.turn = turn
    killed(executor)
    with VirtualTimeExecutor(journal=journal) as after:
        assert [] == after.adopted
    assert set() == files(journal)


class Submits:
    """An object whose destructor submits a call."""

    def __init__(self, executor: RetryingExecutor) -> None:
        self.executor = executor

    def __del__(self) -> None:
        self.executor.submit(note, "by a destructor")


@pytest.mark.parametrize("fails", [False, True])
def test_a_destructor_may_submit_in_the_middle_of_a_write(
    journal: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Its call is written right afterwards; if the disk is full, it still gets through here (F7, J1)."""
    executor = VirtualTimeExecutor(journal=journal)
    things = [Submits(executor)]

    def drop(_: object) -> None:
        was_there = bool(things)
        things.clear()
        gc.collect()
        if fails and not was_there:
            full()

    with writing(monkeypatch, drop):
        executor.submit(note, "first")
    assert (1 if fails else 2) == len(rows(journal))
    executor.shutdown()
    assert ["by a destructor", "first"] == sorted(made)


def test_a_destructor_may_submit_while_a_call_gets_its_number(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No two calls have the same (F7, J1)."""
    executor = VirtualTimeExecutor(journal=journal)
    own = keeper_of(executor)._own_store()
    draw = own._next_row
    things = [Submits(executor)]

    def drop_then() -> int:
        things.clear()
        return draw()

    monkeypatch.setattr(own, "_next_row", drop_then)
    executor.submit(note, "first")
    assert [1, 2] == [row.row for row in rows(journal)]
    executor.shutdown()


def test_rows_of_calls_that_are_done_go_many_at_a_time(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a submit that would write them along (J1)."""
    executor = VirtualTimeExecutor(journal=Journal(journal, durability="process"))
    for value in range(store._MOST_CHANGES + 10):
        executor.submit(note, value)
    writes: list[int] = []
    with writing(monkeypatch, lambda additions: writes.append(len(additions))):
        assert executor.drain()
    assert ([0], 10) == (writes, len(rows(journal)))
    executor.shutdown()


def test_a_thread_that_writes_keeps_no_worker(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has become of its call is written later; the mark is there (J1)."""
    executor = VirtualTimeExecutor(journal=journal)
    monkeypatch.setattr(store, "_MOST_CHANGES", 1)
    futures = [executor.submit(note, value) for value in range(3)]
    own = keeper_of(executor)._own_store()
    has_it, go = threading.Event(), threading.Event()

    def hold() -> None:
        with own.turn:
            has_it.set()
            assert go.wait(TIMEOUT)

    with ThreadPoolExecutor(1) as other:
        held = other.submit(hold)
        assert has_it.wait(TIMEOUT)
        assert 0 == futures[0].result()
        go.set()
        held.result(TIMEOUT)
    with own.turn:  # as in the middle of a write, of which a destructor ends a call
        own._is_writing = True
        assert 1 == futures[1].result()
        own.flush()
        own._is_writing = False
    assert 3 == len(rows(journal))
    assert 2 == futures[2].result()
    assert [] == rows(journal)
    executor.shutdown()


def test_what_becomes_of_a_call_while_its_row_is_written_is_written_too(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next time: no change is taken for that which was written (J1)."""
    executor = VirtualTimeExecutor(retry=RetryPolicy(delays=(1000,)), journal=journal)
    future = executor.submit(refuse, 1)
    executor.advance(0)

    def cancel(_: object) -> None:
        assert future.cancel() or future.cancelled()

    with writing(monkeypatch, cancel):
        executor.submit(note, 2)
    executor.shutdown()
    assert ([1, 2], set()) == (made, files(journal))


def test_a_disk_that_is_full_keeps_nothing_from_being_done(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither marks nor rows can be written: calls go on all the same, to their end (J6)."""
    executor = VirtualTimeExecutor(retry=RetryPolicy(delays=(1,)), journal=journal)
    futures = [executor.submit(refuse, 1), executor.submit(note, 2)]
    with monkeypatch.context() as patch:
        patch.setattr(marks, "_write", full)
        patch.setattr(Database, "write", full)
        assert isinstance(futures[0].exception(), ConnectionError)
        assert 2 == futures[1].result()
    assert ["waiting", "waiting"] == [row.status for row in rows(journal)]
    executor.shutdown()
    assert ["failed"] == [row.status for row in rows(journal)]


def test_an_end_on_a_disk_that_is_full_leaves_the_file_to_the_next_process(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marks know what is done, also of many calls: submit() has made room for them (J6)."""
    executor = VirtualTimeExecutor(journal=journal)
    held = Upstream("held")
    view = executor.with_options(upstream=held)
    held.pause()
    view.submit(note, "last")
    for value in range(150):
        executor.submit(note, value)
    executor.advance(0)
    with monkeypatch.context() as patch:
        patch.setattr(Database, "write", full)
        patch.setattr(Database, "note", full)
        executor.shutdown(cancel_futures=True)
    assert 1 < len(rows(journal))
    with VirtualTimeExecutor(journal=journal) as after:
        after.adopt()
        assert ["last"] == [future.result() for future in after.adopted]
    assert set() == files(journal)


def test_a_file_whose_calls_are_done_goes_although_the_disk_is_full(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then there is room again: at the end, and for the call that did not fit (J6)."""
    executor = VirtualTimeExecutor(journal=journal)
    executor.submit(note, 1)
    assert executor.drain()
    before = keeper_of(executor)._own_store()
    write, is_full = Database.write, [True]

    def fits(*args: Any, **options: Any) -> None:
        if keeper_of(executor)._own is before or is_full:
            full(*args, **options)
        write(*args, **options)

    monkeypatch.setattr(Database, "write", fits)
    with pytest.raises(JournalError, match="No space left"):
        executor.submit(note, 2)
    assert before.is_closed
    is_full.clear()
    executor.submit(note, 3)
    executor.shutdown()
    assert [1, 3] == made
    assert set() == files(journal)


def test_room_for_marks_is_made_before_a_call_is_accepted(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call whose end could not be marked would be made again: it is refused (J6)."""
    executor = VirtualTimeExecutor(journal=journal)
    executor.submit(note, 0)
    with monkeypatch.context() as patch:
        patch.setattr(marks, "_RESERVED", 1)
        patch.setattr(marks.os, "pwrite", lambda descriptor, content, offset: len(content) - 1)
        for value in range(1, 64):  # as much as there is room for
            executor.submit(note, value)
        with pytest.raises(JournalError, match="No space left"):
            executor.submit(note, 64)
    executor.shutdown()
    assert set() == files(journal)


def test_a_file_that_cannot_be_read_at_the_end_is_kept(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is empty is for the next process to find out (J6)."""

    def fail(_: object) -> NoReturn:
        raise sqlite3.OperationalError("disk I/O error")

    executor = VirtualTimeExecutor(journal=journal)
    executor.submit(note, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Database, "is_empty", fail)
        executor.shutdown()
    assert {".db", ".lock"} == files(journal)


def test_an_attempt_is_marked_before_it_begins(journal: Path) -> None:
    """With one system call, which survives the death of the process (J1, J5)."""

    def look() -> list[marks.Mark]:
        (path,) = journal.glob("*.lock")
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return marks.read(descriptor)[2]
        finally:
            os.close(descriptor)

    with VirtualTimeExecutor(journal=journal) as executor:
        executor.advance(5)
        found = executor.submit(*attempt_of("look", look)).result()
        assert [(1, marks.RUNNING, 1, 0, 5.0)] == [mark[:5] for mark in found]
        (done,) = look()
        assert (1, marks.DONE) == done[:2]


def test_places_of_marks_are_used_again(journal: Path) -> None:
    """So the file does not grow with the calls, but with those at a time (J1)."""
    with VirtualTimeExecutor(journal=Journal(journal, durability="process")) as executor:
        for value in range(1000):
            executor.submit(note, value).result()
        (path,) = journal.glob("*.lock")
        assert path.stat().st_size < 5000


@pytest.mark.parametrize("durability", ["full", "process"])
def test_calls_are_synced_if_they_are_to_survive_a_power_cut(
    journal: Path, durability: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What becomes of them is not (J1)."""
    asked: list[bool] = []

    def note_it(self: Database, *args: Any, is_full: bool) -> None:
        asked.append(is_full)
        write(self, *args, is_full=is_full)
        (level,) = self._connection.execute("PRAGMA synchronous").fetchone()
        assert (2 if is_full else 1) == level

    monkeypatch.setattr(Database, "write", note_it)
    with VirtualTimeExecutor(journal=Journal(journal, durability=durability)) as executor:
        executor.submit(note, 1).result()
        executor.submit(refuse, 2)
        executor.shutdown(cancel_futures=True)
    assert [durability == "full"] * 2 == asked[:2]
    assert [False] * len(asked[2:]) == asked[2:]


def test_a_file_that_cannot_be_made_leaves_nothing(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the database nor the lock (J6)."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise sqlite3.OperationalError("disk I/O error")

    with VirtualTimeExecutor(journal=journal) as executor:
        with monkeypatch.context() as patch:
            patch.setattr(Store, "__init__", fail)
            with pytest.raises(JournalError, match="the journal cannot be written: disk I/O error"):
                executor.submit(note, 1)
        assert set() == files(journal)


def test_an_executor_begins_a_new_file_once_it_has_given_one_back(journal: Path, quiet: None) -> None:
    """A submitter may be late: the end has come while it was writing (F1, J1)."""
    executor = RetryingExecutor(1, journal=journal)
    release, _ = blocked(executor)
    own = keeper_of(executor)
    own._submitting += 1  # as if another thread was about to hand in a call
    release.set()
    executor.shutdown()
    assert {".db", ".lock"} == files(journal) - {".db-wal", ".db-shm"}
    own.accepted()
    own.finish()
    assert set() == files(journal)
    assert not own._own_store().is_closed
    own.finish()
    own._stores()
    assert set() == files(journal)


def test_a_file_may_be_closed_set_aside_and_forgotten_more_than_once(journal: Path) -> None:
    """By several threads, for example (F1)."""
    executor = VirtualTimeExecutor(journal=journal)
    executor.submit(note, 1)
    own = keeper_of(executor)._own_store()
    down(executor)
    assert own.is_closed
    before = files(journal)
    own.close()
    own.set_aside()
    own.forget_in_child()
    assert before == files(journal)
    locks.delete(journal / "gone.lock", os.open(journal, os.O_RDONLY))


def test_what_comes_after_the_death_of_a_file_is_not_written(journal: Path, quiet: None) -> None:
    """A file that is closed, or damaged, keeps no call from its outcome (J6)."""
    executor = RetryingExecutor(1, retry=RetryPolicy(delays=(0, 0)), journal=journal)
    started, go = threading.Event(), threading.Event()

    def fail() -> NoReturn:
        started.set()
        assert go.wait(TIMEOUT)
        raise ConnectionError

    future = executor.submit(*attempt_of("fails", fail))
    other = executor.submit(note, 1)
    assert started.wait(TIMEOUT)
    die(executor)
    go.set()
    assert isinstance(future.exception(TIMEOUT), ConnectionError)
    assert (3, 1) == (future.attempts, other.result(TIMEOUT))
    executor.shutdown()


def test_a_transaction_that_fails_half_way_leaves_nothing(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its calls nor its lock on the database (J6)."""
    executor = VirtualTimeExecutor(journal=journal)
    executor.submit(note, 1)
    own = keeper_of(executor)._own_store()
    with monkeypatch.context() as patch:
        patch.setattr(own, "_next_row", lambda: 1)
        with pytest.raises(JournalError, match=r"UNIQUE constraint failed: calls\.row"):
            executor.submit(note, 2)
    own._changes.clear()  # or the call that has the number in truth would go
    assert 3 == executor.submit(note, 3).result()
    executor.shutdown()
    assert [1, 3] == made


def test_a_file_that_turns_out_to_be_damaged_is_replaced(
    journal: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    """The call that was to be written goes to a new one (J6)."""
    executor = VirtualTimeExecutor(journal=journal)
    executor.submit(note, 1)
    errors: list[Exception] = [sqlite3.DatabaseError("database disk image is malformed")] * 2

    def fail(_: object) -> None:
        if errors:
            raise errors.pop()

    with writing(monkeypatch, fail):
        executor.submit(note, 2)
    executor.shutdown()
    assert [1, 2] == made
    assert {".corrupt"} == files(journal)


def test_a_mark_stays_while_an_attempt_runs(journal: Path) -> None:
    """Although its row is written meanwhile: that says what was before (J1, J5)."""
    executor = VirtualTimeExecutor(retry=RetryPolicy(delays=(1,)), journal=journal)

    def attempt() -> None:
        if len(made) == 1:
            raise ConnectionError
        executor.submit(note, "other")
        die(executor)

    executor.submit(*attempt_of("dies", attempt))
    assert executor.drain()
    executor.shutdown()
    with VirtualTimeExecutor(journal=journal) as after:
        suspect, *_ = sorted(after.adopted, key=lambda future: -future.attempts)
        assert (2, 1) == (suspect.attempts, rows(journal)[0].crashes)
        attempt_of("dies", int)


def test_a_destructor_may_close_a_file_in_the_middle_of_a_write(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the last of its calls, for example. What was to be written goes to a new one (F7, J6)."""
    executor = VirtualTimeExecutor(journal=journal)
    executor.submit(note, 1)
    own = keeper_of(executor)._own_store()
    with writing(monkeypatch, lambda _: own.close()):
        executor.submit(note, 2)
    down(executor)
    with VirtualTimeExecutor(journal=journal) as after:
        assert {1, 2} == {future.result() for future in after.adopted}


def test_a_destructor_may_submit_before_the_call_of_its_thread_is_written(journal: Path) -> None:
    """It writes both: the other thread, if there is one, may wait for this one (F7, J1)."""
    executor = VirtualTimeExecutor(journal=journal)
    own = keeper_of(executor)._own_store()
    own._submitters.add(threading.get_ident())
    executor.submit(note, 1)
    own._submitters.clear()
    assert 1 == len(rows(journal))
    executor.shutdown()


def test_rows_of_calls_that_are_done_go_when_there_is_nothing_to_do(journal: Path) -> None:
    """A worker whose idle time is over writes what was put off (J1)."""
    with RetryingExecutor(1, idle_timeout=0.01, journal=journal) as executor:
        assert 1 == executor.submit(note, 1).result(TIMEOUT)
        assert eventually(lambda: not rows(journal))
        assert {".db", ".lock"} <= files(journal)


def test_a_transaction_that_sqlite_has_rolled_back_by_itself_is_over(journal: Path) -> None:
    """As it does if the disk is full (J6)."""
    executor = VirtualTimeExecutor(journal=journal)
    executor.submit(note, 1)
    database = keeper_of(executor)._own_store()._database

    def fill_the_disk() -> NoReturn:
        with database._transaction(is_full=False):
            database._connection.execute("ROLLBACK")
            raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(sqlite3.OperationalError, match="disk is full"):
        fill_the_disk()
    assert not database._connection.in_transaction
    executor.shutdown()
    assert [1] == made
