"""The process around the pools: the end of the interpreter, and forks.

``_guard`` guards the sets of them all. Lock order: ``_guard``, the upstreams' locks, the pools'.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
import weakref
from contextlib import suppress
from importlib import import_module

from retrying_executor._common.log import forget_unseen, report_in_time
from retrying_executor._common.stdlib import register_atexit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from retrying_executor._common.values import Clock

    class Forkable(Protocol):
        """What has a lock, and goes through forks."""

        def synchronize(self) -> None:
            """Wait until whoever has the lock has given it back."""

        def lock_for_fork(self, timeout: float) -> bool:
            """Before: see that no other thread is in the middle of anything, unless that takes too long."""
            ...

        def unlock_after_fork(self) -> None:
            """After, in the parent: go on, however far `lock_for_fork` has come."""

        def restart_in_child(self) -> None:
            """After, in the child: start afresh."""

    class Pool(Forkable, Protocol):
        """What has calls, and threads that make them."""

        exit_timeout: ExitTimeout

        def close(self) -> None:
            """Accept no more calls."""

        def finish(self, timeout: float | None, *, granted: float | None = None) -> None:
            """See that every call has its outcome."""

    class Monitor(Protocol):
        """Who looks on for a pool."""

        exit_timeout: ExitTimeout

        def restart(self) -> None:
            """In a forked child: start with nothing."""

        def finish(self, timeout: float) -> None:
            """See that everything is told."""

    class Watcher(Protocol):
        """A view that shows how it ends; for how long it may take is given in seconds."""

        exit_timeout: ExitTimeout

        def settle(self, pool: object, timeout: float | None, /) -> None:
            """End if all is done: *pool* was waited for."""

        def end(self, timeout: float | None, /) -> None:
            """End, whatever is pending."""


_LOCK_TIMEOUT = 0.5  # seconds; most are free at once
LISTENER_TIMEOUT = 5.0
"""How long an end waits for who listens, in seconds."""

_guard = threading.RLock()
_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_exiting = False
_upstreams: weakref.WeakSet[Forkable] = weakref.WeakSet()
_monitors: weakref.WeakSet[Monitor] = weakref.WeakSet()
_views: weakref.WeakSet[Watcher] = weakref.WeakSet()


_preparations: list[Callable[[], object]] = []


class _Undo(threading.local):
    """What gives back what a fork has locked: of each thread, since the next may fork as soon as it can."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] = []


_undo = _Undo()


class ExitTimeout:
    """How long the ends of one executor may take together: a block, its listener, the interpreter.

    Args:
        duration: In seconds; ``None``: as long as it takes.
        clock: What tells the time; see `time.monotonic`.
    """

    def __init__(self, duration: float | None, clock: Clock = time) -> None:
        self.duration = duration
        self._clock = clock
        self._ends_at: float | None = None

    def left(self) -> float | None:
        """Return what is left of it, in seconds; it begins when this is called first."""
        if self.duration is None:
            return None
        now = self._clock.monotonic()
        if self._ends_at is None:
            self._ends_at = now + self.duration
            return self.duration
        return max(0.0, self._ends_at - now)


def before_fork(prepare: Callable[[], object]) -> None:
    """Have *prepare* import what threads import when they need it, so that none is in the middle of that."""
    _preparations.append(prepare)


def register(pool: Pool) -> None:
    """Finish the pool's calls when the interpreter ends, and see it through forks."""
    with _guard:
        _pools.add(pool)
        if _exiting:
            pool.close()


def pools() -> list[Pool]:
    """Return the pools that exist."""
    with _guard:
        return list(_pools)


def register_upstream(upstream: Forkable) -> None:
    """See the upstream through forks."""
    with _guard:
        _upstreams.add(upstream)


def register_monitor(monitor: Monitor) -> None:
    """See that its listener is told everything before the interpreter ends, and see it through forks."""
    with _guard:
        _monitors.add(monitor)


