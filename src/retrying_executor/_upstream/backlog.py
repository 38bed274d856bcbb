"""How many calls to one service are pending, over all executors, and the submitters that wait for room.

Calls become done under the locks of cores and workers, so what a call does then takes no lock. Only
submitters take ``_door``, and each waits for it only briefly: the thread that holds it may be in a destructor
that submits, and so wait for a lock that this submitter holds. A submitter that did not get it goes on
without it: the limit holds in any case, but two submitters may refuse each other the last room.
"""

from __future__ import annotations

import threading
import weakref
from contextlib import suppress
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Member(Protocol):
        """A call that is pending."""

        _leave_backlogs: tuple[Callable[[], object], ...]
        """Called when it is done: one for each backlog that it is in."""


_LOCK_TIMEOUT = 0.05  # seconds


class Backlog:
    """The pending calls of a service that has a limit on them.

    Args:
        name: That of the service.
        max_pending: How many there may be.
    """

    __slots__ = ("_door", "_line", "_max_pending", "_name", "_pending")

    def __init__(self, name: str, max_pending: int) -> None:
        self._name = name
        self._max_pending = max_pending
        self._pending: set[weakref.ref[Member]] = set()
        self._line: list[threading.Lock] = []  # where submitters wait for room; an empty deque takes more
        self._door = threading.RLock()  # reentrant for the sake of destructors and signal handlers

    def alike(self, name: str) -> Backlog:
        """Return an empty one with the same limit."""
        return Backlog(name, self._max_pending)

    @property
    def fullness(self) -> str:
        """What to say when it is full."""
        calls = f"{self._max_pending} calls of upstream {self._name!r}"
        return f"{calls} are pending, as many as its max_pending allows"

    def admit(self, call: Member) -> bool:
        """If there is room, count a call that is about to be accepted, until it is done; return whether."""
        reference = weakref.ref(call, self._leave)
        try:
            self._door.acquire(timeout=_LOCK_TIMEOUT)  # in here: a signal handler may raise right after it
            # Before the check: a signal handler that submits in between must find this call counted.
            self._pending.add(reference)
            if len(self._pending) > self._max_pending:
                self._pending.discard(reference)
                return False
            call._leave_backlogs += (partial(self._leave, reference),)
            return True
        finally:
            try:  # noqa: SIM105  # suppress() could be interrupted before it has begun
                self._door.release()
            except RuntimeError:
                pass  # it was not taken: another thread has held it for too long

    def _leave(self, reference: weakref.ref[Member]) -> None:
        """A call is done: there is room for another. Needs no lock."""
        self._pending.discard(reference)  # publish first, then look
        self.call_next()

    def call_next(self) -> None:
        """There may be room: wake the submitter that has waited longest for it. Needs no lock."""
        with suppress(IndexError, RuntimeError):  # no submitter waits, or its latch is open already
            self._line.pop(0).release()

    def line_up(self, latch: threading.Lock) -> None:
        """From now on open *latch* when there is room. The submitter that waits at it then looks again."""
        self._line.append(latch)

    def step_out(self, latch: threading.Lock) -> bool:
        """Do not open *latch* any more; return whether it was opened already: then there is room to take."""
        try:
            self._line.remove(latch)
        except ValueError:
            return True
        return False

    def clear(self) -> None:
        """Forget the calls that are pending."""
        self._pending.clear()

    def restart_in_child(self) -> None:
        """After a fork, in the child: no call is pending, and nobody waits."""
        self._door = threading.RLock()
        self._pending.clear()
        self._line.clear()
