"""Reads what an exception keeps, and the answer of the service that it refers to: attributes, headers, JSON.

No client library is imported, and nothing is trusted: an attribute may raise, be of any type, or refer to
itself. If the client has not read the body of an answer yet, it stays unread: that might wait for the
network.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache, wraps

from retrying_executor._common.exceptions import RemoteTraceback, cause_of, is_a
from retrying_executor._common.forks import before_fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TypeVar

    T = TypeVar("T")

_LONGEST_BODY = 65_536  # characters, of what is parsed
_LONGEST_WORD = 64  # characters, of what may be a code
_LONGEST_NAME = 200  # characters, of a header that is read
_LONGEST_MESSAGE = 1000  # characters, of what is searched
_MOST_ERRORS = 8  # of one list in a body
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
_HEADERS = (
    "headers",
    "litellm_response_headers",
    "response_headers",
    "resp_headers",  # websocket-client
    "_http_headers",  # facebook-business
    "resp",  # httplib2: the answer is a mapping of its headers
)
_WORDS = frozenset({"code", "type", "reason", "status", "error", "error_code", "errorCode", "name"})
"""Where the JSON of an answer, or an exception, has a code for what went wrong."""
_OWN_WORDS = _WORDS - {"name", "reason"}
"""The same for an exception: on one of a program's own, those two may be anything."""


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
    """Return what calling *obj* returns; ``None`` if it cannot be called, or raises."""
    try:
        return obj(*args) if callable(obj) else None
    except BaseException:
        return None


_READ_BY_RULES = frozenset(
    {*_BODIES, *_ANSWERS, *_HEADERS, *_WORDS}
    | {"items", "status_code", "http_status", "response_code", "errcode", "grpc_status_code"}
    | {"sqlstate", "pgcode", "smtp_code", "recipients", "trailing_metadata", "retryable", "retriable"}
    | {"errno", "has_error_label", "reply_code", "err_code", "api_error_code"}
    | {"_retry_after", "retry_after", "retry_after_s", "retry_after_secs", "retry_after_seconds", "retry_in"}
    | {"backoff", "cooldown_time", "period_remaining", "seconds"}
)
"""Every attribute of an exception that a rule reads. Most exceptions have none of these, and take no time."""


@lru_cache(maxsize=1024)
def _names_of(cls: type) -> frozenset[str]:
    """Return the attributes for rules that a class gives its instances: all, if it makes attributes up."""
    names: set[str] = set()
    for base in cls.__mro__:
        if base.__module__ != "builtins":
            names.update(vars(base))
    makes_up = "__getattr__" in names or "__getattribute__" in names
    return _READ_BY_RULES if makes_up else _READ_BY_RULES & names


@lru_cache(maxsize=1024)
def classes_of(cls: type) -> tuple[type, ...]:
    """Return those of a class and its bases that a library defines, not the program: see `is_of_library`."""
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
def _is_named_by_library(cls: type, pattern: str) -> bool:
    return any(
        re.search(pattern, base.__name__) or re.search(pattern, f"{base.__module__}.{base.__name__}")
        for base in classes_of(cls)
    )


@lru_cache(maxsize=4096)
def is_named(cls: type, pattern: str) -> bool:
    """Return whether *pattern* is found in the names of a class and all its bases, which spaces separate."""
    return re.search(pattern, " ".join([base.__name__ for base in cls.__mro__])) is not None


if TYPE_CHECKING:
    from functools import cached_property as kept
else:

    class kept:  # noqa: N801  # as the property that it stands for
        """As ``functools.cached_property``, but without the lock that this holds before Python 3.12."""

        def __init__(self, read):
            self._read = read

        def __set_name__(self, _, name):
            self._name = name

        def __get__(self, obj, _):
            value = self._read(obj)
            setattr(obj, self._name, value)
            return value


