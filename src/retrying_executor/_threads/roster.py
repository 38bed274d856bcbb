"""The worker threads: which rest, which leads, which is on its way, and how each is woken.

What there is to do is none of their business: that is decided under the core's lock, and this carries it out.
That lock guards all of it; methods that need no lock say so. What must stay true:

- At most ``size`` workers are members.
- A resting worker waits at its gate. To wake it, open the gate first, then take it out of ``_resting``;
  an interruption in between costs nothing, since a worker that wakes takes itself out.
- A gate may be opened by anybody at any time; `wake_all` does so without the lock. At worst the worker
  looks for work once in vain.
- At most one worker is on its way, woken or started but not arrived: it looks for what there is
  to do, and calls the next before it gets busy.
- A newborn is a member whose thread is still to be started, or is just being started: without the lock, see
  `start`. That may fail, so a newborn is not on its way, and nobody relies on it.
- At most one resting worker leads: it rests until the first retry is due, apart from the others, and is
  the last to be given other work.
- At most one worker ails: its initializer has failed, and it will try again. It takes no call, and while
  there is one, none is started.
- ``can_summon`` is looked at without the lock, by a thread that has just queued a call. While the lock is
  free it is right; before that it may be wrongly true, and wrongly false only while the thread that has the
  lock will look for calls again.

A worker has a lock of its own, for taking a call and for making it done: with one lock for all, workers
that make short calls would spend their time waiting for each other. Taking calls under a worker's own lock,
while others append without one, is safe only with the GIL. Without it, all share the core's lock.
"""

from __future__ import annotations

import math
import threading
from contextlib import suppress
from itertools import count

from retrying_executor._calls.call import Hand
from retrying_executor._common.stdlib import HAS_DAEMONS, HAS_GIL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from retrying_executor._calls.schedule import Schedule


