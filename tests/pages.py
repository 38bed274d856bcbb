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


def run(page: Path, replaced: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run the examples of a page as one program: statements run, sessions print what they show.

    Returns:
        What the names of the program are bound to in the end.
    """
    text = text_of(page, replaced)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    complaints: list[str] = []
    for example in EXAMPLE.finditer(text):
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
