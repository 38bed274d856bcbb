"""The live view on a terminal, drawn by rich: what a terminal is shown, and what becomes of other output."""

from __future__ import annotations

import io
import logging
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

import pytest

import pages
from conftest import TIMEOUT
from observe import eventually, threads_named
from retrying_executor import RetryingExecutor, Upstream, watch

pytest.importorskip("rich", reason="rich is not installed")

from retrying_executor._watch import bar

CONTROL = re.compile(r"\x1b\[[?\d;]*([A-Za-z])")
TERMINAL = {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "25"}
ENVIRONMENT = ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM")
SCRIPT = """
import logging, os, sys, threading
from retrying_executor import RetryingExecutor, watch

logging.basicConfig(format="%(message)s")
release = threading.Event()

def call(number):
    assert release.wait(60)
    if number == 3:
        raise NotImplementedError

with RetryingExecutor(2) as executor, watch(executor, interval=0.001):
    futures = [executor.submit(call, number) for number in range(5)]
    {}
    release.set()
    for future in futures:
        future.exception()
print("after")
"""


class Shown:
    """What is written to a pseudo-terminal, from the outside."""

    def __init__(self, screen: int) -> None:
        self._screen = screen
        self.raw = ""

    def until(self, pattern: str) -> str:
        """Read until what is shown, less the control characters, has the pattern; return the match."""
        while not (match := re.search(pattern, self.text)):
            assert self._read(), self.text
        return match[0]

    def to_the_end(self) -> str:
        while self._read():
            pass
        return self.text

    @property
    def text(self) -> str:
        return CONTROL.sub("", self.raw).replace("\r", "")

    def _read(self) -> bool:
        assert select.select([self._screen], [], [], TIMEOUT)[0]
        try:
            read = os.read(self._screen, 65536)
        except OSError:  # how Linux says that there is no other end any more
            read = b""
        self.raw += read.decode("utf-8")
        return bool(read)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal: the ends to read what is shown, and to be written to."""
    pty = pytest.importorskip("pty", reason="there are no pseudo-terminals on Windows")
    screen, inside = pty.openpty()
    yield screen, inside
    os.close(screen)


@contextmanager
def running(
    source: str, terminal: tuple[int, int], *, stdout: int | None = None, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], Shown]]:
    """Run a program in the terminal, and see that it is gone in the end."""
    screen, inside = terminal
    env = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    with subprocess.Popen(
        [sys.executable, "-c", source],
        stdin=subprocess.PIPE,
        stdout=inside if stdout is None else stdout,
        stderr=inside,
        env={**env, **TERMINAL, "PYTHONIOENCODING": "utf-8", **environment},
    ) as process:
        os.close(inside)
        try:
            yield process, Shown(screen)
        finally:
            process.kill()


def test_a_terminal_shows_a_bar_that_moves(terminal: tuple[int, int]) -> None:
    """It is drawn in place, with where the calls stand below; what has become of them stays."""
    with running(SCRIPT.format("input()"), terminal) as (process, shown):
        shown.until("━ 0/5 0 % 0/s ETA -\nfailed 0, ready 3, running 2")
        process.communicate(b"\n", timeout=TIMEOUT)
        text = shown.to_the_end()
    assert 0 == process.returncode
    bar = r"━{40} 5/5 100 % [\d.]+/s 0:00:\d\d *"
    below = r"succeeded 4, failed 1, cancelled 0, retried 0, took [\d.]+ s"
    assert re.search(rf"{bar}\n{below}\nafter\n$", text), text
    assert "\x1b[2K\x1b[1A\x1b[2K" in shown.raw  # both lines are drawn again
    assert shown.raw.index("\x1b[?25l") < shown.raw.index("\x1b[?25h")  # the cursor is back


def test_what_is_printed_and_logged_appears_above(terminal: tuple[int, int]) -> None:
    """Each on a line of its own, even where the handler was there before the bar."""
    lines = "print('printed'); logging.warning('logged'); print('to stderr', file=sys.stderr); input()"
    with running(SCRIPT.format(lines), terminal) as (process, shown):
        shown.until("to stderr")
        process.communicate(b"\n", timeout=TIMEOUT)
        shown.to_the_end()
    assert 0 == process.returncode
    for line in ("printed", "logged", "to stderr"):
        assert re.search(rf"\x1b\[2K{line}\r\n", shown.raw), shown.raw


def test_what_goes_to_a_file_still_does(terminal: tuple[int, int]) -> None:
    """With standard output elsewhere, the bar is on standard error, and output stays where it belongs."""
    with running(SCRIPT.format("print('printed')"), terminal, stdout=subprocess.PIPE) as (process, shown):
        text = shown.to_the_end()
        out, _ = process.communicate(timeout=TIMEOUT)
    assert 0 == process.returncode
    assert b"printed\nafter\n" == out
    assert "printed" not in text
    assert "5/5 100 %" in text


def test_a_terminal_that_cannot_move_the_cursor_gets_lines(terminal: tuple[int, int]) -> None:
    """No control characters."""
    with running(SCRIPT.format("pass"), terminal, TERM="dumb") as (process, shown):
        text = shown.to_the_end()
        process.communicate(timeout=TIMEOUT)
    assert 0 == process.returncode
    assert "ended: done 5/5, succeeded 4, failed 1, cancelled 0, retried 0, took " in text
    assert "\x1b" not in shown.raw


def test_colours_can_be_turned_off(terminal: tuple[int, int]) -> None:
    """NO_COLOR is respected; the bar moves all the same."""
    with running(SCRIPT.format("pass"), terminal, NO_COLOR="1") as (process, shown):
        assert "5/5 100 %" in shown.to_the_end()
        process.communicate(timeout=TIMEOUT)
    assert not re.search(r"\x1b\[[\d;]*3\d[;\dm]", shown.raw)


@pytest.fixture
def _sigint_is_not_ignored() -> Iterator[None]:
    """A child process ignores the signals that its parent ignores, as shells make background jobs do."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("_sigint_is_not_ignored")
