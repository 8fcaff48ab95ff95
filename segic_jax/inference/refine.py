"""Correct a mask by clicks on the target: places that are inside or outside the object.

A click says what the logit at its place must be. How far the correction reaches follows from the image: it is
a Gaussian process through the clicks, whose covariance falls with distance, with the difference of colour and
with that of the backbone's features. So it needs no prompt that a head was trained with, and works with every
backbone. A place that a click confirms stays as it is when the next one corrects something else.

A click near the border of a confident mask, as on the small errors of one that is nearly right,
reaches less far and changes only what is connected with it. Any other click tells of a part, or of another
object, that was missed.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from segic_jax.data.preprocess import CanvasImage, stretch
from segic_jax.errors import DataError
from segic_jax.inference.engine import Engine
from segic_jax.inference.image_logits import ImageLogits
from segic_jax.inference.result import Click, Result
from segic_jax.inference.tiles import TilePlan, cut_window

MARGIN = 4.0  # logit that a click gives at least to its place: a probability of 0.98
REACH = 0.3  # of the canvas's side: standard deviation of the distance
FEATURES = 0.6  # cosine difference that divides the covariance by e
COLOUR = 60.0  # standard deviation of the colour, in levels of the Lab space
SHARPNESS = 0.5  # by which the exponent grows, per MARGIN that the logit is off
BORDER = 0.1  # of the root of the mask's area: a click nearer to its border corrects only what is connected
SURE = 0.9  # mean probability of a mask that is taken for nearly right
HELD = 0.5  # logit by which the pixel of a click is beyond the cut, at least
NUGGET = 1e-3  # variance that is added to that of each click


class PatchEncoder:
    """Give the features of the patches of an image on the canvas; those of the last image are kept."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._last: tuple[bytes, np.ndarray] | None = None  # hash of the image, and its features

    def __call__(self, placed: CanvasImage) -> Float[np.ndarray, "g g channels"]:
        """Encode the image, unless it is the last one."""
        digest, last = hashlib.sha256(placed.image.tobytes()).digest(), self._last
        if last is None or last[0] != digest:
            last = digest, np.asarray(self._engine.features([placed], 1).features.patches)[0]
            self._last = last
        return last[1]


def read_clicks(points: Any, height: int, width: int) -> list[Click]:
    """Check points: (x, y) inside the object, or (x, y, inside).

    Raises:
        DataError: one is of another form, or outside the image.
    """
    clicks = []
    for point in points:
        if (click := _click(point)) is None:
            raise DataError(
                f"The point {point!r} must be (x, y) or (x, y, inside): pixels, and True or False."
            )
        if not (0 <= click.x < width and 0 <= click.y < height):
            raise DataError(
                f"The point {click.x:g}, {click.y:g} is outside the image of {width} x {height} pixels."
            )
        clicks.append(click)
    return clicks


def _click(point: Any) -> Click | None:
    values = list(point) if isinstance(point, Sequence | np.ndarray) else []
    if len(values) == 2:
        values.append(True)
    if len(values) != 3 or not all(isinstance(v, Real | np.bool_) for v in values) or values[2] not in (0, 1):
        return None
    return Click(float(values[0]), float(values[1]), bool(values[2]))


def read_box(box: Any, height: int, width: int) -> tuple[float, float, float, float]:
    """Check a box (x0, y0, x1, y1) in pixels.

    Raises:
        DataError: it is of another form, or not inside the image.
    """
    try:
        x0, y0, x1, y1 = (float(value) for value in box)
    except (TypeError, ValueError) as error:
        raise DataError(f"A box is (x0, y0, x1, y1) in pixels, not {box!r}.") from error
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise DataError(
            f"The box {x0:g} {y0:g} {x1:g} {y1:g} must have x0 < x1 and y0 < y1 and lie inside the image of "
            f"{width} x {height} pixels."
        )
    return x0, y0, x1, y1


