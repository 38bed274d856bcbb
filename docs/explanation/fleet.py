"""Simulate a thousand processes that call one service through an outage, under several policies.

Time is virtual and everything is drawn from a seed, so a run gives the same figures every time. What is
simulated is the decisions of the library itself: its `RetryPolicy` decides on every failed attempt, and its
gate (the part of an `Upstream` that has no threads) on every start.

- Each process has a queue of calls and a few workers; a call that waits for its next attempt holds no worker.
- The service takes a second or so for each call. It can take on so many requests in a second, and a tenth of
  that at once; all others are refused at once. While it is down all are, and those that it had taken on fail.
- It refuses with a 503, or, where it hints, with a 429 and ``Retry-After`` in whole seconds: while it is
  down, when it will be back; else 1.
"""

# ruff: noqa: D107, T201  # constructors are described by their classes; a command speaks by printing

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from retrying_executor import Attempt, NotNow, RetryPolicy, Upstream

BIN = 0.1  # seconds for which requests are counted together
DURATION = (0.5, 1.5)  # seconds that a call takes, from and to
REFUSAL = 0.01  # seconds that a refusal takes

COLUMNS = ("peak load afterwards", "wasted requests", "all delivered after", "calls lost")


@dataclass(frozen=True)
class Scenario:
    """What goes on; times are in seconds.

    Attributes:
        processes: How many there are.
        calls: How many each has to make.
        workers: How many threads each has.
        load: How many requests a second there are before the outage, as a share of the capacity.
        down_at: When the outage begins.
        outage: How long it is.
        max_attempts: How many attempts a call gets.
        seed: Decides all that is random.
    """

    processes: int = 1000
    calls: int = 30
    workers: int = 4
    load: float = 0.8
    down_at: float = 3.0
    outage: float = 20.0
    max_attempts: int = 8
    seed: int = 1

    @property
    def capacity(self) -> float:
        """How many requests the service can take on in a second."""
        return self.processes * self.workers / (sum(DURATION) / 2.0) / self.load


@dataclass(frozen=True)
class Strategy:
    """How the processes go about it: with jitter or not, with holds or not; and whether the service hints."""

    jitter: bool
    hints: bool
    holds: bool


STRATEGIES = {
    "no jitter": Strategy(jitter=False, hints=False, holds=False),
    "full jitter": Strategy(jitter=True, hints=False, holds=False),
    "Retry-After, no jitter": Strategy(jitter=False, hints=True, holds=False),
    "Retry-After, with jitter": Strategy(jitter=True, hints=True, holds=False),
    "an Upstream: holds, probe, ramp": Strategy(jitter=True, hints=False, holds=True),
    "an Upstream and Retry-After": Strategy(jitter=True, hints=True, holds=True),
}


class Service:
    """Has a capacity, and is down once; keeps count of the requests."""

    def __init__(self, scenario: Scenario, strategy: Strategy, draw: random.Random) -> None:
        self.requests: list[int] = []  # in each BIN
        self._capacity = scenario.capacity
        self._down_at, self._up_at = scenario.down_at, scenario.down_at + scenario.outage
        self._hints = strategy.hints
        self._draw = draw
        self._backlog = 0.0  # requests just taken on
        self._seen_at = 0.0

    def request(self, now: float) -> tuple[float, Exception | None]:
        """Return when a request that comes now ends, and how: with ``None`` if it is served."""
        index = int(now / BIN)
        self.requests += [0] * (index + 1 - len(self.requests))
        self.requests[index] += 1
        if self._down_at <= now < self._up_at:
            return now + REFUSAL, self._refusal(math.ceil(self._up_at - now))
        self._backlog = max(0.0, self._backlog - (now - self._seen_at) * self._capacity)
        self._seen_at = now
        if self._backlog + 1.0 > self._capacity / 10.0:
            return now + REFUSAL, self._refusal(1)
        self._backlog += 1.0
        end = now + self._draw.uniform(*DURATION)
        if now < self._down_at <= end:
            return self._down_at, ConnectionResetError()
        return end, None

    def _refusal(self, seconds: int) -> Exception:
        return NotNow(after=seconds) if self._hints else UnavailableError()


