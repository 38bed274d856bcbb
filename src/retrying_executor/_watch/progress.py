"""How far an executor has got, as numbers and as text: pure functions of two snapshots and the time."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import NamedTuple

from retrying_executor._common.values import Value, in_digits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from retrying_executor._calls.stats import Stats

# The rate is taken over so many seconds, or over so many calls if they took longer.
_WINDOW = 30.0
_FEW = 10
_DAY = 86400.0  # seconds
_SOON = 10.0  # seconds: a limit that lets calls through by then shows no time
_NAMES_WIDTH = 30  # characters: if two names of upstreams take more, one is shown


class Queue(NamedTuple):
    """The calls that one upstream does not let through."""

    upstream: str
    calls: int
    is_held: bool
    """Whether the upstream is held or probed; else a limit of it is reached."""
    opens_at: float | None
    """When it lets calls through again, on the clock of `time.monotonic`; ``None`` if that is not known."""


class Progress(Value):
    """How far an executor has got since a first snapshot; times are in seconds.

    Calls that were pending at that time count, and so do those that were submitted later.

    Attributes:
        elapsed: The time since the first snapshot.
        done: Calls that succeeded, failed or were cancelled.
        total: Calls that are done or pending.
        held: Calls that wait for an upstream that is held, or has yet to show that it works again.
        held_for: How long the first of these holds lasts; ``None`` if that is not known.
        held_by: In words, which upstreams these are.
        limited: Calls that wait for an upstream of which a limit is reached.
        limited_for: How long it takes until the first of these lets one through; ``None`` if not known.
        limited_by: In words, which upstreams these are.
        left: Calls of processes that are gone, in the journal and not queued here yet.
        rate: Calls that recently succeeded or failed, per second; ``None`` if no time has passed.
        eta: How long the rest will take at this rate; ``None`` if that is not known.
    """

    elapsed: float
    done: int
    total: int
    succeeded: int
    failed: int
    cancelled: int
    retried: int
    ready: int
    running: int
    in_backoff: int
    held: int
    held_for: float | None
    held_by: str
    limited: int
    limited_for: float | None
    limited_by: str
    left: int
    rate: float | None
    eta: float | None

    def is_news(self, before: Progress) -> bool:
        """Return whether anything but the time has changed since *before*."""
        counts = ("done", "total", "failed", "retried", "ready", "running", "in_backoff", "held", "limited")
        return any(getattr(self, name) != getattr(before, name) for name in (*counts, "held_by"))


class Throughput:
    """Calls carried out per second: in the last half minute, or the last ten calls if they took longer.

    Args:
        now: When it begins, in seconds.
    """

    def __init__(self, now: float) -> None:
        self._marks = deque([(now, 0)])  # (time, calls finished by then)

    def rate(self, now: float, finished: int) -> float | None:
        """Return the rate, given how many calls are finished by now; ``None`` if no time has passed."""
        marks = self._marks
        if finished > marks[-1][1]:
            marks.append((now, finished))
        begins_at = now - _WINDOW
        while len(marks) > 1 and marks[1][0] <= begins_at and finished - marks[1][1] >= _FEW:
            marks.popleft()
        since, before = marks[0]
        is_last_before = len(marks) == 1 or marks[1][0] > begins_at
        if is_last_before and finished - before >= _FEW:  # enough within the window: forget a lull before it
            since = max(since, begins_at)
        return (finished - before) / (now - since) if now > since else None


def progress(
    first: Stats,
    last: Stats,
    *,
    elapsed: float,
    now: float,
    rate: float | None,
    queues: Collection[Queue] = (),
    kept: int = 0,
) -> Progress:
    """Return how far an executor has got from the *first* snapshot to the *last*.

    Args:
        first: What it was doing when the block began.
        last: What it is doing now.
        elapsed: How long ago the block began, in seconds.
        now: The time on the clock of `time.monotonic`.
        rate: Calls per second, see `Throughput`.
        queues: The calls that upstreams do not let through.
        kept: The calls of processes that are gone, if not all of them are queued here; else 0.
    """
    succeeded, failed = last.succeeded - first.succeeded, last.failed - first.failed
    cancelled = last.cancelled - first.cancelled
    held = [queue for queue in queues if queue.is_held]
    limited = [queue for queue in queues if not queue.is_held]
    at_limits = min(sum(queue.calls for queue in limited), last.held)  # the snapshot is a little older
    limited_for = _first_opens(limited, now)
    queued = last.ready + last.running + last.in_backoff + last.held
    waiting = max(queued, kept)  # some of those that are kept are queued: how many is not known
    done = succeeded + failed + cancelled
    rest_takes = None
    if done and not waiting:
        rest_takes = 0.0
    elif rate and (last.ready or last.running or (limited_for is not None and limited_for < _SOON)):
        rest_takes = waiting / rate  # else all calls wait, nobody knows for how long
    return Progress(
        elapsed=elapsed,
        done=done,
        total=done + waiting,
        succeeded=succeeded,
        failed=failed,
        cancelled=cancelled,
        retried=last.retried - first.retried,
        ready=last.ready,
        running=last.running,
        in_backoff=last.in_backoff,
        held=last.held - at_limits,
        held_for=_first_opens(held, now),
        held_by=_few([queue.upstream for queue in held]),
        limited=at_limits,
        limited_for=limited_for,
        limited_by=_few([queue.upstream for queue in limited]),
        left=waiting - queued,
        rate=rate,
        eta=rest_takes,
    )


def _first_opens(queues: Sequence[Queue], now: float) -> float | None:
    times = [queue.opens_at - now for queue in queues if queue.opens_at is not None]
    return max(0.0, min(times)) if times else None


def _few(names: Sequence[str]) -> str:
    """Return the first one or two of *names*, and how many others there are."""
    different = sorted(set(names))
    shown = different[:2] if len(", ".join(different[:2])) <= _NAMES_WIDTH else different[:1]
    more = len(different) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def clock(duration: float) -> str:
    """Return a duration in seconds as hours, minutes and seconds, rounded down: ``0:00:07``."""
    minutes, rest = divmod(int(duration), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def eta(now: Progress) -> str:
    """Return how long the rest will take: ``ETA 0:00:07``, or ``ETA -``."""
    return f"ETA {'-' if now.eta is None else clock(math.ceil(now.eta))}"


def per_second(rate: float | None) -> str:
    """Return a rate as text; ``-`` for none."""
    return "-" if rate is None else f"{in_digits(rate)}/s"


def pending(now: Progress, time_of_day: float) -> str:
    """Return how many calls have failed, and where the pending ones stand.

    Args:
        now: The progress.
        time_of_day: In seconds since the epoch.
    """
    limited_for = None if now.limited_for is not None and now.limited_for < _SOON else now.limited_for
    parts = [
        f"failed {now.failed}",
        now.ready and f"ready {now.ready}",
        f"running {now.running}",
        now.in_backoff and f"in backoff {now.in_backoff}",
        now.held and f"held {now.held}{_until(now.held_for, time_of_day)}{_in_brackets(now.held_by)}",
        now.limited
        and f"at a limit {now.limited}{_until(limited_for, time_of_day)}{_in_brackets(now.limited_by)}",
        now.left and f"left by other processes {now.left}",
    ]
    return ", ".join(part for part in parts if part)


def _until(wait: float | None, time_of_day: float) -> str:
    if wait is None:
        return ""
    if wait < _DAY:
        return time.strftime(" until %H:%M:%S", time.localtime(time_of_day + wait))
    return f" for {clock(wait)}"


def _in_brackets(names: str) -> str:
    return f" ({names})" if names else ""


def line(now: Progress, time_of_day: float) -> str:
    """Return the progress in a line, given the time of day in seconds since the epoch."""
    return (
        f"[{clock(now.elapsed)}] done {now.done}/{now.total}, {pending(now, time_of_day)}, "
        f"{per_second(now.rate)}, {eta(now)}"
    )


def last_line(now: Progress) -> str:
    """Return the last line that is shown."""
    return f"[{clock(now.elapsed)}] ended: done {now.done}/{now.total}, {outcome(now)}"


def outcome(now: Progress) -> str:
    """Return how the calls ended, and how long they took."""
    return (
        f"succeeded {now.succeeded}, failed {now.failed}, cancelled {now.cancelled}, "
        f"retried {now.retried}, took {now.elapsed:.1f} s"
    )
