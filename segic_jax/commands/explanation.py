"""The image of `segic explain`: a row a class; references, matches and similarity from left to right."""

import io
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch

from segic_jax.errors import DataError
from segic_jax.inference.context import Context, Reference, decode_preview
from segic_jax.inference.example import as_image
from segic_jax.inference.explain import Explanation, Match
from segic_jax.inference.overlay import draw_outline
from segic_jax.inference.result import Result

SIDE = 900  # longer side of an image in the drawing
SHOWN = 4  # references of a class: those with the most matches


def draw(context: Context, result: Result, explained: Sequence[Explanation], most: int) -> bytes:
    """A PNG.

    Args:
        explained: of the same target, with all matches.
        most: how many to draw for a class.
    """
    rows = []
    for i, one in enumerate(explained):
        matches = spread(one.matches, result.mask(i), most)
        used = [match.reference for match in matches]
        ordered = sorted(set(used), key=lambda number: -used.count(number))[:SHOWN]
        rows.append((i, one, [match for match in matches if match.reference in ordered], ordered))
    ratio = result.image.shape[0] / result.image.shape[1]
    height = min(max(3.6 * ratio, 2.0), 7.0) + 0.55
    figure = Figure(figsize=(12, 0.35 + height * len(rows)), dpi=110, layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, (i, one, matches, ordered) in zip(parts, rows, strict=True):
        _row(part, context, result, i, one, matches, ordered)
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor="white")
    return file.getvalue()


def spread(matches: Sequence[Match], mask: np.ndarray, most: int) -> list[Match]:
    """The strongest inside the mask, no two close together; of the whole image if there are none inside."""
    height, width = mask.shape
    inside = [
        one
        for one in matches
        if mask[min(int(one.target[1]), height - 1), min(int(one.target[0]), width - 1)]
    ]
    area = mask.sum() if inside else mask.size
    inside = inside or list(matches)
    apart = 0.8 * np.sqrt(area / most)
    chosen: list[Match] = []
    while inside and len(chosen) < most:
        chosen.append(inside[0])
        inside = [one for one in inside if np.hypot(*np.subtract(one.target, inside[0].target)) >= apart]
    return chosen


def _row(part, context, result, i, one, matches, ordered) -> None:
    tint = result.colours[i]
    found = (
        f"present {100 * result.presence[i]:.0f} %"
        if result.areas[i]
        else f"absent ({100 * result.presence[i]:.0f} %)"
    )
    part.suptitle(f"{one.name}: {found}", x=0.01, ha="left", fontsize=12, fontweight="bold")
    count = max(len(ordered), 1)
    columns = part.subplots(1, 3)
    left, middle, right = columns
    title = "target with its mask" if result.areas[i] else "target"
    if matches:
        low, high = min(one.similarity for one in matches), max(one.similarity for one in matches)
        title += f"; matches {low:.2f} to {high:.2f}"
    _shown(middle, draw_outline(result.image, result.mask(i), tint), title)
    shown = right.imshow(one.heat, cmap="turbo", vmin=min(0, float(one.heat.min())), vmax=1)
    right.set_title("cosine to the references' mean feature", fontsize=9)
    right.axis("off")
    part.colorbar(shown, ax=right, fraction=0.046, pad=0.02).ax.tick_params(labelsize=8)
    left.axis("off")
    axes = [left.inset_axes(box) for box in _boxes(count)]
    left.set_title("references" if count > 1 else "reference", fontsize=9)
    for axis in (*columns, *axes):
        axis.set_anchor("N")  # their tops in one line, whatever the shapes
    for axis, number in zip(axes, ordered, strict=False):
        _shown(axis, _image(context.references[number]), "")
    where = dict(zip(ordered, axes, strict=False))
    at_point: dict[tuple, list[tuple[int, str]]] = {}
    for number, match in enumerate(matches, 1):
        reference = context.references[match.reference]
        scale = _scale(reference)
        point = (match.point[0] * scale, match.point[1] * scale)
        target = tuple(value * min(1, SIDE / max(result.image.shape[:2])) for value in match.target)
        colour = f"C{(number - 1) % 10}"
        part.add_artist(
            ConnectionPatch(
                xyA=point,
                coordsA=where[match.reference].transData,
                xyB=target,
                coordsB=middle.transData,
                arrowstyle="-|>",
                color=colour,
                lw=1.1,
                alpha=0.85,
                shrinkA=4,
                shrinkB=4,
                mutation_scale=9,
            )
        )
        at_point.setdefault((match.reference, point), []).append((number, colour))
        _numbered(middle, target, str(number), colour)
    for (reference, point), those in at_point.items():
        text = ",".join(str(number) for number, _ in those[:2]) + ("…" if len(those) > 2 else "")
        _numbered(where[reference], point, text, those[0][1])


def _numbered(axis: Axes, at: tuple[float, float], text: str, colour: str) -> None:
    box = {"boxstyle": "round,pad=0.25,rounding_size=0.8", "fc": colour, "ec": "white", "lw": 0.8}
    axis.annotate(text, at, color="white", fontsize=6.5, ha="center", va="center", weight="bold", bbox=box)


def _shown(axis: Axes, image: np.ndarray, title: str) -> None:
    scale = min(1, SIDE / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    axis.imshow(cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image)
    axis.set_title(title, fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_frame_on(False)


def _boxes(count: int) -> list[tuple[float, float, float, float]]:
    """x, y, width, height of each reference in its column."""
    if count == 1:
        return [(0, 0, 1, 1)]
    if count == 2:
        return [(0, 0.51, 1, 0.49), (0, 0, 1, 0.49)]
    return [(0.51 * (i % 2), 0.51 * (1 - i // 2), 0.49, 0.49) for i in range(count)]


def _image(reference: Reference) -> UInt8[np.ndarray, "height width 3"]:
    """The file if it is still there and of the same size; else the preview, enlarged."""
    if reference.source:
        try:
            image = as_image(reference.source)
        except DataError:
            image = None
        if image is not None and image.shape[:2] == reference.size:
            return image
    small = decode_preview(reference)
    scale = min(1, SIDE / max(reference.size))
    height, width = (max(1, round(side * scale)) for side in reference.size)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def _scale(reference: Reference) -> float:
    """From the reference's pixels to those drawn."""
    return min(1, SIDE / max(reference.size))
