"""Turns exceptions into bytes, whatever they are and refer to.

An exception is made anew there without its ``__init__``, which may demand other arguments than ``args``. What
it refers to is pickled part by part. What cannot be, such as a socket, leaves a `Missing` behind, with what
rules read of an answer; the rest stays. A class is looked up by its name there; where there is none, it is
made up of its bases.

The bytes are read once to check them. Where that fails, more is left out: see `_Pickler`.
"""

from __future__ import annotations

import builtins
import copyreg
import enum
import io
import pickle
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from types import BuiltinFunctionType, FunctionType, ModuleType

from retrying_executor._common.exceptions import class_name, is_a, led_to, traceback_of
from retrying_executor._common.log import describe
from retrying_executor._engines.unpacking import (
    ARGS,
    DESCRIPTORS,
    LINKS,
    Missing,
    class_like,
    find,
    made,
    new_exception,
    new_group,
    new_object,
    set_fields,
)
from retrying_executor._policy.reading import called, get
from retrying_executor._policy.rules import was_not_entered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Facts = tuple[str, str, str, str, bool, bool]

_MOST_BYTES = 1 << 26  # an exception may refer to all that a program has
_MOST_BYTES_OF_PART = 1 << 20
_MOST_CHARACTERS = 20_000  # of a traceback
_LONGEST_CHAIN = 50  # of causes and contexts
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())  # from Python 3.11 on
_OF_PYTHON = sys.stdlib_module_names | {"builtins", __name__.partition(".")[0]}
_FREE = {
    type(threading.Lock()): threading.Lock,
    type(threading.RLock()): threading.RLock,
    threading.Condition: threading.Condition,
}
"""What is made anew: nobody there could hold the same lock."""
_READ_OF_ANSWERS = ("status_code", "status", "reason", "headers", "_content_consumed", "is_stream_consumed")
_PLAIN: tuple[Any, ...] = (int, float, str, bytes, dict, list, tuple, set, frozenset)


class Care(enum.Enum):
    """How objects are pickled to which an exception refers, from the most of them to the least."""

    AS_SAID = enum.auto()
    """As their classes say."""
    TRIED = enum.auto()
    """Each is tried by itself first, and taken apart if it cannot be read again."""
    PLAIN = enum.auto()
    """Only exceptions and plain data are, part by part, and no causes."""


def packed(exception: BaseException) -> tuple[bytes | None, Facts]:
    """Return an exception as bytes, and what is known of it without reading these.

    Returns:
        The bytes, or ``None`` if there is no way; the module and the name of its class, its message, its
        traceback as text, whether it is an `Exception`, and whether the function of the call did not even
        begin.
    """
    cls = type(exception)
    name = class_name(exception)
    facts = (
        _module_of(cls) or "builtins",
        name,
        describe(None, exception).partition(": ")[2],
        _text_of(exception),
        issubclass(cls, Exception),
        is_a(exception, TypeError) and was_not_entered(exception),
    )
    chain: dict[int, object] = {}
    for care in Care:
        try:
            chain = chain or _chain_of(exception)
            pickled = _dumps(exception, care, chain)
            if class_name(pickle.loads(pickled)) == name:
                return pickled, facts
        except BaseException:  # of any code that an exception may bring along
            continue
    return None, facts


def exactly(result: object) -> bytes:
    """Return a result as bytes; nothing of it is left out.

    Raises:
        BaseException: If that is impossible.
    """
    try:
        return pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
    except Exception:
        return _dumps(result, None)  # it may be of a class that only the other side can import


def _dumps(obj: object, care: Care | None, chain: dict[int, object] | None = None) -> bytes:
    file = io.BytesIO() if care is None else _Limited()
    _Pickler(file, care, chain or {}).dump(obj)
    return file.getvalue()


def _module_of(cls: type) -> str | None:
    module = get(cls, "__module__")  # a class may say anything
    return module if isinstance(module, str) else None