class Reading:
    """What one exception says: of itself, and of the answer of the service that it stands for.

    Everything is read at its first use, and kept: all that judge a failure are given the same object. If an
    exception hides its attributes, that first use raises.

    Args:
        exception: What was raised.
    """

    def __init__(self, exception: BaseException) -> None:
        self.exception = exception

    @property
    def own(self) -> dict[str, object]:
        """The attributes of the exception itself, not those of its class."""
        own: dict[str, object] = object.__getattribute__(self.exception, "__dict__")
        return own

    @kept
    def names(self) -> frozenset[str]:
        """The attributes for rules that the exception may have."""
        own = self.own
        names = _names_of(type(self.exception))  # type: ignore[arg-type]  # a class can be hashed
        found = [name for name in own if name in _READ_BY_RULES and own[name] is not None]
        return names.union(found) if found else names

    @property
    def is_bare(self) -> bool:
        """Whether the exception has nothing for rules to read, as most of Python's own."""
        return not self.names

    def get(self, name: str) -> object:
        """Return an attribute of the exception; ``None`` if there is none, or if reading it raises."""
        return get(self.exception, name) if name in self.names else None

    def has_any(self, names: frozenset[str]) -> bool:
        """Return whether the exception may have one of these attributes."""
        return not names.isdisjoint(self.names)

    @property
    def first_argument(self) -> object:
        """The first argument that the exception was made with; ``None`` if there is none."""
        args = self.exception.args
        return args[0] if args else None

    def has_class(self, pattern: str) -> bool:
        """Return whether the name of the exception's class, or of a base, matches; if a library has it."""
        cls: Any = type(self.exception)  # it can be hashed
        return _is_named_by_library(cls, pattern)

    @property
    def root(self) -> str:
        """The package of the exception's class: as a rule, the client library."""
        return type(self.exception).__module__.partition(".")[0]

    @kept
    def inside(self) -> list[Reading]:
        """The exceptions that it was raised from or wraps; not one that was only being handled meanwhile."""
        exception = self.exception
        orig, last = get(exception, "orig"), get(exception, "last_attempt")  # SQLAlchemy; tenacity
        is_over = last is not None and called(get(last, "done")) is not False  # or it would wait for that
        last = called(get(last, "exception")) if is_over else None
        args = get(exception, "args")
        wrapped = [cause_of(exception), orig, last, get(exception, "reason")]
        wrapped += tuple.__getitem__(args, slice(2)) if is_a(args, tuple) else ()  # of a subclass, too
        return [
            Reading(one) for one in wrapped if is_a(one, BaseException) and not is_a(one, RemoteTraceback)
        ]

    @kept
    def members(self) -> list[Reading]:
        """What the exception is a group of; nothing if it is no group."""
        members = get(self.exception, "exceptions")
        if not isinstance(members, tuple) or not all(is_a(one, BaseException) for one in members):
            return []
        return [Reading(one) for one in members]

    @kept
    def answers(self) -> list[object]:
        """The objects that may be the answer of the service: clients keep it under several names."""
        names = [name for name in _ANSWERS if name in self.names]
        return [answer for name in names if (answer := self.get(name)) is not None]

    @kept
    def headers(self) -> dict[str, str]:
        """The headers of the HTTP answer that a rule reads, by lower-case name."""
        found: dict[str, str] = {}
        for headers in _mappings_of_headers(self):
            pairs: Any = None if headers is None else called(get(headers, "items"))
            if pairs:
                found = _headers_for_rules(pairs)
                break
        for body in self.bodies:  # OpenRouter passes on the headers of the provider behind it
            passed_on = item(item(item(body, "error"), "metadata"), "headers")
            if passed_on is not None:
                pairs = called(get(passed_on, "items"))
                found = {**_headers_for_rules(pairs or ()), **found}
        return found

    @kept
    def bodies(self) -> list[object]:
        """The JSON of the answer: what the client has parsed, or what it has only read."""
        names = self.names
        found = [_parsed(self.get(name)) for name in _BODIES if name in names]
        for answer in self.answers if not any(found) else ():
            if isinstance(answer, dict):
                found.append(answer)
            elif get(answer, "_content_consumed") is True or get(answer, "is_stream_consumed") is True:
                found.append(_parsed(get(answer, "content")))  # requests, httpx: it has been read
            # slack_sdk. Only the object's own: a property, as that of urllib3, might wait for the network.
            elif isinstance(data := item(get(answer, "__dict__"), "data"), dict):
                found.append(data)
        return [body for body in found if body]

    @kept
    def parts(self) -> list[dict[str, Any]]:
        """The parts of the bodies that say what went wrong, the outermost of each first."""
        return [part for body in self.bodies for part in _errors_in(body) if isinstance(part, dict)]

    @kept
    def words(self) -> frozenset[str]:
        """The codes for what went wrong that the exception and its answer have, as `squashed`."""
        # Only the exception's own: to read a property may warn that it is deprecated, as ``code`` of aiohttp.
        values = [self.own[name] for name in self.own.keys() & _OWN_WORDS]
        listed = self.get("items")  # praw
        if isinstance(listed, list):
            values += [get(one, "error_type") for one in listed[:_MOST_ERRORS]]
        for part in self.parts:
            values += [part[name] for name in part.keys() & _WORDS]
            message = part.get("message")  # it may be a code: Groq
            if isinstance(message, str) and " " not in message:
                values.append(message)
        words = [value for value in values if isinstance(value, str) and 0 < len(value) <= _LONGEST_WORD]
        return frozenset([squashed(word) for word in words])


