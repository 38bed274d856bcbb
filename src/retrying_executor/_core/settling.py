"""How calls become done, and what follows an attempt."""

from __future__ import annotations

import threading
import weakref
from contextlib import suppress

from retrying_executor._calls import attempt
from retrying_executor._common.stdlib import DONE_STATES
from retrying_executor._core.turns import end_permit
from retrying_executor._policy.reading import close_answers
from retrying_executor._policy.verdict import ACCEPTED, CUT_SHORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from retrying_executor._calls.attempt import Observer
    from retrying_executor._calls.call import Call, Hand, Outcome, Settlement
    from retrying_executor._calls.ledger import Ledger
    from retrying_executor._core.entrance import Entrance
    from retrying_executor._core.turns import Crew, Turns


class _Observed(set["weakref.ref[Call]"]):
    """The calls that are observed, which a fork needs."""

    def forget(self, reference: weakref.ref[Call]) -> None:
        """A call is gone; when all are, so is the memory that the set took."""
        self.discard(reference)
        if not self:
            self.intersection_update(self)  # not clear(): another thread may have added one since


class Settling:
    """Makes the calls of a core done, or puts them in backoff, and tells their observers.

    Args:
        lock: The core's.
        ledger: Its calls.
        crew: Those that make the attempts.
        entrance: Where there is room when a call is done.
        turns: Whether attempts may follow.
        observer: What is told of attempts, or ``None``.
    """

    def __init__(
        self,
        *,
        lock: threading.RLock,
        ledger: Ledger,
        crew: Crew,
        entrance: Entrance,
        turns: Turns,
        observer: Observer | None,
    ) -> None:
        self._lock = lock
        self._ledger = ledger
        self._crew = crew
        self._entrance = entrance
        self._turns = turns
        self._fresh = ledger.schedule.fresh
        self._observer = observer
        self._observed = _Observed()

    # -- from outside ----------------------------------------------------------------------------

    def settle(self, call: Call, outcome: Outcome, change: Callable[..., bool] | None = None) -> bool:
        """Make a call done with *outcome*, or as *change* does; return ``False`` if it is done already."""
        work, (_, exception) = call._work, outcome
        unseen = None
        if exception is not None and work is not None:
            unseen = call._unseen_failure(work, exception)
        return self._change(call, change or self._ledger.settle, outcome, unseen)

    def cancel(self, call: Call) -> bool:
        """Cancel a call that waits; of one that is running, make this attempt the last."""
        return self._change(call, self._ledger.cancel) or call.cancelled()

    def refuse(self, call: Call) -> bool:
        """If a call still waits for its first attempt, it was not accepted after all; return whether so.

        Its submitter does not have the future yet, so no observer is to be told.
        """
        with self._lock:
            is_refused = self._ledger.refuse(call)
            self._entrance.made_done()
        return is_refused

    def take_out(self, call: Call) -> bool:
        """Cancel a call if it waits for its first attempt; return whether that is so."""
        return self._change(call, self._ledger.take_out)

    def _change(self, call: Call, change: Callable[..., bool], *args: Any) -> bool:
        """Apply *change*, which makes the call done or returns ``False``, and tell its observers.

        An interruption stops neither half-way: then all are told once more, but for what has been told.
        """

        def tell_waiters() -> None:
            with self._lock:
                self._make_way()
            call._tell_waiters()

        def tell_others() -> None:
            call._open()
            call._invoke_callbacks()

        kept = call._work, call._last  # so that no destructor runs under a lock
        changed = was_done = False
        try:
            # `wait` and `as_completed` look at the state, then add themselves, both under this condition. If
            # the call became done in between, they would wait for ever. Asking for the condition observes the
            # call, so from here on its worker, too, makes it done under the condition only.
            with call._condition:
                try:
                    with self._lock:
                        was_done = call._state in DONE_STATES
                        changed = change(call, *args)
                    if changed:
                        tell_waiters()
                except BaseException:
                    # A signal handler has raised. The state is changed last, so it tells whether that was
                    # before the change or after.
                    changed = call._state in DONE_STATES and not was_done
                    if changed:  # pragma: no branch  # see tests/untraced
                        tell_waiters()
                    raise
            del kept
            if changed:
                tell_others()
        except BaseException:
            if changed:
                tell_others()
            raise
        return changed

    def _make_way(self) -> None:
        """A call that waited became done: nobody waits for its due time or its permit any more."""
        schedule = self._ledger.schedule
        self._crew.due_at_changed(schedule)
        self._entrance.made_done()
        if schedule.is_littered:

            def tidy(is_still: bool) -> None:
                if is_still:  # or the next time
                    schedule.tidy()

            self._crew.at_standstill(tidy)

    # -- those that observe calls ----------------------------------------------------------------

    def observe(self, call: Call) -> None:
        """Give a call what its observers need; see `RetryingFuture`."""
        self._observed.add(weakref.ref(call, self._observed.forget))
        call._observe(self._lock)

    def all_calls(self) -> set[Call]:
        """Return, in a forked child, the calls whose futures may still be asked: the parent's."""
        calls = {*self._entrance.running_calls(), *self._ledger.schedule.waiting()}
        # Done calls too: a thread of the parent, which is not there, may hold the condition of one.
        calls.update(call for ref in self._observed.copy() if (call := ref()) is not None)
        return calls

    # -- by the hand that has the call -----------------------------------------------------------

    def attempt(self, hand: Hand, call: Call) -> Settlement | None:
        """Make an attempt, and put the call in backoff if another follows.

        Returns:
            What the call becomes done with; ``None`` if it has another attempt, or is done already.
        """
        work, permit, outcome, verdict = call._work, hand.permit, None, None
        clock = self._crew.clock
        try:
            if work is None:  # somebody else set the outcome
                return None
            verdict, outcome = attempt.make(call, work, permit, self._observer)
            if (
                verdict is ACCEPTED
                and call._attempts == 1  # as most are
                # The hand may keep its permit for the next call, where there is one.
                and (permit is None or (self._fresh and permit.era == permit.places.reusable_era))
            ):
                permit = None
                return outcome, None
            if permit is not None:
                evidence, asked = attempt.evidence(call._terms, verdict, outcome)
                hand.permit = None
                permit.end(evidence, asked, outcome[1])
                if verdict.delay is not None:
                    due_in = min(permit.sits_out_until(), attempt.ends_at(call)) - clock.monotonic()
                    verdict.delay = max(verdict.delay, due_in)
                permit = None
            if verdict.delay is not None and not (self._turns.is_halted or call.done()):  # set_result()
                # Announced before the next attempt can fail too, so that the lines come in order.
                attempt.announce(call, work, outcome, verdict, self._observer)
                if self._back_off(hand, call, clock.monotonic() + verdict.delay):
                    if outcome[1] is not None:
                        close_answers(outcome[1])  # in backoff: give back its connections
                    return None
            if verdict.delay is not None:
                verdict = CUT_SHORT
            if verdict is not ACCEPTED and not call.done():
                attempt.announce(call, work, outcome, verdict, self._observer)
            return outcome, attempt.conclude(call, work, outcome, verdict)
        finally:
            if permit is not None:
                hand.permit = permit
                end_permit(hand, "none")
            del call, work, outcome, verdict  # the exception's traceback keeps this frame

    def _back_off(self, hand: Hand, call: Call, due_at: float) -> bool:
        """Put a call whose attempt failed in backoff; return ``False`` if that was the last attempt."""
        with self._lock:
            # A thread may have cancelled the call, set its outcome, or shut down without waiting, since the
            # attempt ended. It did so under this lock. From here on it finds the call in the schedule.
            if call._is_last or call.done() or self._turns.is_halted:
                return False
            hand.call = None
            self._ledger.back_off(call, due_at)
            self._crew.due_at_changed(self._ledger.schedule)
            self._turns.look_ahead()
            return True

    def finish(self, hand: Hand) -> None:
        """Make the call in a hand done, which has its outcome, and tell its observers."""
        call, settlement = hand.call, hand.settlement
        assert call is not None
        assert settlement is not None
        hand.settlement = None
        call._let_go()
        end_permit(hand)  # the callbacks may take long, or wait for it
        # The call is observed: its observers add themselves under the condition, as in `_change`. The lock of
        # the hand is for `stats`: a call is counted when it leaves the hand, not before or after.
        with call._condition:
            with hand.lock:
                finished = call._finish(*settlement)
                if finished and settlement[0][1] is None:
                    hand.succeeded += 1
                elif finished:
                    hand.failed += 1
                hand.call = None
            if finished:
                call._tell_waiters()
        del settlement
        if self._entrance.max_pending is not None:
            with self._lock:  # before the callbacks: they may wait for a submitter that waits for room
                self._entrance.made_done()
        if finished:
            call._open()
            call._invoke_callbacks()

    def rescue(self, hand: Hand, error: BaseException) -> None:
        """See to what is in a hand, where *error* was raised by a done callback, or asynchronously."""
        with suppress(BaseException):
            end_permit(hand, "none")
        if hand.call is not None and hand.settlement is None:
            with suppress(BaseException):  # of its callbacks; its state is changed before they run
                self.settle(hand.call, (None, error))
