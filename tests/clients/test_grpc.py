"""grpc serves calls in an executor, or in one of the method's own, and that must be a ThreadPoolExecutor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from conftest import TIMEOUT
from retrying_executor import RetryingExecutor

grpc = pytest.importorskip("grpc", reason="grpc is not installed")


@contextmanager
def serving(executor: RetryingExecutor, behavior: Callable[[bytes, Any], bytes]) -> Iterator[Any]:
    """Serve one method over loopback; yield what calls it."""
    server = grpc.server(executor)
    handler = grpc.unary_unary_rpc_method_handler(behavior)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Ask": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel.unary_unary("/test/Ask")
    finally:
        assert server.stop(None).wait(TIMEOUT)


def thread_name(request: bytes, context: Any) -> bytes:
    """Answer with the request and the name of the thread that serves it."""
    return request + b" " + threading.current_thread().name.encode()


def test_server_runs_in_the_executor() -> None:
    """``grpc.server(executor)`` serves calls in its threads (A5)."""
    with RetryingExecutor(2, "server") as executor, serving(executor, thread_name) as ask:
        assert b"hello server_0" == ask(b"hello", timeout=TIMEOUT, wait_for_ready=True)


def test_method_runs_in_its_own_executor() -> None:
    """``experimental_thread_pool`` of a method is taken, as it is a ThreadPoolExecutor (A5)."""

    def behavior(request: bytes, context: Any) -> bytes:
        return thread_name(request, context)

    with RetryingExecutor(2, "server") as executor, RetryingExecutor(2, "method") as own:
        behavior.experimental_thread_pool = own  # type: ignore[attr-defined]  # so grpc wants it
        with serving(executor, behavior) as ask:
            assert b"hello method_0" == ask(b"hello", timeout=TIMEOUT, wait_for_ready=True)


def test_client_calls_are_retried(executor: RetryingExecutor) -> None:
    """A call that the server cannot serve yet is made again (A5, B1)."""
    requests: list[bytes] = []

    def behavior(request: bytes, context: Any) -> bytes:
        requests.append(request)
        if len(requests) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return request

    with RetryingExecutor(2, "server") as server, serving(server, behavior) as ask:
        future = executor.submit(ask, b"hello", timeout=TIMEOUT, wait_for_ready=True)
        assert b"hello" == future.result(TIMEOUT)
    assert 3 == future.attempts
