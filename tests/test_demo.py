"""The command ``python -m retrying_executor``, as it is run."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from itertools import repeat
from pathlib import Path
from urllib.error import URLError

import pytest

from conftest import TIMEOUT
from retrying_executor import __version__
from retrying_executor.__main__ import main
from retrying_executor._demo import report, webhooks, worker
from retrying_executor._demo.scenario import parse
from retrying_executor._demo.service import Service
from retrying_executor._demo.webhooks import deliver

COMMAND = (sys.executable, "-m", "retrying_executor")
SMALL = ("--calls", "10", "--workers", "2", "--outage", "0.1")


def run(*options: str) -> tuple[int, str, str]:
    """Run the command; return its exit status, and what it wrote to stdout and stderr."""
    done = subprocess.run([*COMMAND, *options], capture_output=True, timeout=TIMEOUT, check=False)
    out, err = (written.decode("ascii").replace(os.linesep, "\n") for written in (done.stdout, done.stderr))
    return done.returncode, out, err


def columns(out: str) -> list[dict[str, str]]:
    """Return for each executor the cells of its column, by the labels of the rows; its name is "name"."""
    head, _, *rows = [re.split(r" {2,}", line) for line in out.split("\n\n")[1].splitlines()]
    return [{"name": head[index], **{row[0]: row[index] for row in rows}} for index in (1, 2)]


def test_all_webhooks_arrive_and_the_figures_agree() -> None:
    """The ledger shows all of them; every attempt is a first one or a retry (B10, G4)."""
    status, out, err = run("--calls", "40", "--workers", "4", "--failures", "0.3", "--outage", "0.2")
    assert (0, "") == (status, err)
    assert "\r" not in out, "a progress line where there is no terminal"
    assert out.endswith("\n\nThe RetryingExecutor delivered every webhook.\n")
    assert 80 > max(map(len, out.splitlines()))
    plain, retrying = columns(out)
    delivered = "delivered (by the service's ledger)"
    at_peak, at_rest = "threads at the peak", "threads 2 s after the last call"

    assert "ThreadPoolExecutor" == plain["name"]
    assert 40 > int(plain["lost"]) > 0
    assert 40 == int(plain[delivered]) + int(plain["lost"])
    assert ("40", "0") == (plain["attempts"], plain["retries"])
    assert 4 >= int(plain[at_peak]) == int(plain[at_rest]) > 0

    assert "RetryingExecutor" == retrying["name"]
    assert ("40", "0") == (retrying[delivered], retrying["lost"])
    assert int(retrying["attempts"]) == 40 + int(retrying["retries"]) > 40
    assert 4 >= int(retrying[at_peak]) >= int(retrying[at_rest])


def test_a_lost_webhook_is_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the executor that retries gives webhooks up, the status is 1, and the last error is shown (B3)."""
    monkeypatch.setattr(webhooks, "REST", 0)  # how many threads stay does not matter here
    assert 1 == main([*SMALL, "--failures", "1", "--max-elapsed", "0"])
    out, err = capsys.readouterr()
    assert "" == err
    assert out.endswith(" lost 10 webhooks; the last error: HTTP Error 503: Service Unavailable\n")
    plain, retrying = columns(out)
    assert ("10", "10", "0") == (plain["lost"], plain["attempts"], plain["retries"])
    assert "10" == retrying["lost"]
    assert int(retrying["attempts"]) > 0  # the others waited for the service until time was up


def test_a_process_that_is_killed_delivers_everything() -> None:
    """What it had accepted is in its journal, and the next one goes on; the ledger shows it (J1, J2)."""
    options = ("--kill", "--calls", "30", "--workers", "3", "--failures", "0.3", "--outage", "0.1")
    status, out, err = run(*options)
    assert (0, "") == (status, err)
    assert "\nThe process that delivers them is killed 5 times.\n\n" in out
    assert out.endswith("\n\nEvery webhook that was accepted is delivered, and the journal is empty.\n")
    cells = dict(re.split(r" {2,}", row) for row in out.split("\n\n")[1].splitlines()[2:])
    assert ("30", "30", "0") == (
        cells["accepted"],
        cells["delivered (by the service's ledger)"],
        cells["lost"],
    )
    assert 5 >= int(cells["times that the process was killed"]) > 0  # it may end before the last is due
    assert 5 * 3 >= int(cells["delivered twice"])  # only what ran at that moment is delivered again
    assert "0" == cells["files left in the journal"]


