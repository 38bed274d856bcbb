"""Fuzzing guided by coverage: what the library reads from a service, from a process, and from a disk.

Each of these is a program that Atheris calls again and again, with bytes that reach more and more of the
library's branches:

- ``answers.py``: headers, codes, bodies and exceptions, as `transient` and its like read them;
- ``wire.py``: what the process of an engine answers;
- ``disk.py``: payloads, marks, rows and whole files of a journal.

All of them run for two minutes each with::

    python -m tox -e fuzz

or one of them, for an hour, with a corpus that grows in a directory from one run to the next::

    python -m pip install --group fuzz .
    python tests/fuzz/answers.py corpus-of-answers -max_total_time=3600

Where a check fails, takes too long or too much memory, Atheris says why, and writes the bytes to a file
``crash-*``, ``timeout-*`` or ``oom-*``. With the path of that file as its only argument, the program does
the same once more. A finding becomes a test in ``tests/test_fuzz.py``, which needs no Atheris.

The bytes are never loaded as a pickle that could import anything but what the harness allows.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

MOST_MEMORY = 3 << 30
"""Bytes, of address space: what a damaged length asks for beyond that is a `MemoryError`."""

MOST_SECONDS = 5.0
"""Of processor time, for one input: generous, since it is instrumented, and the machine may be busy."""


def run(check: Callable[[atheris.FuzzedDataProvider], None], seeds: Iterable[bytes]) -> None:
    """Call a check again and again, as the arguments of the program say.

    Args:
        check: Raises if something is wrong.
        seeds: Bytes to begin with.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, resource.RLIM_INFINITY))
    logger = logging.getLogger("retrying_executor")
    logger.propagate = False
    logger.addHandler(_Formats())

    def check_one(data: bytes) -> None:
        before = time.process_time()
        check(atheris.FuzzedDataProvider(data))
        taken = time.process_time() - before
        assert taken < MOST_SECONDS, f"it took {taken:.1f} s"

    with TemporaryDirectory() as directory:
        for number, seed in enumerate(seeds):
            Path(directory, str(number)).write_bytes(seed)
        replays = any(os.path.isfile(argument) for argument in sys.argv[1:])
        corpus = [] if replays else [directory]
        own = ["-timeout=60", "-rss_limit_mb=0"]
        atheris.Setup([sys.argv[0], *own, *sys.argv[1:], *corpus], check_one)
        atheris.Fuzz()


class _Formats(logging.Handler):
    """Formats what is logged, and drops it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Raise what formatting raises."""
        assert "\n" not in record.getMessage().split("Traceback")[0]
