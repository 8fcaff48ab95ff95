"""Describe a model: its backbone, its head, and the sentences that it reads."""

import math
from dataclasses import dataclass, field
from typing import Literal

from segic_jax.config.backbones import Backbone, ViTConfig, backbone_from_dict
from segic_jax.config.checks import require, require_counts
from segic_jax.errors import ConfigError

Precision = Literal["auto", "float32", "bfloat16"]  # of a backbone; auto follows the device
Backend = Literal["jax", "onnxruntime"]  # what runs the backbone; the second only EfficientNets on CPUs
Method = Literal["segic", "training_free"]  # the trained head, or INSID3's comparison of features
MethodChoice = Literal["segic", "training_free", "training_free_crf"]  # with INSID3's refinement of masks
# The sentences that CLIP's text tower reads (segic.py:299-313).
INSTANCE_PROMPT = "please segment the instances"  # for every concept that is an instance, and in videos
EMPTY_PROMPT = ""  # when no class name is given


@dataclass(frozen=True)
class TextConfig:
    """Describe CLIP's text tower; the defaults are those of ViT-L/14."""

    vocab_size: int = 49408
    width: int = 768
    mlp_width: int = 3072
    depth: int = 12
    num_heads: int = 12
    max_length: int = 77
    eos_id: int = 49407


@dataclass(frozen=True)
class HeadConfig:
    """Describe the trained part: neck, prompt encoder, mask decoder, projections."""

    width: int = 256
    depth: int = 2
    num_heads: int = 8
    mlp_width: int = 2048
    cross_attention_downsample: int = 2  # cross-attention runs at width / this
    num_mask_tokens: int = 4
    iou_depth: int = 3
    iou_width: int = 256
    mask_channels: int = 16  # hidden channels of the mask prompt's convolutions
    level_maps: bool = False  # also prompt with a similarity map of each level of the backbone (an extension)
    logit_offset: float = 0.0  # added to the logits of every mask: images may differ from the training's

    def __post_init__(self):
        require_counts(self, "width", "num_heads", "mlp_width", "cross_attention_downsample")
        inner = self.width // self.cross_attention_downsample
        require(
            inner % self.num_heads == 0 and self.width % 8 == 0,
            f"HeadConfig: width {self.width} must be divisible by 8, and width / "
            f"cross_attention_downsample {inner} by num_heads {self.num_heads}.",
        )
        offset = self.logit_offset
        require(math.isfinite(offset), f"HeadConfig: logit_offset {offset} is no number.")


@dataclass(frozen=True)
class ModelConfig:
    """Describe a SegIC model: frozen backbone, width of the text features, head and canvas."""

    backbone: Backbone = field(default_factory=lambda: ViTConfig.dinov2("b"))
    head: HeadConfig = field(default_factory=HeadConfig)
    text_width: int = 768
    canvas: int = 896  # side of the square input in pixels

    def __post_init__(self):
        require(
            self.canvas > 0 and self.canvas % self.backbone.stride == 0,
            f"ModelConfig.canvas {self.canvas} must be a multiple of the backbone's patches of "
            f"{self.backbone.stride} pixels.",
        )
        require(
            self.backbone.stride % 2 == 0,
            f"The backbone's patches of {self.backbone.stride} pixels must have an even side: the mask "
            "prompt shrinks by half a patch, then by two.",
        )

    @property
    def grid(self) -> int:
        """Return the number of patches along one side."""
        return self.canvas // self.backbone.stride

    @property
    def mask_prompts(self) -> int:
        """Return how many maps the mask prompt has."""
        return 1 + (len(self.backbone.level_widths) if self.head.level_maps else 0)


def model_config_from_dict(values: dict) -> ModelConfig:
    """Invert `to_dict` for a ModelConfig; an unknown field is a ConfigError."""
    try:
        return ModelConfig(
            **{
                **values,
                "backbone": backbone_from_dict(values["backbone"]),
                "head": HeadConfig(**values["head"]),
            }
        )
    except (TypeError, KeyError) as error:
        raise ConfigError(f"The stored model configuration does not fit this version: {error}.") from error


def class_prompt(name: str) -> str:
    """Return the sentence for a class name; without a name it is the empty prompt."""
    return f"a photo of a {name}" if name else EMPTY_PROMPT
