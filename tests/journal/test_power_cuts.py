"""Power cuts, replayed from the system calls of a program: nothing that was acknowledged is lost."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from deliveries import named
from power import CALLS, Recording
from processes import IS_NIGHTLY, executor_in, files_in, places_in

from conftest import TIMEOUT

CUTS = 5_000 if IS_NIGHTLY else 250
SUBMITS = 200 if IS_NIGHTLY else 40

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    pytest.mark.usefixtures("quiet"),
]


def losses(place: Path, durability: str, cuts: int) -> int:
    """Trace a program; return after how many of so many power cuts an acknowledged call of it is lost."""
    directory, ledger, acknowledgements = places_in(place)
    trace = place / "trace"
    program = Path(__file__).with_name("power_cut_program.py")
    command = [
        "strace",
        "-f",
        "-qq",
        "-xx",
        "-s",
        "1000000",
        "-e",
        "signal=none",
        "-e",
        f"trace={CALLS}",
        "-o",
        trace,
    ]
    command += [sys.executable, program, directory, ledger, acknowledgements, durability, str(SUBMITS)]
    traced = subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8", timeout=TIMEOUT)
    if "PTRACE" in traced.stderr:  # pragma: no cover  # a container may forbid it
        pytest.skip(f"strace does not work here: {traced.stderr}")
    assert 0 == traced.returncode, traced.stderr
    assert [] == files_in(directory)
    recording = Recording(trace, directory)
    draw = random.Random(19)
    number_of_losses = 0
    for cut in range(cuts):
        moment = draw.randint(recording.first, recording.last)
        accepted = said(recording.said(acknowledgements, moment), "accepted")
        done = said(recording.said(ledger, moment), "end")
        after = place / f"after{cut}"
        after.mkdir(0o700)
        recording.restore(moment, after, draw)
        ledger.write_bytes(b"")
        with executor_in(after) as executor:
            assert executor.drain(TIMEOUT)
        number_of_losses += bool(accepted - done - set(named("end", ledger)))
        assert [] == files_in(after)
        after.rmdir()
    return number_of_losses


def said(text: str, what: str) -> set[str]:
    """Return the calls of which lines say that."""
    return {line.split()[1] for line in text.splitlines() if line.startswith(f"{what} ")}


def test_power_cuts_lose_nothing(tmp_path: Path) -> None:
    """Whatever was not synced is lost, or not: each call that was acknowledged is done, or there."""
    assert 0 == losses(tmp_path, "full", CUTS)


def test_power_cuts_are_seen(tmp_path: Path) -> None:
    """Where calls are to survive the end of the process only, power cuts lose some."""
    assert 0 < losses(tmp_path, "process", 50)
