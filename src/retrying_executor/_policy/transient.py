"""Which failures are worth another attempt, read off the exception.

What it says is read in `answers`; what each code means stands in `codes`. Nothing here ever raises, whatever
an exception does when it is looked at.
"""

from __future__ import annotations

from retrying_executor._common.errors import NotNow, is_final
from retrying_executor._common.exceptions import is_a, traceback_of
from retrying_executor._common.public import public
from retrying_executor._common.wrapper import codes as wrapper_codes
from retrying_executor._policy import codes
from retrying_executor._policy.answers import aws_code_of, check_exception, grpc_status_of, http_status_of


@public
def transient(exception: BaseException) -> bool | NotNow:
    """Return whether a failure may go away by itself; the default ``retry_on`` of `RetryPolicy`.

    Every `Exception` may, except those that say that it does not:

    - HTTP answers 4xx, other than 408 (Request Timeout), 425 (Too Early) and 429 (Too Many Requests);
    - AWS client errors that are neither throttling nor capacity, and the gRPC statuses that
      correspond;
    - a call that could not even be made, since its arguments do not fit;
    - `NameError`, `ImportError`, `SyntaxError` and `NotImplementedError`;
    - errors of this library that could only repeat: a ``drain()`` that would wait for itself, a ``submit()``
      after ``shutdown()``, a `ForkedFutureError`.

    Args:
        exception: What an attempt raised.

    Returns:
        Whether another attempt is worth it; or a `NotNow` for an answer that is no failure, but asks to
        come back later (HTTP 429, the throttling and capacity codes of AWS, gRPC's ``RESOURCE_EXHAUSTED``),
        and for a `NotNow` that itself. Never raises for an exception, whatever its attributes do.

    Raises:
        TypeError: If *exception* is no exception.
    """
    check_exception(exception)
    try:
        return _judge(exception)
    except BaseException:  # of a hostile attribute: it proves nothing about the call
        return is_a(exception, Exception)


def _judge(exception: BaseException) -> bool | NotNow:
    if is_a(exception, NotNow):
        return exception
    if not is_a(exception, Exception) or issubclass(type(exception), codes.PROGRAMMING_ERRORS):
        return False
    if is_final(exception):
        return False
    if is_a(exception, TypeError) and _was_not_entered(exception):
        return False
    code = aws_code_of(exception)
    if code in codes.AWS_NOT_NOW:
        return NotNow()
    if code in codes.AWS_TRANSIENT:
        return True
    if code in codes.AWS_FINAL:
        return False
    grpc_status = grpc_status_of(exception)
    if grpc_status is not None:
        return NotNow() if grpc_status in codes.GRPC_NOT_NOW else grpc_status not in codes.GRPC_FINAL
    status = http_status_of(exception)
    if status in codes.HTTP_NOT_NOW:
        return NotNow()
    return status not in codes.HTTP_CLIENT_ERRORS or status in codes.HTTP_TRANSIENT_CLIENT_ERRORS


def _was_not_entered(exception: TypeError) -> bool:
    """Return whether no frame below the one that caught it has seen it: the call itself was at fault."""
    traceback = traceback_of(exception)
    below = None if traceback is None else traceback.tb_next
    while below is not None and below.tb_frame.f_code in wrapper_codes:
        below = below.tb_next
    return traceback is not None and below is None
