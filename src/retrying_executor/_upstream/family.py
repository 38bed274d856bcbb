"""Upstreams that are made on demand, one for each key.

A member's `Upstream` lives as long as anything refers to it: a user's variable, an executor, a view, a call.
What is known of the service, its `Places`, is kept beyond that, until the places remember nothing. From then
on it makes no difference whether the next upstream for that key is new. Calls reach the places only through
the `Upstream`. So once that is gone, and no attempt is in flight, nothing can happen that the places would
have to remember.

``_lock`` guards the members of all families: which there are, and which `Upstream` each has. What is done
under it is brief and waits for nothing; upstreams are made without it, since that takes the lock of `forks`.
Each step leaves everything in order, so a forked child needs only a new lock.
"""

from __future__ import annotations

import threading
import weakref

from retrying_executor._common.forks import after_fork_in_child
from retrying_executor._common.misuse import refuse_to_copy, says_where
from retrying_executor._common.public import public
from retrying_executor._common.values import checked_name
from retrying_executor._upstream.evidence import service_failed
from retrying_executor._upstream.upstream import Upstream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from retrying_executor._common.values import Duration
    from retrying_executor._upstream.places import Places
    from retrying_executor._upstream.upstream import RecordExceptions

_CHECKS = 2  # members, in each look-up: so those that may be forgotten never become many more than the others

_lock = threading.RLock()  # reentrant for the sake of destructors and signal handlers


class _Member(weakref.ref[Upstream]):
    """A weak reference to an upstream, with what is known of the service."""

    __slots__ = ("places",)

    places: Places

    def is_over(self) -> bool:
        """Return whether the upstream is gone, and nothing of the service needs to be remembered."""
        return self() is None and self.places.is_as_new()


@public
class UpstreamFamily:
    """Upstreams that are made on demand, one for each key: each host, customer or account.

    ``family[key]`` is the `Upstream` of that key. It is made when it is first asked for, with the options of
    the family and limits of its own. Its name has both names in it: ``webhooks[example.org]``.

    One key has one upstream for as long as anything refers to it: a call that waits or runs, a future or a
    view that is kept. After that it is kept while there is something to remember of the service: attempts
    within the window of a limit, failures, a hold, a probe, a ramp, or a pace that was learned. It is
    forgotten once a new one would do the same. So no limit is exceeded, and a family takes no more memory
    than the keys that were in use lately need.

    ``len()``, ``in`` and iteration are over the keys that are known at that moment. A family has no thread:
    each look-up forgets a few members that need not be remembered, ``len()`` and iteration all of them.

    Args:
        name: What to call it in logs, before the key: text in one line.
        max_concurrency: See `Upstream`. Each limit is for each key by itself.
        rate: See `Upstream`.
        budget: See `Upstream`.
        paced: See `Upstream`.
        hold_after: See `Upstream`.
        record_exceptions: See `Upstream`.
        initial_hold: See `Upstream`.
        max_hold: See `Upstream`.
        max_pending: See `Upstream`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of its range.
    """

    __slots__ = ("__weakref__", "_members", "_model", "_unchecked")
    __reduce__ = refuse_to_copy

    @says_where()
    def __init__(
        self,
        name: str,
        *,
        max_concurrency: int | None = None,
        rate: tuple[int, Duration] | Sequence[tuple[int, Duration]] | None = None,
        budget: tuple[float, Duration] | Sequence[tuple[float, Duration]] | None = None,
        paced: bool = False,
        hold_after: int | None = 5,
        record_exceptions: RecordExceptions = service_failed,
        initial_hold: Duration = 1.0,
        max_hold: Duration = 60.0,
        max_pending: int | None = None,
    ) -> None:
        self._model = Upstream(  # which no call goes to
            name,
            max_concurrency=max_concurrency,
            rate=rate,
            budget=budget,
            paced=paced,
            hold_after=hold_after,
            record_exceptions=record_exceptions,
            initial_hold=initial_hold,
            max_hold=max_hold,
            max_pending=max_pending,
        )
        self._members: dict[str, _Member] = {}
        self._unchecked: list[str] = []  # the keys that `_forget_some` has yet to check in this round

    @property
    def name(self) -> str:
        """The name that it was given."""
        return self._model.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._model._places.title} known={len(self._members)}>"

    def __getitem__(self, key: str) -> Upstream:
        """Return the upstream of a key.

        Args:
            key: Text in one line.

        Raises:
            TypeError: If *key* is not a string.
            ValueError: If it is empty or blank, or has a character that cannot be printed, such as a line
                break.
        """
        if type(key) is not str or key not in self._members:
            key = str.__str__(checked_name(f"the key of UpstreamFamily {self.name!r}", key))
        new: Upstream | None = None  # made without the lock, then added unless another thread was faster
        while True:
            with _lock:
                self._forget_some()
                member = self._members.get(key)
                if member is not None:
                    return member() or self._keep(key, self._model._on(member.places))
                if new is not None:
                    return self._keep(key, new)
            new = self._model._on(self._model._places.alike(f"{self.name}[{key}]"))

    def __contains__(self, key: object) -> bool:
        """Return whether a key is known."""
        with _lock:
            if isinstance(key, str):
                self._forget(key)
            return key in self._members

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys that are known now."""
        return iter(self._keys())

    def __len__(self) -> int:
        """Return how many keys are known."""
        return len(self._keys())

    def _keep(self, key: str, upstream: Upstream) -> Upstream:
        """Have *upstream* be that of the key, and return it."""
        member = _Member(upstream)
        member.places = upstream._places
        self._members[key] = member
        return upstream

    def _keys(self) -> list[str]:
        """Return the keys that are known, once those are forgotten that need not be remembered."""
        with _lock:
            for key in list(self._members):
                self._forget(key)
            return list(self._members)

    def _forget_some(self) -> None:
        """Forget those of the next few members that need not be remembered; each gets its turn."""
        for _ in range(_CHECKS):
            try:
                key = self._unchecked.pop()
            except IndexError:  # the round is over
                self._unchecked = list(self._members)
                return
            self._forget(key)

    def _forget(self, key: str) -> None:
        """Forget a member if that makes no difference."""
        members = self._members
        member = members.get(key)
        if member is None or not member.is_over():
            return
        if key in members and members[key] is member:  # else a signal handler has asked for it just now
            del members[key]


def _restart_in_child() -> None:
    """After a fork: a thread that is gone may have had the lock."""
    global _lock
    _lock = threading.RLock()


after_fork_in_child(_restart_in_child)
