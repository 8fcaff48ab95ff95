"""A PNG file of an image that comes a strip at a time.

OpenCV and Pillow want the whole image in memory, several times; a large one does not fit so often.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import UInt8

_LEFT = 1  # the filter: each value is stored minus its left neighbour's


def rgb_png(width: int, height: int, strips: Iterable[UInt8[np.ndarray, "rows width 3"]]) -> Iterator[bytes]:
    """The pieces of the file, in order; as fast and as large as OpenCV makes it."""
    yield b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    packer = zlib.compressobj(zlib.Z_BEST_SPEED, strategy=zlib.Z_RLE)
    for strip in strips:
        values = strip.reshape(len(strip), 3 * width)
        rows = np.empty((len(values), 1 + 3 * width), np.uint8)
        rows[:, 0] = _LEFT
        rows[:, 1:4] = values[:, :3]
        np.subtract(values[:, 3:], values[:, :-3], out=rows[:, 4:])
        if packed := packer.compress(rows):
            yield _chunk(b"IDAT", packed)
    yield _chunk(b"IDAT", packer.flush()) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
    )
