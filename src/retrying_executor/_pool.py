"""What all others do with the calls of one executor: submit them, wait for them, end them, fork.

The uppermost of three floors; what stays true, and under which lock, stands in `_calls`.
"""

from __future__ import annotations

import math
import threading
import time

from retrying_executor import _log
from retrying_executor._current import current
from retrying_executor._errors import ForkedFutureError, PendingLimitError, final, refusal_like
from retrying_executor._stdlib import is_held
from retrying_executor._workers import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from retrying_executor._crew import Worker
    from retrying_executor._schedule import Call
    from retrying_executor._stats import Stats
    from retrying_executor._upstream import Upstream

_AFTER_SHUTDOWN = "cannot schedule new futures after shutdown"
_AT_EXIT = "cannot schedule new futures after interpreter shutdown"
_ARRIVAL_TIMEOUT = 0.05  # seconds


class Pool(Workers):
    """What an executor, its views and its futures share; lives as long as there is something to do."""

    # -- calls come in ---------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Accept a call, or raise: then it never runs.

        Raises:
            RuntimeError: After shutdown, or if there is no thread and none can be started.
            BrokenThreadPool: If the initializer failed.
            PendingLimitError: If there is no room and waiting is not asked for, or is impossible.
        """
        error = None
        is_queued = self._is_open
        try:
            if is_queued:
                self._fresh.append(call)  # publish first,
            else:
                self._admit(call)
                is_queued = True
            if self._crew.can_summon or self._refusal is not None:  # then look
                error = self._see_to(call)
        except BaseException as error_or_interrupt:  # who submits will not get the future
            if is_queued or not isinstance(error_or_interrupt, RuntimeError):  # of a signal handler
                self._change(call, self._ledger.refuse)
            raise
        try:
            if error is not None and self._change(call, self._ledger.refuse):  # or it was taken up meanwhile
                raise error
        finally:
            del error  # its traceback keeps this frame

    def _admit(self, call: Call) -> None:
        """Queue a call if it may be accepted: where there is a limit, or no GIL, or after shutdown."""
        may_wait = self._wait_when_full and not is_held(self._lock)
        upstream = call._work[4].upstream if call._work is not None else None
        if upstream is not None and upstream.is_bounded:
            self._admit_to(upstream, call, may_wait=may_wait)
            return
        with self._lock:
            self._pass_limit(may_wait=may_wait)
            self._fresh.append(call)

    def _admit_to(self, upstream: Upstream, call: Call, *, may_wait: bool) -> None:
        """Queue a call if it may be accepted, as for its upstream too."""
        self.observe(call)  # so that whoever makes it done sees that there is more to do
        latch, is_in_line = threading.Lock(), False
        latch.acquire()
        try:
            while True:
                with self._lock:
                    self._pass_limit(may_wait=may_wait)
                    if upstream.admit(call):
                        self._fresh.append(call)
                        return
                    self._check_wait(upstream.fullness, may_wait=may_wait, upstream=upstream)
                    if not is_in_line:  # publish first, then look once more
                        is_in_line = True
                        self._in_line.add(latch)
                        upstream.line_up(latch)
                        continue
                latch.acquire()
                is_in_line = False
        finally:
            if latch in self._in_line:
                self._in_line.discard(latch)
                upstream.step_out(latch)

    def _pass_limit(self, *, may_wait: bool) -> None:
        """Return when the executor accepts one more call, or raise."""
        if self._max_pending is not None:
            self._make_room(self._max_pending, may_wait=may_wait)
        if self._refusal is not None:
            raise refusal_like(self._refusal)

    def _see_to(self, call: Call) -> Exception | None:
        """See that a call which was queued a moment ago is taken up, or return why it is to be refused.

        If that starts a thread, wait for a moment until it took up its first call, or began its initializer.
        So it is with the standard executor, and programs cancel or fork right after ``submit()``. It is
        bounded, since a destructor or a signal handler may get here in a critical section.
        """
        error, crew = None, self._crew
        try:
            while True:
                with self._lock:
                    if self._refusal is not None:
                        return refusal_like(self._refusal)
                    if crew.can_summon and error is None:
                        error = self._call_for_help(time.monotonic())
                    if not crew.members:
                        return error  # nobody would run it; all accepted before have had somebody
                    helper = crew.on_the_way or next(iter(crew.newborns), None)
                    if helper is not None and helper.is_starting and not crew.is_starved:
                        # Another thread starts it. Were all to wait for that, each with one call, it would
                        # have left by the time that they go on.
                        self._on_credit.extend([call] * (helper in crew.newborns))
                        break
                error = self._start_newborns() or error
                if helper is None or helper.arrival is None or self._has_come(helper, call):
                    break
        finally:
            del error  # its traceback keeps this frame
        return None

    def _has_come(self, helper: Worker, call: Call) -> bool:
        """Wait for a moment until a worker arrives that *call* may need.

        Returns:
            ``False`` if it was withdrawn: its thread could not be started.
        """
        helper.await_arrival(_ARRIVAL_TIMEOUT)
        with self._lock:
            if helper in self._crew.newborns:  # this may be what keeps it from being started
                self._on_credit.append(call)
                return True
            return helper.arrival is None or helper in self._crew.members

    def _make_room(self, limit: int, *, may_wait: bool) -> None:
        """Return when fewer than *limit* calls are pending, or when calls are refused."""
        while self._refusal is None and self._count_pending() >= limit:
            self._check_wait(f"{limit} calls are pending, as many as max_pending allows", may_wait=may_wait)
            try:
                self._room.wait()
            except BaseException:  # of a signal handler, which may have raised when this gave up the lock
                if not is_held(self._lock):
                    self._lock.acquire()
                raise

    def _check_wait(self, full: str, *, may_wait: bool, upstream: Upstream | None = None) -> None:
        """Raise if there is no room, and waiting for it is not asked for, or could be for ever."""
        holder = current.holder
        work = None if holder is None or holder.call is None else holder.call._work
        is_of_upstream = upstream is not None and work is not None and work[4].upstream is upstream
        if may_wait and (is_of_upstream or self._crew.includes_current_thread()):
            raise PendingLimitError(
                f"{full}, and the executor's own threads cannot wait: they might wait for themselves"
            )
        if not may_wait:
            raise PendingLimitError(full)

    def serve(self, upstream: Upstream | None) -> None:
        """From now on calls may have this upstream, or none."""
        if upstream is not None:
            upstream.enter(self.monitor)
            if upstream not in self._served:
                with self._lock:  # others may be listing them
                    self._served.add(upstream)
            if upstream.is_bounded:
                self._is_bounded, self._is_open = True, False
        if upstream is not self._upstream and not self._is_mixed:
            with self._lock:
                self._is_mixed = True
                self._look_ahead()
                self._at_standstill(
                    bool
                )  # from now on all have seen it: nobody takes a call without the lock
                self._upstream = None  # not before, or somebody who goes on asks for no place

    # -- the end ---------------------------------------------------------------------------------

    def shutdown(self, *, wait: bool, cancel_futures: bool, timeout: float | None) -> None:
        """Refuse calls from now on, and see to those that were accepted; see `RetryingExecutor`."""
        self.close(_AFTER_SHUTDOWN)
        if cancel_futures:
            self._halt()
        if wait and not self.is_own_thread():
            began_at = time.monotonic()
            self.finish(timeout)
            if self.monitor is not None:
                left = math.inf if timeout is None else max(0.0, began_at + timeout - time.monotonic())
                self.monitor.finish(left)

    def close(self, reason: str = _AT_EXIT) -> None:
        """Refuse calls from now on; threads leave when nothing is left to do."""
        with self._lock:
            if self._refusal is None:
                self._refusal = RuntimeError(reason)
            self._is_open = False
            self._turn_away()
            self._room.notify_all()
            self._crew.wake_all()

    def abandon(self) -> None:
        """The executor is gone: threads leave when nothing is left to do. Takes no lock."""
        self._abandoned = True
        self._crew.wake_all()

    def finish(self, timeout: float | None, *, granted: float | None = None) -> None:
        """Wait until all threads have ended; past *timeout* seconds, cancel what does not run.

        If that is the rest of a longer one, *granted*, the log names the latter.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        if self._outlast(deadline):
            return
        cancelled = self._halt()
        with self._lock:
            running = self._running_calls()
        assert timeout is not None  # there is nothing to run out of otherwise
        _log.time_is_up(cancelled, running, timeout if granted is None else granted)

    def interrupt(self) -> None:
        """Ctrl-C: refuse calls, cancel those that wait, and say so; attempts that run go on."""
        self.close(_AFTER_SHUTDOWN)
        cancelled = self._halt()
        with self._lock:
            running = self._running_calls()
        _log.interrupted(cancelled, running)

    def retire(self, timeout: float) -> bool:
        """Wait until all is done and the threads are gone, for *timeout* seconds; return whether they are."""
        idle_timeout = self._idle_timeout
        try:
            with self._lock:
                self._idle_timeout = 0.0
                self._crew.wake_all()
            return self._outlast(time.monotonic() + timeout)
        finally:
            self._idle_timeout = idle_timeout

    def _outlast(self, deadline: float) -> bool:
        """Wait until all threads have ended, for as long as until *deadline*; return whether they have."""
        while True:
            self._start_newborns()
            newborns, threads = self._crew.newborns.copy(), self._crew.threads()
            # Last: after a start that failed they get one more try.
            on_credit = [call for call in self._on_credit.copy() if not call.done()]
            if not newborns and not threads and not on_credit:
                return True
            patience = min(deadline - time.monotonic(), threading.TIMEOUT_MAX)
            if patience <= 0:
                return False
            if threads:
                threads[0].join(None if deadline == math.inf else patience)
            elif newborns:
                newborns[0].await_arrival(-1.0 if deadline == math.inf else patience)
            else:  # pragma: no cover  # a race: tests/schedules
                on_credit[0]._wait(None if deadline == math.inf else patience)

    def drain(self, timeout: float | None) -> bool:
        """Wait until every call accepted so far is done; return whether they all are."""
        if self.is_own_thread():
            raise final(RuntimeError("drain() in one of the executor's own threads would wait for itself"))
        with self._lock:
            calls = self._at_standstill(lambda _: [*self._running_calls(), *self._ledger.schedule.waiting()])
        deadline = None if timeout is None else time.monotonic() + timeout
        for call in calls:
            patience = None if deadline is None else min(deadline - time.monotonic(), threading.TIMEOUT_MAX)
            if not call._wait(patience):
                return False
        return True

    def untried(self) -> list[Call]:
        """Return the calls that wait for their first attempt."""
        with self._lock:
            waiting = self._ledger.schedule.waiting
            return self._at_standstill(lambda _: [call for call in waiting() if not call._attempts])

    def take_out(self, call: Call) -> bool:
        """Cancel a call if it waits for its first attempt; return whether that is so."""
        return self._change(call, self._ledger.take_out)

    def _halt(self) -> int:
        """Start no attempt any more, and cancel every call that waits; return how many those are."""
        with self._lock:
            self._halted = True
            self._look_ahead()
            waiting = len(self._ledger.schedule)
            self._crew.wake_all()
        self._clear()
        return waiting

    def _count_pending(self) -> int:
        """Return how many calls are accepted and not done."""
        return len(self._ledger.schedule) + len(self._running_calls())

    def _running_calls(self) -> list[Call]:
        calls = [worker.call for worker in list(self._crew.members)]
        return [call for call in calls if call is not None and call.running()]

    def is_own_thread(self) -> bool:
        return self._crew.includes_current_thread()

    # -- around a fork ---------------------------------------------------------------------------

    def lock_for_fork(self, timeout: float) -> bool:
        """Before: no other thread is in the middle of anything here, unless that takes too long."""
        self._stopped = []  # first: an interruption may come right after the lock is taken
        if not self._lock.acquire(timeout=timeout):
            self._stopped = None
            return False
        self._stop_workers(self._stopped)
        return True

    def unlock_after_fork(self) -> None:
        """After, in the parent: go on, however far `lock_for_fork` has come."""
        if self._stopped is not None:
            self._let_go_on(self._stopped)
            if is_held(self._lock):  # pragma: no branch  # see tests/untraced
                self._lock.release()
            self._stopped = None

    def restart_in_child(self) -> None:
        """After, in the child: start empty. The calls are the parent's, and so are the threads."""
        error = "the call belongs to the process that this one was forked from"
        calls = {*self._running_calls(), *self._ledger.schedule.waiting()}
        calls.update(call for ref in self._observed.copy() if (call := ref()) is not None)
        self._reset()
        for call in calls:
            call._orphan(ForkedFutureError(error))

    # -- what can be seen from outside -----------------------------------------------------------

    def upstreams(self) -> list[Upstream]:
        """Return the upstreams to which calls may go, or have gone."""
        with self._lock:
            return list(self._served)

    def stats(self) -> Stats:
        """Return a consistent snapshot."""
        with self._lock:
            return self._at_standstill(lambda _: self._ledger.stats(time.monotonic(), self._crew.members))
