"""tornado runs blocking calls in a default executor, or in one of the object whose method is called."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from flaky import fails_once

from conftest import TIMEOUT
from retrying_executor import RetryingExecutor, RetryPolicy

concurrent = pytest.importorskip("tornado.concurrent", reason="tornado is not installed")
ioloop = pytest.importorskip("tornado.ioloop", reason="tornado is not installed")


def test_default_executor_retries(policy: RetryPolicy) -> None:
    """``IOLoop.set_default_executor`` takes it, and what runs in it is retried (A5)."""
    executor = RetryingExecutor(2, retry=policy)

    async def main() -> Any:
        loop = ioloop.IOLoop.current()
        loop.set_default_executor(executor)
        return await asyncio.wait_for(loop.run_in_executor(None, fails_once(abs), -42), TIMEOUT)

    assert 42 == asyncio.run(main())
    assert 1 == executor.stats().retried
    executor.shutdown()


def test_run_on_executor_retries(executor: RetryingExecutor) -> None:
    """``run_on_executor`` submits methods to the executor of their object (A5)."""

    class Service:
        def __init__(self) -> None:
            self.executor = executor
            self.connect = fails_once(abs)

        @concurrent.run_on_executor  # type: ignore[untyped-decorator]  # known at run time only
        def ask(self, number: int) -> int:
            result: int = self.connect(number)
            return result

    async def main() -> Any:
        return await asyncio.wait_for(Service().ask(-42), TIMEOUT)

    assert 42 == asyncio.run(main())
    assert 1 == executor.stats().retried
