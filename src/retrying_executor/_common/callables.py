"""Callables: checks that they take the arguments that they will be given, and wrappers around them.

The checks look only at the code of a Python function. They do without `inspect`, which is slow to import, and
do not trust attributes, which an object may make up.
"""

from __future__ import annotations

from functools import cache, partial
from types import BuiltinFunctionType, CodeType, CoroutineType, FunctionType, MethodType

from retrying_executor._common.exceptions import classes_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from contextlib import AbstractContextManager
    from typing import Any

_VARARGS = 0x04  # a flag of code, as `inspect` has it
_COROUTINE, _ASYNC_GENERATOR = 0x80, 0x200
ASYNC = _COROUTINE | 0x100 | _ASYNC_GENERATOR
"""Flags of code: of coroutine functions, of generators that serve as such, of asynchronous generators."""

_FUNCTIONS = (FunctionType, MethodType, staticmethod)
_NEVER_ASYNC = frozenset({BuiltinFunctionType, type})
_MARKS = ("_is_coroutine", "_is_coroutine_marker")  # of `asyncio` and of `inspect`: each an ``object()``
_CACHED = type(cache(repr))

wrapper_codes: set[CodeType] = set()
"""The code of the frames that wrappers add to tracebacks."""


class Wrapper:
    """What an integration puts around the function of a call; names and verdicts look through it.

    Not a `functools.partial`: a partial of a partial replaces it, so the wrapper inside would be lost.

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


class Enclosing(Wrapper):
    """What an integration puts around each attempt: a context manager, entered before it and left after it.

    The attempt of a coroutine function ends when its coroutine has ended.

    Args:
        func: The function of the call, or another wrapper of it.
    """

    __slots__ = ("_is_async",)

    def __init__(self, func: Callable[..., Any]) -> None:
        super().__init__(func)
        self._is_async = is_async(func)

    if TYPE_CHECKING:  # what each integration does in its own way

        def around(self) -> AbstractContextManager[object]:
            """Return the context manager for one attempt. Called in the attempt, so in its context."""
            ...

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        try:
            if self._is_async:
                return self._call_async(*args, **kwargs)
            with self.around():
                return self.func(*args, **kwargs)
        finally:
            del self, args, kwargs  # so that a traceback, which keeps this frame, does not keep them

    async def _call_async(self, /, *args: Any, **kwargs: Any) -> Any:
        try:
            with self.around():
                return await self.func(*args, **kwargs)
        finally:
            del self, args, kwargs


wrapper_codes.add(Enclosing._call_async.__code__)


class CoroutineFunction(Wrapper):
    """A coroutine function that is submitted: its attempts leave their worker for an event loop."""

    __slots__ = ()

    def __call__(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Return a coroutine, whatever else *func* returns that can be awaited."""
        awaitable = self.func(*args, **kwargs)
        return awaitable if type(awaitable) is CoroutineType else _awaited(awaitable)


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _function_of(fn: Any) -> tuple[Any, int]:
    """Return the Python function that calling *fn* runs, if any, and how many arguments are added: ``self``.

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
    return bool(_async_flags(fn))


def _async_flags(fn: Any) -> int:
    """Return which of the flags `ASYNC` the code has that calling *fn* runs."""
    fn = unwrapped(fn)
    if _is_marked(fn):
        return _COROUTINE
    code = code_of(fn)
    return 0 if code is None else code.co_flags & ASYNC


def unwrapped(fn: Any) -> Any:
    """Return what *fn* calls, if it only adds arguments, remembers results, or is of an integration."""
    while issubclass(type(fn), (partial, Wrapper, _CACHED)):
        fn = fn.__wrapped__ if type(fn) is _CACHED else fn.func
    return fn


def code_of(fn: Any) -> CodeType | None:
    """Return the code that calling *fn* runs, if that is Python's; or what Cython's functions have for it."""
    function, _ = _function_of(fn)
    if function is None:
        function = fn.__func__ if type(fn) is MethodType else fn
        cls: type[object] = type(function)
        if not any("__code__" in vars(base) for base in cls.__mro__):  # else it may be made up
            return None
    code = function.__code__
    return code if type(code) is CodeType else None


def _is_marked(fn: Any) -> bool:
    """Return whether an object is marked as a coroutine function, as a mock of one is.

    Only its own attributes count: a mock of anything else makes up every attribute that is asked for.
    """
    if issubclass(type(fn), type):  # a mark of a class is about calling its instances
        return False
    try:
        own = object.__getattribute__(fn, "__dict__")
    except AttributeError:
        return False
    return any(type(own.get(mark)) is object for mark in _MARKS)


def to_run(fn: Any, given_to: str = "submit") -> Any:
    """Return what an attempt is to call for a function that is submitted: a coroutine function is marked.

    Args:
        fn: The function.
        given_to: The method that it was given to, for the error.

    Raises:
        TypeError: If it is not callable, or makes an asynchronous generator, which nobody would iterate over.
    """
    if type(fn) in _NEVER_ASYNC:  # common types come first, since every submit() gets here
        return fn
    inner = fn.__func__ if type(fn) is MethodType else fn
    if type(inner) is FunctionType:
        flags = inner.__code__.co_flags & ASYNC
        if not flags and not inner.__dict__:  # where a mark would be
            return fn
        if flags == _COROUTINE:
            return CoroutineFunction(fn)
    while isinstance(inner, Wrapper):
        inner = inner.func
    if not callable(inner):
        raise TypeError(
            f"fn is not callable: {inner!r}; it is {given_to}(fn, *args), not {given_to}(fn(*args))"
        )
    flags = _async_flags(inner)
    if not flags:
        return fn
    if flags == _ASYNC_GENERATOR:
        raise TypeError(
            f"fn must not be an asynchronous generator, which nobody would iterate over: {inner!r}"
        )
    return CoroutineFunction(fn)


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
