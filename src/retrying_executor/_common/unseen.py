"""Failures that nobody saw: each is logged once its future is gone, or at the end of the interpreter.

A future may go away anywhere, even where its last user holds a lock, or in the middle of a log handler.
Logging right there could wait for ever, or recurse. So the failure is only noted in `overdue`, and logged
where no lock is held: by a worker between two calls, or else by a thread for that. A subinterpreter has no
such thread: if the interpreter ended while that thread sleeps, the process would abort.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
import weakref
from _thread import start_new_thread
from collections import deque
from contextlib import suppress

from retrying_executor._common import log
from retrying_executor._common.stdlib import HAS_DAEMONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextvars import Context


class UnseenFailure:
    """Kept alive by a failed future alone: if it goes away before the outcome was looked at, that is logged.

    Args:
        subject: The call that failed.
        attempts: How many attempts it had; 1 or more.
        exception: What the future raises.
        context: That of the submitter, for log handlers; ``None``: that of the thread that logs.
    """

    __slots__ = ("__weakref__", "_attempts", "_context", "_exception", "_subject")

    def __init__(
        self, subject: log.Subject, attempts: int, exception: BaseException, context: Context | None = None
    ) -> None:
        self._subject = subject
        self._attempts = attempts
        self._context = context
        self._exception: BaseException | None = exception
        _unseen.add(weakref.ref(self, _unseen.discard))

    def seen(self) -> None:
        """Log nothing: the outcome was looked at."""
        self._exception = self._context = None

    def fall_due(self) -> None:
        """Note the failure as one to be logged, unless it was seen, or noted before."""
        exception, context = self._exception, self._context
        self.seen()
        if exception is not None:
            overdue.append((self._subject, self._attempts, exception, context))

    def report(self) -> None:
        """Have the failure logged soon, unless it was seen."""
        self.fall_due()
        if overdue:
            _report_soon()

    def __del__(self) -> None:
        self.report()


overdue: deque[tuple[log.Subject, int, BaseException, Context | None]] = deque()
"""Unseen failures whose futures are gone: the call, its attempts, the exception, the submitter's context."""

_unseen: set[weakref.ref[UnseenFailure]] = set()
_SOON = 0.05  # seconds: workers get the first chance, and one thread logs many failures
_is_coming = False  # whether a thread will look at `overdue`: one at a time, however long log handlers take


def report_overdue() -> None:
    """Log the failures that are overdue. Called where no lock is held."""
    with suppress(IndexError):  # until there is none left
        while True:
            log.unseen_failure(*overdue.popleft())


# -- threads ---------------------------------------------------------------------------------------


def _report_soon() -> None:
    """Have a thread log what is overdue. Takes no lock and never waits: a destructor calls this anywhere."""
    global _is_coming
    if _is_coming or not HAS_DAEMONS:
        return
    try:
        _is_coming = True
        start_new_thread(_report_later, ())  # a `threading.Thread` takes locks when it is started
    except BaseException as error:  # an interruption too
        _is_coming = False
        if not isinstance(error, RuntimeError):  # that: no thread can be started, so it is logged later
            raise


def _report_later() -> None:  # pragma: no cover  # in a thread that is not measured
    """Have what is overdue logged, unless a worker has done so meanwhile."""
    time.sleep(_SOON)
    if overdue:
        with suppress(Exception):  # no thread can be started, or the interpreter ends
            # Not in this thread: `threading` does not know it, and a log record names its thread.
            threading.Thread(target=_report_now, name="retrying_executor-log", daemon=False).start()
            return
    _look_once_more()


def _report_now() -> None:
    try:
        report_overdue()
    finally:  # even after an asynchronous exception, so that later failures are logged
        _look_once_more()


def _look_once_more() -> None:
    """End a reporting thread.

    A destructor in another thread appends to `overdue`, then looks at ``_is_coming``. This thread resets
    ``_is_coming``, then looks at `overdue`. So at least one of them sees that another thread is needed.
    """
    global _is_coming
    _is_coming = False
    if overdue:  # pragma: no cover  # a race
        _report_soon()


# -- the end of the interpreter, and forks ---------------------------------------------------------


def all_unseen() -> list[UnseenFailure]:
    """Return the failures that nobody looked at and whose futures still exist."""
    return [failure for ref in _unseen.copy() if (failure := ref()) is not None]


@atexit.register
def _report_all() -> None:
    for failure in all_unseen():
        failure.fall_due()
    report_overdue()


def report_in_time() -> None:
    """Log failures while that still works. Called as the interpreter ends, once every call has its outcome.

    `atexit` calls first what was registered last. So this registers anew, to come before a function of the
    program that stops the listener of a log queue. Children of `multiprocessing` may end without `atexit`, so
    there the failures are logged at once.
    """
    atexit.unregister(_report_all)
    atexit.register(_report_all)
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        _report_all()


def forget_unseen() -> None:
    """In a forked child: leave to the parent what was not reported before the fork."""
    global _is_coming
    _is_coming = False
    overdue.clear()
    for failure in all_unseen():
        failure.seen()
