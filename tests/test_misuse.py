"""What is misused is refused at once, by an error that says what is wrong and what is meant."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import pickle
import re
import weakref
from collections.abc import Awaitable, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from functools import cache, lru_cache, partial
from itertools import repeat
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock

import pytest

import retrying_executor
from conftest import TIMEOUT
from observe import needs_gil
from retrying_executor import (
    Attempt,
    NotNow,
    RetryingExecutor,
    RetryingFuture,
    RetryPolicy,
    Upstream,
    retry_after,
    service_failed,
    transient,
)
from retrying_executor._common.callables import Wrapper
from retrying_executor.testing import VirtualTimeExecutor

watch: Any = retrying_executor.watch
Executor: Any = RetryingExecutor
Virtual: Any = VirtualTimeExecutor
Policy: Any = RetryPolicy
Service: Any = Upstream
Later: Any = NotNow
Future: Any = RetryingFuture
FAILED = Attempt(number=1, exception=ValueError("no"), result=None, elapsed=0.0)


class Own(NotNow):
    """A "not now" of one's own."""


class Numbered(NotNow):
    """One that says a number."""

    def __init__(self, status: int) -> None:
        super().__init__(status)


async def coroutine(*_: object) -> int:
    """Stands for a call that is to be awaited."""
    return 42


async def generator() -> Any:
    """Stands for a call that is to be iterated over."""
    yield 42


async def first(iterator: Any) -> Any:
    """Return the first item."""
    return await iterator.__anext__()


class Awaited:
    """Coroutine functions of many kinds."""

    async def __call__(self) -> int:
        """Return what is awaited."""
        return await self.method()

    async def method(self) -> int:
        """Return what is awaited."""
        return await self.of_class()

    @classmethod
    async def of_class(cls) -> int:
        """Return what is awaited."""
        return await cls.static()

    @staticmethod
    async def static() -> int:
        """Return what is awaited."""
        return await coroutine()


class Static:
    """Its instances are called without themselves."""

    @staticmethod
    def __call__(_: object) -> float:
        """Return a delay."""
        return 0.5


class OfClass:
    """Its instances are called with their class."""

    @classmethod
    def __call__(cls, _: object) -> float:
        """Return a delay."""
        return 0.5


class Marked:
    """Its instances say that they are coroutine functions, as some libraries have it."""

    def __init__(self, *_: object, mark: object = object()) -> None:
        """Say so, or something else."""
        self._is_coroutine = mark

    __call__ = staticmethod(int)


def marked() -> Awaitable[int]:
    """A plain function that says it is a coroutine function, as those around one do."""
    return coroutine()


setattr(marked, "_is_coroutine_marker", object())  # noqa: B010  # as `inspect.markcoroutinefunction`, on 3.10


class Promising:
    """Its instances return what is to be awaited, and only a mark says so."""

    def __init__(self, mark: object = object()) -> None:
        """Say so, or not."""
        self._is_coroutine = mark

    def __call__(self) -> Awaitable[int]:
        """Return what is to be awaited, and is no coroutine."""
        return Promise()


class Promise:
    """What can be awaited, and is no coroutine."""

    def __await__(self) -> Generator[Any, None, int]:
        """Return what asks for the result."""
        return coroutine().__await__()


class NoArgument:
    """Its instances take no argument."""

    def __call__(self) -> float:
        """Return a delay."""
        return 0.5


class Around(Wrapper):
    """What an integration puts around a function."""

    __slots__ = ()

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        return self.func(*args, **kwargs)


@pytest.fixture(params=[Executor, Virtual], ids=["real", "virtual"])
def executor(request: pytest.FixtureRequest) -> Iterator[Any]:
    """An executor that says what is wrong with its arguments."""
    with request.param(1) as executor:
        yield executor


def refused(function: Callable[[], object]) -> str:
    """Return the error with which something is refused at once."""
    with pytest.raises((TypeError, ValueError)) as caught:
        function()
    return f"{caught.type.__name__}: {caught.value}"


# -- executors -----------------------------------------------------------------------------------------

BY_KEYWORD = "must be given by keyword, not as a positional argument"


