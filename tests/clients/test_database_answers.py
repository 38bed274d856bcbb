"""What the clients of databases, caches and message brokers raise: what each answer means."""

from __future__ import annotations

import asyncio
import socketserver
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from verdicts import library, raised

from answering import answering, serving
from retrying_executor import NotNow, retry_after, transient

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"  # clients leave sockets to the collector
)


RETRY, FINAL, NOT_NOW = (True,), (False,), (NotNow,)
AGAIN = (True, NotNow)
"""Another attempt is right; the source does not say whether it is a failure or a "not now"."""


def meaning(exception: BaseException) -> object:
    """Return what `transient` says: True, False, or the class NotNow."""
    answer = transient(exception)
    return NotNow if isinstance(answer, NotNow) else answer


def wrapped(error: Exception, cause: Exception) -> Exception:
    """Return what ``raise error from cause`` raises."""

    def call() -> None:
        raise error from cause

    return raised(call)


def rows(*groups: tuple[tuple[object, ...], str, list[Any] | str]) -> pytest.MarkDecorator:
    """Parametrize with the answers of each group: what they mean, the source, the answers (a list)."""
    params = [
        pytest.param(answer, expected, id="-".join(str(answer).split())[:60])
        for expected, _, answers in groups
        for answer in (answers.split(", ") if isinstance(answers, str) else answers)
    ]
    return pytest.mark.parametrize(("answer", "expected"), params)


# -- SQLite ----------------------------------------------------------------------------------------

SCHEMA = """
CREATE TABLE locked (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, age INT CHECK (age > 0));
CREATE TABLE child (parent INT REFERENCES locked (id));
INSERT INTO locked VALUES (1, 'busy', 1);
"""

sqlite_rows = rows(
    (
        FINAL,
        "https://sqlite.org/rescode.html: SQLITE_CONSTRAINT, SQLITE_MISMATCH",
        [
            "INSERT INTO locked VALUES (2, 'busy', 1)",  # UNIQUE
            "INSERT INTO locked VALUES (1, 'b', 1)",  # PRIMARY KEY
            "INSERT INTO locked VALUES (2, NULL, 1)",  # NOT NULL
            "INSERT INTO locked VALUES (2, 'b', -1)",  # CHECK
            "INSERT INTO child VALUES (7)",  # FOREIGN KEY
            "INSERT INTO locked VALUES ('x', 'b', 1)",  # datatype mismatch
        ],
    ),
    (
        FINAL,
        "https://sqlite.org/rescode.html#error: SQLITE_ERROR of a statement that cannot be prepared",
        [
            "SELECT * FROM missing",
            "SELECT * FROM database_is_locked",
            "SELECT missing FROM locked",
            "INSERT INTO locked (missing) VALUES (1)",
            "SELEC 1",
            "SELECT (1",
            "SELECT missing(1)",
            "SELECT abs()",
            "CREATE TABLE locked (id)",
            "CREATE TABLE twice (a, a)",
            "INSERT INTO locked VALUES (1)",
            "DROP INDEX missing",
            "SELECT 1 ORDER BY 9",
        ],
    ),
)


@contextmanager
def sqlite_database(path: str = ":memory:") -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        connection.executescript(SCHEMA)
        connection.execute("PRAGMA foreign_keys = ON")
        yield connection


@sqlite_rows
def test_sqlite_says_what_is_wrong_with_a_statement(answer: str, expected: tuple[object, ...]) -> None:
    """A statement that the schema refuses is final; the error code, or else the message, tells (U1)."""
    with sqlite_database() as connection:
        exception = raised(connection.execute, answer)
    assert isinstance(exception, sqlite3.DatabaseError)
    assert meaning(exception) in expected
    bare = type(exception)(*exception.args)  # which has no code, as before Python 3.11
    assert meaning(bare) in expected


@sqlite_rows
def test_sqlalchemy_keeps_what_sqlite_said(answer: str, expected: tuple[object, ...]) -> None:
    """Its own exceptions are judged by the driver's: `orig`, which is also the cause (U1)."""
    sqlalchemy = library("sqlalchemy")
    with sqlite_database() as database:
        engine = sqlalchemy.create_engine(
            "sqlite://", creator=lambda: database, poolclass=sqlalchemy.pool.StaticPool
        )
        with engine.connect() as connection:
            exception = raised(connection.exec_driver_sql, answer)
        engine.dispose()
    assert exception.orig is exception.__cause__  # type: ignore[attr-defined]  # it is a DBAPIError
    assert meaning(exception) in expected


