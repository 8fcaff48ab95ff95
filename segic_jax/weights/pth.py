"""Read an untrusted torch checkpoint (.pth, .pt, .bin, also gzipped) as arrays by name, without torch.

Both formats are read: the zip of torch 1.6 and later, and the one before (torch/serialization.py: _save and
_legacy_save). `torch_pickle` reads the pickle; this module reads the bytes around it. Whatever a file claims
is compared with its content before anything is allocated, and nothing is written to disk.
"""

import gzip
import io
import math
import zipfile
import zlib
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np

from segic_jax.errors import PthError, RefusedFile
from segic_jax.weights.torch_pickle import Storage, Tensor, read_torch_pickle
from segic_jax.weights.wrappers import ROLES

_WRAPPERS = ("state_dict", "model_state_dict", "model", *ROLES)
_MAX_PICKLE = 1 << 26  # bytes; that of a complete ViT-g has 0.2 MB
_MAGIC = 0x1950A86A20F9469CFC6C
_AGAIN = "get the file again"


def read_pth(path: Path | str) -> dict[str, np.ndarray]:
    """Return the tensors of a checkpoint by name, read-only and, if possible, as views of the mapped file.

    The tensors are those of the dictionary under "state_dict", "model_state_dict", "model" or the role of a
    model ("teacher", "student", ...), or else of the outermost one; other entries are left out. If several
    have tensors, their names begin with the entry's: "teacher.". bfloat16 becomes ml_dtypes.bfloat16.

    Raises:
        PthError: the file is missing, damaged, of another kind, without tensors, ambiguous, or holds anything
            but tensors and plain containers. Nothing in the file is ever run.
    """
    path = Path(path)
    try:
        return _read(path)
    except RefusedFile as reason:
        raise PthError(f"{path} {reason}.") from reason
    # Malformed bytes make zipfile, zlib, struct and numpy raise nearly anything.
    except Exception as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise PthError(f"{path} cannot be read as a torch checkpoint ({why}); {_AGAIN}.") from error


def _read(path: Path) -> dict[str, np.ndarray]:
    if path.is_dir():
        raise RefusedFile("is a folder; give the checkpoint file in it")
    if not path.exists():
        raise RefusedFile("does not exist; check the path")
    if not path.is_file():
        raise RefusedFile("is not a regular file; give the checkpoint file itself")
    if path.stat().st_size == 0:
        raise RefusedFile(f"is empty; {_AGAIN}")
    with path.open("rb") as file:
        data = np.asarray(np.memmap(file, np.uint8, "r"))
        file.seek(0)
        if data[:2].tobytes() != b"\x1f\x8b":
            return _read_checkpoint(file, data)
        content = _gunzip(file, _bound(data.size))
        return _read_checkpoint(io.BytesIO(content), np.frombuffer(content, np.uint8))


def _read_checkpoint(file: BufferedIOBase, data: np.ndarray) -> dict[str, np.ndarray]:
    """Read a checkpoint; `file` and `data` hold the same bytes."""
    head = data[:1024].tobytes()
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        with _open_zip(file) as archive:
            checkpoint = _Zip(archive, data)
            return _arrays(_state_dict(checkpoint.content), checkpoint, data.size)
    if head.startswith(b"\x80"):
        checkpoint = _Legacy(data)
        return _arrays(_state_dict(checkpoint.content), checkpoint, data.size)
    raise RefusedFile(_other_kind(head, data.size))


