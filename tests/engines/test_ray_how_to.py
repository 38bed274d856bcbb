"""The page about engines: its example on Ray runs."""

from __future__ import annotations

from pathlib import Path

import pytest

import pages
from test_engines_how_to import PAGE, run_script

pytest.importorskip("ray", reason="Ray is not installed")

(SCRIPT,) = [script for script in pages.python_on(PAGE) if "import ray\n" in script]


def test_a_few_lines_make_an_executor_of_ray(tmp_path: Path) -> None:
    """Its references become futures (L2)."""
    printed = run_script(SCRIPT, tmp_path, warn="ignore")
    assert str(sum(map(abs, range(-99, 100)))) in printed.splitlines()  # Ray prints something, too
