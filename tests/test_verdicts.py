"""What clients keep on their exceptions: codes, headers and bodies that decide; and what `explain` says."""

from __future__ import annotations

import builtins
import json
import re
import sqlite3
import sys
import time
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from retrying_executor import NotNow, explain, retry_after, transient
from retrying_executor._common import forks
from retrying_executor._common.callables import Wrapper
from retrying_executor._policy import hints, reading
from retrying_executor._policy.closing import close_answers
from test_transient import checked, failure, meaning, refuse

PLAIN = "worth another attempt: nothing says that another attempt cannot help, of builtins.Exception"


CLIENTS: set[str] = set()
"""The modules that the classes of the exceptions here are said to be of."""


@pytest.fixture(scope="module", autouse=True)
def _clients_are_installed() -> Iterator[None]:
    """Stand-ins, for those that are not: only the names of a library's classes mean anything."""
    with pytest.MonkeyPatch.context() as patch:
        for name in CLIENTS - set(sys.modules) - sys.stdlib_module_names:
            module = ModuleType(name)
            module.__file__ = f"/site-packages/{name}.py"
            patch.setitem(sys.modules, name, module)
        yield


def named(name: str, *args: object, bases: Any = Exception, **attributes: object) -> Any:
    """Return an exception of a class with this name, or ``module.name``; with these attributes of its own."""
    module, _, name = name.rpartition(".")
    CLIENTS.add(module or "client")
    bases = bases if isinstance(bases, tuple) else (bases,)
    exception = type(name, bases, {"__module__": module or "client"})(*args)
    exception.__dict__.update(attributes)
    return exception


def caused(exception: BaseException, *causes: BaseException) -> BaseException:
    """Return *exception*, raised from the first of *causes*, which was raised from the next."""
    for one, cause in zip((exception, *causes), causes, strict=False):
        one.__cause__ = cause
    return exception


def http(status: int, **attributes: object) -> Exception:
    return failure(status_code=status, **attributes)


def body(error: object, status: int | None = None) -> Exception:
    """Return what an SDK raises for an answer with this JSON, in the middle of a stream or with a status."""
    return failure(body={"error": error}) if status is None else http(status, body={"error": error})


def aws(code: str, status: int = 400, **more: object) -> Exception:
    meta = {"HTTPStatusCode": status}
    return failure(response={"Error": {"Code": code}, "ResponseMetadata": meta, **more})


def cancelled(*codes: str) -> Exception:
    """Return what DynamoDB says where a transaction failed for these reasons."""
    return aws("TransactionCanceledException", CancellationReasons=[{"Code": code} for code in codes])


# -- the word of the service, or of its client -----------------------------------------------------


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        (http(503, headers={"X-Should-Retry": "false"}), False),
        (http(400, headers={"x-should-retry": " TRUE "}), True),
        (http(429, headers={"x-should-retry": "true"}), NotNow),
        (http(409, headers={"stripe-should-retry": "true", "Retry-After": "7"}), NotNow),
        (http(400, headers={"x-should-retry": "perhaps"}), False),  # says nothing: it is the status then
        (failure(retryable=True, status_code=400), True),
        (failure(retriable=False, status_code=503), False),
        (failure(retryable="yes", retriable=1, status_code=404), False),  # nor does what is no bool
        (named("TransportError", retryable=False), True),  # google-auth says it of what goes wrong on the way
    ],
)
def test_the_word_of_the_service_is_obeyed_first(exception: Exception, expected: object) -> None:
    """A header, or an attribute ``retryable``, whatever the status is (U1, U3)."""
    assert expected == meaning(exception)


# -- codes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        (cancelled("None", "ConditionalCheckFailed", "ThrottlingError"), False),
        (cancelled("None", "ThrottlingError"), NotNow),
        (cancelled("TransactionConflict"), True),
        (cancelled("None"), False),  # no reason: it is the status then
        (aws("LimitExceededException", 409), False),
        (aws("ConflictException", 409), True),
        (aws("ConflictException", 429), NotNow),
        (aws("TokenConflictException", 409), False),
    ],
)
def test_an_aws_code_means_what_its_description_says(exception: Exception, expected: object) -> None:
    """A limit of the account is final, a conflict is not; a transaction fails as its parts do (U1, U3)."""
    assert expected == meaning(exception)


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        (body({"code": "insufficient_quota"}, 429), False),
        (body({"code": "rate_limit_exceeded"}, 403), NotNow),
        (body({"type": "rate-limit error"}), NotNow),
        (body({"type": "rate_limit_error"}, 503), True),
        (body({"type": "ratelimited"}, 404), False),
        (body({"status": "QUOTA_EXCEEDED"}, 403), NotNow),
        (body({"status": "QUOTA_EXCEEDED"}), True),  # with no status it may be one of storage
        (body({"type": "overloaded"}), True),
        (body({"type": "lock_timeout"}, 400), True),
        (body({"type": "lock_timeout"}, 404), False),
        (body({"type": "invalid_request_error"}), False),
        (body({"type": "invalid_request_error"}, 200), False),
        (body({"type": "invalid_request_error"}, 503), True),
        (body("invalid_grant"), False),
        (body({"type": "x" * 65}, 404), False),
        (body({"type": ""}), True),
        (failure(code="Timeout", status_code=409), True),
        (failure(items=[SimpleNamespace(error_type="RATELIMIT"), None]), NotNow),  # praw
        (failure(items={"error_type": "RATELIMIT"}), True),
        (body({"details": [{"reason": "RATE_LIMIT_EXCEEDED"}]}, 400), NotNow),
        (body({"errors": {"reason": "backendError"}}, 400), True),
        (failure(body={"parameters": {"type": "notfound"}}), False),
        (failure(body={"ok": False, "error": "channel_not_found"}), False),  # slack_sdk
        (failure(body={"ok": False, "error": "fatal_error"}), True),
        (failure(body={"ok": True, "error": "channel_not_found"}), True),
        (failure(api_error_code=lambda: 17, http_status=lambda: 400), NotNow),  # facebook-business
        (failure(api_error_code=lambda: 100, http_status=lambda: 400), False),
        (failure(api_error_code=refuse, http_status=lambda: 400), False),
        (body({"is_transient": True}, 400), True),
        (body({"is_transient": False}, 400), False),
    ],
)
def test_a_code_in_the_json_of_an_answer_says_more_than_the_status(
    exception: Exception, expected: object
) -> None:
    """However it is spelt, and wherever in it; of two codes, the one that no waiting helps (U1, U3)."""
    assert expected == meaning(exception)


