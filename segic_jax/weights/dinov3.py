"""Read DINOv3 as Meta, Hugging Face (transformers/models/dinov3_vit) and timm (timm/models/eva.py) ship it.

Official names are those of Meta's files. Three things differ between the sources. Keys have no bias: Meta
stores one with a mask of zeros over it, the others leave it out, and here it is 0. timm also leaves out the
biases of queries and values where they are 0. Meta stores the periods of the rotary positions, rounded to
bfloat16; the others compute them, so they are computed here in float32 as well.
"""

import re
from collections.abc import Callable, Mapping

import numpy as np

from segic_jax.models.dinov3 import rotary_periods
from segic_jax.weights.part import Part, Shape, Shapes, rename, require_settings, split_unused
from segic_jax.weights.torch_names import Tensors

META = "DINOv3 as Meta ships it"
HUGGING_FACE = "DINOv3 as Hugging Face ships it"
TIMM = "DINOv3 as timm ships it"
ORIGINS = (META, HUGGING_FACE, TIMM)

_PERIODS = "rope_embed.periods"


def _read_meta(tensors: Mapping[str, np.ndarray], prefix: str, config: Mapping | None, what: str) -> Part:
    """Read DINOv3 under its own names; the mask over the bias of q, k and v is applied to it."""
    file_tensors, left_out = split_unused(tensors, prefix)
    kept = {name.removeprefix(prefix): tensor for name, tensor in file_tensors.items()}
    masks = {name: kept.pop(name) for name in list(kept) if name.endswith(".bias_mask")}
    for name, mask in masks.items():
        bias = kept.get(name.removesuffix("_mask"))
        if bias is not None and bias.shape == mask.shape:  # else they are reported
            kept[name.removesuffix("_mask")] = np.where(mask == 0, 0, bias).astype(bias.dtype)

    def in_file(shapes: Shapes) -> Shapes:
        back: Shapes = {}
        for name, shape in shapes.items():
            back[prefix + name] = shape
            if masks and name.endswith(".qkv.bias"):
                back[f"{prefix}{name}_mask"] = shape
        return back

    return Part("backbone", kept, META, what, in_file, file_tensors, left_out)


def _read_hugging_face(
    tensors: Mapping[str, np.ndarray], prefix: str, config: Mapping | None, what: str
) -> Part:
    """Read DINOv3ViTModel, alone or inside a model with a head."""
    gated = any(".mlp.gate_proj." in name for name in tensors)
    require_settings(config, {"hidden_act": "silu" if gated else "gelu", "layer_norm_eps": 1e-5}, what)
    stated = config or {}
    base = stated.get("rope_theta", (stated.get("rope_parameters") or {}).get("rope_theta", 100.0))
    layers = _GATED_LAYERS if gated else _PLAIN_LAYERS
    file_tensors, left_out = split_unused(tensors, prefix)
    kept: Tensors = {}
    for name, tensor in file_tensors.items():
        kept[rename(name.removeprefix(prefix), (*_HUGGING_FACE_NAMES, *layers))] = tensor
    biases = _join_separate(kept)

    def in_file(shapes: Shapes) -> Shapes:
        return {
            prefix + rename(name, (*_HUGGING_FACE_NAMES, *layers), back=True): shape
            for name, shape in _separate(shapes, "qkv", biases).items()
        }

    made = {_PERIODS: _periods(base)}
    return Part("backbone", kept, HUGGING_FACE, what, in_file, file_tensors, left_out, config, made=made)


# (Hugging Face's, official); a name is compared with a dot before it.
_HUGGING_FACE_NAMES = (
    (".embeddings.cls_token", ".cls_token"),
    (".embeddings.register_tokens", ".storage_tokens"),
    (".embeddings.patch_embeddings.", ".patch_embed.proj."),
    (".layer.", ".blocks."),
    (".attention.q_proj.", ".attn.q."),
    (".attention.k_proj.", ".attn.k."),
    (".attention.v_proj.", ".attn.v."),
    (".attention.o_proj.", ".attn.proj."),
    (".layer_scale1.lambda1", ".ls1.gamma"),
    (".layer_scale2.lambda1", ".ls2.gamma"),
)
_PLAIN_LAYERS = ((".mlp.up_proj.", ".mlp.fc1."), (".mlp.down_proj.", ".mlp.fc2."))
_GATED_LAYERS = (
    (".mlp.gate_proj.", ".mlp.w1."),
    (".mlp.up_proj.", ".mlp.w2."),
    (".mlp.down_proj.", ".mlp.w3."),
)


