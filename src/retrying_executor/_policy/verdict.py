"""A failed attempt, and what follows it."""

from __future__ import annotations

from retrying_executor._common.public import public
from retrying_executor._common.values import Value, as_float, checked_int, in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from retrying_executor._policy.reading import Reading


@public
class Attempt(Value):
    """A failed attempt, as a policy sees it.

    Attributes:
        number: Which attempt of its call it was; the first is 1.
        exception: What it raised; ``None`` if it returned a result that ``retry_result`` rejected.
        result: What it returned; ``None`` if it raised.
        elapsed: Seconds since the first attempt of the call began.
        postponed: How many attempts before it ended with "not now", and so are not counted.

    Raises:
        TypeError: If a field has the wrong type, is missing or unknown.
        ValueError: If *number* is less than 1, or *elapsed* or *postponed* less than 0.
    """

    number: int
    exception: Exception | None
    result: object
    elapsed: float
    postponed: int = 0

    def _check(self) -> None:
        checked_int("number", self.number)
        if not (self.exception is None or isinstance(self.exception, BaseException)):
            raise TypeError(f"exception must be an exception or None, not {self.exception!r}")
        elapsed = as_float(self.elapsed)
        if elapsed is None:
            raise TypeError(f"elapsed must be a number of seconds, not {self.elapsed!r}")
        if not elapsed >= 0.0:
            raise ValueError(f"elapsed must be 0 seconds or more, not {self.elapsed!r}")
        checked_int("postponed", self.postponed, least=0)


class Asked(float):
    """How many seconds an answer asks to wait, cut to what the policy allows.

    Args:
        in_full: How many seconds it asks for; 0 or more.
        limit: The ``max_retry_after`` of the policy, or ``None``.
    """

    __slots__ = ("words",)

    words: str  # fit for a log line

    def __new__(cls, in_full: float, limit: float | None = None) -> Asked:
        asked = super().__new__(cls, in_full if limit is None else min(in_full, limit))
        cut = f", cut to {in_words(asked)} by max_retry_after" if asked < in_full else ""
        asked.words = f"asked to wait {in_words(in_full)}{cut}"
        return asked


class Verdict:
    """What follows a failed attempt.

    Attributes:
        delay: Seconds to wait before the next attempt; ``None``: the call gives up.
        counts: Whether the attempt is used up.
        asked: How many seconds the answer asked to wait, if it did.
        reason: Why the delay is what it is, or why the call gives up, fit for a log line; often empty with a
            delay.
        concerns_call: Whether "not now" is about this call only, not about its upstream.
        read: What the exception of the attempt says; ``None`` if it has not been read.
    """

    __slots__ = ("asked", "concerns_call", "counts", "delay", "read", "reason")

    def __init__(
        self,
        delay: float | None,
        *,
        counts: bool = True,
        asked: Asked | None = None,
        reason: str = "",
        concerns_call: bool = False,
        read: Reading | None = None,
    ) -> None:
        self.delay = delay
        self.counts = counts
        self.asked = asked
        self.reason = reason
        self.concerns_call = concerns_call
        self.read = read


ACCEPTED = Verdict(None)
"""The result was accepted."""

TOO_LATE = Verdict(None, reason="max_elapsed has passed")
"""There was no time left for the attempt: it was not made."""

TOO_OLD = Verdict(None, reason="max_age has passed since submit()")
"""The call was too old for the attempt: it was not made."""

CUT_SHORT = Verdict(None, reason="cancelled or shut down while it ran")
"""The attempt had to be the last one, whatever the policy says."""

IN_FLIGHT = Verdict(None)
"""The attempt is not over: it has returned a coroutine, which is to be run."""
