"""What is cut off from power: a program that submits calls from two threads, and tells when each is accepted.

Run as a script: ``power_cut_program.py JOURNAL LEDGER ACKNOWLEDGEMENTS DURABILITY CALLS``.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

from deliveries import deliver, note

from retrying_executor import Journal, RetryingExecutor


def connect_with_many_checkpoints(*args: Any, **kwargs: Any) -> sqlite3.Connection:
    """Connect, and have the log brought into the main file after a few pages rather than after a thousand."""
    connection = plain_connect(*args, **kwargs)
    connection.execute("PRAGMA wal_autocheckpoint = 20")
    return connection


def main(directory: str, ledger: str, acknowledgements: str, durability: Any, calls: int) -> None:
    """Submit so many calls; the last of them are put down when time is up."""

    def submit_some(submitter: int) -> None:
        for number in range(calls):
            name = f"{submitter}-{number}"
            executor.submit(deliver, ledger, name, 0.0, "x" * 500)
            note(acknowledgements, "accepted", name)

    with RetryingExecutor(2, journal=Journal(directory, durability=durability)) as executor:
        threads = [threading.Thread(target=submit_some, args=(submitter,)) for submitter in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    plain_connect, sqlite3.connect = sqlite3.connect, connect_with_many_checkpoints  # type: ignore[assignment]
    Path(sys.argv[1]).parent.mkdir(exist_ok=True)
    main(*sys.argv[1:5], int(sys.argv[5]))
