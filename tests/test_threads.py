"""The worker threads: when they start, when they leave, and which calls they take."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import wait
from concurrent.futures.thread import BrokenThreadPool
from contextlib import suppress
from functools import partial
from itertools import count, pairwise
from threading import Barrier, BrokenBarrierError, Event, Lock, Semaphore, Thread

import pytest

from conftest import TIMEOUT
from observe import eventually, needs_gil, resting, threads_named
from retrying_executor import RetryingExecutor, RetryingFuture, RetryPolicy
from retrying_executor._calls.ledger import Ledger
from retrying_executor._core.core import Core
from retrying_executor._threads import workers
from retrying_executor._threads.roster import Roster, Worker

AT_ONCE = RetryPolicy(delays=(0, 0, 0, 0))
NEVER_DUE = 3600.0


def fail() -> None:
    """A call that fails."""
    raise ValueError


# -- lazily started, and gone again (C1, C2) -----------------------------------------------------


def test_no_thread_is_started_before_the_first_call() -> None:
    """An executor that nobody used has no thread, and neither has one after views and questions (C1)."""
    with RetryingExecutor(2, "unused") as executor:
        executor.with_options(max_attempts=3)
        executor.stats()
        assert executor.drain(TIMEOUT)
        assert [] == threads_named("unused")
        assert 0 == executor.stats().threads


def test_a_call_is_given_to_a_thread_that_rests() -> None:
    """No thread is started while one is idle, however many calls come one after the other (C1)."""
    seen = set()
    with RetryingExecutor(8) as executor:
        for _ in range(50):
            seen.add(executor.submit(threading.get_ident).result(TIMEOUT))
            assert eventually(lambda: resting(executor))
        assert 1 == executor.stats().threads
    assert 1 == len(seen)


@pytest.mark.parametrize("max_workers", [1, 2, 5])
def test_there_are_as_many_threads_as_work_but_never_more_than_max_workers(max_workers: int) -> None:
    """With more calls than workers every worker is started and none beyond (C1)."""
    release = Event()
    together = Barrier(max_workers + 1)

    def call() -> None:
        together.wait(TIMEOUT)
        assert release.wait(TIMEOUT)

    with RetryingExecutor(max_workers, "counted") as executor:
        first = [executor.submit(call) for _ in range(max_workers)]
        together.wait(TIMEOUT)
        others = [executor.submit(int) for _ in range(20)]
        assert max_workers == executor.stats().threads
        assert max_workers == len(threads_named("counted"))
        assert {f"counted_{i}" for i in range(max_workers)} == {t.name for t in threads_named("counted")}
        release.set()
        assert not wait(first + others, TIMEOUT).not_done


@pytest.mark.parametrize("idle_timeout", [0, 0.01])
def test_threads_leave_when_they_were_idle_for_long_enough(idle_timeout: float) -> None:
    """The process is back at zero threads without shutdown(), and the next call starts one again (C2)."""
    with RetryingExecutor(3, "leaving", retry=AT_ONCE, idle_timeout=idle_timeout) as executor:
        for _ in range(3):
            futures = [executor.submit(int) for _ in range(10)]
            assert not wait(futures, TIMEOUT).not_done
            assert eventually(lambda: not threads_named("leaving"))
            assert 0 == executor.stats().threads


def test_a_thread_does_not_leave_before_the_idle_timeout() -> None:
    """An idle thread stays for at least idle_timeout seconds (C2)."""
    with RetryingExecutor(1, "patient", idle_timeout=0.2) as executor:
        ran_at = executor.submit(time.monotonic).result(TIMEOUT)
        assert eventually(lambda: not threads_named("patient"))
        assert time.monotonic() - ran_at >= 0.2


def test_without_an_idle_timeout_threads_stay_until_the_shutdown() -> None:
    """With idle_timeout=None an idle thread waits without a limit, and shutdown() ends it (C2, F1)."""
    with RetryingExecutor(1, "staying", idle_timeout=None) as executor:
        thread = executor.submit(threading.current_thread).result(TIMEOUT)
        assert eventually(lambda: resting(executor))
        assert thread.is_alive()
        assert thread is executor.submit(threading.current_thread).result(TIMEOUT)
    assert not thread.is_alive()


# -- in backoff (C3, C4) -------------------------------------------------------------------------


def test_calls_in_backoff_keep_one_thread_parked_that_uses_no_cpu() -> None:
    """While calls are only in backoff, the others leave and the one that stays sleeps (C3)."""
    with RetryingExecutor(4, "parked", retry=lambda _: NEVER_DUE, idle_timeout=0) as executor:
        futures = [executor.submit(fail) for _ in range(200)]
        assert eventually(lambda: executor.stats().in_backoff == 200)
        assert eventually(lambda: executor.stats().threads == 1)
        assert eventually(lambda: len(threads_named("parked")) == 1)
        assert eventually(lambda: resting(executor) == 1)
        used = time.process_time()
        assert not Event().wait(0.5)  # nothing runs in the meantime
        assert time.process_time() - used < 0.1
        assert all(future.cancel() for future in futures)
        assert eventually(lambda: not threads_named("parked"))


def test_the_thread_of_a_call_in_backoff_leaves_when_the_call_is_cancelled() -> None:
    """Nobody waits for a due time that nothing has any more, whatever the order of cancelling (C2, E1)."""
    with RetryingExecutor(2, "parked", retry=lambda _: NEVER_DUE, idle_timeout=0) as executor:
        futures = [executor.submit(fail) for _ in range(3)]
        assert eventually(lambda: executor.stats().in_backoff == 3)
        for future in reversed(futures):
            assert threads_named("parked")
            assert future.cancel()
        assert eventually(lambda: not threads_named("parked"))


@pytest.mark.parametrize("idle_timeout", [0, None])
@pytest.mark.parametrize("slow_first", [True, False])
def test_a_slow_call_delays_nobody_that_becomes_due(slow_first: bool, idle_timeout: float | None) -> None:
    """A retry that is known to a busy worker only is run by another one, at rest or not started yet (C4)."""
    release, started = Event(), Event()
    attempts = count(1)

    def flaky() -> int:
        if (number := next(attempts)) < 3:
            raise ValueError
        return number

    def slow() -> None:
        started.set()
        assert release.wait(TIMEOUT)

    policy = RetryPolicy(delays=(0.02, 0.02))
    with RetryingExecutor(2, retry=policy, idle_timeout=idle_timeout) as executor:
        calls = [slow, flaky] if slow_first else [flaky, slow]
        futures = {call: executor.submit(call) for call in calls}
        assert started.wait(TIMEOUT)
        assert 3 == futures[flaky].result(TIMEOUT)
        assert not futures[slow].done()
        release.set()


@pytest.mark.parametrize("others", [0, 1])
def test_a_call_in_backoff_is_not_forgotten_when_the_thread_that_waited_gets_busy(others: int) -> None:
    """The leader is given a slow call: whoever is left, or started, waits for the retry instead (C4)."""
    release, failed = Event(), Event()
    attempts = count(1)

    def flaky() -> int:
        if (number := next(attempts)) < 2:
            failed.set()
            raise ValueError
        return number

    def slow() -> None:
        assert release.wait(TIMEOUT)

    with RetryingExecutor(2 + others, retry=RetryPolicy(delays=(0.05,)), idle_timeout=None) as executor:
        retried = executor.submit(flaky)
        assert failed.wait(TIMEOUT)
        assert eventually(lambda: resting(executor) or retried.done())
        blocked = [executor.submit(slow) for _ in range(1 + others)]
        assert 2 == retried.result(TIMEOUT)
        assert not any(future.done() for future in blocked)
        release.set()


def test_a_sooner_retry_wakes_the_thread_that_waits_for_a_later_one() -> None:
    """A call in backoff for an hour does not hide one that is due at once (C4, D2)."""
    release = Event()
    attempts = count(1)

    def flaky() -> int:
        if (number := next(attempts)) == 1:
            assert release.wait(TIMEOUT)
            raise ValueError
        return number

    with RetryingExecutor(2, idle_timeout=None) as executor:
        soon = executor.with_options(retry=lambda _: 0.3).submit(flaky)  # when its own thread rests
        late = executor.with_options(retry=lambda _: NEVER_DUE).submit(fail)
        assert eventually(lambda: late.due_at and resting(executor))
        release.set()
        assert 2 == soon.result(TIMEOUT)
        assert late.cancel()


# -- initializers (C6) -----------------------------------------------------------------------------


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("idle_timeout", [0, None])
def test_a_failing_initializer_breaks_the_executor(idle_timeout: float | None) -> None:
    """If the first thread cannot be initialized, pending and later calls fail with BrokenThreadPool (C6)."""
    submitted = Event()
    ran = Event()

    def initializer(expected: str) -> None:
        assert "argument" == expected
        assert submitted.wait(TIMEOUT)
        raise ValueError

    with RetryingExecutor(
        2, initializer=initializer, initargs=("argument",), idle_timeout=idle_timeout
    ) as executor:
        futures = [executor.submit(ran.set) for _ in range(5)]
        submitted.set()
        for future in futures:
            assert isinstance(future.exception(TIMEOUT), BrokenThreadPool)
        with pytest.raises(BrokenThreadPool):
            executor.submit(ran.set)
        with pytest.raises(BrokenThreadPool):
            executor.with_options(retry=None).submit(ran.set)
    assert not ran.is_set()
    assert 5 == executor.stats().failed


@pytest.mark.usefixtures("quiet")
def test_a_callback_of_a_failed_initializer_that_exits_loses_nothing() -> None:
    """The thread that has no call of its own tells all others in spite of it (C6, G1)."""
    submitted = Event()

    def initializer() -> None:
        assert submitted.wait(TIMEOUT)
        fail()

    def leave(_: object) -> None:
        raise SystemExit

    with RetryingExecutor(1, initializer=initializer) as executor:
        futures = [executor.submit(int) for _ in range(3)]
        futures[0].add_done_callback(leave)
        submitted.set()
        assert all(isinstance(future.exception(TIMEOUT), BrokenThreadPool) for future in futures)


class Flickering:
    """An initializer that works, and later fails for a while."""

    def __init__(self) -> None:
        self.works = True
        self.runs: list[tuple[float, int]] = []
        self.tried = Semaphore(0)

    def __call__(self) -> None:
        """Take note that a thread is to be initialized."""
        self.runs.append((time.monotonic(), threading.get_ident()))
        self.tried.release()
        if not self.works:
            raise ConnectionError

    def wait_for(self, runs: int) -> None:
        """Return when it was run so often, since this was called last."""
        for _ in range(runs):
            assert self.tried.acquire(timeout=TIMEOUT)

    def fail_from_now_on(self, executor: RetryingExecutor) -> None:
        """Let the one thread that there is, which works, leave; from now on none can be initialized."""
        assert 0 == executor.submit(int).result(TIMEOUT)
        assert eventually(lambda: not executor.stats().threads)
        self.wait_for(1)
        self.works = False


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Initializers are tried again soon."""
    monkeypatch.setattr(workers, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(workers, "_LONGEST_PAUSE", 0.03)


def test_an_initializer_that_has_worked_is_tried_again_until_it_works(
    pauses: None, caplog: pytest.LogCaptureFixture
) -> None:
    """By one thread, whose pauses grow, and the calls wait for it (C6)."""
    connect = Flickering()
    with RetryingExecutor(8, initializer=connect, idle_timeout=0) as executor:
        connect.fail_from_now_on(executor)
        futures = [executor.submit(int)]
        connect.wait_for(2)  # so others are not started any more
        futures += [executor.submit(int) for _ in range(20)]
        connect.wait_for(3)
        stats = executor.stats()
        assert (21, 21, 1) == (stats.submitted - 1, stats.ready, stats.threads)
        connect.works = True
        assert all(0 == future.result(TIMEOUT) for future in futures)
    times = [began_at for began_at, _ in connect.runs[1:6]]
    pauses_made = [later - sooner for sooner, later in pairwise(times)]
    assert all(made >= at_least for made, at_least in zip(pauses_made, (0.01, 0.02, 0.03, 0.03), strict=True))
    assert 1 == len({thread for _, thread in connect.runs[1:6]})
    assert {"Exception in initializer; it will be called again:"} == {r.getMessage() for r in caplog.records}
    assert {"ERROR"} == {record.levelname for record in caplog.records}


@pytest.mark.usefixtures("quiet")
def test_a_thread_whose_initializer_fails_later_stops_no_other(pauses: None) -> None:
    """Those that are initialized go on, and take the calls that it was started for (C6)."""
    connect, running, release = Flickering(), Event(), Event()

    def run() -> None:
        running.set()
        assert release.wait(TIMEOUT)

    with RetryingExecutor(2, initializer=connect, idle_timeout=None) as executor:
        busy = executor.submit(run)
        assert running.wait(TIMEOUT)
        connect.works = False
        waiting = executor.submit(int)
        connect.wait_for(3)
        release.set()
        assert (None, 0) == (busy.result(TIMEOUT), waiting.result(TIMEOUT))
        assert eventually(lambda: 1 == executor.stats().threads)  # it was the other that left
        assert 0 == executor.submit(int).result(TIMEOUT)


@pytest.mark.usefixtures("quiet")
def test_of_threads_whose_initializers_fail_together_one_stays() -> None:
    """It is enough that one tries again (C6)."""
    together, connect = Barrier(3), Flickering()

    def initializer() -> None:
        if not connect.works:
            with suppress(BrokenBarrierError):
                together.wait(TIMEOUT)
        connect()

    with RetryingExecutor(3, initializer=initializer, idle_timeout=0) as executor:
        connect.fail_from_now_on(executor)
        futures = [executor.submit(int) for _ in range(3)]
        connect.wait_for(3)
        assert eventually(lambda: 1 == executor.stats().threads)
        assert 3 == executor.stats().ready
        connect.works = True
        together.abort()
        assert all(0 == future.result(TIMEOUT) for future in futures)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    "end",
    [
        partial(RetryingExecutor.shutdown, cancel_futures=True),
        partial(RetryingExecutor.shutdown, timeout=0.01),
        partial(RetryingExecutor.drain, timeout=0.01),
    ],
)
def test_an_executor_can_end_while_its_initializer_fails(end: Callable[[RetryingExecutor], object]) -> None:
    """What waits for a thread can be cancelled, and nobody waits for the next time that it is tried (C6)."""
    connect = Flickering()
    executor = RetryingExecutor(1, initializer=connect, idle_timeout=0)
    connect.fail_from_now_on(executor)
    future = executor.submit(int)
    connect.wait_for(1)
    end(executor)
    assert future.cancel()
    executor.shutdown(wait=False)  # that wakes the thread: nothing waits for it any more
    assert eventually(lambda: not executor.stats().threads)
    assert 2 == len(connect.runs)


