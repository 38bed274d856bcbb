"""Users' code that uses the executor it runs in, wherever that is."""

from __future__ import annotations

import _thread
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, wait
from contextlib import contextmanager, suppress
from functools import partial
from threading import Barrier, Event, Thread
from typing import Any, NoReturn

import pytest

from calls import Flaky
from conftest import TIMEOUT, both
from forks import check_executor_works, in_child
from observe import eventually, needs_gil, resting, threads_named
from retrying_executor import PendingLimitError, RetryingExecutor, RetryingFuture, RetryPolicy, Upstream
from retrying_executor._calls.current import current
from retrying_executor._calls.schedule import Schedule
from retrying_executor._common.stdlib import is_held
from retrying_executor._threads import roster, threads
from retrying_executor._threads.roster import Roster, Worker
from retrying_executor.testing import VirtualTimeExecutor

LOGGER = logging.getLogger("retrying_executor")

Box = list[RetryingExecutor]
"""The only reference to an executor, so that emptying the box drops it."""


@contextmanager
def handling(emit: Callable[[logging.LogRecord], object]) -> Iterator[None]:
    """Have *emit* called for each record of the library's logger."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            emit(record)

    handler, level, propagate = Handler(), LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    try:
        yield
    finally:
        LOGGER.propagate = propagate
        LOGGER.setLevel(level)
        LOGGER.removeHandler(handler)


# -- each kind of users' code, and what it may do in there ------------------------------------------


class Thing:
    """An argument whose going away can be seen."""

    def __init__(self, on_end: Callable[[], object]) -> None:
        self.on_end = on_end

    def __del__(self) -> None:
        self.on_end()


def in_a_call(box: Box, act: Callable[[], object]) -> RetryingFuture[Any]:
    return box[0].submit(act)


def in_a_done_callback(box: Box, act: Callable[[], object]) -> RetryingFuture[Any]:
    added = Event()
    future = box[0].submit(added.wait, TIMEOUT)
    future.add_done_callback(lambda _: act())
    added.set()
    return future


def in_a_policy(box: Box, act: Callable[[], object]) -> RetryingFuture[Any]:
    return box[0].with_options(retry=lambda _: act() or 0).submit(Flaky())


def in_retry_on(box: Box, act: Callable[[], object]) -> RetryingFuture[Any]:
    policy = RetryPolicy(delays=(0,), retry_on=lambda _: act() or True)
    return box[0].with_options(retry=policy).submit(Flaky())


def in_retry_result(box: Box, act: Callable[[], object]) -> RetryingFuture[Any]:
    policy = RetryPolicy(delays=(0,), retry_result=lambda _: act())
    return box[0].with_options(retry=policy).submit(int)


def in_a_destructor(box: Box, act: Callable[[], object]) -> RetryingFuture[Any]:
    submitted = Event()
    future = box[0].submit(lambda _: submitted.wait(TIMEOUT), Thing(act))
    submitted.set()  # from here on nobody else refers to it
    return future


def in_a_finalizer(box: Box, act: Callable[[], object]) -> RetryingFuture[Any]:
    submitted = Event()
    thing = Thing(int)
    weakref.finalize(thing, act)
    future = box[0].submit(lambda _: submitted.wait(TIMEOUT), thing)
    del thing
    submitted.set()  # from here on nobody else refers to it
    return future


def in_a_logging_handler(box: Box, act: Callable[[], object]) -> RetryingFuture[Any]:
    with handling(lambda _: act()):
        future = box[0].submit(Flaky())
        assert wait([future], TIMEOUT).done
    return future


PLACES = [
    in_a_call,
    in_a_done_callback,
    in_a_policy,
    in_retry_on,
    in_retry_result,
    pytest.param(in_a_destructor, marks=needs_gil),
    pytest.param(in_a_finalizer, marks=needs_gil),
    in_a_logging_handler,
]


def drain(executor: RetryingExecutor) -> None:
    with pytest.raises(RuntimeError, match="would wait for itself"):
        executor.drain(TIMEOUT)


OPERATIONS: dict[str, Callable[[Box, RetryingFuture[Any]], object]] = {
    "submit": lambda box, _: box[0].submit(int),
    "cancel": lambda _, other: other.cancel(),
    "stats": lambda box, _: box[0].stats(),
    "drain": lambda box, _: drain(box[0]),
    "drop": lambda box, _: box.clear(),
    "shutdown": lambda box, _: box[0].shutdown(),
    "shutdown in time": lambda box, _: box[0].shutdown(timeout=0),
    "shutdown without waiting": lambda box, _: box[0].shutdown(wait=False),
    "shutdown and cancel": lambda box, _: box[0].shutdown(cancel_futures=True),
    "shutdown and cancel without waiting": lambda box, _: box[0].shutdown(wait=False, cancel_futures=True),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("place", PLACES)
def test_users_code_may_use_the_executor_that_runs_it(
    place: Callable[[Box, Callable[[], object]], RetryingFuture[Any]], operation: str
) -> None:
    """Wherever users' code runs, it may submit, cancel, drop or shut down, without deadlock (F7)."""
    todo = iter([OPERATIONS[operation]])  # once, however often it is called
    succeeded: list[object] = []
    acted = Event()

    def act() -> None:
        for operate in todo:
            try:
                operate(box, other)
                succeeded.append(operate)
            finally:
                acted.set()

    box = [RetryingExecutor(1, operation, retry=RetryPolicy(delays=(0, 0)), idle_timeout=0)]
    other = box[0].with_options(retry=lambda _: 3600).submit(Flaky())
    assert eventually(lambda: other.due_at)
    future = place(box, act)
    assert acted.wait(TIMEOUT)
    assert [OPERATIONS[operation]] == succeeded
    assert future.exception(TIMEOUT) is None or "cancel" in operation
    assert other.cancel()
    box.clear()
    assert eventually(lambda: not threads_named(operation))


