"""The worker threads: who rests, who leads, who is on the way, and how each is woken.

What there is to do is none of their business: the pool decides, under its lock, and this carries
it out. The pool's lock guards all of it; methods that need no lock say so. What must stay true:

- At most ``size`` workers are members.
- A resting worker waits at a gate, made for that one rest. To wake it, open the gate first, then
  take the rest out of ``_resting``; an interruption in between costs nothing, since a worker that
  wakes takes its rest out itself, and opening an open gate does nothing.
- A rest in ``_resting`` may be opened by anybody; `wake_all` does so without the lock.
- At most one worker is on its way, woken or started but not arrived: it looks for what there is
  to do, and calls the next before it gets busy.
- At most one resting worker leads: it rests until the first retry is due. It is at the bottom
  of ``_resting``, so it is the last to be given other work.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from itertools import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from retrying_executor._future import Ending, RetryingFuture


class Rest:
    """One time that a worker rests: at a gate, a lock that is held until it is opened."""

    __slots__ = ("gate", "worker")

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.gate = threading.Lock()
        self.gate.acquire()

    def open(self) -> None:
        """Wake the worker, or keep it from falling asleep. Needs no lock."""
        with suppress(RuntimeError):  # it is open already
            self.gate.release()


class Worker:
    """A thread, the call it runs, what to finish that with, and its rest if it has one."""

    __slots__ = ("arrival", "call", "ending", "index", "rest", "thread")

    thread: threading.Thread

    def __init__(self, index: int) -> None:
        self.index = index
        self.call: RetryingFuture[Any] | None = None
        self.ending: Ending | None = None
        self.rest: Rest | None = None
        self.arrival: threading.Lock | None = threading.Lock()  # held until it arrives for the first time
        self.arrival.acquire()


class Crew:
    """Up to *size* workers, started when needed.

    Args:
        size: How many workers there may be; 1 or more.
        name: Prefix of the threads' names.
        daemon: Whether the interpreter may end while a worker still works.
    """

    def __init__(self, *, size: int, name: str, daemon: bool) -> None:
        self.size = size
        self.members: dict[Worker, None] = {}  # a set in the order of their start
        self.on_the_way: Worker | None = None
        self._name = name
        self._daemon = daemon
        self._resting: list[Rest] = []
        self._leading: Rest | None = None
        self._departed: list[threading.Thread] = []

    @property
    def has_resting(self) -> bool:
        """Whether somebody rests."""
        return bool(self._resting)

    @property
    def has_leader(self) -> bool:
        """Whether somebody rests until the first retry is due."""
        return self._leading in self._resting[:1]

    @property
    def can_summon(self) -> bool:
        """Whether somebody rests or may be started, and nobody is on the way."""
        return self.on_the_way is None and (bool(self._resting) or len(self.members) < self.size)

    def summon(self, work: Callable[[Worker], None]) -> None:
        """Wake a resting worker, or start one if none rests.

        Args:
            work: What the thread of a new worker runs.

        Raises:
            RuntimeError: If a thread cannot be started.
        """
        if not self._resting:
            self._start(work)
            return
        rest = self._resting[-1]
        rest.open()
        self._take_out(rest)
        self.on_the_way = rest.worker  # not before: were it wrongly set, nobody else would be called

    def _start(self, work: Callable[[Worker], None]) -> None:
        taken = {worker.index for worker in self.members}
        index = next(index for index in count() if index not in taken)
        worker = Worker(index)
        worker.thread = threading.Thread(
            target=work, args=(worker,), name=f"{self._name}_{index}", daemon=self._daemon
        )
        try:
            self.members[worker] = None
            if len(self.members) <= self.size:  # else a destructor that submits got in between
                worker.thread.start()
                self.on_the_way = worker
        finally:
            if self.on_the_way is not worker:
                self.members.pop(worker, None)

    def arrive(self, worker: Worker) -> None:
        """Take note that a worker is awake and looks for something to do."""
        if self.on_the_way is worker:
            self.on_the_way = None
        if worker.arrival is not None:
            worker.arrival.release()
            worker.arrival = None
        if worker.rest is not None:
            self._take_out(worker.rest)
            worker.rest = None

    def rest(self, worker: Worker, *, leading: bool) -> Rest:
        """Publish that a worker rests from now on."""
        worker.rest = rest = Rest(worker)
        if leading:
            self._leading = rest
            self._resting.insert(0, rest)
        else:
            self._resting.append(rest)
        return rest

    def leave(self, worker: Worker, rest: Rest) -> bool:
        """Let a resting worker go; return ``False`` if it was woken instead.

        First it is no member any more, and cannot be woken: from then on a new one can be started.
        Only then it looks whether it was woken before.
        """
        self.members.pop(worker, None)
        self._take_out(rest)
        if not rest.gate.locked():
            self.members[worker] = None
            return False
        self._departed = [thread for thread in self._departed if thread.is_alive()]
        self._departed.append(worker.thread)
        return True

    def wake_leader(self) -> None:
        """Make the leader look again when the first retry is due."""
        if self._leading is not None:
            self._leading.open()
            self._take_out(self._leading)

    def wake_all(self) -> None:
        """Make everybody who rests look again whether to stay. Needs no lock."""
        for rest in self._resting.copy():
            rest.open()

    def _take_out(self, rest: Rest) -> None:
        with suppress(ValueError):  # it is out already
            self._resting.remove(rest)

    def threads(self) -> list[threading.Thread]:
        """Return the threads that have not ended."""
        threads = [worker.thread for worker in self.members] + self._departed
        return [thread for thread in threads if thread.is_alive()]

    def includes_current_thread(self) -> bool:
        """Return whether this is called by a worker."""
        current = threading.current_thread()
        return any(worker.thread is current for worker in self.members)
