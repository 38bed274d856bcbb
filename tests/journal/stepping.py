"""Ends a process at its k-th step: an SQL statement, or a system call of ours on the files of a journal."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from processes import die

from retrying_executor._journal import directory, locks, marks


class _Stepping:
    """A module of which some functions are counted."""

    def __init__(self, module: Any, step: Callable[[], object], *names: str) -> None:
        self._module = module
        for name in names:
            setattr(self, name, _counted(getattr(module, name), step))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _counted(function: Callable[..., Any], step: Callable[[], object]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        step()
        return function(*args, **kwargs)

    return call


def at_step(number: int, act: Callable[[], object] = die) -> None:
    """Have *act* called before the step of that number is made; the first is 1. Cannot be undone."""
    next_number = count(1).__next__

    def step(*_: object) -> None:
        if next_number() == number:
            act()

    def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        step()
        connection = plain_connect(*args, **kwargs)
        connection.set_trace_callback(step)
        return connection

    plain_connect = sqlite3.connect
    sqlite3.connect = connect  # type: ignore[assignment]
    for module in (directory, locks, marks):
        module.os = _Stepping(module.os, step, "open", "close", "pwrite")  # type: ignore[attr-defined]
    locks.fcntl = _Stepping(locks.fcntl, step, "flock")  # type: ignore[attr-defined]
    for name in ("unlink", "replace"):
        setattr(Path, name, _counted(getattr(Path, name), step))
