"""Deliver webhooks in a process that is killed again and again, and started again each time.

The service runs here, so its ledger outlives that process, and tells what was delivered.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from retrying_executor._demo.scenario import KILLS
from retrying_executor._demo.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable

    from retrying_executor._demo.scenario import Scenario

_TICK = 0.01  # seconds between two looks at what is going on


@dataclass(frozen=True)
class KillReport:
    """What became of the webhooks; the time is in seconds."""

    accepted: int
    delivered: int
    lost: int
    twice: int
    kills: int
    files_left: int
    time: float


def deliver_all(scenario: Scenario, show: Callable[[float, str], None]) -> KillReport:
    """Deliver the webhooks to a new service, with a new journal.

    Args:
        scenario: What to deliver, and what the service is like.
        show: Called again and again with the share that is delivered, and what is going on.
    """
    service = Service(scenario)
    numbers = random.Random(f"{scenario.seed}/kills").sample(range(1, scenario.calls), KILLS)
    moments = sorted(numbers)  # when so many webhooks are delivered
    began_at = time.monotonic()
    accepted = kills = 0
    is_over = False
    with TemporaryDirectory() as directory, service.running() as url:
        journal = Path(directory, "journal")
        while not is_over:
            moment = moments[kills] if kills < len(moments) else scenario.calls + 1
            with _worker(scenario, journal, url, accepted) as worker:
                try:
                    while worker.poll() is None and len(service.ledger) < moment and not is_over:
                        up = "" if service.is_up else "  OUTAGE"
                        show(len(service.ledger) / scenario.calls, f"killed {kills} times{up}")
                        time.sleep(_TICK)
                        is_over = time.monotonic() - began_at > scenario.max_elapsed
                    is_over = is_over or worker.poll() is not None
                finally:
                    worker.kill()  # with SIGKILL, of which a process hears nothing
                assert worker.stdout is not None
                accepted += len(worker.stdout.read())
            kills += not is_over
        files_left = len(list(journal.glob("*")))
    return KillReport(
        accepted=accepted,
        delivered=len(service.ledger),
        lost=scenario.calls - len(service.ledger),
        twice=len(service.repeated),
        kills=kills,
        files_left=files_left,
        time=time.monotonic() - began_at,
    )


def _worker(scenario: Scenario, journal: Path, url: str, first: int) -> subprocess.Popen[bytes]:
    """Start a process that delivers all webhooks from the *first* on, and what is in the journal."""
    options = [json.dumps(asdict(scenario)), str(journal), url, str(first)]
    command = [sys.executable, "-m", "retrying_executor._demo.worker", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE)
