"""The table of what meets without a lock in common is complete: see `protocol`."""

from __future__ import annotations

from itertools import combinations_with_replacement

from protocol import PAIRS, SIDES
from scenarios import SCENARIOS


def test_every_pair_of_sides_has_a_scenario_or_a_reason() -> None:
    """None is left out, and what is named is explored (A3, B3, E1, G1)."""
    assert list(combinations_with_replacement(SIDES, 2)) == list(PAIRS)
    assert all(pair in SCENARIOS for pair in PAIRS.values() if not isinstance(pair, str))
