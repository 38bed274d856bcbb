"""The errors that are this library's own."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor

from retrying_executor._common.public import public
from retrying_executor._common.values import as_float, in_words, optional_seconds, to_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from retrying_executor._common.values import Duration

    E = TypeVar("E", bound=Exception)

_FINAL = "_retrying_executor_final"


def final(error: E) -> E:
    """Return an error of this library marked as one that another attempt would only meet again."""
    error.__dict__[_FINAL] = True
    return error


def refusal_like(refusal: Exception) -> Exception:
    """Return a new error like that with which calls are refused for good.

    A broken executor may be one that each attempt makes anew. One that was shut down is misused.
    """
    error = type(refusal)(*refusal.args)
    return error if isinstance(error, BrokenExecutor) else final(error)


def is_final(exception: BaseException) -> bool:
    """Return whether another attempt would only meet this error again, and it is one of this library."""
    return issubclass(type(exception), ForkedFutureError) or _FINAL in exception.__dict__


@public
class PendingLimitError(RuntimeError):
    """Raised by ``submit()`` when as many calls are accepted and not done yet as ``max_pending`` allows.

    That of the executor, or that of the upstream that the call goes to.

    The call was refused: it never runs.
    """


@public
class ForkedFutureError(RuntimeError):
    """What a future raises in a forked child when its call belongs to the parent.

    The call goes on in the parent, where the future gets its outcome.
    """


@public
class NotNow(Exception):  # noqa: N818  # an answer rather than an error
    """Raised by a call to say that it is to be made again later: no failure, and no attempt used up.

    A ``retry_on`` function may return one instead. The call waits *after* seconds and some jitter, or if
    that is not given, as long as the policy has it wait after a failure; in all no longer than the
    policy's ``max_elapsed``.

    Args:
        args: What to say, as with any exception.
        after: How long to wait, in seconds; 0 or more, or ``None``.
        only_this_call: Whether it concerns this call alone, which polls for something, say. Otherwise it is
            the service that asks to wait: an upstream is held for so long.

    Raises:
        TypeError: If *after* is neither a number nor a ``timedelta``, or *only_this_call* is not a ``bool``;
            or if a duration is all that is given, by position.
        ValueError: If it is negative, infinite or not a number (NaN).
    """

    after: float | None = None  # also of a subclass that does not call this

    only_this_call: bool = False

    def __init__(self, *args: object, after: Duration | None = None, only_this_call: bool = False) -> None:
        super().__init__(*args)
        if type(self).__init__ is NotNow.__init__ and after is None and len(args) == 1:
            number = to_seconds(args[0])  # type: ignore[arg-type]  # whatever it is
            if isinstance(number, bool) or as_float(number) is not None:
                raise TypeError(f"after must be given by keyword: NotNow(after={args[0]!r})")
        self.after = optional_seconds("after", after)
        if not isinstance(only_this_call, bool):
            raise TypeError(f"only_this_call must be True or False, not {only_this_call!r}")
        self.only_this_call = only_this_call

    def __str__(self) -> str:
        asked = "" if self.after is None else f"after {in_words(self.after)}"
        return super().__str__() or asked
