"""Replay the whole model: segic_infer_*.npz (one reference image), segic_semseg.npz (one for each class).

Everything from the images, token ids and masks of a file to the scores is computed; each stage reads our own
stage before it. Only token ids are read from the file, since the tiny text tower has no real tokenizer. The
features and the masks come from `inference.engine`, the stages between them from the same model.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from segic_jax.config import EMPTY_PROMPT, INSTANCE_PROMPT, ModelConfig, class_prompt
from segic_jax.data.preprocess import PADDING, fitted_taps, resample, resize
from segic_jax.evaluate.metrics import boundary_iou, intersection_union, mask_iou
from segic_jax.inference.engine import Engine, ImageFeatures, extract
from segic_jax.models.encoding import Prototypes, ReferenceBatch, encode_features, normalise_pixels
from segic_jax.models.features import Features
from segic_jax.models.head import head_template
from segic_jax.models.params import Params
from segic_jax.models.segic import DecoderStages, decode_stages
from segic_jax.parity.checker import IMAGES, LOSSES, Checker, channels_first, channels_last, threshold_like
from segic_jax.parity.golden_files import Segic, SegicWeights
from segic_jax.parity.replays.modules import cast_params, text_features, valid_sparse_prompts
from segic_jax.weights.bundle import Bundle


class Inputs(NamedTuple):
    """Hold the images, the target first and then the references, with prompts and masks."""

    images: Float[Array | np.ndarray, "images S S 3"]  # 0..255
    sizes: Int[Array | np.ndarray, "images 2"]
    ids: Int[Array | np.ndarray, "prompts length"]
    attention_mask: Bool[Array | np.ndarray, "prompts length"]
    masks: Float[Array | np.ndarray, "concepts S S"]  # of the references, 0..1
    reference: Int[Array | np.ndarray, " concepts"]  # the reference of each mask, from 0
    prompt: Int[Array | np.ndarray, " concepts"]  # the row of `ids` of each mask


class HeadStages(NamedTuple):
    """Hold the stages between the features and the masks."""

    pixels: Float[Array, "images S S 3"]  # normalised
    prompt_proj: Float[Array, "prompts width"]
    prototypes: Prototypes
    inst_proj: Float[Array, "concepts width"]
    position: Float[Array, "g g width"]
    decoded: DecoderStages


class Stages(NamedTuple):
    """Hold all stages of inference."""

    features: Float[Array, "images g g channels"]
    text: Float[Array, "prompts text_width"]
    head: HeadStages
    masks: Float[np.ndarray, "concepts height width"]  # logits inside the target


def replay_inference(goldens: SegicWeights, check: Checker, dtype: jax.typing.DTypeLike) -> None:
    """Check segic_infer_*.npz: one reference image with all masks."""
    label = check.input("in.label_dual")
    images = [check.input(f"in.image{suffix}") for suffix in ("", "_dual")]
    sizes = [check.input(f"in.ori_size{suffix}") for suffix in ("", "_dual")]
    for suffix in ("", "_dual"):
        _check_resized(check, suffix, label.shape[-1])
    check.equal("in.counts", [len(label)])
    names = zip(check.input("in.class_name"), check.input("in.is_inst"), strict=True)
    prompts = [INSTANCE_PROMPT if is_instance else class_prompt(str(name)) for name, is_instance in names]
    check.equal("mid.prompts", 2 * prompts)
    inputs = Inputs(
        images=channels_last(np.concatenate(images)),
        sizes=np.concatenate(sizes),
        ids=check.input("mid.input_ids").astype(np.int32),
        attention_mask=check.input("mid.attention_mask").astype(bool),
        masks=(label / 255 > 0.5).astype(np.float32),
        reference=np.zeros(len(label), np.int32),
        prompt=np.zeros(len(label), np.int32),
    )
    stages = _run(goldens.segic(label.shape[-1]), inputs, dtype)
    check.close("mid.encoder_in", channels_first(stages.head.pixels))
    check.close("mid.text_features", stages.text)
    check.close("mid.image_embeddings", channels_first(stages.features))
    check.close("mid.prompt_proj_out", stages.head.prompt_proj)
    check.close("mid.inst_feat", stages.head.prototypes.pooled[0])
    _check_decoding(check, "mid.", stages)
    _check_scores(check, stages.masks)


def replay_semseg(goldens: SegicWeights, check: Checker, dtype: jax.typing.DTypeLike) -> None:
    """Check segic_semseg.npz: one reference image for each class, with soft masks (segic.py:996-998)."""
    label, target = check.input("in.ref_label"), check.input("in.image")
    classes = len(label)
    tokens = {}
    for side, count in (("tgt", len(target)), ("ref", classes)):
        ids, mask = (check.input(f"mid.{side}_{name}") for name in ("input_ids", "attention_mask"))
        tokens[side] = ids.astype(np.int32), mask.astype(bool)
        names = check.input("in.class_name") if side == "ref" else count * [EMPTY_PROMPT]
        check.equal(f"mid.{side}_prompts", [class_prompt(str(name)) for name in names])
    ids, mask = (np.concatenate(parts) for parts in zip(tokens["tgt"], tokens["ref"], strict=True))
    inputs = Inputs(
        images=channels_last(np.concatenate([target, check.input("in.ref_image")])),
        sizes=np.concatenate([check.input("in.ori_size"), check.input("in.ref_ori_size")]),
        ids=ids,
        attention_mask=mask,
        masks=label / 255,
        reference=np.arange(classes, dtype=np.int32),
        prompt=1 + np.arange(classes, dtype=np.int32),
    )
    stages = _run(goldens.segic(target.shape[-1]), inputs, dtype)
    check.close("mid.tgt_encoder_in", channels_first(stages.head.pixels[:1]))
    for side, rows in (("tgt", slice(0, 1)), ("ref", slice(1, None))):
        check.close(f"mid.{side}_text_features", stages.text[rows])
        check.close(f"mid.{side}_image_embeddings", channels_first(stages.features[rows]))
    check.close("out.prompt_tokens", stages.head.decoded.tokens[0, :, :1])
    check.close("out.inst_feats", stages.head.prototypes.visual[0])
    _check_decoding(check, "mid.tgt_", stages)
    # `custom_eval` of train.py: the mean confidence of all pixels, and the masks at the image's own size.
    check.close("out.mask_score", jax.nn.sigmoid(np.abs(stages.masks)).mean((1, 2)))
    image_size = tuple(check.input("in.full_hw").tolist())
    stored = check.input("out.masks")[:, 0]
    masks = threshold_like(resize(stages.masks, image_size), resize(stored, image_size))
    check.equal("out.full_masks", masks[:, None])


def _check_resized(check: Checker, suffix: str, canvas: int) -> None:
    """Check the official `Resize` of the file's images, before our canvas rounds them."""
    image, label = (check.input(f"in.orig_{kind}{suffix}") for kind in ("image", "label"))
    taps = fitted_taps(image.shape[1], image.shape[2], canvas)
    resized = resample(image, *taps)
    size = resized.shape[1:]
    padding = [(0, 0), *((0, canvas - side) for side in size)]
    check.close(f"in.image{suffix}", np.pad(resized, padding, constant_values=PADDING)[None], IMAGES)
    check.close(f"in.label{suffix}", np.pad(resample(label, *taps), padding), IMAGES)
    check.equal(f"in.ori_size{suffix}", [size])


