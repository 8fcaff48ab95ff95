"""Match the patches of targets with those of references: what the API computes beyond the model.

Pure functions; `engine` compiles them. A patch is a cell of the backbone's grid. A concept keeps up to
PATCHES patches of its references of each kind, so that shapes do not depend on the number of shots.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from segic_jax.config import ModelConfig
from segic_jax.models import encoding, segic
from segic_jax.models.correspondence import cosine_map, grid_masks, patches_on_image
from segic_jax.models.features import Features
from segic_jax.models.layers import bilinear, l2_normalise
from segic_jax.models.params import AnyArray, Params

INSIDE, OUTSIDE = range(2)
KINDS = 2  # of reference patches: inside the object, and beside it
PATCHES = 128  # of each kind and concept


class ConceptSlots(NamedTuple):
    """Hold concepts that are decoded together; unused slots have no valid token and no valid patch."""

    context: encoding.Prototypes  # batch of 1
    patches: Float[Array | np.ndarray, "slots kinds patches channels"]  # of unit length
    patches_valid: Bool[Array | np.ndarray, "slots kinds patches"]


class PooledReference(NamedTuple):
    """Hold the mean feature inside one mask of a reference, and where its patches are."""

    visual: Float[Array, " channels"]
    inside: Bool[Array, "g g"]
    valid: Bool[Array, "g g"]  # patches on the image


class ConceptMatches(NamedTuple):
    """Hold the logits and matches of some concepts on a batch; a cosine is -1 where nothing can match."""

    logits: Float[Array, "batch concepts side side"]  # at 4 x grid
    similarity: Float[Array, "batch concepts g g"]  # cosine to the prototype
    matched: Float[Array, "batch concepts kinds g g"]  # cosine to the best reference patch of each kind
    mutual: Float[
        Array, "batch concepts"
    ]  # share of INSIDE patches that are the best match of their best match


class PatchMatches(NamedTuple):
    """Hold which reference patch each patch of a target looks like."""

    heat: Float[Array, "slots S S"]  # similarity map on the canvas
    best: Float[Array, "slots g g"]  # cosine to the best INSIDE patch, -1..1
    index: Int[Array, "slots g g"]  # of that patch among those of the concept


def pool_reference(
    patches: Float[Array, "g g channels"], mask: Bool[Array, "S S"], size: Int[Array, " 2"]
) -> PooledReference:
    """Pool a reference. A mask that fills no patch stands for the patches that it covers most.

    Args:
        size: (h, w) of the image on the canvas.
    """
    grid, canvas = patches.shape[0], mask.shape[0]
    patch = canvas // grid
    cover = mask.reshape(grid, patch, grid, patch).mean((1, 3))
    filled = grid_masks(mask, grid) > 0
    inside = jnp.where(filled.any(), filled, (cover >= cover.max()) & (cover > 0))
    summed = jnp.einsum("ij,ijc->c", inside.astype(jnp.float32), patches)
    valid = jnp.asarray(patches_on_image(size, canvas, grid))
    return PooledReference(summed / jnp.maximum(inside.sum(), 1), inside, valid)


def match_concepts(
    config: ModelConfig,
    head: Params,
    features: Features,
    sizes: Int[Array, "batch 2"],
    slots: ConceptSlots,
    everyone: encoding.Prototypes | None = None,
    rows: Int[Array, " slots"] | None = None,
    *,
    concepts_at_once: int | None = None,
) -> ConceptMatches:
    """Decode concepts and match their patches.

    Each concept is decoded as if it were the only one of the call, so that a class that is added or dropped
    changes no other's mask; with `everyone` it also reads the visual tokens of the others, as officially.

    Args:
        sizes: (h, w) of each target on the canvas.
        everyone: all concepts of the call, a batch of 1.
        rows: the places of `slots` among them.
        concepts_at_once: as for `models.segic.decode_stages`.
    """
    batch, grid, _, _ = features.patches.shape
    context = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (batch, *x.shape[1:])), slots.context if everyone is None else everyone
    )
    decoded = segic.decode_stages(
        config,
        head,
        features,
        context,
        alone=everyone is None,
        rows=rows,
        concepts_at_once=concepts_at_once,
    )
    matched, mutual = match_kept_patches(
        features.patches, sizes, config.canvas, slots.patches, slots.patches_valid
    )
    similarity = bilinear(decoded.similarity[..., None], (grid, grid))[..., 0]
    return ConceptMatches(decoded.logits, similarity, matched, mutual)


def match_kept_patches(
    patches: Float[Array, "batch g g channels"],
    sizes: Int[Array, "batch 2"],
    canvas: int,
    kept: Float[AnyArray, "concepts kinds patches channels"],
    valid: Bool[AnyArray, "concepts kinds patches"],
) -> tuple[Float[Array, "batch concepts kinds g g"], Float[Array, "batch concepts"]]:
    """Return `matched` and `mutual` of `ConceptMatches`.

    Args:
        kept: patches of the references, of unit length where they are valid.
    """
    batch, grid, _, channels = patches.shape
    unit = l2_normalise(patches, 1e-8).reshape(batch, grid * grid, channels)
    cosine = jnp.einsum("bnc,rkpc->brkpn", unit, kept)
    cosine = jnp.where(valid[None, ..., None], cosine, -1)
    on_image = jnp.asarray(patches_on_image(sizes, canvas, grid)).reshape(batch, 1, 1, grid * grid)
    matched = cosine.max(3).reshape(*cosine.shape[:3], grid, grid)
    return matched, _mutual_share(cosine, valid, on_image)


def _mutual_share(
    cosine: Float[Array, "batch concepts kinds patches targets"],
    patches_valid: Bool[Array, "concepts kinds patches"],
    on_image: Bool[Array, "batch 1 1 targets"],
) -> Float[Array, "batch concepts"]:
    best = cosine.max((2, 3))  # of each target patch
    inside = jnp.where(on_image, cosine[:, :, INSIDE], -2)
    chosen = inside.argmax(-1)  # the target patch of each reference patch
    mutual = inside.max(-1) >= jnp.take_along_axis(best, chosen, axis=-1)
    valid = patches_valid[:, INSIDE]
    return (mutual & valid).sum(-1) / jnp.maximum(valid.sum(-1), 1)


def image_matches(chunks: Sequence[ConceptMatches], row: int) -> ConceptMatches:
    """Fetch the matches of one image of a batch from the device, without the batch axis.

    Args:
        chunks: the concepts in order, in parts.
    """
    return jax.tree.map(lambda *parts: np.concatenate([np.asarray(part)[row] for part in parts]), *chunks)


def match_patches(
    config: ModelConfig, patches: Float[Array, "1 g g channels"], slots: ConceptSlots
) -> PatchMatches:
    """Match the patches of a target with the INSIDE patches of each concept, for explanations."""
    cosine = jnp.einsum("ijc,kpc->kijp", l2_normalise(patches[0], 1e-8), slots.patches[:, INSIDE])
    cosine = jnp.where(slots.patches_valid[:, INSIDE, None, None], cosine, -1)
    heat = cosine_map(patches, slots.context.pooled, config.canvas)[0]
    return PatchMatches(heat, cosine.max(-1), cosine.argmax(-1))
