"""Exceptions of every shape, for what sends them to another process."""

from __future__ import annotations

import asyncio
import enum
import errno
import json
import os
import socket
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from http import HTTPStatus
from itertools import pairwise
from typing import Any, NoReturn

from retrying_executor import AttemptLostError, NotNow

Make = Callable[[], BaseException]

SHAPES: dict[str, Make] = {}
"""Functions that return an exception, by what is special about it."""


def shape(make: Make) -> Make:
    """Add a function to the shapes, under its own name in words."""
    SHAPES[make.__name__.replace("_", " ").strip()] = make
    return make


def raise_shape(name: str) -> NoReturn:
    """Raise a new exception of that shape."""
    raise SHAPES[name]()


def add(**shapes: Make) -> None:
    """Add functions to the shapes."""
    SHAPES.update({name.replace("_", " "): make for name, make in shapes.items()})


def failure(**attributes: Any) -> RuntimeError:
    """Return an error with these attributes."""
    error = RuntimeError("it failed")
    vars(error).update(attributes)
    return error


# -- How they are made -----------------------------------------------------------------------------


class TwoArgumentsError(Exception):
    """Its constructor demands more than its ``args``."""

    def __init__(self, message: str, status_code: int) -> None:
        super().__init__(message)
        self.status_code = status_code


class KeywordsError(Exception):
    """Its constructor takes keywords only, and gives no arguments on."""

    def __init__(self, *, status_code: int, retry_after: float) -> None:
        super().__init__()
        self.status_code = status_code
        self.retry_after = retry_after


class OnceError(Exception):
    """Its constructor raises, but for one argument."""

    def __init__(self, status_code: object) -> None:
        super().__init__("made")
        if status_code == "made":
            raise AssertionError("it is made again")  # pragma: no cover  # it must not be
        self.status_code = status_code


class NewError(Exception):
    """Its ``__new__`` demands arguments."""

    def __new__(cls, code: int, *, word: str) -> NewError:
        error = super().__new__(cls, word)
        error.status_code = code
        return error

    def __init__(self, code: int, *, word: str) -> None:
        super().__init__(word)

    status_code: int


class SlottedError(Exception):
    """Keeps what it has outside of its ``__dict__``; one part is not set."""

    __slots__ = ("__hidden", "status_code", "unset")

    def __init__(self) -> None:
        super().__init__("slotted")
        self.status_code = 404
        self.__hidden = "hidden"

    def __str__(self) -> str:
        return self.__hidden


@dataclass(frozen=True)
class FrozenError(Exception):
    """Refuses to have its attributes set, and to be hashed by anything else."""

    status_code: int
    words: tuple[str, ...] = ("a", "b")


@dataclass
class UnhashableError(Exception):
    """Cannot be hashed."""

    status_code: int


class MixedError(ValueError, OSError):
    """Is laid out in memory like its second base, not like its first."""

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "mixed")
        self.status_code = 422


class PropertyError(OSError):
    """A property hides what its base keeps in C."""

    @property
    def errno(self) -> int:  # type: ignore[override]  # that is what is special
        return 7


class SameSlotError(OSError):
    """A slot hides what its base keeps in C."""

    __slots__ = ("errno",)


class ComputedError(Exception):
    """Its status is computed of what it refers to."""

    def __init__(self, response: object) -> None:
        super().__init__()
        self.response = response

    @property
    def status_code(self) -> object:
        return self.response.status_code  # type: ignore[attr-defined]  # hence the name


class OwnArgsError(Exception):
    """Hides its ``args``."""

    args = ("hidden",)

    def __init__(self) -> None:
        super().__init__("real")


class Meta(type):
    """A metaclass that demands a keyword."""

    def __new__(cls, name: str, bases: tuple[type, ...], own: dict[str, Any], *, code: int = 404) -> Meta:
        return super().__new__(cls, name, bases, {**own, "status_code": code})

    def __init__(cls, name: str, bases: tuple[type, ...], own: dict[str, Any], **_: int) -> None:
        super().__init__(name, bases, own)


