"""What type checkers see: every public signature. Checked by mypy and pyright, never run (H)."""

from __future__ import annotations

import sys
from asyncio import new_event_loop
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import (
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from typing_extensions import assert_type

from retrying_executor import (
    Attempt,
    AttemptLostError,
    ForkedFutureError,
    Inline,
    Journal,
    JournalError,
    NotNow,
    PendingLimitError,
    RetryingExecutor,
    RetryingFuture,
    RetryPolicy,
    Stats,
    Upstream,
    UpstreamFamily,
    View,
    explain,
    report_weight,
    retry_after,
    transient,
    watch,
)
from retrying_executor.engines import Processes, Shared
from retrying_executor.prometheus import ExecutorCollector
from retrying_executor.testing import VirtualTimeExecutor


def area(width: int, height: float = 1.0, *, name: str = "") -> float:
    """A call with all kinds of parameters."""
    return width * height


class Caller:
    """A callable object."""

    def __call__(self, number: int) -> bytes:
        return bytes(number)

    def method(self, *, flag: bool) -> str:
        return str(flag)


def constructor() -> None:
    """Standard parameters by position, ours by keyword; what is misspelt or out of range is seen (A1, B1)."""
    RetryingExecutor()
    RetryingExecutor(4, "prefix", print, (1, 2))
    RetryingExecutor(max_workers=None, thread_name_prefix="", initializer=None, initargs=())
    RetryingExecutor(retry=None)
    RetryingExecutor(retry=RetryPolicy())
    RetryingExecutor(retry=lambda attempt: 1.0 if attempt.number < 3 else None)
    RetryingExecutor(retry=lambda attempt: timedelta(seconds=attempt.elapsed))
    RetryingExecutor(idle_timeout=None, exit_timeout=None, max_pending=None)
    RetryingExecutor(idle_timeout=timedelta(minutes=1), exit_timeout=30, max_pending=100, when_full="wait")
    RetryingExecutor(when_full="raise")
    RetryingExecutor(inherit_context=False)
    RetryingExecutor(inherit_context=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RetryingExecutor(1, "", None, (), None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    RetryingExecutor(max_worker=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    RetryingExecutor(when_full="drop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RetryingExecutor(retry=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RetryingExecutor(retry=RetryPolicy)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RetryingExecutor(idle_timeout="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def needs_the_standard(pool: ThreadPoolExecutor, future: Future[float]) -> None: ...


def needs_any(pool: Executor) -> None: ...


def drop_in(executor: RetryingExecutor) -> None:
    """It goes where a ThreadPoolExecutor is asked for, its futures where a Future is (A3, A5)."""
    needs_the_standard(executor, executor.submit(area, 1))
    needs_any(executor)
    needs_any(executor.with_options())
    needs_the_standard(executor.with_options(), executor.submit(area, 1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with executor as entered:
        assert_type(entered, RetryingExecutor)


def submit(executor: RetryingExecutor) -> None:
    """What is submitted keeps its signature, and its result is the type of the future (A2, H)."""
    assert_type(executor.submit(area, 2), RetryingFuture[float])
    assert_type(executor.submit(area, 2, 3.0, name="a"), RetryingFuture[float])
    assert_type(executor.submit(area, 2, height=3), RetryingFuture[float])
    assert_type(executor.submit(Caller(), 3), RetryingFuture[bytes])
    assert_type(executor.submit(Caller().method, flag=True), RetryingFuture[str])
    assert_type(executor.submit(Caller), RetryingFuture[Caller])
    assert_type(executor.submit(lambda: 42), RetryingFuture[int])
    assert_type(executor.submit(pow, 2, 8).done(), bool)
    executor.submit()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    executor.submit(area)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    executor.submit(area, "2")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    executor.submit(area, 2, nam="a")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    executor.submit(area, 2, 3.0, "a")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    executor.submit(fn=area)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    executor.submit(42)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


async def wait_for(width: int, height: float = 1.0, *, name: str = "") -> float:
    """A coroutine function with all kinds of parameters."""
    return width * height


class AsyncCaller:
    """A callable object whose calls are awaited."""

    async def __call__(self, number: int) -> bytes:
        return bytes(number)

    async def method(self, *, flag: bool) -> str:
        return str(flag)


async def generate() -> AsyncIterator[int]:
    """An asynchronous generator, which is refused when it is submitted, but not by a type."""
    yield 1


def submit_coroutine_functions(executor: RetryingExecutor) -> None:
    """The future has what is awaited, not the coroutine; the signature is kept (K1, H)."""
    assert_type(executor.submit(wait_for, 2), RetryingFuture[float])
    assert_type(executor.submit(wait_for, 2, 3.0, name="a"), RetryingFuture[float])
    assert_type(executor.submit(wait_for, 2).result(), float)
    assert_type(executor.submit(AsyncCaller(), 3), RetryingFuture[bytes])
    assert_type(executor.submit(AsyncCaller().method, flag=True), RetryingFuture[str])
    assert_type(executor.submit(partial(wait_for, 2), name="a"), RetryingFuture[float])
    assert_type(executor.with_options(max_attempts=8).submit(wait_for, 2), RetryingFuture[float])
    assert_type(executor.with_options().submit(AsyncCaller().method, flag=True), RetryingFuture[str])
    executor.submit(wait_for)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    executor.submit(wait_for, "2")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    executor.submit(AsyncCaller().method)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    RetryingExecutor(max_coroutines=10, loop_factory=None)
    RetryingExecutor(loop_factory=new_event_loop)
    RetryingExecutor(max_coroutines=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RetryingExecutor(loop_factory=wait_for)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def one(a: int) -> str:
    """A call with one argument."""
    return str(a)


def two(a: int, b: str) -> bytes:
    """A call with two arguments."""
    return b"%d" % a + b.encode()


def three(a: int, b: str, c: float) -> float:
    """A call with three arguments."""
    return a + c + len(b)


def four(a: int, b: str, c: float, d: bytes) -> list[int]:
    """A call with four arguments."""
    return [a, len(b), int(c), len(d)]


def map_(executor: RetryingExecutor) -> None:
    """map() keeps the signature of the function up to three iterables, its result always (A2, H, K1).

    Of a coroutine function, the result is what is awaited, up to three iterables too.
    """
    assert_type(executor.map(one, [1]), Iterator[str])
    assert_type(executor.map(two, [1], ["b"]), Iterator[bytes])
    assert_type(executor.map(three, [1], ["b"], [1.0]), Iterator[float])
    assert_type(executor.map(four, [1], ["b"], [1.0], [b""]), Iterator[list[int]])
    assert_type(executor.map(lambda *args: len(args), [1], [2], [3], [4], [5], [6]), Iterator[int])
    executor.map(max, *[[1, 2], [3, 4]])
    assert_type(executor.map(lambda a: a + 1, range(3)), Iterator[int])
    assert_type(executor.map(one, {1}, timeout=1, chunksize=2, buffersize=3), Iterator[str])
    assert_type(executor.map(one, {1}, timeout=timedelta(1), buffersize=None), Iterator[str])
    assert_type(executor.map(wait_for, [1, 2]), Iterator[float])
    assert_type(executor.map(wait_for, [1, 2], [1.0, 2.0]), Iterator[float])
    assert_type(executor.map(AsyncCaller(), [1]), Iterator[bytes])
    assert_type(executor.with_options().map(AsyncCaller(), [1]), Iterator[bytes])
    executor.map(one, ["1"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    executor.map(one, [1], [2])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    executor.map(two, [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    executor.map(two, ["1"], ["b"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    executor.map(three, [1], ["b"], ["c"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    executor.map(one, 1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    executor.map(one, [1], timeout="1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    executor.map(one, [1], buffersize="1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


def options(executor: RetryingExecutor) -> None:
    """A view has the options of RetryPolicy and the signatures of the executor (B9, H)."""
    view = executor.with_options(max_attempts=8, retry_on=(OSError, KeyError))
    assert_type(view.submit(one, 1), RetryingFuture[str])
    assert_type(view.map(two, [1], ["b"]), Iterator[bytes])
    assert_type(view.with_options(retry=None).submit(one, 1), RetryingFuture[str])
    executor.with_options(retry=RetryPolicy(), delays=[1, timedelta(2)])
    executor.with_options(retry=lambda attempt: None)
    executor.with_options(max_attempt=8)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    executor.with_options(max_attempts="8")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    executor.with_options(8)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    view.submit(one, "1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


def future(executor: RetryingExecutor) -> None:
    """A future is one of the standard library with more to read (A3, B10)."""
    future = executor.submit(area, 2)
    assert_type(future.result(), float)
    assert_type(future.result(1), float)
    assert_type(future.result(timeout=timedelta(seconds=1)), float)
    assert_type(future.exception(timeout=1), BaseException | None)
    assert_type(future.attempts, int)
    assert_type(future.last_exception, BaseException | None)
    assert_type(future.due_at, float | None)
    assert_type(future.cancel(), bool)
    assert_type(future.cancelled(), bool)
    assert_type(future.running(), bool)
    assert_type(future.done(), bool)
    future.add_done_callback(lambda done: assert_type(done.result(), float))
    future.attempts = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    futures = [executor.submit(one, number) for number in range(3)]
    for done in as_completed(futures):
        assert_type(done.result(), str)
    assert_type(wait(futures, 1).done.pop().result(), str)


def endings(executor: RetryingExecutor) -> None:
    """Durations are numbers or timedeltas (F1, F2, F3)."""
    executor.shutdown()
    executor.shutdown(False)
    executor.shutdown(wait=True, cancel_futures=True, timeout=timedelta(seconds=30))
    assert_type(executor.drain(), bool)
    assert_type(executor.drain(1.5), bool)
    assert_type(executor.drain(timeout=timedelta(1)), bool)
    executor.shutdown(True, True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def policy() -> None:
    """The options of a policy, and what it holds (B1)."""

    def retry_on(error: Exception) -> bool | float | timedelta:
        return isinstance(error, OSError)

    policy = RetryPolicy(
        max_attempts=8,
        initial_delay=timedelta(seconds=1),
        multiplier=3,
        max_delay=60,
        jitter=False,
        max_elapsed=None,
        retry_on=retry_on,
        retry_result=lambda result: result is None,
        random=lambda: 0.5,
    )
    RetryPolicy(max_attempts=None, retry_on=OSError, retry_result=None, random=None, max_elapsed=timedelta(1))
    RetryPolicy(delays=(1, 2.5, timedelta(seconds=4)), retry_on=(OSError, KeyError))
    RetryPolicy(retry_on=lambda error: 1.5)
    RetryPolicy(give_up_on=KeyError)
    executor_view = RetryingExecutor().with_options(give_up_on=(KeyError, ValueError))
    assert_type(executor_view, View)
    assert_type(policy.max_attempts, int | None)
    assert_type(policy.initial_delay, float)
    assert_type(policy.multiplier, float)
    assert_type(policy.max_delay, float)
    assert_type(policy.jitter, bool)
    assert_type(policy.max_elapsed, float | None)
    assert_type(policy.max_age, float | None)
    assert_type(policy.delays, tuple[float, ...] | None)
    assert_type(policy.replace(max_attempts=3), RetryPolicy)
    assert_type(policy == policy, bool)
    policy.max_attempts = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    policy.replace(max_attempt=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    RetryPolicy(8)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    RetryPolicy(max_attempt=8)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    RetryPolicy(max_attempts=8.0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RetryPolicy(retry_on="OSError")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RetryPolicy(retry_on=lambda error: "yes")  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType]
    RetryPolicy(delays=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@RetryPolicy(max_attempts=8)
def decorated(width: int, *, name: str = "") -> float:
    """A function whose calls are made where they stand."""
    return width * 1.0


class Client:
    """A class with a decorated method."""

    @RetryPolicy().inline(upstream=Upstream("billing"), label="get")
    async def get(self, number: int) -> bytes:
        return bytes(number)


async def inline() -> None:
    """Decorated functions, and calls inline, keep the signature of the function."""
    assert_type(decorated(2, name="a"), float)
    assert_type(await Client().get(3), bytes)
    policy = RetryPolicy()
    assert_type(policy.call(area, 2, name="a"), float)
    assert_type(await policy.call(wait_for, 2, name="a"), float)
    inline = policy.inline(upstream=(Upstream("tenant"), Upstream("account")), weight=3, key="17")
    assert_type(inline, Inline)
    assert_type(inline.call(Caller(), 3), bytes)
    assert_type(await inline(wait_for)(2), float)
    decorated("2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    decorated()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    policy.call(area, "2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    policy.call(42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    policy(42)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    policy.inline(upstream="billing")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    policy.inline(upstreams=None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def attempt() -> None:
    """What a policy gets (B1)."""
    attempt = Attempt(number=1, exception=OSError(), result=None, elapsed=0.5)
    assert_type(attempt.number, int)
    assert_type(attempt.exception, Exception | None)
    assert_type(attempt.result, object)
    assert_type(attempt.elapsed, float)
    assert_type(RetryPolicy()(attempt), float | None)
    attempt.number = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    Attempt(number=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def upstream(executor: RetryingExecutor) -> None:
    """A service and its limits (U4, U5)."""
    upstream = Upstream("glue", max_concurrency=1, rate=(10, timedelta(seconds=1)), hold_after=None)
    Upstream("glue", record_exceptions=(ConnectionError, TimeoutError))
    Upstream("glue", record_exceptions=lambda exception: "down" in str(exception))
    assert_type(upstream.name, str)
    assert_type(upstream.state, Literal["open", "held", "probing", "ramping"])
    assert_type(upstream.held_until, float | None)
    assert_type(upstream.in_flight, int)
    upstream.pause(1.5)
    upstream.pause()
    upstream.resume()
    RetryingExecutor(upstream=upstream)
    assert_type(executor.with_options(upstream=upstream, max_attempts=3), View)
    executor.with_options(upstream=None)
    tokens = Upstream("llm", rate=[(10, 1), (1_000, timedelta(days=1))], budget=(2.5e5, 60), paced=True)
    both = executor.with_options(upstream=(upstream, tokens), weight=1_200)
    assert_type(both.with_options(weight=lambda text: len(text) / 4), View)
    assert_type(report_weight(1_834), None)
    RetryingExecutor(upstream=(upstream, tokens))
    executor.with_options(weight="9")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    executor.with_options(upstream=())
    Upstream("llm", budget=10)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    executor.with_options(label="invoice 17", key=None, max_age=timedelta(hours=1))
    executor.with_options(label=17)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    executor.with_options(key=b"order-17")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    executor.with_options(max_age="60")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RetryingExecutor(upstream="glue")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Upstream("glue", max_pending=100)
    hosts = UpstreamFamily("webhooks", max_concurrency=2, rate=(10, timedelta(seconds=1)), max_pending=100)
    assert_type(hosts["example.org"], Upstream)
    assert_type(hosts.name, str)
    assert_type(list(hosts), list[str])
    assert_type(len(hosts), int)
    assert_type("example.org" in hosts, bool)
    hosts[1]  # type: ignore[index]  # pyright: ignore[reportArgumentType]
    UpstreamFamily("webhooks", rate=10)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    executor.with_options(upstream=hosts)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Upstream("glue", max_concurency=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Upstream("glue", rate=10)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def answers(error: Exception) -> None:
    """What failures mean (U1 to U3)."""
    assert_type(transient(error), bool | NotNow)
    assert_type(retry_after(error), float | None)
    assert_type(explain(error), str)
    explain("404")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(NotNow("busy", after=timedelta(seconds=1)).after, float | None)
    RetryPolicy(retry_on=lambda error: NotNow(after=1), max_retry_after=None)
    NotNow("busy")
    NotNow(after="soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def stats(executor: RetryingExecutor) -> None:
    """What the numbers are (G4)."""
    stats = executor.stats()
    assert_type(stats, Stats)
    assert_type(stats.threads + stats.running + stats.ready + stats.in_backoff, int)
    assert_type(stats.submitted + stats.succeeded + stats.failed + stats.cancelled + stats.retried, int)
    assert_type(stats.next_due_at, float | None)


def errors() -> None:
    """All of them are RuntimeErrors (F6, G5, J6)."""
    refused: RuntimeError = PendingLimitError()
    unwritten: RuntimeError = JournalError()
    forked: RuntimeError = ForkedFutureError()
    for error in (refused, unwritten):
        raise error from forked


def watching(executor: RetryingExecutor) -> None:
    """Executors of this kind and their views can be watched; files are for text."""
    with watch(executor) as nothing:
        assert_type(nothing, None)
    with watch(executor.with_options(), interval=timedelta(minutes=1), file=sys.stdout, quiet=True):
        pass
    with watch(executor, interval=0.5, file=None):
        pass
    watch(ThreadPoolExecutor())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    watch(executor, file=open("log", "wb"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # noqa: SIM115
    watch(executor, 10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def integrations(executor: RetryingExecutor, upstream: Upstream) -> None:
    """A collector takes executors by name, and upstreams."""
    assert_type(ExecutorCollector({"a": executor}, upstreams=[upstream]), ExecutorCollector)
    ExecutorCollector([executor])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ExecutorCollector({"a": executor}, upstreams=["a"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


def journal(executor: RetryingExecutor) -> None:
    """A path, or a journal with options; calls of other processes have futures of any type (J1, J2)."""
    RetryingExecutor(journal="calls/")
    RetryingExecutor(journal=Path("calls"))
    RetryingExecutor(journal=None)
    kept = Journal("calls", durability="process", max_crashes=1, adopts=False, renamed={"shop.old": area})
    RetryingExecutor(journal=kept)
    VirtualTimeExecutor(journal=kept)
    Journal(Path("calls"), functions=[area, one])
    Journal("calls", functions={"area": area})
    assert_type(kept.directory, Path)
    assert_type(executor.adopted, list[RetryingFuture[Any]])
    assert_type(executor.adopt(), int)
    executor.with_options().adopt()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    RetryingExecutor(journal=b"calls")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Journal()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Journal("calls", durability="some")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Journal("calls", functions=area)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Journal("calls", "full")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def engines() -> None:
    """Where attempts run; the engine changes nothing of what a future has (L1, L2)."""
    RetryingExecutor(engine=None)
    own = Processes(
        mp_context="spawn",
        attempt_timeout=timedelta(minutes=1),
        initializer=print,
        initargs=("ready",),
        max_tasks_per_child=100,
    )
    executor = RetryingExecutor(4, engine=own)
    assert_type(executor.submit(area, 1), RetryingFuture[float])
    Processes(mp_context=get_context("fork"), attempt_timeout=0.5)
    shared = Shared(lambda: ProcessPoolExecutor(2), lost=(KeyError, OSError))
    VirtualTimeExecutor(engine=shared)
    Shared(ThreadPoolExecutor, lost=ValueError)
    lost: RuntimeError = AttemptLostError("it died")
    assert isinstance(lost, AttemptLostError)
    Processes("spawn")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Shared(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Shared(ThreadPoolExecutor, lost=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RetryingExecutor(engine=ThreadPoolExecutor())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def testing() -> None:
    """The executor in virtual time is one like any other, and has a clock."""
    executor: RetryingExecutor = VirtualTimeExecutor(2, seed=1, retry=None, upstream=None, max_pending=3)
    assert_type(executor.submit(area, 1), RetryingFuture[float])
    virtual = VirtualTimeExecutor()
    assert_type(virtual.monotonic(), float)
    virtual.advance(timedelta(hours=1))
    virtual.sleep(0.5)
    with virtual as entered:
        assert_type(entered, VirtualTimeExecutor)
    VirtualTimeExecutor(seed="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    VirtualTimeExecutor(speed=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
