"""Calls that are kept in a journal: they go on in the next process (J)."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, InvalidStateError
from concurrent.futures.thread import BrokenThreadPool
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest

import journals
from conftest import TIMEOUT, both
from journals import (
    Thing,
    attempt_of,
    blocked,
    die,
    down,
    files,
    keeper_of,
    killed,
    made,
    note,
    refuse,
    rows,
)
from observe import eventually, see_to_reports
from retrying_executor import (
    Event,
    Journal,
    JournalError,
    NotNow,
    PendingLimitError,
    RetryingExecutor,
    RetryPolicy,
    Upstream,
    current_call,
)
from retrying_executor._common.callables import Wrapper
from retrying_executor._journal import keeper
from retrying_executor._journal.database import Addition
from retrying_executor._journal.payload import Pickles
from retrying_executor._threads.threads import Threads
from retrying_executor.testing import VirtualTimeExecutor

journal = journals.journal

SLOW = RetryPolicy(delays=(1000, 1000), jitter=False)
ends = pytest.mark.parametrize("end", [down, killed])


def held(journal: Path) -> VirtualTimeExecutor:
    """An executor with a call that waits for the first attempt, and one that waits for the second."""
    executor = VirtualTimeExecutor(retry=SLOW, journal=journal)
    executor.submit(refuse, "tried")
    executor.advance(0)
    executor.submit(note, "untried")
    return executor


# -- accepted means on disk ------------------------------------------------------------------------


def test_a_call_is_on_disk_when_it_is_accepted(journal: Path) -> None:
    """With its function, its label and its upstream, until it is done; then nothing is left (J1)."""
    with VirtualTimeExecutor(journal=journal) as executor:
        executor.with_options(label="mail", upstream=Upstream("smtp")).submit(note, 1)
        (row,) = rows(journal)
        assert ("journals.note", "mail", "smtp", "waiting") == (
            row.function,
            row.label,
            row.upstreams,
            row.status,
        )
    assert ([1], set()) == (made, files(journal))


def test_an_executor_that_submits_nothing_has_no_file(journal: Path) -> None:
    """Many processes never submit anything (J1)."""
    with RetryingExecutor(journal=journal):
        assert set() == files(journal)


@both
@ends
def test_calls_of_a_process_that_is_gone_go_on(
    journal: Path, end: Callable[[RetryingExecutor], None]
) -> None:
    """In the order in which they were submitted, each once, under their keys (J1, J2)."""
    service = Upstream("service")
    before = RetryingExecutor(1, upstream=service, journal=journal)
    service.pause()
    futures = [before.submit(note, number) for number in range(5)]
    end(before)
    assert [] == made
    with RetryingExecutor(1, upstream=Upstream("service"), journal=journal) as after:
        adopted = after.adopted
        assert [future.key for future in futures] == [future.key for future in adopted]
        assert [0, 1, 2, 3, 4] == [future.result(TIMEOUT) for future in adopted]
    assert ([0, 1, 2, 3, 4], set()) == (made, files(journal))


@ends
def test_what_waits_for_its_second_attempt_has_one_left(
    journal: Path, end: Callable[[RetryingExecutor], None]
) -> None:
    """Attempts, elapsed time and the due time are kept; no virtual time passes meanwhile (J1, B6)."""
    before = VirtualTimeExecutor(retry=SLOW, journal=journal)
    before.submit(refuse, 1)
    before.advance(300)
    before.with_options(upstream=(service := Upstream("service")))
    service.pause()
    before.with_options(upstream=service).submit(note, 2)  # which notes the time
    end(before)
    with VirtualTimeExecutor(retry=SLOW, journal=journal) as after:
        (tried,) = after.adopted
        assert (1, 700) == (tried.attempts, tried.due_at)
        after.adopt()
        assert isinstance(tried.last_exception, JournalError)
        with pytest.raises(ConnectionError) as caught:
            tried.result()
    assert 1700 == after.monotonic()
    (text,) = caught.value.__notes__
    assert "gave up after 3 attempts in 2000 s" in text
    assert [1, 2, 1, 1] == made


def test_the_error_before_is_told_if_it_was_written(journal: Path) -> None:
    """Its class is not there any more: it is a text (J1, B10)."""
    down(held(journal))
    after = VirtualTimeExecutor(retry=SLOW, journal=journal)
    assert ["in an earlier process: ConnectionError: no tried"] == [
        str(future.last_exception) for future in after.adopted if future.attempts
    ]
    down(after)


def test_the_error_before_is_unknown_if_the_process_died(journal: Path) -> None:
    """But not that it was one: the mark says so (J1, B10)."""
    before = VirtualTimeExecutor(retry=SLOW, journal=journal)
    before.submit(refuse, 1)
    before.advance(0)
    killed(before)
    after = VirtualTimeExecutor(retry=SLOW, journal=journal)
    assert ["in an earlier process: an attempt failed"] == [
        str(future.last_exception) for future in after.adopted
    ]
    down(after)


def test_an_attempt_that_a_death_has_cut_off_is_not_counted(journal: Path) -> None:
    """Nobody saw its end, so it uses up none of the attempts; its number goes on (J1)."""
    before = VirtualTimeExecutor(retry=RetryPolicy(max_attempts=1), journal=journal)
    before.submit(*attempt_of("dies", lambda: die(before)))
    before.drain()
    down(before)
    numbers: list[int] = []

    def count() -> None:
        call = current_call()
        assert call is not None
        numbers.append(call.attempt)
        raise ConnectionError

    attempt_of("dies", count)
    with VirtualTimeExecutor(retry=RetryPolicy(max_attempts=1), journal=journal) as after:
        (adopted,) = after.adopted
        assert "in an earlier process: it ended during the attempt" == str(adopted.last_exception)
        assert isinstance(adopted.exception(), ConnectionError)
    assert [2] == numbers


def test_the_age_of_a_call_goes_on(journal: Path) -> None:
    """It counts from when it was submitted, in whatever process (B12)."""
    terms = RetryPolicy(max_age=100, delays=(1000,))
    before = VirtualTimeExecutor(retry=terms, upstream=(service := Upstream("service")), journal=journal)
    service.pause()
    before.submit(note, 1)
    before.advance(60)
    down(before)
    service = Upstream("service")
    with VirtualTimeExecutor(retry=terms, upstream=service, journal=journal) as after:
        service.pause()
        (adopted,) = after.adopted
        with pytest.raises(TimeoutError, match="never tried"):
            adopted.result()
        assert 40 == after.monotonic()


def test_a_call_waits_as_long_as_its_service_asked(journal: Path) -> None:
    """No sooner than that, in the next process too (U2)."""

    def busy() -> NoReturn:
        raise NotNow(after=600, only_this_call=True)

    policy = RetryPolicy(jitter=False)
    before = VirtualTimeExecutor(retry=policy, journal=journal)
    before.submit(*attempt_of("poll", busy))
    before.advance(100)
    down(before)
    attempt_of("poll", lambda: 1)
    with VirtualTimeExecutor(retry=policy, journal=journal) as after:
        (adopted,) = after.adopted
        assert 1 == adopted.result()
        assert 500 <= after.monotonic() < 600
        assert 2 == adopted.attempts


def test_a_call_that_is_over_is_forgotten_although_its_row_is_there(journal: Path) -> None:
    """The mark says it; the row goes later, together with others (J1)."""
    before = VirtualTimeExecutor(retry=SLOW, journal=journal)
    before.submit(refuse, "tried")
    before.submit(note, "done")
    before.advance(0)
    assert 2 == len(rows(journal))
    killed(before)
    after = VirtualTimeExecutor(retry=SLOW, journal=journal)
    assert 1 == len(after.adopted)
    down(after)
    assert ["journals.refuse"] == [row.function for row in rows(journal)]


# -- what cannot be kept ---------------------------------------------------------------------------


def test_what_does_not_pickle_is_refused(journal: Path) -> None:
    """The error names the part that is to blame; nothing is on disk, and nothing runs (J3)."""

    def local() -> None:
        """It cannot be imported."""

    with VirtualTimeExecutor(journal=journal) as executor:
        with pytest.raises(TypeError, match=r"fn must be something that can be pickled, not .*<lambda>"):
            executor.submit(lambda: made.append(0))
        with pytest.raises(TypeError, match=r"fn must be .*local.*imported by their name"):
            executor.submit(local)
        with pytest.raises(TypeError, match="argument 2 must be something that can be pickled, not a lock"):
            executor.submit(note, 1, threading.Lock())
        with pytest.raises(TypeError, match="argument 'to' must be something that can be pickled"):
            executor.submit(note, to=executor)
        assert (set(), 0) == (files(journal), executor.stats().submitted)
    assert [] == made


class Fickle:
    """It pickles by itself, and not together with others."""

    times = 0

    def __reduce__(self) -> Any:
        Fickle.times += 1
        if Fickle.times % 2:
            raise ValueError("not now")
        return Fickle, ()


def test_what_pickles_by_itself_only_is_refused_too(journal: Path) -> None:
    """Whatever the reason (J3)."""
    with (
        VirtualTimeExecutor(journal=journal) as executor,
        pytest.raises(TypeError, match=r"a call of journals\.note cannot be pickled: not now"),
    ):
        executor.submit(note, Fickle())


@pytest.mark.parametrize(
    "calls",
    [
        lambda executor: executor.submit(note, value=1),
        lambda executor: executor.submit(partial(note, 1)),
        lambda executor: executor.submit(Thing().method, 1),
        lambda executor: executor.submit(Thing(), 1),
    ],
    ids=["keyword", "partial", "method", "object"],
)
def test_whatever_pickles_goes_on(journal: Path, calls: Callable[[RetryingExecutor], object]) -> None:
    """A partial, a method, a callable object, keywords (J3)."""
    before = VirtualTimeExecutor(journal=journal)
    calls(before)
    killed(before)
    with VirtualTimeExecutor(journal=journal) as after:
        assert [1] == [future.result() for future in after.adopted]


class Traced(Wrapper):
    """As an integration wraps the function of a call."""

    def __call__(self, *args: Any) -> Any:
        made.append("traced")
        return self.func(*args)


def test_what_an_integration_wraps_is_kept_without_that(journal: Path) -> None:
    """What it adds concerns the process that submits (J2)."""
    before = VirtualTimeExecutor(journal=journal)
    before.submit(Traced(Traced(note)), 1)
    killed(before)
    with VirtualTimeExecutor(journal=journal) as after:
        assert [1] == [future.result() for future in after.adopted]
        assert 2 == after.submit(Traced(note), 2).result()
    assert [1, "traced", 2] == made


def test_map_is_kept_call_by_call(journal: Path) -> None:
    """One that nobody iterates over any more takes back the rest (A2, J4)."""
    with VirtualTimeExecutor(journal=journal) as executor:
        results = executor.map(note, range(5))
        assert 5 == len(rows(journal))
        assert 0 == next(results)
        del results
        executor.drain()
        assert [0] == made
    before = VirtualTimeExecutor(journal=journal)
    results = before.map(note, range(3))
    killed(before)
    assert results
    with VirtualTimeExecutor(journal=journal) as after:
        assert [0, 1, 2] == [future.result() for future in after.adopted]


# -- refused calls leave nothing -------------------------------------------------------------------


def test_a_call_that_is_refused_leaves_nothing(journal: Path) -> None:
    """It was never accepted: there is no room (J1, G5)."""
    executor = VirtualTimeExecutor(max_pending=1, journal=journal)
    executor.submit(note, 1)
    with pytest.raises(PendingLimitError):
        executor.submit(note, 2)
    killed(executor)
    with VirtualTimeExecutor(journal=journal) as after:
        assert [1] == [future.result() for future in after.adopted]


def test_after_shutdown_nothing_is_written(journal: Path) -> None:
    """Nor is anything adopted (F1, J1)."""
    executor = RetryingExecutor(journal=journal)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(note, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.adopt()
    assert set() == files(journal)


def test_a_call_that_is_refused_when_it_is_written_leaves_nothing(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may shut down between the two (F1, J1)."""
    executor = RetryingExecutor(1, journal=journal)
    add = keeper.Keeper.add

    def close_then(self: keeper.Keeper, *args: Any) -> None:
        add(self, *args)
        executor.shutdown(wait=False)

    monkeypatch.setattr(keeper.Keeper, "add", close_then)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(note, 1)
    executor.shutdown()
    assert ([], set()) == (made, files(journal))


