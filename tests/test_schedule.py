"""Which call is next, and when: the schedule in virtual time, against a sorted list."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from retrying_executor._schedule import Schedule

DELAYS = st.sampled_from([0.0, 0.0, 1.0, 1.0, 2.0, 5.0])


class Item:
    """Stands for a call: of a call the schedule asks ``done()`` only, and that may do anything."""

    def __init__(self) -> None:
        """Start alive."""
        self.gone = False
        self.taken = False
        self._lane = None
        self.hook: Callable[[], object] | None = None

    def done(self) -> bool:
        """Return whether the item is gone, after what the hook does."""
        hook, self.hook = self.hook, None
        if hook is not None:
            hook()
        return self.gone


def claim(item: Item, now: float) -> bool:
    """Let an item that is not gone be taken."""
    item.taken = not item.done()
    return item.taken


def discard(schedule: Any, item: Item, *, retried: bool) -> None:
    """Make an item done and then tell the schedule, as the pool does."""
    item.gone = True
    schedule.discard(item, retried=retried)


def fill(schedule: Any, count: int, *, retried: bool) -> list[Item]:
    """Add *count* items, retries due at 0 or fresh ones, and return them in their order."""
    items = [Item() for _ in range(count)]
    for item in items:
        if retried:
            schedule.add_retry(item, 0.0)
        else:
            schedule.add(item)
    return items


def take_all(schedule: Any, now: float = 0.0) -> list[Item]:
    """Take what is ready, in its order."""
    return list(iter(lambda: schedule.take(now, claim), None))


def entries(schedule: Any) -> int:
    """Return how many items, live and gone, the schedule keeps."""
    return len(schedule._fresh) + len(schedule._retries)


# -- against a model -----------------------------------------------------------------------------


class ScheduleMachine(RuleBasedStateMachine):
    """Whatever happens in whichever order, the schedule agrees with two plain lists (D1, D2, E1)."""

    def __init__(self) -> None:
        """Start with an empty schedule at time 0."""
        super().__init__()
        self.schedule: Any = Schedule()
        self.now = 0.0
        self.fresh: list[Item] = []
        self.retries: list[tuple[float, Item]] = []  # ties stay in the order of their coming

    @rule(count=st.integers(1, 5))
    def add(self, count: int) -> None:
        """Fresh calls queue up in the order of their submission (D1)."""
        for _ in range(count):
            item = Item()
            self.schedule.add(item)
            self.fresh.append(item)

    @rule(delay=DELAYS, count=st.integers(1, 3))
    def add_retry(self, delay: float, count: int) -> None:
        """Retries queue up in the order of their due times, ties as they came; a gone one may lead (D2)."""
        for _ in range(count):
            item, due_at = Item(), self.now + delay
            is_first = all(due_at < other for other, _ in self.retries)
            self.retries.append((due_at, item))
            self.retries.sort(key=lambda entry: entry[0])
            answer = self.schedule.add_retry(item, due_at)
            assert answer is (is_first and not self.schedule._retries[0][2].gone)

    @rule(count=st.integers(1, 5))
    def take(self, count: int) -> None:
        """Due retries come before fresh calls (D2)."""
        for _ in range(count):
            expected = None
            if self.retries and self.retries[0][0] <= self.now:
                expected = self.retries.pop(0)[1]
            elif self.fresh:
                expected = self.fresh.pop(0)
            assert expected is self.schedule.take(self.now, claim)

    @precondition(lambda self: self.fresh)
    @rule(data=st.data(), count=st.integers(1, 3))
    def discard_fresh(self, data: st.DataObject, count: int) -> None:
        """A call is cancelled before its first attempt (E1)."""
        for _ in range(min(count, len(self.fresh))):
            item = self.fresh.pop(data.draw(st.integers(0, len(self.fresh) - 1)))
            discard(self.schedule, item, retried=False)

    @precondition(lambda self: self.retries)
    @rule(data=st.data(), count=st.integers(1, 3))
    def discard_retry(self, data: st.DataObject, count: int) -> None:
        """A call is cancelled in backoff, or after it (E1)."""
        for _ in range(min(count, len(self.retries))):
            _, item = self.retries.pop(data.draw(st.integers(0, len(self.retries) - 1)))
            discard(self.schedule, item, retried=True)

    @rule(step=st.sampled_from([0.5, 1.0, 3.0]))
    def advance(self, step: float) -> None:
        """Time goes by."""
        self.now += step

    @invariant()
    def memory_is_proportional_to_live_calls(self) -> None:
        """Entries kept are never more than about twice the live ones (B10, E1)."""
        assert entries(self.schedule) <= 2 * (len(self.fresh) + len(self.retries)) + 1

    @invariant()
    def counts_are_right_before_anything_is_dropped(self) -> None:
        """Counting calls drops nothing, and counts live calls only (G4)."""
        due = sum(due_at <= self.now for due_at, _ in self.retries)
        assert len(self.fresh) + len(self.retries) == len(self.schedule)
        assert len(self.fresh) + due == self.schedule.count_ready(self.now)

    @invariant()
    def waiting_calls_are_all_there(self) -> None:
        """Every live call is waiting, the fresh ones first and in order (G1)."""
        waiting = self.schedule.waiting()
        assert self.fresh == waiting[: len(self.fresh)]
        assert {item for _, item in self.retries} == set(waiting[len(self.fresh) :])
        assert len(self.fresh) + len(self.retries) == len(waiting)

    @rule()
    def look(self) -> None:
        """Readiness and the first due time are those of the live calls (C3)."""
        due = bool(self.retries) and self.retries[0][0] <= self.now
        assert (bool(self.fresh) or due) is self.schedule.is_ready(self.now)
        assert (self.retries[0][0] if self.retries else None) == self.schedule.first_due_at()

    def teardown(self) -> None:
        """In the end every live call is taken, once and in order, and nothing is kept (G1, G2)."""
        expected = [item for _, item in self.retries] + self.fresh
        assert expected == take_all(self.schedule, self.now + 100)
        assert 0 == entries(self.schedule) == len(self.schedule)
        assert self.schedule.first_due_at() is None
        assert not self.schedule.is_ready(self.now + 100)


ScheduleMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestScheduleAgreesWithAModel = ScheduleMachine.TestCase


# -- one rule at a time --------------------------------------------------------------------------


def test_an_empty_schedule_has_nothing() -> None:
    """Without calls there is nothing to take and nothing to wait for (C3)."""
    schedule = Schedule()
    assert 0 == len(schedule) == schedule.count_ready(0.0)
    assert schedule.take(0.0, claim) is None
    assert schedule.first_due_at() is None
    assert not schedule.is_ready(0.0)
    assert [] == schedule.waiting()


def test_a_due_retry_comes_before_fresh_calls() -> None:
    """The oldest work first: a due retry, then fresh calls; a retry in backoff waits (D2)."""
    schedule: Any = Schedule()
    [fresh] = fill(schedule, 1, retried=False)
    early, late = Item(), Item()
    assert schedule.add_retry(late, 2.0)
    assert schedule.add_retry(early, 1.0)
    assert [early, fresh] == take_all(schedule, 1.0)
    assert 2.0 == schedule.first_due_at()
    assert [late] == take_all(schedule, 2.0)


def test_a_retry_due_at_the_same_time_is_not_the_first() -> None:
    """Ties start in the order in which they were scheduled (D2)."""
    schedule: Any = Schedule()
    items = [Item() for _ in range(20)]
    assert [True] + [False] * 19 == [schedule.add_retry(item, 1.0) for item in items]
    assert items == take_all(schedule, 1.0)


@pytest.mark.parametrize("retried", [False, True], ids=["fresh", "retries"])
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_cancelling_everything_keeps_nothing(*, retried: bool, backwards: bool) -> None:
    """While calls are cancelled one by one, memory shrinks along with the live ones (E1, G2)."""
    schedule: Any = Schedule()
    items = fill(schedule, 1000, retried=retried)
    while items:
        discard(schedule, items.pop(-1 if backwards else 0), retried=retried)
        assert len(items) == len(schedule)
        assert entries(schedule) <= 2 * len(items) + 1
    assert 0 == entries(schedule)


@pytest.mark.parametrize("retried", [False, True], ids=["fresh", "retries"])
def test_taking_the_live_calls_leaves_no_gone_ones_behind(*, retried: bool) -> None:
    """Gone calls do not stay for longer because the live ones before them were taken (E1, G2)."""
    schedule: Any = Schedule()
    items = fill(schedule, 1000, retried=retried)
    for item in items[501:]:
        discard(schedule, item, retried=retried)
    for live in range(500, -1, -1):
        assert schedule.take(0.0, claim) is items[500 - live]
        assert entries(schedule) <= 2 * live + 1


# -- interruptions: a destructor or a signal handler adds or discards in the middle ---------------

OPERATIONS: dict[str, Callable[[Any], Item | None]] = {
    "take": lambda schedule: schedule.take(0.0, claim),
    "is_ready": lambda schedule: schedule.is_ready(0.0) and None,
    "count_ready": lambda schedule: schedule.count_ready(0.0) and None,
    "first_due_at": lambda schedule: schedule.first_due_at() and None,
    "waiting": lambda schedule: schedule.waiting() and None,
}
INTERRUPTIONS = ["add", "discard a fresh call", "discard a retry"]


def interrupt_and_check(operation: str, interruption: str, hooked: int, victim: int) -> bool:
    """Run an operation, interrupt it when a certain item is asked, and check what is left.

    Returns:
        Whether that item was asked.
    """
    schedule: Any = Schedule()
    fresh, retries = fill(schedule, 3, retried=False), fill(schedule, 3, retried=True)
    discard(schedule, fresh[1], retried=False)  # a minority: it stays, and the others are asked
    discard(schedule, retries[1], retried=True)
    added: list[Item] = []
    is_interrupted, taken = False, None

    def interrupt() -> None:
        nonlocal is_interrupted
        is_interrupted = True
        fresh[hooked].hook = retries[hooked].hook = None
        if interruption == "add":
            added.append(Item())
            schedule.add(added[0])
        elif not ((item := (fresh, retries)["retry" in interruption][victim]).gone or item.taken):
            discard(schedule, item, retried="retry" in interruption)

    fresh[hooked].hook = retries[hooked].hook = interrupt
    if operation in OPERATIONS:
        taken = OPERATIONS[operation](schedule)
    else:
        discard(schedule, (fresh, retries)["retry" in operation][2], retried="retry" in operation)
    fresh[hooked].hook = retries[hooked].hook = None

    live = [item for item in (*retries, *fresh, *added) if not item.gone and item is not taken]
    assert len(live) == len(schedule) == schedule.count_ready(0.0)
    assert live == take_all(schedule)
    assert 0 == len(schedule) == entries(schedule)
    return is_interrupted


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
@pytest.mark.parametrize("operation", [*OPERATIONS, "discard a fresh call", "discard a retry"])
def test_an_interruption_loses_nothing(operation: str, interruption: str) -> None:
    """Whatever is added or discarded in the middle of a method, all other calls stay, in order (F7, G1)."""
    places = itertools.product(range(3), range(3))
    assert sum(interrupt_and_check(operation, interruption, *place) for place in places)


@pytest.mark.parametrize("retried", [False, True], ids=["fresh", "retries"])
def test_a_call_that_goes_while_it_is_claimed_is_passed_over(*, retried: bool) -> None:
    """Whoever cancels the call whose turn it is, at that very moment, does not lose the next one (F7, G1)."""
    schedule: Any = Schedule()
    items = fill(schedule, 2, retried=retried)

    def claim(item: Item, _: float) -> bool:
        if item is items[0]:
            discard(schedule, item, retried=retried)
        return not item.gone

    assert items[1] is schedule.take(0.0, claim)
    assert 0 == len(schedule) == entries(schedule)


@pytest.mark.parametrize("retried", [False, True], ids=["fresh", "retries"])
@pytest.mark.parametrize("hooked", range(3))
def test_an_exception_in_the_middle_loses_nothing(*, retried: bool, hooked: int) -> None:
    """A signal handler that raises while gone calls are dropped makes no other call disappear (G1)."""
    schedule: Any = Schedule()
    items = fill(schedule, 3, retried=retried)
    discard(schedule, items[1], retried=retried)

    def interrupt() -> None:
        raise KeyboardInterrupt

    items[hooked].hook = interrupt
    with pytest.raises(KeyboardInterrupt):
        discard(schedule, items[2], retried=retried)
    assert 1 == len(schedule)
    assert items[:1] == take_all(schedule)
    assert 0 == len(schedule) == entries(schedule)
