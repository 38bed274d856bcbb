"""The how-to pages: what they show runs, with the libraries that they show, against servers on loopback."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import pages
from conftest import TIMEOUT
from observe import eventually


def needs(*names: str) -> None:
    for name in names:
        pytest.importorskip(name, reason=f"{name} is not installed, or does not run on this system")


class Service(ThreadingHTTPServer):
    """Gives its answers one after the other, and the last one from then on; keeps what it was sent."""

    daemon_threads = False  # so that closing it waits for them

    def __init__(self, *answers: tuple[int, Mapping[str, str], object]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = list(answers)
        self.received: list[tuple[str, dict[str, str], object]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._lock = threading.Lock()

    def answer(self, *received: Any) -> tuple[int, Mapping[str, str], object]:
        with self._lock:
            self.received.append(received)
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:  # so http.server wants it
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, headers, answer = self.server.answer(
            self.path, dict(self.headers), json.loads(sent or b"null")
        )
        body = json.dumps(answer).encode()
        self.send_response_only(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def service(*answers: tuple[int, Mapping[str, str], object]) -> Iterator[Service]:
    """Serve until the end of the block."""
    with Service(*answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


# -- web applications ------------------------------------------------------------------------------

WEB = pages.HOW_TO / "web-applications.md"
GUNICORN = ["gunicorn", "--workers=1", "--bind=127.0.0.1:0", "--chdir={}"]
SERVERS = pytest.mark.parametrize(
    ("block", "command", "ends_with"),
    [
        (0, [*GUNICORN, "shop:app"], 0),
        (0, [*GUNICORN, "--preload", "shop:app"], 0),
        (1, ["uvicorn", "--port=0", "--app-dir={}", "shop:app"], -signal.SIGTERM),
    ],
    ids=["gunicorn", "gunicorn --preload", "uvicorn"],
)


@contextmanager
def serving(
    source: str, command: list[str], directory: Path, partner: Service
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Serve an application; yield the server's process and its port."""
    (directory / "shop.py").write_text(source, "utf-8")
    env = {**os.environ, "PARTNER_URL": partner.url, "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", *(part.format(directory) for part in command)]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, encoding="utf-8") as server:
        try:
            assert server.stderr is not None
            found = (re.search(r"http://127\.0\.0\.1:(\d+)", line) for line in server.stderr)
            yield server, int(next(match for match in found if match)[1])
        finally:
            server.kill()


def order(port: int) -> int:
    """Place an order, and return the status of the answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/orders?number=42", json.dumps({"number": 42}), headers)
    with connection.getresponse() as response:
        response.read()
    connection.close()
    return response.status


@SERVERS
def test_webhook_is_retried_even_when_the_worker_stops(
    block: int, command: list[str], ends_with: int, tmp_path: Path
) -> None:
    """A delivery in backoff gets through before the worker is gone (F4, F6)."""
    needs("requests", "flask", "fastapi", "gunicorn", "uvicorn")
    source = pages.python_on(WEB)[block]
    with (
        service((503, {"Retry-After": "1"}, None), (200, {}, None)) as partner,
        serving(source, command, tmp_path, partner) as (server, port),
    ):
        assert 202 == order(port)
        assert eventually(lambda: partner.received)
        server.terminate()
        log = server.communicate(timeout=TIMEOUT)[1]
        assert [{"order": 42}] * 2 == [event for _, _, event in partner.received], log
    assert 1 == len({headers["Idempotency-Key"] for _, headers, _ in partner.received})
    assert ends_with == server.returncode


@SERVERS
def test_worker_ends_in_time_and_refuses_what_is_too_much(
    block: int, command: list[str], ends_with: int, tmp_path: Path
) -> None:
    """While the partner is down, orders are bounded, and so is the end (F3, F4, G5)."""
    needs("requests", "flask", "fastapi", "gunicorn", "uvicorn")
    source = pages.python_on(WEB, {"timeout=20": "timeout=1", "max_pending=10_000": "max_pending=1"})[block]
    with (
        service((503, {"Retry-After": "60"}, None)) as partner,
        serving(source, command, tmp_path, partner) as (server, port),
    ):
        assert (202, 503) == (order(port), order(port))
        assert eventually(lambda: partner.received)
        server.terminate()
        log = server.communicate(timeout=TIMEOUT)[1]
    assert "1 waiting call cancelled, none still running" in log
    assert ends_with == server.returncode


def test_each_receiver_has_an_upstream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that asks to wait holds back no other (U4, U5)."""
    needs("requests", "flask")
    monkeypatch.setenv("PARTNER_URL", "http://127.0.0.1")  # read at import, and not used here
    program: dict[str, Any] = {"__name__": "shop"}
    flask, *_, receivers = pages.python_on(WEB)
    exec(compile(flask + receivers, WEB, "exec", dont_inherit=True), program)
    with service((503, {"Retry-After": "60"}, None)) as broken, service((200, {}, None)) as working:
        waiting = program["notify"](broken.url.replace("127.0.0.1", "localhost"), {"order": 1})
        assert eventually(lambda: waiting.last_exception)
        later = program["notify"](broken.url.replace("127.0.0.1", "localhost"), {"order": 2})
        program["notify"](working.url, {"order": 3}).result(TIMEOUT)
        assert (1, 0) == (waiting.attempts, later.attempts)
        program["executor"].shutdown(cancel_futures=True)
    assert [{"order": 1}] == [event for _, _, event in broken.received]


