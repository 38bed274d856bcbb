"""One attempt, and the policy's verdict on it: where workers run calls, policies and predicates.

No lock is held here. Nothing that users' code raises gets out: it becomes an outcome.
"""

from __future__ import annotations

from retrying_executor._policy import Attempt
from retrying_executor._value import in_words, seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from retrying_executor._future import Outcome, Work
    from retrying_executor._policy import Policy, Terms

_NOTE = "retrying_executor: gave up after "


def run(work: Work, previous: BaseException | None) -> Outcome:
    """Run one attempt, in a copy of the context captured by ``submit()``.

    Args:
        work: What to run.
        previous: What the attempt before it raised. If this one raises the same object again, the
            traceback of the attempt before is cut off, so that it does not grow with each attempt.

    Returns:
        What it returned or raised.
    """
    fn, args, kwargs, context, _ = work
    old = None if previous is None else previous.__traceback__
    try:
        return context.copy().run(fn, *args, **kwargs), None
    except BaseException as exception:
        if exception is previous:
            _cut(exception.__traceback__, old)
        return None, exception
    finally:
        del work, previous, fn, args, kwargs, context, old  # a traceback keeps this frame


def _cut(traceback: TracebackType | None, old: TracebackType | None) -> None:
    """Cut *old* off the end of *traceback*: raising an exception again puts entries before the old ones."""
    while traceback is not None and old is not None:
        if traceback.tb_next is old:
            traceback.tb_next = None
        traceback = traceback.tb_next


def judge(
    policy: Policy, terms: Terms, number: int, elapsed: float, outcome: Outcome
) -> tuple[float | None, Outcome]:
    """Ask the policy what follows an attempt.

    Args:
        policy: The policy to ask.
        terms: What the call was submitted under.
        number: Which attempt it was; the first is 1.
        elapsed: Seconds since the first attempt began.
        outcome: What the attempt ended with.

    Returns:
        The seconds to wait before the next attempt, or ``None`` if there is none; and the outcome
        of the call in that case: the attempt's own, or the error of a policy that failed.
    """
    result, exception = outcome
    try:
        if exception is None:
            if terms.rejects is None or not terms.rejects(result):
                return None, outcome
        elif not isinstance(exception, Exception):
            return None, outcome
        delay = policy(Attempt(number=number, exception=exception, result=result, elapsed=elapsed))
        return None if delay is None else seconds("what the retry policy returns", delay), outcome
    except BaseException as error:
        if exception is not None and error is not exception:
            BaseException.__setattr__(error, "__cause__", exception)  # whatever its class overrides
        return None, (None, error)
    finally:
        del result, exception, outcome  # a traceback keeps this frame


def add_note(exception: BaseException, attempts: int, elapsed: float) -> None:
    """Say on *exception* how many attempts were made in how long, where notes exist (PEP 678).

    An exception that is raised again and again, by one call or by many, keeps the latest note only.
    """
    try:
        notes = getattr(exception, "__notes__", [])
        if not isinstance(notes, list):
            return
        notes = [note for note in notes if not str(note).startswith(_NOTE)]
        plural = "" if attempts == 1 else "s"
        notes.append(f"{_NOTE}{attempts} attempt{plural} in {in_words(elapsed)}")
        exception.__notes__ = notes  # type: ignore[attr-defined]  # known from Python 3.11 on
    except Exception:  # an exception that takes no notes goes without
        return
