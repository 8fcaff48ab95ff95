"""The part of the pickle language that tensors and plain containers need, interpreted by hand.

A pickle is a program by whoever wrote the file. The machine below imports nothing and calls nothing of
Python's: a global stays the text it is written as, "calling" one of the few known names makes a record, and
every other name or instruction is refused. In: a file that stands at a pickle. Out: what it describes.
Instructions: CPython's Lib/pickletools.py. Names: torch/_utils.py and torch/serialization.py.
"""

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import ml_dtypes
import numpy as np

_MOST_STEPS = 2_000_000  # a training checkpoint with a thousand parameters takes 100 000
_LONGEST_TEXT = 1 << 24  # bytes
_LONGEST_NAME = 1 << 12  # characters
_MOST_AXES = 32

_STORAGES = {
    "torch.DoubleStorage": np.float64,
    "torch.FloatStorage": np.float32,
    "torch.HalfStorage": np.float16,
    "torch.BFloat16Storage": ml_dtypes.bfloat16,
    "torch.LongStorage": np.int64,
    "torch.IntStorage": np.int32,
    "torch.ShortStorage": np.int16,
    "torch.CharStorage": np.int8,
    "torch.ByteStorage": np.uint8,
    "torch.BoolStorage": np.bool_,
    "torch.storage.UntypedStorage": np.uint8,
}
_TENSORS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
_PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
_DICTIONARIES = {"collections.OrderedDict", "collections.Counter"}
# What stands beside weights and is not needed: devices, bytes, sets. A call of these gives None.
_PLAIN = {"torch.device", "_codecs.encode"} | {
    f"{module}.{name}"
    for module in ("builtins", "__builtin__")  # as Python 3 and Python 2 call it
    for name in ("set", "frozenset", "bytes", "bytearray", "complex")
}
_DTYPES = {f"torch.{name}" for name in ("float64", "float32", "float16", "bfloat16", "bool", "uint8")}
_DTYPES |= {f"torch.int{bits}" for bits in (8, 16, 32, 64)}
_KNOWN = {"torch.Size", *_STORAGES, *_TENSORS, *_PARAMETERS, *_DICTIONARIES, *_PLAIN, *_DTYPES}


class Refused(Exception):
    """Why a file is not read: the end of a sentence that begins with its name."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A one-dimensional array somewhere in the file."""

    dtype: np.dtype
    key: str
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage; offset and strides count elements. It may reach outside the storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Name:
    """What a pickle calls a global."""

    text: str


