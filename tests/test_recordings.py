"""The pictures of terminals in the documentation: they show what the commands show, and need nothing else."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import pages
from conftest import TIMEOUT
from retrying_executor._demo import report

DEMO = pages.ROOT / "docs" / "demo.py"
PICTURES = [DEMO.with_suffix(".svg"), pages.HOW_TO / "progress.svg"]
SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_of_the_demonstration_shows_what_that_shows() -> None:
    """The same lines, recorded once more; the figures are those of a longer run."""
    pytest.importorskip("pty", reason="there are no pseudo-terminals on Windows")
    done = subprocess.run(
        [sys.executable, str(DEMO), "--check"], capture_output=True, timeout=TIMEOUT, encoding="utf-8"
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    assert done.stdout.startswith("$ python -m retrying_executor\n40 webhooks, 4 workers.")


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_a_picture_needs_nothing_from_elsewhere(picture: Path) -> None:
    """No font, no script: it works in an img, and where there is no network."""
    text = picture.read_text("utf-8")
    assert ["http://www.w3.org/2000/svg"] == re.findall(r"https?:[^\"]*", text)
    assert not re.search(r"url\(|@font-face|@import|<script|<image|href", text)
    assert 40_000 > len(text)


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_a_picture_says_in_words_how_it_ends(picture: Path) -> None:
    """For those who do not see it; where nothing may move, one of its moments is shown."""
    root = ElementTree.parse(picture).getroot()
    film = root.find(f"{SVG}g")
    description = root.findtext(f"{SVG}desc")
    assert film is not None
    assert description is not None
    *_, last = film
    width = int(root.attrib["width"])
    assert film.attrib["transform"] in {f"translate({-width * number})" for number in range(1, len(film))}
    assert "prefers-reduced-motion: reduce" in (root.findtext(f"{SVG}style") or "")
    still = [*root.findall(f"{SVG}text"), *last]
    drawn = " ".join("".join(text.itertext()) for text in still)
    assert sorted(description.split()) == sorted(drawn.split())
    assert [] == [
        text.text for text in still if float(text.attrib["x"]) + float(text.attrib["textLength"]) > width
    ]


class Terminal(io.StringIO):
    """A file that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_line_of_the_demonstration_fits_into_a_usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the service is down comes last, and is not cut off."""
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    with report.progress_line(terminal, "ThreadPoolExecutor") as show:
        show(1.0, "pending 2000  held 2000  threads 64  OUTAGE")
    assert (
        "ThreadPoolExecutor [########] 100% pending 2000  held 2000  threads 64  OUTAGE"
        == terminal.getvalue().split("\r")[1]
    )
