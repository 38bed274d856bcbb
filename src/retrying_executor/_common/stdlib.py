"""All private names of the standard library that are used, each with the reason why it is needed.

- The states of a future: `concurrent.futures.wait` and `as_completed`, and asyncio from 3.15 on, read
  ``_state`` directly, so it must hold exactly these.
- ``_AsCompletedWaiter``: what `as_completed` waits with. In virtual time its timeout is handled differently.
- ``LOGGER``: where the standard library logs exceptions of done callbacks and initializers.
- ``_register_atexit``: the interpreter joins threads before it runs `atexit`, and from then on starts no new
  ones. This hook runs before that; the standard executor ends by it too.
- ``_threading_atexits``: the hooks that were registered there. The last comes first, and must be ours: others
  end the engines on which calls still run.
- ``multiprocessing.process._children``: the processes that the end of the interpreter waits for. A worker
  ends its own process, and a forked child must not wait for those of its parent.
- ``_SHUTTING_DOWN``: whether such hooks are refused.
- ``multiprocessing.forkserver._forkserver``: a forked child takes the server of its parent for its own child.
- ``_is_main_interpreter``, and before 3.13 ``_xxsubinterpreters``: whether daemon threads may be used. The
  end of a subinterpreter waits for all other threads, and aborts the process if a daemon thread is left then.
- ``start_joinable_thread``, and before 3.13 ``_set_sentinel`` and ``_shutdown_locks``: a thread that can be
  started anywhere, and that the end of the interpreter waits for.
- ``RLock._is_owned``: whether this thread holds a lock; `threading.Condition` asks that too.
- ``_shutdown_locks_lock``: before 3.13 every new thread takes it before `Thread.start` returns. A destructor
  or signal handler that interrupts the holder of this lock would wait for a start for ever.
- ``BaseEventLoop._closed`` and ``_ready``: a forked child must neither run nor close the event loop of its
  parent. Closing it, as its destructor does, would take out of the parent's selector what wakes the parent.
  ``_ssock`` and ``_csock``, which wake it, are closed alone there, or Python would warn that they never were.
  In virtual time, the clock must not jump while callbacks are ready to run, and says when timers are.
- ``asyncio._set_running_loop``, ``_enter_task`` and the like, documented for those who write event loops: in
  virtual time, a loop is run for a moment in the middle of another one.
- ``BaseEventLoop._default_executor``: closing a loop does not wait for the threads of `asyncio.to_thread`.
- ``sys._is_gil_enabled``: documented, but missing before 3.13.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
from concurrent.futures import _base
from contextlib import contextmanager, suppress
from contextvars import Context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor
    from typing import Any

HAS_GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
"""Whether threads run one at a time. If they do, that does not change while the program runs."""

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


STARTS_TO_THE_END = not (3, 12) <= sys.version_info < (3, 12, 3)
"""Whether threads can still be started while the end of the interpreter waits for others (gh-113964)."""


def start_thread(run: Callable[[], object]) -> None:
    """Start a thread that the end of the interpreter waits for. Takes no lock, and never waits.

    `threading` does not know the thread. So nothing should be logged in it: log records name their thread.
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


def disown_process(process: object) -> None:
    """Have the end of the interpreter, and forked children, not wait for a process: its owner does."""
    from multiprocessing import process as processes

    processes._children.discard(process)  # type: ignore[attr-defined]  # private


def disown_forkserver() -> None:  # pragma: no cover  # in a forked child: test_engine_processes.py
    """In a forked child: have `multiprocessing` start a fork server anew. It would wait for the parent's."""
    module: Any = sys.modules.get("multiprocessing.forkserver")
    if module is None:
        return
    server = module._forkserver
    with suppress(OSError, TypeError):  # there is none
        os.close(server._forkserver_alive_fd)
    server._forkserver_address = server._forkserver_alive_fd = server._forkserver_pid = None
    server._lock = threading.RLock()  # another thread may hold it


def latest_hook() -> object:
    """Return what stands for the hook that was registered last, so that it comes first."""
    hooks: list[object] = threading._threading_atexits  # type: ignore[attr-defined]  # private
    return hooks[-1] if hooks else None


@contextmanager
def hooks_accepted() -> Iterator[None]:
    """While the interpreter ends, have `register_atexit` accept hooks; these are not called any more.

    Some engines register one with each start, and would refuse to start.
    """
    module: Any = threading
    was_refused, module._SHUTTING_DOWN = module._SHUTTING_DOWN, False
    try:
        yield
    finally:
        module._SHUTTING_DOWN = module._SHUTTING_DOWN or was_refused  # the end may have begun meanwhile


def leave_loop(loop: Any) -> None:  # pragma: no cover  # in a forked child: tests/untraced
    """In a forked child, in a coroutine that has forked: run nothing else in this loop of the parent."""
    loop.stop()
    # What the task awaits is not to be told: from Python 3.14 on, that would be an error, which is reported.
    loop.set_exception_handler(lambda *_: None)
    with suppress(AttributeError):  # not asyncio's own: what was ready runs here, too
        loop._ready.clear()


def own_context() -> dict[str, Any]:
    """Return the option of `threading.Thread` with which a thread keeps nothing of the one that starts it.

    From Python 3.14 on it may have the `contextvars` context of that thread, and does without the GIL.
    """
    return {"context": Context()} if sys.version_info >= (3, 14) else {}


def helpers_of(loop: Any) -> Executor | None:
    """Return what runs `asyncio.to_thread` for an event loop, if it is asyncio's own and has run any."""
    return getattr(loop, "_default_executor", None)


def abandon_loop(loop: Any) -> None:
    """In a forked child: let go of a loop of the parent, which does not run here, without closing it."""
    with suppress(AttributeError):  # not asyncio's own: uvloop does not close a loop in its destructor
        loop._closed = True
        loop._ssock.close()
        loop._csock.close()


def has_ready_callbacks(loop: Any) -> bool:
    """Return whether an event loop of asyncio would run something at once."""
    return bool(loop._ready)


def make_ready(loop: Any, handle: Any) -> None:
    """Have an event loop of asyncio run the callback of a handle in its next turn."""
    loop._ready.append(handle)


@contextmanager
def no_running_loop() -> Iterator[None]:
    """If this thread runs an event loop, set that aside: what is done meanwhile may run another one."""
    asyncio: Any = sys.modules.get("asyncio")  # if it is not imported, there is no loop
    if asyncio is None or (outer := asyncio._get_running_loop()) is None:
        yield
        return
    task = asyncio.current_task(outer)
    if task is not None:
        asyncio._leave_task(outer, task)
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(outer)
        if task is not None:
            asyncio._enter_task(outer, task)


def is_held(lock: threading.RLock) -> bool:
    """Return whether this thread holds *lock*."""
    return lock._is_owned()  # type: ignore[attr-defined, no-any-return]  # private


def can_wait_for_a_start() -> bool:
    """Return whether `Thread.start` can be called here without the risk that it waits for ever."""
    lock = getattr(threading, "_shutdown_locks_lock", None)
    return lock is None or not lock.locked()
