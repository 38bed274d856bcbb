"""What clients of web services raise: whether another attempt helps, and how long it has to wait.

Most are asked on loopback. Where a client cannot be pointed there, the part of it that builds its exceptions
is called with the answer. A library that is missing skips its own rows only.
"""

from __future__ import annotations

import asyncio
import json
import time
import warnings
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from verdicts import library

from answering import Server, answering
from conftest import TIMEOUT
from retrying_executor import NotNow, retry_after, transient

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"  # clients leave sockets to the collector
)


def fetch(url: str) -> Any:
    """Return the answer, as requests has it."""
    with library("requests").get(url, timeout=TIMEOUT) as response:
        return response


# -- clients that are asked ------------------------------------------------------------------------


def ask_aiogram(url: str) -> None:
    server = library("aiogram.client.telegram").TelegramAPIServer.from_base(url)
    aiohttp_session = library("aiogram.client.session.aiohttp").AiohttpSession

    async def ask() -> None:
        async with library("aiogram").Bot("1:a", session=aiohttp_session(api=server)) as bot:
            await bot.get_me()

    asyncio.run(ask())


def ask_asana(url: str) -> None:
    asana = library("asana")
    configuration = asana.Configuration()
    configuration.host, configuration.access_token = url, "t"
    configuration.retry_strategy = library("urllib3").Retry(0, raise_on_status=False)
    client = asana.ApiClient(configuration)
    try:
        asana.WorkspacesApi(client).get_workspace("1", {})
    finally:
        client.pool.close()
        client.pool.join()


def ask_atlassian(url: str) -> None:
    with closing(library("atlassian").Confluence(url, token="t", retry_with_header=False)) as client:
        client.get("rest/api/content/1")


def ask_azure(url: str) -> None:
    blob = library("azure.storage.blob")
    with blob.BlobServiceClient(f"{url}/account", retry_total=0) as client:
        client.get_service_properties()


def ask_bigquery(url: str) -> None:
    anonymous = library("google.auth.credentials").AnonymousCredentials()
    bigquery = library("google.cloud.bigquery")
    with closing(bigquery.Client("p", credentials=anonymous, client_options={"api_endpoint": url})) as client:
        client.get_table("p.d.t", retry=None)


def ask_docker(url: str) -> None:
    with closing(library("docker").DockerClient(url.replace("http", "tcp"), version="1.44")) as client:
        client.containers.get("1")


def ask_elasticsearch(url: str) -> None:
    with closing(library("elasticsearch").Elasticsearch(url, max_retries=0)) as client:
        client.info()


def ask_facebook(url: str) -> None:
    api, session = library("facebook_business.api"), library("facebook_business.session")
    made = session.FacebookSession(access_token="t")
    with closing(made.requests):
        api.FacebookAdsApi(made).call("GET", url)


def ask_github(url: str) -> None:
    github = library("github")
    with closing(github.Github(base_url=url, retry=None, seconds_between_requests=None)) as client:
        client.get_user("octocat")


def ask_gitlab(url: str) -> None:
    with library("gitlab").Gitlab(url, private_token="t") as client:
        client.projects.get(1, obey_rate_limit=False)


def ask_googleapiclient(url: str) -> None:
    http, model = library("googleapiclient.http"), library("googleapiclient.model")
    with closing(library("httplib2").Http()) as connection:
        http.HttpRequest(connection, model.JsonModel().response, url).execute()


def ask_google_auth(url: str) -> None:
    credentials = library("google.oauth2.credentials").Credentials(
        None, refresh_token="t", token_uri=url, client_id="i", client_secret="s"
    )
    with library("requests").Session() as session:
        credentials.refresh(library("google.auth.transport.requests").Request(session))


def ask_google_storage(url: str) -> None:
    anonymous = library("google.auth.credentials").AnonymousCredentials()
    storage = library("google.cloud.storage")
    with closing(storage.Client("p", credentials=anonymous, client_options={"api_endpoint": url})) as client:
        client.get_bucket("b", retry=None)


def ask_hubspot(url: str) -> None:
    contacts = library("hubspot.crm.contacts")
    with contacts.ApiClient(contacts.Configuration(host=url)) as client:
        contacts.BasicApi(client).get_by_id("1")


def ask_hvac(url: str) -> None:
    with closing(library("hvac").Client(url, token="t").adapter) as adapter:
        adapter.get("/v1/secret/data/a")


def ask_influxdb(url: str) -> None:
    with library("influxdb_client").InfluxDBClient(url, "t", org="o") as client:
        client.buckets_api().find_bucket_by_id("1")


def ask_jira(url: str) -> None:
    with closing(library("jira").JIRA(url, get_server_info=False, max_retries=0)) as client:
        client.issue("A-1")


def ask_kubernetes(url: str) -> None:
    kubernetes = library("kubernetes.client")
    configuration = kubernetes.Configuration(url)
    configuration.retries = 0
    with kubernetes.ApiClient(configuration) as client:
        kubernetes.CoreV1Api(client).read_namespace("n")


def ask_meilisearch(url: str) -> None:
    library("meilisearch").Client(url).get_index("i")


def ask_notion(url: str) -> None:
    notion = library("notion_client")
    with notion.Client(auth="t", base_url=url, retry=False) as client:
        client.users.me()


def ask_opensearch(url: str) -> None:
    with closing(library("opensearchpy").OpenSearch(url, max_retries=0)) as client:
        client.info()


def ask_qdrant(url: str) -> None:
    qdrant = library("qdrant_client")
    with closing(qdrant.QdrantClient(url=url, check_compatibility=False)) as client:
        client.get_collections()


