"""Where calls wait whose turn came while an upstream let none through. Pure, as all of the schedule.

All calls of a *lane* have the same upstreams. The lane waits at the *barrier* of the upstream that has
refused its first call, together with all other lanes that this upstream holds up. When the barrier opens, the
first call of all these lanes asks once more. It starts, or the barrier closes again, or another upstream
refuses it and its lane moves to the barrier of that one. So a refusal moves no single call, however many wait
and however often they are refused. And a call that waits for one upstream delays no call to another.
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
    """All upstreams of a call, the narrowest last."""

    Refusal: TypeAlias = tuple[Places, float, float]
    """The upstream whose limits forbid a start; when to ask it again; until when the call may wait for it."""

    Claim: TypeAlias = bool | Refusal
    """``True``: the call was claimed; ``False``: it is done already; else why it may not start."""


class Barrier:
    """What holds lanes up: an upstream that has refused their calls.

    Args:
        places: The upstream.
        forget: Called with each lane that turns out to be empty.
    """

    __slots__ = ("_forget", "_refused", "closed_until", "is_down", "kept_until", "lanes", "places")

    def __init__(self, places: Places, forget: Callable[[Lane], object]) -> None:
        self.places = places
        self._forget = forget
        self.is_down = places.is_down
        self.lanes: Ranking[Lane] = Ranking()  # in the order of their first calls
        self.closed_until = -math.inf
        """When the upstream is to be asked again for the call that it has refused."""
        self.kept_until = -math.inf
        """Until when the upstream is kept free for a call that waits at another barrier: see `Held._keep`."""
        self._refused: Call | None = None

    def first_lane(self) -> Lane | None:
        """Return the lane whose first call comes before those of the other lanes; drop empty lanes."""
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
        """Return the entry of the first call of all lanes here; ``None`` if there is none."""
        lane = self.first_lane()
        return None if lane is None else lane.calls.first()

    def close(self, call: Call, until: float) -> None:
        """The upstream has refused *call*, the first of all lanes here; ask it again at *until*."""
        self._refused, self.closed_until = call, until

    def open_by(self, time: float) -> None:
        """Ask the upstream again at *time*, or sooner if that was intended."""
        self.closed_until = min(self.closed_until, time)

    def opens_at(self) -> float:
        """Return when the upstream is to be asked again.

        At once, if the first call is not the refused one any more: it may weigh less, or be the probe.
        """
        first = self.first_entry()
        if first is None or first[2] is not self._refused:
            return self.kept_until
        return self.reopens_at

    @property
    def reopens_at(self) -> float:
        """When the upstream is to be asked again, if the first call stays the refused one."""
        return max(self.closed_until, self.kept_until)

    def has_refused(self, call: Call) -> bool:
        """Return whether *call* is the one that the upstream refused last."""
        return call is self._refused

    def ask_again(self) -> None:
        """Ask the upstream again at once, whichever call is the first."""
        self._refused, self.kept_until = None, -math.inf

    def notice(self, now: float) -> bool:
        """Return whether the upstream went down or works again; if so, order the lanes anew."""
        if self.is_down == self.places.is_down:
            return False
        self.is_down = not self.is_down
        for lane in self.lanes.items():
            self.arrange(lane, now)
        return True

    def arrange(self, lane: Lane, now: float) -> None:
        """Order the calls of a lane as the state of this upstream demands, and the lane among the others."""
        lane.arrange(now, is_down=self.is_down)
        first = lane.calls.first()
        if first is not None:
            self.lanes.put(lane, *first[:2])


class Lane:
    """The calls with the same upstreams whose turn came while one of these let none through.

    Calls without an attempt come last. But while the upstream that holds up the lane is down, they come
    first, as its probe: a call that has failed before may fail again for a reason of its own.

    A service that is down for good must end every call. So calls without an attempt give up, too, when
    ``max_elapsed`` has passed since one of their upstreams went down, or since their turn came if that was
    later. It does not matter which of the upstreams holds up the lane meanwhile.

    Args:
        route: The upstreams.
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
        # A heap of the times at which calls give up waiting. An entry may be out of date: the call has left
        # the lane, which is why its reference is weak, or may wait for longer by now.
        self._deadlines: list[tuple[float, int, weakref.ref[Call]]] = []
        self.gives_up_at = math.inf
        """When the first call gives up waiting, or earlier."""

    def add(self, call: Call, due_at: float) -> None:
        """Add a call; *due_at* is infinity if it had no attempt."""
        self.calls.add(call, -math.inf if due_at == math.inf and self._is_down else due_at)
        self._note_deadline(call)

    def arrange(self, now: float, *, is_down: bool) -> None:
        """Order the calls by whether the upstream that holds them up is down."""
        if is_down != self._is_down:
            self._is_down = is_down
            self.calls.rearrange(lambda call: self._due_at(call, now))
            self._note_deadlines()

    def _due_at(self, call: Call, now: float) -> float | None:
        """Return the due time of a call without an attempt, and set when it gives up; ``None`` for others."""
        if call._attempts or call.done():
            return None
        if not any(places.is_down for places in self.route):
            call._wait_until(math.inf)
        elif call._waits_until >= call._expires_at:  # else its time to give up is known already
            call._wait_until(now + call._terms.max_elapsed)
        return -math.inf if self._is_down else math.inf

    def _note_deadline(self, call: Call) -> None:
        if call._waits_until < math.inf:
            heappush(self._deadlines, (call._waits_until, self._ticket(), weakref.ref(call)))
            self.gives_up_at = min(self.gives_up_at, call._waits_until)
            if len(self._deadlines) > 2 * len(self.calls) + 8:  # most entries are out of date
                self._note_deadlines()

    def _note_deadlines(self) -> None:
        calls = [call for call in self.calls.calls() if call._waits_until < math.inf]
        deadlines = [(call._waits_until, self._ticket(), weakref.ref(call)) for call in calls]
        heapify(deadlines)
        self._deadlines = deadlines
        self.gives_up_at = deadlines[0][0] if deadlines else math.inf

    def first_late(self, now: float, is_here: Callable[[Call], bool]) -> Call | None:
        """Return the next call that has waited for too long; ``None`` if there are no more.

        A call that gives up exactly *now* is one of them. `Schedule.first_due_at` announces that very moment;
        if nothing were to do then, a thread would look in vain until a coarse clock moves on.

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
                call._wait_until(math.inf)  # none is down any more
                self._note_deadline(call)
            heappop(deadlines)
        self.gives_up_at = deadlines[0][0] if deadlines else math.inf
        return None
