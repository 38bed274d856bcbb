"""Wrappers that integrations put around the function of a call; names and verdicts look through them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any

codes: set[CodeType] = set()
"""The code of the frames that wrappers add to tracebacks."""


class Wrapper:
    """Calls *func*, with something around it.

    Not a `functools.partial`: one made of another absorbs it, so the wrapper inside would be lost.

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