def test_a_process_says_what_it_accepts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that comes after it submits the rest only (J1)."""
    scenario = parse(["--calls", "10", "--failures", "0", "--outage", "0"])
    service = Service(scenario)
    with service.running() as url:
        worker.main([json.dumps(asdict(scenario)), str(tmp_path / "journal"), url, "7"])
    assert {"webhook-7", "webhook-8", "webhook-9"} == service.ledger
    assert ("...", "") == capsys.readouterr()


def test_a_killed_process_that_does_not_deliver_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    """When there was no more time, the status is 1, and what is missing is counted."""
    assert 1 == main([*SMALL, "--kill", "--failures", "1", "--max-elapsed", "0"])
    out, err = capsys.readouterr()
    assert "" == err
    assert re.search(r"\n10 webhooks were not delivered; \d files are left in the journal\.\n$", out)


def test_a_client_that_is_killed_is_no_error_of_the_service(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is shown of that; other errors are."""
    service = Service(parse(["--outage", "0"]))
    with service.running() as url:
        host, port = url.split("/")[2].split(":")
        for head in (b"Idempotency-Key: 1\r\nContent-Length: 0", b"X: y"):
            with socket.create_connection((host, int(port)), TIMEOUT) as client:
                client.sendall(b"POST / HTTP/1.1\r\n" + head + b"\r\n\r\n")
                if head != b"X: y":  # the connection is reset when it is closed
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    assert b"" == client.recv(1)
    err = capsys.readouterr().err
    assert 1 == err.count("Traceback")
    assert "TypeError" in err


def test_a_webhook_that_was_never_tried_is_lost_for_want_of_time() -> None:
    """While the service is held, calls wait, and have no error (U5)."""
    nothing = webhooks.Report(0, 3, 0, 0, 0.0, 0, 0, [])
    assert "The RetryingExecutor lost 3 webhooks; there was no more time" == report.verdict(nothing)


