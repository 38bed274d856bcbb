"""What the clients of networks, mail and shells raise, and what a program raises itself or around it."""

from __future__ import annotations

import asyncio
import builtins
import ftplib
import http.client
import imaplib
import json
import pickle
import poplib
import smtplib
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from test_database_answers import AGAIN, FINAL, RETRY, meaning, wrapped
from verdicts import library, raised

from answering import Server, answering, serving
from conftest import TIMEOUT
from retrying_executor import NotNow, retry_after, transient

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"  # clients leave sockets to the collector
)


Behaviour = Callable[[socket.socket], object]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that answers as it is told."""
    with answering() as server:
        yield server


@contextmanager
def behaving(behaviour: Behaviour) -> Iterator[int]:
    """Do the same with every connection; yield the port."""
    connections: list[socket.socket] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connections.append(self.request)
            with suppress(OSError):
                behaviour(self.request)

    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)) as port:
        try:
            yield port
        finally:
            for connection in connections:  # that the exception may keep open
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


def named(functions: list[Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("ask", functions, ids=lambda ask: str(ask.__name__).removeprefix("ask_"))


# -- HTTP clients without an answer ----------------------------------------------------------------

Ask = Callable[..., object]


def ask_requests(url: str, ca: str | None = None, proxy: str | None = None, timeout: float = TIMEOUT) -> None:
    proxies = {"https": proxy} if proxy else {}
    library("requests").get(url, verify=ca or True, proxies=proxies, timeout=timeout).raise_for_status()


def ask_httpx(url: str, ca: str | None = None, proxy: str | None = None, timeout: float = TIMEOUT) -> None:
    context = ssl.create_default_context(cafile=ca)
    with library("httpx").Client(verify=context, proxy=proxy, timeout=timeout) as client:
        client.get(url).raise_for_status()


def ask_aiohttp(url: str, ca: str | None = None, proxy: str | None = None, timeout: float = TIMEOUT) -> None:
    aiohttp = library("aiohttp")

    async def ask() -> None:
        total = aiohttp.ClientTimeout(total=timeout)
        async with aiohttp.ClientSession(timeout=total, raise_for_status=True) as session:
            context = ssl.create_default_context(cafile=ca)
            async with session.get(url, ssl=context, proxy=proxy) as response:
                await response.read()

    asyncio.run(ask())


def ask_urllib(url: str, ca: str | None = None, proxy: str | None = None, timeout: float = TIMEOUT) -> None:
    handlers = [urllib.request.ProxyHandler({"https": proxy} if proxy else {})]
    https = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca))
    with urllib.request.build_opener(*handlers, https).open(url, timeout=timeout) as response:
        response.read()


def ask_urllib3(url: str, ca: str | None = None, proxy: str | None = None, timeout: float = TIMEOUT) -> None:
    urllib3 = library("urllib3")
    options = {"retries": 0, "timeout": timeout, "ca_certs": ca}
    with urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options) as pool:
        pool.request("GET", url)


def ask_openai(url: str, ca: str | None = None, proxy: str | None = None, timeout: float = TIMEOUT) -> None:
    openai, httpx = library("openai"), library("httpx")
    context = ssl.create_default_context(cafile=ca)
    with httpx.Client(verify=context, proxy=proxy, timeout=timeout) as client:
        options = {"api_key": "k", "max_retries": 0, "timeout": timeout}
        openai.OpenAI(base_url=url, http_client=client, **options).models.list()


def ask_httplib2(url: str, ca: str | None = None, timeout: float = TIMEOUT) -> None:
    with closing(library("httplib2").Http(ca_certs=ca, timeout=timeout, proxy_info=None)) as client:
        client.request(url)


def ask_botocore(url: str, ca: str | None = None, timeout: float = TIMEOUT) -> None:
    boto3, botocore = library("boto3"), library("botocore.config")
    config = botocore.Config(retries={"total_max_attempts": 1}, proxies={}, read_timeout=timeout)
    keys = {"aws_access_key_id": "k", "aws_secret_access_key": "k", "region_name": "us-east-1"}
    with closing(boto3.client("kms", endpoint_url=url, verify=ca, config=config, **keys)) as client:
        client.list_keys()


PROXIED: list[Ask] = [ask_requests, ask_httpx, ask_aiohttp, ask_urllib, ask_urllib3, ask_openai]
CLIENTS: list[Ask] = [*PROXIED, ask_httplib2, ask_botocore]


def close(_: socket.socket) -> None:
    """Close at once."""


def reset(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def answer(text: bytes) -> Behaviour:
    def behaviour(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(text)

    return behaviour


BROKEN = {
    "close": close,
    "reset": reset,
    "short": answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"),
    "chunk": answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
    "garbage": answer(b"\x16\x03garbage\r\n\r\n"),
    "no header": answer(b"HTTP/1.1 200 OK\r\nbroken\r\n\r\n"),
    "hang": lambda connection: connection.recv(65536) and connection.recv(65536),
}


LENIENT: dict[str, list[Ask]] = {
    "no header": [ask_requests, ask_urllib, ask_urllib3, ask_httplib2, ask_botocore],  # as http.client
    "short": [ask_httplib2, ask_botocore],
}


@pytest.mark.parametrize(
    ("how", "ask"),
    [
        pytest.param(how, ask, id=f"{how}-{ask.__name__.removeprefix('ask_')}")  # type: ignore[attr-defined]
        for how in BROKEN
        for ask in CLIENTS
        if ask not in LENIENT.get(how, ())
    ],
)
def test_a_broken_connection_may_work_later(ask: Ask, how: str) -> None:
    """Whichever way it breaks, and whatever a client makes of it; aiohttp makes a status 400 (U1)."""
    with behaving(BROKEN[how]) as port:
        exception = raised(ask, f"http://127.0.0.1:{port}", timeout=0.3 if how == "hang" else TIMEOUT)
    assert meaning(exception) is True
    assert retry_after(exception) is None


@named(CLIENTS)
@pytest.mark.parametrize("number", [socket.EAI_NONAME, socket.EAI_AGAIN])
def test_a_name_may_be_found_later(ask: Ask, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver may have failed, even where it says that there is no such name (U1)."""

    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(number, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert meaning(raised(ask, "http://service.invalid/")) is True


@named(CLIENTS)
def test_a_refused_connection_may_be_accepted_later(ask: Ask) -> None:
    """The process may be about to start (U1)."""
    assert meaning(raised(ask, "http://127.0.0.1:1")) is True


@named(PROXIED)
@pytest.mark.parametrize("status", [502, 503])
def test_a_proxy_may_work_later(ask: Ask, status: int) -> None:
    """It could not reach the service, or is not there (RFC 9110, 15.6; U1)."""
    text = f"HTTP/1.1 {status} no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with behaving(answer(text.encode())) as port:
        assert meaning(raised(ask, "https://127.0.0.1:1/", proxy=f"http://127.0.0.1:{port}")) in AGAIN
    assert meaning(raised(ask, "https://127.0.0.1:1/", proxy="http://127.0.0.1:1")) is True


# -- certificates ----------------------------------------------------------------------------------


def ask_http_client(url: str, ca: str) -> None:
    context = ssl.create_default_context(cafile=ca)
    host = url.removeprefix("https://")
    with closing(http.client.HTTPSConnection(host, context=context)) as connection:
        connection.request("GET", "/")


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def ask_smtp(url: str, ca: str) -> None:
    smtplib.SMTP_SSL("127.0.0.1", port_of(url), context=ssl.create_default_context(cafile=ca)).quit()


def ask_imap(url: str, ca: str) -> None:
    context = ssl.create_default_context(cafile=ca)
    imaplib.IMAP4_SSL("127.0.0.1", port_of(url), ssl_context=context).logout()


def ask_pop(url: str, ca: str) -> None:
    poplib.POP3_SSL("127.0.0.1", port_of(url), context=ssl.create_default_context(cafile=ca)).quit()


def ask_websockets(url: str, ca: str) -> None:
    client = library("websockets.sync.client")
    context = ssl.create_default_context(cafile=ca)
    client.connect(url.replace("https", "wss"), ssl=context, proxy=None).close()


def ask_redis(url: str, ca: str) -> None:
    with closing(library("redis").Redis(port=port_of(url), ssl=True, ssl_ca_certs=ca, retry=None)) as client:
        client.ping()


def ask_deliver(url: str, ca: str) -> None:
    """Raise what a program makes of it, two levels above."""
    error = wrapped(RuntimeError("not delivered"), raised(ask_httpx, url, ca))
    raise LookupError("gave up") from error


SECURED: list[Ask] = [ask_http_client, ask_smtp, ask_imap, ask_pop, ask_websockets, ask_redis, ask_deliver]


@named([*CLIENTS, *SECURED])
@pytest.mark.parametrize("wrong", ["host", "authority", "expired"])
def test_a_certificate_that_does_not_verify_is_final(ask: Ask, wrong: str, tmp_path: Path) -> None:
    """Wherever in the chain `ssl.SSLCertVerificationError` is: cause, argument, `reason` (U1)."""
    trustme = library("trustme")
    trusted = trustme.CA()
    authority = trustme.CA() if wrong == "authority" else trusted
    now = datetime.now(timezone.utc)
    dates = {"not_before": now - timedelta(9), "not_after": now - timedelta(1)} if wrong == "expired" else {}
    certificate = authority.issue_cert("wrong.invalid" if wrong == "host" else "127.0.0.1", **dates)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    trusted.cert_pem.write_to_path(str(tmp_path / "ca"))

    def shake_hands(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(65536)

    with behaving(shake_hands) as port:
        exception = raised(ask, f"https://127.0.0.1:{port}", ca=str(tmp_path / "ca"))
    assert meaning(exception) is False
    assert retry_after(exception) is None


@named([*CLIENTS, *SECURED])
def test_a_handshake_that_breaks_off_may_work_later(ask: Ask, tmp_path: Path) -> None:
    """That is no certificate that does not verify (U1)."""
    library("trustme").CA().cert_pem.write_to_path(str(tmp_path / "ca"))
    with behaving(lambda connection: connection.recv(65536)) as port:
        exception = raised(ask, f"https://127.0.0.1:{port}", ca=str(tmp_path / "ca"))
    assert meaning(exception) is True


# -- errors before the service ---------------------------------------------------------------------

BAD_URLS = [
    (ask_requests, "example.invalid/x"),
    (ask_requests, "foo://example.invalid/x"),
    (ask_requests, "http:///x"),
    (ask_requests, "http://*/"),
    (ask_httpx, "example.invalid/x"),
    (ask_httpx, "foo://example.invalid/x"),
    (ask_httpx, "http://[::1"),
    (ask_httpx, "http://host:port/"),
    (ask_aiohttp, "foo://example.invalid/x"),
    (ask_aiohttp, "http:///x"),
    (ask_urllib, "foo://example.invalid/x"),
    (ask_urllib, "http://127.0.0.1/a b"),
    (ask_urllib3, "foo://example.invalid/x"),
    (ask_urllib3, "http://[::1"),
    (ask_openai, "foo://example.invalid/x"),
]


@pytest.mark.parametrize(("ask", "url"), BAD_URLS)
def test_a_url_that_is_none_is_final(ask: Ask, url: str) -> None:
    """requests.exceptions.InvalidURL, httpx.UnsupportedProtocol, aiohttp.InvalidURL, ... (U1)."""
    assert meaning(raised(ask, url)) is False


def test_a_request_that_cannot_be_made_is_final() -> None:
    """A header with a line break, whatever the server (RFC 9110, 5.5; U1)."""
    requests, httpx = library("requests"), library("httpx")
    with behaving(close) as port:
        url, headers = f"http://127.0.0.1:{port}", {"X-Name": "a\nb"}
        assert meaning(raised(requests.get, url, headers=headers)) is False
        assert meaning(raised(httpx.get, url, headers=headers)) is False
        assert meaning(raised(requests.get, url, proxies={"http": "http:///x"})) is False


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, float("nan"), [b"bytes"]], ids=["any", "set", "nan", "bytes"]
)
def test_what_is_no_json_is_final(value: object) -> None:
    """What the client and the module json say of it: `TypeError`, or an error of the client (U1)."""
    requests, httpx, aiohttp = library("requests"), library("httpx"), library("aiohttp")

    async def post() -> None:
        async with aiohttp.ClientSession() as session:
            await session.post("http://127.0.0.1:1", json={"a": value})

    posts: list[Callable[[], object]] = [
        lambda: requests.post("http://127.0.0.1:1", json={"a": value}),
        lambda: httpx.post("http://127.0.0.1:1", json={"a": value}),
    ]
    if value == value:  # aiohttp sends NaN
        posts += [lambda: asyncio.run(post()), lambda: json.dumps({"a": value})]
    assert {False} == {meaning(raised(call)) for call in posts}


