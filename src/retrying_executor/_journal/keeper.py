"""Keeps the calls of one core in a journal, and goes on with those of processes that are gone."""

from __future__ import annotations

import contextvars
import sqlite3
import threading
import time
import traceback
from contextlib import suppress
from functools import partial
from weakref import WeakValueDictionary, ref

from retrying_executor._calls.journalled import JournalledFuture
from retrying_executor._common import log
from retrying_executor._common.callables import Wrapper, to_run
from retrying_executor._common.errors import JournalError
from retrying_executor._common.log import call_name
from retrying_executor._common.stdlib import HAS_DAEMONS
from retrying_executor._journal.database import Addition, is_corruption
from retrying_executor._journal.directory import Directory
from retrying_executor._journal.estate import Estate, Out
from retrying_executor._journal.payload import UnknownError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path
    from typing import Any, Protocol, TypeAlias

    from retrying_executor._calls.call import Call, Owner, Work
    from retrying_executor._calls.terms import Terms
    from retrying_executor._common.log import FollowUp
    from retrying_executor._common.values import Clock
    from retrying_executor._journal.journal import Journal
    from retrying_executor._journal.row import Row
    from retrying_executor._journal.store import Store

    Kept: TypeAlias = Any
    """A `JournalledFuture`: a core knows its calls as futures of any kind."""

    class Core(Owner, Protocol):
        """The calls of one executor, as far as a keeper needs to know."""

        def resume(self, calls: list[Call], /) -> None:
            """Queue calls that another process has accepted."""

        @property
        def is_halted(self) -> bool: ...

        errand_for: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any] | None


LOOKS_EVERY = 5.0
"""Seconds from one look for calls of processes that are gone to the next, as long as calls are submitted."""

_PAUSES = (0.2, 1.0, 4.0, 10.0)
"""Seconds between the looks for what calls need that were left when the executor was made."""

_AT_ONCE = 500
"""How many calls are read at once. When the last of them has had its turn, the next are read."""


