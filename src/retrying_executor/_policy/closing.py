"""Closes the HTTP answers that the exception of a failed attempt refers to: each may hold an open connection.

With urllib, the exception is the answer; others have a ``response``. Answers of asynchronous clients are
closed in the event loop that they came from: anywhere else that is an error, or not safe.
"""

from __future__ import annotations

from retrying_executor._common.exceptions import led_to
from retrying_executor._policy.reading import get

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MOST_EXCEPTIONS = 100  # of one chain


def close_answers(exception: BaseException) -> None:
    """Close the answers of an exception and of those that led to it, as far as no event loop is needed.

    Never raises.
    """
    for answer in answers_to_close(exception):
        try:
            result: Any = answer.close()
            if _can_be_awaited(result):
                result.close()  # a coroutine, of a client whose loop is not here: else it warns
        except BaseException:  # a hostile attribute, or a broken connection
            continue


async def close_in_loop(answers: list[Any]) -> None:
    """Close answers in the event loop that they came from. Raises nothing but what cancels this."""
    for answer in answers:
        try:
            close = get(answer, "aclose")  # httpx: it has a ``close``, too, which only raises
            result: Any = close() if callable(close) else answer.close()
            if _can_be_awaited(result):
                await result
        except Exception:
            continue


def answers_to_close(exception: BaseException) -> list[Any]:
    """Return the answers of an exception and of those that led to it that may be open. Never raises."""
    seen: set[int] = set()
    found, answers = [exception], []
    while found and len(seen) < _MOST_EXCEPTIONS:
        one = found.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        found += led_to(one)
        answers += [answer for answer in (one, get(one, "response")) if _is_open_answer(answer)]
    return answers


def _is_open_answer(obj: object) -> bool:
    """Return whether an object looks like an HTTP answer that can be closed, and does not say that it is."""
    try:
        has_status = any(isinstance(get(obj, name), int) for name in ("status_code", "status", "code"))
    except BaseException:  # the type of an attribute is hostile
        return False
    is_answer = has_status and get(obj, "headers") is not None and callable(get(obj, "close"))
    return is_answer and get(obj, "is_closed") is not True and get(obj, "closed") is not True


def _can_be_awaited(obj: object) -> bool:
    return hasattr(type(obj), "__await__")
