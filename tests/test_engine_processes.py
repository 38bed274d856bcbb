"""Attempts in processes of the executor: what dies costs one attempt, and nothing is left behind (L1, L3)."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import errands
import retrying_executor
from conftest import TIMEOUT
from errands import TwoArgumentsError
from observe import eventually, needs_late_starts
from retrying_executor import (
    AttemptLostError,
    Journal,
    RetryingExecutor,
    RetryPolicy,
    Upstream,
    explain,
    service_failed,
)
from retrying_executor._common import sending
from retrying_executor._common.errors import is_final
from retrying_executor._engines import pace as pace_module
from retrying_executor._engines import processes
from retrying_executor._engines.pace import Pace
from retrying_executor._engines.processes import ProcessEngine, ProcessRunner
from retrying_executor.engines import Processes
from retrying_executor.testing import VirtualTimeExecutor

SOON = RetryPolicy(max_attempts=4, delays=(0.01,) * 3)
METHODS = multiprocessing.get_all_start_methods()


def children() -> set[int]:
    """Return the processes that this one has started, or had started by the server that forks."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, fields = status.read_text("utf-8", "replace").partition(" (")
        except OSError:  # pragma: no cover  # it has ended just now
            continue
        state, parent = fields.rpartition(") ")[2].split()[:2]
        if state != "Z" and int(parent) in (os.getpid(), server()):
            found.add(int(pid))
    return found - {server()}


def server() -> int | None:
    """Return the process of `multiprocessing` that forks others, if there is one."""
    module: Any = sys.modules.get("multiprocessing.forkserver")
    pid: int | None = None if module is None else module._forkserver._forkserver_pid
    return pid


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """Every process that a test has started ends; that of `multiprocessing` which tracks resources stays."""
    before = children()
    yield
    tracker: Any = sys.modules.get("multiprocessing.resource_tracker")
    stays = {None if tracker is None else tracker._resource_tracker._pid}
    assert set() == children() - before - stays


def runners(executor: RetryingExecutor) -> list[Any]:
    """Return what the workers run their attempts with."""
    return [worker.runner for worker in executor._core.crew.roster.members]


# -- attempts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_attempts_run_in_processes_however_these_are_started(method: str, tmp_path: Path) -> None:
    """Results, exceptions and retries are as in threads."""
    with RetryingExecutor(2, engine=Processes(mp_context=method), retry=SOON) as executor:
        assert [0, 1, 4, 9] == list(executor.map(errands.square, range(4), timeout=TIMEOUT))
        assert os.getpid() != executor.submit(errands.pid).result(TIMEOUT)
        future = executor.submit(errands.fail_until, str(tmp_path / "counter"), 2)
        assert (3, 3) == (future.result(TIMEOUT), future.attempts)
        error = executor.submit(errands.fail).exception(TIMEOUT)
    assert isinstance(error, TwoArgumentsError)
    assert ("no", 503) == (str(error), error.status)
    assert 'raise TwoArgumentsError("no", status=503)' in str(error.__cause__)


def test_each_worker_has_a_process_of_its_own() -> None:
    """It makes all attempts of its worker."""
    with RetryingExecutor(1, engine=Processes()) as executor:
        first, second = (executor.submit(errands.pid).result(TIMEOUT) for _ in range(2))
    assert first == second


def test_a_call_that_exits_the_interpreter_ends_nothing() -> None:
    """`SystemExit` is what the call raises, and its process goes on."""
    with RetryingExecutor(1, engine=Processes(), retry=SOON) as executor:
        process = executor.submit(errands.pid).result(TIMEOUT)
        error = executor.submit(errands.leave).exception(TIMEOUT)
        assert (SystemExit, (3,)) == (type(error), error.args)  # type: ignore[union-attr]
        assert process == executor.submit(errands.pid).result(TIMEOUT)


def test_not_now_uses_up_no_attempt(tmp_path: Path) -> None:
    """As in a thread."""
    with RetryingExecutor(1, engine=Processes(), retry=RetryPolicy(max_attempts=1)) as executor:
        assert 2 == executor.submit(errands.not_now, str(tmp_path / "counter")).result(TIMEOUT)


def test_arguments_that_do_not_fit_are_told_from_a_type_error_of_the_call() -> None:
    """The first is final, the second is tried again, as in a thread."""
    with RetryingExecutor(1, engine=Processes(), retry=SOON) as executor:
        misfit: Any = executor.submit(errands.square)  # type: ignore[call-arg]  # on purpose
        inside = executor.submit(errands.square, {})  # type: ignore[arg-type]  # on purpose
        assert "the arguments of the call do not fit" in explain(misfit.exception(TIMEOUT))
        assert isinstance(inside.exception(TIMEOUT), TypeError)
    assert (1, 4) == (misfit.attempts, inside.attempts)


def test_a_call_knows_itself_there() -> None:
    """`current_call` has the name, the number of the attempt, the key, the label and the time left."""
    policy = SOON.replace(max_elapsed=50)
    with RetryingExecutor(1, engine=Processes(), retry=policy) as executor:
        call = executor.with_options(label="there", key="k").submit(errands.told).result(TIMEOUT)
    assert call is not None
    assert ("errands.told", 1, "k", "there") == (call.name, call.attempt, call.key, call.label)
    assert call.time_left is not None
    assert 0 < call.time_left <= 50


def test_a_weight_reported_there_counts_here() -> None:
    """So a budget gets back what the estimate had too much."""
    upstream = Upstream("budgeted", budget=(10, 3600))
    with RetryingExecutor(1, engine=Processes(), upstream=upstream) as executor:
        view = executor.with_options(weight=10)
        view.submit(errands.weigh, 4).result(TIMEOUT)
        executor.with_options(weight=6).submit(errands.weigh, 6).result(TIMEOUT)


def test_a_call_that_forks_answers_once() -> None:
    """The child of the process ends instead of answering, too."""
    with RetryingExecutor(1, engine=Processes()) as executor:
        assert "parent" == executor.submit(errands.forks).result(TIMEOUT)
        assert 4 == executor.submit(errands.square, 2).result(TIMEOUT)


def test_a_result_that_cannot_be_sent_is_a_final_error() -> None:
    """Another attempt would only make it once more."""
    with RetryingExecutor(1, engine=Processes(), retry=SOON) as executor:
        future = executor.submit(errands.unsendable)
        with pytest.raises(TypeError, match="the result, a function, cannot be sent back"):
            future.result(TIMEOUT)
    assert 1 == future.attempts


def test_a_result_that_cannot_be_read_here_is_a_final_error() -> None:
    """What went wrong is its cause."""
    with RetryingExecutor(1, engine=Processes(), retry=SOON) as executor:
        future = executor.submit(errands.unreadable)
        with pytest.raises(TypeError, match="the result cannot be read here: not here"):
            future.result(TIMEOUT)
    assert 1 == future.attempts


def test_a_call_that_cannot_be_read_there_is_a_final_error() -> None:
    """Its arguments could be pickled, but not unpickled."""
    with RetryingExecutor(1, engine=Processes(), retry=SOON) as executor:
        future = executor.submit(errands.square, errands.Unreadable())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="the call cannot be read there: ValueError: not here"):
            future.result(TIMEOUT)
    assert 1 == future.attempts


