"""Processes of the executor itself: each worker thread owns one, and waits for its answers.

A process that dies costs the one attempt that it ran, and one that hangs can be killed, since it is known
which attempt that is. No pool is used: a pool that loses one process takes all others with it.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing import connection
from multiprocessing.context import BaseContext
from weakref import WeakSet

from retrying_executor._common import forks
from retrying_executor._common.errors import AttemptLostError, final
from retrying_executor._common.sending import dumps_by_reference, dumps_without_main
from retrying_executor._common.stdlib import disown_forkserver, disown_process
from retrying_executor._common.values import in_words
from retrying_executor._engines.far import NUMBER, READY, serve
from retrying_executor._engines.pace import Pace
from retrying_executor._engines.script import keep_script

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from typing import Any

_GRACE = 5.0  # seconds, for a process that is to end by itself


class ProcessEngine:
    """Processes for the workers of one executor; see `retrying_executor.engines.Processes`."""

    def __init__(
        self,
        context: BaseContext,
        attempt_timeout: float | None,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        max_tasks_per_child: int | None,
    ) -> None:
        self.context = context
        self.attempt_timeout = attempt_timeout
        self.initializer = initializer
        self.initargs = initargs
        self.max_tasks_per_child = max_tasks_per_child
        self.dumps = dumps_by_reference if keep_script() else dumps_without_main
        self.restart()

    def restart(self) -> None:
        """In a forked child: start with nothing."""
        self.pace = Pace()
        self.has_started = False
        """Whether a process was ever ready for attempts."""
        self.refusal: str | None = None
        """Why no process can be started any more."""

    def new_runner(self, is_called_off: Callable[[], bool]) -> ProcessRunner:
        """Return what runs the attempts of one worker."""
        return ProcessRunner(self, is_called_off)

    def look(self) -> None:
        """Have those look that wait to start a process."""
        self.pace.look()


class ProcessRunner:
    """The process of one worker, started when it is needed, and again when it has died.

    Args:
        engine: What it belongs to.
        is_called_off: Whether no attempt is to start any more.
    """

    def __init__(self, engine: ProcessEngine, is_called_off: Callable[[], bool]) -> None:
        self._engine = engine
        self._is_called_off = is_called_off
        self._owner = os.getpid()  # a forked child must leave the process alone
        _runners.add(self)
        self._lock = threading.Lock()  # guards `_process`, `_is_busy` and `_is_killed`, for `kill`
        self._process: BaseProcess | None = None
        self._is_busy = False
        self._is_killed = False
        self._connection: Connection | None = None
        self._next_number = count(1).__next__  # of the next message
        self._tasks = 0  # how many attempts the process has made
        self._death: str | None = None  # how the latest ended; ``None``: there was none, or it was replaced
        self._exitcode = 0  # of that process

    @property
    def place(self) -> str:
        """Where the attempt runs, for the log."""
        with self._lock:  # or `_end` might close it meanwhile
            process = self._process
            return "in a process that is being started" if process is None else f"in process {process.pid}"

    def run(self, message: bytes) -> bytes:
        """Return what the process answers to a message; see `Runner`."""
        with self._lock:
            self._is_busy, self._is_killed = True, False
        is_answered = False
        try:
            answer = self._answer_to(message)
            is_answered = True
        finally:
            if not is_answered:  # or what it still answers would pass for the answer to the next message
                self._end(grace=0.0)
            with self._lock:
                self._is_busy = False
        return answer

    def _answer_to(self, message: bytes) -> bytes:
        engine = self._engine
        number = self._next_number().to_bytes(NUMBER, "little")
        self._send(number + message)
        answer = self._receive(engine.attempt_timeout)
        if answer is None:
            self._end(grace=0.0)
            timeout = in_words(engine.attempt_timeout or 0.0)
            # Hanging is what a service does that fails: so rules find a TimeoutError as its cause.
            raise AttemptLostError(
                f"the attempt took longer than {timeout}, its attempt_timeout, so {self._death}"
            ) from TimeoutError(f"no answer within {timeout}")
        if not answer:
            raise self._lost()
        if answer[:NUMBER] != number:  # the call has written into the pipe: its answer may be still to come
            self._end(grace=0.0)
            raise AttemptLostError(
                f"the attempt is lost: what came was not its answer, so {self._death}. "
                "Does it write to files that it has not opened?"
            )
        engine.pace.completed()
        self._tasks += 1
        if self._tasks == engine.max_tasks_per_child:
            self._end(grace=_GRACE)
            self._death = None
        return answer[NUMBER:]

    def _lost(self) -> AttemptLostError:
        """Return what an attempt ends with whose process has died."""
        reason = "the executor had no time left, so " if self._is_killed else ""
        self._end(grace=0.0)
        return AttemptLostError(f"the attempt is lost: {reason}{self._death}")

    def _send(self, message: bytes) -> None:
        """Send a message to the process. One that has died since the last answer is replaced first."""
        if self._process is not None and not self._process.is_alive():
            self._end(grace=0.0)
        try:
            self._send_once(message)
        except OSError:  # it has died just now: it cannot have read all of the message
            self._end(grace=0.0)
            try:
                self._send_once(message)
            except OSError as error:
                self._end(grace=0.0)
                raise AttemptLostError(f"the attempt could not be sent: {self._death}") from error

    def _send_once(self, message: bytes) -> None:
        if self._process is None:
            self._start()
        assert self._connection is not None
        self._connection.send_bytes(message)

    def _receive(self, timeout: float | None) -> bytes | None:
        """Return the answer; nothing, ``b""``, if the process has died; ``None`` if time is up."""
        near, process = self._connection, self._process
        assert near is not None
        assert process is not None
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        try:
            while True:
                left = deadline - time.monotonic()
                if connection.wait([near, process.sentinel], max(0.0, min(left, _LOOKS_EVERY))):
                    break
                if left <= 0:
                    return None
                if not process.is_alive():  # others that the call has started keep pipe and sentinel open
                    break
            return near.recv_bytes() if near.poll() else b""  # it may have died after its answer
        except (EOFError, OSError):  # BlockingIOError: the answer has stopped in the middle, see `_limit`
            return b""
        except (OverflowError, MemoryError):  # no answer is that long: the call has written into the pipe
            return b""

    def _start(self) -> None:
        """Start a process, and wait until it is ready: that is no part of an attempt."""
        engine, death = self._engine, self._death
        if engine.refusal is not None:
            raise final(AttemptLostError(engine.refusal))
        if death is not None and not engine.pace.await_restart(death, self._is_called_off):
            raise AttemptLostError(f"no process is started any more; the one before: {death}")
        if self._is_killed:
            raise AttemptLostError("no process is started: the executor had no time left")
        try:
            with _starting:
                near, process = self._new_process()
        except (OSError, EOFError) as error:  # EOFError: the server that forks has died
            self._death = f"no process could be started: {error!r}"
            raise AttemptLostError(self._death) from error
        except RuntimeError as error:  # about this process: it ends, or imports what starts an executor
            engine.refusal = f"no process could be started: {error}"
            raise final(AttemptLostError(engine.refusal)) from error
        self._connection, self._tasks = near, 0
        with self._lock:
            self._process = process
            if self._is_killed:  # `kill` came while it was being started
                process.kill()
        said = self._receive(None)
        if not said:
            lost = self._lost()
            if self._exitcode == 1 and not engine.has_started:  # no attempt would do better
                raise final(AttemptLostError(f"{lost}, before it was ready. {_ADVICE}"))
            raise lost
        if said != READY:
            self._end(grace=_GRACE)
            self._death = f"the initializer of its process failed: {said.decode('utf-8', 'replace')}"
            raise AttemptLostError(self._death)
        engine.has_started = True

    def _new_process(self) -> tuple[Connection, BaseProcess]:
        """Start a process; return our end of the pipe to it, too."""
        engine = self._engine
        near, far = engine.context.Pipe()
        _limit(near, engine.attempt_timeout)
        process: BaseProcess = engine.context.Process(  # type: ignore[attr-defined]  # each context has it
            target=serve, args=(far, engine.initializer, engine.initargs)
        )
        try:
            with _interrupts_blocked(engine.context):
                process.start()
        except BaseException:
            near.close()
            raise
        finally:
            far.close()
        disown_process(process)
        return near, process

    def kill(self) -> bool:
        """Kill the process if it makes an attempt; return whether it does."""
        with self._lock:
            if not self._is_busy:
                return False
            self._is_killed = True
            if self._process is not None and self._connection is not None:
                self._process.kill()
                _wake(self._connection)
            return True

    def leave(self) -> None:
        """The worker leaves: end the process."""
        if os.getpid() == self._owner:
            self._end(grace=_GRACE)

    def _end(self, *, grace: float) -> None:
        """See that the process has ended: by itself within *grace* seconds, or killed."""
        process, near = self._process, self._connection
        if process is None or near is None:
            return
        with suppress(OSError):  # it has died
            if grace:
                near.send_bytes(b"")  # it may not learn that this end is closed: others may have inherited it
        with self._lock:  # or `kill` might use a file descriptor that is another's by now
            self._connection = None
            near.close()
        process.join(grace or _MOMENT)  # it may have closed its end, and be about to die
        was_dead = not process.is_alive()
        with self._lock:
            self._process = None
        if not was_dead:
            process.kill()
            process.join()
        self._exitcode = process.exitcode or 0
        how = "was killed" if not was_dead or self._is_killed else f"ended with {_in_words(process.exitcode)}"
        self._death = f"process {process.pid} {how}"
        process.close()


_ADVICE = "Can it import the program, and does that begin its work under if __name__ == '__main__':?"
_MOMENT = 0.05  # seconds
_LOOKS_EVERY = 1.0  # seconds
_STALL = 60.0  # seconds, for which an answer may stop in the middle
_starting = threading.Lock()
"""Held while a process is started, so that none that is forked meanwhile inherits the ends of its pipe."""
_runners: WeakSet[ProcessRunner] = WeakSet()
"""All that there are, for a forked child."""


def _restart_in_child() -> None:
    global _starting
    _starting = threading.Lock()
    disown_forkserver()
    for runner in list(_runners):  # pragma: no cover  # in a forked child: test_engine_processes.py
        if runner._connection is not None:  # or its process would not learn that the parent has died
            runner._connection.close()


forks.after_fork_in_child(_restart_in_child)


@contextmanager
def _interrupts_blocked(context: BaseContext) -> Iterator[None]:
    """Have a process that is started meanwhile not notice Ctrl-C until it ignores it; see `far.serve`."""
    if not hasattr(signal, "pthread_sigmask"):  # pragma: no cover  # Windows
        yield
        return
    if context.get_start_method() != "fork":
        from multiprocessing import resource_tracker  # not on Windows

        resource_tracker.ensure_running()  # when it starts its process, it unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _limit(near: Connection, timeout: float | None) -> None:
    """Have what is sent or read raise `BlockingIOError` if it stops in the middle for that many seconds.

    The process may have died while others keep its end open, or it may be stopped.
    """

    def limit(end: socket.socket) -> None:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(timeout or _STALL))
        if timeout is not None:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout))

    _at_socket(near, limit)


def _timeval(timeout: float) -> bytes:
    fraction, whole = math.modf(timeout)
    return struct.pack("ll", int(whole), max(1, int(fraction * 1e6)))


def _wake(near: Connection) -> None:
    """Wake the worker, if it is in the middle of sending or reading."""
    _at_socket(near, lambda end: end.shutdown(socket.SHUT_RDWR))


def _at_socket(near: Connection, act: Callable[[socket.socket], None]) -> None:
    """Do something with the socket that our end of a pipe is; nothing where it is none, as on Windows."""
    with suppress(OSError), socket.socket(fileno=os.dup(near.fileno())) as end:
        act(end)


def _in_words(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        with suppress(ValueError):
            return signal.Signals(-exitcode).name
    return f"exit code {exitcode}"
