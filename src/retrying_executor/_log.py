"""What is logged, and how: one logger, never a print, nothing that a hostile object can break."""

from __future__ import annotations

import logging

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from retrying_executor._future import Outcome, Work
    from retrying_executor._schedule import Call

logger = logging.getLogger("retrying_executor")


def call_name(fn: object) -> str:
    """Return a name for *fn* that is fit for a log line."""
    try:
        return f"{fn.__module__}.{fn.__qualname__}"  # type: ignore[attr-defined]  # hence the except
    except Exception:  # partials and callable objects have no name; hostile ones raise
        return f"{type(fn).__module__}.{type(fn).__qualname__}"


def describe(outcome: object, exception: BaseException | None) -> str:
    """Return what an attempt ended with, in one line."""
    if exception is None:
        return f"rejected result of type {type(outcome).__qualname__}"
    try:
        return f"{type(exception).__qualname__}: {exception}"
    except Exception:
        return type(exception).__qualname__


def retry_scheduled(work: Work, number: int, outcome: Outcome, delay: float) -> None:
    if logger.isEnabledFor(logging.INFO):
        logger.info(
            "%s: attempt %d failed (%s); the next one in %.3g s",
            call_name(work[0]),
            number,
            describe(*outcome),
            delay,
        )


def initializer_failed(error: BaseException) -> None:
    logger.critical("the initializer of a worker thread failed", exc_info=error)


def worker_interrupted(error: BaseException) -> None:
    logger.error("a done callback, or another thread, raised this in a worker thread", exc_info=error)


def still_running(calls: Iterable[Call]) -> None:
    names = sorted(call_name(work[0]) for call in calls if (work := call._work) is not None)
    logger.warning("time is up, but %d calls are still running: %s", len(names), ", ".join(names))


class UnseenFailure:
    """Kept by a failed future alone: when that goes away before somebody looked, it is logged."""

    __slots__ = ("_attempts", "_exception", "_name")

    def __init__(self, name: str, attempts: int, exception: BaseException) -> None:
        self._name = name
        self._attempts = attempts
        self._exception: BaseException | None = exception

    def seen(self) -> None:
        self._exception = None

    def __del__(self) -> None:
        if self._exception is not None:
            logger.error(
                "%s failed after %d attempts, and nobody looked at its outcome",
                self._name,
                self._attempts,
                exc_info=self._exception,
            )
