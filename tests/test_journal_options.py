"""What users say of a journal, and the directories that cannot be one (A1, J3, J6)."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from journals import note, refuse
from retrying_executor import Journal, RetryingExecutor
from retrying_executor._journal import directory
from retrying_executor.testing import VirtualTimeExecutor

needs_modes = pytest.mark.skipif(sys.platform == "win32", reason="there, modes say nothing")
needs_users = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are no such users")


class Named:
    """A path of another kind."""

    def __init__(self, path: Any) -> None:
        self.path = path

    def __fspath__(self) -> Any:
        return self.path


@pytest.mark.parametrize("kind", [str, Path, Named, Journal], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("executor", [RetryingExecutor, VirtualTimeExecutor])
def test_a_journal_is_a_path_or_a_journal(
    tmp_path: Path, kind: Callable[[str], Any], executor: type[RetryingExecutor]
) -> None:
    """A directory that is not there is made, with all above it (J1)."""
    path = tmp_path / "var" / "calls"
    executor(1, journal=kind(str(path))).shutdown()
    assert path.is_dir()


@needs_modes
def test_a_directory_that_is_made_is_for_its_owner_only(tmp_path: Path) -> None:
    """What is in it is run (J3)."""
    assert 0o700 == Journal(tmp_path / "calls").directory.stat().st_mode & 0o777


def test_a_relative_path_stays_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the program goes to another directory (J1)."""
    monkeypatch.chdir(tmp_path)
    journal = Journal("calls")
    assert (tmp_path / "calls").resolve() == journal.directory
    assert f"Journal({str(journal.directory)!r})" == repr(journal)


@pytest.mark.parametrize("value", [b"calls", 7, True, ["calls"], Named(b"calls")])
def test_what_is_no_path_is_refused(value: Any) -> None:
    """By its type (A1)."""
    with pytest.raises(TypeError, match="journal must be a path of a directory, or a Journal, not"):
        RetryingExecutor(journal=value)


