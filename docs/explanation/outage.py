"""Measure what a short outage does to calls that are queued, with an upstream and without.

A service on this computer goes down in the middle of a queue of calls. They are made by a `RetryingExecutor`
with an `Upstream`, by one without, and by a `ThreadPoolExecutor` whose calls are wrapped in a loop that
sleeps; all under the same policy. The service is a process of its own and writes down every request:

- it is an HTTP server that takes 10 ms for each request, and accepts it;
- once it has accepted a fifth of the calls it is down: it takes the connection, so that the request can be
  counted, and resets it after 10 ms (RST). A service that is gone altogether would refuse it sooner.
"""

# ruff: noqa: D107, T201  # constructors are described by their classes; a command speaks by printing

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any

from retrying_executor import Attempt, RetryingExecutor, RetryPolicy, Upstream

HOST = "127.0.0.1"
WORK = 0.01  # seconds that the service takes for each request, up or down
BIN = 0.1  # seconds for which requests are counted together
SETTLED = 0.5  # seconds after which an upstream is surely held, and before which it sends no probe
POLICY = RetryPolicy(max_attempts=3)

COLUMNS = (
    "delivered",
    "lost",
    "requests while down",
    "at once",
    "most in 100 ms afterwards",
    "last delivery",
)


# -- the service, in its own process ---------------------------------------------------------------


