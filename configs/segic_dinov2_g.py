"""Train SegIC on DINOv2-g/14 (1.14 B frozen parameters), the largest of the paper.

The recipe is the official one:

    segic convert dinov2_vitg14_pretrain.pth clip-vit-large-patch14/ --out dinov2_vitg14_clip.safetensors
    segic train --config segic_dinov2_g --workdir runs/dinov2_g

The data (COCO and ADE20K semantic, COCO and LVIS instances) are below data/ (docs/training.md).
"""

from segic_jax.config import Config, ViTConfig
from segic_jax.train.recipe import official


def get_config() -> Config:
    """Return the recipe of `segic_jax.train.recipe`."""
    return official(ViTConfig.dinov2("g"), "dinov2_vitg14_clip.safetensors", split_backbone=True)
