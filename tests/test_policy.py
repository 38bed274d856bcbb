"""Whether and when a failed attempt is followed by another."""

from __future__ import annotations

import copy
import math
import random
import sys
from collections.abc import Callable
from datetime import timedelta
from email.message import Message
from typing import Any
from urllib.error import HTTPError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrying_executor import Attempt, NotNow, RetryPolicy, transient
from retrying_executor._calls.terms import Terms
from retrying_executor._policy.policy import backoff, checked_policy
from retrying_executor._policy.reading import Reading
from retrying_executor._policy.transient import hint_of

DEFAULTS = {
    "max_attempts": 5,
    "initial_delay": 0.5,
    "multiplier": 2.0,
    "max_delay": 60.0,
    "jitter": True,
    "max_elapsed": 3600.0,
    "max_age": None,
    "retry_on": transient,
    "give_up_on": (),
    "retry_result": None,
    "max_retry_after": 300.0,
    "delays": None,
    "random": None,
}
DRAWS = st.floats(0, 1, exclude_max=True)
CURVES = st.tuples(st.floats(0, 1e6), st.floats(1, 1e6), st.floats(0, 1e9)).map(
    lambda drawn: {"initial_delay": drawn[0], "multiplier": drawn[1], "max_delay": drawn[0] + drawn[2]}
)


def failed(number: int, exception: Exception | None = None, elapsed: float = 0.0) -> Attempt:
    """Return a failed attempt, by default one that raised a ValueError."""
    return Attempt(number=number, exception=exception or ValueError(), result=None, elapsed=elapsed)


# -- options -------------------------------------------------------------------------------------


def test_the_defaults_are_those_documented() -> None:
    """5 attempts, first delay 0.5 s, doubling up to 60 s, full jitter, an hour in all (B2)."""
    policy = RetryPolicy()
    assert DEFAULTS == {name: getattr(policy, name) for name in DEFAULTS}


def test_options_are_given_by_keyword() -> None:
    """Positional arguments and unknown keywords are a TypeError (A1)."""
    with pytest.raises(TypeError):
        RetryPolicy(3)  # type: ignore[misc]
    with pytest.raises(TypeError, match="max_attemps"):
        RetryPolicy(max_attemps=3)  # type: ignore[call-arg]


