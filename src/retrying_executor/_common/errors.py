"""The errors that are this library's own."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor

from retrying_executor._common.public import public
from retrying_executor._common.values import as_float, checked_bool, in_words, optional_seconds, to_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from retrying_executor._common.values import Duration

    E = TypeVar("E", bound=Exception)

_FINAL = "_retrying_executor_final"


def final(error: E) -> E:
    """Mark an error of this library as final, and return it: another attempt would only repeat it."""
    error.__dict__[_FINAL] = True
    return error


def refusal_like(refusal: Exception) -> Exception:
    """Return a new error like *refusal*, the one that an executor raises from now on for every call.

    After a shutdown, it is final. That of a broken executor is not: a call may make a new executor in each of
    its attempts.
    """
    error = type(refusal)(*refusal.args)
    return error if isinstance(error, BrokenExecutor) else final(error)


def is_final(exception: BaseException) -> bool:
    """Return whether this is an error of this library that is final: see `final`."""
    return issubclass(type(exception), ForkedFutureError) or _FINAL in exception.__dict__


@public
class PendingLimitError(RuntimeError):
    """Raised by ``submit()`` when as many calls are pending as ``max_pending`` allows.

    The limit is that of the executor, or that of the upstream that the call goes to. Pending are the calls
    that were accepted and are not done yet.

    The call was refused: it never runs.
    """


@public
class AttemptLostError(RuntimeError):
    """How an attempt fails whose engine died, was killed or broke before it had answered.

    What the attempt did before has been done, and on a cluster it may be running still. A policy takes it for
    a failure like any other. If the attempt was killed because of its ``attempt_timeout``, the cause is a
    `TimeoutError`.
    """


@public
class JournalError(RuntimeError):
    """Raised by ``submit()`` when a call cannot be written to the journal: the disk may be full.

    The call was refused: it never runs.
    """


@public
class ForkedFutureError(RuntimeError):
    """Raised by a future in a forked child when its call belongs to the parent process.

    The call goes on in the parent, where the future gets its outcome.
    """


@public
class NotNow(Exception):  # noqa: N818  # an answer rather than an error
    """Raised by a call to say that it is to be made again later: no failure, and no attempt used up.

    A ``retry_on`` function may return a `NotNow`, to the same effect. The call waits for *after* seconds and
    some jitter. Without *after*, it waits as long as after a failure. In all it waits no longer than the
    policy's ``max_elapsed``.

    Args:
        args: The message, as with any exception.
        after: How long to wait, in seconds; 0 or more, or ``None``.
        only_this_call: Whether it is about this call alone, for example because it polls for something.
            Otherwise it is the service that asks to wait, and the upstream is held for as long.

    Raises:
        TypeError: If *after* is neither a number nor a ``timedelta``, or *only_this_call* is not a ``bool``;
            or if a duration comes last by position.
        ValueError: If it is negative, infinite or not a number (NaN).
    """

    after: float | None = None  # for subclasses that do not call __init__

    only_this_call: bool = False

    def __init__(self, *args: object, after: Duration | None = None, only_this_call: bool = False) -> None:
        super().__init__(*args)
        if type(self).__init__ is NotNow.__init__ and after is None and args:
            number = to_seconds(args[-1])  # type: ignore[arg-type]  # unchecked: it may be anything
            if isinstance(number, bool) or as_float(number) is not None:
                raise TypeError(f"after must be given by keyword: NotNow(after={args[-1]!r})")
        self.after = optional_seconds("after", after)
        self.only_this_call = checked_bool("only_this_call", only_this_call)

    def __str__(self) -> str:
        asked = "" if self.after is None else f"after {in_words(self.after)}"
        return super().__str__() or asked