def test_views_have_the_same_engine() -> None:
    """Only the terms differ."""
    with RetryingExecutor(1, engine=Processes()) as executor:
        assert os.getpid() != executor.with_options(retry=None).submit(errands.pid).result(TIMEOUT)


def test_a_waiting_call_keeps_no_second_copy_of_its_arguments(tmp_path: Path) -> None:
    """Only what is to be sent."""
    policy = RetryPolicy(delays=(1000.0,))
    with RetryingExecutor(1, engine=Processes(), retry=policy) as executor:
        future = executor.submit(errands.fail_until, str(tmp_path / "counter"), 1)
        assert eventually(lambda: executor.stats().in_backoff)
        work = future._work
        assert future.cancel()
    assert work is not None
    assert ((), {}) == work[1:3]


# -- processes that die --------------------------------------------------------------------------


def test_a_process_that_dies_costs_the_attempt_that_it_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call that kills it runs as often as it may; no other call notices."""
    monkeypatch.setattr(processes, "_MOMENT", TIMEOUT)  # on a slow machine it takes long to be gone
    with RetryingExecutor(2, engine=Processes(), retry=SOON) as executor:
        poison = executor.submit(errands.count_and_die, str(tmp_path / "counter"))
        innocent = [executor.submit(errands.square, number) for number in range(100)]
        assert [number**2 for number in range(100)] == [call.result(TIMEOUT) for call in innocent]
        with pytest.raises(
            AttemptLostError, match=r"^the attempt is lost: process [0-9]+ ended with SIGKILL"
        ):
            poison.result(TIMEOUT)
        stats = executor.stats()
    assert 4 == len((tmp_path / "counter").read_text("utf-8").splitlines())
    assert (4, 3) == (poison.attempts, stats.retried)
    assert {1} == {call.attempts for call in innocent}


def test_a_thousand_calls_survive_twenty_kills(tmp_path: Path) -> None:
    """None is lost, and the retries are the attempts that failed or died."""
    calls, kills = 1000, 20
    policy = RetryPolicy(max_attempts=100, initial_delay=0.001, max_delay=0.001)
    draw = random.Random(5)
    events: list[str] = []
    with RetryingExecutor(
        4, engine=Processes(), retry=policy, on_event=lambda event: events.append(event.kind)
    ) as executor:
        futures = [
            executor.submit(errands.fail_until, str(tmp_path / str(number)), number % 5 == 0)
            for number in range(calls)
        ]
        killed = 0
        while killed < kills and not all(future.done() for future in futures):
            runner = draw.choice(runners(executor))
            killed += runner is not None and runner.kill()
        results = [future.result(TIMEOUT) for future in futures]
        stats = executor.stats()
    assert kills == killed
    assert calls == len(results)
    assert stats.retried == sum(future.attempts - 1 for future in futures)
    assert calls // 5 <= stats.retried <= calls // 5 + kills
    assert stats.retried == events.count("retry_scheduled")


def test_a_process_that_has_died_while_idle_costs_no_attempt() -> None:
    """It is replaced before the next attempt is sent."""
    with RetryingExecutor(1, engine=Processes(), retry=None) as executor:
        first = executor.submit(errands.pid).result(TIMEOUT)
        (runner,) = runners(executor)
        os.kill(first, signal.SIGKILL)
        runner._process.join(TIMEOUT)
        assert first != executor.submit(errands.pid).result(TIMEOUT)


def test_a_process_that_dies_while_it_is_sent_an_attempt_costs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot have read all of the message, so the attempt did not begin."""
    with RetryingExecutor(1, engine=Processes(), retry=None) as executor:
        first = executor.submit(errands.pid).result(TIMEOUT)
        (runner,) = runners(executor)
        monkeypatch.setattr(runner, "_connection", Broken(runner._connection))
        assert first != executor.submit(errands.pid).result(TIMEOUT)


