"""No attempt starts later than ``max_age`` after ``submit()``, whatever the call was waiting for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from threading import Event
from typing import Any, NoReturn

import pytest

from conftest import TIMEOUT
from observe import eventually
from retrying_executor import NotNow, RetryingExecutor, RetryPolicy, Upstream, current_call
from retrying_executor._common import log
from retrying_executor.testing import VirtualTimeExecutor

pytestmark = pytest.mark.usefixtures("quiet")

EVERY_10_SECONDS = RetryPolicy(delays=[10] * 1000, max_elapsed=None, max_age=60)
TOO_OLD = "^never tried: it was submitted more than 60 s ago, and that is its max_age"


@pytest.fixture
def release() -> Iterator[Event]:
    """What running calls wait for; in the end it is set anyway."""
    release = Event()
    yield release
    release.set()


def fail(error: BaseException) -> NoReturn:
    """Raise *error*."""
    raise error


def note_of(error: BaseException | None) -> str:
    """Return why a call gave up."""
    (note,) = error.__notes__  # type: ignore[union-attr]  # there is one
    return str(note)


def test_no_retry_begins_after_max_age() -> None:
    """The call gives up at once, with its last exception and a note that says why (B12, B3)."""
    executor = VirtualTimeExecutor(retry=EVERY_10_SECONDS)
    error = ConnectionError("down")
    future = executor.submit(fail, error)
    assert future.exception() is error
    assert (7, 60.0) == (future.attempts, executor.monotonic())
    expected = (
        "gave up after 7 attempts in 60 s: the next attempt would start after 70 s, and max_age is 60 s"
    )
    assert f"retrying_executor: {expected}" == note_of(error)


def test_the_age_begins_with_submit() -> None:
    """Not with the first attempt, as ``max_elapsed`` does (B12, B6)."""
    executor = VirtualTimeExecutor(upstream=Upstream("service"), retry=EVERY_10_SECONDS)
    executor._terms.upstreams[0].pause(35)
    future = executor.submit(fail, ConnectionError("down"))
    assert isinstance(future.exception(), ConnectionError)
    assert (3, 55.0) == (future.attempts, executor.monotonic())
    assert "would start after 65 s, and max_age is 60 s" in note_of(future.exception())


def test_a_result_that_is_rejected_to_the_end_is_the_result() -> None:
    """As where attempts run out (B12, B3)."""
    executor = VirtualTimeExecutor(retry=EVERY_10_SECONDS.replace(retry_result=lambda result: True))
    assert executor.submit(lambda: executor.monotonic()).result() == 60.0


def test_a_subclass_of_the_policy_cannot_outlive_it() -> None:
    """Whatever it decides, and a "not now" does not either (B12, U3)."""

    class Stubborn(RetryPolicy):
        def __call__(self, attempt: object) -> float:
            return 10.0

    for retry in (Stubborn(max_age=60), RetryPolicy(max_age=60, jitter=False)):
        executor = VirtualTimeExecutor(retry=retry)
        future = executor.submit(fail, NotNow(after=10))
        assert isinstance(future.exception(), NotNow)
        assert (7, 60.0) == (future.attempts, executor.monotonic())


@pytest.mark.parametrize(
    "options", [{}, {"max_concurrency": 1}, {"rate": (1, 3600.0)}, {"hold_after": None}], ids=repr
)
@pytest.mark.parametrize("count", [1, 5, 100])
def test_calls_that_wait_for_an_upstream_expire_in_time(options: dict[str, Any], count: int) -> None:
    """Each with a TimeoutError that says so, as soon as it is too old (B12, U4)."""
    service = Upstream("service", **options)
    executor = VirtualTimeExecutor(8, upstream=service, retry=EVERY_10_SECONDS)
    executor.with_options(max_age=None).submit(int).result()
    service.pause()
    futures = [executor.submit(int) for _ in range(count)]
    executor.advance(50)
    futures += [executor.submit(int) for _ in range(count)]
    executor.advance(10)
    executor.advance(0.001)
    assert [True] * count + [False] * count == [future.done() for future in futures]
    executor.shutdown()
    assert 110 == round(executor.monotonic(), 6)
    for future in futures:
        with pytest.raises(TimeoutError, match=TOO_OLD):
            future.result()
    assert {0} == {future.attempts for future in futures}
    assert note_of(futures[0].exception()).endswith(": max_age has passed since submit()")


def test_a_call_that_waits_for_a_limit_expires_too() -> None:
    """Where nothing is down, and so ``max_elapsed`` has not begun (B12, U4)."""
    executor = VirtualTimeExecutor(upstream=Upstream("service", rate=(1, 25.0)), retry=EVERY_10_SECONDS)
    futures = [executor.submit(executor.monotonic) for _ in range(5)]
    executor.shutdown()
    assert [0.0, 25.0, 50.0] == [future.result() for future in futures[:3]]
    assert ["TimeoutError"] * 2 == [type(future.exception()).__name__ for future in futures[3:]]


def test_an_upstream_that_goes_down_or_comes_back_makes_no_call_younger() -> None:
    """Though the time that ``max_elapsed`` leaves to calls without an attempt begins anew (B12, B6)."""
    service = Upstream("service", rate=(1, 45.0))
    executor = VirtualTimeExecutor(upstream=service, retry=RetryPolicy(max_age=100, max_elapsed=1000))
    futures = [executor.submit(executor.monotonic) for _ in range(4)]
    executor.advance(20)
    service.pause(10)
    executor.advance(40)
    service.pause(10)
    executor.shutdown()
    tried = [future for future in futures if future.attempts]
    assert all(future.result() <= 100 for future in tried)
    assert {100} == {round(executor.monotonic())}
    assert 1 <= len(tried) < 4


def test_a_retry_that_waits_for_its_upstream_expires_with_what_it_had() -> None:
    """With its last exception: soon after it is too old, though the hold goes on (B12, U5)."""
    service = Upstream("service", hold_after=1, initial_hold=3600, max_hold=7200)
    executor = VirtualTimeExecutor(upstream=service, retry=EVERY_10_SECONDS)
    errors = [ConnectionError("1"), ConnectionError("2")]
    futures = [executor.submit(fail, error) for error in errors]
    executor.advance(60.001)
    assert errors[0] is futures[0].exception(0)
    assert note_of(errors[0]).endswith("max_age has passed since submit()")
    with pytest.raises(TimeoutError, match=TOO_OLD):
        futures[1].result(0)


def test_a_call_that_failed_as_the_probe_expires_in_time() -> None:
    """It lets others be the next probe, but does not wait for the end of that hold (B12, U5)."""
    service = Upstream("service", initial_hold=40, max_hold=3600)
    executor = VirtualTimeExecutor(upstream=service, retry=EVERY_10_SECONDS)
    service.pause(10)
    future = executor.submit(fail, ConnectionError("down"))
    executor.advance(10)
    assert 1 == future.attempts
    service.pause(3000)
    executor.advance(50.001)
    assert isinstance(future.exception(0), ConnectionError)


@pytest.mark.parametrize("cls", [RetryingExecutor, VirtualTimeExecutor])
def test_a_call_that_expired_is_told_and_counted_as_failed(
    cls: type[RetryingExecutor], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log line and the event say why (B12, G3, G4)."""
    lines: list[Any] = []
    events: list[Any] = []
    caplog.set_level(logging.INFO, "retrying_executor")
    monkeypatch.setattr(log, "_log", lambda _, message, *args, **__: lines.append(message % args))
    service = Upstream("service")
    with cls(1, on_event=events.append) as executor:
        executor.with_options(upstream=service).submit(int).result(TIMEOUT)
        service.pause()
        future = executor.with_options(upstream=service, max_age=0.01, key="k").submit(int)
        assert isinstance(future.exception(TIMEOUT), TimeoutError)
        assert eventually(lambda: (1, 1) == (executor.stats().succeeded, executor.stats().failed))
    why = f"TimeoutError: {future.exception()}"
    assert "never tried: it was submitted more than 0.01 s ago, and that is its max_age" in why
    why, after = f"({why}) (max_age has passed since submit())", "builtins.int [k]: gave up after attempt 0 "
    assert [after + why] == [line for line in lines if "gave up" in line]
    (event,) = [event for event in events if event.kind == "gave_up"]
    assert (0, why) == (event.attempt, f"({event.reason.replace(' (max', ') (max')}")


