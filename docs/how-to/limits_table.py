"""Simulate clients of services that allow 20 requests a second, and print what different limits do.

Time is virtual and everything is drawn from seeds, so the figures are the same every time. The decisions are
those of the library: a gate (the part of an `Upstream` that has no threads) decides on every start, and the
default `RetryPolicy` on every refused attempt. ``--check`` fails if the page shows something else;
``--write`` puts the table there.

- The client has a number of calls to make, and a few workers; a call that waits holds none.
- A request, and its answer, are under way for a time that differs from one to the next. So requests arrive
  closer together, or further apart, than they started, and two bursts may meet in one window.
- The service refuses what exceeds its limit by a 429 that names no time.
"""

# ruff: noqa: D107, T201  # constructors are described by their classes; a command speaks by printing

from __future__ import annotations

import argparse
import heapq
import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from retrying_executor import Attempt, NotNow, RetryPolicy, Upstream

TABLE = Path(__file__).with_name("limits_table.inc")
CALLS, WORKERS, RUNS = 300, 8, 10
LIMIT, WINDOW = 20, 1.0  # requests, in seconds
BURST = 5  # requests that a bucket allows at once
UNDER_WAY = (0.001, 0.030)  # seconds that a request takes to arrive, from and to; and so its answer


class Service(Protocol):
    """Says of each request, in the order in which they arrive, whether it is allowed."""

    def allows(self, now: float) -> bool:
        """Return whether a request that comes now is allowed."""
        ...


class FixedWindow:
    """Counts anew with every second of its clock."""

    def __init__(self, draw: random.Random) -> None:
        self._ahead = draw.random() * WINDOW  # of the client's clock
        self._window, self._count = -1, 0

    def allows(self, now: float) -> bool:
        """Count it if it is allowed."""
        window = math.floor((now + self._ahead) / WINDOW)
        if window != self._window:
            self._window, self._count = window, 0
        if self._count == LIMIT:
            return False
        self._count += 1
        return True


class SlidingWindow:
    """Counts what came in the last second, at any time."""

    def __init__(self, *, counts_refused: bool) -> None:
        self._counts_refused = counts_refused
        self._came_at: deque[float] = deque(maxlen=LIMIT)

    def allows(self, now: float) -> bool:
        """Count it if it is allowed, or if all are counted."""
        is_full = len(self._came_at) == LIMIT and now < self._came_at[0] + WINDOW
        if not is_full or self._counts_refused:
            self._came_at.append(now)
        return not is_full


class Bucket:
    """Has few tokens at first and at most, and gets 20 a second; each request takes one."""

    def __init__(self) -> None:
        self._tokens, self._counted_at = float(BURST), 0.0

    def allows(self, now: float) -> bool:
        """Take a token, if there is one."""
        gained = (now - self._counted_at) * LIMIT / WINDOW
        self._tokens, self._counted_at = min(BURST, self._tokens + gained), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


SERVICES: dict[str, Callable[[random.Random], Service]] = {
    "in each second of its clock": FixedWindow,
    "in any second": lambda _: SlidingWindow(counts_refused=False),
    "in any second, and counts refused ones": lambda _: SlidingWindow(counts_refused=True),
    "evenly, and 5 at once": lambda _: Bucket(),
}
WAYS: Sequence[dict[str, Any] | None] = (
    None,
    {},
    {"rate": (20, 1.0)},
    {"rate": (19, 1.0)},
    {"rate": (20, 1.05)},
    {"rate": (20, 1.0), "paced": True},
    {"rate": (20, 1.05), "paced": True},
)
"""The options of the upstream; ``None``: there is none."""


def in_code(options: dict[str, Any] | None) -> str:
    """Return what to write."""
    if options is None:
        return "no upstream"
    arguments = ", ".join(['"api"', *(f"{name}={value!r}" for name, value in options.items())])
    return f"`Upstream({arguments})`"


@dataclass
class Call:
    """One call: how many attempts were made, and when the first began."""

    attempts: int = 0
    began_at: float = 0.0


