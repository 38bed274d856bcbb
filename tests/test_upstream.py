"""Services that executors share: limits and holds, with real executors and threads, ordered by events."""

from __future__ import annotations

import gc
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from concurrent.futures.thread import BrokenThreadPool
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from itertools import groupby
from threading import Barrier, Event
from typing import Any, NoReturn

import pytest

from calls import Flaky
from conftest import TIMEOUT, both
from forks import check_executor_works, check_orphaned, in_child
from forks import held as occupied
from observe import eventually, needs_gil, needs_locks_of_workers, threads_named
from retrying_executor import (
    NotNow,
    PendingLimitError,
    RetryingExecutor,
    RetryingFuture,
    RetryPolicy,
    Upstream,
)
from retrying_executor._calls import attempt, schedule
from retrying_executor._calls.terms import Terms
from retrying_executor._core.core import Core
from retrying_executor._core.settling import Settling
from retrying_executor._core.turns import Turns
from retrying_executor._policy.verdict import TOO_LATE
from retrying_executor._threads.threads import Threads
from retrying_executor._upstream.places import Places
from retrying_executor.testing import VirtualTimeExecutor
from test_exit import run

AT_ONCE = RetryPolicy(delays=(0,) * 4)


class Interrupt(BaseException):
    """Not an Exception."""


class AnsweredError(Exception):
    """Tells of an HTTP answer."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers


def fail(exception: BaseException) -> NoReturn:
    """Raise *exception*."""
    raise exception


def free_slots(service: Upstream) -> int:
    """Return how many attempts the rate of a service lets through now, as far as it has looked."""
    [rate] = service._places.gate._rates
    return rate._unmade + len(rate.free)


def paused(**options: Any) -> Upstream:
    """Return an upstream that is held until it is resumed."""
    service = Upstream("service", **options)
    service.pause()
    return service


def counts(executor: RetryingExecutor) -> tuple[int, int]:
    """Return how many calls run and how many are held."""
    stats = executor.stats()
    return stats.running, stats.held


def backlog(service: Upstream) -> Any:
    """Return what counts the pending calls of *service*."""
    return service._places.backlog


class Meter:
    """A call that measures how many attempts run at once, and gives others the time to be among them."""

    def __init__(self) -> None:
        self.lock, self.never = threading.Lock(), Event()
        self.running = self.most = 0

    def __call__(self, flaky: Flaky) -> int:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.never.wait(0.0005)
        with self.lock:
            self.running -= 1
        return flaky()


def test_an_upstream_shows_what_programs_use_and_nothing_else() -> None:
    """Completion and help() offer no method that only the executors call."""
    shown = {name for name in dir(Upstream("service")) if not name.startswith("_")}
    assert {"name", "state", "held_until", "in_flight", "pause", "resume"} == shown


def test_a_destructor_may_be_the_first_that_waits_and_that_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made for the first of them is made once: nobody is lost (U4, F7)."""
    places = paused()._places
    monitors: Any = (Event(), Event())
    with RetryingExecutor(1) as one, RetryingExecutor(1) as other:
        cores = {one._core, other._core}

        def interrupted(cls: type[Any], act: Callable[..., object], *args: object) -> Any:
            def make() -> Any:
                monkeypatch.undo()
                act(*args)
                return cls()

            return make

        dictionary = interrupted(weakref.WeakKeyDictionary, places.ask, other._core)
        monkeypatch.setattr(weakref, "WeakKeyDictionary", dictionary)
        assert math.inf == places.ask(one._core)
        assert cores == set(places._waiting)
        monkeypatch.setattr(weakref, "WeakSet", interrupted(weakref.WeakSet, places.notify, monitors[1]))
        places.notify(monitors[0])
        assert set(monitors) == set(places._listeners)


def test_an_upstream_lives_as_long_as_calls_go_to_it() -> None:
    """So a program that finds its upstreams by weak references makes no second one beside it (U4)."""
    upstream = paused()
    reference = weakref.ref(upstream)
    with RetryingExecutor(1) as executor:
        future = executor.with_options(upstream=upstream).submit(int)
        assert eventually(lambda: (0, 1) == counts(executor))
        del upstream
        gc.collect()
        service = reference()
        assert service is not None
        service.resume()
        assert 0 == future.result(TIMEOUT)


# -- limits --------------------------------------------------------------------------------------


def test_max_concurrency_holds_over_retries_executors_and_views() -> None:
    """Never more attempts run than allowed, whether first ones or retries, whoever makes them (U4)."""
    service, meter = Upstream("service", max_concurrency=2, hold_after=None), Meter()
    with RetryingExecutor(4, retry=AT_ONCE, upstream=service) as one, RetryingExecutor(4) as other:
        view = other.with_options(retry=AT_ONCE, upstream=service)
        futures = [each.submit(meter, Flaky(1)) for _ in range(20) for each in (one, view)]
        assert [1] * 40 == [future.result(TIMEOUT) for future in futures]
    assert (2, 0, 0) == (meter.most, meter.running, service.in_flight)


def test_rate_holds_over_retries_executors_and_views() -> None:
    """The last attempt starts no sooner than the rate allows (U4)."""
    service = Upstream("service", rate=(2, timedelta(seconds=0.04)))
    began_at = time.monotonic()
    with RetryingExecutor(2, retry=AT_ONCE, upstream=service) as one, RetryingExecutor(2) as other:
        view = other.with_options(retry=AT_ONCE, upstream=service)
        futures = [each.submit(Flaky(failures)) for failures in (0, 1) for each in (one, view)]
        assert not wait(futures, TIMEOUT).not_done
        assert 6 == sum(future.attempts for future in futures)
    assert time.monotonic() - began_at >= 2 * 0.04


@pytest.mark.parametrize("rate", [None, (2_000, 0.01)], ids=["places only", "slots too"])
def test_limits_hold_where_workers_go_on_without_a_lock(rate: tuple[int, float] | None) -> None:
    """Thousands of short calls of two executors: never too many at once, and nothing is left over (U4)."""
    service, running, seen = Upstream("service", max_concurrency=3, rate=rate), set[int](), set[int]()

    def call() -> None:
        running.add(threading.get_ident())
        seen.add(len(running))
        running.discard(threading.get_ident())

    with RetryingExecutor(4, upstream=service) as first, RetryingExecutor(4, upstream=service) as second:
        futures = [executor.submit(call) for _ in range(2_000) for executor in (first, second)]
        for future in futures[::7]:
            future.cancel()
    assert all(future.done() for future in futures)
    assert max(seen) <= 3
    gate = service._places.gate
    assert 0 == gate.in_flight
    assert rate is None or rate[0] == free_slots(service) + len(gate._rates[0].starts)


def test_a_worker_that_would_go_on_waits_for_a_slot() -> None:
    """Its next call starts no sooner than the rate allows, whatever is queued (U4)."""
    service, may_end, starts = Upstream("service", rate=(1, 0.05)), Event(), []

    def call() -> None:
        starts.append(time.monotonic())
        assert may_end.wait(TIMEOUT)

    with RetryingExecutor(1, upstream=service) as executor:
        futures = [executor.submit(call) for _ in range(2)]
        may_end.set()
        assert [None, None] == [future.result(TIMEOUT) for future in futures]
    assert starts[1] >= service._places.gate._rates[0].starts[-1] >= starts[0]


@pytest.mark.parametrize("failures", [0, 1], ids=["keeps its place", "asks for one"])
def test_a_place_for_a_call_that_is_gone_is_given_back(failures: int) -> None:
    """It has used up nothing of the rate either (U4, E1)."""
    service, started, may_end = Upstream("service", rate=(5, 3600)), Event(), Event()

    def call() -> None:
        started.set()
        assert may_end.wait(TIMEOUT)
        Flaky(failures)()

    with RetryingExecutor(1, retry=None, upstream=service) as executor:
        first = executor.submit(call)
        assert started.wait(TIMEOUT)
        gone, last = executor.submit(int), executor.submit(int)
        assert gone.cancel()
        assert not failures or last.cancel()
        may_end.set()
        assert (first.exception(TIMEOUT) is None) == (failures == 0)
    assert 0 == service.in_flight
    assert 4 - (failures == 0) == free_slots(service)


