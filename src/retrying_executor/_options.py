"""The options of executors and views: each is checked here, once, whether time is real or virtual.

Also makes what an executor in real time consists of: a core with threads, and a monitor if one is needed.
"""

from __future__ import annotations

import itertools
from concurrent.futures import Executor
from functools import partial
from weakref import finalize, ref

from retrying_executor._calls.call import RetryingFuture
from retrying_executor._calls.terms import Terms
from retrying_executor._common.callables import checked_callable, is_async
from retrying_executor._common.exits import LISTENER_TIMEOUT, ExitTimeout, come_first, register
from retrying_executor._common.values import (
    checked_bool,
    checked_int,
    checked_weight,
    optional_name,
    optional_seconds,
    positive_seconds,
    sequence,
)
from retrying_executor._core.core import Core
from retrying_executor._policy.policy import RetryPolicy, checked_policy
from retrying_executor._threads.threads import Threads
from retrying_executor._upstream.upstream import checked_upstreams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from retrying_executor._calls.call import Work
    from retrying_executor._core.core import Crew
    from retrying_executor._engines.engine import Choice
    from retrying_executor._journal.journal import Journal
    from retrying_executor._observe.monitor import Event, Monitor
    from retrying_executor._policy.policy import PolicyOptions

_GRACE = 1.0  # seconds, for which the thread that calls a listener stays
_executor_number = itertools.count().__next__


def checked_max_workers(max_workers: Any) -> Any:
    """Return *max_workers* if the standard executor can compare it with 0, and count up to it.

    Raises:
        TypeError: If it is neither ``None`` nor an integer.
    """
    if max_workers is not None and (
        isinstance(max_workers, bool) or not hasattr(type(max_workers), "__index__")
    ):
        raise TypeError(f"max_workers must be an integer, 1 or more, or None, not {max_workers!r}")
    return max_workers


class Options:
    """The options of one executor, checked, with durations in seconds.

    All but *max_workers*: the standard executor knows its default. `RetryingExecutor` says what they mean,
    and what bad values raise.
    """

    def __init__(
        self,
        *,
        thread_name_prefix: object,
        initializer: Callable[..., object] | None,
        initargs: object,
        retry: object,
        upstream: object,
        idle_timeout: object,
        exit_timeout: object,
        max_pending: object,
        when_full: object,
        on_event: Callable[[Event], object] | None,
        warn_after: object,
        inherit_context: object,
        journal: object,
        max_coroutines: object,
        loop_factory: object,
        engine: object,
    ) -> None:
        if not isinstance(thread_name_prefix, (str, type(None))):  # the standard executor takes None
            raise TypeError(f"thread_name_prefix must be a string, not {thread_name_prefix!r}")
        self.initargs = sequence("initargs", initargs, "a tuple")  # not an iterator: every thread needs them
        self.initializer = checked_callable("initializer", initializer, takes=len(self.initargs))
        self.inherits_context = checked_bool("inherit_context", inherit_context)
        self.terms = Terms(checked_policy(retry), checked_upstreams(upstream))
        if not isinstance(when_full, str) or when_full not in ("raise", "wait"):
            raise ValueError(f"when_full must be 'raise' or 'wait', not {when_full!r}")
        self.waits_when_full = when_full == "wait"
        self.idle_timeout = optional_seconds("idle_timeout", idle_timeout)
        self.exit_timeout = optional_seconds("exit_timeout", exit_timeout)
        self.max_pending = None if max_pending is None else checked_int("max_pending", max_pending)
        self.on_event = checked_callable("on_event", on_event, takes=1)
        self.warn_after = None if warn_after is None else positive_seconds("warn_after", warn_after)
        self.max_coroutines = checked_int("max_coroutines", max_coroutines)
        self.loop_factory = checked_callable(
            "loop_factory", loop_factory, takes=0, what="a function that returns a new event loop"
        )
        self.engine = None if engine is None else _checked_engine(engine)
        self.journal = None if journal is None else _checked_journal(journal)
        self.name = thread_name_prefix or f"RetryingExecutor-{_executor_number()}"


def changed_terms(
    terms: Terms,
    *,
    retry: object,
    upstream: object,
    weight: object,
    label: object,
    key: object,
    changes: PolicyOptions,
) -> Terms:
    """Return *terms* changed as ``with_options()`` was asked to, with its errors; ``...`` changes nothing."""
    policy = terms.policy if retry is ... else checked_policy(retry)
    if changes:
        if policy is None and retry is ...:
            policy = RetryPolicy()
        if not isinstance(policy, RetryPolicy):
            raise TypeError(
                f"{', '.join(sorted(changes))} must go with a RetryPolicy, not with retry={policy!r}"
            )
        policy = policy.replace(**changes)
    return Terms(
        policy,
        terms.upstreams if upstream is ... else checked_upstreams(upstream),
        weight=terms.weight if weight is ... else _checked_weight(weight),
        label=terms.label if label is ... else optional_name("label", label),
        key=terms.key if key is ... else optional_name("key", key),
    )


