"""Exceptions from other processes: they arrive as they were raised, and are judged alike (L3)."""

from __future__ import annotations

import builtins
import json
import re
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextvars import copy_context
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MappingProxyType, ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shapes
from conftest import TIMEOUT
from retrying_executor import NotNow, RetryingExecutor, explain, retry_after, service_failed, transient
from retrying_executor._calls import attempt
from retrying_executor._common.exceptions import RemoteTraceback, cause_of
from retrying_executor._engines import far, packing
from retrying_executor._engines.engine import Choice
from retrying_executor._engines.unpacking import new_exception, unpacked
from retrying_executor.engines import Processes
from shapes import LOST, SHAPES, Answer, TwoArgumentsError, failure, raise_shape

GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())  # from Python 3.11 on
ARGS: Any = vars(BaseException)["args"]  # of which an exception may hide its own
CONTEXT: Any = vars(BaseException)["__context__"]
FIELDS = (
    *("errno", "strerror", "filename", "filename2", "characters_written", "winerror"),
    *("encoding", "object", "start", "end", "reason", "msg", "lineno", "offset", "text"),
    *("name", "path", "value", "code", "message", "status_code", "retry_after", "after"),
)
"""Attributes that an exception may keep outside of its ``__dict__``."""
DEEPEST = 8
"""How deep exceptions are compared: some are cycles, or very long chains."""

of_each_shape = pytest.mark.parametrize("name", SHAPES)


def caught(call: Callable[..., object], *args: object) -> BaseException:
    """Return what a call raises, as in an attempt of a thread."""
    exception = attempt.run((call, args, {}, copy_context()), None)[1]
    assert exception is not None
    return exception


def sent(exception: BaseException) -> BaseException:
    """Return what arrives of an exception."""
    pickled, (*what, is_exception, _) = packing.packed(exception)
    return unpacked(pickled, *what, is_exception=is_exception)


class Here(Choice):
    """An engine that makes its attempts in the worker's own thread, by way of bytes."""

    dumps = None
    place = "here"

    def _new_engine(self) -> Any:
        return self

    def new_runner(self, _: object) -> Here:
        return self

    def run(self, message: bytes) -> bytes:
        return far.run(message)

    def leave(self) -> None:
        """Nothing runs for a worker alone."""

    look = restart = leave


def raised_by(executor: RetryingExecutor, call: Callable[..., object], *args: object) -> BaseException:
    """Return what a call raises in an executor."""
    exception = executor.submit(call, *args).exception(TIMEOUT)
    assert exception is not None
    return exception


@pytest.fixture
def threads() -> Iterator[RetryingExecutor]:
    """An executor that makes its attempts in threads, and tries nothing again."""
    with RetryingExecutor(max_workers=1, retry=None) as executor:
        yield executor


@pytest.fixture
def engine() -> Iterator[RetryingExecutor]:
    """An executor that sends its calls, and tries nothing again."""
    with RetryingExecutor(max_workers=1, retry=None, engine=Here()) as executor:
        yield executor


# -- What is compared ------------------------------------------------------------------------------


def judged(exception: BaseException) -> tuple[object, ...]:
    """Return all that is read off an exception."""
    verdict: Any = transient(exception)
    if isinstance(verdict, NotNow):
        verdict = "not now", verdict.after, verdict.only_this_call
    return verdict, retry_after(exception), service_failed(exception), explain(exception)


def words_of(exception: BaseException) -> str:
    """Return what an exception says, but for addresses; or what it raises then."""
    try:
        return re.sub(" at 0x[0-9a-f]+", "", str(exception))
    except BaseException as error:
        return f"raises {type(error).__name__}"


def attribute_of(obj: object, name: str) -> object:
    """Return an attribute; ``None`` if there is none, or if reading it raises."""
    try:
        return getattr(obj, name, None)
    except BaseException:
        return None


