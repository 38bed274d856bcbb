"""google-cloud-pubsub's ThreadScheduler runs the callbacks of a subscriber in an executor given to it."""

from __future__ import annotations

from threading import Event
from types import SimpleNamespace

import pytest

from conftest import TIMEOUT
from retrying_executor import RetryingExecutor, RetryPolicy

scheduler = pytest.importorskip(
    "google.cloud.pubsub_v1.subscriber.scheduler", reason="google-cloud-pubsub is not installed"
)


def test_callbacks_are_retried() -> None:
    """What it schedules is a call like any other (A5)."""
    messages: list[str] = []
    acknowledged = Event()

    def callback(message: str) -> None:
        messages.append(message)
        if len(messages) < 3:
            raise ConnectionError("not yet")
        acknowledged.set()

    executor = RetryingExecutor(2, retry=RetryPolicy(delays=[0, 0]))
    subscriber = scheduler.ThreadScheduler(executor=executor)
    subscriber.schedule(callback, "message")
    assert acknowledged.wait(TIMEOUT)
    assert [] == subscriber.shutdown(await_msg_callbacks=True)
    assert ["message"] * 3 == messages
    with pytest.warns(RuntimeWarning, match="after executor shutdown"):
        subscriber.schedule(callback, "late")


@pytest.mark.parametrize("version", [(3, 13), (3, 14)], ids=str)
def test_messages_that_no_callback_has_seen_are_given_back(
    version: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order, and only those; where it finds them depends on the version of Python (A5)."""
    monkeypatch.setattr(scheduler, "sys", SimpleNamespace(version_info=version))
    started, release = Event(), Event()
    seen: list[str] = []

    def callback(message: str) -> None:
        seen.append(message)
        started.set()
        assert release.wait(TIMEOUT)

    executor = RetryingExecutor(1)
    subscriber = scheduler.ThreadScheduler(executor=executor)
    for message in ("running", "first", "second", "third"):
        subscriber.schedule(callback, message)
    assert started.wait(TIMEOUT)
    given_back = subscriber.shutdown(await_msg_callbacks=False)
    release.set()
    executor.shutdown()
    assert ["first", "second", "third"] == given_back
    assert ["running"] == seen
    assert (1, 3) == (executor.stats().succeeded, executor.stats().cancelled)
