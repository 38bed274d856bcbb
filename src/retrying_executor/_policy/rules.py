"""The rules by which `transient` decides, asked in their order.

Each rule reads one thing that an exception keeps, and says what follows, or nothing. What it reads is read by
`reading`, `answers` and `hints`; what each code means is data, in `codes`. An exception that says nothing
itself passes the question on: to the members of a group, to what it was raised from, to what it wraps.
Nothing here ever raises, even if reading an attribute of the exception does.
"""

from __future__ import annotations

import re
from functools import lru_cache

from retrying_executor._common.callables import wrapper_codes
from retrying_executor._common.errors import NotNow, is_final
from retrying_executor._common.exceptions import class_name, is_a, led_to, traceback_of
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
    Answer,
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

    Rule: TypeAlias = Callable[[Answer], Ruling | None]

_LONGEST_REASON = 200  # characters
_DOUBTFUL = frozenset({"quotaexceeded"})  # without a status: of a disk, say
_DOUBTFUL_STATUSES = frozenset({400, 403, 409, 423, 498})  # which a code for a passing failure overrides
_MOST_ASKED = 64  # exceptions in all, in groups too
_MOST_WRAPPED = 12  # exceptions that are asked, of those that one wraps


@once
def hint_in(answer: Answer) -> float | None:
    """Return how many seconds an exception asks to wait; see `retry_after`."""
    answers = decide(answer)[2]
    hints = [_hint_of(one) for one in ([answer] if answers is None else answers)]
    asked = [seconds for seconds in hints if seconds is not None]
    if not asked:  # what wraps the answer that decided, or is inside it, may have read the time
        asked = [seconds for one in _chain(answer) if (seconds := _hint_of(one)) is not None]
    return max(asked, default=None)


@once
def _hint_of(answer: Answer) -> float | None:
    try:
        if answer.is_bare:
            return None
        seconds = explicit_hint(answer)
        return until_reset(answer) if seconds is None and _is_turned_away(answer) else seconds
    except BaseException:  # of a hostile attribute
        return None


def _chain(answer: Answer) -> list[Answer]:
    """Return an exception and what it was raised from or wraps, not in groups."""
    found, seen, unseen = list[Answer](), set[int](), [answer]
    while unseen and len(found) < _MOST_WRAPPED:
        one = unseen.pop(0)
        if id(one.exception) not in seen:
            seen.add(id(one.exception))
            unseen += one.inside
            found.append(one)
    return found


def in_words(answer: Answer) -> str:
    """Return in one line what follows for an exception, and why; see `explain`."""
    exception = answer.exception
    verdict, why, answers = decide(answer)
    kind = "not now" if isinstance(verdict, NotNow) else "worth another attempt" if verdict else "final"
    asked = exception.after if is_a(exception, NotNow) else hint_in(answer)
    hint = "" if asked is None else f"; it asks to wait {asked:g} s"
    where = ", ".join(_name(one.exception) for one in answers or ()) or _name(exception)
    line = f"{kind}: {why[:_LONGEST_REASON]}, of {where[:_LONGEST_REASON]}{hint}"
    return " ".join("".join(one if one.isprintable() else " " for one in line).split())


def _name(exception: BaseException) -> str:
    cls = type(exception)
    module = get(cls, "__module__")
    return f"{module}.{class_name(exception)}" if type(module) is str else class_name(exception)


# -- who decides -----------------------------------------------------------------------------------


@once
def decide(answer: Answer) -> tuple[bool | NotNow, str, list[Answer] | None]:
    """Return what follows for an exception, why, and what said so: ``None`` for itself. Never raises."""
    exception = answer.exception
    try:
        if is_a(exception, NotNow):
            return exception, "the call says so", []
        if not is_a(exception, Exception):
            return False, "what is no Exception is never retried", []
        found = _first_ruling(answer, [_MOST_ASKED])
    except BaseException:  # a hostile attribute proves nothing about the call
        return is_a(exception, Exception), "it cannot be read", []
    if found is None:
        return True, "nothing says that another attempt cannot help", None
    verdict, why, answers = found
    return verdict, why, None if answers == [answer] else answers  # what it keeps must not refer to itself


def _first_ruling(
    answer: Answer, budget: list[int], is_member: bool = False
) -> tuple[bool | NotNow, str, list[Answer]] | None:
    """Return what the first of an exception and those inside it says that says anything."""
    unseen, seen, left = [answer], set[int](), _MOST_WRAPPED
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
        if one is answer:
            ruling = _of_the_program(one, is_raised=not is_member)
            if ruling is not None:
                return *ruling, [one]
        for rule in rules:
            try:
                ruling = rule(one)
            except BaseException:  # what cannot be read hides nothing else
                continue
            if ruling is not None:
                return *ruling, [one]
        unseen += one.inside
    return None


def _rules_for(answer: Answer) -> tuple[Rule, ...]:
    is_bare = answer.is_bare  # of an exception that hides its attributes this raises: no rule is asked
    dialect = dialect_of(type(answer.exception))  # type: ignore[arg-type]  # a class can be hashed
    if dialect is not None:
        return _sql, dialect, _by_name  # its numbers are none of HTTP
    return (_by_name,) if is_bare else _rules_asking(answer.names)


