"""What the clients of HTTP raise: whether another try can help, and when."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import socket
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from verdicts import (
    AGAIN,
    ANY,
    FINAL,
    NOT_NOW,
    RETRY,
    Row,
    check,
    check_row,
    date,
    each,
    epoch,
    library,
    raised,
)

from answering import Server, answering
from conftest import TIMEOUT
from retrying_executor import transient

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"  # clients leave sockets to the collector
)


# -- Clients of HTTP -------------------------------------------------------------------------------


def ask_requests(url: str, **kwargs: Any) -> None:
    with library("requests").get(url, timeout=TIMEOUT, **kwargs) as response:
        response.raise_for_status()
        response.json()


def ask_httpx(url: str, name: str = "httpx", **kwargs: Any) -> None:
    with library(name).Client(trust_env=False, timeout=TIMEOUT, **kwargs) as client:
        client.get(url).raise_for_status().json()


def ask_httpx2(url: str, **kwargs: Any) -> None:
    ask_httpx(url, "httpx2", **kwargs)


def ask_aiohttp(url: str, **kwargs: Any) -> None:
    aiohttp = library("aiohttp")

    async def ask() -> None:
        async with (
            aiohttp.ClientSession(raise_for_status=True) as session,
            session.get(url, **kwargs) as response,
        ):
            await response.json()

    asyncio.run(ask())


def ask_urllib(url: str, **kwargs: Any) -> None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT, **kwargs) as response:
            json.load(response)
    except urllib.error.HTTPError as error:
        error.close()
        raise


def ask_urllib3(url: str, **kwargs: Any) -> None:
    with library("urllib3").PoolManager(retries=False, timeout=TIMEOUT, **kwargs) as pool:
        pool.request("GET", url).json()


def ask_http_client(url: str, **kwargs: Any) -> None:
    scheme, _, host = url.partition("://")
    kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    connection = kind(host, timeout=TIMEOUT, **kwargs)
    try:
        connection.request("GET", "/")
        with connection.getresponse() as response:
            json.load(response)
    finally:
        connection.close()


READ = [ask_requests, ask_httpx, ask_httpx2]
"""What they raise has the body of the answer."""
RAISE = [*READ, ask_aiohttp, ask_urllib]
"""They raise what an answer with a bad status says."""
ALL = [*RAISE, ask_urllib3, ask_http_client]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that answers as it is told."""
    with answering() as server:
        yield server


# RFC 9110, 15.5 and 15.6; RFC 8470 (425);
# https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/ (52x,
# 530); https://learn.microsoft.com/azure/cosmos-db/nosql/conceptual-resilient-sdk-applications (449);
# https://developers.hubspot.com/docs/api-reference/error-handling (423); twitter's 420 is its former 429.
# Where the standard says that another try may help, or nothing, it may.
FINAL_STATUSES = [400, 401, 402, 403, 404, 405, 406, 407, *range(410, 418), 422, 426, 431, 451]
STATUSES = [
    *(Row(f"{status}", status, {}, {}, FINAL) for status in FINAL_STATUSES),
    *(Row(f"{status}", status, {}, {}, RETRY) for status in (408, 425, 500, 502, 503, 504, 507, 508, 599)),
    *(Row(f"{status}", status, {}, {}, RETRY) for status in (*range(520, 528), 529, 530)),
    *(Row(f"{status}", status, {}, {}, AGAIN) for status in (420, 423, 449)),
    Row("429", 429, {}, {}, NOT_NOW),
]

