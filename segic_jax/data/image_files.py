"""Read the bytes of image files whole, and their headers without their pixels."""

import hashlib
import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from PIL import Image

from segic_jax.errors import DataError

MAX_PIXELS = 2 * 89_478_485  # of an image, Pillow's limit; they take half a gigabyte
DAMAGED = (OSError, ValueError, SyntaxError, TypeError, struct.error)  # what Pillow raises for damaged files
_READS: ContextVar[dict[Path, str] | None] = ContextVar("record_reads", default=None)
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


@contextmanager
def record_reads() -> Iterator[dict[Path, str]]:
    """Collect the files that this thread reads inside the block, in order, each with its SHA-256."""
    read: dict[Path, str] = {}
    token = _READS.set(read)
    try:
        yield read
    finally:
        _READS.reset(token)


def read_bytes(path: Path | str) -> bytes:
    """Return the content of a file; every reader of data goes through here.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    try:
        if Path(path).is_char_device() or Path(path).is_block_device():  # it may never end
            raise DataError(f"{path} cannot be read: it is a device; give a file.")
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file.") from error
    except DataError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise DataError(f"{path} cannot be read ({getattr(error, 'strerror', error)}).") from error
    if (read := _READS.get()) is not None:
        read[Path(path)] = hashlib.sha256(content).hexdigest()
    return content


def read_complete(path: Path | str) -> bytes:
    """Return the content of a complete file: OpenCV would fill missing parts of an image with grey."""
    content = read_bytes(path)
    if not _is_complete(content):
        raise DataError(f"{path} is cut off or damaged; get the complete file again.")
    return content


def _is_complete(content: bytes) -> bool:
    if content[:3] == b"\xff\xd8\xff":  # JPEG: an end marker after the last scan's start
        return content.rfind(b"\xff\xd9") > content.rfind(b"\xff\xda")
    if content[:4] == b"\x89PNG":
        return _is_complete_png(content)
    if content[:4] == b"RIFF":  # WebP: the size is in the header
        return len(content) >= 8 + int.from_bytes(content[4:8], "little")
    return True


def _is_complete_png(content: bytes) -> bool:
    """Follow the chunks to the last one and verify the checksums of those with pixels and colours."""
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


def open_header(file: io.BufferedIOBase, path: Path | str) -> Image.Image | None:
    """Open an image without reading its pixels; return None if it is not an image.

    Raises:
        DataError: it has too many pixels.
    """
    start = file.read(12)
    file.seek(0)
    if start[4:8] == b"ftyp" and start[8:] in _HEIF_BRANDS and not register_heif():
        raise DataError(
            f"{path} is a HEIC image: run pip install 'segic_jax[heic]' to read it, or save it as JPEG."
        )
    try:
        image = Image.open(file)
    except Image.DecompressionBombError as error:
        limit = MAX_PIXELS // 10**6
        raise DataError(
            f"{path} has more than {limit} million pixels, too many to read: shrink it."
        ) from error
    except DAMAGED:
        return None
    if image.width * image.height > MAX_PIXELS:
        raise DataError(too_large(path, image.width, image.height))
    return image


def too_large(what: Path | str, width: int, height: int) -> str:
    """Return the message for an image of more than MAX_PIXELS."""
    return (
        f"{what} has {width} x {height} pixels; at most {MAX_PIXELS // 10**6} million can be read: shrink it."
    )


def register_heif() -> bool:
    """Let Pillow read HEIC, the format of phones; return whether the package for it is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True
