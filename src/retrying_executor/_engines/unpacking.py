"""Makes of bytes what `packing` made bytes of. Pickles refer to these functions by their names."""

from __future__ import annotations

import pickle
import sys
from contextlib import suppress
from functools import lru_cache
from types import BuiltinFunctionType, GetSetDescriptorType, MemberDescriptorType

from retrying_executor._common.exceptions import RemoteTraceback, cause_of, is_a, set_cause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DESCRIPTORS = (GetSetDescriptorType, MemberDescriptorType)
"""The types of what reads and sets what an object keeps in C, or in slots."""

_LONGEST_CHAIN = 100
_UNSET = object()
LINKS: Any = [vars(BaseException)[name] for name in ("__cause__", "__context__", "__suppress_context__")]
ARGS: Any = vars(BaseException)["args"]


class Missing:
    """Stands for an object that could not be sent: an attribute of an exception, or a part of one.

    Args:
        name: The name of its class.
        kept: What could be sent of it, and is read by rules: for an answer its status and headers.
    """

    def __init__(self, name: str, kept: dict[str, Any]) -> None:
        self._name = name
        self.__dict__.update(kept)

    def __repr__(self) -> str:
        return f"<{self._name}: could not be sent>"


def unpacked(
    pickled: bytes | None, module: str, name: str, message: str, text: str, *, is_exception: bool
) -> BaseException:
    """Return the exception that *pickled* is, with a `RemoteTraceback`.

    Args:
        pickled: The exception; ``None`` if it could not be sent.
        module: Where its class is.
        name: The qualified name of the class.
        message: What it says.
        text: Its traceback.
        is_exception: Whether it is an `Exception`.
    """
    exception: Any = None
    with suppress(Exception, SystemExit):  # it was read there, but what it needs may be missing here
        exception = None if pickled is None else pickle.loads(pickled)
    if not is_a(exception, BaseException):
        base = Exception if is_exception else BaseException
        own = {"__module__": module, "__qualname__": name}
        short = name.rpartition(".")[2]  # this may be any text, but the name of a new class may not
        exception = type(short if short.isprintable() else base.__name__, (base,), own)(message)
    _add_traceback(exception, text)
    return exception  # type: ignore[no-any-return]  # checked above


def _add_traceback(exception: BaseException, text: str) -> None:
    """Add a traceback at the end of the chain of causes: rules read what an exception was raised from."""
    seen = {id(exception)}
    while (cause := cause_of(exception)) is not None and len(seen) < _LONGEST_CHAIN:
        if not is_a(cause, BaseException) or id(cause) in seen:
            return
        exception = cause
        seen.add(id(exception))
    set_cause(exception, RemoteTraceback(text))


def find(module: str, name: str) -> Any:
    """Return what has that name in a module; raises anything if nothing has."""
    __import__(module)
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part)
    return found


def class_like(
    module: str, name: str, bases: tuple[type, ...], attributes: tuple[tuple[str, object], ...] = ()
) -> type:
    """Return the class of that name; where there is none, one that is made of its bases.

    Args:
        module: Where it is.
        name: Its qualified name.
        bases: Its bases.
        attributes: Those of its attributes that are plain data.
    """
    with suppress(Exception):
        found = find(module, name)
        if isinstance(found, type) and [*map(_name_of, found.__bases__)] == [*map(_name_of, bases)]:
            return found
    return _new_class(module, name, bases, attributes)


def _name_of(cls: type) -> str:
    return cls.__qualname__


@lru_cache(maxsize=1000)
def _new_class(
    module: str, name: str, bases: tuple[type, ...], attributes: tuple[tuple[str, object], ...]
) -> type:
    short = name.rpartition(".")[2]
    own = {**dict(attributes), "__module__": module, "__qualname__": name}
    try:
        return type(short, bases, own)
    except Exception:  # of ``__init_subclass__`` or a metaclass, which may demand anything
        layout = next(base for base in bases[0].__mro__ if base.__module__ == "builtins")
        cls = type(short, (type(short, (layout,), {}),), own)  # laid out as those of Python are
        with suppress(TypeError):
            cls.__bases__ = bases
        return cls


def new_exception(cls: Any) -> BaseException:
    """Return an exception of that class, made without any code of it."""
    exception: BaseException = _new_of(cls)(cls)
    return exception


def _new_of(cls: Any) -> Any:
    """Return what makes the objects of a class, in C."""
    while type(vars(cls).get("__new__")) is not BuiltinFunctionType:
        cls = cls.__base__  # the one that says how its objects are laid out
    return cls.__new__


def new_group(cls: Any, message: str, exceptions: list[BaseException]) -> BaseException:
    """Return an exception group of that class, made without any code of it."""
    group: BaseException = _new_of(cls)(cls, message, exceptions)
    return group


def new_object(cls: type) -> object:
    """Return an object of that class, made without any code of it."""
    return object.__new__(cls)


def _value_of(descriptor: Any, obj: object) -> object:
    try:
        return descriptor.__get__(obj)
    except AttributeError:  # it is not set
        return _UNSET


def made(make: Any, args: Any, state: Any = None, *_: object) -> Any:
    """Return an exception that was pickled as its class says."""
    exception = make(*args)
    if state is not None:
        exception.__setstate__(state)
    return exception


def set_fields(obj: Any, state: dict[str, Any]) -> None:
    """Give an object what the one had that it was made after."""
    if "args" in state:
        ARGS.__set__(obj, state["args"])
    if state["own"]:
        own = object.__getattribute__(obj, "__dict__")
        # Its own code may have made what could not be sent.
        own.update(
            (key, value) for key, value in state["own"].items() if not (key in own and is_a(value, Missing))
        )
    classes = {base.__qualname__: base for base in reversed(type(obj).__mro__)}
    for owner, name, value in state["fields"]:
        descriptor = vars(classes.get(owner, object)).get(name)
        with suppress(Exception):  # it can only be read
            if descriptor is None:  # of a class that was made up
                object.__getattribute__(obj, "__dict__")[name] = value
            elif _value_of(descriptor, obj) is not value:  # what is unset in C reads as ``None``: leave it so
                descriptor.__set__(obj, value)
    for link, value in zip(LINKS, state["links"], strict=bool(state["links"])):
        link.__set__(obj, value)
