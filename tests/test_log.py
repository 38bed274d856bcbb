"""What is logged, and when."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, as_completed, wait
from contextlib import suppress
from threading import Event, Lock
from typing import Any, NoReturn
from uuid import uuid4

import pytest

from calls import Flaky
from conftest import TIMEOUT, both
from observe import eventually, needs_gil, see_to_reports
from retrying_executor import (
    Attempt,
    NotNow,
    RetryingExecutor,
    RetryingFuture,
    RetryPolicy,
    Upstream,
)
from retrying_executor._common import log, unseen
from retrying_executor._common.log import Repeats, Subject, call_name, describe, time_is_up
from retrying_executor._common.unseen import UnseenFailure
from retrying_executor._core.turns import Turns
from retrying_executor.testing import VirtualTimeExecutor

LOGGER = logging.getLogger("retrying_executor")


class HostileError(Exception):
    """Raises whatever it is asked."""

    def refuse(self, *_: object) -> NoReturn:
        """Raise."""
        raise LookupError("a hostile exception was asked")

    __str__ = __repr__ = __bool__ = __len__ = __eq__ = __setattr__ = refuse  # type: ignore[assignment]
    __hash__ = Exception.__hash__


class FalsyError(Exception):
    """A container of errors that happens to be empty."""

    def __len__(self) -> int:
        """Say that it is empty, hence false."""
        return 0


class Interrupt(BaseException):
    """Not an Exception."""


def fail(exception: BaseException | None = None) -> NoReturn:
    """Raise *exception*, by default a ValueError."""
    raise ValueError("no") if exception is None else exception


class Callback:
    """A callable object without a name of its own."""

    __call__ = fail


class Nameless(Callback):
    """A callable object that raises when asked for its name."""

    def __getattr__(self, name: str) -> NoReturn:
        """Raise."""
        raise LookupError(name)


@pytest.fixture(autouse=True)
def _nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever happens, nothing is printed (G3)."""
    yield
    assert ("", "") == capfd.readouterr()


@pytest.fixture(autouse=True)
def _tracebacks_have_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are the same on every Python."""
    monkeypatch.setattr(log, "_SHOWS_NOTES", True)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[int], list[str]]:
    """Return a function that returns the messages of a level that were logged so far."""
    caplog.set_level(logging.DEBUG)

    def messages(level: int) -> list[str]:
        gc.collect()
        see_to_reports()
        for record in caplog.records:
            assert record.name in ("retrying_executor", "concurrent.futures", "asyncio")
        return [
            re.sub(r" \[[-0-9a-f]{36}\]", "", record.getMessage())  # the keys that were drawn
            for record in caplog.records
            if record.levelno == level and record.name != "asyncio"
        ]

    return messages


Logged = Callable[[int], list[str]]

FAILED = f"{__name__}.fail failed after 5 attempts, and nobody looked at its outcome"
FAILED_ONCE = FAILED.replace("5 attempts", "1 attempt")


def run_to_the_end(
    executor: RetryingExecutor, fn: Callable[..., object], *args: object
) -> RetryingFuture[Any]:
    """Return the future of a call that is done, without having looked at its outcome."""
    future = executor.submit(fn, *args)
    assert {future} == wait([future], TIMEOUT).done
    executor.shutdown()  # a worker may hold a call for a moment after it is done
    return future


# -- names and descriptions ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (fail, f"{__name__}.fail"),
        (Callback, f"{__name__}.Callback"),
        (Callback().__call__, f"{__name__}.fail"),
        (len, "builtins.len"),
        (functools.partial(functools.partial(fail)), f"{__name__}.fail"),
        ([].append, "builtins.list.append"),
        (Callback(), f"{__name__}.Callback"),
        (Nameless(), f"{__name__}.Nameless"),
    ],
    ids=range(8),
)
def test_a_call_is_named_after_its_function(fn: object, expected: str) -> None:
    """A line says which call it is about; without a name, the type's serves (G3)."""
    assert expected == call_name(fn)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ((None, ValueError("no")), "ValueError: no"),
        ((None, HostileError()), "HostileError"),
        (("secret", None), "rejected result of type str"),
        ((HostileError(), None), "rejected result of type HostileError"),
        ((None, OSError("bad gateway\r\nsee the\x0bpage")), "OSError: bad gateway see the page"),
        ((None, OSError("x" * 2_000)), f"OSError: {'x' * 991}... (2009 characters)"),
    ],
)
def test_an_outcome_is_described_in_a_line(outcome: Any, expected: str) -> None:
    """Exceptions by type and text, results by type alone; nothing hostile gets through (B8, G3)."""
    assert expected == describe(*outcome)


