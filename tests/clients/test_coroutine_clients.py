"""Asynchronous clients in coroutine functions: hundreds of requests at a time, over connections kept open."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from scripted import DROP, HANG, Answer, Scripted, scripted
from verdicts import library, meaning

from conftest import TIMEOUT
from observe import eventually, threads_named
from retrying_executor import RetryingExecutor, RetryPolicy, Upstream, retry_after, service_failed

NAME = "clients"
POOL = 20
BRIEF = 0.05
"""Seconds after which a client gives up a request that is never answered."""


class Client:
    """An asynchronous client that is made when a call first needs it, and how its synchronous sibling asks.

    Args:
        server: What it asks.
    """

    def __init__(self, server: Scripted) -> None:
        self.server, self.url = server, server.url
        self.client: Any = None

    async def ask(self, key: str) -> object:
        if self.client is None:
            self.client = self.make()
        return await self.request(key)

    def patience(self, key: str) -> float:
        """Return how long to wait for an answer: not for long if there will be none."""
        return BRIEF if self.server.plans[key][:1] == [HANG] else TIMEOUT

    make: Callable[[], Any]
    request: Callable[[str], Awaitable[object]]
    ask_synchronously: Callable[[str], object]

    async def close(self) -> None:
        await self.client.close()


class Httpx(Client):
    """As its asynchronous and its synchronous client are used."""

    def make(self) -> Any:
        limits = library("httpx").Limits(max_connections=POOL, max_keepalive_connections=POOL)
        return library("httpx").AsyncClient(limits=limits, trust_env=False)

    def arguments(self, key: str) -> dict[str, Any]:
        return {"json": {"model": key}, "timeout": library("httpx").Timeout(TIMEOUT, read=self.patience(key))}

    async def request(self, key: str) -> object:
        return (await self.client.post(self.url, **self.arguments(key))).raise_for_status().json()

    def ask_synchronously(self, key: str) -> object:
        with library("httpx").Client(trust_env=False) as client:
            return client.post(self.url, **self.arguments(key)).raise_for_status().json()

    async def close(self) -> None:
        await self.client.aclose()


class Aiohttp(Client):
    """It raises for a status on request only; its sibling is requests."""

    def make(self) -> Any:
        aiohttp = library("aiohttp")
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=POOL), raise_for_status=True)

    async def request(self, key: str) -> object:
        timeout = library("aiohttp").ClientTimeout(sock_read=self.patience(key))
        async with self.client.post(self.url, json={"model": key}, timeout=timeout) as answer:
            return await answer.json()

    def ask_synchronously(self, key: str) -> object:
        timeout = self.patience(key)
        with library("requests").post(self.url, json={"model": key}, timeout=timeout) as answer:
            return answer.raise_for_status()


class Llm(Client):
    """Of a language model. Both clients are generated, and look much the same from outside."""

    name = asynchronous = synchronous = ""

    @property
    def httpx(self) -> Any:
        """What the client makes its requests with: httpx, or a successor of it."""
        http = library(self.name).DefaultAsyncHttpxClient
        return importlib.import_module(http.__mro__[1].__module__.partition(".")[0])

    def make(self) -> Any:
        limits = self.httpx.Limits(max_connections=POOL, max_keepalive_connections=POOL)
        http = library(self.name).DefaultAsyncHttpxClient(limits=limits, trust_env=False)
        client = getattr(library(self.name), self.asynchronous)
        return client(api_key="test", base_url=self.url, max_retries=0, http_client=http)

    async def request(self, key: str) -> object:
        return await self.create(self.client, key)

    def ask_synchronously(self, key: str) -> object:
        client = getattr(library(self.name), self.synchronous)
        with client(api_key="test", base_url=self.url, max_retries=0) as client:
            return self.create(client, key)

    create: Callable[[Any, str], Any]

    def arguments(self, key: str) -> dict[str, Any]:
        timeout = self.httpx.Timeout(TIMEOUT, read=self.patience(key))
        return {"model": key, "messages": [{"role": "user", "content": "hello"}], "timeout": timeout}


class OpenAI(Llm):
    """One of these."""

    name, asynchronous, synchronous = "openai", "AsyncOpenAI", "OpenAI"

    def create(self, client: Any, key: str) -> Any:
        return client.chat.completions.create(**self.arguments(key))


class Anthropic(Llm):
    """Another."""

    name, asynchronous, synchronous = "anthropic", "AsyncAnthropic", "Anthropic"

    def create(self, client: Any, key: str) -> Any:
        return client.messages.create(max_tokens=5, **self.arguments(key))


CLIENTS = pytest.mark.parametrize("kind", [Httpx, Aiohttp, OpenAI, Anthropic])
LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])

Kind = Callable[..., Client]


@pytest.fixture
def server() -> Iterator[Scripted]:
    """A server that does as it is told."""
    with scripted() as server:
        yield server


def executing(loop: str = "asyncio", **options: Any) -> RetryingExecutor:
    """Return an executor that runs its coroutines in such a loop, and retries at once."""
    factory = library("uvloop").new_event_loop if loop == "uvloop" else None
    return RetryingExecutor(4, NAME, retry=RetryPolicy(delays=(0, 0, 0, 0)), loop_factory=factory, **options)


@pytest.mark.parametrize(
    ("kind", "loop"),
    [
        *((kind, "asyncio") for kind in (Httpx, Aiohttp, OpenAI, Anthropic)),
        *((kind, "uvloop") for kind in (Httpx, Aiohttp)),
    ],
)
def test_hundreds_at_a_time_share_a_client_and_its_connections(
    server: Scripted, kind: Kind, loop: str
) -> None:
    """It is made in the first call that needs it, and makes as many connections as its pool says (K1)."""
    keys = [f"model {number}" for number in range(200)]
    client = kind(server)
    server.together = POOL  # so that no connection is free before all are made
    with executing(loop) as executor:
        answers = list(executor.map(client.ask, keys, timeout=TIMEOUT))
        assert POOL == server.connections
        executor.submit(client.close).result(TIMEOUT)
        assert eventually(lambda: not server.open)
    assert len(keys) == len(answers)
    assert dict.fromkeys(keys, 1) == server.asked


@CLIENTS
def test_whatever_goes_wrong_hundreds_get_through(server: Scripted, kind: Kind) -> None:
    """Refused, dropped or not answered: each is asked for once more for that (K1, U2)."""
    wait = Answer(429, {"Retry-After": "0"})
    plans: list[list[Answer | str]] = [[], [wait], [Answer(503)], [DROP], [HANG], [wait, Answer(500), DROP]]
    keys = [f"model {number}" for number in range(120)]
    for number, key in enumerate(keys):
        server.plans[key] = [*plans[number % len(plans)]]
    expected = {key: len(server.plans[key]) + 1 for key in keys}
    client = kind(server)
    with executing() as executor:
        futures = {key: executor.submit(client.ask, key) for key in keys}
        for future in futures.values():
            assert future.result(TIMEOUT)
        executor.submit(client.close).result(TIMEOUT)
    assert expected == server.asked
    assert expected == {key: future.attempts for key, future in futures.items()}


FAILURES = [
    Answer(429, {"Retry-After": "7"}),
    Answer(429),
    Answer(503, {"Retry-After": "7"}),
    Answer(500),
    Answer(404),
    Answer(401),
    DROP,
    HANG,
]


@CLIENTS
def test_failures_mean_what_those_of_the_synchronous_client_mean(server: Scripted, kind: Kind) -> None:
    """Whether to try again, when, and whether that tells of the service (K1, U1, U2, U5)."""
    client = kind(server)

    def met(ask: Callable[[Answer | str], BaseException | None]) -> list[object]:
        errors: list[Any] = [ask(failure) for failure in FAILURES]
        return [(meaning(error), retry_after(error), service_failed(error)) for error in errors]

    def ask_synchronously(failure: Answer | str) -> BaseException:
        server.plans["m"] = [failure]
        with pytest.raises(Exception) as caught:  # noqa: PT011  # each client raises its own
            client.ask_synchronously("m")
        return caught.value

    with executing() as executor:

        def ask(failure: Answer | str) -> BaseException | None:
            server.plans["m"] = [failure]
            return executor.with_options(retry=None).submit(client.ask, "m").exception(TIMEOUT)

        assert met(ask_synchronously) == met(ask)
        executor.submit(client.close).result(TIMEOUT)


@CLIENTS
def test_one_refusal_holds_all_calls_to_the_upstream(server: Scripted, kind: Kind) -> None:
    """As with plain functions: no call runs into a limit that another one has met (K1, U2, U4)."""
    server.plans["first"] = [Answer(429, {"Retry-After": "600"})]
    client, upstream = kind(server), Upstream("model")
    with executing(upstream=upstream) as executor:
        first = executor.submit(client.ask, "first")
        assert eventually(lambda: executor.stats().in_backoff)
        second = executor.submit(client.ask, "second")
        assert eventually(lambda: executor.stats().held)
        assert 1 == sum(server.asked.values())
        assert first.cancel()
        assert second.cancel()
        executor.with_options(upstream=None).submit(client.close).result(TIMEOUT)


@LOOPS
@CLIENTS
def test_a_client_goes_on_with_its_connection_in_the_next_thread(
    server: Scripted, kind: Kind, loop: str
) -> None:
    """The loop outlives its threads; if the server has closed the connection, there is a new one (K2)."""
    client = kind(server)

    def ask(executor: RetryingExecutor) -> None:
        assert executor.submit(client.ask, "m").result(TIMEOUT)
        assert eventually(lambda: not threads_named(NAME))  # gone, and the loop's thread with them

    with executing(loop, idle_timeout=0) as executor:
        for _ in range(3):
            ask(executor)
        assert 1 == server.connections
        server.close_connections()
        ask(executor)
        assert 2 == server.connections
        executor.submit(client.close).result(TIMEOUT)
        assert eventually(lambda: not server.open)


@CLIENTS
def test_a_request_that_is_cancelled_leaves_a_client_that_works(server: Scripted, kind: Kind) -> None:
    """Its connection is closed, and others go on (K3)."""
    server.plans["m"] = [HANG]
    client = kind(server)
    with executing() as executor:
        future = executor.submit(client.ask, "m")
        assert eventually(lambda: server.asked["m"])
        assert future.cancel()
        assert eventually(lambda: not server.open)
        assert executor.submit(client.ask, "m").result(TIMEOUT)
        executor.submit(client.close).result(TIMEOUT)
    assert 2 == server.asked["m"]


class AnsweredError(Exception):
    """An exception of the program, with the answer that it is about."""

    def __init__(self, response: Any) -> None:
        super().__init__()
        self.response = response


@pytest.mark.parametrize("name", ["httpx", "aiohttp"])
def test_backoff_of_a_coroutine_function_holds_no_connection(server: Scripted, name: str) -> None:
    """An answer that nobody has read or closed is closed in the loop (B5)."""
    server.plans["m"] = [Answer(503, {"Content-Length": "1000000"})]  # it goes on for ever
    client = (Httpx if name == "httpx" else Aiohttp)(server)

    async def stream() -> None:
        client.client = client.make()
        if name == "httpx":
            request = client.client.build_request("POST", server.url, json={"model": "m"})
            (await client.client.send(request, stream=True)).raise_for_status()
        else:
            raise AnsweredError(
                await client.client.post(server.url, json={"model": "m"}, raise_for_status=False)
            )

    with executing() as executor:
        future = executor.with_options(delays=[600]).submit(stream)
        assert eventually(lambda: executor.stats().in_backoff)
        assert eventually(lambda: not server.open)
        assert future.cancel()
        executor.submit(client.close).result(TIMEOUT)
