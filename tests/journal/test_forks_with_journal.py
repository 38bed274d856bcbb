"""Forks of a process that has a journal: the child has a file of its own."""

from __future__ import annotations

import os
import signal
import threading
from itertools import count
from pathlib import Path
from threading import Event

import pytest
from deliveries import check_delivered, deliver, named, note
from processes import die, executor_in, files_in, finish_all, places_in, run, start

from conftest import TIMEOUT
from forks import in_child
from observe import eventually
from retrying_executor._journal import directory as files

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows knows no fork")


def stems_in(directory: Path) -> set[str]:
    """Return the names of the files of a journal, without endings."""
    return {name.partition(".")[0] for name in files_in(directory)}


def hold(ledger: str, call: str, gate: str) -> None:
    """Run until a file is there."""
    note(ledger, "begin", call)
    assert eventually(lambda: os.path.exists(gate))
    note(ledger, "end", call)


def test_child_starts_with_a_file_of_its_own(tmp_path: Path) -> None:
    """In a child, the executor is empty and makes a file of its own; the parent goes on with the parent's."""
    directory, ledger, _ = places_in(tmp_path)
    gate = tmp_path / "gate"
    with executor_in(directory, 1) as executor:
        running, waiting = (executor.submit(hold, str(ledger), name, str(gate)) for name in ("a", "b"))
        parents = stems_in(directory)

        def check() -> None:
            assert 0 == executor.stats().submitted
            assert [] == executor.adopted
            assert "child" == executor.submit(deliver, str(ledger), "child").result(TIMEOUT)
            assert 1 == len(stems_in(directory) - parents)
            assert 0 == executor.adopt()
            executor.shutdown()
            assert parents == stems_in(directory)

        in_child(check)
        assert parents == stems_in(directory)
        assert not waiting.done()
        gate.touch()
        assert running.result(TIMEOUT) is waiting.result(TIMEOUT) is None
    assert ["child", "a", "b"] == named("end", ledger)
    assert [] == files_in(directory)


def test_child_that_exits_does_not_disturb_the_parent(tmp_path: Path) -> None:
    """A child that ends as programs do, without any call, leaves the parent's file locked and whole."""
    directory, ledger, _ = places_in(tmp_path)
    gate = tmp_path / "gate"
    with executor_in(directory, 1) as executor:
        futures = [executor.submit(hold, str(ledger), name, str(gate)) for name in ("a", "b")]
        assert 0 == run(str)  # it goes through the end of an interpreter, as multiprocessing does it
        with executor_in(directory) as other:
            assert [] == other.adopted
        futures.append(executor.submit(deliver, str(ledger), "c"))
        gate.touch()
        assert executor.drain(TIMEOUT)
    assert ["a", "b", "c"] == named("end", ledger)
    assert [] == files_in(directory)


def fork_and_wait(gate: Path) -> None:
    """Fork; return when the child has seen to what it has of its parent, and have it wait."""
    if os.fork() == 0:
        gate.with_name("child").touch()
        eventually(lambda: gate.with_name("last gate").exists())
        os._exit(0)
    assert eventually(lambda: gate.with_name("child").exists())


def leave_to_child(directory: Path, ledger: Path, acknowledgements: Path, gate: Path) -> None:
    """Have calls that wait, fork, and die while the child lives."""
    with executor_in(directory, 1) as executor:
        for name in ("a", "b", "c"):
            executor.submit(hold, str(ledger), name, str(gate))
            note(str(acknowledgements), "accepted", name)
        assert eventually(lambda: named("begin", ledger))
        fork_and_wait(gate)
        die()


def test_parent_that_dies_before_its_child_is_adopted(tmp_path: Path) -> None:
    """A child does not keep the lock of its parent's file: when the parent is killed, that is adopted."""
    directory, ledger, acknowledgements = places = places_in(tmp_path)
    gate = tmp_path / "gate"
    parent = start(leave_to_child, *places, gate)
    assert eventually(lambda: parent.exitcode == -signal.SIGKILL)  # its child has the rest
    gate.touch()
    try:
        assert 3 == finish_all(directory)
    finally:
        gate.with_name("last gate").touch()
    check_delivered(named("accepted", acknowledgements), ledger)


