"""Read the pickles and object arrays of published data sets without trusting them.

`runtime/unpickle.py` interprets the pickle; here is the allow-list of data sets: containers and numpy arrays.
A crafted numpy dtype could read memory as pointers, so dtypes are checked and arrays are built here from
their bytes.
"""

import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from segic_jax.data.image_files import read_bytes
from segic_jax.errors import DataError, RefusedFile
from segic_jax.runtime.unpickle import (
    MALFORMED,
    AllowList,
    Unfinished,
    finished,
    make_dict,
    malformed,
    require,
    require_key,
    unpickle,
)

_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|O8|U[1-9]\d{0,3}|S[1-9]\d{0,3}")


def read_pickle(path: Path | str) -> Any:
    """Return what a pickle describes.

    That is a dict (in the file's order), list, tuple, set, frozenset, str, bytes, int, float, bool, None, and
    read-only numpy arrays and scalars; an OrderedDict or defaultdict comes back as a dict.

    Raises:
        DataError: the file is missing, damaged, or holds anything else. Nothing in it is run.
    """
    return _unpickle(read_bytes(path), 0, path)


def read_npy(path: Path | str) -> np.ndarray:
    """Return an array that `np.save` wrote; the items of an object array are read as `read_pickle` does.

    Raises:
        DataError: the file is missing, damaged, or holds anything else. Nothing in it is run.
    """
    content = read_bytes(path)
    try:
        shape, fortran, dtype, start = _npy_header(content)
        if not dtype.hasobject:
            return _array(dtype, shape, fortran, content[start:])
        array = _unpickle(content, start, path)
        if not isinstance(array, np.ndarray) or array.size != math.prod(shape):
            malformed("not the array that the header promises")
        return array.reshape(shape)
    except MALFORMED as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged or not an .npy file: get the file again.") from error


def _unpickle(data: bytes, start: int, path: Path | str) -> Any:
    try:
        return unpickle(data, _ALLOWED, start)[0]
    except RefusedFile as reason:
        raise DataError(f"{path} {reason}.") from reason


class _Dtype(Unfinished):
    """Hold a dtype; it stays an argument of other calls and never becomes a value."""

    def __init__(self, code: Any, *_: Any):
        if not _DTYPE.fullmatch(require(str, code)):
            malformed("an unusual dtype")
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        """Take the byte order from (version, byte order, no fields, ...)."""
        if any(field is not None for field in require(tuple, state)[2:5]):
            malformed("a dtype with fields")
        self.dtype = self.dtype.newbyteorder(require(str, state[1]))


class _Array(Unfinished):
    """Hold an array between its call and its content."""

    def __init__(self, *_: Any):
        pass

    def build(self, state: Any) -> None:
        """Take (version, shape, dtype, Fortran order, content)."""
        if self.result is not None:
            malformed("an array that is built twice")
        _, shape, dtype, fortran, raw = require(tuple, state)
        self.result = _array(require(_Dtype, dtype).dtype, shape, bool(fortran), raw)


def _array(dtype: np.dtype, shape: Any, fortran: bool, raw: Any) -> np.ndarray:
    """Build an array; its size is compared with its content before anything is allocated."""
    count, order = math.prod(shape), "F" if fortran else "C"
    if min(shape, default=0) < 0 or len(shape) > 32:
        malformed("an odd shape")
    if dtype.hasobject:
        if len(require(list, raw)) != count:
            malformed("a wrong number of objects")
        array = np.empty(count, object)
        for i, value in enumerate(raw):
            array[i] = finished(value)
        return array.reshape(shape, order=order)
    raw = raw.encode("latin-1") if type(raw) is str else require(bytes, raw)
    if len(raw) != count * dtype.itemsize:
        malformed("a wrong number of bytes")
    if dtype.kind == "b":  # a byte that is neither 0 nor 1 would be both true and false
        return (np.frombuffer(raw, np.uint8) != 0).reshape(shape, order=order)
    return np.frombuffer(raw, dtype).reshape(shape, order=order)


def _scalar(dtype: Any, raw: Any) -> Any:
    return _array(require(_Dtype, dtype).dtype, (), False, raw)[()]


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return _array(require(_Dtype, dtype).dtype, shape, order == "F", raw)


def _encode(text: Any, *_: Any) -> bytes:
    return require(str, text).encode("latin-1")


def _items(items: Any) -> map:
    if type(items) not in (list, tuple):
        malformed("not a list")
    return map(require_key, items)


def _set(items: Any = ()) -> set:
    return set(_items(items))


def _frozenset(items: Any = ()) -> frozenset:
    return frozenset(_items(items))


def _never(*_: Any) -> Any:
    malformed("a call of a type that is not called in data")


def _defaultdict(*_: Any) -> dict:
    return {}


def _empty_bytes() -> bytes:
    return b""


_CORE = {"_reconstruct": _Array, "scalar": _scalar}
_BUILTINS = {"set": _set, "frozenset": _frozenset, "bytes": _empty_bytes} | dict.fromkeys(
    ("list", "dict", "tuple", "int", "float", "str", "bool"), _never
)
_ALLOWED = AllowList(
    {
        "numpy.ndarray": _never,
        "numpy.dtype": _Dtype,
        "_codecs.encode": _encode,  # how protocol 2 spells bytes
        "collections.OrderedDict": make_dict,
        "collections.defaultdict": _defaultdict,
        **{f"numpy.{core}.multiarray.{name}": f for core in ("core", "_core") for name, f in _CORE.items()},
        **{f"numpy.{core}.numeric._frombuffer": _frombuffer for core in ("core", "_core")},
        **{f"{module}.{name}": f for module in ("builtins", "__builtin__") for name, f in _BUILTINS.items()},
    },
    refusal="which plain data do not need, so nothing of it was run; get the file again from its publisher",
    advice="get the file again from its publisher",
)


def _npy_header(content: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Return shape, Fortran order, dtype, and where the data start."""
    file = io.BytesIO(content)
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype, file.tell()
