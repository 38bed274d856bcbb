"""The pytest plugin: the fixture ``virtual_executor``.

Every run of pytest imports this where the package is installed. So it is a module of its own, and the package
is imported when a test asks for the fixture.
"""

from __future__ import annotations

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from retrying_executor.testing import VirtualTimeExecutor


_has_passed = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "virtual_executor(**options): what the fixture of that name makes its VirtualTimeExecutor with, "
        "such as seed=1.",
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Note for the fixture whether the test has passed."""
    outcome: Any = yield
    if call.when == "call":
        item.stash[_has_passed] = outcome.get_result().outcome == "passed"


@pytest.fixture
def virtual_executor(request: pytest.FixtureRequest) -> Iterator[VirtualTimeExecutor]:
    """An executor in virtual time, made with the options of the marker ``virtual_executor``.

    At the end of a test that passed, no call may be pending.
    """
    from retrying_executor.testing import VirtualTimeExecutor

    marker = request.node.get_closest_marker("virtual_executor")
    executor = VirtualTimeExecutor(*marker.args, **marker.kwargs) if marker else VirtualTimeExecutor()
    yield executor
    pending = executor._pending()
    executor.shutdown(cancel_futures=True, timeout=0)  # or a coroutine that nothing wakes would be an error
    if pending and request.node.stash.get(_has_passed, False):
        pytest.fail(
            f"calls are pending at the end of the test: {', '.join(pending)}. Wait for them, as with "
            "virtual_executor.drain(), or cancel them, as with shutdown(cancel_futures=True).",
            pytrace=False,
        )
