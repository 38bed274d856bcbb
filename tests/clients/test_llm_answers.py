"""What the clients of language models raise: whether another try can help, and when."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_http_answers import NONE_LEFT, WORDS, ask_requests, error, retry_info
from verdicts import AGAIN, ANY, FINAL, NOT_NOW, RETRY, Row, check, check_row, each, epoch, library, raised

from answering import Server, answering

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"  # clients leave sockets to the collector
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that answers as it is told."""
    with answering() as server:
        yield server


# -- Clients of language models --------------------------------------------------------------------

MESSAGES = [{"role": "user", "content": "hello"}]


def ask_openai(url: str, **kwargs: Any) -> None:
    with library("openai").OpenAI(api_key="test", base_url=url, max_retries=0) as client:
        list(client.chat.completions.create(model="m", messages=MESSAGES, **kwargs))


def ask_groq(url: str, **kwargs: Any) -> None:
    with library("groq").Groq(api_key="test", base_url=url, max_retries=0) as client:
        list(client.chat.completions.create(model="m", messages=MESSAGES, **kwargs))


def ask_anthropic(url: str, **kwargs: Any) -> None:
    with library("anthropic").Anthropic(api_key="test", base_url=url, max_retries=0) as client:
        list(client.messages.create(model="m", max_tokens=5, messages=MESSAGES, **kwargs))


def ask_cohere(url: str) -> None:
    with library("cohere").ClientV2(api_key="test", base_url=url) as client:
        client.chat(model="m", messages=MESSAGES, request_options={"max_retries": 0})


def ask_mistral(url: str) -> None:
    module = library("mistralai.client")  # its home before version 2 was mistralai
    with module.Mistral(api_key="test", server_url=url) as client:
        client.chat.complete(model="m", messages=MESSAGES)


def ask_genai(url: str, *, stream: bool = False) -> None:
    client = library("google.genai").Client(api_key="test", http_options={"base_url": url})
    try:
        if stream:
            list(client.models.generate_content_stream(model="m", contents="hello"))
        else:
            client.models.generate_content(model="m", contents="hello")
    finally:
        client.close()


def ask_huggingface(url: str) -> None:
    hub = library("huggingface_hub")
    try:
        hub.HfApi(endpoint=url, token="test").model_info("a/b")
    finally:
        hub.close_session()


def ask_inference(url: str, **kwargs: Any) -> None:
    hub = library("huggingface_hub")
    with hub.InferenceClient(base_url=url, api_key="test") as client:
        list(client.chat_completion(messages=MESSAGES, **kwargs))


def ask_litellm(url: str) -> None:
    """Raise what litellm makes of an error of the client below; a real call would leave threads behind."""
    openai, litellm = library("openai"), quiet_litellm()
    try:
        ask_openai(url)
    except openai.APIError as error:
        litellm.exception_type(model="m", original_exception=error, custom_llm_provider="openai")


def quiet_litellm() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or it is fetched
        litellm = library("litellm")
    litellm.suppress_debug_info = True
    return litellm


def ask_tenacity(url: str) -> None:
    tenacity = library("tenacity")
    tenacity.Retrying(stop=tenacity.stop_after_attempt(1))(ask_requests, url)


def ask_tenacity_twice(url: str) -> None:
    tenacity = library("tenacity")
    tenacity.Retrying(stop=tenacity.stop_after_attempt(1))(ask_tenacity, url)


def ask_instructor(url: str) -> None:
    tenacity = library("tenacity")
    model = library("pydantic").create_model("Answer", a=(int, ...))
    with library("openai").OpenAI(api_key="test", base_url=url, max_retries=0) as client:
        library("instructor").from_openai(client).chat.completions.create(
            model="m",
            messages=MESSAGES,
            response_model=model,
            max_retries=tenacity.Retrying(stop=tenacity.stop_after_attempt(1)),
        )


def ask_delivery(url: str) -> None:
    try:
        ask_requests(url)
    except Exception as error:
        raise DeliveryError from error


class DeliveryError(Exception):
    """Says nothing but what its cause says."""


LLMS = [
    ask_openai,
    ask_groq,
    ask_anthropic,
    ask_cohere,
    ask_mistral,
    ask_genai,
    ask_huggingface,
    ask_inference,
]
WRAPPED = [ask_tenacity, ask_tenacity_twice, ask_delivery, ask_instructor]