class MetaError(Exception, metaclass=Meta, code=429):
    """Has a metaclass."""


class RegisteredError(Exception):
    """Demands a keyword of its subclasses."""

    def __init_subclass__(cls, *, code: int) -> None:
        cls.status_code = code

    status_code: int


add(
    two_arguments=lambda: TwoArgumentsError("no", 404),
    keywords=lambda: KeywordsError(status_code=429, retry_after=3.5),
    a_constructor_that_raises=lambda: OnceError(404),
    a_new_with_arguments=lambda: NewError(404, word="new"),
    slots=SlottedError,
    frozen=lambda: FrozenError(404),
    unhashable=lambda: UnhashableError(404),
    laid_out_like_its_second_base=MixedError,
    a_property_over_a_field=lambda: PropertyError(errno.ENOENT, "no file"),
    a_slot_over_a_field=lambda: SameSlotError(errno.ENOENT, "no file"),
    hidden_arguments=OwnArgsError,
    a_metaclass=lambda: MetaError("meta"),
)


# -- How they say that they are pickled ------------------------------------------------------------


class GoodWayError(Exception):
    """Says rightly how to make it anew."""

    def __init__(self, status_code: int) -> None:
        super().__init__(f"HTTP {status_code}")
        self.status_code = status_code
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status_code,)

    def __str__(self) -> str:
        with self.lock:
            return f"locked {self.status_code}"


class WrongWayError(TwoArgumentsError):
    """Says wrongly how to make it anew."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args


class ForgetfulError(TwoArgumentsError):
    """Its way to make it anew forgets what it has."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ("forgotten", 500)


class OtherClassError(TwoArgumentsError):
    """Its way to make it anew makes another."""

    def __reduce__(self) -> tuple[Any, ...]:
        return ValueError, ("other",)


class NoWayError(TwoArgumentsError):
    """Refuses to say how to make it anew."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("cannot be pickled")


class NamedWayError(TwoArgumentsError):
    """Says that it is a global object."""

    def __reduce__(self) -> str:
        return "nowhere"


class ReducedExError(TwoArgumentsError):
    """Uses the other method to say how to make it anew."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return type(self), ("no", 404)


class GetStateError(TwoArgumentsError):
    """Raises when it is asked for its state."""

    def __getstate__(self) -> object:  # pragma: no cover  # it need not be called
        raise SystemExit("no state")


class SetStateError(TwoArgumentsError):
    """Raises when it is given its state."""

    def __setstate__(self, state: object) -> None:  # pragma: no cover  # it need not be called
        raise KeyboardInterrupt


class StatefulError(TwoArgumentsError):
    """Has a state of its own."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ("no", 0), {"status_code": self.status_code}

    def __setstate__(self, state: Any) -> None:
        vars(self).update(state)


add(
    a_good_way=lambda: GoodWayError(404),
    a_wrong_way=lambda: WrongWayError("no", 404),
    a_forgetful_way=lambda: ForgetfulError("no", 404),
    a_way_to_another=lambda: OtherClassError("no", 404),
    a_way_that_raises=lambda: NoWayError("no", 404),
    a_way_by_name=lambda: NamedWayError("no", 404),
    another_way=lambda: ReducedExError("no", 404),
    getstate_that_raises=lambda: GetStateError("no", 404),
    setstate_that_raises=lambda: SetStateError("no", 404),
    a_state=lambda: StatefulError("no", 404),
)


# -- What they refer to ----------------------------------------------------------------------------


class Answer:
    """An answer of a service, with something inside that cannot be sent."""

    def __init__(self, status_code: int, inside: object = None) -> None:
        self.status_code = status_code
        self.headers = {"Retry-After": "7"}
        self.inside = threading.Lock() if inside is None else inside


class SlottedAnswer:
    """An answer that has only slots."""

    __slots__ = ("lock", "status_code")

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code
        self.lock = threading.Lock()


class ClosedAnswer(Answer):
    """An answer that must be closed: it needs all that it has."""

    def __del__(self) -> None:
        with self.inside:  # type: ignore[attr-defined]  # a lock
            pass


class UnreadAnswer:
    """An answer whose body is still to come. To read it here would wait for the network."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code
        self._content_consumed = False

    def __getstate__(self) -> object:  # pragma: no cover  # it must not be called
        raise AssertionError("the body is read")


