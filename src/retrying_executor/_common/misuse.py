"""What is refused at once, since it would pass in silence or fail in an obscure way later.

What is looked at of a callable is its code, and only of those that Python knows: no `inspect`, which is slow
to import, and no attribute that an object makes up. Where an option belongs is read off the signatures
of what is decorated.
"""

from __future__ import annotations

from functools import cache, partial, wraps
from types import BuiltinFunctionType, FunctionType, MethodType

from retrying_executor._common.public import public
from retrying_executor._common.wrapper import Wrapper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import CodeType
    from typing import Any, NoReturn, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])

# Flags of code, as `inspect` has them.
_VARARGS = 0x04
_VARKEYWORDS = 0x08
ASYNC = (
    0x80 | 0x100 | 0x200
)  # a coroutine function, one that is a generator, an asynchronous generator function

_FUNCTIONS = (FunctionType, MethodType, staticmethod)
_NEVER_ASYNC = frozenset({BuiltinFunctionType, type})
_MARKS = ("_is_coroutine", "_is_coroutine_marker")  # of `asyncio` and of `inspect`: each an ``object()``
_ALSO_CALLED: dict[str, str] = dict.fromkeys(("attempts", "max_retries", "retries"), "max_attempts")
_ALIKE = 0.75  # from 0 to 1


def refuse_to_copy(self: object) -> NoReturn:
    """Raise `TypeError`: what has threads or is shared is neither pickled nor copied (``__reduce__``)."""
    raise TypeError(f"cannot pickle or copy {type(self).__name__!r} object")


_CACHED = type(cache(refuse_to_copy))


# -- callables -------------------------------------------------------------------------------------


def _function_of(fn: Any) -> tuple[Any, int]:
    """Return the Python function that calling *fn* runs, if any, and how many arguments it is given besides.

    Types are compared by identity: a mock, or a proxy, may claim to be a function.
    """
    cls, bound = type(fn), 0
    if cls not in _FUNCTIONS and not issubclass(cls, type):
        fn = next((vars(base)["__call__"] for base in cls.__mro__ if "__call__" in vars(base)), None)
        cls, bound = type(fn), int(type(fn) is FunctionType)
    if cls is MethodType:
        fn, bound = fn.__func__, 1
    elif cls is staticmethod:
        fn = fn.__func__
    return (fn if type(fn) is FunctionType else None), bound


def is_async(fn: Any) -> bool:
    """Return whether calling *fn* only makes a coroutine, or an asynchronous generator."""
    while issubclass(type(fn), (partial, Wrapper, _CACHED)):
        fn = fn.__wrapped__ if type(fn) is _CACHED else fn.func
    if _is_marked(fn):
        return True
    if type(fn) not in _FUNCTIONS and not issubclass(type(fn), type):
        fn = getattr(type(fn), "__call__", None)  # noqa: B004  # what a call of it runs
    if type(fn) in (MethodType, staticmethod):
        fn = fn.__func__
    return type(fn) is FunctionType and bool(fn.__code__.co_flags & ASYNC)


def _is_marked(fn: Any) -> bool:
    """Return whether an object says that it is a coroutine function: a mock of one, or by `inspect`.

    Only what it has itself counts: a mock of anything else makes up every attribute that is asked for.
    """
    if issubclass(type(fn), type):  # what its instances are, says nothing of calling it
        return False
    try:
        own = object.__getattribute__(fn, "__dict__")
    except AttributeError:
        return False
    return any(type(own.get(mark)) is object for mark in _MARKS)


def check_call(fn: Any) -> None:
    """Check what is submitted.

    Raises:
        TypeError: If it is not callable, or a coroutine function, which nobody would await.
    """
    if type(fn) in _NEVER_ASYNC:  # those that are common come first, since every submit() gets here
        return
    inner = fn.__func__ if type(fn) is MethodType else None
    if type(inner) is FunctionType and not inner.__code__.co_flags & ASYNC:
        return
    while isinstance(fn, Wrapper):
        fn = fn.func
    if not callable(fn):
        raise TypeError(f"fn is not callable: {fn!r}; it is submit(fn, *args), not submit(fn(*args))")
    if is_async(fn):
        raise TypeError(
            f"fn must not be a coroutine function, which nobody would await, but is {fn!r};"
            " submit(lambda: asyncio.run(fn(...))) runs one"
        )


def checked_callable(name: str, value: Any, *, takes: int, what: str = "callable") -> Any:
    """Return *value* if it is ``None`` or can be called with so many positional arguments.

    Raises:
        TypeError: If not, or if it is a coroutine function.
    """
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be {what} or None, not {value!r}")
    if is_async(value):
        raise TypeError(f"{name} must be called in a thread: no coroutine function, such as {value!r}")
    function, bound = _function_of(value)
    if function is not None and not _may_take(function, takes + bound):
        raise TypeError(f"{name} must take {takes or 'no'} positional argument{'s'[takes:]}: not {value!r}")
    return value


def _may_take(function: Any, count: int) -> bool:
    code: CodeType = function.__code__
    needed = code.co_argcount - len(function.__defaults__ or ())
    keywords = code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]
    fits = needed <= count and (count <= code.co_argcount or bool(code.co_flags & _VARARGS))
    return fits and set(keywords) <= set(function.__kwdefaults__ or ())


# -- options ---------------------------------------------------------------------------------------


def says_where(place: str = "") -> Callable[[F], F]:
    """Have a method say where an option belongs that it does not take, or that is given by position.

    Args:
        place: How its own options are given, with ``{}`` for the name; empty: others need not know it.
    """

    def decorate(function: F) -> F:
        names = _own_options(function)
        if place:
            _places[place] = names
        return _checked(function, names)

    return decorate


_places: dict[str, frozenset[str]] = {}
"""The names of the options, by where they belong."""


def _own_options(function: Callable[..., Any]) -> frozenset[str]:
    code = function.__code__
    return frozenset(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount])


def _checked(function: F, names: frozenset[str]) -> F:
    code = function.__code__
    most = code.co_argcount
    takes_others = code.co_flags & _VARKEYWORDS

    @wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        if not takes_others and not names.issuperset(options):
            _refuse_option(checked, names, options)
        for arg in args[1:]:
            keyword = getattr(type(arg), "_given_as", None)
            if keyword is not None:
                raise TypeError(f"{keyword} must be given by keyword, not as a positional argument: {arg!r}")
        if len(args) > most:
            raise TypeError(
                f"{checked.__qualname__}() takes options by keyword, not by position: {args[most]!r}"
            )
        return function(*args, **options)

    checked.__wrapped__ = _as_shown(function)
    return checked  # type: ignore[return-value]  # of the same signature


class _Named:
    """Stands for a function that is the default of an option, where that is shown: without its address."""

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
