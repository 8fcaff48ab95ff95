"""Validate during training: scores and sample images of the same episodes every time."""

import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from segic_jax.config import Config, ValidationConfig
from segic_jax.data.benchmarks import find_benchmark, open_benchmark
from segic_jax.data.emoji.source import EmojiSource
from segic_jax.data.episodes import EpisodeSource, Manifest
from segic_jax.errors import ConfigError, DataError
from segic_jax.evaluate.episode_report import gallery_item
from segic_jax.evaluate.episode_stream import Prediction, predict_episodes
from segic_jax.evaluate.episode_tasks import make_tasks
from segic_jax.evaluate.episodes import score_episodes
from segic_jax.evaluate.protocols import find_protocol, prediction_row
from segic_jax.evaluate.report import GalleryItem, encode_png, sheet
from segic_jax.evaluate.runner import spread
from segic_jax.inference.engine import Engine
from segic_jax.models.params import Params
from segic_jax.runtime.atomic_write import atomic_write
from segic_jax.weights.bundle import Bundle

SCORES = ("miou", "fb_iou", "episode_iou")
SAMPLE_EPISODES = 6  # spread evenly over the list, so that they are of different classes
KEPT_SAMPLES = 20  # files: the first one, to show where the training began, and the last ones
SAMPLE_FOLDER = "samples"  # of the work directory


class BenchmarkValidation:
    """Run the validations of a configuration.

    The scores of the first one have no prefix in the log, and decide which checkpoint is best.
    """

    def __init__(self, config: Config, backbone: Params, text: Mapping[str, np.ndarray]):
        """Open the data of every validation.

        Raises:
            ConfigError, DataError: a benchmark is unknown or its data are missing.
        """
        self._config, self._backbone, self._text = config, backbone, dict(text)
        self._episodes = [open_episodes(validation) for validation in config.validations]

    def scores(self, head: Params) -> dict[str, float]:
        """Return mIoU, FB-IoU and mean IoU of the episodes, in per cent."""
        engine, scores = self._engine.with_head(head), {}
        for i, (source, manifest) in enumerate(self._episodes):
            values = score_episodes(engine, source, manifest, limit=self._config.train.eval_episodes)
            prefix = f"{manifest.benchmark}_fold{manifest.fold}/" if i else ""
            scores |= {prefix + name: values[name] for name in SCORES}
        return scores

    def draw(self, head: Params, workdir: Path, step: int) -> None:
        """Draw some episodes of the first validation into `workdir/samples`."""
        draw_samples(self._engine.with_head(head), *self._episodes[0], workdir, step)

    @cached_property
    def _engine(self) -> Engine:
        """Return an engine without a head; the backbone is placed once."""
        return Engine(Bundle(self._config.model, self._backbone, {}, self._text))


def open_episodes(config: ValidationConfig) -> tuple[EpisodeSource, Manifest]:
    """Return a benchmark's data and the list of its episodes."""
    benchmark = find_benchmark(config.benchmark)
    if benchmark.kind != "episodes":
        raise ConfigError(f"{benchmark.name} has no episodes: choose another benchmark for the validation.")
    if benchmark.name == "emoji":
        source: EpisodeSource = EmojiSource("validation")  # never the novel classes
    else:
        source = open_benchmark(benchmark, Path(config.root) if config.root else None)
    protocol = config.protocol or benchmark.protocols[0]
    return source, source.manifest(protocol, config.fold, config.shots)


def draw_samples(engine: Engine, source: EpisodeSource, manifest: Manifest, workdir: Path, step: int) -> None:
    """Draw predictions for a few episodes into `workdir/samples/step_<step>.png`; call it in one process.

    A row per episode: reference, target, similarity map, prediction, truth. The first file and the last 19
    are kept. Training continues if a file cannot be read or written: that is a sentence on stderr.
    """
    protocol = find_protocol("original")

    def item(prediction: Prediction) -> GalleryItem:
        return gallery_item(prediction, prediction_row(prediction, protocol)["iou"])

    try:
        tasks = spread(make_tasks(engine.bundle, source, [manifest]), SAMPLE_EPISODES)
        engines = {"segic": engine}
        items = list(predict_episodes(engines, source, tasks, item, similarity=True, references=True))
        folder = workdir / SAMPLE_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / f"step_{step:08d}.png", encode_png(sheet(items)))
        for old in sorted(folder.glob("step_*.png"))[1 : 1 - KEPT_SAMPLES]:
            old.unlink()
    except (DataError, OSError) as error:
        print(f"No sample predictions of step {step}: {error}", file=sys.stderr)
