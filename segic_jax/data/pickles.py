"""Pickles of published data sets -> plain containers, numbers, texts and numpy arrays, without trust.

A pickle is a program by whoever wrote the file, so it is interpreted here by hand: nothing is imported and
nothing of Python's is called. `pickle.Unpickler` with a checked `find_class` would not do: 15 bytes make it
fill 64 GB with an empty memo, a dictionary key of deeply nested tuples overflows the C stack, and a crafted
numpy dtype reads memory as pointers. Instructions: CPython's Lib/pickletools.py, protocols 2 to 5.
"""

import io
import math
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.lib import format as npy

from segic_jax.data.image_files import read_bytes
from segic_jax.errors import DataError

_FLOATS = re.compile(rb"(?:G.{8}){1,1000}+", re.DOTALL)
_FLOAT = np.dtype([("code", "u1"), ("value", ">f8")])
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|O8|U[1-9]\d{0,3}|S[1-9]\d{0,3}")
_BUILTINS = ("set", "frozenset", "list", "dict", "tuple", "int", "float", "str", "bool", "bytes")
_KNOWN = {
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",  # how protocol 2 spells bytes
    "collections.OrderedDict",
    "collections.defaultdict",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _BUILTINS),
}


def read_pickle(path: Path | str) -> Any:
    """What the pickle describes: dict (in the file's order), list, tuple, set, frozenset, str, bytes, int,
    float, bool, None, and read-only numpy arrays and scalars; an OrderedDict or defaultdict is a dict.

    Raises:
        DataError: naming the file: missing, damaged, or holding anything else. Nothing in it is run.
    """
    return _interpret(read_bytes(path), 0, path)


def read_npy(path: Path | str) -> np.ndarray:
    """An array that `np.save` wrote, also one of objects, which are read as `read_pickle` does.

    Raises:
        DataError: naming the file: missing, damaged, or holding anything else. Nothing in it is run.
    """
    content = read_bytes(path)
    try:
        shape, fortran, dtype, start = _npy_header(content)
        if not dtype.hasobject:
            return _array(dtype, shape, fortran, content[start:])
        array = _interpret(content, start, path)
        if not isinstance(array, np.ndarray) or array.size != math.prod(shape):
            raise ValueError("not the array that the header promises")
        return array.reshape(shape)
    except _ODD as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged or no .npy file: get the file again.") from error


# Whatever odd bytes make Python, struct and numpy raise.
_ODD = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)
_ODD = (*_ODD, struct.error, SyntaxError)


class _Name(str):
    """What a pickle calls a global."""


class _Pending:
    """A dtype, or an array between its making and its BUILD instruction."""

    def __init__(self, value: Any = None):
        self.value = value


_UNFINISHED = {_Name, _Pending}


def _interpret(data: bytes, start: int, path: Path | str) -> Any:
    try:
        return _Machine(data, start, path).run()
    except _ODD as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} is cut off, damaged or no pickle of protocol 2 or later: get the file again."
        ) from error


