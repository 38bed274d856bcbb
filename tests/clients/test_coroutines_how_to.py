"""The page about coroutine functions: its examples run, against a server on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import HANG, OK, Answer, Scripted, scripted
from verdicts import library

import pages
from conftest import TIMEOUT
from observe import eventually

PAGE = pages.HOW_TO / "coroutines.md"
BATCH = "A batch of 10,000 requests to an LLM API"
AT_ONCE = 8


@pytest.fixture
def server() -> Iterator[Scripted]:
    """A server that does as it is told."""
    with scripted() as server:
        yield server


def test_examples_do_what_the_page_says(
    server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request for each call, and one more for each that was refused; clients are closed (K1, K2)."""
    library("httpx")
    library("aiohttp")
    monkeypatch.chdir(tmp_path)
    server.plans["/orders/7"] = [Answer(429, {"Retry-After": "0"})]
    server.plans["/prices/1"] = [Answer(503)]
    text = pages.text_of(PAGE)
    begin, _ = pages.section_of(text, BATCH)
    page = tmp_path / "coroutines.md"
    page.write_text(text[:begin], "utf-8")
    program = pages.run(page, {"https://shop.example": server.url, "range(1000)": "range(100)"})
    assert 100 == len(program["orders"])
    assert 2 == len(program["prices"])
    assert {"/orders/7": 2, "/prices/1": 2} == {
        key: count for key, count in server.asked.items() if count > 1
    }
    assert eventually(lambda: not server.open)


def test_a_batch_goes_on_after_its_process_was_killed(server: Scripted, tmp_path: Path) -> None:
    """Each text has an answer, and was asked for once, but for what was under way (K1, J1, U2, U4)."""
    library("openai")
    functions, script = pages.python_on(PAGE)[-2:]
    assert "max_concurrency=500" in script
    assert "range(10_000)" in script
    script = script.replace("max_concurrency=500", f"max_concurrency={AT_ONCE}")
    script = script.replace("range(10_000)", "range(100)")
    (tmp_path / "summaries.py").write_text(functions, "utf-8")
    (tmp_path / "batch.py").write_text(script, "utf-8")
    server.plans["gpt-4o-mini"] = [*[OK] * 30, *[HANG] * AT_ONCE]
    with started(tmp_path, server) as batch:
        assert eventually(lambda: server.asked["gpt-4o-mini"] == 30 + AT_ONCE)
        batch.kill()
        batch.communicate(timeout=TIMEOUT)
    assert 30 == len([*tmp_path.glob("answers/*.txt")])
    server.plans["gpt-4o-mini"] = [Answer(429, {"retry-after-ms": "50"})] * 2
    with started(tmp_path, server) as batch:
        _, errors = batch.communicate(timeout=TIMEOUT)
    assert 0 == batch.returncode, errors
    assert 100 == len([*tmp_path.glob("answers/*.txt")])
    assert 30 + AT_ONCE + 70 + 2 == server.asked["gpt-4o-mini"]


def started(directory: Path, server: Scripted) -> subprocess.Popen[str]:
    """Start the batch in a process of its own."""
    env = {**os.environ, "OPENAI_API_KEY": "test", "OPENAI_BASE_URL": server.url, "NO_PROXY": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, "batch.py"],
        cwd=directory,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
