"""The calls of one executor and the threads that make them.

``_lock`` guards the ledger, the crew and the state of every call that waits. While it is free:

- every accepted call is waiting (in the ledger's schedule), running (in a worker's hands) or done,
  and exactly one of these;
- if a call waits, there is a worker; if it is ready and a worker rests or may be started, one is on
  its way; if it is in backoff and a worker rests or may be started, one leads or is on its way;
- a call becomes done once, by whoever took it out of the schedule or ran its last attempt;
- before ``_acts_at`` there is nothing to see to but fresh calls.

Most calls never meet it. They are queued without a lock, and taken up and made done under the worker's
own, see `_crew`; how that goes together with those who cancel or observe them stands in `_future`. So
everywhere the order is: publish first (a call, that a worker rests, that it left), then look once more
whether there is something to do.

Lock order: ``_lock``, then those of the workers. No other lock is taken while ``_lock`` is held, but for
those inside `threading.Thread`; no user code runs, and no waiter is told. All are reentrant for the sake of
destructors and signal handlers, which may submit or cancel wherever they interrupt. Since that may be
where a worker holds its own lock, who has ``_lock`` does not wait for those of the workers for ever.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from concurrent.futures.thread import BrokenThreadPool
from contextlib import contextmanager, suppress

from retrying_executor import _attempt, _log
from retrying_executor._crew import Crew, Worker
from retrying_executor._current import current
from retrying_executor._errors import ForkedFutureError, PendingLimitError
from retrying_executor._gate import Permit
from retrying_executor._ledger import Ledger
from retrying_executor._policy import DONE as ACCEPTED
from retrying_executor._stdlib import DONE, FINISHED, HAS_GIL, is_held

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from retrying_executor._future import Ending, Outcome
    from retrying_executor._gate import Evidence
    from retrying_executor._monitor import Monitor
    from retrying_executor._schedule import Call, Claim
    from retrying_executor._stats import Stats
    from retrying_executor._upstream import Upstream
    from retrying_executor._value import Clock

_AFTER_SHUTDOWN = "cannot schedule new futures after shutdown"
_AT_EXIT = "cannot schedule new futures after interpreter shutdown"
_ARRIVAL_TIMEOUT = 0.05  # seconds
_ASK_AGAIN_AFTER = 0.001  # seconds
_STANDSTILL_TIMEOUT = 10.0  # seconds; many threads may have their turn before one goes on
_BROKEN = "A thread initializer failed, the thread pool is not usable anymore"


class Pool:
    """What an executor, its views and its futures share; lives as long as there is something to do.

    Args:
        max_workers: How many threads there may be; 1 or more.
        thread_name_prefix: What the threads' names begin with.
        initializer: Called by every thread before its first call, or ``None``.
        initargs: The arguments of *initializer*.
        idle_timeout: How long a thread with nothing to do stays, in seconds; ``None``: for ever.
        exit_timeout: How long the end of the interpreter waits, in seconds; ``None``: for ever.
        max_pending: How many calls may be accepted and not done; ``None``: no limit.
        wait_when_full: Whether ``submit()`` waits for room instead of raising.
        upstream: The service that the calls go to, or ``None``; see `serve`.
        monitor: Who looks on, or ``None``.
    """

    clock: Clock = time

    def __init__(
        self,
        *,
        max_workers: int,
        thread_name_prefix: str,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        idle_timeout: float | None,
        exit_timeout: float | None,
        max_pending: int | None,
        wait_when_full: bool,
        upstream: Upstream | None,
        monitor: Monitor | None,
    ) -> None:
        self._max_workers = max_workers
        self._thread_name_prefix = thread_name_prefix
        self._initializer = initializer
        self._initargs = initargs
        self._idle_timeout = -1.0 if idle_timeout is None else min(idle_timeout, threading.TIMEOUT_MAX)
        self.exit_timeout = exit_timeout
        self._max_pending = max_pending
        self._wait_when_full = wait_when_full
        self._refusal: Exception | None = None  # what submit() raises, once it does
        self._halted = False  # no attempt starts any more
        self._abandoned = False  # the executor is gone; set without the lock
        self.monitor = monitor
        self._upstream = upstream  # that of every call, unless they are mixed
        self._is_mixed = False  # calls may have one upstream or another, or none
        self._reset()
        if upstream is not None and monitor is not None:
            upstream.inform(monitor)

    def _reset(self) -> None:
        """Start with nothing: no call, no thread, counters at zero."""
        self._lock = threading.RLock()
        _log.never_log_under(self._lock)
        self._room = threading.Condition(self._lock)  # notified when a call becomes done, or is to be refused
        self._ledger = Ledger()
        self._fresh = self._ledger.schedule.fresh
        self._crew = Crew(
            size=self._max_workers,
            name=self._thread_name_prefix,
            daemon=self.exit_timeout is not None,  # the interpreter joins the others, however long it takes
            lock=self._lock,
        )
        self._invitations: dict[Upstream, None] = {}  # places kept for this pool, by whom
        self._unused: list[Permit] = []  # places taken for a call that was cancelled at that very moment
        self._observed: set[weakref.ref[Call]] = set()
        self._forget = self._observed.discard
        self._leads_until = math.inf
        self._initializing = 0
        self._is_stopped = False  # for a fork
        self._stopped: list[Worker] = []
        self._is_open = HAS_GIL and self._refusal is None and self._max_pending is None
        """Whether calls are queued without the lock."""
        self._look_ahead()

    # -- calls come in ---------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Accept a call, or raise: then it never runs.

        Raises:
            RuntimeError: After shutdown, or if there is no thread and none can be started.
            BrokenThreadPool: If the initializer failed.
            PendingLimitError: If there is no room and waiting is not asked for, or is impossible.
        """
        error = None
        is_queued = self._is_open
        try:
            if is_queued:
                self._fresh.append(call)  # publish first,
            else:
                self._admit(call)
                is_queued = True
            if self._crew.can_summon or self._refusal is not None:  # then look
                error = self._see_to(call)
        except BaseException:  # of a signal handler too: who submits will not get the future
            if is_queued:
                self._change(call, self._ledger.refuse)
            raise
        if error is not None and self._change(call, self._ledger.refuse):  # or it was taken up meanwhile
            raise error

    def _admit(self, call: Call) -> None:
        """Queue a call if it may be accepted: where there is a limit, or no GIL, or after shutdown."""
        interrupts = is_held(self._lock)
        with self._lock:
            if self._max_pending is not None:
                self._make_room(self._max_pending, may_wait=self._wait_when_full and not interrupts)
            if self._refusal is not None:
                raise type(self._refusal)(*self._refusal.args)
            self._fresh.append(call)

    def _see_to(self, call: Call) -> Exception | None:
        """See that a call which was queued a moment ago is taken up, or return why it is to be refused.

        If that starts a thread, wait for a moment until it took up its first call, or began its initializer.
        So it is with the standard executor, and programs cancel or fork right after ``submit()``. It is
        bounded, since a destructor or a signal handler may get here in a critical section.
        """
        arrival = None
        with self._lock:
            if self._refusal is not None:
                return type(self._refusal)(*self._refusal.args)
            if self._crew.can_summon:
                error = self._call_for_help(time.monotonic())
                if error is not None and not self._crew.members:
                    return error  # nobody would run it; all accepted before have had somebody
                if self._crew.on_the_way is not None:
                    arrival = self._crew.on_the_way.arrival
        if arrival is not None:
            arrival.acquire(timeout=_ARRIVAL_TIMEOUT)
        if _log.overdue:
            _log.report_overdue()
        return None

    def _make_room(self, limit: int, *, may_wait: bool) -> None:
        """Return when fewer than *limit* calls are pending, or when calls are refused."""
        while self._refusal is None and self._count_pending() >= limit:
            full = f"{limit} calls are pending, as many as max_pending allows"
            if may_wait and self._crew.includes_current_thread():
                raise PendingLimitError(
                    f"{full}, and the executor's own threads cannot wait: they might wait for themselves"
                )
            if not may_wait:
                raise PendingLimitError(full)
            self._room.wait()

    def _call_for_help(self, now: float) -> Exception | None:
        """Wake or start one more worker, if one can be had, and would find something to do.

        The caller holds the lock.

        Returns:
            Why a thread could not be started. That is no harm where others are at work.
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

    # -- what a worker does ----------------------------------------------------------------------

    def _work(self, worker: Worker) -> None:
        """The whole life of a worker."""
        current.holder = worker
        self._initialize(worker)
        has_arrived = False
        while True:
            try:
                call = self._next_fresh(worker) if has_arrived else None
                if call is None:
                    call = self._next(worker)
                    has_arrived = True
                    if self._invitations or self._unused:
                        self._decline_unused()
                if _log.overdue:
                    _log.report_overdue()
                if call is None:
                    return
                worker.ending = self._attempt(worker, call)
            except BaseException as error:
                has_arrived = False
                self._rescue(worker, error)
            call = None

    def _initialize(self, worker: Worker) -> None:
        """Run the initializer, if there is one; where it fails, break the pool."""
        if self._initializer is None:
            return
        with self._lock:
            self._crew.arrive(worker)
            self._initializing += 1
            if self._crew.can_summon:
                self._call_for_help(time.monotonic())
        self._decline_unused(are_all=True)  # who knows how long this takes
        try:
            self._initializer(*self._initargs)
        except BaseException as error:
            _log.initializer_failed(error)
            with self._lock:
                self._refusal = BrokenThreadPool(_BROKEN)
                self._is_open = False
                self._halted = True
                self._look_ahead()
                self._room.notify_all()
                self._crew.wake_all()
        with self._lock:
            self._initializing -= 1

    def _next_fresh(self, worker: Worker) -> Call | None:
        """Finish the worker's call and return the next fresh one, as long as there is nothing else to see to.

        That is most of the time, and goes without the pool's lock.

        Returns:
            A call whose attempt is to run; ``None`` if `_next` has to look what there is to do.
        """
        call, upstream, permit = worker.call, self._upstream, worker.permit
        if call is not None and call._observed and worker.ending is not None:
            call = None  # not under a lock: that may be the last reference to it
            self._finish(worker)
            if worker not in self._crew.members:  # a callback has forked, and this is the child
                return None
            permit = worker.permit
        now = time.monotonic()
        try:
            worker.acquire()
            call, ending = worker.call, worker.ending
            if call is not None and ending is not None:
                (result, exception), unseen = ending
                if call._observed or call._state in DONE:  # since a moment ago
                    return None
                # Nothing is called or created on the way, so no destructor can observe it in between.
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
            if upstream is not None and (
                permit is None or permit.era != upstream.calm_era or not upstream.go_on(now)
            ):
                return None
            try:
                call = worker.call = self._fresh.popleft()
            except IndexError:
                call = None
            else:
                call._worker = worker
                call._began_at = now
        finally:
            worker.release()
        if call is not None and call._is_last:
            with self._lock:
                if call.done():
                    self._ledger.schedule.drop(call)
                    call = worker.call = None
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
            if worker.ending is not None:
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

    def _look_ahead(self) -> None:
        """Note until when there is nothing to see to but fresh calls."""
        schedule = self._ledger.schedule
        if self._halted or self._is_mixed or schedule.has_lanes or self._max_pending is not None:
            self._acts_at = -math.inf
            return
        due_at = schedule.first_due_at()
        self._acts_at = math.inf if due_at is None else due_at

    def _attempt(self, worker: Worker, call: Call) -> Ending | None:
        """Make an attempt, and put the call in backoff if another follows.

        Returns:
            What the call becomes done with; ``None`` if it has another attempt, or is done already.
        """
        work, permit, outcome = call._work, worker.permit, None
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
                permit.upstream.end(permit, *_attempt.evidence(work[4], verdict, outcome))
                permit = None
            if verdict.delay is not None and not self._halted:
                # Logged before the next attempt can fail too, so that the lines come in order.
                _log.retry_scheduled(work, call._attempts, outcome, verdict)
                if self.monitor is not None:
                    self.monitor.followed_up(call, outcome, verdict)
                if self._back_off(worker, call, verdict.delay):
                    return None
            elif verdict is not ACCEPTED and work[4].policy is not None:
                _log.gave_up(work, call._attempts, outcome, verdict)
                if self.monitor is not None:
                    self.monitor.followed_up(call, outcome, verdict)
            return outcome, _attempt.conclude(call, work, outcome)
        finally:
            if permit is not None:
                self._give_place_back(worker, "none")
            del call, work, outcome  # the exception's traceback keeps this frame

    def _back_off(self, worker: Worker, call: Call, delay: float) -> bool:
        """Put a call whose attempt failed in backoff; return ``False`` if that was the last attempt."""
        with self._lock:
            if call._is_last or call.done() or self._halted:
                return False
            due_at = time.monotonic() + delay
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

    # -- upstreams -------------------------------------------------------------------------------

    def _ask(self, call: Call, worker: Worker, now: float) -> Claim:
        """Begin an attempt if the call's upstream, if it has one, lets it through."""
        work = call._work
        upstream = None if work is None else work[4].upstream
        if upstream is None or work is None or worker.permit is not None or call.done():
            return call._begin(worker, now)
        if call._attempts and work[4].is_too_late(now - call._began_at):
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
        with self._standstill():
            pass  # from now on all have seen it

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
            lane.opens_at = min(lane.opens_at, opens_at)  # what is told late may be old; asking does no harm
            now, crew = time.monotonic(), self._crew
            if opens_at > now:
                crew.wake_leader()
                return True
            self._invitations[upstream] = None
            if crew.can_summon:
                self._call_for_help(now)
            if crew.on_the_way is not None:
                return True
            self._invitations.pop(upstream, None)  # whoever is free first will ask
            return False

    def _decline_unused(self, *, are_all: bool = False) -> None:
        """Give back the places that are kept for this pool if there is nobody to use them, or no call."""
        with self._lock:
            lane_of = self._ledger.schedule.lane
            are_all |= self._crew.on_the_way is None and not self._crew.has_resting
            unused = [one for one in list(self._invitations) if are_all or lane_of(one) is None]
            for upstream in unused:
                self._invitations.pop(upstream, None)
            permits, self._unused = self._unused, []
        for upstream in unused:
            upstream.decline(self)
        for permit in permits:
            permit.upstream.take_back(permit)

    # -- calls become done -----------------------------------------------------------------------

    def settle(self, call: Call, outcome: Outcome) -> bool:
        """Make a call done with *outcome*; return ``False`` if it is done already."""
        work, (_, exception) = call._work, outcome
        unseen = None
        if exception is not None and work is not None:
            unseen = _log.UnseenFailure(_log.call_name(work[0]), call._attempts, exception, work[3])
        call._condition  # noqa: B018  # from now on its worker goes by that too
        return self._change(call, self._ledger.settle, outcome, unseen)

    def cancel(self, call: Call) -> bool:
        """Cancel a call that waits; of one that is running, make this attempt the last."""
        return self._change(call, self._ledger.cancel) or call.cancelled()

    def _change(self, call: Call, change: Callable[..., bool], *args: Any) -> bool:
        """Apply *change*, which makes the call done or returns ``False``, and tell whoever observes it."""
        kept = call._work, call._last  # so that no destructor runs under a lock
        with self._lock:
            call._is_last = True  # announce it, then look: see `RetryingFuture`
            observed = call._observed
            changed = not observed and change(call, *args) and self._make_way()
        if observed:
            with call._condition:
                with self._lock:
                    changed = change(call, *args) and self._make_way()
                if changed:
                    call._tell_waiters()
        del kept
        if changed:
            call._open()
            call._invoke_callbacks()
        return changed

    def _make_way(self) -> bool:
        """A call that waited became done: nobody waits for its due time or its place any more."""
        schedule = self._ledger.schedule
        self._release_leader()
        if self._max_pending is not None:
            self._room.notify_all()
        if schedule.is_littered:
            with self._standstill() as is_still:
                if is_still:  # or the next time
                    schedule.tidy()
        return True

    def _release_leader(self) -> None:
        """See that nobody rests for the sake of calls that are gone."""
        if self._crew.has_leader and self._ledger.schedule.first_due_at() is None:
            self._crew.wake_leader()

    def observe(self, call: Call) -> None:
        """Give a call what its observers need; see `RetryingFuture`."""
        self._observed.add(weakref.ref(call, self._forget))
        call._observed = True  # announce it, then look
        call.__dict__.setdefault("_condition", threading.RLock())
        if call._state in DONE:
            return
        if call._is_last or not HAS_GIL:
            self.synchronize()
        worker = call._worker
        if worker is not None:
            with worker.lock:
                pass

    def synchronize(self) -> None:
        """Wait until who has the lock has given it back: that sees what was announced, or is seen."""
        with self._lock:
            pass

    @contextmanager
    def _standstill(self) -> Iterator[bool]:
        """Keep all workers from taking calls and from making them done; say whether they all stand still.

        The caller holds the lock. One of them does not if a destructor has interrupted it at that very
        moment, and waits for the lock.
        """
        stopped: list[Worker] = []
        try:
            self._stop_workers(stopped)
            yield len(stopped) == len(self._crew.members)
        finally:
            self._let_go_on(stopped)

    def _stop_workers(self, stopped: list[Worker]) -> None:
        for worker in list(self._crew.members):
            if worker.lock.acquire(timeout=_STANDSTILL_TIMEOUT):
                stopped.append(worker)  # at once: a signal handler may raise while others are waited for

    def _let_go_on(self, workers: list[Worker]) -> None:
        while workers:
            workers.pop().lock.release()

    def serve(self, upstream: Upstream | None) -> None:
        """From now on calls may have this upstream, or none."""
        if upstream is not None and self.monitor is not None:
            upstream.inform(self.monitor)
        if upstream is not self._upstream and not self._is_mixed:
            with self._lock:
                self._is_mixed = True
                self._upstream = None
                self._look_ahead()
                with self._standstill():
                    pass  # from now on all have seen it

    # -- the end ---------------------------------------------------------------------------------

    def shutdown(self, *, wait: bool, cancel_futures: bool, timeout: float | None) -> None:
        """Refuse calls from now on, and see to those that were accepted; see `RetryingExecutor`."""
        self.close(_AFTER_SHUTDOWN)
        if cancel_futures:
            self._halt()
        if wait and not self.is_own_thread():
            began_at = time.monotonic()
            self.finish(timeout)
            if self.monitor is not None:
                left = math.inf if timeout is None else max(0.0, began_at + timeout - time.monotonic())
                self.monitor.finish(left)

    def close(self, reason: str = _AT_EXIT) -> None:
        """Refuse calls from now on; threads leave when nothing is left to do."""
        with self._lock:
            if self._refusal is None:
                self._refusal = RuntimeError(reason)
            self._is_open = False
            self._room.notify_all()
            self._crew.wake_all()

    def abandon(self) -> None:
        """The executor is gone: threads leave when nothing is left to do. Takes no lock."""
        self._abandoned = True
        self._crew.wake_all()

    def finish(self, timeout: float | None) -> None:
        """Wait until all threads have ended; past *timeout* seconds, cancel what does not run."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                threads = self._crew.threads()
            if not threads:
                return
            patience = deadline - time.monotonic()
            if patience <= 0:
                break
            threads[0].join(None if timeout is None else min(patience, threading.TIMEOUT_MAX))
        cancelled = self._halt()
        with self._lock:
            running = self._running_calls()
        _log.time_is_up(cancelled, running)

    def retire(self, timeout: float) -> bool:
        """Wait until all is done and the threads are gone, for *timeout* seconds; return whether they are."""
        with self._lock:
            self._idle_timeout, idle_timeout = 0.0, self._idle_timeout
            self._crew.wake_all()
            threads = self._crew.threads()
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._idle_timeout = idle_timeout
        return not any(thread.is_alive() for thread in threads)

    def drain(self, timeout: float | None) -> bool:
        """Wait until every call accepted so far is done; return whether they all are."""
        if self.is_own_thread():
            raise RuntimeError("drain() in one of the executor's own threads would wait for itself")
        with self._lock, self._standstill():
            calls = [*self._running_calls(), *self._ledger.schedule.waiting()]
        deadline = None if timeout is None else time.monotonic() + timeout
        for call in calls:
            patience = None if deadline is None else min(deadline - time.monotonic(), threading.TIMEOUT_MAX)
            if not call._wait(patience):
                return False
        return True

    def _halt(self) -> int:
        """Start no attempt any more, and cancel every call that waits; return how many those are."""
        with self._lock:
            self._halted = True
            self._look_ahead()
            waiting = len(self._ledger.schedule)
            self._crew.wake_all()
        self._clear()
        return waiting

    def _clear(self) -> None:
        """Make every call done that waits for an attempt that will not be."""
        self._decline_unused(are_all=True)  # their callbacks may wait for who needs the places
        with self._lock, self._standstill():  # so that all have seen that they may take no more
            calls = self._ledger.schedule.waiting()
        for call in calls:
            if isinstance(self._refusal, BrokenThreadPool):
                self.settle(call, (None, BrokenThreadPool(_BROKEN)))
            else:
                self.cancel(call)

    def _count_pending(self) -> int:
        """Return how many calls are accepted and not done."""
        return len(self._ledger.schedule) + len(self._running_calls())

    def _running_calls(self) -> list[Call]:
        calls = [worker.call for worker in list(self._crew.members)]
        return [call for call in calls if call is not None and call.running()]

    def is_own_thread(self) -> bool:
        with self._lock:
            return self._crew.includes_current_thread()

    # -- around a fork ---------------------------------------------------------------------------

    def lock_for_fork(self, timeout: float) -> bool:
        """Before: no other thread is in the middle of anything here, unless that takes too long."""
        if not self._lock.acquire(timeout=timeout):
            return False
        self._is_stopped = True
        self._stop_workers(self._stopped)
        return True

    def unlock_after_fork(self) -> None:
        """After, in the parent: go on, however far `lock_for_fork` has come."""
        self._let_go_on(self._stopped)
        if self._is_stopped:
            self._is_stopped = False
            self._lock.release()

    def restart_in_child(self) -> None:
        """After, in the child: start empty. The calls are the parent's, and so are the threads."""
        error = "the call belongs to the process that this one was forked from"
        calls = {*self._running_calls(), *self._ledger.schedule.waiting()}
        calls.update(call for ref in self._observed.copy() if (call := ref()) is not None)
        self._reset()
        for call in calls:
            call._orphan(ForkedFutureError(error))

    # -- what can be seen from outside -----------------------------------------------------------

    def stats(self) -> Stats:
        """Return a consistent snapshot."""
        with self._lock, self._standstill():
            return self._ledger.stats(time.monotonic(), self._crew.members)
