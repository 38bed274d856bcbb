"""Calls as pickles, to be kept on disk or sent elsewhere."""

from __future__ import annotations

import pickle
from functools import cache

from retrying_executor._common.errors import final
from retrying_executor._common.log import call_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def pickled(
    fn: Callable[..., object],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    hint: str,
    dumps: Callable[[object], bytes] | None = None,
) -> bytes:
    """Return a call as a pickle of the tuple ``(fn, args, kwargs)``.

    Args:
        fn: Its function.
        args: Its arguments.
        kwargs: Its keyword arguments.
        hint: What an error is to say if it is the function that cannot be pickled.
        dumps: How to pickle; ``None``: as `pickle` does.

    Raises:
        TypeError: If it cannot be pickled; names the part that is to blame.
    """
    dumps = dumps or _dumps
    try:
        return dumps((fn, args, kwargs))
    except Exception as error:
        raise final(_why_not(fn, args, kwargs, error, hint, dumps)) from error


def _dumps(obj: object) -> bytes:
    return pickle.dumps(obj, pickle.HIGHEST_PROTOCOL)


def dumps_by_reference(obj: object) -> bytes:
    """Pickle *obj* by reference; what cannot be is pickled by value, if ``cloudpickle`` is installed.

    Raises:
        Exception: If it cannot be pickled.
    """
    try:
        return _dumps(obj)
    except Exception:
        if _cloudpickle() is None:
            raise
        return dumps_by_value(obj)


def dumps_by_value(obj: object) -> bytes:
    """Pickle *obj*; functions of the main module by value, if ``cloudpickle`` is installed."""
    cloudpickle = _cloudpickle()
    return _dumps(obj) if cloudpickle is None else cloudpickle.dumps(obj)


def dumps_without_main(obj: object) -> bytes:
    """Pickle *obj* as `dumps_by_value`, in a program that no other process can import: it was typed in.

    Raises:
        PicklingError: If that would need the main module.
    """
    dumped = dumps_by_value(obj)
    if _cloudpickle() is None and b"__main__" in dumped:
        raise pickle.PicklingError("it is of a program without a file, which cannot be imported elsewhere")
    return dumped


def resent(pickle_: bytes) -> bytes | None:
    """Return what to send instead of a pickle that cannot be read there: a script may not be importable.

    Returns:
        The same by value; ``None`` if that makes no difference, or ``cloudpickle`` is not installed.
    """
    if _cloudpickle() is None:
        return None
    try:
        by_value = dumps_by_value(pickle.loads(pickle_))
    except Exception:  # it cannot be read here either
        return None
    return None if by_value == pickle_ else by_value


@cache
def _cloudpickle() -> Any:
    from importlib import import_module

    try:
        return import_module("cloudpickle")
    except ImportError:
        return None


def _why_not(
    fn: Callable[..., object],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    error: Exception,
    hint: str,
    dumps: Callable[[object], bytes],
) -> TypeError:
    """Return what to raise for a call that cannot be pickled: it names the part that is to blame."""
    parts = {"fn": fn, **{f"argument {i}": arg for i, arg in enumerate(args, 1)}}
    parts.update({f"argument {name!r}": arg for name, arg in kwargs.items()})
    for name, part in parts.items():
        try:
            dumps(part)
        except Exception as cause:
            shown = call_name(fn) if part is fn else f"a {type(part).__name__}"
            more = f"; {hint}" if part is fn else ""
            return TypeError(f"{name} must be something that can be pickled, not {shown}: {cause}{more}")
    return TypeError(f"a call of {call_name(fn)} cannot be pickled: {error}")
