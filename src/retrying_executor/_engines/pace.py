"""The pace at which an engine that dies is started again."""

from __future__ import annotations

import math
import threading
import time

from retrying_executor._common import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds


class Pace:
    """Slows down restarts while no attempt completes between them: a crash loop would use up the machine.

    The first restart is made at once. The next waits until 0.5 seconds have passed since that, then twice as
    long, and so on up to 30. As soon as an attempt completes, the count starts anew.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the next two; nothing else is done under it
        self._restarts = 0  # since an attempt completed
        self._latest = -math.inf  # when the latest of them was
        self._gates: dict[threading.Lock, None] = {}  # of the workers that wait

    def completed(self) -> None:
        """An attempt was completed, however it ended."""
        if self._restarts:  # usually there are none: then take no lock
            with self._lock:
                self._restarts = 0
            self.look()

    def await_restart(self, why: str, is_called_off: Callable[[], bool]) -> bool:
        """Wait until the engine may be started again; return ``False`` if it is called off before.

        Args:
            why: What became of the engine, for the log.
            is_called_off: Whether no attempt is to start any more; see `look`.
        """
        gate = threading.Lock()
        gate.acquire()
        self._gates[gate] = None  # publish, then look: either `look` opens the gate, or it is seen here
        is_logged = False
        try:
            while not is_called_off():
                restarts, left = self._restart()
                if left <= 0:
                    return True
                if not is_logged:
                    log.engine_restarts(restarts, left, why)
                    is_logged = True
                gate.acquire(timeout=left)
        finally:
            del self._gates[gate]
        return False

    def _restart(self) -> tuple[int, float]:
        """Count a restart if its time has come; return how many there were, and how many seconds are left."""
        with self._lock:
            now, restarts = time.monotonic(), self._restarts
            pause = min(_FIRST_PAUSE * 2 ** min(restarts - 1, 10), _LONGEST_PAUSE)
            left = self._latest + pause - now if restarts else 0.0
            if left <= 0:
                self._restarts, self._latest = restarts + 1, now
            return restarts, left

    def look(self) -> None:
        """Have the workers that wait look whether they are called off, or need not wait any more.

        Takes no lock: the caller may hold the core's, or be a weakref callback.
        """
        for gate in list(self._gates):
            open_gate(gate)


def open_gate(gate: threading.Lock) -> None:
    """Let the thread go on that waits at a gate, or will."""
    try:
        gate.release()
    except RuntimeError:  # it is open already
        return
