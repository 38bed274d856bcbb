"""An upstream is judged by its own failures: in virtual time, through a whole executor."""

from __future__ import annotations

import errno
import gc
import http.client
import smtplib
import ssl
import weakref
from collections.abc import Callable
from concurrent.futures import wait
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from observe import eventually, needs_gil
from retrying_executor import NotNow, RetryingExecutor, RetryPolicy, Upstream, service_failed
from retrying_executor._policy.reading import Reading
from retrying_executor._policy.transient import hint_of
from retrying_executor._upstream.evidence import evidence_of
from retrying_executor.testing import VirtualTimeExecutor

pytestmark = pytest.mark.usefixtures("quiet")


class AnswerError(Exception):
    """Tells of an HTTP answer."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status
        self.headers: dict[str, str] = {}


class TransportError(Exception):
    """Has a name as clients give it."""


class PoolTimeout(TransportError):  # noqa: N818  # as httpx has it
    """Is about connections here."""


class AwsError(Exception):
    """Has the shape of botocore's ClientError."""

    def __init__(self, code: str, status: int) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


class StatusCode(SimpleNamespace):
    """Stands for that of grpc."""


class RpcError(Exception):
    """Has the shape of grpc's."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def code(self) -> StatusCode:
        return StatusCode(name=self.name)

    details = staticmethod(str)


class HostileError(Exception):
    """Raises when it is asked for its cause's words."""

    @property
    def args(self) -> NoReturn:  # type: ignore[override]  # hostile
        raise KeyboardInterrupt


def fail(exception: BaseException) -> NoReturn:
    """Raise *exception*."""
    raise exception


def raised_from(cause: BaseException, outer: BaseException | None = None) -> BaseException:
    """Return an exception that says nothing itself, raised from *cause*."""
    outer = RuntimeError("delivery failed") if outer is None else outer
    outer.__cause__ = cause
    return outer


FAILED = [
    ConnectionError(),
    ConnectionRefusedError(errno.ECONNREFUSED, "no"),
    TimeoutError(),
    OSError("connection broken"),
    OSError(errno.EHOSTUNREACH, "no route"),
    AnswerError(500),
    AnswerError(503),
    AnswerError(522),
    AnswerError(408),
    AwsError("InternalError", 400),
    AwsError("Whatever", 500),
    RpcError("UNAVAILABLE"),
    TransportError(),
    http.client.IncompleteRead(b""),
    http.client.BadStatusLine(""),
    smtplib.SMTPServerDisconnected("closed"),
    smtplib.SMTPConnectError(421, b"closing"),
    raised_from(AnswerError(503)),
    raised_from(raised_from(ConnectionError())),
    RuntimeError(ConnectionError()),
]
"""What tells that the service failed."""

NOT_FAILED = [
    KeyError("id"),
    ValueError("row"),
    RuntimeError("unknown"),
    AssertionError(),
    FileNotFoundError(errno.ENOENT, "no such file"),
    PermissionError(errno.EACCES, "no"),
    OSError(errno.ENOSPC, "disk full"),
    OSError(errno.EMFILE, "too many open files"),
    AnswerError(404),
    AnswerError(429),
    AwsError("Whatever", 400),
    RpcError("NOT_FOUND"),
    RpcError("ABORTED"),
    PoolTimeout(),
    ssl.SSLCertVerificationError("self-signed"),
    raised_from(ssl.SSLCertVerificationError("self-signed"), ConnectionError()),
    smtplib.SMTPRecipientsRefused({"a@x": (550, b"unknown")}),
    smtplib.SMTPDataError(451, b"greylisted"),
    smtplib.SMTPAuthenticationError(535, b"no"),
    raised_from(AnswerError(404)),
    HostileError(),
]
"""What tells nothing bad of it."""


@pytest.mark.parametrize("exception", FAILED, ids=repr)
def test_failures_of_the_service_count(exception: BaseException) -> None:
    """Network failures and answers 5xx, also where another exception was raised from them (U5)."""
    assert service_failed(exception)


@pytest.mark.parametrize("exception", NOT_FAILED, ids=lambda one: type(one).__name__)
def test_other_failures_do_not_count(exception: BaseException) -> None:
    """The program's own errors, local files, final answers, certificates, and what is unknown (U5)."""
    assert not service_failed(exception)


def test_a_chain_of_exceptions_that_never_ends_is_no_trap() -> None:
    """Causes are followed for ten steps (U5)."""
    first, second = RuntimeError(), RuntimeError()
    first.__cause__, second.__cause__ = second, first
    first.args = second.args = (first, second)
    assert not service_failed(first)


