"""What services answer, as data: which answers are final, and which mean "not now".

Each table names its source. A code that is in none of them means an ordinary failure.
"""

from __future__ import annotations

# -- HTTP ------------------------------------------------------------------------------------------

HTTP_TRANSIENT_CLIENT_ERRORS = frozenset(
    {
        408,  # Request Timeout: RFC 9110, section 15.5.9
        423,  # Locked: https://developers.hubspot.com/docs/api-reference/error-handling
        425,  # Too Early: RFC 8470, section 5.2
        449,  # Retry With: https://learn.microsoft.com/rest/api/cosmos-db/http-status-codes-for-cosmosdb
    }
)
"""Another attempt may help. With any other 4xx the request is at fault (RFC 9110, section 15.5)."""

CONFLICT_RETRIED_BY = frozenset({"anthropic", "cohere", "groq", "litellm", "openai", "stripe"})
"""Clients that try 409 (Conflict) again: openai._base_client, stripe._http_client and their like."""

HTTP_NOT_NOW = frozenset({420, 429})
"""Too Many Requests: the service works, and asks to be asked later (RFC 6585, section 4). Twitter had 420."""

HTTP_FAILED = frozenset({408})
"""Like all 5xx, it says that the service is in trouble: it gave up waiting."""

SHOULD_RETRY_HEADERS = ("x-should-retry", "stripe-should-retry")
"""The service's own word: openai._base_client, anthropic._base_client, stripe._http_client."""

# -- words in the JSON of an answer, or on an exception, as `reading.squashed` returns them --------

NEVER_WORDS = frozenset(
    {
        # No waiting helps: https://platform.openai.com/docs/guides/error-codes
        "insufficientquota",
        "billinghardlimitreached",
        "billingnotactive",
        "accountdeactivated",
    }
)
"""Waiting for hours does not help, although the status may be that of "not now"."""

NOT_NOW_WORDS = frozenset(
    {
        "capacityexceeded",  # 498: https://console.groq.com/docs/errors
        "overloadederror",  # https://docs.anthropic.com/en/api/errors
        "quotaexceeded",  # Google: https://developers.google.com/workspace/drive/api/guides/handle-errors
        "ratelimit",
        "ratelimited",  # Slack: https://docs.slack.dev/apis/web-api/rate-limits; Notion
        "ratelimiterror",  # Anthropic
        "ratelimitexceeded",  # OpenAI, Google
        "requestlimitexceeded",  # Salesforce
        "resourceexhausted",  # google.rpc.Code
        "slowdown",
        "throttled",
        "throttling",
        "toomanyrequests",
        "userratelimitexceeded",  # Google
    }
)
"""The service works, and asks to be asked later; heeded with any status but 5xx."""

RETRY_WORDS = frozenset(
    {
        "apierror",  # Anthropic: an unexpected error of its own
        "backenderror",  # Google: google.cloud.bigquery.retry
        "conflicterror",  # Notion: https://developers.notion.com/reference/status-codes
        "engineoverloaded",
        "internalerror",
        "internalservererror",
        "locktimeout",  # Stripe: https://docs.stripe.com/error-codes
        "overloaded",
        "servererror",  # OpenAI
        "serviceunavailable",
        "timeout",
        "timeouterror",  # Anthropic
        "unabletolockrow",  # Salesforce
        "unavailable",
    }
)
"""Failures of the service that may come with a 4xx, or with none in the middle of a stream."""

FINAL_WORDS = frozenset(
    {
        # In the middle of a stream no status says so: https://docs.anthropic.com/en/api/errors,
        # https://platform.openai.com/docs/guides/error-codes
        "authenticationerror",
        "billingerror",
        "contentfilter",
        "contextlengthexceeded",
        "failedprecondition",
        "invalidapikey",
        "invalidargument",
        "invalidprompt",
        "invalidrequesterror",
        "modelnotfound",
        "notfound",
        "notfounderror",
        "permissiondenied",
        "permissionerror",
        "requesttoolarge",
        "unauthenticated",
        "validationerror",
        # OAuth: RFC 6749, section 5.2
        "invalidclient",
        "invalidgrant",
        "invalidscope",
        "unauthorizedclient",
        "unsupportedgranttype",
    }
)
"""The request is at fault; heeded where there is no status of an error."""

