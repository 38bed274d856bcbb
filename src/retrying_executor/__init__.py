"""A drop-in `concurrent.futures.ThreadPoolExecutor` whose calls are retried until they get through."""

from retrying_executor._errors import ForkedFutureError, PendingLimitError
from retrying_executor._executor import RetryingExecutor, View
from retrying_executor._future import RetryingFuture
from retrying_executor._policy import Attempt, RetryPolicy
from retrying_executor._stats import Stats

__all__ = [
    "Attempt",
    "ForkedFutureError",
    "PendingLimitError",
    "RetryPolicy",
    "RetryingExecutor",
    "RetryingFuture",
    "Stats",
    "View",
]