@pytest.mark.usefixtures("quiet")
def test_calls_that_wait_for_an_initializer_outlive_their_executor(pauses: None) -> None:
    """Whether it is shut down or dropped meanwhile, they have their turn when it works again (C6, F1, F5)."""
    for is_dropped in (False, True):
        connect = Flickering()
        executor = RetryingExecutor(1, "outliving", initializer=connect, idle_timeout=0)
        connect.fail_from_now_on(executor)
        future = executor.submit(int)
        if not is_dropped:
            executor.shutdown(wait=False)
        del executor
        connect.wait_for(3)
        connect.works = True
        assert 0 == future.result(TIMEOUT)
        assert eventually(lambda: [] == threads_named("outliving"))


@pytest.mark.usefixtures("quiet")
def test_an_initializer_is_not_tried_again_for_nobody(pauses: None) -> None:
    """When no call waits any more, the thread leaves instead, and the next call starts one (C6, C2)."""
    connect = Flickering()
    with RetryingExecutor(1, initializer=connect, idle_timeout=0) as executor:
        connect.fail_from_now_on(executor)
        future = executor.submit(int)
        connect.wait_for(2)
        assert future.cancel()
        assert eventually(lambda: not executor.stats().threads)
        connect.works = True
        assert 0 == executor.submit(int).result(TIMEOUT)