class NotUnpickled:
    """Can be pickled, but not unpickled."""

    status_code = 404

    def __init__(self) -> None:
        self.headers = {"Retry-After": "7"}

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("x",)


class Client:
    """Refers to itself, a lock, and what it has answered."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.condition = threading.Condition(self.lock)
        self.again = self
        self.status_code = 503


class Code(enum.Enum):
    """Codes of a service."""

    BUSY = "insufficient_quota"


class Headers(dict[str, str]):
    """A kind of dictionary that cannot be pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("cannot be pickled")


def nested(depth: int) -> Any:
    """Return a list in a list, and so on."""
    found: Any = []
    for _ in range(depth):
        found = [found]
    return found


def linked(length: int) -> Client:
    """Return objects in a row."""
    last = Client()
    for _ in range(length):
        one = Client()
        one.again, last = last, one
    return last


@shape
def a_socket() -> BaseException:
    with socket.socket() as one:
        return failure(status_code=404, response=one)


@shape
def a_file() -> BaseException:
    with open(os.devnull, encoding="utf-8") as file:
        return failure(status_code=404, response=file)


add(
    a_lock=lambda: failure(status_code=404, lock=threading.Lock()),
    a_generator=lambda: failure(status_code=404, lines=(line for line in ())),
    a_lambda=lambda: failure(status_code=404, callback=lambda: 1),
    a_module=lambda: failure(status_code=404, module=json),
    a_class=lambda: failure(status_code=404, kind=Answer, none=type(None)),
    a_function=lambda: failure(status_code=404, callback=nested, builtin=len, method="a".join),
    an_event=lambda: failure(status_code=404, event=threading.Event(), local=threading.local()),
    a_client=lambda: failure(response=Client()),
    an_answer=lambda: failure(response=Answer(404)),
    an_answer_that_asks_to_wait=lambda: failure(response=Answer(429)),
    an_answer_in_slots=lambda: failure(response=SlottedAnswer(404)),
    an_answer_to_be_closed=lambda: failure(response=ClosedAnswer(404)),
    an_answer_to_be_closed_that_asks_to_wait=lambda: failure(response=ClosedAnswer(429)),
    an_answer_with_a_client=lambda: failure(response=Answer(404, Client())),
    an_answer_that_is_not_read=lambda: failure(response=UnreadAnswer(404)),
    an_answer_that_does_not_unpickle=lambda: failure(response=NotUnpickled()),
    an_answer_beside_what_does_not_unpickle=lambda: failure(response=Answer(404), other=NotUnpickled()),
    a_status_that_is_computed=lambda: ComputedError(Answer(404)),
    a_status_that_is_computed_of_what_is_closed=lambda: ComputedError(ClosedAnswer(404)),
    an_argument_that_cannot_be_sent=lambda: RuntimeError("no", threading.Lock(), Answer(404)),
    an_enum=lambda: failure(code=Code.BUSY, status_code=HTTPStatus.NOT_FOUND),
    an_enum_beside_what_does_not_unpickle=lambda: failure(
        status_code=HTTPStatus.NOT_FOUND, other=NotUnpickled()
    ),
    values=lambda: failure(
        status_code=404,
        date=datetime(2024, 1, 2, tzinfo=timezone.utc),
        delta=timedelta(3),
        decimal=Decimal("1.5"),
        ordered=OrderedDict(a=1),
        one={"set": {1, 2}, "bytes": b"x", "array": bytearray(b"y"), "float": float("inf")},
    ),
    a_body=lambda: failure(status_code=429, body={"error": {"code": "insufficient_quota"}}),
    a_body_of_another_kind=lambda: failure(body=defaultdict(lambda: 1, error={"code": "insufficient_quota"})),
    headers_that_cannot_be_pickled=lambda: failure(status_code=429, headers=Headers({"Retry-After": "9"})),
    a_huge_body=lambda: failure(status_code=404, body=b"x" * (80 << 20)),
    a_huge_list=lambda: failure(status_code=404, items=["x" * 1000] * 2, more=[b"y" * (80 << 20)]),
    lists_in_lists=lambda: failure(response=Answer(404), lists=nested(100_000)),
    objects_in_a_row=lambda: failure(response=Answer(404), client=linked(10_000)),
    many_locks=lambda: failure(status_code=404, locks=[threading.Lock() for _ in range(5_000)]),
    a_reference_to_itself=lambda: _with_itself(failure(status_code=404)),
)


