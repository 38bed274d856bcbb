"""The event loop of coroutine functions and its thread: how they start, and how they end in every way."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import weakref
from asyncio import AbstractEventLoop, SelectorEventLoop
from collections.abc import AsyncIterator, Callable
from functools import partial
from threading import Event
from typing import Any, NoReturn

import pytest

from conftest import TIMEOUT
from observe import eventually, needs_gil, needs_late_starts, needs_locks_of_workers, resting
from retrying_executor import RetryingExecutor, RetryPolicy, Upstream
from retrying_executor._threads import loop as loops
from retrying_executor._threads.flights import Flights
from retrying_executor._threads.loop import LoopThread
from retrying_executor._threads.roster import Roster

FOLDER = "/proc/self/fd"

AT_ONCE = RetryPolicy(delays=(0,) * 4)


async def answer() -> int:
    """Return what is to be known."""
    return 42


async def running_loop() -> AbstractEventLoop:
    """Return the loop that runs this."""
    return asyncio.get_running_loop()


def thread_of(executor: RetryingExecutor) -> LoopThread:
    """Return what runs the loop of an executor."""
    thread = executor._core.crew.flights.thread  # type: ignore[attr-defined]  # of `Threads`
    assert isinstance(thread, LoopThread)
    return thread


# -- the thread of the loop ----------------------------------------------------------------------------


@needs_locks_of_workers
@needs_late_starts
def test_a_coroutine_that_comes_while_the_thread_leaves_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker may see that there is no thread, just when that stays after all: it looks once more (G1)."""
    is_called, go_on, saw_none = Event(), Event(), Event()
    new_thread, has_starts = LoopThread._new_thread, Flights.has_starts
    assert isinstance(has_starts, property)

    def look(flights: Flights) -> Any:
        if threading.current_thread().name.endswith("_loop") and not go_on.is_set():
            go_on.set()
            assert saw_none.wait(TIMEOUT)
        return has_starts.__get__(flights)

    def see(thread: LoopThread, core: Any) -> Any:
        if go_on.is_set():
            saw_none.set()
        return new_thread(thread, core)

    class Slow:
        """A coroutine function that takes long to return its coroutine."""

        def __init__(self) -> None:
            self._is_coroutine = object()

        def __call__(self) -> Any:
            is_called.set()
            assert go_on.wait(TIMEOUT)
            return answer()

    with RetryingExecutor(2, idle_timeout=0) as executor:
        slow = executor.submit(Slow())
        assert is_called.wait(TIMEOUT)
        monkeypatch.setattr(Flights, "has_starts", property(look))
        monkeypatch.setattr(LoopThread, "_new_thread", see)
        assert 42 == executor.submit(answer).result(TIMEOUT)
        assert 42 == slow.result(TIMEOUT)
    assert saw_none.is_set()


def test_the_thread_leaves_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is told to look: it stays known until it has gone (F1)."""
    started, release = Event(), Event()

    def block() -> None:
        started.set()
        assert release.wait(TIMEOUT)

    executor = RetryingExecutor(1, idle_timeout=None)
    loop = executor.submit(running_loop).result(TIMEOUT)
    thread = thread_of(executor)
    running = thread._thread
    loop.call_soon_threadsafe(block)
    assert started.wait(TIMEOUT)
    for _ in range(2):
        executor.shutdown(wait=False, cancel_futures=True)
    loop.call_soon_threadsafe(thread._leave_if_idle)
    release.set()
    assert eventually(lambda: thread._thread is None)
    executor.shutdown()
    assert running is thread._departed
    assert loop.is_closed()


def test_the_thread_leaves_when_it_has_been_idle_for_a_while() -> None:
    """The next one runs the same loop, and a coroutine that comes in time keeps it (K2)."""

    async def place() -> tuple[AbstractEventLoop, threading.Thread]:
        return asyncio.get_running_loop(), threading.current_thread()

    with RetryingExecutor(1, idle_timeout=0.02) as executor:
        loop, first = executor.submit(place).result(TIMEOUT)
        thread = thread_of(executor)
        assert eventually(lambda: [] == thread.threads())
        assert not first.is_alive()
        same_loop, second = executor.submit(place).result(TIMEOUT)
        assert loop is same_loop
        assert first is not second
        assert loop is executor.submit(running_loop).result(TIMEOUT)
        assert eventually(lambda: [] == thread.threads())


def test_executors_call_back_at_the_same_time() -> None:
    """Callbacks of one are not in the way of another's, which run in another thread (G1)."""

    class Slow(SelectorEventLoop):
        """A loop that takes long to make the first task, in a callback."""

        def create_task(self, *args: Any, **options: Any) -> Any:
            is_in.set()
            assert go_on.wait(TIMEOUT)
            return super().create_task(*args, **options)

    is_in, go_on = Event(), Event()
    with RetryingExecutor(1, loop_factory=Slow) as one, RetryingExecutor(1) as other:
        future = one.submit(answer)
        assert is_in.wait(TIMEOUT)
        assert 42 == other.submit(answer).result(TIMEOUT)
        go_on.set()
        assert 42 == future.result(TIMEOUT)


