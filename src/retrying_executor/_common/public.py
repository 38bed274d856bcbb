"""Makes public classes and functions show the name under which users import them."""

from __future__ import annotations

from types import FunctionType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")

_PACKAGE = __name__.partition(".")[0]


def public(thing: T) -> T:
    """Have a class or a function say that it is of the package: in reprs, tracebacks, pickles and ``help()``.

    The methods of a class say so, too. Annotations of private fields are removed: ``help()`` would show them.
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
