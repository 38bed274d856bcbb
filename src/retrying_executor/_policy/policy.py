"""Whether and when a failed attempt is followed by another: pure decisions, no threads, no clock."""

from __future__ import annotations

import math
import sys

from retrying_executor._common.callables import checked_callable, checked_filter
from retrying_executor._common.errors import NotNow
from retrying_executor._common.exceptions import classes_in, is_a
from retrying_executor._common.misuse import says_where
from retrying_executor._common.public import public
from retrying_executor._common.values import (
    Value,
    as_float,
    checked_bool,
    checked_int,
    in_words,
    optional_seconds,
    positive_seconds,
    seconds,
    sequence,
)
from retrying_executor._policy.inline import Inline
from retrying_executor._policy.reading import Reading, get
from retrying_executor._policy.transient import hint_of, retry_after, transient, verdict_on
from retrying_executor._policy.verdict import Asked, Attempt, Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import EllipsisType
    from typing import Any, TypeAlias, TypeVar, overload

    from typing_extensions import ParamSpec, TypedDict, Unpack

    from retrying_executor._common.values import Duration
    from retrying_executor._policy.inline import Upstream

    P = ParamSpec("P")
    T = TypeVar("T")

    RetryOn: TypeAlias = (
        type[BaseException]
        | tuple[type[BaseException], ...]
        | Callable[[Exception], bool | Duration | NotNow]
    )
    GiveUpOn: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]
    Policy: TypeAlias = Callable[["Attempt"], Duration | None]

    class PolicyOptions(TypedDict, total=False):
        """The options of `RetryPolicy`, for signatures that pass them on."""

        max_attempts: int | None
        initial_delay: Duration
        multiplier: float
        max_delay: Duration
        jitter: bool
        max_elapsed: Duration | None
        max_age: Duration | None
        retry_on: RetryOn
        give_up_on: GiveUpOn
        retry_result: Callable[[Any], object] | None
        max_retry_after: Duration | None
        delays: Iterable[Duration] | None
        random: Callable[[], float] | None


MAX_RETRY_AFTER = 300.0
_DEFAULT_MAX_ATTEMPTS = 5
_DEFAULT_CURVE = {"initial_delay": 0.5, "multiplier": 2.0, "max_delay": 60.0}
_SPREAD = 0.25  # the least jitter, as a share of the wait asked for; see docs/explanation/fleet.py


