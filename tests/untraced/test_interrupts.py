"""Ctrl-C, or a signal handler that raises, wherever it can interrupt the library in the main thread."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from calls import Flaky
from observe import resting
from retrying_executor import RetryingExecutor, RetryPolicy, Upstream
from retrying_executor._common.exits import ExitTimeout
from retrying_executor.testing import VirtualTimeExecutor

if not (3, 12) <= sys.version_info < (3, 14):
    pytest.skip("that is known of these versions", allow_module_level=True)

from interrupts import Interrupter, Interruption

SOON = 5.0  # seconds


def soon(condition: Callable[[], object]) -> bool:
    """Look until *condition* is true, for a while; return whether it ever was."""
    deadline = time.monotonic() + SOON
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0)
    return bool(met)


def fail() -> None:
    raise ConnectionError


def locks_of(service: Upstream) -> list[Any]:
    """Return the locks of an upstream."""
    places = service._places
    return [places._lock] if places.backlog is None else [places._lock, places.backlog._door]


class Scene:
    """An executor with calls that run, wait for a worker, wait for a retry and wait for a service.

    Args:
        options: Those of the executor.
    """

    def __init__(self, **options: Any) -> None:
        self.gate = threading.Event()
        self.service = Upstream("service", max_pending=options.pop("service_max_pending", None))
        self.executor = RetryingExecutor(2, exit_timeout=0.0, **options)
        self.held = self.executor.with_options(upstream=self.service)
        self.futures: list[Future[Any]] = []
        self.uncertain = 0  # calls that were accepted, or not, when submit() was interrupted
        self.others: list[threading.Thread] = []
        self.locks = [self.executor._core.lock, *locks_of(self.service)]
        self.is_over = False

    def add(self, future: Future[Any]) -> Any:
        self.futures.append(future)
        return future

    def running(self) -> Any:
        """Return a call that runs until the gate opens."""
        future = self.add(self.executor.submit(self.gate.wait, SOON))
        assert soon(future.running)
        return future

    def awaiting(self) -> Any:
        """Return a call of a coroutine function that runs until the gate opens."""

        async def wait() -> None:
            has_begun.set()
            while not self.gate.is_set():
                await asyncio.sleep(0.001)

        has_begun = threading.Event()
        future = self.add(self.executor.submit(wait))
        assert has_begun.wait(SOON)
        return future

    def busy(self) -> list[Any]:
        """Keep both workers busy, until the gate opens."""
        return [self.running(), self.running()]

    def queued(self) -> Any:
        """Return a call that waits for a worker."""
        return self.add(self.executor.submit(int))

    def in_backoff(self) -> Any:
        """Return a call that waits for its next attempt."""
        future = self.add(self.executor.with_options(retry=lambda _: 3600).submit(fail))
        assert soon(lambda: future.due_at)
        return future

    def in_lane(self) -> Any:
        """Return a call that waits for the service, which is paused."""
        self.service.pause()
        future = self.add(self.held.submit(int))
        assert soon(lambda: future in self.executor._core.ledger.schedule.held.lane_of)
        return future

    def watch(self, *futures: Future[Any]) -> None:
        """Have others wait for these calls."""
        for future in futures:
            other = threading.Thread(target=wait_for, args=(future,), daemon=True)
            other.start()
            self.others.append(other)
            assert soon(lambda future=future: future.__dict__.get("_latches"))

    def all_locks(self) -> list[Any]:
        return [*self.locks, *(worker.lock for worker in list(self.executor._core.crew.roster.members))]

    def check(self) -> str | None:
        """Return what is wrong, if anything is."""
        if any(lock._is_owned() for lock in self.all_locks()):
            return "a lock is held"
        self.gate.set()
        pool = self.executor._core
        self.service.resume()
        for future in self.futures:
            if getattr(future, "due_at", None):
                future.cancel()
        if not soon(lambda: all(future.done() for future in self.futures)):
            return f"pending: {self.futures}, {self.executor.stats()}"
        if not pool.entrance.refusal:
            if self.executor.submit(int, "7").result(SOON) != 7:
                return "a wrong result"
            if self.held.submit(int, "7").result(SOON) != 7:
                return "a wrong result"
            self.futures += [finished(7), finished(7)]
        if not self.executor.drain(SOON):
            return f"drain() timed out: {self.executor.stats()}"
        for other in self.others:
            other.join(SOON)
            if other.is_alive():
                return "another waiter hangs"
        self.executor.shutdown(timeout=SOON)
        if pool.crew.roster.threads() or pool.crew.flights.threads():
            return "threads are left"
        stats = self.executor.stats()
        if (stats.running, stats.ready, stats.held, stats.in_backoff, stats.threads) != (0, 0, 0, 0, 0):
            return f"not all is done: {stats}"
        cancelled = sum(future.cancelled() for future in self.futures)
        if not 0 <= stats.cancelled - cancelled <= self.uncertain:
            return f"cancelled: {cancelled}, but {stats}"
        if not 0 <= stats.submitted - len(self.futures) <= self.uncertain:
            return f"submitted: {len(self.futures)}, but {stats}"
        if stats.submitted != stats.succeeded + stats.failed + stats.cancelled:
            return f"it does not add up: {stats}"
        places = self.service._places
        if places.in_flight or places._invited:
            return f"the service: {places.in_flight}, {places._invited}"
        if places.backlog is not None and (places.backlog._pending or places.backlog._line):
            return f"its backlog: {places.backlog._pending}, {places.backlog._line}"
        return None

    def end(self) -> None:
        """Whatever is wrong, leave no thread behind."""
        self.gate.set()
        for lock in self.all_locks():
            while lock._is_owned():
                lock.release()
        self.service.resume()
        for future in self.futures:
            future.cancel()
            if "_latches" in future.__dict__:
                future._awaited = True
                future._open()
        self.executor.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + 5.0
        for thread in self.executor._core.crew.roster.threads():
            thread.join(max(0.0, deadline - time.monotonic()))


def finished(result: object) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future


def wait_for(future: Future[Any]) -> None:
    """Wait for the outcome, whatever it is."""
    with suppress(CancelledError):
        future.exception()


def submitting(scene: Scene, executor: Any) -> Callable[[], object]:
    def submit() -> None:
        scene.uncertain += 1
        future = executor.submit(int)
        scene.uncertain -= 1
        scene.futures.append(future)

    return submit


# -- operations: each prepares a scene and returns what is to be interrupted -------------------------


def result(scene: Scene) -> Callable[[], object]:
    future = scene.running()
    scene.watch(future, future)
    return future.result


def result_with_timeout(scene: Scene) -> Callable[[], object]:
    future = scene.running()
    scene.watch(future)
    return lambda: future.result(SOON)


def exception(scene: Scene) -> Callable[[], object]:
    future = scene.running()
    scene.watch(future)
    return future.exception


def cancel_queued(scene: Scene) -> Callable[[], object]:
    scene.busy()
    future, _ = scene.queued(), scene.queued()
    scene.watch(future)
    return future.cancel


def cancel_most_queued(scene: Scene) -> Callable[[], object]:
    scene.busy()
    futures = [scene.queued() for _ in range(4)]
    return lambda: [future.cancel() for future in futures[1:]]


def cancel_in_backoff(scene: Scene) -> Callable[[], object]:
    future = scene.in_backoff()
    scene.watch(future)
    return future.cancel


def cancel_most_in_backoff(scene: Scene) -> Callable[[], object]:
    futures = [scene.in_backoff() for _ in range(3)]
    return lambda: [future.cancel() for future in futures[1:]]


def cancel_running(scene: Scene) -> Callable[[], object]:
    future = scene.running()
    scene.watch(future)
    return future.cancel


def cancel_awaiting(scene: Scene) -> Callable[[], object]:
    future = scene.awaiting()
    scene.watch(future)
    scene.awaiting()
    return future.cancel


def cancel_observed(scene: Scene) -> Callable[[], object]:
    scene.busy()
    future = scene.queued()
    future.add_done_callback(str)
    scene.watch(future)
    return future.cancel


def cancel_in_lane(scene: Scene) -> Callable[[], object]:
    future = scene.in_lane()
    scene.watch(future)
    scene.in_lane()
    return future.cancel


def add_done_callback(scene: Scene) -> Callable[[], object]:
    future = scene.running()
    scene.watch(future)
    return lambda: future.add_done_callback(str)


def add_done_callback_to_a_queued_call(scene: Scene) -> Callable[[], object]:
    scene.busy()
    future = scene.queued()
    return lambda: future.add_done_callback(str)


def set_result(scene: Scene) -> Callable[[], object]:
    scene.busy()
    future = scene.queued()
    scene.watch(future)
    return lambda: future.set_result(1)


def set_result_of_a_running_call(scene: Scene) -> Callable[[], object]:
    future = scene.running()
    scene.watch(future)
    return lambda: future.set_result(1)


def set_exception(scene: Scene) -> Callable[[], object]:
    scene.busy()
    future = scene.queued()
    scene.watch(future)
    return lambda: future.set_exception(ValueError())


def submit_to_a_worker_that_rests(scene: Scene) -> Callable[[], object]:
    scene.queued().result(SOON)
    assert soon(lambda: resting(scene.executor))
    return submitting(scene, scene.executor)


def submit_behind_others(scene: Scene) -> Callable[[], object]:
    scene.busy()
    return submitting(scene, scene.executor)


def submit_to_a_service(scene: Scene) -> Callable[[], object]:
    scene.add(scene.held.submit(int)).result(SOON)
    return submitting(scene, scene.held)


def submit_to_a_full_service(scene: Scene) -> Callable[[], object]:
    scene.add(scene.held.submit(scene.gate.wait, SOON))
    return submitting(scene, scene.held)


def drain(scene: Scene) -> Callable[[], object]:
    scene.watch(scene.running())
    scene.queued()
    return scene.executor.drain


def drain_in_vain(scene: Scene) -> Callable[[], object]:
    scene.running()
    return lambda: scene.executor.drain(0)


def stats(scene: Scene) -> Callable[[], object]:
    scene.running()
    scene.queued()
    return scene.executor.stats


def untried(scene: Scene) -> Callable[[], object]:
    scene.busy()
    scene.queued()
    return lambda: scene.executor._work_queue.empty()


def shutdown(scene: Scene) -> Callable[[], object]:
    scene.watch(scene.running())
    scene.queued()
    return scene.executor.shutdown


def shutdown_that_cancels(scene: Scene) -> Callable[[], object]:
    scene.watch(scene.in_lane())
    scene.busy()
    scene.watch(scene.queued())
    return lambda: scene.executor.shutdown(cancel_futures=True)


def shutdown_that_cancels_coroutines(scene: Scene) -> Callable[[], object]:
    scene.watch(scene.awaiting())
    scene.awaiting()
    return lambda: scene.executor.shutdown(timeout=0)


def shutdown_that_does_not_wait(scene: Scene) -> Callable[[], object]:
    scene.busy()
    scene.queued()
    return lambda: scene.executor.shutdown(wait=False)


def leave_the_block(scene: Scene) -> Callable[[], object]:
    scene.watch(scene.running())
    scene.queued()
    return lambda: scene.executor.__exit__(None, None, None)


def leave_the_block_by_an_interrupt(scene: Scene) -> Callable[[], object]:
    scene.busy()
    scene.queued()
    scene.executor._core.exit_timeout = ExitTimeout(None)
    return lambda: scene.executor.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)


def pause(scene: Scene) -> Callable[[], object]:
    scene.add(scene.held.submit(int)).result(SOON)
    return scene.service.pause


def resume(scene: Scene) -> Callable[[], object]:
    scene.watch(scene.in_lane())
    return scene.service.resume


def pause_for_a_while(scene: Scene) -> Callable[[], object]:
    scene.watch(scene.in_lane())
    return lambda: scene.service.pause(3600)


def map_results(scene: Scene) -> Callable[[], object]:
    scene.busy()  # an interrupted start of a thread would leave that in threading's list for good
    results = scene.executor.map(int, "1234", buffersize=2)
    scene.uncertain = 4
    return lambda: list(results)


def with_options(scene: Scene) -> Callable[[], object]:
    scene.running()
    scene.queued()
    return lambda: scene.executor.with_options(upstream=Upstream("other"))


OPERATIONS = [
    result,
    result_with_timeout,
    exception,
    cancel_queued,
    cancel_most_queued,
    cancel_in_backoff,
    cancel_most_in_backoff,
    cancel_running,
    cancel_awaiting,
    cancel_observed,
    cancel_in_lane,
    add_done_callback,
    add_done_callback_to_a_queued_call,
    set_result,
    set_result_of_a_running_call,
    set_exception,
    submit_to_a_worker_that_rests,
    submit_behind_others,
    submit_to_a_service,
    drain,
    drain_in_vain,
    stats,
    untried,
    shutdown,
    shutdown_that_cancels,
    shutdown_that_cancels_coroutines,
    shutdown_that_does_not_wait,
    leave_the_block,
    leave_the_block_by_an_interrupt,
    pause,
    pause_for_a_while,
    resume,
    map_results,
    with_options,
]


@pytest.fixture(scope="module")
def interrupter() -> Iterator[Interrupter]:
    with Interrupter().installed() as interrupter:
        yield interrupter


def interrupt_everywhere(
    interrupter: Interrupter,
    operation: Callable[[Scene], Callable[[], object]],
    **options: Any,
) -> int:
    """Interrupt an operation at one place after the other; return how many there are."""
    faults: list[str] = []
    for k in itertools.count():
        scene = Scene(**options)
        try:
            act = operation(scene)
            interruption = Interruption(k, scene.gate.set)
            interrupter.interrupt(act, interruption)
            try:
                wrong = scene.check()
            except TimeoutError:
                wrong = "a later call is not run"
            if wrong is not None:
                faults.append(f"{interruption}: {wrong}")
        finally:
            scene.end()
        if interruption.at is None or len(faults) == 3:
            break
    assert [] == faults, "\n".join(faults)
    return k


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_an_interruption_leaves_nothing_behind(
    operation: Callable[[Scene], Callable[[], object]], interrupter: Interrupter
) -> None:
    """No lock is held, no place is kept, no call is lost or counted twice, and no other waiter hangs (F9)."""
    assert interrupt_everywhere(interrupter, operation) > 5


FULL = [
    (submit_behind_others, {"max_pending": 3, "when_full": "raise"}),
    (submit_behind_others, {"max_pending": 2, "when_full": "wait"}),
    (submit_to_a_service, {"service_max_pending": 1, "max_pending": 99, "when_full": "wait"}),
    (submit_to_a_full_service, {"service_max_pending": 1, "max_pending": 99, "when_full": "wait"}),
]


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("operation", "options"), FULL)
def test_an_interrupted_submit_keeps_no_room(
    operation: Callable[[Scene], Callable[[], object]], options: dict[str, Any], interrupter: Interrupter
) -> None:
    """Where the backlog is limited, an interruption takes nothing from it for good (F9, G5, U6)."""
    assert interrupt_everywhere(interrupter, operation, **options) > 5


class VirtualScene:
    """An executor in virtual time with calls of a service, one of which is tried twice."""

    def __init__(self) -> None:
        self.service = Upstream("service", max_concurrency=1)
        self.executor = VirtualTimeExecutor(retry=RetryPolicy(delays=(1,)), upstream=self.service)
        self.futures = [self.executor.submit(call) for call in (Flaky(), Flaky(0), Flaky(0))]

    def check(self) -> str | None:
        """Return what is wrong, if anything is."""
        pool = self.executor._virtual
        if any(lock._is_owned() for lock in (pool._turn, *locks_of(self.service))):
            return "a lock is held"
        if pool._hands:
            return "a call is in a worker's hands"
        if not self.executor.drain():
            return "drain() timed out"
        if not all(future.done() for future in self.futures):
            return f"pending: {self.futures}"
        stats = self.executor.stats()
        if stats.submitted != stats.succeeded + stats.failed + stats.cancelled:
            return f"it does not add up: {stats}"
        if not 0 <= stats.submitted - len(self.futures) <= 1:
            return f"submitted: {len(self.futures)}, but {stats}"
        if self.service.in_flight:
            return f"in flight: {self.service.in_flight}"
        self.executor.shutdown()
        return None


VIRTUAL: dict[str, Callable[[VirtualScene], object]] = {
    "result": lambda scene: scene.futures[0].result(),
    "exception": lambda scene: scene.futures[-1].exception(10),
    "cancel": lambda scene: scene.futures[1].cancel(),
    "submit": lambda scene: scene.executor.submit(int),
    "drain": lambda scene: scene.executor.drain(),
    "advance": lambda scene: scene.executor.advance(10),
    "stats": lambda scene: scene.executor.stats(),
    "shutdown": lambda scene: scene.executor.shutdown(),
    "resume": lambda scene: (scene.service.pause(), scene.service.resume()),
}
MENDED = {"cancel", "submit", "stats", "resume"}
attempts_run_in_this_thread = pytest.mark.xfail(
    strict=True,
    reason="what a worker does can be interrupted: Schedule.take() and Places.ask(), with a call or place "
    "in hand, and Places.end(). Elsewhere these run in threads in which no signal handler does",
)


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "operation",
    [pytest.param(name, marks=() if name in MENDED else attempts_run_in_this_thread) for name in VIRTUAL],
)
def test_an_interruption_in_virtual_time_leaves_nothing_behind(
    operation: str, interrupter: Interrupter
) -> None:
    """There it should be the same, although attempts run in the thread that is interrupted (F9)."""
    faults: list[str] = []
    for k in itertools.count():
        scene = VirtualScene()
        interruption = Interruption(k, int)
        interrupter.interrupt(partial(VIRTUAL[operation], scene), interruption)
        try:
            wrong = scene.check()
        except RuntimeError as error:
            wrong = str(error)
        if wrong is not None:
            faults.append(f"{interruption}: {wrong}")
        if interruption.at is None or len(faults) == 3:
            break
    assert [] == faults, "\n".join(faults)
