"""One attempt, and the policy's verdict on it: where workers run calls, policies and predicates.

No lock is held here. The fields of a call that are changed here belong to its worker while the call runs.
What users' code raises does not leave this module as an exception: it becomes an outcome.
"""

from __future__ import annotations

import math
from sys import modules
from types import CoroutineType

from retrying_executor._calls.call import NO_OUTCOME
from retrying_executor._common import log
from retrying_executor._common.callables import CoroutineFunction
from retrying_executor._common.errors import NotNow
from retrying_executor._common.exceptions import class_name, is_a, set_cause, traceback_of
from retrying_executor._common.values import in_words, optional_seconds
from retrying_executor._policy.policy import no_time_for
from retrying_executor._policy.reading import Reading, get
from retrying_executor._policy.verdict import (
    ACCEPTED,
    CUT_SHORT,
    IN_FLIGHT,
    TOO_LATE,
    TOO_OLD,
    Attempt,
    Verdict,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Protocol

    from retrying_executor._calls.call import Call, Hand, Outcome, Work
    from retrying_executor._calls.terms import Terms
    from retrying_executor._common.unseen import UnseenFailure
    from retrying_executor._policy.policy import Policy
    from retrying_executor._policy.verdict import Asked
    from retrying_executor._upstream.gate import Evidence, Permit
    from retrying_executor._upstream.several import JointPermit

    class Observer(Protocol):
        """Is told of attempts while they are made."""

        def started(self, call: Call, work: Work, /) -> None: ...
        def ended(self, call: Call, /) -> None: ...
        def followed_up(self, call: Call, news: log.FollowUp, /) -> None: ...


_NEVER_TRIED = "never tried: the upstream {} was held for as long as max_elapsed allows"
_TOO_OLD = "never tried: it was submitted more than {} ago, and that is its max_age"
_NOTE = "retrying_executor: gave up after "


def make(
    call: Call, work: Work, permit: Permit | JointPermit | None, observer: Observer | None = None
) -> tuple[Verdict, Outcome]:
    """Make an attempt, unless it is too late for it, and ask the policy what follows.

    A coroutine function only returns a coroutine here. The rest of its attempt follows in an event loop.
    When that has landed, this is called once more, to judge the outcome.

    Args:
        call: The call, in the hand of this thread.
        work: What to run.
        permit: The permit of its upstreams, if it has any.
        observer: Is told of the attempt; or ``None``.

    Returns:
        The verdict; and the outcome of this attempt, or if none follows that of the call. `IN_FLIGHT` comes
        with the coroutine.
    """
    previous = outcome = None
    try:
        terms = call._terms
        if call._attempts or call._waits_until < math.inf or terms.max_age is not None:
            outcome = take_landed(call._worker)
            if outcome is None:
                now = call._core.clock.monotonic()
                if call._is_too_late(now):
                    return _give_up(call, now)
                previous = call._last[1]
        if outcome is None:
            call._attempts += 1
            if observer is not None:
                observer.started(call, work)
            outcome = run(work, previous)
            if type(outcome[0]) is CoroutineType and _flies(work):
                return IN_FLIGHT, outcome
        if observer is not None:
            observer.ended(call)
        if outcome[1] is None and terms.rejects is None:
            return ACCEPTED, outcome
        return follow_up(call, outcome, is_probe=permit is not None and permit.is_probe)
    finally:
        del call, work, outcome, previous  # a traceback keeps this frame


def take_landed(hand: Hand | None) -> Outcome | None:
    """Return what the attempt of the call in a hand ended with, once, if that has landed."""
    assert hand is not None  # the call is in one
    landed, hand.landed = hand.landed, None
    return landed


def _flies(work: Work) -> bool:
    """Return whether a coroutine that an attempt returned is to be run; if it is the result, say so once."""
    fn, *_ = work
    if type(fn) is CoroutineFunction:
        return True
    log.coroutine_returned(fn)
    return False


def _give_up(call: Call, now: float) -> tuple[Verdict, Outcome]:
    """Return the verdict and the outcome of a call for which it is too late; see `make`."""
    terms = call._terms
    age = terms.max_age if call._expires_at <= now else None
    verdict = TOO_LATE if age is None else TOO_OLD
    if call._attempts:
        return verdict, call._last
    if age is not None:
        call._set_began_at(call._expires_at - age)  # for the note
        return verdict, (None, TimeoutError(_TOO_OLD.format(in_words(age))))
    call._set_began_at(call._waits_until - terms.max_elapsed)  # for the note
    return verdict, (None, TimeoutError(_NEVER_TRIED.format(terms.upstream_name)))


def ends_at(call: Call) -> float:
    """Return until when further attempts of a call may start, whatever its upstreams do."""
    return min(call._began_at + call._terms.max_elapsed, call._expires_at)


def follow_up(call: Call, outcome: Outcome, *, is_probe: bool) -> tuple[Verdict, Outcome]:
    """Ask the policy what follows an attempt that failed, or whose result it is to judge; see `make`."""
    terms, read = call._terms, None
    try:
        if terms.policy is None or call._is_last:
            return CUT_SHORT, outcome
        now = call._core.clock.monotonic()
        elapsed = now - call._began_at
        # A probe that the service failed does not count: for the policy it is as if there had been none.
        is_free = False
        if is_probe and is_a(outcome[1], Exception):
            read = Reading(outcome[1])
            is_free = terms.evidence_of(read) == "failed"
        postponed = call._postponed + is_free
        verdict, outcome = judge(
            terms.policy, terms, call._attempts, elapsed, outcome, postponed=postponed, read=read
        )
        if verdict.delay is not None and terms.max_age is not None and now + verdict.delay > call._expires_at:
            age = now + verdict.delay - call._expires_at + terms.max_age
            verdict.delay, verdict.reason = None, no_time_for(age, "max_age", terms.max_age)
        if verdict.delay is not None:
            call._fail(outcome, is_counted=verdict.counts and not is_free)
            if is_free and verdict.counts:
                verdict.reason = "a probe, not counted"
        return verdict, outcome
    finally:
        del call, outcome, read  # a traceback keeps this frame


def evidence(terms: Terms, verdict: Verdict, outcome: Outcome) -> tuple[Evidence, Asked | None]:
    """Return what an attempt shows about its upstream, and how many seconds the upstream asked to wait.

    Args:
        terms: What the call was submitted under.
        verdict: What follows the attempt.
        outcome: What the attempt ended with.
    """
    exception = outcome[1]
    if verdict is ACCEPTED:
        return "worked", None
    if verdict is TOO_LATE or verdict is TOO_OLD:
        return "none", None
    if exception is None:  # the program has rejected the result, but the service did answer
        return "worked", None
    if not is_a(exception, Exception):
        return "none", None
    if verdict.concerns_call or (is_a(exception, NotNow) and get(exception, "only_this_call") is True):
        return "none", None
    read = verdict.read or Reading(exception)
    asked = verdict.asked  # this counts even if the call gives up
    if asked is None:
        asked = terms.asked_by(read)
    if asked is not None or not verdict.counts:
        return "busy", asked
    return terms.evidence_of(read), None


def conclude(call: Call, work: Work, outcome: Outcome, verdict: Verdict) -> UnseenFailure | None:
    """Prepare a call that becomes done with *outcome*; return what logs that, if it is a failure."""
    unseen = None
    if outcome[1] is not None:
        if call._terms.policy is not None:
            elapsed = call._core.clock.monotonic() - call._began_at
            add_note(outcome[1], call._attempts, elapsed, verdict.reason)
        unseen = call._unseen_failure(work, outcome[1])
    call._let_go(outcome if call._attempts > 1 or unseen is not None else NO_OUTCOME)
    return unseen


def announce(call: Call, work: Work, outcome: Outcome, verdict: Verdict, observer: Observer | None) -> None:
    """Log what follows an attempt that failed, and tell the observer; see `make`."""
    if verdict.delay is None and call._terms.policy is None:
        return  # it never retries: a failure is just that
    is_logged = log.tells_of_retries()
    if not is_logged and observer is None:
        return
    kind = "gave_up" if verdict.delay is None else "retry_scheduled" if verdict.counts else "not_now"
    news = log.FollowUp(
        kind,
        call._attempts,
        delay=verdict.delay,
        exception=outcome[1],
        what=log.describe(*outcome),
        why=verdict.reason,
    )
    if is_logged:
        *_, context = work
        log.followed_up(call._subject(work), news, context)
    if observer is not None:
        observer.followed_up(call, news)


def run(work: Work, previous: BaseException | None) -> Outcome:
    """Run one attempt, in a copy of the context captured by ``submit()``.

    Args:
        work: What to run.
        previous: What the attempt before it raised. If this one raises the same object again, the older part
            of its traceback is cut off, so that it does not grow with each attempt.

    Returns:
        What it returned or raised.
    """
    fn, args, kwargs, context = work
    old = None if previous is None else traceback_of(previous)
    try:
        context = context.copy()
        if context and "decimal" in modules:
            context.run(own_decimal_context)
        return context.run(fn, *args, **kwargs), None
    except BaseException as exception:
        cut_older(exception, previous, old)
        return None, exception
    finally:
        del work, previous, fn, args, kwargs, context, old  # a traceback keeps this frame


def own_decimal_context() -> None:
    """Give the attempt a decimal context of its own: a copied `contextvars` context shares that object."""
    try:
        decimal = modules["decimal"]
        decimal.setcontext(decimal.getcontext().copy())
    except Exception:  # another thread is still importing `decimal`, so no context is set yet
        return


def cut_older(
    exception: BaseException | None, previous: BaseException | None, old: TracebackType | None
) -> None:
    """Cut *old*, the traceback of *previous*, off the end of that of *exception*, if that is the same object.

    Raising an exception again puts new entries before the old.
    """
    if exception is None or exception is not previous:
        return
    traceback = traceback_of(exception)
    while traceback is not None and old is not None:
        if traceback.tb_next is old:
            traceback.tb_next = None
        traceback = traceback.tb_next


def judge(
    policy: Policy,
    terms: Terms,
    number: int,
    elapsed: float,
    outcome: Outcome,
    *,
    postponed: int = 0,
    read: Reading | None = None,
) -> tuple[Verdict, Outcome]:
    """Ask the policy what follows an attempt.

    Args:
        policy: The policy to ask.
        terms: What the call was submitted under.
        number: Which attempt it was; the first is 1.
        elapsed: Seconds since the first attempt began.
        outcome: What the attempt ended with.
        postponed: How many attempts up to this one are not counted.
        read: What its exception says, if some of that has been read already.

    Returns:
        The verdict; and the attempt's outcome. If the policy itself failed, that is the outcome instead.
    """
    result, exception = outcome
    attempt = None
    try:
        if exception is None:
            if terms.rejects is None or not terms.rejects(result):
                return ACCEPTED, outcome
        elif not is_a(exception, Exception):
            return Verdict(None, reason=f"{class_name(exception)} is never retried"), outcome
        attempt = Attempt._trusted(  # in the order of its annotations
            number=number, exception=exception, result=result, elapsed=elapsed, postponed=postponed
        )
        if terms.verdict is not None:
            return terms.verdict(attempt, read), outcome
        delay = optional_seconds("what the retry policy returns", policy(attempt))
        return Verdict(delay, reason="the retry policy says so" if delay is None else ""), outcome
    except BaseException as error:
        if exception is not None and error is not exception:
            set_cause(error, exception)
        return Verdict(None, reason="this was raised by the retry policy"), (None, error)
    finally:
        del result, exception, outcome, attempt, read  # a traceback keeps this frame


def add_note(exception: BaseException, attempts: int, elapsed: float, reason: str) -> None:
    """Say on *exception* how many attempts were made in how long, and why no more (PEP 678).

    An exception that is raised again and again, by one call or by many, keeps the latest note only.
    """
    try:
        notes = getattr(exception, "__notes__", [])
        if not isinstance(notes, list):
            return
        notes = [note for note in notes if not str(note).startswith(_NOTE)]
        plural = "" if attempts == 1 else "s"
        notes.append(f"{_NOTE}{attempts} attempt{plural} in {in_words(elapsed)}: {reason}")
        exception.__notes__ = notes  # type: ignore[attr-defined]  # known from Python 3.11 on
    except BaseException:  # an exception that takes no notes goes without
        return
