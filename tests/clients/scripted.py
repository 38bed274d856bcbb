"""A server on loopback that counts connections, and answers, refuses, drops or hangs as it is told."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from asyncio import StreamReader, StreamWriter
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from conftest import TIMEOUT

_LENGTH = re.compile(rb"(?i)^content-length: *(\d+)", re.MULTILINE)

CHOICE = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "done"}}
CHAT = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE]}
MESSAGE = {
    "id": "1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "done"}],
    "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
}
DONE = {**MESSAGE, **CHAT}
"""What both clients of language models understand, and others may as well have."""


class Answer:
    """A status, headers, and a body that is JSON."""

    def __init__(self, status: int, headers: dict[str, str] | None = None, body: object = None) -> None:
        self.status, self.headers, self.body = status, headers or {}, body or {"error": {"message": "no"}}

    def __bytes__(self) -> bytes:
        body = json.dumps(self.body).encode()
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "keep-alive",
            **self.headers,
        }
        lines = [f"HTTP/1.1 {self.status} X", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


OK = Answer(200, body=DONE)
DROP, HANG = "drop", "hang"
"""Close the connection without an answer; or never answer."""


class Scripted:
    """Answers the requests for each key as it is told to, one after the other, and then with `OK`.

    The key is the ``model`` in the JSON that was sent, or the path if nothing was.
    """

    def __init__(self) -> None:
        self.plans: defaultdict[str, list[Answer | str]] = defaultdict(list)
        self.asked: Counter[str] = Counter()
        self.connections = 0  # so many were made
        self.open: dict[StreamWriter, Any] = {}  # connections, and the tasks that serve them
        self.together = 0  # hold back answers until so many requests are there at a time
        self._held: list[asyncio.Future[None]] = []
        self.url = ""

    async def serve(self, started: threading.Event) -> None:
        """Serve until `stop`."""
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1000)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await self._stopped.wait()
        server.close()
        await self._close_connections()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.connections += 1
        self.open[writer] = asyncio.current_task()
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has closed the connection
        finally:
            writer.close()
            del self.open[writer]

    async def _answer(self, reader: StreamReader, writer: StreamWriter) -> bool:
        """Answer a request; return whether the connection is to be kept."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if length is None:
            key = head.split()[1].decode()
        else:
            key = json.loads(await reader.readexactly(int(length[1])))["model"]
        self.asked[key] += 1
        await self._wait_for_others()
        answer = self.plans[key].pop(0) if self.plans[key] else OK
        if answer is DROP:
            return False
        if answer is HANG:
            await reader.read(1)
            return False
        assert isinstance(answer, Answer)
        writer.write(bytes(answer))
        await writer.drain()
        return True

    async def _wait_for_others(self) -> None:
        if len(self._held) + 1 < self.together:
            self._held.append(self._loop.create_future())
            await self._held[-1]
        elif self.together:
            self.together = 0
            for held in self._held:
                held.set_result(None)

    def close_connections(self) -> None:
        """Close what clients keep open, and return when that has been sent."""
        asyncio.run_coroutine_threadsafe(self._close_connections(), self._loop).result(TIMEOUT)

    async def _close_connections(self) -> None:
        tasks = [*self.open.values()]
        for writer in self.open:
            writer.close()
        if tasks:
            await asyncio.wait(tasks)


@contextmanager
def scripted() -> Iterator[Scripted]:
    """Serve in a thread until the end of the block."""
    server, started = Scripted(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(started)))
    thread.start()
    try:
        assert started.wait(TIMEOUT)
        yield server
    finally:
        server.stop()
        thread.join()
