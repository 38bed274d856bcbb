"""Record what a command shows in a terminal, as a picture that moves: here, the demonstration.

The command runs in a pseudo-terminal. What it writes is followed as a terminal would, and drawn as SVG: some
moments of it, one after the other, or where nothing may move the fullest one. All figures are of that run.

``--write`` records it anew. ``--check`` fails if the demonstration shows something else by now, apart from
numbers.
"""

# ruff: noqa: D107, T201  # constructors are described by their classes; a command speaks by printing

from __future__ import annotations

import argparse
import html
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, TypeAlias

PICTURE = Path(__file__).with_suffix(".svg")
COMMAND = [sys.executable, "-m", "retrying_executor"]
BRIEF = ["--calls", "40", "--workers", "4", "--outage", "0.3"]

TOKEN = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")
MOMENTS = 40  # drawn
PAUSE = 0.3  # the share of the time for which the last one is shown
WIDTH, HEIGHT, MARGIN = 8.4, 18, 12  # of a character and of the rim, where the font has 14 units
FONTS = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace'
GROUND, INK = "#1d232a", "#d5dae0"
COLOURS = ("#4d5560", "#e5666f", "#7fc67c", "#d9b45b", "#6ea8dc", "#c58fd3", "#62bfc1", "#d5dae0")


# -- the terminal ----------------------------------------------------------------------------------


class Style(NamedTuple):
    """How a character looks."""

    colour: str = INK
    is_bold: bool = False


Row: TypeAlias = list[tuple[str, Style]]
Shown: TypeAlias = tuple[tuple[tuple[str, Style], ...], ...]
"""The characters of each row."""


class Screen:
    """A terminal, as far as rich and the demonstration use one. Anything else is an error."""

    def __init__(self) -> None:
        self._rows: list[Row] = [[]]
        self._row = self._column = 0
        self._style = Style()

    def show(self, text: str) -> None:
        """Do what a terminal does when it gets a text, of which no control sequence is cut in two."""
        end = 0
        for match in TOKEN.finditer(text):
            assert match.start() == end, repr(text[end:])
            end = match.end()
            arguments, code, control, plain = match.groups()
            if plain:
                self._write(plain)
            elif control == "\n":
                self._row += 1
                self._rows += [[] for _ in range(self._row - len(self._rows) + 1)]
            elif control == "\r":
                self._column = 0
            else:
                self._obey(arguments, code)
        assert end == len(text), repr(text[end:])

    def shown(self) -> Shown:
        """Return what is shown now."""
        return tuple(map(tuple, self._rows))

    def _write(self, text: str) -> None:
        row, end = self._rows[self._row], self._column + len(text)
        row += [(" ", Style())] * (end - len(row))
        row[self._column : end] = [(character, self._style) for character in text]
        self._column = end

    def _obey(self, arguments: str, code: str) -> None:
        if code == "m":
            self._paint([int(number or 0) for number in arguments.split(";")])
        elif code == "K" and arguments == "2":
            self._rows[self._row] = []
        elif code == "A":
            self._row -= int(arguments or 1)
        else:
            assert (arguments, code) in (("?25", "l"), ("?25", "h")), (
                arguments,
                code,
            )  # hide, show the cursor

    def _paint(self, numbers: list[int]) -> None:
        while numbers:
            number = numbers.pop(0)
            if number == 0:
                self._style = Style()
            elif number == 1:
                self._style = self._style._replace(is_bold=True)
            elif number == 38:
                assert numbers.pop(0) == 5
                self._style = self._style._replace(colour=_one_of_256(numbers.pop(0)))
            else:
                assert 30 <= number <= 37, number
                self._style = self._style._replace(colour=COLOURS[number - 30])


