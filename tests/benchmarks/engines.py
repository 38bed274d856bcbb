"""What it costs to have attempts made in processes: beside the standard pool of processes, started alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial

from tests.benchmarks.measuring import Line, Scale, Target, against_first, rounds

from retrying_executor import RetryingExecutor
from retrying_executor.engines import Processes

PATIENCE = 60.0  # seconds within which everything happens that is going to
_START = 0.2  # seconds; so long a call takes that has each worker start


def no_ops(scale: Scale, target: Target) -> Iterator[Line]:
    """Submit calls that do nothing, and take their results; all processes have started before."""
    count = scale.size(4_000, 200)
    context = Processes()._context
    for workers in (1, 2, 4, 8):
        samplers = {
            "ProcessPoolExecutor": partial(
                _submit_and_wait, partial(ProcessPoolExecutor, workers, context), workers, count
            ),
            "RetryingExecutor, Processes": partial(
                _submit_and_wait, partial(RetryingExecutor, workers, engine=Processes()), workers, count
            ),
        }
        case = f"{workers} process{'es' if workers > 1 else ''}; {count:,} calls that do nothing"
        yield from against_first(rounds(samplers, scale.pairs), case=case, target=target)


def _submit_and_wait(make: Callable[[], Executor], workers: int, count: int) -> float:
    """Return the seconds for each call."""
    with make() as executor:
        for future in [executor.submit(time.sleep, _START) for _ in range(workers)]:
            future.result(PATIENCE)
        began_at = time.perf_counter()
        for future in [executor.submit(abs, -number) for number in range(count)]:
            future.result(PATIENCE)
        return (time.perf_counter() - began_at) / count
