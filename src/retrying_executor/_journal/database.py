"""The rows of one file: what is in them, and every statement on them.

Its user holds the lock that guards it. A transaction that accepts calls is synced, so that it survives a
power cut; others survive the death of the process only.

Times are seconds. Those of ``submitted``, ``began``, ``due`` and ``noted`` are on the monotonic clock of the
process that has the file: it stands in ``owner`` which moment of that clock was when. So a wall clock that
is set changes nothing, unless the machine was started anew meanwhile.
"""

from __future__ import annotations

import errno
import math
import os
import sqlite3
import sys
import time
from contextlib import contextmanager, suppress
from typing import NamedTuple
from uuid import UUID

from retrying_executor._journal.marks import DONE, IS_READ, RUNNING, Mark
from retrying_executor._journal.row import COLUMNS, Row, is_time, row_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import Any

WAITING, FAILED, SET_ASIDE = "waiting", "failed", "set aside"

SCHEMA = 1
_APPLICATION = 0x52455452
_NOTES_EVERY = 1.0  # seconds; it costs as much as another call
_CREATE = f"""
PRAGMA journal_mode = WAL;
PRAGMA application_id = {_APPLICATION};
BEGIN IMMEDIATE;
CREATE TABLE calls (
    row INTEGER PRIMARY KEY,
    status TEXT NOT NULL,
    function TEXT NOT NULL,
    key TEXT,
    label TEXT,
    upstreams TEXT,
    payload BLOB NOT NULL,
    accepted REAL NOT NULL,
    submitted REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    postponed INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    began REAL,
    due REAL,
    noted REAL NOT NULL DEFAULT 0,
    error TEXT
);
CREATE TABLE owner (
    generation INTEGER, keys TEXT, name TEXT, boot TEXT, monotonic REAL, wall REAL
);
INSERT INTO owner VALUES ({{generation}}, '{{keys}}', '{{name}}', '', 0, 0);
PRAGMA user_version = {SCHEMA};
COMMIT;
"""


VIRTUAL = "virtual"
"""Stands for the start of a machine where time is virtual: none passes from one executor to the next."""


class Moment(NamedTuple):
    """When: on the monotonic clock since a start of the machine, and on the wall clock."""

    boot: str
    monotonic: float
    wall: float


class Owner(NamedTuple):
    """Of a file: what its marks are of, what the keys of its calls are counted from, which process it is."""

    generation: int
    keys: UUID
    name: str

    def key_of(self, row: int) -> str:
        """Return the key of a call that was given none: a UUID that no other call has."""
        return str(UUID(int=(self.keys.int + row) % (1 << 128)))


class Addition(NamedTuple):
    """A call that was submitted."""

    row: int
    function: str
    key: str | None
    label: str | None
    upstreams: str | None
    payload: bytes
    accepted: float
    submitted: float


class Change(NamedTuple):
    """What became of a call. Its status is empty if it is done: then its row goes."""

    status: str
    attempts: int = 0
    postponed: int = 0
    began: float | None = None
    due: float | None = None
    noted: float = 0.0
    error: str | None = None


class NewerError(Exception):
    """The file was written by a newer version of this library."""


class EmptyError(Exception):
    """The process ended before the file had any call."""


def is_corruption(error: BaseException) -> bool:
    """Return whether an error says that a file is damaged, and not that the disk is full, for example."""
    return type(error) is sqlite3.DatabaseError or str(error).startswith(("no such table", "no such column"))


