"""Define the limits of the page, and read uploaded files within them."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, UnidentifiedImageError

from segic_jax.data.image_files import register_heif
from segic_jax.data.images import ENDINGS, read_image
from segic_jax.data.mask_reader import question_share, read_mask
from segic_jax.errors import DataError, InputWarning
from segic_jax.inference.context import Context
from segic_jax.inference.overlay import shrink
from segic_jax.inference.reference import PREVIEW
from segic_jax.inference.segmenter import Segmenter
from segic_jax.runtime.limits import Limits
from segic_jax.runtime.notices import collect_warnings

Content = TypeVar("Content")

LIMITS = Limits()  # those of `segic serve`
MAX_MEGABYTES = LIMITS.file_megabytes  # of one file
MAX_PIXELS = LIMITS.megapixels * 10**6  # of one image, before it is shrunk
MAX_TARGETS = LIMITS.images
MAX_REFERENCES = 300  # of a saved context
MAX_SIDE = 1280  # larger images are shrunk to this longer side, which bounds the memory of a visitor
MAX_EXAMPLES = 20
MAX_CLASSES = 8
MAX_NAME = 40  # characters of a class name
# Recognised by content, whatever the file is called.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF", "GIF", "PPM", *(["HEIF"] if register_heif() else []))
SUFFIXES = ENDINGS  # offered by the file chooser

# What Pillow raises for damaged files.
_DAMAGED = (OSError, ValueError, SyntaxError, TypeError)


def read_upload(path: Path | str, name: str) -> UInt8[np.ndarray, "height width 3"]:
    """Read an uploaded image as RGB, its longer side at most MAX_SIDE.

    Args:
        name: the file's name on the visitor's machine, for error messages.

    Raises:
        DataError: the file is not an image of a known format, is damaged, or exceeds a limit.
    """
    _check_image(path, name)
    return shrink(_rename_in_errors(read_image, path, name), MAX_SIDE)


def read_mask_upload(path: Path | str, name: str, size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """Read an uploaded mask, and resize it to `size`.

    Args:
        name: as in `read_upload`.
        size: (height, width) of the image, which may have been shrunk.

    Raises:
        DataError: as `read_upload`, or the mask has another aspect ratio than the image.
    """
    _check_image(path, name)
    mask = _rename_in_errors(read_mask, path, name)
    if question := question_share(mask):
        warnings.warn(f"{name} {question}", InputWarning, stacklevel=2)
    # Shrinking keeps the aspect ratio up to half a pixel a side.
    scale = max(size) / max(mask.shape)
    if any(abs(actual * scale - side) > 1 for actual, side in zip(mask.shape, size, strict=True)):
        raise DataError(
            f"{name} is {mask.shape[1]} x {mask.shape[0]} pixels, a different aspect ratio from its image; "
            "make them the same size."
        )
    return resize_mask(mask, size)


def read_context_upload(path: Path | str, name: str, segmenter: Segmenter) -> Context:
    """Read an uploaded context of the model that is running.

    Args:
        name: as in `read_upload`.

    Raises:
        DataError: the file is not a saved context, is damaged, belongs to another model, or exceeds a limit.
    """
    _check_file_size(path, name)
    context = _rename_in_errors(segmenter.load_context, path, name)
    if len(context.references) > MAX_REFERENCES or len(context.negatives) > MAX_EXAMPLES:
        raise DataError(
            f"{name} has {len(context.references)} images and {len(context.negatives)} negatives; "
            f"the limits are {MAX_REFERENCES} and {MAX_EXAMPLES}."
        )
    for reference in context.references:
        if not _is_preview(reference.preview) or not 0 < min(reference.size) <= max(reference.size) <= 10**6:
            raise DataError(f"{name} is damaged: a preview in it cannot be read; save it again.")
    return context


def resize_mask(mask: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """Resize a mask to (height, width) with nearest-neighbour sampling."""
    if mask.shape == tuple(size):
        return mask
    height, width = size
    return cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0


def _check_image(path: Path | str, name: str) -> None:
    """Check the file's size and header only, so that nothing large is decoded."""
    _check_file_size(path, name)
    too_many = f"{name} has more than {MAX_PIXELS // 10**6} million pixels; make it smaller."
    try:
        with Image.open(path, formats=FORMATS) as header:
            width, height = header.size
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is not an image; use PNG, JPEG, WebP, TIFF or BMP.") from error
    except Image.DecompressionBombError as error:
        raise DataError(too_many) from error
    except _DAMAGED as error:
        raise DataError(f"{name} is damaged; get the file again.") from error
    if width * height > MAX_PIXELS:
        raise DataError(too_many)


def _is_preview(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as preview:
            if small := max(preview.size) <= PREVIEW:
                preview.load()
            return small
    except (*_DAMAGED, Image.DecompressionBombError):
        return False


def _check_file_size(path: Path | str, name: str) -> None:
    megabytes = Path(path).stat().st_size / 2**20
    if megabytes > MAX_MEGABYTES:
        raise DataError(f"{name} has {megabytes:.0f} MB; the limit is {MAX_MEGABYTES} MB.")


def _rename_in_errors(read: Callable[[Path | str], Content], path: Path | str, name: str) -> Content:
    """Return `read(path)`; its errors and warnings show `name` instead of the path on the server."""
    with collect_warnings() as doubts:
        try:
            content = read(path)
        except DataError as error:
            raise DataError(str(error).replace(str(path), name)) from error
    for doubt in doubts:
        warnings.warn(doubt.replace(str(path), name), InputWarning, stacklevel=3)
    return content
