"""Reads the answer of a service off an exception: status, code, and how long it asks to wait.

Exceptions are read by their shape, so no client library is needed: an HTTP status and headers
(requests, httpx, urllib, urllib3, aiohttp, and SDKs built on them), an AWS error code (botocore), a gRPC
status (grpc, google-api-core). What each of these means is decided in `codes` and `transient`.
"""

from __future__ import annotations

import math
import sys
import time
from contextlib import suppress

from retrying_executor._common.exceptions import led_to
from retrying_executor._common.forks import before_fork
from retrying_executor._common.public import public

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any


_MOST_EXCEPTIONS = 100  # of one chain


def check_exception(exception: object) -> None:
    """Raise `TypeError` if *exception* is not an exception."""
    if not isinstance(exception, BaseException):
        raise TypeError(f"exception must be an exception, not {exception!r}")


# -- which answer it is ----------------------------------------------------------------------------


def get(obj: object, name: str) -> object:
    """Return an attribute; ``None`` if there is none, or if reading it raises."""
    try:
        return getattr(obj, name, None)
    except BaseException:
        return None


def _item(mapping: object, name: str) -> object:
    """Return an item of a dictionary; ``None`` if there is none, or if *mapping* is no dictionary."""
    return mapping.get(name) if isinstance(mapping, dict) else None


def aws_code_of(exception: BaseException) -> str | None:
    """Return the error code of an exception of botocore: ``response["Error"]["Code"]``."""
    code = _item(_item(get(exception, "response"), "Error"), "Code")
    # Within an event stream, codes begin with a small letter.
    return code[:1].upper() + code[1:] if isinstance(code, str) else None


def grpc_status_of(exception: BaseException) -> str | None:
    """Return the name of the gRPC status of an exception of grpc or google-api-core."""
    code = get(exception, "grpc_status_code")
    if code is None:
        code = get(exception, "code") if callable(get(exception, "details")) else None
        code = code() if callable(code) else None
    name = get(code, "name")
    return name if isinstance(name, str) and type(code).__name__ == "StatusCode" else None


def http_status_of(exception: BaseException) -> int | None:
    """Return the status of the HTTP answer behind an exception; ``None`` if there is none."""
    response = get(exception, "response")
    places = (
        (_item(response, "ResponseMetadata"), "HTTPStatusCode"),  # botocore
        (response, "status_code"),  # requests, httpx, SDKs
        (response, "status"),  # urllib3, aiohttp
        (exception, "status_code"),  # SDKs
        (exception, "http_status"),  # SDKs
        (exception, "status"),  # aiohttp, SDKs
        (exception, "code"),  # urllib, google-api-core
    )
    for place, name in places:
        if name == "code" and response is get(exception, "headers") is get(exception, "errors") is None:
            continue  # there is no HTTP answer: this may be a code of any kind
        status = _item(place, name) if isinstance(place, dict) else get(place, name)
        if isinstance(status, int) and not isinstance(status, bool) and 100 <= status < 600:
            return int(status)
    return _exhausted_status(exception)


def _exhausted_status(exception: BaseException) -> int | None:
    """Return the status that urllib3 retried in vain; requests wraps its exception once more."""
    for wrapper in (exception, *exception.args[:1]):
        words = str(get(wrapper, "reason")).split()
        if words[:2] == ["too", "many"] and words[3:] == ["error", "responses"]:
            return int(words[2])
    return None


# -- how long it asks to wait ----------------------------------------------------------------------


@public
def retry_after(exception: BaseException) -> float | None:
    """Return how many seconds an answer asks to wait: 0 or more; ``None`` if it does not.

    Never raises for an exception, whatever its attributes do.

    It looks for these, in this order, and ignores values that are malformed or negative:

    - the header ``retry-after-ms`` or ``x-ms-retry-after-ms``;
    - the header ``Retry-After``, in seconds or as a date. The header ``Date`` is subtracted from a date, so
      that the clocks of service and client need not agree;
    - gRPC's ``grpc-retry-pushback-ms``, then the detail ``google.rpc.RetryInfo``. Reading the detail takes
      googleapis-common-protos, which google-api-core and grpcio-status bring along.

    References:
        RFC 9110, section 10.2.3 (Retry-After). gRFC A6 (pushback).
        https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto (RetryInfo)

    Raises:
        TypeError: If *exception* is no exception.
    """
    check_exception(exception)
    for read in (_asked_by_headers, _asked_by_metadata, _asked_by_details):
        try:
            seconds = read(exception)
        except BaseException:  # a hostile attribute, or a malformed value
            continue
        if seconds is not None and 0.0 <= seconds < math.inf:
            return seconds
    return None