class Database:
    """The calls in one file.

    Args:
        path: That of the file, which exists.

    Raises:
        OSError, sqlite3.Error: If it cannot be read.
        NewerError: If it is of a newer version.
        EmptyError: If there is nothing in it.
    """

    def __init__(self, path: Path) -> None:
        check_start(path)
        self._open(_connect(path))

    def _open(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._is_full: bool | None = None  # by default, that differs by build
        self._noted_at = -math.inf
        connection.text_factory = _decoded
        try:
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA:
                raise NewerError(f"it has schema {version}, and this version knows {SCHEMA}")
            self._check_whose_it_is(version)
            self._sync(is_full=False)
        except BaseException as error:
            self._connection.close()
            if isinstance(error, UnicodeDecodeError):  # of a message of SQLite that names what is damaged
                raise sqlite3.DatabaseError("its schema is damaged") from error
            raise

    def _check_whose_it_is(self, version: int) -> None:
        """Check that the file is one of a journal, and not empty: then it would be deleted.

        Raises:
            sqlite3.OperationalError: If it has tables of another program.
            sqlite3.DatabaseError: If it has tables, and its version is damaged.
            EmptyError: If it has none.
        """
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        if application == _APPLICATION and version == SCHEMA:
            return
        if self._connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None:
            raise EmptyError
        if application != _APPLICATION:
            raise sqlite3.OperationalError("it is of another program")
        raise sqlite3.DatabaseError(f"it has calls, and schema {version}")

    @classmethod
    def create(cls, path: Path, generation: int, name: str, keys: UUID) -> Database:
        """Make a new file; for the arguments see `Owner`."""
        connection = _connect(path)
        try:
            connection.executescript(_CREATE.format(generation=generation, keys=keys, name=name))
        finally:
            connection.close()
        return cls(path)

    @classmethod
    def of(cls, connection: sqlite3.Connection) -> Database:
        """Return what is in a database that is open; for errors see above. Then it is closed."""
        database = cls.__new__(cls)
        database._open(connection)
        return database

    def _sync(self, *, is_full: bool) -> None:
        """Whether the next transactions survive a power cut."""
        if is_full != self._is_full:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if is_full else 'NORMAL'}")
            self._is_full = is_full

    @contextmanager
    def _transaction(self, *, is_full: bool) -> Iterator[None]:
        self._sync(is_full=is_full)
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def write(
        self, additions: Iterable[Addition], changes: Mapping[int, Change], moment: Moment, *, is_full: bool
    ) -> None:
        """Write what has happened since the last time."""
        with self._transaction(is_full=is_full):
            execute_many = self._connection.executemany
            execute_many(_INSERT, additions)
            if changes:
                execute_many(_UPDATE, [(*change, row) for row, change in changes.items() if change.status])
                execute_many(_DELETE, [(row,) for row, change in changes.items() if not change.status])
            if moment.monotonic - self._noted_at >= _NOTES_EVERY:
                self._note_moment(moment)

    def note(self, moment: Moment) -> None:
        """Write what time it is, where nothing else is to be written."""
        with self._transaction(is_full=False):
            self._note_moment(moment)

    def _note_moment(self, moment: Moment) -> None:
        self._noted_at = moment.monotonic
        self._connection.execute("UPDATE owner SET boot = ?, monotonic = ?, wall = ?", moment)

    # -- what is there ---------------------------------------------------------------------------

    def owner(self) -> Owner:
        """Return which process has written it last.

        Raises:
            sqlite3.DatabaseError: If that is damaged.
        """
        generation, keys, name = self._of_owner("generation, keys, name")
        try:
            if type(generation) is int and type(name) is str:
                return Owner(generation, UUID(keys), name)
        except (TypeError, ValueError, AttributeError):
            pass  # it is no UUID
        raise sqlite3.DatabaseError("its owner is damaged")

    def moment(self) -> Moment:
        """Return when that was, by the clocks of that process.

        Raises:
            sqlite3.DatabaseError: If that is damaged.
        """
        boot, monotonic, wall = self._of_owner("boot, monotonic, wall")
        if type(boot) is str and is_time(monotonic) and is_time(wall):
            return Moment(boot, monotonic, wall)
        raise sqlite3.DatabaseError("the time of its owner is damaged")

    def _of_owner(self, columns: str) -> tuple[Any, ...]:
        found: tuple[Any, ...] | None = self._connection.execute(f"SELECT {columns} FROM owner").fetchone()
        if found is None:
            raise sqlite3.DatabaseError("it has no owner")
        return found

    def count_waiting(self) -> int:
        """Return how many calls are neither done nor failed for good."""
        query = "SELECT count(*) FROM calls WHERE status = ?"
        (number,) = self._connection.execute(query, (WAITING,)).fetchone()
        return int(number)

    def is_empty(self) -> bool:
        """Return whether there is no call left."""
        return self._connection.execute("SELECT 1 FROM calls LIMIT 1").fetchone() is None

    def rows(self) -> set[int]:
        """Return the numbers of all calls."""
        return {row for (row,) in self._connection.execute("SELECT row FROM calls")}

    def last_row(self) -> int:
        """Return the number of the last call; 0 if there is none."""
        (last,) = self._connection.execute("SELECT coalesce(max(row), 0) FROM calls").fetchone()
        return int(last)

    def waiting_after(self, row: int, most: int) -> list[Row]:
        """Return the next calls that wait, in the order in which they were submitted; without suspects."""
        query = f"{_SELECT} WHERE row > ? AND status = ? AND coalesce(crashes, 0) <= 0 ORDER BY row LIMIT ?"
        return [row_of(columns) for columns in self._connection.execute(query, (row, WAITING, most))]

    def suspects(self) -> list[tuple[float, int, int]]:
        """Return when the calls are due that wait and ran when a process died, and their rows: in that order.

        The third is how many processes died while they ran. Those that are due at once are due at 0.
        """
        query = (
            "SELECT CAST(coalesce(due, 0) AS REAL), row, CAST(crashes AS INTEGER) FROM calls"
            " WHERE status = ? AND crashes > 0 ORDER BY 1, 2"
        )
        return self._connection.execute(query, (WAITING,)).fetchall()

    def get(self, row: int) -> Row | None:
        """Return one call."""
        columns = self._connection.execute(f"{_SELECT} WHERE row = ?", (row,)).fetchone()
        return None if columns is None else row_of(columns)

    def all(self) -> Iterator[Row]:
        """Yield all calls, in the order in which they were submitted."""
        for columns in self._connection.execute(f"{_SELECT} ORDER BY row"):
            yield row_of(columns)

    # -- by hand ---------------------------------------------------------------------------------

    def retry(self, rows: Iterable[int], moment: Moment) -> int:
        """Have calls that failed or were set aside run again, as if just submitted; return how many."""
        with self._transaction(is_full=True):
            self._note_moment(moment)
            statement = (
                "UPDATE calls SET status = ?, submitted = ?, attempts = 0, postponed = 0, crashes = 0,"
                " began = NULL, due = NULL, noted = ?, error = NULL WHERE row = ? AND status != ?"
            )
            now = moment.monotonic
            parameters = [(WAITING, now, now, row, WAITING) for row in rows]
            return self._connection.executemany(statement, parameters).rowcount

    def drop(self, rows: Iterable[int]) -> int:
        """Delete calls; return how many there were."""
        with self._transaction(is_full=True):
            return self._connection.executemany(_DELETE, [(row,) for row in rows]).rowcount

    # -- from one process to the next ------------------------------------------------------------

    def take_over(
        self,
        marks: Iterable[Mark],
        moment: Moment,
        *,
        owner: Owner,
        is_orderly: bool,
        max_crashes: int,
    ) -> list[str]:
        """Bring the rows of a process that is gone up to date, and on the clock of this one.

        The time for which a call was in backoff, and its age, go on while no process has it. The time in
        which its attempts are made does not.

        Args:
            marks: What that process left in its lock file.
            moment: Now.
            owner: This process.
            is_orderly: Whether that process ended because it wanted to.
            max_crashes: How often a call may have been running when its process died.

        Returns:
            The names of the calls that are set aside.
        """
        marks = list(marks)
        boot, monotonic, wall = self.moment()
        last_seen = max([monotonic, *(mark.noted_at for mark in marks)])
        if moment.boot == VIRTUAL:
            downtime = 0.0
        elif boot and boot == moment.boot:
            downtime = moment.monotonic - last_seen
        else:
            downtime = moment.wall - (wall + last_seen - monotonic)
        downtime = max(0.0, downtime)
        shift = moment.monotonic - last_seen - downtime
        execute = self._connection.execute
        with self._transaction(is_full=False):
            for mark in marks:
                _apply(execute, mark, is_crash=mark.state in (RUNNING, IS_READ) and not is_orderly)
            if shift:
                times = ", ".join(f"{time} = {time} + :shift" for time in ("submitted", "due", "noted"))
                execute(f"UPDATE calls SET {times}", {"shift": shift})
            execute("UPDATE calls SET began = began + ? WHERE began IS NOT NULL", (shift + downtime,))
            killers = f"WHERE status = '{WAITING}' AND crashes >= {max_crashes}"
            functions = [function for (function,) in execute(f"SELECT function FROM calls {killers}")]
            execute(
                f"UPDATE calls SET status = ?, error = ? {killers}", (SET_ASIDE, _KILLED.format(max_crashes))
            )
            execute("UPDATE owner SET generation = ?, name = ?", (owner.generation, owner.name))
            self._note_moment(moment)
        return functions

    def close(self) -> None:
        """Close the file; SQLite brings all into the main file then."""
        self._connection.close()

    def leak(self) -> None:
        """In a forked child: see that the connection is never closed, which would concern the parent's."""
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))


