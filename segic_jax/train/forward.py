"""Run the forward pass of training: decode the targets, then the references by context reversal.

Reversal segments the reference with the predicted target masks as its context (segic.py:458-476). Both passes
have the same concepts.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from segic_jax.config import ModelConfig
from segic_jax.models.correspondence import mask_boxes, pool
from segic_jax.models.params import AnyArray, Params
from segic_jax.models.segic import DecoderStages, Prototypes, decode_stages, upsample


class ShotBatch(NamedTuple):
    """Hold the references of a batch; a shot shows all concepts on one image."""

    features: Float[AnyArray, "batch shots g g channels"]
    masks: Bool[AnyArray, "batch concepts shots S S"]
    text: Float[AnyArray, "batch concepts text_width"]
    valid: Bool[AnyArray, "batch concepts"]


class NegativeBatch(NamedTuple):
    """Hold negative prompts in slots of a training batch: concepts that are in neither image of the pair."""

    valid: Bool[AnyArray, "batch passes concepts"]
    features: Float[AnyArray, "batch passes concepts channels"]  # pooled from a reference elsewhere
    prompts: Int[AnyArray, "batch passes concepts"]  # rows of the text table


class TrainPass(NamedTuple):
    """Hold the inputs and the decoding of one of the two passes."""

    prototypes: Prototypes
    pooled: Float[Array, "batch concepts channels"]  # of the context masks; zeros where a mask is empty
    context_masks: Bool[Array, "batch concepts S S"]  # the predicted ones in the reversed pass
    boxes: Float[Array, "batch concepts 4"]  # of the true masks; read where `use_box`
    decoded: DecoderStages


Decode = Callable[..., tuple[Prototypes, DecoderStages]]  # takes what `decode_shots` takes


def decode_shots(
    config: ModelConfig,
    head: Params,
    target: Float[AnyArray, "batch g g channels"],
    shots: ShotBatch,
    pooled: Float[Array, "batch concepts shots channels"],
    *,
    boxes: Float[Array, "batch concepts 4"] | None,
    use_box: Bool[AnyArray, " batch"] | None,
    use_cross: Bool[AnyArray, " batch"],
) -> tuple[Prototypes, DecoderStages]:
    """Decode the target with the mean feature of the shots, as similarity map and as visual token.

    Args:
        pooled: the pooled feature of every shot; in the slots of negative prompts, theirs.
        boxes, use_box, use_cross: see `models.segic.decode_stages`.
    """
    mean = pooled.mean(2)
    prototypes = Prototypes(
        pooled=mean, visual=mean[:, :, None], visual_valid=shots.valid[..., None], text=shots.text
    )
    stages = decode_stages(
        config, head, target, prototypes, boxes=boxes, use_box=use_box, use_cross=use_cross
    )
    return prototypes, stages


def train_forward(
    config: ModelConfig,
    head: Params,
    target_features: Float[AnyArray, "batch g g channels"],
    reference_features: Float[AnyArray, "batch g g channels"],
    batch: Mapping[str, AnyArray],
    text_table: Float[AnyArray, "prompts text_width"],
    negatives: NegativeBatch | None = None,
    *,
    decode: Decode = decode_shots,
    reversal: bool = True,
    remat: bool = False,
) -> tuple[TrainPass, ...]:
    """Return the forward pass and, with `reversal`, the reversed one.

    Args:
        batch: `target_masks`, `reference_masks` bool [batch, concepts, S, S]; `valid` [batch, concepts];
            `target_prompt`, `reference_prompt` [batch], rows of text_table; `use_box`, `use_cross`
            bool [batch, 2], for the forward and the reversed pass.
        negatives: negative prompts in slots that are not `valid`; an image that has some gets no box prompt
            (segic.py:577-614, 700).
        decode: how a pass decodes; a function with the arguments of `decode_shots`.
        remat: compute the activations of the decoding again for the gradient, to save memory.
    """
    decode_pass = partial(decode, config)
    if remat:
        decode_pass = jax.checkpoint(decode_pass)

    def run_pass(index: int, features, context_features, context_masks, masks, prompt) -> TrainPass:
        pooled = pool(context_features[:, None], context_masks)
        each = pooled[:, :, None]
        prompts = jnp.repeat(prompt[:, None], masks.shape[1], axis=1)
        valid, use_box = batch["valid"], batch["use_box"][:, index]
        if negatives is not None:
            negative = negatives.valid[:, index]
            each = jnp.where(negative[..., None, None], negatives.features[:, index][:, :, None], each)
            prompts = jnp.where(negative, negatives.prompts[:, index], prompts)
            valid, use_box = valid | negative, use_box & ~negative.any(-1)
        shots = ShotBatch(context_features[:, None], context_masks[:, :, None], text_table[prompts], valid)
        boxes = mask_boxes(masks)
        prototypes, stages = decode_pass(
            head,
            features,
            shots,
            each,
            boxes=boxes,
            use_box=use_box,
            use_cross=batch["use_cross"][:, index],
        )
        return TrainPass(prototypes, pooled, context_masks, boxes, stages)

    forward = run_pass(
        0,
        target_features,
        reference_features,
        batch["reference_masks"],
        batch["target_masks"],
        batch["target_prompt"],
    )
    if not reversal:
        return (forward,)
    predicted = upsample(jax.lax.stop_gradient(forward.decoded.logits), config.canvas) > 0
    reversed_ = run_pass(
        1,
        reference_features,
        target_features,
        predicted,
        batch["reference_masks"],
        batch["reference_prompt"],
    )
    return forward, reversed_