def test_a_callback_of_the_failed_initializer_may_shut_down() -> None:
    """A done callback runs in a thread that is about to leave: shutdown() and drain() know it (C6, F7)."""
    errors: list[BaseException] = []
    submitted = Event()

    def initializer() -> None:
        assert submitted.wait(TIMEOUT)
        raise ValueError

    def callback(_: object) -> None:
        for method in (executor.shutdown, lambda: executor.drain(TIMEOUT)):
            try:
                method()
            except BaseException as error:
                errors.append(error)

    executor = RetryingExecutor(1, initializer=initializer)
    with handling(lambda _: None):
        executor.submit(int).add_done_callback(callback)
        last = executor.submit(int)
        submitted.set()
        assert last.exception(TIMEOUT) is not None
        executor.shutdown()
    assert ["drain() in one of the executor's own threads would wait for itself"] == [str(e) for e in errors]


# -- threads are started without a lock of ours, and what that takes (F7, G1, C7) ------------------


START = Thread.start


def in_another_thread(act: Callable[[], object]) -> Event:
    """Call *act* in a thread that starts whatever is said of others; return an event that tells its end."""
    ended = Event()
    START(Thread(target=lambda: (act(), ended.set())))
    return ended


def in_an_unknown_thread(act: Callable[[], object]) -> Event:
    """Call *act* in a thread that `threading` does not know, and return an event that tells its end."""
    ended = Event()
    _thread.start_new_thread(lambda: (act(), ended.set()), ())
    return ended


def fail(*_: object) -> NoReturn:
    """Stand for a system that has no more threads."""
    raise RuntimeError("can't start new thread")


def submit_or_not(executor: RetryingExecutor) -> None:
    """Submit a call which may be refused for want of threads."""
    with suppress(RuntimeError):
        executor.submit(int)


