"""Train a baseline: the head of `emoji_tiny` on the same backbone without its pretraining.

    segic train --config emoji_random_backbone --workdir outputs/emoji_random_backbone

It trains for 300 steps instead of 2000.
"""

import dataclasses

from segic_jax.config import Config, PretrainConfig
from segic_jax.train.experiment import load_config


def get_config() -> Config:
    """Return `emoji_tiny` without its pretraining."""
    config = load_config("emoji_tiny")
    return dataclasses.replace(
        config,
        pretrain=PretrainConfig(steps=0),
        train=dataclasses.replace(config.train, steps=300, eval_every=300),
    )
