"""A live view, where it is lines: what they say, when they come, and that nothing else is affected."""

from __future__ import annotations

import gc
import io
import math
import os
import re
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import retrying_executor
from calls import Flaky
from conftest import TIMEOUT
from forks import in_child
from journals import killed, note
from observe import eventually, needs_gil, threads_named
from retrying_executor import RetryingExecutor, RetryPolicy, Stats, Upstream, UpstreamFamily, watch
from retrying_executor._common import exits
from retrying_executor._watch import progress as pure
from retrying_executor._watch.watch import Lines
from retrying_executor.testing import VirtualTimeExecutor

NOTHING = Stats(
    threads=0,
    running=0,
    ready=0,
    in_backoff=0,
    submitted=0,
    succeeded=0,
    failed=0,
    cancelled=0,
    retried=0,
    next_due_at=None,
)
UNTIL = r"(?: until \d\d:\d\d:\d\d| for \d+:\d\d:\d\d)?(?: \([^()]*\))?"
LINE = re.compile(
    r"\[\d+:\d\d:\d\d\] done (\d+)/(\d+), failed (\d+)(?:, ready (\d+))?, running (\d+)"
    rf"(?:, in backoff (\d+))?(?:, held (\d+){UNTIL})?(?:, at a limit (\d+){UNTIL})?"
    r"(?:, left by other processes (\d+))?, "
    r"(?:-|[\d.]+/s), ETA (?:-|\d+:\d\d:\d\d)"
)
LAST_LINE = re.compile(
    r"\[\d+:\d\d:\d\d\] ended: done (\d+)/(\d+), succeeded (\d+), failed (\d+), cancelled (\d+), "
    r"retried (\d+), took \d+\.\d s"
)


def stats(**numbers: Any) -> Stats:
    return Stats(**{**vars(NOTHING), **numbers})


def seen(
    first: Stats = NOTHING,
    *queues: pure.Queue,
    elapsed: float = 10,
    rate: float | None = None,
    kept: int = 0,
    **now: Any,
) -> pure.Progress:
    """Return the progress from one snapshot to another, the latter in numbers; the clock shows 1000."""
    last = stats(**now)
    return pure.progress(first, last, elapsed=elapsed, now=1000, rate=rate, queues=queues, kept=kept)


def held(name: str, calls: int = 1, until: float | None = None) -> pure.Queue:
    """Return the calls that wait for an upstream which is held."""
    return pure.Queue(name, calls, True, until)


def limited(name: str, calls: int = 1, until: float | None = None) -> pure.Queue:
    """Return the calls that wait for an upstream of which a limit is reached."""
    return pure.Queue(name, calls, False, until)


def numbers(pattern: re.Pattern[str], text: str) -> tuple[int, ...]:
    """Return the numbers in a text; 0 for those that are not shown."""
    match = pattern.fullmatch(text)
    assert match, text
    return tuple(int(number or 0) for number in match.groups())


# -- what is shown -------------------------------------------------------------------------------


def test_a_line_says_where_the_calls_stand() -> None:
    """Done out of all, then what is pending, the rate and how long the rest will take."""
    progress = seen(
        NOTHING,
        held("billing", 15, 1090),
        limited("mail", 5),
        elapsed=61,
        rate=2,
        succeeded=40,
        failed=2,
        cancelled=1,
        ready=30,
        running=4,
        in_backoff=3,
        held=20,
        next_due_at=1002,
    )
    noon = time.mktime((2025, 3, 1, 12, 0, 0, 0, 0, -1))
    assert (
        "[0:01:01] done 43/100, failed 2, ready 30, running 4, in backoff 3, "
        "held 15 until 12:01:30 (billing), at a limit 5 (mail), 2/s, ETA 0:00:29" == pure.line(progress, noon)
    )


def test_what_is_zero_and_rare_is_not_shown() -> None:
    """So that a line has room for what matters."""
    progress = seen(elapsed=61, rate=2, succeeded=40, running=4)
    assert "[0:01:01] done 40/44, failed 0, running 4, 2/s, ETA 0:00:02" == pure.line(progress, 0.0)


def test_a_line_is_not_much_longer_than_a_terminal_is_wide() -> None:
    """In a hold, which is when one looks; only rarely there is even more to say."""
    progress = seen(
        NOTHING,
        held("billing", 900, 1090),
        elapsed=601,
        rate=6.6,
        succeeded=1066,
        failed=2,
        running=4,
        in_backoff=3,
        held=900,
    )
    line = pure.line(progress, 0.0)
    assert re.search(r"running 4, in backoff 3, held 900 until ..:..:.. \(billing\), 6\.6/s", line)
    assert 120 > len(line)


def test_the_last_line_says_what_has_become_of_the_calls() -> None:
    """How many succeeded, failed and were cancelled, and how long it took."""
    progress = seen(elapsed=3725.04, succeeded=40, failed=2, cancelled=1, retried=17, ready=1)
    assert (
        "[1:02:05] ended: done 43/44, succeeded 40, failed 2, cancelled 1, retried 17, took 3725.0 s"
        == pure.last_line(progress)
    )


