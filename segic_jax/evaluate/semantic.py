"""Evaluate semantic segmentation: every class is a concept with a reference image.

The official `evaluate_semseg` of train.py decodes the classes that the truth has ("present", an oracle) and
thresholds each independently; here all classes can be decoded ("all"), and the largest logit can decide
("argmax", background where none is above 0).

<out>/references.json              the images that show each class, drawn once
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from segic_jax.config import Precision
from segic_jax.data.benchmark_spec import BenchmarkSpec
from segic_jax.data.preprocess import resize_and_pad
from segic_jax.data.semantic import SemanticSource, Split
from segic_jax.errors import BundleError, ConfigError
from segic_jax.evaluate import metrics, report
from segic_jax.evaluate.metrics import ClassCounts, RunningMeanIoU
from segic_jax.evaluate.runner import defects_note, list_defects, list_hash, to_json
from segic_jax.evaluate.semantic_bank import REFERENCE_SEED, ReferenceBank, make_bank
from segic_jax.evaluate.semantic_scores import Merge, image_iou, score_image
from segic_jax.inference.engine import Engine
from segic_jax.models.encoding import Prototypes
from segic_jax.runtime.prefetch import prefetch_results
from segic_jax.weights.bundle import Bundle

Classes = Literal["present", "all"]


class SemanticEvaluation:
    """Evaluate the validation images of a benchmark; see `runner.Evaluation`."""

    unit = "image"
    score_name = "mIoU"

    def __init__(
        self,
        bundle: Bundle,
        benchmark: BenchmarkSpec,
        source: SemanticSource,
        *,
        classes: Classes = "present",
        merge: Merge = "independent",
        bank: Split = "train",
        class_names: bool | None = None,
        batch_size: int = 16,
        precision: Precision = "auto",
    ):
        """List the images and encode the prompts.

        Args:
            classes: which are decoded on an image: those that the truth has, or all.
            merge: whether each class is thresholded by itself, or the largest logit decides.
            bank: the split that references are drawn from (`draw_references` with seed 0). In "val" a
                class has two, and an image is never its own reference. The official references are images
                made by Stable Diffusion, which are not distributed.
            class_names: whether the prompts name the classes; None for yes if the model can encode them.
            batch_size: images in work at a time; results do not depend on it.
            precision: of the backbone; see `inference.engine.Engine`.

        Raises:
            ConfigError: `batch_size` below 1.
            DataError: the data are missing.
            BundleError: `class_names` is True, and the model cannot encode them.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size} must be at least 1.")
        self.bundle, self.benchmark = bundle, benchmark
        self._source, self._classes, self._merge, self._split = source, classes, merge, bank
        self._batch_size = batch_size
        self._text, self._names_given = encode_class_prompts(bundle, source, class_names)
        self._images = source.image_names("val")
        self._engine = Engine(bundle, precision=precision)
        self._bank: ReferenceBank | None = None

    def __len__(self) -> int:
        """Return the number of images in the list."""
        return len(self._images)

    def identity(self) -> dict:
        """Return everything the rows depend on besides benchmark, model and version."""
        return {
            "protocol": self._protocol(),
            "class_names_given": self._names_given,
            "images": list_hash(self._images),
            "precision": self._engine.precision,
        }

    def settings(self) -> dict:
        """Return the first entries of the result."""
        return {
            "protocol": self._protocol(),
            "class_names_given": self._names_given,
            "precision": self._engine.precision,
        }

    def _protocol(self) -> dict:
        return {
            "name": "semseg",
            "classes": self._classes,
            "merge": self._merge,
            "bank": self._split,
            "prediction": "logits, resized bilinearly to the image, above 0",
            "canvas": "float32",
            "source": "SegIC train.py, evaluate_semseg",
        }

    def prepare(self, indices: Sequence[int], out: Path) -> None:
        """Encode the references of all classes; every host does."""
        self._bank = make_bank(self._engine, self._source, self._split, self._text, out)

    @property
    def _references(self) -> ReferenceBank:
        assert self._bank is not None, "prepare() comes first"
        return self._bank

    def rows(self, indices: Sequence[int], out: Path) -> Iterator[dict]:
        """Yield the pixel counts of the classes on each image."""
        threads = self._batch_size
        return prefetch_results(self._row, indices, threads=threads, limit=2 * threads - 1)

    def _row(self, index: int) -> dict:
        """Segment an image and count the pixels of each class."""
        name = self._images[index]
        image = self._source.load("val", name)
        classes = range(len(self._source.classes)) if self._classes == "all" else image.classes
        decoded, prototypes = self._references.prototypes(classes, name, "val")
        counts = score_image(image, decoded, class_logits(self._engine, image.image, prototypes), self._merge)
        return {
            "index": index,
            "image": name,
            "iou": image_iou(counts),
            "classes": {str(number): [*pixels] for number, pixels in counts.items()},
            **({"notes": [image.note]} if image.note else {}),
        }

    def running_score(self) -> Callable[[dict], float]:
        """Return a function that takes each row and returns the mIoU so far, in per cent."""
        running = RunningMeanIoU()

        def score(row: dict) -> float:
            for number, (intersection, union, _, truth) in row["classes"].items():
                running.add(number, intersection, union, truth)
            return running.value

        return score

    def summarise(self, rows: Sequence[dict]) -> dict:
        """Return counts, scores and notes of the result."""
        names, bank = self._source.classes, self._references
        defects = list_defects(rows, bank.defects)
        counts, official = class_counts(rows), class_counts(rows, everywhere=True)
        labels = unique_names(names)
        class_iou = {labels[number]: 100 * iou for number, iou in metrics.class_iou(counts).items()}
        interval = metrics.bootstrap_interval((len(rows), partial(metrics.mean_iou, counts)))
        return {
            "manifest": {"sha256": list_hash(self._images)},
            "images": len(rows),
            "images_in_list": len(self._images),
            "classes": len(names),
            "classes_seen": len(class_iou),
            "scores": {
                "miou": metrics.mean_iou(counts),
                "interval_95": list(interval),
                "miou_official": metrics.mean_iou(official),
            },
            "class_iou": to_json(class_iou),
            "bank": bank.describe(labels),
            "defects": defects,
            "notes": [*self._notes(bank), *defects_note(defects)],
        }

    def _notes(self, bank: ReferenceBank) -> list[str]:
        notes = [
            "miou leaves ignored pixels out; miou_official counts predictions there as wrong, as the "
            "official code does. Both are means over the classes that the truth has, each from pixels summed "
            "over all images.",
            f"One reference for each class, drawn from the {bank.split} split with seed {REFERENCE_SEED}; "
            "the official references are generated images that are not distributed.",
        ]
        if bank.split == "val":
            notes.append(
                "An image that is a class's reference is decoded with the class's second one; where there is "
                "none, the class predicts nothing (the official code decodes zeros)."
            )
        if self._classes == "present":
            notes.append(
                "Only the classes that the truth has are decoded (oracle presence, as in the official code): "
                "do not compare with segmenters that choose among all classes."
            )
        if self._merge == "independent":
            notes.append("Each class is thresholded independently: a pixel may belong to several.")
        if not all(bank.images.values()):
            notes.append("A class without a reference predicts nothing, and its truth counts.")
        return notes

    def files(self, result: dict, rows: Sequence[dict], out: Path) -> Iterator[tuple[str, bytes]]:
        """Yield per_class.csv and report.html."""
        sums = np.zeros((len(self._source.classes), 4), np.int64)
        for row in rows:
            for number, pixels in row["classes"].items():
                sums[int(number)] += pixels
        header = ["class", "name", "iou", "intersection", "union", "union_everywhere", "truth"]
        table = []
        for number, (name, pixels) in enumerate(zip(self._source.classes, sums.tolist(), strict=True)):
            intersection, union, _, truth = pixels
            iou = 100 * (intersection / max(union, 1)) if truth else ""
            table.append([number, name, iou, *pixels])
        yield "per_class.csv", report.to_csv(header, table)
        ious = [row["iou"] for row in rows]
        yield "report.html", report.render("semantic.html.j2", result, result["class_iou"].items(), ious)

    def table(self, result: dict) -> str:
        """Return the scores as aligned lines for a terminal."""
        protocol, scores = result["protocol"], result["scores"]
        low, high = scores["interval_95"]
        lines = [
            f"{result['benchmark']}: {result['images']} images, {result['classes_seen']} of "
            f"{result['classes']} classes seen, mIoU in per cent",
            f"  decoded: {protocol['classes']}; merge: {protocol['merge']}; references: {protocol['bank']}; "
            f"class names {'given' if result['class_names_given'] else 'not given'}",
            f"  mIoU {scores['miou']:.2f}   95 % interval {low:.1f} - {high:.1f}",
            f"  as the official code counts ignored pixels {scores['miou_official']:.2f}",
        ]
        return "\n".join([*lines, *(f"  {note}" for note in result["notes"])])


