"""A drop-in `concurrent.futures.ThreadPoolExecutor` whose calls are retried until they get through."""

from retrying_executor._errors import ForkedFutureError, NotNow, PendingLimitError
from retrying_executor._executor import RetryingExecutor, View
from retrying_executor._future import RetryingFuture
from retrying_executor._policy import Attempt, RetryPolicy
from retrying_executor._stats import Stats
from retrying_executor._transient import retry_after, transient
from retrying_executor._upstream import Upstream

__all__ = [
    "Attempt",
    "ForkedFutureError",
    "NotNow",
    "PendingLimitError",
    "RetryPolicy",
    "RetryingExecutor",
    "RetryingFuture",
    "Stats",
    "Upstream",
    "View",
    "retry_after",
    "transient",
]
