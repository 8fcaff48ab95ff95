"""Make the compact goldens beside this file from a full set: `python compact.py SOURCE_DIR`.

Everything is kept bit for bit except what `DROPPED` names and the gradients, of which a fixed random
sample of entries, the largest one and the sum remain. `tests/conftest.py` reads both forms.
"""

import bz2
import gzip
import io
import lzma
import re
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import load

GRADIENT_ENTRIES = 512  # of each tensor
FIXED_DATE = (2024, 1, 1, 0, 0, 0)  # so that a second run writes the same bytes

UNUSED = {"segic_vos"}  # no test reads these files
# Arrays that others determine: normalised images, positions and dense prompts (prompt_decoder and
# segic_infer_semantic keep theirs), maps at full size.
DROPPED = {
    "loss_masks": r"in\.uniform_(oversampled|random)|out\.sampled_.*",  # the same at small size is kept
    "segic_infer_semantic": r"mid\.encoder_in",
    "segic_infer_instances": r"mid\.(encoder_in|image_pe|dense)",
    "segic_infer_empty_reference": r"mid\.(encoder_in|image_pe|dense)",
    "segic_semseg": r"mid\.tgt_(encoder_in|image_pe|dense|mask_input)",
    "segic_train_ragged": r"mid\.encoder_in|mid\.(fwd|rev)\.(dense\.\d+|mask_input|neck_out)",
}


def pack(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Store arrays in smaller forms where that loses nothing; a suffix of the name gives the form."""
    packed, names = {}, {}
    for name, array in arrays.items():
        key = (array.shape, array.dtype.str, array.tobytes())
        if array.size > 100 and key in names:
            name, array = name + "@same", np.array(names[key])
        else:
            names[key] = name
            if array.dtype == np.float32 and array.size > 100:
                suffix, array = _narrow(array)
                name += suffix
        packed[name] = array
    return packed


def _narrow(array: np.ndarray) -> tuple[str, np.ndarray]:
    bits = np.ascontiguousarray(array).view(np.uint32)
    if np.isin(array, np.arange(256)).all() and not np.signbit(array).any():
        return "@uint8", array.astype(np.uint8)
    if not (bits & 0xFFFF).any():
        return "@bfloat16", (bits >> 16).astype(np.uint16)
    steps = array.astype(np.float64) * 2**24  # torch.rand's grid
    if (steps == np.floor(steps)).all() and steps.min() >= 0 and steps.max() < 2**24:
        return "@uint24", steps.astype("<u4")[..., None].view(np.uint8)[..., :3]
    return "", array


def sample_gradients(gradients: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return entries `@index` of each flattened tensor, including the largest, and [largest, sum]."""
    sampled = {}
    for name, gradient in gradients.items():
        flat = gradient.ravel()
        random = np.random.default_rng(zlib.crc32(name.encode()))
        index = random.permutation(flat.size)[:GRADIENT_ENTRIES]
        index = np.unique(np.append(index, np.abs(flat).argmax())).astype(np.int32)
        sampled[name] = flat[index]
        sampled[name + "@index"] = index
        sampled[name + "@largest_sum"] = np.array([np.abs(flat).max(), flat.sum(dtype=np.float64)])
    return sampled


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz file with each array compressed by LZMA or bzip2, whichever is smaller."""
    with zipfile.ZipFile(path, "w") as file:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            data = buffer.getvalue()
            entry = zipfile.ZipInfo(name + ".npy", FIXED_DATE)
            smaller = len(bz2.compress(data)) < len(lzma.compress(data))
            entry.compress_type = zipfile.ZIP_BZIP2 if smaller else zipfile.ZIP_LZMA
            file.writestr(entry, data)
    print(f"{path.stat().st_size / 1e6:7.3f} MB  {path.name}")


def main(source: Path, target: Path) -> None:
    for path in sorted(source.glob("*.npz")):
        if path.stem in UNUSED:
            continue
        dropped = re.compile(DROPPED.get(path.stem, r"(?!)"))
        with np.load(path) as arrays:
            removed = [name for name in arrays.files if dropped.fullmatch(name)]
            remaining = {name: arrays[name] for name in arrays.files if name not in removed}
        write(target / path.name, pack(remaining) | {"@dropped": np.array(removed, str)})
    for path in sorted([*source.glob("*.safetensors"), *source.glob("*.safetensors.gz")]):
        data = path.read_bytes()
        tensors = load(gzip.decompress(data) if path.suffix == ".gz" else data)
        tensors = {name: tensors[name] for name in sorted(tensors)}
        name = path.name.split(".")[0]
        packed = sample_gradients(tensors) if name.endswith("_grads") else pack(tensors)
        write(target / f"{name}.weights.npz", packed)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python compact.py SOURCE_DIR")
    main(Path(sys.argv[1]), Path(__file__).parent)