def as_seen(value: Any, depth: int = 0) -> Any:
    """Return what is known of a value, as plain data: of an object, only what rules read of an answer."""
    cls = type(value)
    if depth > DEEPEST:
        return ...
    if value is None:
        return None
    if issubclass(cls, BaseException):
        return exception_as_seen(value, depth + 1)
    if issubclass(cls, dict):
        return {key: as_seen(one, depth + 1) for key, one in dict.items(value)}
    if issubclass(cls, (list, tuple)):
        return [as_seen(one, depth + 1) for one in value[:10]]
    is_local = "<locals>" in (value if hasattr(value, "__qualname__") else cls).__qualname__
    if issubclass(cls, (type, FunctionType, BuiltinFunctionType)) and not is_local:
        return value.__qualname__
    if issubclass(cls, int) and is_local:
        return int(value)
    if issubclass(cls, Enum):
        return cls.__qualname__, value.value
    if cls.__module__ in ("builtins", "datetime", "decimal") and cls.__eq__ is not object.__eq__:
        return value
    known = {name: attribute_of(value, name) for name in ("status_code", "status", "headers")}
    return {name: as_seen(one, depth + 1) or None for name, one in known.items()}


def exception_as_seen(exception: BaseException, depth: int = 0, lost: Collection[str] = ()) -> dict[str, Any]:
    """Return what is known of an exception, but for attributes that may be lost."""
    cls = type(exception)
    own = object.__getattribute__(exception, "__dict__")
    cause = cause_of(exception)
    seen = {
        "class": [(base.__module__, base.__qualname__) for base in cls.__mro__],
        "words": words_of(exception),
        "args": as_seen(ARGS.__get__(exception), depth),
        "own": {name: as_seen(one, depth) for name, one in own.items() if name not in lost},
        "fields": {name: as_seen(attribute_of(exception, name), depth) for name in FIELDS},
        "cause": as_seen(None if type(cause) is RemoteTraceback else cause, depth),
        "context": as_seen(CONTEXT.__get__(exception), depth),
        "members": as_seen(GROUP.exceptions.__get__(exception), depth) if issubclass(cls, GROUP) else [],
    }
    return {key: one for key, one in seen.items() if key not in lost}


def last_cause(exception: BaseException) -> BaseException:
    """Return the end of a chain of causes, or where it begins anew."""
    seen: list[int] = []
    while (cause := cause_of(exception)) is not None and id(exception) not in seen:
        seen.append(id(exception))
        assert isinstance(cause, BaseException)
        exception = cause
    return exception


# -- Each shape ------------------------------------------------------------------------------------


@of_each_shape
def test_an_exception_arrives_as_it_was_raised(name: str) -> None:
    """Its class, its arguments, its attributes, its words, and what it came from."""
    original = caught(raise_shape, name)
    lost = LOST.get(name, ())
    assert exception_as_seen(original, lost=lost) == exception_as_seen(sent(original), lost=lost)


@of_each_shape
def test_an_exception_is_judged_as_if_it_had_been_raised_here(name: str) -> None:
    """Whether another attempt may help, when, why, and what it tells of the service."""
    original = caught(raise_shape, name)
    assert judged(original) == judged(sent(original))


@of_each_shape
def test_a_traceback_of_the_other_side_is_the_last_cause(name: str) -> None:
    """It shows where the exception was raised; causes that lead in a circle have no place for it."""
    arrived = sent(caught(raise_shape, name))
    last = last_cause(arrived)
    assert name == "a cycle of causes" or (type(last) is RemoteTraceback and "raise_shape" in str(last))


@of_each_shape
def test_an_engine_changes_no_verdict(threads: RetryingExecutor, engine: RetryingExecutor, name: str) -> None:
    """What a call raises on an engine is judged as what it raises in a thread."""
    assert judged(raised_by(threads, raise_shape, name)) == judged(raised_by(engine, raise_shape, name))


