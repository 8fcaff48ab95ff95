"""Resize images of any size onto a square canvas, as the official `Resize` and `ResizeVOS` do.

The resize is bilinear without antialiasing, the longer side fills the canvas, and padding lies right and
below. Everything is computed in float32. A canvas stores the image rounded to uint8, a quarter of the bytes,
or in float32 as the official code does, and masks that are True above 0.5. Source:
utils/dataloader.py:145-185.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8
from PIL import Image

from segic_jax.data.masks import resize_nearest

PADDING = 128  # grey level of the padding; masks are padded with False


class CanvasImage(NamedTuple):
    """Hold an image and its masks on a canvas."""

    image: UInt8[np.ndarray, "canvas canvas 3"] | Float32[np.ndarray, "canvas canvas 3"]  # 0..255
    masks: Bool[np.ndarray, "concepts canvas canvas"]
    size: tuple[int, int]  # valid (h, w); the rest is padding


class Taps(NamedTuple):
    """Describe a resize along one axis: output i is low + fraction * (high - low) at the input's indices."""

    low: np.ndarray
    high: np.ndarray
    fraction: np.ndarray

    def cropped(self, start: int, length: int) -> "Taps":
        """Return the taps of the outputs [start, start + length) only."""
        return Taps(*(values[start : start + length] for values in self))

    def interleaved(self, channels: int) -> "Taps":
        """Return the taps for an axis that holds all channels of each pixel side by side."""
        channel = np.arange(channels)
        return Taps(
            (self.low[:, None] * channels + channel).ravel(),
            (self.high[:, None] * channels + channel).ravel(),
            np.repeat(self.fraction, channels),
        )


def bilinear_taps(size_in: int, size_out: int, step: float) -> Taps:
    """Return bilinear taps with align_corners False: coordinates are clamped at 0, indices at the end.

    torch rounds the step and the coordinate to float32 once each; doing the same matches its images to 1e-4.
    On the CPU, where the official code resizes, torch copies an axis that keeps its size, whatever the step.
    """
    step = 1.0 if size_in == size_out else float(np.float32(step))
    source = (np.arange(size_out) + 0.5) * step - 0.5
    source = np.maximum(source.astype(np.float32), 0)
    low = np.minimum(source.astype(np.intp), size_in - 1)
    return Taps(low, np.minimum(low + 1, size_in - 1), source - low.astype(np.float32))


def resize(
    planes: Shaped[np.ndarray, "*planes height width"], size: Sequence[int]
) -> Float32[np.ndarray, "*planes rows columns"]:
    """Resize bilinearly to exactly `size` (h, w), as torch's `interpolate` does given a size."""
    height, width = planes.shape[-2:]
    rows, columns = size
    return resample(
        planes, bilinear_taps(height, rows, height / rows), bilinear_taps(width, columns, width / columns)
    )


def fitted_taps(height: int, width: int, canvas: int, longer: int | None = None) -> tuple[Taps, Taps]:
    """Return the taps of the rows and columns of the official resize.

    The output sizes are the floor of side * scale and the step is 1 / scale rather than in / out, so that
    some sizes (83 at 112, 612 at 896) lose a pixel to rounding.

    Args:
        longer: the side that fills the canvas; by default the longer one of `height` and `width`.
    """
    scale = canvas / (longer or max(height, width))
    rows, columns = (max(math.floor(side * scale), 1) for side in (height, width))
    return bilinear_taps(height, rows, 1 / scale), bilinear_taps(width, columns, 1 / scale)


def resample(
    planes: Shaped[np.ndarray, "*planes height width"], rows: Taps, columns: Taps
) -> Float32[np.ndarray, "*planes rows columns"]:
    """Interpolate the last two axes bilinearly."""
    return _blend(_blend(planes, rows, axis=-2), columns, axis=-1)


def resample_image(
    image: Shaped[np.ndarray, "height width channels"], rows: Taps, columns: Taps
) -> Float32[np.ndarray, "rows columns channels"]:
    """Interpolate an image with channels last bilinearly."""
    height, width, channels = image.shape
    flat = resample(image.reshape(height, width * channels), rows, columns.interleaved(channels))
    return flat.reshape(len(flat), -1, channels)


