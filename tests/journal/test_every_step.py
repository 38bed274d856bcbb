"""A process is killed at each of its steps in turn: in a statement, between two, between lock and unlink."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path
from threading import Event

import pytest
from deliveries import cancel, check_delivered, deliver, deliver_late, died_running, named, note
from processes import IS_NIGHTLY, die, executor_in, finish_all, places_in, run
from stepping import at_step

from conftest import TIMEOUT

FEWEST = 40
"""So many steps a scenario has at least, or its steps are not seen."""

told = Event()


def die_once(ledger: str, call: str) -> None:
    """End the process as soon as `told` is set; the next time, do not."""
    is_first = call not in named("begin", Path(ledger))
    note(ledger, "begin", call)
    if is_first:
        assert told.wait(TIMEOUT)
        die()
    note(ledger, "end", call)


def live(directory: Path, ledger: Path, acknowledgements: Path) -> None:
    """Make a file, have calls in it that end in several ways, and delete it."""
    with executor_in(directory, durability="full") as executor:
        for name, act in (("a", deliver), ("late", deliver_late), ("b", deliver), ("c", deliver)):
            future = executor.submit(act, str(ledger), name)
            note(str(acknowledgements), "accepted", name)
            if name == "b":
                cancel(future, ledger, name)
        assert executor.drain(TIMEOUT)
        executor.submit(deliver, str(ledger), "last")
        note(str(acknowledgements), "accepted", "last")


def go_on(directory: Path, ledger: Path, acknowledgements: Path) -> None:
    """Adopt what a process has left that was killed, and submit a call."""
    with executor_in(directory) as executor:
        executor.submit(deliver, str(ledger), "next")
        note(str(acknowledgements), "accepted", "next")


def leave(directory: Path, ledger: Path, acknowledgements: Path) -> None:
    """Die with a call that is done, one in backoff, one that runs, and some that wait."""
    with executor_in(directory, 1, retry=lambda _: 0.05) as executor:
        for name, act in (
            ("a", deliver),
            ("late", deliver_late),
            ("killer", die_once),
            ("b", deliver),
            ("c", deliver),
        ):
            executor.submit(act, str(ledger), name)
            note(str(acknowledgements), "accepted", name)
        told.set()


def die_at(step: int, scenario: Callable[..., None], *paths: Path) -> None:
    """Carry out a scenario up to that step."""
    at_step(step)
    scenario(*paths)


class Scene:
    """A place in which a scenario is carried out again and again, each time from the same beginning.

    Args:
        place: A directory that is not there yet.
        scenario: What happens.
        before: What has happened before.
    """

    def __init__(
        self, place: Path, scenario: Callable[..., None], before: Callable[..., None] | None
    ) -> None:
        self._place = place
        self._beginning = place.with_name("beginning")
        self._scenario = scenario
        self._journal, self._ledger, self._acknowledgements = self.paths = places_in(place)
        place.mkdir()
        if before is not None:
            assert -signal.SIGKILL == run(before, *self.paths)
            assert {"killer"} == died_running(self._ledger)
        shutil.copytree(place, self._beginning)

    def ends_at(self, step: int) -> bool:
        """Carry it out up to that step; return whether it has so many."""
        shutil.rmtree(self._place)
        shutil.copytree(self._beginning, self._place)
        status = run(die_at, step, self._scenario, *self.paths)
        assert status in (0, -signal.SIGKILL)
        return status != 0

    def check(self) -> None:
        """Go on with what is left, and check that all is done and no file is left."""
        finish_all(self._journal)
        check_delivered(named("accepted", self._acknowledgements), self._ledger)


@pytest.fixture(params=[(live, None), (go_on, leave)], ids=["life", "adoption"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    """Each of the scenarios."""
    return Scene(tmp_path / "place", *request.param)


def test_killed_at_any_step(scene: Scene) -> None:
    """A process that makes, adopts, writes or deletes a file is killed at any step: nothing is lost."""
    for step in count(1):
        if not scene.ends_at(step):
            break
        scene.check()
    assert FEWEST < step
    scene.check()


def test_killed_at_any_step_and_then_at_another(scene: Scene) -> None:
    """The process that goes on with it is killed too, at steps drawn at random: nothing is lost."""
    draw = random.Random(11)
    for step in count(1, 1 if IS_NIGHTLY else 5):
        if not scene.ends_at(step):
            break
        for _ in range(20 if IS_NIGHTLY else 1):
            assert run(die_at, draw.randint(1, 80), go_on, *scene.paths) in (0, -signal.SIGKILL)
        scene.check()
    assert FEWEST < step
