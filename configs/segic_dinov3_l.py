"""Train SegIC on DINOv3-L/16 (303 M frozen parameters), whose patches are 16 pixels wide.

The recipe is the official one, with another backbone; Meta's file, Hugging Face's and timm's give the same
model (docs/weights.md):

    segic weights fetch dinov3-l
    cd ~/.cache/segic_jax
    segic convert dinov3-l.safetensors clip-vit-large-patch14/ --out dinov3_vitl16_clip.safetensors
    segic train --config segic_dinov3_l --workdir runs/dinov3_l

The data (COCO and ADE20K semantic, COCO and LVIS instances) are below data/ (docs/training.md).
"""

from segic_jax.config import Config, DinoV3Config
from segic_jax.train.recipe import official


def get_config() -> Config:
    """Return the recipe of `segic_jax.train.recipe`."""
    return official(DinoV3Config.dinov3("l"), "dinov3_vitl16_clip.safetensors")
