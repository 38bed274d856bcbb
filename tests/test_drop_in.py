"""One suite over the standard executor and this one, with threads and in virtual time: the same must hold."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import gc
import inspect
import itertools
import logging
import pickle
import queue
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from concurrent.futures.thread import BrokenThreadPool
from contextlib import closing, suppress
from functools import partial
from inspect import Parameter
from threading import Barrier, Event
from typing import Any

import pytest

from conftest import TIMEOUT
from observe import eventually, threads_named
from retrying_executor import PendingLimitError, RetryingExecutor, RetryPolicy
from retrying_executor.testing import VirtualTimeExecutor

Create = Callable[..., ThreadPoolExecutor]

AFTER_SHUTDOWN = r"^cannot schedule new futures after shutdown$"
BROKEN = r"^A thread initializer failed, the thread pool is not usable anymore$"

WITH_THREADS: dict[str, Create] = {
    "standard": ThreadPoolExecutor,
    "retrying": partial(RetryingExecutor, retry=RetryPolicy(delays=(0, 0, 0, 0))),
    "without_retries": partial(RetryingExecutor, retry=None),
}
CREATE: dict[str, Create] = {
    **WITH_THREADS,
    "virtual": partial(VirtualTimeExecutor, retry=RetryPolicy(delays=(0, 0, 0, 0))),
}
with_threads = pytest.mark.parametrize("create", WITH_THREADS.values(), ids=WITH_THREADS, indirect=True)
"""Marks a test whose calls run while the test does something else: not so in virtual time."""

UP_TO_DATE = {
    name: create for name, create in CREATE.items() if name != "standard" or sys.version_info >= (3, 14)
}
"""Those that do what the standard executor learned in Python 3.14."""


@pytest.fixture(params=CREATE.values(), ids=CREATE)
def create(request: pytest.FixtureRequest) -> Create:
    """What constructs an executor."""
    result: Create = request.param
    return result


@pytest.fixture
def executor(create: Create) -> Iterator[ThreadPoolExecutor]:
    """An executor with four workers."""
    with create(4) as executor:
        yield executor


@pytest.fixture
def one_worker(create: Create) -> Iterator[ThreadPoolExecutor]:
    """An executor with one worker."""
    with create(1) as executor:
        yield executor


@pytest.fixture(params=UP_TO_DATE.values(), ids=UP_TO_DATE)
def lazy(request: pytest.FixtureRequest) -> Iterator[ThreadPoolExecutor]:
    """An executor with four workers that does what the standard one learned in Python 3.14."""
    with request.param(4) as executor:
        yield executor


class Busy:
    """A call that keeps a worker busy until told to stop, or until the ``with`` block ends."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.started, self.release = Event(), Event()
        self.future = executor.submit(self)
        assert self.started.wait(TIMEOUT)

    def __call__(self) -> str:
        self.started.set()
        assert self.release.wait(TIMEOUT)
        return "busy no more"

    def __enter__(self) -> Busy:
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()


def capture(*args: object, **kwargs: object) -> tuple[object, object]:
    """Return what it is called with."""
    return args, kwargs


def fail(error: BaseException) -> None:
    """Raise what it is called with."""
    raise error


def error_of(function: Callable[[], object]) -> tuple[type[BaseException], str]:
    """Return the type and the text of what *function* raises."""
    with pytest.raises((TypeError, ValueError)) as caught:
        function()
    return caught.type, str(caught.value)


# -- the constructor ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["__init__", "submit", "map", "shutdown"])
def test_signatures_begin_with_the_standard_parameters(name: str) -> None:
    """Same parameters, order, kinds and defaults; what is new is keyword-only (A1, A2)."""

    def parameters(cls: type) -> list[tuple[str, object, object]]:
        found = inspect.signature(getattr(cls, name)).parameters.values()
        return [(each.name, each.kind, each.default) for each in found]

    standard, ours = parameters(ThreadPoolExecutor), parameters(RetryingExecutor)
    if name == "__init__":  # from 3.14 on, this is how subclasses of the standard one take more
        standard = [each for each in standard if each[1] is not Parameter.VAR_KEYWORD]
    assert standard == ours[: len(standard)]
    assert {Parameter.KEYWORD_ONLY} >= {kind for _, kind, _ in ours[len(standard) :]}


@pytest.mark.parametrize("name", ["__init__", "submit", "map", "shutdown"])
def test_no_parameter_swallows_misspelt_ones(name: str) -> None:
    """No method takes any keyword whatever, but for submit(), whose keywords are the call's (A1, A2)."""
    kinds = {each.kind for each in inspect.signature(getattr(RetryingExecutor, name)).parameters.values()}
    assert (name == "submit") == (Parameter.VAR_KEYWORD in kinds)


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_workers": 0},
        {"max_workers": -1},
        {"initializer": 1},
        {"initializer": "print"},
        {"initializer": ()},
    ],
    ids=str,
)
def test_bad_arguments_raise_the_same_errors(arguments: dict[str, Any]) -> None:
    """The type and the text of the error are those of the standard constructor (A1)."""
    expected = error_of(lambda: ThreadPoolExecutor(**arguments))
    assert expected == error_of(lambda: RetryingExecutor(**arguments))


