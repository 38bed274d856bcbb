"""Scenarios with a switch possible before every bytecode instruction of the library."""

from __future__ import annotations

import pytest
from explore import IS_BRIEF, IS_NIGHTLY, sample
from scenarios import MANY, SAMPLED, SCENARIOS
from trial import Scenario

RUNS = 1000 if IS_NIGHTLY else 5 if IS_BRIEF else 20
"""For each scenario."""


@pytest.mark.parametrize("scenario", [*SCENARIOS, *SAMPLED], ids=lambda scenario: scenario.__name__)
def test_no_switch_between_instructions_breaks_a_promise(scenario: Scenario) -> None:
    """State that is touched outside the lock would show (C5, G1)."""
    sample(scenario, runs=RUNS, seed=1, fine=True)


@pytest.mark.parametrize("scenario", [*SAMPLED, *MANY], ids=lambda scenario: scenario.__name__)
def test_no_random_schedule_breaks_a_promise(scenario: Scenario) -> None:
    """For those of which not all schedules can be enumerated, or too many (A3, U4, U5)."""
    sample(scenario, runs=100 if IS_BRIEF else 500, seed=1)
