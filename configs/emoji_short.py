"""`emoji_tiny` with a fifth of its steps: for trying changes. Three seeds are in docs/training.md.

python train.py --config configs/emoji_short.py --workdir outputs/emoji_short
"""

import dataclasses
import runpy
from pathlib import Path

from segic_jax.config import Config, PretrainConfig, SourceConfig


def get_config() -> Config:
    """The same stages, shorter; a pair shows one class, which makes a step half as long.

    Box prompts in half of the passes, as officially: without them the loss stays where it began for 300 of
    the 700 steps (docs/training.md).
    """
    config = runpy.run_path(str(Path(__file__).with_name("emoji_tiny.py")))["get_config"]()
    return dataclasses.replace(
        config,
        sources=(SourceConfig("emoji"),),
        pretrain=PretrainConfig(steps=1_800),
        data=dataclasses.replace(config.data, max_concepts=1, box=0.5),
        optim=dataclasses.replace(config.optim, warmup_steps=50),
        train=dataclasses.replace(config.train, steps=700, eval_every=700, checkpoint_every=350),
    )