class UnavailableError(Exception):
    """The answer 503."""

    status_code = 503


@dataclass
class Call:
    """One call: how many attempts have started, how many of them are not counted, and when the first was."""

    attempts: int = 0
    postponed: int = 0
    began_at: float = 0.0


class Process:
    """One process: what is queued, what is in backoff, and its gate, if it has one."""

    def __init__(self, scenario: Scenario, strategy: Strategy, draw: random.Random) -> None:
        self.fresh = deque(Call() for _ in range(scenario.calls))
        self.retries: list[tuple[float, int, Call]] = []
        self.free = scenario.workers
        self.wakes_at = math.inf
        self.gate: Any = None
        if strategy.holds:
            places = Upstream("the service")._places  # with the defaults
            places.start_afresh(random=draw.random)
            self.gate = places.gate

    def next_at(self) -> float:
        """Return from when on an attempt may start."""
        if not self.free:
            return math.inf
        first = -math.inf if self.fresh else self.retries[0][0] if self.retries else math.inf
        return first if self.gate is None or first == math.inf else max(first, self.gate.open_at())

    def take(self, now: float) -> Call:
        """Return the next call: retries that are due come first."""
        self.free -= 1
        if self.retries and self.retries[0][0] <= now:
            return heapq.heappop(self.retries)[2]
        return self.fresh.popleft()


class Simulation:
    """All of it: a heap of events, each a time and what to do then."""

    def __init__(self, scenario: Scenario, strategy: Strategy) -> None:
        draw = random.Random(scenario.seed)
        self.policy = RetryPolicy(
            max_attempts=scenario.max_attempts, jitter=strategy.jitter, random=draw.random
        )
        self.service = Service(scenario, strategy, draw)
        self.delivered = self.lost = 0
        self.last_delivery = 0.0
        self._ticket = count().__next__
        self._events: list[tuple[float, int, Any, Any]] = []
        for _ in range(scenario.processes):  # they do not all begin at once
            process = Process(scenario, strategy, draw)
            self._wake(process, draw.uniform(0.0, DURATION[1]))

    def run(self) -> None:
        """Go on until nothing is left to do."""
        while self._events:
            now, _, process, ending = heapq.heappop(self._events)
            if ending is not None:
                self._end(process, now, *ending)
            elif now == process.wakes_at:
                process.wakes_at = math.inf
            else:  # there was a sooner one
                continue
            while process.next_at() <= now:
                self._start(process, now)
            if process.next_at() < process.wakes_at:
                self._wake(process, process.next_at())

    def _wake(self, process: Process, at: float) -> None:
        process.wakes_at = at
        heapq.heappush(self._events, (at, self._ticket(), process, None))

    def _start(self, process: Process, now: float) -> None:
        call = process.take(now)
        call.attempts += 1
        if call.attempts == 1:
            call.began_at = now
        permit = None if process.gate is None else process.gate.start(now)
        end, error = self.service.request(now)
        heapq.heappush(self._events, (end, self._ticket(), process, (call, permit, error)))

    def _end(self, process: Process, now: float, call: Call, permit: Any, error: Exception | None) -> None:
        process.free += 1
        verdict, is_probe = None, permit is not None and permit.is_probe
        if error is None:
            self.delivered += 1
            self.last_delivery = now
        else:
            verdict = self.policy.verdict(
                Attempt(
                    number=call.attempts,
                    exception=error,
                    result=None,
                    elapsed=now - call.began_at,
                    postponed=call.postponed + is_probe,
                )
            )
            if verdict.delay is None:
                self.lost += 1
            else:
                call.postponed += is_probe or not verdict.counts
                heapq.heappush(process.retries, (now + verdict.delay, self._ticket(), call))
        if process.gate is not None:
            evidence = "worked" if verdict is None else "failed" if verdict.counts else "busy"
            process.gate.end(permit, now, evidence, None if verdict is None else verdict.asked)


