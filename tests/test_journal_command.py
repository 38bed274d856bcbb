"""The command ``python -m retrying_executor journal``, on files of processes that live, ended or died."""

from __future__ import annotations

import base64
import datetime
import json
import os
import pickle
import sqlite3
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import journal_program
import retrying_executor
from conftest import TIMEOUT
from retrying_executor import Journal, RetryingExecutor
from retrying_executor.__main__ import main
from retrying_executor._journal import command, inspection, locks
from retrying_executor._journal.database import EmptyError, NewerError
from retrying_executor._journal.description import describe
from retrying_executor._journal.directory import Directory
from retrying_executor._journal.inspection import Problem, files
from retrying_executor._journal.marks import Marks
from retrying_executor._journal.payload import PICKLE
from retrying_executor._journal.report import line

PATHS = [str(Path(module.__file__).parent.parent) for module in (retrying_executor,)] + [
    str(Path(__file__).parent)
]
COMMAND = (sys.executable, "-m", "retrying_executor", "journal")
ALL = ("fail-1", "succeed-1", "refuse-1", "block-1", "succeed-2")
"""When the process is as it is going to be, only its marks tell what became of the three in the middle."""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "journal"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], directory: Path) -> Run:
    """The command: takes its name and what follows the directory; returns its status and what it wrote."""

    def run(name: str, *rest: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["journal", name, str(directory), *rest])
        return status, *capsys.readouterr()

    return run


