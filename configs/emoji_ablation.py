"""Train the heads that the ablations compare, on the backbone of emoji-tiny: many short trainings.

python -m studies.ablation --config emoji_ablation --out outputs/ablation
"""

import dataclasses

from segic_jax.config import Config, OptimConfig, TrainConfig
from segic_jax.train.experiment import load_config


def get_config() -> Config:
    """Return the model and data of `emoji_tiny` on its finished backbone, with the budget of one row."""
    config = load_config("emoji_tiny")
    return dataclasses.replace(
        config,
        backbone="emoji-tiny",
        pretrain=None,
        data=dataclasses.replace(config.data, box=0.5),  # the official value
        optim=OptimConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=50),
        train=TrainConfig(steps=400, batch_size=16, num_points=1_024, negative_queue=16),
    )
