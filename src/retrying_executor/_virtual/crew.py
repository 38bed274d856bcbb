"""The crew of a core in virtual time: it has no threads of its own, and a clock of its own.

The core decides what happens and when, as with threads. Here the threads that wait do the work of workers: a
thread that waits for an outcome makes attempts, one after the other, until the outcome is there. When no call
is ready, the clock jumps to the next time at which one is, or at which an upstream opens.

An attempt may itself wait for another call. Then attempts of that call run in the middle of it, so the
running attempts form a stack: ``_hands``. As long as the outermost wait lasts, its thread holds ``_turn``. In
the lock order it comes before all other locks.

Coroutines are none of that stack: `Flights` has them. When no attempt can start, the thread that waits runs
their event loop for one turn; when nothing is left to do there either, the clock jumps to the first time at
which there is, here or there.
"""

from __future__ import annotations

import copy
import math
import threading
import weakref
from contextlib import nullcontext
from random import Random
from uuid import UUID

from retrying_executor._calls.call import Hand, name_of
from retrying_executor._calls.current import current, flight
from retrying_executor._calls.terms import Terms
from retrying_executor._common import log
from retrying_executor._common.errors import final
from retrying_executor._common.stdlib import no_running_loop
from retrying_executor._core.core import Crew
from retrying_executor._core.turns import end_permit
from retrying_executor._policy.policy import RetryPolicy
from retrying_executor._virtual.flights import Flights
from retrying_executor._virtual.waiting import Latch, Waiters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Coroutine
    from typing import Any, TypeVar

    from retrying_executor._calls.call import Call, Work
    from retrying_executor._core.core import Core
    from retrying_executor._upstream.places import Places

    T = TypeVar("T")

_LANDING_TIMEOUT = 1.0  # virtual seconds, in which a coroutine that was cancelled is to end


class Roster:
    """Stands in for a roster: there are no workers."""

    can_summon = True
    """So that the core tells the crew of each call."""


