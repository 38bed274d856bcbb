"""asyncio runs blocking calls in an executor, and asks for a ThreadPoolExecutor as its default."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest
from flaky import fails_once

from conftest import TIMEOUT
from observe import eventually
from retrying_executor import RetryingExecutor, RetryPolicy

request = ContextVar("request", default="none")


def test_run_in_executor_retries(executor: RetryingExecutor) -> None:
    """A coroutine awaits the outcome of the last attempt (A5)."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        result = await asyncio.wait_for(loop.run_in_executor(executor, fails_once(abs), -42), TIMEOUT)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(loop.run_in_executor(executor, divmod, 1, 0), TIMEOUT)
        return result

    assert 42 == asyncio.run(main())
    assert 5 == executor.stats().retried  # once, and four times in vain


def test_default_executor_retries_and_is_shut_down(policy: RetryPolicy) -> None:
    """set_default_executor() takes it, to_thread() uses it, and asyncio.run() ends it (A5, B11)."""
    executor = RetryingExecutor(2, retry=policy)

    async def main() -> str:
        asyncio.get_running_loop().set_default_executor(executor)
        request.set("42")
        return await asyncio.wait_for(asyncio.to_thread(fails_once(request.get)), TIMEOUT)

    assert "42" == asyncio.run(main())
    assert 1 == executor.stats().retried
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(int)


def test_view_runs_in_a_loop(executor: RetryingExecutor) -> None:
    """run_in_executor() takes a view too (A5, B9)."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(
                loop.run_in_executor(executor.with_options(max_attempts=1), fails_once(int)), TIMEOUT
            )

    asyncio.run(main())


def test_cancelled_task_cancels_the_call() -> None:
    """A task that is cancelled while its call is in backoff takes the call with it (A5, E1)."""

    async def main(executor: RetryingExecutor) -> None:
        failed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def fail() -> None:
            loop.call_soon_threadsafe(failed.set)
            raise ConnectionError

        waiter = loop.run_in_executor(executor, fail)
        await asyncio.wait_for(failed.wait(), TIMEOUT)
        assert await asyncio.to_thread(eventually, lambda: executor.stats().in_backoff)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    with RetryingExecutor(1, retry=RetryPolicy(delays=[600])) as executor:
        asyncio.run(main(executor))
        assert 1 == executor.stats().cancelled
