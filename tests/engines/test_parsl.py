"""Attempts that run on Parsl, one of whose workers is killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from on_engines import LOST_ONE, run

pytest.importorskip("parsl", reason="Parsl is not installed")

PROGRAM = """
    from parsl.concurrent import ParslPoolExecutor
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost
    from parsl.providers import LocalProvider
    from on_engines import lose_a_worker, raise_anything

    def pool():
        block = LocalProvider(init_blocks=1, max_blocks=1)
        workers = HighThroughputExecutor(
            address="127.0.0.1",
            max_workers_per_node=2,
            cores_per_worker=0.001,  # two workers, however few cores there are
            encrypted=False,
            provider=block,
            heartbeat_period=1,  # after so many seconds it notices that a worker is gone
            heartbeat_threshold=10,
        )
        return ParslPoolExecutor(Config(executors=[workers], initialize_logging=False, strategy="none"))

    if __name__ == "__main__":
        raise_anything(pool)
        lose_a_worker(pool, WorkerLost, ManagerLost)
"""


def test_killed_worker_of_parsl_loses_one_attempt(tmp_path: Path) -> None:
    """Parsl goes on, and that attempt alone is made again; what calls raise ends no worker (L2, L3)."""
    assert LOST_ONE == run(PROGRAM, tmp_path)
