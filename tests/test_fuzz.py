"""What is read of a service, of a process and of a disk may be anything: nothing raises, hangs or is lost.

Each finding of the harnesses in ``tests/fuzz`` is here, too. Those need Atheris, and search for longer.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import math
import os
import pickle
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import count
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import journals
from conftest import TIMEOUT
from journals import die, made, note
from retrying_executor import (
    Attempt,
    AttemptLostError,
    Journal,
    NotNow,
    RetryingExecutor,
    RetryPolicy,
    explain,
    retry_after,
    service_failed,
    transient,
)
from retrying_executor.__main__ import main
from retrying_executor._calls.current import current
from retrying_executor._common.log import describe
from retrying_executor._engines import far
from retrying_executor._engines.errand import Errand
from retrying_executor._engines.packing import packed
from retrying_executor._engines.processes import ProcessRunner
from retrying_executor._engines.unpacking import unpacked
from retrying_executor._journal.description import describe as described
from retrying_executor._journal.marks import are_foreign, read
from retrying_executor._journal.payload import Jsons, Pickles, UnknownError
from retrying_executor._policy import hints
from retrying_executor._policy.answers import aws_code_of, aws_reasons_of, http_status_of
from retrying_executor._policy.closing import close_answers
from retrying_executor._policy.reading import Reading, _header_for_rules
from retrying_executor.engines import Processes
from retrying_executor.testing import VirtualTimeExecutor
from test_transient import failure, meaning
from test_verdicts import PLACES

DATE = "Thu, 01 Jan 2049 00:00:00"
ENDLESS = "9" * 400
HUGE = 1 << 20
"""Characters, of what is long."""


def refuse(*_: object) -> NoReturn:
    raise SystemExit("a hostile object was asked")


def recurse(*_: object) -> NoReturn:
    raise RecursionError


def itself(self: object, *_: object) -> object:
    return self


def check(exception: BaseException) -> None:
    """Check all that is read off an exception."""
    asked = retry_after(exception)
    assert asked is None or (type(asked) is float and 0.0 <= asked < math.inf)
    assert type(transient(exception)) is bool or isinstance(transient(exception), NotNow)
    assert re.fullmatch("(final|not now|worth another attempt): .+, of .+", explain(exception))
    assert isinstance(service_failed(exception), bool)
    assert len(describe(None, exception)) < 1_200
    close_answers(exception)


def test_all_that_is_checked_is_found() -> None:
    """The objects that stand for hostile ones do what they are there for."""
    with pytest.raises(SystemExit):
        refuse()
    with pytest.raises(RecursionError):
        recurse()
    assert 1 == itself(1)


# -- what a service says ---------------------------------------------------------------------------

TOKENS = st.sampled_from(
    [
        *(
            "0",
            "1",
            "-",
            "+",
            ".",
            ",",
            ":",
            ";",
            "=",
            " ",
            "\t",
            "\r\n",
            "\0",
            '"',
            "{",
            "[",
            "]}",
            "e",
            "T",
        ),
        *("d", "h", "m", "s", "ms", "r=", "t=", "reset=", "remaining=", "2049-01-01", "00:00:00", "GMT"),
        *(DATE, ENDLESS, "1e400", "nan", "-0", "inf", "true", "false", "\u0663", "\u00b2", "\ud800", "\xff"),
        *("Sat, 01 Jan 0000 00:00:00", "Fri, 31 Dec 9999 23:59:60", "-2400", "Z"),
        *("too many 503 error responses", "api_key must be"),
    ]
)
TEXTS = st.lists(TOKENS, max_size=8).map("".join) | st.text(max_size=20)
HEADERS = st.sampled_from(
    [
        *("Retry-After", "Date", "retry-after-ms", "x-ms-retry-after-ms", "RateLimit", "ratelimit-reset"),
        *("x-ratelimit-remaining", "X-RateLimit-Reset", "x-ratelimit-reset-tokens", "x-should-retry"),
        *("x-ratelimit-remaining-tokens", "retry" * 100),
    ]
)
PAIRS = st.lists(st.tuples(HEADERS, TEXTS), max_size=5)
SHAPES = st.sampled_from(
    [
        dict,
        lambda pairs: SimpleNamespace(items=lambda: pairs),  # several of one name
        lambda pairs: SimpleNamespace(items=lambda: iter(pairs)),
        lambda pairs: {name.encode(): text.encode("utf-8", "replace") for name, text in pairs},
        lambda pairs: pairs,  # which is no mapping
    ]
)
STATUSES = st.sampled_from([200, 302, 400, 403, 404, 420, 429, 500, 503])


@given(pairs=PAIRS, shape=SHAPES, status=STATUSES, code=TEXTS, body=TEXTS)
def test_whatever_a_service_says_nothing_raises(
    pairs: list[tuple[str, str]], shape: Callable[[Any], object], status: int, code: str, body: str
) -> None:
    """Headers of any shape, codes and bodies; a policy finds a delay in them, or none (U1, U2)."""
    headers = shape(pairs)
    content = body.encode("utf-8", "replace")
    answer = SimpleNamespace(status_code=status, headers=headers, _content_consumed=True, content=content)
    meta = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    for exception in (
        failure(status_code=status, headers=headers, body=body),
        failure(response=answer),
        failure(response={"Error": {"Code": code}, "ResponseMetadata": meta}),
        failure(status_code=status, body={"code": code, "retry_after": code, "retryDelay": body}),
    ):
        check(exception)
        policy = RetryPolicy(max_retry_after=None, max_elapsed=None)
        delay = policy(Attempt(number=1, exception=exception, result=None, elapsed=0.0))
        assert delay is None or 0.0 <= delay < math.inf


BASES = st.sampled_from([object, int, float, str, bytes, dict, list, tuple, Exception])
METHODS = st.sets(
    st.sampled_from(
        [
            *("__getattr__", "__eq__", "__hash__", "__str__", "__repr__", "__iter__", "__len__", "__bool__"),
            *("__getitem__", "__contains__", "__call__", "__lt__", "__ge__", "__float__", "__int__"),
            *(
                "get",
                "items",
                "keys",
                "values",
                "strip",
                "lower",
                "split",
                "decode",
                "total_seconds",
                "close",
            ),
            *("isdisjoint", "partition", "name", "code", "headers", "status_code", "__format__", "__index__"),
            "__class__",
        ]
    )
)
DOINGS = st.sampled_from([refuse, recurse, itself, property(refuse), property(itself), None, 0, "text"])


@given(base=BASES, names=METHODS, doing=DOINGS, place=st.sampled_from(PLACES))
def test_whatever_an_object_does_nothing_raises(
    base: type, names: set[str], doing: object, place: str
) -> None:
    """Its methods raise, lie, or return the object itself, wherever it is (U1, U2)."""
    hostile = type("Hostile", (base,), dict.fromkeys(names, doing))()
    for exception in (
        failure(**{place: hostile}),
        failure(response=hostile, status_code=429),
        failure(headers={"Retry-After": hostile}, body={place: hostile}),
        Exception(hostile),
    ):
        check(exception)


class OddNotNow(NotNow):
    """Says anything."""

    after: Any = property(refuse)


@pytest.mark.parametrize("after", ["soon", b"", 10**400, math.nan, -1, [], refuse])
def test_explain_says_nothing_of_a_time_that_is_none(after: Any) -> None:
    """`NotNow.after` may be set to anything (U2, U3)."""
    not_now = NotNow()
    not_now.after = after
    assert "not now: the call says so, of retrying_executor.NotNow" == explain(not_now)


def test_explain_never_asks_twice() -> None:
    """A subclass may raise when it is asked for the time (U2, U3)."""
    assert explain(OddNotNow.__new__(OddNotNow)).endswith("OddNotNow")


def test_a_zone_may_be_any_number_of_hours() -> None:
    """A date of the service that is none is not used, and hides nothing (U2)."""
    date = f"{DATE} +{ENDLESS}"
    assert retry_after(failure(headers={"Retry-After": f"{DATE} GMT", "Date": date})) is not None
    assert retry_after(failure(headers={"Retry-After": date})) is None


@pytest.mark.parametrize("value", [-1, math.inf, math.nan, 10**400, True, "soon"])
def test_a_malformed_time_in_a_body_hides_no_other(value: Any) -> None:
    """Each is read by itself (U2)."""
    assert 7.0 == retry_after(failure(body={"retry_after": value, "error": {"retryDelay": "7s"}}))


def test_digits_are_those_of_ascii() -> None:
    """As RFC 9110 has it, in durations and dates as in numbers (U2)."""
    for text in ("\u0667", "\u0667s", "204\u0669-01-01T00:00:00Z"):
        assert retry_after(failure(body={"retryDelay": text}, headers={"Retry-After": text})) is None


@pytest.mark.parametrize("seconds", ["17" + "0" * 307, "8" + "0" * 307])
@pytest.mark.parametrize("name", ["Retry-After", "X-RateLimit-Reset"])
def test_the_longest_time_is_finite_with_jitter_too(name: str, seconds: str) -> None:
    """No policy makes an error of what a service says (U2)."""
    exception = failure(status_code=429, headers={name: f"{seconds}s"})
    policy = RetryPolicy(max_retry_after=None, max_elapsed=None, random=lambda: 0.999)
    delay = policy(Attempt(number=1, exception=exception, result=None, elapsed=0.0))
    assert delay is not None
    assert delay < math.inf


def test_what_is_searched_is_short() -> None:
    """To search a long code would take the square of its length, and to keep it, memory (U1)."""
    for word in ("Concurren", "InProgress", "Insufficient"):
        reading = Reading(failure(response={"Error": {"Code": word * HUGE}}))
        code = aws_code_of(reading)
        assert code is not None
        assert len(code) == 200
    reasons = [{"Code": "InProgress" * 100}] * 1_000
    reading = Reading(failure(response={"Error": {"Code": "a"}, "CancellationReasons": reasons}))
    assert ["InProgress" * 20] * 100 == aws_reasons_of(reading)
    assert http_status_of(Reading(failure(reason="a " * HUGE, headers={}))) is None


def test_long_names_of_headers_are_not_kept() -> None:
    """Whether a header is read is remembered by its name, which the service chooses (U2)."""
    _header_for_rules.cache_clear()
    headers = {f"retry-{number}" * 100: "7" for number in range(10)}
    assert 7.0 == retry_after(failure(headers={**headers, "Retry-After": "7"}))
    assert 1 == _header_for_rules.cache_info().currsize


@pytest.mark.parametrize("argument", [{}, [], set(), "1040", 1.5])
def test_the_sqlstate_counts_whatever_the_arguments_are(argument: object) -> None:
    """They may be anything, not only a number (U1)."""
    exception = RuntimeError(argument)
    exception.__dict__["sqlstate"] = "23505"
    assert transient(exception) is False


def test_a_message_that_is_no_text_hides_no_status() -> None:
    """It may be nested so deeply that it has no text (U1)."""
    nested: object = 7
    for _ in range(100_000):
        nested = [nested]
    assert transient(failure(status_code=403, body={"message": nested})) is False
    limited = {"message": "You have exceeded a secondary rate limit"}
    assert NotNow is meaning(failure(status_code=403, body=limited))


def test_an_attempt_that_is_not_over_is_not_waited_for() -> None:
    """A program may keep a future of its own where tenacity has one that is done (U1)."""
    last: Future[object] = Future()
    exception = failure(last_attempt=last)
    assert transient(exception) is True
    last.set_exception(failure(status_code=404))
    assert transient(exception) is False


@given(words=TEXTS)
def test_no_text_breaks_a_reader_of_times(words: str) -> None:
    """Each returns a number or nothing, so that it hides no other (U2)."""
    for read_time in (hints._number, hints._duration, hints._timestamp):
        found = read_time(words)
        assert found is None or not math.isnan(found)


# -- what a process answers ------------------------------------------------------------------------

ANSWERS = [
    pickle.dumps((far.RETURNED, 1.5, pickle.dumps([1, "a"]), None)),
    pickle.dumps((far.RAISED, None, *packed(failure(status_code=429, headers={"Retry-After": "7"})))),
    pickle.dumps((far.UNSENT, None, "why", None)),
]
DAMAGES = st.tuples(st.integers(0, 2_000), st.integers(0, 300), st.binary(max_size=20))
"""Where, how many bytes are gone, and what is there instead."""


def damaged(content: bytes, damages: list[tuple[int, int, bytes]]) -> bytes:
    """Return bytes as the damages leave them."""
    for where, gone, instead in damages:
        start = where % (len(content) + 1)
        content = content[:start] + instead + content[start + gone :]
    return content


class Odd:
    """Cannot be loaded."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return raise_this, (self._error,)