# RFC 9110, 10.2.3: three forms of dates, of which two are obsolete, but to be understood (5.6.7). The rest
# occurs: openai._base_client.BaseClient._parse_retry_after_header (fractions, milliseconds),
# azure.core.pipeline.policies._utils (the two of Azure); "30s" and ISO dates occur. What is no such
# hint is none.
HINTS = [
    *(
        Row(f"{status} asks to wait", status, {"Retry-After": "7"}, {}, NOT_NOW, 7)
        for status in (400, 403, 404, 409, 413, 420, 423, 424, 429, 430, 449, 460, 477)
    ),
    *(
        Row(f"{status} asks to wait", status, {"Retry-After": "7"}, {}, AGAIN, 7)
        for status in (408, 425, 500, 502, 503, 504, 529)
    ),
    *(
        Row(f"429 {name}: {value}", 429, {name: value}, {}, NOT_NOW, after)
        for name, value, after in [
            ("Retry-After", "0", 0),
            ("retry-after", " 12 ", 12),
            ("RETRY-AFTER", "1.5", 1.5),
            ("Retry-After", "30s", 30),
            ("retry-after-ms", "1500", 1.5),
            ("retry-after-ms", "0.5", 0.0005),
            ("x-ms-retry-after-ms", "250", 0.25),
            ("Retry-After", "soon", None),
            ("Retry-After", "", None),
            ("Retry-After", "-7", None),
            ("Retry-After", "nan", None),
            ("Retry-After", "inf", None),
            ("Retry-After", "1e999", None),
            ("Retry-After", "7, 8", ANY),
        ]
    ),
    *(
        Row(f"429 date {form} {hours}", 429, {"Retry-After": date(100, form, hours)}, {}, NOT_NOW, 100)
        for form, hours in [
            ("%a, %d %b %Y %H:%M:%S GMT", 0),
            ("%A, %d-%b-%y %H:%M:%S GMT", 0),
            ("%a %b %d %H:%M:%S %Y", 0),
            ("%a, %d %b %Y %H:%M:%S +0200", 2),
            ("%Y-%m-%dT%H:%M:%SZ", 0),
            ("%Y-%m-%dT%H:%M:%S.%fZ", 0),
            ("%Y-%m-%dT%H:%M:%S+05:00", 5),
        ]
    ),
    Row("403 until a date", 403, {"Retry-After": date(100, "%a, %d %b %Y %H:%M:%S GMT")}, {}, NOT_NOW, 100),
    Row("429 date that is over", 429, {"Retry-After": date(-9, "%a, %d %b %Y %H:%M:%S GMT")}, {}, NOT_NOW, 0),
    Row("403 in milliseconds", 403, {"retry-after-ms": "1500"}, {}, NOT_NOW, 1.5),
    Row("409 in milliseconds", 409, {"x-ms-retry-after-ms": "250"}, {}, NOT_NOW, 0.25),
]

