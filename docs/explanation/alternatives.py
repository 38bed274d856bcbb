"""Show what the page about alternatives claims, with the libraries that are installed.

Each claim is a function that tries the same with several libraries, and returns what happened with each. No
broker and no network are needed: Celery and Dramatiq keep their queues in memory here, Celery in a directory
where a process has to end, and RQ has a stand-in for Redis. ``--check`` compares with the table on the page.
"""

# ruff: noqa: T201  # a command speaks by printing

from __future__ import annotations

import argparse
import asyncio
import contextlib
import contextvars
import inspect
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from importlib import metadata
from pathlib import Path
from typing import Any

import aiometer
import dramatiq
import fakeredis
import rq
import stamina
import tenacity
from aqute import Aqute
from celery import Celery
from celery.contrib.testing.worker import start_worker
from dramatiq.brokers.stub import StubBroker
from more_executors import Executors
from stamina.instrumentation import set_on_retry_hooks

from retrying_executor import NotNow, RetryingExecutor, RetryPolicy

TABLE = Path(__file__).with_name("alternatives_table.inc")
TIMEOUT = 60.0  # seconds within which everything happens that is going to
DELAY = 0.2  # seconds between two attempts
LIBRARIES = ("tenacity", "stamina", "more-executors", "aiometer", "aqute", "celery", "dramatiq", "rq")

STANDARD, OURS = "ThreadPoolExecutor", "RetryingExecutor"
TENACITY, STAMINA = f"{STANDARD} + tenacity", f"{STANDARD} + stamina"
MORE, CELERY, DRAMATIQ, RQ = "more-executors", "Celery", "Dramatiq", "RQ"
OUTBOX, ASYNCIO = "a table in a database", "asyncio"
SEMAPHORE, AIOMETER, AQUTE = "asyncio.Semaphore + tenacity", "aiometer", "aqute"
GATHER, TASK_GROUP = "asyncio.gather", "asyncio.TaskGroup"

Observed = dict[str, str]

starts: list[str] = []  # which call has started, in order
queued = threading.Event()  # that B is in the queue
failed = threading.Event()  # that A has failed for the first time


def call_a() -> None:
    """Fail once; not before B is in the queue."""
    starts.append("A")
    assert queued.wait(TIMEOUT)
    if starts.count("A") == 1:
        failed.set()
        raise ConnectionError("try again")


def call_b() -> None:
    """Succeed."""
    starts.append("B")


async def coroutine_a() -> None:
    """Fail once."""
    starts.append("A")
    if starts.count("A") == 1:
        raise ConnectionError("try again")


async def coroutine_b() -> None:
    """Succeed."""
    starts.append("B")


def begin() -> None:
    """Forget the experiment before."""
    starts.clear()
    queued.clear()
    failed.clear()


def with_tenacity(function: Callable[..., Any], *, attempts: int = 2) -> Callable[..., Any]:
    """Return the function, retried by tenacity."""
    stop = tenacity.stop_after_attempt(attempts)
    return tenacity.retry(wait=tenacity.wait_fixed(DELAY), stop=stop, reraise=True)(function)


