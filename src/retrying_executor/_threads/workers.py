"""The life of a worker, from its first call to its leave.

It goes round in `shortcut.next_fresh`, without the core's lock, as long as there is nothing to see to but
fresh calls. Whatever else there may be, it finds in `Shift._next`, under the lock: retries, lanes, the end, a
rest.
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
    from retrying_executor._threads.roster import Roster, Worker

    class Crew(Protocol):
        """The threads of a core, as far as one of them needs to know."""

        roster: Roster
        initializer: Callable[..., object] | None
        initargs: tuple[Any, ...]
        is_initialized: bool
        initializing: int
        idle_timeout: float

        def summon(self, core: Core, now: float, /) -> Exception | None: ...
        def start_newborns(self, core: Core, /) -> Exception | None: ...


_FIRST_PAUSE = 1.0  # seconds before an initializer that has worked before is tried again; then twice as long,
_LONGEST_PAUSE = 60.0  # and so on, up to this


def work(core: Core, crew: Crew, worker: Worker) -> None:
    """Be the thread of a worker.

    Args:
        core: Whose calls it makes.
        crew: The threads that it is one of.
        worker: Which it is.
    """
    current.holder = worker
    Shift(core, crew, worker).work()


class Shift:
    """What a worker does; see `work`."""

    def __init__(self, core: Core, crew: Crew, worker: Worker) -> None:
        self._core = core
        self._crew = crew
        self._worker = worker

    def work(self) -> None:
        """Make calls until there is nothing to do."""
        core, crew, worker = self._core, self._crew, self._worker
        is_initialized = has_arrived = False
        while True:
            try:
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
                    return
                worker.settlement = core.settling.attempt(worker, call)
            except BaseException as error:  # of a done callback, or asynchronous
                has_arrived = False
                core.settling.rescue(worker, error)
                with suppress(BaseException):
                    log.worker_interrupted(error)
            call = None

    def _see_to_others(self) -> None:
        """Do what has come up meanwhile; what that raises is no outcome of the call in the hand."""
        try:
            self._core.catch_up()
            self._crew.start_newborns(self._core)
            unseen.report_overdue()
        except BaseException as error:  # of a done callback, or asynchronous
            log.worker_interrupted(error)

    # -- the initializer -------------------------------------------------------------------------

    def _initialize(self) -> bool:
        """Run the initializer, if there is one, until it works, or the core is broken.

        Returns:
            Whether the worker goes on. If not, it has left.
        """
        core, crew, worker = self._core, self._crew, self._worker
        if crew.initializer is None:
            return True
        with core.lock:
            if worker not in crew.roster.members:  # its start was interrupted
                return False
            # It arrives now, although it takes no call yet: others must be called for the calls that come
            # meanwhile. How many are in their initializer tells `summon` how many of these have a worker.
            crew.roster.arrive(worker)
            crew.initializing += 1
            if crew.roster.can_summon:
                crew.summon(core, time.monotonic())
        crew.start_newborns(core)
        core.turns.decline_unused(core, are_all=True)  # the initializer may take long
        works, pause = self._run_initializer(), _FIRST_PAUSE
        with core.lock:
            crew.initializing -= worker in crew.roster.members  # else it has forked, and this is the child
        while not works:
            if not self._await_recovery(pause):
                return core.turns.is_halted  # for that, `_next` sees to
            works = self._run_initializer()
            pause = min(2 * pause, _LONGEST_PAUSE)
        with core.lock:
            crew.roster.recover(worker)
        return True

    def _run_initializer(self) -> bool:
        """Run the initializer; return whether it worked. If it never has so far, break the core."""
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
        """Wait until the initializer is to be tried again, as long as calls wait and no other worker does.

        Meanwhile this worker takes no call, and no other is started: its initializer would fail too.

        Returns:
            Whether to try; if not, the worker has left, or no attempt starts any more.
        """
        core, roster, worker = self._core, self._crew.roster, self._worker
        due_at = time.monotonic() + pause
        while not core.turns.is_halted:
            with core.lock:
                now = time.monotonic()
                if not roster.ail(worker):  # publish first, so that it can be woken; then look
                    return False
                if now >= due_at or core.is_ending():
                    # Publish that others may be started, then look once more. A submitter that has queued a
                    # call without the lock either sees that, and starts one; or its call is seen here.
                    roster.depart(worker)
                    if roster.on_the_way is not None or not len(core.ledger.schedule):
                        return False
                    roster.members[worker] = None
                    roster.ail(worker)
                if now >= due_at:
                    return True
            worker.gate.acquire(True, due_at - now)
        return False

    # -- the next call ---------------------------------------------------------------------------

    def _next(self) -> Call | None:
        """Finish the worker's call, if it has its outcome, and return the next one, when there is one.

        Returns:
            A call whose attempt is to run; ``None`` if the worker is to leave.
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
            roster, turns = self._crew.roster, core.turns  # others after a fork
            schedule = core.ledger.schedule
            with core.lock:
                if worker not in roster.members:  # of a forked child; or its start was interrupted
                    return None
                if turns.is_halted and len(schedule):  # it was halted after the look above: clear once more
                    continue
                core.entrance.made_done()  # this worker may have made a call done
                roster.arrive(worker)
                now = time.monotonic()
                if (core.fresh or now >= turns.only_fresh_until) and self._take(now):
                    return worker.call
                is_crowded = schedule.count_fresh() > 0 or schedule.held.has_open_lanes
                if is_crowded and not turns.is_halted:  # there are more than `Schedule.take` asks for at once
                    continue
                # Submitters queue a call without this lock, then look whether somebody rests. So it is the
                # other way round here: publish that this worker rests, then look once more. Whatever the
                # order in which the two meet, the submitter wakes the worker, or the worker finds the call.
                roster.rest(worker)
                if (core.fresh or now >= turns.only_fresh_until) and self._take(now):
                    return worker.call
                due_at = None
                if turns.only_fresh_until < math.inf and not (turns.is_halted or roster.has_leader):
                    # Publish first here too: a retry that is added from now on, and due sooner than what is
                    # found below, wakes the leader.
                    roster.lead(worker)
                    due_at = schedule.first_due_at()
                    if due_at is None:
                        roster.follow(worker)
                    else:
                        roster.leads_until = due_at
                if due_at is not None:
                    patience = max(0.0, min(due_at - now, threading.TIMEOUT_MAX))
                    if due_at == math.inf:
                        patience = -1.0  # for ever
                elif not (timed_out or self._crew.idle_timeout == 0 or core.is_ending()):
                    patience = self._crew.idle_timeout
                elif roster.leave(worker):
                    core.ledger.take_over(worker)
                    return None
                else:  # a submitter has woken it before it could go, and relies on it
                    continue
            if turns.has_unused:
                turns.decline_unused(core)
            timed_out = not worker.gate.acquire(True, patience)

    def _take(self, now: float) -> bool:
        """Put the next call, if one is ready, in the worker's hands, and call for help with the rest."""
        core, roster, worker = self._core, self._crew.roster, self._worker
        call = core.turns.take(worker, now, core)
        roster.due_at_changed(core.ledger.schedule)  # also: an upstream may open sooner than it was thought
        if call is None:
            return False
        if worker.rests:  # it had published that
            roster.arrive(worker)
        if roster.can_summon:
            self._crew.summon(core, now)
        return True
