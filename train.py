"""Train SegIC: `python train.py --config configs/X.py --workdir DIR [--optim.learning-rate 3e-4 ...]`.

Every field of the configuration can be overridden. Run again with the same arguments to go on after a stop;
the finished model is DIR/model.safetensors.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro
from absl import logging

from segic_jax import distributed
from segic_jax.config import Config, InputError, load_config
from segic_jax.train.build import build, finished_bundle
from segic_jax.train.loop import TrainingError, train
from segic_jax.train.pretrain import pretrained
from segic_jax.weights.bundle import save_bundle


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 2 where something was wrong with the input, 1 where the training failed."""
    logging.set_verbosity(logging.ERROR)  # orbax warns at every save without a score
    try:
        config, workdir = parse(sys.argv[1:] if arguments is None else arguments)
        distributed.initialize()
        if config.pretrain:
            backbone = pretrained(config.pretrain, config.model, workdir)
            if backbone is None:
                return 0
            config = dataclasses.replace(config, backbone=str(backbone))
        parts = build(config)
        outcome = train(config, workdir, parts)
        if outcome.finished and distributed.is_main():
            save_bundle(workdir / "model.safetensors", finished_bundle(config, parts, outcome.head))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except TrainingError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def parse(arguments: Sequence[str]) -> tuple[Config, Path]:
    """The configuration with its overrides, and the work directory; a wrong argument exits with code 2."""
    parser = argparse.ArgumentParser(usage=__doc__.split("`")[1], add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--workdir", type=Path)
    known, rest = parser.parse_known_args(arguments)
    if not {"-h", "--help"} & set(rest) and not (known.config and known.workdir):
        parser.error("--config and --workdir are required.")
    default = {"default": load_config(known.config)} if known.config else {}
    return tyro.cli(Config, args=rest, description=__doc__, **default), Path(known.workdir).resolve()


if __name__ == "__main__":
    sys.exit(main())
