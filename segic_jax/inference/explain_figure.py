"""Draw the figure of `segic explain`: a row for each class, with references, matches and similarity map."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import ConnectionPatch

from segic_jax.data.images import as_image
from segic_jax.errors import DataError
from segic_jax.inference.context import Context
from segic_jax.inference.explain import Explanation, Match
from segic_jax.inference.overlay import draw_outline
from segic_jax.inference.reference import Reference, decode_preview, draw_marks
from segic_jax.inference.result import Result

MAX_SIDE = 900  # longer side of an image in the figure
NUMBER = 0.05  # size of a number, relative to the longer side of its image: closer ones would overlap
MAX_REFERENCES = 4  # of a class: those with the most matches


class _ClassRow(NamedTuple):
    """Hold what a row of the figure shows."""

    concept: int  # the class's place in the result
    explanation: Explanation
    matches: list[Match]  # those to draw
    references: list[int]  # places in Context.references, those with the most matches first


def draw_explanation(
    context: Context, result: Result, explanations: Sequence[Explanation], count: int
) -> bytes:
    """Return the figure as a PNG file.

    Args:
        explanations: of the same target, with all matches.
        count: how many matches to draw for a class, at most.
    """
    rows = []
    for i, explanation in enumerate(explanations):
        matches = select_matches(explanation.matches, result.mask(i), count)
        used = [match.reference for match in matches]
        references = sorted(set(used), key=lambda number: -used.count(number))[:MAX_REFERENCES]
        matches = [match for match in matches if match.reference in references]
        rows.append(_ClassRow(i, explanation, matches, references))
    ratio = result.image.shape[0] / result.image.shape[1]
    height = min(max(3.6 * ratio, 2.0), 7.0) + 0.55
    figure = Figure(figsize=(12, 0.35 + height * len(rows)), dpi=110, layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False)
    for part, row in zip(parts[:, 0], rows, strict=True):
        _draw_row(part, context, result, row)
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor="white")
    return file.getvalue()


def select_matches(
    matches: Sequence[Match], mask: Bool[np.ndarray, "height width"], count: int
) -> list[Match]:
    """Return the strongest matches inside the mask that are not close together, at most `count`.

    Args:
        matches: the strongest first; those of the whole image are used if none is inside the mask.
    """
    height, width = mask.shape
    candidates = [
        match
        for match in matches
        if mask[min(int(match.target[1]), height - 1), min(int(match.target[0]), width - 1)]
    ]
    area = mask.sum() if candidates else mask.size
    candidates = candidates or list(matches)
    distance = max(0.8 * np.sqrt(area / count), NUMBER * max(mask.shape))
    selected: list[Match] = []
    while candidates and len(selected) < count:
        best = candidates[0]
        selected.append(best)
        candidates = [
            match for match in candidates if np.hypot(*np.subtract(match.target, best.target)) >= distance
        ]
    return selected


def _draw_row(part: SubFigure, context: Context, result: Result, row: _ClassRow) -> None:
    i, explanation = row.concept, row.explanation
    visible = result.areas[i] > 0
    presence = f"{100 * result.presence[i]:.0f} %"
    part.suptitle(
        f"{explanation.name}: {result.status(i)} ({presence})",
        x=0.01,
        ha="left",
        fontsize=12,
        fontweight="bold",
    )
    columns = part.subplots(1, 3)
    left, middle, right = columns
    title = "target with its mask" if visible else "target"
    if row.matches:
        similarities = [match.similarity for match in row.matches]
        title += f"; matches {min(similarities):.2f} to {max(similarities):.2f}"
    _show(middle, draw_outline(result.image, result.mask(i), result.colours[i]), title)
    heat = explanation.heat
    drawn = right.imshow(heat, cmap="turbo", vmin=min(0, float(heat.min())), vmax=1)
    right.set_title("cosine similarity to the prototype", fontsize=9)
    right.axis("off")
    part.colorbar(drawn, ax=right, fraction=0.046, pad=0.02).ax.tick_params(labelsize=8)
    left.axis("off")
    count = max(len(row.references), 1)
    left.set_title("references" if count > 1 else "reference", fontsize=9)
    axes = [left.inset_axes(bounds) for bounds in _reference_bounds(count)]
    for axis in (*columns, *axes):
        axis.set_anchor("N")  # align the tops of images of any shape
    reference_axes = dict(zip(row.references, axes, strict=False))
    for number, axis in reference_axes.items():
        reference = context.references[number]
        colours = dict(zip(result.names, result.colours, strict=True))
        _show(axis, draw_marks(_reference_image(reference), reference.marks, colours), "")
        caption = "\n".join(map(str, reference.marks[:3])) + ("\n..." if len(reference.marks) > 3 else "")
        box = {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 2}
        axis.text(0.02, 0.02, caption, transform=axis.transAxes, fontsize=7, va="bottom", bbox=box)
    _draw_matches(part, context, result, row.matches, middle, reference_axes)


def _draw_matches(
    part: SubFigure,
    context: Context,
    result: Result,
    matches: Sequence[Match],
    target_axis: Axes,
    reference_axes: dict[int, Axes],
) -> None:
    """Draw an arrow for each match, with its number at both ends."""
    groups: list[tuple[int, tuple[float, float], list[tuple[int, str]]]] = []  # close ends share a label
    for number, match in enumerate(matches, 1):
        reference_scale = _scale(context.references[match.reference].size)
        point = (match.point[0] * reference_scale, match.point[1] * reference_scale)
        scale = _scale(result.image.shape[:2])
        target = (match.target[0] * scale, match.target[1] * scale)
        colour = f"C{(number - 1) % 10}"
        arrow = ConnectionPatch(
            xyA=point,
            coordsA=reference_axes[match.reference].transData,
            xyB=target,
            coordsB=target_axis.transData,
            arrowstyle="-|>",
            color=colour,
            lw=1.1,
            alpha=0.85,
            shrinkA=4,
            shrinkB=4,
            mutation_scale=9,
        )
        part.add_artist(arrow)
        distance = 2 * NUMBER * max(context.references[match.reference].size) * reference_scale
        for reference, other, ends in groups:
            if reference == match.reference and np.hypot(*np.subtract(point, other)) < distance:
                ends.append((number, colour))
                break
        else:
            groups.append((match.reference, point, [(number, colour)]))
        _write_number(target_axis, target, str(number), colour)
    for reference, point, ends in groups:
        text = ",".join(str(number) for number, _ in ends[:2]) + ("…" if len(ends) > 2 else "")
        _write_number(reference_axes[reference], point, text, ends[0][1])


def _write_number(axis: Axes, point: tuple[float, float], text: str, colour: str) -> None:
    box = {"boxstyle": "round,pad=0.25,rounding_size=0.8", "fc": colour, "ec": "white", "lw": 0.8}
    axis.annotate(text, point, color="white", fontsize=6.5, ha="center", va="center", weight="bold", bbox=box)


def _show(axis: Axes, image: UInt8[np.ndarray, "height width 3"], title: str) -> None:
    scale = _scale(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    axis.imshow(cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image)
    axis.set_title(title, fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_frame_on(False)


def _reference_bounds(count: int) -> list[tuple[float, float, float, float]]:
    """Return x, y, width and height of each reference in its column."""
    if count == 1:
        return [(0, 0, 1, 1)]
    if count == 2:
        return [(0, 0.51, 1, 0.49), (0, 0, 1, 0.49)]
    return [(0.51 * (i % 2), 0.51 * (1 - i // 2), 0.49, 0.49) for i in range(count)]


def _reference_image(reference: Reference) -> UInt8[np.ndarray, "height width 3"]:
    """Read the image if it still exists and has the same size; otherwise enlarge the preview."""
    if reference.source:
        try:
            image = as_image(reference.source)
        except DataError:
            image = None
        if image is not None and image.shape[:2] == reference.size:
            return image
    small = decode_preview(reference)
    scale = _scale(reference.size)
    height, width = (max(1, round(side * scale)) for side in reference.size)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def _scale(size: Sequence[int]) -> float:
    """Return the factor from an image's pixels to those of the figure."""
    return min(1, MAX_SIDE / max(size))