def _with_itself(error: RuntimeError) -> RuntimeError:
    vars(error)["itself"] = error
    error.args = ("it failed", [error])
    return error


# -- Those of Python -------------------------------------------------------------------------------

add(
    a_file_that_is_missing=lambda: OSError(errno.ENOENT, "No such file", "here"),
    two_files=lambda: OSError(errno.EXDEV, "Cross-device", "here", None, "there"),
    a_refused_connection=lambda: OSError(errno.ECONNREFUSED, "refused"),
    an_os_error_without_arguments=OSError,
    a_write_that_would_block=lambda: BlockingIOError(errno.EAGAIN, "again", 5),
    a_timeout=lambda: TimeoutError("timed out"),
    a_timeout_of_asyncio=asyncio.TimeoutError,
    a_cancelled_task=asyncio.CancelledError,
    a_name_that_is_not_known=lambda: socket.gaierror(socket.EAI_NONAME, "not known"),
    bytes_that_are_not_text=lambda: UnicodeDecodeError("utf-8", b"a\xff", 1, 2, "invalid start byte"),
    text_that_has_no_bytes=lambda: UnicodeEncodeError("ascii", "\xe4", 0, 1, "not in range"),
    text_that_is_not_translated=lambda: UnicodeTranslateError("\xe4", 0, 1, "no"),
    a_syntax_error=lambda: SyntaxError("invalid", ("file.py", 3, 7, "if:\n")),
    an_import_error=lambda: ImportError("no", name="missing", path="/nowhere"),
    a_missing_module=lambda: ModuleNotFoundError("no", name="missing"),
    a_missing_key=lambda: KeyError("key"),
    an_attribute_error=lambda: AttributeError("no", name="x", obj=Answer(404)),
    a_name_error=lambda: NameError("no", name="x"),
    a_stopped_iterator=lambda: StopIteration({"value": 7}),
    an_exit=lambda: SystemExit(3),
    an_interrupt=lambda: KeyboardInterrupt("ctrl-c"),
    a_closed_generator=GeneratorExit,
    a_failed_assertion=lambda: AssertionError("no"),
    json_that_is_none=lambda: json.JSONDecodeError("Expecting value", "{", 1),
    a_type_error=lambda: TypeError("wrong type"),
    no_arguments=Exception,
    many_arguments=lambda: Exception(1, "two", None, [3], {"four": 4.0}),
)


# -- Those of this library -------------------------------------------------------------------------


class ComeBack(NotNow):
    """Says so by its class."""

    after = 2.5


class OwnBaseError(BaseException):
    """Is no `Exception`."""

    status_code = 503


add(
    not_now=lambda: NotNow("busy"),
    not_now_but_then=lambda: NotNow(after=4.5),
    not_now_for_this_call=lambda: NotNow("polling", after=1, only_this_call=True),
    not_now_by_class=lambda: ComeBack(),
    a_lost_attempt=lambda: AttemptLostError("the process died"),
    no_exception=lambda: OwnBaseError("no"),
)


# -- What they come from ---------------------------------------------------------------------------


def chained(*errors: BaseException, link: str = "__cause__") -> BaseException:
    """Return the first, each with the next as its cause or its context."""
    for one, led in pairwise(errors):
        setattr(one, link, led)
    return errors[0]


