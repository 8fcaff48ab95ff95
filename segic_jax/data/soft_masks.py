"""Tell a mask with soft edges from a map of several labels: both hold values between black and white."""

import cv2
import numpy as np
from jaxtyping import Bool, Integer, UInt8

HALF = 127  # brighter pixels of a mask with soft edges are inside
WHITE = 224  # the least brightness of the inside
DARK = 31  # the largest brightness of a background
FEW_LEVELS = 16  # fewer than these between black and white are those of a drawing program, without noise
FLAT = 8  # range of the values in a flat patch of 5 x 5 pixels
NOISE = 56  # the same of grey values after a compression with a loss
BLURRED_STEP = 180  # largest difference of two pixels beside a blurred edge
_NINE, _SQUARE = np.ones((3, 3), np.uint8), np.ones((5, 5), np.uint8)


def is_soft_edged(grey: UInt8[np.ndarray, "height width"], *, lossy: bool = False) -> bool:
    """Return whether every value between black and white belongs to the edge of a white object.

    On such an edge a pixel has a darker and a brighter neighbour; labels make flat regions, and regions of
    their own that are nowhere white.

    Args:
        lossy: compression has added noise.
    """
    levels = np.unique(grey)
    if levels[-1] < WHITE or levels[0] > DARK:
        return False
    between = levels[(levels > 0) & (levels < 255)]
    if not len(between):
        return True
    if lossy and _is_sharp(grey):
        return not _has_grey_region(grey)
    if lossy:
        step = (cv2.dilate(grey, _NINE) - cv2.erode(grey, _NINE))[_edge(grey)]
        if np.mean(step > BLURRED_STEP) > 0.05:  # partly sharp: the border of a label
            return False
        grey = cv2.GaussianBlur(grey, (3, 3), 0)
    low, high = cv2.erode(grey, _SQUARE), cv2.dilate(grey, _SQUARE)
    if not lossy and len(between) < FEW_LEVELS:
        zone = (grey > levels[0]) & (grey < levels[-1])
    else:  # the ends of a blurred edge are flat, and so is the noise of JPEG
        zone = (grey > 15) & (grey < 240)
        if ((between > 15) & (between < 240)).sum() < FEW_LEVELS // 2:
            return False
        if ((high - low <= 1) & (low > 1) & (high < 254)).any():
            return False
    on_ramp = (cv2.erode(grey, _NINE) < grey) & (grey < cv2.dilate(grey, _NINE))
    if (zone & ~on_ramp).sum() > 0.05 * zone.sum():
        return False
    flat = (grey > 63) & (grey < 192) & (high - low <= NOISE) if lossy else zone & (high - low <= FLAT)
    return bool(flat.sum() <= 0.005 * zone.sum()) and not _has_grey_region(grey)


def _is_sharp(grey: UInt8[np.ndarray, "height width"]) -> bool:
    """Return whether all is black or white but for the noise of a compression where they meet."""
    edge = _edge(grey)
    between = (grey > 47) & (grey < 208) & ~edge
    # The noise is no more than a few pixels in a square.
    dark = (cv2.erode(grey, _SQUARE) > 11) & (cv2.dilate(grey, _SQUARE) < 200)
    return bool(between.sum() <= 2 + 0.005 * edge.sum()) and not dark.any()


def _edge(grey: UInt8[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Return the pixels on both sides of the border at half the brightness."""
    inside = (grey > HALF).astype(np.uint8)
    return cv2.dilate(inside, _NINE) != cv2.erode(inside, _NINE)


def _has_grey_region(grey: UInt8[np.ndarray, "height width"]) -> bool:
    """Return whether a region that is more than a few pixels of an edge is nowhere white."""
    count, regions, statistics, _ = cv2.connectedComponentsWithStats((grey > 23).astype(np.uint8))
    white = np.zeros(count, bool)
    white[regions[grey >= WHITE]] = True
    areas = statistics[1:, cv2.CC_STAT_AREA][~white[1:]]
    return bool(areas.max(initial=0) > 8 or areas.sum() > 0.02 * (grey >= WHITE).sum())


def shades_of_colour(
    codes: Integer[np.ndarray, "height width"],
    present: Integer[np.ndarray, " colours"],
) -> UInt8[np.ndarray, "height width"] | None:
    """Return 0 for black to 255 for the colour of a mask with soft edges; None for another image.

    Args:
        codes: the colours as numbers 0xrrggbb.
        present: the different codes in order.
    """
    if len(present) < 3 or present[0] != 0:
        return None
    palette = np.stack([present >> 16, present >> 8 & 255, present & 255], -1).astype(float)
    shades, residual = _project(palette, palette[palette.sum(-1).argmax()])
    if residual.max() > 4:
        return None
    grey = np.rint(255 * shades).astype(np.uint8)[np.searchsorted(present, codes)]
    return grey if is_soft_edged(grey) else None


def _project(colours: np.ndarray, onto: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each colour's share of the colour `onto`, 0..1, and its largest difference from that shade."""
    shades = np.clip(colours @ onto / (onto @ onto), 0, 1)
    return shades, np.abs(colours - shades[..., None] * onto).max(-1)
