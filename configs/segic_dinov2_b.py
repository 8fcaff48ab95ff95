"""Train SegIC on DINOv2-B/14 (86.6 M frozen parameters), the size of most ablations.

The recipe is the official one:

    segic convert dinov2_vitb14_pretrain.pth clip-vit-large-patch14/ --out dinov2_vitb14_clip.safetensors
    segic train --config segic_dinov2_b --workdir runs/dinov2_b

The data (COCO and ADE20K semantic, COCO and LVIS instances) are below data/ (docs/training.md).
"""

from segic_jax.config import Config, ViTConfig
from segic_jax.train.recipe import official


def get_config() -> Config:
    """Return the recipe of `segic_jax.train.recipe`."""
    return official(ViTConfig.dinov2("b"), "dinov2_vitb14_clip.safetensors")
