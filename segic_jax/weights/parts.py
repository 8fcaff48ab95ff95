"""Turn the recognised parts of a model into configurations and parameters.

Sizes come from shapes (shapes.py); what no shape shows comes from a config.json, from a file of this project,
or from the user.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import jax
import ml_dtypes
import numpy as np

from segic_jax.config import Backbone, DinoV3Config, EfficientNetConfig, ModelConfig, ViTConfig
from segic_jax.errors import ConvertError, FormatError, MissingTensors
from segic_jax.models.clip_text import text_template
from segic_jax.weights import dinov3
from segic_jax.weights.formats import EFFICIENTNET, HUGGING_FACE
from segic_jax.weights.part import Part
from segic_jax.weights.shapes import (
    backbone_of_head,
    dinov3_config,
    efficientnet_config,
    model_config,
    text_config,
    vit_config,
)
from segic_jax.weights.text import END, TextTower
from segic_jax.weights.torch_names import Tensors

_CANVAS = 896  # of the published models
_FLOATS = (np.float32, np.float16, ml_dtypes.bfloat16, np.float64)


def derive_backbone(part: Part, num_heads: int | None) -> Backbone:
    """Return the configuration of a backbone."""
    if part.stored_config is not None:
        return part.stored_config
    if part.origin == EFFICIENTNET:
        with _name_source(part):
            return efficientnet_config(part.tensors)
    read = dinov3_config if part.origin in dinov3.ORIGINS else vit_config
    with _name_source(part):
        config = read(part.tensors, num_heads=_stated_heads(part, num_heads, always=True))
    _agree(part, config.width, config.depth)
    return config


def fit_to_head(config: Backbone, backbone: Part, head: Part | None) -> Backbone:
    """Set what no tensor of a backbone shows, as a head that it is joined with was trained.

    Of an EfficientNet these are the blocks whose outputs are used. Of a DINOv2 it is how the position
    embedding is resampled to the canvas. Meta's code and Hugging Face's differ for backbones without
    registers: Meta scales by (n + 0.1) / 37, Hugging Face to the exact size. A head keeps the method it was
    trained with: SegIC's is Meta's, wherever the backbone comes from, and a file of this project stores it. A
    backbone alone keeps the method of its own module, so that it gives the same features.
    """
    trained_on = None if head is None or head.stored_config is None else head.stored_config.backbone
    if isinstance(config, EfficientNetConfig):
        if isinstance(trained_on, EfficientNetConfig) and trained_on.lite == config.lite:
            return trained_on
        return config
    if isinstance(config, DinoV3Config):
        return config
    if trained_on is not None:
        # Keep the backbone stored with the head, unless it was guessed from the head alone.
        positions = {"pos_offset": config.pos_offset, "pos_antialias": config.pos_antialias}
        if isinstance(trained_on, ViTConfig) and dataclasses.replace(trained_on, **positions) == config:
            return trained_on
    if config.num_registers:
        return config
    if head is not None:
        return dataclasses.replace(config, pos_offset=0.1, pos_antialias=False)
    return dataclasses.replace(config, pos_offset=0.0) if backbone.origin == HUGGING_FACE else config


def used_blocks(part: Part, config: Backbone) -> Part:
    """Leave out the blocks of an EfficientNet after the last one whose output is used.

    Raises:
        ConvertError: the backbone is of another architecture than `config`.
    """
    kind = _architecture(part)
    if kind is not type(config):
        raise ConvertError(
            f"{part.what} holds {_ARCHITECTURES[kind]}, and the backbone of the model is of another kind: "
            "give other weights, or change model.backbone in the configuration."
        )
    if not isinstance(config, EfficientNetConfig):
        return part
    last = max(*config.blocks, *config.fine_blocks)

    def is_later(name: str) -> bool:
        index = re.match(r"_?blocks\.(\d+)\.", name)
        return index is not None and int(index[1]) > last

    return part._replace(
        tensors={name: tensor for name, tensor in part.tensors.items() if not is_later(name)},
        file_tensors={name: tensor for name, tensor in part.file_tensors.items() if not is_later(name)},
        left_out=(*part.left_out, *filter(is_later, part.file_tensors)),
    )


_ARCHITECTURES: dict[type[Backbone], str] = {
    ViTConfig: "a ViT",
    DinoV3Config: "a DINOv3",
    EfficientNetConfig: "an EfficientNet",
}


def _architecture(part: Part) -> type[Backbone]:
    if part.stored_config is not None:
        return type(part.stored_config)
    if part.origin == EFFICIENTNET:
        return EfficientNetConfig
    return DinoV3Config if part.origin in dinov3.ORIGINS else ViTConfig


def head_config(
    part: Part, backbone: Backbone | None, canvas: int | None, logit_offset: float | None
) -> ModelConfig:
    """Return the configuration of the model that a head belongs to.

    Args:
        backbone: the backbone that the head is joined with; None to derive it from the head.
        canvas: None for the canvas that is stored with the head, else 896.
        logit_offset: None for the offset that is stored with the head, else 0.
    """
    if part.stored_config is not None:
        canvas = canvas or part.stored_config.canvas
    with _name_source(part):
        backbone = backbone or (
            part.stored_config.backbone if part.stored_config is not None else backbone_of_head(part.tensors)
        )
        config = model_config(part.tensors, backbone, canvas or _CANVAS)
    if part.stored_config is not None:  # no shape shows its attention heads
        config = dataclasses.replace(config, head=part.stored_config.head)
    if logit_offset is not None:
        config = dataclasses.replace(config, head=dataclasses.replace(config.head, logit_offset=logit_offset))
    return config


def make_tower(part: Part, tokenizer: bytes | None, num_heads: int | None) -> TextTower:
    """Return the text tower of a part with its tokenizer.json. Raises ConvertError without a tokenizer."""
    if tokenizer is None:
        raise ConvertError(
            f"{part.what} holds CLIP's text tower, which needs its tokenizer: put tokenizer.json (from "
            "openai/clip-backbone_config-large-patch14) beside it, or give that file as another source."
        )
    config = part.stored_config
    if config is None:
        eos_id = (part.config or {}).get("eos_token_id")
        # Files older than transformers 4.31 say 2 and pool at the largest id, which is the same token.
        eos_id = _end_of_text(tokenizer) if eos_id in (None, 2) else eos_id
        with _name_source(part):
            heads = _stated_heads(part, num_heads, always=False)
            config = text_config(part.tensors, num_heads=heads, eos_id=eos_id)
        _agree(part, config.width, config.depth)
    return TextTower(config, checked_parameters(part, text_template(config).shapes), tokenizer)


def _end_of_text(tokenizer: bytes) -> int | None:
    """Return the id of the end-of-text token in a tokenizer.json."""
    values = json.loads(tokenizer)
    try:
        added = {token["content"]: token["id"] for token in values.get("added_tokens") or []}
        return (values["model"].get("vocab") or {}).get(END, added.get(END))
    except (AttributeError, KeyError, TypeError):  # of another form
        return None


def _stated_heads(part: Part, num_heads: int | None, *, always: bool) -> int | None:
    """Return the number of heads that config.json or the user states, or None for 64 channels a head."""
    if part.config and (heads := part.config.get("num_attention_heads")) is not None:
        return heads
    name = "patch_embed.proj.bias" if part.kind == "backbone" else "final_layer_norm.bias"
    published = name in part.tensors and part.tensors[name].size % 64 == 0
    return num_heads if always or not published else None


def _agree(part: Part, width: int, depth: int) -> None:
    """Raise ConvertError if config.json and the tensors disagree."""
    config = part.config or {}
    for name, value in (("hidden_size", width), ("num_hidden_layers", depth)):
        if config.get(name, value) != value:
            raise ConvertError(
                f"{part.what}: config.json says {name} {config[name]}, the tensors say {value}; "
                "one of the two files belongs to another model or is incomplete."
            )


@contextmanager
def _name_source(part: Part) -> Iterator[None]:
    """Add the source to errors, with tensors under the names that they have in the file."""
    try:
        yield
    except MissingTensors as error:
        names = ", ".join(part.in_file({name: (3, 3, 3) for name in error.names}))
        raise FormatError(
            f"{part.what} ({part.origin}) lacks {names}, from which its sizes are read."
        ) from error
    except FormatError as error:
        raise FormatError(f"{part.what}: {error}") from error


def checked_parameters(part: Part, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> Tensors:
    """Return the parameters of a part; raise ConvertError for values that float32 cannot hold exactly."""
    params = part.parameters(shapes)
    for name, tensor in part.file_tensors.items():
        if tensor.dtype not in _FLOATS:
            raise ConvertError(
                f"{part.what}: {name} holds {tensor.dtype}; weights must be floating-point numbers."
            )
        if not np.isfinite(tensor).all():
            raise ConvertError(f"{part.what}: {name} holds NaN or infinite values; get the file again.")
        if tensor.dtype == np.float64 and (tensor != tensor.astype(np.float32)).any():
            raise ConvertError(f"{part.what}: {name} is float64 and not exact in float32; round it first.")
    return {
        name: value.astype(np.float32) if value.dtype == np.float64 else value
        for name, value in params.items()
    }