def test_a_place_for_a_call_that_another_worker_took_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it used up of the rate (U4)."""
    service, taken = Upstream("service", rate=(5, 3600)), []
    ask = service._places.ask

    def ask_late(pool: Core, *args: Any) -> Any:
        permit = ask(pool, *args)
        taken.append(pool.fresh.popleft())
        return permit

    with RetryingExecutor(1, idle_timeout=0, upstream=service) as executor:
        with monkeypatch.context() as late:
            late.setattr(service._places, "ask", ask_late)
            executor.submit(int)
            assert eventually(lambda: taken and not executor.stats().threads)
        assert 0 == service.in_flight
        assert 0 == executor.submit(int).result(TIMEOUT)
    assert 4 == free_slots(service)


@both
def test_a_call_that_is_done_is_not_in_flight() -> None:
    """Who sees the result of the only call sees that nothing runs (U4)."""
    service = Upstream("service")
    with RetryingExecutor(1, upstream=service) as executor:
        for _ in range(100):
            executor.submit(int).result()
            assert 0 == service.in_flight


@both
def test_an_upstream_that_has_no_answer_yet_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when another worker takes the last slot at that very moment (U4)."""
    service = Upstream("service", rate=(1, 0.001))
    answers, start = [None], service._places.gate.start
    monkeypatch.setattr(
        service._places.gate, "start", lambda *args: answers.pop() if answers else start(*args)
    )
    with RetryingExecutor(1, upstream=service) as executor:
        assert 0 == executor.submit(int).result(TIMEOUT)


def test_calls_of_other_upstreams_go_on() -> None:
    """With one worker, calls that are held delay no call to another service, nor one to none (U4)."""
    service = paused()
    with RetryingExecutor(1, retry=AT_ONCE, upstream=service) as executor:
        held = [executor.submit(Flaky(0)) for _ in range(3)]
        for other in (None, Upstream("other")):
            assert 1 == executor.with_options(upstream=other).submit(Flaky(1)).result(TIMEOUT)
        assert (0, 3) == counts(executor)
        assert executor.stats().opens_at is None
        service.resume()
        assert [0] * 3 == [future.result(TIMEOUT) for future in held]


def test_calls_that_are_held_need_one_thread_for_each_executor() -> None:
    """However many wait, for however many services, one thread waits for all of them (C3, U4)."""
    services = [paused(), paused(max_concurrency=1)]
    executors = [RetryingExecutor(4, thread_name_prefix=f"held_{n}", idle_timeout=0) for n in range(2)]
    futures = []
    for executor in executors:
        for service in services:
            futures += [executor.with_options(upstream=service).submit(Flaky(0)) for _ in range(5)]
    for executor in executors:
        assert eventually(lambda executor=executor: (0, 10) == counts(executor))
    assert eventually(lambda: [1, 1] == [len(threads_named(f"held_{n}")) for n in range(2)])
    for service in services:
        service.resume()
    assert not wait(futures, TIMEOUT).not_done
    for executor in executors:
        executor.shutdown()


@pytest.mark.parametrize("max_workers", [1, 3])
def test_executors_take_turns(max_workers: int) -> None:
    """Places go round: while two executors wait, neither has many calls in a row (U4)."""
    service, order = paused(max_concurrency=1), []
    executors = [RetryingExecutor(max_workers, upstream=service) for _ in range(2)]

    def call(name: int) -> None:
        order.append(name)
        other = 1 - name
        assert eventually(lambda: executors[other].stats().held == 20 - order.count(other))  # it has asked

    for _ in range(20):
        for name, executor in enumerate(executors):
            executor.submit(call, name)
    assert eventually(lambda: [(0, 20)] * 2 == [counts(executor) for executor in executors])
    service.resume()
    for executor in executors:
        executor.shutdown()
    assert 20 == order.count(0) == order.count(1)
    while_both_wait = order[: min(len(order) - order[::-1].index(name) for name in range(2))]
    assert max(len(list(calls)) for _, calls in groupby(while_both_wait)) <= 2


# -- calls that are held -------------------------------------------------------------------------


@needs_gil
@pytest.mark.parametrize("failures", [0, 1], ids=["fresh", "retry"])
def test_a_held_call_is_cancelled_at_once(failures: int) -> None:
    """It never runs again, and its arguments are let go (E1, U4)."""
    service = Upstream("service", hold_after=1, initial_hold=60)
    if not failures:
        service.pause()
    call = Flaky(failures)
    with RetryingExecutor(2, retry=AT_ONCE, upstream=service) as executor:
        future = executor.submit(call)
        assert eventually(lambda: (0, 1) == counts(executor))
        assert future.cancel()
        assert future.cancelled()
        attempts, call = weakref.ref(call), None  # type: ignore[assignment]  # let go here too
        assert eventually(lambda: gc.collect() is not None and attempts() is None)
    assert failures == future.attempts


@pytest.mark.parametrize(
    ("options", "is_cancelled"),
    [({}, False), ({"cancel_futures": True}, True), ({"timeout": 0.01}, True)],
    ids=str,
)
@pytest.mark.usefixtures("quiet")
def test_shutdown_sees_to_held_calls(options: dict[str, Any], is_cancelled: bool) -> None:
    """It waits until they are let through, or cancels them (F1, F2, F3)."""
    service = Upstream("service")
    service.pause(60 if is_cancelled else 0.02)
    executor = RetryingExecutor(2, upstream=service)
    futures = [executor.submit(Flaky(0)) for _ in range(3)]
    executor.shutdown(**options)
    assert [is_cancelled] * 3 == [future.cancelled() for future in futures]
    assert all(future.done() for future in futures)


def test_drain_waits_for_held_calls() -> None:
    """They are accepted and not done (F3)."""
    service = paused()
    with RetryingExecutor(2, upstream=service) as executor:
        executor.submit(Flaky(0))
        assert not executor.drain(0.01)
        service.resume()
        assert executor.drain(TIMEOUT)


def test_a_dropped_executor_finishes_its_held_calls() -> None:
    """The thread that waits keeps what is needed for that (F5)."""
    service = paused()
    future = RetryingExecutor(2, upstream=service).submit(Flaky(0))
    gc.collect()
    service.resume()
    assert 0 == future.result(TIMEOUT)


def test_the_interpreter_ends_when_held_calls_got_through() -> None:
    """At the end of the program calls that are held get their outcome, too (F4)."""
    script = """
        from retrying_executor import Upstream
        service = Upstream("service", max_concurrency=1, hold_after=1, initial_hold=0.05)
        executor = RetryingExecutor(2, retry=POLICY, upstream=service)
        for number in range(3):
            executor.submit(Flaky(f"call {number}", 1))
    """
    expected = "upstream service is held for", "upstream service works again"
    code, output, errors = run(script)
    assert (0, ["call 0", "call 1", "call 2"]) == (code, output)
    assert all(any(line.startswith(start) for start in expected) for line in errors.splitlines())


def test_max_pending_counts_held_calls() -> None:
    """They are refused, or wait for room, as others are (G5)."""
    service = paused()
    with RetryingExecutor(1, upstream=service, max_pending=2) as executor:
        futures = [executor.submit(Flaky(0)) for _ in range(2)]
        with pytest.raises(PendingLimitError, match="2 calls are pending"):
            executor.submit(Flaky(0))
        assert futures[0].cancel()
        futures[0] = executor.submit(Flaky(0))
        service.resume()
        assert not wait(futures, TIMEOUT).not_done
    with RetryingExecutor(1, upstream=service, max_pending=1, when_full="wait") as executor:
        assert [0] * 5 == [executor.submit(Flaky(0)).result(TIMEOUT) for _ in range(5)]


