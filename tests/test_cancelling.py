"""Cancelling a call: before its first attempt, in backoff, while it runs, and afterwards."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    as_completed,
    wait,
)
from threading import Event, Thread
from typing import Any, NoReturn

import pytest

from conftest import TIMEOUT, both
from observe import eventually, needs_locks_of_workers
from retrying_executor import RetryingExecutor, RetryingFuture, RetryPolicy, Upstream
from retrying_executor._threads import threads
from retrying_executor._threads.roster import Worker
from retrying_executor.testing import VirtualTimeExecutor

AnyFuture = RetryingFuture[Any]
AN_HOUR = RetryPolicy(initial_delay=3600, max_delay=3600, max_elapsed=None, jitter=False)


class FailureError(Exception):
    """An exception that a weak reference can watch."""


class Resource:
    """An argument that a weak reference can watch; as a function, it fails."""

    def __call__(self, *_: object, **__: object) -> NoReturn:
        """Fail."""
        raise FailureError


@pytest.fixture
def lone() -> Iterator[RetryingExecutor]:
    """An executor with a single worker, whose retries are an hour away."""
    executor = RetryingExecutor(1, retry=AN_HOUR)
    yield executor
    executor.shutdown(cancel_futures=True)


@pytest.fixture
def release() -> Iterator[Event]:
    """What running calls wait for; in the end it is set anyway."""
    release = Event()
    yield release
    release.set()


def backing_off(lone: RetryingExecutor, release: Event) -> AnyFuture:
    """Return the future of a call that is in backoff for an hour."""
    future = lone.submit(Resource())
    assert 0 == lone.submit(int).result(TIMEOUT)  # the only worker is done with the call before
    return future


def ready(lone: RetryingExecutor, release: Event) -> AnyFuture:
    """Return the future of a call that would start, were the only worker free."""
    busy = Event()
    lone.submit(lambda: (busy.set(), release.wait(TIMEOUT)))
    assert RetryingExecutor is VirtualTimeExecutor or busy.wait(TIMEOUT)  # there, nothing starts by itself
    return lone.submit(Resource())


WAITING = pytest.mark.parametrize("waiting", [ready, backing_off])
Waiting = Callable[[RetryingExecutor, Event], AnyFuture]


# -- a call that waits ---------------------------------------------------------------------------


@both
@WAITING
def test_cancel_succeeds_while_a_call_waits(lone: RetryingExecutor, release: Event, waiting: Waiting) -> None:
    """Before the first attempt and in backoff the future is cancelled at once, for good (E1)."""
    future = waiting(lone, release)
    attempts = future.attempts
    assert future.cancel()
    assert (True, True, False) == (future.cancelled(), future.done(), future.running())
    assert future.cancel()  # again: it is cancelled
    assert 1 == lone.stats().cancelled
    assert None is future.due_at is future.last_exception
    with pytest.raises(CancelledError):
        future.result(0)
    release.set()
    assert lone.drain(TIMEOUT)
    assert attempts == future.attempts


@both
@WAITING
@pytest.mark.parametrize("watched", ["fn", "argument", "keyword"])
def test_cancel_releases_function_and_arguments(
    lone: RetryingExecutor, release: Event, waiting: Waiting, watched: str
) -> None:
    """They can go at once, although the future is kept (E1, G2)."""
    waiting(lone, release)
    fn, argument, keyword = resources = Resource(), Resource(), Resource()
    future = lone.submit(fn, argument, keyword=keyword)
    if waiting is backing_off:
        assert 0 == lone.submit(int).result(TIMEOUT)
    reference = weakref.ref(dict(zip(("fn", "argument", "keyword"), resources, strict=True))[watched])
    del fn, argument, keyword, resources
    assert reference() is not None
    assert future.cancel()
    gc.collect()
    assert reference() is None


@both
def test_cancel_in_backoff_releases_the_exception(lone: RetryingExecutor, release: Event) -> None:
    """What the last attempt raised was kept for those who ask; now it goes, too (E1, G2)."""
    future = backing_off(lone, release)
    assert future.last_exception is not None
    reference = weakref.ref(future.last_exception)
    assert future.cancel()
    gc.collect()
    assert reference() is None


@WAITING
@pytest.mark.parametrize(
    "await_",
    [lambda future: future.result(TIMEOUT), lambda future: future.exception(TIMEOUT)],
    ids=["result", "exception"],
)
def test_cancel_wakes_those_who_wait_for_the_outcome(
    lone: RetryingExecutor, release: Event, waiting: Waiting, await_: Callable[[AnyFuture], object]
) -> None:
    """Waiters are told at once, not when the next attempt would have been due (E1)."""
    future = waiting(lone, release)
    caught: list[str] = []

    def wait_for_it() -> None:
        with pytest.raises(CancelledError):
            await_(future)
        caught.append("cancelled")

    threads = [Thread(target=wait_for_it) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert future.cancel()
    for thread in threads:
        thread.join(TIMEOUT)
    assert ["cancelled"] * 3 == caught


@WAITING
@pytest.mark.parametrize("return_when", [FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED])
def test_wait_returns_when_a_call_is_cancelled(
    lone: RetryingExecutor, release: Event, waiting: Waiting, return_when: str
) -> None:
    """Before, meanwhile or afterwards: a cancelled call is done (A3, E1)."""
    future = waiting(lone, release)
    returned: list[object] = []
    thread = Thread(target=lambda: returned.append(wait([future], TIMEOUT, return_when)))
    thread.start()
    assert future.cancel()
    thread.join(TIMEOUT)
    assert [({future}, set())] == returned
    assert ({future}, set()) == wait([future], TIMEOUT, return_when)


@WAITING
def test_as_completed_yields_a_call_that_is_cancelled(
    lone: RetryingExecutor, release: Event, waiting: Waiting
) -> None:
    """As soon as it is cancelled (A3, E1)."""
    future = waiting(lone, release)
    yielded: list[object] = []
    thread = Thread(target=lambda: yielded.extend(as_completed([future], TIMEOUT)))
    thread.start()
    assert future.cancel()
    thread.join(TIMEOUT)
    assert [future] == yielded


@both
@WAITING
def test_cancel_runs_the_callbacks(lone: RetryingExecutor, release: Event, waiting: Waiting) -> None:
    """In the thread that cancels, before cancel() returns, and once (E1)."""
    future = waiting(lone, release)
    told: list[object] = []
    future.add_done_callback(lambda done: told.append((done, done.cancelled(), threading.current_thread())))
    assert future.cancel()
    assert future.cancel()
    assert [(future, True, threading.current_thread())] == told


@both
@WAITING
def test_a_callback_may_cancel(lone: RetryingExecutor, release: Event, waiting: Waiting) -> None:
    """Its own call, which is done already, and others, without deadlock (E1, F7)."""
    first, second = (
        waiting(lone, release),
        waiting(lone, Event()) if waiting is backing_off else lone.submit(int),
    )
    answers: list[bool] = []
    first.add_done_callback(lambda done: answers.extend([done.cancel(), second.cancel()]))
    second.add_done_callback(lambda done: answers.append(first.cancel()))
    assert first.cancel()
    assert [True] * 3 == answers
    assert second.cancelled()


def test_a_callback_in_a_worker_may_cancel(lone: RetryingExecutor, release: Event) -> None:
    """When a call is done, its callback may cancel what waits, not the call itself (E2, F7)."""
    waiting = backing_off(lone, release)
    done = Event()
    busy = lone.submit(release.wait, TIMEOUT)
    answers: list[bool] = []

    def cancel_both(future: Any) -> None:
        answers.extend([future.cancel(), waiting.cancel()])
        done.set()

    busy.add_done_callback(cancel_both)
    release.set()
    assert done.wait(TIMEOUT)
    assert [False, True] == answers
    assert busy.result()


@both
@WAITING
def test_a_cancelled_call_cannot_begin(lone: RetryingExecutor, release: Event, waiting: Waiting) -> None:
    """A worker that finds it in the queue all the same, an instant after cancel(), leaves it alone (E1)."""
    future = waiting(lone, release)
    before = future.attempts
    assert future.cancel()
    assert not future._begin(Worker(0, threading.RLock()), 0.0)
    assert future.cancelled()
    assert before == future.attempts


def test_a_call_that_was_not_cancelled_can_be_observed(lone: RetryingExecutor, release: Event) -> None:
    """Who comes to observe it after a cancel() in vain is told when it is done (A3, E2)."""
    running, told = Event(), Event()
    future = lone.submit(lambda: (running.set(), release.wait(TIMEOUT)))
    assert running.wait(TIMEOUT)
    assert not future.cancel()
    future.add_done_callback(lambda _: told.set())
    release.set()
    assert told.wait(TIMEOUT)


@needs_locks_of_workers
def test_cancelled_calls_are_tidied_up_another_time(
    lone: RetryingExecutor, release: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a worker cannot be stopped for that, they are dropped when the next call is cancelled (E1)."""
    monkeypatch.setattr(threads, "_STANDSTILL_TIMEOUT", 0.001)
    futures = [ready(lone, release), lone.submit(int)]
    pool = lone._core
    (worker,) = pool.crew.roster.members
    held, done = Event(), Event()

    def hold() -> None:
        with worker.lock:
            held.set()
            assert done.wait(TIMEOUT)

    holder = Thread(target=hold)
    holder.start()
    assert held.wait(TIMEOUT)
    assert all(future.cancel() for future in futures)
    assert futures == list(pool.fresh)
    done.set()
    holder.join(TIMEOUT)
    assert lone.submit(int).cancel()
    assert [] == list(pool.fresh)


