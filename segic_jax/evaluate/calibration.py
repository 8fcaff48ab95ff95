"""Fit what the notes of a model file hold: the calibration of presence and the similarity threshold.

Presence is asked about scenes of two to four emoji: of eight classes, those that are not in the scene are
absent. The classes were in no training: a calibration is fitted on the validation split and measured on the
novel one. In a folder of images by class, the class of an image is present and all others are absent; a
question about a class is measured with a fit on the images of other classes and questions about these.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize
from scipy.stats import rankdata

from segic_jax.config import Method
from segic_jax.data.emoji.scenes import scene
from segic_jax.data.emoji.source import EmojiSource
from segic_jax.data.emoji.sprites import Split
from segic_jax.data.episodes import ClassId, EpisodeSource, Manifest, View
from segic_jax.data.sources.folder import FolderSource
from segic_jax.errors import DataError
from segic_jax.evaluate.episode_stream import Prediction, predict_episodes
from segic_jax.evaluate.episode_tasks import make_tasks
from segic_jax.evaluate.protocols import similarity_on_image
from segic_jax.evaluate.runner import spread
from segic_jax.inference.context import Context
from segic_jax.inference.engine import Engine
from segic_jax.inference.example import Example
from segic_jax.inference.presence import EVIDENCE, NOTE, Calibration
from segic_jax.inference.segmenter import Segmenter
from segic_jax.weights.bundle import Bundle, read_weights, write_weights

CLASSES_PER_SCENE = 8  # that presence is asked about
LEAST_VISIBLE = 0.005  # share of the scene from which on an object counts as present
LEAST_CLASSES = 4  # of a folder: a fit on half of them has a present and an absent class
FOLDS = 4  # of the classes of a folder, if there are twice as many classes
RECALL = 0.95  # share of the present classes that the threshold must keep
# What presence is fitted on. With more than the similarity, training-free masks had a lower AUROC on classes
# that the fit did not see.
EVIDENCE_OF: dict[Method, tuple[str, ...]] = {"segic": EVIDENCE, "training_free": ("similarity",)}
THRESHOLDS = np.arange(-0.5, 1.0, 0.01)  # of the similarity map


class PresenceSamples(NamedTuple):
    """Hold one row for each class that was asked about on a scene."""

    evidence: Float[np.ndarray, "samples evidence"]
    present: Bool[np.ndarray, " samples"]


class FolderSamples(NamedTuple):
    """Hold the answers about the images of a folder, with the number of the class asked about and shown."""

    samples: PresenceSamples
    asked: Int[np.ndarray, " samples"]
    shown: Int[np.ndarray, " samples"]

    def about(self, fold: int, folds: int) -> PresenceSamples:
        """Return the questions about the classes of a fold, on all images."""
        return self._select(self.asked % folds == fold)

    def without(self, fold: int, folds: int) -> PresenceSamples:
        """Return the questions that have to do with other classes alone."""
        return self._select((self.asked % folds != fold) & (self.shown % folds != fold))

    def _select(self, rows: Bool[np.ndarray, " samples"]) -> PresenceSamples:
        return PresenceSamples(self.samples.evidence[rows], self.samples.present[rows])


def calibrate_on_emoji(
    segmenter: Segmenter, scenes: int, shots: Sequence[int], report: Callable[[str], object]
) -> Calibration:
    """Fit on validation classes of emoji and report the measures on novel ones, rows of a table."""
    parts = [collect_samples(segmenter, "validation", scenes, count) for count in shots]
    calibration = _fit_for(segmenter, _join(parts))
    for count in shots:
        _report(f"{count}", [(calibration, collect_samples(segmenter, "novel", scenes, count))], report)
    return calibration


def calibrate_on_folders(
    segmenter: Segmenter,
    sources: Sequence[FolderSource],
    shots: Sequence[int],
    report: Callable[[str], object],
    images: int | None = None,
) -> Calibration:
    """Fit on the images of the folders, and report how well fits without a class answer questions about it.

    Args:
        images: of each folder, spread evenly over it; all if None.

    Raises:
        DataError: a folder has fewer than four classes of two images.
    """
    answers = {}
    for source in sources:
        for count in shots:
            if sum(len(images) > count for images in source.image_names.values()) >= LEAST_CLASSES:
                answers[source, count] = collect_folder_samples(segmenter, source, count, images)
        if (source, shots[0]) not in answers:
            raise DataError(
                f"{source.root}: presence is calibrated on {LEAST_CLASSES} classes or more, with at least "
                f"{shots[0] + 1} images each."
            )
    parts = list(answers.values())
    fits = _fold_fits(parts, EVIDENCE_OF[segmenter.method])
    for (source, count), part in answers.items():
        measured = [(fit, part.about(fold, len(fits))) for fold, fit in enumerate(fits)]
        _report(f"{count}, {source.root.name}", measured, report)
    return _fit_for(segmenter, _join([part.samples for part in parts]))


def _fold_fits(parts: Sequence[FolderSamples], evidence: Sequence[str]) -> list[Calibration]:
    """Fit without the classes of each fold; fit number i may answer `part.about(i, number of fits)`."""
    folds = min(FOLDS, *(int(part.shown.max() + 1) // 2 for part in parts))
    return [
        fit_calibration(_join([part.without(fold, folds) for part in parts]), evidence)
        for fold in range(folds)
    ]


def _fit_for(segmenter: Segmenter, samples: PresenceSamples) -> Calibration:
    """Fit the calibration that the segmenter's method would read."""
    fitted = fit_calibration(samples, EVIDENCE_OF[segmenter.method])
    return dataclasses.replace(fitted, settings=segmenter.engine.method_settings())


