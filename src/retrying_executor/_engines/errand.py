"""What stands in for the function of a call: sends the call away, and waits for the answer."""

from __future__ import annotations

import pickle
from contextlib import suppress
from copy import copy

from retrying_executor._calls.current import current, current_call, report_weight
from retrying_executor._common.callables import CoroutineFunction, Wrapper
from retrying_executor._common.errors import AttemptLostError, final
from retrying_executor._common.log import call_name, describe
from retrying_executor._common.sending import pickled, resent
from retrying_executor._common.values import checked_weight
from retrying_executor._engines.far import RAISED, RETURNED, UNREAD, UNSENT
from retrying_executor._engines.unpacking import unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from retrying_executor._engines.engine import Runner
    from retrying_executor._engines.far import Answer

luggage: list[Callable[[], tuple[Callable[[Any], object], Any] | None]] = []
"""What integrations send along with each attempt.

Each is called in the attempt, here. It returns a function and its argument, or ``None``. That function is
called on the far side, in the context of the attempt, so both must be something that can be pickled.
"""


class Errand(Wrapper):
    """The function of a call whose attempts run elsewhere: each is sent by the worker that calls this.

    Args:
        func: The function.
        payload: The function and its arguments, pickled.
    """

    __slots__ = ("_payload",)

    def __init__(self, func: Callable[..., Any], payload: bytes) -> None:
        super().__init__(func)
        self._payload = payload

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Make an attempt, with the arguments of the payload."""
        hand: Any = current.hand  # a worker of threads that have an engine
        exception = None
        try:
            kind, weight, data, facts = _answer_to(hand.runner, self._message())
            if kind == UNREAD and (payload := resent(self._payload)) is not None:
                self._payload = payload  # for the attempts that follow, too
                kind, weight, data, facts = _answer_to(hand.runner, self._message())
            if weight is not None:
                report_weight(weight)
            if kind == RETURNED:
                return _result(data)
            if kind in (UNREAD, UNSENT):
                raise final(TypeError(data))
            *what, is_exception, is_early = facts
            exception = unpacked(data, *what, is_exception=is_exception)
            if not is_early:
                _raise(exception)
            # Raised here, with no frame of another function below this one: then the function of the call
            # did not begin, and the verdict says that its arguments do not fit.
            raise exception
        finally:
            del self, args, kwargs, hand, exception  # a traceback keeps this frame

    def _message(self) -> bytes:
        call = current_call()
        assert call is not None
        facts = call.name, call.attempt, call.key, call.label, call.time_left
        packed = b""
        if luggage:
            with suppress(Exception):  # an integration that fails does not fail the attempt
                packed = pickle.dumps([one for pack in luggage if (one := pack()) is not None])
        return pickle.dumps((facts, packed, self._payload), pickle.HIGHEST_PROTOCOL)


def _answer_to(runner: Runner, message: bytes) -> Answer:
    """Return what is answered to a message.

    Raises:
        AttemptLostError: If there is no answer, or if it is damaged.
    """
    answered = runner.run(message)
    facts: Any
    try:
        kind, weight, data, facts = pickle.loads(answered)
        if weight is not None:
            checked_weight("weight", weight)
        if kind == RAISED:
            one, two, three, four, _, _ = facts
            "".join((one, two, three, four))  # raises if one of them is no text
        elif kind not in (RETURNED, UNREAD, UNSENT):
            raise ValueError(f"no answer is {kind!r}")
    except Exception as error:
        why = describe(None, error)
        raise AttemptLostError(f"the attempt is lost: its answer is damaged: {why}") from error
    return kind, weight, data, facts


def _raise(exception: BaseException) -> NoReturn:
    try:
        raise exception
    finally:
        del exception  # or its traceback would refer to it


def _result(data: bytes) -> Any:
    try:
        return pickle.loads(data)
    except (Exception, SystemExit) as error:  # what is loaded may raise any
        raise final(TypeError(f"the result cannot be read here: {error}")) from error


def errand_for(
    fn: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dumps: Callable[[object], bytes],
) -> Any:
    """Return what an attempt is to call instead of *fn*; what integrations have put around it stays here.

    Args:
        fn: What is submitted.
        args: Its arguments.
        kwargs: Its keyword arguments.
        dumps: How to pickle these.

    Raises:
        TypeError: If the call cannot be sent.
    """
    if isinstance(fn, CoroutineFunction):
        raise final(
            TypeError(f"fn must not be a coroutine function, which no engine awaits, but is {call_name(fn)}")
        )
    if isinstance(fn, Wrapper):
        outer = copy(fn)
        outer.func = errand_for(fn.func, args, kwargs, dumps)
        return outer
    hint = "another process has to import it by its name: move it into a module, or pip install cloudpickle"
    return Errand(fn, pickled(fn, args, kwargs, hint, dumps))
