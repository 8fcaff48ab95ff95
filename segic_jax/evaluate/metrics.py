"""Compute segmentation scores from boolean masks and pixel counts, in numpy.

The sums are those of the official code (utils/misc.py:577-629, utils/meter.py:19-42); FB-IoU is
the few-shot literature's.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Int

Mask = Bool[np.ndarray, "height width"]


def intersection_union(prediction: Mask, truth: Mask) -> tuple[int, int]:
    """Count the pixels in both masks and those in either."""
    return int((prediction & truth).sum()), int((prediction | truth).sum())


def mask_iou(prediction: Mask, truth: Mask) -> float:
    """Return intersection over union, 0..1; NaN where both are empty."""
    intersection, union = intersection_union(prediction, truth)
    return intersection / union if union else float("nan")


def boundary(mask: Mask, dilation: float = 0.02) -> Mask:
    """Keep the pixels near the mask's edge: within `dilation` times the diagonal (misc.py:592-613)."""
    height, width = mask.shape
    steps = max(1, round(dilation * float(np.hypot(height, width))))
    padded = np.pad(mask.astype(np.uint8), 1)  # outside the image is background
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=steps)[1:-1, 1:-1]
    return mask & (eroded == 0)


def boundary_iou(prediction: Mask, truth: Mask) -> float:
    """Return the IoU of the two boundaries, 0..1 (misc.py:616-629); NaN where both are empty."""
    return mask_iou(boundary(prediction), boundary(truth))


@dataclass(frozen=True)
class ClassCounts:
    """Hold pixel counts of a class on an item (an episode or an image), one entry for each such pair."""

    classes: Int[np.ndarray, " entries"]  # class number, 0..
    intersection: Int[np.ndarray, " entries"]
    union: Int[np.ndarray, " entries"]
    # Pixels of the class in the truth: a class whose sum is 0 is left out of means. None: each entry counts.
    truth: Int[np.ndarray, " entries"] | None = None
    # Item of each entry, 0..items - 1. None: each entry is an item of its own.
    items: Int[np.ndarray, " entries"] | None = None


class ClassSums(NamedTuple):
    """Hold pixel counts summed over all entries of each class that a mean counts."""

    classes: Int[np.ndarray, " counted"]  # ascending
    intersection: Int[np.ndarray, " counted"]
    union: Int[np.ndarray, " counted"]


def class_sums(counts: ClassCounts, repeats: Int[np.ndarray, " items"] | None = None) -> ClassSums:
    """Sum the entries of each class.

    Args:
        repeats: how often each item counts, for bootstrap samples; None for once.
    """
    weights = np.ones(len(counts.classes)) if repeats is None else repeats
    if repeats is not None and counts.items is not None:
        weights = repeats[counts.items]
    truth = np.ones(len(counts.classes)) if counts.truth is None else counts.truth
    present = np.flatnonzero(np.bincount(counts.classes, weights * truth))
    # Sums of integers below 2 ** 53 are exact in float64.
    intersection, union = (
        np.bincount(counts.classes, weights * values)[present].astype(np.int64)
        for values in (counts.intersection, counts.union)
    )
    return ClassSums(present, intersection, union)


def class_iou(counts: ClassCounts, repeats: Int[np.ndarray, " items"] | None = None) -> dict[int, float]:
    """Return the IoU of the summed pixels of each class, 0..1; a class without any pixel counts as 0."""
    classes, intersection, union = class_sums(counts, repeats)
    return dict(zip(classes.tolist(), (intersection / np.maximum(union, 1)).tolist(), strict=True))


def mean_iou(counts: ClassCounts, repeats: Int[np.ndarray, " items"] | None = None) -> float:
    """Return the mean of `class_iou` over classes, in per cent; 0 where no class counts."""
    ious = list(class_iou(counts, repeats).values())
    return 100 * float(np.mean(ious)) if ious else 0.0


def fold_mean_iou(counts: ClassCounts, classes: int) -> float:
    """Return the mean over all `classes` of a fold, in per cent; one without an episode counts as 0."""
    return mean_iou(counts) * len(class_iou(counts)) / classes


def fb_iou(counts: ClassCounts, pixels: Int[np.ndarray, " entries"]) -> float:
    """Return the mean of the foreground's and the background's summed IoU, in per cent.

    Args:
        pixels: how many each target has.
    """
    foreground = counts.intersection.sum() / max(counts.union.sum(), 1)
    background_union = pixels - counts.intersection
    background = (pixels - counts.union).sum() / max(background_union.sum(), 1)
    return 50 * float(foreground + background)


def episode_iou(counts: ClassCounts) -> float:
    """Return the mean IoU of single entries, in per cent; those with an empty union are left out."""
    counted = counts.union > 0
    return 100 * float((counts.intersection[counted] / counts.union[counted]).sum() / max(counted.sum(), 1))


class RunningMeanIoU:
    """Keep `mean_iou` up to date while entries arrive one by one."""

    def __init__(self) -> None:
        self._sums: dict[Hashable, tuple[int, int, int]] = {}

    def add(self, class_key: Hashable, intersection: int, union: int, truth: int = 1) -> None:
        """Add an entry of `ClassCounts`."""
        before = self._sums.get(class_key, (0, 0, 0))
        self._sums[class_key] = (before[0] + intersection, before[1] + union, before[2] + truth)

    @property
    def value(self) -> float:
        """Return the mean IoU of the entries so far, in per cent."""
        ious = [intersection / max(union, 1) for intersection, union, truth in self._sums.values() if truth]
        return 100 * float(np.mean(ious)) if ious else 0.0


def bootstrap_interval(
    *groups: tuple[int, Callable[[Int[np.ndarray, " items"]], float]], samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of the mean over groups of a score of each group.

    Args:
        groups: the number of items of each, such as the episodes of a fold, and the score of a resample:
            the function is called with how often each item was drawn.
        samples: how many resamples are drawn; the items of a group are drawn with replacement.
    """
    random = np.random.default_rng(seed)
    means = np.zeros(samples)
    for items, score in groups:
        for sample in range(samples):
            repeats = np.bincount(random.integers(items, size=items), minlength=items)
            means[sample] += score(repeats) / len(groups)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
