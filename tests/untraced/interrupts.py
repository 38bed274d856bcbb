"""Interrupts an operation of the library wherever a signal handler can, once at each place.

CPython runs signal handlers, in the main thread, when a function begins, when a generator goes on, when a
loop jumps back, and after the call of a function that is written in C. Besides, a blocking ``acquire()``
or ``with`` may be interrupted before it has the lock. A handler that raises does so at one of these
places, and nowhere else: in particular not between the entry of a ``with`` block and its body, or between
the end of its body and the exit. To raise before any instruction whatever would find what cannot be.

What the library uses of `contextlib`, `threading` and `weakref` is interrupted like the library itself.
"""

from __future__ import annotations

import dis
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType

import retrying_executor

LIBRARY = os.path.dirname(retrying_executor.__file__)
STDLIB = {
    f"{os.path.dirname(threading.__file__)}{os.sep}{name}.py"
    for name in ("contextlib", "threading", "weakref")
}
LOCK = type(threading.Lock())

monitoring = sys.monitoring
events = monitoring.events
TOOL = monitoring.DEBUGGER_ID


class Interruption:
    """Raises ``KeyboardInterrupt`` in this thread at the *k*-th place that an operation comes to.

    Args:
        k: Which place; the first is 0.
        on_wait: Called when the operation is about to wait for what others do.
    """

    def __init__(self, k: int, on_wait: Callable[[], object]) -> None:
        self.left = k
        self.on_wait = on_wait
        self.k = k
        self.at: str | None = None

    def __repr__(self) -> str:
        return f"interrupted at {self.at}, place {self.k}"

    def strike(self, code: CodeType, offset: int, event: str) -> None:
        """Raise, if it is time to."""
        self.left -= 1
        if self.left < 0 and self.at is None:
            lines = [line for start, end, line in code.co_lines() if start <= offset < end]
            self.at = f"{os.path.basename(code.co_filename)}:{lines} {code.co_qualname} ({event})"
            raise KeyboardInterrupt


class Interrupter:
    """What the interpreter calls at each of the places; it does nothing but during `interrupt`."""

    def __init__(self) -> None:
        self._interruption: Interruption | None = None
        self._thread = threading.get_ident()

    @contextmanager
    def installed(self) -> Iterator[Interrupter]:
        """Have the interpreter call it."""
        handlers = {
            events.PY_START: self.at_start,
            events.PY_RESUME: self.at_start,
            events.JUMP: self.at_jump,
            events.CALL: self.at_call,
            events.C_RETURN: self.at_return,
            events.INSTRUCTION: self.at_instruction,
        }
        monitoring.use_tool_id(TOOL, "interrupts")
        try:
            for event, handler in handlers.items():
                monitoring.register_callback(TOOL, event, handler)
            monitoring.set_events(TOOL, sum(handlers) - events.C_RETURN)  # that goes with CALL
            yield self
        finally:
            monitoring.set_events(TOOL, events.NO_EVENTS)
            for event in handlers:
                monitoring.register_callback(TOOL, event, None)
            monitoring.free_tool_id(TOOL)
            monitoring.restart_events()

    def interrupt(self, operation: Callable[[], object], interruption: Interruption) -> None:
        """Run an operation in this thread, and interrupt it."""
        self._interruption = interruption
        try:
            operation()
        except KeyboardInterrupt:
            assert interruption.at is not None
        finally:
            self._interruption = None

    def _strike(self, code: CodeType, offset: int, event: str) -> None:
        if self._interruption is not None and threading.get_ident() == self._thread:
            self._interruption.strike(code, offset, event)

    def at_start(self, code: CodeType, offset: int) -> object:
        if not is_of_interest(code):
            return monitoring.DISABLE
        return self._strike(code, offset, "start")

    def at_jump(self, code: CodeType, offset: int, destination: int) -> object:
        if destination > offset or not is_of_interest(code):
            return monitoring.DISABLE
        return self._strike(code, offset, "jump back")

    def at_call(self, code: CodeType, offset: int, function: object, first: object) -> object:
        if not is_of_interest(code):
            return monitoring.DISABLE
        if self._interruption is not None and threading.get_ident() == self._thread:
            name = getattr(function, "__name__", "")
            lock = first if isinstance(first, LOCK) else getattr(function, "__self__", None)
            if name == "join" or (name == "acquire" and isinstance(lock, LOCK)):
                self._interruption.on_wait()
            if name == "acquire":
                self._strike(code, offset, "waiting in acquire()")
        return None

    def at_return(self, code: CodeType, offset: int, function: object, first: object) -> None:
        self._strike(code, offset, f"after {getattr(function, '__name__', function)}()")

    def at_instruction(self, code: CodeType, offset: int) -> object:
        if not is_of_interest(code) or dis.opname[code.co_code[offset]] != "BEFORE_WITH":
            return monitoring.DISABLE
        return self._strike(code, offset, "waiting in with")


def is_of_interest(code: CodeType) -> bool:
    """Return whether code is interrupted: that of the library, and what it uses to wait and to lock."""
    if code.co_name == "_wait_for_tstate_lock":  # before Python 3.13: it takes a thread for ended then
        return False
    return code.co_filename.startswith(LIBRARY + os.sep) or code.co_filename in STDLIB
