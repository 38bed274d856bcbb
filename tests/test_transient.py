"""Which failures are worth another attempt, what "not now" is, and how long answers ask to wait."""

from __future__ import annotations

import copy
import enum
import http.client
import io
import json
import logging
import pickle
import sys
import time
import urllib.error
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import TIMEOUT
from observe import eventually
from retrying_executor import (
    Attempt,
    ForkedFutureError,
    NotNow,
    PendingLimitError,
    RetryingExecutor,
    RetryingFuture,
    RetryPolicy,
    retry_after,
    transient,
    watch,
)
from retrying_executor._policy import reading
from retrying_executor._policy.closing import close_answers
from retrying_executor._upstream.evidence import evidence_of
from retrying_executor.testing import VirtualTimeExecutor
from test_retrying import Answer, AnsweredError

NOW = 784111777.0
"""Sunday, 6 November 1994, 08:49:37 GMT: the date of RFC 9110, section 5.6.7."""


def failure(**attributes: object) -> Exception:
    """Return an exception with these attributes."""
    exception = Exception("no")
    exception.__dict__.update(attributes)
    return exception


def meaning(exception: BaseException) -> object:
    """Return what `transient` says: True, False, or the class NotNow."""
    answer = transient(exception)
    assert isinstance(answer, (bool, NotNow))
    return NotNow if isinstance(answer, NotNow) else answer


# -- which failures are worth another attempt ------------------------------------------------------


def urllib_error(status: int, headers: dict[str, str]) -> Exception:
    """Return what urllib raises for an answer."""
    message = http.client.HTTPMessage()
    for name, value in headers.items():
        message[name] = value
    error = urllib.error.HTTPError("http://localhost/", status, "no", message, io.BytesIO())
    error.close()
    return error


SHAPES: dict[str, Callable[[Any, Any], Exception]] = {
    "urllib": urllib_error,
    "requests": lambda status, headers: failure(
        response=SimpleNamespace(status_code=status, headers=headers)
    ),
    "urllib3": lambda status, headers: failure(response=SimpleNamespace(status=status, headers=headers)),
    "aiohttp": lambda status, headers: failure(status=status, headers=headers),
    "sdk": lambda status, headers: failure(status_code=status, headers=headers),
    "older sdk": lambda status, headers: failure(http_status=status, headers=headers),
    "google": lambda status, headers: failure(
        code=status, errors=[], response=SimpleNamespace(headers=headers)
    ),
    "botocore": lambda status, headers: failure(
        response={
            "Error": {"Code": "Any"},
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
        }
    ),
}
HTTP = [
    *((status, True) for status in (100, 200, 304, 408, 423, 425, 449, 500, 501, 502, 503, 504, 599)),
    *((status, False) for status in (400, 401, 403, 404, 405, 409, 410, 422, 451, 499)),
    (429, NotNow),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("status", "expected"), HTTP)
def test_an_http_status_says_whether_a_try_can_help(shape: str, status: int, expected: object) -> None:
    """4xx is final, but for 408 and 425; 429 is "not now" (U1, U3)."""
    assert expected == meaning(SHAPES[shape](status, {}))


@pytest.mark.parametrize("status", [True, "404", 404.0, 99, 600, 10**30, -404, None])
def test_what_is_no_http_status_says_nothing(status: object) -> None:
    """Only an integer from 100 to 599 is a status; the next place that has one is looked at (U1)."""
    assert transient(failure(status=status)) is True
    assert transient(failure(status_code=status, status=404)) is False


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("too many 429 error responses", NotNow),
        ("too many 503 error responses", True),
        ("too many 404 error responses", False),
        ("too many redirects", True),
        ("too many strange error responses", True),
    ],
)
def test_what_urllib3_retried_in_vain_has_a_status(reason: str, expected: object) -> None:
    """It stands in the words of the reason; requests wraps that once more (U1, U3)."""
    exhausted = failure(reason=reason)
    assert expected == meaning(exhausted) == meaning(ConnectionError(exhausted))


