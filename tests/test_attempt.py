"""One attempt, and the policy's verdict on it."""

from __future__ import annotations

import contextvars
import decimal
import logging
import math
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from types import FrameType, ModuleType
from typing import Any, NoReturn

import pytest

from observe import see_to_reports
from retrying_executor import Attempt, NotNow, RetryingExecutor, RetryPolicy, Upstream
from retrying_executor._calls import attempt
from retrying_executor._calls.attempt import add_note, run
from retrying_executor._calls.terms import Terms
from retrying_executor._common.log import Subject
from retrying_executor._common.unseen import UnseenFailure
from retrying_executor.testing import VirtualTimeExecutor

TIMEOUT = 60.0  # seconds within which everything happens that is going to
VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


class Interrupt(BaseException):
    """Not an Exception, hence never retried."""


class HostileError(Exception):
    """Raises whatever it is asked."""

    def refuse(self, *_: object) -> NoReturn:
        """Raise."""
        raise LookupError("a hostile exception was asked")

    __str__ = __repr__ = __bool__ = __len__ = __eq__ = __setattr__ = refuse  # type: ignore[assignment]
    __hash__ = Exception.__hash__


EXCEPTIONS = [
    pytest.param(exception, id=type(exception).__name__)
    for exception in (ValueError("no"), HostileError(), Interrupt(), SystemExit(1), KeyboardInterrupt())
]


def work_of(fn: Callable[..., object], /, *args: object, **kwargs: object) -> Any:
    """Return what an attempt needs, with the context of now."""
    return fn, args, kwargs, contextvars.copy_context()


def judge(*args: Any) -> tuple[float | None, Any]:
    """Return the delay of the verdict, and the outcome."""
    verdict, outcome = attempt.judge(*args)
    return verdict.delay, outcome


def raise_(exception: BaseException, *_: object) -> NoReturn:
    """Raise *exception*, whatever else is passed."""
    raise exception


def frames(exception: BaseException | None) -> list[FrameType]:
    """Return the frames of an exception's traceback, the outermost first."""
    assert exception is not None
    return [frame for frame, _ in traceback.walk_tb(exception.__traceback__)]


def notes(exception: BaseException) -> object:
    """Return the notes of an exception; from Python 3.11 on, tracebacks show them."""
    return exception.__notes__  # type: ignore[attr-defined]


def raises(*_: object) -> NoReturn:
    """What a hostile attribute does."""
    raise LookupError("a hostile exception was asked")


def interrupts(*_: object) -> NoReturn:
    """What a hostile attribute does that wants to end the program."""
    raise SystemExit


HOSTILE = [
    *(
        (name, property(what))
        for name in (
            "__traceback__",
            "__cause__",
            "__context__",
            "__notes__",
            "__class__",
            "__dict__",
            "args",
        )
        for what in (raises, interrupts)
    ),
    *(
        (name, what)
        for name in (
            "__getattribute__",
            "__setattr__",
            "__str__",
            "__format__",
            "__eq__",
            "__hash__",
            "__bool__",
        )
        for what in (raises, interrupts)
    ),
    *(
        (name, property(lambda _, lie=lie: lie))
        for name, lie in [
            ("__traceback__", "a lie"),
            ("__cause__", "a lie"),
            ("__notes__", "a lie"),
            ("__class__", NotNow),
            ("__class__", KeyboardInterrupt),
            ("response", HostileError()),
            ("headers", HostileError()),
            ("status", True),
        ]
    ),
]


BRIEFLY = RetryPolicy(delays=(0.01, 0.01), max_elapsed=0.025, jitter=False)


