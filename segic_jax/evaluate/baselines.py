"""What a score has to beat: the same episodes answered without the model's understanding of the reference.

copy, the reference's mask laid over the target; cosine, the correspondence map cut at one threshold;
no_reference and wrong_reference, the same head with its context blanked or exchanged.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool

from segic_jax.data.episodes import Episode
from segic_jax.models.segic import Prototypes


def copy_mask(
    reference: Bool[np.ndarray, "rows columns"], size: tuple[int, int]
) -> Bool[np.ndarray, "height width"]:
    """The reference's mask stretched to the target's (height, width)."""
    return cv2.resize(reference.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR) > 0.5


def without_reference(context: Prototypes) -> Prototypes:
    """Zero visual tokens and a zero pooled feature: the cosine map is flat and its best point is (0, 0)."""
    return Prototypes(
        pooled=np.zeros_like(context.pooled),
        visual=np.zeros_like(context.visual),
        visual_valid=context.visual_valid,
        text=context.text,
    )


def wrong_references(episodes: Sequence[Episode]) -> list[int] | None:
    """For each episode the first of another class, from half the list away on; None for one class."""
    if len({episode.class_id for episode in episodes}) < 2:
        return None
    count = len(episodes)
    return [
        next(
            other
            for step in range(count)
            if episodes[other := (i + count // 2 + step) % count].class_id != episode.class_id
        )
        for i, episode in enumerate(episodes)
    ]
