"""Train for strict COCO-20i, fold 3: its 20 classes are in no training pair.

segic train --config coco20i_fold3 --workdir runs/coco20i_fold3
"""

from segic_jax.config import Config
from segic_jax.train.recipe import strict_coco20i


def get_config() -> Config:
    """Return the recipe of `segic_jax.train.recipe`."""
    return strict_coco20i(3)
