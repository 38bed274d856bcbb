"""The calls of an executor in virtual time: no threads, and no clock but its own.

The counterpart of `_pool`, for tests. What is decided, and when, is decided by the same parts: the ledger and
its schedule, the policies, the upstreams. Here is only what stands in for the threads: whoever waits for an
outcome runs attempts, one after the other, until it is there. When none is ready, the clock jumps to the next
time at which something happens by itself.

An attempt may itself wait for another call. Then the attempts of that run in the middle of it, so those that
run are a stack: ``_hands``. As long as the outermost wait lasts, its thread has ``_turn``, which guards all
of it. Lock order: ``_turn``, the conditions of calls, the upstreams' locks.
"""

from __future__ import annotations

import copy
import math
import threading
from collections import deque
from concurrent.futures.thread import BrokenThreadPool
from itertools import count
from random import Random
from uuid import UUID

from retrying_executor import _attempt, _log
from retrying_executor._crew import Worker
from retrying_executor._current import current
from retrying_executor._errors import PendingLimitError, final, refusal_like
from retrying_executor._gate import Permit
from retrying_executor._ledger import Ledger
from retrying_executor._lifecycle import ExitTimeout
from retrying_executor._monitor import Event, Monitor
from retrying_executor._policy import CUT_SHORT, RetryPolicy, Terms
from retrying_executor._policy import DONE as ACCEPTED
from retrying_executor._virtual_waiting import Latch, Waiters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from typing import Any

    from retrying_executor._future import Outcome
    from retrying_executor._gate import Evidence
    from retrying_executor._policy import Asked
    from retrying_executor._schedule import Call, Claim
    from retrying_executor._stats import Stats
    from retrying_executor._upstream import Upstream

_AFTER_SHUTDOWN = "cannot schedule new futures after shutdown"
_PATIENCE = 0.2  # seconds
_BROKEN = "the initializer failed, the executor is not usable anymore"


