"""The worker threads: which rest, which leads, which is on its way, and how each is woken.

The core decides what there is to do; the roster only wakes, starts and lists workers. The core's lock guards
all of it; a method that needs no lock says so. What must stay true:

- At most ``size`` workers are members.
- A resting worker waits at its *gate*. To wake it, open the gate first, then take it out of ``_resting``. An
  interruption in between does no harm, since a worker that wakes takes itself out.
- Any thread may open a gate at any time; `wake_all` does so without the lock. At worst the worker looks for
  work once in vain.
- At most one worker is *on its way*: woken or started, but not arrived. It looks for work, and summons the
  next worker before it gets busy.
- A *newborn* is a member whose thread is still to be started, or is just being started. Starting happens
  without the lock, see `start`, and may fail. So a newborn is not on its way, and `Threads` keeps a list of
  the calls that depend on it.
- At most one resting worker *leads*: it rests until the first retry is due. It is not in ``_resting``, and is
  woken for other work only when no other worker rests.
- At most one worker *recovers*: its initializer has failed, and it will try again. Meanwhile it takes no
  call, and no other thread is started.
- ``can_summon`` is read without the lock, by a thread that has just queued a call. It is right while the lock
  is free. While a thread holds the lock, it may be wrongly true. It may be wrongly false only if that thread
  will look for calls once more.

Each worker has its own lock, for taking a call and for making it done. With one lock for all, workers that
make short calls would spend their time waiting for each other. Taking calls under a worker's own lock, while
others append without one, is safe only with the GIL. Without it, all share the core's lock.
"""

from __future__ import annotations

import math
import threading
from contextlib import suppress
from itertools import count

from retrying_executor._calls.call import Hand
from retrying_executor._common.stdlib import HAS_DAEMONS, HAS_GIL, own_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from retrying_executor._calls.schedule import Schedule
    from retrying_executor._engines.engine import Runner


class Worker(Hand):
    """A thread that makes attempts, and the gate at which it rests.

    Args:
        index: Its number among the members of the roster.
        lock: The core's.
    """

    __slots__ = (
        "acquire",
        "arrival",
        "gate",
        "index",
        "is_starting",
        "release",
        "rests",
        "runner",
        "thread",
    )

    thread: threading.Thread

    def __init__(self, index: int, lock: threading.RLock) -> None:
        super().__init__(threading.RLock() if HAS_GIL else lock)
        self.index = index
        self.acquire, self.release = self.lock.acquire, self.lock.release  # three times as fast as ``with``
        self.rests = False
        self.runner: Runner | None = None  # what its attempts run on, if not in its thread
        self.is_starting = False  # whether a thread has begun to start this worker's thread, or has done so
        self.gate = threading.Lock()  # held until it is opened
        self.gate.acquire()
        self.arrival: threading.Lock | None = threading.Lock()  # held until it first arrives, or is withdrawn
        self.arrival.acquire()

    def await_arrival(self, timeout: float) -> None:
        """Wait until the worker first arrives or is withdrawn, at most *timeout* seconds. Needs no lock."""
        arrival = self.arrival
        if arrival is not None and arrival.acquire(timeout=timeout):
            arrival.release()  # for the next thread that waits here

    def wake(self) -> None:
        """Open the gate: the worker wakes, or does not fall asleep. Needs no lock."""
        try:  # not suppress(), which takes longer than all the rest
            self.gate.release()
        except RuntimeError:
            return  # it is open already