class Starts:
    """Stands for `Thread.start` of an executor's threads: the first fails or succeeds when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *results: bool) -> None:
        self.begun, self.may_end = Event(), Event()
        self._results = iter(results)
        monkeypatch.setattr(threading.Thread, "start", lambda thread: self(thread))

    def __call__(self, thread: Thread) -> None:
        if not self.begun.is_set():
            self.begun.set()
            assert self.may_end.wait(TIMEOUT)
        if not next(self._results, True):
            fail()
        START(thread)


@pytest.mark.parametrize("operation", ["submit", "cancel"])
def test_a_destructor_in_a_newborn_thread_may_use_the_executor(
    monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """The collector may run it before the thread says that it runs, which its starter waits for (F7, G1)."""
    set_ident = Thread._set_ident  # type: ignore[attr-defined]  # what it does first
    acted: list[object] = []
    todo = iter([OPERATIONS[operation]])  # once
    executor = RetryingExecutor(2, "newborn", retry=lambda _: 3600)
    other = executor.submit(Flaky())
    assert eventually(lambda: other.due_at and resting(executor))
    monkeypatch.setattr(
        Thread,
        "_set_ident",
        lambda thread: (
            acted.extend(do([executor], other) for do in (todo if "newborn" in thread.name else ())),
            set_ident(thread),
        ),
    )
    assert in_another_thread(lambda: [executor.submit(Event().wait, 0.01) for _ in range(2)]).wait(TIMEOUT)
    assert eventually(lambda: acted)
    executor.shutdown(cancel_futures=True)


def test_a_destructor_under_the_locks_of_threading_may_submit() -> None:
    """It may interrupt a thread that ends, while another waits for the same lock to start one (F7, G1)."""
    futures: list[RetryingFuture[int]] = []
    with RetryingExecutor(2) as executor:
        with threading._active_limbo_lock:  # type: ignore[attr-defined]  # of which the standard library has several
            ended = in_an_unknown_thread(lambda: futures.append(executor.submit(int)))
            assert eventually(lambda: executor._core.crew.roster.newborns)
            futures.append(executor.submit(int))
        assert ended.wait(TIMEOUT)
        assert [0, 0] == [future.result(TIMEOUT) for future in futures]


def test_a_thread_that_is_not_known_to_threading_is_not_made_known_under_a_lock() -> None:
    """To ask who it is would take a lock of `threading` while it holds that of the pool (F7)."""
    with RetryingExecutor(1, max_pending=1, when_full="wait") as executor:
        release = Event()
        executor.submit(release.wait, TIMEOUT)
        with threading._active_limbo_lock:  # type: ignore[attr-defined]
            assert in_an_unknown_thread(lambda: executor.drain(0)).wait(TIMEOUT)
            ended = in_an_unknown_thread(lambda: executor.submit(int))
            assert eventually(lambda: executor._core.entrance._in_line)
        release.set()
        assert ended.wait(TIMEOUT)


def test_no_thread_is_started_or_looked_at_under_a_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both may take a lock of `threading`, and to start one may run any destructor (F7, G1)."""
    held: list[str] = []

    def watched(method: Callable[[Thread], Any]) -> Callable[[Thread], Any]:
        def watch(thread: Thread) -> Any:
            hand = current.hand
            is_bad = is_held(pool.lock) or (hand is not None and is_held(hand.lock))
            held.extend([method.__name__] * is_bad)
            return method(thread)

        return watch

    for name in ("start", "is_alive"):
        monkeypatch.setattr(Thread, name, watched(getattr(Thread, name)))
    executor = RetryingExecutor(3, retry=lambda _: 0.0, idle_timeout=0, initializer=int)
    pool = executor._core
    both = Barrier(2)

    def submit_under_my_lock() -> RetryingFuture[int]:
        hand = current.hand
        assert hand is not None
        with hand.lock:  # as a destructor would that interrupts a worker there
            return executor.submit(both.wait, TIMEOUT)

    for _ in range(2):
        with pool.lock:
            first = executor.submit(both.wait, TIMEOUT)
        second = executor.submit(submit_under_my_lock).result(TIMEOUT)
        assert {0, 1} == {first.result(TIMEOUT), second.result(TIMEOUT)}
        assert 1 == executor.submit(Flaky()).result(TIMEOUT)
    executor.shutdown()
    assert [] == held


def test_a_destructor_that_submits_under_the_lock_is_refused_if_no_thread_can_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It leaves the start to another thread; without that its call never runs, and later ones do (C7, G1)."""
    with RetryingExecutor(1) as executor:
        with monkeypatch.context() as patch, executor._core.lock:
            patch.setattr(threads, "start_thread", fail)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                executor.submit(int)
        assert 0 == executor.stats().submitted
        assert 0 == executor.submit(int).result(TIMEOUT)


def test_a_call_is_refused_if_there_is_no_memory_for_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not started, and not even made: submit() raises (C7, G1)."""
    with RetryingExecutor(1) as executor:
        with monkeypatch.context() as patch:
            patch.setattr(roster, "Worker", fail)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                executor.submit(int)
        assert 0 == executor.submit(int).result(TIMEOUT)


def test_a_destructor_that_holds_what_new_threads_need_may_submit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Python 3.13 no start returns before that lock is free, so who may hold it starts none (F7)."""
    lock = getattr(threading, "_shutdown_locks_lock", None) or threading.Lock()
    monkeypatch.setattr(threading, "_shutdown_locks_lock", lock, raising=False)
    with RetryingExecutor(1) as executor:
        with lock:
            future = executor.submit(int)
        assert 0 == future.result(TIMEOUT)


def test_what_starts_threads_waits_for_the_lock_that_they_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is one of it, however long that takes: it does not start another to try again (C2, F7)."""
    starters: list[Callable[[], object]] = []
    lock = getattr(threading, "_shutdown_locks_lock", None) or threading.Lock()
    monkeypatch.setattr(threading, "_shutdown_locks_lock", lock, raising=False)
    monkeypatch.setattr(threads, "start_thread", starters.append)
    monkeypatch.setattr(threads, "_ARRIVAL_TIMEOUT", 0.001)
    with RetryingExecutor(1) as executor:
        with lock:
            future = executor.submit(int)
            [start] = starters
            [newborn] = executor._core.crew.roster.newborns
            ended = in_an_unknown_thread(start)
            assert eventually(lambda: newborn.is_starting)
        assert 0 == future.result(TIMEOUT)
        assert ended.wait(TIMEOUT)
    assert [start] == starters