def test_what_cannot_be_pickled_is_final() -> None:
    """As what is no JSON; but what is read may have been cut off on its way (U1)."""
    assert meaning(raised(pickle.dumps, threading.Lock())) is False
    assert meaning(pickle.PicklingError("Can't pickle <function f>: it's not found as m.f")) is False
    assert meaning(raised(pickle.loads, b"\x80")) is True
    assert meaning(raised(json.loads, "{")) is True


def test_botocore_fails_before_the_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials, region or profile, bad parameters (botocore.exceptions; U1)."""
    boto3, botocore = library("boto3"), library("botocore.exceptions")
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with closing(boto3.session.Session().client("kms", region_name="us-east-1")) as client:
        assert meaning(raised(client.list_keys)) is False
        assert meaning(raised(client.list_keys, Limit="many")) is False
        assert meaning(raised(client.describe_key)) is False
    assert meaning(raised(boto3.session.Session().client, "kms")) is False  # no region
    assert meaning(raised(boto3.session.Session, profile_name="missing")) is False
    assert meaning(raised(boto3.session.Session().client, "missing", region_name="us-east-1")) is False
    assert meaning(botocore.PartialCredentialsError(provider="env", cred_var="SECRET")) is False
    assert meaning(botocore.UnauthorizedSSOTokenError()) is False
    # What fetches the credentials may work later, and so may the connection.
    assert meaning(botocore.CredentialRetrievalError(provider="custom-process", error_msg="no")) is True
    assert meaning(botocore.MetadataRetrievalError(error_msg="no")) is True
    assert meaning(botocore.ConnectTimeoutError(endpoint_url="http://host")) is True


def test_google_auth_fails_before_the_service() -> None:
    """`retryable` says it; but a `TransportError` is of the network (google.api_core.retry; U1)."""
    auth = library("google.auth.exceptions")
    transport = library("google.auth.transport.requests")
    assert meaning(auth.DefaultCredentialsError("Your default credentials were not found.")) is False
    assert meaning(auth.RefreshError("invalid_grant: Token has been expired or revoked.", {})) is False
    assert meaning(auth.RefreshError("internal_failure", {}, retryable=True)) in AGAIN
    with closing(library("requests").Session()) as session:
        error: Any = raised(transport.Request(session), "http://127.0.0.1:1")
    assert not error.retryable
    assert meaning(error) is True


def test_azure_fails_before_the_service() -> None:
    """No credential, or a refused one; but the network may work later (azure.core.exceptions; U1)."""
    identity, core = library("azure.identity"), library("azure.core.exceptions")
    assert meaning(identity.CredentialUnavailableError(message="environment is not configured")) is False
    assert meaning(core.ClientAuthenticationError(message="AADSTS7000215: Invalid client secret")) is False
    for name in ("ServiceRequestError", "ServiceResponseError", "ServiceRequestTimeoutError"):
        assert meaning(getattr(core, name)("no")) is True


# -- mail, files, shells ---------------------------------------------------------------------------


def speaking(greeting: str, reply: Callable[[str], str]) -> Behaviour:
    """Greet, and answer each line; an empty answer closes the connection."""

    def behaviour(connection: socket.socket) -> None:
        with connection.makefile("rwb") as file:

            def say(text: str) -> None:
                file.write(text.encode() + b"\r\n")
                file.flush()

            say(greeting)
            is_data = False
            for line in file:
                text = line.decode().strip()
                if is_data and text != ".":
                    continue
                said = reply(text)
                if not said:
                    return
                is_data = said.startswith("354")
                say(said)

    return behaviour


def smtp(**replies: str) -> Behaviour:
    """Speak SMTP; *replies* are of the commands, of the two recipients, and of the end of the data."""
    usual = {"EHLO": "250-x\r\n250 AUTH PLAIN", "AUTH": "235 ok", "DATA": "354 go on", "QUIT": "221 bye"}

    def reply(line: str) -> str:
        command = line[:4].upper()
        name = "END" if line == "." else line[9:10] if command == "RCPT" else command
        return replies.get(name, usual.get(name, "250 ok"))

    return speaking(replies.get("GREETING", "220 x"), reply)


def ask_smtplib(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, "x", TIMEOUT) as client:
        client.login("u", "p")
        client.sendmail("s@x", ["a@x", "b@x"], "Subject: no\r\n\r\nno")


def ask_aiosmtplib(port: int) -> None:
    aiosmtplib = library("aiosmtplib")
    mail = {"sender": "s@x", "recipients": ["a@x", "b@x"], "start_tls": False}
    options = {"hostname": "127.0.0.1", "port": port, "username": "u", "password": "p"}
    asyncio.run(aiosmtplib.send("Subject: no\r\n\r\nno", **mail, **options))


SMTP = [  # RFC 5321, 4.2.1: 4yz is transient, 5yz is permanent; RFC 4954, 6
    *(({"GREETING": "554 no SMTP service here"}, FINAL), ({"GREETING": "421 too busy"}, AGAIN)),
    *(({"AUTH": f"{code} no"}, FINAL) for code in (534, 535, 538)),
    *(({"AUTH": f"{code} no"}, AGAIN) for code in (421, 432, 454)),
    *(({"MAIL": f"{code} no"}, FINAL) for code in (530, 550, 553)),
    *(({"MAIL": f"{code} no"}, AGAIN) for code in (421, 450, 451, 452)),
    *(({"a": f"{code} no", "b": "550 no such user"}, FINAL) for code in (550, 551, 553, 554)),
    *(({"a": f"{code} no", "b": "450 greylisted"}, AGAIN) for code in (450, 451, 452, 550)),
    ({"a": "550 no such user", "b": "421 too busy"}, AGAIN),
    ({"DATA": "554 no valid recipients"}, FINAL),
    ({"DATA": "451 local error"}, AGAIN),
    *(({"END": f"{code} no"}, FINAL) for code in (550, 552, 554)),
    *(({"END": f"{code} no"}, AGAIN) for code in (421, 450, 451, 452)),
    *(({name: ""}, RETRY) for name in ("AUTH", "MAIL", "a", "DATA", "END")),
]


@named([ask_smtplib, ask_aiosmtplib])
@pytest.mark.parametrize(("replies", "expected"), SMTP, ids=str)
def test_smtp_says_whether_a_try_can_help(
    ask: Ask, replies: dict[str, str], expected: tuple[object, ...]
) -> None:
    """`smtp_code`, `code`, or each recipient's; one that may be accepted later is enough (U1)."""
    with behaving(smtp(**replies)) as port:
        assert meaning(raised(ask, port)) in expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *((code, FINAL) for code in (500, 501, 502, 530, 532, 550, 551, 552, 553)),
        *((code, AGAIN) for code in (421, 425, 426, 450, 451, 452)),
    ],
)
def test_ftp_says_whether_a_try_can_help(code: int, expected: tuple[object, ...]) -> None:
    """`ftplib.error_temp` and `error_perm` begin with the code (RFC 959, 4.2; U1)."""
    with behaving(speaking("220 x", lambda _: f"{code} no")) as port, ftplib.FTP() as client:
        client.connect("127.0.0.1", port, TIMEOUT)
        assert meaning(raised(client.login, "u", "p")) in expected
        assert meaning(raised(client.voidcmd, "RETR file")) in expected
        client.close()


