"""What was measured, as a table and as JSON, with the circumstances."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.measuring import Line, Target

PACKAGES = ("retrying-executor", "tenacity", "stamina", "more-executors", "aiometer", "aqute")
COLUMNS = ("measure", "case", "who", "compared with", "median", "figure", "spread", "must", "aim", "met")
SCALES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


@dataclass(frozen=True)
class Circumstances:
    """Where, when and how it was measured."""

    pairs: int
    quick: bool
    date: str
    python: str
    implementation: str
    gil: bool
    system: str
    machine: str
    cores: int | None
    versions: Mapping[str, str]


def circumstances(pairs: int, quick: bool) -> Circumstances:
    """Return those of this process."""
    return Circumstances(
        pairs=pairs,
        quick=quick,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        python=platform.python_version(),
        implementation=platform.python_implementation(),
        gil=has_gil(),
        system=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        versions={name: found for name in PACKAGES if (found := _version(name))},
    )


def has_gil() -> bool:
    """Return whether one thread runs at a time."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
        circumstances: Where, when and how.
        lines: The figures of each measure.
        skipped: The measures that could not be taken here, and why.
        failed: Those that were broken off by an error, and by which.
        took: How many seconds each measure took.
    """

    circumstances: Circumstances
    lines: dict[str, list[Line]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    took: dict[str, float] = field(default_factory=dict)

    def far_off(self) -> list[str]:
        """Return what the gate closes for: figures that are worse than half of what they must be."""
        return [
            f"{name}, {line.case}: {_figure(line, line.median)}"
            for name, lines in self.lines.items()
            for line in lines
            if line.is_far_off
        ]

    def write(self, path: Path) -> None:
        """Write all of it as JSON, every sample and, for those who only read, the median and the spread."""
        content = asdict(self)
        for name, lines in self.lines.items():
            for line, entry in zip(lines, content["lines"][name], strict=True):
                entry.update(figures=line.figures, median=line.median, spread=line.spread)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Report:
    """Return a report that was written as JSON."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    content["circumstances"] = Circumstances(**content["circumstances"])
    content["lines"] = {name: [_line(entry) for entry in lines] for name, lines in content["lines"].items()}
    return Report(**content)


def _line(entry: dict[str, Any]) -> Line:
    stored = {name: entry[name] for name in Line.__dataclass_fields__}
    stored["target"] = stored["target"] and Target(**stored["target"])
    return Line(**stored)


# -- as text -----------------------------------------------------------------------------------------


def heading(report: Report) -> str:
    """Return the circumstances, in a sentence or two."""
    where = report.circumstances
    threading = "with the GIL" if where.gil else "free-threaded"
    packages = ", ".join(f"{name} {number}" for name, number in where.versions.items())
    text = (
        f"{where.implementation} {where.python} {threading}, {where.system} on {where.machine}, "
        f"{where.cores} core(s), {where.date}; {packages or 'nothing else installed'}. "
        f"Medians of {where.pairs} pairs; the spread is from the least to the greatest."
    )
    return f"QUICK: small sizes, to try it out; the figures mean little.\n{text}" if where.quick else text


def table(report: Report) -> str:
    """Return the figures as a table in Markdown, with its notes and what is missing."""
    notes: list[str] = []
    rows = [list(COLUMNS), ["---"] * 3 + ["---:"] * 6 + ["---"]]
    for name, lines in report.lines.items():
        rows += [_cells(name, line, notes) for line in lines]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([text, "", *_remarks(report, notes)])


def _cells(name: str, line: Line, notes: list[str]) -> list[str]:
    if line.note and line.note not in notes:
        notes.append(line.note)
    mark = f" [{notes.index(line.note) + 1}]" if line.note else ""
    least, most = line.spread
    return [
        name,
        line.case,
        line.contestant + mark,
        f"{line.baseline}: {amount(median(line.against), line.unit)}" if line.baseline else "",
        amount(median(line.samples), line.unit),
        _figure(line, line.median),
        f"{_figure(line, least)} to {_figure(line, most)}",
        _figure(line, line.target.must) if line.target else "",
        _figure(line, line.target.aim) if line.target else "",
        _met(line),
    ]


def _met(line: Line) -> str:
    target = line.target
    if target is None:
        return ""
    if target.is_met(line.median, target.aim):
        return "aim"
    if target.is_met(line.median, target.must):
        return "must"
    if target.is_far_off(line.median):
        return "FAR OFF"
    within = any(target.is_met(figure, target.must) for figure in line.spread)
    return "no (within the spread)" if within else "no"


def _remarks(report: Report, notes: list[str]) -> Iterator[str]:
    yield "1.50x: it takes or needs less than what it is compared with, by that factor; [1.50x]: more."
    yield from (f"[{number}] {note}." for number, note in enumerate(notes, 1))
    yield from (f"SKIPPED: {name}: {reason}" for name, reason in report.skipped.items())
    yield from (f"FAILED: {name}: {error}" for name, error in report.failed.items())


def _figure(line: Line, figure: float) -> str:
    if not line.baseline:
        return amount(figure, line.unit)
    return f"{figure:.2f}x" if line.better == "more" else f"[{figure:.3f}x]"


def amount(value: float, unit: str) -> str:
    """Return a value with three digits and its unit; for seconds, the one that fits."""
    if unit == "s":
        unit = next((name for name, scale in SCALES.items() if value >= scale), "ns")
        value /= SCALES[unit]
    number = f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"
    return f"{number} {unit}".rstrip()
