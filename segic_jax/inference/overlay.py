"""Draw masks and maps on images, RGB uint8, and write PNG files."""

import colorsys
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

RGBImage = UInt8[np.ndarray, "height width 3"]
AnyImage = UInt8[np.ndarray, "_ _ 3"]  # RGB; in a list, images may differ in size
Mask = Bool[np.ndarray, "height width"]
Colour = tuple[int, int, int]
WHITE, DARK = (255, 255, 255), (30, 30, 30)
_SUB = 1  # PNG's filter: each value is stored minus its left neighbour's

# The palette of Okabe and Ito, which colour-blind readers can tell apart; no black, the strong ones first.
OKABE_ITO: tuple[Colour, ...] = (
    (213, 94, 0),  # vermilion
    (86, 180, 233),  # sky blue
    (240, 228, 66),  # yellow
    (0, 158, 115),  # bluish green
    (204, 121, 167),  # reddish purple
    (0, 114, 178),  # blue
    (230, 159, 0),  # orange
)


def class_colours(count: int) -> tuple[Colour, ...]:
    """Return distinct colours: OKABE_ITO, then generated ones; a larger count keeps the first ones."""
    return OKABE_ITO[:count] + tuple(_generated_colour(i) for i in range(count - len(OKABE_ITO)))


def _generated_colour(number: int) -> Colour:
    """Give neighbours distant hues, and each turn around the circle another brightness."""
    golden = 0.618034
    value = (0.95, 0.6, 0.8)[number % 3]
    red, green, blue = colorsys.hsv_to_rgb((0.1 + number * golden) % 1, 0.85 - 0.3 * (number % 2), value)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_mask(image: RGBImage, mask: Mask, colour: Colour) -> RGBImage:
    """Return a copy of the image with `mask` tinted and outlined."""
    return draw_masks(image, [mask], [colour])


def draw_masks(
    image: RGBImage, masks: Iterable[Mask], colours: Sequence[Colour], width: int | None = None
) -> RGBImage:
    """Return a copy of the image with every mask tinted and outlined in its colour.

    Args:
        width: of the thinnest line in pixels; `line_width` of the image by default.
    """
    drawn, masks = np.array(image, order="C"), list(masks)
    boxes = [cv2.boundingRect(mask.view(np.uint8)) for mask in masks]
    for mask, colour, (x, y, w, h) in zip(masks, colours, boxes, strict=True):
        if w:
            window = np.s_[y : y + h, x : x + w]
            tinted = (np.arange(256)[:, None] + np.array(colour)) >> 1  # of each value and channel
            tint = cv2.LUT(drawn[window], tinted.astype(np.uint8)[None])
            cv2.copyTo(tint, mask[window].view(np.uint8), drawn[window])
    for mask, colour, box in zip(masks, colours, boxes, strict=True):
        _outline(drawn, mask, colour, width or line_width(mask.shape), box)
    return drawn


def draw_object(
    image: RGBImage, mask: Mask, side: int, colour: Colour = OKABE_ITO[0]
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Return the image with `mask` tinted and outlined, its longer side at most `side` pixels."""
    small = shrink(image, side)
    return draw_mask(small, shrink_mask(mask, small.shape[:2]), colour)


def shrink_mask(mask: Mask, size: Sequence[int]) -> Bool[np.ndarray, "rows columns"]:
    """Return the mask at a smaller size (height, width); at least half of each pixel is inside."""
    share = cv2.resize(mask.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return (share >= 0.5) if (share >= 0.5).any() else share > 0


def draw_outline(image: RGBImage, mask: Mask, colour: Colour) -> RGBImage:
    """Return a copy of the image with the mask's edge drawn inside it, a white and a dark line around it."""
    drawn = np.array(image, order="C")
    _outline(drawn, mask, colour, line_width(mask.shape), cv2.boundingRect(mask.view(np.uint8)))
    return drawn


def line_width(shape: Sequence[int]) -> int:
    """Return the width of the thinnest line on an image of this size; the others have twice as much."""
    return max(1, round(max(shape) / 500))


def outline_reach(width: int) -> int:
    """Return the distance from a mask's edge at which lines of this width no longer change a pixel."""
    return 2 * width + 2


def _outline(drawn: RGBImage, mask: Mask, colour: Colour, width: int, box: Sequence[int]) -> None:
    """Draw into `drawn`, around the bounding box (x, y, width, height) of the mask."""
    x, y, w, h = box
    if not w:
        return
    reach = outline_reach(width)
    window = np.s_[max(0, y - reach) : y + h + reach, max(0, x - reach) : x + w + reach]
    inside = mask[window].view(np.uint8)
    outside = 1 - inside
    edges, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    narrow, wide = (
        cv2.drawContours(np.zeros(inside.shape, np.uint8), edges, -1, 1, 2 * reach + 1)
        for reach in (width, 2 * width)
    )
    for band, side, line in ((wide, outside, DARK), (narrow, outside, WHITE), (wide, inside, colour)):
        pixels = np.flatnonzero(cv2.bitwise_and(band, side).view(bool))  # faster than np.nonzero of two axes
        drawn[window][np.divmod(pixels, inside.shape[1])] = line


def shrink(image: RGBImage, side: int) -> UInt8[np.ndarray, "rows columns 3"]:
    """Return the image with its longer side at most `side`; itself where it has no more."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def heat_map(values: Float[np.ndarray, "height width"]) -> RGBImage:
    """Return colours that run from the lowest to the highest value."""
    low, high = float(values.min()), float(values.max())
    grey = (255 * (values - low) / max(high - low, 1e-6)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)


def rgb_png(width: int, height: int, strips: Iterable[UInt8[np.ndarray, "rows width 3"]]) -> Iterator[bytes]:
    """Yield the pieces of a PNG file, in order; it is as large as OpenCV makes it, and as fast to write.

    OpenCV and Pillow need the complete image in memory, several times over: too much for a large one.
    """
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