def test_a_call_whose_thread_cannot_be_started_tries_for_one_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A submitter that finds a thread on its way to be started learns that it could not be (C7, G1)."""

    def has_come(core: Any, helper: Worker, call: RetryingFuture[object]) -> bool:
        starts.may_end.set()
        return wait_for(core, helper, call)

    monkeypatch.setattr(threads, "_ARRIVAL_TIMEOUT", TIMEOUT)
    with RetryingExecutor(2) as executor:
        executor._core.crew.roster.is_starved = True  # as if another start had failed before
        wait_for = executor._core.crew._has_come
        starts = Starts(monkeypatch, False)
        ended = in_another_thread(lambda: submit_or_not(executor))
        assert starts.begun.wait(TIMEOUT)
        monkeypatch.setattr(executor._core.crew, "_has_come", has_come)
        assert 0 == executor.submit(int).result(TIMEOUT)
        assert ended.wait(TIMEOUT)
        assert executor.stats().submitted in (1, 2)  # the other call too, if the new thread was fast


@pytest.mark.parametrize("is_starved", [False, True])
@pytest.mark.parametrize("results", [(False, True), (False, False)])
def test_a_call_that_could_not_wait_for_a_start_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, results: tuple[bool, bool], *, is_starved: bool
) -> None:
    """Where the thread that another submitter starts fails to, another is tried, or the call fails (C7)."""
    monkeypatch.setattr(threads, "_ARRIVAL_TIMEOUT", 0.001)
    with RetryingExecutor(2) as executor:
        executor._core.crew.roster.is_starved = is_starved
        starts = Starts(monkeypatch, *results)
        ended = in_another_thread(lambda: submit_or_not(executor))
        assert starts.begun.wait(TIMEOUT)
        future = executor.submit(bool)
        starts.may_end.set()
        assert ended.wait(TIMEOUT)
        if results[-1]:
            assert future.result(TIMEOUT) is False
        else:
            with pytest.raises(RuntimeError, match="can't start new thread"):
                future.result(TIMEOUT)
        assert executor.stats().submitted in (1, 1 + results[-1])  # the other call too, if that was fast
        assert eventually(lambda: not executor._core.crew._on_credit)


def test_a_thread_that_cannot_be_started_leaves_the_calls_to_one_that_came_to_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While a thread is being started, others go on, rest, and are woken as always (C4, C7)."""
    release = Event()
    with RetryingExecutor(2, idle_timeout=None) as executor:
        busy = executor.submit(release.wait, TIMEOUT)
        starts = Starts(monkeypatch, False)
        ended = in_another_thread(lambda: executor.submit(int))
        assert starts.begun.wait(TIMEOUT)
        release.set()
        assert busy.result(TIMEOUT)
        assert eventually(lambda: resting(executor))
        assert 0 == executor.submit(int).result(TIMEOUT)
        starts.may_end.set()
        assert ended.wait(TIMEOUT)
        assert 1 == executor.stats().threads


def test_a_thread_may_be_at_work_before_its_start_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as started then, and is not waited for any more (C1)."""
    done, start = Event(), Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda one: (start(one), done.wait(TIMEOUT)))
    with RetryingExecutor(1, idle_timeout=None) as executor:
        executor.submit(done.set)
        assert eventually(lambda: resting(executor))
        assert not executor._core.crew.roster.newborns
        assert 0 == executor.submit(int).result(TIMEOUT)


def test_a_thread_whose_start_has_returned_is_on_its_way() -> None:
    """Until it arrives no other is called, and nobody was to rely on it before (C1, C7)."""
    release = Event()
    crew = Roster(size=2, name="crew", daemon=False, lock=threading.RLock())
    crew.summon(lambda _: release.wait(TIMEOUT))
    (worker,) = crew.newborns
    assert crew.on_the_way is None
    assert crew.can_summon
    for _ in range(2):  # the second time as by a thread that has found it too
        crew.start(worker)
    assert crew.on_the_way is worker
    assert not crew.can_summon
    crew.arrive(worker)
    assert crew.on_the_way is None
    release.set()


def test_a_thread_that_comes_to_life_after_its_start_was_interrupted_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It runs the initializer, if that is what it finds first, and takes no call (F9, C1)."""
    threads: list[Thread] = []

    def interrupted(thread: Thread) -> NoReturn:
        threads.append(thread)
        raise KeyboardInterrupt

    with RetryingExecutor(1, initializer=int) as executor:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                executor.submit(int)
        START(threads[0])
        threads[0].join(TIMEOUT)
        assert not threads[0].is_alive()
        assert (0, 0) == (executor.stats().submitted, executor.stats().threads)


