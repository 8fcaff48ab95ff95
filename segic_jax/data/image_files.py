"""Images, masks and label maps from files: any format that OpenCV or Pillow reads -> numpy arrays."""

import hashlib
import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Integer, UInt8
from PIL import ExifTags, Image, ImageOps

from segic_jax.errors import DataError

_WATCHED: ContextVar[dict[Path, str] | None] = ContextVar("record_reads", default=None)
MAX_PIXELS = 2 * 89_478_485  # of an image, as Pillow has it; that many take half a gigabyte
_DAMAGED = (OSError, ValueError, SyntaxError, TypeError, struct.error)  # Pillow's ways to say so
ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def read_image(path: Path | str) -> UInt8[np.ndarray, "height width 3"]:
    """RGB, turned upright as an EXIF tag says; alpha is ignored.

    Raises:
        DataError: the file is missing, cut off or no image.
    """
    content = _read(path)
    _header(content, path)  # for its size alone: what Pillow does not know, OpenCV may
    return _decode(content, path, cv2.IMREAD_COLOR_RGB)


def read_rgb(path: Path | str) -> UInt8[np.ndarray, "height width 3"]:
    """RGB with the pixels as they are stored: a benchmark's masks know nothing of orientation tags.

    Raises:
        DataError: the file is missing, cut off or no image.
    """
    return decode_rgb(_read(path), path)


def decode_rgb(content: bytes, name: Path | str) -> UInt8[np.ndarray, "height width 3"]:
    """The same from a file's bytes; `name` is for the error message."""
    return _decode(content, name, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def read_labels(path: Path | str) -> Integer[np.ndarray, "height width"]:
    """A label map with the numbers as they are stored, 8, 16 or 32 bits; those of a palette are its indices.

    Raises:
        DataError: the file is missing, cut off, has several channels or fractions.
    """
    labels = np.asarray(open_image(path))
    if labels.dtype.kind not in "bui":
        raise DataError(f"{path} holds fractions, not a label map: save one integer per pixel.")
    if labels.ndim != 2:
        raise DataError(f"{path} is a colour image, not a label map: save one integer per pixel.")
    return labels.astype(np.uint8) if labels.dtype == bool else labels


def read_grey(path: Path | str) -> UInt8[np.ndarray, "height width"]:
    """Brightness, as Pillow's `convert("L")` has it (palettes resolved).

    Raises:
        DataError: the file is missing, cut off or no image.
    """
    return np.asarray(open_image(path).convert("L"))


def too_large(what: Path | str, width: int, height: int) -> str:
    """The sentence for an image of more than MAX_PIXELS."""
    return (
        f"{what} has {width} x {height} pixels; at most {MAX_PIXELS // 10**6} million can be read: shrink it."
    )


def require_size(
    image: UInt8[np.ndarray, "height width 3"],
    mask: np.ndarray,
    image_path: Path | str,
    mask_path: Path | str,
) -> None:
    """Raise DataError where a mask or label map has another size than its image."""
    if mask.shape != image.shape[:2]:
        raise DataError(
            f"{mask_path} is {mask.shape[1]} x {mask.shape[0]} pixels, {image_path} "
            f"{image.shape[1]} x {image.shape[0]}: get both again; they must be of one size."
        )


@contextmanager
def record_reads() -> Iterator[dict[Path, str]]:
    """The files that this thread reads inside, in order, each with its SHA-256."""
    read: dict[Path, str] = {}
    token = _WATCHED.set(read)
    try:
        yield read
    finally:
        _WATCHED.reset(token)


def read_bytes(path: Path | str) -> bytes:
    """The file as it is; every reader of data goes through here.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    try:
        if Path(path).is_char_device() or Path(path).is_block_device():  # it may have no end
            raise DataError(f"{path} cannot be read: it is a device; give a file.")
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file.") from error
    except DataError:
        raise
    except (OSError, ValueError) as error:  # the latter for names that cannot be: a NUL byte
        raise DataError(f"{path} cannot be read ({getattr(error, 'strerror', error)}).") from error
    if (read := _WATCHED.get()) is not None:
        read[Path(path)] = hashlib.sha256(content).hexdigest()
    return content


def open_image(path: Path | str) -> Image.Image:
    """Open an image with Pillow, with its mode, its palette and its bit depth as they are stored.

    Raises:
        DataError: the file is missing, cut off, damaged or no image.
    """
    content = _read(path)
    image = _header(content, path)
    with suppress(*_DAMAGED):
        if image is not None:
            image.load()
            return image
    raise DataError(f"{path} is damaged or no image: get the file again.")


def upright(image: Image.Image, what: Path | str) -> Image.Image:
    """With all its pixels, and turned as its EXIF tag says.

    Raises:
        DataError: the pixels cannot be read.
    """
    try:
        image.load()
    except _DAMAGED as error:
        raise DataError(f"{what} is damaged: get the file again.") from error
    with suppress(*_DAMAGED):  # a tag that cannot be read turns nothing
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            return ImageOps.exif_transpose(image)
    return image


def _header(content: bytes, path: Path | str) -> Image.Image | None:
    """The image before its pixels are read; DataError where these are too many, None where it is none."""
    try:
        image = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError as error:
        most = MAX_PIXELS // 10**6
        raise DataError(
            f"{path} has more than {most} million pixels, too many to read: shrink it."
        ) from error
    except _DAMAGED:
        return None
    if image.width * image.height > MAX_PIXELS:
        raise DataError(too_large(path, image.width, image.height))
    return image


def _read(path: Path | str) -> bytes:
    """The file's bytes, checked to be all there: OpenCV would fill what is missing with grey."""
    content = read_bytes(path)
    if not _complete(content):
        raise DataError(f"{path} is cut off or damaged; get the complete file again.")
    return content


def _complete(content: bytes) -> bool:
    if content[:3] == b"\xff\xd8\xff":  # JPEG: an end marker after the last scan's start
        return content.rfind(b"\xff\xd9") > content.rfind(b"\xff\xda")
    if content[:4] == b"\x89PNG":
        return _whole_png(content)
    if content[:4] == b"RIFF":  # WebP: the size is in the header
        return len(content) >= 8 + int.from_bytes(content[4:8], "little")
    return True


def _whole_png(content: bytes) -> bool:
    """Chunk after chunk to the last one, those with pixels and colours as they were written."""
    start, view = 8, memoryview(content)
    while len(header := content[start : start + 8]) == 8:
        kind, end = header[4:], start + 12 + int.from_bytes(header[:4], "big")
        checked, checksum = view[start + 4 : end - 4], int.from_bytes(view[end - 4 : end], "big")
        if kind[:1].isupper() and zlib.crc32(checked) != checksum:
            return False
        if kind == b"IEND":
            return True
        start = end
    return False


def _decode(content: bytes, path: Path | str, flags: int) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:  # an empty file, or more pixels than OpenCV takes
        pixels = None
    if pixels is None:
        raise DataError(f"{path} is not an image that can be read; use PNG, JPEG, WebP, TIFF or BMP.")
    return pixels
