"""Which answer an exception stands for: a status of HTTP or gRPC, a code of AWS, a database, a mail server.

Exceptions are read by their shape, so no client library is imported. What each answer means is decided in
`rules`, by the tables in `codes`.
"""

from __future__ import annotations

import re

from retrying_executor._policy.reading import called, get, item, once

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrying_executor._policy.reading import Reading

_STATUSES = (
    "status_code",  # SDKs
    "http_status",
    "status",  # aiohttp, SDKs
    "response_code",  # python-gitlab
    "errcode",  # xmlrpc
)
_LONGEST_CODE = 200  # characters: a longer one is cut off, for it is searched again and again
_MOST_REASONS = 100  # as many actions as a transaction of DynamoDB may have


def aws_code_of(reading: Reading) -> str | None:
    """Return the error code of an exception of botocore: ``response["Error"]["Code"]``."""
    code = item(item(reading.get("response"), "Error"), "Code")
    # In event streams, codes begin with a small letter.
    return code[:1].upper() + code[1:_LONGEST_CODE] if isinstance(code, str) else None


def aws_reasons_of(reading: Reading) -> list[str]:
    """Return why a transaction of DynamoDB was cancelled: the codes of its parts."""
    reasons = item(reading.get("response"), "CancellationReasons")
    parts = reasons[:_MOST_REASONS] if isinstance(reasons, list) else []
    found = [code for part in parts if isinstance(code := item(part, "Code"), str) and code != "None"]
    return [code[:_LONGEST_CODE] for code in found]


def grpc_status_of(reading: Reading) -> str | None:
    """Return the name of the gRPC status of an exception of grpc or google-api-core."""
    code = reading.get("grpc_status_code")
    if code is None and callable(reading.get("details")):
        code = called(reading.get("code"))
    name = get(code, "name")
    return name if isinstance(name, str) and type(code).__name__ == "StatusCode" else None


@once
def http_status_of(reading: Reading) -> int | None:
    """Return the status of the HTTP answer behind an exception; ``None`` if there is none.

    If an exception and its answer have different ones, it is that of an error: a stream is answered with 200.
    """
    found = None
    for status in _statuses(reading) if not reading.is_bare else ():
        number = _number_of(status)
        if number is not None and (found is None or number >= 400):
            found = number
        if found is not None and found >= 400:
            break
    return _exhausted_status(reading) if found is None else found


def _statuses(reading: Reading) -> Iterator[object]:
    """Yield what may be the status, the most reliable first."""
    yield item(item(reading.get("response"), "ResponseMetadata"), "HTTPStatusCode")  # botocore
    for one in reading.answers:
        yield get(one, "status_code")  # requests, httpx
        yield get(one, "status")  # urllib3, aiohttp
    for name in _STATUSES:
        yield reading.get(name)
    yield called(reading.get("http_status"))  # facebook-business
    if (
        reading.answers
        or reading.get("headers") is not None
        or reading.bodies
        or reading.get("errors") is not None
    ):
        yield reading.get("code")  # urllib, google-api-core; without an answer, it may be any code


def _number_of(status: object) -> int | None:
    if isinstance(status, int) and not isinstance(status, bool) and 100 <= status < 600:
        return int(status)
    return None


def _exhausted_status(reading: Reading) -> int | None:
    """Return the status that urllib3 has retried in vain: requests wraps that, and keeps no status."""
    for reason in (reading.get("reason"), *(get(inner, "reason") for inner in reading.exception.args[:1])):
        words = str(reason).split(maxsplit=5) if reason is not None else []
        if words[:2] == ["too", "many"] and words[3:] == ["error", "responses"]:
            return int(words[2])
    return None


def sql_state_of(reading: Reading) -> str | None:
    """Return the SQLSTATE of an error of a database (ISO 9075): its first two characters are a class."""
    states = [reading.get("sqlstate"), reading.get("pgcode")]
    states += [reading.first_argument] if reading.root == "pyodbc" else []
    for state in states:
        if isinstance(state, str) and re.fullmatch("[0-9A-Z]{5}", state):
            return state
    return None


def reply_codes_of(reading: Reading) -> list[int]:
    """Return the codes that a server of mail or files has replied with: one for each address."""
    recipients = reading.get("recipients")
    found = [reading.get("smtp_code")]
    if isinstance(recipients, dict):  # smtplib
        found = [reply[0] for reply in recipients.values() if isinstance(reply, tuple) and reply]
    elif reading.root == "aiosmtplib":
        refused = recipients if isinstance(recipients, list) else [reading.exception]
        found = [get(one, "code") for one in refused]
    return [code for code in found if isinstance(code, int) and 400 <= code < 600]
