"""The future of a call, compared with that of the standard executor."""

from __future__ import annotations

import logging
import math
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Future,
    InvalidStateError,
    TimeoutError,  # noqa: A004  # not the builtin on 3.10
    as_completed,
    wait,
)
from datetime import timedelta
from threading import Event, Semaphore, Thread
from typing import Any, NoReturn

import pytest

from conftest import TIMEOUT, both
from observe import needs_locks_of_workers
from retrying_executor import RetryingExecutor, RetryingFuture, RetryPolicy
from retrying_executor._calls.call import Hand

AnyFuture = RetryingFuture[Any]


class Interrupt(BaseException):
    """Not an Exception."""


class FalsyError(Exception):
    """A container of errors that happens to be empty."""

    def __len__(self) -> int:
        """Say that it is empty, hence false."""
        return 0


def fail(exception: BaseException | None = None) -> NoReturn:
    """Raise *exception*, by default a ValueError."""
    raise ValueError("no") if exception is None else exception


def release_and_finish(release: Event, outcome: object = None) -> object:
    """Wait to be released; then return *outcome*, or raise it."""
    assert release.wait(TIMEOUT)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


@pytest.fixture
def lone() -> Iterator[RetryingExecutor]:
    """An executor with a single worker, whose retries are an hour away."""
    policy = RetryPolicy(initial_delay=3600, max_delay=3600, max_elapsed=None, jitter=False)
    executor = RetryingExecutor(1, retry=policy)
    yield executor
    executor.shutdown(cancel_futures=True)


@pytest.fixture
def release() -> Iterator[Event]:
    """What running calls wait for; in the end it is set anyway."""
    release = Event()
    yield release
    release.set()


def backing_off(lone: RetryingExecutor) -> AnyFuture:
    """Return the future of a call that is in backoff for an hour."""
    future = lone.submit(fail)
    assert lone.submit(int).result(TIMEOUT) == 0  # the only worker is done with the call before
    return future


def running(lone: RetryingExecutor, release: Event, outcome: object = None) -> AnyFuture:
    """Return the future of a call that runs until released."""
    started = Event()

    def call() -> object:
        started.set()
        return release_and_finish(release, outcome)

    future = lone.with_options(retry=None).submit(call)
    assert started.wait(TIMEOUT)
    return future


def observed(future: AnyFuture) -> AnyFuture:
    """Make a future carry all that its observers need."""
    future.add_done_callback(repr)
    return future


OBSERVED = pytest.mark.parametrize("look", [lambda future: future, observed], ids=["unobserved", "observed"])
Look = Callable[[AnyFuture], AnyFuture]


# -- what can be seen ----------------------------------------------------------------------------


def outline(future: Future[Any]) -> str:
    """Return the repr of a future without what differs by design: type and address."""
    return re.sub(r"^<\w+ at 0x[0-9a-f]+ ", "<", repr(future))


def standard(state: str) -> Future[Any]:
    """Return a standard future in a state."""
    future: Future[Any] = Future()
    if state == "cancelled":
        future.cancel()
    if state != "pending":
        future.set_running_or_notify_cancel()
    if state == "returned":
        future.set_result("text")
    if state == "raised":
        future.set_exception(KeyError())
    return future


@OBSERVED
@pytest.mark.parametrize("state", ["pending", "running", "cancelled", "returned", "raised"])
def test_repr_is_that_of_the_standard_future(
    lone: RetryingExecutor, release: Event, state: str, look: Look
) -> None:
    """In every state the repr reads as the standard one (A3)."""
    if state in ("pending", "cancelled"):
        running(lone, release)
        future = look(lone.submit(int))
        assert (state == "cancelled") is (state == "cancelled" and future.cancel())
    elif state == "running":
        future = look(running(lone, release))
    else:
        future = look(running(lone, release, "text" if state == "returned" else KeyError()))
        release.set()
        assert future.exception(TIMEOUT) is None or state == "raised"
    assert outline(standard(state)) == outline(future)
    assert re.fullmatch(rf"<RetryingFuture at {id(future):#x} state=.*>", repr(future))