def test_a_slow_initializer_starts_no_more_threads_than_there_is_work() -> None:
    """A thread that is still being initialized will see to a call: no other is started for it (C1, C6)."""
    initializing, release = Event(), Event()

    def initializer() -> None:
        initializing.set()
        assert release.wait(TIMEOUT)

    with RetryingExecutor(8, initializer=initializer) as executor:
        futures = [executor.submit(int)]
        assert initializing.wait(TIMEOUT)
        assert 1 == executor.stats().threads
        futures.append(executor.submit(int))
        assert eventually(lambda: executor._core.crew.initializing == 2)
        assert 2 == executor.stats().threads
        release.set()
        assert not wait(futures, TIMEOUT).not_done


def test_a_thread_in_its_initializer_delays_no_call_that_another_can_take() -> None:
    """A worker at rest takes the next call, however long a new one is busy with its initializer (C4)."""
    threads, second, release, running = count(1), Event(), Event(), Event()

    def initializer() -> None:
        if next(threads) == 2:
            second.set()
            assert release.wait(TIMEOUT)

    def run() -> None:
        running.set()
        assert second.wait(TIMEOUT)

    with RetryingExecutor(2, initializer=initializer) as executor:
        futures = [executor.submit(run)]
        assert running.wait(TIMEOUT)
        futures.append(executor.submit(int))
        assert second.wait(TIMEOUT)
        assert not wait(futures, TIMEOUT).not_done  # both by the first thread
        assert eventually(lambda: resting(executor))
        late = executor.submit(int)
        try:
            assert wait([late], TIMEOUT / 2).done
        finally:
            release.set()


