"""Attempts on an executor of somebody else's, which is made anew when it breaks (L2, L3)."""

from __future__ import annotations

import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

import pytest

import errands
import retrying_executor
from conftest import TIMEOUT
from errands import TwoArgumentsError
from observe import eventually, needs_late_starts
from retrying_executor import AttemptLostError, RetryingExecutor, RetryPolicy
from retrying_executor._common import exits, sending, stdlib
from retrying_executor._common.errors import is_final
from retrying_executor._engines import far, shared
from retrying_executor.engines import Shared

SOON = RetryPolicy(max_attempts=4, initial_delay=0.001, max_delay=0.001)


def pool(method: str = "fork") -> ProcessPoolExecutor:
    """Return a pool of two processes."""
    return ProcessPoolExecutor(2, mp_context=get_context(method))


class Scripted(Executor):
    """An executor that does with each attempt what a test says; others it makes in the thread that asks."""

    def __init__(self, *acts: Any) -> None:
        self.acts = list(acts)
        self.waiting: list[Future[Any]] = []
        self.shutdowns: list[bool] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        act = self.acts.pop(0) if self.acts else None
        future: Future[Any] = Future()
        if isinstance(act, BaseException):
            raise act
        if act is None:
            future.set_result(fn(*args, **kwargs))
        else:
            act(future)
        return future

    def wait(self, future: Future[Any]) -> None:
        """Leave an attempt pending."""
        self.waiting.append(future)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.shutdowns.append(wait)


def raises(error: BaseException) -> Callable[[Future[Any]], None]:
    """Return what has an attempt end with an error of the engine."""
    return lambda future: future.set_exception(error)


def cancels(future: Future[Any]) -> None:
    """Cancel an attempt, as some engines do with those that they lose."""
    future.cancel()
    future.set_running_or_notify_cancel()


# -- attempts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", get_all_start_methods())
def test_attempts_run_on_the_engine(method: str, tmp_path: Path) -> None:
    """Results, exceptions and retries are as in threads."""
    with RetryingExecutor(2, engine=Shared(partial(pool, method)), retry=SOON) as executor:
        assert [0, 1, 4, 9] == list(executor.map(errands.square, range(4), timeout=TIMEOUT))
        assert os.getpid() != executor.submit(errands.pid).result(TIMEOUT)
        future = executor.submit(errands.fail_until, str(tmp_path / "counter"), 2)
        assert (3, 3) == (future.result(TIMEOUT), future.attempts)
        error = executor.submit(errands.fail).exception(TIMEOUT)
        call = executor.submit(errands.told).result(TIMEOUT)
        left = executor.submit(errands.leave).exception(TIMEOUT)
    assert isinstance(error, TwoArgumentsError)
    assert 503 == error.status
    assert call is not None
    assert "errands.told" == call.name
    assert isinstance(left, SystemExit)


def test_threads_are_an_engine_too() -> None:
    """A call there knows itself, and what it returns is a copy."""
    with RetryingExecutor(1, engine=Shared(lambda: ThreadPoolExecutor(1))) as executor:
        call = executor.submit(errands.told).result(TIMEOUT)
    assert call is not None
    assert 1 == call.attempt


def test_an_engine_may_run_calls_in_the_thread_that_asks() -> None:
    """As those for debugging do."""
    with RetryingExecutor(1, engine=Shared(Scripted), retry=None) as executor:
        call = executor.submit(errands.told).result(TIMEOUT)
        assert isinstance(executor.submit(errands.fail).exception(TIMEOUT), TwoArgumentsError)
    assert call is not None
    assert "errands.told" == call.name


def test_all_workers_share_one_engine() -> None:
    """It is made when the first needs it, and shut down when the last has left."""
    made: list[ThreadPoolExecutor] = []

    def factory() -> ThreadPoolExecutor:
        made.append(ThreadPoolExecutor(2))
        return made[-1]

    together = threading.Barrier(2)
    with RetryingExecutor(2, engine=Shared(factory), idle_timeout=0) as executor:
        assert [] == made
        meetings[together_key] = together
        futures = [executor.submit(meet, together_key) for _ in range(2)]
        assert 2 == len({future.result(TIMEOUT) for future in futures})
        assert 1 == len(made)
        assert eventually(lambda: not executor.stats().threads)
        assert eventually(lambda: made[0]._shutdown)
        assert 4 == executor.submit(errands.square, 2).result(TIMEOUT)
    assert 2 == len(made)


meetings: dict[str, threading.Barrier] = {}
together_key = "together"


