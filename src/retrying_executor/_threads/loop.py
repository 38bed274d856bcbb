"""The event loop in which coroutines of calls run, and the thread that runs it.

The thread is started with the first coroutine, and leaves when it has been idle for a while. The loop stays
open, and the next thread runs the same one. So clients that were made in a call, and their connections, serve
calls of another day. What else is scheduled in the loop, such as tasks that a call has left behind, stands
still meanwhile.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from asyncio import AbstractEventLoop
from collections import deque
from contextlib import suppress
from contextvars import Context

from retrying_executor._calls.flight import outcome_of
from retrying_executor._common.errors import final
from retrying_executor._common.leftovers import close_loop, shut
from retrying_executor._common.stdlib import (
    STARTS_TO_THE_END,
    abandon_loop,
    leave_loop,
    own_context,
    start_thread,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import Future, Task, TimerHandle
    from collections.abc import Callable, Coroutine
    from typing import Any, Protocol

    from retrying_executor._calls.call import Outcome
    from retrying_executor._calls.flight import Flight
    from retrying_executor._core.core import Core

    class Flights(Protocol):
        """What the loop's thread uses of `Flights`."""

        @property
        def has_starts(self) -> bool: ...
        def next_to_start(self) -> Flight | None: ...
        def have_landed(self, core: Core, flights: list[Flight], /) -> None: ...
        def in_air(self) -> list[Flight]: ...
        def close_if_over(self, core: Core, /) -> None: ...


_GRACE = 1.0  # seconds, for tasks that calls have left behind


