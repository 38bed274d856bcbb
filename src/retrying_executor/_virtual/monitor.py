"""The monitor in virtual time: it tells events at once, in the thread that makes the attempts."""

from __future__ import annotations

from collections import deque
from itertools import count

from retrying_executor._calls.current import current, flight
from retrying_executor._observe.monitor import Event, Monitor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from retrying_executor._calls.call import Call
    from retrying_executor._common.log import FollowUp
    from retrying_executor._virtual.crew import VirtualCrew


class VirtualMonitor(Monitor):
    """Tells a listener at once, in this thread; events that the listener causes are told afterwards."""

    def __init__(self, crew: VirtualCrew, on_event: Callable[[Event], object]) -> None:
        self._crew = crew  # not by the base class's constructor: that makes a thread
        self._on_event = on_event
        self._watchdog = None
        self._drop = count(1).__next__
        self._dropped = 0
        self._reported = 0.1
        self._untold = deque()
        self._is_telling = self._is_over = False
        crew.tell = self._start_telling

    def _now(self) -> float:
        return self._crew.monotonic()

    def _monotonic(self) -> float:
        return self._crew.monotonic()

    def submitted(self, call: Call) -> None:
        """A call is about to be queued."""
        self._crew.give_key(call)
        super().submitted(call)

    def followed_up(self, call: Call, news: FollowUp) -> None:
        """An attempt failed: queue the event, and tell it later, when the call waits again or is done."""
        self._is_telling, before = True, self._is_telling
        try:
            super().followed_up(call, news)
        finally:
            self._is_telling = before

    def finish(self, timeout: float) -> None:
        """Do nothing: no call is left, so every event has been told."""

    def _start_telling(self) -> None:
        self._is_telling, hand = True, current.hand
        current.hand, token = None, flight.set(None)  # to the listener, no call is running here
        try:
            while self._untold:
                self._untold.popleft()()
        finally:
            self._is_telling, current.hand = False, hand
            flight.reset(token)
