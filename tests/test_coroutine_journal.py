"""Coroutine functions whose calls are kept in a journal."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import journals
from conftest import TIMEOUT
from journals import act_later, acts, attempt_of, die, files, made, note_later, rows
from observe import eventually
from retrying_executor import Journal, RetryingExecutor
from retrying_executor._journal.keeper import Keeper

journal = journals.journal


class Gate:
    """Where coroutines wait until they may go on."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.here = 0
        self.most = 0  # how many were here at a time
        self.ended = 0
        self.cancelled = 0

    async def wait(self) -> int:
        self.here += 1
        self.most = max(self.most, self.here)
        try:
            while not self.opened.is_set():
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.here -= 1
        self.ended += 1
        return self.ended


def later(name: str, action: Callable[[], Awaitable[Any]]) -> tuple[Callable[[str], Any], str]:
    """Return what to submit so that an attempt awaits something in this process."""
    acts[name] = action
    return act_later, name


def leave_suspects(journal: Path, number: int) -> None:
    """Have a process die while coroutines run."""
    gate = Gate()
    before = RetryingExecutor(2, journal=journal)
    later("waits", gate.wait)
    for _ in range(number):
        before.submit(act_later, "waits")
    assert eventually(lambda: number == gate.here)
    die(before)
    gate.opened.set()
    before.shutdown()
    made.clear()


@pytest.mark.parametrize("is_json", [False, True])
def test_coroutines_go_on_in_the_next_process(journal: Path, *, is_json: bool) -> None:
    """However many ran when the last one died, in JSON too (J1, J3, K1)."""
    functions = {"later": act_later} if is_json else None
    gate = Gate()
    later("waits", gate.wait)
    before = RetryingExecutor(2, journal=Journal(journal, functions=functions))
    keys = {before.submit(act_later, "waits").key for _ in range(100)}
    assert eventually(lambda: gate.here == 100)
    die(before)
    gate.opened.set()
    before.shutdown()
    assert 100 == gate.ended  # there they were made, but nobody noted that
    with RetryingExecutor(2, journal=Journal(journal, functions=functions)) as after:
        assert after.drain(TIMEOUT)
        assert keys == {future.key for future in after.adopted}
    assert 200 == gate.ended
    assert set() == files(journal)


def test_a_coroutine_that_is_cancelled_while_it_runs_leaves_the_journal(journal: Path) -> None:
    """As a call that waits: the next process does not make it (E1, J4, K3)."""
    gate = Gate()
    before = RetryingExecutor(2, journal=journal)
    futures = [before.submit(*later("waits", gate.wait)) for _ in range(20)]
    assert eventually(lambda: gate.here == 20)
    assert all(future.cancel() for future in futures[:15])
    assert eventually(lambda: gate.here == 5)
    die(before)
    gate.opened.set()
    before.shutdown()
    made.clear()
    with RetryingExecutor(2, journal=journal) as after:
        assert after.drain(TIMEOUT)
    assert ["waits"] * 5 == made
    assert set() == files(journal)


def test_an_end_in_time_puts_coroutines_down_and_accuses_none(journal: Path) -> None:
    """Those that run are cancelled here; the next process goes on with all of them (J4, K3)."""
    gate = Gate()
    before = RetryingExecutor(2, journal=journal)
    futures = [before.submit(*later("waits", gate.wait)) for _ in range(50)]
    assert eventually(lambda: gate.here == 50)
    before.shutdown(timeout=0)
    assert all(future.cancelled() for future in futures)
    assert (50, 0) == (gate.cancelled, gate.here)
    gate.opened.set()
    assert {(0, "waiting")} == {(row.crashes, row.status) for row in rows(journal)}
    with RetryingExecutor(2, journal=journal) as after:
        assert after.drain(TIMEOUT)
        assert {future.key for future in futures} == {future.key for future in after.adopted}
    assert 50 == gate.ended
    assert set() == files(journal)