# -- what a destructor or a signal handler may do at the worst moment (C5, G1) -------------------


def test_a_call_that_comes_as_a_worker_comes_to_rest_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker has published that it rests, and looks once more (C5)."""
    with RetryingExecutor(1, idle_timeout=None) as executor:
        crew = executor._core.crew.roster
        rest = crew.rest
        late: list[RetryingFuture[int]] = []

        def interrupted(worker: Worker) -> None:
            rest(worker)
            monkeypatch.setattr(crew, "rest", rest)
            late.append(executor.submit(int))

        monkeypatch.setattr(crew, "rest", interrupted)
        assert 0 == executor.submit(int).result(TIMEOUT)
        assert eventually(lambda: late)
        assert 0 == late[0].result(TIMEOUT)
        assert 1 == executor.stats().threads


def test_a_worker_that_is_woken_as_it_leaves_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has published that it leaves; then it finds that somebody has woken it, and takes the call (C5)."""

    class Members(dict[Worker, None]):
        def pop(self, worker: Worker, default: None = None) -> None:  # type: ignore[override]  # all that is used
            super().pop(worker, default)
            if not late:
                late.append(executor.submit(int))

    late: list[RetryingFuture[int]] = []
    with RetryingExecutor(1, "woken", idle_timeout=0) as executor:
        monkeypatch.setattr(executor._core.crew.roster, "members", Members())
        thread = executor.submit(threading.current_thread).result(TIMEOUT)
        assert eventually(lambda: late)
        assert 0 == late[0].result(TIMEOUT)
        thread.join(TIMEOUT)
    assert [] == threads_named("woken")


