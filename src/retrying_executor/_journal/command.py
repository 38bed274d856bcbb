"""``python -m retrying_executor journal``: look at the calls of a journal, and deal with those that failed.

Files of living processes are only looked at. Others are edited as an executor would take them over: under
their lock, and after their marks were applied to their rows. An executor that looks for such files in that
moment finds it taken, and goes on with it when it looks again.
"""

# ruff: noqa: T201  # a command speaks by printing

from __future__ import annotations

import argparse
import base64
import json
import os
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from retrying_executor._journal.database import (
    FAILED,
    SET_ASIDE,
    WAITING,
    Database,
    EmptyError,
    NewerError,
    now,
)
from retrying_executor._journal.description import describe
from retrying_executor._journal.directory import Directory, boot_id
from retrying_executor._journal.inspection import IN_BACKOFF, IS_RUNNING, Problem, files, problem_of
from retrying_executor._journal.payload import PICKLE
from retrying_executor._journal.report import HEAD, calls, fields, in_full, line, process, safe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from retrying_executor._journal.inspection import Call, File

_STATUSES = (WAITING, IS_RUNNING, IN_BACKOFF, FAILED, SET_ASIDE)
_OVER = (FAILED, SET_ASIDE)
_NO_LIMIT = sys.maxsize  # how many crashes are too many is for the program to say

