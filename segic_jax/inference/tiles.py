"""Cut a large image into overlapping windows of the canvas's size, and merge their maps without seams.

The image is resized onto a plane that is larger than the canvas. Windows of the canvas's size cover it; they
start at multiples of a patch, so that maps of different windows lie on one grid. Merged maps are those of a
square canvas of the plane's side: whatever reads maps of the canvas reads them.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from segic_jax.config import ModelConfig
from segic_jax.data.preprocess import CanvasImage, Taps, fitted_taps, place
from segic_jax.errors import ConfigError
from segic_jax.inference.engine import Engine
from segic_jax.inference.matching import ConceptMatches, ConceptSlots, image_matches
from segic_jax.models.encoding import Prototypes
from segic_jax.runtime.prefetch import prefetch_results

OVERLAP = 0.25  # of a window, with each of its neighbours
CERTAIN = 0.4  # of the highest logit of the image: what a region of the mask has to reach somewhere
MAX_TILES = 64  # along the longer side

Tiles = int | Literal["auto"]


@dataclass(frozen=True)
class TilePlan:
    """Say where the windows of an image lie."""

    canvas: int  # side of a window, in pixels of the plane
    side: int  # of the plane
    size: tuple[int, int]  # (h, w) of the image on the plane
    windows: tuple[tuple[int, int], ...]  # (top, left), row by row


def require_tiles(tiles: Tiles | None) -> None:
    """Raise ConfigError unless this is a number of windows, "auto" or None."""
    if tiles is not None and tiles != "auto" and (type(tiles) is not int or not 1 <= tiles <= MAX_TILES):
        raise ConfigError(
            f'tiles {tiles!r} must be "auto", or the windows along the longer side, 1 to {MAX_TILES}.'
        )


def plan_tiles(size: Sequence[int], config: ModelConfig, tiles: Tiles) -> TilePlan:
    """Choose the windows of an image.

    Args:
        size: (height, width) of the image.
        tiles: how many windows lie along the longer side; "auto" shows the image to the model at about the
            size that it has, neither reduced nor, by more than a fraction, enlarged.
    """
    canvas, grid = config.canvas, config.grid
    patch = canvas // grid
    step = patch * max(1, round((1 - OVERLAP) * grid))
    height, width = size
    longest = max(height, width)
    if tiles == "auto":
        tiles = min(MAX_TILES, max(1, -(-(longest - canvas) // step) + 1))
    side = canvas + (tiles - 1) * step
    rows, columns = fitted_taps(height, width, side)
    placed = (len(rows.low), len(columns.low))
    starts = [_starts(length, canvas, step, patch) for length in placed]
    return TilePlan(canvas, side, placed, tuple((top, left) for top in starts[0] for left in starts[1]))


def _starts(length: int, canvas: int, step: int, patch: int) -> list[int]:
    """Spread windows evenly over a side; the last one may reach beyond it by less than a patch."""
    count = max(1, -(-(length - canvas) // step) + 1)
    if count == 1:
        return [0]
    last = -(-(length - canvas) // patch)  # in patches
    return [patch * round(i * last / (count - 1)) for i in range(count)]


def cut_window(
    image: UInt8[np.ndarray, "height width 3"],
    plan: TilePlan,
    place_on_plane: tuple[int, int],
    *,
    rounded: bool = True,
) -> CanvasImage:
    """Return the window at (top, left), resized as `resize_and_pad` resizes an image to the plane."""
    top, left = place_on_plane
    height, width = image.shape[:2]
    rows, columns = fitted_taps(height, width, plan.side)
    rows, first_row, last_row = _shifted(rows.cropped(top, plan.canvas))
    columns, first_column, last_column = _shifted(columns.cropped(left, plan.canvas))
    part = image[first_row:last_row, first_column:last_column]
    return place(part, np.zeros((0, *part.shape[:2]), bool), rows, columns, plan.canvas, rounded=rounded)


def _shifted(taps: Taps) -> tuple[Taps, int, int]:
    """Return taps of a part of the input, and where the part begins and ends."""
    first, last = int(taps.low[0]), int(taps.high[-1]) + 1
    return Taps(taps.low - first, taps.high - first, taps.fraction), first, last


class MapMerger:
    """Average the maps of overlapping windows, each weighted by the distance to the window's border.

    Maps are added one after the other, so that memory grows with the image and not with the windows.
    """

    def __init__(self, plan: TilePlan):
        self._plan, self._windows = plan, iter(plan.windows)
        self._total = self._weight = self._taper = np.zeros(0, np.float32)

    def add(self, values: Float[np.ndarray, "*batch side side"]) -> None:
        """Add the map of the next window, at any resolution of which a patch is a whole number of cells."""
        side = values.shape[-1]
        cell = self._plan.canvas // side  # in pixels of the plane
        merged = self._plan.side // cell
        if not self._weight.size:
            ramp = np.minimum(np.arange(side) + 1, side - np.arange(side)) / max(1, OVERLAP * side)
            ramp = np.minimum(ramp, 1).astype(np.float32)
            self._taper = ramp[:, None] * ramp
            self._total = np.zeros((*values.shape[:-2], merged, merged), np.float32)
            self._weight = np.full((merged, merged), 1e-9, np.float32)
        top, left = next(self._windows)
        y, x = top // cell, left // cell
        rows, columns = min(side, merged - y), min(side, merged - x)
        part = self._taper[:rows, :columns]
        self._total[..., y : y + rows, x : x + columns] += part * values[..., :rows, :columns]
        self._weight[y : y + rows, x : x + columns] += part

    def average(self) -> Float[np.ndarray, "*batch merged merged"]:
        """Return the merged map, when every window has been added."""
        return self._total / self._weight


def keep_certain(
    plan: TilePlan, logits: Float[np.ndarray, "*batch merged merged"]
) -> Float[np.ndarray, "*batch merged merged"]:
    """Lower the regions of merged masks that are nowhere certain below 0, in place; return the logits.

    Most windows show none of the objects, and what a model finds there is uncertain everywhere.
    """
    if len(plan.windows) == 1:
        return logits
    cell = plan.side // logits.shape[-1]
    rows, columns = (-(-length // cell) for length in plan.size)
    for values in logits.reshape(-1, *logits.shape[-2:]):
        on_image = values[:rows, :columns]
        count, labels = cv2.connectedComponents((on_image > 0).view(np.uint8))
        highest = ndimage.maximum(on_image, labels, np.arange(count))
        least = CERTAIN * on_image.max()
        dropped = (highest < least) & (np.arange(count) > 0)
        on_image[dropped[labels]] -= least
    return logits


def match_tiles(
    engine: Engine,
    image: UInt8[np.ndarray, "height width 3"],
    plan: TilePlan,
    slots: Sequence[ConceptSlots],
    everyone: Prototypes | None = None,
    *,
    rounded: bool = True,
) -> ConceptMatches:
    """Decode concepts in every window, a batch after the other, and merge what `match_concepts` returns.

    Returns:
        Matches without the batch axis, whose maps cover the square of the plan's side.
    """
    logits, similarity, matched, mutual = MapMerger(plan), MapMerger(plan), MapMerger(plan), []
    for window in _match_windows(engine, image, plan, slots, everyone, rounded):
        logits.add(window.logits)
        similarity.add(window.similarity)
        matched.add(window.matched)
        mutual.append(window.mutual)
    merged = keep_certain(plan, logits.average())
    return ConceptMatches(merged, similarity.average(), matched.average(), np.max(mutual, axis=0))


def _match_windows(
    engine: Engine,
    image: np.ndarray,
    plan: TilePlan,
    slots: Sequence[ConceptSlots],
    everyone: Prototypes | None,
    rounded: bool,
) -> Iterator[ConceptMatches]:
    """Fetch the results of a batch while the device works on the next one."""
    started: deque[tuple[int, list[ConceptMatches]]] = deque()

    def fetch() -> Iterator[ConceptMatches]:
        count, chunks = started.popleft()
        return (image_matches(chunks, row) for row in range(count))

    for batch in window_batches(image, plan, engine.rows, rounded=rounded):
        started.append((len(batch), engine.match_concepts(engine.features(batch), slots, everyone)))
        if len(started) > 1:
            yield from fetch()
    while started:
        yield from fetch()


def window_batches(
    image: UInt8[np.ndarray, "height width 3"], plan: TilePlan, rows: int, *, rounded: bool = True
) -> Iterator[list[CanvasImage]]:
    """Yield the windows in batches of `rows`; threads cut the next ones meanwhile."""
    cut = partial(cut_window, image, plan, rounded=rounded)
    with closing(prefetch_results(cut, plan.windows, threads=2, limit=2 * rows)) as windows:
        while batch := list(islice(windows, rows)):
            yield batch