@lru_cache(maxsize=1024)
def _rules_asking(names: frozenset[str]) -> tuple[Rule, ...]:
    """Return the rules that find something to read among these attributes of an exception, in their order."""
    return tuple(rule for rule in _RULES if rule not in _ASKED_BY or not names.isdisjoint(_ASKED_BY[rule]))


def _ruling_of_group(
    members: list[Answer], budget: list[int]
) -> tuple[bool | NotNow, str, list[Answer]] | None:
    """Return what follows for a group: it is final, or asks to come later, only where all its members do."""
    found = [_first_ruling(member, budget, is_member=True) for member in members[:_MOST_ASKED]]
    rulings = [ruling for ruling in found if ruling is not None]
    answers = [answer for ruling in rulings for answer in ruling[2]]
    if len(rulings) == len(members):
        if all(ruling[0] is False for ruling in rulings):
            return False, rulings[0][1], answers
        if all(isinstance(ruling[0], NotNow) for ruling in rulings):
            return rulings[0][0], rulings[0][1], answers
    return True, "not all members of the group say otherwise", answers


# -- the rules, in their order ---------------------------------------------------------------------


def _of_the_program(answer: Answer, *, is_raised: bool) -> Ruling | None:
    """What another attempt would only repeat; of a `TypeError` that can be seen where the call raised it."""
    exception = answer.exception
    if issubclass(type(exception), codes.PROGRAMMING_ERRORS):
        return False, "another attempt would only repeat it"
    if is_final(exception):
        return False, "it could only repeat"
    if is_raised and is_a(exception, TypeError) and _was_not_entered(exception):
        return False, "the arguments of the call do not fit"
    return None


def _was_not_entered(exception: TypeError) -> bool:
    """Return whether the call raised it before its function began: its traceback has no frame of that."""
    traceback = traceback_of(exception)
    below = None if traceback is None else traceback.tb_next
    while below is not None and below.tb_frame.f_code in wrapper_codes:
        below = below.tb_next
    return traceback is not None and below is None


def _own_word(answer: Answer) -> Ruling | None:
    """The service's own word, or its client's: obeyed first."""
    headers = answer.headers
    for name in codes.SHOULD_RETRY_HEADERS:
        word = headers[name].strip().lower() if name in headers else ""
        if word == "false":
            return False, f"{name}: false"
        if word == "true":
            asks = http_status_of(answer) in codes.HTTP_NOT_NOW or explicit_hint(answer) is not None
            return NotNow() if asks else True, f"{name}: true"
    for name in ("retryable", "retriable"):
        said = answer.get(name)
        if isinstance(said, bool) and (said or not answer.has_class(_NETWORK)):
            asks = said and http_status_of(answer) in codes.HTTP_NOT_NOW
            return NotNow() if asks else said, f"{name} is {said}"  # google-auth, kafka-python
    return None


def _aws(answer: Answer) -> Ruling | None:
    code = aws_code_of(answer)
    if code is None:
        return None
    reasons = aws_reasons_of(answer)
    if code == "TransactionCanceledException" and reasons:
        meanings = [_aws_meaning(reason) for reason in reasons]
        first = False if False in meanings else next((one for one in meanings if one is not None), True)
        return NotNow() if first is NotNow else first is True, f"AWS code {code} ({', '.join(reasons)})"
    if code == codes.AWS_LIMIT:
        status = http_status_of(answer)
        verdict = False if status in codes.AWS_ACCOUNT_LIMIT_STATUSES else NotNow()
        return verdict, f"AWS code {code} with HTTP status {status}"
    meaning = _aws_meaning(code)
    if meaning is True and http_status_of(answer) in codes.HTTP_NOT_NOW:
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


def _grpc(answer: Answer) -> Ruling | None:
    status = grpc_status_of(answer)
    if status is None:
        return None
    verdict = NotNow() if status in codes.GRPC_NOT_NOW else status not in codes.GRPC_FINAL
    return verdict, f"gRPC status {status}"


def _words(answer: Answer) -> Ruling | None:
    """What the JSON of an answer, or an exception, has as its code."""
    status = http_status_of(answer)
    words = answer.words if status is None or status < 500 else None
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


def _slack(answer: Answer) -> Ruling | None:
    """An answer 200 that is not ``ok``: https://docs.slack.dev/apis/web-api."""
    for body in answer.bodies:
        code = item(body, "error")
        if item(body, "ok") is False and isinstance(code, str) and re.search(codes.SLACK_FINAL, code):
            return False, f"code {code}"
    return None


def _facebook(answer: Answer) -> Ruling | None:
    code = called(answer.get("api_error_code"))
    if code in codes.FACEBOOK_NOT_NOW:
        return NotNow(), f"code {code}"
    for part in answer.parts:
        if part.get("is_transient") is True:
            return True, "is_transient"
    return None


