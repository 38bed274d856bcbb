"""Waiting that is interrupted: by Ctrl-C, or by a signal handler that raises."""

from __future__ import annotations

import _thread
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from typing import Any, NoReturn

import pytest

from conftest import TIMEOUT
from observe import eventually, needs_locks_of_workers, resting
from retrying_executor import RetryingExecutor, RetryingFuture, Upstream
from retrying_executor._calls import schedule
from retrying_executor._calls.ledger import Ledger
from retrying_executor._calls.schedule import Schedule
from retrying_executor._common.stdlib import is_held
from retrying_executor._core.core import Core
from retrying_executor._core.settling import Settling
from retrying_executor._threads import threads
from retrying_executor._upstream.gate import Gate, Permit
from retrying_executor._upstream.places import Places


@pytest.fixture
def executor() -> Iterator[RetryingExecutor]:
    with RetryingExecutor(1, retry=None) as executor:
        yield executor


@pytest.mark.parametrize("ask", [RetryingFuture.result, RetryingFuture.exception])
def test_others_get_the_result_that_an_interrupted_thread_has_waited_for(
    executor: RetryingExecutor, ask: Callable[[RetryingFuture[int]], object]
) -> None:
    """An interrupted wait hangs nobody else who waits for the same call (F9)."""
    go = threading.Event()

    def call() -> int:
        assert go.wait(TIMEOUT)
        _thread.interrupt_main()
        return 1

    future = executor.submit(call)
    with ThreadPoolExecutor(3) as others:
        results = [others.submit(future.result, TIMEOUT) for _ in range(3)]
        assert eventually(lambda: len(future.__dict__.get("_latches", ())) == 3)
        with pytest.raises(KeyboardInterrupt):  # while it waits, or right before or after
            raise AssertionError((go.set(), ask(future), eventually(lambda: False)))
        assert [1, 1, 1] == [result.result(TIMEOUT) for result in results]
    assert eventually(lambda: not future.__dict__["_latches"])


class Interrupting:
    """The condition of a call; once, in a thread that is not a worker, it waits for an event and raises."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event
        self.is_over = False

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread() and not self.is_over:
            self.is_over = True
            assert self.event.wait(TIMEOUT)
            raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    "change", [RetryingFuture.cancel, lambda future: future.set_result(1)], ids=["cancel", "set_result"]
)
def test_an_interruption_leaves_to_a_worker_what_the_worker_does(
    executor: RetryingExecutor, change: Callable[[RetryingFuture[bool]], object]
) -> None:
    """If the worker makes the call done meanwhile, it alone runs the callbacks, one after the other (F9)."""
    release, begun, go = threading.Event(), threading.Event(), threading.Event()
    threads: list[str] = []

    def first(_: object) -> None:
        begun.set()
        assert go.wait(TIMEOUT)

    future = executor.submit(release.wait, TIMEOUT)
    future.add_done_callback(first)
    future.add_done_callback(lambda _: threads.append(threading.current_thread().name))
    future.__dict__["_condition"] = Interrupting(begun)
    release.set()
    with pytest.raises(KeyboardInterrupt):
        change(future)
    assert [] == threads
    go.set()
    executor.shutdown()
    assert [f"{executor._core.name}_0"] == threads


def test_all_are_told_of_a_call_whose_cancellation_is_interrupted(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be cancelled already: then callbacks run, and others wait no longer (F9)."""

    def cancel(ledger: Ledger, call: RetryingFuture[int]) -> NoReturn:
        assert take_out(ledger, call)
        raise KeyboardInterrupt

    take_out = Ledger.cancel
    release, told = threading.Event(), list[object]()
    executor.submit(release.wait, TIMEOUT)
    future = executor.submit(int)
    future.add_done_callback(told.append)
    with ThreadPoolExecutor(1) as other:
        waits = other.submit(wait, [future], TIMEOUT)
        assert eventually(lambda: future._waiters)
        monkeypatch.setattr(Ledger, "cancel", cancel)
        with pytest.raises(KeyboardInterrupt):
            future.cancel()
        assert {future} == waits.result(TIMEOUT).done
    assert [future] == told
    release.set()