class Broken:
    """A connection whose other end is gone."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def send_bytes(self, message: bytes) -> None:
        raise BrokenPipeError("gone")

    def close(self) -> None:
        self._connection.close()


def test_an_attempt_that_cannot_be_sent_to_a_new_process_either_is_lost() -> None:
    """Then something else is wrong."""
    runner = ProcessRunner(new_engine(), lambda: False)

    def start() -> None:
        ProcessRunner._start(runner)
        runner._connection = Broken(runner._connection)  # type: ignore[assignment]

    runner._start = start  # type: ignore[method-assign]
    with pytest.raises(AttemptLostError, match=r"could not be sent: process [0-9]+ (was killed|ended)"):
        runner.run(b"")
    runner.leave()


def new_engine(**options: Any) -> ProcessEngine:
    """Return an engine as an executor makes it."""
    engine = Processes(**options)._new_engine()
    assert isinstance(engine, ProcessEngine)
    return engine


def test_an_interruption_of_the_worker_leaves_no_answer_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the next call would get the result of this one."""
    with RetryingExecutor(1, engine=Processes(), retry=None) as executor:
        first = executor.submit(errands.pid).result(TIMEOUT)
        (runner,) = runners(executor)

        def interrupted(_: object) -> None:
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr(runner, "_receive", interrupted)
        assert isinstance(executor.submit(errands.square, 3).exception(TIMEOUT), KeyboardInterrupt)
        assert 16 == executor.submit(errands.square, 4).result(TIMEOUT)
        assert first != executor.submit(errands.pid).result(TIMEOUT)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.parametrize("method", METHODS)
def test_a_process_that_dies_is_noticed_although_its_children_live(method: str, tmp_path: Path) -> None:
    """They keep open what it has inherited."""
    child = tmp_path / "child"
    try:
        with RetryingExecutor(1, engine=Processes(mp_context=method), retry=SOON) as executor:
            future = executor.submit(errands.leave_child_and_die, str(tmp_path / "counter"), str(child))
            assert 2 == future.result(TIMEOUT)
    finally:
        os.kill(int(child.read_text("utf-8")), signal.SIGKILL)


def test_an_answer_that_stops_in_the_middle_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of the attempt covers its answer, and so does the time of a shutdown."""
    monkeypatch.setattr(processes, "serve", errands.serve_partly)
    with RetryingExecutor(1, engine=Processes(attempt_timeout=0.2), retry=None) as executor:
        assert isinstance(executor.submit(errands.pid).exception(TIMEOUT), AttemptLostError)
    executor = RetryingExecutor(1, engine=Processes(), retry=None)
    future = executor.submit(errands.pid)
    assert eventually(lambda: [True for runner in runners(executor) if runner and runner._is_busy])
    executor.shutdown(timeout=0.5)
    with pytest.raises(AttemptLostError, match="the executor had no time left"):
        future.result(TIMEOUT)


def test_a_message_that_is_not_read_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not fit into the pipe; a new process may read it."""
    monkeypatch.setattr(processes, "serve", errands.serve_nothing)
    with RetryingExecutor(1, engine=Processes(attempt_timeout=0.2), retry=None) as executor:
        error = executor.submit(len, bytes(1 << 22)).exception(TIMEOUT)
    assert isinstance(error, AttemptLostError)
    assert "the attempt could not be sent: process " in str(error)


