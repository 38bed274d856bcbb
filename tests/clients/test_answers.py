"""What real clients raise: what it means, and how long it asks to wait, is read off it."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answering import Server, answering
from conftest import TIMEOUT
from retrying_executor import NotNow, RetryingExecutor, RetryPolicy, retry_after, transient


def library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed")


aiohttp = library("aiohttp")
anthropic = library("anthropic")
boto3 = library("boto3")
botocore = library("botocore.config")
details_pb2 = library("google.rpc.error_details_pb2")
google = library("google.api_core.exceptions")
grpc = library("grpc")
grpc_status = library("grpc_status.rpc_status")
httpx = library("httpx")
moto = library("moto.server")
moto_api = library("moto.moto_api")
openai = library("openai")
requests = library("requests")
status_pb2 = library("google.rpc.status_pb2")
urllib3 = library("urllib3")

KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}


def ask_aiohttp(url: str) -> None:
    async def ask() -> None:
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            await session.get(url)

    asyncio.run(ask())


def ask_anthropic(url: str) -> None:
    with anthropic.Anthropic(api_key="test", base_url=url, max_retries=0) as client:
        client.models.list()


def aws(service: str, url: str) -> Any:
    """Return a client that does not retry by itself."""
    config = botocore.Config(retries={"total_max_attempts": 1}, proxies={})
    return boto3.client(service, endpoint_url=url, config=config, **KEYS)


def ask_botocore(url: str) -> None:
    with closing(aws("kms", url)) as client:
        client.list_keys()


def ask_google(url: str) -> None:
    with requests.get(url, timeout=TIMEOUT) as response:
        raise google.from_http_response(response)


def ask_httpx(url: str) -> None:
    httpx.get(url).raise_for_status()


def ask_openai(url: str) -> None:
    with openai.OpenAI(api_key="test", base_url=url, max_retries=0) as client:
        client.models.list()


def ask_requests(url: str) -> None:
    with requests.get(url, timeout=TIMEOUT) as response:
        response.raise_for_status()


def ask_urllib(url: str) -> None:
    try:
        urllib.request.urlopen(url, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        raise


def ask_urllib3(url: str) -> None:
    retries = urllib3.Retry(
        2, status_forcelist=[429, 503], backoff_factor=0, respect_retry_after_header=False
    )
    with urllib3.PoolManager(retries=retries) as pool:
        pool.request("GET", url)


CLIENTS = [ask_aiohttp, ask_anthropic, ask_botocore, ask_google]
CLIENTS += [ask_httpx, ask_openai, ask_requests, ask_urllib]


def of_each(asks: list[Callable[[str], None]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("ask", asks, ids=lambda ask: ask.__name__.removeprefix("ask_"))


def raised(ask: Callable[..., object], /, *args: object, **kwargs: object) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # each client raises its own
        ask(*args, **kwargs)
    return caught.value


def meaning(exception: Exception) -> object:
    """Return what `transient` says: True, False, or the class NotNow."""
    answer = transient(exception)
    return NotNow if isinstance(answer, NotNow) else answer


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that answers as it is told."""
    with answering() as server:
        yield server


HTTP = [
    *((status, False) for status in (400, 401, 403, 404, 405, 410, 422)),
    *((status, True) for status in (408, 425, 500, 502, 503, 504)),
    (429, NotNow),
]


@of_each(CLIENTS)
@pytest.mark.parametrize(("status", "expected"), HTTP)
def test_an_http_status_says_whether_a_try_can_help(
    server: Server, ask: Callable[[str], None], status: int, expected: object
) -> None:
    """4xx is final, but for 408 and 425; 429 is "not now" (U1, U3)."""
    server.answer(status)
    exception = raised(ask, server.url)
    assert expected == meaning(exception)
    assert retry_after(exception) is None


@of_each(CLIENTS)
@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, 1.5),
        ({"x-ms-retry-after-ms": "250", "Retry-After": "1"}, 0.25),
        ({"Retry-After": "Sun, 06 Nov 1994 08:51:37 GMT", "Date": "Sun, 06 Nov 1994 08:49:37 GMT"}, 120.0),
        ({"Retry-After": "Sun, 06 Nov 1994 08:51:37 GMT"}, 0.0),
    ],
)
def test_headers_say_how_long_to_wait(
    server: Server, ask: Callable[[str], None], headers: dict[str, str], expected: float | None
) -> None:
    """Wherever a client keeps them (U2)."""
    server.answer(503, headers)
    assert expected == retry_after(raised(ask, server.url))


