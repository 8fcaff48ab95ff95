"""Score instances as COCO does: average precision over IoU thresholds, with crowds left out.

`instance_row` keeps of an image what the scores need: a score for each predicted instance, and its overlap
with each true one. `average_precisions` computes the scores of all images from that.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float

from segic_jax.data import masks
from segic_jax.data.episodes import ObjectMasks
from segic_jax.inference.instances import InstancesFrom, split_mask

MAX_PREDICTIONS = 100  # of an image; those of lower scores do not count
THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
RECALLS = np.linspace(0, 1, 101)


def instance_row(
    logits: Float[np.ndarray, "height width"], method: InstancesFrom, objects: ObjectMasks
) -> dict:
    """Return the scores of the predicted instances, the best first, and their overlaps with the true ones.

    Args:
        logits: of the class, at the size of the true masks; inside above 0.
    """
    found = split_mask(logits > 0, method)
    windows = [np.s_[y0:y1, x0:x1] for x0, y0, x1, y1 in (instance.box for instance in found)]
    scores = [instance.score(logits[window]) for instance, window in zip(found, windows, strict=True)]
    height, width = logits.shape
    return overlap_row([instance.rows(0, height, width) for instance in found], scores, objects)


def overlap_row(
    predicted: Sequence[Bool[np.ndarray, "height width"]], scores: Sequence[float], objects: ObjectMasks
) -> dict:
    """Do as `instance_row` with given instances; what lies on a crowd will not be counted."""
    from pycocotools import mask as coco

    overlaps = np.zeros((len(predicted), len(objects.masks)))
    if overlaps.size:  # the library refuses empty lists
        found, true = ([_run_lengths(mask) for mask in part] for part in (predicted, objects.masks))
        overlaps = np.asarray(coco.iou(found, true, [int(value) for value in objects.crowd]))
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")[:MAX_PREDICTIONS]
    return {
        "scores": [round(float(scores[i]), 6) for i in order],
        "overlaps": [[round(float(value), 4) for value in overlaps[i]] for i in order],
        "crowd": objects.crowd,
    }


def _run_lengths(mask: np.ndarray) -> dict:
    encoded = masks.encode(mask)
    return encoded | {"counts": encoded["counts"].encode()}


def average_precisions(rows_by_class: Iterable[Sequence[dict]]) -> dict[str, float]:
    """Return AP (mean over THRESHOLDS), AP50 and AP75 in per cent, means over the classes with an object."""
    by_class = [
        [_average_precision(rows, threshold) for threshold in THRESHOLDS]
        for rows in rows_by_class
        if any(not all(row["crowd"]) for row in rows)
    ]
    if not by_class:
        return {"ap": float("nan"), "ap50": float("nan"), "ap75": float("nan")}
    means = 100 * np.mean(by_class, axis=0)
    return {
        "ap": float(means.mean()),
        "ap50": float(means[0]),
        "ap75": float(means[THRESHOLDS.index(0.75)]),
    }


def _average_precision(rows: Sequence[dict], threshold: float) -> float:
    """Return the area below one class's curve of precision over recall, as pycocotools interpolates it."""
    scores, found, objects = [], [], 0
    for row in rows:
        for score, match in zip(row["scores"], _match(row, threshold), strict=True):
            if match is not None:
                scores.append(score)
                found.append(match)
        objects += len(row["crowd"]) - sum(row["crowd"])
    if not scores:
        return 0.0
    found = np.array(found)[np.argsort(-np.array(scores), kind="stable")]
    true = np.cumsum(found)
    precision = true / np.arange(1, len(found) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(true / objects, RECALLS, side="left")
    return float(np.append(precision, 0)[np.minimum(place, len(precision))].mean())


def _match(row: dict, threshold: float) -> list[bool | None]:
    """Say of each prediction whether it is a true instance; None where it lies on a crowd."""
    overlaps = np.array(row["overlaps"], np.float64).reshape(len(row["scores"]), len(row["crowd"]))
    crowd = np.array(row["crowd"], bool)
    free: Float[np.ndarray, " objects"] = np.where(crowd, 0.0, 1.0)
    matches: list[bool | None] = []
    for values in overlaps:
        objects = values * free
        if len(values) and objects.max() >= threshold:
            free[len(objects) - 1 - int(objects[::-1].argmax())] = (
                0  # the last of equal ones, as in pycocotools
            )
            matches.append(True)
        else:
            matches.append(None if (values[crowd] >= threshold).any() else False)
    return matches
