"""When a service may be called: limits, holds, the probe and the ramp.

Pure: no threads, no clock, no randomness of its own. Its user says what happened together with
*now*, and holds the lock that guards it. Times are seconds on one clock, whichever it is. Only
`Gate.start` and `Gate.take_slot` get the clock itself, since they read it once a slot is taken.

    OPEN ──failures in a row, or asked to wait──> HELD ──time is up──> PROBING
      ^                                            ^                   │    │
      └── enough successes ── RAMPING <────────────│── it got through ─┘    │
                                                   └──── it did not ────────┘

- While *held* nothing starts. Then one attempt does, the *probe*; nothing else until it ends.
- While *ramping*, so many may be in flight: one, and one more for each that gets through. So the
  number doubles with every round, as in the slow start of TCP (RFC 5681, section 3.1).
- What started before the latest hold tells nothing about the time after it, and does not count
  against the ramp; it does count against ``max_concurrency``.
- The *rate* is a number of slots. To start, an attempt takes a free one; a window later it is free again.

Slots are also taken without the lock, by workers that go on under the permit that they have. So a slot is
moved in two atomic steps: it is taken out of where it was, then put where it belongs.
"""

from __future__ import annotations

import math
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal, Protocol, TypeAlias

    from retrying_executor._policy.verdict import Asked

    Evidence: TypeAlias = Literal["worked", "failed", "busy", "none"]
    """What an attempt tells of the service: it answered; it failed; "not now"; nothing."""

    class Service(Protocol):
        """Whose permits these are: `Places`."""

        reusable_era: int | None

        @property
        def held_until(self) -> float | None: ...
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

_SPREAD = 0.1  # of what is asked for, at least: one probe at a time needs no more
_RAMP_END = 128
"""With so many in flight the ramp is over, where no ``max_concurrency`` ends it."""


class Permit:
    """One attempt that was let through."""

    __slots__ = ("began_at", "era", "is_over", "is_probe", "places")

    places: Service  # whose gate it is

    def __init__(self, began_at: float, era: int, *, is_probe: bool) -> None:
        self.began_at = began_at
        self.era = era
        self.is_probe = is_probe
        self.is_over = False

    def sits_out_until(self) -> float:
        """Return until when a call that failed as the probe lets others be it: the end of the hold."""
        until = self.places.held_until if self.is_probe else None
        return -math.inf if until in (None, math.inf) else until


class Gate:
    """What is known of one service.

    Args:
        max_concurrency: How many attempts may be in flight; 1 or more.
        rate: How many may start in any window of how many seconds: in ``[t, t + seconds)`` for every t.
        hold_after: After how many failures in a row it is held; 1 or more, or infinity.
        initial_hold: How long the first hold is, in seconds.
        max_hold: How long a hold is at most; from one to the next it doubles.
        random: The source of jitter: uniform samples from ``[0, 1)``.
    """

    def __init__(
        self,
        *,
        max_concurrency: float,
        rate: tuple[int, float] | None,
        hold_after: float,
        initial_hold: float,
        max_hold: float,
        random: Callable[[], float],
    ) -> None:
        self._max_concurrency = max_concurrency
        self._window = math.inf if rate is None else rate[1]
        self._slots: list[None] | None = None if rate is None else [None] * rate[0]  # the free ones
        self._starts: deque[float] = deque()  # when the others were taken, the longest ago first
        self._hold_after = hold_after
        self._initial_hold = initial_hold
        self._max_hold = max_hold
        self._random = random
        self.in_flight = 0  # attempts that were let through and have not ended
        self._since = 0  # how many of these started after the latest hold
        self.era = 0  # how many holds there were
        self._first_era = 0  # of this process
        self.failures = 0  # and refusals, in a row
        self._holds = 0  # in a row
        self.held_until = -math.inf
        self._probe: Permit | None = None
        self._ramp = math.inf  # how many may be in flight; 0: a probe is due, or in flight

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
        """Whether an attempt that gets through tells nothing new."""
        return self._ramp == math.inf and self.failures == 0

    def room(self) -> float:
        """Return how many attempts could start, as far as the number in flight says; holds and rate aside."""
        free = self._max_concurrency - self.in_flight
        if self._ramp == 0:
            return min(free, 0 if self._probe else 1)
        return min(free, self._ramp - self._since)

    def open_at(self) -> float:
        """Return from when on one more attempt may start; infinity: not before another has ended."""
        if self.room() <= 0:
            return math.inf
        opens = self.held_until
        if self._slots is not None and not self._slots and self._starts:
            opens = max(opens, self._starts[0] + self._window)
        return opens

    def start(self, now: float, clock: Callable[[], float]) -> Permit | None:
        """Let an attempt through; only when ``open_at() <= now``.

        Args:
            now: What time it is.
            clock: Returns what time it is by then.

        Returns:
            ``None`` if another thread has just taken the last slot, without the lock.
        """
        while self._slots is not None and self._starts and self._starts[0] + self._window <= now:
            self._starts.popleft()
            self._slots.append(None)
        began_at = self.take_slot(now, clock)
        if began_at is None:
            return None
        permit = Permit(began_at, self.era, is_probe=self._ramp == 0)
        if permit.is_probe:
            self._probe = permit
        self.in_flight += 1
        self._since += 1
        return permit

    def take_slot(self, now: float, clock: Callable[[], float]) -> float | None:
        """Take a slot, if there is a free one; needs no lock.

        Args:
            now: What time it is, or was a moment ago.
            clock: Returns what time it is by then.

        Returns:
            When it was taken, which is *now* where there is no rate; ``None`` if none is free.
        """
        if self._slots is not None:
            try:
                self._slots.pop()
            except IndexError:
                return None
            # The clock is read only now: a thread that is late may take a slot that became free after *now*.
            # If that counted as taken at *now*, it would be free again too soon.
            now = clock()
            self._starts.append(now)
        return now

    def return_slot(self, now: float) -> None:
        """Give back the slot that was taken at *now*, for an attempt that will not be made."""
        later = []
        while self._starts and self._starts[-1] >= now:
            later.append(self._starts.pop())
        if later and later[-1] == now:  # or a window has passed, and it is free again
            later.pop()
            assert self._slots is not None
            self._slots.append(None)
        self._starts.extend(reversed(later))

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
        is_latest = permit.era == self.era
        self._since -= is_latest
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
            self.failures += 1
            if self.failures >= self._hold_after:
                self._hold_longer(now)

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
        self._since = 0
        self.failures = 0
        self._probe = None
        self._ramp = 0

    def release(self) -> None:
        """End the hold, if there is one: a probe may start at once."""
        self.held_until = -math.inf

    def forget_flights(self) -> None:
        """In a forked child: what is in flight is the parent's."""
        self.in_flight = self._since = 0
        self.era += 1
        self._first_era = self.era
        self._probe = None