# https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api (403 and 429, wait until the
# reset if nothing remains, and else a minute);
# https://docs.gitlab.com/administration/settings/user_and_ip_rate_limits/ and
# https://docs.digitalocean.com/reference/api/ (RateLimit-Reset as epoch);
# https://www.ietf.org/archive/id/draft-ietf-httpapi-ratelimit-headers-{03,07,09}.html (as delta, one field,
# structured); https://discord.com/developers/docs/topics/rate-limits (Reset-After, epoch with fractions);
# https://docs.x.com/x-api/fundamentals/rate-limits and
# https://developer.okta.com/docs/reference/rl-best-practices/ (x-rate-limit-reset);
# https://openrouter.ai/docs/api/reference/limits (milliseconds);
# https://developer.atlassian.com/cloud/jira/platform/rate-limiting/ (ISO, without seconds);
# https://github.com/reddit-archive/reddit/wiki/API (delta);
# https://platform.openai.com/docs/guides/rate-limits and https://console.groq.com/docs/rate-limits
# (durations); https://platform.claude.com/docs/en/api/rate-limits (instants). A limit that is not used up
# says nothing of why: huggingface_hub.utils._http.hf_raise_for_status: "only use them if they are the
# reason for the 429".
NONE_LEFT = {"x-ratelimit-remaining": "0"}
SOME_LEFT = {"x-ratelimit-limit": "5000", "x-ratelimit-remaining": "4290", "x-ratelimit-reset": epoch(3000)}
LIMITS = [
    Row("GitHub 403", 403, {**NONE_LEFT, "x-ratelimit-reset": epoch(90)}, {}, NOT_NOW, 90),
    Row("GitHub 429", 429, {**NONE_LEFT, "x-ratelimit-reset": epoch(90)}, {}, NOT_NOW, 90),
    Row("GitHub 403 without a time", 403, NONE_LEFT, {}, NOT_NOW, (None, 60)),
    Row("GitHub 403 with both", 403, {**SOME_LEFT, "Retry-After": "60"}, {}, NOT_NOW, 60),
    Row("GitHub 403 of another kind", 403, SOME_LEFT, {}, FINAL, ANY),
    Row("GitHub 404 with the last call", 404, {**NONE_LEFT, "x-ratelimit-reset": epoch(90)}, {}, FINAL, ANY),
    Row("GitHub 422 with the last call", 422, {**NONE_LEFT, "x-ratelimit-reset": epoch(90)}, {}, FINAL, ANY),
    Row("GitHub 429 of another limit", 429, SOME_LEFT, {}, NOT_NOW, (None, 60)),
    Row("GitHub 502", 502, SOME_LEFT, {}, RETRY),
    *(
        Row(f"429 {name}", 429, {name.split(" ")[0]: value}, {}, NOT_NOW, after)
        for name, value, after in [
            ("X-RateLimit-Reset epoch", epoch(90), 90),
            ("X-RateLimit-Reset milliseconds", epoch(90, unit=1e-3), 90),
            ("X-RateLimit-Reset fraction", lambda: epoch(90)() + ".123", 90),
            ("X-RateLimit-Reset delta", "30", 30),
            ("X-RateLimit-Reset delta-fraction", "134.5", 134.5),
            ("X-RateLimit-Reset ISO", date(90, "%Y-%m-%dT%H:%M:%SZ"), 90),
            ("X-RateLimit-Reset ISO-minutes", date(100, "%Y-%m-%dT%H:%MZ"), range(39, 101)),
            ("X-RateLimit-Reset over", epoch(-90), (0, None)),
            ("X-RateLimit-Reset word", "tomorrow", None),
            ("X-Rate-Limit-Reset epoch", epoch(90), 90),
            ("X-RateLimit-Reset-After fraction", "3.2", 3.2),
            ("RateLimit-Reset delta", "30", 30),
            ("RateLimit-Reset epoch", epoch(90), 90),
            ("RateLimit structured", '"default";r=0;t=50', 50),
            ("RateLimit parameters", '"api"; t=55; r=0', 55),
            ("RateLimit one-field", "limit=100, remaining=0, reset=50", 50),
            ("RateLimit list", '"burst";r=0;t=2, "daily";r=500;t=40000', 2),
            ("RateLimit some-left", '"default";r=17;t=50', None),
        ]
    ),
    Row("Discord", 429, {"X-RateLimit-Reset-After": "3.2", "X-RateLimit-Reset": epoch(3)}, {}, NOT_NOW, ANY),
    *(
        Row(f"429 {unit} {value}", 429, {f"x-ratelimit-reset-{unit}": value}, {}, NOT_NOW, after)
        for unit, value, after in [
            ("tokens", "6m0s", 360),
            ("requests", "1s", 1),
            ("requests", "8.64s", 8.64),
            ("tokens", "120ms", 0.12),
            ("requests", "2m59.56s", 179.56),
            ("tokens", "1h2m3s", 3723),
            ("tokens", "a while", None),
        ]
    ),
    Row(
        "429 tokens used up, requests not",
        429,
        {
            "x-ratelimit-remaining-requests": "59",
            "x-ratelimit-reset-requests": "20m0s",
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-reset-tokens": "7.5s",
        },
        {},
        NOT_NOW,
        7.5,
    ),
    Row(
        "500 tokens left",
        500,
        {"x-ratelimit-remaining-tokens": "149984", "x-ratelimit-reset-tokens": "6m0s"},
        {},
        RETRY,
    ),
    Row(
        "Anthropic's tokens used up",
        429,
        {
            "anthropic-ratelimit-tokens-remaining": "0",
            "anthropic-ratelimit-tokens-reset": date(90, "%Y-%m-%dT%H:%M:%SZ"),
        },
        {},
        NOT_NOW,
        90,
    ),
]

# openai, anthropic and groq: _base_client.BaseClient._should_retry;
# stripe._http_client.HTTPClient._should_retry.
WORDS = [
    *(
        Row(f"{name}: {word} on {status}", status, {name: word}, {}, verdict)
        for name in ("x-should-retry", "Stripe-Should-Retry")
        for word, status, verdict in [
            ("true", 400, AGAIN),
            ("true", 404, AGAIN),
            ("true", 409, AGAIN),
            ("true", 529, AGAIN),
            ("true", 429, NOT_NOW),
            ("false", 408, FINAL),
            ("false", 409, FINAL),
            ("false", 429, FINAL),
            ("false", 500, FINAL),
            ("perhaps", 400, FINAL),
            ("perhaps", 503, RETRY),
        ]
    ),
    Row(
        "x-should-retry: true, with a time",
        429,
        {"x-should-retry": "true", "retry-after": "17"},
        {},
        NOT_NOW,
        17,
    ),
]


