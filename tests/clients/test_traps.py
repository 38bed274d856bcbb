"""What users ran into: other libraries that get in the way, and what the pages say to do about it."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys

import pytest

import pages
from conftest import TIMEOUT
from retrying_executor import RetryingExecutor, RetryPolicy

# -- freezegun -------------------------------------------------------------------------------------

FROZEN = """
import asyncio
import datetime
import freezegun
from freezegun import freeze_time
from retrying_executor import RetryingExecutor, RetryPolicy, Upstream
from retrying_executor.testing import VirtualTimeExecutor

refusals = [ConnectionError("try again later"), ConnectionError("try again later")]

def fails_twice():
    if refusals:
        raise refusals.pop()
    return datetime.datetime.now().year

async def sleeps():
    await asyncio.sleep(0.01)
    return datetime.datetime.now().year

{configure}
with {freeze}:
    upstream = Upstream("api", rate=(2, 0.1))
    with {executor}(upstream=upstream, retry=RetryPolicy(delays=[0.01, 0.01])) as executor:
        calls = [fails_twice, sleeps, sleeps, sleeps, sleeps]
        years = {{executor.submit(call).result(60) for call in calls}}
assert years == {{2030}}, years
"""
CONFIGURE, FREEZE = re.findall(
    r"`(freezegun\.configure\(.*?\)|freeze_time\(.*?\))`", pages.text_of(pages.HOW_TO / "testing.md")
)


@pytest.mark.parametrize(
    ("configure", "freeze", "executor"),
    [(CONFIGURE, FREEZE, "RetryingExecutor"), ("", "freeze_time('2030-01-01')", "VirtualTimeExecutor")],
    ids=["as on the page", "virtual time"],
)
def test_frozen_date_stops_no_call(configure: str, freeze: str, executor: str) -> None:
    """Retries, rates and coroutines go on under freezegun; calls see the date that it says."""
    pytest.importorskip("freezegun", reason="freezegun is not installed")
    source = FROZEN.format(configure=configure, freeze=freeze, executor=executor)
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, timeout=TIMEOUT, check=False, encoding="utf-8"
    )
    assert (0, "") == (done.returncode, done.stderr)


# -- asyncio ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy", [None, RetryPolicy(give_up_on=socket.gaierror)], ids=["no retries", "give_up_on"]
)
def test_wrong_host_name_fails_at_once(policy: RetryPolicy | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the default executor of a loop, one of these looks a name up once (A5)."""
    asked = []

    def look_up(host: str, *_: object) -> None:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(RetryingExecutor(retry=policy))
        with pytest.raises(socket.gaierror):
            await asyncio.wait_for(asyncio.open_connection("shop.invalid", 443), TIMEOUT)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    asyncio.run(main())
    assert ["shop.invalid"] == asked