def _join(parts: Sequence[PresenceSamples]) -> PresenceSamples:
    """Put samples one after the other."""
    return PresenceSamples(*map(np.concatenate, zip(*parts, strict=True)))


def _report(
    shots: str, parts: Sequence[tuple[Calibration, PresenceSamples]], report: Callable[[str], object]
) -> None:
    """Report the measures of samples by the similarity alone, and by calibrations fitted elsewhere."""
    present = np.concatenate([samples.present for _, samples in parts])
    similarity = np.concatenate([samples.evidence[:, EVIDENCE.index("similarity")] for _, samples in parts])
    presence = np.concatenate([fit.presence(samples.evidence) for fit, samples in parts])
    kept = np.concatenate([fit.presence(samples.evidence) >= fit.least for fit, samples in parts])
    measures = {"AUROC": auroc, f"false masks at {100 * RECALL:.0f} % recall": false_positive_rate}
    for name, measure in measures.items():
        values = (measure(score, present) for score in (similarity, presence))
        report(f"| {shots} | {name} | {' | '.join(f'{value:.3f}' for value in values)} |")
    recall, false_masks = kept[present].mean(), kept[~present].mean()
    report(f"| {shots} | recall, false masks at the saved threshold | | {recall:.3f}, {false_masks:.3f} |")


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


def collect_folder_samples(
    segmenter: Segmenter, source: FolderSource, shots: int, images: int | None = None
) -> FolderSamples:
    """Ask about every class of a folder on its images, fitted from the images that follow in the class.

    With a number of `images`, so many are taken, spread evenly over the folder.

    Classes of too few images are not asked about. Objects of other classes that an image shows without a
    mask count as absent.
    """
    numbers = {name: number for number, name in enumerate(source.image_names)}
    classes = [name for name, images in source.image_names.items() if len(images) > shots]
    fit = cache(partial(_fit_folder_class, segmenter, source, shots=shots))
    evidence, asked, shown = [], [], []
    listed = [(name, *item) for name, files in source.image_names.items() for item in enumerate(files)]
    for name, number, image in spread(listed, images):
        context = fit(classes[0], number % len(source.image_names[classes[0]]))
        for other in classes[1:]:
            context = context + fit(other, number % len(source.image_names[other]))
        evidence.append(segmenter.predict(source.load(View(image, name)).image, context).evidence)
        asked += [numbers[other] for other in classes]
        shown += [numbers[name]] * len(classes)
    present = np.equal(asked, shown)
    return FolderSamples(PresenceSamples(np.concatenate(evidence), present), np.array(asked), np.array(shown))