QUOTA: dict[str, Any] = {"error": {"code": "insufficient_quota"}}
TEXT = json.dumps(QUOTA)


@pytest.mark.parametrize(
    "attributes",
    [
        *({name: QUOTA} for name in ("body", "_body", "json_body", "details", "data", "content")),
        {"error": QUOTA["error"]},
        *({name: TEXT} for name in ("body", "response_body", "content")),
        {"body": b" \n" + TEXT.encode()},
        {"errors": [QUOTA["error"]]},
        {"error_details": (QUOTA["error"], {"code": "other"})},
        {"body": [QUOTA, None]},
        {"response": QUOTA},
        {"response": SimpleNamespace(_content_consumed=True, content=TEXT.encode())},  # requests
        {"response": SimpleNamespace(is_stream_consumed=True, content=TEXT.encode())},  # httpx
        {"response": SimpleNamespace(data=QUOTA)},  # slack_sdk
        *({name: QUOTA} for name in ("raw_response", "resp", "meta")),
    ],
    ids=lambda attributes: next(iter(attributes)),
)
def test_json_is_found_wherever_a_client_has_it(attributes: dict[str, object]) -> None:
    """Parsed or as text; of an answer, only what has been read already (U1)."""
    assert transient(http(429, **attributes)) is False


@pytest.mark.parametrize(
    "value",
    [
        *("", "{", "[]", "[1, 2]", "null", "7", "no", TEXT[:-1], " " * 65_536 + TEXT, "[" * 60_000),
        *(b"\xff", b"{\xff}", [], [None], (), {}, 7, "\ud800", '{"code": ' + "9" * 5000 + "}"),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_what_is_no_json_says_nothing(value: object) -> None:
    """Nor does what is too long to be parsed, or nested too deeply (U1)."""
    assert NotNow is checked(http(429, body=value))


@pytest.mark.parametrize(
    "answer",
    [
        {"_content_consumed": False, "is_stream_consumed": False},
        {"data": TEXT},
        {},
    ],
    ids=["unread", "text", "bare"],
)
def test_an_answer_that_was_not_read_stays_unread(answer: dict[str, object]) -> None:
    """Reading it may wait for the network (U1)."""
    read: list[object] = []
    unread = type("Unread", (), {"status_code": 429, "content": property(read.append), **answer})()
    assert NotNow is checked(failure(response=unread))
    assert [] == read


# -- the status, and what qualifies it -------------------------------------------------------------

EMPTY = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "60"}


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        (failure(response=SimpleNamespace(status_code=200), status_code=404), False),  # of a stream
        (failure(response=SimpleNamespace(status_code=200), status_code=301), True),
        (http(420), NotNow),
        (http(404, headers={"Retry-After": "7"}), NotNow),
        (http(403, headers=EMPTY), NotNow),
        (http(403, headers={**EMPTY, "X-RateLimit-Remaining": "1"}), False),
        (http(403, body={"message": "You have exceeded a secondary rate limit."}), NotNow),
        (http(403, body={"message": "Forbidden"}), False),
        (http(409), False),
        (named("openai.ConflictError", status_code=409), True),
        (named("openai.types.ConflictError", status_code=409), True),
        (named("openai2.ConflictError", status_code=409), False),
        (caused(http(400), named("aiohttp.HttpProcessingError")), True),
        (caused(http(400), named("BadHttpMessage", bases=type(named("HttpProcessingError")))), True),
        (caused(http(400), Exception()), False),
        (named("Fault", errcode=503), True),  # xmlrpc
        (failure(response_code=404), False),  # python-gitlab
        (failure(code=404, body={"a": 1}), False),
        (failure(code=404, errors=[]), False),
    ],
)
def test_what_comes_with_a_status_may_change_what_it_means(exception: Exception, expected: object) -> None:
    """403 with a limit that is used up is "not now", 409 is what the client makes of it (U1, U3)."""
    assert expected == meaning(exception)


