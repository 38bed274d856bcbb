"""Retries of clients: what the page about choosing a policy says turns them off does so."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from http import HTTPStatus
from typing import Any

import pytest
from verdicts import library

import pages
from services import Answer, service

PAGE = pages.HOW_TO / "choosing-a-policy.md"

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"  # clients leave sockets to the collector
)


def ask_anthropic(url: str, **options: Any) -> None:
    with library("anthropic").Anthropic(api_key="k", base_url=url, **options) as client:
        client.models.list()


def ask_boto3(url: str, **options: Any) -> None:
    config = library("botocore.config").Config(proxies={}, **options)
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    with closing(library("boto3").client("glue", endpoint_url=url, config=config, **keys)) as client:
        client.get_jobs()


def ask_github(url: str, **options: Any) -> None:
    github = library("github")
    with closing(github.Github(base_url=url, **options)) as client:
        client.get_user("x")


def ask_httpx(url: str) -> None:
    library("httpx").get(url)


def ask_hubspot(url: str, **options: Any) -> None:
    contacts = library("hubspot").HubSpot(access_token="t", **options).crm.contacts.basic_api
    contacts.api_client.configuration.host = url
    contacts.get_by_id("1")


def ask_openai(url: str, **options: Any) -> None:
    with library("openai").OpenAI(api_key="k", base_url=url, **options) as client:
        client.models.list()


def ask_requests(url: str) -> None:
    library("requests").get(url).close()


def ask_slack(url: str) -> None:
    library("slack_sdk").WebClient("t", base_url=f"{url}/").api_test()


def ask_urllib3(url: str, **options: Any) -> None:
    with library("urllib3").PoolManager(**options) as pool:
        pool.request("GET", url)


def no_retry() -> object:
    return library("urllib3").Retry(0)


def requests_of(ask: Callable[..., object], status: int, **options: Any) -> int:
    """Return how many requests a client makes of one call that is answered like this, naming a time."""
    error = None
    with service(lambda path, sent: Answer(status=status, retry_after=0)) as server:
        try:
            ask(server.url, **options)
        except Exception as raised:
            error = raised
    assert server.paths, repr(error)  # it has not even asked
    return len(server.paths)


@pytest.mark.parametrize("status", [HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE])
@pytest.mark.parametrize(
    ("ask", "code", "options"),
    [
        (ask_openai, "OpenAI(max_retries=0)", lambda: {"max_retries": 0}),
        (ask_anthropic, "openai, anthropic", lambda: {"max_retries": 0}),
        (
            ask_boto3,
            'Config(retries={"total_max_attempts": 1})',
            lambda: {"retries": {"total_max_attempts": 1}},
        ),
        (ask_github, "Github(retry=None)", lambda: {"retry": None}),
        (ask_urllib3, "PoolManager(retries=False)", lambda: {"retries": False}),
        (ask_hubspot, "HubSpot(retry=urllib3.Retry(0))", lambda: {"retry": no_retry()}),
        (ask_requests, "requests, httpx, slack_sdk", dict),
        (ask_httpx, "requests, httpx, slack_sdk", dict),
        (ask_slack, "requests, httpx, slack_sdk", dict),
    ],
)
def test_without_retries_of_its_own_a_client_makes_one_request(
    ask: Callable[..., object], code: str, options: Callable[[], dict[str, Any]], status: int
) -> None:
    """As the page says."""
    assert code in pages.text_of(PAGE)
    assert 1 == requests_of(ask, status, **options())


@pytest.mark.parametrize("ask", [ask_urllib3, ask_hubspot])
def test_urllib3_retries_what_names_a_time_and_so_do_clients_that_use_it(ask: Callable[..., object]) -> None:
    """Unless it is told not to: that is why the page says so."""
    assert requests_of(ask, HTTPStatus.TOO_MANY_REQUESTS) > 1
