"""Fit what the notes of a model file hold: the calibration of presence and the similarity threshold.

Presence is asked about scenes of two to four emoji: of eight classes, those that are not in the scene are
absent. The classes were in no training: a calibration is fitted on the validation split and measured on the
novel one.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize
from scipy.stats import rankdata

from segic_jax.data.emoji.scenes import scene
from segic_jax.data.emoji.source import EmojiSource
from segic_jax.data.emoji.sprites import Split
from segic_jax.data.episodes import EpisodeSource, Manifest, View
from segic_jax.evaluate.episode_stream import Prediction, predict_episodes
from segic_jax.evaluate.episodes import make_tasks
from segic_jax.evaluate.protocols import similarity_on_image
from segic_jax.inference.context import Context
from segic_jax.inference.engine import Engine
from segic_jax.inference.example import Example
from segic_jax.inference.presence import EVIDENCE, Calibration
from segic_jax.inference.segmenter import Segmenter
from segic_jax.weights.bundle import Bundle, read_weights, write_weights

CLASSES_PER_SCENE = 8  # that presence is asked about
LEAST_VISIBLE = 0.005  # share of the scene from which on an object counts as present
RECALL = 0.95  # share of the present classes that the threshold must keep
THRESHOLDS = np.arange(-0.5, 1.0, 0.01)  # of the similarity map


class PresenceSamples(NamedTuple):
    """Hold one row for each class that was asked about on a scene."""

    evidence: Float[np.ndarray, "samples evidence"]
    present: Bool[np.ndarray, " samples"]


def collect_samples(segmenter: Segmenter, split: Split, scenes: int, shots: int) -> PresenceSamples:
    """Ask about classes of a split, fitted from `shots` examples each, on `scenes` scenes."""
    source = EmojiSource(split)
    classes = source.bank.classes
    contexts = {sprite.name: fit_class(segmenter, source, sprite.name, shots) for sprite in classes}
    evidence, present = [], []
    for number in range(scenes):
        rng = np.random.default_rng([number, shots])
        asked = [classes[i] for i in rng.choice(len(classes), CLASSES_PER_SCENE, replace=False)]
        drawn = scene(asked[: rng.integers(2, 5)], f"presence {split}", number)
        context = contexts[asked[0].name]
        for sprite in asked[1:]:
            context = context + contexts[sprite.name]
        result = segmenter.predict(drawn.image, context)
        visible = np.bincount(drawn.labels.ravel(), minlength=CLASSES_PER_SCENE + 1)[1:] / drawn.labels.size
        clear = (visible == 0) | (visible >= LEAST_VISIBLE)
        evidence.append(result.evidence[clear])
        present.append(visible[clear] > 0)
    return PresenceSamples(np.concatenate(evidence), np.concatenate(present))


def fit_class(segmenter: Segmenter, source: EmojiSource, name: str, shots: int) -> Context:
    """Return a Context of one class from its first scenes."""
    views = [source.load(View(str(number), name)) for number in range(1, shots + 1)]
    return segmenter.fit([Example(view.image, view.mask, name=name) for view in views])


def fit_calibration(samples: PresenceSamples) -> Calibration:
    """Fit a logistic regression that weighs present and absent equally; its threshold keeps RECALL."""
    mean, spread = samples.evidence.mean(0), samples.evidence.std(0) + 1e-6
    inputs = np.column_stack([(samples.evidence - mean) / spread, np.ones(len(samples.present))])
    sign = np.where(samples.present, 1.0, -1.0)
    weight = np.where(samples.present, 0.5 / samples.present.sum(), 0.5 / (~samples.present).sum())

    def loss(
        factors: Float[np.ndarray, " inputs"],
    ) -> tuple[Float[np.ndarray, ""] | float, Float[np.ndarray, " inputs"]]:
        margin = sign * (inputs @ factors)
        slope = -(inputs * (weight * sign / (1 + np.exp(margin)))[:, None]).sum(0)
        decay = np.append(1e-3 * factors[:-1], 0)
        return weight @ np.logaddexp(0, -margin) + 0.5 * factors @ decay, slope + decay

    factors = minimize(loss, np.zeros(inputs.shape[1]), jac=True).x
    weights = factors[:-1] / spread
    fitted = Calibration(
        {name: float(value) for name, value in zip(EVIDENCE, weights, strict=True)},
        float(factors[-1] - weights @ mean),
        least=0.0,
    )
    least = np.quantile(fitted.presence(samples.evidence[samples.present]), 1 - RECALL)
    return dataclasses.replace(fitted, least=float(least))


def auroc(score: Float[np.ndarray, " n"], present: Bool[np.ndarray, " n"]) -> float:
    """Return the probability that a present class scores above an absent one."""
    count = int(present.sum())
    ranks = rankdata(score)[present].sum()
    return float((ranks - count * (count + 1) / 2) / (count * (len(present) - count)))


def false_positive_rate(score: Float[np.ndarray, " n"], present: Bool[np.ndarray, " n"]) -> float:
    """Return the share of absent classes above the threshold that keeps RECALL of the present ones."""
    return float((score[~present] >= np.quantile(score[present], 1 - RECALL)).mean())


def save_calibration(path: Path, calibration: Calibration) -> None:
    """Write the calibration into the notes of a model file; its tensors stay as they are."""
    weights = read_weights(path)
    notes = weights.notes | {"presence": dataclasses.asdict(calibration)}
    write_weights(path, dataclasses.replace(weights, notes=notes))


def tune_threshold(bundle: Bundle, source: EpisodeSource, manifest: Manifest) -> tuple[float, float]:
    """Return the threshold at which the similarity map alone scores best, and that mIoU in per cent.

    Use classes that are not evaluated later, and keep it in `bundle.notes["cosine_threshold"]`: the baseline
    "cosine" needs it.
    """
    rows = {name: row for row, name in enumerate(manifest.classes)}

    def count(prediction: Prediction) -> tuple[int, np.ndarray, np.ndarray]:
        """Return the class's row, and intersection and union at each threshold."""
        truth = prediction.target.mask
        similarity = similarity_on_image(prediction, truth.shape)
        inside, outside = _count_above(similarity[truth]), _count_above(similarity[~truth])
        return rows[prediction.task.episode.class_id], inside, truth.sum() + outside

    intersection, union = np.zeros((2, len(rows), len(THRESHOLDS)))
    tasks = make_tasks(bundle, source, [manifest])
    engines = {"segic": Engine(bundle)}
    for row, shared, either in predict_episodes(engines, source, tasks, count, similarity=True):
        intersection[row] += shared
        union[row] += either
    scores = 100 * (intersection / np.maximum(union, 1)).mean(0)
    best = int(scores.argmax())
    return round(float(THRESHOLDS[best]), 2), float(scores[best])


def _count_above(values: Float[np.ndarray, " n"]) -> Int[np.ndarray, " thresholds"]:
    """Count the values above each threshold."""
    return len(values) - np.searchsorted(np.sort(values), THRESHOLDS, side="right")