# -- replies of mail servers, errors of databases ---------------------------------------------------


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        (failure(smtp_code=421), True),
        (failure(smtp_code=550), False),
        (failure(smtp_code="550"), True),
        (failure(recipients={"a": (550, b"no"), "b": (451, b"later")}), True),
        (failure(recipients={"a": (550, b"no"), "b": (550, b"no")}), False),
        (failure(recipients={"a": (), "b": None}), True),
        (failure(recipients=["a"], smtp_code=550), False),
        (named("imaplib.error", b"[AUTHENTICATIONFAILED] no"), False),
        (named("imaplib.error", b"[UNAVAILABLE] no"), True),
        (named("poplib.error_proto", b"-ERR [SYS/PERM] no"), False),
        (named("aiosmtplib.SMTPResponseException", code=550), False),
        (named("aiosmtplib.SMTPResponseException", code=451), True),
        (named("aiosmtplib.Refused", recipients=[failure(code=550), failure(code=451)]), True),
        (named("aiosmtplib.Refused", recipients=[failure(code=550), None]), False),
    ],
)
def test_a_reply_of_a_mail_server_says_whether_a_try_can_help(exception: Exception, expected: bool) -> None:
    """4xx may go away, 5xx does not; one address that may yet be reached is enough (U1)."""
    assert transient(exception) is expected


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        (failure(sqlstate="40001"), True),
        (failure(pgcode="23505"), False),
        (failure(sqlstate="2350"), True),
        (failure(sqlstate=23505), True),
        (failure(sqlstate="42000", errno=1226), True),  # too many connections, to MySQL
        (named("OperationalError", 1040, sqlstate="42000"), True),
        (named("pyodbc.Error", "42S02", errno=0), False),
        (KeyError("23456"), True),  # of other clients, what looks like a code may be anything
        (named("sqlite3.IntegrityError", sqlstate=None), False),
        (named("InSession", bases=sqlite3.OperationalError), True),
    ],
)
def test_an_error_of_a_database_says_whether_a_try_can_help(exception: Exception, expected: bool) -> None:
    """A statement, or its data, that is at fault would be again (U1)."""
    assert transient(exception) is expected


# -- names of classes, and what never left ---------------------------------------------------------


def call_json(value: object) -> None:
    json.dumps(value)


class Around(Wrapper):
    """As an integration has it."""

    def __call__(self, /, *args: object, **kwargs: object) -> object:
        return self.func(*args, **kwargs)


def raised_by(fn: Any, *args: object) -> Exception:
    with pytest.raises((TypeError, ConnectionError)) as caught:
        fn(*args)
    return caught.value


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        (raised_by(call_json, object()), False),
        (raised_by(lambda: call_json(1, 2)), True),  # type: ignore[call-arg]  # the function was entered
        (raised_by(Around(call_json)), False),
        (raised_by(Around(call_json), {1, 2}), False),
        (raised_by(Around(lambda: None + 1)), True),  # type: ignore[operator]  # of the function itself
        (named("InvalidURL"), False),
        (named("requests.exceptions.InvalidJSONError"), False),
        (named("requests.JSONDecodeError", bases=type(named("requests.InvalidJSONError"))), True),
        (named("requests.exceptions.InvalidHeader"), False),
        (named("urllib3.exceptions.InvalidHeader"), True),
        (ValueError("The api_key must be set"), False),
        (ValueError(7, "The api_key must be set"), False),
        (ValueError(" " * 1000 + "The api_key must be set"), True),
        (ValueError("The api_key expired"), True),
        (named("Unauthorized"), False),
        (named("hvac.exceptions.UnsupportedOperation"), False),
        (named("io.UnsupportedOperation"), True),
        (named("FloodWaitError"), NotNow),
        (named("builtins.Unauthorized"), True),  # what a program calls its own errors means anything
        (type("Unauthorized", (Exception,), {})(), True),
        (type("Unauthorized", (Exception,), {"__module__": "never.imported"})(), True),
        (named("RateLimited", bases=type(named("Forbidden"))), NotNow),  # of two, the more special one
        (named("Forbidden", bases=type(named("RateLimited"))), False),
    ],
)
def test_the_class_of_an_error_says_what_went_wrong(exception: Exception, expected: object) -> None:
    """Where nothing else does: it never reached the service, is final, or asks for a slower pace (U1, U3)."""
    assert expected == meaning(exception)


def parse() -> None:
    """Raise from a TypeError of this function itself."""
    try:
        len(None)  # type: ignore[arg-type]
    except TypeError as error:
        raise ConnectionError from error


def test_only_of_the_exception_itself_the_traceback_shows_whether_the_call_was_entered() -> None:
    """That of a cause begins where it was caught: the function had begun (U1)."""
    exception = raised_by(parse)
    assert transient(exception) is True
    assert isinstance(exception.__cause__, TypeError)