def test_calls_that_are_held_start_after_an_interrupted_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that is kept for an executor which never learned of it is given to another (F9, G1)."""
    look_again = Core.look_again

    def interrupted(core: Core, places: Places, opens_at: float) -> NoReturn:
        monkeypatch.setattr(Core, "look_again", look_again)
        raise KeyboardInterrupt

    service = Upstream("service")
    service.pause()
    with RetryingExecutor(1, upstream=service) as one, RetryingExecutor(1, upstream=service) as other:
        futures = [executor.submit(int) for executor in (one, other)]
        assert eventually(lambda: one.stats().held == other.stats().held == 1)
        monkeypatch.setattr(Core, "look_again", interrupted)
        with pytest.raises(KeyboardInterrupt):
            service.resume()
        assert [0, 0] == [future.result(TIMEOUT) for future in futures]


def interrupt_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, after: bool = False) -> None:
    """Have a method raise ``KeyboardInterrupt`` the first time, before or after what it does."""
    method, left = getattr(owner, name), [KeyboardInterrupt]

    def interrupted(*args: object, **kwargs: object) -> object:
        if not left:
            return method(*args, **kwargs)
        if after:
            method(*args, **kwargs)
        raise left.pop()

    monkeypatch.setattr(owner, name, interrupted)


@pytest.mark.parametrize("change", [Upstream.resume, lambda service: service.pause(0)])
def test_an_interruption_before_anybody_is_told_holds_no_call(
    change: Callable[[Upstream], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who wait are told even if pause() or resume() is interrupted before that (F9, G1)."""
    service = Upstream("service")
    service.pause()
    with RetryingExecutor(1, upstream=service) as executor:
        future = executor.submit(int)
        assert eventually(lambda: executor.stats().held == 1 and resting(executor))
        interrupt_once(monkeypatch, Gate, "open_at")
        with pytest.raises(KeyboardInterrupt):
            change(service)
        assert 0 == future.result(TIMEOUT)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("owner", "name"), [(threads.Threads, "_stop"), (threads, "_let_go_on")])