# -- retries -------------------------------------------------------------------------------------


@both
def test_every_retry_is_logged(executor: RetryingExecutor, logged: Logged) -> None:
    """Each is one line at INFO: which call, which attempt, what happened, what follows; the end too (G3)."""
    assert isinstance(executor.submit(fail).exception(TIMEOUT), ValueError)
    assert [
        *(
            f"{__name__}.fail: attempt {number} failed (ValueError: no); the next one in 0 s"
            for number in range(1, 5)
        ),
        f"{__name__}.fail: gave up after attempt 5 (ValueError: no) (all 5 attempts are used)",
    ] == logged(logging.INFO)


@both
def test_what_a_message_names_is_in_fields_of_its_own(
    executor: RetryingExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """So that programs can read it (G3)."""
    caplog.set_level(logging.INFO)
    outcomes = iter([ValueError("no"), NotNow("full", after=0), ValueError("no")])

    def call() -> NoReturn:
        raise next(outcomes)

    executor.with_options(delays=[0.001], max_elapsed=60).submit(call).exception(TIMEOUT)
    service = Upstream("service", hold_after=1, initial_hold=0.001)
    executor.with_options(retry=None, upstream=service).submit(Flaky()).exception(TIMEOUT)
    executor.with_options(retry=None, upstream=service).submit(int).result(TIMEOUT)
    fields = ("kind", "call", "attempt", "delay", "reason", "upstream")
    records = [{name: getattr(record, name, None) for name in fields} for record in caplog.records]
    assert ["retry_scheduled", "not_now", "gave_up", "upstream_held", "upstream_back"] == [
        record["kind"] for record in records
    ]
    retry, not_now, gave_up, held, back = records
    name = call_name(call)
    about = {"call": name, "attempt": 1, "delay": 0.001, "reason": "ValueError: no", "upstream": None}
    assert {"kind": "retry_scheduled", **about} == retry
    assert (name, 2, "NotNow: full") == (not_now["call"], not_now["attempt"], not_now["reason"])
    assert (name, 3, "ValueError: no", None) == (
        gave_up["call"], gave_up["attempt"], gave_up["reason"], gave_up["delay"],
    )  # fmt: skip
    assert "service" == held["upstream"] == back["upstream"]
    assert 0.0 < held["delay"] <= 0.001


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"label": "invoice 17"}, "[invoice 17, {key}]"),
        ({"key": "order-17"}, "[order-17]"),
        ({"label": "invoice 17", "key": "order-17"}, "[invoice 17, order-17]"),
        ({}, "[{key}]"),
    ],
)
def test_messages_tell_calls_of_one_function_apart(
    options: dict[str, str], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By label and key, in the line and in fields; the executor has its name in a field (B13, G3)."""
    caplog.set_level(logging.INFO)
    with RetryingExecutor(
        1, "rows", retry=RetryPolicy(delays=[0.001]), on_event=lambda _: None, warn_after=60
    ) as executor:
        future = executor.with_options(**options).submit(fail)  # type: ignore[arg-type]
        key = future.key
        wait([future], TIMEOUT)
        del future
        assert eventually(lambda: gc.collect() >= 0 and len(caplog.records) == 3)
    about = (call_name(fail), options.get("label"), key, "rows")
    for record in caplog.records:
        assert record.getMessage().startswith(f"{call_name(fail)} {named.format(key=key)}")
        fields = (record.call, record.label, record.key, record.executor)  # type: ignore[attr-defined]
        assert about == fields
    assert ["retry_scheduled", "gave_up", "unseen_failure"] == [vars(one)["kind"] for one in caplog.records]


@both
def test_many_messages_of_one_kind_do_not_flood(executor: RetryingExecutor, logged: Logged) -> None:
    """Three are errors, and the tenth and so on, which say how many there were; no call is left out."""
    view = executor.with_options(retry=None)
    run_to_the_end(executor, lambda: [view.submit(fail) for _ in range(25)])
    errors, debugs = logged(logging.ERROR), logged(logging.DEBUG)
    assert [FAILED_ONCE] * 3 + [f"{FAILED_ONCE} (10 times)"] == errors
    assert [f"{FAILED_ONCE} ({n} times)" for n in range(4, 26) if n != 10] == debugs


def test_messages_are_loud_again_after_a_quiet_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each kind by itself; of the kinds that were quiet for longest nothing is kept."""
    repeats = Repeats()
    for _ in range(5):
        level, times = repeats.level("one")
    assert (logging.DEBUG, " (5 times)") == (level, times)
    assert (logging.ERROR, "") == repeats.level("another")
    with monkeypatch.context() as quiet:
        quiet.setattr("retrying_executor._common.log._QUIET", -1.0)
        assert (logging.ERROR, "") == repeats.level("one")
    monkeypatch.setattr("retrying_executor._common.log._MOST_KINDS", 2)
    repeats.level("a third")
    assert [("one",), ("a third",)] == list(repeats._seen)


@needs_gil  # without it, two messages may have the same number
def test_messages_are_counted_although_threads_interrupt_each_other() -> None:
    """None begins anew because another is being counted (G3)."""
    repeats, levels = Repeats(), []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            for _ in range(4):
                threads.submit(lambda: levels.extend(repeats.level("one")[0] for _ in range(2_500)))
    finally:
        sys.setswitchinterval(interval)
    assert 10_000 == len(levels)
    assert 7 == levels.count(logging.ERROR)  # 1, 2, 3, 10, 100, 1,000, 10,000


@both
def test_the_logging_of_retries_can_be_turned_off(
    executor: RetryingExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """Above INFO no retry is logged (G3)."""
    caplog.set_level(logging.WARNING, LOGGER.name)
    assert isinstance(executor.submit(fail).exception(TIMEOUT), ValueError)
    assert [] == caplog.records


@both
def test_a_rejected_result_is_logged_by_its_type(executor: RetryingExecutor, logged: Logged) -> None:
    """Results may be confidential: the log tells their type alone (G3)."""
    view = executor.with_options(retry_result=lambda _: True, max_attempts=2)
    assert "secret" == view.submit(lambda: "secret").result(TIMEOUT)
    line, end = logged(logging.INFO)
    assert "attempt 1 failed (rejected result of type str); the next one in 0 s" in line
    assert "gave up after attempt 2 (rejected result of type str)" in end
    assert "secret" not in line + end


@both
def test_a_call_that_succeeds_at_once_logs_nothing(executor: RetryingExecutor, logged: Logged) -> None:
    """No news is good news (G3)."""
    assert 1 == executor.submit(int, 1).result(TIMEOUT)
    assert [] == [line for level in (10, 20, 30, 40, 50) for line in logged(level)]


# -- failures that nobody looked at --------------------------------------------------------------


@both
def test_an_unseen_failure_is_logged_when_its_future_goes_away(
    executor: RetryingExecutor, logged: Logged, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, with the exception, and not as long as somebody may still look at it (G3)."""
    future = run_to_the_end(executor, fail)
    assert [] == logged(logging.ERROR)
    del future
    assert [FAILED] == logged(logging.ERROR)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert ValueError is record.exc_info[0]
    assert "gave up after 5 attempts" in " ".join(getattr(record.exc_info[1], "__notes__", ()))


@needs_gil
def test_a_call_that_is_not_kept_is_logged_when_it_fails(executor: RetryingExecutor) -> None:
    """Fire and forget: the failure comes out at once, without help from the garbage collector (G2, G3)."""
    came_out = Event()

    class Signal(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert FAILED.replace(" failed", " [1] failed") == record.getMessage()
            came_out.set()

    handler = Signal(logging.ERROR)
    LOGGER.addHandler(handler)
    gc.collect()
    gc.disable()
    try:
        executor.with_options(key="1").submit(fail)
        assert came_out.wait(TIMEOUT)
    finally:
        gc.enable()
        LOGGER.removeHandler(handler)


async def _await(future: RetryingFuture[Any]) -> None:
    with pytest.raises(ValueError, match="no"):
        await asyncio.wrap_future(future)


def _ask_result(future: RetryingFuture[Any]) -> None:
    with pytest.raises(ValueError, match="no"):
        future.result()


@pytest.mark.parametrize(
    "look",
    [
        _ask_result,
        lambda future: future.exception(),
        lambda future: [_ask_result(done) for done in as_completed([future])],
        lambda future: [_ask_result(done) for done in wait([future], return_when=FIRST_EXCEPTION).done],
        lambda future: future.add_done_callback(lambda done: done.exception()),
        lambda future: asyncio.run(_await(future)),
    ],
    ids=["result", "exception", "as_completed", "wait", "callback", "wrap_future"],
)
def test_a_failure_that_somebody_looked_at_is_not_logged(
    executor: RetryingExecutor, logged: Logged, look: Callable[[RetryingFuture[Any]], object]
) -> None:
    """Whichever way its outcome was taken, it was seen (G3)."""
    look(run_to_the_end(executor, fail))
    assert [] == logged(logging.ERROR)


def test_a_failure_that_run_in_executor_delivers_is_seen(executor: RetryingExecutor, logged: Logged) -> None:
    """What asyncio takes while the call runs, and after, is seen (A3, G3)."""

    async def main() -> None:
        with pytest.raises(ValueError, match="no"):
            await asyncio.get_running_loop().run_in_executor(executor, fail)

    asyncio.run(main())
    executor.shutdown()
    assert [] == logged(logging.ERROR)


@both
@pytest.mark.parametrize(
    "glance",
    [
        lambda future: future.done(),
        lambda future: repr(future),
        lambda future: wait([future]),
        lambda future: list(as_completed([future])),
        lambda future: future.add_done_callback(repr),
    ],
    ids=["done", "repr", "wait", "as_completed", "callback"],
)
def test_waiting_for_a_failure_is_not_looking_at_it(
    executor: RetryingExecutor, logged: Logged, glance: Callable[[RetryingFuture[Any]], object]
) -> None:
    """Only who takes the outcome has seen it (G3)."""
    glance(run_to_the_end(executor, fail))
    assert [FAILED] == logged(logging.ERROR)


def test_neither_success_nor_cancellation_is_a_failure(executor: RetryingExecutor, logged: Logged) -> None:
    """What did not fail needs no log, looked at or not (G3)."""
    started, release = Event(), Event()
    calls = [executor.submit(lambda: (started.set(), release.wait(TIMEOUT))) for _ in range(4)]
    assert started.wait(TIMEOUT)
    assert executor.submit(int).cancel()
    release.set()
    del calls
    run_to_the_end(executor, int)
    assert [] == logged(logging.ERROR)


@needs_gil
def test_a_worker_logs_afterwards_what_went_away_while_it_held_the_lock(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the pool's lock it must not: a log handler may wait for who needs that lock (F7, G3)."""
    take = Turns.take
    with RetryingExecutor(1, retry=RetryPolicy(delays=[0.05])) as executor:
        failed = [executor.with_options(retry=None).submit(fail)]
        assert eventually(failed[0].done)

        def take_and_drop(turns: Turns, hand: Any, *args: Any) -> Any:
            taken = take(turns, hand, *args)
            if taken and hand.call.attempts:  # its retry: nobody else is about to look
                failed.clear()
            return taken

        monkeypatch.setattr(Turns, "take", take_and_drop)
        assert 1 == executor.submit(Flaky(1)).result(TIMEOUT)
        assert not failed
    assert ["nobody looked at its outcome" in line for line in logged(logging.ERROR)] == [True]


def test_an_outcome_that_came_too_late_is_no_unseen_failure(
    executor: RetryingExecutor, logged: Logged
) -> None:
    """When somebody else set the outcome meanwhile, that of the attempt does not count (A3, G3)."""
    started, release = Event(), Event()

    def call() -> NoReturn:
        started.set()
        assert release.wait(TIMEOUT)
        raise ValueError("too late")

    future = executor.with_options(retry=None).submit(call)
    assert started.wait(TIMEOUT)
    future.set_result("set")
    release.set()
    assert executor.drain(TIMEOUT)
    del future
    executor.shutdown()
    assert [] == logged(logging.ERROR)


@pytest.mark.parametrize(("outcome", "count"), [(ValueError("set"), 1), (None, 0)], ids=["failure", "none"])
def test_an_exception_set_from_outside_is_logged_too(
    executor: RetryingExecutor, logged: Logged, outcome: Exception | None, count: int
) -> None:
    """A failure is a failure, whoever said so (G3)."""
    started, release = Event(), Event()
    future: Any = executor.submit(lambda: (started.set(), release.wait(TIMEOUT)))
    assert started.wait(TIMEOUT)
    future.set_exception(outcome)
    release.set()
    del future
    executor.shutdown()
    assert count == len(logged(logging.ERROR))


@both
@pytest.mark.parametrize("exception", [HostileError, FalsyError, Interrupt], ids=lambda cls: cls.__name__)
def test_an_unseen_failure_may_be_hostile(
    executor: RetryingExecutor,
    logged: Logged,
    caplog: pytest.LogCaptureFixture,
    exception: type[BaseException],
) -> None:
    """Whatever the exception, it is logged with its type and traceback, and nothing is raised (B8, G3)."""
    caplog.handler.setFormatter(logging.Formatter("%(message)s"))
    executor.with_options(max_attempts=1).submit(fail, exception())
    executor.shutdown()
    assert [FAILED_ONCE] == logged(logging.ERROR)
    text = logging.Formatter().format(caplog.records[-1])
    assert exception.__qualname__ in text
    assert f'File "{__file__}", line' in text


@pytest.mark.parametrize(("notes", "end"), [(["one", "two"], " (one) (two)"), (5, "")])
def test_an_unseen_failure_says_why_where_tracebacks_do_not(
    executor: RetryingExecutor, logged: Logged, monkeypatch: pytest.MonkeyPatch, notes: Any, end: str
) -> None:
    """Before Python 3.11 they have no notes: the line itself says why the call gave up (B3, G3)."""
    monkeypatch.setattr(log, "_SHOWS_NOTES", False)
    exception: Any = ValueError("no")
    run_to_the_end(executor, fail, exception)
    [line] = logged(logging.ERROR)
    assert line == f"{FAILED} ({exception.__notes__[0]})"
    assert "gave up after 5 attempts" in line
    exception.__notes__ = notes
    UnseenFailure(Subject("call", key=str(uuid4()), label=None, executor=""), 1, exception)
    assert logged(logging.ERROR)[1].endswith(f"nobody looked at its outcome{end}")


def test_an_unseen_failure_is_logged_once() -> None:
    """Seen failures keep quiet, and let go of the exception (G2, G3)."""
    subject = Subject("call", key=str(uuid4()), label=None, executor="")
    failure = UnseenFailure(subject, 1, ValueError())
    failure.seen()
    assert failure._exception is None


class Noting(logging.Handler):
    """Calls *emit* with each failure that is logged, and says when it has returned."""

    def __init__(self, emit: Callable[[logging.LogRecord], object]) -> None:
        super().__init__(logging.ERROR)
        self.emit_by = emit
        self.came_out = Event()

    def __enter__(self) -> Event:
        LOGGER.addHandler(self)
        return self.came_out

    def __exit__(self, *_: object) -> None:
        LOGGER.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.emit_by(record)
        self.came_out.set()


@pytest.mark.parametrize("how", ["dropped", "collected"])
def test_a_future_may_go_away_under_a_lock_that_a_log_handler_wants(
    executor: RetryingExecutor, how: str
) -> None:
    """Its failure is logged soon, in a process that does nothing else, and nobody waits for ever (F7, G3)."""
    futures: list[Any] = [run_to_the_end(executor, fail)]
    if how == "collected":
        futures.append(futures)
    lock, taken = Lock(), []

    def emit(_: logging.LogRecord) -> None:
        taken.append(lock.acquire(timeout=TIMEOUT))
        lock.release()

    with Noting(emit) as came_out:
        with lock:
            del futures
            gc.collect()
            assert not came_out.is_set()
        assert came_out.wait(TIMEOUT)
    assert [True] == taken


def test_a_future_may_go_away_in_a_log_handler(executor: RetryingExecutor) -> None:
    """That is not entered again: its failure is logged afterwards (F7, G3)."""
    futures = [run_to_the_end(executor, fail)]
    inside: list[object] = []
    nested: list[bool] = []
    told = Event()

    def emit(record: logging.LogRecord) -> None:
        nested.append(bool(inside))
        inside.append(record)
        futures.clear()
        gc.collect()
        inside.clear()
        if len(nested) == 2:
            told.set()

    with Noting(emit):
        LOGGER.error("something else")
        assert told.wait(TIMEOUT)
    assert [False, False] == nested


def test_many_futures_that_go_away_need_one_thread(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many failures fall due, one thread at a time waits to see to them (C2, G3)."""
    started: list[Callable[[], object]] = []
    subject = Subject("call", key=str(uuid4()), label=None, executor="")
    with monkeypatch.context() as patched:
        patched.setattr(unseen, "start_new_thread", lambda target, _: started.append(target))
        for _ in range(100):
            UnseenFailure(subject, 1, ValueError())
    [report_later] = started
    report_later()
    assert 5 == len(logged(logging.ERROR))  # the others are for debugging
    report_later()  # there is nothing left to do
    assert [report_later] == started


@pytest.mark.parametrize("at", ["_common.unseen.start_new_thread", "_common.unseen.threading.Thread.start"])
def test_where_no_thread_can_be_started_a_worker_logs_what_went_away(
    logged: Logged, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Or the end of the interpreter (G3)."""

    def refuse(*_: object) -> NoReturn:
        raise RuntimeError("can't start new thread")

    with RetryingExecutor(1, retry=None) as executor:
        assert executor.submit(int).result(TIMEOUT) == 0
        monkeypatch.setattr(f"retrying_executor.{at}", refuse)
        UnseenFailure(Subject("call", key=str(uuid4()), label=None, executor=""), 1, ValueError())
    assert ["call failed after 1 attempt, and nobody looked at its outcome"] == logged(logging.ERROR)


def test_an_interruption_keeps_no_failure_from_being_logged(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C may come when the thread that logs it is about to be started: the next is started (F9, G3)."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    see_to_reports()  # or one may be coming already
    with monkeypatch.context() as interrupted:
        interrupted.setattr(unseen, "start_new_thread", interrupt)
        with pytest.raises(KeyboardInterrupt):
            unseen._report_soon()
    UnseenFailure(Subject("call", key=str(uuid4()), label=None, executor=""), 1, ValueError())
    assert eventually(lambda: 1 == len(logged(logging.ERROR)))


@pytest.mark.parametrize("report", [unseen._report_now, unseen._report_later])
def test_whatever_a_thread_that_logs_ends_with_the_next_failure_is_logged(
    logged: Logged, monkeypatch: pytest.MonkeyPatch, report: Callable[[], None]
) -> None:
    """An asynchronous exception, or no memory for another thread, ends that one only (F9, G3)."""

    def fail(*_: object) -> NoReturn:
        raise MemoryError

    see_to_reports()  # or one may be coming already
    started: list[Callable[[], None]] = []
    subject = Subject("call", key=str(uuid4()), label=None, executor="")
    with monkeypatch.context() as failing, suppress(MemoryError):
        failing.setattr(unseen, "start_new_thread", lambda target, _: started.append(target))
        UnseenFailure(subject, 1, ValueError())
        failing.setattr(unseen, "report_overdue", fail)
        failing.setattr(threading.Thread, "start", fail)
        report()
    [_, _] = started  # another is on its way
    unseen._report_now()
    assert 1 == len(logged(logging.ERROR))
    assert not unseen._is_coming


@needs_gil
def test_a_handler_that_waits_for_another_call_gets_its_result(logged: Logged) -> None:
    """A worker that rests logs nothing, or whoever wakes it would wait for the handler (C4, F7, G3)."""
    results: list[int] = []
    with (
        RetryingExecutor(2, "worker", retry=None, idle_timeout=None) as executor,
        Noting(lambda _: results.append(executor.submit(int).result(TIMEOUT))) as came_out,
    ):
        executor.submit(fail)
        assert came_out.wait(TIMEOUT)
    assert [0] == results


# -- what goes wrong in the executor's own threads -----------------------------------------------


@both
def test_an_initializer_that_fails_is_logged(logged: Logged) -> None:
    """It is critical: no call will run (C6, G3)."""
    with RetryingExecutor(1, initializer=fail) as executor:
        assert executor.submit(int).exception(TIMEOUT) is not None
    assert ["Exception in initializer:"] == logged(logging.CRITICAL)


class Incomparable(type):
    """Of classes that cannot be hashed."""

    __hash__ = None  # type: ignore[assignment]  # that is the point


class OddError(BaseException, metaclass=Incomparable):
    """An exception whose class cannot be hashed."""


INTERRUPTS = [Interrupt(), SystemExit(), KeyboardInterrupt(), OddError()]


@pytest.mark.parametrize("interrupt", INTERRUPTS, ids=repr)
def test_a_callback_that_interrupts_a_worker_is_logged(
    executor: RetryingExecutor, logged: Logged, interrupt: BaseException
) -> None:
    """The worker stays, the others go on, and the log tells what happened (B8, G3)."""
    release = Event()
    future = executor.submit(release.wait, TIMEOUT)
    future.add_done_callback(lambda _: fail(interrupt))
    release.set()
    assert future.result(TIMEOUT)
    executor.shutdown()
    assert ["a done callback, or another thread, raised in a worker thread"] == logged(logging.ERROR)


def test_calls_that_a_shutdown_cuts_off_are_counted(executor: RetryingExecutor, logged: Logged) -> None:
    """When the time is up, calls that waited are cancelled, though not in silence (F3, G3)."""
    futures = [executor.with_options(retry=lambda _: 3600).submit(fail) for _ in range(2)]
    assert eventually(lambda: all(future.due_at for future in futures))
    executor.shutdown(timeout=0)
    assert ["shutdown timed out after 0 s: 2 waiting calls cancelled, none still running"] == logged(
        logging.WARNING
    )


def test_how_long_a_shutdown_took_is_said_without_powers_of_ten(logged: Logged) -> None:
    """An hour is 3600 s, as in all other messages (F3, G3)."""
    executor = VirtualTimeExecutor(retry=lambda _: 7200)
    executor.submit(fail)
    executor.shutdown(timeout=3600)
    assert ["shutdown timed out after 3600 s: 1 waiting call cancelled, none still running"] == logged(
        logging.WARNING
    )


def test_a_shutdown_that_cuts_nothing_off_is_silent(executor: RetryingExecutor, logged: Logged) -> None:
    """When the time is up and only a done callback still runs, there is nothing to say (F3, G3)."""
    started, told, release = Event(), Event(), Event()
    future = executor.submit(started.wait, TIMEOUT)
    future.add_done_callback(lambda _: told.set() or release.wait(TIMEOUT))
    started.set()
    assert told.wait(TIMEOUT)
    executor.shutdown(timeout=0)
    release.set()
    assert [] == logged(logging.WARNING)


def test_calls_that_outlast_a_shutdown_are_reported(executor: RetryingExecutor, logged: Logged) -> None:
    """What still runs when the time is up is named; threads cannot be killed (F3)."""
    started, release = Event(), Event()

    def straggler() -> bool:
        started.set()
        return release.wait(TIMEOUT)

    future = executor.submit(straggler)
    assert started.wait(TIMEOUT)
    executor.shutdown(timeout=0)
    name = f"{straggler.__module__}.{straggler.__qualname__}"
    assert [f"shutdown timed out after 0 s: 0 waiting calls cancelled, still running: {name}"] == logged(
        logging.WARNING
    )
    release.set()
    assert future.result(TIMEOUT)


class _RaisingFilter(logging.Filter):
    """A user's own filter with a bug."""

    def filter(self, record: logging.LogRecord) -> bool:
        raise LookupError("a filter with a bug")


@pytest.fixture
def _raising_filter(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    bug = _RaisingFilter()
    LOGGER.addFilter(bug)
    yield
    LOGGER.removeFilter(bug)


@both
@pytest.mark.usefixtures("_raising_filter")
def test_a_log_filter_that_raises_changes_no_outcome(executor: RetryingExecutor) -> None:
    """A hook's error changes nothing: the call is retried, and its outcome is its own (B8)."""
    outcomes = iter([ValueError("no"), None])

    def call() -> int:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome
        return 42

    assert 42 == executor.submit(call).result(TIMEOUT)


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING], ids=["every line", "errors"])
def test_a_log_handler_that_exits_loses_no_call(level: int) -> None:
    """Whatever a handler raises in a worker, calls have their outcome, and later ones run (B8, G1, G3)."""

    class Exit(logging.Handler):
        def emit(self, record: logging.LogRecord) -> NoReturn:
            raise SystemExit

    exit_, level_before = Exit(), LOGGER.level
    LOGGER.addHandler(exit_)
    LOGGER.setLevel(level)
    LOGGER.propagate = False
    try:
        with RetryingExecutor(1, retry=RetryPolicy(delays=(0,))) as executor:
            future = executor.submit(fail)
            assert isinstance(future.exception(TIMEOUT), ValueError)
            assert 2 == future.attempts
            executor.submit(fail, Interrupt())  # nobody looks
            told = Event()
            leaving = executor.submit(told.wait, TIMEOUT)
            leaving.add_done_callback(lambda _: fail(Interrupt()))
            told.set()
            assert 0 == executor.submit(int).result(TIMEOUT)
    finally:
        LOGGER.propagate = True
        LOGGER.setLevel(level_before)
        LOGGER.removeHandler(exit_)


@both
def test_a_signal_handler_may_raise_while_something_is_logged(executor: RetryingExecutor) -> None:
    """In the main thread, where signal handlers run, Ctrl-C gets through (G3)."""

    def interrupt(_: logging.LogRecord) -> NoReturn:
        raise KeyboardInterrupt

    LOGGER.addFilter(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            time_is_up(1, [], 0.0, "cancelled")
    finally:
        LOGGER.removeFilter(interrupt)


@pytest.mark.usefixtures("_raising_filter")
def test_a_log_filter_that_raises_kills_no_worker() -> None:
    """After a callback that raised, with a filter that raises, other calls still run (B8, G1)."""
    with RetryingExecutor(1, retry=None) as executor:
        release = Event()
        future = executor.submit(release.wait, TIMEOUT)
        future.add_done_callback(lambda _: fail(Interrupt()))
        release.set()
        assert future.result(TIMEOUT)
        assert 1 == executor.submit(int, 1).result(TIMEOUT)


def test_an_interrupt_that_is_hostile_kills_no_worker() -> None:
    """Even what cannot be logged leaves the worker alive (B8, G1)."""

    class HostileInterrupt(Interrupt):
        def __bool__(self) -> NoReturn:
            raise LookupError("a hostile exception was asked")

    with RetryingExecutor(1, retry=None) as executor:
        release = Event()
        future = executor.submit(release.wait, TIMEOUT)
        future.add_done_callback(lambda _: fail(HostileInterrupt()))
        release.set()
        assert future.result(TIMEOUT)
        assert 1 == executor.submit(int, 1).result(TIMEOUT)


@both
def test_giving_up_is_no_error(executor: RetryingExecutor, logged: Logged) -> None:
    """What follows is the caller's to see (G3)."""

    def give_up(attempt: Attempt) -> None:
        return None

    assert isinstance(executor.with_options(retry=give_up).submit(fail).exception(TIMEOUT), ValueError)
    assert [] == logged(logging.WARNING) == logged(logging.ERROR)


def test_of_many_calls_that_still_run_each_name_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Coroutines may be thousands; a few are listed one by one (F4)."""
    log.time_is_up(0, ["one"] * 2, 1.0, "cancelled")
    log.time_is_up(0, ["one"] * 10 + ["other"], 1.0, "cancelled")
    few, many = [record.getMessage().rpartition(": ")[2] for record in caplog.records]
    assert ("one, one", "10 x one, 1 x other") == (few, many)
