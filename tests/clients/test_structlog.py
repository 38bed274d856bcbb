"""structlog: what the library logs is rendered as the program's own, and bound context reaches attempts."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from io import StringIO
from typing import Any, NoReturn

import pytest

from calls import Flaky, Meeting
from conftest import TIMEOUT
from observe import eventually
from retrying_executor import RetryingExecutor, RetryPolicy

structlog = pytest.importorskip("structlog", reason="structlog is not installed")


@pytest.fixture
def log() -> Iterator[StringIO]:
    """What is logged, through structlog and the standard library alike, as lines of JSON."""
    stream = StringIO()
    shared = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root, logger = logging.getLogger(), logging.getLogger("retrying_executor")
    levels = root.level, logger.level
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(levels[0])
    structlog.reset_defaults()


def lines(log: StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def errors(log: StringIO) -> list[dict[str, Any]]:
    return [line for line in lines(log) if line["level"] == "error"]


def test_retries_are_rendered_with_their_fields(log: StringIO, executor: RetryingExecutor) -> None:
    """The message as ever, and what it is made of as fields (G3)."""
    executor.with_options(key="1").submit(Flaky(1)).result(TIMEOUT)
    (line,) = lines(log)
    assert (
        "calls.Flaky [1]: attempt 1 failed (ConnectionError: not yet); the next one in 0 s" == line["event"]
    )
    assert ("info", "retrying_executor") == (line["level"], line["logger"])
    expected = {"kind": "retry_scheduled", "call": "calls.Flaky", "attempt": 1, "delay": 0.0}
    assert expected == {name: line[name] for name in expected}


def fail() -> NoReturn:
    raise ValueError("no")


def test_unseen_failures_are_rendered_with_their_traceback(log: StringIO) -> None:
    """As a structure, as those of the program itself (G3)."""
    with RetryingExecutor(1, retry=None) as executor:
        executor.with_options(key="1").submit(fail)
    assert eventually(lambda: errors(log))
    (line,) = errors(log)
    assert "test_structlog.fail [1] failed after 1 attempt, and nobody looked at its outcome" == line["event"]
    assert ("unseen_failure", "test_structlog.fail", 1) == (line["kind"], line["call"], line["attempt"])
    (error,) = line["exception"]
    assert ("ValueError", "no") == (error["exc_type"], error["exc_value"])
    assert "fail" == error["frames"][-1]["name"]


def test_context_that_is_bound_at_submit_is_there_in_every_attempt(
    log: StringIO, executor: RetryingExecutor
) -> None:
    """Whatever is bound later, and what an attempt binds is gone with it (B11)."""
    logger, call = structlog.get_logger("shop"), Flaky(1)

    def deliver() -> None:
        logger.info("delivering")
        structlog.contextvars.bind_contextvars(attempted=True)
        call()

    with structlog.contextvars.bound_contextvars(order=42):
        future = executor.submit(deliver)
    with structlog.contextvars.bound_contextvars(order=43):
        future.result(TIMEOUT)
    expected = {"event": "delivering", "level": "info", "logger": "shop", "order": 42}
    assert [expected] * 2 == [line for line in lines(log) if line["logger"] == "shop"]
    assert [42] == [line["order"] for line in lines(log) if line["logger"] == "retrying_executor"]


def test_context_that_is_bound_at_submit_is_there_in_every_attempt_of_a_coroutine(log: StringIO) -> None:
    """And in what is logged of it, however many are in the thread (B11, K1)."""
    logger, meeting, failed = structlog.get_logger("shop"), Meeting(10), set[int]()

    async def deliver(number: int) -> None:
        structlog.contextvars.bind_contextvars(attempted=number)
        if number not in failed:
            await meeting.all_are_here()
            failed.add(number)
            raise ConnectionError(number)
        logger.info("delivered")

    with RetryingExecutor(1, retry=RetryPolicy(delays=[0])) as executor:
        for number in range(10):
            with structlog.contextvars.bound_contextvars(order=number):
                executor.submit(deliver, number)
    delivered = [line for line in lines(log) if line["event"] == "delivered"]
    assert set(range(10)) == {line["order"] for line in delivered}
    assert all(line["order"] == line["attempted"] for line in delivered)
    retries = [line for line in lines(log) if line.get("kind") == "retry_scheduled"]
    assert 10 == len(retries)
    assert all(line["reason"] == f"ConnectionError: {line['order']}" for line in retries)
    assert not any("attempted" in line for line in retries)  # what an attempt binds is gone with it