def read_pickle(file: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """Interpret one pickle; the file stands behind it afterwards.

    Returns: what it describes, where everything that is no dictionary, list, tuple, text, number, `Tensor` or
    `Storage` has become None; and the storages by key.

    Raises:
        Refused: it asks for anything that tensors and plain containers do not need, or is damaged.
    """
    machine = _Machine(file)
    try:
        return machine.run(), machine.storages
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Refused("is damaged: its pickle makes no sense; get the file again") from error


class _Machine:
    """Pickle's stack, marks and memo. Nested values are never walked through, hashed or compared."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.stack: list = []
        self.below: list[list] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.steps = 0

    def run(self) -> Any:
        while (code := self.take(1)) != b".":
            self.spend(1)
            self.step(code)
        return self.stack.pop()

    def step(self, code: bytes) -> None:
        push, pop = self.stack.append, self.stack.pop
        match code:
            # Memo.
            case b"q":
                self.memo[self.take(1)[0]] = self.stack[-1]
            case b"r":
                self.memo[self.number("<I")] = self.stack[-1]
            case b"\x94":
                self.memo[len(self.memo)] = self.stack[-1]
            case b"h":
                push(self.memo[self.take(1)[0]])
            case b"j":
                push(self.memo[self.number("<I")])
            # Numbers and texts.
            case b"N":
                push(None)
            case b"\x88" | b"\x89":
                push(code == b"\x88")
            case b"K":
                push(self.take(1)[0])
            case b"M":
                push(self.number("<H"))
            case b"J":
                push(self.number("<i"))
            case b"G":
                push(self.number(">d"))
            case b"\x8a":
                push(int.from_bytes(self.take(self.take(1)[0]), "little", signed=True))
            case b"X":
                push(self.text(self.number("<I"), "utf-8"))
            case b"\x8c":
                push(self.text(self.take(1)[0], "utf-8"))
            case b"U":  # a text by Python 2
                push(self.text(self.take(1)[0], "latin-1"))
            case b"T":
                push(self.text(self.number("<i"), "latin-1"))
            case b"C" | b"B":
                self.text(self.take(1)[0] if code == b"C" else self.number("<I"), "latin-1")
                push(None)
            # Containers. A set is read as a list: nothing here needs its items to be hashed.
            case b"(":
                self.below.append(self.stack)
                self.stack = []
            case b")":
                push(())
            case b"\x85" | b"\x86" | b"\x87":
                count = code[0] - 0x84
                if len(self.stack) < count:
                    _damaged()
                self.stack[-count:] = [tuple(self.stack[-count:])]
            case b"t" | b"\x91":
                items = self.items()
                self.stack.append(tuple(items))
            case b"]" | b"\x8f":
                push([])
            case b"a":
                item = pop()
                self.top(list).append(item)
            case b"e" | b"\x90":
                items = self.items()
                self.top(list).extend(items)
            case b"}":
                push({})
            case b"s":
                value, key = pop(), pop()
                _put(self.top(dict), key, value)
            case b"u":
                items = self.items()
                for key, value in zip(items[::2], items[1::2], strict=True):
                    _put(self.top(dict), key, value)
            # Globals, and what is done with them.
            case b"c":
                module, name = (self.file.readline(_LONGEST_NAME)[:-1].decode() for _ in range(2))
                push(_known(module, name))
            case b"\x93":
                name, module = pop(), pop()
                push(_known(module, name))
            case b"R":
                arguments, function = pop(), pop()
                push(self.call(function, arguments))
            case b"b":  # state_dict()._metadata, which nothing here needs
                pop()
                self.top(dict)
            case b"Q":
                push(self.storage(pop()))
            case b"\x80":
                self.take(1)  # protocol
            case b"\x95":
                self.take(8)  # length of a frame
            case _:
                raise Refused(
                    f"uses the pickle instruction {code!r}, which weights do not need, so it was not read; "
                    "get the weights as .safetensors"
                )

    def call(self, function: Any, arguments: Any) -> Any:
        # The memo may hand in one long tuple many times.
        if type(function) is not _Name or type(arguments) is not tuple or len(arguments) > 8:
            _damaged()
        if function.text in _TENSORS:
            # requires_grad and hooks follow; the last, a conjugate or negative bit, would change the numbers.
            storage, offset, size, stride, *rest = arguments
            if len(rest) > 2 and rest[2]:
                raise Refused("holds a conjugated or negated view; save tensor.resolve_neg() instead")
            return _tensor(storage, offset, size, stride)
        if function.text in _PARAMETERS:
            if type(arguments[0]) is not Tensor:
                _damaged()
            return arguments[0]
        if function.text in _DICTIONARIES:
            return self.dictionary(*arguments)
        if function.text == "torch.Size":
            return arguments[0]
        if function.text in _PLAIN:
            return None
        return _damaged()

    def dictionary(self, content: Any = ()) -> dict:
        pairs = content.items() if type(content) is dict else content
        self.spend(len(pairs))  # the memo may hand in one long list many times
        result: dict = {}
        for key, value in pairs:
            _put(result, key, value)
        return result

    def storage(self, persistent: Any) -> Storage:
        if type(persistent) is not tuple or len(persistent) not in (5, 6) or persistent[0] != "storage":
            _damaged()
        storage_type, key, _, count, *view = persistent[1:]
        if type(storage_type) is not _Name or storage_type.text not in _STORAGES:
            _damaged()
        if not (_short(key) and _is_count(count)):
            _damaged()
        if view not in ([], [None]):
            raise Refused(
                "was written by a torch before 0.4; load it there and save it again with a newer one"
            )
        storage = Storage(np.dtype(_STORAGES[storage_type.text]), key, count)
        if self.storages.setdefault(key, storage) != storage:
            _damaged()
        return storage

    def take(self, count: int) -> bytes:
        data = self.file.read(count)
        if len(data) < count:
            raise Refused("ends in the middle; get the file again")
        return data

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self, length: int, encoding: str) -> str:
        if not 0 <= length <= _LONGEST_TEXT:
            _damaged()
        return self.take(length).decode(encoding)

    def items(self) -> list:
        """Everything above the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            _damaged()
        return self.stack[-1]

    def spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > _MOST_STEPS:
            raise Refused("describes far more than weights; save model.state_dict() alone")


def _short(text: Any) -> bool:
    return type(text) is str and len(text) <= _LONGEST_NAME


def _known(module: Any, name: Any) -> _Name:
    if not (_short(module) and _short(name)):
        _damaged()
    name = f"{module}.{name}"
    if name not in _KNOWN:
        raise Refused(
            f"asks for {name[:100]!r}, which is no plain tensor or container, so nothing was read or run; "
            "get the weights as .safetensors, or save model.state_dict() alone"
        )
    return _Name(name)


def _put(dictionary: dict, key: Any, value: Any) -> None:
    # Only keys that hash and compare fast: nested tuples, or numbers chosen to collide, would take forever.
    if not (_short(key) or key is None or (type(key) is int and key.bit_length() <= 64)):
        raise Refused("has a dictionary key that is no short text or number; save model.state_dict() alone")
    dictionary[key] = value


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    if type(storage) is not Storage or type(size) is not tuple or type(stride) is not tuple:
        _damaged()
    if len(size) > _MOST_AXES or len(size) != len(stride):
        _damaged()
    if not all(map(_is_count, (offset, *size, *stride))):
        _damaged()
    return Tensor(storage, offset, size, stride)


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number < 1 << 63


def _damaged() -> NoReturn:
    raise Refused("is damaged: its pickle makes no sense; get the file again")
