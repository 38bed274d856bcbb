"""Which call is next, and when: a queue of fresh calls, a heap of retries, and lanes of calls held up.

Pure: no threads, no clock, no randomness. Its user says what happened together with *now*, and holds the
core's lock. Times are seconds on one clock, real or virtual.

- Due retries come before fresh calls; retries in the order of their due times, ties in the order in which
  they were scheduled; fresh calls in the order in which they were added.
- A call that one of its *upstreams* refuses when its turn comes leaves the queue or the heap, and waits in a
  *lane*, at the *barrier* of that upstream. Calls to other upstreams pass it by. When the barrier opens, the
  calls of its lanes come in the order above: they have waited longer than any fresh call.
- A call that is done before its turn (cancelled) stays in its place and is noted as gone. It is dropped when
  it gets to the front, or when more calls in that place are gone than live. So cancelling costs amortised
  constant time, and memory stays proportional to the live calls.
- Any thread may append to ``fresh`` at any time, without the lock, and each worker takes from its front under
  its own lock. So ``fresh`` is never replaced, and no code relies on what its front is. Only `compact`, and
  virtual time, take out calls behind the first.
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

    __slots__ = ("_retries", "fresh", "gone_fresh", "held")

    def __init__(self) -> None:
        self.fresh: deque[Call] = deque()
        ticket = count().__next__
        self._retries = Retries(ticket)
        self.gone_fresh: set[Call] = set()
        """The fresh calls that are done, and were not taken out of their queue yet."""
        self.held = Held(ticket)
        """The calls that their upstreams have refused."""

    # -- how many there are ----------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of live calls; see `count_fresh`."""
        return max(0, self.count_fresh() + self.count_others())

    def count_fresh(self) -> int:
        """Return the number of calls that wait for their first attempt, and not in a lane.

        It is negative for a moment when a worker has taken a call that is gone, and has not dropped it yet.
        """
        return len(self.fresh) - len(self.gone_fresh)

    def count_others(self) -> int:
        """Return the number of retries, and of calls in lanes."""
        return len(self._retries) + len(self.held)

    def count_ready(self, now: float) -> int:
        """Return how many calls could start now: in time proportional to the retries that are due."""
        return self.count_fresh() + self.count_due(now)

    def count_due(self, now: float) -> int:
        """Return how many retries are due, and how many calls wait at open barriers."""
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
        """Return whether `take` has something to do: to return a call, or to ask an upstream."""
        if len(self.fresh) > len(self.gone_fresh):
            return True
        due_at = self.first_due_at()
        return due_at is not None and due_at <= now

    def first_due_at(self) -> float | None:
        """Return when time alone gives `take` something to do: a retry is due, or a barrier opens.

        It may be too early, where a call that was to come first is done already. Infinity stands for a
        barrier that its upstream will open, at a time not known yet; ``None``: nothing waits for a time.
        """
        retry, held = self._retries.first(), self.held.first_due_at()
        if retry is None or (held is not None and held <= retry[0]):
            return held
        return retry[0]

    def opens_at(self, now: float) -> float | None:
        """Return when the first barrier opens that is closed at *now*; ``None`` if none has a known time."""
        times = [lane.barrier.reopens_at for lane in self.held.lanes()]
        return min((time for time in times if now < time < math.inf), default=None)

    def next_due_at(self) -> float | None:
        """Return when a call is due next: in time proportional to the lanes; ``None`` if unknown."""
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

        Also ``None`` after many refusals, so that other threads get the lock. Then fresh calls are left, or
        `Held.has_open_lanes` is true, and the caller is to call this again.

        Args:
            now: What time it is.
            claim: Given a call and *now*, claims it and returns ``True``; or returns ``False`` if the call is
                done, or a refusal if one of its upstreams does not let it through. Before that the call can
                be cancelled, so it stays in its place.
        """
        retries, held, refusals_left = self._retries, self.held, _MOST_DEFERRED
        while refusals_left:
            if held.has_lanes:
                held.give_up(now, retries.add)
            first = retries.first()
            lane = held.first_lane(now, first) if held.has_lanes else None
            if lane is not None:
                taken = held.take_from(lane, now, claim)
                if taken is not None:
                    held.passed(taken, now)
                    return taken
                refusals_left -= 1
            elif first is not None and first[0] <= now:
                due_at, _, call = first
                claimed = claim(call, now)
                retries.pop()
                if claimed is True:
                    held.passed(call, now)
                    return call
                if claimed is not False:  # else an interruption left a claimed call here
                    held.add(call, due_at, claimed, now)
            else:
                try:
                    call = self.fresh.popleft()
                except IndexError:
                    return None
                try:
                    claimed = claim(call, now)
                except BaseException:  # an interruption: the call must not be lost
                    self.fresh.appendleft(call)
                    raise
                if claimed is True:
                    held.passed(call, now)
                    return call
                if claimed is False:
                    self.drop(call)
                else:
                    held.add(call, math.inf, claimed, now)
                    refusals_left -= 1
        return None

    def place_of(self, call: Call, *, retried: bool) -> tuple[set[Call], Retries | None]:
        """Return in which set a call that waits is to be noted when it is done, and what to clean up then.

        Args:
            call: A call in the schedule.
            retried: Whether it came by `add_retry`.

        Returns:
            The set; and the heap that the call is in, if it is in one, for `clean_up` afterwards.
        """
        lane = self.held.lane_of.get(call)
        if lane is None and not retried:
            return self.gone_fresh, None
        if lane is not None:
            self.held.release(call)  # before the call is done: an interruption after that would skip this
        retries = self._retries if lane is None else lane.calls
        return retries.gone, retries

    def clean_up(self, lane: Lane | None, retries: Retries | None) -> None:
        """A call that waited is done, and has been noted as gone in its place; see `place_of`.

        Args:
            lane: The lane that the call was in, or ``None``.
            retries: The heap that it is in, or ``None``.
        """
        if retries is not None:
            retries.drop_gone()
        if lane is not None:
            self.held.drop_if_empty(lane)

    def drop(self, call: Call) -> None:
        """A call that was taken from the front of ``fresh`` turned out to be done."""
        self.gone_fresh.discard(call)

    def is_gone(self, call: Call) -> bool:
        """Return whether a fresh call was noted as gone, and not dropped yet."""
        return call in self.gone_fresh

    def has_untried(self, call: Call) -> bool:
        """Return whether a call waits for its first attempt: in time proportional to the queue."""
        return call._attempts == 0 and (call in self.held.lane_of or call in self.fresh)

    @property
    def is_mostly_gone(self) -> bool:
        """Whether more of the fresh calls are gone than live."""
        return 2 * len(self.gone_fresh) > len(self.fresh)

    def compact(self) -> None:
        """Drop the fresh calls that are gone. At a standstill only: no worker may take one meanwhile."""
        fresh, calls = self.fresh, list(self.fresh)  # submitters may append meanwhile, behind these
        gone = self.gone_fresh.intersection(calls)
        live = [call for call in reversed(calls) if call not in gone]
        drop = islice(iter(fresh.popleft, None), len(calls))
        try:
            deque(drop, maxlen=0)  # one call in C: no signal handler runs before it is through
        finally:  # without a branch, since Python 3.10 runs signal handlers at these, too
            self.gone_fresh -= gone
            fresh.extendleft(live)
        if not self.gone_fresh:
            self.gone_fresh.clear()  # or it would keep the memory of what was in it

    # -- upstreams -------------------------------------------------------------------------------

    def may_ask_from(self, call: Call, places: Places) -> float:
        """Return from when on a call whose turn it is may ask an upstream; see `Held.may_ask_from`."""
        return self.held.may_ask_from(call, places, self._retries.first())

    def waits_until(self, call: Call, now: float) -> float:
        """Return until when a call whose turn it is may wait for its upstreams."""
        elapsed = call._terms.max_elapsed
        if call._attempts:
            until = max(call._began_at + elapsed, now)  # sums may be rounded
        else:
            until = now + elapsed if any(places.is_down for places in call._terms.places) else math.inf
        return min(until, call._expires_at)
