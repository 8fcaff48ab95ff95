"""`emoji_tiny` with a fifth of its steps: for trying changes. It was never run to its end.

python train.py --config configs/emoji_short.py --workdir outputs/emoji_short
"""

import dataclasses
import runpy
from pathlib import Path

from segic_jax.config import Config, PretrainConfig


def get_config() -> Config:
    """The same stages, shorter."""
    config = runpy.run_path(str(Path(__file__).with_name("emoji_tiny.py")))["get_config"]()
    return dataclasses.replace(
        config,
        pretrain=PretrainConfig(steps=1_800),
        train=dataclasses.replace(config.train, steps=400, eval_every=400, checkpoint_every=200),
    )
