"""Replay of the golden images: the official `Resize`, `LargeScaleJitter`, `RandomHFlip` and `ResizeVOS`.

Goldens hold float canvases; ours hold rounded images and binary masks. Compared are the floats that the
canvas was made of, and wherever it is not their rounding, the canvas itself.
"""

import numpy as np

from segic_jax.data.augment import OFFICIAL_SCALES, flip, jitter_windows, jittered_taps, large_scale_jitter
from segic_jax.data.preprocess import (
    PADDING,
    CanvasImage,
    Taps,
    fitted_taps,
    resample,
    resample_image,
    resize_and_pad,
)
from segic_jax.parity.goldens import Goldens
from segic_jax.parity.table import IMAGES, Checker, channels_first, channels_last

_tie = 1e-2  # a mask's value this close to its threshold (of 255) may fall to either side by rounding
_OPENCV = 1e-2  # of 255: how far OpenCV's float32, which the jitter uses, is from the exact value at most


def replay_preprocess(golden: Goldens, check: Checker, dtype) -> None:
    """`preprocess.npz`; this part runs in numpy, whatever the dtype of the model."""
    for i in range(int(check.input("in.n_resize"))):
        image, label = check.input(f"in.resize.{i}.image"), check.input(f"in.resize.{i}.label")
        canvas = check.input(f"out.resize.{i}.image").shape[-1]
        placed = resize_and_pad(channels_last(image), label > 127, canvas)
        height, width = image.shape[1:]
        _check_placed(check, f"out.resize.{i}", image, label, placed, fitted_taps(height, width, canvas))

    for i in range(int(check.input("in.n_lsj"))):
        image, label = check.input(f"in.lsj.{i}.image"), check.input(f"in.lsj.{i}.label")
        canvas = check.input(f"out.lsj.{i}.image").shape[-1]
        draws = [check.input(f"in.lsj.{i}.{name}").ravel() for name in ("u_scale", "u_offset")]
        uniforms = np.concatenate(draws).astype(np.float64)
        placed = large_scale_jitter(channels_last(image), label > 127, canvas, uniforms)
        how = (*image.shape[1:], canvas, uniforms, OFFICIAL_SCALES)
        _check_placed(check, f"out.lsj.{i}", image, label, placed, jittered_taps(*how), _OPENCV)
        check.equal(f"out.lsj.{i}.offsets", [window.start for window in jitter_windows(*how)])

    for i in range(int(check.input("in.n_flip"))):
        image, label = check.input(f"in.resize.{i}.image"), check.input(f"in.resize.{i}.label")
        flipped, masks = flip(channels_last(image), label > 127, check.input("in.flip_u")[i])
        check.equal(f"out.flip.{i}.image", channels_first(flipped))
        check.equal(f"out.flip.{i}.label", masks * 255)

    _check_video(check)


def _check_placed(
    check: Checker,
    name: str,
    image: np.ndarray,
    label: np.ndarray,
    placed: CanvasImage,
    taps: tuple[Taps, Taps],
    stored_within: float = 0.0,
) -> None:
    """One image [3, h, w] and its masks [n, h, w], both 0..255.

    Compared are the exact values at the positions of the production code; what it stores must be their
    rounding, or that of values closer than `stored_within` to them.
    """
    ours = channels_first(resample_image(channels_last(image), *taps))
    check.close(f"{name}.image", _image(ours, placed, stored_within), IMAGES)
    check.close(f"{name}.label", _masks(resample(label, *taps), placed), IMAGES)
    check.equal(f"{name}.ori_size", placed.size)


def _check_video(check: Checker) -> None:
    """`ResizeVOS` is `Resize` of every frame, the masks going with the first one."""
    frames, label = check.input("in.vos.images"), check.input("in.vos.inst_masks")
    canvas = check.input("out.vos.images").shape[-1]
    height, width = frames.shape[2:]
    taps = fitted_taps(height, width, canvas)
    placed = [resize_and_pad(channels_last(frame), label > 127, canvas) for frame in frames]
    ours = [_image(one, canvas_of) for one, canvas_of in zip(resample(frames, *taps), placed, strict=True)]
    check.close("out.vos.images", np.stack(ours), IMAGES)
    check.close("out.vos.inst_masks", _masks(resample(label, *taps), placed[0]), IMAGES)
    check.equal("out.vos.ori_size", placed[0].size)


def _image(floats: np.ndarray, placed: CanvasImage, within: float = 0.0) -> np.ndarray:
    """[3, rows, columns] padded to the canvas; the stored canvas where it is not the rounding of that."""
    stored = channels_first(placed.image).astype(np.float32)
    floats = _padded(floats, len(placed.image), PADDING)
    return np.where(abs(stored - floats) <= 0.5 + within, floats, stored)


def _masks(floats: np.ndarray, placed: CanvasImage) -> np.ndarray:
    """[masks, rows, columns], 0..255, likewise; the stored masks are value > half."""
    floats = _padded(floats, len(placed.image), 0)
    agree = (placed.masks == (floats > 127.5)) | (abs(floats - 127.5) < _tie)
    return np.where(agree, floats, placed.masks * np.float32(255))


def _padded(floats: np.ndarray, canvas: int, value: int) -> np.ndarray:
    rows, columns = floats.shape[-2:]
    return np.pad(floats, [(0, 0), (0, canvas - rows), (0, canvas - columns)], constant_values=value)