def ask_sendgrid(url: str) -> None:
    library("sendgrid").SendGridAPIClient("k", host=url).client.api_keys.get()


def ask_shopify(url: str) -> None:
    library("pyactiveresource.connection").Connection(url).get("/shop.json")


def ask_slack(url: str) -> None:
    slack = library("slack_sdk")
    slack.WebClient("t", base_url=f"{url}/", retry_handlers=[]).chat_postMessage(channel="C1", text="hello")


def ask_spotipy(url: str) -> None:
    client = library("spotipy").Spotify(auth="t", retries=0, status_retries=0, status_forcelist=(599,))
    client.prefix = f"{url}/"
    with closing(client._session):
        client.track("11dFghVXANMlKmJXsNCbNl")


def ask_stripe(url: str) -> None:
    stripe = library("stripe")
    client = stripe.StripeClient("k", base_addresses={"api": url}, http_client=stripe.RequestsClient())
    client.v1.customers.list()


def ask_telegram(url: str) -> None:
    async def ask() -> None:
        bot = library("telegram").Bot("1:a", base_url=f"{url}/bot")
        try:
            await bot.initialize()  # which asks for itself
        finally:
            await bot._request[1].shutdown()

    asyncio.run(ask())


def ask_twilio(url: str) -> None:
    base = library("twilio.http.http_client").TwilioHttpClient

    class Loopback(base):  # type: ignore[misc,valid-type]  # the library may be missing
        def request(self, method: str, uri: str, *args: Any, **kwargs: Any) -> Any:
            return super().request(method, url, *args, **kwargs)

    http = Loopback()
    with closing(http.session):
        library("twilio.rest").Client("AC1", "t", http_client=http).messages.create(
            "+1", body="b", from_="+2"
        )


def ask_xmlrpc(url: str) -> None:
    with xmlrpc.client.ServerProxy(url) as proxy:
        proxy.method()


# -- clients whose exceptions are built from an answer ---------------------------------------------


def ask_cosmos(url: str) -> None:
    transport = library("azure.core.pipeline.transport").RequestsTransport()
    request = library("azure.core.rest").HttpRequest("GET", url)
    with transport:
        answer = transport.send(request)
        error = library("azure.cosmos.exceptions").CosmosHttpResponseError
        raise error(status_code=answer.status_code, message="no", response=answer)


def ask_databricks(url: str) -> None:
    raise library("databricks.sdk.errors.parser")._Parser().get_api_error(fetch(url))


def ask_discord(url: str) -> None:
    discord, aiohttp = library("discord"), library("aiohttp")
    kinds = {403: discord.Forbidden, 404: discord.NotFound}

    async def ask() -> None:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            server_error = discord.DiscordServerError if response.status >= 500 else discord.HTTPException
            raise kinds.get(response.status, server_error)(response, await response.json())

    asyncio.run(ask())


def ask_google(url: str) -> None:
    raise library("google.api_core.exceptions").from_http_response(fetch(url))


def ask_praw(url: str) -> None:
    response = fetch(url)
    raise library("prawcore.sessions").Session.STATUS_EXCEPTIONS[response.status_code](response)


def ask_salesforce(url: str) -> None:
    library("simple_salesforce.util").exception_handler(fetch(url), "Account")


def ask_tweepy(url: str) -> None:
    tweepy = library("tweepy")
    response = fetch(url)
    kinds = {403: tweepy.Forbidden, 404: tweepy.NotFound, 429: tweepy.TooManyRequests}
    raise kinds.get(response.status_code, tweepy.TwitterServerError)(response)


def ask_zenpy(url: str) -> None:
    exception = library("zenpy.lib.exception")
    response = fetch(url)
    kind = exception.RecordNotFoundException if response.status_code == 404 else exception.APIException
    raise kind("no", response=response)


# -- rows ------------------------------------------------------------------------------------------

AGAIN = {"retry", "not now"}  # which of both is not said
UNASKED = "unasked"  # how long to wait is not compared


class Row(NamedTuple):
    """An answer, and what follows from what the client raises."""

    ask: Callable[[str], None]
    name: str
    status: int
    expected: str | set[str]
    headers: Mapping[str, str] = MappingProxyType({})
    body: Any = MappingProxyType({})
    after: float | str | None = None


def in_seconds(seconds: int) -> str:
    """Return an instant in the future, in seconds since the epoch; rows are made when tests are collected."""
    return str(int(NOW) + seconds)


NOW = time.time()
FAR = 4_000  # seconds: more than collecting takes
TOLERANCE = 600.0
SOON = time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(NOW + FAR))

NORMAL = {"x-ratelimit-limit": "5000", "x-ratelimit-remaining": "4290", "x-ratelimit-reset": in_seconds(FAR)}
USED_UP = {**NORMAL, "x-ratelimit-remaining": "0"}
ELASTIC = {
    "X-Elastic-Product": "Elasticsearch",
    "Content-Type": "application/vnd.elasticsearch+json;compatible-with=9",
}


def google_error(code: int, reason: str, **members: object) -> dict[str, object]:
    """Return the body of an error of a REST API of Google."""
    errors = [{"domain": "usageLimits", "reason": reason, "message": "no"}]
    return {"error": {"code": code, "message": "no", "errors": errors, **members}}


def elastic_error(kind: str) -> dict[str, object]:
    return {"error": {"type": kind, "reason": "no", "root_cause": [{"type": kind, "reason": "no"}]}}


def meta_error(code: int, **members: object) -> dict[str, object]:
    return {"error": {"message": "no", "type": "OAuthException", "code": code, **members}}


