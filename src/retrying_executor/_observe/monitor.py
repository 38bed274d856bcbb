"""Tells a listener what happens to calls, and has a watchdog notice attempts that run for long.

An executor without either has no monitor, and only pays for checking that.

The listener is called in a thread of its own, so that it holds up no call. The thread belongs to a core with
a single worker, so it starts when there is an event and leaves when there is none. Events are queued in
``_untold`` without a lock. A thread that has an event appends it first, then looks at ``_is_telling``. The
listener's thread resets ``_is_telling`` first, then looks at ``_untold``. So no event is left behind.

An attempt may start before ``submit()`` has returned, and so before its call is accepted for good. The
listener's thread puts the events in order: the first one of each call is that it was accepted.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections import deque
from functools import partial
from itertools import count

from retrying_executor._calls.call import RetryingFuture
from retrying_executor._calls.current import current
from retrying_executor._calls.terms import Terms
from retrying_executor._common import exits, log
from retrying_executor._common.exits import LISTENER_TIMEOUT
from retrying_executor._common.public import public
from retrying_executor._common.values import Value
from retrying_executor._observe.watchdog import Watchdog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal, Protocol, TypeAlias

    from retrying_executor._calls.call import Call, Owner, Work
    from retrying_executor._common.exits import ExitTimeout

    class Teller(Owner, Protocol):
        """A core with a single thread that leaves when it has nothing to do."""

        def submit(self, call: Call, /) -> None: ...
        def is_own_thread(self) -> bool: ...
        def retire(self, timeout: float, /) -> bool:
            """Wait until all is done and the thread is gone; return whether it is."""
            ...

    Kind: TypeAlias = Literal[
        "accepted",
        "attempt_started",
        "retry_scheduled",
        "not_now",
        "gave_up",
        "done",
        "upstream_held",
        "upstream_back",
    ]

_MOST_WAITING = 10_000


@public
class Event(Value):
    """What has happened to a call, or to an upstream.

    Attributes:
        kind: ``"accepted"``, ``"attempt_started"``, ``"retry_scheduled"``, ``"not_now"`` (the same, where the
            service said so: see `NotNow`), ``"gave_up"`` (an attempt failed, and no other follows),
            ``"done"``, ``"upstream_held"`` or ``"upstream_back"``.
        time: When, in seconds since the epoch, as `time.time` has it.
        call: The name of the call; empty for an upstream.
        key: The key of its future, and of `current_call`; empty for an upstream.
        label: The label of its view, or ``None``.
        executor: The ``thread_name_prefix`` of its executor; empty for an upstream.
        attempt: The number of the latest attempt; 0 before the first, or for an upstream.
        duration: How long that attempt took, in seconds; with ``"done"``, the time since the call was
            accepted; ``None`` before an attempt has ended, or for an upstream.
        delay: How long until the next attempt, or how long the upstream is held, in seconds; infinite for
            a hold until ``resume()``; else ``None``.
        outcome: With ``"done"``: ``"succeeded"``, ``"failed"`` or ``"cancelled"``; else ``None``.
        exception: What the attempt raised, or the call failed with; ``None`` if nothing. Its traceback refers
            to frames of the call, and so to its arguments: keeping the event keeps them alive.
        reason: In words: how the attempt ended, and why the delay is what it is; often empty.
        upstream: The name of the upstream, or of the upstream of the call, or of all of these, with commas
            between; ``None`` if it has none.
    """

    kind: str  # a Kind
    time: float
    call: str = ""
    key: str = ""
    attempt: int = 0
    duration: float | None = None
    delay: float | None = None
    outcome: Literal["succeeded", "failed", "cancelled"] | None = None
    exception: BaseException | None = None
    reason: str = ""
    upstream: str | None = None
    label: str | None = None
    executor: str = ""


_BLANK = vars(Event(kind="", time=0.0))


def _event(**fields: object) -> Event:
    """Return an event; checking its fields would take longer than all the rest."""
    return Event._trusted(**{**_BLANK, **fields})


class Story:
    """What events say of a call, and what was told already. It keeps nothing that a done call lets go of."""

    __slots__ = ("accepted_at", "began_at", "is_announced", "is_over", "subject", "time", "took", "withheld")

    def __init__(self, call: Call, work: Work, time: float, accepted_at: float) -> None:
        self.subject: dict[str, Any] = {
            **call._subject(work).fields(),
            "upstream": call._terms.upstream_name,
        }
        self.time = time  # when the call was accepted, on the clock of events
        self.accepted_at = accepted_at  # the same, on the clock of durations
        self.is_announced = False  # whether the listener was told that it was accepted,
        self.is_over = False  # and that it is done
        self.withheld: Event | None = None  # that it was cancelled: told once it is known to be accepted
        self.began_at = 0.0  # when the latest attempt began
        self.took: float | None = None  # how long that took, once it has ended


class Monitor:
    """Observes the calls of one executor.

    Args:
        on_event: Called with each `Event`, or ``None``.
        warn_after: For how many seconds an attempt may run before that is logged; ``None``: for ever.
        thread_name: What the names of its threads begin with.
        exit_timeout: How long the end of the interpreter waits.
        new_teller: Makes the core with a single thread that calls the listener, given its name.
    """

    def __init__(
        self,
        on_event: Callable[[Event], object] | None,
        warn_after: float | None,
        thread_name: str,
        exit_timeout: ExitTimeout,
        new_teller: Callable[[str], Teller],
    ) -> None:
        self._new_teller = new_teller
        self._on_event = on_event
        self.exit_timeout = exit_timeout
        self._is_over = False  # whether all calls are done
        self._thread_name = thread_name
        self._watchdog = None if warn_after is None else Watchdog(warn_after, thread_name)
        self.restart()
        exits.register_monitor(self)

    def restart(self) -> None:
        """Start with nothing, as in a forked child."""
        self._lock = threading.RLock()  # guards _is_telling; reentrant for the sake of destructors
        self._untold: deque[Callable[[], None]] = deque()
        self._is_telling = False
        self._drop = count(1).__next__  # counts in one atomic step
        self._dropped = 0  # how many events
        self._reported = 0.1  # how many at the latest message; the next comes at ten times as many
        self._waits_for = LISTENER_TIMEOUT  # seconds that are left to wait for the listener, at all ends
        self._is_late = False
        self._core = self._new_teller(f"{self._thread_name}-events")
        if self._watchdog is not None:
            self._watchdog.restart()

    # These two are overridden where time is virtual.

    def _now(self) -> float:
        return time.time()

    def _monotonic(self) -> float:
        return time.monotonic()

    # -- what has happened -----------------------------------------------------------------------

    def submitted(self, call: Call) -> None:
        """A call is about to be queued."""
        if self._on_event is not None:
            work = call._work
            assert work is not None
            call._story = Story(call, work, self._now(), self._monotonic())
            call.add_done_callback(self._done)

    def accepted(self, call: Call) -> None:
        """The call is accepted: ``submit()`` is about to return its future."""
        if call._story is not None:
            self._queue(partial(self._tell_accepted, call._story))

    def started(self, call: Call, work: Work) -> None:
        """An attempt begins, in this thread."""
        if call._story is not None:
            self._report_dropped()
            call._story.took = None
            self._add("attempt_started", call)
            call._story.began_at = self._monotonic()
        if self._watchdog is not None:
            self._watchdog.began(call, work)

    def began_late(self, call: Call, work: Work) -> None:
        """The attempt had to wait for a place among the coroutines. How long it takes counts from now on."""
        if call._story is not None:
            call._story.began_at = self._monotonic()
        if self._watchdog is not None:  # pragma: no branch  # which calls wait for a place is a race
            self._watchdog.began(call, work)

    def ended(self, call: Call) -> None:
        """The attempt is over, however it ended."""
        if self._watchdog is not None:
            self._watchdog.ended(call)
        if call._story is not None:
            call._story.took = self._monotonic() - call._story.began_at

    def followed_up(self, call: Call, news: log.FollowUp) -> None:
        """The attempt failed; *news* says whether another follows."""
        if call._story is not None:
            reason = news.what + news.why
            self._add(news.kind, call, delay=news.delay, exception=news.exception, reason=reason)

    def _done(self, call: Any) -> None:
        assert call._story is not None
        took = self._monotonic() - call._story.accepted_at
        if call.cancelled():
            self._add("done", call, duration=took, outcome="cancelled")
        elif call._exception is None:
            self._add("done", call, duration=took, outcome="succeeded")
        else:
            reason, error = log.describe(None, call._exception), call._exception
            self._add("done", call, duration=took, outcome="failed", exception=error, reason=reason)

    def upstream_changed(self, name: str, kind: Kind, delay: float | None, reason: str) -> None:
        """An upstream that calls of this core go to is held, or works again."""
        if self._on_event is not None and not self._is_over:
            event = _event(kind=kind, time=self._now(), upstream=name, delay=delay, reason=reason)
            self._queue(partial(self._call_listener, event))

    def _add(self, kind: str, call: Call, **more: Any) -> None:
        story = call._story
        assert story is not None
        about = {"kind": kind, "attempt": call._attempts, "duration": story.took, **more}
        self._queue(partial(self._tell, story, self._now(), about))

    def _queue(self, tell: Callable[[], None]) -> None:
        if len(self._untold) >= _MOST_WAITING:
            self._dropped = self._drop()  # logged later, where no lock is held
            return
        self._untold.append(tell)  # publish first,
        if not self._is_telling:  # then look
            self._start_telling()

    def _report_dropped(self) -> None:
        dropped = self._dropped
        if dropped >= 10 * self._reported:
            self._reported = dropped
            log.events_dropped(dropped)

    # -- telling it ------------------------------------------------------------------------------

    def _start_telling(self) -> None:
        with self._lock:
            if self._is_telling or not self._untold:
                return
            self._is_telling = True
        work: Work = (self._tell_all, (), {}, contextvars.Context())
        try:
            self._core.submit(RetryingFuture(self._core, work, Terms(None)))
        except BaseException as error:
            self._is_telling = False
            if not isinstance(error, RuntimeError):  # that: no thread can be started; the next event tries
                raise

    def _tell_all(self) -> None:
        current.hand = None  # to the listener, no call is running here
        while self._untold:
            self._untold.popleft()()
        with self._lock:
            self._is_telling = False
        self._start_telling()  # look once more

    def _tell_accepted(self, story: Story) -> None:
        if not story.is_announced:
            story.is_announced = True
            self._call_listener(_event(kind="accepted", time=story.time, **story.subject))
        withheld, story.withheld = story.withheld, None
        if withheld is not None:
            self._call_listener(withheld)

    def _tell(self, story: Story, at: float, about: dict[str, Any]) -> None:
        if story.is_over:  # set_result() from outside may have come before what follows an attempt
            return
        event = _event(time=at, **about, **story.subject)
        story.is_over = event.outcome is not None
        if not story.is_announced and event.outcome == "cancelled":
            story.withheld = event  # submit() may still raise: then the call was never accepted
            return
        self._tell_accepted(story)
        self._call_listener(event)

    def _call_listener(self, event: Event) -> None:
        assert self._on_event is not None
        try:
            self._on_event(event)
        except BaseException as error:
            log.listener_failed(event.kind, error)

    def finish(self, timeout: float) -> None:
        """All calls are done: wait until the listener was told everything, and the threads have left.

        Args:
            timeout: For how many seconds; no more than `LISTENER_TIMEOUT` in any case.
        """
        began_at = time.monotonic()
        timeout = max(0.0, min(timeout, self._waits_for))
        self._is_over = True
        self._report_dropped()
        if self._watchdog is not None:
            self._watchdog.finish(timeout)
        if not self._core.is_own_thread():
            self._start_telling()
            left = began_at + timeout - time.monotonic()
            is_told = self._core.retire(left) or not (self._untold or self._is_telling)
            if not is_told and not self._is_late:
                self._is_late = True
                log.listener_is_late(timeout)
        self._waits_for -= time.monotonic() - began_at
