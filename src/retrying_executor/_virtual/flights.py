"""The attempts of coroutine functions in virtual time: how they go to an event loop, and come back.

As with threads, a hand that gets a coroutine *launches* it: the call and its permit move to a `Flight`. When
its task has ended, the flight has *landed*, and a hand takes it up. But the loop has no thread. The thread
that has the turn of the crew runs the loop, one turn at a time, when no attempt can start. So nothing here
waits, and only `call_off` is called in other threads.

A coroutine that finds no place is *parked* until another has ended. With threads, each would keep a worker
meanwhile. So when as many are parked as there may be workers, no call is taken.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import suppress
from contextvars import Context

from retrying_executor._calls.current import current
from retrying_executor._calls.flight import Flight, outcome_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from asyncio import Task
    from collections.abc import Callable, Coroutine
    from typing import Any, Protocol

    from retrying_executor._calls.call import Call, Hand, Outcome, Work
    from retrying_executor._virtual.loop import VirtualLoop

    class Time(Protocol):
        """What time it is."""

        @property
        def now(self) -> float: ...


_GRACE = 1.0  # virtual seconds, for what calls have left behind


class Flights:
    """The attempts of one core that have left their hands.

    Args:
        time: What time it is.
        is_virtual: Returns whether an executor is one in virtual time.
        lock: The core's.
        most: How many coroutines may run at a time; 1 or more.
        most_parked: How many may wait for a place; 1 or more.
    """

    def __init__(
        self,
        time: Time,
        is_virtual: Callable[[object], bool],
        lock: threading.RLock,
        *,
        most: int,
        most_parked: int,
    ) -> None:
        self._time = time
        self._is_virtual = is_virtual
        self._lock = lock
        self._most = most
        self._most_parked = most_parked
        self._context = Context()  # an empty one, for what the loop calls here
        self._loop: VirtualLoop | None = None
        self.aloft: dict[Flight, None] = {}
        """From their launch until a hand has taken them up, in the order of their launch; under the lock."""
        self._parked: deque[Flight] = deque()
        self._in_air = 0  # how many have a task
        self._landed: deque[Flight] = deque()
        self.is_turning = False
        """Whether the loop runs at this moment, in the thread that has the turn."""

    # -- by the thread that has the turn ---------------------------------------------------------

    def launch(self, hand: Hand, work: Work, coroutine: Coroutine[Any, Any, Any]) -> bool:
        """Have a coroutine run; its call and its permit leave the hand. See `turns.Crew`."""
        call = hand.call
        assert call is not None
        self._open_loop()
        flight = Flight(call, work, hand.permit, coroutine, 0, self._lock)
        with self._lock:
            self.aloft[flight] = None
            call._worker = flight
            hand.call = hand.permit = None
        self._parked.append(flight)
        if call.done():  # after the flight was published: a canceller makes the call done, then looks for it
            flight.is_called_off = True
        self._start()
        return True

    def _open_loop(self) -> VirtualLoop:
        """Return the loop, which is made now if there is none."""
        if self._loop is None or self._loop.is_closed():  # by the program
            from retrying_executor._virtual.loop import VirtualLoop  # asyncio is slow to import

            self._loop = VirtualLoop(self._time, self._is_virtual)
        return self._loop

    def _start(self) -> None:
        """Make tasks of those that are parked, as far as there are places."""
        for flight in self._parked.copy():
            if self._in_air < self._most or flight.is_called_off:  # of these, nothing runs
                self._parked.remove(flight)
                self._in_air += 1
                assert self._loop is not None
                outcome = flight.take_off(self._loop, self._has_ended, self._context)
                if outcome is not None:
                    self._land(flight, outcome)

    def _has_ended(self, flight: Flight, task: Task[Any]) -> None:
        self._land(flight, outcome_of(task))

    def _land(self, flight: Flight, outcome: Outcome) -> None:
        self._in_air -= 1
        flight.land(outcome)
        self._landed.append(flight)

    @property
    def are_crowded(self) -> bool:
        """Whether no call can be taken, since each might be of a coroutine function."""
        return len(self._parked) >= self._most_parked

    def take_up(self, hand: Hand) -> Call | None:
        """Give a hand the call of the next flight that has landed, if there is one. Under the lock."""
        if not self._landed:
            return None
        flight = self._landed.popleft()
        del self.aloft[flight]
        return flight.hand_over(hand)

    def turn(self) -> bool:
        """Have the loop do once what there is to do; return whether something has happened."""
        loop = self._loop
        if loop is None:
            return False
        self._start()
        if not loop.is_due:
            return bool(self._landed)
        hand, current.hand = current.hand, None  # that of an attempt which waits for a coroutine
        self.is_turning = True
        try:
            loop.turn()
        except BaseException as error:
            if not self._is_outcome(error):  # but of a signal handler
                raise
        finally:
            self.is_turning, current.hand = False, hand
        return True

    def _is_outcome(self, error: BaseException) -> bool:
        """Return whether a coroutine has raised this: ``SystemExit`` and the like also end the turn."""
        tasks = [flight.task for flight in self.aloft if flight.task is not None]
        return any(task.done() and not task.cancelled() and task.exception() is error for task in tasks)

    def next_at(self) -> float:
        """Return when the loop has something to do next; infinity if no time is known."""
        return math.inf if self._loop is None else self._loop.next_at()

    @property
    def wait_for_threads(self) -> bool:
        """Whether time stands still, since functions run in threads."""
        return self._loop is not None and self._loop.waits_for_threads

    @property
    def wait_for_io(self) -> bool:
        """Whether a file or a socket may wake a coroutine."""
        return bool(self.aloft) and self._loop is not None and self._loop.waits_for_io

    def await_io(self) -> None:
        """Wait a moment in real time, until there is something to do."""
        assert self._loop is not None
        self._loop.await_io()

    def what_it_lacks(self, call: Call) -> str | None:
        """Return why a call that is aloft will not land; ``None`` if it is not aloft."""
        flight = call._worker
        if not isinstance(flight, Flight):
            return None
        if flight.task is None:
            return f"waits for one of {self._most} coroutines to end"
        return "waits in a coroutine, and nothing is left that would wake it"

    def run_aside(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine of the library in the loop."""
        _ = self._open_loop().run_aside(coroutine)

    # -- in any thread ---------------------------------------------------------------------------

    def call_off(self, call: Call) -> None:
        """Cancel the coroutine of a call that is done, if there is one."""
        flight, loop = call._worker, self._loop
        if isinstance(flight, Flight) and loop is not None:
            flight.is_called_off = True
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(flight.cancel, context=Context())

    def has_called_off(self) -> bool:
        """Return whether coroutines that were called off have not been taken up yet."""
        return any(flight.is_called_off for flight in self.aloft)

    # -- the end ---------------------------------------------------------------------------------

    def wind_up(self) -> Task[None] | None:
        """Return a task that ends what calls have left behind in the loop; ``None`` if there is no loop."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return None
        from retrying_executor._common.leftovers import end_leftovers  # asyncio is slow to import

        return loop.run_aside(end_leftovers(loop, _GRACE))

    def close(self) -> None:
        """Close the loop. If another coroutine comes, it gets a new one."""
        for flight in self._parked:  # which nobody has waited for: else Python would warn of it
            if flight.coroutine is not None:  # pragma: no branch  # for the type checker
                flight.coroutine.close()
        loop, self._loop = self._loop, None
        if loop is not None and not loop.is_running():
            with suppress(ValueError):  # its sockets may be closed already, if all of it goes together
                loop.close()

    __del__ = close
