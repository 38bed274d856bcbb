"""Prometheus: what executors and upstreams are doing, whenever it is scraped.

Needs the extra ``prometheus``.

```python
from prometheus_client import REGISTRY
from retrying_executor.prometheus import ExecutorCollector

REGISTRY.register(ExecutorCollector({"webhooks": executor}))
```
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from heapq import nsmallest

from retrying_executor._executor import RetryingExecutor
from retrying_executor._upstream.upstream import Upstream

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, StateSetMetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        "retrying_executor.prometheus needs: pip install 'retrying-executor[prometheus]'"
    ) from error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeVar

    from prometheus_client.core import Metric

    from retrying_executor._upstream.places import Places

    T = TypeVar("T")

__all__ = ["ExecutorCollector"]

_GAUGES = {
    "threads": ("threads", "Threads that are at work, resting or being started."),
    "running": ("running_calls", "Calls whose attempt is running."),
    "ready": ("ready_calls", "Calls that could start now, were a thread free."),
    "held": ("held_calls", "Calls that could start now, but for their upstream."),
    "in_backoff": ("in_backoff_calls", "Calls that wait for the delay before their next attempt."),
}
_COUNTERS = {
    "submitted": ("submitted_calls", "Calls accepted so far."),
    "succeeded": ("succeeded_calls", "Calls that returned a result."),
    "failed": ("failed_calls", "Calls that are done with an exception."),
    "cancelled": ("cancelled_calls", "Calls that were cancelled."),
    "retried": ("retried_attempts", "Attempts that failed and after which the call went into backoff."),
}
_PREFIX = "retrying_executor_"
_STATES = ("open", "ramping", "probing", "held")  # the further right, the fewer attempts get through
_MOST_NAMED = 1000
"""How many upstreams are reported each by itself. Each takes five series: many make Prometheus slow."""


class ExecutorCollector(Collector):
    """A collector for a registry of ``prometheus_client``. Calls cost nothing: it asks when it is scraped.

    One collector reports all executors of a process: a second one in the same registry is an error. What is
    made later is reported too: the upstreams of executors and views by themselves, and executors with `add`.
    The collector keeps neither executors nor upstreams alive; what is gone is not reported any more.

    Args:
        executors: The executors to report, by name: the value of the label ``executor``. Their views are
            included, and so are the upstreams that all of them go to. Where these are more than 1,000, they
            are all counted, but only 1,000 are named: those that let the fewest through, then those with the
            most attempts in flight.
        upstreams: Upstreams to report besides those, in any case by name: the label ``upstream``. Those with
            the same name are reported as one, in the state of the one that lets the fewest through.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If two *upstreams* have the same name.
    """

    def __init__(
        self, executors: Mapping[str, RetryingExecutor], *, upstreams: Iterable[Upstream] = ()
    ) -> None:
        self._executors: dict[str, weakref.ref[RetryingExecutor]] = {}
        if not isinstance(executors, Mapping):
            raise TypeError(f"executors must be a mapping from names to executors, not {executors!r}")
        for name, executor in executors.items():
            if not isinstance(name, str):
                raise TypeError(f"executors must have strings as keys, not {name!r}")
            if not isinstance(executor, RetryingExecutor):
                raise TypeError(f"executors[{name!r}] must be a RetryingExecutor, not {executor!r}")
            self.add(name, executor)
        self._served: dict[str, weakref.ref[Places]] = {}
        if not isinstance(upstreams, Iterable):
            raise TypeError(f"upstreams must be an iterable of Upstreams, not {upstreams!r}")
        for upstream in upstreams:
            if not isinstance(upstream, Upstream):
                raise TypeError(f"upstreams must be Upstreams, not {upstream!r}")
            if upstream.name in self._served:
                raise ValueError(f"upstreams must have different names, not {upstream.name!r} twice")
            self._served[upstream.name] = weakref.ref(upstream._places)

    def add(self, name: str, executor: RetryingExecutor) -> None:
        """Report one more executor from now on, or another one under a name that there is already.

        Args:
            name: The value of the label ``executor``.
            executor: The executor; its views, and the upstreams that it goes to, are included.

        Raises:
            TypeError: If *name* is not a string, or *executor* not a `~retrying_executor.RetryingExecutor`.
        """
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {name!r}")
        if not isinstance(executor, RetryingExecutor):
            raise TypeError(f"executor must be a RetryingExecutor, not {executor!r}")
        self._executors[name] = weakref.ref(executor)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of this moment; those of one executor are one snapshot."""
        labels = ["executor"]
        families = {
            field: family(_PREFIX + name, text, labels=labels)
            for family, fields in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS))
            for field, (name, text) in fields.items()
        }
        due = GaugeMetricFamily(
            _PREFIX + "next_due_seconds",
            "Seconds until the first retry is due, or an upstream opens; NaN if no call waits for a time.",
            labels=labels,
        )
        for name, executor in _alive(self._executors):
            stats = executor.stats()
            for field, family in families.items():
                family.add_metric([name], getattr(stats, field))
            due_at = stats.next_due_at
            now = executor._core.clock.monotonic()
            due.add_metric([name], math.nan if due_at is None else max(0.0, due_at - now))
        yield from families.values()
        yield due
        yield from self._collect_upstreams()

    def _collect_upstreams(self) -> Iterator[Metric]:
        counts = GaugeMetricFamily(_PREFIX + "upstreams", "Upstreams, by state.", labels=["state"])
        in_flight = GaugeMetricFamily(
            _PREFIX + "upstream_in_flight_attempts", "Attempts that are running.", labels=["upstream"]
        )
        states = StateSetMetricFamily(
            _PREFIX + "upstream_state", "What the upstream is doing.", labels=["upstream"]
        )
        named: dict[str, set[Places]] = {}
        for name, places in _alive(self._served):
            named.setdefault(name, set()).add(places)
        for _, executor in _alive(self._executors):
            for places in executor._core.served():
                named.setdefault(places.name, set()).add(places)
        seen = {  # summed up by name: the same series twice would spoil the whole scrape
            name: (
                max(_STATES.index(places.state) for places in alike),
                sum(places.in_flight for places in alike),
            )
            for name, alike in named.items()
        }
        for name in self._most_telling(seen):
            its_state, running = seen[name]
            in_flight.add_metric([name], running)
            states.add_metric([name], {state: index == its_state for index, state in enumerate(_STATES)})
        if seen:
            by_state = Counter(its_state for its_state, _ in seen.values())
            for index, state in enumerate(_STATES):
                counts.add_metric([state], by_state[index])
        yield from (counts, in_flight, states)

    def _most_telling(self, seen: Mapping[str, tuple[int, int]]) -> Iterable[str]:
        """Return the names of the upstreams to report each by itself.

        Args:
            seen: By name, the index of the state in `_STATES`, and the number of attempts in flight.
        """
        if len(seen) <= _MOST_NAMED:
            return seen
        listed = seen.keys() & self._served.keys()
        room = max(0, _MOST_NAMED - len(listed))
        others = seen.keys() - listed
        return [*listed, *nsmallest(room, others, lambda name: (-seen[name][0], -seen[name][1], name))]

    describe = collect
    """Called by registries, for the names of the metrics."""


def _alive(references: Mapping[str, weakref.ref[T]]) -> Iterator[tuple[str, T]]:
    for name, reference in list(references.items()):  # one may be added meanwhile
        referent = reference()
        if referent is not None:
            yield name, referent