def test_flights_are_no_threads() -> None:
    """Statistics count the threads of workers (G4)."""
    release = asyncio.Event()
    with RetryingExecutor(1) as executor:
        futures = [executor.submit(release.wait) for _ in range(3)]
        loop = executor.submit(running_loop).result(TIMEOUT)
        assert eventually(lambda: 3 == executor.stats().running)
        assert 1 == executor.stats().threads
        loop.call_soon_threadsafe(release.set)
        assert [True] * 3 == [future.result(TIMEOUT) for future in futures]


# -- loops that are no good ----------------------------------------------------------------------------


class Broken(SelectorEventLoop):
    """A loop that does not run."""

    def run_forever(self) -> NoReturn:
        raise OSError("no descriptors")


class Breaking(SelectorEventLoop):
    """A loop that works until it is told otherwise, as one does whose selector is closed."""

    is_broken = False

    def _run_once(self) -> None:
        if self.is_broken:
            raise OSError("no descriptors")
        super()._run_once()  # type: ignore[misc]  # private

    def close(self) -> None:
        super().close()
        raise OSError("no descriptors")


def one_after_the_other(*factories: Callable[[], AbstractEventLoop]) -> Callable[[], AbstractEventLoop]:
    """Return a factory of loops that calls these in turn."""
    turns = iter(factories)
    return lambda: next(turns)()


@needs_late_starts
def test_a_loop_that_does_not_run_fails_the_attempt() -> None:
    """The next one gets another loop (G1, K1)."""
    factory = one_after_the_other(Broken, asyncio.new_event_loop)
    with RetryingExecutor(2, retry=AT_ONCE, loop_factory=factory) as executor:
        futures = [executor.submit(answer) for _ in range(3)]
        assert [42] * 3 == [future.result(TIMEOUT) for future in futures]
        assert 1 < max(future.attempts for future in futures)


def test_a_loop_that_breaks_while_it_runs_fails_what_is_in_it(caplog: pytest.LogCaptureFixture) -> None:
    """What has ended just before that keeps its outcome (G1, K1)."""

    async def wait() -> None:
        waiting.set()
        await asyncio.Event().wait()

    async def ruin() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Breaking)
        loop.is_broken = True
        return 42

    waiting = Event()
    factory = one_after_the_other(Breaking, asyncio.new_event_loop)
    with RetryingExecutor(2, retry=None, loop_factory=factory) as executor:
        waits = executor.submit(wait)
        assert waiting.wait(TIMEOUT)
        ruins = executor.submit(ruin)
        assert isinstance(waits.exception(TIMEOUT), OSError)
        assert ruins.exception(TIMEOUT) in (None, waits.exception(TIMEOUT))
        again = executor.with_options(retry=AT_ONCE).submit(answer)  # it may come before the loop is given up
        assert 42 == again.result(TIMEOUT)
    gc.collect()
    assert "Task was destroyed" in caplog.text


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (object, "loop_factory must return an event loop, not <object object"),
        (lambda: closed_loop(), "loop_factory must return a loop that is open, not <"),
        (lambda: asyncio.get_running_loop(), "no running event loop"),
        (AbstractEventLoop, ""),
        (Broken, "no descriptors"),
    ],
    ids=["nonsense", "closed", "raises", "abstract", "broken"],
)
def test_a_factory_that_is_no_good_fails_the_call(factory: Any, message: str) -> None:
    """The error says what is wrong with it, and nothing hangs (K1)."""
    with RetryingExecutor(1, retry=None, loop_factory=factory) as executor:
        for _ in range(2):
            future = executor.submit(answer)
            assert message in str(future.exception(TIMEOUT))
            assert isinstance(future.exception(), (TypeError, RuntimeError, NotImplementedError, OSError))
        assert 0 == executor.submit(int).result(TIMEOUT)


