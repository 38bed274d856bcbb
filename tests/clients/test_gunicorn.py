"""gunicorn imports an application once with --preload, and then forks its workers."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from conftest import TIMEOUT
from observe import eventually

pytest.importorskip("gunicorn", reason="gunicorn is not installed, or this is Windows, where it does not run")


@contextmanager
def serving(app: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Serve *app* by two workers on a port of the system's choice; yield the master and the port."""
    options = ["--preload", "--workers=2", "--bind=127.0.0.1:0", f"--chdir={Path(__file__).parent}"]
    command = [sys.executable, "-m", "gunicorn", *options, app]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8") as master:
        try:
            assert master.stderr is not None
            found = (re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", line) for line in master.stderr)
            yield master, int(next(match for match in found if match)[1])
        finally:
            master.kill()


def get(port: int) -> list[int]:
    """Ask the server, and return the numbers that it answers with."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    connection.request("GET", "/")
    with connection.getresponse() as response:
        assert 200 == response.status
        answer = response.read()
    connection.close()
    return [int(number) for number in answer.split()]


def test_executor_made_before_the_fork_works_in_every_worker() -> None:
    """With --preload each worker's calls run in that worker, and all ends in peace (F4, F6)."""
    runners = set()

    def both_have_answered() -> bool:
        importer, runner = get(port)
        assert master.pid == importer
        runners.add(runner)
        return len(runners) == 2

    with serving("preloaded:app") as (master, port):
        assert eventually(both_have_answered)
        assert master.pid not in runners
        master.terminate()
        log = master.communicate(timeout=TIMEOUT)[1]
    assert 0 == master.returncode, log
