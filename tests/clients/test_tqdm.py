"""tqdm assigns ``executor.submit`` to count what is done, and relies on ``map()`` to go through it."""

from __future__ import annotations

import functools
import io
from concurrent.futures import as_completed

import pytest
from flaky import fails_once

from conftest import TIMEOUT
from retrying_executor import RetryingExecutor, RetryPolicy

tqdm = pytest.importorskip("tqdm", reason="tqdm is not installed")
concurrent = pytest.importorskip("tqdm.contrib.concurrent", reason="tqdm is not installed")


@pytest.fixture(autouse=True)
def _no_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)  # or its thread would stay


def test_map_with_a_progress_bar_retries(policy: RetryPolicy) -> None:
    """What ``thread_map`` does for the standard executor works for this: one step for each call (A5)."""
    bar = io.StringIO()
    create = functools.partial(RetryingExecutor, retry=policy)
    results = concurrent._executor_map(create, fails_once(abs), [-1, -2, -3], max_workers=2, file=bar)
    assert [1, 2, 3] == results
    assert "3/3" in bar.getvalue()


def test_thread_map_takes_it_for_the_standard_one(
    policy: RetryPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``thread_map`` makes its executor by itself: by that name, it can be this one (A1, A5)."""
    create = functools.partial(RetryingExecutor, retry=policy)
    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor", create)
    bar = io.StringIO()
    assert [1, 2, 3] == concurrent.thread_map(fails_once(abs), [-1, -2, -3], max_workers=2, file=bar)
    assert "3/3" in bar.getvalue()


def test_as_completed_steps_when_a_call_is_done(executor: RetryingExecutor) -> None:
    """Not when an attempt has failed: one step for each call (A3, A5)."""
    bar = io.StringIO()
    call = fails_once(abs)
    futures = [executor.submit(call, number) for number in (-1, -2, -3)]
    done = tqdm.tqdm(as_completed(futures, TIMEOUT), total=len(futures), file=bar, mininterval=0)
    assert {1, 2, 3} == {future.result() for future in done}
    assert "3/3" in bar.getvalue()
    assert "4/3" not in bar.getvalue()
    assert 3 == executor.stats().retried


@pytest.mark.parametrize("buffersize", [None, 1])
def test_map_steps_when_a_result_is_taken(executor: RetryingExecutor, buffersize: int | None) -> None:
    """In the order of the arguments, whichever is done first (A2, A5)."""
    bar = io.StringIO()
    results = executor.map(fails_once(abs), [-1, -2, -3], buffersize=buffersize)
    assert [1, 2, 3] == list(tqdm.tqdm(results, total=3, file=bar, mininterval=0))
    assert "3/3" in bar.getvalue()
    assert 3 == executor.stats().retried
