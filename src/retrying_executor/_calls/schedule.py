"""Which call is next, and when: a queue of fresh calls, a heap of retries, and a lane for each upstream.

Pure: no threads, no clock, no randomness. Its user says what happened together with *now*, and holds
the lock that guards it. Times are seconds on one clock, whichever it is.

- Due retries come before fresh calls; retries in the order of their due times, ties in the order in which
  they were scheduled; fresh calls in the order in which they were added.
- A call that may not start because of what it shares with others (its *upstream*) leaves the queue or the
  heap when its turn comes, and waits in that upstream's *lane*. A lane that is closed stops nobody else; when
  it opens, its calls come in the order above: they have waited longer than any fresh call.
- A call that is done before its turn (cancelled) stays where it is and is noted as gone; it is dropped when
  it gets to the front, or when more calls in that place are gone than live. So cancelling costs amortised
  constant time, and memory stays proportional to the live calls.
- Any thread may append to ``fresh`` at any time, without the lock, and workers take from its front, each
  under a lock of its own. So it is never replaced, nothing relies on what its front is, and only `tidy`, and
  virtual time, take out others than the first.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import count, islice

from retrying_executor._calls.lanes import Lane
from retrying_executor._calls.retries import Retries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from retrying_executor._calls.call import Call
    from retrying_executor._calls.lanes import Claim, Refusal
    from retrying_executor._upstream.places import Places

_MOST_DEFERRED = 1000  # fresh calls put in lanes in one go, which takes some milliseconds


class Schedule:
    """The calls that wait."""

    __slots__ = ("_gone_fresh", "_lanes", "_retries", "_ticket", "fresh", "lane_of")

    def __init__(self) -> None:
        self.fresh: deque[Call] = deque()
        self._ticket = count().__next__
        self._retries = Retries(self._ticket)
        self._gone_fresh: set[Call] = set()
        self._lanes: dict[Places, Lane] = {}
        self.lane_of: dict[Call, Lane] = {}
        """The lane of each call that waits in one, or has just become done there."""

    # -- how many there are ----------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of live calls; see `count_fresh`."""
        return max(0, self.count_fresh() + self.count_others())

    def count_fresh(self) -> int:
        """Return the number of those that wait for their first attempt, and not in a lane.

        Less that of gone ones that workers have yet to drop, so it may be negative.
        """
        return len(self.fresh) - len(self._gone_fresh)

    def count_others(self) -> int:
        """Return the number of the others: retries, and calls in lanes."""
        return len(self._retries) + self.count_held() if self._lanes else len(self._retries)

    def count_ready(self, now: float) -> int:
        """Return how many calls could start now: in time proportional to the retries that are due."""
        return self.count_fresh() + self.count_due(now)

    def count_due(self, now: float) -> int:
        """Return how many of them are due retries, or in lanes that are open."""
        in_lanes = self.count_held() - self.count_held(now) if self._lanes else 0
        return in_lanes + self._retries.count_due(now)

    def count_held(self, now: float | None = None) -> int:
        """Return how many calls wait in lanes that are closed at *now*; without it, in all lanes."""
        lanes = list(self._lanes.values())  # a destructor may count them in the middle of a change
        return sum(len(lane.calls) for lane in lanes if now is None or lane.opens_at > now)

    def waiting(self) -> list[Call]:
        """Return all live calls, the fresh ones first."""
        calls = [*self.fresh.copy(), *self._retries.calls()]
        for lane in self._lanes.values():
            calls += lane.calls.calls()
        return [call for call in calls if not call.done()]

    # -- when there is something to do -----------------------------------------------------------

    def is_ready(self, now: float) -> bool:
        """Return whether `take` would return a call."""
        if len(self.fresh) > len(self._gone_fresh):
            return True
        due_at = self.first_due_at()
        return due_at is not None and due_at <= now

    def first_due_at(self) -> float | None:
        """Return when there will be something to do by itself: a retry is due, or a lane opens.

        Infinity stands for a lane that somebody else will open; ``None`` if there is nothing.
        """
        first = self._retries.first()
        times = [] if first is None else [first[0]]
        if self._lanes:
            times += [lane.acts_at() for lane in self._lanes.values() if len(lane.calls)]
        return min(times, default=None)

    def opens_at(self, now: float) -> float | None:
        """Return when the first of the lanes opens that are closed at *now*; ``None`` if nobody knows."""
        times = [lane.opens_at for lane in self._lanes.values() if len(lane.calls)]
        return min((time for time in times if now < time < math.inf), default=None)

    # -- calls come and go -----------------------------------------------------------------------

    def add_retry(self, call: Call, due_at: float) -> bool:
        """Put a call in backoff until *due_at*; return whether it is now the first of them."""
        return self._retries.add(call, due_at)

    def take(self, now: float, claim: Callable[[Call, float], Claim]) -> Call | None:
        """Return the call whose turn it is, no longer in the schedule; ``None`` if none is ready.

        Or if it has put so many calls in lanes that others should have the lock now. Then there are fresh
        calls left, and it is to be called again.

        Args:
            now: What time it is.
            claim: Given a call and *now*, makes it one that does not wait any more; or returns ``False`` if
                it is done, or a refusal if its upstream lets none through. Until then it can be cancelled, so
                it stays in its place.
        """
        retries, patience = self._retries, _MOST_DEFERRED
        while patience:
            lane = self._first_lane(now) if self._lanes else None
            first = retries.first()
            if lane is not None:
                taken = lane.take(now, claim)
                if taken is not None:
                    self.lane_of.pop(taken, None)
                    return taken
            elif first is not None and first[0] <= now:
                due_at, _, call = first
                claimed = claim(call, now)
                retries.pop()
                if claimed is True:
                    return call
                if claimed is not False:  # else an interruption has left it here, taken
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
                if claimed is False:
                    self.drop(call)
                else:
                    self._defer(call, math.inf, claimed)
                    patience -= 1
        return None

    def place_of(self, call: Call, *, retried: bool) -> tuple[set[Call], Retries | None]:
        """Return in which set to note a call that waits when it has become done, and what to tidy up then.

        Args:
            call: A call in the schedule.
            retried: Whether it came by `add_retry`.

        Returns:
            The set; and the heap, if it is in one, whose `Retries.drop_gone` is to be called afterwards.
        """
        lane = self.lane_of.get(call)
        if lane is None and not retried:
            return self._gone_fresh, None
        retries = self._retries if lane is None else lane.calls
        return retries.gone, retries

    def drop(self, call: Call) -> None:
        """A call that was taken from the front of ``fresh`` turned out to be done."""
        self._gone_fresh.discard(call)

    def is_gone(self, call: Call) -> bool:
        """Return whether a fresh call was noted as gone, and not dropped yet."""
        return call in self._gone_fresh

    def has_untried(self, call: Call) -> bool:
        """Return whether a call waits for its first attempt: in time proportional to the queue."""
        return call._attempts == 0 and (call in self.lane_of or call in self.fresh)

    @property
    def is_littered(self) -> bool:
        """Whether more of the fresh calls are gone than live."""
        return 2 * len(self._gone_fresh) > len(self.fresh)

    def tidy(self) -> None:
        """Drop the fresh calls that are gone; only while nobody else takes any."""
        fresh, calls = self.fresh, list(self.fresh)  # others may append meanwhile: these stay the first
        gone = self._gone_fresh.intersection(calls)
        live = [call for call in reversed(calls) if call not in gone]
        drop = islice(iter(fresh.popleft, None), len(calls))
        try:
            deque(drop, maxlen=0)  # in one step, as to interruptions
        finally:  # without a branch, since Python 3.10 runs signal handlers at these, too
            self._gone_fresh -= gone
            fresh.extendleft(live)
        if not self._gone_fresh:
            self._gone_fresh.clear()  # or it would keep the memory of what was in it

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
        opens_at = -math.inf if lane is None or self.lane_of.get(call) is lane else lane.opens_at
        if call._attempts:
            until = max(call._began_at + max_elapsed, now)  # sums may be rounded
        else:
            until = now + max_elapsed if places.is_down else math.inf
        return opens_at, min(until, call._expires_at)

    def _defer(self, call: Call, due_at: float, refusal: Refusal) -> None:
        """Put a call whose turn has come in its lane."""
        places, opens_at, until = refusal
        lane = self.lane(places)
        if lane is None:
            lane = self._lanes[places] = Lane(places, self._ticket)
        lane.opens_at = opens_at
        call._wait_until(until)
        self.lane_of[call] = lane
        lane.add(call, due_at)

    def _first_lane(self, now: float) -> Lane | None:
        """Return the lane whose first call comes before all others, if it is open."""
        for lane in self._lanes.values():
            if lane.gives_up_at <= now:
                for call in lane.give_up(now):  # they need no more than to be told
                    self.lane_of.pop(call, None)
                    self._retries.add(call, call._waits_until)
        retry = self._retries.first()
        best = (math.inf, math.inf) if retry is None or retry[0] > now else retry[:2]
        first = None
        for places, lane in list(self._lanes.items()):
            entry = lane.calls.first()
            if entry is None:
                del self._lanes[places]
            elif lane.opens_at <= now and entry[:2] < best:
                first, best = lane, entry[:2]
        return first