def raise_this(error: BaseException) -> NoReturn:
    raise error


@contextlib.contextmanager
def answered(answer: bytes) -> Iterator[None]:
    """What is sent from here is answered so."""
    current.hand = SimpleNamespace(runner=SimpleNamespace(run=lambda _: answer))  # type: ignore[assignment]
    try:
        yield
    finally:
        current.hand = None


class Silent(Errand):
    """Sends nothing, and has no call."""

    __slots__ = ()

    def _message(self) -> bytes:
        return b""


@pytest.fixture(scope="module", autouse=True)
def _no_weight_is_reported() -> Iterator[None]:
    """There is no call whose weight it could be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrying_executor._engines.errand.report_weight", float)
        yield


@given(answer=st.sampled_from(ANSWERS), damages=st.lists(DAMAGES, min_size=1, max_size=3))
def test_a_damaged_answer_is_a_failure_of_the_attempt(
    answer: bytes, damages: list[tuple[int, int, bytes]]
) -> None:
    """Or it can be read all the same; then it is what it says (L3)."""
    with answered(damaged(answer, damages)), contextlib.suppress(Exception):
        Silent(len, b"")()
    pickled, facts = packed(failure(body={"code": 1}))
    assert pickled is not None
    module, name, message, text, is_exception, _ = facts
    exception = unpacked(damaged(pickled, damages), module, name, message, text, is_exception=is_exception)
    check(exception)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"no pickle",
        ANSWERS[0][:-9],
        pickle.dumps(7),
        pickle.dumps((far.RETURNED,)),
        pickle.dumps(("odd", None, b"", None)),
        pickle.dumps((far.RETURNED, "heavy", b"", None)),
        pickle.dumps((far.RAISED, None, None, None)),
        pickle.dumps((far.RAISED, None, None, ("a", 7, "b", "c", True, False))),
    ],
)
def test_an_answer_that_is_none_costs_the_attempt(answer: bytes) -> None:
    """It says nothing of the call, nor of its arguments (L1)."""
    with answered(answer), pytest.raises(AttemptLostError, match="its answer is damaged: ") as caught:
        Silent(len, b"")()
    assert transient(caught.value) is True


def test_a_result_that_ends_the_program_when_it_is_read_is_an_error() -> None:
    """As one that raises anything else (L3)."""
    result = pickle.dumps(Odd(SystemExit("hostile")))
    with (
        answered(pickle.dumps((far.RETURNED, 1, result, None))),
        pytest.raises(TypeError, match="the result cannot be read here: hostile") as caught,
    ):
        Silent(len, b"")()
    assert transient(caught.value) is False


@pytest.mark.parametrize("error", [SystemExit(), RecursionError(), MemoryError()])
@pytest.mark.parametrize("name", ["NoError", "Null\0Error", "\ud800", "outer.<locals>.inner"])
def test_an_exception_that_cannot_be_read_is_told_by_its_name(error: BaseException, name: str) -> None:
    """Which may be anything, too (L3)."""
    exception = unpacked(pickle.dumps(Odd(error)), "program", name, "why", "a traceback", is_exception=True)
    assert name == type(exception).__qualname__
    assert "why" == str(exception)
    check(exception)


def write_into_the_pipe() -> int:  # pragma: no cover  # in a process that is not measured
    """Do what a library does that writes to a descriptor which it has closed, and which is another's now."""
    for connection in [one for one in gc.get_objects() if type(one) is Connection]:
        connection.send_bytes(b"not an answer")
    return 13