def telegram_error(code: int, description: str, **parameters: object) -> dict[str, object]:
    more = {"parameters": parameters} if parameters else {}
    return {"ok": False, "error_code": code, "description": description, **more}


def stripe_error(kind: str, **members: object) -> dict[str, object]:
    return {"error": {"type": kind, "message": "no", **members}}


def of_each_reason(
    ask: Callable[[str], None], status: int, reasons: str, expected: str | set[str]
) -> list[Row]:
    return [
        Row(ask, f"{status} {reason}", status, expected, body=google_error(status, reason), after=None)
        for reason in reasons.split()
    ]


def slack_codes(codes: str, expected: str | set[str]) -> list[Row]:
    return [Row(ask_slack, code, 200, expected, body={"ok": False, "error": code}) for code in codes.split()]


# https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api
# https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api; github.GithubRetry
GITHUB = [
    Row(ask, f"{name}", status, expected, headers, {"message": message}, after)
    for ask in (ask_github, ask_google)
    for name, status, expected, headers, message, after in [
        (
            "secondary",
            403,
            "not now",
            {**NORMAL, "Retry-After": "60"},
            "You have exceeded a secondary rate limit",
            60,
        ),
        ("primary", 403, "not now", USED_UP, "API rate limit exceeded for user ID 1.", FAR),
        ("primary 429", 429, "not now", USED_UP, "API rate limit exceeded for user ID 1.", FAR),
        ("forbidden", 403, "final", NORMAL, "Resource not accessible by integration", None),
        ("missing", 404, "final", NORMAL, "Not Found", None),
        ("bad credentials", 401, "final", NORMAL, "Bad credentials", None),
        ("invalid", 422, "final", NORMAL, "Validation Failed", None),
        ("unavailable", 503, "retry", NORMAL, "no", None),
    ]
]
GITHUB += [
    Row(
        ask_github,
        "secondary without a hint",
        403,
        "not now",
        NORMAL,
        {"message": "You have exceeded a secondary rate limit. Please wait a few minutes."},
        UNASKED,
    ),
]

# gitlab.utils.Retry, gitlab.const.RETRYABLE_TRANSIENT_ERROR_CODES; no exception has the headers
GITLAB = [Row(ask_gitlab, str(status), status, "final") for status in (400, 401, 403, 404, 422)]
GITLAB += [Row(ask_gitlab, str(status), status, "retry") for status in (500, 502, 503, 504, 520, 530)]
GITLAB += [Row(ask_gitlab, "429", 429, "not now", {"Retry-After": "7"}, after=UNASKED)]

# https://docs.slack.dev/reference/methods/chat.postMessage#errors, https://docs.slack.dev/apis/web-api/rate-limits
SLACK = [
    Row(ask_slack, "429", 429, "not now", {"Retry-After": "30"}, {"ok": False, "error": "ratelimited"}, 30),
    Row(ask_slack, "429 without a hint", 429, "not now", body={"ok": False, "error": "ratelimited"}),
    Row(ask_slack, "503", 503, "retry", body={"ok": False, "error": "service_unavailable"}),
    *slack_codes("ratelimited rate_limited", "not now"),
    *slack_codes("fatal_error internal_error request_timeout service_unavailable brand_new_error", AGAIN),
    *slack_codes("channel_not_found not_in_channel is_archived msg_too_long no_text invalid_blocks", "final"),
    *slack_codes(
        "invalid_auth not_authed account_inactive token_revoked token_expired no_permission", "final"
    ),
    *slack_codes("missing_scope restricted_action invalid_arguments user_not_found", "final"),
]

# stripe._http_client.HTTPClient._should_retry; https://docs.stripe.com/rate-limits, https://docs.stripe.com/error-codes
TRY, STOP = {"Stripe-Should-Retry": "true"}, {"Stripe-Should-Retry": "false"}
STRIPE = [
    Row(ask_stripe, "429", 429, "not now", body=stripe_error("invalid_request_error", code="rate_limit")),
    Row(
        ask_stripe, "429, stop", 429, "final", STOP, stripe_error("invalid_request_error", code="rate_limit")
    ),
    Row(
        ask_stripe,
        "lock_timeout",
        429,
        AGAIN,
        body=stripe_error("invalid_request_error", code="lock_timeout"),
    ),
    Row(ask_stripe, "409", 409, AGAIN, body=stripe_error("idempotency_error")),
    Row(ask_stripe, "409, try", 409, AGAIN, TRY, stripe_error("api_error")),
    Row(ask_stripe, "409, stop", 409, "final", STOP, stripe_error("api_error")),
    Row(ask_stripe, "400, try", 400, AGAIN, TRY, stripe_error("invalid_request_error")),
    Row(ask_stripe, "400", 400, "final", body=stripe_error("invalid_request_error", code="resource_missing")),
    Row(ask_stripe, "401", 401, "final", body=stripe_error("invalid_request_error")),
    Row(ask_stripe, "declined", 402, "final", body=stripe_error("card_error", code="card_declined")),
    Row(ask_stripe, "404", 404, "final", body=stripe_error("invalid_request_error", code="resource_missing")),
    Row(ask_stripe, "500", 500, "retry", body=stripe_error("api_error")),
    Row(ask_stripe, "500, try", 500, AGAIN, TRY, stripe_error("api_error")),
    Row(ask_stripe, "500, stop", 500, "final", STOP, stripe_error("api_error")),
    Row(ask_stripe, "503", 503, "retry", body=stripe_error("api_error")),
]

