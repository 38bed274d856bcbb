"""Which call is next, and when: a queue of fresh calls and a heap of retries.

Pure: no threads, no clock, no randomness. Whoever uses it says what happened together with *now*,
and holds the lock that guards it. Times are seconds on one clock, whichever it is.

- Due retries come before fresh calls; retries in the order of their due times, ties in the order
  in which they were scheduled; fresh calls in the order in which they were added.
- A call that is done before its turn (cancelled) stays where it is and is counted as gone; it is
  dropped when it gets to the front, or when more calls in that place are gone than live. So
  cancelling costs amortised constant time, and memory stays proportional to the live calls.
- A destructor or a signal handler may ``add()`` or ``discard()`` in the middle of any method, in
  the thread that holds the lock. Hence ``_busy``: while it is set, ``discard()`` only counts; and
  the queue of fresh calls is never replaced, so what is added to it meanwhile stays.
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from itertools import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from retrying_executor._future import RetryingFuture

    Call: TypeAlias = RetryingFuture[Any]


class Schedule:
    """The calls that wait for their first or their next attempt; of a call only ``done()`` is asked."""

    __slots__ = ("_busy", "_fresh", "_gone_fresh", "_gone_retries", "_retries", "_ticket")

    def __init__(self) -> None:
        self._fresh: deque[Call] = deque()
        self._retries: list[tuple[float, int, Call]] = []  # a heap of (due_at, ticket, call)
        self._ticket = count().__next__
        self._gone_fresh: list[None] = []  # one entry for each: ``+= 1`` could be interrupted
        self._gone_retries: list[None] = []
        self._busy = False

    def __len__(self) -> int:
        """Return the number of live calls."""
        return len(self._fresh) - len(self._gone_fresh) + len(self._retries) - len(self._gone_retries)

    def add(self, call: Call) -> None:
        """Queue a call for its first attempt."""
        self._fresh.append(call)

    def has_fresh(self, call: Call) -> bool:
        """Return whether a call is queued for its first attempt: in time proportional to the queue."""
        return call in self._fresh

    def add_retry(self, call: Call, due_at: float) -> bool:
        """Put a call in backoff until *due_at*; return whether it is now the first of them."""
        self._busy = True  # until then the heap is not replaced
        try:
            heappush(self._retries, (due_at, self._ticket(), call))
            return self._retries[0][2] is call
        finally:
            self._busy = False

    def discard(self, call: Call, *, retried: bool) -> None:
        """Take note that a call that waits is done.

        Args:
            call: A call in the schedule for which ``done()`` has become true.
            retried: Whether it came by `add_retry`.
        """
        if retried:
            self._gone_retries.append(None)
        else:
            self._gone_fresh.append(None)
        self._drop_gone()

    def take(self, now: float, claim: Callable[[Call, float], bool]) -> Call | None:
        """Return the call whose turn it is, no longer in the schedule; ``None`` if none is ready.

        Args:
            now: What time it is.
            claim: Given a call and *now*, makes it one that does not wait any more, or returns
                ``False`` if it is done. Until then it can be cancelled, so it stays in its place.
        """
        self._busy = True
        try:
            while True:
                if self._retries and self._retries[0][0] <= now:
                    call = self._retries[0][2]
                    if claim(call, now):
                        heappop(self._retries)
                        return call
                    heappop(self._retries)
                    del self._gone_retries[-1:]
                elif self._fresh:
                    call = self._fresh[0]
                    if claim(call, now):
                        self._fresh.popleft()
                        return call
                    self._fresh.popleft()
                    del self._gone_fresh[-1:]
                else:
                    return None
        finally:
            self._busy = False
            if self._gone_fresh or self._gone_retries:
                self._drop_gone()

    def is_ready(self, now: float) -> bool:
        """Return whether `take` would return a call."""
        if self._gone_fresh:
            self._drop_gone()
        due_at = self.first_due_at()
        return bool(self._fresh) or (due_at is not None and due_at <= now)

    def count_ready(self, now: float) -> int:
        """Return how many calls could start now: in time proportional to the retries that are due."""
        ready = len(self._fresh) - len(self._gone_fresh)
        retries = self._retries
        unseen = [0]
        while unseen:  # only below an entry of the heap that is due can another be due
            index = unseen.pop()
            for due_at, _, call in retries[index : index + 1]:
                if due_at <= now:
                    ready += not call.done()
                    unseen += (2 * index + 1, 2 * index + 2)
        return ready

    def first_due_at(self) -> float | None:
        """Return when the first retry becomes due; ``None`` if no call is in backoff."""
        if self._gone_retries:
            self._drop_gone()
        for due_at, _, _ in self._retries[:1]:
            return due_at
        return None

    def waiting(self) -> list[Call]:
        """Return all live calls, the fresh ones first."""
        calls = [*self._fresh, *(call for _, _, call in self._retries)]
        return [call for call in calls if not call.done()]

    def _drop_gone(self) -> None:
        """Drop the calls that are gone at the fronts; all of them where they are the majority."""
        if self._busy:
            return
        self._busy = True
        try:
            if 2 * len(self._gone_fresh) > len(self._fresh):
                self._compact_fresh()
            while self._fresh and self._fresh[0].done():
                self._fresh.popleft()
                del self._gone_fresh[-1:]
            if 2 * len(self._gone_retries) > len(self._retries):
                live = [entry for entry in self._retries if not entry[2].done()]
                heapify(live)
                del self._gone_retries[: len(self._retries) - len(live)]
                self._retries = live
            while self._retries and self._retries[0][2].done():
                heappop(self._retries)
                del self._gone_retries[-1:]
        finally:
            self._busy = False

    def _compact_fresh(self) -> None:
        live: list[Call] = []
        try:
            for _ in range(len(self._fresh)):
                is_gone = self._fresh[0].done()
                call = self._fresh.popleft()
                if is_gone:
                    del self._gone_fresh[-1:]
                else:
                    live.append(call)
        finally:
            self._fresh.extendleft(reversed(live))