@pytest.mark.parametrize("max_workers", ["4", [4], 1j])
def test_what_is_no_number_of_workers_raises_the_same_type_of_error(max_workers: Any) -> None:
    """But one that names the argument, where that of the standard executor tells of a comparison (A1)."""
    kind, message = error_of(lambda: RetryingExecutor(max_workers))
    assert error_of(lambda: ThreadPoolExecutor(max_workers))[0] is kind
    assert f"max_workers must be an integer, 1 or more, or None, not {max_workers!r}" == message


def test_unknown_keyword_is_a_type_error(create: Create) -> None:
    """A misspelt option is refused, not ignored (A1)."""
    with pytest.raises(TypeError, match="max_worker"):
        create(max_worker=1)


def test_options_are_keyword_only() -> None:
    """There is no fifth positional parameter (A1)."""
    with pytest.raises(TypeError, match="by keyword, not by position: None"):
        RetryingExecutor(1, "", None, (), None)  # type: ignore[misc]  # that is the point


def test_max_workers_is_readable_and_has_the_standard_default(create: Create) -> None:
    """Clients read ``_max_workers`` (A1, A5)."""
    with create() as default, create(3) as three:
        with ThreadPoolExecutor() as standard:
            assert standard._max_workers == default._max_workers
        assert 3 == three._max_workers


@with_threads
def test_falsy_prefix_means_the_default(create: Create) -> None:
    """``thread_name_prefix=None`` is as good as leaving it out (A1)."""
    with create(1, None) as executor:
        assert re.fullmatch(
            r"(ThreadPool|Retrying)Executor-\d+_0",
            executor.submit(lambda: threading.current_thread().name).result(TIMEOUT),
        )


@with_threads
def test_threads_are_named_by_prefix_and_number(create: Create) -> None:
    """Threads are called ``prefix_0`` and so on, as many as there are workers (A1, C1)."""
    barrier = Barrier(3)

    def name(_: object) -> str:
        barrier.wait(TIMEOUT)
        return threading.current_thread().name

    with create(3, "special") as executor:
        assert ["special_0", "special_1", "special_2"] == sorted(executor.map(name, range(9)))[::3]
    assert eventually(lambda: not threads_named("special_"))


@with_threads
def test_threads_start_lazily_and_are_no_daemons(create: Create) -> None:
    """No thread before the first call, one for one call, and the interpreter waits for it (C1, F4)."""
    with create(4, "lazily") as executor:
        assert [] == threads_named("lazily_")
        with Busy(executor):
            assert [thread.daemon for thread in threads_named("lazily_")] == [False]


@with_threads
def test_shutdown_ends_every_thread(create: Create) -> None:
    """As many threads as calls, at most max_workers, and none after shutdown() (A4, C1, F1)."""
    with create(2, "ending") as executor, Busy(executor), Busy(executor):
        executor.submit(int)
        assert 2 == len(threads_named("ending_"))
    assert [] == threads_named("ending_")


@with_threads
def test_initializer_runs_in_each_thread(create: Create) -> None:
    """Every thread calls the initializer once, with initargs, before its first call (A1)."""
    local = threading.local()
    barrier = Barrier(3)

    def initialize(value: int) -> None:
        local.value = [value, value + 1]

    def read(_: object) -> list[int]:
        barrier.wait(TIMEOUT)
        values: list[int] = local.value
        return values

    with create(3, initializer=initialize, initargs=(42,)) as executor:
        assert list(executor.map(read, range(3))) == [[42, 43]] * 3


def test_failing_initializer_breaks_the_executor(create: Create) -> None:
    """Pending calls and later ones fail with BrokenThreadPool and the standard text (A1, C6)."""
    go = Event()

    def initialize() -> None:
        assert go.wait(TIMEOUT)
        raise ValueError("no")

    with create(1, initializer=initialize) as executor:
        futures = [executor.submit(int) for _ in range(3)]
        go.set()
        for future in futures:
            with pytest.raises(BrokenThreadPool, match=BROKEN):
                future.result(TIMEOUT)
        with pytest.raises(BrokenThreadPool, match=BROKEN):
            executor.submit(int)


def test_it_is_a_thread_pool_executor(create: Create) -> None:
    """Clients that check the type are satisfied (A5)."""
    with create() as executor:
        assert isinstance(executor, ThreadPoolExecutor)
        assert isinstance(executor, concurrent.futures.Executor)
    assert issubclass(RetryingExecutor, ThreadPoolExecutor)


def test_executor_cannot_be_pickled(create: Create) -> None:
    """An executor holds threads and locks (A3)."""
    with create() as executor, pytest.raises((TypeError, pickle.PicklingError), match="pickle"):
        pickle.dumps(executor)


