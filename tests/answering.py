"""A server on loopback that answers as it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer


class Server(ThreadingHTTPServer):
    """Answers every request with the status, the headers and the body that it was last told."""

    daemon_threads = False  # so that closing it waits for them
    status, headers, body = 200, {}, b"{}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"{}") -> None:
        """Answer like this from now on."""
        self.status, self.headers, self.body = status, dict(headers or {}), body


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:  # so http.server wants it
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response_only(self.server.status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(self.server.body))}
        for name, value in {**headers, **self.server.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.body)

    do_POST = do_GET  # noqa: N815  # so http.server wants it


@contextmanager
def serving(server: TCPServer) -> Iterator[int]:
    """Serve in a thread until the end of the block; yield the port."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    with server:
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def answering() -> Iterator[Server]:
    """Serve until the end of the block."""
    server = Server(("127.0.0.1", 0), _Handler)
    with serving(server):
        yield server
