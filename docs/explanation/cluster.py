"""Simulate a day of work on a cluster that loses workers, with retries and without.

Time is virtual and everything is drawn from a seed, so a run gives the same figures every time. What makes
the calls is the library's own executor, in virtual time; the cluster is made up:

- A worker runs one call at a time, each for some minutes.
- It goes away at a random time: machines fail, and cheap ones are taken back. What it ran is lost, and after
  some minutes there is another worker in its place.
- Twice a day many go at once, as when a zone is needed for somebody else.

``--write`` puts the figures on the page, and draws the chart (needs matplotlib). ``--check`` fails if the
page shows something else.
"""

# ruff: noqa: D107, T201  # constructors are described by their classes; a command speaks by printing

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import logging
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

from outage import STYLE

from retrying_executor import AttemptLostError, RetryPolicy
from retrying_executor.testing import VirtualTimeExecutor

HERE = Path(__file__).parent
TABLE, CHART = HERE / "cluster_table.inc", HERE / "cluster.svg"
HOUR = 3600.0  # seconds
BIN = HOUR / 4  # seconds for which calls are counted together
WAVES = (9.0, 17.0)  # hours at which many workers go at once
COLUMNS = ("calls", "done", "lost", "attempts", "attempts lost", "all done after")


@dataclass(frozen=True)
class Scenario:
    """What goes on; times are in seconds.

    Attributes:
        workers: How many the cluster has, and how many attempts are in flight.
        calls: How many calls there are to make.
        length: How long a call takes, on average.
        life: For how long a worker lives, on average.
        pause: After how long there is another in its place.
        wave: Which share of the workers goes at once, twice a day.
        max_attempts: How many attempts a call gets, if any is made again.
        seed: Decides all that is random.
    """

    workers: int = 200
    calls: int = 26_000
    length: float = 600.0
    life: float = 12 * HOUR
    pause: float = 180.0
    wave: float = 0.3
    max_attempts: int = 5
    seed: int = 1


