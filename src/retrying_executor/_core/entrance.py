"""Which calls come in: whether any are accepted, and where their submitters wait for room."""

from __future__ import annotations

import threading
from concurrent.futures import BrokenExecutor
from contextlib import suppress

from retrying_executor._calls.current import amid, current
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
        crew: Those that make the attempts.
        max_pending: How many calls may be accepted and not done; ``None``: no limit.
        waits_when_full: Whether ``submit()`` waits for room instead of raising.
        is_bounded: Whether an upstream that calls may have has a limit of its own.
        refusal: What ``submit()`` raises, if it does already.
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
        self._in_line: set[threading.Lock] = set()  # at which submitters wait for room
        self.max_pending = max_pending
        self._waits_when_full = waits_when_full
        self.is_bounded = is_bounded
        self.refusal = refusal
        self.submits_without_lock = False
        """Whether calls are queued without the lock: with nothing to look at before."""
        self._look()

    def _look(self) -> None:
        self.submits_without_lock = (
            HAS_GIL and self.refusal is None and not self.is_bounded and self.max_pending is None
        )

    def bound(self) -> None:
        """From now on calls may have an upstream with a limit of its own."""
        self.is_bounded = True
        self._look()

    def close(self, refusal: Exception) -> None:
        """Accept no call from now on, and tell the submitters that wait for room. Called under the lock.

        Args:
            refusal: What ``submit()`` raises. That the core is broken stands for what it raised before.
        """
        if self.refusal is None or isinstance(refusal, BrokenExecutor):
            self.refusal = refusal
        self._look()
        self._open_all()

    def made_done(self) -> None:
        """A call may have become done: there may be room. Called under the lock."""
        if self.max_pending is not None:
            self._open_all()

    def _open_all(self) -> None:
        """Have all submitters look that wait for room."""
        for latch in self._in_line.copy():
            with suppress(RuntimeError):  # it is open already
                latch.release()

    def what_to_raise(self) -> Exception | None:
        """Return what ``submit()`` is to raise, if calls are refused: an exception of its own each time."""
        return None if self.refusal is None else refusal_like(self.refusal)

    def admit(self, call: Call) -> None:
        """Queue a call if it may be accepted, where that takes a look.

        Raises:
            RuntimeError, BrokenThreadPool: If calls are refused.
            PendingLimitError: If there is no room and waiting is not asked for, or is impossible.
        """
        if _backlogs_of(call):
            call._core.observe(call)  # so that whatever makes it done sees that there is more to do
        is_amid = self._crew.amid() is not None
        is_amid_upstream = any(places.is_held() for places in call._terms.places)
        is_amid_any = amid() is not None or is_held(self._lock) or is_amid_upstream
        may_wait = self._waits_when_full and not is_amid_any  # others may need what this thread holds
        if is_amid:  # it must not wait for the core's lock: so a few calls more than the limit may get in
            full, _ = self._let_in(call)
            if full is not None:
                raise PendingLimitError(full)
            return
        waiter = _Waiter(self._in_line, call._core.make_latch(call))
        try:
            while True:
                with self._lock:
                    full, backlog = self._let_in(call)
                    if full is None:
                        waiter.is_called = False
                        return
                    self._check_wait(full, backlog, may_wait=may_wait)
                    if waiter.line_up(backlog):  # publish first, then look once more
                        continue
                waiter.wait()
        finally:
            waiter.leave()

    def _let_in(self, call: Call) -> tuple[str | None, Backlog | None]:
        """Queue a call if there is room; else return what is full, and the backlog if that is one."""
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
            full: What is to be said then.
            backlog: That of the upstream, if it is that which is full.
            may_wait: Whether waiting is asked for.
        """
        if not may_wait:
            raise PendingLimitError(full)
        running = None if current.holder is None else current.holder.call
        is_of_upstream = running is not None and backlog in _backlogs_of(running)
        if is_of_upstream or self._crew.includes_current_thread():
            raise PendingLimitError(
                f"{full}, and the executor's own threads cannot wait: they might wait for themselves"
            )


class _Waiter:
    """A submitter that waits for room: in the line of its executor, and perhaps in that of an upstream.

    Args:
        line: That of the executor: the latches that are opened when there may be room.
        latch: At which it waits.
    """

    def __init__(self, line: set[threading.Lock], latch: threading.Lock) -> None:
        self._line = line
        self._latch = latch
        self._backlog: Backlog | None = None  # of the upstream that was full when it looked last
        self.is_called = False
        """Whether it was called by that, for room that it has not taken."""

    def line_up(self, backlog: Backlog | None) -> bool:
        """Be called when there is room; return whether that is new. Called under the core's lock.

        Args:
            backlog: Of the upstream that is full, if it is one.
        """
        if self._latch in self._line and backlog is self._backlog:
            return False
        if backlog is self._backlog:
            self.is_called = False  # in vain
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
        """Wait no more: what it was called for is for another."""
        if self._latch in self._line:
            self._step_out()
        self._pass_on()

    def _step_out(self) -> None:
        self._line.discard(self._latch)
        if self._backlog is not None and self._backlog.step_out(self._latch):
            self.is_called = True

    def _pass_on(self) -> None:
        if self._backlog is not None and self.is_called:
            self.is_called = False
            self._backlog.call_next()


def _backlogs_of(call: Call) -> list[Backlog]:
    """Return the backlogs in which a call is counted: of those of its upstreams that have a limit on that."""
    return [places.backlog for places in call._terms.places if places.backlog is not None]
