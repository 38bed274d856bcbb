"""One call: its state, and every change of it.

The future is also the work item. Its life, with the states that the standard library knows:

    waits ──a worker takes it──> runs ──finish──> FINISHED
      │  <────────back off────────┘                  ↑
      ├──its outcome is set from outside─────────────┘
      └──cancel──> CANCELLED_AND_NOTIFIED

Until the call is done, ``_state`` is PENDING. It runs while it has a ``_worker``: the `Hand` that it is in.

A future starts *unobserved*: without a condition, waiters and callbacks, since building these is most of what
a standard future costs. It becomes *observed*, for good, when one of them is first needed: by `wait`,
`as_completed`, ``add_done_callback``, or a thread that cancels the call or sets its outcome. From then on the
code inherited from `Future` uses them.

A thread in ``result()`` waits at a *latch*: a lock of its own, opened when the call is done. So no thread
ever waits on the condition, and a lock can stand in for it. And a thread that is interrupted there has used
up no wake-up that another thread needs.

How these changes meet without a lock in common is described in `retrying_executor._calls`.
"""

from __future__ import annotations

import math
import threading
from concurrent.futures import CancelledError, Future, InvalidStateError, TimeoutError  # noqa: A004  # not the builtin on 3.10
from contextlib import suppress

from retrying_executor._common.callables import CoroutineFunction
from retrying_executor._common.errors import final
from retrying_executor._common.log import Subject, call_name
from retrying_executor._common.public import public
from retrying_executor._common.stdlib import (
    CANCELLED_AND_NOTIFIED,
    DONE_STATES,
    FINISHED,
    HAS_GIL,
    LOGGER,
    PENDING,
    RUNNING,
    STATE_NAMES,
)
from retrying_executor._common.unseen import UnseenFailure
from retrying_executor._common.values import checked_timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextvars import Context
    from typing import Any, NoReturn, Protocol, TypeAlias, TypeVar

    from retrying_executor._calls.terms import Terms
    from retrying_executor._common.values import Clock, Duration
    from retrying_executor._upstream.gate import Permit
    from retrying_executor._upstream.several import JointPermit

    T = TypeVar("T")

    Work: TypeAlias = tuple[Callable[..., object], tuple[Any, ...], dict[str, Any], Context]
    """What to run: function, arguments, keyword arguments, context of the submitter."""

    Outcome: TypeAlias = tuple[object, BaseException | None]
    """What an attempt ended with: a result and ``None``, or ``None`` and an exception."""

    Settlement: TypeAlias = tuple[Outcome, UnseenFailure | None]
    """What a call becomes done with."""

    class Owner(Protocol):
        """What a future asks of the core that makes its attempts."""

        name: str
        """The executor's."""

        @property
        def clock(self) -> Clock: ...
        def observe(self, call: Call, /) -> None:
            """Give a call what its observers need."""

        def make_latch(self, call: Call, /) -> Any:
            """Return a closed lock at which a thread waits for *call*."""
            ...

        def synchronize(self) -> None:
            """Wait until a thread in the middle of a change is through, or sees what this one announced."""

        def cancel(self, call: Call, /) -> bool:
            """Cancel a call that waits; if an attempt runs, make it the last."""
            ...

        def settle(self, call: Call, outcome: Outcome, /) -> bool:
            """Make a call done with *outcome*; return ``False`` if it is done already."""
            ...

    Call: TypeAlias = "RetryingFuture[Any]"


NO_OUTCOME: Outcome = (None, None)


class TooLate(Exception):  # noqa: N818  # `_wait` catches it
    """Raised by a latch in virtual time: the wait was too long, although the call may be done by now."""


class Hand:
    """What holds a call while an attempt of it runs: a worker, or a step in virtual time.

    Args:
        lock: Guards the hand; reentrant.
    """

    __slots__ = ("call", "failed", "landed", "lock", "permit", "settlement", "succeeded", "under")

    is_thread = True
    """Whether it keeps a thread busy."""

    def __init__(self, lock: threading.RLock) -> None:
        self.lock = lock
        self.call: Call | None = None
        self.permit: Permit | JointPermit | None = None  # of the call's upstreams, if it has any
        self.landed: Outcome | None = None  # of an attempt that ended in an event loop, until it is judged
        self.settlement: Settlement | None = None  # what the call is to be made done with
        self.succeeded = 0  # how many of the calls that it had
        self.failed = 0
        self.under: Hand | None = None  # that of the thread in which a coroutine of it is awaited inline


