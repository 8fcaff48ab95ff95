"""The heads that the ablations compare, all over the shipped model's backbone: many short trainings.

python -m studies.ablation --config emoji_ablation --out outputs/ablation
"""

import dataclasses

from segic_jax.config import Config, OptimConfig, TrainConfig
from segic_jax.train.experiment import load_config
from segic_jax.weights.bundle import SHIPPED


def get_config() -> Config:
    """`emoji_tiny`'s model and data over the backbone that it made, and the budget of one row."""
    config = load_config("emoji_tiny")
    return dataclasses.replace(
        config,
        backbone=str(SHIPPED),
        pretrain=None,
        data=dataclasses.replace(config.data, box=0.5),  # as officially
        optim=OptimConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=50),
        train=TrainConfig(steps=400, batch_size=16, num_points=1_024, negative_queue=16),
    )
