"""Small client programs, written by Hypothesis, run on real threads and judged by the contract alone.

Everything that happens is noted in one journal, whose order is that in which it happened: a
program may end in many ways, but what its journal says must never break a promise.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from conftest import TIMEOUT, both
from observe import eventually, threads_named
from retrying_executor import RetryingExecutor, RetryingFuture, RetryPolicy
from retrying_executor.testing import VirtualTimeExecutor

MAX_ATTEMPTS = 3
PREFIX = "program"

Journal = list[tuple[str, object]]


class NotYetError(Exception):
    """What an attempt raises that is to fail."""


@dataclass(eq=False)
class Call:
    """A call that fails *failures* times and then returns itself; each attempt lasts *lasts* seconds."""

    journal: Journal = field(repr=False)
    failures: int
    lasts: float
    begun: int = 0
    raised: NotYetError | None = None

    def __call__(self) -> Call:
        """Make an attempt."""
        self.journal.append(("begin", self))
        self.begun += 1
        threading.Event().wait(self.lasts)
        self.raised = NotYetError() if self.begun <= self.failures else None
        self.journal.append(("end", self))
        if self.raised is not None:
            raise self.raised
        return self


@dataclass
class Run:
    """One run of a program: the executor, until somebody drops it, and what happened so far."""

    executor: RetryingExecutor | None
    journal: Journal = field(default_factory=list)
    accepted: list[tuple[Call, RetryingFuture[Call]]] = field(default_factory=list)
    refused: list[Call] = field(default_factory=list)
    halted: bool = False


# -- what a program may do ---------------------------------------------------------------------------


def submit(run: Run, executor: RetryingExecutor, *, failures: int, lasts: float, watched: bool) -> None:
    """Submit a call that fails *failures* times, and note when it is done if it is *watched*."""
    call = Call(run.journal, failures, lasts)
    try:
        future = executor.submit(call)
    except RuntimeError:  # after shutdown, or too many are pending
        run.refused.append(call)
        return
    run.accepted.append((call, future))
    if watched:
        future.add_done_callback(lambda _: run.journal.append(("done", call)))


def take_result(run: Run, _: RetryingExecutor, *, index: int) -> None:
    """Wait for one of the calls."""
    for _, future in run.accepted[index:][:1]:
        with suppress(NotYetError, CancelledError):
            future.result(TIMEOUT)


def cancel(run: Run, _: RetryingExecutor, *, index: int) -> None:
    """Cancel one of the calls."""
    for call, future in run.accepted[index:][:1]:
        cancelled = future.cancel()
        run.journal.append(("cancelled" if cancelled else "kept", call))
        assert cancelled == future.cancelled()


def drain(run: Run, executor: RetryingExecutor) -> None:
    """Wait for everything that was accepted before."""
    before = list(run.accepted)
    assert executor.drain(TIMEOUT)
    assert all(future.done() for _, future in before)


def look(_: Run, executor: RetryingExecutor) -> None:
    """Take a snapshot."""
    stats = executor.stats()
    waiting = stats.running + stats.ready + stats.in_backoff
    assert stats.submitted == waiting + stats.succeeded + stats.failed + stats.cancelled
    assert 0 <= stats.running <= stats.threads <= executor._max_workers


def shut_down(
    run: Run,
    executor: RetryingExecutor,
    *,
    wait: bool = True,
    cancel_futures: bool = False,
    timeout: float | None = None,
) -> None:
    """Shut down, in one of the ways there are."""
    run.halted |= cancel_futures or timeout is not None
    executor.shutdown(wait, cancel_futures=cancel_futures, timeout=timeout)
    if cancel_futures:
        run.journal.append(("halted", None))
    if wait and timeout is None:
        run.journal.append(("ended", None))


def drop(run: Run, _: RetryingExecutor) -> None:
    """Let go of the executor."""
    run.executor = None


Operation = Callable[[Run, RetryingExecutor], None]


@dataclass(frozen=True)
class Program:
    """An executor's options, and what each of its client's threads does."""

    max_workers: int
    idle_timeout: float | None
    delay: float
    max_pending: int | None
    when_full: str
    threads: list[list[Operation]]


def operation(
    perform: Callable[..., None], **arguments: st.SearchStrategy[Any]
) -> st.SearchStrategy[Operation]:
    """Return the strategy for one operation, given those for its arguments."""
    return st.builds(partial, st.just(perform), **arguments)


pauses = st.sampled_from([0, 0.001])
idle_timeouts = st.sampled_from([0, 0.01, None])
submits = operation(submit, failures=st.integers(0, MAX_ATTEMPTS), lasts=pauses, watched=st.booleans())
easy_submits = operation(submit, failures=st.just(0), lasts=pauses, watched=st.just(True))
cancels = operation(cancel, index=st.integers(0, 9))
results = operation(take_result, index=st.integers(0, 9))
work = st.one_of(submits, easy_submits, submits, cancels, results, operation(drain), operation(look))
endings = st.one_of(
    operation(shut_down, wait=st.booleans(), cancel_futures=st.booleans()),
    operation(shut_down, cancel_futures=st.booleans(), timeout=pauses),
    operation(drop),
)
clients = st.builds(
    lambda first, last, late: [*first, *last, *late],
    st.lists(work, max_size=15),
    st.lists(endings, max_size=2),
    st.lists(work, max_size=3),
)
programs = st.builds(
    Program,
    max_workers=st.integers(1, 3),
    idle_timeout=idle_timeouts,
    delay=pauses,
    max_pending=st.sampled_from([None, None, 1, 3]),
    when_full=st.sampled_from(["raise", "wait"]),
    threads=st.lists(clients, min_size=1, max_size=2),
)
programs_in_order = st.builds(
    Program,
    max_workers=st.just(1),
    idle_timeout=idle_timeouts,
    delay=st.just(0),
    max_pending=st.none(),
    when_full=st.just("raise"),
    threads=st.tuples(st.lists(st.one_of(submits, easy_submits, cancels), max_size=15)).map(list),
)


def perform(program: Program) -> Run:
    """Run a program to its end; return what happened when every call is done and every thread gone."""
    run = Run(
        RetryingExecutor(
            program.max_workers,
            PREFIX,
            retry=RetryPolicy(delays=[program.delay] * (MAX_ATTEMPTS - 1)),
            idle_timeout=program.idle_timeout,
            max_pending=program.max_pending,
            when_full=program.when_full,  # type: ignore[arg-type]  # one of two
        )
    )
    start = threading.Barrier(len(program.threads))

    def follow(operations: list[Operation]) -> None:
        start.wait(TIMEOUT)
        for operation in operations:
            executor = run.executor
            if executor is not None:
                operation(run, executor)
            del executor

    with ThreadPoolExecutor(len(program.threads)) as clients:
        list(clients.map(follow, program.threads, timeout=2 * TIMEOUT))
    futures = [future for _, future in run.accepted]
    if run.executor is None:
        assert not wait(futures, TIMEOUT).not_done
        assert eventually(lambda: not threads_named(PREFIX))
    else:
        shut_down(run, run.executor)
        assert all(future.done() for future in futures)
        assert not threads_named(PREFIX)
    note(f"{run.journal}")
    return run


# -- what must be true of every run ------------------------------------------------------------------


def check_attempts(program: Program, run: Run) -> None:
    """Go through the journal: what runs, and what must not run any more."""
    running: set[object] = set()
    left: Counter[object] = Counter()  # attempts that a call may still begin, once somebody cancelled it
    judged: set[object] = set()
    kept: set[object] = set()  # those whose running attempt was their last
    ended = False
    for event, call in run.journal:
        if event == "begin":
            assert not ended
            assert call not in running
            assert call not in judged or left[call] > 0
            left[call] -= 1
            running.add(call)
            assert len(running) <= program.max_workers
        elif event == "end":
            running.remove(call)
        elif event == "cancelled":
            assert call not in running
            left[call] = 0
            judged.add(call)
        elif event == "kept" and call not in judged:
            left[call] = 0 if call in running else 1  # it was about to begin
            judged.add(call)
            kept.add(call)
        elif event == "halted":
            left.update(dict.fromkeys(running - judged, 0))
            judged |= running
            kept |= running
        elif event == "ended":
            assert not running
            ended = True
    assert not running
    assert not [call for call, future in run.accepted if future.cancelled() and call in kept]


def check_outcomes(run: Run) -> None:
    """Compare what became of each call with what it was told to do."""
    by_hand = {call: event for event, call in run.journal if event in ("cancelled", "kept")}
    done = Counter(call for event, call in run.journal if event == "done")
    assert not done or 1 == max(done.values())
    assert not [call for call in run.refused if call.begun]
    for call, future in run.accepted:
        assert call.begun == future.attempts
        attempts = min(call.failures + 1, MAX_ATTEMPTS)
        if future.cancelled():
            assert run.halted or "cancelled" == by_hand[call]
            assert call.begun < attempts
            continue
        assert call.raised is future.exception(0)
        if call.raised is None:
            assert call is future.result(0)
        if call.raised is None or not (run.halted or call in by_hand):
            assert attempts == call.begun


def check_stats(run: Run) -> None:
    """Compare the numbers with what became of the calls."""
    if run.executor is None:
        return
    stats = run.executor.stats()
    futures = [future for _, future in run.accepted]
    cancelled = [future for future in futures if future.cancelled()]
    failed = [future for future in futures if not future.cancelled() and future.exception(0)]
    succeeded = len(futures) - len(failed) - len(cancelled)
    assert len(futures) == stats.submitted
    assert (succeeded, len(failed), len(cancelled)) == (stats.succeeded, stats.failed, stats.cancelled)
    assert (0, 0, 0, 0) == (stats.threads, stats.running, stats.ready, stats.in_backoff)
    assert stats.next_due_at is None
    assert sum(max(0, future.attempts - 1) for future in futures) <= stats.retried


@pytest.fixture(autouse=True, scope="module")
def _threads_switch_often() -> Iterator[None]:
    """Let threads get in each other's way more often than they would by themselves."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@both
