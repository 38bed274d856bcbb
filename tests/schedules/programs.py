"""Client programs as data: what each thread does with one executor."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    TimeoutError,  # noqa: A004  # not the builtin on 3.10
    wait,
)
from contextlib import suppress
from functools import partial
from typing import Any

from trial import RefusedError, Trial, start

from retrying_executor import RetryingFuture

Step = tuple[str, Any]
"""The name of a method of `Program`, and its argument."""


class Program:
    """A program that can be run any number of times.

    Args:
        threads: The steps of each thread; the first is the main thread.
        options: Those of the executor.
    """

    def __init__(self, threads: list[list[Step]], **options: Any) -> None:
        self.threads = threads
        self.options = options

    def __repr__(self) -> str:
        """Return the arguments, as the command takes them."""
        return repr({"threads": self.threads, **self.options})

    def __call__(self) -> Trial:
        """Do it once."""
        trial = Trial(**self.options)
        for steps in self.threads[1:]:
            start(lambda steps=steps: self.do(trial, steps))
        self.do(trial, self.threads[0])
        return trial

    def do(self, trial: Trial, steps: list[Step]) -> None:
        """Do what one thread does."""
        for step in steps:
            self.do_one(trial, step)

    def do_one(self, trial: Trial, step: Step) -> None:
        """Take one step, unless it takes an executor and that was dropped."""
        name, argument = step
        if trial.executor is not None or name not in ("submit", "drain", "shutdown"):
            with suppress(TimeoutError, CancelledError, RefusedError):
                getattr(self, name)(trial, argument)

    def submit(self, trial: Trial, how: dict[str, Any]) -> None:
        """Submit a call of which each attempt takes half a second, or a step; its callback may too."""
        act = partial(self.do_one, trial, how["act"] or ("sleep", 0.5))
        then = how["then"] and partial(self.do_one, trial, how["then"])
        trial.try_submit(how["failures"], act, delay=how["delay"], observed=how["observed"], then=then)

    def cancel(self, trial: Trial, index: int) -> None:
        self.with_future(trial, index, trial.cancel)

    def result(self, trial: Trial, how: tuple[int, float | None]) -> None:
        index, timeout = how
        self.with_future(trial, index, lambda future: future.result(timeout))

    def wait(self, trial: Trial, how: tuple[int, float]) -> None:
        count, timeout = how
        futures = [call.future for call in trial.accepted[:count] if call.future is not None]
        if futures:
            done, _ = wait(futures, timeout, return_when=FIRST_COMPLETED)
            trial.expect(all(future.done() for future in done), "wait() returns a call that is not done (A3)")

    def drain(self, trial: Trial, timeout: float) -> None:
        executor = trial.executor
        assert executor is not None
        executor.drain(timeout)

    def sleep(self, _: Trial, duration: float) -> None:
        time.sleep(duration)

    def shutdown(self, trial: Trial, options: dict[str, Any]) -> None:
        trial.shutdown(**options)

    def drop(self, trial: Trial, _: None) -> None:
        trial.executor = None

    def with_future(self, trial: Trial, index: int, act: Callable[[RetryingFuture[int]], object]) -> None:
        """Do something with a future that there may be."""
        for call in trial.accepted[index : index + 1]:
            assert call.future is not None
            act(call.future)