ORDERS_OF_DJANGO = """
import django
from django.conf import settings
from django.core.management import call_command
from django.db import connections, models, transaction

settings.configure(
    INSTALLED_APPS=["shop"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.db"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()
call_command("migrate", run_syncdb=True, verbosity=0)

from shop.deliveries import executor, place_order

place_order(42)
try:
    with transaction.atomic():
        place_order(43)
        raise LookupError
except LookupError:
    connections.close_all()
executor.shutdown()
"""
ORDER_OF_DJANGO = """
from django.db import models

class Order(models.Model):
    number = models.IntegerField()
"""


def block_with(words: str) -> str:
    """Return the block of the page that has these words."""
    (source,) = (source for source in pages.python_on(WEB) if words in source)
    return source


def run_in(directory: Path, partner: Service, *command: str, **env: str) -> None:
    """Run Python there, in a process of its own that complains of nothing."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=directory,
        env={**os.environ, "PARTNER_URL": partner.url, "NO_PROXY": "127.0.0.1", **env},
        stderr=subprocess.PIPE,
        timeout=TIMEOUT,
        check=False,
        encoding="utf-8",
    )
    assert (0, "") == (done.returncode, done.stderr)


def test_django_delivers_what_was_committed(tmp_path: Path) -> None:
    """An order that is rolled back is delivered by nobody, and no connection is left open in a thread."""
    needs("requests", "django")
    (tmp_path / "shop").mkdir()
    sources = {"models.py": ORDER_OF_DJANGO, "deliveries.py": block_with("django"), "__init__.py": ""}
    for name, source in sources.items():
        (tmp_path / "shop" / name).write_text(source, "utf-8")
    with service((503, {}, None), (200, {}, None)) as partner:
        run_in(tmp_path, partner, "-W", "error", "-c", ORDERS_OF_DJANGO)
    assert [{"order": 42}] * 2 == [event for _, _, event in partner.received]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no processes of Celery that are forked")
def test_process_of_celery_ends_when_its_calls_are_done(tmp_path: Path) -> None:
    """A delivery that is in backoff when the worker is stopped gets through (F6)."""
    needs("requests", "celery")
    source = block_with("celery") + "\napp.conf.broker_transport_options = {'data_folder_out': 'data_in'}\n"
    (tmp_path / "shop_tasks.py").write_text(source, "utf-8")
    (tmp_path / "data_in").mkdir()
    command = "celery --app shop_tasks worker --pool prefork --concurrency 1 --loglevel WARNING"
    with service((503, {"Retry-After": "6"}, None), (200, {}, None)) as partner:
        env = {
            **os.environ,
            "BROKER_URL": "filesystem://",
            "PARTNER_URL": partner.url,
            "NO_PROXY": "127.0.0.1",
        }
        with subprocess.Popen(
            [sys.executable, "-m", *command.split()],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        ) as worker:
            try:
                order = "import shop_tasks; shop_tasks.order_placed.delay(42)"
                run_in(tmp_path, partner, "-c", order, BROKER_URL=env["BROKER_URL"])
                assert eventually(lambda: partner.received)
                worker.terminate()
                log = worker.communicate(timeout=TIMEOUT)[1]
            finally:
                worker.kill()
        assert [{"order": 42}] * 2 == [event for _, _, event in partner.received], log


# -- LLM APIs --------------------------------------------------------------------------------------


def chat(text: str) -> object:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini", "choices": [choice]}


def refusal(**error: str) -> object:
    return {"type": "error", "error": {"message": "no", **error}}


def test_llm_apis(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each refusal is one request: waited out, or final, as the page says (U1 to U5)."""
    needs("openai", "anthropic", "requests")
    full = (429, {"retry-after-ms": "20"}, refusal(code="rate_limit_exceeded"))
    broke = (429, {"retry-after-ms": "20"}, refusal(code="insufficient_quota"))
    too_large = (429, {}, refusal(message="Request too large for gpt-4o", code="rate_limit_exceeded"))
    overloaded = (529, {}, refusal(type="overloaded_error"))
    text = {"type": "text", "text": "Bonjour"}
    message = {
        "id": "1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": [text],
    }
    done = (200, {}, {**message, "usage": {"input_tokens": 1, "output_tokens": 1}})
    with (
        service(full, *[(200, {}, chat("in short"))] * 3, broke, too_large) as openai,
        service(*[overloaded] * 2, done) as anthropic,
        service((200, {}, {"status": "overloaded"}), (200, {}, {"embedding": [0.5]})) as local,
    ):
        environment = {
            "OPENAI_API_KEY": "test",
            "OPENAI_BASE_URL": openai.url,
            "ANTHROPIC_API_KEY": "test",
            "ANTHROPIC_BASE_URL": anthropic.url,
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        program = pages.run(
            pages.HOW_TO / "llm-apis.md", {"http://localhost:8001": local.url, "after=5": "after=0.02"}
        )
        program["client"].close()
        program["claude"].close()
    *summaries, quota, size, translation, embedding = capsys.readouterr().out.splitlines()
    assert ["in short"] * 3 == summaries
    assert ("insufficient_quota", "too large: True") == (quota, size)
    assert ("Bonjour", "[0.5]") == (translation, embedding)
    assert (6, 3, 2) == (len(openai.received), len(anthropic.received), len(local.received))


# -- decorators ------------------------------------------------------------------------------------


def test_moving_from_decorators(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function does the same, whatever retries it: each time, the first attempt is refused (B1, B5)."""
    needs("requests", "tenacity", "stamina")
    refused, done = (503, {}, None), (200, {}, {"state": "STARTED"})
    with service(*[refused, done] * 3) as reports:
        monkeypatch.setenv("REPORTS_URL", reports.url)
        program = pages.run(pages.HOW_TO / "moving-from-decorators.md")
    assert {"state": "STARTED"} == program["before"]
    assert ["/sales"] * 7 == [path for path, _, _ in reports.received]


# -- progress --------------------------------------------------------------------------------------

TEXT = re.compile(r"^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def shapes(text: str) -> set[str]:
    """Return the lines of a text, whatever the numbers and the length of a bar are."""
    lines = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", text).replace("\r", "\n").splitlines()
    return {re.sub(r"[━╸╺]+", "━", re.sub(r"[\d.]+", "0", line)) for line in lines}


class Screen(io.StringIO):
    """A file that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("screen", "samples"), [(Screen, slice(2)), (io.StringIO, slice(2, 3))], ids=["bar", "lines"]
)
def test_progress(screen: type[io.StringIO], samples: slice, monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples on the page look like what its script shows; every call is done (A5)."""
    needs("rich", "tqdm")
    import tqdm

    page = pages.HOW_TO / "progress.md"
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)  # or its thread would stay
    monkeypatch.setattr(sys, "stderr", screen())
    for name, value in {"TERM": "xterm", "COLUMNS": "120", "TTY_COMPATIBLE": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("QUIET", raising=False)
    program = pages.run(page, {"watch(executor):": "watch(executor, interval=0.01):"})
    assert list(range(20)) == program["numbers"]
    written = screen.getvalue(sys.stderr)  # type: ignore[arg-type]  # it is one
    assert shapes("".join(TEXT.findall(page.read_text("utf-8"))[samples])) <= shapes(written)
    assert "20/20" in written


# -- migrating -------------------------------------------------------------------------------------


@contextmanager
def root_logger_as_before() -> Iterator[None]:
    """Undo what a worker of Celery does to the root logger."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


def test_migrating(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was written before does what the page says, and what is written now gets through (A4, B1, B9)."""
    needs("requests", "more_executors", "celery", "apscheduler")
    from celery.contrib.testing.worker import start_worker

    refused, done = (503, {}, None), (200, {}, {"sent": True})
    # The first two calls are given up. Of the others, those that are retried are refused once.
    answers = [refused, refused, done, refused, refused, done, done, refused, done, refused, done, done]
    with service(*answers) as mail:
        monkeypatch.setenv("MAIL_URL", mail.url)
        monkeypatch.setenv("BROKER_URL", "memory://")
        monkeypatch.setenv("DATABASE", str(tmp_path / "shop.db"))
        program = pages.run(pages.HOW_TO / "migrating.md")
        assert eventually(lambda: program["future"].done())
        with (
            root_logger_as_before(),
            start_worker(program["app"], pool="solo", perform_ping_check=False, loglevel="CRITICAL"),
        ):
            assert eventually(lambda: "/receipts/8" in [path for path, _, _ in mail.received])
    assert {"sent": True} == program["future"].result()
    assert [
        "['HTTPError', 'HTTPError']",
        "{'sent': True}",
        "[{'sent': True}, {'sent': True}]",
        "{'sent': True}",
        "{'sent': True}",
    ] == capsys.readouterr().out.splitlines()
    assert 4 * [1] + 4 * [2] == sorted(
        len([path for path, _, _ in mail.received if path == f"/receipts/{number}"]) for number in range(1, 9)
    )
    assert [] == program["resume"](program["executor"])


# -- monitoring ------------------------------------------------------------------------------------

MONITORING = pages.HOW_TO / "monitoring.md"
NOBODY = "http://key@127.0.0.1:9"


def monitored(
    block: int, directory: Path, more: str = "", **replaced: str
) -> subprocess.CompletedProcess[str]:
    """Run one of the page's programs, in a process of its own, with *more* at its end."""
    source = pages.python_on(MONITORING, replaced)[block]
    program = directory / "program.py"
    program.write_text(source + more, "utf-8")
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, timeout=TIMEOUT, check=False, encoding="utf-8"
    )
    assert 0 == done.returncode, done.stderr
    return done


def values(text: str) -> list[dict[str, Any]]:
    """Return the JSON values in *text*, one after the other."""
    decoder, found = json.JSONDecoder(), []
    while text := text.strip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


def names_on_the_page(pattern: str) -> set[str]:
    """Return the names in the first column of a table; what ``...`` stands for is in the name before."""
    return set(re.findall(pattern, pages.text_of(MONITORING).replace("`...", "`retrying_executor")))


def test_monitoring_with_opentelemetry(tmp_path: Path) -> None:
    """The program's span has that of the attempt below, and the metrics are those of the table."""
    needs("opentelemetry.sdk")
    exported = values(monitored(0, tmp_path).stdout)
    attempt, order = sorted((one for one in exported if "kind" in one), key=lambda span: span["name"])
    assert ("__main__.deliver", "order") == (attempt["name"], order["name"])
    assert order["context"]["span_id"] == attempt["parent_id"]
    (metrics,) = (one for one in exported if "resource_metrics" in one)
    reported = {
        metric["name"]
        for resource in metrics["resource_metrics"]
        for scope in resource["scope_metrics"]
        for metric in scope["metrics"]
    }
    assert reported == names_on_the_page(r"(?m)^\| `(retrying_executor\.\S+)` \| (?:s|\{\w+\}) \|")


def test_monitoring_with_prometheus(tmp_path: Path) -> None:
    """What is scraped has the names of the table."""
    needs("prometheus_client")
    more = """
import urllib.request
print(urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics").read().decode())
"""
    scraped = monitored(1, tmp_path, more, **{"start_http_server(8000)": "start_http_server(0)"}).stdout
    reported = set(re.findall(r"(?m)^(retrying_executor\w+)\{", scraped))
    assert reported == names_on_the_page(r"`(retrying_executor_\w+)`(?=[^|]*\| (?:gauge|counter|state set))")


def test_monitoring_with_structlog(tmp_path: Path) -> None:
    """Both attempts have the context, and the retry between them its fields."""
    needs("structlog")
    first, retry, second = values(monitored(2, tmp_path).stderr)
    assert ("delivering", 42, "shop") == (first["event"], first["order"], first["logger"])
    assert ("delivering", 42) == (second["event"], second["order"])
    assert ("__main__.deliver", 1) == (retry["call"], retry["attempt"])
    assert 0 <= retry["delay"] <= 0.5


def test_monitoring_with_sentry(tmp_path: Path) -> None:
    """Each event has the tags that the page says, and the failure its traceback."""
    needs("sentry_sdk")
    keep = "before_send=lambda event, _: print(json.dumps(event, default=str)), integrations="
    replaced = {"import sentry_sdk\n": "import json, sentry_sdk\n", "integrations=": keep}
    kept = values(monitored(3, tmp_path, **replaced, **{"https://key@sentry.example": NOBODY}).stdout)
    first, second, failure = sorted(kept, key=lambda event: event["level"], reverse=True)
    tags = {event["message"]: event["tags"] for event in (first, second)}
    assert {"delivering 41": {"order": "41"}, "delivering 42": {"order": "42"}} == tags
    assert ["ValueError"] == [error["type"] for error in failure["exception"]["values"]]
