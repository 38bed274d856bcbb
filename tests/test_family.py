"""Upstreams that are made on demand: one gate for each key, for as long as that makes a difference."""

from __future__ import annotations

import gc
import inspect
import threading
from collections.abc import Callable
from enum import Enum
from threading import Barrier, Event
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import TIMEOUT
from forks import in_child
from retrying_executor import (
    NotNow,
    RetryingExecutor,
    RetryingFuture,
    RetryPolicy,
    Upstream,
    UpstreamFamily,
)
from retrying_executor._upstream import family as family_module
from retrying_executor._upstream.gate import Permit
from retrying_executor._upstream.places import Places
from retrying_executor.testing import VirtualTimeExecutor

KEYS = ["a.example.org", "b.example.org"]


class Host(str, Enum):
    """Keys that are text, and more than that."""

    A = "a.example.org"


def use(executor: RetryingExecutor, hosts: UpstreamFamily, key: str, call: Callable[[], Any]) -> Any:
    """Submit a call, as programs do."""
    return executor.with_options(upstream=hosts[key]).submit(call)


def fail() -> None:
    """Fail as a service does that is down."""
    raise ConnectionRefusedError


# -- one for each key ----------------------------------------------------------------------------


def test_one_key_has_one_upstream_with_the_options_of_the_family() -> None:
    """It is named after both, and has limits of its own (U7)."""
    hosts = UpstreamFamily("webhooks", max_concurrency=2, rate=(10, 1.0), max_pending=100)
    one, other = hosts["a.example.org"], hosts["b.example.org"]
    assert hosts["a.example.org"] is one is not other
    assert ("webhooks", "webhooks[a.example.org]") == (hosts.name, one.name)
    limits = "max_concurrency=2, rate=(10, 1.0), max_pending=100"
    assert f"<Upstream 'webhooks[a.example.org]', {limits} state=open>" == repr(one)
    assert f"<UpstreamFamily 'webhooks', {limits} known=2>" == repr(hosts)
    one.pause()
    assert ("held", "open") == (one.state, other.state)


def test_a_family_takes_the_options_of_an_upstream() -> None:
    """The same ones, with the same defaults (U7)."""
    own = {name: one for name, one in inspect.signature(Upstream).parameters.items() if name != "max_pending"}
    assert inspect.signature(UpstreamFamily).parameters.keys() >= own.keys()
    assert str(inspect.signature(Upstream)) == str(inspect.signature(UpstreamFamily))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"rate": 10}, TypeError),
        ({"rate": (0, 1.0)}, ValueError),
        ({"max_concurrency": 0}, ValueError),
        ({"max_pending": "all"}, TypeError),
        ({"max_hold": 0.5}, ValueError),
        ({"max_concurency": 2}, TypeError),
    ],
)
def test_bad_options_are_refused_when_the_family_is_made(
    options: dict[str, Any], error: type[Exception]
) -> None:
    """Not when the first upstream is, which may be much later (U7)."""
    (name,) = options
    with pytest.raises(error, match=name):
        UpstreamFamily("webhooks", **options)


@pytest.mark.parametrize("name", ["", "two\nlines"])
def test_a_family_has_a_name_in_one_line(name: str) -> None:
    """As an upstream has (U7)."""
    with pytest.raises(ValueError, match=r"^name must be one line of text"):
        UpstreamFamily(name)


@pytest.mark.parametrize("key", [None, 1, b"a", ["a"], "", " ", "two\nlines"])
def test_a_key_is_text_in_one_line(key: Any) -> None:
    """The error names the family and what it got (U7)."""
    error = ValueError if isinstance(key, str) else TypeError
    hosts = UpstreamFamily("webhooks")
    with pytest.raises(error, match=r"^the key of UpstreamFamily 'webhooks' must be .*not ") as raised:
        hosts[key]
    assert str(raised.value).endswith(repr(key))
    assert [] == list(hosts)


