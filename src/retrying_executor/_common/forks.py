"""Forks: in a child, executors and upstreams work, and no lock is held by a thread that was left behind.

Before a fork, everything that has a lock is locked, so that no other thread is in the middle of anything.
Afterwards the parent unlocks it, and the child starts it afresh.

Lock order: `guard`, the upstreams' locks, the executors'.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Forkable(Protocol):
        """Has a lock, and goes through forks."""

        def synchronize(self) -> None:
            """Wait until the lock is free."""

        def lock_for_fork(self, timeout: float) -> bool:
            """Before a fork: lock everything; return ``False`` if that takes more than *timeout* seconds."""
            ...

        def unlock_after_fork(self) -> None:
            """After a fork, in the parent: go on, however far `lock_for_fork` has come."""

        def restart_in_child(self) -> None:
            """After a fork, in the child: start afresh."""


_LOCK_TIMEOUT = 0.5  # seconds; most locks are free at once

guard = threading.RLock()
"""Guards all that is registered, here and in `exits`. A child gets a new one, so look it up for each use."""

_upstreams: weakref.WeakSet[Forkable] = weakref.WeakSet()
_cores: weakref.WeakSet[Forkable] = weakref.WeakSet()
_preparations: list[Callable[[], object]] = []
_restarts: list[Callable[[], object]] = []


class _Undo(threading.local):
    """The steps that unlock what a fork has locked; the last one is done first.

    Each thread has its own, since another thread may fork as soon as `guard` is free.
    """

    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] = []


_undo = _Undo()


def before_fork(prepare: Callable[[], object]) -> None:
    """Have *prepare* import what threads import only when they need it.

    Otherwise a thread might be importing it during a fork, and the child would wait for that thread for ever.
    """
    _preparations.append(prepare)


def after_fork_in_child(restart: Callable[[], object]) -> None:
    """Have *restart* called in a forked child, once everything that has a lock was started afresh."""
    _restarts.append(restart)


def register_upstream(upstream: Forkable) -> None:
    """See the upstream through forks, for as long as it exists."""
    with guard:
        _upstreams.add(upstream)


def register_core(core: Forkable) -> None:
    """See the core through forks, for as long as it exists."""
    with guard:
        _cores.add(core)


def _before_fork() -> None:
    # Modules that threads import only when they need them, and those that these import at their first use.
    import difflib  # noqa: F401
    import importlib
    import random  # noqa: F401
    import uuid  # noqa: F401

    for prepare in _preparations:
        prepare()

    # Wait for other threads that are importing modules of this library: the child may need these, too.
    for name in [name for name in list(sys.modules) if name.startswith("retrying_executor.")]:
        with suppress(Exception):  # a module that cannot be imported
            importlib.import_module(name)

    # A signal handler may raise in here. Then the fork goes on, and the hook after it undoes what was done.
    while (late := _lock_all()) is not None:
        _unlock_all()
        late.synchronize()  # wait while this thread holds no lock, then try once more


def _lock_all() -> Forkable | None:
    """Lock everything; return the first that cannot be locked soon, if there is one.

    The thread that holds that lock may be in a destructor that wants a lock which was taken here already. So
    this function waits only briefly while it holds any.
    """
    guard.acquire()
    _undo.steps.append(_unlock_guard)
    everything: list[Forkable] = [*_upstreams, *_cores]
    for one in everything:
        _undo.steps.append(one.unlock_after_fork)
        if not one.lock_for_fork(_LOCK_TIMEOUT):
            return one
    return None


def _unlock_guard() -> None:
    with suppress(RuntimeError):  # a signal handler raised right after the release: it is free already
        guard.release()


def _unlock_all() -> None:
    while _undo.steps:
        _undo.steps[-1]()
        _undo.steps.pop()  # only now: if a signal handler has raised, the step is done once more


def _after_fork_in_child() -> None:
    global guard
    guard = threading.RLock()
    _undo.steps.clear()
    for one in [*_upstreams, *_cores]:
        one.restart_in_child()
    for restart in _restarts:
        restart()


if hasattr(os, "register_at_fork"):  # pragma: no branch  # always, but on Windows
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_unlock_all,
        after_in_child=_after_fork_in_child,
    )
    # Once more, since a signal handler may raise in the first.
    os.register_at_fork(after_in_parent=_unlock_all)
