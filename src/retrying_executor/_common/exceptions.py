"""Reads exceptions without running code of their classes, whatever these override."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, TypeVar

    from typing_extensions import TypeIs

    T = TypeVar("T")

_TRACEBACK: Any = vars(BaseException)["__traceback__"]
_CAUSE: Any = vars(BaseException)["__cause__"]
_CONTEXT: Any = vars(BaseException)["__context__"]
_QUALNAME: Any = vars(type)["__qualname__"]


def is_a(obj: object, cls: type[T]) -> TypeIs[T]:
    """Return whether *obj* is an instance of *cls*, whatever its ``__class__`` says."""
    return issubclass(type(obj), cls)


def classes_in(value: Any) -> tuple[type[BaseException], ...] | None:
    """Return *value*, an exception class or a tuple of them, as a tuple; ``None`` if it is neither."""
    classes = value if isinstance(value, tuple) else (value,)
    are_classes = all(isinstance(one, type) and issubclass(one, BaseException) for one in classes)
    return classes if are_classes else None


def traceback_of(exception: BaseException) -> TracebackType | None:
    """Return the traceback that the interpreter has set."""
    traceback: TracebackType | None = _TRACEBACK.__get__(exception)
    return traceback


def cause_of(exception: BaseException) -> object:
    """Return the cause that ``raise ... from`` has set."""
    return _CAUSE.__get__(exception)


def led_to(exception: BaseException) -> list[BaseException]:
    """Return the exceptions that led to *exception*: its cause and its context."""
    exceptions = (_CAUSE.__get__(exception), _CONTEXT.__get__(exception))
    return [one for one in exceptions if one is not None and not is_a(one, RemoteTraceback)]


def set_cause(exception: BaseException, cause: BaseException) -> None:
    """Set *cause*, as ``raise ... from`` does."""
    _CAUSE.__set__(exception, cause)


def class_name(obj: object) -> str:
    """Return the qualified name of the class of *obj*."""
    name: str = _QUALNAME.__get__(type(obj))
    return name


class RemoteTraceback(Exception):  # noqa: N818  # it shows a traceback
    """The cause of an exception that an attempt has raised elsewhere: shows its traceback there.

    Args:
        text: That traceback.
    """

    def __init__(self, text: str) -> None:
        super().__init__()  # not an argument: rules read these
        self._text = text

    def __str__(self) -> str:
        return f'\n"""\n{self._text}\n"""'
