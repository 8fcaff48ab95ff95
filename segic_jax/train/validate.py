"""Validation during a training: the same episodes every time, on lists that are fixed."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segic_jax.config import Config, ValidationConfig
from segic_jax.data.benchmarks import find_benchmark, open_benchmark
from segic_jax.data.emoji.source import EmojiSource
from segic_jax.data.manifest import EpisodeSource, Manifest
from segic_jax.errors import ConfigError
from segic_jax.evaluate.episodes import score_episodes
from segic_jax.models.params import Params
from segic_jax.train.samples import draw_samples
from segic_jax.weights.bundle import Bundle

SCORES = ("miou", "fb_iou", "episode_iou")


class BenchmarkValidation:
    """The validations of a configuration; the first one's scores have no prefix, and decide what is best."""

    def __init__(self, config: Config, backbone: Params, text: Mapping[str, np.ndarray]):
        """Raises ConfigError, DataError where a benchmark is unknown or its data are missing."""
        self._config, self._backbone, self._text = config, backbone, dict(text)
        self._episodes = [open_episodes(one) for one in config.validations]

    def scores(self, head: Params) -> dict[str, float]:
        """mIoU, FB-IoU and mean IoU of the episodes, in per cent."""
        bundle, found = self._bundle(head), {}
        for i, (source, manifest) in enumerate(self._episodes):
            values = score_episodes(bundle, source, manifest, limit=self._config.train.eval_episodes)
            prefix = f"{manifest.benchmark}_fold{manifest.fold}/" if i else ""
            found |= {prefix + name: values[name] for name in SCORES}
        return found

    def draw(self, head: Params, workdir: Path, step: int) -> None:
        """A sheet of some episodes of the first validation, in `workdir/samples`."""
        draw_samples(self._bundle(head), *self._episodes[0], workdir, step)

    def _bundle(self, head: Params) -> Bundle:
        return Bundle(self._config.model, self._backbone, dict(head), self._text)


def open_episodes(config: ValidationConfig) -> tuple[EpisodeSource, Manifest]:
    """A benchmark's data, and the list of its episodes."""
    benchmark = find_benchmark(config.benchmark)
    if benchmark.kind != "episodes":
        raise ConfigError(f"{benchmark.name} has no episodes: choose another benchmark for the validation.")
    if benchmark.name == "emoji":
        source: EpisodeSource = EmojiSource("validation")  # never the novel classes
    else:
        source = open_benchmark(benchmark, Path(config.root) if config.root else None)
    protocol = config.protocol or benchmark.protocols[0]
    return source, source.manifest(protocol, config.fold, config.shots)