@pytest.mark.parametrize("cls", [Executor, Virtual])
@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((True,), {}, "TypeError: max_workers must be an integer, 1 or more, or None, not True"),
        ((2.5,), {}, "TypeError: max_workers must be an integer, 1 or more, or None, not 2.5"),
        ((int,), {}, "TypeError: max_workers must be an integer, 1 or more, or None, not <class 'int'>"),
        (("5",), {}, "TypeError: max_workers must be an integer, 1 or more, or None, not '5'"),
        ((Decimal("nan"),), {}, "TypeError: max_workers must be an integer, 1 or more, or None, not Dec"),
        ((1, 3), {}, "TypeError: thread_name_prefix must be a string, not 3"),
        ((1, 0), {}, "TypeError: thread_name_prefix must be a string, not 0"),
        ((1, b""), {}, "TypeError: thread_name_prefix must be a string, not b''"),
        ((), {"on_event": "print"}, "TypeError: on_event must be callable or None, not 'print'"),
        ((), {"warn_after": 0}, "ValueError: warn_after must be more than 0 seconds, not 0"),
        ((), {"exit_timeout": "20"}, "TypeError: exit_timeout must be a number of seconds or a timedelta"),
        ((1, "", print, 3), {}, "TypeError: initargs must be a tuple, not 3"),
        ((1, "", print, "host"), {}, "TypeError: initargs must be a tuple, not 'host'"),
        ((1, "", print, {1: 2}), {}, "TypeError: initargs must be a tuple, not {1: 2}"),
        ((), {"idle_timeout": int}, "TypeError: idle_timeout must be a number of seconds or a timedelta"),
        ((), {"warn_after": timedelta}, "TypeError: warn_after must be a number of seconds or a timedelta"),
        ((1, "", lambda: None, (1,)), {}, "TypeError: initializer must take 1 positional argument"),
        ((1, "", coroutine), {}, "TypeError: initializer must not be a coroutine function"),
        ((RetryPolicy(),), {}, f"TypeError: retry {BY_KEYWORD}: RetryPolicy("),
        ((4, "", None, (), RetryPolicy()), {}, f"TypeError: retry {BY_KEYWORD}: RetryPolicy("),
        ((Upstream("x"),), {}, f"TypeError: upstream {BY_KEYWORD}: <Upstream 'x'"),
        ((4, "", None, (), None), {}, "__init__() takes options by keyword, not by position: None"),
        ((), {"retry": transient}, "TypeError: retry must be a policy, not <function transient"),
        ((), {"retry": retry_after}, "TypeError: retry must be a policy, not <function retry_after"),
        ((), {"retry": ValueError}, "ValueError'>: retry=RetryPolicy(retry_on=...)"),
        ((), {"retry": RetryPolicy}, "RetryPolicy'>: call it"),
        ((), {"retry": lambda: 1}, "TypeError: retry must take 1 positional argument: not <f"),
        ((), {"retry": lambda a, b: 1}, "TypeError: retry must take 1 positional argument: not <f"),
        ((), {"retry": lambda a, *, b: 1}, "TypeError: retry must take 1 positional argument: not <f"),
        ((), {"retry": NoArgument()}, "TypeError: retry must take 1 positional argument: not <"),
        ((), {"retry": NoArgument().__call__}, "TypeError: retry must take 1 positional argument: not <"),
        ((), {"retry": coroutine}, "TypeError: retry must not be a coroutine function"),
        (
            (),
            {"on_event": lambda: None},
            "TypeError: on_event must take 1 positional argument: not <f",
        ),
        ((), {"when_full": "block"}, "ValueError: when_full must be 'raise' or 'wait', not 'block'"),
        ((), {"max_attempts": 3}, "'max_attempts': did you mean retry=RetryPolicy(max_attempts=...)?"),
        ((), {"retries": 3}, "'retries': did you mean retry=RetryPolicy(max_attempts=...)?"),
        ((), {"rate": (1, 1)}, "'rate': did you mean upstream=Upstream(..., rate=...)?"),
        ((), {"max_worker": 3}, "'max_worker': did you mean max_workers=?"),
        ((), {"colour": 3}, "__init__() got an unexpected keyword argument 'colour'"),
    ],
    ids=lambda value: re.sub(" at 0x.*", "", repr(value)),
)
def test_an_executor_refuses(cls: Any, args: Any, options: Any, message: str) -> None:
    """What would be obscure later, or pass in silence, is an error at once (A1)."""
    assert message in refused(lambda: cls(*args, **options))


@pytest.mark.parametrize(
    "retry", [Static(), OfClass(), OfClass().__call__, partial(max, 1.0), lambda *args: 1.0, Mock(), max]
)
def test_whatever_takes_an_attempt_is_a_policy(retry: Any) -> None:
    """Only what can be seen not to take one is refused (B1)."""
    with RetryingExecutor(1, retry=retry) as executor:
        assert 42 == executor.submit(lambda: 42).result(TIMEOUT)


