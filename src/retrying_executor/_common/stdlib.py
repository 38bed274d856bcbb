"""Private names of the standard library, all of them, each with the reason why it is needed.

- The states of a future: `concurrent.futures.wait` and `as_completed`, and asyncio from 3.15 on, read
  ``_state`` directly, so it must hold exactly these.
- ``_AsCompletedWaiter``: what `as_completed` waits with. In virtual time its timeout is handled differently.
- ``LOGGER``: where the standard library logs exceptions of done callbacks and initializers.
- ``_register_atexit``: the interpreter joins threads before it runs `atexit`, and from then on starts no new
  ones. This hook runs before that; the standard executor ends by it too.
- ``_is_main_interpreter``, and before 3.13 ``_xxsubinterpreters``: the end of a subinterpreter waits for all
  threads but daemon ones, and aborts the process if any is left then.
- ``start_joinable_thread``, and before 3.13 ``_set_sentinel`` and ``_shutdown_locks``: a thread that can be
  started anywhere, and that the end of the interpreter waits for.
- ``RLock._is_owned``: whether this thread holds a lock; `threading.Condition` asks that too.
- ``_shutdown_locks_lock``: before 3.13 every new thread takes it before `Thread.start` returns. It is not
  reentrant: a destructor or signal handler that interrupts its holder must not wait for a start.
- ``sys._is_gil_enabled``: documented, but missing before 3.13.
"""

from __future__ import annotations

import _thread
import sys
import threading
from concurrent.futures import _base
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

HAS_GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
"""Whether threads run one at a time. If they do when the program begins, that does not change."""

PENDING, RUNNING, FINISHED = _base.PENDING, _base.RUNNING, _base.FINISHED
CANCELLED_AND_NOTIFIED = _base.CANCELLED_AND_NOTIFIED
DONE_STATES = frozenset({_base.CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})
STATE_NAMES = _base._STATE_TO_DESCRIPTION_MAP
AsCompletedWaiter = _base._AsCompletedWaiter
LOGGER = _base.LOGGER

register_atexit: Callable[[Callable[[], None]], None]
register_atexit = threading._register_atexit  # type: ignore[attr-defined]  # private


def is_main_interpreter() -> bool:
    """Return whether this is no subinterpreter; ``True`` where that cannot be known."""
    if hasattr(_thread, "_is_main_interpreter"):
        return _thread._is_main_interpreter()  # type: ignore[no-any-return]  # private
    from importlib import import_module  # takes time, and is not needed from Python 3.13 on

    with suppress(ImportError):  # Python may be built without it
        interpreters = import_module("_xxsubinterpreters")
        return bool(interpreters.get_current() == interpreters.get_main())
    return True


HAS_DAEMONS = is_main_interpreter()
"""Whether there may be threads that the end of this interpreter does not wait for."""


def start_thread(run: Callable[[], object]) -> None:
    """Start a thread that the end of the interpreter waits for. Takes no lock, and never waits.

    `threading` does not know the thread. So nothing should be logged in it, since records name their thread.
    """
    start: Any = getattr(_thread, "start_joinable_thread", None)
    if start is not None:
        start(run, daemon=False)
    else:
        _thread.start_new_thread(_run_joinably, (run,))


def _run_joinably(run: Callable[[], object]) -> None:  # pragma: no cover  # in a thread that is not measured
    ended = _thread._set_sentinel()  # type: ignore[attr-defined]  # private
    ended.acquire()  # the interpreter releases it
    with threading._shutdown_locks_lock:  # type: ignore[attr-defined]  # private
        threading._shutdown_locks.add(ended)  # type: ignore[attr-defined]  # private
    run()


def is_held(lock: threading.RLock) -> bool:
    """Return whether this thread holds *lock*."""
    return lock._is_owned()  # type: ignore[attr-defined, no-any-return]  # private


def can_wait_for_a_start() -> bool:
    """Return whether `Thread.start` can be waited for here, without waiting for ever."""
    lock = getattr(threading, "_shutdown_locks_lock", None)
    return lock is None or not lock.locked()
