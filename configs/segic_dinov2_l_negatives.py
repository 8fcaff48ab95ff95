"""Train SegIC on DINOv2-L/14 with negative prompts, which the paper has and the official script leaves out.

segic train --config segic_dinov2_l_negatives --workdir runs/dinov2_l_negatives
"""

import dataclasses

from segic_jax.config import Config, DataConfig, ViTConfig
from segic_jax.train.recipe import official


def get_config() -> Config:
    """Return the official recipe with negative prompts for a quarter of the semantic pairs (segic.py:577)."""
    config = official(ViTConfig.dinov2("l"), "dinov2_vitl14_clip.safetensors")
    return dataclasses.replace(config, data=DataConfig(negative=0.25))
