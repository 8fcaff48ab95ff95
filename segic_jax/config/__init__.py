"""Define every setting of an experiment, in frozen dataclasses that check themselves.

An experiment is a Python file under `configs/` with `get_config() -> Config`; the command line can
override any field (`--optim.learning-rate 3e-4`).
"""

from segic_jax.config.backbones import (
    Backbone,
    DinoV3Config,
    EfficientNetConfig,
    MBConv,
    ViTConfig,
    backbone_from_dict,
)
from segic_jax.config.experiment import (
    Config,
    DataConfig,
    Hosts,
    OptimConfig,
    PretrainConfig,
    SourceConfig,
    TrainConfig,
    ValidationConfig,
)
from segic_jax.config.files import cache_folder, to_dict
from segic_jax.config.model import (
    EMPTY_PROMPT,
    INSTANCE_PROMPT,
    Backend,
    HeadConfig,
    Method,
    MethodChoice,
    ModelConfig,
    Precision,
    TextConfig,
    class_prompt,
    model_config_from_dict,
)

__all__ = [
    "EMPTY_PROMPT",
    "INSTANCE_PROMPT",
    "Backbone",
    "Backend",
    "Config",
    "DataConfig",
    "DinoV3Config",
    "EfficientNetConfig",
    "HeadConfig",
    "Hosts",
    "MBConv",
    "Method",
    "MethodChoice",
    "ModelConfig",
    "OptimConfig",
    "Precision",
    "PretrainConfig",
    "SourceConfig",
    "TextConfig",
    "TrainConfig",
    "ValidationConfig",
    "ViTConfig",
    "backbone_from_dict",
    "cache_folder",
    "class_prompt",
    "model_config_from_dict",
    "to_dict",
]
