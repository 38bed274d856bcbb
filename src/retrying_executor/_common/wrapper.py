"""What integrations put around the function of a call: names and verdicts look through it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any

codes: set[CodeType] = set()
"""Of the frames that wrappers add to tracebacks."""


class Wrapper:
    """Calls *func*, with something around it.

    No `functools.partial`: one around another drops the one inside, and calls what is in there.

    Args:
        func: The function of the call, or another wrapper of it.
    """

    __slots__ = ("func",)

    def __init_subclass__(cls) -> None:
        codes.add(cls.__call__.__code__)

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func

    if TYPE_CHECKING:

        def __call__(self, /, *args: Any, **kwargs: Any) -> Any: ...
