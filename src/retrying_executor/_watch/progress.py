"""How far an executor has got, as numbers and as text: pure functions of two snapshots and the time."""

from __future__ import annotations

import math
import time
from collections import deque

from retrying_executor._common.values import Value, in_digits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from retrying_executor._calls.stats import Stats

# The rate is taken over so many seconds, or over so many calls if they took longer.
_WINDOW = 30.0
_FEW = 10
_DAY = 86400.0  # seconds
_MOST_NAMED = 2  # upstreams: there may be thousands


class Progress(Value):
    """How far an executor has got since a first snapshot; times are in seconds.

    Calls that were pending at that time count, and so do those that were submitted later.

    Attributes:
        elapsed: The time since the first snapshot.
        done: Calls that succeeded, failed or were cancelled.
        total: Calls that are done or pending.
        held_for: How long it takes until an upstream opens; ``None`` if that is not known.
        down: In words, which upstreams are held, or have yet to show that they work again.
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
    down: str
    rate: float | None
    eta: float | None

    def is_news(self, before: Progress) -> bool:
        """Return whether anything but the time has changed since *before*."""
        counts = ("done", "total", "failed", "retried", "ready", "running", "in_backoff", "held", "down")
        return any(getattr(self, name) != getattr(before, name) for name in counts)


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
    down: Collection[str] = (),
) -> Progress:
    """Return how far an executor has got from the *first* snapshot to the *last*.

    Args:
        first: What it was doing when the block began.
        last: What it is doing now.
        elapsed: How long ago the block began, in seconds.
        now: The time on the clock of `time.monotonic`.
        rate: Calls per second, see `Throughput`.
        down: The names of the upstreams that are held or have yet to show that they work again.
    """
    succeeded, failed = last.succeeded - first.succeeded, last.failed - first.failed
    cancelled = last.cancelled - first.cancelled
    waiting = last.ready + last.running + last.in_backoff + last.held
    done = succeeded + failed + cancelled
    rest_takes = None
    if done and not waiting:
        rest_takes = 0.0
    elif rate and (last.ready or last.running):  # else all calls wait, nobody knows for how long
        rest_takes = waiting / rate
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
        held=last.held,
        held_for=None if last.opens_at is None else max(0.0, last.opens_at - now),
        down=_few(down),
        rate=rate,
        eta=rest_takes,
    )


def _few(names: Collection[str]) -> str:
    """Return the first of *names*, and how many others there are."""
    more = len(names) - _MOST_NAMED
    return ", ".join(sorted(names)[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


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
    """Return where the pending calls stand, given the time of day in seconds since the epoch."""
    until = ""
    if now.held_for is not None and now.held_for < _DAY:
        until = time.strftime(" until %H:%M:%S", time.localtime(time_of_day + now.held_for))
    elif now.held_for is not None:
        until = f" for {clock(now.held_for)}"
    held = f"held {now.held}{until}" + (f" (down: {now.down})" if now.down else "")
    return f"ready {now.ready}, running {now.running}, in backoff {now.in_backoff}, {held}"


def line(now: Progress, time_of_day: float) -> str:
    """Return the progress in a line, given the time of day in seconds since the epoch."""
    return (
        f"[{clock(now.elapsed)}] done {now.done}/{now.total}, failed {now.failed}, "
        f"{pending(now, time_of_day)}, {per_second(now.rate)}, {eta(now)}"
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
