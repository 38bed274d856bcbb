"""What the workers of one executor do: the life of each, from its first call to its leave.

This is the middle of three floors: below are the state that it works on, its invariants and its locks, see
`_calls`; above is what all others do, see `_pool`. Who rests and who is woken is the business of `_crew`, and
what one attempt is that of `_attempt`.

A worker goes round in `_next_fresh`, without the pool's lock, as long as there is nothing to see to but fresh
calls. Whatever else there may be, it finds in `_next`, under the lock: retries, lanes, the end, a rest.
"""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures.thread import BrokenThreadPool
from contextlib import suppress
from functools import partial

from retrying_executor import _attempt, _log
from retrying_executor._calls import Calls
from retrying_executor._current import current
from retrying_executor._gate import Permit
from retrying_executor._policy import CUT_SHORT
from retrying_executor._policy import DONE as ACCEPTED
from retrying_executor._stdlib import FINISHED, can_wait_for_a_start, is_held, start_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from retrying_executor._crew import Worker
    from retrying_executor._future import Ending, Outcome
    from retrying_executor._gate import Evidence
    from retrying_executor._log import UnseenFailure
    from retrying_executor._schedule import Call, Claim
    from retrying_executor._upstream import Upstream

_ASK_AGAIN_AFTER = 0.001  # seconds
_FIRST_PAUSE = 1.0  # seconds before an initializer that has worked before is tried again; then twice as long,
_LONGEST_PAUSE = 60.0  # and so on, up to this
_BROKEN = "A thread initializer failed, the thread pool is not usable anymore"