def test_initargs_are_collected_once() -> None:
    """Each thread gets all of them, though an iterator ends (A1)."""
    seen: list[object] = []
    options: Any = {"initializer": lambda *args: seen.append(args), "initargs": iter((1, 2))}
    with RetryingExecutor(1, idle_timeout=0, **options) as executor:
        for _ in range(2):
            executor.submit(int).result(TIMEOUT)
    assert {(1, 2)} == {*seen}


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda e: e.with_options(RetryPolicy()), f"TypeError: retry {BY_KEYWORD}: RetryPolicy("),
        (
            lambda e: e.with_options(3),
            "TypeError: RetryingExecutor.with_options() takes options by keyword, not by",
        ),
        (lambda e: e.with_options(max_workers=3), "did you mean RetryingExecutor(max_workers=...)?"),
        (lambda e: e.with_options(max_pending=3), "RetryingExecutor(max_pending=...)"),
        (lambda e: e.shutdown(5), "TypeError: wait must be True or False, not 5: did you mean timeout=?"),
        (lambda e: e.shutdown("5"), "TypeError: wait must be True or False, not '5': did you mean timeout=?"),
        (
            lambda e: e.shutdown(cancel_futures="no"),
            "TypeError: cancel_futures must be True or False, not '",
        ),
        (
            lambda e: e.submit(int).result("5"),
            "TypeError: timeout must be a number of seconds, a timedelta",
        ),
        (lambda e: e.submit(int).result(timeout=True), "a timedelta or None, not True"),
        (lambda e: e.submit(int).result(int), "a timedelta or None, not <class 'int'>"),
        (lambda e: e.submit(int).result(timedelta), "a timedelta or None, not <class 'datetime.timedelta'>"),
        (
            lambda e: e.submit(int).result(float("nan")),
            "ValueError: timeout must be a number of seconds, not nan",
        ),
        (
            lambda e: e.map(int, ["1"], timeout=Decimal("nan")),
            "ValueError: timeout must be a number of seconds, not Decimal('NaN')",
        ),
        (lambda e: e.drain(int), "TypeError: timeout must be a number of seconds or a timedelta, not <cl"),
        (
            lambda e: e.submit(int).set_exception(ValueError),
            "TypeError: exception must be an exception or None, not <class 'ValueError'>",
        ),
        (lambda e: e.submit(), "TypeError: RetryingExecutor.submit() missing 1 required positional"),
        (lambda e: e.map(), "TypeError: RetryingExecutor.map() missing 1 required positional"),
        (lambda e: e.stats(1), "TypeError: RetryingExecutor.stats() takes 1 positional argument"),
        (lambda e: e.with_options().drain(1, 2), "TypeError: RetryingExecutor.drain() takes from 1 to 2"),
        (lambda e: e.submit(int).exception("5"), "a timedelta or None, not '5'"),
        (lambda e: e.map(int, ["1"], timeout="5"), "a timedelta or None, not '5'"),
        (lambda e: e.submit(5), "TypeError: fn is not callable: 5; it is submit(fn, *args)"),
        (lambda e: e.submit(None), "TypeError: fn is not callable: None; it is submit(fn, *args)"),
        (lambda e: e.submit(Around(None)), "TypeError: fn is not callable: None; it is submit(fn, *args)"),
        (pickle.dumps, "TypeError: cannot pickle or copy '"),
        (copy.copy, "TypeError: cannot pickle or copy '"),
        (copy.deepcopy, "TypeError: cannot pickle or copy '"),
        (lambda e: pickle.dumps(e.with_options()), "TypeError: cannot pickle or copy 'View' object"),
        (lambda e: copy.copy(e.with_options()), "TypeError: cannot pickle or copy 'View' object"),
        (lambda e: watch(e, quiet="no"), "TypeError: quiet must be True or False, not 'no'"),
    ],
)
def test_a_method_refuses(executor: Any, use: Callable[[Any], object], message: str) -> None:
    """And what it belongs to is as before (A1, F3)."""
    assert message in refused(lambda: use(executor))
    assert 42 == executor.submit(lambda: 42).result(TIMEOUT)


