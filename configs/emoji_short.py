"""Train `emoji_tiny` with a fifth of its pretraining and a third of its steps, to try changes.

docs/training.md has the scores of three seeds.

segic train --config emoji_short --workdir outputs/emoji_short
"""

import dataclasses

from segic_jax.config import Config, PretrainConfig, SourceConfig
from segic_jax.train.experiment import load_config


def get_config() -> Config:
    """Return the same two stages, shorter; a pair has one class, which halves the time of a step.

    Half of the passes have box prompts, the official value: without them the loss stays at its first value
    for 300 of the 700 steps (docs/training.md).
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
