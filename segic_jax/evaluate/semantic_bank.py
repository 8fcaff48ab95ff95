"""Draw and encode the references that show each class of a semantic benchmark."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from segic_jax.data.preprocess import fitted_taps, resample, resize_and_pad
from segic_jax.data.semantic import SemanticSource, Split, draw_references
from segic_jax.errors import DataError
from segic_jax.inference.engine import Engine, padded_concepts
from segic_jax.models.encoding import Prototypes
from segic_jax.runtime import distributed, progress
from segic_jax.runtime.atomic_write import atomic_write
from segic_jax.runtime.prefetch import prefetch_results

REFERENCE_SEED = 0


@dataclass(frozen=True)
class ReferenceBank:
    """Hold the encoded references and prompts of all classes."""

    split: Split
    images: dict[int, tuple[str, ...]]  # references of each class; it may have none
    visual: Float[np.ndarray, "classes slots channels"]
    text: Float[np.ndarray, "classes text_width"]
    defects: tuple[str, ...] = ()  # how defects of the references' files were handled

    def slot(self, number: int, target: str, split: Split) -> int | None:
        """Return the class's first reference that is not the target itself; None where there is none."""
        for slot, image in enumerate(self.images[number]):
            if split != self.split or image != target:
                return slot
        return None

    def prototypes(
        self, classes: Sequence[int], target: str, split: Split
    ) -> tuple[tuple[int, ...], Prototypes]:
        """Return those of the classes that have a reference for this target, and their prototypes.

        These are padded to the engine's number of concepts.
        """
        slots = {number: self.slot(number, target, split) for number in classes}
        available = {number: slot for number, slot in slots.items() if slot is not None}
        count = padded_concepts(len(available))
        visual = np.zeros((1, count, 1, self.visual.shape[-1]), np.float32)
        text = np.zeros((1, count, self.text.shape[-1]), np.float32)
        for row, (number, slot) in enumerate(available.items()):
            visual[0, row, 0], text[0, row] = self.visual[number, slot], self.text[number]
        valid = np.arange(count)[None, :, None] < len(available)
        prototypes = Prototypes(pooled=visual[:, :, 0], visual=visual, visual_valid=valid, text=text)
        return tuple(available), prototypes

    def describe(self, labels: Sequence[str]) -> dict:
        """Return the entry of a result.

        Args:
            labels: of the classes, all different.
        """
        content = json.dumps({str(number): names for number, names in self.images.items()})
        empty = [n for n, names in self.images.items() if names and not self.visual[n, 0].any()]
        return {
            "split": self.split,
            "sha256": hashlib.sha256(content.encode()).hexdigest(),
            "classes_without_reference": [labels[n] for n, names in self.images.items() if not names],
            "classes_with_empty_reference": [labels[n] for n in empty],  # too small for the patch grid
        }


def make_bank(
    engine: Engine,
    source: SemanticSource,
    split: Split,
    text: Float[np.ndarray, "classes text_width"],
    out: Path,
) -> ReferenceBank:
    """Draw the references, once for each `out`, and encode them, on every host.

    Raises:
        DataError: there is no such split, it shows no class, or it has changed since the draw.
    """
    source.image_names(split)  # raises where there is no such split
    path = out / "references.json"
    try:
        drawn = {int(number): tuple(names) for number, names in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError):  # missing or damaged: draw again
        drawn = draw_references(source, split, 2 if split == "val" else 1, seed=REFERENCE_SEED)
        if distributed.is_main_host():
            atomic_write(path, (json.dumps(drawn) + "\n").encode())
    places = [(number, slot) for number, names in drawn.items() for slot in range(len(names))]
    if not places:
        raise DataError(f"The {split} split of {source.name} shows no class at all: get its labels again.")

    defects: dict[tuple[int, int], str] = {}

    def encode(place: tuple[int, int]) -> Float[np.ndarray, " channels"]:
        number, slot = place
        image = source.load(split, drawn[number][slot])
        if number not in image.classes:
            raise DataError(f"{path} does not fit the data, which have changed: delete {out}.")
        if image.note:
            defects[place] = image.note
        return pool_soft_mask(engine, image.image, image.masks[image.classes.index(number)])

    visual = np.zeros((len(drawn), max(map(len, drawn.values())), engine.config.backbone.width), np.float32)
    threads = 2 * len(engine.devices)
    features = prefetch_results(encode, places, threads=threads, limit=2 * threads - 1)
    bar = progress.bar(features, total=len(places), desc="references", enabled=distributed.is_main_host())
    for place, feature in zip(places, bar, strict=True):
        visual[place] = feature
    return ReferenceBank(split, drawn, visual, text, tuple(note for _, note in sorted(defects.items())))


def pool_soft_mask(
    engine: Engine, image: UInt8[np.ndarray, "height width 3"], mask: Bool[np.ndarray, "height width"]
) -> Float[np.ndarray, " channels"]:
    """Pool a reference with its mask as soft as resizing leaves it (segic.py:996-998)."""
    canvas = engine.config.canvas
    placed = resize_and_pad(image, mask[None][:0], canvas, rounded=False)
    soft = np.zeros((1, 1, canvas, canvas), np.float32)
    rows, columns = placed.size
    height, width = mask.shape
    soft[0, 0, :rows, :columns] = resample(mask, *fitted_taps(height, width, canvas))
    return np.asarray(engine.pool(engine.features([placed], 1), soft))[0, 0]
