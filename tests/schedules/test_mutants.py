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


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.bug.replace(" ", "_"))
def test_a_seeded_bug_is_found(mutant: Mutant, tmp_path: Path) -> None:
    """Within its budget of schedules the scenario breaks a promise, and says how to see that again."""
    package = tmp_path / "retrying_executor"
    shutil.copytree(
        Path(retrying_executor.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    mutant.apply(package)
    done = subprocess.run(
        [sys.executable, HERE / "explore.py", mutant.scenario, *mutant.search],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=BUDGET,
        check=False,
    )
    assert 1 == done.returncode, f"not found: {done.stdout}{done.stderr}"
    assert "again: python tests/schedules/explore.py" in done.stdout
