"""What may start: several rates, budgets, even steps, and several upstreams for one call."""

from __future__ import annotations

import asyncio
import math
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Barrier, Event
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import TIMEOUT
from observe import eventually
from retrying_executor import (
    NotNow,
    PendingLimitError,
    RetryingExecutor,
    RetryPolicy,
    Upstream,
    UpstreamFamily,
    View,
    current_call,
    report_weight,
)
from retrying_executor._upstream.gate import Permit
from retrying_executor._upstream.limits import Budget
from retrying_executor._upstream.places import Places
from retrying_executor._upstream.several import JointPermit, ask_all
from retrying_executor.testing import VirtualTimeExecutor

RATES = st.sampled_from([None, (1, 1.0), (3, 1.0), [(2, 1.0), (5, 7.0)]])
BUDGETS = st.sampled_from([None, (10, 2.0), [(10, 1.0), (25, 10.0)]])


@dataclass
class Limited:
    """An upstream, and what it has seen: when attempts began, and what they weigh."""

    rates: Any
    budgets: Any
    most: int | None
    paced: bool
    upstream: Upstream = field(init=False)
    seen: list[tuple[float, float]] = field(default_factory=list)
    running: int = 0
    peak: int = 0

    def __post_init__(self) -> None:
        """Make it."""
        self.paced &= self.rates is not None
        options: dict[str, Any] = {"rate": self.rates, "budget": self.budgets, "paced": self.paced}
        self.upstream = Upstream("service", max_concurrency=self.most, **options)

    def windows(self) -> list[tuple[float, float, bool]]:
        """Return the limits: how much in how many seconds, and whether that is weighed."""
        limits = []
        for given_as, is_weighed in ((self.rates, False), (self.budgets, True)):
            several = given_as if isinstance(given_as, list) else [given_as] if given_as else []
            limits += [(most, window, is_weighed) for most, window in several]
        return limits

    def check(self) -> None:
        """Never more than any limit, in any window; and in even steps where that is asked for."""
        for most, window, is_weighed in self.windows():
            for first, _ in self.seen:
                inside = [weight for at, weight in self.seen if first <= at < first + window]
                assert (sum(inside) if is_weighed else len(inside)) <= most
        if self.paced:
            count, window, _ = min(self.windows(), key=lambda limit: (limit[2], limit[1]))
            times = sorted(at for at, _ in self.seen)
            assert all(later - earlier >= window / count for earlier, later in pairwise(times))
        assert self.most is None or self.peak <= self.most


LIMITED = st.builds(
    Limited, rates=RATES, budgets=BUDGETS, most=st.sampled_from([None, 1, 2]), paced=st.booleans()
)
CALLS = st.lists(
    st.tuples(
        st.sampled_from([(0,), (1,), (0, 1), (1, 0), (0, 1, 2), (2,)]),  # which upstreams
        st.sampled_from([1, 1, 2, 5, 10]),  # what it weighs
        st.sampled_from([0.0, 0.0, 0.5, 3.0]),  # how long an attempt takes
        st.sampled_from([0.0, 0.0, 1.0]),  # how long after the call before it is submitted
        st.sampled_from([0, 0, 0, 1]),  # how many attempts fail
    ),
    max_size=25,
)


@settings(deadline=None)
@given(st.lists(LIMITED, min_size=3, max_size=3), CALLS)
def test_no_limit_is_ever_exceeded_and_every_call_gets_through(
    services: list[Limited], calls: list[tuple[Any, ...]]
) -> None:
    """Whichever limits calls have in common: in no window of any of them, and nobody starves (U4, G1)."""
    with VirtualTimeExecutor(retry=RetryPolicy(max_attempts=9, max_elapsed=None)) as executor:

        def attempt(mine: list[Limited], weight: float, duration: float, failures: int) -> None:
            for service in mine:
                service.seen.append((executor.monotonic(), weight))
                service.running += 1
                service.peak = max(service.peak, service.running)
            executor.sleep(duration)
            for service in mine:
                service.running -= 1
            call = current_call()
            if call is not None and call.attempt <= failures:
                raise ConnectionError

        futures = []
        for numbers, weight, duration, pause, failures in calls:
            mine = [services[number] for number in numbers]
            upstreams = tuple(service.upstream for service in mine)
            view = executor.with_options(upstream=upstreams, weight=weight)
            futures.append(view.submit(attempt, mine, weight, duration, failures))
            executor.advance(pause)
        assert [None] * len(calls) == [future.result() for future in futures]
    for service in services:
        service.check()
        assert 0 == service.upstream.in_flight


