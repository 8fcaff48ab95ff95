"""Random flip and large-scale jitter of a training picture (utils/dataloader.py:125-140, 255-310).

The uniform numbers come from the caller, so that a picture's augmentation is a plain function.
"""

import numpy as np
from jaxtyping import Bool, Float, UInt8

from segic_jax.data.canvas import Placed, Taps, bilinear_taps, place


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
    scales: tuple[float, float] = (0.1, 2.0),
) -> Placed:
    """Resize so that the longer side is a random multiple of the canvas, crop at a random place, pad.

    Args:
        uniforms: three numbers in 0..1 for scale, vertical and horizontal place of the crop.
        scales: the least and the largest multiple.
    """
    rows, columns = jittered_taps(image.shape[0], image.shape[1], canvas, uniforms, scales)
    return place(image, masks, rows, columns, canvas)


def jittered_taps(
    height: int, width: int, canvas: int, uniforms: Float[np.ndarray, "3"], scales: tuple[float, float]
) -> tuple[Taps, Taps]:
    """Rows and columns of the jittered picture, cropped to the canvas. Only what is kept is ever computed."""
    # In float32 as torch has it, so that the roundings (half to even) fall the same way.
    least, span = np.float32(scales[0]), np.float32(scales[1] - scales[0])
    longer = np.rint((np.float32(uniforms[0]) * span + least) * np.float32(canvas))
    scale = min(longer / np.float32(height), longer / np.float32(width))
    taps = []
    for side, uniform in zip((height, width), uniforms[1:], strict=True):
        scaled = max(int(np.rint(np.float32(side) * scale)), 1)
        kept = min(scaled, canvas)
        start = int(uniform * (scaled - kept + 1))
        taps.append(bilinear_taps(side, scaled, side / scaled).cropped(start, kept))
    return taps[0], taps[1]
