"""Read the pickle in a torch checkpoint: plain containers, and tensors as views of storages.

`runtime/unpickle.py` interprets the pickle; here is the allow-list of tensors. Source of the names:
torch/_utils.py and torch/serialization.py.
"""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from segic_jax.errors import RefusedFile
from segic_jax.runtime.unpickle import AllowList, Constant, make_dict, malformed, require, unpickle

_MAX_STEPS = 2_000_000  # a training checkpoint with a thousand parameters takes 100 000
_MAX_STRING = 1 << 24  # bytes
_MAX_AXES = 32

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
_DTYPES = {f"torch.{name}" for name in ("float64", "float32", "float16", "bfloat16", "bool", "uint8")}
_DTYPES |= {f"torch.int{bits}" for bits in (8, 16, 32, 64)}


@dataclass(frozen=True, slots=True)
class Storage:
    """Name a one-dimensional array that is stored somewhere in the file."""

    dtype: np.dtype
    key: str
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Tensor:
    """Describe a view of a storage; offset and strides count elements. It may reach outside the storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_torch_pickle(data: bytes | memoryview, start: int = 0) -> tuple[Any, dict[str, Storage], int]:
    """Interpret one pickle of a checkpoint.

    Returns:
        The value, in which tensors are `Tensor` and devices and similar objects are None; the storages by
        key; and the position behind the pickle.

    Raises:
        RefusedFile: the pickle is damaged or asks for anything that tensors and plain containers do not need.
    """
    storages: dict[str, Storage] = {}

    def persistent(identity: Any) -> Storage:
        storage = _storage(identity)
        if storages.setdefault(storage.key, storage) != storage:
            malformed("two storages of one key")
        return storage

    allowed = AllowList(
        _GLOBALS,
        refusal=(
            "which plain tensors and containers do not need, so nothing was read or run; get the weights as "
            ".safetensors, or save model.state_dict() alone"
        ),
        advice="save model.state_dict() alone",
        persistent=persistent,
        ignore_state=True,
        globals_as_values=True,
        max_steps=_MAX_STEPS,
        max_string=_MAX_STRING,
    )
    value, end = unpickle(data, allowed, start)
    return value, storages, end


def _storage(identity: Any) -> Storage:
    """Build a storage from ("storage", type, key, device, count) and, in the older format, a view."""
    if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
        malformed("not the id of a storage")
    storage_type, key, _, count, *view = identity[1:]
    dtype = _STORAGES[require(Constant, storage_type).name]
    if not _is_count(count):
        malformed("a storage of an odd size")
    if view not in ([], [None]):
        raise RefusedFile("was written by a torch before 0.4; load and save it again with a newer one")
    return Storage(np.dtype(dtype), require(str, key), count)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    # requires_grad and hooks follow; the last, a conjugate or negative bit, would change the numbers.
    if len(rest) > 2 and rest[2]:
        raise RefusedFile("holds a conjugated or negated view; save tensor.resolve_neg() instead")
    size, stride = require(tuple, size), require(tuple, stride)
    if len(size) > _MAX_AXES or len(size) != len(stride):
        malformed("odd axes")
    if not all(map(_is_count, (offset, *size, *stride))):
        malformed("an odd size")
    return Tensor(require(Storage, storage), offset, size, stride)


def _parameter(tensor: Any, *_: Any) -> Tensor:
    return require(Tensor, tensor)


def _size(size: Any = ()) -> Any:
    return size


def _nothing(*_: Any) -> None:
    """Replace what a checkpoint holds besides weights, such as devices, bytes and sets, by None."""
    return None


_GLOBALS = {
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "collections.OrderedDict": make_dict,
    "collections.Counter": make_dict,
    "torch.device": _nothing,
    "_codecs.encode": _nothing,
    **{
        f"{module}.{name}": _nothing
        for module in ("builtins", "__builtin__")  # as Python 3 and Python 2 call it
        for name in ("set", "frozenset", "bytes", "bytearray", "complex")
    },
    **dict.fromkeys((*_STORAGES, *_DTYPES), None),
}


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number < 1 << 63
