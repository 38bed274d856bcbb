"""The documentation: its examples run, its links lead somewhere, and every promise names its tests."""

from __future__ import annotations

import ast
import doctest
import functools
import gc
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pages
import retrying_executor
from conftest import TIMEOUT
from observe import see_to_reports

ROOT = pages.ROOT
CHOOSING = pages.HOW_TO / "choosing-a-policy.md"
OPERATING = pages.HOW_TO / "operating.md"
INLINE = pages.HOW_TO / "inline.md"
EXPLANATION = sorted((ROOT / "docs" / "explanation").glob("*.md"))
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *EXPLANATION,
    CHOOSING,
    INLINE,
    OPERATING,
]
HOW_TO = sorted(
    {*pages.HOW_TO.glob("*.md")} - {CHOOSING, INLINE, OPERATING}
)  # run by tests/clients, against real libraries, and by tests/test_testing.py
LINK = re.compile(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)

GUARANTEES = ROOT / "docs" / "guarantees.md"
HOW_MANY = {"A": 5, "B": 14, "C": 7, "D": 3, "E": 2, "F": 9, "G": 5, "U": 7, "J": 6, "K": 4, "L": 3}
PROMISES = [f"{section}{n}" for section, count in HOW_MANY.items() for n in range(1, count + 1)] + ["H"]
PROMISE = re.compile(r"^### ([A-Z]\d*)\. .*\n((?:(?!#).*\n)*)", re.MULTILINE)
CHECKED_BY = re.compile(r"^- `(tests/[^`]+)`$", re.MULTILINE)
FOLDED = re.compile(r"^<details>\n<summary>Checked by</summary>\n\n((?:- .*\n)+)\n</details>$", re.MULTILINE)

TERM = re.compile(r"^(?! |`|#).+(?=\n)", re.MULTILINE)
FIELD = [
    *("429", "Retry-After", "at least once", "backpressure", "bulkhead", "circuit breaker", "dead letter"),
    *("exponential backoff", "half-open", "idempotency key", "jitter", "rate limit"),
]
"""Words of the field that people search for."""

REFERENCE = ROOT / "docs" / "reference.md"
AUTOMATIC = re.compile(r"^\.\. auto(?:class|function|exception):: (\w+)", re.MULTILINE)
TYPE = re.compile(r"^\.\. py:type:: (\w+)\n   :canonical: (.*)$", re.MULTILINE)


def relative(page: Path) -> str:
    """Return a page's name for the report."""
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    gc.collect()  # failures that other tests have left unseen are logged now, not in the middle of a page
    see_to_reports()
    logger = logging.getLogger("retrying_executor")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.mark.usefixtures("_logging_as_before")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if pages.EXAMPLE.search(page.read_text("utf-8"))], ids=relative
)
def test_examples_on_a_page_do_what_it_says(page: Path) -> None:
    """The examples of a page are one program: statements run, sessions print what they show."""
    pages.run(page)


@pytest.mark.parametrize("name", retrying_executor.__all__)
def test_public_names_are_documented_and_their_examples_work(name: str) -> None:
    """Every public name has a docstring, and what a docstring shows is what happens."""
    thing = getattr(retrying_executor, name)
    complaints: list[str] = []
    for session in doctest.DocTestFinder().find(thing, name):
        doctest.DocTestRunner(verbose=False).run(session, out=complaints.append)
    assert thing.__doc__
    assert [] == complaints


@pytest.mark.parametrize("script", ["policies.py", "limits_table.py"])
def test_figures_of_policies_and_limits_are_those_of_the_library(script: str) -> None:
    """What they mean in time and in requests is computed, and the page is up to date (B2, U2 to U5)."""
    command = [sys.executable, str(CHOOSING.with_name(script)), "--check"]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False, encoding="utf-8")
    assert 0 == done.returncode, done.stdout + done.stderr


