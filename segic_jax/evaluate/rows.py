"""From an answer to its row, a line of episodes.jsonl; from rows to all the scores of a result."""

from collections.abc import Mapping, Sequence

import numpy as np

from segic_jax.data.episodes import ClassId
from segic_jax.data.manifest import EpisodeSource, Manifest
from segic_jax.errors import DataError
from segic_jax.evaluate import metrics
from segic_jax.evaluate.baselines import copy_mask
from segic_jax.evaluate.infer import Prediction, to_own_size
from segic_jax.evaluate.metrics import EpisodeCounts
from segic_jax.evaluate.protocols import Protocol, nearest
from segic_jax.evaluate.records import percent


def row_of(
    answer: Prediction, protocol: Protocol, threshold: float | None = None, baselines: bool = False
) -> dict:
    """What is kept of an answer: a line of episodes.jsonl.

    `iou` and `boundary_iou` are 0..1, None where neither side has a pixel.
    """
    episode = answer.task.episode
    truth, ignored = truth_of(answer, protocol)
    found = {name: mask_of(answer, values, truth.shape) for name, values in answer.logits.items()}
    if threshold is not None and answer.similarity is not None:
        found["cosine"] = mask_of(answer, answer.similarity, truth.shape, threshold)
    if baselines and answer.reference is not None:
        found["copy"] = copy_mask(answer.reference.mask, truth.shape)
    if ignored is not None:
        found = {name: mask & ~ignored for name, mask in found.items()}
    sums = {name: metrics.intersection_union(mask, truth) for name, mask in found.items()}
    edges = metrics.intersection_union(metrics.boundary(found["segic"]), metrics.boundary(truth))
    intersection, union = sums.pop("segic")
    row: dict = {
        "index": answer.task.index,
        "fold": answer.task.fold,
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
    if sums:
        row["baselines"] = {name: list(sums[name]) for name in sorted(sums)}
    return row


def truth_of(answer: Prediction, protocol: Protocol) -> tuple[np.ndarray, np.ndarray | None]:
    """The true mask without ignored pixels, and those, at the protocol's size."""
    truth, ignored = answer.shown.mask, answer.shown.ignored
    if protocol.size is not None:
        truth = nearest(truth, protocol.size)
        ignored = None if ignored is None else nearest(ignored, protocol.size)
    return (truth, None) if ignored is None else (truth & ~ignored, ignored)


def mask_of(
    answer: Prediction, values: np.ndarray, shape: tuple[int, int], threshold: float = 0.0
) -> np.ndarray:
    """Values on the canvas -> a mask of `shape`, above the threshold."""
    return to_own_size(values, answer.size, shape) > threshold


def counts_of(rows: Sequence[dict], baseline: str | None = None) -> EpisodeCounts:
    """Rows as arrays; classes are numbered in the order of their ids."""
    numbers = {c: i for i, c in enumerate(sorted({row["class"] for row in rows}, key=str))}
    sums = [row["baselines"][baseline] if baseline else (row["intersection"], row["union"]) for row in rows]
    table = [(numbers[row["class"]], *pair, row["pixels"]) for row, pair in zip(rows, sums, strict=True)]
    return EpisodeCounts(*np.array(table, np.int64).reshape(-1, 4).T)


def summary(
    rows: Sequence[dict],
    manifests: Sequence[Manifest],
    protocol: Protocol,
    labels: Mapping[tuple[int, ClassId], str],
) -> dict:
    """`scores`, `fold_scores`, `class_iou` and `baselines` of a result, in per cent."""
    folds = {
        manifest: part
        for manifest in manifests
        if (part := [row for row in rows if row["fold"] == manifest.fold])
    }

    def scores(name: str | None) -> dict:
        single = [_fold_scores(part, manifest, protocol, name) for manifest, part in folds.items()]
        means = {key: float(np.mean([one[key] for one in single])) for key in single[0]}  # NaN stays NaN
        interval = metrics.bootstrap_interval([counts_of(part, name) for part in folds.values()])
        return _rounded(means) | {"interval_95": [round(end, 2) for end in interval]}

    class_iou = {}
    for manifest, part in folds.items():
        values = metrics.class_iou(counts_of(part))
        ids = sorted({row["class"] for row in part}, key=str)
        for number, value in values.items():
            label = labels.get((manifest.fold, ids[number]), str(ids[number]))
            class_iou[label] = percent(value)
    names = sorted({name for row in rows for name in row.get("baselines", {})})
    return {
        "scores": scores(None),
        "fold_scores": {
            str(manifest.fold): _rounded(_fold_scores(part, manifest, protocol, None))
            for manifest, part in folds.items()
        },
        "class_iou": class_iou,
        "baselines": {name: scores(name) for name in names},
    }


def _fold_scores(
    rows: Sequence[dict], manifest: Manifest, protocol: Protocol, baseline: str | None
) -> dict[str, float]:
    counts = counts_of(rows, baseline)
    seen = metrics.mean_iou(counts)
    whole = metrics.fold_mean_iou(counts, len(manifest.classes))
    scores = {
        "miou": whole if protocol.mean_over == "fold" else seen,
        "miou_fold_classes": whole,
        "miou_seen_classes": seen,
        "fb_iou": metrics.fb_iou(counts),
        "episode_iou": metrics.episode_iou(counts),
    }
    if baseline is None:
        edges = [row["boundary_iou"] for row in rows if row["boundary_iou"] is not None]
        scores["boundary_iou"] = 100 * float(np.mean(edges)) if edges else float("nan")
    return scores


def _rounded(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else round(value, 2) for name, value in scores.items()}


def class_labels(source: EpisodeSource, rows: Sequence[dict]) -> dict[tuple[int, ClassId], str]:
    """Names for people, with the id beside it where two classes share one; the ids where there are none."""
    labels: dict[tuple[int, ClassId], str] = {}
    for fold, class_id in dict.fromkeys((row["fold"], row["class"]) for row in rows):
        try:
            label = source.class_name(class_id)
        except DataError:
            label = str(class_id)
        labels[fold, class_id] = f"{label} ({class_id})" if label in labels.values() else label
    return labels