def test_a_held_call_gives_up_in_time() -> None:
    """A retry that may not start before ``max_elapsed`` is over fails with what it had, unattempted (B6)."""
    service = Upstream("service", hold_after=1, initial_hold=60)
    options = {"delays": (0, 0), "max_elapsed": 0.05}
    with RetryingExecutor(1, retry=RetryPolicy(**options), upstream=service) as executor:
        future = executor.submit(Flaky(9))
        assert isinstance(future.exception(TIMEOUT), ConnectionError)
    assert (1, "held", 0) == (future.attempts, service.state, service.in_flight)


@needs_locks_of_workers
def test_nothing_starts_while_calls_get_an_upstream_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker asks the executor's upstream until it knows that calls may have another (U4, U5)."""
    service = Upstream("service", max_concurrency=1)
    release, began = Event(), Event()
    with RetryingExecutor(1, retry=None, upstream=service) as executor:
        first, second = executor.submit(release.wait, TIMEOUT), executor.submit(began.set)
        assert eventually(first.running)
        service.pause()
        pool = executor._core
        worker, update_only_fresh_until = first._worker, pool.turns.update_only_fresh_until

        def slow() -> None:  # a worker that goes on just then has its turn first
            if threading.current_thread() is threading.main_thread():
                release.set()
                assert eventually(lambda: worker is not None and worker.call is not first)
                assert not began.wait(0)
            update_only_fresh_until()

        monkeypatch.setattr(pool.turns, "update_only_fresh_until", slow)
        executor.with_options(upstream=None)
        assert eventually(lambda: began.is_set() or executor.stats().held)
        assert not began.is_set()
        service.resume()
        assert second.result(TIMEOUT) is None


def test_a_held_call_can_be_refused_after_all() -> None:
    """Where ``submit()`` is interrupted before it returns, the call never runs, though it was held (G1)."""
    service = paused()
    with RetryingExecutor(1, upstream=service) as executor:
        future = executor.submit(Flaky(0))
        assert eventually(lambda: (0, 1) == counts(executor))
        with executor._core.lock:
            executor._core.ledger.refuse(future)
        assert (0, 0) == (executor.stats().submitted, executor.stats().held)
        service.resume()
    assert 0 == future.attempts


def test_a_held_call_can_be_settled_from_outside() -> None:
    """Then it never runs, and nobody waits for its place (A3)."""
    service = paused(max_concurrency=1)
    with RetryingExecutor(2, upstream=service) as executor:
        settled, other = executor.submit(Flaky(0)), executor.submit(Flaky(0))
        settled.set_result(7)
        service.resume()
        assert (7, 0) == (settled.result(0), other.result(TIMEOUT))
    assert 0 == settled.attempts


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows knows no fork")
def test_a_child_may_call_the_service() -> None:
    """What is in flight or held is the parent's; in the child the executor works (F6)."""
    service = Upstream("service", max_concurrency=1)
    with RetryingExecutor(2, retry=AT_ONCE, upstream=service) as executor:
        with occupied(executor) as in_flight:
            held = executor.submit(Flaky(0))
            assert eventually(lambda: (1, 1) == counts(executor))

            def check() -> None:
                check_orphaned(in_flight, held)
                assert 0 == service.in_flight
                check_executor_works(executor)

            in_child(check)
            assert (1, 1) == (service.in_flight, executor.stats().held)
            service.pause()
            in_child(lambda: service.resume() or check())
            service.resume()
        assert 0 == held.result(TIMEOUT)


# -- holds ---------------------------------------------------------------------------------------


def test_it_can_be_held_by_hand() -> None:
    """``pause()`` lets nothing start, ``resume()`` ends that, and everything can be seen (U5)."""
    service = Upstream("glue", max_concurrency=1, rate=(100, 1.0))
    with RetryingExecutor(2, upstream=service) as executor:
        assert ("glue", "open", None, 0) == (service.name, service.state, service.held_until, 0)
        assert "<Upstream 'glue', max_concurrency=1, rate=(100, 1.0) state=open>" == repr(service)
        with occupied(executor):
            assert 1 == service.in_flight
            before = time.monotonic()
            service.pause(timedelta(minutes=1))
            assert service.held_until is not None
            assert before + 60 <= service.held_until <= time.monotonic() + 60
            service.pause()
            assert (math.inf, "held") == (service.held_until, service.state)
        assert eventually(lambda: 0 == service.in_flight)
        service.resume()
        assert (None, "probing") == (service.held_until, service.state)  # as soon as somebody calls
        with occupied(executor):
            assert "<Upstream 'glue', max_concurrency=1, rate=(100, 1.0) state=probing>" == repr(service)
    assert "open" == service.state
    assert "<Upstream 'plain' state=open>" == repr(Upstream("plain"))


def test_after_a_hold_calls_follow_in_a_ramp() -> None:
    """One probe, then two at once, four, and so on (U5)."""
    service, going = paused(), threading.Semaphore(0)
    with RetryingExecutor(8, upstream=service) as executor:
        futures = [executor.submit(going.acquire, timeout=TIMEOUT) for _ in range(15)]
        service.resume()
        for size in (1, 2, 4, 8):
            assert eventually(lambda size=size: size == service.in_flight)
            assert ("probing" if size == 1 else "ramping") == service.state
            going.release(size)
        assert all(future.result(TIMEOUT) for future in futures)


ASKING = [NotNow(after=30), AnsweredError(503, **{"Retry-After": "30"})]


@pytest.mark.parametrize("exception", ASKING, ids=["NotNow", "503"])
@pytest.mark.parametrize(
    "retry",
    [RetryPolicy(), RetryPolicy(max_attempts=1), RetryPolicy(max_elapsed=1), lambda _: None, None],
    ids=["policy", "last attempt", "no time left", "callable", "never"],
)
@pytest.mark.usefixtures("quiet")
def test_a_service_that_names_a_time_is_held(exception: Exception, retry: Any) -> None:
    """Whether the call itself has another attempt or not (U2, U5)."""
    service, before = Upstream("service"), time.monotonic()
    with RetryingExecutor(1, retry=retry, upstream=service) as executor:
        future = executor.submit(fail, exception)
        assert eventually(lambda: future.attempts and not future.running())
        executor.shutdown(cancel_futures=True)
    assert future.cancelled() or future.exception() is exception
    assert service.held_until is not None
    assert before + 30 <= service.held_until


@both
def test_failed_probes_use_up_no_attempt() -> None:
    """While the service is down, the calls wait, however often it is tried (U5)."""
    service = Upstream("service", hold_after=1, initial_hold=0.001, max_hold=0.001)
    policy = RetryPolicy(max_attempts=2, initial_delay=0.001, max_delay=0.001)
    with RetryingExecutor(2, retry=policy, upstream=service) as executor:
        future = executor.submit(Flaky(20))
        assert (20, 21) == (future.result(TIMEOUT), future.attempts)


def test_a_probe_that_tells_nothing_hands_it_on() -> None:
    """A call that ends in an interrupt says nothing of the service: the next one is the probe (U5)."""
    service = paused()
    with RetryingExecutor(1, upstream=service) as executor:
        interrupted, other = executor.submit(fail, SystemExit()), executor.submit(Flaky(0))
        service.resume()
        assert isinstance(interrupted.exception(TIMEOUT), SystemExit)
        assert 0 == other.result(TIMEOUT)
    assert "ramping" == service.state


