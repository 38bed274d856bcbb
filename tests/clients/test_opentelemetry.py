"""OpenTelemetry: spans and metrics, as its SDK exports them."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import traceback
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import entry_points
from threading import Event
from typing import Any, NoReturn

import pytest

import errands
from answering import Server, answering
from calls import Flaky, Meeting
from conftest import TIMEOUT
from observe import eventually
from retrying_executor import NotNow, RetryingExecutor, RetryPolicy, Upstream

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")
requests = pytest.importorskip("requests", reason="requests is not installed")

from opentelemetry import trace
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.threading import ThreadingInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram, InMemoryMetricReader, Metric
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from retrying_executor.engines import Processes, Shared
from retrying_executor.opentelemetry import RetryingExecutorInstrumentor

OUTCOME = "retrying_executor.outcome"


class Telemetry:
    """What the SDK has exported."""

    def __init__(self) -> None:
        self._spans, self._metrics = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meter_provider = MeterProvider([self._metrics])
        self.tracer = self.tracer_provider.get_tracer("tests")

    @property
    def providers(self) -> dict[str, Any]:
        return {"tracer_provider": self.tracer_provider, "meter_provider": self.meter_provider}

    def spans(self) -> list[ReadableSpan]:
        """Return the spans that have ended, in that order."""
        return list(self._spans.get_finished_spans())

    def metrics(self) -> dict[str, Metric]:
        """Return what is measured now, by name."""
        resources = getattr(
            self._metrics.get_metrics_data(), "resource_metrics", []
        )  # None if there are none
        scopes = [scope for resource in resources for scope in resource.scope_metrics]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def numbers(self, metric: str, label: str | None = None, *, of: str) -> dict[object, object]:
        """Return the numbers of an executor, by a label if there is one."""
        return {
            point.attributes.get(label) if label else None: point.value
            for point in self.metrics()[metric].data.data_points
            if point.attributes["retrying_executor.name"] == of
        }


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """Executors are instrumented, and what they report is kept."""
    telemetry = Telemetry()
    RetryingExecutorInstrumentor().instrument(**telemetry.providers)
    yield telemetry
    RetryingExecutorInstrumentor().uninstrument()
    telemetry.tracer_provider.shutdown()
    telemetry.meter_provider.shutdown()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that answers as it is told."""
    with answering() as server:
        yield server


def attributes(span: ReadableSpan) -> Mapping[str, object]:
    assert span.attributes is not None
    return span.attributes


def parent(span: ReadableSpan) -> object:
    return span.parent and span.parent.span_id


def fail() -> NoReturn:
    raise ValueError("no")


# -- spans -----------------------------------------------------------------------------------------


def test_every_attempt_is_a_span_under_that_of_the_submitter(
    telemetry: Telemetry, executor: RetryingExecutor
) -> None:
    """Wherever and whenever it runs; that of the submitter may have ended (B11)."""
    with telemetry.tracer.start_as_current_span("order") as submitter:
        future = executor.submit(Flaky(2))
    assert 2 == future.result(TIMEOUT)
    order, *attempts = sorted(telemetry.spans(), key=lambda span: span.name != "order")
    assert [submitter.get_span_context().span_id] * 3 == [parent(span) for span in attempts]
    assert {order.get_span_context().trace_id} == {span.get_span_context().trace_id for span in attempts}
    assert ["calls.Flaky"] * 3 == [span.name for span in attempts]
    assert {SpanKind.INTERNAL} == {span.kind for span in attempts}
    assert [1, 2, 3] == [attributes(span)["retrying_executor.attempt"] for span in attempts]
    assert ["calls.Flaky"] * 3 == [attributes(span)["code.function.name"] for span in attempts]
    assert 1 == len({attributes(span)["retrying_executor.key"] for span in attempts})
    assert ["raised", "raised", "returned"] == [attributes(span)[OUTCOME] for span in attempts]
    assert [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET] == [
        span.status.status_code for span in attempts
    ]
    assert "ConnectionError: not yet" == attempts[0].status.description
    assert ["ConnectionError"] * 2 + [None] == [attributes(span).get("error.type") for span in attempts]
    assert [["exception"], ["exception"], []] == [[event.name for event in span.events] for span in attempts]


