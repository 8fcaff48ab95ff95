"""Count the pixels of every class on an image from its mask logits."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from segic_jax.data.preprocess import resize
from segic_jax.data.semantic import SemanticImage

Merge = Literal["independent", "argmax"]


class ClassPixels(NamedTuple):
    """Hold pixel counts of one class on one image."""

    intersection: int
    union: int  # without ignored pixels
    union_everywhere: int  # predictions on ignored pixels are wrong, as the official code counts them
    truth: int


def score_image(
    image: SemanticImage,
    classes: Sequence[int],
    logits: Iterable[Float[np.ndarray, "valid_height valid_width"]],
    merge: Merge,
) -> dict[int, ClassPixels]:
    """Count the pixels of every class that is predicted or true.

    Args:
        classes: the class of each of the `logits`, ascending.
        logits: on the valid part of the canvas; they are resized to the image one by one.
    """
    truth = dict(zip(image.classes, image.masks, strict=True))
    counts = {number: ClassPixels(0, *[int(mask.sum())] * 3) for number, mask in truth.items()}

    def count(number: int, prediction: Bool[np.ndarray, "height width"]) -> None:
        true = truth.get(number)
        pixels = counts[number].truth if true is not None else 0
        intersection = int((prediction & true).sum()) if true is not None else 0
        everywhere = int(prediction.sum()) + pixels - intersection
        ignored = int((prediction & image.ignored).sum())
        if everywhere:
            counts[number] = ClassPixels(intersection, everywhere - ignored, everywhere, pixels)

    best = np.zeros(image.ignored.shape, np.float32)  # the largest logit; 0 is the background's
    winner = np.full(image.ignored.shape, -1, np.int32)
    for number, small in zip(classes, logits, strict=True):
        if small.max() <= 0:  # so are all interpolated values
            continue
        resized = resize(small, best.shape)
        if merge == "independent":
            count(number, resized > 0)
        else:  # the lower class where two are equal
            better = resized > best
            np.copyto(best, resized, where=better)
            np.copyto(winner, number, where=better)
    if merge == "argmax":
        for number in np.unique(winner[winner >= 0]).tolist():
            count(number, winner == number)
    return dict(sorted(counts.items()))


def image_iou(counts: Mapping[int, ClassPixels]) -> float | None:
    """Return the mean IoU of the classes that the image has, 0..1; None where it has none."""
    ious = [pixels.intersection / pixels.union for pixels in counts.values() if pixels.truth]
    return float(np.mean(ious)) if ious else None
