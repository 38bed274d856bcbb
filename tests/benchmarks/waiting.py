"""Calls that wait for somebody else, as those do that are worth retrying."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from random import Random

from tests.benchmarks.contestants import Contestant, everyone
from tests.benchmarks.measuring import Line, Scale, Target, against_first, rounds
from tests.benchmarks.service import Client, running_service

SEED = 1
WORKERS = 8
SHORTEST, LONGEST = 0.001, 0.020  # seconds


def real_socket(scale: Scale, target: Target) -> Iterator[Line]:
    """Ask a service in another process, over the loopback interface; the same questions for everyone."""
    random = Random(SEED)
    delays = [random.uniform(SHORTEST, LONGEST) for _ in range(scale.size(1_000, 50))]
    with running_service() as port:
        samplers = {one.name: partial(_ask_all, one, port, delays) for one in everyone()}
        samples = rounds(samplers, scale.pairs)
    yield from against_first(
        samples,
        case=f"{SHORTEST * 1e3:.0f} to {LONGEST * 1e3:.0f} ms, {WORKERS} workers; {len(delays):,} calls",
        target=target,
    )


def _ask_all(contestant: Contestant, port: int, delays: Sequence[float]) -> float:
    """Return the seconds until all have been answered."""
    client = Client(port)
    ask = contestant.decorate(client.ask)
    with contestant.executor(WORKERS) as executor:
        began_at = time.perf_counter()
        futures = [executor.submit(ask, delay) for delay in delays]
        for future in futures:
            future.result()
        elapsed = time.perf_counter() - began_at
    client.close()
    return elapsed
