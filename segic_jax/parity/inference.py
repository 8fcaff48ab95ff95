"""The whole model on a target: segic_infer_*.npz (one reference image) and segic_semseg.npz (one a class).

Everything from the images, token ids and masks of the file to the scores; what a stage reads comes from
our own stage before it. Only token ids are taken as they are: the tiny tower has no real tokenizer.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from segic_jax.config import EMPTY_PROMPT, INSTANCE_PROMPT, ModelConfig, TextConfig, class_prompt
from segic_jax.data.preprocess import PADDING, fitted_taps, resample, resize
from segic_jax.evaluate.metrics import boundary_iou, intersection_union, mask_iou
from segic_jax.models.clip_text import text_template
from segic_jax.models.params import Params
from segic_jax.models.segic import (
    DecoderStages,
    Prototypes,
    ReferenceBatch,
    decode_stages,
    encode_features,
    extract,
    head_template,
    normalise_pixels,
    upsample,
)
from segic_jax.parity.decoder import read_slots
from segic_jax.parity.encoders import cast
from segic_jax.parity.goldens import Goldens, Segic
from segic_jax.parity.table import IMAGES, LOSSES, Checker, channels_first, channels_last, decided


class Inputs(NamedTuple):
    """The target first, then the references, in everything that has one row an image."""

    images: Float[Array, "images S S 3"]  # 0..255
    sizes: Int[Array, "images 2"]
    ids: Int[Array, "prompts length"]
    attention_mask: Bool[Array, "prompts length"]
    masks: Float[Array, "concepts S S"]  # of the references, 0..1
    image_index: Int[Array, " concepts"]  # the reference that each mask lies on, 0..
    prompt: Int[Array, " concepts"]  # row of `ids`


class Stages(NamedTuple):
    """What inference goes through."""

    pixels: Float[Array, "images S S 3"]  # normalised
    features: Float[Array, "images g g channels"]
    text: Float[Array, "prompts text_width"]
    prompt_proj: Float[Array, "prompts width"]
    context: Prototypes
    inst_proj: Float[Array, "concepts width"]
    position: Float[Array, "g g width"]
    decoded: DecoderStages
    logits: Float[Array, "concepts S S"]


def replay_inference(golden: Goldens, check: Checker, dtype: jax.typing.DTypeLike) -> None:
    """One reference image with all masks."""
    label = check.input("in.label_dual")
    pictures = [check.input(f"in.image{which}") for which in ("", "_dual")]
    sizes = [check.input(f"in.ori_size{which}") for which in ("", "_dual")]
    for which in ("", "_dual"):
        _check_resized(check, which, label.shape[-1])
    check.equal("in.counts", [len(label)])
    names = zip(check.input("in.class_name"), check.input("in.is_inst"), strict=True)
    prompts = [INSTANCE_PROMPT if is_instance else class_prompt(str(name)) for name, is_instance in names]
    check.equal("mid.prompts", 2 * prompts)
    inputs = Inputs(
        images=channels_last(np.concatenate(pictures)),
        sizes=np.concatenate(sizes),
        ids=check.input("mid.input_ids").astype(np.int32),
        attention_mask=check.input("mid.attention_mask").astype(bool),
        masks=(label / 255 > 0.5).astype(np.float32),
        image_index=np.zeros(len(label), np.int32),
        prompt=np.zeros(len(label), np.int32),
    )
    stages = _run(golden.segic(label.shape[-1]), inputs, dtype)
    check.close("mid.encoder_in", channels_first(stages.pixels))
    check.close("mid.text_features", stages.text)
    check.close("mid.image_embeddings", channels_first(stages.features))
    check.close("mid.prompt_proj_out", stages.prompt_proj)
    check.close("mid.inst_feat", stages.context.pooled[0])
    masks = _check_decoding(check, "mid.", stages, inputs.sizes[0])
    _check_scores(check, masks)


def replay_semseg(golden: Goldens, check: Checker, dtype: jax.typing.DTypeLike) -> None:
    """One reference image for each class, its mask pooled as soft as it is (segic.py:996-998)."""
    label, target = check.input("in.ref_label"), check.input("in.image")
    classes = len(label)
    tokens = {}
    for which, count in (("tgt", len(target)), ("ref", classes)):
        ids, mask = (check.input(f"mid.{which}_{name}") for name in ("input_ids", "attention_mask"))
        tokens[which] = ids.astype(np.int32), mask.astype(bool)
        names = check.input("in.class_name") if which == "ref" else count * [EMPTY_PROMPT]
        check.equal(f"mid.{which}_prompts", [class_prompt(str(name)) for name in names])
    ids, mask = (np.concatenate(parts) for parts in zip(tokens["tgt"], tokens["ref"], strict=True))
    inputs = Inputs(
        images=channels_last(np.concatenate([target, check.input("in.ref_image")])),
        sizes=np.concatenate([check.input("in.ori_size"), check.input("in.ref_ori_size")]),
        ids=ids,
        attention_mask=mask,
        masks=label / 255,
        image_index=np.arange(classes, dtype=np.int32),
        prompt=1 + np.arange(classes, dtype=np.int32),
    )
    stages = _run(golden.segic(target.shape[-1]), inputs, dtype)
    check.close("mid.tgt_encoder_in", channels_first(stages.pixels[:1]))
    for which, rows in (("tgt", slice(0, 1)), ("ref", slice(1, None))):
        check.close(f"mid.{which}_text_features", stages.text[rows])
        check.close(f"mid.{which}_image_embeddings", channels_first(stages.features[rows]))
    check.close("out.prompt_tokens", stages.decoded.tokens[0, :, :1])
    check.close("out.inst_feats", stages.context.visual[0])
    masks = _check_decoding(check, "mid.tgt_", stages, inputs.sizes[0])
    # `custom_eval` of train.py: mean confidence over all pixels, and the masks at the image's own size.
    check.close("out.mask_score", jax.nn.sigmoid(np.abs(masks)).mean((1, 2)))
    own = tuple(check.input("in.full_hw").tolist())
    stored = check.input("out.masks")[:, 0]
    check.equal("out.full_masks", decided(resize(masks, own), resize(stored, own))[:, None])


def _check_resized(check: Checker, which: str, canvas: int) -> None:
    """The official `Resize` of the file's own images, before our canvas rounds it."""
    image, label = (check.input(f"in.orig_{kind}{which}") for kind in ("image", "label"))
    taps = fitted_taps(image.shape[1], image.shape[2], canvas)
    resized = resample(image, *taps)
    size = resized.shape[1:]
    beside = [(0, 0), *((0, canvas - side) for side in size)]
    check.close(f"in.image{which}", np.pad(resized, beside, constant_values=PADDING)[None], IMAGES)
    check.close(f"in.label{which}", np.pad(resample(label, *taps), beside), IMAGES)
    check.equal(f"in.ori_size{which}", [size])


