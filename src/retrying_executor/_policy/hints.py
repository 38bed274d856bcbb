"""How long an answer asks to wait, in each of the forms in which services say it."""

from __future__ import annotations

import re
import sys
import time
from contextlib import suppress

from retrying_executor._common.forks import before_fork
from retrying_executor._policy.reading import called, get, item, once, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from retrying_executor._policy.reading import Reading

_LONGEST = sys.float_info.max / 2.0  # seconds: with jitter, that is still a number
_EPOCH = 1e9  # seconds: a number that is at least that large is a date, of 2001 or later
_DURATION = r"(?a)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?"
_ISO_DATE = r"(?a)\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?"
_ATTRIBUTES = (
    "_retry_after",  # python-telegram-bot: its public name warns
    "retry_after",  # aiogram, discord.py, litellm, stripe
    "retry_after_s",  # qdrant-client
    "retry_after_secs",  # databricks-sdk
    "retry_after_seconds",
    "retry_in",
    "backoff",  # dropbox
    "cooldown_time",  # litellm, its router
    "period_remaining",  # ratelimit
    "seconds",  # telethon; with other clients, it may be anything
)
_ATTRIBUTE_NAMES = frozenset(_ATTRIBUTES)
_IN_BODIES = ("retry_after", "retryDelay", "retryAfter", "estimated_time")


@once
def explicit_hint(reading: Reading) -> float | None:
    """Return how many seconds an answer asks to wait outright: 0 or more; ``None`` if it does not."""
    return _first_of((_by_headers, _by_attributes, _by_metadata, _by_details, _by_body), reading)


def _first_of(readers: Iterable[Callable[[Reading], float | None]], reading: Reading) -> float | None:
    for read in readers:
        try:
            seconds = read(reading)
        except BaseException:  # a hostile attribute, or a malformed value
            continue
        if seconds is not None and 0.0 <= seconds <= _LONGEST:
            return seconds
    return None


def hint_of_client(reading: Reading) -> float | None:
    """Return how many seconds to wait by an attribute of the exception, or by the body of an answer."""
    return _first_of((_by_attributes, _by_body), reading)


def has_nothing_left(reading: Reading) -> bool:
    """Return whether an answer says outright that a limit is used up."""
    return any(name.endswith("remaining") and _number(value) == 0 for name, value in _limits(reading))


@once
def until_reset(reading: Reading) -> float | None:
    """Return in how many seconds the limit that was reached is reset; ``None`` if that is not said.

    Many services say it in each answer, so it counts only in one that turns the call away.
    """
    try:
        seconds = _until_reset(reading)
        return seconds if seconds is not None and seconds <= _LONGEST else None
    except BaseException:  # a hostile attribute, or a malformed value
        return None


def _number(words: str) -> float | None:
    """Return a number without a sign, in digits with at most one point; ``None`` for anything else."""
    words = words.strip()
    digits = words.replace(".", "", 1)
    return float(words) if digits.isascii() and digits.isdigit() else None


def _duration(words: str) -> float | None:
    """Return a duration such as ``6m0s``, ``120ms`` or ``30s``; ``None`` for anything else."""
    words = words.strip().lower()
    found = re.fullmatch(_DURATION, words) if words else None
    if found is None:
        return None
    units = (86_400.0, 3600.0, 60.0, 1.0, 0.001)
    return sum(float(count) * unit for count, unit in zip(found.groups("0"), units, strict=True))


def _timestamp(words: str) -> float | None:
    """Return the date in a header, in seconds since the epoch; ``None`` if it is no date."""
    if not words:
        return None
    from datetime import datetime, timezone  # slow to import, and few answers have a date
    from email.utils import mktime_tz, parsedate_tz

    try:
        if re.fullmatch(_ISO_DATE, words.strip()):
            iso = re.sub(r"\.\d+", "", words.strip()).replace("Z", "+00:00")
            date = datetime.fromisoformat(iso)
            return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()
        parsed = parsedate_tz(words)
        if parsed is None:
            return None
        datetime(*parsed[:5], min(parsed[5], 59))  # raises if it is no date; second 60 may be a leap second
        return float(mktime_tz(parsed))  # the zone may be any number of hours
    except (ValueError, OverflowError):
        return None


def _now(headers: dict[str, str]) -> float:
    """Return what time it is by the clock of the service, if it says so; else by that of this machine."""
    date = _timestamp(headers.get("date", ""))
    return time.time() if date is None else date


def _by_headers(reading: Reading) -> float | None:
    headers = reading.headers
    if not headers:
        return None
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        milliseconds = _number(headers[name]) if name in headers else None
        if milliseconds is not None:
            return milliseconds / 1000.0
    value = headers.get("retry-after", "")
    if not value:
        return None
    seconds = _number(value)
    if seconds is None:
        seconds = _duration(value)
    if seconds is None:
        date = _timestamp(value)
        seconds = None if date is None else max(0.0, date - _now(headers))
    return seconds