FACEBOOK_NOT_NOW = frozenset({4, 17, 32, 341, 613, *range(80000, 80015)})
"""https://developers.facebook.com/docs/graph-api/overview/rate-limiting"""

SLACK_FINAL = (
    "not_|_not|invalid|missing|^no_|too_|already|cant_|archived|restricted|expired|revoked|inactive|denied"
    "|disabled|deprecated|deactivated|permission|mismatch|unsupported|_taken|required|blocked|duplicate|unknown_"
)
"""Parts of codes that say that the request is at fault: https://docs.slack.dev/reference/methods"""

# -- databases, mail, files ------------------------------------------------------------------------

SQL_FINAL_CLASSES = frozenset({"22", "23", "28", "42"})
"""Classes of SQLSTATE about the statement, its data, or the client: ISO 9075;
https://www.postgresql.org/docs/current/errcodes-appendix.html"""

POSTGRES_REFUSED = "(password|peer|ident) authentication failed|no pg_hba.conf entry|role .* does not exist"
"""https://www.postgresql.org/docs/current/client-authentication-problems.html"""

SQLITE_FINAL = (
    "no such |syntax error|has no column|incomplete input|wrong number of arguments|already exists"
    "|duplicate column|columns but|ORDER BY term|datatype mismatch|Incorrect number of bindings"
    "|[Ee]rror binding parameter"
    "|You did not supply a value|attempt to write a readonly|file is not a database|type .* is not supported"
)
"""What SQLite says of a statement that cannot be prepared or bound: https://sqlite.org/rescode.html#error"""

MYSQL_FINAL = frozenset(
    {
        1022,
        1044,
        1045,
        1046,
        1048,
        1049,
        1050,
        1051,
        1052,
        1054,
        1060,
        1061,
        1062,
        1063,
        1064,
        1065,
        1068,
        1091,
    }
    | {
        1109,
        1110,
        1136,
        1142,
        1143,
        1146,
        1149,
        1169,
        1216,
        1217,
        1227,
        1231,
        1264,
        1265,
        1292,
        1305,
        1364,
        1365,
    }
    | {1366, 1367, 1370, 1406, 1411, 1451, 1452, 1557, 1586, 1644, 1690, 1698, 3140, 3819}
)
"""Of access, names, syntax and data: https://dev.mysql.com/doc/mysql-errors/en/server-error-reference.html"""

MYSQL_AGAIN = frozenset({1040, 1203, 1226})
"""Limits on connections: they pass, although the class of their SQLSTATE is final."""

ORACLE_FINAL = frozenset(
    {1, 900, 903, 904, 907, 911, 917, 923, 933, 936, 942, 955, 1017, 1031, 1400, 1722, 1858}
)
ORACLE_FINAL |= {1861, 2290, 2291, 2292, 6550, 12899, 28000}
"""https://docs.oracle.com/error-help/db/"""

CLICKHOUSE_FINAL = frozenset(
    {36, 42, 43, 46, 47, 48, 50, 53, 57, 60, 62, 81, 82, 117, 192, 193, 194, 497, 516}
)
"""https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp"""

MONGODB_FINAL = frozenset(
    {2, 9, 11, 13, 14, 15, 18, 20, 22, 26, 28, 48, 52, 59, 66, 72, 121, 11000, 11001, 12582}
)
"""https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml"""

MONGODB_NEVER_SENT = (
    "^(ConfigurationError|InvalidName|InvalidDocument|InvalidBSON|DocumentTooLarge|CollectionInvalid)$"
)
"""https://pymongo.readthedocs.io/en/stable/api/pymongo/errors.html"""