@both
@OBSERVED
def test_a_future_in_backoff_is_pending(lone: RetryingExecutor, look: Look) -> None:
    """Neither running nor done; attempts, last error and due time can be read (A3, B10)."""
    future = look(backing_off(lone))
    assert outline(standard("pending")) == outline(future)
    assert (False, False, False) == (future.running(), future.done(), future.cancelled())
    assert 1 == future.attempts
    assert isinstance(future.last_exception, ValueError)
    assert lone.stats().next_due_at == future.due_at is not None


def test_a_future_without_attempts_has_nothing_to_tell(lone: RetryingExecutor, release: Event) -> None:
    """Before the first attempt there is no attempt, no error and no due time (B10)."""
    first, second = running(lone, release), lone.submit(int)
    assert (1, 0) == (first.attempts, second.attempts)
    for future in (first, second):
        assert future.last_exception is None
        assert future.due_at is None


@both
@pytest.mark.parametrize("outcome", ["text", KeyError("key")], ids=["returned", "raised"])
def test_a_done_future_tells_of_its_last_attempt(executor: RetryingExecutor, outcome: object) -> None:
    """Attempts and the last error stay readable; nothing is due any more (B10)."""
    outcomes = iter([ValueError(), ValueError(), *[outcome] * 3])
    release = Event()
    release.set()
    future = executor.submit(lambda: release_and_finish(release, next(outcomes)))
    exception = future.exception(TIMEOUT)
    assert (5 if exception else 3) == future.attempts
    assert exception is future.last_exception
    assert future.due_at is None


@OBSERVED
def test_repr_takes_no_lock(lone: RetryingExecutor, look: Look) -> None:
    """It may be called anywhere, while others hold whatever lock there is (A3)."""
    future = look(backing_off(lone))
    seen: list[str] = []
    with lone._core.lock:
        thread = Thread(target=lambda: seen.append(repr(future)))
        thread.start()
        thread.join(TIMEOUT)
        assert [repr(future)] == seen


@both
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_future_cannot_be_pickled(executor: RetryingExecutor, protocol: int) -> None:
    """As the standard future, pending or done (A3)."""
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(Future(), protocol)
    future = executor.submit(int)
    assert 0 == future.result(TIMEOUT)
    with pytest.raises(TypeError, match=r"^cannot pickle 'RetryingFuture' object$"):
        pickle.dumps(future, protocol)


@both
def test_a_future_has_no_other_attributes(executor: RetryingExecutor) -> None:
    """What does not exist is an AttributeError that names it (A3)."""
    future = executor.submit(int)
    with pytest.raises(AttributeError, match=r"^'RetryingFuture' object has no attribute 'atempts'$"):
        future.atempts  # type: ignore[attr-defined]  # noqa: B018


# -- waiting for the outcome ---------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "timeout", [0, 0.0, -1, -0.5, 0.01, timedelta(0), timedelta(milliseconds=10)], ids=repr
)
@pytest.mark.parametrize("method", ["result", "exception"])
def test_what_is_not_done_in_time_is_a_timeout(lone: RetryingExecutor, method: str, timeout: Any) -> None:
    """result() and exception() raise the TimeoutError of concurrent.futures, again and again (A3)."""
    future = backing_off(lone)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            getattr(future, method)(timeout)
    assert not future.done()


@both
@pytest.mark.parametrize("timeout", [None, 0, -1, TIMEOUT, timedelta(minutes=1)], ids=repr)
def test_what_is_done_needs_no_time(executor: RetryingExecutor, timeout: Any) -> None:
    """Once done, any timeout will do (A3)."""
    success, failure = executor.submit(int), executor.submit(fail)
    wait([success, failure], TIMEOUT)
    assert 0 == success.result(timeout)
    assert success.exception(timeout) is None
    assert failure.exception(timeout) is failure.exception()
    with pytest.raises(ValueError, match="no"):
        failure.result(timeout)


