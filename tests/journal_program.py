"""A program with a journal, for tests that let it live, end or die: see `main`."""

from __future__ import annotations

import os
import sys
import threading
import time

from retrying_executor import Journal, RetryingExecutor, RetryPolicy, Upstream


def succeed(*args: object, **kwargs: object) -> None:
    """Return at once."""


def fail(order: int, *, unless: str = "") -> str:
    """Fail for good unless there is such a file."""
    if not os.path.exists(unless):
        raise ValueError(f"no order {order}\nand no other")
    return f"order {order}"


def refuse() -> None:
    """Fail, so that another attempt follows an hour later."""
    raise ConnectionRefusedError("refused")


def block() -> None:
    """Run for ever."""
    _blocks.set()
    threading.Event().wait()


def hold() -> None:
    """Run until all calls are submitted."""
    assert _are_submitted.wait(60)


_are_submitted, _blocks = threading.Event(), threading.Event()


def main() -> None:
    """Submit calls, say so when all is as it is going to be, and live until standard input is closed.

    Arguments: the directory of the journal; what makes ``fail`` succeed; the keys of calls. A call is of the
    function whose name its key begins with. They are made one after the other, when all are submitted. So no
    transaction follows that writes what becomes of them, unless one fails for good.
    """
    directory, unless, *keys = sys.argv[1:]
    given = {"succeed": ((1, "one", [None]), {"to": "all"}), "fail": ((7,), {"unless": unless})}
    policy = RetryPolicy(delays=(3600.0,), max_elapsed=None, retry_on=OSError)
    journal = Journal(directory, adopts=False)
    executor = RetryingExecutor(1, retry=policy, upstream=Upstream("shop"), exit_timeout=0.1, journal=journal)
    futures = []
    for key in ("hold", *keys):
        name = key.partition("-")[0]
        args, kwargs = given.get(name, ((), {}))
        futures.append(
            executor.with_options(key=key, label="orders").submit(globals()[name], *args, **kwargs)
        )
    _are_submitted.set()
    for future in futures:
        while not (future.done() or future.due_at is not None or _blocks.is_set()):
            time.sleep(0.001)
    print("ready", flush=True)  # noqa: T201  # which the test waits for
    sys.stdin.read()
