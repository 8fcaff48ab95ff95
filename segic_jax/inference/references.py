"""Turn a reference image and the objects on it into the concepts of a Context."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import jax
import numpy as np
from jaxtyping import UInt8

from segic_jax.data.preprocess import CanvasImage, resize_and_pad
from segic_jax.inference.context import Concept, Reference, subsample
from segic_jax.inference.engine import Engine, ImageFeatures
from segic_jax.inference.example import Example, as_image, source_path
from segic_jax.inference.matching import INSIDE, OUTSIDE, PATCHES

PREVIEW = 160  # longer side of the preview of a reference, in pixels


class LoadedReference(NamedTuple):
    """Hold a reference image on the canvas, with a mask for each of its examples."""

    reference: Reference
    placed: CanvasImage


def group_by_image(examples: Sequence[Example]) -> list[list[Example]]:
    """Group the examples that lie on one image, so that each image is read and encoded once."""
    groups: dict[str | int, list[Example]] = {}
    for example in examples:
        groups.setdefault(source_path(example.image) or id(example.image), []).append(example)
    return list(groups.values())


def load_reference(examples: Sequence[Example], canvas: int) -> LoadedReference:
    """Read the image of `examples`, which share it, and their masks.

    Raises:
        DataError: as `Example.object_mask`, or the image cannot be read.
    """
    image = as_image(examples[0].image)
    masks = np.stack([example.object_mask(image) for example in examples])
    placed = resize_and_pad(image, masks, canvas)
    for on_canvas, mask in zip(placed.masks, masks, strict=True):
        if not on_canvas.any():  # lost in shrinking: the pixel at its middle stands for it
            middle = [np.median(indices) for indices in np.nonzero(mask)]
            y, x = (int(at * n / side) for at, n, side in zip(middle, placed.size, mask.shape, strict=True))
            on_canvas[y, x] = True
    height, width = image.shape[:2]
    reference = Reference(source_path(examples[0].image) or "", (height, width), _preview(image))
    return LoadedReference(reference, placed)


def encode_example(
    engine: Engine, features: ImageFeatures, loaded: LoadedReference, row: int, index: int
) -> Concept:
    """Encode one example as a Concept that has no name and no text yet.

    Args:
        features: of the reference image.
        row: of the example's mask on it.
        index: of the reference in `Context.references`.
    """
    mask, canvas_size, size = loaded.placed.masks[row], loaded.placed.size, loaded.reference.size
    pooled = jax.tree.map(np.asarray, engine.pool_reference(features, mask))
    vectors = np.asarray(features.features)[0]
    patches, kinds, places = [], [], []
    for kind, selected in ((INSIDE, pooled.inside), (OUTSIDE, pooled.valid & ~pooled.inside)):
        at = np.argwhere(selected)
        at = at[subsample(np.arange(len(at)), PATCHES)]
        patches.append(vectors[at[:, 0], at[:, 1]])
        kinds.append(np.full(len(at), kind, np.uint8))
        centre = (at + 0.5) * (len(mask) / len(vectors)) * np.array(size) / np.array(canvas_size)
        y, x = np.minimum(centre, np.array(size) - 1).T
        places.append(np.column_stack([np.full(len(at), index), x, y]).astype(np.int32))
    unit = np.concatenate(patches)
    unit /= np.maximum(np.linalg.norm(unit, axis=-1, keepdims=True), 1e-8)
    return Concept(
        name="",
        visual=pooled.visual[None],
        text=np.zeros(0, np.float32),
        patches=unit.astype(np.float16),
        kind=np.concatenate(kinds),
        place=np.concatenate(places),
    )


def _preview(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    scale = min(1, PREVIEW / max(image.shape[:2]))
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1].tobytes()