def locked(path: Path) -> Exception:
    with sqlite_database(str(path / "db")) as one:
        one.execute("BEGIN EXCLUSIVE")
        with closing(sqlite3.connect(path / "db", timeout=0)) as other:
            return raised(other.execute, "SELECT * FROM locked")


def table_locked(_: Path) -> Exception:
    with closing(sqlite3.connect("file:m?mode=memory&cache=shared", timeout=0, uri=True)) as one:
        one.executescript(SCHEMA)
        one.execute("INSERT INTO child VALUES (1)")
        with closing(sqlite3.connect("file:m?mode=memory&cache=shared", timeout=0, uri=True)) as other:
            return raised(other.execute, "SELECT * FROM child")


def full(_: Path) -> Exception:
    with sqlite_database() as connection:
        connection.execute("PRAGMA max_page_count = 8")
        return raised(connection.execute, "INSERT INTO locked VALUES (2, zeroblob(100000), 1)")


def interrupted(_: Path) -> Exception:
    with sqlite_database() as connection:
        connection.set_progress_handler(lambda: 1, 1)
        return raised(connection.execute, "SELECT count(*) FROM locked, locked, locked")


def cannot_open(path: Path) -> Exception:
    return raised(sqlite3.connect, path / "missing" / "db")


@pytest.mark.parametrize("make", [locked, table_locked, full, interrupted, cannot_open])
def test_sqlite_may_work_later(make: Callable[[Path], Exception], tmp_path: Path) -> None:
    """SQLITE_BUSY, _LOCKED, _FULL, _INTERRUPT, _CANTOPEN (https://sqlite.org/rescode.html; U1)."""
    exception = make(tmp_path)
    assert meaning(exception) is True
    assert meaning(type(exception)(*exception.args)) is True  # as before Python 3.11


def test_sqlite_refuses_parameters_that_do_not_fit() -> None:
    """Whatever the database; but a closed connection may be opened anew (DB-API, ProgrammingError; U1)."""
    with sqlite_database() as connection:
        few = raised(connection.execute, "SELECT ?, ?", (1,))
        odd = raised(connection.execute, "SELECT ?", (object(),))
    assert [False, False] == [meaning(few), meaning(odd)]
    assert meaning(raised(connection.execute, "SELECT 1")) is True


# -- PostgreSQL ------------------------------------------------------------------------------------

postgres_rows = rows(
    (
        FINAL,
        "https://www.postgresql.org/docs/current/errcodes-appendix.html: classes 22, 23, 28, 42",
        "22001, 22003, 22007, 22012, 22023, 22P02, 23502, 23503, 23505, 23514, 23P01, 28000, 28P01, "
        "42501, 42601, 42703, 42883, 42P01, 42P07, 42P18, 42804",
    ),
    (
        AGAIN,
        "Npgsql: PostgresException.IsTransient; https://www.psycopg.org/psycopg3/docs/api/errors.html",
        "08000, 08003, 08006, 08007, 40001, 40P01, 40003, 53000, 53100, 53200, 53300, 53400, 55006, "
        "55P03, 57014, 57P01, 57P02, 57P03, 58000, 58030",
    ),
    (
        RETRY,
        "unknown, or a standby that becomes the primary (25006), or a plan that is made anew (0A000, 26000)",
        "25006, 25P02, 0A000, 26000, XX000, P0001, 99999",
    ),
)


class _Postgres(socketserver.StreamRequestHandler):
    """Speaks just enough of https://www.postgresql.org/docs/current/protocol-flow.html."""

    def send(self, kind: bytes, body: bytes) -> None:
        self.wfile.write(kind + struct.pack("!i", len(body) + 4) + body)

    def refuse(self) -> None:
        fields = {b"S": b"ERROR", b"V": b"ERROR", **self.server.fields}  # type: ignore[attr-defined]  # ours
        self.send(b"E", b"".join(key + value + b"\0" for key, value in fields.items()) + b"\0")

    def handle(self) -> None:
        self.rfile.read(struct.unpack("!i", self.rfile.read(4))[0] - 4)
        if self.server.at_door:  # type: ignore[attr-defined]  # ours
            self.refuse()
            return
        self.send(b"R", struct.pack("!i", 0))
        for pair in (b"server_version\x0016.1\0", b"client_encoding\0UTF8\0", b"integer_datetimes\0on\0"):
            self.send(b"S", pair)
        self.send(b"K", struct.pack("!ii", 1, 1))
        self.send(b"Z", b"I")
        refused = False
        while kind := self.rfile.read(1):
            self.rfile.read(struct.unpack("!i", self.rfile.read(4))[0] - 4)
            if kind in b"QHS" and not refused:  # Query, Flush, Sync
                self.refuse()
            refused = kind == b"H"
            if kind in b"QS":
                self.send(b"Z", b"I")


