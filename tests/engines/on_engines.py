"""What programs do with an engine of somebody else's; each is a process of its own, as engines want it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from clusters import PATHS, Factory, Tally, check_what_calls_raise, kill_worker, submit_all, twice
from conftest import TIMEOUT
from retrying_executor import AttemptLostError, RetryingExecutor
from retrying_executor.engines import Shared

LOST_ONE = "all calls are done: 1 attempt was lost, and no engine was made anew\n"


def lose_a_worker(make: Callable[[], Executor], *lost: type[BaseException]) -> None:
    """Make calls, kill the worker of one of them, and look what they come to; print what was seen."""
    factory, tally, started = Factory(make), Tally(), Path("started").absolute()
    with RetryingExecutor(4, retry=tally, engine=Shared(factory, lost=lost)) as executor:
        futures = submit_all(executor, started)
        kill_worker(started)
        tally.check(futures)
        assert 2 == futures[0].result()
    assert (1, 1) == (tally.raised[AttemptLostError], factory.made)
    sys.stdout.write(LOST_ONE)


def raise_anything(make: Callable[[], Executor]) -> None:
    """Make calls that raise what engines cannot deal with."""
    factory = Factory(make)
    with RetryingExecutor(4, retry=twice, engine=Shared(factory)) as executor:
        check_what_calls_raise(executor)
    assert 1 == factory.made


def run(program: str, directory: Path, *before: str) -> str:
    """Run a program; return what it has printed.

    Args:
        program: What Python runs.
        directory: Where.
        before: What is put before the name of its file, instead of the name of this Python.
    """
    (directory / "program.py").write_text(textwrap.dedent(program), "utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([PATHS, str(Path(__file__).parent)]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",  # as in a container
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment.pop("PYTHONWARNDEFAULTENCODING", None)
    with (directory / "errors").open("w+", encoding="utf-8", errors="replace") as errors:
        done = subprocess.run(
            [*(before or [sys.executable]), "program.py"],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,  # a file, which processes that stay behind cannot keep open for us
            text=True,
            encoding="utf-8",
            timeout=4 * TIMEOUT,  # a cluster is started, and takes its time
            check=False,
        )
        errors.seek(0)
        assert 0 == done.returncode, errors.read()
    return done.stdout