def test_an_attempt_that_takes_too_long_is_killed_and_tried_again(tmp_path: Path) -> None:
    """Its time begins when it is sent, so that of a process to start does not count."""
    policy = SOON.replace(max_attempts=2)
    with RetryingExecutor(1, engine=Processes(attempt_timeout=0.2), retry=policy) as executor:
        assert 2 == executor.submit(errands.hang_once, str(tmp_path / "counter")).result(TIMEOUT)
        error = executor.submit(errands.hang).exception(TIMEOUT)
    assert isinstance(error, AttemptLostError)
    assert "the attempt took longer than 0.2 s, its attempt_timeout, so process " in str(error)
    assert str(error).endswith("was killed")
    assert isinstance(error.__cause__, TimeoutError)


def test_a_lost_attempt_tells_nothing_of_the_service_but_one_that_hangs_does(tmp_path: Path) -> None:
    """A process may die of anything; but services that fail leave their callers hanging."""
    with RetryingExecutor(1, engine=Processes(attempt_timeout=0.2), retry=None) as executor:
        died = executor.submit(errands.die).exception(TIMEOUT)
        hung = executor.submit(errands.hang).exception(TIMEOUT)
    assert died is not None
    assert hung is not None
    assert (False, True) == (service_failed(died), service_failed(hung))


def test_a_process_is_replaced_after_so_many_attempts() -> None:
    """Then what it has leaked is gone."""
    with RetryingExecutor(1, engine=Processes(max_tasks_per_child=2)) as executor:
        pids = [executor.submit(errands.pid).result(TIMEOUT) for _ in range(5)]
    assert [pids[0], pids[2], pids[4]] == sorted(set(pids), key=pids.index)
    assert 3 == len(set(pids))


def test_an_initializer_runs_in_each_process(tmp_path: Path) -> None:
    """Where it raises, the attempt is lost, and a new process is started for the next."""
    counter = str(tmp_path / "counter")
    engine = Processes(initializer=errands.initialize, initargs=(counter, 1))
    with RetryingExecutor(1, engine=engine, retry=SOON) as executor:
        future = executor.submit(errands.count, counter)
        assert (3, 2) == (future.result(TIMEOUT), future.attempts)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_an_initializer_may_fork() -> None:
    """The child of the process ends when it returns there, too."""
    with RetryingExecutor(1, engine=Processes(initializer=errands.forks), retry=None) as executor:
        assert [0, 1, 4] == [executor.submit(errands.square, n).result(TIMEOUT) for n in range(3)]


def test_an_initializer_that_fails_is_named() -> None:
    """It is why the attempt is lost."""
    with RetryingExecutor(1, engine=Processes(initializer=errands.fail), retry=None) as executor:
        error = executor.submit(errands.pid).exception(TIMEOUT)
    assert isinstance(error, AttemptLostError)
    assert "the initializer of its process failed: TwoArgumentsError: no" == str(error)


def test_a_process_that_cannot_be_started_costs_an_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """For want of memory, for example. If it is Python that refuses, no attempt of any call follows."""
    outcomes = iter([BlockingIOError("no more"), EOFError(), RuntimeError("it ends")])

    def start(_: object) -> None:
        raise next(outcomes)

    for method in METHODS:
        monkeypatch.setattr(multiprocessing.get_context(method).Process, "start", start)  # type: ignore[attr-defined]
    with RetryingExecutor(1, engine=Processes(), retry=SOON) as executor:
        for attempts in (3, 1):
            future = executor.submit(errands.pid)
            error = future.exception(TIMEOUT)
            assert isinstance(error, AttemptLostError)
            assert "no process could be started: it ends" == str(error)
            assert is_final(error)
            assert attempts == future.attempts


# -- the pace of restarts ------------------------------------------------------------------------


class Clock:
    """A clock, and the gates at which waiting takes no time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def new_gate(self) -> Gate:
        return Gate(self)


class Gate:
    """Stands for a lock that nobody opens."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def acquire(self, timeout: float | None = None) -> None:
        if timeout is not None:
            self._clock.waits.append(round(timeout, 3))
            self._clock.now += timeout


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace_module, "time", clock)
    return clock