def _fit_folder_class(
    segmenter: Segmenter, source: FolderSource, name: str, number: int, *, shots: int
) -> Context:
    images = source.image_names[name]
    views = [source.load(View(images[(number + step) % len(images)], name)) for step in range(1, shots + 1)]
    return segmenter.fit([Example(view.image, view.mask, name=name) for view in views])


def fit_class(segmenter: Segmenter, source: EmojiSource, name: str, shots: int) -> Context:
    """Return a Context of one class from its first scenes."""
    views = [source.load(View(str(number), name)) for number in range(1, shots + 1)]
    return segmenter.fit([Example(view.image, view.mask, name=name) for view in views])


def fit_calibration(samples: PresenceSamples, evidence: Sequence[str] = EVIDENCE) -> Calibration:
    """Fit a logistic regression that weighs present and absent equally; its threshold keeps RECALL.

    Args:
        evidence: what it reads; other weights are 0.

    Raises:
        DataError: no class is present, or none is absent.
    """
    if samples.present.all() or not samples.present.any():
        raise DataError("Presence needs questions about present and absent classes: ask about more images.")
    mean, spread = samples.evidence.mean(0), samples.evidence.std(0) + 1e-6
    read = np.isin(EVIDENCE, evidence)
    inputs = np.column_stack([read * (samples.evidence - mean) / spread, np.ones(len(samples.present))])
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


def save_calibration(path: Path, calibration: Calibration, method: Method = "segic", **notes: float) -> None:
    """Write the calibration and other notes into a model file; its tensors stay as they are."""
    weights = read_weights(path)
    notes = weights.notes | {NOTE[method]: dataclasses.asdict(calibration)} | notes
    write_weights(path, dataclasses.replace(weights, notes=notes))


def tune_threshold(bundle: Bundle, *episodes: tuple[EpisodeSource, Manifest]) -> tuple[float, float]:
    """Return the threshold at which the similarity map alone scores best, and that mIoU in per cent.

    Use classes that are not evaluated later, and keep it in `bundle.notes["cosine_threshold"]`: the baseline
    "cosine" needs it.
    """

    def count(prediction: Prediction) -> tuple[ClassId, np.ndarray, np.ndarray]:
        return prediction.task.episode.class_id, *count_at_thresholds(prediction)

    engines = {"segic": Engine(bundle)}
    scores = []
    for source, manifest in episodes:
        rows = {name: row for row, name in enumerate(manifest.classes)}
        intersection, union = np.zeros((2, len(rows), len(THRESHOLDS)))
        tasks = make_tasks(bundle, source, [manifest])
        for name, shared, either in predict_episodes(engines, source, tasks, count, similarity=True):
            intersection[rows[name]] += shared
            union[rows[name]] += either
        scores.append(100 * (intersection / np.maximum(union, 1)).mean(0))
    scores = np.mean(scores, axis=0)
    best = int(scores.argmax())
    return round(float(THRESHOLDS[best]), 2), float(scores[best])


def count_at_thresholds(
    prediction: Prediction,
) -> tuple[Int[np.ndarray, " thresholds"], Int[np.ndarray, " thresholds"]]:
    """Return the intersection and the union of the similarity map cut at each of THRESHOLDS."""
    truth = prediction.target.mask
    similarity = similarity_on_image(prediction, truth.shape)
    inside, outside = _count_above(similarity[truth]), _count_above(similarity[~truth])
    return inside, truth.sum() + outside


def _count_above(values: Float[np.ndarray, " n"]) -> Int[np.ndarray, " thresholds"]:
    """Count the values above each threshold."""
    return len(values) - np.searchsorted(np.sort(values), THRESHOLDS, side="right")
