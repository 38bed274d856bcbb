"""Processes that share a journal are killed again and again: nothing that was accepted is lost."""

from __future__ import annotations

import random
import threading
from itertools import count
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
from deliveries import cancel, check_delivered, deliver, deliver_late, died_running, named, note
from processes import IS_NIGHTLY, executor_in, finish_all, kill, places_in, start

KILLS = 1_000 if IS_NIGHTLY else 50
AT_ONCE = 3
"""How many processes share the directory."""

MOST_PENDING = 100


def submit_for_ever(directory: Path, ledger: Path, acknowledgements: Path, seed: int) -> None:
    """Go on with what others left, and submit calls of several kinds from two threads, until killed."""

    def submit_some(submitter: int) -> None:
        draw = random.Random(seed * 2 + submitter)
        for number in count():
            name, kind = f"{seed}-{submitter}-{number}", draw.random()
            lasts = draw.choice((0, 0, 0.002, 0.01))
            future = executor.submit(deliver_late if kind < 0.2 else deliver, str(ledger), name, lasts)
            note(str(acknowledgements), "accepted", name)
            if kind > 0.95:
                cancel(future, ledger, name)

    with executor_in(directory, durability="full", max_pending=MOST_PENDING, when_full="wait") as executor:
        threads = [threading.Thread(target=submit_some, args=(submitter,)) for submitter in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def test_random_kills_lose_nothing(tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    """Several processes are killed at random moments: every acknowledged call is done, and no file is left.

    Twice may run what was running when its process died, and nothing else.
    """
    directory, ledger, acknowledgements = places_in(tmp_path)
    draw = random.Random(7)
    seeds = count()
    alive: list[ForkProcess] = []
    moment = threading.Event()  # never set: what is waited for is a moment at random
    for _ in range(KILLS):
        while len(alive) < AT_ONCE:
            alive.append(start(submit_for_ever, directory, ledger, acknowledgements, next(seeds)))
        moment.wait(draw.uniform(0.02, 0.2))
        kill(alive.pop(draw.randrange(len(alive))))
    for process in alive:
        kill(process)
    finish_all(directory)
    acknowledged = named("accepted", acknowledgements)
    check_delivered(acknowledged, ledger)
    assert KILLS < len(acknowledged)
    assert died_running(ledger)  # the kills came at moments that matter
    record_property("kills", KILLS + len(alive))
