"""Replay of the golden scores: IoU and boundary IoU of images, mIoU of classes, J and F of videos."""

from collections.abc import Iterable

import numpy as np

from segic_jax.evaluate import metrics, video_metrics
from segic_jax.evaluate.metrics import ClassCounts
from segic_jax.evaluate.protocols import to_image_size
from segic_jax.evaluate.video_metrics import Video
from segic_jax.parity.goldens import Goldens
from segic_jax.parity.table import Checker

_float64 = 1e-9  # rounding of sums in another order, up to 100 per cent
_float32 = 1e-7  # rounding of a ratio 0..1 that the official code computes in float32
_float32_mean = 5e-5  # of percentages, whose spacing is up to 8e-6


def replay_metrics(golden: Goldens, check: Checker, dtype) -> None:
    """`metrics.npz`; this part runs in numpy, whatever the dtype of the model."""
    _replay_images(check)
    _replay_videos(check)


def _replay_images(check: Checker) -> None:
    """Sums of pixels are equal; logits are brought to the label's size as in evaluation."""
    pairs = []
    for i in range(int(check.input("in.n"))):
        logits, label = check.input(f"in.logits.{i}")[0, 0], check.input(f"in.label.{i}")[0, 0]
        pairs.append((to_image_size(logits, logits.shape, label.shape) > 0, label > 128))
    sums = np.array([metrics.intersection_union(*pair) for pair in pairs], np.int64).reshape(-1, 2)
    check.equal("out.intersection", sums[:, 0])
    check.equal("out.union", sums[:, 1])
    check.close("out.mask_iou", [metrics.mask_iou(*pair) for pair in pairs], _float32)
    check.close("out.boundary_iou", [metrics.boundary_iou(*pair) for pair in pairs], _float32)

    counts = ClassCounts(check.input("in.class_id"), sums[:, 0], sums[:, 1])
    summed = metrics.class_sums(counts)
    check.equal("out.valid_ids", summed.classes)
    check.equal("out.class_intersection", summed.intersection.astype(np.float32))
    check.equal("out.class_union", summed.union.astype(np.float32))
    check.close("out.miou", metrics.mean_iou(counts), _float32_mean)


def _replay_videos(check: Checker) -> None:
    """The official lists of objects are in the order of Python sets, which says nothing: theirs is taken."""
    videos = []
    for v in range(int(check.input("in.jf.n_videos"))):
        video = Video(f"v{v}", check.input(f"in.jf.gt.{v}"), check.input(f"in.jf.pred.{v}"))
        videos.append(video)
        scores = video_metrics.score_video(video.truth, video.prediction)
        name = f"out.jf.{v}"
        seen = _ordered_as(check.input(f"{name}.object_ids").tolist(), scores)
        check.equal(f"{name}.object_ids", seen)
        check.equal(f"{name}.frames_counted", [len(scores[i].j_frames) for i in seen])
        for i in seen:
            check.close(f"{name}.frame_j.{i}", scores[i].j_frames, _float64)
            check.close(f"{name}.frame_f.{i}", scores[i].f_frames, _float64)
        in_truth = (i for i in seen if scores[i].in_truth)
        in_truth = _ordered_as(check.input(f"{name}.gt_ids").tolist(), in_truth)
        check.equal(f"{name}.gt_ids", in_truth)
        check.close(f"{name}.j", [scores[i].j for i in in_truth], _float64)
        check.close(f"{name}.f", [scores[i].f for i in in_truth], _float64)

    # The official tool reads the videos from folders, in the order of their names.
    result = video_metrics.score_videos(sorted(videos, key=lambda video: video.name))
    for score in ("jf", "j", "f"):
        check.close(f"out.benchmark.{score}", getattr(result, score), _float64)
    lines = video_metrics.official_csv(result).splitlines(keepends=True)
    official = str(check.input("out.benchmark.csv")).splitlines(keepends=True)
    check.equal("out.benchmark.csv", "".join(_ordered_as(official, lines)))


def _ordered_as(order: list, items: Iterable) -> list:
    """The items in the given order, those that are not in it at the end."""
    place = {item: number for number, item in enumerate(order)}
    return sorted(items, key=lambda item: place.get(item, len(place)))
