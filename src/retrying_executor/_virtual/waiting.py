"""Waiting in virtual time: what stands in for the locks and events at which threads would wait.

Whoever gets there runs attempts instead, by `VirtualPool.wait`, until what it waits for has happened.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections import defaultdict
from concurrent.futures import TimeoutError  # noqa: A004  # not the builtin on 3.10

from retrying_executor._common.stdlib import AsCompletedWaiter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from typing import Any, Protocol

    from retrying_executor._calls.call import Call

    class Runner(Protocol):
        """A pool in virtual time, as far as this needs it."""

        def monotonic(self) -> float: ...
        def wait(self, is_met: Callable[[], bool], timeout: float | None, calls: Container[Call], /) -> bool:
            """Run attempts until a condition is met."""


class Latch:
    """Stands in for the lock at which ``result()`` waits: who waits runs attempts."""

    def __init__(self, pool: Runner, call: Call) -> None:
        self._pool = pool
        self._call = weakref.ref(call)  # which has this, while somebody waits

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Return when the call is done.

        Raises:
            TimeoutError: If that is later. An attempt is not interrupted, so the call may be done then.
        """
        limit = None if blocking and timeout < 0 else max(timeout, 0.0)
        call = self._call()
        assert call is not None  # it is asked for its outcome
        if not self._pool.wait(call.done, limit, (call,)):
            raise TimeoutError
        return True

    def release(self) -> None:
        """The call is done: that is seen by itself."""


class Waiters(list["Any"]):
    """The waiters of a call: the event of each becomes one at which attempts run."""

    def __init__(self, pool: Runner, call: Call) -> None:
        super().__init__()
        self._pool = pool
        self._call = weakref.ref(call)  # which has this

    def append(self, waiter: Any) -> None:
        """`wait` or `as_completed` is about to wait at the event of *waiter*."""
        super().append(waiter)
        if not isinstance(waiter.event, VirtualEvent):
            waiter.event = VirtualEvent(raises=isinstance(waiter, AsCompletedWaiter))
        call = self._call()
        assert call is not None  # somebody waits for it
        waiter.event.calls[self._pool].add(call)


class VirtualEvent(threading.Event):
    """Stands in for the event at which `wait` and `as_completed` wait: who waits runs attempts."""

    def __init__(self, *, raises: bool) -> None:
        super().__init__()
        self.calls: dict[Runner, set[Call]] = defaultdict(set)
        self._raises = raises
        self._deadlines: dict[Runner, float] = {}

    def wait(self, timeout: float | None = None) -> bool:
        """Return when it is set; in virtual time for the calls of executors that have one."""
        if self._raises:  # as_completed() asks the real clock how much is left of what it was given
            timeout = sys._getframe(1).f_locals["timeout"]
        in_time, stuck = True, None
        for pool in self.calls:
            try:
                in_time &= self._wait_for(pool, timeout)
            except RuntimeError as error:
                stuck = error
        if stuck is not None and not self.is_set():
            raise stuck
        if self._raises and not in_time:
            waiting = [call for calls in self.calls.values() for call in calls if not call.done()]
            raise TimeoutError(f"{len(waiting)} futures unfinished")
        if in_time and not self.is_set():
            return super().wait(timeout)  # for the calls of other executors
        return self.is_set()

    def _wait_for(self, pool: Runner, timeout: float | None) -> bool:
        """Run attempts of one executor, until it is set or its calls are done; return whether in time."""
        left = None
        if timeout is not None:
            left = self._deadlines.setdefault(pool, pool.monotonic() + timeout) - pool.monotonic()
        calls = self.calls[pool]
        return pool.wait(lambda: self.is_set() or all(call.done() for call in calls), left, calls)
