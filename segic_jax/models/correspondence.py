"""The geometric instruction: reference features and masks -> where the same thing is on the target.

Pure functions without parameters (model/segic.py:397-406, 502, 545-552, 648-664 and
utils/misc.py:35-48, 404-438 of the official code); nothing here carries a gradient.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from segic_jax.models.layers import l2_normalise
from segic_jax.models.resize import bilinear_weights

ROUNDING = 5e-7  # of a cosine in float32: eight units in the last place of 1


def grid_cells(
    masks: Float[Array | np.ndarray, "*batch S S"] | Bool[Array | np.ndarray, "*batch S S"], grid: int
) -> Array:
    """Masks with values 0..1 as 0/1 floats [..., grid, grid]: bilinear, then strictly over 0.5."""
    return (_resize(masks.astype(jnp.float32), grid) > 0.5).astype(jnp.float32)


def pool(
    features: Float[Array | np.ndarray, "*batch_f g g channels"],
    masks: Float[Array | np.ndarray, "*batch_m S S"] | Bool[Array | np.ndarray, "*batch_m S S"],
) -> Float[Array, "*batch channels"]:
    """Mean of the features inside each mask (values 0..1); leading dimensions broadcast.

    A mask without any cell over 0.5 on the grid gives a zero feature (segic.py:397-406).
    """
    grid, channels = features.shape[-2:]
    cells = grid_cells(masks, grid)
    cells = cells.reshape(*cells.shape[:-2], 1, grid * grid)
    sums = cells @ features.reshape(*features.shape[:-3], grid * grid, channels)
    return (sums / jnp.maximum(cells.sum(-1, keepdims=True), 1))[..., 0, :]


def cosine_map(
    features: Float[Array, "batch g g channels"],
    pooled: Float[Array, "batch concepts channels"],
    canvas: int,
    eps: float = 1e-8,
) -> Float[Array, "batch concepts S S"]:
    """Cosine similarity of every canvas pixel to each pooled feature, in -1..1."""
    return upsample_maps(similarity_map(features, pooled, canvas, eps), canvas)


def similarity_map(
    features: Float[Array, "batch g g channels"],
    pooled: Float[Array, "batch concepts channels"],
    canvas: int,
    eps: float = 1e-8,
) -> Float[Array, "batch concepts quarter quarter"]:
    """The same at a quarter of the canvas, where the official code computes it.

    It enlarges the features to canvas // 4, normalises them (no norm below `eps`) and multiplies
    (segic.py:502, 648). Both the product and the squared norm of an interpolated feature follow from
    products on the small grid, so the enlarged features are never made. A zero feature gives a zero map.
    """
    batch, grid, _, channels = features.shape
    weights = bilinear_weights(grid, canvas // 4)
    products = l2_normalise(pooled, eps) @ jnp.swapaxes(features.reshape(batch, grid * grid, channels), 1, 2)
    products = _both_sides(products.reshape(batch, -1, grid, grid), weights, weights)
    norms = jnp.sqrt(jnp.maximum(_interpolated_squared_norm(features, weights), eps**2))
    return products / norms[:, None]


def upsample_maps(maps: Float[Array, "*batch s s"], canvas: int) -> Float[Array, "*batch S S"]:
    """Square maps at the canvas, bilinear."""
    return _resize(maps, canvas)


def _interpolated_squared_norm(features: Array, weights: np.ndarray) -> Array:
    """|sum of w_i f_i|^2 at every output point: each reads two neighbouring rows and columns.

    The products of neighbours are taken from those of whole rows: more multiplication, and a few times
    faster than sums over shifted copies of the features.
    """
    alone = weights**2
    beside = 2 * weights[:, :-1] * weights[:, 1:]
    columns_first = jnp.swapaxes(features, -1, -2)
    in_row = features @ columns_first  # [batch, rows, columns, columns]
    with_next = features[:, :-1] @ columns_first[:, 1:]

    def of(products, offset):
        return jnp.diagonal(products, offset, axis1=-2, axis2=-1)

    return (
        _both_sides(of(in_row, 0), alone, alone)
        + _both_sides(of(in_row, 1), alone, beside)
        + _both_sides(of(with_next, 0), beside, alone)
        + _both_sides(of(with_next, 1) + of(with_next, -1), beside, beside / 2)
    )


def best_point(similarity: Float[Array, "*batch S S"]) -> Float[Array, "*batch 2"]:
    """(x, y) of the highest pixel; the first in reading order among equals.

    Equal is what differs by rounding: along the borders the enlarged map repeats its values, and a matrix
    product rounds each of them as its blocks fall, which depends on the number of rows and devices.
    """
    side = similarity.shape[-1]
    flat = similarity.reshape(*similarity.shape[:-2], side * side)
    index = jnp.argmax(flat >= flat.max(-1, keepdims=True) - ROUNDING, axis=-1)
    return jnp.stack([index % side, index // side], axis=-1).astype(jnp.float32)


def mask_boxes(masks: Bool[Array, "*batch S S"]) -> Float[Array, "*batch 4"]:
    """(x0, y0, x1, y1) of the outermost pixels inside; zeros for an empty mask (misc.py:404-438)."""
    columns, rows = masks.any(axis=-2), masks.any(axis=-1)
    last = masks.shape[-1] - 1
    box = [
        jnp.argmax(columns, axis=-1),
        jnp.argmax(rows, axis=-1),
        last - jnp.argmax(columns[..., ::-1], axis=-1),
        last - jnp.argmax(rows[..., ::-1], axis=-1),
    ]
    return jnp.where(rows.any(-1, keepdims=True), jnp.stack(box, axis=-1), 0).astype(jnp.float32)


def _resize(maps: Array, side: int) -> Array:
    weights = bilinear_weights(maps.shape[-1], side)
    return _both_sides(maps, weights, weights)


def _both_sides(maps: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
    """rows @ map @ columns.T for every square map."""
    across = maps @ jnp.asarray(columns.T)
    return jnp.swapaxes(jnp.swapaxes(across, -1, -2) @ jnp.asarray(rows.T), -1, -2)