def test_what_a_call_writes_into_the_pipe_is_no_answer() -> None:
    """Nor is its answer taken for that of the next call (L1)."""
    with RetryingExecutor(1, engine=Processes(), retry=None) as executor:
        with pytest.raises(
            AttemptLostError, match=r"what came was not its answer, so process \d+ (was|ended)"
        ):
            executor.submit(write_into_the_pipe).result(TIMEOUT)
        assert [24, 6] == [executor.submit(math.factorial, number).result(TIMEOUT) for number in (4, 3)]


class Process:
    """Is there, as far as its sentinel goes."""

    def __init__(self, sentinel: int) -> None:
        self.sentinel = sentinel


def received(stream: bytes) -> bytes:
    """Return what is read of the bytes that a process has sent before it died."""
    near, end = Pipe()
    never, other = os.pipe()
    runner = ProcessRunner(SimpleNamespace(), lambda: False)  # type: ignore[arg-type]
    runner._connection, runner._process = near, Process(never)  # type: ignore[assignment]
    try:
        os.write(end.fileno(), stream)
        end.close()
        found = runner._receive(None)
    finally:
        near.close()
        os.close(never)
        os.close(other)
    assert found is not None
    return found


@given(stream=st.binary(min_size=1, max_size=40))
def test_whatever_a_process_sends_is_a_message_or_none(stream: bytes) -> None:
    """It may be cut off, or damaged (L1)."""
    assert len(received(stream)) < len(stream)


