"""The error codes of AWS: what they mean, compared with the service models that botocore ships.

The models are the source of every row here that names no other. An error in a model has a status, a
description, and perhaps the trait `retryable`, which botocore obeys
(botocore.retries.standard.ModeledRetryableChecker).
"""

from __future__ import annotations

import functools
import gzip
import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from verdicts import library

from answering import answering
from retrying_executor import NotNow, retry_after, transient

botocore = library("botocore")
config = library("botocore.config")
exceptions = library("botocore.exceptions")
session = library("botocore.session")

DATA = Path(botocore.__file__).parent / "data"


class Error(NamedTuple):
    """An error of one service, as its model has it."""

    service: str
    code: str
    status: int
    retryable: bool
    throttling: bool


@functools.cache
def modelled() -> tuple[Error, ...]:
    """Return the errors of all services, each from the latest version of its model."""
    latest = {path.parent.parent: path for path in sorted(DATA.glob("*/*/service-2.json.gz"))}
    return tuple(error for service, path in latest.items() for error in errors_in(service.name, path))


def errors_in(service: str, path: Path) -> Iterator[Error]:
    for name, shape in json.loads(gzip.decompress(path.read_bytes()))["shapes"].items():
        if shape.get("exception"):
            error = shape.get("error", {})
            # A service without a status in its model answers 500 to a fault of its own, else 400.
            status = error.get("httpStatusCode") or (500 if shape.get("fault") else 400)
            trait = shape.get("retryable")
            throttling = bool(trait and trait.get("throttling"))
            yield Error(service, error.get("code", name), status, trait is not None, throttling)


@functools.cache
def statuses() -> dict[str, set[int]]:
    """Return with which statuses each code comes."""
    found: dict[str, set[int]] = {}
    for error in modelled():
        found.setdefault(error.code, set()).add(error.status)
    return found


def answer(code: str, status: int, **members: object) -> Exception:
    """Return what botocore raises for an answer."""
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": {}, "RetryAttempts": 0}
    response = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": metadata, **members}
    error: Exception = exceptions.ClientError(response, "Operation")
    return error


def meaning(exception: Exception) -> str:
    verdict = transient(exception)
    return "not now" if isinstance(verdict, NotNow) else "retry" if verdict else "final"


