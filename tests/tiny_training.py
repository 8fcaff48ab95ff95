"""A training that takes seconds: a very small model and pictures of bright squares.

Also a program, `python tests/tiny_training.py WORKDIR STEPS DEVICES`, for tests that need processes.
"""

import dataclasses
import sys
from functools import cache

import jax
import numpy as np

from segic_jax.config import Config, DataConfig, HeadConfig, ModelConfig, OptimConfig, TrainConfig, ViTConfig
from segic_jax.data.episodes import Pair, Picture
from segic_jax.distributed import initialize
from segic_jax.models.segic import backbone_template, head_template
from segic_jax.train.loop import Outcome, Parts, train

CONFIG = Config(
    backbone="tiny",
    model=ModelConfig(
        vit=ViTConfig(width=16, depth=1, num_heads=2, pos_grid=4),
        head=HeadConfig(width=32, num_heads=4, mlp_width=32, iou_width=16, mask_channels=4),
        text_width=4,
        canvas=56,
    ),
    data=DataConfig(max_concepts=2, jitter=None),
    optim=OptimConfig(learning_rate=1e-3),
    train=TrainConfig(
        steps=8, batch_size=4, seed=3, num_points=64, log_every=1, eval_every=4, checkpoint_every=3
    ),
)


class Squares:
    """Pairs of noise pictures with a bright square, the concept, at two places."""

    def __len__(self) -> int:
        return 100

    def pair(self, rng: np.random.Generator) -> Pair:
        """Target and reference."""
        return Pair(target=self._picture(rng), reference=self._picture(rng), name="square")

    def _picture(self, rng: np.random.Generator) -> Picture:
        image = rng.integers(0, 100, (56, 50, 3), np.uint8)
        mask = np.zeros((1, 56, 50), bool)
        y, x = rng.integers(0, 28, 2)
        mask[0, y : y + 22, x : x + 22] = True
        image[mask[0]] += 150
        return Picture(image, mask)


def with_train(**fields) -> Config:
    """CONFIG with other fields of `train`."""
    return dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, **fields))


def parts(source=None, **others) -> Parts:
    """Everything but the configuration."""
    text = {"": np.zeros(4), "a photo of a square": np.ones(4), "a photo of a nan": np.full(4, np.nan)}
    backbone, head = _init()
    return Parts(**{"source": source or Squares(), "backbone": backbone, "head": head, "text": text} | others)


@cache
def _init():
    return backbone_template(CONFIG.model.vit).init(0), head_template(CONFIG.model).init(1)


def run(workdir, config: Config = CONFIG, source=None, **others) -> Outcome:
    """Train in this process."""
    return train(config, workdir, parts(source, **others))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", int(sys.argv[3]))
    initialize()
    run(sys.argv[1], with_train(steps=int(sys.argv[2])))
