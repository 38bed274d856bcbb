"""One file of a journal that this process has locked: its rows, its marks, and who writes them when.

Threads that submit at the same time share one transaction. Each adds its call to ``_additions``. One of them
*leads*: it writes all that was added so far, tells their submitters, and passes the lead on to one that has
come meanwhile. There is no thread for that.

What becomes of calls is marked at once (see `marks`) and collected in ``_changes``. The next transaction
writes it; there is one with each submit, and when there are many changes.

If the disk is full, submitting fails, and nothing else: changes stay where they are until they can be
written, and ``submit()`` has made room for the marks of its call.

``turn`` is for SQLite, ``_lock`` for the rest. Lock order: ``turn``, ``_lock``. No code of the program runs
under either, but for a destructor or a signal handler that interrupts a thread which has them. If it submits
in the middle of a transaction, its call is on disk when that thread has given its turn back, a moment after
``submit()`` has returned.
"""

from __future__ import annotations

import math
import sqlite3
import threading
from collections import deque
from contextlib import suppress
from itertools import count

from retrying_executor._common.errors import JournalError
from retrying_executor._common.stdlib import is_held
from retrying_executor._journal import locks
from retrying_executor._journal.database import FAILED, WAITING, Addition, Change, Database, Owner, now
from retrying_executor._journal.marks import DONE, RUNNING, WAITS, Mark, Marks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import TypeVar

    from retrying_executor._common.values import Clock
    from retrying_executor._journal.database import Moment
    from retrying_executor._journal.row import Row

    T = TypeVar("T")

_MOST_CHANGES = 200
"""How many changes are collected before they are written."""


BESIDE = ("-journal", "-wal", "-shm")
"""What the names of those files end in that SQLite keeps beside a database."""


class _Entry:
    """A call that is being submitted."""

    __slots__ = ("addition", "error", "is_deferred", "is_over", "latch", "leads")

    def __init__(self, addition: Addition) -> None:
        self.addition = addition
        self.error: Exception | None = None  # why it could not be written
        self.is_over = False  # it was tried
        self.is_deferred = False  # its submitter does not wait, and interrupts the thread that writes
        self.leads = False  # it is for its submitter to write what was added
        self.latch = threading.Lock()  # at which its submitter waits
        self.latch.acquire()

    def let_go(self) -> None:
        """Have its submitter look again; may be done again."""
        with suppress(RuntimeError):  # it is open already
            self.latch.release()