def meet(key: str) -> int:
    """Wait until the other call is there, too; return which thread this is."""
    meetings[key].wait(TIMEOUT)
    return threading.get_ident()


def unread(future: Future[Any]) -> None:
    """Answer that the call cannot be read there."""
    future.set_result(pickle.dumps((far.UNREAD, None, "the call cannot be read there", None)))


class Cloud:
    """Stands in for cloudpickle."""

    @staticmethod
    def dumps(obj: object) -> bytes:
        return pickle.dumps(obj, 4)


def test_a_call_that_cannot_be_read_there_is_sent_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same attempt, if cloudpickle is installed; else that is a final error."""
    engine = Scripted(unread, None, unread, unread, unread)
    with RetryingExecutor(1, engine=Shared(lambda: engine), retry=SOON) as executor:
        monkeypatch.setattr(sending, "_cloudpickle", lambda: Cloud)
        future = executor.submit(errands.square, 3)
        assert (9, 1) == (future.result(TIMEOUT), future.attempts)
        with pytest.raises(TypeError, match="the call cannot be read there"):
            executor.submit(errands.square, 3).result(TIMEOUT)
        monkeypatch.setattr(sending, "_cloudpickle", lambda: None)
        with pytest.raises(TypeError, match="the call cannot be read there"):
            executor.submit(errands.square, 3).result(TIMEOUT)


def test_what_cannot_be_read_here_either_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is the same by value would make no difference."""
    monkeypatch.setattr(sending, "_cloudpickle", lambda: Cloud)
    assert sending.resent(pickle.dumps(errands.Unreadable())) is None
    assert sending.resent(pickle.dumps(3, 4)) is None
    assert pickle.dumps(3, 4) == sending.resent(pickle.dumps(3, 5))


# -- engines that break --------------------------------------------------------------------------


def test_a_broken_engine_is_made_anew(tmp_path: Path) -> None:
    """A call that kills its process breaks the pool each time; all others get through."""
    with RetryingExecutor(2, engine=Shared(pool), retry=SOON.replace(max_attempts=50)) as executor:
        futures = [executor.submit(errands.square, number) for number in range(30)]
        assert 3 == executor.submit(errands.die_until, str(tmp_path / "counter"), 2).result(TIMEOUT)
        assert [number**2 for number in range(30)] == [future.result(TIMEOUT) for future in futures]


def is_noticed(pools: list[ProcessPoolExecutor], known: int, futures: list[Any]) -> bool:
    """Return whether there is a new pool, or nothing is left to do."""
    return len(pools) > known or all(future.done() for future in futures)


def test_kills_lose_no_call(tmp_path: Path) -> None:
    """Whatever processes of the engine die, and when."""
    calls, pools, killed = 300, [], 0

    def factory() -> ProcessPoolExecutor:
        pools.append(pool())
        return pools[-1]

    policy = SOON.replace(max_attempts=200)
    with RetryingExecutor(4, engine=Shared(factory), retry=policy) as executor:
        futures = [
            executor.submit(errands.fail_until, str(tmp_path / str(number)), number % 5 == 0)
            for number in range(calls)
        ]
        while killed < 3 and not all(future.done() for future in futures):
            known = len(pools)
            processes = list((pools[-1]._processes or {}).values()) if pools else []
            if processes:
                try:
                    os.kill(processes[0].pid, signal.SIGKILL)
                except (ProcessLookupError, TypeError):  # pragma: no cover  # it has just ended, or not begun
                    continue
                killed += 1
                assert eventually(partial(is_noticed, pools, known, futures))
        assert calls == len([future.result(TIMEOUT) for future in futures])
        assert executor.stats().retried == sum(future.attempts - 1 for future in futures)
    assert killed


def test_what_a_dead_engine_never_answers_counts_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """When one attempt learns that the engine broke, the others get a moment more, and then they are lost."""
    monkeypatch.setattr(shared, "_GRACE", 0.02)
    dead = Scripted()
    dead.acts = [dead.wait, dead.wait, raises(BrokenProcessPool("a process died"))]
    engines = iter([dead, Scripted()])
    with RetryingExecutor(3, engine=Shared(lambda: next(engines)), retry=SOON) as executor:
        futures = [executor.submit(errands.square, number) for number in (1, 2)]
        assert eventually(lambda: 2 == len(dead.waiting))
        futures.append(executor.submit(errands.square, 3))
        assert [1, 4, 9] == [future.result(TIMEOUT) for future in futures]
    assert [2, 2, 2] == [future.attempts for future in futures]
    assert [False] == dead.shutdowns


