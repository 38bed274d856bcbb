"""The watchdog, which logs attempts that run for long."""

from __future__ import annotations

import math
import sys
import threading
import time
import traceback
from contextlib import suppress

from retrying_executor._calls import attempt
from retrying_executor._calls.call import name_of
from retrying_executor._calls.flight import Flight
from retrying_executor._common import log
from retrying_executor._common.stdlib import HAS_DAEMONS, own_context
from retrying_executor._observe import coroutines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

    from retrying_executor._calls.call import Call, Work

_GRACE = 1.0  # seconds
_LOOKS = 10
"""How often the loop is asked within *warn_after*. So coroutines that began together are logged together."""


class Watchdog:
    """Logs attempts that run for long: each after *warn_after* seconds, after twice that, and so on.

    Its thread starts with an attempt, and leaves when none has been running for a while. ``_lock`` guards
    everything but ``_wake``, which wakes the thread.

    Args:
        warn_after: After how many seconds; more than 0.
        thread_name: What the name of its thread begins with.
    """

    def __init__(self, warn_after: float, thread_name: str) -> None:
        self._warn_after = warn_after
        self._thread_name = thread_name
        self.restart()

    def restart(self) -> None:
        """Start with nothing, as in a forked child."""
        self._lock = threading.RLock()  # reentrant for the sake of destructors and signal handlers
        self._wake = threading.Event()
        self._running: dict[Call, Run] = {}
        self._asks_at = 0.0  # from when on the loop may be asked again
        self._is_idle = False  # whether the thread is about to leave
        self._grace = _GRACE  # how long it stays while no attempt is running, in seconds
        self._thread: threading.Thread | None = None

    def began(self, call: Call, work: Work) -> None:
        """An attempt begins, in this thread."""
        with self._lock:
            self._running[call] = Run(call, work, self._warn_after)
            if self._thread is None:
                thread = threading.Thread(
                    target=self._watch,
                    name=f"{self._thread_name}-watchdog",
                    daemon=HAS_DAEMONS,
                    **own_context(),
                )
                with suppress(RuntimeError):  # no thread can be started: the next attempt tries again
                    thread.start()
                    self._thread = thread
            if self._is_idle:
                self._wake.set()  # else it might sleep until after the first warning is due

    def ended(self, call: Call) -> None:
        """The attempt is over."""
        with self._lock:
            self._running.pop(call, None)
            if not self._running:
                self._wake.set()  # so that its time to leave begins now

    def finish(self, timeout: float) -> None:
        """Nothing runs any more: wait until the thread has left, for *timeout* seconds at most."""
        with self._lock:
            thread = self._thread
            self._grace = 0.0
            self._wake.set()
        if thread not in (None, threading.current_thread()) and not self._running:
            thread.join(timeout)  # with a timeout: it may be logging

    def _watch(self) -> None:
        sleeps_for: float | None = 0.0
        while sleeps_for is not None:
            is_woken = self._wake.wait(sleeps_for)
            self._wake.clear()  # before the look at what runs: what is set later is for the next round
            sleeps_for = self._warn(is_woken=is_woken)

    def _warn(self, *, is_woken: bool) -> float | None:
        """Log what is due; return for how many seconds to sleep, or ``None`` to leave."""
        due = []
        aloft: dict[Flight, tuple[Call, Run]] = {}
        frames: dict[int, FrameType] = {}
        try:
            with self._lock:  # so that no attempt ends before its stack is read
                now = time.monotonic()
                if not self._running:
                    if self._is_idle and not is_woken:
                        self._is_idle, self._thread = False, None
                        return None
                    self._is_idle = True
                    return self._grace
                self._is_idle = False
                for call, run in self._running.items():
                    if run.warns_at <= now:
                        hand = call._worker
                        if isinstance(hand, Flight) or call._awaits:
                            if now < self._asks_at:
                                run.warns_at = self._asks_at
                            elif isinstance(hand, Flight) and hand.task is not None:
                                aloft[hand] = call, run
                            else:  # it waits to run, or has ended
                                run.warns_at = now + self._warn_after
                            continue
                        frames = frames or sys._current_frames()
                        due.append((call, run, now - run.began_at, run.stack(frames)))
                        run.warns_at = now + (now - run.began_at)
        finally:
            # Not under the lock: frames that have returned meanwhile go away here with their locals, whose
            # destructors may do anything. Nor later: this frame is among them, which is a reference cycle.
            frames.clear()
        for call, run, duration, stack in due:
            runner = getattr(call._worker, "runner", None)
            if runner is None:
                _log(call, run, duration, f"in thread {run.thread.name}", "".join(stack.format()))
            else:  # its thread only waits, so its stack says nothing
                _log(call, run, duration, f"{runner.place}, for thread {run.thread.name}", "")
        if aloft:
            self._warn_of_coroutines(aloft)
        with self._lock:
            warns_at = min((run.warns_at for run in self._running.values()), default=math.inf)
        # An attempt that begins meanwhile does not wake this thread. So it sleeps for no longer than it takes
        # until the warning for that attempt is due.
        left = max(0.0, warns_at - time.monotonic())
        return min(left, self._warn_after, threading.TIMEOUT_MAX)

    def _warn_of_coroutines(self, due: dict[Flight, tuple[Call, Run]]) -> None:
        """Log where coroutines wait; but if one of them blocks the loop, only that.

        Those that wait because of it are not to blame, and get as much time once more.
        """
        found = coroutines.ask(due)
        now = time.monotonic()
        self._asks_at = now + self._warn_after / _LOOKS
        if isinstance(found, coroutines.Blockage):
            self._warn_of(found, due, now)
            return
        # Thousands may wait at the same place: one of them is logged, with their number.
        groups: dict[coroutines.Place, list[tuple[Call, Run]]] = {}
        for flight, place in found.items():
            groups.setdefault(place, []).append(due[flight])
        for place, group in groups.items():
            call, run = min(group, key=lambda one: one[1].began_at)
            where = f"and waits here, with {len(group) - 1} more" if group[1:] else "and waits here"
            _log(call, run, now - run.began_at, where, coroutines.in_text(place))
        for _, run in due.values():
            run.warns_at = now + (now - run.began_at)

    def _warn_of(
        self, blockage: coroutines.Blockage, due: dict[Flight, tuple[Call, Run]], now: float
    ) -> None:
        """Log what blocks the loop; if that is no call, with the one that has been running for longest."""
        with self._lock:
            running = [(call, run, call._worker) for call, run in self._running.items()]
        stack, thread = "".join(blockage.stack.format()), blockage.thread.name
        at_fault = [one for one in running if isinstance(one[2], Flight) and blockage.is_caused_by(one[2])]
        for call, run, hand in at_fault:
            if hand in due:  # else it has not been running for long enough yet
                where = f"and blocks the event loop, in thread {thread}"
                _log(call, run, now - run.began_at, where, stack, kind="blocks_loop")
        if not (at_fault or blockage.is_over):
            call, run = min(due.values(), key=lambda one: one[1].began_at)
            where = f"while something else blocks the event loop, in thread {thread}"
            _log(call, run, now - run.began_at, where, stack)
        for flight, (_, run) in due.items():
            is_at_fault = any(flight is hand for *_, hand in at_fault)
            run.warns_at = now + (now - run.began_at if is_at_fault else self._warn_after)