@contextmanager
def postgres(code: str, message: str = "no", *, at_door: bool = False) -> Iterator[int]:
    """Answer every query, or every client, with an error; yield the port."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Postgres)
    server.fields = {b"C": code.encode(), b"M": message.encode()}  # type: ignore[attr-defined]  # ours
    server.at_door = at_door  # type: ignore[attr-defined]  # ours
    with serving(server) as port:
        yield port


def ask_psycopg(port: int) -> None:
    options = "sslmode=disable gssencmode=disable host=127.0.0.1 user=u dbname=d password=p"
    with closing(library("psycopg").connect(f"{options} port={port}", autocommit=True)) as connection:
        connection.execute("SELECT 1")


def ask_asyncpg(port: int) -> None:
    async def ask() -> None:
        connection = await library("asyncpg").connect(
            host="127.0.0.1", port=port, user="u", database="d", password="p", ssl=False
        )
        try:
            await connection.fetchval("SELECT 1")
        finally:
            connection.terminate()

    asyncio.run(ask())


def ask_sqlalchemy(port: int) -> None:
    library("psycopg")
    sqlalchemy = library("sqlalchemy")
    url = f"postgresql+psycopg://u:p@127.0.0.1:{port}/d?sslmode=disable&gssencmode=disable"
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
    engine.connect().exec_driver_sql("SELECT 1")


POSTGRES = [ask_psycopg, ask_asyncpg, ask_sqlalchemy]
of_each_postgres = pytest.mark.parametrize(
    "ask", POSTGRES, ids=lambda ask: str(ask.__name__).removeprefix("ask_")
)


@of_each_postgres
@postgres_rows
def test_a_sqlstate_says_whether_a_try_can_help(
    ask: Callable[[int], None], answer: str, expected: tuple[object, ...]
) -> None:
    """The attribute `sqlstate` of psycopg and asyncpg; SQLAlchemy has theirs in `orig` (U1)."""
    with postgres(answer, "the database is locked") as port:
        exception = raised(ask, port)
    assert meaning(exception) in expected
    assert retry_after(exception) is None


@of_each_postgres
@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        ("28P01", 'password authentication failed for user "u"', FINAL),
        ("28000", 'no pg_hba.conf entry for host "127.0.0.1", user "u", database "d"', FINAL),
        ("53300", "sorry, too many clients already", AGAIN),
        ("57P03", "the database system is starting up", AGAIN),
    ],
)
def test_postgres_refuses_a_client_at_the_door(
    ask: Callable[[int], None], code: str, message: str, expected: tuple[object, ...]
) -> None:
    """Where libpq keeps only the message, that tells (class 28 of the appendix of error codes; U1)."""
    with postgres(code, message, at_door=True) as port:
        assert meaning(raised(ask, port)) in expected


@of_each_postgres
def test_a_database_that_is_not_there_may_come_back(ask: Callable[[int], None]) -> None:
    """Connection refused; a connection that closes is one as well (U1)."""
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        port = server.server_address[1]
    assert meaning(raised(ask, port)) is True


# -- MySQL -----------------------------------------------------------------------------------------

mysql_rows = rows(
    (
        FINAL,
        "https://dev.mysql.com/doc/mysql-errors/en/server-error-reference.html: classes 22, 23, 28, 42",
        [
            (1044, "42000", "Access denied for user 'u'@'%' to database 'd'"),
            (1045, "28000", "Access denied for user 'u'@'localhost' (using password: YES)"),
            (1048, "23000", "Column 'a' cannot be null"),
            (1049, "42000", "Unknown database 'd'"),
            (1050, "42S01", "Table 't' already exists"),
            (1054, "42S22", "Unknown column 'a' in 'field list'"),
            (1062, "23000", "Duplicate entry '1' for key 'PRIMARY'"),
            (1064, "42000", "You have an error in your SQL syntax"),
            (1142, "42000", "SELECT command denied to user 'u'@'%' for table 't'"),
            (1146, "42S02", "Table 'd.t' doesn't exist"),
            (1264, "22003", "Out of range value for column 'a' at row 1"),
            (1406, "22001", "Data too long for column 'a' at row 1"),
            (1451, "23000", "Cannot delete or update a parent row: a foreign key constraint fails"),
            (1452, "23000", "Cannot add or update a child row: a foreign key constraint fails"),
        ],
    ),
    (
        AGAIN,
        "the same reference: deadlocks and lock waits say 'try restarting transaction'; connections, limits",
        [
            (1040, "08004", "Too many connections"),
            (1053, "08S01", "Server shutdown in progress"),
            (1158, "08S01", "Got an error reading communication packets"),
            (1203, "42000", "User u already has more than 'max_user_connections' active connections"),
            (1205, "HY000", "Lock wait timeout exceeded; try restarting transaction"),
            (1213, "40001", "Deadlock found when trying to get lock; try restarting transaction"),
            (1226, "42000", "User 'u' has exceeded the 'max_questions' resource (current value: 9)"),
            (1317, "70100", "Query execution was interrupted"),
            (1412, "HY000", "Table definition has changed, please retry transaction"),
            (3024, "HY000", "Query execution was interrupted, maximum statement execution time exceeded"),
            (3572, "HY000", "Statement aborted because lock(s) could not be acquired immediately"),
            (1105, "HY000", "Unknown error"),
        ],
    ),
    (
        AGAIN,
        "https://dev.mysql.com/doc/mysql-errors/en/client-error-reference.html",
        [
            (2003, "HY000", "Can't connect to MySQL server on '127.0.0.1:1' (111)"),
            (2006, "HY000", "MySQL server has gone away"),
            (2013, "HY000", "Lost connection to MySQL server during query"),
        ],
    ),
)


def from_pymysql(errno: int, sqlstate: str, message: str) -> Exception:
    err = library("pymysql.err")  # of errors of the client it makes OperationalError(errno, message)
    if errno >= 2000 and errno < 3000:
        return err.OperationalError(errno, message)  # type: ignore[no-any-return]  # it is one
    packet = b"\xff" + struct.pack("<h", errno) + f"#{sqlstate}{message}".encode()
    return raised(err.raise_mysql_exception, packet)


def from_connector(errno: int, sqlstate: str, message: str) -> Exception:
    errors = library("mysql.connector.errors")
    return errors.get_mysql_exception(errno, message, sqlstate)  # type: ignore[no-any-return]  # it is one


def from_mysqlclient(errno: int, _: str, message: str) -> Exception:
    """Return what MySQLdb raises: the class that PyMySQL took over from it, and no SQLSTATE."""
    name = type(from_pymysql(errno, "HY000", message)).__name__
    error = type("Error", (Exception,), {"__module__": "MySQLdb"})
    database = type("DatabaseError", (error,), {"__module__": "MySQLdb"})
    return type(name, (database,), {"__module__": "MySQLdb"})(errno, message)  # type: ignore[no-any-return]


def from_sqlalchemy(errno: int, sqlstate: str, message: str) -> Exception:
    """Return what its `Connection` raises: `DBAPIError.instance()`, from what the driver raised."""
    orig = from_pymysql(errno, sqlstate, message)
    base = library("pymysql").Error
    return wrapped(library("sqlalchemy.exc").DBAPIError.instance("SELECT 1", {}, orig, base), orig)


def from_django(errno: int, sqlstate: str, message: str) -> Exception:
    """Return what `DatabaseErrorWrapper` raises: its class of that name with the same arguments."""
    utils = library("django.db.utils")
    orig = from_pymysql(errno, sqlstate, message)
    return wrapped(getattr(utils, type(orig).__name__)(*orig.args), orig)


@pytest.mark.parametrize(
    "make", [from_pymysql, from_connector, from_mysqlclient, from_sqlalchemy, from_django]
)
@mysql_rows
def test_a_mysql_code_says_whether_a_try_can_help(
    make: Callable[..., Exception], answer: tuple[int, str, str], expected: tuple[object, ...]
) -> None:
    """It is the first argument, or `errno`; a user's limits are in class 42, but do not stay reached (U1)."""
    assert meaning(make(*answer)) in expected