_SELECT = f"SELECT {COLUMNS} FROM calls"
_INSERT = (
    "INSERT INTO calls (row, status, function, key, label, upstreams, payload, accepted, submitted)"
    f" VALUES (?, '{WAITING}', ?, ?, ?, ?, ?, ?, ?)"
)
_UPDATE = (
    "UPDATE calls SET status = ?, attempts = ?, postponed = ?, began = ?, due = ?, noted = ?, error = ?"
    " WHERE row = ?"
)
_KILLED = "its process died {} times while it ran"
_DELETE = "DELETE FROM calls WHERE row = ?"


def _apply(execute: Callable[..., object], mark: Mark, *, is_crash: bool) -> None:
    """Have the row of a call say what its mark says, unless the row is of later."""
    row, state, attempts, postponed, began, due, noted = mark
    if state == DONE:
        execute(_DELETE, (row,))
        return
    if state == IS_READ:
        execute("UPDATE calls SET crashes = crashes + ? WHERE row = ?", (is_crash, row))
        return
    execute(
        "UPDATE calls SET attempts = ?, postponed = ?, began = ?, due = ?, crashes = crashes + ?, noted = ?"
        f" WHERE row = ? AND noted <= ? AND status = '{WAITING}'",  # a coarse clock tells the same time twice
        (
            attempts,
            postponed + (state == RUNNING),  # an attempt that nobody saw the end of counts for nothing
            None if math.isnan(began) else began,
            None if state == RUNNING or math.isnan(due) else due,
            is_crash,
            noted,
            row,
            noted,
        ),
    )


