"""A journal on a disk that is damaged; see `harness`."""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import logging
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import atheris
import harness

sys.path.insert(0, str(Path(__file__).parent.parent))

with atheris.instrument_imports(include=["retrying_executor"]):
    from retrying_executor import RetryPolicy
    from retrying_executor.__main__ import main
    from retrying_executor._journal import command, marks, payload
    from retrying_executor._journal.description import describe
    from retrying_executor.testing import VirtualTimeExecutor

from journals import die, made, note, refuse

CALLS = 6
DAMAGED = CALLS + 3
"""The row of the call that is damaged."""

RETRY = RetryPolicy(delays=(100, 100), max_elapsed=None)
COLUMNS = ("status", "function", "key", "label", "upstreams", "payload", "accepted", "submitted", "attempts")
COLUMNS += ("postponed", "crashes", "began", "due", "noted", "error")
OF_OWNER = ("generation", "keys", "name", "boot", "monotonic", "wall")
# In memory, as a rule: a check takes about as long as its syncs.
PLACE = Path(mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
atexit.register(shutil.rmtree, PLACE, ignore_errors=True)


def find_class(_: object, module: str, name: str) -> Any:
    """Return one of two functions: bytes at random may have any name."""
    if module == "journals" and name in ("note", "refuse"):
        return note if name == "note" else refuse
    raise AttributeError(f"{module}.{name}")


payload._Unpickler.find_class = find_class  # type: ignore[method-assign]


def leave(directory: Path) -> None:
    """Leave a journal as a process does that is killed: with calls that wait, are done, and in backoff."""
    executor = VirtualTimeExecutor(journal=PLACE / "first", retry=RETRY)
    futures = [executor.submit(refuse, 0), *(executor.submit(note, number) for number in range(1, CALLS))]
    executor.advance(0)
    futures += [executor.submit(note, CALLS + number) for number in range(CALLS)]
    shutil.copytree(PLACE / "first", directory)
    die(executor)
    executor.shutdown(cancel_futures=True)


BEFORE, NOW = PLACE / "before", PLACE / "now"
leave(BEFORE)
(STEM,) = {path.stem for path in BEFORE.glob("*.db")}


def ask(*options: str) -> int:
    """Run the command; return its status."""
    with (
        contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        status = main(["journal", options[0], str(NOW), *options[1:]])
    assert status in (0, 1)
    return status


assert command  # or it would be imported later, and not be looked at
COMMANDS = (("list",), ("list", "--json"), ("show", "0"), ("show", "a", "--json"), ("export",))


def check_all(making: Making) -> None:
    """The journal is listed and taken over; the process ends, and a new call is made."""
    ask(*COMMANDS[making.below(len(COMMANDS))])
    made.clear()
    executor = VirtualTimeExecutor(journal=NOW, retry=RETRY)
    try:
        assert "new" == executor.submit(note, "new").result()
        executor.drain(1e6)
    finally:
        executor.shutdown(cancel_futures=True)
    if making.below(4) == 0:
        ask("retry", "--all-failed")


class Making:
    """Makes what a column may have, or may not."""

    def __init__(self, data: atheris.FuzzedDataProvider) -> None:
        self._data = data

    def below(self, number: int) -> int:
        return self._data.ConsumeIntInRange(0, number - 1)

    def value(self) -> object:
        kind = self.below(7)
        if kind == 0:
            return None
        if kind == 1:
            return self._data.ConsumeInt(8)
        if kind == 2:
            return self._data.ConsumeFloat()
        if kind == 3:
            return self._data.ConsumeBytes(self.below(100))
        if kind == 4:
            return self._data.ConsumeUnicode(self.below(40)).encode("utf-8", "replace").decode()
        if kind == 5:
            return ("waiting", "failed", "set aside", "", "J[]", -1, 0, 1, 1e300, -1e300)[self.below(10)]
        return self.below(1 << 20)


def check_rows(data: atheris.FuzzedDataProvider) -> None:
    """Whatever one row holds, all others are made."""
    making = Making(data)
    changes = [(COLUMNS[making.below(len(COLUMNS))], making.value()) for _ in range(1 + making.below(3))]
    with contextlib.closing(sqlite3.connect(NOW / f"{STEM}.db")) as database, database:
        for column, value in changes:
            with contextlib.suppress(sqlite3.IntegrityError, OverflowError):
                database.execute(f"UPDATE calls SET {column} = ? WHERE row = ?", (value, DAMAGED))
    check_all(making)
    others = {*range(CALLS, 2 * CALLS)} - {DAMAGED - 1}
    assert others <= {value for value in made if type(value) is int}, (changes, made)


def check_owner(data: atheris.FuzzedDataProvider) -> None:
    """Whatever is said of the owner, nothing raises."""
    making = Making(data)
    with contextlib.closing(sqlite3.connect(NOW / f"{STEM}.db")) as database, database:
        column = OF_OWNER[making.below(len(OF_OWNER))]
        with contextlib.suppress(OverflowError):
            database.execute(f"UPDATE owner SET {column} = ?", (making.value(),))
    check_all(making)


def check_bytes(data: atheris.FuzzedDataProvider) -> None:
    """Whatever bytes are there, nothing raises."""
    making = Making(data)
    if making.below(2):  # all is in the main file then
        sqlite3.connect(NOW / f"{STEM}.db").execute("PRAGMA wal_checkpoint(TRUNCATE)").connection.close()
    paths = sorted(NOW.iterdir())
    path = paths[making.below(len(paths))]
    content = bytearray(path.read_bytes())
    if not content:
        return
    for _ in range(1 + making.below(4)):
        start = making.below(len(content)) if making.below(2) else making.below(min(200, len(content)))
        kind = making.below(4)
        if kind == 0:
            del content[start : start + making.below(5000)]
        elif kind == 1:
            content[start:start] = data.ConsumeBytes(making.below(100))
        elif kind == 2:
            change = data.ConsumeBytes(making.below(100))
            content[start : start + len(change)] = change
        elif start < len(content):
            content[start] ^= 1 << making.below(8)
        if not content:
            break
    path.write_bytes(content)
    check_all(making)


def check_payload(data: atheris.FuzzedDataProvider) -> None:
    """Whatever bytes are there, they are described, and read or refused."""
    content = data.ConsumeBytes(1 << 20)
    for kind in (payload.PICKLE, payload._JSON):
        described = describe(kind + content)
        text = json.dumps([described.args, described.kwargs, described.why_not])
        assert len(text) < 1_000 + 1_000 * len(content)
        for form in (payload.Pickles({}), payload.Jsons({"note": note})):
            with contextlib.suppress(Exception):
                fn, args, kwargs = form.load(kind + content)
                assert type(args) is tuple
                assert type(kwargs) is dict
                assert callable(fn) or kind == payload.PICKLE


def check_marks(data: atheris.FuzzedDataProvider) -> None:
    """Whatever bytes are there, they are marks or none."""
    path = PLACE / "marks"
    path.write_bytes(data.ConsumeBytes(1 << 20))
    descriptor = os.open(path, os.O_RDWR)
    try:
        generation, is_orderly, found = marks.read(descriptor)
    finally:
        os.close(descriptor)
    assert generation is None or type(generation) is int
    assert type(is_orderly) is bool
    assert all(type(mark) is marks.Mark for mark in found)


CHECKS = (check_payload, check_rows, check_marks, check_owner, check_bytes)


def check(data: atheris.FuzzedDataProvider) -> None:
    """Run one of the checks."""
    one = CHECKS[data.ConsumeIntInRange(0, len(CHECKS) - 1)]
    if one in (check_rows, check_owner, check_bytes):
        shutil.rmtree(NOW, ignore_errors=True)
        shutil.copytree(BEFORE, NOW)
        NOW.chmod(0o700)
    one(data)


def seeds() -> Iterator[bytes]:
    """Yield payloads, marks and other bytes, each with the number of its check."""
    for form in (payload.Pickles({}), payload.Jsons({"note": note})):
        yield form.dump(note, (1, "a", [None, 1.5]), {"x": {"y": [1]}})[1:] + b"\0"
    yield next(BEFORE.glob("*.lock")).read_bytes()[:400] + b"\2"
    for number in (1, 3, 4):
        yield bytes(range(100)) + bytes([number])
        yield bytes(range(255, 100, -1)) + bytes([number])


if __name__ == "__main__":
    logging.getLogger("retrying_executor").setLevel(logging.WARNING)
    harness.run(check, seeds())
