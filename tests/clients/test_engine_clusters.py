"""Attempts that run on loky, and on a cluster of dask: workers and the scheduler are killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import errands
from clusters import PATHS, Factory, Tally, check_what_calls_raise, kill_worker, submit_all, twice
from conftest import TIMEOUT
from observe import eventually
from retrying_executor import AttemptLostError, RetryingExecutor
from retrying_executor.engines import Shared

distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
loky = pytest.importorskip("loky", reason="loky is not installed")
psutil = pytest.importorskip("psutil", reason="psutil is not installed")

from distributed.scheduler import KilledWorker

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no sessions of processes to look at")

ENVIRONMENT = {**os.environ, "PYTHONPATH": PATHS}


@pytest.fixture
def tally() -> Tally:
    """A policy that counts."""
    return Tally()


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """Where the call that hangs says which process it hangs in."""
    return tmp_path / "started"


@contextmanager
def started_script(script: Path, text: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program in a session of its own, and see that nothing is left of it in the end."""
    script.write_text(textwrap.dedent(text), "utf-8")
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-W", "ignore::EncodingWarning", str(script)],
        cwd=script.parent,
        env=ENVIRONMENT,
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()
    assert eventually(lambda: [] == processes_of_session(process.pid))


def processes_of_session(session: int) -> list[int]:
    """Return the processes that a program has started, directly or not, and that are alive."""
    return [process.pid for process in psutil.process_iter() if is_alive_in(process, session)]


def is_alive_in(process: psutil.Process, session: int) -> bool:
    """Tell whether a process is of that session, and alive."""
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):  # pragma: no cover  # it has ended just now
        return False


# -- loky --------------------------------------------------------------------------------------------


@pytest.fixture
def pool_of_loky() -> Iterator[Factory]:
    """Pools of two processes, of which none is left in the end."""
    with loky.ProcessPoolExecutor(1) as pool:  # starts what loky has until the interpreter ends
        pool.submit(int).result(TIMEOUT)
    this = psutil.Process()
    assert eventually(lambda: len(this.children()) <= 2)
    before = set(this.children(recursive=True))
    yield Factory(lambda: loky.ProcessPoolExecutor(2))
    eventually(lambda: before.issuperset(this.children(recursive=True)))
    assert set() == set(this.children(recursive=True)) - before


def test_killed_worker_of_loky_loses_no_call(pool_of_loky: Factory, tally: Tally, started: Path) -> None:
    """The pool breaks and is made anew; attempts that it ran are made again, and count (L2, L3)."""
    with RetryingExecutor(4, retry=tally, engine=Shared(pool_of_loky)) as executor:
        futures = submit_all(executor, started)
        kill_worker(started)
        tally.check(futures)
    assert 2 == futures[0].result()
    assert 2 == pool_of_loky.made
    assert 1 <= tally.raised[AttemptLostError] <= 4


def test_calls_on_loky_may_raise_anything(pool_of_loky: Factory) -> None:
    """What calls raise breaks no pool (L3)."""
    with RetryingExecutor(4, retry=twice, engine=Shared(pool_of_loky)) as executor:
        check_what_calls_raise(executor)
    assert 1 == pool_of_loky.made


# -- dask.distributed ----------------------------------------------------------------------------------


CLUSTER = """
    import sys
    from distributed import LocalCluster

    if __name__ == "__main__":
        with LocalCluster(2, threads_per_worker=1, dashboard_address=":0") as cluster:
            sys.stdout.write(cluster.scheduler_address + "\\n")
            sys.stdout.flush()
            sys.stdin.read()
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of a cluster of two workers, which ends in peace; threads of the client have started.

    The cluster has a process of its own: for every worker that dies, it has other threads.
    """
    script = tmp_path_factory.mktemp("cluster") / "cluster.py"
    with started_script(script, CLUSTER) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with distributed.Client(process.stdout.readline().strip(), set_as_default=False) as client:
            client.submit(abs, -1).result(TIMEOUT)
            yield client
        output, errors = process.communicate(timeout=TIMEOUT)
    assert (0, "") == (process.returncode, output), errors


@pytest.fixture
def dask(client: Any) -> Factory:
    """What connects to the cluster."""
    return Factory(lambda: client.get_executor(pure=False))


