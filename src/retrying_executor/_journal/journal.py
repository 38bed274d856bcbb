"""Where calls are kept, and how: what users say of a journal."""

from __future__ import annotations

import os
from pathlib import Path

from retrying_executor._common.callables import to_run
from retrying_executor._common.log import call_name
from retrying_executor._common.public import public
from retrying_executor._common.values import checked_bool, checked_int
from retrying_executor._journal.directory import checked
from retrying_executor._journal.payload import Jsons, Pickles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, Literal

    from retrying_executor._journal.payload import Format

_SAYS_HOW = "functions must be functions, or a mapping from names to functions, not {!r}"
_NAMES_THEM = "give a mapping from names to functions"


@public
class Journal:
    """A directory in which an executor keeps its calls until they are done, so that they survive the process.

    Give it to an executor as ``journal=``; where the options are left as they are, a path does. Several
    executors, of one process or of several, may have the same directory. One that finds calls of a process
    that is gone goes on with them.

    Args:
        directory: Its path. It is made if it is not there. Only its owner may write to it, and it must be
            on a local disk.
        durability: ``"full"``: a call that ``submit()`` has accepted survives a power cut. ``"process"``: it
            survives the end of the process only, and ``submit()`` takes less time.
        max_crashes: How many times a call may be running when its process dies, before it is set aside; 1
            or more.
        functions: If given, calls are written as JSON, and only these functions can be submitted: a mapping
            from names to functions, or just functions, which then go by ``module.function``. Otherwise,
            calls are pickled. Lambdas, and several functions of one name, need a mapping.
        renamed: What is to be found instead of ``"module.name"``, which a pickle names and which is gone.
        adopts: Whether the executor goes on with the calls of processes that are gone as soon as it is made.
            If not, it does from the first ``submit()`` or ``adopt()`` on.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of its range, or if the directory cannot be a journal: others may
            write to it, it is on a network file system, or this process may not write to it.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        durability: Literal["full", "process"] = "full",
        max_crashes: int = 3,
        functions: Mapping[str, Callable[..., Any]] | Iterable[Callable[..., Any]] | None = None,
        renamed: Mapping[str, Any] | None = None,
        adopts: bool = True,
    ) -> None:
        if not isinstance(directory, (str, os.PathLike)) or isinstance(os.fspath(directory), bytes):  # type: ignore[redundant-expr]  # unchecked
            raise TypeError(f"journal must be a path of a directory, or a Journal, not {directory!r}")
        if not str(directory).strip():
            raise ValueError("journal must be a path of a directory, not ''")
        if durability not in ("full", "process"):
            raise ValueError(f"durability must be 'full' or 'process', not {durability!r}")
        if renamed is not None and functions is not None:
            raise ValueError("renamed must not be given with functions: give the function under both names")
        self.durability = durability
        self.max_crashes = checked_int("max_crashes", max_crashes)
        self.adopts = checked_bool("adopts", adopts)
        self._format: Format = (
            Pickles(_by_old_name(renamed)) if functions is None else Jsons(_by_name(functions))
        )
        self.directory = checked(Path(directory))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.directory)!r})"


def _names(what: str, mapping: Any) -> dict[str, Any]:
    """Return a mapping from names; raises `TypeError` if it is none."""
    if mapping is None:
        return {}
    try:
        named: dict[Any, Any] = dict(mapping)
    except (TypeError, ValueError):
        named = {None: None}
    if not all(isinstance(name, str) for name in named):
        raise TypeError(f"{what} must be a mapping from names, not {mapping!r}")
    return named


def _by_old_name(renamed: Any) -> dict[str, Any]:
    """Return what is found under names that are gone.

    Raises:
        TypeError: If *renamed* is no mapping from names.
        ValueError: If a name is none that a pickle has: it would never be looked up.
    """
    named = _names("renamed", renamed)
    for name in named:
        module, _, rest = name.rpartition(".")
        if not (module and rest.isidentifier()):
            raise ValueError(f"renamed must be a mapping from names such as 'module.name', not {name!r}")
    return named


def _by_name(functions: Any) -> dict[str, Callable[..., Any]]:
    """Return functions by their names.

    Raises:
        TypeError: If they are anything else.
        ValueError: If one has no name of its own, and the program has given it none.
    """
    if hasattr(functions, "keys"):
        named = _names("functions", functions)
        _check_functions(functions, named.values())
        return named
    try:
        unnamed = list(functions)
    except TypeError:
        raise TypeError(_SAYS_HOW.format(functions)) from None
    _check_functions(functions, unnamed)
    named = {}
    for fn in unnamed:
        name = call_name(fn)
        if name.endswith("<lambda>"):
            raise ValueError(f"functions must have names, and {name} has none: {_NAMES_THEM}")
        if named.setdefault(name, fn) is not fn:
            raise ValueError(f"functions must have different names, and several are {name}: {_NAMES_THEM}")
    return named


def _check_functions(functions: Any, found: Iterable[Any]) -> None:
    """Raise `TypeError` if there is anything in *functions* that cannot be called."""
    for fn in found:
        if not callable(fn):
            raise TypeError(_SAYS_HOW.format(functions))
        to_run(fn)


def checked_journal(journal: Any) -> Journal:
    """Return *journal* as an option, of which a path will do.

    Raises:
        TypeError, ValueError: What `Journal` raises.
    """
    return journal if isinstance(journal, Journal) else Journal(journal)
