"""How tests see into a journal, and how the process of an executor dies, as far as its journal goes."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retrying_executor import RetryingExecutor
from retrying_executor._journal.database import Database, Row
from retrying_executor._journal.keeper import Keeper

made: list[Any] = []
"""What the calls below have done. Emptied before each test that has `journal`."""

acts: dict[str, Callable[[], Any]] = {}
"""What `act` does: not pickled, so it may be anything that the test knows."""


def note(value: Any) -> Any:
    """A call that gets through."""
    made.append(value)
    return value


def act(name: str) -> Any:
    """A call that does what the test wants."""
    made.append(name)
    return acts[name]()


async def act_later(name: str) -> Any:
    """The same, and it awaits that."""
    made.append(name)
    return await acts[name]()


async def note_later(value: Any) -> Any:
    """A coroutine function that gets through."""
    await asyncio.sleep(0)
    return note(value)


def refuse(value: Any) -> None:
    """A call that always fails."""
    made.append(value)
    raise ConnectionError(f"no {value}")


class Thing:
    """Something with a method, that can be pickled, and called."""

    def method(self, value: Any) -> Any:
        return note(value)

    def __call__(self, value: Any) -> Any:
        return note(value)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Path]:
    """The directory of a journal."""
    made.clear()
    acts.clear()
    yield tmp_path / "calls"
    acts.clear()


def keeper_of(executor: RetryingExecutor) -> Keeper:
    keeper = executor._core.keeper
    assert isinstance(keeper, Keeper)
    return keeper


def die(executor: RetryingExecutor) -> None:
    """Leave the files of an executor as they are: what it does from now on reaches no disk."""
    for store in keeper_of(executor)._stores():
        assert not store.is_closed
        store.is_closed = True
        store._marks.end()
        os.close(store._descriptor)
        store._database.close()


def killed(executor: RetryingExecutor) -> None:
    """The process of an executor dies, with the calls that wait."""
    die(executor)
    executor.shutdown(cancel_futures=True)


def down(executor: RetryingExecutor) -> None:
    """The process of an executor ends because it wants to."""
    executor.shutdown(cancel_futures=True)


def rows(journal: Path) -> list[Row]:
    """Return the calls that are on disk, of all files; marks aside."""
    found: list[Row] = []
    for path in sorted(journal.glob("*.db")):
        database = Database(path)
        found += database.all()
        database.close()
    return found


def files(journal: Path) -> set[str]:
    """Return the kinds of files that there are."""
    return {path.suffix for path in journal.iterdir()}


def attempt_of(name: str, action: Callable[[], Any]) -> tuple[Callable[[str], Any], str]:
    """Return what to submit so that an attempt does something in this process."""
    acts[name] = action
    return act, name


def blocked(executor: RetryingExecutor) -> tuple[threading.Event, Any]:
    """Keep a worker of an executor busy until the event is set; return that and the future."""
    started, release = threading.Event(), threading.Event()

    def wait() -> bool:
        started.set()
        return release.wait(60)

    future = executor.submit(*attempt_of("blocked", wait))
    assert started.wait(60)
    return release, future
