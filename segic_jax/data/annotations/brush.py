"""Pack and unpack the run lengths of Label Studio's brush, a stream of bits.

The stream packs the bytes of an RGBA image of which only the last channel matters. Its head has the number
of bytes (32 bits), the bits of a value less one (5), and four sizes of lengths less one (4 each). Then come
blocks: whether one value is repeated (1 bit), which of the sizes the length has (2), the length less one, and
one value or as many as the length.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8

MAX_BYTES = 4 * 178_956_970  # of an RGBA image, as many pixels as an image may have
SIZES = (3, 4, 8, 16)  # bits of the lengths that are written
OPAQUE = 127  # values above are inside


def unpack(rle: Sequence[int]) -> UInt8[np.ndarray, " values"]:
    """Return the values.

    Raises:
        ValueError: the numbers are no bytes, or the stream ends early.
    """
    stream = _Bits(bytes(rle))
    count, bits = stream.read(32), stream.read(5) + 1
    sizes = [stream.read(4) + 1 for _ in range(4)]
    if bits != 8 or count > MAX_BYTES:
        raise ValueError("a stream of another kind of values")
    values, at = np.zeros(count, np.uint8), 0
    while at < count:
        repeated = stream.read(1)
        end = at + 1 + stream.read(sizes[stream.read(2)])
        if end > count:
            raise ValueError("a stream that is longer than its image")
        if repeated:
            values[at:end] = stream.read(8)
        else:
            values[at:end] = [stream.read(8) for _ in range(end - at)]
        at = end
    return values


def decode(rle: Sequence[int], height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """Return the mask: where the alpha channel is above the half.

    Raises:
        ValueError: the stream is damaged, or has another number of pixels.
    """
    count = _Bits(bytes(rle[:4])).read(32)
    if count != 4 * height * width:  # before anything is unpacked: few bytes may stand for many
        raise ValueError(f"a stream of {count // 4} pixels for an image of {width} x {height}")
    values = unpack(rle)
    return values.reshape(height, width, 4)[..., 3] > OPAQUE


def encode(mask: Bool[np.ndarray, "height width"]) -> list[int]:
    """Pack a mask as an image that is 0 or 255 in all four channels."""
    flat = mask.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    starts = np.concatenate([[0], edges])
    lengths = 4 * np.diff(starts, append=flat.size)
    stream = [f"{4 * flat.size:032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value = "11111111" if flat[start] else "00000000"
        while length:
            part = min(length, 1 << SIZES[-1])
            size = next(i for i, bits in enumerate(SIZES) if part <= 1 << bits)
            stream.append(f"1{size:02b}{part - 1:0{SIZES[size]}b}{value}")
            length -= part
    bits = np.frombuffer("".join(stream).encode("ascii"), np.uint8) - ord("0")
    return np.packbits(bits).tolist()


class _Bits:
    """Read numbers of any number of bits from bytes."""

    def __init__(self, content: bytes):
        self._content, self._at, self._end = content, 0, 8 * len(content)

    def read(self, count: int) -> int:
        start, end = self._at, self._at + count
        if end > self._end:
            raise ValueError("a stream that ends early")
        self._at = end
        first, last = start >> 3, (end + 7) >> 3
        number = int.from_bytes(self._content[first:last], "big")
        return number >> (8 * last - end) & ((1 << count) - 1)
