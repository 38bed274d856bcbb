"""How long one call takes there and back."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from functools import partial

from tests.benchmarks.contestants import OURS, STANDARD, Contestant
from tests.benchmarks.measuring import Line, Scale, Target, against_first, in_fresh_process, rounds
from tests.benchmarks.throughput import nothing

FAST = 40e-6  # seconds; where the standard executor takes longer, most of it is the waking of a core


def round_trip(scale: Scale, target: Target) -> Iterator[Line]:
    """Submit one call at a time to a resting worker and wait for its result."""
    for pinned in (True, False) if hasattr(os, "sched_setaffinity") else (False,):
        samples = in_fresh_process(_all_round_trips, scale, pinned)
        standard = statistics.median(samples[STANDARD.name])
        is_fast = standard < FAST
        note = "" if is_fast else f"no target: the standard executor takes {FAST * 1e6:.0f} us or more"
        yield from against_first(
            samples,
            case="on one core; median" if pinned else "on any core; median",
            target=target if is_fast else None,
            notes={OURS.name: note},
        )


def _all_round_trips(scale: Scale, pinned: bool) -> dict[str, list[float]]:
    if pinned:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    count = scale.size(10_000, 500)
    return rounds({one.name: partial(_round_trip, one, count) for one in (STANDARD, OURS)}, scale.pairs)


def _round_trip(contestant: Contestant, count: int) -> float:
    """Return the median of *count* round trips, in seconds."""
    took = []
    with contestant.executor(1) as executor:
        executor.submit(nothing).result()
        for _ in range(count):
            began_at = time.perf_counter()
            executor.submit(nothing).result()
            took.append(time.perf_counter() - began_at)
    return statistics.median(took)