# -- Oracle ----------------------------------------------------------------------------------------


@rows(
    (
        FINAL,
        "https://docs.oracle.com/error-help/db/: the statement or the password has to change",
        [
            (1, "unique constraint (S.PK) violated"),
            (904, '"A": invalid identifier'),
            (907, "missing right parenthesis"),
            (942, "table or view does not exist"),
            (1017, "invalid username/password; logon denied"),
            (1031, "insufficient privileges"),
            (1400, 'cannot insert NULL into ("S"."T"."A")'),
            (1722, "invalid number"),
            (2291, "integrity constraint (S.FK) violated - parent key not found"),
            (12899, 'value too large for column "S"."T"."A" (actual: 9, maximum: 1)'),
        ],
    ),
    (
        AGAIN,
        "the same, and oracledb.errors.ERR_RECOVERABLE_ERROR_CODES (`isrecoverable`)",
        [
            (54, "resource busy and acquire with NOWAIT specified or timeout expired"),
            (60, "deadlock detected while waiting for resource"),
            (18, "maximum number of sessions exceeded"),
            (1013, "user requested cancel of current operation"),
            (1033, "ORACLE initialization or shutdown in progress"),
            (1034, "the Oracle instance is not available for use"),
            (1555, "snapshot too old"),
            (3113, "end-of-file on communication channel"),
            (8177, "can't serialize access for this transaction"),
            (12514, "Service d is not registered with the listener"),
            (12541, "Cannot connect. No listener at host 127.0.0.1 port 1."),
            (30006, "resource busy; acquire with WAIT timeout expired"),
        ],
    ),
)
def test_an_oracle_code_says_whether_a_try_can_help(
    answer: tuple[int, str], expected: tuple[object, ...]
) -> None:
    """It is `args[0].full_code`, or `args[0].code` (U1)."""
    errors = library("oracledb.errors")
    code, message = answer
    error = errors._Error(f"ORA-{code:05}: {message}", code=code)
    assert meaning(error.exc_type(error)) in expected


