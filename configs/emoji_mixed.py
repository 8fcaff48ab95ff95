"""Train the head for a short time on semantic pairs and instances, mixed, with negative prompts.

    segic train --config emoji_mixed --workdir outputs/emoji_mixed

The frozen backbone is that of emoji-tiny. This experiment exercises all of the training in minutes on
two CPU cores (tools/kill_and_resume.py does so); it does not give a good model.
"""

import dataclasses

from segic_jax.config import Config, DataConfig, OptimConfig, SourceConfig, TrainConfig
from segic_jax.train.experiment import load_config


def get_config() -> Config:
    """Return the model of `emoji_tiny` on its finished backbone, with two sources."""
    config = load_config("emoji_tiny")
    return dataclasses.replace(
        config,
        backbone="emoji-tiny",
        pretrain=None,
        sources=(SourceConfig("emoji"), SourceConfig("emoji_instances")),
        data=DataConfig(max_concepts=4, flip=False, jitter=None, text_keep=0.0, negative=0.25),
        optim=OptimConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=20),
        train=TrainConfig(
            steps=120,
            batch_size=8,
            num_points=1_024,
            log_every=10,
            eval_every=60,
            eval_episodes=60,
            checkpoint_every=15,
        ),
    )
