"""Calls that are made where they stand: `RetryPolicy` as a decorator, and inline."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import logging
import signal
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import Context, ContextVar
from functools import partial
from threading import Event
from typing import Any

import pytest

from calls import Flaky, Meeting
from conftest import TIMEOUT
from observe import eventually
from retrying_executor import (
    Inline,
    NotNow,
    PendingLimitError,
    RetryingExecutor,
    RetryPolicy,
    Upstream,
    current_call,
    report_weight,
)
from retrying_executor._core.settling import Settling
from retrying_executor._core.turns import Turns
from retrying_executor.testing import VirtualTimeExecutor

AT_ONCE = RetryPolicy(delays=(0,) * 4)
NEVER = RetryPolicy(initial_delay=3600, max_delay=3600, jitter=False, max_elapsed=None)
request = ContextVar("request", default="none")


class Answer:
    """An HTTP answer of an asynchronous client."""

    status_code = 503
    headers: dict[str, str]
    is_closed = False

    def __init__(self) -> None:
        self.headers = {}

    close = dict  # it can be called, and is not: that would need no event loop

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.is_closed = True


class FailedError(Exception):
    """What a client raises for an answer."""

    def __init__(self, response: Answer) -> None:
        super().__init__("503")
        self.response = response


def awaited(call: Callable[..., object]) -> Callable[..., Any]:
    """Return a coroutine function that does what *call* does, a moment later."""

    async def fn(*args: object, **kwargs: object) -> object:
        await asyncio.sleep(0)
        return call(*args, **kwargs)

    return fn


def make(inline: RetryPolicy | Inline, call: Callable[..., object], *args: object) -> Any:
    """Make a call in this thread."""
    return inline.call(call, *args)


def make_in_loop(inline: RetryPolicy | Inline, call: Callable[..., object], *args: object) -> Any:
    """Make a call of a coroutine function in an event loop."""
    return asyncio.run(inline.call(awaited(call), *args))


kinds = pytest.mark.parametrize("make", [make, make_in_loop])

# -- what becomes of a call ------------------------------------------------------------------------------


@kinds
def test_a_call_is_made_again_until_it_gets_through(make: Callable[..., Any]) -> None:
    """As often as the policy says, and its result is returned."""
    assert 3 == make(AT_ONCE, Flaky(3))


@kinds
def test_the_last_exception_is_raised_with_a_note(make: Callable[..., Any]) -> None:
    """It is the call's own, and says how many attempts there were, and why no other follows."""
    flaky = Flaky(5)
    with pytest.raises(ConnectionError, match="not yet") as raised:
        make(AT_ONCE, flaky)
    assert 5 == flaky.attempts
    [note] = raised.value.__notes__
    assert note.startswith("retrying_executor: gave up after 5 attempts in ")
    assert note.endswith(": all 5 attempts are used")


@kinds
def test_verdicts_are_those_of_an_executor(make: Callable[..., Any]) -> None:
    """What another attempt cannot help is final, and "not now" uses up no attempt."""
    asked = iter([NotNow(after=0), NotNow(after=0), ConnectionError(), PermissionError("final")])

    def call() -> None:
        raise next(asked)

    with pytest.raises(PermissionError, match="final") as raised:
        make(RetryPolicy(max_attempts=2, initial_delay=0, give_up_on=PermissionError), call)
    assert raised.value.__notes__[0].endswith("it is in give_up_on")


@kinds
def test_rejected_results_are_failures(make: Callable[..., Any]) -> None:
    """When no attempt is left, the last one is returned."""
    results = iter(range(10))
    assert 2 == make(RetryPolicy(delays=(0, 0), retry_result=lambda _: True), lambda: next(results))


@kinds
def test_a_policy_that_fails_is_raised(make: Callable[..., Any]) -> None:
    """Its cause is what the call raised."""

    def explode(error: Exception) -> bool:
        raise ZeroDivisionError("the policy")

    with pytest.raises(ZeroDivisionError, match="the policy") as raised:
        make(RetryPolicy(retry_on=explode), Flaky())
    assert "not yet" == str(raised.value.__cause__)


@kinds
def test_what_is_no_exception_is_never_retried(make: Callable[..., Any]) -> None:
    """Neither is `SystemExit`, and it is raised here at once."""
    exits = iter(range(5))

    def leave() -> None:
        raise SystemExit(next(exits))

    with pytest.raises(SystemExit) as raised:
        make(AT_ONCE, leave)
    assert 0 == raised.value.code


