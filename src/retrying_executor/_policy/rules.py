"""The rules by which `transient` decides, asked in their order.

Each rule looks at one thing that an exception keeps, and says what follows, or nothing. `reading`, `answers`
and `hints` do the reading; what each code means is data, in `codes`. An exception that says nothing itself
passes the question on: to the members of a group, to what it was raised from, to what it wraps. No public
function here raises, even if reading an attribute of the exception does.
"""

from __future__ import annotations

import re
from functools import lru_cache

from retrying_executor._common.callables import ASYNC, wrapper_codes
from retrying_executor._common.errors import NotNow, is_final
from retrying_executor._common.exceptions import class_name, is_a, led_to, traceback_of
from retrying_executor._common.values import optional_seconds
from retrying_executor._policy import codes
from retrying_executor._policy.answers import (
    aws_code_of,
    aws_reasons_of,
    grpc_status_of,
    http_status_of,
    reply_codes_of,
    sql_state_of,
)
from retrying_executor._policy.databases import dialect_of
from retrying_executor._policy.hints import explicit_hint, has_nothing_left, hint_of_client, until_reset
from retrying_executor._policy.reading import (
    Reading,
    called,
    classes_of,
    get,
    is_named,
    item,
    messages_of,
    once,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Ruling: TypeAlias = tuple[bool | NotNow, str]
    """Whether another attempt may help, or is only to come later; and why, in words."""

    Rule: TypeAlias = Callable[[Reading], Ruling | None]

_LONGEST_REASON = 200  # characters
_DOUBTFUL = frozenset({"quotaexceeded"})  # where there is no status: it may be the quota of a disk
_DOUBTFUL_STATUSES = frozenset({400, 403, 409, 423, 498})  # a code for a passing failure overrides these
_MOST_ASKED = 64  # exceptions in all, members of groups included
_MOST_WRAPPED = 12  # exceptions in one chain


@once
def hint_in(reading: Reading) -> float | None:
    """Return how many seconds an exception asks to wait; see `retry_after`."""
    readings = decide(reading)[2]
    hints = [_own_hint(one) for one in ([reading] if readings is None else readings)]
    asked = [seconds for seconds in hints if seconds is not None]
    if not asked:  # an exception around the one that decided, or inside it, may have the time
        asked = [seconds for one in _chain(reading) if (seconds := _own_hint(one)) is not None]
    return max(asked, default=None)


@once
def _own_hint(reading: Reading) -> float | None:
    """Return how many seconds one exception by itself asks to wait."""
    try:
        if reading.is_bare:
            return None
        seconds = explicit_hint(reading)
        return until_reset(reading) if seconds is None and _is_turned_away(reading) else seconds
    except BaseException:  # of a hostile attribute
        return None


def _chain(reading: Reading) -> list[Reading]:
    """Return an exception and those that it was raised from or wraps, but no members of groups."""
    found, seen, unseen = list[Reading](), set[int](), [reading]
    while unseen and len(found) < _MOST_WRAPPED:
        one = unseen.pop(0)
        if id(one.exception) not in seen:
            seen.add(id(one.exception))
            unseen += one.inside
            found.append(one)
    return found


def explanation(reading: Reading) -> str:
    """Return in one line what follows for an exception, and why; see `explain`."""
    exception = reading.exception
    verdict, why, readings = decide(reading)
    kind = "not now" if isinstance(verdict, NotNow) else "worth another attempt" if verdict else "final"
    asked = _asked_by(exception) if is_a(exception, NotNow) else hint_in(reading)
    hint = "" if asked is None else f"; it asks to wait {asked:g} s"
    where = ", ".join(_name(one.exception) for one in readings or ()) or _name(exception)
    line = f"{kind}: {why[:_LONGEST_REASON]}, of {where[:_LONGEST_REASON]}{hint}"
    return " ".join("".join(one if one.isprintable() else " " for one in line).split())


def _asked_by(not_now: NotNow) -> float | None:
    """Return how many seconds a `NotNow` asks to wait; ``None`` if it does not, or if that cannot be read."""
    try:
        return optional_seconds("after", not_now.after)
    except BaseException:  # it was set to something else, or a subclass raises
        return None


def _name(exception: BaseException) -> str:
    cls = type(exception)
    module = get(cls, "__module__")
    return f"{module}.{class_name(exception)}" if type(module) is str else class_name(exception)


# -- which exception decides -----------------------------------------------------------------------


@once
def decide(reading: Reading) -> tuple[bool | NotNow, str, list[Reading] | None]:
    """Return what follows for an exception, why, and the exceptions that said so. Never raises.

    These are ``None`` if it is the exception itself: a `Reading` keeps this, and must not refer to itself.
    """
    exception = reading.exception
    try:
        if is_a(exception, NotNow):
            return exception, "the call says so", []
        if not is_a(exception, Exception):
            return False, "what is no Exception is never retried", []
        found = _first_ruling(reading, [_MOST_ASKED])
    except BaseException:  # a hostile attribute proves nothing about the call
        return is_a(exception, Exception), "it cannot be read", []
    if found is None:
        return True, "nothing says that another attempt cannot help", None
    verdict, why, readings = found
    return verdict, why, None if readings == [reading] else readings


def _first_ruling(
    reading: Reading, budget: list[int], is_member: bool = False
) -> tuple[bool | NotNow, str, list[Reading]] | None:
    """Return the ruling of the first exception that has one, from the outside in, and which that is.

    Args:
        reading: The outermost exception.
        budget: How many exceptions may be asked in all: a list of one number, which this counts down.
        is_member: Whether the exception is a member of a group, which the call itself has not raised.
    """
    unseen, seen, left = [reading], set[int](), _MOST_WRAPPED
    while unseen and left > 0 and budget[0] > 0:
        budget[0] -= 1
        one, left = unseen.pop(0), left - 1
        exception = one.exception
        if id(exception) in seen:
            continue
        seen.add(id(exception))
        if is_a(exception, NotNow):
            return exception, "the call says so", []
        if one.members:
            return _ruling_of_group(one.members, budget)
        rules = _rules_for(one)
        if one is reading:
            ruling = _of_the_program(one, is_raised=not is_member)
            if ruling is not None:
                return *ruling, [one]
        for rule in rules:
            try:
                ruling = rule(one)
            except BaseException:  # an attribute that cannot be read does not hide the others
                continue
            if ruling is not None:
                return *ruling, [one]
        unseen += one.inside
    return None


def _rules_for(reading: Reading) -> tuple[Rule, ...]:
    is_bare = reading.is_bare  # raises if an exception hides its attributes: then no rule is asked
    dialect = dialect_of(type(reading.exception))  # type: ignore[arg-type]  # a class can be hashed
    if dialect is not None:
        return _sql, dialect, _by_name  # no rule of HTTP: its numbers mean something else
    return (_by_name,) if is_bare else _rules_asking(reading.names)


@lru_cache(maxsize=1024)
def _rules_asking(names: frozenset[str]) -> tuple[Rule, ...]:
    """Return the rules that have something to read if an exception has these attributes, in their order."""
    return tuple(rule for rule in _RULES if rule not in _NEEDED_BY or not names.isdisjoint(_NEEDED_BY[rule]))


def _ruling_of_group(
    members: list[Reading], budget: list[int]
) -> tuple[bool | NotNow, str, list[Reading]] | None:
    """Return what follows for a group: it is final, or "not now", only if all of its members are."""
    found = [_first_ruling(member, budget, is_member=True) for member in members[:_MOST_ASKED]]
    rulings = [ruling for ruling in found if ruling is not None]
    readings = [reading for ruling in rulings for reading in ruling[2]]
    if len(rulings) == len(members):
        if all(ruling[0] is False for ruling in rulings):
            return False, rulings[0][1], readings
        if all(isinstance(ruling[0], NotNow) for ruling in rulings):
            return rulings[0][0], rulings[0][1], readings
    return True, "not all members of the group say otherwise", readings


# -- the rules, in their order ---------------------------------------------------------------------


def _of_the_program(reading: Reading, *, is_raised: bool) -> Ruling | None:
    """Errors of the program or of this library that another attempt would only repeat.

    A `TypeError` is one if the call itself raised it, and its function did not even begin.
    """
    exception = reading.exception
    if issubclass(type(exception), codes.PROGRAMMING_ERRORS):
        return False, "another attempt would only repeat it"
    if is_final(exception):
        return False, "it could only repeat"
    if is_raised and is_a(exception, TypeError) and was_not_entered(exception):
        return False, "the arguments of the call do not fit"
    return None


def was_not_entered(exception: TypeError) -> bool:
    """Return whether the function of the call did not even begin: the traceback has no frame of it."""
    first = below = traceback_of(exception)
    if first is not None and not first.tb_frame.f_code.co_flags & ASYNC:
        below = first.tb_next  # the first frame is of this library; but a coroutine begins with its own
    while below is not None and below.tb_frame.f_code in wrapper_codes:
        below = below.tb_next
    return first is not None and below is None


def _own_word(reading: Reading) -> Ruling | None:
    """What the service says of retries, or its client: that comes first."""
    headers = reading.headers
    for name in codes.SHOULD_RETRY_HEADERS:
        word = headers[name].strip().lower() if name in headers else ""
        if word == "false":
            return False, f"{name}: false"
        if word == "true":
            asks = http_status_of(reading) in codes.HTTP_NOT_NOW or explicit_hint(reading) is not None
            return NotNow() if asks else True, f"{name}: true"
    for name in ("retryable", "retriable"):
        said = reading.get(name)
        if isinstance(said, bool) and (said or not reading.has_class(_NETWORK)):
            asks = said and http_status_of(reading) in codes.HTTP_NOT_NOW
            return NotNow() if asks else said, f"{name} is {said}"  # google-auth, kafka-python
    return None


def _aws(reading: Reading) -> Ruling | None:
    code = aws_code_of(reading)
    if code is None:
        return None
    reasons = aws_reasons_of(reading)
    if code == "TransactionCanceledException" and reasons:
        meanings = [_aws_meaning(reason) for reason in reasons]
        first = False if False in meanings else next((one for one in meanings if one is not None), True)
        return NotNow() if first is NotNow else first is True, f"AWS code {code} ({', '.join(reasons)})"
    if code == codes.AWS_LIMIT:
        status = http_status_of(reading)
        verdict = False if status in codes.AWS_ACCOUNT_LIMIT_STATUSES else NotNow()
        return verdict, f"AWS code {code} with HTTP status {status}"
    meaning = _aws_meaning(code)
    if meaning is True and http_status_of(reading) in codes.HTTP_NOT_NOW:
        meaning = NotNow
    if meaning is None:
        return None
    return NotNow() if meaning is NotNow else meaning is True, f"AWS code {code}"


@lru_cache(maxsize=1024)
def _aws_meaning(code: str) -> bool | type[NotNow] | None:
    if re.search(_AWS_FINAL, code):
        return False
    if re.search(_AWS_NOT_NOW, code):
        return NotNow
    return True if re.search(_AWS_AGAIN, code) else None


def _grpc(reading: Reading) -> Ruling | None:
    status = grpc_status_of(reading)
    if status is None:
        return None
    verdict = NotNow() if status in codes.GRPC_NOT_NOW else status not in codes.GRPC_FINAL
    return verdict, f"gRPC status {status}"


def _words(reading: Reading) -> Ruling | None:
    """The codes that the JSON of an answer has, or an exception."""
    status = http_status_of(reading)
    words = reading.words if status is None or status < 500 else None
    if words is None or words.isdisjoint(_MEANINGFUL_WORDS):
        return None
    for word in sorted(words & codes.NEVER_WORDS):
        return False, f"code {word}"
    for word in sorted(words & codes.NOT_NOW_WORDS):
        if status not in (404, 410) and not (status is None and word in _DOUBTFUL):
            return NotNow(), f"code {word}"
    if status is None or status < 400 or status in _DOUBTFUL_STATUSES:
        for word in sorted(words & codes.RETRY_WORDS):
            return True, f"code {word}"
    if status is None or status < 300:
        for word in sorted(words & codes.FINAL_WORDS):
            return False, f"code {word}"
    return None


def _slack(reading: Reading) -> Ruling | None:
    """Errors of Slack, which come with status 200: https://docs.slack.dev/apis/web-api."""
    for body in reading.bodies:
        code = item(body, "error")
        if item(body, "ok") is False and isinstance(code, str) and re.search(codes.SLACK_FINAL, code):
            return False, f"code {code}"
    return None


def _facebook(reading: Reading) -> Ruling | None:
    code = called(reading.get("api_error_code"))
    if code in codes.FACEBOOK_NOT_NOW:
        return NotNow(), f"code {code}"
    for part in reading.parts:
        if part.get("is_transient") is True:
            return True, "is_transient"
    return None


def _http(reading: Reading) -> Ruling | None:
    status = http_status_of(reading)
    if status is None or status < 400:
        return None if status is None or status < 300 else (True, f"HTTP status {status}")
    why = f"HTTP status {status}"
    if status in codes.HTTP_NOT_NOW:
        return NotNow(), why
    if status >= 500:
        return True, why
    if explicit_hint(reading) is not None:
        return NotNow(), f"{why}, and asks to wait"
    if status == 403 and _is_turned_away(reading):
        return NotNow(), f"{why}, and a limit is used up"
    if status in codes.HTTP_TRANSIENT_CLIENT_ERRORS or _is_invented(reading):
        return True, why
    if status == 409 and reading.root in codes.CONFLICT_RETRIED_BY:
        return True, f"{why}, which the provider's client tries again"
    return False, why


def _is_turned_away(reading: Reading) -> bool:
    """Return whether an answer says that the call came too early: then headers may say how long to wait."""
    status = http_status_of(reading)
    if status == 403:
        return has_nothing_left(reading) or "secondary rate limit" in _message(reading)
    return status in codes.HTTP_NOT_NOW or (status == 503 and has_nothing_left(reading))


def _message(reading: Reading) -> str:
    messages = [item(body, "message") for body in reading.bodies]
    return " ".join(message for message in messages if isinstance(message, str)).lower()


def _is_invented(reading: Reading) -> bool:
    """Return whether aiohttp made the status up, for an answer that it could not parse."""
    cause: Any = type(reading.exception.__cause__)  # a class can be hashed
    return is_named(cause, r"\bHttpProcessingError\b")


def _client_hint(reading: Reading) -> Ruling | None:
    return None if hint_of_client(reading) is None else (NotNow(), "it asks to wait")


def _sql(reading: Reading) -> Ruling | None:
    state = sql_state_of(reading)
    numbers = [one for one in (reading.first_argument, reading.get("errno")) if isinstance(one, int)]
    if state is None or not codes.MYSQL_AGAIN.isdisjoint(numbers):
        return None
    return state[:2] not in codes.SQL_FINAL_CLASSES, f"SQLSTATE {state}"


def _reply(reading: Reading) -> Ruling | None:
    """Replies of SMTP: one for each address."""
    replies = reply_codes_of(reading)
    if not replies:
        return None
    why = f"reply {', '.join(str(code) for code in sorted(set(replies)))}"
    return any(code < 500 for code in replies), why


def _by_name(reading: Reading) -> Ruling | None:
    body = reading.get("body")
    words = messages_of(reading.exception) + (body[:1000] if isinstance(body, str) else "")
    if reading.has_class(_NEVER_SENT) and not (re.search(codes.MAY_PASS, words) or _is_of_answer(reading)):
        return False, "it failed before it reached the service"
    if re.search(codes.NEVER_SENT_WORDS, words) and not reading.has_class(_NETWORK):
        return False, "it cannot be sent as it is"
    if _is_at_the_certificate(reading):
        return False, "the certificate does not verify"
    said = _said_by_class(type(reading.exception))  # type: ignore[arg-type]  # a class can be hashed
    if said is None:
        return None
    is_final, name = said
    return (False, f"{name} is final") if is_final else (NotNow(), f"{name} asks for a slower pace")


@lru_cache(maxsize=1024)
def _said_by_class(cls: type) -> tuple[bool, str] | None:
    """Return whether a class is final, or asks for a slower pace, and its name; ``None`` if it is neither."""
    for base in classes_of(cls):  # the most special one that says something decides
        for name in (base.__name__, f"{base.__module__}.{base.__name__}"):
            if re.search(_FINAL, name):
                return True, base.__name__
            if re.search(_NOT_NOW, name):
                return False, base.__name__
    return None


def _is_of_answer(reading: Reading) -> bool:
    """Return whether a class for calls that were never sent stands for an answer that could not be read."""
    return reading.has_class("JSONDecodeError$") or (
        reading.has_class("InvalidHeader$") and bool(reading.inside)
    )


def _is_at_the_certificate(reading: Reading) -> bool:
    """Return whether a client failed at a certificate: in its exceptions, that is often deep inside."""
    unseen = [reading] if classes_of(type(reading.exception)) else []  # type: ignore[arg-type]
    left = _MOST_WRAPPED
    while unseen and left > 0:
        one, left = unseen.pop(0), left - 1
        cls: Any = type(one.exception)  # a class can be hashed
        if is_named(cls, r"Cert(ificate)?Verif|CertificateError"):
            return True
        if is_named(cls, "SSL|TLS|Connect|URLError|MaxRetry"):
            unseen += [*one.inside, *(Reading(led) for led in led_to(one.exception))]
    return False


_MEANINGFUL_WORDS = codes.NEVER_WORDS | codes.NOT_NOW_WORDS | codes.RETRY_WORDS | codes.FINAL_WORDS
_AWS_FINAL = "|".join(codes.AWS_FINAL)
_AWS_NOT_NOW = "|".join(codes.AWS_NOT_NOW)
_AWS_AGAIN = "|".join(codes.AWS_AGAIN)
_NETWORK = "|".join(codes.NETWORK_FAILURES)
_NEVER_SENT = "|".join(codes.NEVER_SENT)
_FINAL = "|".join(codes.FINAL_NAMES)
_NOT_NOW = "|".join(codes.NOT_NOW_NAMES)
_RULES = (
    _own_word,
    _aws,
    _grpc,
    _sql,
    _slack,
    _words,
    _facebook,
    _http,
    _reply,
    _client_hint,
    _by_name,
)
_NEEDED_BY = {
    _aws: {"response"},
    _grpc: {"grpc_status_code", "details"},
    _sql: {"sqlstate", "pgcode"},
    _reply: {"smtp_code", "recipients", "code"},
}
"""The attributes that some rules need: without any of these, the rule says nothing."""
