"""What ``journal list`` and ``journal show`` say of a call, for people and for programs."""

from __future__ import annotations

import json
import time

from retrying_executor._journal.description import describe
from retrying_executor._journal.inspection import IN_BACKOFF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrying_executor._journal.inspection import Call, File

_MOST_TEXT = 200  # characters of an error or an argument in a line

HEAD = f"  {'KEY':36}  {'STATUS':10}  ATTEMPTS      AGE  CALL"
"""What stands above the lines of calls."""


def fields(file: File, call: Call) -> dict[str, object]:
    """Return what there is to say of a call, but for what it is given; times are seconds since 1970."""
    row = call.row
    return {
        "key": call.key,
        "function": row.function,
        "status": call.status,
        "label": row.label,
        "upstreams": row.upstreams,
        "attempts": row.attempts,
        "not_counted": row.postponed,
        "crashes": row.crashes,
        "accepted_at": row.accepted,
        "due_at": call.due_at,
        "error": row.error,
        "process": file.process,
        "is_alive": file.is_alive,
        "file": str(file.path),
    }


def line(call: Call) -> str:
    """Return a call in one line."""
    row = call.row
    about = row.function if row.label is None else f"{row.function} [{row.label}]"
    if row.upstreams is not None:
        about += f" -> {row.upstreams}"
    if call.status == IN_BACKOFF and call.due_at is not None:
        about += f", due in {_span(call.due_at - time.time())}"
    if row.error is not None:
        about += f": {_cut(_headline(row.error))}"
    age = _span(time.time() - row.accepted)
    return f"  {safe(call.key):36}  {safe(call.status):10}  {row.attempts:8}  {age:>7}  {safe(about)}"


def process(file: File) -> str:
    """Return which process has a file, or had."""
    return f"process {safe(file.process)} ({'alive' if file.is_alive else 'gone'})"


def calls(number: int) -> str:
    """Return so many calls in words."""
    return f"{number} call{'' if number == 1 else 's'}"


def _span(seconds: float) -> str:
    """Return a duration in its largest unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def _headline(error: str) -> str:
    """Return the line of an error that says what it is: in a traceback, the one below the last frame."""
    lines = error.splitlines() or [""]
    if error.startswith("  + "):  # of a group
        lines = [line[4:] for line in lines if line.startswith("  | ")]
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    below = lines[frames[-1] + 1 :] if frames else lines
    return next((line for line in below if line.strip() and not line.startswith(" ")), error.strip())


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}... ({len(text)} characters)"


def safe(text: str) -> str:
    """Return *text* without what a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _said(file: File, call: Call) -> Iterator[tuple[str, str]]:
    """Yield what is to be said of a call, line by line."""
    row = call.row
    yield "key", call.key
    yield "function", row.function
    yield "status", call.status
    if row.label is not None:
        yield "label", row.label
    if row.upstreams is not None:
        yield "upstreams", row.upstreams
    are = "is" if row.postponed == 1 else "are"
    not_counted = f", of which {row.postponed} {are} not counted" if row.postponed else ""
    yield "attempts", f"{row.attempts}{not_counted}"
    if row.crashes:
        yield "crashes", f"its process died {row.crashes} times while it ran"
    yield "accepted", _instant(row.accepted)
    if call.due_at is not None:
        yield "due", _instant(call.due_at)
    yield "file", f"{file.path}, of {process(file)}"


def _instant(seconds: float) -> str:
    """Return a time as people write it, and how far it is from now."""
    ahead = seconds - time.time()
    try:
        text = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):  # of a year that no clock shows
        text = f"{seconds:g} s"
    return f"{text} ({f'in {_span(ahead)}' if ahead > 0 else f'{_span(-ahead)} ago'})"


def in_full(file: File, call: Call) -> Iterator[str]:
    """Yield all that there is to say of a call, line by line."""
    for name, value in _said(file, call):
        yield f"{name + ':':10} {safe(value)}"
    what = describe(call.row.payload)
    why_not = f", which cannot be shown: {what.why_not}" if what.why_not else ""
    yield f"{'given:':10} {what.size} bytes of {what.form}{safe(why_not)}"
    for which, value in (*enumerate(what.args, 1), *what.kwargs.items()):
        text = value if what.form == "pickle" else json.dumps(value)
        yield f"  {safe(str(which))}: {safe(_cut(text))}"
    if call.row.error is not None:
        yield "error:"
        yield from (f"  {safe(text)}" for text in call.row.error.splitlines())