@kinds
def test_retries_are_logged(make: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """With what tells the call apart."""
    caplog.set_level(logging.INFO, "retrying_executor")
    make(AT_ONCE.inline(label="invoice 17", key="order-17"), Flaky())
    [record] = caplog.records
    assert "invoice 17" in record.getMessage()
    assert "order-17" in record.getMessage()
    assert "inline" == record.__dict__["executor"]


class Argument:
    """What a weak reference may refer to."""


def fail(argument: Argument) -> None:
    raise ConnectionError("not yet")


def test_nothing_is_kept_of_a_call_that_failed() -> None:
    """Once its exception is gone, so are its arguments, without the collector."""
    argument = Argument()
    gone = weakref.ref(argument)
    gc.disable()
    try:
        with pytest.raises(ConnectionError):
            AT_ONCE.call(fail, argument)
        del argument
        assert gone() is None
    finally:
        gc.enable()


def test_nothing_is_kept_of_a_coroutine_that_failed() -> None:
    """As of any other call."""

    async def main() -> None:
        argument = Argument()
        gone = weakref.ref(argument)
        with pytest.raises(ConnectionError):
            await AT_ONCE.call(awaited(fail), argument)
        del argument
        assert gone() is None

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


@kinds
def test_an_exception_that_is_raised_again_does_not_grow(make: Callable[..., Any]) -> None:
    """Its traceback is that of the last attempt only."""
    error = ConnectionError("not yet")

    def fail() -> None:
        raise error

    with pytest.raises(ConnectionError):
        make(AT_ONCE, fail)
    frames, traceback = 0, error.__traceback__
    while traceback is not None:
        frames += traceback.tb_frame.f_code is fail.__code__
        traceback = traceback.tb_next
    assert 1 == frames


def test_an_answer_is_closed_before_the_next_attempt() -> None:
    """A client's connection is free for others while the call waits, also if closing it takes a loop."""
    answers = [Answer(), Answer()]
    before: list[bool] = []

    async def call() -> str:
        before.append(answers[0].is_closed)
        if len(before) == 1:
            raise FailedError(answers[0])
        return "done"

    assert "done" == asyncio.run(AT_ONCE.call(call))
    assert [False, True] == before


# -- where it is made -----------------------------------------------------------------------------------


def test_attempts_run_in_the_thread_and_the_context_of_the_caller() -> None:
    """So what they set there stays, as with any function that is called."""
    flaky = Flaky()

    def call() -> int:
        request.set("inside")
        assert threading.main_thread() is threading.current_thread()
        return flaky()

    token = request.set("outside")
    assert 1 == AT_ONCE.call(call)
    assert "inside" == request.get()
    request.reset(token)


def test_attempts_run_in_the_task_of_the_caller() -> None:
    """In its context, too."""

    async def main() -> None:
        task, flaky = asyncio.current_task(), Flaky()

        async def call() -> int:
            await asyncio.sleep(0)
            request.set("inside")
            assert task is asyncio.current_task()
            return flaky()

        assert 1 == await AT_ONCE.call(call)
        assert "inside" == request.get()

    asyncio.run(main())


@kinds
def test_a_call_can_ask_about_itself(make: Callable[..., Any]) -> None:
    """By `current_call`, as in an executor."""
    flaky = Flaky()

    def call() -> object:
        flaky()
        return current_call()

    found = make(AT_ONCE.inline(label="invoice 17", key="order-17"), call)
    assert (2, "order-17", "invoice 17") == (found.attempt, found.key, found.label)
    assert current_call() is None


def test_a_call_in_a_call_leaves_that_as_it_was() -> None:
    """A call of an executor may make others inline."""

    def call() -> list[str]:
        keys = []
        for inner in (int, Flaky(), int):
            AT_ONCE.call(inner)
            now = current_call()
            assert now is not None
            keys.append(now.key)
        return keys

    with RetryingExecutor(1) as executor:
        future = executor.submit(call)
        assert [future.key] * 3 == future.result()


# -- what is decorated ------------------------------------------------------------------------------------


def test_a_decorated_function_is_like_the_function() -> None:
    """It has its name, and takes what it takes, under whatever name."""

    @AT_ONCE
    def add(self: int, fn: int = 2) -> int:
        """Add."""
        return self + fn

    assert ("add", "Add.") == (add.__name__, add.__doc__)
    assert ["self", "fn"] == list(inspect.signature(add).parameters)
    assert 5 == add(self=3)
    assert 7 == add(3, fn=4)


def test_a_decorated_coroutine_function_is_one() -> None:
    """Frameworks that ask find out."""
    flaky = Flaky()

    @AT_ONCE.inline(label="invoice 17")
    async def call(fn: int) -> tuple[int, int]:
        await asyncio.sleep(0)
        return fn, flaky()

    assert inspect.iscoroutinefunction(call)
    assert (5, 1) == asyncio.run(call(fn=5))


def test_methods_of_all_kinds_can_be_decorated() -> None:
    """Static methods and class methods below their own decorator."""

    class Client:
        """A client of a service."""

        failures: Any = Flaky(2)

        @AT_ONCE
        def get(self, number: int) -> tuple[object, int, int]:
            return self, number, self.failures()

        @classmethod
        @AT_ONCE
        def of_class(cls) -> type[Client]:
            return cls

        @staticmethod
        @AT_ONCE
        def static(number: int) -> int:
            return number

    client = Client()
    assert (client, 4, 2) == client.get(4)
    assert Client is client.of_class()
    assert 5 == client.static(5)


def test_partials_and_callable_objects_can_be_decorated() -> None:
    """What has no name gets none."""
    assert 3 == AT_ONCE(partial(max, 3))(1)
    assert 2 == AT_ONCE(Flaky(2))()
    assert 4 == asyncio.run(AT_ONCE(partial(awaited(max), 4))(1))


def generator() -> Iterator[int]:
    """Yield a number."""
    yield 0  # pragma: no cover  # nobody iterates over it


async def asynchronous_generator() -> AsyncIterator[int]:
    """Yield a number."""
    yield 0  # pragma: no cover  # nobody iterates over it


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda: AT_ONCE(5), "attempt must be an Attempt, or a function to decorate, not 5"),  # type: ignore[call-overload]
        (lambda: AT_ONCE.inline()(5), "fn must be a function, not 5"),  # type: ignore[arg-type]
        (lambda: AT_ONCE(Flaky), "fn must be a function, not <class 'calls.Flaky'>"),
        (lambda: AT_ONCE(staticmethod(abs)), "@staticmethod belongs above the policy"),
        (lambda: AT_ONCE(classmethod(abs)), "@classmethod belongs above the policy"),  # type: ignore[call-overload,arg-type]
        (lambda: AT_ONCE(generator), "fn must not be a generator function"),
        (lambda: AT_ONCE(partial(generator)), "fn must not be a generator function"),
        (lambda: AT_ONCE(asynchronous_generator), "fn must not be a generator function"),
        (lambda: AT_ONCE.call(5), "fn is not callable: 5"),  # type: ignore[arg-type]
        (lambda: AT_ONCE.call(asynchronous_generator), "fn must not be an asynchronous generator"),
        (lambda: AT_ONCE.inline(upstream="billing"), "upstream must be"),
        (lambda: AT_ONCE.inline(weight="1"), "weight must be"),  # type: ignore[arg-type]
        (lambda: AT_ONCE.inline(label=5), "label must be"),  # type: ignore[arg-type]
        (lambda: AT_ONCE.inline(key=5), "key must be"),  # type: ignore[arg-type]
        (lambda: AT_ONCE.inline(upstreams=None), "unexpected keyword argument 'upstreams'"),  # type: ignore[call-arg]
        (lambda: copy.copy(AT_ONCE.inline()), "cannot pickle or copy 'Inline'"),
    ],
)
def test_misuse_is_refused_at_once(misuse: Callable[[], object], message: str) -> None:
    """With what was given, and what is allowed."""
    with pytest.raises(TypeError) as raised:
        misuse()
    assert message in str(raised.value)


