"""What an executor is doing, in numbers."""

from __future__ import annotations

from retrying_executor._common.public import public
from retrying_executor._common.values import Value


@public
class Stats(Value):
    """A consistent snapshot of an executor: ``submitted`` is always the sum of what became of it.

    ``submitted == running + ready + in_backoff + held + succeeded + failed + cancelled``

    Attributes:
        threads: Worker threads that are at work, resting or being started.
        running: Calls whose attempt is running; those of coroutine functions need no thread for that.
        ready: Calls that could start now, if a worker were free.
        in_backoff: Calls that wait until the delay before their next attempt is over.
        submitted: Calls accepted so far.
        succeeded: Calls that returned a result; this includes calls whose last result ``retry_result``
            rejected.
        failed: Calls that are done with an exception; this includes calls that gave up without any attempt.
        cancelled: Calls that were cancelled.
        retried: Attempts after which the call went into backoff: they failed, or were answered "not now".
        next_due_at: When the first retry is due, or an upstream opens if that is sooner, in seconds on
            the clock of `time.monotonic`; ``None`` if no call waits for a time.
        held: Calls that are ready but wait because of the limits or the hold of their upstream.
        opens_at: When the first of these upstreams lets a call through again, on the same clock; ``None`` if
            no call is held, or if that is not known.
    """

    threads: int
    running: int
    ready: int
    in_backoff: int
    submitted: int
    succeeded: int
    failed: int
    cancelled: int
    retried: int
    next_due_at: float | None
    held: int = 0
    opens_at: float | None = None