def imap(reply: str) -> Behaviour:
    def answer(line: str) -> str:
        tag, command = line.split()[:2]
        usual = {"CAPABILITY": f"* CAPABILITY IMAP4rev1\r\n{tag} OK done", "LOGOUT": ""}
        return usual.get(command, reply and f"{tag} {reply}")

    return speaking("* OK x", answer)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [  # RFC 3501, 7.1; RFC 5530, 3
        ("NO [AUTHENTICATIONFAILED] Invalid credentials", FINAL),
        ("NO [AUTHORIZATIONFAILED] no", FINAL),
        ("NO [EXPIRED] no", FINAL),
        ("NO [UNAVAILABLE] User's backend is down for maintenance", AGAIN),
        ("NO [INUSE] Mailbox in use", AGAIN),
        ("NO [SERVERBUG] no", RETRY),
        ("NO something", RETRY),
        ("", RETRY),
    ],
)
def test_imap_says_whether_a_try_can_help(reply: str, expected: tuple[object, ...]) -> None:
    """The response code is in the message of `imaplib.IMAP4.error`, if there is one (U1)."""
    with behaving(imap(reply)) as port:
        client = imaplib.IMAP4("127.0.0.1", port, TIMEOUT)
        assert meaning(raised(client.login, "u", "p")) in expected
        client.shutdown()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [  # RFC 2449, 8.1; RFC 3206
        ("-ERR [AUTH] Invalid login", FINAL),
        ("-ERR [SYS/PERM] no such mailbox", FINAL),
        ("-ERR [SYS/TEMP] try later", AGAIN),
        ("-ERR [IN-USE] Do you have another POP session running?", AGAIN),
        ("-ERR [LOGIN-DELAY] minimum time between mail checks violation", AGAIN),
        ("-ERR no", RETRY),
    ],
)
def test_pop_says_whether_a_try_can_help(reply: str, expected: tuple[object, ...]) -> None:
    """The response code is in the message of `poplib.error_proto`, if there is one (U1)."""
    with behaving(speaking("+OK x", lambda _: reply)) as port:
        client = poplib.POP3("127.0.0.1", port, TIMEOUT)
        assert meaning(raised(client.pass_, "p")) in expected
        client.close()


