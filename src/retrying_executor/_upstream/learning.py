"""What a service lets through that names no limit, learned from its "not now". Pure; used by `gate`.

Most services that answer "too many requests" name neither their limit nor a time to wait. Calls that know
of none run into the limit at full speed, wait, and run into it again; about every second request is
refused. So once such a service was held, its gate measures how fast it lets calls through, and has them
start in steps of about that length. When too many are refused, the pace falls to a little less than what
got through. While none are, it rises: slowly as long as it is near to what was measured, then ever faster,
as in CUBIC (RFC 9438, section 4.2). So it soon comes back from a limit that is gone.

For the first measurement it is assumed that the service counts by the second, as most do: what gets through
after the hold, before the first refusal, is what a second allows. That is a guess, so from then on the pace
doubles every few seconds, until the service refuses again. What got through in even steps until then is the
second measurement. Each of the others is the mean since the one before, with the holds in between. So limits
by the minute, or on what runs at once, are found after a few holds.
"""

from __future__ import annotations

import math

_SECOND = 1.0
_DOUBLES_IN = 3.0  # seconds: so fast the pace rises from the first measurement to the second
_EASE = 0.97  # of what was measured then, or later, is the pace at first,
_SLOPE = 0.01  # so much more of it with each second,
_LIFT = 20.0  # and with the cube of the time: by as much as was measured after so many seconds
_SHORT = 0.025  # seconds, in which a little is free again
_LEAST = 1.0 / 60.0  # in a second: however often it refuses, so often is a service asked, as with holds
_OVER = 120.0  # seconds, after which the pace is hundreds of times what was measured: it is forgotten
_RARE = 20  # successes between two refusals, or more, are as it should be
_FEW = 10  # successes tell little: then the pace falls by a half at most


class Pace:
    """How fast a service lets calls through that is held since it said "not now".

    Args:
        held_at: Since when. Nothing starts for a second: a service that counts by the second would refuse the
            probe sooner.

    Attributes:
        next_start_at: No attempt is to start sooner.
    """

    __slots__ = (
        "_is_guess",
        "_measured",
        "_refusals",
        "_set_at",
        "_since",
        "_successes",
        "_unrefused",
        "next_start_at",
    )

    def __init__(self, held_at: float) -> None:
        self._measured = math.inf  # attempts in a second
        self._is_guess = True  # it was measured once, or not at all
        self._set_at = held_at
        self._since = math.inf  # from when on is counted: at first, from the first success
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
            doublings = max(0.0, now - self._since) / _DOUBLES_IN
            return self._measured * math.pow(2.0, min(doublings, 64.0))
        elapsed = self._risen_for(now - self._since)
        return max(_LEAST, self._measured * (_EASE + _SLOPE * elapsed + (elapsed / _LIFT) ** 3))

    def _risen_for(self, duration: float) -> float:
        """Return for how many seconds the pace has risen, in so many seconds of the clock.

        They are longer where few attempts start in a second: there each refusal is a larger part of them.
        """
        return duration * min(1.0, math.sqrt(self._measured / _RARE))

    def worked(self, began_at: float, now: float) -> None:
        """An attempt got through that began then."""
        self._unrefused += 1
        if began_at > self._set_at or self._measured == math.inf:  # else it was on its way then
            self._since = min(self._since, now)
            self._successes += 1

    def refused(self, began_at: float, now: float) -> bool:
        """The service has said "not now" to an attempt that began then; return whether that is news.

        It is not if the pace was set while the attempt was on its way.
        """
        unrefused, self._unrefused = self._unrefused, 0
        if self._measured < math.inf and began_at <= self._set_at:
            return False
        self._refusals = 1 if unrefused else self._refusals + 1
        elapsed = now - self._since
        if self._measured == math.inf:
            if not self._successes:
                return True
            self._measured = max(_LEAST, self._successes / max(_SECOND, elapsed))
            self.next_start_at = max(now, self._since + _SECOND)
            self._since = math.inf
        else:
            # A second of the service's may be full to its end: the next attempt should not come before.
            pause = min(_SECOND, _SHORT * 2.0 ** min(self._refusals, 64))
            self.next_start_at = max(self.next_start_at, now + pause)
            if unrefused >= _RARE or not self._successes:
                return True
            measured = self._successes / max(_SHORT, elapsed)
            least = self._measured / 2.0 if self._successes < _FEW else 0.0
            self._measured = max(measured, least, _LEAST)
            self._is_guess = False
            self._since = now
        self._set_at, self._successes = now, 0
        return True

    def is_over(self, now: float) -> bool:
        """Return whether nothing restricts the pace any more."""
        began_at = self._since if self._measured == math.inf else self._set_at
        return now > began_at and self._risen_for(now - began_at) > _OVER
