"""Where calls wait whose turn came while an upstream let none through. Pure, as all of the schedule.

All calls of a lane go to the same upstreams. The lane waits at the *barrier* of the one that has refused its
first call, together with the other lanes that this one holds up. When the barrier opens, the first call of
all its lanes asks once more: it starts, or closes the barrier again, or its lane goes on to the barrier of
another upstream. So calls stay where they are, however many there are, and however often they are refused;
and a call that waits for one upstream is in nobody's way at another.
"""

from __future__ import annotations

import math
import weakref
from heapq import heapify, heappop, heappush

from retrying_executor._calls.ranking import Ranking
from retrying_executor._calls.retries import Retries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from retrying_executor._calls.call import Call
    from retrying_executor._calls.retries import Entry
    from retrying_executor._upstream.places import Places

    Route: TypeAlias = tuple[Places, ...]
    """Those of all upstreams of a call."""

    Refusal: TypeAlias = tuple[Places, float, float]
    """Whose limits forbid a start; when to ask again; and until when the call may wait for that."""

    Claim: TypeAlias = bool | Refusal
    """Whether a call was claimed, or is done; or why it may not start."""


class Barrier:
    """What holds lanes up: an upstream that has refused their calls.

    Args:
        places: Those of the upstream.
        forget: Called with each lane that is empty.
    """

    __slots__ = ("_forget", "_refused", "closed_until", "is_down", "kept_until", "lanes", "places")

    def __init__(self, places: Places, forget: Callable[[Lane], object]) -> None:
        self.places = places
        self._forget = forget
        self.is_down = places.is_down
        self.lanes: Ranking[Lane] = Ranking()  # by their first calls
        self.closed_until = -math.inf
        """When the upstream is to be asked again, for the call that it has refused."""
        self.kept_until = -math.inf
        """Until when nobody else is to ask it than a call that waits at another barrier."""
        self._refused: Call | None = None

    def first_lane(self) -> Lane | None:
        """Return the lane whose first call comes before those of all others; drop those that are empty."""
        while (entry := self.lanes.first()) is not None:
            key, lane = entry
            first = lane.calls.first()
            if first is None:
                self.lanes.drop(lane)
                self._forget(lane)
            elif first[:2] == key:
                return lane
            else:
                self.lanes.put(lane, *first[:2])
        return None

    def first_entry(self) -> Entry | None:
        """Return the entry of the first call of all its lanes."""
        lane = self.first_lane()
        return None if lane is None else lane.calls.first()

    def close(self, call: Call, until: float) -> None:
        """The upstream has refused the first call of all its lanes, and will be asked again then."""
        self._refused, self.closed_until = call, until

    def open_at(self, time: float) -> None:
        """The upstream is to be asked again at that time, or sooner."""
        self.closed_until = min(self.closed_until, time)

    def opens_at(self) -> float:
        """Return when the upstream is to be asked again.

        At once, if another call is the first than when it has refused: that may weigh less, or be the probe.
        """
        first = self.first_entry()
        if first is None or first[2] is not self._refused:
            return self.kept_until
        return self.reopens_at

    @property
    def reopens_at(self) -> float:
        """When it opens, if its first call stays the same."""
        return max(self.closed_until, self.kept_until)

    def has_refused(self, call: Call) -> bool:
        """Return whether that is the call for which the upstream was asked last."""
        return call is self._refused

    def ask_again(self) -> None:
        """The upstream is to be asked again, whichever call is the first."""
        self._refused, self.kept_until = None, -math.inf

    def notice(self, now: float) -> bool:
        """See whether the upstream went down, or works again; return whether it did."""
        if self.is_down == self.places.is_down:
            return False
        self.is_down = not self.is_down
        for lane in self.lanes.items():
            self.arrange(lane, now)
        return True

    def arrange(self, lane: Lane, now: float) -> None:
        """Put a lane in its place, with its calls in the order that the state of this upstream asks for."""
        lane.arrange(now, is_down=self.is_down)
        first = lane.calls.first()
        if first is not None:
            self.lanes.put(lane, *first[:2])