class Store:
    """The file, from when it is locked until it is given back or deleted.

    Args:
        lock_path: That of the lock file.
        descriptor: Its descriptor: the lock.
        path: That of the database.
        database: What is in it.
        owner: This process.
        clock: What tells the time.
        boot: Which start of the machine the clock counts from.
        is_synced: Whether accepted calls survive a power cut.
    """

    def __init__(
        self,
        lock_path: Path,
        descriptor: int,
        path: Path,
        database: Database,
        owner: Owner,
        clock: Clock,
        boot: str,
        *,
        is_synced: bool,
    ) -> None:
        self._lock_path = lock_path
        self._descriptor = descriptor
        self.path = path
        self._database = database
        self.owner = owner
        self._clock = clock
        self._boot = boot
        self._is_synced = is_synced
        self._marks = Marks(descriptor)
        self._marks.start(owner.generation)
        self.turn = threading.RLock()
        """Held by a thread that is in SQLite, whose own locks a forked child would find locked for ever."""

        self._lock = threading.RLock()
        self._is_writing = False
        self._additions: deque[_Entry] = deque()
        self._has_leader = False
        self._submitters: set[int] = set()  # the threads that are in `_see_to`
        self._changes: dict[int, Change] = {}
        self._running: set[int] = set()
        # Not a number that is read and then written: a destructor may submit in between.
        self._next_row = count(database.last_row() + 1).__next__
        self._undone = database.count_waiting()  # how many calls may need a mark
        self.is_closed = False

    # -- calls come in ---------------------------------------------------------------------------

    def next_row(self) -> int:
        """Return the number of the next call."""
        return self._next_row()

    def add(self, addition: Addition) -> None:
        """Write a call that is submitted, and return when it is on disk.

        Raises:
            JournalError: If it cannot be written.
        """
        entry = _Entry(addition)
        with self._lock:
            self._undone += 1
        try:
            self._see_to(entry)
        except BaseException:  # of a signal handler: the program does not get the future
            with self._lock, suppress(ValueError):
                self._additions.remove(entry)
            if entry.leads:
                self._pass_on(entry)
            self.remove(addition.row)
            raise
        if entry.error is not None:
            with self._lock:
                self._undone -= 1
            raise JournalError(f"the call cannot be written to the journal: {entry.error}") from entry.error

    def _see_to(self, entry: _Entry) -> None:
        """Have a call written, by this thread or by another."""
        thread = threading.get_ident()
        if thread in self._submitters:
            # A signal handler or a destructor has interrupted this thread in here. The lead may have been
            # passed on to it, so it does not wait for another to take it.
            entry.is_deferred = self._is_writing and is_held(self.turn)
            with self._lock:
                self._additions.append(entry)
            with self.turn:
                if not (entry.is_deferred or entry.is_over):
                    self._write()
            return
        try:
            self._submitters.add(thread)
            with self._lock:
                self._additions.append(entry)
                if not self._has_leader:
                    entry.leads = self._has_leader = True
            if not entry.leads:
                entry.latch.acquire()
            if entry.leads:
                try:
                    with self.turn:
                        self._write()
                finally:
                    self._pass_on(entry)
        finally:
            self._submitters.discard(thread)

    def _pass_on(self, entry: _Entry) -> None:
        """The thread of *entry* has led; if others have added calls meanwhile, the first of them is next."""
        with self._lock:
            entry.leads = False
            heir = self._additions[0] if self._additions else None
            self._has_leader = heir is not None
            if heir is not None:
                heir.leads = True
                heir.let_go()

    def _write(self) -> None:
        """Write all that was added, and all changes. Called with the turn.

        If that fails, the changes come first, which may make room; then each call by itself, since it may be
        one of them that cannot be written.
        """
        self._is_writing = True
        try:
            while True:
                with self._lock:
                    entries = list(self._additions)
                if self._write_these(entries) is not None and entries:
                    self._write_these([])
                    for entry in entries:
                        entry.error = self._write_these([entry])
                with self._lock:
                    for entry in entries:
                        with suppress(ValueError):  # its submitter was interrupted, and has taken it out
                            self._additions.remove(entry)
                        entry.is_over = True
                        entry.let_go()
                    if not any(entry.is_deferred for entry in self._additions):
                        return
        finally:
            self._is_writing = False

    def _write_these(self, entries: list[_Entry]) -> Exception | None:
        """Write some calls, and all changes, in one transaction; return why not, if that fails."""
        with self._lock:
            changes = self._changes.copy()
        if not entries and not changes:
            return None
        try:
            if entries:
                self._marks.reserve(self._undone)
            self._database.write(
                [entry.addition for entry in entries],
                changes,
                self._now(),
                is_full=self._is_synced and bool(entries),
            )
        except (sqlite3.Error, OSError, OverflowError) as error:
            return error
        with self._lock:
            for row, change in changes.items():
                if self._changes.get(row) is change:
                    del self._changes[row]
                    self._undone -= change.status != WAITING
                    if row not in self._running:
                        self._marks.drop(row)
        return None

    def _now(self) -> Moment:
        return now(self._boot, self._clock.monotonic())

    # -- what becomes of them --------------------------------------------------------------------

    def reads(self, row: int) -> None:
        """A call is about to be read from its row, which may end the process; or no more, if *row* is 0."""
        with suppress(OSError):
            self._marks.reads(row)

    def begins(self, row: int, attempts: int, postponed: int, began_at: float) -> None:
        """An attempt of a call is about to run; it may be the one that ends the process."""
        with self._lock:
            self._running.add(row)
            self._mark(row, RUNNING, attempts, postponed, began_at)

    def ends(self, row: int) -> None:
        """An attempt of a call is over, and what becomes of it was told before."""
        with self._lock:
            self._running.discard(row)

    def waits(
        self, row: int, attempts: int, postponed: int, began_at: float, due_at: float, error: str
    ) -> None:
        """An attempt has failed, and another follows."""
        noted_at = self._clock.monotonic()
        change = Change(WAITING, attempts, postponed, began_at, due_at, noted_at, error)
        with self._lock:
            self._changes[row] = change
            self._running.discard(row)
            self._mark(row, WAITS, attempts, postponed, began_at, due_at, noted_at)
        self._write_if_many()

    def fails(self, row: int, attempts: int, postponed: int, began_at: float | None, error: str) -> None:
        """A call has failed for good. That is seldom, so it is written at once."""
        now = self._clock.monotonic()
        change = Change(FAILED, attempts, postponed, began_at, None, now, error)
        with self._lock:
            self._changes[row] = change
            self._running.discard(row)
            # If the row cannot be written, the next process makes the call once more, without suspicion.
            self._mark(row, WAITS, attempts, postponed, math.nan if began_at is None else began_at, now, now)
        self.flush()

    def remove(self, row: int) -> None:
        """A call is done, or cancelled."""
        with self._lock:
            self._changes[row] = Change("")
            self._running.discard(row)
            self._mark(row, DONE)
        self._write_if_many()

    def _mark(
        self,
        row: int,
        state: int,
        attempts: int = 0,
        postponed: int = 0,
        began_at: float = math.nan,
        due_at: float = math.nan,
        noted_at: float | None = None,
    ) -> None:
        if noted_at is None:
            noted_at = self._clock.monotonic()
        with suppress(OSError):  # then the row tells it, when it is written
            self._marks.put(Mark(row, state, attempts, postponed, began_at, due_at, noted_at))

    def _write_if_many(self) -> None:
        if len(self._changes) >= _MOST_CHANGES and self.turn.acquire(blocking=False):  # or another does
            try:
                if not self._is_writing:
                    self._write()
            finally:
                self.turn.release()

    def flush(self) -> None:
        """Write what has become of calls, so far as that can be written."""
        if self._changes:
            with self.turn:
                if not self._is_writing:
                    self._write()

    @property
    def is_running(self) -> bool:
        """Whether attempts of its calls run."""
        return bool(self._running)

    # -- reading ---------------------------------------------------------------------------------

    def read(self, query: Callable[[Database], T]) -> T:
        """Return what *query* returns, which gets the database.

        Raises:
            sqlite3.Error: What that raises.
        """
        with self.turn:
            return query(self._database)

    def get(self, row: int) -> Row | None:
        """Return a call as it is on disk, if it is there."""
        return self.read(lambda database: database.get(row))

    # -- the end ---------------------------------------------------------------------------------

    def close(self, *, only_if_spent: bool = False) -> None:
        """Give the file back, or delete it if no call is left in it; may be done again.

        A call that is just being added is refused; it is for another file.

        Args:
            only_if_spent: Whether to do nothing if a call is left.

        Raises:
            sqlite3.Error: Only then, if it cannot be read.
        """
        with self.turn:
            if self.is_closed or (only_if_spent and not self.is_spent()):
                return
            self.is_closed = True
            if not self._is_writing:
                self._write_these([])
            is_empty = False
            with suppress(sqlite3.Error, OSError):
                is_empty = self.is_spent()
                if not is_empty:
                    self._database.note(self._now())
            self.end_in_order()
            self._marks.end()
            self._database.close()
            if is_empty:
                delete_database(self.path)
                locks.delete(self._lock_path, self._descriptor)
            else:
                locks.give_back(self._descriptor)

    def is_spent(self) -> bool:
        """Return whether no call is left: the disk may be too full to delete the rows of calls that are done.

        Raises:
            sqlite3.Error: If it cannot be read.
        """
        with self.turn, self._lock:
            done = {row for row, change in self._changes.items() if not change.status}
            return self._database.rows() <= done if done else self._database.is_empty()

    def end_in_order(self) -> None:
        """The process ends because it wants to, although attempts may run."""
        with suppress(OSError):
            self._marks.end_in_order()

    def set_aside(self) -> None:
        """The file is damaged: leave it to people, and forget it."""
        with self.turn:
            if not self.is_closed:
                self.is_closed = True
                self._marks.end()
                with suppress(sqlite3.Error):
                    self._database.close()
                set_database_aside(self.path)
                locks.delete(self._lock_path, self._descriptor)

    # -- around a fork ---------------------------------------------------------------------------

    def forget_in_child(self) -> None:
        """After, in the child: the file is the parent's. For its lock see `locks`."""
        if not self.is_closed:
            self.is_closed = True
            self._marks = Marks(-1)  # a thread of the parent may have the lock of the others
            self._database.leak()


def set_database_aside(path: Path) -> None:
    """Rename a database that is damaged, and what SQLite keeps beside it."""
    aside = path.with_name(f"{path.name}.corrupt")
    path.replace(aside)
    for ending in BESIDE:
        with suppress(FileNotFoundError):
            path.with_name(f"{path.name}{ending}").replace(aside.with_name(f"{aside.name}{ending}"))
    delete_database(path)


def delete_database(path: Path) -> None:
    """Delete a database that nobody has open."""
    for ending in ("", *BESIDE):
        with suppress(FileNotFoundError):
            path.with_name(f"{path.name}{ending}").unlink()
