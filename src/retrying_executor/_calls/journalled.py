"""A call that is kept in a journal."""

from __future__ import annotations

from retrying_executor._calls.call import RetryingFuture
from retrying_executor._common.public import public

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")


@public
class JournalledFuture(RetryingFuture["T"]):
    """The future of a call that is kept in a journal; else as `RetryingFuture`."""

    __slots__ = ("_row", "_store")

    _store: Any  # the file that it is in
    _row: int  # where in that; negative once it does not need it any more

    @property
    def key(self) -> str:
        """The key of this call, as in `current_call`, events and logs; the same in every process."""
        key: str = self.__dict__.get("_key") or self._store.owner.key_of(abs(self._row))
        return key

    def _draw_key(self, draw: Callable[[], str]) -> None:
        """Its key follows from where it is in the journal."""


# Users know no other name: reprs and errors have it.
JournalledFuture.__name__ = JournalledFuture.__qualname__ = RetryingFuture.__name__
