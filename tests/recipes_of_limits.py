"""Recipes for services that have limits, or are down, run against such services on loopback."""

from __future__ import annotations

import itertools
import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

import pages
from conftest import TIMEOUT
from cookbook import PAGE, is_settled, line_on_the_page, rows, virtual_time
from observe import eventually
from services import UNAVAILABLE, Answer, Quota, Service, close, most_within, service

# -- embeddings under a budget of tokens ---------------------------------------------------------------------

EMBEDDINGS = "Embeddings under a budget of tokens"


@dataclass(frozen=True)
class Minutes:
    """What came of the embeddings."""

    texts: Sequence[str]
    vectors: Sequence[object]
    requests: int
    refused: int
    tokens: int
    ended_at: float

    @property
    def ideal(self) -> float:
        """When the last request could start, in seconds."""
        return (math.ceil(self.tokens / 200_000) - 1) * 60.0


def counted(text: str) -> int:
    """Return how many tokens the service finds in a text: fewer than the recipe estimates."""
    return round(1.4 * len(text.split()))


def embeddings(replaced: Mapping[str, str]) -> Minutes:
    """Run the recipe."""
    requests, tokens = Quota(500, 60), Quota(200_000, 60)

    def answer(_: str, sent: bytes) -> Answer:
        text, now = json.loads(sent)["input"], clock()
        weight = counted(text)
        opens_in = max(requests.opens_in(1, now), tokens.opens_in(weight, now))
        if opens_in > 0:
            return Answer(status=HTTPStatus.TOO_MANY_REQUESTS, retry_after=opens_in)
        requests.take(1, now)
        tokens.take(weight, now)
        return Answer({"embedding": len(text), "usage": {"total_tokens": weight}})

    with virtual_time() as clock, service(answer) as model:
        program = pages.run(PAGE, {"https://llm.example": model.url, **replaced}, EMBEDDINGS)
    return Minutes(
        texts=program["TEXTS"],
        vectors=program["vectors"],
        requests=len(model.paths),
        refused=model.statuses[HTTPStatus.TOO_MANY_REQUESTS],
        tokens=sum(map(counted, program["TEXTS"])),
        ended_at=clock(),
    )


def ways_to_count() -> dict[str, Minutes]:
    """Run the recipe as it is, and with less of it."""
    return {
        "only the limit on requests": embeddings({", budget=(200_000, 61)": ""}),
        "and the budget, by estimates": embeddings({"    report_weight(": "    ("}),
        "and what the service counted": embeddings({}),
    }


def table_of_minutes(ways: Mapping[str, Minutes]) -> list[str]:
    """Return the table of the page."""
    columns = ("kept to", "embeddings", "answered 429", "ideal", "last one after", "ideal")
    return rows(
        columns,
        *(
            (
                way,
                len(minutes.vectors),
                minutes.refused,
                0,
                f"{minutes.ended_at:.0f} s",
                f"{minutes.ideal:.0f} s",
            )
            for way, minutes in ways.items()
        ),
    )


# -- webhooks to many hosts ----------------------------------------------------------------------------------

WEBHOOKS = "Webhooks to many hosts"
HOSTS, EVENTS, TO_THE_DEAD = 9, 50, 200


@dataclass(frozen=True)
class Delivery:
    """What came of events for hosts that work, and for one that is dead."""

    delivered: int
    accepted: int
    refused: int
    reached: int  # the dead one
    outcomes: Sequence[BaseException | None]  # of the accepted calls to it
    others_ended_at: float = 0.0
    ended_at: float = 0.0


@contextmanager
def working_hosts() -> Iterator[list[Service]]:
    """Serve as so many hosts until the end of the block."""
    with ExitStack() as stack:
        yield [stack.enter_context(service(lambda _, sent: Answer())) for _ in range(HOSTS)]


def notify_all(
    program: Mapping[str, Any], dead: Service, hosts: Sequence[Service]
) -> tuple[list[Any], list[Any]]:
    """Submit events for all hosts, first for the dead one; return the futures of these, and the others."""
    to_dead = [program["notify"](dead.url, number) for number in range(TO_THE_DEAD)]
    to_others = [program["notify"](host.url, number) for number in range(EVENTS) for host in hosts]
    return [future for future in to_dead if future], to_others


