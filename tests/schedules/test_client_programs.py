"""Programs written at random, each under several schedules: only the contract is checked."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from explore import IS_BRIEF, IS_NIGHTLY, sample
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from programs import Program, Step
from trial import DELAY

SHARDS, PROGRAMS, RUNS = (200, 2000, 20) if IS_NIGHTLY else (2, 50, 10) if IS_BRIEF else (2, 100, 20)
"""How many tests there are, programs that each writes, and schedules of each of these."""

DURATIONS = st.sampled_from([0.0, 1.0, DELAY, 3 * DELAY])
CALLS = st.integers(0, 3)
SERVICES = st.integers(0, 1)
ENDS = st.sampled_from(
    [
        {},
        {"wait": False},
        {"cancel_futures": True},
        {"wait": False, "cancel_futures": True},
        {"timeout": DELAY},
    ]
)


def submits(*inner: SearchStrategy[Step]) -> SearchStrategy[Step]:
    """Return calls with up to two failures; their attempts and callbacks may take *inner* steps."""
    how = {
        "failures": st.integers(0, 2),
        "delay": st.sampled_from([DELAY, 1.0]),
        "act": st.one_of(st.none(), *inner),
        "observed": st.booleans(),
        "then": st.one_of(st.none(), *inner),
    }
    more = {
        "service": st.none() | SERVICES,
        "refusals": st.lists(st.tuples(st.sampled_from([None, 0.0, 1.0, DELAY]), st.booleans()), max_size=2),
    }
    return st.tuples(st.just("submit"), st.fixed_dictionaries(how, optional=more))


def step(name: str, argument: SearchStrategy[Any]) -> SearchStrategy[Step]:
    return st.tuples(st.just(name), argument)


CANCELS = step("cancel", CALLS)
SHUTDOWNS = step("shutdown", ENDS)
HOLDS = step("pause", st.tuples(SERVICES, st.none() | DURATIONS)) | step("resume", SERVICES)
STEPS = st.one_of(
    submits(submits(), CANCELS, SHUTDOWNS, HOLDS),
    submits(),
    CANCELS,
    HOLDS,
    step("result", st.tuples(CALLS, st.none() | DURATIONS)),
    step("wait", st.tuples(st.integers(1, 3), DURATIONS)),
    step("as_completed", CALLS),
    step("observe", CALLS),
    step("set_result", CALLS),
    step("look", st.none()),
    step("drain", DURATIONS),
    step("sleep", DURATIONS),
    SHUTDOWNS,
    step("drop", st.none()),
)
LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "max_concurrency": st.integers(1, 2),
        "rate": st.tuples(st.integers(1, 2), st.sampled_from([1.0, DELAY])),
        "hold_after": st.integers(1, 2),
        "max_pending": st.integers(1, 2),
    },
)
CLIENTS = st.fixed_dictionaries(
    {
        "max_workers": st.integers(1, 2),
        "idle_timeout": st.sampled_from([0, 1, DELAY]),  # None: only with a shutdown would they end
        "max_pending": st.none() | st.integers(1, 2),
        "when_full": st.sampled_from(["raise", "wait"]),
        "services": st.tuples(LIMITS, LIMITS),
        "upstream": st.none() | SERVICES,
        "starts": st.just([]) | st.lists(st.booleans(), max_size=3),
        "listens": st.booleans(),
        "threads": st.lists(st.lists(STEPS, min_size=1, max_size=4), min_size=1, max_size=3),
    }
)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_program_breaks_a_promise(shard: int, record_property: Callable[[str, object], None]) -> None:
    """Whatever threads do with an executor, under whatever schedule (B6, C, E, F1 to F5, G, U)."""
    seed = random.randrange(2**32) if IS_NIGHTLY else shard
    programs = 0

    @hypothesis.seed(seed)
    @settings(max_examples=PROGRAMS, deadline=None, database=None)
    @given(program=CLIENTS, seed=st.integers(0, 2**32), fine=st.booleans())
    def run(program: dict[str, Any], seed: int, fine: bool) -> None:
        nonlocal programs
        upstream = program["upstream"]
        is_bounded = upstream is not None and "max_pending" in program["services"][upstream]
        if program["max_pending"] is None and not is_bounded:
            program["when_full"] = "raise"
        sample(Program(**program), runs=RUNS, seed=seed, fine=fine)
        programs += 1

    run()
    record_property("programs", programs)
    record_property("schedules", RUNS * programs)
