"""Segmentation scores from boolean masks, in numpy.

The sums are those of the official code (utils/misc.py:577-629, utils/meter.py:19-42); FB-IoU is
the few-shot literature's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Int

Mask = Bool[np.ndarray, "height width"]


def intersection_union(prediction: Mask, truth: Mask) -> tuple[int, int]:
    """Pixels in both, pixels in either."""
    return int((prediction & truth).sum()), int((prediction | truth).sum())


def mask_iou(prediction: Mask, truth: Mask) -> float:
    """Intersection over union, 0..1; NaN where both are empty."""
    intersection, union = intersection_union(prediction, truth)
    return intersection / union if union else float("nan")


def boundary(mask: Mask, dilation: float = 0.02) -> Mask:
    """The mask's pixels within `dilation` times the diagonal of its edge (misc.py:592-613)."""
    height, width = mask.shape
    steps = max(1, round(dilation * float(np.hypot(height, width))))
    padded = np.pad(mask.astype(np.uint8), 1)  # outside the image is background
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=steps)[1:-1, 1:-1]
    return mask & (eroded == 0)


def boundary_iou(prediction: Mask, truth: Mask) -> float:
    """IoU of the two boundaries, 0..1 (misc.py:616-629); NaN where both are empty."""
    return mask_iou(boundary(prediction), boundary(truth))


@dataclass(frozen=True)
class EpisodeCounts:
    """Sums of each episode."""

    classes: Int[np.ndarray, " episodes"]  # class number 0..
    intersection: Int[np.ndarray, " episodes"]
    union: Int[np.ndarray, " episodes"]
    pixels: Int[np.ndarray, " episodes"]  # of the whole target


class ClassSums(NamedTuple):
    """Pixels summed over the episodes of each class seen."""

    classes: Int[np.ndarray, " seen"]  # in rising order
    intersection: Int[np.ndarray, " seen"]
    union: Int[np.ndarray, " seen"]


def class_sums(counts: EpisodeCounts) -> ClassSums:
    """Add up the episodes of each class."""
    classes, of = np.unique(counts.classes, return_inverse=True)
    # Sums of whole numbers below 2 ** 53 are exact.
    sums = (np.bincount(of, values).astype(np.int64) for values in (counts.intersection, counts.union))
    return ClassSums(classes, *sums)


def class_iou(counts: EpisodeCounts) -> dict[int, float]:
    """IoU of the summed pixels of each class seen, 0..1; a class without any pixel counts as 0."""
    classes, intersection, union = class_sums(counts)
    return dict(zip(classes.tolist(), (intersection / np.maximum(union, 1)).tolist(), strict=True))


def mean_iou(counts: EpisodeCounts) -> float:
    """Mean of `class_iou` over classes, in per cent."""
    return 100 * float(np.mean(list(class_iou(counts).values())))


def fb_iou(counts: EpisodeCounts) -> float:
    """Mean of the foreground's and the background's summed IoU, in per cent."""
    foreground = counts.intersection.sum() / max(counts.union.sum(), 1)
    background_union = counts.pixels - counts.intersection
    background = (counts.pixels - counts.union).sum() / max(background_union.sum(), 1)
    return 50 * float(foreground + background)


def episode_iou(counts: EpisodeCounts) -> float:
    """Mean of the episodes' own IoU, in per cent; those with nothing on both sides are left out."""
    seen = counts.union > 0
    return 100 * float((counts.intersection[seen] / counts.union[seen]).sum() / max(seen.sum(), 1))


def fold_mean_iou(counts: EpisodeCounts, classes: int) -> float:
    """Mean over all `classes` of a fold, in per cent; one without an episode counts as 0."""
    return mean_iou(counts) * len(np.unique(counts.classes)) / classes


def bootstrap_interval(
    folds: Sequence[EpisodeCounts], *, samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the mean over folds of `mean_iou`, in per cent.

    The episodes of each fold are drawn anew with replacement, `samples` times. A class that a draw
    misses is left out of that draw's mean.
    """
    random = np.random.default_rng(seed)
    means = np.zeros(samples)
    for counts in folds:
        classes, of = np.unique(counts.classes, return_inverse=True)
        episodes = len(of)
        for sample in range(samples):
            times = np.bincount(random.integers(episodes, size=episodes), minlength=episodes)
            intersection = np.bincount(of, times * counts.intersection, len(classes))
            union = np.bincount(of, times * counts.union, len(classes))
            drawn = np.bincount(of, times, len(classes)) > 0
            means[sample] += (intersection / np.maximum(union, 1))[drawn].mean() / len(folds)
    low, high = np.percentile(100 * means, [2.5, 97.5])
    return float(low), float(high)
