"""OpenTelemetry: a span for every attempt, and metrics.

`RetryingExecutorInstrumentor` follows the conventions of the `opentelemetry-instrumentation` packages, and
``opentelemetry-instrument`` finds it by itself. Needs the extra ``opentelemetry``.

```python
from retrying_executor.opentelemetry import RetryingExecutorInstrumentor

RetryingExecutorInstrumentor().instrument()
```
"""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections import Counter
from contextlib import nullcontext, suppress
from functools import partial
from importlib import metadata

from retrying_executor._calls.current import current_call
from retrying_executor._common import exits
from retrying_executor._common.callables import Enclosing
from retrying_executor._common.errors import NotNow
from retrying_executor._common.log import describe
from retrying_executor._engines.errand import luggage
from retrying_executor._executor import Submitter
from retrying_executor._policy.transient import transient

try:
    from opentelemetry import context, metrics, propagate, trace
    from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined]  # untyped
        BaseInstrumentor,
    )
    from opentelemetry.instrumentation.utils import is_instrumentation_enabled, unwrap
    from wrapt import wrap_function_wrapper
except ImportError as error:
    raise ImportError(
        "retrying_executor.opentelemetry needs: pip install 'retrying-executor[opentelemetry]'"
    ) from error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from contextlib import AbstractContextManager
    from typing import Any, TypeAlias

    from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation
    from opentelemetry.trace import Span, Tracer, TracerProvider

    from retrying_executor._calls.current import CurrentCall
    from retrying_executor._calls.stats import Stats

    Telemetry: TypeAlias = tuple[Tracer, Histogram]
    """Where attempts are reported to: as spans, and how long each took."""

__all__ = ["RetryingExecutorInstrumentor"]

_SCHEMA = "https://opentelemetry.io/schemas/1.33.0"  # where code.function.name is stable
_BOUNDARIES = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0]
"""Of the histogram, in seconds: those for HTTP in the semantic conventions, and two more at the end."""


class RetryingExecutorInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # untyped
    """Makes every attempt a span, and reports metrics of all executors, until ``uninstrument()``.

    ``instrument(tracer_provider=None, meter_provider=None)`` takes the providers to use; the default
    is the global ones. There is one instrumentor: the class always returns the same.

    A span is a child of the one that was current at ``submit()``, and current while the attempt runs, in a
    coroutine, too. Where an engine makes the attempt in another process, the trace goes on there. A call that
    is submitted while instrumentation is suppressed has none.
    """

    _metrics: _Metrics | None = None
    _submission: _Submission | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the packages that must be installed besides this one: none."""
        return ()

    def _instrument(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        **_: object,  # options that ``opentelemetry-instrument`` gives to all
    ) -> None:
        # Instruments cannot be removed from a provider. So those that it has already are used again.
        if self._metrics is None or self._metrics.provider is not meter_provider:
            self._metrics = _Metrics(meter_provider)
        self._metrics.is_on = True
        tracer = trace.get_tracer(__name__, _version(), tracer_provider, schema_url=_SCHEMA)
        if self._submission is None:
            self._submission = _Submission()
        self._submission.telemetry = tracer, self._metrics.duration
        luggage.append(_trace_to_send)

    def _uninstrument(self, **_: object) -> None:
        assert self._metrics is not None  # it was instrumented
        assert self._submission is not None
        self._metrics.is_on = False
        luggage.remove(_trace_to_send)
        self._submission.telemetry = None
        if self._submission.is_outermost:
            unwrap(Submitter, "submit")
            self._submission = None


def _trace_to_send() -> tuple[Callable[[Any], object], Any] | None:
    """Return what carries the current context to where an engine makes the attempt."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return (_continue_trace, carrier) if carrier else None


def _continue_trace(carrier: dict[str, str]) -> None:
    """Continue, there, the trace of the attempt here."""
    context.attach(propagate.extract(carrier))  # never detached: the context is that of one attempt


class _Metrics:
    """What is measured, and reported as long as it is on."""

    def __init__(self, provider: MeterProvider | None) -> None:
        self.provider = provider
        self.is_on = False
        meter = metrics.get_meter(__name__, _version(), provider, schema_url=_SCHEMA)
        self.duration = meter.create_histogram(
            "retrying_executor.attempt.duration",
            unit="s",
            description="Duration of attempts.",
            explicit_bucket_boundaries_advisory=_BOUNDARIES,
        )
        meter.create_observable_up_down_counter(
            "retrying_executor.thread.count",
            [partial(self._observe, None, ["threads"])],
            unit="{thread}",
            description="Threads that are at work, resting or being started.",
        )
        meter.create_observable_up_down_counter(
            "retrying_executor.call.count",
            [partial(self._observe, "retrying_executor.state", ["running", "ready", "held", "in_backoff"])],
            unit="{call}",
            description="Calls that are accepted and not done, by state.",
        )
        meter.create_observable_counter(
            "retrying_executor.call.submitted",
            [partial(self._observe, None, ["submitted"])],
            unit="{call}",
            description="Calls accepted so far.",
        )
        meter.create_observable_counter(
            "retrying_executor.call.done",
            [partial(self._observe, "retrying_executor.outcome", ["succeeded", "failed", "cancelled"])],
            unit="{call}",
            description="Calls that are done, by outcome.",
        )
        meter.create_observable_counter(
            "retrying_executor.attempt.retried",
            [partial(self._observe, None, ["retried"])],
            unit="{attempt}",
            description="Attempts that failed and after which the call went into backoff.",
        )

    def _observe(self, label: str | None, fields: list[str], _: CallbackOptions) -> Iterator[Observation]:
        """Report fields of the statistics; where there are several, the *label* says which."""
        if self.is_on:
            for name, stats in _all_stats().items():
                for field in fields:
                    attributes = {"retrying_executor.name": name} | ({label: field} if label else {})
                    yield metrics.Observation(stats[field], attributes)