class Time:
    """What time it is. An object of its own, so that an event loop can refer to it and not to its crew."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0.0


class VirtualCrew(Crew):
    """Makes the attempts of one core in virtual time.

    There are no threads to start, wake or stop: a thread that waits looks at everything before each attempt,
    and hands take calls under the core's lock.

    Args:
        seed: The seed of the jitter and of the calls' keys.
        initializer: Called before the first attempt, or ``None``.
        initargs: The arguments of *initializer*.
        max_coroutines: How many coroutines may run at a time; 1 or more.
        max_parked: How many may wait for a place among these; 1 or more.
    """

    roster = Roster()
    flights: Flights

    def __init__(
        self,
        seed: int,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        *,
        max_coroutines: int,
        max_parked: int,
    ) -> None:
        self._random = Random(seed).random
        self._draw_key = Random(seed).getrandbits
        self._initializer = initializer
        self._initargs = initargs
        self._max_coroutines = max_coroutines
        self._max_parked = max_parked
        self._turn = threading.RLock()
        self._time = Time()
        self._hands: list[Hand] = []  # one for each running attempt, the outermost first
        self._thread = 0  # the thread that had the turn last; while there are hands, they are its own
        # The upstreams that use this clock, and their cores.
        self._served: weakref.WeakKeyDictionary[Places, Core] = weakref.WeakKeyDictionary()
        self.tell: Callable[[], object] = bool  # tells the listener, if there is one, what is untold

    def restart(self, lock: threading.RLock) -> None:
        """Start without coroutines."""
        self.flights = Flights(
            self._time, _is_virtual, lock, most=self._max_coroutines, most_parked=self._max_parked
        )

    # -- the clock -------------------------------------------------------------------------------

    @property
    def is_coming(self) -> bool:
        """Whether a hand will look for work: always, since sooner or later a thread waits."""
        return True

    @property
    def clock(self) -> VirtualCrew:
        """What tells the time: in place of the module `time`."""
        return self

    def monotonic(self) -> float:
        """Return the virtual time, in seconds since the crew was made."""
        return self._time.now

    def sleep(self, core: Core, duration: float) -> None:
        """Let time pass. In an attempt nothing else happens; elsewhere, attempts that are due are made."""
        if self._is_in_coroutine():  # not under the turn: the thread that has it may wait for this one
            self._time.now += duration
            return
        with self._turn:
            if self._hands:
                self._time.now += duration
            else:
                self._run(core, duration)

    def advance(self, core: Core, duration: float) -> None:
        """Let time pass, and make the attempts that are due meanwhile."""
        in_coroutine = self._is_in_coroutine()
        with nullcontext() if in_coroutine else self._turn:
            if in_coroutine or self._hands:
                raise final(
                    RuntimeError(
                        "advance() is for the code that waits for the calls: in a call, use sleep(), or in a "
                        "coroutine asyncio.sleep()"
                    )
                )
            self._run(core, duration)

    def wait(
        self, core: Core, is_met: Callable[[], bool], timeout: float | None, calls: Container[Call]
    ) -> bool:
        """Make attempts until a condition is met.

        Args:
            core: The core of these attempts.
            is_met: Returns whether the condition is met.
            timeout: For how long, in virtual seconds; ``None``: as long as it takes.
            calls: The calls for which this waits. In the middle of an attempt, they come before other fresh
                ones.

        Returns:
            Whether it was met in time. An attempt is not interrupted, so it may be met too late.

        Raises:
            RuntimeError: If it would never be met, or if this is a coroutine.
        """
        if self._is_in_coroutine():
            if is_met() or (timeout is not None and timeout <= 0):
                return is_met()
            raise final(
                RuntimeError(
                    "a coroutine must not wait for calls of its executor, since no other coroutine could go "
                    "on meanwhile: await asyncio.wrap_future(future)"
                )
            )
        with self._turn:
            if is_met() or self._run(core, timeout, is_met, calls):
                return True
            if timeout is None:
                pending = self.pending(core)
                if not pending:  # another thread has cancelled the last call, and is about to tell this one
                    return True
                stuck = next((call for call in pending if call in calls), pending[0])  # or it waits for room
                more = f" (and {len(pending) - 1} more)" if len(pending) > 1 else ""
                raise RuntimeError(f"this wait would never end: {self._why_it_waits(stuck)}{more}")
            return False

    def _is_in_coroutine(self) -> bool:
        """Return whether this is called in the event loop, or in a thread of a coroutine's own."""
        if self.flights.is_turning and self._thread == threading.get_ident():
            return True
        return current.hand is None and flight.get() in self.flights.aloft

    def _why_it_waits(self, call: Call) -> str:
        """Return why a call will never be done."""
        if call._work is None:  # pragma: no cover  # for the type checker: a pending call has its work
            return repr(call)
        name = name_of(call._work)
        lacks = self.flights.what_it_lacks(call)
        if lacks is not None:
            return f"{name} {lacks}"
        if call.running():
            return f"{name} is running, and waits for itself"
        return f"{name} waits for {', '.join(repr(upstream) for upstream in call._terms.upstreams)}"

    def _run(
        self,
        core: Core,
        duration: float | None,
        is_met: Callable[[], bool] = lambda: False,
        calls: Container[Call] = (),
    ) -> bool:
        """Make attempts, run coroutines and let time pass, until a condition is met or the time is over."""
        flights = self.flights
        deadline = math.inf if duration is None else self._time.now + max(duration, 0.0)
        with no_running_loop():  # of this thread: an attempt, or a coroutine, must not find one
            while self._time.now <= deadline:
                core.catch_up()
                if core.keeper is not None:
                    core.keeper.load_more()
                if is_met():
                    return True
                self._thread = threading.get_ident()
                if self._step(core, calls) or flights.turn():
                    continue
                next_at = min(self._next_start_at(core), flights.next_at())
                if core.put_off:  # since `catch_up` above: that may make a call ready
                    continue
                is_over = next_at == math.inf or next_at > deadline
                if is_over and is_met():  # by the initializer, or another thread that cancelled a call
                    return True
                if flights.wait_for_threads or (is_over and deadline == math.inf and flights.wait_for_io):
                    flights.await_io()
                    continue
                if is_over:
                    if deadline < math.inf:
                        self._time.now = deadline
                    return False
                self._time.now = max(self._time.now, next_at)  # nothing is left to do before that
            return False

    def _next_start_at(self, core: Core) -> float:
        """Return when time alone makes a call ready; infinity if no time is known."""
        if self.flights.are_crowded:  # then it would not be taken
            return math.inf
        with core.lock:
            due_at = core.ledger.schedule.first_due_at()
        return math.inf if due_at is None else due_at

    # -- attempts --------------------------------------------------------------------------------

    def _step(self, core: Core, calls: Container[Call]) -> bool:
        """Make the next attempt, if a call is ready; return whether to look for more."""
        hand, call = Hand(core.lock), None
        outer = current.hand
        try:
            self._hands.append(hand)
            current.hand = hand
            with core.lock:
                is_ready = core.ledger.schedule.is_ready(self._time.now)
            if self._initializer is not None and is_ready and not self._initialize(core, self._initializer):
                return True
            with core.lock:
                call = self.flights.take_up(hand)
                may_take = call is None and not self.flights.are_crowded
                if may_take:
                    self._prefer(core, calls)
                    call = core.turns.take(hand, self._time.now, core)
            if core.turns.has_unused:
                core.turns.decline_unused(core)
            if call is None and not may_take:
                return False
            if call is None:
                schedule = core.ledger.schedule  # `Schedule.take` may have stopped after many refusals
                return schedule.count_fresh() > 0 or schedule.held.has_open_lanes
            self._attempt(core, hand, call)
        except BaseException as error:  # of a signal handler: the call must not stay in the hand
            if call is None or not call.done() or not isinstance(error, SystemExit):
                hand.settlement = None
                core.settling.rescue(hand, error)
                raise
            log.worker_interrupted(error)  # a SystemExit of a done callback: the call is done
        finally:
            current.hand = outer
            end_permit(hand, "none")
            with core.lock:
                core.ledger.take_over(hand)
                self._hands.remove(hand)
                core.entrance.wake_submitters()
            self._let_upstreams_go(core)
        return True

    def _attempt(self, core: Core, hand: Hand, call: Call) -> None:
        """Make an attempt, and put the call in backoff or make it done."""
        hand.settlement = core.settling.attempt(hand, call)
        self.tell()
        if hand.settlement is not None:
            core.settling.finish(hand)

    def _prefer(self, core: Core, calls: Container[Call]) -> None:
        """In the middle of an attempt, take the calls first for which it waits.

        With one worker more, they would have begun already.
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
        """Return the calls that are accepted and not done, the running ones first."""
        with core.lock:
            running = [hand.call for hand in self.hands() if hand.call is not None]
        return [call for call in running if not call.done()] + core.ledger.schedule.waiting()

    # -- what the core asks ----------------------------------------------------------------------

    def hands(self) -> list[Hand]:
        """Return the hands: one for each running attempt. Called under the core's lock."""
        return [*self._hands, *self.flights.aloft]

    def see_to(self, core: Core, call: Call) -> Exception | None:
        """A call was queued: the next thread that waits takes it. Return why it is refused, or ``None``."""
        self.give_key(call)
        return core.entrance.what_to_raise()

    def come(self, core: Core) -> bool:
        """Return ``True``: the next thread that waits comes."""
        return True

    def includes_current_thread(self) -> bool:
        """Return whether this thread makes an attempt: if it waited there, it might wait for itself.

        While another thread makes an attempt, this one can wait. It gets its turn afterwards.
        """
        return self._is_in_coroutine() or (bool(self._hands) and self._thread == threading.get_ident())

    def make_latch(self, core: Core, call: Call) -> Latch:
        """Return what stands in for a closed lock: a thread that waits at it makes attempts."""
        return Latch(self, core, call)

    def prepare(self, core: Core, call: Call) -> None:
        """A call is about to be observed: threads in `wait` and `as_completed` make attempts, too."""
        call._set_waiters(Waiters(self, core, call))

    def join(self, core: Core, deadline: float) -> bool:
        """Make attempts until all calls are done; return ``False`` if *deadline* comes first."""

        def is_through() -> bool:
            return not (len(core.ledger.schedule) or self.flights.aloft)

        with self._turn:
            limit = None if deadline == math.inf else max(0.0, deadline - self._time.now)
            is_over = self.wait(core, is_through, limit, set(self.pending(core)))
            self._wind_up(core)
            return is_over

    # -- coroutines ------------------------------------------------------------------------------

    def launch(self, hand: Hand, work: Work, coroutine: Coroutine[Any, Any, Any]) -> bool:
        """Run a coroutine in the event loop; see `turns.Crew`."""
        return self.flights.launch(hand, work, coroutine)

    def call_off(self, call: Call) -> None:
        """Cancel the coroutine of a call that is done, if there is one."""
        self.flights.call_off(call)

    def run_aside(self, core: Core, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine of the library in the event loop."""
        self.flights.run_aside(coroutine)

    def await_landings(self, core: Core) -> None:
        """Let a moment pass for coroutines that were called off."""
        with self._turn:
            self._run(core, _LANDING_TIMEOUT, lambda: not self.flights.has_called_off())
            self._wind_up(core)

    def _wind_up(self, core: Core) -> None:
        """When the core has ended, close the event loop, and let the upstreams go."""
        interrupt = None
        if self._is_over(core):
            task = self.flights.wind_up()
            while task is not None:
                try:
                    self._run(core, _LANDING_TIMEOUT, task.done)
                    task = None
                except BaseException as error:  # of a task that was left behind: the others end first
                    interrupt = error
            self.flights.close()
        self._let_upstreams_go(core)
        if interrupt is not None:
            raise interrupt

    # -- what calls are made on ------------------------------------------------------------------

    def give_key(self, call: Call) -> None:
        """See that the call's key is drawn from the seed."""
        call._draw_key(lambda: str(UUID(int=self._draw_key(128), version=4)))

    def terms_for(self, terms: Terms) -> Terms:
        """Return terms whose jitter is drawn from the seed, unless the policy has a source of its own."""
        policy = terms.policy
        if not isinstance(policy, RetryPolicy) or policy.random is not None:
            return terms
        policy = copy.copy(policy)
        policy.__dict__["random"] = self._random
        return Terms(policy, terms.upstreams, weight=terms.weight, label=terms.label, key=terms.key)

    def attach(self, core: Core, places: Places) -> None:
        """Calls may go to this upstream from now on: it uses this clock until the core has ended.

        Raises:
            ValueError: If another executor in virtual time uses it, or if it is held in real time.
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
        """Return whether no call is left, and none will come."""
        is_idle = not (self._hands or self.flights.aloft or len(core.ledger.schedule))
        return is_idle and core.is_ending()

    def _let_upstreams_go(self, core: Core) -> None:
        """When the core has ended, let its upstreams use the real clock again."""
        if self._is_over(core):
            for places in list(self._served):
                if places.clock is self:
                    places.start_afresh()


def _is_virtual(executor: object) -> bool:
    """Return whether an executor is one in virtual time, or a view of one."""
    return isinstance(getattr(getattr(executor, "_core", None), "crew", None), VirtualCrew)
