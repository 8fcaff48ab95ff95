"""What the page takes, and the reading of an upload within these limits."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, UnidentifiedImageError

from segic_jax.data.image_files import read_image
from segic_jax.errors import DataError
from segic_jax.inference.context import Context
from segic_jax.inference.example import as_mask
from segic_jax.inference.overlay import shrink
from segic_jax.inference.references import PREVIEW
from segic_jax.inference.segmenter import Segmenter

Read = TypeVar("Read")

MAX_MEGABYTES = 20  # of one file
MAX_REFERENCES = 300  # of a saved Context
MAX_PIXELS = 64_000_000  # of one image, before it is shrunk
SIDE = 1280  # an image's longer side is shrunk to this: it bounds the memory of a visitor
MAX_EXAMPLES = 20
MAX_TARGETS = 20
MAX_CLASSES = 8
MAX_NAME = 40  # characters of a class name
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")  # by content, whatever the name says
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")  # what the file chooser offers


def read_upload(path: Path | str, name: str) -> UInt8[np.ndarray, "height width 3"]:
    """RGB with the longer side at most SIDE.

    Args:
        name: what the visitor called the file; error messages use it.

    Raises:
        DataError: no image of a known format, damaged, cut off or beyond the limits.
    """
    _check(path, name)
    return shrink(_with_name(read_image, path, name), SIDE)


def read_mask_upload(path: Path | str, name: str, size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """The object's pixels in a mask file, at `size`.

    Args:
        size: (height, width) of the image, which may have been shrunk; the mask must have its shape.

    Raises:
        DataError: as `read_upload`, or a mask of another shape than its image.
    """
    _check(path, name)
    mask = _with_name(as_mask, path, name)
    # Shrinking keeps the shape up to half a pixel a side.
    scale = max(size) / max(mask.shape)
    if any(abs(had * scale - has) > 1 for had, has in zip(mask.shape, size, strict=True)):
        raise DataError(
            f"{name} is {mask.shape[1]} x {mask.shape[0]} pixels and has another shape than its image; "
            "make them the same size."
        )
    return stretch(mask, size)


def read_context_upload(path: Path | str, name: str, segmenter: Segmenter) -> Context:
    """A saved Context of the weights that are running.

    Args:
        name: what the visitor called the file.

    Raises:
        DataError: no saved Context, damaged, of other weights, or beyond the limits.
    """
    _check_size(path, name)
    context = _with_name(segmenter.load_context, path, name)
    if len(context.references) > MAX_REFERENCES or len(context.negatives) > MAX_EXAMPLES:
        raise DataError(
            f"{name} has {len(context.references)} images and {len(context.negatives)} negatives; "
            f"the page takes {MAX_REFERENCES} and {MAX_EXAMPLES}."
        )
    for reference in context.references:
        if not _is_preview(reference.preview) or not 0 < min(reference.size) <= max(reference.size) <= 10**6:
            raise DataError(f"{name} is damaged: a preview in it is no small image; save it again.")
    return context


def stretch(mask: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """A mask at another size (height, width)."""
    if mask.shape == tuple(size):
        return mask
    height, width = size
    return cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0


def _check(path: Path | str, name: str) -> None:
    """From the file's size and header only: nothing large is decoded."""
    _check_size(path, name)
    try:
        with Image.open(path, formats=FORMATS) as header:
            width, height = header.size
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is not an image; use PNG, JPEG, WebP, TIFF or BMP.") from error
    except Image.DecompressionBombError as error:
        raise DataError(_too_many(name)) from error
    except (OSError, ValueError, SyntaxError, TypeError) as error:  # Pillow's ways to say "damaged"
        raise DataError(f"{name} is damaged; get the file again.") from error
    if width * height > MAX_PIXELS:
        raise DataError(_too_many(name))


def _is_preview(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as preview:
            if small := max(preview.size) <= PREVIEW:
                preview.load()
            return small
    except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError):
        return False


def _check_size(path: Path | str, name: str) -> None:
    megabytes = Path(path).stat().st_size / 2**20
    if megabytes > MAX_MEGABYTES:
        raise DataError(f"{name} has {megabytes:.0f} MB; the page takes {MAX_MEGABYTES} MB.")


def _too_many(name: str) -> str:
    return f"{name} has more than {MAX_PIXELS // 10**6} million pixels; save it smaller."


def _with_name(read: Callable[[Path | str], Read], path: Path | str, name: str) -> Read:
    """What `read(path)` gives, its errors speaking of `name` instead of the path on the server."""
    try:
        return read(path)
    except DataError as error:
        raise DataError(str(error).replace(str(path), name)) from error
