"""Coroutine functions in several executors of one process: each has an event loop and a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

from conftest import TIMEOUT
from retrying_executor import RetryingExecutor


async def answer() -> int:
    """Take a moment."""
    await asyncio.sleep(0)
    return 42


def test_one_loop_does_not_wait_for_another() -> None:
    """Whatever one thread is in the middle of, coroutines begin and end in the others (K1)."""
    entered, release = threading.Event(), threading.Event()

    def slow(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **more: Any) -> Any:
        entered.set()
        assert release.wait(TIMEOUT)
        return asyncio.Task(coroutine, loop=loop, **more)

    def slow_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_task_factory(slow)
        return loop

    with RetryingExecutor(1, loop_factory=slow_loop) as first, RetryingExecutor(1) as second:
        late = first.submit(answer)
        assert entered.wait(TIMEOUT)
        try:
            assert 42 == second.submit(answer).result(TIMEOUT)
        finally:
            release.set()
        assert 42 == late.result(TIMEOUT)
