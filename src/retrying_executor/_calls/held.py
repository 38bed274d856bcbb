"""The calls that are held up: in lanes, at the barriers of the upstreams that have refused them.

Pure, as all of the schedule. As long as lanes wait at a barrier, it is in one of two rankings: the open or
the closed ones. It is added to the one before it is removed from the other, so that an interruption in
between loses no lane.
"""

from __future__ import annotations

import math

from retrying_executor._calls.lanes import Barrier, Lane
from retrying_executor._calls.ranking import Ranking

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from retrying_executor._calls.call import Call
    from retrying_executor._calls.lanes import Claim, Refusal, Route
    from retrying_executor._calls.retries import Entry
    from retrying_executor._upstream.places import Places

_MOST_MOVES = 4  # of a lane between barriers, before an upstream is kept for its first call, see `Held._keep`
_FIRST_KEEP = 0.1  # seconds for which it is kept; then twice as long each time
_LONGEST_KEEP = 10.0  # seconds


class Held:
    """Calls whose turn came while one of their upstreams let none through.

    Args:
        ticket: Numbers the calls, for the order of ties: see `Retries`.
    """

    __slots__ = ("_barriers", "_closed", "_deadlines", "_lanes", "_open", "_renounced", "_ticket", "lane_of")

    def __init__(self, ticket: Callable[[], int]) -> None:
        self._ticket = ticket
        self._lanes: dict[Route, Lane] = {}
        self._deadlines: Ranking[Lane] = Ranking()  # by `Lane.gives_up_at`
        self._barriers: dict[Places, Barrier] = {}  # each is in one of the next two, as long as it has lanes
        self._closed: Ranking[Barrier] = Ranking()  # by the time at which they open, or earlier
        self._open: Ranking[Barrier] = Ranking()  # by the first calls of their lanes
        self._renounced: dict[Places, None] = {}  # upstreams that have refused a call which waits no more
        self.lane_of: dict[Call, Lane] = {}
        """The lane of each call that waits in one, or has just become done there."""

    # -- how many there are, and when there is something to do -----------------------------------

    def __len__(self) -> int:
        """Return the number of calls."""
        return len(self.lane_of)

    @property
    def has_lanes(self) -> bool:
        """Whether there are lanes; the calls in them may have gone a moment ago."""
        return bool(self._lanes)

    @property
    def has_open_lanes(self) -> bool:
        """Whether calls that were held up may start now."""
        return self._open.first() is not None

    @property
    def has_renounced(self) -> bool:
        """Whether `renounce` may have something to return."""
        return bool(self._renounced)

    def lanes(self) -> list[Lane]:
        """Return the lanes that have calls."""
        # A copy first: a destructor may change the lanes meanwhile, or get here in the middle of a change.
        return [lane for lane in list(self._lanes.values()) if len(lane.calls)]

    def count_closed(self, now: float) -> int:
        """Return how many calls have to wait at *now*: in time proportional to the lanes."""
        return sum(len(lane.calls) for lane in self.lanes() if lane.barrier.reopens_at > now)

    def first_due_at(self) -> float | None:
        """Return when time alone gives something to do here, or earlier; ``None`` if it never does.

        Infinity stands for a barrier that its upstream will open, at a time not known yet.
        """
        if self.has_open_lanes:
            return -math.inf
        closed, late = self._closed.first(), self._deadlines.first()
        return min([entry[0][0] for entry in (closed, late) if entry is not None], default=None)

    # -- what upstreams say ----------------------------------------------------------------------

    def is_awaited(self, places: Places) -> bool:
        """Return whether calls wait at the barrier of an upstream."""
        barrier = self._barriers.get(places)
        if barrier is None or barrier.first_lane() is not None:
            return barrier is not None
        self._drop(barrier)
        return False

    def renounce(self, *, are_all: bool) -> list[Places]:
        """Return the upstreams that may keep a permit, or a place in line, for a call that waits no more.

        Each is returned once.

        Args:
            are_all: Whether no call will start any more, so that all upstreams with barriers are meant.
        """
        renounced = list({**self._renounced, **(self._barriers if are_all else {})})
        self._renounced.clear()
        return renounced

    def notice(self, places: Places, opens_at: float, now: float) -> bool:
        """An upstream lets calls through from *opens_at* on; return whether any call waits for it."""
        if not self.is_awaited(places):
            return False
        barrier = self._barriers[places]
        self._notice_state(barrier, now)
        barrier.open_by(opens_at)
        self._reclassify(barrier, now)
        return True

    def may_ask_from(self, call: Call, places: Places, first_retry: Entry | None) -> float:
        """Return from when on a call whose turn it is may ask an upstream that may have refused others.

        At once, if the call comes before those: it may weigh less, or be the probe.

        Args:
            call: The call.
            places: The upstream.
            first_retry: The first entry of the heap of retries; it may be that of *call*.
        """
        barrier, lane = self._barriers.get(places), self.lane_of.get(call)
        if barrier is None or (lane is not None and lane.barrier is barrier):
            return -math.inf
        first = barrier.first_entry()
        own = first_retry if lane is None else lane.calls.first()
        if first is not None and own is not None and own[2] is call:
            due_at = own[0] if call._attempts else -math.inf if barrier.is_down else math.inf
            if (due_at, own[1]) < first[:2]:
                return -math.inf
        return barrier.opens_at()

    # -- calls come and go -----------------------------------------------------------------------

    def add(self, call: Call, due_at: float, refusal: Refusal, now: float) -> None:
        """Put a call that was refused in a lane; *due_at* is infinity if it had no attempt."""
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

    def first_lane(self, now: float, retry: Entry | None) -> Lane | None:
        """Return the lane whose first call comes before all others, if its barrier is open.

        Args:
            now: What time it is.
            retry: The first entry of the heap of retries. If it is due and comes before all lanes, the answer
                is ``None``.
        """
        while (closed := self._closed.first()) is not None and closed[0][0] <= now:
            self._reclassify(closed[1], now)
        while (entry := self._open.first()) is not None:
            key, barrier = entry
            self._notice_state(barrier, now)
            first = barrier.first_entry()
            if first is None or first[:2] != key:
                self._reclassify(barrier, now)
                continue
            is_later = retry is not None and retry[0] <= now and retry[:2] < key
            return None if is_later else self.lane_of[first[2]]
        return None

    def take_from(self, lane: Lane, now: float, claim: Callable[[Call, float], Claim]) -> Call | None:
        """Take the first call out of a lane; ``None`` if it is refused or done."""
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
        self._reclassify(lane.barrier, now)
        return call if claimed else None  # else an interruption left a claimed call here

    def passed(self, call: Call, now: float) -> None:
        """A call was let through: ask its upstreams again for the calls that they have refused.

        When a core starts a call, it loses its place in the lines of the call's upstreams. So a heavier call
        that waits there has to ask again, to get the core a new place.
        """
        is_late = call._waits_until <= now  # then it was given up, and has asked no upstream
        for places in call._terms.places if self._barriers and not is_late else ():
            barrier = self._barriers.get(places)
            if barrier is not None:
                barrier.ask_again()
                self._reclassify(barrier, now)

    def give_up(self, now: float, take_over: Callable[[Call, float], object]) -> None:
        """Move calls that have waited for too long out of their lanes. They need no permit to give up.

        Args:
            now: What time it is.
            take_over: Called with each such call, and the time until which it waited.
        """
        while (late := self._deadlines.first()) is not None and late[0][0] <= now:
            self._give_up(late[1], now, take_over)

    def _give_up(self, lane: Lane, now: float, take_over: Callable[[Call, float], object]) -> None:
        while (call := lane.first_late(now, lambda one: self.lane_of.get(one) is lane)) is not None:
            self.release(call)
            take_over(call, call._waits_until)
            self.lane_of.pop(call, None)
            lane.calls.gone.add(call)
        lane.calls.drop_gone()
        self._note_gives_up_at(lane)
        lane.barrier.arrange(lane, now)
        self.drop_if_empty(lane)
        self._reclassify(lane.barrier, now)

    def release(self, call: Call) -> None:
        """A call that waits in a lane will not start: what its upstream keeps for it is to be given back."""
        barrier = self.lane_of[call].barrier
        if barrier.has_refused(call):
            self._renounced[barrier.places] = None
            barrier.ask_again()
            self._closed.put(barrier, -math.inf)

    def drop_if_empty(self, lane: Lane) -> None:
        """Drop a lane without calls, and its barrier if that was its last lane.

        This does not wait until the lane gets to the front of its barrier. The barrier may stay closed for
        long, and meanwhile empty lanes would pile up there.
        """
        if not len(lane.calls):
            lane.barrier.lanes.drop(lane)
            self._forget(lane)
            if not len(lane.barrier.lanes):
                self._drop(lane.barrier)

    # -- lanes and barriers ----------------------------------------------------------------------

    def _hold_up(self, lane: Lane, call: Call, barrier: Barrier, opens_at: float, now: float) -> None:
        """Let a lane wait at the barrier of the upstream that has refused a call of it."""
        before, lane.barrier = lane.barrier, barrier
        barrier.arrange(lane, now)
        if before is not barrier:
            before.lanes.drop(lane)
            self._reclassify(before, now)
        first = barrier.first_entry()
        if first is not None and first[2] is call:
            barrier.close(call, opens_at)
        self._note_gives_up_at(lane)
        self._reclassify(barrier, now)

    def _keep(self, barrier: Barrier, lane: Lane, now: float) -> None:
        """Keep the upstream of *barrier* free for a lane that has just moved to another barrier.

        That call needs room in both upstreams at the same moment. If each is always busy with calls that do
        not need the other, that moment may never come. So after some moves the one upstream waits for the
        other, for longer each time.
        """
        lane.moves += 1
        times = lane.moves - _MOST_MOVES
        is_any_down = barrier.is_down or lane.barrier.is_down
        if times >= 0 and not is_any_down and barrier.places in self._barriers:
            barrier.kept_until = now + min(_FIRST_KEEP * 2.0 ** min(times, 64), _LONGEST_KEEP)
            self._reclassify(barrier, now)

    def _barrier(self, places: Places) -> Barrier:
        barrier = self._barriers.get(places)
        if barrier is None:
            barrier = self._barriers[places] = Barrier(places, self._forget)
        return barrier

    def _forget(self, lane: Lane) -> None:
        """Forget a lane, which is empty."""
        self._lanes.pop(lane.route, None)
        self._deadlines.drop(lane)

    def _notice_state(self, barrier: Barrier, now: float) -> None:
        """If an upstream went down, or works again, re-order the lanes at its barrier."""
        if barrier.notice(now):
            for lane in barrier.lanes.items():
                self._note_gives_up_at(lane)

    def _note_gives_up_at(self, lane: Lane) -> None:
        """Rank a lane by when its calls give up waiting."""
        if lane.gives_up_at < math.inf:
            self._deadlines.put(lane, lane.gives_up_at)
        else:
            self._deadlines.drop(lane)

    def _reclassify(self, barrier: Barrier, now: float) -> None:
        """Put a barrier among the open or the closed ones; drop it if no call waits there."""
        first = barrier.first_entry()
        if first is None:
            self._drop(barrier)
        elif (opens_at := barrier.opens_at()) <= now:
            self._open.put(barrier, *first[:2])  # before it is removed there: see above
            self._closed.drop(barrier)
        else:
            self._closed.put(barrier, opens_at)
            self._open.drop(barrier)

    def _drop(self, barrier: Barrier) -> None:
        """Drop a barrier, which has no lanes any more."""
        self._barriers.pop(barrier.places, None)
        self._closed.drop(barrier)
        self._open.drop(barrier)
