"""Scenarios with a switch possible before every access to what threads share."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from explore import IS_BRIEF, IS_NIGHTLY, sample
from scenarios import MANY, SAMPLED, SCENARIOS, VAST
from trial import Scenario

RUNS = 50_000 if IS_NIGHTLY else 20 if IS_BRIEF else 60
"""For each scenario."""


@pytest.mark.parametrize("scenario", [*SCENARIOS, *SAMPLED, *VAST], ids=lambda scenario: scenario.__name__)
def test_no_switch_between_accesses_breaks_a_promise(
    scenario: Scenario, record_property: Callable[[str, object], None]
) -> None:
    """State that is touched outside the lock would show (C5, G1)."""
    sample(scenario, runs=RUNS, seed=random.randrange(2**32) if IS_NIGHTLY else 1, fine=True)
    record_property("schedules", RUNS)


@pytest.mark.parametrize("scenario", [*SAMPLED, *VAST, *MANY], ids=lambda scenario: scenario.__name__)
def test_no_random_schedule_breaks_a_promise(scenario: Scenario) -> None:
    """For those of which not all schedules can be enumerated, or too many (A3, U4, U5)."""
    sample(scenario, runs=100 if IS_BRIEF else 500 if IS_NIGHTLY else 300, seed=1)
