"""What executors share of one service: its limits, and the cores that wait for a permit.

``_lock`` guards ``gate``, ``_waiting`` and ``_invited``. While it is free:

- a core that was refused is in ``_waiting``, with the time at which it asks again. No core waits in vain:
  while there is room, as many cores are invited; if there will be room at a known time, the cores know that
  time;
- a core in ``_invited`` will ask or decline, and until then a permit is kept for it.

Where there are budgets, an attempt that weighs much may have to wait while lighter ones would fit. So that it
gets its turn, a core leaves enough of the budgets for cores that have waited for longer. It does not for a
core that let its time pass without asking: that core may have no call any more, or no worker that would make
it.

Permits go round among the cores that wait. A worker whose attempt worked keeps its permit for its next call,
without the lock, for as long as that takes nothing from any core: see `Places.reusable_era`.

Cores are told only while this lock is free. But while a thread holds it, a destructor or a signal handler may
submit in that thread, and wait for a core's lock. So a thread that holds a core's lock waits for this one
only briefly. After that it goes on as if it had been refused, and asks again in a moment.
"""

from __future__ import annotations

import math
import threading
import time
import weakref

from retrying_executor._common import forks, log
from retrying_executor._common.stdlib import is_held
from retrying_executor._upstream.gate import Permit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal, Protocol, TypeAlias

    from retrying_executor._common.values import Clock
    from retrying_executor._policy.verdict import Asked
    from retrying_executor._upstream.backlog import Backlog
    from retrying_executor._upstream.gate import Evidence, Gate, State

    Change: TypeAlias = Literal["upstream_held", "upstream_back"]

    class Listener(Protocol):
        """Is told that a service is held, or works again."""

        def upstream_changed(self, name: str, kind: Change, delay: float | None, reason: str, /) -> None: ...

    class Asker(Protocol):
        """A core, which asks whether an attempt may start."""

        def look_again(self, places: Places, opens_at: float, /) -> bool:
            """The service may be called again, now or at a certain time.

            Returns:
                Whether the core will ask then; if not, the permit goes to another core.
            """
            ...


def _import_learning() -> None:
    import retrying_executor._upstream.learning  # noqa: F401


forks.before_fork(_import_learning)  # else a child might wait for a thread that was importing it

_LOCK_TIMEOUT = 0.05  # seconds
_A_MOMENT = 0.001  # seconds
_KEPT_FOR = 0.1  # seconds past the time of a core, for which others still leave enough of a budget for it

# There may be very many upstreams. Few have a core that waits, or a listener: all others share these two,
# which stay empty.
_NOBODY_WAITS: weakref.WeakKeyDictionary[Asker, tuple[float, float]] = weakref.WeakKeyDictionary()
_NOBODY_LISTENS: weakref.WeakSet[Listener] = weakref.WeakSet()


