"""Which call a hand takes next, and with which permit of the call's upstreams."""

from __future__ import annotations

import math

from retrying_executor._upstream.several import ask_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Coroutine
    from typing import Any, TypeVar

    from retrying_executor._calls.call import Call, Hand, Work
    from retrying_executor._calls.lanes import Claim
    from retrying_executor._calls.schedule import Schedule
    from retrying_executor._common.values import Clock
    from retrying_executor._upstream.gate import Evidence, Permit
    from retrying_executor._upstream.places import Asker, Places
    from retrying_executor._upstream.several import JointPermit

    T = TypeVar("T")

_ASK_AGAIN_AFTER = 0.001  # seconds


class Crew:
    """What the parts of a core ask of a crew, which makes the attempts; `core.Crew` has the rest."""

    if TYPE_CHECKING:  # what each crew does in its own way

        @property
        def clock(self) -> Clock:
            """What tells the time."""
            ...

        @property
        def is_coming(self) -> bool:
            """Whether a hand will look for work without being called: it rests, or is on its way."""
            ...

        def hands(self) -> list[Hand]:
            """Return the hands: each may have a call."""
            ...

        def includes_current_thread(self) -> bool:
            """Return whether this thread makes attempts itself, and so must not wait for calls."""
            ...

        def launch(self, hand: Hand, work: Work, coroutine: Coroutine[Any, Any, Any], /) -> bool:
            """Run a coroutine, the rest of an attempt; its call and permit leave the hand.

            That may have to wait until others have landed.

            Returns:
                ``False`` if the call is done by now: then the coroutine is not run.
            """
            ...

        def call_off(self, call: Call, /) -> None:
            """The call was made done from outside: cancel the coroutine, if one of it is running."""

        def run_aside(self, core: Any, coroutine: Coroutine[Any, Any, None], /) -> None:
            """Run a coroutine of the library in the event loop. Nobody waits for that; it may be cut off."""
            ...

        def await_landings(self, core: Any, /) -> None:
            """Wait a moment for coroutines that were called off, and for the threads that they keep busy."""
            ...

    def cut_off(self, core: Any, /) -> list[str]:
        """Kill the attempts that can be killed, and wait a moment; return the names of their calls."""
        return []

    @property
    def has_landed(self) -> bool:
        """Whether there is a coroutine that has ended, and that no hand has taken up yet."""
        return False

    def due_at_changed(self, schedule: Schedule) -> None:
        """`Schedule.first_due_at` may have changed. Called under the core's lock."""

    def wake_all(self) -> None:
        """Have every thread look whether to stay. Needs no lock."""

    def abandon(self) -> None:
        """The executor is gone: see that all threads leave when their work is done. Takes no lock."""
        self.wake_all()

    def at_standstill(self, look: Callable[[bool], T]) -> T:
        """Return what *look* returns while no hand takes a call or makes one done.

        *look* gets whether all of them stand still. Called under the core's lock.
        """
        return look(True)

    def interrupted_hand(self) -> Hand | None:
        """Return the hand of this thread, if it is of this crew and in the middle of a change."""
        return None


