"""What users see of the package goes by public names: reprs, tracebacks, pickles and ``help()``."""

from __future__ import annotations

import importlib
import inspect
import io
import pickle
import pydoc
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import retrying_executor
from conftest import TIMEOUT
from retrying_executor import (
    Attempt,
    CurrentCall,
    Event,
    ForkedFutureError,
    Journal,
    JournalError,
    NotNow,
    PendingLimitError,
    RetryingExecutor,
    RetryPolicy,
    Stats,
    Upstream,
    service_failed,
    transient,
    watch,
)
from retrying_executor.testing import VirtualTimeExecutor

PRIVATE = re.compile(r"(?<![\w`])_[a-zA-Z]\w*")
STATS = Stats(**dict.fromkeys(Stats.__annotations__, 0))  # type: ignore[arg-type]  # all of them are numbers


def own(name: str) -> list[Any]:
    """Return a public thing and its methods."""
    thing = getattr(retrying_executor, name)
    methods = vars(thing).values() if isinstance(thing, type) else ()
    return [thing, *(method for method in methods if inspect.isfunction(method))]


@pytest.mark.parametrize("name", retrying_executor.__all__)
def test_public_names_are_those_that_users_import(name: str) -> None:
    """Where something is said to be is where it is found."""
    thing = getattr(retrying_executor, name)
    assert {"retrying_executor"} == {each.__module__ for each in own(name)}
    assert name == thing.__name__ == thing.__qualname__
    assert thing is pickle.loads(pickle.dumps(thing))


def test_completion_shows_what_can_be_imported() -> None:
    """What is imported on first use is among it, and nothing that is private (A1)."""
    shown = [name for name in dir(retrying_executor) if not name.startswith("__")]
    assert sorted(retrying_executor.__all__) == shown


def test_a_limit_of_an_upstream_is_not_set_later() -> None:
    """It would do nothing, so it is refused (U4)."""
    for name in ("max_concurrency", "rate", "name"):
        with pytest.raises(AttributeError, match=name):
            setattr(Upstream("service"), name, 1)


def test_what_tests_need_goes_by_the_name_of_its_module() -> None:
    """The package does not import it: tests do."""
    assert "retrying_executor.testing" == VirtualTimeExecutor.__module__
    assert VirtualTimeExecutor is pickle.loads(pickle.dumps(VirtualTimeExecutor))


