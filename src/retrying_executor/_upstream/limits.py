"""How much may start in any window of time. Pure, as `gate`, which uses it; see there.

A limit holds for every window ``[t, t + seconds)``, wherever it begins. So it also holds for the windows that
the service counts by, and nobody has to know when those begin.
"""

from __future__ import annotations

import math
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Limit: TypeAlias = tuple[float, float]
    """How much in how many seconds."""

_FIRST_SLOTS = 16  # how many slots are made at a time, at least


class Rate:
    """How many attempts may start: a number of slots.

    To start, an attempt takes a free slot; a window later the slot is free again. Workers that go on under
    the permit that they have take slots without the lock. So a slot is moved in two atomic steps: it is taken
    out of `free`, then its time is put into `starts`. In between it is in neither, so no other thread can
    take it.

    Args:
        limit: How many, and the window in seconds.
    """

    __slots__ = ("_unmade", "free", "starts", "window")

    def __init__(self, limit: Limit) -> None:
        count, self.window = limit
        self.free: list[None] = []
        self._unmade = int(count)  # more free slots: made when they are needed, since few of many may be
        self.starts: deque[float] = deque()  # when the slots that are not free were taken, the oldest first

    def opens_at(self) -> float:
        """Return when a slot becomes free; minus infinity: one is free now."""
        if self.free or self._unmade or not self.starts:
            return -math.inf
        return self.starts[0] + self.window

    def refill(self, now: float) -> None:
        """Free the slots that were taken a window ago. Needs the lock."""
        free, starts = self.free, self.starts
        while starts and starts[0] + self.window <= now:
            starts.popleft()
            free.append(None)
        if not free and self._unmade:
            made = min(self._unmade, max(_FIRST_SLOTS, len(starts)))
            self._unmade -= made
            free.extend([None] * made)

    def give_back(self, at: float) -> None:
        """Free the slot that was taken at that time. Needs the lock."""
        later = []
        while self.starts and self.starts[-1] >= at:
            later.append(self.starts.pop())
        if later and later[-1] == at:  # else a window has passed, and `refill` has freed it
            later.pop()
            self.free.append(None)
        self.starts.extend(reversed(later))

    def is_as_new(self, now: float) -> bool:
        """Return whether all starts are so long ago that no window counts them any more."""
        return not self.starts or self.starts[-1] + self.window <= now


class Spending:
    """What an attempt takes of the budgets of its upstream.

    Attributes:
        at: When it was let through.
        weight: How much it takes; 0 or more.
    """

    __slots__ = ("at", "weight")

    def __init__(self, at: float, weight: float) -> None:
        self.at = at
        self.weight = weight


class Budget:
    """How much weight may start. All of it needs the lock.

    Args:
        limit: How much, and the window in seconds.
    """

    __slots__ = ("_spendings", "_spent", "_window", "most")

    def __init__(self, limit: Limit) -> None:
        self.most, self._window = limit
        self._spendings: deque[Spending] = deque()  # of the last window, the longest ago first
        self._spent: float = 0  # the sum of these; integers stay integers, which add up exactly

    def opens_at(self, weight: float, ahead: float) -> float:
        """Return when *weight* fits; minus infinity: now.

        Args:
            weight: How much is to be taken.
            ahead: How much others are to take first. Infinity is returned if *weight* fits only later.
        """
        missing = self._spent + ahead + weight - self.most
        if missing <= 0:
            return -math.inf
        for spending in self._spendings:
            missing -= spending.weight
            if missing <= 0:
                return spending.at + self._window
        # Without *ahead*, only rounding leads here: no weight is more than the budget.
        return math.inf if ahead else self._spendings[-1].at + self._window

    def leaves(self, at: float) -> float:
        """Return how much of it is free at that time, if nothing more is spent until then."""
        spent = self._spent
        for spending in self._spendings:  # the oldest first: few of a long window are over by then
            if spending.at + self._window > at:
                break
            spent -= spending.weight
        return self.most - spent

    def refill(self, now: float) -> None:
        """Free what was spent a window ago."""
        spendings = self._spendings
        while spendings and spendings[0].at + self._window <= now:
            self._spent -= spendings.popleft().weight
        if not spendings:
            self._spent = 0  # rounding may have left a little

    def spend(self, at: float, weight: float) -> Spending:
        """Take *weight*; return it as what the attempt takes."""
        spending = Spending(at, weight)
        self.share(spending)
        return spending

    def share(self, spending: Spending) -> None:
        """Take of this budget, too, what an attempt has taken of another one."""
        self._spendings.append(spending)
        self._spent += spending.weight

    def correct(self, spending: Spending, weight: float) -> None:
        """Count *weight* in place of that of *spending*, if the window still counts that."""
        if self._spendings and spending.at >= self._spendings[0].at:
            self._spent += weight - spending.weight

    def is_as_new(self, now: float) -> bool:
        """Return whether all spendings are so long ago that no window counts them any more."""
        return not self._spendings or self._spendings[-1].at + self._window <= now