def _asked_by_headers(exception: BaseException) -> float | None:
    headers = _headers(exception)
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        milliseconds = _number(headers.get(name, ""))
        if milliseconds is not None:
            return milliseconds / 1000.0
    value = headers.get("retry-after", "")
    seconds = _number(value)
    if seconds is None:
        date = _timestamp_of(value)
        now = _timestamp_of(headers.get("date", ""))
        seconds = None if date is None else max(0.0, date - (time.time() if now is None else now))
    return seconds


def _headers(exception: BaseException) -> dict[str, str]:
    """Return the headers of the HTTP answer behind an exception, by lower-case name."""
    response = get(exception, "response")
    candidates = (
        _item(_item(response, "ResponseMetadata"), "HTTPHeaders"),  # botocore
        get(response, "headers"),
        get(exception, "headers"),
    )
    for headers in candidates:
        items = get(headers, "items")
        if callable(items):
            pairs: Any = items()
            return {_text(name).lower(): _text(value) for name, value in pairs}
    return {}


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _number(text: str) -> float | None:
    """Return a number without a sign, in digits with at most one point; ``None`` for anything else."""
    text = text.strip()
    digits = text.replace(".", "", 1)
    return float(text) if digits.isascii() and digits.isdigit() else None


def _timestamp_of(text: str) -> float | None:
    """Return the date in a header, in seconds since the epoch; ``None`` if it is no date."""
    if not text:
        return None
    from datetime import datetime  # slow to import, and few answers have a date
    from email.utils import mktime_tz, parsedate_tz

    parsed = parsedate_tz(text)
    if parsed is None:
        return None
    try:
        datetime(*parsed[:5], min(parsed[5], 59))  # there are leap seconds
    except ValueError:
        return None
    return float(mktime_tz(parsed))


def _asked_by_metadata(exception: BaseException) -> float | None:
    """Read the trailing metadata of a gRPC call: the pushback, or the details of its status."""
    trailing = get(exception, "trailing_metadata")
    pairs: Any = trailing() if callable(trailing) else ()
    metadata: dict[str, object] = dict(pairs)
    milliseconds = _number(_text(metadata.get("grpc-retry-pushback-ms", "")))
    if milliseconds is not None:
        return milliseconds / 1000.0
    status = metadata.get("grpc-status-details-bin")
    return _delay_in(_retry_infos(status)) if isinstance(status, bytes) else None


def _asked_by_details(exception: BaseException) -> float | None:
    """Read the details that google-api-core has parsed, or else the grpc exception that it refers to."""
    details = get(exception, "details")
    response = get(exception, "response")
    delay = _delay_in(details) if isinstance(details, (list, tuple)) else None
    return _asked_by_metadata(response) if delay is None and isinstance(response, Exception) else delay


def _retry_infos(status: bytes) -> Iterator[object]:
    """Yield each ``google.rpc.RetryInfo`` of an encoded ``google.rpc.Status``.

    Raises:
        Exception: Any, if *status* is malformed, or if the library that reads it is missing or broken.
    """
    if "grpc" not in sys.modules:  # no client can have such an answer, and a fork needs no import
        return
    from importlib import import_module  # as what it imports: slow, and few answers have details

    error_details = import_module("google.rpc.error_details_pb2")
    for detail in import_module("google.rpc.status_pb2").Status.FromString(status).details:
        info = error_details.RetryInfo()
        if detail.Unpack(info):
            yield info


def _delay_in(details: Iterable[object]) -> float | None:
    """Return the delay of the first ``google.rpc.RetryInfo`` that has one."""
    for detail in details:
        delay: Any = get(detail, "retry_delay")
        if delay is not None and detail.HasField("retry_delay"):  # type: ignore[attr-defined]  # it is one
            return float(delay.ToJsonString()[:-1])  # such as "3.5s"; raises if malformed
    return None


# -- closing it -----------------------------------------------------------------------------------


def close_answers(exception: BaseException) -> None:
    """Close the HTTP answers of an exception and of those that led to it. Never raises.

    With urllib, the exception is the answer; others have a ``response``. Each may hold an open connection.
    """
    seen: set[int] = set()
    found = [exception]
    while found and len(seen) < _MOST_EXCEPTIONS:
        one = found.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        found += led_to(one)
        for answer in (one, get(one, "response")):
            try:
                if _is_answer(answer):
                    answer.close()  # type: ignore[attr-defined]  # it has that
            except BaseException:  # a hostile attribute, or a broken connection
                continue


def _is_answer(obj: object) -> bool:
    """Return whether an object looks like an HTTP answer that can be closed."""
    has_status = any(isinstance(get(obj, name), int) for name in ("status_code", "status", "code"))
    return has_status and get(obj, "headers") is not None and callable(get(obj, "close"))


# -- forks -----------------------------------------------------------------------------------------


def _prepare_for_fork() -> None:
    _timestamp_of("Thu, 01 Jan 1970 00:00:00 GMT")
    with suppress(Exception):  # the library is missing or broken
        list(_retry_infos(b""))


before_fork(_prepare_for_fork)