class _Zip:
    """Read the zip format: FOLDER/data.pkl, and one FOLDER/data/KEY for each storage."""

    def __init__(self, archive: zipfile.ZipFile, data: np.ndarray):
        self.archive, self.data = archive, data
        self.spare = _bound(data.size)  # bytes that may still be inflated
        self.inflated: dict[str, np.ndarray] = {}
        names = archive.namelist()
        if len(set(names)) < len(names):
            raise RefusedFile(f"is a zip with two entries of one name; {_AGAIN}")
        pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise RefusedFile("is a zip without a checkpoint's data.pkl; give the file that torch.save wrote")
        self.folder = pickles[0].removesuffix("data.pkl")
        if any(name.startswith((self.folder + "constants.pkl", self.folder + "code/")) for name in names):
            raise RefusedFile("is a TorchScript program; load it in torch and save its state_dict()")
        if self.folder + "byteorder" in names and self.entry("byteorder", 16).tobytes() != b"little":
            raise RefusedFile("was written on a big-endian machine; load and save it again on another one")
        self.content, _, _ = read_torch_pickle(self.entry("data.pkl", _MAX_PICKLE).tobytes())

    def bytes_of(self, storage: Storage) -> np.ndarray:
        """Return the bytes of a storage."""
        if storage.key not in self.inflated:
            self.inflated[storage.key] = self.entry(f"data/{storage.key}", storage.nbytes)
        return _exactly(self.inflated[storage.key], storage)

    def entry(self, name: str, max_size: int) -> np.ndarray:
        """Return the bytes of an entry: a view if it is stored, inflated if it is compressed."""
        try:
            info = self.archive.getinfo(self.folder + name)
        except KeyError:
            raise RefusedFile(f"is a checkpoint without its {name[:100]!r}; {_AGAIN}") from None
        if info.flag_bits & 1:
            raise RefusedFile("is an encrypted zip; decrypt it first")
        with self.archive.open(info):
            pass  # compares the entry's own header with the directory's
        header = self.data[info.header_offset : info.header_offset + 30].tobytes()
        start = info.header_offset + 30 + int.from_bytes(header[26:28], "little")
        start += int.from_bytes(header[28:30], "little")
        packed = self.data[start : start + info.compress_size]
        if info.file_size > max_size or packed.size != info.compress_size:
            raise RefusedFile(f"has a wrong size for its {name[:100]!r}; {_AGAIN}")
        if info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size:
            return packed
        if info.compress_type != zipfile.ZIP_DEFLATED:
            raise RefusedFile("is packed in an unusual way; unpack it and zip it again without compression")
        self.spare -= info.file_size
        if self.spare < 0:
            raise RefusedFile(_TOO_LARGE)
        # A limit of 0 would mean none.
        unpacked = zlib.decompressobj(-15).decompress(packed, info.file_size + 1)
        if len(unpacked) != info.file_size:
            raise RefusedFile(f"has a wrong size for its {name[:100]!r}; {_AGAIN}")
        return np.frombuffer(unpacked, np.uint8)


class _Legacy:
    """Read the older format: five pickles (magic, version, machine, checkpoint, keys), then the storages."""

    def __init__(self, data: np.ndarray):
        view = memoryview(data)
        magic, _, start = read_torch_pickle(view)
        if magic != _MAGIC:
            raise RefusedFile("is a pickle that torch.save did not write; get the weights as .safetensors")
        for _ in ("version", "machine"):
            start = read_torch_pickle(view, start)[2]
        self.content, storages, start = read_torch_pickle(view, start)
        keys, _, start = read_torch_pickle(view, start)
        self.bytes: dict[str, np.ndarray] = {}
        for key in keys:
            # Each storage is its number of elements, then its bytes, little-endian on any machine.
            end = start + 8 + storages[key].nbytes
            count = int.from_bytes(data[start : start + 8].tobytes(), "little")
            if end > data.size or count != storages[key].count:
                raise RefusedFile(f"ends in the middle or is damaged; {_AGAIN}")
            self.bytes[key] = data[start + 8 : end]
            start = end

    def bytes_of(self, storage: Storage) -> np.ndarray:
        """Return the bytes of a storage."""
        return _exactly(self.bytes[storage.key], storage)


def _exactly(data: np.ndarray, storage: Storage) -> np.ndarray:
    if data.size != storage.nbytes:
        raise RefusedFile(f"has a wrong size for its storage {storage.key[:100]!r}; {_AGAIN}")
    return data