# -- ClickHouse ------------------------------------------------------------------------------------

clickhouse_rows = rows(
    (
        FINAL,
        "https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp",
        "60 UNKNOWN_TABLE, 62 SYNTAX_ERROR, 81 UNKNOWN_DATABASE, 47 UNKNOWN_IDENTIFIER, 497 "
        "ACCESS_DENIED, 516 AUTHENTICATION_FAILED, 57 TABLE_ALREADY_EXISTS",
    ),
    (
        AGAIN,
        "the same; clickhouse-jdbc retries MEMORY_LIMIT_EXCEEDED, network errors and what is too many now",
        "159 TIMEOUT_EXCEEDED, 202 TOO_MANY_SIMULTANEOUS_QUERIES, 209 SOCKET_TIMEOUT, 210 NETWORK_ERROR, "
        "241 MEMORY_LIMIT_EXCEEDED, 252 TOO_MANY_PARTS, 285 TOO_FEW_LIVE_REPLICAS, 439 "
        "CANNOT_SCHEDULE_TASK, 425 SYSTEM_ERROR, 999 KEEPER_EXCEPTION, 1002 UNKNOWN_EXCEPTION",
    ),
)


@clickhouse_rows
def test_a_clickhouse_code_is_no_http_status(answer: str, expected: tuple[object, ...]) -> None:
    """`code` of clickhouse-driver is from a list of its own, and 425 in there is a system error (U1)."""
    code, name = answer.split()
    error = library("clickhouse_driver.errors").ServerException(f"DB::Exception: no. ({name})", int(code))
    assert meaning(error) in expected


@clickhouse_rows
def test_clickhouse_says_more_than_the_status(answer: str, expected: tuple[object, ...]) -> None:
    """The status is 500 or so for all of them; clickhouse-connect has the code of the header (U1)."""
    connect = library("clickhouse_connect")
    code, name = answer.split()
    with answering() as server:
        body = f"Code: {code}. DB::Exception: no. ({name}) (version 25.1.1.1)\n".encode()
        headers = {"X-ClickHouse-Exception-Code": code, "Content-Type": "text/plain"}
        server.answer(500, headers, body)
        exception = raised(connect.get_client, host="127.0.0.1", port=server.server_port, query_retries=0)
    assert meaning(exception) in expected


# -- MongoDB ---------------------------------------------------------------------------------------


@rows(
    (
        FINAL,
        "https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml",
        "2 BadValue, 9 FailedToParse, 13 Unauthorized, 14 TypeMismatch, 18 AuthenticationFailed, 26 "
        "NamespaceNotFound, 48 NamespaceExists, 59 CommandNotFound, 121 DocumentValidationFailure, 11000 "
        "DuplicateKey",
    ),
    (
        AGAIN,
        "the same: RetriableError, NotPrimaryError, ShutdownError, NetworkError; pymongo's retryable errors",
        "6 HostUnreachable, 7 HostNotFound, 24 LockTimeout, 43 CursorNotFound, 50 MaxTimeMSExpired, 89 "
        "NetworkTimeout, 91 ShutdownInProgress, 112 WriteConflict, 189 PrimarySteppedDown, 202 "
        "NetworkInterfaceExceededTimeLimit, 251 NoSuchTransaction, 262 ExceededTimeLimit, 9001 "
        "SocketException, 10107 NotWritablePrimary, 11600 InterruptedAtShutdown, 11602 "
        "InterruptedDueToReplStateChange, 13435 NotPrimaryNoSecondaryOk, 1 InternalError, 8 UnknownError, "
        "462 IngressRequestRateLimitExceeded",
    ),
)
def test_a_mongodb_code_says_whether_a_try_can_help(answer: str, expected: tuple[object, ...]) -> None:
    """The attribute `code`, which is no HTTP status (U1)."""
    helpers = library("pymongo.helpers_shared")
    code, name = answer.split()
    response = {"ok": 0, "errmsg": "no", "code": int(code), "codeName": name}
    assert meaning(raised(helpers._check_command_response, response, None)) in expected


