"""Immutable values, and the checks that their arguments go through.

Not dataclasses: importing those takes longer than all of this package together.
"""

from __future__ import annotations

import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import timedelta
    from typing import NoReturn, Protocol, TypeAlias

    from typing_extensions import dataclass_transform

    Duration: TypeAlias = float | timedelta
    """Seconds, or a ``timedelta``."""

    class Clock(Protocol):
        """What tells the time: the module `time`, or what stands in for it."""

        def monotonic(self) -> float: ...

else:

    def dataclass_transform(**_):
        return lambda cls: cls


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Value:
    """An immutable value with the fields that a subclass annotates, all given by keyword.

    A field that is assigned in the class has that as its default.
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
    """Return *duration* in seconds, unchecked: what a ``timeout`` of the standard library takes."""
    total_seconds = getattr(duration, "total_seconds", None)  # spares the import of datetime
    return duration if total_seconds is None else total_seconds()  # type: ignore[return-value]  # not a timedelta


def seconds(name: str, value: object) -> float:
    """Return the duration *value* as a finite number of seconds, 0 or more.

    Args:
        name: What to call the value in an error.
        value: A real number of seconds, or a ``timedelta``.

    Raises:
        TypeError: If *value* is neither a number nor a ``timedelta``; a ``bool`` is neither.
        ValueError: If it is negative, infinite or not a number (NaN).
    """
    number = to_seconds(value)  # type: ignore[arg-type]  # whatever it is, the next lines decide
    if isinstance(number, bool) or not (hasattr(number, "__float__") or hasattr(number, "__index__")):
        raise TypeError(f"{name} must be a number of seconds or a timedelta, not {value!r}")
    try:
        result = float(number)
    except OverflowError:
        result = math.inf
    if not 0.0 <= result < math.inf:
        raise ValueError(f"{name} must be a finite number of seconds, 0 or more, not {value!r}")
    return result


def check_timeout(timeout: object) -> None:
    """Check a ``timeout`` as the standard library has them: of any sign, 0 and infinity included.

    Raises:
        TypeError: If *timeout* is neither ``None`` nor a number nor a ``timedelta``; a ``bool`` is neither.
    """
    number = 0.0 if timeout is None else to_seconds(timeout)  # type: ignore[arg-type]  # see there
    if isinstance(number, bool) or not (hasattr(number, "__float__") or hasattr(number, "__index__")):
        raise TypeError(f"timeout must be a number of seconds, a timedelta or None, not {timeout!r}")


def in_digits(number: float) -> str:
    """Return a number, 0 or more, for a reader: three digits, and no powers of ten."""
    return f"{number:.3g}" if 1e-4 <= number < 999.5 else f"{number:.0f}"


def in_words(duration: float) -> str:
    """Return a duration in seconds for a reader; see `in_digits`."""
    return f"{in_digits(duration)} s"


def optional_seconds(name: str, value: object) -> float | None:
    """Return the duration *value* in seconds, or ``None`` for ``None``; errors as in `seconds`."""
    return None if value is None else seconds(name, value)


def checked_bool(name: str, value: object) -> bool:
    """Return *value* if it is ``True`` or ``False``.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def optional_name(name: str, value: object) -> str | None:
    """Return *value* if it is text that fits in a line and is not blank, or ``None``.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is empty or blank, or has a character that cannot be printed, such as a line break.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string or None, not {value!r}")
    if not value.strip() or not value.isprintable():
        raise ValueError(f"{name} must be text in one line, not empty or blank, not {value!r}")
    return value


def positive_int(name: str, value: object) -> int:
    """Return *value* if it is an integer of 1 or more.

    Raises:
        TypeError: If it is not an integer; a ``bool`` is none.
        ValueError: If it is less than 1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, 1 or more, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, not {value!r}")
    return value
