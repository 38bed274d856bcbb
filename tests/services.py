"""Services on loopback that count what reaches them, and keep to limits."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.error import HTTPError

from answering import serving

ROUNDING = 1e-6  # seconds that the sum of two times may be wrong by


class Answer(NamedTuple):
    """How a request is answered; only a status of 200 has a body."""

    body: object = None
    status: int = HTTPStatus.OK
    retry_after: float | None = None


UNAVAILABLE = Answer(status=HTTPStatus.SERVICE_UNAVAILABLE)


class Service(ThreadingHTTPServer):
    """Answers each request as a function says, and keeps what it was asked for.

    Args:
        answer: Called with the path of a request, without the first slash, and with what was sent.
    """

    daemon_threads = False  # so that closing it waits for them
    request_queue_size = 128

    def __init__(self, answer: Callable[[str, bytes], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.host = f"127.0.0.1:{self.server_port}"
        self.url = f"http://{self.host}"
        self.paths: list[str] = []  # in the order in which they came
        self.statuses: Counter[int] = Counter()
        self.at_once = 0
        self.most_at_once = 0
        self._answer = answer
        self._lock = threading.Lock()

    def handle(self, path: str, sent: bytes) -> Answer:
        """Return how a request is answered."""
        with self._lock:
            self.paths.append(path)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        answer = self._answer(path, sent)
        with self._lock:
            self.at_once -= 1
            self.statuses[answer.status] += 1
        return answer


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:  # so http.server wants it
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.server.handle(self.path.removeprefix("/"), sent)
        body = json.dumps(answer.body).encode() if answer.status == HTTPStatus.OK else b""
        self.send_response_only(answer.status)
        self.send_header("Content-Length", str(len(body)))
        if answer.retry_after is not None:
            self.send_header("Retry-After", str(math.ceil(answer.retry_after)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815  # so http.server wants it


@contextmanager
def service(answer: Callable[[str, bytes], Answer]) -> Iterator[Service]:
    """Serve until the end of the block."""
    server = Service(answer)
    with serving(server):
        yield server


class Quota:
    """How much a service lets through in any window of so many seconds."""

    def __init__(self, most: float, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._taken: list[tuple[float, float]] = []

    def opens_in(self, weight: float, now: float) -> float:
        """Return after how many seconds there is room for so much; 0: now."""
        begins = now - self._seconds + ROUNDING
        self._taken = [(at, taken) for at, taken in self._taken if at > begins]
        excess = sum(taken for _, taken in self._taken) + weight - self._most
        opens_at = now
        for at, taken in self._taken:
            if excess <= 0:
                break
            opens_at, excess = at + self._seconds, excess - taken
        return opens_at - now

    def take(self, weight: float, now: float) -> None:
        """Let so much through."""
        self._taken.append((now, weight))


def most_within(seconds: float, times: Sequence[float]) -> int:
    """Return how many of the ascending *times* are in one window, at most."""
    return max(sum(0 <= later - begin < seconds - ROUNDING for later in times) for begin in times)


def close(failures: Mapping[Any, BaseException]) -> None:
    """Close the answers that failures refer to, if any: those of urllib keep a connection open."""
    for failure in failures.values():
        if isinstance(failure, HTTPError):
            failure.close()
