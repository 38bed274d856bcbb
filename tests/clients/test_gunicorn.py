"""gunicorn imports an application once with --preload, and then forks its workers."""

from __future__ import annotations

import subprocess
from contextlib import AbstractContextManager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from conftest import TIMEOUT
from gunicorns import gunicorn
from observe import eventually

pytest.importorskip("gunicorn", reason="gunicorn is not installed, or this is Windows, where it does not run")


def serving(app: str) -> AbstractContextManager[tuple[subprocess.Popen[str], int]]:
    """Serve *app* by two workers; return what `gunicorn` does."""
    return gunicorn("--preload", "--workers=2", f"--chdir={Path(__file__).parent}", app)


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