class VirtualPool:
    """What an executor in virtual time, its views and its futures share.

    Args:
        seed: What the jitter is drawn from.
        thread_name_prefix: The name of the executor.
        initializer: Called before the first attempt, or ``None``.
        initargs: The arguments of *initializer*.
        exit_timeout: How long a ``with`` block that raises waits, in seconds; ``None``: for ever.
        max_pending: How many calls may be accepted and not done; infinity: no limit.
        wait_when_full: Whether ``submit()`` waits for room instead of raising.
        on_event: Who is told what happens, or ``None``.
    """

    def __init__(
        self,
        *,
        seed: int,
        thread_name_prefix: str,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        exit_timeout: float | None,
        max_pending: float,
        wait_when_full: bool,
        on_event: Callable[[Event], object] | None,
    ) -> None:
        self._random = Random(seed).random
        self._thread_name_prefix = thread_name_prefix
        self._draw_key = Random(seed).getrandbits
        self.monitor = None if on_event is None else _Monitor(self, on_event)
        self._initializer = initializer
        self._initargs = initargs
        self.exit_timeout = ExitTimeout(exit_timeout, self)
        self._max_pending = max_pending
        self._wait_when_full = wait_when_full
        self._turn = threading.RLock()
        self._now = 0.0
        self._ledger = Ledger()
        self._hands: list[Worker] = []  # in which the calls are that run, the outermost first
        self._seeded: dict[Terms, Terms] = {}
        self._upstreams: list[Upstream] = []
        self._refusal: Exception | None = None  # what submit() raises, once it does

    # -- the clock -------------------------------------------------------------------------------

    @property
    def clock(self) -> VirtualPool:
        """What tells the time, as the module `time` does for others."""
        return self

    def monotonic(self) -> float:
        """Return what time it is, in seconds since the beginning."""
        return self._now

    def sleep(self, duration: float) -> None:
        """Let time pass: in an attempt only that, elsewhere with all that happens meanwhile."""
        with self._turn:
            if self._hands:
                self._now += duration
            else:
                self._run(duration)

    def advance(self, duration: float) -> None:
        """Let time pass, with all that happens meanwhile."""
        with self._turn:
            if self._hands:
                raise final(RuntimeError("advance() is for who waits for the calls: in a call, use sleep()"))
            self._run(duration)

    def wait(self, is_met: Callable[[], bool], timeout: float | None, calls: Container[Call]) -> bool:
        """Run attempts until a condition is met.

        Args:
            is_met: Whether it is.
            timeout: For how long, in virtual seconds; ``None``: as long as it takes.
            calls: Those for which this waits. In the middle of an attempt, they go before other fresh ones.

        Returns:
            Whether it was met in time. An attempt is not interrupted, so it may be met too late.

        Raises:
            RuntimeError: If it never would be, by itself.
        """
        with self._turn:
            if is_met():
                return True
            if self._run(timeout, is_met, calls):
                return True
            if timeout is None:
                stuck = [call for call in self._pending() if call in calls]
                more = f" (and {len(stuck) - 1} more)" if len(stuck) > 1 else ""
                raise RuntimeError(f"this wait would never end: {_why_it_waits(stuck[0])}{more}")
            return False

    def _run(
        self,
        duration: float | None,
        is_met: Callable[[], bool] = lambda: False,
        calls: Container[Call] = (),
    ) -> bool:
        """Run attempts and let time pass, until a condition is met or the time is over."""
        deadline = math.inf if duration is None else self._now + max(duration, 0.0)
        while self._now <= deadline:
            if is_met():
                return True
            if self._step(calls):
                continue
            acts_at = self._ledger.schedule.first_due_at()
            if acts_at is None or acts_at == math.inf or acts_at > deadline:
                if deadline < math.inf:
                    self._now = deadline
                return False
            self._now = acts_at  # later than now: what there is to do by now has been done
        return False

    # -- calls come in ---------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Accept a call, or raise: then it never runs.

        Raises:
            RuntimeError: After shutdown.
            BrokenThreadPool: If the initializer failed.
            PendingLimitError: If there is no room and waiting is not asked for, or is impossible.
        """
        assert call._work is not None
        fn, args, kwargs, context, terms = call._work
        with self._turn:
            self.serve(terms.upstream)
            self._make_room(call, terms.upstream)
            if self._refusal is not None:
                raise refusal_like(self._refusal)
            call._work = fn, args, kwargs, context, self._with_seed(terms)
            self.give_key(call)
            self._ledger.schedule.fresh.append(call)

    def _make_room(self, call: Call, upstream: Upstream | None) -> None:
        """Return when there is room for a call, which then has its place, or when calls are refused."""
        while self._refusal is None:
            if self._is_full():
                full = f"{self._max_pending} calls are pending, as many as max_pending allows"
            elif upstream is None or not upstream.is_bounded or upstream.admit(call):
                return
            else:
                full = upstream.fullness
            if not self._wait_when_full:
                raise PendingLimitError(full)
            if self._hands:
                raise PendingLimitError(f"{full}, and calls cannot wait: they might wait for themselves")
            pending = self._pending()
            self.wait(
                lambda: not (self._is_full() or (upstream is not None and upstream.is_full)), None, pending
            )

    def _is_full(self) -> bool:
        return self._max_pending < math.inf and len(self._pending()) >= self._max_pending

    def give_key(self, call: Call) -> None:
        """See that the call's key, if anybody asks for it, is drawn from the seed."""
        if "_key" not in call.__dict__:
            call.__dict__["_key"] = str(UUID(int=self._draw_key(128), version=4))

    def _with_seed(self, terms: Terms) -> Terms:
        """Return terms whose jitter is drawn from the seed, if it has no source of its own."""
        seeded = self._seeded.get(terms)
        if seeded is None:
            policy = terms.policy
            if isinstance(policy, RetryPolicy) and policy.random is None:
                policy = copy.copy(policy)
                policy.__dict__["random"] = self._random
            seeded = self._seeded[terms] = Terms(policy, terms.upstream, label=terms.label, key=terms.key)
        return seeded

    def serve(self, upstream: Upstream | None) -> None:
        """From now on calls may have this upstream: it goes by this clock, until all has ended.

        Raises:
            ValueError: If it is in use in another virtual time, or is held by the real one.
        """
        if upstream is None or upstream._clock is self or self._refusal is not None:
            return
        before = upstream._clock
        if not isinstance(before, VirtualPool):
            if upstream.state != "open":
                raise ValueError(
                    f"upstream must be open, not {upstream!r}: first give it to the executor "
                    "in virtual time, then pause it there"
                )
        elif before._refusal is None:
            raise ValueError(
                f"upstream must not be used by another executor in virtual time: {upstream!r}; "
                "shut that down first"
            )
        upstream.start_afresh(self, self._random)
        self._upstreams.append(upstream)
        if self.monitor is not None:
            upstream.inform(self.monitor)

    def look_again(self, upstream: Upstream, opens_at: float) -> bool:
        """An upstream lets calls through again, now or at a certain time; see `Upstream`."""
        lane = self._ledger.schedule.lane(upstream)
        if lane is not None:
            lane.notice(self._now)
            lane.opens_at = min(lane.opens_at, opens_at)
        return lane is not None

    # -- attempts --------------------------------------------------------------------------------

    def _step(self, calls: Container[Call]) -> bool:
        """Make the next attempt, if one is ready; return whether that is so."""
        fresh = self._ledger.schedule.fresh
        if self._hands:  # an attempt waits in the middle: with a worker more, this one would have begun
            wanted = next((call for call in fresh if call in calls and not call.done()), None)
            if wanted is not None:
                fresh.remove(wanted)
                fresh.appendleft(wanted)
        worker = Worker(len(self._hands), self._turn)
        call = self._ledger.schedule.take(self._now, lambda call, now: self._claim(call, worker, now))
        if call is None:
            return False
        worker.call = call
        outer = current.holder
        try:
            self._hands.append(worker)
            current.holder = worker
            if self._initializer is None or self._initialize(self._initializer, worker):
                self._attempt(worker, call)
        except BaseException as error:  # of a signal handler: the call must not stay in a worker's hands
            if not (call.done() and isinstance(error, SystemExit)):
                self._change(call, self._ledger.settle, (None, error), None)
                raise
            _log.worker_interrupted(error)  # of a done callback
        finally:
            current.holder = outer
            self._hands.remove(worker)
            _give_place_back(worker)  # if an interruption came before the attempt did
            self._give_upstreams_back()
        return True

    def _claim(self, call: Call, worker: Worker, now: float) -> Claim:
        """Begin an attempt if the call's upstream, if it has one, lets it through."""
        work = call._work
        upstream = None if work is None else work[4].upstream
        if upstream is None or work is None or call.done():
            return call._begin(worker, now)
        if call._is_too_late(work[4], now):
            return call._begin(worker, now)  # without a place: no attempt will be made, see _attempt.make
        opens_at, until = self._ledger.schedule.waits_between(call, upstream, work[4].max_elapsed, now)
        if opens_at <= now:
            permit = upstream.ask(self)
            if isinstance(permit, Permit):
                worker.permit = permit
                return call._begin(worker, now)
            opens_at = now if permit is None else permit
        return upstream, opens_at, until

    def _attempt(self, worker: Worker, call: Call) -> None:
        """Make an attempt, and put the call in backoff or make it done."""
        work, outcome = call._work, None
        try:
            if work is None:  # the initializer has set the outcome
                return
            verdict, outcome = _attempt.make(call, work, worker.permit, self.monitor)
            permit = worker.permit
            _give_place_back(worker, *_attempt.evidence(work[4], verdict, outcome), outcome[1])
            if verdict.delay is not None and not (call._is_last or call.done()):
                worker.call = None
                sits_out_until = -math.inf if permit is None else permit.sits_out_until()
                sits_out_until = min(sits_out_until, _attempt.ends_at(call, work[4]))
                self._ledger.back_off(call, max(self._now + verdict.delay, sits_out_until))
                _attempt.announce(call, work, outcome, verdict, self.monitor)
                _attempt.let_go(outcome)
                return
            if verdict.delay is not None:
                verdict = CUT_SHORT
            if verdict is not ACCEPTED and not call.done():
                _attempt.announce(call, work, outcome, verdict, self.monitor)
            unseen = _attempt.conclude(call, work, outcome, verdict)
            worker.call = None
            self._change(call, self._ledger.settle, outcome, unseen)
        finally:
            _give_place_back(worker)  # if there was no attempt, or an interruption
            del call, work, outcome  # the exception's traceback keeps this frame

    def _initialize(self, initializer: Callable[..., object], worker: Worker) -> bool:
        """Run the initializer; where it fails, break the pool. Return whether it worked."""
        self._initializer = None
        try:
            initializer(*self._initargs)
        except BaseException as error:
            _log.initializer_failed(error)
            _give_place_back(worker)
            self._refusal = BrokenThreadPool(_BROKEN)
            for call in self._pending():
                self.settle(call, (None, BrokenThreadPool(_BROKEN)))
            return False
        return True

    # -- calls become done -----------------------------------------------------------------------

    def settle(self, call: Call, outcome: Outcome) -> bool:
        """Make a call done with *outcome*; return ``False`` if it is done already."""
        work, (_, exception) = call._work, outcome
        unseen = None
        if exception is not None and work is not None:
            unseen = _log.UnseenFailure(_log.about(call, work), call._attempts, exception, work[3])
        return self._change(call, self._ledger.settle, outcome, unseen)

    def cancel(self, call: Call) -> bool:
        """Cancel a call that waits; of one that is running, make this attempt the last."""
        return self._change(call, self._ledger.cancel) or call.cancelled()

    def _change(self, call: Call, change: Callable[..., bool], *args: Any) -> bool:
        """Apply *change*, which makes the call done or returns ``False``, and tell whoever observes it."""
        with self._turn:
            with call._condition:
                changed = change(call, *args)
                if changed:
                    call._tell_waiters()
            if changed and self._ledger.schedule.is_littered:
                self._ledger.schedule.tidy()
            self._give_upstreams_back()
        if changed:
            call._open()
            call._invoke_callbacks()
        return changed

    def make_latch(self, call: Call) -> Latch:
        """Return what stands in for the lock at which somebody waits for *call*."""
        return Latch(self, call)

    def observe(self, call: Call) -> None:
        """Give a call what its observers need; see `RetryingFuture`."""
        call.__dict__.setdefault("_condition", threading.RLock())
        call.__dict__.setdefault("_waiters", Waiters(self, call))
        if hasattr(call, "_unobserved"):  # pragma: no branch  # who forgets it observes it again
            del call._unobserved

    def synchronize(self) -> None:  # pragma: no cover  # called without the GIL; coverage is measured with it
        """Nothing goes on in other threads."""

    # -- the end ---------------------------------------------------------------------------------

    def shutdown(self, *, wait: bool, cancel_futures: bool, timeout: float | None) -> None:
        """Refuse calls from now on, and see to those that were accepted; see `RetryingExecutor`."""
        with self._turn:
            if self._refusal is None:
                self._refusal = RuntimeError(_AFTER_SHUTDOWN)
            if cancel_futures:
                self._cancel_all()
            if wait and not self._hands and not self._wait_for_all(timeout):
                assert timeout is not None  # or the wait would have raised
                _log.time_is_up(self._cancel_all(), (), timeout)
            self._give_upstreams_back()

    def interrupt(self) -> None:
        """Ctrl-C: refuse calls, cancel those that wait, and say so."""
        with self._turn:
            if self._refusal is None:
                self._refusal = RuntimeError(_AFTER_SHUTDOWN)
            _log.interrupted(self._cancel_all(), [worker.call for worker in self._hands if worker.call])
            self._give_upstreams_back()

    def _give_upstreams_back(self) -> None:
        """After shutdown, when the last call is done: from now on they go by the clock of all others."""
        if self._refusal is not None and not self._hands and not len(self._ledger.schedule):
            for upstream in self._upstreams:
                if upstream._clock is self:
                    upstream.start_afresh()

    def drain(self, timeout: float | None) -> bool:
        """Wait until every call accepted so far is done; return whether they all are."""
        with self._turn:
            if self._hands:
                raise final(RuntimeError("drain() in one of the executor's own calls would wait for itself"))
            return self._wait_for_all(timeout)

    def untried(self) -> list[Call]:
        """Return the calls that wait for their first attempt."""
        with self._turn:
            return [call for call in self._ledger.schedule.waiting() if not call._attempts]

    def take_out(self, call: Call) -> bool:
        """Cancel a call if it waits for its first attempt; return whether that is so."""
        return self._change(call, self._ledger.take_out)

    def _wait_for_all(self, timeout: float | None) -> bool:
        calls = self._pending()
        left = deque(calls)

        def are_done() -> bool:
            while left and left[0].done():
                left.popleft()
            return not left

        return self.wait(are_done, timeout, set(calls))

    def _cancel_all(self) -> int:
        """Cancel every call that waits, and make the attempts that run the last; return how many waited."""
        return sum(self.cancel(call) for call in self._pending())

    def _pending(self) -> list[Call]:
        """Return the calls that are accepted and not done, those that run first."""
        running = [worker.call for worker in self._hands if worker.call is not None]
        return [call for call in running if not call.done()] + self._ledger.schedule.waiting()

    def pending(self) -> list[str]:
        """Return the names of the calls that are accepted and not done."""
        return [_log.call_name(call._work[0]) for call in self._pending() if call._work is not None]

    # -- what can be seen from outside -----------------------------------------------------------

    def upstreams(self) -> list[Upstream]:
        """Return the upstreams to which calls may go, or have gone."""
        return self._upstreams.copy()

    def stats(self) -> Stats:
        """Return a snapshot: a consistent one, unless another thread runs attempts for long."""
        try:
            self._turn.acquire(timeout=_PATIENCE)  # another thread may have it, and wait for this one
            return self._ledger.stats(self._now, self._hands.copy())
        finally:  # also if a signal handler raised right after the lock was taken
            try:  # noqa: SIM105  # suppress() could be interrupted before it has begun
                self._turn.release()
            except RuntimeError:
                pass  # another thread has it


