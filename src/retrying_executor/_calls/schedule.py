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

from retrying_executor._calls.lanes import Barrier, Lane
from retrying_executor._calls.ranking import Ranking
from retrying_executor._calls.retries import Retries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from retrying_executor._calls.call import Call
    from retrying_executor._calls.lanes import Claim, Refusal, Route
    from retrying_executor._upstream.places import Places

_MOST_MOVES = 4  # of a call between upstreams, before one of these is kept for it,
_FIRST_KEEP = 0.1  # seconds at first, then twice as long each time,
_LONGEST_KEEP = 10.0  # seconds at most
_MOST_DEFERRED = 1000  # fresh calls put in lanes in one go, which takes some milliseconds


class Schedule:
    """The calls that wait."""

    __slots__ = (
        "_barriers",
        "_closed",
        "_gone_fresh",
        "_impatient",
        "_lanes",
        "_open",
        "_retries",
        "_ticket",
        "fresh",
        "lane_of",
        "renounced",
    )

    def __init__(self) -> None:
        self.fresh: deque[Call] = deque()
        self._ticket = count().__next__
        self._retries = Retries(self._ticket)
        self._gone_fresh: set[Call] = set()
        self._lanes: dict[Route, Lane] = {}
        self._impatient: Ranking[Lane] = Ranking()  # by the time at which calls may have waited for too long
        self._barriers: dict[Places, Barrier] = {}  # each is closed or open, as long as it has lanes:
        self._closed: Ranking[Barrier] = Ranking()  # by the time at which they open, or sooner
        self._open: Ranking[Barrier] = Ranking()  # by the first calls of their lanes
        self.lane_of: dict[Call, Lane] = {}
        """The lane of each call that waits in one, or has just become done there."""
        self.renounced: dict[Places, None] = {}
        """Upstreams that have refused a call which waits no more: they may keep something for it."""

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
        return len(self._retries) + len(self.lane_of)

    def count_ready(self, now: float) -> int:
        """Return how many calls could start now: in time proportional to the retries that are due."""
        return self.count_fresh() + self.count_due(now)

    def count_due(self, now: float) -> int:
        """Return how many of them are due retries, or in lanes that are open."""
        in_lanes = len(self.lane_of) - self.count_held(now) if self._lanes else 0
        return in_lanes + self._retries.count_due(now)

    def count_held(self, now: float) -> int:
        """Return how many calls are held up at *now*: in time proportional to the lanes."""
        lanes = list(self._lanes.values())  # a destructor may count them in the middle of a change
        return sum(len(lane.calls) for lane in lanes if lane.barrier.reopens_at > now)

    def waiting(self) -> list[Call]:
        """Return all live calls, the fresh ones first."""
        calls = [*self.fresh.copy(), *self._retries.calls()]
        for lane in self._lanes.values():
            calls += lane.calls.calls()
        return [call for call in calls if not call.done()]

    # -- when there is something to do -----------------------------------------------------------

    def is_ready(self, now: float) -> bool:
        """Return whether `take` would return a call, or have to look whether it can."""
        if len(self.fresh) > len(self._gone_fresh):
            return True
        due_at = self.first_due_at()
        return due_at is not None and due_at <= now

    @property
    def has_open_lanes(self) -> bool:
        """Whether calls may start that were held up."""
        return self._open.first() is not None

    def first_due_at(self) -> float | None:
        """Return when there will be something to do by itself: a retry is due, or a barrier opens.

        Or sooner, if a call is done that others waited for. Infinity stands for a barrier that somebody else
        will open; ``None`` if there is nothing.
        """
        first = self._retries.first()
        times = [] if first is None else [first[0]]
        if self._lanes:
            if self.has_open_lanes:
                return -math.inf
            closed, impatient = self._closed.first(), self._impatient.first()
            times += [entry[0][0] for entry in (closed, impatient) if entry is not None]
        return min(times, default=None)

    def opens_at(self, now: float) -> float | None:
        """Return when the first barrier opens that is closed at *now*; ``None`` if nobody knows."""
        times = [lane.barrier.reopens_at for lane in list(self._lanes.values()) if len(lane.calls)]
        return min((time for time in times if now < time < math.inf), default=None)

    def next_due_at(self) -> float | None:
        """Return when a call is due next: in time proportional to the lanes; ``None`` if nobody knows."""
        first = self._retries.first()
        times = [math.inf if first is None else first[0]]
        for lane in list(self._lanes.values()):
            if len(lane.calls):
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
        left, or `has_open_lanes` is true, and it is to be called again.

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
                taken = self._take_from(lane, now, claim)
                if taken is not None:
                    return taken
                patience -= 1
            elif first is not None and first[0] <= now:
                due_at, _, call = first
                claimed = claim(call, now)
                retries.pop()
                if claimed is True:
                    return self._passed(call, now)
                if claimed is not False:  # else an interruption has left it here, taken
                    self._defer(call, due_at, claimed, now)
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
                    return self._passed(call, now)
                if claimed is False:
                    self.drop(call)
                else:
                    self._defer(call, math.inf, claimed, now)
                    patience -= 1
        return None

    def place_of(self, call: Call, *, retried: bool) -> tuple[set[Call], Retries | None]:
        """Return in which set to note a call that waits when it has become done, and what to tidy up then.

        Args:
            call: A call in the schedule.
            retried: Whether it came by `add_retry`.

        Returns:
            The set; and the heap, if it is in one: `leave` is to be called with that afterwards.
        """
        lane = self.lane_of.get(call)
        if lane is None and not retried:
            return self._gone_fresh, None
        if lane is not None:
            self._release(lane.barrier, call)  # before it is done: an interruption may come after it
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
            self._drop_if_empty(lane)

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

    def is_awaited(self, places: Places) -> bool:
        """Return whether calls wait for an upstream."""
        barrier = self._barriers.get(places)
        if barrier is None or barrier.first_lane() is not None:
            return barrier is not None
        self._drop(barrier)
        return False

    def renounce(self, *, are_all: bool) -> list[Places]:
        """Return the upstreams that may keep something for a call that waits no more; the next time, others.

        Args:
            are_all: Whether no call will start any more.
        """
        renounced = list({**self.renounced, **(self._barriers if are_all else {})})
        self.renounced.clear()
        return renounced

    def notice(self, places: Places, opens_at: float, now: float) -> bool:
        """An upstream lets calls through from then on; return whether any wait for that."""
        if not self.is_awaited(places):
            return False
        barrier = self._barriers[places]
        self._notice_state(barrier, now)
        barrier.open_at(opens_at)
        self._look_at(barrier, now)
        return True

    def opens_to(self, call: Call, places: Places) -> float:
        """Return from when on a call whose turn it is may ask an upstream, which may have refused others.

        At once, if it comes before these: it may weigh less than they do, or be the probe.
        """
        barrier, lane = self._barriers.get(places), self.lane_of.get(call)
        if barrier is None or (lane is not None and lane.barrier is barrier):
            return -math.inf
        first, own = barrier.first_entry(), (self._retries if lane is None else lane.calls).first()
        if first is not None and own is not None and own[2] is call:
            due_at = own[0] if call._attempts else -math.inf if barrier.is_down else math.inf
            if (due_at, own[1]) < first[:2]:
                return -math.inf
        return barrier.opens_at()

    def waits_until(self, call: Call, now: float) -> float:
        """Return until when a call whose turn it is may wait for its upstreams."""
        elapsed = call._terms.max_elapsed
        if call._attempts:
            until = max(call._began_at + elapsed, now)  # sums may be rounded
        else:
            until = now + elapsed if any(places.is_down for places in call._terms.places) else math.inf
        return min(until, call._expires_at)

    def _defer(self, call: Call, due_at: float, refusal: Refusal, now: float) -> None:
        """Put a call whose turn has come in a lane."""
        places, opens_at, until = refusal
        call._wait_until(until)
        route = call._terms.places
        lane = self._lanes.get(route)
        if lane is None:
            lane = self._lanes[route] = Lane(route, self._ticket)
            lane.barrier = self._barrier(places)
        self.lane_of[call] = lane
        lane.add(call, due_at)
        first = lane.calls.first()
        is_first = first is not None and first[2] is call
        self._hold_up(lane, call, self._barrier(places) if is_first else lane.barrier, opens_at, now)

    def _take_from(self, lane: Lane, now: float, claim: Callable[[Call, float], Claim]) -> Call | None:
        """Return the first call of a lane, no longer in there; ``None`` if it is refused."""
        first = lane.calls.first()
        assert first is not None
        call = first[2]
        claimed = claim(call, now)
        if not isinstance(claimed, bool):
            places, opens_at, _ = claimed
            before = lane.barrier
            self._hold_up(lane, call, self._barrier(places), opens_at, now)
            if lane.barrier is not before:
                self._keep(before, lane, now)
            return None
        lane.moves = 0
        lane.calls.pop()
        self.lane_of.pop(call, None)
        lane.barrier.arrange(lane, now)
        self._look_at(lane.barrier, now)
        return self._passed(call, now) if claimed else None  # else an interruption has left it here, taken

    def _keep(self, barrier: Barrier, lane: Lane, now: float) -> None:
        """Keep an upstream for the first call of a lane, which goes from its barrier to another once more.

        Both would have to have room at the same moment. Where each is always busy with calls that do not need
        the other, that may never be: so after some moves the one waits for the other, for longer each time.
        """
        lane.moves += 1
        times = lane.moves - _MOST_MOVES
        is_any_down = barrier.is_down or lane.barrier.is_down
        if times >= 0 and not is_any_down and barrier.places in self._barriers:
            barrier.kept_until = now + min(_FIRST_KEEP * 2.0 ** min(times, 64), _LONGEST_KEEP)
            self._look_at(barrier, now)

    def _passed(self, call: Call, now: float) -> Call:
        """A call was let through: its upstreams are to be asked again for those that they have refused.

        A core that starts a call leaves its place in the lines of these. So where a call that weighs more
        waits there, it has to ask for a place again.
        """
        if not self._barriers or call._waits_until <= now:  # that needs no more
            return call
        for places in call._terms.places:
            barrier = self._barriers.get(places)
            if barrier is not None:
                barrier.ask_again()
                self._look_at(barrier, now)
        return call

    def _release(self, barrier: Barrier, call: Call) -> None:
        """A call that waits at a barrier will not start."""
        if barrier.has_refused(call):
            self.renounced[barrier.places] = None
            barrier.ask_again()
            self._closed.put(barrier, -math.inf)

    def _hold_up(self, lane: Lane, call: Call, barrier: Barrier, opens_at: float, now: float) -> None:
        """Have a lane wait at a barrier, since one of its calls was refused there, until that opens."""
        before, lane.barrier = lane.barrier, barrier
        barrier.arrange(lane, now)
        if before is not barrier:
            before.lanes.drop(lane)
            self._look_at(before, now)
        first = barrier.first_entry()
        if first is not None and first[2] is call:
            barrier.close(call, opens_at)
        self._note_patience(lane)
        self._look_at(barrier, now)

    def _barrier(self, places: Places) -> Barrier:
        barrier = self._barriers.get(places)
        if barrier is None:
            barrier = self._barriers[places] = Barrier(places, self._forget)
        return barrier

    def _forget(self, lane: Lane) -> None:
        """A lane is empty."""
        self._lanes.pop(lane.route, None)
        self._impatient.drop(lane)

    def _drop_if_empty(self, lane: Lane) -> None:
        """Drop a lane that has no calls any more, and its barrier if it was the last one there.

        Not only when it gets to the front of its barrier, which may stay closed for long, while calls come
        and go in other lanes.
        """
        if not len(lane.calls):
            lane.barrier.lanes.drop(lane)
            self._forget(lane)
            if not len(lane.barrier.lanes):
                self._drop(lane.barrier)

    def _notice_state(self, barrier: Barrier, now: float) -> None:
        """See whether an upstream went down, or works again."""
        if barrier.notice(now):
            for lane in barrier.lanes.items():
                self._note_patience(lane)

    def _note_patience(self, lane: Lane) -> None:
        """Note until when the calls of a lane may wait."""
        if lane.gives_up_at < math.inf:
            self._impatient.put(lane, lane.gives_up_at)
        else:
            self._impatient.drop(lane)

    def _look_at(self, barrier: Barrier, now: float) -> None:
        """See whether a barrier is open, closed, or not needed any more."""
        first = barrier.first_entry()
        if first is None:
            self._drop(barrier)
        elif (opens_at := barrier.opens_at()) <= now:
            self._open.put(barrier, *first[:2])  # first: an interruption must not lose it
            self._closed.drop(barrier)
        else:
            self._closed.put(barrier, opens_at)
            self._open.drop(barrier)

    def _drop(self, barrier: Barrier) -> None:
        """A barrier has no lanes any more."""
        self._barriers.pop(barrier.places, None)
        self._closed.drop(barrier)
        self._open.drop(barrier)

    def _first_lane(self, now: float) -> Lane | None:
        """Return the lane whose first call comes before all others, if its barrier is open."""
        while (late := self._impatient.first()) is not None and late[0][0] <= now:
            self._give_up(late[1], now)
        while (closed := self._closed.first()) is not None and closed[0][0] <= now:
            self._look_at(closed[1], now)
        while (entry := self._open.first()) is not None:
            key, barrier = entry
            self._notice_state(barrier, now)
            first = barrier.first_entry()
            if first is None or first[:2] != key:
                self._look_at(barrier, now)
                continue
            retry = self._retries.first()
            is_later = retry is not None and retry[0] <= now and retry[:2] < key
            return None if is_later else self.lane_of[first[2]]
        return None

    def _give_up(self, lane: Lane, now: float) -> None:
        """Have the calls of a lane be told that have waited for too long: they need no more."""
        while (call := lane.first_late(now, lambda one: self.lane_of.get(one) is lane)) is not None:
            self._release(lane.barrier, call)
            self._retries.add(call, call._waits_until)
            self.lane_of.pop(call, None)
            lane.calls.gone.add(call)
        lane.calls.drop_gone()
        self._note_patience(lane)
        lane.barrier.arrange(lane, now)
        self._drop_if_empty(lane)
        self._look_at(lane.barrier, now)