@pytest.mark.parametrize(
    "stream", [b"\xff" * 20, b"\xff\xff\xff\xff" + b"\x10" * 8, b"\x7f\xff\xff\xffa", b"\xfe" * 9]
)
def test_no_message_is_as_long_as_that(stream: bytes) -> None:
    """A length that is damaged is no reason to wait, or to take all memory (L1)."""
    assert b"" == received(stream)


# -- a journal on a disk ---------------------------------------------------------------------------

journal = journals.journal
CALLS = 4
DAMAGED = 2
"""The row of the call that is damaged."""

OTHERS = {0, 2, 3}
"""What the others note."""

VALUES: dict[str, Any] = {
    "text": "soon",
    "bytes": b"\xff\0",
    "negative": -5,
    "too large": (1 << 63) - 1,
    "infinite": math.inf,
    "empty": "",
    "nothing": None,
    "control": "a\0\x1b[31m\n",
}
COLUMNS = (
    *("status", "function", "key", "label", "upstreams", "payload", "accepted", "submitted", "attempts"),
    *("postponed", "crashes", "began", "due", "noted", "error"),
)
OPTIONS = (["list"], ["list", "--json"], ["show", "a"], ["show", "b", "--json"], ["export"])


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """What a process leaves that is killed, by whether all of it is in the main file."""
    directory = tmp_path_factory.mktemp("journals")
    places = {is_whole: directory / f"{is_whole}" for is_whole in (True, False)}
    executor = VirtualTimeExecutor(journal=directory / "calls")
    for number in range(CALLS):
        executor.with_options(key=f"{'abcd'[number]}-key").submit(note, number)
    shutil.copytree(directory / "calls", places[False])
    die(executor)
    shutil.copytree(directory / "calls", places[True])
    executor.shutdown(cancel_futures=True)
    return places


