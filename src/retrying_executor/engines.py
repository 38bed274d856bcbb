"""Engines: where the attempts of an executor run, if not in its threads.

With ``RetryingExecutor(engine=...)`` each worker thread has its attempts made elsewhere, and waits for them.
Retries, limits, futures and events stay with the executor.
"""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import Executor
from multiprocessing.context import BaseContext

from retrying_executor._common.callables import checked_callable
from retrying_executor._common.exceptions import classes_in
from retrying_executor._common.misuse import says_where
from retrying_executor._common.values import checked_int, positive_seconds, sequence
from retrying_executor._engines.engine import Choice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from retrying_executor._common.values import Duration
    from retrying_executor._engines.engine import Engine

__all__ = ["Processes", "Shared"]


class Processes(Choice):
    """Attempts run in processes: each worker thread of the executor has one of its own.

    A process that dies costs exactly the attempt that it ran, which fails with an
    `~retrying_executor.AttemptLostError`, and is tried again as the policy says. A process is started when
    its worker gets a call, and ends with its worker. If processes die again and again while no attempt
    completes, the first is started again at once, the next after 0.5 seconds, then 1, and so on up to 30.

    Functions, arguments and results are pickled. A function that cannot be imported by its name, such as a
    lambda, can be sent if ``cloudpickle`` is installed. As with every use of `multiprocessing`, a script must
    start its work under ``if __name__ == "__main__":``.

    Args:
        mp_context: How processes are started: a context of `multiprocessing`, or the name of its start
            method. ``None``: ``"forkserver"``, or ``"spawn"`` where there is none. With ``"fork"``, a process
            begins as a copy of a program that has threads, which is not safe.
        attempt_timeout: For how long an attempt may run, in seconds; more than 0, or ``None`` for no limit.
            Then its process is killed, and the attempt is lost. The time in which a process is started does
            not count.
        initializer: Called in each process before its first attempt. If it raises, the attempt is lost.
        initargs: The arguments of *initializer*.
        max_tasks_per_child: After how many attempts a process is replaced, 1 or more; ``None``: never.

    Raises:
        TypeError: If an argument has the wrong type, or cannot be pickled.
        ValueError: If an argument is out of its range, or there is no such start method here.
    """

    @says_where("Processes({}=...)")
    def __init__(
        self,
        *,
        mp_context: BaseContext | str | None = None,
        attempt_timeout: Duration | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
    ) -> None:
        self._context = _checked_context(mp_context)
        self._attempt_timeout = (
            None if attempt_timeout is None else positive_seconds("attempt_timeout", attempt_timeout)
        )
        self._initargs = sequence("initargs", initargs, "a tuple")
        self._initializer = checked_callable("initializer", initializer, takes=len(self._initargs))
        for name, value in [("initializer", self._initializer), ("initargs", self._initargs)]:
            try:
                pickle.dumps(value)
            except Exception as error:
                raise TypeError(
                    f"{name} must be something that can be pickled, not {value!r}: {error}"
                ) from error
        self._max_tasks_per_child = (
            None if max_tasks_per_child is None else checked_int("max_tasks_per_child", max_tasks_per_child)
        )

    def _new_engine(self) -> Engine:
        from retrying_executor._engines.processes import ProcessEngine

        return ProcessEngine(
            self._context,
            self._attempt_timeout,
            self._initializer,
            self._initargs,
            self._max_tasks_per_child,
        )


class Shared(Choice):
    """Attempts run on an executor of somebody else's, which all workers share.

    Any `concurrent.futures.Executor` will do: dask's ``client.get_executor()``, loky, Parsl, ``mpi4py``, or
    a pool of processes or interpreters. It needs this package where it runs calls. When it breaks, the
    attempts that it ran are lost, and the factory is called again. When all workers of the
    `~retrying_executor.RetryingExecutor` have left, for want of calls, it is shut down, and the next call has
    the factory make another.

    What an attempt did before it was lost has been done, and it may be running still.

    Functions, arguments and results are pickled. If ``cloudpickle`` is installed, functions that cannot be
    imported there, such as those of a notebook, are sent along.

    There is no limit on how long an attempt may run, since nothing there can be killed. Initializers are
    given to the executor that the factory makes.

    Args:
        factory: Called without arguments; returns the executor.
        lost: Exceptions by which it says that it has lost one attempt, and goes on: a class or a tuple of
            them, such as dask's ``KilledWorker``. Any other means that it is broken.

    Raises:
        TypeError: If *factory* is no such function, or *lost* is not made of exceptions.
    """

    @says_where("Shared({}=...)")
    def __init__(
        self,
        factory: Callable[[], Any],
        *,
        lost: type[BaseException] | tuple[type[BaseException], ...] = (),
    ) -> None:
        given: Any = factory
        if isinstance(given, Executor) or (hasattr(given, "submit") and not isinstance(given, type)):
            raise TypeError(
                "factory must be a function that returns a new executor, not one executor, which could not be"
                f" made anew when it breaks: Shared(lambda: {type(given).__name__}(...)), not {given!r}"
            )
        if factory is None:
            raise TypeError("factory must be a function that returns a new executor, not None")
        self._factory = checked_callable(
            "factory", factory, takes=0, what="a function that returns a new executor"
        )
        classes = classes_in(lost)
        if classes is None:
            raise TypeError(f"lost must be an exception class, or a tuple of them, not {lost!r}")
        self._lost = classes

    def _new_engine(self) -> Engine:
        from retrying_executor._engines.shared import SharedEngine

        return SharedEngine(self._factory, self._lost)


def _checked_context(context: object) -> BaseContext:
    """Return the context of `multiprocessing` that is meant."""
    methods = multiprocessing.get_all_start_methods()
    if context is None:
        context = "forkserver" if "forkserver" in methods else "spawn"
    if isinstance(context, str):
        if context not in methods:
            raise ValueError(f"mp_context must be one of {', '.join(map(repr, methods))}, not {context!r}")
        return multiprocessing.get_context(context)
    if not isinstance(context, BaseContext):
        raise TypeError(f"mp_context must be a context of multiprocessing, or its name, not {context!r}")
    return context
