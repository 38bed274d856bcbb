"""Things in an order that changes. Pure, as all of the schedule; see there."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Generic, TypeAlias, TypeVar

    Item = TypeVar("Item")
    Key: TypeAlias = tuple[float, ...]
else:  # typing is slow to import

    class Generic:
        def __class_getitem__(cls, item):
            return cls

    Item = None


class Ranking(Generic[Item]):
    """Items by their keys, the least first: each item once, with the key that it was given last.

    An entry that is out of date stays in the heap until it gets to the front, or until more entries are out
    of date than not. An interruption of `put` leaves the item with its former key.
    """

    __slots__ = ("_entries", "_heap", "_ticket")

    def __init__(self) -> None:
        self._entries: dict[Item, tuple[Key, int, Item]] = {}
        self._heap: list[tuple[Key, int, Item]] = []
        self._ticket = count().__next__  # so that items are never compared

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, item: Item, *key: float) -> None:
        """Give an item its key."""
        entry = (key, self._ticket(), item)
        heappush(self._heap, entry)
        self._entries[item] = entry
        self._compact()

    def drop(self, item: Item) -> None:
        """Remove an item, if it is in here."""
        if self._entries.pop(item, None) is not None:
            self._compact()

    def _compact(self) -> None:
        if len(self._heap) > 2 * len(self._entries) + 8:
            self._heap = heap = list(self._entries.values())
            heapify(heap)

    def first(self) -> tuple[Key, Item] | None:
        """Return the least key and its item; ``None`` if there are none."""
        heap = self._heap
        while heap:
            key, _, item = entry = heap[0]
            if self._entries.get(item) is entry:
                return key, item
            gone = heappop(heap)
            if gone is not entry:  # a destructor called this method in between, and has popped it already
                heappush(heap, gone)
        return None

    def items(self) -> list[Item]:
        """Return all items, in no particular order."""
        return list(self._entries)