# -- submit() ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "self",
        "fn",
        "args",
        "kwargs",
        "executor",
        "timeout",
        "retry",
        "policy",
        "context",
        "max_attempts",
        "work",
    ],
)
def test_submit_reserves_no_name(executor: ThreadPoolExecutor, name: str) -> None:
    """Whatever keywords the function takes reach it (A2)."""
    assert ((1,), {name: 2}) == executor.submit(capture, 1, **{name: 2}).result(TIMEOUT)


@pytest.mark.parametrize(
    "arguments", [{}, {"fn": capture}, {"fn": capture, "arg": 1}], ids=["none", "fn", "fn and arg"]
)
def test_submit_needs_a_positional_function(executor: ThreadPoolExecutor, arguments: dict[str, Any]) -> None:
    """The function cannot be left out or given by keyword (A2)."""
    with pytest.raises(TypeError):
        executor.submit(**arguments)


def test_submit_returns_a_standard_future(executor: ThreadPoolExecutor) -> None:
    """What submit() returns passes for a future, and is weakly referable and hashable (A3)."""
    future = executor.submit(pow, 2, 8)
    assert isinstance(future, Future)
    assert 256 == future.result(TIMEOUT)
    assert future is weakref.ref(future)()
    assert future in {future}


def test_not_callable_is_a_type_error(executor: ThreadPoolExecutor) -> None:
    """With the standard executor the call fails, with this one submit() does (A3)."""
    with pytest.raises(TypeError, match="not callable"):
        executor.submit(None).result(TIMEOUT)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("calls", ["generator", "coroutine"])
def test_generators_and_coroutines_are_results_like_others(executor: ThreadPoolExecutor, calls: str) -> None:
    """A plain function may return a generator or a coroutine: nobody runs the rest (A3)."""

    def generator() -> Iterator[int]:
        yield 42

    async def coroutine() -> int:
        return 42

    if calls == "generator":
        assert [42] == list(executor.submit(generator).result(TIMEOUT))
    else:
        assert 42 == asyncio.run(executor.submit(lambda: coroutine()).result(TIMEOUT))


def test_submit_after_shutdown_has_the_standard_error(create: Create) -> None:
    """A refused call is a RuntimeError with the standard text (F4)."""
    executor = create(1)
    executor.shutdown()
    executor.shutdown()  # once more does no harm
    with pytest.raises(RuntimeError, match=AFTER_SHUTDOWN):
        executor.submit(int)
    with pytest.raises(RuntimeError, match=AFTER_SHUTDOWN):
        executor.map(int, ["1"])


# -- outcomes ----------------------------------------------------------------------------------------


class HostileError(Exception):
    """An exception whose special methods all fail."""

    def _no(self, *_: object) -> Any:
        raise RuntimeError("hostile")

    __eq__ = __ne__ = __reduce__ = __reduce_ex__ = __getattr__ = __repr__ = __str__ = __bool__ = _no
    __setattr__ = __delattr__ = __len__ = _no
    __hash__ = None  # type: ignore[assignment]  # the worst that can be


class FalsyError(Exception):
    """An exception that is false, as an empty container is."""

    __len__ = int  # called without self, and int() is 0


