"""The worker threads: who rests, who leads, who is on the way, and how each is woken.

What there is to do is none of their business: the pool decides, under its lock, and this carries
it out. The pool's lock guards all of it; methods that need no lock say so. What must stay true:

- At most ``size`` workers are members.
- A resting worker waits on a gate of its own, a lock made for that one rest. Whoever takes it out
  of ``_resting``, by a single operation of that list, has the right and the duty to open the gate.
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

    from retrying_executor._future import Outcome, RetryingFuture
    from retrying_executor._log import UnseenFailure


class Worker:
    """A thread, the call it runs, what to finish that with, and the gate at which it rests."""

    __slots__ = ("arrival", "call", "gate", "index", "outcome", "thread")

    thread: threading.Thread

    def __init__(self, index: int) -> None:
        self.index = index
        self.call: RetryingFuture[Any] | None = None
        self.outcome: tuple[Outcome, UnseenFailure | None] | None = None
        self.gate: threading.Lock | None = None
        self.arrival: threading.Lock | None = threading.Lock()  # held until it arrives for the first time
        self.arrival.acquire()

    def wake(self) -> None:
        """Open the gate; for whoever took the worker out of ``_resting``."""
        if self.gate is not None:  # always: it rests
            self.gate.release()


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
        self._resting: list[Worker] = []
        self._leader: Worker | None = None
        self._departed: set[threading.Thread] = set()

    @property
    def has_resting(self) -> bool:
        """Whether somebody rests."""
        return bool(self._resting)

    @property
    def has_leader(self) -> bool:
        """Whether somebody rests until the first retry is due."""
        return bool(self._resting) and self._resting[0] is self._leader

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
            worker = self._resting.pop()
        except IndexError:
            self._start(work)
        else:
            worker.wake()
            self.on_the_way = worker  # not before: were it wrongly set, nobody else would be called

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
        if worker.gate is not None:
            self._claim(worker)
            worker.gate = None

    def rest(self, worker: Worker, *, leading: bool) -> threading.Lock:
        """Publish that a worker rests from now on, and return the gate that anybody may open."""
        worker.gate = gate = threading.Lock()
        gate.acquire()
        if leading:
            self._leader = worker
            self._resting.insert(0, worker)
        else:
            self._resting.append(worker)
        return gate

    def leave(self, worker: Worker) -> bool:
        """Let a resting worker go; return ``False`` if it was woken instead.

        It leaves first and is then taken out of ``_resting``: until that succeeds it can be
        woken, and from then on a new one can be started.
        """
        self.members.discard(worker)
        if not self._claim(worker):
            self.members.add(worker)
            return False
        self._departed = {thread for thread in self._departed if thread.is_alive()}
        self._departed.add(worker.thread)
        return True

    def wake_leader(self) -> None:
        """Make the leader look again when the first retry is due."""
        leader = self._leader
        if leader is not None and self._claim(leader):
            leader.wake()

    def wake_all(self) -> None:
        """Make everybody who rests look again whether to stay. Needs no lock."""
        while True:
            try:
                worker = self._resting.pop()
            except IndexError:
                return
            worker.wake()

    def _claim(self, worker: Worker) -> bool:
        """Take *worker* out of ``_resting``; return whether that is now up to the caller."""
        try:
            self._resting.remove(worker)
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
