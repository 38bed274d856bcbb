"""Lets a run hand the baton on before every access to an attribute in the modules where threads meet.

That finds state that is touched without a common lock: between two reads, between a read and a write, and
between working out a value and storing it. What lies between two accesses no other thread can see, so a
switch before each bytecode instruction would find no more. A run takes hundreds of such steps; so it is the
strategy that says how many of them to pass by, and they cost little until then.

The functions get other code, made of the same source, in which ``call._state`` reads ``step(call)._state``.
So tasks can be carried by greenlets, and every Python does the same.
"""

from __future__ import annotations

import ast
import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CellType, CodeType, FunctionType, ModuleType
from typing import TypeVar

from controlled import Run

T = TypeVar("T")

MODULES = [
    importlib.import_module(f"retrying_executor.{name}")
    for name in (
        "_calls.attempt",
        "_calls.flight",
        "_core.core",
        "_core.ending",
        "_core.entrance",
        "_core.settling",
        "_core.turns",
        "_threads.flights",
        "_threads.loop",
        "_threads.roster",
        "_threads.shortcut",
        "_threads.threads",
        "_calls.current",
        "_calls.call",
        "_upstream.gate",
        "_calls.ledger",
        "_observe.monitor",
        "_calls.lanes",
        "_calls.held",
        "_calls.ranking",
        "_upstream.limits",
        "_calls.retries",
        "_calls.schedule",
        "_upstream.backlog",
        "_upstream.places",
        "_threads.workers",
    )
]
"""Where threads share something."""

CHANGES = {"append", "appendleft", "clear", "copy", "discard", "extend", "pop", "popleft", "remove"}
"""Methods of collections that one thread may call while another looks."""

LEADING = (dict, tuple, CellType, property, classmethod, staticmethod)
"""What may lead from a module or a class to its functions."""


def step(owner: T) -> T:
    """Let others go first, or not, before somebody touches an attribute of *owner*."""
    run = Run.active
    if run is not None:
        if run.stride:
            run.stride -= 1
        else:
            run.stop_over()
    return owner


class Stepping(ast.NodeTransformer):
    """Puts a step before each access to an attribute; what modules and methods are looked up takes none."""

    def __init__(self, module: ModuleType) -> None:
        self._modules = {name for name, value in vars(module).items() if isinstance(value, ModuleType)}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.body = [self.visit(one) for one in node.body]  # neither decorators nor annotations
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.target = self.visit(node.target)
        node.value = node.value and self.visit(node.value)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Attribute) and node.func.attr not in CHANGES:
            node.func.value = self.visit(node.func.value)
        else:
            node.func = self.visit(node.func)
        node.args = [self.visit(one) for one in node.args]
        node.keywords = [self.visit(one) for one in node.keywords]
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        name = node.value.id if isinstance(node.value, ast.Name) else None
        node.value = self.visit(node.value)
        if name not in self._modules and name != "super":
            node.value = ast.Call(ast.Name("step", ast.Load()), [node.value], [])
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        """Make it two accesses: what is read may be out of date when it is stored."""
        if not isinstance(node.target, ast.Attribute):
            return self.generic_visit(node)
        read = ast.parse(ast.unparse(node.target), mode="eval").body
        return self.visit(ast.Assign([node.target], ast.BinOp(read, node.op, node.value)))


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of all functions, and of those that are inside of others."""
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield one
            yield from codes_in(one)


def identity(code: CodeType) -> tuple[object, ...]:
    """Return what tells the functions of one file apart."""
    return code.co_filename, code.co_firstlineno, code.co_name, code.co_freevars, code.co_varnames


def functions() -> Iterator[FunctionType]:
    """Yield the functions of the library that the modules lead to.

    The collector need not know them all: Python 3.13 without the GIL takes out what is immortal.
    """
    seen: set[int] = set()
    left: list[object] = [vars(module) for module in MODULES]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, FunctionType | type):
            if not str(one.__module__).startswith("retrying_executor"):
                continue
            if isinstance(one, FunctionType):
                yield one
        elif not isinstance(one, LEADING):
            continue
        left += gc.get_referents(one)


@cache
def replacements() -> list[tuple[FunctionType, CodeType, CodeType]]:
    """Return the functions of the modules, each with its own code and the one that has steps."""
    codes = {}
    for module in MODULES:
        vars(module)["step"] = step
        file = str(module.__file__)
        tree = Stepping(module).visit(ast.parse(Path(file).read_text("utf-8"), file))
        code = compile(ast.fix_missing_locations(tree), file, "exec", dont_inherit=True)
        codes.update({identity(one): one for one in codes_in(code)})
    found = [
        (one, one.__code__, codes[identity(one.__code__)])
        for one in functions()
        if identity(one.__code__) in codes
    ]
    assert len(found) > len(codes) / 2, "these functions were not found: nothing would take a step"
    return found


@contextmanager
def every_access() -> Iterator[None]:
    """Take a step before every access."""
    try:
        for function, _, stepping in replacements():
            function.__code__ = stepping
        yield
    finally:
        for function, plain, _ in replacements():
            function.__code__ = plain
