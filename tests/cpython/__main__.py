"""CPython's own tests of its thread pool, with `RetryingExecutor` in its place (A4).

``python -m tests.cpython`` runs them with the default policy, ``python -m tests.cpython --no-retry``
with ``retry=None``. Ends with 0 if all is well, with 1 if not, and with 77 if there was nothing to
run because the interpreter does not ship its tests; with ``--if-shipped`` that is 0 too.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import pkgutil
import sys
import unittest
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from retrying_executor import RetryingExecutor

PACKAGE = "test.test_concurrent_futures"
SKIPPED = 77

PRIVATE = {
    "ThreadPoolExecutorTest.test_idle_thread_reuse": "counts the private _threads",
    "ThreadPoolExecutorTest.test_saturation": "counts the private _threads",
    "ThreadPoolFailingInitializerTest.test_initializer": "waits for the private _broken",
    "ThreadPoolShutdownTest.test_thread_names_assigned": "waits for nothing but the private _threads",
    "ThreadPoolShutdownTest.test_thread_names_default": "waits for nothing but the private _threads",
    "ThreadPoolShutdownTest.test_threads_terminate": "counts the private _threads",
}
"""What is never run, and why; tests/test_drop_in.py checks the same from outside."""

TIMED = {
    "ThreadPoolWaitTests.test_first_exception": "expects a failure to be final within 1.5 s",
    "ThreadPoolWaitTests.test_first_exception_some_already_complete": "expects a failure to be final at once",
}
"""What is not run where failures are retried, and why; from Python 3.14 on nothing is timed."""

IN_A_CHILD = """
import concurrent.futures, functools, sys
sys.path[:] = {path!r}
from retrying_executor import RetryingExecutor
concurrent.futures.ThreadPoolExecutor = functools.partial(RetryingExecutor, **{keywords!r})
"""
"""Put before the scripts that the tests run in processes of their own."""


def swap(keywords: dict[str, Any]) -> None:
    """Put our executor where the tests, once imported, look for the standard one."""
    from test.support import script_helper

    def create(self: RetryingExecutor, *args: Any, **kwargs: Any) -> None:
        RetryingExecutor.__init__(self, *args, **keywords, **kwargs)

    run, prefix = script_helper.assert_python_ok, IN_A_CHILD.format(path=sys.path, keywords=keywords)
    script_helper.assert_python_ok = lambda flag, script: run(flag, prefix + script)
    swapped = type("ThreadPoolExecutor", (RetryingExecutor,), {"__init__": create})
    concurrent.futures.ThreadPoolExecutor = swapped  # type: ignore[misc]  # that is the point


def thread_tests() -> dict[str, unittest.TestCase]:
    """Collect the tests: all in one module up to Python 3.11, in one for each subject from then on."""
    package = import_module(PACKAGE)
    names = [info.name for info in pkgutil.iter_modules(getattr(package, "__path__", ()), f"{PACKAGE}.")]
    return {
        f"{name}.{method}": cls(method)
        for module in (package, *map(import_module, names))
        for name, cls in vars(module).items()
        if name.startswith("ThreadPool") and issubclass(cls, unittest.TestCase)
        for method in unittest.defaultTestLoader.getTestCaseNames(cls)
    }


def main() -> int:
    """Run the tests, and say what was run and what was left out."""
    parser = argparse.ArgumentParser(prog="python -m tests.cpython")
    parser.add_argument("--no-retry", action="store_true", help="run with retry=None")
    parser.add_argument("--if-shipped", action="store_true", help="end with 0 if there is nothing to run")
    options = parser.parse_args()
    runner = unittest.TextTestRunner(buffer=True)
    say = runner.stream.writeln
    if find_spec("test") is None or find_spec(PACKAGE) is None:
        say(f"SKIPPED: {sys.executable} does not ship {PACKAGE}")
        return 0 if options.if_shipped else SKIPPED

    swap({"retry": None} if options.no_retry else {})
    left_out = dict(PRIVATE)
    if not options.no_retry and sys.version_info < (3, 14):
        left_out.update(TIMED)
    tests = thread_tests()
    unknown = (PRIVATE.keys() | TIMED.keys()) - tests.keys()
    chosen = [test for name, test in tests.items() if name not in left_out]
    result = runner.run(unittest.TestSuite(chosen))

    say(f"{'without retries' if options.no_retry else 'with the default policy'}, Python {sys.version}:")
    say(f"run: {result.testsRun}, skipped by themselves: {len(result.skipped)}, left out: {len(left_out)}")
    for name, reason in left_out.items():
        say(f"  left out: {name}: {reason}")
    for name in sorted(unknown):
        say(f"ERROR: {name} is to be left out, but there is no such test")
    well = result.wasSuccessful() and chosen and not unknown
    return 0 if well else 1


sys.exit(main())
