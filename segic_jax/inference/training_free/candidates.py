"""Find the patches of a target that match a concept in both directions (insid3.py:265-297)."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from segic_jax.models.params import AnyArray

QUANTILE = 0.9  # of the similarities: where none is above 0, the gate is here


def forward_gate(
    similarity: Float[AnyArray, "concepts patches"], on_image: Bool[AnyArray, " patches"]
) -> Bool[Array, "concepts patches"]:
    """Return the patches that look more like the concept than unlike it.

    Args:
        similarity: cosine to the prototype.
    """
    similarity = jnp.where(on_image, similarity, -jnp.inf)
    positive = similarity > 0
    known = jnp.where(on_image, similarity, jnp.nan)
    highest = similarity > jnp.nanquantile(known, QUANTILE, axis=-1, keepdims=True)
    return jnp.where(positive.any(-1, keepdims=True), positive, highest)


def nearest_patches(
    reference: Float[AnyArray, "references channels"], target: Float[AnyArray, "patches channels"]
) -> Int[Array, " patches"]:
    """Return for each patch of a target the patch of a reference that it looks like most."""
    return jnp.argmax(target @ reference.T, axis=-1)


def backward_gate(
    nearest: Sequence[Int[np.ndarray, " patches"]],
    inside: Bool[np.ndarray, "shots references"],
    images: Int[np.ndarray, " shots"],
) -> Bool[np.ndarray, " patches"]:
    """Return the patches whose nearest patch is inside the object, by the vote of half of the shots or more.

    Args:
        nearest: for each reference image, from `nearest_patches`.
        inside: of each shot, on the grid of its image.
        images: the reference image of each shot.
    """
    votes = sum(mask[nearest[image]].astype(np.int32) for mask, image in zip(inside, images, strict=True))
    return np.asarray(votes >= -(-len(inside) // 2))
