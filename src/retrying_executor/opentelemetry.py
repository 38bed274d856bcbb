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
from collections import Counter
from contextlib import suppress
from functools import partial
from importlib import metadata

from retrying_executor._calls.current import current_call
from retrying_executor._common import exits
from retrying_executor._common.callables import Wrapper
from retrying_executor._common.errors import NotNow
from retrying_executor._common.log import describe
from retrying_executor._executor import Submitter
from retrying_executor._policy.transient import transient

try:
    from opentelemetry import context, metrics, trace
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
    from typing import Any, TypeAlias

    from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation
    from opentelemetry.trace import Span, Tracer, TracerProvider

    from retrying_executor._calls.stats import Stats

    Telemetry: TypeAlias = tuple[Tracer, Histogram]
    """Where attempts are reported to: as spans, and how long each took."""

__all__ = ["RetryingExecutorInstrumentor"]

_SCHEMA = "https://opentelemetry.io/schemas/1.33.0"  # where code.function.name is stable
_BOUNDARIES = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0]
"""Of the histogram, in seconds: those of HTTP clients in the semantic conventions, and two more."""


class RetryingExecutorInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # untyped
    """Makes every attempt a span, and reports metrics of all executors, until ``uninstrument()``.

    ``instrument(tracer_provider=None, meter_provider=None)`` takes the providers to use; the default
    is the global ones. There is one instrumentor: the class always returns the same.

    A span is a child of the one that was current at ``submit()``, and current while the attempt runs. A call
    that is submitted while instrumentation is suppressed has none.
    """

    _metrics: _Metrics | None = None
    _submission: _Submission | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return which packages must be there to be instrumented: none, this one comes with its own."""
        return ()

    def _instrument(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        **_: object,  # options that ``opentelemetry-instrument`` gives to all
    ) -> None:
        # Instruments cannot be taken back: where there are some already, they are used again.
        if self._metrics is None or self._metrics.provider is not meter_provider:
            self._metrics = _Metrics(meter_provider)
        self._metrics.is_on = True
        tracer = trace.get_tracer(__name__, _version(), tracer_provider, schema_url=_SCHEMA)
        if self._submission is None:
            self._submission = _Submission()
        self._submission.telemetry = tracer, self._metrics.duration

    def _uninstrument(self, **_: object) -> None:
        assert self._metrics is not None  # it was instrumented
        assert self._submission is not None
        self._metrics.is_on = False
        self._submission.telemetry = None
        if self._submission.is_outermost:
            unwrap(Submitter, "submit")
            self._submission = None


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
    """What is around ``submit()``, and does something as long as there is *telemetry*."""

    def __init__(self) -> None:
        self.telemetry: Telemetry | None = None
        self._wrapper = wrap_function_wrapper(Submitter, "submit", self._submit)

    @property
    def is_outermost(self) -> bool:
        """Whether nobody has put something else around it: then it can be taken away."""
        return vars(Submitter)["submit"] is self._wrapper

    def _submit(
        self,
        wrapped: Callable[..., Any],
        instance: Submitter,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Submit a call whose attempts are traced. What cannot be called is left to fail as it does."""
        telemetry = self.telemetry
        if telemetry is not None and args and callable(args[0]) and is_instrumentation_enabled():
            traced = _Traced(args[0], telemetry, instance._terms.upstream_name)
            args = (traced, *args[1:])
        return wrapped(*args, **kwargs)


class _Traced(Wrapper):
    """The function of a call, of which every attempt is a span."""

    __slots__ = ("telemetry", "upstream")

    def __init__(self, func: Callable[..., Any], telemetry: Telemetry, upstream: str | None) -> None:
        super().__init__(func)
        self.telemetry = telemetry
        self.upstream = upstream

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        call = current_call()
        if call is None:  # this is no attempt
            return self.func(*args, **kwargs)
        tracer, duration = self.telemetry
        common = {"code.function.name": call.name}
        if self.upstream is not None:
            common["retrying_executor.upstream"] = self.upstream
        span = tracer.start_span(call.name, attributes=common)
        span.set_attributes({"retrying_executor.attempt": call.attempt, "retrying_executor.key": call.key})
        if call.label is not None:
            span.set_attribute("retrying_executor.label", call.label)
        token = context.attach(trace.set_span_in_context(span))
        began_at = time.monotonic()
        outcome = {"retrying_executor.outcome": "returned"}
        try:
            return self.func(*args, **kwargs)
        except BaseException as exception:
            outcome = _outcome_of(exception, span)
            raise
        finally:
            duration.record(time.monotonic() - began_at, {**common, **outcome})
            span.set_attributes(outcome)
            span.end()
            context.detach(token)
            del self, args, kwargs  # a traceback keeps this frame


def _outcome_of(exception: BaseException, span: Span) -> dict[str, str]:
    """Record what an attempt raised, and return the attributes that say so.

    "Not now" is no error, whether the call says so or the answer that `transient` knows. Only the policy
    decides what follows, but it has not been asked yet, and may count it after all.
    """
    with suppress(BaseException):  # of one that cannot be turned into text
        span.record_exception(exception)
    if isinstance(transient(exception), NotNow):
        return {"retrying_executor.outcome": "not_now"}
    cls = type(exception)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    span.set_status(trace.StatusCode.ERROR, describe(None, exception))
    return {"retrying_executor.outcome": "raised", "error.type": name}


def _all_stats() -> dict[str, Counter[str]]:
    """Return the statistics by the executors' names, as a sum where several have the same."""
    totals: dict[str, Counter[str]] = {}
    cores: list[Any] = exits.cores()
    for core in cores:
        stats: Stats = core.stats()
        numbers = {field: value for field, value in vars(stats).items() if isinstance(value, int)}
        totals.setdefault(core.name, Counter()).update(numbers)
    return totals
