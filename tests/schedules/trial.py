"""What a program does to an executor under a controlled scheduler, and what the contract says of it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from types import EllipsisType
from typing import Any

from controlled import Run
from loops import Loop

from retrying_executor import (
    Event,
    NotNow,
    PendingLimitError,
    RetryingExecutor,
    RetryingFuture,
    RetryPolicy,
    Upstream,
)

ROUNDING = 1e-6
"""How far sums of times may be off, in seconds."""

SOON = 0.01
"""Longer than a worker waits that has found the lock of an upstream taken, in seconds."""

DELAY = 10.0
"""What a call in a trial waits between its attempts, in seconds of virtual time."""


class RefusedError(Exception):
    """What an attempt raises that is to be retried."""


class Service(Upstream):
    """An upstream that counts the attempts that are running, and whose holds are as long every time."""

    def __init__(self, **options: Any) -> None:
        super().__init__("service", record_exceptions=RefusedError, **options)
        gate = self._places.gate
        gate._random = lambda: 0.0
        self.limit = options.get("max_concurrency") or math.inf
        self.rate = options.get("rate") or (math.inf, 0.0)
        self.budget = options.get("budget")
        self.max_pending = options.get("max_pending") or math.inf
        self.running = 0
        self.attempts = 0
        self.starts: list[float] = []  # when slots were taken
        self._take, self._return = gate.take_slots, gate.return_slots
        gate.take_slots, gate.return_slots = self.take, self.give_back  # type: ignore[method-assign]

    def take(self, now: float, clock: Callable[[], float]) -> float | None:
        """Take note of each slot that is taken."""
        began_at = self._take(now, clock)
        if began_at is not None:
            self.starts.append(began_at)
        return began_at

    def give_back(self, now: float) -> None:
        self._return(now)
        self.starts.remove(now)

    def begin(self) -> str:
        """An attempt begins: return which promise is broken, if one is."""
        self.running += 1
        self.attempts += 1
        if self.running > self.limit:
            return "more attempts than allowed (U4)"
        in_flight = self._places.gate.in_flight  # to ask for it would take steps
        return "an attempt that was not let through (U4, U5)" if self.running > in_flight else ""

    def check(self, unmade: int) -> None:
        """When all threads have ended: nothing is in flight, and every attempt has used one slot.

        Args:
            unmade: How many at most were let through and not made: of calls with an outcome from outside.
        """
        assert not self.in_flight, "an attempt is still counted (U4)"
        backlog = self._places.backlog
        assert backlog is None or not backlog._pending, "a call is still counted (U6)"
        assert 0 <= len(self.starts) - self.attempts <= unmade, "a slot was used for nothing (U4)"
        self.starts.sort()
        most, window = self.rate
        for index, start_at in enumerate(self.starts):
            recent = [one for one in self.starts[:index] if one > start_at - window + ROUNDING]
            assert len(recent) < most, "more attempts in a window than allowed (U4)"

    def lets_through(self, weight: float, now: float) -> bool:
        """Return whether another attempt of that weight could start at *now*, or before."""
        return self._places.gate.open_at(weight) < now


class Call:
    """A call that follows a script: how many attempts fail, and what each does meanwhile.

    Args:
        trial: Whose executor it is submitted to.
        failures: How many attempts fail before one succeeds.
        act: What each attempt does, if anything.
        delay: What it waits between its attempts.
        service: Its upstream, or several, if it has any.
        refusals: What its first attempts raise, which do not count.
        weight: What an attempt takes of their budgets.
    """

    is_awaited = False

    def __init__(
        self,
        trial: Trial,
        failures: int,
        act: Callable[[], object] | None,
        delay: float,
        service: Service | tuple[Service, ...] | None,
        refusals: list[NotNow] = [],  # noqa: B006  # it stays empty
        weight: float = 1,
    ) -> None:
        self.trial = trial
        self.refusals = refusals
        self.services = () if service is None else service if isinstance(service, tuple) else (service,)
        self.service = self.services[0] if len(self.services) == 1 else None
        self.weight = weight
        self.failures = failures
        self.act = act
        self.delay = delay
        self.attempts = 0
        self.running = False
        self.number = trial.next_number()
        self.submitter = threading.current_thread()
        self.needed = failures + len(refusals) + 1
        self.limit: float = self.needed  # attempts that may start
        self.may_end_early = False  # somebody meddled: cancelled it, or set its outcome
        self.must_stand = False  # the outcome of the attempt that runs
        self.is_settled = False  # somebody set its outcome
        self.observers = 0
        self.earliest = 0.0
        self.future: RetryingFuture[int] | None = None

    def __call__(self) -> int:
        self.begin()
        try:
            if self.act is not None:
                self.act()
            return self.outcome()
        finally:
            self.end()

    def begin(self) -> None:
        """An attempt begins: see that it may."""
        trial = self.trial
        assert Run.active is not None
        trial.expect(not self.running, "attempts of one call overlap (B7)")
        trial.expect(self.attempts < self.limit, "an attempt too many (B3, E1, E2, F2)")
        trial.expect(not trial.has_ended, "an attempt after shutdown() returned (F1)")
        trial.expect(Run.active.now >= self.earliest, "an attempt before its delay is over (B6)")
        trial.check_order(self)
        trial.expect(len(trial.pool.crew.roster.members) <= trial.max_workers, "too many threads (C1)")
        self.running = True
        self.attempts += 1
        self.count(1)
        for service in self.services:
            broken = service.begin()
            trial.expect(not broken, broken)

    def count(self, change: int) -> None:
        """Count the attempts that run."""
        self.trial.running += change
        self.trial.expect(self.trial.running <= self.trial.max_workers, "more attempts than workers (C1)")

    def outcome(self) -> int:
        """Return or raise what the attempt ends with."""
        if self.attempts <= len(self.refusals):
            raise self.refusals[self.attempts - 1]
        if self.attempts < self.needed:
            raise RefusedError
        return self.attempts

    def end(self) -> None:
        """An attempt ends."""
        assert Run.active is not None
        refused = self.refusals[self.attempts - 1 : self.attempts]
        self.earliest = Run.active.now + (refused[0].after or 0.0 if refused else self.delay)
        self.trial.free_at = Run.active.now
        self.count(-1)
        self.running = False
        for service in self.services:
            service.running -= 1

    def is_pending(self) -> bool:
        """Return whether it may count against ``max_pending``."""
        return self.future is None or not self.future.done()

    def stop(self) -> None:
        """From now on no attempt may start; but a worker may have it in its hands already."""
        assert self.future is not None
        self.may_end_early = True
        is_in_hand = self.future.running() or self.is_settled  # one that was settled runs as before
        is_in_hand |= self.is_awaited  # cancelled, it may still begin, to learn that where it first waits
        self.limit = self.attempts + (is_in_hand and not self.running)
        self.must_stand = self.running and not self.future.cancelled()

    def check(self) -> None:
        """When all threads have ended: it has one outcome, and the right one."""
        future = self.future
        assert future is not None
        assert future.done(), "an accepted call is not done (G1)"
        assert not self.running, "an attempt has not ended (F1)"
        unmade = future.attempts - self.attempts  # of coroutines that were cancelled before they began
        is_counted = 0 <= unmade <= self.is_awaited * (self.may_end_early + self.trial.is_starved)
        assert is_counted, "attempts are not counted (B10)"
        told = self.trial.done.count(future)
        assert self.observers == told, f"a done callback ran {told} times (A3)"
        if future.cancelled() or isinstance(future.exception(), BrokenExecutor):
            assert self.may_end_early or self.trial.is_broken, "nobody cancelled it (G1)"
            assert not self.must_stand, "cancelled although an attempt was running (E2, F2)"
        elif future.exception() is None:
            is_right = future.result() == self.attempts == self.needed
            assert is_right or self.may_end_early, "not its result (B3)"
        elif self.trial.is_starved and not self.attempts:
            assert "can't start new thread" == str(future.exception())
        else:
            assert self.may_end_early, "it has another attempt (B3)"
            assert isinstance(future.exception(), (RefusedError, NotNow)), "not its own exception (B3)"


class Awaited(Call):
    """A call of a coroutine function: what each attempt does is to be awaited."""

    act: Callable[[], Awaitable[object]] | None
    is_awaited = True

    async def __call__(self) -> int:  # type: ignore[override]
        self.begin()
        try:
            if self.act is not None:
                await self.act()
            return self.outcome()
        finally:
            self.end()

    def count(self, change: int) -> None:
        """Count the coroutines that run."""
        trial = self.trial
        trial.awaiting += change
        trial.expect(trial.awaiting <= trial.max_coroutines, "more coroutines than allowed (K1)")


def call_inline(service: Service) -> None:
    """Make a call in this thread."""

    def attempt() -> int:
        broken = service.begin()
        assert not broken, broken
        time.sleep(1)
        service.running -= 1
        return 1

    assert 1 == RetryPolicy(delays=(0,), max_elapsed=None).inline(upstream=service).call(attempt)


class Trial:
    """One executor, the calls that it accepted, and those that it refused.

    Args:
        max_workers: Of the executor.
        is_broken: Whether the initializer fails.
        is_starved: Whether threads may fail to start.
        beside: Another one in the same scenario, which is checked together with this one.
        upstream: That of all its calls, if they have the same one.
        max_coroutines: Of the executor.
        listens: Whether it is told of events.
        options: More options of the executor.
    """

    def __init__(
        self,
        max_workers: int = 1,
        *,
        is_broken: bool = False,
        is_starved: bool = False,
        beside: Trial | None = None,
        upstream: Service | None = None,
        max_coroutines: int = 1000,
        listens: bool = False,
        **options: Any,
    ) -> None:
        self.events: list[Event] = []
        self.listens = listens
        if listens:
            options["on_event"] = self.events.append
        self.max_workers = max_workers
        self.max_coroutines = max_coroutines
        self.loops: list[Loop] = []
        self.upstream = upstream
        self.max_pending = options.get("max_pending")
        self.is_broken = is_broken
        self.is_starved = is_starved
        self.running = 0
        self.awaiting = 0  # coroutines
        self.next_number = count().__next__
        self.is_closing = False  # somebody shuts it down
        self.is_closed = False  # and that has returned
        self.has_ended = False  # and has waited for all calls
        self.broken: list[str] = []
        self.free_at = 0.0  # when the last attempt so far ended
        self.calls: list[Call] = []
        self.accepted: list[Call] = []
        self.refused: list[Call] = []
        self.done: list[RetryingFuture[int]] = []
        self.executor: RetryingExecutor | None = RetryingExecutor(
            max_workers,
            "worker",
            retry=lambda _: DELAY,
            upstream=upstream,
            max_coroutines=max_coroutines,
            loop_factory=self.make_loop,
            **options,
        )
        self.pool = self.executor._core
        self.others: list[Trial] = []
        self.services: list[Service] = []
        assert Run.active is not None
        if beside is None:
            Run.active.on_idle = self.check_nobody_is_late
        else:
            beside.others.append(self)

    def make_loop(self) -> Loop:
        """Make the loop for coroutines; there may be another when that has been closed."""
        self.expect(all(loop.is_closed() for loop in self.loops), "a second loop (K2)")
        self.loops.append(Loop())
        return self.loops[-1]

    def launch(
        self,
        failures: int = 0,
        act: Callable[[], Awaitable[object]] | None = None,
        **options: Any,
    ) -> RetryingFuture[int]:
        """Submit a call of a coroutine function that must be accepted; see `try_submit`."""
        call = self.try_submit(failures, act, is_awaited=True, **options)
        assert call.future is not None, "refused"
        return call.future

    def submit(
        self,
        failures: int = 0,
        act: Callable[[], object] | None = None,
        *,
        delay: float = DELAY,
        observed: bool = False,
        service: Service | tuple[Service, ...] | EllipsisType | None = ...,
        weight: float = 1,
    ) -> RetryingFuture[int]:
        """Submit a call that must be accepted."""
        call = self.try_submit(failures, act, delay=delay, observed=observed, service=service, weight=weight)
        assert call.future is not None, "refused"
        return call.future

    def try_submit(
        self,
        failures: int = 0,
        act: Callable[[], object] | None = None,
        *,
        delay: float = DELAY,
        observed: bool = False,
        then: Callable[[], object] | None = None,
        service: Service | tuple[Service, ...] | EllipsisType | None = ...,
        refusals: list[NotNow] = [],  # noqa: B006  # it stays empty
        weight: float = 1,
        is_awaited: bool = False,
    ) -> Call:
        """Submit a call that may be refused; an *observed* one has a done callback, which may do more."""
        own = self.upstream if service is ... else service
        make = Awaited if is_awaited else Call
        call = make(self, failures, act, delay, own, refusals, weight)
        submitter: Any = self.executor
        if refusals:  # which do not count
            policy = RetryPolicy(delays=[delay] * failures, max_elapsed=None)
            submitter = submitter.with_options(retry=policy)
        elif delay != DELAY:
            submitter = submitter.with_options(retry=lambda _: delay)
        if service is not ...:
            submitter = submitter.with_options(upstream=service)
        if weight != 1:
            submitter = submitter.with_options(weight=weight)
        must_refuse = self.is_closed
        pending = [one for one in self.calls if one.is_pending()]
        begun = len(self.calls)
        self.calls.append(call)
        try:
            call.future = submitter.submit(call)
        except RuntimeError as error:
            self.refused.append(call)
            pending += self.calls[begun + 1 :]
            self.expect(self.may_refuse(error, call, pending), f"a call is refused: {error} (G1, G5)")
        else:
            self.accepted.append(call)
            self.expect(not must_refuse, "a call is accepted after shutdown() (F4)")
            if self.max_pending is not None:
                pending = [one for one in self.accepted if one.is_pending()]
                self.expect(len(pending) <= self.max_pending, "more calls than max_pending (G5)")
            if observed:
                self.observe(call, then)
        return call

    def observe(self, call: Call, then: Callable[[], object] | None = None) -> None:
        """Add a done callback."""
        assert call.future is not None
        call.observers += 1
        call.future.add_done_callback(partial(self.note, then=then))

    def may_refuse(self, error: RuntimeError, call: Call, pending: list[Call]) -> bool:
        """Return whether there is a reason for what ``submit()`` raised."""
        if isinstance(error, BrokenExecutor):
            return self.is_broken
        if isinstance(error, PendingLimitError):
            is_full = self.max_pending is not None and len(pending) >= self.max_pending
            rivals = sum(one.service is call.service for one in pending)
            return is_full or (call.service is not None and rivals >= call.service.max_pending)
        return self.is_closing or self.is_starved

    def note(self, future: RetryingFuture[int], then: Callable[[], object] | None) -> None:
        """Be the done callback of a call that is observed."""
        self.expect(future.done(), "a done callback of a call that is not done (A3)")
        self.done.append(future)
        if then is not None:
            then()

    def cancel(self, future: RetryingFuture[int]) -> bool:
        """Cancel a call; if that succeeds, no attempt may follow."""
        (call,) = [one for one in self.accepted if one.future is future]
        call.may_end_early = True
        cancelled = future.cancel()
        self.expect(cancelled == future.cancelled(), "cancel() does not say what it did (E1, E2)")
        # One that cannot be cancelled is done, or runs; at the latest the next attempt is too many. A
        # coroutine that is cancelled before it begins may learn that where it first waits.
        call.limit = call.attempts + ((not cancelled or call.is_awaited) and not call.running)
        call.must_stand = not cancelled
        return cancelled

    def shutdown(self, **options: Any) -> None:
        """Shut down; once that returns, no attempt may start that it waits for or cancels."""
        assert self.executor is not None
        self.is_closing = True
        waits = options.get("wait", True) and not self.is_own_thread()
        stops = options.get("cancel_futures", False) or (waits and "timeout" in options)
        for call in self.accepted if stops else []:
            call.may_end_early = True
        accepted = list(self.accepted)  # what another thread is just submitting may be cancelled too
        self.executor.shutdown(**options)
        self.is_closed = True
        if stops:
            for call in self.calls:
                call.may_end_early = True
            for call in accepted:
                call.stop()
        if waits:
            self.has_ended = "timeout" not in options or self.has_ended
            for call in accepted:
                assert call.future is not None
                running = call.future.running()
                self.expect(running or call.future.done(), "shutdown() left a call behind (F1)")
                self.expect(not running or "timeout" in options, "shutdown() did not wait (F1)")
            is_open = not all(loop.is_closed() for loop in self.loops)
            self.expect("timeout" in options or not is_open, "shutdown() left the loop open (K2)")

    def look(self) -> None:
        """Ask how many calls there are: what is accepted is counted once, wherever it is just then."""
        least, ended = len(self.accepted), sum(not call.is_pending() for call in self.accepted)
        stats = self.pool.stats()
        most, outcomes = len(self.calls), stats.succeeded + stats.failed + stats.cancelled
        is_right = least <= stats.submitted <= most and ended <= outcomes <= most
        most_running = self.max_workers + (self.max_coroutines if self.loops else 0)
        is_right &= 0 <= stats.running <= most_running and 0 <= stats.ready and 0 <= stats.in_backoff
        self.expect(is_right, f"stats() counts a call twice, or not at all, in stats() (G4): {stats}")

    def is_own_thread(self) -> bool:
        """Return whether this is called by one of the executor's threads."""
        return threading.current_thread().name.startswith("worker_")

    def check_order(self, call: Call) -> None:
        """With one worker, the first attempt of a call comes after those of earlier calls and due retries.

        With one place for them all too, as far as calls come before it that had no attempt yet.
        """
        has_one_place = call.service is not None and call.service.limit == 1
        if (self.max_workers > 1 and not has_one_place) or call.attempts:
            return
        for other in self.accepted:
            future = other.future
            assert future is not None
            due_at = future.due_at
            if other.services != call.services or call.is_awaited:
                continue  # what it waits for may come sooner or later
            gate = None if call.service is None else call.service._places.gate
            is_due = gate is None or not gate.era  # else those that failed come last
            is_due &= due_at is not None and due_at <= self.free_at and not future.done()
            self.expect(
                self.max_workers > 1 or not is_due, "a first attempt before a retry that was due (D2)"
            )
            if other.number > call.number and other.submitter is call.submitter:
                self.expect(not other.attempts, "a first attempt before that of an earlier call (D1)")

    def check_events(self, call: Call) -> None:
        """When all has been told: what has happened to a call was told in order, and once."""
        told = [] if call.future is None else [one for one in self.events if one.key == call.future.key]
        kinds = [one.kind for one in told]
        if not self.listens or call.future is None:
            assert not kinds, "a refused call was told of (G1)"
            return
        assert "accepted" == kinds[0], f"not the first: {kinds} (G3)"
        assert "done" == kinds[-1], f"not the last: {kinds} (G3)"
        counts = [kinds.count(one) for one in ("accepted", "done")]
        assert [1, 1] == counts, f"events are told twice, or not at all: {kinds} (G3)"
        untold = call.attempts - kinds.count("attempt_started")  # one may start after an outcome from outside
        assert 0 <= untold <= call.is_settled, f"events are told twice, or not at all: {kinds} (G3)"
        numbers = [one.attempt for one in told if one.kind != "done"]
        assert sorted(numbers) == numbers, f"events in the wrong order: {kinds} (G3)"

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
        if now <= Run.active.now:  # no time passes: a worker lets others have the lock, and goes on
            return
        if self.pool.crew.roster._recovering is not None:  # its initializer is tried again then
            return
        for call in self.accepted:
            if call.future is None or call.future.done() or self.running == self.max_workers:
                continue
            if self.is_starved and self.running:
                continue
            if self.awaiting == self.max_coroutines:  # workers may wait for places
                continue
            is_soon = now - Run.active.now < SOON
            lets_through = [one.lets_through(call.weight, now - rushed) for one in call.services]
            if call.services and (is_soon or not all(lets_through)):
                continue
            assert call.future.attempts or call.future.running(), "a call that nobody takes up (C4, C5)"
            due_at = call.future.due_at
            is_late = due_at is not None and now > due_at + rushed + ROUNDING
            assert not is_late, "a late retry (C4)"
        for other in self.others:
            other.check_nobody_is_late(now)

    def check(self) -> None:
        """When all threads have ended: nothing was lost, and nothing is left."""
        assert not self.broken, self.broken[0]
        assert not [call for call in self.refused if call.attempts], "a refused call ran (G1)"
        for call in self.accepted:
            call.check()
        stats = self.pool.stats()
        assert (0, 0, 0, 0) == (stats.threads, stats.running, stats.ready, stats.in_backoff), stats
        futures = [call.future for call in self.accepted if call.future is not None]
        cancelled = sum(future.cancelled() for future in futures)
        failed = sum(not future.cancelled() and future.exception() is not None for future in futures)
        assert len(futures) == stats.submitted, f"calls are not counted (G4): {stats}"
        outcomes = (len(futures) - failed - cancelled, failed, cancelled)
        counted = (stats.succeeded, stats.failed, stats.cancelled)
        assert outcomes == counted, f"outcomes are not counted (G4): {stats}"
        for call in self.calls:
            for service in call.services:
                service.check(sum(one.is_settled for one in self.calls))
            self.check_events(call)
        for other in self.others:
            other.check()


def start(work: Callable[[], object]) -> threading.Thread:
    """Start a thread of the program."""
    thread = threading.Thread(target=work, name=getattr(work, "__name__", "program"))
    thread.start()
    return thread


@contextmanager
def starts_that_fail(*which: int) -> Iterator[None]:
    """Have some starts of workers fail, by their number, after a moment in which others may go on."""
    begin, numbers = threading.Thread.start, count(1)

    def start_or_not(thread: threading.Thread) -> None:
        if thread.name.startswith("worker") and next(numbers) in which:
            assert Run.active is not None
            Run.active.switch()
            raise RuntimeError("can't start new thread")
        begin(thread)

    threading.Thread.start = start_or_not  # type: ignore[method-assign]
    try:
        yield
    finally:
        threading.Thread.start = begin  # type: ignore[method-assign]


Scenario = Callable[[], Trial]
"""Makes a trial, does something to it, and returns it for the check at the end."""
