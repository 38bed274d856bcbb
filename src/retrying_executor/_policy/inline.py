"""The same policy where no executor fits: calls that are made where they stand, inline or by a decorator."""

from __future__ import annotations

from functools import wraps

from retrying_executor._common.callables import code_of, is_async, unwrapped
from retrying_executor._common.misuse import refuse_to_copy
from retrying_executor._common.public import public

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol, TypeVar

    from typing_extensions import ParamSpec

    P = ParamSpec("P")
    T = TypeVar("T")

    class Upstream(Protocol):
        """An `Upstream`, as far as type checkers are to know here: its class is above this layer."""

        @property
        def name(self) -> str: ...
        @property
        def in_flight(self) -> int: ...
        @property
        def held_until(self) -> float | None: ...

    class Maker(Protocol):
        """Makes calls on certain terms, in this thread; those of coroutine functions in this task."""

        def __call__(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> Any:
            """Make a call, and return its result; of a coroutine function, a coroutine that does so."""
            ...


_GENERATOR = 0x20 | 0x200  # flags of code, as `inspect` has them: of generators, plain and asynchronous


@public
class Inline:
    """Makes calls where they stand, on the terms of a policy; see `RetryPolicy.inline`.

    Any number of threads and event loops can use it at a time.
    """

    __reduce__ = refuse_to_copy

    _new_maker: Callable[..., Maker]  # set by the package, since a maker needs what is built on policies

    def __init__(self, policy: object, **options: object) -> None:
        self._policy = policy
        self._options = options
        self._make = self._new_maker(policy, **options)

    def __repr__(self) -> str:
        given = [f"{name}={value!r}" for name, value in self._options.items() if value not in (None, 1)]
        return f"{self._policy!r}.inline({', '.join(given)})"

    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Make the call ``fn(*args, **kwargs)`` here, until it gets through or the policy gives up.

        Each attempt runs in this thread, and in its `contextvars` context. Between attempts, and as long as
        an upstream lets none through, the thread waits. Of a coroutine function this returns a coroutine, to
        be awaited in an event loop of `asyncio`: then its task waits, and other tasks go on.

        Returns:
            What the last attempt returned.

        Raises:
            TypeError: If *fn* is not callable, or makes an asynchronous generator.
            PendingLimitError: If ``max_pending`` of an upstream is reached.
            TimeoutError: If the call was never tried, since its upstream was held for ``max_elapsed``, or
                since ``max_age`` was over.
            BaseException: What the last attempt raised. Ctrl-C ends the call, and so does cancelling its
                task, also while it waits.
        """
        result: T = self._make(fn, args, kwargs)
        return result

    def __call__(self, fn: Callable[P, T]) -> Callable[P, T]:
        """Return a function that makes each call of *fn* as `call` does: this is a decorator.

        Raises:
            TypeError: If *fn* is a class, a generator function, or no function at all; or a static method or
                a class method, whose decorator belongs above this one.
        """
        _check_function(fn)
        make = self._make

        def plain(*args: P.args, **kwargs: P.kwargs) -> Any:
            return make(fn, args, kwargs)

        async def awaiting(*args: P.args, **kwargs: P.kwargs) -> Any:
            return await make(fn, args, kwargs)

        decorated: Any = awaiting if is_async(fn) else plain  # frameworks ask which it is
        return wraps(fn)(decorated)


def _check_function(fn: object) -> None:
    """Raise a `TypeError` for what a decorator can make no calls of."""
    if isinstance(fn, (staticmethod, classmethod)):
        raise TypeError(f"fn must be a function, not {fn!r}: @{type(fn).__name__} belongs above the policy")
    if isinstance(fn, type) or not callable(fn):
        raise TypeError(f"fn must be a function, not {fn!r}")
    code = code_of(unwrapped(fn))
    if code is not None and code.co_flags & _GENERATOR:
        raise TypeError(f"fn must not be a generator function, which runs only when iterated over: {fn!r}")
