"""Waiting that is interrupted: by Ctrl-C, or by a signal handler that raises."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import pytest

from conftest import TIMEOUT
from observe import eventually
from retrying_executor import RetryingExecutor, RetryingFuture, Upstream
from retrying_executor._pool import Pool


@pytest.fixture
def executor() -> Iterator[RetryingExecutor]:
    with RetryingExecutor(1, retry=None) as executor:
        yield executor


@pytest.mark.parametrize("wait", [RetryingFuture.result, RetryingFuture.exception])
def test_others_get_the_result_that_an_interrupted_thread_has_waited_for(
    executor: RetryingExecutor, wait: Callable[[RetryingFuture[int]], object]
) -> None:
    """An interrupted wait hangs nobody else who waits for the same call (F9)."""
    go = threading.Event()

    def call() -> int:
        assert go.wait(TIMEOUT)
        _thread.interrupt_main()
        return 1

    future = executor.submit(call)
    with ThreadPoolExecutor(3) as others:
        results = [others.submit(future.result, TIMEOUT) for _ in range(3)]
        assert eventually(lambda: len(future.__dict__.get("_latches", ())) == 3)
        go.set()
        with pytest.raises(KeyboardInterrupt):  # while it waits, or right after
            raise AssertionError((wait(future), eventually(lambda: False)))
        assert [1, 1, 1] == [result.result(TIMEOUT) for result in results]
    assert eventually(lambda: not future.__dict__["_latches"])


def test_calls_that_are_held_start_after_an_interrupted_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that is kept for an executor which never learned of it is given to another (F9, G1)."""
    look_again = Pool.look_again

    def interrupted(pool: Pool, upstream: Upstream, opens_at: float) -> NoReturn:
        monkeypatch.setattr(Pool, "look_again", look_again)
        raise KeyboardInterrupt

    service = Upstream("service")
    service.pause()
    with RetryingExecutor(1, upstream=service) as one, RetryingExecutor(1, upstream=service) as other:
        futures = [executor.submit(int) for executor in (one, other)]
        assert eventually(lambda: one.stats().held == other.stats().held == 1)
        monkeypatch.setattr(Pool, "look_again", interrupted)
        with pytest.raises(KeyboardInterrupt):
            service.resume()
        assert [0, 0] == [future.result(TIMEOUT) for future in futures]
