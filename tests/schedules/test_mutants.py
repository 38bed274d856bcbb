"""Each seeded bug is found: see `mutants`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import MUTANTS, Mutant

import retrying_executor

HERE = Path(__file__).parent
BUDGET = 120.0
"""How long a search may take, in seconds."""


def run(mutant: Mutant, place: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of Python with a patched copy of the library, made in *place*."""
    package = place / "retrying_executor"
    shutil.copytree(
        Path(retrying_executor.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    mutant.apply(package)
    return subprocess.run(
        [sys.executable, *command],
        cwd=HERE.parents[1],
        env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        timeout=BUDGET,
        check=False,
    )


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.bug.replace(" ", "_"))
def test_a_seeded_bug_is_found(mutant: Mutant, tmp_path: Path) -> None:
    """Within its budget of schedules the scenario breaks a promise, and says how to see that again."""
    done = run(mutant, tmp_path, HERE / "explore.py", mutant.scenario, *mutant.search)
    assert 1 == done.returncode, f"not found: {done.stdout}{done.stderr}"
    *_, again = done.stdout.splitlines()
    assert again.startswith("again: python tests/schedules/explore.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows knows no fork")
def test_a_missing_fork_hook_is_found(tmp_path: Path) -> None:
    """What no controlled run can show: a child in which inherited futures never fail (F6)."""
    patch = ("_lifecycle.py", "after_in_child=_after_fork_in_child", "after_in_child=lambda: None")
    mutant = Mutant("no fork hook", "", (patch,))
    test = "tests/test_fork.py::test_inherited_futures_fail_at_once"
    done = run(mutant, tmp_path, "-m", "pytest", "-p", "no:cacheprovider", test)
    assert 1 == done.returncode, f"not found: {done.stdout}{done.stderr}"
    assert "1 failed" in done.stdout