def test_a_dead_engine_may_still_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the moment that the others get."""
    monkeypatch.setattr(shared, "_GRACE", TIMEOUT)
    dead = Scripted()
    dead.acts = [dead.wait, raises(BrokenProcessPool("a process died"))]
    engines = iter([dead, Scripted()])
    with RetryingExecutor(2, engine=Shared(lambda: next(engines)), retry=SOON) as executor:
        first = executor.submit(errands.square, 1)
        assert eventually(lambda: dead.waiting)
        second = executor.submit(errands.square, 2)
        assert 4 == second.result(TIMEOUT)
        dead.waiting[0].set_result(far.run(message_of(first)))
        assert (1, 1) == (first.result(TIMEOUT), first.attempts)


def message_of(future: Any) -> bytes:
    """Return what is sent for a call."""
    errand = future._work[0]
    return pickle.dumps((("name", 1, "key", None, None), b"", errand._payload))


@pytest.mark.parametrize(
    "act", [raises(BrokenProcessPool("a process died")), cancels, raises(OSError("gone"))]
)
def test_whatever_the_engine_raises_is_a_lost_attempt(act: Callable[[Future[Any]], None]) -> None:
    """What the call raises comes as bytes, so this is about the engine: it is made anew."""
    engines = iter([Scripted(act), Scripted()])
    with RetryingExecutor(1, engine=Shared(lambda: next(engines)), retry=SOON) as executor:
        future = executor.submit(errands.square, 3)
        assert (9, 2) == (future.result(TIMEOUT), future.attempts)


def test_an_engine_that_loses_one_attempt_and_goes_on_is_kept() -> None:
    """Where the classes of *lost* say so."""
    engine = Scripted(raises(KeyError("a worker died")))
    with RetryingExecutor(1, engine=Shared(lambda: engine, lost=LookupError), retry=SOON) as executor:
        future = executor.submit(errands.square, 3)
        assert (9, 2) == (future.result(TIMEOUT), future.attempts)
        assert [] == engine.shutdowns
    assert [True] == engine.shutdowns


def test_an_engine_that_refuses_broke_before_and_costs_no_attempt() -> None:
    """The attempt did not begin, so it goes to a new one."""
    engines = iter([Scripted(RuntimeError("cannot schedule new futures after shutdown")), Scripted()])
    with RetryingExecutor(1, engine=Shared(lambda: next(engines)), retry=None) as executor:
        assert 9 == executor.submit(errands.square, 3).result(TIMEOUT)


def test_engines_that_refuse_one_after_the_other_cost_an_attempt() -> None:
    """Or there would be no end to it."""
    engines = (Scripted(RuntimeError(f"refused {number}")) for number in range(2))
    with RetryingExecutor(1, engine=Shared(lambda: next(engines)), retry=None) as executor:
        error = executor.submit(errands.square, 3).exception(TIMEOUT)
    assert isinstance(error, AttemptLostError)
    assert "the attempt is lost: the engine broke: RuntimeError: refused 1" == str(error)


def test_an_engine_that_cannot_be_made_costs_an_attempt() -> None:
    """Its cause is what the factory has raised."""

    def factory() -> Executor:
        raise ConnectionRefusedError("no scheduler")

    with RetryingExecutor(1, engine=Shared(factory), retry=None) as executor:
        error = executor.submit(errands.square, 3).exception(TIMEOUT)
    assert isinstance(error, AttemptLostError)
    assert "the engine could not be started: ConnectionRefusedError: no scheduler" == str(error)
    assert isinstance(error.__cause__, ConnectionRefusedError)


def test_what_is_called_off_is_not_made_again() -> None:
    """A shutdown that cancels does not wait for the pace of restarts."""
    made: list[Executor] = []

    def factory() -> Executor:
        made.append(Scripted(*[raises(BrokenProcessPool("it died"))] * 9))
        return made[-1]

    policy = SOON.replace(max_attempts=1000)
    with RetryingExecutor(1, engine=Shared(factory), retry=policy) as executor:
        future = executor.submit(errands.square, 3)
        assert eventually(lambda: len(made) >= 2)
        (worker,) = executor._core.crew.roster.members
        pace = worker.runner._engine._pace
        assert eventually(lambda: pace._gates)
        pace._latest += 1000
        executor.shutdown(cancel_futures=True)
    with pytest.raises(
        AttemptLostError, match="no engine is started any more; the one before: the engine broke"
    ):
        future.result(0)


def test_no_engine_is_made_for_what_is_called_off_before() -> None:
    """There was none yet."""
    with pytest.raises(AttemptLostError, match=r"^no engine is started any more$"):
        new_engine(refuse).new_runner(lambda: True).run(b"")


def test_an_engine_must_return_what_it_is_given() -> None:
    """One that wraps results cannot be used, and says so once."""
    engine = Scripted(lambda future: future.set_result(["wrapped"]))
    with RetryingExecutor(1, engine=Shared(lambda: engine), retry=SOON) as executor:
        future = executor.submit(errands.square, 3)
        with pytest.raises(TypeError, match=re.escape("must return what is called there, not ['wrapped']")):
            future.result(TIMEOUT)
    assert 1 == future.attempts


def test_a_worker_of_a_forked_child_leaves_the_engine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the parent's."""
    engine = Scripted(lambda future: future.set_result(b""))
    runner = new_engine(lambda: engine).new_runner(lambda: False)
    assert b"" == runner.run(b"")
    monkeypatch.setattr(os, "getpid", lambda: 0)
    runner.leave()
    assert [] == engine.shutdowns
    monkeypatch.undo()
    runner.leave()
    assert [True] == engine.shutdowns


