"""A baseline: the head of `emoji_tiny.py` over the same backbone, frozen as it was drawn at random.

    python train.py --config configs/emoji_random_backbone.py --workdir outputs/emoji_random_backbone

Shorter than the real training: 300 steps instead of 2000.
"""

import dataclasses
import runpy
from pathlib import Path

from segic_jax.config import Config, PretrainConfig


def get_config() -> Config:
    """`emoji_tiny` without its pretraining."""
    config = runpy.run_path(str(Path(__file__).with_name("emoji_tiny.py")))["get_config"]()
    return dataclasses.replace(
        config,
        pretrain=PretrainConfig(steps=0),
        train=dataclasses.replace(config.train, steps=300, eval_every=300),
    )
