"""What is in the files of a journal, for people: nothing is changed, and nothing that is in them is run.

A file is copied, and the copy is read: what its owner does meanwhile makes no difference. Its marks are read
before the copy is made. If the place of one is given to another call in between, the copy has it in a row.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from typing import NamedTuple

from retrying_executor._journal import locks, marks
from retrying_executor._journal.copies import copy_of
from retrying_executor._journal.database import WAITING, Database, EmptyError, NewerError, is_corruption
from retrying_executor._journal.marks import DONE, IS_READ, RUNNING, Mark
from retrying_executor._journal.store import delete_database

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from retrying_executor._journal.directory import Directory
    from retrying_executor._journal.row import Row

IS_RUNNING, IN_BACKOFF = "running", "in backoff"
"""What a call is doing that waits according to its row."""

_TRIES = 5  # how often a file is looked at whose owner changes at this moment
_ENDED = "its process ended during the attempt"


class Call(NamedTuple):
    """A call as it is now: its mark is applied to *row*. *due_at* is on the wall clock."""

    row: Row
    key: str
    status: str
    due_at: float | None


class Problem(NamedTuple):
    """A file that cannot be read, and why."""

    path: Path
    why: str


class File:
    """A file of a journal as it was at one moment; to be closed.

    Args:
        path: That of the database.
        is_alive: Whether a process has it.
        database: A copy of it.
        left: Its marks, and what `marks.read` returns else.
    """

    def __init__(
        self, path: Path, database: Database, left: tuple[int | None, bool, list[Mark]], *, is_alive: bool
    ) -> None:
        self.path = path
        self.is_alive = is_alive
        self._database = database
        self._owner = database.owner()
        moment = database.moment()
        self._wall_clock = moment.wall - moment.monotonic  # as much is it ahead of the owner's
        generation, self._is_orderly, found = left
        self._marks: dict[int, Mark] = {}
        self._killers: set[int] = set()  # reading them has ended the process
        if generation == self._owner.generation:
            for mark in sorted(found, key=lambda mark: mark.noted_at):  # of several of a call the last counts
                if mark.state != IS_READ:
                    self._marks[mark.row] = mark
                elif not (is_alive or self._is_orderly):
                    self._killers.add(mark.row)

    @property
    def process(self) -> str:
        """What tells people which process has it, or had."""
        return self._owner.name

    def calls(self) -> Iterator[Call]:
        """Yield the calls that are not done, in the order in which they were submitted.

        Raises:
            sqlite3.Error: If the file is damaged.
        """
        for row in self._database.all():
            row = row._replace(crashes=row.crashes + 1) if row.row in self._killers else row
            mark = self._marks.get(row.row)
            if mark is None or (mark.state != DONE and mark.noted_at < row.noted):
                yield self._call(row)
            elif mark.state == RUNNING:
                yield self._running(_marked(row, mark))
            elif mark.state != DONE:
                yield self._call(_marked(row, mark))

    def _running(self, row: Row) -> Call:
        if self.is_alive:
            return self._call(row)._replace(status=IS_RUNNING)
        crashes = row.crashes + (not self._is_orderly)
        return self._call(row._replace(postponed=row.postponed + 1, crashes=crashes, error=_ENDED))

    def _call(self, row: Row) -> Call:
        status, due_at = row.status, None
        if status == WAITING and row.due is not None:
            due_at = row.due + self._wall_clock
            if due_at > time.time():
                status = IN_BACKOFF
        return Call(row, row.key or self._owner.key_of(row.row), status, due_at)

    def close(self) -> None:
        """Forget the copy."""
        self._database.close()


def _marked(row: Row, mark: Mark) -> Row:
    """Return the row of a call as its mark has it."""
    due = mark.due_at if mark.state != RUNNING else None
    return row._replace(attempts=mark.attempts, postponed=mark.postponed, due=due)


def files(directory: Directory) -> Iterator[File | Problem]:
    """Yield the files of a journal that have anything in them."""
    for stem in directory.stems():
        try:
            found = _look_at(stem)
        except NewerError as error:
            yield Problem(stem.with_suffix(".db"), f"it is of a newer version: {error}")
        except (sqlite3.Error, OSError) as error:
            yield problem_of(stem.with_suffix(".db"), error)
        else:
            if found is not None:
                yield found
    for path in sorted(directory.path.glob("*.corrupt")):
        yield Problem(path, "it is damaged, and was set aside")


def problem_of(path: Path, error: Exception) -> Problem:
    """Return what keeps a file from being read."""
    return Problem(path, f"it is damaged: {error}" if is_corruption(error) else str(error))


def _look_at(stem: Path) -> File | None:
    """Return a file as it is now; ``None`` if it is not there, or not yet, or if there is nothing in it."""
    lock_path, path = stem.with_suffix(".lock"), stem.with_suffix(".db")
    tries = 0
    while True:
        tries += 1
        is_alive, left = _look_at_lock(lock_path)
        stamp = _stamp(path)
        try:
            file = _copied(path, left, is_alive=is_alive)
        except EmptyError:
            return None
        except Exception:
            if not path.exists():
                if not lock_path.exists():  # so it is not about to be made
                    delete_database(path)  # what SQLite made beside it, if it was opened as it was deleted
                return None
            if tries == _TRIES or _is_as_before(lock_path, path, is_alive, stamp):
                raise
        else:
            if tries == _TRIES or _is_as_before(lock_path, path, is_alive, stamp):
                return file
            file.close()


def _copied(path: Path, left: tuple[int | None, bool, list[Mark]], *, is_alive: bool) -> File:
    database = Database.of(copy_of(path, is_alive=is_alive))
    try:
        return File(path, database, left, is_alive=is_alive)
    except BaseException:
        database.close()
        raise


def _is_as_before(lock_path: Path, path: Path, is_alive: bool, stamp: object) -> bool:
    """Return whether a file still has an owner, or still has none and was not written."""
    return is_alive == _look_at_lock(lock_path)[0] and (is_alive or stamp == _stamp(path))


def _look_at_lock(lock_path: Path) -> tuple[bool, tuple[int | None, bool, list[Mark]]]:
    """Return whether a process has a lock file, and the marks in it."""
    try:
        # A pipe that somebody has given that name is not waited for.
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(lock_path, flags)
    except FileNotFoundError:
        return False, (None, False, [])
    try:
        left = marks.read(descriptor)
        return locks.is_taken(descriptor), left
    finally:
        os.close(descriptor)


def _stamp(path: Path) -> list[object]:
    """Return what changes when a file is written."""
    stamps: list[object] = []
    for one in (path, path.with_name(f"{path.name}-wal")):
        with suppress(FileNotFoundError):
            about = one.stat()
            stamps.append((about.st_ino, about.st_size, about.st_mtime_ns))
    return stamps
