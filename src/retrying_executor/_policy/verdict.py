"""A failed attempt, and what follows it."""

from __future__ import annotations

from retrying_executor._common.values import Value


class Attempt(Value):
    """A failed attempt, as a policy sees it.

    Attributes:
        number: Which attempt of its call it was; the first is 1.
        exception: What it raised; ``None`` if it returned a result that ``retry_result`` rejected.
        result: What it returned; ``None`` if it raised.
        elapsed: Seconds since the first attempt of the call began.
        postponed: How many attempts before it were answered "not now", and so are not counted.
    """

    number: int
    exception: Exception | None
    result: object
    elapsed: float
    postponed: int = 0


class Verdict:
    """What follows a failed attempt.

    Attributes:
        delay: Seconds to wait before the next attempt; ``None``: the call gives up.
        counts: Whether the attempt is used up.
        asked: How many seconds the answer asked to wait, if it did.
        reason: Why it is this delay, or why the call gives up, fit for a log line; often empty with a delay.
        concerns_call: Whether "not now" was said of this call only, not of its upstream.
    """

    __slots__ = ("asked", "concerns_call", "counts", "delay", "reason")

    def __init__(
        self,
        delay: float | None,
        *,
        counts: bool = True,
        asked: float | None = None,
        reason: str = "",
        concerns_call: bool = False,
    ) -> None:
        self.delay = delay
        self.counts = counts
        self.asked = asked
        self.reason = reason
        self.concerns_call = concerns_call


ACCEPTED = Verdict(None)
"""The result was accepted."""

TOO_LATE = Verdict(None, reason="no time left for another attempt")
"""There was no time left for the attempt: it was not made."""

TOO_OLD = Verdict(None, reason="max_age has passed since submit()")
"""The call was too old for the attempt: it was not made."""

CUT_SHORT = Verdict(None, reason="cancelled or shut down while it ran")
"""The attempt was to be the last one, whatever the policy says."""
