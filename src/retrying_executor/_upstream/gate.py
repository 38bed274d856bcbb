"""When a service may be called: limits, holds, the probe and the ramp.

Pure: no threads, no clock, no randomness of its own. Its user says what happened together with
*now*, and holds the lock that guards it. Times are seconds on one clock, whichever it is. Only
`Gate.take_slots` gets the clock itself, since it has to read it after the slots are taken.

    OPEN ──failures in a row, or asked to wait──> HELD ──time is up──> PROBING
      ^                                            ^                   │    │
      └── enough successes ── RAMPING <────────────│── it got through ─┘    │
                                                   └──── it did not ────────┘

- While *held* nothing starts. Then one attempt does, the *probe*; nothing else until it ends.
- While *ramping*, few may be in flight: one, and one more for each attempt that got through. So the
  number doubles with every round, as in the slow start of TCP (RFC 5681, section 3.1).
- An *era* begins with each hold. An attempt that started in an earlier one tells nothing about the service
  now, and does not count against the ramp; it does count against ``max_concurrency``.
- Where the service is held since it said "not now" without a time, its *pace* is learned, see `learning`.
- What may start in a window of time, in attempts and in weight, is in `limits`. An attempt starts when all
  of these let it through.
- Where starts are *paced*, they are spread evenly over the shortest window.
"""

from __future__ import annotations

import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal, Protocol, TypeAlias

    from retrying_executor._policy.verdict import Asked
    from retrying_executor._upstream.learning import Pace
    from retrying_executor._upstream.limits import Budget, Limit, Rate, Spending

    Evidence: TypeAlias = Literal["worked", "failed", "busy", "none"]
    """What an attempt tells of the service: it answered; it failed; "not now"; nothing."""

    class Service(Protocol):
        """Whose permits these are: `Places`."""

        reusable_era: int | None

        @property
        def held_until(self) -> float | None: ...
        def weigh(self, permit: Permit, weight: float, /) -> None: ...
        def end(
            self,
            permit: Permit,
            evidence: Evidence = "none",
            asked: Asked | None = None,
            exception: BaseException | None = None,
            /,
        ) -> None: ...
        def take_back(self, permit: Permit, /) -> None: ...

    State: TypeAlias = Literal["open", "held", "probing", "ramping"]

_SPREAD = 0.1  # the least jitter, as a share of the time asked for: one probe at a time needs no more
_RAMP_END = 128
"""The ramp is over when more than this may be in flight, or more than ``max_concurrency`` if that is less."""
_PACE_MARGIN = 1.02
"""How many times longer than the window asks for each step is: requests get closer on their way."""


class Permit:
    """One attempt that was let through."""

    __slots__ = ("began_at", "era", "is_over", "is_probe", "places", "spending")

    places: Service  # whose gate it is

    def __init__(self, began_at: float, era: int, *, is_probe: bool) -> None:
        self.began_at = began_at
        self.era = era
        self.is_probe = is_probe
        self.is_over = False
        self.spending: Spending | None = None  # what it takes of the budgets, if there are any

    def end(
        self,
        evidence: Evidence = "none",
        asked: Asked | None = None,
        exception: BaseException | None = None,
    ) -> None:
        """Take note that the attempt has ended; see `Gate.end`."""
        self.places.end(self, evidence, asked, exception)

    def take_back(self) -> None:
        """The attempt will not be made. Doing so again changes nothing."""
        self.places.take_back(self)

    def weigh(self, weight: float) -> None:
        """Count *weight* from now on, not what the attempt was let through with."""
        self.places.weigh(self, weight)

    def sits_out_until(self) -> float:
        """Return until when a call whose probe failed leaves the next one to others: the end of the hold."""
        until = self.places.held_until if self.is_probe else None
        return -math.inf if until in (None, math.inf) else until


