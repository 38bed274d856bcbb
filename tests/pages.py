"""The documentation as a program: how the examples of a page are executed."""

from __future__ import annotations

import doctest
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HOW_TO = ROOT / "docs" / "how-to"
EXAMPLE = re.compile(r"^```(python|pycon)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(page: Path, replaced: Mapping[str, str] | None = None) -> str:
    """Return the text of a page, with some of it replaced; what is to be replaced must be there."""
    text = page.read_text("utf-8")
    for old, new in (replaced or {}).items():
        assert old in text
        text = text.replace(old, new)
    return text


def python_on(page: Path, replaced: Mapping[str, str] | None = None) -> list[str]:
    """Return the statements of a page, block by block."""
    return [source for kind, source in EXAMPLE.findall(text_of(page, replaced)) if kind == "python"]


def section_of(text: str, title: str) -> tuple[int, int]:
    """Return where the section with this title begins in the text of a page, and where it ends."""
    begin = text.index(f"\n## {title}\n")
    end = text.find("\n## ", begin + 1)
    return begin, len(text) if end == -1 else end


def run(page: Path, replaced: Mapping[str, str] | None = None, section: str | None = None) -> dict[str, Any]:
    """Run the examples of a page as one program: statements run, sessions print what they show.

    Args:
        page: The file.
        replaced: What is replaced in its text, and by what.
        section: The title of the section whose examples are run; ``None``: all of the page.

    Returns:
        What the names of the program are bound to in the end.
    """
    text = text_of(page, replaced)
    begin, end = (0, len(text)) if section is None else section_of(text, section)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    complaints: list[str] = []
    for example in EXAMPLE.finditer(text, begin, end):
        lines_above = text.count("\n", 0, example.start(2))
        if example[1] == "python":
            source = "\n" * lines_above + example[2]
            exec(compile(source, page, "exec", dont_inherit=True), namespace)
        else:
            session = doctest.DocTestParser().get_doctest(
                example[2], namespace, page.name, str(page), lines_above
            )
            session.globs = namespace  # not a copy: functions defined above assign to it
            doctest.DocTestRunner(verbose=False).run(session, out=complaints.append, clear_globs=False)
    assert [] == complaints
    return namespace
