"""The frozen encoders: every stage of DINOv2 (backbone_*.npz) and of CLIP's text tower (text.npz)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from segic_jax.config import TextConfig, ViTConfig
from segic_jax.models.clip_text import TextFeatures, text_template
from segic_jax.models.params import Params
from segic_jax.models.segic import backbone_template
from segic_jax.models.vit import ViTFeatures
from segic_jax.parity.goldens import Goldens
from segic_jax.parity.table import Checker, channels_last
from segic_jax.weights.torch_names import clip_text_tensors, from_torch


def replay_backbone(golden: Goldens, check: Checker, dtype: jax.typing.DTypeLike) -> None:
    """Patch and position embeddings, and all tokens before and after the last norm, of each image."""
    for name in ("in.antialias", "in.offset", "in.num_register_tokens"):
        check.input(name)
    count = int(check.input("in.n_inputs"))
    pictures = [check.input(f"in.image.{i}") for i in range(count)]
    config = golden.vit_config(check.file.removeprefix("backbone_"))
    params = from_torch(golden.weights(check.file), backbone_template(config).shapes, what=check.file)
    params = cast(params, dtype)
    for i, picture in enumerate(pictures):
        patches, positions, features = _backbone(config, params, jnp.asarray(channels_last(picture), dtype))
        flat = (len(picture), -1, config.width)
        check.close(f"mid.patch_embed.{i}", np.reshape(patches, flat))
        check.close(f"mid.pos_embed.{i}", positions)
        check.close(f"out.x_prenorm.{i}", features.before_norm)
        check.close(f"out.x_norm_clstoken.{i}", features.class_token)
        if config.num_registers:
            check.close(f"out.x_norm_regtokens.{i}", features.registers)
        check.close(f"out.x_norm_patchtokens.{i}", np.reshape(features.patches, flat))


def replay_text(golden: Goldens, check: Checker, dtype: jax.typing.DTypeLike) -> None:
    """What goes into the first layers, what comes out of the last norm, and the pooled feature."""
    ids, mask = check.input("in.input_ids"), check.input("in.attention_mask")
    config = golden.text_config()
    tensors = clip_text_tensors(golden.weights("text"))
    params = cast(from_torch(tensors, text_template(config).shapes, what=check.file), dtype)
    features = text_features(config, params, ids, mask)
    for i, hidden in enumerate(features.hidden):
        if i < 2 or f"out.hidden_states.{i}" in check.unread:  # the format has 0 and 1
            check.close(f"out.hidden_states.{i}", hidden)
    check.close("out.last_hidden_state", features.tokens)
    check.close("out.pooler_output", features.pooled)


def text_features(config: TextConfig, params: Params, ids: np.ndarray, mask: np.ndarray) -> TextFeatures:
    """All stages of the text tower in float32, from stored ids and attention mask."""
    features = _text(config, params, ids.astype(np.int32), mask.astype(bool))
    return jax.tree.map(lambda x: x.astype(jnp.float32), features)


def cast(params: Params, dtype: jax.typing.DTypeLike) -> Params:
    """Parameters in the precision that an encoder is to run in."""
    return {name: jnp.asarray(value, dtype) for name, value in params.items()}


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
