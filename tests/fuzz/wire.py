"""What the process of an engine answers, or sends instead of an answer; see `harness`."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import atheris
import harness

sys.path.insert(0, str(Path(__file__).parent.parent))

with atheris.instrument_imports(include=["retrying_executor"]):
    import retrying_executor._policy.rules  # noqa: F401
    from retrying_executor import explain, retry_after, transient
    from retrying_executor._calls.current import current
    from retrying_executor._common.exceptions import traceback_of
    from retrying_executor._engines import errand, far, packing, processes, unpacking

import shapes

PLAIN = (int, float, complex, str, bytes, list, tuple, dict, set, frozenset)
EXCEPTIONS = {
    name: cls
    for name, cls in vars(builtins).items()
    if isinstance(cls, type) and (issubclass(cls, BaseException) or cls in PLAIN)
}
FUNCTIONS = ("class_like", "made", "new_exception", "new_group", "new_object", "set_fields", "Missing")


def find(module: str, name: str) -> Any:
    """Return a harmless class; as `unpacking.find`, which may import anything."""
    if module == "builtins" and name in EXCEPTIONS:
        return EXCEPTIONS[name]
    if module == "shapes" and isinstance(found := getattr(shapes, name, None), type):
        return found
    raise ImportError(f"{module}.{name}")


class Unpickler(pickle.Unpickler):
    """Finds nothing but what `packing` refers to, and harmless classes."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what has that name."""
        if module == unpacking.__name__ and name in FUNCTIONS:
            return getattr(unpacking, name)
        return find(module, name)


def loads(pickled: Any) -> Any:
    """As `pickle.loads`, but harmless."""
    return Unpickler(io.BytesIO(pickled)).load()


harmless = SimpleNamespace(loads=loads, dumps=pickle.dumps, HIGHEST_PROTOCOL=pickle.HIGHEST_PROTOCOL)
for module in (errand, far, unpacking):
    module.pickle = harmless  # type: ignore[attr-defined]
unpacking.find = find  # type: ignore[assignment]
errand.report_weight = float  # type: ignore[assignment]  # there is no call


class Errand(errand.Errand):
    """Sends nothing."""

    __slots__ = ()

    def _message(self) -> bytes:
        return b""


def check_answer(answer: bytes) -> None:
    """An answer becomes a result, or an exception that can be read; nothing else is raised."""
    current.hand = SimpleNamespace(runner=SimpleNamespace(run=lambda _: answer))
    try:
        Errand(len, b"")()
    except BaseException as exception:
        where = traceback.extract_tb(traceback_of(exception))[-1].filename
        assert not where.endswith(("unpacking.py", "current.py")), where
        transient(exception)
        retry_after(exception)
        explain(exception)
        packing.packed(exception)
    finally:
        current.hand = None


def check_exception(pickled: bytes) -> None:
    """Whatever the bytes are, there is an exception, and of the kind that it was."""
    for is_exception in (True, False):
        try:
            exception = unpacking.unpacked(pickled, "a", "B", "why", "a traceback", is_exception=is_exception)
        except KeyboardInterrupt:  # of one of the shapes: it must not be held back
            return
        assert isinstance(exception, BaseException)
        explain(exception)


def check_message(message: bytes) -> None:
    """Whatever is sent, there is an answer."""
    kind, _, _, _ = pickle.loads(far.run(message))
    assert kind in (far.RETURNED, far.RAISED, far.UNREAD, far.UNSENT)


class Process:
    """A process that is there, as far as its sentinel goes, and is not."""

    sentinel, _ = os.pipe()

    def is_alive(self) -> bool:
        """Return ``False``."""
        return False


def check_stream(stream: bytes) -> None:
    """Whatever is in the pipe, it is read as a message, or as none."""
    near, far_end = socket.socketpair()
    runner = processes.ProcessRunner(Any, lambda: False)  # type: ignore[arg-type]
    with far_end, Connection(near.detach()) as connection:
        runner._connection, runner._process = connection, Process()  # type: ignore[assignment]
        far_end.setblocking(False)
        far_end.send(stream or b"\0")
        far_end.close()
        assert type(runner._receive(None)) is bytes


CHECKS = (check_answer, check_exception, check_message, check_stream)


def check(data: atheris.FuzzedDataProvider) -> None:
    """Run one of the checks."""
    CHECKS[data.ConsumeIntInRange(0, len(CHECKS) - 1)](data.ConsumeBytes(1 << 20))


def seeds() -> Iterator[bytes]:
    """Yield answers, exceptions, messages and streams, each with the number of its check."""
    for make in shapes.SHAPES.values():
        packed = packing.packed(make())
        answer = pickle.dumps((far.RAISED, None, *packed))
        if len(answer) < 20_000:
            yield answer + b"\0"
            yield (packed[0] or b"") + b"\1"
    yield pickle.dumps((far.RETURNED, 1.0, pickle.dumps([1, "a"]), None)) + b"\0"
    yield pickle.dumps((far.UNREAD, None, "why", None)) + b"\0"
    payload = pickle.dumps((dict, ([(1, 2)],), {"a": 1}))
    yield pickle.dumps((("a", 1, "key", None, 1.0), b"", payload)) + b"\2"
    yield b"\0\0\0\5hello\3"
    yield b"\xff\xff\xff\xff\0\0\0\0\0\0\0\5hello\3"
    yield b"\x7f\xff\xff\xffhello\3"


if __name__ == "__main__":
    harness.run(check, seeds())
