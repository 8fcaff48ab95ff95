"""Predictions of a training as images: the same few episodes at every validation.

Out: WORKDIR/samples/step_00001000.png, a line an episode: reference, target, cosine map, prediction, truth.
"""

import sys
from pathlib import Path

from segic_jax.data.manifest import EpisodeSource, Manifest
from segic_jax.errors import DataError
from segic_jax.evaluate.episode_stream import Prediction, predict_episodes
from segic_jax.evaluate.episodes import gallery_item, make_tasks
from segic_jax.evaluate.protocols import find_protocol, prediction_row
from segic_jax.evaluate.report import GalleryItem, encode_png, sheet
from segic_jax.evaluate.runner import spread
from segic_jax.inference.engine import Engine
from segic_jax.runtime.atomic_write import atomic_write
from segic_jax.weights.bundle import Bundle

EPISODES = 6  # spread evenly over the list, so that they are of different classes
KEPT = 20  # files: the first one, to see where it came from, and the last ones
FOLDER = "samples"  # of the work directory


def draw_samples(bundle: Bundle, source: EpisodeSource, manifest: Manifest, workdir: Path, step: int) -> None:
    """Answer a few episodes of `manifest` and draw them; one process calls it, not all of them.

    The first file and the last 19 are kept. A training goes on without images: a file that cannot be read
    or written is a sentence on stderr.
    """
    protocol = find_protocol("original")

    def item(prediction: Prediction) -> GalleryItem:
        return gallery_item(prediction, prediction_row(prediction, protocol)["iou"])

    try:
        tasks = spread(make_tasks(bundle, source, [manifest]), EPISODES)
        engines = {"segic": Engine(bundle)}
        items = list(predict_episodes(engines, source, tasks, item, similarity=True, references=True))
        folder = workdir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / f"step_{step:08d}.png", encode_png(sheet(items)))
        for old in sorted(folder.glob("step_*.png"))[1 : 1 - KEPT]:
            old.unlink()
    except (DataError, OSError) as error:
        print(f"No sample predictions of step {step}: {error}", file=sys.stderr)