@pytest.mark.parametrize("is_probe", [False, True], ids=["usual", "probe"])
@pytest.mark.parametrize("status", [404, 429, 503])
def test_what_follows_a_failure_is_read_off_its_exception_once(status: int, *, is_probe: bool) -> None:
    """Whether to try again, how long to wait, and what it tells of the upstream (U1, U2, U5)."""
    asked = []

    class CountingError(AnswerError):
        @property
        def retryable(self) -> None:
            asked.append(self)

    service = Upstream("service")
    policy = RetryPolicy(max_attempts=2, max_elapsed=10)
    with VirtualTimeExecutor(retry=policy, upstream=service) as executor:
        if is_probe:
            service.pause()
            service.resume()
        future = executor.submit(fail, CountingError(status))
        assert isinstance(future.exception(), CountingError)
    assert future.attempts == len(asked) > 0


@needs_gil
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: AnswerError(404), "worked"),
        (lambda: raised_from(AnswerError(429), AnswerError(0)), "busy"),
        (lambda: raised_from(ConnectionError(), AnswerError(0)), "failed"),
    ],
    ids=["itself", "cause", "nothing"],
)
def test_what_is_read_of_an_exception_does_not_keep_it(
    make: Callable[[], BaseException], expected: str
) -> None:
    """No reference leads round in a circle, so it goes without help from the collector (G2)."""
    exception = make()
    reference = weakref.ref(exception)
    gc.disable()
    try:
        read = Reading(exception)
        assert (None, expected) == (hint_of(read), evidence_of(read))
        del exception, read
        assert reference() is None
    finally:
        gc.enable()


def test_a_final_answer_shows_that_the_service_works() -> None:
    """What was never understood as an answer says nothing (U5)."""
    assert "worked" == evidence_of(Reading(AnswerError(404)))
    assert "none" == evidence_of(Reading(KeyError("id")))
    assert "busy" == evidence_of(Reading(AnswerError(429)))


@pytest.mark.parametrize(
    "attributes",
    [{"reason": "too many strange error responses"}, {"args": vars(HostileError)["args"]}],
    ids=["malformed", "raises"],
)
def test_a_final_failure_whose_attributes_cannot_be_read_stays_what_it_is(attributes: dict[str, Any]) -> None:
    """It is the call's outcome, and says nothing of the service (B3, U1)."""
    exception = type("UnreadableError", (NotImplementedError,), attributes)()
    assert "none" == evidence_of(Reading(exception))
    service = Upstream("service", hold_after=1)
    with VirtualTimeExecutor(upstream=service) as executor:
        assert exception is executor.submit(fail, exception).exception()
        assert "open" == service.state


# -- what counts is said by an option --------------------------------------------------------------


def state_after(exception: Exception, **options: Any) -> str:
    """Return what becomes of an upstream whose call raises *exception*."""
    service = Upstream("service", hold_after=1, **options)
    with VirtualTimeExecutor(retry=None, upstream=service) as executor:
        executor.submit(fail, exception).exception()
        return service.state


def nonsense(_: object) -> NoReturn:
    """Stand for a predicate with a bug."""
    raise RuntimeError("a bug")


@pytest.mark.parametrize(
    ("record_exceptions", "exception", "expected"),
    [
        (KeyError, KeyError("id"), "held"),
        ((KeyError, ValueError), ValueError("row"), "held"),
        (KeyError, ConnectionError(), "open"),
        (lambda exception: "down" in str(exception), RuntimeError("down"), "held"),
        (lambda exception: service_failed(exception) or "down" in str(exception), ConnectionError(), "held"),
        (nonsense, ConnectionError(), "open"),
        (KeyError, AnswerError(429), "held"),
    ],
)
def test_an_option_says_what_counts(record_exceptions: Any, exception: Exception, expected: str) -> None:
    """``record_exceptions`` is a class, a tuple of them, or a predicate; "not now" counts always (U5)."""
    assert expected == state_after(exception, record_exceptions=record_exceptions)


@pytest.mark.parametrize("wrong", [None, "KeyError", [KeyError], int, (KeyError, 3), KeyError("id")])
def test_what_does_not_say_what_counts_is_refused(wrong: Any) -> None:
    """At once, with the value and what is allowed (A1, U5)."""
    with pytest.raises(TypeError, match="record_exceptions must be an exception class"):
        Upstream("service", record_exceptions=wrong)


