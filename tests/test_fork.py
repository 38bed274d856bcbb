"""Forks: the child starts empty, what it inherited fails at once, and the parent is undisturbed."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import as_completed, wait
from pathlib import Path
from threading import Event
from typing import Any, NoReturn

import pytest

import retrying_executor
from calls import Flaky
from conftest import TIMEOUT
from forks import check_executor_works, check_orphaned, held, in_child
from observe import eventually, needs_locks_of_workers
from retrying_executor import ForkedFutureError, RetryingExecutor, RetryPolicy, Upstream
from retrying_executor._calls.current import current
from retrying_executor._common import exits, forks, log, unseen
from retrying_executor._common.stdlib import is_held
from retrying_executor._core.core import Core
from retrying_executor._core.settling import _Observed
from retrying_executor._threads.threads import Threads
from retrying_executor._upstream.places import Places

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows knows no fork")


def hang() -> None:
    """Wait for what never happens."""
    threading.Event().wait()  # pragma: no cover  # the process is killed


@pytest.mark.parametrize(
    ("check", "patience", "report"), [(lambda: 1 / 0, TIMEOUT, "ZeroDivisionError"), (hang, 2.0, "in hang")]
)
def test_child_that_fails_or_hangs_is_reported(
    check: Callable[[], object], patience: float, report: str
) -> None:
    """What the tests below rely on: nothing that goes wrong in a child goes unnoticed (F6)."""
    with pytest.raises(AssertionError, match=report):
        in_child(check, patience)


def test_inherited_futures_fail_at_once(policy: RetryPolicy) -> None:
    """Running, ready or in backoff, observed or not: in the child the futures have failed (F6).

    Those that were done keep their outcome, and done callbacks are left to the parent.
    """
    told: list[object] = []
    with RetryingExecutor(2, retry=policy) as executor:
        succeeded, failed = executor.submit(Flaky(0)), executor.submit(Flaky(9))
        assert not wait([failed, succeeded], TIMEOUT).not_done
        with held(executor) as running, held(executor) as observed:
            observed.add_done_callback(told.append)
            ready = executor.submit(Flaky(1))
            cancelled = executor.submit(Flaky(2))
            assert cancelled.cancel()

            def check() -> None:
                check_orphaned(running, observed, ready)
                assert not told
                assert not wait([succeeded, failed, cancelled], 0).not_done
                assert 3 == len(list(as_completed([succeeded, failed, cancelled], 0)))
                assert 0 == succeeded.result(0)
                assert isinstance(failed.exception(0), ConnectionError)
                assert cancelled.cancelled()
                check_executor_works(executor)

            in_child(check)
        assert 1 == ready.result(TIMEOUT)
    assert [observed] == told


def test_call_in_backoff_stays_with_the_parent() -> None:
    """A call that waits for its next attempt fails in the child, which makes no attempt of it (F6)."""
    flaky = Flaky(1)
    with RetryingExecutor(1, retry=RetryPolicy(delays=(3600,), max_elapsed=None)) as executor:
        future = executor.submit(flaky)
        assert eventually(lambda: future.due_at is not None)

        def check() -> None:
            check_orphaned(future)
            assert future.due_at is None
            assert 0 == executor.stats().in_backoff
            executor.shutdown()
            assert 1 == flaky.attempts

        in_child(check)
        assert 1 == executor.stats().in_backoff
        assert future.cancel()


def from_call(executor: RetryingExecutor, fork: Callable[[], None]) -> None:
    """Fork in a call."""
    executor.submit(fork).result(TIMEOUT)


def from_done_callback(executor: RetryingExecutor, fork: Callable[[], None]) -> None:
    """Fork in a done callback, which a worker runs."""
    told = threading.Event()

    def callback(_: object) -> None:
        fork()
        told.set()

    with held(executor) as future:
        future.add_done_callback(callback)
    assert told.wait(TIMEOUT)


def from_policy(executor: RetryingExecutor, fork: Callable[[], None]) -> None:
    """Fork in a retry policy."""
    with pytest.raises(ConnectionError):
        executor.with_options(retry=lambda attempt: fork()).submit(Flaky(1)).result(TIMEOUT)


def from_child(_: RetryingExecutor, fork: Callable[[], None]) -> None:
    """Fork in a child."""
    in_child(fork)


@pytest.mark.parametrize("place", [from_call, from_done_callback, from_policy, from_child])
def test_fork_in_any_place(
    place: Callable[[RetryingExecutor, Callable[[], None]], None], executor: RetryingExecutor
) -> None:
    """Wherever somebody forks, the child's executor works, and the parent goes on (F6, F7)."""

    def fork() -> None:
        in_child(lambda: (check_orphaned(running), check_executor_works(executor), executor.shutdown()))

    with held(executor) as running:
        place(executor, fork)
    assert 2 == executor.submit(Flaky(2)).result(TIMEOUT)