@pytest.mark.parametrize("goes_on", ["submit", "shutdown"])
def test_a_start_that_an_interrupt_prevented_is_made_up_for(
    monkeypatch: pytest.MonkeyPatch, goes_on: str
) -> None:
    """A signal handler may raise between deciding on a thread and starting it: others go on (F9, G1)."""

    def interrupted(_: object) -> NoReturn:
        raise KeyboardInterrupt

    with RetryingExecutor(1) as executor:
        with monkeypatch.context() as patch:
            patch.setattr(executor._core.crew, "start_newborns", interrupted)
            with pytest.raises(KeyboardInterrupt):
                executor.submit(int)
        assert 0 == executor.stats().submitted
        if goes_on == "submit":
            assert 0 == executor.submit(int).result(TIMEOUT)


def test_an_interrupted_start_leaves_no_thread_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler that raises in `Thread.start` costs that thread only: should it run, it goes (F9)."""
    start = Thread.start

    def interrupted(thread: Thread) -> NoReturn:
        monkeypatch.setattr(threading.Thread, "start", start)
        raise KeyboardInterrupt

    with RetryingExecutor(1) as executor:
        monkeypatch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            executor.submit(int)
        assert (0, 0) == (executor.stats().submitted, executor.stats().threads)
        assert 0 == executor.submit(int).result(TIMEOUT)


def test_shutdown_waits_for_a_thread_that_is_being_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes up its call, unless time is up (F1, F3)."""
    starts = Starts(monkeypatch)
    executor = RetryingExecutor(1)
    futures: list[RetryingFuture[int]] = []
    ended = in_another_thread(lambda: futures.append(executor.submit(int)))
    assert starts.begun.wait(TIMEOUT)
    with handling(lambda _: starts.may_end.set()):
        executor.shutdown(timeout=0.01)
        executor.shutdown()
    assert ended.wait(TIMEOUT)
    assert futures[0].cancelled()
    assert 0 == executor.stats().threads


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows knows no fork")
def test_a_fork_while_a_thread_is_being_started_disturbs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child has an executor without it, and the parent goes on (F6)."""
    futures: list[RetryingFuture[int]] = []
    with RetryingExecutor(1) as executor:
        with monkeypatch.context() as patch:
            starts = Starts(patch)
            ended = in_another_thread(lambda: futures.append(executor.submit(int)))
            assert starts.begun.wait(TIMEOUT)
            in_child(lambda: check_executor_works(executor))
            starts.may_end.set()
            assert ended.wait(TIMEOUT)
        assert 0 == futures[0].result(TIMEOUT)


# -- starts that fail, and who has relied on them ------------------------------------------------


class HeldStart:
    """Stands for `Thread.start` of workers: when armed, the next one waits, and then raises."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, error: BaseException, *, for_good: bool = False
    ) -> None:
        self.start, self.error, self.for_good = Thread.start, error, for_good
        self.is_armed = False
        self.entered, self.go_on = Event(), Event()
        monkeypatch.setattr(Thread, "start", lambda thread: self(thread))

    def __call__(self, thread: Thread) -> None:
        if self.is_armed and thread.name.startswith("starved"):
            self.is_armed = self.for_good
            self.entered.set()
            assert self.go_on.wait(TIMEOUT)
            raise self.error
        self.start(thread)


def test_whoever_relied_on_a_start_that_was_interrupted_gets_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Although another worker is busy, which would take the call too late (C4, F9)."""
    release = Event()
    starts = HeldStart(monkeypatch, KeyboardInterrupt())
    executor = RetryingExecutor(3, "starved")
    busy = executor.submit(release.wait, TIMEOUT)
    assert eventually(busy.running)
    starts.is_armed = True

    def submit() -> None:
        with pytest.raises(KeyboardInterrupt):
            executor.submit(int)

    other = Thread(target=submit)
    other.start()
    assert starts.entered.wait(TIMEOUT)
    future = executor.submit(int)
    starts.go_on.set()
    assert 0 == future.result(TIMEOUT)
    other.join(TIMEOUT)
    release.set()
    executor.shutdown()


def test_a_done_callback_that_raises_keeps_no_other_call_from_failing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All who have relied on a start that failed are told, and shutdown() returns (C7, F1, G1)."""
    starts = HeldStart(monkeypatch, RuntimeError("can't start new thread"), for_good=True)
    executor = RetryingExecutor(3, "starved")
    starts.is_armed = True
    raised: list[BaseException] = []

    def submit() -> None:
        try:
            executor.submit(int)
        except BaseException as error:
            raised.append(error)

    def leave(_: object) -> NoReturn:
        raise SystemExit(3)

    other = Thread(target=submit)
    other.start()
    assert starts.entered.wait(TIMEOUT)
    futures = [executor.submit(int) for _ in range(2)]
    futures[0].add_done_callback(leave)
    starts.go_on.set()
    other.join(TIMEOUT)
    for future in futures:
        assert "can't start new thread" in str(future.exception(TIMEOUT))
    executor.shutdown()
    assert [SystemExit] == [type(error) for error in raised]