@pytest.fixture
def left(journal: Path, templates: dict[bool, Path]) -> Path:
    """The database of a journal that a process has left."""
    shutil.copytree(templates[True], journal)
    (path,) = journal.glob("*.db")
    return path


def execute(path: Path, statement: str, *values: object) -> None:
    """Change a database."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(statement, values)


def ask(directory: Path, *options: str) -> str:
    """Return what the command says, which succeeds, or says that something is not possible."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()) as err:
        assert main(["journal", options[0], str(directory), *options[1:]]) in (0, 1)
        out.seek(0)
        return out.read() + err.getvalue()


def take_over(directory: Path) -> None:
    """Look at a journal, go on with it, and end; then look again."""
    for options in OPTIONS:
        ask(directory, *options)
    made.clear()
    executor = VirtualTimeExecutor(journal=directory, retry=None)
    try:
        assert "new" == executor.submit(note, "new").result()
        executor.drain(1e6)
    finally:
        executor.shutdown(cancel_futures=True)
    ask(directory, "list")


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("column", COLUMNS)
def test_one_damaged_row_keeps_no_other_call_from_being_made(left: Path, column: str, value: object) -> None:
    """It is left where it is, and listed (J6)."""
    with contextlib.suppress(sqlite3.IntegrityError):  # the column takes no NULL
        execute(left, f"UPDATE calls SET {column} = ? WHERE row = ?", value, DAMAGED)
    take_over(left.parent)
    assert {*OTHERS, "new"} <= set(made)
    assert 1 in made or "1 call" in ask(left.parent, "list")


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("column", ["function", "key", "label", "upstreams", "error"])
def test_a_text_that_is_none_hides_no_call(left: Path, column: str) -> None:
    """What is not UTF-8 is read as far as it is (J6)."""
    execute(left, f"UPDATE calls SET {column} = CAST(x'61ff62' AS TEXT) WHERE row = ?", DAMAGED)
    assert CALLS == len(ask(left.parent, "list", "--json").splitlines())
    take_over(left.parent)
    assert {*OTHERS, 1, "new"} == set(made)