# -- the end -------------------------------------------------------------------------------------


def test_an_attempt_there_cannot_be_killed(caplog: pytest.LogCaptureFixture) -> None:
    """A shutdown that is out of time says that it still runs."""
    engine = Scripted()
    engine.acts = [engine.wait]
    executor = RetryingExecutor(1, engine=Shared(lambda: engine), retry=None)
    future = executor.submit(errands.square, 3)
    assert eventually(lambda: engine.waiting)
    with caplog.at_level(logging.WARNING):
        executor.shutdown(timeout=0.01)
    assert caplog.records[-1].message.endswith("still running: errands.square")
    engine.waiting[0].set_result(far.run(message_of(future)))
    assert 9 == future.result(TIMEOUT)
    executor.shutdown()


class Stubborn(Scripted):
    """An executor that cannot be shut down."""

    def __init__(self, shut_down: Callable[[], object]) -> None:
        super().__init__()
        self._shut_down = shut_down

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._shut_down()


def test_an_engine_that_does_not_end_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker leaves all the same."""
    monkeypatch.setattr(shared, "_END_TIMEOUT", 0.01)
    released = threading.Event()
    engine = Stubborn(lambda: released.wait(TIMEOUT))
    with RetryingExecutor(1, engine=Shared(lambda: engine)) as executor:
        executor.submit(errands.square, 3)
    released.set()
    (record,) = caplog.records
    assert "the engine, a Stubborn, does not return from shutdown()" == record.message
    assert "engine_does_not_end" == record.kind  # type: ignore[attr-defined]


def refuse() -> None:
    """Raise an exception."""
    raise OSError("no")


def test_an_engine_that_raises_when_it_ends_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With the exception."""
    engine = Stubborn(refuse)
    with RetryingExecutor(1, engine=Shared(lambda: engine)) as executor:
        executor.submit(errands.square, 3)
    (record,) = caplog.records
    assert "the engine, a Stubborn, raised an exception in shutdown()" == record.message
    assert record.exc_info is not None


def test_an_engine_is_shut_down_although_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the worker does it itself."""
    engine = Scripted()

    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    shared._shut_down(engine, wait=True)
    assert [True] == engine.shutdowns


SCRIPT = """
import os, sys
sys.path.append(sys.argv[1])
import errands
from retrying_executor import RetryingExecutor, RetryPolicy
from retrying_executor.engines import Shared
IMPORT

def own(counter):
    return errands.fail_until(counter, 1)

def factory():
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context
    return ProcessPoolExecutor(2, get_context(sys.argv[3]))

def say(future):
    os.write(1, f"{future.exception() or future.result()}\\n".encode())  # no buffer: forks copy these

if __name__ == "__main__":
    counter = os.path.join(sys.argv[2], "counter")
    executor = RetryingExecutor(2, engine=Shared(factory), retry=RetryPolicy(delays=(0.01,)))
    for number in range(5):
        future = executor.submit(own, counter + str(number))
        future.add_done_callback(say)
"""


@needs_late_starts
@pytest.mark.parametrize("imported", ["", "import concurrent.futures.process"])
@pytest.mark.parametrize("method", get_all_start_methods())
def test_calls_get_their_outcomes_when_the_interpreter_ends(
    method: str, imported: str, tmp_path: Path
) -> None:
    """Before the engine is ended by its own library, whenever that was imported."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("IMPORT", imported), "utf-8")
    source = str(Path(retrying_executor.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, script, str(Path(__file__).parent), str(tmp_path), method],
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])},
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert ["2"] * 5 == done.stdout.split()