def once(read: Callable[[Reading], T]) -> Callable[[Reading], T]:
    """Have a `Reading` keep what *read* returns for it, as `kept` does for its own properties."""
    name = f"_{read.__name__}"

    @wraps(read)
    def read_once(reading: Reading) -> T:
        value: Any = getattr(reading, name, ...)  # no *read* returns that
        if value is ...:
            value = read(reading)
            setattr(reading, name, value)
        return value  # type: ignore[no-any-return]  # it is what *read* has returned

    return read_once


def _mappings_of_headers(of: Reading) -> Iterator[object]:
    """Yield what may be the headers, in the order of precedence."""
    yield item(item(of.get("response"), "ResponseMetadata"), "HTTPHeaders")  # botocore
    for answer in of.answers:
        yield get(answer, "headers")
    for name in _HEADERS:
        yield of.get(name)


def _headers_for_rules(pairs: Iterable[tuple[object, object]]) -> dict[str, str]:
    """Return the headers that a rule reads, by lower-case name."""
    found = {}
    for given, value in pairs:
        name = given if type(given) is str else text(given)
        known = _header_for_rules(name) if len(name) <= _LONGEST_NAME else None  # which keeps the name
        if known is not None:
            found[known] = text(value)
    return found


@lru_cache(maxsize=256)
def _header_for_rules(name: str) -> str | None:
    """Return the name of a header in lower case; ``None`` if no rule reads that header, as with most."""
    name = name.lower()
    is_read = "retry" in name or "ratelimit" in name.replace("-", "") or name == "date"
    return name if is_read else None


def text(value: object) -> str:
    """Return *value* as text."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _parsed(value: object) -> object:
    """Return the JSON that *value* is, parsed or as text, as a dictionary; ``None`` if it is none."""
    if isinstance(value, (bytes, str)):
        if not 2 <= len(value) <= _LONGEST_BODY or text(value[:100]).lstrip()[:1] not in ("{", "["):
            return None
        import json  # few programs get here

        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, (list, tuple)):
        dicts = [one for one in value[:_MOST_ERRORS] if isinstance(one, dict)]
        return dicts[0] if len(value) == len(dicts) == 1 else {"errors": dicts} if dicts else None
    return value if isinstance(value, dict) else None


def _errors_in(body: object) -> list[object]:
    """Return a body and the parts of it that may say what went wrong, each before its own parts."""
    found, most = [body], 2 * _MOST_ERRORS
    for part in found:  # it grows meanwhile
        if isinstance(part, dict) and len(found) < most:
            found += (part.get("error"), part.get("parameters"))
            for name in ("errors", "details"):
                listed = part.get(name)
                found += listed[:_MOST_ERRORS] if isinstance(listed, list) else (listed,)
    return found[:most]


def squashed(word: str) -> str:
    """Return a code as the tables in `codes` have it: in small letters, without separators."""
    return word.replace("_", "").replace("-", "").replace(" ", "").lower()


def messages_of(exception: BaseException) -> str:
    """Return the texts that an exception was made with, joined and cut off."""
    words = [text(argument) for argument in exception.args[:3] if isinstance(argument, (str, bytes))]
    return " ".join(words)[:_LONGEST_MESSAGE]


# -- forks -----------------------------------------------------------------------------------------


def _prepare_for_fork() -> None:
    import json  # noqa: F401


before_fork(_prepare_for_fork)