class Places:
    """The machinery of one `Upstream`: what the cores ask, and tell.

    Cores call `ask` under their lock. A worker that goes on under a permit of the `reusable_era` takes only
    slots of the `gate`, under its own lock. All that may tell cores something (`end`, `decline`, `take_back`,
    `return_slots`, `step_out`, `weigh`, `pause`, `resume`) is called without a lock.

    Args:
        name: What to call the service in logs.
        limits: These in words, for messages: what comes after its name.
        new_gate: Makes a gate with these limits, given *random*.
        backlog: Counts the calls that are pending; ``None``: there is no limit on these.
    """

    def __init__(
        self, name: str, limits: str, new_gate: Callable[..., Gate], backlog: Backlog | None
    ) -> None:
        self.name = name
        self.backlog = backlog
        self.clock: Clock = time
        self._is_over: Callable[[], bool] = bool  # whether the time of `clock` has ended; ``bool()`` is false
        self._limits = limits
        self._new_gate = new_gate
        self.gate = new_gate(random=_random)
        # When each asks again, and with which weight, in the order in which they asked first. The references
        # are weak: a core that has a call to make is kept alive by a thread.
        self._waiting = _NOBODY_WAITS
        self._invited: dict[Asker, float] = {}  # and with which weight each was
        self._is_known_to_fail = False  # a warning has said that it is held
        self._listeners = _NOBODY_LISTENS
        self.reusable_era: int | None = None
        """The era of the permits under which attempts may follow each other without the lock.

        An attempt that worked leaves its permit to the next attempt of the same worker, while no core waits
        for one and the end of the attempt would tell nothing new. ``None``: none does. A worker reads this
        without the lock: so one more attempt may start after a core was refused, or after the first failure.
        """
        self._lock = threading.RLock()  # reentrant for the sake of destructors and signal handlers
        self._is_stopped = False  # for a fork
        self._note_era()
        forks.register_upstream(self)

    def __repr__(self) -> str:
        return f"<Upstream {self}>"

    def __str__(self) -> str:
        return f"{self.title} state={self.state}"

    @property
    def title(self) -> str:
        """Its name and limits, for messages."""
        return f"{self.name!r}{self._limits}"

    def alike(self, name: str) -> Places:
        """Return another one, with the same limits, of which nothing is known yet."""
        backlog = None if self.backlog is None else self.backlog.alike(name)
        return Places(name, self._limits, self._new_gate, backlog)

    @property
    def state(self) -> State:
        """What the service is doing; see `Upstream.state`."""
        return self.gate.state(self.clock.monotonic())

    @property
    def held_until(self) -> float | None:
        """When the hold ends, on the `clock`; ``None`` if there is none."""
        until = self.gate.held_until
        return until if until > self.clock.monotonic() else None

    @property
    def in_flight(self) -> int:
        """How many attempts are running."""
        return self.gate.in_flight

    @property
    def is_down(self) -> bool:
        """Whether it is held, or a probe has yet to get through."""
        return self.gate.is_down

    def is_as_new(self) -> bool:
        """Return whether it remembers nothing: another one with the same limits could take its place.

        Only for one that no call can start to use meanwhile. It never waits: while any thread is in the
        middle of something here, the answer is no.
        """
        if self.is_locked_here():
            return False
        try:
            if not self._lock.acquire(blocking=False):  # in here: a signal handler may raise right after it
                return False
            return self._is_over() or self.gate.is_as_new(self.clock.monotonic())
        finally:
            try:  # noqa: SIM105  # suppress() could be interrupted before it has begun
                self._lock.release()
            except RuntimeError:
                pass  # it was not taken

    def pause(self, length: float) -> None:
        """Hold the service for so many seconds from now on, whatever hold there is."""
        try:
            with self._lock:
                self.gate.hold(self.clock.monotonic() + length)
                self._note_era()  # else a worker that reads it without the lock would go on after pause()
            log.upstream_paused(self.name, length)
            self._inform("upstream_held", length, "paused")
            self._tell()
        except BaseException:  # of a signal handler: the cores that wait may not know yet
            self._tell()
            raise

    def resume(self) -> None:
        """End the hold, whatever made it."""
        try:
            with self._lock:
                was_held = self.held_until is not None
                self.gate.release()
            if was_held:
                log.upstream_resumed(self.name)
            self._tell()
        except BaseException:  # of a signal handler: the cores that wait may not know yet
            self._tell()
            raise

    def notify(self, listener: Listener) -> None:
        """From now on tell *listener* too when the service is held, and when it works again."""
        with self._lock:
            if self._listeners is _NOBODY_LISTENS:
                own: weakref.WeakSet[Listener] = weakref.WeakSet()
                # A destructor that interrupted the line above may have made one, and added its listener.
                self._listeners = own if self._listeners is _NOBODY_LISTENS else self._listeners
            self._listeners.add(listener)

    def attach(self, listener: Listener | None) -> None:
        """A core with threads uses it from now on.

        Args:
            listener: What is to be told of its holds, if anything is.

        Raises:
            ValueError: If it is in use in virtual time: times on that clock mean nothing to threads.
        """
        if self.clock is not time and self._is_over():
            self.start_afresh()
        if self.clock is not time:
            raise ValueError(
                f"upstream must not be used by an executor in virtual time: {self!r}; shut that down first"
            )
        if listener is not None:
            self.notify(listener)

    # -- for the cores ---------------------------------------------------------------------------

    def ask(self, core: Asker, weight: float = 1) -> Permit | float | None:
        """Let an attempt through, or say when to ask again. Called under the core's lock.

        Returns:
            A permit; or the time to ask again, where infinity means that the core will be told; or ``None``
            if the lock was not to be had: then an invitation stays open, and the core asks again in a moment.
        """
        if not self.lock_to_ask():
            return None
        try:
            began_at = self.take_slots(core, weight)
            return self.refuse(core, weight) if began_at is None else self.start(core, weight, began_at)
        finally:
            self.unlock()

    # These are the steps of `ask`: where an attempt needs several upstreams, each is done for all of them.

    def lock_to_ask(self) -> bool:
        """Take the lock; ``False``: its holder may be waiting for the core's lock, see above."""
        return self._lock.acquire(timeout=_LOCK_TIMEOUT)

    def unlock(self) -> None:
        """Give the lock back."""
        self._note_era()
        self._lock.release()

    def take_slots(self, core: Asker, weight: float) -> float | None:
        """Take slots for an attempt, if it may start now; return when that was, or ``None``."""
        now = self.clock.monotonic()
        may_start = self._opens_at(core, weight, now) <= now
        if not may_start or (core not in self._invited and self.gate.room() <= len(self._invited)):
            return None  # the second: what room there is, is kept for invited cores
        self.gate.refill(now)
        return self.gate.take_slots(now, self.clock.monotonic)

    def start(self, core: Asker, weight: float, began_at: float) -> Permit:
        """Let an attempt through for which slots were taken at *began_at*."""
        permit = self.gate.start(began_at, weight)
        permit.places = self
        self._waiting.pop(core, None)
        self._invited.pop(core, None)
        return permit

    def refuse(self, core: Asker, weight: float) -> float:
        """Have a core wait; return when it is to ask again."""
        self._invited.pop(core, None)
        now = self.clock.monotonic()
        opens = self._opens_at(core, weight, now)
        if opens <= now:
            # Either all room is kept for invited cores: then this one is told when one of them declines. Or a
            # worker took the last slot just now, without the lock: then a look in a moment says until when.
            opens = math.inf if self.gate.room() <= len(self._invited) else now + _A_MOMENT
        self._line()[core] = opens, weight
        return opens

    def _opens_at(self, core: Asker, weight: float, now: float) -> float:
        """Return from when on a core may start an attempt; infinity: not before another has ended."""
        opens = self.gate.open_at(weight)
        if opens > now or not self.gate.has_budgets:
            return opens
        others = [(now, other) for one, other in self._invited.items() if one is not core]
        for one, (asks_at, other) in list(self._waiting.items()):
            if one is core or core in self._invited:  # this core comes before those that are left
                break
            if asks_at == math.inf:
                others.append((now, other))
            elif now < asks_at + _KEPT_FOR:
                others.append((asks_at, other))
        if self.gate.leaves_enough(weight, others):
            return opens
        after_others = self.gate.open_at(weight, sum(other for _, other in others))
        return min(after_others, max(asks_at for asks_at, _ in others) + _KEPT_FOR)

    def return_slots(self, taken_at: float) -> None:
        """An attempt will not be made for which slots were taken at that time."""
        with self._lock:
            self.gate.return_slots(taken_at)
        self._tell()

    def take_back(self, permit: Permit) -> None:
        """An attempt that was let through will not be made. Doing so again changes nothing."""
        if not permit.is_over:
            with self._lock:
                self.gate.weigh(permit, 0)
            self.return_slots(permit.began_at)
            self.end(permit)

    def weigh(self, permit: Permit, weight: float) -> None:
        """An attempt that was let through takes *weight* of the budgets, not what was thought."""
        with self._lock:
            self.gate.weigh(permit, weight)
        self._tell()

    @property
    def most_weight(self) -> float:
        """How much an attempt may weigh."""
        return self.gate.most_weight

    def _line(self) -> weakref.WeakKeyDictionary[Asker, tuple[float, float]]:
        """Return where cores wait, to put one in."""
        if self._waiting is _NOBODY_WAITS:
            own: weakref.WeakKeyDictionary[Asker, tuple[float, float]] = weakref.WeakKeyDictionary()
            # A destructor that interrupted the line above may have made one, and put a core in.
            self._waiting = own if self._waiting is _NOBODY_WAITS else self._waiting
        return self._waiting

    def _note_era(self) -> None:
        """Note which permits are reusable: called when that may have changed, before the lock is released."""
        is_calm = self.gate.is_calm and not self._waiting and not self._invited
        self.reusable_era = self.gate.era if is_calm else None

    def end(
        self,
        permit: Permit,
        evidence: Evidence = "none",
        asked: Asked | None = None,
        exception: BaseException | None = None,
    ) -> None:
        """Take note that an attempt has ended; see `Gate.end`."""
        with self._lock:
            now = self.clock.monotonic()
            before, failures = self.gate.state(now), self.gate.failures + 1
            self.gate.end(permit, now, evidence, asked)
            self._note_era()
            after, held_for = self.gate.state(now), self.gate.held_until - now
        try:
            if after == "held" and before != "held":
                is_news = evidence == "failed" and before != "probing"
                self._is_known_to_fail |= is_news
                reason = _why_held(before, failures, asked, exception)
                log.upstream_held(self.name, held_for, reason, is_news=is_news)
                self._inform("upstream_held", held_for, reason)
            elif before == "probing" and after in ("ramping", "open"):
                was_news, self._is_known_to_fail = self._is_known_to_fail, False
                log.upstream_back(self.name, is_news=was_news)
                self._inform("upstream_back", None, "")
        finally:  # whatever a signal handler raises: cores may wait for what has ended
            self._tell()

    def _inform(self, kind: Change, delay: float | None, reason: str) -> None:
        """Tell the listeners that the service is held from now on, or works again."""
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener.upstream_changed(self.name, kind, delay, reason)

    def decline(self, core: Asker) -> None:
        """An invited core has nothing to start: the permit goes to another."""
        with self._lock:
            self._invited.pop(core, None)
            self._note_era()
        self._tell()

    def place_of(self, core: Asker) -> object:
        """Return the place of a core in the line: a new object each time that it asks. Needs no lock."""
        return self._waiting.get(core)

    def step_out(self, core: Asker, place: object) -> None:
        """A call of a core waits no more: what is kept for it is for other cores.

        Args:
            core: The core of the call.
            place: What `place_of` returned: the place that the core leaves, unless it has asked again since.
                ``None``: it leaves none.
        """
        with self._lock:
            if place is not None and self._waiting.get(core) is place:
                self._waiting.pop(core, None)
            self._note_era()
        self._tell()

    def _tell(self) -> None:
        """Tell the cores that wait what has changed: that there is room, or when to ask again.

        In each round the first core to which this is news is told, until it is news to none.
        """
        while True:
            core, weight = None, 0.0
            try:
                with self._lock:
                    now = self.clock.monotonic()
                    core, opens, weight = self._first_to_tell(now)
                    is_open = opens <= now
                    if core is None or (is_open and self.gate.room() <= len(self._invited)):
                        return
                    entry = self._line()[core] = opens, weight
                    if is_open:
                        self._waiting.pop(core, None)
                        self._invited[core] = weight
                        self._note_era()
                # Without the lock, since this takes the core's. Meanwhile another thread of the core may ask,
                # and be refused: then the entry is another object, of a call that waits, and has to stay.
                is_told = core.look_again(self, max(opens, now))
                if not is_told:
                    with self._lock:
                        self._invited.pop(core, None)
                        if self._waiting.get(core) is entry:
                            self._waiting.pop(core, None)
                        self._note_era()
            except BaseException:  # of a signal handler: the core may not know, and other cores wait
                if core is not None:
                    with self._lock:
                        self._invited.pop(core, None)
                        self._line()[core] = math.inf, weight
                        self._note_era()
                    self._tell()
                raise

    def _first_to_tell(self, now: float) -> tuple[Asker | None, float, float]:
        """Return which core to tell something, from when on it may start an attempt, and of which weight."""
        if not self.gate.has_budgets:  # then it is the same for all: they may be thousands
            opens = self.gate.open_at()
            if opens == math.inf:
                return None, math.inf, 0
            if opens <= now:
                for core, (_, weight) in self._waiting.items():
                    return core, opens, weight
        for core, (asks_at, weight) in list(self._waiting.items()):
            opens = self._opens_at(core, weight, now)
            if opens <= now or opens < asks_at:  # it may start now, or sooner than it would ask
                return core, opens, weight
        return None, math.inf, 0

    def start_afresh(
        self,
        clock: Clock = time,
        random: Callable[[], float] | None = None,
        is_over: Callable[[], bool] = bool,
    ) -> None:
        """Forget what is known, and go by another clock and source of jitter from now on.

        Args:
            clock: Tells the time.
            random: The source of jitter; ``None``: that of the standard library.
            is_over: Returns whether the time of that clock has ended.
        """
        with self._lock:
            self.clock = clock
            self._is_over = is_over
            self.gate = self._new_gate(random=random or _random)
            self._waiting.clear()
            self._invited.clear()
            if self.backlog is not None:
                self.backlog.clear()
            self._note_era()

    # -- around a fork ---------------------------------------------------------------------------

    def synchronize(self) -> None:
        """Wait until the lock is free."""
        with self._lock:
            pass

    def is_locked_here(self) -> bool:
        """Return whether this thread is in the middle of something here: it holds the lock."""
        return is_held(self._lock)

    def lock_for_fork(self, timeout: float) -> bool:
        """Before: take the lock, so that no other thread is in the middle of anything; return whether."""
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
        if self.backlog is not None:
            self.backlog.restart_in_child()
        self._is_stopped = False
        self._waiting.clear()
        self._invited.clear()
        self.gate.forget_flights()
        self._note_era()


def _why_held(before: State, failures: int, asked: Asked | None, exception: BaseException | None) -> str:
    """Return in words why a service is held."""
    if asked is not None:
        return asked.words
    last = "" if exception is None else log.describe(None, exception)
    if before == "probing":
        return f"the probe failed ({last})"
    if failures == 1:
        return f"an attempt failed ({last})"
    return f"{failures} attempts failed in a row, the last with {last}"


def _random() -> float:
    from random import random  # slow to import, and not every program has an upstream

    return random()