@pytest.mark.parametrize("use", [lambda e: e.submit(), lambda e: e.map(), lambda e: e.map(int, 5)])
def test_what_the_standard_executor_refuses_is_refused_like_that(use: Callable[[Any], object]) -> None:
    """Type and message are its own, but for the name of the class (A1)."""
    with ThreadPoolExecutor(1) as standard, RetryingExecutor(1) as executor:
        expected, ours = (re.sub(r"\w+\.", "", refused(lambda e=e: use(e))) for e in (standard, executor))
    assert expected == ours


@pytest.mark.parametrize(
    "make",
    [
        lambda: coroutine,
        lambda: partial(coroutine, 1),
        lambda: partial(partial(coroutine), 1),
        Awaited,
        lambda: Awaited().method,
        lambda: Awaited.of_class,
        lambda: Awaited.static,
        lambda: vars(Awaited)["static"],
        lambda: Around(coroutine),
        lambda: AsyncMock(return_value=42),
        lambda: partial(AsyncMock(spec=refused, return_value=42), 1),
        lambda: AsyncMock(**{"method.return_value": 42}).method,
        lambda: cache(coroutine),
        lambda: lru_cache(maxsize=1)(partial(coroutine, 1)),
        Promising,
        lambda: getattr(inspect, "markcoroutinefunction", lambda _: Promising())(Promising(mark=False)),
        lambda: marked,
    ],
    ids=range(17),
)
def test_coroutine_functions_are_recognised(executor: Any, make: Callable[[], Any]) -> None:
    """What they return is awaited, whatever is around them (A3, K1)."""
    assert 42 == executor.submit(make()).result(TIMEOUT)


@pytest.mark.parametrize("fn", [generator, partial(generator), Around(generator), staticmethod(generator)])
def test_asynchronous_generators_are_refused(executor: Any, fn: Callable[..., object]) -> None:
    """Nobody would iterate over them; a coroutine function may (A3)."""
    message = refused(lambda: executor.submit(fn))
    assert message.startswith("TypeError: fn must not be an asynchronous generator, which nobody would")
    assert message == refused(lambda: list(executor.map(fn, [1])))
    assert 42 == executor.submit(first, generator()).result(TIMEOUT)


@needs_gil
def test_of_the_function_that_was_checked_last_nothing_is_kept(executor: Any) -> None:
    """And where it was, ``None`` is no function either (A1, G2)."""

    def call() -> None:
        """Do nothing."""

    gone = weakref.ref(call)
    for _ in range(2):
        assert executor.submit(call).result(TIMEOUT) is None
    del call
    executor.shutdown()
    gc.collect()
    assert gone() is executor._terms.latest() is None
    with pytest.raises(TypeError, match="fn is not callable: None"):
        executor.submit(None)


def test_what_is_submitted_may_be_anything_callable(executor: Any) -> None:
    """Functions, methods, classes, objects, and mocks of them (A2)."""
    calls: list[Any] = [
        int,
        Static.__call__,
        Static(),
        OfClass(),
        OfClass.__call__,
        Mock(spec=refused),
        Mock(),
        MagicMock(),
        Marked,
        Marked(mark=False),
        Marked(mark=True),
        cache(refused),
        "a".upper,
    ]
    for fn in calls:
        with suppress(TypeError):  # of the call itself
            executor.submit(fn, 1).result(TIMEOUT)
    assert 0 == executor.submit(int).result(TIMEOUT)
    assert 42 == executor.submit(Around(int), "42").result(TIMEOUT)
    assert 0.5 == executor.submit(NoArgument().__call__).result(TIMEOUT)
    assert 42 == executor.submit(lambda: asyncio.run(first(generator()))).result(TIMEOUT)


