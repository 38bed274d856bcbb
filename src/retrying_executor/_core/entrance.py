"""Which calls are accepted, and where their submitters wait for room."""

from __future__ import annotations

import threading
from concurrent.futures import BrokenExecutor
from contextlib import suppress

from retrying_executor._calls.current import current, interrupted_hand
from retrying_executor._common.errors import PendingLimitError, refusal_like
from retrying_executor._common.stdlib import HAS_GIL, is_held

TYPE_CHECKING = False
if TYPE_CHECKING:
    from retrying_executor._calls.call import Call
    from retrying_executor._calls.ledger import Ledger
    from retrying_executor._core.turns import Crew
    from retrying_executor._upstream.backlog import Backlog


class Entrance:
    """The door of a core.

    Args:
        lock: The core's.
        ledger: Its calls.
        crew: What makes the attempts.
        max_pending: How many calls may be accepted and not done; ``None``: no limit.
        waits_when_full: Whether ``submit()`` waits for room instead of raising.
        is_bounded: Whether calls may have an upstream that limits its backlog.
        refusal: What ``submit()`` raises, if calls are refused from the start; or ``None``.
    """

    def __init__(
        self,
        *,
        lock: threading.RLock,
        ledger: Ledger,
        crew: Crew,
        max_pending: int | None,
        waits_when_full: bool,
        is_bounded: bool,
        refusal: Exception | None,
    ) -> None:
        self._lock = lock
        self._ledger = ledger
        self._crew = crew
        self._in_line: set[threading.Lock] = set()  # the latches at which submitters wait for room
        self.max_pending = max_pending
        self._waits_when_full = waits_when_full
        self.is_bounded = is_bounded
        self.refusal = refusal
        self.submits_without_lock = False
        """Whether a call is queued without the lock: nothing has to be checked before that."""
        self._update()

    def _update(self) -> None:
        self.submits_without_lock = (
            HAS_GIL and self.refusal is None and not self.is_bounded and self.max_pending is None
        )

    def bound(self) -> None:
        """From now on calls may have an upstream that limits its backlog."""
        self.is_bounded = True
        self._update()

    def close(self, refusal: Exception) -> None:
        """Accept no call from now on, and tell the submitters that wait for room. Called under the lock.

        Args:
            refusal: What ``submit()`` raises. That of a broken core replaces an earlier one; others do not.
        """
        if self.refusal is None or isinstance(refusal, BrokenExecutor):
            self.refusal = refusal
        self._update()
        self._open_all()

    def wake_submitters(self) -> None:
        """Have submitters look for room again, since a call may have become done. Called under the lock."""
        if self.max_pending is not None:
            self._open_all()

    def _open_all(self) -> None:
        """Wake all submitters that wait for room, so that they look again."""
        for latch in self._in_line.copy():
            with suppress(RuntimeError):  # it is open already
                latch.release()

    def what_to_raise(self) -> Exception | None:
        """Return what ``submit()`` is to raise, if calls are refused: a new exception each time."""
        return None if self.refusal is None else refusal_like(self.refusal)

    def admit(self, call: Call) -> None:
        """Queue a call, if it may be accepted, where that has to be checked first.

        Raises:
            RuntimeError, BrokenThreadPool: If calls are refused.
            PendingLimitError: If there is no room and waiting is not asked for, or is impossible.
        """
        if _backlogs_of(call):
            call._core.observe(call)  # or a worker would make it done in `shortcut`, which leaves no backlog
        if self._crew.interrupted_hand() is not None:
            # This thread must not wait for the core's lock, see `interrupted_hand`. Without it, a few calls
            # more than the limit may get in.
            full, _ = self._let_in(call)
            if full is not None:
                raise PendingLimitError(full)
            return
        with self._lock:
            full, _ = self._let_in(call)
        if full is not None:
            self._admit_later(call)

    def _admit_later(self, call: Call) -> None:
        """Queue a call as soon as there is room; see `admit`."""
        holds_upstream = any(places.is_locked_here() for places in call._terms.places)
        holds_lock = interrupted_hand() is not None or is_held(self._lock) or holds_upstream
        may_wait = self._waits_when_full and not holds_lock  # other threads may need the lock to make room
        waiter = _Waiter(self._in_line, call._core.make_latch(call))
        try:
            while True:
                with self._lock:
                    full, backlog = self._let_in(call)
                    if full is None:
                        waiter.is_called = False
                        return
                    self._check_wait(full, backlog, may_wait=may_wait)
                    # Publish that this submitter waits, then look once more: a backlog gets room without this
                    # lock, so perhaps after the look above, and before it had a latch to open.
                    if waiter.line_up(backlog):
                        continue
                waiter.wait()
        finally:
            waiter.leave()

    def _let_in(self, call: Call) -> tuple[str | None, Backlog | None]:
        """Queue a call if there is room; else return what is full, and its backlog if it is an upstream."""
        limit = self.max_pending
        refusal = self.what_to_raise()
        if refusal is not None:
            raise refusal
        if limit is not None and self._count_pending() >= limit:
            return f"{limit} calls are pending, as many as max_pending allows", None
        for backlog in _backlogs_of(call):
            if not backlog.admit(call):
                call._leave_all_backlogs()
                return backlog.fullness, backlog
        self._ledger.schedule.fresh.append(call)
        return None, None

    def _count_pending(self) -> int:
        """Return how many calls are accepted and not done."""
        return len(self._ledger.schedule) + len(self.running_calls())

    def running_calls(self) -> list[Call]:
        """Return the calls of which an attempt runs. Called under the lock."""
        calls = [hand.call for hand in self._crew.hands()]
        return [call for call in calls if call is not None and call.running()]

    def _check_wait(self, full: str, backlog: Backlog | None, *, may_wait: bool) -> None:
        """Raise if waiting for room is not asked for, or could be for ever.

        Args:
            full: What is full, in words.
            backlog: The backlog that is full; ``None`` if the executor is.
            may_wait: Whether waiting is asked for, and possible.
        """
        if not may_wait:
            raise PendingLimitError(full)
        running = None if current.hand is None else current.hand.call
        is_of_upstream = running is not None and backlog in _backlogs_of(running)
        if is_of_upstream or self._crew.includes_current_thread():
            raise PendingLimitError(
                f"{full}, and the executor's own threads cannot wait: they might wait for themselves"
            )


