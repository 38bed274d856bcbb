"""The life of a worker, from its start until it leaves.

As long as there are only fresh calls to take, the worker gets them from `shortcut.next_fresh`, without the
core's lock. All else happens in `Shift._next`, under the lock: retries, calls in lanes, resting, leaving.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress

from retrying_executor._calls.current import current
from retrying_executor._common import log, unseen
from retrying_executor._core.turns import end_permit
from retrying_executor._threads.shortcut import next_fresh

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from retrying_executor._calls.call import Call
    from retrying_executor._core.core import Core
    from retrying_executor._engines.engine import Engine
    from retrying_executor._threads.flights import Flights
    from retrying_executor._threads.roster import Roster, Worker

    class Crew(Protocol):
        """What a worker uses of `Threads`."""

        roster: Roster
        flights: Flights
        initializer: Callable[..., object] | None
        initargs: tuple[Any, ...]
        is_initialized: bool
        initializing: int
        idle_timeout: float
        engine: Engine | None

        def summon(self, core: Core, now: float, /) -> Exception | None: ...
        def start_newborns(self, core: Core, /) -> Exception | None: ...


_FIRST_PAUSE = 1.0  # seconds until a failed initializer that worked before is tried again; doubles each time
_LONGEST_PAUSE = 60.0  # seconds


def work(core: Core, crew: Crew, worker: Worker) -> None:
    """Run as the thread of a worker.

    Args:
        core: The core whose calls it makes.
        crew: The threads of that core.
        worker: The worker.
    """
    current.hand = worker
    if crew.engine is None:
        Shift(core, crew, worker).work()
        return
    worker.runner = crew.engine.new_runner(lambda: core.turns.is_halted)
    try:
        Shift(core, crew, worker).work()
    finally:  # not left to the collector: an exception that is kept may refer to this frame
        worker.runner.leave()


class Shift:
    """What the thread of a worker does; see `work`."""

    def __init__(self, core: Core, crew: Crew, worker: Worker) -> None:
        self._core = core
        self._crew = crew
        self._worker = worker

    def work(self) -> None:
        """Make attempts until the worker leaves."""
        core, crew, worker = self._core, self._crew, self._worker
        is_initialized = has_arrived = False
        while True:
            try:
                # After an error the worker arrives once more: what it left half done, `_next` completes.
                call = next_fresh(core, crew, worker) if has_arrived else None
                if call is None:
                    is_initialized = is_initialized or self._initialize()
                    call = self._next() if is_initialized else None
                    has_arrived = True
                    if core.turns.has_unused:
                        core.turns.decline_unused(core)
                if core.put_off or crew.roster.newborns or unseen.overdue:
                    self._see_to_others()
                if call is None:
                    crew.flights.close_if_over(core)
                    return
                worker.settlement = core.settling.attempt(worker, call)
            except BaseException as error:  # of a done callback, or asynchronous
                has_arrived = False
                core.settling.rescue(worker, error)
                with suppress(BaseException):
                    log.worker_interrupted(error)
            call = None  # or this frame would keep a call that is done

    def _see_to_others(self) -> None:
        """Do what other threads left to this one. What that raises is no outcome of the call in the hand."""
        try:
            self._core.catch_up()
            self._crew.start_newborns(self._core)
            unseen.report_overdue()
        except BaseException as error:  # of a done callback, or asynchronous
            log.worker_interrupted(error)

    # -- the initializer -------------------------------------------------------------------------

    def _initialize(self) -> bool:
        """Run the initializer, if there is one, until it works or no attempt starts any more.

        Returns:
            Whether the worker goes on. If not, it has left.
        """
        core, crew, worker = self._core, self._crew, self._worker
        if crew.initializer is None:
            return True
        with core.lock:
            if worker not in crew.roster.members:  # its start was interrupted
                return False
            # The worker arrives now, although it takes no call yet: otherwise no other worker would be
            # summoned for the calls that come meanwhile. ``initializing`` tells `summon` how many calls have
            # a worker in its initializer already.
            crew.roster.arrive(worker)
            crew.initializing += 1
            crew.summon(core, time.monotonic())
        crew.start_newborns(core)
        core.turns.decline_unused(core, are_all=True)  # the initializer may take long
        works, pause = self._run_initializer(), _FIRST_PAUSE
        with core.lock:
            crew.initializing -= worker in crew.roster.members  # else it forked, and this is the child
        while not works:
            if not self._await_recovery(pause):
                return core.turns.is_halted  # then `_next` clears the core and leaves
            works = self._run_initializer()
            pause = min(2 * pause, _LONGEST_PAUSE)
        with core.lock:
            crew.roster.end_recovery(worker)
        return True

    def _run_initializer(self) -> bool:
        """Run the initializer; return whether it worked. If it never has before, break the core."""
        crew = self._crew
        assert crew.initializer is not None
        try:
            crew.initializer(*crew.initargs)
        except BaseException as error:
            breaks = not crew.is_initialized
            log.initializer_failed(error, breaks=breaks)
            if breaks:
                self._core.ending.break_off()
            return False
        crew.is_initialized = True
        return True

    def _await_recovery(self, pause: float) -> bool:
        """Wait until the initializer is to be tried again, unless another worker recovers or no call waits.

        Meanwhile this worker takes no call, and no thread is started: its initializer would fail, too.

        Returns:
            Whether to try. If not, the worker has left, or no attempt starts any more.
        """
        core, roster, worker = self._core, self._crew.roster, self._worker
        due_at = time.monotonic() + pause
        while not core.turns.is_halted:
            with core.lock:
                now = time.monotonic()
                if not roster.start_recovery(worker):  # publish first, so that `wake_all` finds it; then look
                    return False
                if now >= due_at or core.is_ending():
                    # Publish that other threads may be started, then look once more. A submitter that queues
                    # a call without the lock looks afterwards: either it sees this and starts a thread, or
                    # the call is seen here. Without this the call might have no worker.
                    roster.depart(worker)
                    if roster.on_the_way is not None or not len(core.ledger.schedule):
                        return False
                    roster.members[worker] = None
                    roster.start_recovery(worker)
                if now >= due_at:
                    return True
            worker.gate.acquire(True, due_at - now)
        return False

    # -- the next call ---------------------------------------------------------------------------

    def _next(self) -> Call | None:
        """Finish the worker's call, if it has its outcome, then wait for the next one.

        Returns:
            A call whose attempt is to run; ``None`` if the worker has left.
        """
        core, worker = self._core, self._worker
        timed_out = is_crowded = False
        if worker.permit is not None:
            end_permit(worker)
        while True:
            if is_crowded:
                time.sleep(0)  # or this thread would have the lock again before others that wait for it
            if worker.settlement is not None:  # pragma: no cover  # a race: tests/schedules
                core.settling.finish(worker)
            worker.call = None
            if core.turns.is_halted:
                core.ending.clear(core)
            if core.put_off:
                core.catch_up()
            if core.keeper is not None:
                core.keeper.load_more()
            roster, turns = self._crew.roster, core.turns  # new ones in a forked child
            schedule = core.ledger.schedule
            with core.lock:
                if worker not in roster.members:  # of a forked child; or its start was interrupted
                    return None
                if turns.is_halted and len(schedule):  # it was halted after the look above: clear once more
                    continue
                core.entrance.wake_submitters()  # this worker may have made a call done
                roster.arrive(worker)
                now = time.monotonic()
                if (core.fresh or now >= turns.only_fresh_until) and self._take(now):
                    return worker.call
                is_crowded = schedule.count_fresh() > 0 or schedule.held.has_open_lanes
                if is_crowded and not turns.is_halted:  # `Schedule.take` has stopped after many refusals
                    continue
                # A submitter queues a call without this lock, then looks whether a worker rests. So here it
                # is the other way round: publish that this worker rests, then look for calls once more. Then
                # either the submitter wakes the worker, or the worker finds the call. Without the second look
                # a call queued between the first look and the publishing would wait for ever.
                roster.rest(worker)
                if (core.fresh or now >= turns.only_fresh_until) and self._take(now):
                    return worker.call
                due_at = None
                if turns.only_fresh_until < math.inf and not (turns.is_halted or roster.has_leader):
                    # Publish that this worker leads, then look when the first retry is due: one that is due
                    # sooner, and is added later, finds a leader to wake.
                    roster.lead(worker)
                    due_at = schedule.first_due_at()
                    if due_at is None:
                        roster.follow(worker)
                    else:
                        roster.leads_until = due_at
                if due_at is not None:
                    timeout = max(0.0, min(due_at - now, threading.TIMEOUT_MAX))
                    if due_at == math.inf:
                        timeout = -1.0  # until it is woken
                elif not (timed_out or self._crew.idle_timeout == 0 or core.is_ending()):
                    timeout = self._crew.idle_timeout
                elif self._crew.flights.needs(worker, roster.members):
                    timeout = -1.0
                elif roster.leave(worker):
                    core.ledger.take_over(worker)
                    return None
                else:  # a submitter has woken it before it could leave, and relies on it
                    continue
            if turns.has_unused:
                turns.decline_unused(core)
            timed_out = not worker.gate.acquire(True, timeout)
            if timed_out and core.keeper is not None:
                core.keeper.flush()

    def _take(self, now: float) -> bool:
        """Give the worker the next call, if one is ready, and summon another worker for the rest."""
        core, roster, worker = self._core, self._crew.roster, self._worker
        call = self._crew.flights.take_up(worker) or core.turns.take(worker, now, core)
        roster.due_at_changed(core.ledger.schedule)  # also without a call: an upstream may open sooner
        if call is None:
            return False
        if worker.rests:  # `_next` has published that
            roster.arrive(worker)
        if roster.can_summon:
            self._crew.summon(core, now)
        return True