def test_a_key_is_its_text() -> None:
    """Whatever the class of it (U7)."""
    hosts = UpstreamFamily("webhooks")
    upstream = hosts[Host.A]
    assert upstream is hosts["a.example.org"]
    assert "webhooks[a.example.org]" == upstream.name
    assert {str} == {type(key) for key in hosts}


def test_threads_that_ask_at_once_get_the_same() -> None:
    """So a key never has two gates (U7)."""
    hosts, barrier = UpstreamFamily("webhooks"), Barrier(8)
    found: list[Upstream] = []

    def ask() -> None:
        barrier.wait(TIMEOUT)
        found.extend(hosts[f"{index}.example.org"] for index in range(200))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert (1600, 200) == (len(found), len(set(found)))


def test_a_thread_that_was_faster_has_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made without the lock, and whoever comes second drops their own (U7)."""
    hosts = UpstreamFamily("webhooks")
    made: list[Upstream] = []
    alike = Places.alike

    def overtaken(places: Places, name: str) -> Places:
        monkeypatch.setattr(Places, "alike", alike)
        made.append(hosts["a.example.org"])
        return alike(places, name)

    monkeypatch.setattr(Places, "alike", overtaken)
    assert hosts["a.example.org"] is made[0]


# -- how long it is remembered -------------------------------------------------------------------


def test_a_member_that_is_as_new_is_forgotten() -> None:
    """Once nobody has it, and not before (U7)."""
    hosts = UpstreamFamily("webhooks")
    upstream = hosts["a.example.org"]
    assert (["a.example.org"], True, 1) == (list(hosts), "a.example.org" in hosts, len(hosts))
    del upstream
    gc.collect()
    assert "a.example.org" not in hosts
    assert 1 not in hosts
    assert [] == list(hosts)


def test_what_only_calls_refer_to_is_the_same() -> None:
    """A call that waits or runs has its upstream (U7)."""
    hosts = UpstreamFamily("webhooks", max_concurrency=1)
    started, release = Event(), Event()

    def call() -> None:
        started.set()
        assert release.wait(TIMEOUT)

    with RetryingExecutor(2) as executor:
        calls = [use(executor, hosts, "a.example.org", call)]
        assert started.wait(TIMEOUT)
        address = id(hosts["a.example.org"])
        calls.append(use(executor, hosts, "a.example.org", int))
        gc.collect()
        assert 1 == len(hosts)
        assert (address, 1) == (id(hosts["a.example.org"]), hosts["a.example.org"].in_flight)
        release.set()
        assert [None, 0] == [each.result(TIMEOUT) for each in calls]


def start(hosts: UpstreamFamily, executor: VirtualTimeExecutor) -> None:
    use(executor, hosts, "a.example.org", int).result()


def fail_once(hosts: UpstreamFamily, executor: VirtualTimeExecutor) -> None:
    use(executor, hosts, "a.example.org", fail).exception()


def hold(hosts: UpstreamFamily, executor: VirtualTimeExecutor) -> None:
    executor.with_options(upstream=hosts["a.example.org"])
    hosts["a.example.org"].pause(1.0)


def make_ramp(hosts: UpstreamFamily, executor: VirtualTimeExecutor) -> None:
    hold(hosts, executor)
    start(hosts, executor)
    assert "ramping" == hosts["a.example.org"].state


@pytest.mark.parametrize(
    ("options", "act", "then"),
    [
        ({"rate": (3, 1.0)}, start, None),
        ({}, fail_once, start),
        ({}, hold, lambda *args: [start(*args) for _ in range(200)]),
        ({"max_concurrency": 2}, make_ramp, start),
    ],
    ids=["a start within the window", "a failure", "a hold", "a ramp"],
)
def test_what_makes_a_difference_is_remembered_without_a_reference(
    options: dict[str, Any], act: Callable[..., object], then: Callable[..., object] | None
) -> None:
    """Until it makes none any more (U7)."""
    hosts = UpstreamFamily("webhooks", **options)
    with VirtualTimeExecutor(retry=None) as executor:
        act(hosts, executor)
        gc.collect()
        assert ["a.example.org"] == list(hosts)
        executor.advance(1.0)
        if then is not None:
            gc.collect()
            assert ["a.example.org"] == list(hosts)
            then(hosts, executor)
            executor.advance(1.0)
        gc.collect()
        assert [] == list(hosts)


def test_a_permit_is_remembered_without_a_call() -> None:
    """Workers keep one for the next call for a moment, when the last one is done and gone (U7)."""
    hosts = UpstreamFamily("webhooks")
    with RetryingExecutor(1) as executor:
        places = hosts["a.example.org"]._places
        permit = places.ask(executor._core)
        assert isinstance(permit, Permit)
        gc.collect()
        assert 1 == len(hosts)
        places.end(permit)
        assert 0 == len(hosts)


def test_an_attempt_that_ends_is_waited_for() -> None:
    """What a thread is in the middle of is not as new, whatever it looks like; nothing waits for it (U7)."""
    hosts = UpstreamFamily("webhooks")
    places = hosts["a.example.org"]._places
    inside, leave = Event(), Event()

    def act() -> None:
        with places._lock:
            inside.set()
            assert leave.wait(TIMEOUT)

    thread = threading.Thread(target=act)
    thread.start()
    assert inside.wait(TIMEOUT)
    gc.collect()
    assert 1 == len(hosts)
    leave.set()
    thread.join(TIMEOUT)
    with places._lock:  # as if a destructor had interrupted this thread there
        assert 1 == len(hosts)
    assert 0 == len(hosts)


def test_who_asks_while_it_is_forgotten_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler may come between the look at a member and the end of it (U7)."""
    hosts = UpstreamFamily("webhooks")
    places = hosts["a.example.org"]._places
    found: list[Upstream] = []
    is_as_new = Places.is_as_new

    def interrupted(places: Places) -> bool:
        monkeypatch.setattr(Places, "is_as_new", is_as_new)
        found.append(hosts["a.example.org"])
        return is_as_new(places)

    gc.collect()
    monkeypatch.setattr(Places, "is_as_new", interrupted)
    assert 1 == len(hosts)
    assert hosts["a.example.org"] is found[0]
    assert places is found[0]._places


