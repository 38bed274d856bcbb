"""Measure the executor against the standard one, and against what else retries calls, where it is installed.

``python -m tests.benchmarks`` takes every measure and prints a table. With ``--gate`` it ends with 1 if a
median is worse than half of what it must be (where less is better: than twice). A measure that is broken off
by an error makes it end with 1 in any case.
"""

# ruff: noqa: T201  # a command speaks by printing

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import (
    backlog,
    coroutines,
    engines,
    in_backoff,
    journal,
    latency,
    memory,
    observing,
    resting,
    schedules,
    throughput,
    upstreams,
    waiting,
)
from tests.benchmarks.measuring import Measure, NotPossible, Scale, Target
from tests.benchmarks.report import Report, circumstances, has_gil, heading, read, table

MEASURES = (
    Measure(
        "submit and wait",
        throughput.submit_and_wait,
        [Target(must=4.5, aim=6.5) if has_gil() else Target(must=1.8, aim=3.0)],
    ),
    Measure("submit() alone", throughput.submit_alone, [Target(must=6.0, aim=9.0)]),
    Measure("round trip", latency.round_trip, [Target(must=1.1, aim=1.4)]),
    Measure("with options", throughput.with_options, [Target(must=1.0, aim=2.0)]),
    Measure("observed futures", observing.observed, [Target(must=0.95, aim=1.1)]),
    Measure("real socket", waiting.real_socket, [Target(must=1.0, aim=1.0)]),
    Measure("memory, by tracemalloc", memory.traced, [Target(must=400, aim=300, better="less")]),
    Measure("memory, resident", memory.resident, [Target(must=400, aim=300, better="less")]),
    Measure(
        "memory, upstreams",
        memory.members,
        [Target(must=3000, aim=2000, better="less"), Target(must=3000, aim=2000, better="less")],
    ),
    Measure("retry-heavy work", schedules.retry_heavy, [Target(must=1.05, aim=1.02, better="less")]),
    Measure(
        "in backoff",
        in_backoff.in_backoff,
        [
            Target(must=1, aim=1, better="less"),  # threads
            Target(must=0.1, aim=0.01, better="less"),  # CPU, in percent of a core
            Target(must=1e-3, aim=0.3e-3, better="less"),  # lateness, in seconds: median
            Target(must=20e-3, aim=5e-3, better="less"),  # and 99th percentile
        ],
    ),
    Measure(
        "growing backlog",
        backlog.growing,
        [
            Target(must=1.5, aim=1.2, better="less"),  # against a short one
            Target(must=4.5, aim=6.0),  # against the standard executor: submit
            Target(must=0.9, aim=1.2),  # and cancel
        ],
    ),
    Measure("upstream, not binding", upstreams.not_binding, [Target(must=0.8, aim=0.95)]),
    Measure("journal, submits", journal.submits, [Target(must=4.0, aim=6.0)]),
    Measure("journal, memory", journal.waiting, [Target(must=1.1, aim=1.0, better="less")]),
    Measure(
        "journal, adoption",
        journal.adoption,
        [
            Target(must=10.0, aim=3.0, better="less"),  # seconds
            Target(must=1000, aim=500, better="less"),  # calls in memory
        ],
    ),
    Measure(
        "coroutines",
        coroutines.in_flight,
        [Target(must=0.5, aim=0.67), Target(must=3.0, aim=4.0)],  # against asyncio.gather; against tenacity
    ),
    Measure(
        "coroutines, memory",
        coroutines.memory,
        [Target(must=3000, aim=2500, better="less"), Target(must=3000, aim=2500, better="less")],
    ),
    Measure("coroutines, cancel", coroutines.cancelling, [Target(must=5e-3, aim=1e-3, better="less")]),
    Measure("coroutines, threads", coroutines.threads, [Target(must=1, aim=1, better="less")]),
    Measure("engine, processes", engines.no_ops, [Target(must=0.4, aim=0.6)]),
    Measure(
        "idle",
        resting.idle,
        [Target(must=0, aim=0, better="less"), Target(must=0, aim=0, better="less")],  # threads, CPU
    ),
    Measure("import", resting.imported, [Target(must=12e-3, aim=5e-3, better="less")]),
)
"""What is measured, and what each is held against."""


def take(measures: Sequence[Measure], scale: Scale, path: Path | None) -> Report:
    """Take the measures, say on stderr which one it is at, and after each write what there is to *path*."""
    report = Report(circumstances(scale.pairs, scale.is_quick))
    for measure in measures:
        print(f"{measure.name} ...", file=sys.stderr, flush=True)
        began_at = time.perf_counter()
        try:
            report.lines[measure.name] = list(measure.lines(scale))
        except NotPossible as reason:
            report.skipped[measure.name] = str(reason)
        except Exception as error:  # the others are worth having
            report.failed[measure.name] = f"{type(error).__name__}: {error}"
        report.took[measure.name] = time.perf_counter() - began_at
        if path:
            report.write(path)
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7, help="how many rounds (default: %(default)s)")
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="measures whose name has this (regular expression)"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to try it out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write every sample")
    parser.add_argument(
        "--read", type=Path, metavar="FILE", help="measure nothing: show what was written to this file"
    )
    parser.add_argument(
        "--gate", action="store_true", help="end with 1 if a figure is worse than half of its target"
    )
    parser.add_argument("--list", action="store_true", help="measure nothing: list the measures")
    options = parser.parse_args(argv)
    chosen = [measure for measure in MEASURES if re.search(options.only, measure.name)]
    if options.pairs < 1 or not chosen:
        parser.error("there is nothing to measure: see --list, and --pairs is 1 or more")
    if options.list:
        print(*(measure.name for measure in chosen), sep="\n")
        return 0
    scale = Scale(options.pairs, options.quick)
    report = read(options.read) if options.read else take(chosen, scale, options.json)
    print(heading(report), "", table(report), sep="\n")
    far_off = report.far_off() if options.gate else []
    for complaint in far_off:
        print(f"GATE: worse than half of what it must be: {complaint}")
    return 1 if far_off or report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
