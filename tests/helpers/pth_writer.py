"""Write torch checkpoints without torch from single pickle instructions, including hostile ones."""

import io
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
DTYPES = {name: np.dtype(getattr(ml_dtypes if name == "bfloat16" else np, name)) for name in STORAGES}
MAGIC = 0x1950A86A20F9469CFC6C


class Ops(bytes):
    """Hold pickle instructions that leave one value on the stack."""


def ops(value) -> Ops:
    """Return the instructions that make a value."""
    if isinstance(value, Ops):
        return value
    if value is None or isinstance(value, bool):
        return Ops({None: b"N", True: b"\x88", False: b"\x89"}[value])
    if isinstance(value, int):
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return Ops(b"\x8a" + bytes([len(data)]) + data)
    if isinstance(value, float):
        return Ops(b"G" + struct.pack(">d", value))
    if isinstance(value, str):
        return Ops(b"X" + struct.pack("<I", len(value.encode())) + value.encode())
    if isinstance(value, tuple):
        return Ops(b"(" + b"".join(map(ops, value)) + b"t")
    if isinstance(value, list):
        return Ops(b"](" + b"".join(map(ops, value)) + b"e")
    if isinstance(value, dict):
        return Ops(b"}(" + b"".join(ops(key) + ops(item) for key, item in value.items()) + b"u")
    raise TypeError(type(value))


def name(module: str, text: str) -> Ops:
    return Ops(f"c{module}\n{text}\n".encode())


def call(function: Ops, *arguments) -> Ops:
    return Ops(function + ops(arguments) + b"R")


def storage(dtype: str, key: str, count, *view) -> Ops:
    kind = name("torch", STORAGES[dtype])
    return Ops(ops(("storage", kind, key, "cpu", count, *view)) + b"Q")


def tensor(stored: Ops, offset, size, stride) -> Ops:
    hooks = call(name("collections", "OrderedDict"))
    return call(name("torch._utils", "_rebuild_tensor_v2"), stored, offset, size, stride, False, hooks)


def array(value: np.ndarray, key: str, *view) -> Ops:
    """Return the instructions for a tensor with a storage of its own."""
    steps = tuple(step // value.itemsize for step in value.strides)
    return tensor(storage(str(value.dtype), key, value.size, *view), 0, value.shape, steps)


def pickled(value) -> bytes:
    return b"\x80\x02" + ops(value) + b"."


def write_zip(path: Path, content, storages: dict[str, bytes], *, folder="archive", packed=False, extra=()):
    """Write the zip format.

    Args:
        content: a value, or a complete pickle as bytes.
        storages: the data by key.
        extra: further entries (name, bytes).
    """
    content = content if type(content) is bytes else pickled(content)
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr(f"{folder}/data.pkl", content)
        for entry, data in [(f"data/{key}", data) for key, data in storages.items()] + list(extra):
            archive.writestr(f"{folder}/{entry}", data)
        archive.writestr(f"{folder}/version", b"3\n")
    return path


def write_state_dict(path: Path, tensors: dict[str, np.ndarray]):
    """Write a state dict in the zip format."""
    content = {name: array(value, str(key)) for key, (name, value) in enumerate(tensors.items())}
    return write_zip(path, content, {str(k): value.tobytes() for k, value in enumerate(tensors.values())})


def write_legacy(path: Path, content, storages: dict[str, tuple[int, bytes]], *, start=()):
    """Write the format of old torch versions.

    Args:
        content: a value, or a complete pickle as bytes.
        storages: (count, bytes) by key.
        start: pickles that replace the first ones.
    """
    content = content if type(content) is bytes else pickled(content)
    pickles = [pickled(MAGIC), pickled(1001), pickled({"little_endian": True}), content, pickled([*storages])]
    pickles[: len(start)] = start
    file = io.BytesIO()
    file.write(b"".join(pickles))
    for count, data in storages.values():
        file.write(struct.pack("<q", count) + data)
    path.write_bytes(file.getvalue())
    return path
