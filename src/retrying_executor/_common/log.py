"""What is logged, and how: never a print, and nothing that a hostile object can break.

It goes to the logger ``retrying_executor``; what the standard executor logs too, to its logger. Every
record has a ``kind``, and what its message names is there in fields of its own (``extra``) too.

What an operator must know is a warning or more: these are shown unless logging is configured otherwise.
Where one cause has many such messages, not all of them are: see `Repeats`.
"""

from __future__ import annotations

import atexit
import logging
import math
import sys
import threading
import time
import traceback
import weakref
from _thread import start_new_thread
from collections import deque
from contextlib import suppress
from functools import partial
from itertools import count

from retrying_executor._common.exceptions import class_name, traceback_of
from retrying_executor._common.stdlib import HAS_DAEMONS, LOGGER
from retrying_executor._common.values import in_words
from retrying_executor._common.wrapper import Wrapper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Context
    from types import TracebackType


logger = logging.getLogger("retrying_executor")

_SHOWS_NOTES = sys.version_info >= (3, 11)  # in tracebacks
_MOST_TEXT = 1_000  # characters of what an exception says of itself; a service may have said it


def call_name(fn: object) -> str:
    """Return a name for *fn* that is fit for a log line."""
    try:
        while isinstance(fn, (partial, Wrapper)):
            fn = fn.func
        module = fn.__module__ or type(fn.__self__).__module__  # type: ignore[attr-defined]  # hence the except
        return f"{module}.{fn.__qualname__}"  # type: ignore[attr-defined]  # hence the except
    except BaseException:  # callable objects have no name; hostile ones raise
        return f"{type(fn).__module__}.{class_name(fn)}"


def describe(outcome: object, exception: BaseException | None) -> str:
    """Return what an attempt ended with, fit for a log line: in one line, and no more than `_MOST_TEXT`."""
    if exception is None:
        return f"rejected result of type {class_name(outcome)}"
    try:
        text = f"{class_name(exception)}: {exception}"
        rest = f"... ({len(text)} characters)" if len(text) > _MOST_TEXT else ""
        return " ".join(text[:_MOST_TEXT].splitlines()) + rest
    except BaseException:  # whatever a hostile one raises, it is no outcome of the call
        return class_name(exception)


class Subject:
    """The call that a message is about: what tells it apart from others.

    Args:
        name: That of its function; see `call_name`.
        key: That of its future.
        label: That of its view, or ``None``.
        executor: The name of its executor.
    """

    __slots__ = ("executor", "key", "label", "name")

    def __init__(self, name: str, *, key: str, label: str | None, executor: str) -> None:
        self.name = name
        self.key = key
        self.label = label
        self.executor = executor

    def __str__(self) -> str:
        return (
            f"{self.name} [{self.key}]" if self.label is None else f"{self.name} [{self.label}, {self.key}]"
        )

    __repr__ = __str__  # some handlers show the arguments of a message in their own way

    def fields(self) -> dict[str, object]:
        """Return what a record about it has in fields of its own."""
        return {"call": self.name, "label": self.label, "key": self.key, "executor": self.executor}


class FollowUp:
    """What follows a failed attempt, as it is logged and told.

    Args:
        kind: ``"retry_scheduled"``, ``"not_now"`` (the same, where the service said so) or ``"gave_up"``.
        attempt: Which attempt it was; the first is 1.
        delay: Seconds until the next one; ``None``: there is none.
        exception: What it raised; ``None`` if its result was rejected.
        what: In words, what it ended with.
        why: In words, why the delay is what it is, or why no attempt follows; often empty.
    """

    __slots__ = ("attempt", "delay", "exception", "kind", "what", "why")

    def __init__(
        self,
        kind: str,
        attempt: int,
        *,
        delay: float | None,
        exception: BaseException | None,
        what: str,
        why: str,
    ) -> None:
        self.kind = kind
        self.attempt = attempt
        self.delay = delay
        self.exception = exception
        self.what = what
        self.why = f" ({why})" if why else ""


def tells_of_retries() -> bool:
    """Return whether `followed_up` would log anything: otherwise nobody needs to know what to say."""
    return logger.isEnabledFor(logging.INFO)