class Service(ThreadingTCPServer):
    """Accepts requests, and goes down once; ``lock`` guards the rest.

    Attributes:
        requests: Of each its arrival, when it was worked off, and whether the service was down.
        accepted: The ids of the calls that were accepted.
        down_at: When the outage began.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, accept_before: int, outage: float) -> None:
        self.requests: list[tuple[float, float, bool]] = []
        self.accepted: set[str] = set()
        self.down_at = float("inf")
        self.lock = threading.Lock()
        self._accept_before = accept_before
        self._outage = outage
        super().__init__((HOST, 0), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection, in its own thread."""
        arrived_at = time.monotonic()
        with self.lock:
            is_down = self.down_at <= arrived_at < self.down_at + self._outage
        time.sleep(WORK)
        ended_at = time.monotonic()
        if is_down:
            shape = "hh" if os.name == "nt" else "ii"
            request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(shape, 1, 0))
            request.close()
        else:
            super().finish_request(request, client_address)
        with self.lock:
            self.requests.append((arrived_at, ended_at, is_down))

    def accept(self, call_id: str) -> None:
        """Write a call down."""
        with self.lock:
            self.accepted.add(call_id)
            if len(self.accepted) == self._accept_before:
                self.down_at = time.monotonic()

    def report(self) -> dict[str, Any]:
        """Return what happened; times are in seconds since the first request."""
        with self.lock:
            began_at = min(arrived_at for arrived_at, _, _ in self.requests)
            return {
                "down": [self.down_at - began_at, self.down_at - began_at + self._outage],
                "requests": sorted((at - began_at, end - began_at, down) for at, end, down in self.requests),
                "delivered": len(self.accepted),
            }


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        self.server.accept(self.headers["Idempotency-Key"])
        self.send_response(200)
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Keep quiet."""


def serve(accept_before: int, outage: float) -> None:
    """Write the port to stdout; at the end of stdin, what happened."""
    with Service(accept_before, outage) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        print(service.server_address[1], flush=True)
        sys.stdin.read()
        service.shutdown()
        thread.join()
        print(json.dumps(service.report()))


@contextmanager
def running_service(accept_before: int, outage: float) -> Iterator[tuple[int, Callable[[], dict[str, Any]]]]:
    """Run the service in a process of its own: yields its port, and what ends it and returns its report."""
    command = [sys.executable, __file__, "--serve", str(accept_before), str(outage)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, encoding="ascii") as process:
        assert process.stdout is not None

        def ending() -> dict[str, Any]:
            report: dict[str, Any] = json.loads(process.communicate(timeout=60)[0])
            return report

        yield int(process.stdout.readline()), ending


# -- its clients -----------------------------------------------------------------------------------


def deliver(port: int, call_id: str) -> None:
    """Make one attempt; `OSError` if it fails."""
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        connection.request("POST", "/", headers={"Idempotency-Key": call_id})
        connection.getresponse().read()
    finally:
        connection.close()


def deliver_in_a_loop(port: int, call_id: str) -> None:
    """Make one attempt after the other, and sleep in between: what is written without a library."""
    began_at, number = time.monotonic(), 0
    while True:
        try:
            return deliver(port, call_id)
        except Exception as error:
            number += 1
            elapsed = time.monotonic() - began_at
            delay = POLICY(Attempt(number=number, exception=error, result=None, elapsed=elapsed))
            if delay is None:
                raise
        time.sleep(delay)


def _with_upstream(workers: int) -> RetryingExecutor:
    return RetryingExecutor(workers, retry=POLICY, upstream=Upstream("service"))


def _without(workers: int) -> RetryingExecutor:
    return RetryingExecutor(workers, retry=POLICY)


STRATEGIES: dict[str, tuple[Callable[[int], ThreadPoolExecutor], Callable[[int, str], None]]] = {
    "RetryingExecutor with an Upstream": (_with_upstream, deliver),
    "RetryingExecutor without": (_without, deliver),
    "ThreadPoolExecutor and a loop": (ThreadPoolExecutor, deliver_in_a_loop),
}


# -- what is measured ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measurement:
    """What became of the calls; times are in seconds since the first request.

    Attributes:
        strategy: What made the calls.
        delivered: How many the service accepted.
        lost: How many it did not.
        down: From when to when the service was down.
        while_down: How many requests it got meanwhile.
        at_once: How many it had in flight at most while down, but for the first half second.
        peak_afterwards: How many it got at most in 100 ms, after it had come back.
        last_delivery: When the last call ended that was accepted.
        arrivals: How many it got in each 100 ms.
    """

    strategy: str
    delivered: int
    lost: int
    down: tuple[float, float]
    while_down: int
    at_once: int
    peak_afterwards: int
    last_delivery: float
    arrivals: list[int]

    def cells(self) -> list[str]:
        """Return its row of the table."""
        numbers = [self.delivered, self.lost, self.while_down, self.at_once, self.peak_afterwards]
        return [self.strategy, *(f"{number:,}" for number in numbers), f"{self.last_delivery:.1f} s"]


def measure(strategy: str, *, calls: int, outage: float, workers: int) -> Measurement:
    """Let *calls* be made by a strategy, with an outage of so many seconds in the middle."""
    make, call = STRATEGIES[strategy]
    with running_service(calls // 5, outage) as (port, ending):
        with make(workers) as executor:
            futures: list[Future[None]] = [executor.submit(call, port, f"call-{n}") for n in range(calls)]
        errors = [error for future in futures if (error := future.exception()) is not None]
        report = ending()
    assert calls == report["delivered"] + len(errors)
    requests, (down_at, up_at) = report["requests"], report["down"]
    arrivals = _histogram(at for at, _, _ in requests)
    return Measurement(
        strategy=strategy,
        delivered=report["delivered"],
        lost=len(errors),
        down=(down_at, up_at),
        while_down=sum(is_down for _, _, is_down in requests),
        at_once=_most_at_once((at, end) for at, end, down in requests if down and at >= down_at + SETTLED),
        peak_afterwards=max(_histogram(at - up_at for at, _, down in requests if at >= up_at), default=0),
        last_delivery=max(end for _, end, is_down in requests if not is_down),
        arrivals=arrivals,
    )


def _histogram(times: Iterator[float]) -> list[int]:
    bins = [int(at / BIN) for at in times]
    counts = [0] * (max(bins, default=-1) + 1)
    for index in bins:
        counts[index] += 1
    return counts


def _most_at_once(intervals: Iterator[tuple[float, float]]) -> int:
    changes = sorted(change for begin, end in intervals for change in ((begin, 1), (end, -1)))
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def table(measurements: Sequence[Measurement]) -> str:
    """Return the measurements as a table in Markdown."""
    rows = [["", *COLUMNS], ["---", *("---:" for _ in COLUMNS)], *(m.cells() for m in measurements)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw(measurements: Sequence[Measurement], path: Path) -> None:
    """Draw the requests over time; readable on light and on dark ground."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update(STYLE)
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    for axes, one in zip(
        figure.subplots(len(measurements), sharex=True, sharey=True), measurements, strict=True
    ):
        edges = [BIN * index for index in range(len(one.arrivals) + 1)]
        axes.axvspan(*one.down, color="#d9534f", alpha=0.25, linewidth=0)
        axes.stairs(one.arrivals, edges, fill=True, color="#3b8ec2")
        axes.set_title(f"{one.strategy}: {one.lost:,} lost", loc="left", fontsize="medium")
        axes.set_ylabel("requests\nin 100 ms")
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("seconds since the first request (the service is down where it is red)")
    axes.set_xlim(0)
    figure.savefig(path, transparent=True, metadata={"Date": None})


STYLE = {
    **{f"{part}.color": "#808080" for part in ("text", "xtick", "ytick")},
    **{f"axes.{part}color": "#808080" for part in ("edge", "label", "title")},
    "svg.fonttype": "none",
    "svg.hashsalt": "retrying_executor",
    "font.family": "sans-serif",
}
"""Mid-tones for matplotlib, and text that stays text."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=5000, help="how many (%(default)s)")
    parser.add_argument("--outage", type=float, default=4.0, help="for how many seconds (%(default)s)")
    parser.add_argument("--workers", type=int, default=16, help="threads of each executor (%(default)s)")
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    parser.add_argument("--svg", type=Path, help="where to draw it (needs matplotlib)")
    parser.add_argument("--serve", nargs=2, type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.serve:
        serve(int(options.serve[0]), options.serve[1])
        return
    run = partial(measure, calls=options.calls, outage=options.outage, workers=options.workers)
    measurements = [run(strategy) for strategy in STRATEGIES]
    print(table(measurements))
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in measurements]), encoding="ascii")
    if options.svg:
        draw(measurements, options.svg)


if __name__ == "__main__":
    main()
