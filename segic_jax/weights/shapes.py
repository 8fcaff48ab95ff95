"""Derive configurations from the shapes of tensors under official names.

Shapes give everything but the number of attention heads: published models have 64 channels for each head, and
SAM's decoder has 8 heads.
"""

import math
import re
from collections.abc import Mapping

import numpy as np

from segic_jax.config import (
    Backbone,
    DinoV3Config,
    EfficientNetConfig,
    HeadConfig,
    ModelConfig,
    TextConfig,
    ViTConfig,
)
from segic_jax.errors import ConfigError, FormatError, MissingTensors
from segic_jax.weights.part import Shape

Tensors = Mapping[str, np.ndarray]
_CHANNELS = 64  # of an attention head, in every published DINOv2, DINOv3 and CLIP


def vit_config(tensors: Tensors, *, num_heads: int | None = None) -> ViTConfig:
    """Return the backbone of tensors under DINOv2's hub names, with Meta's method of resampling positions.

    Meta's method (dinov2/hub/backbones.py): without registers an offset of 0.1 and no antialiasing, with
    registers an offset of 0 and antialiasing.

    Args:
        num_heads: attention heads; None: 64 channels for each head.

    Raises:
        FormatError: a tensor that gives a size is missing, a size is not supported, or the heads are unknown.
    """
    patch, positions = _shapes(tensors, "the backbone", "patch_embed.proj.weight", "pos_embed")
    width = patch[0]
    side = math.isqrt(max(positions[1] - 1, 0))
    if side**2 + 1 != positions[1]:
        raise FormatError(
            f"pos_embed {positions} is not a class position and a square grid of patches: "
            "backbones for images that are not square are not supported."
        )
    registers = 0
    if "register_tokens" in tensors:
        registers = _shapes(tensors, "the backbone", "register_tokens")[0][1]
    ffn, hidden, mlp_ratio = _feed_forward(tensors, width)
    config = ViTConfig(
        patch_size=patch[-1],
        width=width,
        depth=_count(tensors, r"blocks\.(\d+)\."),
        num_heads=_heads(width, num_heads, "the backbone"),
        mlp_ratio=mlp_ratio,
        ffn=ffn,
        num_registers=registers,
        pos_grid=side,
        pos_offset=0.0 if registers else 0.1,
        pos_antialias=registers > 0,
    )
    if config.ffn_hidden != hidden:
        raise FormatError(
            f"The backbone's feed-forward has {hidden} hidden channels, which no mlp_ratio gives: "
            "those of a SwiGLU must be a multiple of 8."
        )
    return config


def dinov3_config(tensors: Tensors, *, num_heads: int | None = None) -> DinoV3Config:
    """Return the backbone of tensors under the names of DINOv3's files.

    Args:
        num_heads: attention heads; None: 64 channels for each head.

    Raises:
        FormatError: as `vit_config`.
    """
    gated = any(".mlp.w3." in name for name in tensors)
    names = ["patch_embed.proj.weight", "blocks.0.mlp.w1.weight" if gated else "blocks.0.mlp.fc1.weight"]
    patch, hidden = _shapes(tensors, "the backbone", *names)
    registers = "storage_tokens" in tensors
    width = patch[0]
    try:
        return DinoV3Config(
            patch_size=patch[-1],
            width=width,
            depth=_count(tensors, r"blocks\.(\d+)\."),
            num_heads=_heads(width, num_heads, "the backbone"),
            ffn="swiglu" if gated else "mlp",
            ffn_hidden=hidden[0],
            num_registers=_shapes(tensors, "the backbone", "storage_tokens")[0][1] if registers else 0,
        )
    except ConfigError as error:
        raise FormatError(f"The shapes of the backbone fit no DINOv3: {error}") from error


def efficientnet_config(tensors: Tensors) -> EfficientNetConfig:
    """Return the EfficientNet-Lite whose blocks the tensors are, with the features that suit it.

    Raises:
        FormatError: there is no such published model.
    """
    indices = range(_count(tensors, r"blocks\.(\d+)\."))
    weights = [tensors.get(f"blocks.{index}.project_conv.weight", np.empty(0)) for index in indices]
    for lite in (0, 1, 2, 3, 4):
        config = EfficientNetConfig.published(lite)
        if [weight.shape[0] for weight in weights] == [block.outputs for block in config.layout()]:
            return config
    raise FormatError(f"Its {len(weights)} blocks are those of no EfficientNet-Lite from 0 to 4.")


def text_config(
    tensors: Tensors,
    *,
    num_heads: int | None = None,
    eos_id: int | None = None,
) -> TextConfig:
    """Return the text tower of tensors under CLIP's names below "text_model.".

    Args:
        num_heads: attention heads; None: 64 channels for each head.
        eos_id: id of the end-of-text token; None: the last one of the vocabulary, as in CLIP.

    Raises:
        FormatError: as `vit_config`.
    """
    vocabulary, positions, hidden = _shapes(
        tensors,
        "the text tower",
        "embeddings.token_embedding.weight",
        "embeddings.position_embedding.weight",
        "encoder.layers.0.mlp.fc1.weight",
    )
    vocab_size, width = vocabulary
    return TextConfig(
        vocab_size=vocab_size,
        width=width,
        mlp_width=hidden[0],
        depth=_count(tensors, r"encoder\.layers\.(\d+)\."),
        num_heads=_heads(width, num_heads, "the text tower"),
        max_length=positions[0],
        eos_id=vocab_size - 1 if eos_id is None else eos_id,
    )