def closed_loop() -> AbstractEventLoop:
    """Return a loop that is of no use any more."""
    loop = asyncio.new_event_loop()
    loop.close()
    return loop


def test_a_loop_that_runs_elsewhere_is_refused() -> None:
    """Two executors cannot share one (K1)."""
    with RetryingExecutor(1) as other, RetryingExecutor(1, retry=None) as executor:
        loop = other.submit(running_loop).result(TIMEOUT)
        thread = RetryingExecutor(1, retry=None, loop_factory=lambda: loop)
        with thread:
            error = thread.submit(answer).exception(TIMEOUT)
        assert "loop_factory must return a loop that is not running, not <" in str(error)
        assert 42 == executor.submit(answer).result(TIMEOUT)
        assert not loop.is_closed()


def test_a_loop_that_was_closed_while_idle_is_replaced() -> None:
    """A program that closes the loop of its clients does no harm (K2)."""
    with RetryingExecutor(1, idle_timeout=0, retry=None) as executor:
        loop = executor.submit(running_loop).result(TIMEOUT)
        thread = thread_of(executor)
        assert eventually(lambda: [] == thread.threads())
        assert loop is executor.submit(running_loop).result(TIMEOUT)
        assert eventually(lambda: [] == thread.threads())
        loop.close()
        assert loop is not executor.submit(running_loop).result(TIMEOUT)


class NoTask:
    """What a task factory must not return."""

    def set_name(self, name: object) -> None: ...


class NoOutcome(NoTask):
    """What is like a task only at first sight."""

    def add_done_callback(self, callback: Callable[..., object], **options: object) -> None:
        asyncio.get_running_loop().call_soon(callback, self)


@pytest.mark.parametrize("task", [NoTask(), NoOutcome()])
def test_a_task_factory_that_returns_no_task_fails_the_call(task: object) -> None:
    """And the loop goes on (G1)."""

    def new_task(loop: AbstractEventLoop, coroutine: Any, **options: object) -> Any:
        coroutine.close()
        return task

    def new_loop() -> AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_task_factory(new_task)
        return loop

    with RetryingExecutor(1, retry=None, loop_factory=new_loop) as executor:
        assert isinstance(executor.submit(answer).exception(TIMEOUT), AttributeError)


def test_a_task_factory_that_raises_fails_the_call() -> None:
    """As if the coroutine did (G1)."""

    def refuse(loop: AbstractEventLoop, coroutine: Any, **options: object) -> Any:
        if not refused:
            refused.append(1)
            raise LookupError
        return asyncio.Task(coroutine, loop=loop)

    def new_loop() -> AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_task_factory(refuse)
        return loop

    refused: list[int] = []
    with RetryingExecutor(1, retry=AT_ONCE, loop_factory=new_loop) as executor:
        future = executor.submit(answer)
        assert 42 == future.result(TIMEOUT)
        assert 2 == future.attempts


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are eager tasks since Python 3.12")
def test_tasks_may_be_eager() -> None:
    """They run as soon as they are made, and may have ended then (K1)."""

    async def fail(error: BaseException) -> NoReturn:
        raise error

    def new_loop() -> AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        loop.set_debug(True)
        return loop

    error = KeyboardInterrupt()
    with RetryingExecutor(1, retry=AT_ONCE, loop_factory=new_loop) as executor:
        assert error is executor.submit(fail, error).exception(TIMEOUT)
        assert 42 == executor.submit(answer).result(TIMEOUT)
        assert executor.submit(asyncio.sleep, 0, "slept").result(TIMEOUT) == "slept"


