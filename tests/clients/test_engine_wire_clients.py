"""What real clients raise in another process is judged here as if it had been raised here (L3).

The tests and the tables are those of the modules below. Some rows of each are run once more here, for each
client, with one difference: what a client has raised is judged as it arrives from an engine.
"""

from __future__ import annotations

import inspect
import itertools
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

import pytest
import test_answers
import test_aws_codes
import test_database_answers
import test_http_answers
import test_llm_answers
import test_network_answers
import test_saas_answers
import verdicts
from test_answers import glue  # noqa: F401  # a fixture
from test_aws_codes import dynamodb  # noqa: F401  # the same
from test_http_answers import server  # noqa: F401  # the same

import retrying_executor
from retrying_executor import RetryPolicy, explain, service_failed
from retrying_executor._common.exceptions import RemoteTraceback, cause_of
from retrying_executor._engines.packing import packed
from retrying_executor._engines.unpacking import unpacked
from retrying_executor._policy.reading import Reading
from retrying_executor._policy.verdict import Attempt
from retrying_executor._upstream.evidence import evidence_of

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"  # clients leave sockets to the collector
)

MODULES = [
    *(test_answers, test_aws_codes, test_database_answers, test_http_answers),
    *(test_llm_answers, test_network_answers, test_saas_answers),
]
MOST_ROWS = 1
"""How many rows of each table are run, for each client and each verdict."""
NOT_HERE = {"test_the_outer_exception_comes_first"}
"""Tests that demand the very object that was raised."""
SLOW = {"litellm"}
"""Clients that take many seconds to import, and raise what others raise, too."""


# -- The way ---------------------------------------------------------------------------------------


def arrived(exception: BaseException) -> BaseException:
    """Return what arrives of an exception, raised as a worker raises it."""
    pickled, (*what, is_exception, _) = packed(exception)
    received = unpacked(pickled, *what, is_exception=is_exception)
    try:
        _raise(received)
    except BaseException as caught:
        return caught
    finally:
        del exception, received  # the traceback keeps this frame, and clients close what nobody refers to


def _raise(exception: BaseException) -> NoReturn:
    try:
        raise exception
    finally:
        del exception


def facts_of(exception: BaseException) -> dict[str, object]:
    """Return what is read off an exception, but for how long it asks to wait: that may be until a date."""
    verdict = retrying_executor.transient(exception)
    return {
        "verdict": verdict if isinstance(verdict, bool) else "not now",
        "why": explain(exception).partition("; it asks to wait")[0],
        "failed": service_failed(exception),
        "evidence": evidence_of(Reading(exception)),
        "names": [f"{cls.__module__}.{cls.__qualname__}" for cls in type(exception).__mro__],
        "words": re.sub("0x[0-9a-f]+", "", str(exception)),  # but for addresses
    }


def is_about(one: float | None, other: float | None) -> bool:
    """Return whether they are the same, but for what the clock moves meanwhile."""
    return one == other or (one is not None and other is not None and abs(one - other) < 5)


def check_arrived(exception: BaseException) -> BaseException:
    """Return what arrives of an exception, once it is compared with that."""
    received = arrived(exception)
    judge = retrying_executor.retry_after
    assert facts_of(exception) == facts_of(received)
    assert is_about(judge(exception), judge(received))
    last = received
    while (
        (cause := cause_of(last)) is not None and type(last) is not RemoteTraceback and cause is not received
    ):
        last = cause  # type: ignore[assignment]  # a cause is an exception
    assert cause is received or type(last) is RemoteTraceback
    known = next(cls for cls in type(exception).__mro__ if is_importable(cls))
    attempt = Attempt(number=1, exception=received, result=None, elapsed=0)  # type: ignore[arg-type]  # one
    assert RetryPolicy(retry_on=known)(attempt) is not None
    assert type(exception) is not known or type(received) is known
    return received


def is_importable(cls: type) -> bool:
    """Return whether a class is known by its name."""
    found: object = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is cls


def by_wire(judge: Callable[[Any], object]) -> Callable[[Any], object]:
    """Return what judges exceptions as *judge* does, as they arrive."""
    return lambda exception: judge(check_arrived(exception))


# -- The rows --------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A test of another module, with one row of its tables."""

    module: ModuleType
    test: Callable[..., None]
    row: dict[str, object]


def rows_of(test: Callable[..., None]) -> Iterator[dict[str, object]]:
    """Yield the arguments that a test is run with."""
    tables = []
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            names = mark.args[0]
            names = names.replace(" ", "").split(",") if isinstance(names, str) else names
            tables.append([dict(zip(names, values_of(row, len(names)), strict=True)) for row in mark.args[1]])
    for parts in itertools.product(*tables):
        yield {name: value for part in parts for name, value in part.items()}


def values_of(row: Any, count: int) -> Iterable[object]:
    """Return the values of a row, as `pytest.param` keeps them or as they are."""
    values = getattr(row, "values", None)
    if isinstance(values, tuple):
        return values
    return (row,) if count == 1 else row


def some(rows: Iterable[dict[str, object]]) -> Iterator[dict[str, object]]:
    """Yield some rows for each client, and for each verdict."""
    kinds = defaultdict(list)
    for row in rows:
        parts = [part for value in row.values() if isinstance(value, tuple) for part in value]
        names = [getattr(value, "__name__", "") for value in [*row.values(), *parts] if callable(value)]
        said = [getattr(row.get("row"), "verdict", row.get("expected", row.get("verdict")))]
        kinds[repr((names, said))].append(row)
    for kind, of_kind in kinds.items():
        if not any(name in kind for name in SLOW):
            yield from of_kind[:: -(-len(of_kind) // MOST_ROWS)]


CASES = [
    pytest.param(Case(module, test, row), id=f"{module.__name__}-{name}-{number}")
    for module in MODULES
    for name, test in vars(module).items()
    if name.startswith("test_") and inspect.isfunction(test) and test.__module__ == module.__name__
    if name not in NOT_HERE
    for number, row in enumerate(some(rows_of(test)))
]


@pytest.mark.usefixtures("server", "dynamodb")  # which have threads, so they must be there before each test
@pytest.mark.parametrize("case", CASES)
def test_what_a_client_raises_elsewhere_is_judged_alike(
    case: Case, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the client keeps on its exceptions; and each test finds what it demands of the original."""
    needed = inspect.signature(case.test).parameters.keys() - case.row.keys()
    fixtures = {name: request.getfixturevalue(name) for name in needed}
    for module in (verdicts, case.module):
        for name in ("transient", "retry_after"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, by_wire(getattr(retrying_executor, name)))
    case.test(**fixtures, **case.row)


def test_there_are_rows_of_every_module() -> None:
    """And many of each."""
    cases: list[Any] = [param.values[0] for param in CASES]
    counts = {module.__name__: sum(case.module is module for case in cases) for module in MODULES}
    assert min(counts.values()) > 20
