"""Which call is next, and when: a queue of fresh calls and a heap of retries.

Pure: no threads, no clock, no randomness. Whoever uses it says what happened together with *now*,
and holds the lock that guards it. Times are seconds on one clock, whichever it is.

- Due retries come before fresh calls; retries in the order of their due times, ties in the order
  in which they were scheduled; fresh calls in the order in which they were added.
- A call that may not start because of what it shares with others (its *upstream*) leaves the queue or
  the heap when its turn comes, and waits in that upstream's *lane*. A lane that is closed stops nobody
  else; when it opens, its calls come in the order above: they have waited longer than any fresh call.
- A call that is done before its turn (cancelled) stays where it is and is noted as gone; it is
  dropped when it gets to the front, or when more calls in that place are gone than live. So
  cancelling costs amortised constant time, and memory stays proportional to the live calls.
- Anybody may append to ``fresh`` at any time, without the lock, and workers take from its front, each
  under a lock of its own. So it is never replaced, nobody relies on what its front is, and only
  `tidy` takes out more than the first call.
- A destructor or a signal handler may ``discard()`` in the middle of any method, in the thread that
  holds the lock. Hence ``_busy``: while it is set, that is only noted.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heapify, heappop, heappush
from itertools import count, islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from retrying_executor._calls.call import Call
    from retrying_executor._upstream.places import Places

    Refusal: TypeAlias = tuple[Places, float, float]
    """Whose limits forbid a start; when to ask again; and until when the call may wait for that."""

    Claim: TypeAlias = bool | Refusal
    """Whether a call was claimed, or is done; or why it may not start."""


class Lane:
    """The calls whose turn came while their upstream let none through.

    All are kept as retries. Those without an attempt come last; but while the upstream is down they come
    first: one that has failed may fail again for a reason of its own, and then shows nothing.

    So that a service that is down for good ends every call, those without an attempt give up too when
    ``max_elapsed`` has passed: since the upstream went down, or since their turn came if that was later.
    """

    __slots__ = ("calls", "is_down", "opens_at", "patience", "places")

    def __init__(self, places: Places, ticket: Callable[[], int]) -> None:
        self.places = places
        self.is_down = places.is_down
        self.calls = Schedule(ticket)
        self.opens_at = math.inf
        self.patience = math.inf  # until when all of them may wait, or less

    def acts_at(self) -> float:
        """Return when there is something to do: it opens, or a call may have waited for too long."""
        return min(self.opens_at, self.patience)

    def notice(self, now: float) -> None:
        """See whether the upstream went down, or works again."""
        if self.is_down != self.places.is_down:
            self.is_down = not self.is_down
            self.calls.rearrange(lambda call: self.due_at(call, now))
            self.patience = min((entry[2]._waits_until for entry in self.calls.entries()), default=math.inf)

    def due_at(self, call: Call, now: float) -> float | None:
        """Return where a call without an attempt comes, and note until when it waits; ``None`` for others."""
        work = call._work
        if call._attempts or work is None:
            return None
        until = now + work[4].max_elapsed if self.is_down else math.inf
        call._waits_until = min(until, call._expires_at)
        return -math.inf if self.is_down else math.inf

    def take(self, now: float, claim: Callable[[Call, float], Claim]) -> Call | None:
        """Return the call whose turn it is, no longer in the lane; ``None`` if the lane closes."""
        while self.opens_at <= now:
            self.notice(now)
            entry = self.calls.first_retry()
            if entry is None:
                return None
            claimed = claim(entry[2], now)
            if claimed is True:
                entry[2]._lane = None
                return self.calls.pop_retry()
            if claimed is not False:
                self.opens_at = claimed[1]
        return None


class Schedule:
    """The calls that wait; of a call only ``done()`` is asked, and its lane is noted on it.

    Args:
        ticket: Numbers the calls that are put in backoff, for the order of ties.
    """

    __slots__ = ("_busy", "_gone_fresh", "_gone_retries", "_lanes", "_retries", "_ticket", "fresh")

    def __init__(self, ticket: Callable[[], int] | None = None) -> None:
        self.fresh: deque[Call] = deque()
        self._retries: list[tuple[float, int, Call]] = []  # a heap of (due_at, ticket, call)
        self._ticket = ticket or count().__next__
        self._gone_fresh: set[Call] = set()
        self._gone_retries: set[Call] = set()
        self._lanes: dict[Places, Lane] = {}
        self._busy = False

    def __len__(self) -> int:
        """Return the number of live calls; see `count`."""
        return max(0, self.count())

    def count(self) -> int:
        """Return the number of live calls, less that of gone ones that workers have yet to drop."""
        return self.count_fresh() + self.count_others()

    def count_fresh(self) -> int:
        """Return the number of those that wait for their first attempt, and not in a lane; see `count`."""
        return len(self.fresh) - len(self._gone_fresh)

    def count_others(self) -> int:
        """Return the number of the others: retries, and calls in lanes."""
        retries = len(self._retries) - len(self._gone_retries)
        return retries + self.count_held() if self._lanes else retries

    def has_fresh(self, call: Call) -> bool:
        """Return whether a call is queued for its first attempt: in time proportional to the queue."""
        return call in self.fresh

    def add_retry(self, call: Call, due_at: float) -> bool:
        """Put a call in backoff until *due_at*; return whether it is now the first of them."""
        self._busy = True  # until then the heap is not replaced
        try:
            heappush(self._retries, (due_at, self._ticket(), call))
            return self._retries[0][2] is call
        finally:
            self._busy = False

    def place_of(self, call: Call, *, retried: bool) -> tuple[Schedule, set[Call]]:
        """Return where a call is that waits, and in which set to note it when it has become done.

        Args:
            call: A call in the schedule.
            retried: Whether it came by `add_retry`.

        Returns:
            A schedule, whose `drop_gone` is to be called afterwards; and the set.
        """
        if call._lane is not None:
            return call._lane.calls, call._lane.calls._gone_retries
        return self, self._gone_retries if retried else self._gone_fresh

    def drop(self, call: Call) -> None:
        """A call that was taken from the front of ``fresh`` turned out to be done."""
        self._gone_fresh.discard(call)

    def is_gone(self, call: Call) -> bool:
        """Return whether a fresh call was noted as gone, and not dropped yet."""
        return call in self._gone_fresh

    @property
    def is_littered(self) -> bool:
        """Whether more of the fresh calls are gone than live."""
        return 2 * len(self._gone_fresh) > len(self.fresh)

    def tidy(self) -> None:
        """Drop the fresh calls that are gone; only while nobody else takes any."""
        if self._busy:
            return
        self._busy = True
        fresh, calls = self.fresh, list(self.fresh)  # others may append meanwhile: these stay the first
        gone: set[Call] = set()
        live: list[Call] = []
        try:
            gone = self._gone_fresh.intersection(calls)
            live = [call for call in reversed(calls) if call not in gone]
            deque(islice(iter(fresh.popleft, None), len(calls)), maxlen=0)  # in one step, as to interruptions
        finally:
            self._busy = False
            if calls and not (fresh and fresh[0] is calls[0]):  # pragma: no branch  # see tests/untraced
                self._gone_fresh -= gone
                fresh.extendleft(live)
        if not self._gone_fresh:
            self._gone_fresh.clear()  # or it would keep the memory of what was in it

    def take(self, now: float, claim: Callable[[Call, float], Claim]) -> Call | None:
        """Return the call whose turn it is, no longer in the schedule; ``None`` if none is ready.

        Args:
            now: What time it is.
            claim: Given a call and *now*, makes it one that does not wait any more; or returns
                ``False`` if it is done, or a refusal if its upstream lets none through. Until then
                it can be cancelled, so it stays in its place.
        """
        self._busy = True
        try:
            while True:
                lane = self._first_lane(now) if self._lanes else None
                if lane is not None:
                    taken = lane.take(now, claim)
                    if taken is not None:
                        return taken
                elif self._retries and self._retries[0][0] <= now:
                    due_at, _, call = self._retries[0]
                    claimed = claim(call, now)
                    heappop(self._retries)
                    if claimed is True:
                        return call
                    if claimed is False or call.done():  # by a destructor, at that very moment
                        self._gone_retries.discard(call)
                    else:
                        self._defer(call, due_at, claimed)
                else:
                    try:
                        call = self.fresh.popleft()
                    except IndexError:
                        return None
                    try:
                        claimed = claim(call, now)
                    except BaseException:
                        self.fresh.appendleft(call)
                        raise
                    if claimed is True:
                        return call
                    if claimed is False or call.done():
                        self.drop(call)
                    else:
                        self._defer(call, math.inf, claimed)
        finally:
            self._busy = False
            if self._gone_retries:
                self.drop_gone()

    def is_ready(self, now: float) -> bool:
        """Return whether `take` would return a call."""
        if len(self.fresh) > len(self._gone_fresh):
            return True
        due_at = self.first_due_at()
        return due_at is not None and due_at <= now

    def rearrange(self, due_at: Callable[[Call], float | None]) -> None:
        """Give retries other times: those that *due_at* returns, unless it is ``None``."""
        self._busy = True  # until then the heap is not replaced
        try:
            for index, (before, ticket, call) in enumerate(self._retries):
                after = due_at(call)
                self._retries[index] = (before if after is None else after, ticket, call)
            heapify(self._retries)
        finally:
            self._busy = False

    def entries(self) -> list[tuple[float, int, Call]]:
        """Return the entries of the heap, gone ones included."""
        return self._retries

    def first_retry(self) -> tuple[float, int, Call] | None:
        """Return the first entry of the heap: when it is due, its ticket, and the call."""
        if self._gone_retries:
            self.drop_gone()
        try:  # not looked at before: a destructor may make the last one go in between
            return self._retries[0]
        except IndexError:
            return None

    def pop_retry(self) -> Call:
        """Return the first call of the heap, no longer in the schedule."""
        return heappop(self._retries)[2]

    def count_ready(self, now: float) -> int:
        """Return how many calls could start now: in time proportional to the retries that are due."""
        return self.count_fresh() + self.count_due(now)

    def count_due(self, now: float) -> int:
        """Return how many of them are due retries, or in lanes that are open."""
        ready = self.count_held() - self.count_held(now) if self._lanes else 0
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
        """Return when there will be something to do by itself: a retry is due, or a lane opens.

        Infinity stands for a lane that somebody else will open; ``None`` if there is nothing.
        """
        first = self.first_retry()
        times = [] if first is None else [first[0]]
        if self._lanes:
            times += [lane.acts_at() for lane in self._lanes.values() if len(lane.calls)]
        return min(times, default=None)

    def waiting(self) -> list[Call]:
        """Return all live calls, the fresh ones first."""
        calls = [*self.fresh.copy(), *(call for _, _, call in self._retries.copy())]
        for lane in self._lanes.values():
            calls += lane.calls.waiting()
        return [call for call in calls if not call.done()]

    # -- lanes -----------------------------------------------------------------------------------

    @property
    def has_lanes(self) -> bool:
        """Whether calls wait in lanes, or did until a moment ago."""
        return bool(self._lanes)

    def lane(self, places: Places) -> Lane | None:
        """Return the lane of an upstream, if calls wait in it."""
        lane = self._lanes.get(places)
        return lane if lane is not None and len(lane.calls) else None

    def waits_between(
        self, call: Call, places: Places, max_elapsed: float, now: float
    ) -> tuple[float, float]:
        """Return from when on a call whose turn it is may ask its upstream, and until when it may wait.

        Others of the same upstream, in a lane that is closed, come before it.
        """
        lane = self.lane(places)
        opens_at = -math.inf if lane is None or call._lane is lane else lane.opens_at
        if call._attempts:
            until = max(call._began_at + max_elapsed, now)  # sums may be rounded
        else:
            until = now + max_elapsed if places.is_down else math.inf
        return opens_at, min(until, call._expires_at)

    def count_held(self, now: float | None = None) -> int:
        """Return how many calls wait in lanes that are closed at *now*; without it, in all lanes."""
        return sum(len(lane.calls) for lane in self._lanes.values() if now is None or lane.opens_at > now)

    def opens_at(self, now: float) -> float | None:
        """Return when the first of the lanes opens that are closed at *now*; ``None`` if nobody knows."""
        times = [lane.opens_at for lane in self._lanes.values() if len(lane.calls)]
        return min((time for time in times if now < time < math.inf), default=None)

    def _defer(self, call: Call, due_at: float, refusal: Refusal) -> None:
        """Put a call whose turn has come in its lane."""
        places, opens_at, until = refusal
        lane = self.lane(places)
        if lane is None:
            lane = self._lanes[places] = Lane(places, self._ticket)
        lane.opens_at = opens_at
        call._waits_until = until
        call._lane = lane  # if it is done from now on, that is noted there
        if call.done() and call._lane is lane:  # it was before: that was noted here
            call._lane = None
            self._gone_fresh.discard(call)
            self._gone_retries.discard(call)
            return
        lane.calls.add_retry(call, -math.inf if due_at == math.inf and lane.is_down else due_at)
        lane.patience = min(lane.patience, until)

    def _first_lane(self, now: float) -> Lane | None:
        """Return the lane whose first call comes before all others, if it is open."""
        for lane in self._lanes.values():
            if lane.patience <= now:
                self._give_up(lane, now)
        first = None
        best = self._retries[0][:2] if self._retries and self._retries[0][0] <= now else (math.inf, math.inf)
        for places, lane in list(self._lanes.items()):
            entry = lane.calls.first_retry()
            if entry is None:
                del self._lanes[places]
            elif lane.opens_at <= now and entry[:2] < best:
                first, best = lane, entry[:2]
        return first

    def _give_up(self, lane: Lane, now: float) -> None:
        """Let calls that have waited for too long come at once: they need no more than to be told.

        Now is too late already: there is something to do whenever `first_due_at` says so, or a worker would
        look in vain until the clock, which may be coarse, has moved on.
        """
        calls = lane.calls
        calls._busy = True  # until then the heap is not replaced
        try:
            late = [entry[2] for entry in calls._retries if entry[2]._waits_until <= now]
            calls._retries = [entry for entry in calls._retries if entry[2]._waits_until > now]
            heapify(calls._retries)
            lane.patience = min((entry[2]._waits_until for entry in calls._retries), default=math.inf)
        finally:
            calls._busy = False
        for call in late:
            if call.done():
                calls._gone_retries.discard(call)
                continue
            call._lane = None
            heappush(self._retries, (call._waits_until, self._ticket(), call))

    def drop_gone(self) -> None:
        """Drop the retries that are gone at the front; all of them where they are the majority."""
        if self._busy:
            return
        self._busy = True
        try:
            if 2 * len(self._gone_retries) > len(self._retries):
                gone = self._gone_retries.copy()
                live = [entry for entry in self._retries if entry[2] not in gone]
                heapify(live)
                self._retries = live
                self._gone_retries -= gone
            while self._retries and self._retries[0][2] in self._gone_retries:
                call = self._retries[0][2]
                try:
                    heappop(self._retries)
                finally:  # a signal handler may raise in between
                    self._gone_retries.discard(call)
            if not self._gone_retries:
                self._gone_retries.clear()  # or it would keep the memory of what was in it
        finally:
            self._busy = False