def test_calls_on_dask_may_raise_anything(dask: Factory) -> None:
    """What calls raise ends no worker (L3)."""
    with RetryingExecutor(4, retry=twice, engine=Shared(dask)) as executor:
        check_what_calls_raise(executor)
    assert 1 == dask.made


def test_dask_makes_lost_calls_again(dask: Factory, tally: Tally, started: Path) -> None:
    """As long as dask itself has a call of a killed worker made again, no attempt is lost here (L3)."""
    with RetryingExecutor(4, retry=tally, engine=Shared(dask)) as executor:
        futures = submit_all(executor, started)
        kill_worker(started)
        tally.check(futures)
    assert 1 == futures[0].result()
    assert 1 == dask.made
    assert 0 == tally.raised[AttemptLostError]


def test_killed_worker_of_dask_loses_one_attempt(
    client: Any, dask: Factory, tally: Tally, started: Path
) -> None:
    """Of an exception given as ``lost=`` no engine breaks: that attempt alone is made again (L2, L3)."""
    before = client.run_on_scheduler(errands.allow_failures, 0)
    with RetryingExecutor(4, retry=tally, engine=Shared(dask, lost=KilledWorker)) as executor:
        futures = submit_all(executor, started)
        kill_worker(started)
        tally.check(futures)
    assert 0 == client.run_on_scheduler(errands.allow_failures, before)
    assert 2 == futures[0].result()
    assert 1 == dask.made
    assert 1 <= tally.raised[AttemptLostError] <= 4


class OnDask(Executor):
    """Connects to the scheduler at an address; disconnects when it is shut down."""

    def __init__(self, address: str) -> None:
        self._client = distributed.Client(address, set_as_default=False)
        self._executor = self._client.get_executor(pure=False)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = self._executor.submit(fn, *args, **kwargs)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._client.close()


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of dask, and see that it is gone in the end."""
    arguments = [sys.executable, "-m", "dask", *command, "--dashboard-address", ":0"]
    # Without variables of coverage: it is killed.
    environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("COVERAGE_")}
    with subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def test_killed_scheduler_of_dask_loses_no_call(tally: Tally, started: Path, client: Any) -> None:
    """When scheduler and workers are back, the calls go on; only attempts are lost (L2, L3)."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    scheduler = ("scheduler", "--host", "127.0.0.1", "--port", str(port))
    worker = ("worker", address, "--no-nanny", "--nthreads", "2")
    dask = Factory(lambda: OnDask(address))
    with RetryingExecutor(4, retry=tally, engine=Shared(dask)) as executor, running(*worker):
        with running(*scheduler):
            futures = submit_all(executor, started)
            assert eventually(started.exists)  # and so both work
        with running(*scheduler), running(*worker):
            tally.check(futures)
            executor.shutdown()
    assert 2 == futures[0].result()
    assert 2 <= dask.made
    assert tally.raised[AttemptLostError]


# -- the end of the interpreter --------------------------------------------------------------------------

SCRIPT = """
    import sys
    import errands
    from distributed import Client
    from loky import ProcessPoolExecutor
    from retrying_executor import RetryingExecutor, RetryPolicy
    from retrying_executor.engines import Shared

    def say(future):
        sys.stdout.write(f"{future.attempts} {future.result()}\\n")  # in one piece, from whatever thread

    if __name__ == "__main__":
        FACTORY
        executor = RetryingExecutor(4, retry=RetryPolicy(delays=(0.05,) * 4), engine=Shared(factory))
        for number in range(20):
            executor.submit(errands.fail_until, f"counter {number}", 1).add_done_callback(say)
"""
FACTORIES = {
    "loky": "factory = lambda: ProcessPoolExecutor(2)",
    "dask": 'factory = Client(n_workers=2, threads_per_worker=1, dashboard_address=":0").get_executor',
}


@pytest.mark.parametrize("engine", FACTORIES)
def test_interpreter_ends_when_every_call_has_its_outcome(engine: str, tmp_path: Path) -> None:
    """Calls that are pending when the script has run to its end are made, and no process stays (F4, L2)."""
    with started_script(tmp_path / "script.py", SCRIPT.replace("FACTORY", FACTORIES[engine])) as process:
        output, errors = process.communicate(timeout=TIMEOUT)
    assert (0, ["2 2"] * 20) == (process.returncode, output.splitlines()), errors