def refine_result(
    result: Result,
    concept: int,
    clicks: Sequence[Click],
    box: tuple[float, float, float, float] | None,
    canvas: int,
    encode: Callable[[CanvasImage], Float[np.ndarray, "g g channels"]],
) -> Result:
    """Return the result with the mask of one class corrected by a box, then by all clicks on it so far.

    Args:
        canvas: of the model; a result of tiles covers a larger square, of which a window around each click
            is encoded.
        encode: gives the features of an image on the canvas.
    """
    (h, w), (height, width) = result.placed, result.image.shape[:2]
    logits = result.small_logits.copy()
    cells, cut = logits.shape[-1] / result.canvas, result.cut if math.isfinite(result.cut) else 0.0
    cell = np.array([w / width, h / height]) * cells  # of the map, per pixel of the image
    if box is not None:
        edges = tuple((np.array(box) * np.tile(cell, 2)).tolist())
        logits[concept] = fit_box(logits[concept] - cut, edges) + cut
    before = [click for i, click in result.clicks if i == concept]
    kept = drop_contradicted([*before, *clicks], cell)
    on_plane = {click: Click(click.x * w / width, click.y * h / height, click.inside) for click in kept}
    plan = TilePlan(canvas, result.canvas, result.placed, ())
    moved = [place for click, place in on_plane.items() if box is not None or click in clicks]
    for top, left in dict.fromkeys(_window(click, plan, round(1 / cells)) for click in moved):
        if (h, w) == (canvas, canvas) == (result.canvas, result.canvas) and height != width:
            placed = stretch(result.image, np.zeros((0, height, width), bool), canvas)
        else:
            placed = cut_window(result.image, plan, (top, left))
        shifted = [Click(c.x - left, c.y - top, c.inside) for c in on_plane.values()]
        near = [c for c in shifted if 0 <= c.x < canvas and 0 <= c.y < canvas]
        y, x, side = round(top * cells), round(left * cells), round(canvas * cells)
        part = logits[concept, y : y + side, x : x + side]
        part[:] = correct_logits(part - cut, encode(placed), placed.image, near) + cut
    on_image = ImageLogits(logits, result.canvas, result.placed, (height, width))
    logits[concept] = hold_clicks(on_image, concept, kept, cut)
    present = result.present.copy()
    present[concept] |= box is not None or any(click.inside for click in clicks)
    others = [(i, click) for i, click in result.clicks if i != concept]
    all_clicks = (*others, *((concept, click) for click in kept))
    return replace(result, small_logits=logits, present=present, clicks=all_clicks)


def drop_contradicted(clicks: Sequence[Click], cell: Float[np.ndarray, "2"]) -> list[Click]:
    """Leave out clicks that a later one contradicts within a cell of the map, and repetitions.

    Args:
        cell: cells of the map per pixel, along x and y.
    """
    kept: list[Click] = []
    for click in reversed(clicks):
        near = [o for o in kept if np.abs([o.x - click.x, o.y - click.y] * cell).max() < 1]
        if click not in near and all(later.inside == click.inside for later in near):
            kept.append(click)
    return kept[::-1]


def hold_clicks(
    on_image: ImageLogits, concept: int, clicks: Sequence[Click], cut: float
) -> Float[np.ndarray, "side side"]:
    """Return a class's small map, changed as little as it takes to have every click on its side of the cut.

    A correction has the clicks' values in its cells, and the pixels between them have a mixture of these.
    """
    logits = on_image.small[concept]
    if not clicks:
        return logits
    weights = np.stack([np.outer(*on_image.weights_at(int(click.x), int(click.y))) for click in clicks])
    values = np.einsum("kij,ij->k", weights, logits)
    inside = np.array([click.inside for click in clicks])
    missing = np.where(inside, np.maximum(cut + HELD - values, 0), np.minimum(cut - HELD - values, 0))
    if not missing.any():
        return logits
    products = np.einsum("kij,lij->kl", weights, weights) + 1e-6 * np.eye(len(clicks))
    return (logits + np.einsum("k,kij->ij", np.linalg.solve(products, missing), weights)).astype(np.float32)


