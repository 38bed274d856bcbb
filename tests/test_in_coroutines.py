"""What coroutine functions use of asyncio: it works in the loop of an executor as in any other (K1, K2)."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextvars import ContextVar

import pytest

from calls import Meeting
from conftest import TIMEOUT
from observe import eventually, threads_named
from retrying_executor import RetryingExecutor, RetryPolicy
from test_exit import started

NAME = "inside"

request = ContextVar("request", default="none")

needs_groups = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio has these since Python 3.11")


@needs_groups
def test_a_timeout_inside_is_a_failure_that_is_retried(executor: RetryingExecutor) -> None:
    """It cancels what the coroutine awaits, not the call (K1, U1)."""

    async def call() -> int:
        begun.append(1)
        async with asyncio.timeout(0.001):
            if len(begun) == 1:
                await asyncio.Event().wait()
        return 42

    begun: list[int] = []
    future = executor.submit(call)
    assert 42 == future.result(TIMEOUT)
    assert 2 == future.attempts


@needs_groups
def test_a_task_group_fails_as_a_group_of_exceptions(executor: RetryingExecutor) -> None:
    """One task fails, the others are cancelled, and the group is judged by what is in it (K1, U1)."""

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    async def fail() -> None:
        failures.append(1)
        if len(failures) < 3:
            raise ConnectionError

    async def call() -> None:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(wait())
            await asyncio.sleep(0)
            await group.create_task(fail())
            waiting.cancel()

    failures: list[int] = []
    cancelled: list[int] = []
    future = executor.submit(call)
    assert future.result(TIMEOUT) is None
    assert (3, 3) == (future.attempts, len(cancelled))


def test_blocking_work_goes_to_a_thread(executor: RetryingExecutor) -> None:
    """Of asyncio's own, with the context of the call; the thread ends with the executor (B11, K1)."""

    async def call() -> tuple[str, int]:
        request.set("42")
        return await asyncio.to_thread(request.get), await asyncio.to_thread(threading.get_ident)

    context, thread = executor.submit(call).result(TIMEOUT)
    assert "42" == context
    assert thread not in [one.ident for one in executor._core.crew.flights.threads()]


def test_a_subprocess_is_awaited() -> None:
    """Again and again, although the loop's thread is another one each time (K2)."""

    async def call() -> bytes:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print(42)", stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        return output

    with RetryingExecutor(1, NAME, idle_timeout=0) as executor:
        for _ in range(2):
            assert b"42" == executor.submit(call).result(TIMEOUT).strip()
            assert eventually(lambda: not threads_named(NAME))


