"""Write named arrays to a .safetensors file, one array at a time.

The official writer needs all bytes in memory at once; this one copies one array at a time, and the file
appears under its name only once it is complete.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import ml_dtypes
import numpy as np

from segic_jax.errors import WriteError
from segic_jax.runtime.atomic_write import atomic_path

_STORED_AS = {
    np.dtype(dtype): name
    for dtype, name in (
        (np.float64, "F64"),
        (np.float32, "F32"),
        (np.float16, "F16"),
        (ml_dtypes.bfloat16, "BF16"),
        (np.int64, "I64"),
        (np.int32, "I32"),
        (np.int16, "I16"),
        (np.int8, "I8"),
        (np.uint64, "U64"),
        (np.uint32, "U32"),
        (np.uint16, "U16"),
        (np.uint8, "U8"),
        (np.bool_, "BOOL"),
    )
}


def write_safetensors(
    path: Path | str,
    tensors: Mapping[str, np.ndarray | jax.Array],
    metadata: Mapping[str, str],
    *,
    float16: bool = False,
) -> None:
    """Write a file; it appears under its name once it is complete.

    The same input gives the same bytes. Arrays may have any strides and byte order.

    Args:
        float16: store floating-point tensors as float16.

    Raises:
        WriteError: the disk refuses, or a tensor has a type that the format does not support.
    """
    dtypes = {name: _stored_dtype(name, value.dtype, float16) for name, value in tensors.items()}
    # The format allows no gaps: with the widest types first every tensor is aligned.
    order = sorted(tensors, key=lambda name: (-dtypes[name].itemsize, name))
    with atomic_path(path, WriteError) as part, part.open("wb") as file:
        file.write(_header({name: (dtypes[name], tensors[name].shape) for name in order}, metadata))
        for name in order:
            array = np.ascontiguousarray(tensors[name], dtypes[name])
            file.write(array.reshape(-1).view(np.uint8))
        file.flush()
        os.fsync(file.fileno())


def _stored_dtype(name: str, dtype: np.dtype, float16: bool) -> np.dtype:
    """Return the little-endian dtype in which a tensor is stored."""
    # NumPy does not count bfloat16 among its floating-point types.
    if float16 and (np.issubdtype(dtype, np.floating) or dtype == ml_dtypes.bfloat16):
        return np.dtype(np.float16)
    dtype = np.dtype(dtype).newbyteorder("<")
    if dtype not in _STORED_AS:
        raise WriteError(f"{name} has the type {dtype}, which a .safetensors file cannot hold.")
    return dtype


def _header(tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """Return eight bytes of length, then JSON; spaces pad it so that the data start at a multiple of 8."""
    entries: dict[str, dict] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        end = offset + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        entries[name] = {"dtype": _STORED_AS[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
