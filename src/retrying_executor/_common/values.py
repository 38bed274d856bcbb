"""Immutable values, and the checks of their arguments.

Not dataclasses: importing these takes longer than importing all of this package.
"""

from __future__ import annotations

import math
from _thread import TIMEOUT_MAX
from collections.abc import Mapping, Set
from itertools import islice

from retrying_executor._common.public import public

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Any, NoReturn, Protocol, TypeAlias

    from typing_extensions import Self, dataclass_transform

    Duration: TypeAlias = float | timedelta
    """Seconds, or a ``timedelta``."""

    class Clock(Protocol):
        """What tells the time: the module `time`, or a substitute for it."""

        def monotonic(self) -> float: ...

else:

    def dataclass_transform(**_):
        return lambda cls: cls


_MOST_ITEMS = 1_000_000  # of an iterable that a caller gives: some never end


@dataclass_transform(frozen_default=True, kw_only_default=True)
@public
class Value:
    """An immutable value with the fields that a subclass annotates, all given by keyword.

    A value assigned to a field in the class is its default.
    """

    def __init__(self, **fields: object) -> None:
        cls = type(self)
        known = [name for base in reversed(cls.__mro__) for name in getattr(base, "__annotations__", ())]
        fields = {**{name: getattr(cls, name) for name in known if hasattr(cls, name)}, **fields}
        unknown = [name for name in fields if name not in known]
        missing = [name for name in known if name not in fields]
        if unknown or missing:
            wrong = f"not {', '.join(unknown)}" if unknown else f"missing: {', '.join(missing)}"
            raise TypeError(f"{cls.__name__} takes {', '.join(known)}; {wrong}")
        self.__dict__.update((name, fields[name]) for name in known)  # in one order, for hash and repr
        self._check()

    @classmethod
    def _trusted(cls, **fields: object) -> Self:
        """Return a value with these fields, unchecked: the caller gives all of them, valid and in order."""
        value = object.__new__(cls)
        value.__dict__.update(fields)
        return value

    def _check(self) -> None:
        """Raise `TypeError` or `ValueError` if a field is invalid."""

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: cannot delete {name!r}")

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({fields})"


def to_seconds(duration: Duration) -> float:
    """Return *duration* in seconds, unchecked, as a ``timeout`` of the standard library."""
    # Asking for the method spares the import of datetime. It is looked up on the type of the value: the class
    # `timedelta` itself has the method too, but is no duration.
    total_seconds = getattr(type(duration), "total_seconds", None)
    return duration if total_seconds is None else total_seconds(duration)  # type: ignore[return-value]  # not a timedelta


def as_float(value: object) -> float | None:
    """Return a real number as a float; ``None`` for anything else: a ``bool``, text, the class of a number.

    A number that is too large becomes infinite, and a NaN of any type becomes the float NaN.
    """
    cls = type(value)
    if cls is bool or not (hasattr(cls, "__float__") or hasattr(cls, "__index__")):
        return None
    try:
        return float(value)  # type: ignore[arg-type]  # it has one of these methods
    except OverflowError:
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]  # it is a number
    except ValueError:  # such as a signalling NaN
        return math.nan
    except TypeError:  # such as an array
        return None


def seconds(name: str, value: object) -> float:
    """Return the duration *value* as a finite number of seconds, 0 or more.

    Args:
        name: What to call the value in an error.
        value: A real number of seconds, or a ``timedelta``.

    Raises:
        TypeError: If *value* is neither a number nor a ``timedelta``; a ``bool`` is neither.
        ValueError: If it is negative, infinite or not a number (NaN).
    """
    result = as_float(to_seconds(value))  # type: ignore[arg-type]  # checked in the next lines
    if result is None:
        raise TypeError(f"{name} must be a number of seconds or a timedelta, not {value!r}")
    if not 0.0 <= result < math.inf:
        raise ValueError(f"{name} must be a finite number of seconds, 0 or more, not {value!r}")
    return result