def test_a_submit_that_is_interrupted_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a signal handler raises in submit(), the call never runs, unless it runs by then (G1)."""
    ran: list[int] = []
    started, release = Event(), Event()

    def interrupted(core: Core, call: RetryingFuture[object]) -> None:
        if not started.is_set():
            see_to(core, call)
            assert started.wait(TIMEOUT)
        raise KeyboardInterrupt

    with RetryingExecutor(2) as executor:
        see_to = executor._core.crew.see_to
        monkeypatch.setattr(executor._core.crew, "see_to", interrupted)
        for call in (lambda: (ran.append(1), started.set(), release.wait(TIMEOUT)), partial(ran.append, 2)):
            with pytest.raises(KeyboardInterrupt):
                executor.submit(call)
        assert 1 == executor.stats().submitted
        release.set()
    assert [1] == ran


def test_a_call_that_is_taken_up_before_it_is_refused_has_all_its_attempts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A refusal that comes too late ends no retries, however far it was when an attempt failed (B3, G1)."""
    began, may_fail, asked = Event(), Event(), Event()

    def fn() -> str:
        if not began.is_set():
            began.set()
            assert may_fail.wait(TIMEOUT)
            raise OSError
        return "ok"

    def slow_see_to(core: Core, call: RetryingFuture[object]) -> Exception | None:
        with pool.lock:
            pool.crew.summon(core, time.monotonic())  # as another submitter would
        assert began.wait(TIMEOUT)
        executor.shutdown(wait=False)
        return see_to(core, call)

    def slow_refuse(ledger: Ledger, call: RetryingFuture[object]) -> bool:
        may_fail.set()
        assert eventually(lambda: asked.is_set() or call.done())
        return refuse(ledger, call)

    executor = RetryingExecutor(1, retry=lambda _: asked.set() or 0.0, idle_timeout=None)
    assert 0 == executor.submit(int).result(TIMEOUT)
    assert eventually(lambda: resting(executor))
    pool = executor._core
    see_to, refuse = pool.crew.see_to, Ledger.refuse
    monkeypatch.setattr(pool.crew, "see_to", slow_see_to)
    monkeypatch.setattr(Ledger, "refuse", slow_refuse)
    future = executor.submit(fn)
    assert ("ok", 2) == (future.result(TIMEOUT), future.attempts)
    executor.shutdown()


# -- threads that cannot be started (C7) ---------------------------------------------------------


