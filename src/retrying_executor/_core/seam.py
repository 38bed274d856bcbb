"""What the parts of a core ask of those that make the attempts, in real time and in virtual time."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, TypeVar

    from retrying_executor._calls.call import Hand
    from retrying_executor._calls.schedule import Schedule
    from retrying_executor._common.values import Clock

    T = TypeVar("T")

    class Crew(Protocol):
        """Those that make the attempts; see `Core` for what it asks of them besides."""

        @property
        def clock(self) -> Clock:
            """What tells the time."""
            ...

        @property
        def is_coming(self) -> bool:
            """Whether somebody will look what there is to do: one rests, or is on its way."""
            ...

        def hands(self) -> list[Hand]:
            """Return those that have a call, or may have one."""
            ...

        def due_at_changed(self, schedule: Schedule, /) -> None:
            """What is due first may be something else now. Called under the core's lock."""

        def wake_all(self) -> None:
            """Have everybody look whether to stay. Needs no lock."""

        def at_standstill(self, look: Callable[[bool], T], /) -> T:
            """Return what *look* returns while no hand takes a call or makes one done.

            It gets whether they all stand still. Called under the core's lock.
            """
            ...

        def includes_current_thread(self) -> bool:
            """Return whether this thread makes attempts itself, and so must not wait for them."""
            ...
