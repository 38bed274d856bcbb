"""On what terms calls are made."""

from __future__ import annotations

import math

from retrying_executor._common.errors import NotNow
from retrying_executor._common.exceptions import is_a
from retrying_executor._common.values import checked_weight
from retrying_executor._policy.policy import MAX_RETRY_AFTER, RetryPolicy, after, asked_by
from retrying_executor._upstream.evidence import evidence_of, service_failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from retrying_executor._policy.policy import Policy
    from retrying_executor._policy.reading import Reading
    from retrying_executor._policy.verdict import Asked
    from retrying_executor._upstream.gate import Evidence
    from retrying_executor._upstream.upstream import Upstream


class Terms:
    """On what terms calls are made: upstreams and policy, taken apart once for all calls with them.

    Args:
        policy: Decides whether and when to try again; ``None``: never.
        upstreams: The services that have to let each call through, the narrowest last.
        weight: How much an attempt takes of their budgets; or a function of the call's arguments.
        label: Tells these calls apart from others of the same function, or ``None``.
        key: The key of all these calls, or ``None``: each has one of its own.
    """

    __slots__ = (
        "__weakref__",
        "_is_recorded",
        "key",
        "label",
        "latest",
        "marks_calls",
        "max_age",
        "max_elapsed",
        "most_weight",
        "places",
        "policy",
        "rejects",
        "upstreams",
        "verdict",
        "weight",
    )

    def __init__(
        self,
        policy: Policy | None,
        upstreams: tuple[Upstream, ...] = (),
        *,
        weight: float | Callable[..., float] = 1,
        label: str | None = None,
        key: str | None = None,
    ) -> None:
        self.policy = policy
        self.upstreams = upstreams  # keeps them alive: the core uses only their `Places`
        self.places = tuple([upstream._places for upstream in upstreams])
        self.most_weight = min([places.most_weight for places in self.places], default=math.inf)
        self.weight = weight
        rules = [upstream._is_recorded for upstream in upstreams] or [service_failed]
        self._is_recorded = rules[0] if len(rules) == 1 else lambda error: any(rule(error) for rule in rules)
        self.label = label
        self.key = key
        self.latest: Callable[[], object] = _nothing
        """Returns the function that `submit()` checked last: a check takes time, and most calls repeat it."""
        own = policy if isinstance(policy, RetryPolicy) else None
        self.max_age = None if own is None else own.max_age
        # Whether calls need `RetryingFuture._apply_terms`: few do.
        self.marks_calls = key is not None or self.max_age is not None or self.most_weight < math.inf
        # Not of a subclass that decides in another way: that is called like any other callable.
        decides_itself = own is not None and type(own).__call__ is RetryPolicy.__call__
        self.verdict = own.verdict if own is not None and decides_itself else None
        self.rejects = None if own is None else own.retry_result
        self.max_elapsed = math.inf if own is None or own.max_elapsed is None else own.max_elapsed

    def with_label(self, label: str | None) -> Terms:
        """Return the same terms for calls with that label, without a key."""
        return Terms(self.policy, self.upstreams, weight=self.weight, label=label)

    def asked_by(self, read: Reading) -> Asked | None:
        """Return how many seconds an exception asks to wait, capped by ``max_retry_after``."""
        if is_a(read.exception, NotNow):
            return after(read.exception)
        own = self.policy if isinstance(self.policy, RetryPolicy) else None
        return asked_by(read, MAX_RETRY_AFTER if own is None else own.max_retry_after)

    def evidence_of(self, read: Reading) -> Evidence:
        """Return what a failure shows about the upstreams: it counts if the rule of any of them says so."""
        return evidence_of(read, self._is_recorded)

    @property
    def upstream_name(self) -> str | None:
        """The names of the upstreams, if there are any."""
        return ", ".join(upstream.name for upstream in self.upstreams) or None

    def weigh(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        """Return how much an attempt of a call with these arguments is to take of the budgets.

        Raises:
            TypeError: If the function *weight* does not return a number.
            ValueError: If it returns a negative or infinite number, or more than a budget ever has.
            Exception: What that function raises.
        """
        weight: float = self.weight  # type: ignore[assignment]  # or a callable
        if callable(self.weight):
            weight = checked_weight("what weight(...) returns", self.weight(*args, **kwargs))
        if weight > self.most_weight:
            most = f"{self.most_weight!r}, the budget of {self.upstream_name!r}"
            raise ValueError(f"weight must be at most {most}, or the call would never start: not {weight!r}")
        return weight


def _nothing() -> None:
    """Stand for the reference to a function where there is none yet."""