class _Machine:
    """Pickle's stack, marks and memo."""

    def __init__(self, data: bytes, start: int, path: Path | str):
        self.data, self.position, self.path = data, start, path
        self.stack: list = []
        self.below: list[list] = []  # the stacks below each mark
        self.memo: list = []
        self.spare = 16 * len(data) + 1000  # items that may still be copied: the memo gives away long lists

    def run(self) -> Any:
        if self.data[self.position] != 0x80:
            _odd("not of protocol 2 or later")
        steps = self.steps()
        data = self.data
        while (code := data[self.position]) != 0x2E:  # "."
            if code not in steps:
                self.refuse(f"the pickle instruction {chr(code)!r}")
            self.position += 1
            steps[code]()
        return _final(self.stack.pop())

    def steps(self) -> dict[int, Callable[[], object]]:
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
            # Numbers, texts, bytes.
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
            "U": push(text(byte, "latin-1")),  # texts of Python 2
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
            "a": lambda: self.under(list).append(_final(self.stack.pop())),
            "u": self.set_items,
            "s": self.set_item,
            "t": lambda: self.wrap(tuple),
            "\x91": lambda: self.wrap(lambda items: frozenset(map(_key, items))),
            "\x90": self.add_items,
            "\x85": lambda: self.tuple_of(1),
            "\x86": lambda: self.tuple_of(2),
            "\x87": lambda: self.tuple_of(3),
            # Globals, and what is done with them.
            "c": lambda: self.known(self.line(), self.line()),
            "\x93": self.stack_global,
            "R": self.call,
            "b": self.build,
            # Protocol and frames.
            "\x80": lambda: self.take(1),
            "\x95": lambda: self.take(8),
        }
        return {ord(code): step for code, step in table.items()}

    # Memo.

    def get(self, index: int) -> Any:
        value = self.memo[index]
        return value.value if type(value) is _Pending and type(value.value) is np.ndarray else value

    def put(self, index: int) -> None:
        if index > len(self.memo):  # picklers count up
            _odd("a hole in the memo")
        self.memo[index : index + 1] = [self.stack[-1]]

    # Numbers, texts, bytes.

    def floats(self) -> None:
        """All that follow each other at once: most of a file of polygons are such runs."""
        run = _FLOATS.match(self.data, self.position - 1)
        if run is None:
            _odd("cut off")
        count = (run.end() - run.start()) // _FLOAT.itemsize
        self.stack.extend(np.frombuffer(self.data, _FLOAT, count, run.start())["value"].tolist())
        self.position = run.end()

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            _odd("cut off")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def line(self) -> str:
        return self.take(self.data.index(b"\n", self.position) + 1 - self.position)[:-1].decode()

    # Containers.

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def items(self) -> list:
        """Everything above the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def under(self, kind: type) -> Any:
        """The container below the top."""
        return _of(kind, self.stack[-2])

    def appends(self) -> None:
        items = self.items()
        if not _UNFINISHED.isdisjoint(map(type, items)):
            _odd("a value that is not finished")
        _of(list, self.stack[-1]).extend(items)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _of(dict, self.stack[-1])[_key(key)] = _final(value)

    def set_items(self) -> None:
        items = self.items()
        dictionary = _of(dict, self.stack[-1])
        for key, value in zip(items[::2], items[1::2], strict=True):
            dictionary[_key(key)] = _final(value)

    def add_items(self) -> None:
        items = self.items()
        _of(set, self.stack[-1]).update(map(_key, items))

    def wrap(self, kind: Callable[[list], Any]) -> None:
        items = self.items()
        self.stack.append(kind(items))

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            _odd("an empty stack")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    # Globals.

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.known(_of(str, module), _of(str, name))

    def known(self, module: str, name: str) -> None:
        if f"{module}.{name}" not in _KNOWN:
            self.refuse(repr(f"{module}.{name}"[:100]))
        self.stack.append(_Name(name))

    def call(self) -> None:
        arguments, function = _of(tuple, self.stack.pop()), _of(_Name, self.stack.pop())
        self.stack.append(self.made(function, *arguments[:8]))

    def made(self, function: str, *arguments: Any) -> Any:
        match function:
            case "dtype":
                return _Pending(_dtype(arguments[0]))
            case "_reconstruct":
                return _Pending()
            case "scalar":
                dtype, raw = arguments
                return _array(dtype.value, (), False, raw)[()]
            case "_frombuffer":
                raw, dtype, shape, order = arguments
                return _array(dtype.value, shape, order == "F", raw)
            case "encode":
                return _of(str, arguments[0]).encode("latin-1")
            case "OrderedDict" | "defaultdict":
                return dict(self.pairs(*arguments)) if function == "OrderedDict" else {}
            case "set" | "frozenset":
                items = map(_key, self.copied(*arguments))
                return set(items) if function == "set" else frozenset(items)
            case "bytes":
                return b"" if not arguments else _odd("bytes of something")
        return _odd("a call of what makes nothing")

    def pairs(self, pairs: Any = ()) -> list[tuple]:
        return [(_key(key), _final(value)) for key, value in self.copied(pairs)]

    def copied(self, items: Any = ()) -> Any:
        self.spare -= len(items)
        if self.spare < 0 or type(items) not in (list, tuple):
            _odd("a set of far more than the file holds")
        return items

    def build(self) -> None:
        state, pending = _of(tuple, self.stack.pop()), _of(_Pending, self.stack[-1])
        if isinstance(pending.value, np.dtype):  # (version, byte order, no fields, ...)
            if any(field is not None for field in state[2:5]):
                _odd("a dtype with fields")
            pending.value = pending.value.newbyteorder(_of(str, state[1]))
        else:
            _, shape, dtype, fortran, raw = state
            pending.value = self.stack[-1] = _array(dtype.value, shape, bool(fortran), raw)

    def refuse(self, what: str) -> NoReturn:
        raise DataError(
            f"{self.path} asks for {what}, which is no plain data, so nothing of it was run: "
            "get the file again from where it was published."
        )


def _final(value: Any) -> Any:
    """The value, which must be finished: no global, dtype or array that is still to be built."""
    return _odd("a value that is not finished") if type(value) in _UNFINISHED else value


def _key(value: Any) -> Any:
    """Only keys that hash and compare fast: nested tuples, or numbers chosen to collide, would not."""
    if type(value) is int and value.bit_length() > 64:
        _odd("a huge key")
    if value is not None and not isinstance(value, (str, int, float, bytes, np.generic)):
        _odd("a key that is no text or number")
    return value


def _of(kind: type, value: Any) -> Any:
    return value if type(value) is kind else _odd(f"no {kind.__name__}")


def _dtype(code: Any) -> np.dtype:
    return np.dtype(code) if _DTYPE.fullmatch(_of(str, code)) else _odd("an unusual dtype")


def _array(dtype: np.dtype, shape: Any, fortran: bool, raw: Any) -> np.ndarray:
    """Held against what is there before anything is allocated."""
    count, order = math.prod(shape), "F" if fortran else "C"
    if min(shape, default=0) < 0 or len(shape) > 32:
        _odd("an odd shape")
    if dtype.hasobject:
        if len(_of(list, raw)) != count:
            _odd("a wrong number of objects")
        array = np.empty(count, object)
        for i, value in enumerate(raw):
            array[i] = _final(value)
        return array.reshape(shape, order=order)
    raw = raw.encode("latin-1") if type(raw) is str else _of(bytes, raw)
    if len(raw) != count * dtype.itemsize:
        _odd("a wrong number of bytes")
    if dtype.kind == "b":  # a byte that is neither 0 nor 1 would be both true and false
        return (np.frombuffer(raw, np.uint8) != 0).reshape(shape, order=order)
    return np.frombuffer(raw, dtype).reshape(shape, order=order)


def _npy_header(content: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, Fortran order, dtype, and where the data start."""
    file = io.BytesIO(content)
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype, file.tell()


def _odd(why: str) -> NoReturn:
    raise ValueError(why)