def _check_decoding(check: Checker, prefix: str, stages: Stages) -> None:
    """Check everything after the features."""
    head = stages.head
    decoded = head.decoded
    check.close(f"{prefix}inst_proj_out", head.inst_proj)
    check.close(f"{prefix}neck_out", channels_first(decoded.image))
    check.close(f"{prefix}sim", decoded.similarity[0, :, None])
    check.close(f"{prefix}mask_input", decoded.map[0, :, None])
    check.equal(f"{prefix}point_coords", decoded.points[0])
    check.equal(f"{prefix}point_labels", decoded.point_labels[0])
    check.close(f"{prefix}text_tokens", decoded.tokens[0])
    check.close(f"{prefix}sparse", valid_sparse_prompts(decoded.prompts)[0])
    check.close(f"{prefix}dense", channels_first(decoded.prompts.dense[0]))
    check.close(f"{prefix}image_pe", channels_first(head.position)[None])
    check.close(f"{prefix}low_res_masks", decoded.logits[0, :, None])
    check.close(f"{prefix}iou_pred", decoded.iou[0, :, None])
    check.close("out.masks", stages.masks[:, None])
    check.close("out.iou_pred", decoded.iou[0, :, None])


def _check_scores(check: Checker, masks: Float[np.ndarray, "concepts height width"]) -> None:
    """Check `compute_iou` and `compute_boundary_iou` of train.py: sums and means over the masks."""
    truth = check.input("in.ori_label")[:, 0] > 128
    stored = check.input("out.masks")[:, 0]
    size = truth.shape[1:]
    predicted = threshold_like(resize(masks, size), resize(stored, size)).astype(bool)
    pairs = list(zip(predicted, truth, strict=True))
    sums = np.sum([intersection_union(*pair) for pair in pairs], axis=0)
    check.equal("out.intersection", sums[0])
    check.equal("out.union", sums[1])
    check.close("out.mean_iou", np.mean([mask_iou(*pair) for pair in pairs]), LOSSES)
    check.close("out.mean_boundary_iou", np.mean([boundary_iou(*pair) for pair in pairs]), LOSSES)


def _run(model: Segic, inputs: Inputs, dtype: jax.typing.DTypeLike) -> Stages:
    backbone = cast_params(model.backbone, dtype)
    features = extract(model.config, backbone, inputs.images, inputs.sizes).patches
    tower = cast_params(model.text, dtype)
    text = text_features(model.text_config, tower, inputs.ids, inputs.attention_mask).pooled
    head = _head_stages(model.config, model.head, features, text, inputs)
    engine = Engine(Bundle(model.config, backbone, model.head, text={}), jax.local_devices()[:1])
    decoding = engine.decode(ImageFeatures(Features(features[:1]), inputs.sizes[:1]), head.prototypes)
    height, width = inputs.sizes[0]
    return Stages(features, text, head, np.asarray(decoding.logits)[0, :, :height, :width])


@partial(jax.jit, static_argnums=0)
def _head_stages(
    config: ModelConfig, head: Params, features: Array, text: Array, inputs: Inputs
) -> HeadStages:
    references = ReferenceBatch(
        images=None,  # their features are computed already
        sizes=None,
        masks=inputs.masks[None, :, None],
        image_index=inputs.reference[None, :, None],
        valid=jnp.ones((1, len(inputs.masks), 1), bool),
        text=text[inputs.prompt][None],
    )
    prototypes = encode_features(features[None, 1:], references)
    module = head_template(config).bind(head)
    return HeadStages(
        pixels=normalise_pixels(config.backbone, inputs.images, inputs.sizes),
        prompt_proj=module.prompt_proj(text),
        prototypes=prototypes,
        inst_proj=module.inst_proj(prototypes.visual[0, :, 0]),
        position=module.prompt_encoder.dense_position(),
        decoded=decode_stages(config, head, Features(features[:1]), prototypes),
    )
