"""Put the mask of a reference on the grid of patches (utils/data.py:102-112)."""

import numpy as np
from jaxtyping import Bool

from segic_jax.data.masks import resize_nearest
from segic_jax.data.preprocess import resize


def mask_on_grid(mask: Bool[np.ndarray, "S S"], grid: int) -> Bool[np.ndarray, "g g"]:
    """Return the patches of a mask, at least one unless it is empty.

    They are those whose centre is inside. Without any, they are those whose first pixel is, else the one at
    the centre of mass.
    """
    inside = resize(mask, (grid, grid)) > 0.5
    if not inside.any():
        inside = resize_nearest(mask, grid, grid).copy()
    if mask.any() and not inside.any():
        patch = len(mask) // grid
        y, x = (int(np.float32(indices.mean()) / patch) for indices in np.nonzero(mask))
        inside[y, x] = True
    return inside