@pytest.mark.parametrize("label", ["TransientTransactionError", "RetryableWriteError"])
def test_mongodb_labels_what_is_worth_another_attempt(label: str) -> None:
    """Whatever the code (https://www.mongodb.com/docs/manual/core/transactions-in-applications/; U1)."""
    helpers = library("pymongo.helpers_shared")
    response = {"ok": 0, "errmsg": "no", "code": 11000, "errorLabels": [label]}
    assert meaning(raised(helpers._check_command_response, response, None)) in AGAIN


@rows(
    (FINAL, "https://www.mongodb.com/docs/manual/reference/command/insert/#errors", [[11000], [11000, 121]]),
    (AGAIN, "a write conflict, alone or among others", [[112], [11000, 112]]),
)
def test_a_bulk_write_has_all_its_errors(answer: list[int], expected: tuple[object, ...]) -> None:
    """They are in `details`; the `code` of `BulkWriteError` is always 65 (U1)."""
    errors = library("pymongo.errors")
    failed = [{"index": index, "code": code, "errmsg": "no"} for index, code in enumerate(answer)]
    assert meaning(errors.BulkWriteError({"writeErrors": failed, "writeConcernErrors": []})) in expected


def test_pymongo_refuses_what_can_never_be_sent() -> None:
    """A bad URI, name or document, before any server is asked; but a server may come back (U1)."""
    pymongo, bson = library("pymongo"), library("bson")
    assert meaning(raised(pymongo.MongoClient, "mongodb://")) is False
    assert meaning(raised(pymongo.MongoClient, "foo://host")) is False
    assert meaning(raised(bson.encode, {"a": object()})) is False
    address = {"host": "127.0.0.1", "port": 1, "serverSelectionTimeoutMS": 50}
    with pymongo.MongoClient(**address) as client:
        assert meaning(raised(client.admin.command, "ping")) is True


def test_cosmos_asks_a_client_of_mongodb_to_wait() -> None:
    """16500, with `RetryAfterMs` (https://learn.microsoft.com/azure/cosmos-db/mongodb/error-codes; U1)."""
    helpers = library("pymongo.helpers_shared")
    message = "Error=16500, RetryAfterMs=34, Details='Response status code does not indicate success"
    response = {"ok": 0, "errmsg": message, "code": 16500, "codeName": "RequestRateTooLarge"}
    assert meaning(raised(helpers._check_command_response, response, None)) in AGAIN


# -- Redis -----------------------------------------------------------------------------------------


@rows(
    (
        FINAL,
        "https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors; server.c; ACL",
        [
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "ERR unknown command 'FOO', with args beginning with: ",
            "ERR wrong number of arguments for 'get' command",
            "ERR syntax error",
            "ERR value is not an integer or out of range",
            "NOAUTH Authentication required.",
            "WRONGPASS invalid username-password pair or user is disabled.",
            "NOPERM User u has no permissions to run the 'get' command",
            "CROSSSLOT Keys in request don't hash to the same slot",
            "ERR invalid password",
        ],
    ),
    (
        AGAIN,
        "redis.exceptions and server.c: loading, failover, resharding, limits; unknown errors",
        [
            "LOADING Redis is loading the dataset in memory",
            "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "CLUSTERDOWN The cluster is down",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "READONLY You can't write against a read only replica.",
            "OOM command not allowed when used memory > 'maxmemory'.",
            "MISCONF Redis is configured to save RDB snapshots, but it's unable to persist to disk.",
            "NOREPLICAS Not enough good replicas to write.",
            "ERR max number of clients reached",
            "UNKILLABLE Sorry the script already executed write commands",
            "ERR something that nobody has seen",
        ],
    ),
)
def test_a_redis_error_begins_with_its_code(answer: str, expected: tuple[object, ...]) -> None:
    """redis-py takes it off, and has a class for some (U1)."""
    parsers = library("redis._parsers")
    assert meaning(parsers.BaseParser.parse_error(answer)) in expected