def _text_of(exception: BaseException) -> str:
    """Return the traceback of an exception as text, without the frame of this library."""
    own = traceback_of(exception)
    below = None if own is None else own.tb_next
    try:
        text = "".join(traceback.format_exception(type(exception), exception, below, limit=-100)).rstrip()
    except BaseException:  # of its own methods, or of a warning that is an error
        text = describe(None, exception)
        with suppress(BaseException):
            text = "".join(traceback.format_tb(below)) + text
    return text if len(text) <= _MOST_CHARACTERS else f"...{text[-_MOST_CHARACTERS:]}"


def _chain_of(exception: BaseException) -> dict[int, object]:
    """Return what led to an exception, or is in it, by id, up to a number of steps: pickling recurses."""
    chain: dict[int, object] = {}
    found = [exception]
    for _ in range(_LONGEST_CHAIN):
        found = [one for one in found if id(one) not in chain]
        chain.update((id(one), one) for one in found)
        found = [other for one in found for other in (*led_to(one), *_members_of(one))]
    return chain


def _members_of(exception: BaseException) -> list[BaseException]:
    """Return the exceptions that one refers to by its arguments and attributes."""
    values = [*ARGS.__get__(exception), *object.__getattribute__(exception, "__dict__").values()]
    if issubclass(type(exception), _GROUP):
        values += _GROUP.exceptions.__get__(exception)
    return [value for value in values if is_a(value, BaseException)]


class _Limited(io.BytesIO):
    def write(self, data: Any, /) -> int:
        """Write, up to a limit."""
        if self.tell() + len(data) > _MOST_BYTES:
            raise ValueError("it is too large")
        return super().write(data)


