"""How the recipes of the how-to page are run, and the tables of what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pages
import retrying_executor
from retrying_executor import RetryingExecutor
from retrying_executor.testing import VirtualTimeExecutor

PAGE = pages.HOW_TO / "recipes.md"
TABLES = PAGE.with_name("recipes_table.inc")
HOUR = 3600.0  # in seconds


@contextmanager
def virtual_time() -> Iterator[Callable[[], float]]:
    """Make what a program imports as ``RetryingExecutor`` one in virtual time; yields its clock."""
    made: list[VirtualTimeExecutor] = []

    def make(*args: Any, **options: Any) -> VirtualTimeExecutor:
        made.append(VirtualTimeExecutor(*args, **options))
        return made[-1]

    with mock.patch.object(retrying_executor, "RetryingExecutor", make):
        yield lambda: made[-1].monotonic()


def rows(columns: Sequence[str], *lines: Sequence[object]) -> list[str]:
    """Return the lines of a table."""
    cells = [columns, ["---"] * len(columns), *lines]
    return [
        "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in line) + " |"
        for line in cells
    ]


def line_on_the_page(beginning: str) -> str:
    """Return the line of the page that begins like that."""
    return next(line for line in pages.text_of(PAGE).splitlines() if line.startswith(beginning))


def on_the_page(section: str) -> list[str]:
    """Return the lines of the table that the page shows in a section."""
    text = TABLES.read_text("ascii")
    begin = text.index(f"<!-- {section} -->\n")
    return text[begin : text.index("\n<!--", begin + 1)].splitlines()[2:]


def is_settled(executor: RetryingExecutor) -> bool:
    """Return whether an executor has asked for all that it can start."""
    stats = executor.stats()
    return stats.ready == 0 or stats.running == stats.threads