def deliver_beside_one_that_hangs(replaced: Mapping[str, str]) -> Delivery:
    """Run the recipe with a host that does not answer, until everything else has come to rest."""
    release = threading.Event()

    def hang(_: str, sent: bytes) -> Answer:
        return Answer() if release.wait(TIMEOUT) else UNAVAILABLE

    with service(hang) as dead, working_hosts() as hosts:
        program = pages.run(PAGE, {"timeout=10": f"timeout={TIMEOUT}", **replaced}, WEBHOOKS)
        executor = program["executor"]
        to_dead, _ = notify_all(program, dead, hosts)
        assert eventually(lambda: dead.at_once == executor.stats().running and is_settled(executor))
        found = Delivery(
            delivered=sum(host.statuses[HTTPStatus.OK] for host in hosts),
            accepted=len(to_dead),
            refused=TO_THE_DEAD - len(to_dead),
            reached=len(dead.paths),
            outcomes=(),
        )
        executor.shutdown(wait=False, cancel_futures=True)
        release.set()
        executor.shutdown()
    return found


def deliver_beside_one_that_fails() -> Delivery:
    """Run the recipe with a host that answers 503 for good."""
    with virtual_time() as clock, service(lambda _, sent: UNAVAILABLE) as dead, working_hosts() as hosts:
        program = pages.run(PAGE, section=WEBHOOKS)
        to_dead, to_others = notify_all(program, dead, hosts)
        for future in to_others:
            future.result()
        others_ended_at = clock()
        program["executor"].shutdown()
        outcomes = [future.exception() for future in to_dead]
        close(dict(enumerate(outcomes)))
        return Delivery(
            delivered=sum(host.statuses[HTTPStatus.OK] for host in hosts),
            accepted=len(to_dead),
            refused=TO_THE_DEAD - len(to_dead),
            reached=len(dead.paths),
            outcomes=outcomes,
            others_ended_at=others_ended_at,
            ended_at=clock(),
        )


def ways_to_deliver() -> dict[tuple[str, str], Delivery]:
    """Run the recipe as it is and without upstreams, with hosts that are dead in different ways."""
    return {
        ("does not answer", "none"): deliver_beside_one_that_hangs({"hosts[urlsplit(url).netloc]": "None"}),
        ("does not answer", "one for each host"): deliver_beside_one_that_hangs({}),
        ("answers 503, for six hours", "one for each host"): deliver_beside_one_that_fails(),
    }


def table_of_deliveries(ways: Mapping[tuple[str, str], Delivery]) -> list[str]:
    """Return the table of the page."""
    columns = (
        "the dead host",
        "upstreams",
        "delivered to the others",
        "ideal",
        "accepted for the dead one",
        "refused",
        "requests that reach it",
    )
    return rows(
        columns,
        *(
            (*way, found.delivered, HOSTS * EVENTS, found.accepted, found.refused, found.reached)
            for way, found in ways.items()
        ),
    )


# -- a scraper -----------------------------------------------------------------------------------------------

SCRAPER = "A scraper that is polite to each site"
SITES, PAGES_OF_A_SITE = 5, 40
WAIT = 30  # seconds that one site asks for


@dataclass(frozen=True)
class Crawl:
    """What came of a crawl: when the pages of each site were asked for, and when the last was handed out."""

    pages: int
    refused: int
    asked_at: Sequence[Sequence[float]]
    handed_out_at: Sequence[Sequence[float]]

    def most_in_a_second(self) -> int:
        """Return how many requests one site got in a second, at most."""
        return max(most_within(1.0, asked_at) for asked_at in self.asked_at)


def crawl(replaced: Mapping[str, str]) -> Crawl:
    """Run the recipe; the first site asks for a pause at its tenth page."""
    line = line_on_the_page("URLS = ")
    asked_at: list[list[float]] = [[] for _ in range(SITES)]
    handed_out_at: list[list[float]] = [[] for _ in range(SITES)]

    def answer(site: int, path: str, _: bytes) -> Answer:
        asked_at[site].append(clock())
        if site == 0 and len(asked_at[0]) == 10:
            return Answer(status=HTTPStatus.TOO_MANY_REQUESTS, retry_after=WAIT)
        handed_out_at[site].append(clock())
        return Answer(path)

    with virtual_time() as clock, ExitStack() as stack:
        sites = [stack.enter_context(service(partial(answer, site))) for site in range(SITES)]
        urls = [f"{site.url}/{page}" for page in range(PAGES_OF_A_SITE) for site in sites]
        program = pages.run(PAGE, {**replaced, line: f"URLS = {urls}"}, SCRAPER)
    return Crawl(
        pages=sum(
            json.loads(future.result()) == url.rpartition("/")[2] for url, future in program["pages"].items()
        ),
        refused=sum(site.statuses[HTTPStatus.TOO_MANY_REQUESTS] for site in sites),
        asked_at=asked_at,
        handed_out_at=handed_out_at,
    )