class LoopThread:
    """An event loop, and the thread that runs it while it is needed.

    Args:
        flights: The coroutines.
        lock: The core's. It guards which thread runs the loop.
        name: What the thread's name begins with.
        is_daemon: Whether the interpreter may end while the thread runs, where it allows that.
        new_loop: Makes the loop; ``None``: that is asyncio's own.
    """

    def __init__(
        self,
        flights: Flights,
        lock: threading.RLock,
        name: str,
        *,
        is_daemon: bool,
        new_loop: Callable[[], AbstractEventLoop] | None,
    ) -> None:
        self._flights = flights
        self._lock = lock
        self._name = name
        self._is_daemon = is_daemon
        self._new_loop = new_loop
        self._loop: AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None  # which runs the loop, or is about to
        self._departed: threading.Thread | None = None  # the one before, which may still be leaving
        self._core: Core | None = None  # as long as the thread runs
        self._is_of_parent = False  # whether this is a forked child
        self._will_look = False  # whether the thread has been told to look for what to start
        self._works = False  # whether the loop has called back since the thread went in
        self._errands: deque[Coroutine[Any, Any, None]] = deque()  # of the library, not of calls
        self._on_errands: set[Future[None]] = set()
        self._in_air = 0  # how many flights have taken off, and workers do not know yet that they landed
        self._down: list[Flight] = []  # those that have landed, and of which no worker knows yet
        self._timer: TimerHandle | None = None  # when it fires, the thread may leave
        self._idle_since = 0.0
        self._context = Context()  # for callbacks; its own, since only one thread can be in it at a time

    # -- in other threads ------------------------------------------------------------------------

    def see_to_starts(self, core: Core) -> None:
        """A flight is to be started: see that the thread does so. Called without a lock."""
        if self._thread is None:
            thread = self._new_thread(core)
            if thread is not None:
                self._start(core, thread)
        elif not self._will_look:
            self._will_look = True
            self.wake()

    def run_aside(self, core: Core, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine of the library. Called without a lock."""
        self._errands.append(coroutine)
        self.see_to_starts(core)

    def _new_thread(self, core: Core) -> threading.Thread | None:
        """Return a new thread for the loop, which the caller is to start; ``None`` if there is one."""
        with self._lock:
            if self._thread is not None:
                return None
            name = f"{self._name}_loop"
            self._thread = threading.Thread(
                target=self._run,
                args=(core, self._departed),
                name=name,
                daemon=self._is_daemon,
                **own_context(),
            )
            return self._thread

    def _start(self, core: Core, thread: threading.Thread) -> None:
        """Start the thread. If that is impossible, all flights that wait for it fail."""
        try:
            thread.start()
        except Exception as error:
            with self._lock:
                self._thread = None
            self._fail(core, error)

    def wake(self) -> None:
        """Have the thread look what to start, and whether to stay. Needs no lock."""
        if self._thread is not None:  # else the loop would keep this, and is kept by others, such as clients
            self._call(self._look)

    def call_off(self, flight: Flight) -> None:
        """Cancel the coroutine of a flight that has been marked as called off. Needs no lock."""
        task = flight.task
        if task is not None:  # else the thread makes it later, and sees the mark then
            self._call(task.cancel)

    def _call(self, act: Callable[[], object]) -> None:
        loop = self._loop
        if loop is not None:  # else a thread is about to make one, and looks itself
            with suppress(RuntimeError):  # it has been closed
                loop.call_soon_threadsafe(
                    act, context=Context()
                )  # not that of this thread, which it would keep

    def threads(self) -> list[threading.Thread]:
        """Return the threads that run the loop, or are leaving it. Needs no lock."""
        threads = [self._thread, self._departed]
        return [thread for thread in threads if thread is not None and thread.is_alive()]

    # -- the life of the thread ------------------------------------------------------------------

    def _run(self, core: Core, previous: threading.Thread | None) -> None:
        if previous is not None:
            previous.join()  # two threads cannot run one loop
        this = threading.current_thread()
        try:
            loop = self._open()
        except BaseException as error:
            with self._lock:
                self._thread, self._departed = None, this
            self._fail(core, error)
            return
        self._core = core
        self._idle_since = time.monotonic()
        while self._thread is this:
            self._works = False
            try:
                loop.call_soon(self._look, context=self._context)
                loop.run_forever()
            except (KeyboardInterrupt, SystemExit):  # the outcome of an attempt, too
                continue
            except BaseException as error:
                if not self._works:
                    self._give_up(core, loop, error)
        self._core = None
        if self._is_of_parent:  # pragma: no cover  # in a forked child: tests/untraced
            abandon_loop(loop)
        else:
            self._flights.close_if_over(core)

    def _give_up(self, core: Core, loop: AbstractEventLoop, error: BaseException) -> None:
        """The loop does not work: it was closed, or what it needs. All in it land with *error*."""
        with self._lock:
            self._thread, self._departed = None, threading.current_thread()
            self._loop = self._timer = None
        flights, self._down, self._in_air = self._down, [], 0
        self._on_errands.clear()
        for flight in self._flights.in_air():
            flight.land((None, error))
            flights.append(flight)
        shut(loop)
        self._flights.have_landed(core, flights)
        self._fail(core, error)

    def _open(self) -> AbstractEventLoop:
        """Return the loop, which is made now if there is none.

        Raises:
            TypeError: If *new_loop* returns something else.
            RuntimeError: If the loop is closed, or another thread runs it.
            BaseException: What *new_loop* raises.
        """
        loop: Any = self._loop
        if loop is None or loop.is_closed():
            loop = asyncio.new_event_loop() if self._new_loop is None else self._new_loop()
            if not isinstance(loop, AbstractEventLoop):
                raise final(TypeError(f"loop_factory must return an event loop, not {loop!r}"))
            if loop.is_closed():
                raise final(RuntimeError(f"loop_factory must return a loop that is open, not {loop!r}"))
        if loop.is_running():
            raise final(RuntimeError(f"loop_factory must return a loop that is not running, not {loop!r}"))
        with self._lock:  # so that a launch sees it, or is seen by the first look
            self._loop = loop
        return loop  # type: ignore[no-any-return]  # checked above

    def _fail(self, core: Core, error: BaseException) -> None:
        """Have all land with *error* that cannot start."""
        flights = list(iter(self._flights.next_to_start, None))
        for flight in flights:
            assert flight.coroutine is not None
            flight.coroutine.close()
            flight.land((None, error))
        self._flights.have_landed(core, flights)
        while self._errands:
            self._errands.popleft().close()

    # -- in the thread of the loop ---------------------------------------------------------------

    def _look(self) -> None:
        """Start what waits for that; leave if there is nothing to do."""
        self._will_look = False  # first: a flight that is added from here on is looked for once more
        self._works = True
        if self._thread is not threading.current_thread():
            return  # this thread leaves, and the next one looks as it comes
        while (flight := self._flights.next_to_start()) is not None:
            self._take_off(flight)
        loop = self._loop
        assert loop is not None
        while self._errands:
            errand = asyncio.Task(self._errands.popleft(), loop=loop)  # not by the program's task factory
            loop.call_later(_GRACE, errand.cancel, context=self._context)
            self._on_errands.add(errand)
            errand.add_done_callback(self._errand_is_done, context=self._context)
        self._leave_if_idle()

    def _errand_is_done(self, errand: Future[None]) -> None:
        self._on_errands.discard(errand)
        if not errand.cancelled():
            errand.exception()  # else asyncio would log that nobody has looked
        self._leave_if_idle()

    def _take_off(self, flight: Flight) -> None:
        """Make a task of a coroutine."""
        self._in_air += 1
        assert self._loop is not None
        flight.thread = self._thread
        outcome = flight.take_off(self._loop, self._has_ended, self._context)
        if outcome is not None:
            self._land(flight, outcome)

    def _has_ended(self, flight: Flight, task: Task[Any]) -> None:
        self._land(flight, outcome_of(task))

    def _land(self, flight: Flight, outcome: Outcome) -> None:
        """Note how a coroutine has ended; workers are told of all at once that ended together."""
        if self._is_of_parent:  # pragma: no cover  # a coroutine that has forked ends in the child, too
            return
        flight.land(outcome)
        self._down.append(flight)
        if len(self._down) == 1:
            assert self._loop is not None
            self._loop.call_soon(self._tell, context=self._context)

    def _tell(self) -> None:
        flights, self._down = self._down, []
        self._in_air -= len(flights)
        if self._core is not None:  # pragma: no branch  # else it was forked: tests/untraced
            self._flights.have_landed(self._core, flights)
            self._idle_since = time.monotonic()
            self._leave_if_idle()

    def _leave_if_idle(self) -> None:
        """Leave if there has been nothing to do for long enough; else look again when that may be so."""
        loop, core = self._loop, self._core
        if loop is None or core is None:  # pragma: no cover  # it was forked: tests/untraced
            return
        if self._in_air or self._on_errands:
            return
        with self._lock:
            if self._thread is not threading.current_thread():
                return  # it leaves already
            crew: Any = core.crew  # in truth `Threads`
            timeout = crew.idle_timeout
            if not STARTS_TO_THE_END:  # pragma: no cover  # 3.12.0 to 3.12.2
                if _has_calls(core):  # the last worker wakes this thread as it leaves
                    return
                if 0 <= timeout < _GRACE:  # a call is submitted when this thread has been started
                    timeout = _GRACE
            stays_until = math.inf if timeout < 0 else self._idle_since + timeout
            left = stays_until - time.monotonic()
            if left <= 0 or core.is_ending():
                # Publish that this thread leaves, then look once more. A worker adds its flight first, and
                # looks for the thread then.
                this, self._thread = self._thread, None
                if self._flights.has_starts or self._errands:
                    # Nobody else sees to these: a worker may have seen that there is no thread, and waits for
                    # this lock to add one, in vain.
                    self._thread = this
                    loop.call_soon(self._look, context=self._context)
                    return
                self._departed = this
                loop.stop()
        if self._thread is not None and self._timer is None and left < math.inf:
            self._timer = loop.call_later(left, self._time_is_up, context=self._context)

    def _time_is_up(self) -> None:
        self._timer = None
        self._leave_if_idle()

    # -- the end, and forks ----------------------------------------------------------------------

    def close(self, deadline: float) -> None:
        """Close the loop, unless it is needed again; wait for that until *deadline*."""
        loop, departed = self._take_loop()
        if loop is None:
            return
        # Not in this thread, which may be running another loop.
        thread = threading.Thread(
            target=_close, args=(loop, departed), name=f"{self._name}_loop", daemon=self._is_daemon
        )
        try:
            thread.start()
        except Exception:
            shut(loop)
        else:
            left = min(deadline - time.monotonic(), threading.TIMEOUT_MAX)
            thread.join(None if deadline == math.inf else max(0.0, left))

    def close_here(self) -> None:
        """As `close`, in this thread, which runs no other loop."""
        loop, departed = self._take_loop()
        if loop is not None:
            _close(loop, None if departed is threading.current_thread() else departed)

    def abandon(self) -> None:
        """The executor is gone: close the loop in a new thread, if there is none that will. Takes no lock."""
        if self._loop is not None and self._thread is None:
            closer = threading.Thread(target=self.close_here, name=f"{self._name}_loop", daemon=False)
            with suppress(Exception):  # then `__del__` does it
                start_thread(closer.start)

    def _take_loop(self) -> tuple[AbstractEventLoop | None, threading.Thread | None]:
        """Return the loop, unless it is needed again, and the thread that has run it; each loop once."""
        with self._lock:
            if self._thread is not None or self._flights.has_starts or self._errands:
                return None, None
            loop, self._loop = self._loop, None
            return loop, self._departed

    def __del__(self) -> None:
        loop = self._loop
        if loop is not None and not loop.is_running():
            shut(loop)

    def disown(self) -> None:
        """In a forked child: never touch the loop again. What it waits for is the parent's."""
        thread, self._thread = self._thread, None
        loop, self._loop = self._loop, None
        self._departed = self._core = None
        self._is_of_parent = True
        if loop is not None and thread is not None and thread.ident == threading.get_ident():
            leave_loop(loop)  # pragma: no cover  # in a coroutine: tests/untraced; `_run` does the rest
        elif loop is not None:
            abandon_loop(loop)


def _has_calls(core: Core) -> bool:  # pragma: no cover  # 3.12.0 to 3.12.2
    """Return whether a call of a core is not done: it may need the loop yet. Called under the core's lock."""
    return len(core.ledger.schedule) > 0 or bool(core.entrance.running_calls())


def _close(loop: AbstractEventLoop, previous: threading.Thread | None) -> None:
    """Close the loop as soon as the thread that has run it is gone."""
    if previous is not None:
        previous.join()
    close_loop(loop, _GRACE)
