"""What a running call can ask about itself."""

from __future__ import annotations

import math
import threading

from retrying_executor._calls.attempt import ends_at
from retrying_executor._calls.call import name_of
from retrying_executor._common.public import public
from retrying_executor._common.stdlib import is_held
from retrying_executor._common.values import Value, checked_weight

TYPE_CHECKING = False
if TYPE_CHECKING:
    from retrying_executor._calls.call import Hand


class _Current(threading.local):
    holder: Hand | None = None


current = _Current()
"""Of this thread. What has its call is set once, not with every call: most never ask."""


def amid() -> Hand | None:
    """Return the hand of this thread if it is in the middle of taking a call or of making one done.

    Then this is a destructor or a signal handler that has interrupted it there. It must not wait for the lock
    of the hand's core: the thread that has that may wait for the hand. Other cores do not concern it.
    """
    holder = current.holder
    return holder if holder is not None and is_held(holder.lock) else None


@public
class CurrentCall(Value):
    """The call whose attempt runs in this thread.

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
    """Return what is known of the call that runs in this thread; ``None`` if none does.

    Call it in the submitted function, in code that it calls in the same thread, or in the policy.
    """
    holder = current.holder
    call = None if holder is None else holder.call
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
    """Say how much the attempt that runs in this thread really takes of its upstream's budget.

    From now on that counts instead of the *weight* given to ``with_options()``, which was an estimate. If the
    estimate was too high, the rest is free for other calls at once; if it was too low, they wait for longer.
    If the call is tried again, the estimate counts anew. Where there is no call in this thread, or no budget,
    nothing happens: so a function that calls this also works elsewhere.

    Args:
        weight: In the unit of the budget; 0 or more.

    Raises:
        TypeError: If *weight* is not a number.
        ValueError: If it is negative, infinite or not a number (NaN).
    """
    checked_weight("weight", weight)
    holder = current.holder
    permit = None if holder is None or holder.call is None else holder.permit
    if permit is not None:
        permit.weigh(weight)
