"""What the explanation shows: its scripts are run, with little to do, and its tables are theirs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import TIMEOUT

PAGES = Path(__file__).parents[2] / "docs" / "explanation"
FLEET = ("--processes", "50", "--calls", "20", "--outage", "8", "--down-at", "2")
WITH_UPSTREAM, WITHOUT, LOOP = 0, 1, 2


def run(script: str, path: Path, *options: str) -> tuple[str, list[dict[str, Any]]]:
    """Run a script; return the table that it printed, and what it wrote to *path*."""
    command = [sys.executable, str(PAGES / script), "--json", str(path), *options]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False, encoding="utf-8")
    assert 0 == done.returncode, done.stderr
    return done.stdout, json.loads(path.read_text(encoding="ascii"))


@pytest.fixture(scope="module")
def outage(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    """What 80 calls make of an outage of two seconds."""
    path = tmp_path_factory.mktemp("outage") / "outage.json"
    return run("outage.py", path, "--calls", "80", "--outage", "2", "--workers", "4")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    """What becomes of the calls of 50 processes."""
    return run("fleet.py", tmp_path_factory.mktemp("fleet") / "fleet.json", *FLEET)


def test_an_upstream_brings_all_calls_through_an_outage(outage: tuple[str, list[dict[str, Any]]]) -> None:
    """Three attempts each are enough, since none is used up while the service is down (U5)."""
    _, measured = outage
    assert (80, 0) == (measured[WITH_UPSTREAM]["delivered"], measured[WITH_UPSTREAM]["lost"])
    assert measured[WITH_UPSTREAM]["last_delivery"] > measured[WITH_UPSTREAM]["down"][1], "it was never down"


def test_a_service_that_is_down_gets_one_probe_at_a_time(outage: tuple[str, list[dict[str, Any]]]) -> None:
    """Once the hold has begun; the probes are few (U5)."""
    _, measured = outage
    assert 1 >= measured[WITH_UPSTREAM]["at_once"]
    assert measured[WITH_UPSTREAM]["while_down"] < measured[WITHOUT]["while_down"]


@pytest.mark.parametrize("strategy", [WITH_UPSTREAM, WITHOUT, LOOP])
def test_every_request_of_the_outage_is_counted(
    strategy: int, outage: tuple[str, list[dict[str, Any]]]
) -> None:
    """Each call is delivered or lost; a request is for a delivery, or was made while it was down (G1)."""
    one = outage[1][strategy]
    assert 80 == one["delivered"] + one["lost"]
    assert sum(one["arrivals"]) == one["delivered"] + one["while_down"]
    assert one["while_down"] >= 3 * one["lost"], "a call was given up before its third attempt"


def test_nothing_is_lost_where_services_hint_or_are_held(fleet: tuple[str, list[dict[str, Any]]]) -> None:
    """What is asked to wait is not counted, nor is a probe (U3, U5)."""
    lost = {one["strategy"]: one["lost"] for one in fleet[1]}
    no_jitter, full_jitter, *others = lost.values()
    assert no_jitter > 0
    assert full_jitter > 0
    assert [0, 0, 0, 0] == others


def test_jitter_and_holds_spread_the_load(fleet: tuple[str, list[dict[str, Any]]]) -> None:
    """Callers that were told the same do not come back together (U2); of those held, few ask (U5)."""
    peak = {one["strategy"]: one["peak"] for one in fleet[1]}
    wasted = {one["strategy"]: one["wasted"] for one in fleet[1]}
    assert peak["full jitter"] < peak["no jitter"]
    assert peak["Retry-After, with jitter"] < peak["Retry-After, no jitter"]
    assert wasted["an Upstream: holds, probe, ramp"] < wasted["full jitter"] / 2
    assert wasted["an Upstream and Retry-After"] < wasted["Retry-After, with jitter"] / 2


def test_the_simulation_gives_the_same_figures_every_time(
    fleet: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Whatever is random is drawn from the seed."""
    assert fleet == run("fleet.py", tmp_path / "again.json", *FLEET)
    assert fleet != run("fleet.py", tmp_path / "other.json", *FLEET, "--seed", "2")


def test_the_page_shows_tables_of_the_scripts(
    outage: tuple[str, list[dict[str, Any]]], fleet: tuple[str, list[dict[str, Any]]]
) -> None:
    """The same columns and the same rows; the figures are those of longer runs."""
    page = (PAGES / "outages.md").read_text(encoding="utf-8").splitlines()
    shown = [line for line in page if line.startswith("| ")]
    printed = [*outage[0].splitlines(), *fleet[0].splitlines()]
    assert [line.split("|")[1] for line in printed] == [line.split("|")[1] for line in shown]
    heads = [line for line in printed if line.startswith(("|  |", "| ---"))]
    assert heads == [line for line in shown if line.startswith(("|  |", "| ---"))]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="one of the things that are tried is a fork")
def test_alternatives_do_what_the_page_says() -> None:
    """What was tried with them turns out the same again, whatever the versions."""
    others = "aiometer aqute celery dramatiq fakeredis more_executors rq stamina tenacity"
    for name in others.split():
        pytest.importorskip(name)
    command = [sys.executable, str(PAGES / "alternatives.py"), "--check"]
    done = subprocess.run(command, capture_output=True, timeout=4 * TIMEOUT, check=False, encoding="utf-8")
    assert 0 == done.returncode, done.stdout + done.stderr
