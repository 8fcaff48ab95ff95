"""Measure what each extension of the photograph model's head gains: `python -m studies.extensions`.

The extensions are similarity maps of each level of the backbone in the mask prompt (`level_maps`), and finer
levels of the backbone in the decoder (`fine_blocks`). The plain head of SegIC, each extension alone and both
are trained alike, with fewer steps than the model in the package, and evaluated on the same episodes.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro

from segic_jax.commands.command_line import run_command
from segic_jax.config import Config, EfficientNetConfig
from segic_jax.data.episodes import EpisodeSource
from segic_jax.data.sources.folder import FolderSource
from segic_jax.errors import ConfigError, TrainingError
from segic_jax.evaluate.episode_stream import predict_episodes
from segic_jax.evaluate.episode_tasks import make_tasks
from segic_jax.evaluate.metrics import bootstrap_interval, class_iou
from segic_jax.evaluate.protocols import class_counts, find_protocol, prediction_row
from segic_jax.inference.engine import Engine
from segic_jax.train.experiment import load_config
from segic_jax.train.run import MODEL, run
from segic_jax.weights.bundle import Bundle, load_bundle

PLAIN = "plain"
VARIANTS = {  # level_maps, fine_blocks
    PLAIN: (False, False),
    "level maps": (True, False),
    "finer levels": (False, True),
    "both": (True, True),
}


class Score(NamedTuple):
    """Hold mIoU in per cent, and what it is above the plain head's, with a 95 % interval over classes."""

    miou: float
    gain: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.miou:.1f} ({self.gain:+.1f}; {self.low:+.1f} to {self.high:+.1f})"


def variant(config: Config, name: str) -> Config:
    """Return the training of a head with the extensions of a variant.

    Raises:
        ConfigError: the backbone of the configuration has no finer levels.
    """
    level_maps, fine = VARIANTS[name]
    backbone = config.model.backbone
    if not isinstance(backbone, EfficientNetConfig) or not backbone.fine_blocks:
        raise ConfigError("The configuration's backbone has no fine_blocks: take one such as photo.")
    model = dataclasses.replace(
        config.model,
        backbone=backbone if fine else dataclasses.replace(backbone, fine_blocks=()),
        head=dataclasses.replace(config.model.head, level_maps=level_maps),
    )
    return dataclasses.replace(config, model=model)


def compare(bundles: Mapping[str, Bundle], source: EpisodeSource) -> dict[str, Score]:
    """Return the scores of models on the episodes of a folder, beside those of the plain one."""
    manifest = source.manifest("original", 0, 1)
    protocol = find_protocol("original")
    # The first model of a stream is called "segic"; here it is the plain one.
    engines = {"segic" if name == PLAIN else name: Engine(bundle) for name, bundle in bundles.items()}
    tasks = make_tasks(bundles[PLAIN], source, [manifest])
    rows = list(predict_episodes(engines, source, tasks, lambda p: prediction_row(p, protocol)))
    return score_rows(rows, {name: None if name == PLAIN else name for name in bundles}, PLAIN)


def score_rows(rows: Sequence[dict], baselines: Mapping[str, str | None], plain: str) -> dict[str, Score]:
    """Return the scores of everything that rows hold, beside those of the plain one.

    Args:
        baselines: by name, the key among the baselines of rows; None for the first model of the stream.
        plain: the name of what all are compared with.
    """
    ious = {
        name: 100 * np.array(list(class_iou(class_counts(rows, key)).values()))
        for name, key in baselines.items()
    }
    scores = {}
    for name, values in ious.items():
        gains = values - ious[plain]
        interval = bootstrap_interval((len(gains), lambda repeats, g=gains: float(repeats @ g) / len(g)))
        scores[name] = Score(float(values.mean()), float(gains.mean()), *interval)
    return scores


def trained(config: Config, workdir: Path, canvas: int) -> Bundle:
    """Train a variant, or read what was trained before, and return it at the canvas of the evaluation.

    Raises:
        TrainingError: the training failed; its reason was printed.
    """
    if run(config, workdir) != 0:
        raise TrainingError(f"{workdir}: the training failed; its message is above.")
    bundle = load_bundle(workdir / MODEL)
    return dataclasses.replace(bundle, config=dataclasses.replace(bundle.config, canvas=canvas))


@dataclass
class HeadStudy:
    """Hold what every study that trains heads asks for."""

    data_root: tuple[Path, ...]
    """Folders in the layout of `segic eval --benchmark folder`."""
    config: str = "photo"
    """The training; its backbone must have finer levels."""
    sources: Path = Path("data/photos")
    """The folder of tools/photo_sources.py."""
    steps: int = 400
    """Steps of each training."""
    canvas: int = 448
    """Side of the canvas of the evaluation."""

    def training(self) -> Config:
        """Return the configuration with this study's photographs and steps."""
        config = load_config(self.config)
        sources = tuple(dataclasses.replace(source, root=str(self.sources)) for source in config.sources)
        return dataclasses.replace(
            config, sources=sources, train=dataclasses.replace(config.train, steps=self.steps)
        )


@dataclass
class Args(HeadStudy):
    """Train the variants one after another and print their mIoU, in per cent; run again after a stop."""

    out: Path = Path("outputs/extensions")
    """A folder for each training."""


def main(args: Args) -> None:
    """Print a line for each variant."""
    config = args.training()
    folders = {root.name: FolderSource(root) for root in args.data_root}
    bundles = {
        name: trained(variant(config, name), args.out.resolve() / name.replace(" ", "_"), args.canvas)
        for name in VARIANTS
    }
    scores = {name: compare(bundles, source) for name, source in folders.items()}
    print("| head | " + " | ".join(folders) + " |\n| --- |" + " --- |" * len(folders))
    for name in VARIANTS:
        print(f"| {name} | " + " | ".join(str(scores[folder][name]) for folder in folders) + " |")


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(tyro.cli(Args))))
