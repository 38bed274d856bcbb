"""A service in a process of its own: answers each line, a number of seconds, after that time.

``python -m tests.benchmarks.service`` writes its port to stdout, and ends with its stdin.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

HOST = "127.0.0.1"
TIMEOUT = 30.0


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection until it is closed."""
    try:
        while line := await reader.readline():
            await asyncio.sleep(float(line))
            writer.write(b"\n")
            await writer.drain()
    finally:
        writer.close()


async def serve() -> None:
    """Serve until stdin ends."""
    server = await asyncio.start_server(answer, HOST, 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextmanager
def running_service() -> Iterator[int]:
    """Run the service; yields its port."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "tests.benchmarks.service"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, encoding="ascii") as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.communicate(timeout=TIMEOUT)


class Client:
    """Asks the service, over one connection for each thread."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._local = threading.local()
        self._connections: list[socket.socket] = []

    def ask(self, seconds: float) -> None:
        """Wait for an answer that takes so long."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = socket.create_connection((HOST, self._port), TIMEOUT)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.append(connection)
        connection.sendall(f"{seconds:.6f}\n".encode())
        if connection.recv(1) != b"\n":
            raise ConnectionError("the service has gone")

    def close(self) -> None:
        """Close all connections; nobody is asking any more."""
        for connection in self._connections:
            connection.close()


if __name__ == "__main__":
    asyncio.run(serve())