def long(count: int, link: str, last: BaseException) -> BaseException:
    """Return an error with so many behind it."""
    first = failure(response=Answer(404)) if link == "__context__" else RuntimeError("first")
    return chained(first, *(RuntimeError(f"number {number}") for number in range(count)), last, link=link)


@shape
def a_suppressed_context() -> BaseException:
    error = chained(RuntimeError("outer"), TwoArgumentsError("no", 404), link="__context__")
    error.__suppress_context__ = True
    return error


@shape
def a_cycle_of_causes() -> BaseException:
    one, two = RuntimeError("one"), failure(response=Answer(404))
    return chained(one, two, one)


@shape
def a_cycle_of_contexts() -> BaseException:
    one, two = failure(response=Answer(404)), RuntimeError("two")
    return chained(one, two, one, link="__context__")


@shape
def notes() -> BaseException:
    return failure(status_code=404, __notes__=["one", "two"])


@shape
def notes_that_are_no_list() -> BaseException:
    return failure(status_code=404, __notes__=7)


add(
    a_cause=lambda: chained(RuntimeError("outer"), TwoArgumentsError("inner", 404)),
    a_cause_that_cannot_be_pickled=lambda: chained(RuntimeError("outer"), NoWayError("inner", 404)),
    a_cause_with_an_answer=lambda: chained(
        RuntimeError("outer"), ValueError("middle"), failure(response=Answer(429))
    ),
    a_context=lambda: chained(RuntimeError("outer"), TwoArgumentsError("inner", 404), link="__context__"),
    a_wrapped_exception=lambda: RuntimeError("outer", TwoArgumentsError("inner", 404)),
    five_causes=lambda: long(5, "__cause__", TwoArgumentsError("last", 404)),
    a_hundred_causes=lambda: long(100, "__cause__", ValueError("last")),
    two_hundred_contexts=lambda: long(200, "__context__", ValueError("last")),
    five_thousand_causes=lambda: long(5_000, "__cause__", ValueError("last")),
    five_thousand_contexts=lambda: long(5_000, "__context__", ValueError("last")),
)


# -- Those that fight ------------------------------------------------------------------------------


def refuse(*_: object) -> NoReturn:
    """Raise what is no `Exception`."""
    raise SystemExit("hostile")


class HostileError(Exception):
    """Raises whatever is done with it, but for its attributes."""

    def __init__(self) -> None:
        super().__init__("hostile")
        vars(self)["status_code"] = 404

    __str__ = __repr__ = __eq__ = __ne__ = __hash__ = __bool__ = __len__ = refuse  # type: ignore[assignment]
    __setattr__ = __delattr__ = __format__ = __dir__ = refuse  # type: ignore[assignment]


class HidingError(Exception):
    """Hides all of its attributes."""

    def __getattribute__(self, name: str) -> Any:
        raise KeyboardInterrupt(name)


class LyingError(Exception):
    """Says that it is of another class, and makes attributes up."""

    __class__ = property(lambda self: int)  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return 404 if name == "status_code" else super().__getattribute__(name)


class Unequal:
    """Cannot be compared, nor be true or false."""

    def __init__(self) -> None:
        self.status_code = 404

    __eq__ = __bool__ = __len__ = __repr__ = __str__ = refuse  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


add(
    hostile=HostileError,
    hiding=HidingError,
    lying=LyingError,
    what_cannot_be_compared=lambda: failure(response=Unequal()),
)


# -- Those of classes that cannot be imported ------------------------------------------------------


@shape
def a_local_class() -> BaseException:
    class LocalError(TwoArgumentsError):
        """Is known here only."""

    return LocalError("no", 404)


@shape
def a_local_class_that_has_the_status() -> BaseException:
    class LocalError(Exception):
        """Is known here only."""

        status_code = 404

    return LocalError("no")


@shape
def a_local_class_that_registers() -> BaseException:
    class LocalError(RegisteredError, code=404):
        """Is known here only."""

    return LocalError("no")


@shape
def a_local_class_with_a_metaclass() -> BaseException:
    class LocalError(MetaError, code=404):
        """Is known here only."""

    return LocalError("no")