def test_a_call_that_runs_is_not_failed_for_want_of_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A done callback of the first that fails submits again, and that start works (B3, C7)."""
    starts = HeldStart(monkeypatch, RuntimeError("can't start new thread"), for_good=True)
    executor = RetryingExecutor(3, "starved")
    starts.is_armed = True

    def submit() -> None:
        with suppress(RuntimeError):
            executor.submit(int)

    def submit_again(_: object) -> None:
        starts.is_armed = False
        executor.submit(int).result(TIMEOUT)

    other = Thread(target=submit)
    other.start()
    assert starts.entered.wait(TIMEOUT)
    first, second = executor.submit(int), executor.submit(int, "7")
    first.add_done_callback(submit_again)
    starts.go_on.set()
    other.join(TIMEOUT)
    assert isinstance(first.exception(TIMEOUT), RuntimeError)
    assert 7 == second.result(TIMEOUT)
    executor.shutdown()


def test_a_thread_that_comes_to_life_late_runs_no_initializer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its start was interrupted, so it is no worker: a later call has a thread of its own (C7, G1)."""
    start, late = Thread.start, []

    def interrupted(thread: Thread) -> None:
        if thread.name.startswith("late") and not late:
            late.append(thread)
            raise KeyboardInterrupt
        start(thread)

    monkeypatch.setattr(Thread, "start", interrupted)
    initialized: list[str] = []
    executor = RetryingExecutor(
        1, "late", initializer=lambda: initialized.append(threading.current_thread().name)
    )
    with pytest.raises(KeyboardInterrupt):
        executor.submit(int)
    start(late[0])
    late[0].join(TIMEOUT)
    assert [] == initialized
    assert 0 == executor.submit(int).result(TIMEOUT)
    executor.shutdown()
    assert 1 == len(initialized)


class Amid:
    """Stands for a latch of a call: what opening it does is done in the middle of what its worker does.

    Args:
        act: What that is.
    """

    def __init__(self, act: Callable[[], object]) -> None:
        self.release = act


@needs_gil
@pytest.mark.parametrize("options", [{}, {"max_pending": 10}], ids=["no limit", "a limit"])
@pytest.mark.parametrize("is_full", [False, True], ids=["room", "no room"])
def test_a_destructor_in_the_middle_of_what_a_worker_does_waits_for_nobody(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], *, is_full: bool
) -> None:
    """It may submit and cancel while another thread waits for that worker, which is not held up (E1, F7)."""
    monkeypatch.setattr(threads, "_STANDSTILL_TIMEOUT", 10 * TIMEOUT)
    release, inside, asks = Event(), Event(), Event()
    answers: list[Any] = []

    def act() -> None:
        inside.set()
        assert asks.wait(TIMEOUT)
        answers.append(waiting.cancel())
        others.extend(executor.submit(int) for _ in range(is_full))  # for which there is room again
        try:
            answers.append(executor.submit(int, 7))
        except PendingLimitError as error:
            answers.append(error)

    with RetryingExecutor(1, retry=RetryPolicy(delays=[600]), **options) as executor:
        waiting = executor.submit(fail)
        assert eventually(lambda: waiting.due_at)
        future = executor.submit(release.wait, TIMEOUT)
        others = [executor.submit(int) for _ in range(8 if is_full else 0)]
        future.__dict__["_latches"] = [Amid(act)]
        future._awaited = True
        release.set()
        assert inside.wait(TIMEOUT)
        with executor._core.lock:  # as stats() does
            asks.set()
            executor._core.crew.at_standstill(bool)
            is_cancelled, submitted = answers
        assert not is_cancelled
        assert eventually(waiting.cancelled)
        if is_full and options:
            assert "10 calls are pending, as many as max_pending allows" == str(submitted)
        else:
            assert 7 == submitted.result(TIMEOUT)
        assert [0] * len(others) == [other.result(TIMEOUT) for other in others]


@needs_gil
def test_a_destructor_in_the_middle_of_what_a_worker_does_may_use_another_executor() -> None:
    """Its threads are started, and calls are cancelled, as from anywhere else (E1, F7, G1)."""
    answers: list[Any] = []
    told, release = Event(), Event()

    def act() -> None:
        answers.extend((waiting.cancel(), other.submit(int, 7)))
        told.set()

    with (
        RetryingExecutor(1) as executor,
        RetryingExecutor(1, retry=RetryPolicy(delays=[600]), idle_timeout=0) as other,
    ):
        waiting = other.submit(fail)
        assert eventually(lambda: waiting.due_at)
        future = executor.submit(release.wait, TIMEOUT)
        future.__dict__["_latches"] = [Amid(act)]
        future._awaited = True
        release.set()
        assert told.wait(TIMEOUT)
        is_cancelled, submitted = answers
        assert is_cancelled
        assert waiting.cancelled()
        assert 7 == submitted.result(TIMEOUT)