def test_a_probe_can_be_settled_from_outside() -> None:
    """It still is the probe: what it tells of the service counts (A3, U5)."""
    service = paused(max_concurrency=1)
    with RetryingExecutor(1, upstream=service) as executor:
        service.resume()
        with occupied(executor) as probe:
            probe.set_result(True)
        assert 0 == executor.submit(Flaky(0)).result(TIMEOUT)
    assert ("open", 0) == (service.state, service.in_flight)


@both
def test_a_result_that_is_rejected_is_no_failure_of_the_service() -> None:
    """It answered; that the program does not like the answer tells nothing bad of it (U5)."""
    service = Upstream("service", hold_after=1, initial_hold=60)
    policy = RetryPolicy(max_attempts=1, retry_result=lambda _: True)
    with RetryingExecutor(1, retry=policy, upstream=service) as executor:
        assert 7 == executor.submit(lambda: 7).result(TIMEOUT)
    assert "open" == service.state


@both
@pytest.mark.usefixtures("quiet")
def test_a_time_that_is_none_holds_nothing() -> None:
    """An exception may have been changed after it was made (B8, U5)."""
    service, exception = Upstream("service"), NotNow()
    exception.after = "soon"  # type: ignore[assignment]  # nonsense
    with RetryingExecutor(1, retry=None, upstream=service) as executor:
        assert exception is executor.submit(fail, exception).exception(TIMEOUT)
    assert "open" == service.state


def test_stats_say_when_held_calls_may_go_on() -> None:
    """If that is known: not where somebody has to end the hold, nor where none waits (G4, U5)."""
    first, second = paused(), Upstream("another")
    second.pause(60)
    with RetryingExecutor(1) as executor:
        views = [executor.with_options(upstream=service) for service in (first, second)]
        assert executor.stats().opens_at is None
        views[0].submit(int)
        assert eventually(lambda: executor.stats().held == 1)
        assert executor.stats().opens_at is None
        views[1].submit(int)
        assert eventually(lambda: executor.stats().held == 2)
        assert second.held_until == executor.stats().opens_at == executor.stats().next_due_at
        executor.shutdown(cancel_futures=True)


def test_the_end_of_a_ramp_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """That the probe got through was news; that all others follow is not (U5)."""
    service = paused(max_concurrency=2)
    service.resume()
    caplog.set_level(logging.INFO)
    with RetryingExecutor(1, upstream=service) as executor:
        for _ in range(3):
            assert 0 == executor.submit(Flaky(0)).result(TIMEOUT)
    assert "open" == service.state
    assert ["upstream service works again"] == caplog.messages


def test_a_probe_that_tells_nothing_is_no_hold(caplog: pytest.LogCaptureFixture) -> None:
    """The next one is due at once, so there is nothing to tell (U5)."""
    caplog.set_level(logging.INFO)
    service = paused()
    told: list[str] = []
    with RetryingExecutor(1, upstream=service, on_event=lambda event: told.append(event.kind)) as executor:
        service.resume()
        executor.submit(len).exception(TIMEOUT)  # it could not even be called
        assert "probing" == service.state
        executor.submit(int).result(TIMEOUT)
    assert not [message for message in caplog.messages if "is held" in message]
    assert 1 == told.count("upstream_back")
    assert "upstream_held" not in told


@both
def test_holds_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """That a service failed, and that it is back, is a warning, once; what becomes of the probes is not."""
    caplog.set_level(logging.INFO)
    service = Upstream("glue", hold_after=2, initial_hold=0.001)
    with RetryingExecutor(1, retry=RetryPolicy(delays=(0,) * 3), upstream=service) as executor:
        assert 3 == executor.submit(Flaky(3)).result(TIMEOUT)
    records = [(r.levelname, r.getMessage()) for r in caplog.records if "upstream" in r.getMessage()]
    assert ["WARNING", "INFO", "WARNING"] == [level for level, _ in records]
    assert all(message.startswith("upstream glue is held for 0.00") for _, message in records[:2])
    assert [
        "2 attempts failed in a row, the last with ConnectionError: not yet",
        "the probe failed (ConnectionError: not yet)",
    ] == [message.partition(": ")[2] for _, message in records[:2]]
    assert "upstream glue works again" == records[2][1]


def test_a_hold_by_hand_is_logged_from_beginning_to_end(caplog: pytest.LogCaptureFixture) -> None:
    """For how long it is paused; that there was nothing to resume is no news (G3, U5)."""
    caplog.set_level(logging.INFO, "retrying_executor")
    service = Upstream("glue")
    service.resume()
    service.pause(timedelta(minutes=1))
    service.resume()
    service.pause()
    service.resume()
    service.resume()
    assert [
        "upstream glue is paused for 60 s",
        "upstream glue is resumed: a probe comes first",
        "upstream glue is paused until resume()",
        "upstream glue is resumed: a probe comes first",
    ] == caplog.messages
    assert {"INFO"} == {record.levelname for record in caplog.records}
    fields = ("kind", "upstream", "delay", "reason")
    assert [
        ("upstream_held", "glue", 60.0, "paused"),
        ("upstream_resumed", "glue", None, None),
        ("upstream_held", "glue", math.inf, "paused"),
        ("upstream_resumed", "glue", None, None),
    ] == [tuple(getattr(record, name, None) for name in fields) for record in caplog.records]


@pytest.mark.parametrize("cls", [RetryingExecutor, VirtualTimeExecutor])
def test_a_call_that_was_never_tried_says_which_limit_ended_it(
    cls: type[RetryingExecutor], caplog: pytest.LogCaptureFixture
) -> None:
    """In the log and in its note, with the time that it has waited (B3, B6, G3)."""
    service = Upstream("service")
    with cls(1, upstream=service, retry=RetryPolicy(max_elapsed=0.02)) as executor:
        executor.submit(int).result(TIMEOUT)
        service.pause()
        caplog.set_level(logging.INFO, "retrying_executor")
        error = executor.submit(int).exception(TIMEOUT)
        service.resume()
    assert isinstance(error, TimeoutError)
    (note,) = error.__notes__
    waited = note.removeprefix("retrying_executor: gave up after 0 attempts in ")
    waited = waited.removesuffix(" s: max_elapsed has passed")
    assert float(waited) >= 0.02
    (line,) = [message for message in caplog.messages if "gave up" in message]
    assert line.endswith(f"gave up after attempt 0 (TimeoutError: {error}) (max_elapsed has passed)")


def asking(seconds: int) -> AnsweredError:
    """Return what a client raises that is told to come back later."""
    return AnsweredError(429, **{"Retry-After": str(seconds)})


@pytest.mark.parametrize(
    ("exception", "options", "words"),
    [
        (asking(1000), {}, "1000 s, cut to 300 s by max_retry_after"),
        (asking(61), {"max_retry_after": 60}, "61 s, cut to 60 s by max_retry_after"),
        (asking(60), {"max_retry_after": 60}, "60 s"),
        (asking(1000), {"max_retry_after": None}, "1000 s"),
        (asking(1000), {"retry": None}, "1000 s, cut to 300 s by max_retry_after"),
        (NotNow(after=1000), {}, "1000 s"),
    ],
)
def test_what_was_asked_for_is_said_in_full(
    caplog: pytest.LogCaptureFixture, exception: Exception, options: Any, words: str
) -> None:
    """And to how much of it a limit has cut that: of a hold and of a delay, in logs and events (G3, U2)."""
    caplog.set_level(logging.INFO, "retrying_executor")
    service, events = Upstream("glue"), []
    with VirtualTimeExecutor(on_event=events.append) as executor:
        view = executor.with_options(upstream=service, **options)
        answers = iter([exception])
        future = view.submit(lambda: [fail(answer) for answer in answers])
        executor.advance(0)
        held, *retried = [message for message in caplog.messages if "asked to wait" in message]
        assert f": asked to wait {words}" in held
        assert all(f"(asked to wait {words}" in message for message in retried)
        assert len(retried) == (options != {"retry": None})
        reasons = [event.reason for event in events if "asked to wait" in event.reason]
        assert [True] * (1 + len(retried)) == [f"asked to wait {words}" in reason for reason in reasons]
        assert future.exception() is (None if retried else exception)