def test_held_calls_are_shown_with_the_time_of_day_they_are_held_until() -> None:
    """If that is known; the first hold that ends, whatever else is due sooner or later."""
    noon = time.mktime((2025, 3, 1, 12, 0, 0, 0, 0, -1))
    shown = partial(pure.pending, time_of_day=noon)
    now = {"held": 3, "next_due_at": 1001, "opens_at": 1001}
    assert "failed 0, running 0, held 3 until 12:01:30 (a)" == shown(seen(NOTHING, held("a", 3, 1090), **now))
    first = seen(NOTHING, held("a", 1, 1090), held("b", 2, 1030), **now)
    assert shown(first).endswith("held 3 until 12:00:30 (a, b)")
    assert shown(seen(NOTHING, held("a", 3, 990), **now)).endswith("held 3 until 12:00:00 (a)")
    assert shown(seen(NOTHING, held("a", 3, 1000 + 90000), **now)).endswith("held 3 for 25:00:00 (a)")
    assert shown(seen(NOTHING, held("a", 3), **now)).endswith("held 3 (a)")


def test_calls_that_wait_for_a_limit_are_not_called_held() -> None:
    """A limit lets calls through all the time; if not soon, it is shown when."""
    noon = time.mktime((2025, 3, 1, 12, 0, 0, 0, 0, -1))
    shown = partial(pure.pending, time_of_day=noon)
    at = seen(NOTHING, limited("a", 3, 1009), held=3)
    assert "failed 0, running 0, at a limit 3 (a)" == shown(at)
    assert shown(seen(NOTHING, limited("a", 3), held=3)).endswith("at a limit 3 (a)")
    assert shown(seen(NOTHING, limited("a", 3, 1010), held=3)).endswith("at a limit 3 until 12:00:10 (a)")
    both = seen(NOTHING, held("a", 4, 1090), limited("b", 2, 1001), held=6)
    assert shown(both).endswith("held 4 until 12:01:30 (a), at a limit 2 (b)")


def test_the_numbers_are_those_of_the_snapshot() -> None:
    """What is known of upstreams is a moment younger: calls may have gone, or come."""
    fewer = seen(NOTHING, limited("a", 7), held=3)
    assert (0, 3, 3) == (fewer.held, fewer.limited, fewer.total)
    more = seen(NOTHING, limited("a", 2), held=3)
    assert (1, 2, 3) == (more.held, more.limited, more.total)


def test_calls_in_the_journal_count_before_they_are_queued() -> None:
    """Those of processes that are gone are queued some hundreds at a time (J2)."""
    progress = seen(succeeded=20, rate=10, kept=980, ready=476, running=4)
    assert (20, 1000, 500, 98.0) == (progress.done, progress.total, progress.left, progress.eta)
    assert pure.pending(progress, 0.0) == "failed 0, ready 476, running 4, left by other processes 500"
    assert (0, 1020) == ((others := seen(succeeded=20, kept=980, ready=1000)).left, others.total)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["b"], "(b)"),
        (["b", "a"], "(a, b)"),
        (["b", "a", "b"], "(a, b)"),
        (["c", "b", "a"], "(a, b and 1 more)"),
        ([str(number) for number in range(1000)], "(0, 1 and 998 more)"),
        (["hosts[api.example.com]", "hosts[www.example.com]"], "(hosts[api.example.com] and 1 more)"),
        (["a" * 100], f"({'a' * 100})"),
    ],
)
def test_upstreams_are_named_as_far_as_there_is_room(names: list[str], expected: str) -> None:
    """There may be thousands of them (U7)."""
    for queue in (held, limited):
        waiting = seen(NOTHING, *map(queue, names), held=len(names))
        assert pure.pending(waiting, 0.0).endswith(f" {len(names)} {expected}")


def test_what_was_done_before_does_not_count() -> None:
    """What was pending does, and what is submitted later."""
    first = stats(succeeded=5, failed=4, cancelled=3, retried=2, ready=10, running=1)
    last = seen(first, succeeded=7, failed=5, cancelled=3, retried=4, ready=20)
    assert (3, 23) == (last.done, last.total)
    assert (2, 1, 0, 2) == (last.succeeded, last.failed, last.cancelled, last.retried)


@pytest.mark.parametrize(
    ("rate", "now", "eta"),
    [
        (2.0, {"succeeded": 10, "ready": 9, "running": 1}, 5.0),
        (2.0, {"succeeded": 10, "running": 1, "in_backoff": 5, "held": 4}, 5.0),
        (2.0, {"succeeded": 10}, 0.0),
        (2.0, {}, None),
        (0.0, {"ready": 9}, None),
        (None, {"ready": 9}, None),
        (2.0, {"succeeded": 10, "in_backoff": 5}, None),
        (2.0, {"succeeded": 10, "held": 5}, None),
    ],
)
def test_how_long_the_rest_will_take(rate: float | None, now: dict[str, int], eta: float | None) -> None:
    """That is not known before a call is done, nor while all that are left wait for a time."""
    assert eta == seen(rate=rate, **now).eta