def _one_of_256(number: int) -> str:
    if number < 16:
        return COLOURS[number % 8]
    if number < 232:
        cube = (number - 16) // 36, (number - 16) // 6 % 6, (number - 16) % 6
        return "#" + "".join(f"{55 + 40 * part if part else 0:02x}" for part in cube)
    return "#" + 3 * f"{10 * (number - 232) + 8:02x}"


def record(command: Sequence[str], columns: int, prompt: str) -> list[tuple[float, Shown]]:
    """Run a command in a terminal; return what was shown when, in seconds.

    Args:
        command: The command.
        columns: The width of the terminal.
        prompt: What it shows first: how the command is called.
    """
    import pty  # not on Windows

    screen = Screen()
    screen.show(f"$ {prompt}\n\r")
    inside, outside = pty.openpty()[::-1]
    unwanted = ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    environment |= {"TERM": "xterm-256color", "COLUMNS": str(columns), "PYTHONIOENCODING": "utf-8"}
    began_at = time.monotonic()
    shown = [(0.0, screen.shown())]
    with subprocess.Popen(command, stdout=inside, stderr=inside, env=environment) as process:
        os.close(inside)
        unread = b""
        while read := _read(outside):
            unread += read
            complete = unread[: _length(unread)]
            screen.show(complete.decode("utf-8"))
            unread = unread[len(complete) :]
            shown.append((time.monotonic() - began_at, screen.shown()))
    os.close(outside)
    assert process.returncode == 0, _text(shown[-1][1])
    return shown


def _read(end: int) -> bytes:
    try:
        return os.read(end, 65536)
    except OSError:  # how Linux says that there is no other end any more
        return b""


def _length(read: bytes) -> int:
    """Return how many of the bytes can be shown: not the first ones of a character or control sequence."""
    cut = re.search(rb"(\x1b(\[[?\d;]*)?|[\xc0-\xff][\x80-\xbf]{0,2})$", read)
    if cut is None or (not cut[0].startswith(b"\x1b") and _is_whole(cut[0])):
        return len(read)
    return cut.start()


def _is_whole(character: bytes) -> bool:
    try:
        return bool(character.decode("utf-8"))
    except UnicodeDecodeError:
        return False


# -- the picture -----------------------------------------------------------------------------------


def moments(shown: Sequence[tuple[float, Shown]], count: int = MOMENTS) -> tuple[list[Shown], float]:
    """Return what was shown at so many moments, the last one included, and how long it all took."""
    took = shown[-1][0]
    found, index = [], 0
    for number in range(count):
        while index + 1 < len(shown) and shown[index + 1][0] <= took * number / (count - 1):
            index += 1
        found.append(shown[index][1])
    return found, took


