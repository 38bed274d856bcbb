"""tqdm assigns ``executor.submit`` to count what is done, and relies on ``map()`` to go through it."""

from __future__ import annotations

import functools
import io

import pytest
from flaky import fails_once

from retrying_executor import RetryingExecutor, RetryPolicy

tqdm = pytest.importorskip("tqdm", reason="tqdm is not installed")
concurrent = pytest.importorskip("tqdm.contrib.concurrent", reason="tqdm is not installed")


def test_map_with_a_progress_bar_retries(policy: RetryPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``thread_map`` does for the standard executor works for this: one step for each call (A5)."""
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)  # or its thread would stay
    bar = io.StringIO()
    create = functools.partial(RetryingExecutor, retry=policy)
    results = concurrent._executor_map(create, fails_once(abs), [-1, -2, -3], max_workers=2, file=bar)
    assert [1, 2, 3] == results
    assert "3/3" in bar.getvalue()