class Keeper:
    """What a core tells of its calls, and what it gets from others.

    Args:
        journal: Where, and how.
        clock: What tells the time.
    """

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._views: WeakValueDictionary[tuple[str | None, str | None], Terms] = WeakValueDictionary()
        self._own_terms: Terms | None = None
        self._core: ref[Core] | None = None
        self._restart()

    def _restart(self) -> None:
        self._directory = Directory(
            self._journal.directory,
            self._clock,
            is_synced=self._journal.durability == "full",
            max_crashes=self._journal.max_crashes,
        )
        self._lock = threading.RLock()  # guards what follows; reentrant for the sake of destructors
        self._reading = threading.Lock()  # taken while calls are read; nobody waits for it for long
        self._is_asked = False  # whether that thread is to look once more
        self._loading = 0  # how many threads read calls, or have some that the core does not have yet
        self._own: Store | None = None
        self._estates: dict[Path, Estate] = {}
        self._submitting = 0  # how many threads have written a call that the core may still refuse
        self._latest: ref[Call] | None = None  # the last that was read
        self._awaits_views = False  # whether calls of views that are not there are left for now
        self._looks_at = 0.0  # by the real clock
        self._locked: list[threading.RLock] = []  # before a fork
        self._ended = threading.Event()  # the executor ends: no thread is to look again

    def serve(self, core: Core) -> None:
        """Keep the calls of this core; see `adopt`."""
        self._core = ref(core)

    def know(self, terms: Terms) -> None:
        """Calls may be submitted on these terms; the first are those of the executor, which none replace."""
        if terms.key is None:  # or they are those of one call
            self._views.setdefault(_name_of(terms), terms)
        if self._own_terms is None:
            self._own_terms = terms

    # -- calls of this process -------------------------------------------------------------------

    def add(self, call: Kept, work: Work) -> None:
        """Write a call that is submitted; what follows is `accepted` or `refused`.

        Raises:
            TypeError: If it cannot be written as the journal demands.
            JournalError: If the disk does not take it.
        """
        fn, args, kwargs, _ = work
        while isinstance(fn, Wrapper):  # what an integration adds concerns this process only
            fn = fn.func
        payload = self._journal._format.dump(fn, args, kwargs)
        if time.monotonic() >= self._looks_at:
            self.adopt()
        with self._lock:
            self._submitting += 1
        try:
            try:
                self._write(call, call_name(fn), payload)
            except JournalError as error:
                if not self._is_used_up(call, error):
                    raise
                self._write(call, call_name(fn), payload)  # to a new file
        except BaseException:
            self.accepted()
            raise

    def _write(self, call: Kept, function: str, payload: bytes) -> None:
        store = self._own_store()
        row = store.next_row()
        call._store, call._row = store, row
        label, upstreams = _name_of(call._terms)
        key, now = call._terms.key, self._clock.monotonic()
        store.add(Addition(row, function, key, label, upstreams, payload, time.time(), now))

    def _is_used_up(self, call: Kept, error: JournalError) -> bool:
        """Return whether the file that a call could not be written to has been given up: try another."""
        store: Store | None = getattr(call, "_store", None)
        if store is None:  # it could not even be made
            return False
        if error.__cause__ is not None and is_corruption(error.__cause__):
            self._fail(store, error.__cause__)
        else:
            with suppress(sqlite3.Error), self._directory.busy:
                store.close(only_if_spent=True)  # the disk is full, and this file is all that can make room
        return store.is_closed

    def _own_store(self) -> Store:
        with self._lock:
            if self._own is None or self._own.is_closed:
                try:
                    self._own = self._directory.create()
                except (OSError, sqlite3.Error) as error:
                    raise JournalError(f"the journal cannot be written: {error}") from error
            return self._own

    def accepted(self) -> None:
        """The core has the call that was added."""
        with self._lock:
            self._submitting -= 1

    def refused(self, call: Kept) -> None:
        """The core does not have it, unless a worker has taken it up: then that goes on."""
        if call.done() or not (call._attempts or call.running()):
            self._remove(call)
        self.accepted()

    # -- what becomes of them (an `Observer`) ----------------------------------------------------

    def started(self, call: Kept, work: Work) -> None:
        """An attempt begins, in this thread."""
        if call._row > 0 and not call._store.is_closed:
            call._store.begins(call._row, call._attempts, call._postponed, call._began_at)

    def ended(self, call: Kept) -> None:
        """The attempt is over, however it ended."""
        if (
            call._row < 0 or call.done()
        ):  # its outcome was set meanwhile, of which this is told later, perhaps
            call._store.ends(abs(call._row))
        estate = self._estates.get(call._store.path)
        if estate is not None:
            estate.survived(abs(call._row))

    def followed_up(self, call: Kept, news: FollowUp) -> None:
        """The attempt failed; if another follows, *news* says when."""
        if news.delay is not None and call._row > 0 and not call._store.is_closed:
            due_at = self._clock.monotonic() + news.delay
            call._store.waits(call._row, call._attempts, call._postponed, call._began_at, due_at, news.what)

    def settled(self, call: Kept, error: BaseException | None, *, is_put_down: bool) -> None:
        """A call is done, or about to be.

        Args:
            call: Which one.
            error: What it failed with, or ``None``.
            is_put_down: Whether it is not done, to whoever has the journal next: the executor ends before.
        """
        if is_put_down:
            if error is not None and not call.done() and call._row > 0 and not call._store.is_closed:
                now, what = self._clock.monotonic(), log.describe(None, error)
                call._store.waits(call._row, call._attempts, call._postponed, call._began_at, now, what)
            call._row = -abs(call._row)
        elif error is None or call.cancelled():
            self._remove(call)
        elif call._row > 0 and not call._store.is_closed:
            began_at = call._began_at if call._attempts else None  # its outcome may have been set
            call._store.fails(call._row, call._attempts, call._postponed, began_at, _in_full(error))
            self._is_over(call)

    def is_left_alone(self, call: Kept) -> bool:
        """Return whether another process has accepted a call, and no thread here waits for it.

        If it fails, that has to be logged at once: the core keeps its future, perhaps until the process ends.
        """
        is_awaited = call._awaited or call.__dict__.get("_waiters")
        return call._store.path in self._estates and not is_awaited

    def _remove(self, call: Kept) -> None:
        if call._row > 0 and not call._store.is_closed:
            call._store.remove(call._row)
            self._is_over(call)

    def _is_over(self, call: Kept) -> None:
        """A call needs its row no more; with the last one, a file that was adopted is given back."""
        row, call._row = call._row, -call._row
        estate = self._estates.get(call._store.path)
        if estate is None:
            return
        estate.survived(row)
        with self._lock:
            estate.pending -= 1
            is_over = estate.pending <= 0
            if is_over:
                self._estates.pop(call._store.path, None)
        if is_over:
            self._close(estate.store)

    def _close(self, store: Store) -> None:
        with self._directory.busy:
            store.close()

    # -- calls of processes that are gone --------------------------------------------------------

    def adopt(self, *, is_first: bool = False) -> int:
        """Take over the files of processes that are gone, and queue the first of their calls.

        Args:
            is_first: Whether there are no views yet: calls of views that are not known wait for these.

        Returns:
            How many calls were taken over.
        """
        self._looks_at = time.monotonic() + LOOKS_EVERY
        self._awaits_views = is_first
        found = 0
        own_store = self._own
        if own_store is not None and not (own_store.is_closed or own_store.path.exists()):
            log.journal_gone(own_store.path)
            self._close(own_store)  # from now on there is another
        with self._lock:
            own = {store.path.with_suffix("") for store in self._stores()}
        for store in self._directory.adopt(own):
            try:
                with self._directory.busy:
                    estate = Estate(store, self._journal.max_crashes)
            except sqlite3.Error as error:
                self._fail(store, error)
                self._close(store)
                continue
            found += estate.pending
            with self._lock:
                self._estates[store.path] = estate
        if found:
            log.journal_adopted(found, self._journal.directory)
        self.load_more(again=True)
        if is_first and self._has_left and self._clock is time and HAS_DAEMONS:
            looks = partial(_look_again, ref(self), self._ended)
            with suppress(RuntimeError):  # no thread can be started
                threading.Thread(target=looks, name="journal", daemon=True).start()
        return found

    @property
    def _has_left(self) -> bool:
        """Whether there are calls that could not be read so far."""
        return any(estate.left for estate in list(self._estates.values()))

    def look_again(self, *, is_last: bool) -> bool:
        """Try calls again that could not be read when the executor was made; return whether some are left.

        Args:
            is_last: Whether calls of views that are still not there go on without.
        """
        if is_last:
            self._awaits_views = False
        self.load_more(again=True)
        return self._has_left

    def go_on_without_views(self) -> None:
        """The executor ends, or all calls are to be done: calls of views that are not there go on, too."""
        if self._awaits_views:
            self._awaits_views = False
            self.load_more(again=True)

    def _stores(self) -> list[Store]:
        own = [] if self._own is None or self._own.is_closed else [self._own]
        return [*own, *(estate.store for estate in list(self._estates.values()))]

    @property
    def has_more(self) -> bool:
        """Whether there are calls that are still to be read, or are being read."""
        return self._loading > 0 or any(estate.has_more for estate in list(self._estates.values()))

    def load_more(self, *, again: bool = False, waits: bool = False) -> None:
        """Read and queue more calls, if it is time for that. Called without a lock: pickles can run anything.

        Args:
            again: Whether to try those again that could not be read.
            waits: Whether to wait until another thread that does so is through.
        """
        if waits:
            with self._reading:
                pass
        while self._estates and (again or self._is_time_to_read()):
            core = None if self._core is None else self._core()
            if core is None or core.is_halted:
                return
            if self._reading.acquire(blocking=False):
                with self._lock:
                    self._loading += 1
                try:
                    self._load(core, again=again)
                finally:
                    with self._lock:
                        self._loading -= 1
                again = False
                if not self._is_asked:
                    return
            else:  # the thread that reads now looks once more: a suspect may have survived since it looked
                self._is_asked = True
                if self._reading.locked():
                    return

    def _is_time_to_read(self) -> bool:
        """Return whether the last call that was read has had its turn, and there are others."""
        latest = None if self._latest is None else self._latest()
        if latest is not None and latest._is_untouched:
            return False
        out = self._suspects_out()
        return any(estate.is_ready(out) for estate in list(self._estates.values()))

    def _load(self, core: Core, *, again: bool) -> None:
        calls: list[Call] = []
        self._is_asked = False
        try:
            estates = list(self._estates.values())
            if again:
                for estate in estates:
                    estate.try_again()
            for estate in estates:
                while estate.is_ready(self._suspects_out()) and len(calls) < _AT_ONCE:
                    try:  # more than once where none can be read
                        self._read(core, estate, calls)
                    except sqlite3.Error as error:
                        estate.stop()
                        self._fail(estate.store, error)
            fresh = [call for call in calls if not call._attempts]
            self._latest = ref(fresh[-1]) if fresh else None  # a strong one would keep the core for ever
        finally:
            self._reading.release()
            if calls:
                core.resume(calls)

    def _suspects_out(self) -> Out:
        """Return which suspects of all files are out."""
        outs = [estate.out for estate in list(self._estates.values())]
        return Out(*(min(times) for times in zip(*outs, strict=True))) if outs else Out()

    def _read(self, core: Core, estate: Estate, calls: list[Call]) -> None:
        rows = list(estate.next_rows(_AT_ONCE, self._suspects_out()))
        estate.left.update(row.row for row in rows)  # first: a signal handler may raise
        try:
            for row in rows:
                call = self._call_of(core, estate.store, row)
                if call is None:
                    estate.survived(row.row)
                else:
                    if call._awaits:
                        estate.is_of_coroutine(row)
                    calls.append(call)
                    estate.left.discard(row.row)
        finally:
            estate.store.reads(0)

    def _call_of(self, core: Core, store: Store, row: Row) -> Call | None:
        """Return a call as it was; ``None`` if it cannot be read here, or not yet."""
        terms = self._views.get((row.label, row.upstreams))
        if terms is None and self._awaits_views:
            return None
        if terms is None:
            terms = self._views.get((None, row.upstreams)) or self._own_terms
            log.journal_without_view(row.function, row.label, row.upstreams)
        assert terms is not None
        if row.label != terms.label:
            terms = terms.with_label(row.label)
        store.reads(row.row)  # first: what that runs may end the process
        try:
            if row.damage is not None:
                raise UnknownError(row.damage)
            fn, args, kwargs = self._journal._format.load(row.payload)
            fn = to_run(fn)
            if core.errand_for is not None:
                fn = core.errand_for(fn, args, kwargs)
            work = (fn, args, kwargs, contextvars.Context())
            call: JournalledFuture[Any] = JournalledFuture(core, work, terms)
            call._store, call._row = store, row.row
            age = max(0.0, self._clock.monotonic() - row.submitted)
            end = row.error or ("it ended during the attempt" if row.due is None else "an attempt failed")
            failure = JournalError(f"in an earlier process: {end}")
            call._resume(work, row.key, age, row.attempts, row.postponed, row.began, row.due, failure)
        except (Exception, SystemExit) as error:  # what is loaded, or what a damaged row holds, may raise any
            log.journal_unknown(row.function, row.key or store.owner.key_of(row.row), error)
            return None
        return call

    def _fail(self, store: Store, error: BaseException) -> None:
        """A file cannot be read or written: what was read of it goes on, the rest is for people."""
        if store.is_closed:  # by another thread, which ends the executor
            return
        if is_corruption(error):
            with self._lock:
                self._estates.pop(store.path, None)
            with suppress(OSError), self._directory.busy:
                store.set_aside()
        log.journal_damaged(store.path, error)

    # -- the end ---------------------------------------------------------------------------------

    def flush(self) -> None:
        """There is time: write what has become of calls."""
        for store in self._stores():
            store.flush()

    def finish(self, running: Collection[Kept] = ()) -> None:
        """Give the files back, and delete those without calls; but keep those of which attempts still run.

        Those are given back when the process ends, or when the core is gone.

        Args:
            running: The calls that workers have. Their attempts run, or are about to begin.
        """
        self._ended.set()
        kept = {call._store for call in running}
        with self._lock:
            if self._submitting:
                return
            stores = self._stores()
            for store in stores:
                if store.is_running or store in kept:
                    store.end_in_order()
                    store.flush()
                else:
                    self._close(store)
                    self._estates.pop(store.path, None)

    # -- around a fork ---------------------------------------------------------------------------

    def lock_for_fork(self, timeout: float) -> bool:
        """Before: no thread is in SQLite, unless that takes too long.

        Its own locks are those of the process: a child would find one locked for ever that a thread has.
        """
        self._locked = []
        # In this order: while the first is held no file is added, so the list of them is complete.
        if not self._take_for_fork([self._lock, self._directory.busy], timeout):
            return False
        return self._take_for_fork([store.turn for store in self._stores()], timeout)

    def _take_for_fork(self, wanted: list[threading.RLock], timeout: float) -> bool:
        for lock in wanted:
            if not lock.acquire(timeout=timeout):
                self.unlock_after_fork()
                return False
            self._locked.append(lock)
        return True

    def unlock_after_fork(self) -> None:
        """After, in the parent; may be done again."""
        while self._locked:
            with suppress(RuntimeError):
                self._locked.pop().release()

    def restart_in_child(self) -> None:
        """After, in the child: start with no file. They are the parent's."""
        for store in self._stores():
            store.forget_in_child()
        self._restart()


def _look_again(keeper: ref[Keeper], is_over: threading.Event) -> None:
    """Be a thread that looks again for what calls need that were left when the executor was made.

    Functions may be defined below the executor, and views made later. In a quiet program nothing else looks.
    """
    for pause in _PAUSES:
        if is_over.wait(pause):
            return
        one = keeper()
        if one is None or not one.look_again(is_last=pause == _PAUSES[-1]):
            return
        del one


def _in_full(error: BaseException) -> str:
    """Return an error with its traceback, fit for people."""
    try:
        return "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except BaseException:  # a hostile exception may raise anything
        return log.describe(None, error)


def _name_of(terms: Terms) -> tuple[str | None, str | None]:
    """Return what tells the terms of a view from others, in another process too."""
    return terms.label, terms.upstream_name