def _by_attributes(reading: Reading) -> float | None:
    """Read what a client has put on its exception."""
    if not reading.has_any(_ATTRIBUTE_NAMES):
        return None
    for name in _ATTRIBUTES:
        value = reading.get(name)
        if value is None or (name == "seconds" and "telethon." not in type(reading.exception).__module__):
            continue
        seconds = called(get(value, "total_seconds")) if not isinstance(value, (int, float, str)) else value
        if isinstance(seconds, str):
            seconds = _number(seconds)
        if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0 <= seconds <= _LONGEST:
            return float(seconds)
    return None


def _by_body(reading: Reading) -> float | None:
    """Read what the JSON of an answer says: Discord, Telegram, Google over REST, Hugging Face."""
    for part in reading.parts:
        if part.keys().isdisjoint(_IN_BODIES):
            continue
        for name in _IN_BODIES:
            value = part.get(name)
            seconds = value if isinstance(value, (int, float)) else None
            if isinstance(value, str):
                seconds = _number(value) if _number(value) is not None else _duration(value)
            if seconds is not None and not isinstance(value, bool) and 0 <= seconds <= _LONGEST:
                return float(seconds)
    return None


# -- until a limit is reset -------------------------------------------------------------------------


def _limits(reading: Reading) -> list[tuple[str, str]]:
    """Return the headers about limits, by lower-case name."""
    return [(name, value) for name, value in reading.headers.items() if "ratelimit" in name.replace("-", "")]


def _until_reset(reading: Reading) -> float | None:
    limits = _limits(reading)
    if not limits:
        return None
    now = _now(reading.headers)
    used_up: list[float] = []
    others: list[float] = []
    remaining = {
        re.sub("-?remaining", "", name): _number(value) for name, value in limits if "remaining" in name
    }
    for name, value in limits:
        if "reset" in name:
            seconds = _reset(value, now)
            if seconds is not None:
                left = remaining.get(re.sub("-?reset(-after)?", "", name))
                (used_up if left == 0 else others if left is None else []).append(seconds)
        elif name == "ratelimit":
            # Each part is a limit. In drafts before the eighth there is one limit, with commas in it.
            for part in [value] if "reset=" in value else value.split(","):
                fields = dict(re.findall(r"\b(r|t|remaining|reset)=(\d+)", part))
                left, reset = fields.get("r", fields.get("remaining")), fields.get("t", fields.get("reset"))
                if reset is not None:
                    (used_up if left == "0" else others if left is None else []).append(float(reset))
    return max(used_up, default=None) if used_up else max(others, default=None)


def _reset(value: str, now: float) -> float | None:
    """Return the seconds until a reset, which is a date or a duration."""
    number = _number(value)
    if number is not None:
        number = number / 1000.0 if number >= 1000 * _EPOCH else number
        return max(0.0, number - now) if number >= _EPOCH else number
    seconds = _duration(value)
    if seconds is None:
        date = _timestamp(value)
        seconds = None if date is None else max(0.0, date - now)
    return seconds


# -- gRPC --------------------------------------------------------------------------------------------


def _by_metadata(reading: Reading) -> float | None:
    return _asked_by_metadata(reading.get("trailing_metadata"))


def _asked_by_metadata(trailing: object) -> float | None:
    """Read the trailing metadata of a gRPC call: the pushback, or the details of its status."""
    if not callable(trailing):
        return None
    pairs: Any = trailing()
    metadata: dict[str, object] = dict(pairs)
    milliseconds = _number(text(metadata.get("grpc-retry-pushback-ms", "")))
    if milliseconds is not None:
        return milliseconds / 1000.0
    status = metadata.get("grpc-status-details-bin")
    return _delay_in(_retry_infos(status)) if isinstance(status, bytes) else None


def _by_details(reading: Reading) -> float | None:
    """Read the details that google-api-core has parsed, or else the grpc exception that it refers to."""
    details, response = reading.get("details"), reading.get("response")
    delay = _delay_in(details) if isinstance(details, (list, tuple)) else None
    if delay is None and isinstance(response, Exception):
        return _asked_by_metadata(get(response, "trailing_metadata"))
    return delay


def _retry_infos(status: bytes) -> Iterator[object]:
    """Yield each ``google.rpc.RetryInfo`` of an encoded ``google.rpc.Status``.

    Raises:
        Exception: Any, if *status* is malformed, or if the library that reads it is missing or broken.
    """
    if "grpc" not in sys.modules:  # then no client can have such an answer, nor does a fork need the import
        return
    from importlib import import_module  # not at the top: what it imports is slow, and few answers need it

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
        if item(detail, "retryDelay") is not None:
            return _duration(text(item(detail, "retryDelay")))
    return None


def _prepare_for_fork() -> None:
    _timestamp("Thu, 01 Jan 1970 00:00:00 GMT")
    with suppress(Exception):  # the library is missing or broken
        list(_retry_infos(b""))


before_fork(_prepare_for_fork)
