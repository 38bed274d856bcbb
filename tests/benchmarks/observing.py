"""What it costs to look at futures: whoever looks needs what a future can do without otherwise."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed, wait
from functools import partial
from typing import Any

from tests.benchmarks.contestants import OURS, STANDARD, Contestant
from tests.benchmarks.measuring import Line, Scale, Target, against_first, rounds
from tests.benchmarks.throughput import busy, nothing

Futures = Sequence["Future[Any]"]
WORKERS = 4


def by_as_completed(futures: Futures) -> None:
    for future in as_completed(futures):
        future.result()


def by_wait(futures: Futures) -> None:
    done, _ = wait(futures)
    assert len(futures) == len(done)


def by_callbacks(futures: Futures) -> None:
    last, all_called = len(futures), threading.Event()
    number = itertools.count(1).__next__

    def called(_: Future[Any]) -> None:
        if number() == last:
            all_called.set()

    for future in futures:
        future.add_done_callback(called)
    all_called.wait()


def by_wrap_future(futures: Futures) -> None:
    async def gather() -> None:
        await asyncio.gather(*map(asyncio.wrap_future, futures))

    asyncio.run(gather())


WAYS: dict[str, Callable[[Futures], None]] = {
    "as_completed": by_as_completed,
    "wait": by_wait,
    "callbacks": by_callbacks,
    "wrap_future": by_wrap_future,
}


def observed(scale: Scale, target: Target) -> Iterator[Line]:
    """Submit calls and look at all of them; once as it comes, and once with the calls submitted before."""
    count = scale.size(20_000, 1_000)
    samples = {"with submit()": _all, "submitted before": _observing}
    for (name, observe), (circumstance, sample) in itertools.product(WAYS.items(), samples.items()):
        samplers = {one.name: partial(sample, one, count, observe) for one in (STANDARD, OURS)}
        case = f"{name}, {circumstance}; {count:,} calls, {WORKERS} workers"
        yield from against_first(rounds(samplers, scale.pairs), case=case, target=target)


def _all(contestant: Contestant, count: int, observe: Callable[[Futures], None]) -> float:
    """Return the seconds for each call."""
    with contestant.executor(WORKERS) as executor:
        began_at = time.perf_counter()
        futures = [executor.submit(nothing) for _ in range(count)]
        observe(futures)
        return (time.perf_counter() - began_at) / count


def _observing(contestant: Contestant, count: int, observe: Callable[[Futures], None]) -> float:
    """Return the seconds for each call, from when all of them are queued and the workers are let go."""
    with busy(contestant, WORKERS) as (executor, release):
        futures = [executor.submit(nothing) for _ in range(count)]
        began_at = time.perf_counter()
        release()
        observe(futures)
        return (time.perf_counter() - began_at) / count
