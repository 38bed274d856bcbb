"""Measure what an engine costs, and calculate from that how far one program goes as the head of a cluster.

- How many calls that do nothing get through in a second: through `Processes` beside the standard library's
  pool of processes, and through `Shared` beside the executor that it shares, in turn, in the same run.
- What a process takes to start and to keep, for each way of starting it.
- What a thousand threads that wait for a cluster take, and how many calls they get through if the cluster
  answers at once: that is what this side of it can do at most.
- From that: how busy a thousand workers are kept by calls of some length.

``--write`` puts the figures on the page; that needs Linux, for the memory, and ``distributed``.
"""

# ruff: noqa: D107, T201  # constructors are described by their classes; a command speaks by printing

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pickle
import platform
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from retrying_executor import RetryingExecutor
from retrying_executor.engines import Processes, Shared

TABLE = Path(__file__).with_name("scale_table.inc")
TIMEOUT = 60.0  # seconds within which everything happens that is going to
LENGTHS = (0.01, 0.1, 1.0, 10.0, 60.0)  # of calls, in seconds
MILLION = 1_000_000
HAS_DASK = find_spec("distributed") is not None


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        calls: How many calls are timed.
        pairs: How often, in turn with what they are compared with.
        workers: The size of the large cluster.
        queued: How many calls are queued, to weigh them.
        processes: How many processes there are, in each case.
    """

    calls: int = 2000
    pairs: int = 7
    workers: int = 1000
    queued: int = 100_000
    processes: tuple[int, ...] = (1, 2, 4, 8)


FULL = Size()
BRIEF = Size(calls=50, pairs=1, workers=20, queued=500, processes=(1, 2))


# -- calls a second --------------------------------------------------------------------------------


def calls_a_second(executor: Executor, workers: int, calls: int) -> float:
    """Have calls made that do nothing; all workers have started before."""
    for future in [executor.submit(time.sleep, 0.2) for _ in range(workers)]:
        future.result(TIMEOUT)
    began_at = time.perf_counter()
    for future in [executor.submit(abs, -number) for number in range(calls)]:
        future.result(TIMEOUT)
    return calls / (time.perf_counter() - began_at)


@dataclass(frozen=True)
class Comparison:
    """How many calls a second get through one executor, beside another.

    Attributes:
        who: The one.
        workers: How many attempts each runs at a time.
        beside: The other.
        rates: Of both, pair by pair.
    """

    who: str
    workers: int
    beside: str
    rates: list[tuple[float, float]]

    @property
    def rate(self) -> float:
        """Calls a second through the one: the median."""
        return statistics.median(rate for rate, _ in self.rates)

    def cells(self) -> list[str]:
        """Return its row of the table."""
        ratios = [rate / other for rate, other in self.rates]
        other = statistics.median(other for _, other in self.rates)
        spread = f"{min(ratios):.2f}x to {max(ratios):.2f}x"
        numbers = [f"{self.workers:,}", rounded(self.rate), self.beside, rounded(other)]
        return [self.who, *numbers, f"{statistics.median(ratios):.2f}x", spread]


def compared(
    who: str,
    beside: str,
    workers: int,
    makes: tuple[Callable[[], Executor], Callable[[], Executor]],
    size: Size,
) -> Comparison:
    """Measure two executors in turn."""
    rates = []
    for pair in range(size.pairs):
        found = [0.0, 0.0]
        for which in (0, 1) if pair % 2 else (1, 0):
            with makes[which]() as executor:
                found[which] = calls_a_second(executor, workers, size.calls)
        rates.append((found[0], found[1]))
    return Comparison(who, workers, beside, rates)


def comparisons(size: Size) -> Iterator[Comparison]:
    """Compare each engine with what there is without the library."""
    method = Processes()._context.get_start_method()
    context = multiprocessing.get_context(method)
    threads = max(size.processes)
    yield compared(
        "threads",
        "`ThreadPoolExecutor`",
        threads,
        (partial(RetryingExecutor, threads), partial(ThreadPoolExecutor, threads)),
        size,
    )
    for workers in size.processes:
        yield compared(
            "`Processes()`",
            "`ProcessPoolExecutor`",
            workers,
            (
                partial(RetryingExecutor, workers, engine=Processes()),
                partial(ProcessPoolExecutor, workers, context),
            ),
            size,
        )
    if HAS_DASK:
        yield with_dask(size)


def with_dask(size: Size) -> Comparison:
    """Compare with dask's own executor, on a cluster on this machine."""
    from distributed import Client, KilledWorker, LocalCluster

    workers = 16
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        engine = Shared(client.get_executor, lost=KilledWorker)
        makes = (partial(RetryingExecutor, workers, engine=engine), partial(client.get_executor, pure=False))
        return compared("`Shared`, dask", "`client.get_executor()`", workers, makes, size)


