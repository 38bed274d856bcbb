"""The books: every call that was accepted waits, runs or is done, and is counted as such.

Pure like the schedule: no threads, no clock. Whoever uses it holds the lock that guards it, and
that lock guards the state of the calls too. What must stay true between any two methods:

- a call that waits is in the schedule, and its future is pending;
- a call that runs is in somebody's hands, is counted in ``_running``, and its future is running;
- a call that is done is counted once: as succeeded, as failed or as cancelled.

A signal handler that submits or cancels in the middle of an addition here may cost one count. No
decision rests on those numbers; on ``_running`` some do, and what handlers may do leaves it alone.
"""

from __future__ import annotations

import math

from retrying_executor._schedule import Schedule
from retrying_executor._stats import Stats
from retrying_executor._stdlib import PENDING, RUNNING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from retrying_executor._future import Outcome
    from retrying_executor._log import UnseenFailure
    from retrying_executor._schedule import Call, Claim


class Ledger:
    """The calls of one pool, from the moment they are accepted."""

    __slots__ = ("_accepted", "_cancelled", "_failed", "_retried", "_running", "_succeeded", "schedule")

    def __init__(self) -> None:
        self.schedule = Schedule()
        self._accepted = 0
        self._running = 0
        self._succeeded = 0
        self._failed = 0
        self._cancelled = 0
        self._retried = 0

    @property
    def pending(self) -> int:
        """How many calls are accepted and not done."""
        return len(self.schedule) + self._running

    def accept(self, call: Call) -> None:
        """A call waits for its first attempt."""
        self.schedule.add(call)
        self._accepted += 1

    def refuse(self, call: Call) -> None:
        """If a call waits for its first attempt, it was not accepted after all: nothing counts it."""
        waits = call._attempts == 0 and (call._lane is not None or self.schedule.has_fresh(call))
        if waits and not call.done():
            call._cancel()
            self.schedule.discard(call, retried=False)
            self._accepted -= 1

    def take(self, now: float, claim: Callable[[Call, float], Claim]) -> Call | None:
        """Return the call whose turn it is, which runs from now on; ``None`` if none is ready.

        Args:
            now: What time it is.
            claim: `begin`, or what calls that if the call's upstream lets it through.
        """
        call = self.schedule.take(now, claim)
        if call is not None:
            self._running += 1
        return call

    def back_off(self, call: Call, due_at: float) -> bool:
        """A call that runs waits again, until *due_at*; return whether it is the first that is due."""
        call._back_off(due_at)
        self._running -= 1
        self._retried += 1
        return self.schedule.add_retry(call, due_at)

    def finish(self, call: Call, outcome: Outcome, unseen: UnseenFailure | None) -> bool:
        """Make a call done; return ``False`` if it is done already."""
        if call.done():
            if unseen is not None:
                unseen.seen()
            return False
        waited = call._state == PENDING
        call._finish(outcome, unseen)
        if outcome[1] is None:
            self._succeeded += 1
        else:
            self._failed += 1
        if waited:
            self._strike_out(call)
        else:
            self._running -= 1
        return True

    def cancel(self, call: Call) -> bool:
        """Cancel a call that waits; of one that runs, make this attempt the last and return ``False``."""
        if call._state == RUNNING:
            call._is_last = True
        if call._state != PENDING:
            return False
        call._cancel()
        self._cancelled += 1
        self._strike_out(call)
        return True

    def _strike_out(self, call: Call) -> None:
        self.schedule.discard(call, retried=call._attempts > 0)

    def stats(self, now: float, threads: int) -> Stats:
        """Return a consistent snapshot, given what time it is and how many threads there are."""
        waiting = len(self.schedule)
        ready = self.schedule.count_ready(now)
        held = self.schedule.count_held(now)
        due_at = self.schedule.first_due_at()
        return Stats(
            threads=threads,
            running=self._running,
            ready=ready,
            held=held,
            in_backoff=waiting - ready - held,
            submitted=self._accepted,
            succeeded=self._succeeded,
            failed=self._failed,
            cancelled=self._cancelled,
            retried=self._retried,
            next_due_at=None if due_at == math.inf else due_at,
        )