# https://www.twilio.com/docs/api/errors; the exception has no headers, and a `code` of five digits
TWILIO = [
    Row(ask_twilio, str(code), status, expected, body={"code": code, "message": "no", "status": status})
    for status, code, expected in [
        (429, 20429, "not now"),
        (400, 21211, "final"),
        (401, 20003, "final"),
        (403, 20403, "final"),
        (404, 20404, "final"),
        (500, 20500, "retry"),
        (503, 20503, "retry"),
    ]
]

# https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/rate-limits
SENDGRID = [Row(ask_sendgrid, str(status), status, "final") for status in (400, 401, 403, 404, 413, 415)]
SENDGRID += [Row(ask_sendgrid, str(status), status, "retry") for status in (500, 503, 504)]
SENDGRID += [
    Row(
        ask_sendgrid,
        "429",
        429,
        "not now",
        {"X-RateLimit-Limit": "500", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": in_seconds(FAR)},
        after=FAR,
    )
]

# notion_client.client.Client._can_retry; https://developers.notion.com/reference/status-codes
NOTION = [
    Row(
        ask_notion, code, status, expected, headers, {"object": "error", "code": code, "message": "no"}, after
    )
    for code, status, expected, headers, after in [
        ("rate_limited", 429, "not now", {"Retry-After": "9"}, 9),
        ("conflict_error", 409, AGAIN, {}, None),
        ("internal_server_error", 500, "retry", {}, None),
        ("service_unavailable", 503, "retry", {}, None),
        ("gateway_timeout", 504, "retry", {}, None),
        ("validation_error", 400, "final", {}, None),
        ("unauthorized", 401, "final", {}, None),
        ("restricted_resource", 403, "final", {}, None),
        ("object_not_found", 404, "final", {}, None),
    ]
]

# azure.core.pipeline.policies.RetryPolicyBase.is_retry: any status from 400 on that comes with Retry-After
# https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
AZURE = [
    Row(ask_azure, f"{status} with a hint", status, "not now", {"Retry-After": "5"}, b"", 5)
    for status in (403, 404, 409, 412, 413, 423, 429)
]
AZURE += [
    Row(
        ask_azure,
        f"{status} {code}",
        status,
        expected,
        {"x-ms-error-code": code, "Content-Type": "text/xml"},
        b"",
    )
    for status, code, expected in [
        (400, "InvalidHeaderValue", "final"),
        (403, "AuthenticationFailed", "final"),
        (404, "ContainerNotFound", "final"),
        (409, "BlobAlreadyExists", "final"),
        (412, "ConditionNotMet", "final"),
        (408, "RequestTimeout", "retry"),
        (500, "OperationTimedOut", "retry"),
        (503, "ServerBusy", "retry"),
    ]
]
AZURE += [
    Row(ask_azure, "429 in milliseconds", 429, "not now", {"x-ms-retry-after-ms": "250"}, b"", 0.25),
    Row(ask_azure, "429 in milliseconds, other name", 429, "not now", {"retry-after-ms": "1500"}, b"", 1.5),
]

# https://learn.microsoft.com/rest/api/cosmos-db/http-status-codes-for-cosmosdb: 449 is safe to retry
COSMOS = [
    Row(ask_cosmos, "429", 429, "not now", {"x-ms-retry-after-ms": "250"}, after=0.25),
    Row(ask_cosmos, "449", 449, AGAIN),
    Row(ask_cosmos, "449 with a hint", 449, "not now", {"x-ms-retry-after-ms": "100"}, after=0.1),
    *(Row(ask_cosmos, str(status), status, "final") for status in (400, 401, 403, 404, 409, 412, 413)),
    *(Row(ask_cosmos, str(status), status, "retry") for status in (408, 500, 503)),
]

# googleapiclient.http._should_retry_response; google.cloud.bigquery.retry._should_retry
# https://cloud.google.com/bigquery/docs/error-messages, https://developers.google.com/workspace/drive/api/guides/handle-errors
RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "30s"}
ERROR_INFO = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "RATE_LIMIT_EXCEEDED"}
GOOGLE = [
    row
    for ask in (ask_google, ask_googleapiclient, ask_bigquery, ask_google_storage)
    for row in [
        *of_each_reason(ask, 403, "rateLimitExceeded userRateLimitExceeded quotaExceeded", "not now"),
        *of_each_reason(
            ask, 403, "accessDenied insufficientPermissions accessNotConfigured forbidden", "final"
        ),
        *of_each_reason(ask, 404, "notFound", "final"),
        *of_each_reason(ask, 400, "invalid invalidQuery badRequest", "final"),
        *of_each_reason(ask, 412, "conditionNotMet", "final"),
        *of_each_reason(ask, 409, "duplicate", "final"),
        *of_each_reason(ask, 429, "rateLimitExceeded", "not now"),
        *of_each_reason(ask, 500, "backendError internalError", "retry"),
        *of_each_reason(ask, 503, "backendError", "retry"),
        Row(ask, "403 with nothing", 403, "final"),
        Row(ask, "403 not JSON", 403, "final", {"Content-Type": "text/html"}, b"<html>"),
        Row(
            ask,
            "429 header",
            429,
            "not now",
            {"Retry-After": "12"},
            google_error(429, "rateLimitExceeded"),
            12,
        ),
        Row(
            ask,
            "429 RetryInfo",
            429,
            "not now",
            body=google_error(
                429, "rateLimitExceeded", status="RESOURCE_EXHAUSTED", details=[ERROR_INFO, RETRY_INFO]
            ),
            after=30,
        ),
    ]
]
GOOGLE += of_each_reason(ask_bigquery, 400, "backendError internalError rateLimitExceeded", AGAIN)
GOOGLE += of_each_reason(ask_bigquery, 403, "responseTooLarge billingNotEnabled", "final")

