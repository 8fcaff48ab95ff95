"""Explain a mask: which parts of the target look like which parts of the references."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from segic_jax.data.preprocess import CanvasImage, resize
from segic_jax.inference.context import Concept, Context
from segic_jax.inference.matching import INSIDE, PatchMatches


@dataclass(frozen=True)
class Match:
    """Link a patch of the target to the patch of a reference that it looks like, in each image's pixels."""

    target: tuple[float, float]  # x, y
    reference: int  # index in Context.references
    point: tuple[float, float]  # x, y on that reference
    similarity: float  # cosine, -1..1


@dataclass(frozen=True, eq=False)
class Explanation:
    """Explain the mask of one class on one target."""

    name: str
    heat: Float[np.ndarray, "height width"]  # similarity map: cosine to the prototype, -1..1
    matches: tuple[Match, ...]  # the strongest first


def explain_classes(
    context: Context,
    placed: CanvasImage,
    size: tuple[int, int],
    chunks: Sequence[PatchMatches],
    count: int,
) -> list[Explanation]:
    """Explain every class of a Context on one target.

    Args:
        placed: the target on the canvas.
        size: (height, width) of the target.
        chunks: matches of the Context's concepts, in order.
        count: how many matches to list for a class, at most one per patch.
    """
    heat, best, index = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    return [
        _explain_class(concept, placed, size, heat=heat[row], best=best[row], index=index[row], count=count)
        for row, concept in enumerate(context.concepts)
    ]


def _explain_class(
    concept: Concept,
    placed: CanvasImage,
    size: tuple[int, int],
    *,
    heat: Float[np.ndarray, "S S"],
    best: Float[np.ndarray, "g g"],
    index: Integer[np.ndarray, "g g"],
    count: int,
) -> Explanation:
    (h, w), (height, width) = placed.size, size
    patch = len(heat) // len(best)
    places = concept.place[concept.kind == INSIDE]
    rows, columns = -(-h // patch), -(-w // patch)
    order = np.argsort(-best[:rows, :columns], axis=None, kind="stable")[:count]
    matches = []
    for y, x in zip(*np.unravel_index(order, (rows, columns)), strict=True):
        reference, *point = places[index[y, x]].tolist()
        target = (min((x + 0.5) * patch, w) * width / w, min((y + 0.5) * patch, h) * height / h)
        matches.append(
            Match(
                target=(float(target[0]), float(target[1])),
                reference=reference,
                point=(float(point[0]), float(point[1])),
                similarity=float(best[y, x]),
            )
        )
    return Explanation(concept.name, resize(heat[:h, :w], size), tuple(matches))
