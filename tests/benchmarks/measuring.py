"""What a measure is: its figures, what they are held against, and how samples are taken.

Samples are taken in turn, one of each contestant to a round, every other round in the opposite order: what
slows the machine down for a while slows both of a pair. A ratio is that of one pair; of the ratios, the
median counts. Garbage is collected before each sample, and the collector stays on during it, as in a program.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, Literal, TypeVar

T = TypeVar("T")

Better = Literal["more", "less"]


class NotPossible(Exception):  # noqa: N818  # as with unittest.SkipTest, it is no error
    """A measure cannot be taken here, for a reason that is given."""


@dataclass(frozen=True)
class Target:
    """What a median is held against, in the unit of the figure.

    Attributes:
        must: What it has to reach.
        aim: What it should reach.
        better: Whether more is better, or less.
    """

    must: float
    aim: float
    better: Better = "more"

    def is_met(self, figure: float, goal: float) -> bool:
        """Return whether *figure* reaches *goal*."""
        return figure >= goal if self.better == "more" else figure <= goal

    def is_far_off(self, figure: float) -> bool:
        """Return whether *figure* is worse than half of what it must be (twice, where less is better)."""
        return not self.is_met(figure, self.must / 2 if self.better == "more" else self.must * 2)


@dataclass(frozen=True)
class Line:
    """One figure of a measure, with every sample that it was made of.

    Attributes:
        case: Under what circumstances it was taken.
        contestant: Who was measured.
        unit: Of the samples: ``"s"``, ``"bytes"``, ``"%"``, or empty for what is counted.
        samples: Its samples, one for each round.
        baseline: What it is compared with; empty if the samples are the figures.
        against: The samples of the baseline, one for each round.
        better: Whether a greater figure is better. With a baseline: "more" is how many times less
            than the baseline the sample is, "less" how many times more.
        target: What the median is held against, if anything.
        note: What has to be known to read it.
    """

    case: str
    contestant: str
    unit: str
    samples: Sequence[float]
    baseline: str = ""
    against: Sequence[float] = ()
    better: Better = "more"
    target: Target | None = None
    note: str = ""

    @property
    def figures(self) -> list[float]:
        """The ratios, pair by pair; or the samples, if there is no baseline."""
        if not self.baseline:
            return list(self.samples)
        pairs = zip(self.samples, self.against, strict=True)
        return [against / own if self.better == "more" else own / against for own, against in pairs]

    @property
    def median(self) -> float:
        """The figure that counts."""
        return statistics.median(self.figures)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest figure."""
        return min(self.figures), max(self.figures)

    @property
    def is_far_off(self) -> bool:
        """Whether the gate closes."""
        return self.target is not None and self.target.is_far_off(self.median)


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        pairs: How many rounds.
        is_quick: Whether sizes are small, to try it out; such figures mean little.
    """

    pairs: int
    is_quick: bool

    def size(self, full: int, quick: int) -> int:
        """Return how many there are to be of something."""
        return quick if self.is_quick else full


@dataclass(frozen=True)
class Measure:
    """A measure: its name, the function that takes it, and the targets handed to that function."""

    name: str
    take: Callable[..., Iterable[Line]]
    targets: Sequence[Target] = field(default=())

    def lines(self, scale: Scale) -> Iterable[Line]:
        """Take it; raises `NotPossible` where the system lacks something."""
        return self.take(scale, *self.targets)


def rounds(
    samplers: Mapping[str, Callable[[], T]], count: int, *, warm_up: bool = True
) -> dict[str, list[T]]:
    """Take *count* samples of each, in turn; with *warm_up*, after a first round that does not count."""
    taken: dict[str, list[T]] = {name: [] for name in samplers}
    for number in range(-1 if warm_up else 0, count):
        names = list(samplers)
        for name in reversed(names) if number % 2 else names:
            gc.collect()
            sample = samplers[name]()
            if number >= 0:
                taken[name].append(sample)
    return taken


def against_first(
    samples: Mapping[str, Sequence[float]],
    *,
    case: str,
    target: Target | None,
    unit: str = "s",
    notes: Mapping[str, str] | None = None,
) -> Iterator[Line]:
    """Compare everyone with the first, who is the baseline; the *target* is that of the second."""
    (baseline, against), *others = samples.items()
    for index, (contestant, own) in enumerate(others):
        yield Line(
            case=case,
            contestant=contestant,
            unit=unit,
            samples=own,
            baseline=baseline,
            against=against,
            target=None if index else target,
            note=(notes or {}).get(contestant, ""),
        )


def in_fresh_process(function: Callable[..., T], /, *args: Any) -> T:
    """Call a function of a module in a process of its own, which ends with it."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as processes:
        return processes.submit(function, *args).result()
