"""One executor's calls: what it, its views and its futures share. Puts the parts together."""

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
    from retrying_executor._calls.call import Call, Outcome
    from retrying_executor._calls.stats import Stats
    from retrying_executor._calls.terms import Terms
    from retrying_executor._common.exits import ExitTimeout
    from retrying_executor._common.values import Clock
    from retrying_executor._upstream.places import Listener, Places

    class Monitor(Observer, Listener, Protocol):
        """Is told of calls and attempts."""

        def submitted(self, call: Call, /) -> None: ...
        def accepted(self, call: Call, /) -> None: ...
        def finish(self, timeout: float, /) -> None: ...

    class Roster(Protocol):
        """The part of a crew that ``submit()`` looks at."""

        can_summon: bool
        """Whether somebody is to be told of a call that was queued."""


class Crew(PartsCrew):
    """Those that make the attempts. They do not know for which core: it gives itself along."""

    if TYPE_CHECKING:  # what each crew does in its own way
        roster: Any
        """A `Roster`."""

        def see_to(self, core: Core, call: Call, /) -> Exception | None:
            """See that a call which was queued is taken; return why it is to be refused, if it is."""
            ...

        def come(self, core: Core, /) -> bool:
            """See that somebody comes for a call that may start now; return whether that is so."""
            ...

        def attach(self, core: Core, places: Places, /) -> None:
            """Calls may go to this upstream from now on: see that both go by the same clock."""

        def make_latch(self, core: Core, call: Call, /) -> Any:
            """Return a lock that is closed, at which somebody waits for *call*, or until it is accepted."""
            ...

        def join(self, core: Core, deadline: float, /) -> bool:
            """Wait until all is done and everybody has left, until *deadline*; return whether that is so."""
            ...

        def retire(self, core: Core, deadline: float, /) -> bool:
            """The same; from now on nobody stays for longer than there is something to do."""
            ...

        def stop_for_fork(self, timeout: float, /) -> bool:
            """Before a fork: see that no hand is in the middle of anything. Called under the core's lock.

            Returns:
                Whether that is so, after waiting for each for *timeout* seconds at most.
            """
            ...

        def go_on_after_fork(self) -> None:
            """After, in the parent and in the child; may be done again."""

    def restart(self, lock: threading.RLock) -> None:
        """Start with nobody, as at the beginning and in a forked child."""

    def see_to_put_off(self, core: Core) -> None:
        """See that `Core.catch_up` is called when this thread has no lock any more."""

    def terms_for(self, terms: Terms) -> Terms:
        """Return the terms for calls that are submitted on these."""
        return terms

    def prepare(self, core: Core, call: Call) -> None:
        """A call is about to be observed."""


def _sole(places: tuple[Places, ...]) -> Places | None:
    """Return those of the only upstream, if a permit of it does for any call, since none weighs more."""
    return places[0] if len(places) == 1 and places[0].most_weight == math.inf else None