@of_each_shape
def test_the_class_is_the_same_object_if_it_can_be_imported(name: str) -> None:
    """So ``except`` and ``retry_on`` find it."""
    original = caught(raise_shape, name)
    arrived = type(sent(original))
    is_known = getattr(shapes, type(original).__name__, None) is type(original)
    assert arrived is type(original) or not is_known


def test_exceptions_come_from_processes() -> None:
    """Several shapes, through a real engine."""
    names = [
        *("two arguments", "keywords", "frozen", "slots", "a wrong way", "an exit", "an interrupt"),
        *("an answer", "a client", "a cause with an answer", "five thousand causes", "hostile", "notes"),
        *("a local class that has the status", "a class made on the fly", "not now but then"),
    ]
    with RetryingExecutor(max_workers=1, retry=None, engine=Processes()) as executor:
        futures = {name: executor.submit(raise_shape, name) for name in names}
        arrived = {name: future.exception(TIMEOUT) for name, future in futures.items()}
    for name, exception in arrived.items():
        original = caught(raise_shape, name)
        assert exception is not None
        assert exception_as_seen(original) == exception_as_seen(exception)
        assert judged(original) == judged(exception)
        assert type(last_cause(exception)) is RemoteTraceback


# -- Arguments that do not fit ---------------------------------------------------------------------


class Adder:
    """Takes two arguments."""

    def __call__(self, one: int, two: int) -> None:
        """Add them."""


def raises_type_error() -> None:
    """Raise by itself what looks like a wrong call."""
    raise TypeError("raises_type_error() missing 1 required positional argument: 'one'")


def calls_wrongly() -> None:
    """Make a call with the wrong arguments."""
    Adder()(1)  # type: ignore[call-arg]  # hence the name


@pytest.mark.parametrize(
    ("call", "args"),
    [(raise_shape, ()), (len, ()), (int, ([],)), (Adder(), (1,)), (TwoArgumentsError, ())],
    ids=["function", "builtin", "class", "object", "constructor"],
)
def test_arguments_that_do_not_fit_are_final(
    threads: RetryingExecutor, engine: RetryingExecutor, call: Callable[..., object], args: tuple[object, ...]
) -> None:
    """Another attempt would only repeat it (U1)."""
    here, there = raised_by(threads, call, *args), raised_by(engine, call, *args)
    assert type(here) is type(there) is TypeError
    assert judged(here) == judged(there)
    assert transient(there) is False


@pytest.mark.parametrize("call", [raises_type_error, calls_wrongly])
def test_a_type_error_of_the_function_itself_is_not(
    threads: RetryingExecutor, engine: RetryingExecutor, call: Callable[..., object]
) -> None:
    """An answer of another kind than expected may be the reason (U1)."""
    here, there = raised_by(threads, call), raised_by(engine, call)
    assert judged(here) == judged(there)
    assert transient(there) is True


# -- What only one side has ------------------------------------------------------------------------

THERE = """
class Base(Exception):
    def __init__(self, message, status_code):
        super().__init__(message)
        self.status_code = status_code

class FarError(Base):
    retry_after = 2.5

class FarAnswer:
    def __init__(self, status_code):
        self.status_code = status_code
"""


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that is gone when an exception arrives; see `sent_from_there`."""
    module = ModuleType("only_there")
    exec(THERE, vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def sent_from_there(exception: BaseException, monkeypatch: pytest.MonkeyPatch) -> BaseException:
    """Return what arrives where the module is not installed."""
    pickled, (*what, is_exception, _) = packing.packed(exception)
    monkeypatch.delitem(sys.modules, "only_there")
    return unpacked(pickled, *what, is_exception=is_exception)


def test_a_class_that_is_not_installed_here_is_made_up(
    there: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the name, the bases and the attributes of the one there, and its exception is judged alike."""
    original = caught(_raise, there.FarError("no", 429))
    expected = exception_as_seen(original), judged(original)
    arrived = sent_from_there(original, monkeypatch)
    assert expected == (exception_as_seen(arrived), judged(arrived))