@contextmanager
def program(directory: Path, *keys: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has submitted calls; see `journal_program`. It is killed in the end."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])}
    code = "import journal_program; journal_program.main()"  # so that other processes find its functions
    with subprocess.Popen(
        [sys.executable, "-c", code, str(directory), str(directory / "stock"), *keys],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env=environment,
    ) as process:
        try:
            assert process.stdout is not None
            assert "ready\n" == process.stdout.readline()
            yield process
        finally:
            process.kill()


@pytest.fixture
def dead(directory: Path) -> str:
    """A process that was killed in the middle of its calls; its name in the journal."""
    with program(directory, *ALL) as process:
        pass
    return str(process.pid)


def calls(run: Run, *options: str) -> dict[str, dict[str, Any]]:
    """Return what ``list --json`` says of each call, by their keys."""
    listed = [json.loads(text) for text in run("list", "--json", *options)[1].splitlines()]
    return {call["key"]: call for call in listed}


def statuses(run: Run, *options: str) -> dict[str, str]:
    return {key: call["status"] for key, call in calls(run, *options).items()}


def listing(directory: Path) -> list[tuple[str, int]]:
    """Return which files there are, and how long they are."""
    return sorted((path.name, path.stat().st_size) for path in directory.iterdir())


# -- list ------------------------------------------------------------------------------------------


def test_the_calls_of_a_living_process(run: Run, directory: Path) -> None:
    """Their status is that of their marks and rows; the owner is not disturbed."""
    with program(directory, *ALL) as process:
        before = listing(directory)
        status, out, err = run("list")
        listed = calls(run)
        assert before == listing(directory)
        assert process.poll() is None
    assert (0, "") == (status, err)
    head, owner, *lines, summary = out.splitlines()
    assert ["KEY", "STATUS", "ATTEMPTS", "AGE", "CALL"] == head.split()
    (path,) = directory.glob("*.db")
    assert f"process {process.pid} (alive), {path}" == owner
    assert [
        ["fail-1", "failed", "1", "journal_program.fail [orders] -> shop: ValueError: no order 7"],
        ["refuse-1", "in backoff", "1", "journal_program.refuse [orders] -> shop, due in 59 min"],
        ["block-1", "running", "1", "journal_program.block [orders] -> shop"],
        ["succeed-2", "waiting", "0", "journal_program.succeed [orders] -> shop"],
    ] == [[text[2:38].strip(), text[40:50].strip(), text[52:60].strip(), text[71:]] for text in lines]
    assert "4 calls: 1 waiting, 1 running, 1 in backoff, 1 failed" == summary
    expected = {"fail-1": "failed", "refuse-1": "in backoff", "block-1": "running", "succeed-2": "waiting"}
    assert expected == {key: call["status"] for key, call in listed.items()}
    assert {(str(process.pid), True, str(path), "orders", "shop")} == {
        (call["process"], call["is_alive"], call["file"], call["label"], call["upstreams"])
        for call in listed.values()
    }
    assert 3000 < listed["refuse-1"]["due_at"] - listed["refuse-1"]["accepted_at"] < 4000
    assert listed["fail-1"]["error"].startswith("Traceback ")


def test_the_calls_of_a_process_that_died(run: Run, directory: Path, dead: str) -> None:
    """The call that ran waits, and may have killed it; those that are done are not there."""
    before = listing(directory)
    listed = calls(run)
    assert before == listing(directory)
    expected = {"fail-1": "failed", "refuse-1": "in backoff", "block-1": "waiting", "succeed-2": "waiting"}
    assert expected == {key: call["status"] for key, call in listed.items()}
    assert {(dead, False)} == {(call["process"], call["is_alive"]) for call in listed.values()}
    assert (1, 1, 1, "its process ended during the attempt") == tuple(
        listed["block-1"][name] for name in ("attempts", "not_counted", "crashes", "error")
    )
    assert f"process {dead} (gone), " in run("list")[1]


def test_the_calls_of_a_process_that_ended_in_order(run: Run, directory: Path) -> None:
    """A call that ran is not suspected."""
    with program(directory, *ALL) as process:
        process.communicate(timeout=TIMEOUT)
    assert 0 == process.returncode
    listed = calls(run)
    assert {"fail-1", "refuse-1", "block-1", "succeed-2"} == set(listed)
    assert ("waiting", 0) == (listed["block-1"]["status"], listed["block-1"]["crashes"])


def test_a_file_that_was_closed_is_read_without_making_others(run: Run, directory: Path) -> None:
    """Its process has ended, and SQLite has taken away what it kept beside it."""
    with program(directory, "fail-1") as process:
        process.communicate(timeout=TIMEOUT)
    before = listing(directory)
    assert [".db", ".lock"] == [Path(name).suffix for name, _ in before]
    assert {"fail-1": "failed"} == statuses(run)
    assert before == listing(directory)


def test_a_call_that_is_due_waits(run: Run, directory: Path, dead: str) -> None:
    """It is not in backoff any more."""
    assert 0 == run("drop", "fail-1")[0]  # which applies the marks
    (path,) = directory.glob("*.db")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE calls SET due = due - 4000")
    call = calls(run)["refuse-1"]
    assert "waiting" == call["status"]
    assert call["due_at"] < call["accepted_at"]


@pytest.mark.usefixtures("dead")
def test_only_some_are_listed(run: Run) -> None:
    """Options choose by status; the exit status says whether there are any."""
    assert {"fail-1": "failed"} == statuses(run, "--failed")
    assert {"refuse-1": "in backoff"} == statuses(run, "--status", "in-backoff")
    both = {"refuse-1": "in backoff", "fail-1": "failed"}
    assert both == statuses(run, "--status", "in backoff", "--status", "failed")
    assert (1, "no calls\n", "") == run("list", "--status", "running")
    assert (1, "", "") == run("list", "--status", "running", "--json")


def test_an_empty_journal(run: Run, directory: Path) -> None:
    """That is all right, as long as there is one."""
    assert (1, "") == run("list")[:2]
    assert not directory.exists()
    directory.mkdir()
    (directory / "begun.lock").touch()
    sqlite3.connect(directory / "begun.db").close()
    assert (0, "no calls\n", "") == run("list")
    assert (0, "", "") == run("export")


def test_files_that_cannot_be_read_are_listed(
    run: Run, directory: Path, dead: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the reason; the others are listed all the same."""
    newer, damaged, unreadable = (directory / f"{name}.db" for name in ("newer", "damaged", "unreadable"))
    with closing(sqlite3.connect(newer)) as database:
        database.execute("PRAGMA user_version = 9")
    damaged.write_bytes(b"no database at all" * 100)
    unreadable.mkdir()
    aside = directory / "old.db.corrupt"
    aside.touch()
    status, out, err = run("list")
    assert (0, "") == (status, err)
    *_, unread_1, unread_2, unread_3, unread_4, summary = out.splitlines()
    assert {
        f"{newer} cannot be read: it is of a newer version: it has schema 9, and this version knows 1",
        f"{damaged} cannot be read: it is damaged: file is not a database",
        f"{aside} cannot be read: it is damaged, and was set aside",
    } < {unread_1, unread_2, unread_3, unread_4}
    assert f"{unreadable} cannot be read: [Errno " in out
    assert summary.startswith("4 calls: ")
    assert summary.endswith(", not counting 4 files that cannot be read")
    listed = [json.loads(text) for text in run("list", "--json")[1].splitlines()]
    assert 4 == sum("key" in one for one in listed)
    assert {str(path) for path in (newer, damaged, unreadable, aside)} == {
        one["file"] for one in listed if "problem" in one
    }
    status, _, err = run("export")
    assert (1, 4) == (status, err.count(" cannot be read: "))


def test_a_file_that_is_damaged_in_the_middle(run: Run, directory: Path, dead: str) -> None:
    """What is not damaged is listed. If that is nothing, this does not read as if all was well."""
    assert 0 == run("drop", "block-1")[0]  # which brings everything into the main file
    (path,) = directory.glob("*.db")
    with path.open("r+b") as file:
        file.seek(4096)  # the first page of the calls
        file.write(bytes(4096))
    status, out, _ = run("list")
    assert 1 == status
    why = "it is damaged: database disk image is malformed"
    summary = "no calls, not counting a file that cannot be read"
    assert f"{path} cannot be read: {why}\n{summary}\n" == out
    assert 1 == run("list", "--json")[0]
    with path.open("r+b") as file:
        file.seek(4096 * 2)  # the owner's
        file.write(bytes(4096))
    assert "it is damaged: " in run("list")[1]


def test_what_is_listed_does_nothing_to_a_terminal(run: Run, directory: Path) -> None:
    """Everything is printed without control characters."""
    with RetryingExecutor(1, retry=None, journal=directory) as executor:
        assert executor.submit(journal_program.fail, 1, unless="\x1b[2J\u2028").exception(TIMEOUT)
    (path,) = directory.glob("*.db")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE calls SET label = ?, key = ?", ("a\x1b[31mb", "c\x07d"))
    for name, *key in (("list",), ("show", "c\x07d")):
        _, out, _ = run(name, *key)
        assert r"a\x1b[31mb" in out
        assert r"c\x07d" in out
        assert {"\n"} == {char for char in out if not char.isprintable()}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_ages_are_in_their_largest_unit(
    run: Run, directory: Path, dead: str, seconds: float, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which there are at least two."""
    (found,) = files(Directory(directory, time, is_synced=True, max_crashes=3))
    assert not isinstance(found, Problem)
    with closing(found):
        call, *_ = found.calls()
    instant = call.row.accepted + seconds
    monkeypatch.setattr("retrying_executor._journal.report.time.time", lambda: instant)
    assert text == line(call)[62:69].strip()


@pytest.mark.parametrize(
    ("error", "headline"),
    [
        ("ConnectionError: refused", "ConnectionError: refused"),
        ("", ""),
        ("Traceback (most recent call last):\n  no frames", "Traceback (most recent call last):"),
        (
            'Traceback (most recent call last):\n  File "a.py", line 1, in a\nKeyError: 1\n\nDuring it:\n\n'
            'Traceback (most recent call last):\n  File "b.py", line 2, in b\n    raise b\n    ^^^\n'
            "\nb.Error: two\nlines\n",
            "b.Error: two",
        ),
        ('Traceback (most recent call last):\n  File "a.py", line 1, in a\n    cut', 'Traceback'),
        (
            '  + Exception Group Traceback (most recent call last):\n  |   File "a.py", line 1, in a\n'
            "  | ExceptionGroup: both (2 sub-exceptions)\n  +-+---------------- 1 ----------------\n"
            "    | ValueError: 1\n",
            "ExceptionGroup: both (2 sub-exceptions)",
        ),
        ("E: " + "x" * 300, "E: " + "x" * 197 + "... (303 characters)"),
    ],
)  # fmt: skip
def test_the_headline_of_an_error(run: Run, directory: Path, dead: str, error: str, headline: str) -> None:
    """A list shows the line that says what went wrong, and not that a traceback follows."""
    (path,) = directory.glob("*.db")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE calls SET error = ? WHERE key = 'fail-1'", (error,))
    _, out, _ = run("list", "--failed")
    assert f"journal_program.fail [orders] -> shop: {headline}" in out


# -- show and export -------------------------------------------------------------------------------


def test_all_about_a_call(run: Run, directory: Path, dead: str) -> None:
    """Its arguments and the traceback of its error, too."""
    status, out, err = run("show", "fail")
    assert (0, "") == (status, err)
    assert out.startswith(
        "key:       fail-1\nfunction:  journal_program.fail\nstatus:    failed\nlabel:     orders\n"
        "upstreams: shop\nattempts:  1\naccepted:  20"
    )
    assert f", of process {dead} (gone)\ngiven:     " in out
    assert f"  1: 7\n  unless: '{directory / 'stock'}'\nerror:\n  Traceback (most recent call last):\n" in out
    assert "\n  ValueError: no order 7\n  and no other\n" in out
    assert "crashes:   its process died 1 times while it ran\n" in run("show", "block")[1]
    assert "\nattempts:  1, of which 1 is not counted\n" in run("show", "block")[1]
    shown = run("show", "refuse")[1]
    assert " (in 59 min)\n" in shown
    assert f"\nstatus:    {statuses(run)['refuse-1']}\n" in shown
    assert "\nstatus:    in backoff\n" in shown
    status, out, err = run("show", "succeed", "--json")
    shown = json.loads(out)
    assert ("succeed-2", "waiting") == (shown["key"], shown["status"])
    given = {"args": ["1", "'one'", "[None]"], "kwargs": {"to": "'all'"}, "why_not": None}
    assert {"format": "pickle", "bytes": shown["payload"]["bytes"], **given} == shown["payload"]


def test_calls_that_are_written_as_json(run: Run, directory: Path) -> None:
    """Their arguments are shown as they are."""
    journal = Journal(directory, functions={"fail": journal_program.fail})
    with RetryingExecutor(1, retry=None, journal=journal) as executor:
        future = executor.submit(journal_program.fail, 3, unless="never\x1b")
        assert future.exception(TIMEOUT)
    _, out, _ = run("show", future.key)
    assert '\n  1: 3\n  unless: "never\\u001b"\nerror:' in out
    assert "\nlabel:" not in out
    payload = json.loads(run("show", future.key, "--json")[1])["payload"]
    assert ("JSON", [3], {"unless": "never\x1b"}) == (payload["format"], payload["args"], payload["kwargs"])
    exported = json.loads(run("export")[1])
    assert ["fail", [3], {"unless": "never\x1b"}] == json.loads(exported["payload"]["text"])
    assert " shop" not in run("list")[1]


def test_an_export_has_everything(run: Run, dead: str) -> None:
    """A line for each call; pickles as base64."""
    status, out, err = run("export", "--json")
    assert (0, "") == (status, err)
    exported = {call["key"]: call for call in map(json.loads, out.splitlines())}
    assert {"fail-1", "refuse-1", "block-1", "succeed-2"} == set(exported)
    assert dead == exported["succeed-2"]["process"]
    payload = base64.b64decode(exported["succeed-2"]["payload"]["base64"])
    assert (journal_program.succeed, (1, "one", [None]), {"to": "all"}) == pickle.loads(payload)


class Hostile:
    """Ends the process of whoever loads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.abort, (), {"state": 1}


class Order:
    """An object that refers to itself."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.itself = self


class Basket(list[int]):
    """A list of a class of its own."""


def test_a_pickle_is_described_without_being_loaded() -> None:
    """What it would import is there by its name only."""
    args = (
        datetime.datetime(2026, 11, 29, 12),
        Decimal("1.5"),
        OrderedDict(a=1),
        Order(7),
        Basket([3]),
        Hostile(),
        journal_program.fail,
    )
    described = describe(PICKLE + pickle.dumps((os.abort, args, {"k": Decimal(2)}), pickle.HIGHEST_PROTOCOL))
    here = __name__
    assert [
        "datetime.datetime(2026, 11, 29, 12, 0)",
        "decimal.Decimal('1.5')",
        "collections.OrderedDict({'a': 1})",
        f"{here}.Order({{'number': 7, 'itself': ...}})",
        f"{here}.Basket(3)",
        f"{os.name}.abort({{'state': 1}})",
        "journal_program.fail",
    ] == described.args
    assert ({"k": "decimal.Decimal('2')"}, None) == (described.kwargs, described.why_not)


@pytest.mark.parametrize("payload", [b"", b"P", b"Pgarbage", b"J{", b"J[1]", PICKLE + pickle.dumps(1)])
def test_what_cannot_be_described_is_said(payload: bytes) -> None:
    """Whatever is there; nothing is raised."""
    described = describe(payload)
    assert ([], {}) == (described.args, described.kwargs)
    assert described.why_not


def test_a_call_whose_arguments_cannot_be_shown(run: Run, directory: Path, dead: str) -> None:
    """All else is shown."""
    (path,) = directory.glob("*.db")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE calls SET payload = ?", (b"Pgarbage",))
    status, out, _ = run("show", "fail")
    assert 0 == status
    assert "\ngiven:     7 bytes of pickle, which cannot be shown: UnpicklingError: " in out


# -- keys ------------------------------------------------------------------------------------------


def test_a_key_may_be_shortened_as_long_as_it_is_the_only_one(run: Run, directory: Path) -> None:
    """A key in full is meant even if others begin with it; calls that have the same one are all meant."""
    with program(directory, "block-1", *(f"succeed-{number}" for number in ("1", "10", "20", "3", "3", "4"))):
        status, out, err = run("show", "succeed-")
        some = "'succeed-1', 'succeed-10', 'succeed-20', ..."
        assert (1, "") == (status, out)
        assert (
            f"python -m retrying_executor journal: 5 keys begin with 'succeed-', so say more of it: {some}\n"
            == err
        )
        assert run("show", "succeed-1")[1].startswith("key:       succeed-1\n")
        assert run("show", "succeed-2")[1].startswith("key:       succeed-20\n")
        assert 2 == run("show", "succeed-3")[1].count("key:       succeed-3\n")
        assert 2 == len(run("show", "succeed-3", "--json")[1].splitlines())
        status, out, err = run("show", "no")
        assert (1, "") == (status, out)
        assert "python -m retrying_executor journal: no call has a key that begins with 'no'\n" == err


def test_few_keys_that_begin_alike_are_all_named(run: Run, directory: Path) -> None:
    """So that one can be chosen."""
    with program(directory, "block-1", "succeed-10", "succeed-11"):
        _, _, err = run("show", "succeed-1")
        assert err.endswith(
            ": 2 keys begin with 'succeed-1', so say more of it: 'succeed-10', 'succeed-11'\n"
        )


# -- retry and drop --------------------------------------------------------------------------------


def test_calls_of_a_living_process_are_not_changed(run: Run, directory: Path) -> None:
    """The command says what can be done; afterwards it can be done, and the next executor goes on."""
    with program(directory, "refuse-1", "fail-1") as process:
        before = statuses(run)
        (path,) = directory.glob("*.db")
        has_it = f"1 call cannot be %s: process {process.pid} (alive) has {path}. As soon as that process has"
        for option in ("fail-1", "--all-failed"):
            status, out, err = run("retry", option)
            assert (1, "") == (status, out)
            assert (
                f"{has_it % 'retried'} ended, they can be retried, and the next one goes on with them\n"
                in err
            )
            status, out, err = run("drop", option)
            assert (1, "") == (status, out)
            assert f"{has_it % 'dropped'} ended, they can be dropped\n" in err
        assert before == statuses(run)
    Path(directory, "stock").touch()
    said = "1 call is waiting again: the next executor that looks here goes on with it\n"
    assert (0, said, "") == run("retry", "fail-1")
    assert "waiting" == statuses(run)["fail-1"]
    with RetryingExecutor(4, retry=None, journal=directory) as executor:
        assert 0 == executor.adopt()  # all were taken over, but those of other views waited for these
        futures = {future.key: future for future in executor.adopted}
        assert "order 7" == futures["fail-1"].result(TIMEOUT)
        assert 1 == futures["fail-1"].attempts
        assert futures["refuse-1"].cancel()
    assert [] == list(directory.glob("*.db"))


def test_an_edit_loses_no_marks(run: Run, directory: Path, dead: str) -> None:
    """What calls were doing when their process died is in their rows then, and a crash counts once."""
    before = calls(run)
    assert (0, "dropped 1 call\n", "") == run("drop", "succeed-2")
    assert (0, "") == run("retry", "--all-failed")[::2]
    after = calls(run)
    assert {"fail-1", "refuse-1", "block-1"} == set(after)  # not succeed-1, which is done by its mark only
    assert before["block-1"] == {**after["block-1"], "error": before["block-1"]["error"]}
    assert abs(before["refuse-1"].pop("due_at") - after["refuse-1"].pop("due_at")) < 1
    assert before["refuse-1"] == after["refuse-1"]
    assert ("waiting", 0, None) == tuple(after["fail-1"][name] for name in ("status", "attempts", "error"))
    assert {dead} == {call["process"] for call in after.values()}


def test_a_living_executor_goes_on_with_calls_that_are_retried(run: Run, directory: Path) -> None:
    """Even if it has seen before that there are only calls that failed in that file."""
    with program(directory, "fail-1"):
        pass
    with RetryingExecutor(1, retry=None, journal=directory) as executor:
        assert 0 == executor.adopt() + executor.adopt()
        Path(directory, "stock").touch()
        assert 0 == run("retry", "fail-1")[0]
        assert 1 == executor.adopt()
        assert "order 7" == executor.adopted[0].result(TIMEOUT)


@pytest.mark.parametrize(("is_orderly", "crashes"), [(False, 1), (True, 0)])
def test_a_call_that_ended_the_process_which_read_it(
    run: Run, directory: Path, dead: str, is_orderly: bool, crashes: int
) -> None:
    """It is suspected, as one that ran is."""
    store = Directory(directory, time, is_synced=True, max_crashes=3).take(
        next(directory.glob("*.db")).with_suffix("")
    )
    assert store is not None
    store._marks.reads(store.read(lambda database: database.last_row()))  # that of succeed-2
    assert 0 == calls(run)["succeed-2"]["crashes"]  # its process lives
    if is_orderly:
        store.end_in_order()
    store._database.close()
    os.close(store._descriptor)
    assert ("waiting", crashes) == tuple(calls(run)["succeed-2"][name] for name in ("status", "crashes"))
    assert 0 == run("drop", "refuse-1")[0]
    assert crashes == calls(run)["succeed-2"]["crashes"]


def test_an_edit_that_is_killed_in_the_middle(
    run: Run, directory: Path, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between taking a file over and changing a call: the marks count no second time."""
    with monkeypatch.context() as patch:
        patch.setattr(Marks, "start", _fail)
        status, out, err = run("retry", "fail-1")
        assert (1, "") == (status, out)
        assert err.endswith(".db cannot be changed: no space left\n")
    assert 1 == calls(run)["block-1"]["crashes"]
    assert 0 == run("retry", "fail-1")[0]
    assert 1 == calls(run)["block-1"]["crashes"]


def _fail(*args: object) -> None:
    raise OSError("no space left")


def test_files_without_calls_go(run: Run, directory: Path) -> None:
    """When the last call is dropped."""
    with program(directory, "fail-1", "fail-2"):
        pass
    assert (0, "dropped 2 calls\n", "") == run("drop", "--all-failed")
    assert [] == list(directory.iterdir())
    said = "python -m retrying_executor journal: no call has failed\n"
    assert (1, "", said) == run("drop", "--all-failed") == run("retry", "--all-failed")
    assert 1 == run("drop", "fail-1")[0]


def test_several_calls_are_retried(run: Run, directory: Path) -> None:
    """Those of several files, too."""
    for _ in range(2):
        with program(directory, "fail-1"):
            pass
    _, out, _ = run("list")
    assert (1, 2) == (out.count("KEY"), out.count(" (gone), "))
    said = "2 calls are waiting again: the next executor that looks here goes on with them\n"
    assert (0, said, "") == run("retry", "fail-1")


@pytest.mark.usefixtures("dead")
def test_only_calls_that_failed_are_retried(run: Run) -> None:
    """For others there is no need."""
    said = "python -m retrying_executor journal: 'refuse-1' has not failed: it is in backoff\n"
    assert (1, "", said) == run("retry", "refuse")


@pytest.mark.usefixtures("dead")
def test_a_file_that_is_taken_in_this_moment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An executor may find it between a look and an edit."""
    monkeypatch.setattr(Directory, "take", lambda self, stem: None)
    status, out, err = run("drop", "--all-failed")
    assert (1, "") == (status, out)
    assert "1 call cannot be dropped: another process has just taken " in err


def test_taking_a_file(directory: Path, dead: str) -> None:
    """Not from a process that has it; and what is not there, or not for us, is left as it was."""
    own = Directory(directory, time, is_synced=True, max_crashes=3)
    stem = next(directory.glob("*.db")).with_suffix("")
    store = own.take(stem)
    assert store is not None
    assert own.take(stem) is None
    store.close()
    assert own.take(directory / "nothing") is None
    assert not (directory / "nothing.lock").exists()
    sqlite3.connect(directory / "empty.db").close()
    with pytest.raises(EmptyError):
        own.take(directory / "empty")
    with closing(sqlite3.connect(directory / "newer.db")) as database:
        database.execute("PRAGMA user_version = 9")
    with pytest.raises(NewerError):
        own.take(directory / "newer")
    descriptor = locks.take(directory / "newer.lock")
    assert descriptor is not None
    os.close(descriptor)


# -- files whose owner changes while they are looked at --------------------------------------------


def look(directory: Path) -> list[bool | str]:
    """Return of each file whether its process lives, or why it cannot be read."""
    found: list[bool | str] = []
    for file in files(Directory(directory, time, is_synced=True, max_crashes=3)):
        if isinstance(file, Problem):
            found.append(file.why)
        else:
            file.close()
            found.append(file.is_alive)
    return found


def test_a_file_that_is_taken_over_while_it_is_copied(
    directory: Path, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is copied again, the other way."""
    copy, stores = inspection.copy_of, []

    def take_first(path: Path, *, is_alive: bool) -> sqlite3.Connection:
        if not stores:
            own = Directory(directory, time, is_synced=True, max_crashes=3)
            stores.append(own.take(path.with_suffix("")))
        return copy(path, is_alive=is_alive)

    monkeypatch.setattr(inspection, "copy_of", take_first)
    try:
        assert [True] == look(directory)
    finally:
        stores[0].close()


def test_a_file_that_changes_all_the_time(
    directory: Path, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some tries what there is has to do."""
    copy, times = inspection.copy_of, iter(range(1, 1000))
    fails = False

    def change_first(path: Path, *, is_alive: bool) -> sqlite3.Connection:
        os.utime(path, (0, next(times)))
        if fails:
            raise sqlite3.OperationalError("locked")
        return copy(path, is_alive=is_alive)

    monkeypatch.setattr(inspection, "copy_of", change_first)
    assert [False] == look(directory)
    fails = True
    assert ["locked"] == look(directory)
    assert 11 == next(times)


@pytest.mark.parametrize("has_lock", [True, False])
def test_a_file_that_is_deleted_while_it_is_opened(
    directory: Path, dead: str, monkeypatch: pytest.MonkeyPatch, has_lock: bool
) -> None:
    """It is gone, with what SQLite made beside it; but it may be one that is about to be made."""
    copy = inspection.copy_of

    def delete_first(path: Path, *, is_alive: bool) -> sqlite3.Connection:
        path.unlink()
        if not has_lock:
            path.with_suffix(".lock").unlink()
        return copy(path, is_alive=is_alive)

    monkeypatch.setattr(inspection, "copy_of", delete_first)
    assert [] == look(directory)
    left = {Path(name).suffix for name, _ in listing(directory)}
    assert ({".lock", ".db-wal", ".db-shm"} if has_lock else set()) == left


# -- the command as such ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "python -m retrying_executor journal: the following arguments are required: COMMAND"),
        (["list"], "python -m retrying_executor journal list: the following arguments are required: DIR"),
        (["retry", "d"], "python -m retrying_executor journal retry: give either a KEY or --all-failed"),
        (
            ["drop", "d", "k", "--all-failed"],
            "python -m retrying_executor journal drop: give either a KEY or",
        ),
        (["show", "d", ""], "python -m retrying_executor journal show: argument KEY: must not be empty"),
        (
            ["list", "d", "--status", "lost"],
            "python -m retrying_executor journal list: argument --status: must be one of"
            " waiting, running, in-backoff, failed, set-aside, not 'lost'\n",
        ),
    ],
)
def test_wrong_options_are_named_in_one_line(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status is 2."""
    with pytest.raises(SystemExit, match="2"):
        main(["journal", *options])
    out, err = capsys.readouterr()
    assert ("", True, 1) == (out, err.startswith(said), err.count("\n"))


@pytest.mark.parametrize("options", [[], ["list"], ["show"], ["retry"], ["drop"], ["export"]])
def test_help_is_there(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """For each command; the whole one has the exit statuses."""
    with pytest.raises(SystemExit, match="0"):
        main(["journal", *options, "--help"])
    out = capsys.readouterr().out
    assert ("DIR" in out, "Exit status: 0 " in out) == (bool(options), not options)
    assert ("even if they wait" in " ".join(out.split())) == (options in ([], ["drop"]))


def test_ctrl_c_is_no_traceback(run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status is that of a command that was interrupted."""

    def interrupt(directory: Directory) -> None:
        raise KeyboardInterrupt

    directory.mkdir()
    monkeypatch.setattr(command, "files", interrupt)
    assert (130, "", "interrupted\n") == run("list")


@pytest.mark.usefixtures("dead")
def test_a_reader_that_has_seen_enough(directory: Path) -> None:
    """As ``head`` has: that is no error."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        options = ["list", str(directory)]
        done = subprocess.run(
            [*COMMAND, *options], stdout=writer, stderr=subprocess.PIPE, timeout=TIMEOUT, check=False
        )
    finally:
        os.close(writer)
    assert (0, b"") == (done.returncode, done.stderr)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full")
@pytest.mark.usefixtures("dead")
def test_an_export_that_does_not_fit(directory: Path) -> None:
    """That is one line, and a failure."""
    with open("/dev/full", "wb") as full:
        options = ["export", str(directory)]
        done = subprocess.run(
            [*COMMAND, *options], stdout=full, stderr=subprocess.PIPE, timeout=TIMEOUT, check=False
        )
    assert 1 == done.returncode
    assert done.stderr.startswith(b"python -m retrying_executor journal: [Errno 28] ")
    assert 1 == done.stderr.count(b"\n")
