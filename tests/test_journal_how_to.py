"""How calls survive their process: the examples of the page on that, in processes that are really killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import HTTPError

import pytest

import pages
from conftest import TIMEOUT
from observe import eventually
from partner import Partner, partner
from retrying_executor import Journal, RetryingExecutor
from retrying_executor.__main__ import main
from retrying_executor.testing import VirtualTimeExecutor
from test_scripts import FIRST, first_of, needs_containers, read_line, started

PAGE = pages.HOW_TO / "journal.md"
TASKS, WORKER, LOOKING, *_ = pages.python_on(PAGE)
RUNNING = 4
"""How many attempts run at once, as the page says."""

needs_signals = pytest.mark.skipif(os.name == "nt", reason="signals cannot be sent to one process on Windows")
in_and_out_of_containers = pytest.mark.parametrize(
    "before", [(), pytest.param(FIRST, marks=needs_containers)], ids=["a process", "a first process"]
)


@contextmanager
def worker(
    directory: Path, service: Partner, before: Sequence[str], *orders: int, script: str = WORKER
) -> Iterator[tuple[subprocess.Popen[str], Callable[[int], None]]]:
    """Start the worker of the page; yield what runs it, and how to send it a signal."""
    (directory / "tasks.py").write_text(TASKS, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARTNER_URL", service.url)
        numbers = [str(number) for number in orders]
        with started(script, directory, before, numbers) as process:
            yield process, lambda number: os.kill(first_of(process) if before else process.pid, number)


def go_on(directory: Path, service: Partner, before: Sequence[str], number: int) -> None:
    """Start the next worker, and stop it when it has made that many requests, all in all."""
    with worker(directory, service, before) as (process, send):
        assert eventually(lambda: service.received == number)
        send(signal.SIGTERM)
        _, errors = process.communicate(timeout=TIMEOUT)
    assert (0, "") == (process.returncode, errors)
    assert [] == [*(directory / "calls").iterdir()]


@needs_signals
@in_and_out_of_containers
def test_a_deploy_delivers_each_order_once(before: Sequence[str], tmp_path: Path) -> None:
    """What waits when the time is up is put down, and the next process goes on with it (J2, J4)."""
    script = WORKER.replace("shutdown(timeout=20)", "shutdown(timeout=0.1)")
    with partner() as service:
        with worker(tmp_path, service, before, *range(100), script=script) as (process, send):
            service.answer(20)
            assert eventually(lambda: service.received == 20 + RUNNING)
            send(signal.SIGTERM)
            assert process.stderr is not None
            said = process.stderr.readline()
            service.answer(1_000)
            process.communicate(timeout=TIMEOUT)
        assert said.startswith(
            "shutdown timed out after 0.1 s: 76 waiting calls put down for the next process, still running: "
        )
        assert 0 == process.returncode
        assert 20 + RUNNING == service.received
        go_on(tmp_path, service, before, 100)
        assert {*range(100)} == {order for order, _ in service.orders}
        assert {1} == {*service.orders.values()}


@needs_signals
@in_and_out_of_containers
def test_a_process_that_is_killed_loses_no_order(before: Sequence[str], tmp_path: Path) -> None:
    """What ran when it died is made again, with the same key; the rest is made once (J1, J2)."""
    with partner() as service:
        script = WORKER.replace("stops.get()", "print('accepted', flush=True)\nstops.get()")
        with worker(tmp_path, service, before, *range(100), script=script) as (process, send):
            read_line(process)
            service.answer(20)
            assert eventually(lambda: service.received == 20 + RUNNING)
            send(signal.SIGKILL)
            process.communicate(timeout=TIMEOUT)
        service.answer(1_000)
        go_on(tmp_path, service, before, 100 + RUNNING)
        assert {*range(100)} == {order for order, _ in service.orders}
        assert 100 == len(service.orders)
        assert RUNNING == sum(times == 2 for times in service.orders.values())


# -- what is shown of functions, views and time ----------------------------------------------------------


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the page, but for the network; journals are in a directory of the test."""
    module = ModuleType("tasks")
    exec("def deliver(order): return order\ndef send_order(order): pass\n", module.__dict__)
    monkeypatch.setitem(sys.modules, "tasks", module)
    monkeypatch.chdir(tmp_path)
    return module


def leave_a_call(journal: Path | Journal, fn: Callable[..., object], *args: object) -> None:
    """Have a call in a journal that belongs to nobody."""
    with VirtualTimeExecutor(journal=journal) as executor:
        executor.submit(fn, *args)
        executor.shutdown(cancel_futures=True)


def test_a_thread_looks_now_and_then(tmp_path: Path) -> None:
    """Without any ``submit()``, calls of processes that are gone are found (J2)."""
    with RetryingExecutor(1, journal=tmp_path, retry=None) as executor:
        program: dict[str, Any] = {"executor": executor}
        exec(LOOKING.replace("wait(60)", "wait(0.001)"), program)
        leave_a_call(tmp_path, int, "42")
        assert eventually(lambda: executor.adopted)
        program["ends"].set()
        (future,) = executor.adopted
        assert 42 == future.result(TIMEOUT)


