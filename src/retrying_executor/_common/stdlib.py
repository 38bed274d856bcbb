"""Private names of the standard library, all of them, each with the reason why it is needed.

- A future's states: `concurrent.futures.wait` and `as_completed`, and asyncio from 3.15 on, read
  ``_state`` directly, so it must hold exactly these.
- ``_AsCompletedWaiter``: what `as_completed` waits with; in virtual time it is told in another way that it is
  too late.
- ``LOGGER``: where the standard library logs what a done callback or an initializer raises.
- ``_register_atexit``: the interpreter joins threads before it runs `atexit`, and refuses to
  start new ones from then on. This hook runs before; it is how the standard executor ends too.
- ``_daemon_threads_allowed``: not in every subinterpreter, and not there before 3.12.
- ``RLock._is_owned``: whether this thread holds a lock; what `threading.Condition` asks too.
- ``_shutdown_locks_lock``: before 3.13 every new thread takes it before `Thread.start` returns. It is not
  reentrant, so who is interrupted while holding it cannot wait for a start.
- ``sys._is_gil_enabled``: documented, but not there before 3.13.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures._base import (
    _STATE_TO_DESCRIPTION_MAP as STATE_NAMES,
)
from concurrent.futures._base import (
    CANCELLED,
    CANCELLED_AND_NOTIFIED,
    FINISHED,
    LOGGER,
    PENDING,
    RUNNING,
)
from concurrent.futures._base import (
    _AsCompletedWaiter as AsCompletedWaiter,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

HAS_GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
"""Whether threads run one at a time. Where it is so when the program begins, it stays so."""

DONE_STATES = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})

__all__ = [
    "CANCELLED_AND_NOTIFIED",
    "DONE_STATES",
    "FINISHED",
    "HAS_GIL",
    "LOGGER",
    "PENDING",
    "RUNNING",
    "STATE_NAMES",
    "AsCompletedWaiter",
    "can_wait_for_a_start",
    "has_daemons",
    "is_held",
    "register_atexit",
]

register_atexit: Callable[[Callable[[], None]], None]
register_atexit = threading._register_atexit  # type: ignore[attr-defined]  # private

has_daemons: Callable[[], bool] = getattr(threading, "_daemon_threads_allowed", lambda: True)
"""Returns whether there may be threads that the end of this interpreter does not wait for."""


def is_held(lock: threading.RLock) -> bool:
    """Return whether this thread holds *lock*."""
    return lock._is_owned()  # type: ignore[attr-defined, no-any-return]  # private


def can_wait_for_a_start() -> bool:
    """Return whether `Thread.start` cannot meet a lock that it would wait for for ever."""
    lock = getattr(threading, "_shutdown_locks_lock", None)
    return lock is None or not lock.locked()
