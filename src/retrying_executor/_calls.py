"""The calls of one executor: what all who touch them share, and how they become done.

On this rests what workers do, `_workers`, and on that what others do, `_pool`: three floors of one object.
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

Lock order: ``_lock``, then those of the workers. No other lock is taken while ``_lock`` is held, no thread is
started or asked whether it is alive, no user code runs, and no waiter is told. All are reentrant for the sake
of destructors and signal handlers, which may submit or cancel wherever they interrupt. Since that may be
where a worker holds its own lock, who has ``_lock`` does not wait for those of the workers for ever.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from contextlib import suppress

from retrying_executor import _log
from retrying_executor._crew import Crew
from retrying_executor._ledger import Ledger
from retrying_executor._stdlib import DONE, HAS_GIL, is_held

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from retrying_executor._future import Outcome
    from retrying_executor._gate import Permit
    from retrying_executor._lifecycle import ExitTimeout
    from retrying_executor._monitor import Monitor
    from retrying_executor._schedule import Call
    from retrying_executor._upstream import Upstream
    from retrying_executor._value import Clock

    T = TypeVar("T")

_STANDSTILL_TIMEOUT = 10.0  # seconds; many threads may have their turn before one goes on


class _Observed(set["weakref.ref[Call]"]):
    """The calls that are observed, which a fork needs."""

    def forget(self, reference: weakref.ref[Call]) -> None:
        """A call is gone; when all are, so is the memory that the set took."""
        self.discard(reference)
        if not self:
            self.intersection_update(self)  # not clear(): another thread may have added one since


class Calls:
    """What an executor, its views, its futures and its workers share.

    Args:
        max_workers: How many threads there may be; 1 or more.
        thread_name_prefix: What the threads' names begin with.
        initializer: Called by every thread before its first call, or ``None``.
        initargs: The arguments of *initializer*.
        idle_timeout: How long a thread with nothing to do stays, in seconds; ``None``: for ever.
        exit_timeout: How long the end of the interpreter waits.
        max_pending: How many calls may be accepted and not done; ``None``: no limit.
        wait_when_full: Whether ``submit()`` waits for room instead of raising.
        upstream: The service that the calls go to, or ``None``; see `Pool.serve`.
        monitor: Who looks on, or ``None``.
    """

    clock: Clock = time

    # Not set on every pool: CPython finds the attributes of an object sooner where they are 30 or fewer.
    _is_initialized = False  # the initializer has worked once
    _abandoned = False  # the executor is gone; set without the lock

    def __init__(
        self,
        *,
        max_workers: int,
        thread_name_prefix: str,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        idle_timeout: float | None,
        exit_timeout: ExitTimeout,
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
        self.monitor = monitor
        self._upstream = upstream  # that of every call, unless they are mixed
        self._served: weakref.WeakSet[Upstream] = weakref.WeakSet()  # to which calls may go, or have gone
        self._is_bounded = upstream is not None and upstream.is_bounded  # or another that calls may have
        self._is_mixed = False  # calls may have one upstream or another, or none
        self._reset()
        if upstream is not None:
            upstream.enter(monitor)
            self._served.add(upstream)

    def _reset(self) -> None:
        """Start with nothing: no call, no thread, counters at zero."""
        self._lock = threading.RLock()
        self._in_line: set[threading.Lock] = set()  # where submitters wait for room in an upstream
        self._room = threading.Condition(self._lock)  # notified when a call becomes done, or is to be refused
        self._ledger = Ledger()
        self._fresh = self._ledger.schedule.fresh
        self._crew = Crew(
            size=self._max_workers,
            name=self._thread_name_prefix,
            daemon=self.exit_timeout.duration is not None,  # it joins the others, however long it takes
            lock=self._lock,
        )
        self._invitations: dict[Upstream, None] = {}  # places kept for this pool, by whom
        self._unused: list[Permit] = []  # places taken for a call that was cancelled at that very moment
        self._on_credit: list[Call] = []  # accepted although only a newborn was there to make them
        self._observed = _Observed()
        self._leads_until = math.inf
        self._initializing = 0
        self._stopped: list[threading.RLock] | None = None  # for a fork: the workers' locks
        is_limited = self._is_bounded or self._max_pending is not None
        self._is_open = HAS_GIL and self._refusal is None and not is_limited
        """Whether calls are queued without the lock."""
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Note until when there is nothing to see to but fresh calls."""
        schedule = self._ledger.schedule
        if self._halted or self._is_mixed or schedule.has_lanes or self._max_pending is not None:
            self._acts_at = -math.inf
            return
        due_at = schedule.first_due_at()
        self._acts_at = math.inf if due_at is None else due_at

    # -- calls become done -----------------------------------------------------------------------

    def settle(self, call: Call, outcome: Outcome, change: Callable[..., bool] | None = None) -> bool:
        """Make a call done with *outcome*, or as *change* does; return ``False`` if it is done already."""
        work, (_, exception) = call._work, outcome
        unseen = None
        if exception is not None and work is not None:
            unseen = _log.UnseenFailure(_log.about(call, work), call._attempts, exception, work[3])
        return self._change(call, change or self._ledger.settle, outcome, unseen)

    def cancel(self, call: Call) -> bool:
        """Cancel a call that waits; of one that is running, make this attempt the last."""
        return self._change(call, self._ledger.cancel) or call.cancelled()

    def _change(self, call: Call, change: Callable[..., bool], *args: Any) -> bool:
        """Apply *change*, which makes the call done or returns ``False``, and tell whoever observes it.

        An interruption stops neither half-way: then all are told once more, but for what has been told.
        """

        def tell_waiters() -> None:
            with self._lock:
                self._make_way()
            call._tell_waiters()

        def tell_others() -> None:
            call._open()
            call._invoke_callbacks()

        kept = call._work, call._last  # so that no destructor runs under a lock
        changed = was_done = False
        try:
            with call._condition:  # as long as this is held no other thread makes it done, nor begins to wait
                try:
                    with self._lock:
                        was_done = call._state in DONE
                        changed = change(call, *args)
                    if changed:
                        tell_waiters()
                except BaseException:
                    changed = call._state in DONE and not was_done
                    if changed:  # pragma: no branch  # see tests/untraced
                        tell_waiters()
                    raise
            del kept
            if changed:
                tell_others()
        except BaseException:
            if changed:
                tell_others()
            raise
        return changed

    def _make_way(self) -> None:
        """A call that waited became done: nobody waits for its due time or its place any more."""
        schedule = self._ledger.schedule
        self._release_leader()
        if self._max_pending is not None:
            self._room.notify_all()
        if schedule.is_littered:

            def tidy(is_still: bool) -> None:
                if is_still:  # or the next time
                    schedule.tidy()

            self._at_standstill(tidy)

    def _turn_away(self) -> None:
        """Calls are refused from now on: tell those who wait for room in an upstream."""
        for latch in self._in_line.copy():
            with suppress(RuntimeError):  # it is open already
                latch.release()

    def _release_leader(self) -> None:
        """See that nobody rests for the sake of calls that are gone."""
        if self._crew.has_leader and self._ledger.schedule.first_due_at() is None:
            self._crew.wake_leader()

    def observe(self, call: Call) -> None:
        """Give a call what its observers need; see `RetryingFuture`."""
        condition = threading.RLock()
        self._observed.add(weakref.ref(call, self._observed.forget))
        if call._state not in DONE:
            try:
                if HAS_GIL:
                    del call._unobserved
                else:  # pragma: no cover  # coverage is measured with it
                    with self._lock:
                        del call._unobserved
            except AttributeError:
                worker = call._worker
                # It may have claimed to make the call done, which it does at once.
                if worker is not None:  # pragma: no branch  # a race: tests/schedules
                    with worker.lock:
                        pass
        # Last: who finds it there does not come here, and would wait for nobody.
        call.__dict__.setdefault("_condition", condition)

    def make_latch(self, call: Call) -> Any:  # in virtual time it depends on the call
        """Return a lock that is closed, at which somebody waits for *call*."""
        latch = threading.Lock()
        latch.acquire()
        return latch

    def synchronize(self) -> None:
        """Wait until who has the lock has given it back: that sees what was announced, or is seen."""
        with self._lock:
            pass

    def _at_standstill(self, look: Callable[[bool], T]) -> T:
        """Return what *look* returns while no worker takes a call or makes one done.

        It gets whether they all stand still. One does not if a destructor has interrupted it at that very
        moment, and waits for the lock, which the caller holds.
        """
        taken: list[threading.RLock] = []
        try:
            return look(self._stop_workers(taken))
        finally:
            try:
                self._let_go_on(taken)
            except BaseException:  # of a signal handler
                self._let_go_on(taken)
                raise

    def _stop_workers(self, taken: list[threading.RLock]) -> bool:
        """Take the locks of all workers, but for those that this thread has; return whether it has all then.

        They are in *taken* before, since a signal handler may raise right after any of them is taken.
        """
        taken += [worker.lock for worker in list(self._crew.members) if not is_held(worker.lock)]
        for lock in taken:
            lock.acquire(timeout=_STANDSTILL_TIMEOUT)
        return all(is_held(worker.lock) for worker in list(self._crew.members))

    def _let_go_on(self, taken: list[threading.RLock]) -> None:
        """Give back those locks that this thread has; after an interruption, the rest of them."""
        while taken:
            with suppress(RuntimeError):  # it did not get that one, or has given it back already
                taken[-1].release()
            taken.pop()
