"""How calls are written: as pickles, or as JSON (J3)."""

from __future__ import annotations

import enum
import logging
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import journals
from journals import Thing, files, killed, made, note, refuse, rows
from retrying_executor import Journal
from retrying_executor._journal.payload import Jsons, Pickles
from retrying_executor.testing import VirtualTimeExecutor

journal = journals.journal


def only(journal: Path, *functions: Callable[..., Any], **named: Callable[..., Any]) -> Journal:
    return Journal(journal, functions=named or functions)


def test_json_is_for_functions_that_the_program_has_named(journal: Path) -> None:
    """Keywords and nested arguments included; they come back as they were (J3)."""
    value = {"to": ["a", None, True, 1, 1.5, -0.0, "\u00e9"], "more": {}}
    before = VirtualTimeExecutor(journal=only(journal, note))
    before.submit(note, value)
    before.submit(note, value=value)
    killed(before)
    assert all(b"journals.note" in row.payload for row in rows(journal))
    with VirtualTimeExecutor(journal=only(journal, note)) as after:
        assert [value, value] == [future.result() for future in after.adopted]


def test_a_function_that_was_not_named_is_refused(journal: Path) -> None:
    """Whatever it is; nothing is on disk (J3)."""
    with VirtualTimeExecutor(journal=only(journal, note)) as executor:
        for fn in (refuse, lambda: None, Thing(), [].append):
            with pytest.raises(TypeError, match="fn must be one of the functions= of the journal, not "):
                executor.submit(fn)
        assert set() == files(journal)


class Unhashable:
    """It can be called, and nothing else."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self) -> None: ...


class Colour(enum.IntEnum):
    """Equal to a number, and none."""

    RED = 1


DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Thing(), "something that JSON can hold"),
        (Decimal(1), "something that JSON can hold"),
        (b"bytes", "something that JSON can hold"),
        (math.nan, "something that JSON can hold"),
        ([math.inf], "something that JSON can hold"),
        ((1, 2), r"JSON gives back as it is: \(1, 2\) becomes \[1, 2\]"),
        ([(1,)], "JSON gives back as it is"),
        ({1: "one"}, "JSON gives back as it is"),
        (OrderedDict(a=1), "JSON gives back as it is"),
        (Colour.RED, "JSON gives back as it is"),
        ({"a": [Colour.RED]}, "JSON gives back as it is"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_argument_that_json_would_change_is_refused(journal: Path, value: Any, message: str) -> None:
    """The error names it; nothing is on disk (J3)."""
    with VirtualTimeExecutor(journal=only(journal, note)) as executor:
        with pytest.raises(TypeError, match=f"argument 2 must be .*{message}"):
            executor.submit(note, 1, value)
        with pytest.raises(TypeError, match=f"argument 'value' must be .*{message}"):
            executor.submit(note, value=value)
        assert set() == files(journal)


def test_arguments_that_are_nested_too_deep_are_refused(journal: Path) -> None:
    """As what JSON cannot hold (J3)."""
    with (
        VirtualTimeExecutor(journal=only(journal, note)) as executor,
        pytest.raises(TypeError, match="argument 1 must be something that JSON can hold"),
    ):
        executor.submit(note, DEEP)


def test_arguments_that_are_nested_deep_are_compared_all_the_way(journal: Path) -> None:
    """Or refused: never a `RecursionError` (J3)."""
    refused = 0
    for depth in (10, 100, 950, 5000):
        value: Any = []
        for _ in range(depth):
            value = [value]
        try:
            assert Jsons({"note": note}).dump(note, (value,), {})
        except TypeError:
            refused += 1
    assert 1 <= refused <= 2


def test_an_object_that_cannot_be_hashed_is_refused(journal: Path) -> None:
    """It cannot be one of the functions (J3)."""
    with (
        VirtualTimeExecutor(journal=only(journal, note)) as executor,
        pytest.raises(TypeError, match=r"fn must be one of the functions= of the journal, not .*Unhashable"),
    ):
        executor.submit(Unhashable())


def test_a_function_may_have_several_names(journal: Path) -> None:
    """Those that it had before are still read; the last is written (J3)."""
    before = VirtualTimeExecutor(journal=only(journal, old=note))
    before.submit(note, 1)
    killed(before)
    before = VirtualTimeExecutor(journal=only(journal, old=note, new=note))
    assert 1 == len(before.adopted)
    before.submit(note, 2)
    killed(before)
    with VirtualTimeExecutor(journal=only(journal, new=note)) as after:
        assert [2] == [future.result() for future in after.adopted]
    assert 1 == len(rows(journal))


def test_calls_of_unknown_functions_are_left_and_picked_up_later(
    journal: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By a process that knows them; the log tells of it (J6)."""
    before = VirtualTimeExecutor(journal=only(journal, note, refuse))
    key = before.submit(note, 1).key
    before.submit(refuse, 2)
    killed(before)
    with caplog.at_level(logging.WARNING), VirtualTimeExecutor(journal=only(journal, refuse)) as middle:
        assert ["journals.refuse"] == [_name(future) for future in middle.adopted]
        middle.adopted[0].cancel()
        assert 0 == middle.adopt()
    first, *_ = (record for record in caplog.records if "journal_unknown" == record.kind)  # type: ignore[attr-defined]
    assert ("journals.note", key) == (first.call, first.key)  # type: ignore[attr-defined]
    assert "is left in the journal, since it cannot be read here: " in first.getMessage()
    assert "the journal has no function 'journals.note'" in first.getMessage()
    assert f"a call of journals.note [{key}] is left" in first.getMessage()
    assert (
        "It is tried again with the next look: with submit() now and then, or adopt()" in first.getMessage()
    )
    assert "below the executor, or that was renamed (renamed= of Journal)" in first.getMessage()
    with VirtualTimeExecutor(journal=only(journal, note)) as after:
        assert [1] == [future.result() for future in after.adopted]
    assert set() == files(journal)


