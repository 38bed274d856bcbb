"""Where the coroutines of calls wait, and what blocks their event loop, for the watchdog.

Seen from another thread, a coroutine may be in the middle of a step. So the watchdog *asks* the loop, which
answers between two steps. If it does not answer, it is *blocked*: a step takes too long, in which no other
coroutine can go on.
"""

from __future__ import annotations

import sys
import threading
import traceback
from contextvars import Context
from types import CoroutineType, GeneratorType

from retrying_executor._calls import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Iterable
    from types import CodeType
    from typing import Any, TypeAlias

    from retrying_executor._calls.flight import Flight

    Place: TypeAlias = tuple[tuple[str, int, str], ...]
    """Where a coroutine waits: files, lines and functions, the outermost first."""

_PATIENCE = 0.5  # seconds that a step may take before the loop counts as blocked


class Blockage:
    """What blocks an event loop now.

    Args:
        task: The task in the middle of a step; ``None``: it is a callback of the loop.
        thread: The thread of the loop.
    """

    def __init__(self, task: Task[Any] | None, thread: threading.Thread) -> None:
        self.thread = thread
        coroutine = None if task is None else task.get_coro()
        self.stack = _stack_in(thread, getattr(coroutine, "cr_code", None))
        get_context = getattr(task, "get_context", None)  # from Python 3.12 on
        self._task = task
        self._hand = None if get_context is None else get_context().get(current.flight)

    @property
    def is_over(self) -> bool:
        """Whether its task has ended since."""
        return self._task is not None and self._task.done()

    def is_caused_by(self, flight: Flight) -> bool:
        """Return whether it is the coroutine of this flight, which has not ended, or a task of that."""
        return flight.task is not None and (flight is self._hand or flight.task is self._task)


def ask(flights: Iterable[Flight]) -> dict[Flight, Place] | Blockage:
    """Return where coroutines wait, but for those that have ended; or what blocks their loop.

    Args:
        flights: All of one loop.
    """
    from asyncio import current_task  # it is slow to import

    loop = thread = None
    for flight in flights:
        task = flight.task
        if task is not None:
            loop, thread = task.get_loop(), flight.thread
    if loop is None or thread is None:
        return {}
    asked = list(flights)
    places: dict[Flight, Place] = {}
    is_answered = threading.Event()

    def answer() -> None:
        for flight in asked:
            task = flight.task
            if task is not None and not task.done():
                places[flight] = _place_of(task)
        is_answered.set()

    try:
        loop.call_soon_threadsafe(answer, context=Context())
    except RuntimeError:  # it was closed a moment ago, since all have ended
        return {}
    before = current_task(loop)
    # The answer comes before any task has its next turn. So if the same one is seen twice, and there is no
    # answer yet, it is in the same step.
    while not is_answered.wait(_PATIENCE):
        if all(flight.task is None for flight in asked):  # and the thread may have left the loop
            asked.clear()  # which would keep them, with their calls, until a thread comes
            return {}
        task = current_task(loop)
        if task is before:
            blockage = Blockage(task, thread)
            if not is_answered.is_set():  # else what was seen may be a later step
                return blockage
        before = task
    return places


def _place_of(task: Task[Any]) -> Place:
    """Return where a task waits. Called in the thread of its loop, outside of any task."""
    place: list[tuple[str, int, str]] = []
    awaited: Any = task.get_coro()
    while True:
        if type(awaited) is CoroutineType:
            frame, awaited = awaited.cr_frame, awaited.cr_await
        elif type(awaited) is GeneratorType:
            frame, awaited = awaited.gi_frame, awaited.gi_yieldfrom
        else:
            return tuple(place)
        if frame is not None:  # pragma: no branch  # it has not ended, or its awaiter would go on
            place.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))


def in_text(place: Place) -> str:
    """Return a place as the lines of a traceback."""
    return "".join(traceback.StackSummary.from_list([(*entry, None) for entry in place]).format())


def _stack_in(thread: threading.Thread, code: CodeType | None) -> traceback.StackSummary:
    """Return the stack of a thread, from the frame of *code* on if there is one."""
    frames = sys._current_frames()
    frame = frames.get(thread.ident or 0)
    entries = [] if frame is None else list(traceback.walk_stack(frame))
    try:
        entries.reverse()
        codes = [frame.f_code for frame, _ in entries]
        if code is not None and code in codes:
            del entries[: codes.index(code)]
        return traceback.StackSummary.extract(entries, lookup_lines=False)
    finally:
        # This frame is among them, which is a reference cycle.
        frames.clear()
        del frame, entries
