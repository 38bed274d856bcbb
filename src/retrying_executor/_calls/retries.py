"""Calls in the order in which they are due. Pure, as all of the schedule; see there."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from retrying_executor._calls.call import Call

    Entry: TypeAlias = tuple[float, int, Call]
    """When a call is due, its number, and the call."""


class Retries:
    """A heap of calls by their due times; ties in the order in which they were added.

    A call that is done before its turn stays in its place and is noted in ``gone``. It is dropped when it
    gets to the front, or when more of the calls are gone than live.

    Args:
        ticket: Numbers the calls, for the order of ties.
    """

    __slots__ = ("_entries", "_ticket", "gone")

    def __init__(self, ticket: Callable[[], int]) -> None:
        self._entries: list[Entry] = []
        self._ticket = ticket
        self.gone: set[Call] = set()

    def __len__(self) -> int:
        """Return the number of live calls, or one less while a gone one is being dropped."""
        return max(0, len(self._entries) - len(self.gone))

    def add(self, call: Call, due_at: float) -> bool:
        """Add a call; return whether it is the first now."""
        heappush(self._entries, (due_at, self._ticket(), call))
        return self._entries[0][2] is call

    def first(self) -> Entry | None:
        """Return the first entry whose call is live; ``None`` if there is none."""
        if self.gone:
            self.drop_gone()
        return self._entries[0] if self._entries else None

    def pop(self) -> Call:
        """Return the call of the first entry, no longer in here."""
        return heappop(self._entries)[2]

    def drop_gone(self) -> None:
        """Drop the gone calls at the front; or all of them, if they are the majority."""
        entries, gone = self._entries, self.gone
        if 2 * len(gone) > len(entries):
            self._replace([entry for entry in entries if entry[2] not in gone])
            gone.clear()
            return
        while gone and entries[0][2] in gone:
            call = entries[0][2]
            try:
                heappop(entries)
            finally:  # an interruption in between must not leave it noted for ever
                gone.discard(call)
        if not gone:
            gone.clear()  # or it would keep the memory of what was in it

    def rearrange(self, due_at: Callable[[Call], float | None]) -> None:
        """Give each call the due time that *due_at* returns; ``None`` leaves it as it is."""
        entries = []
        for before, ticket, call in self._entries:
            after = due_at(call)
            entries.append((before if after is None else after, ticket, call))
        self._replace(entries)

    def _replace(self, entries: list[Entry]) -> None:
        heapify(entries)
        self._entries = entries

    def calls(self) -> list[Call]:
        """Return the live calls, in no particular order."""
        return [call for _, _, call in self._entries.copy() if call not in self.gone]

    def count_due(self, now: float) -> int:
        """Return how many live calls are due: in time proportional to their number."""
        due, unseen = 0, [0]
        while unseen:  # only below an entry of the heap that is due can another be due
            index = unseen.pop()
            for due_at, _, call in self._entries[index : index + 1]:
                if due_at <= now:
                    due += not call.done()
                    unseen += (2 * index + 1, 2 * index + 2)
        return due
