"""The pytest plugin: the fixture ``virtual_executor``.

Every run of pytest imports this where the package is installed. So it is a module of its own, and the package
is imported when a test asks for the fixture.
"""

from __future__ import annotations

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrying_executor.testing import VirtualTimeExecutor


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "virtual_executor(**options): what the fixture of that name makes its VirtualTimeExecutor with, "
        "such as seed=1.",
    )


@pytest.fixture
def virtual_executor(request: pytest.FixtureRequest) -> Iterator[VirtualTimeExecutor]:
    """An executor in virtual time, made with the options of the marker ``virtual_executor``.

    At the end of a test that passed, no call may be pending.
    """
    from retrying_executor.testing import VirtualTimeExecutor

    marker = request.node.get_closest_marker("virtual_executor")
    executor = VirtualTimeExecutor(*marker.args, **marker.kwargs) if marker else VirtualTimeExecutor()
    failed_before = request.session.testsfailed
    yield executor
    pending = executor._virtual.pending()
    executor.shutdown(cancel_futures=True)
    if pending and request.session.testsfailed == failed_before:
        pytest.fail(
            f"calls are pending at the end of the test: {', '.join(pending)}. Wait for them, as with "
            "virtual_executor.drain(), or cancel them, as with shutdown(cancel_futures=True).",
            pytrace=False,
        )