def test_ssh_says_whether_a_try_can_help() -> None:
    """A refused authentication and a wrong host key are final; the network is not (paramiko's docs; U1)."""
    paramiko = library("paramiko")
    key, other = paramiko.ECDSAKey.generate(), paramiko.ECDSAKey.generate()

    def serve(connection: socket.socket) -> None:
        transport = paramiko.Transport(connection)
        transport.add_server_key(key)
        with suppress(paramiko.SSHException, EOFError):
            transport.start_server(server=paramiko.ServerInterface())
            transport.join(TIMEOUT)
        transport.close()

    options = {"username": "u", "password": "p", "look_for_keys": False, "allow_agent": False}
    with behaving(serve) as port:
        for known, meant in ((key, False), (other, False), (None, False)):
            client = paramiko.SSHClient()
            if known:
                client.get_host_keys().add(f"[127.0.0.1]:{port}", known.get_name(), known)
            assert meant is meaning(raised(client.connect, "127.0.0.1", port, **options))
            client.close()
    with behaving(close) as port, closing(paramiko.SSHClient()) as client:
        assert meaning(raised(client.connect, "127.0.0.1", port, **options)) is True
    with closing(paramiko.SSHClient()) as client:
        assert meaning(raised(client.connect, "127.0.0.1", 1, **options)) is True
    assert meaning(paramiko.BadAuthenticationType("Bad authentication type", ["publickey"])) is False
    assert meaning(paramiko.PasswordRequiredException("private key file is encrypted")) is False
    # paramiko.auth_handler.AuthHandler.wait_for_response raises these as well
    for message in ("Authentication timeout.", "Authentication failed: transport shut down or saw EOF"):
        assert meaning(paramiko.AuthenticationException(message)) is True


