"""Describe the backbones."""

import itertools
import math
import operator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from segic_jax.config.checks import require, require_counts
from segic_jax.errors import ConfigError


@dataclass(frozen=True)
class _VisionTransformer:
    """Give what every vision transformer with one level of features has in common."""

    patch_size: int = 14
    width: int = 384

    @property
    def stride(self) -> int:
        """Return the side of a patch in pixels."""
        return self.patch_size

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Return the channels of each level that the patches join: there is one."""
        return (self.width,)

    @property
    def fine_widths(self) -> tuple[int, ...]:
        """Return the channels of finer levels than the patches: there are none."""
        return ()

    @property
    def centred(self) -> bool:
        """Tell whether the mean over an image is taken away from its patches."""
        return False

    @property
    def pixel_mean(self) -> tuple[float, float, float]:
        """Return the mean of each colour, of pixels in 0..1: that of ImageNet (segic.py:362-366)."""
        return (0.485, 0.456, 0.406)

    @property
    def pixel_std(self) -> tuple[float, float, float]:
        """Return the standard deviation of each colour, of pixels in 0..1."""
        return (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ViTConfig(_VisionTransformer):
    """Describe a DINOv2 vision transformer (dinov2/models/vision_transformer.py)."""

    patch_size: int = 14
    width: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: float = 4.0
    ffn: Literal["mlp", "swiglu"] = "mlp"
    num_registers: int = 0
    pos_grid: int = 37  # side of the stored position grid: 518 pixels / 14
    pos_offset: float = 0.1  # official `interpolate_offset`; 0 for the register models
    pos_antialias: bool = False  # True for the register models

    def __post_init__(self):
        require_counts(self, "patch_size", "width", "depth", "num_heads", "pos_grid")
        require(
            self.width % self.num_heads == 0,
            f"ViTConfig.width {self.width} must be divisible by num_heads {self.num_heads}.",
        )

    @property
    def ffn_hidden(self) -> int:
        """Return the hidden width; SwiGLU uses two thirds, rounded up to a multiple of 8."""
        hidden = int(self.width * self.mlp_ratio)
        return hidden if self.ffn == "mlp" else (int(hidden * 2 / 3) + 7) // 8 * 8

    @classmethod
    def dinov2(cls, size: Literal["s", "b", "l", "g"], *, registers: bool = False) -> "ViTConfig":
        """Return a published model: 22.1, 86.6, 304.4 and 1136.5 million parameters."""
        width, depth, num_heads = {
            "s": (384, 12, 6),
            "b": (768, 12, 12),
            "l": (1024, 24, 16),
            "g": (1536, 40, 24),
        }[size]
        return cls(
            width=width,
            depth=depth,
            num_heads=num_heads,
            ffn="swiglu" if size == "g" else "mlp",
            num_registers=4 if registers else 0,
            pos_offset=0.0 if registers else 0.1,
            pos_antialias=registers,
        )


@dataclass(frozen=True)
class DinoV3Config(_VisionTransformer):
    """Describe a DINOv3 vision transformer (dinov3/models/vision_transformer.py)."""

    patch_size: int = 16
    width: int = 384
    depth: int = 12
    num_heads: int = 6
    ffn: Literal["mlp", "swiglu"] = "mlp"
    ffn_hidden: int = 1536
    num_registers: int = 4

    def __post_init__(self):
        require_counts(self, "patch_size", "width", "depth", "num_heads", "ffn_hidden")
        require(
            self.width % (4 * self.num_heads) == 0,
            f"DinoV3Config.width {self.width} must be divisible by 4 x num_heads {self.num_heads}: rotary "
            "positions turn quarters of a head.",
        )

    @classmethod
    def dinov3(cls, size: Literal["s", "s+", "b", "l", "h+"]) -> "DinoV3Config":
        """Return a published model: 21.6, 28.7, 85.7, 303.2 and 840.6 million parameters."""
        width, depth, ffn, hidden = {
            "s": (384, 12, "mlp", 1536),
            "s+": (384, 12, "swiglu", 1536),
            "b": (768, 12, "mlp", 3072),
            "l": (1024, 24, "mlp", 4096),
            "h+": (1280, 32, "swiglu", 5120),
        }[size]
        return cls(width=width, depth=depth, num_heads=width // 64, ffn=ffn, ffn_hidden=hidden)


class MBConv(NamedTuple):
    """Describe a block: expansion to `expand` x `inputs`, depthwise convolution, projection."""

    inputs: int  # channels
    outputs: int
    kernel: int  # side of the depthwise convolution
    stride: int
    expand: int  # 1: no expansion


@dataclass(frozen=True)
class EfficientNetConfig:
    """Describe an EfficientNet-Lite (tpu/models/official/efficientnet/lite/efficientnet_lite_builder.py)."""

    lite: Literal[0, 1, 2, 3, 4] = 2
    blocks: tuple[int, ...] = (9, 14, 20)  # at stride 16 or 32; their outputs are joined at stride 16
    fine_blocks: tuple[int, ...] = ()  # at stride 8, then 4: finer levels of the features

    def __post_init__(self):
        require(self.lite in range(5), f"EfficientNetConfig.lite {self.lite!r} must be 0, 1, 2, 3 or 4.")
        strides = self._strides()
        for name, blocks in (("blocks", self.blocks), ("fine_blocks", self.fine_blocks)):
            require(
                all(0 <= block < len(strides) for block in blocks),
                f"EfficientNetConfig.{name} {blocks}: lite {self.lite} has blocks 0 to {len(strides) - 1}.",
            )
        require(
            len(self.blocks) > 0 and all(strides[block] >= 16 for block in self.blocks),
            f"EfficientNetConfig.blocks {self.blocks} must be blocks at stride 16 or 32: those from "
            f"{strides.index(16)} on in lite {self.lite}.",
        )
        require(
            tuple(strides[block] for block in self.fine_blocks) == (8, 4)[: len(self.fine_blocks)],
            f"EfficientNetConfig.fine_blocks {self.fine_blocks} must be a block at stride 8, then one at "
            f"stride 4: those from {strides.index(8)} and from {strides.index(4)} on in lite {self.lite}.",
        )

    @classmethod
    def published(cls, lite: Literal[0, 1, 2, 3, 4]) -> "EfficientNetConfig":
        """Return a published model that joins a block of each stage at stride 16, and the last of all."""
        blocks = ((7, 10, 15), (9, 14, 20), (9, 14, 20), (9, 16, 23), (11, 20, 29))
        return cls(lite, blocks[lite])

    @property
    def outputs(self) -> tuple[int, ...]:
        """Return the blocks whose outputs are features."""
        return *self.blocks, *self.fine_blocks

    def layout(self) -> tuple[MBConv, ...]:
        """Return the blocks; width and depth are scaled by the published coefficients of the model."""
        width, depth = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))[self.lite]
        # Of lite 0: repeats, kernel, stride, expansion and channels of each stage.
        stages = (
            (1, 3, 1, 1, 16),
            (2, 3, 2, 6, 24),
            (2, 5, 2, 6, 40),
            (3, 3, 2, 6, 80),
            (3, 5, 1, 6, 112),
            (4, 5, 2, 6, 192),
            (1, 3, 1, 6, 320),
        )
        blocks, inputs = [], 32  # the channels of the stem are not scaled
        for repeats, kernel, stride, expand, channels in stages:
            outputs = max(8, int(channels * width + 4) // 8 * 8)
            if outputs < 0.9 * channels * width:  # rounding takes 10 % at most
                outputs += 8
            # The repeats of the first and of the last stage, 1, are not scaled.
            for index in range(math.ceil(repeats * depth) if repeats > 1 else 1):
                blocks.append(MBConv(inputs, outputs, kernel, stride if index == 0 else 1, expand))
                inputs = outputs
        return tuple(blocks)

    def _strides(self) -> list[int]:
        """Return pixels of the image a position of each block's output; the stem has 2."""
        return list(itertools.accumulate((block.stride for block in self.layout()), operator.mul, initial=2))[
            1:
        ]

    @property
    def stride(self) -> int:
        """Return the side of a patch in pixels."""
        return 16

    @property
    def width(self) -> int:
        """Return the channels of the patches."""
        return sum(self.level_widths)

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Return the channels of each level that the patches join."""
        layout = self.layout()
        return tuple(layout[block].outputs for block in self.blocks)

    @property
    def fine_widths(self) -> tuple[int, ...]:
        """Return the channels of the finer levels, coarse to fine."""
        layout = self.layout()
        return tuple(layout[block].outputs for block in self.fine_blocks)

    @property
    def centred(self) -> bool:
        """Tell whether the mean over an image is taken away from its patches."""
        return True  # what all of an image has in common says nothing about where an object is

    @property
    def pixel_mean(self) -> tuple[float, float, float]:
        """Return the mean of each colour, of pixels in 0..1: (x - 127) / 128 for pixels in 0..255."""
        return (127 / 255, 127 / 255, 127 / 255)

    @property
    def pixel_std(self) -> tuple[float, float, float]:
        """Return the standard deviation of each colour, of pixels in 0..1."""
        return (128 / 255, 128 / 255, 128 / 255)


Backbone = ViTConfig | DinoV3Config | EfficientNetConfig
# Their names in files.
BACKBONE_KINDS = {"vit": ViTConfig, "dinov3": DinoV3Config, "efficientnet": EfficientNetConfig}


def backbone_from_dict(values: dict) -> Backbone:
    """Invert `to_dict` for a backbone; an unknown kind or field is a ConfigError."""
    try:
        kind = BACKBONE_KINDS[values["kind"]]
        fields = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return kind(**{name: value for name, value in fields.items() if name != "kind"})
    except (TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"The stored backbone does not fit this version: {error}.") from error
