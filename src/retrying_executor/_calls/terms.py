"""On what terms calls are made."""

from __future__ import annotations

import math

from retrying_executor._common.errors import NotNow
from retrying_executor._common.exceptions import is_a
from retrying_executor._policy.policy import MAX_RETRY_AFTER, RetryPolicy, after, asked_by
from retrying_executor._upstream.evidence import evidence_of, service_failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from retrying_executor._policy.policy import Policy
    from retrying_executor._policy.reading import Answer
    from retrying_executor._policy.verdict import Asked
    from retrying_executor._upstream.gate import Evidence
    from retrying_executor._upstream.upstream import Upstream


class Terms:
    """On what terms calls are made: an upstream, and a policy, taken apart once for all calls under it.

    Args:
        policy: When to try again, or ``None``: never.
        upstream: The service that the calls go to, or ``None``.
        label: What tells them apart from others of the same function, or ``None``.
        key: The key that they have in common, or ``None``: each has one of its own.
    """

    __slots__ = (
        "key",
        "label",
        "latest",
        "marks_calls",
        "max_age",
        "max_elapsed",
        "places",
        "policy",
        "rejects",
        "upstream",
        "verdict",
    )

    def __init__(
        self,
        policy: Policy | None,
        upstream: Upstream | None = None,
        *,
        label: str | None = None,
        key: str | None = None,
    ) -> None:
        self.policy = policy
        self.upstream = upstream  # so it lives as long as calls go to it; the cores use only its places
        self.places = None if upstream is None else upstream._places
        self.label = label
        self.key = key
        self.latest: Callable[[], object] = _nothing
        """Returns the function that was checked last: most calls are of that one, and checks take time."""
        own = policy if isinstance(policy, RetryPolicy) else None
        self.max_age = None if own is None else own.max_age
        self.marks_calls = key is not None or self.max_age is not None  # few do: see `RetryingFuture`
        # A subclass may decide in another way.
        decides_itself = own is not None and type(own).__call__ is RetryPolicy.__call__
        self.verdict = own.verdict if own is not None and decides_itself else None
        self.rejects = None if own is None else own.retry_result
        self.max_elapsed = math.inf if own is None or own.max_elapsed is None else own.max_elapsed

    def asked_by(self, read: Answer) -> Asked | None:
        """Return how many seconds an exception asks to wait, as far as that is heeded."""
        if is_a(read.exception, NotNow):
            return after(read.exception)
        own = self.policy if isinstance(self.policy, RetryPolicy) else None
        return asked_by(read, MAX_RETRY_AFTER if own is None else own.max_retry_after)

    def evidence_of(self, read: Answer) -> Evidence:
        """Return what a failure tells of the upstream: by its own rule, if it has one."""
        return evidence_of(read, service_failed if self.upstream is None else self.upstream._is_recorded)


def _nothing() -> None:
    """Stand for the reference to a function where there is none yet."""
