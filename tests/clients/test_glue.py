"""AWS Glue refuses to start a job that runs already: it is asked again until each run has started, once.

The service is moto's, over HTTP. Its runs last until they were looked at twice; with that, the test is
what passes the time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

import pages
from conftest import TIMEOUT
from observe import eventually
from retrying_executor import NotNow, RetryingExecutor, RetryingFuture, RetryPolicy, Upstream


def library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed")


boto3 = library("boto3")
botocore = library("botocore.config")
moto = library("moto.server")
state_manager = library("moto.moto_api").state_manager

KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
JOB = "nightly"
RUNS = 40
SUBMITTERS = 4


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@contextmanager
def client(service: str, url: str) -> Iterator[Any]:
    """Yield a client that does not retry by itself."""
    config = botocore.Config(retries={"total_max_attempts": 1}, proxies={})
    with closing(boto3.client(service, endpoint_url=url, config=config, **KEYS)) as made:
        yield made


@pytest.fixture
def glue(url: str) -> Iterator[Any]:
    """A client of Glue with one job, of which one run at a time is allowed."""
    state_manager.set_transition("glue::job_run", {"progression": "manual", "times": 1})
    with client("glue", url) as glue:
        glue.create_job(
            Name=JOB, Role="role", Command={"Name": "glueetl"}, ExecutionProperty={"MaxConcurrentRuns": 1}
        )
        yield glue
        glue.delete_job(JobName=JOB)
    state_manager.unset_transition("glue::job_run")


@pytest.fixture
def s3(url: str) -> Iterator[Any]:
    """A client of S3 with one bucket."""
    with client("s3", url) as s3:
        s3.create_bucket(Bucket="files")
        yield s3


def start_from_many_threads(calls: Any, glue: Any) -> list[RetryingFuture[dict[str, str]]]:
    """Submit the start of each run, from several threads at once."""
    together = threading.Barrier(SUBMITTERS)
    futures: list[RetryingFuture[dict[str, str]]] = []

    def submit(numbers: range) -> None:
        together.wait(TIMEOUT)
        for number in numbers:
            arguments = {"--number": str(number)}
            futures.append(calls.submit(glue.start_job_run, JobName=JOB, Arguments=arguments))

    threads = [
        threading.Thread(target=submit, args=(range(first, RUNS, SUBMITTERS),)) for first in range(SUBMITTERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert RUNS == len(futures)
    return futures


def runs(glue: Any) -> list[dict[str, Any]]:
    """Return all runs of the job; by being looked at they go on, from starting to running to succeeded."""
    found: list[dict[str, Any]] = glue.get_job_runs(JobName=JOB)["JobRuns"]
    return found


def done(futures: list[RetryingFuture[dict[str, str]]]) -> int:
    return sum(future.done() for future in futures)


def check_each_run_was_started_once(glue: Any, futures: list[RetryingFuture[dict[str, str]]]) -> None:
    started = runs(glue)
    assert [str(n) for n in range(RUNS)] == sorted((r["Arguments"]["--number"] for r in started), key=int)
    assert {run["Id"] for run in started} == {future.result(TIMEOUT)["JobRunId"] for future in futures}


def test_runs_that_are_refused_start_later_and_keep_nobody_waiting(glue: Any, s3: Any) -> None:
    """Forty runs of a job that allows one at a time: refusals use up no attempt and hold no thread (U3, U4).

    While the first of them occupies the job, calls to S3 and plain ones get through.
    """
    service = Upstream("glue", max_concurrency=2, initial_hold=0.05, max_hold=0.2)
    policy = RetryPolicy(max_attempts=2, initial_delay=0.05, max_delay=0.2)
    with RetryingExecutor(4, retry=policy, idle_timeout=0) as executor:
        futures = start_from_many_threads(executor.with_options(upstream=service), glue)
        # The first run does not end: the others are refused again and again.
        assert eventually(lambda: any(future.attempts > 2 for future in futures))
        files = executor.with_options(upstream=Upstream("s3"))
        assert 42 == executor.submit(int, "42").result(TIMEOUT)
        files.submit(s3.put_object, Bucket="files", Key="key", Body=b"42").result(TIMEOUT)
        assert 1 == done(futures)
        refused = max(futures, key=lambda future: future.attempts)
        code = refused.last_exception.response["Error"]["Code"]  # type: ignore[union-attr]
        assert "ConcurrentRunsExceededException" == code

        service.pause()
        assert eventually(lambda: executor.stats().held == RUNS - 1)
        assert eventually(lambda: executor.stats().threads <= 1)
        assert b"42" == files.submit(s3.get_object, Bucket="files", Key="key").result(TIMEOUT)["Body"].read()
        assert 1 == done(futures)
        service.resume()

        assert eventually(lambda: runs(glue) and done(futures) == RUNS)
        check_each_run_was_started_once(glue, futures)
        assert (RUNS + 3, 0) == (executor.stats().succeeded, executor.stats().failed)


def test_one_refusal_holds_the_others_back(glue: Any) -> None:
    """With an upstream for the job, and a time to wait, one call asks for all (U3, U5)."""

    def refused(error: Exception) -> NotNow | bool:
        return isinstance(error, glue.exceptions.ConcurrentRunsExceededException) and NotNow(after=1)

    job = Upstream(f"glue job {JOB}", max_concurrency=1)
    policy = RetryPolicy(max_attempts=1, retry_on=refused, initial_delay=0)
    with RetryingExecutor(4, upstream=job, retry=policy, idle_timeout=0) as executor:
        futures = start_from_many_threads(executor, glue)
        assert eventually(lambda: any(future.last_exception for future in futures))
        assert sum(future.attempts > 0 for future in futures) < RUNS
        assert eventually(lambda: executor.stats().threads <= 1)
        assert eventually(lambda: done(futures) == 1)

        assert eventually(lambda: runs(glue) and job.resume() is None and done(futures) == RUNS)
        check_each_run_was_started_once(glue, futures)


@pytest.fixture
def _time_passes(glue: Any) -> Iterator[None]:
    """Let all runs go on, meanwhile."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            runs(glue)

    thread = threading.Thread(target=look)
    thread.start()
    yield
    over.set()
    thread.join(TIMEOUT)


@pytest.mark.usefixtures("_time_passes")
def test_how_to_start_jobs(glue: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page does what it says; with less patience, or it would take minutes (U3, U4)."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    for name, value in KEYS.items():
        monkeypatch.setenv({"region_name": "aws_default_region"}.get(name, name).upper(), value)
    page = pages.HOW_TO / "aws-glue.md"
    program = pages.run(page, {"after=30": "after=0.1", 'JobName="import"': f'JobName="{JOB}"'})
    started = runs(glue)
    assert [f"2025-03-0{day}" for day in range(1, 7)] == sorted(run["Arguments"]["--day"] for run in started)
    assert {run["Id"] for run in started} == set(program["run_ids"])
