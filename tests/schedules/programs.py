"""Client programs as data: what each thread does with one executor."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    InvalidStateError,
    TimeoutError,  # noqa: A004  # not the builtin on 3.10
    as_completed,
    wait,
)
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

from controlled import Run
from trial import DELAY, RefusedError, Service, Trial, start

from retrying_executor import NotNow, RetryingFuture

Step = tuple[str, Any]
"""The name of a method of `Program`, and its argument."""


class Program:
    """A program that can be run any number of times.

    Args:
        threads: The steps of each thread; the first is the main thread.
        services: The options of each upstream.
        upstream: The number of the one that calls go to which say nothing else.
        starts: Which attempts to start a thread succeed; all after these do.
        options: Those of the executor.
    """

    def __init__(
        self,
        threads: list[list[Step]],
        *,
        services: Sequence[dict[str, Any]] = (),
        upstream: int | None = None,
        starts: Sequence[bool] = (),
        **options: Any,
    ) -> None:
        self.threads = threads
        self.more = {"services": services, "upstream": upstream, "starts": starts}
        self.options = options

    def __repr__(self) -> str:
        """Return the arguments, as the command takes them."""
        return repr({"threads": self.threads, **self.more, **self.options})

    def __call__(self) -> Trial:
        """Do it once."""
        run, starts = Run.active, iter(self.more["starts"])
        assert run is not None
        run.may_start = lambda name: not name.startswith("worker_") or next(starts, True)
        services = [Service(**options) for options in self.more["services"]]
        number = self.more["upstream"]
        upstream = None if number is None else services[number]
        trial = Trial(upstream=upstream, is_starved=not all(self.more["starts"]), **self.options)
        trial.services = services
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
            with suppress(TimeoutError, CancelledError, RefusedError, NotNow, InvalidStateError):
                getattr(self, name)(trial, argument)

    def submit(self, trial: Trial, how: dict[str, Any]) -> None:
        """Submit a call of which each attempt takes half a second, or a step; its callback may too."""
        act = partial(self.do_one, trial, how["act"] or ("sleep", 0.5))
        then = how["then"] and partial(self.do_one, trial, how["then"])
        service = how.get("service", ...)
        trial.try_submit(
            how["failures"],
            act,
            delay=how["delay"],
            observed=how["observed"],
            then=then,
            service=trial.services[service] if isinstance(service, int) else service,
            refusals=[NotNow(after=after, only_this_call=only) for after, only in how.get("refusals", ())],
        )

    def cancel(self, trial: Trial, index: int) -> None:
        self.with_future(trial, index, trial.cancel)

    def observe(self, trial: Trial, index: int) -> None:
        for call in trial.accepted[index : index + 1]:
            trial.observe(call)

    def set_result(self, trial: Trial, index: int) -> None:
        for call in trial.accepted[index : index + 1]:
            call.may_end_early = call.is_settled = True
            self.with_future(trial, index, lambda future: future.set_result(0))
            call.limit = call.attempts + (not call.running)  # a worker may have it in its hands already

    def as_completed(self, trial: Trial, index: int) -> None:
        # With a timeout it would ask the clock again and again when time is up to the microsecond.
        self.with_future(trial, index, lambda future: [*as_completed([future])])

    def look(self, trial: Trial, _: None) -> None:
        trial.look()

    def pause(self, trial: Trial, how: tuple[int, float | None]) -> None:
        """Hold a service; for ever means until somebody ends it, which a thread of its own does."""
        number, duration = how
        service = trial.services[number]
        service.pause(duration)
        if duration is None:
            start(lambda: self.do(trial, [("sleep", DELAY), ("resume", number)]))

    def resume(self, trial: Trial, number: int) -> None:
        trial.services[number].resume()

    def result(self, trial: Trial, how: tuple[int, float | None]) -> None:
        index, timeout = how
        # A call that relied on a thread which could not be started fails with that.
        with suppress(RuntimeError) if trial.is_starved else nullcontext():
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