def test_a_call_may_say_later_but_only_i() -> None:
    """Others of the upstream go on; otherwise a time that is named holds it (U3)."""
    service, left = Upstream("service"), [NotNow("not ready", after=30, only_this_call=True)]

    def poll() -> int:
        if left:
            raise left.pop()
        return 1

    with VirtualTimeExecutor(upstream=service) as executor:
        poller = executor.submit(poll)
        assert 0 == executor.submit(int).result()
        assert 0.0 == executor.monotonic()
        assert 1 == poller.result()
        asks = RetryPolicy(retry_on=lambda _: NotNow(after=5, only_this_call=True))
        other = executor.with_options(retry=asks).submit(iter([ValueError()]).__next__)
        assert isinstance(other.result(), ValueError)
        failing = executor.with_options(retry=asks).submit(fail, ValueError())
        executor.advance(1)
        assert "open" == service.state
        failing.cancel()
    with pytest.raises(TypeError, match="only_this_call must be True or False, not 30"):
        NotNow(only_this_call=30)  # type: ignore[arg-type]  # wrong


# -- whoever can never succeed holds up nobody -----------------------------------------------------


def polls() -> NoReturn:
    """Stand for a call that waits for something of its own."""
    raise NotNow("not ready", after=7, only_this_call=True)


HOPELESS: list[Callable[[], object]] = [
    lambda: {}["id"],
    lambda: int("row"),
    lambda: fail(AnswerError(404)),
    lambda: fail(smtplib.SMTPRecipientsRefused({"a@x": (550, b"unknown")})),
    lambda: fail(ssl.SSLCertVerificationError("self-signed")),
    lambda: "RUNNING",
    polls,
]
POLICY = RetryPolicy(max_attempts=None, max_elapsed=6 * 3600, retry_result=lambda result: result == "RUNNING")


@settings(deadline=None, max_examples=40)
@given(
    hopeless=st.lists(st.sampled_from(HOPELESS), min_size=1, max_size=20),
    down_for=st.sampled_from([0.0, 3.0, 100.0]),
    head_start=st.sampled_from([0.0, 50.0]),
    seed=st.integers(0, 5),
)
def test_calls_that_never_succeed_hold_up_nobody(
    hopeless: list[Callable[[], object]], down_for: float, head_start: float, seed: int
) -> None:
    """A good call starts after at most one hold once the service works, whatever else waits (U5)."""
    service = Upstream("service", initial_hold=1, max_hold=60)
    executor = VirtualTimeExecutor(4, retry=POLICY, upstream=service, seed=seed)
    began: list[float] = []

    def answers(call: Callable[[], object]) -> object:
        if executor.monotonic() < down_for:
            raise ConnectionError("down")
        return call()

    futures = [executor.submit(answers, call) for call in hopeless]
    executor.advance(head_start)
    submitted_at = executor.monotonic()
    good = executor.submit(answers, lambda: began.append(executor.monotonic()))
    good.result()
    assert began[0] <= max(submitted_at, down_for) + 60
    for future in futures:
        future.cancel()
    executor.shutdown()


@pytest.mark.parametrize("count", [1, 5, 300])
@pytest.mark.parametrize("options", [{}, {"max_concurrency": 2}, {"rate": (3, 1.0)}], ids=repr)
def test_a_service_that_is_down_for_good_ends_every_call_in_time(count: int, options: dict[str, Any]) -> None:
    """However many there are: soon after ``max_elapsed``, tried or not (B6, U5)."""
    service = Upstream("service", **options)
    policy = RetryPolicy(max_attempts=None, max_elapsed=600)
    executor = VirtualTimeExecutor(8, retry=policy, upstream=service)
    futures = [executor.submit(fail, ConnectionError("down")) for _ in range(count)]
    executor.shutdown()
    assert executor.monotonic() <= 600 + 60 + 1
    untried = [future for future in futures if not future.attempts]
    assert all(isinstance(future.exception(), ConnectionError) for future in futures if future.attempts)
    for future in untried:
        with pytest.raises(TimeoutError, match="never tried: the upstream service was held"):
            future.result()
    assert bool(untried) is (count == 300)


