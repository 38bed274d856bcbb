"""How tests fork, and what they check in the child.

Whatever is checked in a child is checked by `in_child`, which tells the parent what failed there,
and where a child hangs.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed, wait
from contextlib import contextmanager
from typing import Any

import pytest

from calls import Flaky
from conftest import TIMEOUT
from retrying_executor import ForkedFutureError, RetryingExecutor, RetryingFuture


def in_child(check: Callable[[], object], patience: float = TIMEOUT) -> None:
    """Fork, and assert that in the child *check* returns within *patience* seconds and raises nothing."""
    reader, writer = os.pipe()
    # Dumps the stacks of a child that hangs, in the hooks of the fork too, and then ends it.
    faulthandler.register(signal.SIGUSR1, writer, chain=True)
    child = os.fork()
    if child == 0:
        try:
            check()
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
            faulthandler.dump_traceback(writer)
        finally:
            os._exit(0)
    faulthandler.unregister(signal.SIGUSR1)
    os.close(writer)
    if not select.select([reader], [], [], patience)[0]:
        os.kill(child, signal.SIGUSR1)
    with open(reader, encoding="utf-8") as pipe:
        report = pipe.read()
    os.waitpid(child, 0)
    assert not report, f"in the child:\n{report}"


def check_executor_works(executor: RetryingExecutor) -> None:
    """In a child: it is empty, and calls get through, retries included."""
    assert 0 == executor.stats().submitted
    futures = [executor.submit(Flaky(failures)) for failures in (0, 2, 1)]
    assert [0, 2, 1] == [future.result(TIMEOUT) for future in futures]
    assert 1 == executor.with_options(max_elapsed=60).submit(Flaky(1)).result(TIMEOUT)
    assert executor.drain(TIMEOUT)
    assert (4, 4, 4) == (executor.stats().submitted, executor.stats().succeeded, executor.stats().retried)


def check_orphaned(*futures: RetryingFuture[Any]) -> None:
    """In a child: the futures have failed, whoever asks and however."""
    for future in futures:
        assert future.done()
        assert not future.cancel()
        assert isinstance(future.exception(0), ForkedFutureError)
        with pytest.raises(ForkedFutureError, match="belongs to the process"):
            future.result(0)
    assert set(futures) == wait(futures, 0).done
    assert set(futures) == set(as_completed(futures, 0))


@contextmanager
def held(executor: RetryingExecutor) -> Iterator[RetryingFuture[bool]]:
    """Keep one worker busy with a call; it must get through once it is let go."""
    started, release = threading.Event(), threading.Event()

    def call() -> bool:
        started.set()
        return release.wait(TIMEOUT)

    future = executor.submit(call)
    assert started.wait(TIMEOUT)
    try:
        yield future
    finally:
        release.set()
    assert future.result(TIMEOUT)
