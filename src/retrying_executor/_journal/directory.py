"""The directory of a journal: whether it may be one, and which files in it belong to nobody any more."""

from __future__ import annotations

import os
import re
import secrets
import stat
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

from retrying_executor._common import log
from retrying_executor._journal import locks, marks
from retrying_executor._journal.database import (
    VIRTUAL,
    Database,
    EmptyError,
    NewerError,
    Owner,
    is_corruption,
    now,
)
from retrying_executor._journal.store import BESIDE, Store, delete_database, set_database_aside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from retrying_executor._common.values import Clock

_REMOTE = ("afs", "beegfs", "ceph", "cifs", "davfs", "gfs2", "glusterfs", "lustre", "nfs", "ocfs2", "smb")
"""What the kinds of network file systems begin with."""

_REMOTE_FUSE = ("cifs", "gcsfuse", "glusterfs", "rclone", "s3", "smb", "sshfs", "davfs", "goofys", "blobfuse")

MOUNTS = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(rb"\\([0-3][0-7]{2})")


def boot_id() -> str:
    """Return what tells one start of the machine from another; empty where the system does not say."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return ""


def checked(path: Path) -> Path:
    """Make the directory if it is not there, and return its path.

    Raises:
        ValueError: If it cannot be a journal: it is no directory, others may write to it, it is on a network
            file system, or this process may not write to it.
    """
    try:
        path = path.resolve()
        _make(path)
        about = path.stat()
    except OSError as error:
        raise ValueError(f"journal must be a directory, or where one can be made: {error}") from error
    if sys.platform != "win32":  # pragma: no branch  # no Windows here to run it on
        if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError(
                f"journal must be a directory that only its owner may write to, since what is in it is run:"
                f" {str(path)!r} has mode {stat.S_IMODE(about.st_mode):o} (chmod 700 makes it one)"
            )
        if about.st_uid not in (os.geteuid(), 0):
            raise ValueError(f"journal must be a directory of this user: {str(path)!r} is that of another")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise ValueError(f"journal must be a directory that this process may write to: {str(path)!r}")
    kind = file_system_of(path)
    if kind.startswith(_REMOTE) or (kind.startswith("fuse.") and kind[5:].startswith(_REMOTE_FUSE)):
        raise ValueError(
            f"journal must be on a local disk, whose locks can be relied on: {str(path)!r} is {kind}"
        )
    return path


def _make(path: Path) -> None:
    """Make a directory, if it is not there, and those above it, so that they survive a power cut."""
    if path.is_dir():
        return
    if not path.parent.exists():
        _make(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    if sys.platform != "win32":  # pragma: no branch  # where directories cannot be opened
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_system_of(path: Path) -> str:
    """Return the kind of file system that a directory is on; empty where the system does not say."""
    try:
        mounts = MOUNTS.read_bytes()
    except OSError:
        return ""
    depth, kind = 0, b""
    for line in mounts.splitlines():
        mounted, _, rest = line.partition(b" - ")
        at = Path(os.fsdecode(_ESCAPED.sub(_unescaped, mounted.split()[4])))
        # What was mounted last hides what was there before: an automount has two lines.
        if (at == path or at in path.parents) and len(at.parts) >= depth:
            depth, kind = len(at.parts), rest.split()[0]
    return kind.decode()


def _unescaped(escaped: re.Match[bytes]) -> bytes:
    return bytes([int(escaped[1], 8)])


def this_process() -> str:
    """Return what tells people which process has a file."""
    return str(os.getpid())


class Directory:
    """A directory with the files of a journal.

    Args:
        path: That of a directory that was checked.
        clock: What tells the time.
        is_synced: Whether accepted calls survive a power cut.
        max_crashes: How many times a call may be running when its process dies, before it is set aside.
    """

    def __init__(self, path: Path, clock: Clock, *, is_synced: bool, max_crashes: int) -> None:
        self.path = path
        self._clock = clock
        self._boot = boot_id() if clock is time else VIRTUAL
        self._is_synced = is_synced
        self._max_crashes = max_crashes
        self.busy = threading.RLock()
        """Held by a thread in SQLite with a file that no executor has: forks wait for it."""
        self._untold: deque[Callable[[], None]] = deque()  # for the log, when nothing is locked any more
        self._left_alone: set[Path] = set()  # files of which the log has told
        self._changed_at: dict[Path, int] = {}  # of files in which no call waits

    def create(self) -> Store:
        """Make a new file, and lock it.

        Raises:
            OSError, sqlite3.Error: If that is impossible.
        """
        while True:
            lock_path = self.path / f"{uuid4().hex}.lock"
            descriptor = locks.take(lock_path)
            if descriptor is not None:  # pragma: no branch  # another may look whether it is abandoned
                break
        path = lock_path.with_suffix(".db")
        owner = Owner(secrets.randbits(62), uuid4(), this_process())
        database = None
        with self.busy:
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
                database = Database.create(path, owner.generation, owner.name, owner.keys)
                return self._store(lock_path, descriptor, path, database, owner)
            except BaseException:
                if database is not None:
                    database.close()
                delete_database(path)
                locks.delete(lock_path, descriptor)
                raise

    def _store(self, lock_path: Path, descriptor: int, path: Path, database: Database, owner: Owner) -> Store:
        return Store(
            lock_path, descriptor, path, database, owner, self._clock, self._boot, is_synced=self._is_synced
        )

    def stems(self) -> list[Path]:
        """Return the paths of all files of the journal, without endings, the oldest first."""
        found: dict[Path, float] = {}
        for path in sorted(self.path.iterdir()):
            is_ours = path.name.count(".") == 1  # what has more is of another program, or was set aside
            if is_ours and path.suffix in (".db", ".lock", *(f".db{ending}" for ending in BESIDE)):
                with suppress(OSError):  # it is gone, or a link to itself
                    found.setdefault(path.with_suffix(""), path.stat().st_mtime)
        return sorted(found, key=found.__getitem__)

    def adopt(self, own: set[Path]) -> Iterator[Store]:
        """Yield the files of processes that are gone, which have calls that wait; delete those without any.

        Args:
            own: The paths of files that this executor has, without endings.
        """
        try:
            stems = self.stems()
        except OSError as error:  # somebody has taken the directory away
            log.journal_left_alone(self.path, str(error))
            return
        for stem in stems:
            if stem in own or self._is_known(stem):
                continue
            lock_path, path = stem.with_suffix(".lock"), stem.with_suffix(".db")
            try:
                descriptor = locks.take(lock_path)
                with self.busy:
                    store = None if descriptor is None else self._take(lock_path, descriptor, path)
            except OSError as error:
                self._leave(path, str(error))
                store = None
            self._tell()
            if store is not None:
                yield store

    def _tell(self) -> None:
        """Log what has happened to files. Called without a lock."""
        while self._untold:
            self._untold.popleft()()

    def _take(self, lock_path: Path, descriptor: int, path: Path) -> Store | None:
        """Go on with a file that is locked.

        Returns:
            ``None`` if there is nothing to go on with: then it is unlocked again.
        """
        database, store, waiting = None, None, 0
        try:
            database = Database(path)
            store, waiting = self._take_over(lock_path, descriptor, path, database)
        except EmptyError:
            delete_database(path)
            locks.delete(lock_path, descriptor)
            return None
        except NewerError as error:
            self._leave(path, str(error))
        except Exception as error:
            if not path.exists():  # its owner died, or was cut off from power, when it had deleted some files
                _delete_rest(lock_path, descriptor, path)
                return None
            if is_corruption(error):
                if database is not None:
                    database.close()
                set_database_aside(path)
                self._untold.append(partial(log.journal_damaged, path, error))
                locks.delete(lock_path, descriptor)
                return None
            self._leave(path, str(error))
        finally:
            if store is None and database is not None:
                database.close()
        if store is None:
            locks.give_back(descriptor)
        elif not waiting:
            store.close()
            with suppress(FileNotFoundError):
                self._changed_at[path.with_suffix("")] = path.stat().st_mtime_ns
            return None
        return store

    def _take_over(
        self, lock_path: Path, descriptor: int, path: Path, database: Database
    ) -> tuple[Store, int]:
        """Have what is in a file; return it, and how many calls wait there."""
        store = self._brought_up_to_date(lock_path, descriptor, path, database, this_process())
        return store, database.count_waiting()

    def take(self, stem: Path) -> Store | None:
        """Return a file that no process has, whatever is in it, brought up to date, for work by hand.

        It keeps the name of the process that it is of. ``None`` if another process has it, or if it is gone.

        Raises:
            OSError, sqlite3.Error, NewerError, EmptyError: If it cannot be read. Then it is left as it is.
        """
        lock_path, path = stem.with_suffix(".lock"), stem.with_suffix(".db")
        descriptor = locks.take(lock_path)
        if descriptor is None:
            return None
        if not path.exists():  # its owner was cut off from power, perhaps, when it had deleted some files
            _delete_rest(lock_path, descriptor, path)
            return None
        database = None
        try:
            database = Database(path)
            return self._brought_up_to_date(lock_path, descriptor, path, database, database.owner().name)
        except BaseException:
            if database is not None:
                database.close()
            locks.give_back(descriptor)
            raise
        finally:
            self._tell()

    def _brought_up_to_date(
        self, lock_path: Path, descriptor: int, path: Path, database: Database, name: str
    ) -> Store:
        before = database.owner()
        generation, is_orderly, left = marks.read(descriptor)
        owner = Owner(secrets.randbits(62), before.keys, name)
        aside = database.take_over(
            left if generation == before.generation else [],
            now(self._boot, self._clock.monotonic()),
            owner=owner,
            is_orderly=is_orderly,
            max_crashes=self._max_crashes,
        )
        for function in aside:
            self._untold.append(partial(log.journal_set_aside, function, self._max_crashes, self.path))
        return self._store(lock_path, descriptor, path, database, owner)

    def _is_known(self, stem: Path) -> bool:
        """Return whether a file has only calls that failed, as the last time."""
        try:
            return self._changed_at.get(stem) == stem.with_suffix(".db").stat().st_mtime_ns
        except FileNotFoundError:
            return False

    def _leave(self, path: Path, why: str) -> None:
        """A file cannot be read now: leave it for another version, for people, or for the next look."""
        if path not in self._left_alone:
            self._left_alone.add(path)
            self._untold.append(partial(log.journal_left_alone, path, why))


def _delete_rest(lock_path: Path, descriptor: int, path: Path) -> None:
    """Delete what is left of a file without a database, and give its lock back.

    Programs have files of other kinds whose names end like that, too: these are left alone.
    """
    if marks.are_foreign(descriptor):
        locks.give_back(descriptor)
    else:
        delete_database(path)
        locks.delete(lock_path, descriptor)
