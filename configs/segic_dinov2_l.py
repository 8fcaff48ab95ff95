"""Train SegIC on DINOv2-L/14 (304 M frozen parameters), the size of the public weights.

The recipe is the official one:

    segic convert dinov2_vitl14_pretrain.pth clip-vit-large-patch14/ --out dinov2_vitl14_clip.safetensors
    segic train --config segic_dinov2_l --workdir runs/dinov2_l

The data (COCO and ADE20K semantic, COCO and LVIS instances) are below data/ (docs/training.md).
"""

from segic_jax.config import Config, ViTConfig
from segic_jax.train.recipe import official


def get_config() -> Config:
    """Return the recipe of `segic_jax.train.recipe`."""
    return official(ViTConfig.dinov2("l"), "dinov2_vitl14_clip.safetensors")
