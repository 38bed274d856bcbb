"""Compute what policies mean in time, for the table and the chart of the page about choosing one.

The library's own `RetryPolicy` is asked, call after call, with chance from a seed; attempts take no time, and
all of them fail in the same way. ``--check`` fails if table or chart on the page show something else.
"""

# ruff: noqa: D107, T201  # constructors are described by their classes; a command speaks by printing

from __future__ import annotations

import argparse
import hashlib
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrying_executor import Attempt, NotNow, RetryPolicy

PAGE = Path(__file__).parent
TABLE, CHART = PAGE / "policies_table.inc", PAGE / "policies.svg"
CALLS, ATTEMPTS = 40, 4000  # for each policy, at least; jitter makes each call different
HOUR = 3600.0


class StatusError(Exception):
    """Looks like those of HTTP clients: a status, and perhaps a header."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(f"status {status}")
        self.response = self
        self.status_code = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(frozen=True)
class Row:
    """A policy, how all attempts fail, and when they start, in seconds, of each call."""

    code: str
    what: str
    policy: Callable[[Callable[[], float]], RetryPolicy]
    failure: Exception

    def starts(self) -> list[list[float]]:
        """Return when the attempts of each call start, the first at 0."""
        chance = random.Random(1)
        calls: list[list[float]] = []
        while len(calls) < CALLS or len(calls) * len(calls[0]) < ATTEMPTS:
            calls.append(_starts(self.policy(chance.random), self.failure))
        return calls


def _starts(policy: RetryPolicy, failure: Exception) -> list[float]:
    """Return when the attempts of one call start."""
    starts, postponed = [0.0], 0
    while True:
        attempt = Attempt(
            number=len(starts), exception=failure, result=None, elapsed=starts[-1], postponed=postponed
        )
        verdict = policy.verdict(attempt)
        if verdict.delay is None:
            return starts
        postponed += not verdict.counts
        starts.append(starts[-1] + verdict.delay)


DOWN = ConnectionError("down")

ROWS = (
    Row("RetryPolicy()", "the default", lambda draw: RetryPolicy(random=draw), DOWN),
    Row(
        "RetryPolicy(jitter=False)",
        "each delay is its bound",
        lambda draw: RetryPolicy(jitter=False, random=draw),
        DOWN,
    ),
    Row(
        "RetryPolicy(max_attempts=8)",
        "three more attempts",
        lambda draw: RetryPolicy(max_attempts=8, random=draw),
        DOWN,
    ),
    Row(
        "RetryPolicy(delays=[1, 10, 60, 600])",
        "these, and no jitter",
        lambda draw: RetryPolicy(delays=[1, 10, 60, 600], random=draw),
        DOWN,
    ),
    Row(
        "RetryPolicy(max_attempts=None)",
        "until the hour is over",
        lambda draw: RetryPolicy(max_attempts=None, random=draw),
        DOWN,
    ),
    Row(
        "RetryPolicy(max_attempts=None, max_elapsed=6 * 3600)",
        "six hours instead",
        lambda draw: RetryPolicy(max_attempts=None, max_elapsed=6 * HOUR, random=draw),
        DOWN,
    ),
    Row(
        "RetryPolicy()",
        "each answer is a 503 with `Retry-After: 30`",
        lambda draw: RetryPolicy(random=draw),
        StatusError(503, retry_after="30"),
    ),
    Row(
        "RetryPolicy()",
        "each answer is a 429 with `Retry-After: 30`",
        lambda draw: RetryPolicy(random=draw),
        StatusError(429, retry_after="30"),
    ),
    Row(
        "RetryPolicy()",
        "each answer is a bare 429, or the call raises `NotNow`",
        lambda draw: RetryPolicy(random=draw),
        NotNow(),
    ),
    Row("RetryPolicy()", "each answer is a 404", lambda draw: RetryPolicy(random=draw), StatusError(404)),
)


def in_words(seconds: float) -> str:
    """Return a duration with two or three digits, in the unit that people would use."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 100:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    minutes = seconds / 60
    if round(minutes) < 60:
        return f"{minutes:.2g} min"
    return f"{minutes / 60:.1f} h".replace(".0 h", " h")


