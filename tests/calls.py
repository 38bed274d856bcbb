"""Calls that do not get through at first."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Flaky:
    """A call that fails *failures* times and then returns how often that was."""

    failures: int = 1
    attempts: int = 0

    def __call__(self) -> int:
        self.attempts += 1
        if self.attempts <= self.failures:
            raise ConnectionError("not yet")
        return self.failures