def followed_up(subject: Subject, news: FollowUp, context: Context) -> None:
    """An attempt failed; whether it is bad news that no other follows, who looks at the outcome knows."""
    delay = news.delay
    extra = {"kind": news.kind, **subject.fields(), "attempt": news.attempt, "reason": news.what}
    about = subject, news.attempt, news.what
    if delay is None:
        message = "%s: gave up after attempt %d (%s)%s"
        _log(logging.INFO, message, *about, news.why, extra=extra, context=context)
        return
    at = ""
    with suppress(OverflowError, OSError, ValueError):  # of a delay that ends at no date
        at = time.strftime(", at %H:%M:%S", time.localtime(time.time() + delay)) if delay >= 1.0 else ""
    message = "%s: attempt %d failed (%s); the next one in %s%s%s"
    details = in_words(delay), at, news.why
    _log(logging.INFO, message, *about, *details, extra={**extra, "delay": delay}, context=context)


def upstream_held(name: str, held_for: float, reason: str, *, is_news: bool) -> None:
    """An upstream is held, because it failed or because it asked for that."""
    level = logging.WARNING if is_news else logging.INFO  # not for every probe
    extra = {"kind": "upstream_held", "upstream": name, "delay": held_for, "reason": reason}
    _log(level, "upstream %s is held for %s: %s", name, in_words(held_for), reason, extra=extra)


def upstream_paused(name: str, duration: float) -> None:
    """An upstream is held by hand."""
    extra = {"kind": "upstream_held", "upstream": name, "delay": duration, "reason": "paused"}
    how_long = "until resume()" if duration == math.inf else f"for {in_words(duration)}"
    _log(logging.INFO, "upstream %s is paused %s", name, how_long, extra=extra)


def upstream_resumed(name: str) -> None:
    """The hold of an upstream was ended by hand."""
    extra = {"kind": "upstream_resumed", "upstream": name}
    _log(logging.INFO, "upstream %s is resumed: a probe comes first", name, extra=extra)


def upstream_back(name: str, *, is_news: bool) -> None:
    """A probe got through: whoever was warned wants to know."""
    extra = {"kind": "upstream_back", "upstream": name}
    _log(logging.WARNING if is_news else logging.INFO, "upstream %s works again", name, extra=extra)


def runs_for_long(subject: Subject, number: int, duration: float, thread: str, stack: str) -> None:
    """An attempt has been running for longer than ``warn_after``."""
    extra = {"kind": "runs_for_long", **subject.fields(), "attempt": number, "duration": duration}
    message = "%s: attempt %d has been running for %s, in thread %s:\n%s"
    _log(logging.WARNING, message, subject, number, in_words(duration), thread, stack.rstrip(), extra=extra)


def listener_failed(kind: str, error: BaseException) -> None:
    """What was given as ``on_event`` raised."""
    level, times = _repeats.level("listener", id(type(error)))
    extra = {"kind": "listener_failed"}
    _log(level, "on_event raised, told of %s%s", kind, times, exc_info=error, extra=extra)


def events_dropped(count: int) -> None:
    """What was given as ``on_event`` is too slow."""
    extra = {"kind": "events_dropped", "count": count}
    _log(logging.WARNING, "on_event falls behind: events dropped so far: %d", count, extra=extra)


def listener_is_late(patience: float) -> None:
    """Somebody waited in vain for ``on_event`` to be told everything."""
    extra = {"kind": "listener_is_late"}
    _log(logging.WARNING, "on_event was not told everything in %s", in_words(patience), extra=extra)


def initializer_failed(error: BaseException, *, breaks: bool = True) -> None:
    """The executor is broken, or a thread is to try again; said where the standard executor says it."""
    if breaks:
        _log(logging.CRITICAL, "Exception in initializer:", exc_info=error, to=LOGGER)
    else:
        message = "Exception in initializer, which is to be tried again:"
        _log(logging.ERROR, message, exc_info=error, to=LOGGER)


def worker_interrupted(error: BaseException) -> None:
    """Something that is not an outcome was raised in a worker thread."""
    level, times = _repeats.level("worker", id(type(error)))  # some classes cannot be hashed
    message = "a done callback, or another thread, raised in a worker thread%s"
    _log(level, message, times, exc_info=error, extra={"kind": "worker_interrupted"})


