"""Read pickles from untrusted files: plain containers, numbers, strings, and the globals of an allow-list.

A pickle is a program by whoever wrote the file. It is interpreted here by hand: nothing is imported, and of
Python's callables only the builders of the caller's allow-list run. `pickle.Unpickler` with a checked
`find_class` would not be enough: 15 bytes make it fill 64 GB with an empty memo, and a dictionary key of
deeply nested tuples overflows the C stack. Source of the instructions: CPython's Lib/pickletools.py,
protocols 2 to 5.
"""

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from segic_jax.errors import RefusedFile

# Every kind of exception that malformed bytes make Python, struct and numpy raise.
MALFORMED = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)
MALFORMED = (*MALFORMED, struct.error, SyntaxError)

_MAX_ARGUMENTS = 8
_MAX_NAME = 1 << 12  # bytes of a global's module or name
_FLOAT_RUN = re.compile(rb"(?:G.{8}){1,1000}+", re.DOTALL)
_FLOAT = np.dtype([("code", "u1"), ("value", ">f8")])
_STOP = ord(".")
_EMPTY = object()


@dataclass(frozen=True, slots=True)
class Constant:
    """Stand for a global that is a value and cannot be called, such as torch.float32."""

    name: str


@dataclass(frozen=True, slots=True)
class AllowList:
    """Say what a pickle may ask for besides plain containers, numbers and strings.

    Attributes:
        globals: by "module.name" a function that makes a value from the arguments of a call, or None for a
            `Constant`.
        refusal: the end of the sentence "FILE asks for 'os.system', ...".
        advice: how to get a file without what is refused; the end of a sentence.
        persistent: makes a value of a persistent id; None refuses them.
        ignore_state: leave out state that is set on a dictionary, such as the `_metadata` of a state_dict.
        globals_as_values: let a global stand in a container, for callers that ignore values of unknown types.
        max_steps: instructions and copied items, at most; None for a number that grows with the file.
        max_string: bytes of a string, at most.
    """

    globals: Mapping[str, Callable[..., Any] | None]
    refusal: str
    advice: str
    persistent: Callable[[Any], Any] | None = None
    ignore_state: bool = False
    globals_as_values: bool = False
    max_steps: int | None = None
    max_string: int = 1 << 62


class Unfinished:
    """Stand for a value between the call that makes it and the BUILD instruction that gives its content.

    `result` is the value once it is finished. An unfinished value may be an argument, but not an item of a
    container.
    """

    result: Any = None

    def build(self, state: Any) -> None:
        """Take the content; raise ValueError if it is not of the expected form."""
        raise NotImplementedError


class _Global:
    """Hold the builder of an allowed global."""

    __slots__ = ("builder", "is_value")

    def __init__(self, builder: Callable[..., Any], is_value: bool):
        self.builder, self.is_value = builder, is_value


def unpickle(data: bytes | memoryview, allowed: AllowList, start: int = 0) -> tuple[Any, int]:
    """Interpret the pickle that begins at `start`.

    Returns:
        The value, and the position behind the pickle. Sets, dictionaries, lists, tuples, strings, bytes and
        numbers come back as Python's own; what the allow-list names comes back as its builders make it.

    Raises:
        RefusedFile: the pickle is damaged or asks for anything else. Nothing in it was run. The message is
            the end of a sentence that begins with the file's name.
    """
    machine = _Machine(data, allowed, start)
    try:
        return machine.run(), machine.position
    except RefusedFile:
        raise
    except MALFORMED as error:
        if isinstance(error, _UnusualKey):
            raise RefusedFile(f"has {error}; {allowed.advice}") from error
        raise RefusedFile(
            "is cut off, damaged or not a pickle of protocol 2 or later; get the file again"
        ) from error


class _UnusualKey(ValueError):
    """Say which value cannot be a key; the pickle itself may be sound."""


