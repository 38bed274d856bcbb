"""The core of an executor: puts the parts together that the executor, its views and its futures share."""

from __future__ import annotations

import math
import threading
import weakref
from collections import deque
from functools import partial

from retrying_executor._calls.ledger import Ledger
from retrying_executor._common.errors import ForkedFutureError, final
from retrying_executor._common.stdlib import is_held
from retrying_executor._core.ending import AFTER_SHUTDOWN, AT_EXIT, Ending
from retrying_executor._core.entrance import Entrance
from retrying_executor._core.settling import Settling
from retrying_executor._core.turns import Crew as PartsCrew
from retrying_executor._core.turns import Turns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from retrying_executor._calls.attempt import Observer
    from retrying_executor._calls.call import Call, Outcome, Work
    from retrying_executor._calls.stats import Stats
    from retrying_executor._calls.terms import Terms
    from retrying_executor._common.exits import ExitTimeout
    from retrying_executor._common.values import Clock
    from retrying_executor._upstream.places import Listener, Places

    class Monitor(Observer, Listener, Protocol):
        """Is told of calls and attempts."""

        def submitted(self, call: Call, /) -> None: ...
        def accepted(self, call: Call, /) -> None: ...
        def began_late(self, call: Call, work: Work, /) -> None: ...
        def finish(self, timeout: float, /) -> None: ...

    class Keeper(Protocol):
        """What keeps the calls in a journal, as far as a crew asks: the rest is in `JournalledCore`."""

        def load_more(self) -> None:
            """Queue more of the calls that other processes have left, if it is time for that."""

        def flush(self) -> None:
            """There is nothing to do: write what was put off."""

    class Roster(Protocol):
        """The part of a crew that ``submit()`` looks at."""

        can_summon: bool
        """Whether the crew is to be told of a call that was queued."""


class Crew(PartsCrew):
    """What makes the attempts: threads of its own, or in virtual time the threads that wait.

    It does not know its core, which passes itself as an argument.
    """

    if TYPE_CHECKING:  # what each crew does in its own way
        roster: Any
        """A `Roster`."""

        def see_to(self, core: Core, call: Call, /) -> Exception | None:
            """See that a call which was queued is taken; return why it is to be refused, or ``None``."""
            ...

        def come(self, core: Core, /) -> bool:
            """See that a hand comes for a call that may start now; return whether one does."""
            ...

        def attach(self, core: Core, places: Places, /) -> None:
            """Calls may go to this upstream from now on: see that it uses the clock of the crew."""

        def join(self, core: Core, deadline: float, /) -> bool:
            """Wait until all calls are done and all threads have left; ``False`` if *deadline* is first."""
            ...

        def retire(self, core: Core, deadline: float, /) -> bool:
            """As `join`; and from now on no thread stays when it has nothing to do."""
            ...

        def stop_for_fork(self, timeout: float, /) -> bool:
            """Before a fork: see that no hand is in the middle of a change. Called under the core's lock.

            Returns:
                Whether that is so, after waiting for each hand for *timeout* seconds at most.
            """
            ...

        def go_on_after_fork(self) -> None:
            """Undo `stop_for_fork`, in the parent and in the child; may be done again."""

    def make_latch(self, core: Core, call: Call) -> Any:
        """Return a closed lock at which a thread waits: for *call*, or for room for it."""
        latch = threading.Lock()
        latch.acquire()
        return latch

    def restart(self, lock: threading.RLock) -> None:
        """Start without threads: at first, and again in a forked child."""

    def expect_coroutine(self, core: Core) -> None:
        """A call of a coroutine function is about to be submitted, and no thread may start later."""

    def see_to_put_off(self, core: Core) -> None:
        """See that `Core.catch_up` is called as soon as this thread holds no lock any more."""

    def terms_for(self, terms: Terms) -> Terms:
        """Return the terms to use instead of *terms*."""
        return terms

    def prepare(self, core: Core, call: Call) -> None:
        """A call is about to be observed."""


def _sole(places: tuple[Places, ...]) -> Places | None:
    """Return the only upstream, if a permit of it lets any call through, since none weighs more."""
    return places[0] if len(places) == 1 and places[0].most_weight == math.inf else None


