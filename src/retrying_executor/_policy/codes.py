"""What services answer, as data: which answers are final, and which mean "not now".

Each table names its source. A code that is in none of them means an ordinary failure.
"""

from __future__ import annotations

# -- HTTP ------------------------------------------------------------------------------------------

HTTP_NOT_NOW = frozenset({429})
"""Too Many Requests: the service works, and asks to be asked later (RFC 6585, section 4)."""

HTTP_CLIENT_ERRORS = range(400, 500)
"""The request is at fault, and would be again (RFC 9110, section 15.5)."""

HTTP_TRANSIENT_CLIENT_ERRORS = frozenset({408, 425})
"""Exceptions to that: Request Timeout (RFC 9110, section 15.5.9) and Too Early (RFC 8470, section 5.2)."""

HTTP_FAILED = frozenset({408})
"""Like all 5xx, it says that the service is in trouble: it gave up waiting."""

# -- AWS -------------------------------------------------------------------------------------------

AWS_NOT_NOW = frozenset(
    {
        # Throttling, as botocore sees it: botocore/retries/standard.py, ThrottledRetryableChecker.
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
        # Throttling under other names, each from the API reference of its service.
        "KMSThrottlingException",  # Lambda
        "SnapshotCreationPerVolumeRateExceeded",  # EC2
        "TooManyUpdates",  # Systems Manager
        # A cap on what runs at once, which frees itself; each from the API reference of its service.
        "ActiveStatementsExceededException",  # Redshift Data
        "ActivityLimitExceeded",  # Step Functions
        "ConcurrentRunsExceededException",  # Glue
        "ENILimitReachedException",  # Lambda
        "ExecutionLimitExceeded",  # Step Functions
        "InsufficientCapacityException",  # several
        "InsufficientHostCapacity",  # EC2
        "InsufficientInstanceCapacity",  # EC2
        "InstanceLimitExceeded",  # EC2
        "MaxSpotInstanceCountExceeded",  # EC2
        "ModelNotReadyException",  # Bedrock
        "ResourceNumberLimitExceededException",  # Glue
        "ServiceQuotaExceededException",  # many
        "SubnetIPAddressLimitReachedException",  # Lambda
        "VcpuLimitExceeded",  # EC2
    }
)
"""Error codes of AWS that mean "not now"."""

AWS_TRANSIENT = frozenset({"InternalError", "RequestTimeout", "RequestTimeoutException"})
"""Failures that may come with a 4xx: botocore/retries/standard.py, TransientRetryableChecker."""

AWS_FINAL = frozenset(
    {
        "AccessDeniedException",
        "BadRequestException",
        "ResourceNotFoundException",
        "UnrecognizedClientException",
        "ValidationException",
    }
)
"""The request is at fault, and within an event stream no HTTP status says so.

https://docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html
"""

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
"""Parts of the names of classes that clients raise when a service cannot be reached, or breaks off."""

BEFORE_THE_SERVICE = (
    "CertificateError",
    "CertVerification",  # ssl
    "EmptyPool",  # urllib3: all connections are in use here
    "Invalid",  # InvalidURL, InvalidSchema, InvalidJSONError of requests
    "LocalProtocolError",  # httpx: the program broke the protocol
    "MissingSchema",  # requests
    "NoCredentials",  # botocore
    "PoolTimeout",  # httpx: all connections are in use here
    "UnsupportedProtocol",  # httpx
)
"""Parts of the names of classes for failures before the service is reached, or at its certificate."""

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
"""They are about this machine or the program, not about a service, though most are an `OSError`."""

# -- Python ----------------------------------------------------------------------------------------

PROGRAMMING_ERRORS = (NameError, ImportError, SyntaxError, NotImplementedError)
"""Errors that another attempt would only repeat."""