REDIS_FINAL = (
    "(WRONGTYPE|NOAUTH|WRONGPASS|NOPERM|CROSSSLOT|NOSCRIPT|BADARG)"
    "|(ERR )?(unknown (sub)?command|wrong number of arguments|syntax error|value is not|invalid |no such key"
    "|Operation against a key|wrong kind of value|User .* has no permissions"
    "|.* out of range|Keys in request don't hash)"
    "|.*wrong kind of value|.*has no permissions"
)
"""https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors"""

CASSANDRA_FINAL = (
    "^(RequestValidationException|ConfigurationException|InvalidRequest|InvalidRequestException|AlreadyExists"
    "|AlreadyExistsException|Unauthorized|UnauthorizedErrorMessage|SyntaxException|AuthenticationFailed"
    "|BadCredentials|UnsupportedOperation)$"
)
"""The native protocol, version 5, section 8: errors 0x0100 and 0x2xxx"""

KAFKA_FINAL = frozenset(
    {2, 10, 12, 17, 18, 21, 23, 24, 26, 28, 29, 30, 31, 33, 34, 35, 36, 37, 38, 39, 40, 42, 43, 44}
)
KAFKA_FINAL |= {45, 46, 47, 48, 49, 53, 54, 58, 59, 67, 76, 87, 88}
"""https://kafka.apache.org/protocol#protocol_error_codes: not retriable"""

AMQP_FINAL = frozenset({403, 404, 406, 501, 502, 503, 530, 540})
"""AMQP 0-9-1, section 1.2"""

NATS_FINAL = (
    "^(MaxPayloadError|BadSubjectError|BadSubscriptionError|AuthorizationError|InvalidUserCredentialsError)$"
)
"""https://nats-io.github.io/nats.py/modules.html"""

# -- AWS -------------------------------------------------------------------------------------------

AWS_FINAL = (
    "^(AccessDenied|BadRequest|ResourceNotFound|UnrecognizedClient|Validation)Exception$",
    "ServiceQuotaExceeded",  # 402 in 142 of the 193 service models that have it; no waiting helps
    "^ConditionalCheckFailed|^ValidationError$|^ItemCollectionSizeLimitExceeded|^DuplicateItem$",  # DynamoDB
    "NotRetry",
    "^ResourcePolicyConflict",
)
"""The request is at fault, or an account limit is reached. Asked first: in event streams, no status says so.

https://docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html
"""

AWS_NOT_NOW = (
    # Throttling: botocore/retries/standard.py, ThrottledRetryableChecker, and the same under other names.
    "(?i:throttl)",
    "TooMany(Requests|Updates|InvalidationsInProgress)",
    "RequestLimitExceeded|RateExceeded|RateLimit|CallRate|^ClientLimit|^ConnectionLimit|SlowDown",
    "ProvisionedThroughputExceeded|BandwidthLimitExceeded|^OverLimit$|^PriorRequestNotComplete$",
    "^TransactionInProgressException$",
    # Caps on what runs at once, which free themselves: the API references of the services.
    r"Concurren\w*(Limit|Exceeded)|MaxConcurrent|InProgress\w*QuotaExceeded",
    r"^Active(Sessions|Statements|WaitingRequests)\w*Exceeded|^Activity\w*LimitExceeded|ExecutionLimitExceeded",
    r"Insufficient(?!ClusterCapacity$)\w*Capacity|OutOfCapacity|FleetCapacity|^ModelNotReadyException$",
    "^(Backfill|Operation|Replay|ReportGeneration|SerialConsoleSession)LimitExceeded",
    "^ENILimitReached|^SubnetIPAddressLimit|^InstanceLimitExceeded$|^VcpuLimitExceeded$",
    "^MaxSpotInstanceCountExceeded$|^ResourceNumberLimitExceededException$",
)
"""Codes of throttling, and of caps on what runs at once: "not now"."""

AWS_LIMIT = "LimitExceededException"
"""Throttling, by botocore and 74 service models; with one of the following statuses, an account limit."""

AWS_ACCOUNT_LIMIT_STATUSES = frozenset({403, 409, 410, 412})