def leads_somewhere(page: Path, target: str, anchor: str) -> bool:
    """Return whether a link on *page* names a file that exists and, if any, a heading in it."""
    file = page.parent / target if target else page
    if not anchor:
        return file.exists()
    headings = HEADING.findall(file.read_text("utf-8"))
    return anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES + HOW_TO, ids=relative)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    """A link to a file or a heading names one that exists."""
    links = LINK.findall(page.read_text("utf-8"))
    assert [] == [link for link in links if not leads_somewhere(page, *link)]


@functools.cache
def names_in(file: Path) -> set[str]:
    """Return the names of the functions and classes in a file."""
    nodes = ast.walk(ast.parse(file.read_text("utf-8")))
    return {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def exists(test: str) -> bool:
    """Return whether *test* names a test, as ``file::name``, or a file or directory of them."""
    path, _, name = test.partition("::")
    file = ROOT / path
    if not name:
        return file.is_file() or any(file.rglob("*.py"))
    return file.is_file() and name in names_in(file)


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("tests/test_docs.py::test_names_of_tests_are_looked_up", True),
        ("tests/test_docs.py", True),
        ("tests", True),
        ("tests/test_docs.py::test_that_is_not_there", False),
        ("tests/test_nothing.py::test_names_of_tests_are_looked_up", False),
        ("tests/test_nothing.py", False),
        ("tests/nothing", False),
    ],
)
def test_names_of_tests_are_looked_up(test: str, expected: bool) -> None:
    """The check that follows notices a test, a file or a directory that is not there."""
    assert expected == exists(test)


def test_guarantees_page_lists_every_promise() -> None:
    """Each promise has a heading of its own, in order."""
    assert PROMISES == [number for number, _ in PROMISE.findall(GUARANTEES.read_text("utf-8"))]


@pytest.mark.parametrize("number", PROMISES)
def test_promise_is_checked_by_tests_that_exist(number: str) -> None:
    """A promise without a test is none; neither is one whose test has gone."""
    tests = CHECKED_BY.findall(dict(PROMISE.findall(GUARANTEES.read_text("utf-8")))[number])
    assert tests
    assert [] == [test for test in tests if not exists(test)]


def test_tests_of_promises_are_folded_away() -> None:
    """The page is read for its promises: the tests of each are in one list, which opens on demand."""
    text = GUARANTEES.read_text("utf-8")
    lists = FOLDED.findall(text)
    assert len(PROMISES) == len(lists)
    assert CHECKED_BY.findall(text) == [test for tests in lists for test in CHECKED_BY.findall(tests)]


@pytest.mark.parametrize("word", FIELD)
def test_words_of_the_field_lead_somewhere(word: str) -> None:
    """What others call something is a term of the glossary, so that a search for it finds what it is here."""
    _, _, terms = (ROOT / "docs" / "glossary.md").read_text("utf-8").partition("```{glossary}")
    assert word in TERM.findall(terms)


def test_reference_has_every_public_name() -> None:
    """Whatever can be imported from the package is looked up there."""
    documented = AUTOMATIC.findall(REFERENCE.read_text("utf-8"))
    assert [] == [name for name in retrying_executor.__all__ if name not in documented]


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "index.md", *HOW_TO], ids=relative)
def test_numbers_of_promises_are_left_to_the_page_that_has_them(page: Path) -> None:
    """A page for people in a hurry says the thing itself."""
    words = re.findall(r"\b[A-Z][0-9]*\b", page.read_text("utf-8"))
    assert set() == {*words} & {*PROMISES} - {"H"}


@functools.cache
def aliases() -> dict[str, str]:
    """Return what the aliases of types in the sources stand for."""
    files = Path(retrying_executor.__file__).parent.rglob("*.py")
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8"))))
    return {
        ast.unparse(node.target): ast.unparse(node.value)
        for node in nodes
        if isinstance(node, ast.AnnAssign) and node.value and "TypeAlias" == ast.unparse(node.annotation)
    }


@pytest.mark.parametrize(("name", "canonical"), TYPE.findall(REFERENCE.read_text("utf-8")))
def test_types_in_the_reference_are_those_of_the_sources(name: str, canonical: str) -> None:
    """The names that signatures use for types stand for what the reference says."""
    assert canonical.replace('"', "").replace("'", "") == aliases()[name].replace('"', "").replace("'", "")