# -- policies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((5,), {}, "TypeError: RetryPolicy.__init__() takes options by keyword, not by position: 5"),
        ((print,), {}, "RetryPolicy.__init__() takes options by keyword, not by position: <built-in"),
        ((), {"max_pending": 5}, "RetryingExecutor(max_pending=...)"),
        ((coroutine,), {}, "takes options by keyword, not by position: <function coroutine at "),
        ((coroutine,), {}, ">: write @RetryPolicy()"),
        ((), {"max_retries": 5}, "'max_retries': did you mean max_attempts=?"),
        ((), {"max_tries": 5}, "'max_tries': did you mean max_attempts=?"),
        ((), {"max_time": 5}, "'max_time': did you mean max_elapsed=?"),
        ((), {"on": OSError}, "'on': did you mean retry_on=?"),
        ((), {"upstream": 5}, "did you mean RetryingExecutor(upstream=...) or with_options(upstream=...)?"),
        ((), {"retry_on": ()}, "ValueError: retry_on must name an exception class, not ()"),
        (
            (),
            {"retry_on": KeyboardInterrupt},
            "ValueError: retry_on must name subclasses of Exception only: <class",
        ),
        (
            (),
            {"retry_on": (ValueError, SystemExit)},
            "ValueError: retry_on must name subclasses of Exception only",
        ),
        ((), {"retry_on": retry_after}, "TypeError: retry_on must say whether an exception is worth"),
        (
            (),
            {"retry_on": RetryPolicy()},
            "TypeError: retry_on must say whether an exception is worth",
        ),
        (
            (),
            {"retry_on": lambda: True},
            "TypeError: retry_on must take 1 positional argument: not <f",
        ),
        (
            (),
            {"retry_on": coroutine},
            "TypeError: retry_on must not be a coroutine function",
        ),
        ((), {"delays": ""}, "TypeError: delays must be an iterable of seconds, not ''"),
        ((), {"delays": b"12"}, "TypeError: delays must be an iterable of seconds, not b'12'"),
        ((), {"delays": {1: 2}}, "TypeError: delays must be an iterable of seconds, not {1: 2}"),
        ((), {"delays": {1, 2}}, "TypeError: delays must be an iterable of seconds, not {1, 2}"),
        ((), {"delays": repeat(1)}, "ValueError: delays must end after 1000000 items at most: not rep"),
        ((), {"multiplier": Decimal("nan")}, "ValueError: multiplier must be finite and 1 or more, not Dec"),
        ((), {"multiplier": int}, "TypeError: multiplier must be a number, not <class 'int'>"),
        ((), {"max_delay": int}, "TypeError: max_delay must be a number of seconds or a timedelta, not <cl"),
        ((), {"retry_result": lambda: True}, "TypeError: retry_result must take 1 positional argument"),
        ((), {"retry_result": coroutine}, "TypeError: retry_result must not be a coroutine function"),
        (
            (),
            {"random": lambda seed: 0.5},
            "TypeError: random must take no positional arguments: not <f",
        ),
    ],
    ids=lambda value: re.sub(" at 0x.*", "", repr(value)),
)
def test_a_policy_refuses(args: Any, options: Any, message: str) -> None:
    """What would never match, or never work, is an error at once (A1, B1)."""
    assert message in refused(lambda: Policy(*args, **options))


@pytest.mark.parametrize("answer", [None, "yes", 0, 1, NotNow])
def test_an_answer_that_is_none_ends_the_call_with_an_error_that_says_so(answer: Any) -> None:
    """It names retry_on and the answer, and what the call raised is its cause (B3, B8)."""
    original = ValueError("no")
    with RetryingExecutor(1, retry=RetryPolicy(retry_on=lambda _: answer)) as executor:

        def fail() -> None:
            raise original

        error = executor.submit(fail).exception(TIMEOUT)
    assert isinstance(error, TypeError)
    assert re.match(rf"^what retry_on returns .*must be .*, not {re.escape(repr(answer))}$", str(error))
    assert original is error.__cause__


