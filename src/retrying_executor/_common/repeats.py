"""How loud a repeated message is: one cause must not fill the log."""

from __future__ import annotations

import logging
import time
from itertools import count

_LOUD = 3
_QUIET = 60.0  # seconds
_MOST_KINDS = 1_000


class Repeats:
    """Chooses the level of a message by how many of its kind were logged.

    The first three of a kind are errors, then the tenth, the hundredth and so on, which say how many there
    were. The others are logged at ``DEBUG``. After 60 seconds without any, the count begins anew.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[object, ...], _Repeated] = {}

    def level(self, *kind: object) -> tuple[int, str]:
        """Count a message of *kind*; return its level, and what to add to it.

        Takes no lock, since a destructor may log, wherever it interrupts. Each step is atomic instead.
        """
        now = time.monotonic()
        repeated = self._seen.get(kind) or self._seen.setdefault(kind, _Repeated(now))
        if now - repeated.latest > _QUIET:
            repeated = self._seen[kind] = _Repeated(now)
        repeated.latest = now
        number = repeated.count()
        if len(self._seen) > _MOST_KINDS:
            self._forget_some()
        if number <= _LOUD:
            return logging.ERROR, ""
        return logging.ERROR if str(number).rstrip("0") == "1" else logging.DEBUG, f" ({number} times)"

    def _forget_some(self) -> None:
        """Forget the tenth of the kinds that have been quiet for longest."""
        kinds = sorted(self._seen.copy().items(), key=lambda item: item[1].latest)
        for kind, _ in kinds[: 1 + len(kinds) // 10]:
            self._seen.pop(kind, None)


class _Repeated:
    """How many messages of one kind were logged, and when the latest was."""

    __slots__ = ("count", "latest")

    def __init__(self, now: float) -> None:
        self.count = count(1).__next__
        self.latest = now