def test_durations_may_be_timedeltas() -> None:
    """A timedelta is accepted wherever a duration is, and equals its seconds (B1)."""
    assert RetryPolicy(initial_delay=1.5, max_delay=90, max_elapsed=7200) == RetryPolicy(
        initial_delay=timedelta(milliseconds=1500),
        max_delay=timedelta(minutes=1.5),
        max_elapsed=timedelta(hours=2),
    )
    assert RetryPolicy(max_age=60) == RetryPolicy(max_age=timedelta(minutes=1))
    assert RetryPolicy(delays=[1, 60.0]) == RetryPolicy(delays=(timedelta(seconds=1), timedelta(minutes=1)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_attempts": 0}, ValueError, "max_attempts must be 1 or more, not 0"),
        ({"max_attempts": -3}, ValueError, "max_attempts must be 1 or more, not -3"),
        ({"max_attempts": 2.0}, TypeError, "max_attempts must be an integer, 1 or more, not 2.0"),
        ({"max_attempts": True}, TypeError, "max_attempts must be an integer, 1 or more, not True"),
        ({"max_attempts": "3"}, TypeError, "max_attempts must be an integer, 1 or more, not '3'"),
        (
            {"initial_delay": -1},
            ValueError,
            "initial_delay must be a finite number of seconds, 0 or more, not -1",
        ),
        (
            {"initial_delay": "1"},
            TypeError,
            "initial_delay must be a number of seconds or a timedelta, not '1'",
        ),
        (
            {"initial_delay": None},
            TypeError,
            "initial_delay must be a number of seconds or a timedelta, not None",
        ),
        ({"max_age": 0}, ValueError, "max_age must be more than 0 seconds, not 0"),
        ({"max_age": -1}, ValueError, "max_age must be a finite number of seconds, 0 or more, not -1"),
        ({"max_age": "60"}, TypeError, "max_age must be a number of seconds or a timedelta, not '60'"),
        ({"initial_delay": 61}, ValueError, "max_delay must be 61 (initial_delay) or more, not 60.0"),
        ({"max_delay": 0.25}, ValueError, "max_delay must be 0.5 (initial_delay) or more, not 0.25"),
        (
            {"max_delay": math.inf},
            ValueError,
            "max_delay must be a finite number of seconds, 0 or more, not inf",
        ),
        ({"max_delay": None}, TypeError, "max_delay must be a number of seconds or a timedelta, not None"),
        ({"multiplier": 0.5}, ValueError, "multiplier must be finite and 1 or more, not 0.5"),
        ({"multiplier": math.inf}, ValueError, "multiplier must be finite and 1 or more, not inf"),
        ({"multiplier": math.nan}, ValueError, "multiplier must be finite and 1 or more, not nan"),
        (
            {"multiplier": 10**400},
            ValueError,
            f"multiplier must be finite and 1 or more, not {10**400}",
        ),
        ({"multiplier": "2"}, TypeError, "multiplier must be a number, not '2'"),
        ({"multiplier": True}, TypeError, "multiplier must be a number, not True"),
        ({"jitter": 0.1}, TypeError, "jitter must be True or False, not 0.1"),
        ({"jitter": None}, TypeError, "jitter must be True or False, not None"),
        (
            {"max_elapsed": -1},
            ValueError,
            "max_elapsed must be a finite number of seconds, 0 or more, not -1",
        ),
        (
            {"max_elapsed": "1h"},
            TypeError,
            "max_elapsed must be a number of seconds or a timedelta, not '1h'",
        ),
        *(
            (
                {"retry_on": nonsense},
                TypeError,
                "retry_on must be an exception class, a tuple of them, or a callable, not " + repr(nonsense),
            )
            for nonsense in (
                None,
                42,
                int,
                "ValueError",
                (int,),
                (ValueError, len),
                [ValueError],
                ValueError(),
            )
        ),
        *(
            (
                {"give_up_on": nonsense},
                TypeError,
                f"give_up_on must be an exception class or a tuple of them, not {nonsense!r}",
            )
            for nonsense in (None, int, "KeyError", (KeyError, len), [KeyError], KeyError(), transient)
        ),
        *(
            (
                {"give_up_on": classes},
                ValueError,
                f"give_up_on must name failures, and NotNow is none: not {classes!r}",
            )
            for classes in (NotNow, (KeyError, NotNow))
        ),
        ({"retry_result": 1}, TypeError, "retry_result must be callable or None, not 1"),
        ({"random": 0.5}, TypeError, "random must be callable or None, not 0.5"),
        ({"delays": 3}, TypeError, "delays must be an iterable of seconds, not 3"),
        (
            {"delays": (1, -1)},
            ValueError,
            "delays[1] must be a finite number of seconds, 0 or more, not -1",
        ),
        ({"delays": "12"}, TypeError, "delays must be an iterable of seconds, not '12'"),
        (
            {"delays": (1,), "multiplier": 3},
            TypeError,
            "delays takes the place of initial_delay, multiplier, max_delay: give either, not both",
        ),
        (
            {"delays": (1, 2), "max_attempts": 4},
            ValueError,
            "max_attempts must be at most 3 (2 delays), not 4",
        ),
        (
            {"delays": (1, 2), "max_attempts": None},
            ValueError,
            "max_attempts must be at most 3 (2 delays), not None",
        ),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, dict) else "",
)
def test_a_bad_option_is_refused(options: dict[str, object], error: type[Exception], message: str) -> None:
    """The error names the option, the value and what is allowed (A1, B1)."""
    with pytest.raises(error) as caught:
        RetryPolicy(**options)  # type: ignore[arg-type]
    assert message == str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_attempts": 0}, ValueError, "^max_attempts must be 1 or more, not 0$"),
        ({"max_attemps": 3}, TypeError, "max_attemps"),
    ],
)
def test_replace_checks_the_options(options: dict[str, object], error: type[Exception], message: str) -> None:
    """What the class refuses, replace() refuses (B1)."""
    with pytest.raises(error, match=message):
        RetryPolicy().replace(**options)  # type: ignore[arg-type]


