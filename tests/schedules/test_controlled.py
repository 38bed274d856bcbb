"""The controlled scheduler itself: it finds what is wrong, again and again, and nothing else."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import pytest
from controlled import Run, RunError
from strategies import DepthFirst, Priorities, Random, Recorded

Program = Callable[[], object]
CARRIERS = [False] + [True] * ("greenlet" in sys.modules)


def start(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def failures_of(program: Program, **options: Any) -> tuple[int, list[RunError]]:
    """Return how many schedules a program has, with two preemptions at most, and how it failed."""
    strategy, failures, count = DepthFirst(2), [], 0
    while not count or strategy.advance():
        count += 1
        try:
            Run(strategy, **options)(program)
        except RunError as failure:
            failures.append(failure)
    return count, failures


def lost_update() -> None:
    """Two threads add to a number, and look away in between."""
    numbers = [0]
    lock = threading.Lock()

    def add() -> None:
        with lock:
            seen = numbers[0]
        with lock:
            numbers[0] = seen + 1

    threads = [start(add), start(add)]
    for thread in threads:
        thread.join()
    assert 2 == numbers[0]


def correct_update() -> None:
    """Two threads add to a number, in one critical section."""
    numbers = [0]
    lock = threading.RLock()

    def add() -> None:
        with lock, lock:
            numbers[0] += 1

    threads = [start(add), start(add)]
    for thread in threads:
        thread.join()
    assert 2 == numbers[0]


def two_orders() -> None:
    """Two threads take two locks in different orders."""
    one, other = threading.Lock(), threading.Lock()

    def crossing() -> None:
        with other, one:
            pass

    start(crossing)
    with one, other:
        pass


def naive_queue() -> None:
    """The queue and the lazily started thread that lose a task (C5)."""
    tasks: list[Program] = []
    done: list[int] = []
    workers: list[threading.Thread] = []
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not tasks:
                    break
                task = tasks.pop(0)
            task()
        workers.clear()

    def enqueue(number: int) -> None:
        with lock:
            tasks.append(lambda: done.append(number))
        if not workers:
            workers.append(threading.Thread(target=work))
            workers[0].start()

    enqueue(1)
    enqueue(2)
    time.sleep(1)
    assert [1, 2] == sorted(done)


@pytest.mark.parametrize("greenlets", CARRIERS)
@pytest.mark.parametrize(
    ("program", "reason"),
    [(lost_update, "AssertionError"), (two_orders, "deadlock"), (naive_queue, "AssertionError")],
)
def test_a_race_is_found(program: Program, reason: str, greenlets: bool) -> None:
    """In some schedules, not in all: a lost update, a deadlock, the lost task (C5)."""
    count, failures = failures_of(program, greenlets=greenlets)
    assert 0 < len(failures) < count
    assert all(reason in str(failure) for failure in failures)


@pytest.mark.parametrize("greenlets", CARRIERS)
def test_a_correct_program_raises_no_alarm(greenlets: bool) -> None:
    """Not in any schedule, and there are many."""
    count, failures = failures_of(correct_update, greenlets=greenlets)
    assert count > 20
    assert [] == failures


@pytest.mark.parametrize("make", [Random, Priorities])
def test_a_seed_decides_a_schedule(make: Callable[[int], Any]) -> None:
    """The same seed makes the same schedule, on greenlets and on threads; its choices make it again."""
    for seed in range(20):
        runs = []
        for strategy in (make(seed), make(seed)):
            runs.append(Run(strategy, greenlets=CARRIERS[len(runs) % len(CARRIERS)]))
            runs[-1](correct_update)
        runs.append(Run(Recorded(runs[0].choices)))
        runs[-1](correct_update)
        assert runs[0].log == runs[1].log == runs[2].log
    with pytest.raises(RunError, match="not the choices of this program"):
        Run(Recorded([99]))(correct_update)


def test_random_schedules_find_races() -> None:
    """Each way of choosing at random finds the lost update within a hundred runs."""

    def search(make: Callable[[int], Any]) -> None:
        for seed in range(100):
            Run(make(seed))(lost_update)

    for make in (Random, Priorities):
        with pytest.raises(RunError):
            search(make)


def test_timeouts_fire_early_and_late() -> None:
    """Somebody who waits for a second is served in time in some schedules, and not in others."""
    seen = set()

    def program() -> None:
        event = threading.Event()
        start(event.set)
        seen.add(event.wait(1))

    failures_of(program)
    assert {False, True} == seen


def test_time_passes_only_when_it_is_chosen() -> None:
    """Sleepers wake in the order of their deadlines, at these deadlines, in no time."""
    woken: list[tuple[float, float]] = []
    run = Run(Recorded([]))

    def sleep(duration: float) -> None:
        time.sleep(duration)
        woken.append((duration, run.now))

    def program() -> None:
        began_at = time.monotonic()
        for duration in (3600, 1, 60):
            start(lambda duration=duration: sleep(duration))
        time.sleep(7200)
        assert 7200 == time.monotonic() - began_at

    run(program)
    assert [(1, 1001.0), (60, 1060.0), (3600, 4600.0)] == woken
    assert 0 == run.rushed


@pytest.mark.parametrize("greenlets", CARRIERS)
@pytest.mark.parametrize("where", ["in a wait", "when asking for the time"])
def test_what_a_strategy_raises_is_a_failure(greenlets: bool, where: str) -> None:
    """Not an exception of the task that happens to have the baton, which might catch it."""

    class Broken(Recorded):
        def choose(self, options: Sequence[int], *, current: bool) -> int:
            if run.current.name == "catcher":
                raise LookupError(where)
            return super().choose(options, current=current)

    def catcher() -> None:
        try:
            time.sleep(1) if where == "in a wait" else time.monotonic()
        except LookupError:
            caught.append(where)

    def program() -> None:
        threading.Thread(target=catcher, name="catcher").start()
        time.sleep(2)

    caught: list[str] = []
    run = Run(Broken([]), greenlets=greenlets)
    with pytest.raises(RunError, match=where):
        run(program)
    assert [] == caught


@pytest.mark.parametrize("greenlets", CARRIERS)
def test_what_a_check_raises_is_a_failure(greenlets: bool) -> None:
    """The check that runs when nobody can go on, whoever was the last that could."""

    def check(now: float) -> None:
        assert now < 1005, "late"

    def program() -> None:
        start(lambda: time.sleep(10))
        time.sleep(20)

    run = Run(Recorded([1]), greenlets=greenlets)
    run.on_idle = check
    with pytest.raises(RunError, match="late"):
        run(program)


def test_a_program_that_differs_from_run_to_run_is_reported() -> None:
    """A search over its schedules would mean nothing."""
    runs = count()

    def program() -> None:
        start(threading.Lock)
        if next(runs) % 2:
            time.sleep(1)
        start(threading.Lock)

    _, failures = failures_of(program)
    assert "does not do the same" in str(failures[0])


def test_what_does_not_end_is_a_failure() -> None:
    """Somebody who looks again and again until what never happens."""

    def program() -> None:
        while True:
            time.sleep(1)

    with pytest.raises(RunError, match="no end after"):
        Run(Recorded([]))(program)


def test_an_exception_in_a_thread_is_a_failure() -> None:
    """Nothing that goes wrong in a thread goes unnoticed."""
    with pytest.raises(RunError, match="ZeroDivisionError"):
        Run(Recorded([]))(lambda: start(lambda: 1 / 0))


def test_the_world_is_as_before_after_a_run() -> None:
    """Locks, threads and the clock are the real ones again, after a failure too."""
    before = threading.Lock, threading.RLock, threading.Thread, time.monotonic, time.sleep
    with pytest.raises(RunError):
        Run(Recorded([]))(lambda: 1 / 0)
    assert before == (threading.Lock, threading.RLock, threading.Thread, time.monotonic, time.sleep)
