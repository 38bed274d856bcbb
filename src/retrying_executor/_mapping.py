"""What ``map()`` does: submit calls, at once or as results are taken, and yield the results in order."""

from __future__ import annotations

import itertools
from collections import deque

from retrying_executor._common.values import checked_timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Protocol, TypeVar

    from retrying_executor._calls.call import RetryingFuture
    from retrying_executor._common.values import Clock, Duration

    T = TypeVar("T")

    class Submitter(Protocol):
        """An executor, or a view of one."""

        def submit(self, fn: Callable[..., T], /, *args: Any) -> RetryingFuture[T]: ...


def results(
    reference: Callable[[], Submitter | None],
    fn: Callable[..., T],
    iterables: Iterable[Iterable[Any]],
    *,
    timeout: Duration | None,
    buffersize: int | None,
    clock: Clock,
) -> Iterator[T]:
    """Submit the calls, or the first of them, and return an iterator over their results.

    Args:
        reference: Returns the executor, or ``None`` once that is gone: then no more calls are submitted.
        fn: This and the others are those of ``map()``, with the same errors.
        iterables: See *fn*.
        timeout: See *fn*.
        buffersize: See *fn*.
        clock: What the *timeout* is measured by.
    """
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")
    limit = checked_timeout(timeout)
    deadline = None if limit is None else clock.monotonic() + limit
    calls = _calls(reference, fn, zip(*iterables, strict=False))
    futures: deque[RetryingFuture[T]] = deque()
    try:
        futures.extend(itertools.islice(calls, buffersize))
    except BaseException:
        _cancel_all(futures)
        raise
    return _results(futures, calls, deadline)


def _calls(
    reference: Callable[[], Submitter | None], fn: Callable[..., T], arguments: Iterable[tuple[Any, ...]]
) -> Iterator[RetryingFuture[T]]:
    """Submit a call whenever the next future is taken, and yield its future."""
    for args in arguments:
        executor = reference()
        if executor is None:
            return
        future = executor.submit(fn, *args)
        del executor  # so that it can go away while this waits
        yield future


def _results(
    futures: deque[RetryingFuture[T]], calls: Iterator[RetryingFuture[T]], deadline: float | None
) -> Iterator[T]:
    """Yield the futures' results in order; for each one taken, make the next of the *calls*."""
    try:
        while futures:
            futures.extend(itertools.islice(calls, 1))
            yield _result(futures.popleft(), deadline)
    finally:
        _cancel_all(futures)


def _cancel_all(futures: Iterable[RetryingFuture[Any]]) -> None:
    for future in futures:
        future.cancel()


def _result(future: RetryingFuture[T], deadline: float | None) -> T:
    try:
        return future.result(None if deadline is None else deadline - future._core.clock.monotonic())
    finally:
        future.cancel()  # if it is late, no more attempts follow
        del future  # its exception refers to this frame: a reference cycle