@pytest.mark.parametrize(
    "error",
    [
        ValueError(1),
        StopIteration(42),
        StopAsyncIteration(),
        GeneratorExit(),
        KeyboardInterrupt(),
        SystemExit(3),
        concurrent.futures.CancelledError(),
        concurrent.futures.TimeoutError(),
        asyncio.CancelledError(),
        BaseException(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_exception_is_the_outcome_itself(executor: ThreadPoolExecutor, error: BaseException) -> None:
    """The call's own exception comes out, whatever it is, and the workers live on (A3, B3, B4)."""
    future = executor.submit(fail, error)
    assert error is future.exception(TIMEOUT)
    with pytest.raises(type(error)) as caught:
        future.result(TIMEOUT)
    assert error is caught.value
    assert future.done()
    assert not future.cancelled()
    assert not future.cancel()
    assert [0, 1, 2, 3] == list(executor.map(abs, range(4)))


@pytest.mark.parametrize("error", [HostileError(), FalsyError()], ids=["hostile", "falsy"])
def test_exception_is_not_asked_for_its_truth(lazy: ThreadPoolExecutor, error: Exception) -> None:
    """No special method of an exception is needed to hand it on (A3)."""
    future = lazy.submit(fail, error)
    assert error is future.exception(TIMEOUT)
    with pytest.raises(type(error)) as caught:
        future.result(TIMEOUT)
    assert error is caught.value


def test_hostile_results_pass_untouched(executor: ThreadPoolExecutor) -> None:
    """A result is handed on and never looked at (A3)."""
    results = [HostileError(), FalsyError(), NotImplemented, ..., None]
    for result in results:
        assert result is executor.submit(lambda result=result: result).result(TIMEOUT)  # type: ignore[misc]
    assert [id(result) for result in results] == [id(result) for result in executor.map(lambda x: x, results)]


def test_the_same_exception_may_come_from_many_calls(executor: ThreadPoolExecutor) -> None:
    """An exception object that calls share is the outcome of each (A3)."""
    error = ValueError("shared")
    futures = [executor.submit(fail, error) for _ in range(8)]
    assert all(error is future.exception(TIMEOUT) for future in futures)


@with_threads
def test_result_times_out_with_the_standard_error(one_worker: ThreadPoolExecutor) -> None:
    """result() and exception() raise TimeoutError while the call is not done (A3)."""
    with Busy(one_worker) as busy:
        waiting = one_worker.submit(int)
        for method in (busy.future.result, busy.future.exception, waiting.result, waiting.exception):
            for timeout in (0, 0.001, -1):
                with pytest.raises(concurrent.futures.TimeoutError):
                    method(timeout)
                with pytest.raises(concurrent.futures.TimeoutError):
                    method(timeout=timeout)


@with_threads
def test_states_are_seen_from_outside(one_worker: ThreadPoolExecutor) -> None:
    """running(), done() and cancelled() follow the call (A3)."""

    def state(future: Future[Any]) -> tuple[bool, bool, bool]:
        return future.running(), future.done(), future.cancelled()

    with Busy(one_worker) as busy:
        waiting, cancelled = one_worker.submit(int), one_worker.submit(int)
        assert cancelled.cancel()
        assert (True, False, False) == state(busy.future)
        assert (False, False, False) == state(waiting)
        assert (False, True, True) == state(cancelled)
    assert 0 == waiting.result(TIMEOUT)
    assert (False, True, False) == state(waiting)
    assert (False, True, True) == state(cancelled)


@with_threads
def test_cancel_stops_what_has_not_begun(one_worker: ThreadPoolExecutor) -> None:
    """A cancelled call never runs; a running or a done one cannot be cancelled (E1, E2)."""
    ran = Event()
    with Busy(one_worker) as busy:
        waiting = one_worker.submit(ran.set)
        assert not busy.future.cancel()
        assert waiting.cancel()
        assert waiting.cancel()
        for method in (waiting.result, waiting.exception):
            with pytest.raises(concurrent.futures.CancelledError):
                method(TIMEOUT)
    assert "busy no more" == busy.future.result(TIMEOUT)
    assert not busy.future.cancel()
    assert 0 == one_worker.submit(int).result(TIMEOUT)
    assert not ran.is_set()


@with_threads
def test_repr_is_the_standard_one(one_worker: ThreadPoolExecutor) -> None:
    """repr() gives class, address and state as the standard future does (A3)."""

    def state(future: Future[Any]) -> str:
        start, _, end = repr(future).partition(" state=")
        assert f"<{type(future).__name__} at {id(future):#x}" == start
        return end

    with Busy(one_worker) as busy:
        good, bad = one_worker.submit(int), one_worker.submit(fail, ValueError())
        cancelled = one_worker.submit(int)
        cancelled.cancel()
        assert ["running>", "pending>", "cancelled>"] == [
            state(each) for each in (busy.future, good, cancelled)
        ]
    assert not wait([good, bad], TIMEOUT).not_done
    assert ["finished returned int>", "finished raised ValueError>"] == [state(each) for each in (good, bad)]


@pytest.mark.parametrize("copies", [pickle.dumps, copy.deepcopy], ids=["pickle", "deepcopy"])
def test_future_cannot_be_pickled(executor: ThreadPoolExecutor, copies: Callable[[object], object]) -> None:
    """Pickling a future is a TypeError (A3)."""
    future = executor.submit(int)
    assert 0 == future.result(TIMEOUT)
    with pytest.raises(TypeError, match="cannot pickle"):
        copies(future)


def test_outcome_is_set_once(executor: ThreadPoolExecutor) -> None:
    """A future that is done refuses another outcome (A3)."""
    future = executor.submit(int)
    assert 0 == future.result(TIMEOUT)
    with pytest.raises(concurrent.futures.InvalidStateError):
        future.set_result(1)
    with pytest.raises(concurrent.futures.InvalidStateError):
        future.set_exception(ValueError())
    assert 0 == future.result(TIMEOUT)


# -- done callbacks ----------------------------------------------------------------------------------


@with_threads
def test_callbacks_run_in_order_with_the_future(one_worker: ThreadPoolExecutor) -> None:
    """Callbacks get the future, in the order they were added, once it is done (A3)."""
    seen: list[tuple[str, Future[Any], bool]] = []
    with Busy(one_worker):
        future = one_worker.submit(int)
        for name in "ab":
            future.add_done_callback(lambda done, name=name: seen.append((name, done, done.done())))  # type: ignore[misc]
    one_worker.shutdown()
    future.add_done_callback(lambda done: seen.append(("c", done, done.done())))
    assert [("a", future, True), ("b", future, True), ("c", future, True)] == seen


@with_threads
def test_callback_of_a_cancelled_call_runs_at_once(one_worker: ThreadPoolExecutor) -> None:
    """cancel() runs the callbacks in the thread that cancels (A3, E1)."""
    seen: list[tuple[bool, int]] = []
    with Busy(one_worker):
        future = one_worker.submit(int)
        future.add_done_callback(lambda done: seen.append((done.cancelled(), threading.get_ident())))
        assert future.cancel()
        assert [(True, threading.get_ident())] == seen


@with_threads
def test_failing_callback_is_logged_and_the_others_run(
    one_worker: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """What a callback raises goes to the log of concurrent.futures, as ever (A3)."""
    ran = Event()
    with Busy(one_worker) as busy:
        busy.future.add_done_callback(lambda _: fail(ValueError("in a callback")))
        busy.future.add_done_callback(lambda _: ran.set())
    assert ran.wait(TIMEOUT)
    one_worker.shutdown()
    (record,) = [record for record in caplog.records if record.name == "concurrent.futures"]
    assert record.levelno == logging.ERROR
    assert f"exception calling callback for {busy.future!r}" == record.getMessage()
    assert record.exc_info is not None
    assert "in a callback" == str(record.exc_info[1])


# -- wait() and as_completed() -----------------------------------------------------------------------


@with_threads
def test_wait_for_all_first_and_failure(executor: ThreadPoolExecutor) -> None:
    """wait() returns when it is asked to, with futures of both executors alike (A3)."""
    with ThreadPoolExecutor(1) as other, Busy(executor) as slow, Busy(other) as foreign:
        good = executor.submit(int)
        both = [slow.future, good, foreign.future]
        first = wait(both, TIMEOUT, concurrent.futures.FIRST_COMPLETED)
        assert ({good}, {slow.future, foreign.future}) == first
        bad = executor.submit(fail, ValueError())
        failed = wait([*both, bad], TIMEOUT, concurrent.futures.FIRST_EXCEPTION)
        assert ({good, bad}, {slow.future, foreign.future}) == failed
        assert ({good, bad}, {slow.future}) == wait([slow.future, good, bad, bad], 0.01)
        slow.release.set()
        foreign.release.set()
        assert (set(both), set()) == wait(both, TIMEOUT)


@with_threads
def test_as_completed_yields_each_future_once(executor: ThreadPoolExecutor) -> None:
    """as_completed() yields what is done first, each future once (A3)."""
    with Busy(executor) as one, Busy(executor) as two:
        first = executor.submit(int)
        assert 0 == first.result(TIMEOUT)
        done = as_completed([one.future, two.future, first, first], TIMEOUT)
        assert first is next(done)
        two.release.set()
        assert two.future is next(done)
        one.release.set()
        assert one.future is next(done)
        assert [] == list(done)


@with_threads
def test_as_completed_times_out(one_worker: ThreadPoolExecutor) -> None:
    """as_completed() says how many futures are not done (A3)."""
    with Busy(one_worker) as busy, pytest.raises(concurrent.futures.TimeoutError, match=r"1 \(of 1\)"):
        next(as_completed([busy.future], 0.01))


# -- map() -------------------------------------------------------------------------------------------


@with_threads
def test_map_keeps_the_order_of_the_input(executor: ThreadPoolExecutor) -> None:
    """Results come in the order of the arguments, not in that of their ends (A2)."""
    done = [Event(), Event(), Event()]

    def in_reverse(number: int) -> int:
        assert number == 2 or done[number + 1].wait(TIMEOUT)
        done[number].set()
        return number

    assert [0, 1, 2] == list(executor.map(in_reverse, range(3)))


ITERABLES: dict[str, Callable[[], list[Any]]] = {
    "none": list,
    "empty": lambda: [[]],
    "one": lambda: [range(4)],
    "shortest": lambda: [[2, 3, 4], [5]],
    "two": lambda: [range(9), range(9)],
    "infinite": lambda: [[7, 8], itertools.count()],
}


@pytest.mark.parametrize("iterables", ITERABLES.values(), ids=ITERABLES)
@pytest.mark.parametrize("options", [{}, {"chunksize": 3}, {"timeout": TIMEOUT}, {"timeout": None}], ids=str)
def test_map_zips_like_the_builtin(
    executor: ThreadPoolExecutor, iterables: Callable[[], list[Any]], options: dict[str, Any]
) -> None:
    """Iterables are zipped up to the shortest, and chunksize changes nothing (A2)."""
    expected = [capture(*args) for args in zip(*iterables(), strict=False)]
    assert expected == list(executor.map(capture, *iterables(), **options))


def test_map_submits_everything_at_once(executor: ThreadPoolExecutor) -> None:
    """Without buffersize every call is accepted before the first result is taken (A2)."""
    ran: list[int] = []
    executor.map(ran.append, range(10))
    executor.shutdown()
    assert list(range(10)) == sorted(ran)


def test_map_raises_in_place_and_cancels_the_rest(one_worker: ThreadPoolExecutor) -> None:
    """An exception comes where its result would, and calls that have not begun are cancelled (A2)."""
    go, ran = Event(), []

    def call(number: int) -> int:
        if number == 2:
            raise KeyError(number)
        assert number < 3 or go.wait(TIMEOUT)
        ran.append(number)
        return number

    results = one_worker.map(call, range(9))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError, match="2"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    go.set()
    one_worker.shutdown()
    assert [0, 1] == ran[:2]
    assert len(ran) <= 3  # the worker may begin any of the rest while those before it are cancelled


@with_threads
def test_map_times_out_from_the_call_of_map(one_worker: ThreadPoolExecutor) -> None:
    """A result that is late is a TimeoutError; it and the rest are cancelled (A2)."""
    ran: list[int] = []
    with Busy(one_worker):
        results = one_worker.map(ran.append, range(3), timeout=0.01)
        with pytest.raises(concurrent.futures.TimeoutError):
            next(results)
    one_worker.shutdown()
    assert [] == ran


def test_map_closed_early_cancels_the_rest(one_worker: ThreadPoolExecutor) -> None:
    """Closing the iterator, once begun, cancels the calls that have not begun (A2)."""
    go, ran = Event(), []

    def call(number: int) -> int:
        assert number == 0 or go.wait(TIMEOUT)
        ran.append(number)
        return number

    with closing(one_worker.map(call, range(9))) as results:  # type: ignore[type-var]  # it is a generator
        assert 0 == next(results)
    go.set()
    one_worker.shutdown()
    assert [0] == ran[:1]
    assert len(ran) <= 2  # the worker may begin any of the rest while those before it are cancelled


def test_map_goes_on_without_its_executor(create: Create) -> None:
    """An executor that is dropped while its results are taken finishes the calls (A2, F5)."""
    results = create(2, "dropped").map(str, range(5))
    gc.collect()
    assert ["0", "1", "2", "3", "4"] == list(results)
    assert eventually(lambda: not threads_named("dropped_"))


@with_threads
def test_map_fails_where_the_input_fails(executor: ThreadPoolExecutor) -> None:
    """What an iterable raises comes out of map() itself; the calls before it run (A2)."""
    ran: list[int] = []

    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("input")

    with pytest.raises(KeyError, match="input"):
        executor.map(ran.append, broken())
    executor.shutdown()
    assert [1] == ran


def test_map_is_not_ended_by_a_stop_iteration_of_a_call(executor: ThreadPoolExecutor) -> None:
    """A call that raises StopIteration does not look like the end of the results (A2)."""
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        list(executor.map(fail, [StopIteration()]))


def test_lazy_map_takes_one_more_for_each_result(lazy: ThreadPoolExecutor) -> None:
    """With buffersize, that many calls are submitted, and one more for each result taken (A2)."""
    taken: list[int] = []

    def take(number: int) -> int:
        taken.append(number)
        return number

    results = lazy.map(str, map(take, itertools.count()), buffersize=3)
    steps = [len(taken)]
    for expected in ("0", "1", "2"):
        assert expected == next(results)
        steps.append(len(taken))
    assert [3, 4, 5, 6] == steps


@pytest.mark.parametrize("buffersize", [1, 2, 4, 9, True, None])
@pytest.mark.parametrize("iterables", ITERABLES.values(), ids=ITERABLES)
def test_lazy_map_gives_the_same_results(
    lazy: ThreadPoolExecutor, iterables: Callable[[], list[Any]], buffersize: int | None
) -> None:
    """Whatever the buffersize, the results are those of the builtin map() (A2)."""
    expected = [capture(*args) for args in zip(*iterables(), strict=False)]
    assert expected == list(lazy.map(capture, *iterables(), buffersize=buffersize))


@pytest.mark.parametrize(
    ("buffersize", "error", "text"),
    [
        (0, ValueError, "buffersize must be None or > 0"),
        (-1, ValueError, "buffersize must be None or > 0"),
        ("2", TypeError, "buffersize must be an integer or None"),
        (2.0, TypeError, "buffersize must be an integer or None"),
    ],
)
def test_lazy_map_refuses_bad_sizes(
    lazy: ThreadPoolExecutor, buffersize: Any, error: type[Exception], text: str
) -> None:
    """A bad buffersize is an error of map() itself, with the text of Python 3.14 (A2)."""
    assert (error, text) == error_of(lambda: lazy.map(str, [1], buffersize=buffersize))


@pytest.mark.parametrize("create_lazy", UP_TO_DATE.values(), ids=UP_TO_DATE)
def test_lazy_map_ends_with_its_executor(create_lazy: Create) -> None:
    """Nothing more is submitted once the executor is gone; what was, is finished (A2, F5)."""
    results = create_lazy(1).map(str, itertools.count(), buffersize=2)
    gc.collect()
    assert ["0", "1"] == list(results)


def test_lazy_map_after_shutdown_raises(lazy: ThreadPoolExecutor) -> None:
    """The next call that would be submitted is refused with the standard error (A2, F4)."""
    results = lazy.map(str, itertools.count(), buffersize=2)
    lazy.shutdown()
    with pytest.raises(RuntimeError, match=AFTER_SHUTDOWN):
        next(results)


# -- subclasses and instances that intercept submit() ------------------------------------------------


@pytest.mark.parametrize("base", [ThreadPoolExecutor, RetryingExecutor])
def test_map_goes_through_an_overridden_submit(base: type[ThreadPoolExecutor]) -> None:
    """A subclass may override submit(); map() uses that (A5)."""

    class Doubling(base):  # type: ignore[misc, valid-type]  # a base class that varies
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            return super().submit(lambda: 2 * fn(*args, **kwargs))

    with Doubling(2) as executor:
        assert [0, 2, 4] == list(executor.map(abs, range(3)))


def test_map_goes_through_a_submit_of_the_instance(executor: ThreadPoolExecutor) -> None:
    """Clients assign ``executor.submit``; map() uses that (A5)."""
    original = executor.submit
    executor.submit = lambda fn, *args: original(lambda: 2 * fn(*args))  # type: ignore[method-assign]
    assert [0, 2, 4] == list(executor.map(abs, range(3)))


def test_lazy_map_goes_through_a_submit_of_the_instance(lazy: ThreadPoolExecutor) -> None:
    """So does map() with buffersize, up to the last call (A5)."""
    original = lazy.submit
    lazy.submit = lambda fn, *args: original(lambda: 2 * fn(*args))  # type: ignore[method-assign]
    assert [0, 2, 4] == list(lazy.map(abs, range(3), buffersize=1))


# -- the end -----------------------------------------------------------------------------------------


def test_leaving_the_with_block_waits(create: Create) -> None:
    """After the with block every call is done, when it ends with an exception too (F1)."""
    go, futures = Event(), []

    def leave_by_exception(executor: ThreadPoolExecutor) -> None:
        with executor:
            futures.extend([executor.submit(go.wait, TIMEOUT), executor.submit(int)])
            go.set()
            raise KeyError

    with pytest.raises(KeyError):
        leave_by_exception(create(1))
    assert [True, 0] == [future.result(0) for future in futures]


@with_threads
@pytest.mark.parametrize("arguments", [(False,), ()], ids=["positional", "keyword"])
def test_shutdown_without_waiting_goes_on(create: Create, arguments: tuple[bool, ...]) -> None:
    """shutdown(wait=False) returns at once, and the calls are finished (F1)."""
    executor = create(1)
    with Busy(executor) as busy:
        waiting = executor.submit(int)
        executor.shutdown(*arguments, **({} if arguments else {"wait": False}))
        assert not busy.future.done()
    assert 0 == waiting.result(TIMEOUT)


@with_threads
def test_shutdown_cancels_what_does_not_run(create: Create) -> None:
    """cancel_futures=True cancels calls that wait; one that runs keeps its outcome (F2)."""
    executor = create(1)
    with Busy(executor) as busy:
        waiting = [executor.submit(int) for _ in range(3)]
        executor.shutdown(wait=False, cancel_futures=True)
        assert [future.cancelled() for future in waiting] == [True] * 3
    executor.shutdown()
    assert "busy no more" == busy.future.result(0)


# -- nothing is kept ---------------------------------------------------------------------------------


@with_threads
@pytest.mark.parametrize("error", [None, ValueError()], ids=["result", "exception"])
def test_future_goes_away_without_the_collector(
    one_worker: ThreadPoolExecutor, error: BaseException | None
) -> None:
    """A done future is part of no reference cycle, nor is the exception in it (A4, G2)."""
    gc.disable()
    try:
        future = one_worker.submit(int) if error is None else one_worker.submit(fail, error)
        assert not wait([future], TIMEOUT).not_done
        assert error is future.exception(0)
        reference = weakref.ref(future)
        del future, error
        assert eventually(lambda: reference() is None)
    finally:
        gc.enable()


# -- asyncio: more in tests/clients/ -----------------------------------------------------------------


@with_threads
def test_wrap_future_hands_on_every_outcome(executor: ThreadPoolExecutor) -> None:
    """asyncio.wrap_future() gives the result or the exception itself (A3)."""
    error = KeyError("wrapped")

    async def main() -> None:
        assert 8 == await asyncio.wait_for(asyncio.wrap_future(executor.submit(pow, 2, 3)), TIMEOUT)
        with pytest.raises(KeyError) as caught:
            await asyncio.wait_for(asyncio.wrap_future(executor.submit(fail, error)), TIMEOUT)
        assert error is caught.value

    asyncio.run(main())


@with_threads
def test_cancelling_in_asyncio_cancels_the_call(one_worker: ThreadPoolExecutor) -> None:
    """Cancelling the wrapped future cancels a call that waits, and the other way round (A3, E1)."""

    async def main() -> None:
        with Busy(one_worker):
            outer, inner = one_worker.submit(int), one_worker.submit(int)
            wrapped = [asyncio.wrap_future(outer), asyncio.wrap_future(inner)]
            wrapped[0].cancel()
            assert inner.cancel()
            assert not (await asyncio.wait(wrapped, timeout=TIMEOUT))[1]
            assert [True, True] == [future.cancelled() for future in wrapped]
            assert outer.cancelled()

    asyncio.run(main())


@with_threads
def test_executor_runs_in_a_loop(create: Create) -> None:
    """run_in_executor() takes it, set_default_executor() too, and asyncio.run() shuts that down (A5)."""
    default = create(1)

    async def main(executor: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        assert 2 == await asyncio.wait_for(loop.run_in_executor(executor, abs, -2), TIMEOUT)
        loop.set_default_executor(default)
        assert 3 == await asyncio.wait_for(asyncio.to_thread(abs, -3), TIMEOUT)

    with create(1) as executor:
        asyncio.run(main(executor))
    with pytest.raises(RuntimeError, match=AFTER_SHUTDOWN):
        default.submit(int)


def test_map_that_is_refused_leaves_no_call_behind() -> None:
    """If not all calls are accepted, nobody gets their futures: they are cancelled (A2, G5)."""
    release = threading.Event()
    with RetryingExecutor(1, max_pending=3) as executor:
        running = executor.submit(release.wait, TIMEOUT)
        with pytest.raises(PendingLimitError):
            executor.map(abs, range(3))
        assert 2 == executor.stats().cancelled
        release.set()
        assert running.result(TIMEOUT)


def test_a_policy_is_not_taken_for_a_name() -> None:
    """Given by position it would be the thread_name_prefix, in silence (A1)."""
    with pytest.raises(
        TypeError, match=r"^retry must be given by keyword, not as a positional argument: RetryPolicy\("
    ):
        RetryingExecutor(4, RetryPolicy())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"idle_timeout": -1},
            ValueError,
            "idle_timeout must be a finite number of seconds, 0 or more, not -1",
        ),
        (
            {"exit_timeout": "5"},
            TypeError,
            "exit_timeout must be a number of seconds or a timedelta, not '5'",
        ),
        ({"max_pending": 0}, ValueError, "max_pending must be 1 or more, not 0"),
        ({"when_full": "block"}, ValueError, "when_full must be 'raise' or 'wait', not 'block'"),
        ({"retry": 5}, TypeError, "retry must be a RetryPolicy, a callable or None, not 5"),
    ],
    ids=["idle_timeout", "exit_timeout", "max_pending", "when_full", "retry"],
)
def test_a_bad_option_is_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    """The error says which option, which value, and what is allowed (A1)."""
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        RetryingExecutor(**options)


# -- clients that look into the queue (A5) ----------------------------------------------------------


def drop_messages(executor: RetryingExecutor) -> list[Any]:
    """Do what google-cloud-pubsub does at its end: take out what has not begun, then shut down."""
    dropped = []
    work_queue: Any = executor._work_queue
    with suppress(queue.Empty):
        while True:
            item = work_queue.get(block=False)
            assert item.future.cancelled()
            assert (print, {"end": ""}) == (item.fn, item.kwargs)
            dropped.append(item.args[0])
    executor.shutdown(wait=False)
    return dropped


def test_what_has_not_begun_can_be_taken_out_of_the_queue() -> None:
    """Each call once and in order; what runs or was tried goes on (A5)."""
    started, release = Event(), Event()

    def call() -> bool:
        started.set()
        assert release.wait(TIMEOUT)
        if busy.attempts == 1:
            raise ConnectionError
        return True

    executor = RetryingExecutor(1, retry=RetryPolicy(delays=(0,)))
    work_queue: Any = executor._work_queue
    assert (0, True) == (work_queue.qsize(), work_queue.empty())
    busy = executor.submit(call)
    assert started.wait(TIMEOUT)
    futures = [executor.submit(print, number, end="") for number in range(100)]
    assert not executor._core.take_out(busy)  # it has begun
    assert futures[50].cancel()
    assert (99, False) == (work_queue.qsize(), work_queue.empty())
    item = work_queue.get_nowait()
    assert 0 == item.args[0]
    assert (print, (0,), {"end": ""}) == (item.fn, item.args, item.kwargs) == item.task
    assert futures[1].cancel()
    assert [*range(2, 50), *range(51, 100)] == drop_messages(executor)
    assert (0, True) == (work_queue.qsize(), work_queue.empty())
    release.set()
    assert busy.result(TIMEOUT)  # by its second attempt
    assert 100 == executor.stats().cancelled


def test_what_has_not_begun_can_be_taken_out_of_the_queue_in_virtual_time() -> None:
    """It is the same there (A5)."""
    executor = VirtualTimeExecutor()
    for number in range(3):
        executor.submit(print, number, end="")
    work_queue: Any = executor._work_queue
    assert (3, False) == (work_queue.qsize(), work_queue.empty())
    assert [0, 1, 2] == drop_messages(executor)
