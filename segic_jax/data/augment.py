"""Augment training images at random.

Semantic images are flipped and jittered at a large scale (utils/dataloader.py:125-140, 255-310); of an image
with instances, views are made (utils/inst_aug.py) with torchvision's crop, colour jitter and flip.

The caller passes the random numbers, so that an augmentation is a pure function. OpenCV resamples in
float32, bilinear without antialias, at the positions of `jittered_taps` up to float32 rounding: within 0.01
grey levels of the exact value, which may round the other way if it is that close to a half.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from segic_jax.data.preprocess import PADDING, CanvasImage, Taps, bilinear_taps

OFFICIAL_SCALES = (0.1, 2.0)  # of the jitter (utils/dataloader.py:262)
ASPECTS = (3 / 4, 4 / 3)  # of a view's crop, torchvision's
TRIES = 10  # to draw a crop that fits
GREY = np.array([0.2989, 0.587, 0.114], np.float32)  # torchvision's weights of red, green and blue
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def flip(
    image: UInt8[np.ndarray, "height width 3"],
    masks: Bool[np.ndarray, "concepts height width"],
    uniform: float,
) -> tuple[UInt8[np.ndarray, "height width 3"], Bool[np.ndarray, "concepts height width"]]:
    """Flip the image and its masks left to right if `uniform` (0..1) is at least 0.5."""
    return (image[:, ::-1], masks[:, :, ::-1]) if uniform >= 0.5 else (image, masks)


def large_scale_jitter(
    image: UInt8[np.ndarray, "height width 3"],
    masks: Bool[np.ndarray, "concepts height width"],
    canvas: int,
    uniforms: Float[np.ndarray, "3"],
    scales: tuple[float, float] = OFFICIAL_SCALES,
) -> CanvasImage:
    """Resize the longer side to a random multiple of the canvas, crop at a random place, and pad.

    Args:
        uniforms: three numbers in 0..1 for the scale and the vertical and horizontal place of the crop.
        scales: the smallest and the largest multiple.
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
    """Describe a resize and crop along one axis: to `scaled` pixels, of which [start, start + kept) stay."""

    scaled: int
    start: int
    kept: int


def jitter_windows(
    height: int, width: int, canvas: int, uniforms: Float[np.ndarray, "3"], scales: tuple[float, float]
) -> tuple[Window, Window]:
    """Return the sizes of the jittered image and the place of the crop, for rows and columns."""
    # Computed in float32 as torch does, so that roundings (half to even) agree.
    smallest, span = np.float32(scales[0]), np.float32(scales[1] - scales[0])
    longer = np.rint((np.float32(uniforms[0]) * span + smallest) * np.float32(canvas))
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
    """Return the exact rows and columns of the jittered image, cropped to the canvas."""
    rows, columns = (
        bilinear_taps(side, window.scaled, side / window.scaled).cropped(window.start, window.kept)
        for side, window in zip(
            (height, width), jitter_windows(height, width, canvas, uniforms, scales), strict=True
        )
    )
    return rows, columns


class ColourJitter(NamedTuple):
    """Hold the parameters of one colour jitter."""

    order: tuple[int, ...]  # a permutation of BRIGHTNESS, CONTRAST, SATURATION and HUE
    factors: tuple[float, ...]  # by that numbering; for the hue an offset, of which 1 is the full circle


def draw_colour_jitter(rng: np.random.Generator, strength: tuple[float, float, float, float]) -> ColourJitter:
    """Draw the parameters of a colour jitter.

    Args:
        strength: of brightness, contrast, saturation and hue. A factor lies in 1 - strength .. 1 + strength
            and is not below 0; the offset of the hue lies in -strength .. strength.
    """
    order = tuple(rng.permutation(4).tolist())
    factors = [float(rng.uniform(max(0, 1 - s), 1 + s)) for s in strength[:HUE]]
    return ColourJitter(order, (*factors, float(rng.uniform(-strength[HUE], strength[HUE]))))


def apply_colour_jitter(
    pixels: Float32[np.ndarray, "height width 3"], jitter: ColourJitter
) -> Float32[np.ndarray, "height width 3"]:
    """Apply the changes in their order to values of 0 to 255, clipping after each of them."""
    for change in jitter.order:
        factor = jitter.factors[change]
        pixels = _rotate_hue(pixels, factor) if change == HUE else _blend(pixels, change, factor)
    return pixels