@of_each(CLIENTS)
def test_looking_at_an_answer_warns_of_nothing(server: Server, ask: Callable[[str], None]) -> None:
    """No deprecated attribute is looked at (U1, U2)."""
    server.answer(429, {"Retry-After": "7"})
    exception = raised(ask, server.url)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert (NotNow, 7.0) == (meaning(exception), retry_after(exception))
    assert [] == [str(warning.message) for warning in seen]


@of_each([*CLIENTS, ask_urllib3])
def test_a_refused_connection_may_be_accepted_later(ask: Callable[[str], None]) -> None:
    """Without an answer the failure is one as any other (U1)."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        exception = raised(ask, f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert transient(exception) is True
    assert retry_after(exception) is None


def test_what_urllib3_retried_in_vain_may_work_later(server: Server) -> None:
    """That of a status that it was told to retry: the exception does not have the answer (U1)."""
    server.answer(503, {"Retry-After": "7"})
    exception = raised(ask_urllib3, server.url)
    assert isinstance(exception, urllib3.exceptions.MaxRetryError)
    assert transient(exception) is True


# -- AWS -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        *((code, 400, NotNow) for code in ("ThrottlingException", "LimitExceededException", "SlowDown")),
        ("ServiceQuotaExceededException", 402, False),
        ("ThrottlingException", 503, NotNow),
        ("RequestTimeout", 400, True),
        ("KMSInternalException", 500, True),
        ("AccessDeniedException", 400, False),
    ],
)
def test_an_aws_code_says_more_than_the_status(
    server: Server, code: str, status: int, expected: object
) -> None:
    """The code is in the body (U1, U3)."""
    server.answer(status, body=b'{"__type": "%s", "message": "no"}' % code.encode())
    exception = raised(ask_botocore, server.url)
    assert code == exception.response["Error"]["Code"]  # type: ignore[attr-defined]  # it is a ClientError
    assert expected == meaning(exception)


@pytest.fixture
def glue() -> Iterator[Any]:
    """A client of a server whose jobs run until it ends."""
    moto_api.state_manager.set_transition("glue::job_run", {"progression": "manual", "times": 99})
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    with closing(aws("glue", "http://{}:{}".format(*server.get_host_and_port()))) as client:
        yield client
    server.stop()
    moto_api.state_manager.unset_transition("glue::job_run")


def test_a_job_that_runs_already_may_be_started_later(glue: Any) -> None:
    """But never one that does not exist (U1, U3)."""
    glue.create_job(Name="job", Role="role", Command={"Name": "glueetl"})
    glue.start_job_run(JobName="job")
    assert NotNow is meaning(raised(glue.start_job_run, JobName="job"))
    assert meaning(raised(glue.start_job_run, JobName="missing")) is False


# -- gRPC ------------------------------------------------------------------------------------------

FINAL = "ALREADY_EXISTS FAILED_PRECONDITION INVALID_ARGUMENT NOT_FOUND OUT_OF_RANGE PERMISSION_DENIED"
FINAL += " UNAUTHENTICATED UNIMPLEMENTED"
TRANSIENT = "ABORTED CANCELLED DATA_LOSS DEADLINE_EXCEEDED INTERNAL UNAVAILABLE UNKNOWN"
GRPC = dict.fromkeys(FINAL.split(), False) | dict.fromkeys(TRANSIENT.split(), True)
GRPC["RESOURCE_EXHAUSTED"] = NotNow


def ask_grpc(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        channel.unary_unary("/test/Ask")(b"hello", timeout=TIMEOUT)


def ask_google_grpc(target: str) -> None:
    raise google.from_grpc_error(raised(ask_grpc, target))


GRPC_CLIENTS = [ask_grpc, ask_google_grpc]


@contextmanager
def serving(abort: Callable[[Any], None]) -> Iterator[str]:
    """Serve a method that aborts, on loopback; yield where."""
    with RetryingExecutor(1) as executor:
        server = grpc.server(executor)
        handler = grpc.unary_unary_rpc_method_handler(lambda _, context: abort(context))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Ask": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            assert server.stop(None).wait(TIMEOUT)


@of_each(GRPC_CLIENTS)
@pytest.mark.parametrize("name", [code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_a_grpc_status_says_whether_a_try_can_help(ask: Callable[[str], None], name: str) -> None:
    """Every one that the client knows (U1, U3)."""
    with serving(lambda context: context.abort(grpc.StatusCode[name], "no")) as target:
        exception = raised(ask, target)
    assert GRPC[name] == meaning(exception)
    assert retry_after(exception) is None


def pushback(context: Any) -> None:
    context.set_trailing_metadata((("grpc-retry-pushback-ms", "250"),))
    context.abort(grpc.StatusCode.UNAVAILABLE, "no")


def retry_info(context: Any) -> None:
    status = status_pb2.Status(code=8, message="no")
    status.details.add().Pack(details_pb2.Help(links=[{"description": "patience"}]))
    status.details.add().Pack(details_pb2.RetryInfo(retry_delay={"seconds": 3, "nanos": 500_000_000}))
    context.abort_with_status(grpc_status.to_status(status))


@of_each(GRPC_CLIENTS)
@pytest.mark.parametrize(("abort", "expected"), [(pushback, 0.25), (retry_info, 3.5)])
def test_grpc_says_how_long_to_wait(
    ask: Callable[[str], None], abort: Callable[[Any], None], expected: float
) -> None:
    """In the metadata, or in the details of the status (U2)."""
    with serving(abort) as target:
        assert expected == retry_after(raised(ask, target))


def encoded(*delays: dict[str, int] | None) -> bytes:
    """Return an encoded google.rpc.Status with a RetryInfo for each delay, and another detail before."""
    status = status_pb2.Status(code=8, message="no")
    status.details.add().Pack(details_pb2.Help(links=[{"description": "patience"}]))
    for delay in delays:
        status.details.add().Pack(details_pb2.RetryInfo(retry_delay=delay))
    answer: bytes = status.SerializeToString()
    return answer


class DetailedError(Exception):
    """Has what grpc has."""

    def __init__(self, status: bytes) -> None:
        self.status = status

    def trailing_metadata(self) -> list[tuple[str, bytes]]:
        return [("grpc-status-details-bin", self.status)]


@pytest.mark.parametrize(
    ("delays", "expected"),
    [
        ([{"seconds": 300}], 300.0),
        ([{"seconds": 3, "nanos": 500_000_000}], 3.5),
        ([{"nanos": 1}], 1e-9),
        ([{}], 0.0),
        ([], None),
        ([None], None),
        ([None, {"seconds": 7}, {"seconds": 8}], 7.0),
        ([{"seconds": -3}], None),
        ([{"seconds": -3, "nanos": -1}], None),
        ([{"seconds": 3, "nanos": -1}], None),
        ([{"seconds": 3, "nanos": 1_000_000_000}], None),
        ([{"seconds": 2**62}], None),
    ],
)
def test_a_detail_says_how_long_to_wait(delays: list[dict[str, int] | None], expected: float | None) -> None:
    """The first that has a delay; what is malformed or negative is ignored (U2)."""
    assert expected == retry_after(DetailedError(encoded(*delays)))
    infos = [details_pb2.RetryInfo(retry_delay=delay) for delay in delays]
    assert expected == retry_after(google.ResourceExhausted("no", details=infos))


def test_details_that_are_cut_off_say_nothing() -> None:
    """Wherever that is (U2)."""
    whole = encoded({"seconds": 3, "nanos": 500_000_000})
    assert 3.5 == retry_after(DetailedError(whole))
    assert {None} == {retry_after(DetailedError(whole[:length])) for length in range(len(whole))}


@given(st.binary())
def test_details_that_are_no_details_say_nothing(status: bytes) -> None:
    """Nothing is raised, whatever is in there (U2)."""
    assert retry_after(DetailedError(status)) is None


@of_each(GRPC_CLIENTS)
def test_a_grpc_server_that_is_not_there_may_come_back(ask: Callable[[str], None]) -> None:
    """A refused connection is a failure as any other (U1)."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        assert meaning(raised(ask, f"127.0.0.1:{taken.getsockname()[1]}")) is True


@pytest.mark.parametrize("client", ["requests", "httpx"])
def test_backoff_closes_what_is_streamed(server: Server, client: str) -> None:
    """The answer to a call in backoff is closed, and the connection with it or given back (B5)."""
    answers: list[Any] = []

    def call() -> None:
        if client == "requests":
            answers.append(session.get(server.url, stream=True))
        else:
            request = session.build_request("GET", server.url)
            answers.append(session.send(request, stream=True))
        answers[-1].raise_for_status()

    server.answer(503, body=b"{}" * 100_000)
    session = requests.Session() if client == "requests" else httpx.Client(trust_env=False)
    with session, RetryingExecutor(1, retry=RetryPolicy(delays=(0.001,))) as executor:
        error: Any = executor.submit(call).exception(TIMEOUT)
        first, last = (answer.raw.closed if client == "requests" else answer.is_closed for answer in answers)
        assert first
        assert not last
        error.response.close()