def test_calls_that_wait_for_a_limit_wait_as_long_as_it_takes() -> None:
    """Only a service that is down uses up ``max_elapsed`` before the first attempt (B6, U4)."""
    service = Upstream("service", rate=(1, 60.0))
    with VirtualTimeExecutor(upstream=service, retry=RetryPolicy(max_elapsed=100)) as executor:
        futures = [executor.submit(int) for _ in range(10)]
    assert [0] * 10 == [future.result() for future in futures]
    assert 540 == executor.monotonic()


def test_a_service_that_is_back_in_time_loses_no_call() -> None:
    """The time that calls without an attempt have left begins anew when it works again (B6, U5)."""
    service = Upstream("service", rate=(1, 10.0))
    executor = VirtualTimeExecutor(upstream=service, retry=RetryPolicy(max_elapsed=100, max_attempts=None))

    def call() -> None:
        if executor.monotonic() < 80:
            raise ConnectionError("down")

    futures = [executor.submit(call) for _ in range(30)]
    executor.shutdown()
    assert [0] == sorted({0 if future.exception() is None else 1 for future in futures})


def test_calls_without_an_attempt_give_up_in_real_time_too() -> None:
    """Where the service is held for longer than ``max_elapsed`` (B6)."""
    service = Upstream("service")
    service.pause()
    with RetryingExecutor(1, retry=RetryPolicy(max_elapsed=0.05), upstream=service) as executor:
        futures = [executor.submit(int) for _ in range(3)]
        assert not wait(futures, 30).not_done
        assert [0] * 3 == [future.attempts for future in futures]
        assert all(isinstance(future.exception(), TimeoutError) for future in futures)
        assert eventually(lambda: 0 == executor.stats().held)
        assert 3 == executor.stats().failed


def test_a_call_that_gave_up_untried_can_be_cancelled_before_it_is_told() -> None:
    """It is counted once, wherever it waits (E1, G4)."""
    service = Upstream("service")
    executor = VirtualTimeExecutor(retry=RetryPolicy(max_elapsed=1), upstream=service)
    service.pause()
    first, second = executor.submit(int), executor.submit(int)
    first.add_done_callback(lambda _: second.cancel())
    executor.advance(10)
    assert isinstance(first.exception(), TimeoutError)
    assert second.cancelled()
    stats = executor.stats()
    assert (2, 1, 1, 0) == (stats.submitted, stats.failed, stats.cancelled, stats.ready)


def test_the_probe_is_a_call_that_did_not_fail_last() -> None:
    """An untried one first; a call whose probe fails lets the others be it (U5)."""
    service, probes = Upstream("service", hold_after=1, initial_hold=10, max_hold=10), []
    retry = RetryPolicy(delays=[1] * 20)
    executor = VirtualTimeExecutor(upstream=service, retry=retry)

    def call(name: str) -> NoReturn:
        probes.append(name)
        raise ConnectionError("down")

    futures = [executor.submit(call, name) for name in "abc"]
    executor.advance(100)
    for future in futures:
        future.cancel()
    executor.shutdown()
    assert "abc" == "".join(probes[:3])
    assert all(before != after for before, after in pairwise(probes))


@pytest.mark.parametrize("seed", range(20))
def test_a_call_that_failed_as_the_probe_gives_up_in_time(seed: int) -> None:
    """It sits out the hold, but no longer than ``max_elapsed`` allows (B6, U5)."""
    service = Upstream("service", hold_after=1, initial_hold=2)
    policy = RetryPolicy(max_attempts=None, max_elapsed=3, initial_delay=0.1, max_delay=0.1)
    executor = VirtualTimeExecutor(upstream=service, retry=policy, seed=seed)
    assert isinstance(executor.submit(fail, ConnectionError("down")).exception(), ConnectionError)
    assert executor.monotonic() <= 3.0


def test_a_failed_probe_is_free_only_if_the_service_failed() -> None:
    """A bug of the call's own uses up its attempts, also as the probe (U5)."""
    service = Upstream("service")
    with VirtualTimeExecutor(upstream=service, retry=RetryPolicy(max_attempts=3)) as executor:
        service.pause(1)
        future = executor.submit(fail, KeyError("id"))
    assert 3 == future.attempts


def test_being_busy_without_a_time_holds_it() -> None:
    """Several answers "not now" in a row that name no time hold it, as failures do (U5)."""
    service = Upstream("service", hold_after=3)
    with VirtualTimeExecutor(upstream=service) as executor:
        futures = [executor.submit(fail, AnswerError(429)) for _ in range(9)]
        executor.advance(0)
        assert ("held", 3) == (service.state, sum(future.attempts for future in futures))
        executor.shutdown(cancel_futures=True)
