"""What users meet goes by the name under which they import it."""

from __future__ import annotations

from types import FunctionType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")

_PACKAGE = __name__.partition(".")[0]


def public(thing: T) -> T:
    """Have a class or a function say that it is the package's: in reprs, tracebacks, pickles and ``help()``.

    Of a class, so do the methods, and annotations of private fields go: ``help()`` would show them.
    """
    named: Any = thing
    place = named.__module__
    if isinstance(thing, type):
        for member in vars(thing).values():
            if type(member) is FunctionType and member.__module__ == place:
                member.__module__ = _PACKAGE
        fields = vars(thing).get("__annotations__", {})
        for name in [name for name in fields if name.startswith("_")]:
            del fields[name]
    named.__module__ = _PACKAGE
    return thing
