"""What each call costs while few are queued, and while very many are.

The more objects there are, the longer a full garbage collection takes. So submitting is measured with the
collector on, as in a program, and off.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from random import Random
from typing import Any

from tests.benchmarks.contestants import OURS, STANDARD, Contestant
from tests.benchmarks.measuring import Line, Scale, Target, in_fresh_process, rounds
from tests.benchmarks.throughput import busy, nothing, seconds_to_submit

SEED = 1
AT_LEAST = 20_000  # calls of which a cost is the mean, so that a few are measured as well as many

Costs = dict[str, dict[int, float]]
"""What is done, how many calls are queued, and the seconds for each."""


def growing(scale: Scale, target: Target, submit: Target, cancel: Target) -> Iterator[Line]:
    """Submit, run and cancel calls, and compare their cost in a long backlog with that in a short one.

    In the longest, compare it also with that of the standard executor.
    """
    sizes = (1_000, 4_000) if scale.is_quick else (1_000, 10_000, 100_000, 1_000_000)
    samplers = {one.name: partial(in_fresh_process, _costs, one.name, sizes) for one in (STANDARD, OURS)}
    samples = rounds(samplers, scale.pairs, warm_up=False)
    first, *others = sizes
    for what in samples[OURS.name][0]:
        for name, costs in samples.items():
            against = [cost[what][first] for cost in costs]
            for size in others:
                yield Line(
                    case=f"{what}, {size:,} queued",
                    contestant=name,
                    unit="s",
                    samples=[cost[what][size] for cost in costs],
                    baseline=f"{first:,} queued",
                    against=against,
                    better="less",
                    target=target if name == OURS.name and size == others[-1] else None,
                )
    for what, wanted in (("submit", submit), ("cancel in order", cancel), ("cancel in random order", cancel)):
        ours, standard = ([cost[what][sizes[-1]] for cost in samples[one.name]] for one in (OURS, STANDARD))
        yield Line(
            case=f"{what}, {sizes[-1]:,} queued, side by side",
            contestant=OURS.name,
            unit="s",
            samples=ours,
            baseline=STANDARD.name,
            against=standard,
            target=wanted,
        )


def _costs(name: str, sizes: Sequence[int]) -> Costs:
    contestant = OURS if name == OURS.name else STANDARD
    costs: Costs = {}
    for size in (sizes[0], *sizes):  # the first round is not counted
        times = max(1, AT_LEAST // size)
        samples = [_once(contestant, size) for _ in range(times)]
        for what in samples[0]:
            costs.setdefault(what, {})[size] = sum(sample[what] for sample in samples) / times
    return costs


def _once(contestant: Contestant, size: int) -> dict[str, float]:
    """Return the seconds for each call of all that is done."""
    with busy(contestant, 1) as (executor, release):
        began_at = time.perf_counter()
        futures = [executor.submit(nothing) for _ in range(size)]
        submitted_at = time.perf_counter()
        release()
        futures[-1].result()
        ran_at = time.perf_counter()
    gc.disable()
    try:
        uncollected = seconds_to_submit(contestant, size, 1)
    finally:
        gc.enable()
    in_order, in_random_order = (_cancel(contestant, size, shuffled) for shuffled in (False, True))
    return {
        "submit": (submitted_at - began_at) / size,
        "submit, garbage collector off": uncollected,
        "run": (ran_at - submitted_at) / size,
        "cancel in order": in_order,
        "cancel in random order": in_random_order,
    }


def _cancel(contestant: Contestant, size: int, shuffled: bool) -> float:
    with busy(contestant, 1) as (executor, _):
        futures: list[Future[Any]] = [executor.submit(nothing) for _ in range(size)]
        if shuffled:
            Random(SEED).shuffle(futures)
        began_at = time.perf_counter()
        for future in futures:
            future.cancel()
        elapsed = time.perf_counter() - began_at
    assert all(future.cancelled() for future in futures)
    return elapsed / size