def positive_seconds(name: str, value: object) -> float:
    """Return the duration *value* as `seconds` does, with its errors; 0 is a `ValueError` here too."""
    result = seconds(name, value)
    if not result:
        raise ValueError(f"{name} must be more than 0 seconds, not {value!r}")
    return result


def optional_seconds(name: str, value: object) -> float | None:
    """Return the duration *value* in seconds, or ``None`` for ``None``; errors as in `seconds`."""
    return None if value is None else seconds(name, value)


def checked_timeout(timeout: object) -> float | None:
    """Return a ``timeout`` of the standard library's kind, in seconds: of any sign; ``None`` for no limit.

    A timeout of centuries, longer than threads can wait for, is no limit either.

    Raises:
        TypeError: If *timeout* is neither ``None`` nor a number nor a ``timedelta``; a ``bool`` is neither.
        ValueError: If it is not a number (NaN).
    """
    if timeout is None:
        return None
    number = as_float(to_seconds(timeout))  # type: ignore[arg-type]  # checked in the next lines
    if number is None:
        raise TypeError(f"timeout must be a number of seconds, a timedelta or None, not {timeout!r}")
    if math.isnan(number):
        raise ValueError(f"timeout must be a number of seconds, not {timeout!r}")
    return None if number > TIMEOUT_MAX else number


def checked_weight(name: str, value: object) -> float:
    """Return *value* if it is a finite number, 0 or more: an integer stays one.

    Raises:
        TypeError: If it is not a real number; a ``bool`` is none.
        ValueError: If it is negative, infinite or not a number (NaN).
    """
    number = as_float(value)
    if number is None:
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not 0.0 <= number < math.inf:
        raise ValueError(f"{name} must be a finite number, 0 or more, not {value!r}")
    return value if isinstance(value, int) else number


def in_digits(number: float) -> str:
    """Return a number, 0 or more, as text: three digits, and no powers of ten."""
    return f"{number:.3g}" if 1e-4 <= number < 999.5 else f"{number:.0f}"


def in_words(duration: float) -> str:
    """Return a duration in seconds as text; see `in_digits`."""
    return f"{in_digits(duration)} s"


def checked_bool(name: str, value: object) -> bool:
    """Return *value* if it is ``True`` or ``False``.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def checked_name(name: str, value: object) -> str:
    """Return *value* if it is text that fits in a line and is not blank.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is empty or blank, or has a character that cannot be printed, such as a line break.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {value!r}")
    if not value.strip() or not value.isprintable():
        raise ValueError(f"{name} must be one line of text, and not blank: not {value!r}")
    return value


def optional_name(name: str, value: object) -> str | None:
    """Return *value* as `checked_name` does, or ``None`` for ``None``."""
    return None if value is None else checked_name(name, value)


def sequence(name: str, value: Any, what: str) -> tuple[Any, ...]:
    """Return the items of an iterable that has an order.

    Text is refused, since its items would be characters, and so are bytes, sets and mappings.

    Args:
        name: What to call the value in an error.
        value: What to check.
        what: What it has to be, in words.

    Raises:
        TypeError: If it is no iterable, or a refused one.
        ValueError: If it has too many items.
    """
    is_iterable = hasattr(type(value), "__iter__") or hasattr(type(value), "__getitem__")
    if not is_iterable or isinstance(value, (str, bytes, bytearray, memoryview, Set, Mapping)):
        raise TypeError(f"{name} must be {what}, not {value!r}")
    items = tuple(islice(value, _MOST_ITEMS + 1))
    if len(items) > _MOST_ITEMS:
        raise ValueError(f"{name} must end after {_MOST_ITEMS} items at most: not {value!r}")
    return items


def checked_int(name: str, value: object, least: int = 1) -> int:
    """Return *value* if it is an integer of *least* or more.

    Raises:
        TypeError: If it is not an integer; a ``bool`` is none.
        ValueError: If it is less than *least*.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, {least} or more, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value!r}")
    return value
