"""A gunicorn that tests start."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def gunicorn(*options: str, **process: Any) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Serve on a port of the system's choice; yield the master, and the port.

    Args:
        options: What the command is given; the application is the last.
        process: What `subprocess.Popen` is given.
    """
    command = [sys.executable, "-m", "gunicorn", "--bind=127.0.0.1:0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8", **process) as master:
        try:
            assert master.stderr is not None
            found = (re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", line) for line in master.stderr)
            yield master, int(next(match for match in found if match)[1])
        finally:
            master.kill()
