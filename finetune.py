"""Adapt a trained model to your own images: `python finetune.py --data DIR --weights MODEL --workdir OUT`.

DIR holds a folder for each class with images and masks (<class>/1.jpg and <class>/1.png), at least two
images a class. The backbone stays as it is; the head goes on learning from pairs of your images. Run
again to go on after a stop; the result is OUT/model.safetensors, for `segic predict --weights`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from segic_jax.config import (
    Config,
    DataConfig,
    OptimConfig,
    SourceConfig,
    TrainConfig,
    ValidationConfig,
)
from segic_jax.runtime.command_line import run_command


@dataclass
class Args:
    data: Path
    """Folder of classes, or a data set of `segic data build`."""
    workdir: Path
    """Where checkpoints, the log and the finished model go."""
    weights: str = ""
    """Model file, or a name of `segic weights list`; the small model inside the package by default."""
    validation: Path | None = None
    """Another such folder, to score the model on before the end; without it only the loss is known."""
    steps: int = 300
    """Steps of training."""
    batch_size: int = 8
    """Pairs a step."""
    learning_rate: float = 1e-4
    """Falls to 0 along a cosine."""
    seed: int = 42
    """Of all random draws."""


def make_config(args: Args) -> Config:
    """The training that the arguments describe.

    Raises:
        BundleError: the model file cannot be used.
    """
    from segic_jax.weights.bundle import load_bundle
    from segic_jax.weights.fetch import find

    path = str(find(args.weights).resolve())
    bundle = load_bundle(path)
    validation = () if args.validation is None else (ValidationConfig("folder", str(args.validation)),)
    return Config(
        backbone=path,
        start=path,
        sources=(SourceConfig("folder", str(args.data)),),
        validations=validation,
        model=bundle.config,
        # The names of your folders, where the model can read any name.
        data=DataConfig(max_concepts=1, text_keep=0.75 if bundle.tower else 0.0, jitter=(0.5, 1.5)),
        optim=OptimConfig(
            learning_rate=args.learning_rate, schedule="cosine", warmup_steps=max(args.steps // 20, 1)
        ),
        train=TrainConfig(
            steps=args.steps,
            batch_size=args.batch_size,
            seed=args.seed,
            log_every=max(args.steps // 30, 1),
            eval_every=max(args.steps // 3, 1),
            checkpoint_every=max(args.steps // 6, 1),
        ),
    )


def main(args: Args) -> int:
    """Returns the exit code; see `segic_jax.train.run`. Slow imports wait until Ctrl-C is heard."""
    return run_command(lambda: _run(args))


def _run(args: Args) -> int:
    from segic_jax.train.run import run

    return run(make_config(args), args.workdir.resolve())


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