def test_cancelled_calls_do_not_stay_queued(lone: RetryingExecutor, release: Event) -> None:
    """Their futures are let go of while the only worker is busy, with the GIL and without (E1, G2)."""
    futures = [ready(lone, release), *(lone.submit(int) for _ in range(99))]
    assert all(future.cancel() for future in futures)
    assert [] == list(lone._core.fresh)


def test_many_threads_cancel_one_call(lone: RetryingExecutor, release: Event) -> None:
    """All of them are told that it is cancelled, and it is cancelled once (E1, G1)."""
    future = backing_off(lone, release)
    barrier = threading.Barrier(8)
    told: list[object] = []
    answers: list[bool] = []
    future.add_done_callback(told.append)

    def cancel() -> None:
        barrier.wait(TIMEOUT)
        answers.append(future.cancel())

    threads = [Thread(target=cancel) for _ in range(barrier.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert [True] * 8 == answers
    assert [future] == told
    assert 1 == lone.stats().cancelled


@both
def test_the_calls_around_a_cancelled_one_run(lone: RetryingExecutor, release: Event) -> None:
    """Cancelling takes one call out of the queue and leaves the order of the others alone (D1, E1)."""
    assert ready(lone, release).cancel()
    order: list[int] = []
    futures = [lone.submit(order.append, number) for number in range(10)]
    for number in (0, 3, 4, 9):
        assert futures[number].cancel()
    release.set()
    assert lone.drain(TIMEOUT)
    assert [1, 2, 5, 6, 7, 8] == order


# -- a call that runs, or is done ----------------------------------------------------------------


@pytest.mark.parametrize("outcome", [42, ValueError("no"), KeyError()], ids=repr)
def test_cancel_does_not_stop_a_running_attempt(executor: RetryingExecutor, outcome: object) -> None:
    """Once an attempt has started cancel() returns False; its outcome stands, and no other follows (E2)."""
    started, release = Event(), Event()

    def call() -> object:
        started.set()
        assert release.wait(TIMEOUT)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    future = executor.submit(call)
    assert started.wait(TIMEOUT)
    assert not future.cancel()
    assert not future.cancel()
    assert (True, False, False) == (future.running(), future.done(), future.cancelled())
    release.set()
    assert outcome is (future.exception(TIMEOUT) or future.result())
    assert 1 == future.attempts
    stats = executor.stats()
    assert (0, 0) == (stats.retried, stats.cancelled)


def test_cancel_lets_a_rejected_result_stand(executor: RetryingExecutor) -> None:
    """The result of the last attempt is the outcome, although it would have been rejected (E2)."""
    started, release = Event(), Event()
    asked: list[object] = []

    def call() -> str:
        started.set()
        assert release.wait(TIMEOUT)
        return "rejected"

    future = executor.with_options(retry_result=asked.append).submit(call)
    assert started.wait(TIMEOUT)
    assert not future.cancel()
    release.set()
    assert "rejected" == future.result(TIMEOUT)
    assert 1 == future.attempts


@both
def test_a_call_may_cancel_itself(executor: RetryingExecutor) -> None:
    """From inside, cancel() returns False and says: this attempt is the last (E2, F7)."""
    futures: list[AnyFuture] = []
    known = Event()
    answers: list[bool] = []

    def call() -> NoReturn:
        assert known.wait(TIMEOUT)
        if futures[0].attempts == 2:
            answers.append(futures[0].cancel())
        raise ValueError("no")

    futures.append(executor.submit(call))
    known.set()
    assert isinstance(futures[0].exception(TIMEOUT), ValueError)
    assert [False] == answers
    assert 2 == futures[0].attempts


@both
def test_a_policy_may_cancel_its_call(lone: RetryingExecutor) -> None:
    """While the policy decides the attempt still runs: cancel() is refused, no other follows (E2, F7)."""
    futures: list[AnyFuture] = []
    known = Event()
    answers: list[bool] = []

    def policy(_: object) -> float:
        assert known.wait(TIMEOUT)
        answers.append(futures[0].cancel())
        return 0.0

    futures.append(lone.with_options(retry=policy).submit(Resource()))
    known.set()
    assert isinstance(futures[0].exception(TIMEOUT), FailureError)
    assert [False] == answers
    assert 1 == futures[0].attempts


@both
@pytest.mark.parametrize("fn", [int, Resource()], ids=["succeeds", "fails"])
def test_cancel_does_not_change_what_is_done(executor: RetryingExecutor, fn: Callable[[], object]) -> None:
    """When the call is done cancel() returns False, and its outcome stays (E2)."""
    future = executor.submit(fn)
    exception = future.exception(TIMEOUT)
    before = repr(future)
    assert not future.cancel()
    assert before == repr(future)
    assert exception is future.exception()
    assert 0 == executor.stats().cancelled


@pytest.mark.parametrize("is_held", [False, True], ids=["in backoff", "held"])
def test_a_call_cancelled_in_the_middle_of_another_is_cancelled_afterwards(
    monkeypatch: pytest.MonkeyPatch, *, is_held: bool
) -> None:
    """Where a destructor cancels while another call is being cancelled, the third still runs (E1, F7, G1)."""
    service = Upstream("service")
    service.pause()
    with RetryingExecutor(1, retry=AN_HOUR, upstream=service if is_held else None) as executor:
        calls = [executor.submit(int if is_held else Resource()) for _ in range(3)]
        assert eventually(lambda: 3 == executor.stats().held + executor.stats().in_backoff)
        release, others, answers = RetryingFuture._release, [calls[1]], []

        def interrupted(call: AnyFuture) -> None:
            answers.extend(other.cancel() for other in others)
            others.clear()
            release(call)

        monkeypatch.setattr(RetryingFuture, "_release", interrupted)
        assert calls[0].cancel()
        assert [False] == answers
        assert eventually(calls[1].cancelled)
        stats = executor.stats()
        assert (1, 3, 2) == (stats.held + stats.in_backoff, stats.submitted, stats.cancelled)
        service.resume()
        if is_held:
            assert 0 == calls[2].result(TIMEOUT)
        assert calls[2].cancel() is not is_held
    assert 0 == executor.stats().held + executor.stats().in_backoff