CHANGES = [
    ({}, {"max_attempts": 8}, {"max_attempts": 8}),
    (
        {"initial_delay": 1, "jitter": False},
        {"max_delay": timedelta(minutes=2)},
        {"initial_delay": 1, "jitter": False, "max_delay": 120},
    ),
    # From a curve to delays, and back.
    ({"max_attempts": 9, "max_elapsed": 9}, {"delays": (1, 2)}, {"delays": (1, 2), "max_elapsed": 9}),
    ({"initial_delay": 3, "multiplier": 4}, {"delays": ()}, {"delays": ()}),
    ({}, {"delays": (1,), "jitter": True}, {"delays": (1,), "jitter": True}),
    ({"delays": (1, 2)}, {"initial_delay": 3}, {"initial_delay": 3}),
    ({"delays": (1, 2)}, {"delays": None, "max_attempts": 2}, {"max_attempts": 2}),
    # Between delays.
    ({"delays": (1, 2)}, {"delays": (1, 2, 3)}, {"delays": (1, 2, 3)}),
    ({"delays": (1, 2)}, {"max_attempts": 2}, {"delays": (1, 2), "max_attempts": 2}),
]


@pytest.mark.parametrize(("options", "changes", "expected"), CHANGES)
def test_replace_changes_the_given_options(
    options: dict[str, object], changes: dict[str, object], expected: dict[str, object]
) -> None:
    """The others stay; between a curve and delays, max_attempts and jitter get their defaults (B1, B9)."""
    policy = RetryPolicy(**options)  # type: ignore[arg-type]
    assert RetryPolicy(**expected) == policy.replace(**changes)  # type: ignore[arg-type]
    assert RetryPolicy(**options) == policy  # type: ignore[arg-type]


def test_a_delay_is_finite_however_long_the_wait_that_is_asked_for() -> None:
    """Jitter comes on top, but infinity is no delay (U2)."""
    attempt = Attempt(number=1, exception=NotNow(after=1.7e308), result=None, elapsed=0.0)
    delay = RetryPolicy(max_elapsed=None, random=lambda: 0.99)(attempt)
    assert delay is not None
    assert 1.7e308 <= delay < math.inf


@pytest.mark.skipif(sys.version_info < (3, 13), reason="copy.replace() is new in Python 3.13")
def test_copy_replace_does_what_replace_does() -> None:
    """copy.replace() works on a policy (B1)."""
    assert RetryPolicy(max_attempts=2) == copy.replace(RetryPolicy(), max_attempts=2)


@pytest.mark.parametrize(
    "policy",
    [RetryPolicy(initial_delay=1, max_attempts=9, jitter=False), RetryPolicy(delays=(1, 2))],
    ids=["curve", "delays"],
)
@pytest.mark.parametrize("name", DEFAULTS)
def test_replace_of_an_option_by_itself_changes_nothing(policy: RetryPolicy, name: str) -> None:
    """Only a change from a curve to delays, or back, touches options that are not given (B1)."""
    if policy.delays is None or name not in ("initial_delay", "multiplier", "max_delay"):
        assert policy == policy.replace(**{name: getattr(policy, name)})  # type: ignore[misc]
    else:
        assert policy.replace(**{name: getattr(policy, name)}).delays is None  # type: ignore[misc]


def test_a_policy_may_be_subclassed() -> None:
    """A subclass takes the same options and may change the verdict (B1)."""

    class Patient(RetryPolicy):
        def __call__(self, attempt: Attempt) -> float | None:
            return super().__call__(attempt) or 42.0

    assert 42.0 == Patient(max_attempts=1)(failed(1))
    assert 1.0 == Patient(delays=(1,))(failed(1))
    assert Patient is type(Patient().replace(max_attempts=3))
    assert Patient() != RetryPolicy()


# -- the curve and the jitter --------------------------------------------------------------------


