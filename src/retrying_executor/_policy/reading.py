"""Reads what an exception keeps, and the answer that it refers to: attributes, headers, JSON.

No client library is imported, and nothing is trusted: an attribute may raise, be of any type, or refer to
itself. An answer that has not been read yet stays unread, since reading might wait for the network.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache

from retrying_executor._common.exceptions import led_to
from retrying_executor._common.forks import before_fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_LONGEST_BODY = 65_536  # characters, of what is parsed
_LONGEST_WORD = 64  # characters, of what may be a code
_LONGEST_MESSAGE = 1000  # characters, of one that is searched
_MOST_EXCEPTIONS = 100  # of one chain
_MOST_ERRORS = 8  # of those that a body lists
_BODIES = (
    "_body",
    "body",
    "json_body",
    "details",
    "error_details",
    "errors",
    "data",
    "error",
    "content",
    "response_body",
)
_ANSWERS = ("response", "raw_response", "resp", "meta")
_WORDS = ("code", "type", "reason", "status", "error", "error_code", "errorCode", "name")
"""Where the JSON of an answer, or an exception, has a code for what went wrong."""
_OWN_WORDS = tuple(name for name in _WORDS if name not in ("name", "reason"))
"""On an exception, those two may be anything: of a program's own, too."""


def get(obj: object, name: str) -> object:
    """Return an attribute; ``None`` if there is none, or if reading it raises."""
    try:
        return getattr(obj, name, None)
    except BaseException:
        return None


def item(mapping: object, name: str) -> object:
    """Return an item of a dictionary; ``None`` if there is none, or if *mapping* is no dictionary."""
    return mapping.get(name) if isinstance(mapping, dict) else None


def called(obj: object, *args: object) -> object:
    """Return what a method returns; ``None`` if it is none, or raises."""
    try:
        return obj(*args) if callable(obj) else None
    except BaseException:
        return None


_ASKED = frozenset(
    {*_BODIES, *_ANSWERS, *_WORDS, "headers", "litellm_response_headers", "response_headers", "resp_headers"}
    | {"_http_headers", "items", "status_code", "http_status", "response_code", "errcode", "grpc_status_code"}
    | {"sqlstate", "pgcode", "smtp_code", "recipients", "trailing_metadata", "retryable", "retriable"}
    | {"errno", "has_error_label", "reply_code", "err_code", "api_error_code"}
    | {"_retry_after", "retry_after", "retry_after_s", "retry_after_secs", "retry_after_seconds", "retry_in"}
    | {"backoff", "cooldown_time", "period_remaining", "seconds"}
)
"""Every attribute that a rule asks an exception for: most have none of these, and take no time."""


@lru_cache(maxsize=1024)
def _names_of(cls: type) -> frozenset[str]:
    """Return which of these the instances of a class have by it: all of them, if it makes attributes up."""
    names: set[str] = set()
    for base in cls.__mro__:
        if base.__module__ != "builtins":
            names.update(vars(base))
    return _ASKED if "__getattr__" in names or "__getattribute__" in names else _ASKED & names


@lru_cache(maxsize=1024)
def classes_of(cls: type) -> tuple[type, ...]:
    """Return those of a class and its bases that a library has, so that their names mean what it says."""
    return tuple(base for base in cls.__mro__ if is_of_library(base.__module__))


def is_of_library(module: str) -> bool:
    """Return whether a module is of the standard library or of an installed package, not of the program.

    A program may call its own exceptions ``NotFound`` or ``Throttled``, and mean something else.
    """
    if module.partition(".")[0] in sys.stdlib_module_names:
        return module != "builtins"
    file = getattr(sys.modules.get(module), "__file__", None)
    is_installed = file is not None and ("site-packages" in file or "dist-packages" in file)
    return is_installed and module != "__main__"  # with ``python -m``, the program is in such a place


@lru_cache(maxsize=4096)
def _is_called(cls: type, pattern: str) -> bool:
    return any(
        re.search(pattern, base.__name__) or re.search(pattern, f"{base.__module__}.{base.__name__}")
        for base in classes_of(cls)
    )


class Answer:
    """What one exception says: of itself, and of the answer that it stands for. Each is read on first use.

    Args:
        exception: What was raised.
    """

    def __init__(self, exception: BaseException) -> None:
        self.exception = exception
        own: dict[str, object] = object.__getattribute__(exception, "__dict__")
        self.own = own
        kept = {name for name in own if name in _ASKED and own[name] is not None}
        self.names = _names_of(type(exception)) | kept  # type: ignore[arg-type]  # a class can be hashed

    def get(self, name: str) -> object:
        """Return an attribute of the exception; ``None`` if there is none, or if reading it raises."""
        return get(self.exception, name) if name in self.names else None

    @property
    def is_bare(self) -> bool:
        """Whether the exception has nothing that a rule asks for, as most of Python's own."""
        return not self.names

    def has_any(self, names: frozenset[str]) -> bool:
        """Return whether the exception may have one of these attributes."""
        return not names.isdisjoint(self.names)

    @property
    def root(self) -> str:
        """The package of the exception's class: the client, as a rule."""
        return type(self.exception).__module__.partition(".")[0]

    @property
    def first_argument(self) -> object:
        """What the exception was made with first; ``None`` if that is nothing."""
        args = self.exception.args
        return args[0] if args else None

    def has_class(self, pattern: str) -> bool:
        """Return whether the name of the exception's class, or of a base, matches."""
        return _is_called(type(self.exception), pattern)  # type: ignore[arg-type]  # a class can be hashed

    def __getattr__(self, name: str) -> Any:
        """Read what is asked for the first time, and keep it."""
        value = _READERS[name](self)
        self.__dict__[name] = value
        return value

    if TYPE_CHECKING:
        answers: list[object]
        headers: dict[str, str]
        bodies: list[object]
        words: frozenset[str]