def test_redis_py_has_errors_of_its_own() -> None:
    """Of values that it cannot encode, and of a server or a lock that may be there later (U1)."""
    redis = library("redis")
    with closing(redis.Redis(port=1, socket_timeout=0.1, retry=None)) as client:
        assert meaning(raised(client.ping)) is True
    assert meaning(raised(redis.Connection().encoder.encode, object())) is False
    for name in ("TimeoutError", "WatchError", "LockError", "MaxConnectionsError", "InvalidResponse"):
        assert meaning(getattr(redis.exceptions, name)("no")) in AGAIN


# -- Cassandra -------------------------------------------------------------------------------------

ALIVE = {"consistency": 4, "required_replicas": 2, "alive_replicas": 1}
TIMED_OUT = {"consistency": 4, "required_responses": 2, "received_responses": 1}


@rows(
    (
        FINAL,
        "native_protocol_v5.spec, section 8: errors that the driver rethrows, as 0x01xx and 0x2xxx",
        [
            (0x0100, None),
            (0x2000, None),
            (0x2100, None),
            (0x2200, None),
            (0x2400, {"keyspace": "k", "table": "t"}),
        ],
    ),
    (
        AGAIN,
        "the same, and cassandra.policies.RetryPolicy",
        [
            (0x0000, None),
            (0x1000, ALIVE),
            (0x1001, None),
            (0x1002, None),
            (0x1003, None),
            (0x1100, {**TIMED_OUT, "write_type": 0}),
            (0x1200, {**TIMED_OUT, "data_retrieved": False}),
        ],
    ),
)
def test_a_cassandra_code_says_whether_a_try_can_help(
    answer: tuple[int, dict[str, object] | None], expected: tuple[object, ...]
) -> None:
    """By the class of the driver's exception, or the attribute `code` (U1)."""
    protocol = library("cassandra.protocol")
    code, info = answer
    message = protocol.error_classes[code](code=code, message="no", info=info)
    assert meaning(message.to_exception()) in expected


# -- Kafka -----------------------------------------------------------------------------------------

kafka_rows = rows(
    (
        FINAL,
        "https://kafka.apache.org/protocol#protocol_error_codes: not retriable",
        "10 MESSAGE_TOO_LARGE, 17 INVALID_TOPIC_EXCEPTION, 29 TOPIC_AUTHORIZATION_FAILED, 30 "
        "GROUP_AUTHORIZATION_FAILED, 31 CLUSTER_AUTHORIZATION_FAILED, 36 TOPIC_ALREADY_EXISTS, 58 "
        "SASL_AUTHENTICATION_FAILED, 87 INVALID_RECORD",
    ),
    (
        AGAIN,
        "the same: retriable",
        "3 UNKNOWN_TOPIC_OR_PARTITION, 5 LEADER_NOT_AVAILABLE, 6 NOT_LEADER_OR_FOLLOWER, 7 "
        "REQUEST_TIMED_OUT, 13 NETWORK_EXCEPTION, 14 COORDINATOR_LOAD_IN_PROGRESS, 15 "
        "COORDINATOR_NOT_AVAILABLE, 19 NOT_ENOUGH_REPLICAS, 51 CONCURRENT_TRANSACTIONS, 56 "
        "KAFKA_STORAGE_ERROR, 89 THROTTLING_QUOTA_EXCEEDED",
    ),
)


@pytest.mark.parametrize("client", ["kafka-python", "confluent-kafka"])
@kafka_rows
def test_a_kafka_code_says_whether_a_try_can_help(
    client: str, answer: str, expected: tuple[object, ...]
) -> None:
    """`retriable` of kafka-python; confluent-kafka's `retriable()` is only ever set by transactions (U1)."""
    code = int(answer.split()[0])
    if client == "kafka-python":
        error = library("kafka.errors").for_code(code)("no")
    else:
        kafka = library("confluent_kafka")
        error = kafka.KafkaException(kafka.KafkaError(code))
    assert meaning(error) in expected


@pytest.mark.parametrize("name", ["_TRANSPORT", "_ALL_BROKERS_DOWN", "_TIMED_OUT", "_MSG_TIMED_OUT"])
def test_librdkafka_does_not_say_that_its_own_errors_are_retriable(name: str) -> None:
    """They are not of a transaction, so that `retriable()` is false and says nothing (rdkafka.h; U1)."""
    kafka = library("confluent_kafka")
    error = kafka.KafkaError(getattr(kafka.KafkaError, name))
    assert not error.retriable()
    assert meaning(kafka.KafkaException(error)) is True
    said = kafka.KafkaError(kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED, "no", retriable=True)
    assert meaning(kafka.KafkaException(said)) in AGAIN


