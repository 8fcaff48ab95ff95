"""Score predictions of episodes under a protocol; numbers of different protocols must never be mixed.

The model always segments a target on its own canvas, as in training. A protocol says at which size its
logits are compared with the truth. `prediction_row` gives the pixel counts of an episode, and
`summarise_rows` all scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float

from segic_jax.data.episodes import ClassId, Manifest
from segic_jax.data.masks import resize_nearest
from segic_jax.data.preprocess import resize
from segic_jax.data.sampler import GPUS
from segic_jax.errors import ConfigError
from segic_jax.evaluate import metrics
from segic_jax.evaluate.episode_stream import Prediction
from segic_jax.evaluate.metrics import ClassCounts
from segic_jax.evaluate.runner import to_json


@dataclass(frozen=True)
class Protocol:
    """Describe one convention of the field."""

    name: str
    size: int | None  # side of the square that logits and truth are resized to; None: the target's own size
    mean_over: Literal["fold", "seen"]  # a class without an episode counts as 0, or is left out
    class_names: bool  # whether the official numbers were made with class names as text
    source: str
    rounded_canvas: bool = True  # round resized inputs to uint8; the official code of SegIC does not

    def to_dict(self) -> dict:
        """Return the entry of a result."""
        return asdict(self) | {
            "truth": "own size" if self.size is None else f"nearest to {self.size} x {self.size}",
            "prediction": "logits, resized bilinearly to the ground truth, above 0",
            "canvas": "rounded to uint8" if self.rounded_canvas else "float32",
        }


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("matcher", 518, "fold", False, "Matcher main_oss.py, data/dataset.py; seed 0, no workers"),
        Protocol("insid3", 1024, "fold", False, "INSID3 inference_segmentation.py; seed 0, no workers"),
        *(
            Protocol(name, None, "seen", class_names=True, source=f"SegIC {source}", rounded_canvas=False)
            for name, source in (
                ("segic", "train.py:443-560, utils/meter.py:19-42; episodes of one process without workers"),
                ("segic-leak", "utils/fss.py:347-353: a target may be its reference"),
                *((name, f"episodes of {gpus} GPU(s) with 4 workers each") for name, gpus in GPUS.items()),
            )
        ),
        Protocol("original", None, "seen", False, "this project: as segic, without class names"),
    )
}


def find_protocol(name: str) -> Protocol:
    """Return a protocol by name.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"There is no protocol {name!r}: choose one of {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]


def prediction_row(
    prediction: Prediction, protocol: Protocol, *, threshold: float | None = None, copy: bool = False
) -> dict:
    """Return a line of episodes.jsonl: the pixel counts of an episode.

    `iou` and `boundary_iou` are 0..1, None where neither side has a pixel.

    Args:
        threshold: also score the similarity map above it ("cosine").
        copy: also score the reference's mask resized to the target ("copy").
    """
    episode = prediction.task.episode
    truth, ignored = _truth(prediction, protocol)
    masks = {name: predicted_mask(prediction, name, truth.shape) for name in prediction.logits}
    if threshold is not None:
        masks["cosine"] = similarity_on_image(prediction, truth.shape) > threshold
    if copy and prediction.reference is not None:
        masks["copy"] = copy_mask(prediction.reference.mask, truth.shape)
    if ignored is not None:
        masks = {name: mask & ~ignored for name, mask in masks.items()}
    counts = {name: metrics.intersection_union(mask, truth) for name, mask in masks.items()}
    edges = metrics.intersection_union(metrics.boundary(masks["segic"]), metrics.boundary(truth))
    intersection, union = counts.pop("segic")
    row: dict[str, object] = {
        "index": prediction.task.index,
        "fold": prediction.task.fold,
        "class": episode.class_id,
        "target": episode.target,
        "references": list(episode.references),
        "intersection": intersection,
        "union": union,
        "pixels": int(truth.size if ignored is None else (~ignored).sum()),
        "boundary_intersection": edges[0],
        "boundary_union": edges[1],
        "iou": intersection / union if union else None,
        "boundary_iou": edges[0] / edges[1] if edges[1] else None,
    }
    if episode.instances:
        row["instances"] = list(episode.instances)
    if prediction.notes:
        row["notes"] = list(prediction.notes)
    if counts:
        row["baselines"] = {name: list(counts[name]) for name in sorted(counts)}
    return row


def _truth(
    prediction: Prediction, protocol: Protocol
) -> tuple[Bool[np.ndarray, "height width"], Bool[np.ndarray, "height width"] | None]:
    """Return the true mask without ignored pixels, and these, at the protocol's size."""
    truth, ignored = prediction.target.mask, prediction.target.ignored
    if protocol.size is not None:
        truth = resize_nearest(truth, protocol.size, protocol.size)
        ignored = None if ignored is None else resize_nearest(ignored, protocol.size, protocol.size)
    return (truth, None) if ignored is None else (truth & ~ignored, ignored)


