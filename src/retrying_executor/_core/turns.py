"""Whose turn it is, and with which permit of its upstream."""

from __future__ import annotations

import math

from retrying_executor._upstream.several import ask_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from typing import TypeVar

    from retrying_executor._calls.call import Call, Hand
    from retrying_executor._calls.lanes import Claim
    from retrying_executor._calls.schedule import Schedule
    from retrying_executor._common.values import Clock
    from retrying_executor._upstream.gate import Evidence, Permit
    from retrying_executor._upstream.places import Asker, Places
    from retrying_executor._upstream.several import JointPermit

    T = TypeVar("T")

_ASK_AGAIN_AFTER = 0.001  # seconds


class Crew:
    """Those that make the attempts, as far as the parts of a core ask; see `Core` for the rest."""

    if TYPE_CHECKING:  # what each crew does in its own way

        @property
        def clock(self) -> Clock:
            """What tells the time."""
            ...

        @property
        def is_coming(self) -> bool:
            """Whether somebody will look what there is to do: one rests, or is on its way."""
            ...

        def hands(self) -> list[Hand]:
            """Return those that have a call, or may have one."""
            ...

        def includes_current_thread(self) -> bool:
            """Return whether this thread makes attempts itself, and so must not wait for them."""
            ...

    def due_at_changed(self, schedule: Schedule) -> None:
        """What is due first may be something else now. Called under the core's lock."""

    def wake_all(self) -> None:
        """Have everybody look whether to stay. Needs no lock."""

    def at_standstill(self, look: Callable[[bool], T]) -> T:
        """Return what *look* returns while no hand takes a call or makes one done.

        It gets whether they all stand still. Called under the core's lock.
        """
        return look(True)

    def amid(self) -> Hand | None:
        """Return the hand of this thread, if it is one of these and in the middle of something."""
        return None


class Turns:
    """What the hands of a core take next. All but the two that say so are called under the core's lock.

    Args:
        lock: The core's.
        schedule: The calls that wait.
        crew: Those that make the attempts.
        places: Those of every call's upstream, unless they are mixed.
        is_mixed: Whether calls may have one upstream or another, or several, or none.
        is_limited: Whether the core has a limit on pending calls, which takes a look after each.
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
        """Permits that upstreams keep for this core, until it asks for them or declines."""
        self.unused: list[Permit | JointPermit] = []
        """Permits that were got for a call which another hand took, or which was cancelled, meanwhile."""
        self.only_fresh_until = -math.inf
        """Until when there is nothing to see to but fresh calls."""
        self.look_ahead()

    # -- what there is to see to -----------------------------------------------------------------

    def look_ahead(self) -> None:
        """Note until when there is nothing to see to but fresh calls."""
        schedule = self._schedule
        if self.is_halted or self.is_mixed or self._is_limited or schedule.held.has_lanes:
            self.only_fresh_until = -math.inf
            return
        due_at = schedule.first_due_at()
        self.only_fresh_until = math.inf if due_at is None else due_at

    def halt(self) -> None:
        """Let no attempt start any more."""
        self.is_halted = True
        self.look_ahead()

    def mix(self) -> None:
        """From now on calls may have one upstream or another, or several, or none."""
        self.is_mixed = True
        self.look_ahead()
        self._crew.at_standstill(bool)  # from now on all have seen it: no hand takes a call without the lock
        self.places = None  # not before, or a hand that goes on asks for no permit

    # -- taking a call ---------------------------------------------------------------------------

    def take(self, hand: Hand, now: float, asker: Asker) -> Call | None:
        """Put the next call, if one is ready, in a hand.

        Args:
            hand: Which has no call.
            now: What time it is.
            asker: In whose name upstreams are asked for permits: the core.
        """

        def claim(call: Call, now: float) -> Claim:
            claimed = self._ask(call, hand, now, asker) if has_upstreams else call._begin(hand, now)
            if claimed is True:
                hand.call = call  # now, so that no exception loses it
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
            self.look_ahead()
        return call

    def _ask(self, call: Call, hand: Hand, now: float, asker: Asker) -> Claim:
        """Begin an attempt if all upstreams of the call, if it has any, let it through."""
        terms = call._terms
        if not terms.places or hand.permit is not None or call.done():
            return call._begin(hand, now)
        if call._is_too_late(now):
            return call._begin(hand, now)  # without a permit: no attempt will be made, see attempt.make
        until = self._schedule.waits_until(call, now)
        for places in reversed(terms.places):
            opens_at = self._schedule.opens_to(call, places)
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
        """Get a permit for a fresh call before it is taken, since others go on without the lock.

        They could pass by one that was taken and then refused. So if there is no permit, they do not go on
        from now on.
        """
        answer = ask_all((places,), asker, 1)
        if not isinstance(answer, tuple):
            hand.permit = answer
            return
        self.only_fresh_until = -math.inf
        self._crew.at_standstill(bool)  # from now on all have seen it

    # -- permits that upstreams keep -------------------------------------------------------------

    def invite(self, places: Places, opens_at: float, now: float) -> bool:
        """An upstream lets calls through from *opens_at* on; if that is now, it keeps a permit for the core.

        Returns:
            Whether a call waits for that.
        """
        # What is told late may be old; asking does no harm.
        if self.is_halted or not self._schedule.held.notice(places, opens_at, now):
            return False
        if opens_at <= now:
            self.invitations[places] = None
        return True

    def disinvite(self, places: Places) -> None:
        """Nobody comes for that permit: it goes to another core, or to the first of ours that is free."""
        self.invitations.pop(places, None)

    @property
    def has_unused(self) -> bool:
        """Whether `decline_unused` may have something to do."""
        return bool(self.invitations or self.unused or self._schedule.held.has_renounced)

    def decline_unused(self, asker: Asker, *, are_all: bool = False) -> None:
        """Give back permits that nobody is there to use, or no call, and places in lines. Without the lock.

        Args:
            asker: For whom they are kept.
            are_all: Whether nobody will use any of them.
        """
        unused: list[Places] = []
        permits: list[Permit | JointPermit] = []
        lines: list[tuple[Places, object]] = []
        try:
            with self._lock:
                self._collect_unused(asker, unused, lines, are_all=are_all)
                permits, self.unused = self.unused, []
            _give_back(asker, unused, permits, lines)
        except BaseException:  # of a signal handler: others wait for these permits
            _give_back(asker, unused, permits, lines)
            raise

    def _collect_unused(
        self, asker: Asker, unused: list[Places], lines: list[tuple[Places, object]], *, are_all: bool
    ) -> None:
        """Add what is to be given back to these lists; see `decline_unused`, and `_give_back`."""
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
    """Give back the permits that upstreams keep for a core, and those that it has; may be done again.

    And its places in their lines; ``None`` if another call has that place now, which may take less.
    """
    for places, place in lines:
        places.step_out(asker, place)
    for places in invited:
        places.decline(asker)
    for permit in permits:
        permit.take_back()


def end_permit(hand: Hand, evidence: Evidence = "worked") -> None:
    """A hand does not go on at once with a call of the same upstream. Called without a lock."""
    permit = hand.permit
    if permit is not None:
        hand.permit = None
        permit.end(evidence)
