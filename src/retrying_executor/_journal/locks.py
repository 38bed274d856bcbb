"""Locks on files: held by a process until it ends, however it ends.

With `flock` and not `fcntl`: the latter's locks are lost when the process closes any other descriptor of the
same file. The lock belongs to what was opened, so a forked child shares it: the child has to close its copy,
and those that a thread of the parent was just taking.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from retrying_executor._common.forks import after_fork_in_child

_taken: set[int] = set()
"""The descriptors of all locks of this process."""

if sys.platform == "win32":  # pragma: no cover  # no Windows here to run it on
    import msvcrt

    _AT = 1 << 30  # a byte beyond what is ever written: a locked one cannot be read by others

    def _try_lock(descriptor: int, *, is_shared: bool = False) -> bool:
        os.lseek(descriptor, _AT, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int, *, is_shared: bool = False) -> bool:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def take(path: Path) -> int | None:
    """Lock a file, which is made if it is not there.

    Returns:
        Its descriptor: closing it gives the lock back. ``None`` if another process, or another executor of
        this one, has it.

    Raises:
        OSError: If the file cannot be opened or locked.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
        _taken.add(descriptor)  # first: a fork in between would leave it locked in the child
        try:
            if not _try_lock(descriptor):
                give_back(descriptor)
                return None
            if _is_at(path, descriptor):
                return descriptor
        except BaseException:
            give_back(descriptor)
            raise
        # Its owner has deleted it since it was opened here: a lock on that says nothing.
        give_back(descriptor)


def give_back(descriptor: int) -> None:
    """Give a lock back."""
    _taken.discard(descriptor)
    os.close(descriptor)


def _forget_in_child() -> None:
    """In a forked child: the locks are the parent's, and must not outlive it here."""
    while _taken:
        with suppress(OSError):
            os.close(_taken.pop())


after_fork_in_child(_forget_in_child)


def is_taken(descriptor: int) -> bool:
    """Return whether a process has locked the file that is open here.

    If none has, the lock is kept from others until the descriptor is closed, which is to be soon. It is not
    kept from others that ask the same (but on Windows).
    """
    return not _try_lock(descriptor, is_shared=True)


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether that is still the file of that name."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def delete(path: Path, descriptor: int) -> None:
    """Delete a file that is locked, and give its lock back."""
    if sys.platform == "win32":  # pragma: no cover  # no Windows here to run it on
        give_back(descriptor)  # an open file cannot be deleted there
        with suppress(OSError):  # another process was faster, and has it now
            path.unlink()
        return
    with suppress(FileNotFoundError):
        path.unlink()
    give_back(descriptor)
