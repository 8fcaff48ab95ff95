"""Score lists of episodes with confidence intervals; the bootstrap draws classes."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from segic_jax.evaluate.metrics import bootstrap_interval
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


def estimate(scores: Float[np.ndarray, " classes"]) -> Estimate:
    """Return the mean over classes, and its bootstrap interval over classes."""

    def resampled_mean(repeats: Int[np.ndarray, " classes"]) -> float:
        return float(repeats @ scores) / len(scores)

    low, high = bootstrap_interval((len(scores), resampled_mean), samples=SAMPLES)
    return Estimate(float(scores.mean()), low, high)


def difference(counts: PixelCounts, default: PixelCounts) -> Estimate:
    """Return the difference to the default, class by class: the same classes are drawn for both."""
    return estimate(class_scores(counts) - class_scores(default))
