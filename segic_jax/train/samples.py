"""Predictions of a training as images: the same few episodes at every validation.

Out: WORKDIR/samples/step_00001000.png, a line an episode: reference, target, cosine map, prediction, truth.
"""

import sys
from pathlib import Path

import cv2

from segic_jax.data.manifest import EpisodeSource, Manifest
from segic_jax.errors import DataError
from segic_jax.evaluate.episodes import make_tasks, spread
from segic_jax.evaluate.gallery import gallery_item
from segic_jax.evaluate.infer import Prediction, judge_all
from segic_jax.evaluate.protocols import find_protocol
from segic_jax.evaluate.report import GalleryItem, sheet
from segic_jax.evaluate.rows import row_of
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

    def item(answer: Prediction) -> GalleryItem:
        return gallery_item(answer, row_of(answer, protocol)["iou"])

    try:
        tasks = spread(make_tasks(bundle, source, [manifest]), EPISODES)
        engines = {"segic": Engine(bundle)}
        answers = judge_all(engines, source, tasks, item, similarity=True, show_references=True)
        drawn = sheet(list(answers))
        folder = workdir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        png = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))[1].tobytes()
        atomic_write(folder / f"step_{step:08d}.png", png)
        for old in sorted(folder.glob("step_*.png"))[1 : 1 - KEPT]:
            old.unlink()
    except (DataError, OSError) as error:
        print(f"No sample predictions of step {step}: {error}", file=sys.stderr)
