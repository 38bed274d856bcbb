"""What the library costs a program that makes no calls: idle executors, and the import."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial

from tests.benchmarks.contestants import OURS
from tests.benchmarks.measuring import Line, Scale, Target, in_fresh_process, rounds
from tests.benchmarks.throughput import nothing

from retrying_executor import RetryingExecutor

IDLE_TIMEOUT = 0.2  # seconds
PATIENCE = 30.0  # seconds after which a thread is not going to leave any more
WORKERS = 8

IMPORTS = """
import time
began_at = time.perf_counter()
import concurrent.futures.thread
standard_at = time.perf_counter()
import retrying_executor
print(standard_at - began_at, time.perf_counter() - standard_at)
"""


def idle(scale: Scale, threads: Target, cpu: Target) -> Iterator[Line]:
    """Make a few calls, let ``idle_timeout`` go by, and look at the process for a while."""
    duration = float(scale.size(3, 1))
    sampler = partial(in_fresh_process, _idle, duration)
    samples = rounds({OURS.name: sampler}, scale.pairs, warm_up=False)[OURS.name]
    for what, unit, target, values in (
        ("threads", "", threads, [left for left, _ in samples]),
        (f"CPU in {duration:.0f} s", "%", cpu, [used for _, used in samples]),
    ):
        yield Line(f"{what} after idle_timeout", OURS.name, unit, values, better="less", target=target)


def _idle(duration: float) -> tuple[float, float]:
    """Return how many threads there are, and the CPU that they use, in percent of a core to a hundredth.

    What is less than that is the reading of clocks, and the end of threads that have ended.
    """
    before = set(threading.enumerate())
    with RetryingExecutor(WORKERS, idle_timeout=IDLE_TIMEOUT) as executor:
        for future in [executor.submit(nothing) for _ in range(100 * WORKERS)]:
            future.result()
        for thread in set(threading.enumerate()) - before:
            thread.join(PATIENCE)
        left = len(set(threading.enumerate()) - before)
        used = time.process_time() - time.thread_time()  # without this thread
        time.sleep(duration)
        used = time.process_time() - time.thread_time() - used
    return float(left), round(max(0.0, 100.0 * used / duration), 2)


def imported(scale: Scale, target: Target) -> Iterator[Line]:
    """Import the standard executor in a fresh interpreter, and then the library; both are reported."""
    samples = rounds({"": _import}, scale.pairs)[""]
    case = "import, bytecode cached"
    yield Line(case, "concurrent.futures.thread", "s", [one for one, _ in samples], better="less")
    yield Line(case, "retrying_executor", "s", [one for _, one in samples], better="less", target=target)


def _import() -> tuple[float, float]:
    """Return the seconds that either takes."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    output = subprocess.run(
        [sys.executable, "-c", IMPORTS], env=environment, check=True, capture_output=True, encoding="ascii"
    )
    standard, own = map(float, output.stdout.split())
    return standard, own