def model_config(head: Tensors, backbone: Backbone, canvas: int) -> ModelConfig:
    """Return the model of a head under SegIC's names on the backbone `backbone`.

    Raises:
        FormatError: a tensor that gives a size is missing, or the head was trained on another backbone.
    """
    decoder, first = "mask_decoder.", "mask_decoder.transformer.layers.0."
    neck, text, mlp, cross, tokens, iou, mask_in, mask_out = _shapes(
        head,
        "the head",
        "neck.0.weight",
        "prompt_proj.weight",
        first + "mlp.lin1.weight",
        first + "cross_attn_token_to_image.q_proj.weight",
        decoder + "mask_tokens.weight",
        decoder + "iou_prediction_head.layers.0.weight",
        "prompt_encoder.mask_downscaling.0.weight",
        "prompt_encoder.mask_downscaling.3.weight",
    )
    width = neck[0]
    for name, of_head, of_backbone in (
        ("width", neck[1], backbone.width),
        ("patch size", 2 * mask_in[-1], backbone.stride),
    ):
        if of_head != of_backbone:
            raise FormatError(
                f"The head was trained on a backbone of {name} {of_head}, and this one has {of_backbone}: "
                "join it with the backbone that it was trained on."
            )
    try:
        sizes = HeadConfig(
            width=width,
            depth=_count(head, r"mask_decoder\.transformer\.layers\.(\d+)\."),
            mlp_width=mlp[0],
            cross_attention_downsample=max(width // cross[0], 1),
            num_mask_tokens=tokens[0],
            iou_depth=_count(head, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\."),
            iou_width=iou[0],
            mask_channels=mask_out[0],
            level_maps=mask_in[1] > 1,
        )
        return ModelConfig(backbone=backbone, head=sizes, text_width=text[-1], canvas=canvas)
    except ConfigError as error:
        raise FormatError(f"The shapes of the head do not fit a model of this project: {error}") from error


def backbone_of_head(head: Tensors) -> ViTConfig | DinoV3Config:
    """Return the published backbone that fits a head, or one that only has its width and patch size.

    DINOv3-S+ has the width and the patches of DINOv3-S, which is returned for it.
    """
    neck, mask = _shapes(head, "the head", "neck.0.weight", "prompt_encoder.mask_downscaling.0.weight")
    published = (
        *map(ViTConfig.dinov2, ("s", "b", "l", "g")),
        *map(DinoV3Config.dinov3, ("s", "b", "l", "h+")),
    )
    for config in published:
        if (config.width, config.patch_size) == (neck[1], 2 * mask[-1]):
            return config
    return ViTConfig(patch_size=2 * mask[-1], width=neck[1], num_heads=1)


def _feed_forward(tensors: Tensors, width: int) -> tuple[str, int, float]:
    """Return the kind of the feed-forward, its hidden width, and an mlp_ratio that gives this width."""
    if any(".mlp.w3." in name or ".mlp.w12." in name for name in tensors):
        ffn, (out,) = "swiglu", _shapes(tensors, "the backbone", "blocks.0.mlp.w3.weight")
        hidden = out[-1]
        exact = 1.5 * hidden / width
    else:
        ffn, (into,) = "mlp", _shapes(tensors, "the backbone", "blocks.0.mlp.fc1.weight")
        hidden = into[0]
        exact = hidden / width
    for ratio in (4.0, exact, exact + 0.5 / width):  # the last one if `exact * width` rounds down
        if ViTConfig(width=width, num_heads=1, ffn=ffn, mlp_ratio=ratio).ffn_hidden == hidden:
            return ffn, hidden, ratio
    return ffn, hidden, exact


def _heads(width: int, num_heads: int | None, what: str) -> int:
    if num_heads is None:
        if width % _CHANNELS:
            raise FormatError(
                f"The number of attention heads of {what} (width {width}) does not show in its file: "
                "give it as --num-heads."
            )
        return width // _CHANNELS
    if num_heads < 1 or width % num_heads:
        raise FormatError(f"The width {width} of {what} cannot be split into {num_heads} attention heads.")
    return num_heads


def _count(tensors: Tensors, pattern: str) -> int:
    """Return one more than the largest index that `pattern` matches."""
    return 1 + max((int(match[1]) for name in tensors if (match := re.match(pattern, name))), default=0)


def _shapes(tensors: Tensors, what: str, *names: str) -> list[Shape]:
    missing = [name for name in names if name not in tensors]
    if missing:
        raise MissingTensors(
            f"{what.capitalize()} lacks {', '.join(missing)}, which give its sizes.", missing
        )
    shapes = [tuple(tensors[name].shape) for name in names]
    for name, shape in zip(names, shapes, strict=True):
        dimensions = (
            3 if name in ("pos_embed", "register_tokens", "storage_tokens") else 4 if name in _KERNELS else 2
        )
        if len(shape) != dimensions or 0 in shape:
            raise FormatError(f"{name} {shape} must have {dimensions} dimensions, none of them 0.")
    return shapes


_KERNELS = (
    "patch_embed.proj.weight",
    "neck.0.weight",
    "prompt_encoder.mask_downscaling.0.weight",
    "prompt_encoder.mask_downscaling.3.weight",
)