def of_each(codes: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("code", codes.split())


def meanings(code: str, default: int = 400) -> set[str]:
    """Return what a code means, with each status that it comes with."""
    return {meaning(answer(code, status)) for status in statuses().get(code, {default})}


# -- code by code ----------------------------------------------------------------------------------


@of_each(
    # Called too fast.
    "APICallRateForCustomerExceeded APICallRateForCustomerExceededFault CallRateLimitExceededException "
    "ClientLimitExceededException ConcurrentLimitExceededException ConnectionLimitExceededException "
    "DependencyThrottle DependentServiceRequestThrottlingFault EKSRequestThrottledException KMSThrottling "
    "KMSThrottlingFault KmsThrottled KmsThrottlingException LambdaThrottledException "
    "OpsMetadataTooManyUpdatesException OverLimit ProvisionedThroughputExceededException RateLimitError "
    "RateLimitExceededException RequestLimitExceeded RequestLimitExceededException "
    "ResourceProvisionedThroughputExceededException SlowDownException Throttled ThrottledClientException "
    "ThrottledRequestException TooManyRequestException TooManyRequestsError TooManyRequestsException "
    "TooManyUpdates "
    # In few models or none: botocore.retries.standard.ThrottledRetryableChecker
    "BandwidthLimitExceeded EC2ThrottledException RequestThrottled SlowDown Throttling"
)
def test_what_is_called_too_fast_can_be_called_later(code: str) -> None:
    """Under whichever name a service says so, and with whichever status (U3)."""
    assert {"not now"} == meanings(code)


@of_each(
    "ActiveSessionsExceededException ActiveStatementsExceededException "
    "ActiveWaitingRequestsExceededException ActivityWorkerLimitExceeded "
    "AutomationExecutionLimitExceededException BackfillLimitExceededException "
    "ConcurrentPipelineExecutionsLimitExceededException ConcurrentResourcesLimitExceeded "
    "ConcurrentRunsExceededException ExecutionLimitExceeded FleetCapacityExceededException "
    "InProgressTableRestoreQuotaExceededFault MaxConcurrentQueriesException OperationLimitExceeded "
    "OutOfCapacityException ReplayLimitExceeded ReportGenerationLimitExceeded "
    "SerialConsoleSessionLimitExceededException TooManyInvalidationsInProgress "
    # https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
    "ConcurrentSnapshotLimitExceeded ConcurrentCreateImageNoRebootLimitExceeded "
    "InsufficientInstanceCapacity InsufficientHostCapacity"
)
def test_a_cap_on_what_runs_at_once_frees_itself(code: str) -> None:
    """Or capacity does: both are said with a client error, and are no failure (U3)."""
    assert {"not now"} == meanings(code)


@of_each(
    # Two at once.
    "BackupInProgress BackupInUseException ConcurrentAccess ConcurrentAccessException "
    "ConcurrentModification ConcurrentModificationException ConcurrentOperationException "
    "ConcurrentReferenceUpdateException ConcurrentUpdateException ConflictException "
    "ConflictingOperationException ConflictingResourceUpdateException DataRepositoryTaskExecuting "
    "EntityTemporarilyUnmodifiable InstanceRefreshInProgress IntegrationConflictOperationFault "
    "LifecyclePolicyPreviewInProgressException OperationAbortedException OperationInProgressException "
    "OperationInProgressFailure PolicyChangesInProgressException PriorRequestNotComplete "
    "PurgeQueueInProgress ReassignmentInProgressException RemediationInProgressException "
    "ReplicatedWriteConflictException ReplicationBackfillInProgressException ReportInProgress "
    "ResourceConcurrentModificationException ResourceConflictException ResourceDataSyncConflictException "
    "ResourceScanInProgress RetryableConflictException RoleModified ScalingActivityInProgress "
    "SessionBusyException SnapshotScheduleUpdateInProgress StaleTag TransactionCommitInProgressException "
    "TransactionConflictException TransactionInProgressException UpdateInProgressException "
    # https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    "OperationAborted ConditionalRequestConflict "
    # Not yet, or not at the moment.
    "AuthorizationPendingException CodeArtifactUserPendingException CopyToRegionDisabledFault "
    "DatabaseResumingException DependentServiceUnavailableFault DirectoryUnavailableException "
    "EC2InstanceUnavailableException EndpointTemporarilyUnavailableException "
    "FederationSourceRetryableException FinalizingOrganizationException GameSessionFullException "
    "IDPCommunicationError IndexNotReadyException KeyUnavailableException ModelNotReadyException "
    "ModelStreamErrorException ModelTimeoutException NotReadyException OperationTimeoutException "
    "ResourceNotReadyException ResourcePropagationDelayException RetryLatestCommitFailedException "
    "SchemaRegistryUnavailableException ServiceTemporarilyUnavailableException SnapStartNotReadyException "
    "SnapshotCopyDisabledFault StatisticsNotReadyYetException StreamSessionAccessNotReadyException "
    "TLDInMaintenance WAFUnavailableEntityException WorkUnitsNotReadyYetException "
    # No capacity at the moment.
    "InsufficientCacheClusterCapacity InsufficientCapacityException InsufficientClusterCapacityFault "
    "InsufficientDBClusterCapacityFault InsufficientDBInstanceCapacity InsufficientResourceCapacityFault "
    "InsufficientStorageClusterCapacity "
    # The service is at fault, whatever the status.
    "InternalError InternalErrorException InternalException InternalFailure InternalFailureException "
    "InternalServerError InternalServerException InternalServiceErrorException InternalServiceException "
    "InternalStreamingException ServerInternalException ServiceUnavailable ServiceUnavailableError "
    "ServiceUnavailableException"
)
def test_what_passes_is_worth_another_attempt(code: str) -> None:
    """The description in the model says to try again, or that something else is under way (U1)."""
    assert "final" not in meanings(code)


@of_each(
    # Limits of an account or of one resource; they last until someone deletes something, or asks for more.
    "AccessPointLimitExceeded AccountLimitExceededException AliasLimitExceededException "
    "ApplicationLimitExceededException CacheSubnetGroupQuotaExceeded "
    "CloudHsmResourceLimitExceededException ClusterQuotaExceeded ClusterQuotaForCustomerExceeded "
    "CodeStorageExceededException DBClusterQuotaExceededFault DBSubnetGroupQuotaExceeded "
    "DirectoryLimitExceededException DocumentLimitExceeded EventSubscriptionQuotaExceeded "
    "ExceedsLimitException FileSystemLimitExceeded HsmConfigurationQuotaExceededFault "
    "InstanceQuotaExceeded LimitsExceededException MaxNumberOfConfigRulesExceededException "
    "MaximumNumberOfTrailsExceededException NumberDomainsExceeded ParameterLimitExceeded "
    "RepositoryLimitExceededException ReservedDBInstanceQuotaExceeded ResourceQuotaExceededFault "
    "ServiceLimitExceeded ServiceLimitExceededException SnapshotQuotaExceeded "
    "SourceEndpointServiceQuotaExceededException StateMachineLimitExceeded StorageQuotaExceeded "
    "SubscriptionLimitExceeded TableLimitExceeded TagLimitExceeded TagLimitExceededException "
    "TooManyBucketsException TooManyDistributions TooManyHostedZones TooManyLoadBalancers "
    "TooManyTagsException TopicLimitExceeded WAFLimitsExceededException TooManyBuckets "
    # Limits of one request.
    "BatchSizeLimitExceededException EntitySizeLimitExceeded FileContentSizeLimitExceededException "
    "ItemCollectionSizeLimitExceededException NameLengthExceededException PayloadTooLargeException "
    "PolicyLengthExceededException TextSizeLimitExceededException TooManyEntriesInBatchRequest "
    "TooManyParts "
    # Conflicts with what is there, not with what is under way.
    "CachePolicyInUse CertificateConflictException CertificateInUseException ClientTokenConflictException "
    "DeleteConflict DeleteConflictException EmailAddressInUseException "
    "FileNameConflictsWithDirectoryNameException FileSystemInUse IdempotencyConflictException "
    "KeySigningKeyInUse NameConflict PutFileEntryConflictException TransferConflictException "
    "VersionConflictException "
    # Not there, not at the moment either.
    "AWSOrganizationsNotInUseException CloudWatchLogsDeliveryUnavailableException "
    "ContinuousBackupsUnavailableException FeatureUnavailableInTierException"
)
def test_a_limit_of_an_account_lasts(code: str) -> None:
    """And so does one of a request, and a name that is taken (U1)."""
    assert {"final"} == meanings(code)


@pytest.mark.parametrize("status", [400, 402])
def test_a_service_quota_lasts(status: int) -> None:
    """HTTP 402 in most models that have it; not one of them names a time (U1)."""
    assert "final" == meaning(answer("ServiceQuotaExceededException", status))


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("LimitExceededException", 400, "not now"),  # botocore.retries.standard.ThrottledRetryableChecker
        ("LimitExceededException", 429, "not now"),  # API Gateway, Transcribe
        ("LimitExceededException", 403, "final"),  # Internet Monitor: a service quota
        ("LimitExceededException", 409, "final"),  # OpenSearch: more than the allowed number of resources
        ("LimitExceededException", 410, "final"),  # IoT
        ("LimitExceededException", 412, "final"),  # SMS and voice: too many instances of the resource type
        ("LimitExceeded", 409, "final"),  # IAM: beyond the limits of the account
        ("RequestLimitExceeded", 503, "not now"),  # EC2
        ("SlowDown", 503, "not now"),  # S3
        ("RequestTimeout", 400, "retry"),  # S3
        ("RequestTimeoutException", 400, "retry"),
    ],
)
def test_a_code_with_two_meanings_has_a_status(code: str, status: int, expected: str) -> None:
    """`LimitExceededException` is a rate with some, and what an account may have with others (U1, U3)."""
    assert expected == meaning(answer(code, status))


