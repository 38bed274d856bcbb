"""How fast a service may be called that names no limit: learned from its "not now". Pure; used by `gate`.

Most services that answer "too many requests" name neither their limit nor a time to wait. Calls that know of
no limit run into it at full speed, wait, and run into it again: about every second request is refused. So
once such a service was held, its gate measures how many attempts get through in a second, and lets them start
in even steps at about that *pace*. When too many are refused, the pace falls to a little less than what got
through. While none is refused, it rises: slowly near the measured value, then ever faster, as in CUBIC (RFC
9438, section 4.2). So a limit that is gone is soon forgotten.

The first measurement assumes that the service counts by the second, as most do: what gets through between the
hold and the next refusal is what a second allows. That is a guess. So from then on the pace doubles every few
seconds, until the service refuses again. What got through in even steps until then is the second measurement.
Each later one is the mean since the one before, holds included. So limits by the minute, and limits on what
runs at once, are found after a few holds.
"""

from __future__ import annotations

import math

_SECOND = 1.0
_DOUBLES_IN = 3.0  # seconds in which the pace doubles, between the first measurement and the second
# From the second on, the pace t seconds after a measurement is EASE + SLOPE * t + (t / LIFT) ** 3 times that.
_EASE = 0.97
_SLOPE = 0.01  # per second
_LIFT = 20.0  # seconds
_SHORT = 0.025  # seconds: the least time to measure over, and half of the least pause after a refusal
_LEAST = 1.0 / 60.0  # attempts per second: the least pace, about as often as a service that is held is probed
_OVER = 120.0  # seconds after which the pace is hundreds of times what was measured: it is forgotten
_RARE = 20  # successes since the refusal before that make a refusal no reason to go slower
_FEW = 10  # successes that tell little: of fewer, a measurement lowers the pace by a half at most


class Pace:
    """How fast a service may be called that was held because it said "not now".

    Args:
        held_at: When the hold began. Nothing starts for a second: a service that counts by the second would
            refuse an earlier probe.

    Attributes:
        next_start_at: No attempt is to start sooner.
    """

    __slots__ = (
        "_counts_since",
        "_is_guess",
        "_measured",
        "_refusals",
        "_set_at",
        "_successes",
        "_unrefused",
        "next_start_at",
    )

    def __init__(self, held_at: float) -> None:
        self._measured = math.inf  # attempts per second; infinity: not measured yet
        self._is_guess = True  # until the second measurement
        self._set_at = held_at  # when the latest measurement was taken; before the first, when the hold began
        self._counts_since = math.inf  # infinity: from the next success on
        self._successes = 0  # since then
        self._unrefused = 0  # successes since the latest refusal
        self._refusals = 0  # in a row
        self.next_start_at = held_at + _SECOND

    def started(self, now: float) -> None:
        """An attempt starts."""
        self.next_start_at = now + 1.0 / self._per_second(now)

    def _per_second(self, now: float) -> float:
        """Return how many attempts may start in a second."""
        if self._is_guess:
            doublings = max(0.0, now - self._counts_since) / _DOUBLES_IN
            return self._measured * math.pow(2.0, min(doublings, 64.0))
        elapsed = self._risen_for(now - self._counts_since)
        return max(_LEAST, self._measured * (_EASE + _SLOPE * elapsed + (elapsed / _LIFT) ** 3))

    def _risen_for(self, duration: float) -> float:
        """Return how many seconds of its curve the pace has risen by, in so many seconds of the clock.

        At a slow pace that is fewer: where few attempts start, each refusal is a larger part of them.
        """
        return duration * min(1.0, math.sqrt(self._measured / _RARE))

    def worked(self, began_at: float, now: float) -> None:
        """An attempt got through that began at that time."""
        self._unrefused += 1
        if began_at > self._set_at or self._measured == math.inf:  # else it started at the pace before
            self._counts_since = min(self._counts_since, now)
            self._successes += 1

    def refused(self, began_at: float, now: float) -> bool:
        """The service has said "not now" to an attempt that began at that time; return whether that is news.

        It is none of an attempt that started before the latest measurement, and so at the pace before.
        """
        unrefused, self._unrefused = self._unrefused, 0
        if self._measured < math.inf and began_at <= self._set_at:
            return False
        self._refusals = 1 if unrefused else self._refusals + 1
        elapsed = now - self._counts_since
        if self._measured == math.inf:  # the first measurement, if anything got through since the hold
            if not self._successes:
                return True
            self._measured = max(_LEAST, self._successes / max(_SECOND, elapsed))
            self.next_start_at = max(now, self._counts_since + _SECOND)
            self._counts_since = math.inf
        else:
            # The service may refuse everything until its second is over. So pauses grow, up to a second.
            pause = min(_SECOND, _SHORT * 2.0 ** min(self._refusals, 64))
            self.next_start_at = max(self.next_start_at, now + pause)
            if unrefused >= _RARE or not self._successes:
                return True
            measured = self._successes / max(_SHORT, elapsed)
            least = self._measured / 2.0 if self._successes < _FEW else 0.0
            self._measured = max(measured, least, _LEAST)
            self._is_guess = False
            self._counts_since = now
        self._set_at, self._successes = now, 0
        return True

    def is_over(self, now: float) -> bool:
        """Return whether the pace has risen for so long that it restricts nothing any more."""
        began_at = self._counts_since if self._measured == math.inf else self._set_at
        return now > began_at and self._risen_for(now - began_at) > _OVER