@pytest.mark.usefixtures("tasks")
@pytest.mark.parametrize(
    "section", ["Functions and arguments", "Views and upstreams", "Calls that get too old"]
)
def test_a_section_does_what_it_says(section: str) -> None:
    """Its examples are one program (J3)."""
    assert pages.run(PAGE, section=section)


def test_calls_of_functions_that_are_defined_later_go_on_with_adopt(
    tasks: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With ``adopts=False`` the executor does not look for them too early (J2, J6)."""
    leave_a_call(tmp_path, tasks.deliver, 42)
    deliver = vars(tasks).pop("deliver")
    with VirtualTimeExecutor(journal=tmp_path) as executor:
        assert [] == executor.adopted
        executor.shutdown(cancel_futures=True)
    assert {"journal_unknown"} == {record.kind for record in caplog.records}  # type: ignore[attr-defined]
    caplog.clear()
    with VirtualTimeExecutor(journal=Journal(tmp_path, adopts=False)) as executor:
        vars(tasks)["deliver"] = deliver
        assert 1 == executor.adopt()
        assert [42] == [future.result() for future in executor.adopted]
    assert [] == caplog.records


class DemandsMoreError(Exception):
    """It can be pickled, but not be made again from its ``args``."""

    def __init__(self, order: int, why: str) -> None:
        super().__init__(why)


def test_a_call_whose_arguments_do_not_unpickle_stays_until_it_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each look logs its key (J6)."""
    leave_a_call(tmp_path, str, DemandsMoreError(42, "gone"))
    with VirtualTimeExecutor(journal=tmp_path) as executor:
        before = len(caplog.records)
        assert 0 == executor.adopt()
        assert before < len(caplog.records)
    (key,) = {record.key for record in caplog.records}  # type: ignore[attr-defined]
    assert "missing 1 required positional argument: 'why'" in caplog.text
    assert 0 == main(["journal", "drop", str(tmp_path), key])
    assert "dropped 1 call\n" == capsys.readouterr().out
    assert [] == [*tmp_path.iterdir()]


def test_what_cannot_be_pickled_is_refused_as_shown(tmp_path: Path) -> None:
    """The error names what is to blame (J3)."""
    of_function, of_argument = re.findall(r"^TypeError: (.*?): \.\.\.", pages.text_of(PAGE), re.MULTILINE)
    with RetryingExecutor(1, journal=tmp_path) as executor, open(os.devnull, encoding="utf-8") as file:
        with pytest.raises(TypeError, match=re.escape(of_argument)):
            executor.submit(print, file)
        with pytest.raises(
            TypeError, match="a journal takes functions that can be imported by their name"
        ) as raised:
            executor.submit(lambda: 42)  # pragma: no branch  # it never runs
    assert str(raised.value).startswith(of_function.replace("__main__.<lambda>", f"{__name__}."))


@pytest.mark.parametrize(
    ("before", "name"), [(None, "journal"), ({"send_order"}, "journal_json")], ids=["pickle", "JSON"]
)
def test_a_function_that_was_renamed_is_found(before: set[str] | None, name: str, tasks: ModuleType) -> None:
    """Under the name that it had when the call was submitted (J6)."""
    after: Journal = pages.run(PAGE, section="Functions and arguments")[name]
    functions = before and {function: getattr(tasks, function) for function in before}
    leave_a_call(Journal(after.directory, functions=functions), tasks.send_order, 42)
    del tasks.send_order
    with RetryingExecutor(1, journal=after) as executor:
        (future,) = executor.adopted
        assert 42 == future.result(TIMEOUT)


def test_calls_that_failed_are_dealt_with_as_shown(tasks: ModuleType, tmp_path: Path) -> None:
    """The commands of the page say what is shown there, but for the process, the file and the age (J5)."""

    def deliver(status: int, reason: str) -> None:
        raise HTTPError("https://partner.example", status, reason, Message(), None)

    deliver.__module__, deliver.__qualname__, tasks.deliver = "tasks", "deliver", deliver
    with RetryingExecutor(1, journal="calls") as executor:
        for key, answer in {"order-42": (404, "Not Found"), "order-57": (410, "Gone")}.items():
            executor.with_options(key=key).submit(deliver, *answer).exception(TIMEOUT)
    (session,) = re.findall(r"^```console\n(\$ python.*?)^```", pages.text_of(PAGE), re.MULTILINE | re.DOTALL)
    shown, said = [], []
    for command, output in re.findall(r"^\$ python (.*)\n((?:[^$].*\n)*)", session, re.MULTILINE):
        done = subprocess.run(
            [sys.executable, *command.split()],
            capture_output=True,
            encoding="utf-8",
            timeout=TIMEOUT,
            check=True,
        )
        shown.append(in_general(output))
        said.append(in_general(done.stdout))
    assert 3 == len(shown)
    assert shown == said


def in_general(output: str) -> str:
    """Return the output of the command without what differs each time."""
    output = re.sub(r"process \d+ \(gone\), calls.[0-9a-f]{32}\.db", "the file", output)
    return re.sub(r" +\d+ [smhd](?=  )", "  a time", output)
