"""What the command prints: a line that changes while webhooks are delivered, then a table; plain ASCII."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from retrying_executor._demo.scenario import KILLS
from retrying_executor._demo.service import WORK
from retrying_executor._demo.webhooks import REST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import TextIO

    from retrying_executor._demo.kills import KillReport
    from retrying_executor._demo.scenario import Scenario
    from retrying_executor._demo.webhooks import Report

_WIDTH = 78
_BAR = 8  # so that all of the line fits into 80 columns
_ROWS = {
    "delivered (by the service's ledger)": "{0.delivered}",
    "lost": "{0.lost}",
    "attempts": "{0.attempts}",
    "retries": "{0.retries}",
    "time": "{0.time:.1f} s",
    "threads at the peak": "{0.threads_at_peak}",
    f"threads {REST:g} s after the last call": "{0.threads_at_rest}",
}


_ROWS_OF_KILLS = {
    "accepted": "{0.accepted}",
    "delivered (by the service's ledger)": "{0.delivered}",
    "lost": "{0.lost}",
    "delivered twice": "{0.twice}",
    "times that the process was killed": "{0.kills}",
    "files left in the journal": "{0.files_left}",
    "time": "{0.time:.1f} s",
}


@contextmanager
def progress_line(stream: TextIO, name: str) -> Iterator[Callable[[float, str], None]]:
    """Yield a function that shows how far *name* has got: in one line of a terminal, which it rewrites.

    If *stream* is no terminal, nothing is written. The line is gone after the ``with`` block.
    """
    is_live = stream.isatty()

    def write(text: str) -> None:
        if is_live:
            width = min(_WIDTH, shutil.get_terminal_size().columns - 1)
            stream.write(f"\r{text[:width].ljust(width)}\r")  # padded: the line before may have been longer
            stream.flush()

    def show(share: float, text: str) -> None:
        write(f"{name:18} [{'#' * int(_BAR * share):.<{_BAR}}] {int(100 * share):3}% {text}")

    try:
        yield show
    finally:
        write("")


def introduction(scenario: Scenario) -> str:
    """Say what is going to happen."""
    kills = f"The process that delivers them is killed {KILLS} times.\n" if scenario.kill else ""
    ending = "and is never down."
    if scenario.outage:
        ending = (
            f"and goes down for {scenario.outage:g} s\nwhen it has accepted {scenario.outage_after} webhooks."
        )
    return (
        f"{scenario.calls} webhooks, {scenario.workers} workers. The service takes {WORK * 1000:g} ms for "
        f"each request,\nanswers {scenario.failures:.0%} of them with 503 (seed {scenario.seed}), {ending}\n"
        f"{kills}"
    )


def table(reports: Mapping[str, Report | KillReport], rows: Mapping[str, str] = _ROWS) -> str:
    """Put the reports side by side, under their names."""

    def line(label: str, cells: Iterable[str]) -> str:
        return f"{label:36}" + "".join(f"{cell:>21}" for cell in cells)

    lines = [line(label, map(form.format, reports.values())) for label, form in rows.items()]
    return "\n".join([line("", reports), "-" * _WIDTH, *lines]) + "\n"


def of_kills(report: KillReport) -> str:
    """Say what became of the webhooks when the process was killed again and again."""
    if report.lost or report.files_left:
        verdict = (
            f"{report.lost} webhooks were not delivered; {report.files_left} files are left in the journal."
        )
    else:
        verdict = "Every webhook that was accepted is delivered, and the journal is empty."
    return table({"RetryingExecutor": report}, _ROWS_OF_KILLS) + "\n" + verdict


def verdict(retrying: Report) -> str:
    """Say whether the executor that retries delivered everything, and if not, why."""
    if not retrying.lost:
        return "The RetryingExecutor delivered every webhook."
    reason = f"the last error: {retrying.errors[-1]}" if retrying.errors else "there was no more time"
    return f"The RetryingExecutor lost {retrying.lost} webhooks; {reason}"
