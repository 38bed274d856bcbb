"""How a core ends: calls are refused, and those that wait are made or cancelled."""

from __future__ import annotations

import math
import threading
from concurrent.futures.thread import BrokenThreadPool

from retrying_executor._calls.call import names_of
from retrying_executor._common import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from retrying_executor._calls.ledger import Ledger
    from retrying_executor._core.entrance import Entrance
    from retrying_executor._core.settling import Settling
    from retrying_executor._core.turns import Crew, Turns
    from retrying_executor._upstream.places import Asker

AFTER_SHUTDOWN = "cannot schedule new futures after shutdown"
AT_EXIT = "cannot schedule new futures after interpreter shutdown"
_BROKEN = "A thread initializer failed, the thread pool is not usable anymore"


class Ending:
    """The end of a core. Waiting for the threads is the crew's part.

    Args:
        lock: The core's.
        ledger: Its calls.
        crew: What makes the attempts.
        entrance: Is closed.
        turns: Are halted.
        settling: Makes the calls done that will have no attempt.
    """

    def __init__(
        self,
        *,
        lock: threading.RLock,
        ledger: Ledger,
        crew: Crew,
        entrance: Entrance,
        turns: Turns,
        settling: Settling,
    ) -> None:
        self._lock = lock
        self._ledger = ledger
        self._crew = crew
        self._entrance = entrance
        self._turns = turns
        self._settling = settling
        self.is_abandoned = False
        """Whether the executor is gone: nobody has a reference to it. Set without the lock."""

    def close(self, reason: str) -> None:
        """Refuse calls from now on; threads leave when nothing is left to do."""
        with self._lock:
            # Publish that calls are refused, then wake. A worker decides whether to stay under this lock:
            # before this, and then it is woken; or later, and then it sees the refusal. A submitter that has
            # queued its call without the lock looks at the refusal afterwards, in `Core.submit`.
            self._entrance.close(RuntimeError(reason))
            self._crew.wake_all()

    def abandon(self) -> None:
        """The executor is gone: threads leave when nothing is left to do. Takes no lock."""
        # Publish, then wake. A worker publishes that it rests, then reads this: so it is woken, or sees it.
        self.is_abandoned = True
        self._crew.abandon()

    def break_off(self) -> None:
        """The initializer has failed: refuse calls, and start no attempt any more; `clear` does the rest."""
        with self._lock:
            self._entrance.close(BrokenThreadPool(_BROKEN))
            self._turns.halt()
            self._crew.wake_all()

    def halt(self, asker: Asker) -> int:
        """Start no attempt any more, and cancel every call that waits; return how many those are."""
        with self._lock:
            # From now on no hand takes a call under this lock, and a call whose attempt fails becomes done
            # instead of going into backoff. `clear` finds the calls that went there before.
            self._turns.halt()
            waiting = len(self._ledger.schedule)
            self._crew.wake_all()
        self.clear(asker)
        return waiting

    def clear(self, asker: Asker) -> None:
        """Make every call done that waits. No attempt of it will start."""
        # Permits first: a done callback may wait for a call of another executor, which may need one of them.
        self._turns.decline_unused(asker, are_all=True)
        with self._lock:
            # At a standstill: a hand that has not seen `halt` yet may be taking a fresh call without this
            # lock. While it does, the call is neither in the schedule nor in its hand.
            calls = self._crew.at_standstill(lambda _: self._ledger.schedule.waiting())
        for call in calls:
            if isinstance(self._entrance.refusal, BrokenThreadPool):
                self._settling.settle(call, (None, BrokenThreadPool(_BROKEN)))
            else:
                self._settling.cancel(call)

    def time_is_up(self, asker: Asker, granted: float) -> None:
        """Cancel the calls that wait or await, and log that: the *granted* seconds for the end are over."""
        waiting = self.halt(asker)
        with self._lock:
            # At a standstill: a call that is just being launched is neither in its hand nor in a flight.
            running = self._crew.at_standstill(lambda _: self._entrance.running_calls())
        awaiting = {call: names_of([call]) for call in running if call._awaits}
        cancelled, interrupt = 0, None
        for call in awaiting:
            try:
                cancelled += self._settling.cancel(call)
            except BaseException as error:  # of a done callback: the others are cancelled first
                cancelled, interrupt = cancelled + 1, error
        if awaiting:
            self._crew.await_landings(asker)
        killed = self._crew.cut_off(asker)
        left = [name for hand in self._crew.hands() if hand.call for name in awaiting.get(hand.call, [])]
        names = sorted(self._names_of_running() + left)
        log.time_is_up(waiting + cancelled, names, granted, self._settling.fate, killed)
        if interrupt is not None:
            raise interrupt

    def interrupt(self, asker: Asker) -> None:
        """Ctrl-C: refuse calls, cancel those that wait, and log that; attempts that run go on."""
        self.close(AFTER_SHUTDOWN)
        log.interrupted(self.halt(asker), self._names_of_running(), self._settling.fate)

    def _names_of_running(self) -> list[str]:
        with self._lock:
            running = self._entrance.running_calls()
        return names_of(running)

    def drain(self, timeout: float | None) -> bool:
        """Wait until every call accepted so far is done; return whether they all are."""
        with self._lock:
            # At a standstill: a call that a hand is just taking is in neither list, and would be missed.
            calls = self._crew.at_standstill(
                lambda _: [*self._entrance.running_calls(), *self._ledger.schedule.waiting()]
            )
        monotonic = self._crew.clock.monotonic
        deadline = math.inf if timeout is None else monotonic() + timeout
        for call in calls:
            left = min(deadline - monotonic(), threading.TIMEOUT_MAX)
            if not call._wait(None if deadline == math.inf else left):
                return False
        return True