class Gate:
    """What is known of one service.

    Args:
        max_concurrency: How many attempts may be in flight; 1 or more.
        rates: How many may start in any window of how many seconds.
        budgets: How much weight may start in any window of how many seconds.
        is_paced: Whether starts are spread evenly over the shortest window of *rates*, of which there is one.
        hold_after: After how many failures in a row it is held; 1 or more, or infinity.
        initial_hold: How long the first hold is, in seconds.
        max_hold: How long a hold is at most; from one to the next it doubles.
        random: The source of jitter: uniform samples from ``[0, 1)``.
    """

    def __init__(
        self,
        *,
        max_concurrency: float,
        rates: tuple[Limit, ...],
        budgets: tuple[Limit, ...],
        is_paced: bool,
        hold_after: float,
        initial_hold: float,
        max_hold: float,
        random: Callable[[], float],
    ) -> None:
        self._max_concurrency = max_concurrency
        self._rates: tuple[Rate, ...] = ()  # tuples take less memory, and there may be very many gates
        self._budgets: tuple[Budget, ...] = ()
        if rates or budgets:
            from retrying_executor._upstream.limits import Budget, Rate  # not all programs have any

            self._rates = tuple([Rate(limit) for limit in rates])
            self._budgets = tuple([Budget(limit) for limit in budgets])
        self._interval = 0.0  # between two starts
        if is_paced:
            count, window = min(rates, key=lambda limit: limit[1])
            self._interval = _PACE_MARGIN * window / count
        self._next_start_at = -math.inf
        self._hold_after = hold_after
        self._initial_hold = initial_hold
        self._max_hold = max_hold
        self._random = random
        self.in_flight = 0  # attempts that were let through and have not ended
        self._in_flight_of_era = 0  # how many of these started after the latest hold
        self.era = 0  # how many holds there were
        self._first_era = 0  # permits of earlier ones are the parent process's
        self.failures = 0  # and refusals, in a row
        self._holds = 0  # in a row
        self.held_until = -math.inf
        self._probe: Permit | None = None
        self._ramp = math.inf  # how many may be in flight; 0: a probe is due, or in flight
        self._pace: Pace | None = None  # what has been learned of a limit that the service does not name

    def state(self, now: float) -> State:
        """Return what it is doing."""
        if now < self.held_until:
            return "held"
        if self._ramp == 0:
            return "probing"
        return "open" if self._ramp == math.inf else "ramping"

    @property
    def is_down(self) -> bool:
        """Whether it is held, or a probe has yet to get through."""
        return self._ramp == 0

    @property
    def is_calm(self) -> bool:
        """Whether an attempt that gets through tells nothing new, and the next needs no more than slots."""
        is_plain = not (self._budgets or self._interval or self._pace)
        return is_plain and self._ramp == math.inf and self.failures == 0

    @property
    def has_budgets(self) -> bool:
        """Whether it counts what attempts weigh."""
        return bool(self._budgets)

    @property
    def most_weight(self) -> float:
        """How much an attempt may weigh."""
        return min((budget.most for budget in self._budgets), default=math.inf)

    def is_as_new(self, now: float) -> bool:
        """Return whether it remembers nothing: a new gate with the same limits would do the same."""
        return (
            self.in_flight == self.failures == self._holds == 0
            and self._ramp == math.inf
            and self._next_start_at <= now
            and (self._pace is None or self._pace.is_over(now))
            and all(rate.is_as_new(now) for rate in self._rates)
            and all(budget.is_as_new(now) for budget in self._budgets)
        )

    def room(self) -> float:
        """Return how many more attempts may be in flight, holds and rates aside."""
        free = self._max_concurrency - self.in_flight
        if self._ramp == 0:
            return min(free, 0 if self._probe else 1)
        return min(free, self._ramp - self._in_flight_of_era)

    def open_at(self, weight: float = 1, ahead: float = 0) -> float:
        """Return from when on one more attempt may start; infinity: not before another has ended.

        Args:
            weight: How much it takes of the budgets.
            ahead: How much of the budgets others are to take first.
        """
        if self.room() <= 0:
            return math.inf
        opens = max(self.held_until, self._next_start_at)
        if self._pace is not None:
            opens = max(opens, self._pace.next_start_at)
        for rate in self._rates:
            opens = max(opens, rate.opens_at())
        for budget in self._budgets:
            opens = max(opens, budget.opens_at(weight, ahead))
        return opens

    def leaves_enough(self, weight: float, others: list[tuple[float, float]]) -> bool:
        """Return whether an attempt that starts now leaves enough of the budgets for others.

        Args:
            weight: How much it takes.
            others: When each of the others comes, and how much it takes.
        """
        for budget in self._budgets:
            taken = weight
            for at, other in others:
                taken += other
                if taken > budget.leaves(at):
                    return False
        return True

    def refill(self, now: float) -> None:
        """Free what was taken a window ago."""
        for rate in self._rates:
            rate.refill(now)
        for budget in self._budgets:
            budget.refill(now)

    def start(self, began_at: float, weight: float = 1) -> Permit:
        """Let an attempt through that may start, and for which slots have been taken.

        Args:
            began_at: When the slots were taken.
            weight: How much it takes of the budgets.
        """
        permit = Permit(began_at, self.era, is_probe=self._ramp == 0)
        if permit.is_probe:
            self._probe = permit
        self.in_flight += 1
        self._in_flight_of_era += 1
        if self._budgets:
            permit.spending = self._budgets[0].spend(began_at, weight)
            for budget in self._budgets[1:]:
                budget.share(permit.spending)
        if self._interval:
            self._next_start_at = began_at + self._interval
        if self._pace is not None and self._pace.is_over(began_at):
            self._pace = None
        elif self._pace is not None:
            self._pace.started(began_at)
        return permit

    def take_slots(self, now: float, clock: Callable[[], float]) -> float | None:
        """Take a slot of each rate, if all have a free one; needs no lock.

        Args:
            now: What time it is, or was a moment ago.
            clock: Returns what time it is.

        Returns:
            When they were taken, which is *now* if there is no rate; ``None`` if a rate had none.
        """
        rates = self._rates
        if not rates:
            return now
        rate = rates[0]
        try:
            for rate in rates:
                rate.free.pop()
        except IndexError:
            for other in rates[: rates.index(rate)]:
                other.free.append(None)
            return None
        # The clock is read only now. A thread that was held up since it read *now* may have taken a slot that
        # became free later. If that slot counted as taken at *now*, it would be free again too soon.
        now = clock()
        for rate in rates:
            rate.starts.append(now)
        return now

    def return_slots(self, taken_at: float) -> None:
        """Give back the slots that were taken at that time, for an attempt that will not be made."""
        for rate in self._rates:
            rate.give_back(taken_at)

    def weigh(self, permit: Permit, weight: float) -> None:
        """Count *weight* for an attempt from now on, not what it was let through with."""
        spending = permit.spending
        if spending is not None:
            for budget in self._budgets:
                budget.correct(spending, weight)
            spending.weight = weight

    def end(self, permit: Permit, now: float, evidence: Evidence, asked: float | None = None) -> None:
        """Take note that an attempt has ended; the second time, nothing happens.

        Args:
            permit: What let it through.
            now: What time it is.
            evidence: What it tells of the service.
            asked: How many seconds the service asked to wait, if it did.
        """
        if permit.is_over or permit.era < self._first_era:
            return
        permit.is_over = True
        self.in_flight -= 1
        era = self.era
        is_latest = permit.era == era
        self._in_flight_of_era -= is_latest
        names_no_time = evidence == "busy" and asked is None  # then a pace is learned
        is_news = True
        if is_latest and self._pace is not None:
            if evidence == "worked":
                self._pace.worked(permit.began_at, now)
            elif names_no_time:
                is_news = self._pace.refused(permit.began_at, now)
        is_probe = permit is self._probe
        if is_probe:
            self._probe = None
        if asked is not None:
            # A service that names a short time again and again is asked less and less often.
            spread = max(_SPREAD * asked, self._next_hold() / 2.0)
            self._holds += is_probe
            self.hold(max(self.held_until, now + asked + spread * self._random()))
        elif is_probe and evidence in ("failed", "busy"):
            self._hold_longer(now)
        elif is_latest and evidence == "worked":
            self.failures = 0
            if is_probe:
                self._holds = 0
                self._ramp = 1
            self._ramp += 1
            if self._ramp > min(self._max_concurrency, _RAMP_END):
                self._ramp = math.inf
        elif is_latest and evidence in ("failed", "busy"):
            self.failures += is_news
            if self.failures >= self._hold_after:
                self._hold_longer(now)
        if names_no_time and self.era > era and self._pace is None:  # it is held because of that
            from retrying_executor._upstream.learning import Pace  # few programs call such services

            self._pace = Pace(now)

    def _next_hold(self) -> float:
        """Return how long the next hold is at most, if the service names no time."""
        return min(self._max_hold, self._initial_hold * 2.0 ** min(self._holds, 64))

    def _hold_longer(self, now: float) -> None:
        duration = self._next_hold() * (1.0 + self._random()) / 2.0
        self._holds += 1
        self.hold(max(self.held_until, now + duration))

    def hold(self, until: float) -> None:
        """Let nothing through until then; from then on a probe."""
        self.held_until = until
        self.era += 1
        self._in_flight_of_era = 0
        self.failures = 0
        self._probe = None
        self._ramp = 0

    def release(self) -> None:
        """End the hold, if there is one, and forget the pace: a probe may start at once."""
        self.held_until = -math.inf
        self._pace = None

    def forget_flights(self) -> None:
        """In a forked child: what is in flight is the parent's."""
        self.in_flight = self._in_flight_of_era = 0
        self.era += 1
        self._first_era = self.era
        self._probe = None