class Simulation:
    """The client and the service: a heap of events, each a time and what to do then."""

    def __init__(self, options: dict[str, Any] | None, service: Callable[..., Service], seed: int) -> None:
        self._draw = random.Random(seed)
        self._service = service(self._draw)
        self._policy = RetryPolicy(random=self._draw.random)
        self._gate: Any = None
        if options is not None:
            places = Upstream("api", **options)._places
            places.start_afresh(random=self._draw.random)
            self._gate = places.gate
        self._fresh = deque(Call() for _ in range(CALLS))
        self._retries: list[tuple[float, int, Call]] = []
        self._free = WORKERS
        self._wakes_at = math.inf
        self._ticket = count().__next__
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.refused = 0
        self.served_at: list[float] = []

    def run(self) -> None:
        """Go on until nothing is left to do."""
        self._wake_at(0.0)
        while self._events:
            now, _, happen, about = heapq.heappop(self._events)
            happen(now, *about)
            while self._next_at() <= now:
                self._start(now)
            if self._next_at() < self._wakes_at:
                self._wake_at(self._next_at())

    def _wake_at(self, time: float) -> None:
        """See at that time what may start."""
        self._wakes_at = time
        self._at(time, self._wake)

    def _wake(self, now: float) -> None:
        if now == self._wakes_at:
            self._wakes_at = math.inf

    def _at(self, time: float, happen: Callable[..., None], *about: Any) -> None:
        heapq.heappush(self._events, (time, self._ticket(), happen, about))

    def _next_at(self) -> float:
        """Return from when on an attempt may start."""
        if not self._free or not (self._fresh or self._retries):
            return math.inf
        first = -math.inf if self._fresh else self._retries[0][0]
        return first if self._gate is None else max(first, self._gate.open_at())

    def _start(self, now: float) -> None:
        """Start an attempt: of a call that is due again, or else of the next."""
        is_due = bool(self._retries) and self._retries[0][0] <= now
        call = heapq.heappop(self._retries)[2] if is_due else self._fresh.popleft()
        self._free -= 1
        call.attempts += 1
        if call.attempts == 1:
            call.began_at = now
        permit = None
        if self._gate is not None:
            self._gate.refill(now)
            permit = self._gate.start(self._gate.take_slots(now, lambda: now))
        self._at(now + self._draw.uniform(*UNDER_WAY), self._arrive, call, permit)

    def _arrive(self, now: float, call: Call, permit: Any) -> None:
        """The request is there."""
        is_allowed = self._service.allows(now)
        if is_allowed:
            self.served_at.append(now)
        else:
            self.refused += 1
        self._at(now + self._draw.uniform(*UNDER_WAY), self._end, call, permit, is_allowed)

    def _end(self, now: float, call: Call, permit: Any, is_allowed: bool) -> None:  # of an event
        """The answer is there."""
        self._free += 1
        if not is_allowed:
            refused = Attempt(
                number=call.attempts,
                exception=NotNow(),
                result=None,
                elapsed=now - call.began_at,
                postponed=call.attempts - 1,
            )
            delay = self._policy(refused)
            assert delay is not None, "an hour is enough"
            heapq.heappush(self._retries, (now + delay, self._ticket(), call))
        if self._gate is not None:
            self._gate.end(permit, now, "worked" if is_allowed else "busy")


def cell(options: dict[str, Any] | None, service: Callable[..., Service]) -> str:
    """Return how many requests were refused, and when the last was served: the means of many runs."""
    runs = [Simulation(options, service, seed) for seed in range(RUNS)]
    for one in runs:
        one.run()
        assert len(one.served_at) == CALLS
    refused = statistics.fmean(one.refused for one in runs)
    return f"{refused:,.0f}, {statistics.fmean(max(one.served_at) for one in runs):.1f} s"


def table() -> list[str]:
    """Return the lines of the table."""
    rows = [
        ["", *SERVICES],
        ["---", *("---:" for _ in SERVICES)],
        *([in_code(options), *(cell(options, service) for service in SERVICES.values())] for options in WAYS),
    ]
    return [f"| {' | '.join(row)} |" for row in rows]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if the page shows something else")
    parser.add_argument("--write", action="store_true", help="put the table on the page")
    options = parser.parse_args(argv)
    text = "\n".join([*table(), ""])
    print(text, end="")
    if options.write:
        TABLE.write_text(text, encoding="ascii")
    if options.check and TABLE.read_text(encoding="ascii") != text:
        raise SystemExit("the page shows something else: --write, and look at what it says")


if __name__ == "__main__":
    main()