def _http(answer: Answer) -> Ruling | None:
    status = http_status_of(answer)
    if status is None or status < 400:
        return None if status is None or status < 300 else (True, f"HTTP status {status}")
    why = f"HTTP status {status}"
    if status in codes.HTTP_NOT_NOW:
        return NotNow(), why
    if status >= 500:
        return True, why
    if explicit_hint(answer) is not None:
        return NotNow(), f"{why}, and asks to wait"
    if status == 403 and _is_turned_away(answer):
        return NotNow(), f"{why}, and a limit is used up"
    if status in codes.HTTP_TRANSIENT_CLIENT_ERRORS or _is_invented(answer):
        return True, why
    if status == 409 and answer.root in codes.CONFLICT_RETRIED_BY:
        return True, f"{why}, which the provider's client tries again"
    return False, why


def _is_turned_away(answer: Answer) -> bool:
    """Return whether an answer says that the call came too early, so that its limits say until when."""
    status = http_status_of(answer)
    if status == 403:
        return has_nothing_left(answer) or "secondary rate limit" in _message(answer)
    return status in codes.HTTP_NOT_NOW or (status == 503 and has_nothing_left(answer))


def _message(answer: Answer) -> str:
    return " ".join(str(item(body, "message")) for body in answer.bodies).lower()


def _is_invented(answer: Answer) -> bool:
    """Return whether aiohttp gave a status to what it could not parse."""
    return _has_class(answer.exception.__cause__, "HttpProcessingError")


def _hint(answer: Answer) -> Ruling | None:
    return None if hint_of_client(answer) is None else (NotNow(), "it asks to wait")


def _sql(answer: Answer) -> Ruling | None:
    state = sql_state_of(answer)
    if (
        state is None
        or answer.first_argument in codes.MYSQL_AGAIN
        or answer.get("errno") in codes.MYSQL_AGAIN
    ):
        return None
    return state[:2] not in codes.SQL_FINAL_CLASSES, f"SQLSTATE {state}"


def _reply(answer: Answer) -> Ruling | None:
    """Replies of SMTP: one for each address."""
    replies = reply_codes_of(answer)
    if not replies:
        return None
    why = f"reply {', '.join(str(code) for code in sorted(set(replies)))}"
    return any(code < 500 for code in replies), why


def _by_name(answer: Answer) -> Ruling | None:
    body = answer.get("body")
    words = messages_of(answer.exception) + (body[:1000] if isinstance(body, str) else "")
    if answer.has_class(_NEVER_SENT) and not (re.search(codes.MAY_PASS, words) or _is_of_answer(answer)):
        return False, "it failed before it reached the service"
    if re.search(codes.NEVER_SENT_WORDS, words) and not answer.has_class(_NETWORK):
        return False, "it cannot be sent as it is"
    if _is_at_the_certificate(answer):
        return False, "the certificate does not verify"
    said = _said_by_class(type(answer.exception))  # type: ignore[arg-type]  # a class can be hashed
    if said is None:
        return None
    is_final, name = said
    return (False, f"{name} is final") if is_final else (NotNow(), f"{name} asks for a slower pace")


@lru_cache(maxsize=1024)
def _said_by_class(cls: type) -> tuple[bool, str] | None:
    """Return whether a class is final, or asks for a slower pace, and its name; ``None`` if it is neither."""
    for base in classes_of(cls):  # of two that say something, the more special one
        for name in (base.__name__, f"{base.__module__}.{base.__name__}"):
            if re.search(_FINAL, name):
                return True, base.__name__
            if re.search(_NOT_NOW, name):
                return False, base.__name__
    return None


def _is_of_answer(answer: Answer) -> bool:
    """Return whether requests tells by a class of its own that it could not read an answer."""
    return answer.has_class("JSONDecodeError$") or (
        answer.has_class("InvalidHeader$") and bool(answer.inside)
    )


def _is_at_the_certificate(answer: Answer) -> bool:
    """Return whether a client failed at a certificate: it may be deep inside, where only clients look."""
    unseen = [answer] if classes_of(type(answer.exception)) else []  # type: ignore[arg-type]
    left = _MOST_WRAPPED
    while unseen and left > 0:
        one, left = unseen.pop(0), left - 1
        cls: Any = type(one.exception)  # a class can be hashed
        if is_named(cls, r"Cert(ificate)?Verif|CertificateError"):
            return True
        if is_named(cls, "SSL|TLS|Connect|URLError|MaxRetry"):
            unseen += [*one.inside, *(Answer(led) for led in led_to(one.exception))]
    return False


def _has_class(exception: BaseException | None, name: str) -> bool:
    return exception is not None and any(cls.__name__ == name for cls in type(exception).__mro__)


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
    _hint,
    _by_name,
)
_ASKED_BY = {
    _aws: {"response"},
    _grpc: {"grpc_status_code", "details"},
    _sql: {"sqlstate", "pgcode"},
    _reply: {"smtp_code", "recipients", "code"},
}
"""What some rules are about: without any of these attributes, they say nothing."""