@given(number=st.integers(1, 10_000), curve=CURVES)
def test_the_bound_is_that_of_the_formula(number: int, curve: dict[str, float]) -> None:
    """The bound is min(max_delay, initial_delay * multiplier ** (n - 1)), finite and never negative (B1)."""
    initial, multiplier, cap = curve.values()
    bound = backoff(number, base=initial, multiplier=multiplier, cap=cap)
    try:
        exact = initial * multiplier ** (number - 1)
    except OverflowError:
        exact = math.inf if initial else 0.0
    assert min(exact, cap) == bound
    assert 0.0 <= bound <= cap


@given(number=st.integers(1, 10_000), curve=CURVES)
def test_the_bound_never_shrinks(number: int, curve: dict[str, float]) -> None:
    """The bound after each attempt is that after the one before, or more (B1)."""
    initial, multiplier, cap = curve.values()
    bounds = [backoff(n, base=initial, multiplier=multiplier, cap=cap) for n in (number, number + 1)]
    assert sorted(bounds) == bounds


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ({}, 60.0),
        ({"initial_delay": 0}, 0.0),
        ({"initial_delay": 0, "max_delay": 0}, 0.0),
        ({"initial_delay": 5e-324}, 60.0),
        ({"multiplier": 1}, 0.5),
        ({"multiplier": 1.7e308}, 60.0),
        ({"max_delay": 1.7e308}, 1.7e308),
    ],
)
def test_a_million_attempts_do_not_overflow(curve: dict[str, float], expected: float) -> None:
    """However many attempts there were, the delay is a finite number within its bound (B1)."""
    policy = RetryPolicy(max_attempts=None, max_elapsed=None, jitter=False, **curve)  # type: ignore[arg-type]
    assert expected == policy(failed(10**6))


def test_without_jitter_the_delay_is_the_bound() -> None:
    """Delays double from initial_delay up to max_delay, and then stay (B1)."""
    policy = RetryPolicy(max_attempts=7, initial_delay=1, max_delay=10, jitter=False)
    assert [1, 2, 4, 8, 10, 10, None] == [policy(failed(number)) for number in range(1, 8)]


@given(number=st.integers(1, 10_000), curve=CURVES, draw=DRAWS)
def test_jitter_is_uniform_up_to_the_bound(number: int, curve: dict[str, float], draw: float) -> None:
    """Full jitter: the delay is the draw times the bound, within [0, max_delay] (B1)."""
    options = {"max_attempts": None, "max_elapsed": None, **curve}
    bound = RetryPolicy(jitter=False, **options)(failed(number))  # type: ignore[arg-type]
    delay = RetryPolicy(random=lambda: draw, **options)(failed(number))  # type: ignore[arg-type]
    assert bound is not None
    assert delay is not None
    assert draw * bound == delay
    assert 0 <= delay <= curve["max_delay"]


def test_jitter_draws_from_the_random_module() -> None:
    """By default the draws are those of random.random(), one to a delay (B1)."""
    policy = RetryPolicy(max_attempts=None)
    random.seed(1)
    delays = [policy(failed(number)) for number in (1, 2, 3)]
    random.seed(1)
    assert [random.random() * bound for bound in (0.5, 1.0, 2.0)] == delays


def test_without_jitter_nothing_is_drawn() -> None:
    """Neither jitter=False nor a delay named by retry_on asks for a random number (B1)."""

    def draw() -> float:
        raise LookupError("drawn")

    assert 0.5 == RetryPolicy(jitter=False, random=draw)(failed(1))
    assert 7.0 == RetryPolicy(random=draw, retry_on=lambda _: 7)(failed(1))
    with pytest.raises(LookupError, match="drawn"):
        RetryPolicy(random=draw)(failed(1))


@given(st.lists(st.floats(0, 1e6), max_size=10))
def test_delays_stand_instead_of_the_curve(delays: list[float]) -> None:
    """There are as many retries as delays, each exactly as long as it says (B1)."""
    policy = RetryPolicy(delays=iter(delays), max_elapsed=None)
    assert len(delays) + 1 == policy.max_attempts
    assert policy.jitter is False
    assert [*delays, None] == [policy(failed(number)) for number in range(1, len(delays) + 2)]


def test_delays_with_jitter_and_fewer_attempts() -> None:
    """On request delays are bounds as those of the curve are, and not all are used (B1)."""
    policy = RetryPolicy(delays=(2, 4, 8), jitter=True, max_attempts=3, random=lambda: 0.25)
    assert [0.5, 1.0, None] == [policy(failed(number)) for number in (1, 2, 3)]