@pytest.mark.parametrize("value", ["", "  "])
def test_a_path_that_is_blank_is_refused(value: str) -> None:
    """It would be the directory that the program happens to be in (A1)."""
    with pytest.raises(ValueError, match="journal must be a path of a directory, not ''"):
        RetryingExecutor(journal=value)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"durability": "some"}, ValueError, "durability must be 'full' or 'process', not 'some'"),
        ({"max_crashes": 0}, ValueError, "max_crashes must be"),
        ({"max_crashes": 1.5}, TypeError, "max_crashes must be"),
        ({"adopts": 1}, TypeError, "adopts must be True or False"),
        ({"functions": note}, TypeError, "functions must be functions, or a mapping from names"),
        ({"functions": "note"}, TypeError, "functions must be functions, or a mapping from names"),
        ({"functions": {"note": 1}}, TypeError, "functions must be functions, or a mapping from names"),
        ({"functions": {1: note}}, TypeError, "functions must be a mapping from names"),
        ({"renamed": [note]}, TypeError, "renamed must be a mapping from names"),
        ({"renamed": {1: note}}, TypeError, "renamed must be a mapping from names"),
        ({"renamed": {"old": note}}, ValueError, "renamed must be .*'module.name', not 'old'"),
        ({"renamed": {".old": note}}, ValueError, "renamed must be .*'module.name', not '.old'"),
        ({"renamed": {"tasks:old": note}}, ValueError, "renamed must be .*'module.name', not 'tasks:old'"),
        ({"renamed": {"shop.tasks:old": note}}, ValueError, "'module.name', not 'shop.tasks:old'"),
        ({"renamed": {}, "functions": [note]}, ValueError, "renamed must not be given with functions"),
        ({"directories": 1}, TypeError, "directories"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """At once, and nothing is made (A1)."""
    with pytest.raises(error, match=message):
        Journal(tmp_path / "calls", **options)
    assert not (tmp_path / "calls").exists()


def test_an_asynchronous_generator_is_none_of_the_functions(tmp_path: Path) -> None:
    """Nobody would iterate over it (A1, K1)."""

    async def call() -> AsyncIterator[int]:
        yield 1  # pragma: no cover  # it is never called

    with pytest.raises(TypeError, match="must not be an asynchronous generator"):
        Journal(tmp_path, functions=[call])


def test_functions_go_by_their_names(tmp_path: Path) -> None:
    """Or by those that the program gives them (J3)."""
    assert {"journals.note": note, "journals.refuse": refuse} == _functions(
        Journal(tmp_path, functions=(fn for fn in (note, refuse)))
    )
    assert {"say": note} == _functions(Journal(tmp_path, functions={"say": note}))


def test_functions_without_names_of_their_own_need_some(tmp_path: Path) -> None:
    """Otherwise one would be run in place of another (A1, J3)."""
    unnamed = (lambda: 1), (lambda: 2)
    for functions in (unnamed, unnamed[:1], [partial(unnamed[0])]):
        with pytest.raises(ValueError, match=r"test_journal_options.*<lambda> has none: give a mapping from"):
            Journal(tmp_path, functions=functions)
    with pytest.raises(ValueError, match=r"several are journals\.note: give a mapping from names"):
        Journal(tmp_path, functions=[note, partial(note, 1)])
    assert {"journals.note": note} == _functions(Journal(tmp_path, functions=[note, note]))
    named = dict(zip("ab", unnamed, strict=True))
    assert named == _functions(Journal(tmp_path, functions=named))


def _functions(journal: Journal) -> dict[str, Any]:
    return journal._format._functions  # type: ignore[attr-defined]  # it is of those that have them


# -- directories -----------------------------------------------------------------------------------


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    """Nor can one be made below it (J6)."""
    path = tmp_path / "file"
    path.touch()
    for journal in (path, path / "calls"):
        with pytest.raises(ValueError, match="journal must be a directory, or where one can be made: "):
            RetryingExecutor(journal=journal)


@needs_modes
@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """They could have this process run anything (J3)."""
    tmp_path.chmod(mode)
    with pytest.raises(ValueError, match=rf"only its owner may write to, .* has mode {mode:o} \(chmod 700"):
        Journal(tmp_path)


@needs_users
def test_a_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless that is root, who can do anything anyway (J3)."""
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    if owner != 0:  # pragma: no cover  # depends on who runs the tests
        with pytest.raises(ValueError, match=r"journal must be a directory of this user: .* another"):
            Journal(tmp_path)
    else:  # pragma: no cover  # depends on who runs the tests
        assert tmp_path == Journal(tmp_path).directory


@needs_users
def test_whose_directory_it_is_is_asked_of_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is: that is not the user who runs this, nor root (J3)."""
    found = list(tmp_path.stat())
    found[4] = os.geteuid() + 1
    monkeypatch.setattr(Path, "stat", lambda self, **_: os.stat_result(found))
    with pytest.raises(ValueError, match=r"journal must be a directory of this user: .* is that of another"):
        directory.checked(tmp_path)


def test_a_directory_that_cannot_be_written_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the executor is made, not with the first call (J6)."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="that this process may write to"):
        Journal(tmp_path)


MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
23 22 0:21 / /proc rw shared:2 - proc proc rw
24 22 0:50 / /mnt/auto rw shared:3 - autofs systemd-1 rw
25 24 0:51 / /mnt/auto rw shared:4 master:1 - nfs4 server:/export rw
26 22 0:52 / /mnt/with\\040space rw - cifs //server/share rw
27 22 0:53 / /mnt/caf\u00e9 rw - smb3 //server/share rw
28 22 0:54 / /mnt/here rw - fuse.sshfs server: rw
29 28 0:55 / /mnt/here/local rw - tmpfs tmpfs rw
30 22 0:56 / /mnt/ntfs rw - fuse.ntfs-3g /dev/sdb rw
31 22 0:57 / /mnt/\ufffd\udcff rw - ext4 /dev/sdc rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/calls", "ext4"),
        ("/mnt/auto", "nfs4"),
        ("/mnt/auto/calls", "nfs4"),
        ("/mnt/automatic", "ext4"),
        ("/mnt/with space/calls", "cifs"),
        ("/mnt/caf\u00e9/calls", "smb3"),
        ("/mnt/here/calls", "fuse.sshfs"),
        ("/mnt/here/local/calls", "tmpfs"),
        ("/mnt/ntfs/calls", "fuse.ntfs-3g"),
    ],
)
def test_a_network_file_system_is_refused(
    path: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its locks cannot be relied on. What counts is what was mounted last at the deepest place (J6)."""
    mounts = tmp_path / "mountinfo"
    mounts.write_bytes(MOUNTS.encode("utf-8", "surrogateescape"))
    monkeypatch.setattr(directory, "MOUNTS", mounts)
    assert kind == directory.file_system_of(Path(path))
    monkeypatch.setattr(directory, "file_system_of", lambda _: kind)
    if kind in ("ext4", "tmpfs", "fuse.ntfs-3g"):
        assert tmp_path == Journal(tmp_path).directory
    else:
        with pytest.raises(ValueError, match=f"journal must be on a local disk, .* is {kind}"):
            Journal(tmp_path)


def test_where_the_system_does_not_say_any_directory_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only Linux tells of its mounts, and of its starts, in a file (H)."""

    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(directory, "MOUNTS", tmp_path / "mountinfo")
    monkeypatch.setattr(Path, "read_text", missing)
    assert "" == directory.file_system_of(tmp_path) == directory.boot_id()
    before = RetryingExecutor(1, journal=tmp_path)
    before.submit(note, 1).result()
    before.shutdown()
    assert partial(note, 1)() == 1