def test_it_says_what_it_is() -> None:
    """For whoever prints it."""
    assert "RetryPolicy(max_attempts=2).inline()" == repr(RetryPolicy(max_attempts=2).inline())
    assert "RetryPolicy().inline(weight=3, label='a')" == repr(RetryPolicy().inline(weight=3, label="a"))


# -- upstreams ------------------------------------------------------------------------------------------


@kinds
def test_a_limit_is_shared_with_an_executor(make: Callable[..., Any]) -> None:
    """A call waits until the upstream has room, and its attempt starts right then."""
    billing = Upstream("billing", max_concurrency=1)
    has_begun, may_end = Event(), Event()

    def occupy() -> bool:
        has_begun.set()
        return may_end.wait(TIMEOUT)

    with RetryingExecutor(1, upstream=billing) as executor:
        occupied = executor.submit(occupy)
        assert has_begun.wait(TIMEOUT)
        asked_to_end = threading.Thread(target=lambda: eventually(lambda: _waits(billing)) and may_end.set())
        asked_to_end.start()
        assert 1 == make(AT_ONCE.inline(upstream=billing), Flaky())
        assert occupied.result(TIMEOUT)
        asked_to_end.join(TIMEOUT)
    assert 0 == billing.in_flight


def _waits(upstream: Upstream) -> bool:
    """Return whether a call waits for an upstream."""
    return bool(upstream._places._waiting)


