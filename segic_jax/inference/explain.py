"""Why a mask is where it is: what in the target looks like what in the references."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from segic_jax.data.preprocess import CanvasImage, resize
from segic_jax.inference.context import Context
from segic_jax.inference.matching import INSIDE


@dataclass(frozen=True)
class Match:
    """One cell of the target and the cell of a reference that it looks like; in each image's pixels."""

    target: tuple[float, float]  # x, y
    reference: int  # its place in Context.references
    point: tuple[int, int]  # x, y on that reference
    similarity: float  # cosine, -1..1


@dataclass(frozen=True, eq=False)
class Explanation:
    """Of one class on one target."""

    name: str
    heat: Float[np.ndarray, "height width"]  # cosine to the mean feature of the examples, -1..1
    matches: tuple[Match, ...]  # the strongest first


def explanation(
    context: Context,
    row: int,
    placed: CanvasImage,
    own: tuple[int, int],
    patch: int,
    heat: Float[np.ndarray, "S S"],
    best: Float[np.ndarray, "g g"],
    which: np.ndarray,
    most: int,
) -> Explanation:
    """From what `finding.match` gives for one class; `own` is the target's (height, width)."""
    concept, (h, w) = context.concepts[row], placed.size
    places = concept.place[concept.kind == INSIDE]
    rows, columns = -(-h // patch), -(-w // patch)
    order = np.argsort(-best[:rows, :columns], axis=None, kind="stable")[:most]
    matches = []
    for y, x in zip(*np.unravel_index(order, (rows, columns)), strict=True):
        reference, *point = places[which[y, x]].tolist()
        at = (min((x + 0.5) * patch, w) * own[1] / w, min((y + 0.5) * patch, h) * own[0] / h)
        matches.append(
            Match(
                (float(at[0]), float(at[1])), reference, (float(point[0]), float(point[1])), float(best[y, x])
            )
        )
    return Explanation(concept.name, resize(heat[:h, :w], own), tuple(matches))