def test_a_damaged_row_says_what_is_damaged(left: Path, caplog: pytest.LogCaptureFixture) -> None:
    """To those who list it, and to the log (J6)."""
    execute(left, "UPDATE calls SET attempts = 'x', due = 'y' WHERE row = ?", DAMAGED)
    execute(left, "UPDATE calls SET status = 'odd', accepted = 1e300 WHERE row = 3")
    listed = ask(left.parent, "list")
    assert "its row is damaged: attempts, due" in listed
    assert "4 calls: 3 waiting, 1 damaged" in listed
    assert "1e+300 s" in ask(left.parent, "show", "c")
    take_over(left.parent)
    assert "its row is damaged: attempts, due" in caplog.text


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("generation", value) for value in ("x", None)),
        *(("keys", value) for value in ("x", b"x", 7, None)),
        *(("name", value) for value in (b"x", None)),
        ("boot", None),
        *((column, value) for column in ("monotonic", "wall") for value in ("x", b"x", math.inf, None)),
    ],
)
def test_a_file_whose_owner_is_damaged_is_set_aside(left: Path, column: str, value: object) -> None:
    """Its keys and times mean nothing then: it is for people (J6)."""
    execute(left, f"UPDATE owner SET {column} = ?", value)
    assert f"{left} cannot be read: it is damaged: " in ask(left.parent, "list")
    take_over(left.parent)
    assert ["new"] == made
    assert left.with_name(f"{left.name}.corrupt").exists()


def without_owner(path: Path) -> None:
    execute(path, "DELETE FROM owner")


def without_version(path: Path) -> None:
    execute(path, "PRAGMA user_version = 0")


def without_column(path: Path) -> None:
    execute(path, "ALTER TABLE calls RENAME COLUMN label TO lapel")


