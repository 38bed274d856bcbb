"""s3transfer, which boto3 moves files with, constructs its executors and shuts them down by position."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import TIMEOUT
from retrying_executor import RetryingExecutor, RetryPolicy

boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
manager = pytest.importorskip("s3transfer.manager", reason="boto3 is not installed")
moto = pytest.importorskip("moto.server", reason="moto is not installed")

MIB = 1024 * 1024


@pytest.fixture
def s3() -> Iterator[Any]:
    """A client of a server on loopback."""
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys)
    yield client
    client.close()
    server.stop()


def test_file_goes_up_and_down_in_parts(s3: Any, tmp_path: Path) -> None:
    """A TransferManager with ``executor_cls=RetryingExecutor`` moves a file in several parts (A5)."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(os.urandom(11 * MIB))
    s3.create_bucket(Bucket="files")
    config = manager.TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    with manager.TransferManager(s3, config, executor_cls=RetryingExecutor) as transfers:
        transfers.upload(str(source), "files", "key").result()
        transfers.download("files", "key", str(copy)).result()
    assert source.read_bytes() == copy.read_bytes()
    assert s3.head_object(Bucket="files", Key="key")["ETag"].endswith('-3"')


def test_refused_call_is_made_again(s3: Any, policy: RetryPolicy) -> None:
    """A call to S3 that fails is made again; here the policy makes up for what it lacks (A5, B1)."""

    def create(error: Exception) -> bool:
        s3.create_bucket(Bucket=error.response["Error"]["BucketName"])  # type: ignore[attr-defined]
        return True

    with RetryingExecutor(1, retry=policy.replace(retry_on=create)) as executor:
        future = executor.submit(s3.put_object, Bucket="missing", Key="key", Body=b"42")
        assert 200 == future.result(TIMEOUT)["ResponseMetadata"]["HTTPStatusCode"]
    assert 2 == future.attempts