@settings(deadline=None)
@given(LIMITED, LIMITED, st.lists(st.sampled_from(["both", "busy", "free"]), max_size=30))
def test_a_call_that_waits_for_one_upstream_delays_nobody_of_the_other(
    busy: Limited, narrow: Limited, kinds: list[str]
) -> None:
    """A call of the other alone starts when it would start if those that wait were not there (U4)."""
    times = []
    for wanted in ({"both", "busy", "free"}, {"free"}):
        free = Limited(narrow.rates, None, None, paced=False)
        held = Limited(busy.rates, busy.budgets, busy.most, busy.paced)
        with VirtualTimeExecutor() as executor:
            views = {
                "both": executor.with_options(upstream=(held.upstream, free.upstream)),
                "busy": executor.with_options(upstream=held.upstream),
                "free": executor.with_options(upstream=free.upstream),
            }
            held.upstream.pause()
            futures = [(kind, views[kind].submit(executor.monotonic)) for kind in kinds if kind in wanted]
            executor.advance(1000.0)
            times.append([future.result() for kind, future in futures if kind == "free"])
            executor.shutdown(cancel_futures=True)
    assert times[0] == times[1]


# -- one rule at a time --------------------------------------------------------------------------


def starts_of(count: int, *, weight: float = 1, **limits: Any) -> list[float]:
    """Return when so many calls start that are submitted at 0, in virtual time."""
    with VirtualTimeExecutor(upstream=Upstream("service", **limits)) as executor:
        calls = executor.with_options(weight=weight)
        return [future.result() for future in [calls.submit(executor.monotonic) for _ in range(count)]]


def test_all_of_several_rates_hold() -> None:
    """The day's limit is kept while the second's would let more through (U4)."""
    assert [0, 0, 1, 1, 2, 60] == starts_of(6, rate=[(2, 1.0), (5, 60.0)])


def test_a_budget_is_spent_by_weight() -> None:
    """As many start as fit, beside the limit in calls (U4)."""
    assert [0, 0, 60, 60, 120] == starts_of(5, weight=40, budget=(100, 60.0))
    assert [0, 60, 120] == starts_of(3, weight=40, budget=(100, 60.0), rate=(1, 60.0))


def test_paced_starts_come_in_even_steps() -> None:
    """A little longer than the shortest window asks for (U4)."""
    steps = [
        later - earlier for earlier, later in pairwise(starts_of(5, rate=[(90, 60.0), (4, 1.0)], paced=True))
    ]
    assert steps == pytest.approx([1.02 / 4] * 4)


def test_a_weight_may_depend_on_the_arguments() -> None:
    """It is asked in submit(), with what the function will get (U4)."""
    with VirtualTimeExecutor(upstream=Upstream("service", budget=(10, 60.0))) as executor:
        calls = executor.with_options(weight=lambda text, times=1: len(text) * times)
        futures = [calls.submit(lambda _, times=1: executor.monotonic(), "abc", times=n) for n in (1, 2, 3)]
        assert [0, 0, 60] == [future.result() for future in futures]


def test_a_weight_can_be_corrected_by_the_call() -> None:
    """What was estimated too high is free for others at once; what was missing they wait for (U4)."""
    with VirtualTimeExecutor(upstream=Upstream("service", budget=(10, 60.0))) as executor:

        def call(really: float) -> float:
            report_weight(really)
            return executor.monotonic()

        calls = executor.with_options(weight=10)
        assert 0 == calls.submit(call, 4).result()
        assert 0 == calls.with_options(weight=6).submit(call, 16).result()
        assert 60 == calls.with_options(weight=1).submit(call, 1).result()