class Refusal:
    """Stands for `Thread.start`, and says that it cannot as often as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.start = Thread.start
        self.which: set[int] = set()
        self.asked = count(1)
        monkeypatch.setattr(threading.Thread, "start", lambda thread: self(thread))

    def __call__(self, thread: Thread) -> None:
        if next(self.asked) in self.which:
            raise RuntimeError("can't start new thread")
        self.start(thread)


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_a_call_for_which_no_thread_can_be_started_is_refused(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """With no thread at all submit() raises, the call never runs, and later ones do (C7, G1)."""
    ran: list[int] = []

    def refuse(_: object) -> None:
        raise error("can't start new thread")

    with RetryingExecutor(2, "refused", idle_timeout=0) as executor:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            for number in range(3):
                with pytest.raises(error, match="can't start new thread"):
                    executor.submit(ran.append, number)
        assert 0 == executor.stats().submitted
        executor.submit(ran.append, 3).result(TIMEOUT)
        assert eventually(lambda: not threads_named("refused"))
        assert [3] == ran


def test_a_call_for_which_no_thread_can_be_started_is_left_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread at work takes it up when it is free (C7)."""
    started, release = Event(), Event()
    with RetryingExecutor(2, idle_timeout=0) as executor:
        executor.submit(lambda: (started.set(), release.wait(TIMEOUT)))
        assert started.wait(TIMEOUT)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", lambda _: fail())
            future = executor.submit(int)
        assert 1 == executor.stats().threads
        release.set()
        assert 0 == future.result(TIMEOUT)


def test_a_thread_that_could_not_be_started_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes up one of the calls that wait for it tries again (C4, C7)."""
    started, release, both = Event(), Event(), Barrier(2)
    with RetryingExecutor(2) as executor:
        executor.submit(lambda: (started.set(), release.wait(TIMEOUT)))
        assert started.wait(TIMEOUT)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", lambda _: fail())
            futures = [executor.submit(both.wait, TIMEOUT) for _ in range(2)]
        release.set()
        assert {0, 1} == {future.result(TIMEOUT) for future in futures}
        assert 2 == executor.stats().threads


@needs_gil
@pytest.mark.parametrize("is_refused", [False, True])
def test_a_thread_that_cannot_be_started_keeps_no_executor(
    monkeypatch: pytest.MonkeyPatch, *, is_refused: bool
) -> None:
    """A dropped executor goes at once, without the collector: no frame keeps the error (C7, F5)."""
    release = Event()
    executor = RetryingExecutor(2, "kept", idle_timeout=None)
    futures = [] if is_refused else [executor.submit(release.wait, TIMEOUT)]
    gc.disable()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", lambda _: fail())
            with suppress(ValueError):
                futures.append(executor.submit(bool))
        release.set()
        assert [True, False][: len(futures)] == [future.result(TIMEOUT) for future in futures]
        ref = weakref.ref(executor)
        del executor
        assert ref() is None
        assert eventually(lambda: not threads_named("kept"))
    finally:
        gc.enable()


@pytest.mark.parametrize("max_workers", [1, 2, 3])
@pytest.mark.parametrize("which", [{1}, {2}, {3}, {2, 3}, {1, 3}])
def test_no_accepted_call_is_lost_when_a_thread_cannot_be_started(
    monkeypatch: pytest.MonkeyPatch, which: set[int], max_workers: int
) -> None:
    """Whichever start fails, a refused call never runs and all accepted ones do (C7)."""
    refusal = Refusal(monkeypatch)
    refusal.which = which
    ran: list[int] = []
    accepted: list[int] = []
    futures = []
    lock = Lock()
    attempted: set[int] = set()

    def call(number: int) -> None:
        with lock:
            first = number not in attempted
            attempted.add(number)
        if first:
            raise ValueError
        ran.append(number)

    with RetryingExecutor(max_workers, retry=RetryPolicy(delays=(0.01,)), idle_timeout=0) as executor:
        for number in range(12):
            try:
                futures.append(executor.submit(call, number))
                accepted.append(number)
            except RuntimeError:
                continue
            if number % 3 == 2:
                assert not wait(futures, TIMEOUT).not_done
        assert all(future.exception(TIMEOUT) is None for future in futures)
    assert accepted == sorted(ran)
    assert set(accepted) == attempted
    assert len(accepted) == executor.stats().submitted


def test_a_worker_too_many_is_not_started() -> None:
    """Where a destructor that submits has started one in between (C1)."""
    lock = threading.RLock()
    crew = Roster(size=1, name="crew", daemon=False, lock=lock)
    other = Worker(0, lock)
    crew.members[other] = None
    crew.summon(lambda _: None)
    assert [other] == list(crew.members)
    assert crew.on_the_way is None


def test_attributes_of_a_pool_are_found_soon(executor: RetryingExecutor) -> None:
    """Of an object with more than 30 of them CPython finds none as fast, and all calls take longer."""
    assert len(vars(executor._core)) <= 30
