"""For tests of code that uses `RetryingExecutor`: an executor in virtual time.

Nothing here starts a thread, and nothing waits. In pytest, the fixture ``virtual_executor`` makes one.
"""

from __future__ import annotations

from retrying_executor._calls.call import names_of
from retrying_executor._common.exits import ExitTimeout
from retrying_executor._common.misuse import says_where
from retrying_executor._common.values import seconds
from retrying_executor._core.core import Core
from retrying_executor._executor import RetryingExecutor
from retrying_executor._options import assemble, end_with
from retrying_executor._policy.policy import RetryPolicy
from retrying_executor._virtual.crew import VirtualCrew
from retrying_executor._virtual.monitor import VirtualMonitor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable
    from os import PathLike
    from typing import Any, Literal

    from retrying_executor._common.values import Duration
    from retrying_executor._journal.journal import Journal
    from retrying_executor._observe.monitor import Event
    from retrying_executor._options import Options
    from retrying_executor._policy.policy import Policy
    from retrying_executor._upstream.upstream import Upstream
    from retrying_executor.engines import Processes, Shared

_MOST_WORKERS = 32  # as many as the standard executor has by default at most

__all__ = ["VirtualTimeExecutor"]


class VirtualTimeExecutor(RetryingExecutor):
    """An executor for tests, in virtual time: an hour of backoff takes milliseconds.

    It is a `~retrying_executor.RetryingExecutor` and makes the same decisions as a real one, but has no
    threads. Attempts run while a thread waits for an outcome, in that thread: in ``result()`` and
    ``exception()``, `concurrent.futures.wait` and `concurrent.futures.as_completed`, while iterating over
    ``map()``, in ``drain()`` and ``shutdown()``, at the end of a ``with`` block, and in `advance`. When no
    attempt is ready, the clock jumps to the next time at which one is. Timeouts are in virtual time, too. A
    wait that would never end raises `RuntimeError`. An ``await`` in asyncio makes no attempts: call
    ``drain()`` before it.

    The clock starts at 0, and `monotonic` reads it. The ``due_at`` of a future, the ``held_until`` of an
    upstream and the ``next_due_at`` of the statistics are times of this clock. Attempts run one after the
    other and take no time, unless they call `sleep`. A call may wait for another, which then runs in the
    middle of it. An exception of an attempt has a traceback that refers to the code that waits, and to the
    futures there. So these futures go away only when the garbage collector runs.

    The attempts of coroutine functions run at the same time, in an event loop that goes by this clock:
    `asyncio.sleep` and timeouts take no real time. The thread that waits runs that loop, in the middle of
    another one if need be. While a function runs in `asyncio.to_thread` or ``run_in_executor()``, the clock
    stands still. A socket is waited for in real time only when nothing else is to come: a timeout in the
    coroutine, or of the code that waits, comes first. A coroutine must not wait for calls of its executor
    without ``await``, which raises `RuntimeError`.

    Jitter is drawn from the *seed*, unless a policy has a source of its own, and so are the keys of calls.
    With the same seed, the same program does the same at the same times.

    An upstream that is given to it, or to a view of it, goes by this clock until the executor is shut down or
    goes away. Then it starts afresh. Until then, do not give it to any other executor: two executors that
    share an upstream cannot be tested in virtual time, but two views of one executor can.

    Args:
        max_workers: Its value is checked but has no effect, except that so many calls may wait for a place
            among *max_coroutines* before no further call is taken. The default for that is 32.
        thread_name_prefix: As for the real one, in logs and events.
        initializer: Called once, before the first attempt. If it raises, the executor is broken.
        initargs: The arguments of *initializer*.
        seed: What the jitter is drawn from: an integer.
        retry: As for the real one.
        upstream: As for the real one.
        idle_timeout: Its value is checked but has no effect.
        exit_timeout: As for the real one, in a ``with`` block that is left by an exception.
        max_pending: As for the real one.
        when_full: As for the real one. With ``"wait"``, ``submit()`` runs attempts until there is room.
        on_event: As for the real one, but called at once, in the same thread. The times of the events are
            those of `monotonic`.
        warn_after: Its value is checked but has no effect.
        inherit_context: As for the real one.
        journal: As for the real one. No virtual time passes between one process and the next.
        max_coroutines: As for the real one.
        loop_factory: Its value is checked but has no effect: the event loop is one in virtual time.
        engine: Its value is checked but has no effect: attempts run in the thread that waits.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of its range, or if *upstream* is held, or in use by another
            `VirtualTimeExecutor` that is not shut down.
    """

    @says_where()
    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        seed: int = 0,
        retry: Policy | None = RetryPolicy(),  # noqa: B008  # immutable
        upstream: Upstream | tuple[Upstream, ...] | None = None,
        idle_timeout: Duration | None = 5.0,
        exit_timeout: Duration | None = None,
        max_pending: int | None = None,
        when_full: Literal["raise", "wait"] = "raise",
        on_event: Callable[[Event], object] | None = None,
        warn_after: Duration | None = None,
        inherit_context: bool = True,
        journal: str | PathLike[str] | Journal | None = None,
        max_coroutines: int = 1000,
        loop_factory: Callable[[], AbstractEventLoop] | None = None,
        engine: Processes | Shared | None = None,
    ) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed must be an integer, not {seed!r}")
        self._seed = seed
        self._max_parked = max_workers or _MOST_WORKERS
        super().__init__(
            max_workers,
            thread_name_prefix,
            initializer,
            initargs,
            retry=retry,
            upstream=upstream,
            idle_timeout=idle_timeout,
            exit_timeout=exit_timeout,
            max_pending=max_pending,
            when_full=when_full,
            on_event=on_event,
            warn_after=warn_after,
            inherit_context=inherit_context,
            journal=journal,
            max_coroutines=max_coroutines,
            loop_factory=loop_factory,
            engine=engine,
        )

    def _new_core(self, options: Options) -> Core:
        # It is not registered: it has no thread, so the end of the interpreter need not wait for it, and a
        # child goes on with its calls after a fork.
        crew = self._virtual = VirtualCrew(
            self._seed,
            options.initializer,
            options.initargs,
            max_coroutines=options.max_coroutines,
            max_parked=self._max_parked,
        )
        core = assemble(
            crew,
            options.journal,
            name=options.name,
            exit_timeout=ExitTimeout(options.exit_timeout, crew),
            max_pending=options.max_pending,
            waits_when_full=options.waits_when_full,
            places=options.terms.places,
            monitor=None if options.on_event is None else VirtualMonitor(crew, options.on_event),
        )
        end_with(self, core)
        return core

    def _pending(self) -> list[str]:
        """Return the names of the calls that are accepted and not done."""
        return names_of(self._virtual.pending(self._core))

    def monotonic(self) -> float:
        """Return what time it is: virtual seconds since the executor was made.

        Give this to code under test that takes a clock in place of `time.monotonic`.
        """
        return self._virtual.monotonic()

    def advance(self, duration: Duration) -> None:
        """Let time pass, and run everything that becomes due meanwhile.

        Args:
            duration: How long, in virtual seconds; 0: only what is ready now.

        Raises:
            TypeError: If *duration* is neither a number nor a ``timedelta``.
            ValueError: If it is negative, infinite or not a number (NaN).
            RuntimeError: In a call: there, use `sleep`, or `asyncio.sleep`.
        """
        self._virtual.advance(self._core, seconds("duration", duration))

    def sleep(self, duration: Duration) -> None:
        """Let time pass. Give this to code under test that takes a function in place of `time.sleep`.

        In a call, that is how long the attempt takes; nothing else runs meanwhile, as with `time.sleep` in a
        coroutine. Elsewhere, it is the same as `advance`.

        Args:
            duration: How long, in virtual seconds.

        Raises:
            TypeError: If *duration* is neither a number nor a ``timedelta``.
            ValueError: If it is negative, infinite or not a number (NaN).
        """
        self._virtual.sleep(self._core, seconds("duration", duration))
