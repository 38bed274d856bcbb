"""Calls are retried until they get through: policies at work on real threads."""

from __future__ import annotations

import contextvars
import gc
import math
import re
import socket
import sys
import threading
import time
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from datetime import timedelta
from threading import Event, Thread
from typing import Any, NoReturn
from uuid import UUID

import pytest

from conftest import TIMEOUT, both
from retrying_executor import (
    Attempt,
    PendingLimitError,
    RetryingExecutor,
    RetryingFuture,
    RetryPolicy,
    current_call,
)
from retrying_executor.testing import VirtualTimeExecutor

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")
AN_HOUR = RetryPolicy(initial_delay=3600, max_delay=3600, max_elapsed=None, jitter=False)

needs_gil = pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(),
    reason="without the GIL an object that threads share goes no sooner than its own thread gets to it",
)


class FailureError(Exception):
    """An exception that a weak reference can watch."""


class Interrupt(BaseException):
    """Not an Exception."""


class Resource:
    """Something that a weak reference can watch."""


class Answer:
    """Looks like the answer of an HTTP client."""

    def __init__(self, **attributes: object) -> None:
        """Take other attributes than an answer has."""
        self.is_closed = False
        self.status_code, self.headers = 503, {}
        self.__dict__.update(attributes)

    def close(self) -> None:
        """Note that, and break."""
        self.is_closed = True
        raise OSError("the connection is broken")


class AnsweredError(Exception):
    """Refers to an answer, or to what looks like one."""

    def __init__(self, response: object) -> None:
        """Take the answer."""
        super().__init__()
        self.response = response


class Flaky:
    """Ends each of its attempts with the next of the given outcomes, and the last for good."""

    def __init__(self, *outcomes: object) -> None:
        """Take the outcomes, in their order."""
        self.outcomes = outcomes
        self.began_at: list[float] = []

    def __call__(self, *_: object, **__: object) -> Any:
        """Run the next attempt."""
        self.began_at.append(time.monotonic())
        outcome = self.outcomes[min(len(self.began_at), len(self.outcomes)) - 1]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def notes(exception: BaseException | None) -> list[str]:
    """Return the notes of an exception; from Python 3.11 on, tracebacks show them."""
    return exception.__notes__  # type: ignore[union-attr, no-any-return]


@pytest.fixture
def lone() -> Iterator[RetryingExecutor]:
    """An executor with a single worker, whose retries are an hour away."""
    executor = RetryingExecutor(1, retry=AN_HOUR)
    yield executor
    executor.shutdown(cancel_futures=True)


@pytest.fixture
def release() -> Iterator[Event]:
    """What running calls wait for; in the end it is set anyway."""
    release = Event()
    yield release
    release.set()


def occupy(executor: Executor, release: Event) -> Any:
    """Return the future of a call that keeps a worker until released; in virtual time, that works later."""
    started = Event()
    future = executor.submit(lambda: (started.set(), release.wait(TIMEOUT)))
    assert RetryingExecutor is VirtualTimeExecutor or started.wait(TIMEOUT)
    return future


def has_one_thread(executor: RetryingExecutor) -> bool:
    """Return whether the only worker is still there; in virtual time, there is none."""
    return isinstance(executor, VirtualTimeExecutor) or 1 == executor.stats().threads


# -- outcomes ------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("failures", range(5))
def test_a_call_is_retried_until_it_gets_through(executor: RetryingExecutor, failures: int) -> None:
    """The outcome is the result of the first attempt that succeeds (B3)."""
    call = Flaky(*[ValueError()] * failures, "through")
    future = executor.submit(call)
    assert "through" == future.result(TIMEOUT)
    assert failures + 1 == future.attempts == len(call.began_at)
    assert future.last_exception is None


