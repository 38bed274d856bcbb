"""Forks while coroutines of calls run: the child starts empty, and the parent's event loop is undisturbed."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from conftest import TIMEOUT
from forks import check_executor_works, check_orphaned, in_child
from observe import eventually
from retrying_executor import RetryingExecutor, RetryingFuture, RetryPolicy

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows knows no fork")

AT_ONCE = 200
"""How many coroutines are in flight."""

FORKS = 20


async def echo(value: int) -> int:
    await asyncio.sleep(0)
    return value


def check_coroutines_work(executor: RetryingExecutor) -> None:
    """In a child: it runs coroutines in a loop of its own."""
    assert [1, 2, 3] == [executor.submit(echo, value).result(TIMEOUT) for value in (1, 2, 3)]


def from_main(_: RetryingExecutor, fork: Callable[[], None]) -> None:
    """Fork in this thread."""
    fork()


def from_coroutine(executor: RetryingExecutor, fork: Callable[[], None]) -> None:
    """Fork in a coroutine."""

    async def run() -> None:
        await asyncio.sleep(0)
        fork()

    executor.submit(run).result(TIMEOUT)


def from_worker(executor: RetryingExecutor, fork: Callable[[], None]) -> None:
    """Fork in a call of a plain function."""
    executor.submit(fork).result(TIMEOUT)


def from_done_callback(executor: RetryingExecutor, fork: Callable[[], None]) -> None:
    """Fork in the done callback of a coroutine."""
    told, release = threading.Event(), asyncio.Event()

    def callback(_: object) -> None:
        fork()
        told.set()

    async def wait_for_callback() -> None:
        await release.wait()

    future = executor.submit(wait_for_callback)
    future.add_done_callback(callback)
    executor.submit(set_soon, release).result(TIMEOUT)
    assert told.wait(TIMEOUT)


async def set_soon(event: asyncio.Event) -> None:
    event.set()


@pytest.mark.parametrize("place", [from_main, from_coroutine, from_worker, from_done_callback])
def test_fork_with_coroutines_in_flight(
    place: Callable[[RetryingExecutor, Callable[[], None]], None], policy: RetryPolicy
) -> None:
    """Wherever somebody forks: they have failed in the child, and go on in the parent (F6, K4)."""
    parent, ended = os.getpid(), []

    async def run(value: int) -> int:
        try:
            await release.wait()
        finally:
            assert parent == os.getpid()
            ended.append(value)
        return value

    def fork() -> None:
        in_child(check)

    def check() -> None:
        check_orphaned(*futures)
        check_executor_works(executor)
        check_coroutines_work(executor)
        gc.collect()
        assert executor.drain(TIMEOUT)
        executor.shutdown()
        assert not ended

    with RetryingExecutor(2, retry=policy, idle_timeout=0) as executor:
        release = executor.submit(new_event).result(TIMEOUT)
        futures = [executor.submit(run, value) for value in range(AT_ONCE)]
        assert eventually(lambda: executor.stats().running == AT_ONCE)
        place(executor, fork)
        check_coroutines_work(executor)  # the loop still wakes up when it is told something
        executor.submit(set_soon, release).result(TIMEOUT)
        assert list(range(AT_ONCE)) == [future.result(TIMEOUT) for future in futures]
    assert AT_ONCE == len(ended)


async def new_event() -> asyncio.Event:
    return asyncio.Event()


def test_fork_at_any_moment_of_the_loop(policy: RetryPolicy) -> None:
    """While its thread starts, runs or leaves; the child has a loop of its own (F6, K4)."""
    stop, failures = threading.Event(), []

    def load() -> None:
        try:
            while not stop.is_set():
                latest[:] = [executor.submit(echo, 1) for _ in range(5)]
                assert [1] * 5 == [future.result(TIMEOUT) for future in latest]
        except BaseException as error:
            failures.append(error)

    latest: list[RetryingFuture[Any]] = []
    with RetryingExecutor(2, retry=policy, idle_timeout=0) as executor:
        thread = threading.Thread(target=load)
        thread.start()
        for _ in range(FORKS):
            in_child(lambda: (check_executor_works(executor), check_coroutines_work(executor)))
        stop.set()
        thread.join(TIMEOUT)
        assert [] == failures
        check_coroutines_work(executor)


HOW_A_CHILD_ENDS = """
import asyncio, os, sys, threading
from retrying_executor import RetryingExecutor

where, how = sys.argv[1:]
patience = 30

async def echo(value):
    asyncio.get_running_loop().slow_callback_duration = patience  # in "dev" mode it warns of slow machines
    await asyncio.sleep(0)
    return value

async def run():
    await asyncio.sleep(0)
    return fork()

def fork():
    child = os.fork()
    if child == 0:
        assert executor.submit(echo, 7).result(patience) == 7
        if how == "exit":
            sys.exit(0)
        elif how == "at once":
            os._exit(0)
        elif how == "raise":
            raise ValueError
    return child

executor = RetryingExecutor(2, idle_timeout=0 if where == "gone" else 1)
assert executor.submit(echo, 1).result(patience) == 1
while where == "gone" and executor._core.crew.flights.threads():
    threading.Event().wait(0.001)
child = executor.submit(run).result(patience) if where == "coroutine" else fork()
if child:
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    assert executor.submit(echo, 2).result(patience) == 2  # its loop wakes up
"""


@pytest.mark.parametrize(
    ("where", "how"),
    [
        *[("coroutine", how) for how in ("exit", "at once", "raise", "return")],
        *[(where, how) for where in ("idle", "gone") for how in ("exit", "at once", "return")],
    ],
)
def test_however_a_child_ends_the_loop_of_the_parent_wakes_up(where: str, how: str) -> None:
    """The end of an interpreter does not close what it shares with its parent, and says nothing (F6, K4)."""
    options = ["-W", "default", "-W", "ignore::DeprecationWarning"]  # with -X dev, asyncio tells what is slow
    done = subprocess.run(
        [sys.executable, *options, "-c", HOW_A_CHILD_ENDS, where, how],
        capture_output=True,
        check=False,
        encoding="utf-8",
        timeout=2 * TIMEOUT,
    )
    assert (0, "") == (done.returncode, done.stderr)