class _Pickler(pickle.Pickler):
    """Pickles exceptions and what they refer to.

    Args:
        file: Where to.
        care: How; ``None``: objects are pickled as their classes say, and what cannot be is an error.
        chain: The exceptions whose causes and contexts are pickled, by id.
    """

    def __init__(self, file: io.BytesIO, care: Care | None, chain: dict[int, object]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._care = care
        self._chain = chain

    def reducer_override(self, obj: Any) -> Any:
        """Return how to make *obj* anew. Not called for plain data: numbers, text, lists, dictionaries."""
        cls = type(obj)
        if issubclass(cls, type):
            return self._class(obj)
        if self._care is None:
            return NotImplemented
        if issubclass(cls, BaseException):
            return self._exception(obj)
        if cls is BuiltinFunctionType and not is_a(obj.__self__, ModuleType):
            return getattr, (obj.__self__, obj.__name__)
        if cls in (FunctionType, BuiltinFunctionType):
            return NotImplemented if _is_importable(obj) else (Missing, (class_name(obj), {}))
        if cls in _FREE:
            return _FREE[cls], ()
        if self._care is Care.PLAIN or cls is ModuleType:
            return _remains_of(obj)
        try:
            if self._care is Care.TRIED or hasattr(cls, "__del__"):  # which may need all of it
                pickle.loads(pickle.dumps(obj, pickle.HIGHEST_PROTOCOL))
            elif "_content_consumed" in vars(obj) and not obj._content_consumed:
                return _remains_of(obj)  # requests would read the rest of the answer now
        except BaseException:  # of its own code, or it has no attributes
            if hasattr(cls, "__del__"):
                return _remains_of(obj)
            if self._care is Care.TRIED:
                return self._taken_apart(obj)
        try:
            return _reduced(obj)
        except BaseException:
            return self._taken_apart(obj)

    def _class(self, cls: type) -> Any:
        module = _module_of(cls)
        is_importable = _is_importable(cls)
        if self._care is None:
            return NotImplemented if is_importable else (find, (module, cls.__qualname__))
        if module is None or (is_importable and module.partition(".")[0] in _OF_PYTHON):
            return NotImplemented
        plain = [(name, value) for name, value in vars(cls).items() if _is_plain(value) and name[:2] != "__"]
        return class_like, (module, cls.__qualname__, cls.__bases__, tuple(plain))

    def _exception(self, exception: BaseException) -> Any:
        cls = type(exception)
        args = ARGS.__get__(exception)
        own = dict(object.__getattribute__(exception, "__dict__"))
        links = [link.__get__(exception) for link in LINKS]
        if self._care is Care.PLAIN:
            args = tuple([_part(arg) for arg in args])
            own = {name: _part(value) for name, value in own.items()}
            links = []
        elif id(exception) not in self._chain:
            links = []
        state = {"args": args, "own": own, "fields": list(_fields_of(exception)), "links": links}
        if issubclass(cls, _GROUP):  # its members cannot be set afterwards
            parts = _GROUP.message.__get__(exception), list(_GROUP.exceptions.__get__(exception))
            return new_group, (cls, *parts), state, None, None, set_fields
        if self._care is Care.AS_SAID and _has_own_way(cls):
            return made, _reduced(exception), state, None, None, set_fields
        return new_exception, (cls,), state, None, None, set_fields

    def _taken_apart(self, obj: Any) -> Any:
        cls = type(obj)
        try:
            object.__new__(cls)
        except BaseException:  # it is made in C
            return _remains_of(obj)
        state = {"own": dict(getattr(obj, "__dict__", {})), "fields": list(_fields_of(obj)), "links": []}
        return new_object, (cls,), state, None, None, set_fields


def _part(value: Any) -> Any:
    """Return *value*, or what stands for it where it is too large, or cannot be sent."""
    try:
        pickled = _dumps(value, Care.PLAIN)
        pickle.loads(pickled)
    except BaseException:
        return Missing(class_name(value), {})
    return value if len(pickled) <= _MOST_BYTES_OF_PART else Missing(class_name(value), {})


def _remains_of(obj: Any) -> Any:
    """Return plain data for what is a kind of it; else what rules read of an answer."""
    for base in _PLAIN:
        if is_a(obj, base):
            return base, (base(obj),)
    if issubclass(type(obj), Mapping):  # headers, as a rule
        return dict, (_texts_in(obj),)
    names: tuple[str, ...] = _READ_OF_ANSWERS
    if get(obj, "_content_consumed") is True or get(obj, "is_stream_consumed") is True:
        names = (*names, "content")
    kept = {name: get(obj, name) for name in names}
    kept["headers"] = _texts_in(kept["headers"]) or None
    kept = {name: value for name, value in kept.items() if _is_plain(value) or type(value) is dict}
    return Missing, (class_name(obj), kept)


def _texts_in(mapping: object) -> dict[str, str]:
    """Return what is in a mapping, as text."""
    pairs: Any = called(get(mapping, "items"))
    try:
        return {str(name): str(value) for name, value in pairs}
    except BaseException:  # it is no mapping, or one that raises
        return {}


def _is_plain(value: object) -> bool:
    """Return whether *value* is a number, or text of a bounded length."""
    return type(value) in (int, float, bool) or (
        type(value) in (str, bytes) and len(value) <= _MOST_BYTES_OF_PART  # type: ignore[arg-type]
    )


def _reduced(obj: Any) -> Any:
    """Return what pickling *obj* comes to, as its class says."""
    reduce = copyreg.dispatch_table.get(type(obj))
    reduced = obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL) if reduce is None else reduce(obj)
    return NotImplemented if isinstance(reduced, str) else reduced


def _has_own_way(cls: type) -> bool:
    """Return whether a class of exceptions says how to pickle it, unlike those of Python."""
    ways = {"__reduce__", "__reduce_ex__", "__getstate__", "__setstate__"}
    return any(not ways.isdisjoint(vars(base)) for base in cls.__mro__ if base.__module__ != "builtins")


def _fields_of(obj: object) -> Iterator[tuple[str, str, Any]]:
    """Yield what an object keeps outside of its ``__dict__``: in C, as ``errno``, or in slots.

    With each, the name of the class that has it.
    """
    mro = type(obj).__mro__
    for base in mro[: mro.index(BaseException if is_a(obj, BaseException) else object)]:
        for name, descriptor in list(vars(base).items()):
            if type(descriptor) in DESCRIPTORS and name not in ("__dict__", "__weakref__"):
                try:
                    yield base.__qualname__, name, descriptor.__get__(obj)
                except BaseException:  # it is not set
                    continue


def _is_importable(obj: Any) -> bool:
    try:
        return find(obj.__module__ or "builtins", obj.__qualname__) is obj
    except BaseException:
        return False
