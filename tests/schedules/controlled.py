"""Runs threads one at a time, and decides at each of their operations which goes on.

During a `Run` the locks, threads and clock of the standard library are replaced by controlled ones.
Exactly one task has the baton. It hands the baton on at every operation that another task could
notice: taking and giving back a lock, starting and joining a thread, sleeping. Who gets it is up to
a *strategy*, so that a run is a function of the program and of the choices.

The clock is one more competitor: whenever somebody waits with a timeout, time may pass to the first
deadline, however much the others still have to do. So every timeout fires early in some runs, and
late in others. Otherwise no time passes. Asking for the time is a step too, but only the clock can go
first there: who asks changes nothing that another task could see.

Locks that were made before a run, such as those of modules, are the real ones. Nobody may hold one
of them across an operation that hands the baton on.

Tasks are carried by greenlets where they are installed, which is faster, and else by threads. That
makes no difference to the choices.
"""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from strategies import CLOCK, Strategy

try:
    import greenlet
except ImportError:
    greenlet = None  # type: ignore[assignment]

T = TypeVar("T")

MAX_STEPS = 100_000
"""A run with more steps than that will not end."""


class RunError(Exception):
    """A run that went wrong: a deadlock, no end, or an exception that a task did not catch."""


class Abort(BaseException):
    """Unwinds what a failed run leaves behind."""


# -- who carries a task ---------------------------------------------------------------------------


class ThreadCarrier:
    """Carries a task on a thread, which waits at a gate while somebody else has the baton."""

    def __init__(self, work: Callable[[], None] | None) -> None:
        """Carry *work*; ``None``: whatever this thread is doing."""
        self._gate = _thread.allocate_lock()
        self._gate.acquire()
        self._work = work

    def begin(self, main: ThreadCarrier) -> None:
        _thread.start_new_thread(self._carry, ())

    def _carry(self) -> None:
        self._gate.acquire()
        self._work()

    def hand_on(self, to: ThreadCarrier) -> None:
        """Give the baton away, and return when it comes back."""
        to._gate.release()
        self._gate.acquire()

    def end(self, to: ThreadCarrier) -> None:
        """Give the baton away for good; the last thing that is carried."""
        to._gate.release()


class GreenletCarrier:
    """Carries a task on a greenlet."""

    def __init__(self, work: Callable[[], None] | None) -> None:
        self._greenlet = greenlet.getcurrent() if work is None else greenlet.greenlet(work)

    def begin(self, main: GreenletCarrier) -> None:
        self._greenlet.parent = main._greenlet  # it begins to run when it gets the baton

    def hand_on(self, to: GreenletCarrier) -> None:
        to._greenlet.switch()

    def end(self, to: GreenletCarrier) -> None:
        self._greenlet.parent = to._greenlet  # where it goes when it returns


# -- tasks and the run ----------------------------------------------------------------------------


class Task:
    """A thread of the program."""

    def __init__(self, index: int, name: str, work: Callable[[], None] | None, carrier: type) -> None:
        self.index = index
        self.name = name
        self.carrier = carrier(work)
        self.thread: object = None  # what the program knows it as
        self.holder: object = None  # see `announced`
        self.ready: Callable[[], bool] | None = None
        self.waits_for = ""
        self.deadline: float | None = None
        self.expired = False
        self.ended = False
        self.aborted = False

    def can_go_on(self) -> bool:
        return not self.ended and (self.ready is None or self.expired or self.ready())