def test_a_coroutine_may_stop_the_loop(executor: RetryingExecutor) -> None:
    """It goes on at once (G1)."""

    async def stop() -> int:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0)
        return 42

    assert [42] * 3 == [executor.submit(stop).result(TIMEOUT) for _ in range(3)]


# -- threads that cannot be started --------------------------------------------------------------------


def starve(monkeypatch: pytest.MonkeyPatch, name: str, times: int = 1) -> None:
    """Let so many threads fail to start whose name ends with *name*."""
    start = threading.Thread.start
    left = [OSError("no thread")] * times

    def start_or_not(thread: threading.Thread) -> None:
        if thread.name.endswith(name) and left:
            raise left.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)


@needs_late_starts
def test_if_the_thread_of_the_loop_does_not_start_the_attempt_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is tried again, as the policy says (C7)."""
    starve(monkeypatch, "_loop", 3)
    with RetryingExecutor(2, retry=AT_ONCE) as executor:
        future = executor.submit(answer)
        assert 42 == future.result(TIMEOUT)
        assert 4 == future.attempts
        starve(monkeypatch, "_loop", 1)
        assert 42 == executor.submit(answer).result(TIMEOUT)


def test_if_no_thread_closes_the_loop_it_is_closed_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a thread nothing that calls have left behind can end, but no descriptor is lost (G2)."""
    executor = RetryingExecutor(1, idle_timeout=0)
    loop = executor.submit(running_loop).result(TIMEOUT)
    assert eventually(lambda: [] == executor._core.crew.roster.threads() + thread_of(executor).threads())
    starve(monkeypatch, "_loop")
    executor.shutdown()
    assert loop.is_closed()


def test_a_worker_stays_for_what_will_land_until_another_has_really_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It relies on none whose thread is being started, since that may fail (C7, G1)."""

    async def call() -> int:
        gate = asyncio.Event()
        gates.append((asyncio.get_running_loop(), gate))
        begun.set()
        await gate.wait()
        return 42

    def start_or_not(thread: threading.Thread) -> None:
        if thread.name.startswith("starving"):
            starts.set()
            assert refuse.wait(TIMEOUT)
            raise OSError("no thread")
        start(thread)

    def wait(event: Event) -> None:
        begun.set()
        assert event.wait(TIMEOUT)

    start = threading.Thread.start
    begun, starts, refuse, leave = Event(), Event(), Event(), Event()
    gates: list[Any] = []
    executor = RetryingExecutor(2, "starving", idle_timeout=0, retry=None)
    upstream = Upstream("x", max_concurrency=1)
    future = executor.with_options(upstream=upstream).submit(call)
    assert begun.wait(TIMEOUT)
    begun.clear()
    assert eventually(lambda: 1 == resting(executor))
    plain = executor.submit(wait, leave)  # by the same worker
    assert begun.wait(TIMEOUT)
    monkeypatch.setattr(threading.Thread, "start", start_or_not)
    submitter = threading.Thread(target=executor.submit, args=(int,))
    submitter.start()
    assert starts.wait(TIMEOUT)  # of a second worker
    leave.set()
    assert plain.result(TIMEOUT) is None
    assert eventually(lambda: 1 == resting(executor))
    refuse.set()
    submitter.join(TIMEOUT)
    ((loop, gate),) = gates
    loop.call_soon_threadsafe(gate.set)
    assert 42 == future.result(TIMEOUT)
    assert eventually(lambda: 0 == executor.stats().threads)
    assert 0 == upstream.in_flight
    monkeypatch.undo()
    executor.shutdown()


# -- what calls leave behind ---------------------------------------------------------------------------


def has_come_to_rest(roster: Roster, thread: LoopThread, idle_timeout: float | None) -> bool:
    """Return whether the only worker rests, or all threads have left if they are to do so at once."""
    return roster.has_resting if idle_timeout is None else [] == roster.threads() + thread.threads()


class Leaving:
    """Leaves tasks and generators behind, and notes how they end."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.ended: list[str] = []
        self.tasks_end_with: BaseException | None = None

    async def task(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.ended.append("task")
            if self.tasks_end_with is not None:
                raise self.tasks_end_with

    async def items(self) -> AsyncIterator[int]:
        try:
            yield 42
        finally:
            await asyncio.sleep(0)
            self.ended.append("generator")

    async def __call__(self) -> AbstractEventLoop:
        items = self.items()
        self.kept += [items, asyncio.ensure_future(self.task())]
        assert 42 == await items.__anext__()
        await asyncio.sleep(0)
        return asyncio.get_running_loop()


@pytest.mark.parametrize("idle_timeout", [0, None])
@pytest.mark.parametrize("end", ["shutdown", "no wait", "dropped"])
def test_what_calls_have_left_is_ended_with_the_loop(idle_timeout: float | None, end: str) -> None:
    """Its ``finally`` runs, and the loop is closed, however the executor ends (K2, F5)."""
    leaving = Leaving()
    executor = RetryingExecutor(1, idle_timeout=idle_timeout)
    loop = executor.submit(leaving).result(TIMEOUT)
    roster, thread = executor._core.crew.roster, thread_of(executor)
    assert eventually(partial(has_come_to_rest, roster, thread, idle_timeout))
    if end != "dropped":
        executor.shutdown(wait=end == "shutdown")
        assert end != "shutdown" or loop.is_closed()
    del executor, roster, thread
    assert eventually(loop.is_closed)
    assert ["task", "generator"] == leaving.ended


def test_the_loop_stays_open_until_the_last_call_is_done() -> None:
    """Clients in it are still needed by calls in backoff, whatever threads leave meanwhile (K2)."""

    async def call() -> AbstractEventLoop:
        found.append(asyncio.get_running_loop())
        if len(found) == 1:
            executor.shutdown(wait=False)
            raise ConnectionError
        return found[0]

    found: list[AbstractEventLoop] = []
    executor = RetryingExecutor(1, retry=RetryPolicy(delays=(0.02,)), idle_timeout=0)
    loop = executor.submit(call).result(TIMEOUT)
    assert [loop, loop] == found
    assert eventually(loop.is_closed)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError()])