@pytest.mark.parametrize("timeout", [None, TIMEOUT, int(TIMEOUT), timedelta(minutes=1)], ids=repr)
@pytest.mark.parametrize("method", ["result", "exception"])
def test_waiting_ends_when_the_call_does(
    lone: RetryingExecutor, release: Event, method: str, timeout: Any
) -> None:
    """Whoever waits, several at once too, is told (A3)."""
    future = running(lone, release, "done")
    outcomes: list[object] = []
    threads = [Thread(target=lambda: outcomes.append(getattr(future, method)(timeout))) for _ in range(3)]
    for thread in threads:
        thread.start()
    release.set()
    for thread in threads:
        thread.join(TIMEOUT)
    assert [future.result() if method == "result" else None] * 3 == outcomes


@both
@OBSERVED
def test_a_cancelled_call_raises_cancelled_error(lone: RetryingExecutor, look: Look) -> None:
    """result() and exception() raise CancelledError (A3, E1)."""
    future = look(backing_off(lone))
    assert future.cancel()
    for method in (future.result, future.exception):
        with pytest.raises(CancelledError):
            method()


@OBSERVED
def test_an_exception_is_raised_whatever_it_says_of_itself(
    lone: RetryingExecutor, release: Event, look: Look
) -> None:
    """An exception that is false is an exception all the same (A3, B8)."""
    error = FalsyError()
    assert not error
    future = look(running(lone, release, error))
    release.set()
    with pytest.raises(FalsyError):
        future.result(TIMEOUT)
    assert error is future.exception() is future.last_exception
    assert wait([future], TIMEOUT, FIRST_EXCEPTION).done == {future}
    assert repr(future).endswith("state=finished raised FalsyError>")


# -- wait() and as_completed() -------------------------------------------------------------------


@OBSERVED
@pytest.mark.parametrize("return_when", [FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED])
def test_wait_sorts_futures_that_are_done_running_and_in_backoff(
    lone: RetryingExecutor, release: Event, look: Look, return_when: str
) -> None:
    """wait() returns what is done so far, as with standard futures (A3)."""
    waiting = look(backing_off(lone))
    done = look(lone.submit(int))
    assert 0 == done.result(TIMEOUT)
    busy = look(running(lone, release))
    timeout = 0.01 if return_when != FIRST_COMPLETED else TIMEOUT
    assert ({done}, {busy, waiting}) == wait([waiting, done, busy], timeout, return_when)


@OBSERVED
@pytest.mark.parametrize("outcome", ["text", KeyError("key")], ids=["returned", "raised"])
@pytest.mark.parametrize("return_when", [FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED])
def test_wait_returns_when_it_was_asked_to(
    lone: RetryingExecutor, release: Event, look: Look, return_when: str, outcome: object
) -> None:
    """A waiter is told of success, failure and cancellation alike, in backoff too (A3, E1)."""
    waiting, busy = look(backing_off(lone)), look(running(lone, release, outcome))
    result: list[Any] = []
    thread = Thread(target=lambda: result.append(wait([waiting, busy], TIMEOUT, return_when)))
    thread.start()
    release.set()
    assert busy.exception(TIMEOUT) is None or isinstance(outcome, KeyError)
    only_one = return_when == FIRST_COMPLETED or (
        return_when == FIRST_EXCEPTION and isinstance(outcome, KeyError)
    )
    if only_one:
        thread.join(TIMEOUT)
        assert [({busy}, {waiting})] == result
        assert waiting.cancel()
    else:
        assert waiting.cancel()
        thread.join(TIMEOUT)
        assert [({busy, waiting}, set())] == result


