"""A live view of an executor, for scripts: a bar on a terminal, lines anywhere else.

For each block, a thread takes snapshots and shows them. It ends when the block has been left and no call is
pending, or else when the interpreter ends, once the calls were waited for.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from contextlib import nullcontext, suppress

from retrying_executor._common import exits
from retrying_executor._common.errors import final
from retrying_executor._common.public import public
from retrying_executor._common.stdlib import HAS_DAEMONS
from retrying_executor._common.values import checked_bool, positive_seconds
from retrying_executor._executor import RetryingExecutor, View
from retrying_executor._watch.progress import Progress, Queue, Throughput, last_line, line, progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Protocol, TextIO

    from retrying_executor._calls.lanes import Barrier
    from retrying_executor._common.values import Duration

    class Display(Protocol):
        """Shows the progress. Its methods may raise what is in `BROKEN`, except ``close()``."""

        interval: float
        """Seconds from one ``show()`` to the next."""

        def begin(self, progress: Progress) -> None: ...
        def show(self, progress: Progress) -> None: ...
        def end(self, progress: Progress) -> None: ...
        def close(self) -> None:
            """Restore everything. May be called at any time, and more than once."""


BROKEN = (OSError, ValueError)
"""What writing raises when the reader is gone, or the file is closed."""

_LONGEST_WAIT = 0.5  # seconds after which the thread looks again whether the last call is done
_MOMENT = 0.1  # seconds that the last line may take in any case; usually it takes a thousandth of that


class Lines:
    """Shows the progress as lines in a file, whenever it has changed; a `Display`."""

    def __init__(self, file: TextIO, interval: float) -> None:
        self.interval = interval
        self._file = file

    def begin(self, progress: Progress) -> None:
        self._shown = progress

    def show(self, progress: Progress) -> None:
        if progress.is_news(self._shown):
            self._shown = progress
            self._write(line(progress, time.time()))

    def end(self, progress: Progress) -> None:
        self._write(last_line(progress))

    def close(self) -> None:
        """Do nothing: the file is the caller's."""

    def _write(self, text: str) -> None:
        self._file.write(f"{text}\n")  # in one piece, so that nothing gets in between
        self._file.flush()


class Watcher:
    """Shows the progress of an executor, from a thread of its own; a context manager.

    The view outlives its block while calls are pending, since the end of the executor may come after it.
    """

    def __init__(self, executor: RetryingExecutor | View, display: Display) -> None:
        self._core = executor._core  # not the executor, which may be dropped
        self.exit_timeout = self._core.exit_timeout
        self._display = display
        self._block_has_ended = False
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<watch of {self._core.name!r}>"

    def __enter__(self) -> None:
        if self._thread is not None:
            raise final(RuntimeError("a view can be entered only once: call watch() again"))
        self._pid = os.getpid()
        daemon = self.exit_timeout.duration is not None and HAS_DAEMONS
        self._thread = threading.Thread(target=self._run, name="retrying_executor.watch", daemon=daemon)
        self._began_at = time.monotonic()
        self._throughput = Throughput(self._began_at)
        self._first = self._core.stats()
        try:
            with suppress(*BROKEN):
                self._display.begin(self._progress())
                self._thread.start()
                if not exits.register_watcher(self):
                    self.end(self.exit_timeout.left())
        except BaseException:
            self._over.set()  # ends the thread, if it was started
            self._display.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if globals().get("os") is None:  # at its end, the interpreter has taken the modules apart
            return
        if os.getpid() == self._pid:  # else it is a forked child: the thread is gone, and may have held locks
            self._block_has_ended = True
            self.end_if_done(self._core, None)

    def end_if_done(self, core: object, timeout: float | None) -> None:
        """End if it watches *core*, the block has been left, and no call is pending."""
        if core is self._core and self._is_finished():
            self.end(timeout)

    def end(self, timeout: float | None) -> None:
        """Show the progress for the last time, whatever is pending.

        Wait for that, for *timeout* seconds at most; ``None``: as long as an end of the executor may take.
        """
        timeout = self.exit_timeout.duration if timeout is None else timeout
        self._over.set()
        thread = self._thread
        assert thread is not None
        if thread is threading.current_thread():  # the file that it writes to has called this
            return
        if thread.is_alive():  # else it was not started, or has ended
            thread.join(None if timeout is None else min(max(timeout, _MOMENT), threading.TIMEOUT_MAX))
        if not thread.is_alive():  # else the thread closes the display itself, and may hold a lock for that
            self._display.close()

    def _run(self) -> None:
        display = self._display
        try:
            while self._goes_on(display.interval):
                display.show(self._progress())
            display.end(self._progress())
        except BROKEN:
            pass  # there is nothing to show it on
        finally:
            display.close()

    def _goes_on(self, interval: float) -> bool:
        """Wait until the next look is due; return ``False`` if it is time to end."""
        due_at = time.monotonic() + interval
        while True:
            left = due_at - time.monotonic()
            if self._over.wait(max(0.0, min(left, _LONGEST_WAIT))) or self._is_finished():
                return False
            if left <= 0:
                return True

    def _is_finished(self) -> bool:
        if not self._block_has_ended:
            return False
        now = self._core.stats()
        return not now.ready + now.running + now.in_backoff + now.held

    def _progress(self) -> Progress:
        first, last, now = self._first, self._core.stats(), time.monotonic()
        rate = self._throughput.rate(now, last.succeeded + last.failed - first.succeeded - first.failed)
        its_now = self._core.clock.monotonic()  # which may be virtual
        queues = self._queues(its_now) if last.held else ()
        return progress(
            first,
            last,
            elapsed=now - self._began_at,
            now=its_now,
            rate=rate,
            queues=queues,
            kept=self._kept_by_others(),
        )

    def _queues(self, now: float) -> list[Queue]:
        """Return which upstreams let calls wait; the many that do not take no time."""
        core = self._core
        with core.lock:
            lanes = core.ledger.schedule.held.lanes()
            closed = [(lane.barrier, len(lane.calls)) for lane in lanes if lane.barrier.reopens_at > now]
        return [_queue(barrier, calls) for barrier, calls in closed]

    def _kept_by_others(self) -> int:
        """Return how many calls of processes that are gone are to be done; 0 if all of them are queued.

        Once no attempt starts any more, they are left to the next process.
        """
        core = self._core
        if core.keeper is None or core.turns.is_halted:
            return 0
        estates = list(core.keeper._estates.values())
        return sum(estate.pending for estate in estates if estate.has_more or estate.left)