def with_stamina(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, retried by stamina."""
    set_on_retry_hooks([])  # by default it writes to standard error
    retry = stamina.retry(on=Exception, attempts=2, wait_initial=DELAY, wait_jitter=0, timeout=None)
    return retry(function)


def more_executors(workers: int = 1) -> Executor:
    """Return an executor of more-executors that retries."""
    made: Executor = Executors.thread_pool(max_workers=workers).with_retry(max_attempts=2, sleep=DELAY)
    return made


def ours(workers: int = 1, **options: Any) -> RetryingExecutor:
    """Return an executor of this library with the same delays."""
    return RetryingExecutor(workers, retry=RetryPolicy(delays=[DELAY]), **options)


def executors() -> Iterator[tuple[str, Executor, Callable[[Callable[..., Any]], Callable[..., Any]]]]:
    """Yield executors with threads in this process and one worker each, and how each decorates calls."""
    yield TENACITY, ThreadPoolExecutor(1), with_tenacity
    yield STAMINA, ThreadPoolExecutor(1), with_stamina
    yield MORE, more_executors(), lambda function: function
    yield OURS, ours(), lambda function: function


def eventually(condition: Callable[[], object]) -> bool:
    """Look until it is true, for a while."""
    deadline = time.monotonic() + TIMEOUT
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.001)
    return bool(met)


# -- the claims ------------------------------------------------------------------------------------


def order_of_starts() -> Observed:
    """One worker. A fails and waits for its next attempt, B is behind it: the order of starts."""
    observed = {}
    for name, executor, decorate in executors():
        begin()
        futures = [executor.submit(decorate(call_a)), executor.submit(call_b)]
        queued.set()
        for future in futures:
            future.result(TIMEOUT)
        executor.shutdown()
        observed[name] = " ".join(starts)

    begin()
    app = Celery("example", broker="memory://", backend="cache+memory://")
    options = {"autoretry_for": (ConnectionError,), "default_retry_delay": DELAY, "max_retries": 1}
    sent = [app.task(**options)(call_a).delay(), app.task(call_b).delay()]
    queued.set()
    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
        for result in sent:
            result.get(timeout=TIMEOUT)
    observed[CELERY] = " ".join(starts)

    begin()
    broker = StubBroker()
    dramatiq.set_broker(broker)
    dramatiq.actor(max_retries=1, min_backoff=200, max_backoff=200)(call_a).send()
    dramatiq.actor(call_b).send()
    queued.set()
    worker = dramatiq.Worker(broker, worker_threads=1)
    worker.start()
    broker.join("default", timeout=int(TIMEOUT * 1000))
    worker.join()
    worker.stop()
    observed[DRAMATIQ] = " ".join(starts)

    begin()
    connection = fakeredis.FakeStrictRedis()
    queue = rq.Queue(connection=connection)
    queue.enqueue("alternatives.call_a", retry=rq.Retry(max=1))
    queue.enqueue("alternatives.call_b")
    queued.set()
    rq.SimpleWorker([queue], connection=connection).work(burst=True, logging_level="CRITICAL")
    observed[f"{RQ} (without a delay, which takes its scheduler)"] = " ".join(starts)
    return observed


def cancelling_what_waits() -> Observed:
    """A call has failed and waits for its next attempt: `cancel()`, asked again and again."""
    observed = {}
    for name, executor, decorate in executors():
        begin()
        queued.set()
        future = executor.submit(decorate(call_a))
        assert failed.wait(TIMEOUT)
        cancelled = False
        while not (cancelled or future.done()):  # its last attempt comes after the delay, if nothing stops it
            cancelled = future.cancel()
        observed[name] = f"`{cancelled}`"
        executor.shutdown()
    return observed


def leaving_a_with_block() -> Observed:
    """20 calls in a `with` block: how many have run at its end."""
    observed = {}
    for name, executor in ((STANDARD, ThreadPoolExecutor(1)), (MORE, more_executors()), (OURS, ours())):
        ran: list[int] = []
        with executor:
            for number in range(20):
                executor.submit(ran.append, number)
        observed[name] = "20" if len(ran) == 20 else "fewer"
    return observed


def shutting_down_what_waits() -> Observed:
    """`shutdown(wait=True)` while a call waits for its next attempt: the future afterwards."""
    observed = {}
    for name, executor, decorate in executors():
        begin()
        queued.set()
        future = executor.submit(decorate(call_a))
        assert failed.wait(TIMEOUT)
        executor.shutdown(wait=True)
        outcome = wait([future], timeout=5 * DELAY)  # longer than the delay; nobody is left who could
        observed[name] = "done" if outcome.done else "pending, for ever"
    return observed


def misspelling_an_option() -> Observed:
    """An option is misspelt (`max_atempts=3`)."""

    def outcome(function: Callable[..., Any]) -> str:
        try:
            made = function(max_atempts=3)
            if callable(made) and not isinstance(made, RetryPolicy):
                made(call_b)  # a decorator; it says so, at the latest, when it is used
        except TypeError:
            return "`TypeError`"
        if isinstance(made, Executor):
            made.shutdown()
        return "ignored"

    return {
        "tenacity": outcome(tenacity.retry),
        "stamina": outcome(lambda **options: stamina.retry(on=OSError, **options)),
        MORE: outcome(Executors.thread_pool(max_workers=1).with_retry),
        OURS: outcome(RetryPolicy),
    }


def idle_threads() -> Observed:
    """4 calls ran at once and all are done; a second later: threads."""
    observed = {}
    makers: dict[str, Callable[[], Executor]] = {
        STANDARD: lambda: ThreadPoolExecutor(4),
        MORE: lambda: more_executors(4),
        OURS: lambda: ours(4, idle_timeout=0.1),
    }
    for name, make in makers.items():
        before = threading.active_count()
        executor = make()
        together = threading.Barrier(4)
        for future in [executor.submit(together.wait, TIMEOUT) for _ in range(4)]:
            future.result(TIMEOUT)
        time.sleep(1)
        if name == OURS:
            eventually(lambda: threading.active_count() == before)  # noqa: B023  # on a loaded machine
        observed[name] = str(threading.active_count() - before)
        executor.shutdown()
    return observed


def calls_in_a_forked_child() -> Observed:
    """The process forks, and the child submits a call."""
    observed = {}
    for name, executor in ((STANDARD, ThreadPoolExecutor(1)), (MORE, more_executors()), (OURS, ours())):
        executor.submit(int).result(TIMEOUT)  # its thread is there
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it is about just this
            child = os.fork()
        if not child:
            try:
                executor.submit(int).result(3)
            except BaseException:
                os._exit(1)
            os._exit(0)
        observed[name] = "never runs" if os.waitpid(child, 0)[1] else "runs"
        executor.shutdown()
    return observed


def failures_nobody_looks_at() -> Observed:
    """A call fails for good, and nobody looks at its future: standard error."""
    program = """
from concurrent.futures import ThreadPoolExecutor
from retrying_executor import RetryingExecutor, RetryPolicy
with {} as executor:
    executor.submit(int, "twelve")
"""
    observed = {}
    for name, made in ((STANDARD, f"{STANDARD}()"), (OURS, f"{OURS}(retry=RetryPolicy(delays=[0]))")):
        done = subprocess.run(
            [sys.executable, "-c", program.format(made)],
            capture_output=True,
            text=True,
            check=True,
            timeout=TIMEOUT,
        )
        observed[name] = "the traceback" if "ValueError" in done.stderr else "nothing"
    return observed


def context_of_the_submitter() -> Observed:
    """A context variable is set where the call is submitted; the call reads it."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    observed = {}
    for name, executor in ((STANDARD, ThreadPoolExecutor(1)), (OURS, ours())):
        with executor:
            executor.submit(int).result(
                TIMEOUT
            )  # its thread is there, as in a program that has run for a while
            token = variable.set("the value")
            observed[name] = executor.submit(variable.get, "not set").result(TIMEOUT)
            variable.reset(token)
    return observed


def being_turned_away() -> Observed:
    """5 attempts; the service says "not now" 7 times before it accepts."""

    def service() -> Callable[[], str]:
        answers = iter([NotNow(after=0.001)] * 7)

        def call() -> str:
            for answer in answers:
                raise answer
            return "accepted"

        return call

    retry = tenacity.retry(stop=tenacity.stop_after_attempt(5), wait=tenacity.wait_fixed(0), reraise=True)
    patient = RetryPolicy(delays=[0] * 4)
    with ThreadPoolExecutor(1) as standard, RetryingExecutor(1, retry=patient) as executor:
        futures = {TENACITY: standard.submit(retry(service())), OURS: executor.submit(service())}
    return {name: "given up" if future.exception() else future.result() for name, future in futures.items()}


SUBMIT_AND_DIE = {
    CELERY: """
import os, sys
sys.path.insert(0, sys.argv[1])
import alternatives
alternatives.celery_in(sys.argv[2])[1].delay(os.path.join(sys.argv[2], "delivered"))
os._exit(1)
""",
    OUTBOX: """
import os, sys
sys.path.insert(0, sys.argv[1])
import alternatives
with alternatives.outbox_in(sys.argv[2]) as database:
    database.execute("INSERT INTO outbox (path) VALUES (?)", (os.path.join(sys.argv[2], "delivered"),))
os._exit(1)
""",
    OURS: """
import os, sys
sys.path.insert(0, sys.argv[1])
import alternatives
executor = alternatives.RetryingExecutor(1)
executor.submit(alternatives.threading.Event().wait)  # the worker is busy
executor.submit(alternatives.deliver, os.path.join(sys.argv[2], "delivered"))
os._exit(1)
""",
}


def deliver(path: str) -> None:
    """Leave a trace."""
    Path(path).touch()


def celery_in(directory: str) -> tuple[Celery, Any]:
    """Return an application whose queue is in a directory, and its task."""
    for name in ("queue", "processed", "control"):
        Path(directory, name).mkdir(exist_ok=True)
    queue = {"data_folder_in": f"{directory}/queue", "data_folder_out": f"{directory}/queue"}
    folders = {
        **queue,
        "processed_folder": f"{directory}/processed",
        "control_folder": f"{directory}/control",
    }
    app = Celery("example", broker="filesystem://", backend="cache+memory://")
    app.conf.broker_transport_options = folders
    return app, app.task(deliver, name="deliver")


def outbox_in(directory: str) -> sqlite3.Connection:
    """Return a database with a table of what is to be delivered."""
    database = sqlite3.connect(Path(directory, "shop.db"))
    database.execute(
        "CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY, path TEXT, sent INTEGER DEFAULT 0)"
    )
    return database


def dying_with_a_call_accepted() -> Observed:
    """The process is killed with a call in the queue, and started again: the call."""
    observed = {}
    for name, program in SUBMIT_AND_DIE.items():
        with tempfile.TemporaryDirectory() as directory:
            command = [sys.executable, "-c", program, str(Path(__file__).parent), directory]
            died = subprocess.run(command, check=False, timeout=TIMEOUT, stderr=subprocess.PIPE, text=True)
            assert died.returncode == 1, died.stderr
            assert not died.stderr, died.stderr
            delivered = Path(directory, "delivered")
            if name == CELERY:
                app, _ = celery_in(directory)
                with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
                    eventually(delivered.exists)
            elif name == OUTBOX:
                with contextlib.closing(outbox_in(directory)) as database, ours() as executor:
                    for _, path, _ in database.execute("SELECT * FROM outbox WHERE NOT sent").fetchall():
                        executor.submit(deliver, path)
            observed[name] = "runs" if delivered.exists() else "lost"
    return observed


def many_at_once() -> Observed:
    """1,000 calls that wait for an answer: how many wait at once, with how many threads."""
    most = 0
    waiting = 0
    lock = threading.Lock()

    async def coroutines() -> int:
        everybody, release = 0, asyncio.Event()

        async def call() -> None:
            nonlocal everybody
            everybody += 1
            if everybody == 1000:
                release.set()
            await asyncio.wait_for(release.wait(), TIMEOUT)

        before = threading.active_count()
        await asyncio.gather(*(call() for _ in range(1000)))
        return threading.active_count() - before + 1

    def call(release: threading.Event) -> None:
        nonlocal most, waiting
        with lock:
            waiting += 1
            most = max(most, waiting)
        assert release.wait(TIMEOUT)
        with lock:
            waiting -= 1

    release = threading.Event()
    with RetryingExecutor(8) as executor:
        for _ in range(1000):
            executor.submit(call, release)
        eventually(lambda: most == 8)
        threads = executor.stats().threads
        release.set()
    return {
        ASYNCIO: f"1,000 with {asyncio.run(coroutines())}",
        f"{OURS}(8), plain functions": f"{most} with {threads}",
        f"{OURS}(1), coroutine functions": f"1,000 with {_threads_of_coroutines(1000)}",
    }


def _threads_of_coroutines(count: int) -> int:
    """Return with how many threads of the executor so many coroutines wait at a time."""
    before, everybody, threads = threading.active_count(), 0, 0
    release = asyncio.Event()

    async def call() -> None:
        nonlocal everybody, threads
        everybody += 1
        if everybody == count:
            threads = threading.active_count() - before
            release.set()
        await asyncio.wait_for(release.wait(), TIMEOUT)

    with RetryingExecutor(1) as executor:
        for future in [executor.submit(call) for _ in range(count)]:
            future.result(TIMEOUT)
    return threads


def coroutine_functions() -> Observed:
    """A coroutine function is submitted: the result."""

    async def call() -> str:
        return "an answer"

    observed = {}
    for name, executor in ((STANDARD, ThreadPoolExecutor(1)), (OURS, ours())):
        with executor:
            result: Any = executor.submit(call).result(TIMEOUT)
            if inspect.iscoroutine(result):
                result.close()
                result = "a coroutine that nobody has run"
            observed[name] = str(result)
    return {**observed, ASYNCIO: asyncio.run(call())}


def order_of_starts_of_coroutines() -> Observed:
    """One coroutine at a time. A fails and waits for its next attempt, B is behind it: the starts."""
    observed = {}

    async def by_hand() -> None:
        semaphore = asyncio.Semaphore(1)

        async def call(function: Callable[[], Coroutine[Any, Any, None]]) -> None:
            async with semaphore:
                await with_tenacity(function)()

        await asyncio.gather(call(coroutine_a), call(coroutine_b))

    begin()
    asyncio.run(by_hand())
    observed[SEMAPHORE] = " ".join(starts)

    async def handle(function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await function()

    begin()
    pool = Aqute(handle, 1, retry_count=1, retry_delay=lambda _attempt, _error: DELAY)
    asyncio.run(pool.process_all([coroutine_a, coroutine_b]))
    observed[AQUTE] = " ".join(starts)

    begin()
    with ours(max_coroutines=1) as executor:
        for future in [executor.submit(coroutine_a), executor.submit(coroutine_b)]:
            future.result(TIMEOUT)
    observed[OURS] = " ".join(starts)
    return observed


def one_of_several_coroutines_fails() -> Observed:
    """Three coroutines wait for an answer, and one of them fails for good: the others."""
    ended = 0

    async def call(fails: bool) -> None:
        nonlocal ended
        await asyncio.sleep(0 if fails else DELAY)
        if fails:
            raise ValueError("no")
        ended += 1

    async def with_gather() -> None:
        await asyncio.gather(*map(call, (True, False, False)), return_exceptions=True)

    async def in_a_group() -> None:
        async with asyncio.TaskGroup() as group:  # not in Python 3.10, as aqute is not
            for fails in (True, False, False):
                group.create_task(call(fails))

    async def with_aiometer() -> None:
        await aiometer.run_on_each(call, (True, False, False), max_at_once=3)

    async def with_aqute() -> None:
        await Aqute(call, 3).process_all((True, False, False))

    def with_ours() -> None:
        with RetryingExecutor(1, retry=None) as executor:
            wait([executor.submit(call, fails) for fails in (True, False, False)], TIMEOUT)

    observed = {}
    for name, run in (
        (f"{GATHER} with return_exceptions", lambda: asyncio.run(with_gather())),
        (TASK_GROUP, lambda: asyncio.run(in_a_group())),
        (AIOMETER, lambda: asyncio.run(with_aiometer())),
        (AQUTE, lambda: asyncio.run(with_aqute())),
        (OURS, with_ours),
    ):
        ended = 0
        with contextlib.suppress(Exception):
            run()
        observed[name] = {2: "go on", 0: "are cancelled"}[ended]
    return observed


def who_makes_the_calls() -> Observed:
    """A call is submitted, and nothing else is started: the call."""
    done = threading.Event()

    def call() -> None:
        done.set()

    app = Celery("example", broker="memory://", backend="cache+memory://")
    sent = app.task(call).delay()
    connection = fakeredis.FakeStrictRedis()
    job = rq.Queue(connection=connection).enqueue("alternatives.call_b")
    broker = StubBroker()
    dramatiq.set_broker(broker)
    dramatiq.actor(call).send()
    time.sleep(1)
    waits = "waits for a worker process"
    observed = {
        CELERY: waits if sent.state == "PENDING" and not done.is_set() else "runs",
        DRAMATIQ: waits if broker.queues["default"].qsize() and not done.is_set() else "runs",
        RQ: waits if job.get_status() == "queued" else "runs",
    }
    with RetryingExecutor(1) as executor:
        executor.submit(call)
    return {**observed, OURS: "runs" if done.is_set() else "waits"}


CLAIMS: tuple[Callable[[], Observed], ...] = (
    order_of_starts,
    cancelling_what_waits,
    shutting_down_what_waits,
    leaving_a_with_block,
    being_turned_away,
    idle_threads,
    calls_in_a_forked_child,
    failures_nobody_looks_at,
    context_of_the_submitter,
    misspelling_an_option,
    who_makes_the_calls,
    dying_with_a_call_accepted,
    many_at_once,
    coroutine_functions,
    order_of_starts_of_coroutines,
    one_of_several_coroutines_fails,
)


def table() -> list[str]:
    """Try everything, and return the lines of the table."""
    lines = ["| what is tried | what happens |", "| --- | --- |"]
    for claim in CLAIMS:
        title = (inspect.getdoc(claim) or "").rstrip(".")
        alike: dict[str, list[str]] = {}
        for who, what in claim().items():
            alike.setdefault(what, []).append(who)
        lines.append(
            f"| {title} | " + "<br>".join(f"**{what}**: {', '.join(alike[what])}" for what in alike) + " |"
        )
    return lines


def versions() -> str:
    """Return what was installed."""
    python = ".".join(map(str, sys.version_info[:3]))
    return f"CPython {python}; " + ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES) + "."


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="fail if the table on the page shows something else"
    )
    parser.add_argument("--write", action="store_true", help="put the table on the page")
    options = parser.parse_args(argv)
    lines = table()
    text = "\n".join([versions(), "", *lines, ""])
    print(text)
    if options.write:
        TABLE.write_text(text, encoding="ascii")
    if options.check and TABLE.read_text(encoding="ascii").splitlines()[2:] != lines:
        raise SystemExit(f"{TABLE.name} shows something else: --write, and look at what the page says")


if __name__ == "__main__":
    import alternatives  # by its name: what a worker of RQ runs has to be importable

    alternatives.main()