def test_a_correction_wakes_a_call_that_waits() -> None:
    """It does not wait for the end of the window (U4)."""
    may_correct, may_end = Event(), Event()

    def call() -> None:
        assert may_correct.wait(TIMEOUT)
        report_weight(0)
        assert may_end.wait(TIMEOUT)

    with RetryingExecutor(2, upstream=Upstream("service", budget=(10, 3600.0))) as executor:
        calls = executor.with_options(weight=10)
        first, second = calls.submit(call), calls.submit(int)
        assert eventually(lambda: executor.stats().held)
        may_correct.set()
        assert 0 == second.result(TIMEOUT)
        may_end.set()
        assert first.result(TIMEOUT) is None


def test_a_weight_is_reported_nowhere_in_vain() -> None:
    """Outside of a call, and in one without a budget: functions that do it can be used anywhere (U4)."""
    report_weight(5)
    with RetryingExecutor(1) as executor:
        assert executor.submit(report_weight, 5).result(TIMEOUT) is None
    with RetryingExecutor(1, upstream=Upstream("service")) as executor:
        assert executor.submit(report_weight, 5).result(TIMEOUT) is None


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        ("9", TypeError, "weight must be a number, not '9'"),
        (True, TypeError, "weight must be a number, not True"),
        (-1, ValueError, "weight must be a finite number, 0 or more, not -1"),
        (math.nan, ValueError, "weight must be a finite number, 0 or more, not nan"),
        (None, TypeError, "weight must be a number, not None"),
    ],
)
def test_a_bad_weight_is_refused(weight: Any, error: type[Exception], message: str) -> None:
    """When the view is made, when a callable returns it, and when it is reported (A1, U4)."""
    with RetryingExecutor(1, upstream=Upstream("service", budget=(10, 1.0))) as executor:
        for use in (lambda: executor.with_options(weight=weight), lambda: report_weight(weight)):
            with pytest.raises(error) as caught:
                use()
            assert message == str(caught.value)
        with pytest.raises(error, match=r"^what weight\(...\) returns must be "):
            executor.with_options(weight=lambda: weight).submit(int)
        assert 0 == executor.stats().submitted


def test_a_weight_that_would_never_fit_is_refused() -> None:
    """In submit(), since the call would never start; also where no weight was given (U4)."""
    with RetryingExecutor(1, upstream=Upstream("tokens", budget=[(100, 1.0), (0.5, 9.0)])) as executor:
        for calls, weight in ((executor, 1), (executor.with_options(weight=50), 50)):
            with pytest.raises(ValueError, match=rf"weight must be at most 0.5, .*'tokens'.*: not {weight}$"):
                calls.submit(int)
        assert 0 == executor.with_options(weight=0.5).submit(int).result(TIMEOUT)


def test_a_weight_is_no_coroutine() -> None:
    """Nobody would await it (A1)."""
    with RetryingExecutor(1) as executor, pytest.raises(TypeError, match="weight must not be a coroutine"):
        executor.with_options(weight=asyncio.sleep)  # type: ignore[arg-type]  # that is the mistake


@pytest.mark.parametrize(
    ("upstream", "error", "message"),
    [
        ((), ValueError, r"upstream must have at least one Upstream, or be None, not \(\)"),
        ([], ValueError, r"upstream must have at least one Upstream, or be None, not \[\]"),
        ((Upstream("a"), "b"), TypeError, "upstream must be an Upstream, a tuple of them, or None, not "),
        ((Upstream("a"),) * 2, ValueError, "upstream must have each Upstream once, not "),
    ],
)
def test_bad_combinations_of_upstreams_are_refused(
    upstream: Any, error: type[Exception], message: str
) -> None:
    """By executors and views (A1, U4)."""
    for accept in (RetryingExecutor, RetryingExecutor().with_options, VirtualTimeExecutor):
        with pytest.raises(error, match=message):
            accept(upstream=upstream)


# -- several upstreams for one call ----------------------------------------------------------------