@pytest.mark.parametrize(("until", "eta"), [(1001, 2.5), (1010, None), (None, None)])
def test_at_a_limit_the_rate_tells_how_long_the_rest_will_take(
    until: float | None, eta: float | None
) -> None:
    """As long as it lets calls through all the time: it may well be that none runs at the moment."""
    assert eta == seen(NOTHING, limited("a", 5, until), rate=2, succeeded=10, held=5).eta


COUNTS = st.integers(0, 10**9)


@given(
    st.lists(COUNTS, min_size=9, max_size=9),
    st.lists(COUNTS, min_size=4, max_size=4),
    st.floats(0, 1e9),
    st.none() | st.floats(0, 1e12),
    st.none() | st.floats(1e-9, 1e9),
    st.lists(
        st.builds(pure.Queue, st.sampled_from("abc"), COUNTS, st.booleans(), st.none() | st.floats(0, 1e12))
    ),
    COUNTS,
)
def test_any_progress_can_be_shown(
    more: list[int],
    before: list[int],
    elapsed: float,
    due_at: float | None,
    rate: float | None,
    queues: list[pure.Queue],
    kept: int,
) -> None:
    """Whatever the numbers, a line has the same form, and its numbers are those of the snapshots."""
    outcomes = ("succeeded", "failed", "cancelled", "retried")
    first = stats(**dict(zip(outcomes, before, strict=True)))
    last = [a + b for a, b in zip(before, more[:4], strict=True)]
    now = dict(zip((*outcomes, "ready", "running", "in_backoff", "held"), (*last, *more[4:8]), strict=True))
    progress = seen(first, *queues, elapsed=elapsed, rate=rate, kept=kept, next_due_at=due_at, **now)
    done, pending = sum(more[:3]), more[4:8]
    total = done + max(sum(pending), kept)
    held = (pending[3] - progress.limited, progress.limited)
    expected = (done, total, more[1], *pending[:3], *held, total - done - sum(pending))
    assert expected == numbers(LINE, pure.line(progress, float(more[8])))
    assert (done, total, *more[:4]) == numbers(LAST_LINE, pure.last_line(progress))


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (None, "-"),
        (0.0, "0/s"),
        (1e-5, "0/s"),
        (1 / 60, "0.0167/s"),
        (12.345, "12.3/s"),
        (999.4, "999/s"),
        (12345.6, "12346/s"),
    ],
)
def test_a_rate_has_three_digits(rate: float | None, text: str) -> None:
    """No powers of ten."""
    assert text == pure.per_second(rate)


# -- how fast it goes ----------------------------------------------------------------------------


def rates(*looks: tuple[float, int]) -> list[float | None]:
    """Return the rate at each look, which is a time and how many calls were finished by then."""
    pace = pure.Throughput(0.0)
    return [pace.rate(*look) for look in looks]


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    """What was before does not matter any more."""
    slow = [(float(second), second) for second in range(1, 61)]
    fast = [(60.0 + second, 60 + 100 * second) for second in range(1, 31)]
    found = rates(*slow, *fast)
    assert [1.0] * 60 == found[:60]
    assert 100.0 == found[-1]
    assert sorted(found[60:], key=lambda rate: rate or 0) == found[60:]


