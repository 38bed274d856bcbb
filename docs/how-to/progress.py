"""Record what `watch()` shows of retries, a service that is held and a limit, as a moving picture.

``--run`` runs the program that is recorded. ``--write`` records it anew (needs rich), ``--check`` fails if it
shows something else by now, apart from numbers.
"""

# ruff: noqa: T201  # a command speaks by printing

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import demo

from retrying_executor import RetryingExecutor, Upstream, current_call, watch

PICTURE = Path(__file__).with_suffix(".svg")
COLUMNS = 96
BEGAN_AT = time.monotonic()
DOWN = 1.5, 3.5  # from when until when the billing service is, in seconds


def charge(order: int) -> int:
    """Stand-in for a call to a service that is down for a while; every seventh call fails at first."""
    time.sleep(0.05)
    if DOWN[0] <= time.monotonic() - BEGAN_AT < DOWN[1]:
        raise ConnectionError("connection refused")
    if order % 7 == 0 and current_call().attempt == 1:
        raise TimeoutError("took too long")
    return order


async def search(word: int) -> int:
    """Stand-in for a call that takes no thread, to a service that allows 25 at a time."""
    await asyncio.sleep(0.4)
    return word


def program() -> None:
    """Make the calls, and show how far they are."""
    billing = Upstream("billing", initial_hold=1.0, max_hold=2.0)
    engine = Upstream("search", max_concurrency=25)
    logging.getLogger("retrying_executor").setLevel(logging.ERROR)
    with RetryingExecutor(max_workers=4) as executor, watch(executor):
        to_billing, to_engine = (executor.with_options(upstream=one) for one in (billing, engine))
        for number in range(250):
            to_billing.submit(charge, number)
            to_engine.submit(search, number)
    print("all done")


def record(is_brief: bool) -> list[tuple[float, demo.Shown]]:
    """Record the program; it is brief enough."""
    return demo.record([sys.executable, __file__, "--run"], COLUMNS, "python program.py")


if __name__ == "__main__":
    if sys.argv[1:] == ["--run"]:
        program()
    else:
        title = "A terminal: a bar moves, and below it is shown where the calls stand that are not done yet"
        demo.run(record, PICTURE, COLUMNS, title, __doc__)
