"""Run a training that takes seconds: a very small model and images of bright squares.

Also a program for tests that need processes:
`python tests/helpers/tiny_training.py WORKDIR STEPS DEVICES [OPTION]`.
The option "accumulate" computes a batch in two parts, "workers" reads in two processes, "split" spreads the
backbone over the devices, "slow" takes its time for every pair, "stop=N" stops after step N, "gentle" takes
small steps: large ones let differences of rounding grow, when a pixel of a predicted mask switches.
"""

import dataclasses
import sys
import time
from functools import cache
from pathlib import Path

import jax
import numpy as np

from segic_jax.config import Config, DataConfig, HeadConfig, ModelConfig, OptimConfig, TrainConfig, ViTConfig
from segic_jax.data.pairs import AnnotatedImage, Pair
from segic_jax.models.backbones import backbone_template
from segic_jax.models.head import head_template
from segic_jax.runtime.distributed import StopRequest, initialize
from segic_jax.train.loop import Outcome, Parts, train

CONFIG = Config(
    backbone="tiny",
    model=ModelConfig(
        backbone=ViTConfig(width=16, depth=1, num_heads=2, pos_grid=4),
        head=HeadConfig(width=32, num_heads=4, mlp_width=32, iou_width=16, mask_channels=4),
        text_width=4,
        canvas=56,
    ),
    data=DataConfig(max_concepts=3, jitter=None, negative=0.5),
    optim=OptimConfig(learning_rate=1e-3),
    train=TrainConfig(
        steps=8, batch_size=8, seed=3, num_points=64, log_every=1, eval_every=4, checkpoint_every=3
    ),
)


class Squares:
    """Serve pairs of noise images with a bright or a dark square, the concept, at different positions."""

    class_names = ("square", "hole")
    has_instances = False
    pause = 0.0

    def __len__(self) -> int:
        return 100

    def pair(self, rng: np.random.Generator) -> Pair:
        """Return target and reference; neither shows the other class."""
        time.sleep(self.pause)
        name, other = self.class_names[:: 1 if rng.random() < 0.5 else -1]
        target, reference = (self._image(rng, name) for _ in range(2))
        return Pair(target=target, reference=reference, name=name, absent=(other,))

    def _image(self, rng: np.random.Generator, name: str) -> AnnotatedImage:
        image = rng.integers(60, 160, (56, 50, 3), np.uint8)
        mask = np.zeros((1, 56, 50), bool)
        y, x = rng.integers(0, 28, 2)
        mask[0, y : y + 22, x : x + 22] = True
        image[mask[0]] = image[mask[0]] + 90 if name == "square" else image[mask[0]] - 60
        return AnnotatedImage(image, mask)


def with_train(**fields) -> Config:
    """Return CONFIG with other fields of `train`."""
    return dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, **fields))


def parts(source=None, **others) -> Parts:
    """Return everything but the configuration."""
    text = {
        "": np.zeros(4),
        "a photo of a square": np.ones(4),
        "a photo of a hole": -np.ones(4),
        "a photo of a nan": np.full(4, np.nan),
    }
    backbone, head = _init()
    return Parts(**{"source": source or Squares(), "backbone": backbone, "head": head, "text": text} | others)


@cache
def _init():
    return backbone_template(CONFIG.model.backbone).init(0), head_template(CONFIG.model).init(1)


def run(workdir, config: Config = CONFIG, source=None, **others) -> Outcome:
    """Train in this process."""
    return train(config, workdir, parts(source, **others))


def main(workdir: str, steps: str, devices: str, *options: str) -> None:
    """Run the training that the command line describes."""
    jax.config.update("jax_num_cpu_devices", int(devices))
    initialize()
    config = with_train(
        steps=int(steps), accumulate=2 if "accumulate" in options else 1, split_backbone="split" in options
    )
    if "gentle" in options:
        config = dataclasses.replace(config, optim=OptimConfig(learning_rate=1e-4))
    if "workers" in options:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=2))
    if stops := [int(option.removeprefix("stop=")) for option in options if option.startswith("stop=")]:
        StopRequest.reached = lambda self, step: step in stops
    source = Squares()
    source.pause = 0.1 if "slow" in options else 0.0
    run(Path(workdir), config, source)


if __name__ == "__main__":
    main(*sys.argv[1:])
