"""The bar on a terminal, drawn by rich, without which this module cannot be imported."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

import rich.console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from retrying_executor._common.forks import after_fork_in_child
from retrying_executor._watch.progress import clock, eta, outcome, pending, per_second

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, TextIO

    from rich.console import RenderableType

    from retrying_executor._watch.progress import Progress as Seen

_open: set[Bar] = set()


class Console(rich.console.Console):
    """The console on a file; whether it is interactive depends on the file and the environment."""

    def on_broken_pipe(self) -> NoReturn:
        """Raise `BrokenPipeError`: rich would close standard output, and exit."""
        raise BrokenPipeError


class _Display(Progress):
    def get_renderables(self) -> Iterable[RenderableType]:
        """Draw the bar, and below it where the calls stand."""
        yield self.make_tasks_table(self.tasks)
        yield from (Text(task.description, no_wrap=True, overflow="ellipsis") for task in self.tasks)


class Bar:
    """Shows the progress as a bar with figures that change in place; a `Display`.

    Text that is printed or logged to standard output or error meanwhile appears above it.
    """

    interval = 0.2

    def __init__(self, console: Console) -> None:
        self._streams = sys.stdout, sys.stderr
        self._handlers: list[tuple[logging.StreamHandler[Any], Any]] = []  # with the stream that each had
        self._display = _Display(
            BarColumn(),
            TextColumn("{task.fields[done]}", style="progress.download"),
            TextColumn("{task.fields[share]}", style="progress.percentage"),
            TextColumn("{task.fields[rate]}", style="progress.data.speed"),
            TextColumn("{task.fields[time]}", style="progress.remaining"),
            console=console,
            auto_refresh=False,
            redirect_stdout=_is_terminal(sys.stdout),  # what goes to a file must still go there
            redirect_stderr=_is_terminal(sys.stderr),
        )

    def begin(self, progress: Seen) -> None:
        self._task = self._display.add_task("", total=None, done="", share="", rate="", time="")
        self._update(progress, eta(progress), pending(progress, time.time()))
        _open.add(self)
        self._display.start()
        self._redirect_logging()

    def show(self, progress: Seen) -> None:
        if not self._display.console.is_terminal:  # rich would not notice that, and go on redirecting
            raise OSError("the terminal is closed")
        self._update(progress, eta(progress), pending(progress, time.time()))
        self._display.refresh()

    def end(self, progress: Seen) -> None:
        self._update(progress, clock(progress.elapsed), outcome(progress))  # close() draws it

    def close(self) -> None:
        if self in _open:
            _open.discard(self)
            self._restore_logging()
            with suppress(OSError, ValueError):
                self._display.stop()

    def abandon(self) -> None:
        """Leave the terminal to the parent process: threads that are gone may have held rich's locks."""
        self._restore_logging()
        sys.stdout, sys.stderr = self._streams

    def _update(self, progress: Seen, time_text: str, below: str) -> None:
        self._display.update(
            self._task,
            completed=progress.done,
            total=progress.total or None,  # with a total of 0, the bar would be full
            description=below,
            done=f"{progress.done}/{progress.total}",
            share=f"{100 * progress.done // (progress.total or 1)} %",  # rounded down: 100 % means all
            rate=per_second(progress.rate),
            time=time_text,
        )

    def _redirect_logging(self) -> None:
        """Have log handlers write above the bar: rich only replaces ``sys.stdout`` and ``sys.stderr``."""
        replaced = list(zip(self._streams, (sys.stdout, sys.stderr), strict=True))
        for handler in _handlers():
            for old, new in replaced:
                if handler.stream is old is not new:
                    handler.setStream(new)
                    self._handlers.append((handler, old))

    def _restore_logging(self) -> None:
        while self._handlers:
            handler, old = self._handlers.pop()
            handler.setStream(old)


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it is closed
        return False


def _handlers() -> Iterator[logging.StreamHandler[Any]]:
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler):
                yield handler


def _abandon_all() -> None:
    while _open:
        _open.pop().abandon()


after_fork_in_child(_abandon_all)