@both
def test_the_last_exception_is_the_outcome(executor: RetryingExecutor) -> None:
    """When no attempt is left the original last exception is raised, with traceback and a note (B3)."""
    errors = [ValueError(number) for number in range(5)]
    call = Flaky(*errors)
    future = executor.submit(call)
    with pytest.raises(ValueError, match="4") as caught:
        future.result(TIMEOUT)
    assert errors[-1] is caught.value
    assert None is caught.value.__cause__ is caught.value.__context__
    assert "__call__" == caught.traceback[-1].frame.code.name
    [note] = notes(errors[-1])
    assert re.fullmatch(
        r"retrying_executor: gave up after 5 attempts in [-.e\d]+ s: all 5 attempts are used", note
    )
    assert not any(hasattr(error, "__notes__") for error in errors[:-1])


@both
def test_an_exception_raised_by_every_attempt_does_not_grow(executor: RetryingExecutor) -> None:
    """What is kept per call does not grow with the number of attempts: traceback and notes too (B3, B10)."""
    error = ValueError("no")
    lengths = []
    for attempts in (1, 2, 1000):
        policy = RetryPolicy(initial_delay=0, max_attempts=attempts)
        future = executor.with_options(retry=policy).submit(Flaky(error))
        assert error is future.exception(TIMEOUT)
        assert attempts == future.attempts
        [note] = notes(error)
        assert f" {attempts} attempt" in note
        traceback, length = error.__traceback__, 0
        while traceback is not None:
            traceback, length = traceback.tb_next, length + 1
        lengths.append(length)
        error.__traceback__ = None
    assert [lengths[0]] * 3 == lengths


@both
def test_an_exception_without_retries_has_no_note(executor: RetryingExecutor) -> None:
    """With retry=None everything is as with the standard executor (A4)."""
    error = ValueError("no")
    assert error is executor.with_options(retry=None).submit(Flaky(error)).exception(TIMEOUT)
    assert not hasattr(error, "__notes__")