class Run:
    """One run of a program under control.

    Args:
        strategy: Makes the choices.
        greenlets: Whether to use greenlets; the default is whether they are installed.

    Attributes:
        now: What time it is.
        choices: The choices made so far; `strategies.Recorded` makes them again.
        log: Who got the baton at each step; "clock" where time passed.
        rushed: How much time passed although somebody could go on.
        stride: How many steps of `accesses` to pass by before somebody else may go on.
        may_start: Called with the name of a thread: whether it can be started.
        on_idle: Called with the time that comes next when nobody can go on before.
    """

    active: Run | None = None

    def __init__(
        self,
        strategy: Strategy,
        *,
        greenlets: bool = greenlet is not None,
    ) -> None:
        self._strategy = strategy
        self._carrier = GreenletCarrier if greenlets else ThreadCarrier
        self.now = 1000.0
        self.rushed = 0.0
        self.stride = 0
        self.may_start: Callable[[str], bool] = lambda name: True
        self.choices: list[int] = []
        self.log: list[str] = []  # which task or the clock got the baton, in the order of the steps
        self.steps = 0
        self.on_idle: Callable[[float], object] = lambda now: None
        self._is_looking = False  # on_idle runs: it is no part of the program, and takes no steps
        self._failure: BaseException | None = None
        self._main = Task(0, "main", None, self._carrier)
        self._tasks = [self._main]
        self.current = self._main

    def __call__(self, program: Callable[[], None]) -> None:
        """Run the program and the threads that it starts, to the end of the last of them.

        Raises:
            RunError: If that went wrong; its cause says how.
        """
        with self._in_control():
            try:
                program()
                self.join_all()
            except Abort:
                pass
            except BaseException as error:
                self.fail(error)
            self._unwind()
        if self._failure is not None:
            raise RunError(f"{type(self._failure).__name__}: {self._failure}") from self._failure

    @contextmanager
    def _in_control(self) -> Iterator[None]:
        assert Run.active is None
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in REPLACED]
        Run.active = self
        try:
            for owner, name, controlled in REPLACED:
                setattr(owner, name, controlled)
            yield
        finally:
            for owner, name, real in before:
                setattr(owner, name, real)
            Run.active = None

    # -- for the controlled objects --------------------------------------------------------------

    def spawn(self, name: str, work: Callable[[], None]) -> Task:
        """Add a task; it competes from now on."""

        def carried(*_: object) -> None:  # a greenlet that begins when another ends gets what that returns
            try:
                if not task.aborted:
                    work()
            except Abort:
                pass
            except BaseException as error:
                self.fail(error)
            task.ended = True
            task.carrier.end(self._next().carrier)

        task = Task(len(self._tasks), name, carried, self._carrier)
        self._tasks.append(task)
        task.carrier.begin(self._main.carrier)
        return task

    def let_time_pass(self) -> None:
        """Let the clock go first, or not: nobody else could notice what follows."""
        if self.current.aborted:
            self._park(self.current)
        while (deadline := self._first_deadline()) is not None and self._failure is None:
            if not self._choose([self.current.index, CLOCK], current=True):
                return
            self._tick(deadline, rushed=True)

    def switch(self) -> None:
        """Let others go first, or not."""
        if not self._is_looking:
            self.wait_until(None)

    def stop_over(self) -> None:
        """Let others go first, or not, in the middle of what no lock divides, and not again for a while."""
        if not self._is_looking and self._failure is None:
            self.stride = self._try(self._strategy.stride) or 0
            self.choices.append(self.stride)
            self.wait_until(None)

    def wait_until(
        self, ready: Callable[[], bool] | None, timeout: float | None = None, what: str = ""
    ) -> bool:
        """Hand the baton on until *ready*, or until time is up; return whether it is ready."""
        task = self.current
        if task.aborted:
            self._park(task)
        task.ready, task.waits_for = ready, what
        task.deadline = None if timeout is None else self.now + max(timeout, 0.0)
        task.expired = False
        to = self._next()
        if to is not task:
            task.carrier.hand_on(to.carrier)
        if task.aborted:
            raise Abort
        task.ready = task.deadline = None
        return ready is None or ready()

    def join_all(self) -> None:
        """Wait until every other thread has ended."""
        this = self.current
        self.wait_until(
            lambda: all(task.ended for task in self._tasks if task is not this), what="the others"
        )

    # -- choices ---------------------------------------------------------------------------------

    def _next(self) -> Task:
        """Let time pass if that is chosen, and return who gets the baton."""
        while self._failure is None:
            current = self.current.can_go_on()
            options = [self.current] if current else []
            options += [task for task in self._tasks if task is not self.current and task.can_go_on()]
            deadline = self._first_deadline()
            if not options and deadline is None:
                self.fail(RuntimeError("deadlock: " + self._situation()))
                break
            if not options and deadline is not None:
                self._is_looking = True
                self._try(self.on_idle, deadline)
                self._is_looking = False
            who = [task.index for task in options] + [CLOCK] * (deadline is not None)
            choice = self._choose(who, current=current)
            if self._failure is not None:
                break
            if choice < len(options):
                self.current = options[choice]
                self.log.append(self.current.name)
                return self.current
            assert deadline is not None
            self._tick(deadline, rushed=bool(options))
        self.current = self._main
        return self._main

    def _choose(self, options: list[int], *, current: bool) -> int:
        """Take a step: have the strategy choose among the *options*, if there are several."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            self.fail(RuntimeError(f"no end after {MAX_STEPS} steps: " + self._situation()))
        if len(options) < 2 or self._failure is not None:
            return 0
        choice = self._try(lambda: self._strategy.choose(options, current=current))
        if choice is None:
            return 0
        self.choices.append(choice)
        return choice

    def _try(self, act: Callable[..., T], *args: object) -> T | None:
        """Call *act*; what it raises is a failure of the run, not of the task that happens to be there."""
        try:
            return act(*args)
        except BaseException as error:
            self.fail(error)
            return None

    def _first_deadline(self) -> float | None:
        """Return when the first of those who wait in vain gives up."""
        return min(
            (task.deadline for task in self._tasks if task.deadline is not None and not task.can_go_on()),
            default=None,
        )

    def _tick(self, deadline: float, *, rushed: bool) -> None:
        self.log.append("clock")
        if deadline > self.now:
            self.rushed += rushed * (deadline - self.now)
            self.now = deadline
        for task in self._tasks:
            if task.deadline is not None and task.deadline <= self.now:
                task.expired = True

    def _situation(self) -> str:
        return "; ".join(f"{task.name} waits for {task.waits_for}" for task in self._tasks if not task.ended)

    # -- failures --------------------------------------------------------------------------------

    def fail(self, error: BaseException) -> None:
        """Take note that the run failed; it goes no further than to the next operation."""
        if self._failure is None:
            self._failure = error
        self._main.aborted = True

    def _unwind(self) -> None:
        """Have every task that is left raise `Abort`, once; who catches it is left where it is."""
        for task in self._tasks:
            if not task.ended and task is not self._main:
                task.aborted = True
                self.current = task
                self._main.carrier.hand_on(task.carrier)

    def _park(self, task: Task) -> None:
        self.current = self._main
        task.carrier.hand_on(self._main.carrier)


def _run() -> Run:
    assert Run.active is not None, "a controlled object outlived its run"
    return Run.active


# -- what replaces the standard library -----------------------------------------------------------


class _Shared:
    """What other tasks may know of, unless nobody had the baton since its creation."""

    def __init__(self) -> None:
        self._created_at = None if Run.active is None else Run.active.steps

    def _may_be_known(self, run: Run) -> bool:
        """Return whether somebody else has had the baton since it was made."""
        if self._created_at == run.steps:
            return False
        self._created_at = None
        return True


class Lock(_Shared):
    """Stands for `threading.Lock`."""

    def __init__(self) -> None:
        super().__init__()
        self._locked = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        run = Run.active
        if run is None:
            assert not self._locked
        elif not self._may_be_known(run) and not self._locked:
            pass
        elif not blocking:
            run.switch()
            if self._locked:
                return False
        elif not run.wait_until(lambda: not self._locked, None if timeout < 0 else timeout, "a lock"):
            return False
        self._locked = True
        return True

    def release(self) -> None:
        if not self._locked:
            raise RuntimeError("release unlocked lock")
        self._locked = False
        if Run.active is not None and self._may_be_known(Run.active):
            Run.active.switch()

    def locked(self) -> bool:
        return self._locked

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class RLock(_Shared):
    """Stands for `threading.RLock`."""

    def __init__(self) -> None:
        super().__init__()
        self._owner: Task | None = None
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        run = Run.active
        task = None if run is None else run.current
        if self._depth and self._owner is task:
            self._depth += 1
            return True
        if run is None:
            assert not self._depth
        elif not self._may_be_known(run) and not self._depth:
            pass
        elif not blocking:
            run.switch()
            if self._depth:
                return False
        elif not run.wait_until(
            lambda: not self._depth, None if timeout < 0 else timeout, "a reentrant lock"
        ):
            return False
        self._owner, self._depth = task, 1
        return True

    def release(self) -> None:
        if not self._is_owned():
            raise RuntimeError("cannot release un-acquired lock")
        self._depth -= 1
        if not self._depth:
            self._owner = None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    # What threading.Condition asks for.

    def locked(self) -> bool:
        return self._depth > 0

    def _is_owned(self) -> bool:
        return self._depth > 0 and self._owner is (Run.active and Run.active.current)

    def _release_save(self) -> tuple[int, Task | None]:
        state = self._depth, self._owner
        self._depth, self._owner = 0, None
        return state

    def _acquire_restore(self, state: tuple[int, Task | None]) -> None:
        self.acquire()
        self._depth, self._owner = state


class Thread:
    """Stands for `threading.Thread`."""

    _count = 0

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
        context: object = None,
    ) -> None:
        self._target, self._args, self._kwargs = target, args, kwargs or {}
        self.name = name or "thread"
        self.daemon = bool(daemon)
        self._task: Task | None = None

    def start(self) -> None:
        run = _run()
        run.switch()
        if not run.may_start(self.name):
            raise RuntimeError("can't start new thread")
        self._task = run.spawn(self.name, self.run)
        self._task.thread = self
        run.switch()

    def run(self) -> None:
        if self._target is not None:
            self._target(*self._args, **self._kwargs)

    def is_alive(self) -> bool:
        return self._task is not None and not self._task.ended

    @property
    def ident(self) -> int | None:
        return None if self._task is None else id(self._task)

    def join(self, timeout: float | None = None) -> None:
        if self._task is None:
            raise RuntimeError("cannot join thread before it is started")
        if Run.active is not None or self.is_alive():
            _run().wait_until(lambda: not self.is_alive(), timeout, f"the end of {self.name}")


def current_thread() -> object:
    return _run().current.thread or _run().current


def get_ident() -> int:
    return id(_run().current)


def monotonic() -> float:
    run = _run()
    run.let_time_pass()
    return run.now


def sleep(seconds: float) -> None:
    _run().wait_until(lambda: False, seconds, "the end of a sleep")


REPLACED = [
    (threading, "Lock", Lock),
    (threading, "RLock", RLock),
    (threading, "_allocate_lock", Lock),
    (threading, "Thread", Thread),
    (threading, "_CRLock", RLock),
    (threading, "current_thread", current_thread),
    (threading, "get_ident", get_ident),
    (threading, "_time", monotonic),  # what Condition.wait_for() and joins ask
    (time, "monotonic", monotonic),
    (time, "sleep", sleep),
]
