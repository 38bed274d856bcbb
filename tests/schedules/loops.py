"""An event loop that waits, and is woken, under a controlled scheduler.

It is asyncio's own, but for its selector: nothing happens there but that another thread wakes it. So its
thread is one more task. Whatever has to wait in it waits for a callback or for the clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import Context
from typing import Any

from controlled import Run


class Loop(asyncio.BaseEventLoop):
    """An event loop of a program that is run under control."""

    _ready: Any
    _runs_in: int | None = None

    def __init__(self) -> None:
        asyncio._set_running_loop(None)  # a run that failed in a coroutine may have left one
        super().__init__()
        self._selector = self
        self._is_woken = False

    def time(self) -> float:
        """Return what time it is; that takes no step."""
        return time.monotonic() if Run.active is None else Run.active.now

    def select(self, timeout: float | None) -> list[Any]:
        """Wait until the loop is woken, or until time is up."""
        run = Run.active
        if run is not None and timeout != 0:
            run.wait_until(lambda: self._is_woken, timeout, "something to do in the loop")
            self._is_woken = False
        return []

    def _process_events(self, events: list[Any]) -> None:
        """Do nothing: there are none."""

    def _write_to_self(self) -> None:
        self._is_woken = True

    def run_forever(self) -> None:
        """Run until ``stop()`` is called."""
        try:
            super().run_forever()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # the run has failed, or is over
            self._closed = True
            raise

    # -- what others see --------------------------------------------------------------------------

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Let others go first, or not, after it is known that the loop is open."""
        self._check_closed()
        _hand_on()
        handle = self._call_soon(callback, args, context)
        self._write_to_self()
        return handle

    @property
    def _thread_id(self) -> int | None:
        return self._runs_in

    @_thread_id.setter
    def _thread_id(self, thread: int | None) -> None:
        """Let others go first, or not, before it runs no more."""
        if self._runs_in is not None:
            _hand_on()
        self._runs_in = thread

    def close(self) -> None:
        """Let others go first, or not."""
        if not self._closed:
            _hand_on()
        super().close()


def _hand_on() -> None:
    if Run.active is not None:
        Run.active.switch()
