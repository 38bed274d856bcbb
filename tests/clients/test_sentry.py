"""Sentry: events have the context of the call that they are about, and of no other."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, NoReturn

import pytest

from calls import Meeting
from conftest import TIMEOUT
from observe import eventually
from retrying_executor import RetryingExecutor

sentry_sdk = pytest.importorskip("sentry_sdk", reason="sentry-sdk is not installed")

from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from retrying_executor.sentry import RetryingExecutorIntegration

Event = dict[str, Any]


class Kept(Transport):
    """A transport that keeps what it is to send."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.events += [dict(event) for event in [envelope.get_event()] if event is not None]

    def messages(self) -> dict[str, dict[str, str]]:
        """Return the tags of the events, by message."""
        return {event["message"]: event.get("tags", {}) for event in self.events if "message" in event}


@pytest.fixture(params=[True, False], ids=["integrated", "plain"])
def integrated(request: pytest.FixtureRequest) -> bool:
    """With the integration, and without."""
    return bool(request.param)


@pytest.fixture
def sentry(integrated: bool) -> Iterator[Kept]:
    """What is sent to Sentry; its default integrations are on, those that patch other libraries are not."""
    kept = Kept()
    sentry_sdk.init(
        release="1.0",
        dsn="https://key@127.0.0.1/1",
        transport=kept,
        auto_enabling_integrations=False,
        auto_session_tracking=False,
        integrations=[RetryingExecutorIntegration()] if integrated else [],
    )
    with sentry_sdk.isolation_scope():
        yield kept
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)


isolated = pytest.mark.parametrize("integrated", [True], indirect=True, ids=["integrated"])


def test_an_attempt_has_the_scope_of_its_submitter(sentry: Kept, executor: RetryingExecutor) -> None:
    """Tags that were set around ``submit()`` are on the events of every attempt, by views too (B11)."""
    attempts: list[int] = []

    def call() -> None:
        attempts.append(1)
        sentry_sdk.capture_message(f"attempt {len(attempts)}")
        if len(attempts) < 2:
            raise ConnectionError("not yet")

    with sentry_sdk.new_scope() as scope:
        scope.set_tag("order", "42")
        sentry_sdk.get_isolation_scope().set_tag("user", "ann")
        future = executor.with_options(max_attempts=2).submit(call)
    future.result(TIMEOUT)
    tags = {"order": "42", "user": "ann"}
    assert {"attempt 1": tags, "attempt 2": tags} == sentry.messages()


def test_one_call_does_not_have_the_scope_of_another(sentry: Kept) -> None:
    """Though both run in the same thread, which the first one started (B11)."""
    with RetryingExecutor(1) as executor:
        for name in ("first", "second"):
            with sentry_sdk.isolation_scope() as scope:
                scope.set_tag(name, "set")
                executor.submit(sentry_sdk.capture_message, name).result(TIMEOUT)
    assert {"first": {"first": "set"}, "second": {"second": "set"}} == sentry.messages()


@isolated
def test_a_call_has_the_scope_as_it_was(sentry: Kept, executor: RetryingExecutor) -> None:
    """What the submitter sets afterwards is about something else."""
    for number in range(3):
        sentry_sdk.set_tag("order", str(number))
        executor.submit(sentry_sdk.capture_message, f"order {number}")
    assert executor.drain(TIMEOUT)
    assert {f"order {number}": {"order": str(number)} for number in range(3)} == sentry.messages()


@isolated
def test_what_an_attempt_sets_is_its_own(sentry: Kept, executor: RetryingExecutor) -> None:
    """Neither the next attempt has it nor the submitter nor another call."""
    attempts: list[int] = []

    def call() -> None:
        attempts.append(1)
        sentry_sdk.capture_message(f"attempt {len(attempts)}")
        sentry_sdk.set_tag("attempt", "failed")
        sentry_sdk.get_current_scope().set_tag("more", "so")
        if len(attempts) < 2:
            raise ConnectionError("not yet")

    executor.submit(call).result(TIMEOUT)
    executor.submit(sentry_sdk.capture_message, "another call").result(TIMEOUT)
    sentry_sdk.capture_message("the submitter")
    assert ["attempt 1", "attempt 2", "another call", "the submitter"] == list(sentry.messages())
    assert [{}] * 4 == list(sentry.messages().values())


