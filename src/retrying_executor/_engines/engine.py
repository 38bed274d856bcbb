"""What an engine is to the threads that drive it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Runner(Protocol):
        """Runs the attempts of one worker, one after the other. All but `kill` is called by that worker."""

        def run(self, message: bytes) -> bytes:
            """Return what `far.run` answers to a message.

            Raises:
                AttemptLostError: If there is no answer: the engine died, or was killed.
            """
            ...

        def leave(self) -> None:
            """The worker leaves: end what runs for it alone."""

        def kill(self) -> bool:
            """End the attempt that runs, if that is possible; return whether it is. Called by any thread."""
            ...

        @property
        def place(self) -> str:
            """Where the attempt runs, for the log."""
            ...

    class Engine(Protocol):
        """Runs the attempts of one executor."""

        def dumps(self, obj: object, /) -> bytes:
            """Pickle a call, or a part of one; raises anything if that is impossible."""
            ...

        def new_runner(self, is_called_off: Callable[[], bool], /) -> Runner:
            """Return what runs the attempts of one worker.

            Args:
                is_called_off: Whether no attempt is to start any more.
            """
            ...

        def look(self) -> None:
            """Have the workers that wait to start something look if they are called off. Takes no lock."""

        def restart(self) -> None:
            """In a forked child: start with nothing. What runs belongs to the parent."""


class Choice:
    """What users give as *engine*: which engine, with which options. The executor makes its own of it."""

    _given_as = "engine"  # see `misuse`

    if TYPE_CHECKING:

        def _new_engine(self) -> Engine:
            """Return an engine for one executor."""
            ...