def with_odd_schema(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE owner", b"CREATE TABL\xc9 owner"))


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("damage", [without_owner, without_version, without_column, with_odd_schema])
def test_a_damaged_file_is_not_deleted(left: Path, damage: Callable[[Path], None]) -> None:
    """Also where it looks as if it had been begun only: what is left of it is for people (J6)."""
    damage(left)
    assert f"{left} cannot be read: it is damaged: " in ask(left.parent, "list")
    take_over(left.parent)
    assert ["new"] == made
    assert b"journals" in left.with_name(f"{left.name}.corrupt").read_bytes()


@pytest.mark.usefixtures("quiet")
def test_a_log_without_its_file_is_not_deleted(journal: Path, templates: dict[bool, Path]) -> None:
    """SQLite would, and all calls may be in it (J6)."""
    shutil.copytree(templates[False], journal)
    (path,) = journal.glob("*.db")
    path.write_bytes(b"")
    (log,) = journal.glob("*.db-wal")
    content = log.read_bytes()
    assert "it is damaged: file is empty, and its log is not" in ask(journal, "list")
    take_over(journal)
    assert content == log.with_name(f"{path.name}.corrupt-wal").read_bytes()


@pytest.mark.usefixtures("quiet")
def test_files_of_other_programs_are_left_alone(left: Path) -> None:
    """A journal should have a directory of its own, but nothing is lost where it has none (J6)."""
    directory = left.parent
    lock, table, odd = directory / "poetry.lock", directory / "app.db", directory / f"copy.of.{left.name}"
    lock.write_text("content-hash = 1", "utf-8")
    execute(table, "CREATE TABLE users (name TEXT)")
    execute(table, "INSERT INTO users VALUES ('kept')")
    shutil.copyfile(left, odd)
    before = [path.read_bytes() for path in (lock, table, odd)]
    assert f"{table} cannot be read: it is of another program" in ask(directory, "list")
    take_over(directory)
    assert {*OTHERS, 1, "new"} == set(made)
    assert before == [path.read_bytes() for path in (lock, table, odd)]
    assert [CALLS + 1] == [len(made)]
    assert "no calls" in ask(directory, "list")


def test_a_lock_file_is_told_from_others(tmp_path: Path) -> None:
    """By how it begins; one that was only just made has nothing yet."""
    found = []
    for content in (b"", b"\0" * 64, b"retrying and more", b"retry", b"content-hash"):
        path = tmp_path / "one.lock"
        path.write_bytes(content)
        descriptor = os.open(path, os.O_RDWR)
        found.append(are_foreign(descriptor))
        os.close(descriptor)
    assert [False, False, False, True, True] == found


@pytest.mark.usefixtures("quiet")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_what_is_no_file_is_not_waited_for(left: Path) -> None:
    """Pipes with such names, directories, and links to themselves (J6)."""
    directory = left.parent
    for ending in ("db", "lock"):
        os.mkfifo(directory / f"pipe-{ending}.{ending}")
        (directory / f"directory-{ending}.{ending}").mkdir()
        (directory / f"link-{ending}.{ending}").symlink_to(f"link-{ending}.{ending}")
    assert "4 calls: 4 waiting" in ask(directory, "list")
    take_over(directory)
    assert {*OTHERS, 1, "new"} == set(made)


@pytest.mark.usefixtures("quiet")
@pytest.mark.skipif(os.name == "nt", reason="files cannot have such names here")
def test_a_name_does_nothing_to_a_terminal(left: Path) -> None:
    """Whatever files in the directory are called (J6)."""
    for name in ("\x1b[31m", "two\nlines", "\u202e"):
        (left.parent / f"{name}.db").write_bytes(b"no database")
    take_over(left.parent)
    for options in (["list"], ["export"]):
        said = ask(left.parent, *options)
        assert 3 == said.count(" cannot be read: it is damaged, and was set aside")
        assert said.replace("\n", "").isprintable()


FORMATS: dict[str, Any] = {"pickle": Pickles({}), "JSON": Jsons({"note": note})}


@given(kind=st.sampled_from(sorted(FORMATS)), damages=st.lists(DAMAGES, min_size=1, max_size=3))
def test_a_damaged_payload_is_described_and_refused(kind: str, damages: list[tuple[int, int, bytes]]) -> None:
    """Or it can be read all the same (J3)."""
    payload = damaged(FORMATS[kind].dump(note, ([1, "a"],), {"x": None}), damages)
    assert described(payload).form in FORMATS
    with contextlib.suppress(Exception):
        FORMATS[kind].load(payload)


@pytest.mark.parametrize("arguments", [["abc", {}], [[], []], [{}, {}], [None, {}], [[], "x"]])
def test_arguments_that_cannot_have_been_written_are_refused(arguments: list[Any]) -> None:
    """A text would be taken for as many arguments as it has characters (J3)."""
    with pytest.raises(UnknownError, match="its arguments are damaged"):
        FORMATS["JSON"].load(b"J" + json.dumps(["note", *arguments]).encode())
    with pytest.raises(UnknownError, match="its arguments are damaged"):
        FORMATS["pickle"].load(b"P" + pickle.dumps((note, *arguments)))


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"P",
        b"J\xff",
        b"Pgarbage",
        b"P" + b"(" * 100_000,
        b"P\x80\x04\x8e" + b"\xff" * 7 + b"\x0f",
        *(
            b"P" + pickle.dumps(Odd(error))
            for error in (SystemExit(), RecursionError(), MemoryError(), KeyError())
        ),
        b"J" + b"[" * 100_000,
        b'J["journals.note", [' + b"9" * 10_000 + b"], {}]",
    ],
    ids=count(),
)
@pytest.mark.parametrize("form", ["pickle", "JSON"])
def test_a_call_that_cannot_be_read_keeps_no_other_from_being_made(
    left: Path, payload: bytes, form: str
) -> None:
    """Whatever its payload is, or raises; it is left where it is, and listed (J3, J6)."""
    options: Any = {"functions": [note]} if form == "JSON" else {}
    other = Jsons({"journals.note": note}).dump(note, ("json",), {})
    execute(left, "UPDATE calls SET payload = ? WHERE row = 3", other)
    execute(left, "UPDATE calls SET payload = ? WHERE row = ?", payload, DAMAGED)
    for command in OPTIONS:
        assert "Traceback" not in ask(left.parent, *command)
    made.clear()
    with VirtualTimeExecutor(journal=Journal(left.parent, **options), retry=None):
        pass
    assert (["json"] if form == "JSON" else [0, 3]) == made
    assert '"b-key"' in ask(left.parent, "list", "--json")