class Turns:
    """What the hands of a core take next. Except where a method says so, its caller holds the core's lock.

    Args:
        lock: The core's.
        schedule: The calls that wait.
        crew: What makes the attempts.
        places: The upstream of every call; ``None`` if calls have none, or are mixed.
        is_mixed: Whether calls may have one upstream or another, or several, or none.
        is_limited: Whether the core has a limit on pending calls, so that submitters are to be told of each
            that is done.
        is_halted: Whether no attempt starts any more.
    """

    def __init__(
        self,
        *,
        lock: threading.RLock,
        schedule: Schedule,
        crew: Crew,
        places: Places | None,
        is_mixed: bool,
        is_limited: bool,
        is_halted: bool,
    ) -> None:
        self._lock = lock
        self._schedule = schedule
        self._crew = crew
        self.places = places
        self.is_mixed = is_mixed
        self._is_limited = is_limited
        self.is_halted = is_halted
        self.invitations: dict[Places, None] = {}
        """The upstreams that keep a permit for this core, until it asks for that or declines it."""
        self.unused: list[Permit | JointPermit] = []
        """Permits for calls that another hand took, or that were cancelled, before they could start."""
        self.only_fresh_until = -math.inf
        """Until when a hand may take fresh calls without the core's lock: there is nothing else to do."""
        self.update_only_fresh_until()

    # -- what there is to see to -----------------------------------------------------------------

    def update_only_fresh_until(self) -> None:
        """Note until when there is nothing to do but to take fresh calls."""
        schedule, is_plain = self._schedule, not (self.is_mixed or self._is_limited)
        if self.is_halted or not is_plain or schedule.held.has_lanes or self._crew.has_landed:
            self.only_fresh_until = -math.inf
            return
        due_at = schedule.first_due_at()
        self.only_fresh_until = math.inf if due_at is None else due_at

    def halt(self) -> None:
        """Let no attempt start any more."""
        self.is_halted = True
        self.update_only_fresh_until()

    def mix(self) -> None:
        """From now on calls may have one upstream or another, or several, or none."""
        self.is_mixed = True
        self.update_only_fresh_until()
        # A hand that is taking a call without the lock has not seen this yet, and still reads ``places``. If
        # that were cleared now, the hand would take a call and ask for no permit.
        self._crew.at_standstill(bool)
        self.places = None

    # -- taking a call ---------------------------------------------------------------------------

    def take(self, hand: Hand, now: float, asker: Asker) -> Call | None:
        """Put the next call, if one is ready, in a hand.

        Args:
            hand: It has no call.
            now: What time it is.
            asker: The core, for which upstreams are asked for permits.
        """

        def claim(call: Call, now: float) -> Claim:
            claimed = self._ask(call, hand, now, asker) if has_upstreams else call._begin(hand, now)
            if claimed is True:
                hand.call = call  # at once, so that no interruption loses it
            return claimed

        if self.is_halted:
            return None
        has_upstreams = self.is_mixed or self.places is not None
        if self.places is not None and now < self.only_fresh_until:
            self._reserve(hand, self.places, asker)
        call = self._schedule.take(now, claim)
        if call is None and hand.permit is not None:
            self.unused.append(hand.permit)
            hand.permit = None
        if now >= self.only_fresh_until:
            self.update_only_fresh_until()
        return call

    def _ask(self, call: Call, hand: Hand, now: float, asker: Asker) -> Claim:
        """Claim a call for a hand, if all its upstreams let it through."""
        terms = call._terms
        # A call for which it is too late needs no permit: it gives up, see `attempt.make`.
        if not terms.places or hand.permit is not None or call.done() or call._is_too_late(now):
            return call._begin(hand, now)
        until = self._schedule.waits_until(call, now)
        for places in reversed(terms.places):
            opens_at = self._schedule.may_ask_from(call, places)
            if opens_at > now:
                return places, opens_at, until
        answer = ask_all(terms.places, asker, call._weight)
        if not isinstance(answer, tuple):
            for places in terms.places:
                self.invitations.pop(places, None)
            hand.permit = answer
            return call._begin(hand, now)
        places, asks_at = answer
        if asks_at is None:
            return places, now + _ASK_AGAIN_AFTER, until
        self.invitations.pop(places, None)
        return places, asks_at, until

    def _reserve(self, hand: Hand, places: Places, asker: Asker) -> None:
        """Get a permit for a fresh call before that is taken.

        Other hands go on taking fresh calls without the lock. If a call were taken first and refused then,
        later calls could pass it by. From the first refusal on, none takes a call without the lock.
        """
        answer = ask_all((places,), asker, 1)
        if not isinstance(answer, tuple):
            hand.permit = answer
            return
        self.only_fresh_until = -math.inf
        self._crew.at_standstill(bool)  # from now on all hands have seen it

    # -- permits that upstreams keep -------------------------------------------------------------

    def invite(self, places: Places, opens_at: float, now: float) -> bool:
        """An upstream lets calls through from *opens_at* on; if that is now, it keeps a permit for the core.

        What it tells may be out of date. At worst a hand asks the upstream in vain.

        Returns:
            Whether a call waits for the upstream.
        """
        if self.is_halted or not self._schedule.held.notice(places, opens_at, now):
            return False
        if opens_at <= now:
            self.invitations[places] = None
        return True

    def disinvite(self, places: Places) -> None:
        """No hand comes for that permit now. The upstream may give it to another core."""
        self.invitations.pop(places, None)

    @property
    def has_unused(self) -> bool:
        """Whether `decline_unused` may have something to do."""
        return bool(self.invitations or self.unused or self._schedule.held.has_renounced)

    def decline_unused(self, asker: Asker, *, are_all: bool = False) -> None:
        """Give back permits for which there is no hand or no call, and places in lines. Without the lock.

        Args:
            asker: The core for which they are kept.
            are_all: Whether none of the permits will be used.
        """
        unused: list[Places] = []
        permits: list[Permit | JointPermit] = []
        lines: list[tuple[Places, object]] = []
        try:
            with self._lock:
                self._collect_unused(asker, unused, lines, are_all=are_all)
                permits, self.unused = self.unused, []
            _give_back(asker, unused, permits, lines)
        except BaseException:  # of a signal handler: other cores wait for these permits
            _give_back(asker, unused, permits, lines)
            raise

    def _collect_unused(
        self, asker: Asker, unused: list[Places], lines: list[tuple[Places, object]], *, are_all: bool
    ) -> None:
        """Add to the lists what is to be given back; see `decline_unused` and `_give_back`."""
        is_awaited = self._schedule.held.is_awaited
        for places in self._schedule.held.renounce(are_all=self.is_halted):
            is_over = self.is_halted or not is_awaited(places)
            lines.append((places, places.place_of(asker) if is_over else None))
        are_all |= not self._crew.is_coming
        unused += [one for one in list(self.invitations) if are_all or not is_awaited(one)]
        for places in unused:
            self.invitations.pop(places, None)


def _give_back(
    asker: Asker,
    invited: list[Places],
    permits: list[Permit | JointPermit],
    lines: list[tuple[Places, object]],
) -> None:
    """Give back permits, and places in lines; may be done again after an interruption.

    Args:
        asker: The core.
        invited: Upstreams that keep a permit for it.
        permits: Permits that it has.
        lines: Upstreams in whose lines it has a place, and the place. That is ``None`` if another call needs
            the place now: the core stays in line, but that call may weigh less.
    """
    for places, place in lines:
        places.step_out(asker, place)
    for places in invited:
        places.decline(asker)
    for permit in permits:
        permit.take_back()


def end_permit(hand: Hand, evidence: Evidence = "worked") -> None:
    """End the permit of a hand, so that no other call starts under it. Called without a lock."""
    permit = hand.permit
    if permit is not None:
        hand.permit = None
        permit.end(evidence)