def _name(future: Any) -> str:
    return f"{future._work[0].__module__}.{future._work[0].__name__}"


class Trap:
    """It notes when it is unpickled."""

    def __reduce__(self) -> Any:
        return note, ("unpickled",)


def test_a_journal_of_json_never_loads_a_pickle(journal: Path, quiet: None) -> None:
    """A pickle can run anything (J3)."""
    before = VirtualTimeExecutor(journal=journal)
    before.submit(note, Trap())
    killed(before)
    with VirtualTimeExecutor(journal=only(journal, note)) as after:
        assert [] == after.adopted
    assert ([], 1) == (made, len(rows(journal)))
    with VirtualTimeExecutor(journal=journal) as after:
        assert ["unpickled"] == [future.result() for future in after.adopted]


def test_a_journal_of_pickles_leaves_json_alone(journal: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And says what would read it (J6)."""
    before = VirtualTimeExecutor(journal=only(journal, note))
    before.submit(note, 1)
    killed(before)
    with VirtualTimeExecutor(journal=journal) as after:
        assert [] == after.adopted
    assert "it is written as JSON, and this journal reads pickles: give it functions=" in caplog.text


def test_what_has_another_name_now_is_found(journal: Path) -> None:
    """Functions and classes, if the journal is told (J3, J6)."""
    before = VirtualTimeExecutor(journal=journal)
    before.submit(_renamed("say"), Thing())
    killed(before)
    del journals.say  # type: ignore[attr-defined]
    renamed = {"journals.say": note, "journals.Thing": Thing}
    with VirtualTimeExecutor(journal=Journal(journal, renamed=renamed)) as after:
        assert [Thing] == [type(future.result()) for future in after.adopted]


def _renamed(name: str) -> Callable[..., Any]:
    """Return a function that is there under that name for now."""

    def say(value: Any) -> None:
        """It is never called."""

    say.__module__, say.__qualname__ = "journals", name
    setattr(journals, name, say)
    return say


def test_a_function_that_has_become_a_coroutine_function_is_awaited(journal: Path) -> None:
    """As if it was submitted now (J6, K1)."""

    async def call(value: int) -> int:
        return value + 1

    before = VirtualTimeExecutor(journal=journal)
    before.submit(note, 1)
    killed(before)
    with VirtualTimeExecutor(journal=Journal(journal, renamed={"journals.note": call})) as after:
        assert [2] == [future.result() for future in after.adopted]
    assert [] == rows(journal)


def test_a_function_that_has_become_an_asynchronous_generator_is_left(journal: Path, quiet: None) -> None:
    """As if it was submitted now (J6, K1)."""

    async def call(value: int) -> AsyncIterator[int]:
        yield value  # pragma: no cover  # it is never called

    before = VirtualTimeExecutor(journal=journal)
    before.submit(note, 1)
    killed(before)
    with VirtualTimeExecutor(journal=Journal(journal, renamed={"journals.note": call})) as after:
        assert [] == after.adopted
    assert 1 == len(rows(journal))


def test_only_what_can_be_read_is_a_call() -> None:
    """Whatever the bytes are, reading them says what is wrong, or raises what the reader does (J6)."""
    for load in (Pickles({}).load, Jsons({}).load):
        for payload in (b"", b"X", b"P", b"J", b"J[]", b"J[[], [], {}]", b"PX"):
            with pytest.raises(Exception, match=r".*"):
                load(payload)
