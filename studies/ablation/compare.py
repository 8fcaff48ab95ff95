"""Score lists of episodes with confidence intervals; the bootstrap draws classes."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from studies.ablation.evaluation import PixelCounts

SAMPLES = 10_000


class Estimate(NamedTuple):
    """Hold a value in per cent with its 95 % interval."""

    value: float
    low: float
    high: float


def class_scores(counts: PixelCounts) -> Float[np.ndarray, " classes"]:
    """Return the IoU of the summed pixels of each class, in per cent, as `evaluate.metrics.class_iou`."""
    return 100 * counts.intersection.sum(1) / np.maximum(counts.union.sum(1), 1)


def estimate(scores: Float[np.ndarray, " classes"], *, samples: int = SAMPLES, seed: int = 0) -> Estimate:
    """Return the mean over classes, and its bootstrap interval over classes."""
    draws = np.random.default_rng(seed).integers(len(scores), size=(samples, len(scores)))
    low, high = np.percentile(scores[draws].mean(1), [2.5, 97.5])
    return Estimate(float(scores.mean()), float(low), float(high))


def difference(counts: PixelCounts, default: PixelCounts) -> Estimate:
    """Return the difference to the default, class by class: the same classes are drawn for both."""
    return estimate(class_scores(counts) - class_scores(default))