def new_pace(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Pace:
    pace = Pace()
    monkeypatch.setattr(pace_module, "threading", SimpleNamespace(Lock=clock.new_gate))
    return pace


def test_restarts_become_rarer_while_no_attempt_completes(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is made at once; then 0.5 s pass, 1, 2 and so on up to 30, and each wait is logged."""
    pace = new_pace(clock, monkeypatch)
    with caplog.at_level(logging.WARNING):
        for _ in range(10):
            assert pace.await_restart("it died", lambda: False)
    assert [0.5, 1, 2, 4, 8, 16, 30, 30, 30] == clock.waits
    record = caplog.records[0]
    assert "it died; 1 restart without an attempt that completes, the next follows in 0.5 s" == record.message
    assert ("engine_restarts", 1, 0.5) == (record.kind, record.restarts, record.delay)  # type: ignore[attr-defined]
    assert "2 restarts" in caplog.records[1].message


def test_a_restart_waits_since_the_one_before_not_since_the_death(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that has run for a while is started again at once."""
    pace = new_pace(clock, monkeypatch)
    for _ in range(3):
        assert pace.await_restart("it died", lambda: False)
        clock.now += 30
    assert [] == clock.waits


def test_a_completed_attempt_ends_the_waiting() -> None:
    """So that many processes which are killed at once are soon back."""
    pace = Pace()
    assert pace.await_restart("it died", lambda: False)
    pace._restarts, pace._latest = 10, time.monotonic()
    waiting = threading.Thread(target=pace.await_restart, args=("it died", lambda: False))
    waiting.start()
    assert eventually(lambda: pace._gates)
    pace.completed()
    waiting.join(TIMEOUT)
    assert not waiting.is_alive()
    pace.look()


def test_a_log_handler_may_ask_the_executor_while_a_restart_is_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No lock is held then: the handler is code of the program."""
    monkeypatch.setattr(pace_module, "_FIRST_PAUSE", TIMEOUT)  # longer than a slow machine takes to start one
    told: list[int] = []

    class Asking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(executor.stats().running)

    logger, handler = logging.getLogger("retrying_executor"), Asking()
    policy = RetryPolicy(max_attempts=3, initial_delay=0.001, max_delay=0.001)
    logger.addHandler(handler)
    try:
        with RetryingExecutor(1, engine=Processes(), retry=policy) as executor:
            future = executor.submit(errands.die)
            assert eventually(lambda: told)
            executor.shutdown(wait=False, cancel_futures=True)
            assert isinstance(future.exception(TIMEOUT), AttemptLostError)
    finally:
        logger.removeHandler(handler)


def test_what_is_called_off_is_not_started_again(tmp_path: Path) -> None:
    """A shutdown that cancels does not wait for the pace."""
    counter = str(tmp_path / "counter")
    policy = RetryPolicy(max_attempts=100, initial_delay=0.001, max_delay=0.001)
    with RetryingExecutor(1, engine=Processes(), retry=policy) as executor:
        future = executor.submit(errands.count_and_die, counter)
        assert eventually(lambda: any(runners(executor)))
        (runner,) = runners(executor)
        assert eventually(lambda: runner._engine.pace._restarts >= 2)
        assert eventually(lambda: runner._engine.pace._gates)
        runner._engine.pace._latest += 1000
        executor.shutdown(wait=True, cancel_futures=True)
        error = future.exception(0)
    assert isinstance(error, AttemptLostError)
    assert "no process is started any more; the one before: process " in str(error)


# -- the end -------------------------------------------------------------------------------------


def test_idle_workers_take_their_processes_along() -> None:
    """Back to zero threads is back to zero processes."""
    with RetryingExecutor(2, engine=Processes(), idle_timeout=0) as executor:
        pid = executor.submit(errands.pid).result(TIMEOUT)
        assert eventually(lambda: not executor.stats().threads)
        assert eventually(lambda: pid not in children())
        assert 4 == executor.submit(errands.square, 2).result(TIMEOUT)


def test_an_exception_that_is_kept_keeps_no_process() -> None:
    """Its traceback refers to frames of the worker; the process ends all the same."""
    executor = RetryingExecutor(1, engine=Processes(), retry=None)
    pid = executor.submit(errands.pid).result(TIMEOUT)
    errors = [executor.submit(call).exception(TIMEOUT) for call in (errands.fail, errands.leave)]
    assert pid in children()
    executor.shutdown()
    assert pid not in children()
    assert 2 == len(errors)


def test_a_shutdown_that_is_out_of_time_kills_what_runs(caplog: pytest.LogCaptureFixture) -> None:
    """Unlike threads, processes can be killed; the log says which calls that concerned."""
    executor = RetryingExecutor(1, engine=Processes(), retry=SOON)
    running, waiting = executor.submit(errands.hang), executor.submit(errands.pid)
    assert eventually(
        lambda: [True for runner in runners(executor) if runner is not None and runner._is_busy]
    )
    with caplog.at_level(logging.WARNING):
        executor.shutdown(timeout=0.01)
    assert waiting.cancelled()
    with pytest.raises(
        AttemptLostError, match=r"the executor had no time left, so process [0-9]+ was killed"
    ):
        running.result(TIMEOUT)
    (record,) = [record for record in caplog.records if "timed out" in record.message]
    assert (
        "shutdown timed out after 0.01 s: 1 waiting call cancelled, killed: errands.hang, none still running"
        == record.message
    )
    assert 1 == record.killed  # type: ignore[attr-defined]


def test_a_process_that_is_being_started_is_killed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as it is there; and none is started afterwards."""
    runner = ProcessRunner(new_engine(), lambda: False)
    start = runner._new_process

    def killed_meanwhile() -> Any:
        assert runner.kill()
        return start()

    monkeypatch.setattr(runner, "_new_process", killed_meanwhile)
    with pytest.raises(
        AttemptLostError, match=r"the executor had no time left, so process [0-9]+ was killed"
    ):
        runner.run(b"")
    runner._is_killed = True
    with pytest.raises(AttemptLostError, match="no process is started: the executor had no time left"):
        runner._start()


def test_a_process_that_does_not_end_by_itself_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that a thread of the program keeps, for example."""
    monkeypatch.setattr(processes, "_GRACE", 0.01)
    with RetryingExecutor(1, engine=Processes(), retry=None) as executor:
        executor.submit(errands.stay).result(TIMEOUT)


def test_an_idle_process_cannot_be_killed_by_mistake() -> None:
    """Only one that makes an attempt."""
    with RetryingExecutor(1, engine=Processes()) as executor:
        executor.submit(errands.pid).result(TIMEOUT)
        (runner,) = runners(executor)
        assert not runner.kill()
        assert 4 == executor.submit(errands.square, 2).result(TIMEOUT)


SCRIPT = """
import os, sys, time
sys.path.append(sys.argv[1])
import errands
from retrying_executor import RetryingExecutor, RetryPolicy
from retrying_executor.engines import Processes

def own(number):
    return number + 1

def say(future):
    os.write(1, f"{future.exception() or future.result()}\\n".encode())  # no buffer: forks copy these

if __name__ == "__main__":
    counter = os.path.join(sys.argv[2], "counter")
    engine = Processes(mp_context=sys.argv[3])
    executor = RetryingExecutor(2, engine=engine, retry=RetryPolicy(delays=(0.01,)))
    futures = [executor.submit(errands.fail_until, counter + str(n), 1) for n in range(5)]
    futures += [executor.submit(own, n) for n in range(5)]
    for future in futures:
        future.add_done_callback(say)
"""


def run(script: str, place: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    path = place / "script.py"
    path.write_text(textwrap.dedent(script), "utf-8")
    source = str(Path(retrying_executor.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, path, str(Path(__file__).parent), str(place), *args],
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])},
    )


@pytest.mark.parametrize(
    "method", [pytest.param(one, marks=[needs_late_starts] if one == "fork" else []) for one in METHODS]
)
def test_calls_get_their_outcomes_when_the_interpreter_ends(method: str, tmp_path: Path) -> None:
    """Processes are started although the script has run to its end, and none is left."""
    done = run(SCRIPT, tmp_path, method)
    assert (0, "") == (done.returncode, done.stderr)
    assert sorted(["2"] * 5 + ["1", "2", "3", "4", "5"]) == sorted(done.stdout.split())


def test_processes_that_end_before_they_are_ready_are_not_started_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If none was ever ready: what ends them does so each time. One that was killed tells nothing."""
    exit_codes = iter([errands.end, errands.die])
    errors = []
    for end in exit_codes:
        monkeypatch.setattr(processes, "serve", end)
        with RetryingExecutor(1, engine=Processes(), retry=SOON.replace(max_attempts=2)) as executor:
            future = executor.submit(errands.pid)
            errors.append((type(future.exception(TIMEOUT)), future.attempts))
    assert [(AttemptLostError, 1), (AttemptLostError, 2)] == errors


UNGUARDED = """
from retrying_executor import RetryingExecutor
from retrying_executor.engines import Processes

def own(number):
    return number + 1

with RetryingExecutor(1, engine=Processes(mp_context="spawn")) as executor:
    error = executor.submit(own, 1).exception()
    print(type(error).__name__, error, flush=True)
    raise error
"""


def test_a_script_without_a_guard_is_told(tmp_path: Path) -> None:
    """Its process imports it, and gets the message of `multiprocessing` that says what is missing."""
    done = run(UNGUARDED, tmp_path)
    assert "AttemptLostError no process could be started: " in done.stdout
    assert "if __name__ == '__main__':" in done.stdout


CHILD = """
import os, sys
sys.path.append(sys.argv[1])
import errands
from retrying_executor import RetryingExecutor
from retrying_executor.engines import Processes

if __name__ == "__main__":
    executor = RetryingExecutor(1, engine=Processes(mp_context=sys.argv[3]))
    print(executor.submit(errands.square, 2).result(), flush=True)
    child = os.fork()
    if not child:
        print(executor.submit(errands.square, 3).result(), flush=True)
        sys.exit(0)
    print(os.waitpid(child, 0)[1], executor.submit(errands.square, 4).result())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.parametrize("method", METHODS)
def test_a_forked_child_has_processes_of_its_own(method: str, tmp_path: Path) -> None:
    """Those of its parent are left alone."""
    done = run("import warnings; warnings.simplefilter('ignore')\n" + CHILD, tmp_path, method)
    assert (0, "") == (done.returncode, done.stderr)
    assert ["4", "9", "0 16"] == done.stdout.splitlines()


ORPHAN = """
import os, signal, sys
sys.path.append(sys.argv[1])
import errands
from retrying_executor import RetryingExecutor
from retrying_executor.engines import Processes

if __name__ == "__main__":
    executor = RetryingExecutor(1, engine=Processes())
    started = os.path.join(sys.argv[2], "started")
    executor.submit(getattr(errands, sys.argv[3]), started)
    while not (os.path.exists(started) and open(started, encoding="utf-8").read()):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("call", ["hang", "hold_gil"])
def test_processes_end_when_the_program_is_killed(call: str, tmp_path: Path) -> None:
    """Also in the middle of an attempt, even one that lets no other thread run."""
    assert -signal.SIGKILL == run(ORPHAN, tmp_path, call).returncode
    pid = int((tmp_path / "started").read_text("utf-8"))

    def is_gone() -> bool:
        try:
            return ") Z " in Path(f"/proc/{pid}/stat").read_text("utf-8")
        except OSError:  # pragma: no cover  # as a rule; else init has not looked after it yet
            return True

    assert eventually(is_gone)


INTERRUPTED = """
import os, signal, sys, threading
from retrying_executor import RetryingExecutor
from retrying_executor.engines import Processes

started, go = (os.path.join(sys.argv[2], name) for name in ("started", "go"))

def wait_for(path):
    while not os.path.exists(path):
        pass

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: None)
    with RetryingExecutor(1, engine=Processes(mp_context=sys.argv[3]), retry=None) as executor:
        future = executor.submit(pow, 2, 3)
        wait_for(started)
        os.killpg(0, signal.SIGINT)
        open(go, "x", encoding="utf-8").close()
        print(future.result())
else:
    open(started, "x", encoding="utf-8").close()
    wait_for(go)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no groups of processes here")
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_ctrl_c_spares_a_process_that_is_being_started(method: str, tmp_path: Path) -> None:
    """It is for the program; processes ignore it from the beginning."""
    done = run(INTERRUPTED, tmp_path, method)
    assert (0, "8\n", "") == (done.returncode, done.stdout, done.stderr)


# -- together with the rest ----------------------------------------------------------------------


def test_a_journal_goes_on_with_calls_on_the_engine(tmp_path: Path) -> None:
    """The call is kept as it was submitted, and the process that adopts it sends it again."""
    with VirtualTimeExecutor(journal=Journal(tmp_path / "journal")) as executor:
        executor.submit(errands.pid)
        executor.shutdown(cancel_futures=True)
    with RetryingExecutor(1, journal=Journal(tmp_path / "journal"), engine=Processes()) as executor:
        (adopted,) = executor.adopted
        pid = executor.submit(errands.pid).result(TIMEOUT)
        assert os.getpid() != pid
        assert pid == adopted.result(TIMEOUT)


def test_an_attempt_that_runs_for_long_is_logged_with_its_process(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Not with the stack of the thread that waits for it."""
    started = tmp_path / "started"
    with RetryingExecutor(1, engine=Processes(), warn_after=0.05, retry=None) as executor:
        future = executor.submit(errands.hang, str(started))
        assert eventually(lambda: [True for record in caplog.records if "in process" in record.message])
        (runner,) = runners(executor)
        pid = runner._process.pid
        runner.kill()
        assert isinstance(future.exception(TIMEOUT), AttemptLostError)
    message = next(record.message for record in caplog.records if "in process" in record.message)
    assert message.endswith(f", in process {pid}, for thread {executor._core.name}_0")


def test_a_process_that_is_being_started_has_no_number_yet() -> None:
    """The log says so."""
    assert "in a process that is being started" == ProcessRunner(new_engine(), lambda: False).place


def test_a_worker_of_a_forked_child_leaves_the_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the parent's."""
    runner = ProcessRunner(new_engine(), lambda: False)
    runner._start()
    process: Any = runner._process
    monkeypatch.setattr(os, "getpid", lambda: 0)
    runner.leave()
    assert runner._process is process
    monkeypatch.undo()
    runner.leave()
    assert runner._process is None


def test_virtual_time_needs_no_processes() -> None:
    """The option is checked, and the attempt runs in the thread that waits."""
    with VirtualTimeExecutor(engine=Processes()) as executor:
        assert os.getpid() == executor.submit(errands.pid).result()


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mp_context": "thread"}, "mp_context must be one of '.*', not 'thread'"),
        ({"mp_context": 3}, "mp_context must be a context of multiprocessing, or its name, not 3"),
        ({"attempt_timeout": 0}, "attempt_timeout must be"),
        ({"initializer": 3}, "initializer must be callable or None, not 3"),
        ({"initializer": errands.square}, "initializer must take no positional arguments"),
        ({"initializer": lambda: None}, "initializer must be something that can be pickled"),
        (
            {"initializer": errands.hang, "initargs": (threading.Lock(),)},
            "initargs must be something that can",
        ),
        ({"initargs": 3}, "initargs must be a tuple"),
        ({"max_tasks_per_child": 0}, "max_tasks_per_child must be"),
        ({"retry": None}, "unexpected keyword argument 'retry': did you mean RetryingExecutor"),
    ],
)
def test_wrong_options_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    """The error names the argument, its value and what is allowed."""
    with pytest.raises((TypeError, ValueError), match=message):
        Processes(**options)