@pytest.fixture
def at_the_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The interpreter seems to end, and accepts no hooks any more."""
    monkeypatch.setattr(exits, "_exiting", True)
    monkeypatch.setattr(threading, "_SHUTTING_DOWN", True)
    yield
    assert threading._SHUTTING_DOWN  # type: ignore[attr-defined]


def new_engine(factory: Callable[[], Any]) -> Any:
    """Return an engine as an executor makes it."""
    return Shared(factory)._new_engine()


@pytest.mark.usefixtures("at_the_end")
def test_an_engine_can_start_although_the_interpreter_ends() -> None:
    """Some register a hook for that end with each start."""

    def factory() -> Executor:
        stdlib.register_atexit(print)
        return Scripted(lambda future: future.set_result(b""))

    hooks = list(threading._threading_atexits)  # type: ignore[attr-defined]
    try:
        assert b"" == new_engine(factory).new_runner(lambda: False).run(b"")
    finally:
        threading._threading_atexits[:] = hooks  # type: ignore[attr-defined]


def test_an_engine_can_start_although_the_end_begins_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python sets a flag for it in another thread: then it is started once more."""
    monkeypatch.setattr(threading, "_SHUTTING_DOWN", False)
    hooks = list(threading._threading_atexits)  # type: ignore[attr-defined]
    starts: list[int] = []

    def factory() -> Executor:
        starts.append(1)
        if len(starts) == 1:
            threading._SHUTTING_DOWN = True  # type: ignore[attr-defined]
        stdlib.register_atexit(print)
        return Scripted(lambda future: future.set_result(b""))

    try:
        assert b"" == new_engine(factory).new_runner(lambda: False).run(b"")
    finally:
        threading._threading_atexits[:] = hooks  # type: ignore[attr-defined]
    assert 2 == len(starts)


@pytest.mark.usefixtures("at_the_end")
def test_what_cannot_start_since_the_interpreter_ends_is_final() -> None:
    """Another attempt would only fail later."""

    def factory() -> Executor:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    with pytest.raises(AttemptLostError) as caught:
        new_engine(factory).new_runner(lambda: False).run(b"")
    assert is_final(caught.value)
    refusing = Scripted(RuntimeError("cannot schedule new futures after interpreter shutdown"))
    with pytest.raises(AttemptLostError) as caught:
        new_engine(lambda: refusing).new_runner(lambda: False).run(b"")
    assert is_final(caught.value)


def test_our_hook_comes_first_again_when_another_was_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter calls the latest first, and others end engines on which calls still run."""
    hooks: list[Any] = []
    monkeypatch.setattr(exits, "_hook", exits._hook)
    monkeypatch.setattr(threading, "_threading_atexits", hooks)
    exits.come_first()
    exits.come_first()
    assert 1 == len(hooks)
    stdlib.register_atexit(print)
    exits.come_first()
    assert 3 == len(hooks)


# -- what is refused -----------------------------------------------------------------------------


def test_an_executor_instead_of_a_factory_is_refused() -> None:
    """It could not be made anew; the error says what to write."""
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(TypeError, match=re.escape("Shared(lambda: ThreadPoolExecutor(...))")):
            Shared(executor)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=re.escape("Shared(lambda: ThreadPoolExecutor(...))")):
            RetryingExecutor(engine=executor)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (None, {}, "factory must be a function that returns a new executor, not None"),
        (3, {}, "factory must be a function that returns a new executor or None, not 3"),
        (errands.square, {}, "factory must take no positional arguments"),
        (pool, {"lost": "all"}, "lost must be an exception class, or a tuple of them, not 'all'"),
        (pool, {"attempt_timeout": 3}, r"did you mean Processes\(attempt_timeout=...\)\?"),
    ],
)
def test_wrong_options_are_refused_at_once(factory: Any, options: dict[str, Any], message: str) -> None:
    """The error names the argument, its value and what is allowed."""
    with pytest.raises(TypeError, match=message):
        Shared(factory, **options)


def test_a_factory_must_return_an_executor() -> None:
    """Another attempt would only find out the same."""
    with RetryingExecutor(1, engine=Shared(lambda: 3), retry=SOON) as executor:
        future = executor.submit(errands.square, 3)
        with pytest.raises(TypeError, match="the factory must return an executor, not 3"):
            future.result(TIMEOUT)
    assert 1 == future.attempts


@pytest.mark.parametrize("engine", [3, "processes", Shared])
def test_an_engine_must_be_one_of_ours(engine: Any) -> None:
    """The error says which there are."""
    with pytest.raises(TypeError, match=r"engine must be Processes\(...\) or Shared\(...\), or None, not "):
        RetryingExecutor(engine=engine)
