"""Many calls: what happens rarely happens here, and what is left behind adds up."""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
from collections.abc import Callable
from itertools import count
from threading import Thread
from typing import NoReturn

import pytest

from conftest import TIMEOUT
from observe import eventually, threads_named
from retrying_executor import RetryingExecutor, RetryingFuture

CALLS = 100_000
"""How many calls are submitted; for a long run, at night say, take a million."""

CANCELLATIONS = 20_000
"""How many calls are cancelled: so many that what is left in any case is little beside them."""

SUBMITTERS = 4


def submit_from_threads(submit: Callable[[int], object], times: int) -> None:
    """Have *submit* called with the numbers below *times*, each once, in `SUBMITTERS` threads."""
    numbers = [range(first, times, SUBMITTERS) for first in range(SUBMITTERS)]
    done: list[range] = []

    def submit_some(some: range) -> None:
        for number in some:
            submit(number)
        done.append(some)

    threads = [Thread(target=submit_some, args=(some,)) for some in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT * 4)
    assert SUBMITTERS == len(done)


@pytest.mark.parametrize("max_workers", [1, 3])
def test_no_call_is_lost_between_a_thread_that_leaves_and_a_submitter(max_workers: int) -> None:
    """Threads that leave at once meet submitters that come one call at a time (C5)."""
    runs = count(1)
    results: list[int] = []

    def submit(_: int) -> None:
        results.append(executor.submit(next, runs).result(TIMEOUT))

    executor = RetryingExecutor(max_workers, "losing", idle_timeout=0)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        submit_from_threads(submit, 3_000)
    finally:
        sys.setswitchinterval(interval)
    assert list(range(1, 3_001)) == sorted(results)
    assert eventually(lambda: not threads_named("losing"))


def test_no_call_of_many_is_lost() -> None:
    """Each call gets done once, the numbers agree, and no thread stays (C2, C5, G1, G4)."""
    runs = count()
    futures: list[RetryingFuture[tuple[int, int]]] = []
    executor = RetryingExecutor(3, "many", idle_timeout=0)
    submit_from_threads(lambda number: futures.append(executor.submit(lambda: (number, next(runs)))), CALLS)
    assert executor.drain(TIMEOUT * 4)
    for results in zip(*(future.result(0) for future in futures), strict=True):
        assert list(range(CALLS)) == sorted(results)
    assert eventually(lambda: not threads_named("many"))
    stats = executor.stats()
    assert (CALLS, CALLS) == (stats.submitted, stats.succeeded)
    assert (0, 0, 0) == (stats.failed, stats.cancelled, stats.retried)
    assert (0, 0, 0, 0) == (stats.threads, stats.running, stats.ready, stats.in_backoff)
    assert stats.next_due_at is None


def test_many_cancellations_leave_nothing_behind() -> None:
    """Calls cancelled in backoff leave no memory behind, and the threads go (C2, E1, G2)."""

    def fail() -> NoReturn:
        raise ConnectionError

    with RetryingExecutor(1, retry=lambda _: 3600, idle_timeout=0) as executor:
        threads_before = threading.active_count()
        assert 0 == executor.submit(int).result(TIMEOUT)
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            futures = [executor.submit(fail) for _ in range(CANCELLATIONS)]
            assert 0 == executor.submit(int).result(TIMEOUT * 4)
            full = tracemalloc.get_traced_memory()[0]
            workers = executor._core.crew.roster.threads()
            assert CANCELLATIONS == executor.stats().in_backoff
            for future in futures:
                assert future.cancel()
            assert 0 == executor.stats().in_backoff
            assert executor.stats().next_due_at is None
            for worker in workers:
                worker.join(TIMEOUT)
            assert 0 == executor.stats().threads
            assert threads_before == threading.active_count()
            del future
            futures.clear()
            gc.collect()
            after = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert after - before < (full - before) / 100
        assert CANCELLATIONS == executor.stats().cancelled
