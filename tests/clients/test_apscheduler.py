"""APScheduler 3 runs its jobs in a pool, and shuts that down by a positional argument."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timezone
from queue import SimpleQueue
from typing import Any

import pytest
from flaky import fails_once

from conftest import TIMEOUT
from retrying_executor import RetryingExecutor, RetryPolicy

events = pytest.importorskip("apscheduler.events", reason="APScheduler 3 is not installed")
pool = pytest.importorskip("apscheduler.executors.pool", reason="APScheduler 3 is not installed")
background = pytest.importorskip("apscheduler.schedulers.background", reason="APScheduler 3 is not installed")


class RetryingPool(pool.BasePoolExecutor):  # type: ignore[misc, name-defined]  # known at run time only
    """The class that APScheduler wants to be derived from for a pool of one's own."""

    def __init__(self, executor: RetryingExecutor) -> None:
        super().__init__(executor)


def has_failed(events: list[Any]) -> bool:
    """APScheduler turns the exceptions of jobs into events."""
    return any(event.exception is not None for event in events)


def outcome_of(job: Callable[..., object], *args: object, executor: RetryingExecutor) -> Any:
    """Run a job at once, return the event with which it ends, and shut the scheduler down."""
    seen: SimpleQueue[Any] = SimpleQueue()
    scheduler = background.BackgroundScheduler(
        executors={"default": RetryingPool(executor)}, timezone=timezone.utc
    )
    scheduler.add_listener(seen.put, events.EVENT_JOB_EXECUTED | events.EVENT_JOB_ERROR)
    scheduler.add_job(job, args=args)
    scheduler.start()
    try:
        return seen.get(timeout=TIMEOUT)
    finally:
        scheduler.shutdown()


def test_jobs_are_retried(policy: RetryPolicy) -> None:
    """A job runs in the executor, by its policy, and the scheduler shuts that down (A5, B1)."""
    executor = RetryingExecutor(2, retry=policy.replace(retry_result=has_failed))
    event = outcome_of(fails_once(abs), -42, executor=executor)
    assert (42, None) == (event.retval, event.exception)
    assert 1 == executor.stats().retried
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(int)


def test_last_failure_is_reported(policy: RetryPolicy) -> None:
    """When no attempt is left, the scheduler tells its listeners what the job raised (A5, B3)."""
    executor = RetryingExecutor(2, retry=policy.replace(retry_result=has_failed))
    assert isinstance(outcome_of(divmod, 1, 0, executor=executor).exception, ZeroDivisionError)
    assert 4 == executor.stats().retried
