"""Read weight files and folders as tensors by name, with the configuration and tokenizer beside them.

A folder has the layout of the Hugging Face hub: config.json, model.safetensors or pytorch_model.bin, in one
file or in shards, and tokenizer.json. Tensors are views of the mapped file: nothing is copied here.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from segic_jax.errors import SourceError
from segic_jax.weights.pth import read_pth
from segic_jax.weights.torch_names import Tensors

_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_PICKLES = (".pth", ".pt", ".bin", ".pth.gz")
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


class WeightSource(NamedTuple):
    """Hold one source that the user gave."""

    path: Path
    files: tuple[Path, ...]  # that were read
    tensors: Tensors  # empty for a tokenizer.json alone
    metadata: Mapping[str, str] = {}  # of a single .safetensors file
    config: dict | None = None  # Hugging Face's config.json
    tokenizer: bytes | None = None  # tokenizer.json

    @property
    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of each file that was read, by FILE, or FOLDER/FILE where a folder was given."""
        folder = f"{self.path.name}/" if self.path.is_dir() else ""
        return {folder + path.name: _sha256(path) for path in self.files}


def read_source(path: Path) -> WeightSource:
    """Read a .safetensors, .pth, .pt or .bin file, a folder with one, or a tokenizer.json.

    Raises:
        SourceError, PthError: the source is missing, of another kind, or damaged.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise SourceError(f"{path}: there is no such file or folder.")
    if path.suffix == ".json":
        return WeightSource(path, (path,), {}, tokenizer=_tokenizer(path))
    return _read_weights(path, path)


def read_safetensors(path: Path | str) -> Tensors:
    """Return the tensors of a .safetensors file, as views of the mapped file.

    Raises:
        SourceError: the file cannot be read as safetensors, or holds an unsupported dtype.
    """
    return map_safetensors(Path(path))[0]


def _read_folder(folder: Path) -> WeightSource:
    for name in _WEIGHT_FILES:
        if (folder / name).is_file():
            return _read_weights(folder / name, folder)
    if (folder / "tokenizer.json").is_file():
        return read_source(folder / "tokenizer.json")._replace(path=folder)
    raise SourceError(f"{folder} holds none of {', '.join(_WEIGHT_FILES)}; give the weight file itself.")


def _read_weights(path: Path, source: Path) -> WeightSource:
    metadata: dict[str, str] = {}
    files = [path]
    if path.name.endswith(".index.json"):
        files, tensors = _read_shards(path)
    elif path.suffix == ".safetensors":
        tensors, metadata = map_safetensors(path)
    elif path.name.endswith(_PICKLES):
        tensors = read_pth(path)
    else:
        raise SourceError(f"{path}: weights are .safetensors, {', '.join(_PICKLES)} files, or a hub folder.")
    config = path.parent / "config.json"
    tokenizer = path.parent / "tokenizer.json"
    if source.is_dir():
        files += [beside for beside in (config, tokenizer) if beside.is_file()]
    return WeightSource(
        source,
        tuple(files),
        tensors,
        metadata,
        _json(config) if config.is_file() else None,
        _tokenizer(tokenizer) if tokenizer.is_file() else None,
    )


def _read_shards(index: Path) -> tuple[list[Path], Tensors]:
    """Read a `*.index.json`; return its files and their tensors."""
    places = _json(index).get("weight_map")
    if not isinstance(places, dict):
        raise SourceError(f"{index} has no weight_map, which says where each tensor lies; get it again.")
    files = [index.parent / name for name in sorted({Path(str(name)).name for name in places.values()})]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise SourceError(f"{index} names files that are not beside it: {', '.join(missing)}.")
    tensors: Tensors = {}
    for path in files:
        tensors |= map_safetensors(path)[0] if path.suffix == ".safetensors" else read_pth(path)
    lost = [name for name in places if name not in tensors]
    if lost:
        raise SourceError(f"{index} names tensors that are in none of its files: {', '.join(lost[:5])}.")
    return [index, *files], tensors


def map_safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Return the tensors of a .safetensors file, as views of the mapped file, and its metadata.

    Raises:
        SourceError: the file cannot be read as safetensors, or holds an unsupported dtype.
    """
    try:
        with safe_open(path, framework="numpy"):  # checks the whole header, and that the file is complete
            pass
    except (SafetensorError, OSError) as error:
        raise SourceError(f"{path} is not a readable .safetensors file: {error}; get it again.") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", None) or {}
    data = np.memmap(path, np.uint8, "r")[8 + length :]
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise SourceError(f"{path}: {name} is stored as {entry['dtype']}; convert it to float32 first.")
        begin, end = entry["data_offsets"]
        tensors[name] = data[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata


def _tokenizer(path: Path) -> bytes:
    if "model" not in _json(path):
        raise SourceError(f"{path} is not a tokenizer.json of the `tokenizers` library: it has no 'model'.")
    return path.read_bytes()


def _json(path: Path) -> dict:
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not readable as JSON: {error}; get it again.") from error
    if not isinstance(values, dict):
        raise SourceError(f"{path} is not a JSON object; get it again.")
    return values


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