@OBSERVED
def test_as_completed_yields_each_as_it_gets_done(lone: RetryingExecutor, release: Event, look: Look) -> None:
    """First what is done already, then what gets done, cancelled in backoff or otherwise (A3, E1)."""
    waiting, done = look(backing_off(lone)), look(lone.submit(int))
    assert 0 == done.result(TIMEOUT)
    busy = look(running(lone, release))
    completed = as_completed([waiting, busy, done], TIMEOUT)
    assert done is next(completed)
    assert waiting.cancel()
    assert waiting is next(completed)
    release.set()
    assert busy is next(completed)
    assert [] == list(completed)


def test_as_completed_times_out_in_backoff(lone: RetryingExecutor) -> None:
    """What is in backoff is not done (A3)."""
    with pytest.raises(TimeoutError, match=r"1 .of 1. futures unfinished"):
        next(as_completed([backing_off(lone)], timeout=0.01))


@both
def test_standard_futures_may_be_mixed_in(executor: RetryingExecutor) -> None:
    """wait() and as_completed() take futures of both kinds at once (A3)."""
    theirs: Future[int] = Future()
    ours = executor.submit(int)
    theirs.set_result(1)
    assert ({ours, theirs}, set()) == wait([ours, theirs], TIMEOUT)
    assert {ours, theirs} == set(as_completed([ours, theirs], TIMEOUT))


# -- outcomes from outside -----------------------------------------------------------------------


@OBSERVED
@pytest.mark.parametrize("state", ["ready", "running", "in backoff"])
@pytest.mark.parametrize("setter", ["set_result", "set_exception"])
def test_an_outcome_may_be_set_from_outside(
    lone: RetryingExecutor, release: Event, look: Look, state: str, setter: str
) -> None:
    """The first outcome stands, waiters and callbacks are told at once, and the call goes no further (A3)."""
    if state == "in backoff":
        future = look(backing_off(lone))
    else:
        future = look(running(lone, release, "too late"))
        if state == "ready":
            future = look(lone.submit(fail))
    attempts, told = future.attempts, []
    future.add_done_callback(told.append)
    outcome: Any = KeyError("set") if setter == "set_exception" else "set"
    getattr(future, setter)(outcome)
    assert [future] == told
    release.set()
    assert lone.drain(TIMEOUT)
    assert attempts == future.attempts
    assert outcome is (future.exception() if setter == "set_exception" else future.result())
    stats = lone.stats()
    assert 0 == stats.running == stats.ready == stats.in_backoff


@pytest.mark.parametrize("ending", ["returned", "raised", "cancelled"])
def test_an_outcome_is_set_once(lone: RetryingExecutor, release: Event, ending: str) -> None:
    """When the call is done, setting an outcome is an InvalidStateError, and changes nothing (A3, G1)."""
    if ending == "cancelled":
        future = backing_off(lone)
        assert future.cancel()
    else:
        future = running(lone, release, "text" if ending == "returned" else KeyError())
        release.set()
        wait([future], TIMEOUT)
    before = repr(future)
    for setter in (lambda: future.set_result(1), lambda: future.set_exception(ValueError())):
        with pytest.raises(InvalidStateError, match=re.escape(repr(future))):
            setter()
    assert before == repr(future)


@both
def test_no_exception_is_a_result(lone: RetryingExecutor) -> None:
    """set_exception(None) makes the result None, as with the standard future (A3)."""
    theirs: Future[object] = Future()
    theirs.set_exception(None)
    future = backing_off(lone)
    future.set_exception(None)
    assert theirs.result() is future.result() is None
    assert outline(theirs) == outline(future)


# -- done callbacks ------------------------------------------------------------------------------


def test_callbacks_run_once_in_their_order(lone: RetryingExecutor, release: Event) -> None:
    """Each gets the future, in the order of adding, in the worker's thread; retries call none (A3)."""
    future = running(lone, release, "text")
    told: list[object] = []
    for number in range(5):
        future.add_done_callback(lambda done, number=number: told.append((number, done)))
    future.add_done_callback(lambda done: told.append(threading.current_thread().name.rpartition("_")[2]))
    assert [] == told
    release.set()
    assert lone.drain(TIMEOUT)
    lone.shutdown()
    assert [*((number, future) for number in range(5)), "0"] == told


