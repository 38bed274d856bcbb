"""Functions that tests have run in other processes, where coverage does not look."""

from __future__ import annotations

import os
import re
import signal
import struct
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from retrying_executor import CurrentCall, NotNow, current_call, report_weight


class TwoArgumentsError(Exception):
    """Cannot be unpickled as usual: its constructor demands more than its ``args``."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


def square(number: int) -> int:
    """Return the square of a number."""
    return number * number


def pid(*_: object) -> int:
    """Return which process this is."""
    return os.getpid()


def die(*_: object) -> NoReturn:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it goes on")


def count(counter: str) -> int:
    """Add a line to a file, and return how many there are."""
    with Path(counter).open("a", encoding="utf-8") as file:
        file.write("x\n")
    return len(Path(counter).read_text("utf-8").splitlines())


def die_until(counter: str, attempts: int) -> int:
    """Kill this process in so many attempts; then return which attempt this is."""
    number = count(counter)
    if number <= attempts:
        die()
    return number


def fail_until(counter: str, attempts: int) -> int:
    """Raise in so many attempts; then return which attempt this is."""
    number = count(counter)
    if number <= attempts:
        raise ConnectionError(f"attempt {number}")
    return number


def count_and_die(counter: str) -> None:
    """Count this attempt, then kill this process."""
    count(counter)
    die()


def hang(started: str | None = None) -> None:
    """Say that this has begun, and wait for far longer than any test."""
    if started is not None:
        Path(started).write_text(str(os.getpid()), "utf-8")
    time.sleep(600)


def hang_once(counter: str) -> int:
    """Hang in the first attempt; then return which attempt this is."""
    number = count(counter)
    if number == 1:
        hang()
    return number


def fail(*_: object) -> NoReturn:
    """Raise what cannot be unpickled as usual."""
    raise TwoArgumentsError("no", status=503)


def leave(*_: object) -> NoReturn:
    """Raise `SystemExit`."""
    raise SystemExit(3)


def not_now(counter: str) -> int:
    """Ask for another attempt, once."""
    number = count(counter)
    if number == 1:
        raise NotNow(after=0.01)
    return number


def told() -> CurrentCall | None:
    """Return what is known of the call that runs here."""
    return current_call()


def weigh(weight: float) -> None:
    """Report a weight."""
    report_weight(weight)


def unsendable() -> Any:
    """Return what cannot be pickled."""
    return lambda: None


def forks() -> str:
    """Fork, and return in both processes."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return "parent"
    return "child"


def initialize(counter: str, fails: int = 0) -> None:
    """Count this; raise the first times."""
    if count(counter) <= fails:
        raise ValueError("not yet")


def hang_first(started: str) -> int | None:
    """Say in the first attempt which process this is, and hang; then return which attempt this is."""
    if not Path(started).exists():
        hang(started)
    call = current_call()
    return None if call is None else call.attempt


def allow_failures(number: int, *, dask_scheduler: Any) -> int:
    """Have dask itself make a call again so many times; return how many times it was before."""
    before: int = dask_scheduler.allowed_failures
    dask_scheduler.allowed_failures = number
    return before


def current_span() -> tuple[int, int]:
    """Return the ids of the current trace and span."""
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    return context.trace_id, context.span_id


class Unreadable:
    """Can be pickled, but not unpickled."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> NoReturn:
    raise ValueError("not here")


def unreadable() -> Unreadable:
    """Return what cannot be unpickled."""
    return Unreadable()


def stay() -> None:
    """Start a thread that keeps this process."""
    threading.Thread(target=time.sleep, args=(600,)).start()


def end(*_: object) -> NoReturn:
    """End this process."""
    os._exit(1)


def leave_child_and_die(counter: str, child: str) -> int:
    """Start a process that goes on, and die, once; then return which attempt this is."""
    number = count(counter)
    if number == 1:
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
        Path(child).write_text(str(pid), "utf-8")
        die()
    return number


def serve_partly(connection: Any, *_: object) -> None:
    """Run as a process that stops in the middle of its answer."""
    connection.send_bytes(b"ready")
    connection.recv_bytes()
    os.write(connection.fileno(), struct.pack("!i", 100) + b"partly")
    time.sleep(600)


def serve_nothing(connection: Any, *_: object) -> None:
    """Run as a process that reads no message."""
    connection.send_bytes(b"ready")
    time.sleep(600)


def hold_gil(started: str) -> None:
    """Say that this has begun, and keep all other threads from running."""
    Path(started).write_text(str(os.getpid()), "utf-8")
    re.match(r"(a+)+$", "a" * 100 + "b")
