"""Score a model on an EpisodeSource: class-accumulated mIoU, its interval, and the baselines beside it.

Targets and masks are compared at the targets' own size, at logit > 0, as the official evaluation does
(train.py:443-460, utils/meter.py:19-42).
"""

import hashlib
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import flax
import jax
import jaxlib
import numpy as np

import segic_jax
from segic_jax.config import ConfigError
from segic_jax.data.episodes import DataError, Episode, EpisodeSource
from segic_jax.evaluate import metrics
from segic_jax.evaluate.baselines import copy_mask, exchanged, without_reference, wrong_references
from segic_jax.evaluate.infer import encode_references, target_maps
from segic_jax.evaluate.metrics import Counts
from segic_jax.evaluate.report import SheetRow
from segic_jax.weights.bundle import Bundle

PROTOCOL = (
    "mIoU: intersections and unions summed for each class, then the mean over classes; targets at their own "
    "size; logit > 0; interval: 1000 bootstrap draws of the episodes"
)


def evaluate(
    bundle: Bundle,
    source: EpisodeSource,
    *,
    batch_size: int = 16,
    limit: int | None = None,
    class_names: bool = False,
    baselines: bool = True,
    random_backbone: Bundle | None = None,
    sheet_rows: int = 10,
) -> tuple[dict, list[SheetRow]]:
    """The report (the content of result.json) and rows for the picture sheet.

    Args:
        limit: evaluate about every len / limit-th episode only.
        class_names: give the model the class names as text, where its table has them.
        baselines: also score what `evaluate.baselines` lists.
        random_backbone: a model trained over a frozen random backbone, scored as one more baseline.
        sheet_rows: how many episodes the sheet shows.

    Raises:
        ConfigError: `batch_size` or `limit` below 1.
        DataError: the source has no episodes, or a picture cannot be read.
        BundleError: `class_names` without text features for them.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise ConfigError(f"batch_size {batch_size} and limit {limit} must be at least 1.")
    begin = time.perf_counter()
    episodes = chosen_episodes(source, limit)
    shown = set(np.linspace(0, len(episodes) - 1, min(sheet_rows, len(episodes))).astype(int).tolist())
    context = encode_references(bundle, source, episodes, batch_size=batch_size, class_names=class_names)
    contexts, notes = {"segic": context}, []
    threshold = bundle.notes.get("cosine_threshold")
    if baselines:
        contexts["no_reference"] = without_reference(context)
        order = wrong_references(episodes)
        if order is None:
            notes.append("There is only one class, so no wrong reference to show.")
        else:
            contexts["wrong_reference"] = exchanged(context, order)
        if threshold is None:
            notes.append(f"{bundle.name} names no cosine threshold; that baseline is left out.")

    tallies: dict[str, Tally] = {}
    rows = []
    for maps in target_maps(bundle, source, episodes, contexts, batch_size=batch_size):
        episode = episodes[maps.index]
        masks = {name: logits > 0 for name, logits in maps.logits.items()}
        if baselines and threshold is not None:
            masks["cosine"] = maps.cosine > threshold
        if baselines or maps.index in shown:
            reference, reference_mask = source.load(episode.references[0])
        if baselines:
            masks["copy"] = copy_mask(reference_mask, maps.truth.shape)
        for name, mask in masks.items():
            tallies.setdefault(name, Tally()).add(episode, mask, maps.truth)
        if maps.index in shown:
            iou = metrics.mask_iou(masks["segic"], maps.truth)
            rows.append(
                SheetRow(
                    title=episode.class_name,
                    reference=reference,
                    reference_mask=reference_mask,
                    target=maps.image,
                    cosine=maps.cosine,
                    prediction=masks["segic"],
                    truth=maps.truth,
                    iou=iou,
                )
            )
    if baselines and random_backbone is None:
        notes.append("No model over a random backbone was given; that baseline is left out.")
    elif baselines:
        tallies["random_backbone"] = _segic_only(random_backbone, source, episodes, batch_size, class_names)

    scores = {name: tally.scores() for name, tally in tallies.items()}
    report = {
        "benchmark": source.name,
        "protocol": PROTOCOL,
        "shots": max(len(episode.references) for episode in episodes),
        "episodes": len(episodes),
        "episodes_sha256": episodes_hash(episodes),
        "classes": len({episode.class_name for episode in episodes}),
        "class_names_given": class_names,
        "scores": scores.pop("segic"),
        "class_iou": tallies["segic"].class_iou(),
        "baselines": {name: scores[name] for name in sorted(scores)},
        "cosine_threshold": threshold,
        "notes": notes,
        "model": {"file": bundle.name, "sha256": _file_hash(bundle.path), "notes": bundle.notes},
        "seconds": round(time.perf_counter() - begin, 1),
        "versions": _versions(),
    }
    return report, rows


class Tally:
    """Sums of one method over the episodes."""

    def __init__(self):
        self._classes: dict[str, int] = {}
        self._rows: list[tuple[int, int, int, int]] = []

    def add(self, episode: Episode, mask: np.ndarray, truth: np.ndarray) -> None:
        """Count one target."""
        number = self._classes.setdefault(episode.class_name, len(self._classes))
        self._rows.append((number, *metrics.intersection_union(mask, truth), truth.size))

    def counts(self) -> Counts:
        """Everything so far."""
        return Counts(*np.array(self._rows, np.int64).T)

    def scores(self) -> dict:
        """In per cent, rounded to hundredths."""
        counts = self.counts()
        return {
            "miou": round(metrics.mean_iou(counts), 2),
            "interval_95": [round(end, 2) for end in metrics.bootstrap_interval(counts)],
            "fb_iou": round(metrics.fb_iou(counts), 2),
            "episode_iou": round(metrics.episode_iou(counts), 2),
        }

    def class_iou(self) -> dict[str, float]:
        """By class name, in per cent."""
        values = metrics.class_iou(self.counts())
        return {name: round(100 * values[number], 2) for name, number in sorted(self._classes.items())}


def _segic_only(
    bundle: Bundle, source: EpisodeSource, episodes: Sequence[Episode], batch_size: int, class_names: bool
) -> Tally:
    context = encode_references(bundle, source, episodes, batch_size=batch_size, class_names=class_names)
    tally = Tally()
    for maps in target_maps(bundle, source, episodes, {"segic": context}, batch_size=batch_size):
        tally.add(episodes[maps.index], maps.logits["segic"] > 0, maps.truth)
    return tally


def chosen_episodes(source: EpisodeSource, limit: int | None) -> list[Episode]:
    """All episodes, or `limit` of them spread evenly over the list."""
    episodes = list(source.episodes)
    if not episodes:
        raise DataError(f"{source.name} has no episodes.")
    if not all(episode.references for episode in episodes):
        raise DataError(f"{source.name} has episodes without a reference; give it at least one shot.")
    if limit is None or limit >= len(episodes):
        return episodes
    return [episodes[i * len(episodes) // limit] for i in range(limit)]


def episodes_hash(episodes: Sequence[Episode]) -> str:
    """SHA-256 of the list as JSON: [[class, target, [references]], ...]."""
    rows = [[episode.class_name, episode.target, list(episode.references)] for episode in episodes]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _file_hash(path: Path | None) -> str | None:
    if path is None:
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _versions() -> dict[str, str]:
    return {
        "segic_jax": segic_jax.__version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "flax": flax.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
    }
