"""Answers of asynchronous clients: closed in their event loop while the call is in backoff."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from itertools import pairwise
from threading import Event
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from conftest import TIMEOUT
from observe import eventually, needs_late_starts, threads_named
from retrying_executor import RetryingExecutor, RetryPolicy
from retrying_executor._policy.closing import close_answers
from retrying_executor._threads import loop
from retrying_executor._threads.loop import LoopThread
from test_retrying import Answer, AnsweredError

NAME = "closing"


class AsyncAnswer(Answer):
    """As that of httpx: it has a ``close`` that only raises."""

    closed_in: str | None = None

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.closed_in = threading.current_thread().name

    def close(self) -> NoReturn:
        raise RuntimeError("it is asynchronous")


class AwaitedAnswer(Answer):
    """One whose ``close`` is a coroutine function."""

    closed_in: str | None = None

    async def close(self) -> None:  # type: ignore[override]  # that is the point
        self.closed_in = threading.current_thread().name


class LoopAnswer(Answer):
    """As that of aiohttp: its ``close`` is a plain function, not to be called in another thread."""

    closed_in: str | None = None

    def close(self) -> None:
        self.closed_in = threading.current_thread().name


@pytest.fixture(params=[0, 5], ids=["thread leaves", "thread stays"])
def executor(request: pytest.FixtureRequest) -> Iterator[RetryingExecutor]:
    """An executor with long delays, whose threads leave at once, or stay for a while."""
    policy = RetryPolicy(delays=(600,))
    with RetryingExecutor(2, NAME, retry=policy, idle_timeout=request.param) as executor:
        yield executor


def failing(*answers: Any) -> Callable[[], Coroutine[Any, Any, None]]:
    """Return a coroutine function that fails with the first answer, because of the second, and so on."""

    async def call() -> None:
        errors = [AnsweredError(answer) for answer in answers]
        for error, cause in pairwise(errors):
            error.__cause__ = cause
        raise errors[0]

    return call


@pytest.mark.parametrize("kind", [AsyncAnswer, AwaitedAnswer, LoopAnswer])
def test_backoff_of_a_coroutine_function_closes_the_answer_in_the_loop(
    executor: RetryingExecutor, kind: Callable[[], Any]
) -> None:
    """Whether closing is a coroutine or not, and whether the loop still has a thread or not (B5)."""
    answer = kind()
    future = executor.submit(failing(answer))
    assert eventually(lambda: answer.closed_in)
    assert f"{NAME}_loop" == answer.closed_in
    assert future.cancel()


def test_an_attempt_that_fails_before_it_has_a_coroutine_has_its_answer_closed(
    executor: RetryingExecutor,
) -> None:
    """In the loop, as any, although there is none yet (B5)."""
    answer = AsyncAnswer()

    def call() -> NoReturn:
        raise AnsweredError(answer)

    setattr(call, "_is_coroutine_marker", object())  # noqa: B010  # as `inspect.markcoroutinefunction`
    future = executor.submit(call)
    assert eventually(lambda: answer.closed_in)
    assert future.cancel()


def test_answers_are_closed_whatever_tasks_the_program_makes(executor: RetryingExecutor) -> None:
    """The task that closes one is not made by the program's task factory (B5)."""
    answer = AsyncAnswer()

    def refuse(*_: object, **__: object) -> NoReturn:
        raise TypeError("no task of that kind")  # pragma: no cover  # nobody asks it

    async def call() -> NoReturn:
        asyncio.get_running_loop().set_task_factory(refuse)
        raise AnsweredError(answer)

    future = executor.submit(call)
    assert eventually(lambda: answer.closed_in)
    assert future.cancel()


def test_the_last_answer_of_a_coroutine_function_stays_open(executor: RetryingExecutor) -> None:
    """As that of a plain function (B3, B5)."""
    answer = AsyncAnswer()
    error = executor.with_options(max_attempts=1, delays=None).submit(failing(answer)).exception(TIMEOUT)
    assert isinstance(error, AnsweredError)
    assert error.response is answer
    assert answer.closed_in is None


