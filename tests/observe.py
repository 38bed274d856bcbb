"""How tests see what has no event of its own: a thread that ends, a worker that comes to rest."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

import pytest

from conftest import TIMEOUT
from retrying_executor import RetryingExecutor
from retrying_executor._common import unseen
from retrying_executor._common.stdlib import HAS_GIL, STARTS_TO_THE_END

needs_gil = pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(),
    reason="without the GIL an object that threads share goes no sooner than its own thread gets to it",
)
needs_locks_of_workers = pytest.mark.skipif(
    not HAS_GIL, reason="without the GIL workers have no lock of their own"
)

needs_late_starts = pytest.mark.skipif(
    not STARTS_TO_THE_END,
    reason="this Python starts no thread at its end, so that of a loop comes early; nor does it fork then",
)

_never = threading.Event()


def eventually(condition: Callable[[], object]) -> bool:
    """Look until *condition* is true; return whether it ever was, within `TIMEOUT`."""
    deadline = time.monotonic() + TIMEOUT
    while not (met := condition()) and time.monotonic() < deadline:
        _never.wait(0.0002)
    return bool(met)


def see_to_reports() -> None:
    """Return when the failures that nobody looked at are logged, which a thread does a moment later."""
    unseen.report_overdue()
    assert eventually(lambda: not unseen._is_coming)


def resting(executor: RetryingExecutor) -> int:
    """Return how many workers rest, at a gate of their own."""
    roster = executor._core.crew.roster
    return len(roster._resting) + (roster._leading is not None)


def threads_named(prefix: str) -> list[threading.Thread]:
    """Return the live threads whose name begins with *prefix*."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]