@pytest.mark.parametrize(
    "thing",
    [
        NotNow("x", after=3),
        PendingLimitError("full"),
        ForkedFutureError("of the parent"),
        JournalError("the disk is full"),
        Attempt(number=1, exception=NotNow(), result=None, elapsed=0.0),
        CurrentCall(name="f", attempt=1, key="k", time_left=None),
        Event(kind="done", time=0.0, exception=PendingLimitError("full")),
        STATS,
        RetryPolicy(),
        RetryPolicy(retry_on=service_failed),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_pickles_name_nothing_private(thing: Any) -> None:
    """So a release that moves things around can load what the one before has written."""
    written = pickle.dumps(thing)
    assert not re.search(rb"retrying_executor\._", written)
    assert type(thing) is type(pickle.loads(written))


def test_events_are_pickled_by_their_public_name_before_anybody_asks_for_it() -> None:
    """``Event`` is imported when it is needed, be that by the name of the package or not."""
    program = """
import pickle, sys
from retrying_executor import RetryingExecutor
events = []
with RetryingExecutor(1, on_event=events.append) as executor:
    executor.submit(int)
sys.stdout.buffer.write(pickle.dumps(events))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=TIMEOUT, check=True)
    assert b"retrying_executor._" not in done.stdout
    assert {Event} == {type(event) for event in pickle.load(io.BytesIO(done.stdout))}


@pytest.mark.parametrize("cls", [Journal, RetryingExecutor, RetryPolicy, Upstream, VirtualTimeExecutor])
def test_help_has_no_addresses_and_no_private_names(cls: type) -> None:
    """But for those of the standard library: the base class of executors is in ``_base``."""
    text = pydoc.plain(pydoc.render_doc(cls)).replace("concurrent.futures._base.", "")
    unwanted = [line for line in text.splitlines() if "0x" in line or PRIVATE.search(line)]
    assert [] == unwanted


@pytest.mark.parametrize("cls", [RetryingExecutor, VirtualTimeExecutor])
def test_the_default_policy_is_shown_as_users_write_it(cls: type) -> None:
    """Not with all its options."""
    text = pydoc.plain(pydoc.render_doc(cls)).replace("'", "")  # annotations are in quotes before Python 3.14
    assert "retry: Policy | None = RetryPolicy()," in text


@pytest.mark.parametrize(
    ("cls", "option", "function"),
    [(RetryPolicy, "retry_on", transient), (Upstream, "record_exceptions", service_failed)],
)
def test_default_functions_are_shown_by_their_names(cls: type, option: str, function: Any) -> None:
    """What is shown stands for the function: it is equal to it, and can be called like it."""
    shown = inspect.signature(cls).parameters[option].default
    assert function.__name__ == repr(shown)
    assert function == shown
    assert shown == function
    assert hash(function) == hash(shown)
    for exception in (ValueError(), OSError(), NotNow()):
        assert function(exception) == shown(exception) or isinstance(shown(exception), NotNow)
    assert shown == inspect.signature(cls).parameters[option].default


@pytest.mark.parametrize(
    "policy",
    [
        RetryPolicy(),
        RetryPolicy(max_attempts=None, jitter=False),
        RetryPolicy(max_attempts=3, initial_delay=1.0, retry_on=ConnectionError),
        RetryPolicy(delays=(1.0, 2.0)),
        RetryPolicy(delays=(1.0, 2.0), max_attempts=2, jitter=True),
    ],
    ids=repr,
)
def test_a_policy_is_shown_as_users_write_it(policy: RetryPolicy) -> None:
    """Its repr makes an equal one, and has only what differs from the defaults."""
    text = repr(policy).replace("<class 'ConnectionError'>", "ConnectionError")
    assert policy == eval(text)
    assert "max_elapsed" not in text


def test_the_future_of_a_call_in_a_journal_is_shown_as_any(tmp_path: Path) -> None:
    """With a journal or without, it is a future of the executor."""
    with VirtualTimeExecutor(journal=tmp_path) as executor:
        future = executor.submit(int)
        assert "retrying_executor" == type(future).__module__
        assert re.fullmatch(r"<RetryingFuture at 0x\w+ state=pending>", repr(future))
        assert "RetryingFuture" == type(future).__name__
        assert not PRIVATE.search(repr(future))
        with pytest.raises(AttributeError, match=r"^'RetryingFuture' object has no attribute 'store'"):
            future.store  # type: ignore[attr-defined]  # noqa: B018  # a mistake


def test_help_says_what_a_journal_adds() -> None:
    """So a caller knows what to catch."""
    _, _, raised = pydoc.render_doc(RetryingExecutor.submit, renderer=pydoc.plaintext).partition("Raises:")
    assert "journal also if *fn* or an argument cannot be written to it" in raised
    assert "JournalError: If the call cannot be written to the journal" in raised


def test_a_policy_of_your_own_is_shown_by_its_name() -> None:
    """With all that it has besides."""

    class Patient(RetryPolicy):
        patience: int = 3

    assert "Patient(max_age=9.0, patience=3)" == repr(Patient(max_age=9))


def test_a_view_of_the_progress_is_not_shown_by_a_private_name() -> None:
    """What ``watch()`` returns has a name only in the sources."""
    with RetryingExecutor(1, thread_name_prefix="uploads") as executor:
        assert "<watch of 'uploads'>" == repr(watch(executor))
        with pytest.raises(AttributeError, match=r"^'Watcher' object has no attribute 'start'$"):
            watch(executor).start()  # type: ignore[attr-defined]  # a mistake


@pytest.mark.parametrize(
    ("name", "place"), [("Processes", "engines"), ("Shared", "engines"), ("VirtualTimeExecutor", "testing")]
)
def test_what_is_elsewhere_is_said_to_be_there(name: str, place: str) -> None:
    """What most programs need is in the package itself, so people look for the rest there, too."""
    with pytest.raises(AttributeError, match=rf"; it is in retrying_executor\.{place}$"):
        getattr(retrying_executor, name)
    assert hasattr(importlib.import_module(f"retrying_executor.{place}"), name)