@pytest.mark.parametrize(("name", "hostile"), HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("base", [Exception, NotNow])
def test_a_hostile_exception_is_the_outcome_like_any_other(
    name: str, hostile: Any, base: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever its attributes raise or pretend, the last one is what the call fails with (B3)."""
    cls = type("Hostile", (base,), {"after": 0.01, name: hostile})
    attempts = {
        BRIEFLY: 3,
        BRIEFLY.replace(retry_on=Exception): 3,
        BRIEFLY.replace(retry_on=KeyError): 1,
        (lambda attempt: 0.01 if attempt.number < 3 else None): 3,
        None: 1,
    }
    caplog.set_level(logging.DEBUG)
    with VirtualTimeExecutor(1, on_event=lambda event: event.reason, warn_after=60) as executor:
        for retry, expected in attempts.items():
            raised: list[BaseException] = []
            service = Upstream("service", hold_after=10)
            future = executor.with_options(retry=retry, upstream=service).submit(raise_new, cls, raised)
            executor.drain()
            outcome = future.exception(0)
            assert outcome is raised[-1]
            assert base is NotNow or expected == len(raised)  # that waits for the upstream
            with pytest.raises(BaseException) as caught:  # noqa: PT011  # no text of it can be had
                future.result(0)
            assert caught.value is outcome
    assert not [record for record in caplog.records if "worker thread" in record.getMessage()]


def raise_new(cls: type[Exception], raised: list[BaseException]) -> NoReturn:
    """Raise another exception each time, and note it."""
    raised.append(cls.__new__(cls))  # what it does when it is created is the business of the call
    raise raised[-1]


@pytest.mark.parametrize(("name", "hostile"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_failure_that_nobody_looked_at_is_logged(
    name: str, hostile: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Handlers can format it, and see what was raised and where (B3, G3)."""
    exception = type("Hostile", (Exception,), {name: hostile})()
    _, raised = run(work_of(raise_, exception), None)
    assert raised is exception
    UnseenFailure(Subject("call", key="", label=None, executor=""), 1, exception)
    see_to_reports()
    [record] = [record for record in caplog.records if "nobody looked" in record.getMessage()]
    text = logging.Formatter().format(record)
    assert "Hostile" in text
    assert "raise_" in text


@pytest.mark.parametrize("what", [raises, interrupts])
def test_the_error_of_a_policy_may_be_hostile(what: Any) -> None:
    """It is the outcome, and the call's own exception its cause (B3, B8)."""
    cls = type("Hostile", (Exception,), {"__cause__": property(what, what), "__setattr__": what})
    error, exception = cls(), ValueError("no")
    outcome = judge(lambda _: raise_(error), Terms(None), 1, 0.0, (None, exception))[1]
    assert (None, error) == outcome
    assert exception is vars(BaseException)["__cause__"].__get__(error)


# -- run -----------------------------------------------------------------------------------------


def test_an_attempt_passes_the_arguments_on() -> None:
    """The very same objects are passed each time, and no keyword is reserved (A2, B7)."""
    argument = object()
    work = work_of(lambda *args, **kwargs: (args, kwargs), argument, work=argument, previous=2, fn=3)
    for _ in range(2):
        (args, kwargs), exception = run(work, None)  # type: ignore[misc]
        assert exception is None
        assert (argument,) == args
        assert {"work": argument, "previous": 2, "fn": 3} == kwargs


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_what_an_attempt_raises_is_its_outcome(exception: BaseException) -> None:
    """Nothing gets out: the outcome is the very object that was raised, of whichever kind (B3, B8)."""
    for previous in (None, exception, ValueError()):
        result, raised = run(work_of(raise_, exception), previous)
        assert result is None
        assert exception is raised


def test_a_call_that_does_not_fit_its_function_is_an_outcome() -> None:
    """Arguments that do not fit are the call's own failure (B8)."""
    result, exception = run(work_of(raise_), None)
    assert result is None
    assert TypeError is type(exception)


def test_each_attempt_has_a_copy_of_the_context() -> None:
    """What one attempt sets, neither the next one nor the submitter sees (B11)."""

    def call() -> str:
        before = VARIABLE.get()
        VARIABLE.set("changed")
        return before

    token = VARIABLE.set("submitter")
    work = work_of(call)
    VARIABLE.reset(token)
    assert ["submitter"] * 2 == [run(work, None)[0] for _ in range(2)]
    assert "unset" == VARIABLE.get()


def test_frames_of_the_library_refer_to_no_arguments() -> None:
    """What an exception drags along is what its function kept, not what the library knew (G2)."""
    exception, argument = ValueError("no"), object()
    work = work_of(raise_, exception, argument)
    run(work, ValueError())
    ours, its_own = frames(exception)
    assert run.__code__ is ours.f_code
    assert not {"work", "previous", "fn", "args", "kwargs", "context", "old"} & set(ours.f_locals)
    for kept in (work, *work, argument):
        assert all(kept is not local for local in ours.f_locals.values())
    assert raise_.__code__ is its_own.f_code


def test_an_exception_raised_again_keeps_its_traceback_from_growing() -> None:
    """The same object raised by each attempt has the traceback of the latest alone (B3, B10)."""
    exception = ValueError("no")

    def deeper() -> NoReturn:
        raise exception

    previous, lengths = None, set()
    for _ in range(10):
        _, previous = run(work_of(deeper), previous)
        lengths.add(len(frames(previous)))
        assert deeper.__code__ is frames(previous)[-1].f_code
    assert {2} == lengths


def test_an_exception_raised_again_from_elsewhere_shows_where() -> None:
    """Only the traceback of the attempt before is cut off, however the object was raised again (B3)."""
    exception = ValueError("no")

    def first() -> NoReturn:
        raise exception

    def second() -> NoReturn:
        try:
            first()
        finally:
            first.__doc__ = "handled"

    _, previous = run(work_of(first), None)
    _, previous = run(work_of(second), previous)
    assert [second.__code__, first.__code__] == [frame.f_code for frame in frames(previous)[1:]]


def test_another_exception_keeps_its_whole_traceback() -> None:
    """Tracebacks of different objects are left alone (B3)."""
    _, previous = run(work_of(raise_, ValueError("one")), None)
    _, exception = run(work_of(raise_, ValueError("two")), previous)
    assert 2 == len(frames(previous)) == len(frames(exception))


def test_an_exception_without_its_old_traceback_is_left_alone() -> None:
    """Whoever raises an exception again with its traceback removed gets what was asked for (B3)."""
    exception = ValueError("no")
    _, previous = run(work_of(raise_, exception), None)

    def call() -> NoReturn:
        raise exception.with_traceback(None)

    run(work_of(call), previous)
    assert call.__code__ is frames(exception)[-1].f_code
    exception.__traceback__ = None
    run(work_of(call), exception)
    assert 2 == len(frames(exception))


def test_each_attempt_has_a_decimal_context_of_its_own() -> None:
    """It starts with that of the submitter, and what it changes nobody else sees (B11)."""

    def set_precision(digits: int) -> tuple[int, str]:
        before = decimal.getcontext().prec
        decimal.getcontext().prec = digits
        return before, str(decimal.Decimal(1) / 3)

    with decimal.localcontext() as context:
        context.prec = 7
        work = work_of(set_precision, 3)
        assert [((7, "0.333"), None)] * 2 == [run(work, None), run(work, None)]
        assert 7 == decimal.getcontext().prec


@pytest.mark.parametrize("inherits", [True, False])
def test_each_coroutine_has_a_decimal_context_of_its_own(inherits: bool) -> None:
    """Coroutines share a thread, but not what they set. With nothing inherited, it is a new one (B11)."""

    async def set_precision(digits: int) -> tuple[int, str]:
        before = decimal.getcontext().prec
        decimal.getcontext().prec = digits
        return before, str(decimal.Decimal(1) / 3)

    with decimal.localcontext() as context, RetryingExecutor(1, inherit_context=inherits) as executor:
        context.prec = 7
        futures = [executor.submit(set_precision, 3) for _ in range(2)]
        expected = 7 if inherits else decimal.DefaultContext.prec
        assert [(expected, "0.333")] * 2 == [future.result(TIMEOUT) for future in futures]
        assert 7 == decimal.getcontext().prec


def test_an_unfinished_import_of_decimal_costs_no_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may be in the middle of it (B8, B11)."""
    token = VARIABLE.set("set")
    work = work_of(int, "7")
    VARIABLE.reset(token)  # it keeps what was set
    monkeypatch.setitem(sys.modules, "decimal", ModuleType("decimal"))
    assert (7, None) == run(work, None)


# -- judge ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(None, None), (0, 0.0), (2, 2.0), (0.25, 0.25), (timedelta(minutes=1), 60.0)],
)
def test_a_policy_names_the_seconds_to_wait(answer: Any, expected: float | None) -> None:
    """A policy is a callable from the failed attempt to seconds, or None to give up (B1)."""
    error, seen = ValueError("no"), []

    def policy(attempt: Attempt) -> Any:
        seen.append(attempt)
        return answer

    assert (expected, (None, error)) == judge(policy, Terms(policy), 3, 1.5, (None, error))
    assert [Attempt(number=3, exception=error, result=None, elapsed=1.5)] == seen


@pytest.mark.parametrize(
    "answer",
    [math.nan, math.inf, -1, "1", True, False, object()],
    ids=lambda value: str(value).partition(" at ")[0],
)
def test_a_policy_that_returns_nonsense_fails_the_call(answer: Any) -> None:
    """The outcome is an error that says so, with the attempt's exception as its cause (B8)."""
    error = ValueError("no")
    delay, (result, outcome) = judge(lambda _: answer, Terms(None), 1, 0.0, (None, error))
    assert delay is None
    assert result is None
    assert isinstance(outcome, (TypeError, ValueError))
    assert str(outcome).startswith("what the retry policy returns must be a ")
    assert str(outcome).endswith(f", not {answer!r}")
    assert error is outcome.__cause__


@pytest.mark.parametrize("raised", EXCEPTIONS)
@pytest.mark.parametrize("exception", [ValueError("no"), HostileError()], ids=["ordinary", "hostile"])
def test_a_policy_that_raises_fails_the_call(exception: Exception, raised: BaseException) -> None:
    """The outcome is the policy's error, with the attempt's exception as its cause (B8)."""
    delay, (result, outcome) = judge(lambda _: raise_(raised), Terms(None), 1, 0.0, (None, exception))
    assert delay is None
    assert result is None
    assert raised is outcome
    assert exception is raised.__cause__


def test_a_policy_that_raises_the_exception_itself_gives_up() -> None:
    """An exception is never its own cause (B8)."""
    error = ValueError("no")
    assert (None, (None, error)) == judge(lambda _: raise_(error), Terms(None), 1, 0.0, (None, error))
    assert error.__cause__ is None


@pytest.mark.parametrize(
    "exception", [Interrupt(), SystemExit(), KeyboardInterrupt(), GeneratorExit()], ids=repr
)
def test_what_is_not_an_exception_is_never_retried(exception: BaseException) -> None:
    """The policy is not even asked, whatever its retry_on says (B4)."""
    policy = RetryPolicy(retry_on=BaseException)
    assert policy(Attempt(number=1, exception=exception, result=None, elapsed=0.0)) is not None  # type: ignore[arg-type]
    assert (None, (None, exception)) == judge(policy, Terms(policy), 1, 0.0, (None, exception))


def test_a_rejected_result_is_a_failure() -> None:
    """retry_result is asked about each result; a rejected one is retried like an exception (B1)."""
    policy = RetryPolicy(retry_result=lambda result: result == "bad", jitter=False, max_attempts=2)
    terms = Terms(policy)
    assert (None, ("good", None)) == judge(policy, terms, 1, 0.0, ("good", None))
    assert (0.5, ("bad", None)) == judge(policy, terms, 1, 0.0, ("bad", None))
    assert (None, ("bad", None)) == judge(policy, terms, 2, 0.0, ("bad", None))


def test_retry_result_is_not_asked_about_exceptions() -> None:
    """An attempt that raised has no result to ask about (B1)."""
    policy = RetryPolicy(retry_result=lambda _: raise_(LookupError()), jitter=False)
    error = ValueError("no")
    assert (0.5, (None, error)) == judge(policy, Terms(policy), 1, 0.0, (None, error))


def test_a_predicate_that_raises_fails_the_call() -> None:
    """Its error is the outcome, with the cause that it came with, as no exception was there (B8)."""
    error, cause = LookupError("predicate"), KeyError("cause")
    error.__cause__ = cause
    policy = RetryPolicy(retry_result=lambda _: raise_(error))
    assert (None, (None, error)) == judge(policy, Terms(policy), 1, 0.0, ("result", None))
    assert cause is error.__cause__


def test_the_verdict_refers_to_no_result() -> None:
    """The frame of the library in a predicate's traceback has forgotten the result (G2)."""
    error = LookupError("predicate")
    policy = RetryPolicy(retry_result=lambda _: raise_(error))
    judge(policy, Terms(policy), 1, 0.0, ("result", None))
    ours = frames(error)[0]
    assert attempt.judge.__code__ is ours.f_code
    assert not {"result", "exception", "outcome"} & set(ours.f_locals)


# -- notes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempts", "elapsed", "expected"),
    [
        (1, 0.0, "retrying_executor: gave up after 1 attempt in 0 s: enough"),
        (5, 7.5432, "retrying_executor: gave up after 5 attempts in 7.54 s: enough"),
        (30, 1234.5, "retrying_executor: gave up after 30 attempts in 1234 s: enough"),
    ],
)
def test_a_note_says_how_many_attempts_in_how_long(attempts: int, elapsed: float, expected: str) -> None:
    """The last exception carries a note as PEP 678 has it (B3)."""
    error = ValueError("no")
    add_note(error, attempts, elapsed, "enough")
    assert [expected] == notes(error)
    assert ("no",) == error.args


def test_notes_of_others_stay() -> None:
    """What others noted stays, in their own list, and only the latest of ours is kept (B3, B10)."""
    error = ValueError("no")
    theirs = ["before", "gave up", 5]
    error.__notes__ = theirs  # type: ignore[attr-defined]
    for attempts in range(1, 100):
        add_note(error, attempts, 1.0, "enough")
    assert ["before", "gave up", 5] == theirs
    assert [*theirs, "retrying_executor: gave up after 99 attempts in 1 s: enough"] == notes(error)


def raised_once(exception: BaseException) -> tuple[object, BaseException]:
    """Return the outcome of an attempt that raised *exception*."""
    return None, exception


@pytest.mark.parametrize(
    ("policy", "outcome", "expected"),
    [
        (RetryPolicy(max_attempts=3), raised_once(OSError()), "all 3 attempts are used"),
        (RetryPolicy(max_attempts=1), raised_once(OSError()), "the only attempt is used"),
        (RetryPolicy(max_attempts=3, retry_result=bool), ("bad", None), "all 3 attempts are used"),
        (
            RetryPolicy(delays=[1, 2, 4], max_elapsed=8),
            raised_once(OSError()),
            "the next attempt would start after 9 s, and max_elapsed is 8 s",
        ),
        (RetryPolicy(), raised_once(NameError()), "another attempt cannot help"),
        (RetryPolicy(retry_on=KeyError), raised_once(OSError()), "it is not in retry_on"),
        (RetryPolicy(retry_on=lambda _: False), raised_once(OSError()), "retry_on says so"),
        (RetryPolicy(give_up_on=OSError), raised_once(OSError()), "it is in give_up_on"),
        (lambda _: None, raised_once(OSError()), "the retry policy says so"),
        (lambda _: raise_(KeyError()), raised_once(OSError()), "this was raised by the retry policy"),
        (lambda _: "soon", raised_once(OSError()), "this was raised by the retry policy"),
        (RetryPolicy(), raised_once(Interrupt()), "Interrupt is never retried"),
    ],
)
def test_a_verdict_says_why_no_attempt_follows(policy: Any, outcome: Any, expected: str) -> None:
    """Each reason to give up has words of its own (B3, G3)."""
    verdict, _ = attempt.judge(policy, Terms(policy), 3, 5.0, outcome)
    assert (None, expected) == (verdict.delay, verdict.reason)


@pytest.mark.parametrize(
    "wrong", [5, None, "a string", [HostileError()]], ids=lambda wrong: type(wrong).__name__
)
def test_notes_of_a_wrong_type_are_left_alone(wrong: object) -> None:
    """Where no note can be added, none is, and nothing is raised (B8)."""
    error = ValueError("no")
    error.__notes__ = wrong  # type: ignore[attr-defined]
    add_note(error, 2, 1.0, "enough")
    assert notes(error) is wrong


def test_an_exception_that_takes_no_attributes_goes_without_a_note() -> None:
    """A hostile exception is left as it is (B8)."""
    error = HostileError()
    add_note(error, 2, 1.0, "enough")
    assert not hasattr(error, "__notes__")
