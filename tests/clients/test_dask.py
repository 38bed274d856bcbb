"""dask's threaded scheduler submits to any executor, and reads how many workers it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flaky import fails_once

from retrying_executor import RetryingExecutor, RetryPolicy

dask = pytest.importorskip("dask", reason="dask is not installed")
threaded = pytest.importorskip("dask.threaded", reason="dask is not installed")


def has_failed(batch: Any) -> bool:
    """Whether a task failed: dask returns a list of keys, results, and whether they are exceptions."""
    return any(failed for _, _, failed in batch)


@pytest.fixture
def executor(policy: RetryPolicy) -> Iterator[RetryingExecutor]:
    """An executor that understands how dask reports failures."""
    with RetryingExecutor(4, retry=policy.replace(retry_result=has_failed)) as executor:
        yield executor


def test_configured_pool_computes_and_retries(executor: RetryingExecutor) -> None:
    """``dask.config.set(pool=...)`` computes in the executor, by its policy (A5, B1)."""
    flaky = dask.delayed(fails_once(abs))
    with dask.config.set(pool=executor):
        assert (10,) == dask.compute(dask.delayed(sum)([flaky(-n) for n in range(5)]), scheduler="threads")
    assert 5 == executor.stats().retried


def test_pool_argument_computes(executor: RetryingExecutor) -> None:
    """So does the ``pool`` of ``dask.threaded.get`` (A5)."""
    assert 3 == threaded.get({"x": 1, "y": (abs, -3)}, "y", pool=executor)
    assert executor.stats().succeeded


def test_last_failure_is_the_one_of_the_task(executor: RetryingExecutor) -> None:
    """When no attempt is left, dask raises what the task raised (A5, B3)."""
    with dask.config.set(pool=executor), pytest.raises(ZeroDivisionError):
        dask.compute(dask.delayed(divmod)(1, 0), scheduler="threads")
    assert 4 == executor.stats().retried