# -- giving up -----------------------------------------------------------------------------------


@given(st.integers(1, 100), st.integers(1, 100))
def test_max_attempts_counts_the_first(max_attempts: int, number: int) -> None:
    """After attempt max_attempts there is no other; before it there is (B1)."""
    verdict = RetryPolicy(max_attempts=max_attempts, max_elapsed=None)(failed(number))
    assert (number >= max_attempts) is (verdict is None)


@pytest.mark.parametrize(
    ("elapsed", "expected"), [(0, 2.0), (8, 2.0), (8.001, None), (10, None), (math.inf, None)]
)
def test_max_elapsed_bounds_the_start_of_the_next_attempt(elapsed: float, expected: float | None) -> None:
    """When the next attempt could not start in time, the call gives up at once (B6)."""
    policy = RetryPolicy(initial_delay=2, jitter=False, max_elapsed=10)
    assert expected == policy(failed(1, elapsed=elapsed))


def test_max_elapsed_bounds_delays_named_by_retry_on() -> None:
    """The limits on attempts and time hold for a delay that retry_on names, too (B6)."""
    policy = RetryPolicy(max_attempts=2, max_elapsed=10, retry_on=lambda _: timedelta(seconds=9))
    assert 9.0 == policy(failed(1, elapsed=1.0))
    assert policy(failed(1, elapsed=1.5)) is None
    assert policy(failed(2, elapsed=1.0)) is None


def test_max_elapsed_none_is_no_limit() -> None:
    """With max_elapsed=None only the attempts are counted (B1)."""
    assert 0.5 == RetryPolicy(max_elapsed=None, jitter=False)(failed(1, elapsed=1e300))


# -- what is worth another attempt ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry_on", "exception", "expected"),
    [
        (OSError, OSError(), 0.5),
        (OSError, ConnectionError(), 0.5),
        (OSError, ValueError(), None),
        ((OSError, KeyError), KeyError(), 0.5),
        ((OSError, KeyError), ValueError(), None),
        (BaseException, ValueError(), 0.5),
        (lambda exception: isinstance(exception, KeyError), KeyError(), 0.5),
        (lambda exception: isinstance(exception, KeyError), ValueError(), None),
        (lambda exception: exception.args[0], ValueError(7), 7.0),
        (lambda exception: exception.args[0], ValueError(0.0), 0.0),
        (lambda exception: exception.args[0], ValueError(timedelta(minutes=1)), 60.0),
        (lambda exception: exception.args[0], ValueError(100_000), None),
    ],
)
def test_retry_on_decides_which_exceptions_are_worth_it(
    retry_on: object, exception: Exception, expected: float | None
) -> None:
    """A class, a tuple, or a callable to a bool or to the seconds to wait, exactly (B1)."""
    policy = RetryPolicy(retry_on=retry_on, jitter=False)  # type: ignore[arg-type]
    assert expected == policy(failed(1, exception))


@pytest.mark.parametrize(
    ("give_up_on", "exception", "expected"),
    [
        (KeyError, KeyError(), None),
        (LookupError, KeyError(), None),
        ((KeyError, OSError), ConnectionError(), None),
        ((KeyError, OSError), ValueError(), 0.5),
        ((), ValueError(), 0.5),
        (Exception, ValueError(), None),
    ],
)
@pytest.mark.parametrize(
    "retry_on", [transient, Exception, (LookupError, OSError, ValueError), lambda _: True, lambda _: 0.5]
)
def test_give_up_on_makes_failures_final(
    retry_on: Any, give_up_on: Any, exception: Exception, expected: float | None
) -> None:
    """Of these classes, whatever retry_on says of them (B1)."""
    policy = RetryPolicy(retry_on=retry_on, give_up_on=give_up_on, jitter=False)
    assert expected == policy(failed(1, exception))


THROTTLED = HTTPError("http://service", 429, "Too Many Requests", Message(), None)
THROTTLED.headers["Retry-After"] = "30"


