"""What a program does to an executor under a controlled scheduler, and what the contract says of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count
from typing import Any

from controlled import Run

from retrying_executor import RetryingExecutor, RetryingFuture

ROUNDING = 1e-6
"""How far sums of times may be off, in seconds."""

DELAY = 10.0
"""What a call in a trial waits between its attempts, in seconds of virtual time."""


class RefusedError(Exception):
    """What an attempt raises that is to be retried."""


class Call:
    """A call that follows a script: how many attempts fail, and what each does meanwhile.

    Args:
        trial: Whose executor it is submitted to.
        failures: How many attempts fail before one succeeds.
        act: What each attempt does, if anything.
        delay: What it waits between its attempts.
    """

    def __init__(self, trial: Trial, failures: int, act: Callable[[], object] | None, delay: float) -> None:
        self.trial = trial
        self.failures = failures
        self.act = act
        self.delay = delay
        self.attempts = 0
        self.running = False
        self.number = trial.next_number()
        self.submitter = threading.current_thread()
        self.limit = failures + 1  # attempts that may start
        self.earliest = 0.0
        self.future: RetryingFuture[int] | None = None

    def __call__(self) -> int:
        trial = self.trial
        assert Run.active is not None
        trial.expect(not self.running, "attempts of one call overlap (B7)")
        trial.expect(self.attempts < self.limit, "an attempt too many (B3, E1, E2)")
        trial.expect(not trial.has_ended, "an attempt after shutdown() returned (F1)")
        trial.expect(Run.active.now >= self.earliest, "an attempt before its delay is over (B6)")
        trial.check_order(self)
        trial.expect(len(trial.pool._crew.members) <= trial.max_workers, "too many threads (C1)")
        self.running = True
        self.attempts += 1
        trial.running += 1
        trial.expect(trial.running <= trial.max_workers, "more attempts than workers (C1)")
        try:
            if self.act is not None:
                self.act()
            if self.attempts <= self.failures:
                raise RefusedError
            return self.attempts
        finally:
            self.earliest = Run.active.now + self.delay
            trial.free_at = Run.active.now
            trial.running -= 1
            self.running = False


class Trial:
    """One executor, the calls that it accepted, and those that it refused."""

    def __init__(self, max_workers: int = 1, **options: Any) -> None:
        self.max_workers = max_workers
        self.running = 0
        self.next_number = count().__next__
        self.has_ended = False
        self.broken: list[str] = []
        self.free_at = 0.0  # when the last attempt so far ended
        self.accepted: list[Call] = []
        self.refused: list[Call] = []
        self.done: list[RetryingFuture[int]] = []
        self.executor: RetryingExecutor | None = RetryingExecutor(
            max_workers, retry=lambda _: DELAY, **options
        )
        self.pool = self.executor._pool
        assert Run.active is not None
        Run.active.on_idle = self.check_nobody_is_late

    def submit(
        self,
        failures: int = 0,
        act: Callable[[], object] | None = None,
        *,
        delay: float = DELAY,
        observed: bool = False,
    ) -> RetryingFuture[int]:
        """Submit a call that must be accepted."""
        call = self.try_submit(failures, act, delay=delay, observed=observed)
        assert call.future is not None, "refused"
        return call.future

    def try_submit(
        self,
        failures: int = 0,
        act: Callable[[], object] | None = None,
        *,
        delay: float = DELAY,
        observed: bool = False,
    ) -> Call:
        """Submit a call that may be refused."""
        call = Call(self, failures, act, delay)
        assert self.executor is not None
        submitter = self.executor if delay == DELAY else self.executor.with_options(retry=lambda _: delay)
        try:
            call.future = submitter.submit(call)
        except RuntimeError:
            self.refused.append(call)
        else:
            self.accepted.append(call)
            if observed:
                call.future.add_done_callback(self.done.append)
        return call

    def cancel(self, future: RetryingFuture[int]) -> bool:
        """Cancel a call; if that succeeds, no attempt may follow."""
        cancelled = future.cancel()
        assert cancelled == future.cancelled(), "cancel() does not say what it did (E1, E2)"
        for call in self.accepted:
            if call.future is future:
                # One that cannot be cancelled is done, or runs; at the latest the next attempt is too many.
                call.limit = call.attempts + (not cancelled and not call.running)
        return cancelled

    def shutdown(self, **options: Any) -> None:
        """Shut down; once that returns, no attempt may start."""
        assert self.executor is not None
        self.executor.shutdown(**options)
        if options.get("wait", True):
            self.has_ended = "timeout" not in options or self.has_ended
            for call in self.accepted:
                assert call.future is not None
                running = call.future.running()
                assert running or call.future.done(), "shutdown() left a call behind (F1)"
                assert not running or "timeout" in options, "shutdown() did not wait (F1)"

    def check_order(self, call: Call) -> None:
        """With one worker, the first attempt of a call comes after those of earlier calls and due retries."""
        if self.max_workers > 1 or call.attempts:
            return
        for other in self.accepted:
            future = other.future
            assert future is not None
            due_at = future.due_at
            is_due = due_at is not None and due_at <= self.free_at and not future.done()
            self.expect(not is_due, "a first attempt before a retry that was due (D2)")
            if other.number > call.number and other.submitter is call.submitter:
                self.expect(not other.attempts, "a first attempt before that of an earlier call (D1)")

    def expect(self, condition: bool, promise: str) -> None:
        """Take note if a promise is broken, where raising would only be another failed attempt."""
        if not condition:
            self.broken.append(promise)

    def check_nobody_is_late(self, now: float) -> None:
        """When nothing can happen before *now*: no call is ready, or due earlier, and a worker is free.

        But for the time that passed while a worker was on its way, as it may on a busy machine.
        """
        assert Run.active is not None
        rushed = Run.active.rushed
        for call in self.accepted:
            if call.future is None or call.future.done() or self.running == self.max_workers:
                continue
            assert call.future.attempts or call.future.running(), "a call that nobody takes up (C4, C5)"
            due_at = call.future.due_at
            is_late = due_at is not None and now > due_at + rushed + ROUNDING
            assert not is_late, "a late retry (C4)"

    def check(self) -> None:
        """When all threads have ended: nothing was lost, and nothing is left."""
        assert not self.broken, self.broken[0]
        for call in self.accepted:
            future = call.future
            assert future is not None
            assert future.done(), "an accepted call is not done (G1)"
            assert not call.running
            if not future.cancelled() and future.exception() is None:
                assert call.attempts == future.attempts
            assert future not in self.done or 1 == self.done.count(future), "done more than once (A3)"
        assert not [call for call in self.refused if call.attempts], "a refused call ran (G1)"
        stats = self.pool.stats()
        assert (0, 0, 0, 0) == (stats.threads, stats.running, stats.ready, stats.in_backoff), stats
        assert len(self.accepted) == stats.submitted, stats
        assert stats.submitted == stats.succeeded + stats.failed + stats.cancelled, stats


def start(work: Callable[[], object]) -> threading.Thread:
    """Start a thread of the program."""
    thread = threading.Thread(target=work, name=getattr(work, "__name__", "program"))
    thread.start()
    return thread


Scenario = Callable[[], Trial]
"""Makes a trial, does something to it, and returns it for the check at the end."""