@public
class RetryingFuture(Future["T"]):
    """The future of one call; done after the call's last attempt.

    Made by ``submit()`` only. It can be used wherever a `concurrent.futures.Future` can. While the
    call waits for its next attempt the future is pending: neither running nor done.
    """

    # All that a call needs that succeeds at its first attempt and is never observed.
    __slots__ = (
        "_attempts",
        "_awaited",
        "_began_at",
        "_core",
        "_result",
        "_state",
        "_terms",
        "_unobserved",
        "_waits",
        "_work",
        "_worker",
    )

    _state: str
    _result: T
    _worker: Hand | None

    # These stand for the other attributes, until an instance grows its own.
    _exception: BaseException | None = None
    _is_last: bool = False  # cancel() came while an attempt ran: no other follows
    _postponed: int = 0  # how many attempts do not count: answers of "not now", and free probes
    _due_at: float | None = None
    _last: Outcome = NO_OUTCOME
    _unseen: UnseenFailure | None = None
    # One for each upstream that limits its backlog: makes room there.
    _leave_backlogs: tuple[Callable[[], object], ...] = ()
    _story: Any = None  # what a monitor remembers of it
    _waits_until: float = math.inf  # when it gives up waiting for its upstreams
    _expires_at: float = math.inf  # by max_age: no attempt starts later
    _weight: float = 1  # what an attempt takes of the budgets of its upstreams

    # Made on first need, see __getattr__.
    _condition: threading.Condition  # in truth only an RLock, see above
    _waiters: list[Any]
    _done_callbacks: list[Callable[[Future[T]], object]]
    _told: int = 0  # how many of the waiters have been told

    def __init__(self, core: Owner, work: Work, terms: Terms) -> None:
        # Not Future.__init__: it would build what makes a future observed.
        self._core = core
        self._work: Work | None = work
        self._terms = terms
        self._state = PENDING
        self._worker = None
        self._attempts = 0
        self._waits = self._unobserved = True
        self._awaited = False

    def __getattr__(self, name: str) -> Any:
        if name == "_unobserved":  # asked for with each call: without the words below
            raise AttributeError(name)
        if name == "_condition":
            self._core.observe(self)
            return self._condition
        if name in ("_waiters", "_done_callbacks"):  # all their users hold the condition
            return self.__dict__.setdefault(name, [])
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # -- what the call is doing ------------------------------------------------------------------

    @property
    def attempts(self) -> int:
        """How many attempts have started; 0 before the first."""
        return self._attempts

    @property
    def last_exception(self) -> BaseException | None:
        """What the latest failed attempt raised.

        ``None`` if it returned a result that was rejected, or if there is no failed attempt; and
        once the call succeeded or was cancelled.
        """
        return self._last[1] if self._exception is None else self._exception

    @property
    def due_at(self) -> float | None:
        """When the next attempt is due, on the clock of `time.monotonic`; ``None`` if not in backoff."""
        return self._due_at

    @property
    def key(self) -> str:
        """The key of this call, as in `current_call`, events and logs.

        A UUID that no other call has; or the *key* given to ``with_options()``, which all calls of that view
        have. With a journal, it is the same in every process.
        """
        try:
            key: str = self.__dict__["_key"]
        except KeyError:
            from uuid import uuid4  # slow to import, and few programs ask

            key = self.__dict__.setdefault("_key", str(uuid4()))
        return key

    def done(self) -> bool:
        """Return whether the call was cancelled or had its last attempt."""
        return self._state in DONE_STATES

    def running(self) -> bool:
        """Return whether an attempt is running; false in backoff."""
        return self._worker is not None and self._state == PENDING

    def cancelled(self) -> bool:
        """Return whether the call was cancelled."""
        return self._state == CANCELLED_AND_NOTIFIED

    def __repr__(self) -> str:
        # Takes no lock, since the caller may hold any.
        state = RUNNING if self.running() else self._state
        ending = ""
        if state == FINISHED:
            exception = self._exception
            ending = (
                f" returned {type(self._result).__name__}"
                if exception is None
                else f" raised {type(exception).__name__}"
            )
        return f"<{type(self).__name__} at {id(self):#x} state={STATE_NAMES[state]}{ending}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    # -- waiting for the outcome -----------------------------------------------------------------

    def result(self, timeout: Duration | None = None) -> T:
        """Return the result of the call, after waiting for its last attempt if need be.

        Args:
            timeout: How long to wait, in seconds; ``None``: as long as it takes.

        Raises:
            TypeError: If *timeout* is neither a number nor a ``timedelta``.
            ValueError: If it is not a number (NaN).
            CancelledError: If the call was cancelled.
            TimeoutError: If the call was not done in time.
            BaseException: What the last attempt raised.
        """
        if timeout is not None:
            timeout = checked_timeout(timeout)
        if self._state not in DONE_STATES and not self._wait(timeout):
            raise TimeoutError
        if self._state != FINISHED:
            raise CancelledError
        exception = self._exception
        if exception is None:
            return self._result
        self._mark_seen()
        try:
            raise exception
        finally:
            del self, exception  # the traceback refers to this frame: break the cycle

    def exception(self, timeout: Duration | None = None) -> BaseException | None:
        """Return what the last attempt raised, or ``None``; waits and raises like `result`."""
        if timeout is not None:
            timeout = checked_timeout(timeout)
        if self._state not in DONE_STATES and not self._wait(timeout):
            raise TimeoutError
        if self._state != FINISHED:
            raise CancelledError
        self._mark_seen()
        return self._exception

    def _wait(self, timeout: float | None) -> bool:
        """Wait until the call is done, for *timeout* seconds at most, and return whether it is."""
        latches = self.__dict__.setdefault("_latches", [])
        latch = self._core.make_latch(self)
        try:
            latches.append(latch)
            self._awaited = True  # announce the latch, then look: see the table in `_calls`
            if not HAS_GIL:  # pragma: no cover  # coverage is measured with it
                self._core.synchronize()
            if self._state in DONE_STATES:
                return True
            if timeout is None:
                latch.acquire()
            else:
                latch.acquire(timeout=timeout) if timeout > 0 else latch.acquire(False)
            return self.done()
        except TooLate:
            return False
        finally:  # a worker may have copied the list before, and opens this latch in vain: no harm
            with suppress(ValueError):
                latches.remove(latch)

    def _get_snapshot(self) -> Any:  # pragma: no cover  # called by asyncio from Python 3.15 on
        # There, asyncio reads the outcome by this method instead of exception().
        self._mark_seen()
        return super()._get_snapshot()  # type: ignore[misc]  # private, and not in older versions

    def _mark_seen(self) -> None:
        """The outcome is being read: a failure need not be logged any more."""
        if self._unseen is not None:
            self._unseen.seen()

    # -- changing the state from outside ---------------------------------------------------------

    def cancel(self) -> bool:
        """Cancel the call unless an attempt is running or it is done; return whether it is cancelled.

        In backoff that succeeds: no further attempt is made. While an attempt runs, ``cancel()`` does not
        succeed, but that attempt is then the last one, whatever its outcome. The attempt of a coroutine
        function is cancelled, too: the coroutine gets `asyncio.CancelledError` where it waits, and its
        ``finally`` runs a moment later. A call that is cancelled is not in the journal any more, if there is
        one.
        """
        return self._core.cancel(self)

    def set_running_or_notify_cancel(self) -> NoReturn:
        """Raise `InvalidStateError`: only the executor starts the attempts of its calls."""
        raise final(InvalidStateError("only the executor starts the attempts of its calls"))

    def set_result(self, result: T) -> None:
        """Make the call done with *result*, whatever becomes of it; for unit tests only.

        Raises:
            InvalidStateError: If the call is done.
        """
        self._set_outcome((result, None))

    def set_exception(self, exception: BaseException | None) -> None:
        """Make the call done with *exception*, whatever becomes of it; for unit tests only.

        Raises:
            InvalidStateError: If the call is done.
            TypeError: If *exception* is neither an exception nor ``None``.
        """
        if not (exception is None or isinstance(exception, BaseException)):
            raise TypeError(f"exception must be an exception or None, not {exception!r}")
        self._set_outcome((None, exception))

    def _set_outcome(self, outcome: Outcome) -> None:
        if not self._core.settle(self, outcome):
            raise final(InvalidStateError(f"{self._state}: {self!r}"))

    def _is_too_late(self, now: float) -> bool:
        """Return whether no attempt may start any more."""
        if self._attempts and now - self._began_at > self._terms.max_elapsed:
            return True
        return self._waits_until <= now or self._expires_at < now

    @property
    def _waits_in_heap(self) -> bool:
        """Whether its place, if it waits in no lane, is the heap: it was tried, or a lane gave it up."""
        return self._attempts > 0 or self._waits_until < math.inf

    def _subject(self, work: Work) -> Subject:
        """Return what messages say of the call. Its own ``_work`` may be gone by now."""
        return Subject(name_of(work), key=self.key, label=self._terms.label, executor=self._core.name)

    def _unseen_failure(self, work: Work, exception: BaseException) -> UnseenFailure:
        """Return what logs that the call failed, unless its outcome is read; *work* as for `_subject`."""
        *_, context = work
        return UnseenFailure(self._subject(work), self._attempts, exception, context)

    # -- for the core, before it is queued -------------------------------------------------------

    def _apply_terms(self, work: Work) -> None:
        """Store the key, the age limit and the weight, for terms with `Terms.marks_calls`."""
        if self._terms.key is not None:
            self.__dict__["_key"] = self._terms.key
        if self._terms.max_age is not None:
            self._expires_at = self._core.clock.monotonic() + self._terms.max_age
        if self._terms.most_weight < math.inf:
            _, args, kwargs, _ = work
            self._weight = self._terms.weigh(args, kwargs)

    def _resume(
        self,
        work: Work,
        key: str | None,
        age: float,
        attempts: int,
        postponed: int,
        began_at: float | None,
        due_at: float | None,
        error: BaseException,
    ) -> None:
        """Be what a call of another process was, *age* seconds after it was submitted there.

        Args:
            work: What to run.
            key: That which it was given, or ``None``.
            age: In seconds.
            attempts: How many attempts were made.
            postponed: How many of these are not counted.
            began_at: When its time began, if it has.
            due_at: When the next attempt is due, if it was in backoff.
            error: What stands for its last exception, if there is an attempt.
        """
        self._apply_terms(work)
        if key is not None:
            self.__dict__["_key"] = key
        if self._terms.max_age is not None:
            self._expires_at -= age
        if attempts:
            now = self._core.clock.monotonic()
            self._attempts = attempts
            self._postponed = postponed
            self._began_at = now if began_at is None else began_at
            self._due_at = now if due_at is None else due_at
            self._last = (None, error)

    @property
    def _is_untouched(self) -> bool:
        """Whether its turn has not come yet."""
        return not (self._attempts or self._waits_in_heap or self.running() or self.done())

    def _draw_key(self, draw: Callable[[], str]) -> None:
        """Draw the call's key, unless it has one."""
        if "_key" not in self.__dict__:
            self.__dict__["_key"] = draw()

    def _set_waiters(self, waiters: list[Any]) -> None:
        """Use this empty list for the waiters, unless there is one."""
        self.__dict__.setdefault("_waiters", waiters)

    def _observe(self, lock: threading.RLock) -> None:
        """Become observed, given the core's lock, which is free."""
        condition = threading.RLock()
        if self._state not in DONE_STATES:
            try:
                if HAS_GIL:
                    del self._unobserved
                else:  # pragma: no cover  # coverage is measured with it
                    with lock:
                        del self._unobserved
            except AttributeError:
                # A worker or a canceller may have claimed the call a moment ago, and is making it done
                # without the condition, under the worker's lock or the core's. When these are free, that is
                # over. Without this wait, an observer would add itself to a call that becomes done without
                # telling it.
                hand = self._worker
                if hand is not None:  # pragma: no branch  # a race: tests/schedules
                    with hand.lock:
                        pass
                with lock:
                    pass
        # Last: another thread that finds the condition skips the wait above, and relies on its being over.
        self.__dict__.setdefault("_condition", condition)

    # -- for the hand that has it, without a lock ------------------------------------------------

    def _set_began_at(self, began_at: float) -> None:
        """Note when its time began, for a call that gives up without any attempt."""
        self._began_at = began_at

    def _fail(self, outcome: Outcome, *, is_counted: bool) -> None:
        """An attempt failed, and another is to follow."""
        self._last = outcome
        self._postponed += not is_counted

    def _let_go(self, outcome: Outcome = NO_OUTCOME) -> None:
        """The last attempt is over: let go of its work. No lock is held, since that may run destructors.

        Args:
            outcome: What the attempt ended with, if ``last_exception`` is to show that already.
        """
        self._work = None
        if outcome is not NO_OUTCOME:
            self._last = outcome

    # -- for the core: changes of state, under its lock; `_finish` also under that of a hand -----

    def _claim(self) -> bool:
        """Claim the call, so that no other thread takes or cancels it; ``False`` if it does not wait."""
        try:
            del self._waits
        except AttributeError:
            return False
        return True

    def _begin(self, worker: Hand, now: float) -> bool:
        """Claim the call for an attempt by *worker*; return ``False`` if another thread has it."""
        if not self._claim():
            return False
        self._worker = worker
        if self._attempts:
            self._due_at = None
        elif self._waits_until < self._expires_at:
            # Its time began when its upstream first refused it: see `Schedule.waits_until`.
            self._began_at = self._waits_until - self._terms.max_elapsed
        else:
            self._began_at = now
        return True

    def _wait_until(self, until: float) -> None:
        """Its upstreams let no attempt through: it waits for them, until that time at most."""
        if self._attempts:
            self._due_at = None
        self._waits_until = min(until, self._expires_at)

    def _back_off(self, due_at: float) -> None:
        """The attempt failed, and another follows."""
        self._due_at = due_at
        self._worker = None
        self._waits = True

    def _make_last(self) -> None:
        """A canceller came too late: no attempt follows the one that runs."""
        self._is_last = True

    @property
    def _awaits(self) -> bool:
        """Whether its function is a coroutine function; ``False`` once it is done."""
        work = self._work
        return work is not None and type(work[0]) is CoroutineFunction

    def _call_off(self, gone: set[Call]) -> bool:
        """Cancel the call, of which an attempt runs; otherwise as `_withdraw`."""
        try:
            self._release()
        finally:
            self._state = CANCELLED_AND_NOTIFIED
        return True

    def _withdraw(self, gone: set[Call]) -> bool:
        """Cancel the call if it waits, and add it to *gone*; an interruption does not stop that half-way.

        Returns:
            Whether it waited.
        """
        try:  # not `_claim`: an interruption as that returns would leave the call claimed, and not cancelled
            del self._waits
        except AttributeError:  # it is in a hand, or done
            return False
        try:
            self._release()
        finally:  # where an interruption can come after the last step only
            self._state = CANCELLED_AND_NOTIFIED
            gone.add(self)
        return True

    def _withdraw_unobserved(self, gone: set[Call]) -> bool:
        """As `_withdraw`, if no thread observes the call; otherwise change nothing, and return ``False``."""
        try:
            del self._unobserved  # claim: a thread that observes it from here on waits for the core's lock
            del self._waits
        except AttributeError:  # without the first, it is like a call that is about to be observed
            return False
        try:
            self._release()
        finally:  # as in `_withdraw`
            self._state = CANCELLED_AND_NOTIFIED
            gone.add(self)
        return True

    def _finish_anywhere(self, outcome: Outcome, unseen: UnseenFailure | None, gone: set[Call]) -> bool:
        """As `_finish`, whether the call waits or runs; if it waited, add it to *gone*."""
        waits = self._claim()
        try:
            return self._finish(outcome, unseen)
        finally:  # where an interruption can come after the last step only
            if waits and self._state in DONE_STATES:
                gone.add(self)
            elif waits:  # pragma: no cover  # see tests/untraced
                self._waits = True

    def _finish(self, outcome: Outcome, unseen: UnseenFailure | None) -> bool:
        """Make the call done with *outcome*; return ``False`` if it is done already."""
        if self._state in DONE_STATES:
            self._last = NO_OUTCOME  # that of an attempt which ended after the outcome was set from outside
            if unseen is not None:
                unseen.seen()
            return False
        try:
            self._release()
        finally:  # an interruption does not stop it half-way
            self._result, exception = outcome  # type: ignore[assignment]  # what fn returned
            if exception is not None:
                self._exception = exception
                self._unseen = unseen
            self._state = FINISHED  # last: a thread that reads it finds the outcome complete
        return True

    def _leave_all_backlogs(self) -> None:
        """Make room in the backlogs of its upstreams; may be done again."""
        for leave in self._leave_backlogs:
            leave()
        self._leave_backlogs = ()

    def _release(self) -> None:
        """Let go of what only a further attempt would need."""
        self._work = None
        if self._leave_backlogs:  # before the state: a thread that sees the call done must find room
            self._leave_all_backlogs()
        if self._last is not NO_OUTCOME:
            self._last = NO_OUTCOME
            self._due_at = None

    # -- telling others --------------------------------------------------------------------------

    def _open(self) -> None:
        """Open the latches of a call that is done, if there are any; may be done again."""
        if self._awaited:
            for latch in self.__dict__["_latches"].copy():  # a thread that stops waiting removes its own
                try:  # not suppress(), which takes longer than all the rest
                    latch.release()
                except RuntimeError:
                    continue  # it is open already

    def _tell_waiters(self) -> None:
        """Tell `wait` and `as_completed`, each once; under the condition."""
        waiters = self.__dict__.get("_waiters", ())  # most calls have none: not __getattr__
        while self._told < len(waiters):
            waiter = waiters[self._told]
            if self._state == CANCELLED_AND_NOTIFIED:
                waiter.add_cancelled(self)
            elif self._exception is None:
                waiter.add_result(self)
            else:
                waiter.add_exception(self)
            self._told += 1

    def _invoke_callbacks(self) -> None:
        """Run all done callbacks, and let go of each.

        What a callback raises is logged, as the standard library does, on its logger. A
        ``KeyboardInterrupt`` or the like is raised again when all have run.
        """
        interrupt = None
        callbacks = self.__dict__.get("_done_callbacks")
        while callbacks:
            callback = callbacks[0]
            del callbacks[0]  # at once: when this is called again after an interruption, none runs twice
            try:
                callback(self)
            except Exception:
                LOGGER.exception("exception calling callback for %r", self)
            except BaseException as exception:
                interrupt = exception  # the others run first
        if interrupt is not None:
            raise interrupt

    def _orphan(self, error: BaseException) -> None:
        """In a forked child, make a call of the parent fail with *error*.

        Its condition may be held by a thread that the child does not have, and its waiters and callbacks
        belong to the parent.
        """
        if hasattr(self, "_unobserved"):
            del self._unobserved  # a call that has forked returns in the child, too: its worker finds it done
        else:
            self.__dict__["_condition"] = threading.RLock()
            self._waiters = []
            self.__dict__.pop("_done_callbacks", None)
        if self._state not in DONE_STATES:
            self._claim()
            self._finish((None, error), None)
            self._open()


def names_of(calls: Iterable[Call]) -> list[str]:
    """Return the names of those calls that are not done, for a log line."""
    return sorted(name_of(work) for call in calls if (work := call._work) is not None)


def name_of(work: Work) -> str:
    """Return the name of a call, for a log line."""
    fn, *_ = work
    return call_name(fn)
