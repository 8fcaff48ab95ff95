"""What the API computes on the device beyond the model: which cells of target and references look alike.

Pure functions; `programs` compiles them. A cell is a patch of the backbone's grid. A concept keeps up to
PATCHES cells of its references of each kind, so that shapes do not depend on the number of shots.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from segic_jax.config import ModelConfig
from segic_jax.models import segic
from segic_jax.models.correspondence import cosine_map, grid_cells
from segic_jax.models.layers import l2_normalise
from segic_jax.models.params import Params
from segic_jax.models.resize import bilinear

INSIDE, OUTSIDE = range(2)
KINDS = 2  # kinds of reference cells: the object's, and those beside it
PATCHES = 128  # of each kind and concept


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ConceptSlots:
    """Concepts that are decoded together; those beyond the used ones have no valid token and patch."""

    context: segic.Prototypes  # batch of 1
    patches: Float[Array, "slots kinds patches channels"]  # of unit length
    patches_valid: Bool[Array, "slots kinds patches"]


class PooledReference(NamedTuple):
    """What one mask on one reference gives."""

    visual: Float[Array, " channels"]  # mean feature inside
    inside: Bool[Array, "g g"]
    valid: Bool[Array, "g g"]  # cells on the image


class ConceptMatches(NamedTuple):
    """What a batch of targets gives for some concepts; a cosine is -1 where there is nothing to match."""

    logits: Float[Array, "batch rows side side"]  # at 4 x grid
    similarity: Float[Array, "batch rows g g"]  # to the mean feature of the examples
    matched: Float[Array, "batch rows kinds g g"]  # to the best reference cell of each kind
    mutual: Float[Array, "batch rows"]  # share of the INSIDE cells that match one cell and are matched by it


class PatchMatches(NamedTuple):
    """Hold which reference patch each patch of a target looks like."""

    heat: Float[Array, "slots S S"]  # similarity map on the canvas
    best: Float[Array, "slots g g"]  # cosine to the best patch of the object, -1..1
    index: Int[Array, "slots g g"]  # of that patch among those of the concept


def cells_on_image(sizes: Int[Array, "*n 2"], canvas: int, grid: int) -> Bool[Array | np.ndarray, "*n g g"]:
    """Cells whose centre is on the image; the first one always is. Of NumPy or JAX, as `sizes` is."""
    centre = (np.arange(grid) + 0.5) * (canvas / grid)
    centre[0] = 0
    return (centre[:, None] < sizes[..., 0, None, None]) & (centre < sizes[..., 1, None, None])


def pool_reference(
    features: Float[Array, "g g channels"], mask: Bool[Array, "S S"], size: Int[Array, " 2"]
) -> PooledReference:
    """Pool a reference. A mask that fills no cell stands for the cells that it covers most."""
    grid, canvas = features.shape[0], mask.shape[0]
    patch = canvas // grid
    cover = mask.reshape(grid, patch, grid, patch).mean((1, 3))
    cells = grid_cells(mask, grid) > 0
    inside = jnp.where(cells.any(), cells, (cover >= cover.max()) & (cover > 0))
    summed = jnp.einsum("ij,ijc->c", inside.astype(jnp.float32), features)
    valid = cells_on_image(size, canvas, grid)
    return PooledReference(summed / jnp.maximum(inside.sum(), 1), inside, valid)


def match_concepts(
    config: ModelConfig,
    head: Params,
    features: Float[Array, "batch g g channels"],
    sizes: Int[Array, "batch 2"],
    slots: ConceptSlots,
    *,
    concepts_at_once: int | None = None,
) -> ConceptMatches:
    """Decode concepts, each as if it were alone, and match their cells.

    The head was trained with and without the other concepts' tokens; without them, a class that is added or
    dropped changes no other's mask.
    """
    batch, grid, _, channels = features.shape
    context = jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape[1:])), slots.context)
    decoded = segic.decode_stages(
        config, head, features, context, use_cross=False, concepts_at_once=concepts_at_once
    )
    cells = l2_normalise(features, 1e-8).reshape(batch, grid * grid, channels)
    cosine = jnp.einsum("bnc,rkpc->brkpn", cells, slots.patches)
    cosine = jnp.where(slots.patches_valid[None, ..., None], cosine, -1)
    on_image = cells_on_image(sizes, config.canvas, grid).reshape(batch, 1, 1, grid * grid)
    return ConceptMatches(
        decoded.logits,
        bilinear(decoded.similarity[..., None], (grid, grid))[..., 0],
        cosine.max(3).reshape(*cosine.shape[:3], grid, grid),
        _mutual(cosine, slots.patches_valid, on_image),
    )


def _mutual(
    cosine: Float[Array, "batch rows kinds patches cells"],
    patches_valid: Bool[Array, "rows kinds patches"],
    on_image: Bool[Array, "batch 1 1 cells"],
) -> Float[Array, "batch rows"]:
    best = cosine.max((2, 3))  # of each target cell
    inside = jnp.where(on_image, cosine[:, :, INSIDE], -2)
    chosen = inside.argmax(-1)  # the target cell of each patch
    back = inside.max(-1) >= jnp.take_along_axis(best, chosen, axis=-1)
    valid = patches_valid[:, INSIDE]
    return (back & valid).sum(-1) / jnp.maximum(valid.sum(-1), 1)


def match_patches(
    config: ModelConfig, features: Float[Array, "1 g g channels"], slots: ConceptSlots
) -> PatchMatches:
    """Match the patches of a target with the INSIDE patches of each concept, for explanations."""
    cosine = jnp.einsum("ijc,kpc->kijp", l2_normalise(features[0], 1e-8), slots.patches[:, INSIDE])
    cosine = jnp.where(slots.patches_valid[:, INSIDE, None, None], cosine, -1)
    heat = cosine_map(features, slots.context.pooled, config.canvas)[0]
    return PatchMatches(heat, cosine.max(-1), cosine.argmax(-1))