BAD_CERTIFICATE = named("SSLCertVerificationError", bases=OSError)
UNRELATED = caused(named("SomeError"), named("ValidationError"), BAD_CERTIFICATE)


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        (named("CertificateError"), False),
        (named("ConnectError", BAD_CERTIFICATE), False),
        (caused(named("ConnectError"), named("ConnectError"), BAD_CERTIFICATE), False),
        (named("MaxRetryError", reason=named("SSLError", BAD_CERTIFICATE)), False),
        (named("ConnectError", named("ConnectError")), True),
        (named("ConnectError", UNRELATED), False),  # itself, it would say nothing; what it wraps does
    ],
)
def test_a_certificate_that_does_not_verify_is_final(exception: Exception, expected: bool) -> None:
    """However deep inside the error of the connection it is (U1)."""
    assert transient(exception) is expected


def test_a_certificate_is_looked_for_where_the_connection_failed_in_the_middle_of_another_error() -> None:
    """Clients do not always raise from what they caught: there it is looked for too (U1)."""
    exception = named("ConnectError")
    exception.__context__ = BAD_CERTIFICATE
    assert transient(exception) is False
    exception.__context__ = exception.__cause__ = named("TLSError")
    exception.__context__.__context__ = exception  # goes round in a circle
    assert transient(exception) is True


# -- what is inside --------------------------------------------------------------------------------


def group(*members: object) -> Exception:
    """Return what ExceptionGroup is, for the Pythons without."""
    return failure(exceptions=members)


def chain(length: int, last: BaseException) -> BaseException:
    return caused(*(failure() for _ in range(length)), last)


LAST_ATTEMPT = SimpleNamespace(exception=lambda: http(404))  # of a RetryError of tenacity
CIRCLE = failure()
CIRCLE.__cause__ = CIRCLE.orig = failure(orig=CIRCLE)  # type: ignore[attr-defined]
GROUP_IN_ITSELF = group(http(404))
GROUP_IN_ITSELF.exceptions += (GROUP_IN_ITSELF,)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        (caused(failure(), http(404)), False),
        (caused(failure(), failure(), http(429)), NotNow),
        (caused(http(503), http(404)), True),  # the first that says anything
        (failure(orig=http(404)), False),  # SQLAlchemy
        (failure(last_attempt=LAST_ATTEMPT), False),
        (failure(last_attempt=SimpleNamespace(exception=refuse)), True),
        (failure(last_attempt=7), True),
        (failure(reason=http(404)), False),  # urllib, urllib3
        (Exception("no", http(404)), False),
        (Exception("no", "no", http(404)), True),
        (chain(11, http(404)), False),
        (chain(12, http(404)), True),
        (chain(100_000, http(404)), True),
        (CIRCLE, True),
        (caused(failure(), NotNow()), NotNow),
        (group(NotNow(), http(429)), NotNow),
        (group(http(404), http(400)), False),
        (group(http(429), failure(retry_after=7)), NotNow),
        (group(http(404), http(429)), True),
        (group(http(404), failure()), True),
        (group(http(404), "no"), True),
        (group(failure()), True),
        (group(group(http(404)), group(caused(failure(), http(400)))), False),
        (group(group(http(429)), group(http(429), http(404))), True),
        (caused(failure(), group(http(404))), False),
        (failure(exceptions=()), True),
        (failure(exceptions=[http(404)]), True),
        (GROUP_IN_ITSELF, True),
        (group(*(http(404) for _ in range(1000))), True),
    ],
)
def test_an_exception_that_says_nothing_passes_the_question_on(
    exception: BaseException, expected: object
) -> None:
    """To what it came from or wraps, and to all members of a group; not for ever (U1, U3)."""
    assert expected == checked(exception)


def test_what_an_exception_only_came_after_is_not_asked() -> None:
    """It may have nothing to do with it (U1)."""
    exception = failure()
    exception.__context__ = http(404)
    assert transient(exception) is True


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there are none yet")
def test_a_group_of_python_is_one() -> None:
    """A task group of asyncio or anyio raises one, of groups too (U1, U2, U3)."""
    cls = vars(builtins)["ExceptionGroup"]
    limited = [http(429, headers={"Retry-After": after}) for after in ("7", "9", "8")]
    assert NotNow is meaning(cls("no", [limited[0], cls("no", limited[1:])]))
    assert 9.0 == retry_after(cls("no", [limited[0], cls("no", limited[1:])]))


