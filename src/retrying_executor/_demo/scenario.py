"""The options of the command: what is delivered, by how many threads, and to what kind of service."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from retrying_executor import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


KILLS = 5
"""How often the process that delivers is killed, if it is."""


@dataclass(frozen=True)
class Scenario:
    """The options, each within its range; times are in seconds."""

    calls: int
    workers: int
    seed: int
    failures: float
    outage: float
    max_elapsed: float
    kill: bool

    @property
    def outage_after(self) -> int:
        """How many webhooks the service accepts before it goes down."""
        return self.calls // 3


def parse(argv: Sequence[str] | None) -> Scenario:
    """Read the options; exits with status 2 if one of them is wrong."""
    parser = _Parser(
        prog="python -m retrying_executor",
        description="Deliver webhooks to a service on this computer that fails now and then, and goes "
        "down in the middle: first through a ThreadPoolExecutor, then through a RetryingExecutor.",
        epilog="Exit status: 0 if the RetryingExecutor delivered every webhook, 1 if it did not. "
        "For what is in a journal, see: %(prog)s journal --help",
        allow_abbrev=False,
    )

    def option(name: str, default: float, low: int, high: int, meaning: str) -> None:
        meaning += f"; {low} to {high}, default {default}"
        convert = _number(type(default), low, high)
        parser.add_argument(name, default=default, type=convert, metavar="N", help=meaning)

    option("--calls", 400, 10, 2000, "webhooks to deliver")
    option("--workers", 8, 1, 64, "threads that deliver them, at most")
    option("--seed", 1, 0, 2**32 - 1, "decides which requests the service fails (the timing varies)")
    option("--failures", 0.2, 0, 1, "share of the requests that it answers with 503 (1: all, for ever)")
    option("--outage", 2.0, 0, 30, "seconds that the service is down (0: it never is)")
    option("--max-elapsed", 120.0, 0, 3600, "seconds until the RetryingExecutor gives up")
    parser.add_argument(
        "--kill",
        action="store_true",
        help=f"instead, deliver with a journal in a process that is killed {KILLS} times in the middle",
    )
    parser.add_argument("--version", action="version", version=f"retrying-executor {__version__}")
    return Scenario(**vars(parser.parse_args(argv)))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, without the usage."""
        self.exit(2, f"{self.prog}: {message}\n")


def _number(kind: type[float], low: int, high: int) -> Callable[[str], float]:
    """Return what turns text into a number of a *kind*, ``int`` or ``float``, from *low* to *high*."""

    def number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan  # within no range
        if not low <= value <= high:
            what = "an integer" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {what} from {low} to {high}, not {text!r}")
        return value

    return number
