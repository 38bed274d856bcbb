"""An attempt of a coroutine function, from its launch until a worker takes it up again."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial

from retrying_executor._calls.attempt import cut_older, own_decimal_context
from retrying_executor._calls.call import Hand
from retrying_executor._calls.current import flight
from retrying_executor._common.exceptions import traceback_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Callable, Coroutine
    from contextvars import Context
    from typing import Any

    from retrying_executor._calls.call import Call, Outcome, Work
    from retrying_executor._upstream.gate import Permit
    from retrying_executor._upstream.several import JointPermit


class Flight(Hand):
    """What holds a call while a coroutine of it runs, or is about to.

    Args:
        call: The call.
        work: What it runs.
        permit: That of its upstreams, if it has any.
        coroutine: What its function has returned.
        place: Which of the places for coroutines it takes.
        lock: The core's.
    """

    __slots__ = (
        "_previous",
        "_traceback",
        "context",
        "coroutine",
        "is_called_off",
        "place",
        "task",
        "thread",
    )

    is_thread = False

    def __init__(
        self,
        call: Call,
        work: Work,
        permit: Permit | JointPermit | None,
        coroutine: Coroutine[Any, Any, Any],
        place: int,
        lock: threading.RLock,
    ) -> None:
        super().__init__(lock)
        self.call = call
        self.permit = permit
        self.coroutine: Coroutine[Any, Any, Any] | None = coroutine  # until there is a task
        self.task: Task[Any] | None = None
        self.thread: threading.Thread | None = None  # of its event loop, once there is a task
        self.place = place
        self.is_called_off = False  # the call is done: cancel the task
        self._previous = call._last[1]
        self._traceback = None if self._previous is None else traceback_of(self._previous)
        *_, context = work
        self.context: Context | None = context.copy()
        self.context.run(self._enter)

    def _enter(self) -> None:
        """Make this what `current_call` sees in the coroutine, and give that a decimal context of its own."""
        if self.context and "decimal" in sys.modules:
            own_decimal_context()
        flight.set(self)

    def take_off(
        self,
        loop: AbstractEventLoop,
        has_ended: Callable[[Flight, Task[Any]], object],
        context: Context,
    ) -> Outcome | None:
        """Make a task of the coroutine. Called in the thread of the event loop.

        Args:
            loop: The event loop.
            has_ended: Called when the task has ended, in *context*.
            context: An empty one.

        Returns:
            What the attempt has ended with, if there is no task; else ``None``.
        """
        coroutine, own = self.coroutine, self.context
        assert coroutine is not None
        assert own is not None
        try:
            self.task = task = own.run(loop.create_task, coroutine)
            task.add_done_callback(partial(has_ended, self), context=context)
        except BaseException as error:  # of a task factory of the program, or of what that has returned
            with suppress(BaseException):
                coroutine.close()
            return None, error
        self.coroutine = self.context = None
        if self.is_called_off:
            task.cancel()
        return None

    def cancel(self) -> None:
        """Cancel the task, if there is one. Called in the thread of the event loop."""
        if self.task is not None:
            self.task.cancel()

    def hand_over(self, hand: Hand) -> Call:
        """Give a hand the call and what goes with it, after landing. Called under the lock of the hand."""
        call = hand.call = self.call
        assert call is not None
        hand.permit, hand.landed = self.permit, self.landed
        call._worker = hand
        self.call = self.permit = self.landed = None
        return call

    def land(self, outcome: Outcome) -> None:
        """The coroutine has ended like that. Called in the thread of the event loop."""
        self.coroutine = self.task = self.context = None
        cut_older(outcome[1], self._previous, self._traceback)
        self.landed = outcome
        self._previous = self._traceback = None


def outcome_of(task: Task[Any]) -> Outcome:
    """Return what a task has ended with. One that was cancelled raises no more than that."""
    try:
        exception = task.exception()
    except BaseException as error:
        if sys.version_info < (3, 11) and error.__context__ is not None:  # that of the task: this is new
            return None, error.__context__
        # Its traceback begins with this frame, which keeps it: cut that off, or only the collector frees it.
        traceback = traceback_of(error)
        exception = error.with_traceback(None if traceback is None else traceback.tb_next)
        del traceback  # that part still refers to this frame
    return (task.result(), None) if exception is None else (None, exception)