@dataclass(frozen=True)
class Result:
    """What came of it; times are in seconds.

    Attributes:
        strategy: How the processes went about it.
        load: How many requests there were in each 100 ms, as a multiple of the capacity.
        peak: The most of these after the outage.
        wasted: How many requests were made for nothing.
        done_after: How long after the outage the last call was delivered.
        lost: How many calls were not.
    """

    strategy: str
    load: list[float]
    peak: float
    wasted: int
    done_after: float
    lost: int

    def cells(self) -> list[str]:
        """Return its row of the table."""
        return [
            self.strategy,
            f"{self.peak:.1f} x capacity",
            f"{self.wasted:,}",
            f"{self.done_after:.0f} s",
            f"{self.lost:,}",
        ]


def simulate(name: str, scenario: Scenario) -> Result:
    """Run one strategy through the scenario."""
    simulation = Simulation(scenario, STRATEGIES[name])
    simulation.run()
    load = [requests / (scenario.capacity * BIN) for requests in simulation.service.requests]
    up_at = scenario.down_at + scenario.outage
    assert scenario.processes * scenario.calls == simulation.delivered + simulation.lost
    return Result(
        strategy=name,
        load=load,
        peak=max(load[math.ceil(up_at / BIN) :], default=0.0),
        wasted=sum(simulation.service.requests) - simulation.delivered,
        done_after=max(0.0, simulation.last_delivery - up_at),
        lost=simulation.lost,
    )


def table(results: Sequence[Result]) -> str:
    """Return the results as a table in Markdown."""
    rows = [["", *COLUMNS], ["---", *("---:" for _ in COLUMNS)], *(result.cells() for result in results)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw(results: Sequence[Result], scenario: Scenario, path: Path) -> None:
    """Draw the load over time; readable on light and on dark ground."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update(STYLE)
    figure = Figure(figsize=(8, 1.4 * len(results)), layout="constrained")
    for axes, one in zip(figure.subplots(len(results), sharex=True, sharey=True), results, strict=True):
        edges = [BIN * index for index in range(len(one.load) + 1)]
        axes.axvspan(
            scenario.down_at, scenario.down_at + scenario.outage, color="#d9534f", alpha=0.25, linewidth=0
        )
        axes.stairs(one.load, edges, baseline=LEAST, fill=True, color="#3b8ec2")
        axes.axhline(1.0, color="#808080", linewidth=0.8, linestyle="--")
        axes.set_yscale("log")
        axes.set_title(f"{one.strategy}: {one.lost:,} lost", loc="left", fontsize="medium")
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylim(LEAST)
    axes.set_xlim(0)
    figure.supylabel("requests, as a multiple of the capacity (dashed)", fontsize="medium")
    axes.set_xlabel("seconds (the service is down where it is red)")
    figure.savefig(path, transparent=True, metadata={"Date": None})


LEAST = 0.001  # where the axis of the load begins
STYLE = {
    **{f"{part}.color": "#808080" for part in ("text", "xtick", "ytick")},
    **{f"axes.{part}color": "#808080" for part in ("edge", "label", "title")},
    "svg.fonttype": "none",
    "svg.hashsalt": "retrying_executor",
    "font.family": "sans-serif",
}
"""Mid-tones for matplotlib, and text that stays text."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in asdict(Scenario()).items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(default), default=default, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--svg", type=Path, help="where to draw them (needs matplotlib)")
    options = vars(parser.parse_args(argv))
    json_path, svg_path = options.pop("json"), options.pop("svg")
    scenario = Scenario(**options)
    results = [simulate(name, scenario) for name in STRATEGIES]
    print(table(results))
    if json_path:
        json_path.write_text(json.dumps([asdict(one) for one in results]), encoding="ascii")
    if svg_path:
        draw(results, scenario, svg_path)


if __name__ == "__main__":
    main()
