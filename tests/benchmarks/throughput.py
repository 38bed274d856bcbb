"""How fast calls get in and through: they do nothing, so that the executor is all there is to measure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from itertools import cycle, product
from typing import Any

from tests.benchmarks.contestants import OURS, STANDARD, Contestant, Function, everyone
from tests.benchmarks.measuring import Line, Scale, Target, against_first, rounds

from retrying_executor import Event, RetryingExecutor, Upstream


def nothing() -> None:
    """The call that is made."""


def submit_and_wait(scale: Scale, target: Target) -> Iterator[Line]:
    """Submit calls and take their results: from the first ``submit()`` to the last ``result()``."""
    count = scale.size(100_000, 2_000)
    for workers, submitters in product((1, 4, 32), (1, 4)):
        samplers = {
            one.name: partial(_submit_and_wait, one, one.calls(count), workers, submitters)
            for one in everyone()
        }
        yield from against_first(
            rounds(samplers, scale.pairs),
            case=f"{_many(workers, 'worker')}, {_many(submitters, 'submitter')}; {count:,} calls",
            target=target,
            notes={one.name: one.note for one in everyone() if one.calls(count) < count},
        )


def _submit_and_wait(contestant: Contestant, count: int, workers: int, submitters: int) -> float:
    """Return the seconds for each call."""
    function = contestant.decorate(nothing)
    each = count // submitters
    instants: list[float] = []
    with contestant.executor(workers) as executor:
        ready = threading.Barrier(submitters, action=lambda: instants.append(time.perf_counter()))
        target = partial(_all_results, executor, function, each, ready, instants)
        threads = [threading.Thread(target=target) for _ in range(submitters)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return (max(instants) - min(instants)) / (each * submitters)


def _all_results(
    executor: Executor, function: Function, count: int, ready: threading.Barrier, instants: list[float]
) -> None:
    ready.wait()
    futures = [executor.submit(function) for _ in range(count)]
    for future in futures:
        future.result()
    instants.append(time.perf_counter())


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count > 1 else ''}"


def with_options(scale: Scale, target: Target) -> Iterator[Line]:
    """Submit calls and take their results, with options for which more is to be done for each call."""
    count, workers = scale.size(20_000, 1_000), 4
    for name, make in (
        ("on_event", partial(RetryingExecutor, on_event=_ignore)),
        ("max_pending", partial(RetryingExecutor, max_pending=count)),
        ("two upstreams in turn", _TwoUpstreams),
    ):
        samplers = {
            one.name: partial(_submit_and_wait, one, count, workers, 1)
            for one in (STANDARD, Contestant(OURS.name, make))
        }
        case = f"{name}, {_many(workers, 'worker')}; {count:,} calls"
        yield from against_first(rounds(samplers, scale.pairs), case=case, target=target)


def _ignore(event: Event) -> None:
    """The listener."""


class _TwoUpstreams(RetryingExecutor):
    """Its calls go to one upstream and to another, in turn."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        upstreams = [Upstream(name, max_concurrency=1_000, rate=(1_000_000, 1.0)) for name in "ab"]
        self._next_view = cycle([self.with_options(upstream=upstream) for upstream in upstreams]).__next__

    def submit(self, fn: Function, /, *args: Any, **kwargs: Any) -> Any:
        return self._next_view().submit(fn, *args, **kwargs)


def submit_alone(scale: Scale, target: Target) -> Iterator[Line]:
    """Submit calls while all workers are busy."""
    count = scale.size(100_000, 2_000)
    for workers in (1, 4):
        samplers = {one.name: partial(seconds_to_submit, one, count, workers) for one in (STANDARD, OURS)}
        case = f"{_many(workers, 'worker')}, busy; {count:,} calls"
        yield from against_first(rounds(samplers, scale.pairs), case=case, target=target)


def seconds_to_submit(contestant: Contestant, count: int, workers: int) -> float:
    """Return the seconds for each ``submit()``."""
    with busy(contestant, workers) as (executor, _):
        began_at = time.perf_counter()
        futures = [executor.submit(nothing) for _ in range(count)]
        elapsed = time.perf_counter() - began_at
        executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in futures)
    return elapsed / count


@contextmanager
def busy(contestant: Contestant, workers: int) -> Iterator[tuple[Executor, Callable[[], None]]]:
    """Yield an executor all of whose workers are busy, and what lets them go; afterwards, they are."""
    release, started = threading.Event(), threading.Barrier(workers + 1)

    def block() -> None:
        started.wait()
        release.wait()

    with contestant.executor(workers) as executor:
        for _ in range(workers):
            executor.submit(block)
        started.wait()
        try:
            yield executor, release.set
        finally:
            release.set()