def test_a_call_starts_when_all_its_upstreams_let_it_through() -> None:
    """And takes from all of them (U4)."""
    account, tenant = Upstream("account", rate=(3, 10.0)), Upstream("tenant", rate=(1, 1.0))
    with VirtualTimeExecutor(upstream=(account, tenant)) as executor:
        futures = [executor.submit(executor.monotonic) for _ in range(4)]
        assert [0, 1, 2, 10] == [future.result() for future in futures]


def test_tenants_share_what_the_account_allows() -> None:
    """Each by its own limit: one that has many calls waiting takes nothing from the others (U4)."""
    account, tenants = Upstream("account", rate=(4, 1.0)), UpstreamFamily("tenant", rate=(1, 1.0))
    with VirtualTimeExecutor() as executor:
        greedy = executor.with_options(upstream=(account, tenants["greedy"]))
        futures = [greedy.submit(executor.monotonic) for _ in range(20)]
        others = [
            executor.with_options(upstream=(account, tenants[f"{number}"])).submit(executor.monotonic)
            for number in range(6)
        ]
        assert [float(second) for second in range(20)] == [future.result() for future in futures]
        assert [0, 0, 0, 1, 1, 1] == [future.result() for future in others]


def test_no_pair_of_busy_upstreams_starves() -> None:
    """Each has room at another moment, and is wanted by many calls that need another pair (G1, U4)."""
    accounts = [Upstream(f"account {number}", rate=(1, 1.0)) for number in range(2)]
    regions = [Upstream(f"region {number}", rate=(1, 1.0)) for number in range(2)]
    with VirtualTimeExecutor() as executor:
        started: Counter[tuple[int, int]] = Counter()

        def submit(pair: tuple[int, int]) -> None:
            view = executor.with_options(upstream=(accounts[pair[0]], regions[pair[1]]))
            view.submit(started.update, [pair])

        for pair in [(0, 0), (1, 1)] * 2:
            submit(pair)
            executor.advance(0.5)
        for pair in [(0, 0), (0, 1), (1, 0), (1, 1)] * 200:
            submit(pair)
        executor.advance(200.0)
        executor.shutdown(cancel_futures=True)
    assert 4 == len(started)
    assert min(started.values()) >= 20


def test_a_call_of_two_busy_upstreams_starts() -> None:
    """Though each is always full of calls that do not need the other (G1, U4)."""
    one, other = Upstream("one", max_concurrency=1), Upstream("other", max_concurrency=1)
    with RetryingExecutor(4) as executor:
        views = [executor.with_options(upstream=upstream) for upstream in (one, other)]
        over = Event()

        def work(view: View, seconds: float) -> None:
            over.wait(seconds)
            if not over.is_set():
                view.submit(work, view, seconds)

        for view, seconds in zip(views, (0.011, 0.017), strict=True):
            for _ in range(3):
                view.submit(work, view, seconds)
        try:
            both = executor.with_options(upstream=(one, other)).submit(int)
            assert 0 == both.result(TIMEOUT)
        finally:
            over.set()


def test_a_time_that_the_service_names_holds_the_narrowest() -> None:
    """The others' calls go on; and failures count for all of them (U2, U4, U5)."""
    account, tenant = Upstream("account", hold_after=2), Upstream("tenant")
    with VirtualTimeExecutor(retry=RetryPolicy(max_attempts=1)) as executor:
        both = executor.with_options(upstream=(account, tenant))

        def refuse() -> None:
            if executor.monotonic() < 30:
                raise NotNow(after=30)

        assert both.submit(refuse).result() is None
        assert 30 <= executor.monotonic()
        assert ("open", "ramping") == (account.state, tenant.state)
        errors = [both.submit(fail).exception() for _ in range(2)]
        assert [ConnectionRefusedError] * 2 == [type(error) for error in errors]
        assert "held" == account.state


