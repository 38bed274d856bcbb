"""Which call is next, and when: the schedule in virtual time, against a sorted list."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from retrying_executor._calls import held as held_module
from retrying_executor._calls import schedule as schedule_module
from retrying_executor._calls.ranking import Ranking
from retrying_executor._calls.schedule import Schedule

DELAYS = st.sampled_from([0.0, 0.0, 1.0, 1.0, 2.0, 5.0])
ROUTES = st.sampled_from([(), (0,), (1,), (0, 1)])


class Item:
    """Stands for a call: of a call the schedule asks ``done()`` and its hash, and that may do anything."""

    def __init__(self) -> None:
        """Start alive."""
        self.gone = False
        self.taken = False
        self._attempts = 1
        self._waits_until = math.inf
        self.hook: Callable[[], object] | None = None
        # What the model knows of it:
        self._terms = SimpleNamespace(places=())
        self.until = self.due_at = self._expires_at = math.inf
        self.number = 0
        self.retried = self.held = False

    @property
    def route(self) -> tuple[Service, ...]:
        """The upstreams that it goes to."""
        return self._terms.places  # type: ignore[no-any-return]  # as it was set

    @route.setter
    def route(self, route: tuple[Service, ...]) -> None:
        self._terms.places = route

    def __hash__(self) -> int:
        """Return that of its identity, after what the hook does."""
        hook, self.hook = self.hook, None
        if hook is not None:
            hook()
        return id(self)

    def __lt__(self, other: Item) -> bool:
        """Return whether the model has it start earlier, among retries and those that are held."""
        return (self.due_at, self.number) < (other.due_at, other.number)

    def _wait_until(self, until: float) -> None:
        """Take note of that, as a call does."""
        self._waits_until = until

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
    """Tell the schedule, make an item done, and tell it again, as the ledger does."""
    gone, retries = schedule.place_of(item, retried=retried)
    item.gone = True
    gone.add(item)
    schedule.clean_up(schedule.held.lane_of.pop(item, None), retries)
    if schedule.is_mostly_gone:
        schedule.compact()


def fill(schedule: Any, count: int, *, retried: bool) -> list[Item]:
    """Add *count* items, retries due at 0 or fresh ones, and return them in their order."""
    items = [Item() for _ in range(count)]
    for item in items:
        if retried:
            schedule.add_retry(item, 0.0)
        else:
            schedule.fresh.append(item)
    return items


def take_all(schedule: Any, now: float = 0.0) -> list[Item]:
    """Take what is ready, in its order."""
    return list(iter(lambda: schedule.take(now, claim), None))


def entries(schedule: Any) -> int:
    """Return how many items, live and gone, the schedule keeps."""
    heaps = [schedule._retries, *(lane.calls for lane in schedule.held._lanes.values())]
    return len(schedule.fresh) + sum(len(heap._entries) for heap in heaps)


# -- against a model -----------------------------------------------------------------------------


class Service:
    """Stands for an upstream: it lets calls through from a certain time on, perhaps one in so many seconds.

    Args:
        period: How long it is closed after each call.
    """

    is_down = False

    def __init__(self, period: float) -> None:
        self.period = period
        self.opens_at = -math.inf
        # What the schedule knows of it, as the model has it: when to ask it again, and for which call.
        self.told = -math.inf
        self.refused: Item | None = None


def claim_of_services(item: Item, now: float) -> Any:
    """Let a call through if all its services do, or say which does not; one that is late needs none."""
    if item.gone:
        return claim(item, now)
    for service in item.route if now < item.until else ():
        if service.opens_at > now:
            return service, service.opens_at, item.until
    for service in item.route:
        service.opens_at = now + service.period if service.period else service.opens_at
    return claim(item, now)


class ScheduleMachine(RuleBasedStateMachine):
    """Whatever happens in whichever order, the schedule agrees with a plain list (D1, D2, E1, U4)."""

    def __init__(self) -> None:
        """Start with an empty schedule at time 0."""
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(held_module, "_MOST_MOVES", math.inf)  # test_limits is about what follows them
        self.schedule: Any = Schedule()
        self.now = 0.0
        self.services = [Service(0.0), Service(1.0)]
        self.items: list[Item] = []  # those that wait, in the order of their coming
        self.at: dict[tuple[Service, ...], Service] = {}  # which of them holds up those that are held
        self.is_settled = False  # nothing has changed since there was no more to take
        self.number = itertools.count()
        self.given_up_at: set[float | None] = set()  # patience of those that do not wait for a service now

    fresh = property(lambda self: [item for item in self.items if not item.retried and not item.held])
    retries = property(lambda self: sorted(i for i in self.items if i.retried and not i.held))
    held = property(lambda self: sorted(item for item in self.items if item.held))

    def new_item(self, route: tuple[int, ...]) -> Item:
        """Return an item that the model knows of."""
        item = Item()
        item.route = tuple(self.services[number] for number in route)
        self.is_settled = False
        item.number = next(self.number)
        self.items.append(item)
        return item

    @rule(count=st.integers(1, 5), route=ROUTES)
    def add(self, count: int, route: tuple[int, ...]) -> None:
        """Fresh calls queue up in the order of their submission (D1)."""
        for _ in range(count):
            self.schedule.fresh.append(self.new_item(route))

    @rule(delay=DELAYS, count=st.integers(1, 3), route=ROUTES, patience=st.sampled_from([math.inf, 1, 6]))
    def add_retry(self, delay: float, count: int, route: tuple[int, ...], patience: float) -> None:
        """Retries queue up in the order of their due times, ties as they came; a gone one may lead (D2)."""
        for _ in range(count):
            due_at = self.now + delay
            is_first = all(due_at < other.due_at for other in self.retries)
            item = self.new_item(route)
            item.due_at, item.retried = due_at, True
            item.until = due_at + patience + 1e-6 * item.number  # no two at once
            answer = self.schedule.add_retry(item, due_at)
            assert answer is (is_first and not self.schedule._retries._entries[0][2].gone)

    def held_up_by(self, service: Service) -> list[Item]:
        """Return the items that a service holds up, in their order."""
        return [item for item in self.held if self.at[item.route] is service]

    def asks_at(self, service: Service) -> float:
        """Return when a service that holds items up is to be asked again."""
        return service.told if self.held_up_by(service)[0] is service.refused else -math.inf

    def refusal(self, item: Item) -> tuple[Service, float] | None:
        """Return which service refuses an item whose turn it is, and when that is to be asked again."""
        for service in reversed(item.route):
            is_its_own = item.held and self.at[item.route] is service
            if not self.held_up_by(service) or is_its_own or self.asks_at(service) <= self.now:
                continue
            if not (item.held or item.retried) or self.held_up_by(service)[0] < item:
                return service, service.told
        return next(((one, one.opens_at) for one in item.route if one.opens_at > self.now), None)

    def next(self) -> Item | None:
        """Return the item whose turn it is: the first whose services allow it; the others are held then."""
        for item in self.held:
            if item.until <= self.now:
                item.held, item.due_at, item.number = False, item.until, next(self.number)
        while True:
            due = [item for item in self.retries if item.due_at <= self.now]
            holding = [service for service in self.services if self.held_up_by(service)]
            asked = [self.held_up_by(one)[0] for one in holding if self.asks_at(one) <= self.now]
            item = next(iter([*sorted([*due, *asked]), *self.fresh]), None)
            refusal = None if item is None or item.until <= self.now else self.refusal(item)
            if item is None or refusal is None:
                for passed in () if item is None or item._waits_until <= self.now else item.route:
                    passed.refused = None
                return item
            service, told = refusal
            if not item.held:
                item.held, item.number = True, next(self.number)
            if item is next(one for one in self.held if one.route == item.route):
                self.at[item.route] = service
            service = self.at[item.route]
            if item is self.held_up_by(service)[0]:
                service.refused, service.told = item, told

    @rule(count=st.integers(1, 5))
    def take(self, count: int) -> None:
        """Due retries and held calls come before fresh ones; who may not start delays nobody (D2, U4)."""
        for _ in range(count):
            expected = self.next()
            assert expected is self.schedule.take(self.now, self.claim)
            if expected is not None:
                self.forget(expected)
            else:
                assert not self.schedule.is_ready(self.now)  # or a thread would look again and again (C3)
            self.is_settled = expected is None

    def claim(self, item: Item, now: float) -> Any:
        """Claim an item as `Turns` does: those that wait for the same upstream come first."""
        for service in reversed(item.route if now < item.until and not item.gone else ()):
            opens_at = self.schedule.may_ask_from(item, service)
            if opens_at > now:
                return service, opens_at, item.until
        return claim_of_services(item, now)

    @precondition(lambda self: self.items)
    @rule(data=st.data(), count=st.integers(1, 3))
    def discard(self, data: st.DataObject, count: int) -> None:
        """A call is cancelled before its first attempt, in backoff, after it, or while it is held (E1)."""
        for _ in range(min(count, len(self.items))):
            item = self.items[data.draw(st.integers(0, len(self.items) - 1))]
            self.forget(item)
            discard(self.schedule, item, retried=item.retried)
            assert item not in self.schedule.held.lane_of
            assert len(self.schedule.fresh) <= 2 * len(self.fresh) or item.retried or item.held

    def forget(self, item: Item) -> None:
        """An item waits no more."""
        self.items.remove(item)
        self.is_settled = False
        self.given_up_at.add(item.until)

    @rule(service=st.integers(0, 1), duration=st.sampled_from([0.5, 2.0, math.inf]))
    def close(self, service: int, duration: float) -> None:
        """A service lets nothing through for a while, perhaps until it says otherwise."""
        one = self.services[service]
        one.opens_at = max(one.opens_at, self.now + duration)

    @rule(service=st.integers(0, 1))
    def open(self, service: int) -> None:
        """A service opens, and says so, as `Pool.look_again` does."""
        one = self.services[service]
        one.opens_at = one.told = self.now
        is_awaited = self.schedule.held.notice(one, self.now, self.now)
        assert is_awaited is bool(self.held_up_by(one))
        self.is_settled = False

    @rule(step=st.sampled_from([0.5, 1.0, 3.0]))
    def advance(self, step: float) -> None:
        """Time goes by."""
        self.now += step

    @invariant()
    def memory_is_proportional_to_live_calls(self) -> None:
        """Of retries and held calls, never more than about twice the live ones are kept (B10, E1)."""
        live = len(self.items) - len(self.fresh)
        kept = entries(self.schedule) - len(self.schedule.fresh)
        assert kept <= 2 * live + 1 + len(self.schedule.held._lanes)

    @invariant()
    def counts_are_right_before_anything_is_dropped(self) -> None:
        """Counting calls drops nothing, and counts live calls only (G4)."""
        due = sum(item.due_at <= self.now for item in self.retries)
        closed = sum(self.at[item.route].told > self.now for item in self.held)
        assert len(self.items) == len(self.schedule)
        assert closed == self.schedule.held.count_closed(self.now)
        assert len(self.held) == len(self.schedule.held.lane_of)
        assert len(self.fresh) + due + len(self.held) - closed == self.schedule.count_ready(self.now)

    @invariant()
    def waiting_calls_are_all_there(self) -> None:
        """Every live call is waiting, the fresh ones first and in order (G1)."""
        waiting = self.schedule.waiting()
        assert self.fresh == waiting[: len(self.fresh)]
        assert set(self.items) == set(waiting)
        assert len(self.items) == len(waiting)

    @rule()
    def look(self) -> None:
        """Readiness and the first due time are those of the live calls (C3)."""
        times = [item.due_at for item in self.retries]
        times += [min(self.at[item.route].told, item.until) for item in self.held]
        first, expected = self.schedule.first_due_at(), min(times, default=None)
        if self.is_settled:
            assert first == expected or (times and first in self.given_up_at)
        else:  # it may have to look first, whether a change makes a difference
            assert first is not None or not times
        is_due = first is not None and first <= self.now
        assert (bool(self.fresh) or is_due) is self.schedule.is_ready(self.now)

    def teardown(self) -> None:
        """In the end every live call is taken, once and in order, and nothing is kept (G1, G2)."""
        self.patch.undo()
        self.advance(100.0)
        for number, service in enumerate(self.services):
            service.period = 0.0
            self.open(number)
        self.take(len(self.items))
        assert [] == self.items == take_all(self.schedule, self.now)
        assert 0 == entries(self.schedule) == len(self.schedule) == len(self.schedule.held._lanes)
        assert self.schedule.first_due_at() is None
        assert not self.schedule.is_ready(self.now)


def test_the_model_gives_up_what_was_held_for_too_long() -> None:
    """Of two calls that one service holds up, one has waited for too long, the other is asked again (U4)."""
    machine = ScheduleMachine()
    machine.close(0, 2.0)
    machine.add_retry(0.0, 1, (0,), 1.0)
    machine.add_retry(0.0, 1, (0,), math.inf)
    machine.take(1)
    machine.close(0, math.inf)
    machine.advance(3.0)
    machine.take(2)
    machine.teardown()


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


def test_taking_the_live_calls_leaves_no_gone_ones_behind() -> None:
    """Gone retries do not stay for longer because the live ones before them were taken (E1, G2)."""
    schedule: Any = Schedule()
    items = fill(schedule, 1000, retried=True)
    for item in items[501:]:
        discard(schedule, item, retried=True)
    for live in range(500, -1, -1):
        assert schedule.take(0.0, claim) is items[500 - live]
        assert entries(schedule) <= 2 * live + 1


def test_gone_fresh_calls_are_dropped_by_who_gets_to_them() -> None:
    """Who takes calls passes over them, however many, and they are kept no longer (E1, G2)."""
    schedule: Any = Schedule()
    items = fill(schedule, 1000, retried=False)
    for item in items[501:]:
        discard(schedule, item, retried=False)
    assert items[:501] == take_all(schedule)
    assert 0 == entries(schedule) == len(schedule)


# -- calls that may not start because of their upstream -------------------------------------------


def fill_lane(schedule: Any, service: Service, count: int, until: float = math.inf) -> list[Item]:
    """Add *count* retries of a service that is closed until 5, have them held, and return them."""
    service.opens_at = 5.0
    items = fill(schedule, count, retried=True)
    for item in items:
        item.route, item.until = (service,), until
    assert schedule.take(0.0, claim_of_services) is None
    assert (0, count) == (schedule.count_ready(0.0), schedule.held.count_closed(0.0))
    return items


def test_a_lane_that_is_closed_stops_nobody_else() -> None:
    """Calls that are held come before fresh ones once their lane opens, in the order of D2 (D2, U4)."""
    schedule: Any = Schedule()
    service = Service(0.0)
    service.opens_at = 5.0
    early, other, held, late = Item(), Item(), Item(), Item()
    early.route = held.route = late.route = (service,)
    schedule.fresh.append(early)
    schedule.fresh.append(other)
    schedule.add_retry(late, 2.0)
    schedule.add_retry(held, 1.0)
    assert other is schedule.take(3.0, claim_of_services)
    assert schedule.take(3.0, claim_of_services) is None
    assert (3, 5.0) == (len(schedule.held.lane_of), schedule.first_due_at())
    [newer] = fill(schedule, 1, retried=False)
    taken = iter(lambda: schedule.take(5.0, claim_of_services), None)
    assert [held, late, early, newer] == list(taken)
    assert not schedule.held.is_awaited(service)


def test_a_held_call_that_is_cancelled_is_gone() -> None:
    """Its place in the lane goes with it, and the lane with the last of them (E1, U4)."""
    schedule: Any = Schedule()
    service = Service(0.0)
    items = fill_lane(schedule, service, 3)
    for left, item in ((2, items[1]), (1, items[0]), (0, items[2])):
        discard(schedule, item, retried=True)
        assert left == len(schedule) == len(schedule.held.lane_of)
        assert entries(schedule) <= 2 * left
    assert not schedule.held.is_awaited(service)
    assert schedule.first_due_at() is None
    assert [] == schedule.waiting()


def test_a_call_that_has_been_held_for_too_long_is_offered_again() -> None:
    """When its patience is over it comes at once, although its lane is closed; the others stay (B6, U4)."""
    schedule: Any = Schedule()
    service = Service(0.0)
    patient, gone = fill_lane(schedule, service, 1)[0], Item()
    hasty = Item()
    hasty.route = gone.route = (service,)
    hasty.until, gone.until = 3.0, 2.0
    schedule.add_retry(hasty, 0.0)
    schedule.add_retry(gone, 0.0)
    assert schedule.take(0.0, claim_of_services) is None
    discard(schedule, gone, retried=True)
    assert schedule.take(2.5, claim_of_services) is None
    assert 3.0 == schedule.first_due_at()
    assert schedule.is_ready(3.0)
    assert hasty is schedule.take(3.5, claim_of_services)
    assert [patient] == schedule.waiting()
    assert (1, 5.0) == (len(schedule.held.lane_of), schedule.first_due_at())


def test_a_call_is_offered_again_at_the_very_end_of_its_patience() -> None:
    """There is something to do when the schedule says so, not only when the clock has moved on (C3, G1)."""
    schedule: Any = Schedule()
    item = fill_lane(schedule, Service(0.0), 1, until=3.0)[0]
    offered = itertools.count(1)

    def refuse(one: Item, now: float) -> Any:
        assert next(offered) < 10
        return now >= one.until or (one.route[0], 5.0, one.until)

    assert schedule.take(math.nextafter(3.0, 0.0), refuse) is None
    assert [item] == schedule.waiting()
    assert 3.0 == schedule.first_due_at()
    assert item is schedule.take(3.0, refuse)


def test_a_call_that_gives_up_comes_before_a_fresh_one_whose_lane_opens() -> None:
    """It is a retry that is due, also where its patience is over when its lane opens (D2, U4)."""
    schedule: Any = Schedule()
    service = Service(0.0)
    [hasty] = fill_lane(schedule, service, 1, until=3.0)
    [fresh] = fill(schedule, 1, retried=False)
    fresh.route = (service,)
    assert schedule.take(0.0, claim_of_services) is None
    taken = iter(lambda: schedule.take(6.0, claim_of_services), None)
    assert [hasty, fresh] == list(taken)


def test_nothing_is_kept_of_held_calls_that_are_done() -> None:
    """However patient the calls were, cancelled ones do not stay while others are held (E1, G2, U4)."""
    schedule: Any = Schedule()
    service = Service(0.0)
    items = fill_lane(schedule, service, 100, until=3600.0)
    for item in items[1:]:
        discard(schedule, item, retried=True)
    assert entries(schedule) <= 3


def test_a_ranking_loses_nothing_when_a_destructor_looks_into_it() -> None:
    """Each item stays, whoever drops an entry that is out of date (F7, G1)."""
    ranking: Ranking[Item] = Ranking()
    items = [Item(), Item(), Item()]
    for key, item in enumerate(items):
        ranking.put(item, key)
    ranking.put(items[0], 9.0)  # its former entry is the first
    items[0].hook = ranking.first
    assert ((1,), items[1]) == ranking.first()
    for item in (items[1], items[2]):
        assert item is ranking.first()[1]  # type: ignore[index]  # there is one
        ranking.drop(item)
    assert ((9.0,), items[0]) == ranking.first()
    assert items[:1] == ranking.items()


class Counting(Item):
    """An item that counts how often it is asked until when it may wait."""

    looks = 0

    @property
    def _waits_until(self) -> float:
        Counting.looks += 1
        return self.__dict__["until"]  # type: ignore[no-any-return]  # as it was set

    @_waits_until.setter
    def _waits_until(self, until: float) -> None:
        self.__dict__["until"] = until


def test_calls_that_give_up_one_by_one_do_not_look_at_all_others() -> None:
    """Where very many are held, and each has waited for too long at another time (B6, U4)."""
    schedule: Any = Schedule()
    service = Service(0.0)
    service.opens_at = math.inf
    items = [Counting() for _ in range(1000)]
    for number, item in enumerate(items):
        item.route = (service,)
        item.until = 1.0 + number
        schedule.add_retry(item, 0.0)
    assert schedule.take(0.0, claim_of_services) is None
    Counting.looks = 0
    assert items == [schedule.take(1.0 + number, claim_of_services) for number in range(1000)]
    assert Counting.looks < 10 * len(items)
    assert 0 == entries(schedule) == len(schedule.held._lanes) == len(schedule.held._deadlines._heap)


def test_deadlines_of_calls_that_have_left_are_forgotten() -> None:
    """So a lane that never empties takes no more memory than its calls (G2, U4)."""
    schedule: Any = Schedule()
    service = Service(0.0)
    fill_lane(schedule, service, 1)
    for number in range(100):
        service.opens_at = math.inf
        [item] = fill(schedule, 1, retried=False)
        item.route, item.until = (service,), 3600.0 + number
        assert schedule.take(0.0, claim_of_services) is None
        discard(schedule, item, retried=True)
        del item
        [lane] = schedule.held._lanes.values()
        assert len(lane._deadlines) <= 12
    assert schedule.take(9000.0, claim_of_services) is None
    assert math.inf == lane.gives_up_at


def test_a_lane_goes_with_its_last_call_wherever_it_stands() -> None:
    """Although its upstream refuses another lane, perhaps for ever: each is of another tenant (G2, U4)."""
    schedule: Any = Schedule()
    account = Service(0.0)
    fill_lane(schedule, account, 1)
    account.opens_at = math.inf
    for _ in range(100):
        [item] = fill(schedule, 1, retried=False)
        item.route = (account, Service(0.0))
        assert schedule.take(0.0, claim_of_services) is None
        discard(schedule, item, retried=True)
    assert (1, 1, 1) == (len(schedule.held._lanes), len(schedule.held._barriers), len(schedule))
    assert len(schedule.held._barriers[account].lanes._heap) <= 10


def test_a_call_that_comes_first_is_not_refused_on_behalf_of_another() -> None:
    """The upstream is asked for it: it may weigh less than the one that was refused (D2, U4)."""
    schedule: Any = Schedule()
    service = Service(0.0)
    [heavy, light] = fill(schedule, 2, retried=False)
    heavy.route = light.route = (service,)
    schedule.fresh.pop()

    def claim_by_weight(item: Item, now: float) -> Any:
        assert schedule.may_ask_from(item, service) <= now
        return (service, 9.0, math.inf) if item is heavy and now < 9 else claim(item, now)

    assert schedule.take(0.0, claim_by_weight) is None
    schedule.add_retry(light, 1.0)
    assert light is schedule.take(1.0, claim_by_weight)
    assert -math.inf == schedule.first_due_at()  # that one has taken the place of the heavy one in the line
    assert schedule.take(1.0, claim_by_weight) is None
    assert 9.0 == schedule.first_due_at()
    assert heavy is schedule.take(9.0, claim_by_weight)


def test_what_is_kept_for_a_call_that_waits_no_more_is_renounced() -> None:
    """By that for which the upstream was asked, not by those behind it (E1, U4)."""
    schedule: Any = Schedule()
    service = Service(0.0)
    first, second, third = fill_lane(schedule, service, 3, until=3.0)
    discard(schedule, second, retried=True)
    assert [] == schedule.held.renounce(are_all=False)
    discard(schedule, first, retried=True)
    assert [service] == schedule.held.renounce(are_all=False)
    assert [] == schedule.held.renounce(are_all=False)
    assert [service] == schedule.held.renounce(are_all=True)
    assert schedule.take(0.0, claim_of_services) is None
    assert third is schedule.take(3.0, claim_of_services)
    assert [service] == schedule.held.renounce(are_all=False)


# -- interruptions: a destructor adds, or a signal handler raises, in the middle ------------------

OPERATIONS: dict[str, Callable[[Any], Item | None]] = {
    "take": lambda schedule: schedule.take(0.0, claim),
    "count_ready": lambda schedule: schedule.count_ready(0.0) and None,
    "first_due_at": lambda schedule: schedule.first_due_at() and None,
    "waiting": lambda schedule: schedule.waiting() and None,
    "discard": lambda schedule: discard(schedule, schedule._retries._entries[-1][2], retried=True),
}


def interrupt_and_check(operation: str, hooked: int) -> bool:
    """Run an operation, add a call when a certain item is asked, and check what is left.

    Returns:
        Whether that item was asked.
    """
    schedule: Any = Schedule()
    fresh, retries = fill(schedule, 3, retried=False), fill(schedule, 3, retried=True)
    discard(schedule, fresh[1], retried=False)  # a minority: it stays, and the others are asked
    discard(schedule, retries[1], retried=True)
    added: list[Item] = []

    def interrupt() -> None:
        fresh[hooked].hook = retries[hooked].hook = None
        added.append(Item())
        schedule.fresh.append(added[0])

    fresh[hooked].hook = retries[hooked].hook = interrupt
    taken = OPERATIONS[operation](schedule)
    fresh[hooked].hook = retries[hooked].hook = None

    live = [item for item in (*retries, *fresh, *added) if not item.gone and item is not taken]
    assert len(live) == len(schedule) == schedule.count_ready(0.0)
    assert live == take_all(schedule)
    assert 0 == len(schedule) == entries(schedule)
    return bool(added)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_destructor_may_queue_a_call_in_the_middle(operation: str) -> None:
    """Whichever method it interrupts, all other calls stay, in their order (F7, G1)."""
    assert sum(interrupt_and_check(operation, hooked) for hooked in range(3))


@pytest.mark.parametrize("hooked", range(2))
def test_an_exception_in_the_middle_loses_nothing(hooked: int) -> None:
    """A signal handler that raises while gone calls are dropped makes no other call disappear (G1)."""
    schedule: Any = Schedule()
    items = fill(schedule, 3, retried=True)
    discard(schedule, items[1], retried=True)

    def interrupt() -> None:
        raise KeyboardInterrupt

    items[hooked].hook = interrupt
    with pytest.raises(KeyboardInterrupt):
        discard(schedule, items[2], retried=True)
    assert 1 == len(schedule)
    assert items[:1] == take_all(schedule)
    assert 0 == len(schedule) == entries(schedule)


@pytest.mark.parametrize("is_held", [False, True], ids=["in backoff", "held"])
def test_a_call_that_an_interruption_has_left_in_the_heap_is_passed_over(*, is_held: bool) -> None:
    """It was taken, and a signal handler raised before it was out of there (F9)."""
    schedule: Any = Schedule()
    items = fill_lane(schedule, Service(0.0), 2) if is_held else fill(schedule, 2, retried=True)
    items[0].gone = True
    assert [items[1]] == take_all(schedule, 5.0)
    assert 0 == entries(schedule)


def test_a_lane_whose_last_call_an_interruption_has_left_there_is_empty() -> None:
    """It holds up nobody (F9)."""
    schedule: Any = Schedule()
    [item] = fill_lane(schedule, Service(0.0), 1)
    item.gone = True
    assert [] == take_all(schedule, 5.0)
    assert 0 == entries(schedule)


def test_a_lane_that_an_interruption_has_left_without_calls_is_empty() -> None:
    """A signal handler raised when its last call was done, before the lane was dropped (F9)."""
    schedule: Any = Schedule()
    service = Service(0.0)
    [item] = fill_lane(schedule, service, 1)
    gone, retries = schedule.place_of(item, retried=True)
    item.gone = True
    gone.add(item)
    del schedule.held.lane_of[item]
    retries.drop_gone()
    assert schedule.next_due_at() is None
    assert not schedule.held.is_awaited(service)
    assert 0 == len(schedule.held._lanes) == len(schedule.held._barriers)


def test_so_many_calls_are_put_in_a_lane_that_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """While others queue calls without a lock, the one that finds them held gives its own back (C4, U4)."""
    monkeypatch.setattr(schedule_module, "_MOST_DEFERRED", 10)
    schedule: Any = Schedule()
    service = Service(0.0)
    service.opens_at = 5.0
    items = fill(schedule, 25, retried=False)
    for item in items:
        item.route = (service,)
    for left in (15, 5, 0):
        assert schedule.take(0.0, claim_of_services) is None
        assert left == schedule.count_fresh()
    assert items == list(iter(lambda: schedule.take(5.0, claim_of_services), None))


@pytest.mark.parametrize("retried", [False, True], ids=["fresh", "retries"])
def test_an_exception_while_a_call_is_claimed_loses_nothing(*, retried: bool) -> None:
    """Where memory runs out while a call begins, say, the call is still there (G1)."""
    schedule: Any = Schedule()
    items = fill(schedule, 2, retried=retried)

    def fail(item: Item, now: float) -> NoReturn:
        raise MemoryError

    with pytest.raises(MemoryError):
        schedule.take(0.0, fail)
    assert 2 == len(schedule)
    assert items == take_all(schedule)