def _check_decoding(check: Checker, prefix: str, stages: Stages, size: np.ndarray) -> np.ndarray:
    """Rows of everything after the features; returns the logits [concepts, h, w] inside the target."""
    decoded = stages.decoded
    height, width = size
    masks = np.asarray(stages.logits[:, :height, :width])
    check.close(f"{prefix}inst_proj_out", stages.inst_proj)
    check.close(f"{prefix}neck_out", channels_first(decoded.image))
    check.close(f"{prefix}sim", decoded.similarity[0, :, None])
    check.close(f"{prefix}mask_input", decoded.map[0, :, None])
    check.equal(f"{prefix}point_coords", decoded.points[0])
    check.equal(f"{prefix}point_labels", decoded.point_labels[0])
    check.close(f"{prefix}text_tokens", decoded.tokens[0])
    check.close(f"{prefix}sparse", read_slots(decoded.prompts)[0])
    check.close(f"{prefix}dense", channels_first(decoded.prompts.dense[0]))
    check.close(f"{prefix}image_pe", channels_first(stages.position)[None])
    check.close(f"{prefix}low_res_masks", decoded.logits[0, :, None])
    check.close(f"{prefix}iou_pred", decoded.iou[0, :, None])
    check.close("out.masks", masks[:, None])
    check.close("out.iou_pred", decoded.iou[0, :, None])
    return masks


def _check_scores(check: Checker, masks: np.ndarray) -> None:
    """`compute_iou` and `compute_boundary_iou` of train.py: sums and means over the masks."""
    truth = check.input("in.ori_label")[:, 0] > 128
    stored = check.input("out.masks")[:, 0]
    own = truth.shape[1:]
    predicted = decided(resize(masks, own), resize(stored, own)).astype(bool)
    pairs = list(zip(predicted, truth, strict=True))
    sums = np.sum([intersection_union(*pair) for pair in pairs], axis=0)
    check.equal("out.intersection", sums[0])
    check.equal("out.union", sums[1])
    check.close("out.mean_iou", np.mean([mask_iou(*pair) for pair in pairs]), LOSSES)
    check.close("out.mean_boundary_iou", np.mean([boundary_iou(*pair) for pair in pairs]), LOSSES)


def _run(model: Segic, inputs: Inputs, dtype: jax.typing.DTypeLike) -> Stages:
    encoders = cast(model.backbone, dtype), cast(model.text, dtype)
    return _stages(model.config, model.text_config, *encoders, model.head, inputs)


@partial(jax.jit, static_argnums=(0, 1))
def _stages(
    config: ModelConfig,
    text_config: TextConfig,
    backbone: Params,
    text_params: Params,
    head: Params,
    inputs: Inputs,
) -> Stages:
    features = extract(config, backbone, inputs.images, inputs.sizes)
    text = text_template(text_config).bind(text_params)(inputs.ids, inputs.attention_mask).pooled
    text = text.astype(jnp.float32)
    references = ReferenceBatch(
        images=None,  # their features are there already
        sizes=None,
        masks=inputs.masks[None, :, None],
        image_index=inputs.image_index[None, :, None],
        valid=jnp.ones((1, len(inputs.masks), 1), bool),
        text=text[inputs.prompt][None],
    )
    context = encode_features(features[None, 1:], references)
    decoded = decode_stages(config, head, features[:1], context)
    module = head_template(config).bind(head)
    return Stages(
        pixels=normalise_pixels(inputs.images, inputs.sizes),
        features=features,
        text=text,
        prompt_proj=module.prompt_proj(text),
        context=context,
        inst_proj=module.inst_proj(context.visual[0, :, 0]),
        position=module.prompt_encoder.dense_position(),
        decoded=decoded,
        logits=upsample(decoded.logits, config.canvas)[0],
    )
