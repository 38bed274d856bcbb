"""Attempts that run on MPI: in the other processes of a program that ``mpiexec`` has started.

None is killed: as MPI wants it, all processes of a program end with the first one that dies.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from on_engines import run

pytest.importorskip("mpi4py", reason="mpi4py is not installed")

PROGRAM = """
    from pathlib import Path
    import errands
    from clusters import Tally, submit_all
    from mpi4py.futures import MPIPoolExecutor
    from retrying_executor import RetryingExecutor
    from retrying_executor.engines import Shared
    from on_engines import raise_anything

    if __name__ == "__main__":
        raise_anything(MPIPoolExecutor)
        started, tally = Path("started").absolute(), Tally()
        started.touch()  # so that no call hangs
        with RetryingExecutor(4, retry=tally, engine=Shared(MPIPoolExecutor)) as executor:
            tally.check(submit_all(executor, started))
            pids = {executor.submit(errands.pid).result() for _ in range(20)}
        print(tally.raised.total(), "have failed;", len(pids))
"""


@pytest.mark.parametrize("processes", [1, 3])
def test_attempts_run_on_mpi(processes: int, tmp_path: Path) -> None:
    """The first process has the executor, the others make attempts; alone, it has a thread (L2, L3)."""
    command = ("mpiexec", "-n", str(processes), "--oversubscribe", sys.executable, "-m", "mpi4py.futures")
    count, pids = run(PROGRAM, tmp_path, *command).split(" have failed;")
    assert "20" == count
    assert 1 <= int(pids) <= max(1, processes - 1)
