"""Resample a model's small maps to an image, in strips of rows, and measure the masks in the same pass.

Masks are kept as packed bits, so that a large image takes little memory.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt8, UInt16

from segic_jax.data.preprocess import Taps, bilinear_taps, resample
from segic_jax.errors import ConfigError

STRIP = 1 << 22  # pixels that are processed at a time
ROUNDING = 1e-3  # a resampled logit exceeds the logits around it by much less

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels; x1 and y1 lie just beyond


class PackedMask(NamedTuple):
    """Hold the rows of a mask that are not empty, eight pixels per byte."""

    top: int  # row of the image where the bits begin
    bits: UInt8[np.ndarray, "rows bytes"]

    def rows(self, start: int, stop: int, width: int) -> Bool[np.ndarray, "rows width"]:
        """Return the rows from `start` to before `stop` of the mask of an image."""
        rows = np.zeros((stop - start, width), bool)
        first, last = max(start, self.top), min(stop, self.top + len(self.bits))
        if first < last:
            bits = self.bits[first - self.top : last - self.top]
            rows[first - start : last - start] = np.unpackbits(bits, axis=1, count=width).view(bool)
        return rows


class Measured(NamedTuple):
    """Hold what one pass over the logits gives; a row for each class."""

    label_map: UInt16[np.ndarray, "height width"]
    areas: Int64[np.ndarray, " concepts"]
    boxes: list[Box | None]
    scores: Float32[np.ndarray, " concepts"]
    masks: list[PackedMask | None]


def require_cut(cut: float) -> None:
    """Raise ConfigError for a cut that is no number; infinities mark everything or nothing."""
    if not isinstance(cut, Real) or math.isnan(cut):
        raise ConfigError(f"cut {cut!r} must be a number: the logit above which a pixel is inside.")


@dataclass(frozen=True, eq=False)
class ImageLogits:
    """Give the logits of an image, of which the model's small maps are kept."""

    small: Float[np.ndarray, "concepts side side"]  # of the full canvas
    canvas: int  # its side in pixels
    placed: tuple[int, int]  # (h, w) of the image on the canvas
    size: tuple[int, int]  # (height, width) of the image

    def strips(self) -> Iterator[tuple[int, int]]:
        """Return the first row of each strip, and the one after its last."""
        height, width = self.size
        step = max(1, STRIP // width)
        return ((start, min(start + step, height)) for start in range(0, height, step))

    def rows(self, concept: int, start: int, stop: int) -> Float32[np.ndarray, "rows width"]:
        """Return the logits of the image's rows from `start` to before `stop`.

        Small map -> canvas -> image, both bilinear; OpenCV, which is fast, resamples the image's columns.
        """
        down, across, to_image = self._taps
        part = to_image.cropped(start, stop - start)
        first, last = int(part.low[0]), int(part.high[-1]) + 1
        on_canvas = resample(self.small[concept], down.cropped(first, last - first), across)
        fraction = part.fraction[:, None]
        narrow = on_canvas[part.low - first] * (1 - fraction) + on_canvas[part.high - first] * fraction
        return cv2.resize(narrow, (self.size[1], len(narrow)), interpolation=cv2.INTER_LINEAR)

    def measure(self, chosen: Sequence[int], cut: float) -> Measured:
        """Resample each class once, and take from it all that is needed later.

        Args:
            chosen: the classes that may have a mask.
            cut: pixels with a larger logit are inside.
        """
        height, width = self.size
        count = len(self.small)
        windows = {i: window for i in chosen if (window := self._window(i, cut)) is not None}
        label_map = np.zeros((height, width), np.uint16)
        rows, columns = np.zeros((count, height), bool), np.zeros((count, width), bool)
        areas, probability = np.zeros(count, np.int64), np.zeros(count)
        bits: list[list[np.ndarray]] = [[] for _ in range(count)]
        for start, stop in self.strips():
            best = np.full((stop - start, width), cut, np.float32) if len(windows) > 1 else None
            for i, (top, bottom) in windows.items():
                first, last = max(start, top), min(stop, bottom)
                if first >= last:
                    continue
                logits = self.rows(i, first, last)
                inside = logits > cut
                bits[i].append(np.packbits(inside, axis=1))
                rows[i, first:last] = inside.any(1)
                columns[i] |= (across := inside.any(0))
                if not len(filled := np.flatnonzero(across)):
                    continue
                used = slice(filled[0], filled[-1] + 1)
                inside, logits = inside[:, used], logits[:, used]
                values = logits[inside]
                areas[i] += len(values)
                probability[i] += (1 / (1 + np.exp(-np.clip(values, -80, 80), dtype=np.float64))).sum()
                labels = label_map[first:last, used]
                if best is None:
                    labels[inside] = i + 1
                else:
                    largest = best[first - start : last - start, used]
                    wins = logits > largest
                    labels[wins] = i + 1
                    largest[wins] = logits[wins]
        boxes = [_box(*sides) if area else None for area, *sides in zip(areas, rows, columns, strict=True)]
        masks = [_packed(windows[i][0], bits[i], box) if box else None for i, box in enumerate(boxes)]
        scores = (probability / np.maximum(areas, 1)).astype(np.float32)
        return Measured(label_map, areas, boxes, scores, masks)

    def weights_at(self, x: int, y: int) -> tuple[Float[np.ndarray, " side"], Float[np.ndarray, " side"]]:
        """Return how much each row and each column of the small map counts at a pixel of the image."""
        (_, w), width, side = self.placed, self.size[1], self.small.shape[-1]
        down, across, to_rows = self._taps
        to_columns = bilinear_taps(w, width, w / width)
        return _chained_weights(down, to_rows, y, side), _chained_weights(across, to_columns, x, side)

    def _window(self, concept: int, cut: float) -> tuple[int, int] | None:
        """Return the first row that a mask can have, and the one after its last; None for an empty mask."""
        if self.small[concept].max() <= cut:
            return None  # bilinear resampling makes no larger value
        down, _, to_image = self._taps
        near = self.small[concept].max(1) > cut - ROUNDING * max(1, abs(cut))
        near = near[down.low] | near[down.high]
        near = np.flatnonzero(near[to_image.low] | near[to_image.high])
        return (int(near[0]), int(near[-1]) + 1) if len(near) else None

    @cached_property
    def _taps(self) -> tuple[Taps, Taps, Taps]:
        """Return the taps to the canvas's rows and columns that the image has, and to the image's rows."""
        (h, w), height, side = self.placed, self.size[0], self.small.shape[-1]
        to_canvas = bilinear_taps(side, self.canvas, side / self.canvas)
        return to_canvas.cropped(0, h), to_canvas.cropped(0, w), bilinear_taps(h, height, h / height)


def _chained_weights(first: Taps, second: Taps, at: int, side: int) -> Float[np.ndarray, " side"]:
    """Return the weight of each of `side` inputs in the output `at` of two resizes."""
    weights = np.zeros(side)
    fraction = float(second.fraction[at])
    for index, share in ((second.low[at], 1 - fraction), (second.high[at], fraction)):
        inner = float(first.fraction[index])
        weights[first.low[index]] += share * (1 - inner)
        weights[first.high[index]] += share * inner
    return weights


def _box(rows: Bool[np.ndarray, " height"], columns: Bool[np.ndarray, " width"]) -> Box:
    """Return x0, y0, x1, y1 around what is True."""
    (y0, y1), (x0, x1) = ((int(np.argmax(a)), int(len(a) - np.argmax(a[::-1]))) for a in (rows, columns))
    return x0, y0, x1, y1


def _packed(top: int, bits: Sequence[np.ndarray], box: Box) -> PackedMask:
    """Join the rows that the strips gave from `top` on, and keep those inside the box."""
    _, y0, _, y1 = box
    return PackedMask(y0, np.concatenate(bits)[y0 - top : y1 - top])
