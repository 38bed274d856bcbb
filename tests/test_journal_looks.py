"""When an executor looks for calls of processes that are gone."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from conftest import TIMEOUT
from forks import in_child
from observe import eventually
from retrying_executor import Journal, RetryingExecutor, RetryPolicy, Upstream
from retrying_executor._journal import keeper
from retrying_executor.testing import VirtualTimeExecutor
from test_exit import run

EACH_MINUTE = RetryPolicy(delays=[60, 60, 60])


def leave_a_call(directory: Path) -> str:
    """Have a call in a journal that belongs to nobody; return its key."""
    with VirtualTimeExecutor(journal=directory, retry=EACH_MINUTE) as executor:
        future = executor.submit(int, "no number")
        executor.shutdown(cancel_futures=True)
    return future.key


def in_this_process(check: Callable[[], object]) -> None:
    """Do what `in_child` does, without a fork."""
    check()


@pytest.mark.parametrize(
    "somewhere",
    [
        in_this_process,
        pytest.param(
            in_child, marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows knows no fork")
        ),
    ],
)
def test_the_first_submit_looks(somewhere: Callable[[Callable[[], object]], None], tmp_path: Path) -> None:
    """An executor that did not look when it was made does so then, in a forked child too (J2)."""
    with RetryingExecutor(1, journal=Journal(tmp_path, adopts=False), retry=None) as executor:
        left = leave_a_call(tmp_path)

        def check() -> None:
            assert [] == executor.adopted
            assert 42 == executor.submit(int, "42").result(TIMEOUT)
            (adopted,) = executor.adopted
            assert left == adopted.key
            assert isinstance(adopted.exception(TIMEOUT), ValueError)

        somewhere(check)


def test_calls_of_a_view_wait_for_it_however_many_there_are(tmp_path: Path) -> None:
    """Those, too, that are read when other calls have had their turn (J2)."""
    number = keeper._AT_ONCE + 1
    with VirtualTimeExecutor(journal=tmp_path) as executor:
        for label in [*[None] * number, "view"]:
            executor.with_options(label=label).submit(int, "42")
        executor.shutdown(cancel_futures=True)
    labels: Counter[str | None] = Counter()
    with VirtualTimeExecutor(
        journal=tmp_path, on_event=lambda event: labels.update([event.label] if event.kind == "done" else ())
    ) as executor:
        executor.advance(1)
        assert {None: number} == labels
        view = executor.with_options(label="view")
        executor.adopt()
        assert view.drain()
    assert {None: number, "view": 1} == labels


@pytest.mark.parametrize("end", [VirtualTimeExecutor.shutdown, VirtualTimeExecutor.drain])
def test_in_the_end_calls_of_a_view_that_is_gone_are_made(
    end: Callable[[VirtualTimeExecutor], object], tmp_path: Path
) -> None:
    """On the terms of the executor itself, although it has never looked again (J2)."""
    with VirtualTimeExecutor(journal=tmp_path) as executor:
        executor.with_options(label="view").submit(int, "42")
        executor.shutdown(cancel_futures=True)
    with VirtualTimeExecutor(journal=tmp_path) as executor:
        assert [] == executor.adopted
        end(executor)
        (adopted,) = executor.adopted
        assert 42 == adopted.result(0)


def test_calls_of_a_view_are_left_if_all_are_put_down(tmp_path: Path) -> None:
    """They are for the next process, as the others are (J4)."""
    with VirtualTimeExecutor(journal=tmp_path) as executor:
        executor.with_options(label="view").submit(int, "42")
        executor.shutdown(cancel_futures=True)
    with VirtualTimeExecutor(journal=tmp_path) as executor:
        executor.shutdown(cancel_futures=True)
        assert [] == executor.adopted
    assert [] != [*tmp_path.iterdir()]


def test_at_the_end_of_the_interpreter_calls_of_a_view_that_is_gone_are_made(tmp_path: Path) -> None:
    """Where the executor is not shut down, either; or they stay for the next process (F4, J2).

    Python 3.12 starts no thread then.
    """
    with VirtualTimeExecutor(journal=tmp_path) as executor:
        executor.with_options(label="view").submit(print, "made")
        executor.shutdown(cancel_futures=True)
    status, said, logged = run(f"executor = RetryingExecutor(1, journal={str(tmp_path)!r})")
    assert 0 == status
    assert said in (["made"], [])
    assert (not said) == any(tmp_path.iterdir())
    assert "goes on without its view, which is not there (label 'view', upstream None)" in logged


def test_a_call_keeps_its_key_and_its_policy_whatever_views_there_are(tmp_path: Path) -> None:
    """Neither a view for one call nor one with another policy stands for the executor itself (J1, J2)."""
    with VirtualTimeExecutor(journal=tmp_path) as executor:
        plain = executor.submit(int, "no number")
        executor.shutdown(cancel_futures=True)
    with VirtualTimeExecutor(
        journal=Journal(tmp_path, adopts=False), retry=RetryPolicy(delays=[1, 1])
    ) as executor:
        views = [executor.with_options(key="order-1"), executor.with_options(retry=None)]
        executor.adopt()
        (adopted,) = executor.adopted
        assert isinstance(adopted.exception(), ValueError)
        assert (plain.key, 3) == (adopted.key, adopted.attempts)
        assert [1, 1] == [view.submit(int, "1").result() for view in views]


def test_the_limits_of_an_upstream_hold_for_calls_with_labels_of_their_own(tmp_path: Path) -> None:
    """Where no view has the label, the one for the same upstreams without a label will do (J2).

    The calls keep their labels.
    """
    labels: list[str | None] = []
    with VirtualTimeExecutor(journal=tmp_path) as executor:
        for number in range(3):
            executor.with_options(upstream=Upstream("partner"), label=f"order {number}").submit(int, "42")
        executor.shutdown(cancel_futures=True)
    partner = Upstream("partner", rate=(1, 60))
    with VirtualTimeExecutor(journal=tmp_path, on_event=lambda event: labels.append(event.label)) as executor:
        view = executor.with_options(upstream=partner)
        executor.adopt()
        assert view.drain()
        assert 3 == executor.stats().succeeded
        assert 120 <= executor.monotonic()
    assert {f"order {number}" for number in range(3)} == {*labels}


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module whose function ``deliver`` comes and goes."""
    module = ModuleType("later")

    def deliver() -> str:
        return "delivered"

    deliver.__module__, deliver.__qualname__ = "later", "deliver"
    module.deliver = deliver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "later", module)
    return module


