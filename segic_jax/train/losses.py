"""Compute mask losses at sampled points: logits on the low-resolution grid, labels on the canvas.

Cross-entropy and dice of PointRend / Mask2Former (utils/loss_mask.py:6-221 of the official code).
Labels are read only at the points, logits are never enlarged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from segic_jax.models.params import AnyArray
from segic_jax.train.forward import NegativeBatch, TrainPass


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PointDraws:
    """Hold the uniform numbers in 0..1 from which the loss points of some masks are made."""

    oversampled: Float[Array, "*masks candidates 2"]  # only the most uncertain are used
    uniform: Float[Array, "*masks rest 2"]  # all used
    num_uncertain: int = field(metadata={"static": True})  # how many candidates are used


def draw_points(
    key: jax.Array,
    rows: Int[Array, " batch"],
    concepts: int,
    *,
    num_points: int = 12544,
    oversample: float = 3.0,
    importance: float = 0.75,
) -> PointDraws:
    """Draw the random numbers of some rows of a batch: of masks [batch, passes, concepts].

    Args:
        key: made from (seed, step).
        rows: their places in the global batch: a row gets the same numbers in whatever part it is computed.
        num_points: points a mask; 112 x 112 officially.
        oversample: candidates = num_points * oversample.
        importance: share of the points taken from the most uncertain candidates.
    """
    num_uncertain = int(importance * num_points)
    candidates = int(oversample * num_points)

    def draw(row):
        keys = jax.random.split(jax.random.fold_in(key, row))
        return (
            jax.random.uniform(keys[0], (2, concepts, candidates, 2)),
            jax.random.uniform(keys[1], (2, concepts, num_points - num_uncertain, 2)),
        )

    return PointDraws(*jax.vmap(draw)(rows), num_uncertain=num_uncertain)


def sample_points(
    logits: Float[AnyArray, "*batch h w"],
    uniform_oversampled: Float[AnyArray, "*batch candidates 2"],
    uniform_random: Float[AnyArray, "*batch rest 2"],
    num_uncertain: int,
) -> Float[Array, "*batch points 2"]:
    """Return the `num_uncertain` candidates of smallest |logit|, then the random points (x, y in 0..1)."""
    at_candidates = point_sample(jax.lax.stop_gradient(logits), uniform_oversampled)
    _, chosen = jax.lax.top_k(-jnp.abs(at_candidates), num_uncertain)
    uncertain = jnp.take_along_axis(uniform_oversampled, chosen[..., None], axis=-2)
    return jnp.concatenate([uncertain, uniform_random], axis=-2)


def mask_losses(
    logits: Float[AnyArray, "*masks h w"],
    targets: Float[AnyArray, "*masks S S"] | Bool[AnyArray, "*masks S S"],
    coords: Float[AnyArray, "*masks points 2"],
    weights: Float[AnyArray, "*masks"] | Bool[AnyArray, "*masks"],
    total: Float[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return (cross-entropy, dice), each the weighted mean over the masks; 0 without any mask.

    The official dice with weights divides twice and does not weight the masks (utils/loss_mask.py:111-113);
    this is the mean that its cross-entropy takes.

    Args:
        weights: of each mask; 0 (False) where a slot is empty.
        total: what the sums are divided by, for a part of a batch; the sum of the weights if None.
    """
    x = point_sample(logits, coords)
    labels = point_sample(targets, coords)
    cross_entropy = jnp.mean(jnp.maximum(x, 0) - x * labels + jnp.log1p(jnp.exp(-jnp.abs(x))), axis=-1)
    p = jax.nn.sigmoid(x)
    dice = 1 - (2 * jnp.sum(p * labels, -1) + 1) / (jnp.sum(p, -1) + jnp.sum(labels, -1) + 1)
    return weighted_mean(cross_entropy, weights, total), weighted_mean(dice, weights, total)


def weighted_mean(
    values: Float[Array, "*masks"], weights: AnyArray, total: Float[Array, ""] | None = None
) -> Float[Array, ""]:
    """Divide the sum of weight times value by `total`; values of weight 0 may be anything."""
    total = jnp.sum(weights) if total is None else total
    # The total of a batch without any mask is 0, and so is the mean.
    return jnp.sum(jnp.where(weights > 0, values * weights, 0)) / jnp.where(total > 0, total, 1)


