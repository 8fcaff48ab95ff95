"""Masks and maps drawn on images; RGB uint8."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

Image = UInt8[np.ndarray, "height width 3"]
Mask = Bool[np.ndarray, "height width"]
Colour = tuple[int, int, int]
WHITE, DARK = (255, 255, 255), (30, 30, 30)


# Okabe and Ito's, which colour-blind readers tell apart, as well; without black, and the strong ones first.
OKABE_ITO: tuple[Colour, ...] = (
    (213, 94, 0),  # vermilion
    (86, 180, 233),  # sky blue
    (240, 228, 66),  # yellow
    (0, 158, 115),  # bluish green
    (204, 121, 167),  # reddish purple
    (0, 114, 178),  # blue
    (230, 159, 0),  # orange
)


def colours(count: int) -> tuple[Colour, ...]:
    """OKABE_ITO, then others; the first ones do not change when more are asked for."""
    return OKABE_ITO[:count] + tuple(_further(i) for i in range(count - len(OKABE_ITO)))


def _further(number: int) -> Colour:
    """Neighbours have far hues, and each turn around the circle another brightness."""
    golden = 0.618034
    value = (0.95, 0.6, 0.8)[number % 3]
    red, green, blue = colorsys.hsv_to_rgb((0.1 + number * golden) % 1, 0.85 - 0.3 * (number % 2), value)
    return round(255 * red), round(255 * green), round(255 * blue)


def overlay(image: Image, mask: Mask, colour: Colour) -> Image:
    """The image with `mask` tinted and outlined."""
    return overlays(image, [mask], [colour])


def overlays(image: Image, masks: Sequence[Mask], tints: Sequence[Colour], width: int | None = None) -> Image:
    """Several masks on one image.

    Args:
        width: of the lines in pixels; None: as the image's size wants it.
    """
    drawn = np.array(image, order="C")
    for mask, colour in zip(masks, tints, strict=True):
        drawn[mask] = (drawn[mask].astype(np.uint16) + np.array(colour, np.uint16)) >> 1
    for mask, colour in zip(masks, tints, strict=True):
        _outline(drawn, mask, colour, width or line_width(mask.shape))
    return drawn


def outlined(image: Image, mask: Mask, colour: Colour) -> Image:
    """The image with the edge of `mask` drawn inside it, with a white and a dark line around it."""
    drawn = np.array(image, order="C")
    _outline(drawn, mask, colour, line_width(mask.shape))
    return drawn


def line_width(shape: Sequence[int]) -> int:
    """Of the thinnest line on an image of this size; the others have twice as much."""
    return max(1, round(max(shape) / 500))


def _outline(drawn: Image, mask: Mask, colour: Colour, width: int) -> None:
    """Changes `drawn`; what is further than twice the width and a pixel from the edge stays as it is."""
    edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    for line, reach, inside in ((DARK, 2 * width, False), (WHITE, width, False), (colour, 2 * width, True)):
        band = cv2.drawContours(np.zeros(mask.shape, np.uint8), edges, -1, 1, 2 * reach + 1)
        drawn[(band > 0) & (mask == inside)] = line


def shrink(image: Image, side: int) -> Image:
    """The image with its longer side at most `side`; itself if it has no more."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def heat(values: Float[np.ndarray, "height width"]) -> Image:
    """Colours from the lowest to the highest value."""
    low, high = float(values.min()), float(values.max())
    grey = (255 * (values - low) / max(high - low, 1e-6)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
