"""What is known about every class of a semantic benchmark: the features of its references, and its name's."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from segic_jax.data.preprocess import fitted_taps, resample, resize_and_pad
from segic_jax.data.semantic import SemanticSource, Split, draw_references
from segic_jax.errors import BundleError, DataError
from segic_jax.evaluate.semantic_metrics import unique_names
from segic_jax.inference.engine import Engine, padded_concepts
from segic_jax.models.segic import Prototypes
from segic_jax.runtime import distributed, progress
from segic_jax.runtime.atomic_write import atomic_write
from segic_jax.runtime.prefetch import prefetch_results
from segic_jax.weights.bundle import Bundle

REFERENCE_SEED = 0


@dataclass(frozen=True)
class Bank:
    """What is known about every class from its references."""

    split: Split
    pictures: dict[int, tuple[str, ...]]  # of each class; it may have none
    visual: Float[np.ndarray, "classes slots channels"]
    text: Float[np.ndarray, "classes text_width"]

    def slot(self, number: int, target: str, split: Split) -> int | None:
        """The class's first reference that is not the target itself; None where there is none."""
        for slot, picture in enumerate(self.pictures[number]):
            if split != self.split or picture != target:
                return slot
        return None

    def context(
        self, concepts: Sequence[int], target: str, split: Split
    ) -> tuple[tuple[int, ...], Prototypes]:
        """Those of the concepts that have a reference for this target, and the context of these."""
        slots = {concept: self.slot(concept, target, split) for concept in concepts}
        found = {concept: slot for concept, slot in slots.items() if slot is not None}
        count = padded_concepts(len(found))
        visual = np.zeros((1, count, 1, self.visual.shape[-1]), np.float32)
        text = np.zeros((1, count, self.text.shape[-1]), np.float32)
        for row, (concept, slot) in enumerate(found.items()):
            visual[0, row, 0], text[0, row] = self.visual[concept, slot], self.text[concept]
        valid = np.arange(count)[None, :, None] < len(found)
        return tuple(found), Prototypes(pooled=visual[:, :, 0], visual=visual, visual_valid=valid, text=text)

    def facts(self, names: Sequence[str]) -> dict:
        """For results."""
        labels = unique_names(names)
        content = json.dumps({str(number): of for number, of in self.pictures.items()})
        empty = [labels[c] for c, of in self.pictures.items() if of and not self.visual[c, 0].any()]
        return {
            "split": self.split,
            "sha256": hashlib.sha256(content.encode()).hexdigest(),
            "classes_without_reference": [labels[c] for c, of in self.pictures.items() if not of],
            "classes_with_empty_reference": empty,  # too small for the feature grid
        }


def text_features(
    bundle: Bundle, source: SemanticSource, class_names: bool | None
) -> tuple[Float[np.ndarray, "classes text_width"], bool]:
    """Of the classes' prompts, and whether these name the classes; None for yes if the model can.

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


def make_bank(engine: Engine, source: SemanticSource, split: Split, text: np.ndarray, out: Path) -> Bank:
    """Draw the references, once for a folder, and encode them, on every host."""
    source.image_names(split)  # raises where there is no such split
    path = out / "references.json"
    try:
        drawn = {int(number): tuple(of) for number, of in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError):  # not there yet, or damaged: draw again
        drawn = draw_references(source, split, 2 if split == "val" else 1, seed=REFERENCE_SEED)
        if distributed.is_main_host():
            atomic_write(path, (json.dumps(drawn) + "\n").encode())
    views = [(number, slot) for number, of in drawn.items() for slot in range(len(of))]
    if not views:
        raise DataError(f"The {split} split of {source.name} shows no class at all: get its labels again.")

    def encode(view: tuple[int, int]) -> np.ndarray:
        number, slot = view
        shown = source.load(split, drawn[number][slot])
        if number not in shown.classes:
            raise DataError(f"{path} does not fit the data, which have changed: delete {out}.")
        return pool_softly(engine, shown.image, shown.masks[shown.classes.index(number)])

    visual = np.zeros((len(drawn), max(map(len, drawn.values())), engine.config.vit.width), np.float32)
    threads = 2 * len(engine.devices)
    features = prefetch_results(encode, views, threads=threads, limit=2 * threads - 1)
    bar = progress.bar(features, total=len(views), desc="references", enabled=distributed.is_main_host())
    for view, feature in zip(views, bar, strict=True):
        visual[view] = feature
    return Bank(split, drawn, visual, text)


def pool_softly(
    engine: Engine, image: UInt8[np.ndarray, "height width 3"], mask: Bool[np.ndarray, "height width"]
) -> Float[np.ndarray, " channels"]:
    """Pool a reference inside its mask as soft as resizing leaves it (segic.py:996-998)."""
    canvas = engine.config.canvas
    placed = resize_and_pad(image, mask[None][:0], canvas)
    soft = np.zeros((1, 1, canvas, canvas), np.float32)
    rows, columns = placed.size
    height, width = mask.shape
    soft[0, 0, :rows, :columns] = resample(mask, *fitted_taps(height, width, canvas))
    return np.asarray(engine.pool(engine.features([placed], 1), soft))[0, 0]
