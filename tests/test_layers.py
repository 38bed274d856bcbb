"""Which part of the library may know which: read off its imports, those for type checkers included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import retrying_executor

ROOT = Path(retrying_executor.__file__).parent
LAYERS = [
    {"_common"},
    {"_policy"},
    {"_upstream"},
    {"_calls"},
    {"_core", "_journal", "_observe", "_engines"},
    {"_threads", "_virtual", "engines"},
    {"_options"},
    {"_mapping", "_inline"},
    {"_executor"},
    {"_watch", "testing", "opentelemetry", "prometheus", "sentry"},
    {"retrying_executor"},
    {"_demo"},
    {"__main__"},
]
"""From the lowest to the highest. Those of one layer do not know each other."""

RANKS = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in ROOT.rglob("*.py")}


def imported_by(path: Path) -> Iterator[str]:
    """Yield the modules of the library that one of them imports, wherever in it that is."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            inner = [f"{node.module}.{name.name}" for name in node.names]
            yield from (name if name in MODULES else node.module for name in inner)


def part_of(module: str) -> str:
    return [*module.split("."), module][1]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_what_is_below_it_or_beside_it(module: str) -> None:
    """So a reader can start below, and needs nothing from above to understand it."""
    own = part_of(module)
    upwards = [
        other
        for other in imported_by(MODULES[module])
        if part_of(other) != own and RANKS[part_of(other)] >= RANKS[own]
    ]
    assert [] == upwards


def test_no_imports_go_round_in_a_circle() -> None:
    """Not within a package either."""
    graph = {module: set(imported_by(path)) - {module} for module, path in MODULES.items()}
    assert set(MODULES) == set(TopologicalSorter(graph).static_order())
