"""Threads as the crew of a core: how they are woken and started, waited for, and brought to a standstill."""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress
from functools import partial

from retrying_executor._calls.call import names_of
from retrying_executor._calls.current import interrupted_hand
from retrying_executor._common.stdlib import (
    HAS_DAEMONS,
    HAS_GIL,
    can_wait_for_a_start,
    is_held,
    start_thread,
)
from retrying_executor._core.core import Crew
from retrying_executor._threads.flights import Flights
from retrying_executor._threads.roster import Roster
from retrying_executor._threads.workers import work

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Coroutine
    from typing import Any, TypeVar

    from retrying_executor._calls.call import Call, Hand, Outcome, Work
    from retrying_executor._calls.schedule import Schedule
    from retrying_executor._common.unseen import UnseenFailure
    from retrying_executor._common.values import Clock
    from retrying_executor._core.core import Core
    from retrying_executor._engines.engine import Engine
    from retrying_executor._threads.roster import Worker
    from retrying_executor._upstream.places import Places

    T = TypeVar("T")

_ARRIVAL_TIMEOUT = 0.05  # seconds
_LANDING_TIMEOUT = 1.0  # seconds, in which what was cancelled or killed is to end
_STANDSTILL_TIMEOUT = 10.0  # seconds; many threads may have their turn before one goes on


