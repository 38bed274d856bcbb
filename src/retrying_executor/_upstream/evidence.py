"""What a failed attempt tells of the service that it called: read off the exception.

A service is judged by its own failures only. What the program itself got wrong, what failed before the
service was reached, and what is not understood tells nothing of it; a final answer shows that it works.
The rules stand in `health`, which is imported with the first failure. Nothing here ever raises.
"""

from __future__ import annotations

from retrying_executor._common.errors import NotNow
from retrying_executor._common.forks import before_fork
from retrying_executor._common.public import public
from retrying_executor._policy.reading import Answer, get
from retrying_executor._policy.transient import check_exception, verdict_on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from retrying_executor._upstream.gate import Evidence


def _import_rules() -> None:
    import retrying_executor._upstream.health  # noqa: F401


before_fork(_import_rules)  # a thread may be importing them during the fork: the child would wait for that


@public
def service_failed(exception: BaseException) -> bool:
    """Return whether an exception tells that the service failed.

    That is the default of ``Upstream(record_exceptions=)``. These do: an answer 5xx or 408, and the AWS codes
    and gRPC statuses that correspond; a connection that cannot be made, breaks off, or times out. The
    exceptions that it was raised from, or that it carries, are asked where it says nothing itself. Anything
    else tells nothing of the service: errors of the program itself, arguments and credentials that are wrong,
    certificates that do not verify, local files, answers that are final.

    Args:
        exception: What an attempt raised.

    Returns:
        Whether the service failed. Never raises for an exception, whatever its attributes do.

    Raises:
        TypeError: If *exception* is no exception.
    """
    check_exception(exception)
    return _says_so(Answer(exception))


def _says_so(answer: Answer) -> bool:
    """Return whether an exception that may have been read tells that the service failed. Never raises."""
    try:
        from retrying_executor._upstream.health import has_failed

        return has_failed(answer)
    except BaseException:  # of a hostile attribute: it proves nothing about the service
        return False


def evidence_of(answer: Answer, is_recorded: Callable[[Exception], object] = service_failed) -> Evidence:
    """Return what a failure tells of the service that was called. Never raises.

    Args:
        answer: What the exception of an attempt says, as far as it has been read.
        is_recorded: Whether an exception is a failure of the service.
    """
    verdict = verdict_on(answer)
    if isinstance(verdict, NotNow):
        return "none" if get(verdict, "only_this_call") is True else "busy"
    exception: Any = answer.exception  # an Exception
    try:
        if _says_so(answer) if is_recorded is service_failed else is_recorded(exception):
            return "failed"
        from retrying_executor._upstream.health import was_answered

        return "worked" if verdict is False and was_answered(answer) else "none"
    except BaseException:  # of a predicate of the caller's, or of a hostile attribute: it says nothing then
        return "none"
