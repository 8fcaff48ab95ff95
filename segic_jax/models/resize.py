"""Resample as torch's `interpolate` does, by products with small constant matrices.

Each function returns or uses weights [out, in] computed in numpy at trace time.
"""

from functools import cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from segic_jax.models.params import AnyArray


def bilinear(x: Float[AnyArray, "*batch height width channels"], size: tuple[int, int]) -> Array:
    """Resize to `size` (height, width): bilinear, align_corners False, no antialias."""
    return separable(x, bilinear_weights(x.shape[-3], size[0]), bilinear_weights(x.shape[-2], size[1]))


def separable(
    x: Float[AnyArray, "*batch height width channels"],
    rows: Float[np.ndarray, "rows height"],
    columns: Float[np.ndarray, "columns width"],
) -> Float[Array, "*batch rows columns channels"]:
    """Apply one weight matrix to the height and one to the width."""
    dtype = x.dtype
    x = jnp.einsum("ih,...hwc->...iwc", jnp.asarray(rows, dtype), x)
    return jnp.einsum("jw,...iwc->...ijc", jnp.asarray(columns, dtype), x)


@cache
def bilinear_weights(size_in: int, size_out: int) -> np.ndarray:
    """Return weights [out, in]; the source coordinate is clamped at 0 below, its index above."""
    source = np.maximum((np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5, 0)
    low = np.minimum(np.floor(source).astype(int), size_in - 1)
    high = np.minimum(low + 1, size_in - 1)
    fraction = source - low
    weights = np.zeros((size_out, size_in))
    np.add.at(weights, (np.arange(size_out), low), 1 - fraction)
    np.add.at(weights, (np.arange(size_out), high), fraction)
    return weights.astype(np.float32)


@cache
def bicubic_weights(size_in: int, size_out: int, offset: float) -> np.ndarray:
    """Return the weights of torch's bicubic (coefficient -0.75), taps clamped at the border.

    The step is `size_in / (size_out + offset)`: DINOv2 passes a scale factor with 0.1 added
    (vision_transformer.py:180-212).
    """
    step = np.float32(size_in / (size_out + offset))  # torch rounds it to float32
    source = (np.arange(size_out) + 0.5) * np.float64(step) - 0.5
    base = np.floor(source).astype(int)
    weights = np.zeros((size_out, size_in))
    for tap in (-1, 0, 1, 2):
        index = np.clip(base + tap, 0, size_in - 1)
        np.add.at(weights, (np.arange(size_out), index), _cubic(source - (base + tap), -0.75))
    return weights.astype(np.float32)


@cache
def bicubic_antialias_weights(size_in: int, size_out: int) -> np.ndarray:
    """Return the weights of torch's antialiased bicubic: coefficient -0.5, widened, renormalised."""
    step = size_in / size_out
    stretch = max(step, 1.0)
    source = (np.arange(size_out) + 0.5) * step - 0.5
    weights = _cubic((source[:, None] - np.arange(size_in)[None]) / stretch, -0.5)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Return the values of Keys' cubic convolution kernel."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