@public
class RetryPolicy(Value):
    """When to try again, and when to give up: exponential backoff with full jitter.

    After failed attempt *n* the delay is drawn uniformly from zero to
    ``min(max_delay, initial_delay * multiplier ** (n - 1))`` seconds. A policy is an immutable
    value: equal options make equal policies.

    Args:
        max_attempts: How many attempts a call gets, the first included: 1 or more, or ``None`` for
            no limit. The default is 5, or one more than there are *delays*. Attempts that were
            answered "not now" (`NotNow`) do not count.
        initial_delay: Upper bound of the first delay, in seconds; 0 or more.
        multiplier: Factor from each upper bound to the next; 1 or more.
        max_delay: Upper bound of every delay, in seconds; *initial_delay* or more.
        jitter: ``True``: draw each delay uniformly from zero to its bound, so that callers that
            failed together do not come back together. ``False``: each delay is its bound. The
            default is ``True``, or ``False`` with *delays*.
        max_elapsed: No attempt starts later than this many seconds after the first one began; 0 or more, or
            ``None`` for no limit. A call that was never tried may wait for this long because its upstream is
            held, or has yet to get a probe through. Then it fails with a ``TimeoutError``. Any other wait
            before the first attempt, such as for a thread or for the limits of an upstream that works, counts
            for *max_age* only.
        max_age: No attempt starts later than this many seconds after ``submit()``, whatever the call waited
            for: a thread, its upstream, its next attempt. It fails with its last exception, or with a
            ``TimeoutError`` if it was never tried. More than 0, or ``None`` for no limit. A call that waits
            for a free thread fails only when its turn comes.
        retry_on: Which failures are worth another attempt: a class of exceptions, a tuple of classes, or
            a callable from the exception to a ``bool``, to the seconds to wait before the next
            attempt, or to a `NotNow`. Seconds are taken exactly, within the limits on attempts and time; 0
            and 1 must be floats. The default is `transient`. With classes, an answer that `transient` takes
            for "not now" is no failure, and the call comes back later; a callable decides about that itself.
            A `NotNow` that a call raises is always worth another attempt. What is not an `Exception`, such
            as ``KeyboardInterrupt``, never is.
        give_up_on: Which failures are final, whatever *retry_on* says: a class of exceptions, or a tuple
            of classes; the default is none. "Not now" stays "not now" here too.
        max_retry_after: The longest wait that an answer may ask for (``Retry-After`` and the like, see
            `retry_after`), in seconds: 0 or more, or ``None`` for no limit. If it asks for more, it gets this
            much; the next attempt never comes sooner. Jitter comes on top: up to the delay of the curve, or
            up to a quarter of the wait if that is more. The default is five minutes: longer than the windows
            of common rate limits, and short enough that a wrong header does no harm.
        retry_result: A predicate: the results for which it is true are failures too. When no
            attempt is left, the last result is the call's result.
        delays: The delays themselves, in seconds, instead of a curve. There are as many retries as delays.
        random: The source of jitter: a callable that returns uniform samples from ``[0, 1)``;
            the default is `random.random`.

    Raises:
        TypeError: If an argument has the wrong type, or *delays* comes with an option of the curve.
        ValueError: If an argument is out of its range.

    References:
        Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 (full jitter).
    """

    max_attempts: int | None
    initial_delay: float
    multiplier: float
    max_delay: float
    jitter: bool
    max_elapsed: float | None
    max_age: float | None
    retry_on: RetryOn
    give_up_on: GiveUpOn
    retry_result: Callable[[Any], object] | None
    max_retry_after: float | None
    delays: tuple[float, ...] | None
    random: Callable[[], float] | None

    _given_as = "retry"

    @says_where("retry=RetryPolicy({}=...)")
    def __init__(
        self,
        *,
        max_attempts: int | EllipsisType | None = ...,
        initial_delay: Duration = 0.5,
        multiplier: float = 2.0,
        max_delay: Duration = 60.0,
        jitter: bool | EllipsisType = ...,
        max_elapsed: Duration | None = 3600.0,
        max_age: Duration | None = None,
        retry_on: RetryOn = transient,
        give_up_on: GiveUpOn = (),
        retry_result: Callable[[Any], object] | None = None,
        max_retry_after: Duration | None = MAX_RETRY_AFTER,
        delays: Iterable[Duration] | None = None,
        random: Callable[[], float] | None = None,
    ) -> None:
        curve = {
            "initial_delay": seconds("initial_delay", initial_delay),
            "multiplier": _checked_multiplier(multiplier),
            "max_delay": seconds("max_delay", max_delay),
        }
        if curve["max_delay"] < curve["initial_delay"]:
            raise ValueError(
                f"max_delay must be {initial_delay!r} (initial_delay) or more, not {max_delay!r}"
            )
        if delays is not None:
            delays = _checked_delays(delays)
            if curve != _DEFAULT_CURVE:
                raise TypeError(f"delays takes the place of {', '.join(curve)}: give either, not both")
        if max_attempts is ...:
            max_attempts = _DEFAULT_MAX_ATTEMPTS if delays is None else len(delays) + 1
        elif max_attempts is not None:
            checked_int("max_attempts", max_attempts)
        if delays is not None and (max_attempts is None or max_attempts > len(delays) + 1):
            raise ValueError(
                f"max_attempts must be at most {len(delays) + 1} ({len(delays)} delays), not {max_attempts!r}"
            )
        if jitter is ...:
            jitter = delays is None
        else:
            checked_bool("jitter", jitter)
        super().__init__(
            **curve,
            max_attempts=max_attempts,
            jitter=jitter,
            max_elapsed=optional_seconds("max_elapsed", max_elapsed),
            max_age=None if max_age is None else positive_seconds("max_age", max_age),
            retry_on=_checked_retry_on(retry_on),
            give_up_on=_checked_give_up_on(give_up_on),
            retry_result=checked_callable("retry_result", retry_result, takes=1),
            max_retry_after=optional_seconds("max_retry_after", max_retry_after),
            delays=delays,
            random=checked_callable("random", random, takes=0),
        )

    def replace(self, **changes: Unpack[PolicyOptions]) -> RetryPolicy:
        """Return a policy with the given options changed; the options and errors of the class.

        Changing from a curve to *delays*, or back, or to other delays, also resets ``max_attempts``
        and ``jitter`` to their defaults, unless they are given too.
        """
        options = dict(self.__dict__)
        waits = {*_DEFAULT_CURVE, "delays"}
        has_delays = self.delays is not None or changes.get("delays") is not None
        if has_delays and not waits.isdisjoint(changes):
            for name in (*waits, "max_attempts", "jitter"):
                del options[name]
        return type(self)(**{**options, **changes})

    __replace__ = replace  # for copy.replace()

    def __repr__(self) -> str:
        usual = {**RetryPolicy(delays=self.delays).__dict__, "delays": None}
        given = [
            f"{name}={value!r}" for name, value in self.__dict__.items() if value != usual.get(name, ...)
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    if TYPE_CHECKING:

        @overload
        def __call__(self, attempt: Attempt, /) -> float | None: ...
        @overload
        def __call__(self, fn: Callable[P, T], /) -> Callable[P, T]: ...

    def __call__(self, attempt: Any, /) -> Any:
        """Return the seconds to wait before the next attempt, or ``None`` to give up.

        Given a function instead of an attempt, a policy is a decorator: it returns a function that makes each
        of its calls where it stands, as `call` does.

        Raises:
            TypeError: If *attempt* is neither an `Attempt` nor a function; see `Inline.__call__`.
        """
        if isinstance(attempt, Attempt):
            return self.verdict(attempt).delay
        if not callable(attempt) and not isinstance(attempt, classmethod):
            raise TypeError(f"attempt must be an Attempt, or a function to decorate, not {attempt!r}")
        function: Any = attempt
        return self.inline()(function)

    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Make the call ``fn(*args, **kwargs)`` here, in this thread or task, and wait for it.

        That is for places where no executor fits: nothing runs in the background, and while the call waits
        for its next attempt, so does its caller. See `Inline.call`, also for what it raises.
        """
        return self.inline().call(fn, *args, **kwargs)

    def inline(
        self,
        *,
        upstream: Upstream | tuple[Upstream, ...] | None = None,
        weight: float | Callable[..., float] = 1,
        label: str | None = None,
        key: str | None = None,
    ) -> Inline:
        """Return what makes calls where they stand, on the terms of this policy and of an upstream.

        An executor with the same upstream shares its limits with them, and its holds.

        Args:
            upstream: The service that the calls go to: an `Upstream`, or several, or ``None``; as in
                `RetryingExecutor.with_options`, and so are the others.
            weight: How much each attempt takes of a budget.
            label: What tells the calls apart in logs and in `current_call`.
            key: Their idempotency key; ``None``: each has one of its own.

        Raises:
            TypeError: If an option has the wrong type.
            ValueError: If an option is out of its range.
        """
        return Inline(self, upstream=upstream, weight=weight, label=label, key=key)

    def verdict(self, attempt: Attempt, read: Reading | None = None) -> Verdict:
        """Return what follows a failed attempt, and why.

        Args:
            attempt: What failed.
            read: What its exception says, if it has been read already.
        """
        answer: bool | float | NotNow | str = True
        if attempt.exception is not None:
            if read is None or not _is_by_rules(self.retry_on):  # a callable may have changed the exception
                read = Reading(attempt.exception)
            answer = self._read(attempt.exception, read)
        if is_a(answer, str):
            return Verdict(None, reason=answer, read=read)
        counts = not isinstance(answer, NotNow)
        used = attempt.number - attempt.postponed
        if counts and self.max_attempts is not None and used >= self.max_attempts:
            which = (
                "the only attempt is" if self.max_attempts == 1 else f"all {self.max_attempts} attempts are"
            )
            return Verdict(None, reason=f"{which} used", read=read)
        asked = after(answer) if isinstance(answer, NotNow) else None
        if asked is None and issubclass(type(answer), (bool, NotNow)) and read is not None:
            asked = asked_by(read, self.max_retry_after)
        if is_a(answer, float):
            delay = answer
        else:
            number = max(used, 1) if counts else attempt.postponed + 1
            delay = seconds("the delay", self._delay(number, asked))  # a source of jitter may return anything
        if self.max_elapsed is not None and attempt.elapsed + delay > self.max_elapsed:
            why = no_time_for(attempt.elapsed + delay, "max_elapsed", self.max_elapsed)
            return Verdict(None, reason=why, read=read)
        reasons = [] if asked is None else [asked.words]
        reasons += [] if counts else ["not counted"]
        concerns_call = is_a(answer, NotNow) and get(answer, "only_this_call") is True
        return Verdict(
            delay,
            counts=counts,
            asked=asked,
            reason=", ".join(reasons),
            concerns_call=concerns_call,
            read=read,
        )

    def _read(self, exception: Exception, read: Reading) -> bool | float | NotNow | str:
        """Return whether a failure is worth another attempt, or when; or a text: why it is not."""
        if is_a(exception, NotNow):
            return exception
        retry_on: Any = self.retry_on
        answer = verdict_on(read) if _is_by_rules(retry_on) else retry_on(exception)
        if isinstance(answer, NotNow):
            return answer
        if issubclass(type(exception), self.give_up_on):
            return "it is in give_up_on"
        if isinstance(retry_on, (type, tuple)):
            return issubclass(type(exception), retry_on) or "it is not in retry_on"
        if isinstance(answer, bool):
            return answer or ("another attempt cannot help" if retry_on is transient else "retry_on says so")
        if isinstance(answer, int) and answer in (0, 1):
            raise TypeError(f"what retry_on returns must be a bool, or seconds as a float, not {answer!r}")
        return seconds("what retry_on returns (if not a bool or a NotNow)", answer)

    def _delay(self, number: int, asked: float | None) -> float:
        """Return the delay after the *number*-th failure, or the *number*-th "not now", of a call."""
        if self.delays:
            bound = self.delays[min(number, len(self.delays)) - 1]
        else:
            bound = backoff(number, base=self.initial_delay, multiplier=self.multiplier, cap=self.max_delay)
        if asked is not None:
            if not self.jitter:
                return asked or bound
            bound = max(bound, _SPREAD * asked)
        if self.jitter:
            bound *= _random() if self.random is None else self.random()
        return min(bound + (asked or 0.0), sys.float_info.max)


def after(not_now: NotNow) -> Asked | None:
    """Return how many seconds a `NotNow` asks to wait; ``None`` if it does not, or if that cannot be read."""
    try:
        asked = optional_seconds("after", not_now.after)
    except BaseException:  # it was set to something else, or a subclass raises
        return None
    return None if asked is None else Asked(asked)


def no_time_for(start: float, name: str, limit: float) -> str:
    """Return in words that an attempt after *start* seconds exceeds the *limit* of that *name*."""
    return f"the next attempt would start after {in_words(start)}, and {name} is {in_words(limit)}"


def asked_by(read: Reading, limit: float | None) -> Asked | None:
    """Return how many seconds an exception asks to wait, up to a *limit*; ``None`` if it does not."""
    asked = hint_of(read)
    return None if asked is None else Asked(asked, limit)


def backoff(number: int, *, base: float, multiplier: float, cap: float) -> float:
    """Return the upper bound of the delay after a failed attempt: seconds in ``[0, cap]``.

    Args:
        number: The attempt that failed; the first is 1.
        base: The bound after the first attempt, in seconds; 0 or more.
        multiplier: Factor from each bound to the next; 1 or more.
        cap: Upper bound of all bounds, in seconds; *base* or more.
    """
    try:
        return min(cap, base * multiplier ** (number - 1))
    except OverflowError:
        return cap if base else 0.0


def checked_policy(retry: object) -> Policy | None:
    """Return *retry* if it can serve as the ``retry`` option.

    Raises:
        TypeError: If it is neither ``None`` nor callable with an attempt, or is a class.
    """
    if isinstance(retry, type):
        how = "retry=RetryPolicy(retry_on=...)" if issubclass(retry, BaseException) else "call it"
        raise TypeError(f"retry must be a policy, not the class {retry!r}: {how}")
    if retry is transient or retry is retry_after:
        raise TypeError(f"retry must be a policy, not {retry!r}: that takes exceptions, as retry_on does")
    policy: Policy | None = checked_callable("retry", retry, takes=1, what="a RetryPolicy, a callable")
    return policy


def _is_by_rules(retry_on: RetryOn) -> bool:
    """Return whether the rules of `transient` are asked, not a callable of the user's."""
    return retry_on is transient or isinstance(retry_on, (type, tuple))


def _random() -> float:
    from random import random  # slow to import, and not every program retries

    return random()


def _checked_multiplier(multiplier: object) -> float:
    number = as_float(multiplier)
    if number is None:
        raise TypeError(f"multiplier must be a number, not {multiplier!r}")
    if not 1.0 <= number < math.inf:
        raise ValueError(f"multiplier must be finite and 1 or more, not {multiplier!r}")
    return number


def _checked_delays(delays: Iterable[Duration]) -> tuple[float, ...]:
    each = enumerate(sequence("delays", delays, "an iterable of seconds"))
    return tuple(seconds(f"delays[{index}]", delay) for index, delay in each)


def _checked_retry_on(retry_on: RetryOn) -> RetryOn:
    if retry_on is retry_after or isinstance(retry_on, RetryPolicy):
        raise TypeError(f"retry_on must say whether an exception is worth another attempt, not {retry_on!r}")
    classes = checked_filter("retry_on", retry_on)
    if classes == ():
        raise ValueError("retry_on must name an exception class, not (): with retry=None nothing is retried")
    for one in classes or ():
        if not issubclass(one, Exception) and not issubclass(Exception, one):
            raise ValueError(f"retry_on must name subclasses of Exception only: {one!r} is never retried")
    return retry_on


def _checked_give_up_on(give_up_on: GiveUpOn) -> GiveUpOn:
    classes = classes_in(give_up_on)
    if classes is None:
        raise TypeError(f"give_up_on must be an exception class or a tuple of them, not {give_up_on!r}")
    if any(issubclass(one, NotNow) for one in classes):
        raise ValueError(f"give_up_on must name failures, and NotNow is none: not {give_up_on!r}")
    return give_up_on
