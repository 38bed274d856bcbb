"""Copies of files that others may have open, made without a trace.

A file is not read in place: SQLite would make files beside one that no process has, and a person who pages
through one that a process has would keep that from starting its log anew.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from retrying_executor._journal.database import check_start


def copy_of(path: Path, *, is_alive: bool) -> sqlite3.Connection:
    """Return a copy of a database as it is now: in memory as far as it fits, and gone when it is closed.

    Args:
        path: That of the file.
        is_alive: Whether a process has it. If none does, see that none took it meanwhile: what was copied may
            be worth nothing then.

    Raises:
        OSError, sqlite3.Error: If it cannot be read.
    """
    if is_alive:  # so there is what SQLite needs beside it
        return _copied(f"{path.absolute().as_uri()}?mode=ro&readonly_shm=1")
    check_start(path)
    with TemporaryDirectory(prefix="retrying-executor-") as directory:
        to = Path(directory, "copy.db")
        shutil.copyfile(path, to)
        with suppress(FileNotFoundError):  # its owner has closed it in order
            shutil.copyfile(f"{path}-wal", f"{to}-wal")
        return _copied(f"{to.as_uri()}?mode=rw")


def _copied(uri: str) -> sqlite3.Connection:
    with closing(sqlite3.connect(uri, uri=True, timeout=10.0)) as source:
        copy = sqlite3.connect("", isolation_level=None)
        try:
            source.backup(copy)
        except BaseException:
            copy.close()
            raise
    return copy
