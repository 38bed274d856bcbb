"""Waiting in virtual time: what stands in for the locks and events at which threads would wait.

Whoever gets there runs attempts instead, by `VirtualPool.wait`, until what it waits for has happened.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import TimeoutError  # noqa: A004  # not the builtin on 3.10

from retrying_executor._stdlib import AsCompletedWaiter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from retrying_executor._schedule import Call
    from retrying_executor._virtual import VirtualPool


class Latch:
    """Stands in for the lock at which ``result()`` waits: who waits runs attempts."""

    def __init__(self, pool: VirtualPool, call: Call) -> None:
        self._pool = pool
        self._call = call

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Return when the call is done.

        Raises:
            TimeoutError: If that is later. An attempt is not interrupted, so the call may be done then.
        """
        limit = None if blocking and timeout < 0 else max(timeout, 0.0)
        call = self._call
        if not self._pool.wait(call.done, limit, (call,)):
            raise TimeoutError
        return True

    def release(self) -> None:
        """The call is done: that is seen by itself."""


class Waiters(list["Any"]):
    """The waiters of a call: the event of each becomes one at which attempts run."""

    def __init__(self, pool: VirtualPool, call: Call) -> None:
        super().__init__()
        self._pool = pool
        self._call = call

    def append(self, waiter: Any) -> None:
        """`wait` or `as_completed` is about to wait at the event of *waiter*."""
        super().append(waiter)
        if not isinstance(waiter.event, VirtualEvent):
            waiter.event = VirtualEvent(self._pool, raises=isinstance(waiter, AsCompletedWaiter))
        waiter.event.calls.add(self._call)


class VirtualEvent(threading.Event):
    """Stands in for the event at which `wait` and `as_completed` wait: who waits runs attempts."""

    def __init__(self, pool: VirtualPool, *, raises: bool) -> None:
        super().__init__()
        self.calls: set[Call] = set()
        self._pool = pool
        self._raises = raises
        self._deadline: float | None = None

    def wait(self, timeout: float | None = None) -> bool:
        """Return when it is set; in virtual time for the calls of this executor."""
        if self._raises:  # as_completed() asks the real clock how much is left of what it was given
            timeout = sys._getframe(1).f_locals["timeout"]
        left = None
        if timeout is not None:
            if self._deadline is None:
                self._deadline = self._pool.monotonic() + timeout
            left = self._deadline - self._pool.monotonic()
        in_time = self._pool.wait(self._is_over, left, self.calls)
        if self._raises and not in_time:
            raise TimeoutError(f"{sum(not call.done() for call in self.calls)} futures unfinished")
        if in_time and not self.is_set():
            return super().wait(timeout)  # for the calls of other executors
        return self.is_set()

    def _is_over(self) -> bool:
        return self.is_set() or all(call.done() for call in self.calls)
