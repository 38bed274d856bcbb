"""A service that executors call, as its users see it: its limits, what it is doing, and a hold by hand."""

from __future__ import annotations

import math
from functools import partial

from retrying_executor._common.callables import checked_filter
from retrying_executor._common.misuse import refuse_to_copy, says_where
from retrying_executor._common.public import public
from retrying_executor._common.values import (
    as_float,
    checked_bool,
    checked_int,
    checked_name,
    checked_weight,
    optional_seconds,
    positive_seconds,
    seconds,
    sequence,
)
from retrying_executor._upstream.evidence import service_failed
from retrying_executor._upstream.gate import Gate
from retrying_executor._upstream.places import Places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from retrying_executor._common.values import Duration
    from retrying_executor._upstream.gate import State
    from retrying_executor._upstream.limits import Limit

    RecordExceptions: TypeAlias = (
        type[BaseException] | tuple[type[BaseException], ...] | Callable[[Exception], object]
    )


_MOST_STARTS = 1_000_000  # in a window: the time of each is kept


@public
class Upstream:
    """A service, and what is known of it: its limits, and whether it works.

    Make one `Upstream` for each service, and give it to all executors and views that call the service, as
    ``upstream=``. Two objects with the same name know nothing of each other. A call that may not start waits
    without a thread, and uses up no attempt. Calls to other upstreams go on.

    While the service is *held*, no attempt starts. It is held when it asks to wait (``Retry-After`` and the
    like), and when *hold_after* attempts in a row fail, or get a "not now" without a time. Only failures of
    the service count, see *record_exceptions*. After the hold one attempt starts, the *probe*: of a call that
    was not tried yet, if there is one, or else of one whose last attempt did not fail. It uses up no attempt
    if the service fails. If it gets through, other attempts follow in a *ramp*: 2 in flight, then 4, and so
    on. If not, the next hold is twice as long.

    After a hold because of "not now" without a time, the upstream also learns how fast the service lets calls
    through. Attempts then start in even steps, which become shorter while nothing is refused. After some
    minutes without a refusal, they start freely again.

    Args:
        name: What to call it in logs: text in one line.
        max_concurrency: How many attempts may run at once, over all executors: 1 or more, or ``None`` for
            no limit.
        rate: How many attempts may be let through in how many seconds. ``(10, 1.05)`` means never more than
            10 in any window of 1.05 seconds. There may be several such limits, as in
            ``[(10, 1.05), (1_000, 86_400.0)]``, of up to 1,000,000 attempts each. ``None`` for no limit. Make
            the window a little longer than that of the service: an attempt begins when the machine gets to
            it, usually within a millisecond, and its request arrives later still.
        budget: How much the attempts that are let through in so many seconds may weigh in all, such as
            ``(200_000, 61.0)``; or several such limits. Weights are in tokens, rows, or whatever else the
            service counts: ``with_options(weight=)`` says what an attempt weighs; without that, 1. ``None``
            for no limit.
        paced: Whether attempts are let through one after another, in even steps. A step is the window of
            *rate* divided by its number, and 2 % more, since requests get closer on their way. If there are
            several rates, that with the shortest window counts. ``False``: as many start at once as the
            limits allow. Steps are for services that allow no bursts, or count in ways that nobody knows.
        hold_after: After how many failures in a row, with no success between, the service is held; 1 or more,
            or ``None``: only when it asks to wait.
        record_exceptions: Which exceptions count as failures of the service: a class, a tuple of classes, or
            a callable from the exception to a ``bool``. The default is `service_failed`. Other exceptions
            tell nothing bad of the service, and neither does a result that the policy rejects. "Not now"
            without a time counts as a failure in any case, since the service said so.
        initial_hold: How long the first hold is, in seconds, less jitter of up to a half; more than 0.
        max_hold: How long a hold may become, in seconds; *initial_hold* or more. What the service asks for
            may be longer.
        max_pending: How many calls to the service may be accepted and not done, over all executors: 1 or
            more, or ``None`` for no limit. When there are so many, ``submit()`` does what the executor's
            ``when_full`` says. So a service that is down does not use up the ``max_pending`` of an executor
            that serves others too.

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
        rate: tuple[int, Duration] | Sequence[tuple[int, Duration]] | None = None,
        budget: tuple[float, Duration] | Sequence[tuple[float, Duration]] | None = None,
        paced: bool = False,
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
        rates = _checked_limits("rate", "attempts", rate, _checked_starts)
        budgets = _checked_limits("budget", "weight", budget, _checked_sum)
        if checked_bool("paced", paced) and not rates:
            raise ValueError("paced must be False, not True, without a rate: that sets the pace")
        limits = {
            "max_concurrency": max_concurrency,
            "rate": rate,
            "budget": budget,
            "paced": paced,
            "max_pending": max_pending,
        }
        in_text = "".join(f", {limit}={value!r}" for limit, value in limits.items() if value)
        backlog = None
        if max_pending is not None:
            from retrying_executor._upstream.backlog import Backlog  # few upstreams have one

            backlog = Backlog(name, checked_int("max_pending", max_pending))
        new_gate = partial(
            Gate,
            max_concurrency=_limit("max_concurrency", max_concurrency),
            rates=rates,
            budgets=budgets,
            is_paced=paced,
            hold_after=_limit("hold_after", hold_after),
            initial_hold=first,
            max_hold=longest,
        )
        self._places = Places(name, in_text, new_gate, backlog)  # for the cores: see `Terms`

    def _on(self, places: Places) -> Upstream:
        """Return another one with these places and the same options."""
        other = object.__new__(Upstream)
        other._is_recorded, other._places = self._is_recorded, places
        return other

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._places}>"

    @property
    def name(self) -> str:
        """The name that it was given."""
        return self._places.name

    @property
    def state(self) -> State:
        """What the service is doing.

        ``"open"``: attempts start, within the limits; ``"held"``: none starts; ``"probing"``: the hold is
        over, and the probe is running, or starts as soon as there is a call; ``"ramping"``: the probe got
        through, and other attempts follow.
        """
        return self._places.state

    @property
    def held_until(self) -> float | None:
        """When the hold ends, on the clock of `time.monotonic`; ``None`` if there is none."""
        return self._places.held_until

    @property
    def in_flight(self) -> int:
        """How many attempts are running, over all executors."""
        return self._places.in_flight

    def pause(self, duration: Duration | None = None) -> None:
        """Hold the service from now on: no attempt starts; those that are running go on.

        If there is a hold already, this replaces it, even by a shorter one.

        Args:
            duration: For how long, in seconds; ``None``: until `resume`.

        Raises:
            TypeError: If *duration* is neither a number nor a ``timedelta``.
            ValueError: If it is negative, infinite or not a number (NaN).
        """
        length = optional_seconds("duration", duration)
        self._places.pause(math.inf if length is None else length)

    def resume(self) -> None:
        """End the hold, whatever its cause: a probe may start, and other attempts follow in a ramp."""
        self._places.resume()


def checked_upstreams(upstream: object) -> tuple[Upstream, ...]:
    """Return the upstreams that are given as the ``upstream`` option.

    Raises:
        TypeError: If it is neither ``None`` nor an `Upstream` nor a tuple of these.
        ValueError: If it is empty, or has one of them twice.
    """
    if upstream is None:
        return ()
    several: list[Upstream] = []
    for one in upstream if isinstance(upstream, (tuple, list)) else (upstream,):
        if not isinstance(one, Upstream):
            raise TypeError(f"upstream must be an Upstream, a tuple of them, or None, not {upstream!r}")
        several.append(one)
    if not several:
        raise ValueError(f"upstream must have at least one Upstream, or be None, not {upstream!r}")
    if len(set(several)) < len(several):
        raise ValueError(f"upstream must have each Upstream once, not {upstream!r}")
    return tuple(several)


def _limit(name: str, value: object) -> float:
    return math.inf if value is None else checked_int(name, value)


def _checked_limits(
    name: str, what: str, value: object, check: Callable[[str, object], float]
) -> tuple[Limit, ...]:
    """Return the limits that are given as an option: one, several, or ``None``.

    Args:
        name: That of the option.
        what: What it limits.
        value: What was given.
        check: Returns the first part of a limit, or raises.

    Raises:
        TypeError: If one of them is no pair, or a part of it no number.
        ValueError: If a part of one is out of its range, or if there are none.
    """
    if value is None:
        return ()
    is_one = isinstance(value, tuple) and not any(isinstance(part, (tuple, list)) for part in value)
    if is_one and value:
        return (_checked_limit(name, what, value, check),)
    limits = sequence(name, value, f"({what}, seconds), or several of them")
    if not limits:
        raise ValueError(f"{name} must have at least one limit, or be None, not {value!r}")
    return tuple(_checked_limit(f"{name}[{index}]", what, one, check) for index, one in enumerate(limits))


def _checked_limit(name: str, what: str, value: object, check: Callable[[str, object], float]) -> Limit:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be ({what}, seconds), not {value!r}")
    window = positive_seconds(f"{name}[1]", value[1])
    return check(f"{name}[0]", value[0]), window


def _checked_starts(name: str, value: object) -> float:
    """Return how many attempts may start."""
    if checked_int(name, value) > _MOST_STARTS:
        raise ValueError(f"{name} must be at most {_MOST_STARTS}, not {value!r}")
    return value  # type: ignore[return-value]  # an integer


def _checked_sum(name: str, value: object) -> float:
    """Return how much attempts may weigh."""
    if as_float(value) == 0:
        raise ValueError(f"{name} must be more than 0, not {value!r}")
    return checked_weight(name, value)