AWS = [
    *((code, 400, NotNow) for code in ("ThrottlingException", "SlowDown", "LimitExceededException")),
    *((code, 400, NotNow) for code in ("ConcurrentRunsExceededException", "InsufficientInstanceCapacity")),
    ("SlowDown", 503, NotNow),
    *((code, 400, True) for code in ("RequestTimeout", "RequestTimeoutException", "InternalError")),
    *((code, 400, False) for code in ("ValidationException", "ExpiredToken", 42, None)),
    ("NoSuchBucket", 404, False),
    ("ServiceUnavailable", 503, True),
]


@pytest.mark.parametrize(("code", "status", "expected"), AWS)
def test_an_aws_code_says_more_than_the_status(code: object, status: int, expected: object) -> None:
    """Throttling and capacity are "not now", other client errors are final (U1, U3)."""
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    assert expected == meaning(failure(response=response))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("throttlingException", NotNow),
        ("modelNotReadyException", NotNow),
        ("validationException", False),
        ("accessDeniedException", False),
        ("internalServerException", True),
        ("", True),
    ],
)
def test_in_the_middle_of_an_event_stream_the_code_says_all(code: str, expected: object) -> None:
    """It begins with a small letter there, and there is no status (U1, U3)."""
    assert expected == meaning(failure(response={"Error": {"Code": code, "Message": "no"}}))


StatusCode = enum.Enum("StatusCode", "UNAVAILABLE RESOURCE_EXHAUSTED NOT_FOUND")  # some of those of gRPC


@pytest.mark.parametrize(("code", "expected"), [*zip(StatusCode, [True, NotNow, False], strict=True)])
def test_a_grpc_status_says_whether_a_try_can_help(code: StatusCode, expected: object) -> None:
    """Read from what grpc raises, and from what google-api-core makes of it (U1, U3)."""
    assert expected == meaning(failure(code=lambda: code, details=lambda: "no"))
    assert expected == meaning(failure(grpc_status_code=code, code=404, errors=[]))


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        *((error("no"), True) for error in (Exception, ValueError, TypeError, OSError, RecursionError)),
        *((error("no"), False) for error in (NameError, UnboundLocalError, ImportError, ModuleNotFoundError)),
        *((error("no"), False) for error in (SyntaxError, IndentationError, NotImplementedError)),
        *((error(), False) for error in (KeyboardInterrupt, SystemExit, GeneratorExit, BaseException)),
        (failure(code=404), True),  # it may mean anything, unless something else tells of an answer
        (failure(code=404, response=object()), False),
        (failure(code=lambda: StatusCode.NOT_FOUND), True),  # exceptions of grpc have details() too
        (failure(grpc_status_code=SimpleNamespace(name="NOT_FOUND")), True),
    ],
)
def test_only_what_no_try_will_mend_is_final(exception: BaseException, expected: bool) -> None:
    """Programming errors are, and what is not an Exception (U1, B4)."""
    assert transient(exception) is expected


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        *((error, "busy") for error in (NotNow(), failure(status=429))),
        *((error, "failed") for error in (ConnectionError(), failure(status=503))),
        *((error, "worked") for error in (failure(status=404), failure(status=400))),
        *((error, "none") for error in (NameError(), NotImplementedError())),
    ],
)
def test_a_failure_tells_of_its_upstream(exception: Exception, expected: str) -> None:
    """An answer that is final is an answer; an error of the program never got so far (U5)."""
    assert expected == evidence_of(reading.Reading(exception))


def raises(exception: Exception) -> NoReturn:
    raise exception


@pytest.mark.parametrize(
    ("arguments", "attempts"), [((), 1), ((ValueError(), 2), 1), ((TypeError("from inside"),), 5)]
)
def test_a_call_whose_arguments_do_not_fit_is_tried_once(
    executor: RetryingExecutor, arguments: tuple[object, ...], attempts: int
) -> None:
    """A TypeError from inside the function is an error as any other (U1)."""
    future = executor.submit(raises, *arguments)
    assert isinstance(future.exception(TIMEOUT), TypeError)
    assert attempts == future.attempts