# -- all of them -----------------------------------------------------------------------------------


def test_every_code_that_speaks_of_throttling_is_not_now() -> None:
    """In the models, and in those that are yet to be written (U3)."""
    codes = [code for code in statuses() if re.search("throttl", code, re.IGNORECASE)]
    assert 10 < len(codes)
    future = [
        "SomeServiceThrottledFault",
        "throttlingError",
        "Some.ThrottleException",
        "ThrottlingException.Rate",
    ]
    assert {} == {code: found for code in codes + future if {"not now"} != (found := meanings(code))}


FINAL_THOUGH_RETRYABLE = {
    "AccessDeniedException": "one service marks all of its errors; 263 others say who is at fault",
    "ConstraintViolationException": "a maximum of the account; one of three marks it",
    "InvalidTokenException": "one of five marks it",
    "ServiceQuotaExceededException": "three of 193 mark it; none of these names a time",
    "UnprocessableEntityException": "one of nine marks it",
    "ValidationException": "one service marks all of its errors; 250 others say what is wrong",
}
"""A code has one meaning, and few services differ from the others."""


def test_what_a_model_marks_as_retryable_is_retried() -> None:
    """As botocore does, except for codes that mean something else with most services (U1)."""
    marked = [error for error in modelled() if error.retryable]
    assert 100 < len(marked)
    final = {error.code for error in marked if "final" == meaning(answer(error.code, error.status))}
    assert set() == final - FINAL_THOUGH_RETRYABLE.keys()