@kinds
def test_a_held_upstream_lets_calls_through_when_it_is_resumed(make: Callable[..., Any]) -> None:
    """Until then the caller waits."""
    billing = Upstream("billing")
    billing.pause()
    resumed = threading.Thread(target=lambda: eventually(lambda: _waits(billing)) and billing.resume())
    resumed.start()
    assert 1 == make(AT_ONCE.inline(upstream=billing), Flaky())
    resumed.join(TIMEOUT)


@kinds
def test_a_call_to_an_upstream_that_stays_held_ends_in_bounded_time(make: Callable[..., Any]) -> None:
    """It was never tried, and says so."""
    billing, flaky = Upstream("billing"), Flaky()
    billing.pause()
    with pytest.raises(TimeoutError, match="never tried: the upstream billing was held"):
        make(RetryPolicy(max_elapsed=0.01).inline(upstream=billing), flaky)
    with pytest.raises(TimeoutError, match="never tried: it was submitted"):
        make(RetryPolicy(max_age=0.01).inline(upstream=billing), flaky)
    assert 0 == flaky.attempts


@kinds
def test_failures_of_a_service_hold_its_upstream(make: Callable[..., Any]) -> None:
    """Also for an executor."""
    billing = Upstream("billing", hold_after=2)
    with pytest.raises(ConnectionError):
        make(RetryPolicy(delays=(0,)).inline(upstream=billing), Flaky(5))
    assert "held" == billing.state


@kinds
def test_weights_count_for_a_budget(make: Callable[..., Any]) -> None:
    """What an attempt reports corrects its weight."""
    billing = Upstream("billing", budget=(10, 3600))

    def call() -> int:
        report_weight(10)
        return 1

    assert 1 == make(AT_ONCE.inline(upstream=billing, weight=3), call)
    with pytest.raises(TimeoutError, match="never tried"):
        make(RetryPolicy(max_age=0.01).inline(upstream=billing, weight=3), call)
    with pytest.raises(ValueError, match="weight must be at most 10"):
        make(AT_ONCE.inline(upstream=billing, weight=11), call)


@kinds
def test_a_full_upstream_refuses_calls(make: Callable[..., Any]) -> None:
    """And takes them again when a call is done."""
    billing = Upstream("billing", max_pending=1)
    inline = AT_ONCE.inline(upstream=billing)

    def call() -> bool:
        with pytest.raises(PendingLimitError):
            inline.call(int)
        return True

    assert make(inline, call)
    assert 0 == make(inline, int)


def test_an_upstream_in_virtual_time_is_refused() -> None:
    """Time passes only where its executor waits."""
    billing = Upstream("billing")
    with VirtualTimeExecutor(upstream=billing), pytest.raises(ValueError, match="virtual time"):
        AT_ONCE.inline(upstream=billing).call(int)


def test_many_tasks_share_the_limits_of_an_upstream() -> None:
    """As many run at a time as it allows, and each gets its turn."""
    most, running, peak = 3, 0, 0
    billing = Upstream("billing", max_concurrency=most)

    async def main() -> list[int]:
        meeting = Meeting(most)

        @AT_ONCE.inline(upstream=billing)
        async def call(number: int) -> int:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            if number < most:
                await meeting.all_are_here()
            await asyncio.sleep(0)
            running -= 1
            return number

        return await asyncio.gather(*(call(number) for number in range(20)))

    assert list(range(20)) == asyncio.run(main())
    assert most == peak
    assert 0 == billing.in_flight


# -- interruptions --------------------------------------------------------------------------------------


