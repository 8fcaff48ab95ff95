"""One reference image and the objects on it -> what a Context keeps of them."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import jax
import numpy as np
from jaxtyping import UInt8

from segic_jax.data.preprocess import CanvasImage, resize_and_pad
from segic_jax.inference.context import Concept, Reference, thinned
from segic_jax.inference.engine import Engine, ImageFeatures
from segic_jax.inference.example import Example, as_image, source_of
from segic_jax.inference.matching import INSIDE, OUTSIDE, PATCHES

PREVIEW = 160  # longer side of the preview of a reference


class Read(NamedTuple):
    """A reference image on the canvas, with a mask for each of its examples."""

    reference: Reference
    placed: CanvasImage


def by_image(examples: Sequence[Example]) -> list[list[Example]]:
    """Together what lies on one image, so that each is read and encoded once."""
    groups: dict[str | int, list[Example]] = {}
    for example in examples:
        groups.setdefault(source_of(example.image) or id(example.image), []).append(example)
    return list(groups.values())


def read(examples: Sequence[Example], canvas: int) -> Read:
    """The one image of `examples`.

    Raises:
        DataError: as `Example.object_on`, or an image that cannot be read.
    """
    image = as_image(examples[0].image)
    masks = np.stack([example.object_on(image) for example in examples])
    placed = resize_and_pad(image, masks, canvas)
    for on_canvas, mask in zip(placed.masks, masks, strict=True):
        if not on_canvas.any():  # lost in shrinking: the pixel at its middle stands for it
            middle = [np.median(one) for one in np.nonzero(mask)]
            y, x = (int(at * n / side) for at, n, side in zip(middle, placed.size, mask.shape, strict=True))
            on_canvas[y, x] = True
    return Read(Reference(source_of(examples[0].image) or "", image.shape[:2], _preview(image)), placed)


def taught(
    engine: Engine,
    features: ImageFeatures,
    shown: Read,
    row: int,
    reference: int,
) -> Concept:
    """What one example teaches; a Concept that has no name and no text yet.

    Args:
        row: of the example's mask.
        reference: the image's place in `Context.references`.
    """
    mask, placed, own = shown.placed.masks[row], shown.placed.size, shown.reference.size
    seen = jax.tree.map(np.asarray, engine.pool_reference(features, mask))
    vectors = np.asarray(features.features)[0]
    patches, kinds, places = [], [], []
    for kind, chosen in ((INSIDE, seen.inside), (OUTSIDE, seen.valid & ~seen.inside)):
        at = np.argwhere(chosen)
        at = at[thinned(np.arange(len(at)), PATCHES)]
        patches.append(vectors[at[:, 0], at[:, 1]])
        kinds.append(np.full(len(at), kind, np.uint8))
        centre = (at + 0.5) * (len(mask) / len(vectors)) * np.array(own) / np.array(placed)
        y, x = np.minimum(centre, np.array(own) - 1).T
        places.append(np.column_stack([np.full(len(at), reference), x, y]).astype(np.int32))
    cells = np.concatenate(patches)
    cells /= np.maximum(np.linalg.norm(cells, axis=-1, keepdims=True), 1e-8)
    return Concept(
        name="",
        visual=seen.visual[None],
        text=np.zeros(0, np.float32),
        patches=cells.astype(np.float16),
        kind=np.concatenate(kinds),
        place=np.concatenate(places),
    )


def _preview(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    scale = min(1, PREVIEW / max(image.shape[:2]))
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1].tobytes()