class Threads(Crew):
    """The threads of one core.

    Args:
        max_workers: How many there may be; 1 or more.
        name: What their names begin with.
        initializer: Called by every thread before its first call, or ``None``.
        initargs: The arguments of *initializer*.
        idle_timeout: How long a thread with nothing to do stays, in seconds; ``None``: for ever.
        are_daemons: Whether the interpreter may end while they work, where it allows that.
        engine: Where the attempts run; ``None``: in the threads.
        max_coroutines: How many coroutines may run at a time; 1 or more.
        new_loop: Makes the event loop for these; ``None``: that is asyncio's own.
    """

    roster: Roster
    flights: Flights

    @property
    def clock(self) -> Clock:
        """What tells the time."""
        return time

    def __init__(
        self,
        max_workers: int,
        name: str,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        idle_timeout: float | None,
        are_daemons: bool,
        engine: Engine | None = None,
        max_coroutines: int = 1,
        new_loop: Callable[[], AbstractEventLoop] | None = None,
    ) -> None:
        self.engine = engine
        self._max_coroutines = max_coroutines
        self._new_loop = new_loop
        self._max_workers = max_workers
        self._name = name
        self._are_daemons = are_daemons
        self.initializer = initializer
        self.initargs = initargs
        self.is_initialized = False  # whether the initializer has ever worked
        # As `Lock.acquire` takes it: -1 is for ever.
        self.idle_timeout = -1.0 if idle_timeout is None else min(idle_timeout, threading.TIMEOUT_MAX)

    def restart(self, lock: threading.RLock) -> None:
        """Start without threads: at first, and again in a forked child."""
        if hasattr(self, "flights"):
            self.flights.disown()
            if self.engine is not None:
                self.engine.restart()
        self.flights = Flights(
            lock=lock,
            most=self._max_coroutines,
            name=self._name,
            is_daemon=self._are_daemons and HAS_DAEMONS,
            new_loop=self._new_loop,
        )
        self.roster = Roster(size=self._max_workers, name=self._name, daemon=self._are_daemons, lock=lock)
        self.initializing = 0  # how many threads are in their initializer
        # Calls that were accepted while the only workers were newborns, whose threads may yet fail to start.
        self._on_credit: list[Call] = []
        self._stopped: list[threading.RLock] = []  # the workers' locks, taken for a fork

    # -- calling them ----------------------------------------------------------------------------

    @property
    def is_coming(self) -> bool:
        """Whether a worker rests or is on its way, so that one will look for work."""
        return self.roster.on_the_way is not None or self.roster.has_resting

    def summon(self, core: Core, now: float) -> Exception | None:
        """Wake one more worker or add a newborn, if possible, and if it would find something to do.

        Called under the core's lock. Afterwards, without it, the caller calls `start_newborns`.

        Returns:
            Why a newborn could not be made; or ``None``. It does no harm if other workers are there.
        """
        roster, schedule, landed = self.roster, core.ledger.schedule, self.flights.landed
        if self.initializing and not roster.has_resting:
            # Each worker in its initializer will take one call, and one of them will see to the retries.
            needed = schedule.count_ready(now) + len(landed) > self.initializing
        else:
            needed = (
                bool(landed)
                or schedule.is_ready(now)
                or (not roster.has_leader and schedule.first_due_at() is not None)
            )
        if needed and roster.can_summon:
            try:
                roster.summon(work, core, self)
            except Exception as error:
                return error
        return None

    def come(self, core: Core) -> bool:
        """See that a worker comes for a call that may start now; return whether one is on its way."""
        with core.lock:
            self.summon(core, time.monotonic())
        self.start_newborns(core)
        return self.roster.on_the_way is not None

    def see_to(self, core: Core, call: Call) -> Exception | None:
        """See that a call which was queued a moment ago is taken, or return why it is to be refused.

        If that starts a thread, wait for a moment until the thread takes its first call, or begins its
        initializer. With the standard executor it is so, too, and programs rely on it that cancel or fork
        right after ``submit()``. The wait is bounded, since a destructor or a signal handler may get here
        while its thread holds a lock that the new thread needs.
        """
        error, roster = None, self.roster
        if self.interrupted_hand() is not None and not is_held(core.lock):
            return None  # this has interrupted a worker, which looks for calls right afterwards
        try:
            while True:
                with core.lock:
                    if core.entrance.refusal is not None:
                        return core.entrance.what_to_raise()
                    if roster.can_summon and error is None:
                        error = self.summon(core, time.monotonic())
                    if not roster.members:
                        return error  # no worker would take it; earlier calls had one when they were accepted
                    helper = roster.on_the_way or next(iter(roster.newborns), None)
                    if helper is not None and helper.is_starting and not roster.is_starved:
                        # Another submitter starts it. If every submitter waited for that, with one call each,
                        # the worker would make these calls and leave before they submit their next.
                        if helper in roster.newborns:
                            self._on_credit.append(call)
                        break
                if roster.newborns:
                    error = self.start_newborns(core) or error
                if helper is None or helper.arrival is None or self._has_come(core, helper, call):
                    break
        finally:
            del error  # its traceback keeps this frame
        return None

    def _has_come(self, core: Core, helper: Worker, call: Call) -> bool:
        """Wait for a moment until a worker arrives that *call* may need.

        Returns:
            ``False`` if the worker was withdrawn, since its thread could not be started.
        """
        helper.await_arrival(_ARRIVAL_TIMEOUT)
        with core.lock:
            if helper in self.roster.newborns:  # perhaps this thread holds what its start waits for
                self._on_credit.append(call)
                return True
            return helper.arrival is None or helper in self.roster.members

    # -- starting them ---------------------------------------------------------------------------

    def start_newborns(
        self, core: Core, *, is_repeated: bool = False, may_wait: bool = False
    ) -> Exception | None:
        """Start the threads of newborns, except those that another thread is starting.

        `Thread.start` takes locks of its own and waits for the new thread. Meanwhile the collector may run a
        destructor in either thread, which may want a lock of this core. So a thread that holds one, as it
        can only in a destructor or a signal handler, leaves the start to a helper that holds none.

        Args:
            core: The core that they work for.
            is_repeated: Whether this is the second try, for calls whose newborn was withdrawn.
            may_wait: Whether this thread is that helper: it holds no lock, and may wait for any.

        Returns:
            Why a thread could not be started; its newborn has been withdrawn. ``None`` if all were.
        """
        roster, error = self.roster, None
        newborns = [worker for worker in roster.newborns.copy() if not worker.is_starting]
        if not newborns:
            return None
        holds = is_held(core.lock) or interrupted_hand() is not None
        leaves_it = not may_wait and (holds or not can_wait_for_a_start())
        try:
            if leaves_it:
                start_thread(partial(self.start_newborns, core, is_repeated=is_repeated, may_wait=True))
            else:
                for worker in newborns:
                    roster.start(worker)
        except Exception as cause:
            error = cause
            for worker in newborns:
                roster.withdraw(worker)
        finally:
            if not leaves_it:
                self._look_after_births(core, is_repeated=is_repeated)
        try:
            return error
        finally:
            del error  # its traceback keeps this frame

    def _look_after_births(self, core: Core, *, is_repeated: bool) -> None:
        """See to the calls of a newborn that was withdrawn: try once more, then let them fail."""
        roster = self.roster
        with core.lock:
            if roster.has_resting:  # a worker came to rest while the newborn was being started
                self.summon(core, time.monotonic())
            self._on_credit = [call for call in self._on_credit if not call.done()]
            if self._on_credit and not is_repeated:
                self.summon(core, time.monotonic())
            is_over = not roster.newborns
            stranded = self._on_credit.copy() if is_over and not roster.members else []
            if is_over and not stranded:
                self._on_credit.clear()
        if not is_over:
            self.start_newborns(core, is_repeated=True)  # unless another thread does

        def strand(call: Call, outcome: Outcome, unseen: UnseenFailure | None) -> bool:
            """Make a call fail for want of a thread, if it still waits and there is no worker for it."""
            if not roster.members and hasattr(call, "_waits"):
                return core.ledger.settle(call, outcome, unseen)
            if unseen is not None:  # pragma: no cover  # another thread added a worker: tests/schedules
                unseen.seen()
            return False

        interrupt = None
        for call in stranded:  # still on credit meanwhile, since shutdown() waits for these
            try:
                core.settling.settle(call, (None, RuntimeError("can't start new thread")), strand)
            except BaseException as error:  # of a done callback: the others fail first
                interrupt = error
        if stranded:
            with core.lock:  # calls that did not fail stay on credit: the new worker's start may fail, too
                self._on_credit = [call for call in self._on_credit if not call.done()]
        if interrupt is not None:
            raise interrupt

    # -- waiting for them ------------------------------------------------------------------------

    def join(self, core: Core, deadline: float) -> bool:
        """Wait until all threads have ended, until *deadline*; return whether they have."""
        while True:
            self.start_newborns(core)
            newborns = self.roster.newborns.copy()
            threads = self.roster.threads() + self.flights.threads()
            # Read last: a newborn that is withdrawn meanwhile leaves its calls here, for one more try.
            on_credit = [call for call in self._on_credit.copy() if not call.done()]
            if not newborns and not threads and not on_credit:
                self.flights.close(deadline)
                return True
            left = min(deadline - time.monotonic(), threading.TIMEOUT_MAX)
            if left <= 0:
                return False
            if threads:
                threads[0].join(None if deadline == math.inf else left)
            elif newborns:
                newborns[0].await_arrival(-1.0 if deadline == math.inf else left)
            else:  # pragma: no cover  # a race: tests/schedules
                on_credit[0]._wait(None if deadline == math.inf else left)

    def retire(self, core: Core, deadline: float) -> bool:
        """As `join`; and from now on no thread stays when it has nothing to do."""
        with core.lock:
            self.idle_timeout = 0.0
            self.wake_all()
        return self.join(core, deadline)

    # -- their hands -----------------------------------------------------------------------------

    def hands(self) -> list[Hand]:
        """Return the workers and the flights: each may have a call."""
        return [*self.roster.members, *self.flights.aloft]

    def due_at_changed(self, schedule: Schedule) -> None:
        """`Schedule.first_due_at` may have changed. Called under the core's lock."""
        self.roster.due_at_changed(schedule)

    def wake_all(self) -> None:
        """Have every thread look whether to stay. Needs no lock."""
        self.roster.wake_all()
        self.flights.look()
        if self.engine is not None:
            self.engine.look()

    def abandon(self) -> None:
        """The executor is gone. Takes no lock."""
        self.wake_all()
        self.flights.abandon(has_workers=bool(self.roster.members))

    def interrupted_hand(self) -> Hand | None:
        """Return this thread's worker, if it is of this crew and in the middle of a change."""
        hand = interrupted_hand()
        return hand if hand in self.roster.members else None

    def includes_current_thread(self) -> bool:
        """Return whether this is called by a worker, or in the event loop."""
        return self.roster.includes_current_thread() or threading.get_ident() in [
            thread.ident for thread in self.flights.threads()
        ]

    def see_to_put_off(self, core: Core) -> None:
        """See that `Core.catch_up` is called as soon as this thread holds no lock any more.

        A worker in the middle of a change calls it itself right afterwards. For any other thread a helper is
        started, which waits for the lock. If none can be, the next worker that looks for calls does it.
        """
        # Without the GIL the lock of a worker is the core's, so holding that does not make it the caller.
        if not HAS_GIL or self.interrupted_hand() is None:
            catcher = threading.Thread(target=core.catch_up, name=f"{self._name}-catch-up", daemon=False)
            with suppress(Exception):
                start_thread(catcher.start)  # not here: `Thread.start` takes locks that this thread may hold

    def attach(self, core: Core, places: Places) -> None:
        """Calls may go to this upstream from now on.

        Raises:
            ValueError: If the upstream is in use in virtual time.
        """
        places.attach(core.monitor)

    # -- coroutines ------------------------------------------------------------------------------

    def expect_coroutine(self, core: Core) -> None:  # pragma: no cover  # 3.12.0 to 3.12.2
        """Start the thread of the event loop: at the end of the interpreter it would be too late."""
        self.flights.prepare(core)

    def launch(self, hand: Hand, work: Work, coroutine: Coroutine[Any, Any, Any]) -> bool:
        """Run a coroutine in the event loop; see `turns.Crew`."""
        return self.flights.launch(hand, work, coroutine)

    def call_off(self, call: Call) -> None:
        """Cancel the coroutine of a call that is done, if there is one."""
        self.flights.call_off(call)

    def run_aside(self, core: Core, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine of the library in the event loop; see `turns.Crew`."""
        self.flights.run_aside(core, coroutine)

    def await_landings(self, core: Core) -> None:
        """Wait a moment for coroutines that were called off, and for the threads that they keep busy."""
        deadline = time.monotonic() + _LANDING_TIMEOUT
        for thread in self.flights.threads():
            thread.join(max(0.0, deadline - time.monotonic()))
        with core.lock:
            is_busy = bool(core.entrance.running_calls())
        if not is_busy:
            self.join(core, deadline)

    def cut_off(self, core: Core) -> list[str]:
        """Kill the attempts that can be killed, and wait a moment for their threads; see `turns.Crew`."""
        killed = []
        for worker in list(self.roster.members):
            call, runner = worker.call, worker.runner
            names = [] if call is None else names_of([call])
            if runner is not None and runner.kill():
                killed += names
        if killed:
            self.join(core, time.monotonic() + _LANDING_TIMEOUT)
        return killed

    @property
    def has_landed(self) -> bool:
        """Whether a coroutine has ended, and no worker has taken it up yet."""
        return bool(self.flights.landed)

    # -- all of them at a standstill -------------------------------------------------------------

    def at_standstill(self, look: Callable[[bool], T]) -> T:
        """Return what *look* returns while no worker takes a call or makes one done.

        *look* gets whether all of them stand still. A worker does not if a destructor has interrupted it at
        that very moment, and waits for the core's lock, which the caller holds.
        """
        taken: list[threading.RLock] = []
        try:
            return look(self._stop(taken, _STANDSTILL_TIMEOUT))
        finally:
            try:
                _let_go_on(taken)
            except BaseException:  # of a signal handler
                _let_go_on(taken)
                raise

    def _stop(self, taken: list[threading.RLock], timeout: float) -> bool:
        """Take the locks of all workers that this thread does not hold; return whether it holds all then.

        They are added to *taken* before, since a signal handler may raise right after one is acquired.
        """
        taken += [worker.lock for worker in list(self.roster.members) if not is_held(worker.lock)]
        for lock in taken:
            lock.acquire(timeout=timeout)
        return all(is_held(worker.lock) for worker in list(self.roster.members))

    def stop_for_fork(self, timeout: float) -> bool:
        """Before a fork: take the workers' locks; return whether that worked, within *timeout* for each."""
        self._stopped = []
        return self._stop(self._stopped, timeout)

    def go_on_after_fork(self) -> None:
        """Undo `stop_for_fork`, in the parent and in the child; may be done again."""
        _let_go_on(self._stopped)


def _let_go_on(taken: list[threading.RLock]) -> None:
    """Release the locks that this thread holds; called again after an interruption, the rest of them."""
    while taken:
        with suppress(RuntimeError):  # this thread did not get that one, or has released it already
            taken[-1].release()
        taken.pop()
