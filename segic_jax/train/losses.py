"""Mask losses at sampled points: logits on the low-resolution grid against labels on the canvas.

Cross-entropy and dice of PointRend / Mask2Former (utils/loss_mask.py:6-221 of the official code).
Labels are read only at the points, logits are never enlarged.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from segic_jax.config import ModelConfig
from segic_jax.models.segic import train_forward
from segic_jax.params import Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PointDraws:
    """Uniform numbers in 0..1 from which the loss points of both passes are made."""

    oversampled: Float[Array, "passes batch concepts candidates 2"]  # the most uncertain are kept
    uniform: Float[Array, "passes batch concepts rest 2"]  # all kept
    num_uncertain: int = field(metadata={"static": True})  # how many of the candidates are kept


def draw_points(
    key: jax.Array,
    batch: int,
    concepts: int,
    *,
    num_points: int = 12544,
    oversample: float = 3.0,
    importance: float = 0.75,
) -> PointDraws:
    """All random numbers of one training step, for the forward and the reversed pass.

    Args:
        key: made from (seed, step).
        num_points: points a mask; 112 x 112 officially.
        oversample: candidates = num_points * oversample.
        importance: share of the points taken from the most uncertain candidates.
    """
    keys = jax.random.split(key)
    num_uncertain = int(importance * num_points)
    candidates = int(oversample * num_points)
    return PointDraws(
        oversampled=jax.random.uniform(keys[0], (2, batch, concepts, candidates, 2)),
        uniform=jax.random.uniform(keys[1], (2, batch, concepts, num_points - num_uncertain, 2)),
        num_uncertain=num_uncertain,
    )


def sample_points(
    logits: Float[Array, "*batch h w"],
    uniform_oversampled: Float[Array, "*batch candidates 2"],
    uniform_random: Float[Array, "*batch rest 2"],
    num_uncertain: int,
) -> Float[Array, "*batch points 2"]:
    """The `num_uncertain` candidates with the smallest |logit|, then the random points (x, y in 0..1)."""
    at_candidates = point_sample(jax.lax.stop_gradient(logits), uniform_oversampled)
    _, chosen = jax.lax.top_k(-jnp.abs(at_candidates), num_uncertain)
    uncertain = jnp.take_along_axis(uniform_oversampled, chosen[..., None], axis=-2)
    return jnp.concatenate([uncertain, uniform_random], axis=-2)


def mask_losses(
    logits: Float[Array, "batch concepts h w"],
    targets: Float[Array, "batch concepts S S"] | Bool[Array, "batch concepts S S"],
    coords: Float[Array, "batch concepts points 2"],
    valid: Bool[Array, "batch concepts"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(cross-entropy, dice), each the mean over the valid masks of the whole batch; 0 without any."""
    x = point_sample(logits, coords)
    labels = point_sample(targets, coords)
    cross_entropy = jnp.mean(jnp.maximum(x, 0) - x * labels + jnp.log1p(jnp.exp(-jnp.abs(x))), axis=-1)
    p = jax.nn.sigmoid(x)
    dice = 1 - (2 * jnp.sum(p * labels, -1) + 1) / (jnp.sum(p, -1) + jnp.sum(labels, -1) + 1)
    count = jnp.maximum(jnp.sum(valid), 1)
    return jnp.sum(jnp.where(valid, cross_entropy, 0)) / count, jnp.sum(jnp.where(valid, dice, 0)) / count


def point_sample(
    maps: Float[Array, "*batch h w"] | Bool[Array, "*batch h w"],
    coords: Float[Array, "*batch points 2"],
) -> Float[Array, "*batch points"]:
    """torch's grid_sample (align_corners False, zeros outside) at (x, y) in 0..1 of the picture."""
    *batch, height, width = maps.shape
    padded = jnp.pad(maps, [(0, 0)] * len(batch) + [(1, 1), (1, 1)])
    padded = padded.reshape(*batch, (height + 2) * (width + 2))
    column, x = _cell(coords[..., 0], width)
    row, y = _cell(coords[..., 1], height)
    corner = row * (width + 2) + column

    def value(offset):
        taken = jnp.take_along_axis(padded, corner + offset, axis=-1, mode="promise_in_bounds")
        return taken.astype(jnp.float32)

    above = (1 - x) * value(0) + x * value(1)
    below = (1 - x) * value(width + 2) + x * value(width + 3)
    return (1 - y) * above + y * below


def _cell(coordinate: Array, size: int) -> tuple[Int[Array, "..."], Float[Array, "..."]]:
    """Index into the padded row, and how far the point is on the way to the next index."""
    pixel = jnp.clip(coordinate * size - 0.5, -1, size)
    low = jnp.clip(jnp.floor(pixel), -1, size - 1)
    return low.astype(jnp.int32) + 1, pixel - low


def train_loss(
    config: ModelConfig,
    head: Params,
    target_features: Float[Array, "batch g g channels"],
    reference_features: Float[Array, "batch g g channels"],
    batch: dict[str, Array],
    text_table: Float[Array, "prompts text_width"],
    points: PointDraws | Float[Array, "passes batch concepts points 2"],
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The training loss of one batch and its four parts.

    The mean of the forward and the reversed pass; each is cross-entropy + dice (segic.py:458-476).

    Args:
        head: all parameters of the head; differentiate with respect to the trainable ones.
        target_features, reference_features: from `models.segic.extract`.
        batch: see `models.segic.train_forward`.
        points: `draw_points(key, ...)`, or the loss points themselves (x, y in 0..1).
    """
    parts = {}
    passes = train_forward(config, head, target_features, reference_features, batch, text_table)
    targets = batch["target_masks"], batch["reference_masks"]
    for index, (suffix, one) in enumerate(zip(("", "_reverse"), passes, strict=True)):
        logits = one.decoded.logits
        if isinstance(points, PointDraws):
            coords = sample_points(
                logits, points.oversampled[index], points.uniform[index], points.num_uncertain
            )
        else:
            coords = points[index]
        parts["loss_mask" + suffix], parts["loss_dice" + suffix] = mask_losses(
            logits, targets[index], coords, batch["valid"]
        )
    return jnp.stack(list(parts.values())).sum() / 2, parts