@each(RAISE, STATUSES, HINTS, LIMITS, WORDS)
def test_status_and_headers_say_whether_and_when(server: Server, ask: Callable[..., None], row: Row) -> None:
    """Whatever client keeps them, and wherever (U1, U2, U3)."""
    check_row(server, ask, row)


def error(**fields: object) -> dict[str, object]:
    return {"error": fields}


def google(status: int, reason: str) -> dict[str, object]:
    return error(
        code=status, message="no", errors=[{"domain": "usageLimits", "reason": reason, "message": "no"}]
    )


def retry_info(delay: object, status: str = "RESOURCE_EXHAUSTED") -> dict[str, object]:
    failure = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaValue": "15"}]}
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    return error(code=429, message="no", status=status, details=[failure, info])


def open_router(seconds: float) -> Callable[[], object]:
    reset = epoch(seconds, unit=1e-3)
    return lambda: error(code=429, message="no", metadata={"headers": {"X-RateLimit-Reset": reset()}})


DEEP: Any = 7
for _ in range(200):
    DEEP = {"error": DEEP}
ODD = [b"", b"<html>429 Too Many Requests</html>", b"\xff\xfe\x00", b"{", b'{"retry_after": NaN}', b"1e999"]
ODD += [None, [], {}, "retry_after", 7, [[]], [None], error(), {"error": None}, {"error": []}, DEEP]
ODD += [{"error": "insufficient"}, {"error": ["x"]}, error(code=7, type=["x"]), error(code={}, errors="x")]
ODD += [{"retry_after": value} for value in ("soon", True, None, -1, [], {})]

# https://discord.com/developers/docs/topics/rate-limits;
# https://core.telegram.org/bots/api#responseparameters;
# https://ai.google.dev/gemini-api/docs/troubleshooting and google/rpc/error_details.proto (the delay is a
# duration in JSON: seconds with up to nine digits); https://huggingface.co/docs/api-inference
# (estimated_time); https://developers.google.com/workspace/drive/api/guides/handle-errors and
# https://cloud.google.com/bigquery/docs/error-messages (reasons);
# https://platform.openai.com/docs/guides/error-codes (insufficient_quota, billing_*; its own clients wait
# in vain); https://developers.notion.com/reference/status-codes (conflict_error);
# https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/errorcodes.htm;
# https://console.groq.com/docs/errors (498: capacity) and https://docs.cohere.com/reference/errors (498:
# the token); https://github.com/dirge-code/dirge/pull/719 (OpenRouter); https://github.com/BerriAI/litellm/
# issues/2743 (billing_not_active); octokit/plugin-throttling.js and github.GithubRetry (PyGithub) find
# GitHub's secondary limit by its message.
BODIES = [
    Row("Discord", 429, {}, {"message": "slow", "retry_after": 64.57, "global": False}, NOT_NOW, 64.57),
    Row("Discord 403", 403, {}, {"message": "Missing Access", "code": 50001}, FINAL),
    Row(
        "Telegram",
        429,
        {},
        {"ok": False, "error_code": 429, "description": "no", "parameters": {"retry_after": 35}},
        NOT_NOW,
        35,
    ),
    *(
        Row(f"Gemini {delay!r}", 429, {}, retry_info(delay), NOT_NOW, after)
        for delay, after in [
            ("34s", 34),
            ("34.074824224s", 34.074824224),
            ("0s", 0),
            ("0.000000001s", 1e-9),
            ("soon", None),
            (None, None),
            (["34s"], None),
            ("-3s", None),
        ]
    ),
    Row("Gemini streaming", 429, {}, [retry_info("34s")], NOT_NOW, 34),
    Row("Gemini 503", 503, {}, retry_info("34s", "UNAVAILABLE"), AGAIN, 34),
    Row("OpenRouter", 429, {}, open_router(90), NOT_NOW, 90),
    Row("Hugging Face", 503, {}, {"error": "Model is loading", "estimated_time": 20.5}, AGAIN, 20.5),
    *(
        Row(f"Google {reason}", 403, {}, google(403, reason), NOT_NOW)
        for reason in ("rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded")
    ),
    *(
        Row(f"Google {reason}", 403, {}, google(403, reason), FINAL)
        for reason in ("forbidden", "insufficientPermissions", "accessNotConfigured", "domainPolicy")
    ),
    *(
        Row(
            f"OpenAI {code} as {field} {status}", status, {}, error(message="no", **{field: code}), FINAL, ANY
        )
        for status in (400, 429)
        for field in ("code", "type")
        for code in ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
    ),
    Row("OpenAI 429", 429, {}, error(message="no", type="tokens", code="rate_limit_exceeded"), NOT_NOW),
    Row("Azure 429", 429, {}, error(code="429", message="Rate limit is exceeded."), NOT_NOW),
    Row("a status says more than a type", 503, {}, error(message="no", type="invalid_request_error"), RETRY),
    Row("a limit of the wrong type", 429, {}, error(message="no", type="invalid_request_error"), NOT_NOW),
    Row("Notion 409", 409, {}, {"object": "error", "status": 409, "code": "conflict_error"}, AGAIN),
    Row("Notion 400", 400, {}, {"object": "error", "status": 400, "code": "validation_error"}, FINAL),
    Row("Salesforce's lock", 400, {}, [{"message": "no", "errorCode": "UNABLE_TO_LOCK_ROW"}], AGAIN),
    Row("Salesforce's limit", 403, {}, [{"message": "no", "errorCode": "REQUEST_LIMIT_EXCEEDED"}], NOT_NOW),
    Row("Salesforce 400", 400, {}, [{"message": "no", "errorCode": "MALFORMED_QUERY"}], FINAL),
    Row("Groq 498", 498, {}, error(message="no", type="server_error", code="capacity_exceeded"), AGAIN),
    Row("Cohere 498", 498, {}, {"message": "invalid token"}, FINAL),
    Row(
        "GitHub's secondary limit",
        403,
        SOME_LEFT,
        {"message": "You have exceeded a secondary rate limit. Please wait a few minutes."},
        NOT_NOW,
        (None, 60),
    ),
    *(
        Row(f"{status} with {str(body)[:24]}", status, {}, body, verdict)
        for status, verdict in [(400, FINAL), (429, NOT_NOW), (500, RETRY)]
        for body in ODD
    ),
]


