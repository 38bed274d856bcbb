"""Calls that survive their process, in programs with integrations: these concern one process each (J2)."""

from __future__ import annotations

from pathlib import Path

import pytest

import journals
from journals import killed, note, rows
from retrying_executor.testing import VirtualTimeExecutor

journal = journals.journal


def leave(journal: Path, expected: str = "journals.note") -> None:
    """Have a process die with a call that waits."""
    before = VirtualTimeExecutor(journal=journal)
    before.submit(note, 1)
    assert [expected] == [row.function for row in rows(journal)]
    assert b"retrying_executor" not in rows(journal)[0].payload
    killed(before)


def test_a_call_that_was_traced_goes_on_without_the_span_of_its_submitter(journal: Path) -> None:
    """That is over, in another process; the call is journalled under its own function."""
    pytest.importorskip("opentelemetry.instrumentation", reason="opentelemetry is not installed")
    from retrying_executor.opentelemetry import RetryingExecutorInstrumentor

    instrumentor = RetryingExecutorInstrumentor()
    instrumentor.instrument()
    try:
        leave(journal)
    finally:
        instrumentor.uninstrument()
    with VirtualTimeExecutor(journal=journal) as after:
        assert [1] == [future.result() for future in after.adopted]


def test_a_call_that_sentry_knows_of_goes_on(journal: Path) -> None:
    """Without the scope of its submitter."""
    sentry_sdk = pytest.importorskip("sentry_sdk", reason="sentry-sdk is not installed")
    from retrying_executor.sentry import RetryingExecutorIntegration

    sentry_sdk.init(
        release="1.0",  # or it would look for one with git
        auto_enabling_integrations=False,
        integrations=[RetryingExecutorIntegration()],
    )
    try:
        leave(journal)
        with VirtualTimeExecutor(journal=journal) as after:
            assert [1] == [future.result() for future in after.adopted]
    finally:
        sentry_sdk.init(release="1.0", auto_enabling_integrations=False)


def test_metrics_count_calls_that_were_adopted(journal: Path) -> None:
    """As those that were submitted here."""
    pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")
    from retrying_executor.prometheus import ExecutorCollector

    leave(journal)
    after = VirtualTimeExecutor(thread_name_prefix="calls", journal=journal)
    collector = ExecutorCollector({"calls": after})

    def numbers() -> tuple[float, float, float]:
        samples = [sample for family in collector.collect() for sample in family.samples]
        found = {sample.name.removeprefix("retrying_executor_"): sample.value for sample in samples}
        return found["submitted_calls_total"], found["ready_calls"], found["succeeded_calls_total"]

    assert (1, 1, 0) == numbers()
    after.shutdown()
    assert (1, 0, 1) == numbers()