@settings(max_examples=150, deadline=None)
@given(programs)
def test_no_program_breaks_a_promise(program: Program) -> None:
    """Whatever one or two threads do with an executor, every promise holds.

    Every accepted call becomes done, once, and a refused one never runs (G1); its attempts never
    overlap (B7) and are as many as it takes, with the outcome of the last (B3); no more run at once
    than there are workers (C1); none begins after a cancel (E1, E2) or after the end (F1, F2, F3);
    ``drain()`` waits for all (F3); a dropped executor finishes its calls (F5); the numbers
    add up (G4); and no thread is left (C2).
    """
    if RetryingExecutor is VirtualTimeExecutor:  # several threads share one clock there
        program = replace(program, threads=program.threads[:1])
    run = perform(program)
    check_attempts(program, run)
    check_outcomes(run)
    check_stats(run)


@both
@settings(max_examples=80, deadline=None)
@given(programs_in_order)
def test_one_worker_keeps_the_order(program: Program) -> None:
    """One worker starts the calls of one thread in their order, and a retry that is due before all others.

    With delays of 0 the attempts of a call follow each other without any other in between (D1, D2);
    so the calls also become done in their order (D3).
    """
    run = perform(program)
    check_attempts(program, run)
    check_outcomes(run)
    begun = [call for event, call in run.journal if event == "begin"]
    assert [call for call, _ in run.accepted for _ in range(call.begun)] == begun
    cancelled = [call for call, future in run.accepted if future.cancelled()]
    done = [call for event, call in run.journal if event == "done" and call not in cancelled]
    assert [call for call, _ in run.accepted if call in done] == done