def _version() -> str:
    """Return the version of this package; nothing if it is not installed."""
    return next((found.version for found in metadata.distributions(name="retrying-executor")), "")


class _Submission:
    """The wrapper around ``submit()``. It has attempts traced as long as it has *telemetry*."""

    def __init__(self) -> None:
        self.telemetry: Telemetry | None = None
        self._wrapper = wrap_function_wrapper(Submitter, "submit", self._submit)

    @property
    def is_outermost(self) -> bool:
        """Whether no other library has wrapped this wrapper: then it can be removed."""
        return vars(Submitter)["submit"] is self._wrapper

    def _submit(
        self,
        wrapped: Callable[..., Any],
        instance: Submitter,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Submit a call whose attempts are traced. Wrong arguments are left to ``submit()`` to refuse."""
        telemetry = self.telemetry
        if telemetry is not None and args and callable(args[0]) and is_instrumentation_enabled():
            args = (_Traced(args[0], telemetry, instance._terms.upstream_name), *args[1:])
        return wrapped(*args, **kwargs)


class _Traced(Enclosing):
    """The function of a call. Every attempt of it is a span."""

    __slots__ = ("telemetry", "upstream")

    def __init__(self, func: Callable[..., Any], telemetry: Telemetry, upstream: str | None) -> None:
        super().__init__(func)
        self.telemetry = telemetry
        self.upstream = upstream

    def around(self) -> AbstractContextManager[object]:
        """Return what records an attempt; nothing if this is called outside of any."""
        call = current_call()
        return nullcontext() if call is None else _Recorded(call, self.telemetry, self.upstream)


class _Recorded:
    """An attempt, from entering this until leaving it: as a span that is current, and how long it takes."""

    __slots__ = ("_began_at", "_common", "_duration", "_span", "_token")

    def __init__(self, call: CurrentCall, telemetry: Telemetry, upstream: str | None) -> None:
        tracer, self._duration = telemetry
        self._common = {"code.function.name": call.name}
        if upstream is not None:
            self._common["retrying_executor.upstream"] = upstream
        self._span = tracer.start_span(call.name, attributes=self._common)
        self._span.set_attributes(
            {"retrying_executor.attempt": call.attempt, "retrying_executor.key": call.key}
        )
        if call.label is not None:
            self._span.set_attribute("retrying_executor.label", call.label)

    def __enter__(self) -> None:
        self._token = context.attach(trace.set_span_in_context(self._span))
        self._began_at = time.monotonic()

    def __exit__(self, _: object, exception: BaseException | None, __: object) -> None:
        outcome = {"retrying_executor.outcome": "returned"}
        if exception is not None:
            outcome = _outcome_of(exception, self._span)
        self._duration.record(time.monotonic() - self._began_at, {**self._common, **outcome})
        self._span.set_attributes(outcome)
        self._span.end()
        context.detach(self._token)


def _outcome_of(exception: BaseException, span: Span) -> dict[str, str]:
    """Record what an attempt raised, and return the attributes that say so.

    "Not now" is no error, whether the call says so, or an answer that `transient` knows. What follows is up
    to the policy, which has not been asked yet, and may count it as a failure after all. Nor is it one that a
    coroutine is cancelled with its call.
    """
    with suppress(BaseException):  # of one that cannot be turned into text
        span.record_exception(exception)
    if isinstance(exception, CancelledError) and current_call() is None:
        return {"retrying_executor.outcome": "cancelled"}
    if isinstance(transient(exception), NotNow):
        return {"retrying_executor.outcome": "not_now"}
    cls = type(exception)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    span.set_status(trace.StatusCode.ERROR, describe(None, exception))
    return {"retrying_executor.outcome": "raised", "error.type": name}


def _all_stats() -> dict[str, Counter[str]]:
    """Return the statistics by the executors' names, summed up if several have the same name."""
    totals: dict[str, Counter[str]] = {}
    cores: list[Any] = exits.cores()
    for core in cores:
        stats: Stats = core.stats()
        numbers = {field: value for field, value in vars(stats).items() if isinstance(value, int)}
        totals.setdefault(core.name, Counter()).update(numbers)
    return totals
