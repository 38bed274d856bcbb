"""What queued calls and upstreams occupy, in bytes: by Python's own account, and by that of the system."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

from tests.benchmarks.contestants import OURS, STANDARD
from tests.benchmarks.measuring import Line, NotPossible, Scale, Target, in_fresh_process, rounds
from tests.benchmarks.throughput import busy, nothing

from retrying_executor import RetryingExecutor, UpstreamFamily


def traced(scale: Scale, target: Target) -> Iterator[Line]:
    """What Python has allocated for each queued call, and its future."""
    return _lines(scale, target, traced_bytes)


def resident(scale: Scale, target: Target) -> Iterator[Line]:
    """By how much the process has grown for each queued call, and its future."""
    resident_bytes()
    return _lines(scale, target, resident_bytes)


def members(scale: Scale, by_python: Target, by_system: Target) -> Iterator[Line]:
    """What each member of a family takes that had one call, and remembers it."""
    resident_bytes()
    count = scale.size(20_000, 1_000)
    for how, used, target in (
        ("by tracemalloc", traced_bytes, by_python),
        ("resident", resident_bytes, by_system),
    ):
        sampler = partial(in_fresh_process, _for_each_member, count, used)
        samples = rounds({OURS.name: sampler}, scale.pairs, warm_up=False)[OURS.name]
        case = f"member of a family that had one call, {how}; {count:,} of them"
        yield Line(case, OURS.name, "bytes", samples, better="less", target=target)


def resident_bytes() -> int:
    """Return how much memory the process has; where the system tells only that, how much it had at most."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        import resource

        return int(statm.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    try:
        import resource
    except ImportError:
        raise NotPossible("the system does not tell without another package") from None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def traced_bytes() -> int:
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    return tracemalloc.get_traced_memory()[0]


def _lines(scale: Scale, target: Target, used: Callable[[], int]) -> Iterator[Line]:
    count = scale.size(200_000, 5_000)
    samplers = {
        one: partial(in_fresh_process, _for_each, one, count, used) for one in (STANDARD.name, OURS.name)
    }
    samples = rounds(samplers, scale.pairs, warm_up=False)
    for name, own in samples.items():
        yield Line(
            case=f"queued behind one busy worker; {count:,} calls",
            contestant=name,
            unit="bytes",
            samples=own,
            better="less",
            target=target if name == OURS.name else None,
        )


def _for_each_member(count: int, used: Callable[[], int]) -> float:
    keys = [f"{index}.example.org" for index in range(count + 1)]  # these are not counted
    hosts = UpstreamFamily("webhooks", max_concurrency=2, rate=(10, 86400.0), max_pending=100)
    with RetryingExecutor(1) as executor:
        before = 0
        for key in keys:
            executor.with_options(upstream=hosts[key]).submit(nothing).result()
            if not before:  # the first has made what all of them share
                gc.collect()
                before = used()
        gc.collect()
        if len(hosts) <= count:
            raise AssertionError("some were forgotten")
        return (used() - before) / count


def _for_each(name: str, count: int, used: Callable[[], int]) -> float:
    contestant = OURS if name == OURS.name else STANDARD
    with busy(contestant, 1) as (executor, _):
        return for_each_queued(executor, count, used)


def for_each_queued(executor: Executor, count: int, used: Callable[[], int]) -> float:
    """Return by how much *used* grows for each call that is queued, and its future; then cancel them."""
    futures: list[object] = [None] * count  # this list is not counted
    gc.collect()
    before = used()
    for index in range(count):
        futures[index] = executor.submit(nothing)
    gc.collect()
    after = used()
    executor.shutdown(wait=False, cancel_futures=True)
    return (after - before) / count
