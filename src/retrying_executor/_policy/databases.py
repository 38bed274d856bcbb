"""What databases, brokers and mailboxes say: each has numbers and names of its own.

Only the modules of their clients' classes tell them apart: error 425 of one is no status 425 of another.
"""

from __future__ import annotations

import re
from functools import lru_cache

from retrying_executor._policy import codes
from retrying_executor._policy.reading import called, get, item, messages_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from retrying_executor._policy.reading import Answer

    Meaning: TypeAlias = tuple[bool, str] | None
    """Whether another attempt may help, and why; ``None`` if nothing says so."""


@lru_cache(maxsize=1024)
def dialect_of(cls: type) -> Callable[[Answer], Meaning] | None:
    """Return what reads the numbers and names of a database, if a class of exceptions is of a known one."""
    for base in cls.__mro__:
        read = _DIALECTS.get(base.__module__.partition(".")[0])
        if read is not None:
            return read
    return None


def _sqlite(answer: Answer) -> Meaning:
    if answer.has_class("IntegrityError"):
        return False, "the data is at fault"
    words = messages_of(answer.exception)
    found = re.search(codes.SQLITE_FINAL, words)
    return (False, f"the statement is at fault: {found[0]}") if found else None


def _mysql(answer: Answer) -> Meaning:
    number = answer.get("errno") if isinstance(answer.get("errno"), int) else answer.first_argument
    if number in codes.MYSQL_FINAL:
        return False, f"error {number}"
    return None


def _oracle(answer: Answer) -> Meaning:
    error = answer.first_argument
    if get(error, "isrecoverable") is not True and get(error, "code") in codes.ORACLE_FINAL:
        return False, f"error {get(error, 'code')}"
    return (False, "the data is at fault") if answer.has_class("IntegrityError") else None


def _clickhouse(answer: Answer) -> Meaning:
    return (False, f"error {answer.get('code')}") if answer.get("code") in codes.CLICKHOUSE_FINAL else None


def _mongodb(answer: Answer) -> Meaning:
    has_label = answer.get("has_error_label")
    for label in ("TransientTransactionError", "RetryableWriteError"):
        if called(has_label, label) is True:
            return True, label
    listed = item(answer.get("details"), "writeErrors")
    numbers = [item(one, "code") for one in listed] if isinstance(listed, list) else [answer.get("code")]
    if numbers and all(number in codes.MONGODB_FINAL for number in numbers):
        return False, f"error {', '.join(str(number) for number in numbers)}"
    return (False, "it cannot be sent") if answer.has_class(codes.MONGODB_NEVER_SENT) else None


def _redis(answer: Answer) -> Meaning:
    words = messages_of(answer.exception)
    is_final = re.match(codes.REDIS_FINAL, words) or answer.has_class(
        "^(Authentication|Authorization|Data)Error$"
    )
    return (False, "the command is at fault") if is_final else None


def _cassandra(answer: Answer) -> Meaning:
    return (False, "the request is at fault") if answer.has_class(codes.CASSANDRA_FINAL) else None


def _kafka(answer: Answer) -> Meaning:
    """Read kafka-python and confluent-kafka: the latter's ``retriable()`` is about transactions only."""
    error = answer.first_argument
    number = called(get(error, "code"))
    number = answer.get("errno") if number is None else number
    if answer.get("retriable") is True or called(get(error, "retriable")) is True:
        return True, "it is retriable"
    if number in codes.KAFKA_FINAL or called(get(error, "fatal")) is True:
        return False, f"error {number}"
    return None


def _amqp(answer: Answer) -> Meaning:
    number = answer.get("reply_code")
    if number in codes.AMQP_FINAL or answer.has_class("^ProbableA"):
        return False, "the broker refuses it"
    return None


def _nats(answer: Answer) -> Meaning:
    number = answer.get("code")
    if isinstance(number, int) and answer.get("err_code") is not None:  # JetStream has statuses as HTTP has
        return not 400 <= number < 500 or number in (408, 429), f"status {number}"
    return (False, "the message or the client is refused") if answer.has_class(codes.NATS_FINAL) else None


def _sqlalchemy(answer: Answer) -> Meaning:
    return (
        (False, "it cannot be sent")
        if answer.has_class("^(ArgumentError|NoSuchModuleError|CompileError)$")
        else None
    )


def _postgres(answer: Answer) -> Meaning:
    """A client that is refused as it connects: then libpq keeps no more than the message."""
    found = re.search(codes.POSTGRES_REFUSED, messages_of(answer.exception))
    return (False, found[0]) if found else None


def _mail(answer: Answer) -> Meaning:
    found = re.search(codes.MAIL_FINAL, messages_of(answer.exception))
    return (False, found[0]) if found else None


def _odbc(_: Answer) -> Meaning:
    """ODBC has no numbers of its own: the SQLSTATE, which is asked before, says it all."""
    return None


_DIALECTS: dict[str, Callable[[Answer], Meaning]] = {
    "MySQLdb": _mysql,
    "cassandra": _cassandra,
    "clickhouse_connect": _clickhouse,
    "clickhouse_driver": _clickhouse,
    "confluent_kafka": _kafka,
    "cimpl": _kafka,  # where confluent-kafka has its exceptions from
    "imaplib": _mail,
    "kafka": _kafka,
    "mysql": _mysql,
    "nats": _nats,
    "oracledb": _oracle,
    "pika": _amqp,
    "poplib": _mail,
    "psycopg": _postgres,
    "psycopg2": _postgres,
    "pymongo": _mongodb,
    "pyodbc": _odbc,
    "bson": _mongodb,
    "pymysql": _mysql,
    "redis": _redis,
    "sqlalchemy": _sqlalchemy,
    "sqlite3": _sqlite,
}