class Numbers:
    """An asynchronous generator of numbers, and how it ended."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    async def generate(self) -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            try:
                await asyncio.sleep(0.001)
                self.ends.append("closed")
            except asyncio.CancelledError:
                self.ends.append("cancelled")
                raise

    async def first(self) -> int:
        self.kept = self.generate()
        return await self.kept.__anext__()

    def drop(self) -> None:
        del self.kept
        gc.collect()


def test_a_generator_that_is_left_unfinished_is_closed_at_the_end() -> None:
    """As asyncio.run() does (F1, K2)."""
    numbers = Numbers()
    with RetryingExecutor(1, NAME, idle_timeout=0) as executor:
        assert 1 == executor.submit(numbers.first).result(TIMEOUT)
    assert ["closed"] == numbers.ends


def test_a_generator_that_is_dropped_is_closed_by_the_next_thread() -> None:
    """Meanwhile the loop stands still, and closing it may have to wait for the network (K2)."""
    numbers, other = Numbers(), Numbers()
    with RetryingExecutor(1, NAME, idle_timeout=0) as executor:
        assert 1 == executor.submit(numbers.first).result(TIMEOUT)
        assert eventually(lambda: not threads_named(NAME))
        numbers.drop()
        assert [] == numbers.ends
        executor.submit(asyncio.sleep, 0.02).result(TIMEOUT)
        assert ["closed"] == numbers.ends
        assert 1 == executor.submit(other.first).result(TIMEOUT)


def test_a_generator_that_is_dropped_late_is_cancelled_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """As asyncio.run() cancels what is left: asyncio has nothing to complain of (F1, K2)."""
    numbers = Numbers()
    with caplog.at_level(logging.DEBUG), RetryingExecutor(1, NAME, idle_timeout=0) as executor:
        assert 1 == executor.submit(numbers.first).result(TIMEOUT)
        assert eventually(lambda: not threads_named(NAME))
        numbers.drop()
    gc.collect()
    assert ["cancelled"] == numbers.ends
    assert [] == [record.message for record in caplog.records if record.levelno > logging.DEBUG]


# -- many of them, and their end ------------------------------------------------------------------------


def test_thousands_run_at_a_time_in_one_thread() -> None:
    """As many as are allowed by default, and each is retried (K1)."""
    everybody, attempts, threads = Meeting(1000), Counter[int](), set[int]()

    async def call(number: int) -> int:
        threads.add(threading.get_ident())
        attempts[number] += 1
        if attempts[number] == 1:
            raise ConnectionError
        await everybody.all_are_here()
        return number

    with RetryingExecutor(2, NAME, retry=RetryPolicy(delays=(0,))) as executor:
        assert [*range(1000)] == [*executor.map(call, range(1000), timeout=TIMEOUT)]
        assert 3 >= len(threads_named(NAME))
    assert {2} == {*attempts.values()}
    assert 1 == len(threads)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_has_a_loop_of_its_own() -> None:
    """The parent's goes on (F6, K4)."""
    from forks import in_child

    begun = threading.Event()

    async def wait(release: asyncio.Event) -> int:
        begun.set()
        await release.wait()
        return 42

    async def make() -> asyncio.Event:
        return asyncio.Event()

    with RetryingExecutor(2, NAME) as executor:
        release = executor.submit(make).result(TIMEOUT)
        future = executor.submit(wait, release)
        assert begun.wait(TIMEOUT)

        def check() -> None:
            assert 1 == executor.submit(asyncio.sleep, 0, 1).result(TIMEOUT)
            executor.shutdown()

        in_child(check)
        executor.submit(release_it, release).result(TIMEOUT)
        assert 42 == future.result(TIMEOUT)


async def release_it(event: asyncio.Event) -> None:
    event.set()


def test_the_end_of_the_interpreter_waits_for_coroutines() -> None:
    """Retries included, and nothing is complained of (F4, K4)."""
    script = """
        import asyncio
        attempts = []
        async def call():
            attempts.append(1)
            await asyncio.sleep(0.01)
            if len(attempts) < 3:
                raise ConnectionError
            say("done")
        RetryingExecutor(retry=POLICY, idle_timeout=0).submit(call)
    """
    with started(script) as process:
        assert ("done\n", "") == process.communicate(timeout=TIMEOUT)
        assert 0 == process.returncode


# -- from another loop -------------------------------------------------------------------------------


async def add(a: int, b: int) -> int:
    """Add, after a failure."""
    await asyncio.sleep(0)
    failures.append(1)
    if len(failures) % 2:
        raise ConnectionError
    return a + b


failures: list[int] = []


def test_another_loop_awaits_the_call(executor: RetryingExecutor) -> None:
    """By asyncio.wrap_future(), and by run_in_executor(), unless asyncio refuses that itself (A5, K1)."""

    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        return (
            await asyncio.wait_for(asyncio.wrap_future(executor.submit(add, 40, 2)), TIMEOUT),
            await asyncio.wait_for(loop.run_in_executor(executor, add, 40, 2), TIMEOUT),  # type: ignore[arg-type]
        )

    assert (42, 42) == asyncio.run(main(), debug=False)
    assert 2 == executor.stats().retried
    with pytest.raises(TypeError, match="coroutines cannot be used with run_in_executor"):
        asyncio.run(main(), debug=True)


@pytest.mark.parametrize("way", ["wrap_future", "run_in_executor"])
def test_cancelling_what_awaits_cancels_the_coroutine(policy: RetryPolicy, way: str) -> None:
    """Its ``finally`` runs, and it is gone (A5, K3)."""

    async def call() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def main(executor: RetryingExecutor) -> None:
        if way == "wrap_future":
            waiter = asyncio.wrap_future(executor.submit(call))
        else:
            waiter = asyncio.get_running_loop().run_in_executor(executor, call)  # type: ignore[arg-type]
        assert await asyncio.to_thread(begun.wait, TIMEOUT)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert await asyncio.to_thread(ended.wait, TIMEOUT)

    begun, ended = threading.Event(), threading.Event()
    with RetryingExecutor(1, retry=policy) as executor:
        asyncio.run(main(executor))
        assert 1 == executor.stats().cancelled