@each(READ, BODIES)
def test_a_body_says_more_than_the_status(server: Server, ask: Callable[..., None], row: Row) -> None:
    """What a service documents is read, and what is not understood changes nothing (U1, U2, U3)."""
    check_row(server, ask, row)


def test_a_body_that_was_not_read_stays_unread(server: Server) -> None:
    """Reading it could block, and it is the caller's (U1, U2)."""
    server.answer(429, {}, b'{"retry_after": 7}' + b" " * 1_000_000)
    with library("requests").get(server.url, timeout=TIMEOUT, stream=True) as response:
        check(raised(response.raise_for_status), NOT_NOW)
        assert not response._content_consumed
        assert {"retry_after": 7} == response.json()
    with (
        library("httpx").Client(trust_env=False, timeout=TIMEOUT) as client,
        client.stream("GET", server.url) as response,
    ):
        check(raised(response.raise_for_status), NOT_NOW)
        assert not response.is_stream_consumed
        response.read()
        assert {"retry_after": 7} == response.json()
    with raised(urllib.request.urlopen, server.url, timeout=TIMEOUT) as error:  # type: ignore[attr-defined]
        check(error, NOT_NOW)
        assert {"retry_after": 7} == json.load(error)


# -- Without an answer -----------------------------------------------------------------------------