# google.auth._default and google.oauth2._client._can_retry: what is not in its list is not retried
GOOGLE_AUTH = [
    Row(ask_google_auth, error, 400, "final", body={"error": error, "error_description": "no"})
    for error in ("invalid_grant", "invalid_client", "unauthorized_client")
]

# https://www.elastic.co/docs/reference/elasticsearch/clients: elastic_transport retries 429, 502, 503, 504
ELASTICSEARCH = [
    Row(ask, f"{status} {kind}", status, expected, {**ELASTIC, **headers}, elastic_error(kind), after)
    for ask in (ask_elasticsearch, ask_opensearch)
    for status, kind, expected, headers, after in [
        (429, "es_rejected_execution_exception", "not now", {}, None),
        (429, "circuit_breaking_exception", "not now", {}, None),
        (400, "mapper_parsing_exception", "final", {}, None),
        (401, "security_exception", "final", {}, None),
        (403, "security_exception", "final", {}, None),
        (404, "index_not_found_exception", "final", {}, None),
        (409, "version_conflict_engine_exception", "final", {}, None),
        (500, "exception", "retry", {}, None),
        (502, "exception", "retry", {}, None),
        (503, "master_not_discovered_exception", "retry", {}, None),
        (504, "exception", "retry", {}, None),
    ]
]
ELASTICSEARCH += [
    Row(
        ask_elasticsearch,
        f"{status} with a hint",
        status,
        expected,
        {**ELASTIC, "Retry-After": "7"},
        elastic_error("e"),
        7,
    )
    for status, expected in ((429, "not now"), (503, AGAIN), (413, "not now"))
]

# https://developers.facebook.com/docs/graph-api/guides/error-handling
# https://developers.facebook.com/docs/graph-api/overview/rate-limiting (codes 4, 17, 32, 613, 80000 to 80014)
FACEBOOK = [
    *(
        Row(ask_facebook, f"rate {code}", 400, "not now", body=meta_error(code))
        for code in (4, 17, 32, 613, 80004)
    ),
    *(
        Row(ask_facebook, f"at fault {code}", 400, "final", body=meta_error(code))
        for code in (10, 100, 200, 803)
    ),
    Row(ask_facebook, "token", 401, "final", body=meta_error(190)),
    Row(ask_facebook, "403", 403, "final", body=meta_error(200)),
    Row(ask_facebook, "passing", 400, AGAIN, body=meta_error(2, is_transient=True)),
    Row(ask_facebook, "unknown, passing", 400, AGAIN, body=meta_error(99999, is_transient=True)),
    Row(ask_facebook, "unknown, for good", 400, "final", body=meta_error(99999, is_transient=False)),
    Row(ask_facebook, "500", 500, "retry", body=meta_error(1)),
    Row(ask_facebook, "503", 503, "retry", body=meta_error(2, is_transient=True)),
    Row(ask_facebook, "429 with a hint", 429, "not now", {"Retry-After": "7"}, meta_error(4), UNASKED),
]

# https://developer.hashicorp.com/vault/api-docs#http-status-codes: 412 is to be retried.
# Only the class of an exception says which status it was.
HVAC = [
    Row(ask_hvac, str(status), status, "final", body={"errors": ["no"]})
    for status in (400, 401, 403, 404)  # of a 405 nothing is kept
]
HVAC += [Row(ask_hvac, str(status), status, "retry", body={"errors": ["no"]}) for status in (500, 502, 503)]
HVAC += [
    Row(ask_hvac, "412", 412, AGAIN, body={"errors": ["required index state not present"]}),
    Row(ask_hvac, "429", 429, "not now", {"Retry-After": "7"}, {"errors": ["no"]}, UNASKED),
]

# https://core.telegram.org/bots/api#making-requests, #responseparameters
TELEGRAM = [
    Row(
        ask,
        f"{code} {description}",
        code,
        expected,
        body=telegram_error(code, description, **more),
        after=after,
    )
    for ask in (ask_telegram, ask_aiogram)
    for code, description, expected, more, after in [
        (429, "Too Many Requests: retry after 35", "not now", {"retry_after": 35}, 35),
        (400, "Bad Request: chat not found", "final", {}, None),
        (400, "Bad Request: message text is empty", "final", {}, None),
        (400, "Bad Request: group chat was upgraded", "final", {"migrate_to_chat_id": -100}, None),
        (401, "Unauthorized", "final", {}, None),
        (403, "Forbidden: bot was blocked by the user", "final", {}, None),
        (404, "Not Found", "final", {}, None),
        (500, "Internal Server Error", "retry", {}, None),
        (502, "Bad Gateway", "retry", {}, None),
    ]
]

# https://discord.com/developers/docs/topics/rate-limits
DISCORD = [
    Row(
        ask_discord,
        "429",
        429,
        "not now",
        {"Retry-After": "65"},
        {"message": "no", "retry_after": 64.57},
        UNASKED,
    ),
    Row(
        ask_discord,
        "429 reset",
        429,
        "not now",
        {"X-RateLimit-Reset-After": "3.5", "X-RateLimit-Reset": in_seconds(3), "X-RateLimit-Remaining": "0"},
        {"message": "no"},
        3.5,
    ),
    *(
        Row(ask_discord, str(status), status, "final", body={"code": 50013, "message": "no"})
        for status in (400, 403)
    ),
    Row(ask_discord, "404", 404, "final", body={"code": 10003, "message": "no"}),
    *(
        Row(ask_discord, str(status), status, "retry", body={"code": 0, "message": "no"})
        for status in (500, 503)
    ),
]