def test_a_function_that_is_defined_later_is_found_in_a_quiet_program(
    later: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is submitted there, so a thread looks again by itself for a while (J2)."""
    monkeypatch.setattr(keeper, "_PAUSES", (*[0.01] * 3_000, 60.0))
    deliver = later.deliver
    with VirtualTimeExecutor(journal=tmp_path) as executor:
        executor.submit(deliver)
        executor.shutdown(cancel_futures=True)
    del later.deliver
    with RetryingExecutor(1, journal=tmp_path) as after:
        assert [] == after.adopted
        later.deliver = deliver  # type: ignore[attr-defined]
        assert eventually(lambda: bool(after.adopted))
        assert "delivered" == after.adopted[0].result(TIMEOUT)


def test_a_view_that_does_not_come_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After some seconds its calls go on without, which is logged: limits are not what they were (J2)."""
    monkeypatch.setattr(keeper, "_PAUSES", (0.01, 0.02))
    with VirtualTimeExecutor(journal=tmp_path) as executor:
        executor.with_options(label="L", upstream=Upstream("pp")).submit(int, "42")
        executor.shutdown(cancel_futures=True)
    with RetryingExecutor(1, journal=tmp_path) as after:
        assert eventually(lambda: bool(after.adopted))
        assert 42 == after.adopted[0].result(TIMEOUT)
    assert (
        "builtins.int goes on without its view, which is not there (label 'L', upstream 'pp')" in caplog.text
    )


def test_nobody_looks_for_an_executor_that_is_gone(
    later: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that looks does not keep it, and ends when it ends (F5)."""
    monkeypatch.setattr(keeper, "_PAUSES", (0.0, 60.0))
    with VirtualTimeExecutor(journal=tmp_path) as executor:
        executor.submit(later.deliver)
        executor.shutdown(cancel_futures=True)
    del later.deliver
    executor = RetryingExecutor(1, journal=tmp_path)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "journal"]
    executor.shutdown()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    keeper._look_again(lambda: None, threading.Event())  # type: ignore[arg-type]  # as a weak reference


class LeavesSome:
    """A keeper that never finds what a call needs."""

    def __init__(self) -> None:
        self.is_last: list[bool] = []

    def look_again(self, *, is_last: bool) -> bool:
        self.is_last.append(is_last)
        return True


def test_after_some_looks_no_more_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is still not there then is a matter for `adopt()`, or for the next submit (J2)."""
    monkeypatch.setattr(keeper, "_PAUSES", (0.0, 0.001, 0.002))
    one = LeavesSome()
    keeper._look_again(lambda: one, threading.Event())  # type: ignore[arg-type]  # as a weak reference
    assert [False, False, True] == one.is_last


def test_a_file_that_somebody_deletes_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At the next look: that is logged, and from then on calls are in another file (J6)."""
    monkeypatch.setattr(keeper, "LOOKS_EVERY", 0.0)
    with VirtualTimeExecutor(journal=tmp_path) as executor:
        first = executor.submit(int, "1")
        for path in tmp_path.iterdir():
            path.unlink()
        second = executor.submit(int, "2")
        assert "was deleted while it was in use" in caplog.text
        assert 1 == len([*tmp_path.glob("*.db")])
        assert (1, 2) == (first.result(), second.result())
    assert [] == [*tmp_path.iterdir()]