def test_ctrl_c_leaves_a_terminal_that_works(terminal: tuple[int, int]) -> None:
    """The block ends with KeyboardInterrupt; the end is shown, and the cursor is back."""
    wait = "try: threading.Event().wait(60)\n    finally: release.set()"
    with running(SCRIPT.format(wait), terminal) as (process, shown):
        shown.until("running 2")
        process.send_signal(signal.SIGINT)
        text = shown.to_the_end()
        process.communicate(timeout=TIMEOUT)
    assert process.returncode in (-signal.SIGINT, 1)
    assert re.search(r"5/5 100 % .*\nsucceeded \d, failed \d, cancelled \d, retried 0, took ", text)
    assert "\nKeyboardInterrupt\n" in text
    assert shown.raw.rindex("\x1b[?25l") < shown.raw.rindex("\x1b[?25h")


def test_blocks_can_be_nested(terminal: tuple[int, int]) -> None:
    """The inner one has its lines above the bar of the outer one."""
    inner = "\n    with RetryingExecutor(1) as other, watch(other):\n        other.submit(int).result()"
    with running(SCRIPT.format(inner), terminal) as (process, shown):
        text = shown.to_the_end()
        process.communicate(timeout=TIMEOUT)
    assert 0 == process.returncode
    assert re.search(r"\[0:00:0\d\] ended: done 1/1, succeeded 1, failed 0, .*\n", text), text
    assert "5/5 100 %" in text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
def test_a_forked_child_has_its_streams_back(terminal: tuple[int, int]) -> None:
    """It may print and log, though a lock of rich was held when it was forked (F6)."""
    fork = """
    from retrying_executor._watch import bar
    lock = next(iter(bar._open))._display._lock
    held, let_go = threading.Event(), threading.Event()
    def hold():
        with lock:
            held.set()
            assert let_go.wait(60)
    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(60)
    child = os.fork()
    if not child:
        print("child prints", flush=True)
        logging.warning("child logs")
        sys.exit()
    status = os.waitpid(child, 0)[1]
    let_go.set()
    holder.join()
    print("child ended with", status)
    """
    with running(SCRIPT.format(fork), terminal) as (process, shown):
        text = shown.to_the_end()
        process.communicate(timeout=TIMEOUT)
    assert 0 == process.returncode, text
    assert ("child prints" in text) == ("child logs" in text) == ("child ended with 0\n" in text) is True
    assert 1 == text.count("after\n")
    assert 1 == text.count("took")


@pytest.mark.skipif(os.name == "nt", reason="there are no pseudo-terminals on Windows")
def test_the_picture_of_the_bar_shows_what_the_bar_shows() -> None:
    """The same lines, recorded once more, apart from numbers (U1, U5, K1)."""
    script = pages.HOW_TO / "progress.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, timeout=TIMEOUT, encoding="utf-8"
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    picture = script.with_suffix(".svg").read_text("utf-8")
    for shown in (r"held \d+ until [\d:]+ \(billing\)", r"at a limit \d+ \(search\)"):
        assert re.search(shown, picture), shown


