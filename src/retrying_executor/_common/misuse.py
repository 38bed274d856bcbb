"""Refuses misuse that Python would accept, or refuse with an obscure error: misplaced options, and copies."""

from __future__ import annotations

from functools import wraps
from types import FunctionType

from retrying_executor._common.public import public

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])

_VARKEYWORDS = 0x08  # a flag of code, as `inspect` has it
_ALSO_CALLED = {  # by other libraries
    **dict.fromkeys(("attempts", "max_retries", "max_tries", "retries", "tries"), "max_attempts"),
    "max_time": "max_elapsed",
    "on": "retry_on",
}
_ALIKE = 0.75  # how similar to a known name, from 0 to 1, a name must be to pass for a slip of the pen


def refuse_to_copy(self: object) -> NoReturn:
    """Raise `TypeError`: this cannot be pickled or copied, since it has threads, or is shared."""
    raise TypeError(f"cannot pickle or copy {type(self).__name__!r} object")


def says_where(place: str = "") -> Callable[[F], F]:
    """Have a method refuse misplaced options, with an error that says where they belong.

    These are options that the method does not take, and options given by position. The options that it takes
    are read off its signature.

    Args:
        place: What errors of other methods say of how this method's options are given, with ``{}`` for the
            name. Empty: other methods do not mention them.
    """

    def decorate(function: F) -> F:
        code = function.__code__
        most = code.co_argcount
        names = frozenset(code.co_varnames[1 : most + code.co_kwonlyargcount])
        takes_others = code.co_flags & _VARKEYWORDS
        if place:
            _places[place] = names

        @wraps(function)
        def checked(*args: Any, **options: Any) -> Any:
            if not takes_others and not names.issuperset(options):
                _refuse_option(checked, names, options)
            for arg in args[1:]:
                keyword = getattr(type(arg), "_given_as", None)
                if keyword is not None:
                    raise TypeError(
                        f"{keyword} must be given by keyword, not as a positional argument: {arg!r}"
                    )
            if len(args) > most:
                is_decorated = type(args[most]) is FunctionType and callable(args[0])
                advice = f": write @{type(args[0]).__name__}()" if is_decorated else ""
                raise TypeError(
                    f"{checked.__qualname__}() takes options by keyword, not by position: "
                    f"{args[most]!r}{advice}"
                )
            return function(*args, **options)

        checked.__wrapped__ = _as_shown(function)
        return checked  # type: ignore[return-value]  # of the same signature

    return decorate


_places: dict[str, frozenset[str]] = {}
"""The names of the options, by the *place* in which they are given: see `says_where`."""


class _Named:
    """Stands for a function that is the default of an option, in a signature that is shown: by its name."""

    def __init__(self, function: FunctionType) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __eq__(self, other: object) -> bool:
        return self._function == getattr(other, "_function", other)

    def __hash__(self) -> int:
        return hash(self._function)

    def __repr__(self) -> str:
        return self._function.__name__


def _as_shown(function: Any) -> Any:
    """Return a copy of *function* from which `inspect` may read the signature that users see."""
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__annotations__ = function.__annotations__
    defaults = (function.__kwdefaults__ or {}).items()
    copy.__kwdefaults__ = {
        name: _Named(value) if type(value) is FunctionType else value for name, value in defaults
    }
    return copy


def _refuse_option(function: Callable[..., Any], names: Iterable[str], options: Iterable[str]) -> NoReturn:
    name = next(each for each in options if each not in names)
    known = {*names}.union(*_places.values())
    meant = _ALSO_CALLED.get(name, name)
    if meant not in known:
        from difflib import get_close_matches  # slow to import

        meant = "".join(get_close_matches(name, sorted(known), 1, _ALIKE))
    hints = sorted(place.format(meant) for place, options in _places.items() if meant in options)
    if meant in names:
        hints = [f"{meant}="]
    advice = f": did you mean {' or '.join(hints)}?" if hints else ""
    raise TypeError(f"{function.__qualname__}() got an unexpected keyword argument {name!r}{advice}")


public(refuse_to_copy)
refuse_to_copy.__name__ = refuse_to_copy.__qualname__ = "__reduce__"  # as help() calls it