def test_a_call_that_is_too_old_when_its_turn_comes_does_not_run(release: Event) -> None:
    """Where it only waited for a thread (B12)."""
    with RetryingExecutor(1) as executor:
        started = Event()
        busy = executor.submit(lambda: (started.set(), release.wait(TIMEOUT)))
        assert started.wait(TIMEOUT)
        ran: list[int] = []
        future = executor.with_options(max_age=1e-6).submit(ran.append, 1)
        young = executor.with_options(max_age=3600).submit(ran.append, 2)
        release.set()
        assert busy.result(TIMEOUT)
        with pytest.raises(TimeoutError, match="never tried"):
            future.result(TIMEOUT)
        assert young.result(TIMEOUT) is None
    assert [2] == ran


def test_a_call_with_a_place_that_is_too_old_gives_it_back(release: Event) -> None:
    """Its upstream goes on (B12, U4)."""
    service = Upstream("service", max_concurrency=1)
    with RetryingExecutor(1, upstream=service, retry=RetryPolicy(max_age=3600)) as executor:
        started = Event()
        busy = executor.submit(lambda: (started.set(), release.wait(TIMEOUT)))
        assert started.wait(TIMEOUT)
        old = executor.with_options(max_age=1e-6).submit(int)
        young = executor.submit(int)
        release.set()
        assert not wait([busy, old, young], TIMEOUT).not_done
        assert isinstance(old.exception(), TimeoutError)
        assert 0 == young.result()
        assert eventually(lambda: 0 == service.in_flight)
    assert "open" == service.state


