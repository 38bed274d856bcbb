"""What an `Upstream` costs while it does nothing: limits that nobody comes near, against none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from tests.benchmarks.contestants import Function
from tests.benchmarks.measuring import Line, Scale, Target, against_first, rounds
from tests.benchmarks.throughput import nothing

from retrying_executor import RetryingExecutor, Upstream

BRIEF = 0.001  # seconds


def not_binding(scale: Scale, target: Target) -> Iterator[Line]:
    """Submit calls and take their results, with an upstream and without."""
    for what, function, workers, count in (
        ("trivial calls", nothing, 4, scale.size(20_000, 1_000)),
        (f"calls of {BRIEF * 1e3:.0f} ms", partial(time.sleep, BRIEF), 16, scale.size(10_000, 500)),
    ):
        samplers = {
            "no upstream": partial(_submit_and_wait, function, workers, count, limited=False),
            "an upstream": partial(_submit_and_wait, function, workers, count, limited=True),
        }
        case = f"{what}, {workers} workers; {count:,} calls"
        yield from against_first(rounds(samplers, scale.pairs), case=case, target=target)


def _submit_and_wait(function: Function, workers: int, count: int, *, limited: bool) -> float:
    """Return the seconds for each call."""
    upstream = Upstream("service", max_concurrency=1_000, rate=(1_000_000, 1.0)) if limited else None
    with RetryingExecutor(workers, upstream=upstream) as executor:
        began_at = time.perf_counter()
        futures = [executor.submit(function) for _ in range(count)]
        for future in futures:
            future.result()
        return (time.perf_counter() - began_at) / count
