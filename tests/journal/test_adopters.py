"""Several processes want the calls of one that is gone; or of one that is only stopped."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from pathlib import Path

from deliveries import check_delivered, deliver, named, note
from processes import IS_NIGHTLY, die, executor_in, files_in, finish_all, places_in, run, start, wait_for
from stepping import at_step

from conftest import TIMEOUT
from observe import eventually

ROUNDS = 200 if IS_NIGHTLY else 5
CALLS = 30


def leave(directory: Path, ledger: Path, acknowledgements: Path, prefix: str) -> None:
    """Die with calls that wait."""
    with executor_in(directory, 1) as executor:
        for number in range(CALLS):
            executor.submit(deliver, str(ledger), f"{prefix}{number}", 0.001)
            note(str(acknowledgements), "accepted", f"{prefix}{number}")
        die()


def look_until_none_is_left(directory: Path, ledger: Path, acknowledgements: Path) -> None:
    """Adopt what there is to be adopted, again and again, until every call is done."""
    with executor_in(directory, 2) as executor:
        while set(named("accepted", acknowledgements)) - set(named("end", ledger)):
            executor.adopt()
            executor.drain(TIMEOUT)


def look_until_killed(directory: Path, ledger: Path, acknowledgements: Path, step: int) -> None:
    """The same, up to a certain step."""
    at_step(step)
    look_until_none_is_left(directory, ledger, acknowledgements)


def test_two_adopters(tmp_path: Path) -> None:
    """Of two processes that look at the same time, each file has one, and each call is made once."""
    places = directory, ledger, acknowledgements = places_in(tmp_path)
    for number in range(ROUNDS):
        for prefix in ("a", "b", "c"):
            assert -signal.SIGKILL == run(leave, *places, f"{prefix}{number}-")
        before = Counter(named("begin", ledger))
        adopters = [start(look_until_none_is_left, *places) for _ in range(2)]
        assert [0, 0] == [wait_for(adopter) for adopter in adopters]
        check_delivered(named("accepted", acknowledgements), ledger)
        again = Counter(named("begin", ledger)) - before
        assert 1 == max(again.values())
        assert [] == files_in(directory)


def test_one_of_two_adopters_is_killed(tmp_path: Path) -> None:
    """Two processes look at the same time, and one is killed while it adopts: the other makes all calls."""
    places = directory, ledger, acknowledgements = places_in(tmp_path)
    draw = random.Random(17)
    for number in range(2 * ROUNDS):
        for prefix in ("a", "b"):
            assert -signal.SIGKILL == run(leave, *places, f"{prefix}{number}-")
        killed = start(look_until_killed, *places, draw.randint(1, 60))
        other = start(look_until_none_is_left, *places)
        assert wait_for(killed) in (0, -signal.SIGKILL)
        assert 0 == wait_for(other)
        finish_all(directory)
        check_delivered(named("accepted", acknowledgements), ledger)


def hold(directory: Path, ledger: Path, acknowledgements: Path, told: Path) -> None:
    """Have a call that runs, and some that wait, until a file is there."""

    def submit(name: str) -> None:
        executor.submit(deliver_when_told, str(ledger), name, str(told))
        note(str(acknowledgements), "accepted", name)

    with executor_in(directory, 1) as executor:
        for name in ("a", "b", "c"):
            submit(name)
        assert eventually(told.exists)
        submit("d")


def deliver_when_told(ledger: str, call: str, told: str) -> None:
    """End when a file is there."""
    note(ledger, "begin", call)
    assert eventually(lambda: os.path.exists(told))
    note(ledger, "end", call)


def test_stopped_owner_keeps_its_calls(tmp_path: Path) -> None:
    """A process that is stopped is not gone: nobody adopts its calls, and it goes on with them."""
    places = directory, ledger, acknowledgements = places_in(tmp_path)
    told = tmp_path / "told"
    owner = start(hold, *places, told)
    assert owner.pid
    assert eventually(lambda: 3 == len(named("accepted", acknowledgements)) and named("begin", ledger))
    os.kill(owner.pid, signal.SIGSTOP)
    try:
        assert os.WIFSTOPPED(os.waitpid(owner.pid, os.WUNTRACED)[1])
        with executor_in(directory) as executor:
            assert 0 == executor.adopt()
            executor.submit(deliver, str(ledger), "beside").result(TIMEOUT)
        told.touch()
    finally:
        os.kill(owner.pid, signal.SIGCONT)
    assert 0 == wait_for(owner)
    check_delivered(named("accepted", acknowledgements), ledger)
    assert sorted(named("begin", ledger)) == sorted(set(named("begin", ledger)))
    assert [] == files_in(directory)


def test_stopped_owner_that_is_killed(tmp_path: Path) -> None:
    """A process that is killed while it is stopped is gone."""
    places = directory, ledger, acknowledgements = places_in(tmp_path)
    told = tmp_path / "told"
    owner = start(hold, *places, told)
    assert owner.pid
    assert eventually(lambda: 3 == len(named("accepted", acknowledgements)) and named("begin", ledger))
    os.kill(owner.pid, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(owner.pid, os.WUNTRACED)[1])
    told.touch()
    owner.kill()
    assert -signal.SIGKILL == wait_for(owner)
    assert 3 == finish_all(directory)
    check_delivered(named("accepted", acknowledgements), ledger)
