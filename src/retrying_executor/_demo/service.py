"""The service that webhooks are delivered to: busy, unreliable, and down for a while.

``_lock`` guards ``_requests``, and the changes of ``ledger`` and ``repeated``: requests are handled in
threads of their own. Only the thread of `Service.running` opens and closes the listening socket.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrying_executor._demo.scenario import Scenario

HOST = "127.0.0.1"
WORK = 0.02
"""How long the service works on each request, in seconds."""


class Service:
    """A service that fails some requests, which the seed chooses, and goes down once, as *scenario* says.

    Attributes:
        ledger: The ids of the webhooks that were accepted, each once however often it came.
        repeated: Those that came again after that.
        is_up: Whether the service can be reached.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.ledger: set[str] = set()
        self.repeated: set[str] = set()
        self.is_up = False
        self._scenario = scenario
        self._requests: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._outage_begins = threading.Event()
        self._closing = threading.Event()

    def receive(self, webhook_id: str) -> HTTPStatus:
        """Accept a webhook or fail, and return how to answer the request."""
        time.sleep(WORK)
        with self._lock:
            self._requests[webhook_id] += 1
            fate = random.Random(f"{self._scenario.seed}/{webhook_id}/{self._requests[webhook_id]}")
            if fate.random() < self._scenario.failures:
                return HTTPStatus.SERVICE_UNAVAILABLE
            if webhook_id in self.ledger:
                self.repeated.add(webhook_id)
            self.ledger.add(webhook_id)
            if len(self.ledger) >= self._scenario.outage_after:
                self._outage_begins.set()
            return HTTPStatus.OK

    @contextmanager
    def running(self) -> Iterator[str]:
        """Run until the ``with`` block ends; yield the URL to post webhooks to."""
        server = self._bind(port=0)
        server.server_activate()
        self.is_up = True
        # A daemon: if Ctrl-C comes right after the start, it must not keep the process alive.
        thread = threading.Thread(target=self._run, args=(server,), name="service", daemon=True)
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_address[1]}/webhooks"
        finally:
            self._closing.set()
            self._outage_begins.set()  # if it has not come yet, it need not come any more
            thread.join()

    def _run(self, server: _Server) -> None:
        server.serve(until=self._outage_begins if self._scenario.outage else self._closing)
        if self._scenario.outage:
            self.is_up = False
            # Bound to the same port, but not listening: connections are refused.
            server = self._bind(server.server_address[1])
            self._closing.wait(self._scenario.outage)
            server.server_activate()
            self.is_up = True
            server.serve(until=self._closing)

    def _bind(self, port: int) -> _Server:
        server = _Server((HOST, port), partial(_Handler, self), bind_and_activate=False)
        server.server_bind()
        return server


class _Server(ThreadingTCPServer):
    """Handles each request in a thread; listens from ``server_activate()`` until it is closed."""

    allow_reuse_address = True  # connections that have just ended do not keep the port
    request_queue_size = 128  # so many connections may wait to be accepted
    timeout = 0.05  # seconds until handle_request() returns without a request

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet if the connection broke: the client was killed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def serve(self, *, until: threading.Event) -> None:
        """Handle requests until the event is set; close, and answer those that have begun."""
        with self:
            while not until.is_set():
                self.handle_request()


class _Handler(BaseHTTPRequestHandler):
    timeout = 5.0  # seconds that a silent client is waited for

    def __init__(self, service: Service, *args: Any) -> None:
        self._service = service
        super().__init__(*args)  # handles the request

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self._service.receive(self.headers["Idempotency-Key"]))
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Keep quiet."""
