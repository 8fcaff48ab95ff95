"""Describe an experiment: data, optimizer and training; see `configs/`."""

import math
from dataclasses import dataclass, field
from typing import Literal

from segic_jax.config.backbones import ViTConfig
from segic_jax.config.checks import require
from segic_jax.config.model import ModelConfig


@dataclass(frozen=True)
class SourceConfig:
    """Name a source of training pairs."""

    name: str  # a name of data/training_sources.py, such as 'coco_semantic'
    root: str = ""  # the folder with its data; "" for data in the package
    weight: float = 1.0  # its share of the pairs, relative to the other sources
    without_fold: int | None = None  # the fold of COCO-20i whose classes are left out

    def __post_init__(self):
        require(self.weight > 0, f"The weight {self.weight} of the source {self.name} must be above 0.")


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
        require(self.max_concepts >= 1, f"data.max_concepts {self.max_concepts} must be at least 1.")
        for name in ("text_keep", "box", "cross", "colour_share", "view_flip", "negative"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"data.{name} {value} is a probability: give a number from 0 to 1.")
        require(
            self.jitter is None or 0 < self.jitter[0] <= self.jitter[1],
            f"data.jitter {self.jitter} must be the smallest and the largest scale, both above 0, or None.",
        )
        require(
            0 < self.crop[0] <= self.crop[1] <= 1,
            f"data.crop {self.crop} must be the smallest and the largest share, above 0 and at most 1.",
        )
        require(
            all(0 <= value < math.inf for value in self.colour) and self.colour[3] <= 0.5,
            f"data.colour {self.colour} must not be negative, and its last number, the hue, at most 0.5.",
        )
        require(
            min(self.threads, self.workers, self.max_unreadable, self.instance_pixels) >= 0,
            f"data.threads {self.threads}, data.workers {self.workers}, data.max_unreadable "
            f"{self.max_unreadable} and data.instance_pixels {self.instance_pixels} must not be negative.",
        )
        require(
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
        require(
            0 < self.drop_at <= 1,
            f"optim.drop_at {self.drop_at} is a share of the training: give a number above 0 and at most 1.",
        )
        # Written so that NaN is refused, too.
        require(
            0 < self.learning_rate < math.inf and 0 < self.eps < math.inf,
            f"optim.learning_rate {self.learning_rate} and optim.eps {self.eps} must be above 0 and finite.",
        )
        require(
            0 <= self.weight_decay < math.inf
            and all(0 <= b < 1 for b in self.betas)
            and 0 <= self.gamma <= 1,
            f"optim.weight_decay {self.weight_decay} must not be negative, optim.betas {self.betas} from 0 "
            f"to below 1, and optim.gamma {self.gamma} from 0 to 1.",
        )
        require(self.warmup_steps >= 0, f"optim.warmup_steps {self.warmup_steps} must not be negative.")


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
            require(getattr(self, name) >= 1, f"train.{name} {getattr(self, name)} must be at least 1.")
        require(0 <= self.seed < 2**63, f"train.seed {self.seed} must be from 0 to 2^63 - 1.")
        require(
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
        require(
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
