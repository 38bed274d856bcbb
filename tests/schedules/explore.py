"""Runs scenarios under many schedules, and replays the one that failed.

    python tests/schedules/explore.py submit_against_idle_exit --choices=0x2.1
    python tests/schedules/explore.py submit_against_idle_exit --preemptions 3
    python tests/schedules/explore.py submit_against_idle_exit --runs 1000 --seed 7

The first runs one schedule exactly, and prints it; the second all of them; the third some at random.
The exit status is 1 if a promise is broken.
"""

# ruff: noqa: T201  # a command speaks by printing

from __future__ import annotations

import argparse
import gc
import logging
import os
import shlex
import sys
from ast import literal_eval
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby, repeat
from unittest import mock

import scenarios
from accesses import every_access, replacements
from announced import announcements
from controlled import Run, RunError
from programs import Program
from strategies import DepthFirst, Priorities, Random, Recorded, Strategy
from trial import Scenario, Trial

from retrying_executor._common import exits, forks, log
from retrying_executor._common.stdlib import LOGGER
from retrying_executor._upstream import backlog, places


def run(scenario: Scenario, strategy: Strategy, *, fine: bool = False) -> Run:
    """Run a scenario once, to the end of its last thread, and check it.

    Args:
        scenario: What to run.
        strategy: Makes the choices.
        fine: Whether to switch before every access to what threads share.

    Raises:
        RunError: If it breaks a promise. The message ends with the command that runs it again.
    """

    def program() -> None:
        trial: Trial = scenario()
        this.join_all()
        trial.check()

    def logged(*_: object) -> None:
        this.fail(sys.exc_info()[1] or RuntimeError("an error was logged"))

    with prepared(fine=fine):
        this = Run(strategy)
        _on_error.append(logged)
        try:
            this(program)
        except RunError as failure:
            for pools in (
                exits._cores,
                forks._cores,
            ):  # what is left cannot be finished or locked
                pools.clear()
            name = shlex.quote(getattr(scenario, "__name__", f"--program={scenario}"))
            choices = abridged(this.choices, ".")
            command = f"python tests/schedules/explore.py {name}{' --fine' * fine} --choices={choices}"
            schedule = abridged(this.log, " ")
            raise RunError(
                f"{name}: {failure}\nschedule: {schedule}\nagain: {command}"
            ) from failure.__cause__
        finally:
            _on_error.remove(logged)
    return this


def abridged(items: Iterable[object], separator: str) -> str:
    """Return the items in one line, where an item that is repeated is followed by how often."""
    groups = [(item, len(list(group))) for item, group in groupby(items)]
    return separator.join(f"{item}x{times}" if times > 1 else str(item) for item, times in groups)


def in_full(line: str, separator: str) -> Iterator[str]:
    """Yield the items of an abridged line."""
    for group in line.split(separator) if line else []:
        item, _, times = group.partition("x")
        yield from repeat(item, int(times or 1))


def explore(scenario: Scenario, *, preemptions: int) -> int:
    """Run a scenario under every schedule with at most so many *preemptions*; return how many there are."""
    strategy = DepthFirst(preemptions)
    schedules = 1
    with prepared():
        run(scenario, strategy)
        while strategy.advance():
            run(scenario, strategy)
            schedules += 1
            if schedules % 500 == 0:
                gc.collect()
    return schedules


def sample(scenario: Scenario, *, runs: int, seed: int, fine: bool = False) -> None:
    """Run a scenario under *runs* schedules made at random: half of them walks, half by priorities."""
    with prepared(fine=fine):
        for number in range(runs):
            run(scenario, (Random if number % 2 else Priorities)(seed + number), fine=fine)
            if number % 500 == 499:
                gc.collect()


IS_NIGHTLY = os.environ.get("SCHEDULES") == "nightly"
IS_BRIEF = os.environ.get("SCHEDULES") == "brief"
"""Whether to search for hours rather than for a minute."""


_on_error: list[Callable[..., None]] = []
"""Told of what the library logs as an error; where there are several, the last one is."""

_is_prepared = False


@contextmanager
def prepared(*, fine: bool = False) -> Iterator[None]:
    """Prepare for runs, which takes as long as one of them; in there it may be done again, to no effect.

    It keeps out what would make two runs differ: the collector, and log handlers with locks of their own.

    A thread that finds the lock of an upstream taken waits for it here, however long: an unfair scheduler
    could have it ask again and again, for ever.
    """
    global _is_prepared
    if _is_prepared:
        yield
        return
    level = logging.root.manager.disable
    with ExitStack() as stack:
        stack.callback(gc.enable)
        gc.disable()
        if fine:
            replacements()  # now, and not as part of the first run
        stack.callback(gc.unfreeze)
        gc.freeze()  # so that a collection in between looks at what the runs have left, and at nothing else
        stack.callback(logging.disable, level)
        logging.disable(logging.CRITICAL)
        stack.enter_context(announcements())
        for owner, name in ((log, "worker_interrupted"), (LOGGER, "exception")):
            stack.enter_context(mock.patch.object(owner, name, lambda *args: _on_error[-1](*args)))
        for module in (backlog, places):
            stack.enter_context(mock.patch.object(module, "_LOCK_TIMEOUT", -1))
        if fine:
            stack.enter_context(every_access())
        _is_prepared = True
        try:
            yield
        finally:
            _is_prepared = False


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [one.__name__ for one in (*scenarios.SCENARIOS, *scenarios.SAMPLED, *scenarios.VAST)]
    parser.add_argument("scenario", nargs="?", choices=names)
    parser.add_argument("--program", type=literal_eval, help="a client program instead of a scenario")
    parser.add_argument("--choices", help="the choices of one schedule, separated by dots")
    parser.add_argument("--preemptions", type=int, default=2, help="how many, at most; default 2")
    parser.add_argument("--runs", type=int, default=0, help="how many schedules at random instead of all")
    parser.add_argument("--seed", type=int, default=0, help="for those at random; default 0")
    parser.add_argument("--fine", action="store_true", help="switch before every access to shared state")
    options = parser.parse_args()
    if (options.scenario is None) == (options.program is None):
        parser.error("either a scenario or a --program")
    scenario = Program(**options.program) if options.program else getattr(scenarios, options.scenario)
    try:
        if options.choices is not None:
            choices = [int(choice) for choice in in_full(options.choices, ".")]
            print(abridged(run(scenario, Recorded(choices), fine=options.fine).log, " "))
        elif options.runs:
            sample(scenario, runs=options.runs, seed=options.seed, fine=options.fine)
        else:
            for preemptions in range(options.preemptions + 1):  # few are found soon, and easy to read
                schedules = explore(scenario, preemptions=preemptions)
            print(f"{schedules} schedules")
    except RunError as failure:
        print(failure)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
