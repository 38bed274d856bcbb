"""Who is measured: the standard executor, ours, and what else retries calls, where it is installed.

All retry alike, unless they are told otherwise: five attempts, and delays that grow exponentially from half a
second to a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from retrying_executor import RetryingExecutor

Function = Callable[..., Any]


@dataclass(frozen=True)
class Backoff:
    """When calls are retried: after *first* seconds, doubling up to *longest*, up to *attempts* in all."""

    attempts: int = 5
    first: float = 0.5
    longest: float = 60.0
    jitter: bool = True


@dataclass(frozen=True)
class Contestant:
    """One that is measured.

    Attributes:
        name: What it is called.
        executor: Makes an executor with so many workers.
        decorate: What is put around a function before it is submitted.
        most_calls: How many it is given at most.
        note: Why not more.
    """

    name: str
    executor: Callable[[int], Executor]
    decorate: Callable[[Function], Function] = lambda function: function
    most_calls: int = 1_000_000_000
    note: str = ""

    def calls(self, count: int) -> int:
        """Return how many calls it is given where others get *count*."""
        return min(count, self.most_calls)


STANDARD = Contestant("ThreadPoolExecutor", ThreadPoolExecutor)
OURS = Contestant("RetryingExecutor", RetryingExecutor)


def peers(backoff: Backoff | None = None) -> list[Contestant]:
    """Return those that are installed, with their own or the given *backoff*."""
    makers = {"tenacity": _tenacity, "stamina": _stamina, "more_executors": _more_executors}
    return [make(backoff or Backoff()) for module, make in makers.items() if find_spec(module)]


def everyone() -> list[Contestant]:
    """Return all contestants; the standard executor, which is the baseline, first."""
    return [STANDARD, OURS, *peers()]


def _tenacity(backoff: Backoff) -> Contestant:
    import tenacity

    kind = tenacity.wait_random_exponential if backoff.jitter else tenacity.wait_exponential
    retry = tenacity.retry(
        stop=tenacity.stop_after_attempt(backoff.attempts),
        wait=kind(multiplier=backoff.first, max=backoff.longest),
        reraise=True,
    )
    return Contestant("tenacity in a pool", ThreadPoolExecutor, retry, 10_000, "10,000 calls at most")


def _stamina(backoff: Backoff) -> Contestant:
    import stamina
    from stamina.instrumentation import set_on_retry_hooks

    set_on_retry_hooks([])  # by default it would write to stderr at every retry
    retry = stamina.retry(
        on=Exception,
        attempts=backoff.attempts,
        timeout=None,
        wait_initial=backoff.first,
        wait_max=backoff.longest,
        wait_jitter=1.0 if backoff.jitter else 0.0,
    )
    return Contestant("stamina in a pool", ThreadPoolExecutor, retry, 10_000, "10,000 calls at most")


def _more_executors(backoff: Backoff) -> Contestant:
    from more_executors import Executors

    def executor(workers: int) -> Executor:
        return Executors.thread_pool(max_workers=workers).with_retry(  # type: ignore[no-any-return]
            max_attempts=backoff.attempts, sleep=backoff.first, exponent=2.0, max_sleep=backoff.longest
        )

    note = (
        "1,000 calls at most, since the time for each grows with the backlog; "
        "no shutdown before all are done, since that would lose calls; it has no jitter"
    )
    return Contestant("more-executors", executor, most_calls=1_000, note=note)
