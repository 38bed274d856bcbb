"""Prometheus: what a server gets that scrapes a program, over HTTP."""

from __future__ import annotations

import gc
import math
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any, NoReturn

import pytest

from conftest import TIMEOUT
from observe import eventually
from retrying_executor import RetryingExecutor, RetryPolicy, Upstream, UpstreamFamily

prometheus_client = pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from retrying_executor import prometheus
from retrying_executor.prometheus import ExecutorCollector
from retrying_executor.testing import VirtualTimeExecutor


@contextmanager
def scraped(collector: ExecutorCollector) -> Iterator[str]:
    """Serve what a collector reports; yield where."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(collector)
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(TIMEOUT)


def scrape(url: str, *, accept: str = "text/plain") -> str:
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        return str(response.read().decode())


def samples(text: str) -> dict[str, float]:
    """Return the numbers in *text* by name; where they have a state, by name and state."""
    numbers = {}
    for family in parse_text(text):
        for sample in family.samples:
            state = sample.labels.get("retrying_executor_upstream_state")
            numbers[f"{sample.name} {state}" if state else sample.name] = sample.value
    return numbers


def fail() -> NoReturn:
    raise ValueError("no")


def test_statistics_are_scraped() -> None:
    """One snapshot for each executor: gauges, and counters that end in ``_total`` (G4)."""
    started, release = Event(), Event()

    def call() -> None:
        started.set()
        assert release.wait(TIMEOUT)

    policy = RetryPolicy(delays=[3600], max_elapsed=None)
    with RetryingExecutor(1, retry=policy) as executor, scraped(ExecutorCollector({"jobs": executor})) as url:
        idle = samples(scrape(url))
        executor.submit(int).result(TIMEOUT)
        waiting = executor.submit(fail)
        executor.with_options(retry=None).submit(fail).exception(TIMEOUT)
        running = executor.submit(call)
        assert started.wait(TIMEOUT)
        ready = executor.submit(int)
        assert executor.submit(int).cancel()
        text = scrape(url)
        assert waiting.cancel()
        release.set()
        assert running.result(TIMEOUT) is None
        assert 0 == ready.result(TIMEOUT)
    numbers = samples(text)
    assert 0 < numbers.pop("retrying_executor_next_due_seconds") <= 3600
    assert numbers == {
        "retrying_executor_threads": 1,
        "retrying_executor_running_calls": 1,
        "retrying_executor_ready_calls": 1,
        "retrying_executor_held_calls": 0,
        "retrying_executor_in_backoff_calls": 1,
        "retrying_executor_submitted_calls_total": 6,
        "retrying_executor_succeeded_calls_total": 1,
        "retrying_executor_failed_calls_total": 1,
        "retrying_executor_cancelled_calls_total": 1,
        "retrying_executor_retried_attempts_total": 1,
    }
    assert {"jobs"} == {sample.labels["executor"] for family in parse_text(text) for sample in family.samples}
    assert math.isnan(idle.pop("retrying_executor_next_due_seconds"))
    assert {0} == set(idle.values())
    assert idle.keys() == numbers.keys()


def test_upstreams_are_scraped() -> None:
    """What is in flight, and which of its states each is in (U5)."""
    started, release = Event(), Event()

    def call() -> None:
        started.set()
        assert release.wait(TIMEOUT)

    upstream = Upstream("billing")
    with RetryingExecutor(1, upstream=upstream) as executor:
        with scraped(ExecutorCollector({"jobs": executor}, upstreams=[upstream])) as url:
            running = executor.submit(call)
            assert started.wait(TIMEOUT)
            upstream.pause()
            numbers = samples(scrape(url))
        release.set()
        assert running.result(TIMEOUT) is None
    state = "retrying_executor_upstream_state"
    assert 1 == numbers["retrying_executor_upstream_in_flight_attempts"]
    assert {f"{state} held": 1, f"{state} open": 0, f"{state} probing": 0, f"{state} ramping": 0} == {
        name: value for name, value in numbers.items() if name.startswith(state)
    }


def series(collector: ExecutorCollector, name: str) -> dict[tuple[str, ...], float]:
    """Return what a collector reports in the metric *name*, by the values of the labels."""
    (metric,) = [metric for metric in collector.collect() if metric.name == f"retrying_executor_{name}"]
    return {tuple(sample.labels.values()): sample.value for sample in metric.samples}


@pytest.mark.parametrize("cls", [RetryingExecutor, VirtualTimeExecutor])
def test_upstreams_that_are_made_later_are_reported(cls: type[RetryingExecutor]) -> None:
    """Those of the executors and of their views, as long as anybody has them (U5)."""
    first = Upstream("first")
    executor = cls(1, upstream=first)
    collector = ExecutorCollector({"jobs": executor}, upstreams=[first, Upstream("gone")])
    assert {("first",): 0} == series(collector, "upstream_in_flight_attempts")
    for name in ("second", "third"):
        view = executor.with_options(upstream=Upstream(name)).with_options(max_attempts=1)
        counts: list[dict[tuple[str, ...], float]] = []
        view.submit(
            lambda seen: seen.append(series(collector, "upstream_in_flight_attempts")), counts
        ).result()
        assert 1 == counts[0][(name,)]
        assert {("first",), (name,)} <= set(series(collector, "upstream_in_flight_attempts"))
    executor.shutdown()


def test_upstreams_that_nobody_has_any_more_are_not_reported() -> None:
    """A program that makes one for each host does not fill the memory (U5)."""
    executor = RetryingExecutor(1)
    collector = ExecutorCollector({"jobs": executor})
    executor.with_options(upstream=Upstream("host")).submit(int).result(TIMEOUT)
    executor.shutdown()
    assert eventually(lambda: gc.collect() >= 0 and {} == series(collector, "upstream_in_flight_attempts"))


def test_upstreams_of_one_name_are_one_series() -> None:
    """The same series twice would spoil the whole scrape (U5)."""
    upstreams = [Upstream("billing") for _ in range(3)]
    upstreams[1].pause()
    with (
        RetryingExecutor(1, upstream=upstreams[0]) as one,
        RetryingExecutor(1, upstream=upstreams[1]) as other,
    ):
        view = one.with_options(upstream=upstreams[2])
        collector = ExecutorCollector({"one": one, "other": other}, upstreams=[upstreams[2]])
        with scraped(collector) as url:
            text = scrape(url, accept=CONTENT_TYPE_LATEST)
        assert 4 == sum(
            len(family.samples) for family in parse_openmetrics(text) if family.type == "stateset"
        )
        states = series(collector, "upstream_state")
        assert {("billing", "held")} == {labels for labels, value in states.items() if value}
        assert 0 == view.submit(int).result(TIMEOUT)


def test_members_of_a_family_are_reported() -> None:
    """Calls to them suffice: as long as anybody has them, or there is something to remember (U7)."""
    hosts = UpstreamFamily("webhooks", rate=(10, 3600.0))
    with RetryingExecutor(1) as executor:
        collector = ExecutorCollector({"jobs": executor})
        assert {} == series(collector, "upstreams")
        assert 0 == executor.with_options(upstream=hosts["a.example.org"]).submit(int).result(TIMEOUT)
        gc.collect()
        assert {("webhooks[a.example.org]",): 0} == series(collector, "upstream_in_flight_attempts")
        counts = {("open",): 1, ("ramping",): 0, ("probing",): 0, ("held",): 0}
        assert counts == series(collector, "upstreams")


def test_of_very_many_upstreams_those_are_named_that_tell_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scrape stays short; all are counted, and those that were listed by hand are always named (U7)."""
    monkeypatch.setattr(prometheus, "_MOST_NAMED", 4)
    hosts, listed = UpstreamFamily("hosts"), Upstream("listed")
    started, release = Event(), Event()

    def call() -> None:
        started.set()
        assert release.wait(TIMEOUT)

    with RetryingExecutor(1) as executor:
        collector = ExecutorCollector({"jobs": executor}, upstreams=[listed, Upstream("gone")])
        views = [executor.with_options(upstream=hosts[str(index)]) for index in range(9)]
        running = views[7].submit(call)
        assert started.wait(TIMEOUT)
        hosts["5"].pause()
        hosts["8"].pause()
        hosts["8"].resume()
        named = series(collector, "upstream_in_flight_attempts")
        counts = series(collector, "upstreams")
        release.set()
        assert running.result(TIMEOUT) is None
    assert {("listed",): 0, ("hosts[5]",): 0, ("hosts[8]",): 0, ("hosts[7]",): 1} == named
    assert {("open",): 8, ("ramping",): 0, ("probing",): 1, ("held",): 1} == counts


