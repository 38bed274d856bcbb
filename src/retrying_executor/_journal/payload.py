"""What to run, as bytes: pickled, or as JSON for functions that the program has named."""

from __future__ import annotations

import io
import json
import pickle
from reprlib import repr  # noqa: A004  # of what is hostile, or nested deeply, too; and never long

from retrying_executor._common.errors import final
from retrying_executor._common.log import call_name
from retrying_executor._common.sending import pickled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol, TypeAlias

    Function: TypeAlias = Callable[..., object]
    Run: TypeAlias = tuple[Function, tuple[Any, ...], dict[str, Any]]
    """Function, arguments, keyword arguments."""

    class Format(Protocol):
        """How calls are written."""

        def dump(self, fn: Function, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> bytes:
            """Return a call as bytes.

            Raises:
                TypeError: If it cannot be written like that.
            """
            ...

        def load(self, payload: bytes, /) -> Run:
            """Return the call again; raises anything if that is impossible."""
            ...


PICKLE, _JSON = b"P", b"J"
"""What payloads begin with, so that nobody who wants no pickle ever loads one."""


class UnknownError(Exception):
    """The call cannot be read here."""


class Pickles:
    """Calls as pickles. They can run any code when they are loaded, so the directory must be trusted.

    Args:
        renamed: What is to be found under names that are gone: ``"module.function"``.
    """

    def __init__(self, renamed: Mapping[str, object]) -> None:
        self._renamed = dict(renamed)

    def dump(self, fn: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Return a call as bytes."""
        return PICKLE + pickled(
            fn, args, kwargs, "a journal takes functions that can be imported by their name"
        )

    def load(self, payload: bytes) -> Run:
        """Return the call again."""
        if payload[:1] != PICKLE:
            raise UnknownError("it is written as JSON, and this journal reads pickles: give it functions=")
        fn, args, kwargs = _Unpickler(io.BytesIO(payload[1:]), self._renamed).load()
        return _checked(fn, args, kwargs, tuple)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, renamed: Mapping[str, object]) -> None:
        super().__init__(file)
        self._renamed = renamed

    def find_class(self, module: str, name: str) -> Any:
        """Return what has that name, or had it."""
        found = self._renamed.get(f"{module}.{name}")
        return super().find_class(module, name) if found is None else found


class Jsons:
    """Calls as JSON, of functions that the program has named.

    Args:
        functions: By their names in the journal. Several names of one function are allowed, for those that
            it had; the last is the one that is written.
    """

    def __init__(self, functions: Mapping[str, Function]) -> None:
        self._functions = dict(functions)
        self._names = {fn: name for name, fn in functions.items()}

    def dump(self, fn: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Return a call as bytes."""
        try:
            name = self._names.get(fn)
        except TypeError:  # it cannot be hashed
            name = None
        if name is None:
            raise final(TypeError(f"fn must be one of the functions= of the journal, not {call_name(fn)}"))
        for where, arg in [*enumerate(args, 1), *kwargs.items()]:
            _check_json(where, arg)
        return _JSON + json.dumps([name, args, kwargs]).encode()

    def load(self, payload: bytes) -> Run:
        """Return the call again."""
        if payload[:1] != _JSON:
            raise UnknownError("it is written as a pickle, and this journal reads JSON")
        name, args, kwargs = json.loads(payload[1:])
        if name not in self._functions:
            raise UnknownError(f"the journal has no function {name!r}")
        return _checked(self._functions[name], args, kwargs, list)


def _checked(fn: Any, args: Any, kwargs: Any, kind: type[tuple[Any, ...] | list[Any]]) -> Run:
    """Return a call that was read; raises `UnknownError` if its arguments cannot be what was written."""
    if type(args) is kind and type(kwargs) is dict:
        return fn, tuple(args), kwargs
    raise UnknownError("its arguments are damaged")


def _check_json(where: object, arg: object) -> None:
    """Refuse an argument that JSON cannot hold, or would give back as something else.

    Raises:
        TypeError: If it is one.
    """
    name = f"argument {where!r}"
    try:
        back = json.loads(json.dumps(arg, allow_nan=False))
        is_same = _is_same(arg, back)
    except Exception as error:
        why = f"{repr(arg)}: {error}"
        raise final(TypeError(f"{name} must be something that JSON can hold, not {why}")) from error
    if not is_same:
        changed = f"{repr(arg)} becomes {repr(back)}"
        raise final(TypeError(f"{name} must be something that JSON gives back as it is: {changed}"))


def _is_same(one: object, other: object) -> bool:
    """Return whether two values are equal and of the same types: a tuple is no list, ``True`` is not 1."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    return one == other