def encode_class_prompts(
    bundle: Bundle, source: SemanticSource, class_names: bool | None
) -> tuple[Float[np.ndarray, "classes text_width"], bool]:
    """Return text features of the classes' prompts, and whether these name the classes.

    Raises:
        BundleError: `class_names` is True, and the model cannot encode them.
    """
    if class_names is not False:
        try:
            return bundle.text_features(source.classes), True
        except BundleError:
            if class_names:
                raise
    return bundle.text_features([""] * len(source.classes)), False


def class_logits(
    engine: Engine, image: UInt8[np.ndarray, "height width 3"], prototypes: Prototypes
) -> Iterator[Float[np.ndarray, "valid_height valid_width"]]:
    """Yield the logits of each valid concept on the part of the canvas that has the image."""
    count = int(np.asarray(prototypes.valid).sum())
    if not count:
        return
    no_masks = np.zeros((0, *image.shape[:2]), bool)
    placed = resize_and_pad(image, no_masks, engine.config.canvas, rounded=False)
    height, width = placed.size
    for logits in engine.decode_each(engine.features([placed], 1), prototypes, count):
        yield logits[:height, :width]


def class_counts(rows: Sequence[dict], *, everywhere: bool = False) -> ClassCounts:
    """Return the pixel counts of rows.

    Args:
        everywhere: count predictions on ignored pixels as wrong, as the official code does.
    """
    entries = [
        (int(number), intersection, union_everywhere if everywhere else union, truth, item)
        for item, row in enumerate(rows)
        for number, (intersection, union, union_everywhere, truth) in row["classes"].items()
    ]
    return ClassCounts(*np.array(entries, np.int64).reshape(-1, 5).T)


def unique_names(names: Sequence[str]) -> list[str]:
    """Add their numbers to names that several classes share."""
    return [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names)]
