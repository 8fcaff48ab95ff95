"""A whole training: pretrain where it is asked for, train, write the model file."""

import dataclasses
import sys
from pathlib import Path

from absl import logging

from segic_jax.config import Config, Hosts
from segic_jax.errors import ConfigError, InputError, TrainingError
from segic_jax.runtime import distributed
from segic_jax.runtime.compile_cache import use_compile_cache
from segic_jax.train.build import build, finished_bundle
from segic_jax.train.loop import train
from segic_jax.train.pretrain import pretrained
from segic_jax.weights.bundle import save_bundle

MODEL = "model.safetensors"  # of the work directory


def run(config: Config, workdir: Path, hosts: Hosts | None = None) -> int:
    """Start or go on; the finished model is `workdir/model.safetensors`.

    Returns the exit code: 0, 2 where something was wrong with the input, 1 where the training failed. What
    was wrong stands in one sentence on stderr.
    """
    logging.set_verbosity(logging.ERROR)  # orbax warns at every save without a score
    try:
        there = next(one for one in (workdir, *workdir.absolute().parents) if one.exists())
        if not there.is_dir():
            raise ConfigError(
                f"{workdir} cannot be a work directory: {there} is a file; give another folder."
            )
        distributed.initialize(hosts)
        use_compile_cache()
        if config.pretrain:
            backbone = pretrained(config.pretrain, config.model, workdir)
            if backbone is None:
                return 0
            config = dataclasses.replace(config, backbone=str(backbone))
        parts = build(config)
        outcome = train(config, workdir, parts)
        if outcome.finished and distributed.is_main_host():
            save_bundle(workdir / MODEL, finished_bundle(config, parts, outcome.head))
            print(f"{workdir / MODEL}: the finished model", flush=True)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except TrainingError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
