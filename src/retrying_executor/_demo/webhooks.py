"""Delivers webhooks through an executor, and watches what becomes of them."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from retrying_executor import Journal, RetryingExecutor, RetryingFuture, RetryPolicy, Upstream
from retrying_executor._demo.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable

    from retrying_executor._demo.scenario import Scenario

REST = 2.0
"""How long after the last call the threads are counted once more, in seconds."""

_TICK = 0.1  # seconds between two looks at what is going on
_NAME = "deliver"  # what the names of the executors' threads begin with
_opener = build_opener(ProxyHandler({}))  # no proxy: the service is on this computer


@dataclass(frozen=True)
class Report:
    """What became of the webhooks; the time is in seconds."""

    delivered: int
    lost: int
    attempts: int
    retries: int
    time: float
    threads_at_peak: int
    threads_at_rest: int
    errors: list[BaseException]


def deliver(url: str, webhook_id: str) -> None:
    """Deliver one webhook, or raise `OSError`: refused, reset, timed out, or answered with an error.

    The key lets the service tell a repetition from a new webhook.
    """
    body = json.dumps({"id": webhook_id, "event": "order.paid"}).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": webhook_id}
    try:
        _opener.open(Request(url, body, headers), timeout=10).close()
    except HTTPError as error:
        error.close()  # nobody reads the body
        raise


def plain(scenario: Scenario) -> ThreadPoolExecutor:
    """Return the executor of the standard library."""
    return ThreadPoolExecutor(scenario.workers, _NAME)


def retrying(scenario: Scenario, journal: Journal | None = None) -> RetryingExecutor:
    """Return the executor that takes its place; with a journal, it keeps its calls there."""
    policy = RetryPolicy(
        max_attempts=None,  # nobody knows how many an outage costs: limit the time instead
        max_elapsed=scenario.max_elapsed,
        initial_delay=0.2,
        max_delay=2.0,
        retry_on=OSError,  # anything else is a mistake of ours
    )
    # While the service is down, one call at a time finds out whether it is back; the others wait.
    service = Upstream("webhooks", hold_after=scenario.workers, initial_hold=0.2, max_hold=1.0)
    return RetryingExecutor(
        scenario.workers, _NAME, retry=policy, upstream=service, idle_timeout=0.5, journal=journal
    )


def deliver_all(
    executor: ThreadPoolExecutor, scenario: Scenario, show: Callable[[float, str], None]
) -> Report:
    """Deliver the webhooks through a new *executor* to a new service; shut the executor down.

    Args:
        executor: What to submit the calls to.
        scenario: What to deliver, and what the service is like.
        show: Called again and again with the share that was delivered, and a text on what is going on.
    """
    service = Service(scenario)
    futures: list[Future[None]] = []
    threads: list[int] = []

    def look(pending: int) -> None:
        threads.append(sum(thread.name.startswith(_NAME) for thread in threading.enumerate()))
        held = f"held {executor.stats().held:4}  " if isinstance(executor, RetryingExecutor) else ""
        text = f"pending {pending:4}  {held}threads {threads[-1]:2}{'' if service.is_up else '  OUTAGE'}"
        show(len(service.ledger) / scenario.calls, text)

    with service.running() as url:
        try:
            began_at = time.monotonic()
            for number in range(scenario.calls):
                futures.append(executor.submit(deliver, url, f"webhook-{number}"))
            deadline = began_at + scenario.max_elapsed
            pending = futures
            while pending := [future for future in pending if not future.done()]:
                look(len(pending))
                if time.monotonic() > deadline:  # max_elapsed does not end calls that were never tried
                    break
                time.sleep(_TICK)  # not wait(): Ctrl-C in there would leave futures locked
            elapsed = time.monotonic() - began_at
            for _ in range(round(REST / _TICK)):
                time.sleep(_TICK)
                look(0)
        finally:
            executor.shutdown(cancel_futures=True)  # nothing is left, unless interrupted, or out of time
            errors = [error for future in futures if not future.cancelled() and (error := future.exception())]
    return Report(
        delivered=len(service.ledger),
        lost=scenario.calls - len(service.ledger),
        attempts=sum(future.attempts if isinstance(future, RetryingFuture) else 1 for future in futures),
        retries=executor.stats().retried if isinstance(executor, RetryingExecutor) else 0,
        time=elapsed,
        threads_at_peak=max(threads),
        threads_at_rest=threads[-1],
        errors=errors,
    )
