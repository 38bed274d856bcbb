"""The books: every call that was accepted waits, runs or is done, and is counted as such.

Pure like the schedule: no threads, no clock. Its user holds the core's lock. What must stay true between any
two methods:

- a call that waits is in the schedule, its future is pending, and it is in no hand;
- a call that is done is counted once, as succeeded, failed or cancelled: in the hand that made it done, or
  here. A hand that goes out of use gives its counts to the ledger.

Accepted calls are not counted one by one: their number is the sum of the others.

A signal handler that cancels a call in the middle of an addition here may cost one count. No decision depends
on these numbers.
"""

from __future__ import annotations

from retrying_executor._calls.schedule import Schedule
from retrying_executor._calls.stats import Stats
from retrying_executor._common.stdlib import CANCELLED_AND_NOTIFIED, DONE_STATES, FINISHED, PENDING

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
        """Take back a call that waits for its first attempt, uncounted; return ``False`` for any other."""
        return self.schedule.has_untried(call) and self._withdraw(call, counts=0)

    def cancel(self, call: Call) -> bool:
        """Cancel a call that waits, or whose coroutine runs; else make the attempt that runs the last.

        Returns:
            Whether it was cancelled.
        """
        if self._withdraw(call):
            return True
        if call._awaits:
            return self._end(call, call._call_off)
        if not call.done():
            call._make_last()
        return False

    def cancel_unobserved(self, call: Call) -> bool:
        """Cancel a call that waits for its first attempt, in no lane, and that no thread observes.

        Returns:
            Whether it was cancelled; any other call is left as it is.
        """
        schedule = self.schedule
        if call._state != PENDING or call._waits_in_heap or call in schedule.held.lane_of:
            return False
        try:
            return call._withdraw_unobserved(schedule.gone_fresh)
        finally:  # the state, as in `_end`; a worker may have made it FINISHED since the look above
            if call._state == CANCELLED_AND_NOTIFIED:
                self._cancelled += 1

    def take_out(self, call: Call) -> bool:
        """Cancel a call that waits for its first attempt; leave any other as it is, and return ``False``."""
        return call._attempts == 0 and self._withdraw(call)

    def _withdraw(self, call: Call, counts: int = 1) -> bool:
        """Cancel a call that waits, and return whether it did."""
        return self._end(call, call._withdraw, counts)

    def _end(self, call: Call, end: Callable[[set[Call]], bool], counts: int = 1) -> bool:
        """Make a call done by *end*, and count it; an interruption does not stop that half-way.

        Args:
            call: The call.
            end: Makes it done, unless it is too late. If the call waited, adds it to the given set.
            counts: What to add if the call becomes cancelled: 1, or 0.
        """
        gone, retries = self.schedule.place_of(call, retried=call._waits_in_heap)
        was_done = call.done()
        try:
            return end(gone)
        finally:
            # The state, not what *end* returns: that may be interrupted as it begins, or as it returns.
            if call._state in DONE_STATES and not was_done:
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
        """A worker leaves: take over its counts."""
        self._succeeded += worker.succeeded
        self._failed += worker.failed
        worker.succeeded = worker.failed = 0

    def stats(self, now: float, workers: Collection[Hand]) -> Stats:
        """Return a consistent snapshot, given the time and the hands. At a standstill only."""
        in_hand = [call for worker in workers if (call := worker.call) is not None]  # read once
        running = sum(not call.done() for call in in_hand)
        schedule = self.schedule
        # Calls that were cancelled just as a worker took them: in its hand, but still noted as gone.
        strays = sum(schedule.is_gone(call) for call in in_hand)
        fresh = schedule.count_fresh() + strays  # read once: submitters append meanwhile
        waiting = fresh + schedule.count_others()
        ready = fresh + schedule.count_due(now)
        held = schedule.held.count_closed(now)
        succeeded = self._succeeded + sum(worker.succeeded for worker in workers)
        failed = self._failed + sum(worker.failed for worker in workers)
        return Stats(
            threads=sum(worker.is_thread for worker in workers),
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