def draw(shown: Sequence[tuple[float, Shown]], path: Path, columns: int, title: str) -> None:
    """Draw what was shown, as a picture that moves where it may; it needs nothing from elsewhere."""
    frames, took = moments(shown)
    fullest = max(range(len(frames)), key=lambda number: (len(_text(frames[number])), number))
    text = _text(frames[-1])
    frames = [_trimmed(frame) for frame in frames]
    height = max(map(len, frames)) * HEIGHT + 2 * MARGIN
    width = round(columns * WIDTH + 2 * MARGIN)
    rows = [[_row(frame, y) for y in range(max(map(len, frames)))] for frame in frames]
    is_still = [len({frame[y] for frame in rows}) == 1 for y in range(len(rows[0]))]
    still = "".join(row for row, is_it in zip(rows[0], is_still, strict=True) if is_it)
    film = ""
    for number, frame in enumerate(rows):
        moving = "".join(row for row, is_it in zip(frame, is_still, strict=True) if not is_it)
        film += f'<g transform="translate({number * width})">{moving}</g>\n'
    end = (len(frames) - 1) * width
    pause = 100 - round(100 * PAUSE)
    path.write_text(
        f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" \
width="{width}" height="{height}" role="img" aria-labelledby="title text">
<title id="title">{html.escape(title)}</title>
<desc id="text">{html.escape(text)}</desc>
<style>
svg {{ font: 14px {FONTS}; fill: {INK} }}
.film {{ animation: film {took / (1 - PAUSE):.0f}s steps({len(frames) - 1}) infinite }}
@keyframes film {{ 0% {{ transform: translateX(0) }} {pause}%, 100% {{ transform: translateX({-end}px) }} }}
@media (prefers-reduced-motion: reduce) {{ .film {{ animation: none }} }}
</style>
<rect width="{width}" height="{height}" rx="8" fill="{GROUND}"/>
{still}
<g class="film" transform="translate({-fullest * width})">
{film}</g>
</svg>
""",
        encoding="utf-8",
    )


def _trimmed(frame: Shown) -> Shown:
    """Return a frame without the empty rows at its end."""
    rows = list(frame)
    while rows and not "".join(character for character, _ in rows[-1]).strip():
        rows.pop()
    return tuple(rows)


def _row(frame: Shown, y: int) -> str:
    """Return the elements of a row; nothing for an empty one."""
    row = frame[y] if y < len(frame) else ()
    spans, x = "", 0
    for style, group in groupby(row, lambda cell: cell[1]):
        piece = "".join(character for character, _ in group)
        start, x = x, x + len(piece)
        if piece := piece.rstrip():
            indent = len(piece) - len(piece.lstrip())
            look = f' fill="{style.colour}"' if style.colour != INK else ""
            look += ' font-weight="bold"' if style.is_bold else ""
            at = MARGIN + (start + indent) * WIDTH, MARGIN + y * HEIGHT + 13
            length = (len(piece) - indent) * WIDTH  # whatever the font, columns stay in line
            spans += f'<text x="{at[0]:.5g}" y="{at[1]}" textLength="{length:.5g}"{look}>'
            words = piece.lstrip().replace("  ", 2 * "\N{NO-BREAK SPACE}")  # or they would be one
            spans += f"{html.escape(words, quote=False)}</text>"
    return spans


def _text(frame: Shown) -> str:
    """Return what is shown, without its look."""
    rows = ("".join(character for character, _ in row).rstrip() for row in _trimmed(frame))
    return "\n".join(rows)


def shape(text: str) -> list[str]:
    """Return the lines of a text without what differs from run to run: numbers, and the width of columns."""
    return [re.sub(r"\d+(\.\d+)?", "0", re.sub(r" +", " ", line)) for line in text.splitlines()]


def shape_of_picture(path: Path) -> list[str]:
    """Return the shape of what a picture shows last."""
    match = re.search(r"<desc[^>]*>(.*)</desc>", path.read_text("utf-8"), re.DOTALL)
    assert match is not None, path
    return shape(html.unescape(match[1]))


def run(
    record_it: Callable[[bool], list[tuple[float, Shown]]], path: Path, columns: int, title: str, doc: str
) -> None:
    """Run the command of a picture.

    Args:
        record_it: Records what it shows; given whether a brief run will do.
        path: Where the picture is.
        columns: How wide the terminal is.
        title: What the picture shows.
        doc: What the command does.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="draw the picture")
    parser.add_argument("--check", action="store_true", help="fail if the picture shows something else")
    options = parser.parse_args()
    shown = record_it(not options.write)
    print(_text(shown[-1][1]))
    if options.write:
        draw(shown, path, columns, title)
    if options.check and shape_of_picture(path) != shape(_text(shown[-1][1])):
        raise SystemExit(f"{path.name} shows something else: --write, and look at it")


def main() -> None:
    """Run the command."""

    def record_it(is_brief: bool) -> list[tuple[float, Shown]]:
        return record([*COMMAND, *(BRIEF if is_brief else ())], 80, "python -m retrying_executor")

    title = "A terminal: webhooks are delivered through both executors while the service is down for a while"
    run(record_it, PICTURE, 80, title, __doc__)


if __name__ == "__main__":
    main()
