"""A call as it is on disk, where anything may be damaged."""

from __future__ import annotations

import math
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_LARGEST = 1 << 30
"""How large a count may be; a mark has room for twice as much."""


class Row(NamedTuple):
    """A call as it is on disk.

    *accepted* is when it was submitted, on the wall clock. *key* is ``None`` if it follows from the row.
    *damage* says what of it cannot be what was written; the values there do no harm.
    """

    row: int
    status: str
    function: str
    key: str | None
    label: str | None
    upstreams: str | None
    payload: bytes
    accepted: float
    submitted: float
    attempts: int
    postponed: int
    crashes: int
    began: float | None
    due: float | None
    noted: float
    error: str | None
    damage: str | None = None


def row_of(columns: tuple[Any, ...]) -> Row:
    """Return a call of what was read of it."""
    wrong = [name for name, value in zip(_COLUMNS, columns, strict=True) if not _COLUMNS[name][0](value)]
    if not wrong:
        return Row(*columns)
    damage = f"its row is damaged: {', '.join(wrong)}"
    harmless: dict[str, Any] = {name: _COLUMNS[name][1] for name in wrong}
    return Row(*columns)._replace(**{**harmless, "error": damage, "damage": damage})


def is_time(value: object) -> bool:
    """Return whether something that was read is a number of seconds."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def _is_time_or_none(value: object) -> bool:
    return value is None or is_time(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= _LARGEST


def _is_number(value: object) -> bool:
    return isinstance(value, int)


def _is_bytes(value: object) -> bool:
    return isinstance(value, bytes)


_COLUMNS: dict[str, tuple[Callable[[object], bool], object]] = {
    "row": (_is_number, 0),
    "status": (_is_text, "damaged"),
    "function": (_is_text, "?"),
    "key": (_is_text_or_none, None),
    "label": (_is_text_or_none, None),
    "upstreams": (_is_text_or_none, None),
    "payload": (_is_bytes, b""),
    "accepted": (is_time, 0.0),
    "submitted": (is_time, 0.0),
    "attempts": (_is_count, 0),
    "postponed": (_is_count, 0),
    "crashes": (_is_count, 0),
    "began": (_is_time_or_none, None),
    "due": (_is_time_or_none, None),
    "noted": (is_time, 0.0),
    "error": (_is_text_or_none, None),
}
"""What each column may have, and a value that does no harm."""

COLUMNS = ", ".join(_COLUMNS)
"""Their names, for a query."""
