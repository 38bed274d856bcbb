"""Programs written at random, each under several schedules: only the contract is checked."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, CancelledError, TimeoutError, wait  # noqa: A004  # not the builtin on 3.10
from contextlib import suppress
from typing import Any

from explore import IS_NIGHTLY, sample
from hypothesis import given, settings
from hypothesis import strategies as st
from trial import DELAY, RefusedError, Trial, start

from retrying_executor import RetryingFuture

Step = tuple[str, Any]
"""What a thread of a program does, and with what."""

DURATIONS = st.sampled_from([0.0, 1.0, DELAY, 3 * DELAY])
ENDS = st.sampled_from(
    [
        {},
        {"wait": False},
        {"cancel_futures": True},
        {"wait": False, "cancel_futures": True},
        {"timeout": DELAY},
    ]
)
STEPS = st.one_of(
    st.tuples(st.just("submit"), st.tuples(st.integers(0, 2), st.booleans())),
    st.tuples(st.just("cancel"), st.integers(0, 3)),
    st.tuples(st.just("result"), st.tuples(st.integers(0, 3), st.none() | DURATIONS)),
    st.tuples(st.just("wait"), DURATIONS),
    st.tuples(st.just("drain"), DURATIONS),
    st.tuples(st.just("sleep"), DURATIONS),
    st.tuples(st.just("shutdown"), ENDS),
    st.tuples(st.just("drop"), st.none()),
)
PROGRAMS = st.fixed_dictionaries(
    {
        "max_workers": st.integers(1, 2),
        "idle_timeout": st.sampled_from([0, 1, DELAY]),  # None: only with a shutdown would they end
        "max_pending": st.none() | st.integers(1, 2),
        "threads": st.lists(st.lists(STEPS, min_size=1, max_size=4), min_size=1, max_size=3),
    }
)


class Program:
    """A program that a trial can run, any number of times."""

    __name__ = "a program written at random"

    def __init__(self, threads: list[list[Step]], **options: Any) -> None:
        self.threads = threads
        self.options = options

    def __call__(self) -> Trial:
        """Do it once."""
        trial = Trial(**self.options)
        for steps in self.threads[1:]:
            start(lambda steps=steps: self.do(trial, steps))
        self.do(trial, self.threads[0])
        return trial

    def do(self, trial: Trial, steps: list[Step]) -> None:
        """Do what one thread does."""
        for name, argument in steps:
            if trial.executor is not None or name == "sleep":
                with suppress(TimeoutError, CancelledError, RefusedError):
                    getattr(self, name)(trial, argument)

    def submit(self, trial: Trial, how: tuple[int, bool]) -> None:
        failures, observed = how
        trial.try_submit(failures, lambda: time.sleep(0.5), observed=observed)

    def cancel(self, trial: Trial, index: int) -> None:
        self.with_future(trial, index, trial.cancel)

    def result(self, trial: Trial, how: tuple[int, float | None]) -> None:
        index, timeout = how
        self.with_future(trial, index, lambda future: future.result(timeout))

    def wait(self, trial: Trial, timeout: float) -> None:
        futures = [call.future for call in trial.accepted[:1] if call.future is not None]
        if futures:
            wait(futures, timeout, return_when=FIRST_COMPLETED)

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


@settings(max_examples=20_000 if IS_NIGHTLY else 200, deadline=None)
@given(program=PROGRAMS, seed=st.integers(0, 2**32))
def test_no_program_breaks_a_promise(program: dict[str, Any], seed: int) -> None:
    """Whatever threads do with an executor, under whatever schedule (C1 to C5, E, F1 to F5, G1, G5)."""
    sample(Program(**program), runs=10, seed=seed)
