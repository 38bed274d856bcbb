"""The process that delivers webhooks until it is killed: see `kills`."""

# ruff: noqa: T201  # a command speaks by printing

from __future__ import annotations

import json
import logging
import signal
import sys

from retrying_executor import Journal
from retrying_executor._demo.scenario import KILLS, Scenario
from retrying_executor._demo.webhooks import deliver, retrying


def main(argv: list[str]) -> None:
    """Go on with the webhooks in the journal, accept the others, and end when all are delivered.

    For each that is accepted, a character is written to stdout.
    """
    options, journal, url, first = argv
    scenario = Scenario(**json.loads(options))
    # A call that runs when its process dies is suspected of having killed it. Here, none has.
    with retrying(scenario, Journal(journal, max_crashes=KILLS + 1)) as executor:
        for number in range(int(first), scenario.calls):
            executor.submit(deliver, url, f"webhook-{number}")
            print(end=".", flush=True)


if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C ends the process that has started this, which kills it
    logging.getLogger("retrying_executor").setLevel(logging.CRITICAL)  # the report says what was lost
    main(sys.argv[1:])