_EPILOG = """\
Nothing that is in the journal is run. Files of processes that are alive are looked at and not changed.
KEY may be the beginning of a key, if it is the beginning of one only.

Exit status: 0 if all is well, 1 if no call matches or something is not possible, 2 if the command is wrong.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command with the options *argv*; return its exit status, or exit with 2 if they are wrong."""
    options = _parse(argv)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a command has such a file
    try:
        if not options.directory.is_dir():
            return _complain(f"there is no directory {str(options.directory)!r}")
        status: int = options.run(_Journal(options.directory), options)
        sys.stdout.flush()
    except BrokenPipeError:  # ``| head`` has seen enough
        _let_go_of_stdout()
        return 0
    except (OSError, sqlite3.Error) as error:
        _let_go_of_stdout()
        return _complain(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


def _let_go_of_stdout() -> None:
    """See that the interpreter does not try to write the rest when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(*sentences: str) -> int:
    """Say what is wrong; return the exit status for that."""
    for sentence in sentences:
        print(safe(f"{_PROG}: {sentence}"), file=sys.stderr)
    return 1


# -- the options -----------------------------------------------------------------------------------

_PROG = "python -m retrying_executor journal"


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, without the usage."""
        self.exit(2, f"{self.prog}: {message}\n")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog=_PROG,
        description="Look at the calls of a journal, and deal with those that failed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: object, meaning: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=meaning, description=f"{meaning[0].upper()}{meaning[1:]}.")
        added.add_argument("directory", metavar="DIR", type=Path, help="the directory of the journal")
        added.set_defaults(run=run, command=added)
        return added

    def json_option(added: argparse.ArgumentParser, meaning: str) -> None:
        added.add_argument("--json", action="store_true", help=meaning)

    listed = command("list", _list, "list the calls that are not done")
    json_option(listed, "write a JSON object a line for each call, and for each file that cannot be read")
    listed.add_argument(
        "--failed", action="store_true", help="only those that failed for good or were set aside"
    )
    listed.add_argument(
        "--status",
        action="append",
        type=_status,
        metavar="STATUS",
        help=f"only those of this status: {_SPELLINGS}; may be given several times",
    )
    shown = command("show", _show, "show all about one call: its arguments and its error, too")
    shown.add_argument("key", metavar="KEY", type=_key, help="its key, or the beginning of that")
    json_option(shown, "write a JSON object")
    for name, run, meaning in (
        ("retry", _retry, "have calls that failed or were set aside run again, in the next executor"),
        ("drop", _drop, "delete calls; those of a KEY even if they wait, so that they are never made"),
    ):
        edited = command(name, run, meaning)
        edited.add_argument(
            "key", metavar="KEY", type=_key, nargs="?", help="the key of one, or its beginning"
        )
        edited.add_argument(
            "--all-failed", action="store_true", help="all that failed for good or were set aside"
        )
    exported = command("export", _export, "write all calls as lines of JSON, with what they are given")
    json_option(exported, "as without it")
    options = parser.parse_args(argv)
    if hasattr(options, "all_failed") and options.all_failed == (options.key is not None):
        options.command.error("give either a KEY or --all-failed")
    return options


_SPELLINGS = ", ".join(status.replace(" ", "-") for status in _STATUSES)


def _status(text: str) -> str:
    status = text.replace("-", " ")
    if status not in _STATUSES:
        raise argparse.ArgumentTypeError(f"must be one of {_SPELLINGS}, not {text!r}")
    return status


def _key(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


# -- what is there ---------------------------------------------------------------------------------


class _Journal:
    """The files of a journal.

    Attributes:
        problems: Of the files that were read so far.
    """

    def __init__(self, path: Path) -> None:
        self.directory = Directory(path, time, is_synced=True, max_crashes=_NO_LIMIT)
        self.problems: list[Problem] = []

    def calls(self) -> Iterator[tuple[File, Call]]:
        """Yield all calls with their files."""
        for found in files(self.directory):
            if isinstance(found, Problem):
                self.problems.append(found)
                continue
            with closing(found):
                try:
                    for call in found.calls():
                        yield found, call
                except sqlite3.Error as error:
                    self.problems.append(problem_of(found.path, error))

    def of_key(self, key: str) -> list[tuple[File, Call]]:
        """Return the calls of a key, or of the only key that begins like that; complain if there is none."""
        matches = [(file, call) for file, call in self.calls() if call.key.startswith(key)]
        exact = [(file, call) for file, call in matches if call.key == key]
        keys = sorted({call.key for _, call in matches})
        if not matches:
            _complain(f"no call has a key that begins with {key!r}")
        elif len(keys) > 1 and not exact:
            some = ", ".join(map(repr, keys[:3])) + (", ..." if len(keys) > 3 else "")
            _complain(f"{len(keys)} keys begin with {key!r}, so say more of it: {some}")
            return []
        return exact or matches

    def report(self) -> None:
        """Say which files could not be read."""
        _complain(*(f"{path} cannot be read: {why}" for path, why in self.problems))


# -- list ------------------------------------------------------------------------------------------


def _list(journal: _Journal, options: argparse.Namespace) -> int:
    wanted = {*(options.status or ()), *(_OVER if options.failed else ())}
    counts: Counter[str] = Counter()
    latest = None
    for file, call in journal.calls():
        if wanted and call.status not in wanted:
            continue
        counts[call.status] += 1
        if options.json:
            print(json.dumps(fields(file, call)))
            continue
        if file is not latest:
            if latest is None:
                print(HEAD)
            print(safe(f"{process(file)}, {file.path}"))
            latest = file
        print(line(call))
    for path, why in journal.problems:
        print(
            json.dumps({"file": str(path), "problem": why})
            if options.json
            else safe(f"{path} cannot be read: {why}")
        )
    if not options.json:
        print(_summary(counts, len(journal.problems)))
    return 0 if counts or not (options.failed or options.status or journal.problems) else 1


def _summary(counts: Counter[str], unread: int) -> str:
    known = [status for status in _STATUSES if counts[status]]
    damaged = counts.total() - sum(counts[status] for status in known)
    parts = [f"{counts[status]} {status}" for status in known] + ([f"{damaged} damaged"] if damaged else [])
    summary = f"{calls(counts.total())}: {', '.join(parts)}" if parts else "no calls"
    if not unread:
        return summary
    return f"{summary}, not counting {'a file' if unread == 1 else f'{unread} files'} that cannot be read"


# -- show and export -------------------------------------------------------------------------------


def _show(journal: _Journal, options: argparse.Namespace) -> int:
    matches = journal.of_key(options.key)
    for number, (file, call) in enumerate(matches):
        if options.json:
            what = describe(call.row.payload)
            given = {"args": what.args, "kwargs": what.kwargs, "why_not": what.why_not}
            payload = {"format": what.form, "bytes": what.size, **given}
            print(json.dumps({**fields(file, call), "payload": payload}))
        else:
            print(*([""] if number else []), *in_full(file, call), sep="\n")
    journal.report()
    return 0 if matches else 1


def _export(journal: _Journal, options: argparse.Namespace) -> int:
    for file, call in journal.calls():
        content = call.row.payload[1:]
        if call.row.payload.startswith(PICKLE):
            payload = {"format": "pickle", "base64": base64.b64encode(content).decode("ascii")}
        else:
            payload = {"format": "JSON", "text": content.decode(errors="backslashreplace")}
        print(json.dumps({**fields(file, call), "payload": payload}))
    journal.report()
    return 1 if journal.problems else 0


# -- retry and drop --------------------------------------------------------------------------------


class _Edit(NamedTuple):
    """What is done to calls: *change* does it to rows of a database, and returns to how many."""

    change: Callable[[Database, list[int]], int]
    done: str
    then: str


def _retry_rows(database: Database, rows: list[int]) -> int:
    return database.retry(rows, now(boot_id(), time.monotonic()))


_RETRY = _Edit(_retry_rows, "retried", ", and the next one goes on with them")
_DROP = _Edit(Database.drop, "dropped", "")


def _retry(journal: _Journal, options: argparse.Namespace) -> int:
    number, status = _edit(journal, options, _RETRY, must_be_over=True)
    if number:
        verb, them = ("is", "it") if number == 1 else ("are", "them")
        print(f"{calls(number)} {verb} waiting again: the next executor that looks here goes on with {them}")
    return status


def _drop(journal: _Journal, options: argparse.Namespace) -> int:
    number, status = _edit(journal, options, _DROP, must_be_over=options.all_failed)
    if number:
        print(f"dropped {calls(number)}")
    return status


def _edit(
    journal: _Journal, options: argparse.Namespace, edit: _Edit, *, must_be_over: bool
) -> tuple[int, int]:
    """Edit the calls that were chosen; return how many, and the exit status."""
    chosen = journal.calls() if options.key is None else journal.of_key(options.key)
    rows: dict[File, list[int]] = {}
    for file, call in chosen:
        if call.status in _OVER or not must_be_over:
            rows.setdefault(file, []).append(call.row.row)
        elif options.key is not None:
            _complain(f"{call.key!r} has not failed: it is {call.status}")
    journal.report()
    if not rows:
        return 0, 1 if options.key is not None else _complain("no call has failed")
    number, status = 0, 0
    for file, numbers in rows.items():
        try:
            number += _edit_file(journal, file, numbers, edit)
        except _ImpossibleError as error:
            status = _complain(f"{calls(len(numbers))} cannot be {edit.done}: {error}")
    return number, status


class _ImpossibleError(Exception):
    """Some calls cannot be edited."""


def _edit_file(journal: _Journal, file: File, rows: list[int], edit: _Edit) -> int:
    """Edit calls of one file; return how many."""
    if file.is_alive:
        raise _ImpossibleError(
            f"{process(file)} has {file.path}."
            f" As soon as that process has ended, they can be {edit.done}{edit.then}"
        )
    try:
        store = journal.directory.take(file.path.with_suffix(""))
        number = 0
        if store is not None:
            with closing(store):
                number = store.read(lambda database: edit.change(database, rows))
    except (OSError, sqlite3.Error, NewerError, EmptyError) as error:
        raise _ImpossibleError(f"{file.path} cannot be changed: {error}") from error
    if not number:
        raise _ImpossibleError(f"another process has just taken {file.path}")
    return number
