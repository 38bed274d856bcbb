"""How scripts end: the examples of the page on that, as processes of their own that get real signals."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

import pages
import retrying_executor
from conftest import TIMEOUT
from observe import eventually

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals cannot be sent to one process on Windows")

BLOCK, NO_BLOCK, AS_CTRL_C, AS_EXIT, WORKER, RESUMING = pages.python_on(pages.HOW_TO / "scripts.md")
INTERRUPTED = re.compile(r"^interrupted: \d+ waiting calls cancelled, ", re.MULTILINE)


def works(command: Sequence[str]) -> bool:
    """Return whether a command that runs others is there, and may be used."""
    is_there = shutil.which(command[0]) is not None
    return is_there and not subprocess.run([*command, "true"], check=False, capture_output=True).returncode


UNSHARE = ("unshare", "--pid", "--fork", "--kill-child")
FIRST = next(filter(works, (UNSHARE, (*UNSHARE, "--user", "--map-root-user"))), ())
"""What makes a command the first process of its own, as in a container: its number is 1."""

needs_containers = pytest.mark.skipif(
    not FIRST, reason="unshare is not there, or may not be used: what containers do was not tested"
)


@contextmanager
def started(
    script: str, directory: Path, before: Sequence[str] = (), arguments: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """Start a script, in which SIGINT is not ignored and SIGUSR1 is, and see that it is gone in the end.

    Args:
        script: What Python runs.
        directory: Where.
        before: The command that runs the command, if there is one.
        arguments: Of the script.
    """
    source = str(Path(retrying_executor.__file__).parent.parent)
    handlers = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    handlers += "; signal.signal(signal.SIGUSR1, lambda *_: None)\n"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    if sys.version_info[:2] == (3, 11):
        # Not measured there: a traced thread never gets past the beginning of a function while a signal is
        # pending that only the main thread can handle, which may be waiting for that thread.
        for name in [name for name in environment if name.startswith("COVERAGE_")]:
            del environment[name]
    with subprocess.Popen(
        [*before, sys.executable, "-W", "error", "-c", handlers + script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=directory,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def first_of(container: subprocess.Popen[str]) -> int:
    """Return the number of the process that is the first one in a container, as it is seen from outside."""
    return int(Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text("ascii"))


def read_line(process: subprocess.Popen[str]) -> None:
    """Wait for a line on stdout, and read no further: ``communicate()`` does not see what is in a buffer."""
    assert process.stdout is not None
    while (read := os.read(process.stdout.fileno(), 1)) != b"\n":
        assert read


def stopped(script: str, directory: Path, number: int, before: Sequence[str] = ()) -> tuple[int, str, str]:
    """Run a script, and send it, or what runs it, a signal when it has printed a line.

    Returns:
        Its exit code, and the rest of what it wrote to stdout and stderr.
    """
    with started(script, directory, before) as process:
        read_line(process)
        os.kill(first_of(process) if before else process.pid, number)
        output, errors = process.communicate(timeout=TIMEOUT)
    return process.returncode, output, errors


def interrupted_after(script: str, directory: Path, *patterns: str) -> None:
    """Run a script, and press Ctrl-C when it has printed a line, and after each pattern on stderr.

    Python notices a signal before a wait and in it, but not at the instant between. The wait then goes on
    until another signal comes. So others follow, which mean nothing: a second Ctrl-C would mean more.
    """
    with started(script, directory) as process:
        assert process.stderr is not None
        errors, seen = process.stderr.fileno(), bytearray()

        def answers(pattern: str) -> bool:
            process.send_signal(signal.SIGUSR1)
            wanted = re.compile(pattern.encode(), re.DOTALL)
            while not wanted.search(seen) and select.select([errors], [], [], 1)[0]:
                read = os.read(errors, 4096)
                assert read, seen.decode()
                seen.extend(read)
            return wanted.search(seen) is not None

        read_line(process)
        for pattern in patterns:
            process.send_signal(signal.SIGINT)
            assert eventually(partial(answers, pattern))

        def ends() -> bool:  # after Ctrl-C once more, should one have come while the traceback was written
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=2)
            return process.returncode is not None

        assert eventually(ends)
    assert process.returncode


@pytest.mark.parametrize(
    ("handler", "number"),
    [("", signal.SIGINT), (AS_CTRL_C, signal.SIGTERM)],
    ids=["Ctrl-C", "SIGTERM as Ctrl-C"],
)
def test_an_interrupt_in_a_block_cancels_what_waits(handler: str, number: int, tmp_path: Path) -> None:
    """What waits is cancelled and counted in the log, and the process ends by Ctrl-C (F8)."""
    code, _, errors = stopped(handler + BLOCK, tmp_path, number)
    assert -signal.SIGINT == code
    assert INTERRUPTED.search(errors)
    assert errors.endswith("KeyboardInterrupt\n")


def test_sigterm_without_a_handler_ends_the_process_at_once(tmp_path: Path) -> None:
    """Nothing is logged, and no exception is raised."""
    code, _, errors = stopped(BLOCK, tmp_path, signal.SIGTERM)
    assert (-signal.SIGTERM, "") == (code, errors)


def test_an_exit_on_sigterm_grants_the_calls_the_timeout(tmp_path: Path) -> None:
    """The exit code is the one that the handler chose; what waits is cancelled when the time is up (F8)."""
    script = AS_EXIT + BLOCK.replace("exit_timeout=8", "exit_timeout=0.5")
    code, _, errors = stopped(script, tmp_path, signal.SIGTERM)
    assert 143 == code
    assert re.search(r"^shutdown timed out after 0.5 s: \d+ waiting calls cancelled, ", errors)


def test_a_second_interrupt_leaves_the_block_and_a_third_ends_the_process(tmp_path: Path) -> None:
    """They do not wait for attempts that hang, however long `exit_timeout` is (F4, F8)."""
    script = BLOCK.replace("time.sleep(0.1)", "time.sleep(0.1 if number < 4 else 3600)")
    script = script.replace("exit_timeout=8", "exit_timeout=3600")
    interrupted_after(script, tmp_path, "interrupted: ", "KeyboardInterrupt\n.*KeyboardInterrupt\n")


def test_without_a_block_the_end_waits_for_all_calls(tmp_path: Path) -> None:
    """Ctrl-C cancels nothing then: all calls are carried out (F4)."""
    script = NO_BLOCK.replace("time.sleep, 0.1", "time.sleep, 0.001")
    script = script.replace(
        "print(", "import atexit; atexit.register(lambda: print(executor.stats()))\nprint("
    )
    code, output, errors = stopped(script, tmp_path, signal.SIGINT)
    assert -signal.SIGINT == code
    assert "succeeded=1000" in output
    assert errors.endswith("KeyboardInterrupt\n")


def test_without_a_block_ctrl_c_once_more_ends_the_process(tmp_path: Path) -> None:
    """The second comes while the end of the interpreter waits; calls that wait are lost (F4)."""
    interrupted_after(NO_BLOCK.replace("time.sleep, 0.1", "time.sleep, 3600"), tmp_path, "KeyboardInterrupt")


def test_a_worker_ends_by_itself_when_another_thread_cancels(tmp_path: Path) -> None:
    """The main thread is not interrupted; it counts what is left, and tells that in its exit code (F2)."""
    code, output, errors = stopped(WORKER, tmp_path, signal.SIGTERM)
    assert (143, "") == (code, errors)
    *fetched, cancelled = output.splitlines()
    assert 999 == len(fetched) + int(cancelled.removeprefix("cancelled "))


def test_a_worker_that_nobody_stops_ends_well(tmp_path: Path) -> None:
    """The thread that waits to be told does not keep the process alive (F4)."""
    with started(WORKER.replace("time.sleep(0.1)", "time.sleep(0)"), tmp_path) as process:
        output, errors = process.communicate(timeout=TIMEOUT)
    assert (0, "") == (process.returncode, errors)
    assert "cancelled 0" == output.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_script_that_was_stopped_goes_on_at_the_next_start(number: int, tmp_path: Path) -> None:
    """What is written down is not done again, and in the end everything is (F8)."""
    code, _, errors = stopped(RESUMING, tmp_path, number)
    assert -(signal.SIGKILL if number == signal.SIGKILL else signal.SIGINT) == code
    assert (number != signal.SIGKILL) == bool(INTERRUPTED.search(errors))
    with closing(sqlite3.connect(tmp_path / "done.db")) as database:
        done = {row for (row,) in database.execute("SELECT number FROM done")}
    assert len(done) < 200
    if number != signal.SIGKILL and sys.version_info >= (3, 13):  # before, an interrupted join() is the last
        assert re.search(rf"ended: done (\d+)/\1, succeeded {len(done)}, failed 0, cancelled \d+, ", errors)
    with started(RESUMING.replace("time.sleep(0.1)", "time.sleep(0)"), tmp_path) as process:
        output, errors = process.communicate(timeout=TIMEOUT)
    assert 0 == process.returncode, errors
    fetched = [int(line.removeprefix("fetched ")) for line in output.splitlines()]
    assert sorted({*range(200)} - done) == sorted(fetched)


# -- containers ----------------------------------------------------------------------------------------------


@needs_containers
@pytest.mark.parametrize(
    ("handler", "number", "code"),
    [("", signal.SIGINT, 130), (AS_CTRL_C, signal.SIGTERM, 130), (AS_EXIT, signal.SIGTERM, 143)],
    ids=["STOPSIGNAL SIGINT", "SIGTERM as Ctrl-C", "SIGTERM as exit"],
)
def test_a_container_that_is_stopped_ends_by_itself(
    handler: str, number: int, code: int, tmp_path: Path
) -> None:
    """The first process gets the signals that it has a handler for, and cancels what waits (F8)."""
    script = handler + BLOCK.replace("exit_timeout=8", "exit_timeout=0.5")
    ended, output, errors = stopped(script, tmp_path, number, FIRST)
    assert code == ended, errors
    assert re.search(
        r"^(interrupted|shutdown timed out .*): \d+ waiting calls cancelled, ", errors, re.MULTILINE
    )
    assert len(output.splitlines()) < 999


@needs_containers
def test_a_worker_in_a_container_ends_by_itself(tmp_path: Path) -> None:
    """What runs is finished, what waits is cancelled and counted (F2)."""
    code, output, errors = stopped(WORKER, tmp_path, signal.SIGTERM, FIRST)
    assert (143, "") == (code, errors)
    *fetched, cancelled = output.splitlines()
    assert 999 == len(fetched) + int(cancelled.removeprefix("cancelled "))


@needs_containers
@pytest.mark.parametrize("start", ["", '"$@"\nexit $?'], ids=["no handler", "a shell that does not exec"])
def test_sigterm_does_not_reach_a_script(start: str, tmp_path: Path) -> None:
    """Without a handler the first process ignores it, and a shell keeps it to itself: all calls are made."""
    shell = ["sh", "-c", start, "start"] if start else []
    script = (AS_CTRL_C if start else "") + BLOCK.replace("time.sleep(0.1)", "time.sleep(0.004)")
    code, output, errors = stopped(script, tmp_path, signal.SIGTERM, [*FIRST, *shell])
    assert (0, "") == (code, errors)
    assert 999 == len(output.splitlines())


@needs_containers
def test_sigterm_reaches_a_script_that_a_shell_has_made_way_for(tmp_path: Path) -> None:
    """After ``exec`` the script is the first process itself (F8)."""
    shell = ["sh", "-c", 'exec "$@"', "start"]
    code, _, errors = stopped(AS_CTRL_C + BLOCK, tmp_path, signal.SIGTERM, [*FIRST, *shell])
    assert 130 == code, errors
    assert INTERRUPTED.search(errors)


@needs_containers
def test_a_container_that_is_killed_goes_on_at_the_next_start(tmp_path: Path) -> None:
    """Attempts that outlast the time before SIGKILL are cut off; the next start makes them again (F8)."""
    script = RESUMING.replace("exit_timeout=8", "exit_timeout=3600").replace(
        "time.sleep(0.1)", "time.sleep(0.01 if number < 50 else 3600)"
    )
    errors = ""
    with started(script, tmp_path, FIRST) as process:
        for _ in range(50):
            read_line(process)
        first = first_of(process)
        os.kill(first, signal.SIGTERM)
        assert process.stderr is not None
        while not INTERRUPTED.search(errors):
            line = process.stderr.readline()
            assert line, errors
            errors += line
        assert process.poll() is None
        os.kill(first, signal.SIGKILL)
        assert process.wait(TIMEOUT)
    with started(RESUMING.replace("time.sleep(0.1)", "time.sleep(0)"), tmp_path, FIRST) as process:
        output, errors = process.communicate(timeout=TIMEOUT)
    assert 0 == process.returncode, errors
    again = {int(line.removeprefix("fetched ")) for line in output.splitlines()}
    assert {*range(50, 200)} <= again