def register_view(view: Watcher) -> bool:
    """See that the view ends with its pool and with the interpreter, unless that is ending already."""
    with _guard:
        _views.add(view)
        return not _exiting


def settle_views(pool: Pool, timeout: float | None) -> None:
    """Have the views of a pool that was waited for show how it has ended, if all is done.

    Wait for that, for *timeout* seconds at most; ``None``: as long as an end of the executor may take.
    """
    began_at = time.monotonic()
    for view in _all_views():
        view.settle(pool, None if timeout is None else began_at + timeout - time.monotonic())


def _all_views() -> list[Watcher]:
    with _guard:
        return list(_views)


def _finish_all() -> None:
    """Give every accepted call its outcome before the interpreter ends."""
    global _exiting
    with _guard:
        _exiting = True
        pools, monitors = list(_pools), list(_monitors)
    for limit in [*(pool.exit_timeout for pool in pools), *(monitor.exit_timeout for monitor in monitors)]:
        limit.left()  # it begins, for all of them now
    # Those that wait for ever come last: the others must stop in time.
    pools.sort(key=lambda pool: math.inf if (left := pool.exit_timeout.left()) is None else left)
    try:
        for pool in pools:
            pool.close()
        for pool in pools:
            pool.finish(pool.exit_timeout.left(), granted=pool.exit_timeout.duration)
    finally:  # after Ctrl-C too
        for view in _all_views():
            view.end(view.exit_timeout.left())
    ended_at = time.monotonic()
    for monitor in list(_monitors):
        left = ended_at + LISTENER_TIMEOUT - time.monotonic()  # for all of them together
        limit_left = monitor.exit_timeout.left()
        monitor.finish(max(0.0, left if limit_left is None else min(left, limit_left)))
    report_in_time()


def _before_fork() -> None:
    # What threads import when they need it, and what that imports when it is used for the first time: were
    # one of them in the middle of that, the child would wait for it for ever.
    import difflib  # noqa: F401
    import random  # noqa: F401
    import uuid  # noqa: F401

    for prepare in _preparations:
        prepare()

    # What threads are importing here: the child may want that too.
    for name in [name for name in list(sys.modules) if name.startswith("retrying_executor.")]:
        with suppress(Exception):  # of what cannot be imported
            import_module(name)

    # A signal handler may raise in here. The fork goes on then, and what follows undoes what was done.
    while (late := _lock_all()) is not None:
        _unlock_all()
        late.synchronize()


def _lock_all() -> Forkable | None:
    """Lock everything; return what cannot be locked soon, if there is such a one.

    Whoever has that one's lock may want another's, in a destructor. So nobody waits for it for long who
    has any other.
    """
    _guard.acquire()
    _undo.steps.append(_unlock_guard)
    everything: list[Forkable] = [*_upstreams, *_pools]
    for one in everything:
        _undo.steps.append(one.unlock_after_fork)
        if not one.lock_for_fork(_LOCK_TIMEOUT):
            return one
    return None


def _unlock_guard() -> None:
    with suppress(RuntimeError):  # it has been released, and a signal handler has raised right then
        _guard.release()


def _unlock_all() -> None:
    while _undo.steps:
        _undo.steps[-1]()
        _undo.steps.pop()


def _after_fork_in_child() -> None:
    global _guard
    _guard = threading.RLock()
    _undo.steps.clear()
    for upstream in list(_upstreams):
        upstream.restart_in_child()
    for pool in list(_pools):
        pool.restart_in_child()
    for monitor in list(_monitors):
        monitor.restart()
    _views.clear()  # their threads are the parent's
    forget_unseen()


register_atexit(_finish_all)
if hasattr(os, "register_at_fork"):  # pragma: no branch  # always, but on Windows
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_unlock_all,
        after_in_child=_after_fork_in_child,
    )
    # Once more: a signal handler may raise in the first.
    os.register_at_fork(after_in_parent=_unlock_all)
