"""Calls that kill their process, each time, and calls beside them that do not."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from deliveries import deliver, kill_own_process, named, note
from processes import die, executor_in, kill, places_in, run, start

from observe import eventually

MAX_CRASHES = 3


class KillsReader:
    """An argument that kills each process which reads it from the journal."""

    def __reduce__(self) -> object:
        return die, ()


class ExitsWhenRead:
    """An argument that ends each program which reads it from the journal."""

    def __reduce__(self) -> object:
        return sys.exit, ("read",)


def go_on(directory: Path) -> None:
    """Make all calls that are left."""
    with executor_in(directory, max_crashes=MAX_CRASHES):
        pass


def runs_until_none_dies(directory: Path) -> int:
    """Let processes go on with it, one after the other, until one ends well; return how many that takes."""
    for number in range(1, 20):
        if run(go_on, directory) == 0:
            return number
    raise AssertionError("each process dies")


def left_in(directory: Path) -> list[tuple[str, str]]:
    """Return the functions of the calls that are left, and their status."""
    found = []
    for path in directory.glob("*.db"):
        connection = sqlite3.connect(path)
        found += connection.execute("SELECT function, status FROM calls").fetchall()
        connection.close()
    return sorted(found)


def submit_poison(directory: Path, ledger: Path, acknowledgements: Path) -> None:
    """Submit one call that kills the process, amid twenty that do not."""
    with executor_in(directory, max_crashes=MAX_CRASHES) as executor:
        for number in range(20):
            if number == 10:
                executor.submit(kill_own_process, str(ledger), "poison")
            executor.submit(deliver, str(ledger), str(number), 0.01)
            note(str(acknowledgements), "accepted", str(number))


def test_poison_is_set_aside_and_innocents_are_not(tmp_path: Path) -> None:
    """A call that kills its process is made as often as is allowed; what ran or waited beside it is done."""
    directory, ledger, acknowledgements = places_in(tmp_path)
    assert -signal.SIGKILL == run(submit_poison, directory, ledger, acknowledgements)
    assert MAX_CRASHES == runs_until_none_dies(directory)
    assert MAX_CRASHES == named("begin", ledger).count("poison")
    assert set() == set(named("accepted", acknowledgements)) - set(named("end", ledger))
    assert [("deliveries.kill_own_process", "set aside")] == left_in(directory)


def kill_later(ledger: str, call: str) -> None:
    """End the process when what may run beside has begun."""
    note(ledger, "begin", call)
    time.sleep(0.2)
    die()


def deliver_late(ledger: str, call: str) -> None:
    """Take so long that any poison which may run meanwhile ends the process first."""
    note(ledger, "begin", call)
    time.sleep(0.8)
    note(ledger, "end", call)


def submit_one(directory: Path, act: Callable[..., object], *args: object) -> None:
    """Submit a call, and die at once."""
    with executor_in(directory, max_crashes=MAX_CRASHES) as executor:
        executor.submit(act, *args)
        signal.pause()


def test_innocents_of_another_process_are_not_accused_again_and_again(tmp_path: Path) -> None:
    """Of all suspects, in whatever file they are, one runs at a time: then a death accuses that one only."""
    directory, ledger = tmp_path / "journal", tmp_path / "ledger"
    innocent = start(submit_one, directory, deliver_late, str(ledger), "innocent")
    assert eventually(lambda: named("begin", ledger))
    assert -signal.SIGKILL == run(submit_one, directory, kill_later, str(ledger), "poison")
    kill(innocent)
    assert MAX_CRASHES >= runs_until_none_dies(directory)
    assert ["innocent"] == named("end", ledger)
    assert [("test_poison.kill_later", "set aside")] == left_in(directory)


async def kill_amid_others(ledger: str, call: str) -> None:
    """End the process while other coroutines wait."""
    note(ledger, "begin", call)
    await asyncio.sleep(0.02)
    die()


async def deliver_in_time(ledger: str, call: str) -> None:
    """Take so long that any poison which may run meanwhile ends the process first."""
    note(ledger, "begin", call)
    await asyncio.sleep(0.1)
    note(ledger, "end", call)


def submit_coroutines(directory: Path, ledger: Path) -> None:
    """Submit one coroutine that kills the process, amid a hundred that do not and run at the same time."""
    with executor_in(directory, max_crashes=MAX_CRASHES) as executor:
        for number in range(100):
            executor.submit(deliver_in_time, str(ledger), str(number))
            if number == 50:
                executor.submit(kill_amid_others, str(ledger), "poison")


def test_poison_amid_coroutines_is_set_aside_and_innocents_are_not(tmp_path: Path) -> None:
    """After as many deaths as any other, although many run at a time after the first (J5, K1)."""
    directory, ledger, _ = places_in(tmp_path)
    assert -signal.SIGKILL == run(submit_coroutines, directory, ledger)
    assert MAX_CRASHES == runs_until_none_dies(directory)
    assert MAX_CRASHES == named("begin", ledger).count("poison")
    accepted = {call for call in named("begin", ledger) if call != "poison"}
    assert accepted == set(named("end", ledger))
    assert [("test_poison.kill_amid_others", "set aside")] == left_in(directory)


def submit_amid_others(directory: Path, ledger: Path, argument: object) -> None:
    """Submit a call with that argument amid some that can be read; and die before most of them run."""
    with executor_in(directory, 1) as executor:
        executor.submit(deliver, str(ledger), "first", 0.5)
        for number in range(4):
            if number == 2:
                executor.submit(print, argument)
            executor.submit(deliver, str(ledger), str(number))
        die()


def test_what_kills_its_readers_is_set_aside(tmp_path: Path) -> None:
    """A call whose argument kills the process while it is read keeps others waiting for a while only."""
    directory, ledger = tmp_path / "journal", tmp_path / "ledger"
    assert -signal.SIGKILL == run(submit_amid_others, directory, ledger, KillsReader())
    assert MAX_CRASHES + 1 == runs_until_none_dies(directory)
    assert {"first", "0", "1", "2", "3"} == set(named("end", ledger))
    assert [("builtins.print", "set aside")] == left_in(directory)


@pytest.mark.usefixtures("quiet")
def test_what_exits_when_it_is_read_is_left(tmp_path: Path) -> None:
    """A call whose argument ends the program in order while it is read does not do so, and is left."""
    directory, ledger = tmp_path / "journal", tmp_path / "ledger"
    assert -signal.SIGKILL == run(submit_amid_others, directory, ledger, ExitsWhenRead())
    assert 1 == runs_until_none_dies(directory)
    assert {"first", "0", "1", "2", "3"} == set(named("end", ledger))
    assert [("builtins.print", "waiting")] == left_in(directory)