@isolated
def test_coroutines_in_one_thread_have_scopes_of_their_own(sentry: Kept, executor: RetryingExecutor) -> None:
    """Also where one goes on after others; and what is called in that thread later has none of it (K1)."""
    meeting = Meeting(20)

    async def call(number: int) -> None:
        sentry_sdk.set_tag(f"set by {number}", "yes")
        sentry_sdk.get_current_scope().set_tag("current", str(number))
        await meeting.all_are_here()
        sentry_sdk.capture_message(f"call {number}")

    async def call_later() -> None:
        sentry_sdk.capture_message("later")

    with sentry_sdk.isolation_scope() as scope:
        for number in range(20):
            scope.set_tag("order", str(number))
            executor.with_options(key=str(number)).submit(call, number)
        assert executor.drain(TIMEOUT)
    executor.submit(call_later).result(TIMEOUT)
    expected: dict[str, dict[str, str]] = {
        f"call {number}": {
            "order": str(number),
            "current": str(number),
            "retrying_executor.key": str(number),
            f"set by {number}": "yes",
        }
        for number in range(20)
    }
    assert {**expected, "later": {}} == sentry.messages()


@isolated
def test_what_an_attempt_of_a_coroutine_sets_is_its_own(sentry: Kept, executor: RetryingExecutor) -> None:
    """The next attempt does not have it; a task that it starts does (B11, K1)."""
    attempts: list[int] = []

    async def capture(message: str) -> None:
        sentry_sdk.capture_message(message)

    async def call() -> None:
        attempts.append(1)
        await asyncio.sleep(0)
        sentry_sdk.capture_message(f"attempt {len(attempts)}")
        sentry_sdk.set_tag("attempt", str(len(attempts)))
        await asyncio.create_task(capture(f"task {len(attempts)}"))
        if len(attempts) < 2:
            raise TypeError("not yet")

    executor.submit(call).result(TIMEOUT)
    assert {
        "attempt 1": {},
        "task 1": {"attempt": "1"},
        "attempt 2": {},
        "task 2": {"attempt": "2"},
    } == sentry.messages()


def fail(number: int) -> NoReturn:
    raise ValueError(f"no {number}")


def test_a_failure_that_nobody_looked_at_is_an_event(sentry: Kept) -> None:
    """With its traceback, down to the line that raised (G3)."""
    with RetryingExecutor(1, retry=None) as executor:
        executor.with_options(key="1").submit(fail, 3)
    assert eventually(lambda: sentry.events)
    (event,) = sentry.events
    assert ("error", "retrying_executor") == (event["level"], event["logger"])
    logged = event["logentry"]["message"] % tuple(event["logentry"]["params"])
    assert "test_sentry.fail [1] failed after 1 attempt, and nobody looked at its outcome" == logged
    (error,) = event["exception"]["values"]
    assert ("ValueError", "no 3") == (error["type"], error["value"])
    last = error["stacktrace"]["frames"][-1]
    assert ("fail", "3") == (last["function"], last["vars"]["number"])