# -- WebSockets, gRPC ------------------------------------------------------------------------------


def ask_websocket_client(url: str) -> None:
    library("websocket").create_connection(url, TIMEOUT).close()


def ask_websockets_sync(url: str) -> None:
    library("websockets.sync.client").connect(url, proxy=None).close()


@named([ask_websocket_client, ask_websockets_sync])
@pytest.mark.parametrize(
    ("status", "headers", "expected", "after"),
    [  # websockets: asyncio.client.process_exception (5xx is transient); RFC 9110
        *((status, {}, FINAL, None) for status in (400, 401, 403, 404)),
        *((status, {}, AGAIN, None) for status in (500, 502, 503, 504)),
        (429, {"Retry-After": "7"}, (NotNow,), 7.0),
        (503, {"Retry-After": "7"}, AGAIN, 7.0),
        (403, {"Retry-After": "7"}, (NotNow,), 7.0),
    ],
)
def test_a_web_socket_is_refused_with_a_status(
    ask: Ask,
    status: int,
    headers: dict[str, str],
    expected: tuple[object, ...],
    after: float | None,
) -> None:
    """`response.status_code` and its headers, or `status_code` and `resp_headers` (U1, U2)."""
    lines = [f"HTTP/1.1 {status} no", "Content-Length: 0", *(f"{name}: {headers[name]}" for name in headers)]
    with behaving(answer("\r\n".join([*lines, "", ""]).encode())) as port:
        exception = raised(ask, f"ws://127.0.0.1:{port}")
    assert meaning(exception) in expected
    assert after == retry_after(exception)


