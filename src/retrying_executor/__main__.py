"""Deliver webhooks to a service that fails and goes down, without retries and with them.

Or, with ``journal`` as the first argument, look at what is in a journal.
"""

# ruff: noqa: T201  # a command speaks by printing

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from retrying_executor._demo import kills, report, scenario, webhooks

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the options *argv*, those of the process if ``None``; return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["journal"]:
        from retrying_executor._journal import command  # which the demonstration does without

        return command.main(argv[1:])
    options = scenario.parse(argv)
    try:
        print(report.introduction(options), flush=True)
        if options.kill:
            with report.progress_line(sys.stdout, "RetryingExecutor") as show:
                found = kills.deliver_all(options, show)
            print(report.of_kills(found))
            return 1 if found.lost or found.files_left else 0
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
    logging.getLogger("retrying_executor").setLevel(logging.ERROR)  # warnings would break the live line
    sys.exit(main())