# openai, anthropic, groq: _base_client; cohere.core.http_client; mistralai.client.utils.retries;
# huggingface_hub.utils._http; google.genai._api_client._RETRY_HTTP_STATUS_CODES;
# litellm.utils._should_retry.
PLAIN = [
    *(Row(f"{status}", status, {}, {}, FINAL) for status in (400, 401, 402, 403, 404, 405, 410, 413, 422)),
    *(Row(f"{status}", status, {}, {}, RETRY) for status in (408, 500, 502, 503, 504, 520, 529)),
    Row("429", 429, {}, {}, NOT_NOW),
    Row("html", 503, {"Content-Type": "text/html"}, b"<html>", RETRY),
]
WAITING = [
    Row("429 with a time", 429, {"retry-after": "7"}, {"message": "no"}, NOT_NOW, 7),
    Row("403 with a time", 403, {"retry-after": "7"}, {"message": "no"}, NOT_NOW, 7),
    Row("503 with a time", 503, {"retry-after": "7"}, {"message": "no"}, AGAIN, 7),
    Row("429 in milliseconds", 429, {"retry-after-ms": "1500", "retry-after": "2"}, {}, NOT_NOW, 1.5),
    Row("429 until reset", 429, {"x-ratelimit-reset": epoch(90), **NONE_LEFT}, {}, NOT_NOW, 90),
]


@each([*LLMS, *WRAPPED, ask_litellm], PLAIN, WAITING)
def test_clients_of_language_models_say_what_the_service_said(
    server: Server, ask: Callable[..., None], row: Row
) -> None:
    """So does what wraps it: its cause is asked (U1, U2, U3)."""
    check_row(server, ask, row)


def quota(**fields: str) -> dict[str, object]:
    return error(
        message="You exceeded your current quota, please check your plan and billing details.", **fields
    )


def test_409_of_these_services_is_a_lock_that_took_too_long(server: Server) -> None:
    """Retry on lock timeouts, say their clients (U1): see PLAIN."""
    for ask in (ask_openai, ask_groq, ask_anthropic, ask_cohere, ask_litellm):
        check_row(server, ask, Row("409", 409, {}, {"message": "no"}, AGAIN))