def time_is_up(cancelled: int, running: list[str], timeout: float) -> None:
    """A shutdown has used up its *timeout*, in seconds: waiting calls are cancelled."""
    _cut_short("time_is_up", f"shutdown timed out after {in_words(max(0.0, timeout))}", cancelled, running)


def interrupted(cancelled: int, running: list[str]) -> None:
    """Ctrl-C has ended a ``with`` block: waiting calls are cancelled, running ones left to finish."""
    _cut_short("interrupted", "interrupted", cancelled, running)


def _cut_short(kind: str, reason: str, cancelled: int, running: list[str]) -> None:
    if cancelled or running:
        extra = {"kind": kind, "cancelled": cancelled, "running": len(running)}
        message = "%s: %d waiting call%s cancelled, %s"
        still = f"still running: {', '.join(running)}" if running else "none still running"
        _log(logging.WARNING, message, reason, cancelled, "" if cancelled == 1 else "s", still, extra=extra)


class Repeats:
    """Tells how loud a message is to be, given how often the like of it was logged.

    Loud are the first three of a kind, then the tenth, the hundredth and so on, which say how many there
    were. The others are logged for debugging. After a quiet while it begins anew.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[object, ...], _Repeated] = {}

    def level(self, *kind: object) -> tuple[int, str]:
        """Count a message of *kind*; return its level, and what to add to it.

        Takes no lock, since destructors get here, wherever they interrupt: each step is one that no other
        thread can divide.
        """
        now = time.monotonic()
        repeated = self._seen.get(kind) or self._seen.setdefault(kind, _Repeated(now))
        if now - repeated.latest > _QUIET:
            repeated = self._seen[kind] = _Repeated(now)
        repeated.latest = now
        number = repeated.count()
        if len(self._seen) > _MOST_KINDS:
            self._forget_some()
        if number <= _LOUD:
            return logging.ERROR, ""
        return logging.ERROR if str(number).rstrip("0") == "1" else logging.DEBUG, f" ({number} times)"

    def _forget_some(self) -> None:
        """Forget a tenth of the kinds: those that have been quiet for longest."""
        kinds = sorted(self._seen.copy().items(), key=lambda item: item[1].latest)
        for kind, _ in kinds[: 1 + len(kinds) // 10]:
            self._seen.pop(kind, None)


class _Repeated:
    """How often messages of one kind were logged, and when the latest."""

    __slots__ = ("count", "latest")

    def __init__(self, now: float) -> None:
        self.count = count(1).__next__
        self.latest = now


_LOUD = 3
_QUIET = 60.0  # seconds
_MOST_KINDS = 1_000
_repeats = Repeats()


class UnseenFailure:
    """Kept by a failed future alone: when that goes away before somebody looked, it is logged soon after.

    A future may go away anywhere: where its last user holds a lock, or the garbage collector runs, in the
    middle of a log handler too. To log there could wait for ever, or recurse. So it is only noted, and logged
    by who holds no lock: a worker between two calls, or else a thread of its own. At the end of the
    interpreter it is logged while logging still works. A subinterpreter has no such thread: if it ended while
    that sleeps, the process would abort.
    """

    __slots__ = ("__weakref__", "_attempts", "_context", "_exception", "_subject")

    def __init__(
        self, subject: Subject, attempts: int, exception: BaseException, context: Context | None = None
    ) -> None:
        self._subject = subject
        self._attempts = attempts
        self._context: Context | None = context
        self._exception: BaseException | None = exception
        _unseen.add(weakref.ref(self, _unseen.discard))

    def seen(self) -> None:
        """Somebody looked."""
        self._exception = self._context = None

    def fall_due(self) -> None:
        """Note the failure as one to be logged, unless it was seen or noted."""
        exception, context = self._exception, self._context
        self.seen()
        if exception is not None:
            overdue.append((self._subject, self._attempts, exception, context))

    def __del__(self) -> None:
        self.fall_due()
        if overdue:
            _report_soon()


overdue: deque[tuple[Subject, int, BaseException, Context | None]] = deque()
"""Unseen failures whose futures are gone: which call, attempts, exception, context of the submitter."""

_unseen: set[weakref.ref[UnseenFailure]] = set()
_SOON = 0.05  # seconds: workers come first, and of many failures one thread sees to all
_is_coming = False  # a thread that will look what is overdue: one at a time, however long handlers take


def _report_soon() -> None:
    """Have a thread log what is overdue. Takes no lock and waits for nobody, wherever it interrupts."""
    global _is_coming
    if _is_coming or not HAS_DAEMONS:
        return
    try:
        _is_coming = True
        start_new_thread(_report_later, ())  # a `threading.Thread` takes locks when it is started
    except BaseException as error:  # an interruption too
        _is_coming = False
        if not isinstance(error, RuntimeError):  # none can be started: the next worker sees to it, or the end
            raise


def _report_later() -> None:  # pragma: no cover  # in a thread that is not measured
    """Have what is overdue logged, if no worker has done so between two calls meanwhile."""
    time.sleep(_SOON)
    if overdue:
        with suppress(Exception):  # none can be started, or the interpreter ends
            # Not in this thread: log records have the name of theirs, and `threading` does not know it.
            threading.Thread(target=_report_now, name="retrying_executor-log", daemon=False).start()
            return
    _look_once_more()


def _report_now() -> None:
    try:
        report_overdue()
    finally:  # after an asynchronous exception, too: others are logged later
        _look_once_more()


def _look_once_more() -> None:
    global _is_coming
    _is_coming = False  # publish first, then look
    if overdue:  # pragma: no cover  # a race
        _report_soon()


def report_overdue() -> None:
    """Log the failures that are overdue. Called where no lock is held."""
    with suppress(IndexError):  # until there is none left
        while True:
            subject, attempts, exception, context = overdue.popleft()
            message = "%s failed after %d attempt%s, and nobody looked at its outcome%s%s"
            plural = "" if attempts == 1 else "s"
            level, times = _repeats.level("unseen", subject.name, id(type(exception)))
            extra = {"kind": "unseen_failure", **subject.fields(), "attempt": attempts}
            details = subject, attempts, plural, times, "" if _SHOWS_NOTES else _notes(exception)
            _log(level, message, *details, exc_info=exception, extra=extra, context=context)


def all_unseen() -> list[UnseenFailure]:
    """Return the failures that nobody looked at, as far as their futures still exist."""
    return [failure for ref in _unseen.copy() if (failure := ref()) is not None]


def forget_unseen() -> None:
    """In a forked child: leave to the parent what was not reported yet."""
    global _is_coming
    _is_coming = False
    overdue.clear()
    for failure in all_unseen():
        failure.seen()


@atexit.register
def _report_all() -> None:
    for failure in all_unseen():
        failure.fall_due()
    report_overdue()


def report_in_time() -> None:
    """Every call has its outcome, and the interpreter ends: see that failures are logged while that works.

    What is registered last is called first, before what stops the listener of a log queue or the like.
    Children of `multiprocessing` may end without `atexit`.
    """
    atexit.unregister(_report_all)
    atexit.register(_report_all)
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        _report_all()


def _notes(exception: BaseException) -> str:
    """Return what has been noted on an exception, such as why its call gave up, for the end of a log line."""
    try:
        return "".join(f" ({note})" for note in getattr(exception, "__notes__", ()))
    except BaseException:  # whatever a hostile one raises
        return ""


def _printable(
    exception: BaseException,
) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """Return what to log of an exception: of one that would break the line what can be said of it."""
    shown, stack = exception, traceback_of(exception)
    try:
        traceback.TracebackException(type(exception), exception, stack, lookup_lines=False)
    except BaseException:  # whatever a hostile one raises
        shown = Exception(f"{describe(None, exception)} (its attributes cannot be read)")
    return type(shown), shown, stack


def _log(
    level: int,
    message: str,
    *args: object,
    exc_info: BaseException | None = None,
    extra: Mapping[str, object] | None = None,
    context: Context | None = None,
    to: logging.Logger = logger,
) -> None:
    # Logging would ask the exception for its truth value.
    details = None if exc_info is None else _printable(exc_info)
    # What is said about a call is said in a copy of its context, for handlers that add what they find there.
    log = partial(to.log, level, message, *args, exc_info=details, extra=extra)
    try:
        if context is None:
            log()
        else:
            context.copy().run(log)
    except Exception:
        return  # a handler that raises hurts no call
    except BaseException:
        if threading.current_thread() is threading.main_thread():
            raise  # it may be a signal handler's; in other threads it can only be a log handler's