def test_an_attribute_whose_class_is_not_installed_here_is_made_up(
    there: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rules read what it has, not what it is."""
    original = caught(_raise, failure(response=there.FarAnswer(404)))
    expected = exception_as_seen(original), judged(original)
    arrived = sent_from_there(original, monkeypatch)
    assert expected == (exception_as_seen(arrived), judged(arrived))


def _raise(exception: BaseException) -> None:
    raise exception


# -- What cannot be sent at all --------------------------------------------------------------------


class NoDictError(Exception):
    """Has nothing that can be read."""

    @property
    def __dict__(self) -> Any:  # type: ignore[override]  # that is what is special
        raise RuntimeError("no")


class NoModuleError(Exception):
    """Says that it is of no module."""


NoModuleError.__module__ = threading.Lock()  # type: ignore[assignment]  # that is what is special


class HidingMeta(type):
    """Its classes hide their modules."""

    __module__ = property(shapes.refuse)  # type: ignore[assignment]  # that is what is special


class HidingModuleError(Exception, metaclass=HidingMeta):
    """Hides its module."""


@pytest.mark.parametrize("cls", [NoDictError, NoModuleError, HidingModuleError])
def test_whatever_cannot_be_sent_has_something_arrive(engine: RetryingExecutor, cls: type[Exception]) -> None:
    """An engine never sees an exception of a call; what stands for it says what it was."""
    arrived = raised_by(engine, _raise_new, cls.__name__)
    assert isinstance(arrived, Exception)
    assert cls.__qualname__ == type(arrived).__qualname__
    assert "what it says" in str(arrived)
    assert transient(arrived) is True


def _raise_new(name: str) -> None:
    raise globals()[name]("what it says")


# -- Results ---------------------------------------------------------------------------------------


def make_result(name: str) -> object:
    """Return a result of that name."""

    class Local:
        """Cannot be imported."""

        def method(self) -> None:
            """Is lost if the class is made up."""

    return {
        "plain": {"a": [1, (2.5, None)], "b": {"c"}},
        "exception": ValueError("a result"),
        "local": Local(),
        "local class": Local,
        "in a list": [1, Local()],
        "lambda": lambda: 1,
        "lock": threading.Lock(),
        "not unpickled": shapes.NotUnpickled(),
        "two arguments": TwoArgumentsError("no", 404),
        "a state that raises": shapes.SetStateError("no", 404),
    }[name]


def test_a_result_arrives_exactly(engine: RetryingExecutor) -> None:
    """What can be sent is equal to what was returned."""
    assert make_result("plain") == engine.submit(make_result, "plain").result(TIMEOUT)
    exception = engine.submit(make_result, "exception").result(TIMEOUT)
    assert isinstance(exception, ValueError)
    assert exception.__cause__ is None
    assert ("a result",) == exception.args


@pytest.mark.parametrize(
    "name", ["local", "local class", "in a list", "lambda", "lock", "not unpickled", "two arguments"]
)
def test_a_result_that_cannot_arrive_exactly_is_a_final_error(engine: RetryingExecutor, name: str) -> None:
    """Nothing is left out or made up in silence, and another attempt would only repeat it."""
    error = raised_by(engine, make_result, name)
    assert type(error) is TypeError
    assert "result" in str(error)
    assert transient(error) is False


# -- Exceptions made up at random ------------------------------------------------------------------

STATUSES = st.sampled_from([200, 302, 400, 404, 408, 409, 429, 500, 503, "404", None])
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.binary(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
OBJECTS = st.sampled_from([Answer, shapes.ClosedAnswer, shapes.SlottedAnswer, shapes.UnreadAnswer]).flatmap(
    lambda cls: STATUSES.map(cls)
)
ODD = st.sampled_from(
    [
        threading.Lock,
        shapes.NotUnpickled,
        shapes.Client,
        shapes.Unequal,
        lambda: (one for one in ()),
        lambda: json,
    ]
).map(lambda make: make())
VALUES = st.one_of(STATUSES, PLAIN, OBJECTS, ODD)
READ_BY_RULES = [
    *("status_code", "status", "code", "response", "body", "headers", "retry_after", "retryable"),
    *("reason", "details", "errno", "sqlstate"),
]
ATTRIBUTES = st.dictionaries(st.sampled_from(READ_BY_RULES), VALUES, max_size=3)
NAMES = st.sampled_from(
    ["OwnError", "ConnectTimeout", "Throttled", "NotFound", "CertificateError", "RateLimitExceeded"]
)
BASES = st.sampled_from(
    [
        *((base,) for base in (Exception, ValueError, KeyError, TypeError, OSError, ConnectionError)),
        *((base,) for base in (TwoArgumentsError, shapes.FrozenError, shapes.GetStateError, NotNow)),
        *((shapes.NoWayError, OSError), (ValueError, ConnectionError), (LookupError, TimeoutError)),
    ]
)


@st.composite
def exceptions(draw: st.DrawFn, depth: int = 2) -> BaseException:
    """Make up exceptions: their classes, arguments, attributes, causes and contexts."""
    bases = draw(BASES)
    own = {"__module__": "shapes", **draw(st.dictionaries(st.just("status_code"), STATUSES))}
    cls: Any = bases[0] if draw(st.booleans()) else type(draw(NAMES), bases, own)
    exception = new_exception(cls)
    ARGS.__set__(exception, tuple(draw(st.lists(st.one_of(STATUSES, PLAIN), max_size=2))))
    vars(exception).update(draw(ATTRIBUTES))
    if issubclass(cls, TwoArgumentsError):  # whose constructor has set it
        vars(exception).setdefault("status_code", draw(STATUSES))
    if depth:
        for link in ("__cause__", "__context__"):
            if draw(st.booleans()):
                vars(BaseException)[link].__set__(exception, draw(exceptions(depth - 1)))
    return exception


@given(exceptions())
@settings(max_examples=100)
def test_whatever_an_exception_is_made_of_it_is_judged_alike(exception: BaseException) -> None:
    """Classes, arguments, attributes, causes and contexts made up at random."""
    original = caught(_raise, exception)
    arrived = sent(original)
    assert exception_as_seen(original) == exception_as_seen(arrived)
    assert judged(original) == judged(arrived)


class ReadAnswer:
    """An answer whose body was read, of a class that needs all of it when it goes away."""

    def __init__(self) -> None:
        self.status_code = 429
        self.headers = MappingProxyType({"Retry-After": 7})
        self._content_consumed = True
        self.content = b'{"error": {"code": "rate_limit_exceeded"}}'
        self.hook = lambda: None

    def __del__(self) -> None:
        self.hook()


def test_what_stands_for_an_answer_has_what_rules_read_of_it() -> None:
    """Its status, its headers, and its body if that was read."""
    error = RuntimeError("no")
    error.response = ReadAnswer()  # type: ignore[attr-defined]
    answer = sent(error).response  # type: ignore[attr-defined]
    assert "<ReadAnswer: could not be sent>" == repr(answer)
    assert (429, {"Retry-After": "7"}, error.response.content) == (  # type: ignore[attr-defined]
        answer.status_code,
        answer.headers,
        answer.content,
    )


def test_a_mapping_that_cannot_be_sent_arrives_as_a_dictionary_of_texts() -> None:
    """As the headers of some clients."""
    error = RuntimeError("no")
    error.headers = MappingProxyType({"Retry-After": 7})  # type: ignore[attr-defined]
    assert {"Retry-After": "7"} == sent(error).headers  # type: ignore[attr-defined]