class Roster:
    """Up to *size* workers, started when needed.

    Args:
        size: How many workers there may be; 1 or more.
        name: Prefix of the threads' names.
        daemon: Whether the interpreter may end while a worker still works, where it allows that.
        lock: The core's.
    """

    def __init__(self, *, size: int, name: str, daemon: bool, lock: threading.RLock) -> None:
        self.size = size
        self.can_summon = True
        """Whether no worker is on its way, and one rests, may be started, or is being started."""
        self._lock = lock
        self.members: dict[Worker, None] = {}  # a set in the order of their start
        self.newborns: list[Worker] = []
        self.is_starved = False  # whether the last start of a thread failed
        self.on_the_way: Worker | None = None
        self._name = name
        self._daemon = daemon and HAS_DAEMONS
        self._resting: list[Worker] = []
        self._leading: Worker | None = None
        self._recovering: Worker | None = None
        self.leads_until = math.inf
        """Until when the leader rests, unless it is woken."""
        self._departed: list[threading.Thread] = []

    @property
    def has_resting(self) -> bool:
        """Whether a worker rests, leading or not."""
        return bool(self._resting) or self._leading is not None

    @property
    def has_leader(self) -> bool:
        """Whether a worker rests until the first retry is due."""
        return self._leading is not None

    def _count(self) -> None:
        """Update ``can_summon``: a worker came, went, or was summoned."""
        has_room = len(self.members) < self.size and self._recovering is None
        self.can_summon = self.on_the_way is None and (
            has_room or bool(self._resting) or self._leading is not None or bool(self.newborns)
        )

    def summon(self, work: Callable[..., None], *args: object) -> None:
        """Wake a resting worker; if none rests, add a newborn, whose thread the caller is to start.

        Args:
            work: What the thread of a new worker runs. The worker is its last argument.
            args: The arguments before that.
        """
        worker = self._resting[-1] if self._resting else self._leading
        if worker is None:
            if not self.newborns:
                self._add_newborn(work, args)
            return
        worker.wake()
        self._take_out(worker)
        self.on_the_way = worker  # last: if it were set and the worker not woken, no other would be summoned
        self.can_summon = False

    def _add_newborn(self, work: Callable[..., None], args: tuple[object, ...]) -> None:
        taken = {worker.index for worker in list(self.members)}
        index = next(index for index in count() if index not in taken)
        worker = Worker(index, self._lock)
        worker.thread = threading.Thread(
            target=work,
            args=(*args, worker),
            name=f"{self._name}_{index}",
            daemon=self._daemon,
            **own_context(),
        )
        try:
            self.members[worker] = None
            if len(self.members) <= self.size:  # else a destructor has submitted meanwhile, and added one
                self.newborns.append(worker)
        finally:
            if worker not in self.newborns:
                self.members.pop(worker, None)
            self._count()

    def start(self, worker: Worker) -> None:
        """Start the thread of a newborn, unless another thread does. Called without the lock.

        Any thread that finds a newborn may do this. So no newborn is forgotten if an interruption keeps the
        thread that added it from coming here.

        Raises:
            Exception: What `threading.Thread.start` raises. Then the worker is no member any more.
        """
        is_mine = False
        self.threads()  # forgets the threads that have ended
        try:
            with self._lock:
                if worker.is_starting:
                    return
                is_mine = worker.is_starting = True
            worker.thread.start()
        finally:
            if is_mine:
                is_alive = worker.thread.is_alive()
                with self._lock:
                    self._end_birth(worker, is_alive=is_alive)

    def withdraw(self, worker: Worker) -> None:
        """A newborn will not be started after all, unless a thread does so already."""
        with self._lock:
            if not worker.is_starting:
                worker.is_starting = True
                self._end_birth(worker, is_alive=False)

    def _end_birth(self, worker: Worker, *, is_alive: bool) -> None:
        """A newborn was started, and is on its way unless it has arrived; or it was not, and is withdrawn."""
        if worker.arrival is None:
            return
        self.is_starved = not is_alive
        if not is_alive:
            self.members.pop(worker, None)
            worker.arrival.release()
            self._departed.append(worker.thread)  # an interrupted start may still bring it to life
        else:
            self.on_the_way = worker
        self.newborns.remove(worker)
        self._count()

    def arrive(self, worker: Worker) -> None:
        """A worker is awake and looks for work."""
        if self.on_the_way is worker or worker.rests:
            if self.on_the_way is worker:
                self.on_the_way = None
            if worker in self._resting or worker is self._leading:  # most often `summon` has taken it out
                self._take_out(worker)
            worker.rests = False
            self._count()
        # If it is no member, its start was interrupted, and it was withdrawn.
        if worker.arrival is not None and worker in self.members:
            worker.arrival.release()
            worker.arrival = None
            self.is_starved = False
            if worker in self.newborns:  # it was faster than `_end_birth` in the thread that started it
                self.newborns.remove(worker)
                self._count()

    def start_recovery(self, worker: Worker) -> bool:
        """A worker's initializer has failed: it recovers, or leaves at once if another worker recovers.

        Returns:
            Whether it stays.
        """
        if worker not in self.members or self._recovering not in (None, worker):  # or this is a forked child
            self.depart(worker)
            return False
        self._recovering = worker
        self._count()
        return True

    def end_recovery(self, worker: Worker) -> None:
        """A worker's initializer has worked. If the worker was recovering, others may be started again."""
        if self._recovering is worker:
            self._recovering = None
            self._count()

    def depart(self, worker: Worker) -> None:
        """A worker that does not rest leaves."""
        self.members.pop(worker, None)
        if self._recovering is worker:
            self._recovering = None
        self._count()
        self._departed.append(worker.thread)

    def rest(self, worker: Worker) -> None:
        """A worker rests from now on; publish that it can be summoned."""
        worker.rests = True
        self._resting.append(worker)
        self.can_summon = self.on_the_way is None

    def lead(self, worker: Worker) -> None:
        """Let a resting worker lead. The caller sets `leads_until` afterwards."""
        self.leads_until = math.inf  # until then any retry that is added wakes it
        self._leading = worker  # before it leaves ``_resting``: `wake_all`, without the lock, must find it
        with suppress(ValueError):  # it has just been woken
            self._resting.remove(worker)

    def follow(self, worker: Worker) -> None:
        """Let the leader rest like the others, since there is no retry."""
        self._resting.append(worker)  # first, as in `lead`
        self._leading = None

    def leave(self, worker: Worker) -> bool:
        """Let a resting worker leave; return ``False`` if it was woken before that, and stays.

        First it is no member any more, so that from then on a submitter has another one started instead of
        waking it. Only then look whether it was woken before. The other way round, a call could rely on a
        worker that leaves.
        """
        self.members.pop(worker, None)
        self._take_out(worker)
        self._count()
        if worker.gate.acquire(blocking=False):
            self.members[worker] = None
            self._count()
            return False
        self._departed.append(worker.thread)
        return True

    def due_at_changed(self, schedule: Schedule) -> None:
        """Wake the leader if the first retry is due sooner than it thinks, or if there is none any more."""
        leader = self._leading
        if leader is None:
            return
        due_at = schedule.first_due_at()
        if due_at is None or due_at < self.leads_until:
            leader.wake()
            self._take_out(leader)
            self._count()

    def wake_all(self) -> None:
        """Wake every worker that rests or recovers, so that it looks whether to stay. Needs no lock."""
        for worker in self._resting.copy():
            worker.wake()
        for other in (self._leading, self._recovering):
            if other is not None:
                other.wake()

    def _take_out(self, worker: Worker) -> None:
        if self._leading is worker:
            self._leading = None
        try:
            self._resting.remove(worker)
        except ValueError:
            return  # it was not there

    def threads(self) -> list[threading.Thread]:
        """Return the threads that have been started and have not ended. Called without the lock.

        Before Python 3.13 `Thread.is_alive` may take a lock of `threading`. Another thread may hold that
        lock, be interrupted by a destructor, and wait for the core's lock in there.
        """
        with self._lock:
            members, departed = list(self.members), self._departed.copy()
        threads = [*(worker.thread for worker in members), *departed]
        ended = {thread for thread in threads if not thread.is_alive()}
        for thread in ended:
            with suppress(ValueError):  # it has not departed, or another thread has removed it
                self._departed.remove(thread)
        return [thread for thread in threads if thread not in ended]

    def includes_current_thread(self) -> bool:
        """Return whether this is called by a worker."""
        current = threading.get_ident()  # current_thread() takes a lock if it does not know the thread
        return any(worker.thread.ident == current for worker in list(self.members))
