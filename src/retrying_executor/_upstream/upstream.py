"""Services that executors call, each with its limits, shared by all who call it.

``_lock`` guards ``_gate``, ``_waiting`` and ``_invited``. Which calls are pending is counted without it: see
`Upstream.admit`. While it is free:

- who was refused is in ``_waiting``, with the time at which it asks again, and nobody waits for nothing: if
  there is room, so many are invited; if there will be at a certain time, they have been told;
- who is in ``_invited`` will ask or decline, and until then a place is kept for it.

So places go round among those who wait. A worker whose attempt worked keeps its place for its next call,
without the lock, for as long as that takes nothing from anybody: see `calm_era`.

The pools are told when this lock is free. But while it is held, a destructor or a signal handler may
submit, and wait for a pool's lock. So whoever has a pool's lock does not wait for this one for ever: that
counts as a refusal, for a moment.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from functools import partial

from retrying_executor._common import lifecycle, log
from retrying_executor._common.misuse import checked_callable, refuse_to_copy, says_where
from retrying_executor._common.public import public
from retrying_executor._common.stdlib import is_held
from retrying_executor._common.values import optional_seconds, positive_int, seconds
from retrying_executor._upstream.evidence import service_failed
from retrying_executor._upstream.gate import Gate, Permit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal, Protocol, TypeAlias

    from retrying_executor._common.values import Clock, Duration
    from retrying_executor._policy.verdict import Asked
    from retrying_executor._upstream.gate import Evidence, State

    RecordExceptions: TypeAlias = (
        type[BaseException] | tuple[type[BaseException], ...] | Callable[[Exception], object]
    )

    class Listener(Protocol):
        """Who is told that a service is held, or works again."""

        def upstream_changed(
            self,
            name: str,
            kind: Literal["upstream_held", "upstream_back"],
            delay: float | None,
            reason: str,
            /,
        ) -> None: ...

    class Member(Protocol):
        """A call that is pending."""

        _leave: Callable[[], object] | None
        """Called when it is done."""

    class Asker(Protocol):
        """Who asks whether an attempt may start."""

        def look_again(self, upstream: Upstream, opens_at: float, /) -> bool:
            """The upstream lets attempts through again, now or at a certain time.

            Returns:
                Whether somebody will ask then; else the place goes to another.
            """
            ...


_LOCK_TIMEOUT = 0.05  # seconds
_A_MOMENT = 0.001  # seconds
_MOST_STARTS = 1_000_000  # of which the times are kept


@public
class Upstream:
    """A service, and what is known of it: its limits, and whether it works.

    Given to executors and views as ``upstream=``, as many as call the service. A call that may not start
    waits without a thread, and uses up no attempt. Calls of other upstreams go on.

    The service is *held* when it asks to wait (``Retry-After`` and its like), and when it fails, or says "not
    now" without a time, *hold_after* times in a row: nothing starts any more. Only failures of its own count,
    see *record_exceptions*. When the time is over, one attempt starts, the probe: of a call that did not fail
    last, an untried one first. It is not counted if the service fails. If it gets through, the others follow
    in a ramp: 2 in flight, then 4, and so on; if not, the next hold is twice as long.

    Args:
        name: What to call it in logs: text in one line.
        max_concurrency: How many attempts may run at once, over all executors: 1 or more, or ``None`` for
            no limit.
        rate: How many attempts may be let through in how many seconds, as ``(10, 1.0)``: never more than 10
            in any window of a second; ``None`` for no limit. When an attempt that was let through begins is
            up to the machine, usually within a millisecond. Up to 1,000,000.
        hold_after: After how many failures in a row, with no success between, it is held; 1 or more, or
            ``None``: only when it asks for it.
        record_exceptions: Which exceptions count as failures of the service: a class, a tuple of classes, or
            a callable from the exception to a ``bool``. The default is `service_failed`. Others tell nothing
            bad of it, and neither does a result that the policy rejects. "Not now" without a time counts as
            a failure whatever this is, since the service said so.
        initial_hold: How long the first hold is, in seconds, less jitter of up to a half; more than 0.
        max_hold: How long a hold may become, in seconds; *initial_hold* or more. What the service asks for
            may be longer.
        max_pending: How many calls to it may be accepted and not done, over all executors: 1 or more, or
            ``None`` for no limit. At that, ``submit()`` does what the executor's ``when_full`` says. So a
            service that is down does not use up the ``max_pending`` of an executor that serves others too.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of its range.
    """

    _clock: Clock = time
    _given_as = "upstream"
    __reduce__ = refuse_to_copy

    @says_where("upstream=Upstream(..., {}=...)")
    def __init__(
        self,
        name: str,
        *,
        max_concurrency: int | None = None,
        rate: tuple[int, Duration] | None = None,
        hold_after: int | None = 5,
        record_exceptions: RecordExceptions = service_failed,
        initial_hold: Duration = 1.0,
        max_hold: Duration = 60.0,
        max_pending: int | None = None,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {name!r}")
        if not name.strip():
            raise ValueError(f"name must not be empty: {name!r}")
        if not name.isprintable():
            raise ValueError(f"name must be text in one line, without control characters, not {name!r}")
        first, longest = seconds("initial_hold", initial_hold), seconds("max_hold", max_hold)
        if first <= 0.0:
            raise ValueError(f"initial_hold must be more than 0 seconds, not {initial_hold!r}")
        if longest < first:
            raise ValueError(f"max_hold must be {first!r} (initial_hold) or more, not {max_hold!r}")
        self._name = name
        self.is_recorded = _checked_recorder(record_exceptions)
        self._limits = {"max_concurrency": max_concurrency, "rate": rate, "max_pending": max_pending}
        self._max_pending = _limit("max_pending", max_pending)
        self._pending: set[weakref.ref[Member]] = set()  # if there is that limit
        self._line: deque[threading.Lock] = deque()  # where submitters wait for room
        self._door = threading.RLock()
        self._new_gate = partial(
            Gate,
            max_concurrency=_limit("max_concurrency", max_concurrency),
            rate=_checked_rate(rate),
            hold_after=_limit("hold_after", hold_after),
            initial_hold=first,
            max_hold=longest,
        )
        self._gate = self._new_gate(random=_random)
        # In the order of their asking. Weak: a pool that waits for something has a thread that keeps it.
        self._waiting: weakref.WeakKeyDictionary[Asker, list[float]] = weakref.WeakKeyDictionary()
        self._invited: set[Asker] = set()
        self._is_known_to_fail = False  # that it is held was a warning
        self._monitors: weakref.WeakSet[Listener] = weakref.WeakSet()
        self.calm_era: int | None = None
        """The era of the permits under which attempts may follow each other without the lock.

        An attempt that worked leaves its place to the next of the same worker while nobody waits for a
        place, and while it would tell nothing new. Who waits for one, or sees the first failure, may see one
        more attempt start.
        """
        self._lock = threading.RLock()  # reentrant for the sake of destructors and signal handlers
        self._is_stopped = False  # for a fork
        self._look()
        lifecycle.register_upstream(self)

    def __repr__(self) -> str:
        limits = "".join(f", {name}={value!r}" for name, value in self._limits.items() if value)
        return f"<{type(self).__name__} {self._name!r}{limits} state={self.state}>"

    @property
    def name(self) -> str:
        """What it is called."""
        return self._name

    @property
    def state(self) -> State:
        """What it is doing.

        ``"open"``: attempts start, within the limits; ``"held"``: none does; ``"probing"``: the hold is over,
        and one attempt starts as soon as there is a call, or is running; ``"ramping"``: it got through, and
        the others follow.
        """
        return self._gate.state(self._clock.monotonic())

    @property
    def held_until(self) -> float | None:
        """When the hold ends, on the clock of `time.monotonic`; ``None`` if there is none."""
        until = self._gate.held_until
        return until if until > self._clock.monotonic() else None

    @property
    def in_flight(self) -> int:
        """How many attempts are running."""
        return self._gate.in_flight

    @property
    def is_down(self) -> bool:
        """Whether it is held, or a probe has yet to get through."""
        return self._gate.is_down

    def pause(self, duration: Duration | None = None) -> None:
        """Hold it, from now on: nothing starts, what is running goes on.

        That replaces the hold that there is, if there is one, even by a shorter one.

        Args:
            duration: For how long, in seconds; ``None``: until `resume`.

        Raises:
            TypeError: If *duration* is neither a number nor a ``timedelta``.
            ValueError: If it is negative, infinite or not a number (NaN).
        """
        length = optional_seconds("duration", duration)
        length = math.inf if length is None else length
        try:
            with self._lock:
                self._gate.hold(self._clock.monotonic() + length)
                self._look()
                monitors = list(self._monitors)
            log.upstream_paused(self._name, length)
            for monitor in monitors:
                monitor.upstream_changed(self._name, "upstream_held", length, "paused")
            self._tell()
        except BaseException:  # of a signal handler: those who wait may not know yet
            self._tell()
            raise

    def resume(self) -> None:
        """End the hold, whatever made it: a probe goes out, and the others follow in a ramp."""
        try:
            with self._lock:
                was_held = self.held_until is not None
                self._gate.release()
            if was_held:
                log.upstream_resumed(self._name)
            self._tell()
        except BaseException:  # of a signal handler: those who wait may not know yet
            self._tell()
            raise

    def inform(self, monitor: Listener) -> None:
        """From now on tell *monitor* too when it is held, and when it works again."""
        with self._lock:
            self._monitors.add(monitor)

    def enter(self, monitor: Listener | None) -> None:
        """An executor uses it from now on.

        Raises:
            ValueError: If it is in use in virtual time: there, its times say nothing.
        """
        if self._clock is not time:
            raise ValueError(
                f"upstream must not be used by an executor in virtual time: {self!r}; shut that down first"
            )
        if monitor is not None:
            self.inform(monitor)

    # -- its backlog -----------------------------------------------------------------------------

    @property
    def is_bounded(self) -> bool:
        """Whether there is a limit on the calls that are pending."""
        return self._max_pending < math.inf

    @property
    def is_full(self) -> bool:
        """Whether as many calls are pending as may be."""
        return len(self._pending) >= self._max_pending

    @property
    def fullness(self) -> str:
        """What to say when it is full."""
        calls = f"{self._max_pending} calls of upstream {self._name!r}"
        return f"{calls} are pending, as many as its max_pending allows"

    def admit(self, call: Member) -> bool:
        """Count a call that is about to be accepted, until it is done or gone, if there is room for it.

        Calls become done under the locks of pools and workers. So ``_door`` is only among those who submit,
        and as ``_lock`` it is not waited for for ever; who leaves needs none.
        """
        reference = weakref.ref(call, self._leave)
        try:
            self._door.acquire(timeout=_LOCK_TIMEOUT)  # in here: a signal handler may raise right after it
            self._pending.add(reference)  # first, since a signal handler may submit in between
            if len(self._pending) > self._max_pending:
                self._pending.discard(reference)
                return False
            call._leave = partial(self._leave, reference)
            return True
        finally:
            try:  # noqa: SIM105  # suppress() could be interrupted before it has begun
                self._door.release()
            except RuntimeError:
                pass  # another thread has had it for long

    def _leave(self, reference: weakref.ref[Member]) -> None:
        """A call is done: there is room for another. Needs no lock."""
        self._pending.discard(reference)  # publish first, then look
        self.call_next()

    def call_next(self) -> None:
        """There may be room: have the one look that has waited longest for it. Needs no lock."""
        with suppress(IndexError, RuntimeError):  # nobody waits, or who does has been woken already
            self._line.popleft().release()

    def line_up(self, latch: threading.Lock) -> None:
        """From now on open *latch* when there is room. Then whoever waits at it looks whether there is."""
        self._line.append(latch)

    def step_out(self, latch: threading.Lock) -> bool:
        """Do not open *latch* any more; return whether that was done already, for room that there is."""
        try:
            self._line.remove(latch)
        except ValueError:
            return True
        return False

    # -- for the pools ---------------------------------------------------------------------------

    def ask(self, pool: Asker) -> Permit | float | None:
        """Let an attempt through, or say when to ask again: infinity means that the pool will be told.

        Called under the pool's lock. ``None``: there is no answer yet, and an invitation stays open.
        """
        if not self._lock.acquire(timeout=_LOCK_TIMEOUT):
            return None  # whoever has it may wait for the pool's lock: see above
        try:
            now, opens = self._clock.monotonic(), self._gate.open_at()
            if opens <= now:
                opens = math.inf
                if pool in self._invited or self._gate.room() > len(self._invited):
                    permit = self._gate.start(now, self._clock.monotonic)
                    if permit is not None:
                        self._waiting.pop(pool, None)
                        permit.upstream = self
                        return permit
                    opens = now + _A_MOMENT
            self._waiting[pool] = [opens]
            return opens
        finally:
            self._invited.discard(pool)
            self._look()
            self._lock.release()

    def go_on(self, now: float) -> float | None:
        """Let one more attempt through under a permit of the `calm_era`, if the rate allows it.

        Returns:
            When it was let through: *now* or later; ``None``: it was not.
        """
        return self._gate.take_slot(now, self._clock.monotonic)

    def go_on_without(self, now: float) -> None:
        """Who was let through by `go_on` *now* has no call to start. Called without a lock."""
        with self._lock:
            self._gate.return_slot(now)
        self._tell()

    def take_back(self, permit: Permit) -> None:
        """An attempt was let through, but will not be; may be done again. Called without a lock."""
        if not permit.is_over:
            self.go_on_without(permit.began_at)
            self.end(permit)

    def _look(self) -> None:
        """Note whether it is calm: called whenever that may have changed, before the lock is free."""
        is_calm = self._gate.is_calm and not self._waiting and not self._invited
        self.calm_era = self._gate.era if is_calm else None

    def end(
        self,
        permit: Permit,
        evidence: Evidence = "none",
        asked: Asked | None = None,
        exception: BaseException | None = None,
    ) -> None:
        """Take note that an attempt has ended; see `Gate.end`. Called without a lock, by a worker."""
        with self._lock:
            now = self._clock.monotonic()
            before, failures = self._gate.state(now), self._gate.failures + 1
            self._gate.end(permit, now, evidence, asked)
            self._look()
            after, held_for = self._gate.state(now), self._gate.held_until - now
            monitors = list(self._monitors)
        try:
            if before != after:
                reason = _why_held(before, failures, asked, exception)
                self._report(before, after, held_for, evidence, reason, monitors)
        finally:  # whatever a signal handler raises, others wait for that
            self._tell()

    def _report(
        self,
        before: State,
        after: State,
        held_for: float,
        evidence: Evidence,
        reason: str,
        monitors: list[Listener],
    ) -> None:
        """Log that it is held from now on, or works again, and tell who looks on."""
        if after == "held" and held_for > 0.0:  # else a probe has told nothing
            is_news = evidence == "failed" and before != "probing"
            self._is_known_to_fail |= is_news
            log.upstream_held(self._name, held_for, reason, is_news=is_news)
            for monitor in monitors:
                monitor.upstream_changed(self._name, "upstream_held", held_for, reason)
        elif before == "probing" and after in ("ramping", "open"):
            was_news, self._is_known_to_fail = self._is_known_to_fail, False
            log.upstream_back(self._name, is_news=was_news)
            for monitor in monitors:
                monitor.upstream_changed(self._name, "upstream_back", None, "")

    def decline(self, pool: Asker) -> None:
        """An invited pool has nothing to start: the place goes to another. Called without a lock."""
        with self._lock:
            self._invited.discard(pool)
            self._look()
        self._tell()

    def _tell(self) -> None:
        """Tell those who wait what has changed: that there is room, or when to ask again."""
        while True:
            pool = None
            try:
                with self._lock:
                    now, opens = self._clock.monotonic(), self._gate.open_at()
                    is_open = opens <= now
                    if is_open and self._gate.room() <= len(self._invited):
                        return
                    # While it is open any will do; else those who would ask too late.
                    after = -math.inf if is_open else opens
                    pool = next(
                        (one for one, asks_at in list(self._waiting.items()) if asks_at[0] > after), None
                    )
                    if pool is None:
                        return
                    entry = self._waiting[pool] = [opens]
                    if is_open:
                        self._waiting.pop(pool, None)
                        self._invited.add(pool)
                        self._look()
                is_told = pool.look_again(self, max(opens, now))
                if not is_told:
                    with self._lock:
                        self._invited.discard(pool)
                        if self._waiting.get(pool) is entry:  # it has not asked meanwhile
                            self._waiting.pop(pool, None)
                        self._look()
            except BaseException:  # of a signal handler: the pool may not know, and the others wait
                if pool is not None:
                    with self._lock:
                        self._invited.discard(pool)
                        self._waiting[pool] = [math.inf]
                        self._look()
                    self._tell()
                raise

    def start_afresh(self, clock: Clock = time, random: Callable[[], float] | None = None) -> None:
        """Forget what is known, and go by this clock and source of jitter from now on."""
        with self._lock:
            self._clock = clock
            self._gate = self._new_gate(random=random or _random)
            self._waiting.clear()
            self._invited.clear()
            self._pending.clear()
            self._look()

    # -- around a fork ---------------------------------------------------------------------------

    def synchronize(self) -> None:
        """Wait until who has the lock has given it back."""
        with self._lock:
            pass

    def lock_for_fork(self, timeout: float) -> bool:
        """Before: no other thread is in the middle of anything here, unless that takes too long."""
        self._is_stopped = True  # first: an interruption may come right after the lock is taken
        if not self._lock.acquire(timeout=timeout):
            self._is_stopped = False
            return False
        return True

    def unlock_after_fork(self) -> None:
        """After, in the parent: go on, however far `lock_for_fork` has come."""
        if self._is_stopped:
            if is_held(self._lock):  # pragma: no branch  # see tests/untraced
                self._lock.release()
            self._is_stopped = False

    def restart_in_child(self) -> None:
        """After, in the child: nothing is in flight or pending, and nobody waits."""
        self._lock = threading.RLock()
        self._door = threading.RLock()
        self._pending.clear()
        self._line.clear()
        self._is_stopped = False
        self._waiting.clear()
        self._invited.clear()
        self._gate.forget_flights()
        self._look()


def _why_held(before: State, failures: int, asked: Asked | None, exception: BaseException | None) -> str:
    """Return in words why an upstream is held, if it is."""
    last = "" if exception is None else log.describe(None, exception)
    if asked is not None:
        return asked.words
    if before == "probing":
        return f"the probe failed ({last})"
    plural = "" if failures == 1 else "s"
    return f"{failures} attempt{plural} failed in a row, the last with {last}"


def checked_upstream(upstream: object) -> Upstream | None:
    """Return *upstream* if it can serve as the ``upstream`` option.

    Raises:
        TypeError: If it is neither ``None`` nor an `Upstream`.
    """
    if upstream is not None and not isinstance(upstream, Upstream):
        raise TypeError(f"upstream must be an Upstream or None, not {upstream!r}")
    return upstream


def _checked_recorder(recorder: RecordExceptions) -> Callable[[Exception], object]:
    """Return *record_exceptions* as a function."""
    classes = recorder if isinstance(recorder, tuple) else (recorder,)
    if all(isinstance(one, type) and issubclass(one, BaseException) for one in classes):
        return lambda exception: isinstance(exception, classes)  # type: ignore[arg-type]  # they are classes
    if isinstance(recorder, (type, tuple)) or not callable(recorder):
        raise TypeError(
            f"record_exceptions must be an exception class, a tuple of them, or a callable, not {recorder!r}"
        )
    is_recorded: Callable[[Exception], object] = checked_callable("record_exceptions", recorder, takes=1)
    return is_recorded


def _limit(name: str, value: object) -> float:
    return math.inf if value is None else positive_int(name, value)


def _checked_rate(rate: object) -> tuple[int, float] | None:
    if rate is None:
        return None
    if not isinstance(rate, tuple) or len(rate) != 2:
        raise TypeError(f"rate must be a tuple (attempts, seconds), not {rate!r}")
    window = seconds("rate[1]", rate[1])
    if window == 0.0:
        raise ValueError(f"rate[1] must be more than 0 seconds, not {rate[1]!r}")
    if positive_int("rate[0]", rate[0]) > _MOST_STARTS:
        raise ValueError(f"rate[0] must be at most {_MOST_STARTS}, not {rate[0]!r}")
    return rate[0], window


def _random() -> float:
    from random import random  # slow to import, and not every program has an upstream

    return random()
