"""Write PNG files: label maps with a palette, and images that come a strip at a time.

OpenCV and Pillow need the complete image in memory, several times over, which is too much for a large one.
"""

import io
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

_SUB = 1  # the filter: each value is stored minus its left neighbour's


def palette_png(
    labels: Integer[np.ndarray, "height width"], colours: Sequence[tuple[int, int, int]]
) -> bytes:
    """Return a PNG file of numbers up to 255; 0 is black, the others have the colours."""
    image = Image.fromarray(labels.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, *(value for colour in colours for value in colour)])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def rgb_png(width: int, height: int, strips: Iterable[UInt8[np.ndarray, "rows width 3"]]) -> Iterator[bytes]:
    """Yield the pieces of the file, in order; it is as large as OpenCV makes it, and as fast to write."""
    yield b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    packer = zlib.compressobj(zlib.Z_BEST_SPEED, strategy=zlib.Z_RLE)
    for strip in strips:
        values = strip.reshape(len(strip), 3 * width)
        rows = np.empty((len(values), 1 + 3 * width), np.uint8)
        rows[:, 0] = _SUB
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
