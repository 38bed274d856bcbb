"""A stand-in for the queue of a standard executor, for clients that look into it.

google-cloud-pubsub does when it ends: it takes out the calls that have not begun, and gives their messages
back to the service.
"""

from __future__ import annotations

from queue import Empty
from types import SimpleNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from retrying_executor._calls.call import Call

    class Source(Protocol):
        """What this asks of a core."""

        def untried(self) -> list[Call]: ...
        def take_out(self, call: Call, /) -> bool: ...


class WorkQueue:
    """The calls that wait for their first attempt, as a queue that can be emptied; nothing can be put in.

    Args:
        core: The core of these calls.
    """

    def __init__(self, core: Source) -> None:
        self._core = core
        self._seen: list[Call] = []  # the first one last; listed once, not with every `get`

    def qsize(self) -> int:
        """Return how many there are."""
        return len(self._core.untried())

    def empty(self) -> bool:
        """Return whether there is none."""
        return not self._core.untried()

    def get(self, block: bool = True, timeout: float | None = None) -> SimpleNamespace:
        """Take the next call out for good: it is cancelled. Never waits, whatever the arguments.

        Returns:
            Its ``future``, ``fn``, ``args`` and ``kwargs``; and, as from Python 3.14 on, the last three as a
            tuple, its ``task``.

        Raises:
            Empty: If there is none.
        """
        while True:
            if not self._seen:
                self._seen = self._core.untried()[::-1]
            if not self._seen:
                raise Empty
            call = self._seen.pop()
            work = call._work
            if work is not None and self._core.take_out(call):
                fn, args, kwargs, _ = work
                task = (fn, args, kwargs)
                return SimpleNamespace(future=call, fn=fn, args=args, kwargs=kwargs, task=task)

    get_nowait = get