def test_a_coroutine_that_ends_while_it_is_put_down_keeps_no_file(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have ended before the journal is told why (J4, K3)."""
    ended, settled, has_ended = Keeper.ended, Keeper.settled, threading.Event()

    def end(keeper: Keeper, call: Any) -> None:
        ended(keeper, call)
        has_ended.set()

    def settle(keeper: Keeper, call: Any, error: BaseException | None, *, is_put_down: bool) -> None:
        assert has_ended.wait(TIMEOUT)
        settled(keeper, call, error, is_put_down=is_put_down)

    gate = Gate()
    before = RetryingExecutor(2, journal=journal)
    future = before.submit(*later("waits", gate.wait))
    assert eventually(lambda: gate.here)
    monkeypatch.setattr(Keeper, "ended", end)
    monkeypatch.setattr(Keeper, "settled", settle)
    before.shutdown(timeout=0)
    gate.opened.set()
    with RetryingExecutor(2, journal=journal) as after:
        assert [future.key] == [adopted.key for adopted in after.adopted]
    assert 1 == gate.ended


def test_coroutines_that_had_not_begun_when_their_process_was_killed_are_no_suspects(journal: Path) -> None:
    """Only those that had are, or were about to (J5)."""
    gate = Gate()
    before = RetryingExecutor(1, journal=journal, max_coroutines=2)
    for _ in range(5):
        before.submit(*later("waits", gate.wait))
    assert eventually(lambda: gate.here == 2 and before.stats().running == 3)  # one waits for its place
    die(before)
    gate.opened.set()
    before.shutdown()
    gate = Gate()
    later("waits", gate.wait)
    with RetryingExecutor(1, journal=journal) as after:
        crashes = [row.crashes for row in rows(journal)]
        gate.opened.set()
        assert after.drain(TIMEOUT)
    assert ([1, 1], [0, 0]) == (crashes[:2], crashes[3:])


@pytest.mark.parametrize(("suspects", "most"), [(3, 1), (16, 4), (30, 5)])
def test_coroutines_that_ran_run_some_at_a_time(journal: Path, suspects: int, most: int) -> None:
    """As many as the square root of their number; else a thousand would take hours (J5, K1)."""
    leave_suspects(journal, suspects)
    gate = Gate()
    later("waits", gate.wait)
    with RetryingExecutor(2, journal=journal) as after:
        assert eventually(lambda: gate.here == most)
        assert 1 == after.submit(note_later, 1).result(TIMEOUT)  # as ever, others go on beside them
        assert most == after.stats().running
        gate.opened.set()
        assert after.drain(TIMEOUT)
    assert suspects == made.count("waits") == gate.ended
    assert most == gate.most
    assert set() == files(journal)


def test_coroutines_that_were_accused_twice_run_alone(journal: Path) -> None:
    """One more death sets aside only one of them, or none if it is innocent and done by then (J5)."""
    leave_suspects(journal, 16)
    gate = Gate()
    later("waits", gate.wait)
    second = RetryingExecutor(2, journal=journal)
    assert eventually(lambda: gate.here == 4)
    die(second)
    gate.opened.set()
    second.shutdown(cancel_futures=True)
    gate = Gate()
    later("waits", gate.wait)
    with RetryingExecutor(2, journal=journal) as third:
        assert [2] * 4 + [1] * 12 == [row.crashes for row in rows(journal)]
        assert eventually(lambda: gate.here == 1)
        assert 1 == third.submit(note_later, 1).result(TIMEOUT)
        assert 1 == gate.here == len(third.adopted)
        gate.opened.set()
        assert third.drain(TIMEOUT)
    assert 16 == gate.ended
    assert set() == files(journal)


def test_a_coroutine_that_kills_its_process_is_set_aside_alone(journal: Path) -> None:
    """After three deaths, as a function is; none of those that ran beside it are (J5, K1)."""
    leave_suspects(journal, 16)
    for here in (4, 1):
        gate = Gate()
        later("waits", gate.wait)
        process = RetryingExecutor(2, journal=journal)
        assert eventually(lambda here=here, gate=gate: gate.here == here)
        die(process)
        gate.opened.set()
        process.shutdown(cancel_futures=True)
    made.clear()
    with RetryingExecutor(2, journal=journal) as after:
        assert after.drain(TIMEOUT)
    assert ["waits"] * 15 == made
    assert [("set aside", 3)] == [(row.status, row.crashes) for row in rows(journal)]


def test_one_that_was_accused_twice_has_no_company(journal: Path) -> None:
    """Nor do those before it in the queue that may have some, as long as they are out (J5)."""
    leave_suspects(journal, 9)
    with closing(sqlite3.connect(next(journal.glob("*.db")))) as connection, connection:
        connection.execute("UPDATE calls SET crashes = 1 WHERE row = 3")  # with its mark, these are two
    gates = [Gate(), Gate()]
    later("waits", gates[0].wait)
    with RetryingExecutor(2, journal=journal) as after:
        assert eventually(lambda: gates[0].here == 2)
        assert 1 == after.submit(note_later, 1).result(TIMEOUT)
        assert 2 == gates[0].here == len(after.adopted)
        later("waits", gates[1].wait)
        gates[0].opened.set()
        assert eventually(lambda: gates[1].here == 1)
        assert 1 == after.submit(note_later, 1).result(TIMEOUT)
        assert 3 == len(after.adopted)
        gates[1].opened.set()
        assert after.drain(TIMEOUT)
    assert 9 == gates[0].ended + gates[1].ended


def test_a_function_that_ran_is_alone_although_coroutines_ran_too(journal: Path) -> None:
    """Those that are out already stay beside it; no other suspect joins them (J5, K1)."""
    gate, stop = Gate(), threading.Event()
    before = RetryingExecutor(2, journal=journal)
    later("waits", gate.wait)
    for number in range(16):
        before.submit(
            *(attempt_of("stops", lambda: stop.wait(TIMEOUT)) if number == 1 else (act_later, "waits"))
        )
    assert eventually(lambda: gate.here == 15 and made.count("stops"))
    die(before)
    gate.opened.set()
    stop.set()
    before.shutdown()
    made.clear()
    stop.clear()
    gate = Gate()
    later("waits", gate.wait)
    with RetryingExecutor(2, journal=journal) as after:
        assert eventually(lambda: gate.here == 1 and made.count("stops"))
        assert 1 == after.submit(note_later, 1).result(TIMEOUT)
        assert 2 == len(after.adopted)
        gate.opened.set()
        stop.set()
        assert after.drain(TIMEOUT)
    assert (15, set()) == (gate.ended, files(journal))
