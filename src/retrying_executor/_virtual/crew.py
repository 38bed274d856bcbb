"""Threads that wait, as the crew of a core: in virtual time there are no others, and no clock but this one.

What is decided, and when, is the core's business, as with threads. Here is only what stands in for them: a
thread that waits for an outcome makes attempts, one after the other, until it is there. When none is ready,
the clock jumps to the next time at which something happens by itself.

An attempt may itself wait for another call. Then the attempts of that run in the middle of it, so those that
run are a stack: ``_hands``. As long as the outermost wait lasts, its thread has ``_turn``, which comes before
all other locks.
"""

from __future__ import annotations

import copy
import math
import threading
import weakref
from random import Random
from uuid import UUID

from retrying_executor._calls.call import Hand, name_of
from retrying_executor._calls.current import current
from retrying_executor._calls.terms import Terms
from retrying_executor._common import log
from retrying_executor._common.errors import final
from retrying_executor._core.core import Crew
from retrying_executor._core.turns import end_permit
from retrying_executor._policy.policy import RetryPolicy
from retrying_executor._virtual.waiting import Latch, Waiters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from typing import Any, TypeVar

    from retrying_executor._calls.call import Call
    from retrying_executor._core.core import Core
    from retrying_executor._upstream.places import Places

    T = TypeVar("T")


class Roster:
    """Nobody is there."""

    can_summon = True
    """So the crew is told of each call."""