def test_a_retry_that_is_too_old_when_its_turn_comes_fails_with_what_it_had(release: Event) -> None:
    """It was due in time, but no thread was free (B12, B3)."""
    error = ConnectionError("down")
    blockers: list[Any] = []

    def call() -> NoReturn:
        blockers.append(executor.submit(release.wait, TIMEOUT))
        raise error

    with RetryingExecutor(1) as executor:
        future = executor.with_options(delays=[0.01] * 100, max_age=3600).submit(call)
        assert eventually(lambda: blockers and blockers[0].running())
        future._expires_at = 0.0  # as if time had passed
        release.set()
        assert future.exception(TIMEOUT) is error
        assert blockers[0].result(TIMEOUT)
    assert "max_age" in note_of(error)


def test_calls_in_real_time_expire_though_their_upstream_stays_held() -> None:
    """A thread sees to it, without being asked; and none is left (B12, C3)."""
    service = Upstream("service")
    service.pause()
    with RetryingExecutor(1, retry=RetryPolicy(max_age=0.05), upstream=service) as executor:
        futures = [executor.submit(int) for _ in range(3)]
        assert not wait(futures, TIMEOUT).not_done
        assert [TimeoutError] * 3 == [type(future.exception()) for future in futures]
        assert eventually(lambda: (0, 3) == (executor.stats().held, executor.stats().failed))


def test_a_call_that_expired_can_be_cancelled_before_it_is_told() -> None:
    """It is counted once, wherever it waits (B12, E1, G4)."""
    service = Upstream("service", rate=(1, 3600.0))
    executor = VirtualTimeExecutor(retry=RetryPolicy(max_age=1), upstream=service)
    executor.submit(int).result()
    first, second = executor.submit(int), executor.submit(int)
    first.add_done_callback(lambda _: second.cancel())
    executor.advance(10)
    assert isinstance(first.exception(), TimeoutError)
    assert second.cancelled()
    stats = executor.stats()
    assert (3, 1, 1, 1, 0) == (stats.submitted, stats.succeeded, stats.failed, stats.cancelled, stats.held)


def test_room_that_comes_too_late_does_not_make_a_call_run() -> None:
    """Waiting in ``submit()`` counts too (B12, G5)."""
    executor = VirtualTimeExecutor(max_pending=1, when_full="wait", retry=RetryPolicy(max_age=60))
    executor.submit(executor.sleep, 100)
    future = executor.submit(int)
    with pytest.raises(TimeoutError, match=TOO_OLD):
        future.result()


@pytest.mark.parametrize("make", [RetryPolicy, RetryPolicy().replace], ids=["made", "replaced"])
def test_a_running_call_knows_how_long_further_attempts_may_start(make: Callable[..., RetryPolicy]) -> None:
    """The nearer of both limits, less what has passed (B12)."""
    executor = VirtualTimeExecutor(retry=make(max_age=60, max_elapsed=100))

    def ask() -> float | None:
        executor.sleep(20)
        call = current_call()
        return None if call is None else call.time_left

    assert 40.0 == executor.submit(ask).result()
    assert 10.0 == executor.with_options(max_elapsed=30).submit(ask).result()
    assert 10.0 == executor.with_options(max_age=30, max_elapsed=None).submit(ask).result()


def test_views_take_max_age_as_any_option_of_the_policy() -> None:
    """And ``None`` takes it away (B12, B9)."""
    executor = VirtualTimeExecutor(retry=EVERY_10_SECONDS)
    view = executor.with_options(max_age=None, max_attempts=11)
    future = view.submit(fail, ConnectionError("down"))
    assert isinstance(future.exception(), ConnectionError)
    assert (11, 100.0) == (future.attempts, executor.monotonic())
