"""Define every setting of an experiment, in frozen dataclasses that check themselves.

An experiment is a Python file under `configs/` with `get_config() -> Config`; the command line can
override any field (`--optim.learning-rate 3e-4`).
"""

import dataclasses
import itertools
import math
import operator
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from segic_jax.errors import ConfigError

Precision = Literal["auto", "float32", "bfloat16"]  # of a backbone; auto follows the device
Method = Literal["segic", "training_free"]  # the trained head, or INSID3's comparison of features
MethodChoice = Literal["segic", "training_free", "training_free_crf"]  # with INSID3's refinement of masks


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_counts(config, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(
            isinstance(value, int) and value >= 1,
            f"{type(config).__name__}.{name} {value!r} must be an integer of at least 1.",
        )


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
        _require_counts(self, "patch_size", "width", "depth", "num_heads", "pos_grid")
        _require(
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
        _require_counts(self, "patch_size", "width", "depth", "num_heads", "ffn_hidden")
        _require(
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
        _require(self.lite in range(5), f"EfficientNetConfig.lite {self.lite!r} must be 0, 1, 2, 3 or 4.")
        strides = self._strides()
        for name, blocks in (("blocks", self.blocks), ("fine_blocks", self.fine_blocks)):
            _require(
                all(0 <= block < len(strides) for block in blocks),
                f"EfficientNetConfig.{name} {blocks}: lite {self.lite} has blocks 0 to {len(strides) - 1}.",
            )
        _require(
            len(self.blocks) > 0 and all(strides[block] >= 16 for block in self.blocks),
            f"EfficientNetConfig.blocks {self.blocks} must be blocks at stride 16 or 32: those from "
            f"{strides.index(16)} on in lite {self.lite}.",
        )
        _require(
            tuple(strides[block] for block in self.fine_blocks) == (8, 4)[: len(self.fine_blocks)],
            f"EfficientNetConfig.fine_blocks {self.fine_blocks} must be a block at stride 8, then one at "
            f"stride 4: those from {strides.index(8)} and from {strides.index(4)} on in lite {self.lite}.",
        )

    @classmethod
    def published(cls, lite: Literal[0, 1, 2, 3, 4]) -> "EfficientNetConfig":
        """Return a published model that joins a block of each stage at stride 16, and the last of all."""
        blocks = ((7, 10, 15), (9, 14, 20), (9, 14, 20), (9, 16, 23), (11, 20, 29))
        return cls(lite, blocks[lite])

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
_BACKBONE_KINDS = {"vit": ViTConfig, "dinov3": DinoV3Config, "efficientnet": EfficientNetConfig}


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
        _require_counts(self, "width", "num_heads", "mlp_width", "cross_attention_downsample")
        inner = self.width // self.cross_attention_downsample
        _require(
            inner % self.num_heads == 0 and self.width % 8 == 0,
            f"HeadConfig: width {self.width} must be divisible by 8, and width / "
            f"cross_attention_downsample {inner} by num_heads {self.num_heads}.",
        )
        offset = self.logit_offset
        _require(math.isfinite(offset), f"HeadConfig: logit_offset {offset} is no number.")


@dataclass(frozen=True)
class ModelConfig:
    """Describe a SegIC model: frozen backbone, width of the text features, head and canvas."""

    backbone: Backbone = field(default_factory=lambda: ViTConfig.dinov2("b"))
    head: HeadConfig = field(default_factory=HeadConfig)
    text_width: int = 768
    canvas: int = 896  # side of the square input in pixels

    def __post_init__(self):
        _require(
            self.canvas > 0 and self.canvas % self.backbone.stride == 0,
            f"ModelConfig.canvas {self.canvas} must be a multiple of the backbone's patches of "
            f"{self.backbone.stride} pixels.",
        )
        _require(
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


@dataclass(frozen=True)
class SourceConfig:
    """Name a source of training pairs."""

    name: str  # a name of data/training_sources.py, such as 'coco_semantic'
    root: str = ""  # the folder with its data; "" for data in the package
    weight: float = 1.0  # its share of the pairs, relative to the other sources
    without_fold: int | None = None  # the fold of COCO-20i whose classes are left out

    def __post_init__(self):
        _require(self.weight > 0, f"The weight {self.weight} of the source {self.name} must be above 0.")


@dataclass(frozen=True)
class ValidationConfig:
    """Name the episodes that validate a training: the same ones every time."""

    benchmark: str  # a name of `segic eval --list`; 'emoji' takes the validation classes
    root: str = ""  # the folder with its data
    protocol: str = ""  # the benchmark's first by default
    fold: int = 0
    shots: int = 1


@dataclass(frozen=True)
class DataConfig:
    """Set how training pairs become batches; the defaults are the official recipe."""

    max_concepts: int = 19  # slots of a pair: instances, or a class and its negative prompts
    text_keep: float = 0.75  # probability of the class's prompt, else the empty one
    box: float = 0.5  # probability of a box prompt made from the target
    cross: float = 0.5  # probability that a concept also reads the tokens of the others
    # Semantic pairs: each image is transformed separately.
    flip: bool = True  # mirror each image with probability 1/2
    jitter: tuple[float, float] | None = (0.1, 2.0)  # scales of the large-scale jitter; None: only resize
    # Instances: two views of one image.
    crop: tuple[float, float] = (0.3, 1.0)  # share of the image's area that a view covers
    colour: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)  # brightness, contrast, saturation, hue
    colour_share: float = 0.2  # probability of the colour jitter
    view_flip: float = 0.1  # probability of mirroring a view
    instance_pixels: int = 100  # an instance must show more pixels than this in both views
    # Negative prompts: classes that are in neither image, whose mask is empty.
    negative: float = 0.0  # probability, for semantic pairs; 0.25 where they are on
    # Images that cannot be read are counted and replaced by the next draw.
    max_unreadable: int = 100  # a larger number of them stops the training
    threads: int = 2  # for batches, in each process
    workers: int = 0  # processes for batches; 0: threads of the training process

    def __post_init__(self):
        _require(self.max_concepts >= 1, f"data.max_concepts {self.max_concepts} must be at least 1.")
        for name in ("text_keep", "box", "cross", "colour_share", "view_flip", "negative"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"data.{name} {value} is a probability: give a number from 0 to 1.")
        _require(
            self.jitter is None or 0 < self.jitter[0] <= self.jitter[1],
            f"data.jitter {self.jitter} must be the smallest and the largest scale, both above 0, or None.",
        )
        _require(
            0 < self.crop[0] <= self.crop[1] <= 1,
            f"data.crop {self.crop} must be the smallest and the largest share, above 0 and at most 1.",
        )
        _require(
            all(0 <= value < math.inf for value in self.colour) and self.colour[3] <= 0.5,
            f"data.colour {self.colour} must not be negative, and its last number, the hue, at most 0.5.",
        )
        _require(
            min(self.threads, self.workers, self.max_unreadable, self.instance_pixels) >= 0,
            f"data.threads {self.threads}, data.workers {self.workers}, data.max_unreadable "
            f"{self.max_unreadable} and data.instance_pixels {self.instance_pixels} must not be negative.",
        )
        _require(
            not self.negative or self.max_concepts >= 2,
            "data.negative needs slots for the negative prompts: set data.max_concepts to 10 or more.",
        )


@dataclass(frozen=True)
class OptimConfig:
    """Set AdamW and its learning rate over the training."""

    learning_rate: float = 1e-4
    weight_decay: float = 1e-4  # on every trainable parameter
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    schedule: Literal["step", "cosine"] = "step"
    drop_at: float = 10 / 12  # 'step': drop after this share of the training; officially epoch 10 of 12
    gamma: float = 0.1  # 'step': factor of each drop
    warmup_steps: int = 0

    def __post_init__(self):
        _require(
            0 < self.drop_at <= 1,
            f"optim.drop_at {self.drop_at} is a share of the training: give a number above 0 and at most 1.",
        )
        # Written so that NaN is refused, too.
        _require(
            0 < self.learning_rate < math.inf and 0 < self.eps < math.inf,
            f"optim.learning_rate {self.learning_rate} and optim.eps {self.eps} must be above 0 and finite.",
        )
        _require(
            0 <= self.weight_decay < math.inf
            and all(0 <= b < 1 for b in self.betas)
            and 0 <= self.gamma <= 1,
            f"optim.weight_decay {self.weight_decay} must not be negative, optim.betas {self.betas} from 0 "
            f"to below 1, and optim.gamma {self.gamma} from 0 to 1.",
        )
        _require(self.warmup_steps >= 0, f"optim.warmup_steps {self.warmup_steps} must not be negative.")


@dataclass(frozen=True)
class TrainConfig:
    """Set the length of a training, and what it writes when."""

    steps: int = 30_000
    batch_size: int = 32  # pairs a step, over all devices
    seed: int = 42
    num_points: int = 12_544  # points of each mask at which the losses are sampled (112 x 112)
    log_every: int = 50  # steps
    eval_every: int = 2_500  # steps
    eval_episodes: int = 500  # at most, spread evenly over those of the validation
    checkpoint_every: int = 1_000  # steps; there is also one at each validation
    tensorboard: bool = False
    split_backbone: bool = False  # spread the frozen weights over the devices instead of copying them
    accumulate: int = 1  # parts that a batch is computed in, one after the other, to save memory
    remat: bool = False  # compute the head's activations again for the gradient, to save memory
    negative_queue: int = 128  # features kept per class, for negative prompts
    negative_weight: float = 0.1  # of a negative prompt in the mask losses

    def __post_init__(self):
        for name in (
            "steps",
            "batch_size",
            "num_points",
            "log_every",
            "eval_every",
            "eval_episodes",
            "checkpoint_every",
            "accumulate",
            "negative_queue",
        ):
            _require(getattr(self, name) >= 1, f"train.{name} {getattr(self, name)} must be at least 1.")
        _require(0 <= self.seed < 2**63, f"train.seed {self.seed} must be from 0 to 2^63 - 1.")
        _require(
            self.batch_size % self.accumulate == 0,
            f"train.batch_size {self.batch_size} must be divisible by train.accumulate {self.accumulate}.",
        )


@dataclass(frozen=True)
class PretrainConfig:
    """Set the pretraining of a small backbone on the embedded benchmark's base classes."""

    steps: int = 9_000  # 0 keeps the random backbone
    group_scenes: int = 16  # scenes a step
    group_classes: int = 14  # classes that these scenes share
    background_weight: float = 0.35  # of a background patch, where an object's patch has 1
    patches: int = 127  # of a scene that a step reads; with the class token a multiple of 128
    full_share: float = 0.15  # the last steps, as a share of all, read all patches
    mixed_precision: bool = True  # matrix products in bfloat16 (train/mixed_precision.py)
    learning_rate: float = 6e-3  # after the warm-up and until the decay
    warmup_steps: int = 100
    decay_share: float = 0.3  # the last steps, as a share of all, in which the learning rate falls to 0
    weight_decay: float = 0.05
    seed: int = 42
    log_every: int = 50  # steps
    checkpoint_every: int = 250  # steps


@dataclass(frozen=True)
class Config:
    """Describe an experiment."""

    backbone: str  # .safetensors file of the frozen weights: a model of this project, or DINOv2's own names
    pretrain: PretrainConfig | None = None  # make the backbone first, instead of reading a file
    sources: tuple[SourceConfig, ...] = (SourceConfig("emoji"),)
    validations: tuple[ValidationConfig, ...] = (ValidationConfig("emoji"),)  # the first decides what is best
    start: str = ""  # model file whose head the training starts from; "" for a new head
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self):
        _require(
            self.pretrain is None or isinstance(self.model.backbone, ViTConfig),
            "Only a ViT can be pretrained on the embedded benchmark: set pretrain to None, and give the "
            "weights of the backbone with --backbone.",
        )


@dataclass
class Hosts:
    """Name the processes of one run, on hosts where neither SLURM, MPI nor a TPU pod does."""

    coordinator: str | None = None
    """host:port of the first host, reachable from all."""
    num_hosts: int | None = None
    """Number of processes."""
    host_id: int | None = None
    """Number of this process, from 0."""


def to_dict(config) -> dict:
    """Convert a configuration to plain dictionaries and numbers, for JSON beside a checkpoint.

    A backbone is written with its `kind`: "vit", "dinov3" or "efficientnet".
    """
    kinds = {backbone: kind for kind, backbone in _BACKBONE_KINDS.items()}

    def plain(value) -> Any:
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        if not dataclasses.is_dataclass(value):
            return value
        kind = {"kind": kinds[type(value)]} if type(value) in kinds else {}
        return kind | {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}

    return plain(config)


def backbone_from_dict(values: dict) -> Backbone:
    """Invert `to_dict` for a backbone; an unknown kind or field is a ConfigError."""
    try:
        kind = _BACKBONE_KINDS[values["kind"]]
        fields = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return kind(**{name: value for name, value in fields.items() if name != "kind"})
    except (TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"The stored backbone does not fit this version: {error}.") from error


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


def cache_folder() -> Path:
    """Return the folder of converted weights and derived data.

    SEGIC_CACHE, else XDG_CACHE_HOME/segic_jax, else ~/.cache/segic_jax.
    """
    if chosen := os.environ.get("SEGIC_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "segic_jax"


# The sentences that CLIP's text tower reads (segic.py:299-313).
INSTANCE_PROMPT = "please segment the instances"  # for every concept that is an instance, and in videos
EMPTY_PROMPT = ""  # when no class name is given


def class_prompt(name: str) -> str:
    """Return the sentence for a class name; without a name it is the empty prompt."""
    return f"a photo of a {name}" if name else EMPTY_PROMPT
