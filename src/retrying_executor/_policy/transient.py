"""Which failures are worth another attempt, and how long they ask to wait.

The rules and their tables are imported at the first failure: that takes time, and many programs see none.
"""

from __future__ import annotations

from retrying_executor._common.forks import before_fork
from retrying_executor._common.public import public
from retrying_executor._policy.reading import Reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from retrying_executor._common.errors import NotNow


def _import_rules() -> None:
    import retrying_executor._policy.rules  # noqa: F401


before_fork(_import_rules)  # else a child might wait for a thread that was importing them


@public
def transient(exception: BaseException) -> bool | NotNow:
    """Return whether a failure may go away by itself; the default ``retry_on`` of `RetryPolicy`.

    Every `Exception` may, except where it says that another attempt cannot help: by the status of an answer
    (HTTP, gRPC), by a code (AWS, SQLSTATE, SMTP, what the JSON of an answer has as its ``type`` or ``code``),
    by a header such as ``x-should-retry``, or by what kind of error it is, such as an invalid URL or a
    certificate that does not verify. For any exception, `explain` tells which of these decided.

    An exception that says nothing itself passes the question on to those that it was raised from or wraps.

    Args:
        exception: What an attempt raised.

    Returns:
        Whether another attempt is worth it; or a `NotNow` for an answer that is no failure, but asks to
        come back later (HTTP 429, other 4xx with ``Retry-After``, the throttling and capacity codes of AWS,
        gRPC's ``RESOURCE_EXHAUSTED``). A `NotNow` is returned as it is. Never raises for an exception,
        whatever its attributes do.

    Raises:
        TypeError: If *exception* is no exception.
    """
    check_exception(exception)
    return verdict_on(Reading(exception))


@public
def retry_after(exception: BaseException) -> float | None:
    """Return how many seconds an answer asks to wait: 0 or more; ``None`` if it does not.

    Never raises for an exception, whatever its attributes do.

    It looks for these, in this order, and ignores values that are malformed or negative:

    - the header ``retry-after-ms`` or ``x-ms-retry-after-ms``;
    - the header ``Retry-After``, in seconds or as a date. The header ``Date`` is subtracted from a date, so
      that the clocks of service and client need not agree;
    - what clients put on their exceptions, such as a number called ``retry_after``;
    - gRPC's ``grpc-retry-pushback-ms``, then the detail ``google.rpc.RetryInfo``. Reading the detail takes
      googleapis-common-protos, which google-api-core and grpcio-status bring along;
    - what the JSON of the answer has: ``retry_after``, or ``retryDelay`` in Google's error details;
    - in an answer that turns the call away, the headers that say when a limit is reset, such as
      ``X-RateLimit-Reset``.

    Where the exception says nothing itself, those that it was raised from or wraps are asked.

    References:
        RFC 9110, section 10.2.3 (Retry-After). gRFC A6 (pushback).
        https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto (RetryInfo)
        https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/ (RateLimit)

    Raises:
        TypeError: If *exception* is no exception.
    """
    check_exception(exception)
    return hint_of(Reading(exception))


@public
def explain(exception: BaseException) -> str:
    """Return in words what `transient` says of an exception, and why: for a prompt, or a log.

    Args:
        exception: What an attempt raised.

    Returns:
        One line, such as ``final: HTTP status 404 of requests.exceptions.HTTPError``.

    Raises:
        TypeError: If *exception* is no exception.
    """
    check_exception(exception)
    from retrying_executor._policy.rules import explanation

    return explanation(Reading(exception))


def verdict_on(reading: Reading) -> bool | NotNow:
    """Return what `transient` says of an exception, given what has been read of it."""
    from retrying_executor._policy.rules import decide

    return decide(reading)[0]


def hint_of(reading: Reading) -> float | None:
    """Return what `retry_after` says of an exception, given what has been read of it."""
    from retrying_executor._policy.rules import hint_in

    return hint_in(reading)


def check_exception(exception: object) -> None:
    """Raise `TypeError` if *exception* is not an exception."""
    if not isinstance(exception, BaseException):
        raise TypeError(f"exception must be an exception, not {exception!r}")
