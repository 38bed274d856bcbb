"""Recipes for work in large amounts, run against services on loopback."""

from __future__ import annotations

import io
import json
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import pages
from conftest import TIMEOUT
from cookbook import HOUR, PAGE, is_settled, line_on_the_page, rows, virtual_time
from observe import eventually
from services import UNAVAILABLE, Answer, close, service

# -- a nightly export with a deadline ------------------------------------------------------------------------

EXPORT = "A nightly export with a deadline"


@dataclass(frozen=True)
class Night:
    """What came of a night in which the warehouse was down for so many hours, after two."""

    outage: float
    reports: int
    minutes_up: int
    fetched: Sequence[int]
    missing: Mapping[int, BaseException]
    printed: str
    requests: Sequence[float]  # when they came, in seconds
    refused: int
    ended_at: float

    @property
    def ideal(self) -> int:
        """How many reports there could be."""
        return min(self.reports, self.minutes_up)


def night(outage: float) -> Night:
    """Run the recipe."""
    began, ended = 2 * HOUR, (2 + outage) * HOUR
    requests: list[float] = []

    def answer(report: str, _: bytes) -> Answer:
        requests.append(clock())
        return UNAVAILABLE if began <= requests[-1] < ended else Answer(int(report))

    with virtual_time() as clock, service(answer) as warehouse, redirect_stdout(io.StringIO()) as printed:
        program = pages.run(PAGE, {"https://warehouse.example": warehouse.url}, EXPORT)
    missing = program["missing"]
    close(missing)
    up = 6 * HOUR - min(ended, 6 * HOUR) + began
    return Night(
        outage=outage,
        reports=len(program["exports"]),
        minutes_up=int(up // 60),
        fetched=[
            json.loads(future.result())
            for report, future in program["exports"].items()
            if report not in missing
        ],
        missing=missing,
        printed=printed.getvalue(),
        requests=requests,
        refused=warehouse.statuses[UNAVAILABLE.status],
        ended_at=clock(),
    )


def nights() -> list[Night]:
    """Run the recipe in a good night and in some others."""
    return [night(outage) for outage in (0, 1, 3, 4)]


def table_of_nights(nights: Sequence[Night]) -> list[str]:
    """Return the table of the page."""
    columns = (
        "the warehouse is down",
        "reports",
        "ideal",
        "listed as missing",
        "requests while it is down",
        "requests after six",
    )
    hours = {0: "never", 4: "from two on, for good"}
    return rows(
        columns,
        *(
            (
                hours.get(night.outage, f"from two on, for {night.outage} h"),
                len(night.fetched),
                night.ideal,
                len(night.missing),
                night.refused,
                sum(when > 6 * HOUR for when in night.requests),
            )
            for night in nights
        ),
    )


# -- a paginated sync ----------------------------------------------------------------------------------------

SYNC = "A paginated sync"
LISTS, PAGES, ITEMS = 20, 10, 3  # so many pages in each list, so many items on each page
BROKEN = 4  # the page of a list that fails, until it is mended


class Lists:
    """What answers for the lists: every third page fails at first, and one fails until it is mended."""

    def __init__(self, broken: str | None = f"list-7?cursor={BROKEN}") -> None:
        self.broken = broken
        self._seen: set[str] = set()

    def answer(self, path: str, _: bytes) -> Answer:
        """Return a page."""
        name, _, at = path.partition("?cursor=")
        cursor = int(at)
        is_first = path not in self._seen
        self._seen.add(path)
        if path == self.broken or (is_first and (int(name[5:]) + cursor) % 3 == 0):
            return UNAVAILABLE
        items = [f"{name}/{cursor}/{item}" for item in range(ITEMS)]
        return Answer({"items": items, "next": cursor + 1 if cursor + 1 < PAGES else None})


@dataclass(frozen=True)
class Start:
    """What came of one start of the sync."""

    failed: Mapping[str, BaseException]
    paths: Sequence[str]
    handed_out: int
    refused: int
    items: Sequence[str]
    most_at_once: int


def all_items() -> list[str]:
    """Return the items of all lists."""
    pages_ = ((number, cursor) for number in range(LISTS) for cursor in range(PAGES))
    return sorted(f"list-{number}/{cursor}/{item}" for number, cursor in pages_ for item in range(ITEMS))


def sync(lists: Lists, directory: Path, replaced: Mapping[str, str]) -> Start:
    """Start the recipe once."""
    database = directory / "sync.db"
    with service(lists.answer) as crm:
        replaced = {"https://crm.example": crm.url, "sync.db": database.as_posix(), **replaced}
        program = pages.run(PAGE, replaced, SYNC)
    close(program["failed"])
    with closing(sqlite3.connect(database)) as connection:
        items = [item for (item,) in connection.execute("SELECT item FROM items")]
    return Start(
        failed=program["failed"],
        paths=crm.paths,
        handed_out=crm.statuses[HTTPStatus.OK],
        refused=crm.statuses[UNAVAILABLE.status],
        items=items,
        most_at_once=crm.most_at_once,
    )


def two_starts(lists: Lists, directory: Path) -> tuple[Start, Start]:
    """Start the recipe, and again when the page that failed is mended."""
    with virtual_time():
        first = sync(lists, directory, {})
        lists.broken = None
        return first, sync(lists, directory, {})


def table_of_starts(starts: Sequence[Start]) -> list[str]:
    """Return the table of the page."""
    columns = (
        "start",
        "lists complete",
        "pages handed out",
        "ideal",
        "refused",
        "items there afterwards",
        "ideal",
    )
    pages_ = [LISTS * PAGES - (PAGES - BROKEN), PAGES - BROKEN]
    items = [pages_[0] * ITEMS, LISTS * PAGES * ITEMS]
    lines = [
        (name, LISTS - len(start.failed), start.handed_out, new, start.refused, len(start.items), there)
        for name, start, new, there in zip(("the first", "the second"), starts, pages_, items, strict=True)
    ]
    return rows(columns, *lines)


# -- interactive before bulk ---------------------------------------------------------------------------------

INTERACTIVE = "Interactive before bulk"
BULK, CLICKS, PLACES = 1_000, 10, 4


@dataclass(frozen=True)
class Click:
    """What had happened since an interactive call was submitted, when it reached the service."""

    bulk_started: int
    ended: int


def clicks(replaced: Mapping[str, str]) -> list[Click]:
    """Run the recipe: interactive calls are submitted while bulk calls wait.

    The service answers one request after the other, and each time only when nothing else can start. So what
    it sees is the order in which the upstream lets calls start, and no race of threads.
    """
    answers = threading.Semaphore(0)

    def answer(product: str, _: bytes) -> Answer:
        return Answer(product) if answers.acquire(timeout=TIMEOUT) else UNAVAILABLE

    def are_settled(requests: int) -> bool:
        return len(catalogue.paths) == requests and all(map(is_settled, executors))

    with service(answer) as catalogue:
        replaced = {"https://catalogue.example": catalogue.url, "timeout=5": f"timeout={TIMEOUT}", **replaced}
        program = pages.run(PAGE, replaced, INTERACTIVE)
        executors = {program["bulk"], program["interactive"]}
        program["index"]([f"bulk/{number}" for number in range(BULK)])
        bulk = program["bulk"]
        assert eventually(lambda: bulk.stats().running == catalogue.at_once and is_settled(bulk))
        running = catalogue.at_once
        futures = [program["show"](f"click/{number}") for number in range(CLICKS)]
        assert eventually(lambda: are_settled(PLACES))
        found: list[Click] = []
        ended = 0
        while len(found) < CLICKS:
            later = catalogue.paths[running:]
            arrived = [place for place, path in enumerate(later) if path.startswith("click")]
            found += [Click(place - len(found), ended) for place in arrived[len(found) :]]
            answers.release()
            ended += 1
            assert eventually(lambda requests=PLACES + ended: are_settled(min(requests, BULK + CLICKS)))
        bulk.shutdown(wait=False, cancel_futures=True)
        answers.release(PLACES + CLICKS)
        for executor in executors:
            executor.shutdown()
    assert [f'"click/{number}"'.encode() for number in range(CLICKS)] == [one.result() for one in futures]
    return found


def ways_to_click() -> dict[str, list[Click]]:
    """Run the recipe as it is, and with less of it."""
    line = line_on_the_page("interactive = ")
    four = {"bulk = RetryingExecutor(max_workers=3": "bulk = RetryingExecutor(max_workers=4"}
    return {
        "one executor": clicks({line: "interactive = bulk", **four}),
        "two, and bulk calls may take all places": clicks(four),
        "two, and one place is left": clicks({}),
    }


def table_of_clicks(ways: Mapping[str, Sequence[Click]]) -> list[str]:
    """Return the table of the page."""
    columns = (
        "executors",
        "calls that end before the first interactive one starts",
        f"bulk calls that start before the first of {CLICKS}",
        f"before the last of {CLICKS}",
        "ideal",
    )
    return rows(
        columns,
        *(
            (way, found[0].ended, found[0].bulk_started, found[-1].bulk_started, 0)
            for way, found in ways.items()
        ),
    )