# -- how long they ask to wait ---------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_headers_are_found_wherever_a_client_has_them(shape: str) -> None:
    """The same shapes as for the status (U2)."""
    assert 7.0 == retry_after(SHAPES[shape](503, {"Retry-After": "7"}))
    assert retry_after(SHAPES[shape](503, {})) is None


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        *(({name: "120"}, 120.0) for name in ("Retry-After", "retry-after", "RETRY-AFTER", b"Retry-After")),
        *(({"Retry-After": value}, 7.0) for value in ("7", " 7 ", "7.0", "07", b"7", 7, 7.0)),
        *(({"Retry-After": value}, float(value)) for value in ("0", "1.5", ".5", "3600", "86400")),
        ({"retry-after-ms": "1500", "x-ms-retry-after-ms": "2500", "Retry-After": "3"}, 1.5),
        ({"Retry-After-Ms": "soon", "X-Ms-Retry-After-Ms": "2500", "Retry-After": "3"}, 2.5),
        ({"retry-after-ms": "-1", "x-ms-retry-after-ms": "", "Retry-After": "3"}, 3.0),
        ({"Retry-After": "Sun, 06 Nov 1994 08:51:37 GMT"}, 120.0),
        ({"Retry-After": "Sunday, 06-Nov-94 08:51:37 GMT"}, 120.0),
        ({"Retry-After": "Sun Nov  6 08:51:37 1994"}, 120.0),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:36 GMT"}, 0.0),
        ({"Retry-After": "Sun, 06 Nov 1994 08:51:37 GMT", "Date": "today"}, 120.0),
        ({"Retry-After": "Fri, 31 Dec 2049 00:00:30 GMT", "Date": "Fri, 31 Dec 2049 00:00:00 GMT"}, 30.0),
        ({"Retry-After": "Fri, 31 Dec 2049 00:00:30 GMT", "Date": "Fri, 31 Dec 2049 00:01:00 GMT"}, 0.0),
        *(({"Retry-After": value}, None) for value in ("", "-1", "+1", "soon", "1e400", "1e3", "nan", "inf")),
        *(
            ({"Retry-After": value}, None)
            for value in ("9" * 400, "0x10", "1_0", "1.2.3", "٣", ".", None, [7])
        ),
        *(({"Retry-After": f"Sun, 06 {when}:00:00 GMT"}, None) for when in ("Not 1994 08", "Nov 99999 08")),
        ({"Retry-After": "Sun, 99 Nov 1994 08:51:37 GMT"}, None),
        ({"Retry-After": "Sun, 06 Nov 1994 25:51:37 GMT"}, None),
        ({"Retry-After": "Sun, 06 Nov 1994 08:50:60 GMT"}, 83.0),  # a leap second
    ],
)
def test_headers_say_how_long_to_wait(
    headers: dict[Any, Any], expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Milliseconds before seconds before dates, by the server's clock; what is malformed is ignored (U2)."""
    monkeypatch.setattr(time, "time", lambda: NOW)
    assert expected == retry_after(failure(headers=headers))


class RetryInfo:
    """Stands in for the message of that name; a delay is written as in JSON."""

    def __init__(self, delay: str | None = None) -> None:
        self.delay = delay
        self.retry_delay = SimpleNamespace(ToJsonString=lambda: self.delay or "0s")

    def HasField(self, name: str) -> bool:  # noqa: N802  # as protobuf has it
        return getattr(self, name) is self.retry_delay and self.delay is not None


class Detail:
    """Stands in for a ``google.protobuf.Any``."""

    def __init__(self, kind: str, delay: str | None) -> None:
        self.kind, self.delay = kind, delay

    def Unpack(self, info: RetryInfo) -> bool:  # noqa: N802  # as protobuf has it
        info.delay = self.delay
        return self.kind == type(info).__name__


class Status:
    """Stands in for a ``google.rpc.Status``, which is JSON here."""

    def __init__(self, details: list[Detail]) -> None:
        self.details = details

    @classmethod
    def FromString(cls, encoded: bytes) -> Status:  # noqa: N802  # as protobuf has it
        return cls([Detail(*detail) for detail in json.loads(encoded)])


@pytest.fixture(scope="module")
def protos() -> Iterator[None]:
    """Stand-ins for grpc, and for googleapis-common-protos, which not every Python has."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("grpc", "google.rpc.status_pb2", "google.rpc.error_details_pb2"):
            patch.setitem(sys.modules, name, SimpleNamespace(Status=Status, RetryInfo=RetryInfo))
        yield


def status_of(*delays: str | None, kind: str = "RetryInfo") -> bytes:
    """Return an encoded status with a detail for each delay, and another before."""
    return json.dumps([("Help", "no"), *((kind, delay) for delay in delays)]).encode()


def grpc_failure(**metadata: object) -> Exception:
    return failure(trailing_metadata=lambda: tuple((k.replace("_", "-"), v) for k, v in metadata.items()))


STATUS = status_of("3.500s")


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        (grpc_failure(grpc_retry_pushback_ms="250", grpc_status_details_bin=STATUS), 0.25),
        *((grpc_failure(grpc_retry_pushback_ms=value), None) for value in ("-1", "soon", "")),
        (grpc_failure(grpc_retry_pushback_ms="-1", grpc_status_details_bin=STATUS), 3.5),
        (grpc_failure(grpc_status_details_bin=status_of("300s")), 300.0),
        (grpc_failure(grpc_status_details_bin=status_of("0s")), 0.0),
        (grpc_failure(grpc_status_details_bin=status_of(None, "7s", "8s")), 7.0),
        (grpc_failure(grpc_status_details_bin=status_of(None)), None),
        (grpc_failure(grpc_status_details_bin=status_of("3s", kind="Other")), None),
        (grpc_failure(grpc_status_details_bin=status_of("-3s")), None),
        (grpc_failure(grpc_status_details_bin="3"), None),
        (grpc_failure(), None),
        (failure(trailing_metadata=lambda: None), None),
        (failure(details=[SimpleNamespace(), RetryInfo("3.5s")]), 3.5),
        (failure(details=lambda: "no"), None),
        (failure(details=[RetryInfo()]), None),
        (failure(details=[RetryInfo()], response=grpc_failure(grpc_status_details_bin=STATUS)), 3.5),
        (failure(details=[], response=grpc_failure(grpc_retry_pushback_ms="250")), 0.25),
        (failure(headers={"Retry-After": "7"}, details=[RetryInfo("3.5s")]), 7.0),
        (failure(headers={"Retry-After": "soon"}, details=[RetryInfo("3.5s")]), 3.5),
    ],
)
@pytest.mark.usefixtures("protos")
def test_grpc_says_how_long_to_wait(exception: Exception, expected: float | None) -> None:
    """The pushback before RetryInfo; both read as grpc has them, and as google-api-core does (U2)."""
    assert expected == retry_after(exception)


@pytest.mark.usefixtures("protos")
def test_details_that_are_cut_off_say_nothing() -> None:
    """Wherever that is (U2)."""
    asked = [
        retry_after(grpc_failure(grpc_status_details_bin=STATUS[:length])) for length in range(len(STATUS))
    ]
    assert [None] * len(STATUS) == asked


@pytest.mark.usefixtures("protos")
@pytest.mark.parametrize("name", ["google.rpc.status_pb2", "google.rpc.error_details_pb2"])
@pytest.mark.parametrize("module", [None, SimpleNamespace()], ids=["not installed", "broken"])
def test_details_say_nothing_where_they_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, name: str, module: Any
) -> None:
    """They are read with a package that the program may have; the pushback is read without it (U2)."""
    monkeypatch.setitem(sys.modules, name, module)
    assert retry_after(grpc_failure(grpc_status_details_bin=STATUS)) is None
    assert 0.25 == retry_after(grpc_failure(grpc_status_details_bin=STATUS, grpc_retry_pushback_ms="250"))


@pytest.mark.usefixtures("protos")
def test_details_are_read_only_where_grpc_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is imported in a program that gets no such answers (U2)."""
    monkeypatch.delitem(sys.modules, "grpc")
    assert retry_after(grpc_failure(grpc_status_details_bin=STATUS)) is None


# -- whatever an exception does --------------------------------------------------------------------


def refuse(*_: object, **__: object) -> NoReturn:
    raise SystemExit("a hostile object was asked")


class Hostile(Exception):  # noqa: N818  # so are its instances, when they are values
    """Raises whatever it is asked."""

    __getattr__ = __getitem__ = __call__ = __iter__ = __bool__ = __len__ = __eq__ = __str__ = refuse
    __hash__ = None  # type: ignore[assignment]
    response = headers = code = details = status = trailing_metadata = property(refuse)


HOSTILE_OBJECTS = [
    Hostile(),
    refuse,
    type("HostileInt", (int,), {"__eq__": refuse, "__le__": refuse, "__hash__": refuse, "__int__": refuse})(
        404
    ),
    type("HostileStr", (str,), {"__eq__": refuse, "__hash__": refuse, "__str__": refuse})("no"),
    type("HostileDict", (dict,), {"get": refuse, "items": refuse})(),
    SimpleNamespace(items=refuse),
    SimpleNamespace(items=lambda: 42),
    SimpleNamespace(items=lambda: [("retry-after", Hostile())]),
    SimpleNamespace(items=lambda: [("retry-after", "7", "too much")]),
    SimpleNamespace(status_code=Hostile(), headers={Hostile: Hostile()}),
    {"Error": "SlowDown"},
    {"Error": {"Code": ["SlowDown"]}, "ResponseMetadata": [400]},
    "a response",
]
NAMES = ["response", "headers", "status_code", "status", "http_status", "code", "errors", "details"]
NAMES += ["grpc_status_code", "trailing_metadata", "retry_delay", "items", "name"]


def checked(exception: BaseException) -> object:
    """Return the meaning of an exception, if both functions return what they may."""
    asked = retry_after(exception)
    assert asked is None or (type(asked) is float and 0.0 <= asked < float("inf"))
    return meaning(exception)


@pytest.mark.parametrize("value", HOSTILE_OBJECTS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_attribute_proves_nothing(name: str, value: object) -> None:
    """Neither function ever raises, and the failure is one as any other (U1, U2)."""
    assert checked(failure(**{name: value})) is True


def test_a_hostile_exception_proves_nothing() -> None:
    """Whether it is hostile itself, knows every attribute, or is of no known kind (U1, U2)."""
    omniscient = type("Omniscient", (Exception,), {"__getattr__": lambda self, name: name})
    interrupt = type("Interrupt", (BaseException,), {"__getattr__": refuse})
    faceless = type("Faceless", (BaseException,), {"__class__": property(refuse)})
    assert checked(Hostile()) is True
    assert checked(omniscient()) is True
    assert checked(interrupt()) is False
    assert checked(faceless()) is False


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
headers = st.dictionaries(st.sampled_from(["Retry-After", "Date", "retry-after-ms"]), values)
codes = st.fixed_dictionaries({"Error": values | st.fixed_dictionaries({"Code": values})})
anything = values | headers | codes | st.lists(values) | st.functions(like=lambda: None, returns=values)
details = values | st.tuples(st.integers(0, len(STATUS)), st.binary()).map(lambda t: STATUS[: t[0]] + t[1])


@pytest.mark.usefixtures("protos")
@given(st.dictionaries(st.sampled_from(NAMES), anything), headers, details)
def test_nothing_that_an_exception_has_breaks_it(
    attributes: dict[str, Any], headers: dict[str, object], details: object
) -> None:
    """Neither function ever raises, nor says anything but what it may (U1, U2)."""
    assert checked(failure(**attributes)) in (True, False, NotNow)
    assert checked(failure(headers=headers)) is True
    assert checked(grpc_failure(grpc_status_details_bin=details)) is True


def test_looking_at_an_exception_warns_of_nothing() -> None:
    """A deprecated attribute, such as ``code`` of aiohttp, is not looked at if another says the same (U1)."""
    deprecated = property(lambda self: warnings.warn("deprecated", DeprecationWarning, stacklevel=2))
    attributes = {"status": 429, "headers": {"Retry-After": "7"}, "code": deprecated}
    exception = type("ClientResponseError", (Exception,), attributes)()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert NotNow is checked(exception)
    assert [] == seen


# -- what the policy makes of it -------------------------------------------------------------------

BUSY = failure(status=503, headers={"Retry-After": "120"})
THROTTLED = failure(status=429, headers={"Retry-After": "120"})
BARE = failure(status=429)
PLAIN = RetryPolicy(jitter=False)


def delay(policy: RetryPolicy, exception: Exception, number: int = 1, **how: Any) -> float | None:
    return policy(Attempt(number=number, exception=exception, result=None, **{"elapsed": 0.0, **how}))


@pytest.mark.parametrize(
    ("policy", "exception", "expected"),
    [
        (PLAIN, BUSY, 120.0),
        (PLAIN, THROTTLED, 120.0),
        (PLAIN, NotNow(after=30), 30.0),
        (PLAIN, NotNow(after=timedelta(minutes=10)), 600.0),
        (PLAIN, NotNow(), 0.5),
        (PLAIN, BARE, 0.5),
        (PLAIN, NotNow(after=0), 0.5),
        (PLAIN, failure(headers={"Retry-After": "0"}), 0.5),
        (PLAIN, failure(headers={"Retry-After": "3600"}), 300.0),
        (PLAIN.replace(max_retry_after=None), failure(headers={"Retry-After": "3600"}), 3600.0),
        (PLAIN.replace(max_retry_after=timedelta(seconds=60)), BUSY, 60.0),
        (PLAIN.replace(max_retry_after=0), BUSY, 0.5),
        (PLAIN.replace(max_elapsed=120), BUSY, 120.0),
        (PLAIN.replace(max_elapsed=119), BUSY, None),
        (PLAIN.replace(max_elapsed=119), NotNow(after=120), None),
        (PLAIN.replace(max_attempts=1), BUSY, None),
        (PLAIN.replace(max_attempts=1), THROTTLED, 120.0),
        (PLAIN.replace(retry_on=ValueError), THROTTLED, 120.0),
        (PLAIN.replace(retry_on=ValueError), NotNow(after=30), 30.0),
        (PLAIN.replace(retry_on=Exception), THROTTLED, 120.0),
        (PLAIN.replace(retry_on=Exception, max_attempts=1), THROTTLED, 120.0),
        (PLAIN.replace(retry_on=lambda _: NotNow(), max_attempts=1), BUSY, 120.0),
        (PLAIN.replace(retry_on=lambda _: NotNow(after=30), max_attempts=1), BUSY, 30.0),
        (PLAIN.replace(retry_on=lambda _: 7.0), BUSY, 7.0),
        (RetryPolicy(delays=[9]), BUSY, 120.0),
        (RetryPolicy(delays=[9]), BARE, 9.0),
        (RetryPolicy(delays=[]), BARE, 0.5),
        (RetryPolicy(delays=[]), BUSY, None),
        (RetryPolicy(random=lambda: 0.5), BUSY, 135.0),
        (RetryPolicy(random=lambda: 0.5, initial_delay=60), BUSY, 150.0),
        (RetryPolicy(random=lambda: 0.5), NotNow(after=0), 0.25),
    ],
)
def test_the_delay_is_what_was_asked_for(
    policy: RetryPolicy, exception: Exception, expected: float | None
) -> None:
    """Never sooner, unless capped; "not now" needs no attempt that is left (U2, U3)."""
    assert expected == delay(policy, exception)


@given(asked=st.floats(0, 1e6), initial_delay=st.floats(0, 60), number=st.integers(1, 9))
def test_jitter_comes_on_top_of_what_was_asked_for(asked: float, initial_delay: float, number: int) -> None:
    """Up to the delay of the curve, or a quarter of what was asked for, whichever is more (U2)."""
    policy = RetryPolicy(max_attempts=None, initial_delay=initial_delay, max_elapsed=None)
    bound = min(60.0, initial_delay * 2 ** (number - 1))
    actual = delay(policy, NotNow(after=asked), number, postponed=number - 1)
    assert actual is not None
    assert asked <= actual <= asked + max(bound, asked / 4)


@pytest.mark.parametrize(
    ("policy", "exception", "number", "postponed", "expected"),
    [
        (PLAIN, NotNow(), 6, 3, 4.0),  # the fourth "not now"
        (PLAIN, ConnectionError(), 6, 4, 1.0),  # the second failure
        (PLAIN, ConnectionError(), 8, 4, 4.0),  # the fourth
        (PLAIN, ConnectionError(), 9, 4, None),  # the fifth, and the last
        (RetryPolicy(delays=[1, 2]), NotNow(), 9, 8, 2.0),  # there are more than delays
    ],
)
def test_failures_and_not_now_have_curves_of_their_own(
    policy: RetryPolicy, exception: Exception, number: int, postponed: int, expected: float | None
) -> None:
    """Neither lengthens the delays of the other (U3)."""
    assert expected == delay(policy, exception, number, postponed=postponed)


@pytest.mark.parametrize(
    ("after", "error"),
    [*((value, TypeError) for value in ("soon", True, [])), *((value, ValueError) for value in (-1, 1e400))],
)
@pytest.mark.parametrize(("kind", "name"), [(NotNow, "after"), (RetryPolicy, "max_retry_after")])
def test_not_now_and_policies_take_seconds(
    after: object, error: type[Exception], kind: Callable[..., object], name: str
) -> None:
    """Finite, 0 or more; the error names the argument (U2, U3)."""
    with pytest.raises(error, match=f"{name} must be a (finite )?number of seconds"):
        kind(**{name: after})


@pytest.mark.parametrize(
    ("exception", "words", "representation"),
    [
        (NotNow(), "", "NotNow()"),
        (NotNow(after=30), "after 30 s", "NotNow()"),
        (NotNow("full", after=30), "full", "NotNow('full')"),
        (NotNow(7, "full"), "(7, 'full')", "NotNow(7, 'full')"),
    ],
)
def test_not_now_is_an_exception_as_any_other(exception: NotNow, words: str, representation: str) -> None:
    """It is shown as one, copies and pickles carry all of it, and it speaks for itself (U3)."""
    assert exception is transient(exception)
    assert (words, representation) == (str(exception), repr(exception))
    for twin in (copy.copy(exception), copy.deepcopy(exception), pickle.loads(pickle.dumps(exception))):
        assert (NotNow, exception.args, exception.after) == (type(twin), twin.args, twin.after)


class TableBusy(NotNow):
    """What users write, not calling NotNow.__init__()."""

    def __init__(self, table: str) -> None:
        self.table = table


@pytest.mark.parametrize(
    ("exception", "attempts", "reason"),
    [
        (NotNow("full", after=0), 8, "(asked to wait 0 s, not counted)"),
        (TableBusy("orders"), 8, "(not counted)"),
        (failure(status=503, headers={"Retry-After": "0"}), 2, "(asked to wait 0 s)"),
    ],
)
def test_not_now_uses_up_no_attempt(
    caplog: pytest.LogCaptureFixture, exception: Exception, attempts: int, reason: str
) -> None:
    """However often a call says so; other failures do. Why it waits as long as it does is logged (U2, U3)."""
    answers = iter([exception] * 7)

    def call() -> None:
        for answer in answers:
            raise answer

    policy = RetryPolicy(max_attempts=2, initial_delay=0, max_delay=0)
    with caplog.at_level(logging.INFO, "retrying_executor"), RetryingExecutor(1, retry=policy) as executor:
        future = executor.submit(call)
        assert future.exception(TIMEOUT) in (None, exception)
    assert attempts == future.attempts
    retries = [message for message in caplog.messages if "the next one" in message]
    assert [reason] * (attempts - 1) == [message[message.rindex("(") :] for message in retries]


def test_a_delay_may_end_at_no_date(caplog: pytest.LogCaptureFixture) -> None:
    """The call waits, though the log cannot say until when (U3, B8)."""
    policy = RetryPolicy(max_elapsed=None)
    with caplog.at_level(logging.INFO, "retrying_executor"), RetryingExecutor(1, retry=policy) as executor:
        future = executor.submit(raises, NotNow(after=1e18))
        assert eventually(lambda: future.due_at is not None)
        executor.shutdown(timeout=0)
    assert future.cancelled()


# -- errors of this library ------------------------------------------------------------------------


def ended() -> RetryingExecutor:
    """Return an executor that is shut down."""
    executor = RetryingExecutor(1)
    executor.shutdown()
    return executor


def done() -> RetryingFuture[int]:
    """Return a future that is done."""
    with RetryingExecutor(1) as executor:
        return executor.submit(int)


def watched_twice(executor: RetryingExecutor) -> None:
    """Enter one view twice."""
    view = watch(executor, file=io.StringIO())
    with view:
        pass
    view.__enter__()


@pytest.mark.parametrize("cls", [RetryingExecutor, VirtualTimeExecutor])
@pytest.mark.parametrize(
    ("misuse", "error"),
    [
        (lambda executor: executor.drain(), "would wait for itself"),
        (lambda _: ended().submit(int), "after shutdown"),
        (lambda executor: executor.with_options().shutdown(), "a view cannot be shut down"),
        (lambda _: done().set_result(1), "FINISHED"),
        (lambda _: done().set_running_or_notify_cancel(), "only the executor starts"),
        (watched_twice, "only once"),
        (lambda _: raises(ForkedFutureError("the parent's")), "the parent's"),
    ],
)
def test_an_error_of_this_library_that_could_only_repeat_is_final(
    cls: type[RetryingExecutor], misuse: Callable[[RetryingExecutor], object], error: str
) -> None:
    """A deadlock does not go away by waiting: such a call gives up at once (U1)."""
    with cls(1, retry=RetryPolicy(delays=[0, 0])) as executor:
        future = executor.submit(misuse, executor)
        exception = future.exception(TIMEOUT)
        assert 1 == future.attempts
    assert error in str(exception)
    assert transient(pickle.loads(pickle.dumps(exception))) is False


def test_time_does_not_pass_by_itself_in_a_call_and_no_other_attempt_would_change_that() -> None:
    """Nor can a call drain its executor, or submit to one that is shut down, in virtual time either (U1)."""
    ended = VirtualTimeExecutor(1)
    ended.shutdown()
    with VirtualTimeExecutor(1) as executor:
        futures = [
            executor.submit(executor.advance, 1),
            executor.submit(executor.drain),
            executor.submit(ended.submit, int),
        ]
        assert [RuntimeError] * 3 == [type(future.exception()) for future in futures]
        assert [1] * 3 == [future.attempts for future in futures]


@pytest.mark.usefixtures("quiet")
def test_an_error_of_this_library_that_may_go_away_is_tried_again() -> None:
    """A full backlog has room later, and an attempt may make its own executor anew (U1)."""

    def broken() -> None:
        with RetryingExecutor(1, initializer=fail_to_initialize) as inner:
            inner.submit(int).exception(TIMEOUT)
            inner.submit(int)

    with RetryingExecutor(1, max_pending=1, retry=RetryPolicy(delays=[0, 0])) as executor:
        full = executor.submit(lambda: executor.submit(int))
        assert isinstance(full.exception(TIMEOUT), PendingLimitError)
        never_works = executor.submit(broken)
        assert isinstance(never_works.exception(TIMEOUT), BrokenExecutor)
    assert (3, 3) == (full.attempts, never_works.attempts)


def fail_to_initialize() -> NoReturn:
    """Fail as a connection may."""
    raise ConnectionError


# -- answers that are closed ---------------------------------------------------------------------


def test_what_is_no_answer_is_not_closed() -> None:
    """A session, a file or the like that an exception refers to may be in use elsewhere (B5)."""
    for attributes in ({"headers": None}, {"status_code": "503"}, {"status_code": None}):
        answer = Answer(**attributes)
        close_answers(AnsweredError(answer))
        assert not answer.is_closed


def test_the_answers_of_a_whole_chain_are_closed() -> None:
    """Whatever each of them raises, and although it goes round in a circle (B5)."""
    errors: list[Any] = [AnsweredError(Answer()) for _ in range(4)]
    answers = [error.response for error in errors]
    for error, cause in zip(errors, [*errors[1:], errors[0]], strict=True):
        error.__cause__ = cause
    errors[1].response = Hostile()
    close_answers(errors[0])
    assert [True, False, True, True] == [answer.is_closed for answer in answers]
