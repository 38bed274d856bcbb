"""The calls of a process that is gone: read from its file a few at a time, as there is room.

A *suspect* ran when that process died. Two that run at the same time are both accused of what one of them
does. So a plain function runs alone, of all suspects. Of coroutine functions there may be a thousand, which
would take hours. So as many as the square root of their number run *in company*; if the process dies again,
these are *twice accused* and each runs alone, like the others that would be set aside by one more death.
"""

from __future__ import annotations

import math
import threading
from typing import NamedTuple

from retrying_executor._journal.database import WAITING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrying_executor._journal.row import Row
    from retrying_executor._journal.store import Store


class Out(NamedTuple):
    """The suspects that were read and have not survived yet: from when on an attempt of the first may start.

    Infinite if there is none.
    """

    alone: float = math.inf
    in_company: float = math.inf


class Estate:
    """What is left to be read of one file.

    Args:
        store: The file.
        max_crashes: How many deaths set a call aside.
    """

    def __init__(self, store: Store, max_crashes: int) -> None:
        self.store = store
        self._last_chance = max_crashes - 1
        self.pending = store.read(lambda database: database.count_waiting())
        """How many of its calls are neither done nor failed, whether they were read or not."""
        self._suspects = store.read(lambda database: database.suspects())
        self._most_in_company = math.isqrt(len(self._suspects))
        self._lock = threading.RLock()  # guards these four; reentrant for the sake of destructors
        self._suspect: int | None = None  # that is out alone: an attempt of it is to be made first
        self._suspect_due_at = math.inf
        self._may_have_company = False  # but for the number of those that have
        self._in_company: dict[int, float] = {}  # the suspects that are, and when they are due
        self._read_to = 0
        self._is_read = False
        self._is_stopped = False  # for now: the disk fails
        self.left: set[int] = set()
        """The rows of calls that could not be read here."""
        self._again: list[int] = []  # those of them that are to be tried again

    @property
    def has_more(self) -> bool:
        """Whether `next_rows` may yield something now, or later."""
        return not self._is_stopped and bool(not self._is_read or self._suspects or self._again)

    def is_ready(self, out: Out) -> bool:
        """Return whether `next_rows` may yield something now.

        Args:
            out: The suspects of all estates.
        """
        if self._is_stopped:
            return False
        return not self._is_read or bool(self._again) or self._has_suspect_for(out)

    @property
    def out(self) -> Out:
        """The suspects of this one that were read, and have not survived yet."""
        with self._lock:
            return Out(self._suspect_due_at, min(self._in_company.values(), default=math.inf))

    def try_again(self) -> None:
        """What the calls need that could not be read may be there now; or the disk may be back."""
        self._again = sorted(self.left)
        self._is_stopped = False

    def stop(self) -> None:
        """The file cannot be read: do not ask for more of it, until that is to be tried again."""
        self._is_stopped = True

    def _has_suspect_for(self, out: Out) -> bool:
        """Return whether the next suspect may be read: it is due before those that are out alone.

        One that another death would set aside must have no company at all.
        """
        if not self._suspects:
            return False
        due_at, _, crashes = self._suspects[0]
        return due_at < out.alone and (crashes < self._last_chance or due_at < out.in_company)

    def next_rows(self, most: int, out: Out) -> Iterator[Row]:
        """Yield the calls that are to be queued now: *most* of them, and one suspect.

        Args:
            most: How many.
            out: As for `is_ready`.

        Raises:
            sqlite3.Error: If the file is damaged.
        """
        if self._has_suspect_for(out):
            due_at, row, _ = self._suspects[0]
            suspect = self.store.get(row)
            del self._suspects[0]
            if suspect is not None and suspect.status == WAITING:  # pragma: no branch  # no other changes it
                with self._lock:
                    self._suspect, self._suspect_due_at, self._may_have_company = row, due_at, False
                yield suspect
        again, self._again = self._again[:most], self._again[most:]
        for number in again:
            left = self.store.get(number)
            if left is not None:  # pragma: no branch  # only owners change it
                yield left
        if not (self._is_read or again):
            rows = self.store.read(lambda database: database.waiting_after(self._read_to, most))
            self._is_read = len(rows) < most
            self._read_to = max([self._read_to, *(row.row for row in rows)])
            yield from rows

    def is_of_coroutine(self, row: Row) -> None:
        """A call that was read is of a coroutine function: if it is a suspect, it may have company."""
        with self._lock:
            if row.row == self._suspect and row.crashes < self._last_chance:
                self._may_have_company = True
                self._make_way()

    def survived(self, row: int) -> None:
        """An attempt of a call is over, and the process lives: it is the turn of the next suspect."""
        with self._lock:
            if row == self._suspect:
                self._suspect, self._suspect_due_at = None, math.inf
            elif self._in_company.pop(row, None) is not None:
                self._make_way()

    def _make_way(self) -> None:
        """Let others run beside the suspect that is out alone, if it may have company. Under the lock."""
        suspect = self._suspect
        if suspect is None or not self._may_have_company:
            return
        if len(self._in_company) + 1 < self._most_in_company:  # itself is one of them
            self._in_company[suspect] = self._suspect_due_at
            self._suspect, self._suspect_due_at = None, math.inf