class Cluster:
    """Runs attempts, each on the worker that is free and has been there for longest; loses workers.

    Attributes:
        attempts: How many were begun.
        lost: How many of these were lost.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.attempts = self.lost = 0
        self._pause = scenario.pause
        self._ends = [_ends(scenario, number) for number in range(scenario.workers)]
        self._free = [(0.0, number) for number in range(scenario.workers)]  # from when on each can be used

    async def run(self, executor: VirtualTimeExecutor, length: float) -> float:
        """Run an attempt; return when it ended.

        Raises:
            AttemptLostError: If its worker has gone away.
        """
        self.attempts += 1
        from_when, number = heapq.heappop(self._free)  # there are as many as attempts in flight
        if (left := from_when - executor.monotonic()) > 0:
            await asyncio.sleep(left)
        now = executor.monotonic()
        ends = self._ends[number]
        goes_at = ends[bisect_right(ends, now)]
        await asyncio.sleep(min(length, goes_at - now))
        is_lost = goes_at < now + length
        now = executor.monotonic()
        heapq.heappush(self._free, (now + self._pause if is_lost else now, number))
        if is_lost:
            self.lost += 1
            raise AttemptLostError(f"worker {number} has gone away")
        return now


def _ends(scenario: Scenario, number: int) -> list[float]:
    """Return when a worker goes away, and those that come in its place: for several days."""
    draw = random.Random(f"{scenario.seed} {number}")
    days = range(10)
    lives = (draw.expovariate(1 / scenario.life) + scenario.pause for _ in range(1000))
    at_random = [at for at in accumulate(lives) if at < len(days) * 24 * HOUR]
    in_waves = [
        (24 * day + hour) * HOUR + draw.uniform(0.0, 60.0)
        for day in days
        for hour in WAVES
        if draw.random() < scenario.wave
    ]
    return sorted([*at_random, *in_waves, len(days) * 24 * HOUR])


@dataclass(frozen=True)
class Result:
    """What came of it.

    Attributes:
        way: How the calls were made.
        calls: How many there were.
        done: How many of these in each quarter of an hour.
        lost: How many were given up in each.
        attempts: How many attempts were made.
        attempts_lost: How many of these were lost.
        hours: How long it took until the last call was done.
    """

    way: str
    calls: int
    done: list[int]
    lost: list[int]
    attempts: int
    attempts_lost: int
    hours: float

    def cells(self) -> list[str]:
        """Return its row of the table."""
        numbers = [self.calls, sum(self.done), sum(self.lost), self.attempts, self.attempts_lost]
        return [self.way, *(f"{number:,}" for number in numbers), f"{self.hours:.1f} hours"]


def simulate(way: str, scenario: Scenario, policy: RetryPolicy | None) -> Result:
    """Have all calls made; those that are lost are given up, or made again as the policy says."""
    draw = random.Random(scenario.seed)
    cluster = Cluster(scenario)
    done: list[float] = []
    lost: list[float] = []
    with VirtualTimeExecutor(seed=scenario.seed, retry=policy, max_coroutines=scenario.workers) as executor:
        lengths = [draw.uniform(0.5, 1.5) * scenario.length for _ in range(scenario.calls)]
        futures = [executor.submit(cluster.run, executor, length) for length in lengths]
        for future in futures:
            future.add_done_callback(
                lambda one: (lost if one.exception() else done).append(executor.monotonic())
            )
        executor.drain()
    assert scenario.calls == len(done) + len(lost)
    bins = int(max(done) / BIN) + 1
    return Result(
        way=way,
        calls=scenario.calls,
        done=_histogram(done, bins),
        lost=_histogram(lost, bins),
        attempts=cluster.attempts,
        attempts_lost=cluster.lost,
        hours=max(done) / HOUR,
    )


def _histogram(times: Sequence[float], bins: int) -> list[int]:
    counts = [0] * bins
    for at in times:
        counts[min(int(at / BIN), bins - 1)] += 1
    return counts


def results_of(scenario: Scenario) -> list[Result]:
    """Run the day twice."""
    return [
        simulate("without retries", scenario, None),
        simulate("with retries", scenario, RetryPolicy(max_attempts=scenario.max_attempts)),
    ]


def table(results: Sequence[Result]) -> str:
    """Return the results as a table in Markdown."""
    rows = [["", *COLUMNS], ["---", *("---:" for _ in COLUMNS)], *(result.cells() for result in results)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw the calls that are done and those that are lost, over the day; readable on light and on dark."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update(STYLE)
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=[3, 2])
    for one, color, style in zip(results, ("#d98c2b", "#3b8ec2"), ("--", "-"), strict=True):
        hours = [BIN * index / HOUR for index in range(len(one.done) + 1)]
        above.stairs(one.done, hours, linestyle=style, color=color, label=one.way)
        below.plot(hours, [0, *accumulate(one.lost)], style, color=color, label=one.way)
    for axes, what in ((above, "calls done in 15 minutes"), (below, "calls lost by then")):
        for hour in WAVES:
            axes.axvspan(hour, hour + 0.1, color="#d9534f", alpha=0.4, linewidth=0)
        axes.set_ylabel(what)
        axes.set_ylim(bottom=-0.02 * axes.get_ylim()[1])  # a line at 0 is seen
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.spines[["top", "right"]].set_visible(False)
    above.legend(frameon=False, loc="lower left")
    below.set_xlabel("hours (many workers go at once where it is red)")
    below.set_xlim(0)
    figure.savefig(path, transparent=True, metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in asdict(Scenario()).items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(default), default=default, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--write", action="store_true", help="put them on the page (needs matplotlib)")
    parser.add_argument("--check", action="store_true", help="fail if the page shows something else")
    options = vars(parser.parse_args(argv))
    json_path, writes, checks = (options.pop(name) for name in ("json", "write", "check"))
    logging.disable()  # of calls that are lost, which are counted
    results = results_of(Scenario(**options))
    text = f"{table(results)}\n"
    print(text, end="")
    if json_path:
        json_path.write_text(json.dumps([asdict(one) for one in results]), encoding="ascii")
    if writes:
        draw(results, CHART)
        TABLE.write_text(text, encoding="ascii")
    if checks and TABLE.read_text(encoding="ascii") != text:
        raise SystemExit(f"{TABLE.name} shows something else: --write, and look at what the page says")


if __name__ == "__main__":
    main()
