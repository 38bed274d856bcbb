"""A core whose calls are kept in a journal: what it tells of them when, and what it gets from there."""

from __future__ import annotations

import math
from collections import deque

from retrying_executor._core.core import Core
from retrying_executor._core.ending import AT_EXIT
from retrying_executor._core.settling import Settling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any, Protocol

    from retrying_executor._calls.attempt import Observer
    from retrying_executor._calls.call import Call, Hand, Settlement, Work
    from retrying_executor._calls.terms import Terms
    from retrying_executor._common.log import FollowUp
    from retrying_executor._core import core as seams

    class Keeper(seams.Keeper, Observer, Protocol):
        """Keeps the calls of one core in a journal."""

        @property
        def has_more(self) -> bool:
            """Whether there are more of them."""
            ...

        def serve(self, core: JournalledCore, /) -> None: ...
        def know(self, terms: Terms, /) -> None:
            """Calls may be submitted on these terms."""

        def add(self, call: Call, work: Work, /) -> None:
            """Write a call, before it is queued; what follows is `accepted` or `refused`."""

        def accepted(self) -> None: ...
        def refused(self, call: Call, /) -> None: ...
        def settled(self, call: Call, error: BaseException | None, /, *, is_put_down: bool) -> None:
            """A call is done, or about to be; or if it is put down only to this process."""

        def is_left_alone(self, call: Call, /) -> bool:
            """Return whether another process has accepted a call, and no thread here waits for it."""
            ...

        def adopt(self, *, is_first: bool = False) -> int:
            """Look for calls of processes that are gone; return how many there are."""
            ...

        def go_on_without_views(self) -> None: ...
        def load_more(self, *, waits: bool = False) -> None: ...
        def finish(self, running: Collection[Call] = (), /) -> None:
            """Give back the files, but those of which a call is *running*."""

        def lock_for_fork(self, timeout: float, /) -> bool: ...
        def unlock_after_fork(self) -> None: ...
        def restart_in_child(self) -> None: ...


_MOST_REMEMBERED = 1_000  # calls of other processes, with their results


class JournalledCore(Core):
    """The calls of one executor, kept in a journal.

    Args:
        crew: As for `Core`.
        keeper: What keeps them.
        options: As for `Core`.
    """

    keeper: Keeper

    def __init__(self, crew: seams.Crew, keeper: Keeper, **options: Any) -> None:
        self.keeper = keeper
        self.adopted: deque[Call] = deque(maxlen=_MOST_REMEMBERED)
        """The calls of other processes that this one went on with, the latest of them."""
        super().__init__(crew, **options)
        self.is_plain = False
        keeper.serve(self)

    def _new_settling(self, **parts: Any) -> Settling:
        keeper, monitor = self.keeper, self.monitor
        observer = keeper if monitor is None else Both(keeper, monitor)
        return JournalledSettling(keeper, **parts, observer=observer)

    @property
    def is_halted(self) -> bool:
        """Whether no attempt starts any more."""
        return self.turns.is_halted

    def submit_and_tell(self, call: Call) -> None:
        """Accept a call when it is in the journal, or raise: then it is not in there."""
        work, refusal = call._work, self.entrance.what_to_raise()
        if refusal is not None:
            raise refusal
        assert work is not None
        self.keeper.add(call, work)
        try:
            super().submit_and_tell(call)
        except BaseException:
            self.keeper.refused(call)
            raise
        self.keeper.accepted()

    def adopt(self, terms: Terms) -> Terms:
        """Prepare for calls with these terms and their upstreams; return the terms to use for them."""
        terms = super().adopt(terms)
        self.keeper.know(terms)
        return terms

    def drain(self, timeout: float | None) -> bool:
        """Wait until every call accepted so far is done, here or in a process that is gone."""
        deadline = math.inf if timeout is None else self.clock.monotonic() + timeout
        self.keeper.go_on_without_views()
        while True:
            has_more = self.keeper.has_more  # first: what is read from here on is not waited for below
            if not super().drain(timeout):
                return False
            if not has_more or self.is_halted:
                return True
            self.keeper.load_more(waits=True)
            timeout = None if deadline == math.inf else max(0.0, deadline - self.clock.monotonic())

    def shutdown(self, *, wait: bool, cancel_futures: bool, timeout: float | None) -> None:
        """Refuse calls from now on, and see to those that were accepted; see `RetryingExecutor`."""
        if not cancel_futures:
            self.keeper.go_on_without_views()
        super().shutdown(wait=wait, cancel_futures=cancel_futures, timeout=timeout)

    def close(self, reason: str = AT_EXIT) -> None:
        """Refuse calls from now on; threads leave when nothing is left to do."""
        if reason == AT_EXIT:
            self.keeper.go_on_without_views()
        super().close(reason)

    def finish(self, timeout: float | None, *, granted: float | None = None) -> None:
        """Wait until all is done; past *timeout* seconds, put down what does not run."""
        try:
            super().finish(timeout, granted=granted)
        finally:  # where this is interrupted, too
            with self.lock:
                running = self.crew.at_standstill(lambda _: self.entrance.running_calls())
            self.keeper.finish(running)

    # -- calls of processes that are gone --------------------------------------------------------

    def go_on(self, *, is_first: bool = False) -> int:
        """Look for calls of processes that are gone, and go on with them; return how many there are.

        Args:
            is_first: Whether the executor is just being made, and has no views yet.

        Raises:
            RuntimeError: If calls are refused.
        """
        refusal = self.entrance.what_to_raise()
        if refusal is not None:
            raise refusal
        return self.keeper.adopt(is_first=is_first)

    def resume(self, calls: list[Call]) -> None:
        """Queue calls that another process has accepted."""
        ledger, monitor = self.ledger, self.monitor
        self.adopted.extend(calls)
        if monitor is not None:
            for call in calls:
                monitor.submitted(call)
        with self.lock:
            for call in calls:
                due_at = call._due_at
                if due_at is None:
                    ledger.schedule.fresh.append(call)
                else:
                    ledger.schedule.add_retry(call, due_at)
            self.crew.due_at_changed(ledger.schedule)
            self.turns.update_only_fresh_until()
        self.crew.come(self)
        if monitor is not None:
            for call in calls:
                monitor.accepted(call)

    # -- around a fork ---------------------------------------------------------------------------

    def lock_for_fork(self, timeout: float) -> bool:
        """Before: no other thread is in the middle of anything here, or in SQLite."""
        if super().lock_for_fork(timeout):
            if self.keeper.lock_for_fork(timeout):
                return True
            self.unlock_after_fork()
        return False

    def unlock_after_fork(self) -> None:
        """After a fork, in the parent: go on. An interrupted `lock_for_fork` is undone, too."""
        self.keeper.unlock_after_fork()
        super().unlock_after_fork()

    def restart_in_child(self) -> None:
        """After a fork, in the child: start empty. The calls and the files are the parent's."""
        self.adopted.clear()
        self.keeper.restart_in_child()
        super().restart_in_child()


