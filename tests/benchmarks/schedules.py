"""Work of which much has to be retried, against the same work where nothing else takes any time."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from random import Random

from tests.benchmarks.contestants import OURS, Backoff, Contestant, peers
from tests.benchmarks.measuring import Line, Scale, Target, rounds

from retrying_executor import RetryingExecutor, RetryPolicy

SEED = 1
WORKERS = 16
SHORTEST, LONGEST = 0.010, 0.020  # seconds
FAILING = 0.25
BACKOFF = Backoff(attempts=50, first=0.02, longest=0.1, jitter=False)  # short: the end is not all waiting

Durations = Sequence[Sequence[float]]
"""Of each call, how long each of its attempts takes; all but the last one fail."""


def retry_heavy(scale: Scale, target: Target) -> Iterator[Line]:
    """Compare the time until the last call is done with that of a simulation."""
    durations = drawn(scale.size(1_000, 50))
    ideal = makespan(durations)
    contestants = [Contestant(OURS.name, _ours), *peers(BACKOFF)]
    samplers = {one.name: partial(_run, one, durations) for one in contestants}
    attempts = sum(map(len, durations))
    case = f"{WORKERS} workers; {len(durations):,} calls, {attempts:,} attempts"
    for name, samples in rounds(samplers, scale.pairs).items():
        took = [elapsed for elapsed, _ in samples]
        line = Line(case, name, "s", took, "simulation", [ideal] * len(took), "less")
        if name != OURS.name:
            yield replace(line, note="it starts calls in another order than the simulation")
            continue
        yield replace(line, target=target)
        against = [makespan(real) for _, real in samples]
        yield replace(line, against=against, note="simulated with the time that each attempt really slept")


def _ours(workers: int) -> RetryingExecutor:
    policy = RetryPolicy(
        max_attempts=BACKOFF.attempts, initial_delay=BACKOFF.first, max_delay=BACKOFF.longest, jitter=False
    )
    return RetryingExecutor(workers, retry=policy)


def drawn(calls: int) -> Durations:
    """Return the work, the same every time."""
    random = Random(SEED)
    durations = []
    for _ in range(calls):
        attempts = [random.uniform(SHORTEST, LONGEST)]
        while random.random() < FAILING:
            attempts.append(random.uniform(SHORTEST, LONGEST))
        durations.append(attempts)
    return durations


def makespan(durations: Durations) -> float:
    """Return when the last call is done, in seconds, if nothing but attempts and delays takes time.

    Due retries start before calls that were not tried yet, and in the order of their due times.
    """
    free_at = [0.0] * WORKERS
    fresh = iter(enumerate(durations))
    due: list[tuple[float, int, int]] = []  # when, the call, how many attempts it has had
    done_at = 0.0
    while free_at:
        now = heapq.heappop(free_at)
        started = None if due and due[0][0] <= now else next(fresh, None)
        if started is not None:
            index, attempt = started[0], 0
        elif due:
            due_at, index, attempt = heapq.heappop(due)
            now = max(now, due_at)
        else:
            continue  # nothing is left for this worker
        ended_at = now + durations[index][attempt]
        heapq.heappush(free_at, ended_at)
        if attempt + 1 < len(durations[index]):
            delay = min(BACKOFF.longest, BACKOFF.first * 2.0**attempt)
            heapq.heappush(due, (ended_at + delay, index, attempt + 1))
        done_at = max(done_at, ended_at)
    return done_at


def _run(contestant: Contestant, durations: Durations) -> tuple[float, Durations]:
    """Return how many seconds it all takes, and how long each attempt really took."""
    real: list[list[float]] = [[] for _ in durations]

    def call(index: int) -> None:
        began_at = time.perf_counter()
        time.sleep(durations[index][len(real[index])])
        real[index].append(time.perf_counter() - began_at)
        if len(real[index]) < len(durations[index]):
            raise ConnectionError

    function = contestant.decorate(call)
    with contestant.executor(WORKERS) as executor:
        began_at = time.perf_counter()
        futures = [executor.submit(function, index) for index in range(len(durations))]
        for future in futures:
            future.result()
        return time.perf_counter() - began_at, real