def test_an_interruption_leaves_no_worker_locked(
    executor: RetryingExecutor, owner: Any, name: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers go on if stats() is interrupted when it has stopped them, or lets them go on (F9)."""
    assert 0 == executor.submit(int).result(TIMEOUT)
    interrupt_once(monkeypatch, owner, name, after=after)
    with pytest.raises(KeyboardInterrupt):
        executor.stats()
    (worker,) = executor._core.crew.roster.members
    assert not is_held(worker.lock)
    assert 0 == executor.submit(int).result(TIMEOUT)


@needs_locks_of_workers
def test_an_interruption_right_after_a_worker_was_locked_leaves_it_unlocked(
    executor: RetryingExecutor,
) -> None:
    """A handler may raise before the thread that took the lock has taken note of that (F9)."""

    class Lock:
        def acquire(self, timeout: float) -> NoReturn:
            lock.acquire(timeout=timeout)
            raise KeyboardInterrupt

        def release(self) -> None:
            lock.release()

        def _is_owned(self) -> bool:
            return is_held(lock)

    assert 0 == executor.submit(int).result(TIMEOUT)
    (worker,) = executor._core.crew.roster.members
    lock, worker.lock = worker.lock, Lock()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        executor.stats()
    worker.lock = lock
    assert not is_held(lock)


def test_an_interrupted_wait_for_room_leaves_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits after it gets the room that there is then (F9, G5)."""
    go = threading.Event()
    with RetryingExecutor(1, max_pending=1, when_full="wait") as executor:
        first = executor.submit(go.wait, TIMEOUT)
        pool = executor._core

        class Latch:
            def acquire(self) -> NoReturn:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(pool, "make_latch", lambda _: Latch())
            with pytest.raises(KeyboardInterrupt):
                executor.submit(int)
        assert (False, set()) == (is_held(pool.lock), pool.entrance._in_line)
        go.set()
        assert first.result(TIMEOUT)
        assert 0 == executor.submit(int).result(TIMEOUT)


@pytest.mark.parametrize("name", ["decline", "take_back"])
def test_an_interrupted_end_keeps_no_place(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places are given back even if shutdown() is interrupted while it does so (F9, U4)."""
    service, other = Upstream("service"), Upstream("other")._places
    executor = RetryingExecutor(1, upstream=service)
    pool = executor._core
    permit = service._places.ask(pool)
    assert isinstance(permit, Permit)
    pool.turns.unused.append(
        permit
    )  # as if a call had been cancelled at the very moment when it was taken up
    pool.turns.invitations[other] = None
    other._invited[pool] = 1
    interrupt_once(monkeypatch, Places, name, after=True)
    with pytest.raises(KeyboardInterrupt):
        executor.shutdown(cancel_futures=True)
    assert (0, {}) == (service.in_flight, other._invited)
    executor.shutdown()


def test_tidying_up_that_is_interrupted_loses_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler may raise when the queue has been emptied, to be filled with the others (F9, G1)."""

    def interrupted(items: Iterator[object], maxlen: int) -> NoReturn:
        deque(items, maxlen=maxlen)
        raise KeyboardInterrupt

    queue = Schedule()
    calls = [RetryingFuture.__new__(RetryingFuture) for _ in range(6)]
    queue.fresh.extend(calls)
    for call in calls[::2]:
        queue.place_of(call, retried=False)[0].add(call)
    monkeypatch.setattr(schedule, "deque", interrupted)
    with pytest.raises(KeyboardInterrupt):
        queue.compact()
    assert (calls[1::2], 3) == (list(queue.fresh), queue.count_fresh())


def test_a_listener_whose_start_was_interrupted_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next event starts its thread again (F9, G3)."""
    told: list[str] = []
    with RetryingExecutor(1, on_event=lambda event: told.append(event.kind)) as executor:
        monitor = executor._core.monitor
        assert monitor is not None
        monitor._untold.append(lambda: told.append("late"))
        with monkeypatch.context() as patch:
            patch.setattr(monitor._core, "submit", interrupted)
            with pytest.raises(KeyboardInterrupt):
                monitor._start_telling()
        assert 0 == executor.submit(int).result(TIMEOUT)
    assert ["late", "accepted", "attempt_started", "done"] == told


def interrupted(_: object) -> NoReturn:
    raise KeyboardInterrupt


def test_what_a_signal_handler_raises_gets_out_of_drain(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ``TimeoutError`` too, as alarm handlers raise: it does not stand for that of the wait (F3, F9)."""
    go = threading.Event()

    class Latch:
        def acquire(self, *_: object, **__: object) -> NoReturn:
            raise TimeoutError("the alarm")

    executor.submit(go.wait, TIMEOUT)
    with monkeypatch.context() as patch:
        patch.setattr(executor._core, "make_latch", lambda _: Latch())
        with pytest.raises(TimeoutError, match="the alarm"):
            executor.drain(TIMEOUT)
    go.set()


@pytest.mark.parametrize(
    ("owner", "name", "is_cancelled"),
    [(Settling, "_became_done", True), (Ledger, "cancel_unobserved", False)],
)
def test_an_interrupted_cancel_cancels_for_good_or_not_at_all(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, is_cancelled: bool
) -> None:
    """Of a call that nobody observes; and a thread that waits for it is told (E1, F9)."""
    go = threading.Event()
    executor.submit(go.wait, TIMEOUT)
    future = executor.submit(int)
    with ThreadPoolExecutor(1) as others:
        waiting = others.submit(future.exception, TIMEOUT)
        assert eventually(lambda: future._awaited)
        interrupt_once(monkeypatch, owner, name)
        with pytest.raises(KeyboardInterrupt):
            future.cancel()
        assert is_cancelled is future.cancelled()
        assert future.cancel()
        with pytest.raises(CancelledError):
            waiting.result(TIMEOUT)
    go.set()
