"""How calls become done, and what follows an attempt."""

from __future__ import annotations

import threading
import weakref
from contextlib import suppress

from retrying_executor._calls import attempt
from retrying_executor._common.callables import CoroutineFunction
from retrying_executor._common.stdlib import DONE_STATES
from retrying_executor._core.turns import end_permit
from retrying_executor._policy.closing import answers_to_close, close_answers, close_in_loop
from retrying_executor._policy.verdict import ACCEPTED, CUT_SHORT, IN_FLIGHT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from retrying_executor._calls.attempt import Observer
    from retrying_executor._calls.call import Call, Hand, Outcome, Settlement, Work
    from retrying_executor._calls.ledger import Ledger
    from retrying_executor._core.entrance import Entrance
    from retrying_executor._core.turns import Crew, Turns


class _Observed(set["weakref.ref[Call]"]):
    """The observed calls: a forked child has to make those of its parent fail."""

    def forget(self, reference: weakref.ref[Call]) -> None:
        """A call is gone; with the last one, the memory of the set is released."""
        self.discard(reference)
        if not self:
            self.intersection_update(self)  # not clear(): another thread may just have added a call


class Settling:
    """Makes the calls of a core done, or puts them in backoff, and tells their observers.

    Args:
        lock: The core's.
        ledger: Its calls.
        crew: What makes the attempts.
        entrance: Has room again when a call is done.
        turns: Says whether attempts may follow.
        observer: Is told of attempts; or ``None``.
    """

    fate = "cancelled"
    """What becomes of calls that wait when the core is halted, for the log."""

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
        """Cancel a call that waits; if an attempt runs, make it the last. Return whether it is cancelled."""
        if self._cancel_unobserved(call):
            return True
        return self._change(call, self._ledger.cancel) or call.cancelled()

    def refuse(self, call: Call) -> bool:
        """Take back a call that still waits for its first attempt; return ``False`` if it has begun.

        Its submitter does not have the future yet, so there is no observer to tell.
        """
        with self._lock:
            is_refused = self._ledger.refuse(call)
            self._entrance.wake_submitters()
        return is_refused

    def take_out(self, call: Call) -> bool:
        """Cancel a call if it waits for its first attempt; return whether that is so."""
        return self._change(call, self._ledger.take_out)

    def _change(self, call: Call, change: Callable[..., bool], *args: Any) -> bool:
        """Apply *change*, which makes the call done or returns ``False``; then tell its observers.

        An interruption stops neither half-way: then everything is told once more. A waiter that has been
        told, and a callback that has run, are left out.
        """

        def tell_waiters() -> None:
            with self._lock:
                self._make_way()
            call._tell_waiters()

        def tell_others() -> None:
            self._became_done(call)
            call._open()
            call._invoke_callbacks()

        kept = call._work, call._last  # released below, so that no destructor of theirs runs under a lock
        changed = was_done = False
        try:
            # `wait` and `as_completed` read the state and then add themselves, both under this condition. If
            # the call became done in between without it, they would wait for ever. Reading ``_condition``
            # observes the call, so from here on its worker, too, makes it done under the condition only.
            with call._condition:
                try:
                    with self._lock:
                        was_done = call._state in DONE_STATES  # by another thread
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

    def _cancel_unobserved(self, call: Call) -> bool:
        """Cancel a fresh call, if no thread observes it: then there are only latches to open.

        That takes a third of the time of `_change`. An interruption is dealt with as there.

        Returns:
            Whether it was cancelled.
        """
        was_done, kept = call.done(), call._work  # the latter is released below, as in `_change`
        changed = False
        try:
            with self._lock:
                changed = self._ledger.cancel_unobserved(call)
                if changed:
                    self._leave_room()
            del kept
            if changed:
                self._became_done(call)
                call._open()
        except BaseException:  # of a signal handler, or a destructor
            if not was_done and call.cancelled():
                with self._lock:
                    self._leave_room()
                self._became_done(call)
                call._open()
            raise
        return changed

    def _became_done(self, call: Call) -> None:
        """A call was made done from outside: see to the coroutine of it that may be running."""
        if call._worker is not None:
            self._crew.call_off(call)

    def _make_way(self) -> None:
        """A call that waited is done: let the leader, submitters and the queue take note. Under the lock."""
        self._crew.due_at_changed(self._ledger.schedule)
        self._leave_room()

    def _leave_room(self) -> None:
        """A call that waited is done: let submitters and the queue take note. Called under the lock."""
        schedule = self._ledger.schedule
        self._entrance.wake_submitters()
        if schedule.is_mostly_gone:

            def compact(is_still: bool) -> None:
                if is_still:  # else the next time
                    schedule.compact()

            self._crew.at_standstill(compact)

    # -- observed calls --------------------------------------------------------------------------

    def observe(self, call: Call) -> None:
        """Give a call what its observers need; see `RetryingFuture`."""
        # Note it first: a forked child has to know of each call whose condition a thread may hold.
        self._observed.add(weakref.ref(call, self._observed.forget))
        call._observe(self._lock)

    def all_calls(self) -> set[Call]:
        """Return, in a forked child, the calls of the parent: their futures may still be used there."""
        calls = {*self._entrance.running_calls(), *self._ledger.schedule.waiting()}
        # Done ones too: the condition may be held by a thread that the child does not have.
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
            if work is None:  # another thread has set the outcome
                if attempt.take_landed(hand) is not None and self._observer is not None:
                    self._observer.ended(call)
                return None
            verdict, outcome = attempt.make(call, work, permit, self._observer)
            if (
                verdict is ACCEPTED
                and call._attempts == 1  # as most are
                # The hand keeps its permit for the next call, if there is one and the upstream allows that.
                # Both may change at any moment: `next_fresh` looks again under the lock of the hand.
                and (permit is None or (self._fresh and permit.era == permit.places.reusable_era))
            ):
                permit = None
                return outcome, None
            if verdict is IN_FLIGHT:
                coroutine: Any = outcome[0]
                if self._crew.launch(hand, work, coroutine):
                    permit = None
                elif self._observer is not None:
                    self._observer.ended(call)
                return None
            if permit is not None:
                evidence, asked = attempt.evidence(call._terms, verdict, outcome)
                hand.permit = None
                permit.end(evidence, asked, outcome[1])
                if verdict.delay is not None:
                    due_in = min(permit.sits_out_until(), attempt.ends_at(call)) - clock.monotonic()
                    verdict.delay = max(verdict.delay, due_in)
                permit = None
            if verdict.delay is not None and not (self._turns.is_halted or call.done()):  # set_result()
                # Before the call is in backoff: else the next attempt could fail, too, and be logged first.
                attempt.announce(call, work, outcome, verdict, self._observer)
                if self._back_off(hand, call, clock.monotonic() + verdict.delay):
                    if outcome[1] is not None:
                        self._close_answers(call, work, outcome[1])
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
            # Since the attempt ended, another thread may have cancelled the call, set its outcome, or halted
            # all turns, each under this lock. Without this look there would be one attempt too many. A thread
            # that comes later finds the call in the schedule.
            if call._is_last or call.done() or self._turns.is_halted:
                return False
            hand.call = None
            self._ledger.back_off(call, due_at)
            self._crew.due_at_changed(self._ledger.schedule)
            self._turns.update_only_fresh_until()
            return True

    def _close_answers(self, call: Call, work: Work, exception: BaseException) -> None:
        """Close what an exception refers to: a call in backoff must hold no connection."""
        fn, *_ = work
        if type(fn) is not CoroutineFunction:
            close_answers(exception)
        elif answers := answers_to_close(exception):  # as a rule, its client has read them, and closed them
            self._crew.run_aside(call._core, close_in_loop(answers))

    def finish(self, hand: Hand) -> None:
        """Make the observed call in a hand done with its settlement, and tell its observers."""
        call, settlement = hand.call, hand.settlement
        assert call is not None
        assert settlement is not None
        hand.settlement = None
        call._let_go()
        end_permit(hand)  # the callbacks may take long, or wait for it
        # The condition: observers add themselves under it, see `_change`. The lock of the hand: at a
        # standstill, `stats` must find the call either in the hand or counted, not in both places or in none.
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
            with self._lock:  # before the callbacks: one may wait for a submitter that waits for room
                self._entrance.wake_submitters()
        if finished:
            call._open()
            call._invoke_callbacks()

    def rescue(self, hand: Hand, error: BaseException) -> None:
        """Clean up a hand after *error*, raised by a done callback, a signal handler, or another thread."""
        hand.landed = None
        with suppress(BaseException):
            end_permit(hand, "none")
        if hand.call is not None and hand.settlement is None:
            with suppress(BaseException):  # what its callbacks raise: its state is changed before they run
                self.settle(hand.call, (None, error))