class _Waiter:
    """A submitter that waits for room: in the line of its executor, and perhaps in the line of a backlog.

    Args:
        line: The line of the executor: the latches that are opened when there may be room.
        latch: The latch at which the submitter waits.
    """

    def __init__(self, line: set[threading.Lock], latch: threading.Lock) -> None:
        self._line = line
        self._latch = latch
        self._backlog: Backlog | None = None  # the one that was full when the submitter looked last
        self.is_called = False
        """Whether that backlog has called this submitter, for room that it has not taken yet."""

    def line_up(self, backlog: Backlog | None) -> bool:
        """Get in line; return ``False`` if it was in the same line already. Called under the core's lock.

        Args:
            backlog: The backlog that is full; ``None`` if the executor is.
        """
        if self._latch in self._line and backlog is self._backlog:
            return False
        if backlog is self._backlog:
            self.is_called = False  # another call has taken the room that it was called for
        else:
            self.leave()
            self._backlog = backlog
        self._line.add(self._latch)
        if backlog is not None:
            backlog.line_up(self._latch)
        return True

    def wait(self) -> None:
        """Wait until there may be room, or calls are refused."""
        self._latch.acquire()
        self._step_out()

    def leave(self) -> None:
        """Leave the line, and pass on room for which this submitter was called and that it did not take."""
        if self._latch in self._line:
            self._step_out()
        if self._backlog is not None and self.is_called:
            self.is_called = False
            self._backlog.call_next()

    def _step_out(self) -> None:
        self._line.discard(self._latch)
        if self._backlog is not None and self._backlog.step_out(self._latch):
            self.is_called = True


def _backlogs_of(call: Call) -> list[Backlog]:
    """Return the backlogs that count a call: those of its upstreams that limit them."""
    return [places.backlog for places in call._terms.places if places.backlog is not None]
