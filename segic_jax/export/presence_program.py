"""Compute the presence of a class inside an exported program, as the API does on the host.

`inference.presence` is the definition. Here every shape is fixed: a reference gives PATCHES patches of each
kind, and those beyond the ones that it has are zeros.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float16, Int

from segic_jax.inference.matching import INSIDE, OUTSIDE, PATCHES, PooledReference, match_kept_patches
from segic_jax.inference.presence import EVIDENCE, Calibration
from segic_jax.models import segic
from segic_jax.models.correspondence import patches_on_image
from segic_jax.models.layers import bilinear, l2_normalise


def kept_patches(
    features: Float[Array, "g g channels"], pooled: PooledReference
) -> Float16[Array, "kinds patches channels"]:
    """Return patches of a reference inside and beside the object, spread evenly where there are too many."""
    unit = l2_normalise(features.reshape(-1, features.shape[-1]), 1e-8)
    kinds = pooled.inside, pooled.valid & ~pooled.inside  # INSIDE and OUTSIDE
    return jnp.stack([_spread(unit, selected.reshape(-1)) for selected in kinds]).astype(jnp.float16)


def _spread(
    unit: Float[Array, "n channels"], selected: Bool[Array, " n"]
) -> Float[Array, "patches channels"]:
    """Return PATCHES of the selected rows, as `inference.context.subsample` chooses them; then zeros."""
    number = jnp.where(selected, jax.lax.cumsum(selected.astype(jnp.int32)) - 1, -1)
    count = selected.astype(jnp.int32).sum()
    index = jnp.arange(PATCHES, dtype=jnp.int32)
    wanted = jnp.where(count <= PATCHES, index, index * count // PATCHES)
    return (number == wanted[:, None]).astype(jnp.float32) @ unit


def class_presence(
    calibration: Calibration,
    canvas: int,
    features: Float[Array, "g g channels"],
    size: Int[Array, " 2"],
    stages: segic.DecoderStages,
    patches: Float16[Array, "kinds patches channels"],
    shots: Int[Array, ""],
) -> Float[Array, ""]:
    """Return the presence of the one class that was decoded on the one image of `stages`.

    Args:
        features: of the image.
        patches: of the references.
        shots: their number.
    """
    grid = features.shape[0]
    patches = patches.astype(jnp.float32)
    kept = (patches != 0).any(-1)
    matched, mutual = match_kept_patches(features[None], size[None], canvas, patches[None], kept[None])
    inside, outside = matched[0, 0, INSIDE], matched[0, 0, OUTSIDE]
    on_image = patches_on_image(size, canvas, grid)
    similarity = bilinear(stages.similarity[0, 0, :, :, None], (grid, grid))[..., 0]
    cells = jax.nn.sigmoid(stages.logits[0, 0]).reshape(grid, 4, grid, 4).mean((1, 3))
    mask = (cells > 0.5) & on_image
    area = mask.astype(jnp.float32).sum()

    def mean_inside(values: Array) -> Array:
        return jnp.where(mask, values, 0).sum() / jnp.maximum(area, 1)

    evidence = {
        "similarity": jnp.where(on_image, similarity, -1).max(),
        "inside": mean_inside(similarity),
        "confidence": mean_inside(cells),
        "match": mean_inside(inside),
        "margin": mean_inside(inside - outside),
        "cycle": mean_inside((inside > outside).astype(jnp.float32)),
        "mutual": mutual[0, 0],
        "area": area / on_image.astype(jnp.float32).sum(),
        "shots": 1 / shots.astype(jnp.float32),
    }
    values = jnp.stack([jnp.asarray(evidence[name], jnp.float32) for name in EVIDENCE])
    score = (values * np.array([calibration.weights[name] for name in EVIDENCE], np.float32)).sum()
    score = score + calibration.bias
    return jnp.where(area > 0, jax.nn.sigmoid(score), 0)