def test_two_threads_that_fork_undo_what_is_theirs(
    monkeypatch: pytest.MonkeyPatch, executor: RetryingExecutor
) -> None:
    """The second locks everything as soon as the first has given the last lock back (F6)."""
    unlock, entered = forks._unlock_guard, threading.Event()

    def unlock_slowly() -> None:
        unlock()
        assert entered.wait(TIMEOUT)

    def fork() -> None:
        forks._before_fork()
        entered.set()
        forks._unlock_all()

    monkeypatch.setattr(forks, "_unlock_guard", unlock_slowly)
    forks._before_fork()
    other = threading.Thread(target=fork)
    other.start()
    forks._unlock_all()
    other.join(TIMEOUT)
    assert 0 == executor.submit(int).result(TIMEOUT)
    last = threading.Thread(target=exits.cores)  # which needs the lock that is given back last
    last.start()
    last.join(TIMEOUT)
    assert not last.is_alive()


@pytest.mark.parametrize("where", ["in a call", "in a done callback"])
def test_the_thread_that_forked_ends_in_the_child(where: str) -> None:
    """When what forked returns there, it finds that the executor is another's: it takes no call (F6).

    The hook of the child runs in this process, since nobody could look on in the child's last thread.
    """
    release, calls = threading.Event(), []

    def fork(*_: object) -> None:
        executor._core.restart_in_child()
        calls.append(executor.submit(release.wait, TIMEOUT))
        calls.append(executor.submit(threading.current_thread))

    with RetryingExecutor(1) as executor:
        thread = executor.submit(threading.current_thread).result(TIMEOUT)
        if where == "in a call":
            future = executor.submit(fork)
        else:
            with held(executor) as running:
                running.add_done_callback(fork)
        thread.join(TIMEOUT)
        release.set()
        assert not thread.is_alive()
        assert thread is not calls[1].result(TIMEOUT)
        if where == "in a call":
            assert isinstance(future.exception(0), ForkedFutureError)


def test_who_waited_when_a_signal_handler_forked_waits_no_more_in_the_child() -> None:
    """The handler returns into the wait, in the child too: there the call has failed (F6)."""
    release, outcomes = threading.Event(), []
    with RetryingExecutor(1) as executor:
        running = executor.submit(release.wait, TIMEOUT)
        waiter = threading.Thread(target=lambda: outcomes.append(running.exception(TIMEOUT)))
        waiter.start()
        assert eventually(lambda: running._awaited)
        executor._core.restart_in_child()
        waiter.join(TIMEOUT)
        release.set()
        assert isinstance(outcomes[0], ForkedFutureError)


def test_child_has_children_of_its_own(executor: RetryingExecutor) -> None:
    """What a child submitted is to its own child what the parent's calls are to it (F6)."""

    def check() -> None:
        with held(executor) as running:
            in_child(lambda: (check_orphaned(inherited, running), check_executor_works(executor)))

    with held(executor) as inherited:
        in_child(check)


def test_a_call_that_is_observed_as_the_last_other_goes_away_is_known() -> None:
    """When it is found that none is left there may be one already, which a fork needs to know (F6)."""

    class Meanwhile(_Observed):
        def __bool__(self) -> bool:
            is_empty = not len(self)
            self.add(late)
            return not is_empty

    with RetryingExecutor(1) as executor:
        futures = [executor.submit(int) for _ in range(2)]
        early, late = map(weakref.ref, futures)
        observed = Meanwhile([early])
        observed.forget(early)
    assert {late} == observed


def test_executor_that_was_shut_down_stays_so(policy: RetryPolicy) -> None:
    """In a child too, after shutdown submit() is refused, and there is nothing to wait for (F4, F6)."""
    executor = RetryingExecutor(1, retry=policy)

    def check() -> None:
        check_orphaned(running, ready)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.submit(int)
        executor.shutdown()

    with held(executor) as running:
        ready = executor.submit(Flaky(1))
        executor.shutdown(wait=False)
        in_child(check)
    assert 1 == ready.result(TIMEOUT)
    in_child(executor.shutdown)