def _blend(x: np.ndarray, taps: Taps, axis: int) -> np.ndarray:
    low = np.take(x, taps.low, axis=axis).astype(np.float32)
    if taps.fraction.any():
        difference = np.subtract(np.take(x, taps.high, axis=axis), low, dtype=np.float32)
        difference *= taps.fraction if axis == -1 else taps.fraction[:, None]
        low += difference
    return low


def resize_and_pad(
    image: UInt8[np.ndarray, "height width 3"],
    masks: Bool[np.ndarray, "concepts height width"],
    canvas: int,
    *,
    rounded: bool = True,
) -> CanvasImage:
    """Resize the longer side to `canvas` and pad right and below, as the official `Resize` does.

    The resize is bilinear without antialiasing. Masks are thresholded above 0.5: a tiny one may become empty.

    Args:
        rounded: round the image to uint8; False keeps float32, as the official code does.
    """
    height, width = image.shape[:2]
    if max(height, width) == canvas:
        return pad(image if rounded else image.astype(np.float32), masks, canvas)
    return place(image, masks, *fitted_taps(height, width, canvas), canvas, rounded=rounded)


def stretch(
    image: UInt8[np.ndarray, "height width 3"], masks: Bool[np.ndarray, "concepts height width"], canvas: int
) -> CanvasImage:
    """Resize an image to fill the canvas, as INSID3's code does with Pillow, and masks to the nearest pixel.

    The resize is bilinear with antialiasing and rounds to uint8; the aspect ratio is not kept.
    """
    filled = Image.fromarray(image).resize((canvas, canvas), Image.Resampling.BILINEAR)
    on_canvas = np.zeros((len(masks), canvas, canvas), bool)
    for row, mask in enumerate(masks):
        on_canvas[row] = resize_nearest(mask, canvas, canvas)
    return CanvasImage(np.asarray(filled), on_canvas, (canvas, canvas))


def place(
    image: UInt8[np.ndarray, "height width 3"],
    masks: Bool[np.ndarray, "concepts height width"],
    rows: Taps,
    columns: Taps,
    canvas: int,
    *,
    rounded: bool = True,
) -> CanvasImage:
    """Resample, threshold the masks (strictly above 0.5, segic.py:429), and pad; see `resize_and_pad`."""
    resized = resample_image(image, rows, columns)
    if rounded:
        resized = np.rint(resized).astype(np.uint8)
    return pad(resized, resample(masks, rows, columns) > 0.5, canvas)


def place_masks(
    masks: Bool[np.ndarray, "concepts height width"], longer: int, canvas: int
) -> Bool[np.ndarray, "concepts canvas canvas"] | None:
    """Place masks with the scale of an image of another size, as the official `ResizeVOS` does.

    Args:
        longer: the longer side of the image.

    Returns:
        The masks on the canvas, or None where they do not fit on it.
    """
    height, width = masks.shape[1:]
    rows, columns = fitted_taps(height, width, canvas, longer)
    if max(len(rows.low), len(columns.low)) > canvas:
        return None
    resized = resample(masks, rows, columns) > 0.5
    on_canvas = np.zeros((len(masks), canvas, canvas), bool)
    on_canvas[:, : resized.shape[1], : resized.shape[2]] = resized
    return on_canvas


def pad(
    image: UInt8[np.ndarray, "height width 3"] | Float32[np.ndarray, "height width 3"],
    masks: Bool[np.ndarray, "concepts height width"],
    canvas: int,
) -> CanvasImage:
    """Copy an image that fits to the top left corner of a canvas."""
    height, width = image.shape[:2]
    on_canvas = np.full((canvas, canvas, 3), PADDING, image.dtype)
    on_canvas[:height, :width] = image
    masks_on_canvas = np.zeros((len(masks), canvas, canvas), bool)
    masks_on_canvas[:, :height, :width] = masks
    return CanvasImage(on_canvas, masks_on_canvas, (height, width))