# -- a process more ----------------------------------------------------------------------------------

PRELOADED = "forkserver, preloaded"
IMPORTED = {
    "argparse",
    "concurrent",
    "json",
    "multiprocessing",
    "platform",
    "queue",
    "retrying_executor",
    "statistics",
}
"""Packages that this script needs."""


def process_of(method: str, size: Size) -> dict[str, float]:
    """Return how long a process takes to start, in seconds, and its own memory, in bytes.

    Args:
        method: A start method; or `PRELOADED`, with which processes begin with what this script imports.
        size: How often.
    """
    context = multiprocessing.get_context("forkserver" if method == PRELOADED else method)
    if method == PRELOADED:
        context.set_forkserver_preload([name for name in sys.modules if name.partition(".")[0] in IMPORTED])
    engine = Processes(mp_context=context)
    starts, weights = [], []
    for _ in range(2 * size.pairs + 1):
        with RetryingExecutor(1, engine=engine) as executor:
            began_at = time.perf_counter()
            pid = executor.submit(os.getpid).result(TIMEOUT)
            starts.append(time.perf_counter() - began_at)
            weights.append(own_memory(pid))
    return {"start": statistics.median(starts[1:]), "first": starts[0], "memory": statistics.median(weights)}


def own_memory(pid: int) -> int:
    """Return how many bytes a process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024


# -- a thousand workers --------------------------------------------------------------------------------

ANSWER = pickle.dumps(("returned", None, pickle.dumps(0), None))
"""What the far side answers when a call has returned 0."""


class Stub(Executor):
    """A cluster that runs nothing: it answers at once, or, while it is held, not at all.

    Args:
        is_held: Whether it answers only at its end.
    """

    def __init__(self, *, is_held: bool) -> None:
        self._waiting: queue.SimpleQueue[Future[bytes] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._answer)
        self._may_answer = threading.Event()
        if not is_held:
            self._may_answer.set()
        self._thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Take a call."""
        future: Future[Any] = Future()
        self._waiting.put(future)
        return future

    def release(self) -> None:
        """Answer from now on."""
        self._may_answer.set()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End."""
        self._waiting.put(None)

    def _answer(self) -> None:
        self._may_answer.wait(TIMEOUT)
        while (future := self._waiting.get()) is not None:
            future.set_result(ANSWER)


def resident() -> int:
    """Return how many bytes of memory this process has."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def held(workers: int) -> Iterator[RetryingExecutor]:
    """Yield an executor on a cluster that answers nothing until the end of the block."""
    stub = Stub(is_held=True)
    with RetryingExecutor(workers, engine=Shared(lambda: stub)) as executor:
        executor.submit(abs, 0)
        yield executor
        stub.release()
    stub.shutdown()  # the executor may have been ended before it needed the cluster


def weight_of_a_worker(size: Size) -> dict[str, float]:
    """Return how many bytes a thread takes that waits for its attempt."""
    with held(size.workers + 1) as executor:
        before = resident()
        for number in range(size.workers):
            executor.submit(abs, number)
        deadline = time.monotonic() + TIMEOUT
        while executor.stats().running < size.workers and time.monotonic() < deadline:
            time.sleep(0.01)
        assert executor.stats().running >= size.workers
        return {"memory": (resident() - before) / size.workers}


def weight_of_a_call(size: Size) -> dict[str, float]:
    """Return how many bytes a queued call takes, with an engine and without."""
    found = {}
    release = threading.Event()
    with RetryingExecutor(1) as threads, held(1) as engine:
        threads.submit(release.wait, TIMEOUT)
        for name, executor in (("threads", threads), ("engine", engine)):
            before = resident()
            futures = [executor.submit(abs, number) for number in range(size.queued)]
            found[name] = (resident() - before) / size.queued
            del futures
        for executor in (threads, engine):
            executor.shutdown(wait=False, cancel_futures=True)
        release.set()
    return found


def most_calls(workers: int, size: Size) -> dict[str, float]:
    """Return how many calls a second so many threads get through, if the cluster answers at once."""
    rates = []
    for _ in range(size.pairs):
        with RetryingExecutor(workers, engine=Shared(partial(Stub, is_held=False))) as executor:
            for future in [executor.submit(abs, 0) for _ in range(workers)]:
                future.result(TIMEOUT)
            began_at = time.perf_counter()
            for future in [executor.submit(abs, number) for number in range(size.calls)]:
                future.result(TIMEOUT)
            rates.append(size.calls / (time.perf_counter() - began_at))
    return {"rate": statistics.median(rates)}


# -- the page --------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[..., dict[str, float]]] = {
    "process": process_of,
    "worker": weight_of_a_worker,
    "call": weight_of_a_call,
    "most": lambda workers, size: most_calls(int(workers), size),
}


