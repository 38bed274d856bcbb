"""What is learned of a limit that a service does not name, against services that count in different ways."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrying_executor._upstream.gate import Gate, Permit
from retrying_executor._upstream.learning import Pace


def make_gate(draw: float = 0.5) -> Gate:
    """Make one as an `Upstream` does that is given no limits."""
    return Gate(
        max_concurrency=math.inf,
        rates=(),
        budgets=(),
        is_paced=False,
        hold_after=5,
        initial_hold=1.0,
        max_hold=60.0,
        random=lambda: draw,
    )


@dataclass
class Sliding:
    """A service that lets so many through in any window of so many seconds."""

    most: int
    window: float = 1.0
    seen: deque[float] = field(default_factory=deque)

    def lets_through(self, now: float) -> bool:
        """Return whether it answers a request, other than by "not now"."""
        while self.seen and self.seen[0] + self.window <= now:
            self.seen.popleft()
        if len(self.seen) >= self.most:
            return False
        self.seen.append(now)
        return True


@dataclass
class Fixed:
    """A service that lets so many through in each second of its own clock."""

    most: int
    offset: float = 0.3
    second: float = -1.0
    count: int = 0

    def lets_through(self, now: float) -> bool:
        """Return whether it answers a request, other than by "not now"."""
        if (second := math.floor(now + self.offset)) != self.second:
            self.second, self.count = second, 0
        self.count += 1
        return self.count <= self.most


@dataclass
class Outcome:
    """What came of it: how many were refused, how long it took; before the first hold, and in all."""

    refused: int = 0
    took: float = 0.0
    refused_before: int = 0
    done_before: int = 0


def make_calls(
    gate: Gate, lets_through: Callable[[float], bool], calls: int, *, workers: int = 16, latency: float = 0.01
) -> Outcome:
    """Have so many calls get through, with so many attempts at once, that take so many seconds each."""
    now, number, left, outcome = 0.0, 0, calls, Outcome()
    running: list[tuple[float, int, Permit, bool]] = []
    while left:
        while len(running) < min(workers, left) and gate.open_at() <= now:
            gate.refill(now)
            number += 1
            heapq.heappush(running, (now + latency, number, gate.start(now), lets_through(now)))
        opens_at = gate.open_at() if len(running) < min(workers, left) else math.inf
        if not running or opens_at < running[0][0]:
            now = opens_at
            continue
        now, _, permit, works = heapq.heappop(running)
        gate.end(permit, now, "worked" if works else "busy")
        left -= works
        outcome.refused += not works
        if gate.era == 0:
            outcome.refused_before, outcome.done_before = outcome.refused, calls - left
    outcome.took = now
    return outcome


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([5, 10, 20, 50, 200]),
    st.sampled_from([Sliding, Fixed]),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([0.002, 0.01, 0.05]),
)
def test_a_service_that_names_no_limit_is_called_about_as_fast_as_it_allows(
    most: int, kind: Callable[[int], Sliding | Fixed], draw: float, latency: float
) -> None:
    """Once it was held, a tenth of the requests is refused at most; most often, little time is lost (U5)."""
    calls = 60 * most
    outcome = make_calls(make_gate(draw), kind(most).lets_through, calls, latency=latency)
    in_the_beginning = 16  # so many run at once when the first is refused
    assert outcome.refused - outcome.refused_before <= 0.1 * calls + in_the_beginning
    assert outcome.took <= 1.3 * calls / most + 2.0


def test_a_limit_by_the_minute_is_found_too() -> None:
    """After a few holds (U5)."""
    outcome = make_calls(make_gate(), Sliding(60, 60.0).lets_through, 1200)
    assert outcome.took <= 1.4 * 1200
    assert outcome.refused <= 0.2 * 1200


def test_a_limit_that_is_gone_is_forgotten() -> None:
    """The pace rises ever faster, and is soon as if there had never been one (U5)."""
    gate, service = make_gate(), Sliding(20)
    outcome = make_calls(gate, lambda now: now > 10.0 or service.lets_through(now), 20_000)
    assert 20_000 / 20 / 5 > outcome.took
    assert not gate.is_calm
    gate.end(gate.start(outcome.took + 200.0), outcome.took + 200.0, "worked")
    assert gate.is_calm


def test_single_refusals_teach_nothing() -> None:
    """A service that now and then refuses one, and is not held, is called at full speed (U5)."""
    gate = make_gate()
    requests = iter(range(10_000))
    outcome = make_calls(gate, lambda _: next(requests) % 50 != 49, 5_000)
    assert outcome.took <= 5_000 / 16 * 0.01 * 1.1
    assert gate._pace is None


def test_a_time_that_the_service_names_teaches_nothing() -> None:
    """It is asked again when it wants to be (U2)."""
    gate = make_gate()
    gate.end(gate.start(0.0), 0.0, "busy", 7.0)
    assert gate._pace is None


def test_failures_teach_nothing() -> None:
    """They do not come from calling too fast (U5)."""
    gate = make_gate()
    permits = [gate.start(0.0) for _ in range(5)]
    for permit in permits:
        gate.end(permit, 0.0, "failed")
    assert (1, None) == (gate.era, gate._pace)


def measured(*, successes: int) -> Pace:
    """Make a pace that was set to 100 a second, and have so many get through before the next refusals."""
    pace = Pace(0.0)
    for _ in range(100):
        pace.worked(10.0, 10.0)
    assert pace.refused(10.5, 11.0)
    assert not pace.refused(10.9, 11.1)  # which began before that
    assert 100 == pace._per_second(11.1)
    for _ in range(successes):
        pace.worked(12.0, 12.0)
    assert pace.refused(12.0, 14.0)
    assert pace.refused(13.5, 14.0) is (successes >= 20)
    return pace


@pytest.mark.parametrize(("successes", "expected"), [(5, 50.0), (15, 7.5), (30, 15.0)])
def test_few_successes_halve_the_pace_at_most(successes: int, expected: float) -> None:
    """They tell little; many tell how many get through, holds included (U5)."""
    assert expected == measured(successes=successes)._measured


def test_a_first_measurement_is_a_guess() -> None:
    """The pace doubles every few seconds until the next refusal, and rises slowly after that (U5)."""
    pace = Pace(0.0)
    pace.worked(1.0, 1.0)
    pace.refused(1.1, 1.2)
    pace.worked(2.0, 2.0)
    assert [1, 2, 4] == [pace._per_second(now) for now in (2.0, 5.0, 8.0)]
    pace.refused(9.0, 10.0)
    pace.refused(10.5, 11.0)
    assert 0.45 < pace._per_second(11.0) < 0.55


def test_refusals_in_a_row_are_further_and_further_apart() -> None:
    """A second that is full stays full to its end (U5)."""
    pace, waits = measured(successes=15), []
    for _ in range(4):
        now = pace.next_start_at
        pace.started(now)
        pace.next_start_at = now
        assert pace.refused(now, now)
        waits.append(pace.next_start_at - now)
    assert waits == pytest.approx([waits[0] * 2**number for number in range(4)])


@pytest.mark.parametrize("most", [2, 5])
def test_a_bucket_that_allows_small_bursts_is_found_out(most: int) -> None:
    """What it lets through at once says little of what it lets through in a second (U5)."""
    level, filled_at = float(most), 0.0

    def lets_through(now: float) -> bool:
        nonlocal level, filled_at
        level, filled_at = min(float(most), level + 20.0 * (now - filled_at)), now
        is_enough = level >= 1.0
        level -= is_enough
        return is_enough

    outcome = make_calls(make_gate(), lets_through, 1200)
    assert outcome.took <= 1.6 * 1200 / 20
    assert outcome.refused <= 0.1 * 1200


def learned(gate: Gate, *, after: float = 0.0) -> Pace:
    """Have a gate learn a pace: it was held, then one attempt got through, and another was refused."""
    gate.end(gate.start(after), after, "worked")
    for permit in [gate.start(after) for _ in range(5)]:
        gate.end(permit, after, "busy")
    gate.end(gate.start(after + 2.0), after + 2.0, "worked")
    gate.end(gate.start(after + 2.1), after + 2.1, "busy")
    assert gate._pace is not None
    return gate._pace


@pytest.mark.parametrize("idle", [60.0, 7_000.0, 1e9])
def test_an_upstream_that_was_idle_for_long_is_called_again(idle: float) -> None:
    """However long that was: a pace that is over restricts nothing, and is forgotten (G1, U5)."""
    gate = make_gate()
    learned(gate)
    gate.end(gate.start(4.0), 4.0, "worked")
    gate.end(gate.start(4.0 + idle), 4.0 + idle, "worked")
    assert gate.open_at() <= 4.0 + idle + 1.0
    assert (gate._pace is None) is (idle > 60.0)


def test_a_pace_after_which_nobody_called_is_forgotten() -> None:
    """Or a family would remember each of its members that was ever held (U7)."""
    gate = make_gate()
    pace = learned(gate)
    assert not pace.is_over(100.0)
    assert pace.is_over(1_000.0)


def test_a_service_that_refuses_for_long_is_asked_often_enough() -> None:
    """As without a pace: holds are a minute long at most, and so are the steps (U5)."""
    gate = make_gate(0.999)
    learned(gate)
    works = iter([False, False, True] * 100)
    now, asked = 3.0, []
    for is_up in works:
        now = max(now, gate.open_at())
        asked.append(now)
        gate.end(gate.start(now), now + 0.01, "worked" if is_up else "busy")
    assert max(later - earlier for earlier, later in pairwise(asked)) <= 61.0


def test_the_end_of_a_hold_by_hand_forgets_what_was_learned() -> None:
    """A probe starts at once, as `Upstream.resume` says (U5)."""
    gate = make_gate()
    for permit in [gate.start(0.0) for _ in range(5)]:
        gate.end(permit, 0.0, "busy")
    gate.release()
    assert gate.open_at() == -math.inf
