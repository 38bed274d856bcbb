"""Calls that are made where they stand, in the thread or the task that waits for them; see `Inline`.

Each call has a core of its own, without threads, and the caller is its crew: it makes the attempts. So what
follows an attempt, what an upstream allows, and what is logged has one implementation for these calls, too.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress

from retrying_executor._calls.attempt import cut_older
from retrying_executor._calls.call import Hand, RetryingFuture
from retrying_executor._calls.current import current, flight
from retrying_executor._calls.terms import Terms
from retrying_executor._common.callables import CoroutineFunction, to_run
from retrying_executor._common.exceptions import traceback_of
from retrying_executor._common.exits import ExitTimeout
from retrying_executor._core.core import Core, Crew
from retrying_executor._core.turns import end_permit
from retrying_executor._options import changed_terms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Event
    from collections.abc import Callable, Coroutine
    from typing import Any

    from retrying_executor._calls.call import Outcome, Work
    from retrying_executor._common.values import Clock
    from retrying_executor._policy.inline import Maker
    from retrying_executor._policy.policy import RetryPolicy
    from retrying_executor._upstream.places import Places

_NAME = "inline"
"""What stands in logs for the name of an executor."""


class _CallersContext:
    """Stands in for a `contextvars` context that is captured: an attempt changes that of the caller."""

    def __len__(self) -> int:
        return 0

    def copy(self) -> _CallersContext:
        return self

    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)


_CONTEXT: Any = _CallersContext()


class _Roster:
    """Stands in for a roster: there are no workers."""

    can_summon = False


class Caller(Crew):
    """The crew of one call: the thread that waits for it, or the task.

    It has only what the core of a single call asks for, which never ends before the call does.

    Args:
        wake: Has the caller look for an attempt to make, soon; returns whether there still is a caller. Any
            thread calls it, and under any lock.
    """

    roster = _Roster()
    hand: Hand

    def __init__(self, wake: Callable[[], bool]) -> None:
        self._wake = wake
        self.coroutine: Coroutine[Any, Any, Any] | None = None
        """What an attempt of a coroutine function has returned, until it is run."""
        self.asides: list[Coroutine[Any, Any, None]] = []
        """Coroutines of the library, to be run before the call goes on."""

    @property
    def clock(self) -> Clock:
        """What tells the time."""
        return time

    @property
    def is_coming(self) -> bool:
        """Whether the caller will look for work: always, until the call is done."""
        return True

    def restart(self, lock: threading.RLock) -> None:
        """Start with an empty hand."""
        self.hand = Hand(lock)

    def attach(self, core: Core, places: Places) -> None:
        """Calls may go to this upstream from now on.

        Raises:
            ValueError: If the upstream is in use in virtual time.
        """
        places.attach(core.monitor)

    def come(self, core: Core) -> bool:
        """See that the caller comes, if it still can; return whether it does."""
        return self._wake()

    def due_at_changed(self, schedule: object) -> None:
        """Have the caller look how long to wait."""
        self._wake()

    def wake_all(self) -> None:
        """Have the caller look at everything."""
        self._wake()

    def see_to_put_off(self, core: Core) -> None:
        """Have the caller do what a destructor or a signal handler could not do."""
        self._wake()

    def call_off(self, call: object) -> None:
        """The call was interrupted, and its coroutine with it: nothing is left to cancel."""

    def launch(self, hand: Hand, work: Work, coroutine: Coroutine[Any, Any, Any]) -> bool:
        """Keep a coroutine for the caller, which is about to await it; see `turns.Crew`."""
        self.coroutine = coroutine
        return True

    def run_aside(self, core: Core, coroutine: Coroutine[Any, Any, None]) -> None:
        """Keep a coroutine for the caller; see `turns.Crew`."""
        self.asides.append(coroutine)


class _Making:
    """One call that is being made; a context manager, which sees that nothing is left of it.

    Args:
        terms: The terms.
        work: What to run.
        wake: See `Caller`.
    """

    def __init__(self, terms: Terms, work: Work, wake: Callable[[], bool]) -> None:
        self.caller = Caller(wake)
        self.core = core = Core(self.caller, name=_NAME, exit_timeout=ExitTimeout(None))
        self.call: RetryingFuture[Any] = RetryingFuture(core, work, core.adopt(terms))
        if terms.marks_calls:
            self.call._apply_terms(work)

    def step(self) -> bool:
        """Make an attempt, or the part of it that runs without an event loop, if the call is ready.

        Returns:
            Whether it was. If not, the caller is to wait for `patience`.
        """
        core, hand = self.core, self.caller.hand
        core.catch_up()
        if hand.call is None:
            with core.lock:
                core.turns.take(hand, time.monotonic(), core)
            if core.turns.has_unused:
                core.turns.decline_unused(core)
        call = hand.call
        if call is None:
            return False
        outer, current.hand = current.hand, hand
        try:
            hand.settlement = core.settling.attempt(hand, call)
            if hand.settlement is not None:
                core.settling.finish(hand)
        finally:
            current.hand = outer
            del self, core, hand, call  # a traceback keeps this frame
        return True

    def patience(self) -> float:
        """Return for how many seconds the caller may wait; -1: until it is woken."""
        with self.core.lock:
            due_at = self.core.ledger.schedule.first_due_at()
        if due_at is None or due_at == math.inf:
            return -1.0
        return min(max(0.0, due_at - time.monotonic()), threading.TIMEOUT_MAX)

    def __enter__(self) -> None:
        """Do nothing: what follows may be interrupted."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """If the call is not done, it was interrupted: make no attempt any more, and free its places."""
        if error is None or self.call.done():
            return
        self.core.settling.rescue(self.caller.hand, error)
        self.core.ending.halt(self.core)
        end_permit(self.caller.hand, "none")
        if not self.call.done():  # it was neither in the hand nor in the schedule just then
            self.core.settling.settle(self.call, (None, error))
        self.call._mark_seen()


def _make_in_thread(terms: Terms, work: Work) -> Any:
    """Make a call in this thread, and return its result."""
    gate = threading.Lock()

    def wake() -> bool:
        with suppress(RuntimeError):  # it is open already
            gate.release()
        return True

    making = _Making(terms, work, wake)
    try:
        with making:
            making.core.submit(making.call)
            while not making.call.done():
                if not making.step():
                    gate.acquire(timeout=making.patience())
            return making.call.result()
    finally:
        del making, work  # a traceback keeps this frame


async def _make_in_task(terms: Terms, work: Work) -> Any:
    """Make a call of a coroutine function in this task, and return its result."""
    import asyncio  # slow to import, and needed here only

    loop, gate = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> bool:
        try:
            loop.call_soon_threadsafe(gate.set)
        except RuntimeError:  # the loop is closed
            return False
        return True

    making = _Making(terms, work, wake)
    try:
        with making:
            making.core.submit(making.call)
            while not making.call.done():
                if making.step():
                    await _go_on(making.caller)
                else:
                    await _wait_at(gate, loop, making.patience())
            return making.call.result()
    finally:
        del making, work


async def _wait_at(gate: Event, loop: AbstractEventLoop, timeout: float) -> None:
    """Wait until a gate is opened, or for some seconds (-1: for ever), and close it."""
    timer = loop.call_later(timeout, gate.set) if timeout >= 0 else None
    try:
        await gate.wait()
    finally:
        if timer is not None:
            timer.cancel()
    gate.clear()


async def _go_on(caller: Caller) -> None:
    """Run what an attempt has left for the event loop."""
    coroutine, caller.coroutine = caller.coroutine, None
    if coroutine is not None:
        caller.hand.landed = await _outcome_of(coroutine, caller.hand)
    while caller.asides:
        await caller.asides.pop()


async def _outcome_of(coroutine: Coroutine[Any, Any, Any], hand: Hand) -> Outcome:
    """Return what the coroutine of the call in a hand ends with."""
    previous = None if hand.call is None else hand.call._last[1]
    old = None if previous is None else traceback_of(previous)
    hand.under = current.hand
    token = flight.set(hand)
    try:
        return await coroutine, None
    except BaseException as error:
        cut_older(error, previous, old)
        return None, error
    finally:
        with suppress(ValueError):  # it is closed in another context, by the collector perhaps
            flight.reset(token)
        del previous, old  # a traceback keeps this frame


def new_maker(policy: RetryPolicy, **options: Any) -> Maker:
    """Return what makes calls on the terms of a policy; see `RetryPolicy.inline`."""
    terms = changed_terms(Terms(None), retry=policy, changes={}, **options)

    def make(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> Any:
        try:
            fn = to_run(fn, "call")
            making = _make_in_task if type(fn) is CoroutineFunction else _make_in_thread
            return making(terms, (fn, args, kwargs, _CONTEXT))
        finally:
            del fn, args, kwargs  # a traceback keeps this frame

    return make
