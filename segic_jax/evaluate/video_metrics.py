"""J and F of the DAVIS protocol: maps of object numbers in, scores of objects, videos and whole sets out.

J is the IoU of an object's region, F the F-measure of its outline. The conventions are those of the tool
that the official code calls (train.py:473-510, vos_benchmark/evaluator.py). Frames are read once, in order.
"""

from collections.abc import Iterable, Iterator
from itertools import islice, pairwise, zip_longest
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Integer, UInt8

from segic_jax.errors import InputError

ObjectMap = Integer[np.ndarray, "height width"]  # 0 is background, any other number is an object

NEAR = 0.008  # outlines agree where they are this close, as a part of the diagonal


class ObjectScore(NamedTuple):
    """One object in one video, 0..1 in each frame from `first` on."""

    j_frames: list[float]
    f_frames: list[float]
    first: int  # the frame where truth or prediction has it first; earlier frames do not count
    in_truth: bool  # in any counted frame; an object that is only predicted has no part in a score_videos

    @property
    def j(self) -> float:
        """Mean over frames, in per cent."""
        return float(np.mean(self.j_frames) * 100)

    @property
    def f(self) -> float:
        """Mean over frames, in per cent."""
        return float(np.mean(self.f_frames) * 100)


class Video(NamedTuple):
    """Frames in order, as an array [frames, height, width] or anything that yields them one by one."""

    name: str
    truth: Iterable[ObjectMap]
    prediction: Iterable[ObjectMap]


class ObjectRow(NamedTuple):
    """A line of a benchmark's table; scores in per cent."""

    video: str
    object_id: int
    jf: float
    j: float
    f: float


class VideoScores(NamedTuple):
    """Means over all objects of all videos, in per cent; NaN where there is no object."""

    jf: float
    j: float
    f: float
    objects: list[ObjectRow]
    videos: list[str]  # all names, also of those without an object


def video_scores(truth: Iterable[ObjectMap], prediction: Iterable[ObjectMap]) -> dict[int, ObjectScore]:
    """Scores of every object that either side has, by object number in rising order.

    Raises:
        ValueError: the two have different numbers of frames, or frames of different sizes.
    """
    j, f, first = {}, {}, {}
    in_truth = set()
    for number, (true, predicted) in enumerate(zip_longest(truth, prediction)):
        if true is None or predicted is None:
            raise ValueError(f"the {'truth' if true is None else 'prediction'} ends after {number} frames")
        if true.shape != predicted.shape:
            raise ValueError(f"frame {number}: truth is {true.shape} pixels, prediction {predicted.shape}")
        present = set(np.unique(true).tolist()) - {0}
        in_truth |= present
        for new in (present | set(np.unique(predicted).tolist())) - {0} - set(first):
            j[new], f[new], first[new] = [], [], number
        if first:
            sides = (np.array([frame == one for one in first]) for frame in (true, predicted))
            scores = frame_scores(*sides)
            for seen, region, contour in zip(first, *scores, strict=True):
                j[seen].append(float(region))
                f[seen].append(float(contour))
    return {seen: ObjectScore(j[seen], f[seen], first[seen], seen in in_truth) for seen in sorted(first)}


def frame_scores(
    truth: Bool[np.ndarray, "objects height width"], prediction: Bool[np.ndarray, "objects height width"]
) -> tuple[np.ndarray, np.ndarray]:
    """J and F of each object in one frame, 0..1; both 1 where it is on neither side."""
    union = (truth | prediction).sum((1, 2))
    j = np.where(union, (truth & prediction).sum((1, 2)) / np.maximum(union, 1), 1.0)

    outlines, found = outline(truth), outline(prediction)
    disk = disk_kernel(int(np.ceil(NEAR * np.hypot(*truth.shape[1:]))))
    total, total_found = outlines.sum((1, 2)), found.sum((1, 2))
    precision = (found & _dilated(outlines, disk)).sum((1, 2)) / np.maximum(total_found, 1)
    recall = (outlines & _dilated(found, disk)).sum((1, 2)) / np.maximum(total, 1)
    # An outline on one side only leaves both at 0, hence F too.
    f = 2 * precision * recall / np.where(precision + recall > 0, precision + recall, 1)
    return j, np.where((total == 0) & (total_found == 0), 1.0, f)


def outline(masks: Bool[np.ndarray, "*masks height width"]) -> Bool[np.ndarray, "*masks height width"]:
    """Pixels unlike the one on the right, below, or right below (utils.py:5-64); the border is no change."""
    padded = np.pad(masks, [(0, 0)] * (masks.ndim - 2) + [(0, 1), (0, 1)], mode="edge")
    here = padded[..., :-1, :-1]
    return (here != padded[..., :-1, 1:]) | (here != padded[..., 1:, :-1]) | (here != padded[..., 1:, 1:])


def disk_kernel(radius: int) -> UInt8[np.ndarray, "size size"]:
    """1 within `radius` of the centre, borders included."""
    offset = np.arange(-radius, radius + 1)
    return (offset[:, None] ** 2 + offset**2 <= radius**2).astype(np.uint8)


def _dilated(masks: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return np.array([cv2.dilate(mask.astype(np.uint8), kernel) > 0 for mask in masks])


def score_videos(videos: Iterable[Video], *, skip_ends: bool = True) -> VideoScores:
    """J&F over a set of videos.

    Args:
        skip_ends: leave out the first frame, which is given, and the last (DAVIS, semi-supervised).

    Raises:
        ValueError: as `video_scores`, with the video's name before it.
    """
    names, rows = [], []
    for name, truth, prediction in videos:
        names.append(name)
        if skip_ends:
            truth, prediction = _without_ends(truth), _without_ends(prediction)
        try:
            scores = video_scores(truth, prediction)
        except InputError:  # of a frame that cannot be read
            raise
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        for object_id, score in scores.items():
            if score.in_truth:
                rows.append(ObjectRow(name, object_id, (score.j + score.f) / 2, score.j, score.f))
    j = float(np.mean([row.j for row in rows])) if rows else float("nan")
    f = float(np.mean([row.f for row in rows])) if rows else float("nan")
    return VideoScores((j + f) / 2, j, f, rows, names)


def _without_ends(frames: Iterable[ObjectMap]) -> Iterator[ObjectMap]:
    for frame, _ in pairwise(islice(frames, 1, None)):
        yield frame


def to_csv(result: VideoScores) -> str:
    """The table as the official tool writes it (vos_benchmark/benchmark.py)."""
    width = max(len(name) for name in (*result.videos, "Global score"))
    lines = [f"{'sequence':<{width}},obj,  J&F,    J,    F"]
    lines.append(f"{'Global score':<{width}},   , {result.jf:.1f}, {result.j:.1f}, {result.f:.1f}")
    for video, object_id, jf, j, f in result.objects:
        lines.append(f"{video:<{width}},{object_id:03}, {jf:>4.1f}, {j:>4.1f}, {f:>4.1f}")
    return "\n".join(lines) + "\n"
