"""A lock file that is closed: its descriptor may be that of any other file then."""

from __future__ import annotations

import os
import time
from pathlib import Path

from retrying_executor._journal.directory import Directory


def test_what_comes_late_is_written_nowhere(tmp_path: Path) -> None:
    """A thread that has looked whether the file is open may write its mark a moment after it was closed."""
    store = Directory(tmp_path, time, is_synced=False, max_crashes=3).create()
    descriptor = store._descriptor
    store.close()
    other = os.open(tmp_path / "of somebody else", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.dup2(other, descriptor)
        store.begins(1, 1, 0, 0.0)
        store.end_in_order()
        store.reads(1)
        assert 0 == os.fstat(descriptor).st_size
    finally:
        for number in {other, descriptor}:
            os.close(number)
