"""What databases, brokers and mailboxes say, without their clients: by modules of classes, and numbers."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from retrying_executor import explain, transient


def error(name: str, *args: object, **attributes: object) -> Exception:
    """Return an exception of a class with this qualified name, and with these attributes."""
    module, _, name = name.rpartition(".")
    exception: Exception = type(name, (Exception,), {"__module__": module})(*args)
    exception.__dict__.update(attributes)
    return exception


class Numbered:
    """An error that is no exception, as the first argument of one: oracledb, confluent-kafka."""

    def __init__(self, code: int, **answers: bool) -> None:
        self.number = code
        self.isrecoverable = answers.get("recoverable", False)
        self.answers = answers

    @property
    def code(self) -> Any:
        return self.number

    def fatal(self) -> bool:
        return self.answers.get("fatal", False)

    def retriable(self) -> bool:
        return self.answers.get("retriable", False)


class Called(Numbered):
    """The same, of confluent-kafka: its code is a method."""

    @property
    def code(self) -> Any:
        return lambda: self.number


def labelled(label: str) -> Exception:
    """Return an error of MongoDB that has a label, whatever its code."""
    return error("pymongo.errors.OperationFailure", code=11000, has_error_label=lambda one: one == label)


FINAL = {
    "sqlite, a constraint": sqlite3.IntegrityError("UNIQUE constraint failed: t.a"),
    "sqlite, no such table": sqlite3.OperationalError("no such table: locked"),
    "mysql by its first argument": error("pymysql.err.IntegrityError", 1062, "Duplicate entry"),
    "mysql by errno": error("mysql.connector.errors.ProgrammingError", errno=1064, sqlstate="42000"),
    "oracle": error("oracledb.exceptions.DatabaseError", Numbered(942)),
    "clickhouse": error("clickhouse_driver.errors.ServerException", "no", code=60),
    "mongodb": error("pymongo.errors.OperationFailure", "no", code=11000),
    "mongodb, all of many": error(
        "pymongo.errors.BulkWriteError", code=65, details={"writeErrors": [{"code": 11000}, {"code": 121}]}
    ),
    "redis": error("redis.exceptions.ResponseError", "WRONGTYPE Operation against a key"),
    "kafka-python": error("kafka.errors.TopicAuthorizationFailedError", errno=29),
    "confluent-kafka": error("cimpl.KafkaException", Called(10)),
    "confluent-kafka, fatal": error("cimpl.KafkaException", Called(47_000, fatal=True)),
    "amqp": error("pika.exceptions.ChannelClosedByBroker", 404, "no queue", reply_code=404),
    "jetstream": error("nats.js.errors.APIError", code=404, err_code=10059),
    "postgres at the door": error(
        "psycopg.OperationalError", 'connection failed: FATAL:  password authentication failed for user "u"'
    ),
    "odbc": error("pyodbc.ProgrammingError", "42S02", "no such table"),
    "imap": error("imaplib.IMAP4.error", b"[AUTHENTICATIONFAILED] Invalid credentials"),
}
AGAIN = {
    "sqlite": sqlite3.OperationalError("database is locked"),
    "mysql": error("pymysql.err.OperationalError", 1213, "Deadlock found"),
    "mysql, a limit of a final class": error("mysql.connector.errors.Error", errno=1226, sqlstate="42000"),
    "oracle": error("oracledb.exceptions.DatabaseError", Numbered(60)),
    "oracle, recoverable": error("oracledb.exceptions.DatabaseError", Numbered(942, recoverable=True)),
    "clickhouse": error("clickhouse_driver.errors.ServerException", "no", code=425),
    "mongodb": error("pymongo.errors.OperationFailure", "no", code=112),
    "mongodb, one of many": error(
        "pymongo.errors.BulkWriteError", details={"writeErrors": [{"code": 11000}, {"code": 112}]}
    ),
    "mongodb, a transaction": labelled("TransientTransactionError"),
    "mongodb, a write": labelled("RetryableWriteError"),
    "redis": error("redis.exceptions.ResponseError", "LOADING Redis is loading the dataset in memory"),
    "cassandra": error("cassandra.Unavailable", "no"),
    "kafka-python": error("kafka.errors.RequestTimedOutError", errno=7, retriable=True),
    "confluent-kafka": error("cimpl.KafkaException", Called(10, retriable=True)),
    "confluent-kafka, unknown": error("cimpl.KafkaException", Called(-195)),
    "amqp": error("pika.exceptions.ConnectionClosedByBroker", 320, "forced", reply_code=320),
    "jetstream": error("nats.js.errors.APIError", code=503, err_code=10008),
    "jetstream, too many": error("nats.js.errors.APIError", code=429, err_code=10167),
    "nats": error("nats.errors.TimeoutError", "no"),
    "postgres": error("psycopg.OperationalError", "the database system is starting up"),
    "sqlalchemy": error("sqlalchemy.exc.TimeoutError", "QueuePool limit"),
    "odbc": error("pyodbc.OperationalError", "40001", "deadlock"),
    "odbc, without a state": error("pyodbc.Error", "The driver is gone"),
    "imap": error("imaplib.IMAP4.error", b"[UNAVAILABLE] later"),
}


@pytest.mark.parametrize("name", FINAL)
def test_what_a_database_says_of_the_request_is_final(name: str) -> None:
    """Its statement, its data, its client: another attempt would say the same (U1)."""
    assert transient(FINAL[name]) is False
    assert explain(FINAL[name]).startswith("final: ")


@pytest.mark.parametrize("name", AGAIN)
def test_what_a_database_says_of_itself_may_pass(name: str) -> None:
    """Deadlocks, limits, restarts, and what is not known (U1)."""
    assert transient(AGAIN[name]) is True


@pytest.mark.parametrize(
    "name",
    [
        "pymongo.errors.ConfigurationError",
        "redis.exceptions.AuthenticationError",
        "cassandra.InvalidRequest",
        "oracledb.exceptions.IntegrityError",
        "nats.errors.MaxPayloadError",
        "sqlalchemy.exc.ArgumentError",
        "pika.exceptions.ProbableAuthenticationError",
    ],
)
def test_a_class_may_say_it_all(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a client is installed, the names of its classes are known (U1)."""
    monkeypatch.setattr("retrying_executor._policy.reading.is_of_library", lambda _: True)
    assert transient(error(name, "no")) is False
