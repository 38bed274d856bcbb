"""The end of an event loop: what calls have left behind in it is ended first."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from retrying_executor._common.stdlib import abandon_loop, helpers_of, no_running_loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


def close_loop(loop: AbstractEventLoop, grace: float) -> None:
    """End what calls have left behind, close the loop, which does not run, and wait for its helper threads.

    Args:
        loop: The event loop.
        grace: How long each step of that may take, in seconds.
    """
    if loop.is_closed():  # by the program
        return
    helpers = helpers_of(loop)
    with suppress(BaseException):
        loop.set_task_factory(None)  # that of the program may do anything
        ending = loop.create_task(end_leftovers(loop, grace))
        deadline = time.monotonic() + 4 * grace
        while not ending.done() and time.monotonic() < deadline:
            try:
                loop.run_until_complete(ending)
            except (KeyboardInterrupt, SystemExit, RuntimeError):  # of a task, or one has stopped the loop
                continue
    shut(loop)
    if helpers is not None:
        helpers.shutdown()


async def end_leftovers(loop: AbstractEventLoop, grace: float) -> None:
    """End the tasks and generators that calls have left behind. Runs in this loop."""
    await asyncio.sleep(0)  # for generators that were collected while it did not run: a task closes each
    await _end_tasks(loop, grace)
    await asyncio.wait([asyncio.Task(loop.shutdown_asyncgens(), loop=loop)], timeout=grace)
    await _end_tasks(loop, grace)


async def _end_tasks(loop: AbstractEventLoop, grace: float) -> None:
    this = asyncio.current_task()
    with no_running_loop():  # from Python 3.14 on, a running loop is asked for the tasks of this thread only
        tasks = asyncio.all_tasks(loop) - {this}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=grace)


def shut(loop: AbstractEventLoop) -> None:
    """Close a loop that does not run."""
    try:
        loop.close()
    except Exception:  # it is broken
        abandon_loop(loop)  # or its destructor would try it once more