def between(values: Sequence[float]) -> tuple[float, float]:
    """Return what nine of ten lie between."""
    ordered = sorted(values)
    return ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]


def in_all(values: Sequence[float], word: Callable[[float], str]) -> str:
    """Return the mean, and what nine of ten lie between if they differ."""
    least, most = map(word, between(values))
    mean = word(statistics.fmean(values))
    if least == most:
        return mean
    if least.split()[1:] == most.split()[1:]:
        least = least.split()[0]  # the unit once
    return f"{mean} ({least} to {most})"


def table(starts: Sequence[list[list[float]]]) -> list[str]:
    """Return the lines of the table."""
    lines = [
        "| policy | attempts | second after | last after |",
        "| --- | --- | --- | --- |",
    ]
    for row, calls in zip(ROWS, starts, strict=True):
        attempts = in_all([len(call) for call in calls], "{:.0f}".format)
        retried = [call for call in calls if len(call) > 1]
        second = in_all([call[1] for call in retried], in_words) if retried else "-"
        last = in_all([call[-1] for call in retried], in_words) if retried else "-"
        lines.append(f"| `{row.code}`: {row.what} | {attempts} | {second} | {last} |")
    return lines


def draw(starts: Sequence[list[list[float]]], path: Path, digest: str) -> None:
    """Draw when the attempts start; readable on light and on dark ground."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update(
        {
            **{f"{part}.color": "#808080" for part in ("text", "xtick", "ytick")},
            **{f"axes.{part}color": "#808080" for part in ("edge", "label", "title")},
            "svg.fonttype": "none",
            "svg.hashsalt": "retrying_executor",
            "font.family": "sans-serif",
        }
    )
    shown = [(row, calls) for row, calls in zip(ROWS, starts, strict=True) if len(calls[0]) > 1]
    figure = Figure(figsize=(8, 0.6 + 0.62 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for y, (_, calls) in enumerate(shown):
        drawn = 0.0
        for index in range(1, max(map(len, calls))):
            ith = [call[index] for call in calls if len(call) > index]
            if len(ith) < len(calls) / 2:
                break  # most have given up
            mean = statistics.fmean(ith)
            if mean < 1.07 * drawn:
                continue  # the dots would be one
            drawn = mean
            least, most = between(ith)
            axes.hlines(y, least, most, "#3b8ec2", alpha=0.35, linewidth=7)
            axes.plot(mean, y, "o", color="#3b8ec2", markersize=4)
        axes.plot(statistics.fmean(call[-1] for call in calls), y, "|", color="#d9534f", markersize=16)
    axes.set_xscale("log")
    ticks = {0.1: "0.1 s", 1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min", 3600: "1 h", 6 * 3600: "6 h"}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xticks([], minor=True)
    axes.set_xlim(0.02, 8 * HOUR)
    axes.set_yticks([])
    for y, (row, _) in enumerate(shown):
        label = row.code if row.failure is DOWN else f"{row.code}, {row.what.replace('`', '')}"
        axes.text(0.02, y - 0.36, label, fontsize="small", verticalalignment="center")
    axes.set_ylim(len(shown) - 0.4, -0.75)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("after the first attempt (logarithmic)")
    figure.savefig(path, transparent=True, metadata={"Date": None, "Description": digest})


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if the page shows something else")
    parser.add_argument(
        "--write", action="store_true", help="put table and chart on the page (needs matplotlib)"
    )
    options = parser.parse_args(argv)
    starts = [row.starts() for row in ROWS]
    text = "\n".join([*table(starts), ""])
    shown = [[[f"{start:.6f}" for start in call] for call in calls] for calls in starts]
    digest = hashlib.sha256(repr((shown, [row.what for row in ROWS])).encode()).hexdigest()
    print(text, end="")
    if options.write:
        TABLE.write_text(text, encoding="ascii")
        draw(starts, CHART, digest)
    if options.check and (
        TABLE.read_text(encoding="ascii") != text or digest not in CHART.read_text("utf-8")
    ):
        raise SystemExit("the page shows something else: --write, and look at what it says")


if __name__ == "__main__":
    main()
