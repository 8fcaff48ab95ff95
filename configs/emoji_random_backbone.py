"""A baseline: the head of `emoji_tiny.py` over the same backbone, frozen as it was drawn at random.

    segic train --config emoji_random_backbone --workdir outputs/emoji_random_backbone

Shorter than the real training: 300 steps instead of 2000.
"""

import dataclasses

from segic_jax.config import Config, PretrainConfig
from segic_jax.train.experiment import load_config


def get_config() -> Config:
    """`emoji_tiny` without its pretraining."""
    config = load_config("emoji_tiny")
    return dataclasses.replace(
        config,
        pretrain=PretrainConfig(steps=0),
        train=dataclasses.replace(config.train, steps=300, eval_every=300),
    )
