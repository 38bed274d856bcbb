"""Coroutine functions: their attempts run in an event loop, and all else is as for plain functions."""

from __future__ import annotations

import asyncio
import decimal
import gc
import inspect
import logging
import re
import threading
import traceback
import types
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import FIRST_COMPLETED, CancelledError, as_completed, wait
from contextvars import ContextVar
from functools import cache, partial, wraps
from threading import Event
from typing import Any, NoReturn
from unittest.mock import AsyncMock, Mock

import pytest

from conftest import TIMEOUT, both
from observe import eventually
from retrying_executor import (
    Attempt,
    NotNow,
    PendingLimitError,
    RetryingExecutor,
    RetryingFuture,
    RetryPolicy,
    Upstream,
    current_call,
    report_weight,
)
from retrying_executor._common import log

AT_ONCE = RetryPolicy(delays=(0,) * 4)

request = ContextVar("request", default="none")


async def answer(*_: object) -> int:
    """Return what is to be known, after a while."""
    await asyncio.sleep(0)
    return 42


async def fail(error: BaseException) -> NoReturn:
    """Raise *error*, after a while."""
    await asyncio.sleep(0)
    raise error


class Waiting:
    """A coroutine function that waits until it is released or cancelled; every call adds to these lists."""

    def __init__(self) -> None:
        self.started: list[object] = []
        self.ended: list[object] = []
        self.began = Event()
        self.gates: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def __call__(self, what: object = 42) -> object:
        gate = asyncio.Event()
        self.gates.append((asyncio.get_running_loop(), gate))
        self.started.append(what)
        self.began.set()
        try:
            await gate.wait()
        finally:
            await asyncio.sleep(0)  # its end may take a while
            self.ended.append(what)
        return what

    def release(self) -> None:
        """Let all go on that have started."""
        for loop, gate in self.gates:
            if not loop.is_closed():
                loop.call_soon_threadsafe(gate.set)


# -- every kind of callable ----------------------------------------------------------------------------


class Kinds:
    """Coroutine functions of many kinds."""

    async def __call__(self, *_: object) -> int:
        return await answer()

    async def method(self, *_: object) -> int:
        return await answer()

    @classmethod
    async def of_class(cls, *_: object) -> int:
        return await answer()

    @staticmethod
    async def static(*_: object) -> int:
        return await answer()


@types.coroutine
def old_style(*_: object) -> Generator[Any, Any, int]:
    """Return the same, by a generator that serves as a coroutine."""
    yield from asyncio.sleep(0).__await__()
    return 42


class Ready:
    """What can be awaited, and is no coroutine."""

    def __await__(self) -> Generator[Any, Any, int]:
        yield from asyncio.sleep(0).__await__()
        return 42


class Marked:
    """Its instances say that they are coroutine functions, as some libraries have it."""

    def __init__(self, returns: object) -> None:
        self._is_coroutine = object()
        self._returns = returns

    def __call__(self, *_: object) -> Any:
        return self._returns


def compiled(fn: Any, code: object = None) -> Any:
    """Return a function as a compiler makes it: its type says what its code is, and is none of Python's."""
    return type("Compiled", (), {"__call__": staticmethod(partial(fn)), "__code__": code or fn.__code__})()


KINDS: list[Any] = [
    answer,
    partial(answer, 1),
    partial(partial(answer), 1),
    Kinds(),
    Kinds().__call__,
    Kinds().method,
    Kinds.of_class,
    Kinds.static,
    vars(Kinds)["static"],
    AsyncMock(return_value=42),
    partial(AsyncMock(spec=answer, return_value=42), 1),
    AsyncMock(**{"method.return_value": 42}).method,
    old_style,
    Marked(Ready()),
    getattr(inspect, "markcoroutinefunction", lambda fn: Kinds())(Marked(Ready())),
    compiled(answer),
    types.MethodType(compiled(answer), 1),
]


@both
@pytest.mark.parametrize("fn", KINDS, ids=range(len(KINDS)))
def test_every_kind_of_coroutine_function_is_awaited(fn: Callable[..., Awaitable[int]]) -> None:
    """Whatever wraps it (K1)."""
    with RetryingExecutor(1, retry=None) as executor:
        assert 42 == executor.submit(fn, 1).result(TIMEOUT)


