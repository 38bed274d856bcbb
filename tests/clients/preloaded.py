"""A WSGI application that makes and uses its executor when it is imported, before the server forks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from flaky import fails_once

from retrying_executor import RetryingExecutor, RetryPolicy

executor = RetryingExecutor(1, retry=RetryPolicy(delays=(0,)), idle_timeout=None)  # its thread stays
importer = executor.submit(fails_once(os.getpid)).result()


def app(_: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answer with the process that imported this module, and that in which the executor's thread runs."""
    runner = executor.submit(fails_once(os.getpid)).result()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{importer} {runner}".encode()]