def _window(click: Click, plan: TilePlan, cell: int) -> tuple[int, int]:
    """Return (top, left) of a window around a click, at a cell of the maps."""
    limit = plan.side - plan.canvas
    top, left = (min(max(0, int(at) - plan.canvas // 2), limit) // cell * cell for at in (click.y, click.x))
    return top, left


def correct_logits(
    logits: Float[np.ndarray, "side side"],
    features: Float[np.ndarray, "g g channels"],
    image: UInt8[np.ndarray, "canvas canvas 3"],
    clicks: Sequence[Click],
) -> Float[np.ndarray, "side side"]:
    """Return logits that agree with the clicks.

    Args:
        features: of the backbone's patches.
        image: on the canvas, as the backbone saw it.
        clicks: in pixels of the canvas.
    """
    side, canvas = logits.shape[0], image.shape[0]
    places = np.array([(click.y, click.x) for click in clicks]) * (side / canvas)
    rows, columns = np.clip(places.astype(int), 0, side - 1).T
    inside = np.array([click.inside for click in clicks])
    current = logits[rows, columns]
    missing = np.where(inside, np.maximum(MARGIN - current, 0), np.minimum(-MARGIN - current, 0))
    is_small = _is_small_error(logits, rows, columns, inside)
    # The surer the model was of the contrary, the less a click on a small error says about other places.
    sharpness = np.maximum(1, SHARPNESS * np.abs(missing) / MARGIN) if is_small else np.ones(len(clicks))
    covariance = _covariance(features, image, places, side, sharpness)
    at_clicks = covariance[:, rows, columns]
    at_clicks = (at_clicks + at_clicks.T) / 2 + NUGGET * np.eye(len(clicks))
    weights = np.linalg.solve(at_clicks, missing)
    corrected = (logits + np.einsum("k,kij->ij", weights, covariance)).astype(np.float32)
    if not is_small:
        return corrected
    _, regions = cv2.connectedComponents(((corrected > 0) != (logits > 0)).view(np.uint8), connectivity=4)
    kept = np.isin(regions, [0, *regions[rows, columns]])
    return np.where(kept, corrected, logits)


def _is_small_error(
    logits: Float[np.ndarray, "side side"],
    rows: Int[np.ndarray, " clicks"],
    columns: Int[np.ndarray, " clicks"],
    inside: Bool[np.ndarray, " clicks"],
) -> bool:
    """Return whether a mask is sure, and all clicks that it contradicts lie near its border."""
    mask = logits > 0
    if not mask.any() or (1 / (1 + np.exp(-logits[mask]))).mean() < SURE:
        return False
    wrong = mask[rows, columns] != inside
    distance = np.maximum(
        *(cv2.distanceTransform(part.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5) for part in (mask, ~mask))
    )
    return bool((distance[rows, columns][wrong] < BORDER * np.sqrt(mask.sum())).all())


def _covariance(
    features: np.ndarray, image: np.ndarray, places: np.ndarray, side: int, sharpness: np.ndarray
) -> Float[np.ndarray, "clicks side side"]:
    """Return the covariance of every place of the map with each click, 1 at the click.

    Args:
        sharpness: of each click, by which the exponent is multiplied.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-8)
    lab = cv2.cvtColor(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2LAB)
    lab = cv2.blur(lab, (3, 3)).astype(np.float32)
    index = np.arange(side) + 0.5
    maps = []
    for (y, x), factor in zip(places, sharpness, strict=True):
        row, column = (min(int(value), side - 1) for value in (y, x))
        distance = ((index - y)[:, None] ** 2 + (index - x) ** 2) / (2 * (REACH * side) ** 2)
        colour = ((lab - lab[row, column]) ** 2).sum(-1) / (2 * COLOUR**2)
        patch = unit[row * len(unit) // side, column * len(unit) // side]
        cosine = cv2.resize((unit @ patch).astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
        exponent = distance + colour + np.maximum(cosine[row, column] - cosine, 0) / FEATURES
        maps.append(np.exp(-factor * exponent))
    return np.stack(maps)


def fit_box(
    logits: Float[np.ndarray, "side side"], box: tuple[float, float, float, float]
) -> Float[np.ndarray, "side side"]:
    """Return logits whose mask lies inside a box and fills it as well as a shift of all logits allows.

    Args:
        box: (x0, y0, x1, y1) in cells of the map.
    """
    x0, y0, x1, y1 = box
    index = np.arange(len(logits)) + 0.5
    inside = ((index >= y0) & (index <= y1))[:, None] & ((index >= x0) & (index <= x1))
    if not inside.any():  # smaller than a cell
        inside[min(int(y0), len(logits) - 1), min(int(x0), len(logits) - 1)] = True
    values = logits[inside]
    best, best_overlap = 0.0, -1.0
    for cut in np.unique(np.append(0.0, np.quantile(values, np.linspace(0, 0.95, 39)) - 1e-4)):
        overlap = _box_overlap((logits > cut) & inside, box)
        # Among shifts that fill the box equally well, the smallest.
        if (round(overlap, 3), -abs(cut)) > (round(best_overlap, 3), -abs(best)):
            best, best_overlap = float(cut), overlap
    return np.where(inside, logits - best, np.minimum(logits - best, -MARGIN)).astype(np.float32)


def _box_overlap(mask: Bool[np.ndarray, "side side"], box: tuple[float, float, float, float]) -> float:
    """Return the IoU of a box and the bounding box of a mask."""
    if not mask.any():
        return 0.0
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x0, y0, x1, y1 = box
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    common = max(0, min(x1, right) - max(x0, left)) * max(0, min(y1, bottom) - max(y0, top))
    areas = (x1 - x0) * (y1 - y0) + (right - left) * (bottom - top)
    return common / max(areas - common, 1e-9)