def _blend(pixels: Float32[np.ndarray, "h w 3"], change: int, factor: float) -> np.ndarray:
    """Return factor * pixels + (1 - factor) * (black, the mean grey, or each pixel's grey)."""
    matrix = np.zeros((3, 4), np.float32)
    matrix[:, :3] = np.eye(3) * factor
    if change == CONTRAST:
        matrix[:, 3] = (1 - factor) * (GREY @ np.array(cv2.mean(pixels)[:3], np.float32))
    elif change == SATURATION:
        matrix[:, :3] += (1 - factor) * GREY
    changed = cv2.transform(pixels, matrix)
    return np.clip(changed, 0, 255, out=changed)


def _rotate_hue(pixels: Float32[np.ndarray, "h w 3"], offset: float) -> np.ndarray:
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)  # hue in degrees
    hsv[..., 0] += offset % 1 * 360  # OpenCV takes values of up to 720 modulo 360
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


class ViewTransform(NamedTuple):
    """Hold the parameters of a view: a crop that fills the canvas, a flip and a colour jitter."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool
    colour: ColourJitter | None


def draw_view(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    crop: tuple[float, float],
    colour: tuple[float, float, float, float],
    colour_share: float,
    mirror: float,
) -> ViewTransform:
    """Draw torchvision's RandomResizedCrop, and by chance a ColorJitter and a RandomHorizontalFlip.

    Args:
        crop: the smallest and the largest share of the area.
        colour: the largest change of brightness, contrast, saturation and hue.
        colour_share: the probability of a colour jitter.
        mirror: the probability of a flip.
    """
    top, left, rows, columns = _crop(height, width, rng, crop)
    jitter = draw_colour_jitter(rng, colour) if rng.random() < colour_share else None
    return ViewTransform(top, left, rows, columns, bool(rng.random() < mirror), jitter)


def view_image(
    image: UInt8[np.ndarray, "height width 3"], view: ViewTransform, canvas: int
) -> UInt8[np.ndarray, "canvas canvas 3"]:
    """Apply a view to an image: crop, flip, resize bilinearly and jitter the colours."""
    part = image[view.top : view.top + view.height, view.left : view.left + view.width]
    if view.mirrored:
        part = part[:, ::-1]
    pixels, rounded = _resized(part, (canvas, canvas)), np.empty((canvas, canvas, 3), np.uint8)
    _round_into(rounded, pixels if view.colour is None else apply_colour_jitter(pixels, view.colour))
    return rounded


def view_mask(
    mask: Bool[np.ndarray, "height width"], view: ViewTransform, out: Bool[np.ndarray, "canvas canvas"]
) -> None:
    """Write the view of a mask to `out`.

    Each pixel is the nearest one as torch defines it: floor(index * size_in / size_out).
    """
    rows, columns = (_nearest(side, len(out)) for side in (view.height, view.width))
    if view.mirrored:
        columns = columns[::-1]
    part = mask[view.top : view.top + view.height].take(view.left + columns, axis=1)
    part.take(rows, axis=0, out=out, mode="clip")  # this mode writes to `out` at once


def _crop(
    height: int, width: int, rng: np.random.Generator, shares: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Draw (top, left, height, width) of a crop with a random share of the area and a random aspect."""
    low, high = ASPECTS
    for _ in range(TRIES):
        area = height * width * rng.uniform(*shares)
        aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
        rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < rows <= height and 0 < columns <= width:
            top = int(rng.integers(height - rows + 1))
            return top, int(rng.integers(width - columns + 1)), rows, columns
    # No crop fits: take the largest central one that the aspects allow.
    rows, columns = min(height, round(width / low)), min(width, round(height * high))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def _nearest(side: int, canvas: int) -> np.ndarray:
    return np.minimum(
        (np.arange(canvas, dtype=np.float32) * np.float32(side / canvas)).astype(np.intp), side - 1
    )


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> Float32[np.ndarray, "rows columns *channels"]:
    """Resize bilinearly to `size` (width, height)."""
    return cv2.resize(pixels.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)


def _round_into(
    rounded: UInt8[np.ndarray, "rows columns 3"], pixels: Float32[np.ndarray, "rows columns 3"]
) -> None:
    """Round values of 0 to 255 half to even."""
    cv2.convertScaleAbs(pixels, dst=rounded)