# -- within this process -----------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A file that says that it is a terminal."""

    def isatty(self) -> bool:
        return not super().isatty()  # an error if it is closed


@pytest.fixture(autouse=True)
def _on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    for name, value in TERMINAL.items():
        monkeypatch.setenv(name, value)


def test_any_file_that_is_a_terminal_gets_a_bar(executor: RetryingExecutor) -> None:
    """It moves in place; before anything is submitted it does not look full."""
    file = Terminal()
    with watch(executor, file=file):
        assert "0/0 0 %" in CONTROL.sub("", file.getvalue())
        assert 0 == executor.submit(int).result(TIMEOUT)
        assert eventually(lambda: "1/1 100 %" in CONTROL.sub("", file.getvalue()))
    assert "succeeded 1, failed 0, cancelled 0, retried 0, took" in file.getvalue()
    assert [] == threads_named("retrying_executor.watch")


def test_bar_and_lines_say_the_same_and_the_bar_stays_in_its_two_lines(executor: RetryingExecutor) -> None:
    """What does not fit into the terminal is cut off (U5)."""
    service = Upstream("service-" + 100 * "x")
    service.pause()
    file, lines = Terminal(), io.StringIO()
    with watch(executor, file=file), watch(executor, interval=0.001, file=lines):
        future = executor.with_options(upstream=service).submit(int)
        expected = f"failed 0, running 0, held 1 ({service.name})"
        assert eventually(lambda: f" {expected}, " in lines.getvalue())
        assert eventually(lambda: f"\n{expected[:79]}…\n" in f"{CONTROL.sub('', file.getvalue())}\n")
        assert future.cancel()


def test_a_file_without_a_terminal_gets_no_bar(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the environment says about colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    with watch(executor, file=file):
        pass
    assert file.getvalue().startswith("[0:00:0")
    assert "\x1b" not in file.getvalue()


def terminals(monkeypatch: pytest.MonkeyPatch) -> tuple[TextIO, TextIO]:
    """Replace standard output and error by files that say that they are terminals."""
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    return out, err


def test_everything_is_as_before_in_the_end(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams and handlers are put back; those that write elsewhere are left alone."""
    out, err = terminals(monkeypatch)
    elsewhere = io.StringIO()
    handlers = [logging.StreamHandler(stream) for stream in (out, err, elsewhere)]
    logger = logging.getLogger("test_watch_rich.inner")
    logger.handlers[:] = handlers
    try:
        with watch(executor):
            assert sys.stdout is not out
            assert sys.stderr is not err
            assert [sys.stdout, sys.stderr, elsewhere] == [handler.stream for handler in handlers]
        assert [out, err, elsewhere] == [handler.stream for handler in handlers]
        assert (out, err) == (sys.stdout, sys.stderr)
    finally:
        logger.handlers.clear()


def test_streams_that_are_closed_are_left_alone(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar goes to a file of its own then."""
    out, _ = terminals(monkeypatch)
    out.close()
    file = Terminal()
    with watch(executor, file=file):
        assert out is sys.stdout
    assert "0/0" in file.getvalue()


def test_a_terminal_that_goes_away(executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar that cannot be drawn any more is closed; streams are put back, and nothing else happens."""
    streams = terminals(monkeypatch)
    with watch(executor):
        streams[1].close()
        assert eventually(lambda: not threads_named("retrying_executor.watch"))
        assert streams == (sys.stdout, sys.stderr)
        assert 0 == executor.submit(int).result(TIMEOUT)


def test_a_reader_that_goes_away_does_not_end_the_program(executor: RetryingExecutor) -> None:
    """Where rich by itself would close standard output, and exit."""
    reader, writer = os.pipe()
    with suppress(BrokenPipeError), open(writer, "w", encoding="utf-8") as pipe:  # closing it, it is written
        pipe.isatty = lambda: True  # type: ignore[method-assign]  # so that rich draws
        with watch(executor, file=pipe):
            os.close(reader)
            assert 0 == executor.submit(int).result(TIMEOUT)
            assert eventually(lambda: not threads_named("retrying_executor.watch"))
        assert 0 == executor.submit(int).result(TIMEOUT)


def test_a_bar_that_never_began_can_be_closed() -> None:
    """As when Ctrl-C comes first."""
    file = Terminal()
    bar.Bar(bar.Console(file=file)).close()
    assert "" == file.getvalue()