# -- what cannot be done right now, in a thread that has a lock, is put off (E1, F7) ---------------

UNDER_THE_LOCK: dict[str, Callable[[RetryingExecutor, RetryingFuture[int]], object]] = {
    "cancel": lambda _, waiting: waiting.cancel(),
    "set_result": lambda _, waiting: waiting.set_result(7),
    "set_exception": lambda _, waiting: waiting.set_exception(ValueError()),
    "shutdown": lambda executor, _: executor.shutdown(cancel_futures=True),
    "shutdown in time": lambda executor, _: executor.shutdown(timeout=TIMEOUT, cancel_futures=True),
    "resume": lambda view, _: view._terms.upstreams[0].resume(),
}


@both
@pytest.mark.parametrize("operation", UNDER_THE_LOCK)
def test_what_a_destructor_wants_in_a_thread_that_has_the_lock_is_done_afterwards(
    executor: RetryingExecutor, operation: str
) -> None:
    """Nothing changes as long as that thread is in the middle of something, and it waits for nobody (F7)."""
    service, told = Upstream("service"), Event()
    held = executor.with_options(upstream=service)
    service.pause()
    waiting = held.submit(int)
    assert eventually(lambda: 1 == executor.stats().held or isinstance(executor, VirtualTimeExecutor))
    waiting.add_done_callback(lambda _: told.set())
    with executor._core.lock:
        assert not UNDER_THE_LOCK[operation](held if operation == "resume" else executor, waiting)
        assert not waiting.done()
        assert ([], False) == (executor._core.untried(), executor._core.take_out(waiting))
    assert wait([waiting], TIMEOUT).done
    assert told.wait(TIMEOUT)
    stats = executor.stats()
    assert 1 == stats.submitted == stats.succeeded + stats.failed + stats.cancelled
    executor.shutdown()
    assert eventually(lambda: not threads_named(f"{executor._core.name}-catch-up"))


@both
def test_a_thread_that_has_the_lock_cannot_wait_for_the_calls(executor: RetryingExecutor) -> None:
    """It would keep them from being made: drain() says so, and shutdown() does not wait (F1, F3)."""
    with executor._core.lock:
        future = executor.submit(int)
        with pytest.raises(RuntimeError, match="would wait for itself"):
            executor.drain(TIMEOUT)
        executor.shutdown()
    assert 0 == future.result(TIMEOUT)


def test_what_was_put_off_is_done_by_a_worker_where_no_thread_can_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It does so when it looks for calls, before it rests (C7, E1)."""
    with RetryingExecutor(1, retry=lambda _: 3600, idle_timeout=None) as executor:
        waiting = executor.submit(Flaky())
        assert eventually(lambda: waiting.due_at and resting(executor))
        with monkeypatch.context() as patch, executor._core.lock:
            patch.setattr(threads, "start_thread", fail)
            assert not waiting.cancel()
        assert not waiting.cancelled()
        assert 0 == executor.submit(int).result(TIMEOUT)
        assert eventually(waiting.cancelled)


@pytest.mark.parametrize("where", ["take", "rest"])
def test_a_worker_does_what_was_put_off_before_it_rests(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """A destructor interrupts it as it looks for calls, or as it is about to rest for an hour (E1)."""
    answers: list[bool] = []
    with RetryingExecutor(1, retry=lambda _: 3600, idle_timeout=None) as executor:
        waiting = executor.submit(Flaky())
        assert eventually(lambda: waiting.due_at and resting(executor))
        owner: Any = {"take": executor._core.turns, "rest": executor._core.crew.roster}[where]
        method = getattr(owner, where)

        def interrupted(*args: Any) -> Any:
            if not answers:
                answers.append(waiting.cancel())
            return method(*args)

        monkeypatch.setattr(owner, where, interrupted)
        assert 0 == executor.submit(int).result(TIMEOUT)
        assert eventually(waiting.cancelled)
    assert [False] == answers


def test_what_was_put_off_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several threads may catch up at the same time (E1)."""
    done: list[int] = []
    with RetryingExecutor(1) as executor:
        pool = executor._core
        monkeypatch.setattr(pool.crew, "see_to_put_off", lambda _: None)
        for number in range(1000):
            pool._put_off(partial(done.append, number))
        ended = [in_another_thread(pool.catch_up) for _ in range(4)]
        assert all(end.wait(TIMEOUT) for end in ended)
    assert [*range(1000)] == sorted(done)


