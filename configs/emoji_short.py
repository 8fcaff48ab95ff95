"""`emoji_tiny` with a fifth of its steps: for trying changes. Three seeds are in docs/training.md.

segic train --config emoji_short --workdir outputs/emoji_short
"""

import dataclasses

from segic_jax.config import Config, PretrainConfig, SourceConfig
from segic_jax.train.experiment import load_config


def get_config() -> Config:
    """The same stages, shorter; a pair shows one class, which makes a step half as long.

    Box prompts in half of the passes, as officially: without them the loss stays where it began for 300 of
    the 700 steps (docs/training.md).
    """
    config = load_config("emoji_tiny")
    return dataclasses.replace(
        config,
        sources=(SourceConfig("emoji"),),
        pretrain=PretrainConfig(steps=1_800),
        data=dataclasses.replace(config.data, max_concepts=1, box=0.5),
        optim=dataclasses.replace(config.optim, warmup_steps=50),
        train=dataclasses.replace(config.train, steps=700, eval_every=700, checkpoint_every=350),
    )
