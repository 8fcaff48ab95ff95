"""Decode a mask from a file, an array or a PIL image into numbers or colours, whatever they mean."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from segic_jax.data.image_files import read_bytes
from segic_jax.data.images import open_image, source_path, to_array
from segic_jax.data.orientation import upright
from segic_jax.data.soft_masks import is_soft_edged
from segic_jax.errors import DataError, InputWarning

MaskLike = str | Path | Shaped[np.ndarray, "..."] | Image.Image

_LOSSY = ("JPEG", "MPO", "AVIF", "HEIF")
_GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")


class MaskPixels(NamedTuple):
    """Hold a decoded mask, of which exactly one of `values` and `colours` is set."""

    what: str  # for messages
    values: np.ndarray | None = None  # [height, width], bool or whole numbers
    colours: np.ndarray | None = None  # uint8 [height, width, 3]
    alpha: np.ndarray | None = None  # uint8 [height, width]
    indices: np.ndarray | None = None  # of a palette image, beside its colours
    lossy: bool = False  # compressed with a loss: values are not exact


def decode_mask(mask: MaskLike) -> MaskPixels:
    """Decode a mask, upright according to its EXIF tag.

    Raises:
        DataError: it cannot be read, or is of another type or shape than a mask.
    """
    what = source_path(mask) or "The mask"
    if isinstance(mask, (str, Path)):
        mask = _read_array(mask) if is_array_file(mask) else open_image(mask)
    if isinstance(mask, Image.Image):
        lossy, pages = mask.format in _LOSSY, getattr(mask, "n_frames", 1)
        if pages > 1 and mask.format != "MPO":
            warnings.warn(f"{what} holds {pages} images; the first is read.", InputWarning, stacklevel=2)
        mask = upright(mask, what)
        if mask.mode not in _GREY_MODES:
            alpha = np.asarray(mask.convert("RGBA").getchannel("A")) if mask.has_transparency_data else None
            indices = np.asarray(mask) if mask.mode == "P" else None
            return MaskPixels(what, None, np.asarray(mask.convert("RGB")), alpha, indices, lossy)
        return MaskPixels(what, _whole_numbers(np.asarray(mask), what), lossy=lossy)
    return _decode_array(to_array(mask, what), what)


def is_array_file(path: Path | str) -> bool:
    """Return whether a path is that of a NumPy file, .npy."""
    return Path(path).suffix.lower() == ".npy"


def _read_array(path: Path | str) -> np.ndarray:
    read_bytes(path)  # which says why it cannot be read
    try:  # open_memmap refuses objects, and more numbers than the file has
        return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is damaged, or no array of numbers: save it again with np.save.") from error


def _decode_array(array: np.ndarray, what: str) -> MaskPixels:
    """Take [h, w], [h, w, 1], [1, h, w], and [h, w, 3 or 4] for colours, of any type of number."""
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    kind = f"{array.dtype} {list(array.shape)}"
    if array.dtype.kind not in "buif" or not array.size:
        raise DataError(f"{what} must be true and false or numbers, [height, width], not {kind}.")
    if array.ndim == 3 and array.shape[2] in (3, 4):
        if array.dtype == bool:
            array = array * np.uint8(255)
        elif array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:
            array = np.rint(255 * array)
        if not (array.min() >= 0 and array.max() <= 255):  # which NaN fails as well
            raise DataError(f"{what} must have colours of 0 to 255, not {kind} from {array.min():g}.")
        array = array.astype(np.uint8)
        return MaskPixels(what, None, array[..., :3], array[..., 3] if array.shape[2] == 4 else None)
    if array.ndim != 2:
        raise DataError(f"{what} must be the mask of one object, [height, width], not {kind}.")
    return MaskPixels(what, _whole_numbers(array, what))


def _whole_numbers(values: np.ndarray, what: str) -> np.ndarray:
    """Return bool and whole numbers as they are; cut probabilities at half, and round grey values."""
    if values.dtype.kind != "f":
        return values
    low, high = values.min(), values.max()
    if not (low >= 0 and np.isfinite(high)):
        raise DataError(f"{what} has values from {low:g} to {high:g}: give probabilities of 0 to 1, or bool.")
    if (values == np.rint(values)).all():
        return values.astype(np.int64)
    if high <= 1:
        steps = np.unique(values)
        if len(steps) < 16 and not is_soft_edged(np.rint(255 * values).astype(np.uint8)):
            listed = ", ".join(f"{step:.3g}" for step in steps[:8])
            raise DataError(
                f"{what} holds the values {listed}, which are no soft edge: give the mask of one object, "
                "such as mask == value."
            )
        return values > 0.5
    if high <= 255:
        return np.rint(values).astype(np.uint8)
    raise DataError(f"{what} has fractions up to {high:g}: give probabilities of 0 to 1, or bool.")
