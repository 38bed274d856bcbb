"""Who goes on: the strategies that make the choices of a run."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Protocol

CLOCK = -1

NEVER = 10**9

ACCESSES = 300
"""About how many of them a run has."""


class Strategy(Protocol):
    """Makes the choices of a run."""

    def choose(self, options: Sequence[int], *, current: bool) -> int:
        """Return the position of that one of the *options* which is to go on.

        Args:
            options: The numbers of the tasks that can, 2 or more; and `CLOCK`, if time may pass.
            current: Whether the first of them is the task that has the baton, so that any other
                would be a preemption.
        """
        ...

    def stride(self) -> int:
        """Return how many accesses to pass by before the next choice, where there is one before each."""
        ...


class DepthFirst:
    """Every schedule with at most *preemptions*, one after the other.

    A choice is a preemption if it takes the baton from a task that could go on. All others are
    free: somebody has to go on. Use it for run after run, as long as `advance` says so.
    """

    def __init__(self, preemptions: int = 2) -> None:
        self._bound = preemptions
        self._path: list[tuple[int, int]] = []  # at each choice: which option, of how many
        self._seen: list[tuple[list[int], bool]] = []  # what there was to choose from
        self._depth = 0
        self._spent = 0

    def choose(self, options: Sequence[int], *, current: bool) -> int:
        if self._depth == len(self._path):
            open_options = 1 if current and self._spent == self._bound else len(options)
            self._path.append((0, open_options))
            self._seen[self._depth :] = [(list(options), current)]
        choice, _ = self._path[self._depth]
        if self._seen[self._depth] != (list(options), current):
            raise ValueError("the program does not do the same under the same schedule")
        self._depth += 1
        self._spent += current and choice > 0
        return choice

    def stride(self) -> int:
        return NEVER  # there are too many to enumerate

    def advance(self) -> bool:
        """Prepare the next run; return ``False`` if there is none left."""
        self._depth = self._spent = 0
        while self._path:
            choice, options = self._path.pop()
            if choice + 1 < options:
                self._path.append((choice + 1, options))
                return True
        return False


class Random:
    """A random walk: others go on with a probability of *switching*; strides differ from run to run."""

    def __init__(self, seed: int, switching: float = 0.3) -> None:
        self._random = random.Random(seed)
        self._switching = switching
        self._stride = 0.0

    def stride(self) -> int:
        self._stride = self._stride or self._random.choice([1.0, 5.0, 20.0, 80.0])
        return int(self._random.expovariate(1.0 / self._stride))

    def choose(self, options: Sequence[int], *, current: bool) -> int:
        if current and self._random.random() >= self._switching:
            return 0
        return self._random.randrange(len(options))


class Priorities:
    """Who has the highest priority goes on; at a few steps it gets the lowest (PCT).

    References:
        S. Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs",
        ASPLOS 2010.
    """

    def __init__(self, seed: int, changes: int = 3, steps: int = 100) -> None:
        self._random = random.Random(seed)
        self._changes = [self._random.randrange(steps) for _ in range(changes)]
        self._priorities: dict[int, float] = {}
        self._step = 0
        self._strides = [self._random.randrange(ACCESSES) for _ in range(changes)]
        self._is_due = False

    def stride(self) -> int:
        self._is_due = self._step > 0  # but before the first of all
        return self._strides.pop() if self._strides else NEVER

    def choose(self, options: Sequence[int], *, current: bool) -> int:
        for option in options:
            self._priorities.setdefault(option, self._random.random())
        best = max(options, key=self._priorities.__getitem__)
        if self._step in self._changes or self._is_due:
            self._is_due = False
            self._priorities[best] = -self._random.random() - self._step
            best = max(options, key=self._priorities.__getitem__)
        self._step += 1
        return options.index(best)


class Recorded:
    """The choices of an earlier run; after the last of them, no preemption."""

    def __init__(self, choices: Iterable[int]) -> None:
        self._choices = iter(choices)

    def stride(self) -> int:
        return next(self._choices, NEVER)

    def choose(self, options: Sequence[int], *, current: bool) -> int:
        choice = next(self._choices, 0)
        if choice >= len(options):
            raise ValueError("these are not the choices of this program")
        return choice