class _Machine:
    """Keep pickle's stack, marks and memo. Nested values are never walked through, hashed or compared."""

    def __init__(self, data: bytes | memoryview, allowed: AllowList, start: int):
        self.data, self.allowed, self.position = data, allowed, start
        self.stack: list = []
        self.below: list[list] = []  # the stacks below each mark
        self.memo: list = []
        self.spare = (
            allowed.max_steps or 17 * len(data) + 1000
        )  # the memo can hand out one long list many times

    def run(self) -> Any:
        if self.data[self.position] != 0x80:
            malformed("not of protocol 2 or later")
        instructions, data = self.instructions(), self.data
        while (code := data[self.position]) != _STOP:
            if code not in instructions:
                raise RefusedFile(f"uses the pickle instruction {bytes([code])!r}, {self.allowed.refusal}")
            self.spare -= 1
            if self.spare < 0:
                raise RefusedFile(f"describes far more than plain data need; {self.allowed.advice}")
            self.position += 1
            instructions[code]()
        self.position += 1
        return finished(self.stack.pop())

    def instructions(self) -> dict[int, Callable[[], Any]]:
        """Return what each instruction does, by its byte."""

        def push(value: Callable[[], Any]) -> Callable[[], None]:
            return lambda: self.stack.append(value())

        def number(form: str) -> Callable[[], Any]:
            unpack, size = struct.Struct(form).unpack_from, struct.calcsize(form)

            def read() -> Any:
                self.position += size
                return unpack(self.data, self.position - size)[0]

            return read

        byte, short, word, long = number("<B"), number("<H"), number("<I"), number("<Q")

        def text(length: Callable[[], int], encoding: str) -> Callable[[], str]:
            return lambda: str(self.take(length()), encoding)

        table = {
            # Memo.
            "h": push(lambda: self.get(byte())),
            "j": push(lambda: self.get(word())),
            "q": lambda: self.put(byte()),
            "r": lambda: self.put(word()),
            "\x94": lambda: self.memo.append(self.stack[-1]),
            # Numbers, strings, bytes.
            "G": self.floats,
            "K": push(byte),
            "M": push(short),
            "J": push(number("<i")),
            "\x8a": push(lambda: int.from_bytes(self.take(byte()), "little", signed=True)),
            "N": push(lambda: None),
            "\x88": push(lambda: True),
            "\x89": push(lambda: False),
            "\x8c": push(text(byte, "utf-8")),
            "X": push(text(word, "utf-8")),
            "\x8d": push(text(long, "utf-8")),
            "U": push(text(byte, "latin-1")),  # strings of Python 2
            "T": push(text(word, "latin-1")),
            "C": push(lambda: self.take(byte())),
            "B": push(lambda: self.take(word())),
            "\x8e": push(lambda: self.take(long())),
            "\x96": push(lambda: self.take(long())),
            # Containers.
            "(": self.mark,
            "]": push(list),
            "}": push(dict),
            ")": push(tuple),
            "\x8f": push(set),
            "e": self.appends,
            "a": lambda: require(list, self.stack[-2]).append(finished(self.stack.pop())),
            "u": self.set_items,
            "s": self.set_item,
            "t": lambda: self.wrap(tuple),
            "\x91": lambda: self.wrap(lambda items: frozenset(map(require_key, items))),
            "\x90": self.add_items,
            "\x85": lambda: self.tuple_of(1),
            "\x86": lambda: self.tuple_of(2),
            "\x87": lambda: self.tuple_of(3),
            # Globals, and what is done with them.
            "c": lambda: self.find_global(self.line(), self.line()),
            "\x93": self.stack_global,
            "R": self.call,
            "b": self.build,
            # Protocol and frames.
            "\x80": lambda: self.take(1),
            "\x95": lambda: self.take(8),
        }
        if self.allowed.persistent is not None:
            table["Q"] = lambda: self.stack.append(self.allowed.persistent(self.stack.pop()))
        return {ord(code): step for code, step in table.items()}

    # Memo.

    def get(self, index: int) -> Any:
        value = self.memo[index]
        if value is _EMPTY:
            malformed("an empty place of the memo")
        return value.result if isinstance(value, Unfinished) and value.result is not None else value

    def put(self, index: int) -> None:
        # Picklers count up; that of Python 2 begins at 1.
        if index == len(self.memo) + 1 == 1:
            self.memo.append(_EMPTY)
        if index > len(self.memo):
            malformed("a hole in the memo")
        self.memo[index : index + 1] = [self.stack[-1]]

    # Numbers, strings, bytes.

    def floats(self) -> None:
        """Read all floats that follow each other at once: most of a file of polygons are such runs."""
        run = _FLOAT_RUN.match(self.data, self.position - 1)
        if run is None:
            malformed("cut off")
        count = (run.end() - run.start()) // _FLOAT.itemsize
        self.stack.extend(np.frombuffer(self.data, _FLOAT, count, run.start())["value"].tolist())
        self.position = run.end()

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data) or count > self.allowed.max_string:
            malformed("cut off")
        taken = bytes(self.data[self.position : end])
        self.position = end
        return taken

    def line(self) -> str:
        length = bytes(self.data[self.position : self.position + _MAX_NAME]).index(b"\n")
        return self.take(length + 1)[:-1].decode()

    # Containers.

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def items(self) -> list:
        """Return everything above the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def appends(self) -> None:
        items = self.items()
        require(list, self.stack[-1]).extend(map(finished, items))

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        require(dict, self.stack[-1])[require_key(key)] = finished(value)

    def set_items(self) -> None:
        items = self.items()
        dictionary = require(dict, self.stack[-1])
        for key, value in zip(items[::2], items[1::2], strict=True):
            dictionary[require_key(key)] = finished(value)

    def add_items(self) -> None:
        items = self.items()
        require(set, self.stack[-1]).update(map(require_key, items))

    def wrap(self, kind: Callable[[list], Any]) -> None:
        items = self.items()
        self.stack.append(kind(items))

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            malformed("an empty stack")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    # Globals.

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.find_global(require(str, module), require(str, name))

    def find_global(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in self.allowed.globals:
            raise RefusedFile(f"asks for {full[:100]!r}, {self.allowed.refusal}")
        builder = self.allowed.globals[full]
        self.stack.append(
            Constant(full) if builder is None else _Global(builder, self.allowed.globals_as_values)
        )

    def call(self) -> None:
        arguments, function = require(tuple, self.stack.pop()), require(_Global, self.stack.pop())
        if len(arguments) > _MAX_ARGUMENTS:
            malformed("too many arguments")
        for argument in arguments:  # the builder may copy it
            self.spare -= len(argument) if isinstance(argument, (list, tuple, dict, set, frozenset)) else 0
        if self.spare < 0:
            raise RefusedFile(f"describes far more than plain data need; {self.allowed.advice}")
        self.stack.append(function.builder(*arguments))

    def build(self) -> None:
        state, value = self.stack.pop(), self.stack[-1]
        if isinstance(value, Unfinished):
            value.build(state)
            if value.result is not None:
                self.stack[-1] = value.result
        elif not (self.allowed.ignore_state and type(value) is dict):
            malformed("state of a value that takes none")


def finished(value: Any) -> Any:
    """Return a value that may stand in a container; raise ValueError for a global or an unfinished one."""
    if isinstance(value, Unfinished) or (isinstance(value, _Global) and not value.is_value):
        malformed("a value that is not finished")
    return value


def require_key(value: Any) -> Any:
    """Return a key that hashes and compares fast: nested tuples, or numbers chosen to collide, would not."""
    if type(value) is int and value.bit_length() > 64:
        malformed("a huge key")
    if value is not None and not isinstance(value, (str, int, float, bytes, np.generic)):
        raise _UnusualKey("a dictionary key or an item of a set that is neither text nor a number")
    return value


def require(kind: type, value: Any) -> Any:
    """Return a value of exactly this type; raise ValueError for another one."""
    return value if type(value) is kind else malformed(f"not a {kind.__name__}")


def make_dict(pairs: Any = ()) -> dict:
    """Build a dictionary from another one or from pairs, the arguments of an OrderedDict."""
    if type(pairs) is not dict and type(pairs) not in (list, tuple):
        malformed("not a list of pairs")
    items = pairs.items() if type(pairs) is dict else pairs
    return {require_key(key): finished(value) for key, value in items}


def malformed(reason: str) -> NoReturn:
    """Raise the ValueError of a pickle that makes no sense."""
    raise ValueError(reason)
