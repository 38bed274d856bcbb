"""The public face: an executor, and views of it under other terms."""

from __future__ import annotations

import contextvars
import weakref
from concurrent.futures import Executor, ThreadPoolExecutor
from types import FunctionType

from retrying_executor._calls.call import RetryingFuture
from retrying_executor._calls.work_queue import WorkQueue
from retrying_executor._common import exits
from retrying_executor._common.callables import CoroutineFunction, to_run
from retrying_executor._common.errors import final
from retrying_executor._common.misuse import refuse_to_copy, says_where
from retrying_executor._common.public import public
from retrying_executor._common.stdlib import STARTS_TO_THE_END
from retrying_executor._common.values import checked_bool, optional_seconds
from retrying_executor._options import (
    Options,
    changed_terms,
    checked_max_workers,
    maker_of_futures,
    new_core,
)
from retrying_executor._policy.policy import RetryPolicy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Coroutine, Iterable, Iterator
    from os import PathLike
    from types import EllipsisType, TracebackType
    from typing import Any, Literal, NoReturn, TypeVar, overload

    from typing_extensions import ParamSpec, Unpack

    from retrying_executor._calls.stats import Stats
    from retrying_executor._calls.terms import Terms
    from retrying_executor._common.values import Duration
    from retrying_executor._core.core import Core
    from retrying_executor._journal.journal import Journal
    from retrying_executor._observe.monitor import Event
    from retrying_executor._policy.policy import Policy, PolicyOptions
    from retrying_executor._upstream.upstream import Upstream
    from retrying_executor.engines import Processes, Shared

    P = ParamSpec("P")
    T = TypeVar("T")
    A1 = TypeVar("A1")
    A2 = TypeVar("A2")
    A3 = TypeVar("A3")

_NO_KEYWORDS: dict[str, Any] = {}  # shared by all calls without any, and never changed