def in_a_process(part: str, *arguments: str, brief: bool) -> dict[str, float]:
    """Measure a part in a process of its own, which nothing before has made larger."""
    command = [sys.executable, __file__, "--part", part, *arguments, *(["--brief"] if brief else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, encoding="ascii", timeout=20 * TIMEOUT)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def rounded(number: float) -> str:
    """Return a number with two digits that count."""
    digits = 2 - len(str(int(number)))
    return f"{round(number, digits):,.0f}" if digits <= 0 else f"{number:.{digits}f}"


def in_bytes(number: float) -> str:
    """Return an amount of memory in words."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{rounded(number)} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def in_seconds(number: float) -> str:
    """Return a time in words."""
    if number < 1:
        return f"{number * 1000:.0f} ms"
    return (
        f"{number:.0f} s"
        if number < 120
        else f"{number / 60:.0f} min"
        if number < 7200
        else f"{number / 3600:.0f} hours"
    )


def rows(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Return a table in Markdown."""
    ruler = ["---", *("---:" for _ in head[1:])]
    return [f"| {' | '.join(line)} |" for line in (head, ruler, *lines)]


def kept_busy(length: float, workers: int, limits: Sequence[float]) -> list[str]:
    """Return a row of the table: what comes of calls of this length, within each limit of calls a second."""
    possible = workers / length
    cells = [in_seconds(length), rounded(possible)]
    for limit in limits:
        rate = min(possible, limit)
        cells += [
            f"{rate / possible:.0%}" if rate / possible >= 0.01 else "below 1%",
            in_seconds(MILLION / rate),
        ]
    return cells


def tables(size: Size, *, brief: bool) -> str:
    """Measure everything; return the file that the page includes."""
    measure = partial(in_a_process, brief=brief)
    found = list(comparisons(size))
    methods = [*multiprocessing.get_all_start_methods(), PRELOADED]
    processes = {method: measure("process", method) for method in methods}
    crews = sorted({16, 100, size.workers})
    most = {workers: measure("most", str(workers))["rate"] for workers in crews}
    call, worker = measure("call"), measure("worker")["memory"]
    limits = {"what this side can do": most[size.workers]}
    if HAS_DASK:
        limits["with dask, here"] = found[-1].rate
    count = f"{size.workers:,} workers"
    sections = {
        "One call": rows(
            ["attempts run in", "at a time", "calls a second", "beside", "calls a second", "ratio", "spread"],
            [one.cells() for one in found],
        ),
        "One process more": rows(
            ["started by", "until its first answer", "the very first", "memory of its own"],
            [
                [method, in_seconds(one["start"]), in_seconds(one["first"]), in_bytes(one["memory"])]
                for method, one in processes.items()
            ],
        ),
        "At most": rows(
            ["threads that wait for a cluster", "calls a second"],
            [[f"{workers:,}", rounded(rate)] for workers, rate in most.items()],
        ),
        "A thousand workers": rows(
            [
                "a call takes",
                f"{count} could make, in a second",
                *(cell for name in limits for cell in (f"busy: {name}", "a million calls")),
            ],
            [kept_busy(length, size.workers, [*limits.values()]) for length in LENGTHS],
        ),
        "Memory": rows(
            ["", "takes"],
            [
                ["a queued call, in threads", in_bytes(call["threads"])],
                ["a queued call, with an engine", in_bytes(call["engine"])],
                ["a million of these", in_bytes(MILLION * call["engine"])],
                ["a thread that waits for its attempt", in_bytes(worker)],
                ["a thousand of these", in_bytes(1000 * worker)],
            ],
        ),
    }
    lines = [line for name, table in sections.items() for line in (f"<!-- {name} -->", "", *table, "")]
    return "\n".join(["<!-- Machine -->", "", machine(size), "", *lines, "<!-- end -->", ""])


def machine(size: Size) -> str:
    """Return on what it was measured, and how often."""
    dask = ""
    if HAS_DASK:
        import distributed

        dask = f", dask {distributed.__version__}"
    version = ".".join(map(str, sys.version_info[:3]))
    return (
        f"CPython {version}{dask}, {platform.system()} on {platform.machine()}, {os.cpu_count()} cores."
        f" Medians of {size.pairs} pairs of {size.calls:,} calls that do nothing; the spread is from the"
        " least ratio to the greatest."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the tables on the page")
    parser.add_argument("--brief", action="store_true", help="with little to do, to see that it works")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    size = BRIEF if options.brief else FULL
    if options.part:
        part, *arguments = options.part
        print(json.dumps(PARTS[part](*arguments, size)))
        return
    if options.write and not HAS_DASK:
        raise SystemExit("distributed must be installed: the page shows what it does")
    text = tables(size, brief=options.brief)
    print(text, end="")
    if options.write:
        TABLE.write_text(text, encoding="ascii")


if __name__ == "__main__":
    main()