# databricks.sdk._base_client._BaseClient._is_retryable, databricks.sdk.errors.customizer: else a second
DATABRICKS = [
    Row(
        ask_databricks,
        f"{status} {code}",
        status,
        expected,
        headers,
        {"error_code": code, "message": "no"},
        after,
    )
    for status, code, expected, headers, after in [
        (429, "REQUEST_LIMIT_EXCEEDED", "not now", {"Retry-After": "7"}, 7),
        (429, "RESOURCE_EXHAUSTED", "not now", {}, 1),
        (503, "TEMPORARILY_UNAVAILABLE", AGAIN, {"Retry-After": "5"}, 5),
        (500, "INTERNAL_ERROR", "retry", {}, None),
        (504, "DEADLINE_EXCEEDED", "retry", {}, None),
        (400, "INVALID_PARAMETER_VALUE", "final", {}, None),
        (400, "RESOURCE_DOES_NOT_EXIST", "final", {}, None),
        (401, "UNAUTHENTICATED", "final", {}, None),
        (403, "PERMISSION_DENIED", "final", {}, None),
        (404, "RESOURCE_DOES_NOT_EXIST", "final", {}, None),
        (409, "RESOURCE_ALREADY_EXISTS", "final", {}, None),
    ]
]

# qdrant_client.http.api_client.ApiClient.send_inner
QDRANT = [Row(ask_qdrant, str(status), status, "final") for status in (400, 401, 403, 404)]
QDRANT += [Row(ask_qdrant, str(status), status, "retry") for status in (500, 503)]
QDRANT += [
    Row(ask_qdrant, "429", 429, "not now"),
    Row(ask_qdrant, "429 with a hint", 429, "not now", {"Retry-After": "6"}, after=6),
]

# https://support.reddithelp.com/hc/en-us/articles/16160319875092: x-ratelimit-reset is in seconds from now
PRAW = [Row(ask_praw, str(status), status, "final") for status in (400, 403, 404, 413)]
PRAW += [Row(ask_praw, str(status), status, "retry") for status in (500, 502, 503, 504, 520, 522)]
REDDIT = {"x-ratelimit-remaining": "0.0", "x-ratelimit-used": "996", "x-ratelimit-reset": "300"}
PRAW += [
    Row(ask_praw, "429", 429, "not now", {"Retry-After": "7"}, after=7),
    Row(ask_praw, "429 reset", 429, "not now", REDDIT, after=300),
    Row(ask_praw, "429 alone", 429, "not now"),
]

XMLRPC = [
    Row(ask_xmlrpc, "429", 429, "not now", {"Retry-After": "7"}, after=7),
    Row(ask_xmlrpc, "503", 503, AGAIN, {"Retry-After": "5"}, after=5),
    *(Row(ask_xmlrpc, str(status), status, "final") for status in (401, 403, 404)),
    *(Row(ask_xmlrpc, str(status), status, "retry") for status in (500, 502)),
]

# https://developers.hubspot.com/docs/api-reference/error-handling: 423, 477 and their waits
HUBSPOT = [
    Row(
        ask_hubspot,
        "429",
        429,
        "not now",
        body={"errorType": "RATE_LIMIT", "policyName": "TEN_SECONDLY_ROLLING"},
    ),
    Row(ask_hubspot, "423", 423, AGAIN),
    Row(ask_hubspot, "423 with a hint", 423, "not now", {"Retry-After": "2"}, after=2),
    Row(ask_hubspot, "477", 477, "not now", {"Retry-After": "86400"}, after=86400),
    *(Row(ask_hubspot, str(status), status, "final") for status in (400, 401, 403, 404)),
    *(Row(ask_hubspot, str(status), status, "retry") for status in (502, 503, 504, 521, 522, 523, 524)),
]

# https://developer.atlassian.com/cloud/jira/platform/rate-limiting
ATLASSIAN = [
    row
    for ask in (ask_jira, ask_atlassian)
    for row in [
        Row(ask, "429", 429, "not now", {"Retry-After": "7"}, after=7),
        Row(ask, "429 date", 429, "not now", {"X-RateLimit-Reset": SOON}, after=FAR),
        *(Row(ask, str(status), status, "final") for status in (400, 401, 403, 404)),
        Row(ask, "503", 503, "retry"),
        Row(ask, "503 with a hint", 503, AGAIN, {"Retry-After": "7"}, after=7),
    ]
]

# https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/errorcodes.htm
SALESFORCE = [
    Row(ask_salesforce, code, status, expected, body=[{"message": "no", "errorCode": code}])
    for status, code, expected in [
        (400, "UNABLE_TO_LOCK_ROW", AGAIN),
        (400, "MALFORMED_QUERY", "final"),
        (400, "DUPLICATE_VALUE", "final"),
        (400, "REQUIRED_FIELD_MISSING", "final"),
        (401, "INVALID_SESSION_ID", "final"),
        (403, "INSUFFICIENT_ACCESS", "final"),
        (404, "NOT_FOUND", "final"),
        (500, "UNKNOWN_EXCEPTION", "retry"),
        (503, "SERVER_UNAVAILABLE", "retry"),
    ]
]

# https://kubernetes.io/docs/reference/using-api/api-concepts; client-go, rest/with_retry.go: Retry-After
KUBERNETES = [
    Row(
        ask_kubernetes,
        f"{status} {reason}",
        status,
        expected,
        headers,
        {"kind": "Status", "reason": reason},
        after,
    )
    for status, reason, expected, headers, after in [
        (429, "TooManyRequests", "not now", {"Retry-After": "1"}, 1),
        (500, "InternalError", "retry", {}, None),
        (503, "ServiceUnavailable", "retry", {}, None),
        (504, "Timeout", "retry", {}, None),
        (401, "Unauthorized", "final", {}, None),
        (403, "Forbidden", "final", {}, None),
        (404, "NotFound", "final", {}, None),
        (409, "AlreadyExists", "final", {}, None),
        (410, "Expired", "final", {}, None),
        (422, "Invalid", "final", {}, None),
    ]
]

