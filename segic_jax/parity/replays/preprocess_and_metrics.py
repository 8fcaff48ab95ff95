"""Replay what runs in numpy: preprocessing and augmentation of images, and the scores.

Goldens hold float canvases, while this project stores rounded images and binary masks. Compared are the
floats from which the canvas was made, or the canvas itself wherever it is not their rounding.
"""

from collections.abc import Iterable

import jax
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
from segic_jax.evaluate import metrics, video_metrics
from segic_jax.evaluate.metrics import ClassCounts
from segic_jax.evaluate.protocols import to_image_size
from segic_jax.evaluate.video_metrics import Video
from segic_jax.parity.checker import IMAGES, Checker, channels_first, channels_last
from segic_jax.parity.golden_files import Goldens

_TIE = 1e-2  # of 255: a mask value this close to the threshold may fall to either side by rounding
_OPENCV = 1e-2  # of 255: the largest error of OpenCV's float32, which the jitter uses
_FLOAT64 = 1e-9  # rounding of sums of up to 100 % in another order
_FLOAT32 = 1e-7  # rounding of a ratio in 0..1 that the official code computes in float32
_FLOAT32_MEAN = 5e-5  # rounding of a mean of percentages, whose spacing is up to 8e-6


def replay_preprocess(goldens: Goldens, check: Checker, dtype: jax.typing.DTypeLike) -> None:
    """Check preprocess.npz: the official `Resize`, `LargeScaleJitter`, `RandomHFlip` and `ResizeVOS`."""
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
    """Check one image [3, h, w] and its masks [n, h, w], both 0..255.

    Compared are the exact values at the sampling positions of the production code; the pixels that it stores
    must be their rounding, or that of values within `stored_within` of them.
    """
    ours = channels_first(resample_image(channels_last(image), *taps))
    check.close(f"{name}.image", _image(ours, placed, stored_within), IMAGES)
    check.close(f"{name}.label", _masks(resample(label, *taps), placed), IMAGES)
    check.equal(f"{name}.ori_size", placed.size)


def _check_video(check: Checker) -> None:
    """Check `ResizeVOS`: `Resize` of every frame, and of the masks with the first frame."""
    frames, label = check.input("in.vos.images"), check.input("in.vos.inst_masks")
    canvas = check.input("out.vos.images").shape[-1]
    height, width = frames.shape[2:]
    taps = fitted_taps(height, width, canvas)
    placed = [resize_and_pad(channels_last(frame), label > 127, canvas) for frame in frames]
    ours = [_image(floats, frame) for floats, frame in zip(resample(frames, *taps), placed, strict=True)]
    check.close("out.vos.images", np.stack(ours), IMAGES)
    check.close("out.vos.inst_masks", _masks(resample(label, *taps), placed[0]), IMAGES)
    check.equal("out.vos.ori_size", placed[0].size)


def _image(floats: np.ndarray, placed: CanvasImage, within: float = 0.0) -> np.ndarray:
    """Pad [3, rows, columns] to the canvas; use the stored canvas where it is not the rounding of that."""
    stored = channels_first(placed.image).astype(np.float32)
    floats = _padded(floats, len(placed.image), PADDING)
    return np.where(abs(stored - floats) <= 0.5 + within, floats, stored)


def _masks(floats: np.ndarray, placed: CanvasImage) -> np.ndarray:
    """Pad [masks, rows, columns], 0..255, likewise; the stored masks are True above 127.5."""
    floats = _padded(floats, len(placed.image), 0)
    agree = (placed.masks == (floats > 127.5)) | (abs(floats - 127.5) < _TIE)
    return np.where(agree, floats, placed.masks * np.float32(255))


def _padded(floats: np.ndarray, canvas: int, value: int) -> np.ndarray:
    rows, columns = floats.shape[-2:]
    return np.pad(floats, [(0, 0), (0, canvas - rows), (0, canvas - columns)], constant_values=value)


def replay_metrics(goldens: Goldens, check: Checker, dtype: jax.typing.DTypeLike) -> None:
    """Check metrics.npz: IoU and boundary IoU of images, mIoU of classes, J and F of videos."""
    _replay_images(check)
    _replay_videos(check)


def _replay_images(check: Checker) -> None:
    """Check the scores of images; logits are resized to the label's size as in evaluation."""
    pairs = []
    for i in range(int(check.input("in.n"))):
        logits, label = check.input(f"in.logits.{i}")[0, 0], check.input(f"in.label.{i}")[0, 0]
        pairs.append((to_image_size(logits, logits.shape, label.shape) > 0, label > 128))
    sums = np.array([metrics.intersection_union(*pair) for pair in pairs], np.int64).reshape(-1, 2)
    check.equal("out.intersection", sums[:, 0])
    check.equal("out.union", sums[:, 1])
    check.close("out.mask_iou", [metrics.mask_iou(*pair) for pair in pairs], _FLOAT32)
    check.close("out.boundary_iou", [metrics.boundary_iou(*pair) for pair in pairs], _FLOAT32)

    counts = ClassCounts(check.input("in.class_id"), sums[:, 0], sums[:, 1])
    summed = metrics.class_sums(counts)
    check.equal("out.valid_ids", summed.classes)
    check.equal("out.class_intersection", summed.intersection.astype(np.float32))
    check.equal("out.class_union", summed.union.astype(np.float32))
    check.close("out.miou", metrics.mean_iou(counts), _FLOAT32_MEAN)


def _replay_videos(check: Checker) -> None:
    """Check the scores of videos; lists of objects take their official order, that of Python sets."""
    videos = []
    for v in range(int(check.input("in.jf.n_videos"))):
        video = Video(f"v{v}", check.input(f"in.jf.gt.{v}"), check.input(f"in.jf.pred.{v}"))
        videos.append(video)
        scores = video_metrics.score_video(video.truth, video.prediction)
        name = f"out.jf.{v}"
        ids = _sort_like(check.input(f"{name}.object_ids").tolist(), scores)
        check.equal(f"{name}.object_ids", ids)
        check.equal(f"{name}.frames_counted", [len(scores[i].j_frames) for i in ids])
        for i in ids:
            check.close(f"{name}.frame_j.{i}", scores[i].j_frames, _FLOAT64)
            check.close(f"{name}.frame_f.{i}", scores[i].f_frames, _FLOAT64)
        in_truth = (i for i in ids if scores[i].in_truth)
        in_truth = _sort_like(check.input(f"{name}.gt_ids").tolist(), in_truth)
        check.equal(f"{name}.gt_ids", in_truth)
        check.close(f"{name}.j", [scores[i].j for i in in_truth], _FLOAT64)
        check.close(f"{name}.f", [scores[i].f for i in in_truth], _FLOAT64)

    # The official tool reads the videos in the order of their names.
    result = video_metrics.score_videos(sorted(videos, key=lambda video: video.name))
    for score in ("jf", "j", "f"):
        check.close(f"out.benchmark.{score}", getattr(result, score), _FLOAT64)
    lines = video_metrics.official_csv(result).splitlines(keepends=True)
    official = str(check.input("out.benchmark.csv")).splitlines(keepends=True)
    check.equal("out.benchmark.csv", "".join(_sort_like(official, lines)))


def _sort_like(order: list, items: Iterable) -> list:
    """Sort items as in `order`; items that are not in it come last."""
    rank = {item: number for number, item in enumerate(order)}
    return sorted(items, key=lambda item: rank.get(item, len(rank)))