def test_what_left_tasks_raise_does_not_keep_the_loop_open(error: BaseException) -> None:
    """Not even Ctrl-C (K2)."""
    leaving = Leaving()
    leaving.tasks_end_with = error
    with RetryingExecutor(1) as executor:
        loop = executor.submit(leaving).result(TIMEOUT)
    assert loop.is_closed()
    assert ["task", "generator"] == leaving.ended
    assert error is leaving.kept[1].exception()


def test_what_does_not_end_is_left(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Generators and tasks get some time, and no more (F1)."""

    async def stay() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append("asked")

    async def items() -> AsyncIterator[int]:
        try:
            yield 42
        finally:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("generator")

    async def call() -> AbstractEventLoop:
        kept.append(items())
        assert 42 == await kept[0].__anext__()
        kept.append(asyncio.ensure_future(stay()))
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    monkeypatch.setattr(loops, "_GRACE", 0.02)
    kept: list[Any] = []
    ended: list[str] = []
    with RetryingExecutor(1) as executor:
        loop = executor.submit(call).result(TIMEOUT)
    assert loop.is_closed()
    assert ["asked", "asked", "generator"] == sorted(ended)
    kept.clear()
    gc.collect()
    assert "Task was destroyed" in caplog.text


@pytest.mark.skipif(not os.path.isdir(FOLDER), reason="only Linux lists descriptors")
def test_many_executors_leave_no_descriptor_and_no_thread() -> None:
    """Whether they are shut down or dropped (G2)."""
    gc.collect()
    before = len(os.listdir(FOLDER))
    for number in range(20):
        executor = RetryingExecutor(2, idle_timeout=None)
        loop = executor.submit(running_loop).result(TIMEOUT)
        if number % 2:
            executor.shutdown()
        del executor
        assert eventually(loop.is_closed)
    assert eventually(lambda: before == len(os.listdir(FOLDER)))


def test_a_dropped_executor_that_gets_no_thread_closes_its_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is collected (G2)."""

    def refuse(run: Callable[[], object]) -> NoReturn:
        raise OSError("no thread")

    executor = RetryingExecutor(1, idle_timeout=0)
    loop = executor.submit(running_loop).result(TIMEOUT)
    roster, thread = executor._core.crew.roster, thread_of(executor)
    assert eventually(partial(has_come_to_rest, roster, thread, 0))
    monkeypatch.setattr(loops, "start_thread", refuse)
    del executor, roster, thread
    gc.collect()
    assert loop.is_closed()


# -- what goes wrong ----------------------------------------------------------------------------------


def test_all_coroutines_are_cancelled_in_time_whatever_a_done_callback_raises() -> None:
    """It is raised by ``shutdown()`` when all are cancelled (F3, F7, K3)."""

    def interrupt(_: object) -> NoReturn:
        raise SystemExit(3)

    executor = RetryingExecutor(1)
    futures = [executor.submit(asyncio.Event().wait) for _ in range(3)]
    for future in futures:
        future.add_done_callback(interrupt)
    assert eventually(lambda: all(future.running() for future in futures))
    with pytest.raises(SystemExit):
        executor.shutdown(timeout=0)
    assert [True] * 3 == [future.cancelled() for future in futures]


@needs_late_starts
def test_an_attempt_that_gets_no_loop_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one has it (G1, K1)."""

    def fail(_: Flights) -> NoReturn:
        raise ImportError("no asyncio")

    with RetryingExecutor(1, max_coroutines=1, retry=None) as executor:
        with monkeypatch.context() as patch:
            patch.setattr(Flights, "_make_thread", fail)
            assert isinstance(executor.submit(answer).exception(TIMEOUT), ImportError)
        assert 42 == executor.submit(answer).result(TIMEOUT)


def test_threads_of_a_coroutine_have_ended_with_the_executor() -> None:
    """Those of ``asyncio.to_thread()``, also if the coroutine that waits for one was cancelled (F1)."""
    begun, go_on, ended = Event(), Event(), Event()

    def work() -> None:
        begun.set()
        assert go_on.wait(TIMEOUT)
        ended.set()

    with RetryingExecutor(1) as executor:
        future = executor.submit(asyncio.to_thread, work)
        assert begun.wait(TIMEOUT)
        assert future.cancel()
        go_on.set()
    assert ended.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("asyncio_")]


def test_an_executor_ends_although_the_program_has_closed_its_loop() -> None:
    """And Python has nothing to warn of (F1)."""
    with RetryingExecutor(1, idle_timeout=0) as executor:
        loop = executor.submit(running_loop).result(TIMEOUT)
        thread = thread_of(executor)
        assert eventually(lambda: not thread.threads())
        loop.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_loop_that_cannot_run_any_more_is_not_tried_again_and_again() -> None:
    """What is left behind in it stays there (F1)."""

    class Broken(SelectorEventLoop):
        """A loop that never ends what it is to run at last."""

        tries = 0

        def run_until_complete(self, *_: object) -> NoReturn:
            Broken.tries += 1
            raise OSError("bad file descriptor")

    with RetryingExecutor(1, loop_factory=Broken) as executor:
        loop = executor.submit(running_loop).result(TIMEOUT)
    assert loop.is_closed()
    assert 1 == Broken.tries
    gc.collect()


def test_a_loop_that_raises_what_is_no_exception_is_given_up() -> None:
    """That is the outcome of the call (B4, G1)."""

    class Cancelled(SelectorEventLoop):
        """A loop that does not run."""

        def run_forever(self) -> NoReturn:
            raise asyncio.CancelledError

    with RetryingExecutor(1, loop_factory=Cancelled) as executor:
        assert isinstance(executor.submit(answer).exception(TIMEOUT), asyncio.CancelledError)


@needs_gil
def test_an_executor_of_plain_calls_goes_without_the_collector() -> None:
    """With all that it was given: it is in no reference cycle (G2)."""

    class Argument:
        """Something that the executor keeps."""

    argument = Argument()
    reference = weakref.ref(argument)
    gc.collect()
    gc.disable()
    try:
        executor = RetryingExecutor(1, initializer=id, initargs=(argument,))
        assert 0 == executor.submit(int).result(TIMEOUT)
        executor.shutdown()
        del executor, argument
        assert eventually(lambda: reference() is None)
    finally:
        gc.enable()
