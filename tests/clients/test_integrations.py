"""Several integrations in one program, in whichever order they are set up."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from conftest import TIMEOUT

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")
pytest.importorskip("sentry_sdk", reason="sentry-sdk is not installed")

PROGRAM = """
import json
import sys

import sentry_sdk
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from retrying_executor import RetryingExecutor
from retrying_executor.opentelemetry import RetryingExecutorInstrumentor
from retrying_executor.sentry import RetryingExecutorIntegration

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
executor = RetryingExecutor(retry=lambda attempt: 0.0 if attempt.number < 2 else None)


def instrument():
    RetryingExecutorInstrumentor().instrument(tracer_provider=provider)


def integrate():
    sentry_sdk.init(integrations=[RetryingExecutorIntegration()])


def run():
    \"""Return the names of the spans of a call with two attempts, and the tags that each of these found.\"""
    tags = []

    def attempt():
        scope = sentry_sdk.get_isolation_scope()
        tags.append(dict(scope._tags))
        scope.set_tag("attempt", len(tags))
        if len(tags) < 2:
            raise ConnectionError

    exporter.clear()
    executor.submit(attempt).result()
    return [span.name.rpartition(".")[2] for span in exporter.get_finished_spans()], tags


for name in sys.argv[1:]:
    {"opentelemetry": instrument, "sentry": integrate}[name]()
both = run()
RetryingExecutorInstrumentor().uninstrument()
without = run()
instrument()
print(json.dumps([both, without, run()]))
"""


@pytest.mark.parametrize("order", [("opentelemetry", "sentry"), ("sentry", "opentelemetry")], ids="-".join)
def test_opentelemetry_and_sentry_do_not_get_in_each_others_way(order: tuple[str, str]) -> None:
    """Every attempt is a span and has scopes of its own, until the one or the other is taken away (B11)."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *order],
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
        encoding="utf-8",
    )
    assert 0 == done.returncode, done.stderr
    found: Any = json.loads(done.stdout)
    nothing: list[object] = [{}, {}]
    assert [[["attempt", "attempt"], nothing], [[], nothing], [["attempt", "attempt"], nothing]] == found


@pytest.mark.parametrize("name", ["opentelemetry", "prometheus", "sentry"])
def test_integrations_go_by_the_names_of_their_modules(name: str) -> None:
    """The package does not import them: users do."""
    module = pytest.importorskip(f"retrying_executor.{name}")
    things = [getattr(module, public) for public in module.__all__]
    assert things
    assert {module.__name__} == {thing.__module__ for thing in things}