# Each with the status, and with Retry-After, under names of its own.
OTHERS = [
    row
    for ask in (
        ask_asana,
        ask_docker,
        ask_influxdb,
        ask_meilisearch,
        ask_spotipy,
        ask_tweepy,
        ask_zenpy,
        ask_shopify,
    )
    for row in [
        Row(ask, "404", 404, "final", body={"message": "no"}),
        Row(ask, "403", 403, "final", body={"message": "no"}),
        Row(ask, "503", 503, "retry", body={"message": "no"}),
        Row(ask, "429", 429, "not now", body={"message": "no"}),
    ]
]
OTHERS += [
    Row(ask, "429 with a hint", 429, "not now", {"Retry-After": "7"}, {"message": "no"}, 7)
    for ask in (ask_asana, ask_docker, ask_influxdb, ask_spotipy, ask_zenpy, ask_shopify)
]
OTHERS += [
    # https://docs.x.com/x-api/fundamentals/rate-limits
    Row(
        ask_tweepy,
        "429 reset",
        429,
        "not now",
        {"x-rate-limit-limit": "75", "x-rate-limit-remaining": "0", "x-rate-limit-reset": in_seconds(FAR)},
        after=FAR,
    ),
    # https://shopify.dev/docs/api/usage/limits
    Row(ask_shopify, "429 fraction", 429, "not now", {"Retry-After": "2.0"}, after=2),
    Row(ask_shopify, "422", 422, "final"),
]

ROWS = [
    *GITHUB,
    *GITLAB,
    *SLACK,
    *STRIPE,
    *TWILIO,
    *SENDGRID,
    *NOTION,
    *AZURE,
    *COSMOS,
    *GOOGLE,
    *GOOGLE_AUTH,
]
ROWS += [
    *ELASTICSEARCH,
    *FACEBOOK,
    *HVAC,
    *TELEGRAM,
    *DISCORD,
    *DATABRICKS,
    *QDRANT,
    *PRAW,
    *XMLRPC,
    *HUBSPOT,
]
ROWS += [*ATLASSIAN, *SALESFORCE, *KUBERNETES, *OTHERS]


def raised(call: Callable[..., object], *args: object) -> Exception:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how it calls others is its own business
        with pytest.raises(Exception) as caught:  # noqa: PT011  # each client raises its own
            call(*args)
    return caught.value


def meaning(exception: Exception) -> str:
    verdict = transient(exception)
    return "not now" if isinstance(verdict, NotNow) else "retry" if verdict else "final"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that answers as it is told."""
    with answering() as server:
        yield server


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.ask.__name__.removeprefix('ask_')}-{row.name}")
def test_an_answer_says_whether_to_ask_again_and_when(server: Server, row: Row) -> None:
    """Wherever the client has put its status, its code and its headers (U1, U2, U3)."""
    body = row.body if isinstance(row.body, bytes) else json.dumps(row.body or {}).encode()
    server.answer(row.status, row.headers, body)
    exception = raised(row.ask, server.url)
    assert not isinstance(exception, (AssertionError, AttributeError, NameError)), repr(exception)
    expected = row.expected if isinstance(row.expected, set) else {row.expected}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no deprecated attribute is looked at
        assert meaning(exception) in expected
        after = retry_after(exception)
    if row.after == FAR:
        assert after is not None
        assert FAR - TOLERANCE <= after <= FAR + 1
    elif row.after != UNASKED:
        assert row.after == after


# -- exceptions without an answer ------------------------------------------------------------------


def telethon_error(code: int, message: str) -> Exception:
    rpc_error = library("telethon.tl.types").RpcError(error_code=code, error_message=message)
    error: Exception = library("telethon.errors").rpc_message_to_error(rpc_error, None)
    return error


@pytest.mark.parametrize(
    ("code", "message", "expected", "after"),
    [
        (420, "FLOOD_WAIT_33", "not now", 33.0),
        (420, "SLOWMODE_WAIT_10", "not now", 10.0),
        (420, "FLOOD_PREMIUM_WAIT_5", "not now", 5.0),
        (420, "TAKEOUT_INIT_DELAY_86400", "not now", 86400.0),
        (400, "PASSWORD_TOO_FRESH_120", "not now", 120.0),
        (400, "USERNAME_NOT_OCCUPIED", "final", None),
        (400, "PEER_ID_INVALID", "final", None),
        (401, "AUTH_KEY_UNREGISTERED", "final", None),
        (403, "CHAT_WRITE_FORBIDDEN", "final", None),
        (406, "AUTH_KEY_DUPLICATED", "final", None),
        (500, "RPC_CALL_FAIL", "retry", None),
        (-503, "Timeout", "retry", None),
    ],
)
def test_telethon_puts_the_code_of_telegram_on_its_exceptions(
    code: int, message: str, expected: str, after: float | None
) -> None:
    """They are like those of HTTP, and 420 is a flood.

    https://core.telegram.org/api/errors
    """
    error = telethon_error(code, message)
    assert (expected, after) == (meaning(error), retry_after(error))


def limited() -> None:
    """Call something once too often."""

    @library("ratelimit").limits(calls=1, period=900)  # type: ignore[untyped-decorator]
    def call() -> None:
        pass

    call()
    call()


def dropbox_error(name: str, *args: object, **kwargs: object) -> Exception:
    error: Exception = getattr(library("dropbox.exceptions"), name)("id", *args, **kwargs)
    return error


def too_many_writes() -> Exception:
    files = library("dropbox.files")
    reason = files.UploadWriteFailed(files.WriteError.too_many_write_operations, "id")
    return dropbox_error("ApiError", files.UploadError.path(reason), None, None)


def google_auth_error(name: str, *args: object, **kwargs: object) -> Exception:
    error: Exception = getattr(library("google.auth.exceptions"), name)(*args, **kwargs)
    return error


HINTS = [
    ("discord", lambda: library("discord").RateLimited(64.5), 64.5),
    ("telegram", lambda: library("telegram.error").RetryAfter(35), 35.0),
    ("telegram timedelta", lambda: library("telegram.error").RetryAfter(timedelta(seconds=35)), 35.0),
    ("dropbox", lambda: dropbox_error("RateLimitError", backoff=300), 300.0),
    ("dropbox without", lambda: dropbox_error("RateLimitError", backoff=None), None),
    ("ratelimit", lambda: raised(limited), 900.0),
    (
        "qdrant",
        lambda: library("qdrant_client.common.client_exceptions").ResourceExhaustedResponse("m", 6),
        6.0,
    ),
    ("databricks", lambda: library("databricks.sdk.errors").TooManyRequests("m", retry_after_secs=7), 7.0),
    ("hvac", lambda: library("hvac.exceptions").RateLimitExceeded("m"), None),
]


@pytest.mark.parametrize(("make", "after"), [row[1:] for row in HINTS], ids=[row[0] for row in HINTS])
def test_a_client_may_have_read_the_hint_itself(make: Callable[[], Exception], after: float | None) -> None:
    """Then it is a number on the exception, and there is no answer (U2, U3)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how a client makes it is its own business
        error = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "not now" == meaning(error)
        assert (after if after is None else pytest.approx(after, abs=1.0)) == retry_after(error)


