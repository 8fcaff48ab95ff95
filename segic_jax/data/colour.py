"""torchvision's ColorJitter for float images: brightness, contrast, saturation and hue, in random order."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32

GREY = np.array([0.2989, 0.587, 0.114], np.float32)  # torchvision's weights
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


class Colour(NamedTuple):
    """One change of colours."""

    order: tuple[int, ...]  # of BRIGHTNESS, CONTRAST, SATURATION and HUE
    factors: tuple[float, ...]  # of each of them in that numbering; of hue: an offset, 1 is the whole circle


def draw_colour(rng: np.random.Generator, most: tuple[float, float, float, float]) -> Colour:
    """Factors in 1 - most .. 1 + most, not below 0; the hue's offset in -most .. most."""
    order = tuple(rng.permutation(4).tolist())
    factors = [float(rng.uniform(max(0, 1 - one), 1 + one)) for one in most[:HUE]]
    return Colour(order, (*factors, float(rng.uniform(-most[HUE], most[HUE]))))


def jitter_colour(
    pixels: Float32[np.ndarray, "height width 3"], colour: Colour
) -> Float32[np.ndarray, "height width 3"]:
    """Values are 0 to 255, and are cut to that after each change."""
    for change in colour.order:
        factor = colour.factors[change]
        pixels = _turned(pixels, factor) if change == HUE else _blended(pixels, change, factor)
    return pixels


def _blended(pixels: Float32[np.ndarray, "h w 3"], change: int, factor: float) -> np.ndarray:
    """factor * pixels + (1 - factor) * (black, the mean grey, or each pixel's grey)."""
    matrix = np.zeros((3, 4), np.float32)
    matrix[:, :3] = np.eye(3) * factor
    if change == CONTRAST:
        matrix[:, 3] = (1 - factor) * (GREY @ np.array(cv2.mean(pixels)[:3], np.float32))
    elif change == SATURATION:
        matrix[:, :3] += (1 - factor) * GREY
    changed = cv2.transform(pixels, matrix)
    return np.clip(changed, 0, 255, out=changed)


def _turned(pixels: Float32[np.ndarray, "h w 3"], offset: float) -> np.ndarray:
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)  # hue in degrees
    hsv[..., 0] += offset % 1 * 360  # OpenCV takes the first 360 of up to 720 away again
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
