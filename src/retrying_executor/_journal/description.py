"""What a call is to do, for people to read, without doing any of it.

A pickle is read with stand-ins for all that it would import: they take whatever a pickle gives them and do
nothing. So nothing of the program runs, and nothing that somebody has put into the file.
"""

from __future__ import annotations

import datetime
import io
import json
import pickle
from reprlib import recursive_repr
from typing import NamedTuple

from retrying_executor._journal.payload import PICKLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HARMLESS = ("date", "datetime", "time", "timedelta", "timezone")
"""Of `datetime`; their pickles are not for people."""


class Description(NamedTuple):
    """What a call is given: the values, where they are JSON, and otherwise what they look like.

    *why_not* says why they cannot be shown; then there are none.
    """

    form: str
    size: int
    args: list[Any] = []  # noqa: RUF012  # never changed
    kwargs: dict[str, Any] = {}  # noqa: RUF012  # never changed
    why_not: str | None = None


def describe(payload: bytes) -> Description:
    """Return what a call is given."""
    form, size = "pickle" if payload[:1] == PICKLE else "JSON", len(payload) - 1
    try:
        if form == "JSON":
            _, args, kwargs = json.loads(payload[1:])
            return Description(form, size, list(args), dict(kwargs))
        _, args, kwargs = _Reader(io.BytesIO(payload[1:])).load()
        return Description(
            form, size, list(map(repr, args)), {name: repr(arg) for name, arg in kwargs.items()}
        )
    except Exception as error:  # whatever bytes are there
        return Description(form, size, why_not=f"{type(error).__name__}: {error}")


class _Kind(type):
    def __repr__(cls) -> str:
        return cls.__name__


class _StandIn(metaclass=_Kind):
    """What there is instead of an object that has a class, or that a function returns."""

    def __new__(cls, *args: object, **kwargs: object) -> _StandIn:
        self = super().__new__(cls)
        self._args = [*map(repr, args), *(f"{name}={arg!r}" for name, arg in kwargs.items())]
        self._state = []
        self._items = []
        return self

    _args: list[str]
    _state: list[object]
    _items: list[object]

    def __setstate__(self, state: object) -> None:
        self._state.append(state)

    def append(self, item: object) -> None:
        self._items.append(item)

    def __setitem__(self, key: object, value: object) -> None:
        self._items.append({key: value})

    @recursive_repr()
    def __repr__(self) -> str:
        parts = [*self._args, *map(repr, self._state), *map(repr, self._items)]
        return f"{type(self).__name__}({', '.join(parts)})"


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        """Return a stand-in for what has that name; everything that a pickle can call comes from here."""
        if module == "datetime" and name in _HARMLESS:
            return getattr(datetime, name)
        return _Kind(f"{module}.{name}", (_StandIn,), {})