@pytest.mark.usefixtures("quiet")
@settings(max_examples=40)
@given(
    which=st.integers(0, 2),
    is_whole=st.booleans(),
    damages=st.lists(
        st.tuples(st.integers(0, 1 << 20), st.integers(0, 5_000), st.binary(max_size=64)), max_size=3
    ),
)
def test_whatever_bytes_are_on_the_disk_a_process_starts_and_ends(
    templates: dict[bool, Path], which: int, is_whole: bool, damages: list[tuple[int, int, bytes]]
) -> None:
    """Nothing raises, and a new call is made (J6)."""
    with TemporaryDirectory() as place:
        directory = Path(place, "calls")
        shutil.copytree(templates[is_whole], directory)
        paths = sorted(directory.iterdir())
        path = paths[which % len(paths)]
        path.write_bytes(damaged(path.read_bytes(), damages))
        take_over(directory)
        assert "new" in made


@given(content=st.binary(max_size=300))
def test_whatever_is_in_a_lock_file_it_is_marks_or_none(content: bytes) -> None:
    """Those that are damaged do not count (J6)."""
    with TemporaryDirectory() as place:
        path = Path(place, "one.lock")
        path.write_bytes(content)
        descriptor = os.open(path, os.O_RDWR)
        try:
            assert (None, False, []) == read(descriptor)
        finally:
            os.close(descriptor)