@pytest.mark.parametrize("exception", [THROTTLED, NotNow(after=30.0)])
@pytest.mark.parametrize("give_up_on", [(), HTTPError, Exception])
@pytest.mark.parametrize(
    "retry_on", [transient, OSError, (HTTPError,), ValueError, lambda _: NotNow("full", after=30)]
)
def test_classes_leave_not_now_what_it_is(retry_on: Any, give_up_on: Any, exception: Exception) -> None:
    """They choose among failures, and "not now" is none: it is heeded, and not counted (B1, U3)."""
    policy = RetryPolicy(retry_on=retry_on, give_up_on=give_up_on, jitter=False, max_attempts=1)
    verdict = policy.verdict(failed(1, exception))
    assert (30.0, False) == (verdict.delay, verdict.counts)


def test_what_a_callable_puts_on_an_exception_is_read() -> None:
    """Whatever has been read of it before (B1, U2)."""

    def retry_on(exception: Exception) -> bool:
        exception.retry_after = 7  # type: ignore[attr-defined]  # as clients have it
        return True

    exception = ValueError()
    read = Reading(exception)
    assert hint_of(read) is None
    verdict = RetryPolicy(retry_on=retry_on, jitter=False).verdict(failed(1, exception), read)
    assert 7.0 == verdict.delay


def test_a_callable_decides_alone_that_not_now_counts() -> None:
    """Nobody asks transient besides (B1)."""
    verdict = RetryPolicy(retry_on=lambda _: True, jitter=False).verdict(failed(1, THROTTLED))
    assert (30.0, True) == (verdict.delay, verdict.counts)
    assert RetryPolicy(retry_on=lambda _: False)(failed(1, THROTTLED)) is None


@pytest.mark.parametrize(
    ("answer", "error"), [(None, TypeError), ("1", TypeError), (math.nan, ValueError), (-1, ValueError)]
)
def test_retry_on_must_not_return_nonsense(answer: object, error: type[Exception]) -> None:
    """What is neither a bool nor a duration is an error that says where it came from (B8)."""
    with pytest.raises(
        error, match=rf"^what retry_on returns \(if not a bool or a NotNow\) must be .*, not {answer!r}$"
    ):
        RetryPolicy(retry_on=lambda _: answer)(failed(1))  # type: ignore[arg-type, return-value]


def test_retry_on_is_not_asked_about_a_rejected_result() -> None:
    """That is always worth another attempt (B1)."""

    def retry_on(_: Exception) -> bool:
        raise LookupError("asked")

    policy = RetryPolicy(retry_on=retry_on, jitter=False)
    assert 0.5 == policy(Attempt(number=1, exception=None, result="rejected", elapsed=0.0))
    with pytest.raises(LookupError, match="asked"):
        policy(failed(1))


# -- terms ---------------------------------------------------------------------------------------


def test_terms_take_a_policy_apart() -> None:
    """Only a RetryPolicy has a predicate on results and a limit on time (B6)."""
    rejects: Callable[[object], bool] = bool
    terms = Terms(RetryPolicy(retry_result=rejects, max_elapsed=10))
    assert rejects is terms.rejects
    assert 10.0 == terms.max_elapsed
    for policy in (None, RetryPolicy(max_elapsed=None), lambda attempt: None):
        terms = Terms(policy)
        assert (None, math.inf) == (terms.rejects, terms.max_elapsed)


def test_a_policy_is_anything_callable_or_none() -> None:
    """retry= takes a RetryPolicy, any callable, or None (B1)."""
    for policy in (None, RetryPolicy(), len):
        assert policy is checked_policy(policy)


@pytest.mark.parametrize(
    ("retry", "message"),
    [
        (3, "retry must be a RetryPolicy, a callable or None, not 3"),
        (False, "retry must be a RetryPolicy, a callable or None, not False"),
        (RetryPolicy, f"retry must be a policy, not the class {RetryPolicy!r}: call it"),
    ],
)
def test_what_cannot_be_a_policy_is_refused(retry: object, message: str) -> None:
    """Anything else is a TypeError, the class itself too (A1)."""
    with pytest.raises(TypeError) as caught:
        checked_policy(retry)
    assert message == str(caught.value)