EVIDENCE = [
    (RetryPolicy(), AnsweredError(404), "it works"),
    (RetryPolicy(retry_on=Exception), AnsweredError(404), "it works"),
    (RetryPolicy(retry_on=Exception), NameError("no"), "it was not called"),
    (RetryPolicy(), AnsweredError(503), "it failed"),
    (None, ConnectionError("no"), "it failed"),
]


@pytest.mark.parametrize(("retry", "exception", "expected"), EVIDENCE)
@pytest.mark.usefixtures("quiet")
def test_an_answer_is_an_answer(retry: RetryPolicy | None, exception: Exception, expected: str) -> None:
    """What a probe tells of the service does not depend on whether the policy tries again (U5)."""
    service = paused(initial_hold=60)
    with RetryingExecutor(1, retry=retry, upstream=service) as executor:
        service.resume()
        future = executor.submit(fail, exception)
        assert eventually(lambda: future.attempts and not future.running())
        executor.shutdown(cancel_futures=True)
    assert future.cancelled() or future.exception() is exception
    verdicts = {
        ("ramping", True): "it works",
        ("probing", True): "it was not called",
        ("held", False): "it failed",
    }
    assert expected == verdicts[service.state, service.held_until is None]


def test_an_attempt_that_was_not_made_tells_nothing() -> None:
    """It was too late for it; what the attempt before it ended with is no news (U5)."""
    for outcome in (("rejected", None), (None, ConnectionError("no"))):
        assert ("none", None) == attempt.evidence(Terms(AT_ONCE), TOO_LATE, outcome)


# -- interruptions, and threads that are late ----------------------------------------------------


class Late:
    """Holds up the first thread that tells a pool of something, before it does or when it has the answer.

    Args:
        monkeypatch: Puts it in the place of `Core.look_again`.
        is_before: Whether to hold it up before, given the time that it tells.
        is_after: Whether to hold it up afterwards, given the answer.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        is_before: Callable[[float], bool] = lambda _: False,
        is_after: Callable[[bool], bool] = lambda _: False,
    ) -> None:
        self.arrived, self.go_on = Event(), Event()
        look_again = Core.look_again

        def look_again_late(pool: Core, places: Places, opens_at: float) -> bool:
            self.hold_up(is_before(opens_at))
            answer = look_again(pool, places, opens_at)
            self.hold_up(is_after(answer))
            return answer

        monkeypatch.setattr(Core, "look_again", look_again_late)

    def hold_up(self, is_late: bool) -> None:
        if is_late and not self.arrived.is_set():
            self.arrived.set()
            assert self.go_on.wait(TIMEOUT)


def gets_through(future: Any) -> bool:
    """Return whether a call gets through in some seconds; cancel it if not."""
    return bool(wait([future], TIMEOUT).done) or not future.cancel()


def test_an_executor_that_asks_meanwhile_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who had nobody free when it was told, and was then refused, is told again (C5, G1, U4)."""
    service, going, busy = Upstream("service", max_concurrency=1), [Event(), Event()], threading.Barrier(3)
    with RetryingExecutor(1, upstream=service) as other, RetryingExecutor(2, upstream=service) as executor:
        future = other.submit(going[0].wait, TIMEOUT)
        assert eventually(lambda: 1 == service.in_flight)
        first, second = executor.submit(going[1].wait, TIMEOUT), executor.submit(Flaky(0))
        assert eventually(lambda: (0, 2) == counts(executor))
        for _ in range(2):
            executor.with_options(upstream=None).submit(busy.wait, TIMEOUT)
        assert eventually(lambda: 2 == busy.n_waiting)
        late = Late(monkeypatch, is_after=lambda answer: not answer)
        going[0].set()
        assert late.arrived.wait(TIMEOUT)
        busy.wait(TIMEOUT)
        assert eventually(lambda: (1, 1) == counts(executor))
        late.go_on.set()
        assert future.result(TIMEOUT)
        going[1].set()
        assert first.result(TIMEOUT)
        assert gets_through(second)


def test_what_was_true_before_does_not_overrule_what_is_true_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that is resumed while somebody still tells of the hold is resumed (G1, U5)."""
    service, going = paused(), Event()
    with RetryingExecutor(1, upstream=service) as executor:
        future = executor.submit(Flaky(0))
        assert eventually(lambda: (0, 1) == counts(executor))
        executor.with_options(upstream=None).submit(going.wait, TIMEOUT)
        assert eventually(lambda: (1, 1) == counts(executor))
        late = Late(monkeypatch, is_before=lambda opens_at: opens_at > time.monotonic())
        pausing = threading.Thread(target=service.pause, args=(60,))
        pausing.start()
        assert late.arrived.wait(TIMEOUT)
        service.resume()
        late.go_on.set()
        pausing.join(TIMEOUT)
        assert not pausing.is_alive()
        going.set()
        assert gets_through(future)


def test_who_has_the_lock_of_an_upstream_may_submit_and_cancel() -> None:
    """So may do a destructor or a signal handler that runs there, though a worker asks just then (F7)."""
    service = Upstream("service")
    with RetryingExecutor(1, upstream=service) as executor:
        with service._places._lock:
            cancelled, future = executor.submit(Flaky(0)), executor.submit(Flaky(0))
            schedule = executor._core.ledger.schedule
            assert eventually(lambda: schedule.held.is_awaited(service._places))  # it got no answer
            assert cancelled.cancel()
        assert 0 == future.result(TIMEOUT)


def test_an_executor_without_held_calls_is_not_told_of_holds() -> None:
    """When its last held call was cancelled, it does not wait for the service any more (E1, U4)."""
    service = paused()
    with RetryingExecutor(1, upstream=service) as executor:
        future = executor.submit(Flaky(0))
        assert eventually(lambda: (0, 1) == counts(executor))
        assert future.cancel()
        service.pause(60)
        assert not service._places._waiting


@contextmanager
def no_worker_looks(executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the workers from looking for calls, while this thread does what any other may do."""
    with executor._core.lock, monkeypatch.context() as patch:
        patch.setattr(Core, "_is_interrupting", lambda _: False)
        yield


def test_a_place_that_is_kept_in_vain_goes_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the call for which it was kept is cancelled meanwhile, the next executor gets it (G1, U4)."""
    service = paused(max_concurrency=1)
    with RetryingExecutor(1, upstream=service) as one, RetryingExecutor(1, upstream=service) as other:
        cancelled = one.submit(Flaky(0))
        assert eventually(lambda: (0, 1) == counts(one))
        future = other.submit(Flaky(0))
        assert eventually(lambda: (0, 1) == counts(other))
        with no_worker_looks(one, monkeypatch):
            service.resume()
            assert cancelled.cancel()
        assert 0 == future.result(TIMEOUT)


def test_a_place_that_is_kept_for_the_busy_goes_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the only worker takes up a retry that is due, the next executor gets the place (G1, U4)."""
    service, going = paused(max_concurrency=1), Event()
    outcomes = [lambda: going.wait(TIMEOUT), lambda: fail(ConnectionError("not yet"))]
    with RetryingExecutor(1, retry=RetryPolicy(delays=(0.01,))) as one, RetryingExecutor(1) as other:
        held = one.with_options(upstream=service).submit(Flaky(0))
        assert eventually(lambda: (0, 1) == counts(one))
        waiting = other.with_options(upstream=service).submit(Flaky(0))
        assert eventually(lambda: (0, 1) == counts(other))
        busy = one.submit(lambda: outcomes.pop()())
        assert eventually(lambda: len(outcomes) == 1 and not busy.running())
        with no_worker_looks(one, monkeypatch):
            assert eventually(lambda: (busy.due_at or 0.0) <= time.monotonic())
            service.resume()
        assert gets_through(waiting)
        going.set()
        assert (True, 0) == (busy.result(TIMEOUT), held.result(TIMEOUT))