class Workers(Calls):
    """The threads that make the calls, and what each of them does next."""

    def _call_for_help(self, now: float) -> Exception | None:
        """Wake one more worker or have a newborn, if one can be had, and would find something to do.

        The caller holds the lock. Having given it back, it calls `_start_newborns`.

        Returns:
            Why there can be no newborn. That is no harm where others are at work.
        """
        crew, schedule = self._crew, self._ledger.schedule
        if self._initializing and not crew.has_resting:
            # Those in their initializer will see to one call each, and to the retries.
            needed = schedule.count_ready(now) > self._initializing
        else:
            needed = schedule.is_ready(now) or (not crew.has_leader and schedule.first_due_at() is not None)
        if needed and crew.can_summon:
            try:
                crew.summon(self._work)
            except Exception as error:
                return error
        return None

    def _start_newborns(self, *, is_repeated: bool = False, may_wait: bool = False) -> Exception | None:
        """Start the threads of newborns, but those that another thread is starting. Called without the lock.

        `Thread.start` takes locks of its own and waits for the new thread, and the collector may run any
        destructor meanwhile, there or here, which may want a lock of ours. So a thread that holds one, as it
        can only in a destructor or a signal handler, leaves this to a thread that holds none.

        Args:
            is_repeated: Whether this is for calls that have relied on a newborn which was withdrawn.
            may_wait: Whether this thread is there for nothing else: it holds no lock, and may wait for any.

        Returns:
            Why one could not be started. It has been withdrawn.
        """
        crew, holder, error = self._crew, current.holder, None
        newborns = [worker for worker in crew.newborns.copy() if not worker.is_starting]
        if not newborns:
            return None
        holds = is_held(self._lock) or (holder is not None and is_held(holder.lock))
        leaves_it = not may_wait and (holds or not can_wait_for_a_start())
        try:
            if leaves_it:
                start_thread(partial(self._start_newborns, is_repeated=is_repeated, may_wait=True))
            else:
                for worker in newborns:
                    crew.start(worker)
        except Exception as cause:
            error = cause
            for worker in newborns:
                crew.withdraw(worker)
        finally:
            if not leaves_it:
                self._look_after_births(is_repeated=is_repeated)
        try:
            return error
        finally:
            del error  # its traceback keeps this frame

    def _look_after_births(self, *, is_repeated: bool) -> None:
        """See to the calls that relied on a newborn, if it was withdrawn: try again, once; then they fail."""
        with self._lock:
            if self._crew.has_resting:  # since a moment ago: no other was born for their sake
                self._call_for_help(time.monotonic())
            self._on_credit = [call for call in self._on_credit if not call.done()]
            if self._on_credit and not is_repeated:
                self._call_for_help(time.monotonic())
            is_over = not self._crew.newborns
            stranded = self._on_credit.copy() if is_over and not self._crew.members else []
            if is_over and not stranded:
                self._on_credit.clear()
        if not is_over:
            self._start_newborns(is_repeated=True)  # unless another thread does
        interrupt = None
        for call in stranded:  # forgotten afterwards, since shutdown() waits for them
            try:
                self.settle(call, (None, RuntimeError("can't start new thread")), self._strand)
            except BaseException as error:  # of a done callback: the others fail first
                interrupt = error
        if stranded:
            with self._lock:
                self._on_credit = [call for call in self._on_credit if call not in stranded]
        if interrupt is not None:
            raise interrupt

    def _strand(self, call: Call, outcome: Outcome, unseen: UnseenFailure | None) -> bool:
        """Make a call fail for want of a thread, if it still waits, and nobody is there to run it."""
        if not self._crew.members and hasattr(call, "_waits"):
            return self._ledger.settle(call, outcome, unseen)
        if unseen is not None:  # pragma: no branch  # its work is gone as soon as it is done
            unseen.seen()
        return False

    # -- what a worker does ----------------------------------------------------------------------

    def _work(self, worker: Worker) -> None:
        """The whole life of a worker."""
        current.holder = worker
        is_initialized = has_arrived = False
        while True:
            try:
                call = self._next_fresh(worker) if has_arrived else None
                if call is None:
                    is_initialized = is_initialized or self._initialize(worker)
                    call = self._next(worker) if is_initialized else None
                    has_arrived = True
                    if self._invitations or self._unused:
                        self._decline_unused()
                if self._crew.newborns:
                    self._start_newborns()
                if _log.overdue:
                    _log.report_overdue()
                if call is None:
                    return
                worker.ending = self._attempt(worker, call)
            except BaseException as error:
                has_arrived = False
                self._rescue(worker, error)
            call = None

    def _initialize(self, worker: Worker) -> bool:
        """Run the initializer, if there is one, until it works, or the pool is broken.

        Returns:
            Whether the worker goes on. If not, it has left.
        """
        if self._initializer is None:
            return True
        with self._lock:
            if worker not in self._crew.members:  # its start was interrupted
                return False
            self._crew.arrive(worker)
            self._initializing += 1
            if self._crew.can_summon:
                self._call_for_help(time.monotonic())
        self._start_newborns()
        self._decline_unused(are_all=True)  # who knows how long this takes
        works, pause = self._run_initializer(self._initializer), _FIRST_PAUSE
        with self._lock:
            self._initializing -= 1
        while not works:
            if not self._await_recovery(worker, pause):
                return self._halted  # for that, `_next` sees to
            works = self._run_initializer(self._initializer)
            pause = min(2 * pause, _LONGEST_PAUSE)
        with self._lock:
            self._crew.recover(worker)
        return True

    def _run_initializer(self, initializer: Callable[..., object]) -> bool:
        """Run the initializer; return whether it worked. If it never has so far, break the pool."""
        try:
            initializer(*self._initargs)
        except BaseException as error:
            breaks = not self._is_initialized
            _log.initializer_failed(error, breaks=breaks)
            if breaks:
                with self._lock:
                    self._refusal = BrokenThreadPool(_BROKEN)
                    self._is_open = False
                    self._halted = True
                    self._look_ahead()
                    self._turn_away()
                    self._room.notify_all()
                    self._crew.wake_all()
            return False
        self._is_initialized = True
        return True

    def _await_recovery(self, worker: Worker, pause: float) -> bool:
        """Wait until the initializer is to be tried again, as long as calls wait and no other worker does.

        Meanwhile this worker takes no call, and no other is started: its initializer would fail too.

        Returns:
            Whether to try; if not, the worker has left, or no attempt starts any more.
        """
        due_at = time.monotonic() + pause
        while not self._halted:
            with self._lock:
                crew, now = self._crew, time.monotonic()
                if not crew.ail(worker):  # publish first, so that it can be woken; then look
                    return False
                if now >= due_at or self._refusal or self._abandoned:
                    crew.depart(worker)  # publish that others may start, then look once more
                    if crew.on_the_way is not None or not len(self._ledger.schedule):
                        return False
                    crew.members[worker] = None
                    crew.ail(worker)
                if now >= due_at:
                    return True
            worker.gate.acquire(True, due_at - now)
        return False

    def _next_fresh(self, worker: Worker) -> Call | None:
        """Finish the worker's call and return the next fresh one, as long as there is nothing else to see to.

        That is most of the time, and goes without the pool's lock.

        Returns:
            A call whose attempt is to run; ``None`` if `_next` has to look what there is to do.
        """
        call, upstream, permit = worker.call, self._upstream, worker.permit
        if call is not None and worker.ending is not None:
            try:
                call._unobserved  # noqa: B018
            except AttributeError:
                call = None  # not under a lock: that may be the last reference to it
                self._finish(worker)
                if worker not in self._crew.members:  # a callback has forked, and this is the child
                    return None
                permit = worker.permit
        now, stray = time.monotonic(), None
        try:
            worker.acquire()
            call, ending = worker.call, worker.ending
            if call is not None and ending is not None:
                (result, exception), unseen = ending
                if exception is not None:
                    call.__dict__  # noqa: B018  # made now, since from here on nothing may be
                try:
                    del call._unobserved
                except AttributeError:  # pragma: no cover  # since a moment ago: tests/schedules
                    return None
                call._result = result
                if exception is None:
                    worker.succeeded += 1
                else:
                    call._exception, call._unseen = exception, unseen
                    worker.failed += 1
                call._state = FINISHED
                worker.ending = None
                if call._awaited:
                    call._open()
            worker.call = None
            if now >= self._acts_at:
                return None
            if upstream is not None:
                if permit is None or permit.era != upstream.calm_era:
                    return None
                began_at = upstream.go_on(now)
                if began_at is None:
                    return None
                now = began_at
            try:
                call = worker.call = self._fresh.popleft()
            except IndexError:
                call = None
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
            with self._lock:  # which whoever has it may not have given back yet
                self._ledger.schedule.drop(stray)
            call = stray = worker.call = None
        if call is None:
            if upstream is not None:
                upstream.go_on_without(now)
            return None
        if self._crew.can_summon and self._fresh:
            with self._lock:
                self._call_for_help(now)
        return call

    def _next(self, worker: Worker) -> Call | None:
        """Finish the worker's call, if it has its outcome, and return the next one, when there is one.

        Returns:
            A call whose attempt is to run; ``None`` if the worker is to leave.
        """
        timed_out = False
        self._give_place_back(worker)
        while True:
            if worker.ending is not None:  # pragma: no cover  # a race: tests/schedules
                self._finish(worker)
            worker.call = None
            if self._halted:
                self._clear()
            with self._lock:
                crew, schedule = self._crew, self._ledger.schedule
                if worker not in crew.members:  # of a forked child; or its start was interrupted
                    return None
                if self._halted and len(schedule):  # since a moment ago: shutdown() waits for workers only
                    continue
                if self._max_pending is not None:
                    self._room.notify_all()  # it may have made a call done
                crew.arrive(worker)
                now = time.monotonic()
                if (self._fresh or now >= self._acts_at) and self._take_up(worker, now):
                    return worker.call
                crew.rest(worker)  # publish first, then look once more
                if (self._fresh or now >= self._acts_at) and self._take_up(worker, now):
                    return worker.call
                due_at = None
                if self._acts_at < math.inf and not (self._halted or crew.has_leader):
                    crew.lead(worker)  # publish first here too
                    due_at = schedule.first_due_at()
                    if due_at is None:
                        crew.follow(worker)
                    else:
                        self._leads_until = due_at
                if due_at is not None:
                    patience = -1.0 if due_at == math.inf else min(due_at - now, threading.TIMEOUT_MAX)
                elif not (timed_out or self._idle_timeout == 0 or self._abandoned or self._refusal):
                    patience = self._idle_timeout
                elif crew.leave(worker):
                    self._ledger.take_over(worker)
                    return None
                else:
                    continue
            if self._invitations or self._unused:
                self._decline_unused()
            timed_out = not worker.gate.acquire(True, patience)

    def _finish(self, worker: Worker) -> None:
        """Make the worker's call done, which has its outcome, and tell whoever observes it."""
        call, ending = worker.call, worker.ending
        assert call is not None
        assert ending is not None
        worker.ending = None
        self._give_place_back(worker)  # the callbacks may take long, or wait for it
        with call._condition:
            with worker.lock:
                finished = call._finish(*ending)
                if finished and ending[0][1] is None:
                    worker.succeeded += 1
                elif finished:
                    worker.failed += 1
                worker.call = None
            if finished:
                call._tell_waiters()
        del ending
        if finished:
            call._open()
            call._invoke_callbacks()

    def _take_up(self, worker: Worker, now: float) -> bool:
        """Put the next call, if one is ready, in the worker's hands, and call for help with the rest."""

        def claim(call: Call, now: float) -> Claim:
            claimed = self._ask(call, worker, now) if has_upstreams else call._begin(worker, now)
            if claimed is True:
                worker.call = call  # now, so that no exception loses it
            return claimed

        if self._halted:
            return False
        has_upstreams = self._is_mixed or self._upstream is not None
        if self._upstream is not None and now < self._acts_at:
            self._reserve(worker, self._upstream)
        schedule = self._ledger.schedule
        call = schedule.take(now, claim)
        if self._crew.has_leader and schedule.has_lanes:  # an upstream may open sooner than it thinks
            due_at = schedule.first_due_at()
            if due_at is not None and due_at < self._leads_until:
                self._crew.wake_leader()
        if call is None and worker.permit is not None:
            self._unused.append(worker.permit)
            worker.permit = None
        if now >= self._acts_at:
            self._look_ahead()
            self._release_leader()
        if call is None:
            return False
        if worker.rests:  # since a moment ago
            self._crew.arrive(worker)
        if self._crew.can_summon:
            self._call_for_help(now)
        return True

    def _attempt(self, worker: Worker, call: Call) -> Ending | None:
        """Make an attempt, and put the call in backoff if another follows.

        Returns:
            What the call becomes done with; ``None`` if it has another attempt, or is done already.
        """
        work, permit, outcome = call._work, worker.permit, None
        sits_out_until = -math.inf
        try:
            if work is None:  # somebody else set the outcome
                return None
            verdict, outcome = _attempt.make(call, work, permit, self.monitor)
            if (
                verdict is ACCEPTED
                and call._attempts == 1  # as most are
                and (permit is None or self._may_go_on(permit))
            ):
                call._work = None  # now, so that no destructor of an argument runs under a lock
                permit = None
                return outcome, None
            if permit is not None:
                worker.permit = None
                permit.upstream.end(permit, *_attempt.evidence(work[4], verdict, outcome), outcome[1])
                sits_out_until = min(permit.sits_out_until(), _attempt.ends_at(call, work[4]))
                permit = None
            if verdict.delay is not None and not (self._halted or call.done()):  # set_result() comes any time
                # Announced before the next attempt can fail too, so that the lines come in order.
                _attempt.announce(call, work, outcome, verdict, self.monitor)
                if self._back_off(worker, call, max(time.monotonic() + verdict.delay, sits_out_until)):
                    _attempt.let_go(outcome)
                    return None
            if verdict.delay is not None:
                verdict = CUT_SHORT
            if verdict is not ACCEPTED and not call.done():
                _attempt.announce(call, work, outcome, verdict, self.monitor)
            return outcome, _attempt.conclude(call, work, outcome, verdict)
        finally:
            if permit is not None:
                self._give_place_back(worker, "none")
            del call, work, outcome  # the exception's traceback keeps this frame

    def _back_off(self, worker: Worker, call: Call, due_at: float) -> bool:
        """Put a call whose attempt failed in backoff; return ``False`` if that was the last attempt."""
        with self._lock:
            if call._is_last or call.done() or self._halted:
                return False
            worker.call = None
            if self._ledger.back_off(call, due_at):
                self._crew.wake_leader()
            self._look_ahead()
            return True

    def _rescue(self, worker: Worker, error: BaseException) -> None:
        """Keep the worker alive: *error* was raised by a done callback, or asynchronously."""
        with suppress(BaseException):
            self._give_place_back(worker, "none")
        if worker.call is not None and worker.ending is None:
            with suppress(BaseException):  # of its callbacks; its state is changed before they run
                self.settle(worker.call, (None, error))
        with suppress(BaseException):
            _log.worker_interrupted(error)

    def _clear(self) -> None:
        """Make every call done that waits for an attempt that will not be."""
        self._decline_unused(are_all=True)  # their callbacks may wait for who needs the places
        with self._lock:
            # At a standstill, so that all have seen that they may take no more.
            calls = self._at_standstill(lambda _: self._ledger.schedule.waiting())
        for call in calls:
            if isinstance(self._refusal, BrokenThreadPool):
                self.settle(call, (None, BrokenThreadPool(_BROKEN)))
            else:
                self.cancel(call)

    # -- upstreams -------------------------------------------------------------------------------

    def _ask(self, call: Call, worker: Worker, now: float) -> Claim:
        """Begin an attempt if the call's upstream, if it has one, lets it through."""
        work = call._work
        upstream = None if work is None else work[4].upstream
        if upstream is None or work is None or worker.permit is not None or call.done():
            return call._begin(worker, now)
        if call._is_too_late(work[4], now):
            return call._begin(worker, now)  # without a place: no attempt will be made, see _attempt.make
        opens_at, until = self._ledger.schedule.waits_between(call, upstream, work[4].max_elapsed, now)
        if opens_at <= now:
            permit = upstream.ask(self)
            if permit is None:
                return upstream, now + _ASK_AGAIN_AFTER, until
            self._invitations.pop(upstream, None)
            if isinstance(permit, Permit):
                worker.permit = permit
                begun = call._begin(worker, now)
                if not begun:  # a destructor or a signal handler has cancelled it meanwhile
                    self._unused.append(permit)
                    worker.permit = None
                return begun
            opens_at = permit
        return upstream, opens_at, until

    def _reserve(self, worker: Worker, upstream: Upstream) -> None:
        """Get a place for a fresh call before it is taken, since others go on without the lock.

        They could pass by one that was taken and then refused. So if there is no place, they do not
        go on from now on.
        """
        permit = upstream.ask(self)
        if isinstance(permit, Permit):
            worker.permit = permit
            return
        self._acts_at = -math.inf
        self._at_standstill(bool)  # from now on all have seen it

    def _may_go_on(self, permit: Permit) -> bool:
        """Return whether the worker may keep its place for the next call: where there is one."""
        return bool(self._fresh) and self._acts_at > -math.inf and permit.era == permit.upstream.calm_era

    def _give_place_back(self, worker: Worker, evidence: Evidence = "worked") -> None:
        """The worker does not go on at once with a call of the same upstream. Called without a lock."""
        permit = worker.permit
        if permit is not None:
            worker.permit = None
            permit.upstream.end(permit, evidence)

    def look_again(self, upstream: Upstream, opens_at: float) -> bool:
        """An upstream lets calls through again, now or at a certain time.

        Args:
            upstream: Which it is.
            opens_at: From when on; if that is now, a place is kept for this pool.

        Returns:
            Whether a call waits for that, and somebody will see to it.
        """
        with self._lock:
            lane = self._ledger.schedule.lane(upstream)
            if lane is None or self._halted:
                return False
            lane.notice(time.monotonic())
            lane.opens_at = min(lane.opens_at, opens_at)  # what is told late may be old; asking does no harm
            now, crew = time.monotonic(), self._crew
            if opens_at > now:
                crew.wake_leader()
                return True
            self._invitations[upstream] = None
            if crew.can_summon:
                self._call_for_help(now)
        self._start_newborns()
        with self._lock:
            if crew.on_the_way is not None:
                return True
            self._invitations.pop(upstream, None)  # whoever is free first will ask
            return False

    def _decline_unused(self, *, are_all: bool = False) -> None:
        """Give back the places that are kept for this pool if there is nobody to use them, or no call."""
        unused: list[Upstream] = []
        permits: list[Permit] = []
        try:
            with self._lock:
                lane_of = self._ledger.schedule.lane
                are_all |= self._crew.on_the_way is None and not self._crew.has_resting
                unused += [one for one in list(self._invitations) if are_all or lane_of(one) is None]
                for upstream in unused:
                    self._invitations.pop(upstream, None)
                permits, self._unused = self._unused, []
            _give_back(self, unused, permits)
        except BaseException:  # of a signal handler: others wait for these places
            _give_back(self, unused, permits)
            raise


def _give_back(pool: Workers, invited: list[Upstream], permits: list[Permit]) -> None:
    """Give back the places that upstreams keep for a pool, and those that it has; may be done again."""
    for upstream in invited:
        upstream.decline(pool)
    for permit in permits:
        permit.upstream.take_back(permit)