@public
class Submitter(Executor):
    """What an executor and its views have in common: each submits calls to the core, on terms of its own."""

    _core: Core
    _terms: Terms
    _new_context: Callable[[], contextvars.Context]  # makes the one that the attempts of a call run in
    _new_future: Callable[[Any, Any, Terms], RetryingFuture[Any]] = RetryingFuture

    __reduce__ = refuse_to_copy

    if TYPE_CHECKING:

        @overload
        def submit(
            self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
        ) -> RetryingFuture[T]: ...
        @overload
        def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> RetryingFuture[T]: ...

    def submit(self, fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> RetryingFuture[Any]:
        """Accept the call ``fn(*args, **kwargs)`` and return its future, done after the last attempt.

        The first attempts of all calls start in the order of their submission. Each attempt runs
        in a copy of the current `contextvars` context, unless ``inherit_context`` is false.

        The attempts of a coroutine function (``async def``, or a partial or bound method of one) are awaited
        in an event loop of the executor, in a thread of its own, so that thousands can run at a time.

        Raises:
            TypeError: If *fn* is not callable, or makes an asynchronous generator. With a
                journal also if *fn* or an argument cannot be written to it; with an engine, if one of these
                cannot be pickled, or for a coroutine function.
            JournalError: If the call cannot be written to the journal: the disk may be full. It never runs.
            RuntimeError: After ``shutdown()``, at the end of the interpreter, or if no thread can
                be started and there is none. The call never runs.
            BrokenThreadPool: If the initializer failed.
            PendingLimitError: If ``max_pending`` of the executor, or of the call's upstream, is reached; with
                ``when_full="wait"``, only in the executor's own threads, and in a destructor or signal
                handler that interrupts the executor, where waiting might never end.
        """
        terms = self._terms
        if terms.latest() is not fn or fn is None:  # ``latest()`` is None, too, if that function is gone
            given, fn = fn, to_run(fn)
            if fn is given and type(fn) is FunctionType:
                terms.latest = weakref.ref(fn)
            elif (
                not STARTS_TO_THE_END and type(fn) is CoroutineFunction
            ):  # pragma: no cover  # 3.12.0 to 3.12.2
                self._core.crew.expect_coroutine(self._core)
        work = (fn, args, kwargs or _NO_KEYWORDS, self._new_context())
        core = self._core
        future: RetryingFuture[Any] = self._new_future(core, work, terms)
        if terms.marks_calls:
            future._apply_terms(work)
        if core.is_plain:
            core.submit(future)
        else:
            core.submit_and_tell(future)
        return future

    if TYPE_CHECKING:  # the plain signature of the base class would forget what fn takes

        @overload  # type: ignore[override]  # narrower, as that of the builtin map()
        def map(
            self,
            fn: Callable[[A1], Coroutine[Any, Any, T]],
            iterable: Iterable[A1],
            /,
            *,
            timeout: Duration | None = None,
            chunksize: int = 1,
            buffersize: int | None = None,
        ) -> Iterator[T]: ...
        @overload
        def map(
            self,
            fn: Callable[[A1, A2], Coroutine[Any, Any, T]],
            iterable: Iterable[A1],
            iterable2: Iterable[A2],
            /,
            *,
            timeout: Duration | None = None,
            chunksize: int = 1,
            buffersize: int | None = None,
        ) -> Iterator[T]: ...
        @overload
        def map(
            self,
            fn: Callable[[A1, A2, A3], Coroutine[Any, Any, T]],
            iterable: Iterable[A1],
            iterable2: Iterable[A2],
            iterable3: Iterable[A3],
            /,
            *,
            timeout: Duration | None = None,
            chunksize: int = 1,
            buffersize: int | None = None,
        ) -> Iterator[T]: ...
        @overload
        def map(
            self,
            fn: Callable[[A1], T],
            iterable: Iterable[A1],
            /,
            *,
            timeout: Duration | None = None,
            chunksize: int = 1,
            buffersize: int | None = None,
        ) -> Iterator[T]: ...
        @overload
        def map(
            self,
            fn: Callable[[A1, A2], T],
            iterable: Iterable[A1],
            iterable2: Iterable[A2],
            /,
            *,
            timeout: Duration | None = None,
            chunksize: int = 1,
            buffersize: int | None = None,
        ) -> Iterator[T]: ...
        @overload
        def map(
            self,
            fn: Callable[[A1, A2, A3], T],
            iterable: Iterable[A1],
            iterable2: Iterable[A2],
            iterable3: Iterable[A3],
            /,
            *,
            timeout: Duration | None = None,
            chunksize: int = 1,
            buffersize: int | None = None,
        ) -> Iterator[T]: ...
        @overload
        def map(
            self,
            fn: Callable[..., T],
            iterable: Iterable[Any],
            iterable2: Iterable[Any],
            iterable3: Iterable[Any],
            iterable4: Iterable[Any],
            /,
            *iterables: Iterable[Any],
            timeout: Duration | None = None,
            chunksize: int = 1,
            buffersize: int | None = None,
        ) -> Iterator[T]: ...

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: Duration | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Return the results of ``fn`` for the zipped *iterables*, in their order.

        Args:
            fn: Called with one item of each iterable; a coroutine function is awaited, as in ``submit()``.
            iterables: Collected at once; with *buffersize*, as the results are taken.
            timeout: How long after this call the last result may be taken, in seconds.
            chunksize: Ignored, as by the standard executor; for process pools.
            buffersize: How many calls may be ahead of the result you are waiting for; 1 or more, or ``None``
                for all. That call comes on top, so ``max_pending`` must be at least ``buffersize + 1``. With
                a *buffersize*, the results end when the executor is dropped, as with the standard executor
                of Python 3.14.

        Raises:
            TypeError: If *buffersize* is not an integer, or *timeout* neither a number nor a ``timedelta``.
            ValueError: If *buffersize* is less than 1, or *timeout* not a number (NaN).
            RuntimeError, PendingLimitError: As ``submit()`` does; with *buffersize*, while
                iterating too.
            TimeoutError: While iterating, if a result is not there in time.
            BaseException: While iterating, what a call's last attempt raised.

        Whatever is raised, the calls whose results were not taken are cancelled, as they are when
        the iterator is closed early.
        """
        from retrying_executor._mapping import results  # most programs do not map

        return results(
            self._reference(), fn, iterables, timeout=timeout, buffersize=buffersize, clock=self._core.clock
        )

    def _reference(self) -> Callable[[], Submitter | None]:
        """Return what a lazy ``map()`` gets this executor by: it returns ``None`` once that is gone."""
        return weakref.ref(self)

    @says_where("with_options({}=...)")
    def with_options(
        self,
        *,
        retry: Policy | EllipsisType | None = ...,
        upstream: Upstream | tuple[Upstream, ...] | EllipsisType | None = ...,
        weight: float | Callable[..., float] | EllipsisType = ...,
        label: str | EllipsisType | None = ...,
        key: str | EllipsisType | None = ...,
        **options: Unpack[PolicyOptions],
    ) -> View:
        """Return a view: an executor with the same queue and threads, on other terms.

        Args:
            retry: The policy of the view; if left out, the one in force here.
            upstream: The service that its calls go to, or ``None``; if left out, the one here. There may be
                several, ``(account, tenant)``: then a call starts when all of them let it through. If the
                service asks to wait (``Retry-After``), only the last one is held. So put last the one whose
                limit the service means: as a rule, the narrowest. Failures count for all of them.
            weight: How much an attempt takes of the *budget* of its upstream, or of each of several: a
                number, 0 or more, or a callable that is given the arguments of the call and returns that
                number. ``submit()`` calls it, and raises what it raises, or a ``ValueError`` if the weight is
                more than the budget. If left out, the one here, which is 1 if none was given. It counts only
                where there is a budget. `report_weight` corrects it.
            label: What tells its calls apart from others of the same function, in logs, events and
                `current_call`: text in one line, or ``None``; if left out, the one here.
            key: The key of its calls, instead of a UUID for each: services take it as an idempotency key. All
                calls that the view submits have this key, so use the view for one call, or for several that
                are the same to the service. Text in one line, or ``None``; if left out, the one here.
            options: Options of `RetryPolicy` to change in the policy in force here, or in the default policy
                if ``retry`` is ``None`` here.

        Raises:
            TypeError: If there are *options*, but the policy is a callable of your own, or *retry*
                is ``None``; or if an option does not exist or has the wrong type.
            ValueError: If an option is out of its range, or does not go with the others; or if *label* or
                *key* is blank, or is no text in one line.
        """
        terms = changed_terms(
            self._terms,
            retry=retry,
            upstream=upstream,
            weight=weight,
            label=label,
            key=key,
            changes=options,
        )
        return View(self, terms)

    def drain(self, timeout: Duration | None = None) -> bool:
        """Wait until every call accepted so far is done, retries included, without shutting down.

        Done callbacks may still be running then.

        Args:
            timeout: How long to wait, in seconds; ``None``: as long as it takes.

        Returns:
            Whether they are all done.

        Raises:
            TypeError: If *timeout* is neither a number nor a ``timedelta``.
            ValueError: If it is negative, infinite or not a number (NaN).
            RuntimeError: In one of the executor's own threads, which would wait for itself.
        """
        return self._core.drain(optional_seconds("timeout", timeout))

    def stats(self) -> Stats:
        """Return a consistent snapshot of what the executor is doing, all its views included."""
        return self._core.stats()


for _name in ("submit", "map", "with_options", "drain", "stats"):
    getattr(Submitter, _name).__qualname__ = f"RetryingExecutor.{_name}"  # what errors call it


@public
class RetryingExecutor(Submitter, ThreadPoolExecutor):
    """A `ThreadPoolExecutor` whose calls are retried until they get through.

    A drop-in replacement: ``submit()`` returns a future that is done after the call's last
    attempt. An attempt fails if it raises; whatever it returns counts as success, unless the policy has a
    ``retry_result`` that rejects it. Between attempts a call holds no thread. Threads are started when
    there is work and leave when there is none.

    Args:
        max_workers: How many threads there may be; the default is that of the standard executor.
        thread_name_prefix: What the threads' names begin with.
        initializer: Called by every thread before its first call. If it raises, and has never worked so
            far, the executor is broken: all calls fail with `BrokenThreadPool`. Once it has worked, a
            failure is logged, and one thread tries it again after 1 second, then 2, and so on up to 60, as
            long as a call waits; until it works, no other thread is started.
        initargs: The arguments of *initializer*.
        retry: When to try again: a `RetryPolicy`, or any callable from the failed `Attempt` to the
            seconds to wait before the next one, or to ``None`` to give up. ``None``: never.
        upstream: The service that the calls go to: an `Upstream`, or several (see `with_options`), or
            ``None``.
        idle_timeout: How long a thread with nothing to do stays, in seconds; 0 or more; ``None``: for ever.
        exit_timeout: How long the end of the interpreter waits for the calls, in seconds; 0 or
            more, or ``None`` for as long as it takes. After that, calls that are not running are cancelled,
            and attempts that are running are cut off. A ``with`` block that is left by an exception also
            waits for at most this time; the end of the interpreter then waits for what is left of it. A block
            that is left by Ctrl-C cancels at once the calls that are not running.
        max_pending: How many calls may be accepted and not done; 1 or more, or ``None`` for no limit.
        when_full: What ``submit()`` does when ``max_pending`` of the executor, or of the call's upstream, is
            reached: ``"raise"`` a `PendingLimitError`, or ``"wait"`` until there is room. The executor's own
            threads never wait: they might wait for themselves.
        on_event: Called with each `Event`: what happens to calls, and to the upstreams that they go to. It is
            called in a thread of its own and in order, so that it delays no call; see `Event`. If it falls
            behind by 10,000 events, further ones are dropped, which is logged. If the end of the executor has
            run out of time, it does not wait for the listener.
        warn_after: After how many seconds of running an attempt is logged as a warning, with the stack of
            its thread, or of its coroutine, or with the number of its process; more than 0, or ``None`` for
            never.
        inherit_context: Whether attempts see the `contextvars` of the submitter. ``False``: each runs in
            an empty context, as with the standard executor.
        journal: The directory in which calls are kept until they are done, so that they survive the process:
            a path, or a `Journal`; see there. ``None``: they do not.
        max_coroutines: How many attempts of coroutine functions may run at a time, all in one thread; 1 or
            more. While that many do, a thread that takes another such call waits with it.
        loop_factory: Makes the event loop for them, such as ``uvloop.new_event_loop``: a function without
            arguments that returns a new loop. It is called when the first coroutine is to run, once in each
            process, and what it raises is how the attempt ends. ``None``: `asyncio.new_event_loop`.
        engine: Where attempts run, and may die: ``engines.Processes(...)``, in a process for each thread, or
            ``engines.Shared(...)``, on an executor of somebody else's, such as that of a cluster. A call, its
            result and its exception have to be pickled then, and coroutine functions are refused. ``None``:
            in the threads.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of its range.
    """

    @says_where("RetryingExecutor({}=...)")
    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
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
        # The standard executor is a base class for clients that ask for its type. Its constructor checks the
        # arguments and knows their defaults; nothing else of it is used.
        super().__init__(checked_max_workers(max_workers), thread_name_prefix, initializer, initargs)
        options = Options(
            thread_name_prefix=thread_name_prefix,
            initializer=initializer,
            initargs=initargs,
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
        self._new_context = contextvars.copy_context if options.inherits_context else contextvars.Context
        self._core = self._new_core(options)
        self._terms = self._core.adopt(options.terms)
        self._work_queue = WorkQueue(self._core)  # type: ignore[assignment]  # some clients look into it
        if options.journal is not None or options.engine is not None:
            self._new_future = maker_of_futures(self._core)
        if options.journal is not None and options.journal.adopts:
            self._go_on(is_first=True)

    @property
    def adopted(self) -> list[RetryingFuture[Any]]:
        """The futures of the calls that this executor went on with, of processes that are gone.

        Of many, those that were read from the journal so far: the next are read when it is their turn. The
        latest 1,000 are remembered, with their results. Empty without a journal.
        """
        return list(getattr(self._core, "adopted", ()))

    def adopt(self) -> int:
        """Look for calls of processes that are gone, and go on with them.

        The executor does so by itself when it is made, and now and then when a call is submitted. Calls that
        could not be read then are tried again; those of a view that is not there go on the terms of this
        executor.

        Returns:
            How many calls were found.

        Raises:
            RuntimeError: Without a journal, or after ``shutdown()``.
        """
        return self._go_on()

    def _go_on(self, *, is_first: bool = False) -> int:
        if self._core.keeper is None:
            raise final(RuntimeError("there are no calls to adopt: this executor has no journal"))
        found: int = self._core.go_on(is_first=is_first)  # type: ignore[attr-defined]  # of a JournalledCore
        return found

    def _new_core(self, options: Options) -> Core:
        """Return the core for the calls of this executor. The executor in virtual time makes another one."""
        return new_core(self, self._max_workers, options)

    def shutdown(
        self, wait: bool = True, *, cancel_futures: bool = False, timeout: Duration | None = None
    ) -> None:
        """Accept no more calls, and see to those that were accepted.

        Args:
            wait: Whether to return only when every call has its outcome, retries included, and
                every thread has ended. One of the executor's own threads never waits, whatever
                the *timeout*.
            cancel_futures: Whether to cancel every call that is not running, those in backoff
                included. A running attempt finishes, and no other follows.
            timeout: How long to wait, in seconds; ``None``: as long as it takes. Past it, every
                call that is not running is cancelled, and so are coroutines. Attempts that run in threads
                or on a shared engine are left alone, since these cannot be killed; in processes, they
                are killed. All that is logged as a warning.

        With a journal, calls that are cancelled here stay in it: the next process goes on with them.

        Raises:
            TypeError: If *timeout* is neither a number nor a ``timedelta``, or *wait* or *cancel_futures*
                neither ``True`` nor ``False``.
            ValueError: If there is a *timeout*, but *wait* is false; or if it is negative,
                infinite or not a number (NaN).
        """
        if not isinstance(wait, bool):
            raise TypeError(f"wait must be True or False, not {wait!r}: did you mean timeout=?")
        checked_bool("cancel_futures", cancel_futures)
        if timeout is not None and not wait:
            raise ValueError(f"timeout must be None if wait is false, not {timeout!r}")
        limit, clock = optional_seconds("timeout", timeout), self._core.clock
        began_at = clock.monotonic()
        self._core.shutdown(wait=wait, cancel_futures=cancel_futures, timeout=limit)
        if wait:
            left = None if limit is None else began_at + limit - clock.monotonic()
            exits.end_watchers(self._core, left)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Shut down.

        After an exception, wait for at most *exit_timeout*. After Ctrl-C, cancel waiting calls first.
        """
        core = self._core
        limit: dict[str, Any] = {}
        if kind is not None and core.exit_timeout.duration is not None:
            limit["timeout"] = core.exit_timeout.left()
        try:
            if kind is not None and issubclass(kind, KeyboardInterrupt):
                core.interrupt()
            self.shutdown(**limit)
        except KeyboardInterrupt:  # while waiting: leave nothing to wait for at the end of the interpreter
            core.interrupt()
            raise


@public
class View(Submitter):
    """An executor that submits to the queue and the threads of another, on other terms.

    Made by ``with_options()``. It keeps that executor alive, and cannot shut it down. It is a
    `concurrent.futures.Executor`, not a `ThreadPoolExecutor`.
    """

    def __init__(self, origin: Submitter, terms: Terms) -> None:
        self._origin = origin
        self._core = origin._core
        self._new_future = origin._new_future
        self._new_context = origin._new_context
        self._terms = self._core.adopt(terms)

    def __enter__(self) -> NoReturn:
        raise final(
            RuntimeError("a view cannot be used in a with statement: use the executor that it is a view of")
        )

    def _reference(self) -> Callable[[], Submitter]:
        return lambda: self  # a view is often made for one expression: ``map()`` must not end with that

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> NoReturn:
        """Raise `RuntimeError`: only the executor itself can be shut down."""
        raise final(RuntimeError("a view cannot be shut down: shut down the executor that it is a view of"))