def test_a_callback_does_not_keep_a_place() -> None:
    """While a done callback runs, the place of the call that is done is free for others (F7, U4)."""
    service, going = Upstream("service", max_concurrency=1), [Event(), Event()]
    told: list[bool] = []
    with RetryingExecutor(2, upstream=service) as one, RetryingExecutor(1, upstream=service) as other:
        future = one.submit(going[0].wait, TIMEOUT)
        assert eventually(lambda: 1 == service.in_flight)
        one.submit(Flaky(0))
        assert eventually(lambda: (1, 1) == counts(one))
        waiting = other.submit(Flaky(0))
        assert eventually(lambda: (0, 1) == counts(other))
        one.with_options(upstream=None).submit(going[1].wait, TIMEOUT)
        assert eventually(lambda: (2, 1) == counts(one))
        future.add_done_callback(lambda _: told.append(gets_through(waiting)))
        going[0].set()
        assert eventually(lambda: told)
        going[1].set()
    assert [True] == told


def test_a_call_that_is_cancelled_while_it_is_let_through_is_made_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A destructor may want that at that very moment: it is too late, and holds up nobody (E1, F7, U4)."""
    doomed: list[Any] = []

    def ask_and_cancel(pool: Core, *args: Any) -> Any:
        answer = ask(pool, *args)
        for future in doomed:
            assert not future.cancel()
        doomed.clear()
        return answer

    service, going = Upstream("service", max_concurrency=1), Event()
    ask = service._places.ask
    monkeypatch.setattr(service._places, "ask", ask_and_cancel)
    with RetryingExecutor(1) as executor:
        executor.submit(going.wait, TIMEOUT)
        calls = executor.with_options(upstream=service, retry=lambda _: 0.0)
        late = calls.submit(Flaky())
        doomed.append(late)
        other = calls.submit(Flaky(0))
        going.set()
        assert gets_through(other)
        assert isinstance(late.exception(TIMEOUT), ConnectionError)
        assert 1 == late.attempts
    assert 0 == service.in_flight


@pytest.mark.parametrize("owner", [Settling, attempt], ids=["before", "within"])
@pytest.mark.parametrize("has_upstream", [True, False])
@pytest.mark.usefixtures("quiet")
def test_an_interrupted_worker_gives_its_place_back(
    monkeypatch: pytest.MonkeyPatch, owner: Any, has_upstream: bool
) -> None:
    """An exception from outside fails the call of that worker, and the others go on (G1, U4)."""
    service = paused(max_concurrency=1)
    method = "attempt" if owner is Settling else "make"
    original, interrupts = getattr(owner, method), [Interrupt()]

    def interrupted(*args: Any) -> Any:
        if interrupts:
            raise interrupts.pop()
        return original(*args)

    monkeypatch.setattr(owner, method, interrupted)
    with RetryingExecutor(1, upstream=service if has_upstream else None) as executor:
        service.resume()
        future, other = executor.submit(Flaky(0)), executor.submit(Flaky(0))
        assert isinstance(future.exception(TIMEOUT), Interrupt)
        assert 0 == other.result(TIMEOUT)
    assert (0, "open" if has_upstream else "probing") == (service.in_flight, service.state)


# -- arguments -----------------------------------------------------------------------------------

BAD = [
    ({"name": 7}, TypeError, "name must be a string, not 7"),
    ({"max_concurrency": 0}, ValueError, "max_concurrency must be 1 or more, not 0"),
    ({"max_concurrency": 1.5}, TypeError, "max_concurrency must be an integer, 1 or more, not 1.5"),
    ({"hold_after": True}, TypeError, "hold_after must be an integer, 1 or more, not True"),
    ({"hold_after": -1}, ValueError, "hold_after must be 1 or more, not -1"),
    ({"max_pending": 0}, ValueError, "max_pending must be 1 or more, not 0"),
    ({"max_pending": 1.5}, TypeError, "max_pending must be an integer, 1 or more, not 1.5"),
    ({"rate": 10}, TypeError, "rate must be (attempts, seconds), or several of them, not 10"),
    ({"rate": (1, 2, 3)}, TypeError, "rate must be (attempts, seconds), not (1, 2, 3)"),
    ({"rate": [(1, 2), (1, 2, 3)]}, TypeError, "rate[1] must be (attempts, seconds), not (1, 2, 3)"),
    ({"rate": [1, 2]}, TypeError, "rate[0] must be (attempts, seconds), not 1"),
    ({"rate": ((1, 2), (0, 2))}, ValueError, "rate[1][0] must be 1 or more, not 0"),
    ({"rate": []}, ValueError, "rate must have at least one limit, or be None, not []"),
    ({"rate": ()}, ValueError, "rate must have at least one limit, or be None, not ()"),
    ({"rate": "10/s"}, TypeError, "rate must be (attempts, seconds), or several of them, not '10/s'"),
    ({"budget": 10}, TypeError, "budget must be (weight, seconds), or several of them, not 10"),
    ({"budget": (0, 1)}, ValueError, "budget[0] must be more than 0, not 0"),
    ({"budget": (-1, 1)}, ValueError, "budget[0] must be a finite number, 0 or more, not -1"),
    ({"budget": (math.inf, 1)}, ValueError, "budget[0] must be a finite number, 0 or more, not inf"),
    ({"budget": ("9", 1)}, TypeError, "budget[0] must be a number, not '9'"),
    ({"budget": (9, 0)}, ValueError, "budget[1] must be more than 0 seconds, not 0"),
    ({"budget": [(9, 1), (9, 0)]}, ValueError, "budget[1][1] must be more than 0 seconds, not 0"),
    ({"paced": 1}, TypeError, "paced must be True or False, not 1"),
    ({"paced": True}, ValueError, "paced must be False, not True, without a rate: that sets the pace"),
    ({"rate": (0, 1)}, ValueError, "rate[0] must be 1 or more, not 0"),
    ({"rate": (10**30, 1)}, ValueError, f"rate[0] must be at most 1000000, not {10**30}"),
    ({"rate": (1, 0)}, ValueError, "rate[1] must be more than 0 seconds, not 0"),
    ({"rate": (1, math.inf)}, ValueError, "rate[1] must be a finite number of seconds, 0 or more, not inf"),
    ({"initial_hold": 0}, ValueError, "initial_hold must be more than 0 seconds, not 0"),
    ({"initial_hold": "1"}, TypeError, "initial_hold must be a number of seconds or a timedelta, not '1'"),
    ({"initial_hold": 61}, ValueError, "max_hold must be 61.0 (initial_hold) or more, not 60.0"),
    ({"max_hold": math.nan}, ValueError, "max_hold must be a finite number of seconds, 0 or more, not nan"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD, ids=str)
def test_bad_arguments_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    """The error names the argument, what is allowed, and what it was (A1, U4)."""
    with pytest.raises(error) as caught:
        Upstream(**{"name": "service", **options})
    assert message == str(caught.value)


@both
@pytest.mark.parametrize("accept", [RetryingExecutor, RetryingExecutor().with_options])
def test_what_is_no_upstream_is_refused(accept: Callable[..., object]) -> None:
    """By executors and views (U4)."""
    with pytest.raises(TypeError, match="upstream must be an Upstream, a tuple of them, or None, not 'glue'"):
        accept(upstream="glue")


def test_a_bad_pause_is_refused() -> None:
    """And changes nothing (U5)."""
    service = Upstream("service")
    with pytest.raises(ValueError, match="duration must be a finite number of seconds, 0 or more, not -1"):
        service.pause(-1)
    assert "open" == service.state


# -- its backlog (U6) ------------------------------------------------------------------------------

FULL = r"^2 calls of upstream 'service' are pending, as many as its max_pending allows"


def bounded() -> Upstream:
    """Return an upstream that has room for two calls, and lets none through."""
    return paused(max_pending=2)


def room(executor: RetryingExecutor) -> int:
    """Return how many more calls are accepted: with cancelled ones that leave as much as before."""
    futures = []
    with suppress(PendingLimitError):
        while True:
            futures.append(executor.submit(int))
    assert all(future.cancel() for future in futures)
    return len(futures)


def test_a_service_that_is_down_uses_up_its_own_backlog_only() -> None:
    """Its limit counts over all executors, views and threads; calls of others are accepted (U6)."""
    service = bounded()
    with RetryingExecutor(1, max_pending=5) as executor, RetryingExecutor(1, upstream=service) as other:
        dead = executor.with_options(upstream=service)
        futures = [dead.submit(int), other.submit(int)]
        for refused in (dead, other, executor.with_options(upstream=service)):
            with pytest.raises(PendingLimitError, match=f"{FULL}$"):
                refused.submit(int)
        assert 0 == executor.submit(int).result(TIMEOUT)
        assert 0 == executor.with_options(upstream=Upstream("healthy")).submit(int).result(TIMEOUT)
        assert (1, 1) == (executor.stats().held, other.stats().submitted)
        service.resume()
        assert not wait(futures, TIMEOUT).not_done
        assert 0 == dead.submit(int).result(TIMEOUT)


@pytest.mark.parametrize(
    "end",
    [
        lambda _, future: future.cancel(),
        lambda _, future: future.set_result(7),
        lambda _, future: future.set_exception(KeyError()),
        lambda service, future: (service.resume(), future.exception(TIMEOUT)),
        lambda service, future: (service.resume(), wait([future], TIMEOUT)),
    ],
    ids=["cancel", "set_result", "set_exception", "outcome", "waited"],
)
@pytest.mark.parametrize("call", [int, partial(int, "no number"), partial(fail, NotNow(after=0))])
def test_a_call_that_is_done_makes_room_once(
    end: Callable[[Upstream, RetryingFuture[int]], object], call: Callable[[], int]
) -> None:
    """However it ends, there is room as soon as that can be seen (U6)."""
    service = bounded()
    retry = RetryPolicy(delays=(0,), max_elapsed=0.05)
    with RetryingExecutor(1, upstream=service, retry=retry) as executor:
        for _ in range(3):
            service.pause()
            future = executor.submit(call)
            assert 1 == room(executor)
            end(service, future)
            service.pause()  # or what is counted next would begin
            assert 2 == room(executor)
        service.resume()


def test_a_call_that_was_refused_takes_up_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether no thread could be started for it, or the executor has no room itself (U6, C7)."""
    service = bounded()
    with RetryingExecutor(1, upstream=service, max_pending=1) as executor:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", lambda _: fail(RuntimeError("can't start new thread")))
            for _ in range(3):
                with pytest.raises(RuntimeError, match="can't start"):
                    executor.submit(int)
        future = executor.submit(int)
        for _ in range(3):
            with pytest.raises(PendingLimitError, match=r"^1 calls are pending"):
                executor.submit(int)
        with RetryingExecutor(1, upstream=service) as other:
            assert 1 == room(other)
        with pytest.raises(RuntimeError, match="after shutdown"):
            other.submit(int)
        with RetryingExecutor(1, upstream=service) as other:
            assert 1 == room(other)
        assert future.cancel()