def test_times_that_the_service_names_hold_none_but_the_narrowest() -> None:
    """However many attempts of one tenant are told to wait, the account is open for the others (U2, U4)."""
    account, tenant, other = Upstream("account", hold_after=2), Upstream("tenant"), Upstream("other")
    with VirtualTimeExecutor(retry=RetryPolicy(jitter=False)) as executor:
        view = executor.with_options(upstream=(account, tenant))

        def refuse() -> None:
            if executor.monotonic() < 30:
                raise NotNow(after=10)

        refused = [view.submit(refuse) for _ in range(10)]
        executor.advance(11)
        assert ("open", "held") == (account.state, tenant.state)
        assert executor.with_options(upstream=(account, other)).submit(executor.monotonic).result() < 12
        assert [None] * 10 == [future.result() for future in refused]


def test_a_time_that_the_service_names_tells_nothing_of_the_wider_ones() -> None:
    """Tenants that are told to wait, one after the other, do not add up to a failure of the account (U4)."""
    account, tenants = Upstream("account", hold_after=2), UpstreamFamily("tenant")
    with VirtualTimeExecutor(retry=RetryPolicy(max_attempts=1)) as executor:

        def refuse() -> None:
            if executor.monotonic() < 30:
                raise NotNow(after=30)

        views = [executor.with_options(upstream=(account, tenants[f"{number}"])) for number in range(5)]
        futures = [view.submit(refuse) for view in views]
        executor.advance(0)
        assert ["open"] + ["held"] * 5 == [account.state, *(tenants[key].state for key in tenants)]
        assert [None] * 5 == [future.result() for future in futures]


def fail() -> None:
    """Fail as a service does that cannot be reached."""
    raise ConnectionRefusedError


def test_any_of_the_upstreams_says_what_counts() -> None:
    """An exception counts for all of them if one of them says that it does (U5)."""
    account, tenant = Upstream("account", hold_after=1, record_exceptions=KeyError), Upstream("tenant")
    with VirtualTimeExecutor(retry=None, upstream=(account, tenant)) as executor:
        assert isinstance(executor.submit({}.__getitem__, 1).exception(), KeyError)
        assert ("held", "open") == (account.state, tenant.state)


def test_one_that_is_held_is_waited_for_and_the_call_gives_up_in_time() -> None:
    """The error names them all (B6, U4)."""
    account, tenant = Upstream("account"), Upstream("tenant")
    with VirtualTimeExecutor(retry=RetryPolicy(max_elapsed=60), upstream=(account, tenant)) as executor:
        account.pause()
        future = executor.submit(int)
        assert "account, tenant" in str(future.exception())
        assert 60 == executor.monotonic()


def test_a_call_gives_up_in_time_while_it_goes_from_one_upstream_to_another() -> None:
    """Its time is not begun anew whenever one that works refuses it, while another is down (B6, U4)."""
    account, tenant = Upstream("account", hold_after=1), Upstream("tenant", rate=(1, 1.0))
    with VirtualTimeExecutor(retry=RetryPolicy(max_elapsed=300)) as executor:
        alone = executor.with_options(upstream=account, max_elapsed=None, max_attempts=None)
        endless = [alone.submit(fail) for _ in range(3)]
        executor.advance(1)
        both = executor.with_options(upstream=(account, tenant)).submit(fail)
        others = [executor.with_options(upstream=tenant).submit(int) for _ in range(1000)]
        assert isinstance(both.exception(), TimeoutError)
        assert 301 == executor.monotonic()
        assert not others[-1].done()
        assert not any(future.done() for future in endless)
        executor.shutdown(cancel_futures=True)


def test_a_call_waits_on_if_what_was_down_has_worked_again() -> None:
    """Also where it waited for another of its upstreams when that happened (B6, U4)."""
    account, tenant = Upstream("account"), Upstream("tenant")
    with VirtualTimeExecutor(retry=RetryPolicy(max_elapsed=60)) as executor:
        view = executor.with_options(upstream=(account, tenant))
        account.pause(10)
        both = view.submit(executor.monotonic)
        aged = executor.with_options(upstream=(account, tenant), max_age=500).submit(int)
        executor.advance(5)
        other = executor.with_options(upstream=tenant, max_elapsed=None).submit(int)
        assert 0 == other.result()
        tenant._places.gate._max_concurrency = 0
        executor.advance(10)  # the account would let them through, the tenant does not
        assert "probing" == account.state
        assert 0 == executor.with_options(upstream=account).submit(int).result()
        executor.advance(385)
        assert not both.done()
        executor.advance(200)
        assert isinstance(aged.exception(), TimeoutError)
        tenant._places.gate._max_concurrency = 1
        tenant.resume()
        assert 600 == both.result()


