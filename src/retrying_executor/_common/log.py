"""What is logged, and how: one function for each message.

Messages go to the logger ``retrying_executor``; those that `ThreadPoolExecutor` logs too go to its logger.
Every record of our own logger has a ``kind``, and fields for what its message names (``extra``).

What an operator must know is logged as a warning or an error, which Python shows by default. If one cause may
have many such messages, most of them are for debugging only: see `Repeats`.

No object of the caller's can break a log line, whatever its methods raise.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
import traceback
from collections import Counter
from contextlib import suppress
from functools import partial
from itertools import count

from retrying_executor._common.callables import Wrapper, code_of, unwrapped
from retrying_executor._common.exceptions import class_name, traceback_of
from retrying_executor._common.stdlib import LOGGER
from retrying_executor._common.values import in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextvars import Context
    from types import TracebackType


logger = logging.getLogger("retrying_executor")
_SHOWS_NOTES = sys.version_info >= (3, 11)  # whether a traceback does
_MOST_NAMES = 10  # in one line, of calls that still run
_MOST_TEXT = 1_000  # characters of an exception's message, which may be a whole response of a service
_LOUD = 3  # how many messages of a kind are errors before most are for debugging only
_QUIET = 60.0  # seconds without a message of a kind, after which it is counted anew
_MOST_KINDS = 1_000


class Repeats:
    """Chooses the level of a message by how many of its kind were logged: one cause must not fill the log.

    The first three of a kind are errors, then the tenth, the hundredth and so on, which say how many there
    were. The others are logged at ``DEBUG``. After 60 seconds without any, the count begins anew.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[object, ...], _Repeated] = {}

    def level(self, *kind: object) -> tuple[int, str]:
        """Count a message of *kind*; return its level, and what to add to it.

        Takes no lock: a destructor may log, and it may interrupt the thread that holds the lock. Each step is
        atomic instead.
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
        """Forget the tenth of the kinds that have been quiet for longest."""
        kinds = sorted(self._seen.copy().items(), key=lambda item: item[1].latest)
        for kind, _ in kinds[: 1 + len(kinds) // 10]:
            self._seen.pop(kind, None)


class _Repeated:
    """How many messages of one kind were logged, and when the latest was."""

    __slots__ = ("count", "latest")

    def __init__(self, now: float) -> None:
        self.count = count(1).__next__
        self.latest = now


_repeats = Repeats()


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
    """Return how an attempt ended, fit for a log line: on one line, and cut off after `_MOST_TEXT`."""
    if exception is None:
        return f"rejected result of type {class_name(outcome)}"
    try:
        text = f"{class_name(exception)}: {exception}"
        rest = f"... ({len(text)} characters)" if len(text) > _MOST_TEXT else ""
        return " ".join(text[:_MOST_TEXT].splitlines()) + rest
    except BaseException:  # a hostile exception may raise anything, but that is no outcome of the call
        return class_name(exception)


class Subject:
    """Identifies the call that a message is about.

    Args:
        name: The name of its function; see `call_name`.
        key: The key of its future.
        label: The label of its view, or ``None``.
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

    __repr__ = __str__  # some handlers format the arguments of a message themselves

    def fields(self) -> dict[str, object]:
        """Return the fields that a record about the call has."""
        return {"call": self.name, "label": self.label, "key": self.key, "executor": self.executor}


