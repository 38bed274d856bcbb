"""A service that executors call, as its users see it: its limits, what it is doing, and a hold by hand."""

from __future__ import annotations

import math
from functools import partial

from retrying_executor._common.callables import checked_filter
from retrying_executor._common.misuse import refuse_to_copy, says_where
from retrying_executor._common.public import public
from retrying_executor._common.values import (
    checked_int,
    checked_name,
    optional_seconds,
    positive_seconds,
    seconds,
)
from retrying_executor._upstream.evidence import service_failed
from retrying_executor._upstream.gate import Gate
from retrying_executor._upstream.places import Places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from retrying_executor._common.values import Duration
    from retrying_executor._upstream.gate import State

    RecordExceptions: TypeAlias = (
        type[BaseException] | tuple[type[BaseException], ...] | Callable[[Exception], object]
    )


_MOST_STARTS = 1_000_000  # of which the times are kept


@public
class Upstream:
    """A service, and what is known of it: its limits, and whether it works.

    Given to executors and views as ``upstream=``, as many as call the service. A call that may not start
    waits without a thread, and uses up no attempt. Calls of other upstreams go on.

    The service is *held* when it asks to wait (``Retry-After`` and its like), and when it fails, or says "not
    now" without a time, *hold_after* times in a row: nothing starts any more. Only failures of its own count,
    see *record_exceptions*. When the time is over, one attempt starts, the probe: of a call that did not fail
    last, an untried one first. It is not counted if the service fails. If it gets through, the others follow
    in a ramp: 2 in flight, then 4, and so on; if not, the next hold is twice as long.

    Args:
        name: What to call it in logs: text in one line.
        max_concurrency: How many attempts may run at once, over all executors: 1 or more, or ``None`` for
            no limit.
        rate: How many attempts may be let through in how many seconds, as ``(10, 1.0)``: never more than 10
            in any window of a second; ``None`` for no limit. When an attempt that was let through begins is
            up to the machine, usually within a millisecond. Up to 1,000,000.
        hold_after: After how many failures in a row, with no success between, it is held; 1 or more, or
            ``None``: only when it asks for it.
        record_exceptions: Which exceptions count as failures of the service: a class, a tuple of classes, or
            a callable from the exception to a ``bool``. The default is `service_failed`. Others tell nothing
            bad of it, and neither does a result that the policy rejects. "Not now" without a time counts as
            a failure whatever this is, since the service said so.
        initial_hold: How long the first hold is, in seconds, less jitter of up to a half; more than 0.
        max_hold: How long a hold may become, in seconds; *initial_hold* or more. What the service asks for
            may be longer.
        max_pending: How many calls to it may be accepted and not done, over all executors: 1 or more, or
            ``None`` for no limit. At that, ``submit()`` does what the executor's ``when_full`` says. So a
            service that is down does not use up the ``max_pending`` of an executor that serves others too.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of its range.
    """

    __slots__ = ("__weakref__", "_is_recorded", "_places")  # so that nobody sets a limit later, in vain
    _given_as = "upstream"
    __reduce__ = refuse_to_copy

    @says_where("upstream=Upstream(..., {}=...)")
    def __init__(
        self,
        name: str,
        *,
        max_concurrency: int | None = None,
        rate: tuple[int, Duration] | None = None,
        hold_after: int | None = 5,
        record_exceptions: RecordExceptions = service_failed,
        initial_hold: Duration = 1.0,
        max_hold: Duration = 60.0,
        max_pending: int | None = None,
    ) -> None:
        checked_name("name", name)
        first, longest = positive_seconds("initial_hold", initial_hold), seconds("max_hold", max_hold)
        if longest < first:
            raise ValueError(f"max_hold must be {first!r} (initial_hold) or more, not {max_hold!r}")
        classes = checked_filter("record_exceptions", record_exceptions)
        self._is_recorded: Callable[[Exception], object] = (
            record_exceptions  # type: ignore[assignment]  # it is callable
            if classes is None
            else lambda exception: isinstance(exception, classes)
        )
        limits = {"max_concurrency": max_concurrency, "rate": rate, "max_pending": max_pending}
        about = repr(name) + "".join(f", {limit}={value!r}" for limit, value in limits.items() if value)
        backlog = None
        if max_pending is not None:
            from retrying_executor._upstream.backlog import Backlog  # few upstreams have one

            backlog = Backlog(name, checked_int("max_pending", max_pending))
        new_gate = partial(
            Gate,
            max_concurrency=_limit("max_concurrency", max_concurrency),
            rate=_checked_rate(rate),
            hold_after=_limit("hold_after", hold_after),
            initial_hold=first,
            max_hold=longest,
        )
        self._places = Places(name, about, new_gate, backlog)  # for the cores: see `Terms`

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._places}>"

    @property
    def name(self) -> str:
        """What it is called."""
        return self._places.name

    @property
    def state(self) -> State:
        """What it is doing.

        ``"open"``: attempts start, within the limits; ``"held"``: none does; ``"probing"``: the hold is over,
        and one attempt starts as soon as there is a call, or is running; ``"ramping"``: it got through, and
        the others follow.
        """
        return self._places.state

    @property
    def held_until(self) -> float | None:
        """When the hold ends, on the clock of `time.monotonic`; ``None`` if there is none."""
        return self._places.held_until

    @property
    def in_flight(self) -> int:
        """How many attempts are running."""
        return self._places.in_flight

    def pause(self, duration: Duration | None = None) -> None:
        """Hold it, from now on: nothing starts, what is running goes on.

        That replaces the hold that there is, if there is one, even by a shorter one.

        Args:
            duration: For how long, in seconds; ``None``: until `resume`.

        Raises:
            TypeError: If *duration* is neither a number nor a ``timedelta``.
            ValueError: If it is negative, infinite or not a number (NaN).
        """
        length = optional_seconds("duration", duration)
        self._places.pause(math.inf if length is None else length)

    def resume(self) -> None:
        """End the hold, whatever made it: a probe goes out, and the others follow in a ramp."""
        self._places.resume()


def checked_upstream(upstream: object) -> Upstream | None:
    """Return *upstream* if it can serve as the ``upstream`` option.

    Raises:
        TypeError: If it is neither ``None`` nor an `Upstream`.
    """
    if upstream is not None and not isinstance(upstream, Upstream):
        raise TypeError(f"upstream must be an Upstream or None, not {upstream!r}")
    return upstream


def _limit(name: str, value: object) -> float:
    return math.inf if value is None else checked_int(name, value)


def _checked_rate(rate: object) -> tuple[int, float] | None:
    if rate is None:
        return None
    if not isinstance(rate, tuple) or len(rate) != 2:
        raise TypeError(f"rate must be a tuple (attempts, seconds), not {rate!r}")
    window = positive_seconds("rate[1]", rate[1])
    if checked_int("rate[0]", rate[0]) > _MOST_STARTS:
        raise ValueError(f"rate[0] must be at most {_MOST_STARTS}, not {rate[0]!r}")
    return rate[0], window
