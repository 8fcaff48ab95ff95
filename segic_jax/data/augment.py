"""Random flip and large-scale jitter of a training picture (utils/dataloader.py:125-140, 255-310).

The uniform numbers come from the caller, so that a picture's augmentation is a plain function.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from segic_jax.data.canvas import Placed, Taps, bilinear_taps, place

OFFICIAL_SCALES = (0.1, 2.0)  # of the jitter (utils/dataloader.py:262)


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
) -> Placed:
    """Resize so that the longer side is a random multiple of the canvas, crop at a random place, pad.

    Args:
        uniforms: three numbers in 0..1 for scale, vertical and horizontal place of the crop.
        scales: the least and the largest multiple.
    """
    rows, columns = jittered_taps(image.shape[0], image.shape[1], canvas, uniforms, scales)
    return place(image, masks, rows, columns, canvas)


class Window(NamedTuple):
    """Along one axis: the side becomes `scaled` pixels, of which [start, start + kept) stay."""

    scaled: int
    start: int
    kept: int


def jitter_windows(
    height: int, width: int, canvas: int, uniforms: Float[np.ndarray, "3"], scales: tuple[float, float]
) -> tuple[Window, Window]:
    """Sizes of the jittered picture and place of the crop, for rows and columns."""
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
    """Rows and columns of the jittered picture, cropped to the canvas. Only what is kept is ever computed."""
    rows, columns = (
        bilinear_taps(side, window.scaled, side / window.scaled).cropped(window.start, window.kept)
        for side, window in zip(
            (height, width), jitter_windows(height, width, canvas, uniforms, scales), strict=True
        )
    )
    return rows, columns