@isolated
@pytest.mark.parametrize("inherits", [True, False])
def test_label_and_key_are_tags(sentry: Kept, *, inherits: bool) -> None:
    """On what attempts report, and on failures that nobody looked at; not on what others report (B13, G3)."""
    with RetryingExecutor(1, retry=None, inherit_context=inherits) as executor:
        view = executor.with_options(label="invoice 17", key="order-17")
        view.submit(sentry_sdk.capture_message, "both").result(TIMEOUT)
        view.with_options(key=None).submit(sentry_sdk.capture_message, "label").result(TIMEOUT)
        executor.submit(sentry_sdk.capture_message, "none").result(TIMEOUT)
        sentry_sdk.capture_message("the submitter")
        both = {"retrying_executor.label": "invoice 17", "retrying_executor.key": "order-17"}
        label = {"retrying_executor.label": "invoice 17"}
        assert {"both": both, "label": label, "none": {}, "the submitter": {}} == sentry.messages()
        if inherits:
            view.submit(fail, 3)
            assert eventually(lambda: 5 == len(sentry.events))
            assert both == sentry.events[-1]["tags"]


PROGRAM = """
import sentry_sdk
from sentry_sdk.transport import Transport

from retrying_executor import RetryingExecutor
from retrying_executor.sentry import RetryingExecutorIntegration


class Printed(Transport):
    def capture_envelope(self, envelope):
        event = envelope.get_event()
        if event is not None:
            print(event["exception"]["values"][0]["type"])


sentry_sdk.init(
    release="1.0",
    dsn="https://key@127.0.0.1/1",
    transport=Printed(),
    auto_enabling_integrations=False,
    integrations=[RetryingExecutorIntegration()],
)
executor = RetryingExecutor(retry=None)
future = executor.submit(int, "no")
"""


def test_failures_are_events_even_at_the_end_of_the_interpreter() -> None:
    """Those whose futures are still there are logged before the client closes (G3)."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, timeout=TIMEOUT, check=True, encoding="utf-8"
    )
    assert "ValueError" == done.stdout.strip()


def test_a_failure_that_nobody_looked_at_has_the_scope_of_its_call(sentry: Kept) -> None:
    """Not that of whoever started the thread in which it is noticed (B11, G3)."""

    def fail_too(number: int) -> NoReturn:
        raise LookupError(number)

    with RetryingExecutor(1, retry=None) as executor:
        for name, fn in (("first", abs), ("second", fail_too)):
            with sentry_sdk.isolation_scope() as scope:
                scope.set_tag("submitter", name)
                executor.submit(fn, 1)
    assert eventually(lambda: sentry.events)
    assert [{"submitter": "second"}] == [event["tags"] for event in sentry.events]


@pytest.mark.usefixtures("sentry")
def test_submit_takes_what_it_takes(executor: RetryingExecutor, caplog: pytest.LogCaptureFixture) -> None:
    """It reserves no name, what is not callable is refused, and logs name the function (A2, G3)."""
    caplog.set_level(logging.INFO, "retrying_executor")
    names = dict.fromkeys(["self", "fn", "args", "kwargs"], 1)
    assert names == executor.submit(dict, **names).result(TIMEOUT)
    nonsense: Any = None
    with pytest.raises(TypeError, match=r"^fn is not callable: None"):
        executor.submit(nonsense)
    assert isinstance(executor.with_options(max_attempts=2).submit(fail, 1).exception(TIMEOUT), ValueError)
    assert ": attempt 1 failed" in caplog.text


@pytest.mark.usefixtures("sentry")
def test_what_is_submitted_is_called_itself(executor: RetryingExecutor) -> None:
    """Even if it is a subclass of partial, inside of which others look (A1)."""

    class Polite(partial["Any"]):
        def __call__(self, /, *args: Any, **kwargs: Any) -> str:
            return f"here you are: {super().__call__(*args, **kwargs)}"

    assert "here you are: 7" == executor.submit(Polite(int, "7")).result(TIMEOUT)


@pytest.mark.usefixtures("sentry")
def test_a_call_whose_arguments_do_not_fit_is_not_retried(executor: RetryingExecutor) -> None:
    """As without the integration: it could not even be made (U1)."""
    future = executor.submit(lambda _: None)
    assert isinstance(future.exception(TIMEOUT), TypeError)
    assert 1 == future.attempts
