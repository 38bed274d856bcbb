"""What a journal costs: beside a task queue that keeps its tasks in SQLite too, and beside no journal."""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

from tests.benchmarks.contestants import OURS
from tests.benchmarks.measuring import (
    Line,
    NotPossible,
    Scale,
    Target,
    against_first,
    in_fresh_process,
    rounds,
)
from tests.benchmarks.memory import for_each_queued, resident_bytes, traced_bytes
from tests.benchmarks.throughput import nothing

from retrying_executor import Journal, RetryingExecutor
from retrying_executor._journal.database import Addition, Database, now
from retrying_executor._journal.payload import Pickles

THREADS = 8
HUEY = "huey, SqliteHuey, task()"


def submits(scale: Scale, target: Target) -> Iterator[Line]:
    """Calls are accepted from several threads; with a journal, each is on disk, synced, when that is said."""
    try:
        import huey  # noqa: F401
    except ImportError:
        raise NotPossible("huey is not installed") from None
    for threads, goal in ((THREADS, target), (1, None)):
        count = scale.size(4_000, 400)
        samplers = {
            HUEY: partial(_with_huey, count, threads),
            f"{OURS.name}, journal": partial(_with_journal, count, threads, "full"),
            f"{OURS.name}, journal, durability='process'": partial(_with_journal, count, threads, "process"),
        }
        case = f"{count:,} calls from {threads} thread{'s' if threads > 1 else ''}"
        yield from against_first(rounds(samplers, scale.pairs), case=case, target=goal)


def _with_huey(count: int, threads: int) -> float:
    from huey import SqliteHuey

    with tempfile.TemporaryDirectory() as directory:
        huey = SqliteHuey(filename=str(Path(directory) / "huey.db"))
        return _seconds_for_each(huey.task()(nothing), count, threads)


def _with_journal(count: int, threads: int, durability: str) -> float:
    with tempfile.TemporaryDirectory() as directory:
        journal = Journal(directory, durability=durability)  # type: ignore[arg-type]  # one of the two
        with _busy(journal) as executor:  # huey runs no tasks either
            return _seconds_for_each(partial(executor.submit, nothing), count, threads)


def _seconds_for_each(accept: Callable[[], object], count: int, threads: int) -> float:
    """Return the seconds for each call, of all threads together."""
    ready = threading.Barrier(threads + 1)

    def accept_all() -> None:
        ready.wait()
        for _ in range(count // threads):
            accept()

    workers = [threading.Thread(target=accept_all) for _ in range(threads)]
    for worker in workers:
        worker.start()
    ready.wait()
    began_at = time.perf_counter()
    for worker in workers:
        worker.join()
    return (time.perf_counter() - began_at) / count


def waiting(scale: Scale, target: Target) -> Iterator[Line]:
    """What a queued call takes in memory, with a journal and without."""
    resident_bytes()
    count = scale.size(50_000, 1_000)
    for how, used in (("by tracemalloc", traced_bytes), ("resident", resident_bytes)):
        samplers = {
            "without": partial(in_fresh_process, _bytes_for_each, count, used, False),
            f"{OURS.name}, journal": partial(in_fresh_process, _bytes_for_each, count, used, True),
        }
        samples = rounds(samplers, scale.pairs, warm_up=False)
        (baseline, against), (contestant, own) = samples.items()
        case = f"queued call, {how}; {count:,} of them"
        yield Line(case, contestant, "bytes", own, baseline, against, better="less", target=target)


_started, _release = threading.Event(), threading.Event()


def _block() -> None:
    _started.set()
    _release.wait()


@contextmanager
def _busy(journal: Journal | None) -> Iterator[RetryingExecutor]:
    """Yield an executor whose only worker is busy until the end."""
    _started.clear()
    _release.clear()
    with RetryingExecutor(1, journal=journal) as executor:
        executor.submit(_block)
        _started.wait()
        try:
            yield executor
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
            _release.set()


def _bytes_for_each(count: int, used: Callable[[], int], is_kept: bool) -> float:
    with tempfile.TemporaryDirectory() as directory:
        journal = Journal(directory, durability="process") if is_kept else None
        with _busy(journal) as executor:
            return for_each_queued(executor, count, used)


def adoption(scale: Scale, duration: Target, queued: Target) -> Iterator[Line]:
    """An executor goes on with a million calls of a process that is gone."""
    count = scale.size(1_000_000, 5_000)
    taken = [in_fresh_process(_adopt, count) for _ in range(min(scale.pairs, 3))]
    case = f"adopt() with {count:,} calls waiting"
    yield Line(case, OURS.name, "s", [one for one, _ in taken], better="less", target=duration)
    numbers = [float(number) for _, number in taken]
    yield Line(f"{case}: calls in memory", OURS.name, "", numbers, better="less", target=queued)


def _adopt(count: int) -> tuple[float, int]:
    """Return how many seconds it took, and how many calls were in memory then."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"{uuid4().hex}.db"
        path.touch(mode=0o600)
        database = Database.create(path, 0, "gone", uuid4())
        payload = Pickles({}).dump(nothing, (), {})
        rows = (Addition(row, "nothing", None, None, None, payload, 0.0, 0.0) for row in range(1, count + 1))
        while chunk := list(itertools.islice(rows, 10_000)):
            database.write(chunk, {}, now("", time.monotonic()), is_full=False)
        database.close()
        executor = RetryingExecutor(1, journal=Journal(name, adopts=False))
        began_at = time.perf_counter()
        assert count == executor.adopt()
        elapsed = time.perf_counter() - began_at
        stats = executor.stats()
        executor.shutdown(cancel_futures=True)
        return elapsed, stats.submitted - stats.succeeded
