"""The watchdog, which logs attempts that run for long."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from contextlib import suppress

from retrying_executor._calls import attempt
from retrying_executor._calls.call import name_of
from retrying_executor._common import log
from retrying_executor._common.stdlib import HAS_DAEMONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

    from retrying_executor._calls.call import Call, Work

_GRACE = 1.0  # seconds


class Watchdog:
    """Logs attempts that run for long: each after *warn_after* seconds, after twice that, and so on.

    Its thread starts with an attempt, and leaves when none has been running for a while. ``_lock`` guards
    everything but ``_look``, which wakes the thread.

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
        self._look = threading.Event()
        self._running: dict[Call, Run] = {}
        self._is_idle = False
        self._grace = _GRACE
        self._thread: threading.Thread | None = None

    def began(self, call: Call, work: Work) -> None:
        """An attempt begins, in this thread."""
        with self._lock:
            self._running[call] = Run(call, work, self._warn_after)
            if self._thread is None:
                thread = threading.Thread(
                    target=self._watch, name=f"{self._thread_name}-watchdog", daemon=HAS_DAEMONS
                )
                with suppress(RuntimeError):  # no thread can be started: the next attempt tries again
                    thread.start()
                    self._thread = thread
            if self._is_idle:
                self._look.set()

    def ended(self, call: Call) -> None:
        """The attempt is over."""
        with self._lock:
            self._running.pop(call, None)
            if not self._running:
                self._look.set()

    def finish(self, timeout: float) -> None:
        """Nothing runs any more: wait until the thread has left, for *timeout* seconds at most."""
        with self._lock:
            thread = self._thread
            self._grace = 0.0
            self._look.set()
        if thread not in (None, threading.current_thread()) and not self._running:
            thread.join(timeout)  # it may be logging

    def _watch(self) -> None:
        patience: float | None = 0.0
        while patience is not None:
            is_called = self._look.wait(patience)
            self._look.clear()
            patience = self._warn(is_called=is_called)

    def _warn(self, *, is_called: bool) -> float | None:
        """Log what is due; return for how many seconds to sleep, or ``None`` to leave."""
        due = []
        frames: dict[int, FrameType] = {}
        try:
            with self._lock:  # so that no attempt ends before its stack is read
                now = time.monotonic()
                if not self._running:
                    is_over = self._is_idle and not is_called
                    self._is_idle = not is_over
                    self._thread = None if is_over else self._thread
                    return None if is_over else self._grace
                self._is_idle = False
                for call, run in self._running.items():
                    if run.warns_at <= now:
                        frames = frames or sys._current_frames()
                        due.append((call, run, now - run.began_at, run.stack(frames)))
                        run.warns_at = now + (now - run.began_at)
                warns_at = min(run.warns_at for run in self._running.values())
        finally:
            # Not under the lock: frames that have returned meanwhile go away here, and so do their locals,
            # whose destructors may do anything. And this frame is among them: a reference cycle.
            frames.clear()
        for call, run, duration, stack in due:
            subject = log.Subject(run.name, key=call.key, label=run.label, executor=call._core.name)
            log.runs_for_long(subject, run.attempt, duration, run.thread.name, "".join(stack.format()))
        # An attempt that begins meanwhile does not wake this thread: its warning is not due before that.
        return min(max(0.0, warns_at - now), self._warn_after, threading.TIMEOUT_MAX)


class Run:
    """An attempt that this thread runs."""

    __slots__ = ("attempt", "began_at", "label", "name", "thread", "warns_at")

    def __init__(self, call: Call, work: Work, warn_after: float) -> None:
        self.name = name_of(work)
        self.label = call._terms.label
        self.attempt = call._attempts
        self.thread = threading.current_thread()
        self.began_at = time.monotonic()
        self.warns_at = self.began_at + warn_after

    def stack(self, frames: dict[int, FrameType]) -> traceback.StackSummary:
        """Return where the attempt is, from the frame of the call on, given the frames of all threads."""
        assert self.thread.ident is not None
        frame = frames.get(self.thread.ident)
        if frame is None:  # an asynchronous exception has ended the thread
            return traceback.StackSummary()
        stack = traceback.StackSummary.extract(traceback.walk_stack(frame), lookup_lines=False)
        stack.reverse()
        while any(frame.filename == attempt.__file__ for frame in stack):
            del stack[0]  # frames of this library: they are the same for all
        return stack