@needs_late_starts
def test_what_its_client_has_closed_needs_no_loop() -> None:
    """So most clients read and close an answer before they raise: no thread comes back for these (B5, C2)."""
    answers = [AsyncAnswer(is_closed=True), AwaitedAnswer(closed=True)]
    policy = RetryPolicy(delays=(600,))
    with RetryingExecutor(1, NAME, retry=policy, idle_timeout=0) as executor:
        future = executor.submit(failing(*answers))
        assert eventually(lambda: executor.stats().in_backoff)
        assert eventually(lambda: not threads_named(f"{NAME}_loop"))
        assert future.cancel()
    assert [None, None] == [answer.closed_in for answer in answers]


def test_an_answer_that_cannot_be_closed_does_not_keep_others_open(executor: RetryingExecutor) -> None:
    """Whatever it raises (B5, B8)."""
    broken, answer = Answer(close=lambda: divmod(1, 0)), AsyncAnswer()
    future = executor.submit(failing(broken, answer))
    assert eventually(lambda: answer.closed_in)
    assert future.cancel()


@pytest.mark.parametrize(
    ("kind", "closed_in"),
    [(AsyncAnswer, None), (AwaitedAnswer, None), (LoopAnswer, threading.main_thread().name)],
)
def test_a_plain_function_may_fail_with_an_answer_that_needs_a_loop(
    kind: Callable[[], Any], closed_in: str | None
) -> None:
    """There is none then. What can be closed without is; nothing is left unawaited, which would warn (B5)."""
    answer = kind()
    close_answers(AnsweredError(answer))
    assert closed_in == answer.closed_in


def test_what_hides_its_class_is_no_answer() -> None:
    """Nothing is raised, and it is not closed (B5, B8)."""
    hostile = type("Hostile", (), {"__class__": property(lambda _: divmod(1, 0))})()
    answer = LoopAnswer(status_code=hostile)
    close_answers(AnsweredError(answer))
    assert answer.closed_in is None


def test_closing_that_hangs_is_cut_off(executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would keep the loop's thread from leaving, and the executor from its end (B5, F1)."""
    monkeypatch.setattr(loop, "_GRACE", 0.01)
    answer = Answer(aclose=lambda: hang(begun, cut_off))
    begun, cut_off = Event(), Event()
    future = executor.submit(failing(answer))
    assert begun.wait(TIMEOUT)
    assert cut_off.wait(TIMEOUT)
    assert future.cancel()


async def hang(begun: Event, cut_off: Event) -> None:
    begun.set()
    try:
        await asyncio.Event().wait()
    finally:
        cut_off.set()


def test_a_call_may_cancel_the_closing(executor: RetryingExecutor) -> None:
    """It may cancel all tasks that it finds in the loop: then just that is cut off (B5, G1)."""
    answer = Answer(aclose=lambda: hang(begun, cut_off))
    begun, cut_off = Event(), Event()

    async def cancel_all() -> None:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    future = executor.submit(failing(answer))
    assert begun.wait(TIMEOUT)
    assert executor.submit(cancel_all).result(TIMEOUT) is None
    assert cut_off.wait(TIMEOUT)
    assert future.cancel()


def test_without_a_loop_nothing_is_closed() -> None:
    """The next thread of the loop may be impossible to start: no coroutine is left that would warn (B5)."""
    flights: Any = SimpleNamespace(next_to_start=lambda: None, have_landed=lambda *_: None, has_starts=False)
    unused: Any = None

    def fail() -> NoReturn:
        raise OSError("too many open files")

    thread = LoopThread(flights, threading.RLock(), NAME, is_daemon=False, new_loop=fail)
    coroutine = hang(Event(), Event())
    thread.run_aside(unused, coroutine)
    assert eventually(lambda: not thread.threads())
    assert inspect.CORO_CLOSED == inspect.getcoroutinestate(coroutine)