def test_a_context_of_multiprocessing_will_do_as_well() -> None:
    """As with `ProcessPoolExecutor`."""
    context = multiprocessing.get_context("spawn")
    assert context is new_engine(mp_context=context).context


def test_an_option_of_an_engine_given_to_the_executor_is_told_where_it_belongs() -> None:
    """It is `Processes` that takes it."""
    with pytest.raises(TypeError, match=r"did you mean Processes\(attempt_timeout=...\)\?"):
        RetryingExecutor(attempt_timeout=3)  # type: ignore[call-arg]


def test_a_call_that_cannot_be_sent_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By ``submit()``, which names the part that is to blame; it never runs."""
    monkeypatch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)
    monkeypatch.setattr(sending, "_cloudpickle", lambda: None)
    with RetryingExecutor(1, engine=Processes()) as executor:
        with pytest.raises(TypeError, match=r"fn must be something that can be pickled, not .*<lambda>"):
            executor.submit(lambda: None)
        with pytest.raises(TypeError, match="argument 2 must be something that can be pickled, not a lock"):
            executor.submit(print, 1, threading.Lock())
        with pytest.raises(TypeError, match="argument 'end' must be something that can be pickled"):
            executor.submit(print, end=threading.Lock())  # type: ignore[call-overload]
        assert 0 == executor.stats().submitted


def test_coroutine_functions_are_refused_at_once() -> None:
    """No engine would await them."""

    async def later() -> None: ...

    message = "fn must not be a coroutine function, which no engine awaits"
    with RetryingExecutor(1, engine=Processes()) as executor, pytest.raises(TypeError, match=message):
        executor.submit(later)


class Cloud:
    """Stands in for cloudpickle: it can pickle anything."""

    @staticmethod
    def dumps(obj: object) -> bytes:
        return b"by value of __main__"


def test_what_cannot_be_pickled_is_sent_by_its_value_where_that_is_possible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If cloudpickle is installed."""
    monkeypatch.setattr(sending, "_cloudpickle", lambda: Cloud)
    assert pickle.dumps(3, pickle.HIGHEST_PROTOCOL) == sending.dumps_by_reference(3)
    assert b"by value of __main__" == sending.dumps_by_reference(lambda: None)
    assert b"by value of __main__" == sending.dumps_by_value(3)


