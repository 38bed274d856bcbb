"""A service on loopback that takes orders, and shows what was ordered twice."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from answering import serving
from conftest import TIMEOUT


class Partner(ThreadingHTTPServer):
    """Takes orders at once, but answers only as many as it is told to.

    Attributes:
        orders: How many times it was sent each order, with which key.
    """

    daemon_threads = False  # so that closing it waits for them
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.orders: Counter[tuple[int, str]] = Counter()
        self._lock = threading.Lock()
        self._answers = threading.Semaphore(0)

    def answer(self, number: int) -> None:
        """Answer that many more requests."""
        self._answers.release(number)

    def take(self, order: int, key: str) -> None:
        """Take an order, and return when it is to be answered."""
        with self._lock:
            self.orders[order, key] += 1
        assert self._answers.acquire(timeout=TIMEOUT)

    @property
    def received(self) -> int:
        """How many requests there were."""
        return self.orders.total()


class _Handler(BaseHTTPRequestHandler):
    server: Partner

    def do_POST(self) -> None:  # so http.server wants it
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.take(int(sent["order"]), self.headers["Idempotency-Key"])
        with suppress(ConnectionError):  # of a client that was killed
            self.send_response_only(200)
            self.send_header("Content-Length", "0")
            self.end_headers()


@contextmanager
def partner() -> Iterator[Partner]:
    """Serve until the end of the block."""
    server = Partner()
    with serving(server):
        try:
            yield server
        finally:
            server.answer(100_000)  # whatever still waits