def _give_place_back(
    worker: Worker,
    evidence: Evidence = "none",
    asked: Asked | None = None,
    exception: BaseException | None = None,
) -> None:
    """The worker's attempt is over: its upstream, if it has one, may let another through."""
    permit, worker.permit = worker.permit, None
    if permit is not None:
        permit.upstream.end(permit, evidence, asked, exception)


def _why_it_waits(call: Call) -> str:
    """Return why a call will not be done by itself."""
    if call._work is None:  # pragma: no cover  # for the type checker: it is pending
        return repr(call)
    name = _log.call_name(call._work[0])
    if call.running():
        return f"{name} is running, and waits for itself"
    return f"{name} waits for {call._work[4].upstream!r}"


class _Monitor(Monitor):
    """Tells a listener at once, in this thread; if that makes more happen, it is told of that afterwards."""

    def __init__(self, pool: VirtualPool, on_event: Callable[[Event], object]) -> None:
        self._virtual = pool  # not the constructor of the base class: that would make threads
        self._on_event = on_event
        self._watchdog = None
        self._drop = count(1).__next__
        self._dropped = 0
        self._reported = 0.1
        self._untold = deque()
        self._is_telling = self._is_over = False

    def _now(self) -> float:
        return self._virtual.monotonic()

    def _monotonic(self) -> float:
        return self._virtual.monotonic()

    def submitted(self, call: Call) -> None:
        """A call is about to be queued."""
        self._virtual.give_key(call)
        super().submitted(call)

    def _start_telling(self) -> None:
        self._is_telling, holder = True, current.holder
        current.holder = None  # what a listener does is done in no call
        try:
            while self._untold:
                self._untold.popleft()()
        finally:
            self._is_telling, current.holder = False, holder
