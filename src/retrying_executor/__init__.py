"""A drop-in `concurrent.futures.ThreadPoolExecutor` whose calls are retried until they get through."""

from __future__ import annotations

from retrying_executor._calls.call import RetryingFuture
from retrying_executor._calls.current import CurrentCall, current_call, report_weight
from retrying_executor._calls.stats import Stats
from retrying_executor._common.errors import (
    AttemptLostError,
    ForkedFutureError,
    JournalError,
    NotNow,
    PendingLimitError,
)
from retrying_executor._executor import RetryingExecutor, View
from retrying_executor._policy.inline import Inline
from retrying_executor._policy.policy import RetryPolicy
from retrying_executor._policy.transient import explain, retry_after, transient
from retrying_executor._policy.verdict import Attempt
from retrying_executor._upstream.evidence import service_failed
from retrying_executor._upstream.upstream import Upstream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from retrying_executor._journal.journal import Journal
    from retrying_executor._observe.monitor import Event
    from retrying_executor._policy.inline import Maker
    from retrying_executor._upstream.family import UpstreamFamily
    from retrying_executor._watch.watch import watch

__version__ = "1.0.0rc1"

__all__ = [
    "Attempt",
    "AttemptLostError",
    "CurrentCall",
    "Event",
    "ForkedFutureError",
    "Inline",
    "Journal",
    "JournalError",
    "NotNow",
    "PendingLimitError",
    "RetryPolicy",
    "RetryingExecutor",
    "RetryingFuture",
    "Stats",
    "Upstream",
    "UpstreamFamily",
    "View",
    "current_call",
    "explain",
    "report_weight",
    "retry_after",
    "service_failed",
    "transient",
    "watch",
]


def _new_maker(policy: RetryPolicy, **options: Any) -> Maker:
    """Return what makes calls inline, which few programs do; see `Inline`."""
    from retrying_executor._inline import new_maker

    return new_maker(policy, **options)


Inline._new_maker = staticmethod(_new_maker)


def __dir__() -> list[str]:
    """Return what users may import, whether it was imported yet or not, and what every module has."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def __getattr__(name: str) -> object:
    """Import what most programs do not need when it is asked for."""
    if name == "Event":
        from retrying_executor._observe.monitor import Event

        return Event
    if name == "Journal":
        from retrying_executor._journal.journal import Journal

        return Journal
    if name == "UpstreamFamily":
        from retrying_executor._upstream.family import UpstreamFamily

        return UpstreamFamily
    if name == "watch":
        from retrying_executor._watch.watch import watch

        return watch
    places = {"Processes": "engines", "Shared": "engines", "VirtualTimeExecutor": "testing"}
    advice = f"; it is in {__name__}.{places[name]}" if name in places else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{advice}")
