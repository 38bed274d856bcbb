"""One executor of somebody else's for all workers, made anew when it breaks.

The stub never raises, so whatever the future of an attempt raises is about the engine. As a rule that means
it is broken, and a dead engine may never say what became of the other attempts. So when one learns of it, the
others of that *generation* get a second more, and then they count as lost.

The engine must not be called from its own callbacks: ``shutdown()`` there waits for the thread that runs
them. So a callback only opens the latch of the worker that waits.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future
from contextlib import nullcontext
from functools import partial

from retrying_executor._common import exits, log
from retrying_executor._common.errors import AttemptLostError, final, is_final
from retrying_executor._common.log import describe
from retrying_executor._common.sending import dumps_by_reference, dumps_without_main
from retrying_executor._common.stdlib import hooks_accepted
from retrying_executor._engines import far
from retrying_executor._engines.pace import Pace, open_gate
from retrying_executor._engines.script import keep_script

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_GRACE = 1.0  # seconds, for what a broken engine may still answer
_END_TIMEOUT = 10.0  # seconds, for the ``shutdown()`` of an engine


class Generation:
    """One executor that the factory has made, until it breaks or is not needed any more.

    Args:
        executor: That executor.
    """

    def __init__(self, executor: Any) -> None:
        self.executor = executor
        self.latches: dict[threading.Lock, None] = {}  # of the workers that wait
        self.why: str | None = None  # it is broken; set once


class SharedEngine:
    """An executor of somebody else's for all workers of one executor; see `retrying_executor.engines.Shared`.

    ``_lock`` guards ``_users``, ``_generation``, ``_death``, and what generations have; ``why`` is read
    without it. ``_making`` is held while the factory runs, or waits for its time: the other workers need what
    it makes. Lock order: ``_making``, ``_lock``. No code of others runs under ``_lock``.
    """

    def __init__(self, factory: Callable[[], Any], lost: tuple[type[BaseException], ...]) -> None:
        self._factory = factory
        self._lost_classes = lost
        self.dumps = dumps_by_reference if keep_script() else dumps_without_main
        self.restart()

    def restart(self) -> None:
        """In a forked child: start with nothing."""
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._generation: Generation | None = None
        self._users = 0  # how many workers have a runner
        self._death: str | None = None  # what became of the latest, if it broke
        self._pace = Pace()

    def new_runner(self, is_called_off: Callable[[], bool]) -> SharedRunner:
        """Return what runs the attempts of one worker."""
        with self._lock:
            self._users += 1
        return SharedRunner(self, is_called_off)

    def look(self) -> None:
        """Have the workers look that wait to make an executor."""
        self._pace.look()

    # -- by the runners --------------------------------------------------------------------------

    def run(self, message: bytes, is_called_off: Callable[[], bool]) -> bytes:
        """Return what is answered to a message; see `Runner`.

        Args:
            message: The message.
            is_called_off: Whether no attempt is to start any more.
        """
        generation, future = self._submit(message, is_called_off)
        self._await(generation, future)
        if not future.done():
            raise AttemptLostError(f"the attempt is lost: {generation.why}")
        try:
            answer = future.result()
        except Exception as error:
            if isinstance(error, self._lost_classes):
                raise AttemptLostError(f"the attempt is lost: {describe(None, error)}") from error
            raise self._broken(generation, error) from error
        if type(answer) is not bytes:
            raise final(TypeError(f"the engine must return what is called there, not {answer!r}"))
        self._pace.completed()
        return answer

    def _submit(self, message: bytes, is_called_off: Callable[[], bool]) -> tuple[Generation, Future[Any]]:
        """Submit an attempt. If that is refused, the engine broke before, so another is made for it."""
        generation = self._current(is_called_off)
        try:
            return generation, _submitted(generation, message)
        except Exception as error:
            lost = self._broken(generation, error)
            if is_final(lost):
                raise lost from error
        generation = self._current(is_called_off)
        try:
            return generation, _submitted(generation, message)
        except Exception as error:
            raise self._broken(generation, error) from error

    def _current(self, is_called_off: Callable[[], bool]) -> Generation:
        """Return the generation in use; have the factory make one if there is none."""
        with self._making:
            generation, death = self._generation, self._death
            if generation is not None:
                return generation
            if is_called_off() or not (death is None or self._pace.await_restart(death, is_called_off)):
                before = "" if death is None else f"; the one before: {death}"
                raise AttemptLostError(f"no engine is started any more{before}")
            try:
                executor = _started(self._factory)
            except Exception as error:
                why = f"the engine could not be started: {describe(None, error)}"
                with self._lock:
                    self._death = why
                raise _lost(why, error) from error
            if not callable(getattr(executor, "submit", None)) or not hasattr(executor, "shutdown"):
                raise final(TypeError(f"the factory must return an executor, not {executor!r}"))
            exits.come_first()  # the interpreter ends first what registered last
            with self._lock:
                self._generation, self._death = Generation(executor), None
                return self._generation

    def _await(self, generation: Generation, future: Future[Any]) -> None:
        """Wait until an attempt has ended, or for a moment more once the engine is broken."""
        latch = threading.Lock()
        latch.acquire()
        with self._lock:
            generation.latches[latch] = None  # publish, then look: `_broken` opens it, or has set ``why``
        try:
            future.add_done_callback(lambda _: open_gate(latch))
            while not future.done() and generation.why is None:
                latch.acquire()
            ends_at = time.monotonic() + _GRACE
            while not future.done() and (left := ends_at - time.monotonic()) > 0:
                latch.acquire(timeout=left)
        finally:
            with self._lock:
                del generation.latches[latch]

    def _broken(self, generation: Generation, error: Exception) -> AttemptLostError:
        """Have all know that a generation is broken, and shut it down; return what the attempt ends with."""
        with self._lock:
            is_first = generation.why is None
            if is_first:
                generation.why = f"the engine broke: {describe(None, error)}"
            if self._generation is generation:
                self._generation, self._death = None, generation.why
            latches = list(generation.latches)
        for latch in latches:
            open_gate(latch)
        if is_first:
            _shut_down(generation.executor, wait=False)
        return _lost(f"the attempt is lost: {generation.why}", error)

    def leave(self) -> None:
        """A worker leaves. With the last one, the engine ends: an idle executor has no processes."""
        with self._lock:  # a worker in `_current` is a user: so nothing is being made when none is left
            self._users -= 1
            generation = None
            if not self._users:
                generation, self._generation = self._generation, None
        if generation is not None:
            _shut_down(generation.executor, wait=True)


class SharedRunner:
    """Runs the attempts of one worker on the engine that all share.

    Args:
        engine: The engine.
        is_called_off: Whether no attempt is to start any more.
    """

    place = "on the engine"

    def __init__(self, engine: SharedEngine, is_called_off: Callable[[], bool]) -> None:
        self._engine = engine
        self._is_called_off = is_called_off
        self._owner = os.getpid()

    def run(self, message: bytes) -> bytes:
        """Return what is answered to a message; see `Runner`."""
        return self._engine.run(message, self._is_called_off)

    def leave(self) -> None:
        """The worker leaves."""
        if os.getpid() == self._owner:
            self._engine.leave()

    def kill(self) -> bool:
        """Return ``False``: an attempt there cannot be killed."""
        return False


def _submitted(generation: Generation, message: bytes) -> Future[Any]:
    future: Future[Any] = _started(partial(generation.executor.submit, far.run, message))
    exits.come_first()  # the engine may have registered a hook of its own just now
    return future


def _started(start: Callable[[], Any]) -> Any:
    """Return what *start* returns, which may start an engine although the interpreter ends."""
    try:
        with hooks_accepted() if exits.is_exiting() else nullcontext():
            return start()
    except RuntimeError as error:
        if "atexit" not in str(error):
            raise
    with hooks_accepted():  # the end has begun in the middle of it
        return start()


def _lost(why: str, error: Exception) -> AttemptLostError:
    """Return what an attempt ends with; the last if the engine cannot start since the interpreter ends."""
    lost = AttemptLostError(why)
    is_of_the_end = exits.is_exiting() and isinstance(error, RuntimeError) and "shutdown" in str(error)
    return final(lost) if is_of_the_end else lost


def _shut_down(executor: Any, *, wait: bool) -> None:
    """End an engine, in a thread of its own: that of a broken one may never return."""

    def shut_down() -> None:
        try:
            executor.shutdown(wait=wait)
        except BaseException as error:
            log.engine_does_not_end(executor, error)

    try:
        thread = threading.Thread(target=shut_down, name="shuts-down-an-engine", daemon=True)
        thread.start()
    except RuntimeError:  # no thread can be started, or in a subinterpreter none that is a daemon
        shut_down()
        return
    if wait:
        thread.join(_END_TIMEOUT)
        if thread.is_alive():
            log.engine_does_not_end(executor, None)
