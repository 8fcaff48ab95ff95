"""What a score has to beat: the same episodes answered without the model's understanding of the reference.

copy, the reference's mask laid over the target; cosine, the correspondence map cut at one threshold;
no_reference and wrong_reference, the same head with its context blanked or exchanged.
"""

from collections.abc import Sequence

import cv2
import jax
import numpy as np
from jaxtyping import Bool, Float

from segic_jax.data.episodes import Episode, EpisodeSource
from segic_jax.evaluate.infer import encode_references, target_maps
from segic_jax.models.segic import Context
from segic_jax.weights.bundle import Bundle

THRESHOLDS = np.arange(-0.5, 1.0, 0.01)


def copy_mask(
    reference: Bool[np.ndarray, "rows columns"], size: tuple[int, int]
) -> Bool[np.ndarray, "height width"]:
    """The reference's mask stretched to the target's (height, width)."""
    return cv2.resize(reference.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR) > 0.5


def without_reference(context: Context) -> Context:
    """Zero visual tokens and a zero pooled feature: the cosine map is flat and its best point is (0, 0)."""
    return Context(
        pooled=np.zeros_like(context.pooled),
        visual=np.zeros_like(context.visual),
        visual_valid=context.visual_valid,
        text=context.text,
    )


def wrong_references(episodes: Sequence[Episode]) -> list[int] | None:
    """For each episode the first of another class, from half the list away on; None for one class."""
    if len({episode.class_name for episode in episodes}) < 2:
        return None
    count = len(episodes)
    return [
        next(
            other
            for step in range(count)
            if episodes[other := (i + count // 2 + step) % count].class_name != episode.class_name
        )
        for i, episode in enumerate(episodes)
    ]


def exchanged(context: Context, order: Sequence[int]) -> Context:
    """The visual side of other episodes, row by row, with each one's own text."""
    other = jax.tree.map(lambda value: value[np.asarray(order)], context)
    return Context(
        pooled=other.pooled, visual=other.visual, visual_valid=other.visual_valid, text=context.text
    )


def tune_threshold(bundle: Bundle, source: EpisodeSource, *, batch_size: int = 16) -> tuple[float, float]:
    """The threshold at which the cosine map alone scores best on `source`, and that mIoU in per cent.

    Use classes that are not evaluated later, and keep it in `bundle.notes["cosine_threshold"]`.
    """
    episodes = source.episodes
    context = encode_references(bundle, source, episodes, batch_size=batch_size)
    names = sorted({episode.class_name for episode in episodes})
    intersection, union = np.zeros((2, len(names), len(THRESHOLDS)))
    for maps in target_maps(bundle, source, episodes, {"head": context}, batch_size=batch_size):
        row = names.index(episodes[maps.index].class_name)
        inside, outside = _above(maps.cosine[maps.truth]), _above(maps.cosine[~maps.truth])
        intersection[row] += inside
        union[row] += maps.truth.sum() + outside
    scores = 100 * (intersection / np.maximum(union, 1)).mean(0)
    best = int(scores.argmax())
    return round(float(THRESHOLDS[best]), 2), float(scores[best])


def _above(values: Float[np.ndarray, " pixels"]) -> Float[np.ndarray, " thresholds"]:
    """How many values exceed each threshold."""
    return len(values) - np.searchsorted(np.sort(values), THRESHOLDS, side="right")