def _log(
    call: Call, run: Run, duration: float, where: str, stack: str, *, kind: str = "runs_for_long"
) -> None:
    subject = log.Subject(run.name, key=call.key, label=run.label, executor=call._core.name)
    log.runs_for_long(subject, run.attempt, duration, where, stack, kind=kind)


class Run:
    """An attempt that begins now, in this thread."""

    __slots__ = ("attempt", "began_at", "label", "name", "thread", "warns_at")

    def __init__(self, call: Call, work: Work, warn_after: float) -> None:
        self.name = name_of(work)
        self.label = call._terms.label
        self.attempt = call._attempts
        self.thread = threading.current_thread()
        self.began_at = time.monotonic()
        self.warns_at = self.began_at + warn_after

    def stack(self, frames: dict[int, FrameType]) -> traceback.StackSummary:
        """Return the stack of the attempt from its function on, given the frames of all threads."""
        assert self.thread.ident is not None
        frame = frames.get(self.thread.ident)
        if frame is None:  # an asynchronous exception has ended the thread
            return traceback.StackSummary()
        stack = traceback.StackSummary.extract(traceback.walk_stack(frame), lookup_lines=False)
        stack.reverse()
        while any(frame.filename == attempt.__file__ for frame in stack):
            del stack[0]  # frames of this library: they are the same for all
        return stack