AWS_AGAIN = (
    r"(?<!Delete)(?<!Transfer)(?<!Certificate)(?<!Token)(?<!Idempotency)(?<!FileEntry)(?<!Version)(?<!Results)"
    r"(?<!Export)(?<!Import)ConflictException$",
    "Concurrent(Modif|Updat|Access|Oper|Ref)",
    "Conflicting(Operation|Resource)|IntegrationConflictOperation|RequestConflict",
    "InProgress(Exception|Failure|Fault)?$|NotReady|Resuming|Pending(Exception)?$|Temporar",
    "OperationAborted|StreamError|Busy|Retry|^Retryable",
    "^(?!.*(Log|Backup|Key|InTier|Data|Recovery)).*Unavailable",
    "Internal(Server|Service|Error|Failure|Exception|Stream)",
    "^(?!Invalid).*(Timeout(Exception)?$|TimedOut)",
    "^(BackupInUseException|DataRepositoryTaskExecuting|RoleModified|StaleTag|CopyToRegionDisabledFault)$",
    "^(SnapshotCopyDisabledFault|FinalizingOrganizationException|GameSessionFullException|BadDigest)$",
    "^(IDPCommunicationError|ResourcePropagationDelayException|TLDInMaintenance|RequestTimeout)$",
    "^(S3Exception|RangeNotSatisfiableException|BulkLoadIdNotFoundException)$",
)
"""Failures of the service, and conflicts of two requests, even with a 4xx: another attempt may help.

From the descriptions in botocore's service models, and their trait ``retryable``.
"""

AWS_TRANSIENT = frozenset({"InternalError", "RequestTimeout", "RequestTimeoutException"})
"""Codes that say that the service failed, whatever the status."""

# -- gRPC ------------------------------------------------------------------------------------------

GRPC_NOT_NOW = frozenset({"RESOURCE_EXHAUSTED"})
"""Corresponds to HTTP 429: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto"""

GRPC_FINAL = frozenset(
    {
        "ALREADY_EXISTS",
        "FAILED_PRECONDITION",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "OUT_OF_RANGE",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "UNIMPLEMENTED",
    }
)
"""The request is at fault: https://grpc.io/docs/guides/status-codes/, and the comments of code.proto."""

GRPC_FAILED = frozenset({"DATA_LOSS", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "UNKNOWN"})
"""Correspond to HTTP 5xx: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto"""

# -- mail, and the network ------------------------------------------------------------------------

SMTP_NOT_AVAILABLE = 421
"""The service is closing down (RFC 5321, section 4.2.3). Other codes are answers about one message."""

NETWORK_FAILURES = (
    "AutoReconnect",  # pymongo
    "BadStatusLine",  # http.client
    "ClosedResource",  # anyio
    "Connect",  # ConnectError of httpx, ConnectionError of many
    "Disconnect",
    "EndOfStream",  # anyio
    "GatewayError",
    "HTTPClientError",  # botocore: whatever goes wrong on the way
    "IncompleteRead",
    "MaxRetryError",  # urllib3
    "NetworkError",
    "NoBrokersAvailable",  # kafka-python
    "NewConnection",
    "PayloadError",  # aiohttp
    "ProtocolError",  # urllib3, httpx
    "ReadError",  # httpx
    "ServerSelection",  # pymongo
    "ServiceUnavailable",
    "TimedOut",
    "Timeout",
    "TransportError",  # httpx, google-auth
    "Unreachable",
    "WriteError",  # httpx
)
"""Parts of names of classes, for exceptions of clients that cannot reach the service, or lose it."""

