"""The worker threads: who rests, who leads, who is on the way, and how each is woken.

What there is to do is none of their business: the pool decides, under its lock, and this carries
it out. The pool's lock guards all of it; methods that need no lock say so. What must stay true:

- At most ``size`` workers are members.
- A resting worker waits at a gate, a lock made for that one rest. Whoever takes the rest out of
  ``_resting``, by a single operation of that list, has the right and the duty to open its gate.
- ``_resting`` alone is changed without the lock too (`wake_all`), by such operations. So nobody
  may look at its length and then at an entry.
- At most one worker is on its way, woken or started but not arrived: it looks for what there is
  to do, and calls the next before it gets busy.
- At most one resting worker leads: it rests until the first retry is due. It is at the bottom
  of ``_resting``, so it is the last to be given other work.
"""

from __future__ import annotations

import threading
from itertools import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from retrying_executor._future import Ending, RetryingFuture


class Rest:
    """One time that a worker rests, at a gate that is shut."""

    __slots__ = ("gate", "worker")

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.gate = threading.Lock()
        self.gate.acquire()


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
        self.members: set[Worker] = set()
        self.on_the_way: Worker | None = None
        self._name = name
        self._daemon = daemon
        self._resting: list[Rest] = []
        self._leading: Rest | None = None
        self._departed: set[threading.Thread] = set()

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
        try:
            rest = self._resting.pop()
        except IndexError:
            self._start(work)
        else:
            rest.gate.release()
            self.on_the_way = rest.worker  # not before: were it wrongly set, nobody else would be called

    def _start(self, work: Callable[[Worker], None]) -> None:
        taken = {worker.index for worker in self.members}
        index = next(index for index in count() if index not in taken)
        worker = Worker(index)
        worker.thread = threading.Thread(
            target=work, args=(worker,), name=f"{self._name}_{index}", daemon=self._daemon
        )
        self.members.add(worker)
        try:
            if len(self.members) <= self.size:  # else a destructor that submits got in between
                worker.thread.start()
                self.on_the_way = worker
        finally:
            if self.on_the_way is not worker:
                self.members.discard(worker)

    def arrive(self, worker: Worker) -> None:
        """Take note that a worker is awake and looks for something to do."""
        if self.on_the_way is worker:
            self.on_the_way = None
        if worker.arrival is not None:
            worker.arrival.release()
            worker.arrival = None
        if worker.rest is not None:
            self._claim(worker.rest)
            worker.rest = None

    def rest(self, worker: Worker, *, leading: bool) -> threading.Lock:
        """Publish that a worker rests from now on, and return the gate that anybody may open."""
        worker.rest = rest = Rest(worker)
        if leading:
            self._leading = rest
            self._resting.insert(0, rest)
        else:
            self._resting.append(rest)
        return rest.gate

    def leave(self, worker: Worker) -> bool:
        """Let a resting worker go; return ``False`` if it was woken instead.

        It leaves first and is then taken out of ``_resting``: until that succeeds it can be
        woken, and from then on a new one can be started.
        """
        self.members.discard(worker)
        if worker.rest is None or not self._claim(worker.rest):
            self.members.add(worker)
            return False
        self._departed = {thread for thread in self._departed if thread.is_alive()}
        self._departed.add(worker.thread)
        return True

    def wake_leader(self) -> None:
        """Make the leader look again when the first retry is due."""
        leading = self._leading
        if leading is not None and self._claim(leading):
            leading.gate.release()

    def wake_all(self) -> None:
        """Make everybody who rests look again whether to stay. Needs no lock."""
        while True:
            try:
                rest = self._resting.pop()
            except IndexError:
                return
            rest.gate.release()

    def _claim(self, rest: Rest) -> bool:
        """Take *rest* out of ``_resting``; return whether that is now up to the caller."""
        try:
            self._resting.remove(rest)
        except ValueError:
            return False
        return True

    def threads(self) -> list[threading.Thread]:
        """Return the threads that have not ended."""
        threads = [worker.thread for worker in self.members] + list(self._departed)
        return [thread for thread in threads if thread.is_alive()]

    def includes_current_thread(self) -> bool:
        """Return whether this is called by a worker."""
        current = threading.current_thread()
        return any(worker.thread is current for worker in self.members)