def test_calls_of_a_multiprocessing_child_are_finished(executor: RetryingExecutor) -> None:
    """A child that multiprocessing forks ends when its calls have their outcome, with retries (F4, F6)."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    flaky = Flaky(2)

    def child() -> None:
        check_orphaned(running)
        executor.submit(lambda: writer.send(flaky()))

    with reader, held(executor) as running:
        process = context.Process(target=child)
        process.start()
        writer.close()
        assert reader.poll(TIMEOUT)
        assert 2 == reader.recv()
        process.join(TIMEOUT)
        assert 0 == process.exitcode
        process.close()
    assert 0 == flaky.attempts


@pytest.mark.parametrize("lock", [forks, Places, Core, "workers"])
def test_an_interrupt_while_a_fork_begins_leaves_nothing_locked(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch, lock: object
) -> None:
    """A signal handler may raise in the hook before the fork, which goes on: parent and child work (F6)."""

    class Interrupted:
        """A lock that is not taken."""

        def acquire(self) -> NoReturn:
            raise KeyboardInterrupt

    stop = Threads._stop

    def interrupted(threads: Threads, *args: Any) -> NoReturn:
        Threads._stop = stop  # type: ignore[method-assign]  # once is enough
        stop(threads, *args)
        raise KeyboardInterrupt

    service = Upstream("service")
    with held(executor) as running:
        with monkeypatch.context() as patch:
            if lock == "workers":
                patch.setattr(Threads, "_stop", interrupted)
            elif isinstance(lock, type):
                patch.setattr(lock, "lock_for_fork", lambda _, timeout: Interrupted().acquire())
            else:
                patch.setattr(forks, "guard", Interrupted())
            patch.setattr(sys, "unraisablehook", lambda _: None)  # where the interpreter reports it
            in_child(lambda: (check_orphaned(running), check_executor_works(executor)))
        with RetryingExecutor(1) as other:
            assert 0 == other.submit(int).result(TIMEOUT)
    with RetryingExecutor(1, upstream=service) as other:
        assert 0 == other.submit(int).result(TIMEOUT)
    assert 2 == executor.submit(Flaky(2)).result(TIMEOUT)


@needs_locks_of_workers
def test_a_fork_waits_until_no_worker_is_in_the_middle_of_anything(executor: RetryingExecutor) -> None:
    """A destructor may hold one up there, and want what the fork has locked: that is given back (F6, F7)."""
    inside, release = Event(), Event()

    def hold_up() -> None:
        hand = current.hand
        assert hand is not None
        with hand.lock:
            inside.set()
            assert release.wait(TIMEOUT)

    future = executor.submit(hold_up)
    assert inside.wait(TIMEOUT)
    assert not executor._core.lock_for_fork(0.001)
    assert not is_held(executor._core.lock)
    release.set()
    assert future.result(TIMEOUT) is None


def test_what_was_put_off_in_the_parent_is_not_done_in_the_child(executor: RetryingExecutor) -> None:
    """It is about calls of the parent (F6)."""
    done: list[int] = []
    executor._core.put_off.append(lambda: done.append(os.getpid()))
    in_child(lambda: check_executor_works(executor))
    assert eventually(lambda: executor.submit(int).result(TIMEOUT) == 0 and done)
    assert [os.getpid()] == done


@pytest.mark.parametrize("is_upstream", [False, True])
def test_a_fork_does_not_hold_up_a_destructor_that_holds_up_the_fork(
    monkeypatch: pytest.MonkeyPatch, *, is_upstream: bool
) -> None:
    """Where something is locked, a destructor may make an executor while a thread forks (F6, F7)."""
    monkeypatch.setattr(forks, "_LOCK_TIMEOUT", 0.01)
    inside, is_asked = threading.Event(), threading.Event()
    service = Upstream("service")
    with RetryingExecutor(1, upstream=service) as executor:
        late: Any = service._places if is_upstream else executor._core

        def hold_up() -> None:
            with service._places._lock if is_upstream else executor._core.lock:
                inside.set()
                assert is_asked.wait(TIMEOUT)
                with RetryingExecutor(1) as other:
                    assert 1 == other.submit(int, 1).result(TIMEOUT)

        lock = late.lock_for_fork
        # By then the fork has locked what an executor needs.
        monkeypatch.setattr(late, "lock_for_fork", lambda timeout: is_asked.set() or lock(timeout))
        thread = threading.Thread(target=hold_up)
        thread.start()
        assert inside.wait(TIMEOUT)
        in_child(lambda: check_executor_works(executor))
        thread.join(TIMEOUT)
        assert 0 == executor.submit(int).result(TIMEOUT)


IN_THE_MIDDLE_OF_AN_IMPORT = """
import faulthandler, os, sys, threading
from importlib.machinery import PathFinder
from retrying_executor import RetryingExecutor, RetryPolicy

