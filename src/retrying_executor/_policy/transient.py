"""Which failures are worth another attempt, read off the exception.

`answers` reads the status or code of an exception, and `codes` has what each means. Nothing here ever raises,
even if reading an attribute of the exception does.
"""

from __future__ import annotations

from retrying_executor._common.callables import wrapper_codes
from retrying_executor._common.errors import NotNow, is_final
from retrying_executor._common.exceptions import is_a, traceback_of
from retrying_executor._common.public import public
from retrying_executor._policy import codes
from retrying_executor._policy.answers import aws_code_of, check_exception, grpc_status_of, http_status_of


@public
def transient(exception: BaseException) -> bool | NotNow:
    """Return whether a failure may go away by itself; the default ``retry_on`` of `RetryPolicy`.

    Every `Exception` may, except these:

    - HTTP answers 4xx, other than 408 (Request Timeout), 425 (Too Early) and 429 (Too Many Requests);
    - AWS client errors that are neither throttling nor capacity, and the corresponding gRPC statuses;
    - the `TypeError` of a call whose arguments do not fit, so that it could not be made at all;
    - `NameError`, `ImportError`, `SyntaxError` and `NotImplementedError`;
    - errors of this library that could only repeat: a ``drain()`` that would wait for itself, a ``submit()``
      after ``shutdown()``, a `ForkedFutureError`.

    Args:
        exception: What an attempt raised.

    Returns:
        Whether another attempt is worth it; or a `NotNow` for an answer that is no failure, but asks to
        come back later (HTTP 429, the throttling and capacity codes of AWS, gRPC's ``RESOURCE_EXHAUSTED``).
        A `NotNow` is returned as it is. Never raises for an exception, whatever its attributes do.

    Raises:
        TypeError: If *exception* is no exception.
    """
    check_exception(exception)
    try:
        return _judge(exception)
    except BaseException:  # a hostile attribute proves nothing about the call
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
    """Return whether the call raised it before its function began: its traceback has no frame of that."""
    traceback = traceback_of(exception)
    below = None if traceback is None else traceback.tb_next
    while below is not None and below.tb_frame.f_code in wrapper_codes:
        below = below.tb_next
    return traceback is not None and below is None
