"""What is logged, and how: never a print, and nothing that a hostile object can break.

It goes to the logger ``retrying_executor``; what the standard executor logs too, to its logger.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from functools import partial

from retrying_executor._stdlib import LOGGER, is_held
from retrying_executor._value import in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from retrying_executor._future import Outcome, Work
    from retrying_executor._schedule import Call

logger = logging.getLogger("retrying_executor")


def call_name(fn: object) -> str:
    """Return a name for *fn* that is fit for a log line."""
    try:
        while isinstance(fn, partial):
            fn = fn.func
        module = fn.__module__ or type(fn.__self__).__module__  # type: ignore[attr-defined]  # hence the except
        return f"{module}.{fn.__qualname__}"  # type: ignore[attr-defined]  # hence the except
    except Exception:  # callable objects have no name; hostile ones raise
        return f"{type(fn).__module__}.{type(fn).__qualname__}"


def describe(outcome: object, exception: BaseException | None) -> str:
    """Return what an attempt ended with, fit for a log line."""
    if exception is None:
        return f"rejected result of type {type(outcome).__qualname__}"
    try:
        return f"{type(exception).__qualname__}: {exception}"
    except BaseException:  # whatever a hostile one raises, it is no outcome of the call
        return type(exception).__qualname__


def retry_scheduled(work: Work, number: int, outcome: Outcome, delay: float, reason: str) -> None:
    """An attempt failed, and another follows."""
    if logger.isEnabledFor(logging.INFO):
        message = "%s: attempt %d failed (%s); the next one in %s%s%s"
        at = ""
        with suppress(OverflowError, OSError, ValueError):  # of a delay that ends at no date
            at = time.strftime(", at %H:%M:%S", time.localtime(time.time() + delay)) if delay >= 1.0 else ""
        details = in_words(delay), at, reason and f" ({reason})"
        _log(logging.INFO, message, call_name(work[0]), number, describe(*outcome), *details)


def upstream_changed(name: str, before: str, after: str, held_for: float, *, failed: bool) -> None:
    """An upstream is held, or works again."""
    if after == "held":
        level = logging.WARNING if failed and before != "probing" else logging.INFO  # not for every probe
        _log(level, "upstream %s is held for %s", name, in_words(held_for))
    elif before == "probing" and after in ("ramping", "open"):
        _log(logging.INFO, "upstream %s works again", name)


def initializer_failed(error: BaseException) -> None:
    """The executor is broken; said where the standard executor says it."""
    _log(logging.CRITICAL, "Exception in initializer:", exc_info=error, to=LOGGER)


def worker_interrupted(error: BaseException) -> None:
    """Something that is not an outcome was raised in a worker thread."""
    _log(logging.ERROR, "a done callback, or another thread, raised in a worker thread", exc_info=error)


def time_is_up(cancelled: int, running: Iterable[Call]) -> None:
    """An executor had to end in time: calls that waited were cancelled, those that run are left alone."""
    names = sorted(call_name(work[0]) for call in running if (work := call._work) is not None)
    if cancelled or names:
        message = "time is up: waiting calls cancelled: %d, calls still running: %s"
        _log(logging.WARNING, message, cancelled, ", ".join(names) or "none")


class UnseenFailure:
    """Kept by a failed future alone: when that goes away before somebody looked, it is logged.

    At the end of the interpreter it is logged while logging still works.
    """

    __slots__ = ("__weakref__", "_attempts", "_exception", "_name")

    def __init__(self, name: str, attempts: int, exception: BaseException) -> None:
        self._name = name
        self._attempts = attempts
        self._exception: BaseException | None = exception
        _unseen.add(weakref.ref(self, _unseen.discard))

    def seen(self) -> None:
        """Somebody looked."""
        self._exception = None

    def report(self) -> None:
        """Log the failure, unless it was seen or logged."""
        exception, self._exception = self._exception, None
        if exception is not None:
            overdue.append((self._name, self._attempts, exception))
            report_overdue()

    __del__ = report


overdue: deque[tuple[str, int, BaseException]] = deque()
"""Unseen failures whose futures are gone: name of the call, attempts, exception."""

_unseen: set[weakref.ref[UnseenFailure]] = set()
_guards: set[weakref.ref[threading.RLock]] = set()


def never_log_under(lock: threading.RLock) -> None:
    """From now on, log no unseen failure in a thread that holds *lock*."""
    _guards.add(weakref.ref(lock, _guards.discard))


def report_overdue() -> None:
    """Log the failures that are overdue; later, if this thread holds a pool's lock.

    A future may go away anywhere: the garbage collector runs when it likes, in the middle of a
    critical section too. There, logging could wait for a handler's lock, and whoever has that for
    the pool's, because the handler submits. So workers and ``submit()`` look here afterwards.
    """
    if any(is_held(lock) for ref in _guards.copy() if (lock := ref()) is not None):
        return
    with suppress(IndexError):  # until there is none left
        while True:
            name, attempts, exception = overdue.popleft()
            message = "%s failed after %d attempt%s, and nobody looked at its outcome"
            plural = "" if attempts == 1 else "s"
            _log(logging.ERROR, message, name, attempts, plural, exc_info=exception)


def all_unseen() -> list[UnseenFailure]:
    """Return the failures that nobody looked at, as far as their futures still exist."""
    return [failure for ref in _unseen.copy() if (failure := ref()) is not None]


def forget_unseen() -> None:
    """In a forked child: leave to the parent what was not reported yet."""
    overdue.clear()
    for failure in all_unseen():
        failure.seen()


@atexit.register
def _report_all() -> None:
    report_overdue()
    for failure in all_unseen():
        failure.report()


def _log(
    level: int,
    message: str,
    *args: object,
    exc_info: BaseException | None = None,
    to: logging.Logger = logger,
) -> None:
    # Logging would ask the exception for its truth value.
    details = None if exc_info is None else (type(exc_info), exc_info, exc_info.__traceback__)
    try:
        to.log(level, message, *args, exc_info=details)
    except Exception:
        return  # a handler that raises hurts no call
    except BaseException:
        if threading.current_thread() is threading.main_thread():
            raise  # it may be a signal handler's; in other threads it can only be a log handler's