def point_sample(
    maps: Float[AnyArray, "*batch h w"] | Bool[AnyArray, "*batch h w"],
    coords: Float[AnyArray, "*batch points 2"],
) -> Float[Array, "*batch points"]:
    """Sample as torch's grid_sample (align_corners False, zeros outside) at (x, y) in 0..1 of the image."""
    *batch, height, width = maps.shape
    padded = jnp.pad(maps, [(0, 0)] * len(batch) + [(1, 1), (1, 1)])
    padded = padded.reshape(*batch, (height + 2) * (width + 2))
    column, x = _locate(coords[..., 0], width)
    row, y = _locate(coords[..., 1], height)
    corner = row * (width + 2) + column

    def value(offset):
        taken = jnp.take_along_axis(padded, corner + offset, axis=-1, mode="promise_in_bounds")
        return taken.astype(jnp.float32)

    above = (1 - x) * value(0) + x * value(1)
    below = (1 - x) * value(width + 2) + x * value(width + 3)
    return (1 - y) * above + y * below


def _locate(coordinate: Float[AnyArray, "..."], size: int) -> tuple[Int[Array, "..."], Float[Array, "..."]]:
    """Return the index into the padded row, and the fraction of the way to the next index."""
    pixel = jnp.clip(coordinate * size - 0.5, -1, size)
    low = jnp.clip(jnp.floor(pixel), -1, size - 1)
    return low.astype(jnp.int32) + 1, pixel - low


class Totals(NamedTuple):
    """Hold what the sums over the global batch are divided by, in each of the two passes."""

    weights: Float[Array, " passes"]  # of the masks
    masks: Float[Array, " passes"]  # their number


def mask_weights(
    valid: Bool[AnyArray, "batch concepts"], negatives: NegativeBatch | None, negative_weight: float
) -> Float[Array, "batch passes concepts"]:
    """Return 1 for a concept, `negative_weight` for a negative prompt, 0 for an empty slot."""
    weights = jnp.broadcast_to(valid[:, None], (len(valid), 2, valid.shape[1])).astype(jnp.float32)
    return weights if negatives is None else jnp.where(negatives.valid, negative_weight, weights)


def batch_totals(weights: Float[Array, "batch passes concepts"]) -> Totals:
    """Sum up the weights of a global batch."""
    return Totals(weights.sum((0, 2)), (weights > 0).sum((0, 2)).astype(jnp.float32))


def pass_losses(
    logits: Float[AnyArray, "*masks h w"],
    iou: Float[AnyArray, "*masks"],
    targets: Bool[AnyArray, "*masks S S"],
    points: PointDraws | Float[AnyArray, "*masks points 2"],
    weights: Float[AnyArray, "*masks"],
    negative: Bool[AnyArray, "*masks"] | None,
    totals: Totals,
    index: int,
) -> dict[str, Float[Array, ""]]:
    """Return what some masks of a pass add to its losses: cross-entropy and dice (segic.py:458-476).

    With negative prompts there is the score loss, too (segic.py:763-782): from the predicted IoU, whether a
    prompt is a negative one.

    Args:
        weights: see `mask_weights`.
        negative: which masks are those of negative prompts; None without negative prompts.
        index: 0 for the forward pass, 1 for the reversed one.
    """
    suffix = "_reverse" if index else ""
    if isinstance(points, PointDraws):
        points = sample_points(logits, points.oversampled, points.uniform, points.num_uncertain)
    cross_entropy, dice = mask_losses(logits, targets, points, weights, totals.weights[index])
    parts = {"loss_mask" + suffix: cross_entropy, "loss_dice" + suffix: dice}
    if negative is not None:
        wrong = jnp.where(negative, jax.nn.softplus(iou), jax.nn.softplus(-iou))
        parts["loss_score" + suffix] = weighted_mean(wrong, weights > 0, totals.masks[index])
    return parts


def train_loss(
    passes: Sequence[TrainPass],
    batch: Mapping[str, Any],
    points: PointDraws | Float[AnyArray, "batch passes concepts points 2"],
    *,
    negatives: NegativeBatch | None = None,
    negative_weight: float = 0.1,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Return the loss of `train.forward.train_forward`'s passes, the mean over them, and its parts.

    Args:
        batch: see `train.forward.pass_inputs`.
        points: `draw_points(key, ...)`, or the loss points themselves (x, y in 0..1).
    """
    parts = {}
    weights = mask_weights(batch["valid"], negatives, negative_weight)
    totals = batch_totals(weights)
    for index, train_pass in enumerate(passes):
        parts |= pass_losses(
            train_pass.decoded.logits,
            train_pass.decoded.iou,
            batch["reference_masks" if index else "target_masks"],
            jax.tree.map(lambda x, index=index: x[:, index], points),
            weights[:, index],
            None if negatives is None else negatives.valid[:, index],
            totals,
            index,
        )
    return jnp.stack(list(parts.values())).sum() / len(passes), parts