def _state_dict(content: Any) -> dict[str, Tensor]:
    """Return the dictionary of named tensors in a checkpoint."""
    if type(content) is not dict:
        raise RefusedFile("holds no dictionary of named tensors; save model.state_dict()")
    models = {key: tensors for key in _WRAPPERS if (tensors := _inner(content.get(key)))}
    named = [(key if key in ROLES or len(models) > 1 else "", tensors) for key, tensors in models.items()]
    tensors = {f"{key}.{name}" if key else name: t for key, held in named for name, t in held.items()}
    tensors = tensors or _tensors(content)
    if not tensors:
        names = ", ".join(repr(key)[:50] for key in list(content)[:5]) or "nothing"
        raise RefusedFile(f"holds no named tensors, but {names}; save model.state_dict()")
    return tensors


def _inner(content: Any) -> dict[str, Tensor]:
    """Return the tensors of an entry, or of the one dictionary of tensors in it, such as model/state_dict."""
    tensors = _tensors(content)
    if not tensors and type(content) is dict:
        held = [found for key in _WRAPPERS if (found := _tensors(content.get(key)))]
        tensors = held[0] if len(held) == 1 else {}
    return tensors


def _tensors(content: Any) -> dict[str, Tensor]:
    if type(content) is not dict:
        return {}
    return {key: value for key, value in content.items() if type(key) is str and type(value) is Tensor}


def _arrays(tensors: dict[str, Tensor], checkpoint: _Zip | _Legacy, size: int) -> dict[str, np.ndarray]:
    # Views may share numbers (tied weights, expanded tensors) and cost nothing until they are copied: limit
    # their total to what the size of the file can explain.
    total = sum(math.prod(tensor.size) * tensor.storage.dtype.itemsize for tensor in tensors.values())
    if total > _bound(size):
        raise RefusedFile(_TOO_LARGE)
    return {name: _array(name, tensor, checkpoint) for name, tensor in tensors.items()}


def _array(name: str, tensor: Tensor, checkpoint: _Zip | _Legacy) -> np.ndarray:
    dtype, data = tensor.storage.dtype, checkpoint.bytes_of(tensor.storage)
    if 0 in tensor.size:
        array = np.zeros(tensor.size, dtype)
    else:
        steps = [0 if n == 1 else step for n, step in zip(tensor.size, tensor.stride, strict=True)]
        last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, steps, strict=True))
        if last >= tensor.storage.count:
            raise RefusedFile(f"has a tensor {name[:100]!r} that reaches outside its storage; {_AGAIN}")
        strides = [step * dtype.itemsize for step in steps]
        array = np.ndarray(tensor.size, dtype, data, tensor.offset * dtype.itemsize, strides)
    if dtype == np.bool_:
        array = np.asarray(array.view(np.uint8) != 0)  # numpy relies on bytes of 0 and 1
    array.flags.writeable = False
    return array


def _open_zip(file: BufferedIOBase) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise RefusedFile(f"is a zip that is cut off or damaged; {_AGAIN}") from error


def _gunzip(file: BufferedIOBase, max_size: int) -> bytes:
    parts, size = [], 0
    with gzip.GzipFile(fileobj=file) as unpacked:
        while part := unpacked.read(1 << 24):
            parts.append(part)
            size += len(part)
            if size > max_size:
                raise RefusedFile(_TOO_LARGE)
    return b"".join(parts)


_TOO_LARGE = "unpacks to far more than its size explains; save the model again"


def _bound(size: int) -> int:
    """Return how many bytes a file may unpack to; weights hardly compress, so 16 times is generous."""
    return 16 * size + (1 << 26)


def _other_kind(head: bytes, size: int) -> str:
    """Say what kind of file it is if it is not a checkpoint."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer; fetch the real file (git lfs pull)"
    if text.startswith(b"<"):
        return "is a web page, not weights; download the file itself"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "is a safetensors file; rename it to .safetensors"
    if head[257:262] == b"ustar":
        return "is in the tar format of torch before 0.2; load and save it again with a newer torch"
    if head.startswith((b"\xfd7zXZ", b"BZh", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!")):
        return "is compressed; unpack it first"
    return f"is not a torch checkpoint; {_AGAIN}"
