"""Every schedule of every scenario with at most two preemptions, or one, keeps the contract.

In a brief run it is one preemption, or some schedules at random: see `test_accesses`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from explore import IS_BRIEF, IS_NIGHTLY, explore
from scenarios import MANY, SCENARIOS
from trial import Scenario

CHOSEN = [one for one in SCENARIOS if not IS_BRIEF or one not in MANY]


@pytest.mark.parametrize("scenario", CHOSEN, ids=lambda scenario: scenario.__name__)
def test_no_schedule_breaks_a_promise(
    scenario: Scenario, record_property: Callable[[str, object], None]
) -> None:
    """The search is exhaustive, and the summary says how many schedules it took (C, E, F, G1, G5)."""
    schedules = explore(scenario, preemptions=2 + IS_NIGHTLY - IS_BRIEF - (scenario in MANY))
    assert schedules > 10  # else there was nothing to explore
    record_property("schedules", schedules)
