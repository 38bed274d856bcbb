"""What a running call can ask about itself."""

from __future__ import annotations

import math
import threading
import time
from contextvars import ContextVar

from retrying_executor._calls.attempt import ends_at
from retrying_executor._calls.call import name_of
from retrying_executor._common.public import public
from retrying_executor._common.stdlib import is_held
from retrying_executor._common.values import Value, checked_weight

TYPE_CHECKING = False
if TYPE_CHECKING:
    from retrying_executor._calls.call import Hand


class _Current(threading.local):
    hand: Hand | None = None


current = _Current()
"""The hand of this thread: set once for a worker, not with every call, since most calls never ask."""

flight: ContextVar[Hand | None] = ContextVar("retrying_executor.flight", default=None)
"""The hand of this coroutine, and of those that it has started: they share a thread with others."""


class RemoteCall:
    """The call whose attempt runs here, for a worker of another process; see `_engines`.

    Args:
        name: As in `CurrentCall`.
        attempt: As in `CurrentCall`.
        key: As in `CurrentCall`.
        label: As in `CurrentCall`.
        ends_at: Until when further attempts may start, by the clock here; ``None``: no limit.
    """

    __slots__ = ("_attempt", "_ends_at", "_key", "_label", "_name", "weight")

    def __init__(self, name: str, attempt: int, key: str, label: str | None, ends_at: float | None) -> None:
        self._name = name
        self._attempt = attempt
        self._key = key
        self._label = label
        self._ends_at = ends_at
        self.weight: float | None = None
        """What `report_weight` was told."""

    def as_current(self) -> CurrentCall:
        """Return what is known of it now."""
        left = None if self._ends_at is None else max(0.0, self._ends_at - time.monotonic())
        return CurrentCall(
            name=self._name, attempt=self._attempt, key=self._key, time_left=left, label=self._label
        )


remote: ContextVar[RemoteCall | None] = ContextVar("retrying_executor.remote", default=None)
"""The call of which this process makes an attempt, for a worker elsewhere."""


def interrupted_hand() -> Hand | None:
    """Return the hand of this thread if it is in the middle of taking a call or of making one done.

    Then the caller is a destructor or a signal handler that has interrupted this thread there. It must not
    wait for the lock of the hand's core: the thread that holds that lock may be waiting for the hand's lock.
    Locks of other cores are no such danger.
    """
    hand = current.hand
    return hand if hand is not None and is_held(hand.lock) else None


def _hand() -> Hand | None:
    """Return what holds the call that runs here, if one does."""
    thread, coroutine = current.hand, flight.get()
    # An attempt may run an event loop in which a coroutine makes a call inline: then that is the inner one.
    # Otherwise the thread's is: with the context of its submitter, an attempt has that one's coroutine.
    return coroutine if coroutine is not None and coroutine.under is thread else thread or coroutine


@public
class CurrentCall(Value):
    """The call whose attempt runs in this thread, or in this coroutine.

    Attributes:
        name: What logs call it: the module and the qualified name of its function.
        attempt: Which attempt this is; the first is 1.
        key: A UUID that is the same for all attempts of the call, and that no other call has; or the *key*
            given to ``with_options()``. Services take it as an ``Idempotency-Key``.
        time_left: For how many seconds from now on further attempts may start, by the policy's
            ``max_elapsed`` and ``max_age``; 0 or more, or ``None`` without such a limit.
        label: The *label* given to ``with_options()``, or ``None``.
    """

    name: str
    attempt: int
    key: str
    time_left: float | None
    label: str | None = None


@public
def current_call() -> CurrentCall | None:
    """Return what is known of the call that runs here; ``None`` if none does.

    Call it in the submitted function, in code that it calls in the same thread, or in the policy. In a
    coroutine function, also in tasks that it has started, and in `asyncio.to_thread`.
    """
    hand = _hand()
    if hand is None and (far := remote.get()) is not None:
        return far.as_current()
    call = None if hand is None else hand.call
    work = None if call is None else call._work
    if call is None or work is None or not call._attempts:
        return None
    left = ends_at(call) - call._core.clock.monotonic()
    return CurrentCall(
        name=name_of(work),
        attempt=call._attempts,
        key=call.key,
        time_left=None if left == math.inf else max(0.0, left),
        label=call._terms.label,
    )


@public
def report_weight(weight: float) -> None:
    """Say how much the attempt that runs here really takes of its upstream's budget.

    From now on that counts instead of the *weight* given to ``with_options()``, which was an estimate. If the
    estimate was too high, the rest is free for other calls at once; if it was too low, they wait for longer.
    If the call is tried again, the estimate counts anew. Where no call runs, or there is no budget,
    nothing happens: so a function that calls this also works elsewhere.

    Args:
        weight: In the unit of the budget; 0 or more.

    Raises:
        TypeError: If *weight* is not a number.
        ValueError: If it is negative, infinite or not a number (NaN).
    """
    checked_weight("weight", weight)
    hand = _hand()
    if hand is None and (far := remote.get()) is not None:
        far.weight = weight
    permit = None if hand is None or hand.call is None else hand.permit
    if permit is not None:
        permit.weigh(weight)
