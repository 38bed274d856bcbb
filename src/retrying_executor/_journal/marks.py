"""What the calls of one file are doing, as far as their rows do not tell: kept in the lock file.

A mark is one record, written with one system call. A record stays as it is until its place is taken by
another call; it counts only if it is later than what the row says. Records of an earlier owner have another
*generation* than the database and do not count at all. Nor do those that are damaged: each has a checksum,
which the generation is part of, since those of an earlier owner are not all overwritten.
"""

from __future__ import annotations

import binascii
import errno
import math
import os
import struct
import sys
import threading
from itertools import count
from typing import NamedTuple

RUNNING, WAITS, DONE, IS_READ = 1, 2, 3, 4

_HEADER = struct.Struct("<8sqBq")
"""What kind of file it is, generation, whether the process ended in order, row that is being read."""
_MAGIC = b"retrying"
_RECORD = struct.Struct("<qiiiddd")
_SEAL = 4
"""How many bytes the checksum has that comes after each of these."""

_STRIDE = 64
"""Bytes from one record to the next; the header takes as many."""

_RESERVED = 64
"""For how many records room is made at once."""


class Mark(NamedTuple):
    """What one call was doing. Times are on the monotonic clock of the process that wrote it."""

    row: int
    state: int
    attempts: int
    postponed: int
    began_at: float
    due_at: float
    noted_at: float


class Marks:
    """The marks in one lock file.

    Args:
        descriptor: That of the file.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.RLock()  # reentrant for the sake of destructors and signal handlers
        self._places: dict[int, int] = {}
        self._free: list[int] = []
        self._new = count(1).__next__  # the header takes the first
        self._generation = 0
        self._room = 0  # for how many calls there is room in the file

    def start(self, generation: int) -> None:
        """Start with no marks."""
        self._generation = generation
        _write(self._descriptor, bytes(_STRIDE * (1 + _RESERVED)), 0)
        self._room = os.fstat(self._descriptor).st_size // _STRIDE - 1
        self._write_header(is_orderly=False)

    def reserve(self, calls: int) -> None:
        """See that there is room for so many calls, so that a full disk does not keep their marks out.

        Raises:
            OSError: If there is not.
        """
        with self._lock:
            while self._room < calls:
                _write(self._descriptor, bytes(_STRIDE * _RESERVED), _STRIDE * (1 + self._room))
                self._room += _RESERVED

    def reads(self, row: int) -> None:
        """A call is about to be read from its row, which may end the process; or no more, if *row* is 0.

        Raises:
            OSError: If it cannot be written.
        """
        self._write_header(is_orderly=False, row=row)

    def end_in_order(self) -> None:
        """Say that the calls which run were not what ended the process."""
        self._write_header(is_orderly=True)

    def _write_header(self, *, is_orderly: bool, row: int = 0) -> None:
        header = _HEADER.pack(_MAGIC, self._generation, is_orderly, row)
        with self._lock:
            _write(self._descriptor, header + _seal(header, 0), 0)

    def put(self, mark: Mark) -> None:
        """Write what a call is doing.

        Raises:
            OSError: If it cannot be written.
        """
        row, state, *rest = mark
        with self._lock:
            place = self._places.get(row)
            if place is None:
                place = self._places[row] = self._free.pop() if self._free else self._new()
            record = _RECORD.pack(row, state, *rest)
            _write(self._descriptor, record + _seal(record, self._generation), place * _STRIDE)

    def end(self) -> None:
        """The descriptor is about to be closed. Its number may be that of any file then: write no more."""
        with self._lock:
            self._descriptor = -1

    def drop(self, row: int) -> None:
        """The row of a call tells it all now: its place is for another."""
        with self._lock:
            place = self._places.pop(row, None)
            if place is not None:  # pragma: no branch  # each change has its mark
                self._free.append(place)


def read(descriptor: int) -> tuple[int | None, bool, list[Mark]]:
    """Return the generation of a lock file, whether its owner ended in order, and its marks."""
    size = os.fstat(descriptor).st_size
    content = _read(descriptor, size)
    if not content.startswith(_MAGIC) or not _is_whole(content, _HEADER, 0, 0):
        return None, False, []
    _, generation, is_orderly, row = _HEADER.unpack_from(content)
    marks = [
        Mark(*_RECORD.unpack_from(content, offset))
        for offset in range(_STRIDE, len(content), _STRIDE)
        if _is_whole(content, _RECORD, offset, generation)
    ]
    if row:
        marks.append(Mark(row, IS_READ, 0, 0, math.nan, math.nan, 0.0))
    return generation, bool(is_orderly), marks


def are_foreign(descriptor: int) -> bool:
    """Return whether a lock file is none, but of another program: something else stands in it."""
    start = _read(descriptor, len(_MAGIC))
    return start not in (b"", bytes(len(_MAGIC)), _MAGIC)


def _seal(content: bytes, generation: int) -> bytes:
    """Return the checksum of what is written under a generation."""
    return binascii.crc32(content, generation & 0xFFFFFFFF).to_bytes(_SEAL, "little")


def _is_whole(content: bytes, kind: struct.Struct, offset: int, generation: int) -> bool:
    """Return whether something was written there, under that generation, and is as it was."""
    end = offset + kind.size
    return content[end : end + _SEAL] == _seal(content[offset:end], generation)


if sys.platform == "win32":  # pragma: no cover  # no Windows here to run it on
    _seeks = threading.RLock()  # there, to seek and to write are two steps

    def _write(descriptor: int, content: bytes, offset: int) -> None:
        with _seeks:
            os.lseek(descriptor, offset, os.SEEK_SET)
            os.write(descriptor, content)

    def _read(descriptor: int, size: int) -> bytes:
        with _seeks:
            os.lseek(descriptor, 0, os.SEEK_SET)
            return os.read(descriptor, size)

else:

    def _write(descriptor: int, content: bytes, offset: int) -> None:
        if os.pwrite(descriptor, content, offset) < len(content):  # there was no room for the rest
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _read(descriptor: int, size: int) -> bytes:
        return os.pread(descriptor, size, 0)
