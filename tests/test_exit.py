"""The end of the interpreter, in real processes."""

from __future__ import annotations

import multiprocessing.process
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import retrying_executor
from conftest import TIMEOUT
from retrying_executor._common import log, unseen
from retrying_executor._common.stdlib import is_main_interpreter

PROLOGUE = """
import os, sys, threading, time
from retrying_executor import RetryingExecutor, RetryPolicy

def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")  # in one piece, from whatever thread
    sys.stdout.flush()

class Flaky:
    def __init__(self, name, failures):
        self.name, self.failures = name, failures

    def __call__(self):
        if self.failures:
            self.failures -= 1
            raise ValueError(self.name)
        say(self.name)

POLICY = RetryPolicy(delays=(0.05,) * 4)
"""


@contextmanager
def started(script: str) -> Iterator[subprocess.Popen[str]]:
    """Start a Python that runs *script*, and see that it is gone in the end."""
    source = str(Path(retrying_executor.__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROLOGUE + textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def run(script: str) -> tuple[int, list[str], str]:
    """Run *script*; return the exit code, the lines of the output in alphabetical order, and the errors."""
    with started(script) as process:
        output, errors = process.communicate(timeout=TIMEOUT)
    return process.returncode, sorted(output.splitlines()), errors


EVERYTHING = """
    executor.submit(Flaky("in backoff", 2))
    executor.submit(lambda: (time.sleep(0.1), say("running")))
    for number in range(3):
        executor.submit(say, "ready", number)
"""
ITS_OUTPUT = ["in backoff", "ready 0", "ready 1", "ready 2", "running"]


@pytest.mark.parametrize("max_workers", [1, 3])
@pytest.mark.parametrize("exit_timeout", [None, 60])
@pytest.mark.parametrize("idle_timeout", [0, None])
def test_the_interpreter_ends_when_every_call_has_its_outcome(
    max_workers: int, exit_timeout: float | None, idle_timeout: float | None
) -> None:
    """Calls running, ready and in backoff are finished first, and nothing is said about it (F4)."""
    arguments = f"{max_workers}, retry=POLICY, exit_timeout={exit_timeout}, idle_timeout={idle_timeout}"
    assert (0, ITS_OUTPUT, "") == run(
        f"executor = RetryingExecutor({arguments})\n{textwrap.dedent(EVERYTHING)}"
    )


ENDINGS = {
    "shut down without waiting": ("executor.shutdown(wait=False)", 0, ""),
    "dropped": ("del executor", 0, ""),
    "exits": ("sys.exit(3)", 3, ""),
    "exits with a message": ("sys.exit('a message')", 1, "a message"),
    "fails": ("raise KeyError('unhandled')", 1, "KeyError: 'unhandled'"),
    "views it": ("executor = executor.with_options(max_attempts=2)", 0, ""),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_however_the_script_ends_the_calls_are_finished(ending: str) -> None:
    """An exit code, an unhandled exception and a dropped executor change nothing for the calls (F4, F5)."""
    last_line, code, error = ENDINGS[ending]
    script = f"executor = RetryingExecutor(2, retry=POLICY)\n{textwrap.dedent(EVERYTHING)}\n{last_line}"
    returned, output, errors = run(script)
    assert (code, ITS_OUTPUT) == (returned, output)
    assert errors.rstrip().endswith(error)
    assert bool(error) == bool(errors)


def test_an_executor_in_a_function_is_finished_too() -> None:
    """Nobody has a reference any more, neither to the executor nor to the futures (F4, F5)."""
    script = f"""
def main():
    executor = RetryingExecutor(2, retry=POLICY)
{EVERYTHING}
main()
"""
    assert (0, ITS_OUTPUT, "") == run(script)


def test_several_executors_are_finished_also_when_they_use_each_other() -> None:
    """Each finishes its calls; a call of one may wait for another's that was submitted before (F4)."""
    script = """
    executors = [RetryingExecutor(1, retry=POLICY) for _ in range(5)]
    first = executors[0].submit(Flaky("first", 2))
    def after(before, name):
        before.result()
        say(name)
    second = executors[3].submit(after, first, "second")
    third = executors[1].submit(after, second, "third")
    """
    assert (0, ["first", "second", "third"], "") == run(script)


def test_os_exit_waits_for_nothing() -> None:
    """os._exit() ends the process on the spot, as it always does (F4)."""
    code, output, errors = run(
        """
        executor = RetryingExecutor(1, retry=lambda _: 3600)
        executor.submit(Flaky("never", 1))
        say("end")
        os._exit(7)
        """
    )
    assert (7, ["end"], "") == (code, output, errors)


@pytest.mark.parametrize("late", ["executor", "view", "RetryingExecutor(1)"])
def test_submit_at_exit_is_refused(late: str) -> None:
    """Once the interpreter finishes the executors, submit() raises the standard error (F4, G1)."""
    script = f"""
    executor = RetryingExecutor(1)
    view = executor.with_options(retry=None)

    def submit_until_refused():
        try:
            while True:
                {late}.submit(list)
                time.sleep(0.001)
        except RuntimeError as error:
            say(error)

    RetryingExecutor(1).submit(submit_until_refused)
    """
    assert (0, ["cannot schedule new futures after interpreter shutdown"], "") == run(script)


def test_submit_from_atexit_is_refused() -> None:
    """Functions of `atexit` run when the executors are finished; none is left waiting (F4)."""
    script = """
    import atexit
    executor = RetryingExecutor(1)

    @atexit.register
    def late():
        for late in (executor, RetryingExecutor(1)):
            try:
                late.submit(say, "ran")
            except RuntimeError as error:
                say(error)

    executor.submit(say, "in time")
    """
    refusal = "cannot schedule new futures after interpreter shutdown"
    assert (0, [refusal, refusal, "in time"], "") == run(script)


def test_exit_is_bounded_although_a_call_hangs() -> None:
    """Past exit_timeout what waits is cancelled, what hangs is reported and cut off (F4, F3)."""
    began_at = time.monotonic()
    code, output, errors = run(
        """
        executor = RetryingExecutor(2, retry=lambda _: 3600, exit_timeout=0.3)
        def hang():
            threading.Event().wait()
        executor.submit(hang)
        executor.submit(say, "done")
        never = executor.submit(Flaky("never", 1))
        never.add_done_callback(lambda future: say("cancelled", future.cancelled()))
        """
    )
    assert time.monotonic() - began_at >= 0.3
    assert (0, ["cancelled True", "done"]) == (code, output)
    assert (
        "shutdown timed out after 0.3 s: 1 waiting call cancelled, still running: __main__.hang"
        == errors.strip()
    )


@pytest.mark.parametrize("listener", ["", "on_event=lambda event: never.wait()"])
def test_a_block_and_the_exit_share_one_timeout(listener: str) -> None:
    """What a block has waited for in vain, the end of the interpreter does not wait for again (F4, F8)."""
    code, output, errors = run(
        f"""
        import atexit
        never = threading.Event()
        executor = RetryingExecutor(1, exit_timeout=2, {listener})
        try:
            with executor:
                executor.submit(never.wait)
                raise ValueError
        except ValueError:
            left_at = time.monotonic()
        atexit.register(lambda: say("in time", time.monotonic() - left_at < 2))
        """
    )
    assert (0, ["in time True"]) == (code, output)
    timed_out = {line for line in errors.splitlines() if line.startswith("shutdown")}
    reason = "shutdown timed out after 2 s: 0 waiting calls cancelled, still running: threading.Event.wait"
    assert {reason} == timed_out


def test_the_exit_timeout_of_one_executor_does_not_bound_another() -> None:
    """Each executor has its own bound; without one the interpreter waits as long as it takes (F4)."""
    script = """
    bounded = RetryingExecutor(1, retry=lambda _: 3600, exit_timeout=0)
    patient = RetryingExecutor(1, retry=POLICY)
    parked = bounded.submit(Flaky("never", 1))
    while parked.due_at is None:  # else the end may come during its attempt, which is not cancelled
        time.sleep(0.001)
    parked.add_done_callback(lambda future: say("cancelled", future.cancelled()))
    patient.submit(Flaky("in the end", 4))
    """
    code, output, errors = run(script)
    assert (0, ["cancelled True", "in the end"]) == (code, output)
    assert "shutdown timed out after 0 s: 1 waiting call cancelled, none still running" == errors.strip()


def test_an_executor_that_waits_does_not_delay_the_end_of_a_bounded_one() -> None:
    """Whatever their order, bounded executors come first: past the bound no attempt starts (F4)."""
    script = """
    patient = [RetryingExecutor(1) for _ in range(5)]
    bounded = RetryingExecutor(1, retry=lambda _: 3600, exit_timeout=0)
    parked = bounded.submit(Flaky("never", 1))
    for one in patient:
        one.submit(lambda: parked.cancelled() or parked.exception())
    """
    code, output, _ = run(script)
    assert (0, []) == (code, output)


def test_executors_may_be_made_while_the_exit_looks_at_those_there_are() -> None:
    """What is registered is read under the lock that registering takes, or reading it might fail (F4)."""
    script = """
    import weakref
    from retrying_executor._common import exits, forks
    from retrying_executor._common.stdlib import is_held

    class Registry(weakref.WeakSet):
        def __iter__(self):
            if sys._getframe(1).f_code.co_filename == exits.__file__:
                say("guarded", is_held(forks.guard))
            return super().__iter__()

    exits._cores, exits._monitors = Registry(), Registry()
    executor = RetryingExecutor(1, on_event=lambda event: None)
    """
    code, output, errors = run(script)
    assert (0, {"guarded True"}, "") == (code, set(output), errors)


def test_exit_does_not_wait_for_an_idle_executor() -> None:
    """Threads at rest go at once, with idle_timeout=None too, and with a view of it around (F4)."""
    script = """
    executor = RetryingExecutor(3, idle_timeout=None)
    view = executor.with_options(max_attempts=2)
    print(list(view.map(abs, range(-3, 0))))
    """
    assert (0, ["[3, 2, 1]"], "") == run(script)


@pytest.mark.skipif(
    (3, 12, 0) <= sys.version_info < (3, 12, 3), reason="3.12.0 to 3.12.2 start no thread once they exit"
)
def test_a_call_may_start_threads_and_use_the_standard_executor_until_it_is_done() -> None:
    """While calls are finished at exit, retries may start worker threads (F4)."""
    script = """
    executor = RetryingExecutor(4, retry=POLICY, idle_timeout=0)
    release = threading.Event()
    def together(barrier=threading.Barrier(4)):
        barrier.wait()
        say("together")
    executor.submit(Flaky("alone", 1))
    flaky = [Flaky("flaky", 1) for _ in range(4)]
    def call(flaky):
        flaky()
        together()
    for one in flaky:
        executor.submit(call, one)
    """
    assert (0, sorted(["alone"] + ["flaky"] * 4 + ["together"] * 4), "") == run(script)


def test_asyncio_gets_its_results_and_ends() -> None:
    """run_in_executor, as default executor and by name; asyncio.run() shuts the default one down (A5, F4)."""
    script = """
    import asyncio
    async def main():
        loop = asyncio.get_running_loop()
        executor = RetryingExecutor(2, retry=POLICY)
        loop.set_default_executor(RetryingExecutor(2, retry=POLICY))
        await asyncio.gather(
            loop.run_in_executor(executor, Flaky("by name", 2)),
            loop.run_in_executor(None, Flaky("default", 2)),
        )
        executor.submit(Flaky("afterwards", 2))
    asyncio.run(main())
    say("end")
    """
    assert (0, ["afterwards", "by name", "default", "end"], "") == run(script)


@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to one process on Windows")
@pytest.mark.parametrize("exit_timeout", [None, 3600])
def test_an_interrupt_while_the_interpreter_waits_ends_the_process(exit_timeout: float | None) -> None:
    """Ctrl-C at exit is not swallowed: as with the standard one, the process stops waiting (F4)."""
    script = f"""
        executor = RetryingExecutor(1, retry=lambda _: 3600, exit_timeout={exit_timeout})
        executor.submit(Flaky("never", 1))
        other = RetryingExecutor(1)
        def tell():
            try:
                while True:
                    other.submit(list)
                    time.sleep(0.001)
            except RuntimeError:
                say("waiting")
        threading.Thread(target=tell, daemon=True).start()
        """
    with started(script) as process:
        assert process.stdout is not None
        assert "waiting\n" == process.stdout.readline()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=TIMEOUT)
    assert "" == output
    assert "KeyboardInterrupt" in errors


def test_a_failure_that_nobody_saw_is_logged_at_the_end_at_the_latest() -> None:
    """Its future is never dropped; a child that was forked does not log it once more (G3)."""
    code, output, errors = run(
        """
        import logging
        logging.basicConfig(stream=sys.stdout, format="%(name)s: %(message)s")
        executor = RetryingExecutor(1, retry=None)
        future = executor.submit(Flaky("boo", 1))
        executor.drain()
        if hasattr(os, "fork"):
            import warnings
            warnings.simplefilter("ignore")
            child = os.fork()
            if child:
                os.waitpid(child, 0)
        """
    )
    assert (0, "") == (code, errors)
    assert 1 == sum(line.startswith("retrying_executor: __main__.Flaky [") for line in output)
    assert 1 == output.count("ValueError: boo")


# -- failures that nobody looked at --------------------------------------------------------------

FAIL_UNSEEN = """
def fail():
    raise ValueError("card declined")

kept = []

def work():
    executor = RetryingExecutor(1, retry=None)
    kept.extend((executor, executor.submit(fail)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_an_unseen_failure_is_logged_in_a_child_of_multiprocessing() -> None:
    """Such a child may end without atexit (G3)."""
    code, _, errors = run(f"""{FAIL_UNSEEN}
import multiprocessing

child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join()
""")
    assert 0 == code
    assert 1 == errors.count("nobody looked at its outcome")
    assert 1 == errors.count("ValueError: card declined")


def test_an_unseen_failure_is_logged_before_the_listener_of_a_queue_stops() -> None:
    """Wherever that was registered to be stopped (G3)."""
    code, _, errors = run(f"""{FAIL_UNSEEN}
import atexit, logging, logging.handlers, queue

records = queue.Queue()
logging.getLogger().addHandler(logging.handlers.QueueHandler(records))
listener = logging.handlers.QueueListener(records, logging.StreamHandler())
listener.start()
atexit.register(listener.stop)
work()
""")
    assert 0 == code
    assert 1 == errors.count("nobody looked at its outcome")


def test_an_unseen_failure_is_logged_although_its_future_goes_away_right_before_the_end() -> None:
    """Once, whether or not the thread that would log it gets that far (G3)."""
    code, _, errors = run(f"""{FAIL_UNSEEN}
work()
kept[0].shutdown()
kept.clear()
""")
    assert 0 == code
    assert 1 == errors.count("nobody looked at its outcome")


def test_a_future_may_go_away_while_a_log_queue_is_locked() -> None:
    """As when the garbage collector runs in there; that lock is not reentrant (F7, G3)."""
    code, lines, errors = run(f"""{FAIL_UNSEEN}
import logging, logging.handlers, queue

records = queue.Queue()
logging.getLogger().addHandler(logging.handlers.QueueHandler(records))
work()
kept[0].shutdown()
with records.mutex:
    kept.clear()
print(records.get(timeout=60).kind)
""")
    assert (0, ["unseen_failure"]) == (code, lines), errors


def test_a_process_that_has_a_parent_logs_what_is_left_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits for no atexit, which may not come (G3)."""
    failure = unseen.UnseenFailure(log.Subject("call", key="", label=None, executor=""), 1, ValueError("no"))
    unseen.report_in_time()
    assert "" == caplog.text
    monkeypatch.setattr(multiprocessing.process, "parent_process", object)
    unseen.report_in_time()
    assert "failed after 1 attempt, and nobody looked at its outcome" in caplog.text
    assert failure._exception is None


def run_in_subinterpreter(script: str, kind: str = "legacy") -> tuple[int, list[str], str]:
    """Run *script* in a subinterpreter of another process, which then ends; return what `run` does."""
    if kind == "isolated" and sys.version_info < (3, 13):
        pytest.skip(
            "there are none before Python 3.12, and its own way to make them is not that of later ones"
        )
    program = f"import sys; sys.path[:] = {sys.path!r}\n{textwrap.dedent(script)}"
    return run(f"""
try:
    import _interpreters as interpreters
    interpreter = interpreters.create({kind!r})
except ImportError:  # before Python 3.13
    import _xxsubinterpreters as interpreters
    interpreter = interpreters.create(isolated=False)
interpreters.run_string(interpreter, {program!r})
interpreters.destroy(interpreter)
print("survived")
""")


@pytest.mark.parametrize("kind", ["isolated", "legacy"])
def test_an_executor_works_in_a_subinterpreter(kind: str) -> None:
    """Its end waits for the threads that it would not wait for elsewhere (F4)."""
    code, lines, errors = run_in_subinterpreter(
        """
        import threading, time
        from retrying_executor import RetryingExecutor
        with RetryingExecutor(1, warn_after=60, exit_timeout=60, on_event=str) as executor:
            print(executor.submit(int, "1").result())
        """,
        kind,
    )
    assert (0, ["1", "survived"]) == (code, lines), errors


@pytest.mark.skipif(sys.version_info < (3, 13), reason="destroy() refuses to end what has threads")
@pytest.mark.parametrize("kind", ["isolated", "legacy"])
def test_a_subinterpreter_does_not_end_before_the_attempts_that_run(kind: str) -> None:
    """When `exit_timeout` is over it waits for them: to cut them off would abort the process (F4)."""
    code, lines, errors = run_in_subinterpreter(
        """
        import threading, time
        time_is_up = threading.Event()
        threading._register_atexit(time_is_up.set)  # called after that of the executor
        from retrying_executor import RetryingExecutor
        executor = RetryingExecutor(1, warn_after=60, exit_timeout=0)
        executor.submit(lambda: (time_is_up.wait(), time.sleep(0.1), print("finished")))
        """,
        kind,
    )
    assert (0, ["finished", "survived"]) == (code, lines), errors


@pytest.mark.parametrize("kind", ["isolated", "legacy"])
def test_a_subinterpreter_may_end_right_after_a_failure_that_nobody_saw(kind: str) -> None:
    """No thread is left behind that would see to it later: it is logged at the end (F4, G3)."""
    code, lines, errors = run_in_subinterpreter(
        """
        import logging
        from retrying_executor import RetryingExecutor
        logging.getLogger().addHandler(handler := logging.Handler())
        handler.emit = lambda record: print(record.kind)
        with RetryingExecutor(1, retry=None) as executor:
            future = executor.submit(divmod, 1, 0)
        del future
        """,
        kind,
    )
    assert (0, ["survived", "unseen_failure"]) == (code, lines), errors


def test_the_end_waits_for_a_thread_that_starts_others() -> None:
    """It has no daemon threads: in a subinterpreter they would abort the process (F4)."""
    code, lines, errors = run("""
from retrying_executor._common.stdlib import start_thread
begun, time_is_up = threading.Event(), threading.Event()
threading._register_atexit(time_is_up.set)
start_thread(lambda: (begun.set(), time_is_up.wait(), time.sleep(0.1), print("finished")))
begun.wait()
""")
    assert (0, ["finished"]) == (code, lines), errors


def test_where_it_cannot_be_known_an_interpreter_is_the_main_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Python 3.13 that is known only where its own tests can be run (F4)."""
    monkeypatch.delattr("_thread._is_main_interpreter", raising=False)
    monkeypatch.setitem(sys.modules, "_xxsubinterpreters", None)
    assert is_main_interpreter()


# -- coroutine functions -------------------------------------------------------------------------


ASYNC = """
    import asyncio

    class Leaving:
        async def task(self):
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                say("task ended")

        async def __call__(self):
            self.kept = asyncio.ensure_future(self.task())
            await asyncio.sleep(0)

    class AsyncFlaky(Flaky):
        async def __call__(self):
            await asyncio.sleep(0.01)
            super().__call__()
"""


def test_coroutines_get_their_outcome() -> None:
    """Retries included, also of one that is submitted last; what calls have left behind is ended (F4, K4)."""
    code, output, errors = run(
        ASYNC
        + """
    executor = RetryingExecutor(1, retry=POLICY, max_coroutines=2)
    leaving = Leaving()  # kept, since asyncio holds tasks only weakly
    executor.submit(leaving)
    for number in range(4):
        executor.submit(AsyncFlaky(f"flaky {number}", number))
    RetryingExecutor().submit(AsyncFlaky("dropped", 1))
    RetryingExecutor().submit(AsyncFlaky("last", 0))
    """
    )
    assert (0, "") == (code, errors)
    assert ["dropped", *(f"flaky {number}" for number in range(4)), "last", "task ended"] == output


def test_coroutines_are_cancelled_when_the_time_for_the_exit_is_up() -> None:
    """Their ``finally`` runs; one that refuses to end is named, and is left (F4, K3)."""
    code, output, errors = run(
        ASYNC
        + """
    class Waiting(Leaving):
        __call__ = Leaving.task

    async def stay():
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                say("stays")

    executor = RetryingExecutor(1, exit_timeout=0.2)
    executor.submit(Waiting())
    stubborn = RetryingExecutor(1, exit_timeout=0.2)
    stubborn.submit(stay)
    """
    )
    assert 0 == code
    assert ["stays", "task ended"] == output
    assert "shutdown timed out after 0.2 s: 1 waiting call cancelled, none still running" in errors
    assert "shutdown timed out after 0.2 s: 1 waiting call cancelled, still running: __main__.stay" in errors