@of_each(" ".join(FINAL_THOUGH_RETRYABLE))
def test_a_code_means_what_it_means_with_most_services(code: str) -> None:
    """Where a few models alone mark it as retryable (U1)."""
    few = [error.retryable for error in modelled() if error.code == code]
    assert sum(few) < len(few) / 2
    assert "final" == meaning(answer(code, 400))


def test_what_a_model_marks_as_throttling_is_not_now() -> None:
    """The trait has a part that says so (U3)."""
    marked = [error for error in modelled() if error.throttling]
    assert 50 < len(marked)
    assert set() == {error.code for error in marked if "not now" != meaning(answer(error.code, error.status))}


def test_a_fault_of_the_service_is_never_final() -> None:
    """Nor is what it did not wait for, or what came too early (U1)."""
    faults = [error for error in modelled() if error.status >= 500 or error.status in {408, 425}]
    assert 300 < len(faults)
    final = {
        (error.code, error.status) for error in faults if "final" == meaning(answer(error.code, error.status))
    }
    # ElastiCache says 408 to credentials that are wrong.
    assert set() == final - {("InvalidCredentialsException", 408)}


LAST_IN_SPITE_OF_429 = {
    "CustomMetadataLimitExceededException": "WorkDocs: custom properties of one resource",
    "LimitExceededException": "Amplify, Connect, CodeConnections, DLM: resources; with others a rate",
    "ResourceLimitExceededException": "Ground Station, Managed Blockchain: resources of the account",
    "ResourceQuotaExceededException": "AppIntegrations: resources of the account",
    "ServiceQuotaExceededException": "Observability Access Manager: links of the account",
    "TooManyLabelsException": "WorkDocs: labels of one resource",
    "TooManySubscriptionsException": "WorkDocs: subscriptions of the account",
}
"""Limits that last, said with 429: either answer to them is right."""


def test_429_is_not_now() -> None:
    """Unless the code says that it is for good (U3)."""
    busy = {error.code for error in modelled() if error.status == 429}
    assert 15 < len(busy)
    assert (
        set()
        == {code for code in busy if "not now" != meaning(answer(code, 429))} - LAST_IN_SPITE_OF_429.keys()
    )


AT_FAULT = re.compile(
    "NotFound|NotExist|NoSuch|AlreadyExist|AccessDenied|NotAuthorized|Unauthorized|Forbidden|Malformed|Unsupported"
    "|NotSupported|TooLarge|TooLong|TooManyTags|NameInUse|Validation|Duplicate|^Invalid|^Missing"
)
PASSING_ALL_THE_SAME = {
    "BulkLoadIdNotFoundException": "marked as retryable by the one model that has it",
    "InvalidEventSubscriptionState": "someone else is modifying it: wait a few seconds and try again",
    "InvalidResourceStateException": "an action is not finished: try again later",
}
"""Codes whose names say that the request is at fault, while the models say otherwise."""


def test_what_is_wrong_with_a_request_stays_wrong() -> None:
    """The patterns for what passes do not catch it (U1)."""
    wrong = [error for error in modelled() if error.status < 500 and error.status not in {408, 429}]
    wrong = [error for error in wrong if AT_FAULT.search(error.code) and not error.retryable]
    assert 1000 < len(wrong)
    tried = {error.code for error in wrong if "final" != meaning(answer(error.code, error.status))}
    assert set() == tried - PASSING_ALL_THE_SAME.keys()