def test_the_scope_says_who_reports(telemetry: Telemetry, executor: RetryingExecutor) -> None:
    """By name and version, and with the version of the conventions."""
    executor.submit(int).result(TIMEOUT)
    (span,) = telemetry.spans()
    assert span.instrumentation_scope is not None
    assert "retrying_executor.opentelemetry" == span.instrumentation_scope.name
    assert span.instrumentation_scope.version
    assert str(span.instrumentation_scope.schema_url).startswith("https://opentelemetry.io/schemas/")


def test_spans_of_an_instrumented_client_are_under_that_of_the_attempt(
    telemetry: Telemetry, executor: RetryingExecutor, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an attempt does is seen with it; the trace goes on in the service."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def get() -> int:
        with requests.get(server.url, timeout=TIMEOUT) as response:
            server.answer(200)
            response.raise_for_status()
            return int(response.status_code)

    server.answer(503)
    RequestsInstrumentor().instrument(tracer_provider=telemetry.tracer_provider)
    try:
        assert 200 == executor.submit(get).result(TIMEOUT)
    finally:
        RequestsInstrumentor().uninstrument()
    refused, first, accepted, second = telemetry.spans()
    assert ["GET", "GET"] == [refused.name, accepted.name]
    assert first.get_span_context().span_id == parent(refused)
    assert second.get_span_context().span_id == parent(accepted)
    assert "requests.exceptions.HTTPError" == attributes(first)["error.type"]


def test_the_span_is_current_during_the_attempt_and_not_afterwards(telemetry: Telemetry) -> None:
    """Each attempt has its own, and a thread none."""
    with RetryingExecutor(1) as executor:
        seen = executor.submit(lambda: trace.get_current_span().get_span_context().span_id).result(TIMEOUT)
        with suppress_instrumentation():
            after = executor.submit(trace.get_current_span).result(TIMEOUT)
    (span,) = telemetry.spans()
    assert span.get_span_context().span_id == seen
    assert trace.INVALID_SPAN is after


@pytest.mark.parametrize("status", [200, 429])
def test_not_now_is_no_error(
    telemetry: Telemetry,
    executor: RetryingExecutor,
    server: Server,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither where the call says so, nor where the answer does; it is recorded all the same (U3)."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def get() -> None:
        with requests.get(server.url, timeout=TIMEOUT) as response:
            response.raise_for_status()
            raise NotNow("busy")

    server.answer(status)
    future = executor.with_options(max_elapsed=0).submit(get)
    assert future.exception(TIMEOUT) is not None
    (span,) = telemetry.spans()
    assert StatusCode.UNSET == span.status.status_code
    assert "not_now" == attributes(span)[OUTCOME]
    assert "error.type" not in attributes(span)
    assert ["exception"] == [event.name for event in span.events]


class HostileError(Exception):
    """Cannot be turned into text."""

    def __str__(self) -> str:
        raise RuntimeError("never")


@pytest.mark.parametrize("error", [HostileError(), SystemExit(3)])
def test_whatever_is_raised_is_the_outcome(
    telemetry: Telemetry, executor: RetryingExecutor, error: BaseException
) -> None:
    """What cannot be recorded changes nothing (B3, B8)."""

    def call() -> NoReturn:
        raise error

    assert error is executor.with_options(retry=None).submit(call).exception(TIMEOUT)
    (span,) = telemetry.spans()
    assert StatusCode.ERROR == span.status.status_code
    assert type(error).__name__ in str(attributes(span)["error.type"])


def test_views_and_map_are_traced_and_name_their_upstream(
    telemetry: Telemetry, executor: RetryingExecutor
) -> None:
    """Whatever a call is submitted by."""
    view = executor.with_options(upstream=Upstream("billing"))
    assert [1, 2] == list(view.map(abs, [-1, 2], timeout=TIMEOUT))
    spans = telemetry.spans()
    assert ["builtins.abs"] * 2 == [span.name for span in spans]
    assert ["billing"] * 2 == [attributes(span)["retrying_executor.upstream"] for span in spans]


def test_a_call_that_is_submitted_while_suppressed_is_not_traced(
    telemetry: Telemetry, executor: RetryingExecutor
) -> None:
    """None of its attempts, wherever they run."""
    with suppress_instrumentation():
        future = executor.submit(Flaky(1))
    assert 1 == future.result(TIMEOUT)
    assert [] == telemetry.spans()
    assert "retrying_executor.attempt.duration" not in telemetry.metrics()


def test_only_attempts_are_traced(telemetry: Telemetry) -> None:
    """Whoever gets hold of a call's function may call it."""
    started, release = Event(), Event()
    with RetryingExecutor(1) as executor:
        executor.submit(lambda: (started.set(), release.wait(TIMEOUT)))
        assert started.wait(TIMEOUT)
        future = executor.submit(int, "7")
        work = future._work
        release.set()
        assert 7 == future.result(TIMEOUT)
    assert work is not None
    assert 7 == work[0]("7")
    assert 2 == len(telemetry.spans())


# -- coroutines ------------------------------------------------------------------------------------


def names_by_parent(telemetry: Telemetry) -> list[tuple[str, object]]:
    """Return the names of all spans with those of their parents, sorted."""
    names = {span.get_span_context().span_id: span.name for span in telemetry.spans()}
    return sorted((span.name, names.get(parent(span))) for span in telemetry.spans())


@pytest.mark.parametrize("coroutines", [1, 40])
def test_the_span_of_a_coroutine_lasts_until_that_has_ended(
    telemetry: Telemetry, executor: RetryingExecutor, coroutines: int
) -> None:
    """Spans in it are children, in tasks of its own too, beside however many others in the thread (K1)."""
    meeting, seen = Meeting(coroutines), {}

    async def inner(number: int) -> None:
        with telemetry.tracer.start_as_current_span(f"inner {number}"):
            await asyncio.sleep(0)

    async def outer(number: int) -> None:
        await meeting.all_are_here()
        current = trace.get_current_span()
        assert isinstance(current, ReadableSpan)
        seen[number] = current.end_time
        with telemetry.tracer.start_as_current_span(f"request {number}"):
            await asyncio.sleep(0)
        await asyncio.gather(inner(number), asyncio.to_thread(partial(asyncio.run, inner(number))))

    for number in range(coroutines):
        with telemetry.tracer.start_as_current_span(f"order {number}"):
            executor.with_options(label=str(number)).submit(outer, number)
    assert executor.drain(TIMEOUT)
    assert dict.fromkeys(range(coroutines)) == seen  # while it runs, it has not ended
    labels = {
        span.get_span_context().span_id: attributes(span)["retrying_executor.label"]
        for span in telemetry.spans()
        if OUTCOME in attributes(span)
    }
    assert coroutines == len(labels)
    children = [span for span in telemetry.spans() if span.name.startswith(("inner", "request"))]
    assert 3 * coroutines == len(children)
    for span in children:
        assert span.name.rpartition(" ")[2] == labels[parent(span)]  # type: ignore[index]  # it has one
    name = f"{__name__}.{outer.__qualname__}"
    assert sorted(f"order {number}" for number in range(coroutines)) == [
        order for span, order in names_by_parent(telemetry) if span == name
    ]


def test_each_attempt_of_a_coroutine_is_a_span(telemetry: Telemetry, executor: RetryingExecutor) -> None:
    """And has a duration, by outcome, as that of any other function (K1)."""
    outcomes = [ConnectionError("not yet"), NotNow("busy", after=0)]

    async def call() -> str:
        await asyncio.sleep(0)
        if outcomes:
            raise outcomes.pop(0)
        return "done"

    assert "done" == executor.submit(call).result(TIMEOUT)
    spans = telemetry.spans()
    assert [1, 2, 3] == [attributes(span)["retrying_executor.attempt"] for span in spans]
    assert ["raised", "not_now", "returned"] == [attributes(span)[OUTCOME] for span in spans]
    assert [["exception"], ["exception"], []] == [[event.name for event in span.events] for span in spans]
    assert ["ConnectionError", None, None] == [attributes(span).get("error.type") for span in spans]
    data = telemetry.metrics()["retrying_executor.attempt.duration"].data
    assert isinstance(data, Histogram)
    assert {"raised": 1, "not_now": 1, "returned": 1} == {
        (point.attributes or {})[OUTCOME]: point.count for point in data.data_points
    }


@pytest.mark.parametrize(
    ("cancels", "outcome", "status"),
    [(True, "cancelled", StatusCode.UNSET), (False, "raised", StatusCode.ERROR)],
    ids=["the call", "itself"],
)
def test_a_coroutine_that_is_cancelled_with_its_call_is_no_error(
    telemetry: Telemetry, executor: RetryingExecutor, *, cancels: bool, outcome: str, status: StatusCode
) -> None:
    """One that raises that by itself is; the exception is recorded in any case (K3)."""
    started = Event()

    async def call() -> None:
        started.set()
        if not cancels:
            raise asyncio.CancelledError
        await asyncio.Event().wait()

    future = executor.submit(call)
    assert started.wait(TIMEOUT)
    if cancels:
        assert future.cancel()
    else:
        assert isinstance(future.exception(TIMEOUT), asyncio.CancelledError)
    assert eventually(telemetry.spans)
    (span,) = telemetry.spans()
    assert (outcome, status) == (attributes(span)[OUTCOME], span.status.status_code)
    assert ["exception"] == [event.name for event in span.events]


def test_a_call_that_does_not_fit_a_coroutine_function_is_a_span(
    telemetry: Telemetry, executor: RetryingExecutor
) -> None:
    """And is not retried (U1)."""

    async def call() -> None:
        """Takes nothing."""

    future = executor.submit(call, 1)  # type: ignore[call-arg]  # hence the error
    assert isinstance(future.exception(TIMEOUT), TypeError)
    (span,) = telemetry.spans()
    assert "raised" == attributes(span)[OUTCOME]


@pytest.mark.usefixtures("telemetry")
def test_the_traceback_of_a_coroutine_has_one_line_more_which_keeps_nothing(
    executor: RetryingExecutor,
) -> None:
    """As that of a function; and a TypeError from inside is retried (B10, G2)."""
    error = TypeError("the same each time")

    async def call(_: object) -> NoReturn:
        raise error

    future = executor.submit(call, object())
    assert error is future.exception(TIMEOUT)
    assert 1 < future.attempts
    (ours, _), (last, _) = traceback.walk_tb(error.__traceback__)
    assert "retrying_executor._common.callables" == ours.f_globals["__name__"]
    assert "call" == last.f_code.co_name
    assert {"self", "args", "kwargs"}.isdisjoint(ours.f_locals)


async def generate() -> AsyncIterator[int]:
    """Nobody would iterate over this."""
    yield 1  # pragma: no cover  # hence


@pytest.mark.usefixtures("telemetry")
def test_an_asynchronous_generator_is_refused(executor: RetryingExecutor) -> None:
    """As without instrumentation (K1)."""
    with pytest.raises(TypeError, match=r"^fn must not be an asynchronous generator"):
        executor.submit(generate)


# -- what stays as it is ---------------------------------------------------------------------------


@pytest.mark.usefixtures("telemetry")
def test_submit_takes_what_it_takes(executor: RetryingExecutor) -> None:
    """It reserves no name, and what is not callable is refused (A2)."""
    names = dict.fromkeys(["self", "fn", "wrapped", "instance", "args", "kwargs"], 1)
    assert names == executor.submit(dict, **names).result(TIMEOUT)
    assert 5 == executor.submit(partial(partial(int, "101"), base=2)).result(TIMEOUT)
    nonsense: Any = None
    with pytest.raises(TypeError, match=r"^fn is not callable: None"):
        executor.submit(nonsense)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'fn'"):
        executor.submit()  # type: ignore[call-arg]  # hence the error


@pytest.mark.parametrize("fn", [fail, partial(fail), Flaky(), [].index])
def test_logs_name_the_function_that_was_submitted(
    fn: Callable[..., object], executor: RetryingExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """With and without instrumentation (G3)."""
    caplog.set_level(logging.INFO, "retrying_executor")
    view = executor.with_options(
        label="one", key="1", retry=lambda attempt: 0.0 if attempt.number < 2 else None
    )
    view.submit(fn).exception(TIMEOUT)
    plain = list(caplog.messages)
    assert plain
    caplog.clear()
    if isinstance(fn, Flaky):
        fn.attempts = 0
    RetryingExecutorInstrumentor().instrument()
    try:
        view.submit(fn).exception(TIMEOUT)
    finally:
        RetryingExecutorInstrumentor().uninstrument()
    assert plain == caplog.messages


class Polite(partial["Any"]):
    """A partial that does more than others."""

    def __call__(self, /, *args: Any, **kwargs: Any) -> str:
        return f"here you are: {super().__call__(*args, **kwargs)}"


@pytest.mark.usefixtures("telemetry")
def test_what_is_submitted_is_called_itself(executor: RetryingExecutor) -> None:
    """Even if it is a subclass of partial, inside of which others look (A1)."""
    assert "here you are: 7" == executor.submit(Polite(int, "7")).result(TIMEOUT)


@pytest.mark.usefixtures("telemetry")
def test_a_call_whose_arguments_do_not_fit_is_not_retried(executor: RetryingExecutor) -> None:
    """As without instrumentation: it could not even be made (U1)."""
    future = executor.submit(lambda _: None)
    assert isinstance(future.exception(TIMEOUT), TypeError)
    assert 1 == future.attempts


@pytest.mark.usefixtures("telemetry")
def test_a_traceback_has_one_line_more_which_keeps_nothing(executor: RetryingExecutor) -> None:
    """And it does not grow with the attempts (B10, G2)."""
    error = ValueError("the same each time")

    def call(_: object) -> NoReturn:
        raise error

    assert error is executor.submit(call, object()).exception(TIMEOUT)
    *_, ours, last = traceback.walk_tb(error.__traceback__)
    assert "retrying_executor._common.callables" == ours[0].f_globals["__name__"]
    assert "call" == last[0].f_code.co_name
    assert {"self", "args", "kwargs", "exception"}.isdisjoint(ours[0].f_locals)
    assert 4 >= len(list(traceback.walk_tb(error.__traceback__)))


class Thing:
    """Something to refer to."""

    def __call__(self, argument: Thing) -> Thing:
        return Thing()


@pytest.mark.usefixtures("telemetry")
def test_nothing_is_kept_of_a_call_that_is_done(executor: RetryingExecutor) -> None:
    """Neither function nor argument nor result (G2)."""
    fn, argument = Thing(), Thing()
    future = executor.submit(fn, argument)
    result = future.result(TIMEOUT)
    references = [weakref.ref(thing) for thing in (fn, argument, result)]
    del fn, argument
    assert eventually(lambda: [None, None] == [reference() for reference in references[:2]])
    del future, result
    assert eventually(lambda: references[2]() is None)


def test_threads_may_be_instrumented_too(telemetry: Telemetry) -> None:
    """The thread has the context of who started it, an attempt that of its submitter (B11)."""
    ThreadingInstrumentor().instrument()
    try:
        with RetryingExecutor(1) as executor:
            with telemetry.tracer.start_as_current_span("first"):
                executor.submit(int).result(TIMEOUT)
            with telemetry.tracer.start_as_current_span("second") as second:
                executor.submit(int).result(TIMEOUT)
            executor.submit(int).result(TIMEOUT)
    finally:
        ThreadingInstrumentor().uninstrument()
    spans = [span for span in telemetry.spans() if span.name == "builtins.int"]
    assert [second.get_span_context().span_id, None] == [parent(span) for span in spans[1:]]


# -- metrics ---------------------------------------------------------------------------------------


def test_statistics_are_reported(telemetry: Telemetry) -> None:
    """Of every executor, by its name, whenever they are asked for (G4)."""
    started, release = Event(), Event()

    def call() -> None:
        started.set()
        assert release.wait(TIMEOUT)

    with RetryingExecutor(1, "metered", retry=RetryPolicy(delays=[3600], max_elapsed=None)) as executor:
        executor.submit(int).result(TIMEOUT)
        waiting = executor.submit(fail)
        executor.with_options(retry=None).submit(fail).exception(TIMEOUT)
        running = executor.submit(call)
        assert started.wait(TIMEOUT)
        ready = executor.submit(int)
        assert executor.submit(int).cancel()
        numbers = partial(telemetry.numbers, of="metered")
        assert {None: 1} == numbers("retrying_executor.thread.count")
        assert {"running": 1, "ready": 1, "held": 0, "in_backoff": 1} == numbers(
            "retrying_executor.call.count", "retrying_executor.state"
        )
        assert {None: 6} == numbers("retrying_executor.call.submitted")
        assert {"succeeded": 1, "failed": 1, "cancelled": 1} == numbers(
            "retrying_executor.call.done", "retrying_executor.outcome"
        )
        assert {None: 1} == numbers("retrying_executor.attempt.retried")
        assert waiting.cancel()
        release.set()
        running.result(TIMEOUT)
        ready.result(TIMEOUT)
    units = {name: metric.unit for name, metric in telemetry.metrics().items()}
    assert units == {
        "retrying_executor.thread.count": "{thread}",
        "retrying_executor.call.count": "{call}",
        "retrying_executor.call.submitted": "{call}",
        "retrying_executor.call.done": "{call}",
        "retrying_executor.attempt.retried": "{attempt}",
        "retrying_executor.attempt.duration": "s",
    }


def test_executors_with_the_same_name_are_one(telemetry: Telemetry) -> None:
    """Their numbers are added up."""
    with RetryingExecutor(1, "twin") as one, RetryingExecutor(1, "twin") as other:
        for executor in (one, other):
            executor.submit(int).result(TIMEOUT)
        assert {None: 2} == telemetry.numbers("retrying_executor.call.submitted", of="twin")
        assert {"in_backoff": 0, "running": 0, "ready": 0, "held": 0} == telemetry.numbers(
            "retrying_executor.call.count", "retrying_executor.state", of="twin"
        )


def test_durations_of_attempts_are_measured(telemetry: Telemetry, executor: RetryingExecutor) -> None:
    """By function and outcome, in seconds."""
    assert 2 == executor.submit(Flaky(2)).result(TIMEOUT)
    data = telemetry.metrics()["retrying_executor.attempt.duration"].data
    assert isinstance(data, Histogram)
    counts = {(point.attributes or {})[OUTCOME]: point.count for point in data.data_points}
    assert {"raised": 2, "returned": 1} == counts
    assert [{"code.function.name": "calls.Flaky", OUTCOME: "raised", "error.type": "ConnectionError"}] == [
        point.attributes for point in data.data_points if point.count == 2
    ]
    assert all(0 <= point.sum < TIMEOUT for point in data.data_points)


# -- being instrumented ----------------------------------------------------------------------------


def test_uninstrument_ends_it_and_instrument_begins_anew(
    telemetry: Telemetry, executor: RetryingExecutor
) -> None:
    """Nothing is reported in between, and nothing twice afterwards."""
    instrumentor = RetryingExecutorInstrumentor()
    instrumentor.uninstrument()
    executor.submit(int).result(TIMEOUT)
    assert [] == telemetry.spans()
    assert {} == telemetry.metrics()
    instrumentor.instrument(**telemetry.providers)
    executor.submit(int).result(TIMEOUT)
    assert 1 == len(telemetry.spans())
    name = executor._core.name
    assert {None: 2} == telemetry.numbers("retrying_executor.call.submitted", of=name)


@pytest.mark.parametrize("engine", [Processes(), Shared(partial(ThreadPoolExecutor, 1))])
def test_an_attempt_on_an_engine_continues_the_trace(
    engine: Processes | Shared, telemetry: Telemetry
) -> None:
    """There, the span of the attempt is the current one, so that what the call does becomes its child."""
    with RetryingExecutor(1, engine=engine) as executor:
        trace_id, span_id = executor.submit(errands.current_span).result(TIMEOUT)
    (span,) = telemetry.spans()
    assert (span.context.trace_id, span.context.span_id) == (trace_id, span_id)


def test_auto_instrumentation_finds_it() -> None:
    """By the entry point that the package declares."""
    (found,) = entry_points(group="opentelemetry_instrumentor", name="retrying_executor")
    assert RetryingExecutorInstrumentor is found.load()


PROGRAM = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from retrying_executor import RetryingExecutor

trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
with RetryingExecutor(1) as executor:
    executor.submit(int)
assert '"retrying_executor.call.submitted"' in reader.get_metrics_data().to_json()
"""


def test_a_program_that_knows_nothing_of_it_is_instrumented(tmp_path: Any) -> None:
    """As by the command ``opentelemetry-instrument``; the SDK may be set up later."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, "utf-8")
    code = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", code, sys.executable, str(program)],
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
        encoding="utf-8",
    )
    assert 0 == done.returncode, done.stderr
    assert "builtins.int" == json.loads(done.stdout)["name"]