class Both:
    """Two observers of attempts: a journal, and a monitor.

    Args:
        first: Is told of the beginning first, and of the end last.
        second: The other.
    """

    def __init__(self, first: Observer, second: Observer) -> None:
        self._first = first
        self._second = second

    def started(self, call: Call, work: Work) -> None:
        """An attempt begins, in this thread."""
        self._first.started(call, work)
        self._second.started(call, work)

    def ended(self, call: Call) -> None:
        """The attempt is over, however it ended."""
        self._second.ended(call)
        self._first.ended(call)

    def followed_up(self, call: Call, news: FollowUp) -> None:
        """The attempt failed; *news* says whether another follows."""
        self._first.followed_up(call, news)
        self._second.followed_up(call, news)


class JournalledSettling(Settling):
    """Tells a journal what becomes of the calls.

    Where no attempt starts any more (`Turns.is_halted`), a call that is cancelled, or whose attempt fails, is
    *put down*: it is done in this process, and goes on in the next. A call that has failed for good by
    coincidence is made once more there.

    Args:
        keeper: What is told.
        parts: What `Settling` takes.
    """

    fate = "put down for the next process"

    def __init__(self, keeper: Keeper, **parts: Any) -> None:
        super().__init__(**parts)
        self._keeper = keeper

    def attempt(self, hand: Hand, call: Call) -> Settlement | None:
        """Make an attempt, and put the call in backoff if another follows."""
        self._keeper.load_more()
        settlement = error = unseen = None
        try:
            settlement = super().attempt(hand, call)
            if settlement is not None and not call.done():
                (_, error), unseen = settlement
                is_put_down = error is not None and self._turns.is_halted and not call._is_last
                if unseen is not None and not is_put_down and self._keeper.is_left_alone(call):
                    unseen.report()
                self._keeper.settled(call, error, is_put_down=is_put_down)
            return settlement
        finally:
            del call, settlement, error, unseen  # the exception's traceback keeps this frame

    def _became_done(self, call: Call) -> None:
        """A call was made done from outside."""
        super()._became_done(call)
        is_put_down = self._turns.is_halted and (call.cancelled() or call._exception is not None)
        self._keeper.settled(call, call._exception, is_put_down=is_put_down)
        self._keeper.load_more()  # it may have been the one that others wait for
