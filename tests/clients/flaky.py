"""Calls that do not get through at first."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any


def fails_once(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return *fn*, failing the first time that it is called with the same arguments."""
    calls: Counter[tuple[Any, ...]] = Counter()

    @functools.wraps(fn)
    def call(*args: Any) -> Any:
        calls[args] += 1
        if calls[args] == 1:
            raise ConnectionError("not yet")
        return fn(*args)

    return call
