"""Move the edges of a mask to those of the image by a dense CRF (utils/refinement.py).

The solver is that of the library which the official code calls: ten steps of the Frank-Wolfe method with a
quadratic regulariser, each of which is a projection on probabilities. With two classes, one probability
remains for each pixel.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float64, UInt8

from segic_jax.inference.training_free.lattice import Lattice

STEPS = 10
CERTAIN = 0.95  # probability of what is beyond the band
REACH = 5  # pixels on either side of the edge that may change
COLOUR = 0.03  # standard deviation, of 1
NEAR, FAR = 4 / 512, 12 / 512  # of the canvas: standard deviations of the two kernels in the plane
NEAR_WEIGHT, FAR_WEIGHT = 3.0, 20.0  # the second kernel is one of colours as well


class EdgeField:
    """Hold the kernels of one image, which refine any masks of it."""

    def __init__(self, image: UInt8[np.ndarray, "height width 3"], canvas: int):
        """Arrange the pixels.

        Args:
            canvas: side in pixels, to which the kernels are proportional.
        """
        rows, columns = np.indices(image.shape[:2])
        places = np.stack([rows, columns], axis=-1).reshape(-1, 2).astype(np.float64)
        colours = image.reshape(-1, 3) / (255 * COLOUR)
        self._near = Lattice(places / (NEAR * canvas))
        self._far = Lattice(np.concatenate([places / (FAR * canvas), colours], axis=1))

    def refine(self, inside: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
        """Return the mask with other edges, at most REACH pixels from those that it has."""
        if not inside.any():
            return inside
        core, near = _band(inside)
        unary = _logit(CERTAIN) * (core.astype(np.float64) - ~near)
        return core | (near & (self._solve(unary.reshape(-1)).reshape(inside.shape) > 0.5))

    def _solve(self, unary: Float64[np.ndarray, " pixels"]) -> Float64[np.ndarray, " pixels"]:
        probability = 1 / (1 + np.exp(-2 * unary))
        for _ in range(STEPS):
            pull = NEAR_WEIGHT * (self._near.filter(probability) - 0.5)
            pull += FAR_WEIGHT * (self._far.filter(probability) - 0.5)
            probability = np.clip(0.5 + unary + pull, 0, 1)
        return probability


def _band(inside: Bool[np.ndarray, "height width"]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask eroded and dilated by a disk; beyond the image there is no object."""
    y, x = np.ogrid[-REACH : REACH + 1, -REACH : REACH + 1]
    disk = (x**2 + y**2 <= REACH**2).astype(np.uint8)
    values = inside.astype(np.uint8)
    border = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}
    return cv2.erode(values, disk, **border) > 0, cv2.dilate(values, disk, **border) > 0


def _logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))