@pytest.mark.parametrize(
    ("option", "allowed", "values"),
    [
        ("--calls", "an integer from 10 to 2000", ["9", "2001", "1e2", "many"]),
        ("--workers", "an integer from 1 to 64", ["0", "65", "-1", ""]),
        ("--seed", "an integer from 0 to 4294967295", ["-1", "4294967296", "0.5"]),
        ("--failures", "a number from 0 to 1", ["-0.1", "1.1", "nan", "20%"]),
        ("--outage", "a number from 0 to 30", ["-1", "30.5", "inf", "2s"]),
        ("--max-elapsed", "a number from 0 to 3600", ["-1", "3601", "nan", "x\ny"]),
    ],
)
def test_a_wrong_value_is_named_in_one_line(
    option: str, allowed: str, values: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The line says which option, which value, and what is allowed; the status is 2."""
    line = f"python -m retrying_executor: argument {option}: must be {allowed}, not "
    for value in values:
        with pytest.raises(SystemExit, match="2"):
            main([option, value])
        assert ("", f"{line}{value!r}\n") == capsys.readouterr()


def test_an_unknown_option_is_named_in_one_line() -> None:
    """The status is 2, as for a wrong value."""
    assert (2, "", "python -m retrying_executor: unrecognized arguments: --call\n") == run("--call")


def test_it_tells_its_version() -> None:
    """That of the package that is installed."""
    assert (0, f"retrying-executor {__version__}\n", "") == run("--version")


def test_help_explains_every_option() -> None:
    """Each option is there with its range and its default, and so are the exit statuses."""
    status, out, err = run("--help")
    assert (0, "") == (status, err)
    text = " ".join(out.split())
    options = vars(parse([]))
    assert options.pop("kill") is False
    assert "--kill instead, deliver with a journal in a process that is killed 5 times" in text
    for name, default in options.items():
        assert re.search(rf"--{name.replace('_', '-')} N [^;]+; \d+ to \d+, default {default}", text)
    assert "Exit status: 0 " in text


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal: the ends to read what is shown, and to be written to by a child process."""
    pty = pytest.importorskip("pty", reason="there are no pseudo-terminals on Windows")
    screen, inside = pty.openpty()
    yield screen, inside
    os.close(screen)


@pytest.fixture
def _sigint_is_not_ignored() -> Iterator[None]:
    """A child process ignores the signals that its parent ignores, as shells make background jobs do."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@contextmanager
def started(inside: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command in the terminal, which is 60 columns wide, and see that it is gone in the end."""
    environment = {**os.environ, "COLUMNS": "60"}
    command = [*COMMAND, *options]
    with subprocess.Popen(command, stdout=inside, stderr=subprocess.PIPE, env=environment) as process:
        os.close(inside)
        try:
            yield process
        finally:
            process.kill()


def read(screen: int) -> bytes:
    """Return what is shown next; nothing when the command has ended."""
    assert select.select([screen], [], [], TIMEOUT)[0]
    with suppress(OSError):  # how Linux says that there is no other end any more
        return os.read(screen, 65536)
    return b""


def test_a_terminal_shows_a_line_that_lives(terminal: tuple[int, int]) -> None:
    """It is rewritten in place, within the width of the terminal, and blank in the end."""
    screen, inside = terminal
    with started(inside, *SMALL) as process:
        shown = b"".join(iter(partial(read, screen), b"")).decode("ascii").replace("\r\n", "\n")
        assert b"" == process.communicate(timeout=TIMEOUT)[1]
    assert 0 == process.returncode
    _, *lines, rest = [line for line in shown.split("\r") if line]
    assert {59} == {len(line) for line in lines}
    names = [line.split(" [")[0].strip() for line in lines]
    assert ["ThreadPoolExecutor", "", "RetryingExecutor"] == list(dict.fromkeys(names))
    assert "" == names[-1]
    assert rest.startswith(" ")  # the head of the table


@pytest.mark.usefixtures("_sigint_is_not_ignored")
def test_ctrl_c_ends_it_at_once(terminal: tuple[int, int]) -> None:
    """With calls in backoff for an hour to come: one line, status 130 (F2)."""
    screen, inside = terminal
    with started(inside, *SMALL, "--failures", "1", "--max-elapsed", "3600") as process:
        assert next(shown for shown in iter(partial(read, screen), b"") if b"RetryingExecutor" in shown)
        process.send_signal(signal.SIGINT)
        last = b"".join(iter(partial(read, screen), b"")).decode("ascii")
        assert b"interrupted\n" == process.communicate(timeout=TIMEOUT)[1]
    assert 130 == process.returncode
    assert last.endswith(" \r")  # the progress line is gone


def test_the_service_is_down_in_the_middle() -> None:
    """From the outage on, which begins when a third is accepted, connections are refused."""
    service = Service(parse(["--calls", "30", "--failures", "0", "--outage", "30"]))
    with service.running() as url:
        with pytest.raises(OSError, match=r"refused|reset|closed"):
            list(map(deliver, repeat(url), map(str, range(30))))
        with pytest.raises(URLError) as refused:
            deliver(url, "one more")
    assert isinstance(refused.value.reason, ConnectionRefusedError)
    assert 10 <= len(service.ledger) <= 12  # the last connection may have been open already


def test_the_same_seed_makes_the_same_service() -> None:
    """What a request gets depends on the seed, the webhook and how often it came, and on nothing else."""
    first, second = (Service(parse(["--seed", "7", "--failures", "0.5"])) for _ in range(2))
    requests = [f"webhook-{number}" for number in (1, 2, 3, 4) * 3]
    answers = [first.receive(webhook_id) for webhook_id in requests]
    assert {HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE} == set(answers)
    in_another_order = {
        webhook_id: [second.receive(webhook_id) for _ in range(3)] for webhook_id in requests[:4]
    }
    assert in_another_order == {
        webhook_id: answers[index::4] for index, webhook_id in enumerate(requests[:4])
    }


def test_without_failures_and_outage_nothing_is_lost() -> None:
    """Then both executors deliver everything, and the introduction says why."""
    status, out, err = run("--calls", "10", "--workers", "4", "--failures", "0", "--outage", "0")
    assert (0, "") == (status, err)
    assert "and is never down" in out
    assert re.search(r"^lost +0 +0$", out, re.MULTILINE)