# https://platform.openai.com/docs/guides/error-codes, https://console.groq.com/docs/errors
OPENAI = [
    Row(
        "no money",
        429,
        {"retry-after": "1"},
        quota(type="insufficient_quota", code="insufficient_quota"),
        FINAL,
        ANY,
    ),
    Row("no money, by type", 429, {}, quota(type="insufficient_quota"), FINAL, ANY),
    Row("no money, by code", 429, {}, quota(code="insufficient_quota"), FINAL, ANY),
    Row("hard limit", 400, {}, error(message="no", code="billing_hard_limit_reached"), FINAL),
    Row("hard limit, 429", 429, {}, error(message="no", code="billing_hard_limit_reached"), FINAL, ANY),
    Row(
        "too long",
        400,
        {},
        error(message="no", type="invalid_request_error", code="context_length_exceeded"),
        FINAL,
    ),
    Row("filtered", 400, {}, error(message="no", code="content_filter"), FINAL),
    Row("overloaded", 503, {}, error(message="no", type="server_error"), RETRY),
    Row("too many tokens", 429, {}, error(message="no", type="tokens", code="rate_limit_exceeded"), NOT_NOW),
    Row(
        "too many tokens, with a time",
        429,
        {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"},
        error(message="no", type="tokens", code="rate_limit_exceeded"),
        NOT_NOW,
        360,
    ),
    Row("capacity", 498, {}, error(message="no", code="capacity_exceeded"), AGAIN),
    *(row for row in WORDS if row.name.startswith("x-should-retry")),
]


@each([ask_openai, ask_groq], OPENAI)
def test_openai_and_groq_say_it_with_a_code(server: Server, ask: Callable[..., None], row: Row) -> None:
    """Of which some are final, whatever the status (U1, U3)."""
    check_row(server, ask, row)


def anthropic_error(kind: str) -> dict[str, object]:
    return {"type": "error", "error": {"type": kind, "message": "no"}}


# https://platform.claude.com/docs/en/api/errors
ANTHROPIC = [
    Row("overloaded", 529, {"x-should-retry": "true"}, anthropic_error("overloaded_error"), AGAIN),
    Row(
        "429",
        429,
        {"retry-after": "17", "x-should-retry": "true"},
        anthropic_error("rate_limit_error"),
        NOT_NOW,
        17,
    ),
    Row("not again", 429, {"x-should-retry": "false"}, anthropic_error("rate_limit_error"), FINAL, ANY),
    Row("too large", 413, {}, anthropic_error("request_too_large"), FINAL),
    Row("no money", 400, {"x-should-retry": "false"}, anthropic_error("invalid_request_error"), FINAL),
    Row("no money, 402", 402, {}, anthropic_error("billing_error"), FINAL),
    Row("internal", 500, {}, anthropic_error("api_error"), RETRY),
    Row("timeout", 504, {}, anthropic_error("timeout_error"), RETRY),
]


@each([ask_anthropic], ANTHROPIC)
def test_anthropic_says_it_with_a_type(server: Server, ask: Callable[..., None], row: Row) -> None:
    """Which has its own class only for some (U1, U3)."""
    check_row(server, ask, row)


# https://docs.cohere.com/reference/errors, https://docs.mistral.ai/api (service tier),
# https://ai.google.dev/gemini-api/docs/troubleshooting, https://huggingface.co/docs/hub/rate-limits
OTHERS = [
    (ask_cohere, Row("invalid token", 498, {}, {"message": "invalid token"}, FINAL)),
    (
        ask_mistral,
        Row("capacity", 429, {}, {"type": "service_tier_capacity_exceeded", "code": "3505"}, NOT_NOW),
    ),
    (ask_mistral, Row("invalid", 422, {}, {"detail": []}, FINAL)),
    (ask_mistral, Row("not what it expects", 200, {}, {}, RETRY)),
    (ask_mistral, Row("html", 200, {"Content-Type": "text/html"}, b"<html>", RETRY)),
    (ask_genai, Row("RetryInfo", 429, {}, retry_info("34.5s"), NOT_NOW, 34.5)),
    (ask_genai, Row("RetryInfo 503", 503, {}, retry_info("34.5s", "UNAVAILABLE"), AGAIN, 34.5)),
    (ask_genai, Row("key", 400, {}, error(code=400, message="no", status="INVALID_ARGUMENT"), FINAL)),
    (ask_genai, Row("place", 400, {}, error(code=400, message="no", status="FAILED_PRECONDITION"), FINAL)),
    (ask_genai, Row("overloaded", 503, {}, error(code=503, message="no", status="UNAVAILABLE"), RETRY)),
    (ask_huggingface, Row("limit", 429, {"RateLimit": '"api";r=0;t=55'}, {}, NOT_NOW, 55)),
    (ask_huggingface, Row("another limit", 429, {"RateLimit": '"api";r=9;t=255'}, {}, NOT_NOW)),
    (ask_huggingface, Row("no repository", 404, {"X-Error-Code": "RepoNotFound"}, {}, FINAL)),
    (ask_huggingface, Row("gated", 403, {"X-Error-Code": "GatedRepo"}, {}, FINAL)),
    (ask_inference, Row("loading", 503, {}, {"error": "loading", "estimated_time": 20.5}, AGAIN, 20.5)),
    (ask_litellm, Row("milliseconds", 429, {"retry-after-ms": "1500"}, {}, NOT_NOW, 1.5)),
]


@pytest.mark.parametrize(
    ("ask", "row"), OTHERS, ids=lambda of: getattr(of, "name", getattr(of, "__name__", None))
)
def test_others_say_it_in_their_own_ways(server: Server, ask: Callable[..., None], row: Row) -> None:
    """Each as its documentation says (U1, U2, U3)."""
    check_row(server, ask, row)


def streaming(ask: Callable[..., None]) -> Callable[..., None]:
    def ask_streaming(url: str) -> None:
        ask(url, stream=True)

    ask_streaming.__name__ = ask.__name__
    return ask_streaming


def event(body: object, name: str = "") -> bytes:
    return (f"event: {name}\n" if name else "").encode() + f"data: {json.dumps(body)}\n\n".encode()


# openai._streaming.Stream.__stream__, groq._streaming.Stream.__stream__: the error is the body of an
# APIError, without a status; the statuses that these types and codes have otherwise:
# https://platform.openai.com/docs/guides/error-codes
STREAMED = [
    Row(
        name,
        200,
        {"Content-Type": "text/event-stream"},
        event(error(message="no", type=kind, code=code)),
        verdict,
    )
    for name, kind, code, verdict in [
        ("server_error", "server_error", None, RETRY),
        ("internal", "internal_server_error", "internal_error", RETRY),
        ("unknown", "strange", "stranger", RETRY),
        ("nothing", None, None, RETRY),
        ("tokens", "tokens", "rate_limit_exceeded", NOT_NOW),
        ("requests", "requests", "rate_limit_exceeded", NOT_NOW),
        ("rate limit without a code", "rate_limit_error", None, NOT_NOW),
        ("overloaded", "overloaded_error", None, AGAIN),
        ("no money", "insufficient_quota", "insufficient_quota", FINAL),
        ("invalid", "invalid_request_error", "invalid_prompt", FINAL),
        ("invalid without a code", "invalid_request_error", None, FINAL),
        ("too long", "invalid_request_error", "context_length_exceeded", FINAL),
        ("key", "authentication_error", "invalid_api_key", FINAL),
        ("permission", "permission_error", None, FINAL),
    ]
]


@each([streaming(ask_openai), streaming(ask_groq)], STREAMED)
def test_an_error_in_the_middle_of_a_stream_has_a_body(
    server: Server, ask: Callable[..., None], row: Row
) -> None:
    """And no status: its type and code say what it is (U1, U3)."""
    check_row(server, ask, row)


# anthropic._streaming.Stream.__stream__: an APIStatusError with the status of the stream, 200;
# https://platform.claude.com/docs/en/api/errors
ANTHROPIC_STREAMED = [
    Row(kind, 200, {"Content-Type": "text/event-stream"}, event(anthropic_error(kind), "error"), verdict)
    for kind, verdict in [
        ("overloaded_error", AGAIN),
        ("rate_limit_error", NOT_NOW),
        ("api_error", RETRY),
        ("timeout_error", RETRY),
        ("strange_error", RETRY),
        ("invalid_request_error", FINAL),
        ("authentication_error", FINAL),
        ("permission_error", FINAL),
        ("not_found_error", FINAL),
        ("request_too_large", FINAL),
        ("billing_error", FINAL),
    ]
]


@each([streaming(ask_anthropic)], ANTHROPIC_STREAMED)
def test_an_error_in_the_middle_of_a_stream_of_anthropic_has_the_status_of_the_stream(
    server: Server, ask: Callable[..., None], row: Row
) -> None:
    """So its type counts (U1, U3)."""
    check_row(server, ask, row)


# google.genai._api_client.HttpResponse._iter_response_stream: errors.APIError.raise_error with the code of
# the body; huggingface_hub.inference._common.raise_text_generation_error: a class for each type, which is
# not kept.
GENAI_STREAMED = [
    *(
        Row(
            f"{code}",
            200,
            {"Content-Type": "text/event-stream"},
            event(error(code=code, message="no")),
            verdict,
        )
        for code, verdict in [
            (400, FINAL),
            (403, FINAL),
            (404, FINAL),
            (429, NOT_NOW),
            (500, RETRY),
            (503, RETRY),
        ]
    ),
    Row("RetryInfo", 200, {"Content-Type": "text/event-stream"}, event(retry_info("34s")), NOT_NOW, 34),
]


@each([streaming(ask_genai)], GENAI_STREAMED)
def test_an_error_in_the_middle_of_a_stream_of_google_has_a_code(
    server: Server, ask: Callable[..., None], row: Row
) -> None:
    """The answer that the error has too is 200 (U1, U2, U3)."""
    check_row(server, ask, row)


@pytest.mark.parametrize(
    "ask", [ask_openai, ask_groq, ask_anthropic, ask_genai, ask_inference], ids=lambda ask: ask.__name__
)
def test_a_stream_that_breaks_off_may_go_through_later(server: Server, ask: Callable[..., None]) -> None:
    """It is a failure of the network (U1)."""
    server.answer(200, {"Content-Type": "text/event-stream", "Content-Length": "1000"}, b"data: {}\n\n")
    check(raised(ask, server.url, stream=True), RETRY)


@pytest.mark.parametrize("ask", [*LLMS, *WRAPPED, ask_litellm], ids=lambda ask: ask.__name__)
def test_a_refused_connection_may_be_accepted_later(ask: Callable[..., None]) -> None:
    """However often it is wrapped (U1)."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        check(raised(ask, f"http://127.0.0.1:{taken.getsockname()[1]}"), RETRY)


@pytest.mark.parametrize(
    "make",
    [
        lambda url: library("openai").OpenAI(base_url=url),
        lambda url: library("groq").Groq(base_url=url),
        lambda url: library("anthropic").Anthropic(base_url=url).models.list(),
        lambda url: library("google.genai").Client(http_options={"base_url": url}),
        lambda url: library("cohere").ClientV2(base_url=url).chat(model="m", messages=MESSAGES),
    ],
    ids=["openai", "groq", "anthropic", "genai", "cohere"],
)
def test_without_a_key_no_try_can_help(
    server: Server, make: Callable[[str], object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It fails before the service is reached (U1). The clients say which keys they want."""
    for name in ("OPENAI", "GROQ", "ANTHROPIC", "GOOGLE", "GEMINI", "CO"):
        monkeypatch.delenv(f"{name}_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    server.answer(200)
    check(raised(make, server.url), FINAL)


def test_an_answer_that_the_model_cut_short_or_refused_stays_so() -> None:
    """The parameters decide that, not the service (U1): openai.lib._parsing._completions."""
    openai = library("openai")
    completion = openai.types.chat.ChatCompletion.construct(usage=None)
    check(openai.LengthFinishReasonError(completion=completion), FINAL)
    check(openai.ContentFilterFinishReasonError(), FINAL)


def test_an_answer_that_does_not_fit_the_model_may_fit_the_next_time(server: Server) -> None:
    """What a language model says is never the same: instructor tries again (U1)."""
    function = {"name": "Answer", "arguments": "{}"}
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": function}],
    }
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    completion = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    check_row(server, ask_instructor, Row("invalid", 200, {}, completion, RETRY))


@pytest.mark.parametrize(
    ("name", "kwargs", "verdict", "after"),
    [
        ("ContextWindowExceededError", {"model": "m", "llm_provider": "p"}, FINAL, None),
        ("ContentPolicyViolationError", {"model": "m", "llm_provider": "p"}, FINAL, None),
        ("UnsupportedParamsError", {}, FINAL, None),
        ("BadGatewayError", {"model": "m", "llm_provider": "p"}, RETRY, None),
        ("Timeout", {"model": "m", "llm_provider": "p"}, RETRY, None),
        ("MidStreamFallbackError", {"model": "m", "llm_provider": "p"}, RETRY, None),
        ("APIConnectionError", {"model": "m", "llm_provider": "p"}, RETRY, None),
        ("RateLimitError", {"model": "m", "llm_provider": "p"}, NOT_NOW, None),
        ("APIError", {"status_code": 404, "model": "m", "llm_provider": "p"}, FINAL, None),
        ("APIError", {"status_code": 529, "model": "m", "llm_provider": "p"}, RETRY, None),
    ],
)
def test_litellm_gives_each_provider_the_classes_of_openai(
    name: str, kwargs: dict[str, Any], verdict: str, after: float | None
) -> None:
    """With a status of its own, where the provider had none (U1, U3): litellm.exceptions."""
    litellm = quiet_litellm()
    check(getattr(litellm.exceptions, name)(message="no", **kwargs), verdict, after)


def test_litellm_says_when_a_deployment_is_cool_again() -> None:
    """litellm.types.router.RouterRateLimitError: "Try again in 5 seconds" (U2, U3)."""
    quiet_litellm()
    router = library("litellm.types.router")
    check(router.RouterRateLimitError("m", 5.0, False, []), NOT_NOW, 5)


# -- Wrapped, in other ways ------------------------------------------------------------------------


def answered(server: Server, status: int, headers: dict[str, str] | None = None) -> Exception:
    server.answer(status, headers)
    return raised(ask_requests, server.url)


def test_what_happened_before_says_nothing_of_what_is_raised(server: Server) -> None:
    """Only a cause that was named does, not the context (U1)."""
    for status in (404, 429):
        error = DeliveryError()
        error.__context__ = answered(server, status, {"Retry-After": "7"} if status == 429 else {})
        check(error, RETRY)
        error.__cause__ = None  # raise DeliveryError from None
        check(error, RETRY)


def test_what_says_something_itself_is_not_asked_for_its_cause(server: Server) -> None:
    """A failure of the fallback is not that of the first try (U1)."""
    error = answered(server, 404)
    error.__cause__ = answered(server, 503)
    check(error, FINAL)
    error = answered(server, 503)
    error.__cause__ = answered(server, 404)
    check(error, RETRY)


def test_causes_that_go_round_in_circles_say_nothing() -> None:
    """Nor do endless ones (U1)."""
    one, other = DeliveryError(1), DeliveryError(2)
    one.__cause__, other.__cause__ = other, one
    check(one, RETRY)
    chain = DeliveryError()
    for _ in range(10_000):
        outer = DeliveryError()
        outer.__cause__ = chain
        chain = outer
    check(chain, RETRY)
    while chain is not None:  # or the interpreter follows them when they go
        chain.__cause__, chain = None, chain.__cause__


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no exception groups")
def test_a_group_says_what_all_its_members_say(server: Server) -> None:
    """As of concurrent requests of one call (U1, U2, U3)."""
    missing, failed = answered(server, 404), answered(server, 503)
    busy = [answered(server, 429, {"Retry-After": value}) for value in ("7", "9")]
    group = ExceptionGroup  # noqa: F821  # from Python 3.11 on
    check(group("", [missing, missing]), FINAL)
    check(group("", [failed, failed]), RETRY)
    check(group("", busy), NOT_NOW, 9)
    check(group("", [group("", [missing]), missing]), FINAL)