@shape
def a_local_class_with_slots() -> BaseException:
    class LocalError(Exception):
        """Is known here only."""

        __slots__ = ("status_code",)

    error = LocalError("no")
    error.status_code = 404
    return error


@shape
def a_local_class_with_two_bases() -> BaseException:
    class LocalError(TwoArgumentsError, OSError):
        """Is known here only."""

    class LocalsError(LocalError):
        """Is known here only."""

    return LocalsError("no", 404)


@shape
def a_class_made_on_the_fly() -> BaseException:
    kind: Any = type("ThrottlingException", (TwoArgumentsError,), {"__module__": "shapes"})
    error: BaseException = kind("no", 404)
    return error


@shape
def a_local_answer() -> BaseException:
    class LocalAnswer:
        """Is known here only."""

        status_code = 404

        def __init__(self) -> None:
            self.headers = {"Retry-After": "7"}

    return failure(response=LocalAnswer())


@shape
def a_local_enum() -> BaseException:
    class LocalCode(enum.IntEnum):
        """Is known here only."""

        MISSING = 404

    return failure(status_code=LocalCode.MISSING)


class MovedError(Exception):
    """Is replaced below."""

    status_code = 404


_moved = MovedError


class MovedError(ValueError):  # type: ignore[no-redef]  # that is what is special
    """Has the name of another class."""

    status_code = 503


add(
    a_class_whose_name_another_has=lambda: _moved("moved"),
    a_class_with_the_name_of_another=lambda: MovedError("moved"),
)


# -- Groups ----------------------------------------------------------------------------------------

try:
    _Group: Any = ExceptionGroup  # type: ignore[name-defined, unused-ignore]  # from Python 3.11 on
except NameError:  # pragma: no cover  # with Python 3.10
    _Group = None

if _Group is not None:  # pragma: no branch  # the same

    class OwnGroup(_Group):  # type: ignore[misc]  # it is a class
        """A group with an attribute."""

        def __new__(cls, message: str, errors: list[Exception], status_code: int) -> OwnGroup:
            group: OwnGroup = super().__new__(cls, message, errors)
            group.status_code = status_code
            return group

        def __init__(self, *_: object) -> None:
            """Take what ``__new__`` does."""

    class HidingGroup(_Group):  # type: ignore[misc]  # it is a class
        """A group that hides all of its attributes."""

        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

    @shape
    def a_cycle_through_a_group() -> BaseException:
        member = failure(response=Answer(404))
        member.__cause__ = _Group("group", [member])
        return member.__cause__  # type: ignore[return-value]  # as just set

    add(
        a_group=lambda: _Group("group", [ValueError(1), TwoArgumentsError("no", 404)]),
        a_group_that_is_final=lambda: _Group(
            "group", [TwoArgumentsError("no", 404), failure(response=Answer(410))]
        ),
        a_group_in_a_group=lambda: _Group("outer", [_Group("inner", [TwoArgumentsError("no", 429)])]),
        a_group_of_interrupts=lambda: BaseExceptionGroup("group", [KeyboardInterrupt()]),  # type: ignore[name-defined, unused-ignore]  # noqa: F821  # from Python 3.11 on
        a_group_of_its_own=lambda: OwnGroup("group", [NoWayError("no", 404)], 404),
        a_group_that_hides=lambda: HidingGroup("group", [ValueError(1)]),
        a_group_with_a_huge_body=lambda: _with_body(_Group("group", [TwoArgumentsError("no", 404)])),
    )


def _with_body(error: BaseException) -> BaseException:
    vars(error)["body"] = b"x" * (80 << 20)
    return error


LOST: dict[str, set[str]] = {
    "a huge body": {"body"},
    "a huge list": {"more"},
    "a group with a huge body": {"body"},
    "lists in lists": {"lists"},
    "objects in a row": {"client"},
    "a cycle through a group": {"members"},
    "a local class with slots": {"status_code"},
}
"""What may be lost of a shape: it is too large, too deep, or cannot be made. All the rest has to arrive.
What a slot has kept is in the ``__dict__`` of a class that is made up."""