class Core:
    """The calls of one executor. It outlives the executor as long as there are calls to make.

    Args:
        crew: What makes the attempts.
        name: The name of the executor.
        exit_timeout: How long the end of the interpreter waits.
        max_pending: How many calls may be accepted and not done; ``None``: no limit.
        waits_when_full: Whether ``submit()`` waits for room instead of raising.
        places: The upstreams of every call; for others see `adopt`.
        monitor: Is told of calls and attempts; or ``None``.
    """

    errand_for: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any] | None = None
    """Returns what an attempt is to call instead of a function, if attempts run on an engine."""

    keeper: Any = None
    """A `Keeper`, which keeps the calls in a journal, if there is one."""

    def __init__(
        self,
        crew: Crew,
        *,
        name: str,
        exit_timeout: ExitTimeout,
        max_pending: int | None = None,
        waits_when_full: bool = False,
        places: tuple[Places, ...] = (),
        monitor: Monitor | None = None,
    ) -> None:
        self.crew = crew
        self.name = name
        self.exit_timeout = exit_timeout
        self.monitor = monitor
        self.is_plain = monitor is None
        """Whether nobody but the submitter is told of a call."""
        self._max_pending = max_pending
        self._waits_when_full = waits_when_full
        self._served: weakref.WeakSet[Places] = weakref.WeakSet()  # the upstreams of calls, now or earlier
        self._is_stopped = False  # between `lock_for_fork` and the end of the fork
        self.put_off: deque[Callable[[], object]] = deque()
        """What destructors and signal handlers asked for in a thread that held a lock; see `catch_up`."""
        sole = _sole(places)
        self._assemble(places=sole, is_mixed=bool(places) and sole is None)

    def _assemble(
        self,
        *,
        places: Places | None,
        is_mixed: bool = False,
        is_bounded: bool = False,
        refusal: Exception | None = None,
        is_halted: bool = False,
    ) -> None:
        """Start with no call, no thread and counters at zero; whether calls are refused is given."""
        crew = self.crew
        self.lock = lock = threading.RLock()
        crew.restart(lock)
        self.ledger = ledger = Ledger()
        self.fresh = ledger.schedule.fresh
        self.roster: Roster = crew.roster
        self.entrance = entrance = Entrance(
            lock=lock,
            ledger=ledger,
            crew=crew,
            max_pending=self._max_pending,
            waits_when_full=self._waits_when_full,
            is_bounded=is_bounded,
            refusal=refusal,
        )
        self.turns = turns = Turns(
            lock=lock,
            schedule=ledger.schedule,
            crew=crew,
            places=places,
            is_mixed=is_mixed,
            is_limited=self._max_pending is not None,
            is_halted=is_halted,
        )
        self.settling = settling = self._new_settling(
            lock=lock, ledger=ledger, crew=crew, entrance=entrance, turns=turns
        )
        self.ending = Ending(
            lock=lock, ledger=ledger, crew=crew, entrance=entrance, turns=turns, settling=settling
        )

    def _new_settling(self, **parts: Any) -> Settling:
        return Settling(**parts, observer=self.monitor)

    @property
    def clock(self) -> Clock:
        """What tells the time."""
        return self.crew.clock

    # -- calls come in ---------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Accept a call, or raise: then it never runs.

        Raises:
            RuntimeError: After shutdown, or if there is no thread and none can be started.
            BrokenThreadPool: If the initializer failed.
            PendingLimitError: If there is no room and waiting is not asked for, or is impossible.
        """
        error = None
        entrance = self.entrance
        is_queued = entrance.submits_without_lock
        try:
            if is_queued:
                # No lock orders this against a worker that goes to rest, or `shutdown()`. So both sides
                # publish first, then look: at least one sees the other.
                self.fresh.append(call)  # publish first,
            else:
                entrance.admit(call)
                is_queued = True
            if self.roster.can_summon or entrance.refusal is not None:  # then look
                error = self.crew.see_to(self, call)
        except BaseException as error_or_interrupt:
            # The submitter will not get the future, so the call must not run. A signal handler may have
            # raised after the call was queued, and before `is_queued` says so.
            if is_queued or not isinstance(error_or_interrupt, RuntimeError):
                self.settling.refuse(call)
            raise
        try:
            if error is not None and self.settling.refuse(call):  # else a worker took it, so it is accepted
                raise error
        finally:
            del error  # its traceback keeps this frame

    def submit_and_tell(self, call: Call) -> None:
        """Accept a call as `submit` does, and tell the monitor."""
        monitor = self.monitor
        if monitor is not None:
            monitor.submitted(call)
        self.submit(call)
        if monitor is not None:
            monitor.accepted(call)

    def adopt(self, terms: Terms) -> Terms:
        """Prepare for calls with these terms and their upstreams; return the terms to use for them."""
        turns = self.turns
        for places in terms.places:
            self.crew.attach(self, places)
            with self.lock:  # another thread may be in `served`
                self._served.add(places)
            if places.backlog is not None:
                self.entrance.bound()
        sole = _sole(terms.places)
        # Read without the lock: two threads that mix the turns one after the other do no harm.
        if not turns.is_mixed and (sole is not turns.places or (sole is None and terms.places)):
            with self.lock:
                turns.mix()
        return self.crew.terms_for(terms)

    def look_again(self, places: Places, opens_at: float) -> bool:
        """An upstream lets calls through again, now or at a certain time.

        Args:
            places: The upstream.
            opens_at: From when on. If that is now, the upstream keeps a permit for this core.

        Returns:
            Whether a call waits for the upstream, and a hand will come for it.
        """
        if self._is_interrupting():
            self._put_off(partial(self.look_again, places, opens_at))
            return True
        now = self.clock.monotonic()
        with self.lock:
            if not self.turns.invite(places, opens_at, now):
                return False
            if opens_at > now:
                self.crew.due_at_changed(self.ledger.schedule)
                return True
        if self.crew.come(self):
            return True
        with self.lock:
            self.turns.disinvite(places)  # no hand is free: the first that is will ask
        return False

    # -- what futures ask ------------------------------------------------------------------------

    def observe(self, call: Call) -> None:
        """Give a call what its observers need."""
        self.crew.prepare(self, call)
        self.settling.observe(call)

    def make_latch(self, call: Call) -> Any:
        """Return a closed lock at which a thread waits for *call*."""
        return self.crew.make_latch(self, call)

    def synchronize(self) -> None:
        """Wait until a thread in the middle of a change is through, or sees what this one announced."""
        # A change that began before the announcement is complete when this gets the lock. One that begins
        # later sees the announcement.
        with self.lock:
            pass

    def cancel(self, call: Call) -> bool:
        """Cancel a call that waits; if an attempt runs, make it the last. Return whether it is cancelled.

        Where cancelling is put off, that is ``False``, and the call is cancelled a moment later.
        """
        if self._is_interrupting():
            self._put_off(partial(self.settling.cancel, call))
            return call.cancelled()
        return self.settling.cancel(call)

    def settle(self, call: Call, outcome: Outcome) -> bool:
        """Make a call done with *outcome*; return ``False`` if it is done already."""
        if self._is_interrupting():
            self._put_off(partial(self.settling.settle, call, outcome))
            return not call.done()
        return self.settling.settle(call, outcome)

    # -- what cannot be done right now -----------------------------------------------------------

    def _is_interrupting(self) -> bool:
        """Return whether this thread holds the lock of this core or of one of its hands.

        Then the caller is a destructor or a signal handler that has interrupted a change here. It may queue
        calls. All else is put off, or the parts of a core would have to expect it between any two steps.
        """
        return is_held(self.lock) or self.crew.interrupted_hand() is not None

    def _put_off(self, act: Callable[[], object]) -> None:
        """Have *act* called, by this thread or another, as soon as this thread holds no lock any more."""
        self.put_off.append(act)
        self.crew.see_to_put_off(self)

    def catch_up(self) -> None:
        """Do what was put off. Called without a lock; several threads may do so at once."""
        while True:
            try:
                act = self.put_off.popleft()
            except IndexError:  # nothing is left, or another thread was faster
                return
            act()

    # -- what clients find that look into the queue ----------------------------------------------

    def untried(self) -> list[Call]:
        """Return the calls that wait for their first attempt."""
        if self._is_interrupting():  # then `take_out` would refuse each of them
            return []
        with self.lock:
            waiting = self.ledger.schedule.waiting
            return self.crew.at_standstill(lambda _: [call for call in waiting() if not call._attempts])

    def take_out(self, call: Call) -> bool:
        """Cancel a call if it waits for its first attempt; return whether that is so."""
        return not self._is_interrupting() and self.settling.take_out(call)

    # -- the end ---------------------------------------------------------------------------------

    def shutdown(self, *, wait: bool, cancel_futures: bool, timeout: float | None) -> None:
        """Refuse calls from now on, and see to those that were accepted; see `RetryingExecutor`."""
        self.close(AFTER_SHUTDOWN)
        if cancel_futures and self._is_interrupting():
            self._put_off(partial(self.ending.halt, self))
        elif cancel_futures:
            self.ending.halt(self)
        if wait and not self.is_own_thread():
            deadline = math.inf if timeout is None else self.clock.monotonic() + timeout
            self.finish(timeout)
            if self.monitor is not None:
                self.monitor.finish(max(0.0, deadline - self.clock.monotonic()))

    def close(self, reason: str = AT_EXIT) -> None:
        """Refuse calls from now on; threads leave when nothing is left to do."""
        self.ending.close(reason)

    def abandon(self) -> None:
        """The executor is gone: threads leave when nothing is left to do. Takes no lock."""
        self.ending.abandon()

    def is_ending(self) -> bool:
        """Return whether no call comes any more: it was shut down, or the executor is gone."""
        return self.entrance.refusal is not None or self.ending.is_abandoned

    def finish(self, timeout: float | None, *, granted: float | None = None) -> None:
        """Wait until all calls are done and all threads have left; past *timeout* seconds, cancel what waits.

        If *timeout* is the rest of a longer time, *granted*, the log names that.
        """
        deadline = math.inf if timeout is None else self.clock.monotonic() + timeout
        if not self.crew.join(self, deadline):
            assert timeout is not None  # without one `join` does not give up
            self.ending.time_is_up(self, timeout if granted is None else granted)

    def interrupt(self) -> None:
        """Ctrl-C: refuse calls, cancel those that wait, and log that; attempts that run go on."""
        self.ending.interrupt(self)

    def retire(self, timeout: float) -> bool:
        """Wait as `finish`, but cancel nothing, and let no thread idle; return ``False`` when time is up."""
        return self.crew.retire(self, self.clock.monotonic() + timeout)

    def drain(self, timeout: float | None) -> bool:
        """Wait until every call accepted so far is done; return whether they all are."""
        if self.is_own_thread():
            raise final(RuntimeError("drain() in one of the executor's own threads would wait for itself"))
        return self.ending.drain(timeout)

    def is_own_thread(self) -> bool:
        """Return whether this thread must not wait for calls: it makes attempts itself, or holds the lock."""
        return self.crew.includes_current_thread() or is_held(self.lock)

    # -- around a fork ---------------------------------------------------------------------------

    def lock_for_fork(self, timeout: float) -> bool:
        """Before a fork: see that no other thread is in the middle of a change here.

        Returns:
            Whether that is so, after waiting for each lock for *timeout* seconds at most.
        """
        self._is_stopped = True  # first: an interruption may come right after the lock is taken, see below
        if not self.lock.acquire(timeout=timeout):
            self._is_stopped = False
            return False
        if not self.crew.stop_for_fork(timeout):
            self.unlock_after_fork()
            return False
        return True

    def unlock_after_fork(self) -> None:
        """After a fork, in the parent: go on. An interrupted `lock_for_fork` is undone, too."""
        if self._is_stopped:
            self.crew.go_on_after_fork()
            if is_held(self.lock):  # pragma: no branch  # see tests/untraced
                self.lock.release()
            self._is_stopped = False

    def restart_in_child(self) -> None:
        """After a fork, in the child: start empty. The calls and the threads are the parent's."""
        entrance, turns = self.entrance, self.turns
        calls = self.settling.all_calls()
        self.crew.go_on_after_fork()  # or this thread's hand, if it has one, would seem to be in a change
        self._is_stopped = False
        self.put_off.clear()  # the parent does that
        self._assemble(
            places=turns.places,
            is_mixed=turns.is_mixed,
            is_bounded=entrance.is_bounded,
            refusal=entrance.refusal,
            is_halted=turns.is_halted,
        )
        for call in calls:
            call._orphan(ForkedFutureError("the call belongs to the process that this one was forked from"))

    # -- what can be seen from outside -----------------------------------------------------------

    def served(self) -> list[Places]:
        """Return the upstreams of calls, now or earlier."""
        with self.lock:
            return list(self._served)

    def stats(self) -> Stats:
        """Return a consistent snapshot."""
        with self.lock:
            crew = self.crew
            return crew.at_standstill(lambda _: self.ledger.stats(crew.clock.monotonic(), crew.hands()))