def _decoded(text: bytes) -> str:
    """Return a text of the database, also where it is damaged: it must not hide the other calls."""
    return text.decode("utf-8", "replace")


def check_start(path: Path) -> None:
    """Check how a database begins that nobody in this process has open, whose locks this would give back.

    If SQLite found that it is none, it would delete the log beside it, from which people may restore calls.

    Raises:
        sqlite3.DatabaseError: If it is none, or has lost all but its log.
        FileNotFoundError: If there is none.
        OSError: If it cannot be read.
    """
    if path.is_fifo():  # to open it would wait
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
    with path.open("rb") as file:
        start = file.read(16)
    if start not in (b"", b"SQLite format 3\0"):
        raise sqlite3.DatabaseError("file is not a database")
    if not start:
        with suppress(FileNotFoundError):
            if path.with_name(f"{path.name}-wal").stat().st_size:
                raise sqlite3.DatabaseError("file is empty, and its log is not")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=10.0,  # seconds; somebody may be reading it from the command line
        isolation_level=None,
        check_same_thread=False,
    )
    if sys.platform == "darwin":  # pragma: no cover  # there, a sync is none without this
        connection.execute("PRAGMA fullfsync = 1")
    return connection


def now(boot: str, monotonic: float) -> Moment:
    """Return what time it is."""
    return Moment(boot, monotonic, time.time())
