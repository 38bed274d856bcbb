"""How calls run in processes: the examples of the page on that, as scripts; and the figures of engines."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pages
import retrying_executor
from conftest import TIMEOUT

PAGE = pages.HOW_TO / "engines.md"
EXPLANATION = pages.ROOT / "docs" / "explanation"
SCRIPT = re.compile(r"^```python\n((?:(?!```).*\n)*)```\n\n```text\n((?:(?!```).*\n)*)```$", re.MULTILINE)
PROCESSES, CRASHES, _, SHARED, ERRORS = SCRIPT.findall(PAGE.read_text("utf-8"))
"""The scripts of the page that print something, each with what that is. The third needs dask."""

MARK = re.compile(r"^<!-- (.*) -->$", re.MULTILINE)


def python(*command: str, directory: Path, warn: str = "error") -> subprocess.CompletedProcess[str]:
    """Run Python.

    Args:
        command: Its arguments.
        directory: Where.
        warn: What becomes of warnings.
    """
    source = str(Path(retrying_executor.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, "-W", warn, *command],
        cwd=directory,
        env=environment,
        capture_output=True,
        timeout=2 * TIMEOUT,
        check=False,
        encoding="utf-8",
    )


def run(*command: str, directory: Path, warn: str = "error") -> str:
    """Run Python, and return what it printed."""
    done = python(*command, directory=directory, warn=warn)
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def run_script(script: str, directory: Path, name: str = "script.py", warn: str = "error") -> str:
    """Run a script of the page, and return what it printed; its path is left out."""
    (directory / name).write_text(script, "utf-8")
    printed = run(name, directory=directory, warn=warn)
    return printed.replace(f"{directory}{os.sep}", "")


def test_a_script_runs_its_calls_in_processes(tmp_path: Path) -> None:
    """With one more argument (L1)."""
    script, shown = PROCESSES
    assert shown == run_script(script, tmp_path)


def test_it_does_the_same_in_threads(tmp_path: Path) -> None:
    """From threads to processes, one argument changes (L1)."""
    script, shown = PROCESSES
    assert ", engine=Processes()" in script
    assert shown == run_script(script.replace(", engine=Processes()", ""), tmp_path)


def test_a_call_that_crashes_and_hangs_gets_through(tmp_path: Path) -> None:
    """Its process dies, and the next one is killed: two attempts are lost, and no other call notices (L1)."""
    script, shown = CRASHES
    assert shown == run_script(script, tmp_path)


def test_a_script_without_its_guard_says_what_to_write(tmp_path: Path) -> None:
    """A new process imports the script, and must not start the work once more (L1)."""
    script, _ = PROCESSES
    guard = 'if __name__ == "__main__":'
    assert guard in script
    script = script.replace(guard, "if True:").replace("Processes())", "Processes(), retry=None)")
    (tmp_path / "script.py").write_text(script, "utf-8")
    done = python("script.py", directory=tmp_path)
    assert 1 == done.returncode, done.stdout + done.stderr
    assert "AttemptLostError: " in done.stderr
    assert "if __name__ == '__main__':" in done.stderr


def test_a_pool_of_the_standard_library_is_shared_as_loky_is(tmp_path: Path) -> None:
    """From one engine to another, the function changes that makes it (L2)."""
    script, shown = SHARED
    pool = 'ProcessPoolExecutor(4, get_context("forkserver"))'
    assert f"`Shared(lambda: {pool})`" in PAGE.read_text("utf-8")
    imports = "from concurrent.futures import ProcessPoolExecutor\nfrom multiprocessing import get_context"
    script = script.replace("loky.ProcessPoolExecutor(4)", pool).replace("import loky", imports)
    assert "loky" not in script
    assert shown == run_script(script, tmp_path)


def test_an_exception_keeps_its_type_and_attributes(tmp_path: Path) -> None:
    """Also where it cannot be unpickled as usual; what cannot be sent of it is told (L3)."""
    script, shown = ERRORS
    assert shown == run_script(script, tmp_path, "errors.py")


def test_the_day_on_a_cluster_is_the_one_on_the_page(tmp_path: Path) -> None:
    """Everything random is drawn from a seed, so it comes out the same; with retries no call is lost (L3)."""
    printed = run(str(EXPLANATION / "cluster.py"), "--check", directory=tmp_path)
    *_, without, with_retries = [line.split(" | ") for line in printed.splitlines()]
    assert 0 < int(without[3])
    assert 0 == int(with_retries[3])


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is measured on Linux only")
def test_the_figures_of_the_page_on_scale_are_those_of_its_script(tmp_path: Path) -> None:
    """The same tables; their figures are those of a longer run."""
    printed = run(str(EXPLANATION / "scale.py"), "--brief", directory=tmp_path)
    page = (EXPLANATION / "scale.md").read_text("utf-8")
    marks = MARK.findall((EXPLANATION / "scale_table.inc").read_text("utf-8"))
    assert marks == MARK.findall(printed)
    assert [] == [mark for mark in marks[:-1] if f'start-after: "<!-- {mark} -->"' not in page]
