"""Attempts that run on Ray, one of whose workers is killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from on_engines import LOST_ONE, run

pytest.importorskip("ray", reason="Ray is not installed")

PROGRAM = """
    from concurrent.futures import Executor
    import ray
    from ray.exceptions import WorkerCrashedError
    from on_engines import lose_a_worker, raise_anything

    class OnRay(Executor):
        def submit(self, fn, /, *args, **kwargs):
            return ray.remote(max_retries=0)(fn).remote(*args, **kwargs).future()

        def shutdown(self, wait=True, *, cancel_futures=False):
            pass  # the cluster is not ours

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    raise_anything(OnRay)
    lose_a_worker(OnRay, WorkerCrashedError)
"""


def test_killed_worker_of_ray_loses_one_attempt(tmp_path: Path) -> None:
    """Ray goes on, and that attempt alone is made again; what calls raise ends no worker (L2, L3)."""
    assert LOST_ONE in run(PROGRAM, tmp_path)  # Ray prints something, too