@both
def test_a_cached_coroutine_can_be_awaited_once() -> None:
    """What remembers results remembers the coroutine (K1)."""
    fn = cache(answer)
    with RetryingExecutor(1, retry=None) as executor:
        assert 42 == executor.submit(fn).result(TIMEOUT)
        assert "cannot reuse already awaited coroutine" == str(executor.submit(fn).exception(TIMEOUT))


@both
def test_what_cannot_be_awaited_is_an_error_of_the_call() -> None:
    """As it is with ``await`` (K1)."""
    with RetryingExecutor(1, retry=None) as executor:
        future = executor.submit(Marked(42))
        assert "await" in str(future.exception(TIMEOUT))
        assert isinstance(future.exception(), TypeError)


@pytest.mark.parametrize("fn", [Mock(return_value=42), compiled(lambda: 42), compiled(lambda: 42, 1)])
def test_what_is_no_coroutine_function_is_called(fn: Any) -> None:
    """Attributes that an object makes up are not believed (A2, K1)."""
    with RetryingExecutor(1, retry=None) as executor:
        assert 42 == executor.submit(fn).result(TIMEOUT)


def test_map_awaits(executor: RetryingExecutor) -> None:
    """And keeps the order (A2, K1)."""

    async def double(number: int) -> int:
        await asyncio.sleep(0.001 * (number % 3))
        return 2 * number

    assert [0, 2, 4, 6, 8] == list(executor.map(double, range(5)))


