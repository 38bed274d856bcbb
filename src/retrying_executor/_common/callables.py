"""Callables: checks that they can be called as they are going to be, and wrappers around them.

The checks look only at the code of a callable, and only where Python itself knows it: not with `inspect`,
which is slow to import, and not by attributes that an object may make up.
"""

from __future__ import annotations

from functools import cache, partial
from types import BuiltinFunctionType, FunctionType, MethodType

from retrying_executor._common.exceptions import classes_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any

_VARARGS = 0x04  # a flag of code, as `inspect` has it
ASYNC = 0x80 | 0x100 | 0x200
"""Flags of code: of coroutine functions, of generators that serve as such, of asynchronous generators."""

_FUNCTIONS = (FunctionType, MethodType, staticmethod)
_NEVER_ASYNC = frozenset({BuiltinFunctionType, type})
_MARKS = ("_is_coroutine", "_is_coroutine_marker")  # of `asyncio` and of `inspect`: each an ``object()``
_CACHED = type(cache(repr))

wrapper_codes: set[CodeType] = set()
"""The code of the frames that wrappers add to tracebacks."""


class Wrapper:
    """What an integration puts around the function of a call; names and verdicts look through it.

    Not a `functools.partial`: one made of another absorbs it, so the wrapper inside would be lost.

    Args:
        func: The function of the call, or another wrapper of it.
    """

    __slots__ = ("func",)

    def __init_subclass__(cls) -> None:
        wrapper_codes.add(cls.__call__.__code__)

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func

    if TYPE_CHECKING:

        def __call__(self, /, *args: Any, **kwargs: Any) -> Any: ...


def _function_of(fn: Any) -> tuple[Any, int]:
    """Return the Python function that calling *fn* runs, if any, and how many arguments that adds (``self``).

    Types are compared by identity: a mock or a proxy may claim to be a function.
    """
    cls, bound = type(fn), 0
    if cls not in _FUNCTIONS and not issubclass(cls, type):
        fn = next((vars(base)["__call__"] for base in cls.__mro__ if "__call__" in vars(base)), None)
        cls, bound = type(fn), int(type(fn) is FunctionType)
    if cls in (MethodType, classmethod):
        fn, bound = fn.__func__, 1
    elif cls is staticmethod:
        fn = fn.__func__
    return (fn if type(fn) is FunctionType else None), bound


def is_async(fn: Any) -> bool:
    """Return whether calling *fn* only makes a coroutine, or an asynchronous generator."""
    while issubclass(type(fn), (partial, Wrapper, _CACHED)):
        fn = fn.__wrapped__ if type(fn) is _CACHED else fn.func
    function, _ = _function_of(fn)
    return _is_marked(fn) or (function is not None and bool(function.__code__.co_flags & ASYNC))


def _is_marked(fn: Any) -> bool:
    """Return whether an object is marked as a coroutine function, as a mock of one is.

    Only its own attributes count: a mock of anything else makes up every attribute that is asked for.
    """
    if issubclass(type(fn), type):  # marks of a class are about its instances, not about calling it
        return False
    try:
        own = object.__getattribute__(fn, "__dict__")
    except AttributeError:
        return False
    return any(type(own.get(mark)) is object for mark in _MARKS)


def check_call(fn: Any) -> None:
    """Check a function that is submitted.

    Raises:
        TypeError: If it is not callable, or a coroutine function, which nobody would await.
    """
    if type(fn) in _NEVER_ASYNC:  # common types come first, since every submit() gets here
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
    """Return *value* if it is ``None`` or can be called with *takes* positional arguments.

    Args:
        name: What to call the value in an error.
        value: What to check.
        takes: The number of arguments; 0 or more.
        what: What it has to be, in words.

    Raises:
        TypeError: If not, or if it is a coroutine function.
    """
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be {what} or None, not {value!r}")
    if is_async(value):
        raise TypeError(
            f"{name} must not be a coroutine function, which nobody would await, but is {value!r}"
        )
    function, bound = _function_of(value)
    if function is not None and not _may_take(function, takes + bound):
        raise TypeError(f"{name} must take {takes or 'no'} positional argument{'s'[takes:]}: not {value!r}")
    return value


def checked_filter(name: str, value: object) -> tuple[type[BaseException], ...] | None:
    """Check a filter of exceptions: a class, a tuple of classes, or a callable that takes an exception.

    Returns:
        The classes; ``None`` if it is a callable.

    Raises:
        TypeError: If it is none of these, or a coroutine function.
    """
    classes = classes_in(value)
    if classes is None:
        if isinstance(value, (type, tuple)) or not callable(value):
            raise TypeError(
                f"{name} must be an exception class, a tuple of them, or a callable, not {value!r}"
            )
        checked_callable(name, value, takes=1)
    return classes


def _may_take(function: Any, count: int) -> bool:
    code: CodeType = function.__code__
    needed = code.co_argcount - len(function.__defaults__ or ())
    keywords = code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]
    fits = needed <= count and (count <= code.co_argcount or bool(code.co_flags & _VARARGS))
    return fits and set(keywords) <= set(function.__kwdefaults__ or ())
