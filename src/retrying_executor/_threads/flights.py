"""The attempts of coroutine functions: how they leave their workers for an event loop, and come back.

A worker that gets a coroutine *launches* it: the call and its permit move to a `Flight`, and the worker goes
on with other calls. The thread of the loop makes a task of it. When the task has ended, the flight has
*landed*: a worker takes it up, as if it had made the whole attempt itself.

Thousands are launched and taken up at a time. So a worker does both under its own lock only, as it takes
fresh calls. Where it meets another thread, each of the two publishes first and then looks, so that at least
one sees the other:

- The worker publishes its flight, then looks whether the loop has a thread. That thread publishes that it
  leaves, then looks for flights.
- The worker makes the flight the call's hand, then looks whether the call is done. A canceller makes the call
  done, then looks for its flight.
- A worker that waits for a place looks for one under the core's lock. Places are given back under that lock.

As long as there is a flight, a worker is a member of the roster: the last one does not leave. So a thread
that waits for the workers waits for the flights, too. A place is free as soon as a coroutine has ended, not
when it has been taken up. Else all workers might wait for places, and none take up what has landed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import nullcontext

from retrying_executor._calls.flight import Flight
from retrying_executor._common.stdlib import HAS_GIL, STARTS_TO_THE_END

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Coroutine, Iterable
    from typing import Any, Protocol

    from retrying_executor._calls.call import Call, Hand, Work
    from retrying_executor._core.core import Core
    from retrying_executor._threads.loop import LoopThread
    from retrying_executor._threads.roster import Worker

    class Crew(Protocol):
        """What flights use of `Threads`. They do not keep it: that would be a reference cycle."""

        def summon(self, core: Core, now: float, /) -> Exception | None: ...
        def start_newborns(self, core: Core, /) -> Exception | None: ...


class Flights:
    """The attempts of one core that have left their workers.

    Args:
        lock: The core's.
        most: How many coroutines may run at a time; 1 or more.
        name: What the name of the loop's thread begins with.
        is_daemon: Whether the interpreter may end while that thread runs, where it allows that.
        new_loop: Makes the event loop; ``None``: that is asyncio's own.
    """

    def __init__(
        self,
        *,
        lock: threading.RLock,
        most: int,
        name: str,
        is_daemon: bool,
        new_loop: Callable[[], AbstractEventLoop] | None,
    ) -> None:
        self._lock = lock
        self._name = name
        self._is_daemon = is_daemon
        self._new_loop = new_loop
        self.thread: LoopThread | None = None
        """Of the loop, from the first launch on, whether it runs or not."""
        self.aloft: dict[Flight, None] = {}
        """From their launch until a worker has taken them up, in the order of their launch."""
        self.landed: deque[Flight] = deque()
        """Those of them that a worker is to take up."""
        self._stays: Worker | None = None  # which rests until a flight lands, and for no time of its own
        self._starting: deque[Flight] = deque()  # those of which the loop has no task yet
        # Each is taken by one thread only: in one atomic step, or without the GIL under the lock.
        self._places_left: deque[int] = deque()
        self._new_places = iter(range(most))
        self._place_is_left = threading.Condition(lock)

    # -- in the thread of a worker ---------------------------------------------------------------

    def launch(self, hand: Hand, work: Work, coroutine: Coroutine[Any, Any, Any]) -> bool:
        """Have a coroutine run; its call and its permit leave the hand. See `turns.Crew`."""
        call = hand.call
        assert call is not None
        core: Any = call._core
        try:
            thread = self.thread or self._make_thread()  # first: if this fails, no place is lost
        except BaseException:
            coroutine.close()
            raise
        place = self._take_place()
        if place is None:
            place = self._await_place(call)
            if place is None:
                coroutine.close()
                return False
            if core.monitor is not None:
                core.monitor.began_late(call, work)
        flight = Flight(call, work, hand.permit, coroutine, place, self._lock)
        # Where there is a limit, submitters count the calls under the core's lock, without a standstill.
        lock = hand.lock if core.entrance.max_pending is None else self._lock
        with lock, hand.lock:  # at a standstill, the call must be found either in the hand or in the flight
            self.aloft[flight] = None
            call._worker = flight
            hand.call = hand.permit = None
        self._starting.append(flight)
        if call.done():
            flight.is_called_off = True
        thread.see_to_starts(core)
        return True

    def prepare(self, core: Core) -> None:  # pragma: no cover  # 3.12.0 to 3.12.2
        """See that the loop has a thread. Called without a lock."""
        thread = self.thread or self._make_thread()
        thread.see_to_starts(core)

    def run_aside(self, core: Core, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine of the library in the event loop."""
        thread = self.thread or self._make_thread()  # none, if the attempt failed before it had a coroutine
        thread.run_aside(core, coroutine)

    def _take_place(self) -> int | None:
        """Take a place for a coroutine, if there is one."""
        try:
            return self._places_left.popleft()
        except IndexError:
            with nullcontext() if HAS_GIL else self._lock:
                return next(self._new_places, None)

    def _await_place(self, call: Call) -> int | None:
        """Wait for a place, and take it; return ``None`` if the call is done before."""
        with self._lock:
            while not call.done():
                place = self._take_place()
                if place is not None:
                    return place
                self._place_is_left.wait()
        return None

    def _make_thread(self) -> LoopThread:
        """Make what runs the loop. Importing takes time, so that is done without the lock."""
        from retrying_executor._threads.loop import LoopThread  # asyncio is slow to import

        thread = LoopThread(self, self._lock, self._name, is_daemon=self._is_daemon, new_loop=self._new_loop)
        with self._lock:
            self.thread = self.thread or thread
            return self.thread

    def take_up(self, worker: Worker) -> Call | None:
        """Give a worker the call of the next flight that has landed, if there is one.

        Called under the worker's lock. The worker has neither a call nor a permit.
        """
        if not self.landed:  # as most often with plain calls; an exception would take longer
            return None
        try:
            flight = self.landed.popleft()
        except IndexError:  # pragma: no cover  # another worker has taken it since: tests/schedules
            return None
        call = flight.hand_over(worker)
        del self.aloft[flight]
        stays = self._stays
        if stays is not None and not self.aloft:
            stays.wake()
        return call

    def needs(self, worker: Worker, members: Iterable[Worker]) -> bool:
        """Return whether a worker has to stay, to take up what will land. Called under the core's lock.

        It does unless another one will look for work again: one that rests, or has a call. Of others, the
        start or the initializer may yet fail.
        """
        others = [other for other in members if other is not worker]
        if any(other.rests or other.call is not None for other in others):
            return False
        self._stays = worker  # publish first: the worker that takes up the last flight wakes it; then look
        if self.aloft:
            return True
        self._stays = None
        return False

    # -- in any thread ---------------------------------------------------------------------------

    def call_off(self, call: Call) -> None:
        """Cancel the coroutine of a call that is done, if there is one."""
        with self._lock:
            self._place_is_left.notify_all()  # its worker may be waiting for one
        flight = call._worker
        if isinstance(flight, Flight) and self.thread is not None:
            flight.is_called_off = True
            self.thread.call_off(flight)

    def look(self) -> None:
        """Have the thread of the loop look whether to stay. Needs no lock."""
        if self.thread is not None:
            self.thread.wake()

    # -- in the thread of the loop ---------------------------------------------------------------

    def next_to_start(self) -> Flight | None:
        """Return a flight of which there is no task yet, each once."""
        try:
            return self._starting.popleft()
        except IndexError:
            return None

    def have_landed(self, core: Core, flights: list[Flight]) -> None:
        """Coroutines have ended: see that workers take them up."""
        crew: Crew = core.crew  # type: ignore[assignment]  # in truth `Threads`
        with self._lock:
            self._places_left.extend([flight.place for flight in flights])
            self._place_is_left.notify(len(flights))
            self.landed.extend(flights)
            core.turns.update_only_fresh_until()
            crew.summon(core, time.monotonic())
        crew.start_newborns(core)

    @property
    def has_starts(self) -> bool:
        """Whether there is a flight of which there is no task yet. Needs no lock."""
        return bool(self._starting)

    def in_air(self) -> list[Flight]:
        """Return the flights of which there is a task."""
        return [flight for flight in list(self.aloft) if flight.task is not None]

    # -- the end, and forks ----------------------------------------------------------------------

    def close_if_over(self, core: Core) -> None:
        """In a thread that leaves: close the loop if that is the last thread, and no call comes any more."""
        if not STARTS_TO_THE_END:  # pragma: no cover  # 3.12.0 to 3.12.2
            self.look()
        # The last worker is no member any more when it looks whether the loop has a thread; that thread is
        # gone when it looks for members. So at least one sees that it is the last.
        if self.thread is not None and core.is_ending() and not core.crew.roster.members:
            self.thread.close_here()

    def abandon(self, *, has_workers: bool) -> None:
        """The executor is gone: see that the loop is closed. Takes no lock."""
        if self.thread is not None and not has_workers:
            self.thread.abandon()

    def threads(self) -> list[threading.Thread]:
        """Return the threads that run the loop, or are leaving it. Needs no lock."""
        return [] if self.thread is None else self.thread.threads()

    def close(self, deadline: float) -> None:
        """Close the loop, until *deadline*: no call will need it any more. Called without the lock."""
        if self.thread is not None:
            self.thread.close(deadline)

    def disown(self) -> None:
        """In a forked child: the coroutines, the loop and its thread are the parent's."""
        if self.thread is not None:
            self.thread.disown()
