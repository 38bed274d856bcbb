"""Draw what the benchmarks measured: how each contestant compares with the standard executor.

``python -m tests.benchmarks --json performance.json`` measures; this draws the ratios that it wrote: the
median of the pairs as a dot, and from the least to the greatest as a line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outage import STYLE

STANDARD = "ThreadPoolExecutor"
LOOKS = {
    "RetryingExecutor": ("#3b8ec2", "o"),
    "tenacity in a pool": ("#d98c2b", "s"),
    "stamina in a pool": ("#6aa84f", "^"),
    "more-executors": ("#a06cb4", "D"),
}


@dataclass(frozen=True)
class Row:
    """A measure under certain circumstances: of each contestant its least, middle and greatest ratio."""

    label: str
    must: float | None
    ratios: dict[str, tuple[float, float, float]]


def rows_of(content: dict[str, Any]) -> list[Row]:
    """Return what was compared with the standard executor, in the order in which it was measured."""
    rows: list[Row] = []
    for measure, lines in content["lines"].items():
        cases: dict[str, list[dict[str, Any]]] = {}
        for line in lines:
            if line["baseline"] == STANDARD:
                cases.setdefault(line["case"], []).append(line)
        for case, compared in cases.items():
            targets = [line["target"]["must"] for line in compared if line["target"]]
            ratios = {
                line["contestant"]: (line["spread"][0], line["median"], line["spread"][1])
                for line in compared
            }
            label = f"{measure}: {case.split(';')[0]}"
            rows.append(Row(label, targets[0] if targets else None, ratios))
    return rows


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the ratios; readable on light and on dark ground."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update(STYLE)
    figure = Figure(figsize=(10, 1.2 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(1.0, color="#808080", linewidth=0.8, linestyle="--")
    for contestant, (color, marker) in LOOKS.items():
        shown = [(y, row.ratios[contestant]) for y, row in enumerate(rows) if contestant in row.ratios]
        if not shown:
            continue
        heights = [y for y, _ in shown]
        axes.hlines(
            heights,
            [least for _, (least, _, _) in shown],
            [most for _, (_, _, most) in shown],
            color,
            alpha=0.6,
        )
        axes.plot([middle for _, (_, middle, _) in shown], heights, marker, color=color, label=contestant)
    targets = [(row.must, y) for y, row in enumerate(rows) if row.must is not None]
    if targets:
        axes.plot(*zip(*targets, strict=True), "|", color="#d9534f", markersize=11, label="target (must)")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.xaxis.set_minor_formatter("")
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"times as fast as {STANDARD} (logarithmic)")
    figure.legend(loc="outside upper right", ncols=len(LOOKS) + 1, frameon=False)
    figure.savefig(path, transparent=True, metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="what the benchmarks have written")
    parser.add_argument("--svg", type=Path, required=True, help="where to draw it (needs matplotlib)")
    options = parser.parse_args(argv)
    draw(rows_of(json.loads(options.json.read_text(encoding="utf-8"))), options.svg)


if __name__ == "__main__":
    main()
