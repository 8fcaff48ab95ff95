"""The threshold of the cosine map, which the baseline of that name needs."""

import numpy as np

from segic_jax.data.manifest import EpisodeSource, Manifest
from segic_jax.evaluate.episodes import make_tasks
from segic_jax.evaluate.infer import Prediction, judge_all, to_own_size
from segic_jax.inference.engine import Engine
from segic_jax.weights.bundle import Bundle

THRESHOLDS = np.arange(-0.5, 1.0, 0.01)


def tune_threshold(bundle: Bundle, source: EpisodeSource, manifest: Manifest) -> tuple[float, float]:
    """The threshold at which the cosine map alone scores best, and that mIoU in per cent.

    Use classes that are not evaluated later, and keep it in `bundle.notes["cosine_threshold"]`.
    """
    names = {name: i for i, name in enumerate(manifest.classes)}

    def judge(answer: Prediction):
        truth = answer.shown.mask
        assert answer.similarity is not None
        cosine = to_own_size(answer.similarity, answer.size, truth.shape)
        inside, outside = _above(cosine[truth]), _above(cosine[~truth])
        return names[answer.task.episode.class_id], inside, truth.sum() + outside

    intersection, union = np.zeros((2, len(names), len(THRESHOLDS)))
    tasks = make_tasks(bundle, source, [manifest])
    engines = {"segic": Engine(bundle)}
    for row, shared, either in judge_all(engines, source, tasks, judge, similarity=True):
        intersection[row] += shared
        union[row] += either
    scores = 100 * (intersection / np.maximum(union, 1)).mean(0)
    best = int(scores.argmax())
    return round(float(THRESHOLDS[best]), 2), float(scores[best])


def _above(values: np.ndarray) -> np.ndarray:
    """How many values exceed each threshold."""
    return len(values) - np.searchsorted(np.sort(values), THRESHOLDS, side="right")
