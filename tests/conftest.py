"""What tests get: an executor, silence, and the check that nothing is left behind."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from importlib import metadata

import hypothesis
import pytest

from retrying_executor import RetryingExecutor, RetryPolicy
from retrying_executor._common import log
from retrying_executor._common.log import Repeats
from retrying_executor.testing import VirtualTimeExecutor

pytest.register_assert_rewrite("forks", "deliveries", "processes")

for name in ("http_proxy", "https_proxy", "all_proxy"):  # all servers of the tests are on this machine
    os.environ.pop(name, None)
    os.environ.pop(name.upper(), None)
os.environ["PYTHON_COLORS"] = "0"  # tracebacks of processes that the tests start are compared
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs in the background ignores it

# However slow the machine is, that proves nothing.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")

IS_INSTALLED = "retrying_executor" in {point.name for point in metadata.entry_points(group="pytest11")}
"""Whether pytest finds the plugin by itself; in a source tree on the path it does not."""

pytest_plugins = [] if IS_INSTALLED else ["pytest_retrying_executor"]

TIMEOUT = 60.0
"""How long a test waits for what is sure to happen, in seconds; generous, for loaded machines."""


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Every thread that a test started, directly or not, ends."""
    from observe import eventually, see_to_reports  # which need what is below

    before = set(threading.enumerate())
    yield
    see_to_reports()  # or the next test would see them
    eventually(lambda: before.issuperset(threading.enumerate()))  # which knows those that are about to start
    assert [] == [thread for thread in threading.enumerate() if thread not in before]


@pytest.fixture(autouse=True)
def _nothing_was_logged_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """No message is held back since the like of it was logged by other tests."""
    monkeypatch.setattr(log, "_repeats", Repeats())


both = pytest.mark.parametrize("_kind", ["threads", "virtual"], indirect=True)
"""Marks a test that is run twice: with threads, and in virtual time.

There, the attempts are made in the middle of the test, where it waits for an outcome. So tests in which a
call waits for an event that the test sets afterwards, or which look at threads, are not marked.
"""


@pytest.fixture(autouse=True)
def _kind(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the module of the test, and the fixtures here, call ``RetryingExecutor``."""
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # not that of the test, which has to end before other fixtures
        if getattr(request, "param", "threads") == "virtual":
            for module in (request.module, sys.modules[__name__]):
                patch.setattr(module, "RetryingExecutor", VirtualTimeExecutor, raising=False)
        yield


@pytest.fixture
def policy() -> RetryPolicy:
    """Five attempts, and no time lost in between."""
    return RetryPolicy(delays=(0, 0, 0, 0))


@pytest.fixture
def executor(policy: RetryPolicy) -> Iterator[RetryingExecutor]:
    """An executor with four workers that retries at once, up to five attempts."""
    with RetryingExecutor(4, retry=policy) as executor:
        yield executor


@pytest.fixture
def quiet() -> Iterator[None]:
    """Keep what the library logs from the output."""
    logger = logging.getLogger("retrying_executor")
    logger.propagate = False
    handler = logging.NullHandler()
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    logger.propagate = True


def pytest_configure(config: pytest.Config) -> None:
    """Let tests drop answers that they make up: newer Pythons want them closed, connected or not."""
    config.addinivalue_line("filterwarnings", "ignore:Implicitly cleaning up <HTTPError:ResourceWarning")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many schedules and programs were run, in how many seconds, and what was left out."""
    counts = [
        (name, int(value), report)
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name in ("schedules", "programs")
    ]
    lines = [
        f"{value:12,} {name} in {report.duration:.1f} s: {report.nodeid}\n"
        for name, value, report in counts
        if os.environ.get("SCHEDULES") != "brief"  # there the sums will do
    ]
    totals = {name: sum(value for other, value, _ in counts if other == name) for name, _, _ in counts}
    seconds = sum(report.duration for name, _, report in counts if name == "schedules")
    lines += [f"{total:12,} {name} in all, in {seconds:.0f} s\n" for name, total in totals.items()]
    lines += [f"left out: {what}\n" for what in os.environ.get("LEFT_OUT", "").split(" | ") if what]
    terminalreporter.write("".join(lines))
