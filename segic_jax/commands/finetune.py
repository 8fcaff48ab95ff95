"""Define `segic finetune`: adapt a trained model to your own images."""

import warnings
from dataclasses import dataclass
from pathlib import Path

from segic_jax.config import Config, DataConfig, OptimConfig, SourceConfig, TrainConfig, ValidationConfig
from segic_jax.errors import DataError, InputWarning
from segic_jax.weights.catalog import DEFAULT


@dataclass
class Finetune:
    """Adapt a trained model to your own images.

    segic finetune --data DIR --weights MODEL --workdir OUT

    DIR holds a folder for each class with images and masks (<class>/1.jpg and <class>/1.png), at least two
    images per class. The backbone stays as it is; the head is trained further on pairs of your images. Run
    the same command again to continue after a stop; the result is OUT/model.safetensors, for
    `segic predict --weights`.
    """

    data: Path
    """Folder of classes, or a data set of `segic data build`."""
    workdir: Path
    """Where checkpoints, the log and the finished model go."""
    weights: str = DEFAULT
    """A name from `segic weights list`, or a model file."""
    validation: Path | None = None
    """Another such folder, to score the model on during the training; without it only the loss is known."""
    steps: int = 300
    """Steps of training."""
    batch_size: int = 8
    """Pairs per step."""
    learning_rate: float = 1e-4
    """Falls to 0 along a cosine."""
    seed: int = 42
    """Seed of all random draws."""

    def settings(self) -> Config:
        """Return the configuration that the arguments describe.

        Raises:
            DataError: a folder is missing.
            BundleError: the model file cannot be used.
        """
        from segic_jax.weights.bundle import load_bundle
        from segic_jax.weights.fetch import find

        for option, folder in (("--data", self.data), ("--validation", self.validation)):
            if folder is not None and not folder.is_dir():
                raise DataError(f"{option} {folder} is not a folder: give one with a folder for each class.")
        path = str(find(self.weights).resolve())
        bundle = load_bundle(path)
        if bundle.domain_warning:
            warnings.warn(bundle.domain_warning, InputWarning, stacklevel=2)
        validations = () if self.validation is None else (ValidationConfig("folder", str(self.validation)),)
        return Config(
            backbone=path,
            start=path,
            sources=(SourceConfig("folder", str(self.data)),),
            validations=validations,
            model=bundle.config,
            # The folders' names are used as class names where the model can read any name.
            data=DataConfig(max_concepts=1, text_keep=0.75 if bundle.tower else 0.0, jitter=(0.5, 1.5)),
            optim=OptimConfig(
                learning_rate=self.learning_rate, schedule="cosine", warmup_steps=max(self.steps // 20, 1)
            ),
            train=TrainConfig(
                steps=self.steps,
                batch_size=self.batch_size,
                seed=self.seed,
                log_every=max(self.steps // 30, 1),
                eval_every=max(self.steps // 3, 1),
                checkpoint_every=max(self.steps // 6, 1),
            ),
        )

    def run(self) -> int:
        """Fine-tune, and return the exit code."""
        from segic_jax.train.run import run

        return run(self.settings(), self.workdir.resolve())
