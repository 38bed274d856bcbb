"""The benchmarks can be run: what they write is complete, and the gate follows it. No timing is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT = 120.0  # seconds, for what takes a few


def run(*options: object) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "tests.benchmarks", *map(str, options)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, timeout=TIMEOUT, check=False, encoding="utf-8"
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two rounds of two measures write: a ratio, and a figure that is to be small."""
    path = tmp_path_factory.mktemp("benchmarks") / "figures.json"
    done = run("--quick", "--pairs", 2, "--only", r"^(submit\(\) alone|import)$", "--json", path)
    assert 0 == done.returncode, done.stderr
    assert "QUICK" in done.stdout
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def test_every_sample_is_written(written: dict[str, Any]) -> None:
    """Of each figure there are the samples of both sides, and who and what was measured where."""
    assert {"submit() alone", "import"} == written["lines"].keys() == written["took"].keys()
    assert {} == written["failed"] == written["skipped"]
    assert written["circumstances"]["quick"]
    for line in written["lines"]["submit() alone"]:
        assert ("ThreadPoolExecutor", "RetryingExecutor") == (line["baseline"], line["contestant"])
        assert 2 == len(line["samples"]) == len(line["against"])
        pairs = zip(line["samples"], line["against"], strict=True)
        assert [against / own for own, against in pairs] == line["figures"]
    targets = [line["target"] for line in written["lines"]["import"]]
    assert [None, "less"] == [target and target["better"] for target in targets]


@pytest.mark.parametrize(
    ("name", "factor", "expected"),
    [
        ("submit() alone", 0.51, 0),  # the ratio is a bit more than half of what it must be
        ("submit() alone", 0.49, 1),
        ("import", 1.99, 0),  # it takes a bit less than twice as long as it must
        ("import", 2.01, 1),
    ],
)
def test_gate_closes_at_half_of_the_target(
    name: str, factor: float, expected: int, written: dict[str, Any], tmp_path: Path
) -> None:
    """A ratio may be half of what it must be; where less is better, a figure may be twice that."""
    line = next(line for line in written["lines"][name] if line["target"])
    line = {**line, "samples": [1.0], "against": [factor * line["target"]["must"]]}
    if name == "import":
        line["samples"] = [factor * line["target"]["must"]]
    path = tmp_path / "figures.json"
    path.write_text(json.dumps({**written, "lines": {name: [line]}}), "utf-8")
    done = run("--read", path, "--gate")
    assert expected == done.returncode, done.stderr
    assert expected == done.stdout.count("GATE: ")
    assert 0 == run("--read", path).returncode, "without --gate it is only said"


def test_what_is_not_installed_is_said(tmp_path: Path) -> None:
    """Of the others that await coroutines, each is measured; or the line of ours says that it is missing."""
    path = tmp_path / "figures.json"
    done = run("--quick", "--pairs", 1, "--only", "^coroutines$", "--json", path)
    assert 0 == done.returncode, done.stderr
    lines = json.loads(path.read_text("utf-8"))["lines"]["coroutines"]
    told = {line["contestant"] for line in lines} | set(lines[0]["note"].replace(",", "").split())
    assert {"aiometer", "aqute"} <= told
    assert any("tenacity" in name for name in told)


def test_a_measure_that_is_broken_off_is_no_success(written: dict[str, Any], tmp_path: Path) -> None:
    """An error does not keep the others from being measured, but it is not forgotten."""
    path = tmp_path / "figures.json"
    path.write_text(json.dumps({**written, "failed": {"idle": "OSError: no more"}}), "utf-8")
    done = run("--read", path)
    assert 1 == done.returncode
    assert "FAILED: idle: OSError: no more" in done.stdout


def test_nothing_to_measure_is_an_error() -> None:
    """A pattern that fits no measure is a mistake of who wrote it."""
    assert 2 == run("--only", "there is no such measure").returncode
