"""Makes visible what the library shares without a lock, so that a run can be interrupted there too.

A `Run` switches at locks. But calls are queued, taken and made done under no lock, or under a worker's
own. One side *claims* what only one may do, or it *announces* something before it *looks* at what the other
has announced. Here a run hands the baton on before each claim and each announcement: before a call is
appended to the queue or taken from it, and before a field changes that others look at without a lock. To look
takes no step of its own: looking too early shows as a switch between that and the announcement.

In return a worker goes on where it takes and gives back its own lock, unless somebody else comes for it:
what it does meanwhile, others see by what it announces. And nobody gives up waiting for it: there are no
destructors in a run that could have interrupted its holder.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from controlled import RLock, Run

from retrying_executor import RetryingFuture
from retrying_executor._calls import current, flight, schedule
from retrying_executor._threads import flights, loop, roster, threads

FIELDS: list[tuple[type, str]] = [
    (RetryingFuture, "_worker"),
    (RetryingFuture, "_waits"),
    (RetryingFuture, "_unobserved"),
    (RetryingFuture, "_awaited"),
    (RetryingFuture, "_state"),
    (roster.Roster, "can_summon"),
    (flight.Flight, "is_called_off"),
    (flight.Flight, "task"),
    (flights.Flights, "_stays"),
]
"""What is looked at without a lock; what is false announces nothing."""

SWITCHES: list[tuple[type, str]] = [
    (loop.LoopThread, "_thread"),
    (loop.LoopThread, "_will_look"),
    (loop.LoopThread, "_loop"),
]
"""Of which what is false announces something, too."""


def hand_on() -> None:
    """Let others go first, or not."""
    if Run.active is not None:
        Run.active.switch()


class Queue(deque[Any]):
    """Stands for the `deque` of fresh calls, and for those of flights."""

    def append(self, item: Any) -> None:
        hand_on()
        super().append(item)

    def extend(self, items: Iterable[Any]) -> None:
        hand_on()
        super().extend(items)

    def popleft(self) -> Any:
        if self:
            hand_on()
        return super().popleft()


class Register(dict[Any, Any]):
    """Stands for the flights that are aloft."""

    def __setitem__(self, key: Any, value: Any) -> None:
        hand_on()
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        hand_on()
        super().__delitem__(key)


class Aloft:
    """Stands for the attribute that has a `Register`."""

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return instance.__dict__["aloft"]

    def __set__(self, instance: object, value: dict[Any, Any]) -> None:
        instance.__dict__["aloft"] = Register(value)


class Field:
    """Stands for an attribute, with or without a slot.

    Args:
        owner: The class.
        name: That of the attribute.
        is_switch: Whether what is false announces something, too.
    """

    def __init__(self, owner: type, name: str, *, is_switch: bool = False) -> None:
        self._name = name
        self._is_switch = is_switch
        self._slot: Any = owner.__dict__.get(name)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if self._slot is not None:
            return self._slot.__get__(instance, owner)
        return instance.__dict__[self._name]

    def __set__(self, instance: object, value: object) -> None:
        if value or self._is_switch:
            try:
                before = self.__get__(instance)
            except (AttributeError, KeyError):
                before = value  # it is being made: nobody else knows it
            if before != value:
                hand_on()
        if self._slot is not None:
            self._slot.__set__(instance, value)
        else:
            instance.__dict__[self._name] = value

    def __delete__(self, instance: object) -> None:
        hand_on()
        self._slot.__delete__(instance)


class Holder:
    """Stands for an attribute of which each thread has its own: tasks may share a thread."""

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return None if Run.active is None else Run.active.current.holder

    def __set__(self, instance: object, value: object) -> None:
        assert Run.active is not None
        Run.active.current.holder = value


class OwnLock(RLock):
    """Stands for the lock of a worker."""

    def __init__(self) -> None:
        super().__init__()
        self._last: object = None  # who has had it
        self._waiting = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        current = Run.active and Run.active.current
        if self._depth or self._last is not current:
            self._waiting += 1
            try:
                if not super().acquire(blocking, timeout):
                    return False
            finally:
                self._waiting -= 1
        else:
            self._owner, self._depth = current, 1
        self._last = current
        return True

    def release(self) -> None:
        if self._depth == 1 and not self._waiting and self._is_owned():
            self._owner, self._depth = None, 0
        else:
            super().release()


class Threading:
    """Stands for the module where workers are made."""

    RLock = OwnLock

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)


@contextmanager
def announcements() -> Iterator[None]:
    """Hand the baton on before each announcement."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(schedule, "deque", Queue))
        stack.enter_context(mock.patch.object(flights, "deque", Queue))
        stack.enter_context(mock.patch.object(flights.Flights, "aloft", Aloft(), create=True))
        stack.enter_context(mock.patch.object(roster, "threading", Threading()))
        stack.enter_context(mock.patch.object(type(current.current), "hand", Holder()))
        stack.enter_context(mock.patch.object(threads, "_STANDSTILL_TIMEOUT", -1))
        stack.enter_context(mock.patch.object(loop, "start_thread", lambda begin: begin()))
        for owner, name in FIELDS:
            stack.enter_context(mock.patch.object(owner, name, Field(owner, name), create=True))
        for owner, name in SWITCHES:
            field = Field(owner, name, is_switch=True)
            stack.enter_context(mock.patch.object(owner, name, field, create=True))
        yield