NEVER_SENT = (
    "Authentication(Exception|Error)$",  # paramiko, azure-core, and what SDKs raise without a key
    "^BadAuthenticationType$",  # paramiko
    "^(BadHostKey|PasswordRequired)",  # paramiko
    "Certificate(Error|VerificationError)",
    "CertVerification",  # ssl
    "^DefaultCredentialsError$",  # google-auth
    "CredentialUnavailable",  # azure-identity
    "^Invalid(URL|Url|Schema|ProxyURL|JSONError|Protocol|URI)",  # requests, httpx, http.client, aiohttp
    r"^requests\.exceptions\.InvalidHeader$",  # of urllib3, it is one of the answer
    "^JSONEncodeError$",
    "^LocalProtocolError$",  # httpx, h11: the program broke the protocol
    "^Location(Parse|Value)Error$",  # urllib3
    "^MissingSchema$",  # requests
    "^NonHttpUrl",  # aiohttp
    "^NoCredentials",  # botocore
    "^NoRegionError$",  # botocore
    "^ParamValidationError$",  # botocore
    "^PartialCredentialsError$",  # botocore
    "^PicklingError$",
    "^ProfileNotFound$",  # botocore
    "^(UnauthorizedSSOToken|SSOTokenLoad|UnknownService|DataNotFound|UnknownEndpoint)Error$",  # botocore
    "^UnsupportedProtocol$",  # httpx
    "^URLRequired$",  # requests
    "^URLSchemeUnknown$",  # urllib3
)
"""Names of classes for calls that fail before they reach the service, or at its door, and would again."""

BEFORE_THE_SERVICE = (
    *NEVER_SENT,
    "EmptyPool",  # urllib3: all connections are in use here
    "Invalid",
    "PoolTimeout",  # httpx: all connections are in use here
)
"""`NEVER_SENT`, and names where another attempt may help: none of them says anything of the service."""

MAY_PASS = "timeout|shut down|^Max outbound streams|in state ConnectionState"
"""With such a message, a class of `NEVER_SENT` proves nothing: paramiko or h2 may mean a lost connection."""

NEVER_SENT_WORDS = (
    "is not JSON serializable|JSON compliant|^unknown url type|not found in known_hosts"
    r"|\A(?i:(?=.*(must be|provide|missing|could not|no |set ))(?=.*(api[_ ]?key|authentication method)))"
)
"""Messages for calls that cannot be sent, of exceptions that have no class of their own for that.

json.encoder; urllib.request; paramiko.client; openai, groq, anthropic, google-genai and cohere without a key.
"""

MAIL_FINAL = (
    r"\[(AUTHENTICATIONFAILED|AUTHORIZATIONFAILED|EXPIRED|PRIVACYREQUIRED|NOPERM|AUTH|SYS/PERM|NONEXISTENT)\]"
)
"""Response codes of IMAP (RFC 5530) and POP (RFC 3206)."""

NOT_NOW_NAMES = (
    "RateLimit",
    "TooManyRequests",
    "Throttl",
    "^Flood",  # telethon
    "^RetryAfter$",  # python-telegram-bot
    "^TelegramRetryAfter$",  # aiogram
    "SlowMode",
    "ResourceExhausted",
)
"""Names of classes that say "too fast", where clients keep no status on them."""

FINAL_NAMES = (
    # What HTTP calls an answer: databricks, hvac, telethon; of python-telegram-bot, a NetworkError too.
    "^(Telegram)?(BadRequest|Forbidden|Unauthorized|Unauthenticated|PermissionDenied|NotFound)(Error)?$",
    "^ResourceConflict$",  # databricks
    "^(AuthKeyError|InvalidToken|InvalidPath|InvalidRequest)$",  # telethon, python-telegram-bot, hvac
    r"^hvac\.exceptions\.UnsupportedOperation$",
    "^(ChatMigrated|TelegramMigrateToChat|TelegramEntityTooLarge)$",  # python-telegram-bot, aiogram
    "^(LengthFinishReason|ContentFilterFinishReason)Error$",  # openai
    "^error_perm$",  # ftplib: replies 5xx
)
"""Names of classes for answers that are final, where clients keep no status on them."""

LOCAL_ERRORS = (
    ValueError,  # of requests, many are an OSError too
    BlockingIOError,
    ChildProcessError,
    FileExistsError,
    FileNotFoundError,
    InterruptedError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    ProcessLookupError,
)
"""Classes about this machine or the program, not about a service, though most are subclasses of `OSError`."""

# -- Python ----------------------------------------------------------------------------------------

PROGRAMMING_ERRORS = (NameError, ImportError, SyntaxError, NotImplementedError)
"""Errors that another attempt would only repeat."""
