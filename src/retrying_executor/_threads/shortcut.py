"""The fast path of a worker: from one fresh call to the next, without a lock that all threads share.

Most calls are taken, made done and counted here, under their worker's own lock only. With one lock for all,
workers that make short calls would spend their time waiting for each other. Taking a call from a queue to
which submitters append without a lock needs the GIL. Without the GIL, the worker's lock is the core's.

The table in `_calls` says what each thread claims or announces, and what it reads then. The first two rows of
it are carried out here. So this is the only module besides `call` that changes the state of a call: a method
for each of the two changes would cost one part in twenty of the time.
"""

from __future__ import annotations

import time

from retrying_executor._common.stdlib import FINISHED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from retrying_executor._calls.call import Call
    from retrying_executor._core.core import Core
    from retrying_executor._threads.flights import Flights
    from retrying_executor._threads.roster import Roster, Worker

    class Crew(Protocol):
        """What `next_fresh` uses of `Threads`."""

        roster: Roster
        flights: Flights

        def summon(self, core: Core, now: float, /) -> Exception | None: ...


def next_fresh(core: Core, crew: Crew, worker: Worker) -> Call | None:
    """Finish the worker's call, and take the next fresh one if there is nothing else to do.

    Args:
        core: The core of these calls.
        crew: The threads of that core, of which one more may be summoned.
        worker: The worker of this thread.

    Returns:
        A call whose attempt is to run; ``None`` if the worker has to look under the core's lock.
    """
    turns, call, permit = core.turns, worker.call, worker.permit
    places = turns.places
    if call is not None and worker.settlement is not None:
        call._work = None  # before a lock is taken: this may run a destructor of an argument
        try:
            call._unobserved  # noqa: B018
        except AttributeError:  # a thread observes the call: it becomes done under its condition
            call = None  # not later, under the lock, since this may be the last reference
        if call is None:  # not in the handler, or that error would be the context of what a callback raises
            core.settling.finish(worker)
            if worker not in crew.roster.members:  # a callback has forked, and this is the child
                return None
            permit = worker.permit
    now, call, stray = time.monotonic(), None, None
    try:
        worker.acquire()
        # Keep the call until the lock is released. This may be the last reference to it, and a weakref
        # callback of the program may use the executor.
        done, settlement = worker.call, worker.settlement
        if done is not None and settlement is not None:
            (result, exception), unseen = settlement
            if exception is not None:
                done.__dict__  # noqa: B018  # made now: after the claim nothing may be allocated
            try:  # claim: a thread that observes the call from here on waits for this lock
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
            # Only now, after the state is set: a waiter announces itself, then reads the state.
            if done._awaited:
                done._open()
        worker.call = None
        # Under the worker's lock: so after a standstill every worker has seen what was changed before it.
        if now >= turns.only_fresh_until:
            # There are other calls to take, or attempts to take up that have landed. These may be thousands.
            if permit is not None or core.entrance.max_pending is not None:
                return None
            call = crew.flights.take_up(worker)
            if call is None:
                return None
        else:
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
                except AttributeError:  # another thread has claimed it, to cancel or refuse it
                    stray = call
                else:
                    call._worker = worker
                    call._began_at = now
    finally:
        worker.release()
    if stray is not None:
        with core.lock:  # wait for the canceller: it notes the call as gone under this lock
            core.ledger.schedule.drop(stray)
        call = stray = worker.call = None
    if call is None:
        if places is not None:
            places.return_slots(now)
        return None
    # A summoned worker summons the next one when it takes a call, so that all calls get workers one by one.
    if crew.roster.can_summon and (core.fresh or crew.flights.landed):
        with core.lock:
            crew.summon(core, now)
    return call