def predicted_mask(
    prediction: Prediction, name: str, image_size: tuple[int, int]
) -> Bool[np.ndarray, "height width"]:
    """Return where the logits called `name` are positive, at `image_size` (height, width)."""
    return to_image_size(prediction.logits[name], prediction.size, image_size) > 0


def similarity_on_image(
    prediction: Prediction, image_size: tuple[int, int]
) -> Float[np.ndarray, "height width"]:
    """Return the similarity map at `image_size` (height, width)."""
    if prediction.similarity is None:
        raise ValueError("The prediction has no similarity map: ask predict_episodes for it.")
    return to_image_size(prediction.similarity, prediction.size, image_size)


def to_image_size(
    values: Float[np.ndarray, "canvas_height canvas_width"],
    size: tuple[int, int],
    image_size: tuple[int, int],
) -> Float[np.ndarray, "height width"]:
    """Crop a canvas to its valid `size` (h, w), then resize to `image_size`, bilinear (train.py:443-460)."""
    return resize(values[: size[0], : size[1]], image_size)


def copy_mask(
    reference: Bool[np.ndarray, "rows columns"], image_size: tuple[int, int]
) -> Bool[np.ndarray, "height width"]:
    """Stretch the reference's mask to the target's (height, width): the simplest baseline."""
    stretched = cv2.resize(reference.astype(np.float32), image_size[::-1], interpolation=cv2.INTER_LINEAR)
    return stretched > 0.5


def summarise_rows(
    rows: Sequence[dict],
    manifests: Sequence[Manifest],
    protocol: Protocol,
    labels: Mapping[tuple[int, ClassId], str] | None = None,
) -> dict:
    """Return `scores`, `fold_scores`, `class_iou` and `baselines` of a result, in per cent.

    Args:
        labels: names of (fold, class) for `class_iou`; the class itself by default.
    """
    labels = labels or {}
    folds = {
        manifest: fold_rows
        for manifest in manifests
        if (fold_rows := [row for row in rows if row["fold"] == manifest.fold])
    }

    def scores(baseline: str | None) -> dict:
        by_fold = [_fold_scores(part, manifest, protocol, baseline) for manifest, part in folds.items()]
        means = {key: float(np.mean([fold[key] for fold in by_fold])) for key in by_fold[0]}  # NaN stays NaN
        counts = [class_counts(fold_rows, baseline) for fold_rows in folds.values()]
        interval = metrics.bootstrap_interval(
            *((len(fold.classes), partial(metrics.mean_iou, fold)) for fold in counts)
        )
        return to_json(means) | {"interval_95": list(interval)}

    class_iou = {}
    for manifest, fold_rows in folds.items():
        classes = _class_order(fold_rows)
        for number, iou in metrics.class_iou(class_counts(fold_rows)).items():
            class_id = classes[number]
            class_iou[labels.get((manifest.fold, class_id), str(class_id))] = 100 * iou
    names = sorted({name for row in rows for name in row.get("baselines", {})})
    return {
        "scores": scores(None),
        "fold_scores": {
            str(manifest.fold): to_json(_fold_scores(fold_rows, manifest, protocol, None))
            for manifest, fold_rows in folds.items()
        },
        "class_iou": to_json(class_iou),
        "baselines": {name: scores(name) for name in names},
    }


def class_counts(rows: Sequence[dict], baseline: str | None = None) -> ClassCounts:
    """Return the pixel counts of rows, or of their `baseline`; classes are numbered in sorted order."""
    numbers = {class_id: number for number, class_id in enumerate(_class_order(rows))}
    table = [
        (numbers[row["class"]], *(row["baselines"][baseline] if baseline else _pixel_counts(row)))
        for row in rows
    ]
    return ClassCounts(*np.array(table, np.int64).reshape(-1, 3).T)


def _class_order(rows: Sequence[dict]) -> list[ClassId]:
    return sorted({row["class"] for row in rows}, key=str)


def _pixel_counts(row: dict) -> tuple[int, int]:
    return row["intersection"], row["union"]


def _fold_scores(
    rows: Sequence[dict], manifest: Manifest, protocol: Protocol, baseline: str | None
) -> dict[str, float]:
    counts = class_counts(rows, baseline)
    over_seen = metrics.mean_iou(counts)
    over_fold = metrics.fold_mean_iou(counts, len(manifest.classes))
    scores = {
        "miou": over_fold if protocol.mean_over == "fold" else over_seen,
        "miou_fold_classes": over_fold,
        "miou_seen_classes": over_seen,
        "fb_iou": metrics.fb_iou(counts, np.array([row["pixels"] for row in rows])),
        "episode_iou": metrics.episode_iou(counts),
    }
    if baseline is None:
        edges = [row["boundary_iou"] for row in rows if row["boundary_iou"] is not None]
        scores["boundary_iou"] = 100 * float(np.mean(edges)) if edges else float("nan")
    return scores