def test_botocores_own_table_of_codes_is_obeyed() -> None:
    """What it retries is not final (U1); `BadDigest`, a body damaged on the way, is among them."""
    policies = json.loads((DATA / "_retry.json").read_bytes())
    pairs = set(codes_in(policies))
    assert 10 < len(pairs)
    assert set() == {(code, status) for code, status in pairs if "final" == meaning(answer(code, status))}


def codes_in(node: Any) -> Iterator[tuple[str, int]]:
    if isinstance(node, dict):
        if "service_error_code" in node:
            yield node["service_error_code"], node.get("http_status_code", 400)
        for below in node.values():
            yield from codes_in(below)


# -- more than a code ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dynamodb() -> Iterator[Any]:
    """A client that does not retry by itself, of a server that refuses each transaction for given reasons."""
    once = config.Config(retries={"total_max_attempts": 1}, proxies={})
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    with answering() as server:
        made = session.get_session().create_client("dynamodb", endpoint_url=server.url, config=once, **keys)
        with closing(made) as client:
            client.server = server
            yield client


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ("None TransactionConflict", {"retry", "not now"}),
        ("TransactionConflict TransactionConflict", {"retry", "not now"}),
        ("None ThrottlingError", {"not now"}),
        ("ProvisionedThroughputExceeded None", {"not now"}),
        ("TransactionConflict ThrottlingError", {"retry", "not now"}),
        ("ConditionalCheckFailed None", {"final"}),
        ("None ValidationError", {"final"}),
        ("ItemCollectionSizeLimitExceeded", {"final"}),
        ("DuplicateItem None", {"final"}),
        ("TransactionConflict ConditionalCheckFailed", {"final"}),
    ],
)
def test_a_cancelled_transaction_has_reasons(dynamodb: Any, reasons: str, expected: set[str]) -> None:
    """One that lasts is enough; of those that pass, all have to.

    https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html
    """
    listed = [{"Code": reason, "Message": "no"} for reason in reasons.split()]
    name = "com.amazonaws.dynamodb.v20120810#TransactionCanceledException"
    body = {"__type": name, "Message": "no", "CancellationReasons": listed}
    dynamodb.server.answer(400, body=json.dumps(body).encode())
    item = {"Put": {"TableName": "table", "Item": {"id": {"S": "1"}}}}
    with pytest.raises(dynamodb.exceptions.TransactionCanceledException) as caught:
        dynamodb.transact_write_items(TransactItems=[item])
    assert listed == caught.value.response["CancellationReasons"]
    assert meaning(caught.value) in expected
    assert retry_after(caught.value) is None


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("throttlingException", {"not now"}),
        ("modelStreamErrorException", {"retry", "not now"}),
        ("modelTimeoutException", {"retry", "not now"}),
        ("internalServerException", {"retry", "not now"}),
        ("serviceUnavailableException", {"retry", "not now"}),
        ("validationException", {"final"}),
        ("accessDeniedException", {"final"}),
        ("serviceQuotaExceededException", {"final"}),
        ("KMSThrottlingException", {"not now"}),
    ],
)
@pytest.mark.parametrize("metadata", [{}, {"ResponseMetadata": {"HTTPStatusCode": 400, "HTTPHeaders": {}}}])
def test_an_error_in_an_event_stream_is_judged_by_its_code(
    metadata: dict[str, object], code: str, expected: set[str]
) -> None:
    """Its status is none of the service's: botocore.eventstream.EventStream raises them (U1, U3)."""
    response = {"Error": {"Code": code, "Message": "no"}, **metadata}
    assert meaning(exceptions.EventStreamError(response, "InvokeModelWithResponseStream")) in expected


@pytest.mark.parametrize("code", ["MysteryException", "400", "", None])
def test_an_unknown_code_leaves_it_to_the_status(code: Any) -> None:
    """Some answers have no code at all: botocore then takes the status as one (U1)."""
    expected = {400: "final", 404: "final", 408: "retry", 429: "not now", 500: "retry", 503: "retry"}
    assert expected == {status: meaning(answer(code, status)) for status in expected}