def leave_amid_creation(directory: Path, ledger: Path, acknowledgements: Path, gate: Path) -> None:
    """Fork in the middle of making the file for the first call, as a destructor may; die before the child.

    A fork in another thread waits until the file is made.
    """

    def this_process() -> str:  # what a thread asks for that has taken a lock, and is about to make the file
        fork_and_wait(gate)
        return "this one"

    files.this_process = this_process
    with executor_in(directory, 1) as executor:
        executor.submit(hold, str(ledger), "a", str(gate))
        note(str(acknowledgements), "accepted", "a")
        die()


def test_child_that_was_forked_while_a_file_was_made(tmp_path: Path) -> None:
    """Nor does a child keep the lock of a file that its parent was just making."""
    directory, ledger, acknowledgements = places = places_in(tmp_path)
    gate = tmp_path / "gate"
    parent = start(leave_amid_creation, *places, gate)
    assert eventually(lambda: parent.exitcode == -signal.SIGKILL)
    gate.touch()
    try:
        assert 1 == finish_all(directory)
    finally:
        gate.with_name("last gate").touch()
    check_delivered(named("accepted", acknowledgements), ledger)


def fork_under_load(directory: Path, ledger: Path, acknowledgements: Path, forks: int) -> None:
    """Fork again and again while threads submit calls; each child submits some, too."""

    def submit(name: str) -> None:
        executor.submit(deliver, str(ledger), name)
        note(str(acknowledgements), "accepted", name)

    def submit_until_over(prefix: str) -> None:
        for number in count():
            submit(f"{prefix}{number}")
            if is_over.wait(0.001):
                return

    is_over = Event()
    with executor_in(directory, 2) as executor:
        threads = [threading.Thread(target=submit_until_over, args=(prefix,)) for prefix in "xy"]
        for thread in threads:
            thread.start()
        children = []
        for number in range(forks):
            child = os.fork()
            if child == 0:
                signal.alarm(int(TIMEOUT))  # which kills it, if it hangs
                for call in range(5):
                    submit(f"{number}-{call}")
                if number % 2:
                    die()
                executor.shutdown()
                os._exit(0)
            children.append(child)
        is_over.set()
        for thread in threads:
            thread.join()
        for number, child in enumerate(children):
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL * (number % 2)


def test_forks_under_load(tmp_path: Path) -> None:
    """A process forks while its threads submit; some children are killed: what each accepted is made."""
    directory, ledger, acknowledgements = places = places_in(tmp_path)
    assert 0 == run(fork_under_load, *places, 20)
    finish_all(directory)
    accepted = named("accepted", acknowledgements)
    assert 20 * 5 < len(accepted)
    check_delivered(accepted, ledger)


def test_child_adopts(tmp_path: Path) -> None:
    """An executor that is made before a fork, as by a server that preloads, looks for calls in the child."""
    directory, ledger, _ = places_in(tmp_path)
    with executor_in(directory) as executor:
        assert -signal.SIGKILL == run(leave_two, directory, ledger)

        def check() -> None:
            executor.submit(deliver, str(ledger), "x").result(TIMEOUT)
            assert executor.drain(TIMEOUT)
            assert 2 == len(executor.adopted)
            executor.shutdown()

        in_child(check)
    assert {"a", "b", "x"} == set(named("end", ledger))
    assert [] == files_in(directory)


def leave_two(directory: Path, ledger: Path) -> None:
    """Die with a call that runs and one that waits."""
    with executor_in(directory, 1) as executor:
        for name in ("a", "b"):
            executor.submit(deliver, str(ledger), name, 0.2)
        die()