def test_look_ups_forget_what_need_not_be_remembered() -> None:
    """Nobody has to ask for it: about as many are left as are in use (U7)."""
    hosts = UpstreamFamily("webhooks")
    in_use = [hosts[f"{index}.example.org"] for index in range(50)]
    for index in range(5_000):
        hosts[f"{index}.example.com"]
    assert len(in_use) <= len(hosts._members) <= 4 * len(in_use)


# -- the limits ----------------------------------------------------------------------------------

Step = tuple[str, str, float]
"""To which host, what becomes of the attempt, and how long nothing happens afterwards."""

STEPS = st.tuples(
    st.sampled_from(KEYS),
    st.sampled_from(["works", "works", "works", "fails", "is slow", "not now"]),
    st.sampled_from([0.0, 0.0, 0.25, 1.0, 3.0, 20.0]),
)


def trace(upstreams: Any, steps: list[Step], tidy: Callable[[], object]) -> list[tuple[str, float]]:
    """Return which attempts were started, and when."""
    started: list[tuple[str, float]] = []

    def attempt(key: str, what: str) -> None:
        started.append((key, executor.monotonic()))
        if what == "fails":
            raise ConnectionResetError
        if what == "not now" and len(started) % 2:
            raise NotNow(after=2.0)
        if what == "is slow":
            executor.sleep(0.75)

    with VirtualTimeExecutor(seed=1, retry=RetryPolicy(max_attempts=3)) as executor:
        for key, what, pause in steps:
            call = executor.with_options(upstream=upstreams[key]).submit(attempt, key, what)
            call.add_done_callback(RetryingFuture.exception)  # somebody looks at it
            del call
            executor.advance(pause)
            tidy()
        executor.drain()
    return started


