"""Coroutine functions: very many at a time, beside what else awaits them, with retries and without.

All of them may be in flight at a time, with everyone: limits are as high as there are calls. Of the others,
only tenacity and aqute retry; no call fails here.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

from tests.benchmarks.contestants import OURS, Backoff
from tests.benchmarks.measuring import Line, Scale, Target, in_fresh_process, rounds
from tests.benchmarks.memory import resident_bytes, traced_bytes

from retrying_executor import RetryingExecutor

DURATION = 0.05  # seconds
PATIENCE = 60.0  # seconds within which everything happens that is going to
GATHER = "asyncio.gather"
THREADSAFE = "run_coroutine_threadsafe"
TENACITY = "tenacity and a semaphore"
ONE_WORKER = f"{OURS.name}, 1 worker"

Function = Callable[[], Awaitable[object]]


def in_flight(scale: Scale, against_gather: Target, against_tenacity: Target) -> Iterator[Line]:
    """Await many coroutines at a time that do nothing but wait; from the first until all are done."""
    count = scale.size(10_000, 500)
    names, missing = _contestants()
    samples = rounds({name: partial(_seconds, names[name], count) for name in names}, scale.pairs)
    case = f"{count:,} awaits of {DURATION * 1e3:.0f} ms at a time"
    for baseline, contestants in ((GATHER, list(names)[1:]), (TENACITY, [OURS.name, ONE_WORKER])):
        if baseline not in names:
            continue
        for name in contestants:
            target = against_gather if baseline == GATHER else against_tenacity
            yield Line(
                case=case,
                contestant=name,
                unit="s",
                samples=samples[name],
                baseline=baseline,
                against=samples[baseline],
                target=target if name == OURS.name else None,
                note=missing if name == OURS.name else "",
            )


def memory(scale: Scale, by_python: Target, by_system: Target) -> Iterator[Line]:
    """What a call takes that is in flight, with its future and its coroutine, while as many others are."""
    resident_bytes()
    count = scale.size(10_000, 500)
    names, missing = _contestants()
    for how, used, target in (
        ("by tracemalloc", traced_bytes, by_python),
        ("resident", resident_bytes, by_system),
    ):
        samplers = {name: partial(in_fresh_process, _bytes_for_each, name, count, used) for name in names}
        for name, samples in rounds(samplers, scale.pairs, warm_up=False).items():
            yield Line(
                case=f"in flight, {how}; {count:,} calls",
                contestant=name,
                unit="bytes",
                samples=samples,
                better="less",
                target=target if name == OURS.name else None,
                note=missing if name == OURS.name else "",
            )


def cancelling(scale: Scale, target: Target) -> Iterator[Line]:
    """From ``cancel()`` of a call whose coroutine is waiting until its ``finally`` runs: the median."""
    count = scale.size(200, 10)
    samplers = {
        THREADSAFE: partial(_time_to_cancel, _running_loop, count),
        OURS.name: partial(_time_to_cancel, RetryingExecutor, count),
    }
    for name, samples in rounds(samplers, scale.pairs).items():
        yield Line(
            case=f"cancel() until finally; {count:,} calls, one at a time",
            contestant=name,
            unit="s",
            samples=samples,
            better="less",
            target=target if name == OURS.name else None,
        )


def threads(scale: Scale, target: Target) -> Iterator[Line]:
    """Look, while all are in flight, how many threads run an event loop, and how many there are in all."""
    count = scale.size(10_000, 500)
    for name in (OURS.name, ONE_WORKER):
        taken = [in_fresh_process(_threads, name, count) for _ in range(min(scale.pairs, 3))]
        for what, index, goal in (("threads with a loop", 0, target), ("threads in all", 1, None)):
            numbers = [float(sample[index]) for sample in taken]
            yield Line(f"{what}; {count:,} in flight", name, "", numbers, better="less", target=goal)


# -- who is measured -------------------------------------------------------------------------------


def _contestants() -> tuple[dict[str, Callable[[Function, int], None]], str]:
    """Return what makes a number of calls with each that is installed, and which are not."""
    others = {
        "tenacity": (TENACITY, _tenacity),
        "aiometer": ("aiometer", _aiometer),
        "aqute": ("aqute", _aqute),
    }
    missing = [module for module in others if not find_spec(module)]
    names: dict[str, Callable[[Function, int], None]] = {
        GATHER: _gather,
        OURS.name: partial(_ours, None),
        ONE_WORKER: partial(_ours, 1),
        THREADSAFE: _threadsafe,
    }
    names.update(name_and_run for module, name_and_run in others.items() if module not in missing)
    return names, f"not installed on this Python: {', '.join(missing)}" if missing else ""


def _gather(function: Function, count: int) -> None:
    async def gather() -> None:
        await asyncio.gather(*[function() for _ in range(count)])

    asyncio.run(gather())


def _ours(workers: int | None, function: Any, count: int) -> None:
    with RetryingExecutor(workers, max_coroutines=count) as executor:
        for future in [executor.submit(function) for _ in range(count)]:
            future.result()


def _threadsafe(function: Any, count: int) -> None:
    with _running_loop() as loop:
        for future in [loop.submit(function) for _ in range(count)]:
            future.result()


def _tenacity(function: Function, count: int) -> None:
    import tenacity

    backoff, semaphore = Backoff(), asyncio.Semaphore(count)
    retried = tenacity.retry(
        stop=tenacity.stop_after_attempt(backoff.attempts),
        wait=tenacity.wait_random_exponential(multiplier=backoff.first, max=backoff.longest),
        reraise=True,
    )(function)

    async def limited() -> None:
        async with semaphore:
            await retried()

    _gather(limited, count)


def _aiometer(function: Function, count: int) -> None:
    import aiometer

    asyncio.run(aiometer.run_all([function] * count, max_at_once=count))


def _aqute(function: Function, count: int) -> None:
    from aqute import Aqute

    async def handle(_: int) -> None:
        await function()

    backoff = Backoff()
    asyncio.run(Aqute(handle, count, retry_count=backoff.attempts - 1).process_all(range(count)))


class _Loop:
    """An event loop that runs in a thread, with ``submit()``, as one writes it by hand."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def submit(self, function: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(function(), self._loop)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def _running_loop() -> Iterator[_Loop]:
    loop = _Loop()
    try:
        yield loop
    finally:
        loop.close()