@pytest.mark.parametrize("is_crowded", [False, True])
def test_submit_waits_for_room_in_an_upstream(*, is_crowded: bool) -> None:
    """With ``when_full="wait"``, whichever executor the call belongs to that makes room (U6)."""
    service = bounded()
    with (
        RetryingExecutor(2, upstream=service) as other,
        RetryingExecutor(1, upstream=service, when_full="wait", max_pending=9) as executor,
    ):
        futures = [other.submit(int) for _ in range(2)]
        threads = [
            threading.Thread(target=lambda: futures.append(executor.submit(int)))
            for _ in range(1 + 7 * is_crowded)
        ]
        for thread in threads:
            thread.start()
        assert eventually(lambda: len(backlog(service)._line) == len(threads))
        assert 2 == len(futures)
        assert futures[0].cancel()
        assert eventually(lambda: 3 == len(futures))
        assert eventually(lambda: len(backlog(service)._line) == len(threads) - 1)
        service.resume()
        for thread in threads:
            thread.join(TIMEOUT)
        assert not wait(futures, TIMEOUT).not_done
        assert 2 + len(threads) == len(futures)
    assert (0, 0) == (len(backlog(service)._line), len(backlog(service)._pending))


@pytest.mark.parametrize("bounds_itself", [False, True])
def test_submit_waits_for_room_in_the_upstream_of_a_view(*, bounds_itself: bool) -> None:
    """The executor says so, though it has neither a limit nor an upstream of its own (U6, B9)."""
    service, began, entered = bounded(), Event(), Event()
    with RetryingExecutor(1, when_full="wait", max_pending=9 if bounds_itself else None) as executor:
        assert 0 == executor.submit(int).result(TIMEOUT)
        view = executor.with_options(upstream=service)
        futures = [view.submit(int) for _ in range(2)]

        def submit() -> None:
            began.set()
            futures.append(view.submit(int))
            entered.set()

        thread = threading.Thread(target=submit)
        thread.start()
        assert began.wait(TIMEOUT)
        assert eventually(lambda: len(backlog(service)._line) == 1)
        assert 0 == executor.submit(int).result(TIMEOUT)  # it is not the executor that is full
        assert not entered.is_set()
        assert futures[0].cancel()
        assert entered.wait(TIMEOUT)
        thread.join(TIMEOUT)
        service.resume()
        assert [0, 0] == [future.result(TIMEOUT) for future in futures[1:]]


def test_in_virtual_time_submit_waits_for_room_in_the_upstream_of_a_view() -> None:
    """As with a real executor (U6)."""
    service = Upstream("service", max_pending=1, hold_after=None)
    with VirtualTimeExecutor(when_full="wait", retry=RetryPolicy(delays=[60])) as executor:
        view = executor.with_options(upstream=service)
        futures = [view.submit(Flaky(1)), view.submit(int)]
        assert (60, [True, False]) == (executor.monotonic(), [future.done() for future in futures])