def test_a_function_that_was_typed_in_is_sent_by_its_value_or_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No other process could import it."""
    main: Any = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    dumps = new_engine().dumps
    main.typed_in = type("typed_in", (), {"__module__": "__main__"})
    monkeypatch.setattr(sending, "_cloudpickle", lambda: Cloud)
    assert b"by value of __main__" == dumps(main.typed_in)
    monkeypatch.setattr(sending, "_cloudpickle", lambda: None)
    assert pickle.dumps(3, pickle.HIGHEST_PROTOCOL) == dumps(3)
    with pytest.raises(pickle.PicklingError, match="a program without a file"):
        dumps(main.typed_in)


def test_calls_can_be_sent_when_the_script_has_run_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has removed the name of its file then; processes that are started must know it all the same."""
    main: Any = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sending, "_cloudpickle", lambda: None)
    main.__file__ = "script.py"
    new_engine()
    engine = new_engine()
    del main.__file__
    assert "script.py" == main.__file__
    assert isinstance(main, ModuleType)
    assert "<module '__main__'" in repr(main)
    assert pickle.dumps("__main__", pickle.HIGHEST_PROTOCOL) == engine.dumps("__main__")


@pytest.mark.parametrize("is_installed", [False, True])
def test_cloudpickle_is_looked_for(is_installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be installed or not."""
    monkeypatch.setitem(sys.modules, "cloudpickle", Cloud if is_installed else None)  # type: ignore[arg-type]
    assert (Cloud if is_installed else None) is sending._cloudpickle.__wrapped__()