def test_a_call_in_the_middle_of_an_attempt_is_cancelled_at_once_where_that_is_put_off() -> None:
    """The attempt may take long, so another thread does what its worker could not (E1, E2)."""
    cancelled: list[bool] = []
    with RetryingExecutor(1) as executor:

        def call() -> None:
            with executor._core.lock:
                assert not waiting.cancel()
            cancelled.append(eventually(waiting.cancelled))

        submitted = Event()
        running = executor.submit(lambda: (submitted.wait(TIMEOUT), call()))
        waiting = executor.submit(int)
        submitted.set()
        running.result(TIMEOUT)
    assert [True] == cancelled


def test_what_a_callback_of_another_call_raises_is_no_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker may cancel what was put off when it has taken its next call (B3, E1)."""

    def leave(_: object) -> NoReturn:
        raise SystemExit

    with RetryingExecutor(1, retry=lambda _: 3600, idle_timeout=None) as executor:
        waiting = executor.submit(Flaky())
        assert eventually(lambda: waiting.due_at and resting(executor))
        waiting.add_done_callback(leave)
        with monkeypatch.context() as patch, executor._core.lock:
            patch.setattr(threads, "start_thread", fail)
            assert not waiting.cancel()
        assert 0 == executor.submit(int).result(TIMEOUT)
        assert eventually(waiting.cancelled)


@needs_gil
def test_a_future_that_goes_between_two_calls_may_use_the_executor() -> None:
    """Its weakref callback runs when its worker has nothing in the middle of which it could be (F7, G4)."""
    answers: list[Any] = []
    release = Event()
    with RetryingExecutor(1) as executor:
        first = executor.submit(release.wait, TIMEOUT)
        last = executor.submit(int, 7)
        weakref.finalize(first, lambda: answers.extend((executor.stats(), current.hand)))
        del first
        release.set()
        assert 7 == last.result(TIMEOUT)
        assert eventually(lambda: len(answers) == 2)
        stats, worker = answers
        assert 2 == stats.submitted
        assert worker is not None


def test_a_callback_may_wait_for_a_submitter_that_waits_for_room() -> None:
    """There is room as soon as the call is done, before its callbacks have run (F7, G5)."""
    submitted, told = Event(), Event()
    with RetryingExecutor(2, max_pending=1, when_full="wait") as executor:
        release = Event()
        executor.submit(release.wait, TIMEOUT).add_done_callback(
            lambda _: told.set() if submitted.wait(TIMEOUT) else None
        )
        ended = in_another_thread(lambda: (executor.submit(int), submitted.set()))
        assert eventually(lambda: executor._core.entrance._in_line)
        release.set()
        assert told.wait(TIMEOUT)
        assert ended.wait(TIMEOUT)


def test_a_thread_that_has_the_lock_of_an_upstream_does_not_wait_for_room() -> None:
    """A destructor may interrupt it there, and the calls before its own need that lock (F7, G5)."""
    service = Upstream("service")
    with RetryingExecutor(1, upstream=service, max_pending=1, when_full="wait") as executor:
        release = Event()
        executor.submit(release.wait, TIMEOUT)
        with service._places._lock, pytest.raises(PendingLimitError, match="as many as max_pending allows"):
            executor.submit(int)
        release.set()


@needs_gil
def test_what_a_callback_raises_that_was_put_off_is_no_outcome_of_the_next_call() -> None:
    """The worker has taken that already when it catches up (B3, E1)."""

    def leave(_: object) -> NoReturn:
        raise SystemExit

    release = Event()
    with RetryingExecutor(1, retry=lambda _: 3600) as executor:
        waiting = executor.submit(Flaky())
        assert eventually(lambda: waiting.due_at)
        waiting.add_done_callback(leave)
        first, second = executor.submit(release.wait, TIMEOUT), executor.submit(int, 7)
        first.__dict__["_latches"] = [Amid(waiting.cancel)]
        first._awaited = True
        release.set()
        assert 7 == second.result(TIMEOUT)
        assert waiting.cancelled()


def test_a_wait_in_virtual_time_does_what_was_put_off_before_time_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A destructor may cancel a call as the wait looks when that is due (E1, F7)."""
    first_due_at = Schedule.first_due_at
    executor = VirtualTimeExecutor(retry=lambda _: 3600)
    waiting = executor.submit(Flaky())
    executor.advance(0)

    def interrupted(schedule: Schedule) -> float | None:
        waiting.cancel()
        return first_due_at(schedule)

    monkeypatch.setattr(Schedule, "first_due_at", interrupted)
    with pytest.raises(CancelledError):
        waiting.result()
    assert 0.0 == executor.monotonic()