def test_who_waits_for_room_in_an_upstream_learns_of_the_end() -> None:
    """And the room that there is goes to another who waits, in another executor (U6, F1)."""
    service = bounded()
    with RetryingExecutor(1, upstream=service, when_full="wait") as other:
        executor = RetryingExecutor(1, upstream=service, when_full="wait")
        futures = [other.submit(int) for _ in range(2)]
        caught = []

        def submit() -> None:
            with pytest.raises(RuntimeError, match="after shutdown"):
                executor.submit(int)
            caught.append("refused")

        threads = [threading.Thread(target=submit) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert eventually(lambda: len(backlog(service)._line) == 2)
        threads.append(threading.Thread(target=lambda: futures.append(other.submit(int))))
        threads[2].start()
        assert eventually(lambda: len(backlog(service)._line) == 3)
        with executor._core.lock:  # so that the first who waits is told of both
            assert futures[0].cancel()
            executor.shutdown(wait=False)
        for thread in threads:
            thread.join(TIMEOUT)
        assert (["refused"] * 2, 3) == (caught, len(futures))
        service.resume()


def test_room_in_an_upstream_is_not_kept_for_an_executor_that_is_full_itself() -> None:
    """Its submitter waited first, but cannot use that room: another submitter gets it (U6, G5)."""
    service, may_end = paused(max_pending=1), Event()
    with (
        RetryingExecutor(1, upstream=service, when_full="wait") as other,
        RetryingExecutor(1, upstream=service, when_full="wait", max_pending=1) as executor,
    ):
        futures = [other.submit(int)]
        first = threading.Thread(target=lambda: futures.append(executor.submit(int)))
        second = threading.Thread(target=lambda: futures.append(other.submit(int)))
        for count, thread in enumerate((first, second), 1):
            thread.start()
            assert eventually(lambda count=count: len(backlog(service)._line) == count)
        with executor._core.lock:  # so that the first finds both changes
            assert futures[0].cancel()
            executor.with_options(upstream=None).submit(may_end.wait, TIMEOUT)
        second.join(TIMEOUT)
        assert 2 == len(futures)
        may_end.set()
        service.resume()
        first.join(TIMEOUT)
        assert 3 == len(futures)
        assert not wait(futures, TIMEOUT).not_done


@pytest.mark.usefixtures("quiet")
def test_who_waits_for_room_in_an_upstream_learns_that_the_executor_is_broken() -> None:
    """The initializer fails, and nothing would ever make room (U6, C6)."""
    service = Upstream("service", max_pending=1)
    waits = Event()

    def initializer() -> None:
        assert waits.wait(TIMEOUT)
        fail(ValueError())

    with RetryingExecutor(1, upstream=service, when_full="wait", initializer=initializer) as executor:
        future = executor.submit(int)
        watcher = threading.Thread(target=lambda: (eventually(lambda: backlog(service)._line), waits.set()))
        watcher.start()
        with pytest.raises(BrokenThreadPool):
            executor.submit(int)
        assert isinstance(future.exception(TIMEOUT), BrokenThreadPool)
        watcher.join(TIMEOUT)


def test_an_executors_own_thread_does_not_wait_for_room_in_an_upstream() -> None:
    """Nor does a call of that upstream, in whichever executor: they might wait for themselves (U6)."""
    service = Upstream("service", max_pending=1)
    with (
        RetryingExecutor(1, upstream=service, when_full="wait", retry=None) as executor,
        RetryingExecutor(1, upstream=service, when_full="wait", retry=None) as other,
    ):
        for submitter in (executor, other):
            with pytest.raises(PendingLimitError, match="threads cannot wait"):
                executor.submit(submitter.submit, int).result(TIMEOUT)
        plain = executor.with_options(upstream=None)
        with occupied(other), pytest.raises(PendingLimitError, match="threads cannot wait"):
            plain.submit(executor.submit, int).result(TIMEOUT)


def test_exactly_as_many_calls_are_accepted_as_there_is_room() -> None:
    """However many threads and executors submit at the same time (U6)."""
    service = paused(max_pending=50)
    executors = [RetryingExecutor(1, upstream=service) for _ in range(4)]
    together, accepted = Barrier(4), []

    def submit(executor: RetryingExecutor) -> None:
        together.wait(TIMEOUT)
        with suppress(PendingLimitError):
            while True:
                accepted.append(executor.submit(int))

    for _ in range(5):
        threads = [threading.Thread(target=submit, args=(executor,)) for executor in executors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        assert 50 == len(accepted)
        assert all(future.cancel() for future in accepted)
        accepted.clear()
    for executor in executors:
        executor.shutdown()


def test_a_signal_handler_that_submits_finds_the_right_number() -> None:
    """It may come between two steps of a submit(), and in a thread that has other locks (U6)."""
    service = bounded()
    with RetryingExecutor(1, upstream=service) as executor, RetryingExecutor(1, upstream=service) as other:
        with backlog(service)._door, executor._core.lock:
            futures = [executor.submit(int)]
        thread = threading.Thread(target=lambda: futures.append(other.submit(int)))
        with backlog(service)._door:  # whoever has it may wait for a lock of who wants it
            thread.start()
            thread.join(TIMEOUT)
        assert 2 == len(futures)
        assert 0 == room(executor)
        assert all(future.cancel() for future in futures)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_has_a_backlog_of_its_own() -> None:
    """It starts with no call (U6, F6)."""
    service = bounded()
    with RetryingExecutor(1, upstream=service) as executor:
        futures = [executor.submit(int) for _ in range(2)]

        def check() -> None:
            check_orphaned(futures[0])
            assert 2 == room(executor)
            assert 2 == room(executor)

        in_child(check)
        assert 0 == room(executor)
        service.resume()


def test_the_backlog_of_an_upstream_in_virtual_time() -> None:
    """It is the same, and with ``when_full="wait"`` attempts run until there is room (U6)."""
    service = Upstream("service", max_pending=2, hold_after=None)
    with VirtualTimeExecutor(upstream=service) as executor:
        futures = [executor.submit(int) for _ in range(2)]
        with pytest.raises(PendingLimitError, match=f"{FULL}$"):
            executor.submit(int)
        other = executor.with_options(upstream=None).submit(int)
        assert futures[0].cancel()
        assert 1 == room(executor)
        assert 0 == other.result()
        assert 0 == futures[1].result()
        assert 2 == room(executor)
    with VirtualTimeExecutor(upstream=service, when_full="wait", retry=RetryPolicy(delays=[60])) as executor:
        futures = [executor.submit(Flaky(1)) for _ in range(2)]
        futures.append(executor.submit(Flaky(0)))
        assert (60, [True, False, False]) == (executor.monotonic(), [future.done() for future in futures])
        full = executor.submit(lambda: [executor.submit(int) for _ in range(2)])
        with pytest.raises(PendingLimitError, match=f"{FULL}, and the executor's own threads cannot wait"):
            full.result()


class CoarseTime:
    """The module `time` with a clock that moves in steps, as that of Windows did before Python 3.13."""

    def __getattr__(self, name: str) -> Any:  # pragma: no cover  # whatever else is asked of it
        return getattr(time, name)

    def monotonic(self) -> float:
        return time.monotonic() // 0.0625 * 0.0625


def test_no_worker_spins_until_a_coarse_clock_moves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the patience of a held call is over, it gives up right then (B6, C3)."""
    rounds: list[float] = []
    take, coarse = Turns.take, CoarseTime()

    def noted(turns: Turns, hand: Any, now: float, *args: Any) -> Any:
        rounds.append(now)
        return take(turns, hand, now, *args)

    def call() -> NoReturn:
        upstream.pause(3600)
        raise ConnectionError

    monkeypatch.setattr(Turns, "take", noted)
    monkeypatch.setattr(Threads, "clock", coarse)
    monkeypatch.setattr("retrying_executor._threads.workers.time", coarse)
    upstream = Upstream("coarse", hold_after=None)
    policy = RetryPolicy(max_attempts=None, initial_delay=0.01, jitter=False, max_elapsed=0.25)
    with RetryingExecutor(1, retry=policy, upstream=upstream) as executor:
        monkeypatch.setattr(upstream._places, "clock", coarse)
        assert isinstance(executor.submit(call).exception(TIMEOUT), ConnectionError)
        upstream.resume()
    assert max(rounds.count(now) for now in rounds) < 10


@both
def test_more_calls_are_held_than_are_put_aside_in_one_go(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them start when the service is back, in their order (D1, U4)."""
    monkeypatch.setattr(schedule, "_MOST_DEFERRED", 10)
    service, started = Upstream("service"), []
    calls = executor.with_options(upstream=service)
    service.pause()
    futures = [calls.submit(started.append, number) for number in range(35)]
    service.resume()
    assert executor.drain(TIMEOUT)
    assert all(future.done() for future in futures)
    assert [*range(35)] == sorted(started)
