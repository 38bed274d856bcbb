"""The event loop in virtual time: its clock is that of a crew, and it runs one turn at a time."""

from __future__ import annotations

import asyncio
import math
import selectors
from asyncio import TimerHandle
from contextvars import Context
from functools import partial
from heapq import heappop, heappush
from itertools import count

from retrying_executor._common.stdlib import has_ready_callbacks, make_ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import Future, Task
    from collections.abc import Callable, Coroutine
    from typing import Any, Protocol

    class Time(Protocol):
        """What time it is."""

        @property
        def now(self) -> float: ...


_LOOKS_AGAIN_AFTER = 0.05  # real seconds
# Not one of the kernel's, such as epoll: a forked child would share that with its parent.
_Selector: Any = getattr(selectors, "PollSelector", selectors.SelectSelector)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time.

    Args:
        time: What time it is.
        is_virtual: Returns whether an executor is one in virtual time, and so has no threads.
    """

    def __init__(self, time: Time, is_virtual: Callable[[object], bool]) -> None:
        self._time = time
        self._is_virtual = is_virtual
        self._watched = _Selector()
        self._timers: list[tuple[float, int, TimerHandle]] = []  # a heap
        self._ticket = count().__next__
        self._aside: set[Task[None]] = set()
        self._in_threads = 0  # how many functions run, or are about to, in threads
        super().__init__(self._watched)

    # -- what it does differently ----------------------------------------------------------------

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self._time.now

    def call_at(  # type: ignore[override]  # typeshed ties the arguments to what the callback takes
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> TimerHandle:
        """Call *callback* at a time; those of the same time in the order in which they were scheduled."""
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        timer = TimerHandle(when, callback, args, self, context)
        heappush(self._timers, (when, self._ticket(), timer))
        return timer

    def run_in_executor(  # type: ignore[override]  # as above
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> Future[Any]:
        """Run a function in a thread, and note that."""
        future: Future[Any] = super().run_in_executor(executor, func, *args)
        if not self._is_virtual(executor):
            self._in_threads += 1
            future.add_done_callback(self._has_left_thread, context=Context())
        return future

    def _has_left_thread(self, _: Future[Any]) -> None:
        self._in_threads -= 1

    # -- one turn --------------------------------------------------------------------------------

    def next_at(self) -> float:
        """Return when the first timer is due; infinity if there is none."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heappop(timers)
        return timers[0][0] if timers else math.inf

    @property
    def is_due(self) -> bool:
        """Whether there is something to do now."""
        if has_ready_callbacks(self) or self.next_at() <= self.time():
            return True
        return (self.waits_for_threads or self.waits_for_io) and bool(self._watched.select(0))

    @property
    def waits_for_threads(self) -> bool:
        """Whether there are functions in threads, of which each will end."""
        return self._in_threads > 0

    @property
    def waits_for_io(self) -> bool:
        """Whether it watches a file or a socket besides its own."""
        return not self.is_closed() and len(self._watched.get_map()) > 1

    def await_io(self) -> None:
        """Wait a moment in real time, until a thread or a socket has something for the loop."""
        self._watched.select(_LOOKS_AGAIN_AFTER)

    def turn(self) -> None:
        """Do once what there is to do."""
        while self.next_at() <= self.time():
            make_ready(self, heappop(self._timers)[2])
        self.stop()
        self.run_forever()

    def run_aside(self, coroutine: Coroutine[Any, Any, None]) -> Task[None]:
        """Make a task of a coroutine of the library, whatever task factory the program has set."""
        task = Context().run(partial(asyncio.Task, coroutine, loop=self))
        self._aside.add(task)  # the base class lets go of it
        task.add_done_callback(self._aside.discard, context=Context())
        return task

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Close it: nothing is due here any more."""
        super().close()
        self._timers.clear()
        self._in_threads = 0
