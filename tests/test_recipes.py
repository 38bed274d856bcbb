"""The recipes of the how-to page: each run as it stands, against a service on loopback that counts."""

from __future__ import annotations

from pathlib import Path
from urllib.error import HTTPError

import pytest

import recipes
import recipes_of_limits as limits
from cookbook import HOUR, on_the_page


@pytest.mark.usefixtures("quiet")
def test_embeddings_keep_to_the_budget() -> None:
    """No request is refused, every text has its embedding, and no minute is wasted (U4)."""
    ways = limits.ways_to_count()
    for minutes in ways.values():
        assert [len(text) for text in minutes.texts] == minutes.vectors
        assert 500 + minutes.refused == minutes.requests
    by_requests, by_estimates, by_the_count = ways.values()
    assert by_requests.refused > 0
    assert (0, 0) == (by_estimates.refused, by_the_count.refused)
    assert by_estimates.ended_at > by_the_count.ended_at
    assert by_the_count.ideal + 3 == pytest.approx(by_the_count.ended_at)  # three windows of 61 seconds
    assert limits.table_of_minutes(ways) == on_the_page(limits.EMBEDDINGS)


@pytest.mark.usefixtures("quiet")
def test_webhooks_to_a_dead_host_delay_no_other() -> None:
    """It takes its own places and its own backlog, and its calls end in the end (U4 to U7)."""
    ways = limits.ways_to_deliver()
    alone, hanging, failing = ways.values()
    for found in (hanging, failing):
        assert limits.HOSTS * limits.EVENTS == found.delivered
        assert (100, limits.TO_THE_DEAD - 100) == (found.accepted, found.refused)
    assert (0, 8) == (alone.delivered, alone.reached)
    assert 2 == hanging.reached
    assert 100 == sum(isinstance(error, (HTTPError, TimeoutError)) for error in failing.outcomes)
    assert 0.0 == failing.others_ended_at
    assert failing.ended_at <= 6 * HOUR
    assert limits.table_of_deliveries(ways) == on_the_page(limits.WEBHOOKS)


@pytest.mark.usefixtures("quiet")
def test_scraper_keeps_the_limit_of_each_site() -> None:
    """Each gets its rate and no more, and one that asks to wait delays no other (U2, U7)."""
    ways = limits.ways_to_crawl()
    for found in ways.values():
        assert limits.SITES * limits.PAGES_OF_A_SITE == found.pages
        assert 1 == found.refused
    found = ways["one for each site"]
    assert 1 == found.most_in_a_second()
    patient, *others = found.asked_at
    assert limits.WAIT <= patient[10] - patient[9]
    assert [limits.PAGES_OF_A_SITE - 1] * len(others) == pytest.approx([times[-1] for times in others])
    assert limits.table_of_crawls(ways) == on_the_page(limits.SCRAPER)


@pytest.mark.usefixtures("quiet")
def test_tenants_have_their_share_of_the_account() -> None:
    """No limit is exceeded, and a tenant that imports delays no other (U2, U4)."""
    ways = limits.ways_to_import()
    for found in ways.values():
        assert 1_080 == found.pushed
        assert found.most_of_all <= 50
        assert found.most_of_one <= 10
    alone, both = ways.values()
    assert 0 == both.refused < alone.refused
    assert pytest.approx(1.05) == both.small_ended_at
    assert both.small_ended_at < alone.small_ended_at
    assert pytest.approx(99 * 1.05) == both.large_ended_at
    assert limits.table_of_imports(ways) == on_the_page(limits.TENANTS)


@pytest.mark.usefixtures("quiet")
def test_nightly_export_ends_at_its_deadline_and_lists_what_is_missing() -> None:
    """Every report is there or listed, and no attempt starts after the deadline (B12, U5)."""
    nights = recipes.nights()
    for night in nights:
        assert sorted({*range(300)} - {*night.missing}) == night.fetched
        assert night.ideal == len(night.fetched)
        assert max(night.requests) <= 6 * HOUR
        assert night.ended_at <= 6 * HOUR
        assert len(night.requests) == len(night.fetched) + night.refused
        for report, reason in night.missing.items():
            assert f"report {report} is missing: {type(reason).__name__}: {reason}\n" in night.printed
    untried = {str(error) for error in nights[2].missing.values() if isinstance(error, TimeoutError)}
    assert ["never tried: it was submitted more than 21600 s ago, and that is its max_age"] == [*untried]
    assert recipes.table_of_nights(nights) == on_the_page(recipes.EXPORT)


@pytest.mark.usefixtures("quiet")
def test_paginated_sync_goes_on_where_it_was(tmp_path: Path) -> None:
    """Each page is handed out once over both starts; the second begins with the one that failed (B1)."""
    lists = recipes.Lists()
    broken = lists.broken
    first, second = starts = recipes.two_starts(lists, tmp_path)
    assert ["list-7"] == [*first.failed]
    assert 5 == first.paths.count(broken)
    assert [broken, *(f"list-7?cursor={cursor}" for cursor in range(5, 10))] == [*dict.fromkeys(second.paths)]
    assert {} == second.failed
    assert recipes.all_items() == sorted(second.items)
    assert 200 == first.handed_out + second.handed_out
    assert recipes.table_of_starts(starts) == on_the_page(recipes.SYNC)


@pytest.mark.usefixtures("quiet")
def test_paginated_sync_keeps_the_limit_with_threads(tmp_path: Path) -> None:
    """The service never has more requests at once than it may, and those of a list are in order (U4)."""
    lists = recipes.Lists(broken=None)
    quick = "max_concurrency=4, initial_hold=0.01), retry=lambda attempt: 0.0"
    start = recipes.sync(lists, tmp_path, {"max_concurrency=4)": quick})
    assert {} == start.failed
    assert recipes.all_items() == sorted(start.items)
    assert 200 == start.handed_out
    assert 1 <= start.most_at_once <= 4
    for number in range(20):
        cursors = [int(path.partition("=")[2]) for path in start.paths if path.startswith(f"list-{number}?")]
        assert sorted(cursors) == cursors


def test_interactive_calls_take_turns_with_bulk_calls() -> None:
    """With an executor of their own they wait for the next place, and not for all that wait already (U4)."""
    ways = recipes.ways_to_click()
    alone, shared, left = ways.values()
    waiting = recipes.BULK - recipes.PLACES
    assert [waiting] * recipes.CLICKS == [click.bulk_started for click in alone]
    assert [*range(recipes.CLICKS)] == [click.bulk_started for click in shared]
    assert 1 == shared[0].ended
    assert 0 == left[0].ended
    assert left[-1].bulk_started <= shared[-1].bulk_started
    assert recipes.table_of_clicks(ways) == on_the_page(recipes.INTERACTIVE)