def cut_off(ask: Callable[[str], None]) -> Exception:
    """Return what a client raises if nothing listens."""
    with closing(library("socket").socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        return raised(ask, f"http://127.0.0.1:{taken.getsockname()[1]}")


CLIENTS = [ask_aiogram, ask_atlassian, ask_azure, ask_bigquery, ask_docker, ask_elasticsearch, ask_facebook]
CLIENTS += [
    ask_github,
    ask_gitlab,
    ask_googleapiclient,
    ask_google_auth,
    ask_google_storage,
    ask_hubspot,
    ask_hvac,
]
CLIENTS += [ask_influxdb, ask_jira, ask_kubernetes, ask_meilisearch, ask_notion, ask_opensearch, ask_qdrant]
CLIENTS += [
    ask_sendgrid,
    ask_shopify,
    ask_slack,
    ask_spotipy,
    ask_stripe,
    ask_telegram,
    ask_twilio,
    ask_xmlrpc,
]


@pytest.mark.parametrize("ask", CLIENTS, ids=lambda ask: ask.__name__.removeprefix("ask_"))
def test_a_service_that_is_not_there_may_come_back(ask: Callable[[str], None]) -> None:
    """Whatever the client makes of it; google-auth says that its own is not `retryable` (U1)."""
    error = cut_off(ask)
    assert ("retry", None) == (meaning(error), retry_after(error))


PLAIN = [
    ("dropbox 503", lambda: dropbox_error("InternalServerError", 503, "no"), "retry"),
    ("dropbox 401", lambda: dropbox_error("AuthError", None), "final"),
    ("dropbox 400", lambda: dropbox_error("BadInputError", "no"), "final"),
    # https://dropbox-sdk-python.readthedocs.io: "Please retry this request."
    ("dropbox too many writes", too_many_writes, AGAIN),
    ("google-auth refresh, passing", lambda: google_auth_error("RefreshError", "no", retryable=True), AGAIN),
    (
        "google-auth refresh",
        lambda: google_auth_error("RefreshError", "invalid_grant", retryable=False),
        "final",
    ),
    ("google-auth nothing found", lambda: google_auth_error("DefaultCredentialsError", "no"), "final"),
    # google.api_core.retry.if_transient_error retries it, whatever its `retryable` says.
    ("google-auth transport", lambda: google_auth_error("TransportError", "no"), "retry"),
    ("telegram network", lambda: library("telegram.error").NetworkError("httpx.ReadError: "), "retry"),
    ("telegram timed out", lambda: library("telegram.error").TimedOut(), "retry"),
    ("telegram bad request", lambda: library("telegram.error").BadRequest("Chat not found"), "final"),
    ("telegram blocked", lambda: library("telegram.error").Forbidden("bot was blocked by the user"), "final"),
    ("telegram token", lambda: library("telegram.error").InvalidToken("no"), "final"),
    # praw.reddit.Reddit._handle_rate_limit
    ("praw", lambda: praw_error("RATELIMIT", "Take a break for 5 minutes before trying again."), "not now"),
]


def praw_error(kind: str, message: str) -> Exception:
    error: Exception = library("praw.exceptions").RedditAPIException([[kind, message, "ratelimit"]])
    return error


@pytest.mark.parametrize(("make", "expected"), [row[1:] for row in PLAIN], ids=[row[0] for row in PLAIN])
def test_a_class_or_an_attribute_may_be_all_there_is(make: Callable[[], Exception], expected: Any) -> None:
    """Some exceptions have no answer behind them, and say what they mean by their kind (U1, U3)."""
    assert meaning(make()) in (expected if isinstance(expected, set) else {expected})