class VirtualCrew(Crew):
    """Makes the attempts of one core in virtual time.

    There is nobody to start, wake or stop: a thread that waits looks at everything with every step, and hands
    take calls under the core's lock.

    Args:
        seed: What the jitter and the keys of calls are drawn from.
        initializer: Called before the first attempt, or ``None``.
        initargs: The arguments of *initializer*.
    """

    roster = Roster()

    def __init__(
        self, seed: int, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
    ) -> None:
        self._random = Random(seed).random
        self._draw_key = Random(seed).getrandbits
        self._initializer = initializer
        self._initargs = initargs
        self._turn = threading.RLock()
        self._now = 0.0
        self._hands: list[Hand] = []  # in which the calls are that run, the outermost first
        self._thread = 0  # which had the turn last: as long as there are hands, they are its own
        # What goes by this clock.
        self._served: weakref.WeakKeyDictionary[Places, Core] = weakref.WeakKeyDictionary()
        self.tell: Callable[[], object] = bool  # a listener, if there is one, what has not been told yet

    # -- the clock -------------------------------------------------------------------------------

    @property
    def is_coming(self) -> bool:
        """Return whether somebody will look what there is to do: sooner or later somebody waits."""
        return True

    @property
    def clock(self) -> VirtualCrew:
        """What tells the time, as the module `time` does for others."""
        return self

    def monotonic(self) -> float:
        """Return what time it is, in seconds since the beginning."""
        return self._now

    def sleep(self, core: Core, duration: float) -> None:
        """Let time pass: in an attempt only that, elsewhere with all that happens meanwhile."""
        with self._turn:
            if self._hands:
                self._now += duration
            else:
                self._run(core, duration)

    def advance(self, core: Core, duration: float) -> None:
        """Let time pass, with all that happens meanwhile."""
        with self._turn:
            if self._hands:
                raise final(
                    RuntimeError("advance() is for the code that waits for the calls: in a call, use sleep()")
                )
            self._run(core, duration)

    def wait(
        self, core: Core, is_met: Callable[[], bool], timeout: float | None, calls: Container[Call]
    ) -> bool:
        """Make attempts until a condition is met.

        Args:
            core: Whose attempts these are.
            is_met: Whether it is.
            timeout: For how long, in virtual seconds; ``None``: as long as it takes.
            calls: Those for which this waits. In the middle of an attempt, they go before other fresh ones.

        Returns:
            Whether it was met in time. An attempt is not interrupted, so it may be met too late.

        Raises:
            RuntimeError: If it never would be, by itself.
        """
        with self._turn:
            if is_met() or self._run(core, timeout, is_met, calls):
                return True
            if timeout is None:
                pending = self.pending(core)
                if not pending:  # another thread cancelled the last one, and is about to tell of the room
                    return True
                stuck = next((call for call in pending if call in calls), pending[0])  # or it waits for room
                more = f" (and {len(pending) - 1} more)" if len(pending) > 1 else ""
                raise RuntimeError(f"this wait would never end: {_why_it_waits(stuck)}{more}")
            return False

    def _run(
        self,
        core: Core,
        duration: float | None,
        is_met: Callable[[], bool] = lambda: False,
        calls: Container[Call] = (),
    ) -> bool:
        """Make attempts and let time pass, until a condition is met or the time is over."""
        deadline = math.inf if duration is None else self._now + max(duration, 0.0)
        while self._now <= deadline:
            core.catch_up()
            if is_met():
                return True
            if self._step(core, calls):
                continue
            with core.lock:
                acts_at = core.ledger.schedule.first_due_at()
            if core.put_off:
                continue
            if acts_at is None or acts_at == math.inf or acts_at > deadline:
                if is_met():  # by the initializer, or as another thread cancelled meanwhile
                    return True
                if deadline < math.inf:
                    self._now = deadline
                return False
            self._now = max(self._now, acts_at)  # what there is to do by now has been done
        return False

    # -- attempts --------------------------------------------------------------------------------

    def _step(self, core: Core, calls: Container[Call]) -> bool:
        """Make the next attempt, if one is ready; return whether that is so."""
        hand, call = Hand(core.lock), None
        outer = current.holder
        try:
            self._thread = threading.get_ident()
            self._hands.append(hand)
            current.holder = hand
            with core.lock:
                is_ready = core.ledger.schedule.is_ready(self._now)
            if self._initializer is not None and is_ready and not self._initialize(core, self._initializer):
                return True
            with core.lock:
                self._prefer(core, calls)
                call = core.turns.take(hand, self._now, core)
            if core.turns.has_unused:
                core.turns.decline_unused(core)
            if call is None:
                schedule = core.ledger.schedule  # of which there may be more than are refused in one go
                return schedule.count_fresh() > 0 or schedule.held.has_open_lanes
            self._attempt(core, hand, call)
        except BaseException as error:  # of a signal handler: the call must not stay in the hand
            if call is None or not call.done() or not isinstance(error, SystemExit):
                hand.settlement = None
                core.settling.rescue(hand, error)
                raise
            log.worker_interrupted(error)  # of a done callback
        finally:
            current.holder = outer
            end_permit(hand, "none")
            with core.lock:
                core.ledger.take_over(hand)
                self._hands.remove(hand)
                core.entrance.made_done()
            self._let_upstreams_go(core)
        return True

    def _attempt(self, core: Core, hand: Hand, call: Call) -> None:
        """Make an attempt, and put the call in backoff or make it done."""
        hand.settlement = core.settling.attempt(hand, call)
        self.tell()
        if hand.settlement is not None:
            core.settling.finish(hand)

    def _prefer(self, core: Core, calls: Container[Call]) -> None:
        """In the middle of an attempt, have those come first for which it waits.

        With one worker more, they would have begun.
        """
        if len(self._hands) > 1:
            fresh = core.fresh
            wanted = next((call for call in fresh if call in calls and not call.done()), None)
            if wanted is not None:
                fresh.remove(wanted)
                fresh.appendleft(wanted)

    def _initialize(self, core: Core, initializer: Callable[..., object]) -> bool:
        """Run the initializer; where it fails, break the core. Return whether it worked."""
        self._initializer = None
        try:
            initializer(*self._initargs)
        except BaseException as error:
            log.initializer_failed(error)
            core.ending.break_off()
            core.ending.clear(core)
            return False
        return True

    def pending(self, core: Core) -> list[Call]:
        """Return the calls that are accepted and not done, those that run first."""
        running = [hand.call for hand in self._hands.copy() if hand.call is not None]
        return [call for call in running if not call.done()] + core.ledger.schedule.waiting()

    # -- what the core asks ----------------------------------------------------------------------

    def hands(self) -> list[Hand]:
        """Return those in which calls are."""
        return self._hands.copy()

    def see_to(self, core: Core, call: Call) -> Exception | None:
        """A call was queued: the next thread that waits sees to it."""
        self.give_key(call)
        return core.entrance.what_to_raise()

    def come(self, core: Core) -> bool:
        """The next thread that waits comes."""
        return True

    def includes_current_thread(self) -> bool:
        """Return whether this thread makes an attempt: there, to wait for others might be to wait for itself.

        While another thread makes one, this one can wait: it gets its turn afterwards.
        """
        return bool(self._hands) and self._thread == threading.get_ident()

    def make_latch(self, core: Core, call: Call) -> Latch:
        """Return what stands in for a lock at which somebody waits."""
        return Latch(self, core, call)

    def prepare(self, core: Core, call: Call) -> None:
        """A call is about to be observed: its waiters make attempts."""
        call._set_waiters(Waiters(self, core, call))

    def join(self, core: Core, deadline: float) -> bool:
        """Make attempts until all is done, until *deadline*; return whether it is."""
        with self._turn:
            limit = None if deadline == math.inf else max(0.0, deadline - self._now)
            is_over = self.wait(core, lambda: not len(core.ledger.schedule), limit, set(self.pending(core)))
            self._let_upstreams_go(core)
            return is_over

    # -- what calls are made on ------------------------------------------------------------------

    def give_key(self, call: Call) -> None:
        """See that the call's key, if anybody asks for it, is drawn from the seed."""
        call._draw_key(lambda: str(UUID(int=self._draw_key(128), version=4)))

    def terms_for(self, terms: Terms) -> Terms:
        """Return terms whose jitter is drawn from the seed, if it has no source of its own."""
        policy = terms.policy
        if not isinstance(policy, RetryPolicy) or policy.random is not None:
            return terms
        policy = copy.copy(policy)
        policy.__dict__["random"] = self._random
        return Terms(policy, terms.upstreams, weight=terms.weight, label=terms.label, key=terms.key)

    def attach(self, core: Core, places: Places) -> None:
        """Calls may go to this upstream from now on: it goes by this clock, until all has ended.

        Raises:
            ValueError: If it is in use in another virtual time, or is held by the real one.
        """
        before = places.clock
        if before is self or core.entrance.refusal is not None:
            return
        if not isinstance(before, VirtualCrew):
            if places.state != "open":
                raise ValueError(
                    f"upstream must be open, not {places!r}: first give it to the executor "
                    "in virtual time, then pause it there"
                )
        elif not before._served[places].is_ending():
            raise ValueError(
                f"upstream must not be used by another executor in virtual time: {places!r}; "
                "shut that down first"
            )
        places.start_afresh(self, self._random, lambda: self._is_over(core))
        self._served[places] = core
        if core.monitor is not None:
            places.notify(core.monitor)

    def _is_over(self, core: Core) -> bool:
        """Return whether no call is left, and none comes any more."""
        return core.is_ending() and not self._hands and not len(core.ledger.schedule)

    def _let_upstreams_go(self, core: Core) -> None:
        """At the end, when the last call is done: from now on they go by the clock of all others."""
        if self._is_over(core):
            for places in list(self._served):
                if places.clock is self:
                    places.start_afresh()


def _why_it_waits(call: Call) -> str:
    """Return why a call will not be done by itself."""
    if call._work is None:  # pragma: no cover  # for the type checker: it is pending
        return repr(call)
    name = name_of(call._work)
    if call.running():
        return f"{name} is running, and waits for itself"
    return f"{name} waits for {', '.join(repr(upstream) for upstream in call._terms.upstreams)}"