def ways_to_crawl() -> dict[str, Crawl]:
    """Run the recipe as it is, and with other upstreams."""
    return {
        "none": crawl({"sites[urlsplit(url).netloc]": "None"}),
        "one for all sites": crawl({"sites[urlsplit(url).netloc]": "sites['all']"}),
        "one for each site": crawl({}),
    }


def table_of_crawls(ways: Mapping[str, Crawl]) -> list[str]:
    """Return the table of the page."""
    columns = (
        "upstreams",
        "pages",
        "most of one site in a second",
        "ideal",
        "last of the site that asked to wait",
        "ideal",
        "last of the others",
        "ideal",
    )
    ideal = PAGES_OF_A_SITE - 1
    lines = []
    for way, found in ways.items():
        patient, *others = (max(times) for times in found.handed_out_at)
        ends = f"after {patient:.0f} s", f"{ideal + WAIT} s", f"after {max(others):.0f} s", f"{ideal} s"
        lines.append((way, found.pages, found.most_in_a_second(), 1, *ends))
    return rows(columns, *lines)


# -- tenants -------------------------------------------------------------------------------------------------

TENANTS = "Tenants under one account"
SMALL = ("ash", "birch", "cedar", "dogwood")
IMPORTED, PUSHED = 1_000, 20


@dataclass(frozen=True)
class Import:
    """What came of a tenant that imports, and of the others."""

    pushed: int
    refused: int
    most_of_all: int
    most_of_one: int
    small_ended_at: float
    large_ended_at: float


def push_all(replaced: Mapping[str, str]) -> Import:
    """Run the recipe; the service keeps to its limits."""
    account = Quota(50, 1.0)
    tenants = {name: Quota(10, 1.0) for name in ("large", *SMALL)}
    taken: dict[str, list[float]] = {name: [] for name in tenants}

    def answer(tenant: str, _: bytes) -> Answer:
        now = clock()
        opens_in = max(account.opens_in(1, now), tenants[tenant].opens_in(1, now))
        if opens_in > 0:
            return Answer(status=HTTPStatus.TOO_MANY_REQUESTS, retry_after=opens_in)
        account.take(1, now)
        tenants[tenant].take(1, now)
        taken[tenant].append(now)
        return Answer()

    with virtual_time() as clock, service(answer) as crm:
        program = pages.run(PAGE, {"https://crm.example": crm.url, **replaced}, TENANTS)
        futures = [program["push_later"]("large", number) for number in range(IMPORTED)]
        futures += [program["push_later"](name, number) for number in range(PUSHED) for name in SMALL]
        program["executor"].shutdown()
    return Import(
        pushed=sum(future.exception() is None for future in futures),
        refused=crm.statuses[HTTPStatus.TOO_MANY_REQUESTS],
        most_of_all=most_within(1.0, sorted(itertools.chain(*taken.values()))),
        most_of_one=max(most_within(1.0, times) for times in taken.values()),
        small_ended_at=max(taken[name][-1] for name in SMALL),
        large_ended_at=taken["large"][-1],
    )


def ways_to_import() -> dict[str, Import]:
    """Run the recipe as it is, and with the account alone."""
    limits = "limits = (account, tenants[tenant])  # the narrowest last"
    return {
        "the account": push_all({limits: "limits = account"}),
        "the account, and the tenant": push_all({}),
    }


def table_of_imports(ways: Mapping[str, Import]) -> list[str]:
    """Return the table of the page."""
    columns = (
        "upstreams of a call",
        "records",
        "answered 429",
        "ideal",
        "last of the small tenants",
        "ideal",
        "last of the large one",
        "ideal",
    )
    return rows(
        columns,
        *(
            (
                way,
                found.pushed,
                found.refused,
                0,
                f"after {found.small_ended_at:.0f} s",
                f"{PUSHED // 10 - 1} s",
                f"after {found.large_ended_at:.0f} s",
                f"{IMPORTED // 10 - 1} s",
            )
            for way, found in ways.items()
        ),
    )