def test_a_probe_of_one_is_free_for_the_call() -> None:
    """It starts alone, and lets others be the next one if it fails (U5)."""
    account, tenant = Upstream("account"), Upstream("tenant")
    with VirtualTimeExecutor(retry=RetryPolicy(max_attempts=1), upstream=(account, tenant)) as executor:
        account.pause(5)
        failures = [ConnectionRefusedError()]

        def call() -> float:
            if failures:
                raise failures.pop()
            return executor.monotonic()

        futures = [executor.submit(call) for _ in range(3)]
        assert not wait(futures).not_done
        assert all(future.result() > 5 for future in futures)
        assert [1, 1, 2] == sorted(future.attempts for future in futures)
        assert ("open", "ramping") == (tenant.state, account.state)


def test_a_backlog_of_each_upstream_is_kept() -> None:
    """A call counts for all of them, or for none, and its place is free when it is done (U6)."""
    account, tenant = Upstream("account", max_pending=3), Upstream("tenant", max_pending=1)
    account.pause()
    with RetryingExecutor(1) as executor:
        both, alone = (
            executor.with_options(upstream=(account, tenant)),
            executor.with_options(upstream=account),
        )
        first = both.submit(int)
        with pytest.raises(PendingLimitError, match="upstream 'tenant'"):
            both.submit(int)
        others = [alone.submit(int) for _ in range(2)]
        with pytest.raises(PendingLimitError, match="upstream 'account'"):
            alone.submit(int)
        assert first.cancel()
        account.resume()
        assert [0] * 3 == [future.result(TIMEOUT) for future in [*others, both.submit(int)]]


@pytest.mark.parametrize("full", ["account", "tenant", "executor"])
def test_a_submitter_waits_for_room_in_any_of_them(full: str) -> None:
    """Whichever is full, it is woken when there is room there (G5, U6)."""
    account = Upstream("account", max_pending=1 if full == "account" else 9)
    tenant = Upstream("tenant", max_pending=1 if full == "tenant" else 9)
    limit = 1 if full == "executor" else 9
    with (
        RetryingExecutor(1, upstream=(account, tenant), when_full="wait", max_pending=limit) as executor,
        RetryingExecutor(1) as submitters,
    ):
        going = Event()
        futures = [executor.submit(going.wait, TIMEOUT)]
        late = submitters.submit(executor.submit, int)
        assert eventually(lambda: executor._core.entrance._in_line)
        going.set()
        assert [True, 0] == [futures[0].result(TIMEOUT), late.result(TIMEOUT).result(TIMEOUT)]


def test_executors_that_share_two_upstreams_never_block_each_other() -> None:
    """Whichever order they are named in, thousands of calls get through, and never too many at once (U4)."""
    one, other = Upstream("one", max_concurrency=2), Upstream("other", max_concurrency=3)
    running, most, lock = [0, 0], [0, 0], threading.Lock()

    def call(indices: tuple[int, ...]) -> None:
        with lock:
            for index in indices:
                running[index] += 1
                most[index] = max(most[index], running[index])
        with lock:
            for index in indices:
                running[index] -= 1

    everybody = Barrier(3)
    with RetryingExecutor(4) as first, RetryingExecutor(4) as second, RetryingExecutor(3) as submitters:
        routes = {(0, 1): (one, other), (1, 0): (other, one), (0,): one, (1,): other}
        views = [
            (executor.with_options(upstream=up), key)
            for executor in (first, second)
            for key, up in routes.items()
        ]

        def submit_all() -> list[Any]:
            everybody.wait(TIMEOUT)
            return [view.submit(call, key) for _ in range(100) for view, key in views]

        batches = [submitters.submit(submit_all) for _ in range(3)]
        futures = [future for batch in batches for future in batch.result(TIMEOUT)]
        assert not wait(futures, TIMEOUT).not_done
    assert most[0] <= 2
    assert most[1] <= 3
    assert (0, 0) == (one.in_flight, other.in_flight)
    assert ("open", "open") == (one.state, other.state)