def test_a_submit_that_is_interrupted_leaves_nothing(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program has no future, so the call must not run, here or later (F9, J1)."""

    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    with RetryingExecutor(1, journal=journal) as executor:
        with monkeypatch.context() as patch:
            patch.setattr(Threads, "see_to", interrupted)
            with pytest.raises(KeyboardInterrupt):
                executor.submit(note, 1)
        assert 2 == executor.submit(note, 2).result(TIMEOUT)
    assert ([2], set()) == (made, files(journal))


def test_a_call_that_runs_already_goes_on_after_an_interruption(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be taken back any more, so it stays in the journal until it is done (F9, J1)."""
    see_to = Threads.see_to

    def interrupted(crew: Threads, *args: Any) -> NoReturn:
        see_to(crew, *args)
        assert eventually(lambda: made)
        raise KeyboardInterrupt

    executor = RetryingExecutor(1, retry=SLOW, journal=journal)
    with monkeypatch.context() as patch:
        patch.setattr(Threads, "see_to", interrupted)
        with pytest.raises(KeyboardInterrupt):
            executor.submit(refuse, 1)
    assert eventually(lambda: executor.stats().in_backoff)
    down(executor)
    (row,) = rows(journal)
    assert ("waiting", 1) == (row.status, row.attempts)


def test_a_disk_that_is_full_fails_submit_only(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was accepted goes on, and what comes later is accepted again (J6)."""

    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    with VirtualTimeExecutor(journal=journal) as executor:
        with monkeypatch.context() as patch:
            patch.setattr("retrying_executor._journal.database.Database.create", full)
            with pytest.raises(JournalError, match=r"the journal cannot be written: .*No space left"):
                executor.submit(note, 0)
        assert set() == files(journal)
        executor.submit(note, 1)
        with monkeypatch.context() as patch:
            patch.setattr("retrying_executor._journal.database.Database.write", full)
            with pytest.raises(JournalError, match=r"the call cannot be written to the journal: .*No space"):
                executor.submit(note, 2)
            assert executor.drain()
        assert 3 == executor.submit(note, 3).result()
    assert ([1, 3], set()) == (made, files(journal))


# -- put down, cancelled, failed -------------------------------------------------------------------


@pytest.mark.parametrize(
    "end",
    [
        lambda executor: executor.shutdown(timeout=0),
        lambda executor: executor.shutdown(timeout=timedelta(seconds=1)),
        lambda executor: executor.shutdown(cancel_futures=True),
        lambda executor: executor.shutdown(wait=False, cancel_futures=True),
    ],
)
def test_an_end_that_does_not_wait_puts_calls_down(
    journal: Path, end: Callable[[RetryingExecutor], None], quiet: None
) -> None:
    """The futures are cancelled; the calls are for the next process (J4)."""
    before = VirtualTimeExecutor(retry=SLOW, upstream=(service := Upstream("service")), journal=journal)
    service.pause()
    future = before.submit(note, 1)
    end(before)
    with pytest.raises(CancelledError):
        future.result()
    before.shutdown()
    assert ["waiting"] == [row.status for row in rows(journal)]
    with VirtualTimeExecutor(upstream=Upstream("service"), journal=journal) as after:
        assert [1] == [future.result() for future in after.adopted]
    assert set() == files(journal)


def leave(executor: RetryingExecutor, error: type[BaseException]) -> None:
    with pytest.raises(error), executor:
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_is_left_by_an_exception_puts_calls_down(
    journal: Path, error: type[BaseException], quiet: None
) -> None:
    """If the ``exit_timeout`` is over, or at Ctrl-C at once (F8, J4)."""
    before = RetryingExecutor(1, retry=SLOW, exit_timeout=0, journal=journal)
    before.submit(refuse, 1)
    assert eventually(lambda: before.stats().in_backoff)
    leave(before, error)
    (row,) = rows(journal)
    assert ("waiting", 1, 0) == (row.status, row.attempts, row.crashes)


def test_a_broken_initializer_puts_calls_down(journal: Path, quiet: None) -> None:
    """They have never run; the next process may be better off (C6, J4)."""
    before = VirtualTimeExecutor(initializer=refuse, initargs=("start",), journal=journal)
    future = before.submit(note, 1)
    with pytest.raises(BrokenThreadPool):
        future.result()
    with pytest.raises(BrokenThreadPool):
        before.submit(note, 2)
    down(before)
    with VirtualTimeExecutor(journal=journal) as after:
        assert [1] == [future.result() for future in after.adopted]


def test_an_attempt_that_fails_at_the_end_is_put_down(journal: Path, quiet: None) -> None:
    """No other attempt starts here: the next is for the next process (J4)."""
    before = RetryingExecutor(1, retry=RetryPolicy(delays=(0, 0)), journal=journal)
    started, release = threading.Event(), threading.Event()

    def fail() -> NoReturn:
        started.set()
        assert release.wait(TIMEOUT)
        raise ConnectionError("reset")

    future = before.submit(*attempt_of("fails", fail))
    assert started.wait(TIMEOUT)
    before.shutdown(wait=False, cancel_futures=True)
    release.set()
    with pytest.raises(ConnectionError):
        future.result(TIMEOUT)
    before.shutdown()
    (row,) = rows(journal)
    assert ("waiting", 1, 0, "ConnectionError: reset") == (row.status, row.attempts, row.crashes, row.error)
    attempt_of("fails", lambda: 7)
    with VirtualTimeExecutor(journal=journal) as after:
        (adopted,) = after.adopted
        assert (7, 2) == (adopted.result(), adopted.attempts)


def test_an_attempt_that_succeeds_at_the_end_is_done(journal: Path, quiet: None) -> None:
    """Its outcome stands (F2, J4)."""
    before = RetryingExecutor(1, journal=journal)
    release, future = blocked(before)
    before.shutdown(timeout=0, cancel_futures=True)
    assert {".db", ".lock"} <= files(journal)
    release.set()
    assert future.result(TIMEOUT)
    before.shutdown()
    assert set() == files(journal)


def test_a_file_is_kept_from_others_while_its_calls_run(journal: Path, quiet: None) -> None:
    """After an end that has not waited, too: or they would run twice (J2, J4)."""
    before = RetryingExecutor(2, retry=SLOW, journal=journal)
    release, _ = blocked(before)
    before.submit(refuse, 1)
    assert eventually(lambda: before.stats().in_backoff)
    before.shutdown(timeout=0)
    after = RetryingExecutor(1, retry=SLOW, journal=journal)
    assert (0, []) == (after.adopt(), after.adopted)
    release.set()
    before.shutdown()
    assert 1 == after.adopt()
    assert [1] == [future.attempts for future in after.adopted]
    down(after)


def test_a_call_that_was_running_at_an_orderly_end_is_no_suspect(journal: Path, quiet: None) -> None:
    """What ended the process was not the call (J5)."""
    before = VirtualTimeExecutor(journal=journal)

    def end() -> None:
        before.shutdown(wait=False, cancel_futures=True)
        keeper_of(before).finish()
        die(before)

    before.submit(*attempt_of("runs", end))
    before.drain()
    after = VirtualTimeExecutor(journal=journal)
    down(after)
    (row,) = rows(journal)
    assert (1, 1, 0) == (row.attempts, row.postponed, row.crashes)


@both
def test_a_call_that_is_cancelled_is_removed(journal: Path) -> None:
    """Nobody makes it any more (J4)."""
    executor = RetryingExecutor(1, retry=SLOW, journal=journal)
    upstream = Upstream("service")
    view = executor.with_options(upstream=upstream)
    upstream.pause()
    futures = [view.submit(note, number) for number in range(2)]
    assert futures[0].cancel()
    assert not futures[0]._store.is_closed
    down(executor)
    with RetryingExecutor(1, journal=Journal(journal, adopts=False)) as after:
        assert 1 == after.adopt()
        assert [1] == [future.result(TIMEOUT) for future in after.adopted]


def test_a_cancellation_that_comes_too_late_ends_the_call(journal: Path) -> None:
    """The attempt that runs was the last; its failure stands, and is kept (E2, J5)."""
    executor = VirtualTimeExecutor(retry=SLOW, journal=journal)

    def fail() -> NoReturn:
        assert not future.cancel()
        raise ConnectionError("reset")

    future = executor.submit(*attempt_of("fails", fail))
    assert isinstance(future.exception(), ConnectionError)
    assert ["failed"] == [row.status for row in rows(journal)]
    down(executor)


def test_an_outcome_that_is_set_ends_the_call(journal: Path) -> None:
    """A result removes it, an exception is kept as that of a failed call (A3, J5)."""
    executor = VirtualTimeExecutor(retry=SLOW, journal=journal)
    executor.submit(note, 1).set_result(2)
    executor.submit(note, 2).set_exception(ValueError("no"))
    future = executor.submit(*attempt_of("settles", lambda: future.set_result(3)))
    assert executor.drain()
    with pytest.raises(InvalidStateError):
        future.set_result(4)
    down(executor)
    (row,) = rows(journal)
    assert ("failed", "ValueError: no\n", None) == (row.status, row.error, row.began)
    assert ["settles"] == made


def test_an_outcome_that_is_set_at_the_end_ends_the_call(journal: Path, quiet: None) -> None:
    """The program has said what becomes of it: the next process does not make it (A3, J4)."""
    executor = VirtualTimeExecutor(journal=journal)

    def end() -> None:
        executor.shutdown(wait=False, cancel_futures=True)
        future.set_result(1)

    future = executor.submit(*attempt_of("settles", end))
    executor.drain()
    executor.shutdown()
    assert (1, set()) == (future.result(), files(journal))


def test_an_exception_that_is_set_at_the_end_leaves_no_file_behind_that_is_locked(
    journal: Path, quiet: None
) -> None:
    """Once the attempt is over, the next process may have it (A3, J4)."""
    executor = VirtualTimeExecutor(journal=journal)

    def end() -> None:
        executor.shutdown(wait=False, cancel_futures=True)
        future.set_exception(ValueError())

    future = executor.submit(*attempt_of("settles", end))
    executor.drain()
    executor.shutdown()
    attempt_of("settles", lambda: 1)
    with VirtualTimeExecutor(journal=journal) as after:
        assert [1] == [future.result() for future in after.adopted]


class HostileError(ConnectionError):
    """It cannot be shown."""

    def __str__(self) -> str:
        raise ValueError("no text")


def raise_hostile() -> NoReturn:
    raise HostileError


class WorseError(ConnectionError):
    """Not even its notes can be shown."""

    @property
    def __notes__(self) -> list[str]:
        raise KeyboardInterrupt

    def __str__(self) -> str:
        raise KeyboardInterrupt


def raise_worse() -> NoReturn:
    raise WorseError


def test_a_call_that_failed_is_kept_with_its_traceback(journal: Path) -> None:
    """It does not run again by itself (J5)."""
    with VirtualTimeExecutor(retry=RetryPolicy(delays=(1,)), journal=journal) as executor:
        for call in (partial(refuse, 1), raise_hostile, raise_worse):
            assert isinstance(executor.submit(call).exception(), ConnectionError)
    failed = rows(journal)
    assert [("failed", 2)] * 3 == [(row.status, row.attempts) for row in failed]
    text = failed[0].error
    assert text is not None
    assert text.startswith("Traceback (most recent call last):")
    assert "in refuse" in text
    assert "HostileError" in (failed[1].error or "")
    assert "WorseError" in (failed[2].error or "")
    with VirtualTimeExecutor(journal=journal) as after:
        assert [] == after.adopted
        assert 0 == after.adopt()
    assert 3 == len(rows(journal))


# -- adoption --------------------------------------------------------------------------------------


def test_nothing_is_adopted_from_a_living_executor(journal: Path) -> None:
    """Not from one of this process, either (J2)."""
    before = held(journal)
    after = VirtualTimeExecutor(retry=SLOW, journal=journal)
    assert (0, []) == (after.adopt(), after.adopted)
    killed(before)
    assert 2 == after.adopt()
    assert 2 == len(after.adopted)
    assert 0 == after.adopt()
    down(after)


def test_an_executor_may_be_told_not_to_adopt_yet(journal: Path) -> None:
    """Then it does so with the first call, or when it is asked (J2)."""
    down(held(journal))
    first = VirtualTimeExecutor(retry=SLOW, journal=Journal(journal, adopts=False))
    assert [] == first.adopted
    first.submit(note, 1)
    assert 2 == len(first.adopted)
    down(first)
    second = VirtualTimeExecutor(retry=SLOW, journal=Journal(journal, adopts=False))
    assert (3, 3) == (second.adopt(), len(second.adopted))
    down(second)


def test_an_executor_looks_now_and_then_when_calls_are_submitted(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with each: to look costs more than to submit (J2)."""
    before, after = held(journal), VirtualTimeExecutor(retry=SLOW, journal=journal)
    killed(before)
    after.submit(note, 1)
    assert [] == after.adopted
    monkeypatch.setattr(keeper, "LOOKS_EVERY", 0)
    assert 2 == after.adopt()
    killed(held(journal))
    after.submit(note, 2)
    assert 4 == len(after.adopted)
    down(after)


def test_calls_of_a_view_wait_for_that_view(journal: Path) -> None:
    """Until the program asks for them: then they go on the terms of the executor (J2)."""
    before = VirtualTimeExecutor(journal=journal)
    before.with_options(label="mail", max_attempts=2).submit(refuse, "mail")
    before.with_options(label="gone").submit(refuse, "gone")
    before.submit(note, "own")
    killed(before)
    after = VirtualTimeExecutor(retry=RetryPolicy(delays=(0, 0)), journal=journal)
    assert [1, 1, 1] == [len(after.adopted), after.adopted[0].result() == "own", len(made)]
    view = after.with_options(label="mail", max_attempts=2)
    assert 0 == after.adopt()
    attempts = {type(future.exception()): future.attempts for future in after.adopted[1:]}
    assert [2, 3] == sorted(future.attempts for future in after.adopted[1:])
    assert {ConnectionError} == set(attempts)
    assert view is not None
    down(after)


def test_calls_of_an_upstream_go_to_the_one_of_that_name(journal: Path) -> None:
    """Its limits and holds are those of this process (U4)."""
    service = Upstream("service", max_concurrency=1)
    before = VirtualTimeExecutor(upstream=service, journal=journal)
    before.submit(note, 1)
    killed(before)
    service = Upstream("service")
    after = VirtualTimeExecutor(upstream=service, journal=journal)
    service.pause()
    (adopted,) = after.adopted
    after.advance(1)
    assert (0, 1) == (adopted.attempts, after.stats().held)
    service.resume()
    assert 1 == adopted.result()
    down(after)


def test_a_weight_that_no_budget_allows_any_more_stops_nothing(journal: Path, quiet: None) -> None:
    """The call is left in the journal, for an executor with more (U4, J6)."""
    before = VirtualTimeExecutor(upstream=Upstream("service", budget=(100, 1)), journal=journal)
    for number in (1, 50, 2):
        before.with_options(weight=number).submit(note, number)
    killed(before)
    after = VirtualTimeExecutor(journal=Journal(journal, adopts=False))
    less = after.with_options(upstream=Upstream("service", budget=(10, 1)), weight=int)
    assert (3, less) == (after.adopt(), less)
    assert [1, 2] == [future.result() for future in after.adopted]
    down(after)
    assert 1 == len(rows(journal))


def test_a_key_of_your_own_is_kept(journal: Path) -> None:
    """And one that was drawn is the same in each process, for the service (B13, J1)."""
    before = VirtualTimeExecutor(journal=journal)
    own = before.with_options(key="order 7").submit(*attempt_of("key", lambda: current_call().key))  # type: ignore[union-attr]
    drawn = before.submit(*attempt_of("key", lambda: current_call().key))  # type: ignore[union-attr]
    assert ("order 7", False) == (own.key, drawn.key == own.key)
    keys = [own.key, drawn.key]
    killed(before)
    with VirtualTimeExecutor(journal=journal) as after:
        assert keys == [future.result() for future in after.adopted] == [f.key for f in after.adopted]


def test_events_tell_of_calls_that_were_adopted(journal: Path) -> None:
    """As of all others; the numbers of the attempts go on (B13, J2)."""
    killed(held(journal))
    events: list[Event] = []
    policy = RetryPolicy(delays=(1000,), jitter=False)
    with VirtualTimeExecutor(retry=policy, on_event=events.append, journal=journal) as after:
        (tried,) = (future for future in after.adopted if future.attempts)
    assert isinstance(tried.exception(), ConnectionError)
    told = [(event.kind, event.attempt) for event in events if event.key == tried.key]
    assert [("accepted", 0), ("attempt_started", 2), ("gave_up", 2), ("done", 2)] == told
    stats = after.stats()
    assert (2, 1, 1, 0) == (stats.submitted, stats.succeeded, stats.failed, stats.cancelled)


def test_calls_that_were_adopted_run_at_the_same_time(journal: Path) -> None:
    """As many as there are workers (C4)."""
    before = VirtualTimeExecutor(journal=journal)
    for _ in range(3):
        before.submit(*attempt_of("meet", bool))
    killed(before)
    barrier = threading.Barrier(3)
    attempt_of("meet", lambda: barrier.wait(TIMEOUT))
    with RetryingExecutor(3, journal=journal) as after:
        assert {0, 1, 2} == {future.result(TIMEOUT) for future in after.adopted}


def test_calls_that_were_adopted_count_as_pending(journal: Path) -> None:
    """So a submitter finds no room until they are done (G5)."""
    down(held(journal))
    after = VirtualTimeExecutor(retry=SLOW, max_pending=2, journal=journal)
    with pytest.raises(PendingLimitError):
        after.submit(note, 1)
    down(after)


def test_the_log_tells_how_many_calls_were_adopted(journal: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once for each look that finds some (G3, J2)."""
    leave_behind(journal, 1)
    with caplog.at_level(logging.INFO), VirtualTimeExecutor(journal=journal) as after:
        leave_behind(journal, 2)
        after.adopt()
        after.adopt()
    told = [record for record in caplog.records if "journal_adopted" == record.kind]  # type: ignore[attr-defined]
    assert [1, 2] == [record.calls for record in told]  # type: ignore[attr-defined]
    assert f"took over 2 calls of processes that are gone (journal {journal})" == told[1].getMessage()
    assert "took over 1 call of processes" in told[0].getMessage()


@pytest.mark.parametrize("is_awaited", [False, True])
def test_an_adopted_call_that_fails_is_logged_at_once(
    journal: Path, caplog: pytest.LogCaptureFixture, is_awaited: bool
) -> None:
    """Unless a thread waits for it: nobody may ever look at the future that `adopted` keeps (G3, J2)."""
    before = VirtualTimeExecutor(journal=journal)
    before.submit(refuse, 1)
    killed(before)
    with VirtualTimeExecutor(journal=journal, retry=None) as after:
        [future] = after.adopted
        if is_awaited:
            assert "no 1" == str(future.exception())
        after.advance(1)
        see_to_reports()
        told = [record for record in caplog.records if "unseen_failure" == record.kind]  # type: ignore[attr-defined]
        assert (0 if is_awaited else 1) == len(told)
        assert [future] == after.adopted


def test_an_executor_that_adopted_calls_goes_away(journal: Path) -> None:
    """With the futures that it remembers (F5, J2)."""
    before = VirtualTimeExecutor(journal=journal)
    before.submit(note, 1)
    killed(before)
    with RetryingExecutor(1, journal=journal) as after:
        assert [1] == [future.result(TIMEOUT) for future in after.adopted]
        core = weakref.ref(after._core)
    del after
    gc.collect()
    assert core() is None


@pytest.mark.parametrize("call", [note, refuse])
def test_a_future_goes_away_without_the_collector(journal: Path, call: Callable[[int], object]) -> None:
    """A done call with a journal is part of no reference cycle either, nor is its exception (G2)."""
    gc.disable()
    try:
        with RetryingExecutor(1, retry=None, journal=journal) as executor:
            future = executor.submit(call, 1)
            future.exception(TIMEOUT)
            reference = weakref.ref(future)
            del future
            assert eventually(lambda: reference() is None)
    finally:
        gc.enable()


def test_the_end_of_the_interpreter_puts_calls_down_when_its_time_is_up(journal: Path) -> None:
    """With the attempt that it cuts off: what ended the process was not that (F4, J4)."""
    program = """
import sys, time
sys.path.insert(0, sys.argv[2])
from journals import note
from retrying_executor import RetryingExecutor
executor = RetryingExecutor(1, exit_timeout=0, journal=sys.argv[1])
executor.submit(time.sleep, 600)
executor.submit(note, 1)
"""
    command = [sys.executable, "-c", program, str(journal), str(Path(__file__).parent)]
    subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=True)
    with VirtualTimeExecutor(journal=journal) as after:
        sleeps, notes = after.adopted
        assert (1, 0) == (sleeps.attempts, notes.attempts)
        assert [0, 0] == [row.crashes for row in rows(journal)]
        assert sleeps.cancel()
    assert ([1], set()) == (made, files(journal))


def test_an_executor_that_is_dropped_finishes_what_it_has_adopted(journal: Path) -> None:
    """And leaves no file behind (F5)."""
    leave_behind(journal, 3)
    RetryingExecutor(1, journal=journal)
    assert eventually(lambda: not files(journal))
    assert [0, 1, 2] == made


# -- many calls ------------------------------------------------------------------------------------


def leave_behind(journal: Path, number: int) -> None:
    """Have a process die with many calls that wait, which note 0, 1, 2, ..."""
    before = VirtualTimeExecutor(journal=Journal(journal, durability="process"))
    before.submit(note, 0)
    own = keeper_of(before)._own_store()
    first = own.get(1)
    assert first is not None
    payloads = [Pickles({}).dump(note, (value,), {}) for value in range(1, number)]
    own._database.write(
        [
            Addition(row, first.function, None, None, None, payload, first.accepted, first.submitted)
            for row, payload in enumerate(payloads, 2)
        ],
        {},
        own._now(),
        is_full=False,
    )
    killed(before)


@both
def test_many_calls_are_read_a_few_at_a_time(journal: Path) -> None:
    """So that they do not fill the memory (J2)."""
    leave_behind(journal, 20_000)
    with RetryingExecutor(1, journal=journal) as after:
        if isinstance(after, VirtualTimeExecutor):
            assert 500 == len(after.adopted) == after.stats().submitted
        assert after.drain(TIMEOUT)
        assert 1000 == len(after.adopted)
        stats = after.stats()
        assert 20_000 == stats.submitted == stats.succeeded
    assert list(range(20_000)) == made
    assert set() == files(journal)


def test_no_more_than_a_few_calls_are_queued_at_any_time(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next are read when the last has its turn (J2)."""
    monkeypatch.setattr(keeper, "_AT_ONCE", 10)
    leave_behind(journal, 100)
    queued: list[int] = []
    with VirtualTimeExecutor(journal=journal) as after:
        monkeypatch.setattr(journals, "made", _Counting(lambda: queued.append(after.stats().ready)))
        assert after.drain()
    assert 100 == len(queued)
    assert 10 <= max(queued) < 20


class _Counting(list[Any]):
    def __init__(self, look: Callable[[], None]) -> None:
        self.look = look

    def append(self, _: object) -> None:
        self.look()


def test_drain_is_bounded_although_there_is_more_to_read(journal: Path) -> None:
    """Its timeout is for all of them (F3)."""
    before = VirtualTimeExecutor(retry=SLOW, journal=journal)
    for value in range(3):
        before.submit(refuse, value)
    killed(before)
    after = VirtualTimeExecutor(retry=SLOW, journal=journal)
    assert not after.drain(1500)
    assert 1500 == after.monotonic()
    assert after.drain(600)
    after.shutdown()
    assert all(future.exception() for future in after.adopted)
    assert 3 == len(rows(journal))


def test_drain_returns_when_the_executor_ends(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not read is for the next process (F3, J4)."""
    monkeypatch.setattr(keeper, "_AT_ONCE", 2)
    leave_behind(journal, 6)
    after = VirtualTimeExecutor(journal=journal)
    after.adopted[0].add_done_callback(lambda _: after.shutdown(wait=False, cancel_futures=True))
    assert after.drain()
    after.shutdown()
    assert [0] == made
    assert 5 == len(rows(journal))


def test_calls_that_cannot_be_read_do_not_hide_those_behind_them(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, of a view that is not there yet, for example (J6)."""
    monkeypatch.setattr(keeper, "_AT_ONCE", 2)
    before = VirtualTimeExecutor(journal=journal)
    view = before.with_options(label="mail")
    for value in range(5):
        view.submit(note, value)
    before.submit(note, "own")
    killed(before)
    with VirtualTimeExecutor(journal=journal) as after:
        assert ["own"] == [future.result() for future in after.adopted]
        view = after.with_options(label="mail")
        after.adopt()
    assert ["own", 0, 1, 2, 3, 4] == made


def test_a_thread_reads_itself_if_another_has_just_stopped_reading(journal: Path) -> None:
    """It asks the other to look once more, and then sees whether that was too late (J2)."""
    leave_behind(journal, 3)
    after = VirtualTimeExecutor(journal=Journal(journal, adopts=False))

    class Reading:
        attempts = 0

        def acquire(self, blocking: bool) -> bool:
            self.attempts += 1
            return self.attempts > 1 and lock.acquire(blocking=blocking)

        def release(self) -> None:
            lock.release()

        def locked(self) -> bool:
            return lock.locked()

    one = keeper_of(after)
    lock, one._reading = one._reading, Reading()  # type: ignore[assignment]
    assert (3, 3) == (after.adopt(), len(after.adopted))
    one._reading = lock
    after.shutdown()
    assert [0, 1, 2] == made


# -- calls that ran when their process died --------------------------------------------------------


def leave_suspects(journal: Path, number: int) -> None:
    """Have a process die while some calls run."""
    before = RetryingExecutor(number, journal=journal)
    barrier, release = threading.Barrier(number + 1), threading.Event()

    def run() -> None:
        barrier.wait(TIMEOUT)
        assert release.wait(TIMEOUT)

    for _ in range(number):
        before.submit(*attempt_of("runs", run))
    barrier.wait(TIMEOUT)
    die(before)
    release.set()
    before.shutdown()


def test_calls_that_ran_run_one_after_the_other(journal: Path) -> None:
    """So that the next death accuses one of them only; others go on beside them (J5)."""
    leave_suspects(journal, 3)
    lock, running = threading.Lock(), list[int]()

    def run() -> int:
        assert lock.acquire(blocking=False)
        running.append(1)
        lock.release()
        return 1

    attempt_of("runs", run)
    with RetryingExecutor(4, journal=journal) as after:
        assert 1 == after.submit(note, 1).result(TIMEOUT)
        assert after.drain(TIMEOUT)
        assert [1, 1, 1] == [future.result(TIMEOUT) for future in after.adopted] == running
    assert set() == files(journal)


def test_an_end_in_virtual_time_sees_to_all_of_them(journal: Path) -> None:
    """Although they are read one after the other (F1, J5)."""
    leave_suspects(journal, 3)
    made.clear()
    attempt_of("runs", int)
    with VirtualTimeExecutor(journal=journal):
        pass
    assert (["runs"] * 3, set()) == (made, files(journal))


def test_a_suspect_that_is_cancelled_makes_way_for_the_next(journal: Path) -> None:
    """As one that was tried (J5)."""
    leave_suspects(journal, 2)
    made.clear()
    attempt_of("runs", int)
    with VirtualTimeExecutor(journal=journal) as after:
        assert 1 == len(after.adopted)
        assert after.adopted[0].cancel()
        assert 2 == len(after.adopted)
    assert (["runs"], set()) == (made, files(journal))


def test_a_call_that_kills_its_process_is_set_aside(journal: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After three deaths, unless the journal says otherwise (J5)."""
    for crashes in range(3):
        process = VirtualTimeExecutor(journal=journal)
        if not crashes:
            process.submit(*attempt_of("kills", lambda: None))
        attempt_of("kills", lambda process=process: die(process))
        process.drain()
        down(process)
    with caplog.at_level(logging.ERROR), VirtualTimeExecutor(journal=journal) as after:
        assert [] == after.adopted
    (record,) = caplog.records
    assert "journal_set_aside" == record.kind  # type: ignore[attr-defined]
    assert f"a call of journals.act is set aside in the journal DIR = {journal}: " in record.getMessage()
    for command in ("list DIR --failed", "retry DIR KEY"):
        assert f"`python -m retrying_executor journal {command}`" in record.getMessage()
    (row,) = rows(journal)
    assert ("set aside", 3) == (row.status, row.crashes)
    assert "its process died 3 times while it ran" == row.error


def test_fewer_deaths_may_do(journal: Path, quiet: None) -> None:
    """``max_crashes`` says how many (J5)."""
    leave_suspects(journal, 1)
    with VirtualTimeExecutor(journal=Journal(journal, max_crashes=1)) as after:
        assert [] == after.adopted
    assert ["set aside"] == [row.status for row in rows(journal)]


# -- without a journal -----------------------------------------------------------------------------


def test_an_executor_without_a_journal_adopts_nothing() -> None:
    """And says why (J2)."""
    with RetryingExecutor() as executor:
        assert [] == executor.adopted
        with pytest.raises(RuntimeError, match="this executor has no journal"):
            executor.adopt()


def test_a_program_without_a_journal_imports_nothing_for_one() -> None:
    """Few programs have one; nor has one to pay for `sqlite3` which only names it (J1)."""
    program = """
import sys
before = set(sys.modules)
from retrying_executor import RetryingExecutor
with RetryingExecutor(1) as executor:
    executor.submit(int).result()
print([name for name in set(sys.modules) - before if "journal" in name or "sqlite3" in name])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=TIMEOUT, check=True, encoding="utf-8"
    )
    assert "[]" == done.stdout.strip()