class Core:
    """The calls of one executor, and what becomes of them; lives as long as there is something to do.

    Args:
        crew: Those that make the attempts.
        name: That of the executor.
        exit_timeout: How long the end of the interpreter waits.
        max_pending: How many calls may be accepted and not done; ``None``: no limit.
        waits_when_full: Whether ``submit()`` waits for room instead of raising.
        places: Those of the services that every call goes to; see `adopt`.
        monitor: What is told of calls, or ``None``.
    """

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
        self._max_pending = max_pending
        self._waits_when_full = waits_when_full
        self._served: weakref.WeakSet[Places] = weakref.WeakSet()  # to which calls may go, or have gone
        self._is_stopped = False  # for a fork
        self.put_off: deque[Callable[[], object]] = deque()
        """What a destructor or a signal handler wanted to do in a thread that had a lock."""
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
        """Start with nothing: no call, nobody there, counters at zero; but open or closed as before."""
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
        self.settling = settling = Settling(
            lock=lock, ledger=ledger, crew=crew, entrance=entrance, turns=turns, observer=self.monitor
        )
        self.ending = Ending(
            lock=lock, ledger=ledger, crew=crew, entrance=entrance, turns=turns, settling=settling
        )

    @property
    def clock(self) -> Clock:
        """What tells the time."""
        return self.crew.clock

    # -- calls come in ---------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Accept a call, or raise: then it never runs.

        Raises:
            RuntimeError: After shutdown, or if nobody is there to make attempts and nobody can come.
            BrokenThreadPool: If the initializer failed.
            PendingLimitError: If there is no room and waiting is not asked for, or is impossible.
        """
        error = None
        entrance = self.entrance
        is_queued = entrance.submits_without_lock
        try:
            if is_queued:
                self.fresh.append(call)  # publish first,
            else:
                entrance.admit(call)
                is_queued = True
            if self.roster.can_summon or entrance.refusal is not None:  # then look
                error = self.crew.see_to(self, call)
        except BaseException as error_or_interrupt:  # the submitter will not get the future
            if is_queued or not isinstance(error_or_interrupt, RuntimeError):  # of a signal handler
                self.settling.refuse(call)
            raise
        try:
            if error is not None and self.settling.refuse(call):  # or it was taken up meanwhile
                raise error
        finally:
            del error  # its traceback keeps this frame

    def adopt(self, terms: Terms) -> Terms:
        """Return the terms for calls that are submitted on these: from now on they may have its upstreams."""
        turns = self.turns
        for places in terms.places:
            self.crew.attach(self, places)
            with self.lock:  # others may be listing them
                self._served.add(places)
            if places.backlog is not None:
                self.entrance.bound()
        sole = _sole(terms.places)
        if not turns.is_mixed and (sole is not turns.places or (sole is None and terms.places)):
            with self.lock:
                turns.mix()
        return self.crew.terms_for(terms)

    def look_again(self, places: Places, opens_at: float) -> bool:
        """An upstream lets calls through again, now or at a certain time.

        Args:
            places: Those of that upstream.
            opens_at: From when on; if that is now, a permit is kept for this core.

        Returns:
            Whether a call waits for that, and somebody will see to it.
        """
        if self._is_amid():
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
            self.turns.disinvite(places)  # the first hand that is free will ask
        return False

    # -- what futures ask ------------------------------------------------------------------------

    def observe(self, call: Call) -> None:
        """Give a call what its observers need."""
        self.crew.prepare(self, call)
        self.settling.observe(call)

    def make_latch(self, call: Call) -> Any:
        """Return a lock that is closed, at which somebody waits for *call*."""
        return self.crew.make_latch(self, call)

    def synchronize(self) -> None:
        """Wait until a thread that has the lock gives it back: it has seen what was announced, or is seen."""
        with self.lock:
            pass

    def cancel(self, call: Call) -> bool:
        """Cancel a call that waits; of one that is running, make this attempt the last.

        Where that is put off, ``False``, and it is cancelled a moment later.
        """
        if self._is_amid():
            self._put_off(partial(self.settling.cancel, call))
            return call.cancelled()
        return self.settling.cancel(call)

    def settle(self, call: Call, outcome: Outcome) -> bool:
        """Make a call done with *outcome*; return ``False`` if it is done already."""
        if self._is_amid():
            self._put_off(partial(self.settling.settle, call, outcome))
            return not call.done()
        return self.settling.settle(call, outcome)

    # -- what cannot be done right now -----------------------------------------------------------

    def _is_amid(self) -> bool:
        """Return whether this thread is in the middle of something here, with a lock that guards it.

        Then this is a destructor or a signal handler that has interrupted it. It may queue calls. All else
        that changes them is put off, or the parts of a core would have to expect it between any two steps.
        """
        return is_held(self.lock) or self.crew.amid() is not None

    def _put_off(self, act: Callable[[], object]) -> None:
        """Have *act* called as soon as this thread has no lock any more: by it or by another."""
        self.put_off.append(act)
        self.crew.see_to_put_off(self)

    def catch_up(self) -> None:
        """Do what was put off. Called without a lock."""
        while True:
            try:
                act = self.put_off.popleft()
            except IndexError:  # most often before the first
                return
            act()

    # -- what clients find that look into the queue ----------------------------------------------

    def untried(self) -> list[Call]:
        """Return the calls that wait for their first attempt."""
        if self._is_amid():  # where none could be taken out
            return []
        with self.lock:
            waiting = self.ledger.schedule.waiting
            return self.crew.at_standstill(lambda _: [call for call in waiting() if not call._attempts])

    def take_out(self, call: Call) -> bool:
        """Cancel a call if it waits for its first attempt; return whether that is so."""
        return not self._is_amid() and self.settling.take_out(call)

    # -- the end ---------------------------------------------------------------------------------

    def shutdown(self, *, wait: bool, cancel_futures: bool, timeout: float | None) -> None:
        """Refuse calls from now on, and see to those that were accepted; see `RetryingExecutor`."""
        self.close(AFTER_SHUTDOWN)
        if cancel_futures and self._is_amid():
            self._put_off(partial(self.ending.halt, self))
        elif cancel_futures:
            self.ending.halt(self)
        if wait and not self.is_own_thread():
            deadline = math.inf if timeout is None else self.clock.monotonic() + timeout
            self.finish(timeout)
            if self.monitor is not None:
                self.monitor.finish(max(0.0, deadline - self.clock.monotonic()))

    def close(self, reason: str = AT_EXIT) -> None:
        """Refuse calls from now on; everybody leaves when nothing is left to do."""
        self.ending.close(reason)

    def abandon(self) -> None:
        """The executor is gone: everybody leaves when nothing is left to do. Takes no lock."""
        self.ending.abandon()

    def is_ending(self) -> bool:
        """Return whether no call comes any more: it was shut down, or the executor is gone."""
        return self.entrance.refusal is not None or self.ending.is_abandoned

    def finish(self, timeout: float | None, *, granted: float | None = None) -> None:
        """Wait until all is done and everybody has left; past *timeout* seconds, cancel what does not run.

        If that is the rest of a longer one, *granted*, the log names the latter.
        """
        deadline = math.inf if timeout is None else self.clock.monotonic() + timeout
        if not self.crew.join(self, deadline):
            assert timeout is not None  # there is nothing to run out of otherwise
            self.ending.time_is_up(self, timeout if granted is None else granted)

    def interrupt(self) -> None:
        """Ctrl-C: refuse calls, cancel those that wait, and say so; attempts that run go on."""
        self.ending.interrupt(self)

    def retire(self, timeout: float) -> bool:
        """Wait until all is done and everybody has left, for *timeout* seconds; return whether that is so."""
        return self.crew.retire(self, self.clock.monotonic() + timeout)

    def drain(self, timeout: float | None) -> bool:
        """Wait until every call accepted so far is done; return whether they all are."""
        if self.is_own_thread():
            raise final(RuntimeError("drain() in one of the executor's own threads would wait for itself"))
        return self.ending.drain(timeout)

    def is_own_thread(self) -> bool:
        """Return whether this thread makes attempts itself, or keeps others from it: it must not wait."""
        return self.crew.includes_current_thread() or is_held(self.lock)

    # -- around a fork ---------------------------------------------------------------------------

    def lock_for_fork(self, timeout: float) -> bool:
        """Before: no other thread is in the middle of anything here, unless that takes too long."""
        self._is_stopped = True  # first: an interruption may come right after the lock is taken
        if not self.lock.acquire(timeout=timeout):
            self._is_stopped = False
            return False
        if not self.crew.stop_for_fork(timeout):
            self.unlock_after_fork()
            return False
        return True

    def unlock_after_fork(self) -> None:
        """After, in the parent: go on, however far `lock_for_fork` has come."""
        if self._is_stopped:
            self.crew.go_on_after_fork()
            if is_held(self.lock):  # pragma: no branch  # see tests/untraced
                self.lock.release()
            self._is_stopped = False

    def restart_in_child(self) -> None:
        """After, in the child: start empty. The calls and the threads are the parent's."""
        entrance, turns = self.entrance, self.turns
        calls = self.settling.all_calls()
        self.crew.go_on_after_fork()  # this thread may have a hand, and is in the middle of nothing
        self._is_stopped = False
        self.put_off.clear()  # the parent's
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
        """Return what is known of the upstreams to which calls may go, or have gone."""
        with self.lock:
            return list(self._served)

    def stats(self) -> Stats:
        """Return a consistent snapshot."""
        with self.lock:
            crew = self.crew
            return crew.at_standstill(lambda _: self.ledger.stats(crew.clock.monotonic(), crew.hands()))