# -- cores that share a budget ---------------------------------------------------------------------


class Asker:
    """Stands for a core, which is told that it may ask again."""

    def __init__(self, *, comes: bool = True) -> None:
        self.told: list[float] = []
        self.comes = comes

    def look_again(self, places: Places, opens_at: float) -> bool:
        """Take note of that."""
        self.told.append(opens_at)
        return self.comes


class Clock:
    """A clock that stands still."""

    now = 0.0

    def monotonic(self) -> float:
        """Return what time it is."""
        return self.now


def shared(**limits: Any) -> tuple[Places, Clock, Callable[..., Any]]:
    """Return an upstream on a clock that stands still, and what asks it for a permit."""
    places, clock = Upstream("service", **limits)._places, Clock()
    places.start_afresh(clock)
    return places, clock, places.ask


def test_light_calls_leave_enough_for_a_heavy_one_that_waits_for_longer() -> None:
    """Or it would never start, while another core takes what becomes free (G1, U4)."""
    _, clock, ask = shared(budget=(10, 60.0))
    heavy, light = Asker(), Asker()
    assert isinstance(ask(light, 4), Permit)
    assert 60 == ask(heavy, 8)
    clock.now = 10.0
    assert isinstance(ask(light, 2), Permit)  # that leaves 8 by the time at which the heavy one comes
    assert 60.1 == ask(light, 2)  # that would not
    clock.now = 60.0
    assert 60.1 == ask(light, 1)
    assert isinstance(ask(heavy, 8), Permit)
    assert 70 == ask(light, 1)


def test_nothing_is_left_for_one_that_does_not_come() -> None:
    """It may have no call any more, or nobody who would make it (G1, U4)."""
    _, clock, ask = shared(budget=(10, 60.0))
    heavy, light = Asker(), Asker()
    assert isinstance(ask(light, 4), Permit)
    assert 60 == ask(heavy, 8)
    clock.now = 60.1
    assert isinstance(ask(light, 9), Permit)
    reference = weakref.ref(heavy)
    del heavy
    assert reference() is None


def test_what_is_kept_for_one_that_was_called_is_left_to_it() -> None:
    """Its share of the budget too, until it comes (U4)."""
    places, _, ask = shared(budget=(10, 60.0), max_concurrency=2)
    heavy, light = Asker(), Asker()
    first, second = ask(light, 1), ask(light, 1)
    assert math.inf == ask(heavy, 8)
    first.end("worked")
    assert [0.0] == heavy.told
    second.end("worked")
    assert 0.1 == ask(light, 1)
    assert isinstance(ask(heavy, 8), Permit)
    places.take_back(ask(light, 0))
    assert 1 == places.in_flight


@pytest.mark.parametrize("how", ["cancelled", "set from outside", "too old", "shut down"])
def test_what_is_kept_for_a_call_is_for_others_when_it_waits_no_more(how: str) -> None:
    """They do not wait until it would have come, which may be hours (E1, F2, U4)."""
    upstream = Upstream("service", budget=(10, 3600.0))
    with RetryingExecutor(1, upstream=upstream) as first, RetryingExecutor(1, upstream=upstream) as second:
        assert 0 == second.with_options(weight=5).submit(int).result(TIMEOUT)
        options: dict[str, Any] = {"max_age": 0.5} if how == "too old" else {}
        heavy = first.with_options(weight=8, **options).submit(int)
        assert eventually(lambda: first.stats().held or heavy.done())
        light = second.with_options(weight=3).submit(int)
        if how == "cancelled":
            assert heavy.cancel()
        elif how == "set from outside":
            heavy.set_result(1)
        elif how == "too old":
            assert isinstance(heavy.exception(TIMEOUT), TimeoutError)
        else:
            first.shutdown(cancel_futures=True)
        assert 0 == light.result(TIMEOUT)