def _answers(of: Answer) -> list[object]:
    """Return what may be the answer: clients keep it under several names."""
    return [answer for name in _ANSWERS if (answer := of.get(name)) is not None]


def _headers(of: Answer) -> dict[str, str]:
    """Return the headers of the HTTP answer behind an exception, by lower-case name."""
    candidates = [item(item(of.get("response"), "ResponseMetadata"), "HTTPHeaders")]  # botocore
    candidates += [get(answer, "headers") for answer in of.answers]
    candidates += [of.get("headers"), of.get("litellm_response_headers"), of.get("response_headers")]
    candidates += [of.get("resp_headers"), of.get("_http_headers")]  # websocket-client; facebook-business
    candidates.append(of.get("resp"))  # httplib2: the answer is a mapping of its headers
    found: dict[str, str] = {}
    for headers in candidates:
        pairs: Any = called(get(headers, "items"))
        if pairs:
            found = {text(name).lower(): text(value) for name, value in pairs}
            break
    for body in of.bodies:  # OpenRouter: those of the provider behind it
        passed_on: Any = called(get(item(item(item(body, "error"), "metadata"), "headers"), "items"))
        found = {**{text(name).lower(): text(value) for name, value in passed_on or ()}, **found}
    return found


def text(value: object) -> str:
    """Return *value* as text."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _bodies(of: Answer) -> list[object]:
    """Return what the answer says in JSON: as the client has parsed it, or as it has read it."""
    found = [_parsed(of.get(name)) for name in _BODIES if name in of.names]
    for answer in of.answers if not any(found) else ():
        if isinstance(answer, dict):
            found.append(answer)
        elif get(answer, "_content_consumed") is True or get(answer, "is_stream_consumed") is True:
            found.append(_parsed(get(answer, "content")))  # requests, httpx: it has been read
        elif isinstance(data := item(get(answer, "__dict__"), "data"), dict):
            found.append(data)  # slack_sdk; as a property, it might wait for the network, as that of urllib3
    return [body for body in found if body]


def _parsed(value: object) -> object:
    """Return *value* if it is JSON that was parsed, or what it is when parsed; ``None`` if it is neither."""
    if isinstance(value, (bytes, str)):
        if not 2 <= len(value) <= _LONGEST_BODY or text(value[:100]).lstrip()[:1] not in ("{", "["):
            return None
        import json  # few answers get here

        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, (list, tuple)):
        dicts = [one for one in value[:_MOST_ERRORS] if isinstance(one, dict)]
        return dicts[0] if len(value) == len(dicts) == 1 else {"errors": dicts} if dicts else None
    return value if isinstance(value, dict) else None


def errors_in(body: object) -> Iterator[dict[str, Any]]:
    """Yield the parts of a body that say what went wrong, the outermost first."""
    unseen: list[object] = [body]
    for _ in range(2 * _MOST_ERRORS):
        if not unseen:
            return
        part = unseen.pop(0)
        if isinstance(part, dict):
            yield part
            unseen += [part.get("error"), part.get("parameters")]
            for name in ("errors", "details"):
                listed = part.get(name)
                unseen += listed[:_MOST_ERRORS] if isinstance(listed, list) else [listed]


def squashed(word: str) -> str:
    """Return a code as the tables have it: in small letters, without separators."""
    return word.replace("_", "").replace("-", "").replace(" ", "").lower()


def _words(of: Answer) -> frozenset[str]:
    """Return the codes for what went wrong that the exception and its answer have, as `squashed`."""
    # Not by the class: to read a property may warn that it is deprecated, as ``code`` of aiohttp.
    values: list[object] = [of.own.get(name) for name in _OWN_WORDS]
    listed = of.get("items")  # praw
    values += [get(one, "error_type") for one in (listed if isinstance(listed, list) else [])[:_MOST_ERRORS]]
    for body in of.bodies:
        for part in errors_in(body):
            values += [part.get(name) for name in _WORDS]
            message = part.get("message")  # which may be a code, too: Groq
            values += [message] if isinstance(message, str) and " " not in message else []
    return frozenset(
        squashed(value) for value in values if isinstance(value, str) and 0 < len(value) <= _LONGEST_WORD
    )


_READERS = {
    "answers": _answers,
    "headers": _headers,
    "bodies": _bodies,
    "words": _words,
}


def messages_of(exception: BaseException) -> str:
    """Return what an exception was made with, as text of which a rule reads the beginning."""
    words = [text(argument) for argument in exception.args[:3] if isinstance(argument, (str, bytes))]
    return " ".join(words)[:_LONGEST_MESSAGE]


# -- closing it -----------------------------------------------------------------------------------


def close_answers(exception: BaseException) -> None:
    """Close the HTTP answers of an exception and of those that led to it. Never raises.

    With urllib, the exception is the answer; others have a ``response``. Each may hold an open connection.
    """
    seen: set[int] = set()
    found = [exception]
    while found and len(seen) < _MOST_EXCEPTIONS:
        one = found.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        found += led_to(one)
        for answer in (one, get(one, "response")):
            try:
                if _is_answer(answer):
                    answer.close()  # type: ignore[attr-defined]  # it has that
            except BaseException:  # a hostile attribute, or a broken connection
                continue


def _is_answer(obj: object) -> bool:
    """Return whether an object looks like an HTTP answer that can be closed."""
    has_status = any(isinstance(get(obj, name), int) for name in ("status_code", "status", "code"))
    return has_status and get(obj, "headers") is not None and callable(get(obj, "close"))


# -- forks -----------------------------------------------------------------------------------------


def _prepare_for_fork() -> None:
    import json  # noqa: F401


before_fork(_prepare_for_fork)
