"""Files that are damaged, not whole, or of a newer version: nothing raises or hangs; others go on."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from deliveries import deliver, deliver_late, named, note
from processes import IS_NIGHTLY, die, executor_in, files_in, places_in, run

from conftest import TIMEOUT

DAMAGES = 2_000 if IS_NIGHTLY else 60
CALLS = 12

pytestmark = pytest.mark.usefixtures("quiet")


def leave(directory: Path, ledger: Path, acknowledgements: Path, prefix: str) -> None:
    """Die with some calls that are done, one that runs or is in backoff, and many that wait."""
    with executor_in(directory, 2) as executor:
        for number in range(CALLS):
            act = deliver_late if number == 4 else deliver
            executor.submit(act, str(ledger), f"{prefix}{number}", 0.0 if number < 4 else 0.01)
            note(str(acknowledgements), "accepted", f"{prefix}{number}")
        die()


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A journal that a process has left; see `leave`."""
    assert -signal.SIGKILL == run(leave, *places_in(tmp_path), "a")
    return tmp_path / "journal"


def only(directory: Path, ending: str) -> Path:
    """Return the file with that ending."""
    (path,) = directory.glob(f"*{ending}")
    return path


def flip(content: bytearray, draw: random.Random) -> None:
    """Change some bits."""
    for _ in range(draw.choice((1, 1, 3, 30))):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def overwrite(content: bytearray, draw: random.Random) -> None:
    """Have zeros or rubbish in some place."""
    start = draw.randrange(len(content))
    size = draw.choice((1, 8, 64, 512, 4096))
    rubbish = draw.choice((bytes(size), draw.randbytes(size), b"\xff" * size))
    content[start : start + size] = rubbish


def truncate(content: bytearray, draw: random.Random) -> None:
    """Cut off the end."""
    del content[draw.randrange(len(content)) :]


def go_on_beside(directory: Path, ledger: Path, acknowledgements: Path) -> None:
    """Go on with what can be read, and submit a call."""
    with executor_in(directory) as executor:
        future = executor.submit(deliver, str(ledger), "next")
        note(str(acknowledgements), "accepted", "next")
        assert "next" == future.result(TIMEOUT)
        executor.drain(5)  # a due time may be damaged, too
        executor.shutdown(cancel_futures=True)


@pytest.mark.parametrize("change", [flip, overwrite, truncate])
@pytest.mark.parametrize("ending", [".db", ".db-wal", ".lock"])
def test_damaged_files(
    left: Path, tmp_path: Path, change: Callable[[bytearray, random.Random], None], ending: str
) -> None:
    """Whatever is damaged, executors are made, calls are accepted, and the calls of other files are made."""
    _, ledger, acknowledgements = places_in(tmp_path)
    shutil.copytree(left, tmp_path / "whole")
    run(leave, left, ledger, acknowledgements, "b")
    innocents = {f"b{number}" for number in range(CALLS)}
    (others,) = set(left.glob("*.db")) - {left / path.name for path in (tmp_path / "whole").glob("*.db")}
    beginning = {path: path.read_bytes() for path in left.iterdir()}
    (damaged,) = (path for path in left.glob(f"*{ending}") if path.stem != others.stem)
    told = ledger.read_bytes()
    draw = random.Random(13)
    for _ in range(DAMAGES // 9):
        shutil.rmtree(left)
        left.mkdir(0o700)
        ledger.write_bytes(told)
        for path, content in beginning.items():
            path.write_bytes(content)
        content = bytearray(beginning[damaged])
        change(content, draw)
        damaged.write_bytes(content)
        assert 0 == run(go_on_beside, left, ledger, acknowledgements)
        assert {"next", *innocents} <= set(named("end", ledger))
        for wal in left.glob("*-wal"):  # it may be what people can restore the calls from
            assert wal.with_name(wal.name.removesuffix("-wal")).exists()
        if ending == ".lock":  # it says only how far calls have come
            assert {f"a{number}" for number in range(CALLS)} <= set(named("end", ledger))
            assert [] == files_in(left)


def test_log_of_a_damaged_database_is_kept(left: Path) -> None:
    """What SQLite has beside a database that is damaged is kept with it: people may restore calls from it."""
    path, wal = only(left, ".db"), only(left, ".db-wal")
    content = wal.read_bytes()
    path.write_bytes(b"no database at all" * 1_000)
    for _ in range(2):
        with executor_in(left) as executor:
            assert [] == executor.adopted
    aside = f"{path.name}.corrupt"
    assert [aside, f"{aside}-wal"] == [name for name in files_in(left) if not name.endswith("-shm")]
    assert content == (left / f"{aside}-wal").read_bytes()