class Lane:
    """The calls of the same upstreams whose turn came while one of these let none through.

    Those without an attempt come last; but while the upstream is down they come first: one that has failed
    may fail again for a reason of its own, and then shows nothing.

    So that a service that is down for good ends every call, those without an attempt give up too when
    ``max_elapsed`` has passed: since one of the upstreams went down, or since their turn came if that was
    later; whichever of them holds up the lane meanwhile.

    Args:
        route: Those of the upstreams.
        ticket: See `Retries`.
    """

    __slots__ = ("_deadlines", "_is_down", "_ticket", "barrier", "calls", "gives_up_at", "moves", "route")

    barrier: Barrier

    def __init__(self, route: Route, ticket: Callable[[], int]) -> None:
        self.route = route
        self.calls = Retries(ticket)
        self._ticket = ticket
        self._is_down = False
        self.moves = 0  # from barrier to barrier, since a call of it has started
        # Until when calls may wait, the first one first; weak, since some have left the lane, or may wait for
        # longer by now.
        self._deadlines: list[tuple[float, int, weakref.ref[Call]]] = []
        self.gives_up_at = math.inf
        """Until when all of them may wait, or less."""

    def add(self, call: Call, due_at: float) -> None:
        """Put a call in, which is due at infinity if it had no attempt."""
        self.calls.add(call, -math.inf if due_at == math.inf and self._is_down else due_at)
        self._note_deadline(call)

    def arrange(self, now: float, *, is_down: bool) -> None:
        """Order the calls as the state of the upstream asks for that holds them up."""
        if is_down != self._is_down:
            self._is_down = is_down
            self.calls.rearrange(lambda call: self._due_at(call, now))
            self._note_deadlines()

    def _due_at(self, call: Call, now: float) -> float | None:
        """Return where a call without an attempt comes, and see until when it waits; ``None`` for others."""
        if call._attempts or call.done():
            return None
        if not any(places.is_down for places in self.route):
            call._wait_until(math.inf)
        elif call._waits_until >= call._expires_at:  # else it is known already
            call._wait_until(now + call._terms.max_elapsed)
        return -math.inf if self._is_down else math.inf

    def _note_deadline(self, call: Call) -> None:
        if call._waits_until < math.inf:
            heappush(self._deadlines, (call._waits_until, self._ticket(), weakref.ref(call)))
            self.gives_up_at = min(self.gives_up_at, call._waits_until)
            if len(self._deadlines) > 2 * len(self.calls) + 8:  # most are of calls that have left
                self._note_deadlines()

    def _note_deadlines(self) -> None:
        calls = [call for call in self.calls.calls() if call._waits_until < math.inf]
        deadlines = [(call._waits_until, self._ticket(), weakref.ref(call)) for call in calls]
        heapify(deadlines)
        self._deadlines = deadlines
        self.gives_up_at = deadlines[0][0] if deadlines else math.inf

    def first_late(self, now: float, is_here: Callable[[Call], bool]) -> Call | None:
        """Return the next call that has waited for too long; ``None`` if there are no more.

        Now is too late already: there is something to do whenever the schedule says so, or a thread would
        look in vain until the clock, which may be coarse, has moved on.

        Args:
            now: What time it is.
            is_here: Whether a call is in this lane.
        """
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now:
            call = deadlines[0][2]()
            if call is not None and call._waits_until <= now and is_here(call):
                if call._attempts or call._expires_at <= now or any(one.is_down for one in self.route):
                    return call
                call._wait_until(math.inf)  # what was down has worked again while it waited for another
                self._note_deadline(call)
            heappop(deadlines)
        self.gives_up_at = deadlines[0][0] if deadlines else math.inf
        return None
