"""What runs on the far side: the stub that makes one attempt, and the loop of a process that makes many.

The engine must never see an exception of a call. One that cannot be unpickled would break a whole pool of
processes, and `SystemExit` would end a worker of a cluster. So the stub answers with bytes, always.
"""

from __future__ import annotations

import contextvars
import os
import pickle
import time
from contextlib import suppress

from retrying_executor._calls import attempt
from retrying_executor._calls.current import RemoteCall, current, remote
from retrying_executor._common.log import describe
from retrying_executor._engines import packing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from typing import Any, TypeAlias

    Answer: TypeAlias = tuple[str, float | None, Any, Any]
    """Its kind, the reported weight, and two parts that depend on the kind; see `run`."""

RETURNED, RAISED, UNREAD, UNSENT = "returned", "raised", "unread", "unsent"
READY = b"ready"
"""The first message of a process whose initializer worked. Otherwise: why it failed, in UTF-8."""

NUMBER = 8
"""How many bytes the number has that each message to a process begins with, and the answer to it."""


def run(message: bytes) -> bytes:
    """Make one attempt, and return how it ended, whatever it does.

    Args:
        message: What `errand` has sent.

    Returns:
        A pickled `Answer`: `RETURNED` with the pickled result; `RAISED` with the exception as
        `packing.packed` returns it; or with the reason, `UNREAD` if the call cannot be read here, or `UNSENT`
        if its result cannot be sent.
    """
    try:
        (name, number, key, label, seconds_left), luggage, payload = pickle.loads(message)
        ends_at = None if seconds_left is None else time.monotonic() + seconds_left
        call = RemoteCall(name, number, key, label, ends_at)
        fn, args, kwargs = pickle.loads(payload)
    except BaseException as error:
        return pickle.dumps((UNREAD, None, f"the call cannot be read there: {describe(None, error)}", None))
    context = contextvars.copy_context()
    context.run(_enter, call, luggage)
    # A forked process begins as a copy of the worker that has started it; and some run calls in that worker.
    hand, current.hand = current.hand, None
    try:
        result, exception = attempt.run((fn, args, kwargs, context), None)
    finally:
        current.hand = hand
    if exception is not None:
        return pickle.dumps((RAISED, call.weight, *packing.packed(exception)))
    try:
        return pickle.dumps((RETURNED, call.weight, packing.exactly(result), None))
    except BaseException as error:
        why = f"the result, a {type(result).__name__}, cannot be sent back: {describe(None, error)}"
        return pickle.dumps((UNSENT, call.weight, why, None))


def _enter(call: RemoteCall, luggage: bytes) -> None:
    """Prepare the context of an attempt."""
    remote.set(call)
    if luggage:
        with suppress(Exception):  # the integration may not be installed here
            for unpack, data in pickle.loads(luggage):
                unpack(data)


def serve(  # pragma: no cover  # in a process that is not measured
    connection: Connection, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
) -> None:
    """Run as a process: make an attempt for each message, until one is empty, or the other end is closed.

    Args:
        connection: Where messages come from, and answers go to.
        initializer: Called first, or ``None``.
        initargs: The arguments of *initializer*.
    """
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program: attempts that run go on
    if hasattr(signal, "pthread_sigmask"):  # it was blocked while this process was started
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    _end_with_parent()
    pid = os.getpid()
    if initializer is not None:
        try:
            initializer(*initargs)
        except BaseException as error:
            connection.send_bytes(describe(None, error).encode("utf-8", "replace"))
            return
        if os.getpid() != pid:  # it has forked, and this is the child
            os._exit(0)
    try:
        connection.send_bytes(READY)
        while message := connection.recv_bytes():
            answer = run(message[NUMBER:])
            if os.getpid() != pid:  # the call has forked, and this is the child: it must not answer, too
                os._exit(0)
            connection.send_bytes(message[:NUMBER] + answer)
    except (EOFError, OSError):  # the worker has left, or its process has died
        return


def _end_with_parent() -> None:  # pragma: no cover  # in a process that is not measured
    """Have this process end when the program dies, also in the middle of an attempt."""
    import signal
    import threading
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    with suppress(Exception):  # a call that holds the GIL keeps that thread waiting, but not this signal
        import fcntl

        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(parent.sentinel, fcntl.F_GETFL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)
    threading.Thread(target=watch, name="ends-with-its-parent", daemon=True).start()