def test_a_web_socket_that_closes_may_open_again() -> None:
    """RFC 6455, 7.4: 1001 "going away", 1011 to 1013 of the server; 1006 is no close frame at all (U1)."""
    exceptions, frames = library("websockets.exceptions"), library("websockets.frames")
    assert meaning(exceptions.ConnectionClosedError(None, None)) is True
    for code in (1000, 1001, 1011, 1012, 1013):
        assert meaning(exceptions.ConnectionClosedError(frames.Close(code, "no"), None)) in AGAIN
    assert meaning(raised(ask_websockets_sync, "http://127.0.0.1:1")) is False  # it is no ws:// URL
    assert meaning(raised(ask_websockets_sync, "ws://127.0.0.1:1")) is True


GRPC = {
    "FINAL": "ALREADY_EXISTS FAILED_PRECONDITION INVALID_ARGUMENT NOT_FOUND OUT_OF_RANGE PERMISSION_DENIED"
    " UNAUTHENTICATED UNIMPLEMENTED",
    "RETRY": "ABORTED CANCELLED DATA_LOSS DEADLINE_EXCEEDED INTERNAL UNAVAILABLE UNKNOWN",
    "NOT_NOW": "RESOURCE_EXHAUSTED",
}


@pytest.mark.parametrize(("kind", "names"), GRPC.items(), ids=GRPC)
def test_grpc_aio_has_the_status_as_well(kind: str, names: str) -> None:
    """https://grpc.io/docs/guides/status-codes/, and what a program raises from it (U1, U2)."""
    grpc, aio = library("grpc"), library("grpc.aio")
    expected = {"FINAL": FINAL, "RETRY": AGAIN, "NOT_NOW": (NotNow,)}[kind]
    metadata = aio.Metadata(("grpc-retry-pushback-ms", "250"))
    for name in names.split():
        exception = aio.AioRpcError(grpc.StatusCode[name], aio.Metadata(), metadata, "no")
        for error in (exception, wrapped(RuntimeError("no"), exception)):
            assert meaning(error) in expected
            assert 0.25 == retry_after(error)


