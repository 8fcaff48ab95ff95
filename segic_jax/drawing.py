"""Masks and maps drawn on pictures; RGB uint8."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

Image = UInt8[np.ndarray, "height width 3"]
Mask = Bool[np.ndarray, "height width"]
Colour = tuple[int, int, int]


def colours(count: int) -> tuple[Colour, ...]:
    """Strong ones, neighbours far apart; the first few do not change when more are asked for."""
    golden = 0.618034
    return tuple(
        tuple(round(255 * value) for value in colorsys.hsv_to_rgb((0.98 + i * golden) % 1, 0.8, 0.95))
        for i in range(count)
    )


def overlay(image: Image, mask: Mask, colour: Colour) -> Image:
    """The picture with `mask` tinted and outlined."""
    return overlays(image, [mask], [colour])


def overlays(image: Image, masks: Sequence[Mask], tints: Sequence[Colour]) -> Image:
    """Several masks on one picture."""
    tinted = image.copy()
    for mask, colour in zip(masks, tints, strict=True):
        tinted[mask] = (0.5 * tinted[mask] + 0.5 * np.array(colour)).astype(np.uint8)
    for mask, colour in zip(masks, tints, strict=True):
        tinted = outlined(tinted, mask, colour)
    return tinted


def outlined(image: Image, mask: Mask, colour: Colour) -> Image:
    """The picture with the edge of `mask` drawn on it."""
    edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(max(mask.shape) / 200))
    return cv2.drawContours(np.ascontiguousarray(image).copy(), edges, -1, colour, thickness)


def heat(values: Float[np.ndarray, "height width"]) -> Image:
    """Colours from the lowest to the highest value."""
    low, high = float(values.min()), float(values.max())
    grey = (255 * (values - low) / max(high - low, 1e-6)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
