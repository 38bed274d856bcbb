"""Where calls wait whose turn came while their upstream let none through. Pure, as all of the schedule."""

from __future__ import annotations

import math

from retrying_executor._calls.retries import Retries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from retrying_executor._calls.call import Call
    from retrying_executor._upstream.places import Places

    Refusal: TypeAlias = tuple[Places, float, float]
    """Whose limits forbid a start; when to ask again; and until when the call may wait for that."""

    Claim: TypeAlias = bool | Refusal
    """Whether a call was claimed, or is done; or why it may not start."""


class Lane:
    """The calls whose turn came while their upstream let none through.

    Those without an attempt come last; but while the upstream is down they come first: one that has failed
    may fail again for a reason of its own, and then shows nothing.

    So that a service that is down for good ends every call, those without an attempt give up too when
    ``max_elapsed`` has passed: since the upstream went down, or since their turn came if that was later.

    Args:
        places: Those of the upstream.
        ticket: See `Retries`.
    """

    __slots__ = ("calls", "gives_up_at", "is_down", "opens_at", "places")

    def __init__(self, places: Places, ticket: Callable[[], int]) -> None:
        self.places = places
        self.is_down = places.is_down
        self.calls = Retries(ticket)
        self.opens_at = math.inf
        self.gives_up_at = math.inf
        """Until when all of them may wait, or less."""

    def acts_at(self) -> float:
        """Return when there is something to do: it opens, or a call may have waited for too long."""
        return min(self.opens_at, self.gives_up_at)

    def add(self, call: Call, due_at: float) -> None:
        """Put a call in, which is due at infinity if it had no attempt."""
        self.calls.add(call, -math.inf if due_at == math.inf and self.is_down else due_at)
        self.gives_up_at = min(self.gives_up_at, call._waits_until)

    def notice(self, now: float) -> None:
        """See whether the upstream went down, or works again."""
        if self.is_down != self.places.is_down:
            self.is_down = not self.is_down
            self.calls.rearrange(lambda call: self._due_at(call, now))
            self._look()

    def _look(self) -> None:
        self.gives_up_at = min((call._waits_until for call in self.calls.calls()), default=math.inf)

    def _due_at(self, call: Call, now: float) -> float | None:
        """Return where a call without an attempt comes, and note until when it waits; ``None`` for others."""
        if call._attempts or call.done():
            return None
        call._wait_until(now + call._terms.max_elapsed if self.is_down else math.inf)
        return -math.inf if self.is_down else math.inf

    def take(self, now: float, claim: Callable[[Call, float], Claim]) -> Call | None:
        """Return the call whose turn it is, no longer in the lane; ``None`` if the lane closes."""
        while True:
            self.notice(now)
            entry = self.calls.first()
            if entry is None:
                return None
            claimed = claim(entry[2], now)
            if not isinstance(claimed, bool):
                self.opens_at = claimed[1]
                return None
            self.calls.pop()
            if claimed:  # else an interruption has left it here, taken
                return entry[2]

    def give_up(self, now: float) -> list[Call]:
        """Return the calls that have waited for too long, no longer in the lane.

        Now is too late already: there is something to do whenever `acts_at` says so, or a thread would look
        in vain until the clock, which may be coarse, has moved on.
        """
        late = self.calls.take_out(lambda call: call._waits_until <= now)
        self._look()
        return late
