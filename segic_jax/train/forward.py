"""Prepare what the two passes of training read, and decode it in the plain form.

The forward pass segments the target. The reversed one segments the reference with the predicted target masks
as its context (segic.py:458-476). Both have the same concepts.

Training itself decodes with `train.packing`, which leaves the unused slots out; `train_forward` decodes every
slot at once and returns every stage, which the goldens and the tests of `train.packing` read.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from segic_jax.config import ModelConfig
from segic_jax.models.correspondence import grid_masks, mask_boxes, pool_inside, similarity_map
from segic_jax.models.encoding import Prototypes
from segic_jax.models.features import Features
from segic_jax.models.params import AnyArray, Params
from segic_jax.models.segic import (
    DecoderStages,
    GeometricPrompt,
    decode_with_prompts,
    geometric_prompt,
    level_similarity,
    upsample,
)


class ShotBatch(NamedTuple):
    """Hold the references of a batch; a shot shows all concepts on one image."""

    patches: Float[AnyArray, "batch shots g g channels"]
    inside: Float[AnyArray, "batch concepts shots g g"]  # 1 for the patches inside a mask, else 0
    text: Float[AnyArray, "batch concepts text_width"]
    valid: Bool[AnyArray, "batch concepts"]


class NegativeBatch(NamedTuple):
    """Hold negative prompts in slots of a training batch: concepts that are in neither image of the pair."""

    valid: Bool[AnyArray, "batch passes concepts"]
    features: Float[AnyArray, "batch passes concepts channels"]  # pooled from a reference elsewhere
    prompts: Int[AnyArray, "batch passes concepts"]  # rows of the text table


class PassInputs(NamedTuple):
    """Hold what one of the passes decodes from; nothing in it depends on a trained parameter."""

    features: Features  # of the image to segment
    prototypes: Prototypes
    similarity: Float[Array, "batch concepts quarter quarter"]
    level_maps: Float[Array, "batch concepts levels quarter quarter"] | None
    pooled: Float[Array, "batch concepts channels"]  # of the context masks; zeros where a mask is empty
    inside: Float[Array, "batch concepts g g"]  # the context masks on the grid
    boxes: Float[Array, "batch concepts 4"]  # of the true masks; read where `use_box`
    use_box: Bool[Array, " batch"]
    use_cross: Bool[Array, " batch"]


class TrainPass(NamedTuple):
    """Hold the inputs and the decoding of one of the two passes."""

    inputs: PassInputs
    decoded: DecoderStages


class Prompting(NamedTuple):
    """Say how prompts are made of the references, as two functions without trained parameters."""

    # (config, target patches, shots, `pooled` of each shot [batch, concepts, shots, channels]) -> prototypes
    # and similarity map
    describe: Callable[..., tuple[Prototypes, Float[Array, "batch concepts quarter quarter"]]]
    # (similarity map, canvas) -> geometric prompt
    locate: Callable[[Float[Array, "batch concepts quarter quarter"], int], GeometricPrompt]


def describe_shots(
    config: ModelConfig,
    target: Float[AnyArray, "batch g g channels"],
    shots: ShotBatch,
    pooled: Float[AnyArray, "batch concepts shots channels"],
) -> tuple[Prototypes, Float[Array, "batch concepts quarter quarter"]]:
    """Return the mean feature of the shots as similarity map and as visual token.

    Args:
        pooled: the pooled feature of every shot; in the slots of negative prompts, theirs.
    """
    mean = pooled.mean(2)
    prototypes = Prototypes(
        pooled=mean, visual=mean[:, :, None], visual_valid=shots.valid[..., None], text=shots.text
    )
    return prototypes, similarity_map(target, mean, config.canvas)


SEGIC = Prompting(describe_shots, geometric_prompt)


def pass_inputs(
    config: ModelConfig,
    index: int,
    batch: Mapping[str, Any],
    inside: Float[AnyArray, "batch concepts g g"],
    text_table: Float[AnyArray, "prompts text_width"],
    negatives: NegativeBatch | None = None,
    prompting: Prompting = SEGIC,
) -> PassInputs:
    """Return what a pass decodes from.

    Args:
        index: 0 for the forward pass, 1 for the reversed one.
        batch: `target_features`, `reference_features`, which are `Features`; `target_masks`,
            `reference_masks` bool [batch, concepts, S, S]; `valid` [batch, concepts]; `target_prompt`,
            `reference_prompt` [batch], rows of text_table; `use_box`, `use_cross` bool [batch, 2], for the
            forward and the reversed pass.
        inside: the context masks on the grid: those of the reference, or the predicted ones of the target.
        negatives: negative prompts in slots that are not `valid`; an image that has some gets no box prompt
            (segic.py:577-614, 700).
    """
    side, context_side = ("target", "reference") if index == 0 else ("reference", "target")
    masks, context = batch[f"{side}_masks"], batch[f"{context_side}_features"].patches
    pooled = pool_inside(context[:, None], inside)
    each = pooled[:, :, None]
    prompts = jnp.repeat(batch[f"{side}_prompt"][:, None], masks.shape[1], axis=1)
    valid, use_box = batch["valid"], batch["use_box"][:, index]
    if negatives is not None:
        negative = negatives.valid[:, index]
        each = jnp.where(negative[..., None, None], negatives.features[:, index][:, :, None], each)
        prompts = jnp.where(negative, negatives.prompts[:, index], prompts)
        valid, use_box = valid | negative, use_box & ~negative.any(-1)
    shots = ShotBatch(context[:, None], inside[:, :, None], text_table[prompts], valid)
    features = batch[f"{side}_features"]
    prototypes, similarity = prompting.describe(config, features.patches, shots, each)
    return PassInputs(
        features,
        prototypes,
        similarity,
        level_similarity(config, features.patches, prototypes.pooled),
        pooled,
        inside,
        mask_boxes(masks),
        use_box,
        batch["use_cross"][:, index],
    )


def predicted_inside(
    config: ModelConfig, logits: Float[Array, "batch concepts side side"]
) -> Float[Array, "batch concepts g g"]:
    """Return 1 for the patches inside the predicted masks, else 0; without gradient."""
    return grid_masks(upsample(jax.lax.stop_gradient(logits), config.canvas) > 0, config.grid)


def train_forward(
    config: ModelConfig,
    head: Params,
    batch: Mapping[str, Any],
    text_table: Float[AnyArray, "prompts text_width"],
    negatives: NegativeBatch | None = None,
    *,
    prompting: Prompting = SEGIC,
    reversal: bool = True,
) -> tuple[TrainPass, ...]:
    """Return the forward pass and, with `reversal`, the reversed one, with every slot decoded.

    Args:
        batch, negatives: see `pass_inputs`.
    """

    def run_pass(index: int, inside: Float[Array, "batch concepts g g"]) -> TrainPass:
        inputs = pass_inputs(config, index, batch, inside, text_table, negatives, prompting)
        decoded = decode_with_prompts(
            config,
            head,
            inputs.features,
            inputs.prototypes,
            prompting.locate(inputs.similarity, config.canvas)._replace(level_maps=inputs.level_maps),
            boxes=inputs.boxes,
            use_box=inputs.use_box,
            use_cross=inputs.use_cross,
        )
        return TrainPass(inputs, decoded)

    forward = run_pass(0, grid_masks(batch["reference_masks"], config.grid))
    if not reversal:
        return (forward,)
    return forward, run_pass(1, predicted_inside(config, forward.decoded.logits))