# -- wrapped ---------------------------------------------------------------------------------------


def refused(server: Server, status: int, headers: dict[str, str] | None = None) -> Exception:
    server.answer(status, headers)
    return raised(ask_httpx, server.url)


class DeliveryError(Exception):
    """An exception of a program, which says nothing of its own."""


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize(
    ("status", "headers", "expected", "after"),
    [
        (404, {}, FINAL, None),
        (503, {}, RETRY, None),
        (429, {"Retry-After": "7"}, (NotNow,), 7.0),
        (503, {"Retry-After": "7"}, AGAIN, 7.0),
    ],
)
@pytest.mark.parametrize("make", [DeliveryError, RuntimeError, KeyError, ValueError, OSError])
def test_a_wrapped_answer_is_asked(
    server: Server,
    make: type[Exception],
    status: int,
    headers: dict[str, str],
    expected: tuple[object, ...],
    after: float | None,
    depth: int,
) -> None:
    """At any depth of `raise X from Y`, where X says nothing (U1, U2)."""
    exception = refused(server, status, headers)
    for _ in range(depth):
        exception = wrapped(make("no"), exception)
    assert meaning(exception) in expected
    assert after == retry_after(exception)


def test_the_context_is_not_asked(server: Server) -> None:
    """What was being handled need not be the reason; nor is what `from None` hides (U1, U2)."""
    for status, headers in ((404, {}), (429, {"Retry-After": "7"})):
        inner = refused(server, status, headers)

        def implicit(inner: Exception = inner) -> None:
            try:
                raise inner
            except Exception:
                raise DeliveryError("no")  # noqa: B904  # that is the point

        def hidden(inner: Exception = inner) -> None:
            try:
                raise inner
            except Exception:
                raise DeliveryError("no") from None

        for call in (implicit, hidden):
            exception = raised(call)
            assert exception.__context__ is inner
            assert meaning(exception) is True
            assert retry_after(exception) is None


def test_the_outer_exception_comes_first(server: Server) -> None:
    """Where it says something itself, its cause is not asked (U1, U2)."""
    missing, down = refused(server, 404), refused(server, 503, {"Retry-After": "7"})
    assert meaning(wrapped(missing, down)) is False
    missing, down = refused(server, 404), refused(server, 503, {"Retry-After": "7"})
    outer = wrapped(down, missing)
    assert meaning(outer) in AGAIN
    assert 7.0 == retry_after(outer)
    later = NotNow(after=3)
    assert later is transient(wrapped(later, refused(server, 404)))
    assert meaning(wrapped(NotImplementedError("no"), refused(server, 503))) is False


def test_a_cause_of_the_machinery_proves_nothing() -> None:
    """`asyncio.timeout()` raises its `TimeoutError` from the cancellation; that is the network's (U1)."""

    async def hang() -> None:
        await asyncio.wait_for(asyncio.Event().wait(), 0.001)

    assert meaning(raised(lambda: asyncio.run(hang()))) is True
    for cause in (asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(1), GeneratorExit()):
        error = DeliveryError("no")
        error.__cause__ = cause
        assert meaning(error) is True


def test_a_type_error_within_the_call_is_no_call_that_does_not_fit() -> None:
    """Its traceback has one frame, too, where the function that raised it also caught it (U1)."""

    def call() -> None:
        try:
            int(None)  # type: ignore[call-overload]  # that is the point
        except TypeError as error:
            raise DeliveryError("no") from error

    assert meaning(raised(call)) is True


def test_a_chain_may_be_a_circle(server: Server) -> None:
    """It is followed once around (U1, U2)."""
    one, other = DeliveryError("one"), DeliveryError("other")
    one.__cause__, other.__cause__ = other, one
    assert (True, None) == (meaning(one), retry_after(one))
    other.__cause__ = refused(server, 404)
    other.__cause__.__cause__ = one
    assert meaning(one) is False


@pytest.mark.parametrize(("status", "expected"), [(404, FINAL), (503, RETRY), (429, (NotNow,))])
def test_tenacity_gives_up_because_of_an_answer(
    server: Server, status: int, expected: tuple[object, ...]
) -> None:
    """`RetryError` is raised from the last exception, which is also in `last_attempt` (U1)."""
    tenacity = library("tenacity")
    server.answer(status)

    @tenacity.retry(stop=tenacity.stop_after_attempt(2))  # type: ignore[untyped-decorator]  # it is untyped
    def call() -> None:
        ask_httpx(server.url)

    exception = raised(call)
    assert isinstance(exception, tenacity.RetryError)
    assert meaning(exception) in expected


