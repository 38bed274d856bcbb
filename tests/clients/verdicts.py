"""What tests of verdicts share: a row says how a service answers, and what has to be read off that."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

import pytest

from answering import Server
from retrying_executor import NotNow, retry_after, transient

RETRY, FINAL, NOT_NOW = "retry", "final", "not now"
AGAIN = (RETRY, NOT_NOW)
"""Where it does not matter whether the attempt counts as a failure: there has to be another one."""

ANY = "anything"
"""Whatever `retry_after` says."""

Ask = Callable[[str], object]


class Row(NamedTuple):
    """An answer of a service, and what an exception made of it means."""

    name: str
    status: int
    headers: Mapping[str, str | Callable[[], str]]
    body: object
    """Bytes, or what becomes JSON, or a function that returns it."""
    verdict: str | tuple[str, ...]
    after: object = None
    """Seconds, a range of them, `None`, `ANY`, or a tuple of what may be said."""


def library(name: str) -> Any:
    """Import a client, or skip the test. What warnings that gives is no affair of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed", exc_type=ImportError)


def each(clients: Iterable[Ask], *tables: Iterable[Row]) -> pytest.MarkDecorator:
    """Run a test for each row, with each client."""
    rows = [row for table in tables for row in table]
    params = [
        pytest.param(ask, row, id=f"{ask.__name__.removeprefix('ask_')}-{row.name}")  # type: ignore[attr-defined]
        for ask in clients
        for row in rows
    ]
    return pytest.mark.parametrize(("ask", "row"), params)


def raised(ask: Callable[..., object], /, *args: object, **kwargs: object) -> Exception:
    """Return what a call raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception) as caught:  # noqa: PT011  # each client raises its own
            ask(*args, **kwargs)
    return caught.value


def meaning(exception: BaseException) -> str:
    """Return what `transient` says, in a word."""
    answer = transient(exception)
    return NOT_NOW if isinstance(answer, NotNow) else RETRY if answer else FINAL


def check(exception: BaseException, verdict: str | tuple[str, ...], after: object = None) -> None:
    """Compare what is read off an exception with what it means."""
    verdicts = verdict if isinstance(verdict, tuple) else (verdict,)
    afters = after if isinstance(after, tuple) else (after,)
    seconds = retry_after(exception)
    assert (meaning(exception) in verdicts, True) == (
        True,
        ANY in afters or any(_is_about(expected, seconds) for expected in afters),
    ), f"{exception!r}: {meaning(exception)}, after {seconds}; expected: {verdict}, after {after}"


def check_row(server: Server, ask: Ask, row: Row) -> None:
    """Let the server answer as the row says, and a client raise what it makes of that."""
    body = row.body() if callable(row.body) else row.body
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {name: value() if callable(value) else value for name, value in row.headers.items()}
    server.answer(row.status, headers, body)
    check(raised(ask, server.url), row.verdict, row.after)


def _is_about(expected: object, seconds: float | None) -> bool:
    """Return whether they are the same, within what the clock moves while a test runs on a busy machine."""
    if seconds is None or expected is None:
        return seconds is expected
    if isinstance(expected, range):
        return expected.start <= seconds < expected.stop
    assert isinstance(expected, int | float)
    return expected - 5 < seconds <= expected + 1 if expected >= 60 else abs(expected - seconds) < 1e-6


def epoch(seconds: float, *, unit: float = 1) -> Callable[[], str]:
    """Return the header that names an instant so many seconds from now, counted in the unit since 1970."""
    return lambda: str(round((time.time() + seconds) / unit))


def date(seconds: float, form: str, hours: int = 0) -> Callable[[], str]:
    """Return the header that names an instant so many seconds from now, as a date of a zone."""
    zone = timezone(timedelta(hours=hours))
    return lambda: (datetime.now(zone) + timedelta(seconds=seconds)).strftime(form)
