"""What is on a disk after a power cut, told from the system calls of a program.

What was synced is there. Of what was not, any part may be: of each sector of 512 bytes what any of the
latest writes made of it, whatever the order of writes in the file and among files; of names that were made
or removed, any, until their directory is synced.
"""

from __future__ import annotations

import os
import random
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

CALLS = "openat,close,write,pwrite64,fsync,fdatasync,ftruncate,unlink,unlinkat,rename,renameat,renameat2"
"""Which system calls are looked at. The file that SQLite maps into memory is made anew after a power cut."""

SECTOR = 512

_WHOLE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)")
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (-?\d+)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


class _Call(NamedTuple):
    """A system call: between which lines it was made, and what it said and returned."""

    begun: int
    ended: int
    name: str
    texts: list[bytes]
    numbers: list[int]
    flags: str
    result: int


class _Change(NamedTuple):
    """What a call did: to the content of a file, or to a name in the directory."""

    begun: int
    ended: int
    file: int
    name: str  # of the file, for one that was made or removed
    content: bytes | None  # what was written
    at: int  # where; or to which length it was cut


def _calls(trace: Path) -> list[_Call]:
    begun: dict[str, tuple[int, str]] = {}
    calls = []
    for number, line in enumerate(trace.read_text("ascii").splitlines()):
        first = number
        if match := _BEGUN.match(line):
            begun[match[1]] = number, match[3]
            continue
        if match := _RESUMED.match(line):
            first, start = begun.pop(match[1])
            arguments = start + match[3]
        elif match := _WHOLE.match(line):
            arguments = match[3]
        else:  # the process ends
            continue
        texts = [bytes.fromhex(text.replace("\\x", "")) for text in _TEXT.findall(arguments)]
        flags = _TEXT.sub("", arguments)
        numbers = [int(part) for part in flags.split(", ") if part.isdigit()]
        calls.append(_Call(first, number, match[2], texts, numbers, flags, int(match[4])))
    # A number is free as soon as a call of close() has begun: another thread may get it before that returns.
    return sorted(calls, key=lambda call: call.begun if call.name == "close" else call.ended)


class Recording:
    """All that a program did to the files of one directory, which was empty at first, and wrote elsewhere.

    Args:
        trace: What ``strace -f -xx`` wrote.
        directory: The directory.
    """

    def __init__(self, trace: Path, directory: Path) -> None:
        self._content: dict[int, list[_Change]] = defaultdict(list)
        self._names: list[_Change] = []
        self._syncs: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self._said: dict[str, list[tuple[int, str]]] = defaultdict(list)
        open_files: dict[int, int | str] = {}
        files: dict[str, int] = {}
        for call in _calls(trace):
            if call.result < 0:
                continue
            at = call.numbers[0] if call.numbers else -1
            if call.name == "openat":
                path = os.fsdecode(call.texts[0])
                if path == str(directory):
                    open_files[call.result] = 0
                elif os.path.dirname(path) == str(directory) and not path.endswith("-shm"):
                    name = os.path.basename(path)
                    if name not in files:
                        files[name] = len(self._content) + 1
                        self._content[files[name]] = []
                        self._names.append(_Change(call.begun, call.ended, files[name], name, b"", 0))
                    open_files[call.result] = files[name]
                else:
                    open_files[call.result] = path
            elif call.name == "close":
                open_files.pop(at, None)
            elif call.name in ("fsync", "fdatasync"):
                file = open_files.get(at)
                if isinstance(file, int):
                    self._syncs[file].append((call.begun, call.ended))
            elif call.name in ("write", "pwrite64", "ftruncate"):
                file = open_files.get(at, "")
                text = call.texts[0] if call.texts else None
                if isinstance(file, int):
                    where = call.numbers[-1]
                    self._content[file].append(_Change(call.begun, call.ended, file, "", text, where))
                elif text is not None:
                    self._said[file].append((call.begun, text.decode("utf-8", "replace")))
            elif call.name == "unlink":
                path = os.fsdecode(call.texts[0])
                if os.path.dirname(path) == str(directory) and not path.endswith("-shm"):
                    name = os.path.basename(path)
                    self._names.append(_Change(call.begun, call.ended, files.pop(name), name, None, 0))
            else:
                assert not any(text.startswith(os.fsencode(directory)) for text in call.texts), call
        self.first = self._names[0].begun
        self.last = call.ended

    def said(self, path: Path, moment: int) -> str:
        """Return what was written to a file elsewhere until then, or was about to be."""
        return "".join(text for begun, text in self._said[str(path)] if begun <= moment)

    def _is_synced(self, change: _Change, file: int, moment: int) -> bool:
        return any(change.ended < begun and ended <= moment for begun, ended in self._syncs[file])

    def restore(self, moment: int, directory: Path, draw: random.Random) -> None:
        """Write into an empty directory what may be there after a power cut at that moment."""
        likelihood = draw.choice((0.0, 0.5, 0.9, 1.0))  # that something survives which was not synced
        files: dict[str, int] = {}
        for change in self._names:
            survives = self._is_synced(change, 0, moment) or draw.random() < likelihood
            if change.begun <= moment and survives:
                if change.content is None:
                    files.pop(change.name, None)
                else:
                    files[change.name] = change.file
        for name, file in files.items():
            (directory / name).write_bytes(self._content_at(file, moment, likelihood, draw))

    def _content_at(self, file: int, moment: int, likelihood: float, draw: random.Random) -> bytes:
        content = bytearray()
        lost: set[int] = set()  # sectors whose later writes are lost, too: they would contain those before
        for change in self._content[file]:
            if change.begun > moment:
                continue
            is_synced = self._is_synced(change, file, moment)
            if change.content is None:
                if is_synced or draw.random() < likelihood:
                    content = content[: change.at].ljust(change.at, b"\0")
                continue
            start, end = change.at, change.at + len(change.content)
            for sector in range(start // SECTOR, (end - 1) // SECTOR + 1):
                if not is_synced and (sector in lost or draw.random() >= likelihood):
                    lost.add(sector)
                    continue
                first, last = max(start, sector * SECTOR), min(end, (sector + 1) * SECTOR)
                if len(content) < last:
                    content.extend(bytes(last - len(content)))
                content[first:last] = change.content[first - start : last - start]
        return bytes(content)
