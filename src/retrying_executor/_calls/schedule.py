"""Which call is next, and when: a queue of fresh calls, a heap of retries, and lanes of those held up.

Pure: no threads, no clock, no randomness. Its user says what happened together with *now*, and holds
the lock that guards it. Times are seconds on one clock, whichever it is.

- Due retries come before fresh calls; retries in the order of their due times, ties in the order in which
  they were scheduled; fresh calls in the order in which they were added.
- A call that may not start because of what it shares with others (its *upstreams*) leaves the queue or the
  heap when its turn comes, and waits in a *lane*, at the *barrier* of the upstream that has refused it. That
  stops nobody else; when it opens, the calls of its lanes come in the order above: they have waited longer
  than any fresh call.
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

from retrying_executor._calls.held import Held
from retrying_executor._calls.retries import Retries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from retrying_executor._calls.call import Call
    from retrying_executor._calls.lanes import Claim, Lane
    from retrying_executor._upstream.places import Places

_MOST_DEFERRED = 1000  # fresh calls put in lanes in one go, which takes some milliseconds


class Schedule:
    """The calls that wait."""

    __slots__ = ("_gone_fresh", "_retries", "fresh", "held")

    def __init__(self) -> None:
        self.fresh: deque[Call] = deque()
        ticket = count().__next__
        self._retries = Retries(ticket)
        self._gone_fresh: set[Call] = set()
        self.held = Held(ticket)
        """Those that their upstreams have refused."""

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
        return len(self._retries) + len(self.held)

    def count_ready(self, now: float) -> int:
        """Return how many calls could start now: in time proportional to the retries that are due."""
        return self.count_fresh() + self.count_due(now)

    def count_due(self, now: float) -> int:
        """Return how many of them are due retries, or in lanes that are open."""
        held_open = len(self.held) - self.held.count_closed(now) if len(self.held) else 0
        return held_open + self._retries.count_due(now)

    def waiting(self) -> list[Call]:
        """Return all live calls, the fresh ones first."""
        calls = [*self.fresh.copy(), *self._retries.calls()]
        for lane in self.held.lanes():
            calls += lane.calls.calls()
        return [call for call in calls if not call.done()]

    # -- when there is something to do -----------------------------------------------------------

    def is_ready(self, now: float) -> bool:
        """Return whether `take` would return a call, or have to look whether it can."""
        if len(self.fresh) > len(self._gone_fresh):
            return True
        due_at = self.first_due_at()
        return due_at is not None and due_at <= now

    def first_due_at(self) -> float | None:
        """Return when there will be something to do by itself: a retry is due, or a barrier opens.

        Or sooner, if a call is done that others waited for. Infinity stands for a barrier that somebody else
        will open; ``None`` if there is nothing.
        """
        retry, held = self._retries.first(), self.held.first_due_at()
        if retry is None or (held is not None and held <= retry[0]):
            return held
        return retry[0]

    def opens_at(self, now: float) -> float | None:
        """Return when the first barrier opens that is closed at *now*; ``None`` if nobody knows."""
        times = [lane.barrier.reopens_at for lane in self.held.lanes()]
        return min((time for time in times if now < time < math.inf), default=None)

    def next_due_at(self) -> float | None:
        """Return when a call is due next: in time proportional to the lanes; ``None`` if nobody knows."""
        first = self._retries.first()
        times = [math.inf if first is None else first[0]]
        for lane in self.held.lanes():
            times += [lane.barrier.reopens_at, lane.gives_up_at]
        due_at = min(times)
        return None if due_at == math.inf else due_at

    # -- calls come and go -----------------------------------------------------------------------

    def add_retry(self, call: Call, due_at: float) -> bool:
        """Put a call in backoff until *due_at*; return whether it is now the first of them."""
        return self._retries.add(call, due_at)

    def take(self, now: float, claim: Callable[[Call, float], Claim]) -> Call | None:
        """Return the call whose turn it is, no longer in the schedule; ``None`` if none is ready.

        Or if it has had so many refused that others should have the lock now. Then there are fresh calls
        left, or `Held.has_open_lanes` is true, and it is to be called again.

        Args:
            now: What time it is.
            claim: Given a call and *now*, makes it one that does not wait any more; or returns ``False`` if
                it is done, or a refusal if its upstream lets none through. Until then it can be cancelled, so
                it stays in its place.
        """
        retries, held, patience = self._retries, self.held, _MOST_DEFERRED
        while patience:
            if held.has_lanes:
                held.give_up(now, retries.add)
            first = retries.first()
            lane = held.first_lane(now, first) if held.has_lanes else None
            if lane is not None:
                taken = held.take_from(lane, now, claim)
                if taken is not None:
                    held.passed(taken, now)
                    return taken
                patience -= 1
            elif first is not None and first[0] <= now:
                due_at, _, call = first
                claimed = claim(call, now)
                retries.pop()
                if claimed is True:
                    held.passed(call, now)
                    return call
                if claimed is not False:  # else an interruption has left it here, taken
                    held.add(call, due_at, claimed, now)
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
                    held.passed(call, now)
                    return call
                if claimed is False:
                    self.drop(call)
                else:
                    held.add(call, math.inf, claimed, now)
                    patience -= 1
        return None

    def place_of(self, call: Call, *, retried: bool) -> tuple[set[Call], Retries | None]:
        """Return in which set to note a call that waits when it has become done, and what to tidy up then.

        Args:
            call: A call in the schedule.
            retried: Whether it came by `add_retry`.

        Returns:
            The set; and the heap, if it is in one: `clean_up` is to be called with that afterwards.
        """
        lane = self.held.lane_of.get(call)
        if lane is None and not retried:
            return self._gone_fresh, None
        if lane is not None:
            self.held.release(call)  # before it is done: an interruption may come after it
        retries = self._retries if lane is None else lane.calls
        return retries.gone, retries

    def clean_up(self, lane: Lane | None, retries: Retries | None) -> None:
        """A call that waited is done, and has been noted as gone in its place; see `place_of`.

        Args:
            lane: The lane that it was in, if it was in one.
            retries: The heap that it is in, if it is in one.
        """
        if retries is not None:
            retries.drop_gone()
        if lane is not None:
            self.held.drop_if_empty(lane)

    def drop(self, call: Call) -> None:
        """A call that was taken from the front of ``fresh`` turned out to be done."""
        self._gone_fresh.discard(call)

    def is_gone(self, call: Call) -> bool:
        """Return whether a fresh call was noted as gone, and not dropped yet."""
        return call in self._gone_fresh

    def has_untried(self, call: Call) -> bool:
        """Return whether a call waits for its first attempt: in time proportional to the queue."""
        return call._attempts == 0 and (call in self.held.lane_of or call in self.fresh)

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

    # -- upstreams -------------------------------------------------------------------------------

    def opens_to(self, call: Call, places: Places) -> float:
        """Return from when on a call whose turn it is may ask an upstream; see `Held.opens_to`."""
        return self.held.opens_to(call, places, self._retries.first())

    def waits_until(self, call: Call, now: float) -> float:
        """Return until when a call whose turn it is may wait for its upstreams."""
        elapsed = call._terms.max_elapsed
        if call._attempts:
            until = max(call._began_at + elapsed, now)  # sums may be rounded
        else:
            until = now + elapsed if any(places.is_down for places in call._terms.places) else math.inf
        return min(until, call._expires_at)
