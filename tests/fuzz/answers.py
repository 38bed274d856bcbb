"""What a service answers, and what its client makes of that; see `harness`."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace
from typing import Any

import atheris
import harness

with atheris.instrument_imports(include=["retrying_executor", "email._parseaddr"]):
    import email._parseaddr  # noqa: F401

    import retrying_executor._policy.answers
    import retrying_executor._policy.codes
    import retrying_executor._policy.databases
    import retrying_executor._policy.hints
    import retrying_executor._policy.reading
    import retrying_executor._policy.rules
    import retrying_executor._upstream.health
    from retrying_executor import NotNow, RetryPolicy, explain, retry_after, service_failed, transient
    from retrying_executor._common.log import describe
    from retrying_executor._policy.closing import close_answers
    from retrying_executor._policy.verdict import Attempt

reading = retrying_executor._policy.reading
ATTRIBUTES = sorted(reading._READ_BY_RULES | {"orig", "last_attempt", "exceptions", "args", "reason"})
HEADERS = (
    *("retry-after", "Retry-After", "retry-after-ms", "x-ms-retry-after-ms", "date", "x-should-retry"),
    *("ratelimit", "RateLimit-Reset", "ratelimit-remaining", "X-RateLimit-Reset", "x-ratelimit-remaining"),
    *("x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens", "anthropic-ratelimit-tokens-reset"),
)
KEYS = (
    *sorted(reading._WORDS | set(retrying_executor._policy.hints._IN_BODIES)),
    *("errors", "details", "parameters", "metadata", "headers", "message", "ok", "is_transient"),
    *("Error", "Code", "ResponseMetadata", "HTTPHeaders", "HTTPStatusCode", "CancellationReasons"),
    *("writeErrors",),
)
WORDS = (
    *("0", "7", "7.5", "-0", "1e400", "nan", "inf", "429", "\u0663", "\u00b2", "9" * 400, "6m0s", "3d"),
    *("120ms", "r=0;t=7", "remaining=0, reset=9", "true", "false", "2049-01-01T00:00:00Z"),
    *("Thu, 01 Jan 2049 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:60 -9999", "Sat, 01 Jan 0000 00:00:00 +0000"),
    *(",", " ", "-", "+", ":", "T", "Z", "{", "[", '{"error":', "\x00", "\r\n"),
    *("rate_limit_error", "SlowDown", "Throttling", "ThrottlingException", "LimitExceededException"),
    *("ConcurrentLimitExceeded", "InProgress", "InsufficientCapacity", "TransactionCanceledException"),
    *("overloaded", "insufficient_quota", "not_found", "23505", "08006", "too many 503 error responses"),
    *("api_key must be", "authentication failed", "no such table"),
)
STATUSES = (100, 200, 301, 400, 403, 404, 408, 409, 420, 429, 498, 500, 503, 599)
MODULES = (
    *("builtins", "requests.exceptions", "sqlite3", "redis.exceptions", "pymongo.errors", "kafka.errors"),
    *("mysql.connector", "psycopg", "botocore.exceptions", "grpc", "aiosmtplib", "nats", "oracledb"),
    *("pika.exceptions", "imaplib", "pyodbc", "telethon.errors", "clickhouse_driver.errors", "cassandra"),
)
CLASSES = [
    type(name, (Exception,), {"__module__": module})
    for module in MODULES
    for name in ("Error", "ConnectTimeout", "InvalidURL", "IntegrityError")
]


class AskedError(NotNow):
    """Takes anything as its arguments."""

    def __init__(self, *args: object) -> None:
        Exception.__init__(self, *args)


class Making:
    """Makes anything of bytes."""

    def __init__(self, data: atheris.FuzzedDataProvider) -> None:
        self._data = data

    def _below(self, number: int) -> int:
        return self._data.ConsumeIntInRange(0, number - 1)

    def one_of(self, values: Any) -> Any:
        return values[self._below(len(values))]

    def text(self) -> str:
        kind = self._below(6)
        if kind < 2:
            return str(self.one_of(WORDS))
        if kind == 2:
            return self._data.ConsumeUnicode(self._below(40))
        if kind == 3:
            return self.text() + self.text()
        if kind == 4:
            return self.text()[:100] * self._below(500)
        return self._data.ConsumeBytes(self._below(60)).decode("latin-1")

    def number(self) -> object:
        kind = self._below(5)
        if kind == 0:
            return self.one_of(STATUSES)
        if kind == 1:
            return self._data.ConsumeFloat()
        if kind == 2:
            return self._data.ConsumeInt(8)
        if kind == 3:
            return self.one_of((10**400, -(10**400), math.nan, math.inf, -0.0, True, 1e308))
        return self._data.ConsumeIntInRange(-1, 20_000)

    def value(self, depth: int = 4) -> Any:
        kind = self._below(14 if depth else 5)
        if kind == 0:
            return None
        if kind == 1:
            return self.number()
        if kind in (2, 3):
            return self.text()
        if kind == 4:
            return self.text().encode("utf-8", "surrogatepass")
        few = range(self._below(4))
        if kind == 5:
            return [self.value(depth - 1) for _ in few]
        if kind == 6:
            return tuple(self.value(depth - 1) for _ in few)
        if kind in (7, 8):
            return {self.key(): self.value(depth - 1) for _ in few}
        if kind == 9:
            return SimpleNamespace(**{self.one_of(ATTRIBUTES): self.value(depth - 1) for _ in few})
        if kind == 10:
            return self.exception(depth - 1)
        if kind == 11:
            value = self.value(depth - 1)
            return lambda *_: value
        if kind == 12:
            return self.headers()
        nested: Any = self.value(depth - 1)
        for _ in range(self._below(300)):
            nested = {self.one_of(("error", "errors", "details", "message")): nested}
        return nested

    def key(self) -> Any:
        kind = self._below(8)
        return self.text() if kind == 0 else self.number() if kind == 1 else self.one_of(KEYS)

    def headers(self) -> Any:
        pairs = [
            (self.one_of(HEADERS), self.text() if self._below(4) else self.value(1))
            for _ in range(self._below(5))
        ]
        kind = self._below(5)
        if kind == 0:
            return pairs
        if kind == 1:
            return SimpleNamespace(items=lambda: pairs)
        if kind == 2:
            return {name.encode(): value for name, value in pairs}
        return dict(pairs)

    def exception(self, depth: int = 4) -> Exception:
        kind = self._below(4)
        cls = (
            self.one_of((RuntimeError, OSError, TypeError, AskedError)) if kind == 0 else self.one_of(CLASSES)
        )
        exception: Exception = cls(*(self.value(min(depth, 2)) for _ in range(self._below(3))))
        own: dict[Any, Any] = vars(exception)
        for _ in range(self._below(5)):
            name = self.one_of(ATTRIBUTES)
            if name != "args":
                own[name] = self.value(depth)
        if cls is AskedError:
            after = self.value(1)
            own["after"] = 1e300 if isinstance(after, float) and after > 1e300 else after
        kind = self._below(6)
        if kind in (0, 1):
            own["headers"] = self.headers()
            own["status_code"] = self.one_of(STATUSES)
        elif kind == 2:
            own["response"] = SimpleNamespace(
                status_code=self.number(),
                headers=self.headers(),
                _content_consumed=True,
                content=self.value(2),
            )
        elif kind == 3:
            own["response"] = {
                "Error": {"Code": self.text()},
                "ResponseMetadata": {"HTTPStatusCode": self.number(), "HTTPHeaders": self.headers()},
            }
        elif kind == 4:
            own["body"] = self.value(depth)
        if depth and self._below(4) == 0:
            exception.__cause__ = self.exception(depth - 1)
        return exception


POLICY = RetryPolicy()


def check(data: atheris.FuzzedDataProvider) -> None:
    """Nothing raises; a hint is ``None`` or finite, and 0 or more; an explanation is one line."""
    exception = Making(data).exception()
    verdict = transient(exception)
    assert verdict is True or verdict is False or isinstance(verdict, NotNow), verdict
    asked = retry_after(exception)
    assert asked is None or (type(asked) is float and 0.0 <= asked < math.inf), asked
    line = explain(exception)
    assert re.fullmatch("(final|not now|worth another attempt): .+, of .+", line), line
    assert line.isprintable(), line
    assert len(line) < 500, line
    assert type(service_failed(exception)) is bool
    delay = POLICY(Attempt(number=1, exception=exception, result=None, elapsed=0.0))
    longest = math.inf if isinstance(verdict, NotNow) and verdict.after is not None else 700.0
    assert delay is None or 0.0 <= delay <= longest, delay
    assert len(describe(None, exception)) < 1_200
    close_answers(exception)


if __name__ == "__main__":
    harness.run(check, [bytes(range(256)) * 4, b"\x00" * 200, b"\xff" * 200, bytes(range(255, 0, -1)) * 3])
