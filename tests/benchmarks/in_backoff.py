"""Very many calls in backoff: what they cost while nothing is due, and how late they are once it is."""

from __future__ import annotations

import gc
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random

from tests.benchmarks.contestants import OURS
from tests.benchmarks.measuring import Line, Scale, Target, in_fresh_process, rounds

from retrying_executor import Attempt, RetryingExecutor

SEED = 1
WORKERS = 4
SPREAD = 10.0  # seconds over which the due times are spread
QUIET = 8.0  # seconds in which nothing is due, if the calls fail as fast as a few of them did before
MARGIN = 0.5  # seconds before the first due time in which nothing is measured
LOOK = 0.01  # seconds between looks at what no event tells of


class Again(Exception):  # noqa: N818  # it is what a call says, not what went wrong
    """Asks for the next attempt at a certain time."""

    def __init__(self, due_at: float) -> None:
        super().__init__(due_at)
        self.due_at = due_at


@dataclass(frozen=True)
class Sample:
    """What was seen of all calls together: threads, CPU in percent of a core, lateness in seconds."""

    threads: float
    cpu: float
    median: float
    p99: float


def in_backoff(scale: Scale, threads: Target, cpu: Target, median: Target, p99: Target) -> Iterator[Line]:
    """Let calls fail once; after all have, they become due one by one, in no particular order."""
    count = scale.size(100_000, 2_000)
    times = (1.0, 2.0) if scale.is_quick else (SPREAD, QUIET)
    sampler = partial(in_fresh_process, _sample, count, *times)
    samples = rounds({OURS.name: sampler}, scale.pairs, warm_up=False)[OURS.name]
    for what, unit, target, values in (
        ("threads while nothing is due", "", threads, [one.threads for one in samples]),
        ("CPU while nothing is due", "%", cpu, [one.cpu for one in samples]),
        ("lateness, median", "s", median, [one.median for one in samples]),
        ("lateness, 99th percentile", "s", p99, [one.p99 for one in samples]),
    ):
        case = f"{what}; {count:,} calls, due within {times[0]:.0f} s"
        yield Line(case, OURS.name, unit, values, better="less", target=target)


def _sample(count: int, spread: float, quiet: float) -> Sample:
    """Return what was seen, once there was quiet: on a busy machine, that takes several tries."""
    few = count // 20
    lead = 1.5 * (count / few) * _time_to_fail(few)
    sample = None
    while sample is None:
        sample = _try(count, spread, quiet, lead)
        lead *= 2
    return sample


def _try(count: int, spread: float, quiet: float, lead: float) -> Sample | None:
    """Return what was seen; ``None`` if it took more than *lead* seconds until all calls had failed."""
    threads_before = threading.active_count()
    first_at = time.monotonic() + lead + quiet
    calls = _Calls([first_at + spread * index / count for index in range(count)])
    with RetryingExecutor(WORKERS, retry=_when_asked, idle_timeout=quiet / 8) as executor:
        calls.submit_all(executor)
        gc.collect()
        if time.monotonic() > first_at - quiet / 2:
            executor.shutdown(cancel_futures=True)
            return None
        _wait_until(lambda: executor.stats().threads <= 1, first_at - quiet / 2)
        began_at, cpu_before = time.monotonic(), _cpu_of_others()
        time.sleep(first_at - MARGIN - began_at)
        cpu = max(0.0, _cpu_of_others() - cpu_before) / (time.monotonic() - began_at)
        threads = threading.active_count() - threads_before
    lateness = sorted(calls.lateness)
    return Sample(threads, 100.0 * cpu, statistics.median(lateness), lateness[int(0.99 * count)])


def _time_to_fail(count: int) -> float:
    """Return in how many seconds so many calls fail and are in backoff."""
    calls = _Calls([time.monotonic() + 3600.0] * count)
    with RetryingExecutor(WORKERS, retry=_when_asked) as executor:
        began_at = time.monotonic()
        calls.submit_all(executor)
        elapsed = time.monotonic() - began_at
        executor.shutdown(cancel_futures=True)
    return elapsed


def _wait_until(condition: Callable[[], bool], deadline: float) -> None:
    """Wait for what no event tells of."""
    while not condition() and time.monotonic() < deadline:
        time.sleep(LOOK)


def _cpu_of_others() -> float:
    """Return the CPU time of all threads but this one, in seconds."""
    return time.process_time() - time.thread_time()


def _when_asked(attempt: Attempt) -> float | None:
    if isinstance(attempt.exception, Again):
        return max(0.0, attempt.exception.due_at - time.monotonic())
    return None


class _Calls:
    """Calls that fail once, and then note how late they are."""

    def __init__(self, due_at: list[float]) -> None:
        Random(SEED).shuffle(due_at)
        self._due_at = due_at
        self._has_failed = bytearray(len(due_at))
        self.lateness = [0.0] * len(due_at)

    def submit_all(self, executor: RetryingExecutor) -> None:
        """Return once all of them are in backoff."""
        for index in range(len(self._due_at)):
            executor.submit(self._call, index)
        _wait_until(lambda: executor.stats().in_backoff == len(self._due_at), math.inf)

    def _call(self, index: int) -> None:
        now = time.monotonic()
        if not self._has_failed[index]:
            self._has_failed[index] = True
            raise Again(self._due_at[index])
        self.lateness[index] = now - self._due_at[index]