def test_executors_that_are_made_later_can_be_added() -> None:
    """A second collector could not be registered for them (U5)."""
    collector = ExecutorCollector({})
    assert {} == series(collector, "threads")
    with RetryingExecutor(1, upstream=Upstream("billing")) as executor:
        collector.add("jobs", executor)
        assert {("jobs",): 0} == series(collector, "threads")
        assert {("billing",): 0} == series(collector, "upstream_in_flight_attempts")
    with pytest.raises(TypeError, match=r"^name must be a string, not 1$"):
        collector.add(1, executor)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^executor must be a RetryingExecutor, not None$"):
        collector.add("jobs", None)  # type: ignore[arg-type]


def test_openmetrics_are_served_too() -> None:
    """The strict format, in which every family occurs once, has a type, and names its counters rightly."""
    upstreams = [Upstream("billing"), Upstream("mail")]
    with RetryingExecutor() as one, RetryingExecutor() as other:
        collector = ExecutorCollector({"one": one, "other": other}, upstreams=upstreams)
        with scraped(collector) as url:
            text = scrape(url, accept=CONTENT_TYPE_LATEST)
    assert text.endswith("# EOF\n")
    kinds = {family.name: family.type for family in parse_openmetrics(text)}
    assert {"gauge": 8, "counter": 5, "stateset": 1} == {
        kind: list(kinds.values()).count(kind) for kind in kinds.values()
    }