def _queue(barrier: Barrier, calls: int) -> Queue:
    places = barrier.places
    is_held = places.is_down
    opens_at = places.held_until if is_held else barrier.reopens_at
    return Queue(places.name, calls, is_held, None if opens_at == math.inf else opens_at)


def _display_on(file: TextIO, interval: float) -> Display:
    """Return the best display that *file* allows."""
    if file.isatty() and not hasattr(file, "rich_proxied_file"):  # with that, rich is already drawing there
        try:
            from retrying_executor._watch.bar import Bar, Console
        except ImportError:
            pass  # rich is not installed
        else:
            console = Console(file=file)
            if console.is_interactive:
                return Bar(console)
    return Lines(file, interval)


@public
def watch(
    executor: RetryingExecutor | View,
    *,
    interval: Duration = 10.0,
    file: TextIO | None = None,
    quiet: bool = False,
) -> AbstractContextManager[None]:
    """Show what *executor* is doing while a ``with`` block runs, and until its calls are done.

    On a terminal, that is a progress bar if `rich <https://rich.readthedocs.io>`_ is installed (the extra
    ``rich``). Anywhere else it is a line every *interval* seconds, if anything has changed. What it shows
    last stays: how many calls succeeded, failed and were cancelled, and how long it took.

    It counts the calls that were pending when the block began, those that other processes have left in the
    journal, and those submitted since, through all views. The end of the block does not wait for them. If
    some are still pending, the view goes on until none is: so ``with executor, watch(executor):`` and
    ``with watch(executor), executor:`` both show how it ends, also after an exception or Ctrl-C. Once
    ``shutdown()`` has waited for the last call, the last line has been written. At the end of the
    interpreter, it is written once the calls were waited for. If writing blocks, neither waits for longer
    than its *timeout*, or *exit_timeout*. The rate is that of the last half minute, or of the last ten calls
    if they took longer.

    Args:
        executor: The executor, or a view of it.
        interval: The least time from one line to the next, in seconds; more than 0. A bar
            moves several times a second.
        file: The text file to write to; ``None``: standard error. If writing to it fails, nothing else is
            affected. To get the last line, close it after the executor.
        quiet: Whether to show nothing at all.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If *interval* is 0 or less, infinite or not a number (NaN).
    """
    if not isinstance(executor, (RetryingExecutor, View)):
        raise TypeError(f"executor must be a RetryingExecutor or a view of one, not {executor!r}")
    length = positive_seconds("interval", interval)
    file = sys.stderr if file is None else file
    if checked_bool("quiet", quiet) or file is None:  # there is no standard error under pythonw.exe
        return nullcontext()
    try:
        file.write("")
        return Watcher(executor, _display_on(file, length))
    except BROKEN:
        return nullcontext()
    except (AttributeError, TypeError):
        raise TypeError(f"file must be open for writing text, not {file!r}") from None
