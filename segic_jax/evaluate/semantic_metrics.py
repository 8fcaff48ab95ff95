"""From mask logits to pixels of every class on an image, and from those to the scores of a run."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from segic_jax.data.preprocess import resize
from segic_jax.data.semantic import SemanticImage
from segic_jax.evaluate.records import percent

Merge = Literal["independent", "argmax"]


class PixelCounts(NamedTuple):
    """Pixels of one class on one image, or sums of them."""

    intersection: int
    union: int  # without ignored pixels
    union_everywhere: int  # predictions on ignored pixels are wrong, as the official code counts them
    truth: int


def score(
    shown: SemanticImage,
    decoded: Sequence[int],
    rows: Iterable[Float[np.ndarray, "valid_height valid_width"]],
    merge: Merge,
) -> dict[int, PixelCounts]:
    """Pixels of every class that is decoded or true; classes without any are left out.

    Args:
        decoded: class of each row, rising.
        rows: logits on the valid part of the canvas; they are brought to the image's size one by one.
    """
    truth = dict(zip(shown.classes, shown.masks, strict=True))
    counts = {c: PixelCounts(0, *[int(mask.sum())] * 3) for c, mask in truth.items()}

    def count(number: int, prediction: Bool[np.ndarray, "height width"]) -> None:
        true = truth.get(number)
        pixels = counts[number].truth if true is not None else 0
        both = int((prediction & true).sum()) if true is not None else 0
        everywhere = int(prediction.sum()) + pixels - both
        ignored = int((prediction & shown.ignored).sum())
        if everywhere:
            counts[number] = PixelCounts(both, everywhere - ignored, everywhere, pixels)

    best = np.zeros(shown.ignored.shape, np.float32)  # logits of the winner; 0 is the background's
    winner = np.full(shown.ignored.shape, -1, np.int32)
    for number, row in zip(decoded, rows, strict=True):
        if row.max() <= 0:  # so are all values between
            continue
        logits = resize(row, best.shape)
        if merge == "independent":
            count(number, logits > 0)
        else:  # the lower class where two are equal
            better = logits > best
            np.copyto(best, logits, where=better)
            np.copyto(winner, number, where=better)
    if merge == "argmax":
        for number in np.unique(winner[winner >= 0]).tolist():
            count(number, winner == number)
    return dict(sorted(counts.items()))


def image_iou(counts: dict[int, PixelCounts]) -> float | None:
    """Mean IoU of the classes that the image has, 0..1; None where it has none."""
    ious = [one.intersection / one.union for one in counts.values() if one.truth]
    return float(np.mean(ious)) if ious else None


def class_sums(rows: Sequence[dict], classes: int) -> Int[np.ndarray, "images classes 4"]:
    """The `PixelCounts` in rows of a run, as one array."""
    counts = np.zeros((len(rows), classes, 4), np.int64)
    for i, row in enumerate(rows):
        for number, of in row["classes"].items():
            counts[i, int(number)] = of
    return counts


def mean_iou(sums: Int[np.ndarray, "draws classes 4"], union: int = 1) -> Float[np.ndarray, " draws"]:
    """Mean over the classes that the truth has of the IoU of the summed pixels, 0..1.

    `union` is the place of the union to take in `PixelCounts`.
    """
    seen = sums[..., 3] > 0
    iou = sums[..., 0] / np.maximum(sums[..., union], 1)
    return (iou * seen).sum(-1) / np.maximum(seen.sum(-1), 1)


def bootstrap_interval(
    counts: Int[np.ndarray, "images classes 4"], *, samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the mIoU over images drawn anew with replacement, in per cent.

    A class that a draw misses is left out of that draw's mean.
    """
    random = np.random.default_rng(seed)
    pictures, classes, _ = counts.shape
    flat = counts.reshape(pictures, -1).astype(np.float64)  # sums of whole numbers below 2 ** 53 are exact
    means = []
    for start in range(0, samples, 100):
        times = random.multinomial(pictures, np.full(pictures, 1 / pictures), min(100, samples - start))
        means.append(mean_iou((times @ flat).reshape(-1, classes, 4)))
    low, high = np.percentile(100 * np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def summary(rows: Sequence[dict], names: Sequence[str]) -> dict:
    """`scores`, `class_iou` and numbers of classes of a result, in per cent."""
    counts = class_sums(rows, len(names))
    sums = counts.sum(0)
    seen = sums[:, 3] > 0
    iou = sums[:, 0] / np.maximum(sums[:, 1], 1)
    return {
        "classes": len(names),
        "classes_seen": int(seen.sum()),
        "scores": {
            "miou": percent(mean_iou(sums[None])[0]),
            "interval_95": [percent(value / 100) for value in bootstrap_interval(counts)],
            "miou_official": percent(mean_iou(sums[None], union=2)[0]),
        },
        "class_iou": {
            name: percent(value)
            for name, value, there in zip(unique_names(names), iou, seen, strict=True)
            if there
        },
    }


def unique_names(names: Sequence[str]) -> list[str]:
    """Names that several classes share get their numbers."""
    return [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names)]
