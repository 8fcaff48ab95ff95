"""What the API computes on the device beyond the model itself: evidence of presence, and negatives.

Pure functions; `programs` compiles them. A cell is a patch of the backbone's grid. Every concept keeps up to
PATCHES cells of its references of each of three kinds, so that shapes do not depend on the number of shots.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from segic_jax.config import ModelConfig
from segic_jax.models import segic
from segic_jax.models.correspondence import cosine_map, grid_cells
from segic_jax.models.layers import normalise
from segic_jax.models.resize import bilinear
from segic_jax.params import Params

INSIDE, OUTSIDE, NEGATIVE = range(3)
KINDS = 3  # kinds of reference cells: the object, what is beside it, "not this"
PATCHES = 128  # of each kind and concept
EVIDENCE = (
    "similarity",  # the largest cosine to the mean feature of the examples
    "inside",  # its mean inside the predicted mask
    "confidence",  # mean probability inside the mask
    "match",  # mean cosine, inside the mask, to the best cell of the object in the references
    "margin",  # the same less the cosine to the best other cell
    "cycle",  # share of the mask whose best cell in the references is one of the object's
    "mutual",  # share of the object's reference cells whose best cell in the target matches back to them
    "area",  # share of the picture
)
STRENGTH = 40.0  # logits lost for each unit of cosine by which a negative matches better


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Slots:
    """Concepts in fixed slots; those beyond the used ones have no valid token and no valid patch."""

    context: segic.Context  # batch of 1
    patches: Float[Array, "slots 3 patches channels"]  # of unit length
    patches_valid: Bool[Array, "slots 3 patches"]


class Shown(NamedTuple):
    """What one mask on one reference gives."""

    visual: Float[Array, " channels"]  # mean feature inside
    inside: Bool[Array, "g g"]
    valid: Bool[Array, "g g"]  # cells on the picture


class Found(NamedTuple):
    """What a batch of targets gives for some concepts."""

    logits: Float[Array, "batch rows side side"]  # at 4 x grid
    evidence: Float[Array, "batch rows evidence"]  # in the order of EVIDENCE


def cells_on_picture(sizes: Int[Array, "n 2"], canvas: int, grid: int) -> Bool[Array, "n g g"]:
    """Cells whose centre is on the picture; the first one always is."""
    centre = (jnp.arange(grid) + 0.5) * (canvas / grid)
    centre = centre.at[0].set(0)
    return (centre[:, None] < sizes[:, 0, None, None]) & (centre < sizes[:, 1, None, None])


def show(features: Float[Array, "g g channels"], mask: Bool[Array, "S S"], size: Int[Array, " 2"]) -> Shown:
    """Pool a reference. A mask that fills no cell stands for the cells that it covers most."""
    grid, canvas = features.shape[0], mask.shape[0]
    patch = canvas // grid
    cover = mask.reshape(grid, patch, grid, patch).mean((1, 3))
    cells = grid_cells(mask, grid) > 0
    inside = jnp.where(cells.any(), cells, (cover >= cover.max()) & (cover > 0))
    summed = jnp.einsum("ij,ijc->c", inside.astype(jnp.float32), features)
    return Shown(summed / jnp.maximum(inside.sum(), 1), inside, cells_on_picture(size[None], canvas, grid)[0])


def find(
    config: ModelConfig,
    head: Params,
    features: Float[Array, "batch g g channels"],
    sizes: Int[Array, "batch 2"],
    slots: Slots,
    rows: Int[Array, " rows"],
) -> Found:
    """Decode the concepts of `rows`, each as if it were alone, and gather evidence of their presence.

    The head was trained with and without the other concepts' tokens; without them, a class that is added or
    dropped changes no other's mask.
    """
    batch, grid = features.shape[:2]
    context = jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape[1:])), slots.context)
    alone = jnp.zeros(batch, bool)
    decoded = segic.decode_stages(config, head, features, context, use_cross=alone, rows=rows)
    patches_valid = slots.patches_valid[rows]
    cosine = _cosines(features, slots.patches[rows], patches_valid)
    best = cosine.max(3).reshape(batch, -1, KINDS, grid, grid)
    refused = jax.nn.relu(best[:, :, NEGATIVE] - best[:, :, INSIDE])
    side = decoded.logits.shape[-1]
    logits = decoded.logits - STRENGTH * bilinear(refused[..., None], (side, side))[..., 0]
    valid = cells_on_picture(sizes, config.canvas, grid)[:, None]
    mutual = _mutual(cosine, patches_valid, valid.reshape(batch, 1, -1))
    return Found(logits, _evidence(logits, decoded.similarity, best, mutual, valid))


def match(
    config: ModelConfig, features: Float[Array, "1 g g channels"], slots: Slots
) -> tuple[Float[Array, "slots S S"], Float[Array, "slots g g"], Int[Array, "slots g g"]]:
    """For explanations: the cosine map, and for each cell the cosine and number of its best INSIDE patch."""
    cosine = jnp.einsum("ijc,kpc->kijp", normalise(features[0], 1e-8), slots.patches[:, INSIDE])
    cosine = jnp.where(slots.patches_valid[:, INSIDE, None, None], cosine, -1)
    heat = cosine_map(features, slots.context.pooled, config.canvas)[0]
    return heat, cosine.max(-1), cosine.argmax(-1)


def _cosines(
    features: Array, patches: Array, patches_valid: Array
) -> Float[Array, "batch rows 3 patches cells"]:
    """Of each cell of the target to each cell of the references; -1 where there is none."""
    cells = normalise(features, 1e-8).reshape(len(features), -1, features.shape[-1])
    cosine = jnp.einsum("bnc,rkpc->brkpn", cells, patches)
    return jnp.where(patches_valid[None, ..., None], cosine, -1)


def _mutual(cosine: Array, patches_valid: Array, valid: Array) -> Float[Array, "batch rows"]:
    """The share of INSIDE cells whose best target cell matches no other reference cell better."""
    best = cosine.max((2, 3))  # [batch, rows, cells]
    inside = jnp.where(valid[:, :, None], cosine[:, :, INSIDE], -2)
    chosen = inside.argmax(-1)  # [batch, rows, patches]
    back = inside.max(-1) >= jnp.take_along_axis(best, chosen, axis=-1)
    count = patches_valid[:, INSIDE].sum(-1)
    return (back & patches_valid[None, :, INSIDE]).sum(-1) / jnp.maximum(count, 1)


def _evidence(
    logits: Array, similarity: Array, best: Array, mutual: Array, valid: Array
) -> Float[Array, "batch rows evidence"]:
    grid = best.shape[-1]
    probability = jax.nn.sigmoid(_to_grid(logits, grid))
    inside = (probability > 0.5) & valid
    area = inside.sum((-2, -1))

    def mean_inside(values):
        return jnp.where(inside, values, 0).sum((-2, -1)) / jnp.maximum(area, 1)

    similarity = _to_grid(similarity, grid)
    object_, other = best[:, :, INSIDE], best[:, :, OUTSIDE:].max(2)
    values = {
        "similarity": jnp.where(valid, similarity, -1).max((-2, -1)),
        "inside": mean_inside(similarity),
        "confidence": mean_inside(probability),
        "match": mean_inside(object_),
        "margin": mean_inside(object_ - other),
        "cycle": mean_inside((object_ > other).astype(jnp.float32)),
        "mutual": mutual,
        "area": area / jnp.maximum(valid.sum((-2, -1)), 1),
    }
    return jnp.stack([values[name] for name in EVIDENCE], axis=-1)


def _to_grid(maps: Float[Array, "batch rows side side"], grid: int) -> Float[Array, "batch rows g g"]:
    side = maps.shape[-1]
    if side % grid:
        return bilinear(maps[..., None], (grid, grid))[..., 0]
    return maps.reshape(*maps.shape[:2], grid, side // grid, grid, side // grid).mean((3, 5))