# -- the rest --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: Service(""), "ValueError: name must be one line of text, and not blank: not ''"),
        (lambda: Service(" "), "ValueError: name must be one line of text, and not blank: not ' '"),
        (
            lambda: Service("a\nb"),
            "ValueError: name must be one line of text, and not blank: not 'a\\nb'",
        ),
        (
            lambda: Service("x", record_exceptions=lambda: True),
            "record_exceptions must take 1 positional",
        ),
        (
            lambda: Service("x", record_exceptions=coroutine),
            "record_exceptions must not be a coroutine function",
        ),
        (lambda: Service("x").pause(timedelta), "TypeError: duration must be a number of seconds or a tim"),
        (
            lambda: Service("x", rate=(1, Decimal("sNaN"))),
            "ValueError: rate[1] must be a finite number of seconds, 0 or more, not Decimal('sNaN')",
        ),
        (
            lambda: Service("x", 3),
            "Upstream.__init__() takes options by keyword, not by position: 3",
        ),
        (lambda: Service("x", max_attempts=3), "did you mean retry=RetryPolicy(max_attempts=...)?"),
        (lambda: Service("x", concurrency=3), "'concurrency': did you mean max_concurrency=?"),
        (lambda: pickle.dumps(Upstream("x")), "TypeError: cannot pickle or copy 'Upstream' object"),
        (lambda: copy.copy(Upstream("x")), "TypeError: cannot pickle or copy 'Upstream' object"),
        (lambda: copy.deepcopy({1: Upstream("x")}), "TypeError: cannot pickle or copy 'Upstream' object"),
        (lambda: Later(30), "TypeError: after must be given by keyword: NotNow(after=30)"),
        (lambda: Later(0.5), "TypeError: after must be given by keyword: NotNow(after=0.5)"),
        (
            lambda: Later(Decimal(30)),
            "TypeError: after must be given by keyword: NotNow(after=Decimal",
        ),
        (lambda: Later(after=int), "TypeError: after must be a number of seconds or a timedelta, not <class"),
        (lambda: Own(timedelta(1)), "TypeError: after must be given by keyword: NotNow(after=datetime"),
        (lambda: transient(5), "TypeError: exception must be an exception, not 5"),  # type: ignore[arg-type]
        (lambda: transient(ValueError), "not <class 'ValueError'>"),  # type: ignore[arg-type]
        (lambda: retry_after(5), "TypeError: exception must be an exception, not 5"),  # type: ignore[arg-type]
        (lambda: service_failed(3), "TypeError: exception must be an exception, not 3"),  # type: ignore[arg-type]
        (lambda: Virtual(seed="x"), "TypeError: seed must be an integer, not 'x'"),
        (lambda: Virtual(sed=1), "__init__() got an unexpected keyword argument 'sed': did you mean seed=?"),
    ],
)
def test_the_rest_refuses(use: Callable[[], object], message: str) -> None:
    """Services, "not now", what reads exceptions, and virtual time (A1, U1, U3)."""
    assert message in refused(use)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("number", "x", "TypeError: number must be an integer, 1 or more, not 'x'"),
        ("number", 0, "ValueError: number must be 1 or more, not 0"),
        ("exception", ValueError, "TypeError: exception must be an exception or None, not <class 'ValueErr"),
        ("elapsed", int, "TypeError: elapsed must be a number of seconds, not <class 'int'>"),
        ("elapsed", Decimal("nan"), "ValueError: elapsed must be 0 seconds or more, not Decimal('NaN')"),
        ("elapsed", -1, "ValueError: elapsed must be 0 seconds or more, not -1"),
        ("postponed", 0.5, "TypeError: postponed must be an integer, 0 or more, not 0.5"),
        ("postponed", True, "TypeError: postponed must be an integer, 0 or more, not True"),
        ("postponed", -1, "ValueError: postponed must be 0 or more, not -1"),
    ],
)
def test_an_attempt_refuses(field: str, value: Any, message: str) -> None:
    """Whoever tests a policy of their own makes some (A1)."""
    fields: Any = {**vars(FAILED), field: value}
    assert message in refused(lambda: Attempt(**fields))


@pytest.mark.parametrize("timeout", [float("inf"), 10**400, 1e300, timedelta.max * 1.0, Decimal(10**9)])
def test_a_timeout_may_be_longer_than_anybody_can_wait(executor: Any, timeout: Any) -> None:
    """Then it is no limit (A3)."""
    assert 42 == executor.submit(lambda: 42).result(timeout)
    assert executor.submit(lambda: 42).exception(timeout) is None
    assert [1] == list(executor.map(int, ["1"], timeout=timeout))


class Several:
    """It has what a float is made of, but makes none, as an array of several numbers."""

    def __float__(self) -> float:
        """Refuse."""
        raise TypeError


def test_what_makes_no_number_is_none() -> None:
    """And whatever says that it is no number counts as out of range (A1)."""
    assert "TypeError: initial_delay must be a number of seconds or a timedelta" in refused(
        lambda: Policy(initial_delay=Several())
    )


def test_not_now_says_what_it_is_told() -> None:
    """A number may be said by a class with a constructor of its own, or beside a time (U3)."""
    assert (429,) == Numbered(429).args
    assert (5,) == NotNow(5, after=1).args
    assert ("busy", 5) == NotNow("busy", 5, after=1).args
    assert (5, "busy") == NotNow(5, "busy").args
    assert "after must be given by keyword: NotNow(after=5)" in refused(lambda: NotNow("busy", 5))


def test_policies_are_made_as_before() -> None:
    """What may be called is as it was (B1)."""
    assert 0.5 == RetryPolicy(jitter=False)(FAILED)
    assert RetryPolicy(retry_on=BaseException) != RetryPolicy(retry_on=(ValueError, KeyError))
    assert RetryPolicy(retry_on=Static()) != RetryPolicy(retry_result=lambda result, *, more=1: result)
