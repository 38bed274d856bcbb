"""Immutable values, and the checks that their arguments go through."""

from __future__ import annotations

import copy
import math
import pickle
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrying_executor import Attempt, RetryPolicy, Stats
from retrying_executor._common.values import (
    Value,
    checked_int,
    in_words,
    optional_seconds,
    seconds,
    to_seconds,
)

ERROR = ValueError("no")
FIELDS = {"number": 2, "exception": ERROR, "result": None, "elapsed": 0.5}
ATTEMPT = Attempt(number=2, exception=ERROR, result=None, elapsed=0.5)
STATS = Stats(
    threads=1,
    running=1,
    ready=0,
    in_backoff=1,
    submitted=9,
    succeeded=5,
    failed=1,
    cancelled=1,
    retried=3,
    next_due_at=12.5,
)
VALUES = [pytest.param(value, id=type(value).__name__) for value in (ATTEMPT, STATS, RetryPolicy())]


class Index:
    """An integer by its looks alone."""

    def __index__(self) -> int:
        """Return that integer."""
        return 3


# -- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", VALUES)
def test_values_are_immutable(value: Value) -> None:
    """Attributes can neither be set nor deleted, existing ones and others alike (B1)."""
    before = repr(value)
    for name in ("number", "running", "max_attempts", "something"):
        with pytest.raises(
            AttributeError, match=rf"{type(value).__name__} is immutable: cannot set '{name}'"
        ):
            setattr(value, name, 1)
        with pytest.raises(
            AttributeError, match=rf"{type(value).__name__} is immutable: cannot delete '{name}'"
        ):
            delattr(value, name)
    assert before == repr(value)


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
@pytest.mark.parametrize("value", [VALUES[1], VALUES[2]])
def test_copies_are_equal(value: Value, clone: object) -> None:
    """A copy equals its original and hashes the same (B1)."""
    copied = clone(value)  # type: ignore[operator]
    assert value == copied
    assert hash(value) == hash(copied)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [VALUES[1], VALUES[2]])
def test_values_survive_pickling(value: Value, protocol: int) -> None:
    """What comes back from a pickle equals what went in, under every protocol (B1)."""
    restored = pickle.loads(pickle.dumps(value, protocol))
    assert value == restored
    assert hash(value) == hash(restored)
    assert repr(value) == repr(restored)


def test_values_are_equal_if_type_and_fields_are() -> None:
    """Equality asks for the type and every field; other types may have their own say (B1)."""
    same = Attempt(**FIELDS)
    assert same == ATTEMPT
    assert hash(same) == hash(ATTEMPT)
    for name, other in {"number": 3, "exception": ValueError("no"), "result": 1, "elapsed": 0.25}.items():
        assert Attempt(**{**FIELDS, name: other}) != ATTEMPT
    assert ATTEMPT != STATS
    assert object() != ATTEMPT
    assert math.inf != ATTEMPT


def test_a_value_equals_what_claims_to_equal_it() -> None:
    """A value leaves it to objects of other types whether they equal it (B1)."""

    class Anything:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    assert Anything() == ATTEMPT
    assert ATTEMPT == Anything()


def test_repr_names_every_field() -> None:
    """The repr of a value reads like the call that makes it (B1)."""
    assert "Attempt(number=2, exception=ValueError('no'), result=None, elapsed=0.5, postponed=0)" == repr(
        ATTEMPT
    )
    assert (
        "Stats(threads=1, running=1, ready=0, in_backoff=1, submitted=9, succeeded=5, failed=1,"
        " cancelled=1, retried=3, next_due_at=12.5, held=0, opens_at=None)" == repr(STATS)
    )


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, "missing: number, exception, result, elapsed"),
        ({"number": 1}, "missing: exception, result, elapsed"),
        ({**FIELDS, "more": 1}, "not more"),
        ({"nummer": 1, **dict(list(FIELDS.items())[1:])}, "not nummer"),
    ],
    ids=["none", "too few", "too many", "misspelt"],
)
def test_a_value_takes_exactly_its_fields(fields: dict[str, object], wrong: str) -> None:
    """A missing, surplus or misspelt field is a TypeError that names it, and what is taken (A1)."""
    with pytest.raises(
        TypeError, match=f"^Attempt takes number, exception, result, elapsed, postponed; {wrong}$"
    ):
        Attempt(**fields)  # type: ignore[arg-type]


def test_fields_are_given_by_keyword() -> None:
    """Positional arguments are a TypeError (A1)."""
    with pytest.raises(TypeError):
        Attempt(1, None, None, 0.0)  # type: ignore[misc]