class Remembering(dict[str, Upstream]):
    """A family that forgets nothing."""

    def __missing__(self, key: str) -> Upstream:
        self[key] = upstream = Upstream(key, max_concurrency=2, rate=(2, 1.0), hold_after=2)
        return upstream


@given(steps=st.lists(STEPS, min_size=1, max_size=20))
def test_a_family_that_forgets_does_what_one_does_that_forgets_nothing(steps: list[Step]) -> None:
    """However often references are dropped and collected; so never more starts than the rate allows (U7)."""
    hosts = UpstreamFamily("webhooks", max_concurrency=2, rate=(2, 1.0), hold_after=2)
    started = trace(hosts, steps, lambda: (gc.collect(0), len(hosts)))
    assert trace(Remembering(), steps, int) == started
    for key in KEYS:
        times = [at for to, at in started if to == key]
        assert all(at + 1.0 <= later for at, later in zip(times, times[2:], strict=False))


def test_a_cache_that_evicts_would_double_the_limit() -> None:
    """Hosts that take turns are looked up with nothing kept in between: each has its rate (U7)."""
    hosts = UpstreamFamily("webhooks", rate=(2, 1.0))
    times: dict[str, list[float]] = {key: [] for key in KEYS}
    with VirtualTimeExecutor() as executor:
        for _ in range(10):
            for key in KEYS:
                executor.with_options(upstream=hosts[key]).submit(
                    lambda key=key: times[key].append(executor.monotonic())
                )
                executor.advance(0)
                gc.collect()
                len(hosts)
    assert {key: [float(index // 2) for index in range(10)] for key in KEYS} == times


# -- with everything else ------------------------------------------------------------------------


def test_one_family_serves_one_virtual_time_after_the_other() -> None:
    """What one has left behind is nothing to the next, nor to threads (U7)."""
    hosts = UpstreamFamily("webhooks", rate=(1, 1000.0))
    for _ in range(2):
        executor = VirtualTimeExecutor()
        start(hosts, executor)
        assert 1 == len(hosts)
        executor.shutdown()
    del executor
    with RetryingExecutor(1) as threads:
        assert 0 == use(threads, hosts, "a.example.org", int).result(TIMEOUT)


def test_what_belongs_to_a_virtual_time_that_is_over_is_forgotten() -> None:
    """Although, on its clock, there was something to remember (U7)."""
    hosts = UpstreamFamily("webhooks", rate=(1, 1000.0))
    executor = VirtualTimeExecutor()
    start(hosts, executor)
    assert 1 == len(hosts)
    del executor
    gc.collect()
    assert 0 == len(hosts)


def test_a_forked_child_has_the_family() -> None:
    """Even if another thread was just looking something up (U7, F6)."""
    hosts = UpstreamFamily("webhooks")
    upstream = hosts["a.example.org"]
    upstream.pause()
    inside, leave = Event(), Event()

    def act() -> None:
        with family_module._lock:
            inside.set()
            assert leave.wait(TIMEOUT)

    def check() -> None:
        assert hosts["a.example.org"] is upstream
        assert ("held", "open") == (upstream.state, hosts["b.example.org"].state)
        with RetryingExecutor(1) as executor:
            assert 0 == use(executor, hosts, "b.example.org", int).result(TIMEOUT)

    thread = threading.Thread(target=act)
    thread.start()
    assert inside.wait(TIMEOUT)
    in_child(check)
    leave.set()
    thread.join(TIMEOUT)


def test_a_family_is_not_copied() -> None:
    """The copy would have gates of its own."""
    import pickle

    with pytest.raises(TypeError, match="cannot pickle or copy 'UpstreamFamily' object"):
        pickle.dumps(UpstreamFamily("webhooks"))