# -- how long they ask to wait ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        *((failure(**{name: 7}), 7.0) for name in ("_retry_after", "retry_after", "retry_after_s")),
        *((failure(**{name: 7}), 7.0) for name in ("retry_after_secs", "retry_after_seconds", "retry_in")),
        *((failure(**{name: "7"}), 7.0) for name in ("backoff", "cooldown_time", "period_remaining")),
        (named("telethon.errors.FloodWaitError", seconds=7), 7.0),
        (failure(seconds=7), None),
        (failure(retry_after=SimpleNamespace(total_seconds=lambda: 7)), 7.0),  # a timedelta
        (failure(retry_after=SimpleNamespace(total_seconds=lambda: "7")), 7.0),
        *((failure(retry_after=value, retry_in=7), 7.0) for value in (True, -1, "soon", "-1", [], refuse)),
        (failure(retry_after=float("nan"), retry_in=7), 7.0),
        *((failure(retry_after=value), None) for value in (float("inf"), 10**400, "9" * 400)),
        *((failure(body={name: 7}), 7.0) for name in ("retry_after", "retryAfter", "estimated_time")),
        (failure(body={"parameters": {"retry_after": 7}}), 7.0),  # Telegram
        (failure(body={"retry_after": True, "retryAfter": "7"}), 7.0),
        (failure(body={"retry_after": "soon", "retryAfter": "6m0.5s"}), 360.5),
        (body({"details": [{"retryDelay": "7s"}]}), 7.0),  # Google
        (failure(details=[{"@type": "Help"}, {"retryDelay": "1h1s"}]), 3601.0),
        (failure(details=[{"retryDelay": "soon"}]), None),
        *((failure(body={"retry_after": value}), None) for value in (-1, float("inf"), float("nan"), "-1")),
        *((failure(body={"retry_after": value}), None) for value in (10**400, [7], None, "")),
    ],
)
def test_clients_and_bodies_say_how_long_to_wait(exception: Exception, expected: float | None) -> None:
    """Numbers, text, durations; what is malformed or negative is ignored (U2)."""
    assert expected == retry_after(exception)


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        (failure(retry_after=7), NotNow),
        (failure(body={"retry_after": 7}), NotNow),
        (failure(retry_after=SimpleNamespace(total_seconds=refuse)), True),
        (failure(retry_after=10**400), True),
        (http(404, retry_after=7), NotNow),
        (http(503, retry_after=7), True),
    ],
)
def test_a_failure_that_asks_to_wait_is_not_now(exception: Exception, expected: object) -> None:
    """Where a client, or a body without a status, says so; with a status, only a 4xx (U2, U3)."""
    assert expected == meaning(exception)


DAY = "2049-12-31T00:00:30"
GREENWICH = {"Date": "Fri, 31 Dec 2049 00:00:00 GMT"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *(("1d1h1m1.5s", 90061.5), ("120ms", 0.12), ("6m0s", 360.0), (" 30S ", 30.0)),
        *((f"{DAY}{zone}", 30.0) for zone in ("Z", "+00:00", ".123Z", "")),
        (f"{DAY[:10]} 01:00:30+01:00", 30.0),
        (f"{DAY[:-3]}Z", 0.0),
        *((value, None) for value in ("s", "1y", "2049-13-31T00:00:30Z", "2049-12-31", "30 s")),
    ],
)
def test_the_header_may_have_a_duration_or_another_date(value: str, expected: float | None) -> None:
    """As Google and OpenAI write durations, and as ISO 8601 writes dates, by default of Greenwich (U2)."""
    assert expected == retry_after(failure(headers={"Retry-After": value, **GREENWICH}))


def limited(status: int = 429, **limits: str) -> Exception:
    return http(status, headers={name.replace("_", "-"): value for name, value in limits.items()})


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        (limited(X_RateLimit_Reset="60"), 60.0),
        (limited(X_Rate_Limit_Reset="2524521660", **GREENWICH), 60.0),
        (limited(X_Rate_Limit_Reset="2524521660000", **GREENWICH), 60.0),
        (limited(X_Rate_Limit_Reset="2524521500", **GREENWICH), 0.0),
        (limited(X_RateLimit_Reset="1s"), 1.0),
        (limited(X_RateLimit_Reset=f"{DAY}Z", **GREENWICH), 30.0),
        (limited(X_RateLimit_Reset="Fri, 31 Dec 2049 00:00:30 GMT", **GREENWICH), 30.0),
        (limited(X_RateLimit_Reset="soon"), None),
        (limited(X_RateLimit_Reset="Fri, 31 Dec 99999999999999999999 00:00:30 GMT"), None),
        (named("E", bases=NameError, status=429, headers=SimpleNamespace(items=lambda: [7])), None),
        (limited(X_RateLimit_Limit="60"), None),
        (limited(X_RateLimit_Reset_After="7", X_RateLimit_Reset="9", X_RateLimit_Remaining="0"), 9.0),
        (limited(ratelimit_reset_a="7", ratelimit_reset_b="9", ratelimit_remaining_a="0"), 7.0),
        (limited(ratelimit_reset_a="7", ratelimit_reset_b="9", ratelimit_remaining_b="1"), 7.0),
        (limited(ratelimit_reset_a="7", ratelimit_remaining_a="1"), None),
        (limited(RateLimit='"a";r=0;t=7, "b";r=5;t=9'), 7.0),
        (limited(RateLimit='"a";t=7, "b";t=9'), 9.0),
        (limited(RateLimit='"a";r=0, "b"'), None),
        (limited(RateLimit="limit=9, remaining=0, reset=7"), 7.0),
        (limited(RateLimit="limit=9, remaining=1, reset=7"), None),
        (limited(200, X_RateLimit_Reset="60"), None),
        (limited(403, X_RateLimit_Reset="60"), None),
        (limited(403, **EMPTY), 60.0),
        (limited(503, **EMPTY), 60.0),
        (limited(503, X_RateLimit_Reset="60"), None),
        (limited(X_RateLimit_Reset="60", Retry_After="7"), 7.0),
        (http(403, headers={"X-RateLimit-Reset": "60"}, body={"message": "secondary rate limit"}), 60.0),
    ],
)
def test_an_answer_that_turns_the_call_away_says_when_its_limit_is_over(
    exception: Exception, expected: float | None
) -> None:
    """The one that is used up, if it is said which; others say it too, and do not ask to wait (U2)."""
    assert expected == retry_after(exception)


