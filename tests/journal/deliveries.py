"""Calls that write what they do into a ledger, which survives their process; and what a ledger must say.

A line of a ledger is appended with one system call, so lines of several processes do not mix, and their order
is that of what happened. It says what happened to which call, and in which thread of which process.

A thread makes one attempt after the other. So a line is the last one of its thread only if the call was
running when the process died, or if nothing followed: from that a reader can tell which calls may run twice.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple


class Line(NamedTuple):
    """A line of a ledger: what happened to which call, and where.

    That is "begin", "end" or "fail" of an attempt; "cancelling" before a call is cancelled, "cancel" after.
    """

    what: str
    call: str
    process: int
    thread: int


def note(path: str, what: str, call: str) -> None:
    """Append a line."""
    line = f"{what} {call} {os.getpid()} {threading.get_native_id()}\n".encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def lines(path: Path) -> list[Line]:
    """Return what a ledger says; nothing if it is not there."""
    content = path.read_text("ascii") if path.exists() else ""
    assert content.endswith("\n") or not content
    fields = [line.split(" ") for line in content.splitlines()]
    return [Line(what, call, int(process), int(thread)) for what, call, process, thread in fields]


def named(what: str, path: Path) -> list[str]:
    """Return the calls to which that has happened, in order, as often as it has."""
    return [line.call for line in lines(path) if line.what == what]


def cancel(future: Future[Any], path: Path, call: str) -> None:
    """Cancel a call, unless it is running or done, and say so."""
    note(str(path), "cancelling", call)
    if future.cancel():
        note(str(path), "cancel", call)


# -- calls ---------------------------------------------------------------------------------------


def deliver(path: str, call: str, lasts: float = 0.0, padding: str = "") -> str:
    """Take *lasts* seconds; return the name of the call."""
    note(path, "begin", call)
    time.sleep(lasts)
    note(path, "end", call)
    return call


def deliver_late(path: str, call: str, lasts: float = 0.0) -> str:
    """Fail the first time, and not when it was made before."""
    is_first = call not in named("fail", Path(path))
    note(path, "begin", call)
    time.sleep(lasts)
    note(path, "fail" if is_first else "end", call)
    if is_first:
        raise ConnectionError("the first time it always fails")
    return call


def kill_own_process(path: str, call: str) -> None:
    """End the process, however often it is tried."""
    note(path, "begin", call)
    os.kill(os.getpid(), signal.SIGKILL)


# -- what must be so -----------------------------------------------------------------------------


def check_delivered(acknowledged: Iterable[str], ledger: Path) -> None:
    """Check that calls that were acknowledged are done, or were cancelled; and that none ran after that.

    A process may have been killed just when it had cancelled a call.

    Only an attempt that was the last thing that its thread did may be made again after it came to an end.
    """
    told = lines(ledger)
    last_of = {(line.process, line.thread): number for number, line in enumerate(told)}
    over: dict[str, Line] = {}
    for number, line in enumerate(told):
        if line.what == "begin":
            assert line.call not in over, f"{line} came after {over[line.call]}"
        elif line.what == "cancel" or (line.what == "end" and last_of[line.process, line.thread] > number):
            over[line.call] = line
    done = {line.call for line in told if line.what in ("end", "cancel", "cancelling")}
    assert set() == set(acknowledged) - done


def died_running(ledger: Path) -> set[str]:
    """Return the calls that were running when their process died, as far as that can be seen: no end."""
    open_attempts: dict[tuple[int, int], str] = {}
    for line in lines(ledger):
        if line.what == "begin":
            open_attempts[line.process, line.thread] = line.call
        elif line.what in ("end", "fail"):
            del open_attempts[line.process, line.thread]
    return set(open_attempts.values())
