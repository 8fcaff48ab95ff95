"""Train the head of `photo` further, on a larger canvas: this makes the model of photographs in the package.

segic train --config photo_fine --start outputs/photo/model.safetensors --workdir outputs/photo_fine
segic convert outputs/photo_fine/model.safetensors --canvas 576 --logit-offset 0.83 --float16 --out NEW

A step takes twice the time of one of `photo`, so most of the training is done there.
"""

import dataclasses

from segic_jax.config import Config, OptimConfig
from segic_jax.train.experiment import load_config


def get_config() -> Config:
    """Return the training; some passes have box prompts, so that the head can be corrected with them."""
    config = load_config("photo")
    return dataclasses.replace(
        config,
        start="outputs/photo/model.safetensors",
        model=dataclasses.replace(config.model, canvas=384),
        data=dataclasses.replace(config.data, box=0.1),
        optim=OptimConfig(learning_rate=5e-4, schedule="cosine", warmup_steps=50),
        train=dataclasses.replace(config.train, steps=1_200, checkpoint_every=50, log_every=10),
    )