def test_the_rate_of_slow_calls_is_that_of_the_last_ten() -> None:
    """A call a minute is a sixtieth a second, whenever one looks; the first ones, since the beginning."""
    looks = [(20.0 * number, number // 3) for number in range(1, 181)]
    found = rates(*looks)
    assert [0.0, 0.0, 1 / 60] == found[:3]
    for rate in found[30:]:
        assert rate == pytest.approx(1 / 60, rel=0.1)
    assert 1 / 60 == pytest.approx(found[-1])


def test_a_lull_is_soon_forgotten() -> None:
    """An hour's hold shows in the rate until ten calls are done, or half a minute is over."""
    before = [(float(second), 10 * second) for second in range(1, 61)]
    after = [(3660.0 + second, 600 + 10 * second) for second in range(1, 31)]
    found = rates(*before, (3660.0, 600), (3660.5, 605), *after)
    assert [10 / 3601, 15 / 3601.5, 10 / 30, 20 / 30] == pytest.approx(found[60:64])
    assert 10.0 == pytest.approx(found[-1])


def test_no_rate_before_any_time_has_passed() -> None:
    """Nothing can be said then."""
    assert [None, 3.0] == rates((0.0, 1), (1.0, 3))


@given(st.lists(st.tuples(st.just(0) | st.floats(1e-6, 100), st.integers(0, 1000))))
def test_the_rate_is_never_absurd(steps: list[tuple[float, int]]) -> None:
    """It is zero or more, and no faster than what was finished since the last half minute began or before."""
    pace = pure.Throughput(0.0)
    now, finished = 0.0, 0
    for duration, count in steps:
        now, finished = now + duration, finished + count
        rate = pace.rate(now, finished)
        assert rate is None or 0 <= rate < math.inf
        assert rate is not None or not now
        assert rate is None or rate * min(now, 30.0) <= finished * 1.000001


# -- lines ---------------------------------------------------------------------------------------


def test_lines_come_and_the_last_one_has_it_all(executor: RetryingExecutor, policy: RetryPolicy) -> None:
    """What runs is shown while it runs; the end is shown after it (A3, G4)."""
    release = Event()
    file = io.StringIO()
    with watch(executor, interval=0.001, file=file):
        running = [executor.submit(release.wait, TIMEOUT) for _ in range(5)]
        assert eventually(lambda: "done 0/5, failed 0, ready 1, running 4," in file.getvalue())
        failing = executor.with_options(retry=None).submit(Flaky())
        flaky = executor.submit(Flaky())
        assert executor.submit(int).cancel()
        release.set()
        assert isinstance(failing.exception(TIMEOUT), ConnectionError)
        assert 1 == flaky.result(TIMEOUT)
        assert [True] * 5 == [future.result(TIMEOUT) for future in running]
    *lines, last = file.getvalue().splitlines()
    assert (8, 8, 6, 1, 1, 1) == numbers(LAST_LINE, last)
    done = [numbers(LINE, line)[0] for line in lines]
    assert sorted(done) == done


def test_nothing_is_repeated() -> None:
    """A line comes if there is news, and the time is none."""
    file = io.StringIO()
    lines = Lines(file, 1.0)
    lines.begin(seen(elapsed=0, ready=3))
    lines.show(seen(elapsed=1, ready=3, rate=0.0))
    lines.show(seen(elapsed=2, ready=2, running=1))
    lines.show(seen(elapsed=3, ready=2, running=1))
    lines.show(seen(elapsed=4, ready=2, succeeded=1))
    lines.end(seen(elapsed=5, ready=2, succeeded=1))
    lines.close()
    times = [line.split("]")[0] for line in file.getvalue().splitlines()]
    assert ["[0:00:02", "[0:00:04", "[0:00:05"] == times


def test_calls_that_are_held_are_shown_with_their_time(executor: RetryingExecutor) -> None:
    """An upstream that is held for a while says until when; one that no call waits for is not named (U5)."""
    service, idle = Upstream("service"), Upstream("idle")
    service.pause(3600)
    idle.pause(10)
    executor.with_options(upstream=idle)
    view = executor.with_options(upstream=service)
    file = io.StringIO()
    with watch(executor, interval=0.001, file=file):
        future = view.submit(int)
        assert eventually(
            lambda: re.search(r"held 1 until \d\d:\d\d:\d\d \(service\), 0/s, ETA -\n", file.getvalue())
        )
        service.resume()
        assert 0 == future.result(TIMEOUT)


def test_a_hold_without_an_end_shows_no_time(executor: RetryingExecutor) -> None:
    """It lasts until resume() (U5)."""
    service = Upstream("service")
    service.pause()
    file = io.StringIO()
    with watch(executor, interval=0.001, file=file):
        future = executor.with_options(upstream=service).submit(int)
        assert eventually(lambda: ", held 1 (service), 0/s, ETA -\n" in file.getvalue())
        assert future.cancel()


def test_the_hold_of_one_service_is_not_mixed_up_with_the_limit_of_another(
    executor: RetryingExecutor,
) -> None:
    """Neither in number nor in time; also if what waits are coroutines (U1, U5, K1)."""
    down, busy = Upstream("down"), Upstream("busy", rate=(1, 100_000))
    down.pause(3600)
    file = io.StringIO()

    async def call() -> int:
        return 1

    with watch(executor, interval=0.001, file=file):
        futures = [executor.with_options(upstream=down).submit(call) for _ in range(2)]
        futures += [executor.with_options(upstream=busy).submit(call) for _ in range(4)]
        ends = r", held 2 until \d\d:\d\d:\d\d \(down\), at a limit 3 for 27:46:\d\d \(busy\), "
        assert eventually(lambda: re.search(rf"done 1/6, failed 0, running 0{ends}", file.getvalue()))
        assert 5 == sum(future.cancel() for future in futures)


def test_a_limit_that_is_reached_is_named(executor: RetryingExecutor) -> None:
    """Nobody knows when a running attempt ends (U1)."""
    service = Upstream("service", max_concurrency=1)
    view = executor.with_options(upstream=service)
    file = io.StringIO()
    release = Event()
    with watch(executor, interval=0.001, file=file):
        futures = [view.submit(release.wait, TIMEOUT) for _ in range(3)]
        assert eventually(lambda: ", running 1, at a limit 2 (service), 0/s, ETA -\n" in file.getvalue())
        release.set()
        assert [True] * 3 == [future.result(TIMEOUT) for future in futures]


def test_of_a_family_only_those_that_calls_wait_for_are_asked(executor: RetryingExecutor) -> None:
    """However many upstreams there are (U7)."""
    hosts = UpstreamFamily("hosts")
    file = io.StringIO()
    for number in range(100):
        hosts[str(number)].pause()
        executor.with_options(upstream=hosts[str(number)])
    with watch(executor, interval=0.001, file=file):
        futures = [executor.with_options(upstream=hosts[str(number)]).submit(int) for number in (5, 7, 11)]
        assert eventually(lambda: "held 3 (hosts[11], hosts[5] and 1 more), " in file.getvalue())
        assert [True] * 3 == [future.cancel() for future in futures]


@pytest.mark.parametrize("are_cancelled", [False, True])
def test_calls_that_another_process_has_left_are_in_the_total(tmp_path: Path, are_cancelled: bool) -> None:
    """Before they are queued, too; what the end cuts off is left to the next process, uncounted (J2)."""
    before = VirtualTimeExecutor(journal=tmp_path / "calls")
    for number in range(1200):
        before.submit(note, number)
    killed(before)
    file = io.StringIO()
    with VirtualTimeExecutor(journal=tmp_path / "calls") as after, watch(after, interval=0.001, file=file):
        after.submit(note, "new")
        queued = (
            "[0:00:00] done 0/1200, failed 0, ready 501, running 0, left by other processes 699, 0/s, ETA -"
        )
        assert eventually(lambda: queued in re.sub(r"0:00:0\d", "0:00:00", file.getvalue()))
        if are_cancelled:
            after.shutdown(cancel_futures=True)
    assert ((501, 501, 0, 0, 501, 0) if are_cancelled else (1201, 1201, 1201, 0, 0, 0)) == last_numbers(file)


def test_a_view_shows_the_whole_executor(executor: RetryingExecutor) -> None:
    """Views have the same queue and threads, hence the same numbers (B9)."""
    file = io.StringIO()
    with watch(executor.with_options(max_attempts=2), file=file, interval=timedelta(days=1)):
        assert 0 == executor.submit(int).result(TIMEOUT)
    assert (1, 1, 1, 0, 0, 0) == numbers(LAST_LINE, file.getvalue()[:-1])


def test_standard_error_is_the_default(
    executor: RetryingExecutor, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked up when the block begins; where there is none, nothing is shown."""
    with watch(executor):
        pass
    out, err = capsys.readouterr()
    assert "" == out
    assert LAST_LINE.fullmatch(err[:-1])
    monkeypatch.setattr(sys, "stderr", None)
    with watch(executor):
        assert [] == threads_named("retrying_executor.watch")


class Terminal(io.StringIO):
    """A file that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_without_rich_a_terminal_gets_lines(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an extra."""
    monkeypatch.setitem(sys.modules, "retrying_executor._watch.bar", None)  # importing it is an ImportError
    terminal = Terminal()
    with watch(executor, file=terminal):
        pass
    assert LAST_LINE.fullmatch(terminal.getvalue()[:-1])


def test_where_rich_shows_something_already_lines_go_above_it(executor: RetryingExecutor) -> None:
    """As when blocks are nested: rich has standard error replaced, by what knows what it replaces."""
    terminal = Terminal()
    terminal.rich_proxied_file = io.StringIO()  # type: ignore[attr-defined]
    with watch(executor, file=terminal):
        pass
    assert LAST_LINE.fullmatch(terminal.getvalue()[:-1])


def test_quiet_is_quiet(executor: RetryingExecutor) -> None:
    """Nothing is written, and there is no thread."""
    file = io.StringIO()
    with watch(executor, file=file, quiet=True):
        assert [] == threads_named("retrying_executor.watch")
    assert "" == file.getvalue()


# -- nothing else is affected ----------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, StopIteration, BrokenPipeError])
def test_what_the_block_raises_passes(executor: RetryingExecutor, error: type[BaseException]) -> None:
    """The end is shown all the same, and the thread is gone."""
    file = io.StringIO()
    raised = error()
    with pytest.raises(error) as caught, watch(executor, file=file):
        raise raised
    assert raised is caught.value
    assert LAST_LINE.fullmatch(file.getvalue()[:-1])
    assert [] == threads_named("retrying_executor.watch")


def test_a_file_that_is_closed_before(executor: RetryingExecutor) -> None:
    """Nothing is shown."""
    file = io.StringIO()
    file.close()
    with watch(executor, file=file):
        assert [] == threads_named("retrying_executor.watch")


def test_a_file_that_is_closed_meanwhile(executor: RetryingExecutor) -> None:
    """Showing ends, and nothing else happens."""
    file = io.StringIO()
    with watch(executor, interval=0.001, file=file):
        file.close()
        assert 0 == executor.submit(int).result(TIMEOUT)
        assert eventually(lambda: not threads_named("retrying_executor.watch"))
        assert 0 == executor.submit(int).result(TIMEOUT)


def test_a_reader_that_goes_away(executor: RetryingExecutor) -> None:
    """A broken pipe ends the showing, and nothing else happens."""
    reader, writer = os.pipe()
    file = open(writer, "w", encoding="utf-8")  # noqa: SIM115  # closed below, where that raises
    os.close(reader)
    with watch(executor, interval=0.001, file=file):
        assert 0 == executor.submit(int).result(TIMEOUT)
        assert eventually(lambda: not threads_named("retrying_executor.watch"))
    with suppress(BrokenPipeError):  # what was not written is tried again
        file.close()


def test_the_executor_may_be_shut_down_in_the_block_or_before(policy: RetryPolicy) -> None:
    """What it has done stays known (F1)."""
    file = io.StringIO()
    executor = RetryingExecutor(1, retry=policy)
    with watch(executor, file=file), executor:
        executor.submit(Flaky())
    assert (1, 1, 1, 0, 0, 1) == numbers(LAST_LINE, file.getvalue()[:-1])
    with watch(executor, file=file):
        pass
    assert (0, 0, 0, 0, 0, 0) == numbers(LAST_LINE, file.getvalue().splitlines()[1])


# -- how it ends -----------------------------------------------------------------------------------


def last_numbers(file: io.StringIO) -> tuple[int, ...]:
    """Return the numbers of the last line, before which no line says that it is the last."""
    *lines, last = file.getvalue().splitlines()
    assert [] == [line for line in lines if "ended" in line]
    return numbers(LAST_LINE, last)


def test_a_view_outlives_its_block_until_no_call_is_pending(executor: RetryingExecutor) -> None:
    """The end of the block does not wait for calls, and the last line comes when they are done."""
    file = io.StringIO()
    release = Event()
    with watch(executor, interval=0.001, file=file):
        future = executor.submit(release.wait, TIMEOUT)
    executor.submit(int)
    assert eventually(lambda: "done 1/2" in file.getvalue())
    assert "ended" not in file.getvalue()
    release.set()
    assert future.result(TIMEOUT)
    assert eventually(lambda: not threads_named("retrying_executor.watch"))
    assert (2, 2, 2, 0, 0, 0) == last_numbers(file)


@pytest.mark.parametrize("is_virtual", [False, True])
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("is_first", [False, True])
def test_the_last_line_tells_how_it_ended_in_either_order(
    is_first: bool, error: type[BaseException] | None, is_virtual: bool
) -> None:
    """Whatever comes first in the ``with`` line, it comes last, and counts what Ctrl-C cancelled (F8)."""
    file = io.StringIO()
    executor = VirtualTimeExecutor(1, retry=None) if is_virtual else RetryingExecutor(1, retry=None)
    view = watch(executor, interval=60, file=file)
    release = Event()
    with suppress(ValueError, KeyboardInterrupt), ExitStack() as stack:
        for block in (view, executor) if is_first else (executor, view):
            stack.enter_context(block)
        running = executor.submit(lambda: is_virtual or release.wait(TIMEOUT))
        assert is_virtual or eventually(running.running)
        waiting = executor.submit(int)
        (waiting if error is KeyboardInterrupt and not is_virtual else running).add_done_callback(
            lambda _: release.set()
        )
        stack.callback(release.set if error is not KeyboardInterrupt else int)
        if error is not None:
            raise error
    cancelled = 0 if error is not KeyboardInterrupt else 1 + is_virtual
    assert (2, 2, 2 - cancelled, 0, cancelled, 0) == last_numbers(file)
    assert [] == threads_named("retrying_executor.watch")


def test_a_view_goes_on_if_the_executor_stops_waiting() -> None:
    """An attempt that is left running is told as running, and the last line comes when it has ended (F3)."""
    file = io.StringIO()
    release = Event()
    executor = RetryingExecutor(1)
    with watch(executor, interval=0.001, file=file):
        running, waiting = executor.submit(release.wait, TIMEOUT), executor.submit(int)
        assert eventually(running.running)
    executor.shutdown(timeout=0)
    assert waiting.cancelled()
    assert eventually(lambda: "done 1/2, failed 0, running 1" in file.getvalue())
    assert "ended" not in file.getvalue()
    release.set()
    executor.shutdown()
    assert (2, 2, 1, 0, 1, 0) == last_numbers(file)


def test_a_shutdown_in_the_block_does_not_end_the_view(executor: RetryingExecutor) -> None:
    """It ends with the block, and another executor's end does not concern it (F1)."""
    file = io.StringIO()
    with watch(executor, file=file):
        executor.shutdown()
        assert threads_named("retrying_executor.watch")
    other = RetryingExecutor(1)
    release = Event()
    with watch(other, file=file):
        other.submit(release.wait, TIMEOUT)
    executor.shutdown()
    assert threads_named("retrying_executor.watch")
    release.set()
    other.shutdown()
    assert [] == threads_named("retrying_executor.watch")


def test_a_view_is_entered_once(executor: RetryingExecutor) -> None:
    """Another block needs another view; the first is not affected."""
    file = io.StringIO()
    view = watch(executor, file=file)
    with view, pytest.raises(RuntimeError, match="a view can be entered only once: call watch"):
        view.__enter__()
    assert (0, 0, 0, 0, 0, 0) == last_numbers(file)


def test_a_view_without_a_pause_ends(executor: RetryingExecutor) -> None:
    """However short the interval is."""
    with watch(executor, interval=1e-12, file=io.StringIO()):
        assert 0 == executor.submit(int).result(TIMEOUT)
    assert [] == threads_named("retrying_executor.watch")


def test_a_view_that_begins_when_the_interpreter_ends_is_over(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would end it later (F4)."""
    file = io.StringIO()
    monkeypatch.setattr(exits, "_exiting", True)
    with watch(executor, file=file):
        assert (0, 0, 0, 0, 0, 0) == last_numbers(file)
        assert [] == threads_named("retrying_executor.watch")


class Stuck(io.StringIO):
    """A file to which nothing can be written for now."""

    def __init__(self) -> None:
        super().__init__()
        self.release = Event()

    def write(self, text: str) -> int:
        """Wait until that can be."""
        assert not text or self.release.wait(TIMEOUT)
        return super().write(text)


def leave_by_an_exception(executor: RetryingExecutor, file: Stuck) -> None:
    with suppress(ValueError), executor, watch(executor, file=file):
        raise ValueError


def leave_before(executor: RetryingExecutor, file: Stuck) -> None:
    with executor, watch(executor, file=file):
        pass


def leave_after(executor: RetryingExecutor, file: Stuck) -> None:
    with suppress(ValueError), watch(executor, file=file), executor:
        raise ValueError


def shut_down(executor: RetryingExecutor, file: Stuck) -> None:
    release = Event()
    with watch(executor, file=file):
        executor.submit(release.wait, TIMEOUT)
    release.set()
    executor.shutdown(timeout=0.1)


def end_the_interpreter(executor: RetryingExecutor, file: Stuck) -> None:
    with watch(executor, file=file):
        [view] = exits._watchers
        view.end(view.exit_timeout.left())


@pytest.mark.parametrize(
    "end", [leave_by_an_exception, leave_before, leave_after, shut_down, end_the_interpreter]
)
def test_an_end_in_time_does_not_wait_for_a_file_that_is_stuck(
    end: Callable[[RetryingExecutor, Stuck], None],
) -> None:
    """What is given for the end is given for the last line too, which comes later then, or never (F3, F8)."""
    file = Stuck()
    end(RetryingExecutor(1, exit_timeout=0.1), file)
    assert "" == file.getvalue()
    file.release.set()
    assert eventually(lambda: not threads_named("retrying_executor.watch"))
    assert "ended" in file.getvalue()


def test_the_interpreter_ends_in_time_although_a_file_is_stuck() -> None:
    """With `exit_timeout`, the thread of a view keeps no process alive (F4)."""
    status, out, err = run("""
import io, threading
from retrying_executor import RetryingExecutor, watch
class Stuck(io.StringIO):
    def write(self, text):
        return text and threading.Event().wait()
executor = RetryingExecutor(1, exit_timeout=0)
watch(executor, file=Stuck()).__enter__()
print("ends")
""")
    assert (0, "ends\n") == (status, out), err


def test_a_file_may_shut_the_executor_down(executor: RetryingExecutor) -> None:
    """The thread of the view does not wait for itself (F1)."""

    class ShutDown(io.StringIO):
        def flush(self) -> None:
            executor.shutdown()

    file = ShutDown()
    with watch(executor, file=file):
        executor.submit(int)
    executor.shutdown()
    assert eventually(lambda: not threads_named("retrying_executor.watch"))
    assert (1, 1, 1, 0, 0, 0) == last_numbers(file)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on Windows")
def test_a_view_made_before_a_fork_works_in_the_child(executor: RetryingExecutor) -> None:
    """It has no thread before it is entered (F6)."""
    file = io.StringIO()
    view = watch(executor, file=file)

    def show() -> None:
        with executor, view:
            executor.submit(int)
        assert (1, 1, 1, 0, 0, 0) == last_numbers(file)
        assert [] == threads_named("retrying_executor.watch")

    in_child(show)
    show()


def test_a_view_may_be_given_any_time_for_its_end() -> None:
    """Longer than threads can wait, too (F3)."""
    file = io.StringIO()
    with RetryingExecutor(1, exit_timeout=1e15) as executor:
        with watch(executor, file=file):
            future = executor.submit(Event().wait, 0.001)
        executor.shutdown(timeout=1e15)
    assert future.done()
    assert (1, 1, 1, 0, 0, 0) == last_numbers(file)


@needs_gil
def test_the_executor_is_let_go_of() -> None:
    """After the block nothing refers to it, the finished context manager included (F5)."""
    executor = RetryingExecutor(1)
    block = watch(executor, file=io.StringIO())
    with block:
        pass
    reference = weakref.ref(executor)
    del executor
    gc.collect()
    assert reference() is None


def test_a_block_that_no_thread_can_be_started_for(
    executor: RetryingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is that of the thread, and it comes at once."""

    def cannot_start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", cannot_start)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        watch(executor, file=io.StringIO()).__enter__()


def run(source: str) -> tuple[int, str, str]:
    """Run a program; return its exit status, and what it wrote to stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, encoding="utf-8", timeout=TIMEOUT
    )
    return done.returncode, done.stdout, done.stderr


NEVER_LEFT = """
import threading
from retrying_executor import RetryingExecutor, watch
executor, other = RetryingExecutor(1, exit_timeout={}), RetryingExecutor(1)
block = watch(executor, interval=0.01)
block.__enter__()
running = threading.Event()
def call():
    running.set()
    try:
        while True:
            other.submit(int).result()
    except RuntimeError:  # the end of the interpreter has begun
        {}
executor.submit(call)
running.wait()
"""


def test_a_block_that_is_never_left_keeps_no_process_alive() -> None:
    """The end of the program is the end of the view; calls get their outcome before (F4)."""
    status, out, err = run(NEVER_LEFT.format(None, "print('done')"))
    assert (0, "done\n") == (status, out), err
    *lines, last = err.splitlines()
    assert [] == [line for line in lines if not LINE.fullmatch(line)]
    assert (1, 1, 1, 0, 0, 0) == numbers(LAST_LINE, last)


SUSPENDED = """
from retrying_executor import RetryingExecutor, watch
executor = RetryingExecutor(1)
def block():
    with watch(executor):
        yield executor.submit(abs, -1).result()
generator = block()
print(next(generator))
"""


def test_a_block_in_a_generator_that_is_never_finished_is_quiet() -> None:
    """The interpreter leaves it when it has taken the modules apart, or never."""
    status, out, err = run(SUSPENDED)
    assert (0, "1\n") == (status, out), err
    assert [] == [line for line in err.splitlines() if not LINE.fullmatch(line)][:-1]


def test_a_block_that_is_left_when_modules_are_gone_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it would look at may be gone, too."""
    file = io.StringIO()
    with RetryingExecutor(1) as executor:
        view = watch(executor, file=file)
        view.__enter__()
        with monkeypatch.context() as patch:
            patch.setattr("retrying_executor._watch.watch.os", None)
            view.__exit__(None, None, None)
        assert "" == file.getvalue()
        view.__exit__(None, None, None)
    assert LAST_LINE.search(file.getvalue())


def test_the_last_line_does_not_count_what_the_end_cuts_off() -> None:
    """A call that still runs when `exit_timeout` is over is not done (F4)."""
    status, _, err = run(NEVER_LEFT.format(0, "threading.Event().wait()"))
    assert 0 == status
    *lines, last = err.splitlines()
    assert (0, 1, 0, 0, 0, 0) == numbers(LAST_LINE, last)
    logged = "shutdown timed out after 0 s: 0 waiting calls cancelled, still running: __main__.call"
    assert [logged] == [line for line in lines if not LINE.fullmatch(line)]


def test_what_is_not_used_is_not_imported() -> None:
    """Importing the package imports neither this nor rich; without a terminal, nothing needs rich."""
    status, out, err = run(
        "import sys, retrying_executor\n"
        "names = 'retrying_executor._watch.watch', 'rich'\n"
        "print([name in sys.modules for name in names])\n"
        "with retrying_executor.watch(retrying_executor.RetryingExecutor(1)): pass\n"
        "print([name in sys.modules for name in names])\n"
    )
    assert (0, "[False, False]\n[True, False]\n") == (status, out), err


def test_other_names_are_unknown() -> None:
    """What is imported when asked for is in the list of names; other names are errors."""
    assert watch is retrying_executor.watch
    with pytest.raises(AttributeError, match="module 'retrying_executor' has no attribute 'look'"):
        retrying_executor.look  # noqa: B018


# -- wrong arguments -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unused() -> Iterator[RetryingExecutor]:
    """An executor that does nothing."""
    with RetryingExecutor(1) as executor:
        yield executor


@pytest.mark.parametrize("value", [None, 3, threading, RetryingExecutor])
def test_only_an_executor_of_this_kind_can_be_watched(value: Any) -> None:
    """The standard ones have no statistics."""
    with pytest.raises(TypeError, match="executor must be a RetryingExecutor or a view of one, not "):
        watch(value)


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, timedelta(0)])
def test_the_interval_is_positive(unused: RetryingExecutor, value: float) -> None:
    """Zero would be without a pause."""
    with pytest.raises(ValueError, match="interval must be "):
        watch(unused, interval=value)


@pytest.mark.parametrize("value", ["1", None, True])
def test_the_interval_is_a_duration(unused: RetryingExecutor, value: Any) -> None:
    """A number of seconds, or a timedelta."""
    with pytest.raises(TypeError, match="interval must be a number of seconds or a timedelta, not "):
        watch(unused, interval=value)


@pytest.mark.parametrize("value", ["log.txt", 2, io.BytesIO()])
def test_the_file_is_open_for_text(unused: RetryingExecutor, value: Any) -> None:
    """A name is none, and neither is a file of bytes."""
    with pytest.raises(TypeError, match="file must be open for writing text, not "):
        watch(unused, file=value)