@both
@pytest.mark.parametrize("interrupt", [Interrupt(), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_what_is_not_an_exception_is_not_retried(
    executor: RetryingExecutor, interrupt: BaseException
) -> None:
    """SystemExit, KeyboardInterrupt and their like end the call, not the worker (B4)."""
    future = executor.with_options(retry_on=BaseException).submit(Flaky(interrupt, "late"))
    assert interrupt is future.exception(TIMEOUT)
    assert 1 == future.attempts
    assert 0 == executor.submit(int).result(TIMEOUT)


@both
def test_rejected_results_are_retried(executor: RetryingExecutor) -> None:
    """A result for which retry_result is true is a failure; so is an exception in between (B1)."""
    view = executor.with_options(retry_result=lambda result: result is None)
    future = view.submit(Flaky(None, ValueError(), None, "there"))
    assert "there" == future.result(TIMEOUT)
    assert 4 == future.attempts


@both
def test_the_last_rejected_result_is_returned(executor: RetryingExecutor) -> None:
    """When retry_result runs out of attempts the last result is the outcome (B3)."""
    future = executor.with_options(retry_result=lambda _: True).submit(Flaky(1, 2, 3, 4, 5))
    assert 5 == future.result(TIMEOUT)
    assert 5 == future.attempts
    assert future.last_exception is None


@both
def test_attempts_never_overlap_and_get_the_same_arguments(executor: RetryingExecutor) -> None:
    """One attempt of a call at a time, with the very same objects each time (B7)."""
    running = threading.Semaphore(1)
    argument = Resource()
    seen: list[tuple[object, ...]] = []

    def call(*args: object, **kwargs: object) -> NoReturn:
        assert running.acquire(blocking=False)
        seen.append((*args, *kwargs.values()))
        running.release()
        raise ValueError("no")

    future = executor.submit(call, argument, keyword=argument)
    assert isinstance(future.exception(TIMEOUT), ValueError)
    assert [(argument, argument)] * 5 == seen


@both
def test_each_attempt_runs_in_a_copy_of_the_context_of_submit(executor: RetryingExecutor) -> None:
    """It sees what was set at submit(), neither what came after nor what other attempts set (B11)."""
    seen: list[str] = []

    def call() -> NoReturn:
        seen.append(VARIABLE.get())
        VARIABLE.set("changed by an attempt")
        raise ValueError("no")

    token = VARIABLE.set("at submit")
    future = executor.submit(call)
    VARIABLE.reset(token)
    assert isinstance(future.exception(TIMEOUT), ValueError)
    assert ["at submit"] * 5 == seen
    assert "unset" == VARIABLE.get()


# -- delays --------------------------------------------------------------------------------------


@both
def test_backoff_holds_no_worker(lone: RetryingExecutor) -> None:
    """With a single worker other calls run while one is in backoff (B5)."""
    future = lone.submit(Flaky(ValueError()))
    assert list(range(10)) == list(lone.map(int, range(10)))
    assert 1 == future.attempts
    assert not future.done()


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_backoff_holds_no_connection(lone: RetryingExecutor, is_wrapped: bool) -> None:
    """What the exception of a failed attempt keeps open is closed when another follows (B5)."""

    def serve() -> None:
        connection, _ = service.accept()
        with connection:
            assert connection.recv(65_536).endswith(b"\r\n\r\n")
            connection.sendall(b"HTTP/1.1 503 No\r\nRetry-After: 3600\r\nContent-Length: 4\r\n\r\nbusy")
            if not connection.recv(1):  # pragma: no branch  # nothing else is sent
                closed.set()

    def call() -> None:
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=TIMEOUT)
        except OSError as error:
            raised.append(error)
            if is_wrapped:
                raise RuntimeError from error
            raise

    raised: list[Any] = []
    closed = Event()
    with socket.create_server(("127.0.0.1", 0)) as service:
        url = f"http://127.0.0.1:{service.getsockname()[1]}/"
        server = Thread(target=serve)
        server.start()
        future = lone.submit(call)
        assert closed.wait(TIMEOUT)
        server.join(TIMEOUT)
    assert 503 == raised[0].code
    assert "3600" == raised[0].headers["Retry-After"]
    assert future.cancel()


def test_the_last_answer_stays_open() -> None:
    """What the call fails with is not touched: who looks at it may want to read it (B3, B5)."""
    answers: list[Answer] = []

    def call() -> NoReturn:
        answers.append(Answer())
        raise AnsweredError(answers[-1])

    with VirtualTimeExecutor(1, retry=RetryPolicy(delays=(1.0, 1.0))) as executor:
        error = executor.submit(call).exception()
        executor.with_options(retry=None).submit(call).exception()
    assert isinstance(error, AnsweredError)
    assert error.response is answers[2]
    assert [True, True, False, False] == [answer.is_closed for answer in answers]


def test_no_attempt_starts_before_its_delay_is_over(executor: RetryingExecutor) -> None:
    """From the end of an attempt to the start of the next it is the delay, or more (B6)."""
    delays = (0.02, 0.0, 0.05)
    call = Flaky(ValueError())
    future = executor.with_options(delays=[timedelta(seconds=delay) for delay in delays]).submit(call)
    assert isinstance(future.exception(TIMEOUT), ValueError)
    gaps = [later - earlier for earlier, later in zip(call.began_at, call.began_at[1:], strict=False)]
    assert all(gap >= delay for gap, delay in zip(gaps, delays, strict=True))


def test_steps_of_the_wall_clock_change_nothing(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Durations are those of the monotonic clock (B6)."""
    steps = iter([1e9, 5e9, -1e9] * 1000)
    monkeypatch.setattr(time, "time", lambda: next(steps))
    call = Flaky(ValueError(), "through")
    assert "through" == executor.with_options(delays=(0.02,), max_elapsed=60).submit(call).result(TIMEOUT)
    assert call.began_at[1] - call.began_at[0] >= 0.02


@both
def test_a_call_that_could_not_start_in_time_gives_up_at_once(executor: RetryingExecutor) -> None:
    """If the delay goes beyond max_elapsed the last error is the outcome, without waiting (B6)."""
    view = executor.with_options(delays=(0, 3600), max_elapsed=3599)
    future = view.submit(Flaky(ValueError("no")))
    assert isinstance(future.exception(TIMEOUT), ValueError)
    assert 2 == future.attempts


@pytest.mark.parametrize("outcome", [ValueError("no"), "rejected"], ids=["exception", "result"])
def test_no_attempt_starts_after_max_elapsed(
    lone: RetryingExecutor, release: Event, monkeypatch: pytest.MonkeyPatch, outcome: object
) -> None:
    """A retry that got its turn too late, all workers being busy, is not made (B6)."""
    view = lone.with_options(max_elapsed=4000, retry_result=lambda result: result == "rejected")
    future = view.submit(Flaky(outcome, "late"))
    busy = occupy(lone, release)
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + 5000)
    release.set()
    assert busy.result(TIMEOUT)
    assert outcome is (future.exception(TIMEOUT) or future.result())
    assert 1 == future.attempts


# -- policies ------------------------------------------------------------------------------------


def test_a_policy_is_told_of_each_failed_attempt(executor: RetryingExecutor) -> None:
    """Any callable will do: from the failed attempt to seconds, or None to give up (B1)."""
    seen: list[Attempt] = []

    def policy(attempt: Attempt) -> timedelta | float | None:
        seen.append(attempt)
        return (0, timedelta(0), None)[attempt.number - 1]

    errors = ValueError(1), ValueError(2), ValueError(3)
    call = Flaky(*errors)
    future = executor.with_options(retry=policy).submit(call)
    assert errors[2] is future.exception(TIMEOUT)
    assert [(1, errors[0], None), (2, errors[1], None), (3, errors[2], None)] == [
        (attempt.number, attempt.exception, attempt.result) for attempt in seen
    ]
    assert all(
        attempt.elapsed >= began_at - call.began_at[0]
        for attempt, began_at in zip(seen, call.began_at, strict=True)
    )


@both
def test_a_policy_is_not_asked_about_success(executor: RetryingExecutor) -> None:
    """Only a failed attempt needs a decision (B1)."""
    seen: list[Attempt] = []
    assert "through" == executor.with_options(retry=seen.append).submit(Flaky("through")).result(TIMEOUT)  # type: ignore[arg-type]
    assert [] == seen


def boom(*_: object) -> NoReturn:
    """Stands for users' code with a bug."""
    raise LookupError("bug")


def leave(*_: object) -> NoReturn:
    """Stands for users' code that wants to leave."""
    raise SystemExit


@both
@pytest.mark.parametrize(
    ("retry", "error"),
    [
        (boom, LookupError),
        (leave, SystemExit),
        (lambda _: math.nan, ValueError),
        (lambda _: math.inf, ValueError),
        (lambda _: -1, ValueError),
        (lambda _: "soon", TypeError),
        (lambda _: True, TypeError),
        (RetryPolicy(retry_on=boom), LookupError),
        (RetryPolicy(retry_on=lambda _: "soon"), TypeError),  # type: ignore[arg-type, return-value]
        (RetryPolicy(random=boom), LookupError),
        (RetryPolicy(random=lambda: math.nan), ValueError),
        (RetryPolicy(random=lambda: "1"), TypeError),  # type: ignore[arg-type, return-value]
    ],
    ids=range(12),
)
def test_a_policy_with_a_bug_loses_no_call(
    lone: RetryingExecutor, retry: Any, error: type[BaseException]
) -> None:
    """The future fails with the policy's error, the attempt's as its cause; the worker stays (B8)."""
    failure = FailureError("no")
    future = lone.with_options(retry=retry).submit(Flaky(failure))
    exception = future.exception(TIMEOUT)
    assert error is type(exception)
    assert failure is exception.__cause__
    assert 1 == future.attempts
    assert 0 == lone.submit(int).result(TIMEOUT)
    assert has_one_thread(lone)


@both
@pytest.mark.parametrize(("predicate", "error"), [(boom, LookupError), (leave, SystemExit)])
def test_a_predicate_with_a_bug_loses_no_call(
    lone: RetryingExecutor, predicate: Callable[[object], object], error: type[BaseException]
) -> None:
    """The future fails with the predicate's error; the worker stays (B8)."""
    future = lone.with_options(retry_result=predicate).submit(Flaky("result"))
    assert error is type(future.exception(TIMEOUT))
    assert 0 == lone.submit(int).result(TIMEOUT)
    assert has_one_thread(lone)


# -- views ---------------------------------------------------------------------------------------


@both
def test_a_view_retries_under_another_policy(executor: RetryingExecutor) -> None:
    """A view is an Executor with terms of its own; those of the executor stay (B9)."""
    view = executor.with_options(delays=(0,) * 7)
    assert isinstance(view, Executor)
    for submitter, attempts in ((view, 8), (executor, 5)):
        future = submitter.submit(Flaky(ValueError()))
        assert isinstance(future.exception(TIMEOUT), ValueError)
        assert attempts == future.attempts
    assert [0, 1, 2] == list(view.map(int, "012"))


@both
@pytest.mark.parametrize(
    ("steps", "attempts"),
    [
        ([{"max_attempts": 3}], 3),
        ([{"max_attempts": 3}, {"retry_result": None}], 3),
        ([{"max_attempts": 3}, {"max_attempts": 2}], 2),
        ([{}], 5),
        ([{"retry": None}], 1),
        ([{"retry": None}, {}], 1),
        ([{"retry": None}, {"delays": (0, 0)}], 3),
        ([{"retry": lambda _: None}, {"retry": RetryPolicy(delays=(0,))}], 2),
        ([{"retry": RetryPolicy(initial_delay=0), "max_attempts": 4}], 4),
        ([{"retry": None}, {"initial_delay": 0, "max_attempts": 2}], 2),
    ],
    ids=range(10),
)
def test_options_add_up_from_view_to_view(
    executor: RetryingExecutor, steps: list[dict[str, Any]], attempts: int
) -> None:
    """A view of a view differs from that one by the given options (B9)."""
    view: Any = executor
    for options in steps:
        view = view.with_options(**options)
    future = view.submit(Flaky(ValueError()))
    assert isinstance(future.exception(TIMEOUT), ValueError)
    assert attempts == future.attempts


@both
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"retry": 3}, TypeError, "^retry must be a RetryPolicy, a callable or None, not 3$"),
        ({"retry": RetryPolicy}, TypeError, "^retry must be a policy, not the class"),
        ({"max_attempts": 0}, ValueError, "^max_attempts must be 1 or more, not 0$"),
        ({"max_attemps": 3}, TypeError, "max_attemps"),
        ({"retry": boom, "max_attempts": 3}, TypeError, r"^max_attempts must go with a RetryPolicy"),
        (
            {"retry": None, "max_attempts": 3},
            TypeError,
            r"^max_attempts must go with a RetryPolicy, not with retry=None$",
        ),
        ({"label": 17}, TypeError, "^label must be a string, not 17$"),
        ({"label": ""}, ValueError, "^label must be one line of text, and not blank: not ''$"),
        ({"key": b"17"}, TypeError, "^key must be a string, not b'17'$"),
        ({"key": " "}, ValueError, "^key must be one line of text, and not blank: not ' '$"),
        ({"key": "a\nb"}, ValueError, r"^key must be one line of text, .*: not 'a\\nb'$"),
    ],
    ids=range(11),
)
def test_a_view_refuses_bad_options(
    executor: RetryingExecutor, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """As the policy does; options need a RetryPolicy that they can apply to (A1, B9)."""
    with pytest.raises(error, match=message):
        executor.with_options(**options)


@both
def test_a_view_cannot_be_shut_down(executor: RetryingExecutor) -> None:
    """Shutting it down is a clear error, as is using it in a with statement, and shuts nothing down (B9)."""
    view: Any = executor.with_options(max_attempts=2).with_options()
    for end in (view.shutdown, lambda: view.shutdown(False), lambda: view.shutdown(cancel_futures=True)):
        with pytest.raises(RuntimeError, match=r"^a view cannot be shut down: shut down the executor"):
            end()
    with pytest.raises(RuntimeError, match=r"^a view cannot be used in a with statement"):
        view.__enter__()
    assert 0 == view.submit(int).result(TIMEOUT)


def test_a_view_ends_with_its_executor(lone: RetryingExecutor, release: Event) -> None:
    """Calls of views are calls of the executor: it drains, shuts down and refuses them (B9, F1)."""
    view = lone.with_options(retry=None)
    future = occupy(view, release)
    assert not lone.drain(0)
    release.set()
    assert lone.drain(TIMEOUT)
    assert future.done()
    lone.shutdown()
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        view.submit(int)


@both
def test_views_share_the_queue(lone: RetryingExecutor, release: Event) -> None:
    """First attempts start in the order of submission, whichever view they came by (B9, D1)."""
    occupy(lone, release)
    views = [lone, lone.with_options(max_attempts=2), lone.with_options(retry=None)]
    order: list[int] = []
    for number in range(9):
        views[number % 3].submit(order.append, number)
    release.set()
    assert lone.drain(TIMEOUT)
    assert list(range(9)) == order


@both
def test_a_view_keeps_its_executor_alive() -> None:
    """Whoever holds a view may submit, though nobody holds the executor (B9)."""
    view = RetryingExecutor(1, idle_timeout=0).with_options(max_attempts=2).with_options(retry=None)
    gc.collect()
    assert 0 == view.submit(int).result(TIMEOUT)


@both
def test_lazy_map_of_a_view_that_nobody_keeps(executor: RetryingExecutor) -> None:
    """As long as results are taken, calls are submitted (A2, B9)."""
    results = executor.with_options(max_attempts=2).map(abs, range(10), buffersize=2)
    assert list(range(10)) == list(results)


# -- a limit on pending calls --------------------------------------------------------------------


def limited(when_full: Any, **options: Any) -> RetryingExecutor:
    """Return an executor with a single worker that takes two calls at a time."""
    return RetryingExecutor(1, retry=AN_HOUR, max_pending=2, when_full=when_full, **options)


def awaited(executor: RetryingExecutor) -> Event:
    """Return an event that is set when somebody waits for room, at the latest when the lock is free."""
    waits = Event()

    class Line(set[Any]):
        def add(self, latch: object) -> None:
            super().add(latch)
            waits.set()

    executor._core.entrance._in_line = Line()
    return waits


@both
def test_a_full_executor_refuses_calls(release: Event) -> None:
    """Calls that are ready, running or in backoff count; the refused one never runs (G1, G5)."""
    with limited("raise") as executor:
        refused = Flaky("refused")
        backoff = executor.submit(Flaky(ValueError()))
        occupy(executor, release)
        for submit in (executor.submit, executor.with_options(retry=None).submit):
            with pytest.raises(
                PendingLimitError, match=r"^2 calls are pending, as many as max_pending allows$"
            ):
                submit(refused)
        assert backoff.cancel()
        ready = executor.submit(int)
        with pytest.raises(PendingLimitError):
            executor.submit(refused)
        release.set()
        assert 0 == ready.result(TIMEOUT)
        assert 0 == executor.submit(int).result(TIMEOUT)
        assert 4 == executor.stats().submitted
    assert [] == refused.began_at


@pytest.mark.parametrize("make_room", ["done", "cancelled", "set"])
def test_a_full_executor_makes_submit_wait(release: Event, make_room: str) -> None:
    """submit() returns as soon as there is room, whatever it is that made it (G5)."""
    with limited("wait") as executor:
        occupy(executor, release)
        ready = executor.submit(int)
        waits = awaited(executor)
        submitted: list[RetryingFuture[int]] = []
        thread = Thread(target=lambda: submitted.append(executor.submit(int, 7)))
        thread.start()
        assert waits.wait(TIMEOUT)
        assert (2, []) == (executor.stats().submitted, submitted)
        if make_room == "done":
            release.set()
        elif make_room == "cancelled":
            assert ready.cancel()
        else:
            ready.set_result(1)
        thread.join(TIMEOUT)
        release.set()
        assert 7 == submitted[0].result(TIMEOUT)


@both
def test_own_threads_do_not_wait_for_room() -> None:
    """A call that submits to a full executor gets the error: it might wait for itself (F7, G5)."""
    with limited("wait") as executor:
        known = Event()
        calls: list[RetryingFuture[object]] = []

        def call() -> object:
            assert known.wait(TIMEOUT)
            with pytest.raises(PendingLimitError, match="own threads cannot wait"):
                executor.submit(boom)
            assert calls[1].cancel()
            return executor.submit(int, 7)

        calls += [executor.with_options(retry=None).submit(call), executor.submit(boom)]
        known.set()
        inner: Any = calls[0].result(TIMEOUT)
        assert 7 == inner.result(TIMEOUT)


@both
def test_who_interrupts_the_executor_does_not_wait_for_room(release: Event) -> None:
    """A destructor in a critical section gets the error: to wait would let others into it (G1, G5)."""
    with limited("wait") as executor:
        occupy(executor, release)
        ready = executor.submit(int)
        with executor._core.lock, pytest.raises(PendingLimitError, match="as many as max_pending allows"):
            executor.submit(boom)
        release.set()
        assert 0 == ready.result(TIMEOUT)


def test_who_waits_for_room_is_told_of_the_shutdown(release: Event) -> None:
    """submit() raises then, and the call never runs (F4, G1, G5)."""
    executor = limited("wait")
    occupy(executor, release)
    executor.submit(int)
    waits = awaited(executor)
    refused = Flaky("refused")
    caught: list[str] = []

    def submit() -> None:
        with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
            executor.submit(refused)
        caught.append("refused")

    threads = [Thread(target=submit) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert waits.wait(TIMEOUT)
    executor.shutdown(wait=False)
    for thread in threads:
        thread.join(TIMEOUT)
    release.set()
    executor.shutdown()
    assert ["refused"] * 3 == caught
    assert [] == refused.began_at
    assert 2 == executor.stats().submitted


def test_room_that_a_refused_call_gave_up_goes_to_the_next(
    release: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When submit() waited for room and then no thread could be started, the others are told (C7, G5)."""
    executor = RetryingExecutor(1, retry=None, max_pending=1, when_full="wait", idle_timeout=0)
    occupy(executor, release)
    caught: list[object] = []
    waiting = threading.Semaphore(0)
    make_latch = executor._core.make_latch

    class Latch:
        def __init__(self, latch: Any) -> None:
            self.release = latch.release
            self._acquire = latch.acquire

        def acquire(self) -> None:
            waiting.release()
            self._acquire()

    monkeypatch.setattr(executor._core, "make_latch", lambda call: Latch(make_latch(call)))

    def submit() -> None:
        with pytest.raises(RuntimeError, match=r"^can't start new thread$"):
            executor.submit(boom)
        caught.append("refused")

    threads = [Thread(target=submit) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert waiting.acquire(timeout=TIMEOUT)

    def refuse(_: Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Thread, "start", refuse)
    release.set()
    for thread in threads:
        thread.join(TIMEOUT)
    monkeypatch.undo()
    assert ["refused"] * 3 == caught
    assert 1 == executor.stats().submitted
    executor.shutdown()


# -- nothing is kept -----------------------------------------------------------------------------


@both
@pytest.mark.parametrize("watched", ["fn", "argument", "keyword", "context"])
@pytest.mark.parametrize("is_observed", [False, True], ids=["unobserved", "observed"])
def test_a_done_call_has_let_go_of_its_arguments(watched: str, *, is_observed: bool) -> None:
    """They can go when the call is done, although the future and the worker stay (G2)."""
    with RetryingExecutor(1, retry=RetryPolicy(delays=(0,)), idle_timeout=None) as executor:
        call, argument, keyword, context = resources = (
            Flaky(ValueError(), 42),
            Resource(),
            Resource(),
            Resource(),
        )
        reference = weakref.ref(
            dict(zip(("fn", "argument", "keyword", "context"), resources, strict=True))[watched]
        )
        token = VARIABLE.set(context)  # type: ignore[arg-type]
        future = executor.submit(call, argument, keyword=keyword)
        VARIABLE.reset(token)
        if is_observed:
            future.add_done_callback(repr)
        del call, argument, keyword, context, resources, token
        assert 42 == future.result(TIMEOUT)
        gc.collect()  # the exception of the first attempt refers to itself
        assert reference() is None
        assert has_one_thread(executor)


@both
@needs_gil
@pytest.mark.parametrize("what", ["result", "exception", "future"])
@pytest.mark.parametrize("is_observed", [False, True], ids=["unobserved", "observed"])
def test_an_outcome_goes_with_its_future(what: str, *, is_observed: bool) -> None:
    """When nobody holds the future any more, its outcome goes, without help from the collector (G2)."""

    def call() -> Resource:
        if what == "exception":
            raise FailureError
        return Resource()

    died = Event()
    with RetryingExecutor(1, retry=RetryPolicy(delays=(0,)), idle_timeout=None) as executor:
        gc.collect()
        gc.disable()
        try:
            future = executor.submit(call)
            if is_observed:
                future.add_done_callback(repr)
            outcomes: dict[str, Any] = {"exception": future.exception(TIMEOUT), "future": future}
            outcomes["result"] = None if what == "exception" else future.result()
            reference = weakref.ref(outcomes[what], lambda _: died.set())
            del future
            outcomes.clear()
            if what == "exception" and isinstance(executor, VirtualTimeExecutor):
                gc.collect()  # its traceback leads to the wait in which it was raised
            assert died.wait(TIMEOUT)
        finally:
            gc.enable()
        assert reference() is None
        assert has_one_thread(executor)


@both
def test_retries_behind_the_interface_of_the_standard_executor(executor: RetryingExecutor) -> None:
    """Who knows of the standard executor alone gets retries all the same (A3, B3)."""
    standard: ThreadPoolExecutor = executor
    futures = [standard.submit(Flaky(*[ValueError()] * (number % 5), number)) for number in range(50)]
    assert set(futures) == wait(futures, TIMEOUT).done
    assert list(range(50)) == [future.result() for future in futures]


@pytest.mark.parametrize("cls", [RetryingExecutor, VirtualTimeExecutor])
def test_calls_of_a_view_have_its_label_and_its_key(cls: type[RetryingExecutor]) -> None:
    """Futures, events and current_call() say so; those of its views too, unless they have others (B13)."""
    events: list[Any] = []

    def ask() -> tuple[str | None, str]:
        call = current_call()
        assert call is not None
        return call.label, call.key

    with cls(1, "orders", on_event=events.append) as executor:
        view = executor.with_options(label="invoice 17", key="order-17")
        other = view.with_options(label="invoice 18", key=None)
        futures = [each.submit(ask) for each in (view, view.with_options(max_attempts=1), other)]
        told = [future.result(TIMEOUT) for future in futures]
    assert [("invoice 17", "order-17")] * 2 + [("invoice 18", futures[2].key)] == told
    assert ["order-17", "order-17", str(UUID(futures[2].key))] == [future.key for future in futures]
    done = {(event.label, event.key, event.executor) for event in events}
    assert {(label, key, "orders") for label, key in told} == done


@pytest.mark.parametrize("cls", [RetryingExecutor, VirtualTimeExecutor])
def test_attempts_may_have_an_empty_context(cls: type[RetryingExecutor]) -> None:
    """With ``inherit_context=False``, as with the standard executor; of views too (B11)."""
    token = VARIABLE.set("of the submitter")
    with cls(1, inherit_context=False) as executor:
        assert "unset" == executor.submit(VARIABLE.get).result(TIMEOUT)
        assert "unset" == executor.with_options(max_attempts=2).submit(VARIABLE.get).result(TIMEOUT)
    VARIABLE.reset(token)
    with pytest.raises(TypeError, match=r"^inherit_context must be True or False, not None$"):
        cls(inherit_context=None)  # type: ignore[arg-type]