def _read_timm(tensors: Mapping[str, np.ndarray], prefix: str, config: Mapping | None, what: str) -> Part:
    """Read timm's Eva with rotary positions of the type "dinov3"."""
    gated = any(".mlp.fc1_g." in name for name in tensors)
    names = (
        (".reg_token", ".storage_tokens"),
        (".gamma_1", ".ls1.gamma"),
        (".gamma_2", ".ls2.gamma"),
        (".attn.q_bias", ".attn.q.bias"),
        (".attn.v_bias", ".attn.v.bias"),
        *(
            (
                (".mlp.fc1_g.", ".mlp.w1."),
                (".mlp.fc1_x.", ".mlp.w2."),
                (".mlp.fc2.", ".mlp.w3."),
            )
            if gated
            else ()
        ),
    )
    file_tensors, left_out = split_unused(tensors, prefix)
    kept = {rename(name.removeprefix(prefix), names): tensor for name, tensor in file_tensors.items()}
    biases = _join_separate(kept)

    def in_file(shapes: Shapes) -> Shapes:
        return {
            prefix + rename(name, names, back=True): shape
            for name, shape in _separate(shapes, "", biases).items()
        }

    return Part(
        "backbone", kept, TIMM, what, in_file, file_tensors, left_out, made={_PERIODS: _periods(100.0)}
    )


def _join_separate(kept: Tensors) -> str:
    """Join separate weights and biases of q, k and v in place; a bias that no block has becomes 0.

    Returns:
        Which of q, k and v have a bias. Blocks that do not fit stay separate and are reported.
    """
    biases = "".join(
        letter for letter in "qkv" if any(name.endswith(f".attn.{letter}.bias") for name in kept)
    )
    for block in sorted({match[0] for name in kept if (match := re.match(r"blocks\.\d+\.attn\.", name))}):
        names = [f"{block}{letter}.weight" for letter in "qkv"]
        trio = [kept[name] for name in names if name in kept]
        if len(trio) == 3 and len({part.shape for part in trio}) == 1:
            kept[f"{block}qkv.weight"] = np.concatenate(trio)
            for name in names:
                del kept[name]
        weight = kept.get(f"{block}qkv.weight")
        if weight is None:
            continue
        zeros = np.zeros(len(weight) // 3, weight.dtype)
        parts = [
            zeros if letter not in biases else kept[f"{block}{letter}.bias"]
            for letter in "qkv"
            if letter not in biases or f"{block}{letter}.bias" in kept
        ]
        if len(parts) == 3 and all(part.shape == zeros.shape for part in parts):
            kept[f"{block}qkv.bias"] = np.concatenate(parts)
            for letter in biases:
                del kept[f"{block}{letter}.bias"]
    return biases


def _separate(shapes: Shapes, weights: str, biases: str) -> Shapes:
    """Return names and shapes with q, k and v apart.

    Args:
        weights: "qkv" where each has a weight of its own.
        biases: which of them have a bias, each of its own.
    """
    back: Shapes = {}
    for name, shape in shapes.items():
        leaf = name.rpartition(".")[2]
        letters = {"weight": weights, "bias": biases}.get(leaf, "")
        if ".attn.qkv." not in name or (leaf == "weight" and not weights):
            back[name] = shape
            continue
        for letter in letters:
            back[name.replace(".qkv.", f".{letter}.")] = (shape[0] // 3, *shape[1:])
    return back


def _periods(base: float) -> Callable[[Shape], np.ndarray]:
    return lambda shape: rotary_periods(shape[0], base)


# Names that only this format has, the prefixes they may have, and how to read it.
NAMES = (
    (r"layer\.\d+\.attention\.[qkvo]_proj\.", ("", "dinov3_vit."), _read_hugging_face),
    (
        r"(rope_embed\.periods|storage_tokens)$|blocks\.\d+\.attn\.qkv\.bias_mask$",
        ("", "backbone."),
        _read_meta,
    ),
    (r"blocks\.\d+\.gamma_1$", ("",), _read_timm),
)
