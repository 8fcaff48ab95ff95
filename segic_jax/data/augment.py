"""Random augmentation of training images: mirror and large-scale jitter of a semantic image
(utils/dataloader.py:125-140, 255-310), and the views of an image with instances (utils/inst_aug.py).

Random numbers come in from the caller, so that an augmentation is a plain function. OpenCV resamples in
float32, bilinear without antialias, at the positions of `jittered_taps` up to float32 rounding: within 0.01
grey levels of the exact value, which may round the other way where it is that close to a half.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from segic_jax.data.colour import Colour, draw_colour, jitter_colour
from segic_jax.data.preprocess import PADDING, CanvasImage, Taps, bilinear_taps

OFFICIAL_SCALES = (0.1, 2.0)  # of the jitter (utils/dataloader.py:262)
ASPECTS = (3 / 4, 4 / 3)  # of a view's crop, torchvision's
TRIES = 10  # at a crop that fits


def flip(
    image: UInt8[np.ndarray, "height width 3"],
    masks: Bool[np.ndarray, "concepts height width"],
    uniform: float,
) -> tuple[UInt8[np.ndarray, "height width 3"], Bool[np.ndarray, "concepts height width"]]:
    """Mirror left and right when `uniform` (0..1) is at least 0.5."""
    return (image[:, ::-1], masks[:, :, ::-1]) if uniform >= 0.5 else (image, masks)


def large_scale_jitter(
    image: UInt8[np.ndarray, "height width 3"],
    masks: Bool[np.ndarray, "concepts height width"],
    canvas: int,
    uniforms: Float[np.ndarray, "3"],
    scales: tuple[float, float] = OFFICIAL_SCALES,
) -> CanvasImage:
    """Resize so that the longer side is a random multiple of the canvas, crop at a random place, pad.

    Args:
        uniforms: three numbers in 0..1 for scale, vertical and horizontal place of the crop.
        scales: the least and the largest multiple.
    """
    rows, columns = jitter_windows(image.shape[0], image.shape[1], canvas, uniforms, scales)
    placed = CanvasImage(
        np.full((canvas, canvas, 3), PADDING, np.uint8),
        np.zeros((len(masks), canvas, canvas), bool),
        (rows.kept, columns.kept),
    )
    kept = np.s_[rows.start : rows.start + rows.kept, columns.start : columns.start + columns.kept]
    size = columns.scaled, rows.scaled
    _round_into(placed.image[: rows.kept, : columns.kept], _resized(image, size)[kept])
    for mask, on_canvas in zip(masks, placed.masks, strict=True):
        np.greater(_resized(mask, size)[kept], 0.5, out=on_canvas[: rows.kept, : columns.kept])
    return placed


class Window(NamedTuple):
    """Along one axis: the side becomes `scaled` pixels, of which [start, start + kept) stay."""

    scaled: int
    start: int
    kept: int


def jitter_windows(
    height: int, width: int, canvas: int, uniforms: Float[np.ndarray, "3"], scales: tuple[float, float]
) -> tuple[Window, Window]:
    """Sizes of the jittered image and place of the crop, for rows and columns."""
    # In float32 as torch has it, so that the roundings (half to even) fall the same way.
    least, span = np.float32(scales[0]), np.float32(scales[1] - scales[0])
    longer = np.rint((np.float32(uniforms[0]) * span + least) * np.float32(canvas))
    scale = min(longer / np.float32(height), longer / np.float32(width))
    windows = []
    for side, uniform in zip((height, width), uniforms[1:], strict=True):
        scaled = max(int(np.rint(np.float32(side) * scale)), 1)
        kept = min(scaled, canvas)
        windows.append(Window(scaled, int(uniform * (scaled - kept + 1)), kept))
    return windows[0], windows[1]


def jittered_taps(
    height: int, width: int, canvas: int, uniforms: Float[np.ndarray, "3"], scales: tuple[float, float]
) -> tuple[Taps, Taps]:
    """The exact rows and columns of the jittered image, cropped to the canvas."""
    rows, columns = (
        bilinear_taps(side, window.scaled, side / window.scaled).cropped(window.start, window.kept)
        for side, window in zip(
            (height, width), jitter_windows(height, width, canvas, uniforms, scales), strict=True
        )
    )
    return rows, columns


class View(NamedTuple):
    """How an image with instances is shown: a part of it on the whole canvas."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool
    colour: Colour | None


def draw_view(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    crop: tuple[float, float],
    colour: tuple[float, float, float, float],
    colour_share: float,
    mirror: float,
) -> View:
    """torchvision's RandomResizedCrop, then ColorJitter and RandomHorizontalFlip with their probabilities.

    Args:
        crop: the least and the largest share of the area.
        colour: most that brightness, contrast, saturation and hue change.
        colour_share, mirror: probabilities.
    """
    top, left, rows, columns = _crop(height, width, rng, crop)
    jitter = draw_colour(rng, colour) if rng.random() < colour_share else None
    return View(top, left, rows, columns, bool(rng.random() < mirror), jitter)


def view_image(
    image: UInt8[np.ndarray, "height width 3"], view: View, canvas: int
) -> UInt8[np.ndarray, "canvas canvas 3"]:
    """The part of the image, bilinear, in other colours, mirrored."""
    part = image[view.top : view.top + view.height, view.left : view.left + view.width]
    if view.mirrored:
        part = part[:, ::-1]
    shown, rounded = _resized(part, (canvas, canvas)), np.empty((canvas, canvas, 3), np.uint8)
    _round_into(rounded, shown if view.colour is None else jitter_colour(shown, view.colour))
    return rounded


def view_mask(
    mask: Bool[np.ndarray, "height width"], view: View, out: Bool[np.ndarray, "canvas canvas"]
) -> None:
    """The same part of a mask, each pixel the nearest one as torch counts: floor(place * in / out)."""
    rows, columns = (_nearest(side, len(out)) for side in (view.height, view.width))
    if view.mirrored:
        columns = columns[::-1]
    part = mask[view.top : view.top + view.height].take(view.left + columns, axis=1)
    part.take(rows, axis=0, out=out, mode="clip")  # this mode writes to `out` at once


def _crop(
    height: int, width: int, rng: np.random.Generator, shares: tuple[float, float]
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop with a random share of the area and a random aspect."""
    low, high = ASPECTS
    for _ in range(TRIES):
        area = height * width * rng.uniform(*shares)
        aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
        rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < rows <= height and 0 < columns <= width:
            top = int(rng.integers(height - rows + 1))
            return top, int(rng.integers(width - columns + 1)), rows, columns
    # None fits: the middle, as much of it as the aspects allow.
    rows, columns = min(height, round(width / low)), min(width, round(height * high))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def _nearest(side: int, canvas: int) -> np.ndarray:
    return np.minimum(
        (np.arange(canvas, dtype=np.float32) * np.float32(side / canvas)).astype(np.intp), side - 1
    )


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> Float32[np.ndarray, "rows columns *channels"]:
    """To (width, height)."""
    return cv2.resize(pixels.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)


def _round_into(
    rounded: UInt8[np.ndarray, "rows columns 3"], pixels: Float32[np.ndarray, "rows columns 3"]
) -> None:
    """Half to even; values are 0 to 255."""
    cv2.convertScaleAbs(pixels, dst=rounded)
