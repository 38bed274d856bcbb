"""Waiting in virtual time: what stands in for the locks and events at which threads wait.

Instead of waiting, a thread makes attempts, by `VirtualCrew.wait`, until what it waits for has happened.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections import defaultdict
from concurrent.futures import TimeoutError  # noqa: A004  # not the builtin on 3.10

from retrying_executor._calls.call import TooLate
from retrying_executor._common.stdlib import DONE_STATES, AsCompletedWaiter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from typing import Any, Protocol

    from retrying_executor._calls.call import Call
    from retrying_executor._core.core import Core

    class Crew(Protocol):
        """What this uses of `VirtualCrew`."""

        def monotonic(self) -> float: ...
        def wait(
            self, core: Core, is_met: Callable[[], bool], timeout: float | None, calls: Container[Call], /
        ) -> bool:
            """Make attempts until a condition is met."""
            ...


class Latch:
    """Stands in for a closed lock: a thread that waits at it makes attempts."""

    def __init__(self, crew: Crew, core: Core, call: Call) -> None:
        self._crew = crew
        self._core = core
        self._call = weakref.ref(call)  # weak, since the call refers to this latch
        self._is_open = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Make attempts until the latch is opened, or the call is done.

        Raises:
            TooLate: If that took too long. The call may be done by now, since no attempt is interrupted.
        """
        limit = None if blocking and timeout < 0 else max(timeout, 0.0)
        call = self._call()
        assert call is not None  # the thread that waits has a reference to it
        if not self._crew.wait(self._core, self._was_opened, limit, (call,)):
            raise TooLate
        self._is_open = False
        return True

    def _was_opened(self) -> bool:
        call = self._call()
        # Another thread may have cancelled the call, and is about to open this: do not wait for that.
        return self._is_open or (call is not None and call._state in DONE_STATES)

    def release(self) -> None:
        """Open it."""
        self._is_open = True


class Waiters(list["Any"]):
    """The waiters of a call. The event of each is replaced by a `VirtualEvent`."""

    def __init__(self, crew: Crew, core: Core, call: Call) -> None:
        super().__init__()
        self._crew = crew
        self._core = core
        self._call = weakref.ref(call)  # weak, since the call refers to this list

    def append(self, waiter: Any) -> None:
        """`wait` or `as_completed` is about to wait at the event of *waiter*."""
        super().append(waiter)
        if not isinstance(waiter.event, VirtualEvent):
            waiter.event = VirtualEvent(raises=isinstance(waiter, AsCompletedWaiter))
        call = self._call()
        assert call is not None  # the thread that waits has a reference to it
        waiter.event.calls[self._crew, self._core].add(call)


class VirtualEvent(threading.Event):
    """Stands in for the event at which `wait` and `as_completed` wait: a thread that waits makes attempts."""

    def __init__(self, *, raises: bool) -> None:
        super().__init__()
        self.calls: dict[tuple[Crew, Core], set[Call]] = defaultdict(set)
        self._raises = raises
        self._deadlines: dict[tuple[Crew, Core], float] = {}

    def wait(self, timeout: float | None = None) -> bool:
        """Make attempts until the event is set; then wait in real time for calls of other executors."""
        if self._raises:  # as_completed() computes what is left by the real clock: take what it was given
            timeout = sys._getframe(1).f_locals["timeout"]
        in_time, stuck = True, None
        for place in self.calls:
            try:
                in_time &= self._wait_for(place, timeout)
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

    def _wait_for(self, place: tuple[Crew, Core], timeout: float | None) -> bool:
        """Make attempts of one executor until the event is set or its calls are done; ``False``: too late."""
        crew, core = place
        left = None
        if timeout is not None:
            left = self._deadlines.setdefault(place, crew.monotonic() + timeout) - crew.monotonic()
        calls = self.calls[place]
        return crew.wait(core, lambda: self.is_set() or all(call.done() for call in calls), left, calls)
