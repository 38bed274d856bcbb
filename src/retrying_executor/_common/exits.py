"""The end of the interpreter: every accepted call gets its outcome, and every listener is told of it.

`forks.guard` guards the sets, ``_hook``, and ``_exiting``, which only `_finish_all` sets. So whatever
registers is either in a set when the interpreter begins to end, or learns that it has begun.
"""

from __future__ import annotations

import math
import time
import weakref
from contextlib import suppress

from retrying_executor._common import forks
from retrying_executor._common.stdlib import latest_hook, register_atexit
from retrying_executor._common.unseen import forget_unseen, report_in_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol, TypeVar

    from retrying_executor._common.values import Clock

    T = TypeVar("T")

    class Core(forks.Forkable, Protocol):
        """The calls of one executor, and the threads that make them."""

        exit_timeout: ExitTimeout

        def close(self) -> None:
            """Accept no more calls."""

        def finish(self, timeout: float | None, *, granted: float | None = None) -> None:
            """See that every call has its outcome, within *timeout* of the *granted* seconds."""

    class Monitor(Protocol):
        """Tells a listener of the events of one executor."""

        exit_timeout: ExitTimeout

        def restart(self) -> None:
            """In a forked child: start with nothing."""

        def finish(self, timeout: float) -> None:
            """Wait until the listener was told everything, for *timeout* seconds at most."""

    class Watcher(Protocol):
        """Shows how the calls of a core end. Timeouts are in seconds."""

        exit_timeout: ExitTimeout

        def end_if_done(self, core: object, timeout: float | None, /) -> None:
            """End if it watches *core*, and all of its calls are done."""

        def end(self, timeout: float | None, /) -> None:
            """End, whatever is pending."""


LISTENER_TIMEOUT = 5.0
"""How long the end of an executor, or of the interpreter, waits for listeners, in seconds."""

_cores: weakref.WeakSet[Core] = weakref.WeakSet()
_monitors: weakref.WeakSet[Monitor] = weakref.WeakSet()
_watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()
_exiting = False


class ExitTimeout:
    """How long an executor may take to end: its block, its listener and the end of the interpreter in all.

    Args:
        duration: In seconds; ``None``: as long as it takes.
        clock: What tells the time; see `time.monotonic`.
    """

    def __init__(self, duration: float | None, clock: Clock = time) -> None:
        self.duration = duration
        self._clock = clock
        self._ends_at: float | None = None

    def left(self) -> float | None:
        """Return how many seconds of it are left; the time begins when this is called first."""
        if self.duration is None:
            return None
        now = self._clock.monotonic()
        if self._ends_at is None:
            self._ends_at = now + self.duration
            return self.duration
        return max(0.0, self._ends_at - now)


def register(core: Core) -> None:
    """Finish the core's calls when the interpreter ends, and see it through forks."""
    with forks.guard:
        forks.register_core(core)
        _cores.add(core)
        if _exiting:
            core.close()


def cores() -> list[Core]:
    """Return the cores that exist."""
    return _all(_cores)


def _all(registered: weakref.WeakSet[T]) -> list[T]:
    with forks.guard:  # another thread may be adding one
        return list(registered)


def register_monitor(monitor: Monitor) -> None:
    """Tell its listener everything before the interpreter ends, and see the monitor through forks."""
    with forks.guard:
        _monitors.add(monitor)


def register_watcher(watcher: Watcher) -> bool:
    """End the watcher with its core, or with the interpreter; ``False``: that is ending already."""
    with forks.guard:
        _watchers.add(watcher)
        return not _exiting


def end_watchers(core: Core, timeout: float | None) -> None:
    """If all calls of *core* are done, have its watchers show that, and end.

    Wait for that, for *timeout* seconds at most; ``None``: as long as an end of the executor may take.
    """
    began_at = time.monotonic()
    for watcher in _all(_watchers):
        watcher.end_if_done(core, None if timeout is None else began_at + timeout - time.monotonic())


def come_first() -> None:
    """Register our hook once more if a library has registered one after it: hooks run last in, first out.

    So the calls have their outcomes before that library ends what they run on.
    """
    global _hook
    if latest_hook() is _hook or _exiting:
        return
    with forks.guard, suppress(RuntimeError):  # the end has just begun
        register_atexit(_finish_all)
        _hook = latest_hook()


def is_exiting() -> bool:
    """Return whether the interpreter has begun to end."""
    return _exiting


def _finish_all() -> None:
    """Give every accepted call its outcome before the interpreter ends."""
    global _exiting
    with forks.guard:
        if _exiting:  # it is registered several times
            return
        _exiting = True
        cores, monitors = list(_cores), list(_monitors)
    for limit in [*(core.exit_timeout for core in cores), *(monitor.exit_timeout for monitor in monitors)]:
        limit.left()  # so that the time of each begins now, not when the others have ended
    # Cores without a limit come last, so that those with one are stopped in time.
    cores.sort(key=lambda core: math.inf if (left := core.exit_timeout.left()) is None else left)
    try:
        for core in cores:
            core.close()  # all of them first: none accepts calls while others are waited for
        for core in cores:
            core.finish(core.exit_timeout.left(), granted=core.exit_timeout.duration)
    finally:  # after Ctrl-C too
        for watcher in _all(_watchers):
            watcher.end(watcher.exit_timeout.left())
    ended_at = time.monotonic()
    for monitor in _all(_monitors):
        left = ended_at + LISTENER_TIMEOUT - time.monotonic()  # for all listeners together
        limit_left = monitor.exit_timeout.left()
        monitor.finish(max(0.0, left if limit_left is None else min(left, limit_left)))
    report_in_time()


def _restart_in_child() -> None:
    for monitor in list(_monitors):
        monitor.restart()
    _watchers.clear()  # their threads are the parent's
    forget_unseen()


register_atexit(_finish_all)
_hook = latest_hook()
forks.after_fork_in_child(_restart_in_child)
