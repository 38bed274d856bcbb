"""The rules by which `evidence` says whether a service failed; exceptions are read by their shape."""

from __future__ import annotations

import errno

from retrying_executor._policy import codes
from retrying_executor._policy.answers import aws_code_of, grpc_status_of, http_status_of
from retrying_executor._policy.reading import get, is_named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrying_executor._policy.reading import Reading

_MOST_CAUSES = 10
_BEFORE_THE_SERVICE = "|".join(codes.BEFORE_THE_SERVICE)  # compiled when an exception is judged
_NETWORK_FAILURES = "|".join(codes.NETWORK_FAILURES)
_NETWORK_ERRORS = {
    getattr(errno, name)
    for name in (
        "ECONNABORTED",
        "ECONNREFUSED",
        "ECONNRESET",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "ENETDOWN",
        "ENETRESET",
        "ENETUNREACH",
        "ENOTCONN",
        "EPIPE",
        "ESHUTDOWN",
        "ETIMEDOUT",
    )
    if hasattr(errno, name)  # Windows lacks some
}


def has_failed(reading: Reading) -> bool:
    """Return whether an exception tells that the service failed; see `service_failed`."""
    chain = list(_chain(reading))
    if any(_has_name(one.exception, _BEFORE_THE_SERVICE) for one in chain):
        return False
    for one in chain:
        is_failure = _is_failure_itself(one)
        if is_failure is not None:
            return is_failure
    return False


def _is_failure_itself(reading: Reading) -> bool | None:
    """Return whether one exception by itself is a failure; ``None``: it says nothing of that."""
    exception = reading.exception
    status = http_status_of(reading)
    code = aws_code_of(reading)
    if code is not None:
        return code in codes.AWS_TRANSIENT or (status is not None and status >= 500)
    grpc_status = grpc_status_of(reading)
    if grpc_status is not None:
        return grpc_status in codes.GRPC_FAILED
    if status is not None:
        return status >= 500 or status in codes.HTTP_FAILED
    if hasattr(exception, "smtp_code") or hasattr(exception, "recipients"):
        return get(exception, "smtp_code") == codes.SMTP_NOT_AVAILABLE
    if isinstance(exception, codes.LOCAL_ERRORS):
        return False
    if isinstance(exception, OSError):
        return exception.errno is None or exception.errno in _NETWORK_ERRORS or _is_network_class(exception)
    return True if _has_name(exception, _NETWORK_FAILURES) else None


def _chain(reading: Reading) -> Iterator[Reading]:
    """Yield an exception and, from the outside in, those that it was raised from or that it carries."""
    unseen = [reading]
    for _ in range(_MOST_CAUSES):
        if not unseen:
            return
        one = unseen.pop(0)
        yield one
        unseen += [*one.inside, *one.members]


def _is_network_class(exception: OSError) -> bool:
    return isinstance(exception, (ConnectionError, TimeoutError)) or _has_name(exception, _NETWORK_FAILURES)


def _has_name(exception: BaseException, words: str) -> bool:
    """Return whether the name of the exception's class, or of a base, has one of these in it."""
    return is_named(type(exception), words)  # type: ignore[arg-type]  # a class can be hashed


def was_answered(reading: Reading) -> bool:
    """Return whether an exception stands for an answer of the service, which therefore works."""
    return any(read(reading) is not None for read in (http_status_of, aws_code_of, grpc_status_of))
