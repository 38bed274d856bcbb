"""Lets a run hand the baton on before every bytecode instruction of the library.

That finds state that is touched outside the locks. Tasks must be carried by threads then.

From Python 3.12 on this is done with `sys.monitoring`, on all code of the library in advance. There, a
trace function would see a function's instructions only from its second call on, so that the same choices
would make another run, depending on what ran before.
"""

from __future__ import annotations

import gc
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, FunctionType
from typing import Any

from controlled import Run

import retrying_executor

LIBRARY = os.path.dirname(retrying_executor.__file__)


def hand_on(*_: object) -> None:
    """Let others go first, or not."""
    if Run.active is not None:
        Run.active.switch()


def code_of_the_library() -> Iterator[CodeType]:
    """Yield the code of all functions, and of those that are inside of others."""
    functions = [one for one in gc.get_objects() if isinstance(one, FunctionType)]
    codes = [one.__code__ for one in functions]
    while codes:
        code = codes.pop()
        if os.path.dirname(code.co_filename) == LIBRARY:
            yield code
            codes += [one for one in code.co_consts if isinstance(one, CodeType)]


@contextmanager
def traced() -> Iterator[dict[str, Any]]:
    """Yield the options for runs with such fine steps, by a trace function."""

    def enter(frame: FrameType, event: str, arg: object) -> Any:
        if os.path.dirname(frame.f_code.co_filename) != LIBRARY:
            return None
        frame.f_trace_opcodes = True
        return step

    def step(frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode":
            hand_on()
        return step

    yield {"trace": enter, "greenlets": False}


@contextmanager
def monitored() -> Iterator[dict[str, Any]]:
    """Yield the options for runs with such fine steps, by monitoring."""
    monitoring, tool = sys.monitoring, sys.monitoring.DEBUGGER_ID
    instruction = monitoring.events.INSTRUCTION
    codes = list(code_of_the_library())
    monitoring.use_tool_id(tool, "schedules")
    try:
        monitoring.register_callback(tool, instruction, hand_on)
        for code in codes:
            monitoring.set_local_events(tool, code, instruction)
        yield {"greenlets": False}
    finally:
        for code in codes:
            monitoring.set_local_events(tool, code, monitoring.events.NO_EVENTS)
        monitoring.register_callback(tool, instruction, None)
        monitoring.free_tool_id(tool)


# The free-threaded build of 3.13 does not see events that are switched on for a second time.
HAS_GIL = not sysconfig.get_config_var("Py_GIL_DISABLED")
IS_EXACT = sys.version_info < (3, 12) or HAS_GIL
"""Whether the same choices make the same run."""

every_instruction = monitored if sys.version_info >= (3, 12) and HAS_GIL else traced