@both
def test_a_callback_added_to_a_done_future_runs_at_once(executor: RetryingExecutor) -> None:
    """It runs in the thread that adds it, and before add_done_callback() returns (A3)."""
    future = executor.submit(int)
    assert 0 == future.result(TIMEOUT)
    told: list[object] = []
    future.add_done_callback(lambda done: told.append((done, threading.current_thread())))
    assert [(future, threading.current_thread())] == told


@both
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_callback_that_raises_is_logged_as_the_standard_one(
    lone: RetryingExecutor, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    """On the logger of concurrent.futures; the other callbacks run, and the outcome stands (A3, B8)."""
    future = backing_off(lone)
    told: list[object] = []
    if when == "after":
        future.set_result(1)
    future.add_done_callback(lambda _: fail(LookupError("callback")))
    future.add_done_callback(told.append)
    if when == "before":
        future.set_result(1)
    assert [future] == told
    assert 1 == future.result()
    [record] = [record for record in caplog.records if record.name == "concurrent.futures"]
    assert logging.ERROR == record.levelno
    assert f"exception calling callback for {future!r}" == record.getMessage()


def test_a_failure_that_came_too_late_is_not_kept(lone: RetryingExecutor) -> None:
    """Where the outcome was set while the attempt ran, that is what the future tells of (B10, G2)."""
    started, release = Event(), Event()

    def call() -> NoReturn:
        started.set()
        assert release.wait(TIMEOUT)
        raise ValueError

    future: RetryingFuture[Any] = lone.with_options(retry=lambda _: 0.0).submit(call)
    assert started.wait(TIMEOUT)
    future.set_result(1)
    release.set()
    assert 0 == lone.submit(int).result(TIMEOUT)
    assert future.last_exception is None


def test_what_a_callback_raises_has_no_context_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    """However the worker comes to call it, nothing that it met itself is logged along (A3, G3)."""
    with RetryingExecutor(1) as executor:
        release = Event()
        executor.submit(release.wait, TIMEOUT)
        for _ in range(2):
            executor.submit(int).add_done_callback(lambda _: fail(LookupError("callback")))
        release.set()
    raised = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert [None, None] == [error.__context__ for error in raised if error is not None]


@both
def test_a_callback_that_interrupts_lets_the_others_run_first(lone: RetryingExecutor) -> None:
    """What is no Exception goes to whoever made the call done, after all callbacks have run (A3, G1)."""
    future = backing_off(lone)
    told: list[object] = []
    future.add_done_callback(lambda _: fail(Interrupt()))
    future.add_done_callback(told.append)
    with pytest.raises(Interrupt):
        future.cancel()
    assert [future] == told
    assert future.cancelled()


def test_a_callback_that_interrupts_a_worker_does_no_harm(lone: RetryingExecutor, release: Event) -> None:
    """The outcome stands, the other callbacks run, and so do other calls (B8, G1)."""
    future = running(lone, release, "text")
    told: list[object] = []
    future.add_done_callback(lambda _: fail(SystemExit()))
    future.add_done_callback(told.append)
    release.set()
    assert "text" == future.result(TIMEOUT)
    assert 0 == lone.submit(int).result(TIMEOUT)
    assert [future] == told


def test_a_callback_may_look_at_everything(lone: RetryingExecutor, release: Event) -> None:
    """No lock of ours is held while callbacks run: they may wait, submit and look (F7)."""
    future = running(lone, release, "text")
    seen: list[object] = []
    has_looked = Event()

    def look(done: Future[object]) -> None:
        follower = lone.submit(int)
        thread = Thread(
            target=lambda: seen.extend(
                [done.result(TIMEOUT), repr(done), lone.stats().ready, follower.done()]
            )
        )
        thread.start()
        thread.join(TIMEOUT)
        has_looked.set()

    future.add_done_callback(look)
    release.set()
    assert has_looked.wait(TIMEOUT)
    assert ["text", repr(future), 1, False] == seen


@both
def test_an_outcome_set_as_a_worker_takes_the_call_stands(executor: RetryingExecutor) -> None:
    """The worker has the call in hand, and makes no attempt of it (A3, G1)."""
    future = executor.submit(int)
    assert 0 == future.result(TIMEOUT)
    assert executor._core.settling.attempt(Hand(threading.RLock()), future) is None
    assert 1 == future.attempts


class Held(int):
    """A count that stops whoever adds to it."""

    reached = Event()
    go_on = Event()

    def __add__(self, other: int) -> int:
        """Stop there."""
        self.reached.set()
        assert self.go_on.wait(TIMEOUT)
        return int(self) + other


class Door:
    """A lock that tells who comes to it."""

    def __init__(self, lock: Any, come: Callable[[], object]) -> None:
        self._come = come
        self.acquire, self.release, self._is_owned = lock.acquire, lock.release, lock._is_owned

    def __enter__(self) -> None:
        self._come()
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def begin_to_observe(future: AnyFuture, how: str, seen: list[str], came: Semaphore) -> Thread:
    """Observe *future* in a thread of its own, and return when that waits for others, or has ended."""

    def observe() -> None:
        if how == "wait":
            assert {future} == wait([future], TIMEOUT).done
        elif how == "callback":
            future.add_done_callback(lambda _: seen.append(how))
        else:
            with pytest.raises(InvalidStateError):
                future.set_result("another")
        came.release()

    thread = Thread(target=observe)
    thread.start()
    assert came.acquire(timeout=TIMEOUT)
    return thread


@needs_locks_of_workers
@pytest.mark.parametrize("second", ["callback", "wait", "outcome"])
def test_all_who_observe_a_call_as_its_worker_ends_are_told(
    monkeypatch: pytest.MonkeyPatch, lone: RetryingExecutor, release: Event, second: str
) -> None:
    """The second does not rely on the first, who still waits for the worker; counted once (A3, G1, G4)."""
    seen: list[str] = []
    came = Semaphore(0)
    future = running(lone, release, "text")
    worker = future._worker
    assert worker is not None
    monkeypatch.setattr(Held, "reached", Event())
    monkeypatch.setattr(Held, "go_on", Event())
    worker.lock = Door(worker.lock, came.release)  # type: ignore[assignment]
    worker.succeeded = Held()
    release.set()
    assert Held.reached.wait(TIMEOUT)  # it saw that nobody observes the call
    threads = [begin_to_observe(future, how, seen, came) for how in ("callback", second)]
    Held.go_on.set()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert "text" == future.result(TIMEOUT)
    assert ["callback"] * (1 + (second == "callback")) == seen
    assert 1 == lone.stats().submitted


@both
def test_only_the_executor_starts_a_call(executor: RetryingExecutor) -> None:
    """What executors of one's own do to a future would lose this one's call (G1)."""
    future = executor.submit(int)
    with pytest.raises(InvalidStateError, match="only the executor starts"):
        future.set_running_or_notify_cancel()
    assert 0 == future.result(TIMEOUT)


@both
def test_a_timeout_that_is_not_a_number_does_not_wait_for_ever(executor: RetryingExecutor) -> None:
    """As with the standard executor, the lock that is waited for decides what it makes of it (A3)."""
    release = Event()
    future = executor.submit(release.wait, TIMEOUT)
    with pytest.raises((TimeoutError, ValueError)):
        future.result(math.nan)
    release.set()
    assert future.result(TIMEOUT)


@both
def test_a_call_may_be_opened_again(executor: RetryingExecutor) -> None:
    """A lock at which a thread waits for it is released once; the second time is no error (F9)."""
    future, latch = executor.submit(int), threading.Lock()
    assert 0 == future.result(TIMEOUT)
    future.__dict__["_latches"], future._awaited = [latch], True
    latch.acquire()
    future._open()
    future._open()
    assert not latch.locked()