# -- exception groups ------------------------------------------------------------------------------


def group(*members: Exception) -> Exception:
    module = builtins if sys.version_info >= (3, 11) else library("exceptiongroup")
    made: Exception = module.ExceptionGroup("some failed", list(members))
    return made


def test_a_group_is_what_its_members_are(server: Server) -> None:
    """All of them; one that may work later is enough, and the longest wait counts (U1, U2)."""
    missing, down = refused(server, 404), refused(server, 503)
    soon, late = (refused(server, 429, {"Retry-After": text}) for text in ("3", "7"))
    assert meaning(group(missing)) is False
    assert meaning(group(missing, NotImplementedError())) is False
    assert meaning(group(group(missing), missing)) is False
    assert meaning(group(down, ValueError("no"))) is True
    assert meaning(group(missing, down)) is True
    assert meaning(group(soon)) is NotNow
    assert meaning(group(soon, group(late))) is NotNow
    assert 7.0 == retry_after(group(soon, group(late)))
    assert meaning(group(soon, down)) in AGAIN
    assert meaning(wrapped(DeliveryError("no"), group(missing))) is False
    assert meaning(group(wrapped(DeliveryError("no"), missing))) is False


@pytest.mark.parametrize(("status", "expected"), [(404, FINAL), (503, RETRY), (429, (NotNow,))])
def test_a_task_group_raises_a_group(server: Server, status: int, expected: tuple[object, ...]) -> None:
    """That of anyio, and so that of asyncio from Python 3.11 (U1)."""
    anyio, httpx = library("anyio"), library("httpx")
    server.answer(status)

    async def ask() -> None:
        async with httpx.AsyncClient() as client:
            (await client.get(server.url)).raise_for_status()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)

    assert meaning(raised(lambda: anyio.run(main))) in expected


# -- a program's own errors ------------------------------------------------------------------------

OWN: dict[str, Callable[[], object]] = {
    "KeyError": lambda: {}["x"],
    "IndexError": lambda: [][0],
    "AttributeError": lambda: None.x,  # type: ignore[attr-defined]  # that is the point
    "ValueError": lambda: int("x"),
    "ZeroDivisionError": lambda: 1 / 0,
    "UnicodeDecodeError": lambda: b"\xff".decode(),
    "FileNotFoundError": lambda: Path("/missing/file").read_text(),
    "OverflowError": lambda: 10.0**1000,
    "TypeError": lambda: len(1),  # type: ignore[arg-type]  # that is the point
    "no program": lambda: subprocess.run(["/missing/program"], check=True),
    "exit code": lambda: subprocess.run([sys.executable, "-c", "raise SystemExit(404 % 256)"], check=True),
    "no end": lambda: subprocess.run([sys.executable, "-c", "input()"], stdin=None, timeout=0.0, check=True),
}


@pytest.mark.parametrize("call", OWN.values(), ids=OWN)
def test_an_own_error_is_worth_another_attempt(call: Callable[[], object]) -> None:
    """An unknown exception stays so, lest a call is lost (U1)."""

    def attempt() -> None:
        call()

    exception = raised(attempt)
    assert meaning(exception) is True
    assert retry_after(exception) is None


@pytest.mark.parametrize("error", [AssertionError, MemoryError, RecursionError, PermissionError, OSError])
def test_another_own_error_is_as_well(error: type[Exception]) -> None:
    """With a message that looks like an answer (U1)."""
    for message in ("no", "404 Not Found", "no such table: t", "550 no such user", "WRONGTYPE no", "28P01"):
        assert meaning(error(message)) is True


class CodedError(Exception):
    """Has a code of its own."""

    def __init__(self, **attributes: object) -> None:
        super().__init__("no")
        vars(self).update(attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        *(
            {"code": 404},
            {"code": 1062},
            {"code": 13},
            {"errno": 1045},
            {"code": "404"},
            {"reason": "missing"},
        ),
        *({"status": "failed"}, {"code": "final"}, {"returncode": 404}, {"args": (1062, "no")}),
    ],
    ids=str,
)
def test_a_code_of_an_unknown_kind_proves_nothing(attributes: dict[str, object]) -> None:
    """It is not known from which list it is (U1)."""
    assert meaning(CodedError(**attributes)) is True


def test_pydantic_may_have_been_given_what_a_service_said() -> None:
    """What does not validate now may do so later (U1)."""
    pydantic = library("pydantic")
    assert meaning(raised(pydantic.TypeAdapter(int).validate_python, "x")) is True
