"""SegIC on DINOv2-B/14 (86.6 M frozen parameters), the size of most ablations: the official recipe.

    segic convert dinov2_vitb14_pretrain.pth clip-vit-large-patch14/ --out dinov2_vitb14_clip.safetensors
    segic train --config segic_dinov2_b --workdir runs/dinov2_b

COCO and ADE20k semantic, COCO and LVIS instances lie below data/ (docs/training.md).
"""

from segic_jax.config import Config, ViTConfig
from segic_jax.train.recipe import official


def get_config() -> Config:
    """See `segic_jax.train.recipe`."""
    return official(ViTConfig.dinov2("b"), "dinov2_vitb14_clip.safetensors")
