"""Read images from files of any format that OpenCV or Pillow reads, arrays and PIL images; read label maps.

`as_image` takes what a user gives; the `read_` functions take files.
"""

import io
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from segic_jax.data.image_files import DAMAGED, MAX_PIXELS, open_header, read_complete, too_large
from segic_jax.data.orientation import upright
from segic_jax.errors import DataError, InputWarning

_BY_PILLOW = ("GIF", "HEIF", "JPEG2000", "TIFF")  # whose reading is left to Pillow where OpenCV cannot
ImageLike = str | Path | UInt8[np.ndarray, "_ _ 3"] | Image.Image
ENDINGS = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
DEPTHS = (8, 10, 12, 14, 16)  # bits of the values that cameras and scanners store in 16


def source_path(source: object) -> str | None:
    """Return the path of an image or mask in a file; None for one in memory."""
    return str(source) if isinstance(source, (str, Path)) else None


def require_iterable(values: Any, what: str) -> Iterable:
    """Return `values`; raise DataError with the expectation `what` if they cannot be iterated."""
    try:
        iter(values)
    except TypeError as error:  # also for an array without an axis, which is an instance of Iterable
        raise DataError(f"{what}, not {type(values).__name__}.") from error
    return values


def as_image(image: ImageLike) -> UInt8[np.ndarray, "height width 3"]:
    """Return an image as an RGB array.

    Raises:
        DataError: the file cannot be read, the array has another type or shape, or there are too many pixels.
    """
    if isinstance(image, (str, Path)):
        return read_image(image)
    if isinstance(image, Image.Image):
        _require_pixels(*image.size)
        image = _to_rgb(image, "The image")
    array = to_array(image, "An image")
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise DataError(f"An image must be uint8 [height, width, 3], not {array.dtype} {list(array.shape)}.")
    _require_pixels(array.shape[1], array.shape[0])
    return np.ascontiguousarray(array)


def to_array(values: object, what: str) -> np.ndarray:
    """Convert values to an array; raise DataError with `what` if NumPy cannot."""
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged rows, tensors on a device
        raise DataError(f"{what} cannot be converted to an array: {shorten(error)}.") from error


def shorten(value: object) -> str:
    """Return a value on one line of at most 80 characters, for messages."""
    return " ".join(str(value).split())[:80]


def _require_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(too_large("An image", width, height))


def _to_8_bits(pixels: np.ndarray, what: Path | str) -> UInt8[np.ndarray, "..."]:
    """Scale whole numbers of more than 8 bits by the range that they use, and fractions of 0 to 1.

    Raises:
        DataError: the values are other fractions, or have no range.
    """
    if pixels.dtype in (np.uint8, bool):
        return pixels.astype(np.uint8) * (255 if pixels.dtype == bool else 1)
    low, high = pixels.min(), pixels.max()
    if pixels.dtype.kind == "f":
        if not 0 <= low <= high <= 1:
            raise DataError(f"{what} has values from {low:g} to {high:g}: save it in 8 or 16 bits.")
        return np.rint(255 * pixels).astype(np.uint8)
    high = min(int(high), 65535)
    bits = next(bits for bits in DEPTHS if high < 1 << bits)
    if bits < 16 and high:
        warnings.warn(
            f"{what}: its values of 16 bits end at {high}: they are read as {bits} bits, 0 to {2**bits - 1}.",
            InputWarning,
            stacklevel=2,
        )
    table = np.rint(np.arange(1 << bits) * (255 / (2**bits - 1))).astype(np.uint8)
    return table[pixels.clip(0, high)]


def _to_rgb(image: Image.Image, what: Path | str) -> Image.Image:
    image = upright(image, what)
    if image.mode[0] in "IF":
        image = Image.fromarray(_to_8_bits(np.asarray(image), what))
    return image.convert("RGB")