def test_a_scrape_may_ask_for_some_names_only() -> None:
    """The registry knows which it has, so a second collector is refused."""
    with RetryingExecutor() as executor:
        collector = ExecutorCollector({"jobs": executor})
        with scraped(collector) as url:
            numbers = samples(scrape(f"{url}?name[]=retrying_executor_threads"))
        assert {"retrying_executor_threads": 0} == numbers
        registry = CollectorRegistry()
        registry.register(collector)
        with pytest.raises(ValueError, match="Duplicated timeseries"):
            registry.register(ExecutorCollector({"others": executor}))


def test_what_is_gone_is_not_reported() -> None:
    """The collector keeps neither executors nor upstreams."""
    executor, upstream = RetryingExecutor(), Upstream("billing")
    collector = ExecutorCollector({"jobs": executor}, upstreams=[upstream])
    assert [] != [sample for metric in collector.collect() for sample in metric.samples]
    del executor, upstream
    assert eventually(
        lambda: (
            gc.collect() >= 0
            and [] == [sample for metric in collector.collect() for sample in metric.samples]
        )
    )


@pytest.mark.parametrize(
    ("executors", "upstreams", "error", "message"),
    [
        (RetryingExecutor(), [], TypeError, "executors must be a mapping from names to executors, not <"),
        ({1: RetryingExecutor()}, [], TypeError, "executors must have strings as keys, not 1"),
        ({"jobs": 1}, [], TypeError, r"executors\['jobs'\] must be a RetryingExecutor, not 1"),
        (
            {"jobs": RetryingExecutor().with_options(retry=None)},
            [],
            TypeError,
            r"executors\['jobs'\] must be a RetryingExecutor, not <retrying_executor.*View",
        ),
        ({}, ["billing"], TypeError, "upstreams must be Upstreams, not 'billing'"),
        (
            {},
            [Upstream("x"), Upstream("x")],
            ValueError,
            "upstreams must have different names, not 'x' twice",
        ),
    ],
)
def test_what_cannot_be_reported_is_refused(
    executors: Any, upstreams: Any, error: type[Exception], message: str
) -> None:
    """At once, by name and value."""
    with pytest.raises(error, match=message):
        ExecutorCollector(executors, upstreams=upstreams)


def test_one_upstream_is_no_collection_of_them() -> None:
    """The error names the argument and what is allowed (A1)."""
    upstreams: Any = Upstream("webhooks")
    with pytest.raises(TypeError, match=r"^upstreams must be an iterable of Upstreams, not <Upstream"):
        ExecutorCollector({}, upstreams=upstreams)