class Worker(Hand):
    """A thread, with a call in its hand, and the gate to rest at.

    Args:
        index: Its number among the members of its crew.
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
        "thread",
    )

    thread: threading.Thread

    def __init__(self, index: int, lock: threading.RLock) -> None:
        super().__init__(threading.RLock() if HAS_GIL else lock)
        self.index = index
        self.acquire, self.release = self.lock.acquire, self.lock.release  # three times as fast as ``with``
        self.rests = False
        self.is_starting = False  # some thread is about to start this one's, or has done so
        self.gate = threading.Lock()  # held until it is opened
        self.gate.acquire()
        self.arrival: threading.Lock | None = threading.Lock()  # held until it first arrives, or is withdrawn
        self.arrival.acquire()

    def await_arrival(self, timeout: float) -> None:
        """Wait until it first arrives or is withdrawn, for *timeout* seconds at most. Needs no lock."""
        arrival = self.arrival
        if arrival is not None and arrival.acquire(timeout=timeout):
            arrival.release()  # others may wait too

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
        """Whether somebody rests or may be started or is being started, and nobody is on the way."""
        self._lock = lock
        self.members: dict[Worker, None] = {}  # a set in the order of their start
        self.newborns: list[Worker] = []
        self.is_starved = False  # the last start has failed
        self.on_the_way: Worker | None = None
        self._name = name
        self._daemon = daemon and HAS_DAEMONS
        self._resting: list[Worker] = []
        self._leading: Worker | None = None
        self._ailing: Worker | None = None
        self.leads_until = math.inf
        """When the leader looks again by itself."""
        self._departed: list[threading.Thread] = []

    @property
    def has_resting(self) -> bool:
        """Whether somebody rests."""
        return bool(self._resting) or self._leading is not None

    @property
    def has_leader(self) -> bool:
        """Whether somebody rests until the first retry is due."""
        return self._leading is not None

    def _count(self) -> None:
        """Somebody came, went, or was called."""
        has_room = len(self.members) < self.size and self._ailing is None
        self.can_summon = self.on_the_way is None and (
            has_room or bool(self._resting) or self._leading is not None or bool(self.newborns)
        )

    def summon(self, work: Callable[..., None], *args: object) -> None:
        """Wake a resting worker, or have a newborn if none rests: then its thread is to be started.

        Args:
            work: What the thread of a new worker runs, which is given as its last argument.
            args: The arguments before that.
        """
        worker = self._resting[-1] if self._resting else self._leading
        if worker is None:
            if not self.newborns:
                self._beget(work, args)
            return
        worker.wake()
        self._take_out(worker)
        self.on_the_way = worker  # not before: were it wrongly set, nobody else would be called
        self.can_summon = False

    def _beget(self, work: Callable[..., None], args: tuple[object, ...]) -> None:
        taken = {worker.index for worker in list(self.members)}
        index = next(index for index in count() if index not in taken)
        worker = Worker(index, self._lock)
        worker.thread = threading.Thread(
            target=work, args=(*args, worker), name=f"{self._name}_{index}", daemon=self._daemon
        )
        try:
            self.members[worker] = None
            if len(self.members) <= self.size:  # else a destructor that submits got in between
                self.newborns.append(worker)
        finally:
            if worker not in self.newborns:
                self.members.pop(worker, None)
            self._count()

    def start(self, worker: Worker) -> None:
        """Start the thread of a newborn, unless another thread does. Called without the lock.

        Any thread may do that which finds a newborn, so that none is forgotten where an interruption keeps
        the one that had it from coming here.

        Raises:
            Exception: What `threading.Thread.start` raises. Then the worker is no member any more.
        """
        is_mine = False
        self.threads()  # forgets those that have ended
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
        """A newborn runs, and is on its way if it has not arrived yet; or it does not, and is withdrawn."""
        if worker.arrival is None:
            return
        self.is_starved = not is_alive
        if not is_alive:
            self.members.pop(worker, None)
            worker.arrival.release()
            self._departed.append(worker.thread)  # where the start was interrupted it may come to life yet
        else:
            self.on_the_way = worker
        self.newborns.remove(worker)
        self._count()

    def arrive(self, worker: Worker) -> None:
        """Take note that a worker is awake and looks for something to do."""
        if self.on_the_way is worker or worker.rests:
            if self.on_the_way is worker:
                self.on_the_way = None
            if worker in self._resting or worker is self._leading:  # most often it has been taken out
                self._take_out(worker)
            worker.rests = False
            self._count()
        if worker.arrival is not None and worker in self.members:  # else its start was interrupted
            worker.arrival.release()
            worker.arrival = None
            self.is_starved = False
            if worker in self.newborns:  # the thread that has started it had no time to say so
                self.newborns.remove(worker)
                self._count()

    def ail(self, worker: Worker) -> bool:
        """A worker's initializer has failed: it will try again, or leaves at once if another will.

        Returns:
            Whether it stays.
        """
        if worker not in self.members or self._ailing not in (None, worker):  # or that is a forked child
            self.depart(worker)
            return False
        self._ailing = worker
        self._count()
        return True

    def recover(self, worker: Worker) -> None:
        """A worker is through its initializer: others may be started again, if none could because of it."""
        if self._ailing is worker:
            self._ailing = None
            self._count()

    def depart(self, worker: Worker) -> None:
        """A worker that does not rest is no member any more."""
        self.members.pop(worker, None)
        if self._ailing is worker:
            self._ailing = None
        self._count()
        self._departed.append(worker.thread)

    def rest(self, worker: Worker) -> None:
        """Publish that a worker rests from now on."""
        worker.rests = True
        self._resting.append(worker)
        self.can_summon = self.on_the_way is None

    def lead(self, worker: Worker) -> None:
        """Let a worker that rests do so until the first retry is due; see `leads_until`."""
        self.leads_until = math.inf  # whatever is due sooner wakes it
        self._leading = worker  # before it is taken out there, so that at any time it can be found
        with suppress(ValueError):  # it has just been woken
            self._resting.remove(worker)

    def follow(self, worker: Worker) -> None:
        """Let the leader rest like the others: there is no retry."""
        self._resting.append(worker)  # first, so that at any time it can be found
        self._leading = None

    def leave(self, worker: Worker) -> bool:
        """Let a resting worker go; return ``False`` if it was woken instead.

        First it is no member any more, and cannot be woken: from then on a new one can be started.
        Only then it looks whether it was woken before.
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
        """Make the leader look again if the first retry may be due sooner, or there is none."""
        leader = self._leading
        if leader is None:
            return
        due_at = schedule.first_due_at()
        if due_at is None or due_at < self.leads_until:
            leader.wake()
            self._take_out(leader)
            self._count()

    def wake_all(self) -> None:
        """Make every worker that rests look again whether to stay. Needs no lock."""
        for worker in self._resting.copy():
            worker.wake()
        for other in (self._leading, self._ailing):
            if other is not None:
                other.wake()

    def _take_out(self, worker: Worker) -> None:
        if self._leading is worker:
            self._leading = None
        try:
            self._resting.remove(worker)
        except ValueError:
            return  # it is out already

    def threads(self) -> list[threading.Thread]:
        """Return the threads that have been started and have not ended. Called without the lock.

        Before Python 3.13 `Thread.is_alive` may take a lock of `threading`, which another thread may hold
        while a destructor that has interrupted it waits for the core's.
        """
        with self._lock:
            members, departed = list(self.members), self._departed.copy()
        threads = [*(worker.thread for worker in members), *departed]
        ended = {thread for thread in threads if not thread.is_alive()}
        for thread in ended:
            with suppress(ValueError):  # it has not departed, or another thread was faster
                self._departed.remove(thread)
        return [thread for thread in threads if thread not in ended]

    def includes_current_thread(self) -> bool:
        """Return whether this is called by a worker."""
        current = threading.get_ident()  # current_thread() takes a lock where it does not know the thread
        return any(worker.thread.ident == current for worker in list(self.members))
