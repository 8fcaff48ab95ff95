"""Find what corresponds to a reference: features and masks -> similarity map on the target, and its peak.

Pure functions without parameters (model/segic.py:397-406, 502, 545-552, 648-664 and
utils/misc.py:35-48, 404-438 of the official code); nothing here carries a gradient.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from segic_jax.models.layers import bilinear_weights, l2_normalise
from segic_jax.models.params import AnyArray

ROUNDING = 5e-7  # of a cosine in float32: eight units in the last place of 1


def grid_masks(masks: Float[AnyArray, "*batch S S"] | Bool[AnyArray, "*batch S S"], grid: int) -> Array:
    """Resize masks (values 0..1) to the patch grid: bilinear, then 1 where strictly above 0.5, else 0."""
    return (_resize(masks.astype(jnp.float32), grid) > 0.5).astype(jnp.float32)


def patches_on_image(sizes: Int[AnyArray, "*n 2"], canvas: int, grid: int) -> Bool[AnyArray, "*n g g"]:
    """Return the patches whose centre is on the image, and always the first one; in NumPy if `sizes` is."""
    centre = (np.arange(grid) + 0.5) * (canvas / grid)
    centre[0] = 0
    return (centre[:, None] < sizes[..., 0, None, None]) & (centre < sizes[..., 1, None, None])


def pool(
    features: Float[AnyArray, "*batch_f g g channels"],
    masks: Float[AnyArray, "*batch_m S S"] | Bool[AnyArray, "*batch_m S S"],
) -> Float[Array, "*batch channels"]:
    """Return the mean of the features inside each mask (values 0..1); leading dimensions broadcast.

    A mask that is nowhere above 0.5 on the grid gives a zero feature (segic.py:397-406).
    """
    return pool_inside(features, grid_masks(masks, features.shape[-2]))


def pool_inside(
    features: Float[AnyArray, "*batch_f g g channels"], inside: Float[AnyArray, "*batch_m g g"]
) -> Float[Array, "*batch channels"]:
    """Do as `pool` with masks on the grid: 1 for the patches inside, else 0."""
    grid, channels = features.shape[-2:]
    inside = jnp.reshape(inside, (*inside.shape[:-2], 1, grid * grid))
    sums = inside @ features.reshape(*features.shape[:-3], grid * grid, channels)
    return (sums / jnp.maximum(inside.sum(-1, keepdims=True), 1))[..., 0, :]


def cosine_map(
    features: Float[AnyArray, "batch g g channels"],
    pooled: Float[AnyArray, "batch concepts channels"],
    canvas: int,
    eps: float = 1e-8,
) -> Float[Array, "batch concepts S S"]:
    """Return the cosine similarity of every canvas pixel to each pooled feature, in -1..1."""
    return upsample_maps(similarity_map(features, pooled, canvas, eps), canvas)


def similarity_map(
    features: Float[AnyArray, "batch g g channels"],
    pooled: Float[AnyArray, "batch concepts channels"],
    canvas: int,
    eps: float = 1e-8,
) -> Float[Array, "batch concepts quarter quarter"]:
    """Return the cosine similarity at a quarter of the canvas, where the official code computes it.

    The official code enlarges the features to canvas // 4, normalises them (no norm below `eps`) and
    multiplies (segic.py:502, 648). Both the product and the squared norm of an interpolated feature follow
    from products on the small grid, so the enlarged features are never made. A zero feature gives a zero map.
    """
    batch, grid, _, channels = features.shape
    weights = bilinear_weights(grid, canvas // 4)
    products = l2_normalise(pooled, eps) @ jnp.swapaxes(features.reshape(batch, grid * grid, channels), 1, 2)
    products = _both_sides(products.reshape(batch, -1, grid, grid), weights, weights)
    norms = jnp.sqrt(jnp.maximum(_interpolated_squared_norm(features, weights), eps**2))
    return products / norms[:, None]


def upsample_maps(maps: Float[AnyArray, "*batch s s"], canvas: int) -> Float[Array, "*batch S S"]:
    """Resize square maps to the canvas, bilinear."""
    return _resize(maps, canvas)


def _interpolated_squared_norm(features: AnyArray, weights: AnyArray) -> Array:
    """Return |sum of w_i f_i|^2 at every output point, which reads two neighbouring rows and columns.

    The products of neighbours are taken from those of entire rows: more multiplications, but a few times
    faster than sums over shifted copies of the features.
    """
    squares = weights**2
    neighbours = 2 * weights[:, :-1] * weights[:, 1:]
    columns_first = jnp.swapaxes(features, -1, -2)
    in_row = features @ columns_first  # [batch, rows, columns, columns]
    with_next = features[:, :-1] @ columns_first[:, 1:]

    def diagonal(products, offset):
        return jnp.diagonal(products, offset, axis1=-2, axis2=-1)

    return (
        _both_sides(diagonal(in_row, 0), squares, squares)
        + _both_sides(diagonal(in_row, 1), squares, neighbours)
        + _both_sides(diagonal(with_next, 0), neighbours, squares)
        + _both_sides(diagonal(with_next, 1) + diagonal(with_next, -1), neighbours, neighbours / 2)
    )


def best_point(similarity: Float[AnyArray, "*batch S S"]) -> Float[Array, "*batch 2"]:
    """Return (x, y) of the highest pixel; the first in reading order among equals.

    Values that differ by rounding count as equal: along the borders the enlarged map repeats its values, and
    a matrix product rounds them differently, depending on the number of rows and devices.
    """
    side = similarity.shape[-1]
    flat = similarity.reshape(*similarity.shape[:-2], side * side)
    index = jnp.argmax(flat >= flat.max(-1, keepdims=True) - ROUNDING, axis=-1)
    return jnp.stack([index % side, index // side], axis=-1).astype(jnp.float32)


def mask_boxes(masks: Bool[AnyArray, "*batch S S"]) -> Float[Array, "*batch 4"]:
    """Return (x0, y0, x1, y1) of the outermost pixels inside; zeros for an empty mask (misc.py:404-438)."""
    columns, rows = jnp.any(masks, axis=-2), jnp.any(masks, axis=-1)
    last = masks.shape[-1] - 1
    box = [
        jnp.argmax(columns, axis=-1),
        jnp.argmax(rows, axis=-1),
        last - jnp.argmax(columns[..., ::-1], axis=-1),
        last - jnp.argmax(rows[..., ::-1], axis=-1),
    ]
    return jnp.where(rows.any(-1, keepdims=True), jnp.stack(box, axis=-1), 0).astype(jnp.float32)


def _resize(maps: AnyArray, side: int) -> Array:
    weights = bilinear_weights(maps.shape[-1], side)
    return _both_sides(maps, weights, weights)


def _both_sides(maps: AnyArray, rows: np.ndarray, columns: np.ndarray) -> Array:
    """Return rows @ map @ columns.T for every square map."""
    across = maps @ jnp.asarray(columns.T)
    return jnp.swapaxes(jnp.swapaxes(across, -1, -2) @ jnp.asarray(rows.T), -1, -2)
