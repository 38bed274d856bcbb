"""gunicorn with a journal: a worker that is killed loses no order, as the page on journals shows it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import AbstractContextManager
from http.client import HTTPConnection
from pathlib import Path

import pytest

import pages
from conftest import TIMEOUT
from gunicorns import gunicorn
from journals import rows
from observe import eventually
from partner import partner

pytest.importorskip("gunicorn", reason="gunicorn is not installed, or this is Windows, where it does not run")
pytest.importorskip("flask", reason="flask is not installed")

TASKS, _, _, SHOP, HOOKS, *_ = pages.python_on(
    pages.HOW_TO / "journal.md", {'{"accepted": True}': '{"worker": os.getpid()}'}
)
WORKERS = 4


def serving(
    directory: Path, url: str, *options: str, shop: str = SHOP, hooks: str = HOOKS
) -> AbstractContextManager[tuple[subprocess.Popen[str], int]]:
    """Serve the application of the page, with a partner at that address; return what `gunicorn` does."""
    for name, source in {"tasks": TASKS, "shop": f"import os\n{shop}", "gunicorn.conf": hooks}.items():
        (directory / f"{name}.py").write_text(source, "utf-8")
    environment = {**os.environ, "PARTNER_URL": url, "NO_PROXY": "127.0.0.1"}
    return gunicorn(f"--workers={WORKERS}", *options, "shop:app", env=environment, cwd=directory)


def order(port: int, number: int) -> int:
    """Place an order, and return which worker has accepted it."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    connection.request(
        "POST", "/orders", json.dumps({"number": number}), {"Content-Type": "application/json"}
    )
    with connection.getresponse() as response:
        answer = response.read()
        assert 202 == response.status, answer
    connection.close()
    worker: int = json.loads(answer)["worker"]
    return worker


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
def test_orders_of_a_worker_that_is_killed_are_delivered_by_others(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    """Nobody places an order meanwhile: the worker that takes its place goes on with them (J1, J2)."""
    patient = HOOKS.replace("cancel_futures=True", "wait=True")  # so that none is left for the next start
    with partner() as service, serving(tmp_path, service.url, *options, hooks=patient) as (master, port):
        accepted = {number: order(port, number) for number in range(40)}  # none is answered yet
        victim = accepted[0]
        os.kill(victim, signal.SIGKILL)
        service.answer(1_000)
        assert eventually(lambda: len(service.orders) == len(accepted))
        master.terminate()
        log = master.communicate(timeout=TIMEOUT)[1]
        assert 0 == master.returncode, log
        assert {*accepted} == {number for number, _ in service.orders}, log
    twice = {number for (number, _), times in service.orders.items() if times > 1}
    assert twice <= {number for number, worker in accepted.items() if worker == victim}
    assert [] == [*(tmp_path / "calls").iterdir()]


def test_a_deploy_does_not_wait_for_a_partner_who_is_down(tmp_path: Path) -> None:
    """The workers put down what waits, and the next ones go on with it (J2, J4)."""
    patient = SHOP.replace("exit_timeout=20", "exit_timeout=3600")  # without the hook, nothing would end
    with partner() as service:
        service.answer(1_000)
        closed = "http://127.0.0.1:9"  # nobody listens there
        with serving(tmp_path, closed, "--graceful-timeout=3600", shop=patient) as (master, port):
            for number in range(20):
                order(port, number)
            master.terminate()
            log = master.communicate(timeout=TIMEOUT)[1]
            assert 0 == master.returncode, log
        assert 20 == len(rows(tmp_path / "calls"))
        with serving(tmp_path, service.url) as (master, _):
            assert eventually(lambda: service.received == 20)
            master.terminate()
            log = master.communicate(timeout=TIMEOUT)[1]
            assert 0 == master.returncode, log
        assert {*range(20)} == {number for number, _ in service.orders}
    assert [] == [*(tmp_path / "calls").iterdir()]
