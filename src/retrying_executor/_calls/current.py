"""What a running call can ask about itself."""

from __future__ import annotations

import math
import threading

from retrying_executor._common.log import call_name
from retrying_executor._common.public import public
from retrying_executor._common.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from retrying_executor._calls.call import Hand


class _Current(threading.local):
    holder: Hand | None = None


current = _Current()
"""Of this thread. Who has the call is set once, not with every call: most never ask."""


@public
class CurrentCall(Value):
    """The call that this thread runs an attempt of.

    Attributes:
        name: What logs call it: the module and the qualified name of its function.
        attempt: Which attempt this is; the first is 1.
        key: A UUID that stays the same over all attempts of the call, and that no other call has: what
            services take as an ``Idempotency-Key``. Or the *key* given to ``with_options()``.
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

    To be asked by the function that was submitted, or by whatever it calls, in the same thread; and by the
    policy, which decides in that thread what follows.
    """
    holder = current.holder
    call = None if holder is None else holder.call
    work = None if call is None else call._work
    if call is None or work is None or not call._attempts:
        return None
    ends_at = min(call._began_at + work[4].max_elapsed, call._expires_at)
    left = ends_at - call._pool.clock.monotonic()
    return CurrentCall(
        name=call_name(work[0]),
        attempt=call._attempts,
        key=call.key,
        time_left=None if left == math.inf else max(0.0, left),
        label=work[4].label,
    )