class FollowUp:
    """What follows a failed attempt, for the log and for events.

    Args:
        kind: ``"retry_scheduled"``, ``"not_now"`` (the same, where the service said so) or ``"gave_up"``.
        attempt: The attempt that failed; the first is 1.
        delay: Seconds until the next attempt; ``None``: there is none.
        exception: What the attempt raised; ``None`` if its result was rejected.
        what: In words, how the attempt ended.
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
    """Return whether `followed_up` logs anything at present; if not, its arguments need not be made."""
    return logger.isEnabledFor(logging.INFO)


def followed_up(subject: Subject, news: FollowUp, context: Context) -> None:
    """An attempt failed. That is no warning: only the caller knows whether giving up is bad news."""
    delay = news.delay
    extra = {"kind": news.kind, **subject.fields(), "attempt": news.attempt, "reason": news.what}
    about = subject, news.attempt, news.what
    if delay is None:
        message = "%s: gave up after attempt %d (%s)%s"
        _log(logging.INFO, message, *about, news.why, extra=extra, context=context)
        return
    at = ""
    with suppress(OverflowError, OSError, ValueError):  # a long delay may end after the last date there is
        at = time.strftime(", at %H:%M:%S", time.localtime(time.time() + delay)) if delay >= 1.0 else ""
    message = "%s: attempt %d failed (%s); the next one in %s%s%s"
    details = in_words(delay), at, news.why
    _log(logging.INFO, message, *about, *details, extra={**extra, "delay": delay}, context=context)


def upstream_held(name: str, held_for: float, reason: str, *, is_news: bool) -> None:
    """An upstream is held, because it failed or asked to be left alone."""
    level = logging.WARNING if is_news else logging.INFO  # each probe that fails leads to one more hold
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
    """A probe succeeded. That is a warning if the hold was one: its reader wants to know the end."""
    extra = {"kind": "upstream_back", "upstream": name}
    _log(logging.WARNING if is_news else logging.INFO, "upstream %s works again", name, extra=extra)


def runs_for_long(
    subject: Subject, number: int, duration: float, where: str, stack: str, *, kind: str = "runs_for_long"
) -> None:
    """An attempt has been running for longer than ``warn_after``, *where* its stack says.

    Args:
        subject: The call.
        number: Which attempt it is.
        duration: For how many seconds.
        where: What to say before the stack.
        stack: Of its thread, or of its coroutine; nothing if it cannot be seen.
        kind: That of the record: ``"blocks_loop"`` if it is a coroutine that blocks all others.
    """
    extra = {"kind": kind, **subject.fields(), "attempt": number, "duration": duration}
    stack = f":\n{stack.rstrip()}" if stack else ""
    message = "%s: attempt %d has been running for %s, %s%s"
    _log(logging.WARNING, message, subject, number, in_words(duration), where, stack, extra=extra)


def listener_failed(kind: str, error: BaseException) -> None:
    """``on_event`` raised an exception."""
    level, times = _repeats.level("listener", id(type(error)))
    extra = {"kind": "listener_failed"}
    _log(
        level,
        "on_event raised an exception when it was told of %s%s",
        kind,
        times,
        exc_info=error,
        extra=extra,
    )


def events_dropped(count: int) -> None:
    """``on_event`` is too slow: its queue was full."""
    extra = {"kind": "events_dropped", "count": count}
    _log(logging.WARNING, "on_event is too slow: %d events dropped so far", count, extra=extra)


def listener_is_late(waited: float) -> None:
    """The end of an executor waited that many seconds for ``on_event``, which was not told everything."""
    extra = {"kind": "listener_is_late"}
    _log(
        logging.WARNING,
        "on_event has not been told everything: stopped waiting after %s",
        in_words(waited),
        extra=extra,
    )


def initializer_failed(error: BaseException, *, breaks: bool = True) -> None:
    """The initializer raised: the executor is broken, or a thread calls it again. To the standard log."""
    if breaks:
        _log(logging.CRITICAL, "Exception in initializer:", exc_info=error, to=LOGGER)
    else:
        message = "Exception in initializer; it will be called again:"
        _log(logging.ERROR, message, exc_info=error, to=LOGGER)


def worker_interrupted(error: BaseException) -> None:
    """A worker thread got an exception that is not the outcome of a call."""
    level, times = _repeats.level("worker", id(type(error)))  # by id: some classes cannot be hashed
    message = "a done callback, or another thread, raised in a worker thread%s"
    _log(level, message, times, exc_info=error, extra={"kind": "worker_interrupted"})


def time_is_up(
    cancelled: int, running: list[str], timeout: float, fate: str, killed: Sequence[str] = ()
) -> None:
    """A shutdown has used up its *timeout*, in seconds: waiting calls were cancelled, and some killed."""
    reason = f"shutdown timed out after {in_words(max(0.0, timeout))}"
    _cut_short("time_is_up", reason, cancelled, running, fate, killed)


def engine_restarts(restarts: int, pause: float, why: str) -> None:
    """An engine dies again and again, and waits before it is started once more."""
    level, times = _repeats.level("engine")
    message = "%s; %d restart%s without an attempt that completes, the next follows in %s%s"
    extra = {"kind": "engine_restarts", "restarts": restarts, "delay": pause}
    plural = "" if restarts == 1 else "s"
    level = min(level, logging.WARNING)
    _log(level, message, why, restarts, plural, in_words(pause), times, extra=extra)


def engine_does_not_end(engine: object, error: BaseException | None) -> None:
    """The ``shutdown()`` of an engine has raised *error*, or has not returned in time."""
    extra = {"kind": "engine_does_not_end"}
    what = "does not return from" if error is None else "raised an exception in"
    _log(
        logging.WARNING,
        "the engine, a %s, %s shutdown()",
        class_name(engine),
        what,
        exc_info=error,
        extra=extra,
    )


def coroutine_returned(fn: object) -> None:
    """A call has returned a coroutine, as its result: said once of each function."""
    name = call_name(fn)
    which = code_of(unwrapped(fn)) or name
    if which in _returning_coroutines:
        return
    _returning_coroutines.add(which)
    message = (
        "%s returned a coroutine, which is the result of the call: nothing runs it unless you do. To have it"
        " run, submit a function made with async def, which awaits it: submit(fn, *args)"
    )
    _log(logging.WARNING, message, name, extra={"kind": "coroutine_returned", "call": name})


_returning_coroutines: set[object] = set()


def interrupted(cancelled: int, running: list[str], fate: str) -> None:
    """Ctrl-C has ended a ``with`` block: waiting calls were cancelled, running ones are left to finish."""
    _cut_short("interrupted", "interrupted", cancelled, running, fate)


def journal_adopted(number: int, directory: object) -> None:
    """Calls of processes that are gone were taken over."""
    extra = {"kind": "journal_adopted", "calls": number}
    message = "took over %d call%s of processes that are gone (journal %s)"
    _log(logging.INFO, message, number, "" if number == 1 else "s", directory, extra=extra)


def journal_unknown(function: str, key: str, error: BaseException) -> None:
    """A call of the journal cannot be read by this program: it is left where it is."""
    level, times = _repeats.level("journal", function, id(type(error)))
    extra = {"kind": "journal_unknown", "call": function, "key": key}
    message = (
        "a call of %s [%s] is left in the journal, since it cannot be read here: %s%s. It is tried again with"
        " the next look: with submit() now and then, or adopt(). The usual cause is a function that is"
        " defined below the executor, or that was renamed (renamed= of Journal)"
    )
    _log(level, message, function, key, describe(None, error), times, extra=extra)


def journal_without_view(function: str, label: str | None, upstreams: str | None) -> None:
    """A call was submitted by a view that this program does not have: it goes on on other terms."""
    level, times = _repeats.level("journal, no view", label, upstreams)
    extra = {"kind": "journal_without_view", "call": function, "label": label, "upstream": upstreams}
    message = (
        "a call of %s goes on without its view, which is not there (label %r, upstream %r): "
        "the executor's own policy and limits hold%s"
    )
    _log(min(level, logging.WARNING), message, function, label, upstreams, times, extra=extra)


def journal_gone(path: object) -> None:
    """Somebody has deleted a file while its executor lives."""
    extra = {"kind": "journal_gone", "path": str(path)}
    message = "journal file %s was deleted while it was in use: what was in it is lost if this process dies"
    _log(logging.ERROR, message, path, extra=extra)


def journal_set_aside(function: str, crashes: int, directory: object) -> None:
    """A call was running whenever its process died: it does not run any more."""
    extra = {"kind": "journal_set_aside", "call": function}
    message = (
        "a call of %s is set aside in the journal DIR = %s: its process died %d times while it ran. Its key"
        " is in `python -m retrying_executor journal list DIR --failed`. If it is to run again,"
        " use `python -m retrying_executor journal retry DIR KEY`"
    )
    _log(logging.ERROR, message, function, directory, crashes, extra=extra)


def journal_damaged(path: object, error: BaseException) -> None:
    """A file of the journal cannot be read. If it is damaged, it has been put out of the way."""
    extra = {"kind": "journal_damaged", "path": str(path)}
    aside = f"{path}.corrupt"
    # To look is safer than to be told: even a file that is damaged may be one that cannot be renamed.
    if os.path.exists(aside):
        message = "journal file %s is damaged: %s. It was renamed to %s, and calls still in it are not made"
        rest = os.path.basename(aside)
    else:
        message = "journal file %s cannot be read or written: %s. It is tried again with the next look%s"
        rest = ""
    _log(logging.ERROR, message, path, describe(None, error), rest, extra=extra)


def journal_left_alone(path: object, why: str) -> None:
    """A file of the journal is for another version, or cannot be opened now."""
    extra = {"kind": "journal_left_alone", "path": str(path)}
    _log(logging.WARNING, "journal file %s is left alone: %s", path, why, extra=extra)


def _cut_short(
    kind: str, reason: str, cancelled: int, running: list[str], fate: str, killed: Sequence[str] = ()
) -> None:
    if cancelled or running or killed:
        extra = {"kind": kind, "cancelled": cancelled, "running": len(running), "killed": len(killed)}
        message = "%s: %d waiting call%s %s, %s"
        still = f"still running: {_listed(running)}" if running else "none still running"
        if killed:
            still = f"killed: {_listed(killed)}, {still}"
        plural = "" if cancelled == 1 else "s"
        _log(logging.WARNING, message, reason, cancelled, plural, fate, still, extra=extra)


def _listed(names: Sequence[str]) -> str:
    if len(names) > _MOST_NAMES:  # coroutines may be thousands
        names = [f"{times} x {name}" for name, times in Counter(names).items()]
    return ", ".join(names)


def unseen_failure(
    subject: Subject, attempts: int, exception: BaseException, context: Context | None
) -> None:
    """A call failed, its future is gone, and its outcome was never looked at."""
    level, times = _repeats.level("unseen", subject.name, id(type(exception)))
    message = "%s failed after %d attempt%s, and nobody looked at its outcome%s%s"
    details = "" if attempts == 1 else "s", times, "" if _SHOWS_NOTES else _notes(exception)
    extra = {"kind": "unseen_failure", **subject.fields(), "attempt": attempts}
    _log(level, message, subject, attempts, *details, exc_info=exception, extra=extra, context=context)


def _notes(exception: BaseException) -> str:
    """Return the notes of an exception, such as why its call gave up, for the end of a log line."""
    try:
        return "".join(f" ({note})" for note in getattr(exception, "__notes__", ()))
    except BaseException:  # a hostile exception may raise anything
        return ""


def _printable(
    exception: BaseException,
) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """Return an exception as ``exc_info``; if it cannot be formatted, another one that says so."""
    shown, stack = exception, traceback_of(exception)
    try:
        traceback.TracebackException(type(exception), exception, stack, lookup_lines=False)
    except BaseException:  # a hostile exception may raise anything
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
    # A tuple, since logging would call the `__bool__` of an exception.
    details = None if exc_info is None else _printable(exc_info)
    # Handlers may add what is in the context, such as a request id. So they run in a copy of the call's own.
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
            raise  # a signal handler may have raised it; in other threads, only a log handler can have
