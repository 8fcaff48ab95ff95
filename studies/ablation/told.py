"""What the decoder is told about a concept: SegIC's instructions, each given or withheld, and extensions.

The model stays as it is. Instructions are withheld by what the Prototypes holds: a zero feature makes the map
flat and its best point (0, 0), a visual token that is not valid is not read, the empty prompt says nothing.
An extension exchanges the map, the points or the tokens. SegIC itself is `Told()`.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segic_jax.config import ModelConfig
from segic_jax.models.correspondence import best_point, grid_cells, pool, similarity_map, upsample_maps
from segic_jax.models.layers import l2_normalise
from segic_jax.models.params import Params
from segic_jax.models.segic import (
    DecoderStages,
    GeometricPrompt,
    Prototypes,
    decode_with_prompts,
    geometric_prompt,
)
from segic_jax.train.forward import ShotBatch

PROTOTYPES = 3  # of a reference, beside its mean
POINTS = 3  # inside; there is one outside as well
APART = 1 / 8  # of the canvas, between two points
ALIKE = 0.8  # of the best point's similarity, for another one to count
ROUNDS = 4  # of k-means

Extension = Literal["", "mutual", "mutual_beside", "prototypes", "points"]
Way = Literal["mean", "tokens", "max"]


@dataclass(frozen=True)
class Told:
    """Which instructions are given, and how."""

    geometric: bool = True  # map and point, and boxes in training
    visual: bool = True  # the feature as a token
    meta: bool = False  # the class's name
    way: Way = "mean"  # how several shots are used, as in `studies.kshot`
    extension: Extension = ""


def pooled(shots: ShotBatch) -> Float[Array, "batch concepts shots channels"]:
    """The feature of every shot."""
    return pool(shots.features[:, None], shots.masks)


def decode_told(
    told: Told,
    config: ModelConfig,
    head: Params,
    target: Float[Array, "batch g g channels"],
    shots: ShotBatch,
    each: Float[Array, "batch concepts shots channels"],
    **boxes: Array | None,
) -> tuple[Prototypes, DecoderStages]:
    """Decode with what `told` gives.

    Args:
        each: `pooled(shots)`, with the features of negative prompts in their places.
        boxes: `boxes`, `use_box` and `use_cross` of `models.segic.decode_instructed`.
    """
    mean = each.mean(2)
    visual = each if told.way != "mean" else mean[:, :, None]
    if told.extension == "prototypes":
        visual = jnp.concatenate([visual, prototypes(shots)], axis=2)
    given = shots.valid[..., None] if told.visual else jnp.zeros((*shots.valid.shape, 1), bool)
    context = Prototypes(
        pooled=mean if told.geometric else jnp.zeros_like(mean),
        visual=visual,
        visual_valid=jnp.broadcast_to(given, visual.shape[:3]),
        text=shots.text,
    )
    if told.way == "max" or told.extension == "prototypes":
        batch, concepts, many, channels = visual.shape
        maps = similarity_map(target, visual.reshape(batch, concepts * many, channels), config.canvas)
        similarity = maps.reshape(batch, concepts, many, *maps.shape[2:]).max(2)
    else:
        similarity = similarity_map(target, context.pooled, config.canvas)
    if told.extension.startswith("mutual"):
        both = upsample_maps(mutual(target, shots, mean), config.canvas // 4)
        similarity = (similarity + both) / 2 if told.extension == "mutual_beside" else similarity * both
    geometric = geometric_prompt(similarity, config.canvas)
    if told.extension == "points":
        geometric = several_points(geometric, config.canvas)
    if not told.geometric:
        boxes = boxes | {"boxes": None, "use_box": None}
    return context, decode_with_prompts(config, head, target, context, geometric, **boxes)


def mutual(
    target: Float[Array, "batch g g channels"],
    shots: ShotBatch,
    mean: Float[Array, "batch concepts channels"],
) -> Float[Array, "batch concepts g g"]:
    """1 where a cell of the target and the concept choose each other, else 0: the candidates of INSID3.

    Forward: its cosine to the mean feature is above 0. Backward: among all cells of a shot, the most similar
    one lies inside the mask, for at least half of the shots.
    """
    batch, count, grid, _, channels = shots.features.shape
    cells = l2_normalise(target.reshape(batch, grid * grid, channels), 1e-8)
    forward = l2_normalise(mean, 1e-8) @ jnp.swapaxes(cells, 1, 2) > 0
    theirs = l2_normalise(shots.features.reshape(batch, count, grid * grid, channels), 1e-8)
    nearest = jnp.argmax(cells[:, None] @ jnp.swapaxes(theirs, 2, 3), axis=-1)  # [batch, shots, cells]
    inside = grid_cells(shots.masks, grid).reshape(*shots.masks.shape[:3], grid * grid)
    votes = jnp.take_along_axis(inside, nearest[:, None], axis=-1).sum(2)
    backward = votes >= (count + 1) // 2
    return (forward & backward).astype(jnp.float32).reshape(batch, -1, grid, grid)


def prototypes(shots: ShotBatch) -> Float[Array, "batch concepts prototypes channels"]:
    """Means of PROTOTYPES groups of the cells inside the masks: k-means of directions.

    It starts from the mean and, one after the other, the cell that is least like those before.
    """
    batch, count, grid, _, channels = shots.features.shape
    cells = shots.features.reshape(batch, 1, count * grid * grid, channels)
    inside = grid_cells(shots.masks, grid).reshape(batch, shots.masks.shape[1], -1)
    unit = l2_normalise(cells, 1e-8)

    def mean_of(weights: Float[Array, "batch concepts groups cells"]):
        return weights @ cells / jnp.maximum(weights.sum(-1, keepdims=True), 1)

    def likeness(centres: Float[Array, "batch concepts groups channels"]):
        return l2_normalise(centres, 1e-8) @ jnp.swapaxes(unit, -1, -2)

    centres = mean_of(inside[:, :, None])
    for _ in range(PROTOTYPES - 1):
        least = jnp.argmin(jnp.where(inside > 0, likeness(centres).max(2), 2), axis=-1)
        new = jnp.take_along_axis(cells, least[:, :, None, None], axis=2)
        centres = jnp.concatenate([centres, new], axis=2)
    for _ in range(ROUNDS):
        own = jax.nn.one_hot(jnp.argmax(likeness(centres), axis=2), PROTOTYPES, axis=2) * inside[:, :, None]
        centres = jnp.where(own.sum(-1, keepdims=True) > 0, mean_of(own), centres)
    return centres


def several_points(geometric: GeometricPrompt, canvas: int) -> GeometricPrompt:
    """Up to POINTS hills of the map, nearly as high as the first, and its lowest point as outside."""
    place = jnp.arange(canvas, dtype=jnp.float32)
    hills, points, heights = geometric.map, [], []
    for _ in range(POINTS):
        point = best_point(hills)
        points.append(point)
        heights.append(hills.max((-2, -1)))
        near = (jnp.abs(place - point[..., 1, None])[..., None] < APART * canvas) & (
            jnp.abs(place - point[..., 0, None])[..., None, :] < APART * canvas
        )
        hills = jnp.where(near, -2.0, hills)
    height = jnp.stack(heights, axis=-1)
    nearly = height >= ALIKE * height[..., :1]
    outside = jnp.ones((*nearly.shape[:-1], 1), bool)
    return geometric._replace(
        points=jnp.stack([*points, best_point(-geometric.map)], axis=2),
        point_labels=jnp.broadcast_to(jnp.arange(POINTS + 1) < POINTS, (*nearly.shape[:-1], POINTS + 1)) + 0,
        points_valid=jnp.concatenate([nearly, outside], axis=-1),
    )
