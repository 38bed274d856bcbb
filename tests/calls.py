"""Calls that do not get through at first."""

from __future__ import annotations

import asyncio
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


class Meeting:
    """Where coroutines of one event loop wait until *number* of them are there."""

    def __init__(self, number: int) -> None:
        self._missing = number
        self._is_complete: asyncio.Future[None] | None = None

    async def all_are_here(self) -> None:
        """Return when the last one has come."""
        self._is_complete = self._is_complete or asyncio.get_running_loop().create_future()
        self._missing -= 1
        if not self._missing:
            self._is_complete.set_result(None)
        await self._is_complete
