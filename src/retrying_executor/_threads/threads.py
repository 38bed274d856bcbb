"""Threads as the crew of a core: how they are called and started, and how others wait for them."""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress
from functools import partial

from retrying_executor._calls.current import amid
from retrying_executor._common.stdlib import can_wait_for_a_start, is_held, start_thread
from retrying_executor._core.core import Crew
from retrying_executor._threads.roster import Roster
from retrying_executor._threads.workers import work

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from retrying_executor._calls.call import Call, Hand, Outcome
    from retrying_executor._calls.schedule import Schedule
    from retrying_executor._common.unseen import UnseenFailure
    from retrying_executor._common.values import Clock
    from retrying_executor._core.core import Core
    from retrying_executor._threads.roster import Worker
    from retrying_executor._upstream.places import Places

    T = TypeVar("T")

_ARRIVAL_TIMEOUT = 0.05  # seconds
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
    """

    roster: Roster

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
    ) -> None:
        self._max_workers = max_workers
        self._name = name
        self._are_daemons = are_daemons
        self.initializer = initializer
        self.initargs = initargs
        self.is_initialized = False  # the initializer has worked once
        self.idle_timeout = -1.0 if idle_timeout is None else min(idle_timeout, threading.TIMEOUT_MAX)

    def restart(self, lock: threading.RLock) -> None:
        """Start with nobody, as at the beginning and in a forked child."""
        self.roster = Roster(size=self._max_workers, name=self._name, daemon=self._are_daemons, lock=lock)
        self.initializing = 0  # how many threads are in their initializer
        self._on_credit: list[Call] = []  # accepted although only a newborn was there to make them
        self._stopped: list[threading.RLock] = []  # for a fork: the workers' locks

    # -- calling them ----------------------------------------------------------------------------

    @property
    def is_coming(self) -> bool:
        """Whether somebody will look what there is to do: one rests, or is on its way."""
        return self.roster.on_the_way is not None or self.roster.has_resting

    def summon(self, core: Core, now: float) -> Exception | None:
        """Wake one more worker or have a newborn, if one can be had, and would find something to do.

        The caller holds the core's lock. Having given it back, it calls `start_newborns`.

        Returns:
            Why there can be no newborn. That is no harm where others are at work.
        """
        roster, schedule = self.roster, core.ledger.schedule
        if self.initializing and not roster.has_resting:
            # Those in their initializer will see to one call each, and to the retries.
            needed = schedule.count_ready(now) > self.initializing
        else:
            needed = schedule.is_ready(now) or (not roster.has_leader and schedule.first_due_at() is not None)
        if needed and roster.can_summon:
            try:
                roster.summon(work, core, self)
            except Exception as error:
                return error
        return None

    def come(self, core: Core) -> bool:
        """See that somebody comes for a call that may start now; return whether that is so."""
        with core.lock:
            if self.roster.can_summon:
                self.summon(core, time.monotonic())
        self.start_newborns(core)
        return self.roster.on_the_way is not None

    def see_to(self, core: Core, call: Call) -> Exception | None:
        """See that a call which was queued a moment ago is taken, or return why it is to be refused.

        If that starts a thread, wait for a moment until it took its first call, or began its initializer. So
        it is with the standard executor, and programs cancel or fork right after ``submit()``. It is bounded,
        since a destructor or a signal handler may get here in a critical section.
        """
        error, roster = None, self.roster
        if self.amid() is not None and not is_held(core.lock):
            return None  # the worker that this has interrupted looks for calls right afterwards
        try:
            while True:
                with core.lock:
                    if core.entrance.refusal is not None:
                        return core.entrance.what_to_raise()
                    if roster.can_summon and error is None:
                        error = self.summon(core, time.monotonic())
                    if not roster.members:
                        return error  # nobody would run it; all accepted before have had somebody
                    helper = roster.on_the_way or next(iter(roster.newborns), None)
                    if helper is not None and helper.is_starting and not roster.is_starved:
                        # Another thread starts it. Were all to wait for that, each with one call, it would
                        # have left by the time that they go on.
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
            ``False`` if it was withdrawn: its thread could not be started.
        """
        helper.await_arrival(_ARRIVAL_TIMEOUT)
        with core.lock:
            if helper in self.roster.newborns:  # this may be what keeps it from being started
                self._on_credit.append(call)
                return True
            return helper.arrival is None or helper in self.roster.members

    # -- starting them ---------------------------------------------------------------------------

    def start_newborns(
        self, core: Core, *, is_repeated: bool = False, may_wait: bool = False
    ) -> Exception | None:
        """Start the threads of newborns, but those that another thread is starting. Called without the lock.

        `Thread.start` takes locks of its own and waits for the new thread, and the collector may run any
        destructor meanwhile, there or here, which may want a lock of ours. So a thread that holds one, as it
        can only in a destructor or a signal handler, leaves this to a thread that holds none.

        Args:
            core: What they work for.
            is_repeated: Whether this is for calls that have relied on a newborn which was withdrawn.
            may_wait: Whether this thread is there for nothing else: it holds no lock, and may wait for any.

        Returns:
            Why one could not be started. It has been withdrawn.
        """
        roster, error = self.roster, None
        newborns = [worker for worker in roster.newborns.copy() if not worker.is_starting]
        if not newborns:
            return None
        holds = is_held(core.lock) or amid() is not None
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
        """See to the calls that relied on a newborn, if it was withdrawn: try again, once; then they fail."""
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
            """Make a call fail for want of a thread, if it still waits, and nobody is there to run it."""
            if not roster.members and hasattr(call, "_waits"):
                return core.ledger.settle(call, outcome, unseen)
            if unseen is not None:  # pragma: no cover  # there is a newborn again: tests/schedules
                unseen.seen()
            return False

        interrupt = None
        for call in stranded:  # forgotten afterwards, since shutdown() waits for them
            try:
                core.settling.settle(call, (None, RuntimeError("can't start new thread")), strand)
            except BaseException as error:  # of a done callback: the others fail first
                interrupt = error
        if stranded:
            with core.lock:  # those stay that did not fail, since there is a newborn again: it may fail too
                self._on_credit = [call for call in self._on_credit if not call.done()]
        if interrupt is not None:
            raise interrupt

    # -- waiting for them ------------------------------------------------------------------------

    def join(self, core: Core, deadline: float) -> bool:
        """Wait until all threads have ended, until *deadline*; return whether they have."""
        while True:
            self.start_newborns(core)
            newborns, threads = self.roster.newborns.copy(), self.roster.threads()
            # Last: after a start that failed they get one more try.
            on_credit = [call for call in self._on_credit.copy() if not call.done()]
            if not newborns and not threads and not on_credit:
                return True
            patience = min(deadline - time.monotonic(), threading.TIMEOUT_MAX)
            if patience <= 0:
                return False
            if threads:
                threads[0].join(None if deadline == math.inf else patience)
            elif newborns:
                newborns[0].await_arrival(-1.0 if deadline == math.inf else patience)
            else:  # pragma: no cover  # a race: tests/schedules
                on_credit[0]._wait(None if deadline == math.inf else patience)

    def retire(self, core: Core, deadline: float) -> bool:
        """The same; from now on no thread stays for longer than there is something to do."""
        with core.lock:
            self.idle_timeout = 0.0
            self.wake_all()
        return self.join(core, deadline)

    def make_latch(self, core: Core, call: Call) -> Any:
        """Return a lock that is closed."""
        latch = threading.Lock()
        latch.acquire()
        return latch

    # -- their hands -----------------------------------------------------------------------------

    def hands(self) -> list[Hand]:
        """Return the workers: each may have a call."""
        return list(self.roster.members)

    def due_at_changed(self, schedule: Schedule) -> None:
        """What is due first may be something else now."""
        self.roster.due_at_changed(schedule)

    def wake_all(self) -> None:
        """Have everybody look whether to stay. Needs no lock."""
        self.roster.wake_all()

    def amid(self) -> Hand | None:
        """Return this thread's worker, if it is one of these and in the middle of something."""
        hand = amid()
        return hand if hand in self.roster.members else None

    def includes_current_thread(self) -> bool:
        """Return whether this is called by a worker."""
        return self.roster.includes_current_thread()

    def see_to_put_off(self, core: Core) -> None:
        """See that `Core.catch_up` is called when this thread has no lock any more.

        A worker in the middle of taking a call, or of making one done, does so itself right afterwards. For
        others a thread does, which waits for the lock. If none can be had, the next worker that looks for
        calls does.
        """
        if self.amid() is None:
            catcher = threading.Thread(target=core.catch_up, name=f"{self._name}-catch-up", daemon=False)
            with suppress(Exception):
                start_thread(catcher.start)  # not here: that takes locks which this thread may hold, too

    def attach(self, core: Core, places: Places) -> None:
        """Calls may go to this upstream from now on.

        Raises:
            ValueError: If it is in use in virtual time.
        """
        places.attach(core.monitor)

    # -- all of them at a standstill -------------------------------------------------------------

    def at_standstill(self, look: Callable[[bool], T]) -> T:
        """Return what *look* returns while no worker takes a call or makes one done.

        It gets whether they all stand still. One does not if a destructor has interrupted it at that very
        moment, and waits for the core's lock, which the caller holds.
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
        """Take the locks of all workers, but for those that this thread has; return whether it has all then.

        They are in *taken* before, since a signal handler may raise right after any of them is taken.
        """
        taken += [worker.lock for worker in list(self.roster.members) if not is_held(worker.lock)]
        for lock in taken:
            lock.acquire(timeout=timeout)
        return all(is_held(worker.lock) for worker in list(self.roster.members))

    def stop_for_fork(self, timeout: float) -> bool:
        """Before a fork: no worker takes a call or makes one done; return whether that is so in time."""
        self._stopped = []
        return self._stop(self._stopped, timeout)

    def go_on_after_fork(self) -> None:
        """After, in the parent and in the child; may be done again."""
        _let_go_on(self._stopped)


def _let_go_on(taken: list[threading.RLock]) -> None:
    """Give back those locks that this thread has; after an interruption, the rest of them."""
    while taken:
        with suppress(RuntimeError):  # it did not get that one, or has given it back already
            taken[-1].release()
        taken.pop()