def read_image(path: Path | str) -> UInt8[np.ndarray, "height width 3"]:
    """Read an image as RGB, upright according to its EXIF tag; alpha is ignored.

    An InputWarning says which part is read of a file with several images, and the range of values that use
    less than the 16 bits they are stored in.

    Raises:
        DataError: the file is missing, cut off or not an image.
    """
    content = read_complete(path)
    header = open_header(io.BytesIO(content), path)  # OpenCV may know formats that Pillow does not
    if header is not None and header.format != "MPO" and (count := getattr(header, "n_frames", 1)) > 1:
        warnings.warn(f"{path} holds {count} images; the first is read.", InputWarning, stacklevel=2)
    if header is not None and header.format in ("AVIF", "WEBP"):  # OpenCV 4 turns neither
        return np.asarray(_to_rgb(header, path))
    try:
        return _to_8_bits(_decode(content, path, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH), path)
    except DataError:
        if header is None or header.format not in _BY_PILLOW:
            raise
        return np.asarray(_to_rgb(header, path))


def read_rgb(path: Path | str) -> UInt8[np.ndarray, "height width 3"]:
    """Read an image as RGB with the pixels as they are stored: benchmarks' masks ignore orientation tags.

    Raises:
        DataError: the file is missing, cut off or not an image.
    """
    return decode_rgb(read_complete(path), path)


def decode_rgb(content: bytes, name: Path | str) -> UInt8[np.ndarray, "height width 3"]:
    """Decode what `read_rgb` reads; `name` is for the error message."""
    return _decode(content, name, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def read_labels(path: Path | str) -> Integer[np.ndarray, "height width"]:
    """Read a label map with its integers as they are stored, in 8, 16 or 32 bits, or as palette indices.

    Raises:
        DataError: the file is missing, cut off, or holds several channels or fractions.
    """
    labels = np.asarray(open_image(path))
    if labels.dtype.kind not in "bui":
        raise DataError(f"{path} holds fractions, not a label map: save one integer per pixel.")
    if labels.ndim != 2:
        raise DataError(f"{path} is a colour image, not a label map: save one integer per pixel.")
    return labels.astype(np.uint8) if labels.dtype == bool else labels


def read_grey(path: Path | str) -> UInt8[np.ndarray, "height width"]:
    """Read the brightness, as Pillow's `convert("L")` gives it, with palettes resolved.

    Raises:
        DataError: the file is missing, cut off or not an image.
    """
    return np.asarray(open_image(path).convert("L"))


def palette_png(
    labels: Integer[np.ndarray, "height width"], colours: Sequence[tuple[int, int, int]]
) -> bytes:
    """Return a PNG file of numbers up to 255; 0 is black, the others have the colours."""
    image = Image.fromarray(labels.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, *(value for colour in colours for value in colour)])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def image_size(path: Path | str) -> tuple[int, int]:
    """Return the (width, height) that the header of an image file states.

    Raises:
        DataError: the file cannot be read, or is not an image.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file.") from error
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is damaged or not an image: get the file again.") from error


def require_size(
    image: UInt8[np.ndarray, "height width 3"],
    mask: np.ndarray,
    image_path: Path | str,
    mask_path: Path | str,
) -> None:
    """Raise DataError if a mask or label map has another size than its image."""
    if mask.shape != image.shape[:2]:
        raise DataError(
            f"{mask_path} is {mask.shape[1]} x {mask.shape[0]} pixels, {image_path} "
            f"{image.shape[1]} x {image.shape[0]}: get both again; they must have one size."
        )


def open_image(path: Path | str) -> Image.Image:
    """Open an image with Pillow, with its mode, its palette and its bit depth as they are stored.

    Raises:
        DataError: the file is missing, cut off, damaged or not an image.
    """
    content = read_complete(path)
    image = open_header(io.BytesIO(content), path)
    with suppress(*DAMAGED):
        if image is not None:
            image.load()
            return image
    raise DataError(
        f"{path} is damaged or not an image that can be read: get the file again, or save it as PNG."
    )


def _decode(content: bytes, path: Path | str, flags: int) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:  # an empty file, or more pixels than OpenCV takes
        pixels = None
    if pixels is None:
        raise DataError(f"{path} is not an image that can be read; use PNG, JPEG, WebP, TIFF or BMP.")
    return pixels
