"""All that goes without a common lock: from one fresh call to the next.

Most calls are taken, made done and counted here, under nothing but their worker's own lock: with one lock for
all, workers that make short calls would spend their time waiting for each other. Taking a call from a queue
that others append to without a lock needs the GIL; without it, the worker's lock is the core's.

Which side announces or claims what, and then looks at what, stands in the table of `_calls`; here are
the two rows of the worker. So besides that module this one alone changes a call's state: a method for each
of the two changes would cost one part in twenty of the time.
"""

from __future__ import annotations

import time

from retrying_executor._common.stdlib import FINISHED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from retrying_executor._calls.call import Call
    from retrying_executor._core.core import Core
    from retrying_executor._threads.roster import Roster, Worker

    class Crew(Protocol):
        """The threads of a core, as far as this needs to know."""

        roster: Roster

        def summon(self, core: Core, now: float, /) -> Exception | None: ...


def next_fresh(core: Core, crew: Crew, worker: Worker) -> Call | None:
    """Finish the worker's call and return the next fresh one, as long as there is nothing else to see to.

    Args:
        core: Whose calls these are.
        crew: The threads of that core, of which one more may be called.
        worker: That which asks.

    Returns:
        A call whose attempt is to run; ``None`` if the worker has to look what there is to do.
    """
    turns, call, permit = core.turns, worker.call, worker.permit
    places = turns.places
    if call is not None and worker.settlement is not None:
        call._work = None  # now, so that no destructor of an argument runs under a lock
        try:
            call._unobserved  # noqa: B018
        except AttributeError:
            call = None  # not under a lock: that may be the last reference to it
        if call is None:  # not in there: that would be the context of what a callback raises
            core.settling.finish(worker)
            if worker not in crew.roster.members:  # a callback has forked, and this is the child
                return None
            permit = worker.permit
    now, call, stray = time.monotonic(), None, None
    try:
        worker.acquire()
        # Kept until the lock is given back: that may be the last reference, and a weakref callback of the
        # program may use the executor.
        done, settlement = worker.call, worker.settlement
        if done is not None and settlement is not None:
            (result, exception), unseen = settlement
            if exception is not None:
                done.__dict__  # noqa: B018  # made now, since from here on nothing may be
            try:
                del done._unobserved
            except AttributeError:  # pragma: no cover  # observed after the look above: tests/schedules
                return None
            done._result = result
            if exception is None:
                worker.succeeded += 1
            else:
                done._exception, done._unseen = exception, unseen
                worker.failed += 1
            done._state = FINISHED
            worker.settlement = None
            if done._awaited:
                done._open()
        worker.call = None
        if now >= turns.only_fresh_until:
            return None
        if places is not None:
            if permit is None or permit.era != places.reusable_era:
                return None
            began_at = places.gate.take_slots(now, time.monotonic)
            if began_at is None:
                return None
            now = began_at
        try:
            call = worker.call = core.fresh.popleft()
        except IndexError:
            pass
        else:
            try:
                del call._waits
            except AttributeError:  # somebody has cancelled it, or is about to
                stray = call
            else:
                call._worker = worker
                call._began_at = now
    finally:
        worker.release()
    if stray is not None:
        with core.lock:  # which the thread that cancels it may not have given back yet
            core.ledger.schedule.drop(stray)
        call = stray = worker.call = None
    if call is None:
        if places is not None:
            places.return_slots(now)
        return None
    if crew.roster.can_summon and core.fresh:
        with core.lock:
            crew.summon(core, now)
    return call