def test_kafka_may_be_there_later() -> None:
    """No broker answers; the class says `retriable` (U1)."""
    errors = library("kafka.errors")
    for name in ("KafkaConnectionError", "KafkaTimeoutError", "NodeNotReadyError"):
        assert getattr(errors, name).retriable
        assert meaning(getattr(errors, name)("no")) in AGAIN


# -- RabbitMQ, NATS --------------------------------------------------------------------------------


@rows(
    (
        FINAL,
        "AMQP 0-9-1, 1.2 (soft errors); pika's docs, 'Connection recovery': do not recover on channel errors",
        "Channel 403 ACCESS_REFUSED, Channel 404 NOT_FOUND - no queue 'q', Channel 406 "
        "PRECONDITION_FAILED - inequivalent arg 'durable'",
    ),
    (
        AGAIN,
        "AMQP 0-9-1, 1.2: 'an operator intervened', 'another client is using it', 'insufficient resources'",
        "Channel 405 RESOURCE_LOCKED - cannot obtain exclusive access, Connection 320 CONNECTION_FORCED, "
        "Connection 506 RESOURCE_ERROR, Connection 541 INTERNAL_ERROR",
    ),
)
def test_a_reply_code_of_amqp_is_no_http_status(answer: str, expected: tuple[object, ...]) -> None:
    """It is the first argument, and `reply_code` (U1)."""
    exceptions = library("pika.exceptions")
    kind, code, text = answer.split(maxsplit=2)
    assert meaning(getattr(exceptions, f"{kind}ClosedByBroker")(int(code), text)) in expected


def test_rabbitmq_refuses_a_client_or_is_not_there() -> None:
    """Credentials do not become right; a connection may come back (U1)."""
    pika = library("pika")
    refused = pika.exceptions.ProbableAuthenticationError("(403) ACCESS_REFUSED - Login was refused")
    assert meaning(refused) is False
    options = {"connection_attempts": 1, "socket_timeout": 1}
    parameters = pika.ConnectionParameters("127.0.0.1", 1, **options)
    assert meaning(raised(pika.BlockingConnection, parameters)) is True
    for name in ("StreamLostError", "AMQPHeartbeatTimeout", "ConnectionBlockedTimeout"):
        assert meaning(getattr(pika.exceptions, name)("no")) is True


@rows(
    (
        FINAL,
        "https://docs.nats.io/reference/reference-protocols/nats_api_reference#error-response: as in HTTP",
        [(404, 10059, "stream not found"), (400, 10071, "wrong last sequence: 1"), (403, 1, "no permission")],
    ),
    (
        AGAIN,
        "the same",
        [
            (500, 10077, "failed to store msg"),
            (503, 10008, "JetStream system temporarily unavailable"),
            (429, 10167, "too many requests"),
        ],
    ),
)
def test_jetstream_says_a_status(answer: tuple[int, int, str], expected: tuple[object, ...]) -> None:
    """The attribute `code`, beside `err_code` and `description` (U1)."""
    errors = library("nats.js.errors")
    code, err_code, description = answer
    error = {"code": code, "err_code": err_code, "description": description}
    assert meaning(raised(errors.APIError.from_error, error)) in expected


def test_nats_refuses_a_message_or_is_not_there() -> None:
    """A message that is too large, or a bad subject, does not change; a connection does (U1)."""
    errors = library("nats.errors")
    for name in ("MaxPayloadError", "BadSubjectError", "AuthorizationError"):
        assert meaning(getattr(errors, name)()) is False
    for name in ("TimeoutError", "NoRespondersError", "NoServersError", "ConnectionClosedError"):
        assert meaning(getattr(errors, name)()) is True


# -- SQLAlchemy itself -----------------------------------------------------------------------------


def test_sqlalchemy_has_errors_of_its_own() -> None:
    """A URL that names no driver is final; a pool that is exhausted is not (docs, "Error Messages"; U1)."""
    sqlalchemy = library("sqlalchemy")
    for url in ("foo://host/db", "no url"):
        assert meaning(raised(sqlalchemy.create_engine, url)) is False
    assert meaning(sqlalchemy.exc.TimeoutError("QueuePool limit of size 5 overflow 10 reached")) is True
    lost = sqlite3.OperationalError("database is locked")
    error = sqlalchemy.exc.DBAPIError.instance("SELECT 1", {}, lost, sqlite3.Error)
    assert meaning(error) is True  # as it was not raised, it has no cause: only `orig`
    duplicate = sqlite3.IntegrityError("UNIQUE constraint failed: locked.id")
    assert meaning(sqlalchemy.exc.DBAPIError.instance("SELECT 1", {}, duplicate, sqlite3.Error)) is False