def test_ctrl_c_ends_a_call_that_waits() -> None:
    """It leaves nothing at its upstream."""
    billing = Upstream("billing", max_pending=1, max_concurrency=1)
    flaky, main, has_come = Flaky(), threading.get_ident(), Event()

    def raise_once(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        has_come.set()
        raise KeyboardInterrupt

    def press() -> None:
        assert eventually(lambda: flaky.attempts and not billing.in_flight)
        while not has_come.wait(0.01):  # a signal that comes just before a lock is waited for is not noticed
            signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, raise_once)
    pressing = threading.Thread(target=press)
    try:
        pressing.start()
        with pytest.raises(KeyboardInterrupt):
            NEVER.inline(upstream=billing).call(flaky)
        pressing.join(TIMEOUT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert 0 == billing.in_flight
    assert 1 == AT_ONCE.inline(upstream=billing).call(lambda: 1)


def test_a_task_that_waits_can_be_cancelled() -> None:
    """Between attempts, in line at an upstream, and in the middle of an attempt: nothing stays behind."""
    billing = Upstream("billing", max_pending=3, max_concurrency=1)
    inline = NEVER.inline(upstream=billing)

    async def main() -> None:
        forever, flaky = asyncio.Event(), Flaky()
        runs = asyncio.create_task(inline.call(forever.wait))
        await _until(lambda: billing.in_flight)
        in_line = asyncio.create_task(inline.call(awaited(flaky)))
        await _until(lambda: _waits(billing))
        in_backoff = asyncio.create_task(NEVER.call(awaited(flaky)))
        await _until(lambda: flaky.attempts)
        for task in (in_line, in_backoff, runs):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert 0 == billing.in_flight
        assert not _waits(billing)
        assert 2 == await inline.call(awaited(lambda: 2))

    asyncio.run(main())


async def _until(condition: Callable[[], object]) -> None:
    """Let other tasks run until a condition is met."""
    while not condition():
        await asyncio.sleep(0)


def test_a_time_limit_of_asyncio_ends_a_call() -> None:
    """As it ends any other coroutine."""

    async def main() -> None:
        with pytest.raises((TimeoutError, asyncio.TimeoutError)):
            await asyncio.wait_for(NEVER.call(awaited(Flaky())), 0.01)

    asyncio.run(main())


def test_a_loop_that_is_closed_keeps_nobody_waiting() -> None:
    """An upstream may open when the loop of a task that waited for it is gone: others get their turn."""
    billing = Upstream("billing", max_concurrency=1)
    inline = AT_ONCE.inline(upstream=billing)
    billing.pause()
    loop = asyncio.new_event_loop()
    task = loop.create_task(inline.call(awaited(int)))
    loop.run_until_complete(_until(lambda: _waits(billing)))
    loop.close()
    billing.resume()
    assert 1 == inline.call(lambda: 1)
    assert not task.done()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # nobody ends it


def test_a_call_that_is_interrupted_anywhere_leaves_its_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is neither in the queue nor running any more."""
    billing = Upstream("billing", max_pending=1, max_concurrency=1)
    inline = AT_ONCE.inline(upstream=billing)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Settling, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            inline.call(int)
    assert 0 == billing.in_flight
    assert 1 == inline.call(lambda: 1)


def test_a_signal_handler_may_resume_an_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the call that waits for it is doing just then."""
    billing = Upstream("billing", max_concurrency=1)
    billing.pause()
    take, looks = Turns.take, iter([False, True, False, False, False])

    def take_and_resume(*args: Any) -> Any:
        taken = take(*args)
        if next(looks):  # as a handler would that interrupts this thread: it holds the lock of the core
            billing.resume()
        return taken

    monkeypatch.setattr(Turns, "take", take_and_resume)
    assert 1 == AT_ONCE.inline(upstream=billing).call(lambda: 1)


def test_a_coroutine_may_be_closed_in_another_context() -> None:
    """As the collector does it."""

    async def begin() -> Any:
        forever = asyncio.Event()
        coroutine: Any = AT_ONCE.call(forever.wait)
        coroutine.send(None)
        return coroutine

    coroutine = asyncio.run(begin())
    Context().run(coroutine.close)
    assert not coroutine.cr_running


def test_the_innermost_call_is_the_current_one() -> None:
    """A plain call may run an event loop, and a coroutine in that may make calls inline."""

    async def inner() -> str | None:
        await asyncio.sleep(0)
        return _label()

    async def in_loop() -> tuple[str | None, str | None, str | None]:
        return (
            await AT_ONCE.inline(label="inner").call(inner),
            AT_ONCE.inline(label="plain").call(_label),
            _label(),
        )

    def outer() -> tuple[str | None, str | None, str | None]:
        return asyncio.run(in_loop())

    with RetryingExecutor(1) as executor:
        view = executor.with_options(label="outer")
        assert ("inner", "plain", "outer") == view.submit(outer).result(TIMEOUT)
        assert ("inner", "plain", "outer") == view.submit(in_loop).result(TIMEOUT)


def _label() -> str | None:
    """Return the label of the call that runs here."""
    call = current_call()
    return None if call is None else call.label
