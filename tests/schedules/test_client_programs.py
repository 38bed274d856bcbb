"""Programs written at random, each under several schedules: only the contract is checked."""

from __future__ import annotations

from typing import Any

from explore import IS_BRIEF, IS_NIGHTLY, sample
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from programs import Program, Step
from trial import DELAY

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


def submits(*inner: SearchStrategy[Step]) -> SearchStrategy[Step]:
    """Return calls with up to two failures; their attempts and callbacks may take *inner* steps."""
    how = {
        "failures": st.integers(0, 2),
        "delay": st.sampled_from([DELAY, 1.0]),
        "act": st.one_of(st.none(), *inner),
        "observed": st.booleans(),
        "then": st.one_of(st.none(), *inner),
    }
    return st.tuples(st.just("submit"), st.fixed_dictionaries(how))


CANCELS = st.tuples(st.just("cancel"), st.integers(0, 3))
SHUTDOWNS = st.tuples(st.just("shutdown"), ENDS)
STEPS = st.one_of(
    submits(submits(), CANCELS, SHUTDOWNS),
    CANCELS,
    st.tuples(st.just("result"), st.tuples(st.integers(0, 3), st.none() | DURATIONS)),
    st.tuples(st.just("wait"), st.tuples(st.integers(1, 3), DURATIONS)),
    st.tuples(st.just("drain"), DURATIONS),
    st.tuples(st.just("sleep"), DURATIONS),
    SHUTDOWNS,
    st.tuples(st.just("drop"), st.none()),
)
PROGRAMS = st.fixed_dictionaries(
    {
        "max_workers": st.integers(1, 2),
        "idle_timeout": st.sampled_from([0, 1, DELAY]),  # None: only with a shutdown would they end
        "max_pending": st.none() | st.integers(1, 2),
        "when_full": st.sampled_from(["raise", "wait"]),
        "threads": st.lists(st.lists(STEPS, min_size=1, max_size=4), min_size=1, max_size=3),
    }
)


@settings(max_examples=20_000 if IS_NIGHTLY else 100 if IS_BRIEF else 500, deadline=None)
@given(program=PROGRAMS, seed=st.integers(0, 2**32))
def test_no_program_breaks_a_promise(program: dict[str, Any], seed: int) -> None:
    """Whatever threads do with an executor, under whatever schedule (C1 to C5, E, F1 to F5, G1, G5)."""
    if program["max_pending"] is None:
        program["when_full"] = "raise"
    sample(Program(**program), runs=10, seed=seed)