def test_a_date_is_one_by_the_clock_of_this_machine_if_the_service_says_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a limit, too (U2)."""
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert 60.0 == retry_after(limited(X_RateLimit_Reset="2000000060"))
    assert 0.0 == retry_after(limited(X_RateLimit_Reset="1999999999"))


HEADERS = {"Retry-After": "7"}


@pytest.mark.parametrize(
    "exception",
    [
        *(failure(**{name: HEADERS}) for name in ("headers", "litellm_response_headers", "response_headers")),
        *(failure(**{name: HEADERS}) for name in ("resp_headers", "_http_headers", "resp")),
        *(failure(**{name: SimpleNamespace(headers=HEADERS)}) for name in ("raw_response", "resp", "meta")),
        body({"metadata": {"headers": HEADERS}}),  # OpenRouter: those of the provider behind it
        failure(headers={"Retry-After": "7"}, body={"error": {"metadata": {"headers": {"retry-after": 9}}}}),
        failure(headers={}, response=SimpleNamespace(headers=HEADERS)),
    ],
)
def test_headers_are_found_under_each_name(exception: Exception) -> None:
    """Those of the answer before those that it passes on (U2)."""
    assert 7.0 == retry_after(exception)


def test_what_reading_needs_is_imported_before_a_fork() -> None:
    """A child that forks in the middle of an import would wait for it for ever (U2)."""
    for prepare in forks._preparations:
        prepare()
    assert {"json", "email.utils", "datetime"} <= set(sys.modules)


@pytest.mark.parametrize("function", [transient, retry_after, explain])
@pytest.mark.parametrize("value", [None, "no", Exception, 7])
def test_what_is_no_exception_is_an_error(function: Any, value: object) -> None:
    """The message says so (U1, U2)."""
    with pytest.raises(TypeError, match="exception must be an exception, not"):
        function(value)


# -- why -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        (named("requests.HTTPError", status_code=404), "final: HTTP status 404, of requests.HTTPError"),
        (
            named("openai.RateLimitError", status_code=429, headers=HEADERS),
            "not now: HTTP status 429, of openai.RateLimitError; it asks to wait 7 s",
        ),
        (
            caused(failure(), named("a.B", status=503, headers={"Retry-After": "0.25"})),
            "worth another attempt: HTTP status 503, of a.B; it asks to wait 0.25 s",
        ),
        (failure(), PLAIN),
        (NotNow(), "not now: the call says so, of retrying_executor.NotNow"),
        (SystemExit(), "final: what is no Exception is never retried, of builtins.SystemExit"),
        (
            group(named("a.B", status=404), named("c.D", status=400)),
            "final: HTTP status 404, of a.B, c.D",
        ),
        (aws("SlowDown", 503), "not now: AWS code SlowDown, of builtins.Exception"),
        (
            cancelled("None", "ThrottlingError"),
            "not now: AWS code TransactionCanceledException (ThrottlingError), of builtins.Exception",
        ),
        (
            named("a.B", response=property()),
            "worth another attempt: nothing says that another attempt cannot help, of a.B",
        ),
        (
            type("Unreadable", (Exception,), {"__module__": "a", "__dict__": property(refuse)})(),
            "worth another attempt: it cannot be read, of a.Unreadable",
        ),
    ],
)
def test_explain_names_the_verdict_the_rule_the_class_and_the_hint(
    exception: BaseException, expected: str
) -> None:
    """In one line, of the exception that decided (U1, U2, U3)."""
    assert expected == explain(exception)


# -- whatever an exception does --------------------------------------------------------------------

PLACES = sorted(
    {*hints._ATTRIBUTES, *reading._BODIES, *reading._ANSWERS, *reading._HEADERS, *reading._WORDS}
    | {"status_code", "http_status", "response_code", "errcode", "items", "api_error_code", "retryable"}
    | {
        "sqlstate",
        "pgcode",
        "recipients",
        "smtp_code",
        "has_error_label",
        "orig",
        "last_attempt",
        "retriable",
    }
    | {"exceptions", "grpc_status_code", "trailing_metadata", "details"}
)
"""Every attribute that is read."""

SELF: dict[str, Any] = {}
SELF.update(error=SELF, errors=[SELF] * 99, details=SELF, parameters=SELF, headers=SELF, metadata=SELF)
LISTED: list[Any] = []
LISTED.extend([LISTED, {"errors": LISTED}])


class Liar(dict[str, object]):
    """Has every item and attribute, and each is a liar."""

    def get(self, *_: object) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *_: object) -> Any:
        return self


HOSTILE = {
    "call": refuse,
    "circle": SELF,
    "circular list": LISTED,
    "liar": Liar(a=1),
    "dict": type("D", (dict,), dict.fromkeys(("get", "items", "__bool__", "__len__"), refuse))(a=1),
    "list": type("L", (list,), dict.fromkeys(("__getitem__", "__iter__", "__len__"), refuse))([1]),
    "tuple": type("T", (tuple,), dict.fromkeys(("__getitem__", "__iter__", "__len__"), refuse))([1]),
    "str": type("S", (str,), dict.fromkeys(("strip", "lstrip", "replace", "__len__"), refuse))("7"),
    "float": type("F", (float,), dict.fromkeys(("__ge__", "__lt__", "__float__"), refuse))(7),
    "faceless": type("Faceless", (), {"__class__": property(refuse)})(),
    "methods": SimpleNamespace(total_seconds=refuse, exception=refuse, items=refuse, headers=SELF),
    "no pairs": SimpleNamespace(headers=SimpleNamespace(items=lambda: [("retry-after",)]), content=SELF),
    "content": SimpleNamespace(is_stream_consumed=True, content=refuse, data=LISTED),
    "deep": SimpleNamespace(is_stream_consumed=True, content=b'{"error":' * 7000),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", PLACES)
def test_a_hostile_value_breaks_nothing_wherever_it_is(name: str, kind: str) -> None:
    """It may raise, lie, or refer to itself: the answer is one that may be (U1, U2)."""
    value = HOSTILE[kind]
    for exception in (
        failure(**{name: value}),
        failure(body={name: value, "error": {name: value}}),
        failure(**{"response": SimpleNamespace(status_code=429), name: value}),
        Exception(value, value),
    ):
        assert checked(exception) in (True, False, NotNow)
        assert explain(exception)


@pytest.mark.parametrize("name", [*PLACES, "args", "__cause__", "__dict__", "__class__", "__traceback__"])
def test_an_attribute_that_raises_breaks_nothing(name: str) -> None:
    """Whether it is one of the exception, of its answer, or of one that it wraps (U1, U2)."""
    hostile = type("HostileError", (Exception,), {name: property(refuse)})()
    assert checked(hostile) is True
    assert checked(failure(response=hostile)) in (True, NotNow)
    assert checked(group(hostile, hostile)) is True
    assert checked(caused(failure(), hostile)) is True
    assert "HostileError" in explain(hostile)
    close_answers(caused(failure(response=hostile), hostile))


def test_arguments_that_raise_break_nothing() -> None:
    """They may be a tuple of a class of its own (U1, U2)."""
    hostile = type("HostileError", (Exception,), {"args": HOSTILE["tuple"]})()
    assert checked(hostile) is True
    assert explain(hostile).endswith("HostileError")


numbers = st.sampled_from([0, 7, -1, 403, 404, 429, 503, 10**400, 1e308, float("inf"), float("nan"), True])
words = st.sampled_from(["rate_limit_error", "overloaded", "23505", "7", "6m0s", "9" * 400, "9" * 400 + "d"])
strings = words | st.sampled_from(
    ["Thu, 01 Jan 2049 00:00:00 GMT", f"{DAY}Z", "invalid\nb", "{", TEXT, "t=7;r=0"]
)
scalars = st.none() | numbers | strings | strings.map(str.encode) | st.text(max_size=9) | st.integers()
keys = st.sampled_from([*PLACES, "error", "retryDelay", "retry_after", "estimated_time", "parameters", "ok"])
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3).map(lambda found: SimpleNamespace(**found))
        | st.dictionaries(keys, inner, max_size=3).map(lambda found: failure(**found))
        | inner.map(lambda value: lambda: value)
    ),
    max_leaves=8,
)
names = "Retry-After Date retry-after-ms x-should-retry RateLimit X-RateLimit-Reset X-RateLimit-Remaining"
limits = st.sampled_from([*names.split(), "x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens"])
TOO_LARGE = {"X-RateLimit-Reset": "9" * 400}


@example(attributes={}, headers={}, args=[], json_body={})
@example(attributes={"status_code": 429}, headers=TOO_LARGE, args=[], json_body={})
@given(
    attributes=st.dictionaries(st.sampled_from(PLACES), trees, max_size=4),
    headers=st.dictionaries(limits, scalars),
    args=st.lists(trees, max_size=2),
    json_body=trees,
)
def test_nothing_that_a_client_keeps_breaks_the_verdict(
    attributes: dict[str, Any], headers: dict[str, Any], args: list[Any], json_body: object
) -> None:
    """No function ever raises; a hint is ``None`` or finite, and 0 or more; why is one line (U1, U2)."""
    exception = Exception(*args)
    exception.__dict__.update({"headers": headers, "body": json_body, **attributes})
    for one in (exception, caused(failure(), exception), group(exception, exception)):
        assert checked(one) in (True, False, NotNow)
        assert re.fullmatch("(final|not now|worth another attempt): .+, of .+", explain(one))


# -- rules that are broken yet ---------------------------------------------------------------------


def asks(outer: Exception, inner: Exception) -> float | None:
    outer.__cause__ = inner
    return retry_after(outer)


@pytest.mark.parametrize("value", [-1, float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["body", "data"])
def test_a_malformed_hint_is_no_hint_for_the_verdict_either(name: str, value: float) -> None:
    """What `retry_after` ignores does not make a failure "not now" (U2, U3)."""
    assert transient(failure(**{name: {"retry_after": value}})) is True


@pytest.mark.parametrize("value", [float("inf"), 10**400])
def test_a_malformed_attribute_hides_no_other(value: float) -> None:
    """Each is read by itself (U2)."""
    assert 7.0 == retry_after(failure(_retry_after=value, retry_after=7))


@pytest.mark.parametrize(
    "headers",
    [TOO_LARGE, {"X-RateLimit-Reset": "9" * 400 + "s"}, {"RateLimit": "a;t=" + "9" * 400}],
    ids=["number", "duration", "field"],
)
def test_no_limit_lasts_for_ever(headers: dict[str, str]) -> None:
    """A hint is finite, whatever header it is from (U2)."""
    assert retry_after(http(429, headers=headers)) is None


def test_a_date_of_the_service_that_is_none_is_not_used() -> None:
    """Then it is the clock of this machine that counts (U2)."""
    headers = {"Retry-After": GREENWICH["Date"], "Date": "Fri, 31 Dec 99999999999999999999 00:00:30 GMT"}
    assert retry_after(failure(headers=headers)) is not None


def test_a_member_of_a_group_says_nothing_of_the_arguments_of_the_call() -> None:
    """Its traceback begins where its task did (U1)."""
    assert transient(group(raised_by(parse).__cause__)) is True


def test_an_odbc_error_has_its_code_in_its_arguments() -> None:
    """And no attributes (U1)."""
    assert transient(named("pyodbc.ProgrammingError", "42S02", "no such table")) is False


@pytest.mark.parametrize("exception", [failure(body="api_key " * 800), failure(body="a " * 4000)])
def test_a_long_message_takes_no_longer_than_to_read_it(exception: Exception) -> None:
    """Also where none of its words is one that counts (U1)."""
    before = time.process_time()
    assert transient(exception) is True
    assert time.process_time() - before < 0.2


@pytest.mark.parametrize(
    "attributes",
    [
        {"headers": SimpleNamespace(items=lambda: 7)},
        {"body": HOSTILE["dict"]},
        {"api_error_code": list},
        {"exceptions": ("no",)},
    ],
    ids=lambda attributes: next(iter(attributes)),
)
def test_what_cannot_be_read_hides_nothing_else(attributes: dict[str, object]) -> None:
    """The status says what it says (U1)."""
    assert transient(http(404, **attributes)) is False


def test_an_answer_of_urllib3_stays_unread() -> None:
    """Whoever streams it may read it later, and reading may wait for the network (U1)."""
    read: list[object] = []
    answer = type("HTTPResponse", (), {"status": 429, "data": property(read.append)})()
    assert NotNow is checked(failure(response=answer))
    assert [] == read


def test_groups_in_groups_take_no_longer_than_what_is_in_them() -> None:
    """However deep they are: the number of exceptions that are asked is bounded (U1)."""
    asked: list[object] = []

    class GroupError(Exception):
        @property
        def exceptions(self) -> tuple[Exception, ...]:
            asked.append(self)
            return (self,) * 5 if len(asked) < 1000 else ()

    assert transient(GroupError()) is True
    assert len(asked) < 100


def test_a_group_is_final_however_many_members_it_has() -> None:
    """If all of them are (U1)."""
    assert transient(group(*(http(404) for _ in range(20)))) is False


@pytest.mark.parametrize("name", ["retryable", "retriable"])
def test_too_fast_is_not_now_also_where_the_client_says_that_it_may_be_tried_again(name: str) -> None:
    """As with the header ``x-should-retry`` (U3)."""
    assert NotNow is meaning(http(429, **{name: True}))


@pytest.mark.parametrize(
    ("outer", "inner"),
    [(failure(headers=HEADERS), http(503)), (failure(), failure(headers=HEADERS))],
    ids=["outside", "inside"],
)
def test_a_hint_counts_wherever_it_is_in_a_chain(outer: Exception, inner: Exception) -> None:
    """Though another exception has the status, or none has one (U2)."""
    assert 7.0 == asks(outer, inner)


@pytest.mark.parametrize(
    "exception",
    [
        failure(body={"ok": False, "error": "invalid\nthing"}),
        aws("Throttling\r\nx"),
        type("A\nB", (Exception,), {})(),
        aws("Throttling" + "x" * 10_000),
    ],
    ids=["slack", "aws", "class", "long"],
)
def test_explain_says_it_in_one_line(exception: BaseException) -> None:
    """Whatever the service says, it fits into a log (U1)."""
    assert re.fullmatch(r"[ -~]{1,250}", explain(exception))


def test_explain_never_raises() -> None:
    """Though a class may have anything as its module (U1)."""
    hostile = type("HostileModule", (), {"__format__": refuse, "__str__": refuse})()
    assert "Error" in explain(type("Error", (Exception,), {"__module__": hostile})())


def test_explain_says_how_long_a_call_asks_to_wait() -> None:
    """If it raises NotNow itself (U2, U3)."""
    assert explain(NotNow(after=30)).endswith("; it asks to wait 30 s")
