"""How a core ends: what is accepted is made, waited for, or cancelled."""

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
    """The end of a core; waiting for it is the business of others.

    Args:
        lock: The core's.
        ledger: Its calls.
        crew: Those that make the attempts.
        entrance: What is closed.
        turns: What is halted.
        settling: What makes calls done that wait for nothing any more.
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
        """Whether the executor is gone; set without the lock."""

    def close(self, reason: str) -> None:
        """Refuse calls from now on; everybody leaves when nothing is left to do."""
        with self._lock:
            # Publish that calls are refused, then wake: a worker that looks whether to stay has the lock, so
            # it looks either after this, or before, and is woken. A submitter that has queued its call
            # without the lock looks at the refusal afterwards, in `Core.submit`.
            self._entrance.close(RuntimeError(reason))
            self._crew.wake_all()

    def abandon(self) -> None:
        """The executor is gone: everybody leaves when nothing is left to do. Takes no lock."""
        self.is_abandoned = True
        self._crew.wake_all()

    def break_off(self) -> None:
        """The initializer has failed: refuse calls, and start no attempt any more; see `clear`."""
        with self._lock:
            self._entrance.close(BrokenThreadPool(_BROKEN))
            self._turns.halt()
            self._crew.wake_all()

    def halt(self, asker: Asker) -> int:
        """Start no attempt any more, and cancel every call that waits; return how many those are."""
        with self._lock:
            # From now on no hand takes a call, and a call whose attempt fails becomes done instead of going
            # into backoff. What was put there before is found by `clear`.
            self._turns.halt()
            waiting = len(self._ledger.schedule)
            self._crew.wake_all()
        self.clear(asker)
        return waiting

    def clear(self, asker: Asker) -> None:
        """Make every call done that waits for an attempt that will not be."""
        # Permits first: the done callbacks of these calls may wait for calls of another executor, which may
        # need them.
        self._turns.decline_unused(asker, are_all=True)
        with self._lock:
            # At a standstill. A hand that looked before `halt` may be taking a fresh call without this lock:
            # the call would be in no list, and in its hand only after the look.
            calls = self._crew.at_standstill(lambda _: self._ledger.schedule.waiting())
        for call in calls:
            if isinstance(self._entrance.refusal, BrokenThreadPool):
                self._settling.settle(call, (None, BrokenThreadPool(_BROKEN)))
            else:
                self._settling.cancel(call)

    def time_is_up(self, asker: Asker, granted: float) -> None:
        """Cancel what does not run: *granted* seconds were given for the end, and they are over."""
        log.time_is_up(self.halt(asker), self._names_of_running(), granted)

    def interrupt(self, asker: Asker) -> None:
        """Ctrl-C: refuse calls, cancel those that wait, and say so; attempts that run go on."""
        self.close(AFTER_SHUTDOWN)
        log.interrupted(self.halt(asker), self._names_of_running())

    def _names_of_running(self) -> list[str]:
        with self._lock:
            running = self._entrance.running_calls()
        return names_of(running)

    def drain(self, timeout: float | None) -> bool:
        """Wait until every call accepted so far is done; return whether they all are."""
        with self._lock:
            # At a standstill, or a call that a hand is just taking would be missed: it is in neither list.
            calls = self._crew.at_standstill(
                lambda _: [*self._entrance.running_calls(), *self._ledger.schedule.waiting()]
            )
        monotonic = self._crew.clock.monotonic
        deadline = math.inf if timeout is None else monotonic() + timeout
        for call in calls:
            patience = min(deadline - monotonic(), threading.TIMEOUT_MAX)
            if not call._wait(None if deadline == math.inf else patience):
                return False
        return True
