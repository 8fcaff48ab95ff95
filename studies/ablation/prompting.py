"""Choose the prompts of a concept: SegIC's prompts, each present or withheld, and extensions.

The model does not change. A prompt is withheld by its value in the Prototypes: a zero feature makes the
similarity map flat and its peak (0, 0), a visual token that is not valid is not read, and the empty text
prompt carries no information. An extension exchanges the map, the points or the tokens. SegIC itself is
`Prompting()`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segic_jax.config import ModelConfig
from segic_jax.models.correspondence import best_point, pool_inside, similarity_map, upsample_maps
from segic_jax.models.encoding import Prototypes
from segic_jax.models.features import Features
from segic_jax.models.layers import l2_normalise
from segic_jax.models.params import AnyArray, Params
from segic_jax.models.segic import DecoderStages, GeometricPrompt, decode_with_prompts, geometric_prompt
from segic_jax.train import forward
from segic_jax.train.forward import ShotBatch

PROTOTYPES = 3  # of a reference, beside its mean
POINTS = 3  # foreground; there is one background point as well
MIN_DISTANCE = 1 / 8  # of the canvas, between two points
MIN_SIMILARITY = 0.8  # of the peak's, for another point to count
ROUNDS = 4  # of k-means

Extension = Literal["", "mutual", "mutual_beside", "prototypes", "points"]
ShotUse = Literal["mean", "tokens", "max"]


@dataclass(frozen=True)
class Prompting:
    """Select the prompts of a concept, and how several shots make them."""

    geometric: bool = True  # map and point, and boxes in training
    visual: bool = True  # the feature as a token
    meta: bool = False  # the class's name
    shots: ShotUse = "mean"  # how several shots are used, as in `studies.kshot`
    extension: Extension = ""


def pool_shots(shots: ShotBatch) -> Float[Array, "batch concepts shots channels"]:
    """Return the pooled feature of every shot."""
    return pool_inside(shots.patches[:, None], shots.inside)


def training_prompts(prompting: Prompting) -> forward.Prompting:
    """Return what the training step needs to make the prompts that `prompting` gives."""
    return forward.Prompting(partial(describe, prompting), partial(locate, prompting))


def decode_prompted(
    prompting: Prompting,
    config: ModelConfig,
    head: Params,
    features: Features,
    shots: ShotBatch,
) -> DecoderStages:
    """Decode targets with the prompts that `prompting` gives."""
    prototypes, similarity = describe(prompting, config, features.patches, shots, pool_shots(shots))
    located = locate(prompting, similarity, config.canvas)
    return decode_with_prompts(config, head, features, prototypes, located)


def describe(
    prompting: Prompting,
    config: ModelConfig,
    target: Float[AnyArray, "batch g g channels"],
    shots: ShotBatch,
    pooled: Float[AnyArray, "batch concepts shots channels"],
) -> tuple[Prototypes, Float[Array, "batch concepts quarter quarter"]]:
    """Return prototypes and similarity map.

    Args:
        pooled: `pool_shots(shots)`, with the features of negative prompts in their slots.
    """
    mean = pooled.mean(2)
    visual = pooled if prompting.shots != "mean" else mean[:, :, None]
    if prompting.extension == "prototypes":
        visual = jnp.concatenate([visual, cluster_prototypes(shots)], axis=2)
    visual_valid = shots.valid[..., None] if prompting.visual else jnp.zeros((*shots.valid.shape, 1), bool)
    prototypes = Prototypes(
        pooled=mean if prompting.geometric else jnp.zeros_like(mean),
        visual=visual,
        visual_valid=jnp.broadcast_to(visual_valid, visual.shape[:3]),
        text=shots.text,
    )
    if prompting.shots == "max" or prompting.extension == "prototypes":
        batch, concepts, tokens, channels = visual.shape
        maps = similarity_map(target, visual.reshape(batch, concepts * tokens, channels), config.canvas)
        similarity = maps.reshape(batch, concepts, tokens, *maps.shape[2:]).max(2)
    else:
        similarity = similarity_map(target, prototypes.pooled, config.canvas)
    if prompting.extension.startswith("mutual"):
        mutual = upsample_maps(mutual_matches(target, shots, mean), config.canvas // 4)
        beside = prompting.extension == "mutual_beside"
        similarity = (similarity + mutual) / 2 if beside else similarity * mutual
    return prototypes, similarity


def locate(
    prompting: Prompting, similarity: Float[Array, "batch concepts quarter quarter"], canvas: int
) -> GeometricPrompt:
    """Make a geometric prompt of a similarity map."""
    geometric = geometric_prompt(similarity, canvas)
    return several_points(geometric, canvas) if prompting.extension == "points" else geometric


def mutual_matches(
    target: Float[AnyArray, "batch g g channels"],
    shots: ShotBatch,
    mean: Float[Array, "batch concepts channels"],
) -> Float[Array, "batch concepts g g"]:
    """Return 1 where a patch of the target and the concept choose each other, else 0: INSID3's candidates.

    Forward: its cosine to the mean feature is above 0. Backward: among all patches of a shot, the most
    similar one lies inside the mask, for at least half of the shots.
    """
    batch, count, grid, _, channels = shots.patches.shape
    patches = l2_normalise(target.reshape(batch, grid * grid, channels), 1e-8)
    forward = l2_normalise(mean, 1e-8) @ jnp.swapaxes(patches, 1, 2) > 0
    of_shots = l2_normalise(shots.patches.reshape(batch, count, grid * grid, channels), 1e-8)
    nearest = jnp.argmax(patches[:, None] @ jnp.swapaxes(of_shots, 2, 3), axis=-1)  # [batch, shots, patches]
    inside = shots.inside.reshape(*shots.inside.shape[:3], grid * grid)
    votes = jnp.take_along_axis(inside, nearest[:, None], axis=-1).sum(2)
    backward = votes >= (count + 1) // 2
    return (forward & backward).astype(jnp.float32).reshape(batch, -1, grid, grid)


def cluster_prototypes(shots: ShotBatch) -> Float[Array, "batch concepts prototypes channels"]:
    """Return the means of PROTOTYPES groups of the patches inside the masks: k-means of directions.

    It starts from the mean and, one after the other, the patch that is least similar to those before.
    """
    batch, count, grid, _, channels = shots.patches.shape
    patches = shots.patches.reshape(batch, 1, count * grid * grid, channels)
    inside = shots.inside.reshape(batch, shots.inside.shape[1], -1)
    unit = l2_normalise(patches, 1e-8)

    def mean_of(weights: Float[Array, "batch concepts groups patches"]):
        return weights @ patches / jnp.maximum(weights.sum(-1, keepdims=True), 1)

    def similarity(centres: Float[Array, "batch concepts groups channels"]):
        return l2_normalise(centres, 1e-8) @ jnp.swapaxes(unit, -1, -2)

    centres = mean_of(inside[:, :, None])
    for _ in range(PROTOTYPES - 1):
        least = jnp.argmin(jnp.where(inside > 0, similarity(centres).max(2), 2), axis=-1)
        new = jnp.take_along_axis(patches, least[:, :, None, None], axis=2)
        centres = jnp.concatenate([centres, new], axis=2)
    for _ in range(ROUNDS):
        own = jax.nn.one_hot(jnp.argmax(similarity(centres), axis=2), PROTOTYPES, axis=2) * inside[:, :, None]
        centres = jnp.where(own.sum(-1, keepdims=True) > 0, mean_of(own), centres)
    return centres


def several_points(geometric: GeometricPrompt, canvas: int) -> GeometricPrompt:
    """Prompt with up to POINTS peaks of the map, and its lowest point as background."""
    index = jnp.arange(canvas, dtype=jnp.float32)
    remaining, points, heights = geometric.map, [], []
    for _ in range(POINTS):
        point = best_point(remaining)
        points.append(point)
        heights.append(remaining.max((-2, -1)))
        near = (jnp.abs(index - point[..., 1, None])[..., None] < MIN_DISTANCE * canvas) & (
            jnp.abs(index - point[..., 0, None])[..., None, :] < MIN_DISTANCE * canvas
        )
        remaining = jnp.where(near, -2.0, remaining)
    height = jnp.stack(heights, axis=-1)
    high_enough = height >= MIN_SIMILARITY * height[..., :1]
    background = jnp.ones((*high_enough.shape[:-1], 1), bool)
    return geometric._replace(
        points=jnp.stack([*points, best_point(-geometric.map)], axis=2),
        point_labels=jnp.broadcast_to(jnp.arange(POINTS + 1) < POINTS, (*high_enough.shape[:-1], POINTS + 1))
        + 0,
        points_valid=jnp.concatenate([high_enough, background], axis=-1),
    )