# -- samples ---------------------------------------------------------------------------------------


async def _wait() -> None:
    await asyncio.sleep(DURATION)


def _seconds(run: Callable[[Function, int], None], count: int) -> float:
    began_at = time.perf_counter()
    run(_wait, count)
    return time.perf_counter() - began_at


class _Formation:
    """A coroutine function whose calls wait for each other; the last one has a look before they go on."""

    def __init__(self, count: int, look: Callable[[], object]) -> None:
        self._missing = count
        self._look = look
        self._are_complete = asyncio.Event()
        self.seen: Any = None

    async def __call__(self) -> None:
        self._missing -= 1
        if not self._missing:
            self.seen = self._look()
            self._are_complete.set()
        await self._are_complete.wait()


def _bytes_for_each(name: str, count: int, used: Callable[[], int]) -> float:
    run = _contestants()[0][name]

    def look() -> int:
        gc.collect()
        return used()

    run(_Formation(10, look).__call__, 10)  # modules are imported, and the interpreter has warmed up
    before = look()
    formation = _Formation(count, look)
    run(formation.__call__, count)
    return float(formation.seen - before) / count


def _threads(name: str, count: int) -> tuple[int, int]:
    """Return how many threads run an event loop, and how many there are beside the main thread."""
    formation = _Formation(count, threading.enumerate)
    _contestants()[0][name](formation.__call__, count)
    names = [thread.name for thread in formation.seen]
    return sum(name.endswith("_loop") for name in names), len(names) - 1


def _time_to_cancel(make: Callable[[], Any], count: int) -> float:
    """Return the median, in seconds."""
    times = []
    with make() as executor:
        for _ in range(count):
            started, ended, ended_at = threading.Event(), threading.Event(), [0.0]

            async def call(started: Any = started, ended: Any = ended, ended_at: Any = ended_at) -> None:
                try:
                    started.set()
                    await asyncio.sleep(PATIENCE)
                finally:
                    ended_at[0] = time.perf_counter()
                    ended.set()

            future = executor.submit(call)
            if not started.wait(PATIENCE):
                raise AssertionError("a coroutine does not start")
            began_at = time.perf_counter()
            future.cancel()
            if not ended.wait(PATIENCE):
                raise AssertionError("a coroutine goes on that was cancelled")
            times.append(ended_at[0] - began_at)
    return statistics.median(times)
