"""A journal compared with a dictionary: whatever happens in whatever order, no call is lost or made twice."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from journals import die, killed
from retrying_executor import Journal, RetryPolicy
from retrying_executor._journal import marks
from retrying_executor._journal.database import Database
from retrying_executor._journal.payload import Pickles
from retrying_executor.testing import VirtualTimeExecutor

POLICY = RetryPolicy(max_attempts=3, initial_delay=8, max_elapsed=None)
LABELS = (None, "mail")

attempts: Counter[int] = Counter()
"""How many attempts were made of each call that got to its end."""

done: Counter[int] = Counter()
dying: dict[int, Any] = {}
"""The calls that end their process, and how."""


def call(number: int, failures: int) -> int:
    """Fail so many times, then get through; *failures* of 3 fail for good."""
    if number in dying:
        dying.pop(number)()
    else:
        attempts[number] += 1
        if attempts[number] <= failures:
            raise ConnectionError("not yet")
        done[number] += 1
    return number


class Processes(RuleBasedStateMachine):
    """One or two processes with one journal, in virtual time."""

    accepted = Bundle("accepted")

    @initialize()
    def begin(self) -> None:
        for counts in (attempts, done, dying):
            counts.clear()  # type: ignore[attr-defined]  # each has that
        self.path = Path(tempfile.mkdtemp())
        self.journal = Journal(self.path, durability="process", max_crashes=1000)
        self.failures: dict[int, int] = {}
        self.cancelled: set[int] = set()
        self.futures: list[Any] = []
        self.processes: list[Any] = [None, None]
        self.views: list[Any] = [None, None]
        for which in (0, 1):
            self.start(which)

    def start(self, which: int) -> None:
        self.look_at_failures(which)
        process = VirtualTimeExecutor(retry=POLICY, journal=self.journal, seed=which)
        self.processes[which] = process
        self.views[which] = {None: process, "mail": process.with_options(label="mail")}

    def look_at_failures(self, which: int) -> None:
        """See that none is logged: that would take long, and say nothing."""
        process = self.processes[which]
        futures = [*self.futures, *(process.adopted if process else ())]
        for future in futures:
            if future.done() and not future.cancelled():
                future.exception()

    # -- what happens --------------------------------------------------------------------------

    @rule(
        target=accepted,
        which=st.sampled_from([0, 1]),
        label=st.sampled_from(LABELS),
        failures=st.integers(0, 3),
    )
    def submit(self, which: int, label: str | None, failures: int) -> tuple[int, Any]:
        number = len(self.failures)
        self.failures[number] = failures
        future = self.views[which][label].submit(call, number, failures)
        self.futures.append(future)
        return number, future

    @rule(which=st.sampled_from([0, 1]), label=st.sampled_from(LABELS), failures=st.integers(0, 3))
    def submit_what_ends_the_process(self, which: int, label: str | None, failures: int) -> None:
        process = self.processes[which]
        number, _ = self.submit(which, label, failures)
        dying[number] = lambda: die(process)
        process.advance(0)
        assert number not in dying
        process.shutdown(cancel_futures=True)
        self.start(which)

    @rule(which=st.sampled_from([0, 1]), seconds=st.sampled_from([0, 1, 5, 50]))
    def let_time_pass(self, which: int, seconds: float) -> None:
        self.processes[which].advance(seconds)

    @rule(which=st.sampled_from([0, 1]))
    def wait(self, which: int) -> None:
        assert self.processes[which].drain()

    @rule(taken=consumes(accepted))
    def cancel(self, taken: tuple[int, Any]) -> None:
        number, future = taken
        if not future.cancelled() and future.cancel():
            self.cancelled.add(number)

    @rule(which=st.sampled_from([0, 1]), place=st.integers(0))
    def cancel_what_was_adopted(self, which: int, place: int) -> None:
        adopted = [future for future in self.processes[which].adopted if not future.done()]
        if adopted:
            future = adopted[place % len(adopted)]
            _, (number, _), _, _ = future._work
            assert future.cancel()
            self.cancelled.add(number)

    @rule(which=st.sampled_from([0, 1]))
    def look(self, which: int) -> None:
        self.processes[which].adopt()

    @rule(which=st.sampled_from([0, 1]))
    def put_down(self, which: int) -> None:
        self.processes[which].shutdown(cancel_futures=True)
        self.start(which)

    @rule(which=st.sampled_from([0, 1]))
    def kill(self, which: int) -> None:
        killed(self.processes[which])
        self.start(which)

    # -- what is true at any time ----------------------------------------------------------------

    @invariant()
    def every_call_is_over_or_on_disk(self) -> None:
        """And never both, nor on disk twice."""
        waiting, failed = self.on_disk()
        for number, failures in self.failures.items():
            is_over = bool(done[number] or attempts[number] == 3 == failures or number in self.cancelled)
            assert is_over + waiting[number] == 1
            assert done[number] + failed[number] <= 1
            assert attempts[number] <= min(failures + 1, 3)

    def on_disk(self) -> tuple[Counter[int], Counter[int]]:
        """Return how often calls wait on disk, and how often they are kept as failed."""
        waiting, failed = Counter[int](), Counter[int]()
        for path in self.path.glob("*.db"):
            descriptor = os.open(path.with_suffix(".lock"), os.O_RDONLY)
            over = {mark.row for mark in marks.read(descriptor)[2] if mark.state == marks.DONE}
            os.close(descriptor)
            database = Database(path)
            for row in database.all():
                if row.row not in over:
                    _, (number, _), _ = Pickles({}).load(row.payload)
                    (waiting if row.status == "waiting" else failed)[number] += 1
            database.close()
        return waiting, failed

    def teardown(self) -> None:
        """What is left is made by the next process, each call as often as its attempts are."""
        for which in (0, 1):
            killed(self.processes[which])
            self.look_at_failures(which)
        with VirtualTimeExecutor(retry=POLICY, journal=self.journal) as last:
            last.adopt()
        self.processes[0] = last
        self.look_at_failures(0)
        waiting, failed = self.on_disk()
        assert not waiting.total()
        for number, failures in self.failures.items():
            if number not in self.cancelled:
                assert (failures < 3, failures == 3) == (done[number], failed[number])
                assert min(failures + 1, 3) == attempts[number]
        assert failed.total() or not list(self.path.iterdir())
        shutil.rmtree(self.path)


Processes.TestCase.settings = settings(
    max_examples=40 if os.environ.get("KILLS") == "nightly" else 15, stateful_step_count=25
)
TestProcesses = pytest.mark.usefixtures("quiet")(Processes.TestCase)
