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
from contextlib import contextmanager
from datetime import timedelta
from itertools import groupby
from threading import Event
from typing import Any, NoReturn

import pytest

from calls import Flaky
from conftest import TIMEOUT
from forks import check_executor_works, check_orphaned, in_child
from forks import held as occupied
from observe import eventually, needs_gil, threads_named
from retrying_executor import NotNow, PendingLimitError, RetryingExecutor, RetryPolicy, Upstream, _attempt
from retrying_executor._policy import TOO_LATE, Terms
from retrying_executor._pool import Pool
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


def paused(**options: Any) -> Upstream:
    """Return an upstream that is held until it is resumed."""
    service = Upstream("service", **options)
    service.pause()
    return service


def counts(executor: RetryingExecutor) -> tuple[int, int]:
    """Return how many calls run and how many are held."""
    stats = executor.stats()
    return stats.running, stats.held


class Meter:
    """A call of a service that takes two at a time: each attempt waits for another one.

    Args:
        failures: How many attempts of each call fail.
    """

    def __init__(self) -> None:
        self.lock, self.pair = threading.Lock(), threading.Barrier(2)
        self.running = self.most = 0

    def __call__(self, flaky: Flaky) -> int:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.pair.wait(TIMEOUT)
        with self.lock:
            self.running -= 1
        return flaky()


# -- limits --------------------------------------------------------------------------------------


def test_max_concurrency_holds_over_retries_executors_and_views() -> None:
    """Never more attempts run than allowed, whether first ones or retries, whoever makes them (U4)."""
    service, meter = Upstream("service", max_concurrency=2, hold_after=None), Meter()
    with RetryingExecutor(4, retry=AT_ONCE, upstream=service) as one, RetryingExecutor(4) as other:
        view = other.with_options(retry=AT_ONCE, upstream=service)
        futures = [each.submit(meter, Flaky(1)) for _ in range(20) for each in (one, view)]
        assert [1] * 40 == [future.result(TIMEOUT) for future in futures]
    assert (2, 0) == (meter.most, service.in_flight)


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


def test_calls_of_other_upstreams_go_on() -> None:
    """With one worker, calls that are held delay no call to another service, nor one to none (U4)."""
    service = paused()
    with RetryingExecutor(1, retry=AT_ONCE, upstream=service) as executor:
        held = [executor.submit(Flaky(0)) for _ in range(3)]
        for other in (None, Upstream("other")):
            assert 1 == executor.with_options(upstream=other).submit(Flaky(1)).result(TIMEOUT)
        assert (0, 3) == counts(executor)
        assert executor.stats().next_due_at is None
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
    """Places go round: while both wait, none of two executors starts many calls in a row (U4)."""
    service, order = paused(max_concurrency=1), []
    with RetryingExecutor(max_workers) as one, RetryingExecutor(max_workers) as other:
        for _ in range(20):
            for name, executor in (("one", one), ("other", other)):
                executor.with_options(upstream=service).submit(order.append, name)
        assert eventually(lambda: counts(one) == counts(other) == (0, 20))
        service.resume()
    assert 20 == order.count("one") == order.count("other")
    last = min(len(order) - order[::-1].index(name) for name in ("one", "other"))
    assert max(len(list(calls)) for _, calls in groupby(order[:last])) <= 3


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
        assert (None, "held") == (service.held_until, service.state)  # until somebody calls
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
        with occupied(executor) as probe, pytest.raises(AssertionError):
            probe.set_result(False)
        assert 0 == executor.submit(Flaky(0)).result(TIMEOUT)
    assert ("open", 0) == (service.state, service.in_flight)


def test_holds_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """When a service is held, and when it works again, is a warning (G3, U5)."""
    service = Upstream("glue", hold_after=2, initial_hold=0.001)
    with RetryingExecutor(1, retry=RetryPolicy(delays=(0,) * 3), upstream=service) as executor:
        assert 3 == executor.submit(Flaky(3)).result(TIMEOUT)
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert 3 == len(messages)
    assert all(message.startswith("upstream glue is held for 0.00") for message in messages[:2])
    assert "upstream glue works again" == messages[2]


EVIDENCE = [
    (RetryPolicy(), AnsweredError(404), "ramping"),  # it answers
    (RetryPolicy(retry_on=Exception), AnsweredError(404), "ramping"),
    (RetryPolicy(retry_on=Exception), NameError("no"), "held"),  # it was not called
    (RetryPolicy(), AnsweredError(503), "held"),
    (None, ConnectionError("no"), "held"),
]


@pytest.mark.parametrize(("retry", "exception", "state"), EVIDENCE)
@pytest.mark.usefixtures("quiet")
def test_an_answer_is_an_answer(retry: RetryPolicy | None, exception: Exception, state: str) -> None:
    """What a probe tells of the service does not depend on whether the policy tries again (U5)."""
    service = paused()
    with RetryingExecutor(1, retry=retry, upstream=service) as executor:
        service.resume()
        future = executor.submit(fail, exception)
        assert eventually(lambda: future.attempts and not future.running())
        executor.shutdown(cancel_futures=True)
    assert future.cancelled() or future.exception() is exception
    assert (state, isinstance(exception, NameError)) == (service.state, service.held_until is None)


def test_an_attempt_that_was_not_made_tells_nothing() -> None:
    """It was too late for it; what the attempt before it ended with is no news (U5)."""
    for outcome in (("rejected", None), (None, ConnectionError("no"))):
        assert ("none", None) == _attempt.evidence(Terms(AT_ONCE), TOO_LATE, outcome)


# -- interruptions, and threads that are late ----------------------------------------------------


@contextmanager
def late(monkeypatch: pytest.MonkeyPatch, is_late: Callable[[Any], bool]) -> Iterator[tuple[Event, Event]]:
    """Hold up the first thread that comes out of `Pool.look_again` with a certain answer.

    Yields:
        What is set when it does, and what lets it go on.
    """
    answered, go_on, look_again = Event(), Event(), Pool.look_again

    def look_again_late(self: Pool, *args: Any, **options: Any) -> bool:
        answer = look_again(self, *args, **options)
        if is_late(answer) and not answered.is_set():
            answered.set()
            assert go_on.wait(TIMEOUT)
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Pool, "look_again", look_again_late)
        yield answered, go_on


def test_an_executor_that_asks_meanwhile_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who had nobody free when it was told, and was then refused, is told again (C5, G1, U4)."""
    service, started, going = Upstream("service", max_concurrency=1), Event(), Event()
    with RetryingExecutor(1, upstream=service) as other, RetryingExecutor(2, upstream=service) as executor:
        plain = executor.with_options(upstream=None)
        with late(monkeypatch, lambda answer: not answer) as (answered, go_on):
            with occupied(other):
                first = executor.submit(lambda: started.set() or going.wait(TIMEOUT))
                second = executor.submit(Flaky(0))
                assert eventually(lambda: (0, 2) == counts(executor))
                free = threading.Barrier(3)
                busy = [plain.submit(lambda: free.wait(TIMEOUT) and 0) for _ in range(2)]
                assert eventually(lambda: 2 == free.n_waiting)
            assert answered.wait(TIMEOUT)
            free.wait(TIMEOUT)
            assert started.wait(TIMEOUT)
            assert eventually(lambda: (1, 1) == counts(executor))
            go_on.set()
            assert not wait(busy, TIMEOUT).not_done
            assert eventually(lambda: 0 == counts(other)[0])
        going.set()
        assert first.result(TIMEOUT)
        is_done = bool(wait([second], 5).done)
        second.cancel()
    assert is_done