module, patience = sys.argv[1], float(sys.argv[2])
assert module not in sys.modules
if module.startswith("google"):
    sys.modules["grpc"] = None  # only a program that has it reads such details
elif module == "difflib":
    import calendar, email.utils, random, uuid  # or the thread would go on while the fork imports them
begun, forks = threading.Event(), threading.Event()

class Pause:
    def find_spec(name, path, target=None):
        if name == module:
            spec = PathFinder.find_spec(name, path)
            load = spec.loader.exec_module

            def pause(created):
                begun.set()
                forks.wait()
                load(created)

            spec.loader.exec_module = pause
            return spec

class Busy(Exception):
    if module.startswith("google"):
        def trailing_metadata(self):
            return [("grpc-status-details-bin", b"")]
    else:
        headers = {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}

def busy():
    failures.append(Busy())
    if len(failures) == 1:
        raise failures[0] if module != "random" else ConnectionError

failures = []
sys.meta_path.insert(0, Pause)
os.register_at_fork(before=forks.set)  # it runs before those that were registered before
executor = RetryingExecutor(1, retry=RetryPolicy(initial_delay=0.001), idle_timeout=0)
if module == "uuid":
    needs = lambda: executor.submit(int).key
elif module == "difflib":
    def needs():
        try:
            RetryingExecutor(max_worker=1)
        except TypeError:
            pass
elif module == "retrying_executor._observe.monitor":
    needs = lambda: RetryingExecutor(1, on_event=print)
else:
    needs = lambda: executor.submit(busy).result()
thread = threading.Thread(target=needs)
thread.start()
assert begun.wait(patience)
sys.setswitchinterval(patience)  # the thread goes on only while this one waits for something
child = os.fork()
faulthandler.dump_traceback_later(patience, exit=True)
if child:
    _, status = os.waitpid(child, 0)
    assert status == 0
    thread.join()
else:
    failures.clear()
    needs()
"""


PROTOS = ["google.rpc.status_pb2", "google.rpc.error_details_pb2"]


@pytest.mark.parametrize(
    "module",
    [
        *("email.utils", "calendar", "difflib", "random", "uuid", *PROTOS),
        *("retrying_executor._observe.monitor", "retrying_executor._policy.rules"),
    ],
)
def test_fork_in_the_middle_of_an_import(module: str, tmp_path: Path) -> None:
    """What a thread was importing for the library while another forked, the child can import too (F6)."""
    for name in PROTOS:  # where they are not installed
        file = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    place = os.pathsep.join([str(Path(retrying_executor.__file__).parent.parent), str(tmp_path)])
    command = [sys.executable, "-W", "ignore", "-c", IN_THE_MIDDLE_OF_AN_IMPORT, module, str(TIMEOUT / 2)]
    # Without coverage there, which imports these modules itself.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    environment["PYTHONPATH"] = place
    done = subprocess.run(command, env=environment, capture_output=True, check=False, encoding="utf-8")
    assert 0 == done.returncode, done.stderr


def test_a_failure_that_goes_away_in_a_child_is_logged_there_although_the_parent_was_about_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread that would log those of the parent is not there in the child (F6, G3)."""
    monkeypatch.setattr(unseen, "_is_coming", True)  # as it is for a moment after a failure fell due

    def check() -> None:
        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                came_out.set()

        came_out = threading.Event()
        logging.getLogger("retrying_executor").addHandler(Handler())
        subject = log.Subject("call", key="", label=None, executor="")
        unseen.UnseenFailure(subject, 1, ValueError())  # no worker is left
        assert came_out.wait(TIMEOUT)

    in_child(check)