def test_a_lighter_call_of_the_same_core_takes_less_from_others() -> None:
    """Once the heavy one is cancelled, which nobody else could have known (E1, U4)."""
    upstream = Upstream("service", budget=(10, 3600.0))
    with RetryingExecutor(1, upstream=upstream) as first, RetryingExecutor(1, upstream=upstream) as second:
        assert 0 == second.with_options(weight=5).submit(int).result(TIMEOUT)
        heavy, lighter = (first.with_options(weight=weight).submit(int) for weight in (8, 6))
        assert eventually(lambda: 2 == first.stats().held)
        light = second.with_options(weight=3).submit(int)
        assert eventually(lambda: second.stats().held)
        assert heavy.cancel()
        assert 0 == light.result(TIMEOUT)
        assert not lighter.done()
        first.shutdown(cancel_futures=True)


def test_a_light_retry_does_not_wait_for_a_heavy_call() -> None:
    """It comes first when it is due, and fits (D2, U4)."""
    policy = RetryPolicy(initial_delay=10, jitter=False, max_elapsed=None)
    with VirtualTimeExecutor(retry=policy, upstream=Upstream("service", budget=(10, 3600.0))) as executor:

        def call() -> float:
            running = current_call()
            if running is not None and running.attempt == 1:
                raise KeyError
            return executor.monotonic()

        light = executor.submit(call)
        assert 0 == executor.with_options(weight=3).submit(int).result()
        heavy = executor.with_options(weight=8).submit(executor.monotonic)
        assert [10, 3600] == [light.result(), heavy.result()]


def test_what_a_budget_leaves_counts_what_is_over_by_then() -> None:
    """With the time, more and more of what was spent (U4)."""
    budget = Budget((10, 60.0))
    for at in (0.0, 10.0, 20.0):
        budget.spend(at, 3)
    assert [1, 4, 7, 10] == [budget.leaves(at) for at in (59.0, 60.0, 75.0, 80.0)]


def test_an_attempt_that_is_not_made_gives_its_weight_back() -> None:
    """At once (U4, E1)."""
    places, _, ask = shared(budget=(10, 60.0))
    places.take_back(ask(Asker(), 10))
    assert isinstance(ask(Asker(), 10), Permit)


def test_one_that_will_be_told_comes_first_too() -> None:
    """It does not know yet when that will be (U4)."""
    places, _, ask = shared(budget=(10, 60.0))
    heavy = Asker()
    places._line()[heavy] = math.inf, 8  # as after an interruption
    assert 0.1 == ask(Asker(), 3)
    assert isinstance(ask(Asker(), 2), Permit)


def test_permits_of_several_are_one() -> None:
    """What is corrected or given back is so for all of them (U4)."""
    one, other = (Upstream(name, budget=(10, 60.0))._places for name in ("one", "other"))
    permit = ask_all((one, other), Asker(), 10)
    assert isinstance(permit, JointPermit)
    assert isinstance(ask_all((one, other), Asker(), 1), tuple)
    permit.weigh(9)
    second = ask_all((other, one), Asker(), 1)
    assert isinstance(second, JointPermit)
    for each in (permit, permit, second):
        each.take_back()
    assert (0, 0) == (one.in_flight, other.in_flight)
    assert isinstance(ask_all((one, other), Asker(), 10), JointPermit)


def test_none_is_taken_while_one_cannot_be_asked() -> None:
    """Another thread has its lock, and may want one that this thread has (U4)."""
    upstreams = tuple(Upstream(name)._places for name in ("one", "other"))
    taken, may_go = Event(), Event()

    def hold() -> None:
        with upstreams[1]._lock:
            taken.set()
            assert may_go.wait(TIMEOUT)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(TIMEOUT)
    assert (upstreams[1], None) == ask_all(upstreams, Asker(), 1)
    may_go.set()
    holder.join(TIMEOUT)
    assert isinstance(ask_all(upstreams, Asker(), 1), JointPermit)
    assert [1, 1] == [places.in_flight for places in upstreams]
