"""Which answer an exception stands for: a status of HTTP or gRPC, a code of AWS, a database, a mail server.

Exceptions are read by their shape, so no client library is needed. What each answer means is decided in
`rules`, by the tables in `codes`.
"""

from __future__ import annotations

import re

from retrying_executor._policy.reading import called, get, item, once

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrying_executor._policy.reading import Answer

_STATUSES = (
    "status_code",  # SDKs
    "http_status",
    "status",  # aiohttp, SDKs
    "response_code",  # python-gitlab
    "errcode",  # xmlrpc
)


def aws_code_of(answer: Answer) -> str | None:
    """Return the error code of an exception of botocore: ``response["Error"]["Code"]``."""
    code = item(item(answer.get("response"), "Error"), "Code")
    # Within an event stream, codes begin with a small letter.
    return code[:1].upper() + code[1:] if isinstance(code, str) else None


def aws_reasons_of(answer: Answer) -> list[str]:
    """Return why a transaction of DynamoDB was cancelled: the codes of its parts."""
    reasons = item(answer.get("response"), "CancellationReasons")
    parts = reasons if isinstance(reasons, list) else []
    return [code for part in parts if isinstance(code := item(part, "Code"), str) and code != "None"]


def grpc_status_of(answer: Answer) -> str | None:
    """Return the name of the gRPC status of an exception of grpc or google-api-core."""
    code = answer.get("grpc_status_code")
    if code is None and callable(answer.get("details")):
        code = called(answer.get("code"))
    name = get(code, "name")
    return name if isinstance(name, str) and type(code).__name__ == "StatusCode" else None


@once
def http_status_of(answer: Answer) -> int | None:
    """Return the status of the HTTP answer behind an exception; ``None`` if there is none.

    Where an exception and its answer have different ones, that of an error: the answer of a stream is 200.
    """
    found = None
    for status in _statuses(answer) if not answer.is_bare else ():
        number = _number_of(status)
        if number is not None and (found is None or number >= 400):
            found = number
        if found is not None and found >= 400:
            break
    return _exhausted_status(answer) if found is None else found


def _statuses(answer: Answer) -> Iterator[object]:
    """Yield what may be the status, in the order of precedence."""
    yield item(item(answer.get("response"), "ResponseMetadata"), "HTTPStatusCode")  # botocore
    for one in answer.answers:
        yield get(one, "status_code")  # requests, httpx
        yield get(one, "status")  # urllib3, aiohttp
    for name in _STATUSES:
        yield answer.get(name)
    yield called(answer.get("http_status"))  # facebook-business
    if (
        answer.answers
        or answer.get("headers") is not None
        or answer.bodies
        or answer.get("errors") is not None
    ):
        yield answer.get("code")  # urllib, google-api-core; else it may be a code of any kind


def _number_of(status: object) -> int | None:
    if isinstance(status, int) and not isinstance(status, bool) and 100 <= status < 600:
        return int(status)
    return None


def _exhausted_status(answer: Answer) -> int | None:
    """Return the status that urllib3 retried in vain; requests wraps its exception once more."""
    for reason in (answer.get("reason"), *(get(inner, "reason") for inner in answer.exception.args[:1])):
        words = str(reason).split() if reason is not None else []
        if words[:2] == ["too", "many"] and words[3:] == ["error", "responses"]:
            return int(words[2])
    return None


def sql_state_of(answer: Answer) -> str | None:
    """Return the SQLSTATE of an error of a database (ISO 9075): its first two characters are a class."""
    states = [answer.get("sqlstate"), answer.get("pgcode")]
    states += [answer.first_argument] if answer.root == "pyodbc" else []
    for state in states:
        if isinstance(state, str) and re.fullmatch("[0-9A-Z]{5}", state):
            return state
    return None


def reply_codes_of(answer: Answer) -> list[int]:
    """Return the codes that a server of mail or files has replied with: one for each address."""
    recipients = answer.get("recipients")
    found = [answer.get("smtp_code")]
    if isinstance(recipients, dict):  # smtplib
        found = [reply[0] for reply in recipients.values() if isinstance(reply, tuple) and reply]
    elif answer.root == "aiosmtplib":
        found = (
            [get(one, "code") for one in recipients] if isinstance(recipients, list) else [answer.get("code")]
        )
    return [code for code in found if isinstance(code, int) and 400 <= code < 600]
