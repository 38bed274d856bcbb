"""The errors that are this library's own."""

from __future__ import annotations


class PendingLimitError(RuntimeError):
    """Raised by ``submit()`` when ``max_pending`` calls are accepted and not done yet.

    The call was refused: it never runs.
    """


class ForkedFutureError(RuntimeError):
    """What a future raises in a forked child when its call belongs to the parent.

    The call goes on in the parent, where the future gets its outcome.
    """
