"""What databases, brokers and mailboxes say: each has numbers and names of its own.

Which one an exception is of, only the module of its class tells: 425 may be an error of a database, or a
status.
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

    from retrying_executor._policy.reading import Reading

    Meaning: TypeAlias = tuple[bool, str] | None
    """Whether another attempt may help, and why; ``None`` if nothing says so."""


@lru_cache(maxsize=1024)
def dialect_of(cls: type) -> Callable[[Reading], Meaning] | None:
    """Return the reader for exceptions of a class; ``None`` if its client is none of those known here."""
    for base in cls.__mro__:
        read = _DIALECTS.get(base.__module__.partition(".")[0])
        if read is not None:
            return read
    return None


def _sqlite(reading: Reading) -> Meaning:
    if reading.has_class("IntegrityError"):
        return False, "the data is at fault"
    words = messages_of(reading.exception)
    found = re.search(codes.SQLITE_FINAL, words)
    return (False, f"the statement is at fault: {found[0]}") if found else None


def _mysql(reading: Reading) -> Meaning:
    number = reading.get("errno") if isinstance(reading.get("errno"), int) else reading.first_argument
    if number in codes.MYSQL_FINAL:
        return False, f"error {number}"
    return None


def _oracle(reading: Reading) -> Meaning:
    error = reading.first_argument
    if get(error, "isrecoverable") is not True and get(error, "code") in codes.ORACLE_FINAL:
        return False, f"error {get(error, 'code')}"
    return (False, "the data is at fault") if reading.has_class("IntegrityError") else None


def _clickhouse(reading: Reading) -> Meaning:
    return (False, f"error {reading.get('code')}") if reading.get("code") in codes.CLICKHOUSE_FINAL else None


def _mongodb(reading: Reading) -> Meaning:
    has_label = reading.get("has_error_label")
    for label in ("TransientTransactionError", "RetryableWriteError"):
        if called(has_label, label) is True:
            return True, label
    listed = item(reading.get("details"), "writeErrors")
    numbers = [item(one, "code") for one in listed] if isinstance(listed, list) else [reading.get("code")]
    if numbers and all(number in codes.MONGODB_FINAL for number in numbers):
        return False, f"error {', '.join(str(number) for number in numbers)}"
    return (False, "it cannot be sent") if reading.has_class(codes.MONGODB_NEVER_SENT) else None


def _redis(reading: Reading) -> Meaning:
    words = messages_of(reading.exception)
    is_final = re.match(codes.REDIS_FINAL, words) or reading.has_class(
        "^(Authentication|Authorization|Data)Error$"
    )
    return (False, "the command is at fault") if is_final else None


def _cassandra(reading: Reading) -> Meaning:
    return (False, "the request is at fault") if reading.has_class(codes.CASSANDRA_FINAL) else None


def _kafka(reading: Reading) -> Meaning:
    """Read kafka-python and confluent-kafka, whose ``retriable()`` is about transactions only."""
    error = reading.first_argument
    number = called(get(error, "code"))
    number = reading.get("errno") if number is None else number
    if reading.get("retriable") is True or called(get(error, "retriable")) is True:
        return True, "it is retriable"
    if number in codes.KAFKA_FINAL or called(get(error, "fatal")) is True:
        return False, f"error {number}"
    return None


def _amqp(reading: Reading) -> Meaning:
    number = reading.get("reply_code")
    if number in codes.AMQP_FINAL or reading.has_class("^ProbableA"):
        return False, "the broker refuses it"
    return None


def _nats(reading: Reading) -> Meaning:
    number = reading.get("code")
    if isinstance(number, int) and reading.get("err_code") is not None:  # JetStream uses statuses of HTTP
        return not 400 <= number < 500 or number in (408, 429), f"status {number}"
    return (False, "the message or the client is refused") if reading.has_class(codes.NATS_FINAL) else None


def _sqlalchemy(reading: Reading) -> Meaning:
    return (
        (False, "it cannot be sent")
        if reading.has_class("^(ArgumentError|NoSuchModuleError|CompileError)$")
        else None
    )


def _postgres(reading: Reading) -> Meaning:
    """Read the message if a client is refused as it connects: libpq keeps nothing else then."""
    found = re.search(codes.POSTGRES_REFUSED, messages_of(reading.exception))
    return (False, found[0]) if found else None


def _mail(reading: Reading) -> Meaning:
    found = re.search(codes.MAIL_FINAL, messages_of(reading.exception))
    return (False, found[0]) if found else None


def _odbc(_: Reading) -> Meaning:
    """Say nothing: ODBC has only the SQLSTATE, which another rule has read before."""
    return None


_DIALECTS: dict[str, Callable[[Reading], Meaning]] = {
    "MySQLdb": _mysql,
    "cassandra": _cassandra,
    "clickhouse_connect": _clickhouse,
    "clickhouse_driver": _clickhouse,
    "confluent_kafka": _kafka,
    "cimpl": _kafka,  # the module that confluent-kafka defines its exceptions in
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