def _checked_weight(weight: Any) -> float | Callable[..., float]:
    """Return *weight* if it can serve as the option of that name.

    Raises:
        TypeError: If it is neither a number nor callable, or a coroutine function.
        ValueError: If it is a number, but negative or not finite.
    """
    if not callable(weight):
        return checked_weight("weight", weight)
    if is_async(weight):
        raise TypeError(
            f"weight must not be a coroutine function, which nobody would await, but is {weight!r}"
        )
    return weight  # type: ignore[no-any-return]  # it is callable


def _checked_engine(engine: object) -> Choice:
    """Return what was given as *engine*.

    Raises:
        TypeError: If it is none of the engines.
    """
    from retrying_executor._engines.engine import Choice  # few programs have one

    if isinstance(engine, Choice):
        return engine
    hint = ""
    if isinstance(engine, Executor):
        hint = f"; for an executor of its own: Shared(lambda: {type(engine).__name__}(...))"
    raise TypeError(f"engine must be Processes(...) or Shared(...), or None, not {engine!r}{hint}")


def _checked_journal(journal: object) -> Journal:
    from retrying_executor._journal.journal import checked_journal  # few programs have one

    return checked_journal(journal)


def assemble(crew: Crew, journal: Journal | None, **options: Any) -> Core:
    """Return a core with a crew; with a journal, that which keeps its calls there.

    Args:
        crew: What makes the attempts.
        journal: The journal, or ``None``.
        options: What `Core` takes.
    """
    if journal is None:
        return Core(crew, **options)
    from retrying_executor._core.journalled import JournalledCore
    from retrying_executor._journal.keeper import Keeper

    keeper = Keeper(journal, crew.clock)
    core = JournalledCore(crew, keeper, **options)
    finalize(core, keeper.finish)
    return core


def maker_of_futures(core: Core) -> Callable[[Any, Work, Terms], RetryingFuture[Any]]:
    """Return what makes the futures of a core."""
    cls, errand_for = RetryingFuture, core.errand_for
    if core.keeper is not None:
        from retrying_executor._calls.journalled import JournalledFuture

        cls = JournalledFuture
    if errand_for is None:
        return cls
    keeps_args = core.keeper is not None  # else only the errand does

    def make(core: Any, work: Work, terms: Terms) -> RetryingFuture[Any]:
        fn, args, kwargs, context = work
        fn = errand_for(fn, args, kwargs)
        come_first()  # the engine may be a library that was imported only now
        return cls(core, (fn, args, kwargs, context) if keeps_args else (fn, (), {}, context), terms)

    return make


def new_core(executor: object, max_workers: int, options: Options) -> Core:
    """Return the core of an executor: with threads, none of which has been started."""
    limit = ExitTimeout(options.exit_timeout)
    engine = None if options.engine is None else options.engine._new_engine()
    threads = Threads(
        max_workers,
        options.name,
        engine=engine,
        initializer=options.initializer,
        initargs=options.initargs,
        idle_timeout=options.idle_timeout,
        are_daemons=limit.duration is not None,  # the end of the interpreter joins others without a limit
        max_coroutines=options.max_coroutines,
        new_loop=options.loop_factory,
    )
    core = assemble(
        threads,
        options.journal,
        name=options.name,
        exit_timeout=limit,
        max_pending=options.max_pending,
        waits_when_full=options.waits_when_full,
        places=options.terms.places,
        monitor=_new_monitor(options, limit),
    )
    if engine is not None:
        from retrying_executor._engines.errand import errand_for

        core.errand_for = partial(errand_for, dumps=engine.dumps)
    register(core)
    end_with(executor, core)
    return core


def end_with(executor: object, core: Core) -> None:
    """Have the core end when the executor is gone and there is nothing left to do."""
    # A weak reference: else the executor could not go away if its initializer or its listener refers to it.
    finalize(executor, _abandon, ref(core)).atexit = False


def _abandon(reference: ref[Core]) -> None:
    """An executor is gone. So is its core, unless it still has something to do."""
    core = reference()
    if core is not None:
        core.abandon()


def _new_monitor(options: Options, limit: ExitTimeout) -> Monitor | None:
    """Return the monitor of an executor; ``None`` if it has no listener, and need not log slow attempts."""
    if options.on_event is None and options.warn_after is None:
        return None
    from retrying_executor._observe.monitor import Monitor  # few programs have one

    return Monitor(options.on_event, options.warn_after, options.name, limit, _new_teller)


def _new_teller(name: str) -> Core:
    """Return a core with a single thread, which calls a listener."""
    threads = Threads(1, name, idle_timeout=_GRACE, are_daemons=True)
    return Core(threads, name=name, exit_timeout=ExitTimeout(LISTENER_TIMEOUT))