# -- durations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0.0),
        (-0.0, 0.0),
        (3, 3.0),
        (0.25, 0.25),
        (Decimal("0.5"), 0.5),
        (Fraction(1, 4), 0.25),
        (Index(), 3.0),
        (timedelta(0), 0.0),
        (timedelta(minutes=2, milliseconds=500), 120.5),
    ],
    ids=lambda value: repr(value).partition(" at ")[0],
)
def test_seconds_takes_real_numbers_and_timedeltas(value: object, expected: float) -> None:
    """Every real number and every timedelta that is not negative is a duration, in seconds (B1)."""
    result = seconds("delay", value)
    assert expected == result
    assert float is type(result)
    assert expected == optional_seconds("delay", value)


@pytest.mark.parametrize(
    "value",
    [None, True, False, "1", b"1", 1j, [1], object, object()],
    ids=lambda value: repr(value).partition(" at ")[0],
)
def test_seconds_refuses_other_types(value: object) -> None:
    """What is no number is a TypeError that names the argument and the value; a bool is no number (B8)."""
    with pytest.raises(TypeError) as caught:
        seconds("delay", value)
    assert f"delay must be a number of seconds or a timedelta, not {value!r}" == str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        -1,
        -1e-9,
        math.inf,
        -math.inf,
        math.nan,
        10**400,
        -(10**400),
        timedelta(microseconds=-1),
        Decimal("NaN"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_seconds_refuses_what_is_out_of_range(value: object) -> None:
    """A duration is finite and 0 or more; the ValueError names argument, value and range (B8)."""
    with pytest.raises(ValueError, match="seconds") as caught:
        seconds("delay", value)
    assert f"delay must be a finite number of seconds, 0 or more, not {value!r}" == str(caught.value)


def test_optional_seconds_takes_none() -> None:
    """None stays None; anything else is checked as usual (B1)."""
    assert optional_seconds("delay", None) is None
    with pytest.raises(ValueError, match=r"^delay must be a finite number of seconds, 0 or more, not -1$"):
        optional_seconds("delay", -1)


@given(st.timedeltas(min_value=timedelta(0)))
def test_a_timedelta_is_its_total_seconds(duration: timedelta) -> None:
    """A timedelta counts as its total seconds, checked or not (B1)."""
    assert duration.total_seconds() == seconds("delay", duration) == to_seconds(duration)


@given(st.floats(allow_nan=False))
def test_to_seconds_leaves_numbers_alone(number: float) -> None:
    """Unchecked, any number stays as it is, negative and infinite ones too (A3)."""
    assert number == to_seconds(number)


# -- integers ------------------------------------------------------------------------------------


@given(st.integers(min_value=1))
def test_checked_int_returns_checked_integers(value: int) -> None:
    """Every integer of 1 or more passes (B1)."""
    assert value == checked_int("max_attempts", value)


@pytest.mark.parametrize(
    "value", [None, True, 1.0, "1", Decimal(1), Index()], ids=lambda value: repr(value).partition(" at ")[0]
)
def test_checked_int_refuses_other_types(value: object) -> None:
    """What is no integer is a TypeError that names argument, value and range; a bool is none (B1)."""
    with pytest.raises(TypeError) as caught:
        checked_int("max_attempts", value)
    assert f"max_attempts must be an integer, 1 or more, not {value!r}" == str(caught.value)


@given(st.integers(max_value=0))
def test_checked_int_refuses_what_is_out_of_range(value: int) -> None:
    """An integer below 1 is a ValueError that names argument, value and range (B1)."""
    with pytest.raises(ValueError, match=rf"^max_attempts must be 1 or more, not {value}$"):
        checked_int("max_attempts", value)


def test_the_order_of_the_arguments_makes_no_difference() -> None:
    """Equal values have equal hashes, and look alike."""
    one = Attempt(number=1, exception=None, result=2, elapsed=0.5)
    other = Attempt(elapsed=0.5, result=2, exception=None, number=1)
    assert (one, hash(one), repr(one)) == (other, hash(other), repr(other))


@pytest.mark.parametrize(
    ("duration", "words"),
    [
        (0, "0 s"),
        (2.5e-5, "0 s"),
        (0.00123456, "0.00123 s"),
        (7.5432, "7.54 s"),
        (999.6, "1000 s"),
        (3600, "3600 s"),
    ],
)
def test_durations_are_said_without_powers_of_ten(duration: float, words: str) -> None:
    """Three digits are enough for a reader, and an hour is 3600 s."""
    assert words == in_words(duration)
