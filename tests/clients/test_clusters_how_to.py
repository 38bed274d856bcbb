"""The page about engines: its examples on clusters run, also while what they run on is killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from verdicts import library

from test_engines_how_to import PAGE, SCRIPT, run_script

_, _, DASK, LOKY, _ = SCRIPT.findall(PAGE.read_text("utf-8"))

on_clusters = pytest.mark.parametrize(
    ("name", "script", "shown"), [("distributed", *DASK), ("loky", *LOKY)], ids=["dask", "loky"]
)

LAST = "    return seed * seed\n"
DIES_ONCE = f"""
    import os
    from retrying_executor import current_call

    if seed == 42 and current_call().attempt == 1:
        os.kill(os.getpid(), 9)
{LAST}"""
PRINTS = "print(sum(executor.map(simulate, range(100))))"


def printed_by(script: str, directory: Path) -> str:
    """Run a script; what warnings its libraries give is no affair of ours."""
    return run_script(script, directory, warn="ignore")


@on_clusters
def test_a_script_runs_its_calls_on_a_cluster(name: str, script: str, shown: str, tmp_path: Path) -> None:
    """With one more argument (L2)."""
    library(name)
    assert shown == printed_by(script, tmp_path)


@on_clusters
def test_a_call_that_kills_its_worker_gets_through(
    name: str, script: str, shown: str, tmp_path: Path
) -> None:
    """The attempt is lost, and made again: on the next worker, or on a new pool (L2, L3)."""
    library(name)
    assert LAST in script
    assert PRINTS in script
    script = script.replace(LAST, DIES_ONCE).replace(PRINTS, f"{PRINTS}; print(executor.stats().retried > 0)")
    assert f"{shown}True\n" == printed_by(script, tmp_path)