FAILURES = {
    "close": b"",
    "reset": None,
    "short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    "garbage": b"\x16\x03garbage\r\n\r\n",
    "status": b"HTTP/1.1 OK\r\n\r\n",
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n{",
    "gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    "html": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
    "json": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{",
}
"""What a server, or what is between, may do to a connection: there is no answer, or nobody understands it."""


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve each connection, one after another; yield host and port."""

    def loop() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                if stopping:
                    return
                serve(connection)

    stopping: list[bool] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stopping.append(True)
            socket.create_connection(listener.getsockname()).close()
            thread.join(TIMEOUT)


@pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning"
)  # some leave what they cannot read to the collector
@pytest.mark.parametrize("ask", ALL, ids=lambda ask: ask.__name__.removeprefix("ask_"))
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_of_the_network_may_go_away(ask: Callable[..., None], failure: str) -> None:
    """And so may an answer that nobody understands, whatever status a client invents for it (U1).

    aiohttp.client_reqrep.ClientResponse.start: "400" for what it cannot parse.
    """

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        answer = FAILURES[failure]
        if answer is None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        else:
            connection.sendall(answer)

    with listening(serve) as target:
        check(raised(ask, f"http://{target}"), RETRY)
    gc.collect()


@pytest.mark.parametrize("ask", ALL, ids=lambda ask: ask.__name__.removeprefix("ask_"))
def test_a_name_that_is_not_known_may_be_known_later(
    ask: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resolvers fail as any other service (U1)."""

    def fail(*_args: object, **_kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    check(raised(ask, "http://nobody.invalid"), RETRY)


CERTIFICATE = Path(__file__).with_name("localhost.pem")
"""A certificate that nobody trusts, of the name localhost, and its key."""


def greet(connection: socket.socket) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    with suppress(OSError):  # as the client leaves
        context.wrap_socket(connection, server_side=True).close()


def ask_openai_models(url: str, **kwargs: Any) -> None:
    with library("openai").OpenAI(api_key="test", base_url=url, max_retries=0, **kwargs) as client:
        client.models.list()


def ask_anthropic_models(url: str, **kwargs: Any) -> None:
    with library("anthropic").Anthropic(api_key="test", base_url=url, max_retries=0, **kwargs) as client:
        client.models.list()


def ask_groq_models(url: str, **kwargs: Any) -> None:
    with library("groq").Groq(api_key="test", base_url=url, max_retries=0, **kwargs) as client:
        client.models.list()


STAINLESS = [ask_openai_models, ask_anthropic_models, ask_groq_models]
"""They wrap what httpx raises."""


@pytest.mark.parametrize(
    "ask", [*ALL, *STAINLESS], ids=lambda ask: ask.__name__.removeprefix("ask_").removesuffix("_models")
)
def test_a_certificate_that_does_not_verify_is_no_failure_of_the_network(ask: Callable[..., None]) -> None:
    """Somebody has to do something about it, wherever in the chain of causes it is (U1)."""
    with listening(greet) as target:
        check(raised(ask, f"https://{target}"), FINAL)


def test_a_certificate_of_another_host_does_not_verify() -> None:
    """However trusted it is (U1)."""
    context = ssl.create_default_context(cafile=CERTIFICATE)
    asks = [(ask_requests, {"verify": str(CERTIFICATE)}), (ask_httpx, {"verify": context})]
    asks += [(ask_aiohttp, {"ssl": context}), (ask_urllib, {"context": context})]
    asks += [(ask_urllib3, {"ssl_context": context}), (ask_http_client, {"context": context})]
    with listening(greet) as target:
        for ask, kwargs in asks:
            check(raised(ask, f"https://{target}", **kwargs), FINAL)


def retried(status: int, name: str) -> Callable[[str], None]:
    """Return what asks with a client that retries that status itself."""

    def ask(url: str) -> None:
        retries = library("urllib3").Retry(
            1, status_forcelist=[status], backoff_factor=0, respect_retry_after_header=False
        )
        if name == "urllib3":
            with library("urllib3").PoolManager(retries=retries) as pool:
                pool.request("GET", url)
        else:
            with library("requests").Session() as session:
                session.mount("http://", library("requests").adapters.HTTPAdapter(max_retries=retries))
                session.get(url, timeout=TIMEOUT)

    return ask


@pytest.mark.parametrize("name", ["urllib3", "requests"])
@pytest.mark.parametrize(("status", "verdict"), [(429, NOT_NOW), (500, RETRY), (503, RETRY)])
def test_what_urllib3_retried_in_vain_says_the_status(
    server: Server, name: str, status: int, verdict: str
) -> None:
    """Only the message of the reason has it: ``too many 429 error responses`` (U1, U3).

    urllib3.util.retry.Retry.increment and urllib3.exceptions.ResponseError.SPECIFIC_ERROR.
    """
    server.answer(status)
    check(raised(retried(status, name), server.url), verdict)


UNSENDABLE: list[tuple[Callable[..., None], str, dict[str, Any]]] = [
    # requests.models.PreparedRequest, requests.sessions.Session, requests.utils.check_header_validity
    (ask_requests, "example.invalid/x", {}),
    (ask_requests, "http:///x", {}),
    (ask_requests, "foo://x", {}),
    (ask_requests, "http://*example.invalid", {}),
    (ask_requests, "{}", {"headers": {"x": "a\nb"}}),
    (ask_requests, "{}", {"headers": {"x": 7}}),
    (ask_requests, "{}", {"json": {"a": object()}}),
    (ask_requests, "{}", {"json": float("nan")}),
    (ask_requests, "{}", {"proxies": {"http": "http:///x"}}),
    # httpx._urlparse.urlparse, httpx._transports.default.map_httpcore_exceptions, h11._events.Request
    *((ask, "example.invalid", {}) for ask in (ask_httpx, ask_httpx2)),
    *((ask, "foo://x", {}) for ask in (ask_httpx, ask_httpx2)),
    *((ask, "http://[::1", {}) for ask in (ask_httpx, ask_httpx2)),
    *((ask, "{}", {"headers": {"x": "a\nb"}}) for ask in (ask_httpx, ask_httpx2)),
    # aiohttp.client.ClientSession._request, aiohttp.client_reqrep.ClientRequest
    (ask_aiohttp, "foo://x", {}),
    (ask_aiohttp, "/x", {}),
    (ask_aiohttp, "http://:80", {}),
    (ask_aiohttp, "{}", {"json": {"a": object()}}),
    # urllib3.util.url.parse_url, urllib3.poolmanager.PoolManager, http.client.HTTPConnection._validate_path
    (ask_urllib3, "foo://x", {}),
    (ask_urllib3, "http://[::1", {}),
    (ask_urllib3, "http://", {}),
    (ask_urllib, "{}/a b", {}),
    # The clients of language models wrap what httpx raises, as they do with failures of the network.
    *((ask, "nowhere", {}) for ask in STAINLESS),
    *((ask, "{}", {"default_headers": {"x": "a\nb"}}) for ask in STAINLESS),
]


@pytest.mark.parametrize(
    ("ask", "url", "kwargs"),
    UNSENDABLE,
    ids=lambda of: getattr(of, "__name__", ascii(of).partition(" at ")[0]),
)
def test_what_cannot_be_sent_never_can(
    server: Server, ask: Callable[..., None], url: str, kwargs: dict[str, Any]
) -> None:
    """No service was reached, and none will be (U1)."""
    check(raised(ask, url.format(server.url), **kwargs), FINAL)


def test_what_is_not_json_never_will_be(server: Server) -> None:
    """The same object is sent again (U1): json.JSONEncoder.default."""
    with library("httpx").Client(trust_env=False) as client:
        check(raised(client.post, server.url, json=object()), FINAL)
    with library("openai").OpenAI(api_key="test", base_url=server.url, max_retries=0) as client:
        check(raised(client.chat.completions.create, model="m", messages=[object()]), FINAL)
    check(raised(json.dumps, {1: {2}}), FINAL)


def test_a_websocket_that_is_refused_says_why(server: Server) -> None:
    """aiohttp.WSServerHandshakeError has the status of the answer (U1, U3)."""
    aiohttp = library("aiohttp")

    async def connect() -> None:
        async with aiohttp.ClientSession() as session:
            await session.ws_connect(server.url)

    for status, headers, verdict, after in [
        (200, {}, RETRY, None),
        (401, {}, FINAL, None),
        (429, {"Retry-After": "7"}, NOT_NOW, 7),
        (503, {}, RETRY, None),
    ]:
        server.answer(status, headers)
        check(raised(lambda: asyncio.run(connect())), verdict, after)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Illegal header value b'\\n'", False),
        ("Max outbound streams is 100, 100 open", True),
        ("Invalid input ConnectionInputs.SEND_HEADERS in state ConnectionState.CLOSED", True),
    ],
)
def test_what_breaks_a_protocol_is_final_unless_it_is_the_connection(message: str, expected: bool) -> None:
    """So says httpx of HTTP/2, too, when a connection is used up or gone: another one will do (B2)."""
    assert expected == transient(library("httpx").LocalProtocolError(message))
