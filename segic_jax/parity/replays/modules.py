"""Replay single modules: DINOv2, CLIP's text tower, the mask decoder, and the reader of checkpoints."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from segic_jax.config import ModelConfig, TextConfig, ViTConfig
from segic_jax.models.backbones import backbone_template
from segic_jax.models.clip_text import TextFeatures, text_template
from segic_jax.models.head import head_template
from segic_jax.models.params import Params
from segic_jax.models.prompt_encoder import Prompts
from segic_jax.models.vit import ViTFeatures
from segic_jax.parity.checker import Checker, Row, channels_first, channels_last, max_abs_error
from segic_jax.parity.golden_files import Goldens
from segic_jax.weights.torch_names import clip_text_tensors, from_torch


def replay_backbone(goldens: Goldens, check: Checker, dtype: jax.typing.DTypeLike) -> None:
    """Check backbone_*.npz: embeddings, and all tokens before and after the last norm, of each image."""
    for name in ("in.antialias", "in.offset", "in.num_register_tokens"):
        check.input(name)
    count = int(check.input("in.n_inputs"))
    images = [check.input(f"in.image.{i}") for i in range(count)]
    config = goldens.vit_config(check.file.removeprefix("backbone_"))
    params = from_torch(goldens.weights(check.file), backbone_template(config).shapes, what=check.file)
    params = cast_params(params, dtype)
    for i, image in enumerate(images):
        patches, positions, features = _backbone(config, params, jnp.asarray(channels_last(image), dtype))
        flat = (len(image), -1, config.width)
        check.close(f"mid.patch_embed.{i}", np.reshape(patches, flat))
        check.close(f"mid.pos_embed.{i}", positions)
        check.close(f"out.x_prenorm.{i}", features.before_norm)
        check.close(f"out.x_norm_clstoken.{i}", features.class_token)
        if config.num_registers:
            check.close(f"out.x_norm_regtokens.{i}", features.registers)
        check.close(f"out.x_norm_patchtokens.{i}", np.reshape(features.patches, flat))


def replay_text(goldens: Goldens, check: Checker, dtype: jax.typing.DTypeLike) -> None:
    """Check text.npz: the inputs of the first layers, the output of the last norm, the pooled feature."""
    ids, mask = check.input("in.input_ids"), check.input("in.attention_mask")
    config = goldens.text_config()
    tensors = clip_text_tensors(goldens.weights("text"))
    params = cast_params(from_torch(tensors, text_template(config).shapes, what=check.file), dtype)
    features = text_features(config, params, ids, mask)
    for i, hidden in enumerate(features.hidden):
        if i < 2 or f"out.hidden_states.{i}" in check.unread:  # the format requires 0 and 1
            check.close(f"out.hidden_states.{i}", hidden)
    check.close("out.last_hidden_state", features.tokens)
    check.close("out.pooler_output", features.pooled)


def replay_prompt_decoder(goldens: Goldens, check: Checker, dtype: jax.typing.DTypeLike) -> None:
    """Check prompt_decoder.npz: SAM's prompt encoder and mask decoder with points, boxes, or text alone.

    The head runs in float32 whatever `dtype` is.
    """
    masks = check.input("in.masks")[None, :, 0]  # the rows are concepts of one image
    tokens = check.input("in.texts")[None]
    points = {
        "points": check.input("in.point_coords")[None],
        "point_labels": check.input("in.point_labels").astype(np.int32)[None],
        "masks": masks[:, :, None],  # a map for each concept
    }
    boxes = check.input("in.boxes")[None]
    image = channels_last(check.input("in.image_embeddings"))
    token = check.input("in.task_indicator").astype(int).reshape(-1)
    model = goldens.segic(masks.shape[-1])
    absent = dict.fromkeys(("points", "point_labels", "masks", "boxes", "use_box"))
    for case, prompts in (("points", points), ("boxes", points | {"boxes": boxes}), ("textonly", {})):
        inputs = absent | prompts | {"tokens": tokens, "tokens_valid": np.ones(tokens.shape[:3], bool)}
        position, encoded, all_masks, all_iou = _decode(model.config, model.head, image, inputs)
        if case == "points":
            check.close("out.image_pe", channels_first(position)[None])
        check.close(f"out.{case}.sparse", valid_sparse_prompts(encoded)[0])
        check.close(f"out.{case}.dense", channels_first(encoded.dense[0]))
        check.close(f"out.{case}.low_res_masks", all_masks[0, :, :1])
        check.close(f"out.{case}.iou", all_iou[0, :, :1])
        check.close(f"out.{case}.all_masks", all_masks[0])
        check.close(f"out.{case}.all_iou", all_iou[0])
    rows = np.arange(len(token))  # of `textonly`: mask token 0 for classes, 1 for instances
    check.close("out.textonly.task_masks", all_masks[0, rows, token][:, None])
    check.close("out.textonly.task_iou", all_iou[0, rows, token][:, None])


def replay_checkpoint(goldens: Goldens, check: Checker, dtype: jax.typing.DTypeLike) -> None:
    """Check that every tensor of segic_official.pth.gz equals that of the same name in segic.safetensors."""
    expected = goldens.weights("segic")
    errors = [
        max_abs_error(tensor, expected[name]) if name in expected else np.nan
        for name, tensor in goldens.weights("segic_official").items()
    ]
    error = float(np.max(errors)) if errors else float("nan")  # NaN if any is NaN
    check.rows.append(Row(check.file, f"{len(errors)} tensors", error, 0.0, error == 0))


def text_features(config: TextConfig, params: Params, ids: np.ndarray, mask: np.ndarray) -> TextFeatures:
    """Return all stages of the text tower in float32, from stored token ids and attention mask."""
    features = _text(config, params, ids.astype(np.int32), mask.astype(bool))
    return jax.tree.map(lambda x: x.astype(jnp.float32), features)


def cast_params(params: Mapping[str, jax.Array | np.ndarray], dtype: jax.typing.DTypeLike) -> Params:
    """Cast parameters to the precision in which an encoder runs."""
    return {name: jnp.asarray(value, dtype) for name, value in params.items()}


def valid_sparse_prompts(prompts: Prompts) -> list[np.ndarray]:
    """Return the valid sparse prompts of each image, as torch has them: [concepts, prompts, width].

    All concepts of an image must have equally many.
    """
    return [
        np.stack([row[valid] for row, valid in zip(rows, valid_rows, strict=True)])
        for rows, valid_rows in zip(np.asarray(prompts.sparse), np.asarray(prompts.sparse_valid), strict=True)
    ]


@partial(jax.jit, static_argnums=0)
def _backbone(
    config: ViTConfig, params: Params, pixels: jax.Array
) -> tuple[jax.Array, jax.Array, ViTFeatures]:
    module = backbone_template(config).bind(params)
    patches = module.patch_embed(pixels)
    return patches, module.interpolated_pos_embed(*patches.shape[1:3]), module(pixels)


@partial(jax.jit, static_argnums=0)
def _text(config: TextConfig, params: Params, ids: jax.Array, mask: jax.Array) -> TextFeatures:
    return text_template(config).bind(params)(ids, mask)


@partial(jax.jit, static_argnums=0)
def _decode(
    config: ModelConfig, head: Params, image: jax.Array, inputs: dict
) -> tuple[jax.Array, Prompts, jax.Array, jax.Array]:
    module = head_template(config).bind(head)
    position = module.prompt_encoder.dense_position()
    prompts = module.prompt_encoder(**inputs)
    return position, prompts, *module.mask_decoder(image, position, prompts)
