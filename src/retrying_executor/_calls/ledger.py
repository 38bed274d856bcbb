"""The books: every call that was accepted waits, runs or is done, and is counted as such.

Pure like the schedule: no threads, no clock. Its user holds the lock that guards it. What must
stay true between any two methods:

- a call that waits is in the schedule, its future is pending, and it is in no worker's hands;
- a call that is done is counted once: as succeeded, as failed or as cancelled; by its worker, if that
  made its last attempt, else here. A worker that leaves hands its counts over.

Nobody counts what is accepted: it is the sum of what became of it.

A signal handler that cancels in the middle of an addition here may cost one count. No decision rests
on those numbers.
"""

from __future__ import annotations

from retrying_executor._calls.schedule import Schedule
from retrying_executor._calls.stats import Stats
from retrying_executor._common.stdlib import DONE_STATES, FINISHED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from retrying_executor._calls.call import Call, Hand, Outcome
    from retrying_executor._common.unseen import UnseenFailure


class Ledger:
    """The calls of one core, from the moment they are accepted."""

    __slots__ = ("_cancelled", "_failed", "_retried", "_succeeded", "schedule")

    def __init__(self) -> None:
        self.schedule = Schedule()
        self._succeeded = 0
        self._failed = 0
        self._cancelled = 0
        self._retried = 0

    def refuse(self, call: Call) -> bool:
        """If a call still waits for its first attempt, it was not accepted after all: nothing counts it."""
        return self.schedule.has_untried(call) and self._withdraw(call, counts=0)

    def cancel(self, call: Call) -> bool:
        """Cancel a call that waits; of one that runs, make this attempt the last and return ``False``."""
        if self._withdraw(call):
            return True
        if not call.done():
            call._make_last()
        return False

    def take_out(self, call: Call) -> bool:
        """Cancel a call that waits for its first attempt; leave any other as it is, and return ``False``."""
        return call._attempts == 0 and self._withdraw(call)

    def _withdraw(self, call: Call, counts: int = 1) -> bool:
        """Cancel a call that waits, and return whether it did."""
        return self._end(call, call._withdraw, counts)

    def _end(self, call: Call, end: Callable[[set[Call]], bool], counts: int = 1) -> bool:
        """Make a call done by *end*, which gets the set in which to note that, if it waited; count it.

        An interruption does not stop that half-way.
        """
        gone, retries = self.schedule.place_of(call, retried=call._waits_in_heap)
        was_done = call.done()
        try:
            return end(gone)
        finally:
            if call._state in DONE_STATES and not was_done:  # a method may be interrupted as it begins
                if call._state != FINISHED:
                    self._cancelled += counts
                elif call._exception is None:
                    self._succeeded += 1
                else:
                    self._failed += 1
                lane = self.schedule.held.lane_of.pop(call, None)
                self.schedule.clean_up(lane, retries)

    def back_off(self, call: Call, due_at: float) -> bool:
        """A call that runs waits again, until *due_at*; return whether it is the first that is due."""
        call._back_off(due_at)
        self._retried += 1
        return self.schedule.add_retry(call, due_at)

    def settle(self, call: Call, outcome: Outcome, unseen: UnseenFailure | None) -> bool:
        """Make a call done from outside, wherever it is; return ``False`` if it is done already."""
        return self._end(call, lambda gone: call._finish_anywhere(outcome, unseen, gone))

    def take_over(self, worker: Hand) -> None:
        """A worker leaves: keep what it has counted."""
        self._succeeded += worker.succeeded
        self._failed += worker.failed
        worker.succeeded = worker.failed = 0

    def stats(self, now: float, workers: Collection[Hand]) -> Stats:
        """Return a consistent snapshot, given the time and the hands, while all stand still."""
        in_hand = [call for worker in workers if (call := worker.call) is not None]  # read once: it may go
        running = sum(not call.done() for call in in_hand)
        schedule = self.schedule
        # What was cancelled while a worker took it is in its hands, no longer in the schedule.
        strays = sum(schedule.is_gone(call) for call in in_hand)
        fresh = schedule.count_fresh() + strays  # once: others submit meanwhile
        waiting = fresh + schedule.count_others()
        ready = fresh + schedule.count_due(now)
        held = schedule.held.count_closed(now)
        succeeded = self._succeeded + sum(worker.succeeded for worker in workers)
        failed = self._failed + sum(worker.failed for worker in workers)
        return Stats(
            threads=len(workers),
            running=running,
            ready=ready,
            held=held,
            in_backoff=waiting - ready - held,
            submitted=waiting + running + succeeded + failed + self._cancelled,
            succeeded=succeeded,
            failed=failed,
            cancelled=self._cancelled,
            retried=self._retried,
            next_due_at=schedule.next_due_at(),
            opens_at=schedule.opens_at(now),
        )