def test_a_plain_function_that_returns_a_coroutine_is_warned_of_once(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its result is the coroutine, as with the standard executor (A3, K1)."""

    @wraps(answer)
    def plain() -> Coroutine[Any, Any, int]:
        return answer()

    monkeypatch.setattr(log, "_returning_coroutines", set())
    for fn in (plain, plain, partial(plain), lambda: answer(), compiled(lambda: answer(), code=1)):
        assert 42 == asyncio.run(executor.submit(fn).result(TIMEOUT))
    messages = [record.getMessage() for record in caplog.records if "kind" in vars(record)]
    assert 3 == len(messages)
    assert messages[0].startswith(f"{__name__}.answer returned a coroutine, which is the result of the call")


@pytest.mark.parametrize("is_future", [True, False])
def test_other_awaitables_are_results_like_others(executor: RetryingExecutor, is_future: bool) -> None:
    """A future belongs to a loop that the executor does not know (A3)."""
    loop = asyncio.new_event_loop()
    made = loop.create_future() if is_future else Ready()
    assert made is executor.submit(lambda: made).result(TIMEOUT)
    loop.close()


# -- retries -------------------------------------------------------------------------------------------


@both
def test_a_coroutine_is_retried() -> None:
    """Until it gets through (B1, K1)."""

    async def call(what: str) -> str:
        current = current_call()
        assert current is not None
        seen.append((current.attempt, current.key, current.time_left is not None, current.label))
        await asyncio.sleep(0.001)
        if len(seen) < 3:
            raise ConnectionError
        return what

    seen: list[Any] = []
    with RetryingExecutor(1, retry=AT_ONCE) as executor:
        future = executor.with_options(label="red", key="k").submit(call, "yes")
        assert "yes" == future.result(TIMEOUT)
        assert [(number, "k", True, "red") for number in (1, 2, 3)] == seen
        assert 3 == future.attempts
        assert None is future.last_exception
        stats = executor.stats()
    assert (1, 2, 0) == (stats.succeeded, stats.retried, stats.running)


@both
def test_a_coroutine_that_fails_for_good_has_its_own_exception() -> None:
    """With its traceback, and a note that says why no attempt followed (B3, K1)."""

    async def inner() -> NoReturn:
        await asyncio.sleep(0)
        raise error

    async def call() -> None:
        await inner()

    error = ConnectionError("no")
    with RetryingExecutor(1, retry=RetryPolicy(max_attempts=100, delays=(0,) * 99)) as executor:
        future = executor.submit(call)
        assert error is future.exception(TIMEOUT) is future.last_exception
        assert 100 == future.attempts
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert ["call", "inner"] == names
    (note,) = error.__notes__  # type: ignore[attr-defined]  # known from Python 3.11 on
    assert note.startswith("retrying_executor: gave up after 100 attempts")


@both
@pytest.mark.parametrize("how", ["not now", "asked", "result", "policy"])
def test_policies_see_how_a_coroutine_ended(how: str) -> None:
    """Exceptions, answers of "not now" and results alike (B1, B8, U2, U3)."""

    class ThrottledError(Exception):
        """Says when to come back, as exceptions of clients do."""

        retry_after = 0.001

    async def call() -> int:
        calls.append(1)
        await asyncio.sleep(0)
        if len(calls) == 1 and how == "not now":
            raise NotNow(after=0)
        if len(calls) == 1 and how == "asked":
            raise ThrottledError
        if len(calls) == 1 and how == "policy":
            raise LookupError
        return len(calls)

    def policy(attempt: Attempt) -> NoReturn:
        raise ZeroDivisionError

    calls: list[int] = []
    retry: Any = {
        "result": RetryPolicy(retry_result=lambda result: result < 2, delays=(0,)),
        "policy": policy,
    }
    with RetryingExecutor(1, retry=retry.get(how, RetryPolicy(delays=(0,)))) as executor:
        future = executor.submit(call)
        if how == "policy":
            assert isinstance(future.exception(TIMEOUT), ZeroDivisionError)
            assert isinstance(future.exception().__cause__, LookupError)  # type: ignore[union-attr]  # see above
        else:
            assert 2 == future.result(TIMEOUT) == future.attempts


@both
@pytest.mark.parametrize(
    "options", [{"max_elapsed": 0.05}, {"max_attempts": 2}, {"max_age": 0.05}], ids=lambda value: str(value)
)
def test_limits_end_the_attempts_of_a_coroutine(options: dict[str, Any]) -> None:
    """Its own exception is the outcome (B6, B12)."""

    async def call() -> NoReturn:
        await asyncio.sleep(0.02)
        raise ConnectionError

    policy = RetryPolicy(initial_delay=0.01, max_delay=0.01, jitter=False, **{"max_attempts": 50, **options})
    with RetryingExecutor(1, retry=policy) as executor:
        future = executor.submit(call)
        assert isinstance(future.exception(TIMEOUT), ConnectionError)
        assert 1 <= future.attempts <= 6


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), asyncio.CancelledError()],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_exception_is_an_outcome_and_never_retried(error: BaseException) -> None:
    """The loop, its thread and other coroutines go on (B4, K1)."""
    waiting = Waiting()
    with RetryingExecutor(2, retry=AT_ONCE) as executor:
        other = executor.submit(waiting)
        assert waiting.began.wait(TIMEOUT)
        future = executor.submit(fail, error)
        assert error is future.exception(TIMEOUT)
        assert 1 == future.attempts
        assert "fail" == traceback.extract_tb(error.__traceback__)[-1].name
        waiting.release()
        assert 42 == other.result(TIMEOUT)


def test_a_task_that_the_program_cancels_has_that_outcome(executor: RetryingExecutor) -> None:
    """It is no failure that another attempt would mend, and the future is not cancelled (B4)."""

    async def call() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    future = executor.submit(call)
    assert isinstance(future.exception(TIMEOUT), asyncio.CancelledError)
    assert not future.cancelled()
    assert 1 == future.attempts


def test_a_call_in_backoff_holds_no_coroutine(executor: RetryingExecutor) -> None:
    """It waits as a plain call does (B5, B10)."""
    policy = RetryPolicy(initial_delay=3600, max_delay=3600, max_elapsed=None, jitter=False)
    error = ConnectionError()
    future = executor.with_options(retry=policy).submit(fail, error)
    assert eventually(lambda: future.due_at)
    assert error is future.last_exception
    assert (0, 1) == (executor.stats().running, executor.stats().in_backoff)
    assert future.cancel()


# -- contexts ------------------------------------------------------------------------------------------


def test_an_attempt_sees_the_context_of_its_submitter(executor: RetryingExecutor) -> None:
    """And none sees what another has set (B11)."""

    async def call() -> list[object]:
        before = request.get()
        request.set(f"{before}!")
        decimal.getcontext().prec += 1
        await asyncio.sleep(0)
        seen.append(before)
        if len(seen) < 2:
            raise ConnectionError
        return [before, request.get(), decimal.getcontext().prec]

    seen: list[str] = []
    token = request.set("mine")
    precision = decimal.getcontext().prec
    try:
        future = executor.submit(call)
    finally:
        request.reset(token)
    assert ["mine", "mine!", precision + 1] == future.result(TIMEOUT)
    assert ["mine", "mine"] == seen
    assert precision == decimal.getcontext().prec


def test_contexts_need_not_be_inherited() -> None:
    """Then each attempt begins with an empty one (B11)."""

    async def call() -> str:
        return request.get()

    token = request.set("mine")
    with RetryingExecutor(1, inherit_context=False) as executor:
        assert "none" == executor.submit(call).result(TIMEOUT)
    request.reset(token)


def test_current_call_is_that_of_the_coroutine(executor: RetryingExecutor) -> None:
    """Also in its tasks and in threads that it waits for; not in what outlives it, nor elsewhere (K1)."""

    def key() -> str | None:
        current = current_call()
        return None if current is None else current.key

    async def task() -> str | None:
        return key()

    async def late(over: asyncio.Event) -> str | None:
        await over.wait()
        return key()

    async def call() -> list[str | None]:
        over = asyncio.Event()
        kept.append((asyncio.get_running_loop(), over, asyncio.ensure_future(late(over))))
        here = key()
        plain = await asyncio.wrap_future(executor.submit(key))
        inner = await asyncio.wrap_future(executor.submit(task))
        assert None not in (plain, inner)
        assert 3 == len({here, plain, inner})
        return [here, await asyncio.ensure_future(task()), await asyncio.to_thread(key)]

    async def see(late: Awaitable[object], over: asyncio.Event) -> object:
        over.set()
        return await late

    kept: list[Any] = []
    future = executor.submit(call)
    assert [future.key] * 3 == future.result(TIMEOUT)
    ((_, over, task_left),) = kept
    assert None is executor.submit(see, task_left, over).result(TIMEOUT)
    assert None is current_call()


# -- upstreams and limits ------------------------------------------------------------------------------


def test_an_upstream_counts_coroutines_until_they_have_ended() -> None:
    """However they end (U4)."""

    async def call(number: int) -> int:
        running.append(number)
        most.append(len(running))
        try:
            await asyncio.sleep(0.001)
            if errors and number % 3 == 0:
                raise errors.pop()
            return number
        finally:
            running.remove(number)

    errors = [LookupError(), NotNow(after=0, only_this_call=True), KeyboardInterrupt(), SystemExit()]
    running: list[int] = []
    most: list[int] = []
    upstream = Upstream("x", max_concurrency=3)
    policy = RetryPolicy(delays=(0,), give_up_on=LookupError)
    with RetryingExecutor(2, retry=policy, upstream=upstream) as executor:
        futures = [executor.submit(call, number) for number in range(30)]
        assert 30 == len(wait(futures, TIMEOUT).done)
        assert 3 == sum(future.exception() is not None for future in futures)
        assert eventually(lambda: 0 == upstream.in_flight)
    assert 3 == max(most)


def test_permits_come_back_when_coroutines_are_cancelled() -> None:
    """Once they have ended, which their ``finally`` may put off (K3, U4)."""
    waiting = Waiting()
    account, tenant = Upstream("account", max_concurrency=2), Upstream("tenant", max_concurrency=1)
    with RetryingExecutor(2, retry=None, upstream=(account, tenant)) as executor:
        futures = [executor.submit(waiting, number) for number in range(5)]
        for number in range(4):
            assert eventually(lambda: number in waiting.started)  # noqa: B023  # called here
            assert futures[number].cancel()
        assert eventually(lambda: 4 in waiting.started)
        assert [0, 1, 2, 3] == waiting.ended
        assert (1, 1) == (account.in_flight, tenant.in_flight)
        waiting.release()
        assert 4 == futures[4].result(TIMEOUT)
    assert (0, 0) == (account.in_flight, tenant.in_flight)


def test_a_coroutine_corrects_its_weight() -> None:
    """What it leaves of the budget is free for others at once (U4)."""

    async def call() -> None:
        report_weight(1)
        await asyncio.sleep(0)

    upstream = Upstream("x", budget=(10, 3600))
    with RetryingExecutor(2, retry=None, upstream=upstream) as executor:
        view = executor.with_options(weight=6)
        assert [None] * 4 == [view.submit(call).result(TIMEOUT) for _ in range(4)]
        assert 42 == view.submit(answer).result(TIMEOUT)


def test_a_service_that_fails_is_held_and_probed_by_coroutines() -> None:
    """As by plain calls (U5)."""

    async def call(number: int) -> int:
        calls.append(number)
        fails = len(calls) <= 2  # before others begin meanwhile
        await asyncio.sleep(0)
        if fails:
            raise ConnectionError
        return number

    calls: list[int] = []
    upstream = Upstream("x", hold_after=2, initial_hold=0.01)
    with RetryingExecutor(1, retry=AT_ONCE, upstream=upstream) as executor:
        futures = [executor.submit(call, number) for number in range(6)]
        assert list(range(6)) == [future.result(TIMEOUT) for future in futures]
    assert "held" != upstream.state


@pytest.mark.parametrize("of_upstream", [True, False])
def test_a_coroutine_never_waits_for_room_in_its_own_executor(of_upstream: bool) -> None:
    """It would keep all others from making room (G5, U6, F7)."""

    async def call() -> str:
        with pytest.raises(PendingLimitError, match="own threads cannot wait"):
            executor.submit(answer)
        return "full"

    limits: dict[str, Any] = {"upstream": Upstream("x", max_pending=1)} if of_upstream else {"max_pending": 1}
    with RetryingExecutor(1, retry=None, when_full="wait", **limits) as executor:
        for _ in range(3):
            assert "full" == executor.submit(call).result(TIMEOUT)


def test_a_submitter_waits_until_a_coroutine_has_ended() -> None:
    """A coroutine counts as pending while it runs (G5)."""
    waiting = Waiting()
    submitted: list[RetryingFuture[int]] = []
    with RetryingExecutor(1, retry=None, max_pending=2, when_full="wait") as executor:
        futures = [executor.submit(waiting, number) for number in range(2)]
        assert eventually(lambda: 2 == len(waiting.started))
        submitter = threading.Thread(target=lambda: submitted.append(executor.submit(answer)))
        submitter.start()
        assert eventually(lambda: executor._core.entrance._in_line)
        assert [] == submitted
        waiting.release()
        submitter.join(TIMEOUT)
        assert [42, 0, 1] == [future.result(TIMEOUT) for future in (*submitted, *futures)]


def test_coroutines_wait_for_calls_of_their_own_executor() -> None:
    """A single worker makes them meanwhile, since coroutines keep none (K1, F7)."""

    async def call(depth: int) -> int:
        if depth == 0:
            return await asyncio.wrap_future(executor.submit(int))
        return 1 + await asyncio.wrap_future(executor.submit(call, depth - 1))

    with RetryingExecutor(1, retry=None) as executor:
        assert [10] * 20 == [
            future.result(TIMEOUT) for future in [executor.submit(call, 10) for _ in range(20)]
        ]


# -- a limit for coroutines ----------------------------------------------------------------------------


def test_no_more_coroutines_run_than_may() -> None:
    """Others wait in a thread each, and then in the queue (K1)."""

    async def call(number: int) -> int:
        running.append(number)
        most.append(len(running))
        await asyncio.sleep(0.001)
        running.remove(number)
        return number

    running: list[int] = []
    most: list[int] = []
    with RetryingExecutor(2, retry=None, max_coroutines=3) as executor:
        assert list(range(30)) == list(executor.map(call, range(30)))
    assert 3 == max(most)


@pytest.mark.parametrize("is_observed", [True, False])
@pytest.mark.parametrize("how", ["cancel", "result", "shutdown"])
def test_a_call_that_waits_for_its_place_can_be_ended(how: str, is_observed: bool) -> None:
    """Its coroutine never runs, and its thread goes on (K1, K3)."""
    events: list[object] = []
    waiting = Waiting()
    executor = RetryingExecutor(
        2, retry=None, max_coroutines=1, on_event=events.append if is_observed else None
    )
    first = executor.submit(waiting, 1)
    assert waiting.began.wait(TIMEOUT)
    second = executor.submit(waiting, 2)
    assert eventually(second.running)
    if how == "cancel":
        assert second.cancel()
        assert second.cancelled()
    elif how == "result":
        second.set_result(7)
        assert 7 == second.result(TIMEOUT)
    else:
        executor.shutdown(timeout=0)
        assert first.cancelled()
        assert second.cancelled()
    assert how == "shutdown" or 0 == executor.submit(int).result(TIMEOUT)
    waiting.release()
    assert how == "shutdown" or 1 == first.result(TIMEOUT)
    executor.shutdown()
    assert [1] == waiting.started == waiting.ended


# -- cancelling ----------------------------------------------------------------------------------------


def test_a_running_coroutine_is_cancelled(executor: RetryingExecutor) -> None:
    """The future at once, the coroutine a moment later: its ``finally`` runs (K3)."""
    waiting = Waiting()
    told: list[object] = []
    future = executor.submit(waiting)
    others = [executor.submit(waiting, number) for number in range(3)]
    assert eventually(lambda: 4 == len(waiting.started))
    future.add_done_callback(told.append)
    assert future.running()
    assert future.cancel()
    assert future.cancelled()
    assert not future.running()
    assert [future] == told == list(wait([future, *others], TIMEOUT, FIRST_COMPLETED).done)
    with pytest.raises(CancelledError):
        future.result(TIMEOUT)
    assert eventually(lambda: [42] == waiting.ended)
    assert future.cancel()
    waiting.release()
    assert {0, 1, 2} == {future.result() for future in as_completed(others, TIMEOUT)}
    stats = executor.stats()
    assert (4, 1, 3) == (stats.submitted, stats.cancelled, stats.succeeded)


@pytest.mark.parametrize("outcome", [7, ValueError()], ids=["result", "exception"])
def test_an_outcome_from_outside_cancels_the_coroutine(executor: RetryingExecutor, outcome: object) -> None:
    """As `cancel` does (K3)."""
    waiting = Waiting()
    future = executor.submit(waiting)
    assert waiting.began.wait(TIMEOUT)
    if isinstance(outcome, ValueError):
        future.set_exception(outcome)
        assert outcome is future.exception(TIMEOUT)
    else:
        future.set_result(outcome)
        assert outcome == future.result(TIMEOUT)
    assert eventually(lambda: [42] == waiting.ended)


@pytest.mark.parametrize("ending", ["returns", "raises", "goes on"])
def test_a_coroutine_may_suppress_that_it_is_cancelled(executor: RetryingExecutor, ending: str) -> None:
    """Its future is cancelled all the same, and the coroutine is left to itself (K3)."""

    async def call() -> str:
        try:
            began.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if ending == "raises":
                over.set()
                raise ConnectionError from None
            if ending == "goes on":
                await asyncio.sleep(0.01)
        over.set()
        return "done"

    began, over = Event(), Event()
    future = executor.submit(call)
    assert began.wait(TIMEOUT)
    assert future.cancel()
    assert over.wait(TIMEOUT)
    assert eventually(lambda: 0 == len(executor._core.crew.hands()) - executor.stats().threads)
    assert future.cancelled()
    assert 1 == future.attempts


def test_a_coroutine_cancels_itself_and_others(executor: RetryingExecutor) -> None:
    """That reaches it where it waits next (K3, F7)."""

    async def call() -> None:
        await asyncio.wrap_future(known)
        for future in futures:
            cancelled.append(future.cancel())
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(current_call() is None)

    known: RetryingFuture[int]
    gate, cancelled = Waiting(), []  # type: ignore[var-annotated]
    known = executor.submit(gate)  # type: ignore[arg-type]  # an object
    other = executor.submit(Waiting())
    futures = [executor.submit(call), other]
    assert gate.began.wait(TIMEOUT)
    gate.release()
    assert 2 == len(wait(futures, TIMEOUT).done)
    assert all(future.cancelled() for future in futures)
    assert eventually(lambda: [True, True, True] == cancelled)


def test_asyncio_cancels_a_coroutine_through_its_future(executor: RetryingExecutor) -> None:
    """As ``asyncio.wrap_future`` does it in the loop of the program (A3, K3)."""

    async def main() -> None:
        future = asyncio.wrap_future(executor.submit(waiting))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(future, 0.05)

    waiting = Waiting()
    asyncio.run(main())
    assert eventually(lambda: len(waiting.started) == len(waiting.ended))


def test_a_coroutine_that_is_cancelled_before_it_starts_never_runs() -> None:
    """The loop is busy when it comes, and when it is cancelled (K3)."""

    async def block() -> None:
        blocked.set()
        assert release.wait(TIMEOUT)

    blocked, release, waiting = Event(), Event(), Waiting()
    with RetryingExecutor(1, retry=None) as executor:
        blocking = executor.submit(block)
        assert blocked.wait(TIMEOUT)
        future = executor.submit(waiting)
        assert eventually(lambda: 2 == len(executor._core.crew.hands()) - executor.stats().threads)
        assert future.cancel()
        release.set()
        assert None is blocking.result(TIMEOUT)
    assert [] == waiting.started


def test_a_coroutine_that_is_cancelled_while_it_leaves_its_worker_never_runs() -> None:
    """Its function cancels the call before it returns the coroutine (K3)."""

    def call() -> Any:
        assert known.wait(TIMEOUT)
        assert futures[0].cancel()
        return waiting()

    known, waiting, futures = Event(), Waiting(), []  # type: ignore[var-annotated]
    marked: Any = Marked(None)
    marked = type("Slow", (), {"__call__": staticmethod(partial(call)), "_is_coroutine": None})()
    marked._is_coroutine = object()
    with RetryingExecutor(1, retry=None) as executor:
        futures.append(executor.submit(marked))
        known.set()
        assert 0 == executor.submit(int).result(TIMEOUT)
        assert futures[0].cancelled()
    assert [] == waiting.started


# -- nothing is kept -----------------------------------------------------------------------------------


class Argument:
    """What can be referred to weakly."""


@pytest.mark.parametrize("how", ["returns", "raises", "cancelled"])
def test_arguments_are_released_when_a_coroutine_has_ended(executor: RetryingExecutor, how: str) -> None:
    """Without the collector (G2)."""

    async def call(argument: Argument) -> None:
        began.set()
        if how == "raises":
            raise KeyError
        if how == "cancelled":
            await asyncio.Event().wait()

    began, argument = Event(), Argument()
    gone = weakref.ref(argument)
    gc.collect()
    gc.disable()
    try:
        future = executor.with_options(retry=None).submit(call, argument)
        del argument
        assert began.wait(TIMEOUT)
        if how == "cancelled":
            assert future.cancel()
        else:
            wait([future], TIMEOUT)
            assert (how == "raises") is (future.exception() is not None)
        if how == "raises":
            del future
        assert eventually(lambda: gone() is None)
    finally:
        gc.enable()


# -- threads -------------------------------------------------------------------------------------------


def loops_threads() -> list[threading.Thread]:
    """Return the threads of event loops that run."""
    return [thread for thread in threading.enumerate() if re.match(r"RetryingExecutor.*_loop$", thread.name)]


def test_plain_calls_need_no_loop(executor: RetryingExecutor) -> None:
    """It comes with the first coroutine function (C1, K1)."""
    assert [] == loops_threads()
    assert 0 == executor.submit(int).result(TIMEOUT)
    assert None is executor._core.crew.flights.thread  # type: ignore[attr-defined]  # of `Threads`
    assert 42 == executor.submit(answer).result(TIMEOUT)
    assert 1 == len(loops_threads())


def test_there_is_one_loop_and_one_thread_however_many_submit() -> None:
    """Also where threads leave at once (K1, K2)."""

    async def call() -> object:
        seen.append(len(loops_threads()))
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    def submit() -> None:
        found.extend(executor.submit(call).result(TIMEOUT) for _ in range(20))

    seen: list[int] = []
    found: list[object] = []
    with RetryingExecutor(4, retry=None, idle_timeout=0) as executor:
        submitters = [threading.Thread(target=submit) for _ in range(10)]
        for submitter in submitters:
            submitter.start()
        for submitter in submitters:
            submitter.join(TIMEOUT)
        assert 200 == len(found)
        assert 1 == len(set(found))
        assert eventually(lambda: [] == loops_threads())
    assert 2 >= max(seen)  # the one before may be leaving


def test_a_failing_initializer_breaks_the_executor(caplog: pytest.LogCaptureFixture) -> None:
    """No coroutine is run then (C6)."""

    def refuse() -> NoReturn:
        raise LookupError

    waiting = Waiting()
    with RetryingExecutor(1, initializer=refuse) as executor:
        assert "BrokenThreadPool" == type(executor.submit(waiting).exception(TIMEOUT)).__name__
    assert [] == waiting.started
    assert logging.CRITICAL == caplog.records[0].levelno


# -- ends ----------------------------------------------------------------------------------------------


def test_drain_and_shutdown_in_a_coroutine_do_not_wait_for_it() -> None:
    """They would wait for themselves (F3, F7)."""

    async def call() -> str:
        with pytest.raises(RuntimeError, match=r"drain\(\) in one of the executor's own threads would wait"):
            executor.drain()
        executor.shutdown()
        executor.shutdown(timeout=1)
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.submit(answer)
        return "went on"

    executor = RetryingExecutor(1)
    assert "went on" == executor.submit(call).result(TIMEOUT)
    executor.shutdown()


def test_shutdown_waits_for_coroutines_and_their_retries() -> None:
    """Drained or not (F1, F3)."""

    async def call(number: int) -> int:
        attempts.append(number)
        await asyncio.sleep(0.001)
        if attempts.count(number) < 3:
            raise ConnectionError
        return number

    attempts: list[int] = []
    executor = RetryingExecutor(1, retry=RetryPolicy(delays=(0.001,) * 2))
    futures = [executor.submit(call, number) for number in range(4)]
    assert executor.drain(TIMEOUT)
    assert all(future.done() for future in futures)
    futures += [executor.submit(call, number) for number in range(4, 8)]
    executor.shutdown()
    assert list(range(8)) == [future.result(0) for future in futures]


def test_cancel_futures_spares_coroutines_that_run() -> None:
    """Their outcome stands, and no other attempt follows (F2)."""
    waiting = Waiting()
    executor = RetryingExecutor(1, retry=AT_ONCE, upstream=Upstream("x", max_concurrency=1))
    first, second = executor.submit(waiting), executor.submit(answer)
    assert waiting.began.wait(TIMEOUT)
    executor.shutdown(wait=False, cancel_futures=True)
    assert second.cancelled()
    assert not first.done()
    waiting.release()
    assert 42 == first.result(TIMEOUT)
    executor.shutdown()


def test_shutdown_that_has_run_out_of_time_cancels_coroutines(caplog: pytest.LogCaptureFixture) -> None:
    """Their ``finally`` runs, and nothing is left running (K3, F3)."""
    waiting = Waiting()
    upstream = Upstream("x", max_concurrency=3)
    executor = RetryingExecutor(1, retry=AT_ONCE, upstream=upstream)
    futures = [executor.submit(waiting, number) for number in range(5)]
    assert eventually(lambda: 3 == len(waiting.started))
    executor.shutdown(timeout=0)
    assert [0, 1, 2] == sorted(waiting.ended)  # type: ignore[type-var]  # numbers
    assert all(future.cancelled() for future in futures)
    assert [] == loops_threads()
    assert 0 == upstream.in_flight
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith(": 5 waiting calls cancelled, none still running")


def test_shutdown_that_has_run_out_of_time_names_what_stays(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coroutine may refuse to end, and a plain call does not notice (K3, F3)."""

    async def stay() -> None:
        while not over.is_set():
            try:
                began.set()
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                continue

    began, over = Event(), Event()
    monkeypatch.setattr("retrying_executor._threads.threads._LANDING_TIMEOUT", 0.01)
    executor = RetryingExecutor(2, retry=None)
    stays, plain = executor.submit(stay), executor.submit(over.wait)
    assert began.wait(TIMEOUT)
    assert eventually(plain.running)
    executor.shutdown(timeout=0)
    assert stays.cancelled()
    assert not plain.done()
    over.set()
    executor.shutdown()
    assert plain.result(0)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith(f"still running: {__name__}.{stay.__qualname__}, threading.Event.wait")


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt])
def test_a_block_that_is_left_by_an_exception_ends_coroutines(
    error: type[BaseException], quiet: None
) -> None:
    """After the time that it has; after Ctrl-C those that run have all the time that they need (F8)."""

    def leave() -> None:
        with RetryingExecutor(1, retry=None, exit_timeout=0.01 if error is LookupError else None) as executor:
            futures.append(executor.submit(waiting))
            assert waiting.began.wait(TIMEOUT)
            if error is KeyboardInterrupt:
                waiting.release()
            raise error

    waiting = Waiting()
    futures: list[RetryingFuture[object]] = []
    with pytest.raises(error):
        leave()
    assert [42] == waiting.ended
    assert (error is LookupError) is futures[0].cancelled()


def test_an_executor_that_is_dropped_finishes_its_coroutines() -> None:
    """Then its threads go (F5)."""
    waiting = Waiting()
    future = RetryingExecutor(1).submit(waiting)
    assert waiting.began.wait(TIMEOUT)
    waiting.release()
    assert 42 == future.result(TIMEOUT)
    assert eventually(lambda: [] == loops_threads())
