"""When a service may be called: the gate in virtual time, against the trace of what started and ended."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from retrying_executor._upstream.gate import Gate, Permit

EVIDENCE = st.sampled_from(["worked", "worked", "worked", "failed", "failed", "busy", "none"])
ASKED = st.sampled_from([None, None, None, None, None, 0.0, 0.5, 20.0])
WEIGHTS = st.sampled_from([0, 1, 1, 2, 5, 10, 0.5])
SAMPLES = st.sampled_from([0.0, 0.25, 0.5, 1.0 - 2.0**-53])
OPTIONS = st.fixed_dictionaries(
    {
        "max_concurrency": st.sampled_from([1, 2, 3, 10, math.inf]),
        "rates": st.sampled_from([(), (), ((1, 0.5),), ((2, 1.0),), ((2, 0.5), (5, 3.0)), ((40, 3.0),)]),
        "budgets": st.sampled_from([(), (), ((10, 1.0),), ((10, 0.5), (25, 4.0))]),
        "is_paced": st.booleans(),
        "hold_after": st.sampled_from([1, 2, 3, math.inf]),
        "max_hold": st.sampled_from([1.0, 3.0, 8.0]),
    }
)


def make_gate(**options: Any) -> Gate:
    """Make a gate without limits that is held after two failures, for 1, 2, 4 and 8 seconds."""
    defaults = {"max_concurrency": math.inf, "rates": (), "budgets": (), "hold_after": 2, "initial_hold": 1.0}
    options = {**defaults, "max_hold": 8.0, "random": lambda: 1.0, "is_paced": False, **options}
    return Gate(**{**options, "is_paced": options["is_paced"] and bool(options["rates"])})


def take_slots(gate: Gate, now: float) -> float | None:
    """Take slots in no time, once those that are free have been made."""
    gate.refill(-math.inf)
    return gate.take_slots(now, lambda: now)


def start(gate: Gate, now: float, weight: float = 1) -> Any:
    """Start an attempt in no time, for which slots are taken."""
    gate.refill(now)
    began_at = take_slots(gate, now)
    return None if began_at is None else gate.start(began_at, weight)


def start_all(gate: Gate, now: float, limit: int = 1000) -> list[Permit]:
    """Start attempts for as long as the gate is open, but no more than *limit*."""
    permits = []
    while gate.open_at() <= now and len(permits) < limit:
        permits.append(start(gate, now))
    return permits


def end_all(gate: Gate, permits: list[Permit], now: float, evidence: Any) -> None:
    """End attempts, all in the same way."""
    for permit in permits:
        gate.end(permit, now, evidence)


def held_gate(**options: Any) -> Gate:
    """Make a gate that is held from 0 to 1."""
    gate = make_gate(**options)
    gate.hold(1.0)
    return gate


# -- against the trace ---------------------------------------------------------------------------


@dataclass(eq=False)
class Flight:
    """An attempt that was let through, after how many holds that was, and what it takes of the budgets."""

    permit: Permit
    holds: int
    at: float
    weight: float


class GateMachine(RuleBasedStateMachine):
    """Whatever happens in whichever order, what may start follows from what happened (U4, U5)."""

    @initialize(options=OPTIONS)
    def begin(self, options: dict[str, Any]) -> None:
        """A service of which nothing is known yet."""
        self.sample = 0.0
        self.gate = make_gate(**options, random=lambda: self.sample)
        self.options = options
        self.now = 0.0
        self.started: list[Flight] = []
        self.in_flight: list[Flight] = []
        self.holds = 0
        self.held_until = -math.inf
        self.probe: Flight | None = None
        self.successes = self.failures = self.failed_holds = 0  # since the hold; in a row; in a row

    @property
    def is_over(self) -> bool:
        """Whether neither hold, probe nor ramp restricts anything."""
        return self.holds == 0 or 1 + self.successes > min(self.options["max_concurrency"], 128)

    def keeps_rates(self) -> bool:
        """Return whether one more start now keeps the rates, in every window of the trace, and the pace."""
        starts = [*[flight.at for flight in self.started], self.now]
        rates = self.options["rates"]
        if rates and self.options["is_paced"] and self.started:
            count, window = min(rates, key=lambda rate: rate[1])
            if self.now < starts[-2] + 1.02 * window / count:
                return False
        return all(
            sum(first <= at < first + window for at in starts) <= count
            for count, window in rates
            for first in starts
        )

    def spent(self, window: float) -> float:
        """Return what was spent in the window that ends now."""
        return sum(flight.weight for flight in self.started if flight.at + window > self.now)

    def keeps_budgets(self, weight: float) -> bool:
        """Return whether one more start now keeps the budgets, whatever was corrected meanwhile."""
        return all(self.spent(window) + weight <= most for most, window in self.options["budgets"])

    def may_start(self, weight: float = 1) -> bool:
        """Return whether an attempt may start now."""
        latest = sum(flight.holds == self.holds for flight in self.in_flight)
        if not self.is_over and latest >= (1 + self.successes if self.successes else 1):
            return False
        pace = self.gate._pace  # which test_learning is about
        keeps_pace = pace is None or self.now >= pace.next_start_at
        has_room = len(self.in_flight) < self.options["max_concurrency"]
        is_allowed = keeps_pace and self.keeps_rates() and self.keeps_budgets(weight)
        return has_room and self.now >= self.held_until and is_allowed

    @rule(count=st.integers(1, 5), weight=WEIGHTS)
    def start(self, count: int, weight: float) -> None:
        """An attempt starts if the limits, the hold and the ramp allow it, and only then."""
        for _ in range(count):
            assert self.may_start(weight) is (self.gate.open_at(weight) <= self.now)
            if self.may_start(weight):
                flight = Flight(start(self.gate, self.now, weight), self.holds, self.now, weight)
                self.started.append(flight)
                self.in_flight.append(flight)
                assert flight.permit.is_probe is (not self.is_over and self.successes == 0)
                if flight.permit.is_probe:
                    assert self.probe is None
                    self.probe = flight

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), weight=st.sampled_from([0, 1, 10, 30, 3.5]))
    def correct(self, data: st.DataObject, weight: float) -> None:
        """An attempt turns out to take more, or less: from then on that counts (U4)."""
        flight = data.draw(st.sampled_from(self.in_flight))
        self.gate.weigh(flight.permit, weight)
        flight.weight = weight

    @rule(weight=WEIGHTS, ahead=st.sampled_from([1, 5, 10]))
    def leave_for_others(self, weight: float, ahead: float) -> None:
        """What is left for others that come first is as if they had taken it (U4)."""
        if self.gate.open_at() <= self.now:
            assert self.keeps_budgets(weight + ahead) is (self.gate.open_at(weight, ahead) <= self.now)

    @rule(weight=WEIGHTS)
    def start_at_open_at(self, weight: float) -> None:
        """The time that the gate names is the first at which an attempt may start."""
        opens = self.gate.open_at(weight)
        if opens < math.inf:
            if self.now < opens:
                self.now = math.nextafter(opens, -math.inf)
                assert not self.may_start(weight)
                self.now = opens
            assert self.may_start(weight)
            self.start(1, weight)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), evidence=EVIDENCE, asked=ASKED, sample=SAMPLES)
    def end(self, data: st.DataObject, evidence: Any, asked: float | None, sample: float) -> None:
        """An attempt ends: the service is held if it asks for it, and if the evidence is bad enough."""
        flight = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        self.sample = sample
        is_probe, is_latest = flight is self.probe, flight.holds == self.holds
        self.gate.end(flight.permit, self.now, evidence, asked)
        if is_probe:
            self.probe = None
        fails = is_latest and not is_probe and asked is None and evidence in ("failed", "busy")
        self.failures += fails
        is_held = is_probe and evidence in ("failed", "busy")
        if asked is not None:
            spread = max(0.1 * asked, self.next_hold() / 2)
            self.failed_holds += is_probe
            self.expect_hold(asked, asked + spread)
        elif is_held or (fails and self.failures >= self.options["hold_after"]):
            self.expect_longer_hold()
        elif is_latest and evidence == "worked":
            self.successes += 1
            self.failures = 0
            self.failed_holds *= not is_probe

    def expect_longer_hold(self) -> None:
        """It is held for twice as long as the last time, less up to a half."""
        longest = self.next_hold()
        self.failed_holds += 1
        self.expect_hold(longest / 2, longest)

    def next_hold(self) -> float:
        """Return how long the next hold is at most, if no time is named: twice as long as the last one."""
        return min(self.options["max_hold"], 2.0**self.failed_holds)

    def expect_hold(self, shortest: float, longest: float) -> None:
        """It is held for so long, or for as long as it was already."""
        at_least, until = max(self.held_until, self.now + shortest), self.gate.held_until
        assert at_least <= until <= max(self.held_until, self.now + longest)
        self.note_hold(until)

    def note_hold(self, until: float) -> None:
        """All that was known is from before the hold."""
        self.holds += 1
        self.held_until, self.probe = until, None
        self.successes = self.failures = 0

    @rule(length=st.sampled_from([0.0, 1.0, math.inf]))
    def pause(self, length: float) -> None:
        """Somebody holds it by hand, perhaps for ever."""
        self.gate.hold(self.now + length)
        self.note_hold(self.now + length)

    @rule()
    def resume(self) -> None:
        """Somebody ends the hold by hand."""
        self.gate.release()
        self.held_until = -math.inf

    @rule(step=st.sampled_from([0.25, 0.5, 1.0, 5.0]))
    def advance(self, step: float) -> None:
        """Time goes by."""
        self.now += step

    @invariant()
    def it_says_what_it_does(self) -> None:
        """State, room and number of attempts in flight are those of the trace, and the hold is kept."""
        expected = "open" if self.is_over else "ramping"
        if not self.is_over and not self.successes:
            expected = "probing"
        assert ("held" if self.now < self.held_until else expected) == self.gate.state(self.now)
        assert len(self.in_flight) == self.gate.in_flight <= self.options["max_concurrency"]
        assert self.held_until == self.gate.held_until
        assert self.may_start() is (self.gate.open_at() <= self.now)

    @invariant()
    def it_knows_when_it_remembers_nothing(self) -> None:
        """Then a new one with the same limits would do the same (U7)."""
        if self.gate.is_as_new(self.now):
            assert not self.in_flight
            assert self.is_over
            windows = [window for _, window in (*self.options["rates"], *self.options["budgets"])]
            assert all(flight.at + window <= self.now for flight in self.started for window in windows)


GateMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestGateAgreesWithTheTrace = GateMachine.TestCase


@settings(deadline=None)
@given(OPTIONS, st.lists(st.tuples(EVIDENCE, ASKED, SAMPLES), min_size=1), st.integers(1, 5))
def test_no_call_starves(options: dict[str, Any], endings: list[Any], patience: int) -> None:
    """Who asks at the time that the gate names, and when an attempt ends, starts sooner or later (G1, U5)."""
    sample, now, started, future = 0.0, 0.0, 0, cycle(endings)
    gate = make_gate(**options, random=lambda: sample)
    in_flight: list[Permit] = []
    while started < 100:
        evidence, asked, sample = next(future)
        opens = gate.open_at()
        if opens < math.inf and len(in_flight) < patience:
            now = max(now, opens)
            in_flight.append(start(gate, now))
            started += 1
        else:
            assert in_flight  # else nothing would ever happen again
            gate.end(in_flight.pop(0), now, evidence, asked)


# -- one rule at a time --------------------------------------------------------------------------


def test_max_concurrency_limits_how_many_are_in_flight() -> None:
    """So many start, and one more for each that ends, whatever became of it (U4)."""
    gate = make_gate(max_concurrency=3)
    permits = start_all(gate, 0.0)
    assert (3, 3, math.inf) == (len(permits), gate.in_flight, gate.open_at())
    gate.end(permits[0], 0.0, "none")
    assert (2, 1) == (gate.in_flight, gate.room())
    assert 1 == len(start_all(gate, 0.0))


def test_rate_limits_how_many_start_in_any_window() -> None:
    """The next may start when the window that began with the earliest of the latest starts is over (U4)."""
    gate = make_gate(rates=((2, 10.0),))
    start(gate, 0.0)
    start(gate, 7.0)
    assert 10.0 == gate.open_at()
    start(gate, 10.0)
    assert 17.0 == gate.open_at()


def test_a_slot_can_be_taken_only_while_one_is_free() -> None:
    """Under the lock or not; a window later it is free again, for whoever has the lock (U4)."""
    gate = make_gate(rates=((2, 10.0),))
    assert [0.0, 1.0, None] == [take_slots(gate, now) for now in (0.0, 1.0, 2.0)]
    assert start(gate, 9.0) is None
    assert start(gate, 10.0) is not None
    assert take_slots(gate, 10.5) is None


def test_a_slot_counts_from_when_it_was_taken() -> None:
    """Not from when a thread that was late had looked at the clock: it may have come free since (U4)."""
    gate = make_gate(rates=((2, 10.0),))
    assert [0.0, 0.0] == [take_slots(gate, now) for now in (0.0, 0.0)]
    gate.refill(12.0)
    assert 13.0 == gate.take_slots(12.0, lambda: 13.0)
    assert 14.0 == gate.take_slots(5.0, lambda: 14.0)
    assert 23.0 == gate.open_at()
    start(gate, 23.0)
    assert 24.0 == gate.open_at()


def test_a_slot_that_was_not_used_is_free_at_once() -> None:
    """Whether or not others took theirs later; and never a slot of theirs (U4)."""
    gate = make_gate(rates=((3, 10.0),))
    assert all(take_slots(gate, now) for now in (1.0, 2.0, 3.0))
    gate.return_slots(2.0)
    gate.return_slots(2.0)  # there is none any more
    assert start(gate, 4.0) is not None
    assert 11.0 == gate.open_at()
    assert start(gate, 11.0) is not None
    assert 13.0 == gate.open_at()


def test_slots_of_all_rates_are_taken_or_none() -> None:
    """Where one has none left, those of the others stay free (U4)."""
    gate = make_gate(rates=((3, 10.0), (1, 20.0)))
    assert [0.0, None, None] == [take_slots(gate, now) for now in (0.0, 1.0, 2.0)]
    gate.return_slots(0.0)
    assert 3.0 == take_slots(gate, 3.0)
    assert [1, 1] == [len(rate.starts) for rate in gate._rates]


def test_a_slot_is_never_missing_for_long() -> None:
    """Between its two places, where somebody takes it without the lock, nobody can say when it is free."""
    gate = make_gate(rates=((1, 10.0),))
    gate.refill(0.0)
    gate._rates[0].free.pop()
    assert -math.inf == gate.open_at()
    assert start(gate, 0.0) is None


def test_a_gate_goes_through_its_states() -> None:
    """Open, held, probing, ramping, and open again when the ramp is over (U5)."""
    gate, states = make_gate(max_concurrency=2), []
    end_all(gate, start_all(gate, 0.0), 0.0, "failed")
    states.append(gate.state(0.0))
    assert 1.0 == gate.held_until == gate.open_at()
    states.append(gate.state(1.0))  # a probe is due
    [probe] = start_all(gate, 1.0)
    states.append(gate.state(1.0))
    gate.end(probe, 1.0, "worked")
    states.append(gate.state(1.0))
    [second, _] = start_all(gate, 1.0)
    gate.end(second, 1.0, "worked")
    assert ["held", "probing", "probing", "ramping", "open"] == [*states, gate.state(1.0)]


def test_the_ramp_doubles_with_every_round() -> None:
    """After the probe 2 may be in flight, then 4, 8 and so on, until it is over (U5)."""
    gate, rounds = held_gate(), []
    while gate.state(1.0) != "open":
        permits = start_all(gate, 1.0)
        rounds.append(len(permits))
        end_all(gate, permits, 1.0, "worked")
    assert [1, 2, 4, 8, 16, 32, 64, 128] == rounds


def test_one_at_a_time_needs_no_ramp() -> None:
    """With ``max_concurrency=1`` it is open as soon as the probe got through (U5)."""
    gate = held_gate(max_concurrency=1)
    gate.end(start(gate, 1.0), 1.0, "worked")
    assert "open" == gate.state(1.0)


@pytest.mark.parametrize("evidence", ["failed", "busy"])
def test_failed_probes_make_the_hold_longer_up_to_a_maximum(evidence: Any) -> None:
    """Each hold is twice as long as the one before; after a probe that got through it starts anew (U5)."""
    gate, now, lengths = make_gate(hold_after=1), 0.0, []
    for answer in [evidence] * 5 + ["worked", "failed"]:
        now = max(now, gate.open_at())
        gate.end(start(gate, now), now, "failed" if now == 0.0 else answer)
        lengths.append(gate.held_until - now)
    assert [1.0, 2.0, 4.0, 8.0, 8.0] == lengths[:5]
    assert 1.0 == lengths[6]


def test_a_probe_without_evidence_hands_it_on() -> None:
    """A probe that tells nothing opens nothing and lengthens nothing: the next attempt is the probe (U5)."""
    gate = held_gate()
    [probe] = start_all(gate, 1.0)
    assert math.inf == gate.open_at()
    gate.end(probe, 2.0, "none")
    assert ("probing", 1.0) == (gate.state(2.0), gate.held_until)
    [probe] = start_all(gate, 2.0)
    assert probe.is_probe


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [("failed", "held"), ("busy", "held"), ("none", "open"), ("worked", "open")],
)
def test_failures_in_a_row_hold_it(evidence: Any, expected: str) -> None:
    """A success between two makes them count anew; "not now" without a time counts like a failure (U5)."""
    gate = make_gate()
    for each in ("failed", "worked", "failed", evidence):
        gate.end(start(gate, 0.0), 0.0, each)  # type: ignore[arg-type]  # they are
    assert expected == gate.state(0.0)


@pytest.mark.parametrize("evidence", ["worked", "failed", "busy", "none"])
def test_attempts_from_before_the_hold_tell_nothing(evidence: Any) -> None:
    """What started before neither opens the gate nor lengthens the hold, nor widens the ramp (U5)."""
    gate = make_gate(hold_after=1)
    early = start_all(gate, 0.0, limit=4)
    gate.end(early.pop(), 0.0, "failed")
    end_all(gate, early[:1], 0.5, evidence)
    assert ("held", 1.0) == (gate.state(0.5), gate.held_until)
    [probe] = start_all(gate, 1.0)
    end_all(gate, early[1:2], 1.0, evidence)
    assert "probing" == gate.state(1.0)
    gate.end(probe, 1.0, "worked")
    end_all(gate, early[2:], 1.0, evidence)
    assert ("ramping", 2) == (gate.state(1.0), gate.room())


@pytest.mark.parametrize(("sample", "until"), [(0.0, 60.0), (0.5, 63.0)])
def test_it_is_held_for_as_long_as_asked(sample: float, until: float) -> None:
    """Never sooner, up to a tenth later, for more than ``max_hold`` too; nothing shortens it (U2, U5)."""
    gate = make_gate(random=lambda: sample)
    early = start_all(gate, 0.0, limit=2)
    gate.end(early[0], 0.0, "busy", 60.0)
    assert until == gate.held_until
    gate.end(early[1], 10.0, "busy", 1.0)
    assert until == gate.held_until


def test_short_times_named_again_and_again_spread_more_and_more() -> None:
    """The spread is half of the next hold, where that is more than a tenth of what is asked for (U5)."""
    gate, now, lengths = held_gate(), 1.0, []
    for _ in range(5):
        gate.end(start(gate, now), now, "busy", 0.5)
        lengths.append(gate.held_until - now)
        now = gate.held_until
    assert [1.0, 1.5, 2.5, 4.5, 4.5] == lengths


def test_a_hold_that_is_released_is_followed_by_a_probe() -> None:
    """Whatever made the hold, a probe may go out at once, and no more than that (U5)."""
    gate = make_gate()
    gate.hold(math.inf)
    assert ("held", math.inf) == (gate.state(1e9), gate.open_at())
    gate.release()
    assert [True] == [permit.is_probe for permit in start_all(gate, 0.0)]


def test_a_forked_child_has_nothing_in_flight() -> None:
    """What is in flight, a probe too, is the parent's; that it is held is known to both (F6)."""
    gate = held_gate(max_concurrency=2)
    [probe] = start_all(gate, 1.0)
    gate.forget_flights()
    assert (0, "probing") == (gate.in_flight, gate.state(1.0))
    assert [True] == [permit.is_probe for permit in start_all(gate, 1.0)]
    gate.end(probe, 1.0, "worked")  # by the thread that forked, if it did so in a call
    assert (1, "probing") == (gate.in_flight, gate.state(1.0))
