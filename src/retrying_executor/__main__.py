"""Deliver webhooks to a service that fails and goes down, without retries and with them."""

# ruff: noqa: T201  # a command speaks by printing

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from retrying_executor._demo import report, scenario, webhooks

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the options *argv*, those of the process if ``None``; return its exit status."""
    options = scenario.parse(argv)
    try:
        print(report.introduction(options), flush=True)
        reports = {}
        for make in (webhooks.plain, webhooks.retrying):
            executor = make(options)
            name = type(executor).__name__
            with report.progress_line(sys.stdout, name) as show:
                reports[name] = webhooks.deliver_all(executor, options, show)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(report.table(reports))
    print(report.verdict(reports["RetryingExecutor"]))
    return 1 if reports["RetryingExecutor"].lost else 0


if __name__ == "__main__":
    logging.getLogger("retrying_executor").setLevel(logging.ERROR)  # the line shows that the service is held
    sys.exit(main())
