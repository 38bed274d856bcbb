"""Each seeded bug is found: see `mutants`."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import MUTANTS, Mutant

import retrying_executor

HERE = Path(__file__).parent
BUDGET = 900.0
"""How long a search may take, in seconds; most take a few, but on a loaded machine all take long."""

pytestmark = pytest.mark.timeout(2 * BUDGET)


def run(place: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of Python with the library that is in *place*."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=HERE.parents[1],
        env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True,
        encoding="utf-8",
        timeout=BUDGET,
        check=False,
    )


@pytest.fixture
def patched(mutant: Mutant, tmp_path: Path) -> Path:
    """A place with a patched copy of the library."""
    package = tmp_path / "retrying_executor"
    shutil.copytree(
        Path(retrying_executor.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    mutant.apply(package)
    return tmp_path


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.bug.replace(" ", "_"))
def test_a_seeded_bug_is_found(mutant: Mutant, patched: Path) -> None:
    """Within its budget of schedules the scenario breaks a promise, and the command shown does it again."""
    found = run(patched, HERE / "explore.py", mutant.scenario, *mutant.search)
    assert 1 == found.returncode, f"not found: {found.stdout}{found.stderr}"
    message, *_, again = found.stdout.splitlines()
    assert mutant.symptom in message
    prefix, *command = shlex.split(again)
    assert ("again:", "python") == (prefix, command[0])
    if mutant.is_repeatable:
        repeated = run(patched, *command[1:])
        assert 1 == repeated.returncode, repeated.stderr
        assert found.stdout.splitlines()[1:] == repeated.stdout.splitlines()[1:]  # after the message


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows knows no fork")
@pytest.mark.parametrize(
    "mutant",
    [
        Mutant(
            "no fork hook",
            "1 failed",
            "",
            (("_common/forks.py", "after_in_child=_after_fork_in_child", "after_in_child=lambda: None"),),
        )
    ],
    ids=["no_fork_hook"],
)
def test_a_missing_fork_hook_is_found(mutant: Mutant, patched: Path) -> None:
    """What no controlled run can show: a child in which inherited futures never fail (F6)."""
    test = "tests/test_fork.py::test_inherited_futures_fail_at_once"
    done = run(patched, "-m", "pytest", "-p", "no:cacheprovider", test)
    assert 1 == done.returncode, f"not found: {done.stdout}{done.stderr}"
    assert mutant.symptom in done.stdout
