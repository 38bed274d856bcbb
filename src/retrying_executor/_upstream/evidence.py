"""What a failed attempt tells of the service that it called: read off the exception.

A service is judged by its own failures only. What the program itself got wrong, what failed before the
service was reached, and what is not understood tells nothing of it; a final answer shows that it works.
The rules stand in `health`, which is imported with the first failure. Nothing here ever raises.
"""

from __future__ import annotations

from retrying_executor._common.errors import NotNow
from retrying_executor._common.forks import before_fork
from retrying_executor._common.public import public
from retrying_executor._policy.reading import Reading, get
from retrying_executor._policy.transient import check_exception, verdict_on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from retrying_executor._upstream.gate import Evidence


def _import_health() -> None:
    import retrying_executor._upstream.health  # noqa: F401


before_fork(_import_health)  # else a child might wait for a thread that was importing them


@public
def service_failed(exception: BaseException) -> bool:
    """Return whether an exception tells that the service failed.

    That is the default of ``Upstream(record_exceptions=)``. These do: an answer 5xx or 408, and the AWS codes
    and gRPC statuses that correspond; a connection that cannot be made, breaks off, or times out. Where an
    exception says nothing itself, those that it was raised from or carries are asked. Anything else tells
    nothing of the service: errors of the program itself, wrong arguments and credentials, certificates that
    do not verify, local files, answers that are final.

    Args:
        exception: What an attempt raised.

    Returns:
        Whether the service failed. Never raises for an exception, whatever its attributes do.

    Raises:
        TypeError: If *exception* is no exception.
    """
    check_exception(exception)
    return _tells_of_failure(Reading(exception))


def _tells_of_failure(reading: Reading) -> bool:
    """Return whether an exception tells that the service failed. Never raises."""
    try:
        from retrying_executor._upstream.health import has_failed

        return has_failed(reading)
    except BaseException:  # of a hostile attribute: it proves nothing about the service
        return False


def evidence_of(reading: Reading, is_recorded: Callable[[Exception], object] = service_failed) -> Evidence:
    """Return what a failure tells of the service that was called. Never raises.

    Args:
        reading: What the exception of an attempt says.
        is_recorded: Whether an exception is a failure of the service.
    """
    verdict = verdict_on(reading)
    if isinstance(verdict, NotNow):
        return "none" if get(verdict, "only_this_call") is True else "busy"
    exception: Any = reading.exception  # an Exception
    try:
        if _tells_of_failure(reading) if is_recorded is service_failed else is_recorded(exception):
            return "failed"
        from retrying_executor._upstream.health import was_answered

        return "worked" if verdict is False and was_answered(reading) else "none"
    except BaseException:  # of the caller's predicate, or of a hostile attribute: that proves nothing
        return "none"
